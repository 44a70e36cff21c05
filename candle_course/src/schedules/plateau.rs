//! A rate that follows a metric.

use candle_core::{DType, Device, Tensor};

use crate::direction::Direction;
use crate::error::{Error, Result};
use crate::schedules::{Adaptive, Schedule, rate};
use crate::stateful::{Expected, State, Stateful, compare};

/// What an improvement is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ThresholdMode {
    /// The best value times 1 ± threshold.
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
/// before bad ones are counted again. Its state is saved in checkpoints.
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
        match (direction, threshold_mode) {
            (Direction::Minimize, ThresholdMode::Relative) => metric < self.best * (1.0 - threshold),
            (Direction::Minimize, ThresholdMode::Absolute) => metric < self.best - threshold,
            (Direction::Maximize, ThresholdMode::Relative) => metric > self.best * (1.0 + threshold),
            (Direction::Maximize, ThresholdMode::Absolute) => metric > self.best + threshold,
        }
    }
}

impl ReduceLROnPlateauBuilder {
    /// Which way is better; PyTorch's `mode` (default: smaller).
    #[must_use]
    pub fn mode(mut self, direction: Direction) -> Self {
        self.settings.direction = direction;
        self
    }

    /// What the rate is multiplied by (default 0.1).
    #[must_use]
    pub fn factor(mut self, factor: f64) -> Self {
        self.settings.factor = factor;
        self
    }

    /// How many epochs without improvement are borne (default 10).
    #[must_use]
    pub fn patience(mut self, patience: usize) -> Self {
        self.settings.patience = patience;
        self
    }

    /// What counts as an improvement (default 10⁻⁴, relative).
    #[must_use]
    pub fn threshold(mut self, threshold: f64, mode: ThresholdMode) -> Self {
        self.settings.threshold = threshold;
        self.settings.threshold_mode = mode;
        self
    }

    /// How many epochs after a reduction are not counted (default 0).
    #[must_use]
    pub fn cooldown(mut self, cooldown: usize) -> Self {
        self.settings.cooldown = cooldown;
        self
    }

    /// The lowest rate (default 0).
    #[must_use]
    pub fn min_learning_rate(mut self, min: f64) -> Self {
        self.settings.min = min;
        self
    }

    /// The smallest change of the rate that is made (default 10⁻⁸).
    #[must_use]
    pub fn epsilon(mut self, epsilon: f64) -> Self {
        self.settings.epsilon = epsilon;
        self
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
