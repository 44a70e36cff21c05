//! Predictions and targets as plain numbers.

use candle_core::{DType, Device, Tensor};

use crate::error::{Error, Result};

/// The elements of `tensor` in f64, row-major.
pub(crate) fn numbers(name: &str, tensor: &Tensor) -> Result<Vec<f64>> {
    if !tensor.dtype().is_float() {
        return Err(Error::argument(name, "floating-point numbers", format!("dtype {}", tensor.dtype().as_str())));
    }
    // Converted on the CPU: candle cannot convert an empty tensor on a GPU.
    Ok(tensor.detach().to_device(&Device::Cpu)?.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?)
}

fn nan(name: &str) -> Error {
    Error::argument(name, "numbers", "NaN").hint("did the training diverge?")
}

/// That there is no NaN among `values`.
pub(crate) fn no_nan(name: &str, values: &[f64]) -> Result<()> {
    if values.iter().any(|value| value.is_nan()) { Err(nan(name)) } else { Ok(()) }
}

/// That a tensor on the CPU has no NaN; elsewhere looking would wait for the device.
fn no_nan_on_cpu(name: &str, tensor: &Tensor) -> Result<()> {
    // One addition per element; only +∞ and −∞ together need the second look.
    let suspicious = tensor.device().is_cpu()
        && tensor.dtype().is_float()
        && tensor.sum_all()?.to_dtype(DType::F64)?.to_scalar::<f64>()?.is_nan();
    if suspicious { no_nan(name, &numbers(name, tensor)?) } else { Ok(()) }
}

/// Class indices of any integer dtype, row-major.
pub(crate) fn labels(name: &str, tensor: &Tensor) -> Result<Vec<i64>> {
    if tensor.dtype().is_float() {
        return Err(Error::argument(name, "class indices (integers)", format!("dtype {}", tensor.dtype().as_str()))
            .hint("convert them: `to_dtype(DType::U32)?`"));
    }
    Ok(tensor.to_device(&Device::Cpu)?.to_dtype(DType::I64)?.flatten_all()?.to_vec1()?)
}

/// The class predicted at each position: the largest of `[N, C, …]` scores, or integer
/// predictions `[N, …]` as they are.
pub(crate) fn predicted_classes(predictions: &Tensor, targets: &Tensor, classes: usize) -> Result<Tensor> {
    let (given, expected) = (predictions.dims(), targets.dims());
    if !predictions.dtype().is_float() {
        if given != expected {
            return Err(Error::argument(
                "predictions",
                format!("classes of the targets' shape {expected:?}"),
                format!("{given:?}"),
            ));
        }
        return Ok(predictions.clone());
    }
    let fits = given.len() == expected.len() + 1
        && given.len() >= 2
        && given[0] == expected[0]
        && given[2..] == expected[1..]
        && given[1] == classes;
    if !fits {
        let error = Error::argument(
            "predictions, targets",
            format!("scores [N, {classes}, …] and classes [N, …]"),
            format!("shapes {given:?} and {expected:?}"),
        );
        return Err(if given == expected || given.get(1) == Some(&1) {
            error.hint("one score per example? use `ConfusionMatrix::binary` or a curve")
        } else {
            error.hint("dimension 1 of the predictions is the classes")
        });
    }
    if predictions.elem_count() == 0 {
        // Of nothing there is nothing to count.
        return Ok(targets.zeros_like()?.to_dtype(DType::U32)?);
    }
    let predictions = predictions.detach();
    no_nan_on_cpu("predictions", &predictions)?;
    Ok(predictions.argmax(1)?)
}

/// Scores and binary labels of equally many elements.
pub(crate) fn binary(scores: &Tensor, targets: &Tensor) -> Result<(Vec<f64>, Vec<bool>)> {
    if scores.dims() != targets.dims() {
        return Err(Error::argument(
            "targets",
            format!("the shape of the scores, {:?}", scores.dims()),
            format!("{:?}", targets.dims()),
        )
        .hint("for scores per class [N, C] use the one-vs-rest form"));
    }
    let scores = numbers("scores", scores)?;
    no_nan("scores", &scores)?;
    Ok((scores, truths(targets)?))
}

/// Binary targets of any dtype.
pub(crate) fn truths(targets: &Tensor) -> Result<Vec<bool>> {
    let values: Vec<f64> = targets.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?;
    values
        .into_iter()
        .map(|value| match value {
            0.0 => Ok(false),
            1.0 => Ok(true),
            value => Err(Error::argument("targets", "0 and 1", value).hint("several classes? use one-vs-rest")),
        })
        .collect()
}

/// Probabilities per class `[N, C]` (or `[N, C, …]`, moved to `[N·…, C]`), row-major, and labels.
pub(crate) fn class_probabilities(probabilities: &Tensor, targets: &Tensor) -> Result<(Vec<f64>, Vec<usize>, usize)> {
    let (given, expected) = (probabilities.dims(), targets.dims());
    if given.len() < 2 || given.len() != expected.len() + 1 || given[0] != expected[0] || given[2..] != expected[1..] {
        return Err(Error::argument(
            "probabilities, targets",
            "shapes [N, C, …] and [N, …]",
            format!("{given:?} and {expected:?}"),
        ));
    }
    let classes = given[1];
    let mut order: Vec<usize> = (0..given.len()).filter(|&dim| dim != 1).collect();
    order.push(1);
    let values = numbers("probabilities", &probabilities.permute(order)?)?;
    if let Some(bad) = values.iter().find(|p| !(0.0..=1.0 + 1e-6).contains(*p)) {
        return Err(Error::argument("probabilities", "numbers in [0, 1]", bad)
            .hint("are these logits? apply `candle_nn::ops::softmax(&logits, 1)?`"));
    }
    for row in values.chunks_exact(classes) {
        let sum: f64 = row.iter().sum();
        if (sum - 1.0).abs() > 1e-2 {
            return Err(Error::argument("probabilities", "rows that sum to 1", sum)
                .hint("are these logits, or independent labels?"));
        }
    }
    let labels = labels("targets", targets)?
        .into_iter()
        .map(|label| in_range(label, classes))
        .collect::<Result<Vec<usize>>>()?;
    Ok((values, labels, classes))
}

pub(crate) fn in_range(label: i64, classes: usize) -> Result<usize> {
    match usize::try_from(label) {
        Ok(label) if label < classes => Ok(label),
        _ => {
            let error = Error::argument("targets", format!("classes in 0..{classes}"), label);
            Err(if label == 255 || label < 0 {
                error.hint(format!("is {label} the label of unknown pixels? set `ignore_index({label})`"))
            } else {
                error.hint("does the model have one output per class?")
            })
        }
    }
}
