//! Up and down between two rates.

use crate::error::{Error, Result};
use crate::schedules::{Schedule, at_least_one, positive, rate};
use crate::setters::setters;

/// What becomes of the height of the cycles.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum CyclicMode {
    /// It stays.
    Triangular,
    /// It halves with every cycle.
    Triangular2,
    /// It is multiplied by γ at every step.
    ExpRange {
        /// γ, in `(0, 1]` as a rule.
        gamma: f64,
    },
}

/// Triangles between two rates, stepped per batch, as `torch.optim.lr_scheduler.CyclicLR`.
///
/// The momentum, if cycled, moves against the rate. Smith 2017, "Cyclical Learning Rates for
/// Training Neural Networks".
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let schedule = CyclicLR::builder(0.1, 0.5).step_size_up(2).build()?;
/// let expected = [0.1, 0.3, 0.5, 0.3, 0.1, 0.3];
/// for (step, expected) in expected.into_iter().enumerate() {
///     assert!((schedule.learning_rate(step) - expected).abs() < 1e-12);
/// }
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct CyclicLR {
    base: f64,
    max: f64,
    up: usize,
    down: Option<usize>,
    mode: CyclicMode,
    momenta: Option<(f64, f64)>,
}

/// Configures [`CyclicLR`].
#[derive(Debug, Clone)]
pub struct CyclicLRBuilder(CyclicLR);

impl CyclicLR {
    /// Between `base_learning_rate` and `max_learning_rate`, 2000 steps up and 2000 down.
    ///
    /// # Errors
    /// If a rate is negative, or the highest is below the base.
    pub fn new(base_learning_rate: f64, max_learning_rate: f64) -> Result<Self> {
        Self::builder(base_learning_rate, max_learning_rate).build()
    }

    /// Between `base_learning_rate` and `max_learning_rate`, 2000 steps up and 2000 down, the
    /// momentum left alone, unless told otherwise.
    pub fn builder(base_learning_rate: f64, max_learning_rate: f64) -> CyclicLRBuilder {
        CyclicLRBuilder(Self {
            base: base_learning_rate,
            max: max_learning_rate,
            up: 2000,
            down: None,
            mode: CyclicMode::Triangular,
            momenta: None,
        })
    }

    /// How high in the triangle `step` is, times the cycle's height: 0 to 1.
    fn height(&self, step: usize) -> f64 {
        let down = self.down.unwrap_or(self.up);
        let period = self.up as u128 + down as u128;
        let (cycle, within) = (step as u128 / period, step as u128 % period);
        let height = if within <= self.up as u128 {
            within as f64 / self.up as f64
        } else {
            (period - within) as f64 / down as f64
        };
        height
            * match self.mode {
                CyclicMode::Triangular => 1.0,
                CyclicMode::Triangular2 => 0.5f64.powf(cycle as f64),
                CyclicMode::ExpRange { gamma } => gamma.powf(step as f64),
            }
    }
}

impl CyclicLRBuilder {
    setters! {
        /// Steps from the base rate to the highest (default 2000).
        step_size_up(steps: usize) => 0.up = steps;
        /// Steps from the highest rate to the base (default: as many as up).
        step_size_down(steps: usize) => 0.down = Some(steps);
        /// What becomes of the height of the cycles (default: it stays).
        mode(mode: CyclicMode) => 0.mode = mode;
        /// Cycles the momentum too: `base` where the rate is highest, `max` where it is lowest.
        momentum_between(base: f64, max: f64) => 0.momenta = Some((base, max));
    }

    /// The schedule.
    ///
    /// # Errors
    /// If the highest rate is below the base, a side has no steps, γ is not positive, or a
    /// momentum is not in `[0, 1)`.
    pub fn build(self) -> Result<CyclicLR> {
        let it = self.0;
        rate("base_learning_rate", it.base)?;
        rate("max_learning_rate", it.max)?;
        if it.max < it.base {
            return Err(Error::argument("max_learning_rate", format!("at least the base, {}", it.base), it.max));
        }
        at_least_one("step_size_up", it.up)?;
        at_least_one("step_size_down", it.down.unwrap_or(it.up))?;
        if let CyclicMode::ExpRange { gamma } = it.mode {
            positive("gamma", gamma)?;
        }
        if let Some((base, max)) = it.momenta
            && (!(0.0..1.0).contains(&base) || !(0.0..1.0).contains(&max) || base > max)
        {
            return Err(Error::argument("momentum_between", "0 ≤ base ≤ max < 1", format!("{base} and {max}")));
        }
        Ok(it)
    }
}

impl Schedule for CyclicLR {
    fn learning_rate(&self, step: usize) -> f64 {
        self.base + (self.max - self.base) * self.height(step)
    }

    fn momentum(&self, step: usize) -> Option<f64> {
        self.momenta.map(|(base, max)| max - (max - base) * self.height(step))
    }
}
