//! What is around a plot: title, legend, margins, and the mesh of plotters in the figures' style.

use plotters::chart::{ChartBuilder, ChartContext};
use plotters::coord::CoordTranslate;
use plotters::coord::cartesian::Cartesian2d;
use plotters::drawing::DrawingArea;
use plotters::element::{Circle, Cross, DashedPathElement, PathElement, Rectangle};
use plotters::style::text_anchor::HPos;
use plotters::style::{Color, FontDesc, FontFamily, FontStyle, RGBAColor, RGBColor, ShapeStyle, TextStyle, WHITE};

use super::axis::Axis;
use super::figure::Area;
use super::palette::{AXIS, GRID, MUTED, TEXT};
use super::svg::{LINE, Own, Svg, Words};
use super::text;
use crate::error::Result;
use crate::language::told;

pub(super) const TITLE: f64 = 15.0;
pub(super) const LABEL: f64 = 13.0;
pub(super) const SMALL: f64 = 12.0;
pub(super) const MARGIN: f64 = 12.0;
/// Names are cut where they are longer.
pub(super) const LONGEST: f64 = 130.0;
/// From one row of the legend to the next.
const ROW: f64 = 18.0;

/// Units per pixel in the crate's own charts: plotters knows whole units only.
pub(super) const UNIT: u32 = 10;

/// Pixels in units.
pub(super) fn px(pixels: f64) -> i32 {
    (pixels * f64::from(UNIT)).round() as i32
}

/// Width and height of an area in pixels.
pub(super) fn size(area: &Area) -> (f64, f64) {
    let (width, height) = area.dim_in_pixel();
    (f64::from(width) / f64::from(UNIT), f64::from(height) / f64::from(UNIT))
}

pub(super) fn stroke(color: impl Color, pixels: f64) -> ShapeStyle {
    color.stroke_width(px(pixels) as u32)
}

/// A text style of plotters, with the size of the letters in pixels.
pub(super) fn font(pixels: f64, color: RGBColor) -> TextStyle<'static> {
    let size = pixels * f64::from(UNIT) * LINE;
    let font = FontDesc::new(FontFamily::SansSerif, size, FontStyle::Normal);
    TextStyle { color: color.to_backend_color(), ..TextStyle::from(font) }
}

/// Draws a text of so many pixels at a point of its baseline, in units.
pub(super) fn write(area: &Area, at: (i32, i32), words: Words<'_>) -> Result<()> {
    let words = Words { size: words.size * f64::from(UNIT), ..words };
    let at_point = |svg: &mut Svg, (x, y): (i32, i32)| svg.words((f64::from(x), f64::from(y)), &words);
    Ok(area.draw(&Own(at, at_point))?)
}

/// Draws a PNG from one corner to another, in units.
pub(super) fn picture(area: &Area, from: (i32, i32), to: (i32, i32), png: &[u8]) -> Result<()> {
    let draw = |svg: &mut Svg, at: (i32, i32)| svg.image(at, (to.0 - from.0, to.1 - from.1), png);
    Ok(area.draw(&Own(from, draw))?)
}

/// What stands before a name in the legend.
#[derive(Debug, Clone, Copy)]
pub(super) enum Key {
    Line {
        color: RGBColor,
        dash: Dash,
    },
    Dot {
        color: RGBColor,
    },
    Box {
        color: RGBAColor,
    },
    Ring {
        color: RGBColor,
    },
    Cross {
        color: RGBColor,
    },
    /// Only words.
    Nothing,
}

/// Pixels of a dash and of the gap after it; no dashes where they are 0.
pub(super) type Dash = (f64, f64);

/// Draws a line through points of an area, plain or in dashes.
pub(super) fn line<C: CoordTranslate>(
    area: &DrawingArea<Svg, C>,
    points: Vec<C::From>,
    dash: Dash,
    style: ShapeStyle,
) -> Result<()>
where
    C::From: Clone,
{
    match dash {
        (0.0, _) => area.draw(&PathElement::new(points, style))?,
        (dash, gap) => area.draw(&DashedPathElement::new(points, px(dash), px(gap), style))?,
    }
    Ok(())
}

/// Draws a title at the top and gives the height that it takes.
pub(super) fn title(area: &Area, title: &str) -> Result<f64> {
    if title.is_empty() {
        return Ok(MARGIN);
    }
    let width = size(area).0;
    let room = width - 2.0 * MARGIN;
    let letters = TITLE.min(TITLE * room / text::width(title, TITLE, true)).max(11.0);
    let length = text::width(title, letters, true);
    // Other fonts are up to a fifth wider than the one that was measured.
    let fixed = (1.25 * length > room).then(|| length.min(width) * f64::from(UNIT));
    let words = Words { bold: true, length: fixed, ..Words::new(title, letters) };
    write(area, (px(width / 2.0), px(23.0)), words)?;
    Ok(34.0)
}

const KEY: f64 = 22.0;
const GAP: f64 = 16.0;

fn entry_width((key, name): &(Key, String)) -> f64 {
    (if matches!(key, Key::Nothing) { 0.0 } else { KEY + 5.0 }) + text::width(name, SMALL, false)
}

