//! What overlap losses share: soft counts per class, their mean, and the options.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use crate::error::{Error, Result};
#[cfg(feature = "cuda")]
use crate::kernels::cuda::region as device;
use crate::kernels::losses::{Dims, Pointwise, Truth, degrees, pointwise, region_sums, softmax};
use crate::losses::MeanOf;
#[cfg(feature = "cuda")]
use crate::losses::validate::{class_shapes, not_class_indices};
use crate::losses::validate::{class_targets, float, not_empty, number, probabilities, same_device};

/// Over what the overlap of a class is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Over {
    /// All images of the batch together: steadier, and a class need not be in every image.
    #[default]
    Batch,
    /// Every image by itself, then the mean over images: small objects count as much as large ones.
    Image,
}

impl Over {
    /// Why a batch cannot be split, if it cannot.
    pub(crate) fn whole(self) -> Option<String> {
        let reason = "the overlap is counted over all images together; `over(Over::Image)` counts it image by image";
        (self == Self::Batch).then(|| reason.to_owned())
    }
}

/// Which classes enter the mean over classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Classes {
    /// Those that occur in the targets (of the batch, or of the image).
    #[default]
    Present,
    /// All: the probability given to an absent class costs.
    All,
}

/// What every overlap loss is set by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Region {
    pub smooth: f64,
    pub over: Over,
    pub classes: Classes,
    pub ignore_index: Option<i64>,
    pub squared: bool,
}

impl Default for Region {
    fn default() -> Self {
        Self { smooth: 1.0, over: Over::Batch, classes: Classes::All, ignore_index: None, squared: false }
    }
}

/// Overlap per group (image or batch) and class, `[3, G, C]`, and Σ t per group and class.
pub(crate) struct Overlap {
    pub sums: Tensor,
    /// `[G, C]`, f64; on a CUDA device if the sums are there, else on the CPU.
    pub totals: Tensor,
    pub groups: usize,
    pub classes: usize,
}

/// What logits are compared with.
struct Compared {
    /// Of one axis for the positions where they are masks.
    logits: Tensor,
    truth: Truth,
    dims: Dims,
    /// Whether exactly one class is true: softmax, not sigmoid.
    exclusive: bool,
}

fn compared(logits: &Tensor, targets: &Tensor, ignore_index: Option<i64>) -> Result<Compared> {
    same_device(logits, targets)?;
    let logits = float("logits", logits)?;
    not_empty("logits", &logits)?;
    let dims = logits.dims();
    let per_class = dims.len() >= 2 && dims[1] > 1 && targets.rank() + 1 == dims.len();
    if per_class {
        let labels = class_targets(&logits, targets, ignore_index)?;
        let (truth, dims) = (Truth::Classes(Arc::new(labels)), Dims::of(dims));
        return Ok(Compared { logits, truth, dims, exclusive: true });
    }
    let shape = mask_shape(dims, targets)?;
    let logits = logits.reshape(shape.as_slice())?;
    let targets = targets.to_dtype(DType::F64)?.reshape(shape.as_slice())?;
    let ignored = ignore_index.map(|index| index as f64);
    let counted = match ignored {
        None => targets.clone(),
        Some(index) => targets.eq(index)?.where_cond(&targets.zeros_like()?, &targets)?,
    };
    probabilities("targets", &counted)?;
    let truth = degrees(&targets, ignored)?;
    let dims = Dims::of(logits.dims());
    Ok(Compared { logits, truth, dims, exclusive: false })
}

/// The shape `[N, labels, positions]` of logits that are compared with masks.
fn mask_shape(dims: &[usize], targets: &Tensor) -> Result<Vec<usize>> {
    let same = targets.dims() == dims;
    let without_channel = dims.len() >= 2 && dims[1] == 1 && targets.dims() == [&dims[..1], &dims[2..]].concat();
    if !same && !without_channel {
        return Err(Error::argument(
            "targets",
            format!("a mask of the logits' shape {dims:?}, or class indices without dimension 1"),
            format!("shape {:?}", targets.dims()),
        )
        .hint("binary: logits [N, 1, H, W] or [N, H, W]; classes: logits [N, C, H, W] and targets [N, H, W]"));
    }
    Ok(match dims.len() {
        1 => vec![dims[0], 1, 1],
        // [N, L] of labels or [N, 1]; more dimensions with class-like targets carry the labels in dimension 1.
        2 => vec![dims[0], 1, dims[1]],
        3 => vec![dims[0], 1, dims[1] * dims[2]],
        _ => vec![dims[0], dims[1], dims[2..].iter().product()],
    })
}

