//! Random crops of padded images.

use super::{BatchPosition, Geometry, PerImage, Transform, edit_batch};
use crate::data::Batch;
use crate::error::Result;
use crate::random::Generator;
use crate::setters::setters;

/// Pads every image by `padding` pixels on every side and cuts a window of the original size out
/// of it, at random: a shift by up to `padding` pixels, the usual augmentation for CIFAR-10.
///
/// The padding is 0, which is black before normalisation and the mean colour after it; masks are
/// padded with class 0. Both can be chosen: [`RandomCrop::builder`].
///
/// # Examples
///
/// ```
/// use candle_course::data::{Cifar10, DataLoader, RandomCrop, RandomHorizontalFlip};
///
/// let images = Cifar10::builder().sample().quiet().load()?.train();
/// let loader = DataLoader::builder(images)
///     .batch_size(64)
///     .shuffle(1)
///     .transform(RandomCrop::new(4, 2))
///     .transform(RandomHorizontalFlip::new(3))
///     .workers(2)
///     .build()?;
/// assert_eq!(loader.epoch(0)?.next().unwrap()?.inputs.dims(), [64, 3, 32, 32]);
/// # Ok::<(), candle_course::error::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct RandomCrop {
    padding: usize,
    fill: f32,
    outside: i64,
    seed: u64,
}

/// Configures a [`RandomCrop`].
#[derive(Debug, Clone)]
pub struct RandomCropBuilder(RandomCrop);

impl RandomCropBuilder {
    setters! {
        /// What images are padded with (default 0).
        fill(value: f32) => 0.fill = value;
        /// The label that masks are padded with (default 0): `ignore_index` of the loss, say.
        outside(label: i64) => 0.outside = label;
    }

    /// The transform.
    pub fn build(self) -> RandomCrop {
        self.0
    }
}

impl RandomCrop {
    /// Shifts by up to `padding` pixels, from `seed`.
    pub fn new(padding: usize, seed: u64) -> Self {
        Self { padding, fill: 0.0, outside: 0, seed: Generator::derive(seed, Self::NAME).next_u64() }
    }

    /// As [`RandomCrop::new`], unless told otherwise.
    pub fn builder(padding: usize, seed: u64) -> RandomCropBuilder {
        RandomCropBuilder(Self::new(padding, seed))
    }

    /// The plane, shifted by `(dy, dx)`; what comes from outside stays as it is.
    fn shift<T: Copy>(plane: &[T], out: &mut [T], [h, w]: [usize; 2], (dy, dx): (isize, isize)) {
        let columns = dx.unsigned_abs().min(w);
        for y in 0..h {
            let Some(from) = y.checked_add_signed(-dy).filter(|&from| from < h) else { continue };
            let (source, target) = (&plane[from * w..(from + 1) * w], &mut out[y * w..(y + 1) * w]);
            if dx >= 0 {
                target[columns..].copy_from_slice(&source[..w - columns]);
            } else {
                target[..w - columns].copy_from_slice(&source[columns..]);
            }
        }
    }
}

impl Geometry for RandomCrop {
    type Draw = (isize, isize);
    const NAME: &'static str = "random crop";

    fn draw(&self, position: &BatchPosition, row: usize, _: [usize; 2]) -> (isize, isize) {
        let mut generator = position.generator(self.seed, row);
        // Beyond any image's size it makes no difference by how much.
        let padding = self.padding.min(1 << 30);
        let mut shift = || generator.below(2 * padding + 1) as isize - padding as isize;
        (shift(), shift())
    }

    fn labels<T: Copy>(&self, draw: &(isize, isize), plane: &[T], out: &mut [T], size: [usize; 2]) {
        Self::shift(plane, out, size, *draw);
    }

    fn fill(&self) -> f32 {
        self.fill
    }

    fn outside(&self) -> i64 {
        self.outside
    }

    fn is_identity(&self, draw: &(isize, isize)) -> bool {
        *draw == (0, 0)
    }
}

impl Transform for RandomCrop {
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
    fn a_shift_pads_with_zeros() {
        let plane = [1, 2, 3, 4, 5, 6];
        let shifted = |shift| {
            let mut out = [0; 6];
            RandomCrop::shift(&plane, &mut out, [2, 3], shift);
            out
        };
        assert_eq!(shifted((0, 0)), plane);
        assert_eq!(shifted((1, 0)), [0, 0, 0, 1, 2, 3]);
        assert_eq!(shifted((-1, 1)), [0, 4, 5, 0, 0, 0]);
        assert_eq!(shifted((0, -2)), [3, 0, 0, 6, 0, 0]);
        assert_eq!(shifted((5, 9)), [0; 6]);
    }

    #[test]
    fn draws_follow_the_contract_reach_every_shift_and_move_masks() {
        contract(&RandomCrop::new(2, 1), &batch([16, 2, 5, 5], false), true);
        let crop = RandomCrop::new(1, 3);
        let at = BatchPosition { epoch: 0, first: 0 };
        let draws: std::collections::HashSet<_> = (0..200).map(|row| crop.draw(&at, row, [5, 5])).collect();
        assert_eq!(draws.len(), 9);
        let after = crop.apply(batch([50, 1, 4, 4], true), &at).unwrap();
        assert_eq!(values(&after.inputs), values(&after.targets));
    }
}
