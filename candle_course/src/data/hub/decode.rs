//! Images from the hub's parquet files.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Cursor;
use std::path::PathBuf;

use image::codecs::png::PngDecoder;
use image::{DynamicImage, ImageDecoder};
use parquet::file::metadata::ParquetMetaDataReader;
use parquet::file::reader::{ChunkReader, FileReader, SerializedFileReader};
use parquet::record::Field;
use rayon::prelude::*;

use super::pages;
use crate::data::files::{OWN_FILES, RawImages};
use crate::data::source::Specification;
use crate::error::{self, Context, Error, ErrorKind, Result};

/// Most bytes of one encoded image: those of the sets here have some hundreds to thousands.
const IMAGE_BYTES: usize = 1 << 20;
/// Rows whose encoded images are in memory at once.
const BLOCK: usize = 1024;

/// The images of the files of both splits; or which file they cannot be had from, and why. With `verify`,
/// there are no more than the set's.
pub(super) fn decode(
    set: &Specification,
    files: &[Vec<PathBuf>; 2],
    verify: bool,
) -> std::result::Result<[RawImages; 2], (PathBuf, Error)> {
    let split = |split: usize| {
        let limit = if verify { set.counts[split] } else { set.counts[split] * OWN_FILES };
        let mut raw = RawImages { pixels: vec![], labels: vec![] };
        for file in &files[split] {
            File::open(file)
                .map_err(Error::from)
                .and_then(|content| contained(set, content, limit, &mut raw))
                .with_context(|| format!("{} is damaged or not of {}", file.display(), set.name))
                .map_err(|error| (file.clone(), error))?;
        }
        Ok(raw)
    };
    Ok([split(0)?, split(1)?])
}

/// As [`read_parquet`]. The parquet crate panics at some damage: that is an error like any other.
fn contained(
    set: &Specification,
    content: impl ChunkReader + 'static,
    limit: usize,
    into: &mut RawImages,
) -> Result<()> {
    error::contained(ErrorKind::Data, "its reader", || read_parquet(set, content, limit, into))
}

/// Adds the images of a parquet file: a column with the group (bytes, path), a column of labels. At most
/// `limit` images in all.
fn read_parquet(
    set: &Specification,
    content: impl ChunkReader + 'static,
    limit: usize,
    into: &mut RawImages,
) -> Result<()> {
    let metadata = ParquetMetaDataReader::new().parse_and_finish(&content)?;
    pages::check(&content, &metadata)?;
    let reader = SerializedFileReader::new(content)?;
    let (mut rows, mut block) = (0, Vec::<Vec<u8>>::new());
    for row in reader.get_row_iter(None)? {
        let row = row?;
        let columns: BTreeMap<&str, &Field> =
            row.get_column_iter().map(|(name, field)| (name.as_str(), field)).collect();
        let image = columns.get("image").or_else(|| columns.get("img")).and_then(|field| match field {
            Field::Group(group) => group.get_column_iter().find_map(|(name, field)| match field {
                Field::Bytes(bytes) if name == "bytes" => Some(bytes.data()),
                _ => None,
            }),
            _ => None,
        });
        let label = columns.get("label").and_then(|field| match **field {
            Field::Long(label) => u32::try_from(label).ok(),
            Field::Int(label) => u32::try_from(label).ok(),
            _ => None,
        });
        let (Some(image), Some(label)) = (image, label) else {
            let names: Vec<_> = columns.keys().collect();
            return Err(Error::data(format!(
                "row {rows}: expected a column `image` or `img` with bytes and an integer column `label`, got the columns {names:?}"
            )));
        };
        if label as usize >= set.class_names.len() {
            return Err(Error::data(format!(
                "row {rows}: expected a label below {}, got {label}",
                set.class_names.len()
            )));
        }
        if image.len() > IMAGE_BYTES {
            return Err(Error::data(format!(
                "row {rows}: expected an image of at most {IMAGE_BYTES} bytes, got {}",
                image.len()
            )));
        }
        if into.labels.len() == limit {
            return Err(Error::data(format!("expected at most {limit} images, got more")));
        }
        block.push(image.to_vec());
        into.labels.push(label);
        rows += 1;
        if block.len() == BLOCK {
            decode_block(set, rows - BLOCK, &block, &mut into.pixels)?;
            block.clear();
        }
    }
    decode_block(set, rows - block.len(), &block, &mut into.pixels)
}

