//! The frame around a plot: title, legend, axes, grid.

use super::canvas::{Canvas, Style};
use super::palette::{AXIS, GRID, MUTED};
use super::scale::{Scale, Tick, ticks};
use super::text;

pub(super) const TITLE: f64 = 15.0;
pub(super) const LABEL: f64 = 13.0;
pub(super) const SMALL: f64 = 12.0;
const LINE: f64 = 18.0;
const MARGIN: f64 = 12.0;

/// What stands before a name in the legend.
#[derive(Debug, Clone)]
pub(super) enum Key {
    Line { color: &'static str, dash: &'static str },
    Dot { color: &'static str },
    Box { color: String, opacity: f64 },
    Ring { color: &'static str },
    Cross { color: &'static str },
}

/// One axis before its pixels are known.
#[derive(Debug, Clone)]
pub(super) enum Axis {
    Values {
        low: f64,
        high: f64,
        log: bool,
        integers: bool,
    },
    /// Named places 0, 1, 2, …, each one wide.
    Names(Vec<String>),
}

/// Everything about a plot but its data.
#[derive(Debug, Clone)]
pub(super) struct Frame<'a> {
    pub title: &'a str,
    pub x_label: &'a str,
    pub y_label: &'a str,
    pub x: Axis,
    pub y: Axis,
    pub legend: Vec<(Key, String)>,
}

/// The rectangle of the data and its scales.
#[derive(Debug, Clone, Copy)]
pub(super) struct Area {
    pub x: Scale,
    pub y: Scale,
    pub origin: (f64, f64),
    pub size: (f64, f64),
}

impl Area {
    pub fn at(&self, (x, y): (f64, f64)) -> (f64, f64) {
        (self.x.at(x), self.y.at(y))
    }

    pub fn bottom(&self) -> f64 {
        self.origin.1 + self.size.1
    }

    pub fn right(&self) -> f64 {
        self.origin.0 + self.size.0
    }
}

impl Axis {
    fn scale(&self, pixels: (f64, f64)) -> Scale {
        match self {
            Self::Values { low, high, log, .. } => Scale { low: *low, high: *high, log: *log, pixels },
            Self::Names(names) => Scale { low: -0.5, high: names.len() as f64 - 0.5, log: false, pixels },
        }
    }

    fn ticks(&self, target: usize) -> Vec<Tick> {
        match self {
            Self::Values { low, high, log, integers } => ticks(*low, *high, *log, target, *integers),
            Self::Names(names) => {
                names.iter().enumerate().map(|(i, name)| Tick { value: i as f64, label: name.clone() }).collect()
            }
        }
    }
}

/// Draws a title at the top and gives the height that it takes.
pub(super) fn title(canvas: &mut Canvas, title: &str, width: f64) -> f64 {
    if title.is_empty() {
        return MARGIN;
    }
    let room = width - 2.0 * MARGIN;
    let size = TITLE.min(TITLE * room / text::width(title, TITLE, true)).max(11.0);
    let (length, style) = (text::width(title, size, true), Style::new(size).bold().middle());
    // Other fonts are up to a fifth wider than the one that was measured.
    let style = if 1.25 * length > room { style.length(length.min(width)) } else { style };
    canvas.text((width / 2.0, 23.0), title, style);
    34.0
}

/// Draws a legend in centred rows from `top` and gives the height that it takes.
pub(super) fn legend(canvas: &mut Canvas, entries: &[(Key, String)], (left, right): (f64, f64), top: f64) -> f64 {
    const KEY: f64 = 22.0;
    const GAP: f64 = 16.0;
    let widths: Vec<f64> = entries.iter().map(|(_, name)| KEY + 5.0 + text::width(name, SMALL, false)).collect();
    let mut rows: Vec<(f64, Vec<usize>)> = Vec::new();
    for (index, &width) in widths.iter().enumerate() {
        match rows.last_mut() {
            Some((used, row)) if *used + GAP + width <= right - left => {
                *used += GAP + width;
                row.push(index);
            }
            _ => rows.push((width, vec![index])),
        }
    }
    for (number, (used, row)) in rows.iter().enumerate() {
        let y = top + LINE * number as f64 + 9.0;
        let mut x = left + ((right - left - used) / 2.0).max(0.0);
        for &index in row {
            let (key, name) = &entries[index];
            match key {
                Key::Line { color, dash } => canvas.line((x, y), (x + KEY, y), color, 2.5, dash),
                Key::Dot { color } => canvas.dots(&[(x + KEY / 2.0 + 3.0, y)], 4.0, color, 1.0),
                Key::Box { color, opacity } => {
                    canvas.rect((x + 5.0, y - 6.0), (KEY - 6.0, 12.0), color, &format!(r#" fill-opacity="{opacity}""#));
                }
                Key::Ring { color } => canvas.circle((x + KEY / 2.0 + 3.0, y), 5.0, "#fff", color),
                Key::Cross { color } => canvas.cross((x + KEY / 2.0 + 3.0, y), 4.0, color),
            }
            canvas.text((x + KEY + 5.0, y + 4.0), name, Style::new(SMALL));
            x += widths[index] + GAP;
        }
    }
    if rows.is_empty() { 0.0 } else { LINE * rows.len() as f64 + 4.0 }
}

impl Frame<'_> {
    /// Draws the frame into a figure of `size` and says where the data go.
    pub fn draw(&self, canvas: &mut Canvas, (width, height): (f64, f64)) -> Area {
        let mut top = title(canvas, self.title, width);
        top += legend(canvas, &self.legend, (MARGIN, width - MARGIN), top);
        top += 4.0;

        let label_height = |label: &str| if label.is_empty() { 0.0 } else { 20.0 };
        // The width of the plot decides whether names on the x axis fit side by side, their height
        // the number of ticks on the y axis, these the width: two rounds settle it.
        let mut bottom = MARGIN + label_height(self.x_label) + 20.0;
        let mut left = 60.0;
        let right = width - MARGIN - 8.0;
        let mut turned = false;
        let mut y_ticks = Vec::new();
        for _ in 0..2 {
            let rows = ((height - top - bottom) / 42.0).round().max(2.0) as usize;
            y_ticks = self.y.ticks(rows);
            let widest = y_ticks.iter().map(|tick| text::width(&tick.label, SMALL, false)).fold(0.0, f64::max);
            left = MARGIN + label_height(self.y_label) + widest.min(0.4 * width) + 7.0;
            if let Axis::Names(names) = &self.x {
                let widest = names.iter().map(|name| text::width(name, SMALL, false)).fold(0.0, f64::max);
                turned = widest + 6.0 > (right - left) / names.len() as f64;
                let names_height = if turned { 12.0 + 0.6 * widest.min(130.0) } else { 20.0 };
                bottom = MARGIN + label_height(self.x_label) + names_height;
            }
        }
        let origin = (left, top);
        let size = ((right - left).max(20.0), (height - bottom - top).max(20.0));
        let area = Area {
            x: self.x.scale((origin.0, origin.0 + size.0)),
            // Values grow upwards, a list of names reads downwards.
            y: match self.y {
                Axis::Values { .. } => self.y.scale((origin.1 + size.1, origin.1)),
                Axis::Names(_) => self.y.scale((origin.1, origin.1 + size.1)),
            },
            origin,
            size,
        };

        let x_grid = matches!(self.x, Axis::Values { .. });
        for tick in self.x_ticks(&area) {
            let x = area.x.at(tick.value);
            if x_grid {
                canvas.line((x, origin.1), (x, area.bottom()), GRID, 1.0, "");
            }
            if turned {
                let name = text::fit(&tick.label, SMALL, 130.0);
                canvas.text((x + 4.0, area.bottom() + 14.0), &name, Style::new(SMALL).color(MUTED).end().turned(-35));
            } else {
                canvas.text((x, area.bottom() + 17.0), &tick.label, Style::new(SMALL).color(MUTED).middle());
            }
        }
        let y_grid = matches!(self.y, Axis::Values { .. });
        for tick in y_ticks {
            let y = area.y.at(tick.value);
            if y_grid {
                canvas.line((origin.0, y), (area.right(), y), GRID, 1.0, "");
            }
            let name = text::fit(&tick.label, SMALL, 0.4 * width);
            canvas.text((origin.0 - 7.0, y + 4.0), &name, Style::new(SMALL).color(MUTED).end());
        }
        let corner = (origin.0, area.bottom());
        if y_grid {
            canvas.line(corner, (area.right(), corner.1), AXIS, 1.0, "");
        }
        if x_grid || !y_grid {
            canvas.line(corner, origin, AXIS, 1.0, "");
        }

        let center = (origin.0 + size.0 / 2.0, origin.1 + size.1 / 2.0);
        canvas.text((center.0, height - MARGIN + 1.0), self.x_label, Style::new(LABEL).middle());
        canvas.text((MARGIN + 6.0, center.1), self.y_label, Style::new(LABEL).middle().turned(-90));
        area
    }

    /// As many ticks on the x axis as have room beside each other.
    fn x_ticks(&self, area: &Area) -> Vec<Tick> {
        let mut target = (area.size.0 / 64.0).round().max(2.0) as usize;
        loop {
            let ticks = self.x.ticks(target);
            let widest = ticks.iter().map(|tick| text::width(&tick.label, SMALL, false)).fold(0.0, f64::max);
            let room = match ticks.as_slice() {
                [first, second, ..] => (area.x.at(second.value) - area.x.at(first.value)).abs(),
                _ => f64::INFINITY,
            };
            if matches!(self.x, Axis::Names(_)) || target <= 2 || widest + 10.0 <= room {
                return ticks;
            }
            target -= 1;
        }
    }
}
