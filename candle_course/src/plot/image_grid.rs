//! Images side by side.

use candle_core::{DType, Tensor};
use plotters::element::Rectangle;
use plotters::style::{Color, RGBColor};

use super::figure::{Area, Chart, Figure};
use super::frame::{Key, MARGIN, SMALL, legend, legend_height, picture, px, stroke, title, write};
use super::palette::{RIGHT, TEXT, WRONG, color};
use super::raster::encode;
use super::svg::Words;
use super::text;
use crate::error::{Error, ErrorKind, Result};
use crate::setters::setters;

/// A grid of small images with captions: digits, predictions, filters, masks.
///
/// Pixels are enlarged without smoothing. Images are `[N, C, H, W]` or `[N, H, W]` with one or three
/// channels; u8 in 0..=255, or floats in `[0, 1]` (see [`normalized`](Self::normalized) and
/// [`stretched`](Self::stretched) for others).
///
/// # Examples
///
/// ```
/// use candle_course::plot::ImageGrid;
/// use candle_course::prelude::*;
///
/// let digits = Tensor::zeros((4, 1, 28, 28), DType::F32, &Device::Cpu)?;
/// let figure = ImageGrid::builder("Predictions", &digits)
///     .captions(&["7", "2", "1 (is 7)", "0"])
///     .correct(&[true, true, false, true])
///     .build()?;
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Debug, Clone)]
#[must_use = "a chart does nothing until `build`"]
pub struct ImageGrid {
    title: String,
    images: Tensor,
    captions: Vec<String>,
    correct: Vec<bool>,
    columns: Option<usize>,
    pixel: Option<f64>,
    values: Values,
}

#[derive(Debug, Clone)]
enum Values {
    Unit,
    Normalized {
        mean: Vec<f64>,
        std: Vec<f64>,
    },
    Stretched,
    /// Names and colours.
    Classes(Vec<(String, [u8; 3])>),
}

impl ImageGrid {
    /// Images with a title (may be empty).
    pub fn builder(title: &str, images: &Tensor) -> Self {
        Self {
            title: title.into(),
            images: images.clone(),
            captions: Vec::new(),
            correct: Vec::new(),
            columns: None,
            pixel: None,
            values: Values::Unit,
        }
    }

    /// Maps of class indices instead of images, `[N, H, W]` or `[N, 1, H, W]`: each class has a
    /// colour and an entry in the legend. Class 0 is light grey, as background should be.
    pub fn class_maps<S: AsRef<str>>(title: &str, maps: &Tensor, classes: &[S]) -> Self {
        let named = |(index, name): (usize, &S)| (name.as_ref().to_string(), class_color(index));
        let classes = classes.iter().enumerate().map(named).collect();
        Self { values: Values::Classes(classes), ..Self::builder(title, maps) }
    }

    /// Colours of one's own for the classes of [`ImageGrid::class_maps`], red, green and blue in 0 to
    /// 1, class 0 first; classes beyond them keep theirs. Of images nothing changes.
    pub fn class_colors(mut self, colors: &[[f32; 3]]) -> Self {
        if let Values::Classes(classes) = &mut self.values {
            for ((_, color), wanted) in classes.iter_mut().zip(colors) {
                *color = wanted.map(|share| (share * 255.0).round() as u8);
            }
        }
        self
    }

    /// One caption under each image; may be empty.
    pub fn captions<S: AsRef<str>>(mut self, captions: &[S]) -> Self {
        self.captions = captions.iter().map(|caption| caption.as_ref().to_string()).collect();
        self
    }

    setters! {
        /// Frames each image, and writes its caption, in green (right) or vermillion (wrong).
        correct(correct: &[bool]) => correct = correct.to_vec();
        /// Images per row; unless set, as many as fill a row of a notebook.
        columns(columns: usize) => columns = Some(columns);
        /// Screen pixels per pixel of an image.
        pixel_size(pixels: f64) => pixel = Some(pixels);
        /// Undoes a normalisation first: pixel × `std` + `mean`, with one value per channel. What then
        /// lies outside `[0, 1]` is cut.
        normalized(mean: &[f64], std: &[f64]) => values = Values::Normalized { mean: mean.to_vec(), std: std.to_vec() };
        /// Stretches each image from its smallest to its largest value: for filters and activations.
        stretched() => values = Values::Stretched;
    }

