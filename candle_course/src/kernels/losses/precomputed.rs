//! A loss whose value and gradient a kernel has already computed, as a node of candle's graph.

use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};

use crate::error::Result;

struct Precomputed {
    value: Tensor,
    gradient: Tensor,
    broadcast: Vec<usize>,
}

impl CustomOp1 for Precomputed {
    fn name(&self) -> &'static str {
        "precomputed-loss"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let (storage, layout) = self.value.storage_and_layout();
        let candle_core::Storage::Cpu(storage) = &*storage else {
            candle_core::bail!("internal: a precomputed loss is computed on the CPU");
        };
        match layout.contiguous_offsets() {
            Some((0, end)) if end == self.value.elem_count() => Ok((storage.clone(), self.value.shape().clone())),
            _ => candle_core::bail!("internal: a precomputed loss owns its storage"),
        }
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, outer: &Tensor) -> candle_core::Result<Option<Tensor>> {
        if outer.rank() == 0 && outer.to_dtype(candle_core::DType::F64)?.to_scalar::<f64>()? == 1.0 {
            return Ok(Some(self.gradient.clone())); // the root of the graph: nothing to scale
        }
        self.gradient.broadcast_mul(&outer.reshape(self.broadcast.as_slice())?).map(Some)
    }
}

/// A tensor of that `value` whose derivative by `input` is `gradient` (of the shape of `input`).
///
/// `broadcast` is the shape in which the gradient of `value` multiplies `gradient`. Without a
/// `gradient` (nothing upstream is trained) the value alone. Both are on the CPU; an input on
/// another device gets them moved there.
pub(crate) fn precomputed(
    input: &Tensor,
    value: Tensor,
    gradient: Option<Tensor>,
    broadcast: &[usize],
) -> Result<Tensor> {
    let device = input.device();
    let Some(gradient) = gradient else {
        return Ok(value.to_device(device)?);
    };
    if device.is_cpu() {
        let op = Precomputed { value, gradient, broadcast: broadcast.to_vec() };
        return Ok(input.apply_op1(op)?);
    }
    // Custom operations have no portable GPU form: a linear function with the right value and
    // gradient does the same with candle's own operations.
    let (value, gradient) = (value.to_device(device)?, gradient.to_device(device)?);
    let mut linear = (input * gradient)?;
    for (dim, &size) in broadcast.iter().enumerate() {
        if size == 1 {
            linear = linear.sum_keepdim(dim)?;
        }
    }
    let linear = linear.reshape(value.dims())?;
    Ok(((&linear - linear.detach())? + value)?)
}
