//! The confusion matrix, from which every metric of hard decisions follows.

use std::borrow::Cow;

use candle_core::{DType, Tensor};

use crate::error::{Error, Result};
use crate::metrics::input::{in_range, labels, no_nan, numbers, predicted_classes, truths};
use crate::metrics::report::ClassificationReport;
use crate::metrics::scores::{Average, ClassScores, Undefined, average};
use crate::metrics::state::Part;
use crate::setters::setters;
use crate::sizes;
use crate::stateful::{Expected, State, Stateful, compare};

/// The confusion matrix of one set of predictions; its methods give every score of hard decisions.
///
/// `predictions`: `[N, C, …]`, scores, or `[N, …]`, classes; `targets`: `[N, …]`, classes.
///
/// | metric that streams | of the matrix, or in one call |
/// | --- | --- |
/// | [`Precision`](crate::metrics::Precision), [`Recall`](crate::metrics::Recall) | [`ConfusionMatrix::precision`], [`ConfusionMatrix::recall`]; [`precision`](crate::metrics::precision), [`recall`](crate::metrics::recall) |
/// | [`Specificity`](crate::metrics::Specificity) | [`ConfusionMatrix::specificity`]; [`specificity`](crate::metrics::specificity) |
/// | [`FBeta`](crate::metrics::FBeta) | [`ConfusionMatrix::f_beta`]; [`f_beta`](crate::metrics::f_beta) |
/// | [`BalancedAccuracy`](crate::metrics::BalancedAccuracy) | [`ConfusionMatrix::balanced_accuracy`]; [`balanced_accuracy`](crate::metrics::balanced_accuracy) |
/// | [`CohenKappa`](crate::metrics::CohenKappa) | [`ConfusionMatrix::cohen_kappa`]; [`cohen_kappa`](crate::metrics::cohen_kappa) |
/// | [`Matthews`](crate::metrics::Matthews) | [`ConfusionMatrix::matthews`]; [`matthews`](crate::metrics::matthews) |
/// | [`PixelAccuracy`](crate::metrics::PixelAccuracy) | [`ConfusionMatrix::accuracy`]; [`pixel_accuracy`](crate::metrics::pixel_accuracy) |
/// | [`MeanIou`](crate::metrics::MeanIou), [`MeanDice`](crate::metrics::MeanDice) | [`ConfusionMatrix::iou`], [`ConfusionMatrix::dice`]; [`mean_iou`](crate::metrics::mean_iou), [`mean_dice`](crate::metrics::mean_dice) |
///
/// # Errors
/// If there are fewer than 2 classes, the shapes do not fit, a target is not a class, or a score is
/// NaN.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let predicted = Tensor::new(&[0u32, 1, 0, 0], &Device::Cpu)?;
/// let matrix = confusion_matrix(&predicted, &Tensor::new(&[0u32, 1, 1, 0], &Device::Cpu)?, 2)?;
/// assert_eq!(matrix.rows()?, [[2, 0], [1, 1]]);
/// assert_eq!(matrix.specificity(Average::Class(1))?, 1.0);
/// # Ok::<(), candle_course::Error>(())
/// ```
pub fn confusion_matrix(predictions: &Tensor, targets: &Tensor, classes: usize) -> Result<ConfusionMatrix> {
    let mut matrix = ConfusionMatrix::new(classes)?;
    matrix.update(predictions, targets)?;
    Ok(matrix)
}

/// How often class i (row) was predicted as class j (column), over any number of batches.
///
/// On a GPU batches are kept until a value is asked for, so that no step waits for the device.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let mut matrix = ConfusionMatrix::new(2)?;
/// let predicted = Tensor::new(&[0u32, 1, 0, 0], &Device::Cpu)?;
/// let targets = Tensor::new(&[0u32, 1, 1, 0], &Device::Cpu)?;
/// matrix.update(&predicted, &targets)?;
/// assert_eq!(matrix.rows()?, [[2, 0], [1, 1]]);
/// assert_eq!(matrix.accuracy()?, 0.75);
/// assert_eq!(matrix.recall(Average::Class(1))?, 0.5);
/// assert_eq!(matrix.iou(Average::Macro)?, (2.0 / 3.0 + 1.0 / 2.0) / 2.0);
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct ConfusionMatrix {
    classes: usize,
    counts: Vec<u64>,
    pending: Vec<(Tensor, Tensor)>,
    names: Vec<String>,
    ignore_index: Option<i64>,
    threshold: Option<f64>,
    undefined: Undefined,
}

