//! AVX2 and AVX-512 vectors of f32.

use std::arch::x86_64::*;

use super::simd::{Kernel, Simd};

/// Runs `kernel` compiled for AVX-512.
///
/// # Safety
/// The machine must have AVX-512 F, BW, DQ and VL, AVX2 and FMA.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
pub unsafe fn run_avx512<K: Kernel<f32>>(kernel: K) -> K::Output {
    kernel.run(Avx512(()))
}

/// Runs `kernel` compiled for AVX2.
///
/// # Safety
/// The machine must have AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub unsafe fn run_avx2<K: Kernel<f32>>(kernel: K) -> K::Output {
    kernel.run(Avx2(()))
}

/// 16 lanes; made by [`run_avx512`] alone.
#[derive(Clone, Copy)]
pub struct Avx512(());

/// 8 lanes; made by [`run_avx2`] alone.
#[derive(Clone, Copy)]
pub struct Avx2(());

impl Simd<f32> for Avx512 {
    const LANES: usize = 16;
    const TILE_ROWS: usize = 8;
    const TILE_VECTORS: usize = 3;
    const WALK_ROWS: usize = 8;
    const WALK_VECTORS: usize = 2;
    type V = __m512;

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        // SAFETY: `self` exists, so the machine has AVX-512.
        unsafe { _mm512_set1_ps(x) }
    }

    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> __m512 {
        // SAFETY: the caller guarantees 16 readable numbers.
        unsafe { _mm512_loadu_ps(p) }
    }

    #[inline(always)]
    fn prefetch(self, p: *const f32) {
        // SAFETY: a hint: no address is wrong.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: __m512) {
        // SAFETY: the caller guarantees 16 writable numbers.
        unsafe { _mm512_storeu_ps(p, v) }
    }

    #[inline(always)]
    unsafe fn store_first(self, p: *mut f32, v: __m512, count: usize) {
        // SAFETY: the mask leaves all but the first `count` numbers alone.
        unsafe { _mm512_mask_storeu_ps(p, ((1u32 << count) - 1) as u16, v) }
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` exists, so the machine has AVX-512.
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` exists, so the machine has AVX-512.
        unsafe { _mm512_sub_ps(a, b) }
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` exists, so the machine has AVX-512.
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` exists, so the machine has AVX-512.
        unsafe { _mm512_max_ps(a, b) }
    }

    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: `self` exists, so the machine has AVX-512.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn transpose(self, src: *const f32, src_stride: usize, dst: *mut f32, dst_stride: usize) {
        // Four rounds that swap blocks of 1, 2, 4 and 8 lanes.
        // SAFETY: 16 rows of 16 numbers are readable and writable, as the caller guarantees.
        unsafe {
            let mut a = [_mm512_setzero_ps(); 16];
            for (i, row) in a.iter_mut().enumerate() {
                *row = _mm512_loadu_ps(src.add(i * src_stride));
            }
            let mut b = a;
            for i in 0..8 {
                b[2 * i] = _mm512_unpacklo_ps(a[2 * i], a[2 * i + 1]);
                b[2 * i + 1] = _mm512_unpackhi_ps(a[2 * i], a[2 * i + 1]);
            }
            for i in 0..4 {
                for half in 0..2 {
                    let low = _mm512_castps_pd(b[4 * i + half]);
                    let high = _mm512_castps_pd(b[4 * i + half + 2]);
                    a[4 * i + 2 * half] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, high));
                    a[4 * i + 2 * half + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, high));
                }
            }
            for i in 0..2 {
                for j in 0..4 {
                    let (low, high) = (a[8 * i + j], a[8 * i + j + 4]);
                    b[8 * i + j] = _mm512_shuffle_f32x4::<0x88>(low, high);
                    b[8 * i + j + 4] = _mm512_shuffle_f32x4::<0xdd>(low, high);
                }
            }
            for j in 0..8 {
                a[j] = _mm512_shuffle_f32x4::<0x88>(b[j], b[j + 8]);
                a[j + 8] = _mm512_shuffle_f32x4::<0xdd>(b[j], b[j + 8]);
            }
            for (i, row) in a.iter().enumerate() {
                _mm512_storeu_ps(dst.add(i * dst_stride), *row);
            }
        }
    }
}

impl Simd<f32> for Avx2 {
    const LANES: usize = 8;
    const TILE_ROWS: usize = 6;
    const TILE_VECTORS: usize = 2;
    const WALK_ROWS: usize = 6;
    const WALK_VECTORS: usize = 2;
    type V = __m256;

    #[inline(always)]
    fn splat(self, x: f32) -> __m256 {
        // SAFETY: `self` exists, so the machine has AVX2.
        unsafe { _mm256_set1_ps(x) }
    }

    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> __m256 {
        // SAFETY: the caller guarantees 8 readable numbers.
        unsafe { _mm256_loadu_ps(p) }
    }

    #[inline(always)]
    fn prefetch(self, p: *const f32) {
        // SAFETY: a hint: no address is wrong.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: __m256) {
        // SAFETY: the caller guarantees 8 writable numbers.
        unsafe { _mm256_storeu_ps(p, v) }
    }

    #[inline(always)]
    unsafe fn store_first(self, p: *mut f32, v: __m256, count: usize) {
        // SAFETY: `count` is at most 8 and `p` writable for that many; the array holds all lanes.
        unsafe {
            let mut lanes = [0f32; 8];
            _mm256_storeu_ps(lanes.as_mut_ptr(), v);
            p.copy_from_nonoverlapping(lanes.as_ptr(), count);
        }
    }

    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: `self` exists, so the machine has AVX2.
        unsafe { _mm256_add_ps(a, b) }
    }

    #[inline(always)]
    fn sub(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: `self` exists, so the machine has AVX2.
        unsafe { _mm256_sub_ps(a, b) }
    }

    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: `self` exists, so the machine has AVX2.
        unsafe { _mm256_mul_ps(a, b) }
    }

    #[inline(always)]
    fn max(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: `self` exists, so the machine has AVX2.
        unsafe { _mm256_max_ps(a, b) }
    }

    #[inline(always)]
    fn fma(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: `self` exists, so the machine has FMA.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn transpose(self, src: *const f32, src_stride: usize, dst: *mut f32, dst_stride: usize) {
        // Three rounds that swap blocks of 1, 2 and 4 lanes.
        // SAFETY: 8 rows of 8 numbers are readable and writable, as the caller guarantees.
        unsafe {
            let mut a = [_mm256_setzero_ps(); 8];
            for (i, row) in a.iter_mut().enumerate() {
                *row = _mm256_loadu_ps(src.add(i * src_stride));
            }
            let mut b = a;
            for i in 0..4 {
                b[2 * i] = _mm256_unpacklo_ps(a[2 * i], a[2 * i + 1]);
                b[2 * i + 1] = _mm256_unpackhi_ps(a[2 * i], a[2 * i + 1]);
            }
            for i in 0..2 {
                for half in 0..2 {
                    let (low, high) = (b[4 * i + half], b[4 * i + half + 2]);
                    a[4 * i + 2 * half] = _mm256_shuffle_ps::<0x44>(low, high);
                    a[4 * i + 2 * half + 1] = _mm256_shuffle_ps::<0xee>(low, high);
                }
            }
            for i in 0..4 {
                b[i] = _mm256_permute2f128_ps::<0x20>(a[i], a[i + 4]);
                b[i + 4] = _mm256_permute2f128_ps::<0x31>(a[i], a[i + 4]);
            }
            for (i, row) in b.iter().enumerate() {
                _mm256_storeu_ps(dst.add(i * dst_stride), *row);
            }
        }
    }
}
