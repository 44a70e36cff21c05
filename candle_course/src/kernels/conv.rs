//! Convolution as matrix products of packed blocks.
//!
//! Forward: the input values that a block of output pixels needs are multiplied with the packed
//! weight; output pixels are the lanes. Where every vector of pixels lies in one row of the padded
//! input, the values are read there; elsewhere they are packed first (im2col of some kilobytes, in
//! cache).
//! The gradient of the input is, for stride 1, a convolution with the flipped weight, otherwise
//! the scattered product of weight and output gradient. The gradient of the weight multiplies
//! the padded input, walked in place, with the transposed output gradient; output channels are
//! the lanes.

use super::buffer::{Scratch, written};
use super::depthwise;
use super::parallel::{Parts, for_ranges, threads};
use super::simd::{Element, Kernel, Simd};
use super::tile::{Epilogue, InPlace, Target, packed_tile, panel_columns, tile};
use super::winograd;

/// The sizes of a 2-d convolution; pairs are (vertical, horizontal).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    pub batch: usize,
    pub in_channels: usize,
    pub out_channels: usize,
    pub groups: usize,
    pub input: (usize, usize),
    pub kernel: (usize, usize),
    pub stride: (usize, usize),
    pub padding: (usize, usize),
    pub dilation: (usize, usize),
    pub output: (usize, usize),
}

impl Geometry {
    /// Input channels of a group.
    pub fn group_in(&self) -> usize {
        self.in_channels / self.groups
    }

    /// Output channels of a group.
    pub fn group_out(&self) -> usize {
        self.out_channels / self.groups
    }

    /// Numbers that enter one output number: the depth of the matrix product.
    pub fn depth(&self) -> usize {
        self.group_in() * self.kernel.0 * self.kernel.1
    }

    /// Output pixels of a channel.
    pub fn pixels(&self) -> usize {
        self.output.0 * self.output.1
    }

    /// Numbers of an input image.
    pub fn image(&self) -> usize {
        self.in_channels * self.input.0 * self.input.1
    }

    /// Height and width of the padded input.
    pub fn padded(&self) -> (usize, usize) {
        (self.input.0 + 2 * self.padding.0, self.input.1 + 2 * self.padding.1)
    }

    /// Numbers of a padded input image.
    pub fn padded_image(&self) -> usize {
        let (height, width) = self.padded();
        self.in_channels * height * width
    }

    /// Whether no size that the kernels compute overflows, here or in the adjoint.
    pub fn fits_in_memory(&self) -> bool {
        const MOST: usize = isize::MAX as usize / 64;
        let fits = |sizes: &[usize]| {
            let product = sizes.iter().try_fold(1usize, |product, &size| product.checked_mul(size));
            product.is_some_and(|product| product <= MOST)
        };
        let (height, width) = self.padded();
        fits(&[self.in_channels.max(self.out_channels), height, width])
            && fits(&[self.batch, self.in_channels, self.input.0, self.input.1])
            && fits(&[self.batch, self.out_channels, self.output.0, self.output.1])
            && fits(&[self.stride.0, width])
            && fits(&[self.stride.1])
    }

    /// Where the input number of depth `k` of a group lies in the padded image, for output pixel 0.
    pub fn offset(&self, group: usize, k: usize) -> usize {
        let (kh, kw) = self.kernel;
        let (height, width) = self.padded();
        let (channel, y, x) = (k / (kh * kw), k / kw % kh, k % kw);
        ((group * self.group_in() + channel) * height + y * self.dilation.0) * width + x * self.dilation.1
    }
}

/// A run of output pixels of one row: `len` pixels whose input numbers lie `source + j · stride`.
pub struct Run {
    pub source: usize,
    pub len: usize,
}

impl Run {
    /// One behind the last number that the run reads.
    pub fn end(&self, stride: usize) -> usize {
        self.source + (self.len - 1) * stride + 1
    }
}

