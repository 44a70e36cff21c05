//! Losses of real-valued predictions: biomass, yield, depth, reflectance.

use candle_core::{DType, Tensor};

use crate::error::Result;
use crate::kernels::losses::{Pointwise, pointwise, sum_trailing};
use crate::losses::options::{builder, setters};
use crate::losses::validate::{number, pair};
use crate::losses::{Loss, MeanOf, Reduction};

/// Mean squared error, 1/n Σ (ŷ − y)², as `torch.nn.functional.mse_loss`.
///
/// `predictions`, `targets`: one shape, f32 or f64. Its unit is the target's, squared; one
/// outlier of 10 weighs as much as a hundred errors of 1.
///
/// # Errors
/// If the shapes, dtypes or devices differ, or there is no element.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let predictions = Tensor::new(&[1f32, 2., 3.], &Device::Cpu)?;
/// let targets = Tensor::new(&[1f32, 2., 6.], &Device::Cpu)?;
/// assert_eq!(mse(&predictions, &targets)?.to_scalar::<f32>()?, 3.0);
/// # Ok::<(), candle_course::Error>(())
/// ```
pub fn mse(predictions: &Tensor, targets: &Tensor) -> Result<Tensor> {
    Mse::default().forward(predictions, targets)
}

/// Mean absolute error, 1/n Σ |ŷ − y|, as `torch.nn.functional.l1_loss`.
///
/// `predictions`, `targets`: one shape, f32 or f64. Its minimiser is the median: robust to
/// outliers. Its gradient has the same size however small the error; at 0 it is 0.
///
/// # Errors
/// As [`mse`].
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let predictions = Tensor::new(&[1f32, 2., 3.], &Device::Cpu)?;
/// let targets = Tensor::new(&[1f32, 2., 6.], &Device::Cpu)?;
/// assert_eq!(mae(&predictions, &targets)?.to_scalar::<f32>()?, 1.0);
/// # Ok::<(), candle_course::Error>(())
/// ```
pub fn mae(predictions: &Tensor, targets: &Tensor) -> Result<Tensor> {
    Mae::default().forward(predictions, targets)
}

/// Root mean squared error, √(1/n Σ (ŷ − y)²), in the target's unit.
///
/// `predictions`, `targets`: one shape, f32 or f64. The gradient of a perfect prediction is 0.
///
/// # Errors
/// As [`mse`].
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let predictions = Tensor::new(&[1f64, 2., 3.], &Device::Cpu)?;
/// let targets = Tensor::new(&[1f64, 2., 6.], &Device::Cpu)?;
/// assert_eq!(rmse(&predictions, &targets)?.to_scalar::<f64>()?, 3f64.sqrt());
/// # Ok::<(), candle_course::Error>(())
/// ```
pub fn rmse(predictions: &Tensor, targets: &Tensor) -> Result<Tensor> {
    Rmse.forward(predictions, targets)
}

/// Huber's loss with δ = 1; see [`Huber`].
///
/// # Errors
/// As [`mse`].
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let predictions = Tensor::new(&[0.5f32, 4.], &Device::Cpu)?;
/// let targets = Tensor::new(&[0f32, 0.], &Device::Cpu)?;
/// assert_eq!(huber(&predictions, &targets)?.to_scalar::<f32>()?, (0.125 + 3.5) / 2.0);
/// # Ok::<(), candle_course::Error>(())
/// ```
pub fn huber(predictions: &Tensor, targets: &Tensor) -> Result<Tensor> {
    Huber::default().forward(predictions, targets)
}

/// Smooth L1 with β = 1; see [`SmoothL1`].
///
/// # Errors
/// As [`mse`].
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let predictions = Tensor::new(&[0.5f32, 4.], &Device::Cpu)?;
/// let targets = Tensor::new(&[0f32, 0.], &Device::Cpu)?;
/// assert_eq!(smooth_l1(&predictions, &targets)?.to_scalar::<f32>()?, (0.125 + 3.5) / 2.0);
/// # Ok::<(), candle_course::Error>(())
/// ```
pub fn smooth_l1(predictions: &Tensor, targets: &Tensor) -> Result<Tensor> {
    SmoothL1::default().forward(predictions, targets)
}

