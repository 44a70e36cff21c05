//! Several figures in one.

use super::axes::title;
use super::canvas::Canvas;
use super::figure::{Chart, Figure};
use crate::error::{Error, Result};

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

    /// A title over all panels.
    pub fn title(mut self, title: &str) -> Self {
        self.title = title.into();
        self
    }

    /// Width and height of one panel in pixels; unless set, so that the columns fill 960 pixels.
    pub fn panel_size(mut self, width: f64, height: f64) -> Self {
        self.size = Some((width, height));
        self
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
        Figure::new(self)
    }

    fn panel(&self) -> (f64, f64) {
        self.size.unwrap_or_else(|| match self.columns.min(self.figures.len()) {
            1 => (640.0, 300.0),
            2 => (480.0, 310.0),
            columns => (960.0 / columns as f64, (660.0 / columns as f64).max(200.0)),
        })
    }

    /// Size of a figure in its panel, and its scale.
    fn fitted(&self, figure: &Figure) -> ((f64, f64), f64) {
        let panel = self.panel();
        if figure.chart().flexible() {
            return (panel, 1.0);
        }
        let (width, height) = (figure.width() as f64, figure.height() as f64);
        let scale = (panel.0 / width).min(1.0);
        ((width * scale, height * scale), scale)
    }

    fn rows(&self) -> Vec<f64> {
        self.figures
            .chunks(self.columns)
            .map(|row| row.iter().map(|f| self.fitted(f).0.1).fold(0.0, f64::max))
            .collect()
    }
}

impl Chart for Panels {
    fn title(&self) -> &str {
        if self.title.is_empty() { self.figures[0].title() } else { &self.title }
    }

    fn size(&self) -> (f64, f64) {
        let columns = self.columns.min(self.figures.len()) as f64;
        let top = if self.title.is_empty() { 0.0 } else { 34.0 };
        (self.panel().0 * columns, top + self.rows().iter().sum::<f64>())
    }

    fn flexible(&self) -> bool {
        false
    }

    fn draw(&self, canvas: &mut Canvas, (width, _): (f64, f64)) -> Result<()> {
        let mut top = if self.title.is_empty() { 0.0 } else { title(canvas, &self.title, width) };
        for (row, height) in self.figures.chunks(self.columns).zip(self.rows()) {
            for (column, figure) in row.iter().enumerate() {
                let (size, scale) = self.fitted(figure);
                let x = column as f64 * self.panel().0 + (self.panel().0 - size.0) / 2.0;
                canvas.open_group((x.round(), (top + (height - size.1) / 2.0).round()), scale);
                let own = if scale == 1.0 { size } else { (figure.width() as f64, figure.height() as f64) };
                figure.chart().draw(canvas, own)?;
                canvas.close_group();
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
        assert!(figure.svg().contains("scale(0."));
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
