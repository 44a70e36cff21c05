//! Convolution of few output pixels, where reading the weight takes longer than multiplying.
//!
//! The weight lies in the order in which it is needed, and every number of it is read from memory once: a part that
//! stays in the first cache is multiplied with all pixels before the next is read. Output channels are the lanes.

use std::ops::Range;

use super::buffer::Scratch;
use super::conv::Geometry;
use super::interleave::{to_pixels, to_planes};
use super::panels::BlockColumns;
use super::parallel::{Parts, for_ranges, for_shares, threads};
use super::simd::{Element, Kernel, Simd};
use super::tile::{Ahead, Offsets, Target, Walk, strided_tile_ahead};

/// Input channels that lie side by side; at least as many as there are lanes.
const CHANNELS: usize = 16;
/// Steps of a product that the weights in the first cache are enough for.
const STEPS: usize = 144;
/// More output pixels than this are work enough for the processor.
const MOST_PIXELS: usize = 256;

/// A convolution's weight:
/// `[block of output channels][block of input channels][vertical][horizontal][input channel][output channel]`, zeros
/// behind the last output channel.
pub struct Streamed<T> {
    values: Vec<T>,
}

/// Whether the convolution is computed here.
pub fn applies<T: Element>(g: &Geometry) -> bool {
    (g.groups, g.dilation) == (1, (1, 1))
        && g.in_channels.is_multiple_of(CHANNELS)
        && g.out_channels >= T::dispatch(BlockColumns)
        && g.batch * g.pixels() <= MOST_PIXELS
}

/// Numbers from one block of channels to the next in the input that [`Gather`] writes, and from one row to the next.
fn strides(g: &Geometry) -> (usize, usize) {
    let block = g.padded().1 * CHANNELS;
    (block, g.in_channels / CHANNELS * block)
}

impl<T: Element> Streamed<T> {
    /// Packs a weight, `[out, in, kh, kw]`.
    pub fn new(g: &Geometry, weight: &[T]) -> Self {
        let (block, taps) = (T::dispatch(BlockColumns), g.kernel.0 * g.kernel.1);
        let mut values = Vec::with_capacity(g.out_channels.next_multiple_of(block) * g.depth());
        for first in (0..g.out_channels).step_by(block) {
            for k in 0..g.depth() {
                let (channels, tap, channel) = (k / (CHANNELS * taps), k / CHANNELS % taps, k % CHANNELS);
                let from = (channels * CHANNELS + channel) * taps + tap;
                let number = |out| if out < g.out_channels { weight[out * g.depth() + from] } else { T::ZERO };
                values.extend((first..first + block).map(number));
            }
        }
        Self { values }
    }

    /// The convolution plus a bias per output channel, then ReLU if asked; into `y`.
    pub fn forward(&self, g: &Geometry, x: &[T], bias: Option<&[T]>, relu: bool, y: &mut [T]) {
        assert_eq!((x.len(), y.len()), (g.batch * g.image(), g.batch * g.out_channels * g.pixels()));
        let mut input = Scratch::new(g.batch * g.padded_image());
        let parts = Parts::new(&mut input);
        for_shares(g.batch * g.in_channels / CHANNELS, |units| {
            T::dispatch(Gather { geometry: g, x, units, to: &parts });
        });
        let blocks = g.out_channels.div_ceil(T::dispatch(BlockColumns));
        let pieces = (2 * threads()).div_ceil(blocks).min(g.batch * g.pixels());
        let y = Parts::new(y);
        for_ranges(blocks * pieces, |units| {
            T::dispatch(Multiply {
                geometry: g,
                input: &input,
                weight: &self.values,
                bias,
                relu,
                pieces,
                units,
                y: &y,
            });
        });
    }
}

/// The padded input: `[image][row][block of channels][column][channel]`. A row of a kernel over a block of channels
/// is one piece.
struct Gather<'a, T> {
    geometry: &'a Geometry,
    x: &'a [T],
    /// Of `image · blocks + block of channels`.
    units: Range<usize>,
    to: &'a Parts<'a, T>,
}

impl<T: Element> Kernel<T> for Gather<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<T>>(self, simd: S) {
        let g = self.geometry;
        let ((height, width), (top, left)) = (g.input, g.padding);
        let ((rows, _), plane, (block_stride, row_stride)) = (g.padded(), height * width, strides(g));
        let blocks = g.in_channels / CHANNELS;
        for unit in self.units {
            let (image, block) = (unit / blocks, unit % blocks);
            let first = image * rows * row_stride + block * block_stride;
            for row in 0..rows {
                let from = first + row * row_stride;
                // SAFETY: this block's part of the row.
                let to = unsafe { self.to.get(from..from + block_stride) };
                if (top..top + height).contains(&row) {
                    to[..left * CHANNELS].fill(T::ZERO);
                    to[(left + width) * CHANNELS..].fill(T::ZERO);
                } else {
                    to.fill(T::ZERO);
                }
            }
            for lanes in (0..CHANNELS).step_by(S::LANES) {
                let planes = &self.x[(unit * CHANNELS + lanes) * plane..][..S::LANES * plane];
                let from = first + top * row_stride + left * CHANNELS + lanes;
                // SAFETY: LANES planes, and the pixels of this block's rows, whose first is `from`.
                unsafe {
                    let last = (height - 1) * row_stride + (width - 1) * CHANNELS;
                    let to = self.to.range(from..from + last + S::LANES);
                    to_pixels(simd, planes.as_ptr(), plane, g.input, to, (row_stride, CHANNELS));
                }
            }
        }
    }
}

