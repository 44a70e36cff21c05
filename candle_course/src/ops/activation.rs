//! Element-wise activations.

use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};

use super::support::{
    Reading, check_input, dtype_of, incoming, on_cpu, output, relu_composed, slice, tensor, with_element,
};
use crate::error::Result;
use crate::kernels::activation::{self, Curve, Gelu, Silu};

struct Relu;

impl CustomOp1 for Relu {
    fn name(&self) -> &'static str {
        "relu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        with_element!(dtype_of(x), T => output(activation::relu::<T>(slice(x, layout)?), layout.shape()))
    }

    fn bwd(&self, _: &Tensor, ys: &Tensor, dy: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let dy = incoming(dy, self.name())?;
        let (y, dy) = (Reading::of(ys), Reading::of(&dy));
        Ok(Some(
            with_element!(ys.dtype(), T => tensor(activation::relu_backward::<T>(y.get()?, dy.get()?), ys.shape()))?,
        ))
    }
}

/// max(x, 0) of every number; the gradient at 0 is 0.
///
/// # Errors
/// If the input is empty or of a dtype without kernels.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let y = candle_course::ops::relu(&Tensor::new(&[-1f32, 0., 2.], &Device::Cpu)?)?;
/// assert_eq!(y.to_vec1::<f32>()?, [0., 0., 2.]);
/// # Ok::<(), candle_course::Error>(())
/// ```
pub fn relu(xs: &Tensor) -> Result<Tensor> {
    check_input("xs", xs)?;
    #[cfg(feature = "cuda")]
    if super::support::on_cuda(xs) {
        return Ok(crate::kernels::cuda::activation::relu(xs)?);
    }
    Ok(if on_cpu(xs) { xs.contiguous()?.apply_op1(Relu)? } else { relu_composed(xs)? })
}

struct Smooth<C> {
    name: &'static str,
    curve: std::marker::PhantomData<C>,
}

impl<C: Curve> CustomOp1 for Smooth<C> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        with_element!(dtype_of(x), T => output(activation::curve::<C, T>(slice(x, layout)?), layout.shape()))
    }

    fn bwd(&self, xs: &Tensor, _: &Tensor, dy: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let dy = incoming(dy, self.name)?;
        let (x, dy) = (Reading::of(xs), Reading::of(&dy));
        let dx = with_element!(xs.dtype(), T => tensor(activation::curve_backward::<C, T>(x.get()?, dy.get()?), xs.shape()))?;
        Ok(Some(dx))
    }
}

fn smooth<C: Curve + Send + 'static>(xs: &Tensor, name: &'static str) -> Result<Tensor> {
    Ok(xs.contiguous()?.apply_op1(Smooth::<C> { name, curve: std::marker::PhantomData })?)
}

/// x · Φ(x), the exact GELU (Hendrycks & Gimpel 2016, arXiv:1606.08415), as
/// `torch.nn.functional.gelu`.
///
/// # Errors
/// If the input is empty or of a dtype without kernels.
pub fn gelu(xs: &Tensor) -> Result<Tensor> {
    check_input("xs", xs)?;
    #[cfg(feature = "cuda")]
    if super::support::on_cuda(xs) {
        return Ok(crate::kernels::cuda::activation::gelu(xs)?);
    }
    if on_cpu(xs) { smooth::<Gelu>(xs, "gelu") } else { Ok(xs.gelu_erf()?) }
}

/// x · σ(x) (Elfwing et al. 2017, arXiv:1702.03118), as `torch.nn.functional.silu`.
///
/// # Errors
/// If the input is empty or of a dtype without kernels.
pub fn silu(xs: &Tensor) -> Result<Tensor> {
    check_input("xs", xs)?;
    #[cfg(feature = "cuda")]
    if super::support::on_cuda(xs) {
        return Ok(crate::kernels::cuda::activation::silu(xs)?);
    }
    if on_cpu(xs) { smooth::<Silu>(xs, "silu") } else { Ok(xs.silu()?) }
}
