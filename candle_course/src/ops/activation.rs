//! Element-wise activations.

use std::marker::PhantomData;

use candle_core::Tensor;

use super::support::{Reading, apply, check_input, check_same_kind, check_shape, on_cpu, relu_composed, tensor};
use crate::error::Result;
use crate::kernels::activation::{self, Curve, Gelu, Silu};
use crate::kernels::node::{Gradients, Value};
use crate::kernels::simd::Element;

struct Relu;

impl Relu {
    fn forward<T: Element>(&self, inputs: &[&Tensor]) -> candle_core::Result<Value> {
        Ok(Value::cpu(activation::relu::<T>(Reading::of(inputs[0]).get()?), inputs[0].shape()))
    }

    fn backward<T: Element>(&self, _: &[&Tensor], ys: &Tensor, dy: &Tensor) -> Gradients {
        let (y, dy) = (Reading::of(ys), Reading::of(dy));
        Ok(vec![Some(tensor(activation::relu_backward::<T>(y.get()?, dy.get()?), ys.shape())?)])
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
        return Ok(crate::kernels::cuda::activation::relu(xs, None)?);
    }
    Ok(if on_cpu(xs) { apply!("relu", Relu, [Some(xs)]) } else { relu_composed(xs)? })
}

/// max(a + b, 0): the end of a residual block (He et al. 2015, arXiv:1512.03385).
///
/// `a`, `b`: of one shape. What `relu(&(a + b)?)` gives; on a CUDA device in one pass, and with a bit per
/// number in memory for the backward pass instead of three tensors.
///
/// # Errors
/// If shapes, dtypes or devices differ, or the inputs are empty or of a dtype without kernels.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let (a, b) = (Tensor::new(&[-1f32, 1., 2.], &Device::Cpu)?, Tensor::new(&[0.5f32, 0.5, -3.], &Device::Cpu)?);
/// assert_eq!(candle_course::ops::add_relu(&a, &b)?.to_vec1::<f32>()?, [0., 1.5, 0.]);
/// # Ok::<(), candle_course::Error>(())
/// ```
pub fn add_relu(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    check_input("a", a)?;
    check_same_kind("b", b, a)?;
    check_shape("b", b, a.dims())?;
    #[cfg(feature = "cuda")]
    if super::support::on_cuda(a) {
        return Ok(crate::kernels::cuda::activation::relu(a, Some(b))?);
    }
    relu(&(a + b)?)
}

struct Smooth<C>(PhantomData<C>);

impl<C: Curve> Smooth<C> {
    fn forward<T: Element>(&self, inputs: &[&Tensor]) -> candle_core::Result<Value> {
        Ok(Value::cpu(activation::curve::<C, T>(Reading::of(inputs[0]).get()?), inputs[0].shape()))
    }

    fn backward<T: Element>(&self, inputs: &[&Tensor], _: &Tensor, dy: &Tensor) -> Gradients {
        let (x, dy) = (Reading::of(inputs[0]), Reading::of(dy));
        Ok(vec![Some(tensor(activation::curve_backward::<C, T>(x.get()?, dy.get()?), inputs[0].shape())?)])
    }
}

fn smooth<C: Curve + Send + 'static>(xs: &Tensor, name: &'static str) -> Result<Tensor> {
    Ok(apply!(name, Smooth::<C>(PhantomData), [Some(xs)]))
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
