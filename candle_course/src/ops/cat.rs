//! Tensors one behind the other.

use candle_core::Tensor;

use super::support::{Reading, check_input, check_same_kind, on_cpu, tensor, with_element};
use crate::error::{Error, Result};
use crate::kernels::cat;
use crate::kernels::node::{Value, node};
use crate::kernels::simd::Element;

/// Joins tensors along a dimension, as `torch.cat`.
///
/// `tensors`: of one rank, dtype and device, and of one shape but for dimension `dim`. What candle's
/// `Tensor::cat` gives, and two or three tensors are joined and divided again by kernels; where a training
/// loop of this crate runs on a CUDA device, they are not kept for the backward pass, which does not need
/// them (the skip connections of a U-Net are as large as all its other activations).
///
/// # Errors
/// If there is no tensor, one is empty, or ranks, shapes, dtypes or devices do not fit.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let (a, b) = (Tensor::zeros((2, 1), DType::F32, &Device::Cpu)?, Tensor::ones((2, 2), DType::F32, &Device::Cpu)?);
/// assert_eq!(candle_course::ops::cat(&[&a, &b], 1)?.to_vec2::<f32>()?, [[0., 1., 1.], [0., 1., 1.]]);
/// # Ok::<(), candle_course::Error>(())
/// ```
pub fn cat(tensors: &[&Tensor], dim: usize) -> Result<Tensor> {
    let Some((first, others)) = tensors.split_first() else {
        return Err(Error::argument("tensors", "at least one tensor", 0));
    };
    check_input("tensors", first)?;
    if dim >= first.rank() {
        return Err(Error::argument("dim", format!("below {}, the tensors' rank", first.rank()), dim));
    }
    for other in others {
        check_input("tensors", other)?;
        check_same_kind("tensors", other, first)?;
        let fits = other.rank() == first.rank()
            && (0..first.rank()).all(|one| one == dim || other.dims()[one] == first.dims()[one]);
        if !fits {
            let expected = format!("the shape {:?} but for dimension {dim}", first.dims());
            return Err(Error::argument("tensors", expected, format!("{:?}", other.dims())));
        }
    }
    #[cfg(feature = "cuda")]
    {
        use crate::kernels::cuda;
        if super::support::on_cuda(first) && (2..=cuda::cat::MOST).contains(&tensors.len()) {
            return Ok(cuda::cat::cat(tensors, dim)?);
        }
    }
    // As many inputs as a node may have.
    if on_cpu(first) && (2..=3).contains(&tensors.len()) {
        return Ok(with_element!(first.dtype(), T => joined::<T>(tensors, dim))?);
    }
    Ok(Tensor::cat(tensors, dim)?)
}

fn joined<T: Element>(tensors: &[&Tensor], dim: usize) -> candle_core::Result<Tensor> {
    let tensors = tensors.iter().map(|tensor| tensor.contiguous()).collect::<candle_core::Result<Vec<_>>>()?;
    let inputs: Vec<&Tensor> = tensors.iter().collect();
    // Numbers of each that lie together.
    let blocks: Vec<usize> = inputs.iter().map(|input| input.dims()[dim..].iter().product()).collect();
    let value = {
        let readings: Vec<Reading<'_>> = inputs.iter().map(|input| Reading::of(input)).collect();
        let values = readings.iter().map(|reading| reading.get::<T>()).collect::<candle_core::Result<Vec<_>>>()?;
        let parts: Vec<(&[T], usize)> = values.into_iter().zip(blocks.iter().copied()).collect();
        let mut shape = inputs[0].dims().to_vec();
        shape[dim] = inputs.iter().map(|input| input.dims()[dim]).sum();
        Value::cpu(cat::join(&parts), shape)
    };
    node("cat", &inputs, value, move |inputs, _, dy| {
        let reading = Reading::of(dy);
        let (values, block) = (reading.get::<T>()?, blocks.iter().sum());
        let mut from = 0;
        let gradient = |(input, &len): (&&Tensor, &usize)| {
            let first = from;
            from += len;
            let part = || tensor(cat::part(values, block, first, len), input.shape());
            input.track_op().then(part).transpose()
        };
        inputs.iter().zip(&blocks).map(gradient).collect()
    })
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Var};

    use super::*;

    #[test]
    fn two_and_three_are_joined_as_by_candle_and_so_are_their_gradients() {
        let numbers = |shape: &[usize], pace: f64| {
            let values = (0..shape.iter().product()).map(|i: usize| (i as f64 * pace).sin()).collect::<Vec<f64>>();
            Var::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu).unwrap()).unwrap()
        };
        for (dim, shapes) in [(0, [[2, 3, 4], [5, 3, 4], [1, 3, 4]]), (1, [[2, 3, 4], [2, 1, 4], [2, 6, 4]])] {
            let variables: Vec<Var> = shapes.iter().zip([0.3, 0.7, 1.1]).map(|(s, pace)| numbers(s, pace)).collect();
            for count in [2, 3] {
                let tensors: Vec<&Tensor> = variables[..count].iter().map(|v| v.as_tensor()).collect();
                let run = |joined: Tensor| {
                    let gradients = joined.sqr().unwrap().sum_all().unwrap().backward().unwrap();
                    let of = |v: &Var| gradients.get(v).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
                    (joined.dims().to_vec(), variables[..count].iter().map(of).collect::<Vec<_>>())
                };
                assert_eq!(run(cat(&tensors, dim).unwrap()), run(Tensor::cat(&tensors, dim).unwrap()));
                let same = (cat(&tensors, dim).unwrap() - Tensor::cat(&tensors, dim).unwrap()).unwrap();
                assert_eq!(same.abs().unwrap().max_all().unwrap().to_scalar::<f64>().unwrap(), 0.0);
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_told() {
        let of = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
        let text = |tensors: &[&Tensor], dim: usize| cat(tensors, dim).unwrap_err().to_string();
        assert!(text(&[], 0).contains("at least one tensor"));
        assert!(text(&[&of(&[2, 3])], 2).contains("below 2, the tensors' rank, got 2"));
        assert!(text(&[&of(&[2, 3]), &of(&[3, 3])], 1).contains("the shape [2, 3] but for dimension 1, got [3, 3]"));
        assert!(text(&[&of(&[2, 3]), &of(&[2])], 1).contains("got [2]"));
        let wide = of(&[2, 3]).to_dtype(DType::F64).unwrap();
        assert!(text(&[&of(&[2, 3]), &wide], 1).contains("dtype"));
    }
}
