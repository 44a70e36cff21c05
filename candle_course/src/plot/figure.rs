//! A finished figure and the ways to show it.

use std::cell::RefCell;
use std::fmt;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use base64::Engine;
use plotters::coord::Shift;
use plotters::drawing::{DrawingArea, DrawingAreaErrorKind};

use super::frame::{Key, UNIT};
use super::raster;
use super::svg::{Svg, number};
use super::text::FAMILY;
use crate::atomic;
use crate::error::{Error, ErrorKind, Result};
use crate::language::chosen;
use crate::text::one_line;
use crate::text::xml;

/// Where plotters draws a [`Figure`]: see [`Figure::draw`].
pub type Area = DrawingArea<Svg, Shift>;

/// Something that draws itself at a given size.
pub(super) trait Chart: Send + Sync {
    fn title(&self) -> &str;
    /// Width and height when nothing else asks for a size.
    fn size(&self) -> (f64, f64);
    /// Whether the chart can be drawn at any size, or only be scaled as a whole.
    fn flexible(&self) -> bool {
        true
    }
    fn draw(&self, area: &Area) -> Result<()>;
    /// What the colours mean.
    fn legend(&self) -> Vec<(Key, String)> {
        Vec::new()
    }
    /// Draws the chart without its legend, which stands elsewhere.
    fn draw_bare(&self, area: &Area) -> Result<()> {
        self.draw(area)
    }
}

impl<E: std::error::Error + Send + Sync + 'static> From<DrawingAreaErrorKind<E>> for Error {
    fn from(error: DrawingAreaErrorKind<E>) -> Self {
        Self::new(ErrorKind::Display, format!("cannot draw the figure: {error}"))
    }
}

/// A finished figure: an SVG, and a PNG made of it on demand. Cloning is cheap.
///
/// A notebook cell that ends with a `Figure` shows it.
///
/// # Examples
///
/// ```
/// use candle_course::plot::BarChart;
///
/// let figure = BarChart::builder("Examples per class").categories(&["cat", "dog"]).bars("train", &[90.0, 10.0]).build()?;
/// assert!(figure.svg().contains("Examples per class"));
/// assert_eq!(&figure.png()?[1..4], b"PNG");
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Clone)]
pub struct Figure(Arc<Inner>);

struct Inner {
    svg: String,
    /// Where the opening tag of the SVG ends.
    body: usize,
    title: String,
    /// Pixels, and units per pixel.
    size: (u32, u32),
    unit: u32,
    chart: Option<Arc<dyn Chart>>,
}

/// Pixels of the PNG per pixel of the SVG.
const SCALE: f64 = 1.5;

impl Figure {
    pub(super) fn new(chart: impl Chart + 'static) -> Result<Self> {
        let body = draw(chart.size(), UNIT, |area| chart.draw(area))?;
        let (title, flexible) = (chart.title().to_string(), chart.flexible());
        Ok(Self::of(&title, body, UNIT, if flexible { Some(Arc::new(chart)) } else { None }))
    }

    fn of(title: &str, (size, body): ((u32, u32), String), unit: u32, chart: Option<Arc<dyn Chart>>) -> Self {
        let head = head(title, size, unit);
        let inner =
            Inner { svg: format!("{head}{body}</svg>"), body: head.len(), title: title.into(), size, unit, chart };
        Self(Arc::new(inner))
    }

