//! Weights alone, as PyTorch's `state_dict` in safetensors.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Tensor};

use crate::checkpoint::atomic;
use crate::checkpoint::format::{self, Texts};
use crate::error::{Context, Error, ErrorKind, Result, contained};
use crate::nn::Parameters;
use crate::stateful::Stateful;

/// Writes parameters and buffers under PyTorch's names: what `safetensors.torch.load_file` reads
/// and `load_state_dict` takes.
///
/// # Errors
/// If the file cannot be written; one that was there before is untouched.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let mut parameters = Parameters::new(0, &Device::Cpu);
/// let layer = Linear::new(2, 1, &parameters.at("fc"))?;
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("model.safetensors");
/// save_weights(&parameters, &path)?;
/// load_weights(&mut parameters, &path)?;
/// # Ok::<(), candle_course::Error>(())
/// ```
pub fn save_weights(parameters: &Parameters, path: impl AsRef<Path>) -> Result<()> {
    // Not copied: nothing changes while they are written.
    let tensors = parameters.all().into_iter().map(|(name, var)| (name, var.as_detached_tensor())).collect();
    write_weights(&tensors, None, path)
}

/// Writes named tensors; with `dtype`, floating-point ones are converted: bf16 or f16 halve the
/// file. f16 reaches to 65504 only; numbers beyond are refused.
///
/// # Errors
/// If `dtype` is not a floating-point dtype, a finite number would become infinite, or the file
/// cannot be written.
pub fn write_weights(tensors: &BTreeMap<String, Tensor>, dtype: Option<DType>, path: impl AsRef<Path>) -> Result<()> {
    let mut converted = BTreeMap::new();
    for (name, tensor) in tensors {
        let tensor = match dtype {
            Some(dtype) if !dtype.is_float() => {
                return Err(Error::argument("dtype", "a floating-point dtype", dtype.as_str()));
            }
            Some(dtype) if tensor.dtype().is_float() => convert(name, tensor, dtype)?,
            _ => tensor.clone(),
        };
        converted.insert(name.clone(), tensor);
    }
    // Some readers refuse files that do not name a framework.
    let texts = Texts::from([("format".to_owned(), "pt".to_owned())]);
    atomic::write(path.as_ref(), |file| format::write(file, &converted, &texts, false))
}

fn convert(name: &str, tensor: &Tensor, dtype: DType) -> Result<Tensor> {
    let converted = tensor.to_dtype(dtype)?;
    if tensor.elem_count() > 0 {
        let largest = |tensor: &Tensor| -> Result<f64> {
            Ok(tensor.abs()?.flatten_all()?.max(0)?.to_dtype(DType::F64)?.to_scalar::<f64>()?)
        };
        let (before, after) = (largest(tensor)?, largest(&converted)?);
        if before.is_finite() && !after.is_finite() {
            return Err(Error::argument(
                "dtype",
                format!("one that can hold {before}, the largest number of `{name}`"),
                dtype.as_str(),
            )
            .hint("bf16 has the range of f32"));
        }
    }
    Ok(converted)
}

/// Reads named tensors from a safetensors file, or from a `.pt`, `.pth` or `.bin` file that
/// PyTorch pickled (only tensors; nothing in it is run).
///
/// # Errors
/// If the file cannot be read or is damaged.
pub fn read_weights(path: impl AsRef<Path>) -> Result<BTreeMap<String, Tensor>> {
    let path = path.as_ref();
    let what = || format!("cannot load the weights `{}`", path.display());
    if path.extension().is_some_and(|extension| ["pt", "pth", "bin"].iter().any(|pickled| extension == *pickled)) {
        format::open(path)?;
        // candle's reader takes a pickle's word for what is on its stack, and panics where it is not.
        let read = || Ok(candle_core::pickle::read_all(path)?);
        return Ok(contained(ErrorKind::Data, "the reader of pickles", read).with_context(what)?.into_iter().collect());
    }
    let file = format::open(path)?;
    format::read_header(&file).and_then(|header| format::read(&file, &header)).with_context(what)
}

/// Reads weights into a model: of this crate, or PyTorch's `state_dict`.
///
/// PyTorch's `num_batches_tracked` is passed over if the model does not count batches; dtypes are
/// converted.
///
/// # Errors
/// If the file cannot be read, or is of another model: the message names every difference, and
/// the model is as before.
pub fn load_weights(parameters: &mut Parameters, path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    let mut tensors = read_weights(path)?;
    tensors.retain(|name, _| !name.ends_with("num_batches_tracked") || parameters.get(name).is_some());
    parameters.load_state(&tensors).with_context(|| format!("cannot use the weights `{}`", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::Linear;
    use candle_core::Device;

    fn model(seed: u64) -> Parameters {
        let parameters = Parameters::new(seed, &Device::Cpu);
        Linear::new(3, 2, &parameters.at("fc")).unwrap();
        parameters
    }

    fn numbers(parameters: &Parameters) -> Vec<f32> {
        parameters.get("fc.weight").unwrap().to_vec2::<f32>().unwrap().concat()
    }

    #[test]
    fn weights_travel_and_half_precision_rounds() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let (from, mut to) = (model(1), model(2));
        save_weights(&from, &path).unwrap();
        load_weights(&mut to, &path).unwrap();
        assert_eq!(numbers(&from), numbers(&to));
        let size = std::fs::metadata(&path).unwrap().len();
        for (dtype, tolerance) in [(DType::BF16, 1.0 / 256.0), (DType::F16, 1.0 / 2048.0)] {
            write_weights(&from.state().unwrap(), Some(dtype), &path).unwrap();
            assert!(std::fs::metadata(&path).unwrap().len() < size);
            load_weights(&mut to, &path).unwrap();
            for (from, to) in numbers(&from).into_iter().zip(numbers(&to)) {
                assert!((from - to).abs() <= from.abs() * tolerance, "{dtype:?}: {from} {to}");
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let mut tensors = model(1).state().unwrap();
        tensors.insert("bn.num_batches_tracked".into(), Tensor::new(3i64, &Device::Cpu).unwrap());
        write_weights(&tensors, None, &path).unwrap();
        load_weights(&mut model(2), &path).unwrap();
        tensors.insert("fc.bias".into(), Tensor::new(&[1e6f32, 0.0], &Device::Cpu).unwrap());
        let text = write_weights(&tensors, Some(DType::F16), &path).unwrap_err().to_string();
        assert!(text.contains("1000000, the largest number of `fc.bias`"), "{text}");
        assert!(write_weights(&tensors, Some(DType::U8), &path).is_err());
        tensors.remove("fc.weight");
        write_weights(&tensors, None, &path).unwrap();
        let text = load_weights(&mut model(2), &path).unwrap_err().to_string();
        assert!(text.contains("cannot use the weights") && text.contains("`fc.weight` is missing"), "{text}");
        std::fs::write(&path, b"{}").unwrap();
        assert!(load_weights(&mut model(2), &path).unwrap_err().to_string().contains("truncated"));
    }
}
