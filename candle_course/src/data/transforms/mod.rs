//! Changes to batches on their way through a loader.
//!
//! Every random transform draws anew for every example of every epoch, from its own seed, the
//! epoch and the example's position in it. So the number of workers and the batch size change
//! nothing, an epoch that is resumed half-way goes on as it would have, and an example that an
//! oversampling sampler draws twice is changed in two ways.
//!
//! Transforms that change image by image (all here but [`MixUp`]) are applied to an image one after the other, while
//! it is in the processor's cache, and as soon as it is read where the data set can do so: what comes out is the
//! same as if each had gone over the whole batch.
//!
//! Geometric transforms (flips, quarter turns, crop, affine) also move targets that are masks of
//! the same height and width, of any dtype. A mask keeps its values: each pixel takes the nearest, none is
//! mixed from two, and what comes from outside gets a label of its own.

mod affine;
mod color;
mod crop;
mod erasing;
mod flip;
mod mixup;
mod normalize;

use std::sync::Arc;

use candle_core::{DType, Tensor, WithDType};

use crate::data::Batch;
use crate::error::{Context, Error, Result};
use crate::kernels::buffer::Scratch;
use crate::random::Generator;

pub use affine::{RandomAffine, RandomAffineBuilder};
pub use color::{ColorJitter, ColorJitterBuilder};
pub use crop::{RandomCrop, RandomCropBuilder};
pub use erasing::{RandomErasing, RandomErasingBuilder};
pub use flip::{
    RandomHorizontalFlip, RandomHorizontalFlipBuilder, RandomQuarterTurn, RandomVerticalFlip, RandomVerticalFlipBuilder,
};
pub use mixup::MixUp;
pub use normalize::Normalize;
pub(crate) use normalize::deviations;

/// Where a batch stands in a training: what random transforms draw from, beside their seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchPosition {
    /// The epoch.
    pub epoch: usize,
    /// How many examples of the epoch came before this batch.
    pub first: usize,
}

impl BatchPosition {
    /// The generator for row `row` of the batch.
    pub fn generator(&self, seed: u64, row: usize) -> Generator {
        Generator::stream(seed, &[self.epoch as u64, (self.first + row) as u64])
    }
}

/// A change to a batch.
///
/// # Examples
///
/// ```
/// use candle_course::data::{Batch, BatchPosition, Transform};
/// use candle_course::prelude::*;
///
/// /// Adds noise of a given size.
/// struct Noise(f64);
///
/// impl Transform for Noise {
///     fn apply(&self, batch: Batch, position: &BatchPosition) -> Result<Batch> {
///         let mut generator = position.generator(7, 0);
///         let noise: Vec<f32> = (0..batch.inputs.elem_count()).map(|_| generator.normal() as f32).collect();
///         let noise = (Tensor::from_vec(noise, batch.inputs.dims(), &Device::Cpu)? * self.0)?;
///         Ok(Batch { inputs: (batch.inputs + noise)?, ..batch })
///     }
/// }
///
/// let images = Mnist::builder().sample().quiet().load()?.test();
/// let loader = DataLoader::builder(images).batch_size(10).transform(Noise(0.1)).build()?;
/// assert_eq!(loader.epoch(0)?.next().unwrap()?.inputs.dims(), [10, 1, 28, 28]);
/// # Ok::<(), Error>(())
/// ```
pub trait Transform: Send + Sync {
    /// The changed batch. `batch` is on the CPU.
    ///
    /// # Errors
    /// If the batch is not what the transform can change.
    fn apply(&self, batch: Batch, position: &BatchPosition) -> Result<Batch>;

    /// The same change, image by image, if it can be made so.
    #[doc(hidden)]
    fn per_image(&self) -> Option<&dyn PerImage> {
        None
    }
}

/// A change to every image of a batch by itself, where it stands.
pub trait PerImage: Sync {
    /// What messages call it.
    fn name(&self) -> &'static str;

    /// Changes the image of a row, `[C, H, W]`.
    fn edit(&self, image: &mut [f32], size: [usize; 3], position: &BatchPosition, row: usize) -> Result<()>;

    /// The targets that go with the changed images of `[H, W]`.
    fn targets(&self, targets: Tensor, _size: [usize; 2], _position: &BatchPosition) -> Result<Tensor> {
        Ok(targets)
    }
}

/// The first transforms, up to one that does not change image by image.
pub(super) fn leading(transforms: &[Arc<dyn Transform>]) -> Vec<&dyn PerImage> {
    transforms.iter().map_while(|transform| transform.per_image()).collect()
}

