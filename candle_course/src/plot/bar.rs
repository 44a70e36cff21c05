//! Bars.

use plotters::element::Rectangle;
use plotters::style::text_anchor::HPos;
use plotters::style::{Color, WHITE};

use super::axis::{Axis, alike, check_range, padded};
use super::figure::{Area, Chart, Figure};
use super::frame::{Frame, Key, line, px, stroke, write};
use super::palette::{MUTED, TEXT, color};
use super::series::PLAIN;
use super::svg::Words;
use super::text;
use crate::error::{Error, Result};
use crate::setters::setters;

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

    setters! {
        /// What the categories are.
        x_label(label: &str) => category_label = label.into();
        /// What the lengths of the bars are, with the unit.
        y_label(label: &str) => label = label.into();
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

    setters! {
        /// Bars that run to the right, with the categories as rows: for long names.
        horizontal() => horizontal = true;
        /// Series on top of each other instead of side by side.
        stacked() => stacked = true;
        /// Whether numbers stand at the bars; unless set, where they have room.
        numbers(show: bool) => numbers = Some(show);
        /// The range of the values' axis instead of that of the data.
        y_range(low: f64, high: f64) => range = Some((low, high));
        /// Width and height in pixels; 640 × 360 unless set, and taller for many horizontal rows.
        size(width: f64, height: f64) => size = Some((width, height));
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
        check_range("y_range", self.range)?;
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

    fn draw(&self, area: &Area) -> Result<()> {
        self.draw_with(area, self.legend())
    }

    fn legend(&self) -> Vec<(Key, String)> {
        let named = self.series.iter().enumerate().filter(|(_, (name, ..))| !name.is_empty());
        named.map(|(i, (name, ..))| (Key::Box { color: color(i).to_rgba() }, name.clone())).collect()
    }

    fn draw_bare(&self, area: &Area) -> Result<()> {
        self.draw_with(area, Vec::new())
    }
}

impl BarChart {
    fn draw_with(&self, area: &Area, legend: Vec<(Key, String)>) -> Result<()> {
        let (low, high) = self.range.unwrap_or_else(|| self.values_range());
        let whole = self.series.iter().all(|(_, values, _)| values.iter().all(|value| value.fract() == 0.0));
        let values = Axis::values(low, high, false, whole);
        let names = Axis::names(&self.categories);
        let frame = Frame {
            title: &self.title,
            x_label: if self.horizontal { &self.label } else { &self.category_label },
            y_label: if self.horizontal { &self.category_label } else { &self.label },
            legend,
            x: if self.horizontal { values.clone() } else { names.clone() },
            y: if self.horizontal { Axis { downwards: true, ..names } } else { values },
        };
        let plot = frame.draw(area)?;
        // A point along the bars and across them, as a point of the plot.
        let turn = |along: f64, across: f64| if self.horizontal { (along, across) } else { (across, along) };
        let (x, y) = (plot.backend_coord(&turn(low, 0.0)), plot.backend_coord(&turn(low, 1.0)));
        let pixel = f64::from(px(1.0)) / f64::from((y.0 - x.0).abs().max((y.1 - x.1).abs()).max(1));
        let side_by_side = if self.stacked { 1 } else { self.series.len() };
        let thickness = 0.8 / side_by_side as f64;

        // All numbers of the chart are written alike.
        let all: Vec<f64> = self.series.iter().flat_map(|(_, values, _)| values.iter().copied()).collect();
        let texts = alike(&all);
        let widest = texts.iter().map(|t| text::width(t, 11.0, false)).fold(0.0, f64::max);
        let room = if self.horizontal { 11.0 - 2.0 } else { widest - 3.0 } <= thickness / pixel;
        let numbers = self.numbers.unwrap_or(room && !self.stacked);

        for (index, (_, values, errors)) in self.series.iter().enumerate() {
            let lane = if self.stacked { 0 } else { index };
            for category in 0..values.len() {
                let center = category as f64 + (lane as f64 + 0.5 - side_by_side as f64 / 2.0) * thickness;
                let (start, end) = self.span(index, category);
                // A white line between neighbours that are wide enough.
                let half = (thickness - if thickness > 6.0 * pixel { pixel } else { 0.0 }) / 2.0;
                let corners = [turn(start, center - half), turn(end, center + half)];
                plot.plotting_area().draw(&Rectangle::new(corners, color(index).filled()))?;
                let mut tip = end;
                if let Some(errors) = errors {
                    let ends = [end - errors[category], end + errors[category]];
                    let cap = |at: f64| vec![turn(at, center - 3.0 * pixel), turn(at, center + 3.0 * pixel)];
                    let whisker = vec![turn(ends[0], center), turn(ends[1], center)];
                    for points in [whisker, cap(ends[0]), cap(ends[1])] {
                        line(plot.plotting_area(), points, PLAIN, stroke(TEXT, 1.3))?;
                    }
                    tip = if end < 0.0 { ends[0] } else { ends[1] };
                }
                if numbers {
                    let words = Words::new(&texts[index * self.categories.len() + category], 11.0);
                    let middle = plot.backend_coord(&turn((start.max(low) + end.min(high)) / 2.0, center));
                    let (x, y) = plot.backend_coord(&turn(if self.stacked { start } else { tip }, center));
                    let length = 2.0 * f64::from((x - middle.0).abs().max((y - middle.1).abs())) / f64::from(px(1.0));
                    match (self.stacked, self.horizontal, end < 0.0) {
                        // A number inside a stacked bar needs a bar of its height.
                        (true, ..) if length < 12.0 => {}
                        (true, ..) => write(area, (middle.0, middle.1 + px(4.0)), words.color(WHITE))?,
                        (_, true, false) => {
                            write(area, (x + px(4.0), y + px(4.0)), Words { anchor: HPos::Left, ..words })?;
                        }
                        (_, true, true) => {
                            write(area, (x - px(4.0), y + px(4.0)), Words { anchor: HPos::Right, ..words })?;
                        }
                        (_, false, negative) => write(area, (x, y + px(if negative { 12.0 } else { -4.0 })), words)?,
                    }
                }
            }
        }
        if low < 0.0 && high > 0.0 {
            let ends = vec![turn(0.0, -0.5), turn(0.0, self.categories.len() as f64 - 0.5)];
            line(plot.plotting_area(), ends, PLAIN, stroke(MUTED, 1.0))?;
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
        // Both bars are corners of one path: `Mx yh…v…h…z`.
        let path = figure.svg().split("fill=\"#0072b2\" d=\"").nth(1).unwrap().split('"').next().unwrap();
        let height = |bar: &str| bar.split('v').nth(1).unwrap().split('h').next().unwrap().parse::<f64>().unwrap();
        let heights: Vec<f64> = path.split_terminator('z').map(height).collect();
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
    fn numbers_have_the_same_decimals() {
        let figure = BarChart::builder("").categories(&["a", "b", "c"]).bars("", &[0.5, 0.25, 0.75]).build().unwrap();
        for number in [">0.50<", ">0.25<", ">0.75<"] {
            assert!(figure.svg().contains(number), "{number}");
        }
    }

    #[test]
    fn values_far_from_zero_have_different_labels() {
        let figure = BarChart::builder("").categories(&["a", "b"]).bars("", &[0.703147, 0.703149]);
        let svg = figure.y_range(0.703146, 0.70315).build().unwrap().svg().to_owned();
        assert!(svg.contains(">0.703147<") && svg.contains(">0.703149<"), "{svg}");
    }

    #[test]
    fn names_of_many_categories_leave_room_for_each_other() {
        let names: Vec<String> = (0..300).map(|i| format!("class {i}")).collect();
        let values: Vec<f64> = (0..300).map(f64::from).collect();
        let chart = BarChart::builder("").categories(&names).bars("", &values);
        for figure in [chart.clone().build().unwrap(), chart.horizontal().size(640.0, 900.0).build().unwrap()] {
            let shown = figure.svg().matches(">class ").count();
            assert!((20..=80).contains(&shown), "{shown}");
        }
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
