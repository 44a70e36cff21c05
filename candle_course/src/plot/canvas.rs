//! A small writer of SVG.

use std::fmt::Write;

use base64::Engine;

use super::text::{self, RAISED};

/// Where a text stands relative to its point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// How a text looks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Style {
    pub size: f64,
    pub color: &'static str,
    pub bold: bool,
    pub anchor: Anchor,
    /// Degrees, clockwise, around the text's point.
    pub angle: i32,
    /// How long the text must be, in whatever font the viewer has.
    pub length: Option<f64>,
}

impl Style {
    pub fn new(size: f64) -> Self {
        Self { size, color: super::palette::TEXT, bold: false, anchor: Anchor::Start, angle: 0, length: None }
    }

    pub fn color(self, color: &'static str) -> Self {
        Self { color, ..self }
    }

    pub fn bold(self) -> Self {
        Self { bold: true, ..self }
    }

    pub fn middle(self) -> Self {
        Self { anchor: Anchor::Middle, ..self }
    }

    pub fn end(self) -> Self {
        Self { anchor: Anchor::End, ..self }
    }

    pub fn turned(self, angle: i32) -> Self {
        Self { angle, ..self }
    }

    pub fn length(self, length: f64) -> Self {
        Self { length: Some(length), ..self }
    }
}

/// The body of an SVG being written. Lengths are in pixels, y grows downwards.
#[derive(Debug, Default)]
pub(super) struct Canvas {
    body: String,
}

/// At most two decimals, without trailing zeros.
pub(super) fn number(value: f64) -> String {
    let rounded = (value * 100.0).round() / 100.0;
    if rounded == 0.0 { "0".into() } else { format!("{rounded}") }
}

/// One decimal, for the many points of a curve.
fn short(value: f64) -> String {
    let rounded = (value * 10.0).round() / 10.0;
    if rounded == 0.0 { "0".into() } else { format!("{rounded}") }
}

pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            // XML has no place for other control characters.
            c if c.is_control() => escaped.push(' '),
            c => escaped.push(c),
        }
    }
    escaped
}

macro_rules! put {
    ($canvas:expr, $($part:tt)*) => {
        // Writing to a `String` cannot fail.
        let _ = write!($canvas.body, $($part)*);
    };
}

impl Canvas {
    pub fn into_body(self) -> String {
        self.body
    }

