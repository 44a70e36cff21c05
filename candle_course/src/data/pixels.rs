//! One image of any format that is read, as planes of f32.

use std::cell::Cell;
use std::io::{BufRead, Seek, SeekFrom};
use std::mem::MaybeUninit;
use std::thread::LocalKey;

use image::imageops::{self, FilterType};
use image::{ColorType, DynamicImage, ImageBuffer, ImageDecoder, ImageReader, Limits, Luma};

use crate::data::geotiff::{self, Raster, Samples};
use crate::data::jpeg::{self, Jpeg};
use crate::error::{Error, Result};
use crate::kernels::simd::{Element, Kernel, Simd};
use crate::sizes;

/// Most pixels of one image: a tensor of that size takes 1.6 GB.
pub(super) const PIXELS: u64 = 1 << 27;

/// How many channels a photograph becomes. A TIFF keeps its bands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Channels {
    #[default]
    Color,
    Grey,
    /// Grey or colour, whichever it is stored as.
    #[cfg_attr(not(feature = "hub"), allow(dead_code))]
    Stored,
}

/// How images are read.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Reading {
    pub channels: Channels,
    /// Height and width to resize to.
    pub size: Option<(usize, usize)>,
    /// What a stored whole number is multiplied with: 1 / 255 of 8 bits, 1 / 65535 of 16 unless told.
    pub scale: Option<f64>,
}

/// Fails if the size is none that an image can have, or the scale is no number.
pub(super) fn check(reading: &Reading) -> Result<()> {
    if let Some(scale) = reading.scale.filter(|scale| !scale.is_finite()) {
        return Err(Error::argument("scale", "a finite number", scale));
    }
    let Some((height, width)) = reading.size else { return Ok(()) };
    let got = || format!("{height} and {width}");
    if height == 0 || width == 0 {
        return Err(Error::argument("height, width", "at least 1 each", got()));
    }
    match height.checked_mul(width).is_some_and(|pixels| pixels as u64 <= PIXELS) {
        true => Ok(()),
        false => Err(Error::argument("height, width", format!("at most {PIXELS} pixels in all"), got())),
    }
}

/// Appends the values of an image of PNG, JPEG or TIFF, told by its content; its size, `[C, H, W]`.
pub(super) fn read(mut content: impl BufRead + Seek, reading: &Reading, into: &mut Vec<f32>) -> Result<[usize; 3]> {
    read_up_to(PIXELS, &mut content, reading, into)
}

/// The content of an image's file. Decoders take it by reference and not by type: they are compiled once
/// instead of once for files and once for memory.
pub(super) trait Content: BufRead + Seek {}

impl<R: BufRead + Seek> Content for R {}

/// [`read`], of at most so many pixels.
pub(super) fn read_up_to(
    most: u64,
    content: &mut dyn Content,
    reading: &Reading,
    into: &mut Vec<f32>,
) -> Result<[usize; 3]> {
    let head = content.fill_buf()?;
    if head.starts_with(b"II*\0")
        || head.starts_with(b"MM\0*")
        || head.starts_with(b"II+\0")
        || head.starts_with(b"MM\0+")
    {
        let length = content.seek(SeekFrom::End(0))?;
        content.seek(SeekFrom::Start(0))?;
        return bands(geotiff::read(content, length, None)?, reading, into);
    }
    if !head.starts_with(&jpeg::MAGIC) {
        let mut reader = ImageReader::new(content).with_guessed_format()?;
        // The limit of memory comes after that of pixels, which says more.
        reader.no_limits();
        return decoded(reader.into_decoder()?, most, reading, into);
    }
    let mut file = FILE.take();
    file.clear();
    content.read_to_end(&mut file)?;
    let size = decoded(Jpeg::new(&file)?, most, reading, into)?;
    keep(&FILE, file);
    Ok(size)
}

