//! Resizing of planes.

use super::buffer::written;
use super::parallel::for_parts;
use super::simd::Element;

/// How pixels are found; the numbers are those of the CUDA kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Nearest = 0,
    Linear = 1,
    /// Linear, with the outer pixels' centres kept.
    LinearAligned = 2,
}

impl Mode {
    /// Where `to` pixels in a row come from.
    pub fn taps(self, from: usize, to: usize) -> Vec<Tap> {
        match self {
            Self::Nearest => nearest(from, to),
            Self::Linear => linear(from, to, false),
            Self::LinearAligned => linear(from, to, true),
        }
    }
}

/// One output row or column as a mix of two input ones: `(1 − weight) · first + weight · second`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tap {
    pub first: usize,
    pub second: usize,
    pub weight: f64,
}

/// The taps of nearest-neighbour resizing, as `torch.nn.functional.interpolate`.
pub fn nearest(from: usize, to: usize) -> Vec<Tap> {
    (0..to).map(|i| (i * from / to).min(from - 1)).map(|first| Tap { first, second: first, weight: 0.0 }).collect()
}

/// The taps of linear resizing. With `align_corners` the outer pixels' centres are kept, otherwise
/// their edges.
pub fn linear(from: usize, to: usize, align_corners: bool) -> Vec<Tap> {
    (0..to)
        .map(|i| {
            let place = match align_corners {
                true if to == 1 => 0.0,
                true => i as f64 * (from - 1) as f64 / (to - 1) as f64,
                false => ((i as f64 + 0.5) * from as f64 / to as f64 - 0.5).max(0.0),
            };
            let first = (place as usize).min(from - 1);
            Tap { first, second: (first + 1).min(from - 1), weight: place - first as f64 }
        })
        .collect()
}

/// The four neighbours of an output pixel: place in the input plane and weight.
#[inline(always)]
fn neighbours<T: Element>(row: &Tap, column: &Tap, width: usize) -> [(usize, T); 4] {
    let weight = |y: f64, x: f64| T::of(y * x);
    [
        (row.first * width + column.first, weight(1.0 - row.weight, 1.0 - column.weight)),
        (row.first * width + column.second, weight(1.0 - row.weight, column.weight)),
        (row.second * width + column.first, weight(row.weight, 1.0 - column.weight)),
        (row.second * width + column.second, weight(row.weight, column.weight)),
    ]
}

/// Resizes every plane of `x`, whose rows and columns `size` counts.
pub fn forward<T: Element>(x: &[T], size: (usize, usize), rows: &[Tap], columns: &[Tap]) -> Vec<T> {
    let (from, to) = (size.0 * size.1, rows.len() * columns.len());
    written(x.len() / from * to, |y| {
        for_parts(y, to, |plane, y| {
            let x = &x[plane * from..][..from];
            for (y, row) in y.chunks_exact_mut(columns.len()).zip(rows) {
                for (y, column) in y.iter_mut().zip(columns) {
                    *y = if row.weight == 0.0 && column.weight == 0.0 {
                        x[row.first * size.1 + column.first]
                    } else {
                        neighbours::<T>(row, column, size.1).iter().map(|&(place, weight)| weight * x[place]).sum()
                    };
                }
            }
        });
    })
}

/// The gradient of [`forward`]: every output pixel's gradient goes back to its neighbours.
pub fn backward<T: Element>(dy: &[T], size: (usize, usize), rows: &[Tap], columns: &[Tap]) -> Vec<T> {
    let (from, to) = (size.0 * size.1, rows.len() * columns.len());
    written(dy.len() / to * from, |dx| {
        for_parts(dx, from, |plane, dx| {
            dx.fill(T::ZERO);
            for (dy, row) in dy[plane * to..][..to].chunks_exact(columns.len()).zip(rows) {
                for (&dy, column) in dy.iter().zip(columns) {
                    if row.weight == 0.0 && column.weight == 0.0 {
                        dx[row.first * size.1 + column.first] += dy;
                    } else {
                        for (place, weight) in neighbours::<T>(row, column, size.1) {
                            dx[place] += weight * dy;
                        }
                    }
                }
            }
        });
    })
}
