//! The gradient of the weight: at each point a product of the input's points, transposed, with those of
//! the output's gradient, over tiles.

use std::ops::Range;

use super::tiles::{Chunk, Planes, Tiles, input_planes, input_points};
use super::transforms::{self, POINTS, TILE};
use crate::kernels::buffer::{Scratch, parts, with_room};
use crate::kernels::conv::Geometry;
use crate::kernels::conv_backward::summed_weight_gradient;
use crate::kernels::simd::{Element, Kernel, Simd};
use crate::kernels::tile::{Offsets, Target, Walk, strided_tile};

/// Tiles of registers that make up the input channels of a block.
const ROW_TILES: usize = 4;

struct WeightGradient<'a, T> {
    geometry: &'a Geometry,
    tiles: &'a Tiles,
    x: &'a [T],
    dy: &'a [T],
    chunks: Range<usize>,
    /// `[input channel][tap][output channel]`, output channels padded to whole vectors; added to.
    sums: &'a mut [f64],
    /// The gradient of the bias; added to.
    bias: &'a mut [f64],
}

impl<T: Element> Kernel<T> for WeightGradient<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<T>>(self, simd: S) {
        let (g, tiles) = (self.geometry, self.tiles);
        let planes = input_planes(g, self.x);
        let gradients =
            Planes { values: self.dy, channels: g.out_channels, size: g.output, padding: (0, 0), overlap: 0 };
        let (rows, columns) = (ROW_TILES * S::WALK_ROWS, S::WALK_VECTORS * S::LANES);
        let in_stride = tiles.point_stride(g.in_channels, S::LANES);
        let out_stride = tiles.point_stride(g.out_channels, S::LANES);
        let product_stride = rows * columns + S::LANES;
        let sizes = [
            planes.region(tiles, S::LANES).max(gradients.region(tiles, S::LANES)),
            POINTS * in_stride,
            // Vectors of the last channels reach beyond them.
            POINTS * out_stride + columns,
            POINTS * product_stride,
        ];
        let mut buffer = Scratch::<T>::new(with_room::<T, 4>(sizes));
        let [region, points, gradient_points, products] = parts(&mut buffer, sizes);
        let lanes = g.out_channels.next_multiple_of(S::LANES);
        for index in self.chunks {
            let chunk = tiles.chunk(index);
            let count = tiles.count(&chunk);
            input_points(simd, &planes, tiles, &chunk, region, points);
            output_points(simd, &gradients, tiles, &chunk, region, gradient_points, self.bias);
            for channel in (0..g.in_channels).step_by(rows) {
                let channels = channel..g.in_channels.min(channel + rows);
                for out in (0..g.out_channels).step_by(columns) {
                    let columns = columns.min(g.out_channels - out);
                    for point in 0..POINTS {
                        let from = &points[point * in_stride..][..in_stride];
                        let gradients = &gradient_points[point * out_stride + out..];
                        let to = &mut products[point * product_stride..][..product_stride];
                        multiply(
                            simd,
                            count,
                            (from, g.in_channels),
                            &channels,
                            (gradients, g.out_channels),
                            columns,
                            to,
                        );
                    }
                    add(simd, products, product_stride, &channels, columns, lanes, &mut self.sums[out..]);
                }
            }
        }
    }
}

/// The points of the tiles of the output's gradient: `[point][tile][channel]`. The sums of its numbers are
/// added to `bias`.
#[inline(always)]
fn output_points<T: Element, S: Simd<T>>(
    simd: S,
    planes: &Planes<'_, T>,
    tiles: &Tiles,
    chunk: &Chunk,
    region: &mut [T],
    points: &mut [T],
    bias: &mut [f64],
) {
    let (channels, row_stride) = (planes.channels, planes.row_stride(tiles, S::LANES));
    let mut sum = [T::ZERO; 16];
    let point_stride = tiles.point_stride(channels, S::LANES);
    debug_assert!(POINTS * point_stride <= points.len() && tiles.count(chunk) * channels <= point_stride);
    for next in (0..channels).step_by(S::LANES) {
        // The last lanes begin earlier, and some channels come again.
        let channel = next.min(channels - S::LANES);
        let mut tile = 0;
        for image in chunk.images.clone() {
            planes.cut(simd, tiles, image, channel, &chunk.rows, region);
            for row in 0..chunk.rows.len() {
                for column in 0..tiles.columns {
                    let from = (row * row_stride + column * S::LANES) * TILE;
                    debug_assert!(from + 3 * (row_stride + S::LANES) + S::LANES <= region.len());
                    // SAFETY: four rows of four pixels lie in the region, and LANES channels of the tile
                    // at each of 36 points.
                    unsafe {
                        let to = points.as_mut_ptr().add(tile * channels + channel);
                        let from = region.as_ptr().add(from);
                        transforms::output_gradient(simd, from, row_stride, to, point_stride);
                        simd.store(sum.as_mut_ptr(), transforms::sum(simd, from, row_stride));
                    }
                    let again = next - channel;
                    let bias = &mut bias[next..channel + S::LANES];
                    bias.iter_mut().zip(&sum[again..]).for_each(|(bias, sum)| *bias += sum.wide());
                    tile += 1;
                }
            }
        }
    }
}

