//! Metrics of real-valued predictions.

use candle_core::Tensor;

use crate::error::{Error, Result};
use crate::metrics::input::numbers;
use crate::metrics::state::{another, keeps, state_of};
use crate::metrics::{Direction, Metric, once};
use crate::stateful::State;

/// What every regression metric follows from, in one pass and mergeable.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct RegressionSummary {
    /// How many numbers.
    pub count: u64,
    squared: f64,
    absolute: f64,
    maximum: f64,
    relative: f64,
    zero_targets: u64,
    target_mean: f64,
    target_squares: f64,
}

keeps!(RegressionSummary: count, squared, absolute, maximum, relative, zero_targets, target_mean, target_squares);

fn of<T>(name: &str, count: u64, value: impl FnOnce(f64) -> T) -> Result<T> {
    if count == 0 {
        return Err(Error::undefined(format!("{name} of no examples; call `update` first")));
    }
    Ok(value(count as f64))
}

/// Not `max`, which would pass over a NaN.
fn larger(a: f64, b: f64) -> f64 {
    if a.is_nan() || b <= a { a } else { b }
}

impl RegressionSummary {
    /// Takes in predictions and targets of one shape.
    ///
    /// # Errors
    /// If the shapes differ, or they are not floats.
    pub fn update(&mut self, predictions: &Tensor, targets: &Tensor) -> Result<()> {
        if predictions.dims() != targets.dims() {
            let error = Error::argument(
                "targets",
                format!("the shape of the predictions, {:?}", predictions.dims()),
                format!("{:?}", targets.dims()),
            );
            return Err(if predictions.elem_count() == targets.elem_count() {
                error.hint("did you forget `squeeze(1)` on the predictions?")
            } else {
                error
            });
        }
        let mut batch = Self::default();
        for (prediction, target) in numbers("predictions", predictions)?.into_iter().zip(numbers("targets", targets)?) {
            let error = prediction - target;
            batch.count += 1;
            batch.squared += error * error;
            batch.absolute += error.abs();
            batch.maximum = larger(batch.maximum, error.abs());
            if target == 0.0 {
                batch.zero_targets += 1;
            } else {
                batch.relative += (error / target).abs();
            }
            // Welford's recurrence: no cancellation for targets far from 0.
            let distance = target - batch.target_mean;
            batch.target_mean += distance / batch.count as f64;
            batch.target_squares += distance * (target - batch.target_mean);
        }
        self.add(&batch);
        Ok(())
    }

    /// Adds what another summary, whose state this is, has seen.
    ///
    /// # Errors
    /// If it is not the state of one; nothing is added then.
    pub fn merge(&mut self, other: &State) -> Result<()> {
        self.add(&another(self, other)?);
        Ok(())
    }

    fn add(&mut self, other: &Self) {
        if other.count == 0 {
            return;
        }
        // Not by the formula below: b/b may round, and equal targets would seem to vary.
        if self.count == 0 {
            *self = *other;
            return;
        }
        let (a, b) = (self.count as f64, other.count as f64);
        let distance = other.target_mean - self.target_mean;
        self.target_mean += distance * b / (a + b);
        self.target_squares += other.target_squares + distance * distance * a * b / (a + b);
        self.count += other.count;
        self.squared += other.squared;
        self.absolute += other.absolute;
        self.maximum = larger(self.maximum, other.maximum);
        self.relative += other.relative;
        self.zero_targets += other.zero_targets;
    }

    /// 1/n Σ e².
    ///
    /// # Errors
    /// If there is no example.
    pub fn mean_squared_error(&self) -> Result<f64> {
        of("the mean squared error", self.count, |n| self.squared / n)
    }

    /// √(1/n Σ e²), in the unit of the target.
    ///
    /// # Errors
    /// If there is no example.
    pub fn root_mean_squared_error(&self) -> Result<f64> {
        of("the root mean squared error", self.count, |n| (self.squared / n).sqrt())
    }

