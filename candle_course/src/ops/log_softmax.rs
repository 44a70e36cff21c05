//! Log-softmax.

use candle_core::Tensor;
use candle_core::shape::Dim;

use super::support::{Reading, apply, check_input, on_cpu, tensor};
use crate::error::Result;
use crate::kernels::node::{Gradients, Value};
use crate::kernels::simd::Element;
use crate::kernels::softmax;

/// Along the last dimension.
struct LogSoftmax {
    classes: usize,
}

impl LogSoftmax {
    fn forward<T: Element>(&self, inputs: &[&Tensor]) -> candle_core::Result<Value> {
        let ys = softmax::log_softmax::<T>(Reading::of(inputs[0]).get()?, self.classes);
        Ok(Value::cpu(ys, inputs[0].shape()))
    }

    fn backward<T: Element>(&self, _: &[&Tensor], ys: &Tensor, dy: &Tensor) -> Gradients {
        let (y, dy) = (Reading::of(ys), Reading::of(dy));
        let dx = softmax::log_softmax_backward::<T>(y.get()?, dy.get()?, self.classes);
        Ok(vec![Some(tensor(dx, ys.shape())?)])
    }
}

/// log(eˣ / Σ eˣ) along `dim`, computed as x − largest − log Σ e^(x − largest): never overflows.
///
/// # Errors
/// If there is no such dimension, or the input is empty or of a dtype without kernels.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let y = candle_course::ops::log_softmax(&Tensor::new(&[[1000f32, 1000.]], &Device::Cpu)?, 1)?;
/// assert_eq!(y.to_vec2::<f32>()?, [[-std::f32::consts::LN_2; 2]]);
/// # Ok::<(), candle_course::Error>(())
/// ```
pub fn log_softmax(xs: &Tensor, dim: impl Dim) -> Result<Tensor> {
    check_input("xs", xs)?;
    let dim = dim.to_index(xs.shape(), "log_softmax")?;
    #[cfg(feature = "cuda")]
    if super::support::on_cuda(xs) {
        return Ok(crate::kernels::cuda::cross_entropy::log_softmax(xs, dim)?);
    }
    if !on_cpu(xs) {
        return composed(xs, dim);
    }
    let last = xs.rank() - 1;
    let op = LogSoftmax { classes: xs.dim(dim)? };
    if dim == last {
        return Ok(apply!("log_softmax", op, [Some(xs)]));
    }
    let turned = xs.transpose(dim, last)?;
    Ok(apply!("log_softmax", op, [Some(&turned)]).transpose(dim, last)?)
}

/// The same of candle's operations, for a GPU. What is subtracted first changes nothing, so it
/// needs no gradient.
fn composed(xs: &Tensor, dim: usize) -> Result<Tensor> {
    let below = xs.broadcast_sub(&xs.detach().max_keepdim(dim)?)?;
    Ok(below.broadcast_sub(&below.exp()?.sum_keepdim(dim)?.log()?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn large_numbers_swallow_nothing() {
        for size in [1e4f32, 1e8] {
            let xs = Tensor::new(&[[size, size], [-size, -size], [size, -size]], &Device::Cpu).unwrap();
            let run = || log_softmax(&xs, 1).unwrap().to_vec2::<f32>().unwrap();
            for log_p in [run(), super::super::support::composed(run)] {
                let ln_2 = std::f32::consts::LN_2;
                assert_eq!(log_p, [[-ln_2; 2], [-ln_2; 2], [0.0, -2.0 * size]], "{size}");
            }
        }
    }
}
