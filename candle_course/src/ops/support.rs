//! What every operation needs: checks, slices of tensors, tensors of vectors.

use candle_core::{CpuStorage, DType, Device, Layout, Shape, Storage, StorageRef, Tensor};

use crate::error::{Error, Result};
use crate::kernels::simd::{Element, simd_level};

/// Runs the block with `$t` being the element type of `$dtype`, which was checked to be a float
/// that kernels know.
macro_rules! with_element {
    ($dtype:expr, $t:ident => $body:expr) => {
        match $dtype {
            candle_core::DType::F64 => {
                type $t = f64;
                $body
            }
            _ => {
                type $t = f32;
                $body
            }
        }
    };
}
pub(super) use with_element;

/// The tensors, contiguous, without the missing ones.
pub(super) fn contiguous(inputs: &[Option<&Tensor>]) -> candle_core::Result<Vec<Tensor>> {
    inputs.iter().flatten().map(|input| input.contiguous()).collect()
}

/// The tensor that the operation `$op` makes of up to three inputs (options; the first is there).
///
/// An operation has `forward::<T>(&self, &[&Tensor]) -> Result<Value>` and
/// `backward::<T>(&self, &[&Tensor], output, gradient) -> Gradients`, for the CPU or for CUDA.
macro_rules! apply {
    ($name:expr, $op:expr, $inputs:expr) => {{
        let (op, inputs) = ($op, $crate::ops::support::contiguous(&$inputs)?);
        let inputs: Vec<&candle_core::Tensor> = inputs.iter().collect();
        let value = $crate::ops::support::with_element!(inputs[0].dtype(), T => op.forward::<T>(&inputs))?;
        $crate::kernels::node::node($name, &inputs, value, move |inputs, ys, dy| {
            $crate::ops::support::with_element!(ys.dtype(), T => op.backward::<T>(inputs, ys, dy))
        })?
    }};
}
pub(super) use apply;

/// Whether our kernels do the work.
pub(super) fn on_cpu(xs: &Tensor) -> bool {
    #[cfg(test)]
    if is_composed() {
        return false;
    }
    matches!(xs.device(), Device::Cpu)
}

/// Whether our CUDA kernels do the work.
#[cfg(feature = "cuda")]
pub(super) fn on_cuda(xs: &Tensor) -> bool {
    #[cfg(test)]
    if is_composed() {
        return false;
    }
    matches!(xs.device(), Device::Cuda(_)) && matches!(xs.dtype(), DType::F32 | DType::F64)
}

