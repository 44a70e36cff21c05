//! Cross-entropy over classes: of hard and soft targets, with weights, smoothing and ignored pixels.

use candle_core::{DType, Tensor};

use crate::error::{Error, Result};
use crate::kernels::losses::{Dims, for_float, with_elements};
use crate::losses::class_rule::{HardTargets, finish};
use crate::losses::options::builder;
use crate::losses::validate::{self, class_targets, float, not_empty, number, probabilities};
use crate::losses::{Loss, MeanOf, Reduction};

/// Mean cross-entropy, −1/N Σ log softmax(logits)\[target\], as `torch.nn.functional.cross_entropy`.
///
/// `logits`: `[N, C]`, `[N, C, L]` or `[N, C, H, W]`, floats, unnormalised; `targets`: `[N]`,
/// `[N, L]` or `[N, H, W]`, class indices in `0..C` (u8, u32 or i64). For weights, label
/// smoothing, ignored pixels, soft targets and other reductions see [`CrossEntropy`].
///
/// Probabilities given in place of logits cannot be told apart: the loss then never falls below
/// ln(1 + (C − 1)/e), and training hardly moves.
///
/// # Errors
/// If the shapes do not fit, the batch is empty, or a target is not a class.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let logits = Tensor::new(&[[0f64, 0., 0.], [1e4, 0., 0.]], &Device::Cpu)?;
/// let targets = Tensor::new(&[2u32, 0], &Device::Cpu)?;
/// let loss = cross_entropy(&logits, &targets)?.to_scalar::<f64>()?;
/// assert!((loss - 3f64.ln() / 2.0).abs() < 1e-15);
/// # Ok::<(), candle_course::Error>(())
/// ```
pub fn cross_entropy(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    CrossEntropy::default().forward(logits, targets)
}

/// Cross-entropy as `torch.nn.CrossEntropyLoss`: −w_y ln p_y per position, p = softmax of the logits.
///
/// With label smoothing ε the target becomes 1 − ε + ε/C for the class and ε/C for the others
/// (Szegedy et al., "Rethinking the Inception architecture", 2016). The mean divides by the sum
/// of the weights w_y of the positions that count; for soft targets by their number.
/// When every position is ignored, or weighs 0, the loss is 0 with a gradient of 0.
///
/// Logits are computed in f32 or f64 (half precision is upcast). Value and gradient come from one
/// pass over the logits. On a CUDA device nothing waits for the device, so a target that is no class
/// cannot be an error at once: the loss is NaN, and the error that follows tells of the target. On
/// Metal the pass is on the CPU when there are options, and composed of candle's operations for the
/// plain loss.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// // Two pixels of three classes; the second is not labelled.
/// let logits = Tensor::new(&[[[1f32, 0.], [0., 0.], [0., 0.]]], &Device::Cpu)?;
/// let targets = Tensor::new(&[[0u8, 255]], &Device::Cpu)?;
/// let loss = CrossEntropy::builder()
///     .class_weights(vec![0.2, 1.0, 2.0])
///     .label_smoothing(0.1)
///     .ignore_index(255)
///     .build()?;
/// println!("{}", loss.forward(&logits, &targets)?.to_scalar::<f32>()?);
///
/// // Soft targets: probabilities of the shape of the logits (mixup, distillation).
/// let soft = Tensor::new(&[[0.5f32, 0.5, 0.0]], &Device::Cpu)?;
/// let value = CrossEntropy::default().forward(&soft.zeros_like()?, &soft)?.to_scalar::<f32>()?;
/// assert!((value - 3f32.ln()).abs() < 1e-6);
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Default)]
pub struct CrossEntropy {
    class_weights: Option<Vec<f64>>,
    label_smoothing: f64,
    ignore_index: Option<i64>,
    reduction: Reduction,
}

builder! {
    /// Unweighted, unsmoothed, nothing ignored, the mean, unless told otherwise.
    CrossEntropyBuilder of CrossEntropy;
    /// A weight per class; see [`class_weights`](crate::data::class_weights).
    fn class_weights(loss, class_weights: impl Into<Vec<f64>>) { loss.class_weights = Some(class_weights.into()) }
    /// How much of the target is spread over all classes, in [0, 1].
    fn label_smoothing(loss, label_smoothing: f64) { loss.label_smoothing = label_smoothing }
    /// The label of positions that do not count (255 for unknown pixels, say).
    fn ignore_index(loss, ignore_index: i64) { loss.ignore_index = Some(ignore_index) }
    /// What becomes of the losses of single positions.
    fn reduction(loss, reduction: Reduction) { loss.reduction = reduction }
    build(loss), errors "If a weight is negative or not finite, all are 0, or the smoothing is not in [0, 1]." {
        loss.check_weights(None)?;
        let smoothing = loss.label_smoothing;
        number("label_smoothing", "a number in [0, 1]", smoothing, (0.0..=1.0).contains(&smoothing))?;
    }
}

impl CrossEntropy {
    fn check_weights(&self, classes: Option<usize>) -> Result<()> {
        self.class_weights.as_ref().map_or(Ok(()), |weights| validate::weights("class_weights", weights, classes))
    }

