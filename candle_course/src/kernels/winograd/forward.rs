//! The convolution itself, which is also the gradient of another one's input.

use std::ops::Range;

use super::filters::{filter_blocks, point_stride, points_len};
use super::tiles::{Chunk, Tiles, input_planes, input_points};
use super::transforms::{self, POINTS, TILE};
use crate::kernels::buffer::{Scratch, parts, with_room};
use crate::kernels::conv::Geometry;
use crate::kernels::interleave::to_planes;
use crate::kernels::parallel::{Parts, for_ranges, for_shares, threads};
use crate::kernels::simd::{Element, Kernel, Simd};
use crate::kernels::tile::{Ahead, Offsets, Target, Walk, strided_tile, strided_tile_ahead};

struct Forward<'a, T> {
    geometry: &'a Geometry,
    tiles: &'a Tiles,
    x: &'a [T],
    /// As [`filter_points`](super::filter_points) gives them.
    filters: &'a [T],
    bias: Option<&'a [T]>,
    relu: bool,
    /// Shares that the blocks of output channels of a chunk are divided into.
    shares: usize,
    /// Of `chunk · shares + share`.
    units: Range<usize>,
    y: &'a Parts<'a, T>,
}

impl<T: Element> Kernel<T> for Forward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<T>>(self, simd: S) {
        let (g, tiles) = (self.geometry, self.tiles);
        let block = S::WALK_VECTORS * S::LANES;
        let planes = input_planes(g, self.x);
        let (in_stride, out_stride) =
            (tiles.point_stride(g.in_channels, S::LANES), tiles.point_stride(block, S::LANES));
        let sizes = [
            planes.region(tiles, S::LANES),
            POINTS * in_stride,
            POINTS * out_stride,
            TILE * tiles.rows_per_chunk * TILE * tiles.columns * S::LANES,
        ];
        let mut buffer = Scratch::<T>::new(with_room::<T, 4>(sizes));
        let [region, points, products, pixels] = parts(&mut buffer, sizes);
        let filter_stride = point_stride(g, block);
        let block_len = POINTS * filter_stride;
        let blocks = self.filters.len() / block_len;
        let mut there = usize::MAX;
        for unit in self.units.clone() {
            let (index, share) = (unit / self.shares, unit % self.shares);
            let chunk = tiles.chunk(index);
            let count = tiles.count(&chunk);
            if index != there {
                input_points(simd, &planes, tiles, &chunk, region, points);
                there = index;
            }
            for number in blocks * share / self.shares..blocks * (share + 1) / self.shares {
                let filters = &self.filters[number * block_len..][..block_len];
                let channels = number * block..g.out_channels.min((number + 1) * block);
                for point in 0..POINTS {
                    let filters = &filters[point * filter_stride..][..g.in_channels * block];
                    let (from, to) = (&points[point * in_stride..][..in_stride], &mut products[point * out_stride..]);
                    let columns = channels.len().next_multiple_of(S::LANES);
                    multiply(simd, g.in_channels, from, filters, filter_stride, count, columns, &mut to[..out_stride]);
                }
                for first in channels.clone().step_by(S::LANES) {
                    let lanes = first..channels.end.min(first + S::LANES);
                    let products = &products[first - channels.start..];
                    self.write(simd, &chunk, lanes, products, out_stride, pixels);
                }
            }
        }
    }
}

/// `out[tile][..columns] = Σ points[tile][k] · filters[k][..columns]`, rows of `out` and `filters` a block
/// of output channels long; the next point's filters lie `filter_stride` behind these.
#[inline(always)]
fn multiply<T: Element, S: Simd<T>>(
    simd: S,
    channels: usize,
    points: &[T],
    filters: &[T],
    filter_stride: usize,
    tiles: usize,
    columns: usize,
    out: &mut [T],
) {
    let block = S::WALK_VECTORS * S::LANES;
    debug_assert!(tiles * channels <= points.len() && channels * block <= filters.len());
    debug_assert!(tiles * block <= out.len() && columns <= block);
    for first in (0..tiles).step_by(S::WALK_ROWS) {
        let mut offsets: Offsets = [0; 8];
        for (i, offset) in offsets.iter_mut().enumerate() {
            *offset = (first + i).min(tiles - 1) * channels;
        }
        let rows = S::WALK_ROWS.min(tiles - first);
        // SAFETY: `channels` numbers from every offset, as many rows of filters, and `rows` rows of `out`
        // lie inside the slices.
        unsafe {
            let target = Target { start: out.as_mut_ptr().add(first * block), stride: block, rows, columns };
            let (walk, points, filters) = (Walk::line(channels, 1), points.as_ptr(), filters.as_ptr());
            let products = tiles.div_ceil(S::WALK_ROWS);
            // Few tiles do not hide that the next point's filters come from memory.
            if products <= 4 {
                let ahead = Some(Ahead::share(first / S::WALK_ROWS, products, filter_stride, channels, block));
                strided_tile_ahead(simd, walk, points, &offsets, filters, block, ahead, target, false);
            } else {
                strided_tile(simd, walk, points, &offsets, filters, block, target, false);
            }
        }
    }
}

