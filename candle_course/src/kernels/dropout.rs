//! Dropout masks from a counter, so that any thread can compute any part.

use super::buffer::written;
use super::parallel::for_parts;
use super::simd::{Element, Kernel, Simd};

const SHARE: usize = 4096;

/// 32 random bits for place `index` (PCG-RXS-M-XS of a Weyl sequence, in 32-bit arithmetic that
/// vectorises; both halves of the key enter).
#[inline(always)]
fn bits(key: u64, index: u32) -> u32 {
    let mut x = index.wrapping_mul(0x9E37_79B9).wrapping_add(key as u32);
    for half in [(key >> 32) as u32, key as u32] {
        x = (x ^ (x >> 16)).wrapping_mul(0x7FEB_352D);
        x = (x ^ (x >> 15)).wrapping_mul(0x846C_A68B);
        x = (x ^ (x >> 16)).wrapping_add(half);
    }
    x = (x ^ (x >> 16)).wrapping_mul(0x21F0_AAAD);
    x ^ (x >> 15)
}

struct Apply<'a, T> {
    x: &'a [T],
    y: &'a mut [T],
    key: u64,
    threshold: u32,
    scale: T,
}

impl<T: Element> Kernel<T> for Apply<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<T>>(self, _: S) {
        for (i, (y, &x)) in self.y.iter_mut().zip(self.x).enumerate() {
            *y = if bits(self.key, i as u32) < self.threshold { T::ZERO } else { x * self.scale };
        }
    }
}

/// Bits below this drop their number.
pub fn threshold(p: f64) -> u32 {
    (p * 2f64.powi(32)).round().min(f64::from(u32::MAX)) as u32
}

/// 0 with probability `p`, `x / (1 − p)` otherwise; the same key gives the same mask.
pub fn apply<T: Element>(x: &[T], p: f64, key: u64) -> Vec<T> {
    let threshold = threshold(p);
    written(x.len(), |y| {
        for_parts(y, SHARE, |part, y| {
            // A key of its own per part: places beyond 2³² never repeat the mask.
            let key = key ^ (part as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let x = &x[part * SHARE..][..y.len()];
            T::dispatch(Apply { x, y, key, threshold, scale: T::of(1.0 / (1.0 - p)) });
        });
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_have_the_right_share_and_no_pattern() {
        let x = vec![1f32; 1 << 20];
        for (p, key) in [(0.1, 1), (0.5, 2), (0.9, u64::MAX), (0.5, 0)] {
            let y = apply(&x, p, key);
            let dropped: Vec<f64> = y.iter().map(|&v| if v == 0.0 { 1.0 - p } else { -p }).collect();
            let count = dropped.len() as f64;
            let sigma = (p * (1.0 - p) / count).sqrt();
            let mean = dropped.iter().sum::<f64>() / count;
            assert!(mean.abs() < 5.0 * sigma, "p {p}: share off by {mean}");
            // Neighbours at any small distance, and across parts, are uncorrelated.
            for distance in [1, 2, 3, 7, 16, 64, 1024, SHARE, 2 * SHARE] {
                let products = dropped.iter().zip(&dropped[distance..]).map(|(a, b)| a * b);
                let correlation = products.sum::<f64>() / (count - distance as f64) / (p * (1.0 - p));
                assert!(correlation.abs() < 5.0 / count.sqrt(), "p {p}, distance {distance}: {correlation}");
            }
        }
        assert_eq!(apply(&x, 0.5, 7), apply(&x, 0.5, 7));
        let (a, b) = (apply(&x, 0.5, 7), apply(&x, 0.5, 8));
        let agree = a.iter().zip(&b).filter(|(a, b)| a == b).count() as f64 / x.len() as f64;
        assert!((agree - 0.5).abs() < 0.005, "{agree}");
    }
}
