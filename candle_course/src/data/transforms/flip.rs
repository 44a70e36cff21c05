//! Flips and quarter turns.

use super::{BatchPosition, Geometry, PerImage, Transform, check_probability, edit_batch};
use crate::data::Batch;
use crate::error::{Error, Result};
use crate::random::Generator;

macro_rules! flip {
    ($(#[$docs:meta])* $name:ident, $builder:ident, $label:literal, $flip:ident) => {
        $(#[$docs])*
        #[derive(Debug, Clone)]
        pub struct $name {
            probability: f64,
            seed: u64,
        }

        impl $name {
            /// Flips every other image, from `seed`.
            pub fn new(seed: u64) -> Self {
                Self { probability: 0.5, seed: Generator::derive(seed, $label).next_u64() }
            }

            /// Flips every other image, from `seed`, unless told otherwise.
            pub fn builder(seed: u64) -> $builder {
                $builder(Self::new(seed))
            }
        }

        #[doc = concat!("Configures a [`", stringify!($name), "`].")]
        #[derive(Debug, Clone)]
        pub struct $builder($name);

        impl $builder {
            /// The share of images that are flipped (0.5).
            #[must_use]
            pub fn probability(mut self, probability: f64) -> Self {
                self.0.probability = probability;
                self
            }

            /// The transform.
            ///
            /// # Errors
            /// If the probability is not in 0 to 1.
            pub fn build(self) -> Result<$name> {
                check_probability(self.0.probability)?;
                Ok(self.0)
            }
        }

        impl Geometry for $name {
            type Draw = bool;
            const NAME: &'static str = $label;

            fn draw(&self, position: &BatchPosition, row: usize, _: [usize; 2]) -> bool {
                position.generator(self.seed, row).chance(self.probability)
            }

            fn edit(&self, _: &bool, plane: &mut [f32], size: [usize; 2]) {
                $flip(plane, size);
            }

            fn labels<T: Copy>(&self, _: &bool, plane: &[T], out: &mut [T], size: [usize; 2]) {
                out.copy_from_slice(plane);
                $flip(out, size);
            }

            fn is_identity(&self, flipped: &bool) -> bool {
                !flipped
            }
        }

        impl Transform for $name {
            fn apply(&self, batch: Batch, position: &BatchPosition) -> Result<Batch> {
                edit_batch(&[self], batch, position)
            }

            fn per_image(&self) -> Option<&dyn PerImage> {
                Some(self)
            }
        }
    };
}

flip! {
    /// Swaps left and right in every other image.
    ///
    /// # Examples
    ///
    /// ```
    /// use candle_course::data::{Cifar10, DataLoader, RandomHorizontalFlip};
    ///
    /// let images = Cifar10::builder().sample().quiet().load()?.test();
    /// let loader = DataLoader::builder(images).batch_size(8).transform(RandomHorizontalFlip::new(1)).build()?;
    /// assert_eq!(loader.epoch(0)?.next().unwrap()?.inputs.dims(), [8, 3, 32, 32]);
    /// # Ok::<(), candle_course::error::Error>(())
    /// ```
    RandomHorizontalFlip, RandomHorizontalFlipBuilder, "random horizontal flip", left_right
}

flip! {
    /// Swaps top and bottom in every other image: for images from above, which have no "up".
    RandomVerticalFlip, RandomVerticalFlipBuilder, "random vertical flip", top_down
}

fn left_right<T>(plane: &mut [T], [_, w]: [usize; 2]) {
    plane.chunks_exact_mut(w.max(1)).for_each(<[T]>::reverse);
}

fn top_down<T>(plane: &mut [T], [h, w]: [usize; 2]) {
    let (top, bottom) = plane.split_at_mut(h / 2 * w);
    let lines = bottom.chunks_exact_mut(w.max(1)).rev();
    top.chunks_exact_mut(w.max(1)).zip(lines).for_each(|(line, other)| line.swap_with_slice(other));
}

/// Turns every image by 0, 90, 180 or 270 degrees: for square images from above.
#[derive(Debug, Clone)]
pub struct RandomQuarterTurn {
    seed: u64,
}

impl RandomQuarterTurn {
    /// Turns drawn from `seed`.
    pub fn new(seed: u64) -> Self {
        Self { seed: Generator::derive(seed, Self::NAME).next_u64() }
    }
}

/// Counter-clockwise by `turns` quarters.
fn turn<T: Copy>(turns: usize, plane: &[T], out: &mut [T], [h, w]: [usize; 2]) {
    for y in 0..h {
        for x in 0..w {
            let (from_y, from_x) = match turns {
                1 => (x, w - 1 - y),
                2 => (h - 1 - y, w - 1 - x),
                3 => (h - 1 - x, y),
                _ => (y, x),
            };
            out[y * w + x] = plane[from_y * w + from_x];
        }
    }
}

impl Geometry for RandomQuarterTurn {
    type Draw = usize;
    const NAME: &'static str = "random quarter turn";

    fn draw(&self, position: &BatchPosition, row: usize, _: [usize; 2]) -> usize {
        position.generator(self.seed, row).below(4)
    }

    fn check(&self, [h, w]: [usize; 2]) -> Result<()> {
        if h == w {
            Ok(())
        } else {
            Err(Error::argument("inputs", "square images for a quarter turn", format!("{h}×{w}")))
        }
    }

    fn labels<T: Copy>(&self, turns: &usize, plane: &[T], out: &mut [T], size: [usize; 2]) {
        turn(*turns, plane, out, size);
    }

    fn is_identity(&self, turns: &usize) -> bool {
        *turns == 0
    }
}

impl Transform for RandomQuarterTurn {
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
    fn planes_are_flipped_and_turned() {
        let plane = [1, 2, 3, 4, 5, 6];
        let mut out = plane;
        left_right(&mut out, [2, 3]);
        assert_eq!(out, [3, 2, 1, 6, 5, 4]);
        let mut out = plane;
        top_down(&mut out, [2, 3]);
        assert_eq!(out, [4, 5, 6, 1, 2, 3]);
        let mut out = [1, 2, 3, 4, 5, 6, 7, 8, 9];
        top_down(&mut out, [3, 3]);
        assert_eq!(out, [7, 8, 9, 4, 5, 6, 1, 2, 3]);
        let mut out = [0; 4];
        turn(1, &[1, 2, 3, 4], &mut out, [2, 2]);
        assert_eq!(out, [2, 4, 1, 3]); // as numpy.rot90
        turn(2, &[1, 2, 3, 4], &mut out, [2, 2]);
        assert_eq!(out, [4, 3, 2, 1]);
        turn(3, &[1, 2, 3, 4], &mut out, [2, 2]);
        assert_eq!(out, [3, 1, 4, 2]);
    }

    #[test]
    fn draws_follow_seed_epoch_and_position() {
        let images = batch([16, 2, 3, 3], false);
        contract(&RandomHorizontalFlip::new(1), &images, true);
        contract(&RandomVerticalFlip::new(1), &images, true);
        contract(&RandomQuarterTurn::new(1), &images, true);
    }

    #[test]
    fn masks_move_with_their_images_and_half_of_them_move() {
        // One channel, so image and mask hold the same values.
        for transform in [
            Box::new(RandomHorizontalFlip::new(5)) as Box<dyn Transform>,
            Box::new(RandomVerticalFlip::new(5)),
            Box::new(RandomQuarterTurn::new(5)),
        ] {
            let before = batch([200, 1, 3, 3], true);
            let after = transform.apply(before.clone(), &BatchPosition { epoch: 0, first: 0 }).unwrap();
            assert_eq!(values(&after.inputs), values(&after.targets));
            let moved = values(&before.inputs)
                .chunks(9)
                .zip(values(&after.inputs).chunks(9))
                .filter(|(before, after)| before != after)
                .count();
            assert!((75..=165).contains(&moved), "{moved}");
        }
    }

    #[test]
    fn the_probability_is_kept_and_checked() {
        let at = BatchPosition { epoch: 0, first: 0 };
        let images = batch([8, 1, 2, 2], false);
        let never = RandomHorizontalFlip::builder(1).probability(0.0).build().unwrap();
        assert_eq!(values(&never.apply(images.clone(), &at).unwrap().inputs), values(&images.inputs));
        for bad in [-0.1, 1.1, f64::NAN] {
            assert!(
                RandomVerticalFlip::builder(1)
                    .probability(bad)
                    .build()
                    .unwrap_err()
                    .to_string()
                    .contains("`probability`")
            );
        }
        let oblong = batch([1, 1, 2, 3], false);
        assert!(RandomQuarterTurn::new(1).apply(oblong, &at).unwrap_err().to_string().contains("got 2×3"));
    }
}
