//! Schedules made of schedules.

use crate::direction::Direction;
use crate::error::{Error, Result};
use crate::schedules::{Adaptive, Schedule, rate};
use crate::stateful::{self, State, Stateful};

/// One schedule after the other, each counting from 0, as `torch.optim.lr_scheduler.SequentialLR`.
///
/// With a part that follows a value ([`ReduceLROnPlateau`](crate::schedules::ReduceLROnPlateau)) it
/// is [`Adaptive`]: the part in whose time a value is observed takes it in.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let schedule = SequentialLR::builder(0.01).then(10, ExponentialLR::new(0.1, 0.5)?).build()?;
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

    /// Which part has `step`, and which of its own steps that is.
    fn place(&self, step: usize) -> (usize, usize) {
        let index = self.parts.partition_point(|(milestone, _)| *milestone <= step) - 1;
        (index, step - self.parts[index].0)
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
    /// If the milestones do not increase, or two parts follow values that are better in different
    /// ways.
    pub fn build(self) -> Result<SequentialLR> {
        let milestones: Vec<usize> = self.0.parts.iter().map(|(milestone, _)| *milestone).collect();
        if milestones.windows(2).any(|pair| pair[0] >= pair[1]) {
            return Err(Error::argument("milestone", "increasing steps ≥ 1", format!("{:?}", &milestones[1..])));
        }
        same_way("then", self.0.parts.iter().map(|(_, part)| part))?;
        Ok(self.0)
    }
}

impl Schedule for SequentialLR {
    fn learning_rate(&self, step: usize) -> f64 {
        let (index, step) = self.place(step);
        self.parts[index].1.learning_rate(step)
    }

    fn momentum(&self, step: usize) -> Option<f64> {
        let (index, step) = self.place(step);
        self.parts[index].1.momentum(step)
    }

    fn as_adaptive(&self) -> Option<&dyn Adaptive> {
        self.follows().map(|_| self as &dyn Adaptive)
    }

    fn as_adaptive_mut(&mut self) -> Option<&mut dyn Adaptive> {
        self.follows().map(|_| self as &mut dyn Adaptive)
    }
}

impl Adaptive for SequentialLR {
    fn observe(&mut self, step: usize, value: f64) -> Result<()> {
        let (index, step) = self.place(step);
        self.parts[index].1.observe(step, value)
    }

    fn follows(&self) -> Option<Direction> {
        self.parts.iter().find_map(|(_, part)| part.follows())
    }
}

impl Stateful for SequentialLR {
    fn state(&self) -> Result<State> {
        state_of(self.parts.iter().map(|(_, part)| part))
    }

    fn load_state(&mut self, state: &State) -> Result<()> {
        load("the sequence of schedules is another one", state, self.parts.iter_mut().map(|(_, part)| part))
    }
}

/// A base rate times the factors of several schedules, as
/// `torch.optim.lr_scheduler.ChainedScheduler`.
///
/// Each part is built with base rate 1, so that it gives a factor. The momentum is that of the part
/// that cycles one. With a part that follows a value it is [`Adaptive`].
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
    /// If the rate is negative, there is nothing to multiply by, two parts cycle the momentum, or
    /// two follow values that are better in different ways.
    pub fn build(self) -> Result<ChainedScheduler> {
        rate("learning_rate", self.0.base)?;
        if self.0.factors.is_empty() {
            return Err(Error::argument("times", "at least one schedule", 0));
        }
        let momenta = self.0.factors.iter().filter(|factor| factor.momentum(0).is_some()).count();
        if momenta > 1 {
            return Err(Error::argument("times", "at most one schedule that cycles the momentum", momenta)
                .hint("turn it off in the others, with `.constant_momentum()` say"));
        }
        same_way("times", self.0.factors.iter())?;
        Ok(self.0)
    }
}

impl Schedule for ChainedScheduler {
    fn learning_rate(&self, step: usize) -> f64 {
        self.factors.iter().fold(self.base, |rate, factor| rate * factor.learning_rate(step))
    }

    fn momentum(&self, step: usize) -> Option<f64> {
        self.factors.iter().find_map(|factor| factor.momentum(step))
    }

    fn as_adaptive(&self) -> Option<&dyn Adaptive> {
        self.follows().map(|_| self as &dyn Adaptive)
    }

    fn as_adaptive_mut(&mut self) -> Option<&mut dyn Adaptive> {
        self.follows().map(|_| self as &mut dyn Adaptive)
    }
}

impl Adaptive for ChainedScheduler {
    fn observe(&mut self, step: usize, value: f64) -> Result<()> {
        self.factors.iter_mut().try_for_each(|factor| factor.observe(step, value))
    }

    fn follows(&self) -> Option<Direction> {
        self.factors.iter().find_map(|factor| factor.follows())
    }
}

impl Stateful for ChainedScheduler {
    fn state(&self) -> Result<State> {
        state_of(self.factors.iter())
    }

    fn load_state(&mut self, state: &State) -> Result<()> {
        load("the chain of schedules is another one", state, self.factors.iter_mut())
    }
}

/// The parts' states, by their numbers.
fn state_of<'a>(parts: impl Iterator<Item = &'a Box<dyn Schedule>>) -> Result<State> {
    stateful::join(parts.enumerate().map(|(index, part)| (index.to_string(), part as &dyn Stateful)))
}

fn load<'a>(what: &str, state: &State, parts: impl Iterator<Item = &'a mut Box<dyn Schedule>>) -> Result<()> {
    let parts = parts.enumerate().map(|(index, part)| (index.to_string(), part as &mut dyn Stateful));
    stateful::load_parts(what, state, parts)
}

/// Refuses parts that would take one value for better in different ways.
fn same_way<'a>(name: &str, parts: impl Iterator<Item = &'a Box<dyn Schedule>>) -> Result<()> {
    let mut ways = parts.filter_map(|part| part.follows());
    let first = ways.next();
    if ways.all(|way| Some(way) == first) {
        return Ok(());
    }
    Err(Error::argument(name, "schedules that follow a value in the same way", "larger in one, smaller in another"))
}