/// Adds the pixels of PNG images, whose first is in row `first`.
fn decode_block(set: &Specification, first: usize, encoded: &[Vec<u8>], pixels: &mut Vec<u8>) -> Result<()> {
    let [c, h, w] = set.shape;
    let start = pixels.len();
    pixels.resize(start + encoded.len() * c * h * w, 0);
    pixels[start..].par_chunks_exact_mut(c * h * w).zip(encoded).enumerate().try_for_each(|(row, (out, png))| {
        let row = first + row;
        let what = || format!("row {row}: its image is no PNG");
        // The header first: a few bytes can stand for an image of any size.
        let decoder = PngDecoder::new(Cursor::new(png)).with_context(what)?;
        let (width, height) = decoder.dimensions();
        if (height as usize, width as usize) != (h, w) {
            return Err(Error::data(format!("row {row}: expected an image of {h}×{w}, got {height}×{width}")));
        }
        let image = DynamicImage::from_decoder(decoder).with_context(what)?;
        if c == 1 {
            out.copy_from_slice(image.to_luma8().as_raw());
        } else {
            for (i, pixel) in image.to_rgb8().pixels().enumerate() {
                for (channel, &value) in pixel.0.iter().enumerate() {
                    out[channel * h * w + i] = value;
                }
            }
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::hub::tests::parquet_file;
    use crate::data::{ImageSet, Mnist};
    use crate::test_support::{HARMLESS, alone, mutations, peak_memory, quietly, tried};

    /// What a damaged file may take: it has one image, and pages of some hundred bytes.
    const MEMORY: usize = 8 << 20;

    #[test]
    fn damaged_parquet_files_are_read_or_refused() {
        let sample = Mnist::builder().sample().quiet().load().unwrap();
        let original = parquet_file("image", &sample.train(), &[0]);
        let read = |bytes: Vec<u8>| {
            let mut raw = RawImages { pixels: vec![], labels: vec![] };
            contained(Mnist::specification(), bytes::Bytes::from(bytes), 1000, &mut raw)
        };
        let (mut whole, mut panics) = (0, 0);
        alone(|| {
            quietly(|| {
                for (at, bytes) in mutations(12, &original, 100_000).enumerate() {
                    let (result, memory) = peak_memory(|| read(bytes));
                    assert!(memory < MEMORY, "mutation {at} takes {memory} bytes");
                    match result {
                        Ok(()) => whole += 1,
                        Err(error) => panics += usize::from(error.to_string().contains("panicked")),
                    }
                }
            });
        });
        assert!((1_000..90_000).contains(&whole), "{whole} read, {panics} panics contained");
        tried(HARMLESS, "parquet files, damaged", 100_000);
    }

    #[test]
    fn a_page_that_asks_for_more_than_its_bytes_can_stand_for_is_refused() {
        let sample = Mnist::builder().sample().quiet().load().unwrap();
        let original = parquet_file("image", &sample.train(), &[0, 1, 2]);
        let read = |bytes: &[u8]| {
            let mut raw = RawImages { pixels: vec![], labels: vec![] };
            contained(Mnist::specification(), bytes::Bytes::copy_from_slice(bytes), 1000, &mut raw).map(|()| raw.labels)
        };
        assert_eq!(read(&original).unwrap(), sample.train().labels()[..3]);
        // The first page's header: its kind, its size unpacked, which becomes 2 GB, and its size as it is,
        // smaller by what the header grows, so that nothing after the page moves.
        assert_eq!(original[4..7], [0x15, 0x04, 0x15], "a dictionary, and the field of its size");
        let number = |at: usize| {
            let length = original[at..].iter().position(|byte| *byte < 0x80).unwrap() + 1;
            let bytes = original[at..at + length].iter().rev();
            (bytes.fold(0u64, |value, byte| value << 7 | u64::from(byte & 0x7f)), length)
        };
        let (_, length) = number(7);
        let (size, size_length) = number(8 + length);
        assert_eq!((original[7 + length], size_length), (0x15, 2), "the field of the packed size");
        let grows = 5 - length;
        let size = size - 2 * grows as u64;
        let large = [
            &original[..7],
            &[0xfe, 0xff, 0xff, 0xff, 0x0f, 0x15, size as u8 | 0x80, (size >> 7) as u8],
            &original[10 + length..100],
            &original[100 + grows..],
        ]
        .concat();
        assert_eq!(large.len(), original.len());
        alone(|| {
            let (error, memory) = peak_memory(|| quietly(|| read(&large).unwrap_err().to_string()));
            assert!(error.contains("says that it stands for 2147483647 bytes"), "{error}");
            assert!(memory < 1 << 20, "{memory}");
        });
    }
}
