//! Layer normalisation of `[rows, size]`, each row by itself.

use super::buffer::written;
use super::parallel::{Parts, for_ranges, threads};
use super::reduce::{self, STEPS, sum_pairs};
use super::simd::{Element, Kernel, Simd};

/// `normalised = (x − center) · inverse + shift` of a row.
struct Row<T> {
    center: T,
    inverse: T,
    shift: T,
    /// The row's mean, less `center`.
    offset: f64,
}

impl<T: Element> Row<T> {
    #[inline(always)]
    fn of(row: &[T], epsilon: f64) -> Self {
        let reduce::Moments { center, offset, squares } = reduce::moments(row);
        let inverse = 1.0 / (squares / row.len() as f64 + epsilon).sqrt();
        Self { center, inverse: T::of(inverse), shift: T::of(-offset * inverse), offset }
    }

    #[inline(always)]
    fn normalised(&self, x: T) -> T {
        (x - self.center) * self.inverse + self.shift
    }
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
            let row = Row::of(x, self.epsilon);
            for (y, &x) in y.iter_mut().zip(x) {
                *y = row.normalised(x);
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
    weight_sums: &'a mut [f64],
    bias_sums: &'a mut [f64],
}

impl<T: Element> Kernel<T> for Backward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<T>>(self, _: S) {
        let mut dx_rows = self.dx.chunks_exact_mut(self.size);
        // A few rows in T, then f64.
        let mut few = vec![T::ZERO; if self.affine { 2 * self.size } else { 0 }];
        let (few_weight, few_bias) = few.split_at_mut(if self.affine { self.size } else { 0 });
        let blocks = self.x.chunks(STEPS * self.size).zip(self.dy.chunks(STEPS * self.size));
        for (x, dy) in blocks {
            for (x, dy) in x.chunks_exact(self.size).zip(dy.chunks_exact(self.size)) {
                let row = Row::of(x, self.epsilon);
                if self.affine {
                    for i in 0..self.size {
                        few_weight[i] += dy[i] * row.normalised(x[i]);
                        few_bias[i] += dy[i];
                    }
                }
                let Some(dx) = dx_rows.next() else { continue };
                match self.weight {
                    Some(weight) => dx.iter_mut().zip(dy).zip(weight).for_each(|((dx, &dy), &w)| *dx = dy * w),
                    None => dx.copy_from_slice(dy),
                }
                let Row { center, inverse, offset, .. } = row;
                let [sum, product] = sum_pairs(dx, x, |dx, x| [dx, dx * (x - center)]);
                let (count, wide) = (self.size as f64, inverse.wide());
                let slope = (product - offset * sum) / count * wide * wide;
                let (shift, slope) = (T::of(sum / count - slope * offset), T::of(slope));
                for (dx, &x) in dx.iter_mut().zip(x) {
                    *dx = inverse * (*dx - shift - (x - center) * slope);
                }
            }
            for (sums, few) in [(&mut *self.weight_sums, &mut *few_weight), (&mut *self.bias_sums, &mut *few_bias)] {
                for (sum, few) in sums.iter_mut().zip(few) {
                    *sum += few.wide();
                    *few = T::ZERO;
                }
            }
        }
    }
}

/// The gradients of input (empty unless `input`), weight and bias (0 unless `affine`). Rows are
/// divided into as many parts as there are threads, each a number of whole blocks, summed in order.
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
    let blocks = rows.div_ceil(STEPS);
    let parts = if x.len() < super::parallel::SMALL { 1 } else { threads().min(blocks) };
    let mut sums = vec![0f64; 2 * parts * size];
    let dx = written(if input { x.len() } else { 0 }, |dx| {
        let (all_dx, all_sums) = (Parts::new(dx), Parts::new(&mut sums));
        for_ranges(parts, |range| {
            for part in range {
                let row = |part: usize| (blocks * part / parts * STEPS).min(rows);
                let (from, to) = (row(part) * size, row(part + 1) * size);
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
    let total = |first: usize| (0..size).map(|i| T::of(sums[first + i..].iter().step_by(2 * size).sum())).collect();
    (dx, total(0), total(size))
}
