//! Pooling of planes.

#![allow(clippy::eq_op)] // x != x: `is_nan`, without a float trait

use std::ops::Range;

use super::buffer::{Scratch, written};
use super::parallel::for_parts;
use super::simd::{Element, Kernel, Simd};

/// The sizes of a 2-d pooling; pairs are (vertical, horizontal).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    pub input: (usize, usize),
    pub output: (usize, usize),
    pub kernel: (usize, usize),
    pub stride: (usize, usize),
    pub padding: (usize, usize),
}

/// What window `i` covers along an axis, inside the input.
#[inline(always)]
fn span(i: usize, size: usize, kernel: usize, stride: usize, padding: usize) -> Range<usize> {
    (i * stride).saturating_sub(padding)..(i * stride + kernel).saturating_sub(padding).min(size)
}

impl Geometry {
    /// The rows and columns of the input under output pixel (y, x).
    #[inline(always)]
    fn window(&self, y: usize, x: usize) -> (Range<usize>, Range<usize>) {
        (
            span(y, self.input.0, self.kernel.0, self.stride.0, self.padding.0),
            span(x, self.input.1, self.kernel.1, self.stride.1, self.padding.1),
        )
    }

    fn is_halving(&self) -> bool {
        self.kernel == (2, 2)
            && self.stride == (2, 2)
            && self.padding == (0, 0)
            && self.output == (self.input.0 / 2, self.input.1 / 2)
    }

    fn input_len(&self) -> usize {
        self.input.0 * self.input.1
    }

    fn output_len(&self) -> usize {
        self.output.0 * self.output.1
    }

    /// Planes per unit of work.
    fn share(&self) -> usize {
        (super::parallel::SMALL / self.input_len()).max(1)
    }

    /// The place of the largest number of a window; the first of equals, and NaN above all.
    #[inline(always)]
    fn largest<T: Element>(&self, plane: &[T], y: usize, x: usize) -> usize {
        let (rows, columns) = self.window(y, x);
        let mut place = rows.start * self.input.1 + columns.start;
        for row in rows {
            for column in columns.clone() {
                let candidate = row * self.input.1 + column;
                // `is_nan`, without a float trait.
                if plane[candidate] > plane[place] || plane[candidate] != plane[candidate] {
                    place = candidate;
                }
            }
        }
        place
    }
}

struct MaxForward<'a, T> {
    geometry: Geometry,
    x: &'a [T],
    y: &'a mut [T],
}

#[inline(always)]
fn larger<T: Element>(a: T, b: T) -> T {
    // A NaN in `b` wins, one in `a` stays.
    if b > a || b != b { b } else { a }
}

impl<T: Element> Kernel<T> for MaxForward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<T>>(self, _: S) {
        let g = self.geometry;
        let (height, width) = g.output;
        let mut rows = Scratch::<T>::new(if g.is_halving() { height * 2 * width } else { 0 });
        for (x, y) in self.x.chunks_exact(g.input_len()).zip(self.y.chunks_exact_mut(g.output_len())) {
            if g.is_halving() {
                // Of two rows, then of two columns of the whole plane: vectors, however short the rows are.
                for (row, rows) in rows.chunks_exact_mut(2 * width).enumerate() {
                    let top = &x[2 * row * g.input.1..][..2 * width];
                    let bottom = &x[(2 * row + 1) * g.input.1..][..2 * width];
                    for (upper, (&top, &bottom)) in rows.iter_mut().zip(top.iter().zip(bottom)) {
                        *upper = larger(top, bottom);
                    }
                }
                for (y, pair) in y.iter_mut().zip(rows.as_chunks::<2>().0) {
                    *y = larger(pair[0], pair[1]);
                }
            } else {
                for row in 0..height {
                    for column in 0..width {
                        y[row * width + column] = x[g.largest(x, row, column)];
                    }
                }
            }
        }
    }
}

/// The largest number of every window.
pub fn max_forward<T: Element>(g: &Geometry, x: &[T]) -> Vec<T> {
    written(x.len() / g.input_len() * g.output_len(), |y| max_into(g, x, y))
}

