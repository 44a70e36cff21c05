//! Checks of what is given to a loss, with messages that name the likely mistake.

use candle_core::{DType, Tensor, WithDType};

use crate::error::{Error, Result};
pub(crate) use crate::kernels::losses::IGNORED;
use crate::kernels::losses::{PIECE, for_float, with_elements};
use crate::kernels::parallel;

/// `predictions` as f32 or f64: other floats are computed in f32.
pub(crate) fn float(name: &str, tensor: &Tensor) -> Result<Tensor> {
    match tensor.dtype() {
        DType::F32 | DType::F64 => Ok(tensor.clone()),
        DType::BF16 | DType::F16 => Ok(tensor.to_dtype(DType::F32)?),
        other => Err(Error::argument(name, "floating-point numbers", format!("dtype {}", other.as_str()))
            .hint("are predictions and targets swapped?")),
    }
}

pub(crate) fn same_device(predictions: &Tensor, targets: &Tensor) -> Result<()> {
    if predictions.device().same_device(targets.device()) {
        return Ok(());
    }
    let name = crate::device::name;
    Err(different_devices(&name(predictions.device()), &name(targets.device())))
}

/// What is said of targets on another device than the predictions.
pub(crate) fn different_devices(predictions: &str, targets: &str) -> Error {
    Error::argument("targets", format!("a tensor on the device of the predictions, {predictions}"), targets)
        .hint("move the batch with `to_device` before the forward pass")
}

pub(crate) fn not_empty(name: &str, tensor: &Tensor) -> Result<()> {
    if tensor.elem_count() == 0 {
        return Err(Error::argument(name, "at least one element", format!("shape {:?}", tensor.dims())));
    }
    Ok(())
}

/// Predictions and real-valued targets of one shape, both f32 or both f64.
pub(crate) fn pair(predictions: &Tensor, targets: &Tensor) -> Result<(Tensor, Tensor)> {
    same_device(predictions, targets)?;
    if predictions.dims() != targets.dims() {
        let error = Error::argument(
            "targets",
            format!("the shape of the predictions, {:?}", predictions.dims()),
            format!("{:?}", targets.dims()),
        );
        return Err(if predictions.elem_count() == targets.elem_count() {
            error.hint("did you forget `squeeze(1)` on the predictions or `unsqueeze(1)` on the targets?")
        } else {
            error
        });
    }
    not_empty("predictions", predictions)?;
    let predictions_float = float("predictions", predictions)?;
    if !targets.dtype().is_float() {
        return Err(Error::argument(
            "targets",
            "floating-point numbers",
            format!("dtype {}", targets.dtype().as_str()),
        )
        .hint("convert them: `targets.to_dtype(DType::F32)?`"));
    }
    let targets = float("targets", targets)?;
    if targets.dtype() != predictions_float.dtype() {
        return Err(Error::argument(
            "targets",
            format!("the dtype of the predictions, {}", predictions_float.dtype().as_str()),
            targets.dtype().as_str(),
        ));
    }
    Ok((predictions_float, targets))
}

/// Logits and binary targets of one shape; integer targets (masks) are converted.
pub(crate) fn binary_pair(logits: &Tensor, targets: &Tensor) -> Result<(Tensor, Tensor)> {
    let logits_float = float("logits", logits)?;
    if !targets.dtype().is_float() {
        return pair(&logits_float, &targets.to_dtype(logits_float.dtype())?);
    }
    let targets = float("targets", targets)?;
    if targets.dtype() != logits_float.dtype() {
        return Err(Error::argument(
            "targets",
            format!("the dtype of the logits, {}, or integers", logits_float.dtype().as_str()),
            targets.dtype().as_str(),
        ));
    }
    pair(&logits_float, &targets)
}

/// Smallest and largest element; NaN if there is a NaN.
pub(crate) fn range(tensor: &Tensor) -> Result<(f64, f64)> {
    fn of<T: WithDType>(values: &[T]) -> (f64, f64) {
        let join = |a: (f64, f64), b: (f64, f64)| {
            if a.0.is_nan() || b.0.is_nan() { (f64::NAN, f64::NAN) } else { (a.0.min(b.0), a.1.max(b.1)) }
        };
        let piece = |piece: &[T]| {
            piece.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |so_far, value| {
                let value = value.to_f64();
                join(so_far, (value, value))
            })
        };
        if values.len() <= PIECE {
            return piece(values);
        }
        let pieces: Vec<_> = parallel::map(values.chunks(PIECE).collect(), piece);
        pieces.into_iter().fold((f64::INFINITY, f64::NEG_INFINITY), join)
    }
    for_float!(tensor.dtype(), T => with_elements::<T, _>(tensor, of))
}

/// Targets that are probabilities, or hard 0 and 1 only.
pub(crate) fn probabilities(name: &str, targets: &Tensor) -> Result<()> {
    let (low, high) = range(targets)?;
    if low >= 0.0 && high <= 1.0 {
        return Ok(());
    }
    Err(Error::argument(name, "numbers in [0, 1]", format!("values from {low} to {high}")).hint(if high > 1.0 {
        "are these class indices, or a mask with 255?"
    } else {
        "are these logits, or labels −1 and 1?"
    }))
}

