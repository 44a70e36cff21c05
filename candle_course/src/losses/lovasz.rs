//! Lovász losses: the convex extension of 1 − IoU, so that training pushes the metric itself.

use candle_core::{DType, Device, Tensor};

use crate::error::{Error, Result};
#[cfg(feature = "cuda")]
use crate::kernels::cuda::lovasz as device;
use crate::kernels::losses::{
    Dims, IGNORED, Pixel, Pointwise, Real, for_float, lovasz, pointwise, precomputed, softmax, with_elements,
};
use crate::kernels::parallel;
use crate::losses::options::builder;
use crate::losses::region::{Classes, Over};
#[cfg(feature = "cuda")]
use crate::losses::validate::{class_shapes, not_class_indices};
use crate::losses::validate::{class_targets, float, not_empty, same_device};
use crate::losses::{Loss, MeanOf};

/// Lovász-Softmax over the classes present in the batch; see [`LovaszSoftmax`].
///
/// # Errors
/// As [`LovaszSoftmax`]'s forward.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let logits = Tensor::new(&[[[1e4f32, -1e4], [-1e4, 1e4]]], &Device::Cpu)?; // [1, 2 classes, 2 pixels]
/// let targets = Tensor::new(&[[0u32, 0]], &Device::Cpu)?;
/// // Class 0 has half of its union: 1 − IoU = 1/2. Class 1 is not present.
/// assert_eq!(lovasz_softmax(&logits, &targets)?.to_scalar::<f32>()?, 0.5);
/// # Ok::<(), candle_course::Error>(())
/// ```
pub fn lovasz_softmax(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    LovaszSoftmax::default().forward(logits, targets)
}

/// Lovász-Softmax: the mean over classes of the Lovász extension of 1 − IoU of errors |t − p|.
///
/// `logits`: `[N, C, …]`, unnormalised; `targets`: `[N, …]`, class indices. Pixels are sorted by
/// error and each weighs what it adds to the Jaccard loss of those that err more. At pixels with
/// equal errors the subgradient of the first-come order is taken. No pixel left, or with
/// [`Classes::Present`] no class: 0 with a gradient of 0. (Berman et al., "The Lovász-Softmax
/// loss", 2018; the reference implementation's per-image mean, classes and ignored pixels.)
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let loss = LovaszSoftmax::builder().over(Over::Image).classes(Classes::All).ignore_index(255).build()?;
/// let logits = Tensor::zeros((2, 4, 8, 8), DType::F32, &Device::Cpu)?;
/// let targets = Tensor::zeros((2, 8, 8), DType::U32, &Device::Cpu)?;
/// let value = loss.forward(&logits, &targets)?.to_scalar::<f32>()?;
/// assert!((value - (0.75 + 3.0 * 0.25) / 4.0).abs() < 1e-6);
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LovaszSoftmax {
    over: Over,
    classes: Classes,
    ignore_index: Option<i64>,
}

builder! {
    /// Over the batch, classes present, nothing ignored, unless told otherwise.
    LovaszSoftmaxBuilder of LovaszSoftmax;
    /// Whether the batch is one set of pixels, or every image by itself.
    fn over(loss, over: Over) { loss.over = over }
    /// Which classes enter the mean.
    fn classes(loss, classes: Classes) { loss.classes = classes }
    /// The label of pixels that do not count.
    fn ignore_index(loss, ignore_index: i64) { loss.ignore_index = Some(ignore_index) }
    build(_loss), errors "Never." {}
}

impl Loss for LovaszSoftmax {
    fn forward(&self, logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
        let logits = float("logits", logits)?;
        #[cfg(feature = "cuda")]
        if crate::kernels::cuda::takes(&logits) {
            return self.on_device(&logits, targets);
        }
        let labels = class_targets(&logits, targets, self.ignore_index)?;
        let dims = Dims::of(logits.dims());
        let probabilities = softmax(&logits)?;
        let groups = groups(dims.examples, self.over);
        for_float!(logits.dtype(), T => {
            let tracked = probabilities.track_op();
            let (value, gradient) = with_elements::<T, _>(&probabilities, |p| {
                self.compute::<T>(p, &labels, dims, &groups, tracked)
            })?;
            hang(&probabilities, value, gradient)
        })
    }

    fn mean_of(&self, _: &Tensor, targets: &Tensor) -> Result<MeanOf> {
        // Images of ignored pixels only count, too.
        Ok(self.over.whole().map_or_else(|| MeanOf::examples(targets), MeanOf::Whole))
    }

    fn whole(&self) -> Option<String> {
        self.over.whole()
    }
}

/// The examples that are one set of pixels together.
fn groups(examples: usize, over: Over) -> Vec<std::ops::Range<usize>> {
    match over {
        Over::Batch => std::iter::once(0..examples).collect(),
        Over::Image => (0..examples).map(|n| n..n + 1).collect(),
    }
}

