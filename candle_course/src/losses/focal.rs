//! Focal loss over classes.

use candle_core::Tensor;

use crate::error::Result;
use crate::losses::class_rule::HardTargets;
use crate::losses::options::builder;
use crate::losses::validate::{IGNORED, class_targets, float, number, weights};
use crate::losses::{Loss, MeanOf, Reduction};

/// Mean focal loss over classes with γ = 2 and no weights; see [`Focal`].
///
/// # Errors
/// As [`Focal`]'s forward.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let logits = Tensor::new(&[[0f64, 0.]], &Device::Cpu)?;
/// let targets = Tensor::new(&[1u32], &Device::Cpu)?;
/// assert!((focal(&logits, &targets)?.to_scalar::<f64>()? - 0.25 * 2f64.ln()).abs() < 1e-15);
/// # Ok::<(), candle_course::Error>(())
/// ```
pub fn focal(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    Focal::default().forward(logits, targets)
}

/// Focal loss over classes, −α_y (1 − p_y)^γ ln p_y, p being the softmax of the logits.
///
/// `logits`: `[N, C, …]`; `targets`: `[N, …]`, class indices. α is a weight *per class*: one
/// constant would only rescale the loss. The mean divides by the number of positions that count,
/// not by their weights, as in the paper; all ignored, it is 0 with a gradient of 0.
/// For yes-or-no logits see [`BinaryFocal`](crate::losses::BinaryFocal). (Lin et al., "Focal loss
/// for dense object detection", 2017.)
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let loss = Focal::builder().gamma(2.0).alpha(vec![0.25, 0.75]).build()?;
/// let logits = Tensor::new(&[[0f64, 0.]], &Device::Cpu)?;
/// let targets = Tensor::new(&[1u32], &Device::Cpu)?;
/// assert!((loss.forward(&logits, &targets)?.to_scalar::<f64>()? - 0.75 * 0.25 * 2f64.ln()).abs() < 1e-15);
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Focal {
    gamma: f64,
    alpha: Option<Vec<f64>>,
    ignore_index: Option<i64>,
    reduction: Reduction,
}

impl Default for Focal {
    fn default() -> Self {
        Self { gamma: 2.0, alpha: None, ignore_index: None, reduction: Reduction::Mean }
    }
}

builder! {
    /// γ = 2, no weights, nothing ignored, the mean, unless told otherwise.
    FocalBuilder of Focal;
    /// How strongly well-classified positions are turned down; 0 is cross-entropy.
    fn gamma(loss, gamma: f64) { loss.gamma = gamma }
    /// A weight per class.
    fn alpha(loss, alpha: impl Into<Vec<f64>>) { loss.alpha = Some(alpha.into()) }
    /// The label of positions that do not count.
    fn ignore_index(loss, ignore_index: i64) { loss.ignore_index = Some(ignore_index) }
    /// What becomes of the losses of single positions.
    fn reduction(loss, reduction: Reduction) { loss.reduction = reduction }
    build(loss), errors "If γ is negative, a weight is negative or not finite, or all are 0." {
        number("gamma", "a number that is not negative", loss.gamma, loss.gamma >= 0.0)?;
        loss.check_alpha(None)?;
    }
}

impl Focal {
    fn check_alpha(&self, classes: Option<usize>) -> Result<()> {
        self.alpha.as_ref().map_or(Ok(()), |alpha| weights("alpha", alpha, classes))
    }
}

impl Loss for Focal {
    fn forward(&self, logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
        let logits = float("logits", logits)?;
        #[cfg(feature = "cuda")]
        {
            self.check_alpha(logits.dims().get(1).copied())?;
            let loss = crate::kernels::cuda::cross_entropy::ClassLoss {
                weights: self.alpha.as_deref(),
                gamma: self.gamma,
                ignore_index: self.ignore_index,
                counts_positions: true,
                ..Default::default()
            };
            if let Some(loss) = crate::losses::on_device::classes(&logits, targets, loss, self.reduction)? {
                return Ok(loss);
            }
        }
        let labels = class_targets(&logits, targets, self.ignore_index)?;
        self.check_alpha(Some(logits.dims()[1]))?;
        let rule = HardTargets { labels: &labels, weights: self.alpha.as_deref(), smoothing: 0.0, gamma: self.gamma };
        let counted = labels.iter().filter(|&&label| label != IGNORED).count();
        rule.loss(&logits, self.reduction, counted as f64)
    }

    fn mean_of(&self, logits: &Tensor, targets: &Tensor) -> Result<MeanOf> {
        self.reduction.of(|| MeanOf::positions(logits, targets, self.ignore_index, None))
    }
}