/// Changes one image by one transform after the other, while it is in the processor's cache.
pub(super) fn edit_image(
    edits: &[&dyn PerImage],
    image: &mut [f32],
    size: [usize; 3],
    position: &BatchPosition,
    row: usize,
) -> Result<()> {
    edits.iter().try_for_each(|edit| edit.edit(image, size, position, row))
}

/// The targets of images that were changed by these transforms.
pub(super) fn edit_targets(edits: &[&dyn PerImage], batch: Batch, position: &BatchPosition) -> Result<Batch> {
    let &[_, _, h, w] = batch.inputs.dims() else { return Ok(batch) };
    let targets = edits.iter().try_fold(batch.targets, |targets, edit| edit.targets(targets, [h, w], position))?;
    Ok(Batch { targets, ..batch })
}

/// Changes a batch by transforms that change image by image, in one pass over a copy of it.
pub(super) fn edit_batch(edits: &[&dyn PerImage], batch: Batch, position: &BatchPosition) -> Result<Batch> {
    let Some(first) = edits.first() else { return Ok(batch) };
    let (mut values, [n, c, h, w]) = images(&batch.inputs, first.name())?;
    let rows = values.chunks_exact_mut((c * h * w).max(1)).enumerate();
    rows.take(n).try_for_each(|(row, image)| edit_image(edits, image, [c, h, w], position, row))?;
    let inputs = Tensor::from_vec(values, (n, c, h, w), batch.inputs.device())?;
    edit_targets(edits, Batch { inputs, ..batch }, position)
}

/// The values and the shape of `[N, C, H, W]` images.
fn images(inputs: &Tensor, who: &str) -> Result<(Vec<f32>, [usize; 4])> {
    match *inputs.dims() {
        [n, c, h, w] if inputs.dtype() == DType::F32 => Ok((inputs.flatten_all()?.to_vec1()?, [n, c, h, w])),
        _ => Err(Error::argument(
            "inputs",
            format!("[N, C, H, W] images of F32 for {who}"),
            format!("{:?} of {:?}", inputs.dims(), inputs.dtype()),
        )),
    }
}

/// A transform that moves pixels and keeps the size of the image.
trait Geometry {
    /// What was drawn for one example.
    type Draw;

    const NAME: &'static str;

    fn draw(&self, position: &BatchPosition, row: usize, size: [usize; 2]) -> Self::Draw;

    /// An error unless images of this size can be moved.
    fn check(&self, _size: [usize; 2]) -> Result<()> {
        Ok(())
    }

    /// One plane of an image, `[H, W]`, where it stands.
    fn edit(&self, draw: &Self::Draw, plane: &mut [f32], size: [usize; 2]) {
        let mut out = Scratch::new(plane.len());
        out.fill(self.fill());
        self.values(draw, plane, &mut out, size);
        plane.copy_from_slice(&out);
    }

    /// One plane of an image, `[H, W]`. What comes from outside is in `out` already.
    fn values(&self, draw: &Self::Draw, plane: &[f32], out: &mut [f32], size: [usize; 2]) {
        self.labels(draw, plane, out, size);
    }

    /// One plane of a mask: values are moved, and stay what they are.
    fn labels<T: Copy>(&self, draw: &Self::Draw, plane: &[T], out: &mut [T], size: [usize; 2]);

    /// What comes into an image from outside.
    fn fill(&self) -> f32 {
        0.0
    }

    /// What comes into a mask from outside.
    fn outside(&self) -> i64 {
        0
    }

    /// Whether this draw changes nothing.
    fn is_identity(&self, _draw: &Self::Draw) -> bool {
        false
    }
}

impl<G: Geometry + Sync> PerImage for G {
    fn name(&self) -> &'static str {
        G::NAME
    }

    fn edit(&self, image: &mut [f32], [_, h, w]: [usize; 3], position: &BatchPosition, row: usize) -> Result<()> {
        self.check([h, w])?;
        let draw = self.draw(position, row, [h, w]);
        if !self.is_identity(&draw) {
            image.chunks_exact_mut((h * w).max(1)).for_each(|plane| Geometry::edit(self, &draw, plane, [h, w]));
        }
        Ok(())
    }

    fn targets(&self, targets: Tensor, size: [usize; 2], position: &BatchPosition) -> Result<Tensor> {
        let dims = targets.dims();
        if dims.len() < 3 || dims[dims.len() - 2..] != size {
            return Ok(targets);
        }
        let draws: Vec<G::Draw> = (0..dims[0]).map(|row| self.draw(position, row, size)).collect();
        macro_rules! masks {
            ($t:ty) => {
                masks::<$t>(self.outside(), &targets, &|row, plane, out| {
                    let draw = &draws[row];
                    let moves = !self.is_identity(draw);
                    if moves {
                        self.labels(draw, plane, out, size);
                    }
                    moves
                })
            };
        }
        let moved = match targets.dtype() {
            DType::U8 => masks!(u8),
            DType::U32 => masks!(u32),
            DType::I16 => masks!(i16),
            DType::I32 => masks!(i32),
            DType::I64 => masks!(i64),
            DType::BF16 => masks!(half::bf16),
            DType::F16 => masks!(half::f16),
            DType::F32 => masks!(f32),
            DType::F64 => masks!(f64),
            other => Err(Error::argument("targets", "masks of whole numbers or floats", format!("{other:?}"))),
        };
        moved.with_context(|| format!("{} cannot move the masks", G::NAME))
    }
}