    /// Draws the grid.
    ///
    /// # Errors
    ///
    /// When the tensor has another shape, float values are outside `[0, 1]` or not finite, a class
    /// index has no name, or captions and marks are not one per image.
    pub fn build(self) -> Result<Figure> {
        let tiles = self.tiles()?;
        for (name, length) in [("captions", self.captions.len()), ("correct", self.correct.len())] {
            if length != 0 && length != tiles.files.len() {
                return Err(Error::argument(name, format!("one for each of the {} images", tiles.files.len()), length));
            }
        }
        if self.columns == Some(0) {
            return Err(Error::argument("columns", "at least 1", 0));
        }
        if let Some(pixel) = self.pixel.filter(|pixel| !(0.1..=64.0).contains(pixel)) {
            return Err(Error::argument("pixel_size", "0.1 to 64", pixel));
        }
        // Whole screen pixels keep the pixels of an image equally wide.
        let longest = tiles.height.max(tiles.width) as f64;
        let pixel =
            self.pixel.unwrap_or(if longest <= 96.0 { (84.0 / longest).round().max(1.0) } else { 160.0 / longest });
        let tile = (tiles.width as f64 * pixel, tiles.height as f64 * pixel);
        let columns = self.columns.unwrap_or(((760.0 / (tile.0 + GAP)) as usize).max(1)).min(tiles.files.len());
        let classes = match &self.values {
            Values::Classes(classes) => classes.clone(),
            _ => Vec::new(),
        };
        Figure::new(Grid {
            title: self.title,
            files: tiles.files,
            tile,
            captions: self.captions,
            correct: self.correct,
            columns,
            classes,
        })
    }

    fn tiles(&self) -> Result<Tiles> {
        let shape = self.images.dims().to_vec();
        let wrong = |expected: &str, hint: &str| {
            Err(Error::argument("images", expected, format!("shape {shape:?}")).hint(hint))
        };
        let (count, channels, height, width) = match shape[..] {
            [n, h, w] => (n, 1, h, w),
            [n, c, h, w] => (n, c, h, w),
            [_, _] => {
                return wrong(
                    "`[N, C, H, W]` or `[N, H, W]`",
                    "did you forget to unsqueeze one image, or to reshape flat ones?",
                );
            }
            _ => return wrong("`[N, C, H, W]` or `[N, H, W]`", "index one batch"),
        };
        let single = matches!(self.values, Values::Classes(_));
        if !(channels == 1 || channels == 3 && !single) {
            let expected = if single { "one channel of class indices" } else { "one or three channels" };
            return wrong(
                expected,
                "choose bands with `index_select`, or are height, width and channels in another order?",
            );
        }
        if count == 0 || height == 0 || width == 0 {
            return wrong("at least one image of at least one pixel", "is the selection empty?");
        }
        let values = self.images.flatten_all()?.to_dtype(DType::F64)?.to_vec1::<f64>()?;
        if let Some(bad) = values.iter().find(|value| !value.is_finite()) {
            return Err(Error::argument("images", "finite pixels", bad).hint("did the training diverge?"));
        }
        let area = height * width;
        let integers = self.images.dtype() == DType::U8;
        let mut files = Vec::with_capacity(count);
        for image in values.chunks_exact(channels * area) {
            // Channels last, as PNG has them; maps of classes are in colour already.
            let (kind, samples) = match self.bytes(image, channels, area, integers)? {
                Planes::Colors(colors) => (png::ColorType::Rgb, colors.into_flattened()),
                Planes::Bytes(bytes) if channels == 1 => (png::ColorType::Grayscale, bytes),
                Planes::Bytes(bytes) => (
                    png::ColorType::Rgb,
                    (0..area).flat_map(|i| [bytes[i], bytes[area + i], bytes[2 * area + i]]).collect(),
                ),
            };
            files.push(encode(width, height, kind, None, &samples)?);
        }
        Ok(Tiles { files, width, height })
    }

    fn bytes(&self, image: &[f64], channels: usize, area: usize, integers: bool) -> Result<Planes> {
        let byte = |share: f64| (255.0 * share.clamp(0.0, 1.0)).round() as u8;
        Ok(Planes::Bytes(match &self.values {
            Values::Classes(classes) => {
                let color_of = |&value: &f64| match classes.get(value as usize) {
                    Some(&(_, color)) if value >= 0.0 && value.fract() == 0.0 => Ok(color),
                    _ => Err(Error::argument("maps", format!("class indices below {}", classes.len()), value)
                        .hint("one name per class, class 0 first")),
                };
                return Ok(Planes::Colors(image.iter().map(color_of).collect::<Result<_>>()?));
            }
            Values::Stretched => {
                let low = image.iter().copied().fold(f64::INFINITY, f64::min);
                let high = image.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let span = if high > low { high - low } else { 1.0 };
                image.iter().map(|value| byte((value - low) / span)).collect()
            }
            Values::Normalized { mean, std } => {
                if mean.len() != channels || std.len() != channels {
                    return Err(Error::argument(
                        "mean and std",
                        format!("{channels} values each, one per channel"),
                        format!("{} and {}", mean.len(), std.len()),
                    ));
                }
                image.iter().enumerate().map(|(i, value)| byte(value * std[i / area] + mean[i / area])).collect()
            }
            Values::Unit if integers => image.iter().map(|&value| value as u8).collect(),
            Values::Unit => {
                if let Some(bad) = image.iter().find(|value| !(-1e-3..=1.001).contains(*value)) {
                    return Err(Error::new(
                        ErrorKind::InvalidArgument,
                        format!("`images`: expected floats in [0, 1], got {bad}"),
                    )
                    .hint("normalised images want `.normalized(&mean, &std)`, filters `.stretched()`"));
                }
                image.iter().map(|&value| byte(value)).collect()
            }
        }))
    }
}

