//! A finished figure and the ways to show it.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use base64::Engine;

use super::canvas::{Canvas, escape};
use super::palette::TEXT;
use super::raster;
use super::text::FAMILY;
use crate::error::{Context, Error, Result};

/// Something that draws itself at a given size.
pub(super) trait Chart: Send + Sync {
    fn title(&self) -> &str;
    /// Width and height when nothing else asks for a size.
    fn size(&self) -> (f64, f64);
    /// Whether the chart can be drawn at any size, or only be scaled as a whole.
    fn flexible(&self) -> bool {
        true
    }
    fn draw(&self, canvas: &mut Canvas, size: (f64, f64)) -> Result<()>;
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
    width: f64,
    height: f64,
    chart: Box<dyn Chart>,
}

/// Pixels of the PNG per pixel of the SVG.
const SCALE: f64 = 1.5;

impl Figure {
    pub(super) fn new(chart: impl Chart + 'static) -> Result<Self> {
        let (width, height) = chart.size();
        let (width, height) = (width.round(), height.round());
        if !(40.0..=4000.0).contains(&width) || !(40.0..=8000.0).contains(&height) {
            return Err(Error::argument("size", "40×40 to 4000×8000 pixels", format!("{width}×{height}"))
                .hint("show fewer images or categories at once, or set a size"));
        }
        let mut canvas = Canvas::default();
        chart.draw(&mut canvas, (width, height))?;
        let body = canvas.into_body();
        let label = escape(chart.title());
        let svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
             viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{label}\" \
             font-family=\"{FAMILY}\" fill=\"{TEXT}\">\
             <rect width=\"{width}\" height=\"{height}\" fill=\"#fff\"/>{body}</svg>"
        );
        Ok(Self(Arc::new(Inner { svg, width, height, chart: Box::new(chart) })))
    }

    /// The title given to the chart.
    pub fn title(&self) -> &str {
        self.0.chart.title()
    }

    /// Width in CSS pixels.
    pub fn width(&self) -> usize {
        self.0.width as usize
    }

    /// Height in CSS pixels.
    pub fn height(&self) -> usize {
        self.0.height as usize
    }

    pub(super) fn chart(&self) -> &dyn Chart {
        &*self.0.chart
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
        let scaled = |length: f64| (length * SCALE).round() as usize;
        Ok((scaled(self.0.width), scaled(self.0.height), self.png()?))
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
        std::fs::write(path, bytes).with_context(|| format!("cannot write the figure {}", path.display()))
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

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let title = if self.title().is_empty() { "untitled" } else { self.title() };
        write!(f, "Figure: {title} ({}×{})", self.0.width, self.0.height)
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
        let length: f64 = length.parse().unwrap();
        assert!((300.0..=narrow.width() as f64 - 8.0).contains(&length), "{length} of {}", narrow.width());
        assert!(!figure().svg().contains("textLength"));
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
