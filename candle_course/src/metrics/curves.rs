//! What a score can separate: ROC and precision–recall curves, and the areas under them.

use candle_core::Tensor;
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::metrics::input::{binary, class_probabilities, in_range, labels, numbers};
use crate::metrics::{Average, Direction, Metric};

/// A score and its truth in one number whose order is that of falling scores.
///
/// The bits of a float have the order of the floats once those of negative ones are flipped; the
/// truth takes the lowest bit of 65, so scores keep every bit.
fn key(score: f64, truth: bool) -> u128 {
    let bits = (if score == 0.0 { 0.0 } else { score }).to_bits(); // −0 is 0
    let rising = if bits >> 63 == 1 { !bits } else { bits | 1 << 63 };
    u128::from(!rising) << 1 | u128::from(truth)
}

fn score(key: u128) -> f64 {
    let rising = !((key >> 1) as u64);
    f64::from_bits(if rising >> 63 == 1 { rising ^ 1 << 63 } else { !rising })
}

/// Cumulative counts at every distinct score, from the largest down.
struct Steps {
    thresholds: Vec<f64>,
    true_positives: Vec<u64>,
    false_positives: Vec<u64>,
}

impl Steps {
    fn of(scores: &[f64], truths: &[bool]) -> Self {
        let narrow = scores.par_iter().with_min_len(1 << 14).all(|&s| f64::from(s as f32) == s);
        // Scores that are f32 sort as 33 bits in a u64: half the memory, twice the speed.
        if narrow {
            let mut keys: Vec<u64> = scores
                .par_iter()
                .zip(truths)
                .with_min_len(1 << 14)
                .map(|(&s, &truth)| {
                    let bits = (if s == 0.0 { 0.0 } else { s as f32 }).to_bits();
                    let rising = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
                    u64::from(!rising) << 1 | u64::from(truth)
                })
                .collect();
            keys.par_sort_unstable();
            let score = |key: u64| {
                let rising = !((key >> 1) as u32);
                f64::from(f32::from_bits(if rising >> 31 == 1 { rising ^ 1 << 31 } else { !rising }))
            };
            return Self::walk(keys.into_iter().map(|key| (key >> 1, key & 1, score(key))));
        }
        let mut keys: Vec<u128> = scores.par_iter().zip(truths).map(|(&s, &truth)| key(s, truth)).collect();
        keys.par_sort_unstable();
        Self::walk(keys.into_iter().map(|key| ((key >> 1) as u64, (key & 1) as u64, score(key))))
    }

    fn walk(sorted: impl Iterator<Item = (u64, u64, f64)>) -> Self {
        let mut steps = Self { thresholds: Vec::new(), true_positives: Vec::new(), false_positives: Vec::new() };
        let (mut positives, mut negatives, mut previous) = (0, 0, None);
        for (group, truth, score) in sorted {
            if previous.is_some() && previous != Some(group) {
                steps.true_positives.push(positives);
                steps.false_positives.push(negatives);
            }
            if previous != Some(group) {
                steps.thresholds.push(score);
                previous = Some(group);
            }
            positives += truth;
            negatives += 1 - truth;
        }
        if previous.is_some() {
            steps.true_positives.push(positives);
            steps.false_positives.push(negatives);
        }
        steps
    }

    fn positives(&self) -> u64 {
        self.true_positives.last().copied().unwrap_or(0)
    }

    fn negatives(&self) -> u64 {
        self.false_positives.last().copied().unwrap_or(0)
    }

    fn roc_auc(&self) -> Result<f64> {
        both_classes("the area under the ROC curve", self.positives(), self.negatives())?;
        // Twice the area in whole numbers: exact, whatever the order of the additions.
        let (mut twice, mut before) = (0u128, (0u64, 0u64));
        for (&tp, &fp) in self.true_positives.iter().zip(&self.false_positives) {
            twice += u128::from(tp + before.0) * u128::from(fp - before.1);
            before = (tp, fp);
        }
        Ok(twice as f64 / (2.0 * self.positives() as f64 * self.negatives() as f64))
    }

    fn average_precision(&self) -> Result<f64> {
        one_positive("average precision", self.positives())?;
        let (mut sum, mut before) = (0.0, 0);
        for (&tp, &fp) in self.true_positives.iter().zip(&self.false_positives) {
            sum += (tp - before) as f64 * tp as f64 / (tp + fp) as f64;
            before = tp;
        }
        Ok(sum / self.positives() as f64)
    }
}

fn both_classes(what: &str, positives: u64, negatives: u64) -> Result<()> {
    if positives == 0 || negatives == 0 {
        return Err(Error::undefined(format!("{what} needs positives and negatives, got {positives} and {negatives}")));
    }
    Ok(())
}

