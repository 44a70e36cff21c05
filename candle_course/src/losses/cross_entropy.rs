//! Cross-entropy over classes.

use candle_core::{DType, Tensor};

use crate::error::{Error, Result};
use crate::losses::Loss;

/// Mean cross-entropy, −1/N Σ log softmax(logits)[target], as `torch.nn.functional.cross_entropy`.
///
/// `logits`: `[N, C]`, f32, unnormalised; `targets`: `[N]`, u32, classes in `0..C`.
///
/// # Errors
/// If the shapes do not fit, the batch is empty, or a target is not a class.
pub fn cross_entropy(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    let (&[examples, classes], &[labels]) = (logits.dims(), targets.dims()) else {
        return Err(Error::argument(
            "logits, targets",
            "shapes [N, C] and [N]",
            format!("{:?} and {:?}", logits.dims(), targets.dims()),
        ));
    };
    if examples != labels || examples == 0 {
        return Err(Error::argument("targets", format!("{examples} labels, at least 1"), labels));
    }
    let targets = targets.to_dtype(DType::U32)?;
    let largest = targets.max(0)?.to_scalar::<u32>()?;
    if largest as usize >= classes {
        return Err(Error::argument("targets", format!("classes in 0..{classes}"), largest)
            .hint("does the last layer have one output per class?"));
    }
    let log_probabilities = candle_nn::ops::log_softmax(logits, 1)?;
    Ok(log_probabilities.gather(&targets.unsqueeze(1)?, 1)?.mean_all()?.neg()?)
}

/// [`cross_entropy`] as a [`Loss`].
#[derive(Debug, Clone, Copy, Default)]
pub struct CrossEntropy;

impl Loss for CrossEntropy {
    fn forward(&self, predictions: &Tensor, targets: &Tensor) -> Result<Tensor> {
        cross_entropy(predictions, targets)
    }
}
