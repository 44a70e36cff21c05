//! Writes GeoTIFF files: a band after the other, in compressed strips.

use std::io::{Cursor, Write};

use flate2::Compression;
use flate2::write::ZlibEncoder;
use rayon::prelude::*;
use tiff::encoder::TiffEncoder;
use tiff::tags::Tag;

use super::read::GDAL_METADATA;
use super::{Kind, Raster, metadata};
use crate::error::{Error, Result};

/// About so many bytes become one strip.
const STRIP: usize = 1 << 18;

/// The bytes of a GeoTIFF file: in the machine's order, deflate, differences to the left for whole numbers. With
/// `colors`, at most 256, the one band of bytes is a palette's; `classes` are names for its values.
///
/// # Errors
/// If the file would be larger than 4 GB.
pub(in crate::data) fn write(raster: &Raster, colors: &[[f32; 3]], classes: &[String]) -> Result<Vec<u8>> {
    let [count, height, width] = raster.size;
    let kind = raster.samples.kind();
    let &(_, format, bits) = Kind::ALL.iter().find(|(of, ..)| *of == kind).expect("all kinds are listed");
    let rows = (STRIP / (width * kind.bytes()).max(1)).clamp(1, height);
    let strips: Vec<Vec<u8>> = (0..count * height.div_ceil(rows))
        .into_par_iter()
        .map(|strip| {
            let (band, first) = (strip / height.div_ceil(rows), strip % height.div_ceil(rows) * rows);
            let place = (band * height + first) * width..(band * height + (first + rows).min(height)) * width;
            let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
            encoder.write_all(&differences(raster, place, width))?;
            Ok(encoder.finish()?)
        })
        .collect::<Result<_>>()?;

    let side = |size: usize| u32::try_from(size).map_err(|_| Error::data(format!("a side of {size} pixels")));
    let mut file = Cursor::new(Vec::new());
    let mut encoder = TiffEncoder::new(&mut file)?;
    let mut directory = encoder.image_directory()?;
    let (mut offsets, mut lengths) = (Vec::new(), Vec::new());
    for strip in &strips {
        let offset = directory.write_data(strip.as_slice())?;
        let end = offset + strip.len() as u64;
        if end > u64::from(u32::MAX) {
            return Err(Error::data("a TIFF file of more than 4 GB cannot be: write the scene in parts"));
        }
        offsets.push(offset as u32);
        lengths.push(strip.len() as u32);
    }
    directory.write_tag(Tag::ImageWidth, side(width)?)?;
    directory.write_tag(Tag::ImageLength, side(height)?)?;
    directory.write_tag(Tag::BitsPerSample, &vec![bits; count][..])?;
    directory.write_tag(Tag::Compression, 8u16)?;
    directory.write_tag(Tag::PhotometricInterpretation, if colors.is_empty() { 1u16 } else { 3 })?;
    directory.write_tag(Tag::StripOffsets, &offsets[..])?;
    directory.write_tag(Tag::SamplesPerPixel, count as u16)?;
    directory.write_tag(Tag::RowsPerStrip, rows as u32)?;
    directory.write_tag(Tag::StripByteCounts, &lengths[..])?;
    directory.write_tag(Tag::PlanarConfiguration, if count == 1 { 1u16 } else { 2 })?;
    directory.write_tag(Tag::Predictor, if kind == Kind::F32 { 1u16 } else { 2 })?;
    if !colors.is_empty() {
        directory.write_tag(Tag::ColorMap, &palette(colors)[..])?;
    }
    if count > 1 {
        directory.write_tag(Tag::ExtraSamples, &vec![0u16; count - 1][..])?;
    }
    directory.write_tag(Tag::SampleFormat, &vec![format; count][..])?;
    if let Some(place) = &raster.georeference {
        let [x, a, b, y, c, d] = place.transform();
        if b == 0.0 && c == 0.0 && a > 0.0 && d < 0.0 {
            directory.write_tag(Tag::ModelPixelScaleTag, &[a, -d, 0.0][..])?;
            directory.write_tag(Tag::ModelTiepointTag, &[0.0, 0.0, 0.0, x, y, 0.0][..])?;
        } else {
            let matrix = [a, b, 0.0, x, c, d, 0.0, y, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0];
            directory.write_tag(Tag::ModelTransformationTag, &matrix[..])?;
        }
        let (keys, doubles, text) = place.keys();
        if !keys.is_empty() {
            directory.write_tag(Tag::GeoKeyDirectoryTag, keys)?;
        }
        if !doubles.is_empty() {
            directory.write_tag(Tag::GeoDoubleParamsTag, doubles)?;
        }
        if !text.is_empty() {
            directory.write_tag(Tag::GeoAsciiParamsTag, text)?;
        }
    }
    if let Some(text) = metadata::write(&raster.bands, classes) {
        directory.write_tag(GDAL_METADATA, text.as_str())?;
    }
    if let Some(nodata) = raster.nodata {
        directory.write_tag(Tag::GdalNodata, nodata.to_string().to_lowercase().as_str())?;
    }
    directory.finish()?;
    Ok(file.into_inner())
}

/// The values at `place`, whole rows, as the file has them.
fn differences(raster: &Raster, place: std::ops::Range<usize>, width: usize) -> Vec<u8> {
    fn rows<T: Copy, const N: usize>(values: &[T], width: usize, bytes: impl Fn(T, Option<T>) -> [u8; N]) -> Vec<u8> {
        let row = |row: &[T]| -> Vec<u8> {
            let left = std::iter::once(None).chain(row.iter().copied().map(Some));
            row.iter().zip(left).flat_map(|(&value, left)| bytes(value, left)).collect()
        };
        values.chunks(width).flat_map(row).collect()
    }
    use super::Samples::{F32, I16, U8, U16};
    match &raster.samples {
        U8(values) => rows(&values[place], width, |value, left| value.wrapping_sub(left.unwrap_or(0)).to_ne_bytes()),
        U16(values) => rows(&values[place], width, |value, left| value.wrapping_sub(left.unwrap_or(0)).to_ne_bytes()),
        I16(values) => rows(&values[place], width, |value, left| value.wrapping_sub(left.unwrap_or(0)).to_ne_bytes()),
        F32(values) => rows(&values[place], width, |value, _| value.to_ne_bytes()),
    }
}

/// TIFF's palette: all reds, all greens, all blues, 256 each, in 16 bits.
fn palette(colors: &[[f32; 3]]) -> Vec<u16> {
    let level = |class: usize, channel: usize| {
        let level = colors.get(class).map_or(0.0, |color| color[channel].clamp(0.0, 1.0));
        // Of 8 bits, each twice: what reads eight of them reads the same colour.
        (level * 255.0).round() as u16 * 257
    };
    (0..3).flat_map(|channel| (0..256).map(move |class| level(class, channel))).collect()
}
