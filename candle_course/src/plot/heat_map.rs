//! Matrices as colours.

use plotters::chart::ChartBuilder;
use plotters::element::Rectangle;
use plotters::style::{Color, RGBColor};

use super::axis::{Axis, check_range, compact, padded};
use super::figure::{Area, Chart, Figure};
use super::frame::{LONGEST, MARGIN, Margins, SMALL, font, label_room, names_room, picture, plot, px, stroke, title};
use super::frame::{widest, write};
use super::palette::{AXIS, MUTED, diverging, on, sequential};
use super::raster::encode;
use super::svg::Words;
use super::text;
use crate::error::{Error, Result};
use crate::language::label;
use crate::setters::setters;

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
            .x_label(label("predicted"))
            .y_label(label("true"))
            .range(0.0, 1.0);
        map.texts = Some(counts.iter().map(|row| row.iter().map(u64::to_string).collect()).collect());
        map
    }

    setters! {
        /// What the columns are.
        x_label(label: &str) => x_label = label.into();
        /// What the rows are.
        y_label(label: &str) => y_label = label.into();
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

    setters! {
        /// Decimals of the numbers in the cells; unless set, up to four significant digits.
        decimals(decimals: usize) => decimals = Some(decimals);
        /// Whether the cells show numbers; unless set, up to 20 × 20 cells do.
        numbers(show: bool) => numbers = Some(show);
        /// Two colours away from zero, for signed values.
        diverging() => diverging = true;
        /// The values at the two ends of the colours, instead of the smallest and the largest.
        range(low: f64, high: f64) => range = Some((low, high));
        /// Width and height of a cell in pixels.
        cell_size(width: f64, height: f64) => cell = Some((width, height));
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
        check_range("range", self.range)?;
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
        let axis = |names: &[String], count| if names.is_empty() { Axis::places(count) } else { Axis::names(names) };
        let (x, y) = (axis(&self.columns, columns), Axis { downwards: true, ..axis(&self.rows, rows) });
        let numbers = self.numbers.unwrap_or(rows <= 20 && columns <= 20);
        let number_width = if numbers {
            self.texts().iter().flatten().map(|t| text::width(t, SMALL, false)).fold(0.0, f64::max) + 12.0
        } else {
            0.0
        };
        let room = (720.0 / columns.max(rows) as f64).clamp(1.0, 44.0);
        let cell = self.cell.unwrap_or((room.max(number_width), room.min(34.0).max(if numbers { 22.0 } else { 1.0 })));
        let (names, turned) = if self.columns.is_empty() { (0.0, false) } else { names_room(&x, cell.0) };
        let beside = if self.rows.is_empty() { 0.0 } else { widest(&y).min(LONGEST) + 7.0 };
        let margins = Margins {
            left: MARGIN + label_room(&self.y_label) + beside,
            right: BAR,
            top: if self.title.is_empty() { MARGIN } else { 34.0 },
            bottom: 10.0 + label_room(&self.x_label) + names,
            turned,
        };
        Layout {
            grid: (cell.0 * columns as f64, cell.1 * rows as f64),
            gap: cell.0.min(cell.1) > 12.0,
            numbers,
            margins,
            x,
            y,
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

    fn position(&self, value: f64, (low, high): (f64, f64)) -> f64 {
        // Halves: the difference of two numbers may be too large for one.
        ((value / 2.0 - low / 2.0) / (high / 2.0 - low / 2.0)).clamp(0.0, 1.0)
    }

    fn color(&self, value: f64, (low, high): (f64, f64)) -> [u8; 3] {
        let position = self.position(value, (low, high));
        if self.diverging { diverging(position) } else { sequential(position) }
    }
}

struct Layout {
    /// Width and height of all cells together.
    grid: (f64, f64),
    /// Whether there is a white line between cells.
    gap: bool,
    numbers: bool,
    margins: Margins,
    x: Axis,
    y: Axis,
}

/// Width of the colour bar with its labels, and of the space before it.
const BAR: f64 = 76.0;
const SPACE: f64 = 18.0;

/// Cells without numbers beyond which the map is an image.
const MOST_CELLS: usize = 400;

impl Chart for HeatMap {
    fn title(&self) -> &str {
        &self.title
    }

    fn size(&self) -> (f64, f64) {
        let Layout { grid, margins, .. } = self.layout();
        let title = text::width(&self.title, 15.0, true) + 24.0;
        let width = margins.left + grid.0 + margins.right;
        (width.max(title.min(640.0)), margins.top + grid.1.max(60.0) + margins.bottom)
    }

    fn flexible(&self) -> bool {
        false
    }

    fn draw(&self, area: &Area) -> Result<()> {
        let (width, height) = super::frame::size(area);
        title(area, &self.title)?;
        let Layout { grid, gap, numbers, margins, x, y } = self.layout();
        let beside = ((width - margins.left - grid.0 - margins.right) / 2.0).max(0.0);
        let middle = area.margin(0, 0, px(beside), px(beside));
        let margins = Margins { bottom: height - margins.top - grid.1, ..margins };
        let plot = plot(&middle, margins, x, y, (&self.x_label, &self.y_label))?;
        let range = self.color_range();

        if !numbers && self.values.len() * self.values[0].len() > MOST_CELLS {
            let (x, y) = plot.plotting_area().get_pixel_range();
            let indices: Vec<u8> = self.values.iter().flatten().map(|&value| self.index(value, range)).collect();
            let png = self.png((self.values[0].len(), self.values.len()), &indices)?;
            picture(area, (x.start, y.start), (x.end, y.end), &png)?;
        } else {
            let cells = self.values.iter().enumerate().flat_map(|(row, values)| {
                values.iter().enumerate().map(move |(column, &value)| (column as f64, row as f64, value))
            });
            let mut cells: Vec<_> = cells.map(|(x, y, value)| (self.color(value, range), x, y)).collect();
            // Cells of one colour side by side share an element.
            cells.sort_by_key(|cell| cell.0);
            for &([red, green, blue], x, y) in &cells {
                let corners = [(x - 0.5, y - 0.5), (x + 0.5, y + 0.5)];
                let mut cell = Rectangle::new(corners, RGBColor(red, green, blue).filled());
                let gap = if gap { px(1.0) as u32 } else { 0 };
                plot.plotting_area().draw(cell.set_margin(0, gap, 0, gap))?;
            }
            let texts = if numbers { self.texts() } else { Vec::new() };
            for &(ground, x, y) in cells.iter().filter(|_| numbers) {
                let (x_at, y_at) = plot.backend_coord(&(x, y));
                let words = Words::new(&texts[y as usize][x as usize], SMALL).color(on(ground));
                write(area, (x_at, y_at + px(4.0)), words)?;
            }
        }
        let corner = (beside + margins.left + grid.0 + SPACE, margins.top);
        self.draw_bar(area, corner, grid.1.clamp(60.0, 360.0), range)
    }
}

impl HeatMap {
    fn index(&self, value: f64, range: (f64, f64)) -> u8 {
        (255.0 * self.position(value, range)).round() as u8
    }

    /// An image of the map's colours: 0 is the lowest value, 255 the highest.
    fn png(&self, (width, height): (usize, usize), indices: &[u8]) -> Result<Vec<u8>> {
        let palette = (0..=255).flat_map(|index| self.color(f64::from(index) / 255.0, (0.0, 1.0))).collect();
        encode(width, height, png::ColorType::Indexed, Some(palette), indices)
    }

    fn draw_bar(&self, area: &Area, (x, top): (f64, f64), height: f64, (low, high): (f64, f64)) -> Result<()> {
        const THICK: f64 = 14.0;
        let mut axis = Axis::values(low, high, false, false).with_ticks((height / 24.0) as usize);
        if self.texts.is_some() {
            axis.ticks.iter_mut().for_each(|tick| tick.label = format!("{:.0} %", 100.0 * tick.value));
        }
        let bar = area.clone().shrink((px(x), px(top)), (px(BAR - SPACE), px(height)));
        let mut chart = ChartBuilder::on(&bar)
            .right_y_label_area_size(px(BAR - SPACE - THICK))
            .build_cartesian_2d(Axis::places(1), axis)?;
        let (x, y) = chart.plotting_area().get_pixel_range();
        let indices: Vec<u8> = (0..48).map(|step| 255 - (step * 255 / 47) as u8).collect();
        picture(area, (x.start, y.start), (x.end, y.end), &self.png((1, indices.len()), &indices)?)?;
        let mut mesh = chart.configure_mesh();
        mesh.disable_mesh().axis_style(stroke(AXIS, 1.0)).label_style(font(11.0, MUTED));
        mesh.set_all_tick_mark_size(px(3.0)).draw()?;
        Ok(())
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
    fn a_large_map_is_a_small_image() {
        let values: Vec<Vec<f64>> =
            (0..128).map(|i| (0..784).map(|j| f64::from((i * 7919 + j * 104_729) % 1000) / 1000.0).collect()).collect();
        let figure = HeatMap::builder("Weights", &values).build().unwrap();
        assert!(figure.svg().len() < 250_000, "{}", figure.svg().len());
        let data = figure.svg().split("base64,").nth(1).unwrap().split('"').next().unwrap();
        let file = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, data).unwrap();
        let image = image::load_from_memory(&file).unwrap().to_rgb8();
        assert_eq!(image.dimensions(), (784, 128));
        let map = HeatMap::builder("", &values);
        for (row, column) in [(0, 0), (3, 500), (127, 783)] {
            let expected = map.color(values[row][column], map.color_range());
            let pixel = image.get_pixel(column as u32, row as u32).0;
            assert!((0..3).all(|c| pixel[c].abs_diff(expected[c]) <= 1), "{pixel:?} for {expected:?}");
        }
    }

    #[test]
    fn the_bar_tells_close_values_apart() {
        let figure = HeatMap::builder("", &[vec![1e6, 1e6 + 3.0]]).build().unwrap();
        assert!(figure.svg().contains(">1000002<"), "{}", figure.svg());
        for values in [[-1e308, 1e308], [0.0, 5e-324]] {
            let figure = HeatMap::builder("", &[values.to_vec()]).build().unwrap();
            assert!(!figure.svg().contains("NaN"));
        }
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