fn hang<T: Real>(input: &Tensor, value: f64, gradient: Option<Vec<T>>) -> Result<Tensor> {
    let value = Tensor::from_vec(vec![T::from_f64(value)], (), &Device::Cpu)?;
    let gradient = match gradient {
        Some(gradient) => Some(Tensor::from_vec(gradient, input.shape(), &Device::Cpu)?),
        None => None,
    };
    precomputed(input, value, gradient, &vec![1; input.rank()])
}

impl LovaszSoftmax {
    /// On a CUDA device, nothing read by the host.
    #[cfg(feature = "cuda")]
    fn on_device(&self, logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
        class_shapes(logits, targets)?;
        if !matches!(targets.dtype(), DType::U8 | DType::U32 | DType::I64) {
            return Err(not_class_indices(targets.dtype()));
        }
        let labels = device::Labels::of_classes(targets, logits.dims()[1], self.ignore_index)?;
        let (by_image, all_classes) = (self.over == Over::Image, self.classes == Classes::All);
        Ok(device::Lovasz { hinge: false, by_image, all_classes }.apply(&softmax(logits)?, &labels)?)
    }

    fn compute<T: Real>(
        &self,
        probabilities: &[T],
        labels: &[u32],
        dims: Dims,
        groups: &[std::ops::Range<usize>],
        tracked: bool,
    ) -> (f64, Option<Vec<T>>) {
        let Dims { classes, positions, .. } = dims;
        let counted = |group: &std::ops::Range<usize>| &labels[group.start * positions..group.end * positions];
        // Which (group, class) pairs enter, and how much each weighs.
        let mut jobs = Vec::new();
        for group in groups {
            let mut seen = vec![false; classes];
            let mut any = false;
            for &label in counted(group).iter().filter(|&&label| label != IGNORED) {
                seen[label as usize] = true;
                any = true;
            }
            let entering: Vec<usize> =
                (0..classes).filter(|&c| any && (self.classes == Classes::All || seen[c])).collect();
            let weight = 1.0 / (entering.len().max(1) * groups.len()) as f64;
            jobs.extend(entering.into_iter().map(|class| (group.clone(), class, weight)));
        }
        let mut gradient = tracked.then(|| vec![T::zero(); probabilities.len()]);
        // One class in one group touches its own rows of the gradient only: results of the jobs
        // are computed in parallel and copied in order.
        let one = |(group, class, weight): &(std::ops::Range<usize>, usize, f64)| {
            let mut pixels = Vec::with_capacity(counted(group).len());
            for n in group.clone() {
                let row = (n * classes + class) * positions;
                let at = (n - group.start) * positions;
                for (m, (&p, &label)) in
                    probabilities[row..row + positions].iter().zip(&labels[n * positions..]).enumerate()
                {
                    if label == IGNORED {
                        continue;
                    }
                    let truth = label as usize == *class;
                    let error = if truth { T::one() - p } else { p };
                    let slope = if error == T::zero() {
                        T::zero() // |0|, as everywhere in this crate
                    } else if truth {
                        T::zero() - T::one()
                    } else {
                        T::one()
                    };
                    pixels.push(Pixel { error, truth, slope, at: at + m });
                }
            }
            let mut rows = vec![T::zero(); if tracked { counted(group).len() } else { 0 }];
            let scale = T::from_f64(*weight);
            let value = lovasz(&pixels, |at, derivative| {
                if tracked {
                    rows[at] = derivative * scale;
                }
            });
            (value * weight, rows)
        };
        let done: Vec<(f64, Vec<T>)> = parallel::map(jobs.iter().collect(), one);
        let value = done.iter().fold(0.0, |total, (value, _)| total + value);
        if let Some(gradient) = &mut gradient {
            for ((group, class, _), (_, rows)) in jobs.iter().zip(&done) {
                for (n, row) in group.clone().zip(rows.chunks_exact(positions)) {
                    let start = (n * classes + class) * positions;
                    gradient[start..start + positions].copy_from_slice(row);
                }
            }
        }
        (value, gradient)
    }
}

/// Lovász hinge over the batch; see [`LovaszHinge`].
///
/// # Errors
/// As [`LovaszHinge`]'s forward.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let logits = Tensor::new(&[[2f32, -2., 0.5]], &Device::Cpu)?;
/// let mask = Tensor::new(&[[1u8, 0, 1]], &Device::Cpu)?;
/// assert_eq!(lovasz_hinge(&logits, &mask)?.to_scalar::<f32>()?, 0.25); // errors −1, −1, 0.5; half the truth
/// # Ok::<(), candle_course::Error>(())
/// ```
pub fn lovasz_hinge(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    LovaszHinge::default().forward(logits, targets)
}

