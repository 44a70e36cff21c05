//! Layer normalisation of `[rows, size]`, each row by itself.

use super::buffer::written;
use super::parallel::{Parts, for_ranges, threads};
use super::reduce::sum_by;
use super::simd::{Element, Kernel, Simd};

/// Mean and 1 / √(variance + ε) of a row.
#[inline(always)]
fn moments<T: Element>(row: &[T], epsilon: f64) -> (T, T) {
    let count = row.len() as f64;
    let mean = T::of(sum_by(row.len(), |i| row[i]) / count);
    let variance = sum_by(row.len(), |i| (row[i] - mean) * (row[i] - mean)) / count;
    (mean, T::of(1.0 / (variance + epsilon).sqrt()))
}

struct Forward<'a, T> {
    x: &'a [T],
    size: usize,
    weight: Option<&'a [T]>,
    bias: Option<&'a [T]>,
    epsilon: f64,
    y: &'a mut [T],
}

impl<T: Element> Kernel<T> for Forward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<T>>(self, _: S) {
        for (x, y) in self.x.chunks_exact(self.size).zip(self.y.chunks_exact_mut(self.size)) {
            let (mean, inverse) = moments(x, self.epsilon);
            for (y, &x) in y.iter_mut().zip(x) {
                *y = (x - mean) * inverse;
            }
            if let Some(weight) = self.weight {
                y.iter_mut().zip(weight).for_each(|(y, &w)| *y *= w);
            }
            if let Some(bias) = self.bias {
                y.iter_mut().zip(bias).for_each(|(y, &b)| *y += b);
            }
        }
    }
}

/// `y = (x − mean) / √(variance + ε) · weight + bias`, row by row.
pub fn forward<T: Element>(x: &[T], size: usize, weight: Option<&[T]>, bias: Option<&[T]>, epsilon: f64) -> Vec<T> {
    written(x.len(), |y| {
        let rows = (super::parallel::SMALL / size).max(1);
        super::parallel::for_parts(y, rows * size, |part, y| {
            T::dispatch(Forward { x: &x[part * rows * size..][..y.len()], size, weight, bias, epsilon, y });
        });
    })
}

struct Backward<'a, T> {
    x: &'a [T],
    dy: &'a [T],
    size: usize,
    weight: Option<&'a [T]>,
    epsilon: f64,
    /// Empty if the gradient of the input is not wanted.
    dx: &'a mut [T],
    /// Whether the gradients of weight and bias are wanted.
    affine: bool,
    weight_sums: &'a mut [T],
    bias_sums: &'a mut [T],
}

impl<T: Element> Kernel<T> for Backward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<T>>(self, _: S) {
        let mut dx_rows = self.dx.chunks_exact_mut(self.size);
        for (x, dy) in self.x.chunks_exact(self.size).zip(self.dy.chunks_exact(self.size)) {
            let (mean, inverse) = moments(x, self.epsilon);
            if self.affine {
                for i in 0..self.size {
                    self.weight_sums[i] += dy[i] * (x[i] - mean) * inverse;
                    self.bias_sums[i] += dy[i];
                }
            }
            let Some(dx) = dx_rows.next() else { continue };
            match self.weight {
                Some(weight) => dx.iter_mut().zip(dy).zip(weight).for_each(|((dx, &dy), &w)| *dx = dy * w),
                None => dx.copy_from_slice(dy),
            }
            let count = self.size as f64;
            let offset = T::of(sum_by(self.size, |i| dx[i]) / count);
            let slope = T::of(sum_by(self.size, |i| dx[i] * (x[i] - mean)) / count) * inverse * inverse;
            for (dx, &x) in dx.iter_mut().zip(x) {
                *dx = inverse * (*dx - offset - (x - mean) * slope);
            }
        }
    }
}

/// The gradients of input (empty unless `input`), weight and bias (0 unless `affine`). Rows are
/// divided into as many parts as there are threads, each summed in order.
pub fn backward<T: Element>(
    x: &[T],
    dy: &[T],
    size: usize,
    weight: Option<&[T]>,
    epsilon: f64,
    input: bool,
    affine: bool,
) -> (Vec<T>, Vec<T>, Vec<T>) {
    let rows = x.len() / size;
    let parts = if x.len() < super::parallel::SMALL { 1 } else { threads().min(rows) };
    let mut sums = vec![T::ZERO; 2 * parts * size];
    let dx = written(if input { x.len() } else { 0 }, |dx| {
        let (all_dx, all_sums) = (Parts::new(dx), Parts::new(&mut sums));
        for_ranges(parts, |range| {
            for part in range {
                let (from, to) = (rows * part / parts * size, rows * (part + 1) / parts * size);
                let dx_range = if input { from..to } else { 0..0 };
                // SAFETY: every part comes once.
                let (dx, sums) =
                    unsafe { (all_dx.get(dx_range), all_sums.get(2 * part * size..2 * (part + 1) * size)) };
                let (weight_sums, bias_sums) = sums.split_at_mut(size);
                T::dispatch(Backward {
                    x: &x[from..to],
                    dy: &dy[from..to],
                    size,
                    weight,
                    epsilon,
                    dx,
                    affine,
                    weight_sums,
                    bias_sums,
                });
            }
        });
    });
    let total = |first: usize| (0..size).map(|i| sums[first + i..].iter().step_by(2 * size).copied().sum()).collect();
    (dx, total(0), total(size))
}
