//! Dropout.

use candle_core::{CpuStorage, CustomOp1, Device, Layout, Shape, Tensor};

use super::kernels::dropout;
use super::support::{Reading, check_input, dtype_of, incoming, on_cpu, output, slice, tensor, with_element};
use crate::error::{Error, Result};

struct Dropout {
    p: f64,
    key: u64,
}

impl CustomOp1 for Dropout {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        with_element!(dtype_of(x), T => output(dropout::apply::<T>(slice(x, layout)?, self.p, self.key), layout.shape()))
    }

    fn bwd(&self, xs: &Tensor, _: &Tensor, dy: &Tensor) -> candle_core::Result<Option<Tensor>> {
        // The same mask again, from the same key: nothing was kept.
        let dy = incoming(dy, self.name())?;
        let dy = Reading::of(&dy);
        Ok(Some(with_element!(xs.dtype(), T => tensor(dropout::apply::<T>(dy.get()?, self.p, self.key), xs.shape()))?))
    }
}

/// Each number becomes 0 with probability `p` and is divided by 1 − p otherwise. The mask is a
/// function of `key` alone: the same on every device and for every number of threads.
///
/// # Errors
/// If `p` is not in `[0, 1)`, or the input is empty or of a dtype without kernels.
pub fn dropout(xs: &Tensor, p: f64, key: u64) -> Result<Tensor> {
    check_input("xs", xs)?;
    if !(0.0..1.0).contains(&p) {
        return Err(Error::argument("p", "a probability in [0, 1)", p).hint("p is the share that is dropped, not kept"));
    }
    if on_cpu(xs) {
        return Ok(xs.contiguous()?.apply_op1(Dropout { p, key })?);
    }
    let mask = dropout::apply(&vec![1f32; xs.elem_count()], p, key);
    let mask = Tensor::from_vec(mask, xs.shape(), &Device::Cpu)?.to_dtype(xs.dtype())?.to_device(xs.device())?;
    Ok((xs * mask)?)
}
