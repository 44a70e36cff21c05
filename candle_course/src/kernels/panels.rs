//! A matrix that many products share, packed once.

use super::gemm::Matrix;
use super::parallel::Parts;
use super::simd::{Element, Kernel, Simd};
use super::tile::{Offsets, Target, Walk, strided_tile};

/// A matrix `[depth, columns]` as `[block of columns][depth][column]`, the last block filled up with zeros.
pub struct Panels<T> {
    values: Vec<T>,
    depth: usize,
    columns: usize,
}

struct BlockColumns;
impl<T> Kernel<T> for BlockColumns {
    type Output = usize;
    #[inline(always)]
    fn run<S: Simd<T>>(self, _: S) -> usize {
        S::WALK_VECTORS * S::LANES
    }
}

impl<T: Element> Panels<T> {
    /// Packs a matrix, which must have at least one number.
    pub fn new(matrix: Matrix<'_, T>) -> Self {
        let Matrix { values, rows: depth, columns, row_stride, column_stride } = matrix;
        assert!((depth - 1) * row_stride + (columns - 1) * column_stride < values.len());
        let block = T::dispatch(BlockColumns);
        let mut packed = Vec::with_capacity(columns.next_multiple_of(block) * depth);
        for first in (0..columns).step_by(block) {
            for k in 0..depth {
                for column in first..first + block {
                    let inside = column < columns;
                    packed.push(if inside { values[k * row_stride + column * column_stride] } else { T::ZERO });
                }
            }
        }
        Self { values: packed, depth, columns }
    }

    /// `out = a · this`, `out` contiguous, on this thread alone. `a`: rows of `depth` numbers, `row_stride`
    /// apart.
    pub fn multiply(&self, rows: usize, a: &[T], row_stride: usize, out: &mut [T]) {
        assert!(rows == 0 || (rows - 1) * row_stride + self.depth <= a.len());
        assert_eq!(out.len(), rows * self.columns);
        T::dispatch(Multiply { panels: self, rows, a, row_stride, out });
    }
}

struct Multiply<'a, T> {
    panels: &'a Panels<T>,
    rows: usize,
    a: &'a [T],
    row_stride: usize,
    out: &'a mut [T],
}

impl<T: Element> Kernel<T> for Multiply<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<T>>(self, simd: S) {
        let &Panels { ref values, depth, columns } = self.panels;
        let block = S::WALK_VECTORS * S::LANES;
        let out = Parts::new(self.out);
        for (panel, first_column) in values.chunks_exact(depth * block).zip((0..columns).step_by(block)) {
            let here = block.min(columns - first_column);
            for first in (0..self.rows).step_by(S::WALK_ROWS) {
                let rows = S::WALK_ROWS.min(self.rows - first);
                let mut offsets: Offsets = [0; 8];
                for (i, offset) in offsets.iter_mut().enumerate() {
                    *offset = (first + i).min(self.rows - 1) * self.row_stride;
                }
                let from = first * columns + first_column;
                // SAFETY: `depth` numbers from every offset, the panel's `depth` rows of a block, and `rows` rows
                // of `here` numbers of `out` lie inside the slices; this is the only part in use.
                unsafe {
                    let start = out.range(from..from + (rows - 1) * columns + here);
                    let target = Target { start, stride: columns, rows, columns: here };
                    let walk = Walk::line(depth, 1);
                    strided_tile(simd, walk, self.a.as_ptr(), &offsets, panel.as_ptr(), block, target, false);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::gemm::gemm;
    use super::*;

    #[test]
    fn products_are_those_of_the_matrices() {
        for (rows, depth, columns) in [(1, 1, 1), (3, 5, 7), (8, 16, 32), (13, 33, 40), (20, 64, 70)] {
            let row_stride = depth + 3;
            let a: Vec<f64> = (0..rows * row_stride).map(|i| (i as f64 * 0.7).sin()).collect();
            let b: Vec<f64> = (0..depth * columns).map(|i| (i as f64 * 0.3).cos()).collect();
            let left = Matrix { values: &a, rows, columns: depth, row_stride, column_stride: 1 };
            for right in [Matrix::new(&b, depth, columns), Matrix::new(&b, columns, depth).t()] {
                let mut expected = vec![0.0; rows * columns];
                gemm(left, right, &mut expected, false);
                let mut out = vec![f64::NAN; rows * columns];
                Panels::new(right).multiply(rows, &a, row_stride, &mut out);
                assert!(out.iter().zip(&expected).all(|(x, y)| (x - y).abs() < 1e-12), "{rows} {depth} {columns}");
            }
        }
    }
}