/// The entries of a legend in rows of a width, with the width used by each.
fn rows(entries: &[(Key, String)], width: f64) -> Vec<(f64, Vec<&(Key, String)>)> {
    let mut rows: Vec<(f64, Vec<&(Key, String)>)> = Vec::new();
    for entry in entries {
        let wide = entry_width(entry);
        match rows.last_mut() {
            Some((used, row)) if *used + GAP + wide <= width => {
                *used += GAP + wide;
                row.push(entry);
            }
            _ => rows.push((wide, vec![entry])),
        }
    }
    rows
}

/// The entries that have room, and how many more there are.
fn shortened(entries: &[(Key, String)], width: f64, most: usize) -> Vec<(Key, String)> {
    let mut kept = entries.to_vec();
    for shown in (0..entries.len()).rev() {
        if rows(&kept, width).len() <= most {
            break;
        }
        kept.truncate(shown);
        kept.push((Key::Nothing, told!("… and {} more", "… e mais {}", entries.len() - shown)));
    }
    kept
}

/// The height of a legend in a figure of a width and a height.
pub(super) fn legend_height(entries: &[(Key, String)], (width, height): (f64, f64)) -> f64 {
    let most = most_rows(height);
    let rows = rows(&shortened(entries, width - 2.0 * MARGIN, most), width - 2.0 * MARGIN).len();
    if rows == 0 { 0.0 } else { ROW * rows as f64 + 4.0 }
}

/// A legend may take a fifth of the height.
fn most_rows(height: f64) -> usize {
    (0.2 * height / ROW).max(2.0) as usize
}

/// Draws a legend in centred rows from `top` and gives the height that it takes.
pub(super) fn legend(area: &Area, entries: &[(Key, String)], top: f64) -> Result<f64> {
    let (width, height) = size(area);
    let room = width - 2.0 * MARGIN;
    for (number, (used, row)) in rows(&shortened(entries, room, most_rows(height)), room).iter().enumerate() {
        let y = top + ROW * number as f64 + 9.0;
        let mut x = MARGIN + ((room - used) / 2.0).max(0.0);
        for entry in row {
            let middle = (px(x + KEY / 2.0 + 3.0), px(y));
            match entry.0 {
                Key::Line { color, dash } => {
                    let ends = vec![(px(x), px(y)), (px(x + KEY), px(y))];
                    line(area, ends, dash, stroke(color, 2.5))?;
                }
                Key::Dot { color } => area.draw(&Circle::new(middle, px(4.0), color.filled()))?,
                Key::Box { color } => {
                    let corners = [(px(x + 5.0), px(y - 6.0)), (px(x + KEY - 1.0), px(y + 6.0))];
                    area.draw(&Rectangle::new(corners, color.filled()))?;
                }
                Key::Ring { color } => {
                    area.draw(&Circle::new(middle, px(5.0), WHITE.filled()))?;
                    area.draw(&Circle::new(middle, px(5.0), stroke(color, 2.0)))?;
                }
                Key::Cross { color } => area.draw(&Cross::new(middle, px(4.0), stroke(color, 2.0)))?,
                Key::Nothing => {}
            }
            let wide = entry_width(entry);
            let start = px(x + wide - text::width(&entry.1, SMALL, false));
            write(area, (start, px(y + 4.0)), Words { anchor: HPos::Left, ..Words::new(&entry.1, SMALL) })?;
            x += wide + GAP;
        }
    }
    Ok(legend_height(entries, (width, height)))
}

/// A plot of plotters on our axes.
pub(super) type Plot<'a> = ChartContext<'a, Svg, Cartesian2d<Axis, Axis>>;

/// What lies between the edges of a figure and its plot, in pixels.
#[derive(Debug, Clone, Copy)]
pub(super) struct Margins {
    pub left: f64,
    pub right: f64,
    pub top: f64,
    pub bottom: f64,
    /// Names below the plot are slanted.
    pub turned: bool,
}

/// Room for what an axis is called.
pub(super) fn label_room(label: &str) -> f64 {
    if label.is_empty() { 0.0 } else { 20.0 }
}

/// The widest label in pixels.
pub(super) fn widest(axis: &Axis) -> f64 {
    axis.ticks.iter().map(|tick| text::width(&tick.label, SMALL, false)).fold(0.0, f64::max)
}

/// Room for names below places so many pixels wide, and whether they are slanted.
pub(super) fn names_room(axis: &Axis, place: f64) -> (f64, bool) {
    let turned = widest(axis) + 6.0 > place;
    (if turned { 12.0 + 0.6 * widest(axis).min(LONGEST) } else { 20.0 }, turned)
}

/// How many labels an axis of so many pixels has: one every `usual`, or a `few` where they fit in no
/// less than `least`.
fn labels_on(pixels: f64, usual: f64, few: f64, least: f64) -> usize {
    (pixels / usual).max(few.min(pixels / least)).max(2.0) as usize
}