/// The options of a [`ConfusionMatrix`].
#[derive(Debug, Clone)]
#[must_use = "only what `build` gives counts"]
pub struct ConfusionMatrixBuilder {
    classes: usize,
    threshold: Option<f64>,
    ignore_index: Option<i64>,
    undefined: Undefined,
}

impl ConfusionMatrixBuilder {
    setters! {
        /// Predictions are one score each, positive above `threshold`, as for [`ConfusionMatrix::binary`].
        threshold(threshold: f64) => threshold = Some(threshold);
        /// The label of positions that do not count.
        ignore_index(ignore_index: i64) => ignore_index = Some(ignore_index);
        /// What scores are where they are not defined.
        undefined(undefined: Undefined) => undefined = undefined;
    }

    /// The matrix, nothing counted yet.
    ///
    /// # Errors
    /// If there are fewer than 2 classes, or a threshold and more than 2.
    pub fn build(self) -> Result<ConfusionMatrix> {
        let Self { classes, threshold, ignore_index, undefined } = self;
        if classes < 2 {
            return Err(Error::argument("classes", "at least 2", classes)
                .hint("for one score per example use `ConfusionMatrix::binary`"));
        }
        let matrix = match threshold {
            Some(_) if classes > 2 => {
                return Err(Error::argument("classes", "2 where one score has a threshold", classes));
            }
            Some(threshold) => ConfusionMatrix::binary(threshold),
            None => {
                // Twice: a batch is counted apart and then added.
                sizes::count_of::<[u64; 2]>("classes", &[classes, classes])?;
                ConfusionMatrix::empty(classes)
            }
        };
        Ok(ConfusionMatrix { ignore_index, undefined, ..matrix })
    }
}

impl Stateful for ConfusionMatrix {
    fn state(&self) -> Result<State> {
        let counts = self.settled()?.counts.tensor()?.reshape((self.classes, self.classes))?;
        Ok(State::from([("counts".to_owned(), counts)]))
    }

    fn load_state(&mut self, state: &State) -> Result<()> {
        self.counts = self.read(state)?;
        self.pending.clear();
        Ok(())
    }
}

/// Batches kept on a GPU before they are counted: bounds the memory they take.
const MAXIMUM_PENDING: usize = 256;

impl ConfusionMatrix {
    /// Of `classes` classes.
    ///
    /// # Errors
    /// If there are fewer than 2.
    pub fn new(classes: usize) -> Result<Self> {
        Self::builder(classes).build()
    }

    /// Of `classes` classes, with options: nothing ignored, undefined scores 0, unless told otherwise.
    pub fn builder(classes: usize) -> ConfusionMatrixBuilder {
        ConfusionMatrixBuilder { classes, threshold: None, ignore_index: None, undefined: Undefined::default() }
    }

    /// Of negative (0) and positive (1), for predictions of one score each: positive above
    /// `threshold` (0 for logits, 0.5 for probabilities).
    pub fn binary(threshold: f64) -> Self {
        Self { names: vec!["negative".to_owned(), "positive".to_owned()], threshold: Some(threshold), ..Self::empty(2) }
    }

    fn empty(classes: usize) -> Self {
        Self {
            classes,
            counts: vec![0; classes * classes],
            pending: Vec::new(),
            names: (0..classes).map(|class| class.to_string()).collect(),
            ignore_index: None,
            threshold: None,
            undefined: Undefined::default(),
        }
    }

    /// The same counts with names for tables and plots.
    ///
    /// # Errors
    /// If there is not one per class.
    pub fn class_names<S: Into<String>>(mut self, names: impl IntoIterator<Item = S>) -> Result<Self> {
        self.names = names.into_iter().map(Into::into).collect();
        if self.names.len() != self.classes {
            return Err(Error::argument("names", format!("one per class, {}", self.classes), self.names.len()));
        }
        Ok(self)
    }

