//! Learning rates as functions of the step.
//!
//! A schedule is a pure function: it can be plotted before the training, composed with others, and
//! resumed by knowing the step alone. What a "step" is, a batch or an epoch, is the caller's
//! choice; [`OneCycleLR`], [`CyclicLR`] and warm-ups want batches. Only [`ReduceLROnPlateau`] has
//! a state, because it follows a metric.
//!
//! | schedule | learning rate at step t, base η |
//! | --- | --- |
//! | [`Constant`] | η |
//! | [`ConstantLR`] | η · factor for t < total, then η |
//! | [`LinearLR`] | from η · start to η · end in total steps |
//! | [`StepLR`] | η γ^⌊t / s⌋ |
//! | [`MultiStepLR`] | η γ^(milestones passed) |
//! | [`ExponentialLR`] | η γᵗ |
//! | [`PolynomialLR`] | η (1 − t / T)ᵖ |
//! | [`CosineAnnealingLR`] | half a cosine from η to η_min |
//! | [`CosineAnnealingWarmRestarts`] | the same, again and again |
//! | [`OneCycleLR`] | up, down, and far down, once |
//! | [`CyclicLR`] | up and down |
//! | [`LambdaLR`] | η · f(t) |
//! | [`WarmUp`] | a rise before any schedule, meeting it without a jump |
//! | [`SequentialLR`], [`ChainedScheduler`] | one after the other; one times the other |
//! | [`ReduceLROnPlateau`] | lowered when a metric stops improving |
//!
//! Names and values are those of `torch.optim.lr_scheduler`.

use std::collections::BTreeMap;

use candle_core::Tensor;

use crate::direction::Direction;
use crate::error::{Error, Result};
use crate::plot::{Figure, LineChart, Panels};

mod compose;
mod cosine;
mod cyclic;
mod exponential;
mod linear;
mod one_cycle;
mod plateau;
mod range_test;
mod step;
mod warm_up;

pub use compose::{ChainedScheduler, ChainedSchedulerBuilder, LambdaLR, SequentialLR, SequentialLRBuilder};
pub use cosine::{
    CosineAnnealingLR, CosineAnnealingLRBuilder, CosineAnnealingWarmRestarts, CosineAnnealingWarmRestartsBuilder,
};
pub use cyclic::{CyclicLR, CyclicLRBuilder, CyclicMode};
pub use exponential::{ExponentialLR, PolynomialLR, PolynomialLRBuilder};
pub use linear::{ConstantLR, ConstantLRBuilder, LinearLR, LinearLRBuilder};
pub use one_cycle::{Anneal, OneCycleLR, OneCycleLRBuilder};
pub use plateau::{ReduceLROnPlateau, ReduceLROnPlateauBuilder, ThresholdMode};
pub use range_test::{LearningRateRangeTest, LearningRateRangeTestBuilder, RangeTestCurve};
pub use step::{MultiStepLR, MultiStepLRBuilder, StepLR, StepLRBuilder};
pub use warm_up::{WarmUp, WarmUpBuilder};

/// A learning rate for every step: pure, so that it can be plotted, resumed and composed.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let schedule = StepLR::builder(0.1, 30).gamma(0.1).build()?;
/// assert_eq!(schedule.learning_rate(29), 0.1);
/// assert!((schedule.learning_rate(30) - 0.01).abs() < 1e-12);
/// # Ok::<(), candle_course::Error>(())
/// ```
pub trait Schedule: Send + Sync {
    /// The learning rate at `step` (0 is the first step).
    fn learning_rate(&self, step: usize) -> f64;

    /// The momentum at `step`, if the schedule cycles it: to be handed to
    /// [`Optimizer::set_momentum`](crate::optimizers::Optimizer::set_momentum).
    fn momentum(&self, _step: usize) -> Option<f64> {
        None
    }

