//! The SVG that plotters draws into.
//!
//! A backend of our own: that of plotters writes a tag of a hundred bytes for every mark, guesses the
//! width of text, and has neither superscripts nor slanted labels nor images.

use std::convert::Infallible;
use std::fmt::Write;
use std::iter::{Once, once};

use base64::Engine;
use plotters::element::{Drawable, PointCollection};
use plotters::style::text_anchor::{HPos, VPos};
use plotters::style::{Color, RGBColor};
use plotters_backend::{
    BackendColor, BackendCoord, BackendStyle, BackendTextStyle, DrawingBackend, DrawingErrorKind, FontStyle,
    FontTransform,
};

use super::palette::TEXT;
use super::raster;
use super::text::{self, RAISED};
use crate::text::xml;

type Drawn = Result<(), DrawingErrorKind<Infallible>>;

/// Sizes of fonts in plotters are those of a line: a letter is smaller by this factor.
pub(super) const LINE: f64 = 1.24;

/// What [plotters](crate::plotters) draws into to become a [`Figure`](super::Figure): one meets it as
/// the backend of the [`Area`](super::Area) that [`Figure::draw`](super::Figure::draw) hands out.
///
/// Neighbouring marks of one style share one element, curves lose the points that cannot be told
/// apart, and text is measured with the font it is drawn with. Whatever family a text asks for, it
/// is drawn in the figures' own; `10^{-3}` is drawn with its exponent raised.
#[derive(Debug, Default)]
pub struct Svg {
    size: (u32, u32),
    /// Units of length per pixel: plotters knows whole units only.
    unit: u32,
    body: String,
    /// The element that is still open for more of the same style, and what ends it.
    opening: String,
    closing: &'static str,
    pen: BackendCoord,
    /// Texts that wait until the open element is closed: they lie above it.
    texts: String,
    texts_opening: String,
}

/// A text and how it looks.
#[derive(Clone)]
pub(super) struct Words<'a> {
    pub text: &'a str,
    /// Of the letters, in units.
    pub size: f64,
    pub color: BackendColor,
    pub bold: bool,
    pub anchor: HPos,
    /// Degrees, clockwise, around the text's point.
    pub angle: i32,
    /// How long the text must be, in whatever font the viewer has.
    pub length: Option<f64>,
}

impl<'a> Words<'a> {
    pub fn new(text: &'a str, size: f64) -> Self {
        let color = TEXT.to_backend_color();
        Self { text, size, color, bold: false, anchor: HPos::Center, angle: 0, length: None }
    }

    pub fn color(self, color: RGBColor) -> Self {
        Self { color: color.to_backend_color(), ..self }
    }
}

/// An element that is drawn by what only [`Svg`] can do, at one point.
pub(super) struct Own<F>(pub BackendCoord, pub F);

impl<'a, F> PointCollection<'a, BackendCoord> for &'a Own<F> {
    type Point = BackendCoord;
    type IntoIter = Once<BackendCoord>;
    fn point_iter(self) -> Self::IntoIter {
        once(self.0)
    }
}

impl<F: Fn(&mut Svg, BackendCoord)> Drawable<Svg> for Own<F> {
    fn draw<I: Iterator<Item = BackendCoord>>(&self, points: I, svg: &mut Svg, _: (u32, u32)) -> Drawn {
        points.for_each(|point| (self.1)(svg, point));
        Ok(())
    }
}

/// At most two decimals, without trailing zeros.
pub(super) fn number(value: f64) -> String {
    let rounded = (value * 100.0).round() / 100.0;
    if rounded == 0.0 { "0".into() } else { format!("{rounded}") }
}

fn hex(color: BackendColor) -> String {
    let (r, g, b) = color.rgb;
    if [r, g, b].iter().all(|channel| channel >> 4 == channel & 15) {
        return format!("#{:x}{:x}{:x}", r & 15, g & 15, b & 15);
    }
    format!("#{r:02x}{g:02x}{b:02x}")
}

