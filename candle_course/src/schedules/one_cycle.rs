//! One cycle: up, down, and far down.

use std::f64::consts::PI;

use crate::error::{Error, Result};
use crate::schedules::{Schedule, positive, rate};
use crate::setters::setters;

/// How a schedule moves from one value to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Anneal {
    /// On half a cosine.
    #[default]
    Cosine,
    /// On a straight line.
    Linear,
}

impl Anneal {
    fn between(self, start: f64, end: f64, progress: f64) -> f64 {
        match self {
            Self::Cosine => end + (start - end) / 2.0 * ((PI * progress).cos() + 1.0),
            Self::Linear => (end - start) * progress + start,
        }
    }
}

/// The one-cycle policy, stepped per batch, as `torch.optim.lr_scheduler.OneCycleLR`.
///
/// From η_max / div up to η_max in the first `pct_start` of the steps, then down to
/// η_max / div / final_div; with three phases, first back down to η_max / div in as many steps as
/// it rose. The momentum moves against the rate: low where the rate is high. After the last step
/// the final rate stays. Smith & Topin 2018, "Super-Convergence: Very Fast Training of Neural
/// Networks Using Large Learning Rates".
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let schedule = OneCycleLR::builder(0.1, 100).pct_start(0.25).build()?;
/// assert!((schedule.learning_rate(0) - 0.004).abs() < 1e-12);
/// assert!((schedule.learning_rate(24) - 0.1).abs() < 1e-12);
/// assert!((schedule.momentum(24).unwrap() - 0.85).abs() < 1e-12);
/// assert!((schedule.learning_rate(99) - 4e-7).abs() < 1e-12);
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct OneCycleLR {
    max: f64,
    total: usize,
    pct_start: f64,
    anneal: Anneal,
    momenta: Option<(f64, f64)>,
    div_factor: f64,
    final_div_factor: f64,
    three_phase: bool,
}

/// Configures [`OneCycleLR`].
#[derive(Debug, Clone)]
pub struct OneCycleLRBuilder(OneCycleLR);

impl OneCycleLR {
    /// Up to `max_learning_rate` and down in `total_steps`, with PyTorch's defaults.
    ///
    /// # Errors
    /// If the rate is negative, or there are less than 2 steps.
    pub fn new(max_learning_rate: f64, total_steps: usize) -> Result<Self> {
        Self::builder(max_learning_rate, total_steps).build()
    }

    /// Up to `max_learning_rate` and down in `total_steps`, with PyTorch's defaults unless told
    /// otherwise.
    pub fn builder(max_learning_rate: f64, total_steps: usize) -> OneCycleLRBuilder {
        OneCycleLRBuilder(Self {
            max: max_learning_rate,
            total: total_steps,
            pct_start: 0.3,
            anneal: Anneal::Cosine,
            momenta: Some((0.85, 0.95)),
            div_factor: 25.0,
            final_div_factor: 1e4,
            three_phase: false,
        })
    }

    /// How many steps the cycle has.
    pub fn total_steps(&self) -> usize {
        self.total
    }

    /// The value at `step` of something that begins at `low`, has its extreme at `high` and ends
    /// at `end`.
    fn at(&self, step: usize, low: f64, high: f64, end: f64) -> f64 {
        let last = (self.total - 1) as f64;
        let step = (step as f64).min(last);
        let rise = self.pct_start * self.total as f64 - 1.0;
        let fall = 2.0 * self.pct_start * self.total as f64 - 2.0;
        let phases: &[(f64, f64, f64)] = if self.three_phase {
            &[(rise, low, high), (fall, high, low), (last, low, end)]
        } else {
            &[(rise, low, high), (last, high, end)]
        };
        let mut start = 0.0;
        for &(stop, from, to) in phases {
            if step <= stop {
                let progress = if stop > start { (step - start) / (stop - start) } else { 1.0 };
                return self.anneal.between(from, to, progress);
            }
            start = stop;
        }
        end
    }
}

impl OneCycleLRBuilder {
    setters! {
        /// The share of the steps in which the rate rises (default 0.3).
        pct_start(share: f64) => 0.pct_start = share;
        /// Cosine (default) or straight lines.
        anneal(anneal: Anneal) => 0.anneal = anneal;
        /// The momentum where the rate is highest and where it is lowest (default 0.85 and 0.95).
        momentum_between(base: f64, max: f64) => 0.momenta = Some((base, max));
        /// Leaves the momentum alone.
        constant_momentum() => 0.momenta = None;
        /// How many times lower the first rate is than the highest (default 25).
        div_factor(factor: f64) => 0.div_factor = factor;
        /// How many times lower the last rate is than the first (default 10⁴).
        final_div_factor(factor: f64) => 0.final_div_factor = factor;
        /// Falls back to the first rate, symmetrically, before the final descent (default off).
        three_phase(three_phase: bool) => 0.three_phase = three_phase;
    }

    /// The schedule.
    ///
    /// # Errors
    /// If there are less than 2 steps, a factor is not positive, a momentum is not in `[0, 1)`,
    /// or the phases do not fit into the steps.
    pub fn build(self) -> Result<OneCycleLR> {
        let it = self.0;
        rate("max_learning_rate", it.max)?;
        if it.total < 2 {
            return Err(Error::argument("total_steps", "at least 2", it.total).hint("epochs × batches per epoch"));
        }
        if !(0.0..=1.0).contains(&it.pct_start) {
            return Err(Error::argument("pct_start", "a share in [0, 1]", it.pct_start));
        }
        if it.three_phase && it.pct_start > 0.5 {
            return Err(Error::argument("pct_start", "at most 0.5 with three phases", it.pct_start));
        }
        positive("div_factor", it.div_factor)?;
        positive("final_div_factor", it.final_div_factor)?;
        if let Some((base, max)) = it.momenta
            && (!(0.0..1.0).contains(&base) || !(0.0..1.0).contains(&max) || base > max)
        {
            return Err(Error::argument("momentum_between", "0 ≤ base ≤ max < 1", format!("{base} and {max}")));
        }
        Ok(it)
    }
}

impl Schedule for OneCycleLR {
    fn learning_rate(&self, step: usize) -> f64 {
        let first = self.max / self.div_factor;
        self.at(step, first, self.max, first / self.final_div_factor)
    }

    fn momentum(&self, step: usize) -> Option<f64> {
        self.momenta.map(|(base, max)| self.at(step, max, base, max))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_rate_stays_and_bad_phases_are_refused() {
        let schedule = OneCycleLR::new(0.1, 10).unwrap();
        assert_eq!(schedule.learning_rate(9), schedule.learning_rate(1000));
        let text = OneCycleLR::builder(0.1, 10).three_phase(true).pct_start(0.6).build().unwrap_err().to_string();
        assert!(text.contains("at most 0.5 with three phases"), "{text}");
        assert!(OneCycleLR::new(0.1, 1).unwrap_err().to_string().contains("epochs × batches per epoch"));
    }
}
