//! Bounds on gradients.

use candle_core::backprop::GradStore;
#[cfg(feature = "cuda")]
use candle_core::cuda_backend::CudaStorageSlice;
use candle_core::{CpuStorage, DType, InplaceOp1, Layout, Storage, Tensor, Var};

use crate::error::{Error, Result};
#[cfg(feature = "cuda")]
use crate::kernels::cuda::{runtime, updates as device};
use crate::kernels::updates::{Real, contiguous_range, map_chunks, state_dtype, sum_chunks};
use crate::nn::Parameters;
use crate::optimizers::engine::collect;

/// Scales all gradients so that their global norm is at most `max_norm`, as
/// `torch.nn.utils.clip_grad_norm_`. Returns the norm before.
///
/// With n = √Σ g² over all trainable parameters, every gradient is multiplied by
/// min(1, max_norm / (n + 10⁻⁶)): the direction of the step stays. If n is NaN or infinite, the
/// gradients are left alone for the optimizer's [`NonFinite`](crate::optimizers::NonFinite) policy
/// to deal with. Pascanu, Mikolov & Bengio 2013, "On the difficulty of training recurrent neural
/// networks".
///
/// The gradients in the store are changed in place.
///
/// # Errors
/// If `max_norm` is not positive, or a trainable parameter has no gradient.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let parameters = Parameters::new(0, &Device::Cpu);
/// let w = parameters.root().parameter("w", 2, Init::ZEROS)?;
/// let loss = (w.as_tensor() * &Tensor::new(&[3f32, 4.0], &Device::Cpu)?)?.sum_all()?;
/// let mut gradients = loss.backward()?;
/// assert_eq!(clip_gradient_norm(&parameters, &mut gradients, 1.0)?, 5.0);
/// assert!((gradient_norm(&parameters, &gradients)? - 1.0).abs() < 1e-5);
/// # Ok::<(), candle_course::Error>(())
/// ```
pub fn clip_gradient_norm(parameters: &Parameters, gradients: &mut GradStore, max_norm: f64) -> Result<f64> {
    clip_unread(parameters, gradients, max_norm)?.value()
}

/// A norm that may still be on the device.
#[derive(Debug, Clone)]
pub(crate) enum GradientNorm {
    Known(f64),
    /// A scalar, f64.
    #[cfg(feature = "cuda")]
    OnDevice(Tensor),
}

impl GradientNorm {
    /// Waits for the device, if the norm is there.
    pub(crate) fn value(&self) -> Result<f64> {
        match self {
            Self::Known(norm) => Ok(*norm),
            #[cfg(feature = "cuda")]
            Self::OnDevice(norm) => Ok(norm.to_scalar()?),
        }
    }
}

/// [`clip_gradient_norm`], without waiting for a device that can do it by itself.
pub(crate) fn clip_unread(parameters: &Parameters, gradients: &mut GradStore, max_norm: f64) -> Result<GradientNorm> {
    positive_bound("max_norm", max_norm)?;
    #[cfg(feature = "cuda")]
    if let Some(norm) = norm_on_device(parameters, gradients, Some(max_norm))? {
        return Ok(GradientNorm::OnDevice(norm));
    }
    let norm = gradient_norm(parameters, gradients)?;
    let factor = max_norm / (norm + 1e-6);
    if norm.is_finite() && factor < 1.0 {
        change(parameters, gradients, |_, _| Ok(Some(Change::Scale(factor))))?;
    }
    Ok(GradientNorm::Known(norm))
}

/// The norm, after which gradients may be scaled down to `max_norm`; all on the device, if they are
/// there.
#[cfg(feature = "cuda")]
fn norm_on_device(parameters: &Parameters, gradients: &mut GradStore, max_norm: Option<f64>) -> Result<Option<Tensor>> {
    let trainable = parameters.trainable();
    if !device::fits(trainable.iter().map(|(_, var)| var.as_tensor())) {
        return Ok(None);
    }
    collect(&trainable, gradients)?;
    separate(&trainable, gradients)?;
    let all: Vec<&Tensor> = trainable.iter().filter_map(|(_, var)| gradients.get(var)).collect();
    if !device::fits(all.iter().copied()) {
        return Ok(None);
    }
    Ok(Some(device::norm(&all, max_norm)?))
}

