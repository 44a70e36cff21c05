//! What line charts and scatter plots share: named marks on two numeric axes.

use plotters::element::{Circle, Cross, Polygon};
use plotters::style::{Color, RGBColor};

use super::axis::{Axis, check_range, padded};
use super::figure::{Area, Chart};
use super::frame::{Dash, Frame, Key, Plot, line, px, stroke};
use super::palette::{MUTED, TEXT, color};
use crate::error::{Error, Result};
use crate::language::chosen;

/// Points of a curve beyond which it is thinned; a figure is about as many pixels wide.
const MOST_POINTS: usize = 1000;

pub(super) const PLAIN: Dash = (0.0, 0.0);
pub(super) const DASHED: Dash = (6.0, 4.0);
const DOTTED: Dash = (2.0, 3.0);

#[derive(Debug, Clone)]
pub(super) enum Shape {
    Line {
        points: Vec<(f64, f64)>,
        dash: Dash,
        /// Each value holds until the next.
        steps: bool,
    },
    Dots {
        points: Vec<(f64, f64)>,
    },
    /// `(x, low, high)`
    Band {
        points: Vec<(f64, f64, f64)>,
    },
    Ring {
        point: (f64, f64),
    },
    Vertical {
        x: f64,
    },
    Horizontal {
        y: f64,
    },
}

#[derive(Debug, Clone)]
pub(super) struct Series {
    pub name: String,
    pub shape: Shape,
}

/// A chart on two numeric axes.
#[derive(Debug, Clone)]
pub(super) struct Cartesian {
    pub title: String,
    pub x_label: String,
    pub y_label: String,
    pub size: (f64, f64),
    pub log_x: bool,
    pub log_y: bool,
    pub x_range: Option<(f64, f64)>,
    pub y_range: Option<(f64, f64)>,
    /// Free share of the x axis beside the data.
    pub x_padding: f64,
    pub first_x: f64,
    pub series: Vec<Series>,
}

impl Cartesian {
    pub fn new(title: &str) -> Self {
        Self {
            title: title.into(),
            x_label: String::new(),
            y_label: String::new(),
            size: (640.0, 360.0),
            log_x: false,
            log_y: false,
            x_range: None,
            y_range: None,
            x_padding: 0.0,
            first_x: 0.0,
            series: Vec::new(),
        }
    }

    pub fn push(&mut self, name: &str, shape: Shape) {
        self.series.push(Series { name: name.into(), shape });
    }

    /// Series of the same name share a colour; reference lines without a name are grey.
    fn color_of(&self, index: usize) -> RGBColor {
        let colored: Vec<&str> = self
            .series
            .iter()
            .filter(|s| !matches!(s.shape, Shape::Vertical { .. } | Shape::Horizontal { .. } | Shape::Ring { .. }))
            .map(|s| s.name.as_str())
            .collect();
        let mut distinct: Vec<&str> = Vec::new();
        for name in colored {
            if !distinct.contains(&name) {
                distinct.push(name);
            }
        }
        match distinct.iter().position(|name| *name == self.series[index].name) {
            Some(position) => color(position),
            None => match self.series[index].shape {
                Shape::Ring { .. } => TEXT,
                _ => MUTED,
            },
        }
    }