/// An image of PNG or JPEG, of at most so many pixels.
fn decoded(mut decoder: impl ImageDecoder, most: u64, reading: &Reading, into: &mut Vec<f32>) -> Result<[usize; 3]> {
    let (w, h) = decoder.dimensions();
    // A few bytes can stand for an image of any size.
    if u64::from(w) * u64::from(h) > most {
        return Err(Error::data(format!("expected at most {most} pixels, got {h}×{w}"))
            .hint("cut it into tiles, or make it smaller"));
    }
    decoder.set_limits(Limits::default())?;
    let (w, h) = (w as usize, h as usize);
    let as_stored = reading.size.is_none_or(|size| size == (h, w));
    match (decoder.color_type(), reading.channels) {
        (ColorType::Rgb8, Channels::Color | Channels::Stored) if as_stored => stored(decoder, [3, h, w], reading, into),
        (ColorType::L8, Channels::Grey | Channels::Stored) if as_stored => stored(decoder, [1, h, w], reading, into),
        _ => converted(DynamicImage::from_decoder(decoder)?, reading, into),
    }
}

thread_local! {
    /// A file: every JPEG of a thread's is read into the same memory.
    static FILE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    /// A decoded image, likewise.
    static BYTES: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Keeps memory for the thread's next image, unless it is much.
fn keep(place: &'static LocalKey<Cell<Vec<u8>>>, bytes: Vec<u8>) {
    if bytes.capacity() <= 1 << 24 {
        place.set(bytes);
    }
}

/// An image of 8 bits whose channels are those that are asked for, in its own size.
fn stored(decoder: impl ImageDecoder, size: [usize; 3], reading: &Reading, into: &mut Vec<f32>) -> Result<[usize; 3]> {
    let count: usize = size.iter().product();
    let mut bytes = BYTES.take();
    // Of a damaged image the decoder may leave some as they are: not the last image's.
    bytes.clear();
    sizes::reserve("the image", &mut bytes, count)?;
    bytes.resize(count, 0);
    decoder.read_image(&mut bytes)?;
    planes(&bytes, size[0], reading.scale, 255.0, into)?;
    keep(&BYTES, bytes);
    Ok(size)
}

/// An image whose channels, depth or size are not those that are asked for.
fn converted(image: DynamicImage, reading: &Reading, into: &mut Vec<f32>) -> Result<[usize; 3]> {
    let image = match reading.size {
        Some((h, w)) if (image.height() as usize, image.width() as usize) != (h, w) => {
            image.resize_exact(w as u32, h as u32, FilterType::Triangle)
        }
        _ => image,
    };
    let (h, w) = (image.height() as usize, image.width() as usize);
    let grey = match reading.channels {
        Channels::Grey => true,
        Channels::Color => false,
        Channels::Stored => !image.color().has_color(),
    };
    // The limits of a decoder are in bytes of the image: f32 is larger.
    let c = if grey { 1 } else { 3 };
    let deep = image.color().bytes_per_pixel() / image.color().channel_count() > 1;
    match (deep, grey) {
        (false, true) => planes(image.into_luma8().as_raw(), c, reading.scale, 255.0, into),
        (false, false) => planes(image.into_rgb8().as_raw(), c, reading.scale, 255.0, into),
        (true, true) => planes(image.into_luma16().as_raw(), c, reading.scale, 65_535.0, into),
        (true, false) => planes(image.into_rgb16().as_raw(), c, reading.scale, 65_535.0, into),
    }?;
    Ok([c, h, w])
}

/// Appends channels that stand side by side, each in a plane of its own.
fn planes<T: Copy + Into<f32>>(
    pixels: &[T],
    c: usize,
    scale: Option<f64>,
    most: f64,
    into: &mut Vec<f32>,
) -> Result<()> {
    let count = pixels.len();
    assert!(count.is_multiple_of(c), "{count} numbers are no pixels of {c} channels");
    sizes::reserve("the image", into, count)?;
    // Not zeros first: a large image is larger than the caches.
    let values = &mut into.spare_capacity_mut()[..count];
    // The product in f64, rounded once, is the quotient in f32 for every whole number of 8 and of 16 bits.
    let scale = scale.unwrap_or(1.0 / most);
    f32::dispatch(Planes { pixels, c, values, value: |stored: T| (f64::from(stored.into()) * scale) as f32 });
    // SAFETY: there was room for `count` values, and `Planes` has written each of them: so many pixels in each of
    // `c` planes.
    unsafe { into.set_len(into.len() + count) };
    Ok(())
}

struct Planes<'a, T, F> {
    pixels: &'a [T],
    c: usize,
    /// As many as `pixels`; all are written.
    values: &'a mut [MaybeUninit<f32>],
    value: F,
}

