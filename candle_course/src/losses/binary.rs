//! Losses of yes-or-no logits.

use candle_core::{DType, Device, Tensor};

use crate::error::{Error, Result};
use crate::kernels::losses::{Pointwise, pointwise, sum_trailing};
use crate::losses::options::builder;
use crate::losses::validate::{binary_pair, float, probabilities, range, weights};
use crate::losses::{Loss, MeanOf, Reduction};

/// Mean binary cross-entropy of logits; see [`BinaryCrossEntropy`].
///
/// # Errors
/// If the shapes, dtypes or devices do not fit, there is no element, or a target is not in [0, 1].
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let logits = Tensor::new(&[0f32, 1e4], &Device::Cpu)?;
/// let targets = Tensor::new(&[1f32, 0.], &Device::Cpu)?;
/// let loss = binary_cross_entropy(&logits, &targets)?.to_scalar::<f32>()?;
/// assert_eq!(loss, (2f32.ln() + 1e4) / 2.0); // ln(1 − σ(1e4)) computed naively is −∞
/// # Ok::<(), candle_course::Error>(())
/// ```
pub fn binary_cross_entropy(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    BinaryCrossEntropy::default().forward(logits, targets)
}

/// Binary cross-entropy of logits, as `torch.nn.BCEWithLogitsLoss`:
/// −[p y ln σ(x) + (1 − y) ln(1 − σ(x))], p being `pos_weight`.
///
/// `logits`, `targets`: one shape, any rank; logits f32 or f64, unnormalised (a probability given
/// instead cannot be told apart, and trains badly); targets in [0, 1], floats or integers.
/// Computed as (1 − y) ln(1 + e^x) + p y ln(1 + e^−x): a sum of what is never negative, so that a
/// small loss keeps all its digits.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// // One positive in ten: an error on a positive weighs as much as nine on negatives.
/// let loss = BinaryCrossEntropy::builder().pos_weight(vec![9.0]).build()?;
/// let logits = Tensor::new(&[0f64], &Device::Cpu)?;
/// let targets = Tensor::new(&[1f64], &Device::Cpu)?;
/// assert!((loss.forward(&logits, &targets)?.to_scalar::<f64>()? - 9.0 * 2f64.ln()).abs() < 1e-15);
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct BinaryCrossEntropy {
    pos_weight: Option<Vec<f64>>,
    weights: Option<Tensor>,
    reduction: Reduction,
}

builder! {
    /// Unweighted, the mean over all elements, unless told otherwise.
    BinaryCrossEntropyBuilder of BinaryCrossEntropy;
    /// How much a positive weighs: one number for all, or one per label of logits `[N, L, …]`
    /// (negatives / positives balances the two).
    fn pos_weight(loss, pos_weight: impl Into<Vec<f64>>) { loss.pos_weight = Some(pos_weight.into()) }
    /// A weight per element, of a shape that broadcasts to that of the logits. The mean still
    /// divides by the number of elements, as PyTorch's does.
    fn weights(loss, weights: &Tensor) { loss.weights = Some(weights.detach()) }
    /// What becomes of the losses of single elements.
    fn reduction(loss, reduction: Reduction) { loss.reduction = reduction }
    build(loss), errors "If a weight is negative or not finite, or all are 0." {
        if let Some(pos_weight) = &loss.pos_weight {
            weights("pos_weight", pos_weight, None)?;
        }
        if let Some(tensor) = &loss.weights {
            let (low, high) = range(&float("weights", tensor)?)?;
            if !(low >= 0.0 && high.is_finite()) {
                let bad = if low >= 0.0 { high } else { low };
                return Err(Error::argument("weights", "finite numbers that are not negative", bad));
            }
            if high == 0.0 {
                return Err(Error::argument("weights", "at least one positive number", "0 everywhere"));
            }
        }
    }
}

/// Whether so many weights of positives are one for all or one per label.
#[cfg(feature = "cuda")]
fn fits(weights: usize, dims: &[usize]) -> bool {
    weights == 1 || dims.get(1) == Some(&weights)
}