impl<T: Element> Forward<'_, T> {
    /// The output of some channels, no more than lanes, from their products at all points.
    #[inline(always)]
    fn write<S: Simd<T>>(
        &self,
        simd: S,
        chunk: &Chunk,
        channels: Range<usize>,
        products: &[T],
        point_stride: usize,
        pixels: &mut [T],
    ) {
        let (g, tiles) = (self.geometry, self.tiles);
        let (height, width) = g.output;
        let block = S::WALK_VECTORS * S::LANES;
        let mut bias = [T::ZERO; 16];
        if let Some(all) = self.bias {
            bias[..channels.len()].copy_from_slice(&all[channels.clone()]);
        }
        // SAFETY: LANES numbers are at most 16.
        let bias = unsafe { simd.load(bias.as_ptr()) };
        let floor = simd.splat(if self.relu { T::ZERO } else { T::NEG_INFINITY });
        let rows = TILE * chunk.rows.start..height.min(TILE * chunk.rows.end);
        let stride = TILE * tiles.columns * S::LANES;
        let mut tile = 0;
        for image in chunk.images.clone() {
            for row in 0..chunk.rows.len() {
                for column in 0..tiles.columns {
                    debug_assert!((POINTS - 1) * point_stride + tile * block + S::LANES <= products.len());
                    // SAFETY: LANES channels of the tile lie at each of 36 points.
                    let values = unsafe { transforms::output(simd, products.as_ptr().add(tile * block), point_stride) };
                    tile += 1;
                    let first = (row * stride + column * S::LANES) * TILE;
                    debug_assert!(first + 3 * (stride + S::LANES) + S::LANES <= pixels.len());
                    for y in 0..TILE {
                        for x in 0..TILE {
                            // In this order a NaN stays NaN.
                            let value = simd.max(floor, simd.add(values[y][x], bias));
                            // SAFETY: four rows of four pixels of whole tiles lie in the buffer.
                            unsafe { simd.store(pixels.as_mut_ptr().add(first + y * stride + x * S::LANES), value) };
                        }
                    }
                }
            }
            // What tiles have beyond the right edge.
            if tiles.columns * TILE > width {
                for y in 1..rows.len() {
                    pixels.copy_within(y * stride..y * stride + width * S::LANES, y * width * S::LANES);
                }
            }
            let first = (image * g.out_channels + channels.start) * g.pixels() + rows.start * width;
            let count = rows.len() * width;
            // SAFETY: the chunk's pixels of these channels, which no other chunk has.
            unsafe {
                let to = self.y.range(first..first + (channels.len() - 1) * g.pixels() + count);
                to_planes(simd, pixels.as_ptr(), S::LANES, count, channels.len(), to, g.pixels());
            }
        }
    }
}

/// The convolution with filters whose points are `filters`, as [`filter_points`](super::filter_points) gives
/// them, plus a bias per output channel, then ReLU if asked; into `y`.
pub fn forward<T: Element>(g: &Geometry, x: &[T], filters: &[T], bias: Option<&[T]>, relu: bool, y: &mut [T]) {
    assert_eq!((x.len(), y.len()), (g.batch * g.image(), g.batch * g.out_channels * g.pixels()));
    assert_eq!(filters.len(), points_len::<T>(g));
    let tiles = Tiles::new(g);
    let y = Parts::new(y);
    // A small batch is divided by channels, too, so that every thread has work.
    let shares = (2 * threads()).div_ceil(tiles.chunks()).min(filter_blocks::<T>(g));
    let work = |units: Range<usize>| {
        T::dispatch(Forward { geometry: g, tiles: &tiles, x, filters, bias, relu, shares, units, y: &y });
    };
    // Few units are divided once and for all: the shares of a chunk begin with its points.
    let units = tiles.chunks() * shares;
    if units <= 4 * threads() { for_shares(units, work) } else { for_ranges(units, work) }
}