/// Lovász hinge for one foreground class: the Lovász extension of 1 − IoU of errors 1 − s x.
///
/// `logits`, `targets`: one shape `[N, …]`, or logits `[N, 1, …]` with targets `[N, …]`; targets
/// 0 and 1, s = 2 y − 1. Errors below 0 (beyond the margin) cost nothing. (Yu and Blaschko,
/// "Learning submodular losses with the Lovász hinge", 2015; Berman et al., 2018.)
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let loss = LovaszHinge::builder().over(Over::Image).ignore_index(255).build()?;
/// let logits = Tensor::zeros((2, 1, 4, 4), DType::F32, &Device::Cpu)?;
/// let mask = Tensor::ones((2, 4, 4), DType::U8, &Device::Cpu)?;
/// assert_eq!(loss.forward(&logits, &mask)?.to_scalar::<f32>()?, 1.0);
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LovaszHinge {
    over: Over,
    ignore_index: Option<i64>,
}

builder! {
    /// Over the batch, nothing ignored, unless told otherwise.
    LovaszHingeBuilder of LovaszHinge;
    /// Whether the batch is one set of pixels, or every image by itself.
    fn over(loss, over: Over) { loss.over = over }
    /// The label of pixels that do not count.
    fn ignore_index(loss, ignore_index: i64) { loss.ignore_index = Some(ignore_index) }
    build(_loss), errors "Never." {}
}

impl Loss for LovaszHinge {
    fn forward(&self, logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
        same_device(logits, targets)?;
        let logits = float("logits", logits)?;
        not_empty("logits", &logits)?;
        let dims = logits.dims();
        let squeezed = dims.len() >= 2 && dims[1] == 1 && targets.dims() == [&dims[..1], &dims[2..]].concat();
        if targets.dims() != dims && !squeezed {
            return Err(Error::argument(
                "targets",
                format!("a mask of the logits' shape {dims:?} (without its channel, if that is 1)"),
                format!("shape {:?}", targets.dims()),
            )
            .hint("for several classes use Lovász-Softmax"));
        }
        #[cfg(feature = "cuda")]
        if crate::kernels::cuda::takes(&logits) {
            let targets = targets.to_dtype(logits.dtype())?.reshape(dims)?;
            let (labels, signs) = device::Labels::of_mask(&targets, self.ignore_index)?;
            let errors = pointwise(&(&logits * signs)?, Pointwise::Hinge { squared: false })?;
            let by_image = self.over == Over::Image;
            return Ok(device::Lovasz { hinge: true, by_image, all_classes: true }.apply(&errors, &labels)?);
        }
        let labels = mask(targets, self.ignore_index)?;
        let examples = dims[0];
        let positions = labels.len() / examples;
        let groups = groups(examples, self.over);
        // Errors are clipped at 0 before the sort, which leaves value and gradient as they are:
        // what a pixel beyond the margin weighs is multiplied by 0.
        let signs: Vec<f64> = labels.iter().map(|&l| if l == 1 { 1.0 } else { -1.0 }).collect();
        let signs = Tensor::from_vec(signs, logits.shape(), &Device::Cpu)?.to_device(logits.device())?;
        let margins = (&logits * signs.to_dtype(logits.dtype())?)?;
        let errors = pointwise(&margins, Pointwise::Hinge { squared: false })?;
        for_float!(logits.dtype(), T => {
            let (value, gradient) = with_elements::<T, _>(&errors, |e| {
                let mut gradient = vec![0.0 as T; e.len()];
                let weight = 1.0 / groups.len() as f64;
                let mut total = 0.0;
                for group in &groups {
                    let range = group.start * positions..group.end * positions;
                    let pixels: Vec<Pixel<T>> = range
                        .filter(|&at| labels[at] != IGNORED)
                        .map(|at| Pixel { error: e[at], truth: labels[at] == 1, slope: 1.0, at })
                        .collect();
                    total += weight * lovasz(&pixels, |at, derivative| gradient[at] = derivative * weight as T);
                }
                (total, errors.track_op().then_some(gradient))
            })?;
            hang::<T>(&errors, value, gradient)
        })
    }

    fn mean_of(&self, _: &Tensor, targets: &Tensor) -> Result<MeanOf> {
        // Images of ignored pixels only count, too.
        Ok(self.over.whole().map_or_else(|| MeanOf::examples(targets), MeanOf::Whole))
    }

    fn whole(&self) -> Option<String> {
        self.over.whole()
    }
}

/// A mask of 0 and 1 as labels.
fn mask(targets: &Tensor, ignore_index: Option<i64>) -> Result<Vec<u32>> {
    let ignored = ignore_index.map(|index| index as f64);
    with_elements::<f64, _>(&targets.to_dtype(DType::F64)?, |values| {
        values
            .iter()
            .map(|&value| match value {
                value if Some(value) == ignored => Ok(IGNORED),
                0.0 => Ok(0),
                1.0 => Ok(1),
                value => Err(Error::argument("targets", "a mask of 0 and 1", value)
                    .hint("unknown pixels need `ignore_index`; several classes need Lovász-Softmax")),
            })
            .collect::<Result<Vec<u32>>>()
    })?
}
