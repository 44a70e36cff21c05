//! Several figures in one.

use super::figure::{Area, Chart, Figure};
use super::frame::{UNIT, title};
use super::svg::{Own, Svg};
use crate::error::{Error, Result};
use crate::setters::setters;

/// Figures in a grid, as one figure. A notebook cell shows a single figure: this is how to show
/// several.
///
/// Charts are drawn anew at the size of their panel, so that text keeps its size; heat maps and image
/// grids are scaled down where they do not fit.
///
/// # Examples
///
/// ```
/// use candle_course::plot::{LineChart, Panels};
///
/// let loss = LineChart::builder("Loss").line("train", &[2.0, 1.0, 0.5]).build()?;
/// let rate = LineChart::builder("Learning rate").line("", &[0.1, 0.05, 0.01]).build()?;
/// let figure = Panels::builder(2).title("Run 7").add(loss).add(rate).build()?;
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Debug, Clone)]
#[must_use = "panels do nothing until `build`"]
pub struct Panels {
    title: String,
    columns: usize,
    size: Option<(f64, f64)>,
    figures: Vec<Figure>,
}

impl Panels {
    /// An empty grid of so many columns.
    pub fn builder(columns: usize) -> Self {
        Self { title: String::new(), columns, size: None, figures: Vec::new() }
    }

    setters! {
        /// A title over all panels.
        title(title: &str) => title = title.into();
        /// Width and height of one panel in pixels; unless set, so that the columns fill 960 pixels.
        panel_size(width: f64, height: f64) => size = Some((width, height));
    }

    /// The next panel, row by row.
    #[allow(clippy::should_implement_trait)] // A builder's `add`, not addition.
    pub fn add(mut self, figure: Figure) -> Self {
        self.figures.push(figure);
        self
    }

    /// Draws the panels.
    ///
    /// # Errors
    ///
    /// When there is no panel or no column.
    pub fn build(self) -> Result<Figure> {
        if self.figures.is_empty() {
            return Err(Error::argument("figures", "at least one", "none").hint("did you forget `.add(figure)`?"));
        }
        if !(1..=8).contains(&self.columns) {
            return Err(Error::argument("columns", "1 to 8", self.columns));
        }
        let panel = self.panel();
        let fitted: Vec<(Figure, (f64, f64))> =
            self.figures.iter().map(|figure| figure.fitted(panel)).collect::<Result<_>>()?;
        let title = if self.title.is_empty() { self.figures[0].title().to_string() } else { self.title.clone() };
        let figure = Figure::new(Grid { heading: self.title, columns: self.columns, panel, fitted })?;
        Ok(figure.titled(&title))
    }

    fn panel(&self) -> (f64, f64) {
        self.size.unwrap_or_else(|| match self.columns.min(self.figures.len()) {
            1 => (640.0, 300.0),
            2 => (480.0, 310.0),
            columns => (960.0 / columns as f64, (660.0 / columns as f64).max(200.0)),
        })
    }
}

/// The figures at the size of their panels.
struct Grid {
    heading: String,
    columns: usize,
    panel: (f64, f64),
    fitted: Vec<(Figure, (f64, f64))>,
}

impl Grid {
    /// The rows with their heights.
    fn rows(&self) -> impl Iterator<Item = (&[(Figure, (f64, f64))], f64)> {
        self.fitted.chunks(self.columns).map(|row| (row, row.iter().map(|(_, size)| size.1).fold(0.0, f64::max)))
    }
}

impl Chart for Grid {
    fn title(&self) -> &str {
        &self.heading
    }

    fn size(&self) -> (f64, f64) {
        let columns = self.columns.min(self.fitted.len()) as f64;
        let top = if self.heading.is_empty() { 0.0 } else { 34.0 };
        (self.panel.0 * columns, top + self.rows().map(|(_, height)| height).sum::<f64>())
    }

    fn flexible(&self) -> bool {
        false
    }

    fn draw(&self, area: &Area) -> Result<()> {
        let mut top = if self.heading.is_empty() { 0.0 } else { title(area, &self.heading)? };
        for (row, height) in self.rows() {
            for (column, (figure, size)) in row.iter().enumerate() {
                let x = column as f64 * self.panel.0 + (self.panel.0 - size.0) / 2.0;
                let nested = figure.nested((x.round(), (top + (height - size.1) / 2.0).round()), *size, UNIT);
                area.draw(&Own((0, 0), |svg: &mut Svg, _| svg.raw(&nested)))?;
            }
            top += height;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{HeatMap, LineChart};
    use super::*;

    #[test]
    fn charts_fill_their_panel_and_maps_are_scaled() {
        let line = LineChart::builder("a").line("x", &[1.0, 2.0]).build().unwrap();
        let wide = HeatMap::builder("b", &[vec![1.0; 12]]).cell_size(60.0, 20.0).build().unwrap();
        let figure = Panels::builder(2).title("both").add(line.clone()).add(wide).add(line).build().unwrap();
        assert_eq!((figure.width(), figure.height()), (960, 34 + 310 * 2));
        let map = figure.svg().split("<svg ").nth(3).unwrap();
        assert!(map.contains("x=\"4800\"") && map.contains("width=\"4800\""), "{}", &map[..200]);
        assert!(!map.contains("viewBox=\"0 0 4800 "), "{}", &map[..200]);
        assert_eq!(figure.title(), "both");
        figure.png().unwrap();
    }

    #[test]
    fn panels_nest() {
        let line = LineChart::builder("a").line("x", &[1.0, 2.0]).build().unwrap();
        let inner = Panels::builder(2).add(line.clone()).add(line).build().unwrap();
        Panels::builder(1).add(inner).build().unwrap();
    }

    #[test]
    fn errors_say_what_is_wrong() {
        assert!(Panels::builder(2).build().unwrap_err().to_string().contains(".add(figure)"));
    }
}
