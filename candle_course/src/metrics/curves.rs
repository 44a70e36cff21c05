//! What a score can separate: ROC and precision–recall curves, and the areas under them.

use candle_core::{DType, Device, Tensor};

use crate::error::{Error, Result};
use crate::metrics::input::{binary, class_probabilities, in_range, labels, no_nan, numbers};
use crate::metrics::state::{another, state_of};
use crate::metrics::steps::{Steps, both_classes, one_positive};
use crate::metrics::{Average, Direction, Metric};
use crate::stateful::{self, Expected, State, Stateful, compare};

/// True against false positive rates at every threshold, from the strictest down.
///
/// Point 0 is (0, 0) at threshold +∞: nothing is predicted positive.
#[derive(Debug, Clone, PartialEq)]
pub struct RocCurve {
    /// FP / negatives.
    pub false_positive_rate: Vec<f64>,
    /// TP / positives.
    pub true_positive_rate: Vec<f64>,
    /// Positive means a score of at least this.
    pub thresholds: Vec<f64>,
}

impl RocCurve {
    /// The area under the curve, by trapezoids.
    pub fn area(&self) -> f64 {
        let (x, y) = (&self.false_positive_rate, &self.true_positive_rate);
        (1..x.len()).map(|i| (x[i] - x[i - 1]) * (y[i] + y[i - 1]) / 2.0).sum()
    }
}

/// The ROC curve of `scores` (logits or probabilities, any shape) for `targets` 0 and 1.
///
/// As `sklearn.metrics.roc_curve(…, drop_intermediate=False)`.
///
/// # Errors
/// If the shapes differ, a score is NaN, a target is neither 0 nor 1, or one of them is missing.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let scores = Tensor::new(&[0.1f32, 0.4, 0.35, 0.8], &Device::Cpu)?;
/// let targets = Tensor::new(&[0u32, 0, 1, 1], &Device::Cpu)?;
/// let curve = roc_curve(&scores, &targets)?;
/// assert_eq!(curve.false_positive_rate, [0.0, 0.0, 0.5, 0.5, 1.0]);
/// assert_eq!(curve.true_positive_rate, [0.0, 0.5, 0.5, 1.0, 1.0]);
/// assert_eq!(curve.area(), 0.75);
/// # Ok::<(), candle_course::Error>(())
/// ```
pub fn roc_curve(scores: &Tensor, targets: &Tensor) -> Result<RocCurve> {
    let (scores, truths) = binary(scores, targets)?;
    roc(Steps::of(&scores, &truths))
}

fn roc(steps: Steps) -> Result<RocCurve> {
    both_classes("the ROC curve", steps.positives(), steps.negatives())?;
    let rates = |counts: &[u64], total: u64| {
        std::iter::once(0.0).chain(counts.iter().map(|&count| count as f64 / total as f64)).collect()
    };
    Ok(RocCurve {
        false_positive_rate: rates(&steps.false_positives, steps.negatives()),
        true_positive_rate: rates(&steps.true_positives, steps.positives()),
        thresholds: std::iter::once(f64::INFINITY).chain(steps.thresholds).collect(),
    })
}

/// The area under the ROC curve: the chance that a positive scores above a negative.
///
/// `scores`: any shape, logits or probabilities; `targets`: the same shape, 0 and 1.
///
/// # Errors
/// As [`roc_curve`].
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let scores = Tensor::new(&[0.1f32, 0.4, 0.35, 0.8], &Device::Cpu)?;
/// assert_eq!(roc_auc(&scores, &Tensor::new(&[0u32, 0, 1, 1], &Device::Cpu)?)?, 0.75);
/// assert!(roc_auc(&scores, &Tensor::new(&[0u32, 0, 0, 0], &Device::Cpu)?).is_err()); // no positive
/// # Ok::<(), candle_course::Error>(())
/// ```
pub fn roc_auc(scores: &Tensor, targets: &Tensor) -> Result<f64> {
    let (scores, truths) = binary(scores, targets)?;
    Steps::of(&scores, &truths).roc_auc()
}