/// Log-cosh, 1/n Σ ln cosh(ŷ − y): squared near 0, absolute far away, smooth everywhere.
///
/// `predictions`, `targets`: one shape, f32 or f64.
///
/// # Errors
/// As [`mse`].
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let predictions = Tensor::new(&[1f64, 1e4], &Device::Cpu)?;
/// let loss = log_cosh(&predictions, &predictions.zeros_like()?)?.to_scalar::<f64>()?;
/// assert!((loss - (1f64.cosh().ln() + 1e4 - 2f64.ln()) / 2.0).abs() < 1e-9); // cosh 1e4 alone overflows
/// # Ok::<(), candle_course::Error>(())
/// ```
pub fn log_cosh(predictions: &Tensor, targets: &Tensor) -> Result<Tensor> {
    LogCosh::default().forward(predictions, targets)
}

/// Quantile (pinball) loss, 1/n Σ max(q e, (q − 1) e) with e = y − ŷ; see [`Quantile`].
///
/// # Errors
/// As [`mse`], and if `quantile` is not in (0, 1).
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let predictions = Tensor::new(&[0f64, 0.], &Device::Cpu)?;
/// let targets = Tensor::new(&[1f64, -1.], &Device::Cpu)?;
/// let loss = quantile(&predictions, &targets, 0.9)?.to_scalar::<f64>()?;
/// assert!((loss - (0.9 + 0.1) / 2.0).abs() < 1e-15);
/// # Ok::<(), candle_course::Error>(())
/// ```
pub fn quantile(predictions: &Tensor, targets: &Tensor, quantile: f64) -> Result<Tensor> {
    Quantile::new(quantile)?.forward(predictions, targets)
}

macro_rules! plain_loss {
    ($(#[$doc:meta])* $name:ident, $builder:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct $name {
            reduction: Reduction,
        }

        builder! {
            /// The mean over all elements, unless told otherwise.
            $builder of $name;
            /// What becomes of the losses of single elements.
            fn reduction(loss, reduction: Reduction) { loss.reduction = reduction }
            build(_loss), errors "Never." {}
        }
    };
}

plain_loss! {
    /// [`mse`] as a [`Loss`].
    Mse, MseBuilder
}
plain_loss! {
    /// [`mae`] as a [`Loss`].
    Mae, MaeBuilder
}
plain_loss! {
    /// [`log_cosh`] as a [`Loss`].
    LogCosh, LogCoshBuilder
}

/// [`rmse`] as a [`Loss`]. A root of a mean has no other reduction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rmse;

impl Loss for Mse {
    fn forward(&self, predictions: &Tensor, targets: &Tensor) -> Result<Tensor> {
        let (predictions, targets) = pair(predictions, targets)?;
        from_device!(predictions, targets, self.reduction, Square { factor: 1.0 });
        self.reduction.apply((predictions - targets)?.sqr()?)
    }

    fn mean_of(&self, _: &Tensor, targets: &Tensor) -> Result<MeanOf> {
        self.reduction.of(|| Ok(MeanOf::elements(targets)))
    }
}

impl Loss for Mae {
    fn forward(&self, predictions: &Tensor, targets: &Tensor) -> Result<Tensor> {
        let (predictions, targets) = pair(predictions, targets)?;
        from_device!(
            predictions,
            targets,
            self.reduction,
            Difference { function: Pointwise::Abs, factor: 1.0, flipped: false }
        );
        self.reduction.apply(pointwise(&(predictions - targets)?, Pointwise::Abs)?)
    }

    fn mean_of(&self, _: &Tensor, targets: &Tensor) -> Result<MeanOf> {
        self.reduction.of(|| Ok(MeanOf::elements(targets)))
    }
}

impl Loss for LogCosh {
    fn forward(&self, predictions: &Tensor, targets: &Tensor) -> Result<Tensor> {
        let (predictions, targets) = pair(predictions, targets)?;
        from_device!(
            predictions,
            targets,
            self.reduction,
            Difference { function: Pointwise::LogCosh, factor: 1.0, flipped: false }
        );
        self.reduction.apply(pointwise(&(predictions - targets)?, Pointwise::LogCosh)?)
    }