/// One image, `[C, H, W]` or `[H, W]`, as width, height, channels and a PNG file.
pub(crate) fn encode_image(image: &Tensor) -> Result<(usize, usize, i32, Vec<u8>)> {
    let channels = match image.rank() {
        2 => 1,
        3 => image.dim(0)? as i32,
        _ => {
            let got = format!("shape {:?}", image.dims());
            return Err(Error::argument("image", "`[C, H, W]` or `[H, W]`", got));
        }
    };
    let mut tiles = ImageGrid::builder("", &image.unsqueeze(0)?).tiles()?;
    Ok((tiles.width, tiles.height, channels, tiles.files.remove(0)))
}

struct Tiles {
    files: Vec<Vec<u8>>,
    width: usize,
    height: usize,
}

enum Planes {
    Bytes(Vec<u8>),
    Colors(Vec<[u8; 3]>),
}

fn class_color(index: usize) -> [u8; 3] {
    if index == 0 {
        return [225, 225, 225];
    }
    color(index - 1).rgb().into()
}

const GAP: f64 = 8.0;
const EDGE: RGBColor = RGBColor(0xbb, 0xbb, 0xbb);

/// The finished grid: every tile is a PNG.
struct Grid {
    title: String,
    files: Vec<Vec<u8>>,
    tile: (f64, f64),
    captions: Vec<String>,
    correct: Vec<bool>,
    columns: usize,
    classes: Vec<(String, [u8; 3])>,
}

impl Grid {
    fn caption_height(&self) -> f64 {
        if self.captions.is_empty() { 0.0 } else { 17.0 }
    }

    fn legend(&self) -> Vec<(Key, String)> {
        let key = |(name, [red, green, blue]): &(String, [u8; 3])| {
            (Key::Box { color: RGBColor(*red, *green, *blue).to_rgba() }, name.clone())
        };
        self.classes.iter().map(key).collect()
    }

    /// Width of a column: captions a little wider than their image have room.
    fn pitch(&self) -> f64 {
        let widest = self.captions.iter().map(|c| text::width(c, SMALL, false)).fold(0.0, f64::max);
        self.tile.0.max(widest.min(1.5 * self.tile.0).min(760.0 / self.columns as f64 - GAP)) + GAP
    }

    fn width(&self) -> f64 {
        let grid = self.pitch() * self.columns as f64 + 16.0;
        grid.max((text::width(&self.title, 15.0, true) + 24.0).min(760.0)).max(if self.classes.is_empty() {
            40.0
        } else {
            280.0
        })
    }
}

impl Chart for Grid {
    fn title(&self) -> &str {
        &self.title
    }

    fn size(&self) -> (f64, f64) {
        let rows = self.files.len().div_ceil(self.columns) as f64;
        let width = self.width();
        let title = if self.title.is_empty() { MARGIN } else { 34.0 };
        let height = title + rows * (self.tile.1 + self.caption_height() + GAP) + 4.0;
        (width, height + legend_height(&self.legend(), (width, height)))
    }

    fn flexible(&self) -> bool {
        false
    }