    fn is_plain(&self) -> bool {
        self.class_weights.is_none()
            && self.label_smoothing == 0.0
            && self.ignore_index.is_none()
            && self.reduction == Reduction::Mean
    }

    /// Targets that are probabilities, of the shape of the logits.
    fn soft(&self, logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
        validate::same_device(logits, targets)?;
        not_empty("logits", logits)?;
        if self.ignore_index.is_some() {
            return Err(Error::argument("ignore_index", "no index with soft targets", "one")
                .hint("give the rows that do not count a target of zeros"));
        }
        if targets.track_op() && targets.is_variable() {
            return Err(Error::argument("targets", "constants", "a variable").hint("`detach` the teacher's output"));
        }
        // Probabilities rounded to half precision sum to 1 no better than its few digits.
        let tolerance = match targets.dtype() {
            DType::BF16 => 2e-2,
            DType::F16 => 4e-3,
            _ => 1e-3,
        };
        let targets = targets.detach().to_dtype(logits.dtype())?;
        #[cfg(feature = "cuda")]
        if crate::kernels::cuda::takes(logits) {
            let loss = crate::kernels::cuda::cross_entropy::ClassLoss {
                weights: self.class_weights.as_deref(),
                smoothing: self.label_smoothing,
                reduce: self.reduction.on_device(),
                ..Default::default()
            };
            return Ok(loss.apply_soft(logits, &targets, tolerance)?);
        }
        probabilities("targets", &targets)?;
        let accepted = |sum: f64| (sum - 1.0).abs() < tolerance || sum == 0.0;
        let sums = targets.to_dtype(DType::F64)?.sum(1)?;
        let wrong = with_elements::<f64, _>(&sums, |sums| sums.iter().copied().find(|&sum| !accepted(sum)))?;
        if let Some(sum) = wrong {
            return Err(Error::argument(
                "targets",
                "probabilities that sum to 1 over the classes",
                format!("a sum of {sum}"),
            )
            .hint("apply a softmax to a teacher's logits"));
        }
        let dims = Dims::of(logits.dims());
        let uniform = self.label_smoothing / dims.classes as f64;
        let weights = match &self.class_weights {
            Some(weights) => weights.clone(),
            None => vec![1.0; dims.classes],
        };
        let denominator = match self.reduction {
            Reduction::Mean => dims.pixels() as f64,
            _ => 1.0,
        };
        for_float!(logits.dtype(), T => {
            with_elements::<T, _>(&targets, |q| {
                let coefficient = |pixel: usize, class: usize| {
                    let q = q[(pixel / dims.positions * dims.classes + class) * dims.positions + pixel % dims.positions];
                    weights[class] * (f64::from(q) * (1.0 - self.label_smoothing) + uniform)
                };
                finish::<T>(logits, dims, self.reduction, denominator, |block| block.soft(&coefficient, denominator))
            })?
        })
    }
}

impl Loss for CrossEntropy {
    fn forward(&self, logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
        let logits = float("logits", logits)?;
        if logits.rank() < 2 {
            return Err(Error::argument("logits", "shape [N, C, …]", format!("{:?}", logits.dims()))
                .hint("a single example needs a batch dimension: `unsqueeze(0)`"));
        }
        self.check_weights(Some(logits.dims()[1]))?;
        if targets.dtype().is_float() && targets.dims() == logits.dims() {
            return self.soft(&logits, targets);
        }
        #[cfg(feature = "cuda")]
        {
            let loss = crate::kernels::cuda::cross_entropy::ClassLoss {
                weights: self.class_weights.as_deref(),
                smoothing: self.label_smoothing,
                ignore_index: self.ignore_index,
                ..Default::default()
            };
            if let Some(loss) = crate::losses::on_device::classes(&logits, targets, loss, self.reduction)? {
                return Ok(loss);
            }
        }
        if !logits.device().is_cpu() && self.is_plain() {
            class_targets(&logits, targets, None)?;
            let targets = targets.to_dtype(DType::U32)?.unsqueeze(1)?;
            let log_probabilities = candle_nn::ops::log_softmax(&logits, 1)?;
            return Ok(log_probabilities.gather(&targets, 1)?.mean_all()?.neg()?);
        }
        let labels = class_targets(&logits, targets, self.ignore_index)?;
        let rule = HardTargets {
            labels: &labels,
            weights: self.class_weights.as_deref(),
            smoothing: self.label_smoothing,
            gamma: 0.0,
        };
        rule.loss(&logits, self.reduction, rule.total_weight())
    }

    fn mean_of(&self, logits: &Tensor, targets: &Tensor) -> Result<MeanOf> {
        self.reduction.of(|| match logits.dims() {
            // Soft targets have the classes in dimension 1 and are divided by the number of positions.
            dims if dims.len() >= 2 && targets.dtype().is_float() && targets.dims() == dims => {
                Ok(MeanOf::Count(Dims::of(dims).pixels() as f64))
            }
            _ => MeanOf::positions(logits, targets, self.ignore_index, self.class_weights.as_deref()),
        })
    }
}