/// The area under the ROC curve of each class against all others, averaged.
///
/// `scores`: `[N, C]`; `targets`: `[N]`, classes. [`Average::Micro`] takes all N·C decisions as
/// one. As `sklearn.metrics.roc_auc_score(…, multi_class="ovr")`.
///
/// # Errors
/// If the shapes do not fit, or a class that enters the average has no positive or no negative.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let scores = Tensor::new(&[[0.7f64, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]], &Device::Cpu)?;
/// let targets = Tensor::new(&[0u32, 1, 2], &Device::Cpu)?;
/// assert_eq!(roc_auc_one_vs_rest(&scores, &targets, Average::Macro)?, 1.0);
/// # Ok::<(), candle_course::Error>(())
/// ```
pub fn roc_auc_one_vs_rest(scores: &Tensor, targets: &Tensor, average: Average) -> Result<f64> {
    let classes = one_vs_rest_classes(scores, targets)?;
    let (values, labels) = one_vs_rest_input(scores, targets, classes)?;
    one_vs_rest(&values, &labels, classes, average)
}

/// The number of classes of scores `[N, C]` that fit targets `[N]`.
fn one_vs_rest_classes(scores: &Tensor, targets: &Tensor) -> Result<usize> {
    let (&[examples, classes], &[targets_len]) = (scores.dims(), targets.dims()) else {
        return Err(Error::argument(
            "scores, targets",
            "shapes [N, C] and [N]",
            format!("{:?} and {:?}", scores.dims(), targets.dims()),
        ));
    };
    if examples != targets_len {
        return Err(Error::argument("targets", format!("{examples} classes"), targets_len));
    }
    Ok(classes)
}

fn one_vs_rest_input(scores: &Tensor, targets: &Tensor, classes: usize) -> Result<(Vec<f64>, Vec<usize>)> {
    let values = numbers("scores", scores)?;
    no_nan("scores", &values)?;
    let labels = labels("targets", targets)?.into_iter().map(|label| in_range(label, classes));
    Ok((values, labels.collect::<Result<_>>()?))
}

fn one_vs_rest(values: &[f64], labels: &[usize], classes: usize, average: Average) -> Result<f64> {
    if labels.is_empty() {
        return Err(Error::undefined("one-vs-rest ROC AUC of no examples; call `update` first"));
    }
    let of_class = |class: usize| {
        let scores: Vec<f64> = values.iter().skip(class).step_by(classes).copied().collect();
        let truths: Vec<bool> = labels.iter().map(|&label| label == class).collect();
        Steps::of(&scores, &truths).roc_auc().map_err(|error| error.context(format!("class {class} against the rest")))
    };
    match average {
        Average::Class(class) if class < classes => of_class(class),
        Average::Class(class) => Err(Error::argument("average", format!("a class in 0..{classes}"), class)),
        Average::Micro => {
            let truths: Vec<bool> = (0..values.len()).map(|i| labels[i / classes] == i % classes).collect();
            Steps::of(values, &truths).roc_auc()
        }
        Average::Macro => Ok((0..classes).map(of_class).sum::<Result<f64>>()? / classes as f64),
        Average::Weighted => {
            let support = |class: usize| labels.iter().filter(|&&label| label == class).count() as f64;
            let weighted = (0..classes).map(|class| Ok(of_class(class)? * support(class)));
            Ok(weighted.sum::<Result<f64>>()? / labels.len() as f64)
        }
    }
}

/// Precision against recall at every threshold, from the laxest up, ending in (1, 0).
#[derive(Debug, Clone, PartialEq)]
pub struct PrecisionRecallCurve {
    /// TP / (TP + FP); one more than thresholds, the last being 1 by convention.
    pub precision: Vec<f64>,
    /// TP / positives; one more than thresholds, the last being 0.
    pub recall: Vec<f64>,
    /// Positive means a score of at least this, rising.
    pub thresholds: Vec<f64>,
}

