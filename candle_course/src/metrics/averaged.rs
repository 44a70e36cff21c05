//! Scores of the confusion matrix, each as a metric of its own.

use candle_core::Tensor;

use crate::error::{Error, Result};
use crate::metrics::{Average, ConfusionMatrix, Direction, Metric, Undefined, confusion_matrix};

macro_rules! of_matrix {
    ($(#[$doc:meta])* $name:ident, $text:literal, |$self:ident| $value:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone)]
        pub struct $name {
            matrix: ConfusionMatrix,
            average: Average,
        }

        impl $name {
            /// Over `classes` classes.
            ///
            /// # Errors
            /// If there are fewer than 2.
            pub fn new(classes: usize) -> Result<Self> {
                Ok(Self::from(ConfusionMatrix::new(classes)?))
            }

            /// How scores of single classes become one; default [`Average::Macro`].
            #[must_use]
            pub fn average(mut self, average: Average) -> Self {
                self.average = average;
                self
            }

            /// What a score is where it is not defined.
            #[must_use]
            pub fn undefined(mut self, undefined: Undefined) -> Self {
                self.matrix = self.matrix.undefined(undefined);
                self
            }

            /// The label of positions that do not count.
            #[must_use]
            pub fn ignore_index(mut self, ignore_index: i64) -> Self {
                self.matrix = self.matrix.ignore_index(ignore_index);
                self
            }

            /// The counts.
            pub fn matrix(&self) -> &ConfusionMatrix {
                &self.matrix
            }

            /// Adds what `other` has counted.
            ///
            /// # Errors
            /// If it has another number of classes.
            pub fn merge(&mut self, other: &Self) -> Result<()> {
                self.matrix.merge(&other.matrix)
            }
        }

        impl From<ConfusionMatrix> for $name {
            /// Of that matrix, with its options and counts.
            fn from(matrix: ConfusionMatrix) -> Self {
                Self { matrix, average: Average::default() }
            }
        }

        impl Metric for $name {
            fn name(&self) -> &str {
                $text
            }

            fn direction(&self) -> Direction {
                Direction::Maximize
            }

            fn update(&mut self, predictions: &Tensor, targets: &Tensor) -> Result<()> {
                self.matrix.update(predictions, targets)
            }

            fn compute(&self) -> Result<f64> {
                let $self = self;
                $value
            }

            fn reset(&mut self) {
                self.matrix.reset();
            }
        }
    };
}

of_matrix! {
    /// Precision, TP / (TP + FP): how much of what was predicted as a class is of it.
    ///
    /// # Examples
    ///
    /// ```
    /// use candle_course::prelude::*;
    ///
    /// let mut precision = Precision::new(3)?.average(Average::Weighted);
    /// let (predicted, targets) = (Tensor::new(&[0u32, 1, 1], &Device::Cpu)?, Tensor::new(&[0u32, 1, 2], &Device::Cpu)?);
    /// precision.update(&predicted, &targets)?;
    /// assert_eq!(precision.compute()?, (1.0 + 0.5 + 0.0) / 3.0); // class 2 is never predicted: 0
    /// assert!(precision.undefined(Undefined::Error).compute().is_err());
    /// # Ok::<(), candle_course::Error>(())
    /// ```
    Precision, "precision", |metric| metric.matrix.precision(metric.average)
}

of_matrix! {
    /// Recall (sensitivity), TP / (TP + FN): how much of a class was found.
    ///
    /// # Examples
    ///
    /// ```
    /// use candle_course::prelude::*;
    ///
    /// let mut recall = Recall::new(2)?.average(Average::Class(1));
    /// let (predicted, targets) = (Tensor::new(&[0u32, 1, 0], &Device::Cpu)?, Tensor::new(&[0u32, 1, 1], &Device::Cpu)?);
    /// recall.update(&predicted, &targets)?;
    /// assert_eq!(recall.compute()?, 0.5);
    /// # Ok::<(), candle_course::Error>(())
    /// ```
    Recall, "recall", |metric| metric.matrix.recall(metric.average)
}

of_matrix! {
    /// Specificity, TN / (TN + FP): how much of what is not of a class was left alone.
    ///
    /// # Examples
    ///
    /// ```
    /// use candle_course::prelude::*;
    ///
    /// let mut specificity = Specificity::new(2)?.average(Average::Class(1));
    /// let (predicted, targets) = (Tensor::new(&[0u32, 1, 0], &Device::Cpu)?, Tensor::new(&[0u32, 0, 1], &Device::Cpu)?);
    /// specificity.update(&predicted, &targets)?;
    /// assert_eq!(specificity.compute()?, 0.5);
    /// # Ok::<(), candle_course::Error>(())
    /// ```
    Specificity, "specificity", |metric| metric.matrix.specificity(metric.average)
}

of_matrix! {
    /// Balanced accuracy: the mean recall of the classes that occur. It has no other average.
    ///
    /// # Examples
    ///
    /// ```
    /// use candle_course::prelude::*;
    ///
    /// let mut balanced = BalancedAccuracy::new(2)?;
    /// let (predicted, targets) = (Tensor::zeros(10, DType::U32, &Device::Cpu)?, Tensor::new(&[0u32, 0, 0, 0, 0, 0, 0, 0, 0, 1], &Device::Cpu)?);
    /// balanced.update(&predicted, &targets)?;
    /// assert_eq!(balanced.compute()?, 0.5); // accuracy says 0.9
    /// # Ok::<(), candle_course::Error>(())
    /// ```
    BalancedAccuracy, "balanced accuracy", |metric| metric.matrix.balanced_accuracy()
}

of_matrix! {
    /// Cohen's kappa; see [`ConfusionMatrix::cohen_kappa`].
    ///
    /// # Examples
    ///
    /// ```
    /// use candle_course::prelude::*;
    ///
    /// let mut kappa = CohenKappa::new(2)?;
    /// let (predicted, targets) = (Tensor::new(&[0u32, 1, 0, 1], &Device::Cpu)?, Tensor::new(&[0u32, 1, 1, 0], &Device::Cpu)?);
    /// kappa.update(&predicted, &targets)?;
    /// assert_eq!(kappa.compute()?, 0.0); // no better than chance
    /// # Ok::<(), candle_course::Error>(())
    /// ```
    CohenKappa, "Cohen's kappa", |metric| metric.matrix.cohen_kappa()
}

of_matrix! {
    /// Matthews' correlation; see [`ConfusionMatrix::matthews`].
    ///
    /// # Examples
    ///
    /// ```
    /// use candle_course::prelude::*;
    ///
    /// let mut matthews = Matthews::new(2)?;
    /// let targets = Tensor::new(&[0u32, 1, 1, 0], &Device::Cpu)?;
    /// matthews.update(&targets, &targets)?;
    /// assert_eq!(matthews.compute()?, 1.0);
    /// # Ok::<(), candle_course::Error>(())
    /// ```
    Matthews, "Matthews' correlation", |metric| metric.matrix.matthews()
}

of_matrix! {
    /// The IoU (Jaccard index) of classes of pixels, TP / (TP + FP + FN), averaged.
    ///
    /// Classes that neither occur nor are predicted do not enter the mean.
    ///
    /// # Examples
    ///
    /// ```
    /// use candle_course::prelude::*;
    ///
    /// let mut iou = MeanIou::new(2)?.ignore_index(255);
    /// let logits = Tensor::new(&[[[2f32, 2., 0.], [0., 0., 2.]]], &Device::Cpu)?; // [1, 2 classes, 3 pixels]
    /// iou.update(&logits, &Tensor::new(&[[0u8, 1, 255]], &Device::Cpu)?)?;
    /// assert_eq!(iou.compute()?, (0.5 + 0.0) / 2.0);
    /// # Ok::<(), candle_course::Error>(())
    /// ```
    MeanIou, "mean IoU", |metric| metric.matrix.iou(metric.average)
}

of_matrix! {
    /// The Dice coefficient of classes of pixels, 2 TP / (2 TP + FP + FN), averaged.
    ///
    /// # Examples
    ///
    /// ```
    /// use candle_course::prelude::*;
    ///
    /// let mut dice = MeanDice::new(2)?;
    /// let logits = Tensor::new(&[[[2f32, 2.], [0., 0.]]], &Device::Cpu)?; // [1, 2 classes, 2 pixels]
    /// dice.update(&logits, &Tensor::new(&[[0u8, 1]], &Device::Cpu)?)?;
    /// assert_eq!(dice.compute()?, (2.0 / 3.0 + 0.0) / 2.0);
    /// # Ok::<(), candle_course::Error>(())
    /// ```
    MeanDice, "mean Dice", |metric| metric.matrix.dice(metric.average)
}

of_matrix! {
    /// The share of pixels of the right class. It has no other average.
    ///
    /// # Examples
    ///
    /// ```
    /// use candle_course::prelude::*;
    ///
    /// let mut accuracy = PixelAccuracy::new(2)?.ignore_index(255);
    /// let logits = Tensor::new(&[[[2f32, 2., 0.], [0., 0., 2.]]], &Device::Cpu)?; // [1, 2 classes, 3 pixels]
    /// accuracy.update(&logits, &Tensor::new(&[[0u8, 1, 255]], &Device::Cpu)?)?;
    /// assert_eq!(accuracy.compute()?, 0.5);
    /// # Ok::<(), candle_course::Error>(())
    /// ```
    PixelAccuracy, "pixel accuracy", |metric| metric.matrix.accuracy()
}

/// F-beta: the harmonic mean of precision and recall, recall weighing β times as much.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let mut f1 = FBeta::f1(2)?.average(Average::Class(1));
/// let mut f2 = FBeta::new(2, 2.0)?.average(Average::Class(1));
/// let (predicted, targets) = (Tensor::new(&[1u32, 0, 0], &Device::Cpu)?, Tensor::new(&[1u32, 1, 0], &Device::Cpu)?);
/// f1.update(&predicted, &targets)?;
/// f2.update(&predicted, &targets)?;
/// assert_eq!(f1.name(), "F1");
/// assert!(f2.compute()? < f1.compute()?); // precision 1, recall ½
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct FBeta {
    matrix: ConfusionMatrix,
    average: Average,
    beta: f64,
    name: String,
}

impl FBeta {
    /// F-beta over `classes` classes.
    ///
    /// # Errors
    /// If there are fewer than 2, or β is not positive.
    pub fn new(classes: usize, beta: f64) -> Result<Self> {
        if !(beta > 0.0 && beta.is_finite()) {
            return Err(Error::argument("beta", "a positive number", beta));
        }
        let matrix = ConfusionMatrix::new(classes)?;
        Ok(Self { matrix, average: Average::default(), beta, name: format!("F{beta}") })
    }

    /// F1 over `classes` classes.
    ///
    /// # Errors
    /// If there are fewer than 2.
    pub fn f1(classes: usize) -> Result<Self> {
        Self::new(classes, 1.0)
    }

    /// How scores of single classes become one; default [`Average::Macro`].
    #[must_use]
    pub fn average(mut self, average: Average) -> Self {
        self.average = average;
        self
    }

    /// What a score is where it is not defined.
    #[must_use]
    pub fn undefined(mut self, undefined: Undefined) -> Self {
        self.matrix = self.matrix.undefined(undefined);
        self
    }

    /// The label of positions that do not count.
    #[must_use]
    pub fn ignore_index(mut self, ignore_index: i64) -> Self {
        self.matrix = self.matrix.ignore_index(ignore_index);
        self
    }

    /// The counts.
    pub fn matrix(&self) -> &ConfusionMatrix {
        &self.matrix
    }

    /// Adds what `other` has counted.
    ///
    /// # Errors
    /// If it has another number of classes.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        self.matrix.merge(&other.matrix)
    }
}

