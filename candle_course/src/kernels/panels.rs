//! A matrix that many products share, packed once.

use std::ops::Range;

use super::gemm::{Matrix, SMALL};
use super::parallel::{Parts, for_ranges};
use super::simd::{Element, Kernel, Simd};
use super::tile::{Offsets, Target, Walk, strided_tile, wide_row};

/// A matrix `[depth, columns]` as `[block of columns][depth][column]`, the last block filled up with zeros.
pub struct Panels<T> {
    values: Vec<T>,
    depth: usize,
    columns: usize,
}

/// How many columns a block has.
pub struct BlockColumns;
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
    #[inline(always)]
    pub fn multiply<S: Simd<T>>(&self, simd: S, rows: usize, a: &[T], row_stride: usize, out: &mut [T]) {
        assert!(rows == 0 || (rows - 1) * row_stride + self.depth <= a.len());
        assert_eq!(out.len(), rows * self.columns);
        let (rows, blocks, out) = (0..rows, 0..self.columns.div_ceil(S::WALK_VECTORS * S::LANES), Parts::new(out));
        Multiply { panels: self, rows, blocks, a, row_stride, bias: None, relu: false, out: &out }.run(simd);
    }

    /// `out = a · this + bias`, then ReLU if asked; both matrices contiguous.
    pub fn affine(&self, a: &[T], bias: Option<&[T]>, relu: bool, out: &mut [T]) {
        let (rows, row_stride, blocks) = (a.len() / self.depth, self.depth, self.blocks());
        assert_eq!((a.len(), out.len()), (rows * self.depth, rows * self.columns));
        assert!(bias.is_none_or(|bias| bias.len() == self.columns));
        let out = Parts::new(out);
        let groups = rows.div_ceil(ROWS);
        let work = |units: Range<usize>| {
            let mut unit = units.start;
            while unit < units.end {
                let (group, block) = (unit / blocks, unit % blocks);
                let rows = group * ROWS..rows.min((group + 1) * ROWS);
                let blocks = block..blocks.min(block + units.end - unit);
                unit += blocks.len();
                T::dispatch(Multiply { panels: self, rows, blocks, a, row_stride, bias, relu, out: &out });
            }
        };
        let small = rows * self.depth * self.columns < SMALL;
        if small { work(0..groups * blocks) } else { for_ranges(groups * blocks, work) }
    }

    fn blocks(&self) -> usize {
        self.values.len() / (self.depth * T::dispatch(BlockColumns))
    }
}

/// Rows that go through a block together.
const ROWS: usize = 64;

struct Multiply<'a, T> {
    panels: &'a Panels<T>,
    rows: Range<usize>,
    blocks: Range<usize>,
    a: &'a [T],
    row_stride: usize,
    bias: Option<&'a [T]>,
    relu: bool,
    out: &'a Parts<'a, T>,
}

impl<T: Element> Kernel<T> for Multiply<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<T>>(self, simd: S) {
        let &Panels { ref values, depth, columns } = self.panels;
        let block = S::WALK_VECTORS * S::LANES;
        assert!(self.rows.is_empty() || (self.rows.end - 1) * self.row_stride + depth <= self.a.len());
        let mut index = self.blocks.start;
        while index < self.blocks.end {
            // The sums of one row and one block wait for each other: a single row goes through several blocks at once.
            let wide = if self.rows.len() == 1 { self.blocks.end - index } else { 1 };
            let together = [6, 4, 2, 1].into_iter().find(|&blocks| blocks <= wide).unwrap_or(1);
            let first_column = index * block;
            let panels = &values[first_column * depth..][..together * depth * block];
            let here = (together * block).min(columns - first_column);
            for first in self.rows.clone().step_by(S::WALK_ROWS) {
                let rows = S::WALK_ROWS.min(self.rows.end - first);
                let mut offsets: Offsets = [0; 8];
                for (i, offset) in offsets.iter_mut().enumerate() {
                    *offset = (first + i).min(self.rows.end - 1) * self.row_stride;
                }
                let from = first * columns + first_column;
                // SAFETY: `depth` numbers from every offset, the panels' `depth` rows of a block, and `rows` rows
                // of `here` numbers of `out` lie inside the slices; nobody else has these rows and columns.
                unsafe {
                    let start = self.out.range(from..from + (rows - 1) * columns + here);
                    let target = Target { start, stride: columns, rows, columns: here };
                    if together > 1 {
                        let row = self.a.as_ptr().add(offsets[0]);
                        wide_row(simd, depth, row, panels.as_ptr(), together, target);
                    } else {
                        let walk = Walk::line(depth, 1);
                        strided_tile(simd, walk, self.a.as_ptr(), &offsets, panels.as_ptr(), block, target, false);
                    }
                }
                if self.bias.is_some() || self.relu {
                    for row in first..first + rows {
                        let from = row * columns + first_column;
                        // SAFETY: one of the rows that were just written.
                        let y = unsafe { self.out.get(from..from + here) };
                        finish(y, self.bias.map(|bias| &bias[first_column..][..here]), self.relu);
                    }
                }
            }
            index += together;
        }
    }
}