/// Everything about a plot but its data.
pub(super) struct Frame<'a> {
    pub title: &'a str,
    pub x_label: &'a str,
    pub y_label: &'a str,
    pub x: Axis,
    pub y: Axis,
    pub legend: Vec<(Key, String)>,
}

impl Frame<'_> {
    /// Draws the frame into a figure and gives the plot for the data.
    pub fn draw<'a>(mut self, area: &Area) -> Result<Plot<'a>> {
        let (width, height) = size(area);
        // One name that says again what the title or the axis says is no legend.
        let repeats = |name: &str| [self.title, self.y_label].iter().any(|t| t.to_lowercase() == name.to_lowercase());
        if matches!(&self.legend[..], [(_, name)] if repeats(name)) {
            self.legend.clear();
        }
        let top = title(area, self.title)?;
        let top = top + legend(area, &self.legend, top)? + 4.0;
        // The width of the plot decides whether names on the x axis fit side by side, their height
        // the number of ticks on the y axis, these the width: two rounds settle it.
        let below = MARGIN + label_room(self.x_label);
        let mut margins = Margins { left: 60.0, right: MARGIN + 8.0, top, bottom: below + 20.0, turned: false };
        for _ in 0..2 {
            let rows = labels_on(height - top - margins.bottom, 30.0, 5.0, 15.0);
            self.y = self.y.with_ticks(rows);
            margins.left = MARGIN + label_room(self.y_label) + widest(&self.y).min(0.4 * width) + 7.0;
            let room = width - margins.right - margins.left;
            if self.x.names {
                let (names, turned) = names_room(&self.x, room / self.x.ticks.len() as f64);
                margins = Margins { bottom: below + names, turned, ..margins };
            }
        }
        // As many ticks on the x axis as have room beside each other.
        let room = (width - margins.right - margins.left).max(20.0);
        let most = labels_on(room, 46.0, 7.0, 26.0);
        for target in (2..=most).rev() {
            self.x = self.x.with_ticks(target);
            let apart = match &self.x.ticks[..] {
                [first, second, ..] => self.x.place(second.value, room) - self.x.place(first.value, room),
                _ => f64::INFINITY,
            };
            if self.x.names || widest(&self.x) + 10.0 <= apart {
                break;
            }
        }
        plot(area, margins, self.x, self.y, (self.x_label, self.y_label))
    }
}

/// Lets plotters draw the mesh, the axes and their labels between the margins.
pub(super) fn plot<'a>(area: &Area, margins: Margins, x: Axis, y: Axis, labels: (&str, &str)) -> Result<Plot<'a>> {
    // Where the labels of plotters begin, left of the plot and below it.
    const EDGE: f64 = 8.0;
    let (width, height) = size(area);
    let room = ((width - margins.left - margins.right).max(20.0), (height - margins.top - margins.bottom).max(20.0));
    let (longest, apart) = if margins.turned { (LONGEST, 22.0) } else { (f64::INFINITY, 0.0) };
    let x = x.legible(room.0, longest, apart);
    let y = y.legible(room.1, margins.left - MARGIN - label_room(labels.1) - 6.9, 13.0);
    let names = if margins.turned { x.ticks.clone() } else { Vec::new() };
    let mut chart = ChartBuilder::on(area)
        .margin_left(px(EDGE))
        .margin_top(px(margins.top))
        .margin_right(px(width - margins.left - room.0))
        .margin_bottom(px(EDGE))
        .y_label_area_size(px(margins.left - EDGE))
        .x_label_area_size(px(height - margins.top - room.1 - EDGE))
        .build_cartesian_2d(if margins.turned { x.clone().silent() } else { x.clone() }, y.clone())?;
    let mut mesh = chart.configure_mesh();
    mesh.bold_line_style(stroke(GRID, 1.0)).axis_style(stroke(AXIS, 1.0)).set_all_tick_mark_size(px(3.5));
    mesh.label_style(font(SMALL, MUTED)).axis_desc_style(font(LABEL, TEXT)).x_desc(labels.0).y_desc(labels.1);
    if x.names {
        mesh.disable_x_mesh();
    }
    if y.names {
        mesh.disable_y_mesh();
    }
    mesh.draw()?;
    // Plotters turns text by right angles only.
    let bottom = if y.downwards { y.high } else { y.low };
    let screen = area.use_screen_coord();
    for name in names {
        let (at, below) = chart.backend_coord(&(name.value, bottom));
        let words = Words { anchor: HPos::Right, angle: -35, ..Words::new(&name.label, SMALL) };
        write(&screen, (at + px(4.0), below + px(14.0)), words.color(MUTED))?;
    }
    Ok(chart)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_legend_without_room_says_how_much_it_leaves_out() {
        let entries: Vec<(Key, String)> = (0..200).map(|i| (Key::Dot { color: TEXT }, format!("series {i}"))).collect();
        let kept = shortened(&entries, 600.0, 4);
        assert_eq!(rows(&kept, 600.0).len(), 4);
        assert_eq!(kept[kept.len() - 1].1, format!("… and {} more", 200 - (kept.len() - 1)));
        assert_eq!(shortened(&entries[..5], 600.0, 4).len(), 5);
    }
}