impl Metric for FBeta {
    fn name(&self) -> &str {
        &self.name
    }

    fn direction(&self) -> Direction {
        Direction::Maximize
    }

    fn update(&mut self, predictions: &Tensor, targets: &Tensor) -> Result<()> {
        self.matrix.update(predictions, targets)
    }

    fn compute(&self) -> Result<f64> {
        self.matrix.f_beta(self.beta, self.average)
    }

    fn reset(&mut self) {
        self.matrix.reset();
    }
}

/// [`Precision`] of one set of predictions.
///
/// # Errors
/// As [`confusion_matrix`], and if there is no example.
///
/// # Examples
///
/// ```
/// use candle_course::metrics::{precision, Average};
/// use candle_course::prelude::{Device, Tensor};
///
/// let predicted = Tensor::new(&[0u32, 1, 0, 0], &Device::Cpu)?;
/// let targets = Tensor::new(&[0u32, 1, 1, 0], &Device::Cpu)?;
/// assert_eq!(precision(&predicted, &targets, 2, Average::Class(1))?, 1.0);
/// # Ok::<(), candle_course::Error>(())
/// ```
pub fn precision(predictions: &Tensor, targets: &Tensor, classes: usize, average: Average) -> Result<f64> {
    confusion_matrix(predictions, targets, classes)?.precision(average)
}

