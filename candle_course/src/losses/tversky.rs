//! Tversky and focal Tversky: overlap losses that price each kind of mistake.

use candle_core::Tensor;

use crate::error::Result;
use crate::kernels::losses::{Pointwise, pointwise};
use crate::losses::region::{Classes, Over, Region, loss_dtype, region_builder};
use crate::losses::validate::number;
use crate::losses::{Loss, MeanOf};

/// Tversky loss with α = 0.3 and β = 0.7; see [`Tversky`].
///
/// # Errors
/// As [`dice`](crate::losses::dice()).
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let logits = Tensor::new(&[[[1e4f64, -1e4, -1e4]]], &Device::Cpu)?;
/// let targets = Tensor::new(&[[[1f64, 1., 0.]]], &Device::Cpu)?;
/// let loss = tversky(&logits, &targets)?.to_scalar::<f64>()?;
/// assert!((loss - (1.0 - 2.0 / 2.7)).abs() < 1e-15);
/// # Ok::<(), candle_course::Error>(())
/// ```
pub fn tversky(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    Tversky::default().forward(logits, targets)
}

/// Tversky loss, the mean over classes of 1 − (TP + s) / (TP + α FP + β FN + s) of soft counts.
///
/// α and β set what a false positive and a false negative cost: β > α seeks recall (flood
/// mapping, where a missed house matters most); α = β = ½ is Dice, 1 is IoU. Inputs as [`dice`](crate::losses::dice()).
/// (Salehi et al., "Tversky loss function for image segmentation", 2017.)
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let loss = Tversky::builder().alpha(0.2).beta(0.8).build()?;
/// let logits = Tensor::zeros((2, 1, 4, 4), DType::F32, &Device::Cpu)?;
/// let mask = Tensor::ones((2, 1, 4, 4), DType::F32, &Device::Cpu)?;
/// println!("{}", loss.forward(&logits, &mask)?.to_scalar::<f32>()?);
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tversky {
    region: Region,
    alpha: f64,
    beta: f64,
}

impl Default for Tversky {
    fn default() -> Self {
        Self { region: Region::default(), alpha: 0.3, beta: 0.7 }
    }
}

region_builder! {
    TverskyBuilder of Tversky;
    /// What a false positive costs; default 0.3.
    fn alpha(loss, alpha: f64) { loss.alpha = alpha }
    /// What a false negative costs; default 0.7.
    fn beta(loss, beta: f64) { loss.beta = beta }
    build(loss), errors "If a cost or the smoothing is negative, or both costs are 0." {
        loss.region.check()?;
        check_costs(loss.alpha, loss.beta)?;
    }
}

fn check_costs(alpha: f64, beta: f64) -> Result<()> {
    number("alpha", "a number that is not negative", alpha, alpha >= 0.0)?;
    number("beta", "a number that is not negative", beta, beta >= 0.0)?;
    number("alpha + beta", "more than 0", alpha + beta, alpha + beta > 0.0)
}

impl Loss for Tversky {
    fn forward(&self, logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
        let Self { region, alpha, beta } = *self;
        let overlap = region.overlap(logits, targets)?;
        region.mean(&region.tversky(&overlap, alpha, beta)?, &overlap, loss_dtype(logits))
    }

    fn mean_of(&self, logits: &Tensor, targets: &Tensor) -> Result<MeanOf> {
        self.region.mean_of(logits, targets)
    }

    fn whole(&self) -> Option<String> {
        self.region.over.whole()
    }
}

/// Focal Tversky loss with α = 0.3, β = 0.7 and γ = 0.75; see [`FocalTversky`].
///
/// # Errors
/// As [`dice`](crate::losses::dice()).
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let logits = Tensor::new(&[[[1e4f64, -1e4, -1e4]]], &Device::Cpu)?;
/// let targets = Tensor::new(&[[[1f64, 1., 0.]]], &Device::Cpu)?;
/// let loss = focal_tversky(&logits, &targets)?.to_scalar::<f64>()?;
/// assert!((loss - (0.7f64 / 2.7).powf(0.75)).abs() < 1e-15);
/// # Ok::<(), candle_course::Error>(())
/// ```
pub fn focal_tversky(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    FocalTversky::default().forward(logits, targets)
}

/// Focal Tversky loss, the mean over classes of (1 − Tversky index)^γ.
///
/// With γ < 1 (the paper writes 1/γ with γ = 4/3, so ¾ here) the gradient grows as a class gets
/// nearly right: hard, small regions keep being worked on. A class that is exactly right has a
/// gradient of 0. Inputs as [`dice`](crate::losses::dice()), costs as [`Tversky`]. (Abraham and Khan, "A novel focal
/// Tversky loss function", 2019.)
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let loss = FocalTversky::builder().gamma(0.5).smooth(0.0).build()?;
/// let logits = Tensor::zeros((2, 1, 4, 4), DType::F32, &Device::Cpu)?;
/// let mask = Tensor::ones((2, 1, 4, 4), DType::F32, &Device::Cpu)?;
/// println!("{}", loss.forward(&logits, &mask)?.to_scalar::<f32>()?);
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FocalTversky {
    region: Region,
    alpha: f64,
    beta: f64,
    gamma: f64,
}

impl Default for FocalTversky {
    fn default() -> Self {
        Self { region: Region::default(), alpha: 0.3, beta: 0.7, gamma: 0.75 }
    }
}

region_builder! {
    FocalTverskyBuilder of FocalTversky;
    /// What a false positive costs; default 0.3.
    fn alpha(loss, alpha: f64) { loss.alpha = alpha }
    /// What a false negative costs; default 0.7.
    fn beta(loss, beta: f64) { loss.beta = beta }
    /// The exponent; default 0.75.
    fn gamma(loss, gamma: f64) { loss.gamma = gamma }
    build(loss), errors "If a cost or the smoothing is negative, both costs are 0, or γ is not positive." {
        loss.region.check()?;
        check_costs(loss.alpha, loss.beta)?;
        number("gamma", "a positive number", loss.gamma, loss.gamma > 0.0)?;
    }
}

impl Loss for FocalTversky {
    fn forward(&self, logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
        let Self { region, alpha, beta, gamma } = *self;
        let overlap = region.overlap(logits, targets)?;
        let losses = pointwise(&region.tversky(&overlap, alpha, beta)?, Pointwise::Power { exponent: gamma })?;
        region.mean(&losses, &overlap, loss_dtype(logits))
    }

    fn mean_of(&self, logits: &Tensor, targets: &Tensor) -> Result<MeanOf> {
        self.region.mean_of(logits, targets)
    }

    fn whole(&self) -> Option<String> {
        self.region.over.whole()
    }
}
