//! The images of a set of one size, out of the hub's parquet files, as bytes.

use std::io::Cursor;
use std::path::{Path, PathBuf};

use image::codecs::png::PngDecoder;
use image::{DynamicImage, ImageDecoder};
use rayon::prelude::*;

use super::shards::{Beside, Blobs, Columns, Shard, Stored, Wanted};
use crate::data::files::{OWN_FILES, RawImages};
use crate::data::pixels::Content;
use crate::data::source::Specification;
use crate::error::{Context, Error, ErrorKind, Result, contained};

/// The images of the files of both splits; or which file they cannot be had from, and why. With `verify`,
/// there are no more than the set's.
pub(super) fn decode(
    set: &Specification,
    files: [&[PathBuf]; 2],
    verify: bool,
) -> std::result::Result<[RawImages; 2], (PathBuf, Error)> {
    let split = |split: usize| {
        let limit = if verify { set.counts[split] } else { set.counts[split] * OWN_FILES };
        let mut raw = RawImages { pixels: vec![], labels: vec![] };
        for file in files[split] {
            // The parquet crate panics at some damage: that is an error like any other.
            contained(ErrorKind::Data, "its reader", || read(set, file, limit, &mut raw))
                .with_context(|| format!("{} is damaged or not of {}", file.display(), set.name))
                .map_err(|error| (file.clone(), error))?;
        }
        Ok(raw)
    };
    Ok([split(0)?, split(1)?])
}

/// Adds the images of a parquet file, of which there are at most `limit` in all.
fn read(set: &Specification, file: &Path, limit: usize, into: &mut RawImages) -> Result<()> {
    let shard = Shard::open(file)?;
    let (columns, _) = shard.columns(&Wanted::default())?;
    let Columns { stored: Stored::Bytes, beside: Beside::Label(_), .. } = columns else {
        return Err(Error::data("expected images with their bytes, and labels that are whole numbers"));
    };
    let (classes, mut first) = (set.class_names.len(), 0);
    for (group, (rows, _)) in shard.groups(&columns)?.into_iter().enumerate() {
        if rows > limit - into.labels.len() {
            return Err(Error::data(format!("expected at most {limit} images, got more")));
        }
        let read = shard.read(group, &columns)?;
        if let Some(row) = read.labels.iter().position(|&label| label as usize >= classes) {
            let what = format!("expected a label below {classes}, got {}", read.labels[row]);
            return Err(Error::data(format!("row {}: {what}", first + row)));
        }
        decode_group(set, first, rows, &read.images, &mut into.pixels)?;
        into.labels.extend(read.labels);
        first += rows;
    }
    Ok(())
}

/// Adds the pixels of a group's PNG images, whose first is in row `first`.
fn decode_group(set: &Specification, first: usize, rows: usize, encoded: &Blobs, pixels: &mut Vec<u8>) -> Result<()> {
    let [c, h, w] = set.shape;
    let start = pixels.len();
    pixels.resize(start + rows * c * h * w, 0);
    pixels[start..].par_chunks_exact_mut(c * h * w).enumerate().try_for_each(|(at, out)| {
        let row = first + at;
        let what = || format!("row {row}: its image is no PNG");
        // The header first: a few bytes can stand for an image of any size.
        let content: &mut dyn Content = &mut Cursor::new(encoded.get(at).unwrap_or_default());
        let decoder = PngDecoder::new(content).with_context(what)?;
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
    use crate::test_support::{HARMLESS, alone, mutations, peak_memory, quietly, rewrite, tried};

    /// What a damaged file may take: it has one image, and pages of some hundred bytes.
    const MEMORY: usize = 8 << 20;

    /// The labels of the training images in a file.
    fn labels(path: &Path) -> Result<Vec<u32>> {
        let files = [path.to_owned()];
        let images = decode(Mnist::specification(), [&files, &[]], false).map_err(|(_, error)| error)?;
        Ok(images.into_iter().flat_map(|split| split.labels).collect())
    }

    #[test]
    fn damaged_parquet_files_are_read_or_refused() {
        let sample = Mnist::builder().sample().quiet().load().unwrap();
        let original = parquet_file("image", &sample.train(), &[0]);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("train.parquet");
        let (mut whole, mut panics) = (0, 0);
        alone(|| {
            quietly(|| {
                for (at, bytes) in mutations(12, &original, 100_000).enumerate() {
                    rewrite(&path, &bytes);
                    let (result, memory) = peak_memory(|| labels(&path));
                    assert!(memory < MEMORY, "mutation {at} takes {memory} bytes");
                    match result {
                        Ok(_) => whole += 1,
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
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("train.parquet");
        rewrite(&path, &original);
        assert_eq!(labels(&path).unwrap(), sample.train().labels()[..3]);
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
        rewrite(&path, &large);
        alone(|| {
            let (error, memory) = peak_memory(|| quietly(|| labels(&path).unwrap_err().to_string()));
            assert!(error.contains("says that it stands for 2147483647 bytes"), "{error}");
            assert!(memory < 1 << 20, "{memory}");
        });
    }
}