/// [`Recall`] of one set of predictions.
///
/// # Errors
/// As [`confusion_matrix`], and if there is no example.
///
/// # Examples
///
/// ```
/// use candle_course::metrics::{recall, Average};
/// use candle_course::prelude::{Device, Tensor};
///
/// let predicted = Tensor::new(&[0u32, 1, 0, 0], &Device::Cpu)?;
/// let targets = Tensor::new(&[0u32, 1, 1, 0], &Device::Cpu)?;
/// assert_eq!(recall(&predicted, &targets, 2, Average::Class(1))?, 0.5);
/// # Ok::<(), candle_course::Error>(())
/// ```
pub fn recall(predictions: &Tensor, targets: &Tensor, classes: usize, average: Average) -> Result<f64> {
    confusion_matrix(predictions, targets, classes)?.recall(average)
}

/// [`Specificity`] of one set of predictions.
///
/// # Errors
/// As [`confusion_matrix`], and if there is no example.
///
/// # Examples
///
/// ```
/// use candle_course::metrics::{specificity, Average};
/// use candle_course::prelude::{Device, Tensor};
///
/// let predicted = Tensor::new(&[0u32, 1, 0, 0], &Device::Cpu)?;
/// let targets = Tensor::new(&[0u32, 1, 1, 0], &Device::Cpu)?;
/// assert_eq!(specificity(&predicted, &targets, 2, Average::Class(0))?, 0.5);
/// # Ok::<(), candle_course::Error>(())
/// ```
pub fn specificity(predictions: &Tensor, targets: &Tensor, classes: usize, average: Average) -> Result<f64> {
    confusion_matrix(predictions, targets, classes)?.specificity(average)
}