struct Multiply<'a, T> {
    geometry: &'a Geometry,
    /// As [`Gather`] gives it.
    input: &'a [T],
    weight: &'a [T],
    bias: Option<&'a [T]>,
    relu: bool,
    /// Pieces that the pixels are divided into.
    pieces: usize,
    /// Of `block of output channels · pieces + piece`.
    units: Range<usize>,
    y: &'a Parts<'a, T>,
}

impl<T: Element> Kernel<T> for Multiply<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<T>>(self, simd: S) {
        let (g, pieces) = (self.geometry, self.pieces);
        let (block, pixels) = (S::WALK_VECTORS * S::LANES, g.batch * g.pixels());
        let mut products = Scratch::<T>::new(pixels.div_ceil(pieces) * block);
        for unit in self.units.clone() {
            let (number, piece) = (unit / pieces, unit % pieces);
            let pixels = pixels * piece / pieces..pixels * (piece + 1) / pieces;
            let products = &mut products[..pixels.len() * block];
            let channels = number * block..g.out_channels.min((number + 1) * block);
            products.fill(T::ZERO);
            if let Some(bias) = self.bias {
                for pixel in products.chunks_exact_mut(block) {
                    pixel[..channels.len()].copy_from_slice(&bias[channels.clone()]);
                }
            }
            self.multiply(simd, &pixels, &self.weight[number * block * g.depth()..][..block * g.depth()], products);
            if self.relu {
                // In this order a NaN stays NaN.
                products.iter_mut().for_each(|y| *y = if *y < T::ZERO { T::ZERO } else { *y });
            }
            self.write(simd, &pixels, &channels, products);
        }
    }
}

