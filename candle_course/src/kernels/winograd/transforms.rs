//! The transformations of F(4 × 4, 3 × 3), for LANES channels at a time.
//!
//! A tile of 6 × 6 numbers and a filter of 3 × 3 are taken as polynomials, whose product is computed
//! from their values at 0, ±5/8, ±3/2 and ∞ along both axes: 36 points. These points, which are
//! exact in binary with their squares and cubes, give half the rounding error of the usual 0, ±1, ±2
//! and ∞ (Barabasz et al. 2020, arXiv:1803.10986).

use crate::kernels::simd::{Element, Simd};

/// Pixels along an axis of an output tile.
pub const TILE: usize = 4;
/// Pixels along an axis of an input tile, and points along an axis.
pub const WIDE: usize = 6;
/// Points of a tile.
pub const POINTS: usize = WIDE * WIDE;

const A: f64 = 0.625;
const B: f64 = 1.5;
const A2: f64 = A * A;
const B2: f64 = B * B;

/// Π (α − β) over the other finite points: what a filter's value at α is divided by.
const AT_ZERO: f64 = A2 * B2;
const AT_A: f64 = 2.0 * A2 * (A2 - B2);
const AT_B: f64 = 2.0 * B2 * (B2 - A2);

// Not a closure: it would be compiled without the instructions of the kernel that it belongs to.
macro_rules! number {
    ($simd:ident, $x:expr) => {
        $simd.splat(T::of($x))
    };
}

/// Bᵀ d.
#[inline(always)]
fn input_line<T: Element, S: Simd<T>>(simd: S, d: [S::V; 6]) -> [S::V; 6] {
    let (both, product) = (number!(simd, -(A2 + B2)), number!(simd, A2 * B2));
    let (minus_a2, minus_b2) = (number!(simd, -A2), number!(simd, -B2));
    let even_a = simd.fma(minus_b2, d[2], d[4]);
    let odd_a = simd.fma(minus_b2, d[1], d[3]);
    let even_b = simd.fma(minus_a2, d[2], d[4]);
    let odd_b = simd.fma(minus_a2, d[1], d[3]);
    [
        simd.fma(product, d[0], simd.fma(both, d[2], d[4])),
        simd.fma(number!(simd, A), odd_a, even_a),
        simd.fma(number!(simd, -A), odd_a, even_a),
        simd.fma(number!(simd, B), odd_b, even_b),
        simd.fma(number!(simd, -B), odd_b, even_b),
        simd.fma(product, d[1], simd.fma(both, d[3], d[5])),
    ]
}

/// Aᵀ m.
#[inline(always)]
fn output_line<T: Element, S: Simd<T>>(simd: S, m: [S::V; 6]) -> [S::V; 4] {
    let (even_a, odd_a) = (simd.add(m[1], m[2]), simd.sub(m[1], m[2]));
    let (even_b, odd_b) = (simd.add(m[3], m[4]), simd.sub(m[3], m[4]));
    [
        simd.add(simd.add(m[0], even_a), even_b),
        simd.fma(number!(simd, A), odd_a, simd.mul(number!(simd, B), odd_b)),
        simd.fma(number!(simd, A2), even_a, simd.mul(number!(simd, B2), even_b)),
        simd.fma(number!(simd, A * A2), odd_a, simd.fma(number!(simd, B * B2), odd_b, m[5])),
    ]
}

/// A y.
#[inline(always)]
fn gradient_line<T: Element, S: Simd<T>>(simd: S, y: [S::V; 4]) -> [S::V; 6] {
    let (even_a, odd_a) = (simd.fma(number!(simd, A2), y[2], y[0]), simd.fma(number!(simd, A2), y[3], y[1]));
    let (even_b, odd_b) = (simd.fma(number!(simd, B2), y[2], y[0]), simd.fma(number!(simd, B2), y[3], y[1]));
    [
        y[0],
        simd.fma(number!(simd, A), odd_a, even_a),
        simd.fma(number!(simd, -A), odd_a, even_a),
        simd.fma(number!(simd, B), odd_b, even_b),
        simd.fma(number!(simd, -B), odd_b, even_b),
        y[3],
    ]
}

/// G g.
#[inline(always)]
fn filter_line<T: Element, S: Simd<T>>(simd: S, g: [S::V; 3]) -> [S::V; 6] {
    let even_a = simd.fma(number!(simd, A2 / AT_A), g[2], simd.mul(number!(simd, 1.0 / AT_A), g[0]));
    let even_b = simd.fma(number!(simd, B2 / AT_B), g[2], simd.mul(number!(simd, 1.0 / AT_B), g[0]));
    let (odd_a, odd_b) = (simd.mul(number!(simd, A / AT_A), g[1]), simd.mul(number!(simd, B / AT_B), g[1]));
    [
        simd.mul(number!(simd, 1.0 / AT_ZERO), g[0]),
        simd.add(even_a, odd_a),
        simd.sub(even_a, odd_a),
        simd.add(even_b, odd_b),
        simd.sub(even_b, odd_b),
        g[2],
    ]
}

/// Gᵀ u.
#[inline(always)]
fn filter_gradient_line<T: Element, S: Simd<T>>(simd: S, u: [S::V; 6]) -> [S::V; 3] {
    let (even_a, odd_a) = (simd.add(u[1], u[2]), simd.sub(u[1], u[2]));
    let (even_b, odd_b) = (simd.add(u[3], u[4]), simd.sub(u[3], u[4]));
    [
        simd.fma(
            number!(simd, 1.0 / AT_ZERO),
            u[0],
            simd.fma(number!(simd, 1.0 / AT_A), even_a, simd.mul(number!(simd, 1.0 / AT_B), even_b)),
        ),
        simd.fma(number!(simd, A / AT_A), odd_a, simd.mul(number!(simd, B / AT_B), odd_b)),
        simd.fma(number!(simd, A2 / AT_A), even_a, simd.fma(number!(simd, B2 / AT_B), even_b, u[5])),
    ]
}