/// [`max_forward`], into `y`.
pub fn max_into<T: Element>(g: &Geometry, x: &[T], y: &mut [T]) {
    let share = g.share();
    for_parts(y, share * g.output_len(), |part, y| {
        let planes = y.len() / g.output_len();
        let x = &x[part * share * g.input_len()..][..planes * g.input_len()];
        T::dispatch(MaxForward { geometry: *g, x, y });
    });
}

struct MaxBackward<'a, T> {
    geometry: Geometry,
    x: &'a [T],
    dy: &'a [T],
    dx: &'a mut [T],
}

impl<T: Element> Kernel<T> for MaxBackward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<T>>(self, _: S) {
        let g = self.geometry;
        let width = g.output.1;
        let planes = self.x.chunks_exact(g.input_len()).zip(self.dy.chunks_exact(g.output_len()));
        for ((x, dy), dx) in planes.zip(self.dx.chunks_exact_mut(g.input_len())) {
            if g.is_halving() {
                for (row, dy) in dy.chunks_exact(width).enumerate() {
                    let top = &x[2 * row * g.input.1..][..2 * width];
                    let bottom = &x[(2 * row + 1) * g.input.1..][..2 * width];
                    let (dx_top, dx_bottom) = dx[2 * row * g.input.1..].split_at_mut(g.input.1);
                    let (dx_top, dx_bottom) = (&mut dx_top[..2 * width], &mut dx_bottom[..2 * width]);
                    for (i, &dy) in dy.iter().enumerate() {
                        let (a, b, c, d) = (top[2 * i], top[2 * i + 1], bottom[2 * i], bottom[2 * i + 1]);
                        let (upper, lower) = (larger(a, b), larger(c, d));
                        let is_lower = lower > upper || lower != lower;
                        let (is_b, is_d) = (b > a || b != b, d > c || d != d);
                        let (dy_upper, dy_lower) = if is_lower { (T::ZERO, dy) } else { (dy, T::ZERO) };
                        dx_top[2 * i] = if is_b { T::ZERO } else { dy_upper };
                        dx_top[2 * i + 1] = if is_b { dy_upper } else { T::ZERO };
                        dx_bottom[2 * i] = if is_d { T::ZERO } else { dy_lower };
                        dx_bottom[2 * i + 1] = if is_d { dy_lower } else { T::ZERO };
                    }
                    if g.input.1 % 2 == 1 {
                        dx[2 * row * g.input.1 + 2 * width] = T::ZERO;
                        dx[(2 * row + 1) * g.input.1 + 2 * width] = T::ZERO;
                    }
                }
                dx[2 * g.output.0 * g.input.1..].fill(T::ZERO);
            } else {
                dx.fill(T::ZERO);
                for row in 0..g.output.0 {
                    for column in 0..width {
                        dx[g.largest(x, row, column)] += dy[row * width + column];
                    }
                }
            }
        }
    }
}

/// Every window's gradient goes to its largest number, found again in `x`: cheaper than keeping
/// its place from the forward pass.
pub fn max_backward<T: Element>(g: &Geometry, x: &[T], dy: &[T]) -> Vec<T> {
    written(x.len(), |dx| {
        let share = g.share();
        for_parts(dx, share * g.input_len(), |part, dx| {
            let first = part * share;
            let planes = dx.len() / g.input_len();
            let x = &x[first * g.input_len()..][..planes * g.input_len()];
            let dy = &dy[first * g.output_len()..][..planes * g.output_len()];
            T::dispatch(MaxBackward { geometry: *g, x, dy, dx });
        });
    })
}

/// Windows that are averaged: rows and columns of every output pixel, and the divisor.
pub trait Windows: Sync {
    /// (height, width) of the input and of the output.
    fn sizes(&self) -> ((usize, usize), (usize, usize));
    /// The rows of the input under output row `y`, and their share of the divisor.
    fn rows(&self, y: usize) -> (Range<usize>, usize);
    /// The columns of the input under output column `x`, and their share of the divisor.
    fn columns(&self, x: usize) -> (Range<usize>, usize);

    /// The window of output pixel (y, x) inside the input, and what its sum is divided by.
    #[inline(always)]
    fn window(&self, y: usize, x: usize) -> (Range<usize>, Range<usize>, f64) {
        let ((rows, height), (columns, width)) = (self.rows(y), self.columns(x));
        (rows, columns, (height * width) as f64)
    }
}

