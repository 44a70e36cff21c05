//! A factor that is constant, or moves on a straight line, for a while.

use crate::error::{Error, Result};
use crate::schedules::{Schedule, at_least_one, rate};
use crate::setters::setters;

/// η · factor for the first steps, then η, as `torch.optim.lr_scheduler.ConstantLR`.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let schedule = ConstantLR::builder(0.1, 2).factor(0.5).build()?;
/// assert_eq!(schedule.learning_rates(3), [0.05, 0.05, 0.1]);
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct ConstantLR {
    base: f64,
    total: usize,
    factor: f64,
}

/// Configures [`ConstantLR`].
#[derive(Debug, Clone)]
pub struct ConstantLRBuilder(ConstantLR);

impl ConstantLR {
    /// A third of `learning_rate` for `total_steps`, then all of it.
    ///
    /// # Errors
    /// If the rate is negative.
    pub fn new(learning_rate: f64, total_steps: usize) -> Result<Self> {
        Self::builder(learning_rate, total_steps).build()
    }

    /// A part of `learning_rate` for `total_steps` (a third unless told otherwise).
    pub fn builder(learning_rate: f64, total_steps: usize) -> ConstantLRBuilder {
        ConstantLRBuilder(Self { base: learning_rate, total: total_steps, factor: 1.0 / 3.0 })
    }
}

impl ConstantLRBuilder {
    /// The factor at first.
    #[must_use]
    pub fn factor(mut self, factor: f64) -> Self {
        self.0.factor = factor;
        self
    }

    /// The schedule.
    ///
    /// # Errors
    /// If the rate is negative or the factor not in `[0, 1]`.
    pub fn build(self) -> Result<ConstantLR> {
        rate("learning_rate", self.0.base)?;
        share("factor", self.0.factor)?;
        Ok(self.0)
    }
}

impl Schedule for ConstantLR {
    fn learning_rate(&self, step: usize) -> f64 {
        if step < self.total { self.base * self.factor } else { self.base }
    }
}

/// From η · start to η · end on a straight line, as `torch.optim.lr_scheduler.LinearLR`.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let schedule = LinearLR::builder(0.1, 2).start_factor(0.5).build()?;
/// assert_eq!(schedule.learning_rates(4), [0.05, 0.1 * 0.75, 0.1, 0.1]);
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct LinearLR {
    base: f64,
    total: usize,
    start: f64,
    end: f64,
}

/// Configures [`LinearLR`].
#[derive(Debug, Clone)]
pub struct LinearLRBuilder(LinearLR);

impl LinearLR {
    /// From a third of `learning_rate` to the whole in `total_steps`.
    ///
    /// # Errors
    /// If the rate is negative, or there are no steps.
    pub fn new(learning_rate: f64, total_steps: usize) -> Result<Self> {
        Self::builder(learning_rate, total_steps).build()
    }

    /// From a third of `learning_rate` to the whole in `total_steps`, unless told otherwise.
    pub fn builder(learning_rate: f64, total_steps: usize) -> LinearLRBuilder {
        LinearLRBuilder(Self { base: learning_rate, total: total_steps, start: 1.0 / 3.0, end: 1.0 })
    }
}

impl LinearLRBuilder {
    setters! {
        /// The factor at step 0.
        start_factor(factor: f64) => 0.start = factor;
        /// The factor from the last step on.
        end_factor(factor: f64) => 0.end = factor;
    }

    /// The schedule.
    ///
    /// # Errors
    /// If the rate is negative, there are no steps, or a factor is not in `[0, 1]`.
    pub fn build(self) -> Result<LinearLR> {
        rate("learning_rate", self.0.base)?;
        at_least_one("total_steps", self.0.total)?;
        share("start_factor", self.0.start)?;
        share("end_factor", self.0.end)?;
        Ok(self.0)
    }
}

impl Schedule for LinearLR {
    fn learning_rate(&self, step: usize) -> f64 {
        let progress = step.min(self.total) as f64 / self.total as f64;
        self.base * (self.start + (self.end - self.start) * progress)
    }
}

fn share(name: &str, value: f64) -> Result<()> {
    if (0.0..=1.0).contains(&value) { Ok(()) } else { Err(Error::argument(name, "a number in [0, 1]", value)) }
}
