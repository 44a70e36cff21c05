//! Numeric kernels of the losses: accurate in f32, parallel, and the same bits whatever the number
//! of threads, because work is split in fixed pieces and partial sums are added in order.

mod blocks;
mod lovasz;
mod pointwise;
mod precomputed;
mod region;
mod softmax;
mod sum;

pub(crate) use blocks::{Block, Dims, exponentiate, for_blocks};
pub(crate) use lovasz::{Pixel, lovasz};
pub(crate) use pointwise::{Pointwise, pointwise};
pub(crate) use precomputed::precomputed;
pub(crate) use region::{Truth, degrees, region_sums};
pub(crate) use softmax::softmax;
pub(crate) use sum::{sum_slice, sum_trailing};

use candle_core::{CpuStorage, Layout, Tensor, WithDType};

use crate::error::Result;
pub(crate) use crate::kernels::real::Real;

/// What stands for an ignored position among class indices.
pub(crate) const IGNORED: u32 = u32::MAX;

/// A term of a loss times its weight. candle cuts what is multiplied by the number 0 off the graph;
/// a term of no weight has a gradient all the same: 0.
pub(crate) fn weighted(term: &Tensor, weight: f64) -> Result<Tensor> {
    Ok(if weight == 0.0 { (term * term.zeros_like()?)? } else { (term * weight)? })
}

/// Elements a thread takes at once. A constant, so that results do not depend on the thread count.
pub(crate) const PIECE: usize = 1 << 14;

/// The elements of a contiguous tensor in CPU storage.
pub(crate) fn contiguous<'a, T: WithDType>(storage: &'a CpuStorage, layout: &Layout) -> candle_core::Result<&'a [T]> {
    let data = T::cpu_storage_as_slice(storage)?;
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&data[start..end]),
        None => candle_core::bail!("internal: the kernel wants a contiguous tensor"),
    }
}

/// Calls `f` with the elements of `tensor` in row-major order, without a copy where it can.
pub(crate) fn with_elements<T: WithDType, R>(tensor: &Tensor, f: impl FnOnce(&[T]) -> R) -> Result<R> {
    let tensor = tensor.to_device(&candle_core::Device::Cpu)?.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    let candle_core::Storage::Cpu(storage) = &*storage else {
        return Err(candle_core::Error::Msg("internal: the tensor is not on the CPU".into()).into());
    };
    Ok(f(contiguous(storage, layout)?))
}

/// Runs `$body` with `$T` = f32 or f64, as `$dtype` says. Losses upcast every other float first.
macro_rules! for_float {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            candle_core::DType::F64 => {
                type $T = f64;
                $body
            }
            _ => {
                type $T = f32;
                $body
            }
        }
    };
}
pub(crate) use for_float;