    /// A figure of `(width, height)` pixels that [plotters](crate::plotters) draws: whatever is not
    /// among the charts of this crate (error bars, box plots, surfaces), shown, saved and written to
    /// TensorBoard as they are.
    ///
    /// The ground is white. A title for the eye is drawn by plotters; give it to
    /// [`titled`](Self::titled) too, for those who cannot see the figure.
    ///
    /// # Errors
    ///
    /// When the size is below 40×40 or above 4000×8000 pixels, or `draw` returns an error; those of
    /// plotters become this crate's by `?`.
    ///
    /// # Examples
    ///
    /// ```
    /// use candle_course::plot::Figure;
    /// use candle_course::plotters::prelude::{BLUE, ChartBuilder, LineSeries};
    ///
    /// let losses = [2.3, 1.1, 0.7, 0.45, 0.31];
    /// let figure = Figure::draw((640, 360), |area| {
    ///     let mut chart = ChartBuilder::on(area).margin(12).x_label_area_size(30).y_label_area_size(40)
    ///         .build_cartesian_2d(0.0..4.0, 0.0..2.5)?;
    ///     chart.configure_mesh().x_desc("epoch").y_desc("loss").draw()?;
    ///     chart.draw_series(LineSeries::new((0..5).map(|i| (i as f64, losses[i])), BLUE))?;
    ///     Ok(())
    /// })?
    /// .titled("Loss");
    /// assert!(figure.svg().contains("epoch"));
    /// # Ok::<(), candle_course::Error>(())
    /// ```
    pub fn draw((width, height): (u32, u32), draw: impl FnOnce(&Area) -> Result<()>) -> Result<Self> {
        Ok(Self::of("", self::draw((f64::from(width), f64::from(height)), 1, draw)?, 1, None))
    }

    /// The figure with another title: what [`title`](Self::title) gives and what a screen reader
    /// reads; the picture stays as it is.
    #[must_use]
    pub fn titled(self, title: &str) -> Self {
        let body = &self.0.svg[self.0.body..self.0.svg.len() - "</svg>".len()];
        Self::of(title, (self.0.size, body.to_string()), self.0.unit, self.0.chart.clone())
    }

    /// The title given to the chart.
    pub fn title(&self) -> &str {
        &self.0.title
    }

    /// Width in CSS pixels.
    pub fn width(&self) -> usize {
        self.0.size.0 as usize
    }

    /// Height in CSS pixels.
    pub fn height(&self) -> usize {
        self.0.size.1 as usize
    }

    /// The figure for a place of that width and height: drawn anew where that can be done, else the
    /// whole of it smaller where it is too wide. Without its legend if that stands elsewhere.
    pub(super) fn fitted(&self, size: (f64, f64), legend: bool) -> Result<(Self, (f64, f64))> {
        if let Some(chart) = &self.0.chart {
            let body = draw(size, UNIT, |area| if legend { chart.draw(area) } else { chart.draw_bare(area) })?;
            return Ok((Self::of(&self.0.title, body, UNIT, None), size));
        }
        let scale = (size.0 / self.width() as f64).min(1.0);
        Ok((self.clone(), (self.width() as f64 * scale, self.height() as f64 * scale)))
    }

    /// The SVG as a part of another one, which has `unit` units per pixel.
    pub(super) fn nested(&self, (x, y): (f64, f64), size: (f64, f64), unit: u32) -> String {
        let scaled = |pixels: f64| number((pixels * f64::from(unit)).round());
        let (width, height) = (self.0.size.0 * self.0.unit, self.0.size.1 * self.0.unit);
        format!(
            r#"<svg x="{}" y="{}" width="{}" height="{}" viewBox="0 0 {width} {height}">{}"#,
            scaled(x),
            scaled(y),
            scaled(size.0),
            scaled(size.1),
            &self.0.svg[self.0.body..]
        )
    }

    /// The legend, of a chart that can be drawn without it.
    pub(super) fn legend(&self) -> Vec<(Key, String)> {
        self.0.chart.as_ref().map_or_else(Vec::new, |chart| chart.legend())
    }

    /// The figure as a complete SVG document.
    pub fn svg(&self) -> &str {
        &self.0.svg
    }

    /// The figure as a PNG file, at one and a half times the size of the SVG.
    ///
    /// # Errors
    ///
    /// When the figure cannot be rasterised.
    pub fn png(&self) -> Result<Vec<u8>> {
        raster::png(&self.0.svg, SCALE)
    }