/// `out[channel − channels.start][..columns] = Σ points[tile][channel] · gradients[tile][..columns]` over
/// tiles. Points and gradients come with the distance between their tiles.
#[inline(always)]
fn multiply<T: Element, S: Simd<T>>(
    simd: S,
    tiles: usize,
    (points, in_channels): (&[T], usize),
    channels: &Range<usize>,
    (gradients, out_channels): (&[T], usize),
    columns: usize,
    out: &mut [T],
) {
    let stride = S::WALK_VECTORS * S::LANES;
    debug_assert!((tiles - 1) * in_channels + channels.end <= points.len());
    debug_assert!((tiles - 1) * out_channels + columns.next_multiple_of(S::LANES) <= gradients.len());
    debug_assert!(channels.len() * stride <= out.len() && columns <= stride);
    for first in channels.clone().step_by(S::WALK_ROWS) {
        let mut offsets: Offsets = [0; 8];
        for (i, offset) in offsets.iter_mut().enumerate() {
            *offset = (first + i).min(channels.end - 1);
        }
        let rows = S::WALK_ROWS.min(channels.end - first);
        // SAFETY: a number of every tile from every offset, whole vectors of every tile's gradients, and
        // `rows` rows of `out` lie inside the slices.
        unsafe {
            let start = out.as_mut_ptr().add((first - channels.start) * stride);
            let target = Target { start, stride, rows, columns };
            let walk = Walk::line(tiles, in_channels);
            strided_tile(simd, walk, points.as_ptr(), &offsets, gradients.as_ptr(), out_channels, target, false);
        }
    }
}

/// Adds the filters' gradients that belong to products at all points to `sums`, which begins with the
/// first output channel of the products.
#[inline(always)]
fn add<T: Element, S: Simd<T>>(
    simd: S,
    products: &[T],
    point_stride: usize,
    channels: &Range<usize>,
    columns: usize,
    lanes: usize,
    sums: &mut [f64],
) {
    let stride = S::WALK_VECTORS * S::LANES;
    let mut taps = [T::ZERO; 9 * 16];
    for (row, channel) in channels.clone().enumerate() {
        for column in (0..columns).step_by(S::LANES) {
            debug_assert!((POINTS - 1) * point_stride + row * stride + column + S::LANES <= products.len());
            // SAFETY: a vector of the row at each of 36 points, and nine vectors of at most 16 numbers.
            unsafe {
                let from = products.as_ptr().add(row * stride + column);
                transforms::filter_gradient(simd, from, point_stride, taps.as_mut_ptr());
            }
            let lanes_here = S::LANES.min(columns - column);
            for (tap, values) in taps.chunks_exact(S::LANES).take(9).enumerate() {
                let sums = &mut sums[(channel * 9 + tap) * lanes + column..][..lanes_here];
                for (sum, value) in sums.iter_mut().zip(values) {
                    *sum += value.wide();
                }
            }
        }
    }
}

/// The gradients of the weight, `[out, in, 3, 3]`, and of the bias.
pub fn backward_weight<T: Element>(g: &Geometry, x: &[T], dy: &[T]) -> (Vec<T>, Vec<T>) {
    let tiles = Tiles::new(g);
    let (dw, bias) = summed_weight_gradient(g, tiles.chunks(), g.out_channels, |chunks, sums, bias| {
        T::dispatch(WeightGradient { geometry: g, tiles: &tiles, x, dy, chunks, sums, bias });
    });
    (dw, bias.into_iter().map(T::of).collect())
}
