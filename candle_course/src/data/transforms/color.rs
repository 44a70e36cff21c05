//! Colour jitter.

use super::{BatchPosition, PerImage, Transform, edit_batch};
use crate::data::Batch;
use crate::error::{Error, Result};
use crate::random::Generator;
use crate::setters::setters;

/// Changes brightness, contrast and saturation of every image at random.
///
/// For each of the three a factor is drawn uniformly from `1 - strength` to `1 + strength`, and the
/// image `x` becomes `factor · x + (1 - factor) · reference`: black for brightness, the image's mean
/// grey for contrast, every pixel's own grey for saturation. Greys are `0.299 R + 0.587 G +
/// 0.114 B`, and values are cut to `[0, 1]`, as in torchvision.
///
/// Expects values in `[0, 1]`: put it before normalisation (see
/// [`ImageDataset::unnormalized`](crate::data::ImageDataset::unnormalized) and
/// [`Normalize`](crate::data::Normalize)).
///
/// # Examples
///
/// ```
/// use candle_course::data::{Cifar10, ColorJitter, DataLoader, Normalize};
///
/// let images = Cifar10::builder().sample().quiet().load()?.train();
/// let (mean, std) = images.mean_std();
/// let loader = DataLoader::builder(images.unnormalized())
///     .batch_size(16)
///     .transform(ColorJitter::builder(5).brightness(0.4).contrast(0.4).saturation(0.4).build()?)
///     .transform(Normalize::new(&mean, &std)?)
///     .build()?;
/// assert_eq!(loader.epoch(0)?.next().unwrap()?.inputs.dims(), [16, 3, 32, 32]);
/// # Ok::<(), candle_course::error::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct ColorJitter {
    brightness: f64,
    contrast: f64,
    saturation: f64,
    seed: u64,
}

const GREY: [f32; 3] = [0.299, 0.587, 0.114];

/// Configures a [`ColorJitter`].
#[derive(Debug, Clone)]
pub struct ColorJitterBuilder(ColorJitter);

impl ColorJitter {
    /// Draws from `seed`; every strength is 0 unless told otherwise.
    pub fn builder(seed: u64) -> ColorJitterBuilder {
        ColorJitterBuilder(Self {
            brightness: 0.0,
            contrast: 0.0,
            saturation: 0.0,
            seed: Generator::derive(seed, "colour jitter").next_u64(),
        })
    }
}

impl ColorJitterBuilder {
    setters! {
        /// Strength of the brightness change, 0 to 1.
        brightness(strength: f64) => 0.brightness = strength;
        /// Strength of the contrast change, 0 to 1.
        contrast(strength: f64) => 0.contrast = strength;
        /// Strength of the saturation change, 0 to 1; needs three channels.
        saturation(strength: f64) => 0.saturation = strength;
    }

    /// The transform.
    ///
    /// # Errors
    /// If a strength is not in 0 to 1.
    pub fn build(self) -> Result<ColorJitter> {
        for (name, strength) in
            [("brightness", self.0.brightness), ("contrast", self.0.contrast), ("saturation", self.0.saturation)]
        {
            if !(0.0..=1.0).contains(&strength) {
                return Err(Error::argument(name, "0 to 1", strength));
            }
        }
        Ok(self.0)
    }
}

/// The grey of every pixel.
fn grey(image: &[f32], [c, h, w]: [usize; 3]) -> Vec<f32> {
    let size = h * w;
    if c != 3 {
        return image[..size].to_vec();
    }
    (0..size).map(|i| (0..3).map(|channel| GREY[channel] * image[channel * size + i]).sum()).collect()
}

fn blend(value: &mut f32, factor: f32, reference: f32) {
    *value = (factor * *value + (1.0 - factor) * reference).clamp(0.0, 1.0);
}

