//! Layer normalisation.

use candle_core::{CpuStorage, CustomOp1, CustomOp3, D, Layout, Shape, Tensor};

use super::support::{
    Reading, check_input, check_same_kind, check_shape, dtype_of, incoming, on_cpu, output, slice, tensor, with_element,
};
use crate::error::{Error, Result};
use crate::kernels::layer_norm as kernel;
use crate::kernels::simd::Element;

struct LayerNorm {
    size: usize,
    epsilon: f64,
}

impl LayerNorm {
    fn gradients<T: Element>(
        &self,
        xs: &Tensor,
        affine: Option<(&Tensor, &Tensor)>,
        dy: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (x, weight, dy) = (Reading::of(xs), affine.map(|(weight, _)| Reading::of(weight)), Reading::of(dy));
        let weight = weight.as_ref().map(|w| w.get::<T>()).transpose()?;
        let (input, [of_weight, of_bias]) =
            (xs.track_op(), affine.map_or([false; 2], |(weight, bias)| [weight.track_op(), bias.track_op()]));
        let (dx, dw, db) =
            kernel::backward(x.get::<T>()?, dy.get()?, self.size, weight, self.epsilon, input, of_weight || of_bias);
        let parameter = |values, wanted: bool| {
            affine.filter(|_| wanted).map(|(weight, _)| tensor(values, weight.shape())).transpose()
        };
        let dx = input.then(|| tensor(dx, xs.shape())).transpose()?;
        Ok((dx, parameter(dw, of_weight)?, parameter(db, of_bias)?))
    }
}

impl CustomOp1 for LayerNorm {
    fn name(&self) -> &'static str {
        "layer_norm"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        with_element!(dtype_of(x), T => {
            output(kernel::forward::<T>(slice(x, layout)?, self.size, None, None, self.epsilon), layout.shape())
        })
    }

    fn bwd(&self, xs: &Tensor, _: &Tensor, dy: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let dy = incoming(dy, "layer_norm")?;
        Ok(with_element!(xs.dtype(), T => self.gradients::<T>(xs, None, &dy)?.0))
    }
}

impl CustomOp3 for LayerNorm {
    fn name(&self) -> &'static str {
        "layer_norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        w: &CpuStorage,
        wl: &Layout,
        b: &CpuStorage,
        bl: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        with_element!(dtype_of(x), T => {
            let (weight, bias) = (Some(slice(w, wl)?), Some(slice(b, bl)?));
            output(kernel::forward::<T>(slice(x, xl)?, self.size, weight, bias, self.epsilon), xl.shape())
        })
    }

    fn bwd(
        &self,
        xs: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let dy = incoming(dy, "layer_norm")?;
        with_element!(xs.dtype(), T => self.gradients::<T>(xs, Some((weight, bias)), &dy))
    }
}

/// Normalises over the last dimensions (Ba et al. 2016, arXiv:1607.06450), as
/// `torch.nn.functional.layer_norm`: y = (x − mean) / √(variance + ε) · weight + bias, with mean
/// and biased variance of each slice of shape `normalised`.
///
/// `xs`: `[…, normalised]`, f32 or f64; `affine`: weight and bias, of shape `normalised`.
///
/// # Errors
/// If shapes, dtypes or devices do not fit, or the input is empty.
pub fn layer_norm(
    xs: &Tensor,
    normalised: &[usize],
    affine: Option<(&Tensor, &Tensor)>,
    epsilon: f64,
) -> Result<Tensor> {
    check_input("xs", xs)?;
    if normalised.is_empty() || !xs.dims().ends_with(normalised) {
        return Err(Error::argument(
            "xs",
            format!("a shape that ends with {normalised:?}"),
            format!("{:?}", xs.dims()),
        ));
    }
    for (name, parameter) in affine.into_iter().flat_map(|(weight, bias)| [("weight", weight), ("bias", bias)]) {
        check_same_kind(name, parameter, xs)?;
        check_shape(name, parameter, normalised)?;
    }
    let size = normalised.iter().product();
    #[cfg(feature = "cuda")]
    if super::support::on_cuda(xs) {
        let rows = crate::kernels::cuda::layer_norm::Rows { size, groups: 1, inner: 1, epsilon };
        return Ok(rows.apply(xs, affine)?);
    }
    if !on_cpu(xs) {
        return composed(xs, size, affine, epsilon);
    }
    let (xs, op) = (xs.contiguous()?, LayerNorm { size, epsilon });
    Ok(match affine {
        Some((weight, bias)) => xs.apply_op3(&weight.contiguous()?, &bias.contiguous()?, op)?,
        None => xs.apply_op1(op)?,
    })
}

/// The same of candle's differentiable operations, for a GPU (candle's fused one drops gradients).
fn composed(xs: &Tensor, size: usize, affine: Option<(&Tensor, &Tensor)>, epsilon: f64) -> Result<Tensor> {
    let rows = xs.reshape(((), size))?;
    let centred = rows.broadcast_sub(&rows.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    let ys = centred.broadcast_div(&(variance + epsilon)?.sqrt()?)?;
    let ys = match affine {
        Some((weight, bias)) => ys.broadcast_mul(&weight.flatten_all()?)?.broadcast_add(&bias.flatten_all()?)?,
        None => ys,
    };
    Ok(ys.reshape(xs.shape())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    #[test]
    fn another_shape_is_refused() {
        let x = Tensor::ones((5, 2, 7), DType::F32, &Device::Cpu).unwrap();
        assert!(layer_norm(&x, &[3], None, 1e-5).unwrap_err().to_string().contains("ends with [3]"));
    }
}