/// As [`compared`], with targets that stay on their CUDA device: logits, truth, and whether exactly
/// one class is true.
#[cfg(feature = "cuda")]
fn compared_on_device(logits: &Tensor, targets: &Tensor) -> Result<(Tensor, device::DeviceTruth, bool)> {
    same_device(logits, targets)?;
    let logits = float("logits", logits)?;
    not_empty("logits", &logits)?;
    let dims = logits.dims();
    if dims.len() >= 2 && dims[1] > 1 && targets.rank() + 1 == dims.len() {
        class_shapes(&logits, targets)?;
        if !matches!(targets.dtype(), DType::U8 | DType::U32 | DType::I64) {
            return Err(not_class_indices(targets.dtype()));
        }
        return Ok((logits, device::DeviceTruth::Classes(targets.clone()), true));
    }
    let shape = mask_shape(dims, targets)?;
    let degrees = targets.to_dtype(logits.dtype())?.reshape(shape.as_slice())?;
    Ok((logits.reshape(shape.as_slice())?, device::DeviceTruth::Degrees(degrees), false))
}

impl Region {
    pub fn check(&self) -> Result<()> {
        number("smooth", "a number that is not negative", self.smooth, self.smooth >= 0.0)
    }

    pub fn overlap(&self, logits: &Tensor, targets: &Tensor) -> Result<Overlap> {
        #[cfg(feature = "cuda")]
        if crate::kernels::cuda::takes(&float("logits", logits)?) {
            return self.overlap_on_device(logits, targets);
        }
        let Compared { logits, truth, dims, exclusive } = compared(logits, targets, self.ignore_index)?;
        let probabilities = if exclusive { softmax(&logits)? } else { pointwise(&logits, Pointwise::Sigmoid)? };
        let sums = region_sums(&probabilities, &truth, self.squared)?;
        let totals = truth.totals(dims);
        let (totals, sums, groups) = match self.over {
            Over::Image => (totals, sums, dims.examples),
            Over::Batch => {
                let batch = (0..dims.classes).map(|c| (0..dims.examples).map(|n| totals[n * dims.classes + c]).sum());
                (batch.collect(), sums.sum_keepdim(1)?, 1)
            }
        };
        let totals = Tensor::from_vec(totals, (groups, dims.classes), &Device::Cpu)?;
        Ok(Overlap { sums, totals, groups, classes: dims.classes })
    }

    /// Sums and totals as above, neither of them read by the host.
    #[cfg(feature = "cuda")]
    fn overlap_on_device(&self, logits: &Tensor, targets: &Tensor) -> Result<Overlap> {
        let (logits, truth, exclusive) = compared_on_device(logits, targets)?;
        let dims = Dims::of(logits.dims());
        let probabilities = if exclusive { softmax(&logits)? } else { pointwise(&logits, Pointwise::Sigmoid)? };
        let (sums, totals) = device::region_sums(&probabilities, &truth, self.ignore_index, self.squared)?;
        Ok(match self.over {
            Over::Image => Overlap { sums, totals, groups: dims.examples, classes: dims.classes },
            Over::Batch => {
                let (sums, totals) = (sums.sum_keepdim(1)?, totals.sum_keepdim(0)?);
                Overlap { sums, totals, groups: 1, classes: dims.classes }
            }
        })
    }

    /// What [`Region::mean`] is a mean of: images, those without a class left out where only present
    /// classes enter.
    pub fn mean_of(&self, logits: &Tensor, targets: &Tensor) -> Result<MeanOf> {
        if let Some(reason) = self.over.whole() {
            return Ok(MeanOf::Whole(reason));
        }
        match self.classes {
            Classes::All => Ok(MeanOf::examples(targets)),
            #[cfg(feature = "cuda")]
            Classes::Present if crate::kernels::cuda::takes(&float("logits", logits)?) => {
                let (logits, truth, _) = compared_on_device(logits, targets)?;
                // Of the sums, those of the truth do not look at the probabilities.
                let totals = device::region_sums(&logits.detach(), &truth, self.ignore_index, false)?.1;
                let present = totals.gt(0f64)?.to_dtype(DType::F64)?.sum(1)?;
                Ok(MeanOf::CountOnDevice(present.gt(0f64)?.to_dtype(DType::F64)?.sum_all()?))
            }
            Classes::Present => {
                let Compared { truth, dims, .. } = compared(logits, targets, self.ignore_index)?;
                let totals = truth.totals(dims);
                let counted = totals.chunks(dims.classes).filter(|image| image.iter().any(|&total| total > 0.0));
                Ok(MeanOf::Count(counted.count() as f64))
            }
        }
    }

