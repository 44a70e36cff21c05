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
//! let weighted = CrossEntropy::builder().class_weights(vec![0.5, 1.0, 2.0]).ignore_index(255).build()?;
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
//! - A loss knows what it is a mean of ([`Loss::mean_of`]): losses and gradients of small batches join
//!   exactly to those of the large one.

use std::sync::Arc;

use candle_core::Tensor;

use crate::error::Result;

/// Returns the loss of pairs that a CUDA device computes in one launch, if the tensors are there.
macro_rules! from_device {
    ($predictions:expr, $targets:expr, $reduction:expr, $($pairs:tt)+) => {
        #[cfg(feature = "cuda")]
        {
            let pairs = crate::kernels::cuda::pointwise::Pairs::$($pairs)+;
            if let Some(loss) = crate::losses::on_device::pairs(&$predictions, &$targets, pairs, $reduction)? {
                return Ok(loss);
            }
        }
    };
}

mod binary;
mod binary_focal;
mod class_rule;
mod compose;
mod cross_entropy;
#[cfg(all(test, feature = "cuda"))]
mod device_tests;
mod dice;
#[cfg(test)]
mod error_tests;
mod focal;
mod kl;
mod lovasz;
mod mean_of;
#[cfg(test)]
mod mean_of_tests;
mod nll;
#[cfg(feature = "cuda")]
mod on_device;
mod options;
#[cfg(test)]
mod oracle_tests;
mod reduction;
mod region;
mod regression;
mod tversky;
mod validate;

pub use binary::{BinaryCrossEntropy, BinaryCrossEntropyBuilder, Hinge, HingeBuilder, binary_cross_entropy, hinge};
pub use binary_focal::{BinaryFocal, BinaryFocalBuilder, binary_focal};
pub use compose::{MultiTask, MultiTaskBuilder, MultiTaskLoss, Task, WeightedSum, WeightedSumBuilder};
pub use cross_entropy::{CrossEntropy, CrossEntropyBuilder, cross_entropy};
pub use dice::{
    Dice, DiceBuilder, GeneralisedDice, GeneralisedDiceBuilder, Iou, IouBuilder, dice, generalised_dice, iou,
};
pub use focal::{Focal, FocalBuilder, focal};
pub use kl::{KlDivergence, KlDivergenceBuilder, kl_divergence};
pub use lovasz::{LovaszHinge, LovaszHingeBuilder, LovaszSoftmax, LovaszSoftmaxBuilder, lovasz_hinge, lovasz_softmax};
pub use mean_of::{Mean, MeanOf, RunningMean};
pub use nll::{Nll, NllBuilder, nll};
pub use reduction::Reduction;
pub use region::{Classes, Over};
pub use regression::{
    Huber, HuberBuilder, LogCosh, LogCoshBuilder, Mae, MaeBuilder, Mse, MseBuilder, Quantile, QuantileBuilder, Rmse,
    SmoothL1, SmoothL1Builder, huber, log_cosh, mae, mse, quantile, rmse, smooth_l1,
};
pub use tversky::{FocalTversky, FocalTverskyBuilder, Tversky, TverskyBuilder, focal_tversky, tversky};

/// An objective.
pub trait Loss: Send + Sync {
    /// The loss of `predictions` against `targets`: a scalar `[]` for the reductions mean and sum.
    ///
    /// # Errors
    /// If shapes, dtypes or devices do not fit.
    fn forward(&self, predictions: &Tensor, targets: &Tensor) -> Result<Tensor>;

    /// What [`Loss::forward`] is a mean of for these predictions (only their shape counts) and targets.
    ///
    /// A loss that does not say cannot be split: it is refused where gradients are accumulated, and
    /// averaged over examples where it is only reported.
    ///
    /// # Errors
    /// As [`Loss::forward`].
    fn mean_of(&self, predictions: &Tensor, targets: &Tensor) -> Result<MeanOf> {
        let _ = (predictions, targets);
        Ok(MeanOf::Whole("it does not say what it is a mean of (`Loss::mean_of`)".to_owned()))
    }

    /// Why the loss of a batch does not follow from those of its parts, if that is known before there
    /// is a batch; [`Loss::mean_of`] then is [`MeanOf::Whole`].
    fn whole(&self) -> Option<String> {
        None
    }

    /// The loss as a sum of terms, each with what it is a mean of; one term, unless the loss is made
    /// of several that may be means of different things. As many for every batch.
    ///
    /// # Errors
    /// As [`Loss::forward`].
    fn means(&self, predictions: &Tensor, targets: &Tensor) -> Result<Vec<Mean>> {
        Ok(vec![Mean { value: self.forward(predictions, targets)?, of: self.mean_of(predictions, targets)? }])
    }
}

impl<L: Loss + ?Sized> Loss for Box<L> {
    fn forward(&self, predictions: &Tensor, targets: &Tensor) -> Result<Tensor> {
        (**self).forward(predictions, targets)
    }

    fn mean_of(&self, predictions: &Tensor, targets: &Tensor) -> Result<MeanOf> {
        (**self).mean_of(predictions, targets)
    }

    fn whole(&self) -> Option<String> {
        (**self).whole()
    }

    fn means(&self, predictions: &Tensor, targets: &Tensor) -> Result<Vec<Mean>> {
        (**self).means(predictions, targets)
    }
}

impl<L: Loss + ?Sized> Loss for Arc<L> {
    fn forward(&self, predictions: &Tensor, targets: &Tensor) -> Result<Tensor> {
        (**self).forward(predictions, targets)
    }

    fn mean_of(&self, predictions: &Tensor, targets: &Tensor) -> Result<MeanOf> {
        (**self).mean_of(predictions, targets)
    }

    fn whole(&self) -> Option<String> {
        (**self).whole()
    }

    fn means(&self, predictions: &Tensor, targets: &Tensor) -> Result<Vec<Mean>> {
        (**self).means(predictions, targets)
    }
}
