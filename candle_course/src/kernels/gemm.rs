//! Matrix products on candle's thread pool.
//!
//! candle's own `matmul` uses rayon; here the product is divided by rows or columns of the result
//! and each part is one single-threaded call, so that only one pool is at work. The `gemm` crate
//! chooses its instructions itself, whatever `CANDLE_COURSE_SIMD` says.

use super::parallel::{for_parts, for_ranges, threads};
use super::simd::Element;

/// Products of fewer multiplications are not worth waking a thread for; in tests nearly none.
pub(super) const SMALL: usize = if cfg!(test) { 64 } else { 64 * 1024 };

/// Numbers of a thread's share of a pass over the result.
const SHARE: usize = super::parallel::SMALL / 4;

/// A matrix in a slice: distance between rows, distance between columns.
#[derive(Clone, Copy)]
pub struct Matrix<'a, T> {
    pub values: &'a [T],
    pub rows: usize,
    pub columns: usize,
    pub row_stride: usize,
    pub column_stride: usize,
}

impl<'a, T> Matrix<'a, T> {
    /// A contiguous `[rows, columns]`.
    pub fn new(values: &'a [T], rows: usize, columns: usize) -> Self {
        assert_eq!(values.len(), rows * columns);
        Self { values, rows, columns, row_stride: columns, column_stride: 1 }
    }

    /// The transposed matrix.
    pub fn t(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }
}

/// `out = a · b + (accumulate ? out : 0)`, `out` contiguous.
pub fn gemm<T: Element>(a: Matrix<'_, T>, b: Matrix<'_, T>, out: &mut [T], accumulate: bool) {
    let (m, k, n) = (a.rows, a.columns, b.columns);
    assert!(b.rows == k && out.len() == m * n, "{m}×{k} · {}×{n} into {}", b.rows, out.len());
    if m * n == 0 {
        return;
    }
    // Parts of at least 16 rows or columns: the kernels' panels stay whole.
    let by_columns = n >= m;
    let extent = if by_columns { n } else { m };
    let parts = if m * n * k < SMALL { 1 } else { threads().min(extent.div_ceil(16)) };
    let out_parts = super::parallel::Parts::new(out);
    for_ranges(parts, |range| {
        for part in range {
            let bound = |part: usize| if part == parts { extent } else { extent * part / parts / 16 * 16 };
            let (from, to) = (bound(part), bound(part + 1));
            let (first_row, first_column) = if by_columns { (0, from) } else { (from, 0) };
            let (rows, columns) = if by_columns { (m, to - from) } else { (to - from, n) };
            if from == to {
                continue;
            }
            let a = Matrix { values: &a.values[first_row * a.row_stride..], rows, ..a };
            let b = Matrix { values: &b.values[first_column * b.column_stride..], columns, ..b };
            // SAFETY: this part writes its own block of `out`, `rows` × `columns` numbers in rows
            // of `n`, which no other part touches.
            unsafe { product(a, b, out_parts.range(first_row * n + first_column..m * n), n, accumulate) };
        }
    });
}

/// `y = x · weightᵀ + bias`, then ReLU if asked. `x`: rows of as many numbers as those of `weight`,
/// `[out, in]`.
pub fn affine<T: Element>(x: &[T], weight: &[T], outputs: usize, bias: Option<&[T]>, relu: bool, y: &mut [T]) {
    let inputs = weight.len() / outputs;
    let (x, weight) = (Matrix::new(x, x.len() / inputs, inputs), Matrix::new(weight, outputs, inputs).t());
    // Whole rows.
    let share = (SHARE / outputs).max(1) * outputs;
    if let Some(bias) = bias {
        for_parts(y, share, |_, y| y.chunks_exact_mut(outputs).for_each(|row| row.copy_from_slice(bias)));
    }
    gemm(x, weight, y, bias.is_some());
    if relu {
        for_parts(y, share, |_, y| y.iter_mut().for_each(|y| *y = if *y < T::ZERO { T::ZERO } else { *y }));
    }
}

