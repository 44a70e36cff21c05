//! Matrices as colours.

use super::axes::{SMALL, title};
use super::canvas::{Canvas, Style};
use super::figure::{Chart, Figure};
use super::palette::{MUTED, diverging, hex, on, sequential};
use super::scale::{compact, padded, ticks};
use super::text;
use crate::error::{Error, Result};

/// A matrix as coloured cells with numbers in them; a confusion matrix in particular.
///
/// # Examples
///
/// ```
/// use candle_course::plot::HeatMap;
///
/// let counts = [vec![48, 2], vec![7, 3]];
/// let figure = HeatMap::confusion("Test set", &counts, &["forest", "water"]).build()?;
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Debug, Clone)]
#[must_use = "a chart does nothing until `build`"]
pub struct HeatMap {
    title: String,
    x_label: String,
    y_label: String,
    rows: Vec<String>,
    columns: Vec<String>,
    values: Vec<Vec<f64>>,
    /// Texts of the cells where they are not the values.
    texts: Option<Vec<Vec<String>>>,
    decimals: Option<usize>,
    numbers: Option<bool>,
    diverging: bool,
    range: Option<(f64, f64)>,
    cell: Option<(f64, f64)>,
}

impl HeatMap {
    /// A matrix given by its rows, with a title (may be empty).
    pub fn builder(title: &str, values: &[Vec<f64>]) -> Self {
        Self {
            title: title.into(),
            x_label: String::new(),
            y_label: String::new(),
            rows: Vec::new(),
            columns: Vec::new(),
            values: values.to_vec(),
            texts: None,
            decimals: None,
            numbers: None,
            diverging: false,
            range: None,
            cell: None,
        }
    }

    /// A confusion matrix: `counts[true][predicted]`, with the class names.
    ///
    /// The cells show counts; their colour is the share of the row, so that a rare class is as
    /// visible as a common one and the diagonal shows the recall.
    pub fn confusion<S: AsRef<str>>(title: &str, counts: &[Vec<u64>], classes: &[S]) -> Self {
        let share = |row: &Vec<u64>| {
            let total = row.iter().sum::<u64>().max(1) as f64;
            row.iter().map(|&count| count as f64 / total).collect()
        };
        let mut map = Self::builder(title, &counts.iter().map(share).collect::<Vec<_>>())
            .row_labels(classes)
            .column_labels(classes)
            .x_label("predicted")
            .y_label("true")
            .range(0.0, 1.0);
        map.texts = Some(counts.iter().map(|row| row.iter().map(u64::to_string).collect()).collect());
        map
    }

    /// What the columns are.
    pub fn x_label(mut self, label: &str) -> Self {
        self.x_label = label.into();
        self
    }

    /// What the rows are.
    pub fn y_label(mut self, label: &str) -> Self {
        self.y_label = label.into();
        self
    }

    /// Names of the rows, from the top.
    pub fn row_labels<S: AsRef<str>>(mut self, names: &[S]) -> Self {
        self.rows = names.iter().map(|name| name.as_ref().to_string()).collect();
        self
    }

    /// Names of the columns, from the left.
    pub fn column_labels<S: AsRef<str>>(mut self, names: &[S]) -> Self {
        self.columns = names.iter().map(|name| name.as_ref().to_string()).collect();
        self
    }

    /// Decimals of the numbers in the cells; unless set, up to four significant digits.
    pub fn decimals(mut self, decimals: usize) -> Self {
        self.decimals = Some(decimals);
        self
    }

    /// Whether the cells show numbers; unless set, up to 20 × 20 cells do.
    pub fn numbers(mut self, show: bool) -> Self {
        self.numbers = Some(show);
        self
    }

    /// Two colours away from zero, for signed values.
    pub fn diverging(mut self) -> Self {
        self.diverging = true;
        self
    }

    /// The values at the two ends of the colours, instead of the smallest and the largest.
    pub fn range(mut self, low: f64, high: f64) -> Self {
        self.range = Some((low, high));
        self
    }

    /// Width and height of a cell in pixels.
    pub fn cell_size(mut self, width: f64, height: f64) -> Self {
        self.cell = Some((width, height));
        self
    }

