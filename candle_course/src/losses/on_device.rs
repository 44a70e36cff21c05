//! Losses on a CUDA device: value and gradient from one kernel each, nothing read by the host.
//!
//! What the CPU refuses after a look at the targets (a label that is no class, a probability above 1)
//! makes the loss NaN here; the reason is told when the device is next read.

use candle_core::{DType, Tensor};

use crate::error::Result;
use crate::kernels::cuda::cross_entropy::{ClassLoss, Reduce};
use crate::kernels::cuda::pointwise::Pairs;
use crate::kernels::cuda::takes;
use crate::losses::Reduction;
use crate::losses::validate::{class_shapes, not_class_indices};

impl Reduction {
    pub(crate) fn on_device(self) -> Reduce {
        match self {
            Self::Mean => Reduce::Mean,
            Self::Sum => Reduce::Sum,
            Self::None => Reduce::Each,
        }
    }
}

/// A loss of class indices; `None` where the CPU or candle's operations compute it. The mean divides
/// by the weights of the positions that count or, with `counts_positions`, by their number.
pub(crate) fn classes(
    logits: &Tensor,
    targets: &Tensor,
    loss: ClassLoss<'_>,
    reduction: Reduction,
) -> Result<Option<Tensor>> {
    if !takes(logits) {
        return Ok(None);
    }
    class_shapes(logits, targets)?;
    if !matches!(targets.dtype(), DType::U8 | DType::U32 | DType::I64) {
        return Err(not_class_indices(targets.dtype()));
    }
    Ok(Some(ClassLoss { reduce: reduction.on_device(), ..loss }.apply(logits, targets)?))
}

/// A loss of pairs, checked for shape; `None` where the CPU or candle's operations compute it, or
/// the targets want a gradient.
pub(crate) fn pairs(
    predictions: &Tensor,
    targets: &Tensor,
    loss: Pairs<'_>,
    reduction: Reduction,
) -> Result<Option<Tensor>> {
    if !takes(predictions) || targets.track_op() {
        return Ok(None);
    }
    Ok(Some(loss.apply(predictions, targets, reduction.on_device())?))
}
