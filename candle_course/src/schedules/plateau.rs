//! A rate that follows a metric.

use candle_core::{DType, Device, Tensor};

use crate::direction::Direction;
use crate::error::{Error, Result};
use crate::schedules::{Adaptive, Schedule, rate};
use crate::setters::setters;
use crate::stateful::{Expected, State, Stateful, compare};

/// What an improvement is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ThresholdMode {
    /// The best value ± threshold times its absolute value: better by that share of it, also below
    /// 0, where PyTorch's best · (1 ± threshold) turns round.
    #[default]
    Relative,
    /// The best value ± threshold.
    Absolute,
}

/// Lowers the rate when a metric has stopped improving, as
/// `torch.optim.lr_scheduler.ReduceLROnPlateau`.
///
/// After more than `patience` epochs without an improvement the rate is multiplied by `factor`,
/// but not below `min_learning_rate`, nor by less than `epsilon`; then `cooldown` epochs pass
/// before bad ones are counted again. An infinite metric is no improvement, whatever its sign. Its
/// state is saved in checkpoints.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let mut schedule = ReduceLROnPlateau::builder(0.1).factor(0.5).patience(1).build()?;
/// for (epoch, loss) in [1.0, 0.8, 0.8, 0.8].into_iter().enumerate() {
///     schedule.observe(epoch, loss)?;
/// }
/// assert_eq!(schedule.learning_rate(4), 0.05);
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct ReduceLROnPlateau {
    settings: Settings,
    rate: f64,
    best: f64,
    bad_epochs: usize,
    cooling: usize,
    reductions: usize,
}

#[derive(Debug, Clone, PartialEq)]
struct Settings {
    direction: Direction,
    factor: f64,
    patience: usize,
    threshold: f64,
    threshold_mode: ThresholdMode,
    cooldown: usize,
    min: f64,
    epsilon: f64,
}

/// Configures [`ReduceLROnPlateau`].
#[derive(Debug, Clone)]
pub struct ReduceLROnPlateauBuilder {
    rate: f64,
    settings: Settings,
}

impl ReduceLROnPlateau {
    /// From `learning_rate`, following a loss (smaller is better) with PyTorch's defaults.
    ///
    /// # Errors
    /// If the rate is negative.
    pub fn new(learning_rate: f64) -> Result<Self> {
        Self::builder(learning_rate).build()
    }

    /// From `learning_rate`, following a loss (smaller is better) with PyTorch's defaults, unless
    /// told otherwise.
    pub fn builder(learning_rate: f64) -> ReduceLROnPlateauBuilder {
        ReduceLROnPlateauBuilder {
            rate: learning_rate,
            settings: Settings {
                direction: Direction::Minimize,
                factor: 0.1,
                patience: 10,
                threshold: 1e-4,
                threshold_mode: ThresholdMode::Relative,
                cooldown: 0,
                min: 0.0,
                epsilon: 1e-8,
            },
        }
    }

    /// The best metric so far; infinite before the first.
    pub fn best(&self) -> f64 {
        self.best
    }

    /// How often the rate was lowered.
    pub fn reductions(&self) -> usize {
        self.reductions
    }

    fn improves(&self, metric: f64) -> bool {
        let Settings { direction, threshold, threshold_mode, .. } = self.settings;
        if !metric.is_finite() || self.best.is_infinite() {
            return metric.is_finite();
        }
        let threshold = match direction {
            Direction::Minimize => -threshold,
            Direction::Maximize => threshold,
        };
        let bound = match threshold_mode {
            ThresholdMode::Relative => self.best * (1.0 + threshold * self.best.signum()),
            ThresholdMode::Absolute => self.best + threshold,
        };
        direction.gain(metric, bound) > 0.0
    }
}

