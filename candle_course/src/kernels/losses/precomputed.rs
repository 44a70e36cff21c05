//! A loss whose value and gradient a kernel has already computed, as a node of candle's graph.

use candle_core::{DType, Tensor};

use crate::error::Result;
use crate::kernels::node::{Value, node};

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
        let broadcast = broadcast.to_vec();
        return Ok(node("precomputed-loss", &[input], Value::of(&value)?, move |_, _, outer| {
            if outer.rank() == 0 && outer.to_dtype(DType::F64)?.to_scalar::<f64>()? == 1.0 {
                return Ok(vec![Some(gradient.clone())]); // the root of the graph: nothing to scale
            }
            Ok(vec![Some(gradient.broadcast_mul(&outer.reshape(broadcast.as_slice())?)?)])
        })?);
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