    /// Takes in a batch.
    ///
    /// `predictions`: `[N, C, …]`, scores whose largest counts, or `[N, …]`, classes; for
    /// [`ConfusionMatrix::binary`] scores of the targets' shape. `targets`: `[N, …]`, classes.
    ///
    /// # Errors
    /// If the shapes do not fit, a target is not a class, or a score is NaN. On a GPU bad targets and
    /// binary scores show when the batch is counted; NaN among scores per class is not looked for there.
    pub fn update(&mut self, predictions: &Tensor, targets: &Tensor) -> Result<()> {
        let predicted = match self.threshold {
            Some(_) if !predictions.dtype().is_float() || predictions.dims() != targets.dims() => {
                return Err(Error::argument(
                    "predictions",
                    format!("one score per target, shape {:?}", targets.dims()),
                    format!("{} of shape {:?}", predictions.dtype().as_str(), predictions.dims()),
                ));
            }
            Some(_) => predictions.detach(),
            None => predicted_classes(predictions, targets, self.classes)?,
        };
        if predicted.device().is_cpu() && targets.device().is_cpu() {
            return self.count(&predicted, targets);
        }
        self.pending.push((predicted, targets.detach()));
        if self.pending.len() >= MAXIMUM_PENDING {
            *self = self.settled()?.into_owned();
        }
        Ok(())
    }

    fn count(&mut self, predicted: &Tensor, targets: &Tensor) -> Result<()> {
        let predicted: Vec<i64> = match self.threshold {
            Some(threshold) => {
                let scores = numbers("predictions", predicted)?;
                no_nan("predictions", &scores)?;
                scores.into_iter().map(|score| i64::from(score > threshold)).collect()
            }
            None => labels("predictions", predicted)?,
        };
        let truth: Vec<i64> = match (self.threshold, self.ignore_index) {
            (Some(_), None) => truths(targets)?.into_iter().map(i64::from).collect(),
            (Some(_), Some(_)) if targets.dtype().is_float() => {
                let whole = |label: f64| {
                    if label.fract() == 0.0 {
                        Ok(label as i64)
                    } else {
                        Err(Error::argument("targets", "0 and 1", label))
                    }
                };
                numbers("targets", targets)?.into_iter().map(whole).collect::<Result<_>>()?
            }
            _ => labels("targets", targets)?,
        };
        // Counted apart first: a bad label must not leave half a batch behind.
        let mut counts = vec![0u64; self.counts.len()];
        for (predicted, truth) in predicted.into_iter().zip(truth) {
            if Some(truth) == self.ignore_index {
                continue;
            }
            let truth = in_range(truth, self.classes)?;
            let predicted = usize::try_from(predicted)
                .ok()
                .filter(|&p| p < self.classes)
                .ok_or_else(|| Error::argument("predictions", format!("classes in 0..{}", self.classes), predicted))?;
            counts[truth * self.classes + predicted] += 1;
        }
        self.counts.add(&counts);
        Ok(())
    }

