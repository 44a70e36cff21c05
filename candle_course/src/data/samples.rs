//! Decodes the sheets of `candle_course_samples`.

use std::io::Cursor;

use candle_course_samples::{COLUMNS, Sample};
use image::codecs::webp::WebPDecoder;
use image::{DynamicImage, ImageDecoder};
use rayon::prelude::*;

use crate::data::files::RawImages;
use crate::data::pixels::Content;
use crate::error::{Error, Result};

/// The images of `sample`, each of `shape`, `[C, H, W]`.
pub(crate) fn decode(sample: &Sample, shape: [usize; 3]) -> Result<RawImages> {
    let sheets: Vec<Vec<u8>> =
        sample.sheets.par_iter().map(|sheet| decode_sheet(sheet, shape)).collect::<Result<_>>()?;
    Ok(RawImages { pixels: sheets.concat(), labels: sample.labels.iter().map(|&label| u32::from(label)).collect() })
}

/// `[N, C, H, W]` from rows of [`COLUMNS`] images.
fn decode_sheet(webp: &[u8], [c, h, w]: [usize; 3]) -> Result<Vec<u8>> {
    let content: &mut dyn Content = &mut Cursor::new(webp);
    let decoder = WebPDecoder::new(content)?;
    let (width, height) = decoder.dimensions();
    let (width, height) = (width as usize, height as usize);
    if width != COLUMNS * w || !height.is_multiple_of(h) {
        return Err(Error::data(format!(
            "expected rows of {COLUMNS} images of {h}×{w}, got a sheet of {height}×{width}"
        )));
    }
    let sheet = DynamicImage::from_decoder(decoder)?.into_rgb8();
    let mut pixels = Vec::with_capacity(c * height * width);
    for row in sheet.as_raw().chunks_exact(h * width * 3) {
        for column in 0..COLUMNS {
            for channel in 0..c {
                for line in row.chunks_exact(width * 3) {
                    pixels.extend(line[column * w * 3..(column + 1) * w * 3].iter().skip(channel).step_by(3));
                }
            }
        }
    }
    Ok(pixels)
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;
    use crate::data::files::hex;
    use crate::data::source::ImageSet;
    use crate::data::{Cifar10, FashionMnist, Mnist};

    #[test]
    fn the_samples_are_the_recorded_pixels_balanced_and_of_the_right_size() {
        for (set, per_class) in [
            (Mnist::specification(), [600, 100]),
            (Cifar10::specification(), [400, 75]),
            (FashionMnist::specification(), [40, 10]),
        ] {
            for split in 0..2 {
                let raw = decode(set.sample[split], set.shape).unwrap();
                let digest = Sha256::new().chain_update(&raw.pixels).chain_update(set.sample[split].labels).finalize();
                let hex = hex(&digest);
                assert!(candle_course_samples::SOURCES.contains(&hex), "{} split {split}: {hex}", set.name);
                for class in 0..10 {
                    assert_eq!(raw.labels.iter().filter(|&&label| label == class).count(), per_class[split]);
                }
            }
        }
    }

    #[test]
    fn a_sheet_of_other_images_is_refused() {
        let sample = &candle_course_samples::MNIST_TEST;
        assert!(decode(sample, [1, 28, 27]).is_err_and(|error| error.to_string().contains("28×27")));
        let cut = Sample { sheets: &[b"no picture"], labels: &[0] };
        assert!(decode(&cut, [1, 28, 28]).is_err());
    }
}