/// Where the first input number of an output pixel lies in a channel of the padded image.
#[inline(always)]
fn source(geometry: &Geometry, pixel: usize) -> usize {
    let (y, x) = (pixel / geometry.output.1, pixel % geometry.output.1);
    y * geometry.stride.0 * geometry.padded().1 + x * geometry.stride.1
}

/// The runs that make up output pixels `start..end`.
pub fn runs(geometry: &Geometry, start: usize, end: usize, runs: &mut Vec<Run>) {
    runs.clear();
    let width = geometry.output.1;
    let mut pixel = start;
    while pixel < end {
        let len = (width - pixel % width).min(end - pixel);
        runs.push(Run { source: source(geometry, pixel), len });
        pixel += len;
    }
}

/// Copies an image into the middle of zeros.
pub fn pad<T: Element>(geometry: &Geometry, image: &[T], padded: &mut [T]) {
    let (height, width) = geometry.input;
    let (padded_height, padded_width) = geometry.padded();
    let (top, left) = geometry.padding;
    if (top, left) == (0, 0) {
        padded[..image.len()].copy_from_slice(image);
        return;
    }
    for channel in 0..geometry.in_channels {
        let target = &mut padded[channel * padded_height * padded_width..][..padded_height * padded_width];
        target[..top * padded_width].fill(T::ZERO);
        target[(top + height) * padded_width..].fill(T::ZERO);
        for y in 0..height {
            let row = &mut target[(top + y) * padded_width..][..padded_width];
            row[..left].fill(T::ZERO);
            row[left..left + width].copy_from_slice(&image[(channel * height + y) * width..][..width]);
            row[left + width..].fill(T::ZERO);
        }
    }
}

/// Packs a `rows` × `depth` matrix, given by `at(row, k)`, in panels of TILE_ROWS rows:
/// `[panel][depth][row]`, the last panel filled up with zeros.
pub fn pack_rows<T: Element>(rows: usize, depth: usize, tile: usize, at: impl Fn(usize, usize) -> T, out: &mut Vec<T>) {
    for panel in 0..rows.div_ceil(tile) {
        for k in 0..depth {
            for row in panel * tile..(panel + 1) * tile {
                out.push(if row < rows { at(row, k) } else { T::ZERO });
            }
        }
    }
}

struct Forward<'a, T> {
    geometry: &'a Geometry,
    x: &'a [T],
    /// Panels of every group, one after the other.
    panels: &'a [T],
    bias: Option<&'a [T]>,
    relu: bool,
    /// Parts that the pixels of an image are divided into.
    pieces: usize,
    units: std::ops::Range<usize>,
    y: &'a Parts<'a, T>,
}

