//! The affine map.

use candle_core::{Result as CandleResult, Tensor};

use super::support::{
    Reading, apply, check_input, check_same_kind, check_shape, check_weight, on_cpu, relu_composed, tensor,
};
use crate::error::{Error, Result};
use crate::kernels::gemm::{Matrix, affine, gemm, product_over_rows};
use crate::kernels::node::{Gradients, Value};
use crate::kernels::simd::Element;
use crate::kernels::{activation, buffer::written, reduce};

struct Linear {
    rows: usize,
    inputs: usize,
    outputs: usize,
    relu: bool,
}

impl Linear {
    fn forward<T: Element>(&self, inputs: &[&Tensor]) -> CandleResult<Value> {
        let mut shape = inputs[0].dims().to_vec();
        shape[inputs[0].rank() - 1] = self.outputs;
        let (x, w, bias) = (Reading::of(inputs[0]), Reading::of(inputs[1]), inputs.get(2).map(|b| Reading::of(b)));
        let bias = bias.as_ref().map(|bias| bias.get::<T>()).transpose()?;
        let (x, w) = (x.get()?, w.get()?);
        let y = written(self.rows * self.outputs, |y| affine(x, w, self.outputs, bias, self.relu, y));
        Ok(Value::cpu(y, shape))
    }

    fn backward<T: Element>(&self, inputs: &[&Tensor], ys: &Tensor, dy: &Tensor) -> Gradients {
        let (xs, weight) = (inputs[0], inputs[1]);
        let (x, w, y, dy) = (Reading::of(xs), Reading::of(weight), Reading::of(ys), Reading::of(dy));
        let masked;
        let dy = if self.relu {
            masked = activation::relu_backward(y.get::<T>()?, dy.get::<T>()?);
            &masked
        } else {
            dy.get::<T>()?
        };
        let dy_matrix = Matrix::new(dy, self.rows, self.outputs);
        let dx = match xs.track_op() {
            true => {
                let w = Matrix::new(w.get()?, self.outputs, self.inputs);
                Some(tensor(written(self.rows * self.inputs, |dx| gemm(dy_matrix, w, dx, false)), xs.shape())?)
            }
            false => None,
        };
        let dw = match weight.track_op() {
            true => {
                let x = Matrix::new(x.get()?, self.rows, self.inputs);
                Some(tensor(product_over_rows(dy_matrix, x), weight.shape())?)
            }
            false => None,
        };
        let mut gradients = vec![dx, dw];
        if let Some(bias) = inputs.get(2) {
            let db = bias.track_op().then(|| tensor(reduce::column_sums(dy, self.outputs), bias.shape()));
            gradients.push(db.transpose()?);
        }
        Ok(gradients)
    }
}

/// y = x Wᵀ + b, then ReLU if `relu`; as `torch.nn.functional.linear`. On the CPU the product is
/// the `gemm` crate's, which picks its instructions itself, whatever `CANDLE_COURSE_SIMD` says.
///
/// - `xs`: `[…, in]`, f32 or f64.
/// - `weight`: `[out, in]`; `bias`: `[out]`.
/// - Result: `[…, out]`.
///
/// # Errors
/// If shapes, dtypes or devices do not fit, or the input or the weight is empty.
///
/// # Examples
///
/// ```
/// use candle_course::ops::linear;
/// use candle_course::prelude::*;
///
/// let x = Tensor::new(&[[1f32, 2.]], &Device::Cpu)?;
/// let weight = Tensor::new(&[[1f32, 1.], [-1., -1.]], &Device::Cpu)?;
/// assert_eq!(linear(&x, &weight, None, true)?.to_vec2::<f32>()?, [[3., 0.]]);
/// # Ok::<(), candle_course::Error>(())
/// ```
pub fn linear(xs: &Tensor, weight: &Tensor, bias: Option<&Tensor>, relu: bool) -> Result<Tensor> {
    check_input("xs", xs)?;
    check_weight(weight, xs)?;
    let &[outputs, inputs] = weight.dims() else {
        return Err(Error::argument("weight", "shape [out, in]", format!("{:?}", weight.dims())));
    };
    if xs.dims().last() != Some(&inputs) {
        return Err(Error::argument("xs", format!("a last dimension of {inputs}"), format!("shape {:?}", xs.dims()))
            .hint("does the input want `flatten_from(1)`?"));
    }
    if let Some(bias) = bias {
        check_same_kind("bias", bias, xs)?;
        check_shape("bias", bias, &[outputs])?;
    }
    let rows = xs.elem_count() / inputs;
    let inputs_of = [Some(xs), Some(weight), bias];
    #[cfg(feature = "cuda")]
    if super::support::on_cuda(xs) {
        let op = crate::kernels::cuda::linear::Linear::new(rows, inputs, outputs, relu);
        let inputs = super::support::contiguous(&inputs_of)?;
        return Ok(op.apply(&inputs.iter().collect::<Vec<_>>())?);
    }
    if !on_cpu(xs) {
        let mut shape = xs.dims().to_vec();
        shape[xs.rank() - 1] = outputs;
        return composed(&xs.reshape((rows, inputs))?, weight, bias, relu, shape);
    }
    Ok(apply!("linear", Linear { rows, inputs, outputs, relu }, inputs_of))
}

/// The same of candle's operations, for a GPU; `xs`: `[rows, in]`.
fn composed(xs: &Tensor, weight: &Tensor, bias: Option<&Tensor>, relu: bool, shape: Vec<usize>) -> Result<Tensor> {
    let ys = xs.matmul(&weight.contiguous()?.t()?)?;
    let ys = match bias {
        Some(bias) => ys.broadcast_add(bias)?,
        None => ys,
    };
    let ys = ys.reshape(shape)?;
    Ok(if relu { relu_composed(&ys)? } else { ys })
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    #[test]
    fn an_empty_weight_is_refused() {
        let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
        for bias in [None, Some(zeros(&[0]))] {
            let text = linear(&zeros(&[2, 3]), &zeros(&[0, 3]), bias.as_ref(), false).unwrap_err().to_string();
            assert_eq!(text, "`weight`: expected at least one number, got shape [0, 3]");
        }
    }
}
