//! Precision, recall and F1 of every class on one page.

use std::fmt;

use candle_core::Tensor;

use crate::error::Result;
use crate::language::label;
use crate::metrics::{Average, ConfusionMatrix};
use crate::text::{one_line, score};

/// One line of a report; what is not defined is `None`, and shown as a dash.
#[derive(Debug, Clone, PartialEq)]
pub struct ReportRow {
    /// The class, or the average.
    pub name: String,
    /// TP / (TP + FP).
    pub precision: Option<f64>,
    /// TP / (TP + FN).
    pub recall: Option<f64>,
    /// Their harmonic mean.
    pub f1: Option<f64>,
    /// How many examples.
    pub support: u64,
}

/// What scikit-learn calls a classification report.
#[derive(Debug, Clone, PartialEq)]
pub struct ClassificationReport {
    /// A row per class.
    pub classes: Vec<ReportRow>,
    /// Macro and weighted averages (what is undefined counts 0, as in scikit-learn).
    pub averages: Vec<ReportRow>,
    /// The share of right answers.
    pub accuracy: f64,
}

/// Precision, recall and F1 of every class.
///
/// `predictions`: `[N, C, …]`, scores, or `[N, …]`, classes; `targets`: `[N, …]`, classes;
/// `names`: one per class.
///
/// # Errors
/// If the shapes do not fit, a target is not a class, or there is no example.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let predicted = Tensor::new(&[0u32, 1, 0, 0], &Device::Cpu)?;
/// let targets = Tensor::new(&[0u32, 1, 1, 0], &Device::Cpu)?;
/// let report = classification_report(&predicted, &targets, ["land", "water"])?;
/// assert_eq!(report.classes[1].recall, Some(0.5));
/// println!("{report}");
/// # Ok::<(), candle_course::Error>(())
/// ```
pub fn classification_report<S: Into<String>>(
    predictions: &Tensor,
    targets: &Tensor,
    names: impl IntoIterator<Item = S>,
) -> Result<ClassificationReport> {
    let names: Vec<String> = names.into_iter().map(Into::into).collect();
    let mut matrix = ConfusionMatrix::new(names.len())?.class_names(names)?;
    matrix.update(predictions, targets)?;
    matrix.report()
}

impl ClassificationReport {
    pub(crate) fn of(matrix: &ConfusionMatrix) -> Result<Self> {
        let per_class = matrix.per_class()?;
        let total = matrix.total()?;
        let classes = per_class.iter().zip(matrix.names()).map(|(class, name)| ReportRow {
            name: name.clone(),
            precision: class.precision(),
            recall: class.recall(),
            f1: class.f_beta(1.0),
            support: class.support(),
        });
        let row = |name: &str, by: Average| -> Result<ReportRow> {
            Ok(ReportRow {
                name: label(name).to_owned(),
                precision: Some(matrix.precision(by)?),
                recall: Some(matrix.recall(by)?),
                f1: Some(matrix.f1(by)?),
                support: total,
            })
        };
        Ok(Self {
            classes: classes.collect(),
            averages: vec![row("macro average", Average::Macro)?, row("weighted average", Average::Weighted)?],
            accuracy: matrix.accuracy()?,
        })
    }
}

impl fmt::Display for ClassificationReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = || self.classes.iter().chain(&self.averages);
        let width =
            rows().map(|row| row.name.chars().count()).max().unwrap_or(0).max(label("accuracy").chars().count());
        writeln!(f, "{:width$}  {:>9}  recall      f1  {:>7}", "", label("precision"), label("support"))?;
        for (i, row) in rows().enumerate() {
            if i == self.classes.len() {
                let total = self.averages.first().map_or(0, |row| row.support);
                writeln!(
                    f,
                    "\n{:width$}  {:>9}  {:>6}  {:>6}  {total:>7}",
                    label("accuracy"),
                    "",
                    "",
                    score(self.accuracy)
                )?;
            }
            let (precision, recall, f1) = (score(row.precision), score(row.recall), score(row.f1));
            writeln!(f, "{:width$}  {precision:>9}  {recall:>6}  {f1:>6}  {:>7}", one_line(&row.name), row.support)?;
        }
        Ok(())
    }
}
