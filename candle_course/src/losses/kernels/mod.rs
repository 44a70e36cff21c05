//! Numeric kernels of the losses: accurate in f32, parallel, and the same bits whatever the number
//! of threads, because work is split in fixed pieces and partial sums are added in order.

mod blocks;
mod lovasz;
mod pointwise;
mod precomputed;
mod region;
mod softmax;
mod sum;

pub(crate) use blocks::{Block, Dims, for_blocks};
pub(crate) use lovasz::{Pixel, lovasz};
pub(crate) use pointwise::{Pointwise, pointwise};
pub(crate) use precomputed::precomputed;
pub(crate) use region::{Truth, degrees, region_sums};
pub(crate) use softmax::softmax;
pub(crate) use sum::{sum_slice, sum_trailing};

use candle_core::{CpuStorage, Layout, Tensor, WithDType};

use crate::error::Result;

/// Elements a thread takes at once. A constant, so that results do not depend on the thread count.
pub(crate) const PIECE: usize = 1 << 14;

/// What the kernels need of a float, beyond candle's own trait.
pub(crate) trait Real: WithDType {
    /// e^x for x ≤ 0; NaN stays NaN. Written so that loops over it vectorise.
    fn exp_nonpositive(self) -> Self;
    /// ln(1 + x).
    fn ln_1p(self) -> Self;
    /// Bits whose unsigned order is the order of non-negative numbers.
    fn order_bits(self) -> u64;
}

impl Real for f32 {
    #[inline(always)]
    fn exp_nonpositive(self) -> f32 {
        // Range reduction to |r| ≤ ln 2 / 2 and the minimax polynomial of the Cephes library:
        // relative error below 1.2e-7. No fused multiply-add, so that every machine gives the same bits.
        const ROUND: f32 = 12_582_912.0; // 1.5 · 2^23: adding it leaves the rounded integer in the low bits
        const LN_2_HIGH: f32 = 0.693_359_4; // exact in 10 bits
        const LN_2_LOW: f32 = -2.121_944_4e-4;
        const SMALLEST: f32 = -87.3;
        let x = if self < SMALLEST { SMALLEST } else { self };
        let shifted = x * std::f32::consts::LOG2_E + ROUND;
        let n = shifted - ROUND;
        let r = x - n * LN_2_HIGH - n * LN_2_LOW;
        let mut polynomial = 1.987_569_1e-4;
        polynomial = polynomial * r + 1.398_2e-3;
        polynomial = polynomial * r + 8.333_452e-3;
        polynomial = polynomial * r + 4.166_579_6e-2;
        polynomial = polynomial * r + 1.666_666_5e-1;
        polynomial = polynomial * r + 0.5;
        let fraction = polynomial * r * r + r + 1.0;
        let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
        if self < SMALLEST { 0.0 } else { fraction * power }
    }

    #[inline(always)]
    fn ln_1p(self) -> f32 {
        f32::ln_1p(self)
    }

    fn order_bits(self) -> u64 {
        u64::from(self.to_bits())
    }
}

impl Real for f64 {
    #[inline(always)]
    fn exp_nonpositive(self) -> f64 {
        self.exp()
    }

    #[inline(always)]
    fn ln_1p(self) -> f64 {
        f64::ln_1p(self)
    }

    fn order_bits(self) -> u64 {
        self.to_bits()
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vector_exponential_is_right_to_two_units_in_the_last_place() {
        let mut x = 0.0f32;
        while x > -86.0 {
            let expected = f64::from(x).exp();
            let relative = (f64::from(x.exp_nonpositive()) - expected).abs() / expected;
            assert!(relative < 2.4e-7, "exp({x}): {relative:e}");
            x -= 1.3e-3;
        }
        assert_eq!(0f32.exp_nonpositive(), 1.0);
        assert_eq!(f32::NEG_INFINITY.exp_nonpositive(), 0.0);
        assert_eq!((-1e4f32).exp_nonpositive(), 0.0);
        assert!(f32::NAN.exp_nonpositive().is_nan());
    }
}
