//! Cross-entropy of logits, in one pass.

use candle_core::{D, DType, Tensor};

use super::support::{Reading, apply, check_input, check_same_kind, check_shape, on_cpu, tensor};
use crate::error::{Error, Result};
use crate::kernels::node::{Gradients, Value};
use crate::kernels::{simd::Element, softmax};

/// Options of [`softmax_cross_entropy`].
#[derive(Debug, Clone, Default)]
pub struct CrossEntropyOptions {
    /// A factor per class, `[C]`, of the logits' dtype.
    pub weight: Option<Tensor>,
    /// Examples with this target have loss 0 and no gradient.
    pub ignore_index: Option<u32>,
    /// The share of the target that is spread evenly over all classes, in `[0, 1]`.
    pub label_smoothing: f64,
}

struct CrossEntropy {
    targets: Vec<u32>,
    weight: Option<Vec<f64>>,
    ignore_index: Option<u32>,
    smoothing: f64,
    classes: usize,
}

impl CrossEntropy {
    fn with_kernel<T: Element, R>(&self, run: impl FnOnce(softmax::CrossEntropy<'_, T>) -> R) -> R {
        let weight: Option<Vec<T>> = self.weight.as_ref().map(|w| w.iter().map(|&w| T::of(w)).collect());
        run(softmax::CrossEntropy {
            classes: self.classes,
            weight: weight.as_deref(),
            ignore_index: self.ignore_index,
            smoothing: self.smoothing,
        })
    }
}

impl CrossEntropy {
    fn forward<T: Element>(&self, inputs: &[&Tensor]) -> candle_core::Result<Value> {
        let logits = Reading::of(inputs[0]);
        let logits = logits.get::<T>()?;
        let losses = self.with_kernel::<T, _>(|kernel| kernel.forward(logits, &self.targets));
        Ok(Value::cpu(losses, self.targets.len()))
    }