#[inline(always)]
fn finish<T: Element>(y: &mut [T], bias: Option<&[T]>, relu: bool) {
    if let Some(bias) = bias {
        y.iter_mut().zip(bias).for_each(|(y, &bias)| *y += bias);
    }
    if relu {
        // In this order a NaN stays NaN.
        y.iter_mut().for_each(|y| *y = if *y < T::ZERO { T::ZERO } else { *y });
    }
}

#[cfg(test)]
mod tests {
    use super::super::gemm::gemm;
    use super::*;

    struct Product<'a, T> {
        panels: &'a Panels<T>,
        rows: usize,
        a: &'a [T],
        row_stride: usize,
        out: &'a mut [T],
    }
    impl<T: Element> Kernel<T> for Product<'_, T> {
        type Output = ();
        #[inline(always)]
        fn run<S: Simd<T>>(self, simd: S) {
            self.panels.multiply(simd, self.rows, self.a, self.row_stride, self.out);
        }
    }

    /// A row's numbers do not depend on the rows beside it, whichever tiles they go through.
    #[test]
    fn a_row_alone_has_the_same_bits() {
        let (rows, depth) = (19, 33);
        for columns in [1, 8, 31, 40, 64, 70, 129, 192, 200, 500] {
            let a: Vec<f32> = (0..rows * depth).map(|i| (i as f32 * 0.7).sin()).collect();
            let b: Vec<f32> = (0..depth * columns).map(|i| (i as f32 * 0.3).cos()).collect();
            let panels = Panels::new(Matrix::new(&b, depth, columns));
            let product = |a: &[f32]| {
                let rows = a.len() / depth;
                let mut out = vec![f32::NAN; rows * columns];
                f32::dispatch(Product { panels: &panels, rows, a, row_stride: depth, out: &mut out });
                out.into_iter().map(f32::to_bits).collect::<Vec<_>>()
            };
            let alone: Vec<u32> = a.chunks_exact(depth).flat_map(product).collect();
            assert_eq!(product(&a), alone, "{columns} columns");
        }
    }

    fn products_are_those_of_the_matrices<T: Element>(bound: f64) {
        for (rows, depth, columns) in [(1, 1, 1), (1, 9, 70), (3, 5, 7), (8, 16, 32), (13, 33, 40), (150, 64, 70)] {
            let row_stride = depth + 3;
            let waves =
                |len: usize, pace: f64| -> Vec<T> { (0..len).map(|i| T::of((i as f64 * pace).sin())).collect() };
            let (a, b) = (waves(rows * row_stride, 0.7), waves(depth * columns, 0.3));
            let close = |found: &[T], expected: &[T]| {
                let mut pairs = found.iter().zip(expected);
                let all = pairs.all(|(x, y)| (x.wide() - y.wide()).abs() < bound);
                assert!(all && found.len() == expected.len(), "{rows} {depth} {columns}");
            };
            let left = Matrix { values: &a, rows, columns: depth, row_stride, column_stride: 1 };
            for right in [Matrix::new(&b, depth, columns), Matrix::new(&b, columns, depth).t()] {
                let mut expected = vec![T::ZERO; rows * columns];
                gemm(left, right, &mut expected, false);
                let mut out = vec![T::NAN; rows * columns];
                T::dispatch(Product { panels: &Panels::new(right), rows, a: &a, row_stride, out: &mut out });
                close(&out, &expected);
                let rows_of_a: Vec<T> = a.chunks(row_stride).flat_map(|row| &row[..depth]).copied().collect();
                let bias = waves(columns, 1.1);
                for relu in [false, true] {
                    out.fill(T::NAN);
                    Panels::new(right).affine(&rows_of_a, Some(&bias), relu, &mut out);
                    let with_bias = |(i, &y): (usize, &T)| {
                        let y = y + bias[i % columns];
                        if relu { T::ZERO.maximum(y) } else { y }
                    };
                    close(&out, &expected.iter().enumerate().map(with_bias).collect::<Vec<_>>());
                }
            }
        }
    }

    #[test]
    fn products_in_both_precisions() {
        products_are_those_of_the_matrices::<f32>(2e-5);
        products_are_those_of_the_matrices::<f64>(1e-12);
    }
}