    fn mean_of(&self, _: &Tensor, targets: &Tensor) -> Result<MeanOf> {
        self.reduction.of(|| Ok(MeanOf::elements(targets)))
    }
}

const ROOT: &str = "the root of a mean is not the mean of roots; MSE can be split";

impl Loss for Rmse {
    fn forward(&self, predictions: &Tensor, targets: &Tensor) -> Result<Tensor> {
        let (predictions, targets) = pair(predictions, targets)?;
        let squared = (predictions - targets)?.sqr()?;
        let mean = (sum_trailing(&squared, 0)? / squared.elem_count() as f64)?;
        pointwise(&mean, Pointwise::Sqrt)
    }

    fn mean_of(&self, _: &Tensor, _: &Tensor) -> Result<MeanOf> {
        Ok(MeanOf::Whole(ROOT.to_owned()))
    }

    fn whole(&self) -> Option<String> {
        Some(ROOT.to_owned())
    }
}

macro_rules! shaped_loss {
    ($(#[$doc:meta])* $name:ident, $builder:ident, $(#[$parameter_doc:meta])* $parameter:ident = $default:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq)]
        pub struct $name {
            $parameter: f64,
            reduction: Reduction,
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $parameter: $default, reduction: Reduction::Mean }
            }
        }

        builder! {
            /// The mean over all elements, unless told otherwise.
            $builder of $name;
            $(#[$parameter_doc])*
            fn $parameter(loss, $parameter: f64) { loss.$parameter = $parameter }
            /// What becomes of the losses of single elements.
            fn reduction(loss, reduction: Reduction) { loss.reduction = reduction }
            build(loss), errors "If the parameter is not a positive number." {
                number(stringify!($parameter), "a positive number", loss.$parameter, loss.$parameter > 0.0)?;
            }
        }
    };
}

shaped_loss! {
    /// Huber's loss: e²/2 for |e| ≤ δ, δ (|e| − δ/2) beyond, with e = ŷ − y; as `torch.nn.HuberLoss`.
    ///
    /// Its gradient is never larger than δ: an outlier pulls no harder than an error of δ.
    /// (Huber, "Robust estimation of a location parameter", 1964.)
    ///
    /// # Examples
    ///
    /// ```
    /// use candle_course::prelude::*;
    ///
    /// let loss = Huber::builder().delta(0.5).build()?;
    /// let predictions = Tensor::new(&[3f32], &Device::Cpu)?;
    /// let targets = Tensor::new(&[1f32], &Device::Cpu)?;
    /// assert_eq!(loss.forward(&predictions, &targets)?.to_scalar::<f32>()?, 0.5 * (2.0 - 0.25));
    /// # Ok::<(), candle_course::Error>(())
    /// ```
    Huber, HuberBuilder,
    /// Where the parabola becomes a line, in the target's unit; default 1.
    delta = 1.0
}

shaped_loss! {
    /// Smooth L1: e²/(2β) for |e| < β, |e| − β/2 beyond; as `torch.nn.SmoothL1Loss`.
    ///
    /// Huber's loss divided by its threshold: the slope far away is 1 whatever β is.
    /// (Girshick, "Fast R-CNN", 2015.)
    ///
    /// # Examples
    ///
    /// ```
    /// use candle_course::prelude::*;
    ///
    /// let loss = SmoothL1::builder().beta(0.5).build()?;
    /// let predictions = Tensor::new(&[3f32], &Device::Cpu)?;
    /// let targets = Tensor::new(&[1f32], &Device::Cpu)?;
    /// assert_eq!(loss.forward(&predictions, &targets)?.to_scalar::<f32>()?, 2.0 - 0.25);
    /// # Ok::<(), candle_course::Error>(())
    /// ```
    SmoothL1, SmoothL1Builder,
    /// Where the parabola becomes a line, in the target's unit; default 1.
    beta = 1.0
}