#[cfg(test)]
thread_local! {
    static COMPOSED: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Whether operations are composed of candle's on the CPU too.
#[cfg(test)]
pub(crate) fn is_composed() -> bool {
    COMPOSED.get()
}

/// What `work` gives where operations take their GPU road.
#[cfg(test)]
pub(crate) fn composed<R>(work: impl FnOnce() -> R) -> R {
    struct Reset;
    impl Drop for Reset {
        fn drop(&mut self) {
            COMPOSED.set(false);
        }
    }
    COMPOSED.set(true);
    let _reset = Reset;
    work()
}

/// max(x, 0) of candle's operations, for a GPU. Not candle's `relu`: its gradient at 0 is 1.
pub(super) fn relu_composed(xs: &Tensor) -> candle_core::Result<Tensor> {
    let zeros = xs.zeros_like()?;
    // In this order a NaN stays NaN.
    xs.le(&zeros)?.where_cond(&zeros, xs)
}

/// Checks the argument `name`: a dtype we have kernels for, not empty.
pub(super) fn check_input(name: &str, xs: &Tensor) -> Result<()> {
    if on_cpu(xs) {
        simd_level()?;
        if !matches!(xs.dtype(), DType::F32 | DType::F64) {
            return Err(Error::argument(name, "dtype f32 or f64", format!("{:?}", xs.dtype()))
                .hint("half precision and integers have no kernels on the CPU: use `to_dtype(DType::F32)`"));
        }
    }
    if xs.elem_count() == 0 {
        return Err(Error::argument(name, "at least one number", format!("shape {:?}", xs.dims()))
            .hint("an empty batch has no values and no gradient: was everything filtered out?"));
    }
    Ok(())
}

/// Checks that `other` can be computed with together with `xs`.
pub(super) fn check_same_kind(name: &str, other: &Tensor, xs: &Tensor) -> Result<()> {
    if other.dtype() != xs.dtype() {
        return Err(Error::argument(
            name,
            format!("the input's dtype {:?}", xs.dtype()),
            format!("{:?}", other.dtype()),
        ));
    }
    if !other.device().same_device(xs.device()) {
        return Err(Error::argument(
            name,
            format!("the input's device {:?}", xs.device().location()),
            format!("{:?}", other.device().location()),
        )
        .hint("move the batch with `to_device`"));
    }
    Ok(())
}

/// Checks that `weight` is not empty and can be computed with together with `xs`.
pub(super) fn check_weight(weight: &Tensor, xs: &Tensor) -> Result<()> {
    check_same_kind("weight", weight, xs)?;
    if weight.elem_count() == 0 {
        return Err(Error::argument("weight", "at least one number", format!("shape {:?}", weight.dims())));
    }
    Ok(())
}

/// Checks the shape of the argument `name`.
pub(super) fn check_shape(name: &str, xs: &Tensor, shape: &[usize]) -> Result<()> {
    if xs.dims() == shape {
        return Ok(());
    }
    Err(Error::argument(name, format!("shape {shape:?}"), format!("{:?}", xs.dims())))
}

/// The four sizes of an image batch.
pub(super) fn image_sizes(name: &str, xs: &Tensor) -> Result<(usize, usize, usize, usize)> {
    xs.dims4().map_err(|_| {
        Error::argument(name, "shape [N, C, H, W]", format!("{:?}", xs.dims()))
            .hint("a single image wants `unsqueeze(0)`, a grey one `unsqueeze(1)`")
    })
}

/// `rows` · plane · `columns`ᵀ of every plane of an image batch, for a GPU.
///
/// `xs`: `[N, C, H, W]`; `rows`: `[H′, H]`; `columns`: `[W′, W]` → `[N, C, H′, W′]`.
pub(super) fn separable(xs: &Tensor, rows: &Tensor, columns: &Tensor) -> Result<Tensor> {
    let (batch, channels, height, width) = xs.dims4()?;
    let (planes, out_height, out_width) = (batch * channels, rows.dim(0)?, columns.dim(0)?);
    let ys = xs.reshape((planes * height, width))?.matmul(&columns.t()?)?.reshape((planes, height, out_width))?;
    let rows = rows.unsqueeze(0)?.broadcast_as((planes, out_height, height))?.contiguous()?;
    Ok(rows.matmul(&ys)?.reshape((batch, channels, out_height, out_width))?)
}

/// A contiguous tensor's numbers in a storage.
fn slice<'a, T: Element>(storage: &'a CpuStorage, layout: &Layout) -> candle_core::Result<&'a [T]> {
    let values = storage.as_slice::<T>()?;
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&values[start..end]),
        None => candle_core::bail!("internal error: a kernel was given a strided tensor"),
    }
}

/// A tensor held open for reading.
pub(crate) struct Reading<'a> {
    storage: StorageRef<'a>,
    layout: &'a Layout,
}

impl<'a> Reading<'a> {
    pub(crate) fn of(xs: &'a Tensor) -> Self {
        let (storage, layout) = xs.storage_and_layout();
        Self { storage, layout }
    }

    /// The numbers; the tensor must be contiguous and on the CPU.
    pub(crate) fn get<T: Element>(&self) -> candle_core::Result<&[T]> {
        match &*self.storage {
            Storage::Cpu(storage) => slice(storage, self.layout),
            _ => candle_core::bail!("internal error: a CPU kernel was given a GPU tensor"),
        }
    }
}

/// A CPU tensor of these numbers.
pub(super) fn tensor<T: Element>(values: Vec<T>, shape: impl Into<Shape>) -> candle_core::Result<Tensor> {
    Tensor::from_vec(values, shape.into(), &Device::Cpu)
}
