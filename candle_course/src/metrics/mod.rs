//! What training is judged by.
//!
//! Every metric is a state that adds: `update` takes in a batch, `compute` gives the value over everything
//! so far, `state` is what was seen as named tensors, `merge` adds the state of another part of the data
//! (another worker's, say), in any order.
//!
//! ```
//! use candle_course::prelude::*;
//!
//! let logits = Tensor::new(&[[2f32, 1.], [0., 3.], [5., 4.]], &Device::Cpu)?;
//! let targets = Tensor::new(&[0u32, 1, 1], &Device::Cpu)?;
//! let mut recall = Recall::builder(2).average(Average::Class(1)).build()?;
//! recall.update(&logits, &targets)?;
//! assert_eq!(recall.compute()?, 0.5);
//!
//! let mut matrix = ConfusionMatrix::new(2)?;
//! matrix.update(&logits, &targets)?;
//! println!("{}", matrix.report()?);
//!
//! let mut elsewhere = Recall::builder(2).average(Average::Class(1)).build()?;
//! elsewhere.update(&logits, &targets)?;
//! recall.merge(&elsewhere.state()?)?; // or `load_state`, to go on where it stopped
//! # Ok::<(), candle_course::Error>(())
//! ```
//!
//! Every metric is a function as well: `accuracy(&logits, &targets)?`; [`confusion_matrix`] lists those of
//! hard decisions.
//!
//! What is not defined is said: a metric of no examples, an AUC without a positive and a
//! correlation of constants are errors. For a precision of a class that is never predicted see
//! [`Undefined`].

use candle_core::Tensor;

use crate::error::Result;
use crate::stateful::{State, Stateful};

mod accuracy;
mod averaged;
mod boxes;
mod calibration;
mod confusion;
mod curves;
mod display;
#[cfg(test)]
mod edge_tests;
mod input;
mod mean_average_precision;
#[cfg(test)]
mod oracle_tests;
mod regression;
mod report;
mod scores;
mod state;
mod steps;

pub use crate::direction::Direction;
pub use accuracy::{Accuracy, TopK, accuracy, top_k_accuracy};
pub use averaged::{
    BalancedAccuracy, BalancedAccuracyBuilder, CohenKappa, CohenKappaBuilder, FBeta, FBetaBuilder, Matthews,
    MatthewsBuilder, MeanDice, MeanDiceBuilder, MeanIou, MeanIouBuilder, PixelAccuracy, PixelAccuracyBuilder,
    Precision, PrecisionBuilder, Recall, RecallBuilder, Specificity, SpecificityBuilder, balanced_accuracy,
    cohen_kappa, f_beta, matthews, mean_dice, mean_iou, pixel_accuracy, precision, recall, specificity,
};
pub use boxes::{box_area, box_iou, generalized_box_iou};
pub use calibration::{CalibrationBin, CalibrationError, LogLoss, calibration_error, log_loss};
pub use confusion::{ConfusionMatrix, ConfusionMatrixBuilder, confusion_matrix};
pub use curves::{
    AveragePrecision, PrecisionRecallCurve, RocAuc, RocAucOneVsRest, RocCurve, average_precision,
    precision_recall_curve, roc_auc, roc_auc_one_vs_rest, roc_curve,
};
pub use mean_average_precision::{Boxes, MeanAveragePrecision, PrecisionSummary, match_boxes, mean_average_precision};
pub use regression::{
    MaximumError, MeanAbsoluteError, MeanAbsolutePercentageError, MeanSquaredError, R2, RegressionSummary,
    RootMeanSquaredError, maximum_error, mean_absolute_percentage_error, r2_score,
};
pub use report::{ClassificationReport, ReportRow, classification_report};
pub use scores::{Average, ClassScores, Undefined};

/// A number accumulated over batches. Its state is what it has seen, not its options.
pub trait Metric: Stateful + Send {
    /// The name in tables, plots and monitors: `accuracy`.
    fn name(&self) -> &str;

    /// Which way is better.
    fn direction(&self) -> Direction;

    /// Takes in a batch. No host synchronisation where it can be avoided.
    ///
    /// # Errors
    /// If shapes, dtypes or devices do not fit.
    fn update(&mut self, predictions: &Tensor, targets: &Tensor) -> Result<()>;

    /// Adds the state of another metric with the same options: what that has seen, this has seen then, too.
    ///
    /// # Errors
    /// If it is not the state of such a metric; nothing is added then.
    fn merge(&mut self, other: &State) -> Result<()>;

    /// The value over everything since the last reset.
    ///
    /// # Errors
    /// If it is not defined (no example yet).
    fn compute(&self) -> Result<f64>;

    /// Forgets everything.
    fn reset(&mut self);
}

impl<M: Metric + ?Sized> Metric for Box<M> {
    fn name(&self) -> &str {
        (**self).name()
    }

    fn direction(&self) -> Direction {
        (**self).direction()
    }

    fn update(&mut self, predictions: &Tensor, targets: &Tensor) -> Result<()> {
        (**self).update(predictions, targets)
    }

    fn merge(&mut self, other: &State) -> Result<()> {
        (**self).merge(other)
    }

    fn compute(&self) -> Result<f64> {
        (**self).compute()
    }

    fn reset(&mut self) {
        (**self).reset();
    }
}

/// The value of a metric for one set of predictions: the function form of what streams.
fn once(mut metric: impl Metric, predictions: &Tensor, targets: &Tensor) -> Result<f64> {
    metric.update(predictions, targets)?;
    metric.compute()
}