    pub fn validate(&self) -> Result<()> {
        if self.series.is_empty() {
            return Err(
                Error::argument("series", "at least one", "none").hint("did you forget `.line(name, &values)`?")
            );
        }
        for (name, range, log) in [("x_range", self.x_range, self.log_x), ("y_range", self.y_range, self.log_y)] {
            check_range(name, range)?;
            if let Some((low, high)) = range.filter(|(low, _)| log && *low <= 0.0) {
                let got = format!("{low} to {high}");
                return Err(Error::argument(name, "a positive range for a logarithmic axis", got));
            }
        }
        for series in &self.series {
            let name = &series.name;
            let length = match &series.shape {
                Shape::Line { points, .. } | Shape::Dots { points } => points.len(),
                Shape::Band { points } => points.len(),
                _ => 1,
            };
            if length == 0 {
                return Err(Error::argument(name, "at least one point", "none").hint("is the history still empty?"));
            }
            let (xs, ys) = series.values();
            for (axis, log, values) in [("x", self.log_x, xs), ("y", self.log_y, ys)] {
                if let Some(value) = values.iter().find(|value| log && value.is_finite() && **value <= 0.0) {
                    return Err(Error::argument(name, format!("positive {axis} values for a logarithmic axis"), value)
                        .hint("leave such points out, or use a linear axis"));
                }
            }
        }
        let finite = |pick: fn(&Series) -> Vec<f64>| self.series.iter().flat_map(pick).any(f64::is_finite);
        if !finite(|s| s.values().0) && self.x_range.is_none() || !finite(|s| s.values().1) && self.y_range.is_none() {
            return Err(Error::argument("series", "at least one finite point", "only NaN or infinite values")
                .hint("did the training diverge at the first step?"));
        }
        Ok(())
    }

    fn axis(&self, pick: fn(&Series) -> Vec<f64>, log: bool, range: Option<(f64, f64)>, padding: f64) -> Axis {
        let values: Vec<f64> = self.series.iter().flat_map(pick).filter(|value| value.is_finite()).collect();
        let integers = values.iter().all(|value| value.fract() == 0.0);
        let (low, high) = range.unwrap_or_else(|| {
            let low = values.iter().copied().fold(f64::INFINITY, f64::min);
            let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            padded(low, high, log, padding)
        });
        Axis::values(low, high, log, integers)
    }

    fn legend(&self) -> Vec<(Key, String)> {
        let mut entries: Vec<(Key, String)> = Vec::new();
        for (index, series) in self.series.iter().enumerate() {
            if series.name.is_empty() || entries.iter().any(|(_, name)| *name == series.name) {
                continue;
            }
            let color = self.color_of(index);
            let key = match &series.shape {
                Shape::Line { dash, .. } => Key::Line { color, dash: *dash },
                Shape::Dots { .. } => Key::Dot { color },
                Shape::Band { .. } => Key::Box { color: color.mix(0.25) },
                Shape::Ring { .. } => Key::Ring { color },
                Shape::Vertical { .. } | Shape::Horizontal { .. } => Key::Line { color, dash: DOTTED },
            };
            entries.push((key, series.name.clone()));
        }
        let broken = |series: &Series| match &series.shape {
            Shape::Line { points, .. } => points.iter().any(|(_, y)| !y.is_finite()),
            _ => false,
        };
        if let Some(index) = self.series.iter().position(broken) {
            entries.push((
                Key::Cross { color: self.color_of(index) },
                chosen("NaN or infinite", "NaN ou infinito").into(),
            ));
        }
        entries
    }

    /// Draws the runs of finite points of a curve, each with a cross where it breaks off.
    fn draw_line(&self, plot: &Plot<'_>, points: &[(f64, f64)], look: (RGBColor, Dash, bool)) -> Result<()> {
        let (color, dash, steps) = look;
        let area = plot.plotting_area();
        let (x, y) = (area.as_coord_spec().x_spec(), area.as_coord_spec().y_spec());
        let inside = |at: &(f64, f64)| x.contains(at.0) && y.contains(at.1);
        for run in points.split(|(x, y)| !(x.is_finite() && y.is_finite())) {
            let Some(last) = run.last() else { continue };
            let mut run = thin(run);
            if steps {
                run = run.windows(2).flat_map(|pair| [pair[0], (pair[1].0, pair[0].1)]).chain([*last]).collect();
            }
            let width = if run.len() > 300 { 1.4 } else { 2.0 };
            for part in Axis::clip(x, y, &run) {
                line(area, part, dash, stroke(color, width))?;
            }
            // A few epochs are points that were measured; a line alone would hide them.
            let marked = run.len() == 1 || (run.len() <= 20 && dash == PLAIN && !steps);
            for &at in run.iter().filter(|at| marked && inside(at)) {
                area.draw(&Circle::new(at, px(2.8), color.filled()))?;
            }
        }
        let finite = |at: &(f64, f64)| at.0.is_finite() && at.1.is_finite();
        for pair in points.windows(2).filter(|pair| finite(&pair[0]) && !finite(&pair[1]) && inside(&pair[0])) {
            area.draw(&Cross::new(pair[0], px(5.0), stroke(color, 2.0)))?;
        }
        Ok(())
    }
}

