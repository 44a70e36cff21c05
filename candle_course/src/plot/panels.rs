//! Several figures in one.

use super::figure::{Area, Chart, Figure};
use super::frame::{Key, UNIT, legend, legend_height, title};
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
    shared: bool,
    figures: Vec<Figure>,
}

impl Panels {
    /// An empty grid of so many columns.
    pub fn builder(columns: usize) -> Self {
        Self { title: String::new(), columns, size: None, shared: false, figures: Vec::new() }
    }

    setters! {
        /// A title over all panels.
        title(title: &str) => title = title.into();
        /// Width and height of one panel in pixels; unless set, so that the columns fill 960 pixels.
        panel_size(width: f64, height: f64) => size = Some((width, height));
        /// One legend over all panels instead of one in each: for line, bar and scatter charts of the same
        /// series.
        shared_legend() => shared = true;
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
    /// When there is no panel or no column, or panels that shall share a legend have different ones.
    pub fn build(self) -> Result<Figure> {
        if self.figures.is_empty() {
            return Err(Error::argument("figures", "at least one", "none").hint("did you forget `.add(figure)`?"));
        }
        if !(1..=8).contains(&self.columns) {
            return Err(Error::argument("columns", "1 to 8", self.columns));
        }
        let panel = self.panel();
        let fitted: Vec<(Figure, (f64, f64))> =
            self.figures.iter().map(|figure| figure.fitted(panel, !self.shared)).collect::<Result<_>>()?;
        let legend = if self.shared { self.common_legend()? } else { Vec::new() };
        let title = if self.title.is_empty() { self.figures[0].title().to_string() } else { self.title.clone() };
        let figure = Figure::new(Grid { heading: self.title, legend, columns: self.columns, panel, fitted })?;
        Ok(figure.titled(&title))
    }

    /// The legend of the first panel, which all others have, too.
    fn common_legend(&self) -> Result<Vec<(Key, String)>> {
        let names = |legend: &[(Key, String)]| legend.iter().map(|(_, name)| name.clone()).collect::<Vec<_>>();
        let common = self.figures[0].legend();
        for figure in &self.figures[1..] {
            let own = figure.legend();
            if names(&own) != names(&common) {
                return Err(Error::argument(
                    "shared_legend",
                    format!("the same series in every panel, {}", names(&common).join(", ")),
                    format!("{} in \"{}\"", names(&own).join(", "), figure.title()),
                )
                .hint("give the series the same names in the same order, or let each panel have its own legend"));
            }
        }
        Ok(common)
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
    legend: Vec<(Key, String)>,
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
        let (width, height) = (self.panel.0 * columns, self.rows().map(|(_, height)| height).sum::<f64>());
        (width, top + legend_height(&self.legend, (width, height)) + height)
    }

    fn flexible(&self) -> bool {
        false
    }

    fn draw(&self, area: &Area) -> Result<()> {
        let mut top = if self.heading.is_empty() { 0.0 } else { title(area, &self.heading)? };
        top += legend(area, &self.legend, top)?;
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
    fn panels_share_a_legend_if_they_have_the_same() {
        let chart =
            |name: &str| LineChart::builder("a").line(name, &[1.0, 2.0]).line("y", &[2.0, 1.0]).build().unwrap();
        let apart = Panels::builder(2).add(chart("x")).add(chart("x")).build().unwrap();
        let shared = Panels::builder(2).shared_legend().add(chart("x")).add(chart("x")).build().unwrap();
        let count = |figure: &Figure| figure.svg().matches(">x</text>").count();
        assert_eq!((count(&apart), count(&shared)), (2, 1));
        assert_eq!(shared.height(), apart.height() + 22, "a row of the legend over the panels");
        shared.png().unwrap();
        let error = Panels::builder(2).shared_legend().add(chart("x")).add(chart("z")).build().unwrap_err().to_string();
        assert!(error.contains("x, y") && error.contains("z, y"), "{error}");
    }

    #[test]
    fn errors_say_what_is_wrong() {
        assert!(Panels::builder(2).build().unwrap_err().to_string().contains(".add(figure)"));
    }
}