    /// Width, height and bytes of the PNG.
    pub(crate) fn image(&self) -> Result<(usize, usize, Vec<u8>)> {
        let scaled = |length: u32| (f64::from(length) * SCALE).round() as usize;
        Ok((scaled(self.0.size.0), scaled(self.0.size.1), self.png()?))
    }

    /// Writes the figure to a file whose name ends in `.svg` or `.png`.
    ///
    /// # Errors
    ///
    /// When the name ends in something else, or the file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let extension = path.extension().map(|extension| extension.to_string_lossy().to_lowercase());
        let bytes = match extension.as_deref() {
            Some("svg") => self.0.svg.as_bytes().to_vec(),
            Some("png") => self.png()?,
            _ => return Err(Error::argument("path", "a file name ending in .svg or .png", path.display())),
        };
        atomic::write_bytes(path, &bytes)
    }

    /// Shows the figure in a notebook from the middle of a cell.
    ///
    /// The figure appears when the cell ends; a second one in the same cell takes its place (see
    /// [`Panels`](super::Panels)).
    pub fn show(&self) {
        self.evcxr_display();
    }

    /// Prints the figure in evcxr's protocol: SVG, PNG and a line of text in one bundle, of which
    /// the front end takes the richest that it shows.
    pub fn evcxr_display(&self) {
        match self.bundle() {
            Ok(bundle) => println!("{bundle}"),
            Err(error) => eprintln!("the figure cannot be shown: {error}"),
        }
    }

    fn bundle(&self) -> Result<String> {
        let png = base64::engine::general_purpose::STANDARD.encode(self.png()?);
        Ok(format!(
            "EVCXR_BEGIN_CONTENT image/svg+xml\n{}\nEVCXR_END_CONTENT\n\
             EVCXR_BEGIN_CONTENT image/png\n{png}\nEVCXR_END_CONTENT\n\
             EVCXR_BEGIN_CONTENT text/plain\n{self}\nEVCXR_END_CONTENT",
            self.0.svg
        ))
    }
}

/// Draws the body of an SVG, and gives its size in whole pixels.
fn draw(
    (width, height): (f64, f64),
    unit: u32,
    draw: impl FnOnce(&Area) -> Result<()>,
) -> Result<((u32, u32), String)> {
    let (width, height) = (width.round(), height.round());
    if !(40.0..=4000.0).contains(&width) || !(40.0..=8000.0).contains(&height) {
        return Err(Error::argument("size", "40×40 to 4000×8000 pixels", format!("{width}×{height}"))
            .hint("show fewer images or categories at once, or set a size"));
    }
    let size = (width as u32, height as u32);
    let svg = Rc::new(RefCell::new(Svg::new(size, unit)));
    draw(&Area::from(&svg))?;
    Ok((size, svg.take().into_body()))
}

/// The opening tag of an SVG and its white ground.
fn head(title: &str, (width, height): (u32, u32), unit: u32) -> String {
    let (wide, high) = (width * unit, height * unit);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {wide} {high}\" role=\"img\" aria-label=\"{}\" font-family=\"{FAMILY}\" \
         fill=\"#222\" stroke-linejoin=\"round\"><rect width=\"{wide}\" height=\"{high}\" fill=\"#fff\"/>",
        xml(title)
    )
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let title = if self.title().is_empty() { "untitled".to_owned() } else { one_line(self.title()) };
        write!(f, "{}: {title} ({}×{})", chosen("Figure", "Figura"), self.0.size.0, self.0.size.1)
    }
}

