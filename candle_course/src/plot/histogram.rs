//! Histograms.

use candle_core::{DType, Tensor};
use plotters::element::{PathElement, Polygon};
use plotters::style::Color;

use super::axis::{Axis, check_range, padded};
use super::figure::{Area, Chart, Figure};
use super::frame::{Frame, Key, stroke};
use super::palette::color;
use crate::error::{Error, Result};
use crate::language::label;
use crate::setters::setters;

/// How values are distributed, one or several sets over common bins.
///
/// # Examples
///
/// ```
/// use candle_course::plot::Histogram;
///
/// let weights: Vec<f64> = (0..500).map(|i| (f64::from(i) * 0.37).sin()).collect();
/// let figure = Histogram::builder("Weights").x_label("value").values("fc1", &weights).bins(30).build()?;
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Debug, Clone)]
#[must_use = "a chart does nothing until `build`"]
pub struct Histogram {
    title: String,
    x_label: String,
    sets: Vec<(String, Vec<f64>)>,
    bins: usize,
    density: bool,
    log_y: bool,
    range: Option<(f64, f64)>,
    size: (f64, f64),
    failed: Option<String>,
}

impl Histogram {
    /// An empty chart with a title (may be empty).
    pub fn builder(title: &str) -> Self {
        Self {
            title: title.into(),
            x_label: String::new(),
            sets: Vec::new(),
            bins: 40,
            density: false,
            log_y: false,
            range: None,
            size: (640.0, 320.0),
            failed: None,
        }
    }

    setters! {
        /// What the values are, with their unit.
        x_label(label: &str) => x_label = label.into();
    }

    /// A set of values.
    pub fn values(mut self, name: &str, values: &[f64]) -> Self {
        self.sets.push((name.into(), values.to_vec()));
        self
    }

    /// All elements of a tensor, of any shape and dtype.
    pub fn tensor(mut self, name: &str, tensor: &Tensor) -> Self {
        let values = tensor.flatten_all().and_then(|t| t.to_dtype(DType::F64)).and_then(|t| t.to_vec1::<f64>());
        match values {
            Ok(values) => self.sets.push((name.into(), values)),
            Err(error) => self.failed = Some(format!("cannot read the tensor `{name}`: {error}")),
        }
        self
    }

    setters! {
        /// Number of bins, all equally wide; 40 unless set.
        bins(bins: usize) => bins = bins;
        /// Density (area 1 per set) instead of counts, to compare sets of different sizes.
        density() => density = true;
        /// A logarithmic y axis, to see the tails.
        log_y() => log_y = true;
        /// The range of the bins instead of that of the values; what lies outside is not counted.
        range(low: f64, high: f64) => range = Some((low, high));
        /// Width and height in pixels; 640 × 320 unless set.
        size(width: f64, height: f64) => size = (width, height);
    }

    /// Counts and draws.
    ///
    /// # Errors
    ///
    /// When there is no set, a set is empty or holds NaN or infinite values, the range is empty, or
    /// there is no bin.
    pub fn build(self) -> Result<Figure> {
        if let Some(message) = self.failed {
            return Err(Error::new(crate::error::ErrorKind::Tensor, message));
        }
        if self.sets.is_empty() {
            return Err(
                Error::argument("sets", "at least one", "none").hint("did you forget `.values(name, &values)`?")
            );
        }
        if !(1..=1000).contains(&self.bins) {
            return Err(Error::argument("bins", "1 to 1000", self.bins));
        }
        check_range("range", self.range)?;
        for (name, values) in &self.sets {
            if values.is_empty() {
                return Err(Error::argument(name, "at least one value", "none"));
            }
            let bad = values.iter().filter(|value| !value.is_finite()).count();
            if bad > 0 {
                return Err(Error::argument(
                    name,
                    "finite values",
                    format!("{bad} NaN or infinite of {}", values.len()),
                ));
            }
        }
        Figure::new(self)
    }

    fn edges(&self) -> (f64, f64) {
        self.range.unwrap_or_else(|| {
            let all = || self.sets.iter().flat_map(|(_, values)| values.iter().copied());
            let (low, high) = (all().fold(f64::INFINITY, f64::min), all().fold(f64::NEG_INFINITY, f64::max));
            if low < high { (low, high) } else { padded(low, high, false, 0.0) }
        })
    }