impl<T: Copy, F: Fn(T) -> f32> Kernel<f32> for Planes<'_, T, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<f32>>(self, _: S) {
        let Self { pixels, c, values, value } = self;
        let plane = values.len() / c;
        // Planes of their own instead of indices: the compiler takes several pixels at once.
        if c == 3 {
            let (red, rest) = values.split_at_mut(plane);
            let (green, blue) = rest.split_at_mut(plane);
            let planes = red.iter_mut().zip(green).zip(blue);
            for (pixel, ((red, green), blue)) in pixels.chunks_exact(3).zip(planes) {
                red.write(value(pixel[0]));
                green.write(value(pixel[1]));
                blue.write(value(pixel[2]));
            }
        } else {
            for (channel, plane) in values.chunks_exact_mut(plane.max(1)).enumerate() {
                let stored = pixels[channel..].iter().step_by(c);
                plane.iter_mut().zip(stored).for_each(|(plane, &stored)| {
                    plane.write(value(stored));
                });
            }
        }
    }
}

/// The bands of a TIFF: as the file scales them, or else as whole numbers of other formats are.
fn bands(raster: Raster, reading: &Reading, into: &mut Vec<f32>) -> Result<[usize; 3]> {
    let [c, h, w] = raster.size;
    let usual = match raster.samples {
        Samples::U8(_) => 1.0 / 255.0,
        Samples::U16(_) => 1.0 / 65_535.0,
        Samples::I16(_) => 1.0 / 32_767.0,
        Samples::F32(_) => 1.0,
    };
    let mut values = sizes::filled("the image", 0f32, sizes::product("the image", &[c, h, w])?)?;
    for (band, plane) in values.chunks_exact_mut(h * w).enumerate() {
        let told = &raster.bands[band];
        let (scale, offset) = match reading.scale {
            Some(scale) => (scale, 0.0),
            None if (told.scale, told.offset) != (1.0, 0.0) => (told.scale, told.offset),
            None => (usual, 0.0),
        };
        for (pixel, value) in plane.iter_mut().enumerate() {
            *value = (f64::from(raster.samples.get(band * h * w + pixel)) * scale + offset) as f32;
        }
    }
    fitted(values, [c, h, w], reading, into)
}

/// Appends planes in the size that is asked for.
pub(super) fn fitted(
    values: Vec<f32>,
    [c, h, w]: [usize; 3],
    reading: &Reading,
    into: &mut Vec<f32>,
) -> Result<[usize; 3]> {
    if reading.channels == Channels::Grey && c != 1 {
        return Err(Error::data(format!("an image of {c} bands is not grey")));
    }
    match reading.size {
        Some((height, width)) if (height, width) != (h, w) => {
            for plane in values.chunks_exact(h * w) {
                into.extend(resized(plane, [h, w], [height, width]));
            }
            Ok([c, height, width])
        }
        _ if into.is_empty() => {
            *into = values;
            Ok([c, h, w])
        }
        _ => {
            into.extend_from_slice(&values);
            Ok([c, h, w])
        }
    }
}

/// A plane in another size. `image` clamps floats to 0 and 1, so they are brought there and back: what is
/// interpolated is a mean, and moves with its values.
fn resized(plane: &[f32], [h, w]: [usize; 2], [height, width]: [usize; 2]) -> Vec<f32> {
    let finite = || plane.iter().copied().filter(|value| value.is_finite());
    let (low, high) = (finite().fold(f32::INFINITY, f32::min), finite().fold(f32::NEG_INFINITY, f32::max));
    if low >= high {
        return vec![if low == high { low } else { f32::NAN }; height * width];
    }
    let within: Vec<f32> = plane.iter().map(|value| (value - low) / (high - low)).collect();
    let image: ImageBuffer<Luma<f32>, _> =
        ImageBuffer::from_raw(w as u32, h as u32, within).expect("a plane has its size");
    let image = imageops::resize(&image, width as u32, height as u32, FilterType::Triangle);
    image.into_raw().into_iter().map(|value| low + value * (high - low)).collect()
}

