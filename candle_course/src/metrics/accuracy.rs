//! The share of right answers.

use candle_core::{DType, Tensor};

use crate::error::{Error, Result};
use crate::metrics::input::{in_range, labels, no_nan, numbers, predicted_classes};
use crate::metrics::state::{another, keeps};
use crate::metrics::{Direction, Metric, once};
use crate::stateful::{Expected, State, Stateful, compare, nest, part};

/// The share of examples whose largest score is the target; see [`Accuracy`].
///
/// # Errors
/// If the shapes do not fit, a score is NaN or a label no class (on the CPU), or there is no example.
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
    once(Accuracy::default(), predictions, targets)
}

/// The share of examples (or pixels) whose largest score is the target.
///
/// `predictions`: `[N, C, …]`, logits or probabilities, or `[N, …]`, classes; `targets`: `[N, …]`,
/// classes. For one score per example use [`ConfusionMatrix::binary`](crate::metrics::ConfusionMatrix::binary).
///
/// NaN scores and labels that are no class are errors. On a GPU answers are counted there and read
/// only by `compute`; looking for NaN and bad labels would wait for the device, so there they are not
/// found: a bad label counts as a wrong answer.
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
    hits: Hits,
    /// What was right among the seen on a GPU, not read yet.
    on_device: Option<Tensor>,
}

/// Right answers among those seen.
#[derive(Debug, Clone, Copy, Default)]
struct Hits {
    correct: u64,
    seen: u64,
}

keeps!(Hits adds correct, seen);

impl Hits {
    fn share(&self, name: &str) -> Result<f64> {
        if self.seen == 0 {
            return Err(Error::undefined(format!("{name} of no examples; call `update` first")));
        }
        Ok(self.correct as f64 / self.seen as f64)
    }
}

impl Accuracy {
    /// Everything that was seen; this waits for the device.
    fn settled(&self) -> Result<Hits> {
        let on_device = self.on_device.as_ref().map_or(Ok(0), |count| count.to_scalar::<i64>())?;
        Ok(Hits { correct: self.hits.correct + on_device as u64, seen: self.hits.seen })
    }
}

impl Stateful for Accuracy {
    fn state(&self) -> Result<State> {
        self.settled()?.state()
    }

    fn load_state(&mut self, state: &State) -> Result<()> {
        *self = Self { hits: another(&Hits::default(), state)?, on_device: None };
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
        let classes = predictions.dims().get(1).copied().unwrap_or(0).max(2);
        let predicted = predicted_classes(predictions, targets, classes)?;
        if predicted.device().is_cpu() && targets.device().is_cpu() {
            // How many classes there are, predicted classes do not say.
            let classes = if predictions.dtype().is_float() { classes } else { usize::MAX };
            let mut correct = 0;
            for (predicted, label) in labels("predictions", &predicted)?.into_iter().zip(labels("targets", targets)?) {
                let label = within(label, classes)?;
                correct += u64::from(usize::try_from(predicted) == Ok(label));
            }
            self.hits.correct += correct;
        } else {
            let equal = predicted.to_dtype(DType::I64)?.eq(&targets.detach().to_dtype(DType::I64)?)?;
            let correct = equal.to_dtype(DType::U32)?.sum_all()?.to_dtype(DType::I64)?;
            self.on_device = Some(match &self.on_device {
                Some(so_far) => (so_far + correct)?,
                None => correct,
            });
        }
        self.hits.seen += targets.elem_count() as u64;
        Ok(())
    }

    fn merge(&mut self, other: &State) -> Result<()> {
        self.hits.add(&another(&Hits::default(), other)?);
        Ok(())
    }

    fn compute(&self) -> Result<f64> {
        self.settled()?.share(self.name())
    }

    fn reset(&mut self) {
        *self = Self::default();
    }
}

/// A label among the classes. Accuracy has no `ignore_index`: where to look for one is said.
fn within(label: i64, classes: usize) -> Result<usize> {
    usize::try_from(label).ok().filter(|&label| label < classes).ok_or_else(|| {
        let range =
            if classes == usize::MAX { "classes from 0".to_owned() } else { format!("classes in 0..{classes}") };
        Error::argument("targets", range, label).hint(if label == 255 || label < 0 {
            format!("is {label} the label of unknown pixels? use `PixelAccuracy` with `ignore_index({label})`")
        } else {
            "does the model have one output per class?".to_owned()
        })
    })
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
    once(TopK::new(k)?, predictions, targets)
}

/// The share of examples whose target is among the k largest scores.
///
/// `predictions`: `[N, C]`, scores; `targets`: `[N]`, classes. Of equal scores the class with the
/// smaller index comes first. A NaN score or a label that is no class is an error on every device.
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
    hits: Hits,
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
        Ok(Self { k, name: format!("top-{k} accuracy"), hits: Hits::default() })
    }

    /// What its state is filed under: that of another k does not fit.
    fn section(&self) -> String {
        format!("top_{}", self.k)
    }
}

impl Stateful for TopK {
    fn state(&self) -> Result<State> {
        Ok(nest(&self.section(), self.hits.state()?))
    }

    fn load_state(&mut self, state: &State) -> Result<()> {
        let expected = self.state()?.into_iter().map(|(name, tensor)| (name, Expected::new(&[], tensor.dtype())));
        compare(&format!("this is not the state of a {}", self.name), state, expected)?;
        self.hits.load_state(&part(state, &self.section()))
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
        let scores = numbers("predictions", predictions)?;
        no_nan("predictions", &scores)?;
        let labels = labels("targets", targets)?.into_iter().map(|label| in_range(label, classes));
        let labels = labels.collect::<Result<Vec<usize>>>()?;
        for (row, label) in scores.chunks_exact(classes).zip(labels) {
            let before = row.iter().enumerate().filter(|&(c, &x)| x > row[label] || (x == row[label] && c < label));
            self.hits.correct += u64::from(before.count() < self.k);
            self.hits.seen += 1;
        }
        Ok(())
    }

    fn merge(&mut self, other: &State) -> Result<()> {
        let mut seen = self.clone();
        seen.load_state(other)?;
        self.hits.add(&seen.hits);
        Ok(())
    }

    fn compute(&self) -> Result<f64> {
        self.hits.share(&self.name)
    }

    fn reset(&mut self) {
        self.hits = Hits::default();
    }
}