impl ReduceLROnPlateauBuilder {
    setters! {
        /// Which way is better; PyTorch's `mode` (default: smaller).
        mode(direction: Direction) => settings.direction = direction;
        /// What the rate is multiplied by (default 0.1).
        factor(factor: f64) => settings.factor = factor;
        /// How many epochs without improvement are borne (default 10).
        patience(patience: usize) => settings.patience = patience;
    }

    /// What counts as an improvement (default 10⁻⁴, relative).
    #[must_use]
    pub fn threshold(mut self, threshold: f64, mode: ThresholdMode) -> Self {
        self.settings.threshold = threshold;
        self.settings.threshold_mode = mode;
        self
    }

    setters! {
        /// How many epochs after a reduction are not counted (default 0).
        cooldown(cooldown: usize) => settings.cooldown = cooldown;
        /// The lowest rate (default 0).
        min_learning_rate(min: f64) => settings.min = min;
        /// The smallest change of the rate that is made (default 10⁻⁸).
        epsilon(epsilon: f64) => settings.epsilon = epsilon;
    }

    /// The schedule.
    ///
    /// # Errors
    /// If a rate, the threshold or ε is negative, or the factor is not in `(0, 1)`.
    pub fn build(self) -> Result<ReduceLROnPlateau> {
        let Self { rate: base, settings } = self;
        rate("learning_rate", base)?;
        rate("min_learning_rate", settings.min)?;
        rate("threshold", settings.threshold)?;
        rate("epsilon", settings.epsilon)?;
        if !(settings.factor > 0.0 && settings.factor < 1.0) {
            return Err(Error::argument("factor", "a number in (0, 1)", settings.factor));
        }
        let best = settings.direction.worst();
        Ok(ReduceLROnPlateau { settings, rate: base, best, bad_epochs: 0, cooling: 0, reductions: 0 })
    }
}

impl Schedule for ReduceLROnPlateau {
    /// The rate as of the last [`observe`](Adaptive::observe), whatever the step.
    fn learning_rate(&self, _step: usize) -> f64 {
        self.rate
    }

    fn as_adaptive(&self) -> Option<&dyn Adaptive> {
        Some(self)
    }

    fn as_adaptive_mut(&mut self) -> Option<&mut dyn Adaptive> {
        Some(self)
    }
}

impl Adaptive for ReduceLROnPlateau {
    fn observe(&mut self, _step: usize, metric: f64) -> Result<()> {
        if metric.is_nan() {
            return Err(Error::training("ReduceLROnPlateau was given NaN as the metric").hint("did the loss diverge?"));
        }
        if self.improves(metric) {
            self.best = metric;
            self.bad_epochs = 0;
        } else {
            self.bad_epochs = self.bad_epochs.saturating_add(1);
        }
        if self.cooling > 0 {
            self.cooling -= 1;
            self.bad_epochs = 0;
        }
        if self.bad_epochs > self.settings.patience {
            let lower = (self.rate * self.settings.factor).max(self.settings.min);
            if self.rate - lower > self.settings.epsilon {
                self.rate = lower;
                self.reductions = self.reductions.saturating_add(1);
            }
            self.cooling = self.settings.cooldown;
            self.bad_epochs = 0;
        }
        Ok(())
    }

    fn follows(&self) -> Option<Direction> {
        Some(self.settings.direction)
    }
}

impl Stateful for ReduceLROnPlateau {
    fn state(&self) -> Result<State> {
        let reals = [self.rate, self.best];
        let counts = [self.bad_epochs, self.cooling, self.reductions].map(|count| count as i64);
        Ok(State::from([
            ("rate_and_best".to_owned(), Tensor::new(&reals, &Device::Cpu)?),
            ("counts".to_owned(), Tensor::new(&counts, &Device::Cpu)?),
        ]))
    }