/// At most [`MOST_POINTS`] points that keep every peak: the lowest and the highest of each stretch.
fn thin(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    if points.len() <= MOST_POINTS {
        return points.to_vec();
    }
    let stretches = MOST_POINTS / 2 - 1;
    let mut kept = vec![points[0]];
    let inner = &points[1..points.len() - 1];
    for stretch in 0..stretches {
        let part = &inner[stretch * inner.len() / stretches..(stretch + 1) * inner.len() / stretches];
        let extreme = |sign: f64| {
            (0..part.len()).max_by(|&a, &b| (sign * part[a].1).total_cmp(&(sign * part[b].1)).then(b.cmp(&a)))
        };
        if let (Some(low), Some(high)) = (extreme(-1.0), extreme(1.0)) {
            kept.push(part[low.min(high)]);
            if low != high {
                kept.push(part[low.max(high)]);
            }
        }
    }
    kept.push(points[points.len() - 1]);
    kept
}

/// What charts on two numeric axes have in common.
macro_rules! axes_setters {
    ($size:literal) => {
        $crate::setters::setters! {
            /// What the x axis shows, with its unit.
            x_label(label: &str) => inner.x_label = label.into();
            /// What the y axis shows, with its unit.
            y_label(label: &str) => inner.y_label = label.into();
        }

        /// A ring around one point, named in the legend: the best epoch, say.
        pub fn mark(mut self, name: &str, x: f64, y: f64) -> Self {
            self.inner.push(name, Shape::Ring { point: (x, y) });
            self
        }

        $crate::setters::setters! {
            /// A logarithmic x axis.
            log_x() => inner.log_x = true;
            /// A logarithmic y axis.
            log_y() => inner.log_y = true;
            /// The range of the x axis instead of that of the data; what lies outside is cut off.
            x_range(low: f64, high: f64) => inner.x_range = Some((low, high));
            /// The range of the y axis instead of that of the data; what lies outside is cut off.
            y_range(low: f64, high: f64) => inner.y_range = Some((low, high));
            #[doc = concat!("Width and height in pixels; ", $size, " unless set.")]
            size(width: f64, height: f64) => inner.size = (width, height);
        }
    };
}
pub(super) use axes_setters;

impl Series {
    /// All x and all y values.
    fn values(&self) -> (Vec<f64>, Vec<f64>) {
        match &self.shape {
            Shape::Line { points, .. } | Shape::Dots { points } => points.iter().copied().unzip(),
            Shape::Band { points } => {
                (points.iter().map(|p| p.0).collect(), points.iter().flat_map(|p| [p.1, p.2]).collect())
            }
            Shape::Ring { point } => (vec![point.0], vec![point.1]),
            Shape::Vertical { x } => (vec![*x], Vec::new()),
            Shape::Horizontal { y } => (Vec::new(), vec![*y]),
        }
    }
}

impl Chart for Cartesian {
    fn title(&self) -> &str {
        &self.title
    }

    fn size(&self) -> (f64, f64) {
        self.size
    }

    fn draw(&self, area: &Area) -> Result<()> {
        self.draw_with(area, self.legend())
    }

    fn legend(&self) -> Vec<(Key, String)> {
        Self::legend(self)
    }

    fn draw_bare(&self, area: &Area) -> Result<()> {
        self.draw_with(area, Vec::new())
    }
}

