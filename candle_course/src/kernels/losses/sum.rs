//! Sums with f64 accumulators: a mean over a million f32 losses is right to the last digit.

use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor, WithDType};

use super::{PIECE, contiguous, for_float};
use crate::error::Result;
use crate::kernels::parallel;

/// Σ of a slice, in f64, over fixed pieces added in order.
pub(crate) fn sum_slice<T: WithDType>(values: &[T]) -> f64 {
    let piece = |piece: &[T]| {
        // Four independent chains: the additions overlap, and the order stays fixed.
        let mut sums = [0f64; 4];
        let quads = piece.chunks_exact(4);
        let rest: f64 = quads.remainder().iter().map(|value| value.to_f64()).sum();
        for quad in quads {
            for (sum, value) in sums.iter_mut().zip(quad) {
                *sum += value.to_f64();
            }
        }
        (sums[0] + sums[1]) + (sums[2] + sums[3]) + rest
    };
    if values.len() <= PIECE {
        return piece(values);
    }
    parallel::map(values.chunks(PIECE).collect(), piece).into_iter().sum()
}

struct SumTrailing {
    kept: usize,
}

impl SumTrailing {
    fn run<T: WithDType>(&self, values: &[T], shape: &Shape) -> (CpuStorage, Shape) {
        let kept = Shape::from_dims(&shape.dims()[..self.kept]);
        let rows = kept.elem_count();
        let width = values.len().checked_div(rows).unwrap_or(0);
        let sums: Vec<T> =
            (0..rows).map(|row| T::from_f64(sum_slice(&values[row * width..(row + 1) * width]))).collect();
        (T::to_cpu_storage_owned(sums), kept)
    }
}

impl CustomOp1 for SumTrailing {
    fn name(&self) -> &'static str {
        "sum-trailing"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        for_float!(storage.dtype(), T => Ok(self.run(contiguous::<T>(storage, layout)?, layout.shape())))
    }

    fn bwd(&self, input: &Tensor, _: &Tensor, outer: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let mut dims = outer.dims().to_vec();
        dims.resize(input.rank(), 1);
        outer.reshape(dims)?.broadcast_as(input.shape())?.contiguous().map(Some)
    }
}

trait StorageDType {
    fn dtype(&self) -> candle_core::DType;
}

impl StorageDType for CpuStorage {
    fn dtype(&self) -> candle_core::DType {
        candle_core::backend::BackendStorage::dtype(self)
    }
}

/// Sums over every dimension but the first `kept`: `[A, B, …]` to `[A]` for `kept = 1`, to a scalar for 0.
pub(crate) fn sum_trailing(values: &Tensor, kept: usize) -> Result<Tensor> {
    if values.device().is_cpu() {
        return Ok(values.contiguous()?.apply_op1(SumTrailing { kept })?);
    }
    #[cfg(feature = "cuda")]
    if crate::kernels::cuda::takes(values) {
        return Ok(crate::kernels::cuda::pointwise::sum_trailing(values, kept, 1.0)?);
    }
    let dims: Vec<usize> = (kept..values.rank()).collect();
    if dims.is_empty() {
        return Ok(values.clone());
    }
    Ok(values.sum(dims)?)
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    #[test]
    fn sums_are_exact_where_f32_accumulation_is_not() {
        let ones = Tensor::full(0.1f32, 1 << 20, &Device::Cpu).unwrap();
        let sum = sum_trailing(&ones, 0).unwrap().to_scalar::<f32>().unwrap();
        assert_eq!(sum, (f64::from(0.1f32) * f64::from(1 << 20)) as f32);
    }

    #[test]
    fn the_gradient_is_broadcast_back() {
        let x = Var::new(&[[1f64, 2., 3.], [4., 5., 6.]], &Device::Cpu).unwrap();
        let rows = sum_trailing(&x, 1).unwrap();
        assert_eq!(rows.to_vec1::<f64>().unwrap(), [6., 15.]);
        let total = (rows * &Tensor::new(&[2f64, 3.], &Device::Cpu).unwrap()).unwrap().sum_all().unwrap();
        let gradient = total.backward().unwrap().get(&x).unwrap().to_vec2::<f64>().unwrap();
        assert_eq!(gradient, [[2., 2., 2.], [3., 3., 3.]]);
    }
}