fn one_positive(what: &str, positives: u64) -> Result<()> {
    if positives == 0 {
        return Err(Error::undefined(format!("{what} needs at least one positive, got none")));
    }
    Ok(())
}

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
    let steps = Steps::of(&scores, &truths);
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
    let values = numbers("scores", scores)?;
    if values.iter().any(|score| score.is_nan()) {
        return Err(Error::argument("scores", "numbers", "NaN").hint("did the training diverge?"));
    }
    let labels = labels("targets", targets)?
        .into_iter()
        .map(|label| in_range(label, classes))
        .collect::<Result<Vec<usize>>>()?;
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
            Steps::of(&values, &truths).roc_auc()
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
    let steps = Steps::of(&scores, &truths);
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

macro_rules! of_scores {
    ($(#[$doc:meta])* $name:ident, $text:literal, $method:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Default)]
        pub struct $name {
            batches: Vec<(Tensor, Tensor)>,
        }

        impl $name {
            /// Of no examples yet.
            pub fn new() -> Self {
                Self::default()
            }

            /// Adds what `other` has seen.
            pub fn merge(&mut self, other: &Self) {
                self.batches.extend(other.batches.iter().cloned());
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
                self.batches.push((scores.detach(), targets.detach()));
                Ok(())
            }

            fn compute(&self) -> Result<f64> {
                let (mut scores, mut truths) = (Vec::new(), Vec::new());
                for (batch, targets) in &self.batches {
                    let (more, more_truths) = binary(batch, targets)?;
                    scores.extend(more);
                    truths.extend(more_truths);
                }
                Steps::of(&scores, &truths).$method()
            }

            fn reset(&mut self) {
                self.batches.clear();
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
    /// let mut auc = RocAuc::new();
    /// auc.update(&Tensor::new(&[0.1f32, 0.4], &Device::Cpu)?, &Tensor::new(&[0u32, 0], &Device::Cpu)?)?;
    /// assert!(auc.compute().is_err()); // no positive yet
    /// auc.update(&Tensor::new(&[0.35f32, 0.8], &Device::Cpu)?, &Tensor::new(&[1u32, 1], &Device::Cpu)?)?;
    /// assert_eq!(auc.compute()?, 0.75);
    /// # Ok::<(), candle_course::Error>(())
    /// ```
    RocAuc, "ROC AUC", roc_auc
}

of_scores! {
    /// [`average_precision`] over batches: keeps every score.
    ///
    /// # Examples
    ///
    /// ```
    /// use candle_course::prelude::*;
    ///
    /// let mut metric = AveragePrecision::new();
    /// metric.update(&Tensor::new(&[0.9f32, 0.4], &Device::Cpu)?, &Tensor::new(&[1u32, 0], &Device::Cpu)?)?;
    /// assert_eq!(metric.compute()?, 1.0);
    /// # Ok::<(), candle_course::Error>(())
    /// ```
    AveragePrecision, "average precision", average_precision
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_keep_the_order_and_the_scores() {
        let scores = [f64::INFINITY, 1e300, 1.0, f64::MIN_POSITIVE, 0.0, -1e-300, -2.0, f64::NEG_INFINITY];
        for pair in scores.windows(2) {
            assert!(key(pair[0], true) < key(pair[1], false), "{pair:?}");
        }
        for s in scores {
            assert_eq!(score(key(s, true)), s);
        }
        assert_eq!(key(-0.0, true), key(0.0, true));
    }

    #[test]
    fn wide_and_narrow_scores_give_the_same_curve() {
        let mut generator = crate::random::Generator::new(1);
        let scores: Vec<f64> = (0..500).map(|_| f64::from((generator.normal() * 8.0).round() as f32 / 8.0)).collect();
        let truths: Vec<bool> = (0..500).map(|_| generator.chance(0.3)).collect();
        let narrow = Steps::of(&scores, &truths);
        let mut wide_scores = scores.clone();
        wide_scores.push(0.1); // not an f32
        let mut wide_truths = truths.clone();
        wide_truths.push(false);
        let wide = Steps::of(&wide_scores, &wide_truths);
        let place = wide.thresholds.iter().position(|&t| t == 0.1).unwrap();
        let mut thresholds = wide.thresholds.clone();
        thresholds.remove(place);
        assert_eq!(thresholds, narrow.thresholds);
        let mut true_positives = wide.true_positives.clone();
        true_positives.remove(place);
        assert_eq!(true_positives, narrow.true_positives);
    }
}