    /// Draws the matrix.
    ///
    /// # Errors
    ///
    /// When the matrix is empty, its rows differ in length, a value is not finite, or the labels are
    /// not as many as rows and columns.
    pub fn build(self) -> Result<Figure> {
        let columns = self.values.first().map_or(0, Vec::len);
        if columns == 0 {
            return Err(Error::argument("values", "at least one row and one column", "an empty matrix"));
        }
        for (index, row) in self.values.iter().enumerate() {
            if row.len() != columns {
                return Err(Error::argument(
                    "values",
                    format!("{columns} columns in every row"),
                    format!("{} in row {index}", row.len()),
                ));
            }
            if let Some(bad) = row.iter().find(|value| !value.is_finite()) {
                return Err(Error::argument("values", "finite values", format!("{bad} in row {index}")));
            }
        }
        for (name, labels, count) in
            [("row_labels", &self.rows, self.values.len()), ("column_labels", &self.columns, columns)]
        {
            if !labels.is_empty() && labels.len() != count {
                return Err(Error::argument(name, format!("{count} names"), labels.len()));
            }
        }
        if let Some((low, high)) = self.range.filter(|(low, high)| !(low < high && low.is_finite() && high.is_finite()))
        {
            return Err(Error::argument("range", "a finite low below a finite high", format!("{low} to {high}")));
        }
        Figure::new(self)
    }

    fn texts(&self) -> Vec<Vec<String>> {
        if let Some(texts) = &self.texts {
            return texts.clone();
        }
        let text = |&value: &f64| match self.decimals {
            Some(decimals) => format!("{value:.decimals$}").replacen('-', "−", 1),
            None => compact(value),
        };
        self.values.iter().map(|row| row.iter().map(text).collect()).collect()
    }

    fn layout(&self) -> Layout {
        let (rows, columns) = (self.values.len(), self.values[0].len());
        let widest =
            |names: &[String]| names.iter().map(|name| text::width(name, SMALL, false)).fold(0.0, f64::max).min(140.0);
        let numbers = self.numbers.unwrap_or(rows <= 20 && columns <= 20);
        let number_width = if numbers {
            self.texts().iter().flatten().map(|t| text::width(t, SMALL, false)).fold(0.0, f64::max) + 12.0
        } else {
            2.0
        };
        let room = (720.0 / columns.max(rows) as f64).clamp(3.0, 44.0);
        let cell = self.cell.unwrap_or((room.max(number_width), room.min(34.0).max(if numbers { 22.0 } else { 3.0 })));
        let turned = widest(&self.columns) + 6.0 > cell.0;
        let label = |text: &str| if text.is_empty() { 0.0 } else { 20.0 };
        Layout {
            cell,
            numbers,
            turned,
            left: 12.0 + label(&self.y_label) + if self.rows.is_empty() { 0.0 } else { widest(&self.rows) + 7.0 },
            below: 10.0
                + label(&self.x_label)
                + match (self.columns.is_empty(), turned) {
                    (true, _) => 0.0,
                    (false, true) => 12.0 + 0.6 * widest(&self.columns),
                    (false, false) => 20.0,
                },
            top: if self.title.is_empty() { 12.0 } else { 34.0 },
        }
    }

    fn color_range(&self) -> (f64, f64) {
        let values = || self.values.iter().flatten().copied();
        let (low, high) =
            self.range.unwrap_or((values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max)));
        if self.diverging {
            let far = low.abs().max(high.abs()).max(f64::MIN_POSITIVE);
            return (-far, far);
        }
        if low < high { (low, high) } else { padded(low, high, false, 0.0) }
    }

    fn color(&self, value: f64, (low, high): (f64, f64)) -> [u8; 3] {
        let position = (value - low) / (high - low);
        if self.diverging { diverging(position) } else { sequential(position) }
    }
}

struct Layout {
    cell: (f64, f64),
    numbers: bool,
    turned: bool,
    left: f64,
    below: f64,
    top: f64,
}

/// Width of the colour bar with its labels.
const BAR: f64 = 76.0;

impl Chart for HeatMap {
    fn title(&self) -> &str {
        &self.title
    }

    fn size(&self) -> (f64, f64) {
        let layout = self.layout();
        let grid = (layout.cell.0 * self.values[0].len() as f64, layout.cell.1 * self.values.len() as f64);
        let title = text::width(&self.title, 15.0, true) + 24.0;
        ((layout.left + grid.0 + BAR).max(title.min(640.0)), layout.top + grid.1.max(60.0) + layout.below)
    }

    fn flexible(&self) -> bool {
        false
    }

