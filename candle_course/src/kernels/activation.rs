//! Element-wise non-linearities.

use super::buffer::written;
use super::parallel::{SMALL, for_parts};
use super::simd::{Element, Kernel, Simd};

const SHARE: usize = SMALL / 4;

struct Relu<'a, T> {
    x: &'a [T],
    y: &'a mut [T],
}

impl<T: Element> Kernel<T> for Relu<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<T>>(self, _: S) {
        for (y, &x) in self.y.iter_mut().zip(self.x) {
            // In this order a NaN stays NaN.
            *y = if x < T::ZERO { T::ZERO } else { x };
        }
    }
}

/// max(x, 0).
pub fn relu<T: Element>(x: &[T]) -> Vec<T> {
    written(x.len(), |y| relu_into(x, y))
}

/// max(x, 0), into `y`.
pub fn relu_into<T: Element>(x: &[T], y: &mut [T]) {
    for_parts(y, SHARE, |part, y| T::dispatch(Relu { x: &x[part * SHARE..][..y.len()], y }));
}

struct Sum<'a, T> {
    a: &'a [T],
    b: &'a [T],
    relu: bool,
    y: &'a mut [T],
}

impl<T: Element> Kernel<T> for Sum<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<T>>(self, _: S) {
        let floor = if self.relu { T::ZERO } else { T::NEG_INFINITY };
        for (y, (&a, &b)) in self.y.iter_mut().zip(self.a.iter().zip(self.b)) {
            let sum = a + b;
            // In this order a NaN stays NaN.
            *y = if sum < floor { floor } else { sum };
        }
    }
}

/// a + b, then ReLU if asked; into `y`.
pub fn sum_into<T: Element>(a: &[T], b: &[T], relu: bool, y: &mut [T]) {
    for_parts(y, SHARE, |part, y| {
        let (first, len) = (part * SHARE, y.len());
        T::dispatch(Sum { a: &a[first..][..len], b: &b[first..][..len], relu, y });
    });
}

struct ReluBackward<'a, T> {
    y: &'a [T],
    dy: &'a [T],
    dx: &'a mut [T],
}

impl<T: Element> Kernel<T> for ReluBackward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<T>>(self, _: S) {
        mask_by_relu(self.y, self.dy, self.dx);
    }
}

/// 0 where the output of the ReLU is 0, `dy` elsewhere, for as many as `dx` has room for.
#[inline(always)]
pub fn mask_by_relu<T: Element>(y: &[T], dy: &[T], dx: &mut [T]) {
    for ((dx, &y), &dy) in dx.iter_mut().zip(y).zip(dy) {
        // In this order a NaN lets the gradient pass, as in PyTorch.
        *dx = if y <= T::ZERO { T::ZERO } else { dy };
    }
}

/// 0 where the output of the ReLU is 0, `dy` elsewhere.
pub fn relu_backward<T: Element>(y: &[T], dy: &[T]) -> Vec<T> {
    written(y.len(), |dx| {
        for_parts(dx, SHARE, |part, dx| {
            let (first, len) = (part * SHARE, dx.len());
            T::dispatch(ReluBackward { y: &y[first..][..len], dy: &dy[first..][..len], dx });
        });
    })
}

/// A smooth activation: value and derivative, in f64.
pub trait Curve: Sync {
    /// f(x).
    fn value(x: f64) -> f64;
    /// f′(x).
    fn slope(x: f64) -> f64;
}

/// x · Φ(x).
pub struct Gelu;

/// x · σ(x).
pub struct Silu;

impl Curve for Gelu {
    fn value(x: f64) -> f64 {
        x * phi(x)
    }

    fn slope(x: f64) -> f64 {
        phi(x) + x * (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt()
    }
}

/// The standard normal distribution function.
fn phi(x: f64) -> f64 {
    0.5 * (1.0 + candle_core::cpu::erf::erf_f64(x * std::f64::consts::FRAC_1_SQRT_2))
}

impl Curve for Silu {
    fn value(x: f64) -> f64 {
        x / (1.0 + (-x).exp())
    }

    fn slope(x: f64) -> f64 {
        let sigmoid = 1.0 / (1.0 + (-x).exp());
        sigmoid * (1.0 + x * (1.0 - sigmoid))
    }
}

/// f(x) of every number.
pub fn curve<C: Curve, T: Element>(x: &[T]) -> Vec<T> {
    written(x.len(), |y| {
        for_parts(y, SHARE, |part, y| {
            y.iter_mut().zip(&x[part * SHARE..]).for_each(|(y, &x)| *y = T::of(C::value(x.wide())));
        });
    })
}

/// f′(x) · dy of every number.
pub fn curve_backward<C: Curve, T: Element>(x: &[T], dy: &[T]) -> Vec<T> {
    written(x.len(), |dx| {
        for_parts(dx, SHARE, |part, dx| {
            let first = part * SHARE;
            for ((dx, &x), &dy) in dx.iter_mut().zip(&x[first..]).zip(&dy[first..]) {
                *dx = T::of(C::slope(x.wide()) * dy.wide());
            }
        });
    })
}
