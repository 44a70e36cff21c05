//! Focal loss of yes-or-no logits.

use candle_core::Tensor;

use crate::error::Result;
use crate::kernels::losses::{Pointwise, pointwise};
use crate::losses::binary::signs;
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
/// let loss = BinaryFocal::new().alpha(0.75).gamma(1.0).build()?;
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

impl BinaryFocal {
    /// α = 0.25 and γ = 2 as in the paper, the mean over all elements, unless told otherwise.
    pub fn new() -> Self {
        Self::default()
    }

    /// The weight of positives, in [0, 1]; negatives weigh 1 − α.
    pub fn alpha(mut self, alpha: f64) -> Self {
        self.alpha = Some(alpha);
        self
    }

    /// No balance between positives and negatives: both weigh 1.
    pub fn without_alpha(mut self) -> Self {
        self.alpha = None;
        self
    }

    /// How strongly easy examples are turned down; 0 is cross-entropy.
    pub fn gamma(mut self, gamma: f64) -> Self {
        self.gamma = gamma;
        self
    }

    /// What becomes of the losses of single elements.
    pub fn reduction(mut self, reduction: Reduction) -> Self {
        self.reduction = reduction;
        self
    }

    /// The loss, its parameters checked.
    ///
    /// # Errors
    /// If α is not in [0, 1] or γ is negative.
    pub fn build(self) -> Result<Self> {
        if let Some(alpha) = self.alpha {
            number("alpha", "a number in [0, 1]", alpha, (0.0..=1.0).contains(&alpha))?;
        }
        number("gamma", "a number that is not negative", self.gamma, self.gamma >= 0.0)?;
        Ok(self)
    }
}

impl Loss for BinaryFocal {
    fn forward(&self, logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
        let Self { alpha, gamma, reduction } = self.build()?;
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
