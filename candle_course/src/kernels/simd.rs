//! One kernel source for several instruction sets.
//!
//! A kernel is a [`Kernel`]: its `run` is generic over a [`Simd`] token and must be
//! `#[inline(always)]`, as must everything it calls, so that it is compiled once inside a function
//! with the right target features. [`Element::dispatch`] picks the widest set the machine has.

use std::sync::OnceLock;

use candle_core::WithDType;

use crate::error::{Error, Result};

/// The instruction sets that kernels are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SimdLevel {
    /// Plain Rust with the lanes and tiles of AVX-512: its roads on machines that lack it.
    #[cfg(test)]
    Wide,
    /// Plain Rust with the lanes and tiles of NEON.
    #[cfg(test)]
    Narrow,
    /// What the compiler makes of plain Rust.
    Portable,
    /// NEON, 4 lanes: every aarch64 processor has it.
    Neon,
    /// AVX2 with fused multiply-add, 8 lanes.
    Avx2,
    /// AVX-512 F, BW, DQ and VL, 16 lanes.
    Avx512,
}

fn supported() -> SimdLevel {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
        {
            return SimdLevel::Avx512;
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            return SimdLevel::Avx2;
        }
    }
    if cfg!(target_arch = "aarch64") { SimdLevel::Neon } else { SimdLevel::Portable }
}

/// Whether a machine whose widest set is `supported` has `level`.
fn has(supported: SimdLevel, level: SimdLevel) -> bool {
    match level {
        SimdLevel::Neon | SimdLevel::Avx512 => supported == level,
        SimdLevel::Avx2 => matches!(supported, SimdLevel::Avx2 | SimdLevel::Avx512),
        _ => true,
    }
}

fn choose(wanted: Option<&str>, supported: SimdLevel) -> Result<SimdLevel> {
    let level = match wanted {
        None | Some("") => return Ok(supported),
        #[cfg(test)]
        Some("wide") => SimdLevel::Wide,
        #[cfg(test)]
        Some("narrow") => SimdLevel::Narrow,
        Some("portable") => SimdLevel::Portable,
        Some("neon") => SimdLevel::Neon,
        Some("avx2") => SimdLevel::Avx2,
        Some("avx512") => SimdLevel::Avx512,
        Some(other) => return Err(Error::argument("CANDLE_COURSE_SIMD", "portable, neon, avx2 or avx512", other)),
    };
    if !has(supported, level) {
        return Err(Error::argument("CANDLE_COURSE_SIMD", "an instruction set of this machine", format!("{level:?}"))
            .hint(format!("the widest it has is {supported:?}")));
    }
    Ok(level)
}

static LEVEL: OnceLock<Result<SimdLevel>> = OnceLock::new();

/// The instruction set in use: the widest the machine has, or what the environment variable
/// `CANDLE_COURSE_SIMD` (`portable`, `neon`, `avx2`, `avx512`) says, read once.
///
/// Matrix products (of linear layers in training, of weight gradients, of some convolutions) are the
/// `gemm` crate's, which chooses its instructions itself, whatever the variable says: AVX2 at most.
///
/// # Errors
/// If the variable names no instruction set, or one that this machine lacks.
pub fn simd_level() -> Result<SimdLevel> {
    match LEVEL.get_or_init(|| choose(std::env::var("CANDLE_COURSE_SIMD").ok().as_deref(), supported())) {
        Ok(level) => Ok(*level),
        Err(error) => Err(Error::new(error.kind(), error.to_string())),
    }
}

/// The level for kernels; a wrong setting was reported by the operation that called them.
fn level() -> SimdLevel {
    simd_level().unwrap_or(SimdLevel::Portable)
}

/// Vectors of `T` of one instruction set. The value is proof that the machine has it.
pub trait Simd<T>: Copy {
    /// Numbers in a vector.
    const LANES: usize;
    /// Rows of a register tile. Its sums, a row of the right operand and a number of the left one
    /// must fit the registers: a sum that goes through memory at every step halves the speed.
    const TILE_ROWS: usize;
    /// Vectors in a row of a register tile.
    const TILE_VECTORS: usize;
    /// Rows of a tile whose left operand is walked in place; at most 8.
    const WALK_ROWS: usize;
    /// Vectors in a row of such a tile.
    const WALK_VECTORS: usize;
    /// A vector.
    type V: Copy;

