//! NEON vectors of f32.

use std::arch::aarch64::*;

use super::simd::{Plain, Simd};

/// 4 lanes.
#[derive(Clone, Copy)]
pub struct Neon;

impl Simd<f32> for Neon {
    const LANES: usize = 4;
    // Those of the stand-in in plain Rust, with which every machine tests them.
    const TILE_ROWS: usize = <Plain<4> as Simd<f32>>::TILE_ROWS;
    const TILE_VECTORS: usize = <Plain<4> as Simd<f32>>::TILE_VECTORS;
    const WALK_ROWS: usize = <Plain<4> as Simd<f32>>::WALK_ROWS;
    const WALK_VECTORS: usize = <Plain<4> as Simd<f32>>::WALK_VECTORS;
    type V = float32x4_t;

    #[inline(always)]
    fn splat(self, x: f32) -> float32x4_t {
        // SAFETY: every aarch64 processor that this is compiled for has NEON.
        unsafe { vdupq_n_f32(x) }
    }

    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> float32x4_t {
        // SAFETY: the caller guarantees 4 readable numbers.
        unsafe { vld1q_f32(p) }
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: float32x4_t) {
        // SAFETY: the caller guarantees 4 writable numbers.
        unsafe { vst1q_f32(p, v) }
    }

    #[inline(always)]
    unsafe fn store_first(self, p: *mut f32, v: float32x4_t, count: usize) {
        // SAFETY: `count` is at most 4 and `p` writable for that many; the array holds all lanes.
        unsafe {
            let mut lanes = [0f32; 4];
            vst1q_f32(lanes.as_mut_ptr(), v);
            p.copy_from_nonoverlapping(lanes.as_ptr(), count);
        }
    }

    #[inline(always)]
    fn add(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: as for `splat`.
        unsafe { vaddq_f32(a, b) }
    }

    #[inline(always)]
    fn sub(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: as for `splat`.
        unsafe { vsubq_f32(a, b) }
    }

    #[inline(always)]
    fn mul(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: as for `splat`.
        unsafe { vmulq_f32(a, b) }
    }

    #[inline(always)]
    fn max(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // Not `vmaxq_f32`, which gives NaN if either is.
        // SAFETY: as for `splat`.
        unsafe { vbslq_f32(vcgtq_f32(a, b), a, b) }
    }

    #[inline(always)]
    fn fma(self, a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        // SAFETY: as for `splat`.
        unsafe { vfmaq_f32(c, a, b) }
    }

    #[inline(always)]
    unsafe fn transpose(self, src: *const f32, src_stride: usize, dst: *mut f32, dst_stride: usize) {
        // Two rounds that swap blocks of 1 and 2 lanes.
        // SAFETY: 4 rows of 4 numbers are readable and writable, as the caller guarantees.
        unsafe {
            let (a, b) = (vld1q_f32(src), vld1q_f32(src.add(src_stride)));
            let (c, d) = (vld1q_f32(src.add(2 * src_stride)), vld1q_f32(src.add(3 * src_stride)));
            let (even, even_below) = (vtrn1q_f32(a, b), vtrn1q_f32(c, d));
            let (odd, odd_below) = (vtrn2q_f32(a, b), vtrn2q_f32(c, d));
            let (even, even_below) = (vreinterpretq_f64_f32(even), vreinterpretq_f64_f32(even_below));
            let (odd, odd_below) = (vreinterpretq_f64_f32(odd), vreinterpretq_f64_f32(odd_below));
            let columns = [
                vtrn1q_f64(even, even_below),
                vtrn1q_f64(odd, odd_below),
                vtrn2q_f64(even, even_below),
                vtrn2q_f64(odd, odd_below),
            ];
            for (i, column) in columns.into_iter().enumerate() {
                vst1q_f32(dst.add(i * dst_stride), vreinterpretq_f32_f64(column));
            }
        }
    }
}