/// Masks `[N, …, H, W]`, of whose row `moves` writes a plane anew, or says that it stays.
fn masks<T: WithDType>(
    outside: i64,
    targets: &Tensor,
    moves: &dyn Fn(usize, &[T], &mut [T]) -> bool,
) -> Result<Tensor> {
    let &[n, .., h, w] = targets.dims() else { return Ok(targets.clone()) };
    let fill = T::from_f64(outside as f64);
    if fill.to_f64() != outside as f64 {
        return Err(Error::argument("outside", format!("a label that {:?} can hold", T::DTYPE), outside));
    }
    let mut labels: Vec<T> = targets.flatten_all()?.to_vec1()?;
    let planes = (labels.len() / (n * h * w).max(1)).max(1);
    let mut out = vec![fill; h * w];
    for (at, plane) in labels.chunks_exact_mut((h * w).max(1)).enumerate() {
        if moves(at / planes, plane, &mut out) {
            plane.copy_from_slice(&out);
            out.fill(fill);
        }
    }
    Ok(Tensor::from_vec(labels, targets.dims(), targets.device())?)
}

/// An error unless `value` is a probability.
fn check_probability(value: f64) -> Result<()> {
    if (0.0..=1.0).contains(&value) { Ok(()) } else { Err(Error::argument("probability", "0 to 1", value)) }
}

#[cfg(test)]
pub(crate) mod testing {
    use candle_core::Device;

    use super::*;

    /// A batch of `n` images with the values 0, 1, 2, … and masks (or classes) of the same values.
    pub fn batch([n, c, h, w]: [usize; 4], masks: bool) -> Batch {
        let values: Vec<f32> = (0..n * c * h * w).map(|x| x as f32).collect();
        let targets = if masks {
            Tensor::from_vec((0..(n * h * w) as u32).collect::<Vec<_>>(), (n, h, w), &Device::Cpu)
        } else {
            Tensor::from_vec((0..n as u32).map(|i| i % 3).collect::<Vec<_>>(), n, &Device::Cpu)
        };
        Batch {
            inputs: Tensor::from_vec(values, (n, c, h, w), &Device::Cpu).unwrap(),
            targets: targets.unwrap(),
            indices: (0..n).collect(),
        }
    }

    pub fn values(tensor: &Tensor) -> Vec<f32> {
        tensor.flatten_all().unwrap().to_dtype(DType::F32).unwrap().to_vec1().unwrap()
    }

