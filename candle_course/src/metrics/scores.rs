//! Scores of single classes, and how they become one number.

use crate::error::{Error, Result};

/// How scores of single classes become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Average {
    /// The mean over classes: a rare class counts as much as a frequent one.
    #[default]
    Macro,
    /// From the counts of all classes together: every example counts the same.
    Micro,
    /// The mean over classes weighted by their number of examples.
    Weighted,
    /// Of one class alone (the positive class 1, say).
    Class(usize),
}

/// What a score is where it is not defined: a precision of a class that is never predicted, a
/// recall of a class that does not occur.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Undefined {
    /// 0, as scikit-learn: a class that the model never finds does not vanish from the mean.
    #[default]
    Zero,
    /// Left out of the mean (scikit-learn's `zero_division=nan`); an error if nothing is left.
    Skip,
    /// An error.
    Error,
}

/// The counts of one class against all others, and what follows from them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ClassScores {
    /// Of this class and predicted so.
    pub true_positives: u64,
    /// Of another class but predicted as this.
    pub false_positives: u64,
    /// Of this class but predicted as another.
    pub false_negatives: u64,
    /// Of another class and predicted as another.
    pub true_negatives: u64,
}

fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

impl ClassScores {
    /// How many examples are of this class.
    pub fn support(&self) -> u64 {
        self.true_positives + self.false_negatives
    }

    /// How many examples were predicted as this class.
    pub fn predicted(&self) -> u64 {
        self.true_positives + self.false_positives
    }

    /// Whether the class occurs in the targets or the predictions.
    pub fn occurs(&self) -> bool {
        self.support() + self.predicted() > 0
    }

    /// TP / (TP + FP): of what was predicted as this class, how much is. `None` if nothing was.
    pub fn precision(&self) -> Option<f64> {
        ratio(self.true_positives, self.predicted())
    }

    /// TP / (TP + FN): of this class, how much was found. `None` if it does not occur.
    pub fn recall(&self) -> Option<f64> {
        ratio(self.true_positives, self.support())
    }

    /// TN / (TN + FP): of the others, how much was left alone. `None` if there are none.
    pub fn specificity(&self) -> Option<f64> {
        ratio(self.true_negatives, self.true_negatives + self.false_positives)
    }

    /// (1 + β²) TP / ((1 + β²) TP + β² FN + FP); β > 1 favours recall. `None` if the class neither
    /// occurs nor is predicted.
    pub fn f_beta(&self, beta: f64) -> Option<f64> {
        let squared = beta * beta;
        let top = (1.0 + squared) * self.true_positives as f64;
        let bottom = top + squared * self.false_negatives as f64 + self.false_positives as f64;
        (bottom > 0.0).then(|| top / bottom)
    }

    /// TP / (TP + FP + FN), the Jaccard index. `None` if the class neither occurs nor is predicted.
    pub fn iou(&self) -> Option<f64> {
        ratio(self.true_positives, self.true_positives + self.false_positives + self.false_negatives)
    }

    /// 2 TP / (2 TP + FP + FN), the same as F1. `None` if the class neither occurs nor is predicted.
    pub fn dice(&self) -> Option<f64> {
        self.f_beta(1.0)
    }
}

/// Averages `score` over `classes`. As in scikit-learn, classes that neither occur nor are
/// predicted do not enter.
pub(crate) fn average(
    name: &str,
    classes: &[ClassScores],
    average: Average,
    undefined: Undefined,
    score: impl Fn(&ClassScores) -> Option<f64>,
) -> Result<f64> {
    if classes.iter().all(|class| class.support() == 0) {
        return Err(Error::undefined(format!("{name} of no examples; call `update` first")));
    }
    let settle = |what: String, value: Option<f64>| match (value, undefined) {
        (Some(value), _) => Ok(Some(value)),
        (None, Undefined::Zero) => Ok(Some(0.0)),
        (None, Undefined::Skip) => Ok(None),
        (None, Undefined::Error) => Err(Error::undefined(format!("{name} of {what}: 0/0"))),
    };
    let nothing_left = || Error::undefined(format!("{name} is not defined for any class"));
    match average {
        Average::Class(index) => {
            let class = classes
                .get(index)
                .ok_or_else(|| Error::argument("average", format!("a class in 0..{}", classes.len()), index))?;
            settle(format!("class {index}"), score(class))?.ok_or_else(nothing_left)
        }
        Average::Micro => {
            let total = classes.iter().fold(ClassScores::default(), |a, b| ClassScores {
                true_positives: a.true_positives + b.true_positives,
                false_positives: a.false_positives + b.false_positives,
                false_negatives: a.false_negatives + b.false_negatives,
                true_negatives: a.true_negatives + b.true_negatives,
            });
            settle("all classes".to_owned(), score(&total))?.ok_or_else(nothing_left)
        }
        Average::Macro | Average::Weighted => {
            let (mut sum, mut weights) = (0.0, 0.0);
            for (index, class) in classes.iter().enumerate().filter(|(_, class)| class.occurs()) {
                let weight = if average == Average::Weighted { class.support() as f64 } else { 1.0 };
                if weight == 0.0 {
                    continue;
                }
                if let Some(value) = settle(format!("class {index}"), score(class))? {
                    sum += weight * value;
                    weights += weight;
                }
            }
            if weights == 0.0 { Err(nothing_left()) } else { Ok(sum / weights) }
        }
    }
}
