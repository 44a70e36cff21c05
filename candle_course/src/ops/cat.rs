//! Tensors one behind the other.

use candle_core::Tensor;

use super::support::{check_input, check_same_kind};
use crate::error::{Error, Result};

/// Joins tensors along a dimension, as `torch.cat`.
///
/// `tensors`: of one rank, dtype and device, and of one shape but for dimension `dim`. What candle's
/// `Tensor::cat` gives; where a training loop of this crate runs on a CUDA device, two or three tensors
/// are joined without being kept for the backward pass, which does not need them (the skip connections of
/// a U-Net are as large as all its other activations).
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
        use crate::kernels::cuda::cat;
        if super::support::on_cuda(first) && (2..=cat::MOST).contains(&tensors.len()) {
            return Ok(cat::cat(tensors, dim)?);
        }
    }
    Ok(Tensor::cat(tensors, dim)?)
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

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