    /// 1/n Σ |e|, in the unit of the target.
    ///
    /// # Errors
    /// If there is no example.
    pub fn mean_absolute_error(&self) -> Result<f64> {
        of("the mean absolute error", self.count, |n| self.absolute / n)
    }

    /// The largest |e|, in the unit of the target; NaN if any error is.
    ///
    /// # Errors
    /// If there is no example.
    pub fn maximum_error(&self) -> Result<f64> {
        of("the maximum error", self.count, |_| self.maximum)
    }

    /// 1/n Σ |e / y|, a share (0.1 is 10 %).
    ///
    /// # Errors
    /// If there is no example, or a target is 0.
    pub fn mean_absolute_percentage_error(&self) -> Result<f64> {
        if self.zero_targets > 0 {
            return Err(Error::undefined(format!(
                "the percentage error of {} targets that are 0; use the mean absolute error",
                self.zero_targets
            )));
        }
        of("the mean absolute percentage error", self.count, |n| self.relative / n)
    }

    /// 1 − Σ e² / Σ (y − ȳ)²: 1 is perfect, 0 no better than the mean, negative worse.
    ///
    /// # Errors
    /// If there is no example, or all targets are equal.
    pub fn r2(&self) -> Result<f64> {
        of("R²", self.count, |_| ())?;
        if self.target_squares == 0.0 {
            return Err(Error::undefined("R² where all targets are equal: their variance is 0"));
        }
        Ok(1.0 - self.squared / self.target_squares)
    }
}

