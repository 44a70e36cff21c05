//! Whether probabilities mean what they say.

use candle_core::{DType, Device, Tensor};

use crate::error::{Error, Result};
use crate::metrics::input::class_probabilities;
use crate::metrics::state::{another, keeps};
use crate::metrics::{Direction, Metric, once};
use crate::sizes;
use crate::stateful::State;

/// Predictions of about the same confidence.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CalibrationBin {
    /// From this confidence …
    pub from: f64,
    /// … to below this one (the last bin includes 1).
    pub to: f64,
    /// How many predictions fell here.
    pub count: u64,
    /// Their mean confidence, `None` without predictions.
    pub confidence: Option<f64>,
    /// How many of them were right, `None` without predictions.
    pub accuracy: Option<f64>,
}

/// Expected calibration error: the mean distance of confidence and accuracy over bins of equal
/// width, weighted by their counts.
///
/// `predictions`: `[N, C]`, probabilities; `targets`: `[N]`, classes. The confidence is the
/// largest probability. (Guo et al., "On calibration of modern neural networks", 2017.)
///
/// Bin i of n begins with i / n, rounded to the dtype of the predictions, as in torchmetrics: 0.7 of
/// ten bins is in the one from 0.7 on, in f32 too, where it is a little less than 7/10.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let mut error = CalibrationError::new(10)?;
/// let probabilities = Tensor::new(&[[0.75f64, 0.25], [0.75, 0.25]], &Device::Cpu)?;
/// error.update(&probabilities, &Tensor::new(&[0u32, 1], &Device::Cpu)?)?;
/// assert_eq!(error.compute()?, 0.25); // three quarters sure, right half of the time
/// assert_eq!(error.bins()[7].accuracy, Some(0.5));
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct CalibrationError {
    counts: Vec<u64>,
    confidences: Vec<f64>,
    right: Vec<u64>,
}

keeps!(CalibrationError adds counts, confidences, right);

impl CalibrationError {
    /// With that many bins (15 is usual).
    ///
    /// # Errors
    /// If there are none.
    pub fn new(bins: usize) -> Result<Self> {
        if bins == 0 {
            return Err(Error::argument("bins", "at least 1", bins));
        }
        sizes::check::<[f64; 4]>("bins", bins)?;
        Ok(Self { counts: vec![0; bins], confidences: vec![0.0; bins], right: vec![0; bins] })
    }

    /// The bins, for a reliability diagram.
    pub fn bins(&self) -> Vec<CalibrationBin> {
        let edge = |i: usize| i as f64 / self.counts.len() as f64;
        let bin = |i: usize| {
            let count = self.counts[i];
            let mean = |sum: f64| (count > 0).then(|| sum / count as f64);
            CalibrationBin {
                from: edge(i),
                to: edge(i + 1),
                count,
                confidence: mean(self.confidences[i]),
                accuracy: mean(self.right[i] as f64),
            }
        };
        (0..self.counts.len()).map(bin).collect()
    }
}

impl Metric for CalibrationError {
    fn name(&self) -> &str {
        "calibration error"
    }

    fn direction(&self) -> Direction {
        Direction::Minimize
    }

    fn update(&mut self, predictions: &Tensor, targets: &Tensor) -> Result<()> {
        let (values, labels, classes) = class_probabilities(predictions, targets)?;
        let bins = self.counts.len();
        let edges: Vec<f64> = (1..bins).map(|i| i as f64 / bins as f64).collect();
        let rounded = Tensor::from_vec(edges, bins - 1, &Device::Cpu)?.to_dtype(predictions.dtype())?;
        let edges = rounded.to_dtype(DType::F64)?.to_vec1::<f64>()?;
        for (row, &label) in values.chunks_exact(classes).zip(&labels) {
            let best = (1..classes).fold(0, |best, c| if row[c] > row[best] { c } else { best });
            let bin = edges.partition_point(|&edge| edge <= row[best]);
            self.counts[bin] += 1;
            self.confidences[bin] += row[best];
            self.right[bin] += u64::from(best == label);
        }
        Ok(())
    }