    fn backward<T: Element>(&self, inputs: &[&Tensor], _: &Tensor, dy: &Tensor) -> Gradients {
        let (logits, dy) = (Reading::of(inputs[0]), Reading::of(dy));
        let (logits, dy) = (logits.get::<T>()?, dy.get::<T>()?);
        let dx = self.with_kernel::<T, _>(|kernel| kernel.backward(logits, &self.targets, dy));
        Ok(vec![Some(tensor(dx, inputs[0].shape())?)])
    }
}

/// The same on a CUDA device. A target that is no class makes the loss NaN: to see it here would
/// mean to wait for the device.
#[cfg(feature = "cuda")]
fn on_device(logits: &Tensor, targets: &Tensor, options: &CrossEntropyOptions) -> Result<Tensor> {
    use crate::kernels::cuda::cross_entropy::{ClassLoss, Reduce};
    let weights = options.weight.as_ref().map(|w| w.to_dtype(DType::F64)?.to_vec1::<f64>()).transpose()?;
    let loss = ClassLoss {
        weights: weights.as_deref(),
        smoothing: options.label_smoothing,
        gamma: 0.0,
        ignore_index: options.ignore_index.map(i64::from),
        counts_positions: false,
        log: false,
        reduce: Reduce::Each,
    };
    Ok(loss.apply(logits, &targets.to_device(logits.device())?)?)
}

/// The cross-entropy of every example, −Σ q · log softmax(logits), stable for any logits; as
/// `torch.nn.functional.cross_entropy` with `reduction="none"`. q is 1 at the target, or, with
/// smoothing s, 1 − s there plus s/C everywhere; each term has its class's weight.
///
/// - `logits`: `[N, C]`, f32 or f64, unnormalised.
/// - `targets`: `[N]`, u32, classes in `0..C` or the ignored one.
/// - Result: `[N]`, the logits' dtype.
///
/// # Errors
/// If shapes, dtypes or devices do not fit, the batch is empty, a target is no class, or the
/// smoothing is not in `[0, 1]`.
///
/// # Examples
///
/// ```
/// use candle_course::ops::{CrossEntropyOptions, softmax_cross_entropy};
/// use candle_course::prelude::*;
///
/// let logits = Tensor::new(&[[0f32, 0.], [1000., -1000.]], &Device::Cpu)?;
/// let losses = softmax_cross_entropy(&logits, &Tensor::new(&[0u32, 0], &Device::Cpu)?, &CrossEntropyOptions::default())?;
/// assert_eq!(losses.to_vec1::<f32>()?, [std::f32::consts::LN_2, 0.]);
/// # Ok::<(), candle_course::Error>(())
/// ```
pub fn softmax_cross_entropy(logits: &Tensor, targets: &Tensor, options: &CrossEntropyOptions) -> Result<Tensor> {
    check_input("logits", logits)?;
    let &[examples, classes] = logits.dims() else {
        return Err(Error::argument("logits", "shape [N, C]", format!("{:?}", logits.dims())));
    };
    if targets.dims() != [examples] || targets.dtype() != DType::U32 {
        return Err(Error::argument(
            "targets",
            format!("shape [{examples}], dtype u32"),
            format!("{:?}, {:?}", targets.dims(), targets.dtype()),
        ));
    }
    if let Some(weight) = &options.weight {
        check_same_kind("weight", weight, logits)?;
        check_shape("weight", weight, &[classes])?;
    }
    if !(0.0..=1.0).contains(&options.label_smoothing) {
        return Err(Error::argument("label_smoothing", "a share in [0, 1]", options.label_smoothing));
    }
    #[cfg(feature = "cuda")]
    if super::support::on_cuda(logits) {
        return on_device(logits, targets, options);
    }
    if !on_cpu(logits) {
        return composed(logits, targets, options);
    }
    let targets = targets.to_device(logits.device())?.to_vec1::<u32>()?;
    let ignored = options.ignore_index;
    if let Some(&bad) = targets.iter().find(|&&target| target as usize >= classes && Some(target) != ignored) {
        return Err(Error::argument("targets", format!("classes in 0..{classes}"), bad)
            .hint("does the last layer have one output per class?"));
    }
    let weight = options.weight.as_ref().map(|w| w.to_dtype(DType::F64)?.to_vec1::<f64>()).transpose()?;
    let op = CrossEntropy { targets, weight, ignore_index: ignored, smoothing: options.label_smoothing, classes };
    Ok(apply!("softmax_cross_entropy", op, [Some(logits)]))
}

/// The same of candle's operations, for a GPU. A target that is no class gives a loss of NaN
/// there, without a wait for the host.
fn composed(logits: &Tensor, targets: &Tensor, options: &CrossEntropyOptions) -> Result<Tensor> {
    let classes = logits.dim(1)?;
    let targets = targets.to_device(logits.device())?;
    let kept = match options.ignore_index {
        Some(ignored) => targets.ne(ignored)?,
        None => targets.ones_like()?.to_dtype(DType::U8)?,
    };
    let is_class = targets.lt(classes as u32)?;
    let places = is_class.where_cond(&targets, &targets.zeros_like()?)?;
    let log_probabilities = super::log_softmax(logits, D::Minus1)?;
    let weighted = match &options.weight {
        Some(weight) => log_probabilities.broadcast_mul(weight)?,
        None => log_probabilities,
    };
    let hit = weighted.gather(&places.unsqueeze(1)?, 1)?.squeeze(1)?;
    let smoothing = options.label_smoothing;
    let losses = if smoothing == 0.0 {
        hit.neg()?
    } else {
        ((hit * (smoothing - 1.0))? - (weighted.sum(1)? * (smoothing / classes as f64))?)?
    };
    let nan = Tensor::full(f32::NAN, losses.shape(), losses.device())?.to_dtype(losses.dtype())?;
    Ok(kept.where_cond(&is_class.where_cond(&losses, &nan)?, &losses.zeros_like()?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::support;
    use candle_core::Device;

    #[test]
    fn a_target_that_is_no_class_is_refused_and_nan_on_a_gpu() {
        let logits = Tensor::new(&[[1f32, 2.], [3., 4.]], &Device::Cpu).unwrap();
        let targets = Tensor::new(&[0u32, 9], &Device::Cpu).unwrap();
        let run = || softmax_cross_entropy(&logits, &targets, &CrossEntropyOptions::default());
        let text = run().unwrap_err().to_string();
        assert!(text.contains("classes in 0..2, got 9"), "{text}");
        let losses = support::composed(run).unwrap().to_vec1::<f32>().unwrap();
        assert!(losses[0].is_finite() && losses[1].is_nan(), "{losses:?}");
    }

    #[test]
    fn large_logits_do_not_swallow_the_loss() {
        for size in [1e4f32, 1e8] {
            let logits = Tensor::new(&[[size, size], [-size, -size], [size, -size]], &Device::Cpu).unwrap();
            let targets = Tensor::new(&[0u32, 1, 1], &Device::Cpu).unwrap();
            for label_smoothing in [0.0, 0.5] {
                let options = CrossEntropyOptions { label_smoothing, ..Default::default() };
                let run = || softmax_cross_entropy(&logits, &targets, &options).unwrap().to_vec1::<f32>().unwrap();
                let log_softmax = || super::super::log_softmax(&logits, 1).unwrap().to_vec2::<f32>().unwrap();
                for (losses, log_p) in [(run(), log_softmax()), support::composed(|| (run(), log_softmax()))] {
                    let (ln_2, far) = (std::f32::consts::LN_2, 2.0 * size * (1.0 - label_smoothing as f32 / 2.0));
                    assert!((losses[0] - ln_2).abs() < 1e-6 && (losses[1] - ln_2).abs() < 1e-6, "{size}: {losses:?}");
                    assert!((losses[2] / far - 1.0).abs() < 1e-6, "{size}: {losses:?}");
                    assert_eq!(log_p, [[-ln_2; 2], [-ln_2; 2], [0.0, -2.0 * size]], "{size}");
                }
            }
        }
    }
}