    pub fn line(&mut self, (x1, y1): (f64, f64), (x2, y2): (f64, f64), color: &str, width: f64, dash: &str) {
        let [x1, y1, x2, y2, width] = [x1, y1, x2, y2, width].map(number);
        put!(self, r#"<path d="M{x1} {y1}L{x2} {y2}" stroke="{color}" stroke-width="{width}" fill="none""#);
        if !dash.is_empty() {
            put!(self, r#" stroke-dasharray="{dash}""#);
        }
        self.body.push_str("/>");
    }

    /// `extra` holds further attributes, with a leading space.
    pub fn rect(&mut self, (x, y): (f64, f64), (width, height): (f64, f64), fill: &str, extra: &str) {
        let [x, y, width, height] = [x, y, width, height].map(number);
        put!(self, r#"<rect x="{x}" y="{y}" width="{width}" height="{height}" fill="{fill}"{extra}/>"#);
    }

    pub fn polyline(&mut self, points: &[(f64, f64)], color: &str, width: f64, dash: &str) {
        put!(
            self,
            r#"<polyline fill="none" stroke="{color}" stroke-width="{}" stroke-linejoin="round""#,
            number(width)
        );
        if !dash.is_empty() {
            put!(self, r#" stroke-dasharray="{dash}""#);
        }
        self.body.push_str(" points=\"");
        self.coordinates(points);
        self.body.push_str("\"/>");
    }

    pub fn polygon(&mut self, points: &[(f64, f64)], fill: &str, opacity: f64) {
        put!(self, r#"<polygon fill="{fill}" fill-opacity="{opacity}" points=""#);
        self.coordinates(points);
        self.body.push_str("\"/>");
    }

    fn coordinates(&mut self, points: &[(f64, f64)]) {
        for (index, &(x, y)) in points.iter().enumerate() {
            let gap = if index == 0 { "" } else { " " };
            put!(self, "{gap}{},{}", short(x), short(y));
        }
    }

    pub fn circle(&mut self, (x, y): (f64, f64), radius: f64, fill: &str, stroke: &str) {
        let [x, y, radius] = [x, y, radius].map(number);
        put!(self, r#"<circle cx="{x}" cy="{y}" r="{radius}" fill="{fill}" stroke="{stroke}" stroke-width="2"/>"#);
    }

    /// Many discs in one element: round caps on strokes of almost no length.
    pub fn dots(&mut self, points: &[(f64, f64)], radius: f64, color: &str, opacity: f64) {
        if points.is_empty() {
            return;
        }
        let width = number(2.0 * radius);
        put!(
            self,
            r#"<path fill="none" stroke="{color}" stroke-opacity="{opacity}" stroke-width="{width}" stroke-linecap="round" d=""#
        );
        for &(x, y) in points {
            put!(self, "M{} {}h.01", short(x), short(y));
        }
        self.body.push_str("\"/>");
    }

    /// A diagonal cross.
    pub fn cross(&mut self, (x, y): (f64, f64), radius: f64, color: &str) {
        let [left, right, top, bottom] = [x - radius, x + radius, y - radius, y + radius].map(number);
        put!(
            self,
            r#"<path d="M{left} {top}L{right} {bottom}M{left} {bottom}L{right} {top}" stroke="{color}" stroke-width="2" fill="none"/>"#
        );
    }

    pub fn text(&mut self, (x, y): (f64, f64), text: &str, style: Style) {
        if text.is_empty() {
            return;
        }
        let [x, y, size] = [x, y, style.size].map(number);
        put!(self, r#"<text x="{x}" y="{y}" font-size="{size}""#);
        if style.color != super::palette::TEXT {
            put!(self, r#" fill="{}""#, style.color);
        }
        if style.bold {
            self.body.push_str(r#" font-weight="bold""#);
        }
        match style.anchor {
            Anchor::Start => {}
            Anchor::Middle => self.body.push_str(r#" text-anchor="middle""#),
            Anchor::End => self.body.push_str(r#" text-anchor="end""#),
        }
        if let Some(length) = style.length {
            put!(self, r#" textLength="{}" lengthAdjust="spacingAndGlyphs""#, number(length));
        }
        if style.angle != 0 {
            put!(self, r#" transform="rotate({} {x} {y})""#, style.angle);
        }
        self.body.push('>');
        let shift = number(0.4 * style.size);
        let small = number(RAISED * style.size);
        let mut was_raised = false;
        for (part, raised) in text::superscripts(text) {
            let part = escape(part);
            match (raised, was_raised) {
                (true, _) => {
                    put!(self, r#"<tspan dy="-{shift}" font-size="{small}">{}</tspan>"#, part.replace('-', "−"));
                }
                (false, true) => {
                    put!(self, r#"<tspan dy="{shift}">{part}</tspan>"#);
                }
                (false, false) => self.body.push_str(&part),
            }
            was_raised = raised;
        }
        self.body.push_str("</text>");
    }

    /// A PNG, enlarged without smoothing.
    pub fn image(&mut self, (x, y): (f64, f64), (width, height): (f64, f64), png: &[u8]) {
        let [x, y, width, height] = [x, y, width, height].map(number);
        put!(
            self,
            r#"<image x="{x}" y="{y}" width="{width}" height="{height}" preserveAspectRatio="none" style="image-rendering:pixelated" href="data:image/png;base64,"#
        );
        base64::engine::general_purpose::STANDARD.encode_string(png, &mut self.body);
        self.body.push_str("\"/>");
    }

    /// Opens a window that clips what is drawn until [`Canvas::close_window`]; coordinates stay the
    /// same. A nested `svg` needs no id, so that figures in one page cannot disturb each other.
    pub fn open_window(&mut self, (x, y): (f64, f64), (width, height): (f64, f64)) {
        let [x, y, width, height] = [x, y, width, height].map(number);
        put!(
            self,
            r#"<svg x="{x}" y="{y}" width="{width}" height="{height}" viewBox="{x} {y} {width} {height}" overflow="hidden">"#
        );
    }

    pub fn close_window(&mut self) {
        self.body.push_str("</svg>");
    }

    /// Moves and scales what is drawn until [`Canvas::close_group`].
    pub fn open_group(&mut self, (x, y): (f64, f64), scale: f64) {
        let [x, y] = [x, y].map(number);
        put!(self, r#"<g transform="translate({x} {y})"#);
        if scale != 1.0 {
            put!(self, " scale({scale:.4})");
        }
        self.body.push_str("\">");
    }

    pub fn close_group(&mut self) {
        self.body.push_str("</g>");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        assert_eq!(number(1.0), "1");
        assert_eq!(number(-0.001), "0");
        assert_eq!(number(12.3456), "12.35");
        assert_eq!(short(12.3456), "12.3");
    }

    #[test]
    fn text_is_escaped_and_raised() {
        let mut canvas = Canvas::default();
        canvas.text((1.0, 2.0), "a<b & 10^{-3}x", Style::new(10.0).middle());
        assert_eq!(
            canvas.into_body(),
            "<text x=\"1\" y=\"2\" font-size=\"10\" text-anchor=\"middle\">a&lt;b &amp; 10\
             <tspan dy=\"-4\" font-size=\"7.5\">−3</tspan><tspan dy=\"4\">x</tspan></text>"
        );
        assert_eq!(escape("tab\there \u{1}"), "tab here  ");
    }
}
