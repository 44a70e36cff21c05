//! What training is judged by.
//!
//! Every metric streams: `update` takes in a batch, `compute` gives the value over everything so
//! far, `merge` joins what two parts of the data gave (two workers, say), in any order.
//!
//! ```
//! use candle_course::prelude::*;
//!
//! let logits = Tensor::new(&[[2f32, 1.], [0., 3.], [5., 4.]], &Device::Cpu)?;
//! let targets = Tensor::new(&[0u32, 1, 1], &Device::Cpu)?;
//! let mut recall = Recall::new(2)?.average(Average::Class(1));
//! recall.update(&logits, &targets)?;
//! assert_eq!(recall.compute()?, 0.5);
//!
//! let mut matrix = ConfusionMatrix::new(2)?;
//! matrix.update(&logits, &targets)?;
//! println!("{}", matrix.report()?);
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

mod accuracy;
mod averaged;
mod boxes;
mod calibration;
mod confusion;
mod curves;
mod display;
mod input;
mod mean_average_precision;
#[cfg(test)]
mod oracle_tests;
mod regression;
mod report;
mod scores;
mod steps;

pub use crate::direction::Direction;
pub use accuracy::{Accuracy, TopK, accuracy, top_k_accuracy};
pub use averaged::{
    BalancedAccuracy, CohenKappa, FBeta, Matthews, MeanDice, MeanIou, PixelAccuracy, Precision, Recall, Specificity,
    balanced_accuracy, cohen_kappa, f_beta, matthews, mean_dice, mean_iou, pixel_accuracy, precision, recall,
    specificity,
};
pub use boxes::{box_area, box_iou, generalized_box_iou};
pub use calibration::{CalibrationBin, CalibrationError, LogLoss, calibration_error, log_loss};
pub use confusion::{ConfusionMatrix, confusion_matrix};
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

/// A number accumulated over batches.
pub trait Metric: Send {
    /// The name in tables, plots and monitors: `accuracy`.
    fn name(&self) -> &str;

    /// Which way is better.
    fn direction(&self) -> Direction;

    /// Takes in a batch. No host synchronisation where it can be avoided.
    ///
    /// # Errors
    /// If shapes, dtypes or devices do not fit.
    fn update(&mut self, predictions: &Tensor, targets: &Tensor) -> Result<()>;

    /// The value over everything since the last reset.
    ///
    /// # Errors
    /// If it is not defined (no example yet).
    fn compute(&self) -> Result<f64>;

    /// Forgets everything.
    fn reset(&mut self);
}
