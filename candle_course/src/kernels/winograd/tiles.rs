//! How a batch is divided into tiles, and the points of the input's tiles.

use std::ops::Range;

use super::transforms::{self, POINTS, TILE};
use crate::kernels::conv::Geometry;
use crate::kernels::interleave::to_pixels;
use crate::kernels::parallel::threads;
use crate::kernels::simd::{Element, Simd};

/// Tiles of a chunk: enough to use what is read of the filters, few enough for the cache.
pub(super) const MOST_TILES: usize = 64;
/// Fewer are not worth reading the filters for.
const FEWEST_TILES: usize = 16;

/// How the output tiles of a batch are divided into chunks: rows of tiles of one image, or several
/// whole images.
pub(super) struct Tiles {
    /// Rows and columns of the tiles of an image.
    pub rows: usize,
    pub columns: usize,
    pub batch: usize,
    pub images_per_chunk: usize,
    pub rows_per_chunk: usize,
}

/// Images, and rows of tiles in each.
pub(super) struct Chunk {
    pub images: Range<usize>,
    pub rows: Range<usize>,
}

impl Tiles {
    pub fn new(g: &Geometry) -> Self {
        let (rows, columns) = (g.output.0.div_ceil(TILE), g.output.1.div_ceil(TILE));
        let all = g.batch * rows * columns;
        let wanted = all.div_ceil(2 * threads()).clamp(FEWEST_TILES, MOST_TILES);
        let (images_per_chunk, rows_per_chunk) = match wanted / (rows * columns) {
            0 => (1, rows.div_ceil(rows.div_ceil((wanted / columns).max(1)))),
            images => (images.min(g.batch), rows),
        };
        Self { rows, columns, batch: g.batch, images_per_chunk, rows_per_chunk }
    }

    pub fn chunks_per_image(&self) -> usize {
        self.rows.div_ceil(self.rows_per_chunk)
    }

    pub fn chunks(&self) -> usize {
        self.batch.div_ceil(self.images_per_chunk) * self.chunks_per_image()
    }

    pub fn chunk(&self, index: usize) -> Chunk {
        let (first_image, first_row) = (
            index / self.chunks_per_image() * self.images_per_chunk,
            index % self.chunks_per_image() * self.rows_per_chunk,
        );
        Chunk {
            images: first_image..self.batch.min(first_image + self.images_per_chunk),
            rows: first_row..self.rows.min(first_row + self.rows_per_chunk),
        }
    }

    /// The most tiles of a chunk.
    pub fn most(&self) -> usize {
        self.images_per_chunk * self.rows_per_chunk * self.columns
    }

    /// Tiles of `chunk`.
    pub fn count(&self, chunk: &Chunk) -> usize {
        chunk.images.len() * chunk.rows.len() * self.columns
    }

    /// Numbers from one point of a chunk to the next, for so many channels. Not a power of two: the
    /// 36 points of a tile would share a few places of the cache.
    pub fn point_stride(&self, channels: usize, lanes: usize) -> usize {
        (self.most() * channels).next_multiple_of(lanes) + lanes
    }
}

/// The planes that rows of tiles are cut from.
pub(super) struct Planes<'a, T> {
    /// All images, `[N, channels, height, width]`.
    pub values: &'a [T],
    pub channels: usize,
    pub size: (usize, usize),
    /// Zeros above and left of the image.
    pub padding: (usize, usize),
    /// Rows and columns that a tile reaches beyond the next one's beginning.
    pub overlap: usize,
}

impl<T: Element> Planes<'_, T> {
    /// Numbers of a region, for LANES channels of the rows of a chunk.
    pub fn region(&self, tiles: &Tiles, lanes: usize) -> usize {
        (TILE * tiles.rows_per_chunk + self.overlap) * self.row_stride(tiles, lanes)
    }

    /// Numbers of a row of a region.
    pub fn row_stride(&self, tiles: &Tiles, lanes: usize) -> usize {
        (TILE * tiles.columns + self.overlap) * lanes
    }

    /// LANES planes of an image, beginning with `channel`, for rows of tiles: pixel by pixel, with zeros
    /// around the image.
    #[inline(always)]
    pub fn cut<S: Simd<T>>(
        &self,
        simd: S,
        tiles: &Tiles,
        image: usize,
        channel: usize,
        rows: &Range<usize>,
        to: &mut [T],
    ) {
        let ((height, width), (top, left)) = (self.size, self.padding);
        let row_stride = self.row_stride(tiles, S::LANES);
        let region_rows = TILE * rows.len() + self.overlap;
        // Row `i` of the region is row `first + i − top` of the image.
        let first = TILE * rows.start;
        let from = top.saturating_sub(first).min(region_rows);
        let to_row = (height + top).saturating_sub(first).clamp(from, region_rows);
        let to = &mut to[..region_rows * row_stride];
        to[..from * row_stride].fill(T::ZERO);
        to[to_row * row_stride..].fill(T::ZERO);
        for row in to[from * row_stride..to_row * row_stride].chunks_exact_mut(row_stride) {
            row[..left * S::LANES].fill(T::ZERO);
            row[(left + width) * S::LANES..].fill(T::ZERO);
        }
        if from == to_row {
            return;
        }
        let plane = height * width;
        let planes = &self.values[(image * self.channels + channel) * plane..][..S::LANES * plane];
        let start = &planes[(first + from - top) * width..];
        let target = &mut to[from * row_stride + left * S::LANES..];
        // SAFETY: rows `first + from − top` and following of LANES planes lie in `planes`, and their
        // pixels inside the region, whose rows have room for `left + width` pixels.
        unsafe {
            let strides = (row_stride, S::LANES);
            to_pixels(simd, start.as_ptr(), plane, (to_row - from, width), target.as_mut_ptr(), strides);
        }
    }
}

/// The images of a convolution's input as [`Planes`].
pub(super) fn input_planes<'a, T>(g: &Geometry, x: &'a [T]) -> Planes<'a, T> {
    Planes { values: x, channels: g.in_channels, size: g.input, padding: g.padding, overlap: 2 }
}

/// The points of the input tiles of a chunk: `[point][tile][channel]`.
#[inline(always)]
pub(super) fn input_points<T: Element, S: Simd<T>>(
    simd: S,
    planes: &Planes<'_, T>,
    tiles: &Tiles,
    chunk: &Chunk,
    region: &mut [T],
    points: &mut [T],
) {
    let (channels, row_stride) = (planes.channels, planes.row_stride(tiles, S::LANES));
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
                    debug_assert!(from + 5 * (row_stride + S::LANES) + S::LANES <= region.len());
                    // SAFETY: six rows of six pixels lie in the region, and LANES channels of the tile
                    // at each of 36 points.
                    unsafe {
                        let to = points.as_mut_ptr().add(tile * channels + channel);
                        transforms::input(simd, region.as_ptr().add(from), row_stride, to, point_stride);
                    }
                    tile += 1;
                }
            }
        }
    }
}
