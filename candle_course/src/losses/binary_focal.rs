//! Focal loss of yes-or-no logits.

use candle_core::Tensor;

use crate::error::Result;
use crate::kernels::losses::{Pointwise, pointwise};
use crate::losses::binary::signs;
use crate::losses::options::builder;
use crate::losses::validate::{binary_pair, number};
use crate::losses::{Loss, MeanOf, Reduction};

/// Mean binary focal loss with α = 0.25 and γ = 2; see [`BinaryFocal`].
///
/// # Errors
/// As [`BinaryFocal`]'s forward.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let logits = Tensor::new(&[0f64], &Device::Cpu)?;
/// let targets = Tensor::new(&[1f64], &Device::Cpu)?;
/// let loss = binary_focal(&logits, &targets)?.to_scalar::<f64>()?;
/// assert!((loss - 0.25 * 0.25 * 2f64.ln()).abs() < 1e-15);
/// # Ok::<(), candle_course::Error>(())
/// ```
pub fn binary_focal(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    BinaryFocal::default().forward(logits, targets)
}

/// Focal loss of binary logits, −α_t (1 − p_t)^γ ln p_t, as `torchvision.ops.sigmoid_focal_loss`.
///
/// p_t is the probability given to the right answer, α_t is α for positives and 1 − α for
/// negatives. Well-classified examples, the many background pixels, are turned down by
/// (1 − p_t)^γ. `logits`, `targets`: one shape, any rank; targets 0 and 1. (Lin et al., "Focal
/// loss for dense object detection", 2017.)
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let loss = BinaryFocal::builder().alpha(0.75).gamma(1.0).build()?;
/// let logits = Tensor::new(&[0f64], &Device::Cpu)?;
/// let targets = Tensor::new(&[0f64], &Device::Cpu)?;
/// assert!((loss.forward(&logits, &targets)?.to_scalar::<f64>()? - 0.25 * 0.5 * 2f64.ln()).abs() < 1e-15);
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BinaryFocal {
    alpha: Option<f64>,
    gamma: f64,
    reduction: Reduction,
}

impl Default for BinaryFocal {
    fn default() -> Self {
        Self { alpha: Some(0.25), gamma: 2.0, reduction: Reduction::Mean }
    }
}

builder! {
    /// α = 0.25 and γ = 2 as in the paper, the mean over all elements, unless told otherwise.
    BinaryFocalBuilder of BinaryFocal;
    /// The weight of positives, in [0, 1]; negatives weigh 1 − α.
    fn alpha(loss, alpha: f64) { loss.alpha = Some(alpha) }
    /// No balance between positives and negatives: both weigh 1.
    fn without_alpha(loss) { loss.alpha = None }
    /// How strongly easy examples are turned down; 0 is cross-entropy.
    fn gamma(loss, gamma: f64) { loss.gamma = gamma }
    /// What becomes of the losses of single elements.
    fn reduction(loss, reduction: Reduction) { loss.reduction = reduction }
    build(loss), errors "If α is not in [0, 1] or γ is negative." {
        if let Some(alpha) = loss.alpha {
            number("alpha", "a number in [0, 1]", alpha, (0.0..=1.0).contains(&alpha))?;
        }
        number("gamma", "a number that is not negative", loss.gamma, loss.gamma >= 0.0)?;
    }
}

impl Loss for BinaryFocal {
    fn forward(&self, logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
        let Self { alpha, gamma, reduction } = *self;
        let (logits, targets) = binary_pair(logits, targets)?;
        from_device!(logits, targets, reduction, BinaryFocal { gamma, alpha });
        let signs = signs(&targets)?;
        let losses = pointwise(&(logits * &signs)?, Pointwise::Focal { gamma })?;
        reduction.apply(match alpha {
            None => losses,
            // (1 + s)/2 · α + (1 − s)/2 · (1 − α)
            Some(alpha) => (losses * signs.affine(alpha - 0.5, 0.5)?)?,
        })
    }

    fn mean_of(&self, _: &Tensor, targets: &Tensor) -> Result<MeanOf> {
        self.reduction.of(|| Ok(MeanOf::elements(targets)))
    }
}