/// The labels of a mask in PNG, grey or indexed by a palette, of up to 16 bits, or in TIFF, `[H, W]`; taken
/// from the nearest pixel where another size is asked for.
#[cfg(feature = "hub")]
pub(super) fn labels(bytes: &[u8], size: Option<(usize, usize)>) -> Result<(Vec<u32>, [usize; 2])> {
    let (labels, [h, w]) = if bytes.starts_with(b"\x89PNG") { png_labels(bytes)? } else { tiff_labels(bytes)? };
    let Some((height, width)) = size.filter(|&size| size != (h, w)) else { return Ok((labels, [h, w])) };
    // Centres of pixels: no shift to a corner.
    let from = |at: usize, old: usize, new: usize| (2 * at + 1) * old / (2 * new);
    let nearest = (0..height).flat_map(|y| {
        let line = &labels[from(y, h, height) * w..][..w];
        (0..width).map(move |x| line[from(x, w, width)])
    });
    Ok((nearest.collect(), [height, width]))
}

#[cfg(feature = "hub")]
fn png_labels(bytes: &[u8]) -> Result<(Vec<u32>, [usize; 2])> {
    let content: &mut dyn Content = &mut std::io::Cursor::new(bytes);
    let mut decoder = png::Decoder::new_with_limits(content, png::Limits { bytes: 1 << 28 });
    // `image` would give the palette's colours.
    decoder.set_transformations(png::Transformations::IDENTITY);
    let broken = |error: png::DecodingError| Error::data(format!("the mask is no whole PNG: {error}"));
    let mut reader = decoder.read_info().map_err(broken)?;
    let (info, (color, depth)) = (reader.info(), reader.output_color_type());
    let (h, w) = (info.height as usize, info.width as usize);
    if !matches!(color, png::ColorType::Grayscale | png::ColorType::Indexed) {
        return Err(Error::data(format!("expected a mask of one channel, got {color:?}"))
            .hint("the mask's column must hold labels, not their colours"));
    }
    if h as u64 * w as u64 > PIXELS {
        return Err(Error::data(format!("expected at most {PIXELS} pixels, got {h}×{w}")));
    }
    let mut stored = sizes::filled("the mask", 0u8, reader.output_buffer_size().unwrap_or(usize::MAX))?;
    reader.next_frame(&mut stored).map_err(broken)?;
    let line = stored.len() / h.max(1);
    let bits = depth as usize;
    let label = |line: &[u8], x: usize| match bits {
        16 => u32::from(u16::from_be_bytes([line[2 * x], line[2 * x + 1]])),
        8 => u32::from(line[x]),
        // Several in a byte, the first in the highest bits.
        _ => u32::from(line[x * bits / 8] >> (8 - bits - x * bits % 8)) & ((1 << bits) - 1),
    };
    let labels = stored.chunks_exact(line.max(1)).take(h).flat_map(|line| (0..w).map(move |x| label(line, x)));
    Ok((labels.collect(), [h, w]))
}