/// Scales each parameter's gradient so that its own norm is at most `max_norm`. Returns the norms
/// before, by name.
///
/// # Errors
/// As [`clip_gradient_norm`].
pub fn clip_gradient_norm_each(
    parameters: &Parameters,
    gradients: &mut GradStore,
    max_norm: f64,
) -> Result<Vec<(String, f64)>> {
    positive_bound("max_norm", max_norm)?;
    let mut norms = Vec::new();
    change(parameters, gradients, |name, gradient| {
        let norm = square_sum(gradient)?.sqrt();
        norms.push((name.to_owned(), norm));
        let factor = max_norm / (norm + 1e-6);
        Ok((norm.is_finite() && factor < 1.0).then_some(Change::Scale(factor)))
    })?;
    Ok(norms)
}

/// Limits every number of every gradient to ±`bound`, as `torch.nn.utils.clip_grad_value_`. This
/// changes the direction of the step. NaN stays NaN.
///
/// # Errors
/// As [`clip_gradient_norm`].
pub fn clip_gradient_value(parameters: &Parameters, gradients: &mut GradStore, bound: f64) -> Result<()> {
    positive_bound("bound", bound)?;
    change(parameters, gradients, |_, _| Ok(Some(Change::Clamp(bound))))
}

/// The global norm of the gradients, √Σ g², summed in f64 in a fixed order.
///
/// # Errors
/// If a trainable parameter has no gradient.
pub fn gradient_norm(parameters: &Parameters, gradients: &GradStore) -> Result<f64> {
    let trainable = parameters.trainable();
    let pairs = collect(&trainable, gradients)?;
    #[cfg(feature = "cuda")]
    if device::fits(pairs.iter().map(|&(_, _, gradient)| gradient)) {
        let all: Vec<&Tensor> = pairs.iter().map(|&(_, _, gradient)| gradient).collect();
        return Ok(device::norm(&all, None)?.to_scalar()?);
    }
    let mut sum = 0.0;
    for (_, _, gradient) in pairs {
        sum += square_sum(gradient)?;
    }
    Ok(sum.sqrt())
}

fn positive_bound(name: &str, value: f64) -> Result<()> {
    if value > 0.0 {
        return Ok(());
    }
    Err(Error::argument(name, "a number > 0", value).hint("a bound of 0 would stop the training; leave clipping out"))
}

#[derive(Clone, Copy)]
pub(super) enum Change {
    Scale(f64),
    Clamp(f64),
}

/// Changes every gradient as `choose` says.
fn change(
    parameters: &Parameters,
    gradients: &mut GradStore,
    mut choose: impl FnMut(&str, &Tensor) -> Result<Option<Change>>,
) -> Result<()> {
    let trainable = parameters.trainable();
    let mut changes: Vec<(Var, Change)> = Vec::new();
    for (name, var, gradient) in collect(&trainable, gradients)? {
        if let Some(change) = choose(name, gradient)? {
            changes.push((var.clone(), change));
        }
    }
    separate(&trainable, gradients)?;
    apply_all(changes, gradients)
}

/// Changes gradients in place, after [`separate`]: on a CUDA device all in one launch.
pub(super) fn apply_all(changes: Vec<(Var, Change)>, gradients: &mut GradStore) -> Result<()> {
    #[cfg(feature = "cuda")]
    {
        use crate::optimizers::on_device::change_all;
        let (mut scaled, mut clamped) = (Vec::new(), Vec::new());
        for (var, change) in &changes {
            let Some(gradient) = gradients.get(var) else { continue };
            match *change {
                Change::Scale(factor) => scaled.push((gradient, None, [factor, 0.0])),
                Change::Clamp(bound) => clamped.push((gradient, None, [bound, 0.0])),
            }
        }
        let all = scaled.iter().chain(&clamped).map(|&(gradient, ..)| gradient);
        if device::fits(all) {
            change_all("scale", &scaled)?;
            return change_all("clamp", &clamped).map(drop);
        }
    }
    changes.into_iter().try_for_each(|(var, change)| apply(&var, gradients, change))
}

