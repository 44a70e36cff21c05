//! Negative log-likelihood of log-probabilities.

use candle_core::Tensor;

use crate::error::Result;
use crate::kernels::losses::{Dims, for_float};
use crate::losses::class_rule::{HardTargets, finish};
use crate::losses::options::builder;
use crate::losses::validate::{self, IGNORED, class_targets, float, log_probabilities_only};
use crate::losses::{Loss, MeanOf, Reduction};

/// Mean negative log-likelihood, −1/N Σ log p\[target\]; see [`Nll`].
///
/// # Errors
/// As [`Nll`]'s forward.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let log_p = Tensor::new(&[[0.25f64, 0.75]], &Device::Cpu)?.log()?;
/// let targets = Tensor::new(&[0u32], &Device::Cpu)?;
/// assert!((nll(&log_p, &targets)?.to_scalar::<f64>()? - 4f64.ln()).abs() < 1e-15);
/// # Ok::<(), candle_course::Error>(())
/// ```
pub fn nll(log_probabilities: &Tensor, targets: &Tensor) -> Result<Tensor> {
    Nll::default().forward(log_probabilities, targets)
}

/// Negative log-likelihood as `torch.nn.NLLLoss`: −w_y ln p_y, for models that end in a log-softmax.
///
/// `log_probabilities`: `[N, C, …]`, never positive; `targets`: `[N, …]`, class indices. Logits
/// given instead are refused as soon as one is positive. When every position is ignored, or
/// weighs 0, the loss is 0 with a gradient of 0.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let logits = Tensor::new(&[[2f64, 1.]], &Device::Cpu)?;
/// let targets = Tensor::new(&[0u32], &Device::Cpu)?;
/// let loss = Nll::builder().class_weights(vec![1.0, 3.0]).build()?;
/// let message = loss.forward(&logits, &targets).unwrap_err().to_string();
/// assert!(message.contains("log-probabilities"), "{message}");
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Nll {
    class_weights: Option<Vec<f64>>,
    ignore_index: Option<i64>,
    reduction: Reduction,
}

builder! {
    /// Unweighted, nothing ignored, the mean, unless told otherwise.
    NllBuilder of Nll;
    /// A weight per class.
    fn class_weights(loss, class_weights: impl Into<Vec<f64>>) { loss.class_weights = Some(class_weights.into()) }
    /// The label of positions that do not count.
    fn ignore_index(loss, ignore_index: i64) { loss.ignore_index = Some(ignore_index) }
    /// What becomes of the losses of single positions.
    fn reduction(loss, reduction: Reduction) { loss.reduction = reduction }
    build(loss), errors "If a weight is negative or not finite, or all are 0." {
        if let Some(weights) = &loss.class_weights {
            validate::weights("class_weights", weights, None)?;
        }
    }
}

impl Loss for Nll {
    fn forward(&self, log_probabilities: &Tensor, targets: &Tensor) -> Result<Tensor> {
        let scores = float("log_probabilities", log_probabilities)?;
        #[cfg(feature = "cuda")]
        {
            if let Some(weights) = &self.class_weights {
                validate::weights("class_weights", weights, scores.dims().get(1).copied())?;
            }
            let loss = crate::kernels::cuda::cross_entropy::ClassLoss {
                weights: self.class_weights.as_deref(),
                ignore_index: self.ignore_index,
                log: true,
                ..Default::default()
            };
            if let Some(loss) = crate::losses::on_device::classes(&scores, targets, loss, self.reduction)? {
                return Ok(loss);
            }
        }
        let labels = class_targets(&scores, targets, self.ignore_index)?;
        log_probabilities_only("log_probabilities", &scores)?;
        let dims = Dims::of(scores.dims());
        if let Some(weights) = &self.class_weights {
            validate::weights("class_weights", weights, Some(dims.classes))?;
        }
        let rule = HardTargets { labels: &labels, weights: self.class_weights.as_deref(), smoothing: 0.0, gamma: 0.0 };
        let denominator = if self.reduction == Reduction::Mean { rule.total_weight() } else { 1.0 };
        let inverse = if denominator > 0.0 { 1.0 / denominator } else { 0.0 };
        for_float!(scores.dtype(), T => {
            finish::<T>(&scores, dims, self.reduction, denominator, |block| {
                let len = block.len;
                let labels = &labels[block.first..block.first + len];
                let weight = |label: u32| rule.weight(label);
                let losses = labels.iter().enumerate().map(|(i, &label)| {
                    if label == IGNORED { 0.0 } else { -weight(label) * f64::from(block.values[label as usize * len + i]) }
                });
                let losses: Vec<f64> = losses.collect();
                block.values.fill(0.0);
                for (i, &label) in labels.iter().enumerate().filter(|(_, label)| **label != IGNORED) {
                    block.values[label as usize * len + i] = (-weight(label) * inverse) as T;
                }
                losses
            })
        })
    }

    fn mean_of(&self, log_probabilities: &Tensor, targets: &Tensor) -> Result<MeanOf> {
        let weights = self.class_weights.as_deref();
        self.reduction.of(|| MeanOf::positions(log_probabilities, targets, self.ignore_index, weights))
    }
}