    /// The same number in every lane.
    fn splat(self, x: T) -> Self::V;
    /// Reads a vector.
    ///
    /// # Safety
    /// `p` must be readable for [`Simd::LANES`] numbers; no alignment is needed.
    unsafe fn load(self, p: *const T) -> Self::V;
    /// A hint that the cache line at `p`, which may be anywhere, will be needed soon; nothing where there is no such
    /// instruction.
    #[inline(always)]
    fn prefetch(self, _p: *const T) {}
    /// Writes a vector.
    ///
    /// # Safety
    /// `p` must be writable for [`Simd::LANES`] numbers; no alignment is needed.
    unsafe fn store(self, p: *mut T, v: Self::V);
    /// Writes the first `count` lanes.
    ///
    /// # Safety
    /// `p` must be writable for `count` numbers, and `count` at most [`Simd::LANES`].
    unsafe fn store_first(self, p: *mut T, v: Self::V, count: usize);
    /// `a + b`.
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a − b`.
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a · b`.
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// `max(a, b)`; `b` if either is NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a · b + c`.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;

    /// `dst[c][r] = src[r][c]` for a square of [`Simd::LANES`] numbers.
    ///
    /// # Safety
    /// Rows `0..LANES` of `LANES` numbers must be readable at `src` and writable at `dst`, with
    /// these distances between rows, and not overlap.
    #[inline(always)]
    unsafe fn transpose(self, src: *const T, src_stride: usize, dst: *mut T, dst_stride: usize) {
        for row in 0..Self::LANES {
            for column in 0..Self::LANES {
                // SAFETY: both indices are below LANES, as the caller guarantees is valid.
                unsafe {
                    dst.add(column * dst_stride + row).copy_from_nonoverlapping(src.add(row * src_stride + column), 1);
                }
            }
        }
    }
}

/// A computation that can be compiled for every instruction set.
pub trait Kernel<T> {
    /// What it gives.
    type Output;
    /// The computation. Must be `#[inline(always)]`.
    fn run<S: Simd<T>>(self, simd: S) -> Self::Output;
}

/// The numbers that kernels compute with: f32 and f64.
pub trait Element: WithDType + Default + std::iter::Sum + std::ops::Neg<Output = Self> {
    /// 0.
    const ZERO: Self;
    /// 1.
    const ONE: Self;
    /// −∞.
    const NEG_INFINITY: Self;
    /// Not a number: marks what a kernel has yet to write, in debug builds.
    const NAN: Self;

    /// Runs `kernel` with the widest instructions.
    fn dispatch<K: Kernel<Self>>(kernel: K) -> K::Output;
    /// Rounds from f64.
    fn of(x: f64) -> Self;
    /// To f64.
    fn wide(self) -> f64;
    /// eˣ.
    fn exp(self) -> Self;
    /// The larger number; `other` if either is NaN.
    fn maximum(self, other: Self) -> Self;
    /// Hands out this thread's reusable buffers of this type.
    fn scratch() -> &'static std::thread::LocalKey<std::cell::RefCell<Vec<Vec<Self>>>>;
}

macro_rules! element {
    ($t:ident, $dispatch:item) => {
        impl Element for $t {
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            const NEG_INFINITY: Self = $t::NEG_INFINITY;
            const NAN: Self = $t::NAN;

            #[inline(always)]
            $dispatch

            #[inline(always)]
            fn of(x: f64) -> Self {
                x as $t
            }

            #[inline(always)]
            fn wide(self) -> f64 {
                f64::from(self)
            }

            #[inline(always)]
            fn exp(self) -> Self {
                $t::exp(self)
            }

            #[inline(always)]
            fn maximum(self, other: Self) -> Self {
                if self > other { self } else { other }
            }

            fn scratch() -> &'static std::thread::LocalKey<std::cell::RefCell<Vec<Vec<Self>>>> {
                thread_local! {
                    static BUFFERS: std::cell::RefCell<Vec<Vec<$t>>> = const { std::cell::RefCell::new(Vec::new()) };
                }
                &BUFFERS
            }
        }
    };
}