/// Gives every gradient a storage of its own, in which it can be changed: copies those that are
/// views or that another parameter's gradient shares.
pub(super) fn separate(trainable: &[(String, Var)], gradients: &mut GradStore) -> Result<()> {
    let mut seen = Vec::new();
    for (_, var) in trainable {
        let Some(gradient) = gradients.get(var) else { continue };
        let Some(address) = address(gradient) else { continue };
        if gradient.is_contiguous() && !seen.contains(&address) {
            seen.push(address);
        } else {
            let copy = gradient.copy()?.contiguous()?;
            gradients.insert(var, copy);
        }
    }
    Ok(())
}

/// Changes one gradient in place, after [`separate`], or replaces it on a GPU.
fn apply(var: &Var, gradients: &mut GradStore, change: Change) -> Result<()> {
    let Some(gradient) = gradients.get(var) else { return Ok(()) };
    if gradient.device().is_cpu() && address(gradient).is_some() {
        return Ok(gradient.inplace_op1(&InPlace(change))?);
    }
    let changed = match change {
        Change::Scale(factor) => (gradient * factor)?,
        Change::Clamp(bound) => gradient.clamp(-bound, bound)?,
    };
    gradients.insert(var, changed);
    Ok(())
}

/// Where the storage of a tensor that can be changed in place begins.
fn address(tensor: &Tensor) -> Option<usize> {
    let (storage, _) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(CpuStorage::F32(values)) => Some(values.as_ptr() as usize),
        Storage::Cpu(CpuStorage::F64(values)) => Some(values.as_ptr() as usize),
        #[cfg(feature = "cuda")]
        Storage::Cuda(storage) => match &storage.slice {
            CudaStorageSlice::F32(values) => Some(runtime::address(values) as usize),
            CudaStorageSlice::F64(values) => Some(runtime::address(values) as usize),
            _ => None,
        },
        _ => None,
    }
}

struct InPlace(Change);

fn each<A: Real>(values: &mut [A], change: Change) {
    match change {
        Change::Scale(factor) => {
            let factor = A::real(factor);
            map_chunks(values, |value| *value = *value * factor);
        }
        Change::Clamp(bound) => {
            let (low, high) = (A::real(-bound), A::real(bound));
            map_chunks(values, |value| {
                if *value < low {
                    *value = low;
                } else if *value > high {
                    *value = high;
                }
            });
        }
    }
}

impl InplaceOp1 for InPlace {
    fn name(&self) -> &'static str {
        "change-gradient"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let range = contiguous_range(layout)?;
        match storage {
            CpuStorage::F32(values) => each(&mut values[range], self.0),
            CpuStorage::F64(values) => each(&mut values[range], self.0),
            _ => candle_core::bail!("in-place changes of gradients are for f32 and f64"),
        }
        Ok(())
    }
}