/// `fill` or `stroke` with its opacity.
fn paint(what: &str, color: BackendColor) -> String {
    let opacity =
        if color.alpha < 1.0 { format!(r#" {what}-opacity="{}""#, number(color.alpha)) } else { String::new() };
    format!(r#" {what}="{}"{opacity}"#, hex(color))
}

/// The points without those that lie closer than `tolerance` to the line through the others (Douglas
/// and Peucker, 1973): points on whole units make stairs of a gentle slope.
fn simplified(points: &[BackendCoord], tolerance: f64) -> Vec<BackendCoord> {
    let mut keep = vec![false; points.len()];
    let mut parts = vec![(0, points.len().saturating_sub(1))];
    while let Some((first, last)) = parts.pop() {
        (keep[first], keep[last]) = (true, true);
        let (a, b) = (points[first], points[last]);
        let along = (f64::from(b.0 - a.0), f64::from(b.1 - a.1));
        let length = along.0.hypot(along.1);
        let distance = |p: BackendCoord| {
            let off = (f64::from(p.0 - a.0), f64::from(p.1 - a.1));
            if length == 0.0 { off.0.hypot(off.1) } else { (off.0 * along.1 - off.1 * along.0).abs() / length }
        };
        let far = (first + 1..last).map(|i| (distance(points[i]), i)).max_by(|a, b| a.0.total_cmp(&b.0));
        if let Some((_, middle)) = far.filter(|(distance, _)| *distance > tolerance) {
            parts.extend([(first, middle), (middle, last)]);
        }
    }
    points.iter().zip(keep).filter(|(_, keep)| *keep).map(|(point, _)| *point).collect()
}

impl Svg {
    pub(super) fn new(size: (u32, u32), unit: u32) -> Self {
        Self { size: (size.0 * unit, size.1 * unit), unit, ..Self::default() }
    }

    pub(super) fn into_body(mut self) -> String {
        self.end();
        self.body
    }

    /// Opens an element, unless it is the one that is open; says whether it is new.
    fn begin(&mut self, opening: String, closing: &'static str) -> bool {
        if self.opening == opening {
            return false;
        }
        self.end();
        self.body.push_str(&opening);
        (self.opening, self.closing) = (opening, closing);
        true
    }

    fn end(&mut self) {
        self.body.push_str(self.closing);
        (self.opening, self.closing) = (String::new(), "");
        if !self.texts.is_empty() {
            self.body.push_str(&self.texts);
            self.body.push_str("</g>");
            (self.texts, self.texts_opening) = (String::new(), String::new());
        }
    }

    fn number(&mut self, value: i32) {
        if value >= 0 && self.body.ends_with(|c: char| c.is_ascii_digit()) {
            self.body.push(' ');
        }
        // Writing to a `String` cannot fail.
        let _ = write!(self.body, "{value}");
    }

    /// Adds a line through points to a path of that style, in steps from point to point.
    fn path(&mut self, style: String, points: &[BackendCoord], close: bool) {
        let Some(&first) = points.first() else { return };
        if self.begin(format!("<path{style} d=\""), "\"/>") {
            self.body.push('M');
            self.pen = (0, 0);
        } else {
            self.body.push('m');
        }
        self.number(first.0 - self.pen.0);
        self.number(first.1 - self.pen.1);
        self.pen = first;
        let mut last = ' ';
        for &(x, y) in &points[1..] {
            let (dx, dy) = (x - self.pen.0, y - self.pen.1);
            let command = match (dx, dy) {
                (0, 0) => continue,
                (_, 0) => 'h',
                (0, _) => 'v',
                _ => 'l',
            };
            if command != last {
                self.body.push(command);
                last = command;
            }
            if dx != 0 {
                self.number(dx);
            }
            if dy != 0 {
                self.number(dy);
            }
            self.pen = (x, y);
        }
        if close {
            self.body.push('z');
            self.pen = first;
        }
    }

    fn stroke<S: BackendStyle>(style: &S) -> String {
        format!(r#" fill="none"{} stroke-width="{}""#, paint("stroke", style.color()), style.stroke_width())
    }

    /// A text at a point of its baseline.
    pub(super) fn words(&mut self, (x, y): (f64, f64), words: &Words<'_>) {
        if words.text.is_empty() || words.color.alpha == 0.0 {
            return;
        }
        let mut style = format!(r#"<g font-size="{}""#, number(words.size));
        if words.color.rgb != TEXT.rgb() || words.color.alpha < 1.0 {
            style.push_str(&paint("fill", words.color));
        }
        if words.bold {
            style.push_str(r#" font-weight="bold""#);
        }
        style.push_str(match words.anchor {
            HPos::Left => ">",
            HPos::Center => r#" text-anchor="middle">"#,
            HPos::Right => r#" text-anchor="end">"#,
        });
        if self.texts_opening != style {
            self.texts.push_str(if self.texts.is_empty() { "" } else { "</g>" });
            self.texts.push_str(&style);
            self.texts_opening = style;
        }
        let (x, y) = (number(x.round()), number(y.round()));
        let _ = write!(self.texts, r#"<text x="{x}" y="{y}""#);
        if let Some(length) = words.length {
            let _ = write!(self.texts, r#" textLength="{}" lengthAdjust="spacingAndGlyphs""#, number(length));
        }
        if words.angle != 0 {
            let _ = write!(self.texts, r#" transform="rotate({} {x} {y})""#, words.angle);
        }
        self.texts.push('>');
        let (shift, small) = (number(0.4 * words.size), number(RAISED * words.size));
        let mut was_raised = false;
        for (part, raised) in text::superscripts(words.text) {
            let part = xml(part);
            let _ = match (raised, was_raised) {
                (true, _) => {
                    let part = part.replace('-', "−");
                    write!(self.texts, r#"<tspan dy="-{shift}" font-size="{small}">{part}</tspan>"#)
                }
                (false, true) => write!(self.texts, r#"<tspan dy="{shift}">{part}</tspan>"#),
                (false, false) => write!(self.texts, "{part}"),
            };
            was_raised = raised;
        }
        self.texts.push_str("</text>");
    }

    /// A PNG, enlarged without smoothing.
    pub(super) fn image(&mut self, (x, y): BackendCoord, (width, height): (i32, i32), png: &[u8]) {
        self.end();
        let _ = write!(
            self.body,
            r#"<image x="{x}" y="{y}" width="{width}" height="{height}" preserveAspectRatio="none" style="image-rendering:pixelated" href="data:image/png;base64,"#
        );
        base64::engine::general_purpose::STANDARD.encode_string(png, &mut self.body);
        self.body.push_str("\"/>");
    }

    /// SVG as it is.
    pub(super) fn raw(&mut self, svg: &str) {
        self.end();
        self.body.push_str(svg);
    }
}

impl DrawingBackend for Svg {
    type ErrorType = Infallible;

    fn get_size(&self) -> (u32, u32) {
        self.size
    }

    fn ensure_prepared(&mut self) -> Drawn {
        Ok(())
    }

    fn present(&mut self) -> Drawn {
        Ok(())
    }

    fn draw_pixel(&mut self, (x, y): BackendCoord, color: BackendColor) -> Drawn {
        self.draw_rect((x, y), (x + 1, y + 1), &color, true)
    }

    fn draw_line<S: BackendStyle>(&mut self, from: BackendCoord, to: BackendCoord, style: &S) -> Drawn {
        self.draw_path([from, to], style)
    }

    fn draw_rect<S: BackendStyle>(&mut self, from: BackendCoord, to: BackendCoord, style: &S, fill: bool) -> Drawn {
        if style.color().alpha > 0.0 {
            let corners = [from, (to.0, from.1), to, (from.0, to.1)];
            self.path(if fill { paint("fill", style.color()) } else { Self::stroke(style) }, &corners, true);
        }
        Ok(())
    }

    fn draw_path<S: BackendStyle, I: IntoIterator<Item = BackendCoord>>(&mut self, path: I, style: &S) -> Drawn {
        let points: Vec<BackendCoord> = path.into_iter().collect();
        if style.color().alpha > 0.0 && points.len() > 1 {
            let tolerance = (0.2 * f64::from(self.unit)).max(0.7);
            let points = if points.len() > 8 { simplified(&points, tolerance) } else { points };
            self.path(Self::stroke(style), &points, false);
        }
        Ok(())
    }

    fn draw_circle<S: BackendStyle>(&mut self, (x, y): BackendCoord, radius: u32, style: &S, fill: bool) -> Drawn {
        let color = style.color();
        if color.alpha == 0.0 {
            return Ok(());
        }
        if fill {
            // Many discs in one element: round caps on strokes of almost no length.
            let stroke = paint("stroke", color);
            let style =
                format!(r#"<path fill="none"{stroke} stroke-width="{}" stroke-linecap="round" d=""#, 2 * radius);
            self.begin(style, "\"/>");
            let _ = write!(self.body, "M{x} {y}h.1");
        } else {
            self.end();
            let _ = write!(self.body, r#"<circle cx="{x}" cy="{y}" r="{radius}"{}/>"#, Self::stroke(style));
        }
        Ok(())
    }

    fn fill_polygon<S: BackendStyle, I: IntoIterator<Item = BackendCoord>>(&mut self, path: I, style: &S) -> Drawn {
        let points: Vec<BackendCoord> = path.into_iter().collect();
        if style.color().alpha > 0.0 && points.len() > 2 {
            let fine = self.unit > 1 && points.len() > 8;
            let points = if fine { simplified(&points, 0.2 * f64::from(self.unit)) } else { points };
            self.path(paint("fill", style.color()), &points, true);
        }
        Ok(())
    }

    fn draw_text<S: BackendTextStyle>(&mut self, text: &str, style: &S, (x, y): BackendCoord) -> Drawn {
        let size = style.size() / LINE;
        let lower = match style.anchor().v_pos {
            VPos::Top => 0.76,
            VPos::Center => 0.35,
            VPos::Bottom => -0.26,
        } * size;
        let (angle, dx, dy) = match style.transform() {
            FontTransform::None => (0, 0.0, lower),
            FontTransform::Rotate90 => (90, -lower, 0.0),
            FontTransform::Rotate180 => (180, 0.0, -lower),
            FontTransform::Rotate270 => (-90, lower, 0.0),
        };
        let bold = matches!(style.style(), FontStyle::Bold);
        let (color, anchor) = (style.color(), style.anchor().h_pos);
        let words = Words { text, size, color, bold, anchor, angle, length: None };
        self.words((f64::from(x) + dx, f64::from(y) + dy), &words);
        Ok(())
    }

    fn estimate_text_size<S: BackendTextStyle>(
        &self,
        text: &str,
        style: &S,
    ) -> Result<(u32, u32), DrawingErrorKind<Infallible>> {
        let size = style.size() / LINE;
        let width = text::width(text, size, matches!(style.style(), FontStyle::Bold));
        Ok((width.ceil() as u32, size.ceil() as u32))
    }

    fn blit_bitmap(&mut self, at: BackendCoord, (width, height): (u32, u32), rgb: &[u8]) -> Drawn {
        let png = raster::encode(width as usize, height as usize, png::ColorType::Rgb, None, rgb)
            .map_err(|error| DrawingErrorKind::FontError(Box::new(error)))?;
        self.image(at, (width as i32, height as i32), &png);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use plotters::prelude::*;

    use super::*;
    use crate::plot::Figure;

    #[test]
    fn text_is_escaped_and_raised() {
        let mut svg = Svg::new((100, 100), 1);
        svg.words((1.0, 2.0), &Words::new("a<b & 10^{-3}x", 10.0));
        svg.words((1.0, 12.0), &Words::new("same style", 10.0));
        assert_eq!(
            svg.into_body(),
            "<g font-size=\"10\" text-anchor=\"middle\"><text x=\"1\" y=\"2\">a&lt;b &amp; 10\
             <tspan dy=\"-4\" font-size=\"7.5\">−3</tspan><tspan dy=\"4\">x</tspan></text>\
             <text x=\"1\" y=\"12\">same style</text></g>"
        );
        assert_eq!(xml("tab\there \u{1}"), "tab here  ");
        assert_eq!([1.0, -0.001, 12.3456].map(number), ["1", "0", "12.35"]);
    }

    #[test]
    fn marks_of_one_style_share_an_element() {
        let mut svg = Svg::new((100, 100), 1);
        svg.draw_line((10, 20), (10, 50), &RED).unwrap();
        svg.draw_line((12, 20), (15, 18), &RED).unwrap();
        svg.draw_rect((1, 2), (4, 8), &BLUE.mix(0.5), true).unwrap();
        assert_eq!(
            svg.into_body(),
            "<path fill=\"none\" stroke=\"#f00\" stroke-width=\"1\" d=\"M10 20v30m2-30l3-2\"/>\
             <path fill=\"#00f\" fill-opacity=\"0.5\" d=\"M1 2h3v6h-3z\"/>"
        );
    }

    #[test]
    fn stairs_of_whole_units_become_slopes_and_peaks_stay() {
        let mut points: Vec<BackendCoord> = (0..1000).map(|x| (x, x / 7)).collect();
        points[400].1 = 900;
        let kept = simplified(&points, 0.9);
        assert!(kept.len() < 10, "{kept:?}");
        assert!(kept.contains(&(0, 0)) && kept.contains(&(400, 900)) && kept.contains(&points[999]));
    }

    /// Draws what a chart is made of, with another backend and with ours.
    fn specimen<DB: DrawingBackend>(area: &DrawingArea<DB, plotters::coord::Shift>)
    where
        DB::ErrorType: 'static,
    {
        area.fill(&WHITE).unwrap();
        let mut chart = ChartBuilder::on(area).margin(10).build_cartesian_2d(0f64..10.0, 0f64..1.0).unwrap();
        chart.configure_mesh().disable_axes().draw().unwrap();
        let wave = |x: f64| (x, 0.5 + 0.4 * x.sin());
        chart.draw_series(AreaSeries::new((0..=50).map(|i| wave(f64::from(i) / 5.0)), 0.0, BLUE.mix(0.2))).unwrap();
        chart
            .draw_series(LineSeries::new((0..=50).map(|i| wave(f64::from(i) / 5.0)), Color::stroke_width(&RED, 2)))
            .unwrap();
        chart.draw_series((0..10).map(|i| Circle::new(wave(f64::from(i)), 4, BLACK.filled()))).unwrap();
        chart.draw_series((0..10).map(|i| Circle::new(wave(f64::from(i)), 9, BLACK))).unwrap();
        chart.draw_series([Rectangle::new([(1.0, 0.1), (2.0, 0.3)], GREEN.filled())]).unwrap();
        chart.draw_series([ErrorBar::new_vertical(8.0, 0.1, 0.2, 0.4, BLACK, 10)]).unwrap();
        chart.draw_series([Cross::new((5.0, 0.9), 6, MAGENTA)]).unwrap();
    }

    #[test]
    fn plotters_own_backend_paints_the_same_picture() {
        let mut theirs = String::new();
        specimen(&SVGBackend::with_string(&mut theirs, (320, 200)).into_drawing_area());
        let ours = Figure::draw((320, 200), |area| {
            specimen(area);
            Ok(())
        })
        .unwrap();
        let (expected, ..) = raster::pixels(&theirs, 1.0).unwrap();
        let (pixels, ..) = raster::pixels(ours.svg(), 1.0).unwrap();
        let differs = |(a, b): (&[u8; 3], &[u8; 3])| (0..3).any(|c| a[c].abs_diff(b[c]) > 96);
        let different = expected.iter().zip(&pixels).filter(|&(a, b)| differs((a, b))).count();
        assert!(different < expected.len() / 200, "{different} of {} pixels differ", expected.len());
        let drawn = expected.iter().filter(|pixel| **pixel != [255; 3]).count();
        assert!(drawn > 5000, "{drawn}");
        assert!(2 * ours.svg().len() < theirs.len(), "{} against {}", ours.svg().len(), theirs.len());
    }
}