    /// This matrix with nothing pending.
    fn settled(&self) -> Result<Cow<'_, Self>> {
        if self.pending.is_empty() {
            return Ok(Cow::Borrowed(self));
        }
        let mut settled = self.clone();
        for (predicted, targets) in std::mem::take(&mut settled.pending) {
            settled.count(&predicted, &targets)?;
        }
        Ok(Cow::Owned(settled))
    }

    /// Adds what another matrix, whose state this is, has counted.
    ///
    /// # Errors
    /// If it is not the state of one of as many classes; nothing is added then.
    pub fn merge(&mut self, other: &State) -> Result<()> {
        self.counts.add(&self.read(other)?);
        Ok(())
    }

    fn read(&self, state: &State) -> Result<Vec<u64>> {
        let what = format!("this is not the state of a confusion matrix of {} classes", self.classes);
        compare(&what, state, [("counts", Expected::new(&[self.classes, self.classes], DType::I64))])?;
        Part::read(&state["counts"].flatten_all()?)
    }

    /// Forgets everything counted.
    pub fn reset(&mut self) {
        self.counts.fill(0);
        self.pending.clear();
    }

    /// How many classes.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// The names of the classes.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The counts, a row per true class.
    ///
    /// # Errors
    /// If a pending batch cannot be counted (a target that is not a class).
    pub fn rows(&self) -> Result<Vec<Vec<u64>>> {
        Ok(self.settled()?.counts.chunks_exact(self.classes).map(<[u64]>::to_vec).collect())
    }

    /// The shares of each true class (rows sum to 1): recall on the diagonal. `None` for classes
    /// that do not occur.
    ///
    /// # Errors
    /// As [`ConfusionMatrix::rows`].
    pub fn normalised_rows(&self) -> Result<Vec<Option<Vec<f64>>>> {
        let normalise = |row: Vec<u64>| {
            let total: u64 = row.iter().sum();
            (total > 0).then(|| row.iter().map(|&count| count as f64 / total as f64).collect())
        };
        Ok(self.rows()?.into_iter().map(normalise).collect())
    }

    /// How many examples were counted.
    ///
    /// # Errors
    /// As [`ConfusionMatrix::rows`].
    pub fn total(&self) -> Result<u64> {
        Ok(self.settled()?.counts.iter().sum())
    }

    /// The counts of each class against all others.
    ///
    /// # Errors
    /// As [`ConfusionMatrix::rows`].
    pub fn per_class(&self) -> Result<Vec<ClassScores>> {
        let rows = self.rows()?;
        let total: u64 = rows.iter().flatten().sum();
        let scores = (0..self.classes).map(|class| {
            let true_positives = rows[class][class];
            let support: u64 = rows[class].iter().sum();
            let predicted: u64 = rows.iter().map(|row| row[class]).sum();
            ClassScores {
                true_positives,
                false_positives: predicted - true_positives,
                false_negatives: support - true_positives,
                true_negatives: total + true_positives - support - predicted,
            }
        });
        Ok(scores.collect())
    }

    fn not_empty(&self, name: &str) -> Result<u64> {
        match self.total()? {
            0 => Err(Error::undefined(format!("{name} of no examples; call `update` first"))),
            total => Ok(total),
        }
    }

    /// The classes that have a truth: all but one whose label is ignored. What is predicted as that one
    /// is missed of the true class, but it is no class of its own.
    fn segmented(&self, name: &str, by: Average, score: impl Fn(&ClassScores) -> Option<f64>) -> Result<f64> {
        let mut classes = self.per_class()?;
        if let Some(ignored) = self.ignore_index.and_then(|index| classes.get_mut(usize::try_from(index).ok()?)) {
            *ignored = ClassScores::default();
        }
        average(name, &classes, by, self.undefined, score)
    }

    fn averaged(&self, name: &str, by: Average, score: impl Fn(&ClassScores) -> Option<f64>) -> Result<f64> {
        average(name, &self.per_class()?, by, self.undefined, score)
    }

    /// The share of right answers.
    ///
    /// # Errors
    /// If there is no example.
    pub fn accuracy(&self) -> Result<f64> {
        let total = self.not_empty("accuracy")?;
        let right: u64 = self.per_class()?.iter().map(|class| class.true_positives).sum();
        Ok(right as f64 / total as f64)
    }

    /// The mean recall of the classes that occur: what accuracy would be with all equally frequent.
    ///
    /// # Errors
    /// If there is no example.
    pub fn balanced_accuracy(&self) -> Result<f64> {
        self.not_empty("balanced accuracy")?;
        let recalls: Vec<f64> = self.per_class()?.iter().filter_map(ClassScores::recall).collect();
        Ok(recalls.iter().sum::<f64>() / recalls.len() as f64)
    }

    /// TP / (TP + FP), averaged.
    ///
    /// # Errors
    /// If there is no example, or as [`Undefined`] says.
    pub fn precision(&self, by: Average) -> Result<f64> {
        self.averaged("precision", by, ClassScores::precision)
    }

    /// TP / (TP + FN), averaged.
    ///
    /// # Errors
    /// As [`ConfusionMatrix::precision`].
    pub fn recall(&self, by: Average) -> Result<f64> {
        self.averaged("recall", by, ClassScores::recall)
    }

    /// TN / (TN + FP), averaged.
    ///
    /// # Errors
    /// As [`ConfusionMatrix::precision`].
    pub fn specificity(&self, by: Average) -> Result<f64> {
        self.averaged("specificity", by, ClassScores::specificity)
    }

    /// The weighted harmonic mean of precision and recall, averaged; see [`ClassScores::f_beta`].
    ///
    /// # Errors
    /// As [`ConfusionMatrix::precision`], and if β is not positive.
    pub fn f_beta(&self, beta: f64, by: Average) -> Result<f64> {
        if !(beta > 0.0 && beta.is_finite()) {
            return Err(Error::argument("beta", "a positive number", beta));
        }
        self.averaged("F-beta", by, |class| class.f_beta(beta))
    }

    /// F-beta with β = 1.
    ///
    /// # Errors
    /// As [`ConfusionMatrix::precision`].
    pub fn f1(&self, by: Average) -> Result<f64> {
        self.averaged("F1", by, |class| class.f_beta(1.0))
    }

    /// TP / (TP + FP + FN), averaged; with [`Average::Macro`] the mean IoU. A class whose label is
    /// ignored does not enter, also where it was predicted, as in torchmetrics' `JaccardIndex`: those
    /// positions are misses of their true classes.
    ///
    /// # Errors
    /// As [`ConfusionMatrix::precision`].
    pub fn iou(&self, by: Average) -> Result<f64> {
        self.segmented("IoU", by, ClassScores::iou)
    }

    /// 2 TP / (2 TP + FP + FN), averaged; an ignored class does not enter, as for
    /// [`ConfusionMatrix::iou`].
    ///
    /// # Errors
    /// As [`ConfusionMatrix::precision`].
    pub fn dice(&self, by: Average) -> Result<f64> {
        self.segmented("Dice", by, ClassScores::dice)
    }

    /// Cohen's kappa, (p_o − p_e)/(1 − p_e): agreement beyond what the class frequencies give by
    /// chance. (Cohen, "A coefficient of agreement for nominal scales", 1960.)
    ///
    /// # Errors
    /// If there is no example, or targets and predictions are all of one and the same class.
    pub fn cohen_kappa(&self) -> Result<f64> {
        let total = self.not_empty("Cohen's kappa")? as f64;
        let classes = self.per_class()?;
        let observed = classes.iter().map(|c| c.true_positives as f64).sum::<f64>() / total;
        let chance = classes.iter().map(|c| c.support() as f64 * c.predicted() as f64).sum::<f64>() / (total * total);
        if chance >= 1.0 {
            return Err(Error::undefined("Cohen's kappa where everything is, and is predicted as, one class: 0/0"));
        }
        Ok((observed - chance) / (1.0 - chance))
    }

    /// Matthews' correlation of targets and predictions, in [−1, 1], for any number of classes.
    /// (Gorodkin, "Comparing two K-category assignments by a K-category correlation coefficient", 2004.)
    ///
    /// # Errors
    /// If there is no example, or targets or predictions are all of one class.
    pub fn matthews(&self) -> Result<f64> {
        let total = self.not_empty("Matthews' correlation")? as f64;
        let classes = self.per_class()?;
        let sum = |f: &dyn Fn(&ClassScores) -> f64| classes.iter().map(f).sum::<f64>();
        let right = sum(&|c| c.true_positives as f64);
        let both = sum(&|c| c.support() as f64 * c.predicted() as f64);
        let predicted = total * total - sum(&|c| (c.predicted() as f64).powi(2));
        let truth = total * total - sum(&|c| (c.support() as f64).powi(2));
        if predicted <= 0.0 || truth <= 0.0 {
            return Err(Error::undefined(
                "Matthews' correlation where targets or predictions are all of one class: 0/0",
            ));
        }
        Ok((right * total - both) / (predicted * truth).sqrt())
    }

    /// Precision, recall and F1 of every class, as a table.
    ///
    /// # Errors
    /// If there is no example.
    pub fn report(&self) -> Result<ClassificationReport> {
        self.not_empty("a report")?;
        ClassificationReport::of(self)
    }
}
