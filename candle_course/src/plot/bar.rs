//! Bars.

use super::axes::{Axis, Frame, Key};
use super::canvas::{Canvas, Style};
use super::figure::{Chart, Figure};
use super::palette::{TEXT, color};
use super::scale::{compact, padded};
use super::text;
use crate::error::{Error, Result};

/// Bars per category, one or several series side by side.
///
/// # Examples
///
/// ```
/// use candle_course::plot::BarChart;
///
/// let figure = BarChart::builder("Recall per class")
///     .y_label("recall")
///     .categories(&["cat", "dog", "ship"])
///     .bars("no balancing", &[0.31, 0.78, 0.85])
///     .bars("weighted sampler", &[0.58, 0.74, 0.83])
///     .build()?;
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Debug, Clone)]
#[must_use = "a chart does nothing until `build`"]
pub struct BarChart {
    title: String,
    label: String,
    category_label: String,
    categories: Vec<String>,
    series: Vec<(String, Vec<f64>, Option<Vec<f64>>)>,
    range: Option<(f64, f64)>,
    horizontal: bool,
    stacked: bool,
    numbers: Option<bool>,
    size: Option<(f64, f64)>,
}

impl BarChart {
    /// An empty chart with a title (may be empty).
    pub fn builder(title: &str) -> Self {
        Self {
            title: title.into(),
            label: String::new(),
            category_label: String::new(),
            categories: Vec::new(),
            series: Vec::new(),
            range: None,
            horizontal: false,
            stacked: false,
            numbers: None,
            size: None,
        }
    }

    /// What the categories are.
    pub fn x_label(mut self, label: &str) -> Self {
        self.category_label = label.into();
        self
    }

    /// What the lengths of the bars are, with the unit.
    pub fn y_label(mut self, label: &str) -> Self {
        self.label = label.into();
        self
    }

    /// The names of the categories, in order.
    pub fn categories<S: AsRef<str>>(mut self, names: &[S]) -> Self {
        self.categories = names.iter().map(|name| name.as_ref().to_string()).collect();
        self
    }

    /// A series: one value per category.
    pub fn bars(mut self, name: &str, values: &[f64]) -> Self {
        self.series.push((name.into(), values.to_vec(), None));
        self
    }

    /// A series with whiskers of `errors` above and below each value (a standard deviation, say).
    pub fn bars_with_errors(mut self, name: &str, values: &[f64], errors: &[f64]) -> Self {
        self.series.push((name.into(), values.to_vec(), Some(errors.to_vec())));
        self
    }

    /// Bars that run to the right, with the categories as rows: for long names.
    pub fn horizontal(mut self) -> Self {
        self.horizontal = true;
        self
    }

    /// Series on top of each other instead of side by side.
    pub fn stacked(mut self) -> Self {
        self.stacked = true;
        self
    }

    /// Whether numbers stand at the bars; unless set, where they have room.
    pub fn numbers(mut self, show: bool) -> Self {
        self.numbers = Some(show);
        self
    }

    /// The range of the values' axis instead of that of the data.
    pub fn y_range(mut self, low: f64, high: f64) -> Self {
        self.range = Some((low, high));
        self
    }

    /// Width and height in pixels; 640 × 360 unless set, and taller for many horizontal rows.
    pub fn size(mut self, width: f64, height: f64) -> Self {
        self.size = Some((width, height));
        self
    }