    fn draw(&self, area: &Area) -> Result<()> {
        let width = super::frame::size(area).0;
        let mut top = title(area, &self.title)?;
        top += legend(area, &self.legend(), top)?;
        let pitch = self.pitch();
        let left = (width - pitch * self.columns as f64 + GAP) / 2.0;
        for (index, file) in self.files.iter().enumerate() {
            let (row, column) = (index / self.columns, index % self.columns);
            let x = (left + column as f64 * pitch + (pitch - GAP - self.tile.0) / 2.0).round();
            let y = (top + row as f64 * (self.tile.1 + self.caption_height() + GAP)).round();
            let mark = self.correct.get(index).map(|&right| if right { RIGHT } else { WRONG });
            picture(area, (px(x), px(y)), (px(x + self.tile.0), px(y + self.tile.1)), file)?;
            let (edge, thick) = mark.map_or((EDGE, 1.0), |mark| (mark, 3.0));
            let corner = (px(x - thick / 2.0), px(y - thick / 2.0));
            let opposite = (px(x + self.tile.0 + thick / 2.0), px(y + self.tile.1 + thick / 2.0));
            area.draw(&Rectangle::new([corner, opposite], stroke(edge, thick)))?;
            if let Some(caption) = self.captions.get(index) {
                let bold = mark == Some(WRONG);
                let caption = text::fit(caption, if bold { 1.08 * SMALL } else { SMALL }, pitch - 2.0);
                let words = Words { bold, ..Words::new(&caption, SMALL).color(mark.unwrap_or(TEXT)) };
                write(area, (px(x + self.tile.0 / 2.0), px(y + self.tile.1 + 15.0)), words)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine;
    use candle_core::Device;

    fn first_tile(figure: &Figure) -> image::RgbImage {
        let data = figure.svg().split("base64,").nth(1).unwrap().split('"').next().unwrap();
        let file = base64::engine::general_purpose::STANDARD.decode(data).unwrap();
        image::load_from_memory(&file).unwrap().to_rgb8()
    }

    #[test]
    fn channels_rows_and_columns_keep_their_places() {
        // Red grows along the width, green along the height, blue is constant.
        let values: Vec<u8> = (0..2u8).flat_map(|_| [0, 100, 200, 0, 100, 200]).collect::<Vec<_>>()[..6]
            .iter()
            .copied()
            .chain([0, 0, 0, 50, 50, 50])
            .chain([9; 6])
            .collect();
        let image = Tensor::from_vec(values, (1, 3, 2, 3), &Device::Cpu).unwrap();
        let tile = first_tile(&ImageGrid::builder("", &image).build().unwrap());
        assert_eq!(tile.dimensions(), (3, 2));
        assert_eq!(tile.get_pixel(2, 0).0, [200, 0, 9]);
        assert_eq!(tile.get_pixel(1, 1).0, [100, 50, 9]);
    }

    #[test]
    fn a_normalisation_is_undone() {
        let image =
            Tensor::from_vec(vec![(1.0f32 - 0.25) / 0.5, (0.0 - 0.25) / 0.5], (1, 1, 1, 2), &Device::Cpu).unwrap();
        let tile = first_tile(&ImageGrid::builder("", &image).normalized(&[0.25], &[0.5]).build().unwrap());
        assert_eq!((tile.get_pixel(0, 0).0[0], tile.get_pixel(1, 0).0[0]), (255, 0));
    }

    #[test]
    fn class_maps_have_the_colours_of_the_palette() {
        let maps = Tensor::from_vec(vec![0u32, 1, 2, 1], (1, 2, 2), &Device::Cpu).unwrap();
        let figure = ImageGrid::class_maps("", &maps, &["background", "building", "road"]).build().unwrap();
        assert_eq!(first_tile(&figure).get_pixel(1, 0).0, [0x00, 0x72, 0xB2]);
        assert!(figure.svg().contains(">road<"));
        let own = ImageGrid::class_maps("", &maps, &["a", "b", "c"]).class_colors(&[[0.0; 3], [1.0, 0.0, 0.2]]);
        assert_eq!(first_tile(&own.build().unwrap()).get_pixel(1, 0).0, [255, 0, 51]);
        let error = ImageGrid::class_maps("", &maps, &["background", "building"]).build().unwrap_err();
        assert!(error.to_string().contains("class indices below 2, got 2"), "{error}");
    }

    #[test]
    fn errors_say_what_is_wrong() {
        let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
        let message = |grid: ImageGrid| grid.build().unwrap_err().to_string();
        assert!(message(ImageGrid::builder("", &zeros(&[4, 784]))).contains("reshape"));
        assert!(message(ImageGrid::builder("", &zeros(&[1, 28, 28, 4]))).contains("another order"));
        assert!(message(ImageGrid::builder("", &zeros(&[0, 1, 8, 8]))).contains("selection empty"));
        let normalised = (zeros(&[1, 1, 2, 2]) - 0.5).unwrap();
        assert!(message(ImageGrid::builder("", &normalised)).contains("`.normalized(&mean, &std)`"));
        assert!(
            message(ImageGrid::builder("", &zeros(&[2, 1, 2, 2])).captions(&["a"]))
                .contains("each of the 2 images, got 1")
        );
    }
}