    /// The height of each bin; the last bin includes its upper edge.
    fn heights(&self, values: &[f64], (low, high): (f64, f64)) -> Vec<f64> {
        // Halves: the difference of two numbers may be too large for one.
        let width = 2.0 * (high / 2.0 - low / 2.0) / self.bins as f64;
        let mut counts = vec![0f64; self.bins];
        for value in values.iter().filter(|value| (low..=high).contains(*value)) {
            counts[(((value - low) / width) as usize).min(self.bins - 1)] += 1.0;
        }
        if self.density {
            let area = values.len() as f64 * width;
            counts.iter_mut().for_each(|count| *count = (*count / area).min(f64::MAX));
        }
        counts
    }
}

impl Chart for Histogram {
    fn title(&self) -> &str {
        &self.title
    }

    fn size(&self) -> (f64, f64) {
        self.size
    }

    fn draw(&self, area: &Area) -> Result<()> {
        let edges = self.edges();
        let all: Vec<Vec<f64>> = self.sets.iter().map(|(_, values)| self.heights(values, edges)).collect();
        let heights = || all.iter().flatten().copied();
        let highest = heights().fold(0.0, f64::max).max(if self.density { 1e-12 } else { 1.0 });
        let smallest = heights().filter(|&height| height > 0.0).fold(highest, f64::min);
        let low = if self.log_y { smallest / 2.0 } else { 0.0 };
        let high = (highest * if self.log_y { 1.5 } else { 1.05 }).min(f64::MAX);
        let one = self.sets.len() == 1;
        let opacity = if one { 0.85 } else { 0.4 };
        let key = |(index, (name, _)): (usize, &(String, Vec<f64>))| {
            (Key::Box { color: color(index).mix(opacity) }, name.clone())
        };
        let frame = Frame {
            title: &self.title,
            x_label: &self.x_label,
            y_label: label(if self.density { "density" } else { "count" }),
            x: Axis::values(edges.0, edges.1, false, false),
            y: Axis::values(low, high, self.log_y, !self.density),
            legend: self.sets.iter().enumerate().filter(|(_, (name, _))| !name.is_empty()).map(key).collect(),
        };
        let plot = frame.draw(area)?;
        let edge = |bin: usize| {
            let share = bin as f64 / self.bins as f64;
            edges.0 * (1.0 - share) + edges.1 * share
        };
        for (index, heights) in all.iter().enumerate() {
            let tops = heights.iter().enumerate().flat_map(|(bin, &top)| [(edge(bin), top), (edge(bin + 1), top)]);
            let outline: Vec<(f64, f64)> = [(edges.0, low)].into_iter().chain(tops).chain([(edges.1, low)]).collect();
            plot.plotting_area().draw(&Polygon::new(outline.clone(), color(index).mix(opacity)))?;
            let border = stroke(color(index), if one { 0.8 } else { 1.4 });
            plot.plotting_area().draw(&PathElement::new(outline, border))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_right_and_edges_belong_somewhere() {
        let chart = Histogram::builder("").bins(4).values("", &[0.0, 0.9, 1.0, 2.5, 3.9, 4.0]);
        assert_eq!(chart.edges(), (0.0, 4.0));
        assert_eq!(chart.heights(&chart.sets[0].1, (0.0, 4.0)), [2.0, 1.0, 1.0, 2.0]);
    }

    #[test]
    fn density_has_area_one() {
        let values: Vec<f64> = (0..1000).map(|i| f64::from(i * i % 97)).collect();
        let chart = Histogram::builder("").density().values("", &values);
        let edges = chart.edges();
        let area: f64 = chart.heights(&values, edges).iter().sum::<f64>() * (edges.1 - edges.0) / 40.0;
        assert!((area - 1.0).abs() < 1e-12);
    }

    #[test]
    fn errors_say_what_is_wrong() {
        let message = |chart: Histogram| chart.build().unwrap_err().to_string();
        assert!(
            message(Histogram::builder("").values("w", &[1.0, f64::NAN]))
                .contains("`w`: expected finite values, got 1 NaN")
        );
        assert!(message(Histogram::builder("").values("w", &[1.0]).bins(0)).contains("`bins`"));
        assert!(message(Histogram::builder("")).contains("did you forget"));
    }

    #[test]
    fn values_far_from_zero_have_different_labels() {
        let figure = Histogram::builder("").values("w", &[1e6, 1e6 + 1.0, 1e6 + 3.0]).build().unwrap();
        assert!(figure.svg().contains(">1000001") && figure.svg().contains(">1000002"), "{}", figure.svg());
        Histogram::builder("").values("w", &[-1e308, 0.0, 1e308]).build().unwrap();
        Histogram::builder("").values("w", &[0.0, 5e-324]).log_y().build().unwrap();
    }

    #[test]
    fn one_value_many_times_is_drawn() {
        Histogram::builder("").values("w", &[0.0; 10]).log_y().build().unwrap();
    }
}