    /// Draws the chart.
    ///
    /// # Errors
    ///
    /// When there is no series or no category, a series has not one finite value per category, or
    /// negative values are stacked.
    pub fn build(self) -> Result<Figure> {
        if self.series.is_empty() {
            return Err(
                Error::argument("series", "at least one", "none").hint("did you forget `.bars(name, &values)`?")
            );
        }
        if self.categories.is_empty() {
            return Err(Error::argument("categories", "at least one name", "none"));
        }
        for (name, values, errors) in &self.series {
            for (what, numbers) in [("value", Some(values)), ("error", errors.as_ref())] {
                let Some(numbers) = numbers else { continue };
                if numbers.len() != self.categories.len() {
                    let expected = format!("one {what} for each of the {} categories", self.categories.len());
                    return Err(Error::argument(name, expected, numbers.len()));
                }
                if let Some(bad) = numbers.iter().find(|number| !number.is_finite()) {
                    return Err(Error::argument(name, format!("finite {what}s"), bad)
                        .hint("is a metric undefined for a class without examples?"));
                }
            }
            if self.stacked && (errors.is_some() || values.iter().any(|&value| value < 0.0)) {
                return Err(Error::argument(
                    name,
                    "non-negative values without errors in a stacked chart",
                    "other ones",
                ));
            }
        }
        if let Some((low, high)) = self.range.filter(|(low, high)| !(low < high && low.is_finite() && high.is_finite()))
        {
            return Err(Error::argument("y_range", "a finite low below a finite high", format!("{low} to {high}")));
        }
        Figure::new(self)
    }

    /// Start and end of the bar of one series in one category.
    fn span(&self, series: usize, category: usize) -> (f64, f64) {
        if !self.stacked {
            return (0.0, self.series[series].1[category]);
        }
        let below: f64 = self.series[..series].iter().map(|(_, values, _)| values[category]).sum();
        (below, below + self.series[series].1[category])
    }

    fn values_range(&self) -> (f64, f64) {
        let (mut low, mut high) = (0f64, 0f64);
        for (index, (_, values, errors)) in self.series.iter().enumerate() {
            for category in 0..values.len() {
                let error = errors.as_ref().map_or(0.0, |errors| errors[category].abs());
                let end = self.span(index, category).1;
                low = low.min(end - error);
                high = high.max(end + error);
            }
        }
        padded(low, high, false, 0.07)
    }
}

impl Chart for BarChart {
    fn title(&self) -> &str {
        &self.title
    }

    fn size(&self) -> (f64, f64) {
        let rows = self.categories.len() as f64 * if self.stacked { 1.0 } else { self.series.len() as f64 };
        self.size.unwrap_or(if self.horizontal { (640.0, (110.0 + 20.0 * rows).max(200.0)) } else { (640.0, 360.0) })
    }

