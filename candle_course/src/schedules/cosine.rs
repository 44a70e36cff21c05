//! Half a cosine down, once or again and again.

use std::f64::consts::PI;

use crate::error::{Error, Result};
use crate::schedules::{Schedule, at_least_one, rate};
use crate::setters::setters;

/// η_min + (η − η_min)(1 + cos(π t / T)) / 2, as `torch.optim.lr_scheduler.CosineAnnealingLR`.
///
/// After T the cosine rises again, as in PyTorch: choose T as the number of steps. Loshchilov &
/// Hutter 2017, "SGDR: Stochastic Gradient Descent with Warm Restarts".
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let schedule = CosineAnnealingLR::builder(0.1, 100).eta_min(0.001).build()?;
/// assert_eq!(schedule.learning_rate(0), 0.1);
/// assert!((schedule.learning_rate(50) - 0.0505).abs() < 1e-12);
/// assert!((schedule.learning_rate(100) - 0.001).abs() < 1e-12);
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct CosineAnnealingLR {
    base: f64,
    t_max: usize,
    eta_min: f64,
}

/// Configures [`CosineAnnealingLR`].
#[derive(Debug, Clone)]
pub struct CosineAnnealingLRBuilder(CosineAnnealingLR);

impl CosineAnnealingLR {
    /// From `learning_rate` down to 0 in `t_max` steps.
    ///
    /// # Errors
    /// If the rate is negative, or there are no steps.
    pub fn new(learning_rate: f64, t_max: usize) -> Result<Self> {
        Self::builder(learning_rate, t_max).build()
    }

    /// From `learning_rate` down in `t_max` steps (to 0 unless told otherwise).
    pub fn builder(learning_rate: f64, t_max: usize) -> CosineAnnealingLRBuilder {
        CosineAnnealingLRBuilder(Self { base: learning_rate, t_max, eta_min: 0.0 })
    }
}

impl CosineAnnealingLRBuilder {
    /// The lowest rate, η_min.
    #[must_use]
    pub fn eta_min(mut self, eta_min: f64) -> Self {
        self.0.eta_min = eta_min;
        self
    }

    /// The schedule.
    ///
    /// # Errors
    /// If a rate is negative, η_min is above the rate, or there are no steps.
    pub fn build(self) -> Result<CosineAnnealingLR> {
        validate(self.0.base, self.0.eta_min)?;
        at_least_one("t_max", self.0.t_max)?;
        Ok(self.0)
    }
}

impl Schedule for CosineAnnealingLR {
    fn learning_rate(&self, step: usize) -> f64 {
        // The angle is reduced before the cosine, which would lose digits after many periods.
        let step = self.t_max.checked_mul(2).map_or(step, |period| step % period);
        half_cosine(self.base, self.eta_min, step, self.t_max)
    }
}

/// A cosine that starts anew, each time longer, as
/// `torch.optim.lr_scheduler.CosineAnnealingWarmRestarts`.
///
/// The i-th cycle has T₀ · T_multⁱ steps; within one, the rate falls as in [`CosineAnnealingLR`]. Loshchilov & Hutter 2017, "SGDR".
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let schedule = CosineAnnealingWarmRestarts::builder(0.1, 10).t_mult(2).build()?;
/// for restart in [0, 10, 30, 70] {
///     assert_eq!(schedule.learning_rate(restart), 0.1);
/// }
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct CosineAnnealingWarmRestarts {
    base: f64,
    t_0: usize,
    t_mult: usize,
    eta_min: f64,
}

/// Configures [`CosineAnnealingWarmRestarts`].
#[derive(Debug, Clone)]
pub struct CosineAnnealingWarmRestartsBuilder(CosineAnnealingWarmRestarts);

impl CosineAnnealingWarmRestarts {
    /// From `learning_rate` down to 0, again and again in `t_0` steps.
    ///
    /// # Errors
    /// If the rate is negative, or `t_0` is 0.
    pub fn new(learning_rate: f64, t_0: usize) -> Result<Self> {
        Self::builder(learning_rate, t_0).build()
    }

    /// From `learning_rate`, with a first cycle of `t_0` steps and all others alike, unless told
    /// otherwise.
    pub fn builder(learning_rate: f64, t_0: usize) -> CosineAnnealingWarmRestartsBuilder {
        CosineAnnealingWarmRestartsBuilder(Self { base: learning_rate, t_0, t_mult: 1, eta_min: 0.0 })
    }
}

impl CosineAnnealingWarmRestartsBuilder {
    setters! {
        /// How many times longer each cycle is than the one before.
        t_mult(t_mult: usize) => 0.t_mult = t_mult;
        /// The lowest rate, η_min.
        eta_min(eta_min: f64) => 0.eta_min = eta_min;
    }

    /// The schedule.
    ///
    /// # Errors
    /// If a rate is negative, η_min is above the rate, or `t_0` or `t_mult` is 0.
    pub fn build(self) -> Result<CosineAnnealingWarmRestarts> {
        validate(self.0.base, self.0.eta_min)?;
        at_least_one("t_0", self.0.t_0)?;
        at_least_one("t_mult", self.0.t_mult)?;
        Ok(self.0)
    }
}

impl Schedule for CosineAnnealingWarmRestarts {
    fn learning_rate(&self, step: usize) -> f64 {
        let (mut step, mut length) = (step, self.t_0);
        if self.t_mult == 1 {
            step %= length;
        }
        while step >= length {
            step -= length;
            length = length.saturating_mul(self.t_mult);
        }
        half_cosine(self.base, self.eta_min, step, length)
    }
}

fn half_cosine(base: f64, eta_min: f64, step: usize, length: usize) -> f64 {
    eta_min + (base - eta_min) * (1.0 + (PI * step as f64 / length as f64).cos()) / 2.0
}

fn validate(base: f64, eta_min: f64) -> Result<()> {
    rate("learning_rate", base)?;
    rate("eta_min", eta_min)?;
    if eta_min > base {
        return Err(Error::argument("eta_min", format!("at most the learning rate, {base}"), eta_min));
    }
    Ok(())
}