impl<T: Element> Multiply<'_, T> {
    /// Adds the products of some pixels with a block of output channels: `[pixel][channel]`.
    #[inline(always)]
    fn multiply<S: Simd<T>>(&self, simd: S, pixels: &Range<usize>, weight: &[T], products: &mut [T]) {
        let (g, block, (block_stride, row_stride)) =
            (self.geometry, S::WALK_VECTORS * S::LANES, strides(self.geometry));
        let (height, width) = g.output;
        let blocks = g.in_channels / CHANNELS;
        let taps = g.kernel.0 * g.kernel.1;
        // Of a kernel of one pixel, several blocks of channels are walked, as rows.
        let together = if taps == 1 { STEPS / CHANNELS } else { 1 };
        for first in (0..blocks).step_by(together) {
            let walk = if taps == 1 {
                Walk { rows: together.min(blocks - first), columns: CHANNELS, row_step: block_stride, column_step: 1 }
            } else {
                Walk { rows: g.kernel.0, columns: g.kernel.1 * CHANNELS, row_step: row_stride, column_step: 1 }
            };
            let weight = &weight[first * taps * CHANNELS * block..][..walk.rows * walk.columns * block];
            let tiles = pixels.len().div_ceil(S::WALK_ROWS);
            let mut row = pixels.start / width;
            let mut column = pixels.start % width;
            for pixel in pixels.clone().step_by(S::WALK_ROWS) {
                let rows = S::WALK_ROWS.min(pixels.end - pixel);
                let mut offsets: Offsets = [0; 8];
                for offset in &mut offsets[..rows] {
                    let (image, y) = (row / height, row % height * g.stride.0);
                    *offset =
                        (image * g.padded().0 + y) * row_stride + first * block_stride + column * g.stride.1 * CHANNELS;
                    column += 1;
                    if column == width {
                        (row, column) = (row + 1, 0);
                    }
                }
                for i in rows..offsets.len() {
                    offsets[i] = offsets[rows - 1];
                }
                debug_assert!(offsets.iter().all(|offset| offset + walk.last() < self.input.len()));
                let products = &mut products[(pixel - pixels.start) * block..][..rows * block];
                // While all pixels go through this part of the weight, the next comes from memory.
                let tile = (pixel - pixels.start) / S::WALK_ROWS;
                let ahead = Some(Ahead::share(tile, tiles, weight.len(), weight.len() / block, block));
                // SAFETY: the kernel's numbers at every pixel lie in the padded input, and as many rows of a block
                // in `weight`; `products` has a row for every pixel.
                unsafe {
                    let target = Target { start: products.as_mut_ptr(), stride: block, rows, columns: block };
                    strided_tile_ahead(
                        simd,
                        walk,
                        self.input.as_ptr(),
                        &offsets,
                        weight.as_ptr(),
                        block,
                        ahead,
                        target,
                        true,
                    );
                }
            }
        }
    }

    /// Writes the products of some pixels with a block of output channels.
    #[inline(always)]
    fn write<S: Simd<T>>(&self, simd: S, pixels: &Range<usize>, channels: &Range<usize>, products: &[T]) {
        let (g, block) = (self.geometry, S::WALK_VECTORS * S::LANES);
        let plane = g.pixels();
        let mut pixel = pixels.start;
        while pixel < pixels.end {
            let (image, inside) = (pixel / plane, pixel % plane);
            let count = (plane - inside).min(pixels.end - pixel);
            for first in channels.clone().step_by(S::LANES) {
                let lanes = S::LANES.min(channels.end - first);
                let from = &products[(pixel - pixels.start) * block + first - channels.start..];
                let to = (image * g.out_channels + first) * plane + inside;
                debug_assert!((count - 1) * block + S::LANES <= from.len());
                // SAFETY: `count` pixels of these channels, which no other unit has.
                unsafe {
                    let to = self.y.range(to..to + (lanes - 1) * plane + count);
                    to_planes(simd, from.as_ptr(), block, count, lanes, to, plane);
                }
            }
            pixel += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::conv::forward_general;
    use super::*;

    fn follows_the_packed_products<T: Element>(g: &Geometry, bound: f64) {
        let waves = |len: usize, pace: f64| -> Vec<T> { (0..len).map(|i| T::of((i as f64 * pace).sin())).collect() };
        let (x, weight) = (waves(g.batch * g.image(), 0.7), waves(g.out_channels * g.depth(), 0.9));
        let (packed, bias) = (Streamed::new(g, &weight), waves(g.out_channels, 1.3));
        for (bias, relu) in [(None, false), (Some(&bias[..]), true)] {
            let expected = forward_general(g, &x, &weight, bias, relu);
            let most = bound * (g.depth() as f64).sqrt();
            let mut y = vec![T::NAN; expected.len()];
            packed.forward(g, &x, bias, relu, &mut y);
            for (i, (y, e)) in y.iter().zip(&expected).enumerate() {
                assert!((y.wide() - e.wide()).abs() <= most, "{g:?}, {relu}, {i}: {y}, not {e}");
            }
        }
    }

    /// Kernels of one pixel and of several, images of less than a vector and of several tiles, channels that fill
    /// blocks and that do not, one image and several, whose pixels share tiles.
    #[test]
    fn outputs_are_those_of_the_packed_products() {
        for (input, kernel, stride, padding) in [
            ((4, 4), (3, 3), (1, 1), (1, 1)),
            ((8, 5), (1, 1), (2, 2), (0, 0)),
            ((7, 7), (3, 3), (2, 2), (1, 1)),
            ((5, 9), (5, 3), (1, 2), (2, 0)),
            ((1, 3), (1, 1), (1, 1), (0, 0)),
            ((16, 16), (3, 3), (1, 1), (1, 1)),
        ] {
            let output = |size: usize, kernel: usize, stride: usize, pad: usize| (size + 2 * pad - kernel) / stride + 1;
            let output =
                (output(input.0, kernel.0, stride.0, padding.0), output(input.1, kernel.1, stride.1, padding.1));
            for (batch, in_channels, out_channels) in [(1, 16, 32), (3, 48, 33), (2, 320, 70)] {
                let (groups, dilation) = (1, (1, 1));
                let g = Geometry {
                    batch,
                    in_channels,
                    out_channels,
                    groups,
                    input,
                    kernel,
                    stride,
                    padding,
                    dilation,
                    output,
                };
                follows_the_packed_products::<f32>(&g, 1e-6);
                if in_channels < 48 {
                    follows_the_packed_products::<f64>(&g, 2e-15);
                }
            }
        }
    }

    #[test]
    fn a_number_that_is_none_stays_so() {
        let (batch, kernel, one) = (1, (1, 1), (1, 1));
        let (input, padding) = ((2, 2), (0, 0));
        let g = Geometry {
            batch,
            in_channels: 16,
            out_channels: 32,
            groups: 1,
            input,
            kernel,
            stride: one,
            padding,
            dilation: one,
            output: input,
        };
        let mut x = vec![1.0; g.image()];
        x[3] = f32::NAN;
        let mut y = vec![0.0; 32 * 4];
        Streamed::new(&g, &[-1.0; 32 * 16]).forward(&g, &x, None, true, &mut y);
        assert!(y.iter().enumerate().all(|(i, y)| if i % 4 == 3 { y.is_nan() } else { *y == 0.0 }), "{y:?}");
    }
}