element!(
    f32,
    fn dispatch<K: Kernel<f32>>(kernel: K) -> K::Output {
        match level() {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `choose` returns this level only on a machine that has the instructions.
            SimdLevel::Avx512 => unsafe { super::x86::run_avx512(kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            SimdLevel::Avx2 => unsafe { super::x86::run_avx2(kernel) },
            #[cfg(target_arch = "aarch64")]
            SimdLevel::Neon => kernel.run(super::neon::Neon),
            #[cfg(test)]
            SimdLevel::Wide => kernel.run(Plain::<16>),
            #[cfg(test)]
            SimdLevel::Narrow => kernel.run(Plain::<4>),
            _ => kernel.run(Plain::<8>),
        }
    }
);
// f64 serves gradient checks: right matters, fast does not.
element!(
    f64,
    fn dispatch<K: Kernel<f64>>(kernel: K) -> K::Output {
        kernel.run(Plain::<8>)
    }
);

/// Plain Rust: arrays that the compiler turns into whatever vectors the target has. With 16 lanes its tiles
/// are those of AVX-512, with 4 those of NEON, both with 32 registers.
#[derive(Clone, Copy)]
pub struct Plain<const LANES: usize>;

impl<const LANES: usize> Plain<LANES> {
    const TILE: (usize, usize) = if LANES == 8 { (4, 1) } else { (8, 3) };
    const WALK: (usize, usize) = match LANES {
        4 => (6, 4),
        8 => (4, 1),
        _ => (8, 2),
    };
}

impl<T: Element, const LANES: usize> Simd<T> for Plain<LANES> {
    const LANES: usize = LANES;
    const TILE_ROWS: usize = Self::TILE.0;
    const TILE_VECTORS: usize = Self::TILE.1;
    const WALK_ROWS: usize = Self::WALK.0;
    const WALK_VECTORS: usize = Self::WALK.1;
    type V = [T; LANES];

    #[inline(always)]
    fn splat(self, x: T) -> Self::V {
        [x; LANES]
    }

    #[inline(always)]
    unsafe fn load(self, p: *const T) -> Self::V {
        // SAFETY: the caller guarantees LANES readable numbers; arrays of T need T's alignment only.
        unsafe { *p.cast() }
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut T, v: Self::V) {
        // SAFETY: the caller guarantees LANES writable numbers.
        unsafe { *p.cast() = v }
    }

    #[inline(always)]
    unsafe fn store_first(self, p: *mut T, v: Self::V, count: usize) {
        for (i, &x) in v.iter().enumerate().take(count) {
            // SAFETY: the caller guarantees `count` writable numbers.
            unsafe { *p.add(i) = x }
        }
    }

    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] + b[i])
    }

    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] - b[i])
    }

    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] * b[i])
    }

    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i].maximum(b[i]))
    }

    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // Not `mul_add`: without the instruction that is a call per number.
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_setting_is_explained() {
        assert_eq!(choose(None, SimdLevel::Avx2).unwrap(), SimdLevel::Avx2);
        assert_eq!(choose(Some("portable"), SimdLevel::Avx512).unwrap(), SimdLevel::Portable);
        let text = choose(Some("sse"), SimdLevel::Avx2).unwrap_err().to_string();
        assert!(text.contains("expected portable, neon, avx2 or avx512, got sse"), "{text}");
        let text = choose(Some("avx512"), SimdLevel::Avx2).unwrap_err().to_string();
        assert!(text.contains("the widest it has is Avx2"), "{text}");
    }

    #[test]
    fn a_machine_has_the_sets_of_its_own_kind() {
        use SimdLevel::{Avx2, Avx512, Neon, Portable};
        for (supported, levels) in [
            (Portable, &[Portable][..]),
            (Neon, &[Portable, Neon]),
            (Avx2, &[Portable, Avx2]),
            (Avx512, &[Portable, Avx2, Avx512]),
        ] {
            for (name, level) in [("portable", Portable), ("neon", Neon), ("avx2", Avx2), ("avx512", Avx512)] {
                match choose(Some(name), supported) {
                    Ok(chosen) => assert!(chosen == level && levels.contains(&level), "{name} of {supported:?}"),
                    Err(error) => {
                        assert!(!levels.contains(&level), "{name} of {supported:?}: {error}");
                        let text = error.to_string();
                        let expected = format!("an instruction set of this machine, got {level:?}");
                        assert!(text.contains(&expected) && text.contains(&format!("is {supported:?}")), "{text}");
                    }
                }
            }
        }
        assert_eq!(supported() == Neon, cfg!(target_arch = "aarch64"));
    }

    struct Transpose;
    impl Kernel<f32> for Transpose {
        type Output = ();
        #[inline(always)]
        fn run<S: Simd<f32>>(self, simd: S) {
            let source: Vec<f32> = (0..S::LANES * (S::LANES + 3)).map(|i| i as f32).collect();
            let mut target = vec![0f32; S::LANES * (S::LANES + 1)];
            // SAFETY: the buffers hold LANES rows with these strides.
            unsafe { simd.transpose(source.as_ptr(), S::LANES + 3, target.as_mut_ptr(), S::LANES + 1) };
            for row in 0..S::LANES {
                for column in 0..S::LANES {
                    assert_eq!(target[column * (S::LANES + 1) + row], source[row * (S::LANES + 3) + column]);
                }
            }
        }
    }

    #[test]
    fn transposing_a_square() {
        f32::dispatch(Transpose);
        Transpose.run(Plain::<4>);
        Transpose.run(Plain::<8>);
        Transpose.run(Plain::<16>);
    }
}