    fn merge(&mut self, other: &State) -> Result<()> {
        self.add(&another(self, other)?);
        Ok(())
    }

    fn compute(&self) -> Result<f64> {
        let total: u64 = self.counts.iter().sum();
        if total == 0 {
            return Err(Error::undefined("calibration error of no examples; call `update` first"));
        }
        let distances = self.confidences.iter().zip(&self.right).map(|(sum, &right)| (sum - right as f64).abs());
        Ok(distances.sum::<f64>() / total as f64)
    }

    fn reset(&mut self) {
        self.counts.fill(0);
        self.confidences.fill(0.0);
        self.right.fill(0);
    }
}

/// [`CalibrationError`] of one set of predictions.
///
/// # Errors
/// If the shapes do not fit, rows are not probabilities, or there is no example.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let probabilities = Tensor::new(&[[1f64, 0.], [0., 1.]], &Device::Cpu)?;
/// assert_eq!(calibration_error(&probabilities, &Tensor::new(&[0u32, 1], &Device::Cpu)?, 15)?, 0.0);
/// # Ok::<(), candle_course::Error>(())
/// ```
pub fn calibration_error(probabilities: &Tensor, targets: &Tensor, bins: usize) -> Result<f64> {
    once(CalibrationError::new(bins)?, probabilities, targets)
}

/// Log loss, −1/N Σ ln p of the true class, of probabilities; as `sklearn.metrics.log_loss`.
///
/// `predictions`: `[N, C]`, probabilities; `targets`: `[N]`, classes. As scikit-learn does, p is kept
/// as far from 0 and 1 as the epsilon of its dtype: a certain mistake costs 36 in f64 and 16 in f32
/// (and narrower dtypes), not infinity. As a loss to train with use
/// [`cross_entropy`](crate::losses::cross_entropy) on logits.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let mut metric = LogLoss::default();
/// metric.update(&Tensor::new(&[[0.25f64, 0.75]], &Device::Cpu)?, &Tensor::new(&[0u32], &Device::Cpu)?)?;
/// assert!((metric.compute()? - 4f64.ln()).abs() < 1e-15);
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LogLoss {
    sum: f64,
    seen: u64,
}

keeps!(LogLoss adds sum, seen);

impl Metric for LogLoss {
    fn name(&self) -> &str {
        "log loss"
    }

    fn direction(&self) -> Direction {
        Direction::Minimize
    }

    fn update(&mut self, predictions: &Tensor, targets: &Tensor) -> Result<()> {
        let (values, labels, classes) = class_probabilities(predictions, targets)?;
        let epsilon = if predictions.dtype() == DType::F64 { f64::EPSILON } else { f64::from(f32::EPSILON) };
        for (row, &label) in values.chunks_exact(classes).zip(&labels) {
            self.sum -= row[label].clamp(epsilon, 1.0 - epsilon).ln();
            self.seen += 1;
        }
        Ok(())
    }

    fn merge(&mut self, other: &State) -> Result<()> {
        self.add(&another(self, other)?);
        Ok(())
    }

    fn compute(&self) -> Result<f64> {
        if self.seen == 0 {
            return Err(Error::undefined("log loss of no examples; call `update` first"));
        }
        Ok(self.sum / self.seen as f64)
    }

    fn reset(&mut self) {
        *self = Self::default();
    }
}

/// [`LogLoss`] of one set of predictions.
///
/// # Errors
/// If the shapes do not fit, rows are not probabilities, or there is no example.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let probabilities = Tensor::new(&[[0.5f64, 0.5]], &Device::Cpu)?;
/// let loss = log_loss(&probabilities, &Tensor::new(&[1u32], &Device::Cpu)?)?;
/// assert!((loss - 2f64.ln()).abs() < 1e-15);
/// # Ok::<(), candle_course::Error>(())
/// ```
pub fn log_loss(probabilities: &Tensor, targets: &Tensor) -> Result<f64> {
    once(LogLoss::default(), probabilities, targets)
}