/// [`FBeta`] of one set of predictions; with β = 1 it is F1.
///
/// # Errors
/// As [`confusion_matrix`], and if there is no example or β is not positive.
///
/// # Examples
///
/// ```
/// use candle_course::metrics::{f_beta, Average};
/// use candle_course::prelude::{Device, Tensor};
///
/// let predicted = Tensor::new(&[0u32, 1, 0, 0], &Device::Cpu)?;
/// let targets = Tensor::new(&[0u32, 1, 1, 0], &Device::Cpu)?;
/// assert_eq!(f_beta(&predicted, &targets, 2, 1.0, Average::Class(0))?, 0.8);
/// # Ok::<(), candle_course::Error>(())
/// ```
pub fn f_beta(predictions: &Tensor, targets: &Tensor, classes: usize, beta: f64, average: Average) -> Result<f64> {
    confusion_matrix(predictions, targets, classes)?.f_beta(beta, average)
}

/// [`BalancedAccuracy`] of one set of predictions.
///
/// # Errors
/// As [`confusion_matrix`], and if there is no example.
///
/// # Examples
///
/// ```
/// use candle_course::metrics::balanced_accuracy;
/// use candle_course::prelude::{Device, Tensor};
///
/// let predicted = Tensor::new(&[0u32, 1, 0, 0], &Device::Cpu)?;
/// let targets = Tensor::new(&[0u32, 1, 1, 0], &Device::Cpu)?;
/// assert_eq!(balanced_accuracy(&predicted, &targets, 2)?, 0.75);
/// # Ok::<(), candle_course::Error>(())
/// ```
pub fn balanced_accuracy(predictions: &Tensor, targets: &Tensor, classes: usize) -> Result<f64> {
    confusion_matrix(predictions, targets, classes)?.balanced_accuracy()
}

