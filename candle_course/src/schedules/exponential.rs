//! Rates that fall smoothly to zero.

use crate::error::Result;
use crate::schedules::{Schedule, at_least_one, positive, rate};

/// η γᵗ, as `torch.optim.lr_scheduler.ExponentialLR`.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// assert_eq!(ExponentialLR::new(0.1, 0.5)?.learning_rates(3), [0.1, 0.05, 0.025]);
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ExponentialLR {
    base: f64,
    gamma: f64,
}

impl ExponentialLR {
    /// From `learning_rate`, times `gamma` at every step.
    ///
    /// # Errors
    /// If the rate is negative or γ not positive.
    pub fn new(learning_rate: f64, gamma: f64) -> Result<Self> {
        rate("learning_rate", learning_rate)?;
        positive("gamma", gamma)?;
        Ok(Self { base: learning_rate, gamma })
    }
}

impl Schedule for ExponentialLR {
    fn learning_rate(&self, step: usize) -> f64 {
        self.base * self.gamma.powf(step as f64)
    }
}

/// η (1 − t / T)ᵖ until T, then 0, as `torch.optim.lr_scheduler.PolynomialLR`.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let schedule = PolynomialLR::builder(0.1, 4).power(1.0).build()?;
/// assert_eq!(schedule.learning_rates(6), [0.1, 0.1 * 0.75, 0.05, 0.025, 0.0, 0.0]);
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct PolynomialLR {
    base: f64,
    total: usize,
    power: f64,
}

/// Configures [`PolynomialLR`].
#[derive(Debug, Clone)]
pub struct PolynomialLRBuilder(PolynomialLR);

impl PolynomialLR {
    /// From `learning_rate` to 0 in `total_steps`, on a straight line.
    ///
    /// # Errors
    /// If the rate is negative, or there are no steps.
    pub fn new(learning_rate: f64, total_steps: usize) -> Result<Self> {
        Self::builder(learning_rate, total_steps).build()
    }

    /// From `learning_rate` to 0 in `total_steps` (p = 1 unless told otherwise).
    pub fn builder(learning_rate: f64, total_steps: usize) -> PolynomialLRBuilder {
        PolynomialLRBuilder(Self { base: learning_rate, total: total_steps, power: 1.0 })
    }
}

impl PolynomialLRBuilder {
    /// The power p.
    #[must_use]
    pub fn power(mut self, power: f64) -> Self {
        self.0.power = power;
        self
    }

    /// The schedule.
    ///
    /// # Errors
    /// If the rate is negative, there are no steps or p is not positive.
    pub fn build(self) -> Result<PolynomialLR> {
        rate("learning_rate", self.0.base)?;
        at_least_one("total_steps", self.0.total)?;
        positive("power", self.0.power)?;
        Ok(self.0)
    }
}

impl Schedule for PolynomialLR {
    fn learning_rate(&self, step: usize) -> f64 {
        self.base * (1.0 - step.min(self.total) as f64 / self.total as f64).powf(self.power)
    }
}
