//! Weights alone, as PyTorch's `state_dict` in safetensors.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use candle_core::{DType, Tensor};

use crate::checkpoint::atomic;
use crate::checkpoint::format::{self, Texts};
use crate::checkpoint::{WeightLoading, pytorch};
use crate::error::{Context, Error, Result};
use crate::nn::Parameters;
use crate::stateful::in_dtype;

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
            Some(dtype) if tensor.dtype().is_float() => in_dtype(name, tensor, dtype)?,
            _ => tensor.clone(),
        };
        converted.insert(name.clone(), tensor);
    }
    // Some readers refuse files that do not name a framework.
    let texts = Texts::from([("format".to_owned(), "pt".to_owned())]);
    atomic::write(path.as_ref(), |file| format::write(file, &converted, &texts, false))
}

/// Reads named tensors from a safetensors file, or from one that `torch.save` wrote, whatever the
/// file's name; only tensors, nothing in it is run.
///
/// Of PyTorch's files it takes a `state_dict`, one within a dictionary (`state_dict`,
/// `model_state_dict` or whatever the key), or the parameters and buffers of a module that was
/// saved whole; not what optimizers, schedules and generators keep. Bool becomes u8, u16 u32, and
/// whole numbers that are not u8 or u32 become i64, in either format.
///
/// # Errors
/// If the file cannot be read or is damaged, has a dtype that becomes none of these, holds no named
/// tensors or several sets of them (the message says what there is), or was written by PyTorch
/// before 1.6.
pub fn read_weights(path: impl AsRef<Path>) -> Result<BTreeMap<String, Tensor>> {
    let path = path.as_ref();
    let mut file = format::open(path)?;
    let mut first = Vec::new();
    let read = (&mut file).take(pytorch::LEGACY.len() as u64).read_to_end(&mut first);
    let read = read.map_err(Error::from).and_then(|_| {
        if first == pytorch::LEGACY {
            return Err(Error::checkpoint("PyTorch before 1.6 wrote it, in a format that is not read here")
                .hint("write it anew in Python: `torch.save(torch.load(path, weights_only=True), path)`"));
        }
        if first.starts_with(b"PK\x03\x04") {
            return pytorch::read(file);
        }
        format::read_header(&file).and_then(|header| format::read(&file, &header))
    });
    read.with_context(|| format!("cannot load the weights `{}`", path.display()))
}

/// Reads weights into a model: of this crate, or PyTorch's `state_dict`.
///
/// PyTorch's `num_batches_tracked` is passed over if the model does not count batches, and may be
/// missing, as in PyTorch (old checkpoints and candle's `VarMap` have none): the count is then as
/// before. Dtypes are converted. [`WeightLoading`] loads a part, and under other names.
///
/// # Errors
/// If the file cannot be read, or is of another model: the message names every difference, and
/// the model is as before.
pub fn load_weights(parameters: &mut Parameters, path: impl AsRef<Path>) -> Result<()> {
    WeightLoading::new().load(parameters, path).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::Linear;
    use crate::stateful::Stateful as _;
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
        assert!(text.contains("1000000, the largest finite number of `fc.bias`"), "{text}");
        assert!(write_weights(&tensors, Some(DType::U8), &path).is_err());
        tensors.remove("fc.weight");
        write_weights(&tensors, None, &path).unwrap();
        let text = load_weights(&mut model(2), &path).unwrap_err().to_string();
        assert!(text.contains("cannot use the weights") && text.contains("`fc.weight` is missing"), "{text}");
        std::fs::write(&path, b"{}").unwrap();
        assert!(load_weights(&mut model(2), &path).unwrap_err().to_string().contains("truncated"));
    }
}