/// Rows whose products are added in `T`.
const ROWS: usize = 8192;
/// The same where the result is a vector and the processor not an x86: there the `gemm` crate adds one product after
/// the other, to a single number.
const ROWS_ONE_BY_ONE: usize = 128;

/// `aᵀ · b` of matrices with the same number of rows, however many: some thousand of them in `T`,
/// then f64.
pub fn product_over_rows<T: Element>(a: Matrix<'_, T>, b: Matrix<'_, T>) -> Vec<T> {
    let vector = a.columns.min(b.columns) == 1;
    let block = if vector && !cfg!(target_arch = "x86_64") { ROWS_ONE_BY_ONE } else { ROWS };
    let part = |from: usize| {
        let rows = block.min(a.rows - from);
        let a = Matrix { values: &a.values[from * a.row_stride..], rows, ..a };
        let b = Matrix { values: &b.values[from * b.row_stride..], rows, ..b };
        super::buffer::written(a.columns * b.columns, |out| gemm(a.t(), b, out, false))
    };
    if a.rows <= block {
        return part(0);
    }
    let mut sums = vec![0f64; a.columns * b.columns];
    for from in (0..a.rows).step_by(block) {
        sums.iter_mut().zip(part(from)).for_each(|(sum, part)| *sum += part.wide());
    }
    sums.into_iter().map(T::of).collect()
}

/// # Safety
/// `out` must be valid for `a.rows` rows of `b.columns` numbers, `out_stride` apart, that nobody
/// else uses.
unsafe fn product<T: Element>(a: Matrix<'_, T>, b: Matrix<'_, T>, out: *mut T, out_stride: usize, accumulate: bool) {
    let last = |m: Matrix<'_, T>| (m.rows.max(1) - 1) * m.row_stride + (m.columns.max(1) - 1) * m.column_stride;
    assert!(a.columns == b.rows && last(a) < a.values.len() && last(b) < b.values.len());
    // SAFETY: the last number of both operands lies inside its slice; the caller vouches for `out`.
    unsafe {
        gemm::gemm(
            a.rows,
            b.columns,
            a.columns,
            out,
            1,
            out_stride as isize,
            accumulate,
            a.values.as_ptr(),
            a.column_stride as isize,
            a.row_stride as isize,
            b.values.as_ptr(),
            b.column_stride as isize,
            b.row_stride as isize,
            T::ONE,
            T::ONE,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_of_all_layouts() {
        for (m, k, n) in [(1, 1, 1), (3, 5, 2), (70, 40, 33), (16, 200, 90), (200, 64, 17)] {
            let a: Vec<f64> = (0..m * k).map(|i| (i as f64 * 0.7).sin()).collect();
            let b: Vec<f64> = (0..k * n).map(|i| (i as f64 * 0.3).cos()).collect();
            let at: Vec<f64> = (0..m * k).map(|i| a[i % m * k + i / m]).collect();
            let bt: Vec<f64> = (0..k * n).map(|i| b[i % k * n + i / k]).collect();
            let expected: Vec<f64> =
                (0..m * n).map(|i| (0..k).map(|j| a[i / n * k + j] * b[j * n + i % n]).sum()).collect();
            let a_s = [Matrix::new(&a, m, k), Matrix::new(&at, k, m).t()];
            let b_s = [Matrix::new(&b, k, n), Matrix::new(&bt, n, k).t()];
            for (a, b) in [(a_s[0], b_s[0]), (a_s[0], b_s[1]), (a_s[1], b_s[0]), (a_s[1], b_s[1])] {
                let mut out = vec![1.0; m * n];
                gemm(a, b, &mut out, false);
                assert!(out.iter().zip(&expected).all(|(x, y)| (x - y).abs() < 1e-12));
                gemm(a, b, &mut out, true);
                assert!(out.iter().zip(&expected).all(|(x, y)| (x - 2.0 * y).abs() < 1e-12));
            }
        }
    }
}
