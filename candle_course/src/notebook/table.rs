//! Tables.

use std::fmt;

use crate::language::chosen;
use crate::plot::compact;
use crate::text;

/// What stands in one cell of a [`Table`].
#[derive(Debug, Clone, PartialEq)]
pub struct Cell {
    text: String,
    number: bool,
}

impl Cell {
    /// A text, aligned to the left.
    pub fn text(text: impl Into<String>) -> Self {
        Self { text: text.into(), number: false }
    }

    /// A number written by the caller, aligned to the right.
    pub fn number(text: impl Into<String>) -> Self {
        Self { text: text.into(), number: true }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::text(text)
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::text(text)
    }
}

impl From<&String> for Cell {
    fn from(text: &String) -> Self {
        Self::text(text)
    }
}

impl From<bool> for Cell {
    fn from(value: bool) -> Self {
        Self::text(if value { chosen("yes", "sim") } else { chosen("no", "não") })
    }
}

impl From<f64> for Cell {
    /// Four significant digits.
    fn from(value: f64) -> Self {
        Self::number(compact(value))
    }
}

impl From<f32> for Cell {
    /// Four significant digits.
    fn from(value: f32) -> Self {
        Self::number(compact(f64::from(value)))
    }
}

macro_rules! integer_cells {
    ($($integer:ty)+) => {$(
        impl From<$integer> for Cell {
            fn from(value: $integer) -> Self {
                Self::number(value.to_string().replacen('-', "−", 1))
            }
        }
    )+};
}
integer_cells!(u8 u16 u32 u64 usize i8 i16 i32 i64 isize);

impl<T: Into<Cell>> From<Option<T>> for Cell {
    /// A dash where there is nothing.
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::number("–"), Into::into)
    }
}

/// A row of a [`Table`]: an array or vector of one type, or a tuple of several.
pub trait Row {
    /// The cells from the left.
    fn cells(self) -> Vec<Cell>;
}

impl<T: Into<Cell>, const N: usize> Row for [T; N] {
    fn cells(self) -> Vec<Cell> {
        self.into_iter().map(Into::into).collect()
    }
}

impl<T: Into<Cell>> Row for Vec<T> {
    fn cells(self) -> Vec<Cell> {
        self.into_iter().map(Into::into).collect()
    }
}

macro_rules! tuple_rows {
    ($(($($name:ident)+))+) => {$(
        impl<$($name: Into<Cell>),+> Row for ($($name,)+) {
            fn cells(self) -> Vec<Cell> {
                #[allow(non_snake_case)]
                let ($($name,)+) = self;
                vec![$($name.into()),+]
            }
        }
    )+};
}
tuple_rows! { (A) (A B) (A B C) (A B C D) (A B C D E) (A B C D E F) (A B C D E F G) (A B C D E F G H) (A B C D E F G H I) (A B C D E F G H I J) }

/// A table: HTML in a notebook, aligned text elsewhere.
///
/// Grows row by row, as a vector does. Numbers are aligned to the right and cut to four significant
/// digits; give a string to write them otherwise. A row that is shorter or longer than the header is
/// named under the table when it is shown.
///
/// # Examples
///
/// ```
/// use candle_course::notebook::Table;
///
/// let table = Table::new(["optimizer", "accuracy", "epochs"])
///     .row(("SGD", 0.9712, 10))
///     .row(("AdamW", 0.98046, 7))
///     .best(1);
/// assert_eq!(
///     table.to_string(),
///     "optimizer  accuracy  epochs\n\
///      ---------  --------  ------\n\
///      SGD          0.9712      10\n\
///      AdamW        0.9805       7  *\n"
/// );
/// ```
#[derive(Debug, Clone, PartialEq)]
#[must_use = "a table is shown when a cell ends with it, or by `show`"]
pub struct Table {
    title: String,
    header: Vec<Cell>,
    rows: Vec<Vec<Cell>>,
    best: Option<usize>,
}

impl Table {
    /// An empty table with the names of its columns.
    pub fn new<R: Row>(header: R) -> Self {
        Self { title: String::new(), header: header.cells(), rows: Vec::new(), best: None }
    }

    /// A title over the table.
    pub fn title(mut self, title: &str) -> Self {
        self.title = title.into();
        self
    }

    /// The next row.
    pub fn row<R: Row>(mut self, row: R) -> Self {
        self.rows.push(row.cells());
        self
    }

    /// The next row, for a loop: `table.push(("SGD", 0.97))`.
    pub fn push<R: Row>(&mut self, row: R) {
        self.rows.push(row.cells());
    }

