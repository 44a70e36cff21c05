//! How many losses become one.

use candle_core::Tensor;

use crate::error::Result;
use crate::kernels::losses::sum_trailing;
use crate::losses::MeanOf;

/// What becomes of the losses of single elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Reduction {
    /// Their mean, a scalar `[]`: the gradient does not grow with the batch.
    #[default]
    Mean,
    /// Their sum, a scalar `[]`.
    Sum,
    /// No reduction: one loss per element.
    None,
}

impl Reduction {
    /// Reduces a tensor of element-wise losses, accumulating in f64.
    pub(crate) fn apply(self, losses: Tensor) -> Result<Tensor> {
        match self {
            Self::None => Ok(losses),
            Self::Sum => sum_trailing(&losses, 0),
            Self::Mean => Ok((sum_trailing(&losses, 0)? / losses.elem_count() as f64)?),
        }
    }

    /// What the reduced loss is a mean of, if `mean` is what the reduction to a mean divides by.
    pub(crate) fn of(self, mean: impl FnOnce() -> Result<MeanOf>) -> Result<MeanOf> {
        match self {
            Self::Mean => mean(),
            Self::Sum => Ok(MeanOf::Sum),
            Self::None => Ok(MeanOf::Whole("without a reduction it is no single number".to_owned())),
        }
    }
}