impl<T: Element> Kernel<T> for Forward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<T>>(self, simd: S) {
        let g = self.geometry;
        let (columns, depth, pixels) = (panel_columns::<T, S>(), g.depth(), g.pixels());
        let panel_len = depth * S::TILE_ROWS;
        let group_panels = g.group_out().div_ceil(S::TILE_ROWS);
        let blocks = pixels.div_ceil(columns);
        let mut block_runs = Vec::new();
        let offsets: Vec<usize> = (0..g.groups * depth).map(|i| g.offset(i / depth, i % depth)).collect();
        // A run is copied in whole vectors: some slack behind both buffers.
        let mut padded = Scratch::<T>::new(g.padded_image() + S::LANES);
        let padded = &mut *padded;
        // Where every vector of pixels lies in one row, the products read the padded image itself.
        let in_place = g.stride.1 == 1 && g.output.1.is_multiple_of(S::LANES);
        let mut packed = Scratch::<T>::new(if in_place { 0 } else { depth * columns + S::LANES });
        let packed = &mut *packed;
        let mut padded_image = usize::MAX;
        for unit in self.units {
            let (image, piece) = (unit / self.pieces, unit % self.pieces);
            if image != padded_image {
                pad(g, &self.x[image * g.image()..][..g.image()], padded);
                padded_image = image;
            }
            for block in blocks * piece / self.pieces..blocks * (piece + 1) / self.pieces {
                let (start, end) = (block * columns, pixels.min((block + 1) * columns));
                runs(g, start, end, &mut block_runs);
                debug_assert_eq!(block_runs.iter().map(|run| run.len).sum::<usize>(), end - start);
                debug_assert!(end - start <= columns);
                let sources = std::array::from_fn(|j| source(g, (start + j * S::LANES).min(end - 1)));
                for group in 0..g.groups {
                    let offsets = &offsets[group * depth..][..depth];
                    debug_assert!(offsets.iter().all(|offset| {
                        block_runs.iter().all(|run| offset + run.end(g.stride.1) <= g.padded_image())
                    }));
                    if !in_place {
                        debug_assert!(depth * columns + S::LANES <= packed.len());
                        for (k, &offset) in offsets.iter().enumerate() {
                            // SAFETY: offsets and runs stay inside the padded image, a row of
                            // the panel holds `columns` numbers, and both have LANES of slack.
                            unsafe {
                                let source = padded.as_ptr().add(offset);
                                pack_runs(simd, &block_runs, g.stride.1, source, packed.as_mut_ptr().add(k * columns));
                            }
                        }
                    }
                    for panel in 0..group_panels {
                        let channel = group * g.group_out() + panel * S::TILE_ROWS;
                        let rows = S::TILE_ROWS.min(g.group_out() - panel * S::TILE_ROWS);
                        let a = &self.panels[(group * group_panels + panel) * panel_len..][..panel_len];
                        let first = (image * g.out_channels + channel) * pixels + start;
                        // SAFETY: units and blocks are disjoint sets of output pixels, and the
                        // tile writes no others between them; the operands have `depth` steps.
                        // In place, every vector is a part of a run.
                        unsafe {
                            let y = self.y.range(first..first + (rows - 1) * pixels + (end - start));
                            let target = Target { start: y, stride: pixels, rows, columns: end - start };
                            let epilogue = Epilogue {
                                bias: self.bias.map_or(std::ptr::null(), |bias| bias[channel..][..rows].as_ptr()),
                                relu: self.relu,
                                accumulate: false,
                            };
                            if in_place {
                                let b = InPlace { start: padded.as_ptr(), offsets, sources };
                                tile(simd, depth, a.as_ptr(), b, target, epilogue);
                            } else {
                                packed_tile(simd, depth, a.as_ptr(), packed.as_ptr(), target, epilogue);
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Packs the runs of one depth step, one behind the other.
///
/// # Safety
/// `source` must be readable for every run plus LANES numbers, `target` writable for the sum of
/// their lengths plus LANES.
#[inline(always)]
unsafe fn pack_runs<T: Element, S: Simd<T>>(simd: S, runs: &[Run], stride: usize, source: *const T, target: *mut T) {
    let mut target = target;
    for run in runs {
        // SAFETY: inside the run, or in the slack behind it, which the next run overwrites.
        unsafe {
            let source = source.add(run.source);
            if stride == 1 {
                let mut i = 0;
                while i < run.len {
                    simd.store(target.add(i), simd.load(source.add(i)));
                    i += S::LANES;
                }
            } else if stride == 2 {
                // As below, with a stride that the compiler knows.
                for i in 0..run.len {
                    *target.add(i) = *source.add(i * 2);
                }
            } else {
                for i in 0..run.len {
                    *target.add(i) = *source.add(i * stride);
                }
            }
            target = target.add(run.len);
        }
    }
}

struct TileRows;
impl<T> Kernel<T> for TileRows {
    type Output = usize;
    #[inline(always)]
    fn run<S: Simd<T>>(self, _: S) -> usize {
        S::TILE_ROWS
    }
}

/// The rows of a weight panel on this machine.
pub fn tile_rows<T: Element>() -> usize {
    T::dispatch(TileRows)
}

fn forward_packed<T: Element>(g: &Geometry, x: &[T], panels: &[T], bias: Option<&[T]>, relu: bool) -> Vec<T> {
    // A small batch is divided by pixels, so that every thread has work.
    let pieces = if g.batch >= 2 * threads() { 1 } else { (4 * threads()).div_ceil(g.batch) };
    written(g.batch * g.out_channels * g.pixels(), |y| {
        let parts = Parts::new(y);
        for_ranges(g.batch * pieces, |units| {
            T::dispatch(Forward { geometry: g, x, panels, bias, relu, pieces, units, y: &parts });
        });
    })
}

/// `y[n, o] = Σ weight[o] ⋆ x[n] + bias[o]`, then ReLU if asked. All contiguous; weight is
/// `[out, in/groups, kh, kw]`.
pub fn forward<T: Element>(g: &Geometry, x: &[T], weight: &[T], bias: Option<&[T]>, relu: bool) -> Vec<T> {
    if depthwise::applies(g) {
        depthwise::forward(g, x, weight, bias, relu)
    } else if winograd::pays::<T>(g) {
        winograd::forward(g, x, winograd::Filters::new(g, weight), bias, relu)
    } else {
        forward_general(g, x, weight, bias, relu)
    }
}

pub(super) fn forward_general<T: Element>(
    g: &Geometry,
    x: &[T],
    weight: &[T],
    bias: Option<&[T]>,
    relu: bool,
) -> Vec<T> {
    let (rows, depth, tile) = (g.group_out(), g.depth(), tile_rows::<T>());
    let mut panels = Vec::with_capacity(g.groups * rows.next_multiple_of(tile) * depth);
    for group in weight.chunks_exact(rows * depth) {
        pack_rows(rows, depth, tile, |row, k| group[row * depth + k], &mut panels);
    }
    forward_packed(g, x, &panels, bias, relu)
}

/// The convolution whose output is the gradient of this one's input, if there is one.
fn adjoint(g: &Geometry) -> Option<Geometry> {
    let reach = (g.dilation.0 * (g.kernel.0 - 1), g.dilation.1 * (g.kernel.1 - 1));
    // The output padding of a transposed convolution makes the input larger than the windows reach.
    let (height, width) = g.padded();
    let covered = (g.output.0 + reach.0, g.output.1 + reach.1) == (height, width);
    let fits = g.stride == (1, 1) && covered && reach.0 >= g.padding.0 && reach.1 >= g.padding.1;
    fits.then(|| Geometry {
        in_channels: g.out_channels,
        out_channels: g.in_channels,
        input: g.output,
        output: g.input,
        padding: (reach.0 - g.padding.0, reach.1 - g.padding.1),
        ..*g
    })
}

/// The gradient of the input, from that of the output.
pub fn backward_input<T: Element>(g: &Geometry, dy: &[T], weight: &[T]) -> Vec<T> {
    transposed(g, dy, weight, None)
}

/// The transposed convolution: [`backward_input`] with a bias per input channel.
pub fn transposed<T: Element>(g: &Geometry, dy: &[T], weight: &[T], bias: Option<&[T]>) -> Vec<T> {
    if depthwise::applies(g) {
        return depthwise::transposed(g, dy, weight, bias);
    }
    match adjoint(g).filter(winograd::pays::<T>) {
        Some(adjoint) => winograd::forward(&adjoint, dy, winograd::Filters::adjoint(&adjoint, weight), bias, false),
        None => transposed_general(g, dy, weight, bias),
    }
}

pub(super) fn transposed_general<T: Element>(g: &Geometry, dy: &[T], weight: &[T], bias: Option<&[T]>) -> Vec<T> {
    let tile = tile_rows::<T>();
    let (taps, depth) = (g.kernel.0 * g.kernel.1, g.depth());
    let mut panels = Vec::new();
    match adjoint(g) {
        Some(adjoint) => {
            for group in weight.chunks_exact(g.group_out() * depth) {
                let flipped = |row: usize, k: usize| group[(k / taps) * depth + row * taps + (taps - 1 - k % taps)];
                pack_rows(g.group_in(), g.group_out() * taps, tile, flipped, &mut panels);
            }
            forward_packed(&adjoint, dy, &panels, bias, false)
        }
        None => {
            for group in weight.chunks_exact(g.group_out() * depth) {
                pack_rows(depth, g.group_out(), tile, |row, k| group[k * depth + row], &mut panels);
            }
            super::scatter_input(g, dy, &panels, bias)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::backward_weight;

    /// From the definition, in f64.
    fn by_definition(g: &Geometry, x: &[f32], weight: &[f32]) -> Vec<f64> {
        let (height, width) = g.input;
        let mut y = vec![0.0; g.batch * g.out_channels * g.pixels()];
        for (index, value) in y.iter_mut().enumerate() {
            let (image, channel) = (index / g.pixels() / g.out_channels, index / g.pixels() % g.out_channels);
            let (row, column) = (index % g.pixels() / g.output.1, index % g.output.1);
            for k in 0..g.depth() {
                let (from, ky, kx) = (k / (g.kernel.0 * g.kernel.1), k / g.kernel.1 % g.kernel.0, k % g.kernel.1);
                let from = channel / g.group_out() * g.group_in() + from;
                let at = (row * g.stride.0 + ky * g.dilation.0, column * g.stride.1 + kx * g.dilation.1);
                let (Some(i), Some(j)) = (at.0.checked_sub(g.padding.0), at.1.checked_sub(g.padding.1)) else {
                    continue;
                };
                if i < height && j < width {
                    let x = x[((image * g.in_channels + from) * height + i) * width + j];
                    *value += f64::from(x) * f64::from(weight[channel * g.depth() + k]);
                }
            }
        }
        y
    }

    fn dot(a: &[f32], b: impl IntoIterator<Item = f64>) -> f64 {
        a.iter().zip(b).map(|(&a, b)| f64::from(a) * b).sum()
    }

    /// Rows that are whole vectors, and rows that are not, over several blocks, with panels of all
    /// heights.
    #[test]
    fn blocks_of_all_widths_and_channels_follow_the_definition() {
        let waves = |len: usize, pace: f32| -> Vec<f32> { (0..len).map(|i| (i as f32 * pace).sin()).collect() };
        for width in [5, 8, 16, 20, 24, 32, 48, 64] {
            for out_channels in [2, 4, 6, 8, 10, 14, 16, 18, 20, 22, 34] {
                let (groups, stride) = (1 + usize::from(out_channels % 4 == 0), 1 + usize::from(width % 3 == 0));
                let g = Geometry {
                    batch: 2,
                    in_channels: 4,
                    out_channels,
                    groups,
                    input: (3, width),
                    kernel: (3, 3),
                    stride: (stride, 1),
                    padding: (1, 1),
                    dilation: (1, 1),
                    output: (2 / stride + 1, width),
                };
                let x = waves(g.batch * g.image(), 0.7);
                let weight = waves(out_channels * g.depth(), 0.9);
                let dy = waves(g.batch * out_channels * g.pixels(), 1.3);
                let expected = by_definition(&g, &x, &weight);
                let y = forward(&g, &x, &weight, None, false);
                let worst = y.iter().zip(&expected).map(|(&y, e)| (f64::from(y) - e).abs()).fold(0.0, f64::max);
                assert!(y.len() == expected.len() && worst < 2e-5, "{g:?}: {worst}");
                // Both gradients are adjoint to the convolution.
                let product = dot(&dy, expected);
                let wide = |values: Vec<f32>| values.into_iter().map(f64::from);
                for (name, same) in [
                    ("input", dot(&x, wide(backward_input(&g, &dy, &weight)))),
                    ("weight", dot(&weight, wide(backward_weight(&g, &x, dy[..].into(), false).0))),
                ] {
                    assert!((same - product).abs() < 1e-3, "{name} of {g:?}: {same}, not {product}");
                }
            }
        }
    }
}
