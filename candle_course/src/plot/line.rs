//! Curves.

use super::figure::Figure;
use super::frame::Dash;
use super::series::{Cartesian, DASHED, PLAIN, Shape, axes_setters};
use crate::error::{Error, Result};
use crate::setters::setters;

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

    axes_setters!("640 × 360");

    setters! {
        /// The x of the first value of every [`line`](Self::line) that follows; 0 unless set. Epochs are
        /// counted from 1, say.
        first_x(x: f64) => inner.first_x = x;
    }

    /// A curve through `values` at x = 0, 1, 2, … (see [`first_x`](Self::first_x)).
    pub fn line(self, name: &str, values: &[f64]) -> Self {
        let points = self.numbered(values);
        self.curve(name, points, PLAIN, false)
    }

    /// A curve through `(x, y)` points, in their order.
    pub fn points(self, name: &str, points: &[(f64, f64)]) -> Self {
        self.curve(name, points.to_vec(), PLAIN, false)
    }

    /// As [`line`](Self::line), dashed.
    pub fn dashed(self, name: &str, values: &[f64]) -> Self {
        let points = self.numbered(values);
        self.curve(name, points, DASHED, false)
    }

    /// As [`points`](Self::points), dashed.
    pub fn dashed_points(self, name: &str, points: &[(f64, f64)]) -> Self {
        self.curve(name, points.to_vec(), DASHED, false)
    }

    /// As [`line`](Self::line), in steps: each value holds until the next, as a learning rate does.
    pub fn steps(self, name: &str, values: &[f64]) -> Self {
        let points = self.numbered(values);
        self.curve(name, points, PLAIN, true)
    }

    /// As [`points`](Self::points), in steps.
    pub fn step_points(self, name: &str, points: &[(f64, f64)]) -> Self {
        self.curve(name, points.to_vec(), PLAIN, true)
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

    fn curve(mut self, name: &str, points: Vec<(f64, f64)>, dash: Dash, steps: bool) -> Self {
        self.inner.push(name, Shape::Line { points, dash, steps });
        self
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

    /// The corners of the curves of one colour, in tenths of a pixel.
    fn corners(figure: &Figure, color: &str) -> Vec<(i32, i32)> {
        let paths = figure.svg().split("<path ").filter(|path| path.contains(color) && !path.contains("linecap"));
        let data = paths.last().unwrap().split(" d=\"").nth(1).unwrap().split('"').next().unwrap();
        let starts: Vec<usize> = data.match_indices(|c: char| c.is_ascii_alphabetic()).map(|(at, _)| at).collect();
        let (mut at, mut corners) = ((0, 0), Vec::new());
        for (index, &start) in starts.iter().enumerate() {
            let end = starts.get(index + 1).copied().unwrap_or(data.len());
            let numbers = data[start + 1..end].replace('-', " -");
            let numbers: Vec<i32> = numbers.split_whitespace().map(|number| number.parse().unwrap()).collect();
            let command = &data[start..=start];
            for step in numbers.chunks(if "hv".contains(command) { 1 } else { 2 }) {
                at = match command {
                    "h" => (at.0 + step[0], at.1),
                    "v" => (at.0, at.1 + step[0]),
                    _ => (at.0 + step[0], at.1 + step[1]),
                };
                corners.push(at);
            }
        }
        corners
    }

    #[test]
    fn steps_hold_their_value_and_lines_do_not() {
        let values = [0.1, 0.1, 0.01, 0.01];
        let steps = corners(&LineChart::builder("").steps("rate", &values).build().unwrap(), "#0072b2");
        assert!(steps.windows(2).all(|pair| pair[0].0 == pair[1].0 || pair[0].1 == pair[1].1), "{steps:?}");
        let line = corners(&LineChart::builder("").line("rate", &values).build().unwrap(), "#0072b2");
        assert!(line.windows(2).any(|pair| pair[0].0 != pair[1].0 && pair[0].1 != pair[1].1), "{line:?}");
    }

    #[test]
    fn what_a_range_leaves_out_is_not_drawn_on_the_edge() {
        let figure = LineChart::builder("").points("a", &[(0.0, 0.0), (1.0, 10.0), (2.0, 0.0)]).y_range(0.0, 5.0);
        let corners = corners(&figure.build().unwrap(), "#0072b2");
        let top = corners.iter().map(|corner| corner.1).min().unwrap();
        let on_top: Vec<i32> = corners.iter().filter(|corner| corner.1 == top).map(|corner| corner.0).collect();
        // The gap between the two ends is half of what the curve is wide.
        let (left, right) = (corners[0].0, corners[corners.len() - 1].0);
        assert_eq!(on_top.len(), 2, "{corners:?}");
        assert!(((on_top[1] - on_top[0]) * 2 - (right - left)).abs() <= 4, "{corners:?}");
    }

    #[test]
    fn numbers_at_the_ends_of_f64_are_drawn() {
        for values in
            [[-1e308, 1e308, 0.0], [f64::MIN, f64::MAX, 1.0], [5e-324, 1e-310, 3e-310], [1e6, 1e6 + 1.0, 1e6 + 3.0]]
        {
            let figure = LineChart::builder("").line("a", &values).build().unwrap();
            assert!(!figure.svg().contains("NaN"), "{}", figure.svg());
            assert!(corners(&figure, "#0072b2").len() > 2);
        }
        let figure = LineChart::builder("").log_y().line("a", &[5e-324, 1e-200, 1e308]).build().unwrap();
        assert!(figure.svg().contains("10<tspan") && !figure.svg().contains("NaN"));
    }

    #[test]
    fn many_series_leave_room_for_the_curves() {
        let mut chart = LineChart::builder("Units");
        for unit in 0..200 {
            chart = chart.line(&format!("unit {unit}"), &[f64::from(unit), 2.0 * f64::from(unit)]);
        }
        let figure = chart.build().unwrap();
        assert!(figure.svg().contains(" more</text>") && figure.svg().contains(">unit 3<"));
        assert!(!figure.svg().contains(">unit 150<"));
    }

    #[test]
    fn one_series_that_is_called_like_the_chart_has_no_legend() {
        let count = |title: &str| {
            LineChart::builder(title).line("loss", &[1.0, 2.0]).build().unwrap().svg().matches(">loss<").count()
        };
        assert_eq!((count("Loss"), count("Training")), (0, 1));
    }

    #[test]
    fn a_long_curve_stays_small() {
        let noise: Vec<f64> = (0..100_000u64).map(|i| (i.wrapping_mul(2_654_435_761) % 1000) as f64).collect();
        let figure = LineChart::builder("noise").line("a", &noise).build().unwrap();
        assert!(figure.svg().len() < 20_000, "{}", figure.svg().len());
        assert!(figure.png().unwrap().len() < 60_000);
    }
}