    /// What every transform must keep: the same draw for the same seed, epoch and position, another
    /// one otherwise, whatever batch the example stands in.
    pub fn contract(transform: &dyn Transform, batch: &Batch, per_example: bool) {
        let at = |epoch, first| transform.apply(batch.clone(), &BatchPosition { epoch, first }).unwrap();
        let once = at(3, 40);
        assert_eq!(values(&once.inputs), values(&at(3, 40).inputs), "not reproducible");
        assert_ne!(values(&once.inputs), values(&at(4, 40).inputs), "the epoch changes nothing");
        assert_ne!(values(&once.inputs), values(&at(3, 90).inputs), "the position changes nothing");
        assert_eq!(once.inputs.dims(), batch.inputs.dims());
        assert_eq!(once.indices, batch.indices);
        if per_example {
            // The second half alone, at its place, is the second half of the whole.
            let half = batch.len() / 2;
            let rest = Batch {
                inputs: batch.inputs.narrow(0, half, batch.len() - half).unwrap(),
                targets: batch.targets.narrow(0, half, batch.len() - half).unwrap(),
                indices: batch.indices[half..].to_vec(),
            };
            let rest = transform.apply(rest, &BatchPosition { epoch: 3, first: 40 + half }).unwrap();
            let tail = once.inputs.narrow(0, half, batch.len() - half).unwrap();
            assert_eq!(values(&tail), values(&rest.inputs), "the batch size changes the draw");
        }
        let flat = Batch { inputs: batch.inputs.flatten_from(1).unwrap(), ..batch.clone() };
        let error = transform.apply(flat, &BatchPosition { epoch: 0, first: 0 }).unwrap_err().to_string();
        assert!(error.contains("`inputs`: expected [N, C, H, W] images of F32"), "{error}");
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::testing::{batch, values};
    use super::*;

    fn turning() -> RandomAffine {
        RandomAffine::builder(3).degrees(40.0).translate(0.2).scale(0.8, 1.3).outside(2).build().unwrap()
    }

    #[test]
    fn a_float_mask_keeps_its_values() {
        let at = BatchPosition { epoch: 0, first: 0 };
        let images = batch([4, 1, 32, 32], false);
        let mask: Vec<f32> = (0..4 * 32 * 32).map(|i| f32::from(u8::from(i / 5 % 3 == 0))).collect();
        let mask = Tensor::from_vec(mask, (4, 1, 32, 32), &Device::Cpu).unwrap();
        let moved = turning().apply(Batch { targets: mask.clone(), ..images }, &at).unwrap().targets;
        let values = values(&moved);
        assert!(values.iter().all(|&value| value == 0.0 || value == 1.0 || value == 2.0));
        for value in [0.0, 1.0, 2.0] {
            assert!(values.iter().filter(|&&other| other == value).count() > 300);
        }
        assert_eq!((moved.dims(), moved.dtype()), (mask.dims(), DType::F32));
    }

    /// Whatever their dtype, masks of the same labels come out the same.
    #[test]
    fn masks_of_every_dtype_move_alike() {
        let at = BatchPosition { epoch: 1, first: 7 };
        let images = batch([6, 2, 8, 8], false);
        let labels: Vec<u32> = (0..6 * 64).map(|i| i * 7 % 11).collect();
        let labels = Tensor::from_vec(labels, (6, 8, 8), &Device::Cpu).unwrap();
        for transform in [
            Box::new(turning()) as Box<dyn Transform>,
            Box::new(RandomHorizontalFlip::new(1)),
            Box::new(RandomQuarterTurn::new(2)),
            Box::new(RandomCrop::builder(3, 4).outside(2).build()),
        ] {
            let moved = |dtype| {
                let targets = labels.to_dtype(dtype).unwrap();
                let moved = transform.apply(Batch { targets, ..images.clone() }, &at).unwrap().targets;
                assert_eq!(moved.dtype(), dtype);
                values(&moved)
            };
            let expected = moved(DType::U32);
            assert_ne!(expected, values(&labels));
            for dtype in
                [DType::U8, DType::I16, DType::I32, DType::I64, DType::BF16, DType::F16, DType::F32, DType::F64]
            {
                assert_eq!(moved(dtype), expected, "{dtype:?}");
            }
        }
    }

    #[test]
    fn what_comes_from_outside_is_chosen() {
        let at = BatchPosition { epoch: 0, first: 0 };
        let images = batch([8, 1, 5, 5], false);
        let ones = Tensor::ones((8, 5, 5), DType::I64, &Device::Cpu).unwrap();
        let images = Batch { inputs: images.inputs.ones_like().unwrap(), targets: ones, ..images };
        for transform in [
            Box::new(RandomCrop::builder(2, 1).fill(-3.0).outside(-100).build()) as Box<dyn Transform>,
            Box::new(RandomAffine::builder(1).translate(0.4).fill(-3.0).outside(-100).build().unwrap()),
        ] {
            let moved = transform.apply(images.clone(), &at).unwrap();
            let (pixels, labels) = (values(&moved.inputs), values(&moved.targets));
            assert!(pixels.contains(&-3.0) && labels.contains(&-100.0) && labels.contains(&1.0));
            assert!(labels.iter().all(|&label| label == 1.0 || label == -100.0));
            assert!(pixels.iter().all(|pixel| (-3.0..=1.0).contains(pixel)));
        }
        let crop = RandomCrop::builder(2, 1).outside(-100).build();
        let bytes = Batch { targets: images.targets.to_dtype(DType::U8).unwrap(), ..images };
        let error = crop.apply(bytes, &at).unwrap_err().to_string();
        assert!(
            error.contains("random crop cannot move the masks") && error.contains("that U8 can hold, got -100"),
            "{error}"
        );
    }
}