/// [`CohenKappa`] of one set of predictions.
///
/// # Errors
/// As [`ConfusionMatrix::cohen_kappa`].
///
/// # Examples
///
/// ```
/// use candle_course::metrics::cohen_kappa;
/// use candle_course::prelude::{Device, Tensor};
///
/// let predicted = Tensor::new(&[0u32, 1, 0, 0], &Device::Cpu)?;
/// let targets = Tensor::new(&[0u32, 1, 1, 0], &Device::Cpu)?;
/// assert_eq!(cohen_kappa(&predicted, &targets, 2)?, 0.5);
/// # Ok::<(), candle_course::Error>(())
/// ```
pub fn cohen_kappa(predictions: &Tensor, targets: &Tensor, classes: usize) -> Result<f64> {
    confusion_matrix(predictions, targets, classes)?.cohen_kappa()
}

/// [`Matthews`] of one set of predictions.
///
/// # Errors
/// As [`ConfusionMatrix::matthews`].
///
/// # Examples
///
/// ```
/// use candle_course::metrics::matthews;
/// use candle_course::prelude::{Device, Tensor};
///
/// let predicted = Tensor::new(&[0u32, 1, 0, 0], &Device::Cpu)?;
/// let targets = Tensor::new(&[0u32, 1, 1, 0], &Device::Cpu)?;
/// assert!((matthews(&predicted, &targets, 2)? - 1.0 / 3f64.sqrt()).abs() < 1e-15);
/// # Ok::<(), candle_course::Error>(())
/// ```
pub fn matthews(predictions: &Tensor, targets: &Tensor, classes: usize) -> Result<f64> {
    confusion_matrix(predictions, targets, classes)?.matthews()
}

/// [`PixelAccuracy`] of one set of predictions.
///
/// # Errors
/// As [`confusion_matrix`], and if there is no example.
///
/// # Examples
///
/// ```
/// use candle_course::metrics::pixel_accuracy;
/// use candle_course::prelude::{Device, Tensor};
///
/// let predicted = Tensor::new(&[0u32, 1, 0, 0], &Device::Cpu)?;
/// let targets = Tensor::new(&[0u32, 1, 1, 0], &Device::Cpu)?;
/// assert_eq!(pixel_accuracy(&predicted, &targets, 2)?, 0.75);
/// # Ok::<(), candle_course::Error>(())
/// ```
pub fn pixel_accuracy(predictions: &Tensor, targets: &Tensor, classes: usize) -> Result<f64> {
    confusion_matrix(predictions, targets, classes)?.accuracy()
}

/// [`MeanIou`] of one set of predictions; per class see [`ConfusionMatrix::iou_table`].
///
/// # Errors
/// As [`confusion_matrix`], and if there is no example.
///
/// # Examples
///
/// ```
/// use candle_course::metrics::mean_iou;
/// use candle_course::prelude::{Device, Tensor};
///
/// let predicted = Tensor::new(&[0u32, 1, 0, 0], &Device::Cpu)?;
/// let targets = Tensor::new(&[0u32, 1, 1, 0], &Device::Cpu)?;
/// assert_eq!(mean_iou(&predicted, &targets, 2)?, (2.0 / 3.0 + 0.5) / 2.0);
/// # Ok::<(), candle_course::Error>(())
/// ```
pub fn mean_iou(predictions: &Tensor, targets: &Tensor, classes: usize) -> Result<f64> {
    confusion_matrix(predictions, targets, classes)?.iou(Average::Macro)
}

/// [`MeanDice`] of one set of predictions; per class see [`ConfusionMatrix::iou_table`].
///
/// # Errors
/// As [`confusion_matrix`], and if there is no example.
///
/// # Examples
///
/// ```
/// use candle_course::metrics::mean_dice;
/// use candle_course::prelude::{Device, Tensor};
///
/// let predicted = Tensor::new(&[0u32, 1, 0, 0], &Device::Cpu)?;
/// let targets = Tensor::new(&[0u32, 1, 1, 0], &Device::Cpu)?;
/// assert_eq!(mean_dice(&predicted, &targets, 2)?, (0.8 + 2.0 / 3.0) / 2.0);
/// # Ok::<(), candle_course::Error>(())
/// ```
pub fn mean_dice(predictions: &Tensor, targets: &Tensor, classes: usize) -> Result<f64> {
    confusion_matrix(predictions, targets, classes)?.dice(Average::Macro)
}