impl Loss for BinaryCrossEntropy {
    fn forward(&self, logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
        let (x, y) = binary_pair(logits, targets)?;
        #[cfg(feature = "cuda")]
        if self.weights.is_none() && self.pos_weight.as_ref().is_none_or(|weights| fits(weights.len(), x.dims())) {
            from_device!(x, y, self.reduction, Binary { pos_weight: self.pos_weight.as_deref() });
        }
        probabilities("targets", &y)?;
        let positive = match &self.pos_weight {
            None => y.clone(),
            Some(pos_weight) => {
                let dims = x.dims();
                let shape = match (pos_weight.len(), dims.len()) {
                    (1, _) => vec![1; dims.len()],
                    (labels, 2..) if labels == dims[1] => {
                        let mut shape = vec![1; dims.len()];
                        shape[1] = labels;
                        shape
                    }
                    (labels, _) => {
                        return Err(Error::argument(
                            "pos_weight",
                            format!("1 number, or one per label in dimension 1 of the logits {dims:?}"),
                            labels,
                        ));
                    }
                };
                let pos_weight = Tensor::from_vec(pos_weight.clone(), shape, &Device::Cpu)?.to_dtype(x.dtype())?;
                y.broadcast_mul(&pos_weight.to_device(x.device())?)?
            }
        };
        let missed = (positive * pointwise(&x.neg()?, Pointwise::Softplus)?)?;
        let mut losses = (((1.0 - y)? * pointwise(&x, Pointwise::Softplus)?)? + missed)?;
        if let Some(weights) = &self.weights {
            let weights = weights.to_device(x.device())?.to_dtype(x.dtype())?;
            let weights = weights.broadcast_as(x.shape()).map_err(|error| {
                Error::from(error).context(format!(
                    "`weights`: expected a shape that broadcasts to the logits' {:?}, got {:?}",
                    x.dims(),
                    weights.dims()
                ))
            })?;
            losses = (losses * weights)?;
        }
        self.reduction.apply(losses)
    }

    fn mean_of(&self, _: &Tensor, targets: &Tensor) -> Result<MeanOf> {
        self.reduction.of(|| Ok(MeanOf::elements(targets)))
    }
}

/// Hinge loss, max(0, 1 − s x) with the sign s = 2 y − 1; see [`Hinge`].
///
/// # Errors
/// As [`Hinge`]'s forward.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let scores = Tensor::new(&[2f32, 0.25, -1.], &Device::Cpu)?;
/// let targets = Tensor::new(&[1f32, 1., 1.], &Device::Cpu)?;
/// assert!((hinge(&scores, &targets)?.to_scalar::<f32>()? - (0.0 + 0.75 + 2.0) / 3.0).abs() < 1e-6);
/// # Ok::<(), candle_course::Error>(())
/// ```
pub fn hinge(scores: &Tensor, targets: &Tensor) -> Result<Tensor> {
    Hinge::default().forward(scores, targets)
}

/// The hinge loss of a margin classifier, max(0, 1 − s x)^k, k = 1 or 2 (squared).
///
/// `scores`, `targets`: one shape; targets 0 and 1, or −1 and 1. (Cortes and Vapnik,
/// "Support-vector networks", 1995; `sklearn.metrics.hinge_loss`.)
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let loss = Hinge::builder().squared(true).build()?;
/// let scores = Tensor::new(&[-1f32], &Device::Cpu)?;
/// let targets = Tensor::new(&[1f32], &Device::Cpu)?;
/// assert_eq!(loss.forward(&scores, &targets)?.to_scalar::<f32>()?, 4.0);
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Hinge {
    squared: bool,
    reduction: Reduction,
}

builder! {
    /// Not squared, the mean over all elements, unless told otherwise.
    HingeBuilder of Hinge;
    /// Whether margins are squared.
    fn squared(loss, squared: bool) { loss.squared = squared }
    /// What becomes of the losses of single elements.
    fn reduction(loss, reduction: Reduction) { loss.reduction = reduction }
    build(_loss), errors "Never." {}
}

/// Targets 0/1 (or −1/1) as signs −1 and 1.
pub(crate) fn signs(targets: &Tensor) -> Result<Tensor> {
    let equal = |value: f64| targets.eq(value)?.to_dtype(targets.dtype());
    let count =
        |flags: &Tensor| -> Result<f64> { Ok(sum_trailing(flags, 0)?.to_dtype(DType::F64)?.to_scalar::<f64>()?) };
    let one = equal(1.0)?;
    let (zeros, minus_ones) = (count(&equal(0.0)?)?, count(&equal(-1.0)?)?);
    if zeros > 0.0 && minus_ones > 0.0 {
        return Err(Error::argument("targets", "0 and 1 only (or −1 and 1)", "−1, 0 and 1 together")
            .hint("is one of them the label of unknown examples? leave those out"));
    }
    if count(&one)? + zeros + minus_ones != targets.elem_count() as f64 {
        let (low, high) = range(targets)?;
        return Err(Error::argument("targets", "0 and 1 only (or −1 and 1)", format!("values from {low} to {high}"))
            .hint("soft labels need binary cross-entropy"));
    }
    Ok(((one * 2.0)? - 1.0)?)
}

impl Loss for Hinge {
    fn forward(&self, scores: &Tensor, targets: &Tensor) -> Result<Tensor> {
        let (scores, targets) = binary_pair(scores, targets)?;
        from_device!(scores, targets, self.reduction, Margin { function: Pointwise::Hinge { squared: self.squared } });
        let margins = (scores * signs(&targets)?)?;
        self.reduction.apply(pointwise(&margins, Pointwise::Hinge { squared: self.squared })?)
    }

    fn mean_of(&self, _: &Tensor, targets: &Tensor) -> Result<MeanOf> {
        self.reduction.of(|| Ok(MeanOf::elements(targets)))
    }
}
