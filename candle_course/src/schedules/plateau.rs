//! A rate that follows a metric.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};

use crate::direction::Direction;
use crate::error::{Error, Result};
use crate::schedules::{Schedule, rate};

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
/// for loss in [1.0, 0.8, 0.8, 0.8] {
///     schedule.observe(loss)?;
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
        let best = match settings.direction {
            Direction::Minimize => f64::INFINITY,
            Direction::Maximize => f64::NEG_INFINITY,
        };
        Ok(ReduceLROnPlateau { settings, rate: base, best, bad_epochs: 0, cooling: 0, reductions: 0 })
    }
}

impl Schedule for ReduceLROnPlateau {
    /// The rate as of the last [`observe`](Schedule::observe), whatever the step.
    fn learning_rate(&self, _step: usize) -> f64 {
        self.rate
    }

    fn observe(&mut self, metric: f64) -> Result<()> {
        if metric.is_nan() {
            return Err(Error::training("ReduceLROnPlateau was given NaN as the metric").hint("did the loss diverge?"));
        }
        if self.improves(metric) {
            self.best = metric;
            self.bad_epochs = 0;
        } else {
            self.bad_epochs += 1;
        }
        if self.cooling > 0 {
            self.cooling -= 1;
            self.bad_epochs = 0;
        }
        if self.bad_epochs > self.settings.patience {
            let lower = (self.rate * self.settings.factor).max(self.settings.min);
            if self.rate - lower > self.settings.epsilon {
                self.rate = lower;
                self.reductions += 1;
            }
            self.cooling = self.settings.cooldown;
            self.bad_epochs = 0;
        }
        Ok(())
    }

    fn follows(&self) -> Option<Direction> {
        Some(self.settings.direction)
    }

    fn state(&self) -> Result<BTreeMap<String, Tensor>> {
        let reals = [self.rate, self.best];
        let counts = [self.bad_epochs, self.cooling, self.reductions].map(|count| count as i64);
        Ok(BTreeMap::from([
            ("plateau.rate_and_best".to_owned(), Tensor::new(&reals, &Device::Cpu)?),
            ("plateau.counts".to_owned(), Tensor::new(&counts, &Device::Cpu)?),
        ]))
    }

    fn load_state(&mut self, state: &BTreeMap<String, Tensor>) -> Result<()> {
        let names: Vec<&str> = state.keys().map(String::as_str).collect();
        if names != ["plateau.counts", "plateau.rate_and_best"] {
            return Err(Error::checkpoint(format!(
                "the schedule's state holds [{}], ReduceLROnPlateau's is [plateau.counts, plateau.rate_and_best]",
                names.join(", ")
            )));
        }
        let reals = state["plateau.rate_and_best"].to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
        let counts = state["plateau.counts"].to_dtype(DType::I64)?.flatten_all()?.to_vec1::<i64>()?;
        let (&[rate, best], &[bad_epochs, cooling, reductions]) = (&reals[..], &counts[..]) else {
            return Err(Error::checkpoint(format!(
                "ReduceLROnPlateau's state has 2 and 3 numbers, got {} and {}",
                reals.len(),
                counts.len()
            )));
        };
        self.rate = rate;
        self.best = best;
        self.bad_epochs = bad_epochs as usize;
        self.cooling = cooling as usize;
        self.reductions = reductions as usize;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Generator;
    use crate::schedules::{Constant, WarmUp};

    #[test]
    fn a_restored_schedule_continues_alike() {
        let build = || ReduceLROnPlateau::builder(0.1).factor(0.7).patience(2).cooldown(1).build().unwrap();
        let mut generator = Generator::new(5);
        let metrics: Vec<f64> = (0..200).map(|_| generator.uniform()).collect();
        for cut in [1, 50, 123] {
            let mut whole = build();
            metrics[..cut].iter().for_each(|&metric| whole.observe(metric).unwrap());
            let mut resumed = WarmUp::builder(1, build()).build().unwrap();
            resumed.load_state(&whole.state().unwrap()).unwrap();
            for &metric in &metrics[cut..] {
                whole.observe(metric).unwrap();
                resumed.observe(metric).unwrap();
                assert_eq!(whole.learning_rate(0).to_bits(), resumed.learning_rate(1).to_bits());
            }
            assert!(whole.reductions() > 3);
        }
    }

    #[test]
    fn foreign_state_and_nan_are_refused() {
        let mut schedule = ReduceLROnPlateau::builder(0.1).build().unwrap();
        assert!(schedule.observe(f64::NAN).unwrap_err().to_string().contains("did the loss diverge?"));
        let text = schedule.load_state(&BTreeMap::new()).unwrap_err().to_string();
        assert!(text.contains("plateau.counts"), "{text}");
        let text = Constant(0.1).load_state(&schedule.state().unwrap()).unwrap_err().to_string();
        assert!(text.contains("this schedule has none"), "{text}");
    }
}