impl Cartesian {
    fn draw_with(&self, area: &Area, legend: Vec<(Key, String)>) -> Result<()> {
        let frame = Frame {
            title: &self.title,
            x_label: &self.x_label,
            y_label: &self.y_label,
            x: self.axis(|s| s.values().0, self.log_x, self.x_range, self.x_padding),
            y: self.axis(|s| s.values().1, self.log_y, self.y_range, 0.05),
            legend,
        };
        let plot = frame.draw(area)?;
        let area = plot.plotting_area();
        let (x_axis, y_axis) = (area.as_coord_spec().x_spec(), area.as_coord_spec().y_spec());
        let inside = |at: &(f64, f64)| x_axis.contains(at.0) && y_axis.contains(at.1);
        let layer = |shape: &Shape| match shape {
            Shape::Band { .. } => 0,
            Shape::Vertical { .. } | Shape::Horizontal { .. } => 1,
            Shape::Dots { .. } => 2,
            Shape::Line { .. } => 3,
            Shape::Ring { .. } => 4,
        };
        let mut order: Vec<usize> = (0..self.series.len()).collect();
        order.sort_by_key(|&index| layer(&self.series[index].shape));
        for index in order {
            let color = self.color_of(index);
            match &self.series[index].shape {
                Shape::Line { points, dash, steps } => self.draw_line(&plot, points, (color, *dash, *steps))?,
                Shape::Dots { points } => {
                    let (radius, opacity) = if points.len() > 400 { (2.2, 0.5) } else { (3.5, 0.75) };
                    for &at in points.iter().filter(|at| inside(at)) {
                        area.draw(&Circle::new(at, px(radius), color.mix(opacity).filled()))?;
                    }
                }
                Shape::Band { points } => {
                    let finite = points.iter().filter(|p| p.0.is_finite() && p.1.is_finite() && p.2.is_finite());
                    let finite: Vec<&(f64, f64, f64)> = finite.collect();
                    let upper = thin(&finite.iter().map(|p| (p.0, p.2)).collect::<Vec<_>>());
                    let lower = thin(&finite.iter().map(|p| (p.0, p.1)).collect::<Vec<_>>());
                    let outline: Vec<(f64, f64)> = upper.into_iter().chain(lower.into_iter().rev()).collect();
                    area.draw(&Polygon::new(outline, color.mix(0.2)))?;
                }
                Shape::Ring { point } if inside(point) => {
                    area.draw(&Circle::new(*point, px(6.0), stroke(color, 2.0)))?;
                }
                Shape::Vertical { x } if x_axis.contains(*x) => {
                    line(area, vec![(*x, y_axis.low), (*x, y_axis.high)], DOTTED, stroke(color, 1.5))?;
                }
                Shape::Horizontal { y } if y_axis.contains(*y) => {
                    line(area, vec![(x_axis.low, *y), (x_axis.high, *y)], DOTTED, stroke(color, 1.5))?;
                }
                Shape::Ring { .. } | Shape::Vertical { .. } | Shape::Horizontal { .. } => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thinning_keeps_the_ends_and_every_peak() {
        let mut points: Vec<(f64, f64)> = (0..50_000).map(|i| (f64::from(i), f64::from(i % 7))).collect();
        points[31_234].1 = 1e6;
        points[31_235].1 = -1e6;
        let kept = thin(&points);
        assert!(kept.len() <= MOST_POINTS, "{}", kept.len());
        assert_eq!((kept[0], kept[kept.len() - 1]), (points[0], points[49_999]));
        assert!(kept.contains(&points[31_234]) && kept.contains(&points[31_235]));
        assert!(kept.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }

    #[test]
    fn a_band_shares_the_colour_of_its_line() {
        let mut chart = Cartesian::new("");
        chart.push("mean", Shape::Line { points: vec![(0.0, 1.0), (1.0, 2.0)], dash: PLAIN, steps: false });
        chart.push("other", Shape::Line { points: vec![(0.0, 1.0), (1.0, 2.0)], dash: PLAIN, steps: false });
        chart.push("mean", Shape::Band { points: vec![(0.0, 0.5, 1.5), (1.0, 1.5, 2.5)] });
        assert_eq!(chart.color_of(2), chart.color_of(0));
        assert_ne!(chart.color_of(1), chart.color_of(0));
        assert_eq!(chart.legend().len(), 2);
    }
}
