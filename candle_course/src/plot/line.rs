//! Curves.

use super::figure::Figure;
use super::series::{Cartesian, Shape};
use crate::error::{Error, Result};

/// Curves over a common x axis: learning curves, schedules, functions.
///
/// Series of the same name share a colour and one entry in the legend, so that a band belongs to
/// its line. Up to twenty points are marked one by one; beyond a thousand a curve is thinned so that
/// every peak stays. Where a curve becomes NaN or infinite it ends in a cross.
///
/// # Examples
///
/// ```
/// use candle_course::plot::LineChart;
///
/// let loss: Vec<f64> = (1..=200).map(|step| 2.3 / f64::from(step).sqrt()).collect();
/// let figure = LineChart::builder("Training").x_label("step").y_label("loss").log_y().line("train", &loss).build()?;
/// figure.show();
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Debug, Clone)]
#[must_use = "a chart does nothing until `build`"]
pub struct LineChart {
    inner: Cartesian,
}

impl LineChart {
    /// An empty chart with a title (may be empty).
    pub fn builder(title: &str) -> Self {
        Self { inner: Cartesian::new(title) }
    }

    /// What the x axis shows, with its unit.
    pub fn x_label(mut self, label: &str) -> Self {
        self.inner.x_label = label.into();
        self
    }

    /// What the y axis shows, with its unit.
    pub fn y_label(mut self, label: &str) -> Self {
        self.inner.y_label = label.into();
        self
    }

    /// The x of the first value of every [`line`](Self::line) that follows; 0 unless set. Epochs are
    /// counted from 1, say.
    pub fn first_x(mut self, x: f64) -> Self {
        self.inner.first_x = x;
        self
    }

    /// A curve through `values` at x = 0, 1, 2, … (see [`first_x`](Self::first_x)).
    pub fn line(mut self, name: &str, values: &[f64]) -> Self {
        let points = self.numbered(values);
        self.inner.push(name, Shape::Line { points, dash: "" });
        self
    }

    /// A curve through `(x, y)` points, in their order.
    pub fn points(mut self, name: &str, points: &[(f64, f64)]) -> Self {
        self.inner.push(name, Shape::Line { points: points.to_vec(), dash: "" });
        self
    }

    /// As [`line`](Self::line), dashed.
    pub fn dashed(mut self, name: &str, values: &[f64]) -> Self {
        let points = self.numbered(values);
        self.inner.push(name, Shape::Line { points, dash: "6 4" });
        self
    }

    /// As [`points`](Self::points), dashed.
    pub fn dashed_points(mut self, name: &str, points: &[(f64, f64)]) -> Self {
        self.inner.push(name, Shape::Line { points: points.to_vec(), dash: "6 4" });
        self
    }

    /// Single points, not joined.
    pub fn dots(mut self, name: &str, points: &[(f64, f64)]) -> Self {
        self.inner.push(name, Shape::Dots { points: points.to_vec() });
        self
    }

    /// A shaded band between a low and a high at each x, given as `(x, low, high)`: the spread over
    /// seeds, say.
    pub fn band(mut self, name: &str, points: &[(f64, f64, f64)]) -> Self {
        self.inner.push(name, Shape::Band { points: points.to_vec() });
        self
    }

    /// A ring around one point, named in the legend: the best epoch, say.
    pub fn mark(mut self, name: &str, x: f64, y: f64) -> Self {
        self.inner.push(name, Shape::Ring { point: (x, y) });
        self
    }

    /// A dotted vertical line, named in the legend unless the name is empty.
    pub fn vertical(mut self, name: &str, x: f64) -> Self {
        self.inner.push(name, Shape::Vertical { x });
        self
    }

    /// A dotted horizontal line, named in the legend unless the name is empty.
    pub fn horizontal(mut self, name: &str, y: f64) -> Self {
        self.inner.push(name, Shape::Horizontal { y });
        self
    }

    /// A logarithmic x axis.
    pub fn log_x(mut self) -> Self {
        self.inner.log_x = true;
        self
    }

    /// A logarithmic y axis.
    pub fn log_y(mut self) -> Self {
        self.inner.log_y = true;
        self
    }

    /// The range of the x axis instead of that of the data.
    pub fn x_range(mut self, low: f64, high: f64) -> Self {
        self.inner.x_range = Some((low, high));
        self
    }

    /// The range of the y axis instead of that of the data; what lies outside is cut off.
    pub fn y_range(mut self, low: f64, high: f64) -> Self {
        self.inner.y_range = Some((low, high));
        self
    }

    /// Width and height in pixels; 640 × 360 unless set.
    pub fn size(mut self, width: f64, height: f64) -> Self {
        self.inner.size = (width, height);
        self
    }

    /// Draws the chart.
    ///
    /// # Errors
    ///
    /// When there is no series, a series is empty or nowhere finite, a range is empty, or a value on
    /// a logarithmic axis is not positive.
    pub fn build(self) -> Result<Figure> {
        let x = self.inner.first_x;
        if !x.is_finite() {
            return Err(Error::argument("first_x", "a finite number", x));
        }
        self.inner.validate()?;
        Figure::new(self.inner)
    }

    fn numbered(&self, values: &[f64]) -> Vec<(f64, f64)> {
        values.iter().enumerate().map(|(index, &y)| (self.inner.first_x + index as f64, y)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_carry_the_range_of_the_data() {
        let figure = LineChart::builder("t").first_x(1.0).line("a", &[0.9, 0.5, 0.1]).build().unwrap();
        for label in [">1<", ">2<", ">3<", ">0.2<", ">0.8<", ">a<"] {
            assert!(figure.svg().contains(label), "{label} in {}", figure.svg());
        }
    }

    #[test]
    fn errors_say_what_is_wrong() {
        let message = |chart: LineChart| chart.build().unwrap_err().to_string();
        assert!(message(LineChart::builder("")).contains("did you forget `.line"));
        assert!(message(LineChart::builder("").line("loss", &[])).contains("`loss`: expected at least one point"));
        assert!(message(LineChart::builder("").log_y().line("loss", &[1.0, 0.0])).contains("positive y values"));
        assert!(message(LineChart::builder("").line("loss", &[f64::NAN])).contains("diverge"));
        assert!(message(LineChart::builder("").line("a", &[1.0]).y_range(2.0, 1.0)).contains("`y_range`"));
    }

    #[test]
    fn a_diverged_curve_ends_in_a_cross() {
        let figure = LineChart::builder("").line("loss", &[1.0, 2.0, f64::NAN, f64::INFINITY]).build().unwrap();
        assert!(figure.svg().contains("NaN or infinite"));
    }

    #[test]
    fn a_long_curve_stays_small() {
        let noise: Vec<f64> = (0..100_000u64).map(|i| (i.wrapping_mul(2_654_435_761) % 1000) as f64).collect();
        let figure = LineChart::builder("noise").line("a", &noise).build().unwrap();
        assert!(figure.svg().len() < 20_000, "{}", figure.svg().len());
        assert!(figure.png().unwrap().len() < 60_000);
    }
}