#[cfg(feature = "hub")]
fn tiff_labels(bytes: &[u8]) -> Result<(Vec<u32>, [usize; 2])> {
    use crate::error::Context;
    let raster = geotiff::read(std::io::Cursor::new(bytes), bytes.len() as u64, None)
        .context("expected a mask in PNG or TIFF: others change the labels")?;
    let [c, h, w] = raster.size;
    if c != 1 {
        return Err(Error::data(format!("expected a mask of one band, got {c}")));
    }
    let label = |pixel| {
        let value = raster.samples.get(pixel);
        let whole = value >= 0.0 && value.fract() == 0.0 && value < 16_777_216.0;
        whole.then_some(value as u32).ok_or_else(|| Error::data(format!("expected labels from 0 on, got {value}")))
    };
    Ok(((0..h * w).map(label).collect::<Result<_>>()?, [h, w]))
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use image::{GrayImage, ImageFormat, RgbImage, RgbaImage};

    use super::*;

    fn encoded(image: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
        let mut out = Cursor::new(Vec::new());
        image.into().write_to(&mut out, format).unwrap();
        out.into_inner()
    }

    fn values(content: &[u8], reading: &Reading) -> Result<Vec<f32>> {
        let mut values = vec![-7.0];
        let [c, h, w] = read(Cursor::new(content), reading, &mut values)?;
        assert_eq!((values[0], values.len()), (-7.0, 1 + c * h * w), "appended");
        Ok(values.split_off(1))
    }

    /// One number per channel and pixel, from planes that were taken apart one by one.
    fn expected(content: &[u8], grey: bool, value: impl Fn(u8) -> f32) -> Vec<f32> {
        let image = image::load_from_memory(content).unwrap();
        let (bytes, c) = if grey { (image.to_luma8().into_raw(), 1) } else { (image.to_rgb8().into_raw(), 3) };
        (0..c).flat_map(|channel| bytes[channel..].iter().step_by(c)).map(|&byte| value(byte)).collect()
    }

    #[test]
    fn values_are_the_decoders_bytes_in_planes() {
        let mixed = |x: u32, y: u32, channel: u32| (x * 37 + y * 91 + channel * 50 + x * y) as u8;
        // Around the lanes of vectors, and more than a page.
        for (w, h) in [(1, 1), (2, 3), (31, 5), (32, 4), (33, 7), (130, 97)] {
            let color = RgbImage::from_fn(w, h, |x, y| image::Rgb([0, 1, 2].map(|channel| mixed(x, y, channel))));
            let grey = GrayImage::from_fn(w, h, |x, y| image::Luma([mixed(x, y, 0)]));
            let clear = RgbaImage::from_fn(w, h, |x, y| image::Rgba([0, 1, 2, 3].map(|channel| mixed(x, y, channel))));
            let images = [
                (encoded(color.clone(), ImageFormat::Png), false),
                (encoded(color, ImageFormat::Jpeg), false),
                (encoded(grey.clone(), ImageFormat::Png), true),
                (encoded(grey, ImageFormat::Jpeg), true),
                (encoded(clear, ImageFormat::Png), false),
            ];
            for (content, is_grey) in images {
                for (channels, grey) in [(Channels::Color, false), (Channels::Grey, true), (Channels::Stored, is_grey)]
                {
                    let reading = Reading { channels, ..Reading::default() };
                    let divided = expected(&content, grey, |byte| f32::from(byte) / 255.0);
                    assert!(values(&content, &reading).unwrap() == divided, "{w}×{h} {channels:?}");
                    let scaled = expected(&content, grey, |byte| (f64::from(byte) * 0.3) as f32);
                    let reading = Reading { scale: Some(0.3), ..reading };
                    assert!(values(&content, &reading).unwrap() == scaled, "{w}×{h} {channels:?}, scaled");
                }
            }
        }
    }

    #[test]
    fn whole_numbers_are_divided_exactly() {
        for most in [255u16, 65_535] {
            let numbers: Vec<u16> = (0..=most).collect();
            let mut values = Vec::new();
            planes(&numbers, 1, None, f64::from(most), &mut values).unwrap();
            assert!(numbers.iter().zip(&values).all(|(&number, &value)| value == f32::from(number) / f32::from(most)));
        }
    }

    #[test]
    fn an_image_that_ends_early_has_nothing_of_the_one_before() {
        let image = |level: u8| {
            let image = RgbImage::from_fn(64, 64, |x, y| image::Rgb([level, (x * y) as u8, level ^ x as u8]));
            encoded(image, ImageFormat::Jpeg)
        };
        let (whole, other) = (image(10), image(200));
        let mut read_at_all = 0;
        for end in (whole.len() / 2..whole.len()).step_by(7) {
            let part = &whole[..end];
            let first = values(part, &Reading::default());
            values(&other, &Reading::default()).unwrap();
            let second = values(part, &Reading::default());
            assert_eq!(first.is_ok(), second.is_ok());
            if let (Ok(first), Ok(second)) = (first, second) {
                assert!(first == second, "{end} bytes");
                read_at_all += 1;
            }
        }
        assert!(read_at_all > 0, "every part was refused");
    }
}
