//! A rise before any schedule.

use crate::direction::Direction;
use crate::error::{Error, Result};
use crate::schedules::{Adaptive, Schedule, at_least_one};
use crate::setters::setters;
use crate::stateful::{State, Stateful};

/// A rise to the first rate of another schedule, which then begins: no jump at the hand-over.
///
/// For t < T: η₀ (s + (1 − s) t / T), with η₀ the other schedule's rate at its step 0 and s the
/// start factor; from T on, the other schedule's rate at t − T. By stairs, t / T is rounded down to
/// a multiple of 1 / stairs. Goyal et al. 2017, "Accurate, Large Minibatch SGD: Training ImageNet
/// in 1 Hour", section 2.2.
///
/// Before a schedule that follows a value it is [`Adaptive`]: from step T on, values are observed.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let schedule = WarmUp::builder(4, CosineAnnealingLR::new(0.1, 100)?).start_factor(0.2).build()?;
/// let rates = schedule.learning_rates(6);
/// assert!((rates[0] - 0.02).abs() < 1e-12 && (rates[3] - 0.08).abs() < 1e-12);
/// assert_eq!(rates[4], 0.1);
/// assert!(rates[5] < 0.1);
/// # Ok::<(), candle_course::Error>(())
/// ```
pub struct WarmUp {
    steps: usize,
    start: f64,
    stairs: Option<usize>,
    then: Box<dyn Schedule>,
}

/// Configures [`WarmUp`].
pub struct WarmUpBuilder(WarmUp);

impl WarmUp {
    /// A linear rise from 0 in `steps` steps before `schedule`.
    ///
    /// # Errors
    /// If there are no steps.
    pub fn new(steps: usize, schedule: impl Schedule + 'static) -> Result<Self> {
        Self::builder(steps, schedule).build()
    }

    /// A linear rise in `steps` steps, from 0 unless told otherwise, before `schedule`.
    pub fn builder(steps: usize, schedule: impl Schedule + 'static) -> WarmUpBuilder {
        WarmUpBuilder(Self { steps, start: 0.0, stairs: None, then: Box::new(schedule) })
    }
}

impl WarmUpBuilder {
    setters! {
        /// The first rate as a share of the full one (default 0: the first step changes nothing).
        start_factor(factor: f64) => 0.start = factor;
        /// Rises by `stairs` equal stairs instead of on a line.
        stairs(stairs: usize) => 0.stairs = Some(stairs);
    }

    /// The schedule.
    ///
    /// # Errors
    /// If there are no steps, the start factor is not in `[0, 1]`, or there are no stairs or more
    /// than steps.
    pub fn build(self) -> Result<WarmUp> {
        at_least_one("steps", self.0.steps)?;
        if !(0.0..=1.0).contains(&self.0.start) {
            return Err(Error::argument("start_factor", "a number in [0, 1]", self.0.start));
        }
        if let Some(stairs) = self.0.stairs
            && (stairs == 0 || stairs > self.0.steps)
        {
            return Err(Error::argument("stairs", format!("1 to {} (one a step)", self.0.steps), stairs));
        }
        Ok(self.0)
    }
}

impl Schedule for WarmUp {
    fn learning_rate(&self, step: usize) -> f64 {
        if step >= self.steps {
            return self.then.learning_rate(step - self.steps);
        }
        let progress = match self.stairs {
            None => step as f64 / self.steps as f64,
            Some(stairs) => (step as u128 * stairs as u128 / self.steps as u128) as f64 / stairs as f64,
        };
        self.then.learning_rate(0) * (self.start + (1.0 - self.start) * progress)
    }

    fn momentum(&self, step: usize) -> Option<f64> {
        self.then.momentum(step.saturating_sub(self.steps))
    }

    fn as_adaptive(&self) -> Option<&dyn Adaptive> {
        self.follows().map(|_| self as &dyn Adaptive)
    }

    fn as_adaptive_mut(&mut self) -> Option<&mut dyn Adaptive> {
        self.follows().map(|_| self as &mut dyn Adaptive)
    }
}

impl Adaptive for WarmUp {
    /// What is found during the rise says nothing about the schedule after it, which begins anew.
    fn observe(&mut self, step: usize, value: f64) -> Result<()> {
        if step < self.steps { Ok(()) } else { self.then.observe(step - self.steps, value) }
    }

    fn follows(&self) -> Option<Direction> {
        self.then.follows()
    }
}

impl Stateful for WarmUp {
    fn state(&self) -> Result<State> {
        self.then.state()
    }

    fn load_state(&mut self, state: &State) -> Result<()> {
        self.then.load_state(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedules::CosineAnnealingLR;

    #[test]
    fn the_hand_over_has_no_jump() {
        for stairs in [None, Some(5)] {
            let mut builder = WarmUp::builder(50, CosineAnnealingLR::new(0.2, 100).unwrap());
            if let Some(stairs) = stairs {
                builder = builder.stairs(stairs);
            }
            let rates = builder.build().unwrap().learning_rates(150);
            assert_eq!(rates[50], 0.2);
            assert!(rates[..51].windows(2).all(|pair| pair[0] <= pair[1]));
            let largest = rates[..51].windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f64::max);
            let step = 0.2 / stairs.unwrap_or(50) as f64;
            assert!((largest - step).abs() < 1e-12, "{largest}");
        }
    }

    #[test]
    fn bad_arguments_are_named() {
        let text = WarmUp::builder(2, 0.1).stairs(3).build().err().unwrap().to_string();
        assert!(text.contains("`stairs`: expected 1 to 2"), "{text}");
        assert!(WarmUp::new(0, 0.1).err().unwrap().to_string().contains("`steps`"));
    }
}