/// The precision–recall curve of `scores` for `targets` 0 and 1.
///
/// As `sklearn.metrics.precision_recall_curve`. Unlike the ROC curve it shows what rare positives
/// cost: a random score has a precision of their share.
///
/// # Errors
/// If the shapes differ, a score is NaN, a target is neither 0 nor 1, or there is no positive.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let scores = Tensor::new(&[0.1f32, 0.4, 0.35, 0.8], &Device::Cpu)?;
/// let targets = Tensor::new(&[0u32, 0, 1, 1], &Device::Cpu)?;
/// let curve = precision_recall_curve(&scores, &targets)?;
/// assert_eq!(curve.precision, [0.5, 2.0 / 3.0, 0.5, 1.0, 1.0]);
/// assert_eq!(curve.recall, [1.0, 1.0, 0.5, 0.5, 0.0]);
/// # Ok::<(), candle_course::Error>(())
/// ```
pub fn precision_recall_curve(scores: &Tensor, targets: &Tensor) -> Result<PrecisionRecallCurve> {
    let (scores, truths) = binary(scores, targets)?;
    precision_recall(Steps::of(&scores, &truths))
}

fn precision_recall(steps: Steps) -> Result<PrecisionRecallCurve> {
    one_positive("the precision–recall curve", steps.positives())?;
    let points = || steps.true_positives.iter().zip(&steps.false_positives).rev();
    Ok(PrecisionRecallCurve {
        precision: points().map(|(&tp, &fp)| tp as f64 / (tp + fp) as f64).chain([1.0]).collect(),
        recall: points().map(|(&tp, _)| tp as f64 / steps.positives() as f64).chain([0.0]).collect(),
        thresholds: steps.thresholds.iter().rev().copied().collect(),
    })
}

/// Average precision, Σ (Rₙ − Rₙ₋₁) Pₙ: the precision–recall curve in one number.
///
/// As `sklearn.metrics.average_precision_score`, without interpolation.
///
/// # Errors
/// As [`precision_recall_curve`].
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let scores = Tensor::new(&[0.1f32, 0.4, 0.35, 0.8], &Device::Cpu)?;
/// let targets = Tensor::new(&[0u32, 0, 1, 1], &Device::Cpu)?;
/// assert_eq!(average_precision(&scores, &targets)?, 0.5 * 1.0 + 0.5 * 2.0 / 3.0);
/// # Ok::<(), candle_course::Error>(())
/// ```
pub fn average_precision(scores: &Tensor, targets: &Tensor) -> Result<f64> {
    let (scores, truths) = binary(scores, targets)?;
    Steps::of(&scores, &truths).average_precision()
}

/// Every batch of scores and targets so far, where they are.
#[derive(Debug, Clone, Default)]
struct Kept {
    batches: Vec<(Tensor, Tensor)>,
}

impl Kept {
    fn push(&mut self, scores: &Tensor, targets: &Tensor) {
        self.batches.push((scores.detach(), targets.detach()));
    }

    /// All scores and all targets, as `read` has them of a batch.
    fn all<T>(&self, read: impl Fn(&Tensor, &Tensor) -> Result<(Vec<f64>, Vec<T>)>) -> Result<(Vec<f64>, Vec<T>)> {
        let (mut scores, mut targets) = (Vec::new(), Vec::new());
        for (batch, batch_targets) in &self.batches {
            let (more, more_targets) = read(batch, batch_targets)?;
            scores.extend(more);
            targets.extend(more_targets);
        }
        Ok((scores, targets))
    }
}

/// One tensor of scores, `[N]` or `[N, C]`, and one of targets, `[N]`; none without a batch.
impl Stateful for Kept {
    fn state(&self) -> Result<State> {
        if self.batches.is_empty() {
            return Ok(State::new());
        }
        let joined = |tensors: Vec<Tensor>| -> Result<Tensor> {
            let wide = if tensors[0].dtype().is_float() { DType::F64 } else { DType::I64 };
            let tensors = tensors.iter().map(|tensor| Ok(tensor.to_device(&Device::Cpu)?.to_dtype(wide)?));
            Ok(Tensor::cat(&tensors.collect::<Result<Vec<_>>>()?, 0)?)
        };
        let flat = |(scores, targets): &(Tensor, Tensor)| -> Result<(Tensor, Tensor)> {
            let of_classes = scores.rank() > targets.rank();
            Ok((if of_classes { scores.clone() } else { scores.flatten_all()? }, targets.flatten_all()?))
        };
        let (scores, targets) = self.batches.iter().map(flat).collect::<Result<(Vec<_>, Vec<_>)>>()?;
        Ok([("scores".to_owned(), joined(scores)?), ("targets".to_owned(), joined(targets)?)].into())
    }