    fn draw(&self, canvas: &mut Canvas, size: (f64, f64)) -> Result<()> {
        let (low, high) = self.range.unwrap_or_else(|| self.values_range());
        let integers = self.series.iter().all(|(_, values, _)| values.iter().all(|value| value.fract() == 0.0));
        let values = Axis::Values { low, high, log: false, integers };
        let names = Axis::Names(self.categories.clone());
        let legend = self.series.iter().enumerate().filter(|(_, (name, ..))| !name.is_empty());
        let frame = Frame {
            title: &self.title,
            x_label: if self.horizontal { &self.label } else { &self.category_label },
            y_label: if self.horizontal { &self.category_label } else { &self.label },
            legend: legend
                .map(|(i, (name, ..))| (Key::Box { color: color(i).into(), opacity: 1.0 }, name.clone()))
                .collect(),
            x: if self.horizontal { values.clone() } else { names.clone() },
            y: if self.horizontal { names } else { values },
        };
        let area = frame.draw(canvas, size);
        let (along, across) = if self.horizontal { (area.x, area.y) } else { (area.y, area.x) };
        let slot = (across.at(1.0) - across.at(0.0)).abs();
        let side_by_side = if self.stacked { 1 } else { self.series.len() };
        let thickness = 0.8 * slot / side_by_side as f64;

        let widest = |values: &[f64]| values.iter().map(|&v| text::width(&compact(v), 11.0, false)).fold(0.0, f64::max);
        let room = if self.horizontal {
            thickness + 2.0 >= 11.0
        } else {
            self.series.iter().all(|(_, v, _)| widest(v) <= thickness + 3.0)
        };
        let numbers = self.numbers.unwrap_or(room && !self.stacked);

        for (index, (_, values, errors)) in self.series.iter().enumerate() {
            let lane = if self.stacked { 0 } else { index };
            for category in 0..values.len() {
                let center = across.at(category as f64) + (lane as f64 + 0.5 - side_by_side as f64 / 2.0) * thickness;
                let (start, end) = self.span(index, category);
                let (a, b) = (along.at(start.clamp(low, high)), along.at(end.clamp(low, high)));
                let thin = thickness - if thickness > 6.0 { 1.0 } else { 0.0 };
                let corner =
                    if self.horizontal { (a.min(b), center - thin / 2.0) } else { (center - thin / 2.0, a.min(b)) };
                let extent = if self.horizontal { ((a - b).abs(), thin) } else { (thin, (a - b).abs()) };
                canvas.rect(corner, extent, color(index), "");
                let mut tip = b;
                if let Some(errors) = errors {
                    let ends = [end - errors[category], end + errors[category]].map(|v| along.at(v.clamp(low, high)));
                    let point =
                        |at: f64, off: f64| if self.horizontal { (at, center + off) } else { (center + off, at) };
                    canvas.line(point(ends[0], 0.0), point(ends[1], 0.0), TEXT, 1.3, "");
                    for at in ends {
                        canvas.line(point(at, -3.0), point(at, 3.0), TEXT, 1.3, "");
                    }
                    tip = if end < 0.0 { ends[0] } else { ends[1] };
                }
                // A number inside a stacked bar needs a bar of its height.
                if numbers && !(self.stacked && (a - b).abs() < 12.0) {
                    let label = compact(values[category]);
                    let style = Style::new(11.0);
                    match (self.horizontal, self.stacked, end < 0.0) {
                        (true, true, _) => {
                            canvas.text(((a + b) / 2.0, center + 4.0), &label, style.middle().color("#fff"))
                        }
                        (false, true, _) => {
                            canvas.text((center, (a + b) / 2.0 + 4.0), &label, style.middle().color("#fff"))
                        }
                        (true, false, false) => canvas.text((tip + 4.0, center + 4.0), &label, style),
                        (true, false, true) => canvas.text((tip - 4.0, center + 4.0), &label, style.end()),
                        (false, false, false) => canvas.text((center, tip - 4.0), &label, style.middle()),
                        (false, false, true) => canvas.text((center, tip + 12.0), &label, style.middle()),
                    }
                }
            }
        }
        if low < 0.0 && high > 0.0 {
            let zero = along.at(0.0);
            let (from, to) = if self.horizontal {
                ((zero, area.origin.1), (zero, area.bottom()))
            } else {
                ((area.origin.0, zero), (area.right(), zero))
            };
            canvas.line(from, to, "#555", 1.0, "");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_have_the_height_of_their_values() {
        let figure =
            BarChart::builder("").categories(&["a", "b"]).bars("", &[10.0, 5.0]).y_range(0.0, 10.0).build().unwrap();
        let heights: Vec<f64> = figure
            .svg()
            .split("<rect ")
            .filter(|part| part.contains("#0072B2"))
            .map(|part| part.split("height=\"").nth(1).unwrap().split('"').next().unwrap().parse().unwrap())
            .collect();
        assert_eq!(heights.len(), 2);
        assert!((heights[0] / heights[1] - 2.0).abs() < 1e-2, "{heights:?}");
    }

    #[test]
    fn stacked_bars_begin_where_the_last_ended() {
        let chart = BarChart::builder("").categories(&["a"]).bars("x", &[3.0]).bars("y", &[4.0]).stacked();
        assert_eq!((chart.span(0, 0), chart.span(1, 0)), ((0.0, 3.0), (3.0, 7.0)));
        assert!(chart.values_range().1 >= 7.0);
    }

    #[test]
    fn errors_say_what_is_wrong() {
        let message = |chart: BarChart| chart.build().unwrap_err().to_string();
        assert!(message(BarChart::builder("").categories(&["a"])).contains("did you forget `.bars"));
        assert!(
            message(BarChart::builder("").categories(&["a", "b"]).bars("x", &[1.0]))
                .contains("each of the 2 categories, got 1")
        );
        assert!(message(BarChart::builder("").categories(&["a"]).bars("x", &[f64::NAN])).contains("undefined"));
        assert!(message(BarChart::builder("").categories(&["a"]).bars("x", &[-1.0]).stacked()).contains("stacked"));
    }
}