impl fmt::Debug for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{HeatMap, LineChart};
    use super::*;

    fn figure() -> Figure {
        LineChart::builder("Loss <train> & \"test\"").line("a", &[3.0, 2.0, 1.0]).build().unwrap()
    }

    #[test]
    fn the_bundle_holds_svg_png_and_text_each_on_its_own() {
        let bundle = figure().bundle().unwrap();
        let blocks: Vec<&str> = bundle.split("EVCXR_BEGIN_CONTENT ").skip(1).collect();
        assert_eq!(blocks.len(), 3);
        let content = |block: &str| {
            block.split_once('\n').unwrap().1.trim_end().strip_suffix("\nEVCXR_END_CONTENT").unwrap().to_string()
        };
        assert!(blocks[0].starts_with("image/svg+xml\n<svg xmlns=\"http://www.w3.org/2000/svg\""));
        let png = base64::engine::general_purpose::STANDARD.decode(content(blocks[1])).unwrap();
        let image = image::load_from_memory(&png).unwrap();
        assert_eq!(image.width() as usize, figure().width() * 3 / 2);
        assert_eq!(content(blocks[2]), "Figure: Loss <train> & \"test\" (640×360)");
    }

    #[test]
    fn a_title_cannot_break_the_document() {
        assert!(figure().svg().contains("aria-label=\"Loss &lt;train&gt; &amp; &quot;test&quot;\""));
        figure().png().unwrap();
    }

    #[test]
    fn a_title_that_fills_its_figure_is_no_longer_in_a_wider_font() {
        let title = "Fires: a row per truth, a column per answer";
        let narrow = HeatMap::confusion(title, &[vec![85, 5], vec![4, 6]], &["no", "yes"]).build().unwrap();
        let length = narrow.svg().split("textLength=\"").nth(1).unwrap().split('"').next().unwrap();
        let length = length.parse::<f64>().unwrap() / f64::from(UNIT);
        assert!((300.0..=narrow.width() as f64 - 8.0).contains(&length), "{length} of {}", narrow.width());
        assert!(!figure().svg().contains("textLength"));
    }

    #[test]
    fn what_plotters_draws_is_a_figure() {
        use plotters::prelude::{BLUE, Circle, Color, Text};
        let figure = Figure::draw((200, 100), |area| {
            area.draw(&Circle::new((100, 50), 30, BLUE.filled()))?;
            area.draw(&Text::new("0.5 × 10^{-3}", (10, 10), ("sans-serif", 15)))?;
            Ok(())
        })
        .unwrap();
        let (pixels, width, height) = raster::pixels(figure.svg(), 1.0).unwrap();
        assert_eq!((width, height), (200, 100));
        assert_eq!((pixels[50 * 200 + 100], pixels[5 * 200 + 190]), ([0, 0, 255], [255, 255, 255]));
        assert!(pixels[..30 * 200].iter().any(|pixel| pixel[0] < 100), "the text is not there");
        let titled = figure.clone().titled("a <disc>");
        assert!(titled.svg().contains("aria-label=\"a &lt;disc&gt;\""));
        assert_eq!((titled.title(), figure.title()), ("a <disc>", ""));
        assert_eq!(raster::pixels(titled.svg(), 1.0).unwrap().0, pixels);
        assert_eq!(titled.image().unwrap().0, 300);
        let both = super::super::Panels::builder(2).add(titled.clone()).add(titled).build().unwrap();
        let (panels, wide, _) = raster::pixels(both.svg(), 1.0).unwrap();
        let blue = panels.iter().filter(|pixel| **pixel == [0, 0, 255]).count();
        assert!((5300..5700).contains(&blue), "{blue} of two discs, {wide} pixels wide");
        let error = Figure::draw((200, 100), |_| Err(Error::training("no data"))).unwrap_err();
        assert!(error.to_string().contains("no data"), "{error}");
        assert!(Figure::draw((20, 100), |_| Ok(())).unwrap_err().to_string().contains("40×40"));
    }

    #[test]
    fn saving_goes_by_the_extension() {
        let folder = tempfile::tempdir().unwrap();
        figure().save(folder.path().join("a.svg")).unwrap();
        figure().save(folder.path().join("a.PNG")).unwrap();
        assert!(std::fs::read_to_string(folder.path().join("a.svg")).unwrap().starts_with("<svg"));
        let error = figure().save(folder.path().join("a.jpg")).unwrap_err();
        assert!(error.to_string().contains(".svg or .png"), "{error}");
    }
}
