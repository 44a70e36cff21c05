//! Log-softmax.

use candle_core::shape::Dim;
use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};

use super::support::{Reading, check_input, dtype_of, incoming, on_cpu, output, slice, tensor, with_element};
use crate::error::Result;
use crate::kernels::softmax;

/// Along the last dimension.
struct LogSoftmax;

impl CustomOp1 for LogSoftmax {
    fn name(&self) -> &'static str {
        "log_softmax"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let classes = layout.dims()[layout.dims().len() - 1];
        with_element!(dtype_of(x), T => output(softmax::log_softmax::<T>(slice(x, layout)?, classes), layout.shape()))
    }

    fn bwd(&self, _: &Tensor, ys: &Tensor, dy: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let dy = incoming(dy, self.name())?;
        let (y, dy, classes) = (Reading::of(ys), Reading::of(&dy), ys.dims()[ys.rank() - 1]);
        let dx = with_element!(ys.dtype(), T => {
            tensor(softmax::log_softmax_backward::<T>(y.get()?, dy.get()?, classes), ys.shape())
        })?;
        Ok(Some(dx))
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
    if dim == last {
        return Ok(xs.contiguous()?.apply_op1(LogSoftmax)?);
    }
    Ok(xs.transpose(dim, last)?.contiguous()?.apply_op1(LogSoftmax)?.transpose(dim, last)?)
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
