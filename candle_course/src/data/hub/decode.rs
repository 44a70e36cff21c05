//! Images from the hub's parquet files.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use image::ImageFormat;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use rayon::prelude::*;

use crate::data::files::RawImages;
use crate::data::source::Specification;
use crate::error::{Context, Error, Result};

pub(super) fn decode(set: &Specification, files: &[Vec<PathBuf>; 2]) -> Result<[RawImages; 2]> {
    let split = |files: &[PathBuf]| {
        let mut raw = RawImages { pixels: vec![], labels: vec![] };
        for file in files {
            read_parquet(set, file, &mut raw)
                .with_context(|| format!("{} is damaged or not of {}", file.display(), set.name))?;
        }
        Ok::<_, Error>(raw)
    };
    Ok([split(&files[0])?, split(&files[1])?])
}

/// Adds the images of a parquet file: a column with the group (bytes, path), a column of labels.
fn read_parquet(set: &Specification, path: &Path, into: &mut RawImages) -> Result<()> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let reader = SerializedFileReader::new(file)?;
    let mut encoded: Vec<Vec<u8>> = Vec::new();
    let first = into.labels.len();
    for row in reader.get_row_iter(None)? {
        let row = row?;
        let columns: BTreeMap<&str, &Field> =
            row.get_column_iter().map(|(name, field)| (name.as_str(), field)).collect();
        let image = columns.get("image").or_else(|| columns.get("img")).and_then(|field| match field {
            Field::Group(group) => group.get_column_iter().find_map(|(name, field)| match field {
                Field::Bytes(bytes) if name == "bytes" => Some(bytes.data().to_vec()),
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
                "row {}: expected a column `image` or `img` with bytes and an integer column `label`, got the columns {names:?}",
                encoded.len()
            )));
        };
        if label as usize >= set.class_names.len() {
            return Err(Error::data(format!(
                "row {}: expected a label below {}, got {label}",
                encoded.len(),
                set.class_names.len()
            )));
        }
        encoded.push(image);
        into.labels.push(label);
    }
    let [c, h, w] = set.shape;
    let size = c * h * w;
    let start = into.pixels.len();
    into.pixels.resize(start + (into.labels.len() - first) * size, 0);
    into.pixels[start..].par_chunks_exact_mut(size).zip(&encoded).enumerate().try_for_each(|(row, (out, png))| {
        let image = image::load_from_memory_with_format(png, ImageFormat::Png)
            .with_context(|| format!("row {row}: its image is no PNG"))?;
        if (image.height() as usize, image.width() as usize) != (h, w) {
            return Err(Error::data(format!(
                "row {row}: expected an image of {h}×{w}, got {}×{}",
                image.height(),
                image.width()
            )));
        }
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
