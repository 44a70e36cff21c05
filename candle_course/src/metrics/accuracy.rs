//! The share of right answers.

use candle_core::{DType, Tensor};

use crate::error::{Error, Result};
use crate::metrics::input::{in_range, labels, predicted_classes};
use crate::metrics::{Direction, Metric};

/// The share of examples whose largest score is the target; see [`Accuracy`].
///
/// # Errors
/// If the shapes do not fit, or there is no example.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let logits = Tensor::new(&[[2f32, 1.], [0., 3.], [5., 4.]], &Device::Cpu)?;
/// let targets = Tensor::new(&[0u32, 1, 1], &Device::Cpu)?;
/// assert_eq!(accuracy(&logits, &targets)?, 2.0 / 3.0);
/// # Ok::<(), candle_course::Error>(())
/// ```
pub fn accuracy(predictions: &Tensor, targets: &Tensor) -> Result<f64> {
    let mut metric = Accuracy::default();
    metric.update(predictions, targets)?;
    metric.compute()
}

/// The share of examples (or pixels) whose largest score is the target.
///
/// `predictions`: `[N, C, …]`, logits or probabilities, or `[N, …]`, classes; `targets`: `[N, …]`,
/// classes. Counted on the device, read only by `compute`.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let mut accuracy = Accuracy::default();
/// accuracy.update(&Tensor::new(&[[2f32, 1.]], &Device::Cpu)?, &Tensor::new(&[0u32], &Device::Cpu)?)?;
/// accuracy.update(&Tensor::new(&[[2f32, 1.]], &Device::Cpu)?, &Tensor::new(&[1u32], &Device::Cpu)?)?;
/// assert_eq!(accuracy.compute()?, 0.5);
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Accuracy {
    correct: Option<Tensor>,
    seen: usize,
}

impl Accuracy {
    /// Adds what `other` has counted.
    ///
    /// # Errors
    /// If the two are on different devices.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        self.correct = match (&self.correct, &other.correct) {
            (Some(a), Some(b)) => Some((a + b)?),
            (a, b) => a.clone().or_else(|| b.clone()),
        };
        self.seen += other.seen;
        Ok(())
    }
}

impl Metric for Accuracy {
    fn name(&self) -> &str {
        "accuracy"
    }

    fn direction(&self) -> Direction {
        Direction::Maximize
    }

    fn update(&mut self, predictions: &Tensor, targets: &Tensor) -> Result<()> {
        let classes = predictions.dims().get(1).copied().unwrap_or(1);
        let predicted = predicted_classes(predictions, targets, classes)?.to_dtype(DType::U32)?;
        let correct = predicted.eq(&targets.to_dtype(DType::U32)?)?.to_dtype(DType::U32)?.sum_all()?;
        self.correct = Some(match &self.correct {
            Some(so_far) => (so_far + correct)?,
            None => correct,
        });
        self.seen += targets.elem_count();
        Ok(())
    }

    fn compute(&self) -> Result<f64> {
        match &self.correct {
            Some(correct) if self.seen > 0 => Ok(f64::from(correct.to_scalar::<u32>()?) / self.seen as f64),
            _ => Err(Error::undefined("accuracy of no examples; call `update` first")),
        }
    }

    fn reset(&mut self) {
        *self = Self::default();
    }
}

/// The share of examples whose target is among the k largest scores; see [`TopK`].
///
/// # Errors
/// As [`TopK`].
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let logits = Tensor::new(&[[3f32, 2., 1.], [3., 2., 1.]], &Device::Cpu)?;
/// let targets = Tensor::new(&[1u32, 2], &Device::Cpu)?;
/// assert_eq!(top_k_accuracy(&logits, &targets, 2)?, 0.5);
/// # Ok::<(), candle_course::Error>(())
/// ```
pub fn top_k_accuracy(predictions: &Tensor, targets: &Tensor, k: usize) -> Result<f64> {
    let mut metric = TopK::new(k)?;
    metric.update(predictions, targets)?;
    metric.compute()
}

/// The share of examples whose target is among the k largest scores.
///
/// `predictions`: `[N, C]`, scores; `targets`: `[N]`, classes. Of equal scores the class with the
/// smaller index comes first.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let mut top2 = TopK::new(2)?;
/// top2.update(&Tensor::new(&[[3f32, 2., 1.]], &Device::Cpu)?, &Tensor::new(&[1u32], &Device::Cpu)?)?;
/// assert_eq!((top2.name(), top2.compute()?), ("top-2 accuracy", 1.0));
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct TopK {
    k: usize,
    name: String,
    correct: u64,
    seen: u64,
}

impl TopK {
    /// Among the `k` largest.
    ///
    /// # Errors
    /// If `k` is 0.
    pub fn new(k: usize) -> Result<Self> {
        if k == 0 {
            return Err(Error::argument("k", "at least 1", k));
        }
        Ok(Self { k, name: format!("top-{k} accuracy"), correct: 0, seen: 0 })
    }

    /// Adds what `other` has counted.
    ///
    /// # Errors
    /// If its k is another.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        if self.k != other.k {
            return Err(Error::argument("other", format!("k = {}", self.k), other.k));
        }
        self.correct += other.correct;
        self.seen += other.seen;
        Ok(())
    }
}

impl Metric for TopK {
    fn name(&self) -> &str {
        &self.name
    }

    fn direction(&self) -> Direction {
        Direction::Maximize
    }

    fn update(&mut self, predictions: &Tensor, targets: &Tensor) -> Result<()> {
        let (&[examples, classes], &[targets_len]) = (predictions.dims(), targets.dims()) else {
            return Err(Error::argument(
                "predictions, targets",
                "shapes [N, C] and [N]",
                format!("{:?} and {:?}", predictions.dims(), targets.dims()),
            ));
        };
        if examples != targets_len || classes < self.k {
            return Err(Error::argument(
                "predictions",
                format!("{targets_len} rows of at least {} classes", self.k),
                format!("shape {:?}", predictions.dims()),
            ));
        }
        let scores: Vec<Vec<f64>> = predictions.detach().to_dtype(DType::F64)?.to_vec2()?;
        for (row, label) in scores.iter().zip(labels("targets", targets)?) {
            let label = in_range(label, classes)?;
            let before = row.iter().enumerate().filter(|&(c, &x)| x > row[label] || (x == row[label] && c < label));
            self.correct += u64::from(before.count() < self.k);
            self.seen += 1;
        }
        Ok(())
    }

    fn compute(&self) -> Result<f64> {
        if self.seen == 0 {
            return Err(Error::undefined(format!("{} of no examples; call `update` first", self.name)));
        }
        Ok(self.correct as f64 / self.seen as f64)
    }

    fn reset(&mut self) {
        (self.correct, self.seen) = (0, 0);
    }
}