/// A finite number that must satisfy `accepted`.
pub(crate) fn number(name: &str, expected: &str, value: f64, accepted: bool) -> Result<()> {
    if accepted && value.is_finite() { Ok(()) } else { Err(Error::argument(name, expected, value)) }
}

/// Non-negative finite weights, at least one of them positive; of `classes` entries if that is known.
pub(crate) fn weights(name: &str, weights: &[f64], classes: Option<usize>) -> Result<()> {
    if let Some(bad) = weights.iter().find(|w| !w.is_finite() || **w < 0.0) {
        return Err(Error::argument(name, "finite numbers that are not negative", bad));
    }
    match classes {
        Some(classes) if classes != weights.len() => {
            Err(Error::argument(name, format!("one per class, {classes}"), weights.len())
                .hint("dimension 1 of the logits is the classes"))
        }
        _ if weights.iter().all(|w| *w == 0.0) => {
            Err(Error::argument(name, "at least one positive number", format!("{weights:?}")))
        }
        _ => Ok(()),
    }
}

/// Checks class indices for logits of shape `[N, C, …]`, but for dtype and values.
pub(crate) fn class_shapes(logits: &Tensor, targets: &Tensor) -> Result<()> {
    same_device(logits, targets)?;
    let dims = logits.dims();
    if dims.len() < 2 {
        return Err(Error::argument("logits", "shape [N, C, …]", format!("{dims:?}"))
            .hint("a single example needs a batch dimension: `unsqueeze(0)`"));
    }
    let mut expected = dims.to_vec();
    expected.remove(1);
    if targets.dims() != expected {
        let error = Error::argument(
            "targets",
            format!("class indices of shape {expected:?} for logits of shape {dims:?}"),
            format!("shape {:?}", targets.dims()),
        );
        return Err(match targets.dims() {
            other if other == dims => error.hint("one-hot targets? use class indices, or soft targets"),
            other if other.len() == dims.len() && other[1] == 1 => {
                error.hint("did you forget `squeeze(1)` on the targets?")
            }
            _ => error,
        });
    }
    not_empty("logits", logits)
}

/// What is said of targets that are no class indices.
pub(crate) fn not_class_indices(dtype: DType) -> Error {
    Error::argument("targets", "class indices (u8, u32 or i64)", format!("dtype {}", dtype.as_str()))
        .hint("convert them: `targets.to_dtype(DType::U32)?`; probabilities need soft targets")
}

/// What is said of a label that is no class.
fn no_class(label: i64, classes: u32) -> Error {
    let error = Error::argument("targets", format!("classes in 0..{classes}"), label);
    if label == 255 || label == -100 {
        error.hint(format!("is {label} the label of unknown pixels? set `ignore_index({label})`"))
    } else {
        error.hint("does the last layer have one output per class?")
    }
}

/// Class indices for logits of shape `[N, C, …]`, in row-major order, with [`IGNORED`] where they
/// equal `ignore_index`.
pub(crate) fn class_targets(logits: &Tensor, targets: &Tensor, ignore_index: Option<i64>) -> Result<Vec<u32>> {
    class_shapes(logits, targets)?;
    let classes = logits.dims()[1] as u32;
    fn convert<L: Copy + Send + Sync + Into<i64>>(
        labels: &[L],
        classes: u32,
        ignore_index: Option<i64>,
    ) -> std::result::Result<Vec<u32>, i64> {
        let valid = |label: i64| (0..i64::from(classes)).contains(&label);
        let mut out = vec![0; labels.len()];
        let pieces = labels.chunks(PIECE).zip(out.chunks_mut(PIECE)).collect();
        let bad = parallel::map(pieces, |(labels, out): (&[L], &mut [u32])| {
            // Without an exit in the loop, it vectorises; a label that is wrong is looked for after it.
            let mut right = true;
            for (to, &label) in out.iter_mut().zip(labels) {
                let label: i64 = label.into();
                let ignored = Some(label) == ignore_index;
                right &= ignored | valid(label);
                *to = if ignored { IGNORED } else { label as u32 };
            }
            let wrong = |&&label: &&L| Some(label.into()) != ignore_index && !valid(label.into());
            if right { None } else { labels.iter().find(wrong).map(|&label| label.into()) }
        });
        match bad.into_iter().flatten().next() {
            Some(label) => Err(label),
            None => Ok(out),
        }
    }
    match targets.dtype() {
        DType::U8 => with_elements::<u8, _>(targets, |labels| convert(labels, classes, ignore_index))?,
        DType::U32 => with_elements::<u32, _>(targets, |labels| convert(labels, classes, ignore_index))?,
        DType::I64 => with_elements::<i64, _>(targets, |labels| convert(labels, classes, ignore_index))?,
        other => return Err(not_class_indices(other)),
    }
    .map_err(|label| no_class(label, classes))
}

/// Log-probabilities are never positive; logits and probabilities nearly always are somewhere.
pub(crate) fn log_probabilities_only(name: &str, tensor: &Tensor) -> Result<()> {
    let (_, high) = range(tensor)?;
    if high <= 1e-5 || high.is_nan() {
        return Ok(());
    }
    Err(Error::argument(name, "log-probabilities, never above 0", format!("a largest value of {high}")).hint(
        "are these logits or probabilities? apply `candle_nn::ops::log_softmax` to logits, or use `cross_entropy`",
    ))
}
