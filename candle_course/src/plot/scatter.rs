//! Points in the plane.

use super::figure::Figure;
use super::series::{Cartesian, Shape};
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

    /// A group of points.
    pub fn points(mut self, name: &str, points: &[(f64, f64)]) -> Self {
        self.inner.push(name, Shape::Dots { points: points.to_vec() });
        self
    }

    /// A dashed line through `(x, y)` points: a decision boundary, the diagonal.
    pub fn line(mut self, name: &str, points: &[(f64, f64)]) -> Self {
        self.inner.push(name, Shape::Line { points: points.to_vec(), dash: "6 4" });
        self
    }

    /// A ring around one point, named in the legend.
    pub fn mark(mut self, name: &str, x: f64, y: f64) -> Self {
        self.inner.push(name, Shape::Ring { point: (x, y) });
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

    /// The range of the y axis instead of that of the data.
    pub fn y_range(mut self, low: f64, high: f64) -> Self {
        self.inner.y_range = Some((low, high));
        self
    }

    /// Width and height in pixels; 520 × 400 unless set.
    pub fn size(mut self, width: f64, height: f64) -> Self {
        self.inner.size = (width, height);
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
        assert_eq!(figure.svg().matches("h.01").count(), 50 + 1, "points and the legend's key");
    }
}