    /// 1 − (both + s) / (both + a only_p + b only_t + s), written as a fraction whose numerator is
    /// what is wrong, so that a nearly perfect prediction does not cancel to 0. 0/0 is 0.
    pub fn tversky(&self, overlap: &Overlap, false_positives: f64, false_negatives: f64) -> Result<Tensor> {
        let [both, only_p, only_t] = overlap.parts()?;
        let wrong = ((only_p * false_positives)? + (only_t * false_negatives)?)?;
        let denominator = ((both + &wrong)? + self.smooth)?;
        // Without smoothing an absent class that nothing predicts has 0/0: no error, and no gradient.
        let empty = denominator.lt(negligible(denominator.dtype()))?.to_dtype(denominator.dtype())?;
        let counted = (1.0 - &empty)?;
        Ok(((wrong * &counted)? / ((denominator * counted)? + empty)?)?)
    }

    /// The mean of losses `[G, C]` over the classes that count, then over groups that have any.
    pub fn mean(&self, losses: &Tensor, overlap: &Overlap, dtype: DType) -> Result<Tensor> {
        let (groups, classes) = (overlap.groups, overlap.classes);
        if !overlap.totals.device().is_cpu() {
            let share = 1.0 / (groups * classes) as f64;
            let mean = match self.classes {
                Classes::All => (losses.sum_all()? * share)?,
                Classes::Present => {
                    let counts = overlap.totals.gt(0f64)?.to_dtype(losses.dtype())?;
                    let present = counts.sum_keepdim(1)?;
                    let counted = present.gt(0f64)?.to_dtype(losses.dtype())?.sum_all()?.maximum(1f64)?;
                    let weights = counts.broadcast_div(&present.maximum(1f64)?.broadcast_mul(&counted)?)?;
                    (losses * weights)?.sum_all()?
                }
            };
            return Ok(mean.to_dtype(dtype)?);
        }
        let totals = overlap.totals.flatten_all()?.to_vec1::<f64>()?;
        let counts = |g: usize, c: usize| match self.classes {
            Classes::All => true,
            Classes::Present => totals[g * classes + c] > 0.0,
        };
        let present: Vec<usize> = (0..groups).map(|g| (0..classes).filter(|&c| counts(g, c)).count()).collect();
        let counted_groups = present.iter().filter(|&&n| n > 0).count().max(1);
        let weights: Vec<f64> = (0..groups * classes)
            .map(|i| {
                let g = i / classes;
                if counts(g, i % classes) { 1.0 / (present[g] * counted_groups) as f64 } else { 0.0 }
            })
            .collect();
        let weights = Tensor::from_vec(weights, (groups, classes), losses.device())?.to_dtype(losses.dtype())?;
        Ok((losses * weights)?.sum_all()?.to_dtype(dtype)?)
    }
}

/// What is as good as 0 in a denominator: its square, by which the gradient of a quotient divides,
/// underflows.
pub(crate) fn negligible(dtype: DType) -> f64 {
    if dtype == DType::F64 { 1e-140 } else { 1e-17 }
}

impl Overlap {
    pub fn parts(&self) -> Result<[Tensor; 3]> {
        Ok([self.sums.get(0)?, self.sums.get(1)?, self.sums.get(2)?])
    }
}

pub(crate) fn loss_dtype(logits: &Tensor) -> DType {
    if logits.dtype() == DType::F64 { DType::F64 } else { DType::F32 }
}

/// [`builder!`](crate::losses::options::builder) of an overlap loss: the options that all of them have, and its own.
macro_rules! region_builder {
    ($builder:ident of $loss:ident; $($own:tt)*) => {
        $crate::losses::options::builder! {
            /// Smoothed by 1, over the batch, all classes, nothing ignored, unless told otherwise.
            $builder of $loss;
            /// What is added to numerator and denominator; default 1. It steadies the gradient of
            /// rare classes; 0 gives the bare ratio (0/0, an absent class that nothing predicts, is no error;
            /// so is a sum below 1e-140, or on a GPU 1e-17).
            fn smooth(loss, smooth: f64) { loss.region.smooth = smooth }
            /// Whether overlap is counted over the batch (the default) or image by image.
            fn over(loss, over: Over) { loss.region.over = over }
            /// Which classes enter the mean; default all.
            fn classes(loss, classes: Classes) { loss.region.classes = classes }
            /// The label of pixels that do not count.
            fn ignore_index(loss, ignore_index: i64) { loss.region.ignore_index = Some(ignore_index) }
            $($own)*
        }
    };
}
pub(crate) use region_builder;