    /// Takes in the metric of an epoch. Only [`ReduceLROnPlateau`], alone or behind a [`WarmUp`],
    /// makes use of it.
    ///
    /// # Errors
    /// If the metric is NaN.
    fn observe(&mut self, _metric: f64) -> Result<()> {
        Ok(())
    }

    /// Which way the metric it follows is better; `None` if it follows none.
    fn follows(&self) -> Option<Direction> {
        None
    }

    /// What a checkpoint must hold to resume: nothing, for a function of the step.
    ///
    /// # Errors
    /// If a tensor cannot be made.
    fn state(&self) -> Result<BTreeMap<String, Tensor>> {
        Ok(BTreeMap::new())
    }

    /// Restores [`Schedule::state`]. Nothing changes if it does not fit.
    ///
    /// # Errors
    /// If the state is of another schedule.
    fn load_state(&mut self, state: &BTreeMap<String, Tensor>) -> Result<()> {
        if state.is_empty() {
            return Ok(());
        }
        let names: Vec<_> = state.keys().cloned().collect();
        Err(Error::checkpoint(format!(
            "the checkpoint holds a schedule's state ({}), but this schedule has none",
            names.join(", ")
        ))
        .hint("was it saved with ReduceLROnPlateau?"))
    }

    /// The learning rates of steps `0..steps`.
    fn learning_rates(&self, steps: usize) -> Vec<f64> {
        (0..steps).map(|step| self.learning_rate(step)).collect()
    }

    /// A figure of steps `0..steps`; the momentum beneath, if the schedule cycles it.
    ///
    /// # Errors
    /// If there are no steps.
    fn plot(&self, steps: usize) -> Result<Figure> {
        if steps == 0 {
            return Err(Error::argument("steps", "at least 1", 0));
        }
        let chart = |title: &str, what: &str, values: &[f64]| {
            LineChart::builder(title).x_label("step").y_label(what).first_x(0.0).line(what, values).build()
        };
        let rates = chart("Learning rate", "learning rate", &self.learning_rates(steps))?;
        let momenta: Option<Vec<f64>> = (0..steps).map(|step| self.momentum(step)).collect();
        match momenta {
            None => Ok(rates),
            Some(momenta) => Panels::builder(1).add(rates).add(chart("Momentum", "momentum", &momenta)?).build(),
        }
    }
}

impl<S: Schedule + ?Sized> Schedule for Box<S> {
    fn learning_rate(&self, step: usize) -> f64 {
        (**self).learning_rate(step)
    }
    fn momentum(&self, step: usize) -> Option<f64> {
        (**self).momentum(step)
    }
    fn observe(&mut self, metric: f64) -> Result<()> {
        (**self).observe(metric)
    }
    fn follows(&self) -> Option<Direction> {
        (**self).follows()
    }
    fn state(&self) -> Result<BTreeMap<String, Tensor>> {
        (**self).state()
    }
    fn load_state(&mut self, state: &BTreeMap<String, Tensor>) -> Result<()> {
        (**self).load_state(state)
    }
}

/// The same rate at every step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Constant(pub f64);

impl Schedule for Constant {
    fn learning_rate(&self, _step: usize) -> f64 {
        self.0
    }
}

/// Refuses what cannot be a learning rate.
fn rate(name: &str, value: f64) -> Result<()> {
    if value.is_finite() && value >= 0.0 { Ok(()) } else { Err(Error::argument(name, "a finite number ≥ 0", value)) }
}

/// Refuses a factor that would make the rate zero, negative or infinite.
fn positive(name: &str, value: f64) -> Result<()> {
    if value.is_finite() && value > 0.0 { Ok(()) } else { Err(Error::argument(name, "a finite number > 0", value)) }
}

fn at_least_one(name: &str, value: usize) -> Result<()> {
    if value >= 1 { Ok(()) } else { Err(Error::argument(name, "at least 1", value)) }
}

#[cfg(test)]
mod oracle_tests;