/// Σ x², in f64, in a fixed order.
fn square_sum(tensor: &Tensor) -> Result<f64> {
    if tensor.device().is_cpu() {
        // Half precision and transposed views, too, are summed in f64.
        let tensor = tensor.to_dtype(state_dtype(tensor.dtype()))?.contiguous()?;
        let (storage, layout) = tensor.storage_and_layout();
        if let (Storage::Cpu(storage), Some((start, end))) = (&*storage, layout.contiguous_offsets()) {
            match storage {
                CpuStorage::F32(values) => return Ok(sum_chunks(&values[start..end], |x| f64::from(x) * f64::from(x))),
                CpuStorage::F64(values) => return Ok(sum_chunks(&values[start..end], |x| x * x)),
                _ => {}
            }
        }
    }
    let sum = tensor.to_dtype(DType::F32)?.sqr()?.sum_all()?;
    Ok(f64::from(sum.to_scalar::<f32>()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::Init;
    use candle_core::Device;

    fn two() -> (Parameters, Var, Var) {
        let parameters = Parameters::new(0, &Device::Cpu);
        let a = parameters.root().parameter("a", 2, Init::ZEROS).unwrap();
        let b = parameters.root().parameter("b", 1, Init::ZEROS).unwrap();
        (parameters, a, b)
    }

    fn gradients(a: &Var, b: &Var, values: [f32; 3]) -> GradStore {
        let factors = Tensor::new(&values[..2], &Device::Cpu).unwrap();
        let first = (a.as_tensor() * factors).unwrap().sum_all().unwrap();
        let second = (b.as_tensor() * f64::from(values[2])).unwrap().sum_all().unwrap();
        (first + second).unwrap().backward().unwrap()
    }

    fn numbers(gradients: &GradStore, var: &Var) -> Vec<f32> {
        gradients.get(var).unwrap().to_vec1().unwrap()
    }

    #[test]
    fn the_global_norm_keeps_the_direction() {
        let (parameters, a, b) = two();
        let mut store = gradients(&a, &b, [2.0, -3.0, 6.0]);
        assert_eq!(clip_gradient_norm(&parameters, &mut store, 10.0).unwrap(), 7.0);
        assert_eq!((numbers(&store, &a), numbers(&store, &b)), (vec![2.0, -3.0], vec![6.0]));
        assert_eq!(clip_gradient_norm(&parameters, &mut store, 3.5).unwrap(), 7.0);
        // torch.nn.utils.clip_grad_norm_ gives 2 · 3.5 / 7.000001 and so on.
        let scale = 3.5 / 7.000_001;
        for (got, expected) in numbers(&store, &a).into_iter().chain(numbers(&store, &b)).zip([2.0, -3.0, 6.0]) {
            assert!((f64::from(got) - expected * scale).abs() < 1e-6, "{got}");
        }
    }

    #[test]
    fn each_norm_and_each_value() {
        let (parameters, a, b) = two();
        let mut store = gradients(&a, &b, [3.0, 4.0, 0.5]);
        let norms = clip_gradient_norm_each(&parameters, &mut store, 1.0).unwrap();
        assert_eq!(norms, [("a".to_owned(), 5.0), ("b".to_owned(), 0.5)]);
        assert!((numbers(&store, &a)[1] - 0.8).abs() < 1e-6);
        assert_eq!(numbers(&store, &b), [0.5]);
        let mut store = gradients(&a, &b, [3.0, -4.0, 0.5]);
        clip_gradient_value(&parameters, &mut store, 1.0).unwrap();
        assert_eq!((numbers(&store, &a), numbers(&store, &b)), (vec![1.0, -1.0], vec![0.5]));
    }

    #[test]
    fn zero_bounds_and_missing_gradients_are_refused() {
        let (parameters, a, b) = two();
        let mut store = gradients(&a, &b, [1.0; 3]);
        let text = clip_gradient_norm(&parameters, &mut store, 0.0).unwrap_err().to_string();
        assert!(text.contains("leave clipping out"), "{text}");
        store.remove(&b);
        let text = clip_gradient_norm(&parameters, &mut store, 1.0).unwrap_err().to_string();
        assert!(text.contains("`b` received no gradient"), "{text}");
    }

    #[test]
    fn a_shared_gradient_is_scaled_once_for_each() {
        let parameters = Parameters::new(0, &Device::Cpu);
        let a = parameters.root().parameter("a", 2, Init::ZEROS).unwrap();
        let b = parameters.root().parameter("b", 2, Init::ZEROS).unwrap();
        let mut store = (a.as_tensor() + b.as_tensor()).unwrap().sum_all().unwrap().backward().unwrap();
        let shared = store.get(&a).unwrap().clone();
        store.insert(&b, shared);
        clip_gradient_norm(&parameters, &mut store, 1.0).unwrap();
        for var in [&a, &b] {
            assert!((numbers(&store, var)[0] - 0.5).abs() < 1e-6, "{:?}", numbers(&store, var));
        }
    }

    #[test]
    fn an_infinite_norm_is_returned_and_nothing_changed() {
        let (parameters, a, b) = two();
        let mut store = gradients(&a, &b, [f32::INFINITY, 1.0, 2.0]);
        assert_eq!(clip_gradient_norm(&parameters, &mut store, 1.0).unwrap(), f64::INFINITY);
        assert_eq!(numbers(&store, &b), [2.0]);
    }
}