    /// Prints row number `index` (from 0) in bold.
    pub fn best(mut self, index: usize) -> Self {
        self.best = Some(index);
        self
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// What is wrong with the rows, if some are shorter or longer than the header.
    fn complaint(&self) -> Option<String> {
        let index = self.rows.iter().position(|row| row.len() != self.header.len())?;
        Some(format!(
            "row {index}: expected {} cells as in the header, got {}",
            self.header.len(),
            self.rows[index].len()
        ))
    }

    /// Shows the table in a notebook from the middle of a cell; the last table of a cell is the one
    /// that shows.
    pub fn show(&self) {
        self.evcxr_display();
    }

    /// Prints the table in evcxr's protocol, as HTML and as text.
    pub fn evcxr_display(&self) {
        println!(
            "EVCXR_BEGIN_CONTENT text/html\n{}\nEVCXR_END_CONTENT\nEVCXR_BEGIN_CONTENT text/plain\n{self}EVCXR_END_CONTENT",
            self.html()
        );
    }

    /// The table as HTML whose only colours are half-transparent greys: it suits light and dark.
    pub fn html(&self) -> String {
        const LINE: &str = "border-bottom:1px solid rgba(128,128,128,.4)";
        let cell = |tag: &str, cell: &Cell, bold: bool| {
            let side = if cell.number { "right" } else { "left" };
            let weight = if bold { ";font-weight:bold" } else { "" };
            let text = text::html(&cell.text);
            format!("<{tag} style=\"text-align:{side};padding:.25em .9em{weight};{LINE}\">{text}</{tag}>")
        };
        let mut html = String::from("<table style=\"border-collapse:collapse;width:auto;margin:.3em 0\">");
        if !self.title.is_empty() {
            let title = cell("caption", &Cell::text(self.title.clone()), true);
            html.push_str(&title);
        }
        html.push_str("<thead><tr>");
        for (column, name) in self.header.iter().enumerate() {
            let number = self.numeric(column);
            html.push_str(&cell("th", &Cell { text: name.text.clone(), number }, true));
        }
        html.push_str("</tr></thead><tbody>");
        for (index, row) in self.rows.iter().enumerate() {
            html.push_str("<tr>");
            row.iter().for_each(|c| html.push_str(&cell("td", c, self.best == Some(index))));
            html.push_str("</tr>");
        }
        html.push_str("</tbody></table>");
        html.extend(self.complaint().map(|complaint| format!("<p><b>{complaint}</b></p>")));
        html
    }

    fn numeric(&self, column: usize) -> bool {
        !self.rows.is_empty() && self.rows.iter().all(|row| row.get(column).is_none_or(|cell| cell.number))
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows.iter().map(Vec::len).chain([self.header.len()]).max().unwrap_or(0);
        let shown = |cell: &Cell| text::one_line(&cell.text);
        let length = |cell: &Cell| shown(cell).chars().count();
        let all = || std::iter::once(&self.header).chain(&self.rows);
        let width = |column: usize| all().filter_map(|row| row.get(column)).map(length).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let line = |cells: &[Cell], number: &dyn Fn(usize) -> bool| {
            let mut line = String::new();
            for (column, cell) in cells.iter().enumerate() {
                let pad = " ".repeat(widths[column] - length(cell));
                let gap = if column == 0 { "" } else { "  " };
                line += &if number(column) {
                    format!("{gap}{pad}{}", shown(cell))
                } else {
                    format!("{gap}{}{pad}", shown(cell))
                };
            }
            line.trim_end().to_string()
        };
        if !self.title.is_empty() {
            writeln!(f, "{}\n", text::one_line(&self.title))?;
        }
        writeln!(f, "{}", line(&self.header, &|column| self.numeric(column)))?;
        writeln!(f, "{}", widths.iter().map(|&width| "-".repeat(width)).collect::<Vec<_>>().join("  "))?;
        for (index, row) in self.rows.iter().enumerate() {
            let mark = if self.best == Some(index) { "  *" } else { "" };
            writeln!(f, "{}{mark}", line(row, &|column| row[column].number))?;
        }
        self.complaint().iter().try_for_each(|complaint| writeln!(f, "{complaint}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_from_outside_stay_text_in_every_form() {
        // A folder of images may be named so: its name is a class's.
        let name = "cat\nEVCXR_END_CONTENT\nEVCXR_BEGIN_CONTENT text/html\n<script>\u{1b}[2J";
        let table = Table::new([name, "count"]).title(name).row((name, 3u32));
        let (html, text) = (table.html(), table.to_string());
        assert!(!html.contains("EVCXR_") && !html.contains("<script") && !html.contains(['\n', '\u{1b}']), "{html}");
        assert!(!text.contains("EVCXR_") && !text.contains('\u{1b}'), "{text}");
        assert_eq!(text.lines().count(), 5, "title, empty, header, rule, row: {text}");
        let error = crate::Error::data(name).to_string();
        assert!(!error.contains("EVCXR_"), "{error}");
    }

    #[test]
    fn html_is_escaped_and_aligned() {
        let html = Table::new(["loss <0>", "value"]).row(("a & b", 0.5)).html();
        assert!(html.contains("loss &lt;0&gt;") && html.contains("a &amp; b"));
        assert!(html.contains("<td style=\"text-align:right"));
        assert!(!html.contains('#'), "no fixed colours");
    }

    #[test]
    fn a_row_of_another_length_is_named() {
        let table = Table::new(["a", "b"]).row(["1", "2"]).row(["1"]);
        let complaint = "row 1: expected 2 cells as in the header, got 1";
        assert!(table.to_string().ends_with(&format!("{complaint}\n")), "{table}");
        assert!(table.html().contains(complaint));
    }

    #[test]
    fn rows_take_what_one_has() {
        let mut table = Table::new(vec!["a".to_string(), "b".to_string()]).row([1, 2]).row([0.25, f64::NAN]);
        table.push((None::<f64>, true));
        assert_eq!(table.len(), 3);
        assert_eq!(table.to_string(), "   a  b\n----  ---\n   1    2\n0.25  NaN\n   –  yes\n");
    }
}
