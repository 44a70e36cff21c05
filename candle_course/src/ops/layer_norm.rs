//! Layer normalisation.

use candle_core::{D, Tensor};

use super::support::{Reading, apply, check_input, check_same_kind, check_shape, on_cpu, tensor};
use crate::error::{Error, Result};
use crate::kernels::layer_norm as kernel;
use crate::kernels::node::{Gradients, Value};
use crate::kernels::simd::Element;

struct LayerNorm {
    size: usize,
    epsilon: f64,
}

impl LayerNorm {
    fn forward<T: Element>(&self, inputs: &[&Tensor]) -> candle_core::Result<Value> {
        let (x, affine) = (Reading::of(inputs[0]), inputs[1..].iter().map(|p| Reading::of(p)).collect::<Vec<_>>());
        let affine = affine.iter().map(|p| p.get::<T>()).collect::<candle_core::Result<Vec<_>>>()?;
        let (weight, bias) = (affine.first().copied(), affine.get(1).copied());
        Ok(Value::cpu(kernel::forward::<T>(x.get()?, self.size, weight, bias, self.epsilon), inputs[0].shape()))
    }

    fn backward<T: Element>(&self, inputs: &[&Tensor], _: &Tensor, dy: &Tensor) -> Gradients {
        let (x, weight, dy) = (Reading::of(inputs[0]), inputs.get(1).map(|w| Reading::of(w)), Reading::of(dy));
        let weight = weight.as_ref().map(|w| w.get::<T>()).transpose()?;
        let wanted = |i: usize| inputs.get(i).is_some_and(|input| input.track_op());
        let (x, dy) = (x.get::<T>()?, dy.get()?);
        let (dx, dw, db) = kernel::backward(x, dy, self.size, weight, self.epsilon, wanted(0), wanted(1) || wanted(2));
        let gradients = inputs.iter().zip([dx, dw, db]).enumerate();
        gradients.map(|(i, (input, values))| wanted(i).then(|| tensor(values, input.shape())).transpose()).collect()
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
    let inputs = [Some(xs), affine.map(|pair| pair.0), affine.map(|pair| pair.1)];
    Ok(apply!("layer_norm", LayerNorm { size, epsilon }, inputs))
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
