//! What training minimises.

use candle_core::Tensor;

use crate::error::Result;

mod cross_entropy;

pub use cross_entropy::{CrossEntropy, cross_entropy};

/// An objective.
pub trait Loss: Send + Sync {
    /// The loss of `predictions` against `targets`: a scalar `[]` for the reductions mean and sum.
    ///
    /// # Errors
    /// If shapes, dtypes or devices do not fit.
    fn forward(&self, predictions: &Tensor, targets: &Tensor) -> Result<Tensor>;
}
