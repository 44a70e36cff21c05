//! Random erasing.

use super::{BatchPosition, PerImage, Transform, check_probability, edit_batch};
use crate::data::Batch;
use crate::error::{Error, Result};
use crate::random::Generator;
use crate::setters::setters;

/// Sets a random rectangle of an image to a constant, so that the model cannot rely on any single
/// part ([Zhong et al. 2017](https://arxiv.org/abs/1708.04896)). The area and the aspect ratio of
/// the rectangle are drawn as in torchvision's `RandomErasing`.
///
/// # Examples
///
/// ```
/// use candle_course::data::RandomErasing;
///
/// let erasing = RandomErasing::builder(3).probability(0.5).area(0.02, 0.2).build()?;
/// # Ok::<(), candle_course::error::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct RandomErasing {
    probability: f64,
    area: (f64, f64),
    ratio: (f64, f64),
    value: f32,
    seed: u64,
}

/// Configures a [`RandomErasing`].
#[derive(Debug, Clone)]
pub struct RandomErasingBuilder(RandomErasing);

impl RandomErasing {
    /// Draws from `seed`: probability 0.5, area 2 % to 33 %, aspect ratio 0.3 to 3.3, value 0.
    pub fn new(seed: u64) -> Self {
        Self {
            probability: 0.5,
            area: (0.02, 0.33),
            ratio: (0.3, 3.3),
            value: 0.0,
            seed: Generator::derive(seed, "random erasing").next_u64(),
        }
    }

    /// As [`RandomErasing::new`], unless told otherwise.
    pub fn builder(seed: u64) -> RandomErasingBuilder {
        RandomErasingBuilder(Self::new(seed))
    }
}

impl RandomErasingBuilder {
    setters! {
        /// The share of images that lose a rectangle.
        probability(probability: f64) => 0.probability = probability;
        /// The rectangle's area as a fraction of the image's.
        area(low: f64, high: f64) => 0.area = (low, high);
        /// The rectangle's height over its width.
        ratio(low: f64, high: f64) => 0.ratio = (low, high);
        /// What the rectangle is filled with.
        value(value: f32) => 0.value = value;
    }

    /// The transform.
    ///
    /// # Errors
    /// If a range is empty or out of bounds.
    pub fn build(self) -> Result<RandomErasing> {
        check_probability(self.0.probability)?;
        let (low, high) = self.0.area;
        if !(low > 0.0 && low <= high && high <= 1.0) {
            return Err(Error::argument("area", "0 < low <= high <= 1", format!("{low} to {high}")));
        }
        let (low, high) = self.0.ratio;
        if !(low > 0.0 && low <= high && high.is_finite()) {
            return Err(Error::argument("ratio", "0 < low <= high", format!("{low} to {high}")));
        }
        Ok(self.0)
    }
}

impl RandomErasing {
    /// Top, left, height, width.
    fn rectangle(&self, generator: &mut Generator, h: usize, w: usize) -> Option<[usize; 4]> {
        // A rectangle that does not fit is drawn again, as in torchvision.
        for _ in 0..10 {
            let area = (h * w) as f64 * (self.area.0 + (self.area.1 - self.area.0) * generator.uniform());
            let (low, high) = (self.ratio.0.ln(), self.ratio.1.ln());
            let ratio = (low + (high - low) * generator.uniform()).exp();
            let (height, width) = ((area * ratio).sqrt().round() as usize, (area / ratio).sqrt().round() as usize);
            if height >= 1 && width >= 1 && height < h && width < w {
                return Some([generator.below(h - height + 1), generator.below(w - width + 1), height, width]);
            }
        }
        None
    }
}

impl PerImage for RandomErasing {
    fn name(&self) -> &'static str {
        "random erasing"
    }

    fn edit(&self, image: &mut [f32], [_, h, w]: [usize; 3], position: &BatchPosition, row: usize) -> Result<()> {
        let mut generator = position.generator(self.seed, row);
        if generator.chance(self.probability)
            && let Some([top, left, height, width]) = self.rectangle(&mut generator, h, w)
        {
            for plane in image.chunks_exact_mut(h * w) {
                plane[top * w..(top + height) * w]
                    .chunks_exact_mut(w)
                    .for_each(|line| line[left..left + width].fill(self.value));
            }
        }
        Ok(())
    }
}

impl Transform for RandomErasing {
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

    #[test]
    fn rectangles_have_the_asked_area_and_all_channels_lose_them() {
        let erasing = RandomErasing::builder(2).probability(1.0).area(0.1, 0.3).value(-1.0).build().unwrap();
        let after = erasing.apply(batch([100, 2, 20, 20], false), &BatchPosition { epoch: 0, first: 0 }).unwrap();
        for image in values(&after.inputs).chunks(800) {
            let erased = |plane: &[f32]| plane.iter().filter(|&&x| x == -1.0).count();
            let (first, second) = image.split_at(400);
            assert_eq!(erased(first), erased(second));
            // Sides are rounded to whole pixels.
            assert!((25..=145).contains(&erased(first)), "{}", erased(first));
        }
    }

    #[test]
    fn draws_follow_the_contract_and_ranges_are_checked() {
        contract(&RandomErasing::new(1), &batch([8, 1, 8, 8], false), true);
        for bad in [
            RandomErasing::builder(1).probability(2.0),
            RandomErasing::builder(1).area(0.0, 0.5),
            RandomErasing::builder(1).area(0.5, 1.5),
            RandomErasing::builder(1).ratio(2.0, 1.0),
        ] {
            assert!(bad.build().is_err());
        }
    }
}
