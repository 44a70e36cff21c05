//! Learning rates as functions of the step.
//!
//! A [`Schedule`] is a pure function: it can be plotted before the training, composed with others,
//! and resumed by knowing the step alone. What a "step" is, a batch or an epoch, is the caller's
//! choice; [`OneCycleLR`], [`CyclicLR`] and warm-ups want batches. [`ReduceLROnPlateau`] follows a
//! metric and so has a state: it is [`Adaptive`], and so is what it is a part of.
//!
//! | schedule | learning rate at step t, base η |
//! | --- | --- |
//! | a number | η |
//! | a function `\|step: usize\| …` | f(t) |
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
//! | [`WarmUp`] | a rise before any schedule, meeting it without a jump |
//! | [`SequentialLR`], [`ChainedScheduler`] | one after the other; one times the other |
//! | [`ReduceLROnPlateau`] | lowered when a metric stops improving |
//!
//! Names and values are those of `torch.optim.lr_scheduler`.

use crate::direction::Direction;
use crate::error::{Error, Result};
use crate::stateful::{self, State, Stateful};

mod compose;
mod cosine;
mod cyclic;
mod display;
mod exponential;
mod linear;
mod one_cycle;
mod plateau;
mod step;
mod warm_up;

pub use compose::{ChainedScheduler, ChainedSchedulerBuilder, SequentialLR, SequentialLRBuilder};
pub use cosine::{
    CosineAnnealingLR, CosineAnnealingLRBuilder, CosineAnnealingWarmRestarts, CosineAnnealingWarmRestartsBuilder,
};
pub use cyclic::{CyclicLR, CyclicLRBuilder, CyclicMode};
pub use display::PlotSchedule;
pub use exponential::{ExponentialLR, PolynomialLR, PolynomialLRBuilder};
pub use linear::{ConstantLR, ConstantLRBuilder, LinearLR, LinearLRBuilder};
pub use one_cycle::{Anneal, OneCycleLR, OneCycleLRBuilder};
pub use plateau::{ReduceLROnPlateau, ReduceLROnPlateauBuilder, ThresholdMode};
pub use step::{MultiStepLR, MultiStepLRBuilder, StepLR, StepLRBuilder};
pub use warm_up::{WarmUp, WarmUpBuilder};

/// A learning rate for every step: a pure function, so that it can be plotted, resumed and composed.
///
/// A number is a schedule, and so is a function of the step: `0.1`, or
/// `|step: usize| 0.1 / (1.0 + step as f64)`.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let schedule = StepLR::builder(0.1, 30).gamma(0.5).build()?;
/// assert_eq!(schedule.learning_rate(29), 0.1);
/// assert_eq!(schedule.learning_rate(30), 0.05);
/// // PyTorch's LambdaLR: a function.
/// let inverse = |step: usize| 0.1 / (1.0 + step as f64);
/// let schedule = SequentialLR::builder(0.1).then(10, inverse).build()?;
/// assert_eq!(schedule.learning_rates(12)[9..], [0.1, 0.1, 0.05]);
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

    /// The learning rates of steps `0..steps`.
    fn learning_rates(&self, steps: usize) -> Vec<f64> {
        (0..steps).map(|step| self.learning_rate(step)).collect()
    }

    /// The schedule as one that observes a value; `None` for a function of the step alone.
    fn as_adaptive(&self) -> Option<&dyn Adaptive> {
        None
    }

    /// As [`Schedule::as_adaptive`], to observe.
    fn as_adaptive_mut(&mut self) -> Option<&mut dyn Adaptive> {
        None
    }
}

/// A schedule that also follows a value, a validation loss say: for the steps to come it is a
/// function of the step and of what it has observed, which is its state.
///
/// A sequence, a chain or a warm-up with such a part is adaptive too: it hands on what it observes,
/// and its state is that of its parts. Whoever implements this says so in
/// [`Schedule::as_adaptive`] and [`Schedule::as_adaptive_mut`], with `Some(self)`.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let plateau = ReduceLROnPlateau::builder(0.1).factor(0.5).patience(0).build()?;
/// let mut schedule = SequentialLR::builder(0.01).then(2, plateau).build()?;
/// for (epoch, loss) in [1.0, 1.0, 1.0, 1.0].into_iter().enumerate() {
///     schedule.observe(epoch, loss)?; // from epoch 2 on, to the plateau
/// }
/// assert_eq!(schedule.learning_rate(4), 0.05);
/// # Ok::<(), candle_course::Error>(())
/// ```
pub trait Adaptive: Schedule + Stateful {
    /// Takes in the value that was found after `step`, the last step made.
    ///
    /// # Errors
    /// If the value is NaN.
    fn observe(&mut self, step: usize, value: f64) -> Result<()>;

    /// Which way the value is better.
    fn follows(&self) -> Option<Direction>;
}

impl dyn Schedule + '_ {
    /// Hands `value`, found after `step`, to what observes in this schedule, if anything does.
    ///
    /// # Errors
    /// If the value is NaN, and something observes it.
    pub fn observe(&mut self, step: usize, value: f64) -> Result<()> {
        self.as_adaptive_mut().map_or(Ok(()), |adaptive| adaptive.observe(step, value))
    }

    /// Which way the value is better that this schedule follows; `None` if it follows none.
    pub fn follows(&self) -> Option<Direction> {
        self.as_adaptive().and_then(|adaptive| adaptive.follows())
    }
}

/// The state of what observes; nothing, for a function of the step.
impl Stateful for dyn Schedule + '_ {
    fn state(&self) -> Result<State> {
        self.as_adaptive().map_or(Ok(State::new()), |adaptive| adaptive.state())
    }

    fn load_state(&mut self, state: &State) -> Result<()> {
        match self.as_adaptive_mut() {
            Some(adaptive) => adaptive.load_state(state),
            None => stateful::none("the schedule is a function of the step and has no state", state),
        }
    }
}

/// The same rate at every step.
impl Schedule for f64 {
    fn learning_rate(&self, _step: usize) -> f64 {
        *self
    }
}

/// Any function of the step, as `torch.optim.lr_scheduler.LambdaLR`.
impl<F: Fn(usize) -> f64 + Send + Sync> Schedule for F {
    fn learning_rate(&self, step: usize) -> f64 {
        self(step)
    }
}

impl Schedule for Box<dyn Schedule> {
    fn learning_rate(&self, step: usize) -> f64 {
        (**self).learning_rate(step)
    }
    fn momentum(&self, step: usize) -> Option<f64> {
        (**self).momentum(step)
    }
    fn as_adaptive(&self) -> Option<&dyn Adaptive> {
        (**self).as_adaptive()
    }
    fn as_adaptive_mut(&mut self) -> Option<&mut dyn Adaptive> {
        (**self).as_adaptive_mut()
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
pub(crate) mod adaptive_tests;
#[cfg(test)]
mod oracle_tests;