impl PerImage for ColorJitter {
    fn name(&self) -> &'static str {
        "colour jitter"
    }

    fn edit(&self, image: &mut [f32], shape: [usize; 3], position: &BatchPosition, row: usize) -> Result<()> {
        let [c, h, w] = shape;
        if c != 3 && (self.saturation > 0.0 || c != 1) {
            return Err(Error::argument("inputs", "3 channels (or 1, without saturation) for colour jitter", c));
        }
        if let Some(bad) = image.iter().find(|&&x| !(-1e-3..=1.001).contains(&x)) {
            return Err(Error::argument("inputs", "values in 0 to 1 for colour jitter", bad)
                .hint("put it before the normalisation"));
        }
        let mut generator = position.generator(self.seed, row);
        let mut factor = |strength: f64| (1.0 + strength * (2.0 * generator.uniform() - 1.0)) as f32;
        let (brightness, contrast, saturation) =
            (factor(self.brightness), factor(self.contrast), factor(self.saturation));
        image.iter_mut().for_each(|value| blend(value, brightness, 0.0));
        let sum: f64 = grey(image, shape).iter().map(|&value| f64::from(value)).sum();
        let mean = (sum / (h * w) as f64) as f32;
        image.iter_mut().for_each(|value| blend(value, contrast, mean));
        if c == 3 {
            let grey = grey(image, shape);
            image.iter_mut().enumerate().for_each(|(i, value)| blend(value, saturation, grey[i % (h * w)]));
        }
        Ok(())
    }
}

impl Transform for ColorJitter {
    fn apply(&self, batch: Batch, position: &BatchPosition) -> Result<Batch> {
        edit_batch(&[self], batch, position)
    }

    fn per_image(&self) -> Option<&dyn PerImage> {
        Some(self)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{batch, contract, values};
    use super::*;

    fn colours() -> Batch {
        let batch = batch([8, 3, 4, 4], false);
        let inputs = (&batch.inputs / 400.0).unwrap();
        Batch { inputs, ..batch }
    }

    #[test]
    fn each_change_keeps_what_it_must() {
        let at = BatchPosition { epoch: 0, first: 0 };
        let before = colours();
        let images =
            |jitter: ColorJitterBuilder| values(&jitter.build().unwrap().apply(before.clone(), &at).unwrap().inputs);
        let originals = values(&before.inputs);
        let brighter = images(ColorJitter::builder(1).brightness(0.2));
        for (after, before) in brighter.chunks(48).zip(originals.chunks(48)).skip(1) {
            let factor = after[0] / before[0];
            assert!((0.8..=1.2).contains(&factor));
            assert!(after.iter().zip(before).all(|(a, b)| (a - factor * b).abs() < 1e-5 || *a == 1.0));
        }
        let mean = |image: &[f32]| grey(image, [3, 4, 4]).iter().sum::<f32>() / 16.0;
        for jitter in [ColorJitter::builder(1).contrast(0.1), ColorJitter::builder(1).saturation(0.1)] {
            for (after, before) in images(jitter).chunks(48).zip(originals.chunks(48)).take(6) {
                assert_ne!(after, before);
                assert!((mean(after) - mean(before)).abs() < 1e-2, "{} {}", mean(after), mean(before));
            }
        }
    }

    #[test]
    fn draws_follow_the_contract_and_bad_input_is_explained() {
        let jitter = ColorJitter::builder(1).brightness(0.5).contrast(0.5).saturation(0.5).build().unwrap();
        contract(&jitter, &colours(), true);
        let at = BatchPosition { epoch: 0, first: 0 };
        let error = jitter.apply(batch([2, 3, 2, 2], false), &at).unwrap_err().to_string();
        assert!(error.contains("before the normalisation"), "{error}");
        assert!(jitter.apply(batch([1, 1, 1, 1], false), &at).unwrap_err().to_string().contains("3 channels"));
        assert!(ColorJitter::builder(1).contrast(1.5).build().unwrap_err().to_string().contains("`contrast`"));
    }
}