    fn load_state(&mut self, state: &State) -> Result<()> {
        let (Some(scores), Some(targets), 2) = (state.get("scores"), state.get("targets"), state.len()) else {
            stateful::none("this is not the state of a metric of scores", state)?;
            self.batches.clear();
            return Ok(());
        };
        // As many as there are; that the one goes with the other has to be so.
        let examples = &scores.dims()[..scores.rank().min(1)];
        let labels = if targets.dtype().is_float() { DType::F64 } else { DType::I64 };
        let expected =
            [("scores", Expected::new(scores.dims(), DType::F64)), ("targets", Expected::new(examples, labels))];
        compare("this is not the state of a metric of scores", state, expected)?;
        self.batches = vec![(scores.clone(), targets.clone())];
        Ok(())
    }
}

macro_rules! of_scores {
    ($(#[$doc:meta])* $name:ident, $text:literal, $method:ident, $curve:ident -> $Curve:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Default)]
        pub struct $name {
            kept: Kept,
        }

        state_of!($name: kept);

        impl $name {
            /// The curve over everything so far.
            ///
            /// # Errors
            /// As `compute`.
            pub fn curve(&self) -> Result<$Curve> {
                $curve(self.steps()?)
            }

            fn steps(&self) -> Result<Steps> {
                let (scores, truths) = self.kept.all(binary)?;
                Ok(Steps::of(&scores, &truths))
            }
        }

        impl Metric for $name {
            fn name(&self) -> &str {
                $text
            }

            fn direction(&self) -> Direction {
                Direction::Maximize
            }

            /// `predictions`: scores of any shape, or `[N, 2]`, probabilities of which class 1 counts;
            /// `targets`: 0 and 1.
            fn update(&mut self, predictions: &Tensor, targets: &Tensor) -> Result<()> {
                let two_columns = predictions.rank() == targets.rank() + 1 && predictions.dims().get(1) == Some(&2);
                let scores = if two_columns {
                    class_probabilities(predictions, targets)?;
                    predictions.narrow(1, 1, 1)?.squeeze(1)?
                } else {
                    predictions.clone()
                };
                if scores.device().is_cpu() {
                    binary(&scores, targets)?;
                } else if scores.dims() != targets.dims() {
                    return Err(Error::argument(
                        "targets",
                        format!("the shape of the scores, {:?}", scores.dims()),
                        format!("{:?}", targets.dims()),
                    ));
                }
                self.kept.push(&scores, targets);
                Ok(())
            }

            fn merge(&mut self, other: &State) -> Result<()> {
                self.kept.batches.extend(another(&self.kept, other)?.batches);
                Ok(())
            }

            fn compute(&self) -> Result<f64> {
                self.steps()?.$method()
            }

            fn reset(&mut self) {
                self.kept.batches.clear();
            }
        }
    };
}

of_scores! {
    /// [`roc_auc`] over batches: keeps every score.
    ///
    /// # Examples
    ///
    /// ```
    /// use candle_course::prelude::*;
    ///
    /// let mut auc = RocAuc::default();
    /// auc.update(&Tensor::new(&[0.1f32, 0.4], &Device::Cpu)?, &Tensor::new(&[0u32, 0], &Device::Cpu)?)?;
    /// assert!(auc.compute().is_err()); // no positive yet
    /// auc.update(&Tensor::new(&[0.35f32, 0.8], &Device::Cpu)?, &Tensor::new(&[1u32, 1], &Device::Cpu)?)?;
    /// assert_eq!(auc.compute()?, 0.75);
    /// assert_eq!(auc.curve()?.true_positive_rate, [0.0, 0.5, 0.5, 1.0, 1.0]);
    /// # Ok::<(), candle_course::Error>(())
    /// ```
    RocAuc, "ROC AUC", roc_auc, roc -> RocCurve
}

of_scores! {
    /// [`average_precision`] over batches: keeps every score.
    ///
    /// # Examples
    ///
    /// ```
    /// use candle_course::prelude::*;
    ///
    /// let mut metric = AveragePrecision::default();
    /// metric.update(&Tensor::new(&[0.9f32, 0.4], &Device::Cpu)?, &Tensor::new(&[1u32, 0], &Device::Cpu)?)?;
    /// assert_eq!(metric.compute()?, 1.0);
    /// assert_eq!(metric.curve()?.precision, [0.5, 1.0, 1.0]);
    /// # Ok::<(), candle_course::Error>(())
    /// ```
    AveragePrecision, "average precision", average_precision, precision_recall -> PrecisionRecallCurve
}

/// [`roc_auc_one_vs_rest`] over batches: keeps every score.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let mut auc = RocAucOneVsRest::new(Average::Macro);
/// let scores = Tensor::new(&[[0.7f64, 0.2, 0.1], [0.1, 0.8, 0.1]], &Device::Cpu)?;
/// auc.update(&scores, &Tensor::new(&[0u32, 1], &Device::Cpu)?)?;
/// assert!(auc.compute().is_err()); // class 2 has not occurred yet
/// auc.update(&Tensor::new(&[[0.3f64, 0.3, 0.4]], &Device::Cpu)?, &Tensor::new(&[2u32], &Device::Cpu)?)?;
/// assert_eq!(auc.compute()?, 1.0);
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct RocAucOneVsRest {
    average: Average,
    kept: Kept,
}

impl RocAucOneVsRest {
    /// Averaged like that over classes.
    pub fn new(average: Average) -> Self {
        Self { average, kept: Kept::default() }
    }

    fn classes(&self) -> Option<usize> {
        self.kept.batches.first().map(|(scores, _)| scores.dims()[1])
    }

    fn agree(&self, name: &str, classes: usize) -> Result<()> {
        match self.classes() {
            Some(so_far) if so_far != classes => {
                Err(Error::argument(name, format!("scores of {so_far} classes, as before"), classes))
            }
            _ => Ok(()),
        }
    }
}

impl Stateful for RocAucOneVsRest {
    fn state(&self) -> Result<State> {
        self.kept.state()
    }

    fn load_state(&mut self, state: &State) -> Result<()> {
        let kept = another(&self.kept, state)?;
        if let Some((scores, targets)) = kept.batches.first() {
            one_vs_rest_classes(scores, targets)?;
        }
        self.kept = kept;
        Ok(())
    }
}

impl Metric for RocAucOneVsRest {
    fn name(&self) -> &str {
        "one-vs-rest ROC AUC"
    }

    fn direction(&self) -> Direction {
        Direction::Maximize
    }

    /// `predictions`: `[N, C]`, scores; `targets`: `[N]`, classes.
    fn update(&mut self, predictions: &Tensor, targets: &Tensor) -> Result<()> {
        let classes = one_vs_rest_classes(predictions, targets)?;
        if predictions.device().is_cpu() && targets.device().is_cpu() {
            one_vs_rest_input(predictions, targets, classes)?;
        }
        self.agree("predictions", classes)?;
        self.kept.push(predictions, targets);
        Ok(())
    }

    fn merge(&mut self, other: &State) -> Result<()> {
        let other = another(self, other)?;
        if let Some(classes) = other.classes() {
            self.agree("other", classes)?;
        }
        self.kept.batches.extend(other.kept.batches);
        Ok(())
    }

    fn compute(&self) -> Result<f64> {
        let classes = self.classes().unwrap_or_default();
        let (values, labels) = self.kept.all(|scores, targets| one_vs_rest_input(scores, targets, classes))?;
        one_vs_rest(&values, &labels, classes, self.average)
    }

    fn reset(&mut self) {
        self.kept.batches.clear();
    }
}