impl Loss for Huber {
    fn forward(&self, predictions: &Tensor, targets: &Tensor) -> Result<Tensor> {
        let Self { delta, reduction } = *self;
        let (predictions, targets) = pair(predictions, targets)?;
        from_device!(
            predictions,
            targets,
            reduction,
            Difference { function: Pointwise::Huber { delta }, factor: 1.0, flipped: false }
        );
        reduction.apply(pointwise(&(predictions - targets)?, Pointwise::Huber { delta })?)
    }

    fn mean_of(&self, _: &Tensor, targets: &Tensor) -> Result<MeanOf> {
        self.reduction.of(|| Ok(MeanOf::elements(targets)))
    }
}

impl Loss for SmoothL1 {
    fn forward(&self, predictions: &Tensor, targets: &Tensor) -> Result<Tensor> {
        let Self { beta, reduction } = *self;
        let (predictions, targets) = pair(predictions, targets)?;
        // 1 / β overflows, or the parabola's β² vanishes: what is left is |difference|.
        if beta < if predictions.dtype() == DType::F64 { 1e-150 } else { 1e-18 } {
            return Mae { reduction }.forward(&predictions, &targets);
        }
        from_device!(
            predictions,
            targets,
            reduction,
            Difference { function: Pointwise::Huber { delta: beta }, factor: 1.0 / beta, flipped: false }
        );
        let huber = pointwise(&(predictions - targets)?, Pointwise::Huber { delta: beta })?;
        reduction.apply((huber / beta)?)
    }

    fn mean_of(&self, _: &Tensor, targets: &Tensor) -> Result<MeanOf> {
        self.reduction.of(|| Ok(MeanOf::elements(targets)))
    }
}

/// Quantile (pinball) loss: q e for e ≥ 0, (q − 1) e for e < 0, with e = y − ŷ.
///
/// Its minimiser is the q-quantile of the target: q = 0.9 learns a value that nine tenths of the
/// targets stay below. (Koenker and Bassett, "Regression quantiles", 1978.)
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let loss = Quantile::builder(0.9).reduction(Reduction::Sum).build()?;
/// let predictions = Tensor::new(&[0f64, 0.], &Device::Cpu)?;
/// let targets = Tensor::new(&[1f64, -1.], &Device::Cpu)?;
/// assert!((loss.forward(&predictions, &targets)?.to_scalar::<f64>()? - 1.0).abs() < 1e-15);
/// assert!(Quantile::new(1.0).is_err());
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quantile {
    quantile: f64,
    reduction: Reduction,
}

impl Quantile {
    /// The mean loss of that `quantile`, in (0, 1).
    ///
    /// # Errors
    /// If the quantile is not in (0, 1).
    pub fn new(quantile: f64) -> Result<Self> {
        Self::builder(quantile).build()
    }

    /// The loss of that `quantile`, in (0, 1), with options: the mean over all elements, unless told otherwise.
    pub fn builder(quantile: f64) -> QuantileBuilder {
        QuantileBuilder { loss: Self { quantile, reduction: Reduction::Mean } }
    }
}

setters! {
    QuantileBuilder of Quantile;
    /// What becomes of the losses of single elements.
    fn reduction(loss, reduction: Reduction) { loss.reduction = reduction }
    build(loss), errors "If the quantile is not in (0, 1)." {
        let quantile = loss.quantile;
        number("quantile", "a number in (0, 1)", quantile, quantile > 0.0 && quantile < 1.0)?;
    }
}

impl Loss for Quantile {
    fn forward(&self, predictions: &Tensor, targets: &Tensor) -> Result<Tensor> {
        let Self { quantile, reduction } = *self;
        let (predictions, targets) = pair(predictions, targets)?;
        from_device!(
            predictions,
            targets,
            reduction,
            Difference { function: Pointwise::Pinball { quantile }, factor: 1.0, flipped: true }
        );
        reduction.apply(pointwise(&(targets - predictions)?, Pointwise::Pinball { quantile })?)
    }

    fn mean_of(&self, _: &Tensor, targets: &Tensor) -> Result<MeanOf> {
        self.reduction.of(|| Ok(MeanOf::elements(targets)))
    }
}
