//! Schedules made of schedules, and of functions.

use std::fmt;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::schedules::{Schedule, rate};

/// One schedule after the other, each counting from 0, as `torch.optim.lr_scheduler.SequentialLR`.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let schedule = SequentialLR::builder(Constant(0.01)).then(10, ExponentialLR::new(0.1, 0.5)?).build()?;
/// assert_eq!(schedule.learning_rate(9), 0.01);
/// assert_eq!(schedule.learning_rate(10), 0.1);
/// assert_eq!(schedule.learning_rate(11), 0.05);
/// # Ok::<(), candle_course::Error>(())
/// ```
pub struct SequentialLR {
    parts: Vec<(usize, Box<dyn Schedule>)>,
}

/// Configures [`SequentialLR`].
pub struct SequentialLRBuilder(SequentialLR);

impl SequentialLR {
    /// Begins with `schedule`.
    pub fn builder(schedule: impl Schedule + 'static) -> SequentialLRBuilder {
        SequentialLRBuilder(Self { parts: vec![(0, Box::new(schedule))] })
    }

    fn part(&self, step: usize) -> (usize, &dyn Schedule) {
        let index = self.parts.partition_point(|(milestone, _)| *milestone <= step) - 1;
        let (milestone, schedule) = &self.parts[index];
        (step - milestone, schedule.as_ref())
    }
}

impl SequentialLRBuilder {
    /// From step `milestone` on, `schedule`.
    #[must_use]
    pub fn then(mut self, milestone: usize, schedule: impl Schedule + 'static) -> Self {
        self.0.parts.push((milestone, Box::new(schedule)));
        self
    }

    /// The schedule.
    ///
    /// # Errors
    /// If the milestones do not increase.
    pub fn build(self) -> Result<SequentialLR> {
        let milestones: Vec<usize> = self.0.parts.iter().map(|(milestone, _)| *milestone).collect();
        if milestones.windows(2).any(|pair| pair[0] >= pair[1]) {
            return Err(Error::argument("milestone", "increasing steps ≥ 1", format!("{:?}", &milestones[1..])));
        }
        Ok(self.0)
    }
}

impl Schedule for SequentialLR {
    fn learning_rate(&self, step: usize) -> f64 {
        let (step, schedule) = self.part(step);
        schedule.learning_rate(step)
    }

    fn momentum(&self, step: usize) -> Option<f64> {
        let (step, schedule) = self.part(step);
        schedule.momentum(step)
    }
}

/// A base rate times the factors of several schedules, as
/// `torch.optim.lr_scheduler.ChainedScheduler`.
///
/// Each part is built with base rate 1, so that it gives a factor.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let schedule = ChainedScheduler::builder(0.1)
///     .times(ConstantLR::builder(1.0, 2).factor(0.1).build()?)
///     .times(ExponentialLR::new(1.0, 0.9)?)
///     .build()?;
/// assert!((schedule.learning_rate(1) - 0.1 * 0.1 * 0.9).abs() < 1e-15);
/// assert!((schedule.learning_rate(2) - 0.1 * 0.81).abs() < 1e-15);
/// # Ok::<(), candle_course::Error>(())
/// ```
pub struct ChainedScheduler {
    base: f64,
    factors: Vec<Box<dyn Schedule>>,
}

/// Configures [`ChainedScheduler`].
pub struct ChainedSchedulerBuilder(ChainedScheduler);

impl ChainedScheduler {
    /// `learning_rate`, to be multiplied.
    pub fn builder(learning_rate: f64) -> ChainedSchedulerBuilder {
        ChainedSchedulerBuilder(Self { base: learning_rate, factors: Vec::new() })
    }
}

impl ChainedSchedulerBuilder {
    /// Multiplies by `schedule`.
    #[must_use]
    pub fn times(mut self, schedule: impl Schedule + 'static) -> Self {
        self.0.factors.push(Box::new(schedule));
        self
    }

    /// The schedule.
    ///
    /// # Errors
    /// If the rate is negative, or there is nothing to multiply by.
    pub fn build(self) -> Result<ChainedScheduler> {
        rate("learning_rate", self.0.base)?;
        if self.0.factors.is_empty() {
            return Err(Error::argument("times", "at least one schedule", 0));
        }
        Ok(self.0)
    }
}

impl Schedule for ChainedScheduler {
    fn learning_rate(&self, step: usize) -> f64 {
        self.factors.iter().fold(self.base, |rate, factor| rate * factor.learning_rate(step))
    }
}

/// η · f(t), as `torch.optim.lr_scheduler.LambdaLR`.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let schedule = LambdaLR::new(0.1, |step| 1.0 / (1.0 + step as f64))?;
/// assert_eq!(schedule.learning_rate(1), 0.05);
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Clone)]
pub struct LambdaLR {
    base: f64,
    factor: Arc<dyn Fn(usize) -> f64 + Send + Sync>,
}

impl LambdaLR {
    /// `learning_rate` times `factor(step)`.
    ///
    /// # Errors
    /// If the rate is negative.
    pub fn new(learning_rate: f64, factor: impl Fn(usize) -> f64 + Send + Sync + 'static) -> Result<Self> {
        rate("learning_rate", learning_rate)?;
        Ok(Self { base: learning_rate, factor: Arc::new(factor) })
    }
}

impl fmt::Debug for LambdaLR {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LambdaLR").field("base", &self.base).finish_non_exhaustive()
    }
}

impl Schedule for LambdaLR {
    fn learning_rate(&self, step: usize) -> f64 {
        self.base * (self.factor)(step)
    }
}