    fn draw(&self, canvas: &mut Canvas, (width, height): (f64, f64)) -> Result<()> {
        title(canvas, &self.title, width);
        let layout = self.layout();
        let (cell_width, cell_height) = layout.cell;
        let range = self.color_range();
        let texts = self.texts();
        let grid = (cell_width * self.values[0].len() as f64, cell_height * self.values.len() as f64);
        let left = layout.left + ((width - layout.left - grid.0 - BAR) / 2.0).max(0.0);
        let gap = if cell_width.min(cell_height) > 12.0 { 1.0 } else { 0.0 };
        for (row, values) in self.values.iter().enumerate() {
            for (column, &value) in values.iter().enumerate() {
                let ground = self.color(value, range);
                let corner = (left + column as f64 * cell_width, layout.top + row as f64 * cell_height);
                let edges = if gap == 0.0 { r#" shape-rendering="crispEdges""# } else { "" };
                canvas.rect(corner, (cell_width - gap, cell_height - gap), &hex(ground), edges);
                if layout.numbers {
                    let center = (corner.0 + cell_width / 2.0, corner.1 + cell_height / 2.0 + 4.0);
                    canvas.text(center, &texts[row][column], Style::new(SMALL).middle().color(on(ground)));
                }
            }
        }
        let bottom = layout.top + grid.1;
        for (row, name) in self.rows.iter().enumerate() {
            let y = layout.top + (row as f64 + 0.5) * cell_height + 4.0;
            canvas.text((left - 7.0, y), &text::fit(name, SMALL, 140.0), Style::new(SMALL).color(MUTED).end());
        }
        for (column, name) in self.columns.iter().enumerate() {
            let x = left + (column as f64 + 0.5) * cell_width;
            let name = text::fit(name, SMALL, 140.0);
            if layout.turned {
                canvas.text((x + 4.0, bottom + 14.0), &name, Style::new(SMALL).color(MUTED).end().turned(-35));
            } else {
                canvas.text((x, bottom + 16.0), &name, Style::new(SMALL).color(MUTED).middle());
            }
        }
        canvas.text((left + grid.0 / 2.0, height - 11.0), &self.x_label, Style::new(13.0).middle());
        let side = left - layout.left + 18.0;
        canvas.text((side, layout.top + grid.1 / 2.0), &self.y_label, Style::new(13.0).middle().turned(-90));
        self.draw_bar(canvas, (left + grid.0 + 18.0, layout.top), grid.1.clamp(60.0, 360.0), range);
        Ok(())
    }
}

impl HeatMap {
    fn draw_bar(&self, canvas: &mut Canvas, (x, top): (f64, f64), height: f64, (low, high): (f64, f64)) {
        const STEPS: usize = 48;
        let step = height / STEPS as f64;
        for index in 0..STEPS {
            let value = high - (high - low) * (index as f64 + 0.5) / STEPS as f64;
            let color = hex(self.color(value, (low, high)));
            canvas.rect((x, top + index as f64 * step), (14.0, step + 0.5), &color, "");
        }
        for tick in ticks(low, high, false, (height / 40.0) as usize, false) {
            let y = top + height * (high - tick.value) / (high - low);
            canvas.line((x + 14.0, y), (x + 17.0, y), MUTED, 1.0, "");
            let label = if self.texts.is_some() { format!("{:.0} %", 100.0 * tick.value) } else { tick.label };
            canvas.text((x + 20.0, y + 4.0), &label, Style::new(11.0).color(MUTED));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_confusion_matrix_shows_counts_and_colours_shares() {
        let map = HeatMap::confusion("t", &[vec![90, 10], vec![1, 1]], &["a", "b"]);
        assert_eq!(map.values, [[0.9, 0.1], [0.5, 0.5]]);
        let figure = map.build().unwrap();
        for text in [">90<", ">10<", ">predicted<", ">true<", ">100 %<"] {
            assert!(figure.svg().contains(text), "{text}");
        }
    }

    #[test]
    fn a_class_without_examples_is_no_division_by_zero() {
        HeatMap::confusion("t", &[vec![3, 1], vec![0, 0]], &["a", "b"]).build().unwrap();
    }

    #[test]
    fn errors_say_what_is_wrong() {
        let message = |map: HeatMap| map.build().unwrap_err().to_string();
        assert!(message(HeatMap::builder("", &[])).contains("empty matrix"));
        assert!(message(HeatMap::builder("", &[vec![1.0], vec![]])).contains("0 in row 1"));
        assert!(
            message(HeatMap::builder("", &[vec![1.0]]).row_labels(&["a", "b"]))
                .contains("`row_labels`: expected 1 names, got 2")
        );
    }
}
