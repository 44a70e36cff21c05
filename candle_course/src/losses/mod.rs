//! What training minimises.
//!
//! Every loss is a function for its plain form and a value with options for the rest:
//!
//! ```
//! use candle_course::prelude::*;
//!
//! let logits = Tensor::zeros((4, 3, 8, 8), DType::F32, &Device::Cpu)?; // [N, C, H, W]
//! let targets = Tensor::zeros((4, 8, 8), DType::U32, &Device::Cpu)?; // [N, H, W]
//! let plain = cross_entropy(&logits, &targets)?;
//! let weighted = CrossEntropy::new().class_weights(vec![0.5, 1.0, 2.0]).ignore_index(255).build()?;
//! let value = weighted.forward(&logits, &targets)?;
//! # assert_eq!(plain.to_scalar::<f32>()?, value.to_scalar::<f32>()?);
//! # Ok::<(), candle_course::Error>(())
//! ```
//!
//! - Inputs are f32 or f64; bf16 and f16 are upcast to f32, and the loss is f32.
//! - Losses take *logits*, not probabilities, unless they say otherwise: the numbers before any
//!   sigmoid or softmax.
//! - A gradient is never NaN for finite inputs: not at logits of ±10⁴, nor for a perfect
//!   prediction, nor when every position is ignored (the loss is then 0, with a gradient of 0).
//! - The same inputs give the same bits, whatever the number of threads.

use std::sync::Arc;

use candle_core::Tensor;

use crate::error::Result;

mod binary;
mod binary_focal;
mod class_rule;
mod compose;
mod cross_entropy;
mod dice;
#[cfg(test)]
mod error_tests;
mod focal;
mod kl;
mod lovasz;
mod nll;
#[cfg(test)]
mod oracle_tests;
mod reduction;
mod region;
mod regression;
mod tversky;
mod validate;
mod weights;

pub use binary::{BinaryCrossEntropy, Hinge, binary_cross_entropy, hinge};
pub use binary_focal::{BinaryFocal, binary_focal};
pub use compose::{MultiTask, MultiTaskLoss, Task, WeightedSum};
pub use cross_entropy::{CrossEntropy, cross_entropy};
pub use dice::{Dice, GeneralisedDice, Iou, dice, generalised_dice, iou};
pub use focal::{Focal, focal};
pub use kl::{KlDivergence, kl_divergence};
pub use lovasz::{LovaszHinge, LovaszSoftmax, lovasz_hinge, lovasz_softmax};
pub use nll::{Nll, nll};
pub use reduction::Reduction;
pub use region::{Classes, Over};
pub use regression::{
    Huber, LogCosh, Mae, Mse, Quantile, Rmse, SmoothL1, huber, log_cosh, mae, mse, quantile, rmse, smooth_l1,
};
pub use tversky::{FocalTversky, Tversky, focal_tversky, tversky};
pub use weights::{class_balanced_weights, inverse_frequency_weights};

/// An objective.
pub trait Loss: Send + Sync {
    /// The loss of `predictions` against `targets`: a scalar `[]` for the reductions mean and sum.
    ///
    /// # Errors
    /// If shapes, dtypes or devices do not fit.
    fn forward(&self, predictions: &Tensor, targets: &Tensor) -> Result<Tensor>;
}

impl<L: Loss + ?Sized> Loss for Box<L> {
    fn forward(&self, predictions: &Tensor, targets: &Tensor) -> Result<Tensor> {
        (**self).forward(predictions, targets)
    }
}

impl<L: Loss + ?Sized> Loss for Arc<L> {
    fn forward(&self, predictions: &Tensor, targets: &Tensor) -> Result<Tensor> {
        (**self).forward(predictions, targets)
    }
}