/// A transformation along both axes: of the vectors in row `i`, column `j` to those of the result.
macro_rules! along_both_axes {
    ($simd:ident, $line:ident, $in:literal => $out:literal,
     [$i:ident, $j:ident] $load:expr, [$k:ident, $l:ident, $value:ident] $store:expr) => {{
        let zero = $simd.splat(T::ZERO);
        let mut half = [[zero; $out]; $in];
        for $j in 0..$in {
            let mut column = [zero; $in];
            for $i in 0..$in {
                column[$i] = $load;
            }
            half[$j] = $line($simd, column);
        }
        for $k in 0..$out {
            let mut row = [zero; $in];
            for j in 0..$in {
                row[j] = half[j][$k];
            }
            let row = $line($simd, row);
            for $l in 0..$out {
                let $value = row[$l];
                $store;
            }
        }
    }};
}

/// Bᵀ d B of the tile at `from`, its rows `row_stride` apart: point `p` to `to + p · point_stride`.
///
/// # Safety
/// Six rows of six vectors must be readable, and a vector writable at every point.
#[inline(always)]
pub unsafe fn input<T: Element, S: Simd<T>>(
    simd: S,
    from: *const T,
    row_stride: usize,
    to: *mut T,
    point_stride: usize,
) {
    along_both_axes!(
        simd,
        input_line,
        6 => 6,
        // SAFETY: row i < 6, vector j < 6.
        [i, j] unsafe { simd.load(from.add(i * row_stride + j * S::LANES)) },
        // SAFETY: a point below 36.
        [i, j, value] unsafe { simd.store(to.add((i * WIDE + j) * point_stride), value) }
    );
}

/// Aᵀ m A of the points at `from`: a tile of [`TILE`] × [`TILE`] vectors, row by row.
///
/// # Safety
/// A vector must be readable at every point.
#[inline(always)]
pub unsafe fn output<T: Element, S: Simd<T>>(simd: S, from: *const T, point_stride: usize) -> [[S::V; TILE]; TILE] {
    let mut tile = [[simd.splat(T::ZERO); TILE]; TILE];
    along_both_axes!(
        simd,
        output_line,
        6 => 4,
        // SAFETY: a point below 36.
        [i, j] unsafe { simd.load(from.add((i * WIDE + j) * point_stride)) },
        [i, j, value] tile[i][j] = value
    );
    tile
}

/// A y Aᵀ of the tile at `from`, the adjoint of [`output`].
///
/// # Safety
/// Four rows of four vectors must be readable, and a vector writable at every point.
#[inline(always)]
pub unsafe fn output_gradient<T: Element, S: Simd<T>>(
    simd: S,
    from: *const T,
    row_stride: usize,
    to: *mut T,
    point_stride: usize,
) {
    along_both_axes!(
        simd,
        gradient_line,
        4 => 6,
        // SAFETY: row i < 4, vector j < 4.
        [i, j] unsafe { simd.load(from.add(i * row_stride + j * S::LANES)) },
        // SAFETY: a point below 36.
        [i, j, value] unsafe { simd.store(to.add((i * WIDE + j) * point_stride), value) }
    );
}

/// G g Gᵀ of nine vectors at `from`, one behind the other: point `p` to `to + p · point_stride`.
///
/// # Safety
/// Nine vectors must be readable, and one writable at every point.
#[inline(always)]
pub unsafe fn filter<T: Element, S: Simd<T>>(simd: S, from: *const T, to: *mut T, point_stride: usize) {
    along_both_axes!(
        simd,
        filter_line,
        3 => 6,
        // SAFETY: one of nine vectors.
        [i, j] unsafe { simd.load(from.add((i * 3 + j) * S::LANES)) },
        // SAFETY: a point below 36.
        [i, j, value] unsafe { simd.store(to.add((i * WIDE + j) * point_stride), value) }
    );
}

/// Gᵀ u G of the points at `from`, the adjoint of [`filter`]: nine vectors to `to`, one behind the other.
///
/// # Safety
/// A vector must be readable at every point, and nine be writable.
#[inline(always)]
pub unsafe fn filter_gradient<T: Element, S: Simd<T>>(simd: S, from: *const T, point_stride: usize, to: *mut T) {
    along_both_axes!(
        simd,
        filter_gradient_line,
        6 => 3,
        // SAFETY: a point below 36.
        [i, j] unsafe { simd.load(from.add((i * WIDE + j) * point_stride)) },
        // SAFETY: one of nine vectors.
        [i, j, value] unsafe { simd.store(to.add((i * 3 + j) * S::LANES), value) }
    );
}

/// The sum of a tile of [`TILE`] × [`TILE`] vectors.
///
/// # Safety
/// Four rows of four vectors must be readable.
#[inline(always)]
pub unsafe fn sum<T: Element, S: Simd<T>>(simd: S, from: *const T, row_stride: usize) -> S::V {
    let mut rows = [simd.splat(T::ZERO); TILE];
    for (i, row) in rows.iter_mut().enumerate() {
        // SAFETY: row i < 4 of four vectors.
        unsafe {
            let from = from.add(i * row_stride);
            let left = simd.add(simd.load(from), simd.load(from.add(S::LANES)));
            *row = simd.add(left, simd.add(simd.load(from.add(2 * S::LANES)), simd.load(from.add(3 * S::LANES))));
        }
    }
    simd.add(simd.add(rows[0], rows[1]), simd.add(rows[2], rows[3]))
}
