//! Rates that fall by steps.

use crate::error::{Error, Result};
use crate::schedules::{Schedule, at_least_one, positive, rate};

/// η γ^⌊t / s⌋: multiplied by γ every s steps, as `torch.optim.lr_scheduler.StepLR`.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let schedule = StepLR::builder(0.1, 2).gamma(0.5).build()?;
/// assert_eq!(schedule.learning_rates(5), [0.1, 0.1, 0.05, 0.05, 0.025]);
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct StepLR {
    base: f64,
    step_size: usize,
    gamma: f64,
}

/// Configures [`StepLR`].
#[derive(Debug, Clone)]
pub struct StepLRBuilder(StepLR);

impl StepLR {
    /// From `learning_rate`, to a tenth every `step_size` steps.
    ///
    /// # Errors
    /// If the rate is negative or the step size 0.
    pub fn new(learning_rate: f64, step_size: usize) -> Result<Self> {
        Self::builder(learning_rate, step_size).build()
    }

    /// From `learning_rate`, down every `step_size` steps (γ = 0.1 unless told otherwise).
    pub fn builder(learning_rate: f64, step_size: usize) -> StepLRBuilder {
        StepLRBuilder(Self { base: learning_rate, step_size, gamma: 0.1 })
    }
}

impl StepLRBuilder {
    /// The factor γ.
    #[must_use]
    pub fn gamma(mut self, gamma: f64) -> Self {
        self.0.gamma = gamma;
        self
    }

    /// The schedule.
    ///
    /// # Errors
    /// If the rate is negative, the step size 0 or γ not positive.
    pub fn build(self) -> Result<StepLR> {
        rate("learning_rate", self.0.base)?;
        at_least_one("step_size", self.0.step_size)?;
        positive("gamma", self.0.gamma)?;
        Ok(self.0)
    }
}

impl Schedule for StepLR {
    fn learning_rate(&self, step: usize) -> f64 {
        self.base * self.gamma.powf((step / self.step_size) as f64)
    }
}

/// η γ^(number of milestones passed), as `torch.optim.lr_scheduler.MultiStepLR`.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let schedule = MultiStepLR::builder(0.1, [1, 3]).gamma(0.5).build()?;
/// assert_eq!(schedule.learning_rates(5), [0.1, 0.05, 0.05, 0.025, 0.025]);
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct MultiStepLR {
    base: f64,
    milestones: Vec<usize>,
    gamma: f64,
}

/// Configures [`MultiStepLR`].
#[derive(Debug, Clone)]
pub struct MultiStepLRBuilder(MultiStepLR);

impl MultiStepLR {
    /// From `learning_rate`, to a tenth at each of `milestones`.
    ///
    /// # Errors
    /// If the rate is negative, or the milestones are empty or do not increase.
    pub fn new(learning_rate: f64, milestones: impl Into<Vec<usize>>) -> Result<Self> {
        Self::builder(learning_rate, milestones).build()
    }

    /// From `learning_rate`, down at each of `milestones` (γ = 0.1 unless told otherwise).
    pub fn builder(learning_rate: f64, milestones: impl Into<Vec<usize>>) -> MultiStepLRBuilder {
        MultiStepLRBuilder(Self { base: learning_rate, milestones: milestones.into(), gamma: 0.1 })
    }
}

impl MultiStepLRBuilder {
    /// The factor γ.
    #[must_use]
    pub fn gamma(mut self, gamma: f64) -> Self {
        self.0.gamma = gamma;
        self
    }

    /// The schedule.
    ///
    /// # Errors
    /// If the rate is negative, the milestones are empty or do not increase, or γ is not positive.
    pub fn build(self) -> Result<MultiStepLR> {
        rate("learning_rate", self.0.base)?;
        positive("gamma", self.0.gamma)?;
        if self.0.milestones.is_empty() || self.0.milestones.windows(2).any(|pair| pair[0] >= pair[1]) {
            return Err(Error::argument("milestones", "increasing steps", format!("{:?}", self.0.milestones)));
        }
        Ok(self.0)
    }
}

impl Schedule for MultiStepLR {
    fn learning_rate(&self, step: usize) -> f64 {
        let passed = self.milestones.partition_point(|&milestone| milestone <= step);
        self.base * self.gamma.powf(passed as f64)
    }
}