/// Windows of one size, moved by a stride.
pub struct Sliding {
    pub geometry: Geometry,
    /// Whether zeros of the padding count as numbers, as PyTorch's `count_include_pad`.
    pub count_include_pad: bool,
}

impl Sliding {
    #[inline(always)]
    fn span(&self, i: usize, size: usize, kernel: usize, stride: usize, padding: usize) -> (Range<usize>, usize) {
        let span = span(i, size, kernel, stride, padding);
        // In ceil mode a window may reach beyond even the padding; that part never counts.
        let whole = (i * stride + kernel).min(size + 2 * padding) - i * stride;
        let count = if self.count_include_pad { whole } else { span.len() };
        (span, count)
    }
}

impl Windows for Sliding {
    fn sizes(&self) -> ((usize, usize), (usize, usize)) {
        (self.geometry.input, self.geometry.output)
    }

    #[inline(always)]
    fn rows(&self, y: usize) -> (Range<usize>, usize) {
        let g = &self.geometry;
        self.span(y, g.input.0, g.kernel.0, g.stride.0, g.padding.0)
    }

    #[inline(always)]
    fn columns(&self, x: usize) -> (Range<usize>, usize) {
        let g = &self.geometry;
        self.span(x, g.input.1, g.kernel.1, g.stride.1, g.padding.1)
    }
}

/// Windows that divide the input into so many, as evenly as whole numbers allow.
pub struct Adaptive {
    pub input: (usize, usize),
    pub output: (usize, usize),
}

impl Adaptive {
    #[inline(always)]
    fn span(i: usize, from: usize, to: usize) -> (Range<usize>, usize) {
        let span = i * from / to..((i + 1) * from).div_ceil(to);
        let count = span.len();
        (span, count)
    }
}

impl Windows for Adaptive {
    fn sizes(&self) -> ((usize, usize), (usize, usize)) {
        (self.input, self.output)
    }

    #[inline(always)]
    fn rows(&self, y: usize) -> (Range<usize>, usize) {
        Self::span(y, self.input.0, self.output.0)
    }

    #[inline(always)]
    fn columns(&self, x: usize) -> (Range<usize>, usize) {
        Self::span(x, self.input.1, self.output.1)
    }
}

/// The largest window that is summed without f64.
const FEW: usize = 32;

/// The mean of every window.
pub fn average_forward<T: Element>(windows: &impl Windows, x: &[T]) -> Vec<T> {
    let ((in_h, in_w), (out_h, out_w)) = windows.sizes();
    written(x.len() / (in_h * in_w) * out_h * out_w, |y| average_into(windows, x, y))
}

/// [`average_forward`], into `y`.
pub fn average_into<T: Element>(windows: &impl Windows, x: &[T], y: &mut [T]) {
    let ((in_h, in_w), (out_h, out_w)) = windows.sizes();
    for_parts(y, out_h * out_w, |plane, y| {
        let x = &x[plane * in_h * in_w..][..in_h * in_w];
        for (pixel, y) in y.iter_mut().enumerate() {
            let (rows, columns, divisor) = windows.window(pixel / out_w, pixel % out_w);
            let part = |row: usize| &x[row * in_w..][columns.clone()];
            *y = if rows.len() * columns.len() <= FEW {
                rows.map(|row| part(row).iter().copied().sum::<T>()).sum::<T>() / T::of(divisor)
            } else {
                T::of(rows.map(|row| super::reduce::sum(part(row))).sum::<f64>() / divisor)
            };
        }
    });
}

/// Every window's gradient is spread evenly over it.
pub fn average_backward<T: Element>(windows: &impl Windows, dy: &[T]) -> Vec<T> {
    let ((in_h, in_w), (out_h, out_w)) = windows.sizes();
    written(dy.len() / (out_h * out_w) * in_h * in_w, |dx| {
        for_parts(dx, in_h * in_w, |plane, dx| {
            dx.fill(T::ZERO);
            for (pixel, &dy) in dy[plane * out_h * out_w..][..out_h * out_w].iter().enumerate() {
                let (rows, columns, divisor) = windows.window(pixel / out_w, pixel % out_w);
                let share = dy / T::of(divisor);
                for row in rows {
                    dx[row * in_w..][columns.clone()].iter_mut().for_each(|dx| *dx += share);
                }
            }
        });
    })
}
