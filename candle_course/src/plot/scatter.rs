//! Points in the plane.

use super::figure::Figure;
use super::series::{Cartesian, DASHED, Shape, axes_setters};
use crate::error::Result;

/// Named groups of points: classes in the plane, predictions against targets.
///
/// # Examples
///
/// ```
/// use candle_course::plot::ScatterChart;
///
/// let figure = ScatterChart::builder("Predictions")
///     .x_label("measured biomass, t/ha")
///     .y_label("predicted, t/ha")
///     .points("plots", &[(10.0, 12.0), (50.0, 44.0), (90.0, 95.0)])
///     .line("exact", &[(0.0, 0.0), (100.0, 100.0)])
///     .build()?;
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Debug, Clone)]
#[must_use = "a chart does nothing until `build`"]
pub struct ScatterChart {
    inner: Cartesian,
}

impl ScatterChart {
    /// An empty chart with a title (may be empty).
    pub fn builder(title: &str) -> Self {
        let mut inner = Cartesian::new(title);
        inner.size = (520.0, 400.0);
        inner.x_padding = 0.05;
        Self { inner }
    }

    axes_setters!("520 × 400");

    /// A group of points.
    pub fn points(mut self, name: &str, points: &[(f64, f64)]) -> Self {
        self.inner.push(name, Shape::Dots { points: points.to_vec() });
        self
    }

    /// A dashed line through `(x, y)` points: a decision boundary, the diagonal.
    pub fn line(mut self, name: &str, points: &[(f64, f64)]) -> Self {
        self.inner.push(name, Shape::Line { points: points.to_vec(), dash: DASHED, steps: false });
        self
    }

    /// Draws the chart.
    ///
    /// # Errors
    ///
    /// When there is no group, a group is empty or nowhere finite, a range is empty, or a value on a
    /// logarithmic axis is not positive.
    pub fn build(self) -> Result<Figure> {
        self.inner.validate()?;
        Figure::new(self.inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_is_in_one_path() {
        let points: Vec<(f64, f64)> = (0..50).map(|i| (f64::from(i), f64::from(i * i % 17))).collect();
        let figure = ScatterChart::builder("t").points("a", &points).build().unwrap();
        assert_eq!(figure.svg().matches("h.1").count(), 50 + 1, "points and the legend's key");
        assert_eq!(figure.svg().matches("stroke-linecap").count(), 2);
    }
}
