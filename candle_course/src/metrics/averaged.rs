//! Scores of the confusion matrix, each as a metric of its own and as a function.

use candle_core::Tensor;

use crate::error::{Error, Result};
use crate::metrics::state::state_of;
use crate::metrics::{
    Average, ConfusionMatrix, ConfusionMatrixBuilder, Direction, Metric, Undefined, confusion_matrix,
};
use crate::stateful::State;

/// The options that all scores of the matrix have.
macro_rules! matrix_options {
    () => {
        /// What a score is where it is not defined.
        pub fn undefined(mut self, undefined: Undefined) -> Self {
            self.matrix = self.matrix.undefined(undefined);
            self
        }

        /// The label of positions that do not count.
        pub fn ignore_index(mut self, ignore_index: i64) -> Self {
            self.matrix = self.matrix.ignore_index(ignore_index);
            self
        }

        /// Predictions are one score each, positive above `threshold` (0 for logits, 0.5 for probabilities).
        pub fn threshold(mut self, threshold: f64) -> Self {
            self.matrix = self.matrix.threshold(threshold);
            self
        }
    };
}

/// A metric whose state is that of its field `matrix`.
macro_rules! counts_in_matrix {
    ($name:ident, |$named:ident| $text:expr, |$self:ident| $value:expr) => {
        impl $name {
            /// The counts.
            pub fn matrix(&self) -> &ConfusionMatrix {
                &self.matrix
            }
        }

        state_of!($name: matrix);

        impl Metric for $name {
            fn name(&self) -> &str {
                let $named = self;
                $text
            }

            fn direction(&self) -> Direction {
                Direction::Maximize
            }

            fn update(&mut self, predictions: &Tensor, targets: &Tensor) -> Result<()> {
                self.matrix.update(predictions, targets)
            }

            fn merge(&mut self, other: &State) -> Result<()> {
                self.matrix.merge(other)
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

/// A score of the matrix: what streams, its builder (with `average`, if classes are averaged), and the function.
macro_rules! of_matrix {
    (
        $(#[$doc:meta])*
        $name:ident, $builder:ident, $text:literal, |$matrix:ident $(, $average:ident)?| $value:expr;
        fn $function:ident($($parameter:ident)?) $(by $by:expr)?, $arguments:literal => $expected:literal
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone)]
        pub struct $name {
            matrix: ConfusionMatrix,
            $($average: Average,)?
        }

        #[doc = concat!("The options of [`", stringify!($name), "`].")]
        #[derive(Debug, Clone)]
        #[must_use = "only what `build` gives is a metric"]
        pub struct $builder {
            matrix: ConfusionMatrixBuilder,
            $($average: Average,)?
        }

        impl $name {
            /// Over `classes` classes.
            ///
            /// # Errors
            /// If there are fewer than 2.
            pub fn new(classes: usize) -> Result<Self> {
                Self::builder(classes).build()
            }

            /// Over `classes` classes, with options: nothing ignored, undefined scores 0, unless told otherwise.
            pub fn builder(classes: usize) -> $builder {
                $builder { matrix: ConfusionMatrix::builder(classes), $($average: Average::default(),)? }
            }
        }

        impl $builder {
            $(
                /// How scores of single classes become one; default [`Average::Macro`].
                pub fn $average(mut self, $average: Average) -> Self {
                    self.$average = $average;
                    self
                }
            )?

            matrix_options!();

            /// The metric, its options checked.
            ///
            /// # Errors
            /// If there are fewer than 2 classes, or a threshold and more than 2.
            pub fn build(self) -> Result<$name> {
                Ok($name { matrix: self.matrix.build()?, $($average: self.$average,)? })
            }
        }

        counts_in_matrix!($name, |_metric| $text, |metric| {
            let $matrix = &metric.matrix;
            $(let $average = metric.$average;)?
            $value
        });

        #[doc = concat!("[`", stringify!($name), "`] of one set of predictions.")]
        ///
        /// # Errors
        /// As [`confusion_matrix`], and if there is no example or the score is not defined.
        ///
        /// # Examples
        ///
        /// ```
        #[doc = concat!("use candle_course::metrics::{Average, ", stringify!($function), "};")]
        /// use candle_course::prelude::{Device, Tensor};
        ///
        /// let predicted = Tensor::new(&[0u32, 1, 0, 0], &Device::Cpu)?;
        /// let targets = Tensor::new(&[0u32, 1, 1, 0], &Device::Cpu)?;
        #[doc = concat!("let value = ", stringify!($function), "(&predicted, &targets, 2", $arguments, ")?;")]
        #[doc = concat!("assert!((value - ", $expected, ").abs() < 1e-15);")]
        /// # Ok::<(), candle_course::Error>(())
        /// ```
        pub fn $function(
            predictions: &Tensor,
            targets: &Tensor,
            classes: usize,
            $($parameter: Average,)?
        ) -> Result<f64> {
            let $matrix = confusion_matrix(predictions, targets, classes)?;
            $(let $average = $by;)?
            $value
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
    /// let mut precision = Precision::builder(3).average(Average::Weighted).build()?;
    /// let (predicted, targets) = (Tensor::new(&[0u32, 1, 1], &Device::Cpu)?, Tensor::new(&[0u32, 1, 2], &Device::Cpu)?);
    /// precision.update(&predicted, &targets)?;
    /// assert_eq!(precision.compute()?, (1.0 + 0.5 + 0.0) / 3.0); // class 2 is never predicted: 0
    /// let mut strict = Precision::builder(3).undefined(Undefined::Error).build()?;
    /// strict.update(&predicted, &targets)?;
    /// assert!(strict.compute().is_err());
    /// # Ok::<(), candle_course::Error>(())
    /// ```
    Precision, PrecisionBuilder, "precision", |matrix, average| matrix.precision(average);
    fn precision(by) by by, ", Average::Class(1)" => "1.0"
}

of_matrix! {
    /// Recall (sensitivity), TP / (TP + FN): how much of a class was found.
    ///
    /// # Examples
    ///
    /// ```
    /// use candle_course::prelude::*;
    ///
    /// let mut recall = Recall::builder(2).average(Average::Class(1)).build()?;
    /// let (predicted, targets) = (Tensor::new(&[0u32, 1, 0], &Device::Cpu)?, Tensor::new(&[0u32, 1, 1], &Device::Cpu)?);
    /// recall.update(&predicted, &targets)?;
    /// assert_eq!(recall.compute()?, 0.5);
    /// # Ok::<(), candle_course::Error>(())
    /// ```
    Recall, RecallBuilder, "recall", |matrix, average| matrix.recall(average);
    fn recall(by) by by, ", Average::Class(1)" => "0.5"
}

of_matrix! {
    /// Specificity, TN / (TN + FP): how much of what is not of a class was left alone.
    ///
    /// # Examples
    ///
    /// ```
    /// use candle_course::prelude::*;
    ///
    /// let mut specificity = Specificity::builder(2).average(Average::Class(1)).build()?;
    /// let (predicted, targets) = (Tensor::new(&[0u32, 1, 0], &Device::Cpu)?, Tensor::new(&[0u32, 0, 1], &Device::Cpu)?);
    /// specificity.update(&predicted, &targets)?;
    /// assert_eq!(specificity.compute()?, 0.5);
    /// # Ok::<(), candle_course::Error>(())
    /// ```
    Specificity, SpecificityBuilder, "specificity", |matrix, average| matrix.specificity(average);
    fn specificity(by) by by, ", Average::Class(0)" => "0.5"
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
    BalancedAccuracy, BalancedAccuracyBuilder, "balanced accuracy", |matrix| matrix.balanced_accuracy();
    fn balanced_accuracy(), "" => "0.75"
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
    CohenKappa, CohenKappaBuilder, "Cohen's kappa", |matrix| matrix.cohen_kappa();
    fn cohen_kappa(), "" => "0.5"
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
    Matthews, MatthewsBuilder, "Matthews' correlation", |matrix| matrix.matthews();
    fn matthews(), "" => "1.0 / 3f64.sqrt()"
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
    /// let mut iou = MeanIou::builder(2).ignore_index(255).build()?;
    /// let logits = Tensor::new(&[[[2f32, 2., 0.], [0., 0., 2.]]], &Device::Cpu)?; // [1, 2 classes, 3 pixels]
    /// iou.update(&logits, &Tensor::new(&[[0u8, 1, 255]], &Device::Cpu)?)?;
    /// assert_eq!(iou.compute()?, (0.5 + 0.0) / 2.0);
    /// # Ok::<(), candle_course::Error>(())
    /// ```
    MeanIou, MeanIouBuilder, "mean IoU", |matrix, average| matrix.iou(average);
    fn mean_iou() by Average::Macro, "" => "(2.0 / 3.0 + 0.5) / 2.0"
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
    MeanDice, MeanDiceBuilder, "mean Dice", |matrix, average| matrix.dice(average);
    fn mean_dice() by Average::Macro, "" => "(0.8 + 2.0 / 3.0) / 2.0"
}

of_matrix! {
    /// The share of pixels of the right class. It has no other average.
    ///
    /// # Examples
    ///
    /// ```
    /// use candle_course::prelude::*;
    ///
    /// let mut accuracy = PixelAccuracy::builder(2).ignore_index(255).build()?;
    /// let logits = Tensor::new(&[[[2f32, 2., 0.], [0., 0., 2.]]], &Device::Cpu)?; // [1, 2 classes, 3 pixels]
    /// accuracy.update(&logits, &Tensor::new(&[[0u8, 1, 255]], &Device::Cpu)?)?;
    /// assert_eq!(accuracy.compute()?, 0.5);
    /// # Ok::<(), candle_course::Error>(())
    /// ```
    PixelAccuracy, PixelAccuracyBuilder, "pixel accuracy", |matrix| matrix.accuracy();
    fn pixel_accuracy(), "" => "0.75"
}

/// F-beta: the harmonic mean of precision and recall, recall weighing β times as much.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let mut f1 = FBeta::builder(2, 1.0).average(Average::Class(1)).build()?;
/// let mut f2 = FBeta::builder(2, 2.0).average(Average::Class(1)).build()?;
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

/// The options of [`FBeta`].
#[derive(Debug, Clone)]
#[must_use = "only what `build` gives is a metric"]
pub struct FBetaBuilder {
    matrix: ConfusionMatrixBuilder,
    average: Average,
    beta: f64,
}

impl FBeta {
    /// F-beta over `classes` classes.
    ///
    /// # Errors
    /// If there are fewer than 2, or β is not positive.
    pub fn new(classes: usize, beta: f64) -> Result<Self> {
        Self::builder(classes, beta).build()
    }

    /// F1 over `classes` classes.
    ///
    /// # Errors
    /// If there are fewer than 2.
    pub fn f1(classes: usize) -> Result<Self> {
        Self::new(classes, 1.0)
    }

    /// F-beta over `classes` classes, with options: nothing ignored, undefined scores 0, unless told otherwise.
    pub fn builder(classes: usize, beta: f64) -> FBetaBuilder {
        FBetaBuilder { matrix: ConfusionMatrix::builder(classes), average: Average::default(), beta }
    }
}

impl FBetaBuilder {
    /// How scores of single classes become one; default [`Average::Macro`].
    pub fn average(mut self, average: Average) -> Self {
        self.average = average;
        self
    }

    matrix_options!();

    /// The metric, its options checked.
    ///
    /// # Errors
    /// If there are fewer than 2 classes, a threshold and more than 2, or β is not positive.
    pub fn build(self) -> Result<FBeta> {
        let Self { matrix, average, beta } = self;
        if !(beta > 0.0 && beta.is_finite()) {
            return Err(Error::argument("beta", "a positive number", beta));
        }
        Ok(FBeta { matrix: matrix.build()?, average, beta, name: format!("F{beta}") })
    }
}

counts_in_matrix!(FBeta, |metric| &metric.name, |metric| metric.matrix.f_beta(metric.beta, metric.average));

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