macro_rules! of_summary {
    ($(#[$doc:meta])* $name:ident, $text:literal, $direction:ident, $method:ident) => {
        $(#[$doc])*
        ///
        /// `predictions`, `targets`: one shape, floats.
        #[derive(Debug, Clone, Copy, Default, PartialEq)]
        pub struct $name {
            summary: RegressionSummary,
        }

        state_of!($name: summary);

        impl Metric for $name {
            fn name(&self) -> &str {
                $text
            }

            fn direction(&self) -> Direction {
                Direction::$direction
            }

            fn update(&mut self, predictions: &Tensor, targets: &Tensor) -> Result<()> {
                self.summary.update(predictions, targets)
            }

            fn merge(&mut self, other: &State) -> Result<()> {
                self.summary.merge(other)
            }

            fn compute(&self) -> Result<f64> {
                self.summary.$method()
            }

            fn reset(&mut self) {
                *self = Self::default();
            }
        }
    };
}

of_summary! {
    /// Mean squared error, 1/n Σ (ŷ − y)².
    ///
    /// # Examples
    ///
    /// ```
    /// use candle_course::prelude::*;
    ///
    /// let mut metric = MeanSquaredError::default();
    /// metric.update(&Tensor::new(&[1f32, 5.], &Device::Cpu)?, &Tensor::new(&[1f32, 3.], &Device::Cpu)?)?;
    /// assert_eq!(metric.compute()?, 2.0);
    /// # Ok::<(), candle_course::Error>(())
    /// ```
    MeanSquaredError, "mean squared error", Minimize, mean_squared_error
}
of_summary! {
    /// Root mean squared error, in the unit of the target.
    ///
    /// # Examples
    ///
    /// ```
    /// use candle_course::prelude::*;
    ///
    /// let mut metric = RootMeanSquaredError::default();
    /// metric.update(&Tensor::new(&[1f32, 5.], &Device::Cpu)?, &Tensor::new(&[1f32, 3.], &Device::Cpu)?)?;
    /// assert_eq!(metric.compute()?, 2f64.sqrt());
    /// # Ok::<(), candle_course::Error>(())
    /// ```
    RootMeanSquaredError, "root mean squared error", Minimize, root_mean_squared_error
}
of_summary! {
    /// Mean absolute error, 1/n Σ |ŷ − y|.
    ///
    /// # Examples
    ///
    /// ```
    /// use candle_course::prelude::*;
    ///
    /// let mut metric = MeanAbsoluteError::default();
    /// metric.update(&Tensor::new(&[1f32, 5.], &Device::Cpu)?, &Tensor::new(&[1f32, 3.], &Device::Cpu)?)?;
    /// assert_eq!(metric.compute()?, 1.0);
    /// # Ok::<(), candle_course::Error>(())
    /// ```
    MeanAbsoluteError, "mean absolute error", Minimize, mean_absolute_error
}
of_summary! {
    /// The largest |ŷ − y|; NaN if any prediction or target is.
    ///
    /// # Examples
    ///
    /// ```
    /// use candle_course::prelude::*;
    ///
    /// let mut metric = MaximumError::default();
    /// metric.update(&Tensor::new(&[1f32, 5.], &Device::Cpu)?, &Tensor::new(&[1f32, 3.], &Device::Cpu)?)?;
    /// assert_eq!(metric.compute()?, 2.0);
    /// # Ok::<(), candle_course::Error>(())
    /// ```
    MaximumError, "maximum error", Minimize, maximum_error
}
of_summary! {
    /// Mean absolute percentage error, 1/n Σ |(ŷ − y) / y|, a share. A target of 0 is an error.
    ///
    /// # Examples
    ///
    /// ```
    /// use candle_course::prelude::*;
    ///
    /// let mut metric = MeanAbsolutePercentageError::default();
    /// metric.update(&Tensor::new(&[1f32, 5.], &Device::Cpu)?, &Tensor::new(&[1f32, 4.], &Device::Cpu)?)?;
    /// assert_eq!(metric.compute()?, 0.125);
    /// # Ok::<(), candle_course::Error>(())
    /// ```
    MeanAbsolutePercentageError, "mean absolute percentage error", Minimize, mean_absolute_percentage_error
}
of_summary! {
    /// The coefficient of determination, 1 − Σ (ŷ − y)² / Σ (y − ȳ)².
    ///
    /// # Examples
    ///
    /// ```
    /// use candle_course::prelude::*;
    ///
    /// let mut metric = R2::default();
    /// metric.update(&Tensor::new(&[1f32, 2., 4.], &Device::Cpu)?, &Tensor::new(&[1f32, 2., 3.], &Device::Cpu)?)?;
    /// assert_eq!(metric.compute()?, 0.5);
    /// # Ok::<(), candle_course::Error>(())
    /// ```
    R2, "R²", Maximize, r2
}

/// [`R2`] of one set of predictions.
///
/// # Errors
/// If the shapes differ, there is no example, or all targets are equal.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let targets = Tensor::new(&[1f64, 2., 3.], &Device::Cpu)?;
/// assert_eq!(r2_score(&targets, &targets)?, 1.0);
/// # Ok::<(), candle_course::Error>(())
/// ```
pub fn r2_score(predictions: &Tensor, targets: &Tensor) -> Result<f64> {
    once(R2::default(), predictions, targets)
}

/// [`MeanAbsolutePercentageError`] of one set of predictions.
///
/// # Errors
/// If the shapes differ, there is no example, or a target is 0.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let (predictions, targets) = (Tensor::new(&[110f64], &Device::Cpu)?, Tensor::new(&[100f64], &Device::Cpu)?);
/// assert!((mean_absolute_percentage_error(&predictions, &targets)? - 0.1).abs() < 1e-15);
/// # Ok::<(), candle_course::Error>(())
/// ```
pub fn mean_absolute_percentage_error(predictions: &Tensor, targets: &Tensor) -> Result<f64> {
    once(MeanAbsolutePercentageError::default(), predictions, targets)
}

/// [`MaximumError`] of one set of predictions.
///
/// # Errors
/// If the shapes differ, or there is no example.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let (predictions, targets) = (Tensor::new(&[1f64, 5.], &Device::Cpu)?, Tensor::new(&[1.5f64, 3.], &Device::Cpu)?);
/// assert_eq!(maximum_error(&predictions, &targets)?, 2.0);
/// # Ok::<(), candle_course::Error>(())
/// ```
pub fn maximum_error(predictions: &Tensor, targets: &Tensor) -> Result<f64> {
    once(MaximumError::default(), predictions, targets)
}