    fn load_state(&mut self, state: &State) -> Result<()> {
        let expected =
            [("rate_and_best", Expected::new(&[2], DType::F64)), ("counts", Expected::new(&[3], DType::I64))];
        compare("this is not the state of a ReduceLROnPlateau", state, expected)?;
        let reals = state["rate_and_best"].to_vec1::<f64>()?;
        let counts = state["counts"].to_vec1::<i64>()?;
        (self.rate, self.best) = (reals[0], reals[1]);
        (self.bad_epochs, self.cooling, self.reductions) = (counts[0] as usize, counts[1] as usize, counts[2] as usize);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(mut schedule: ReduceLROnPlateau, metrics: &[f64]) -> (f64, usize) {
        metrics.iter().enumerate().for_each(|(epoch, &metric)| schedule.observe(epoch, metric).unwrap());
        (schedule.best(), schedule.reductions())
    }

    #[test]
    fn a_relative_threshold_means_the_same_below_zero() {
        let schedule = |mode| ReduceLROnPlateau::builder(1.0).mode(mode).patience(0).build().unwrap();
        let (down, up) = (|| schedule(Direction::Minimize), || schedule(Direction::Maximize));
        // Flat, worse by less than the threshold, better by less, better by more.
        assert_eq!(after(down(), &[-1.0, -1.0]), (-1.0, 1));
        assert_eq!(after(down(), &[-1.0, -0.99985]), (-1.0, 1));
        assert_eq!(after(down(), &[-1.0, -1.00005]), (-1.0, 1));
        assert_eq!(after(down(), &[-1.0, -1.00015]), (-1.00015, 0));
        assert_eq!(after(up(), &[-2.0, -2.0]), (-2.0, 1));
        assert_eq!(after(up(), &[-2.0, -2.0003]), (-2.0, 1));
        assert_eq!(after(up(), &[-2.0, -1.9999]), (-2.0, 1));
        assert_eq!(after(up(), &[-2.0, -1.9997]), (-1.9997, 0));
        // Across 0, and from 0, of which every share is 0.
        assert_eq!(after(down(), &[1e-3, -1e-3]), (-1e-3, 0));
        assert_eq!(after(up(), &[0.0, 1e-300]), (1e-300, 0));
        assert_eq!(after(up(), &[0.0, 0.0]), (0.0, 1));
        // A threshold of a whole: a loss halves, and halves again, but not to less than nothing.
        let whole = |mode| {
            ReduceLROnPlateau::builder(1.0).threshold(1.0, ThresholdMode::Relative).mode(mode).patience(9).build()
        };
        assert_eq!(after(whole(Direction::Minimize).unwrap(), &[2.0, 1.0, -0.5]).0, -0.5);
        assert_eq!(after(whole(Direction::Maximize).unwrap(), &[-2.0, -1.0, 0.5]).0, 0.5);
    }

    #[test]
    fn mirrored_values_are_treated_alike() {
        let mut generator = crate::random::Generator::new(2);
        let metrics: Vec<f64> = (0..300).map(|_| 1e-3 * generator.normal() + 1e-3).collect();
        for mode in [ThresholdMode::Relative, ThresholdMode::Absolute] {
            let schedule = |direction| {
                ReduceLROnPlateau::builder(1.0).threshold(0.1, mode).mode(direction).patience(3).build().unwrap()
            };
            let mirrored: Vec<f64> = metrics.iter().map(|metric| -metric).collect();
            let (best, reductions) = after(schedule(Direction::Minimize), &metrics);
            assert_eq!(after(schedule(Direction::Maximize), &mirrored), (-best, reductions));
        }
    }

    #[test]
    fn infinities_are_never_the_best() {
        for (mode, metrics) in [
            (Direction::Minimize, [f64::NEG_INFINITY, 0.5, f64::INFINITY]),
            (Direction::Maximize, [f64::INFINITY, 0.5, f64::NEG_INFINITY]),
        ] {
            let schedule = ReduceLROnPlateau::builder(1.0).mode(mode).patience(5).build().unwrap();
            assert_eq!(after(schedule, &metrics).0, 0.5);
        }
    }
}
