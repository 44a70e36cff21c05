//! Convolution as matrix products of packed blocks.
//!
//! Forward: the input values that a block of output pixels needs are multiplied with the packed
//! weight; output pixels are the lanes. Where every vector of pixels lies in one row of the padded
//! input, the values are read there; elsewhere they are packed first (im2col of some kilobytes, in
//! cache).
//! A weight that was made ready for few pixels is read once, by [`streamed`].
//! The gradient of the input is, for stride 1, a convolution with the flipped weight, otherwise
//! the scattered product of weight and output gradient. The gradient of the weight multiplies
//! the padded input, walked in place, with the transposed output gradient; output channels are
//! the lanes.

use std::ops::Range;

use super::buffer::{Scratch, written};
use super::depthwise;
use super::parallel::{Parts, for_ranges, for_shares, threads};
use super::simd::{Element, Kernel, Simd};
use super::streamed::{self, Streamed};
use super::tile::{Epilogue, InPlace, MOST_COLUMNS, Target, packed_tile, panel_columns, tile};
use super::{Scattered, winograd};

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
#[derive(Clone, Copy, Default)]
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

/// The runs of a block of output pixels, of which there are at most [`MOST_COLUMNS`].
pub struct Runs {
    runs: [Run; MOST_COLUMNS],
    count: usize,
}

impl std::ops::Deref for Runs {
    type Target = [Run];

    #[inline(always)]
    fn deref(&self) -> &[Run] {
        &self.runs[..self.count]
    }
}

/// Where the first input number of an output pixel lies in a channel of the padded image.
#[inline(always)]
fn source(geometry: &Geometry, pixel: usize) -> usize {
    let (y, x) = (pixel / geometry.output.1, pixel % geometry.output.1);
    y * geometry.stride.0 * geometry.padded().1 + x * geometry.stride.1
}

/// The runs that make up output pixels `start..end`.
pub fn runs(geometry: &Geometry, start: usize, end: usize) -> Runs {
    let mut found = Runs { runs: [Run::default(); MOST_COLUMNS], count: 0 };
    let width = geometry.output.1;
    let mut pixel = start;
    while pixel < end {
        let len = (width - pixel % width).min(end - pixel);
        found.runs[found.count] = Run { source: source(geometry, pixel), len };
        found.count += 1;
        pixel += len;
    }
    found
}

/// Where the input numbers of every depth of every group lie in the padded image, for output pixel 0.
pub fn offsets(g: &Geometry) -> Vec<usize> {
    let depth = g.depth();
    (0..g.groups * depth).map(|i| g.offset(i / depth, i % depth)).collect()
}

/// Copies an image into the middle of zeros.
pub fn pad<T: Element>(geometry: &Geometry, image: &[T], padded: &mut [T]) {
    if geometry.padding == (0, 0) {
        padded[..image.len()].copy_from_slice(image);
        return;
    }
    pad_rows(geometry, image, 0..geometry.padded().0, padded);
}

/// [`pad`] for some rows of every channel of the padded image.
fn pad_rows<T: Element>(geometry: &Geometry, image: &[T], rows: Range<usize>, padded: &mut [T]) {
    let (height, width) = geometry.input;
    let (padded_height, padded_width) = geometry.padded();
    let (top, left) = geometry.padding;
    // Rows of the image that are among them.
    let from = rows.start.clamp(top, top + height);
    let to = rows.end.clamp(from, top + height);
    for channel in 0..geometry.in_channels {
        let target = &mut padded[channel * padded_height * padded_width..][..padded_height * padded_width];
        target[rows.start * padded_width..from.clamp(rows.start, rows.end) * padded_width].fill(T::ZERO);
        target[to.clamp(rows.start, rows.end) * padded_width..rows.end * padded_width].fill(T::ZERO);
        for y in from..to {
            let row = &mut target[y * padded_width..][..padded_width];
            row[..left].fill(T::ZERO);
            row[left..left + width].copy_from_slice(&image[(channel * height + y - top) * width..][..width]);
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

/// How an image is divided among threads: by its blocks of pixels, and where those are few by the
/// output channels, too.
#[derive(Clone, Copy)]
struct Division {
    pieces: usize,
    shares: usize,
}

impl Division {
    fn new<T: Element>(g: &Geometry) -> Self {
        if g.batch >= 2 * threads() {
            return Self { pieces: 1, shares: 1 };
        }
        let (rows, columns) = T::dispatch(TileSizes);
        let pieces = (4 * threads()).div_ceil(g.batch).min(g.pixels().div_ceil(columns));
        let shares = (2 * threads()).div_ceil(g.batch * pieces).min(g.group_out().div_ceil(rows));
        Self { pieces, shares }
    }
}

struct Forward<'a, T> {
    geometry: &'a Geometry,
    x: &'a [T],
    weight: &'a Packed<T>,
    bias: Option<&'a [T]>,
    relu: bool,
    division: Division,
    /// Of `(image · pieces + piece) · shares + share`.
    units: Range<usize>,
    y: &'a Parts<'a, T>,
}

impl<T: Element> Kernel<T> for Forward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<T>>(self, simd: S) {
        let (g, Division { pieces, shares }) = (self.geometry, self.division);
        let (columns, depth, pixels) = (panel_columns::<T, S>(), g.depth(), g.pixels());
        let panel_len = depth * S::TILE_ROWS;
        let group_panels = g.group_out().div_ceil(S::TILE_ROWS);
        let blocks = pixels.div_ceil(columns);
        // A run is copied in whole vectors: some slack behind both buffers.
        let mut padded = Scratch::<T>::new(g.padded_image() + S::LANES);
        let padded = &mut *padded;
        // Where every vector of pixels lies in one row, the products read the padded image itself.
        let in_place = g.stride.1 == 1 && g.output.1.is_multiple_of(S::LANES);
        let mut packed = Scratch::<T>::new(if in_place { 0 } else { depth * columns + S::LANES });
        let packed = &mut *packed;
        let mut there = usize::MAX;
        for unit in self.units {
            let (part, share) = (unit / shares, unit % shares);
            let (image, piece) = (part / pieces, part % pieces);
            let blocks = blocks * piece / pieces..blocks * (piece + 1) / pieces;
            if part != there {
                let rows = rows_under(g, blocks.start * columns..pixels.min(blocks.end * columns));
                pad_rows(g, &self.x[image * g.image()..][..g.image()], rows, padded);
                there = part;
            }
            for block in blocks {
                let (start, end) = (block * columns, pixels.min((block + 1) * columns));
                let block_runs = runs(g, start, end);
                debug_assert_eq!(block_runs.iter().map(|run| run.len).sum::<usize>(), end - start);
                debug_assert!(end - start <= columns);
                let sources = std::array::from_fn(|j| source(g, (start + j * S::LANES).min(end - 1)));
                for group in 0..g.groups {
                    let offsets = &self.weight.offsets[group * depth..][..depth];
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
                    for panel in group_panels * share / shares..group_panels * (share + 1) / shares {
                        let channel = group * g.group_out() + panel * S::TILE_ROWS;
                        let rows = S::TILE_ROWS.min(g.group_out() - panel * S::TILE_ROWS);
                        let a = &self.weight.panels[(group * group_panels + panel) * panel_len..][..panel_len];
                        let first = (image * g.out_channels + channel) * pixels + start;
                        // SAFETY: pieces and shares are disjoint sets of output pixels and channels, and
                        // the tile writes no others between them; the operands have `depth` steps.
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

/// The rows of the padded image that some output pixels are made of.
fn rows_under(g: &Geometry, pixels: Range<usize>) -> Range<usize> {
    let (first, last) = (pixels.start / g.output.1, (pixels.end - 1) / g.output.1);
    first * g.stride.0..last * g.stride.0 + g.dilation.0 * (g.kernel.0 - 1) + 1
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

struct TileSizes;
impl<T> Kernel<T> for TileSizes {
    type Output = (usize, usize);
    #[inline(always)]
    fn run<S: Simd<T>>(self, _: S) -> (usize, usize) {
        (S::TILE_ROWS, panel_columns::<T, S>())
    }
}

/// The rows of a weight panel on this machine.
pub fn tile_rows<T: Element>() -> usize {
    T::dispatch(TileSizes).0
}

/// A weight for products with blocks of pixels.
pub struct Packed<T> {
    /// Panels of every group, one after the other.
    panels: Vec<T>,
    offsets: Vec<usize>,
}

impl<T: Element> Packed<T> {
    /// The weight of the convolution itself, `[out, in/groups, kh, kw]`.
    pub fn new(g: &Geometry, weight: &[T]) -> Self {
        let (rows, depth, tile) = (g.group_out(), g.depth(), tile_rows::<T>());
        let mut panels = Vec::with_capacity(g.groups * rows.next_multiple_of(tile) * depth);
        for group in weight.chunks_exact(rows * depth) {
            pack_rows(rows, depth, tile, |row, k| group[row * depth + k], &mut panels);
        }
        Self { panels, offsets: offsets(g) }
    }

    /// That of the convolution whose adjoint has this weight.
    fn adjoint(adjoint: &Geometry, weight: &[T]) -> Self {
        let taps = adjoint.kernel.0 * adjoint.kernel.1;
        let (rows, inner) = (adjoint.group_out(), adjoint.group_in());
        let mut panels = Vec::new();
        for group in weight.chunks_exact(inner * rows * taps) {
            let flipped = |row: usize, k: usize| group[((k / taps) * rows + row) * taps + (taps - 1 - k % taps)];
            pack_rows(rows, inner * taps, tile_rows::<T>(), flipped, &mut panels);
        }
        Self { panels, offsets: offsets(adjoint) }
    }

    /// The convolution, into `y`.
    pub fn forward(&self, g: &Geometry, x: &[T], bias: Option<&[T]>, relu: bool, y: &mut [T]) {
        assert_eq!((x.len(), y.len()), (g.batch * g.image(), g.batch * g.out_channels * g.pixels()));
        let division = Division::new::<T>(g);
        let parts = Parts::new(y);
        let work = |units: Range<usize>| {
            T::dispatch(Forward { geometry: g, x, weight: self, bias, relu, division, units, y: &parts });
        };
        let units = g.batch * division.pieces * division.shares;
        // For little work the way from one core's cache to another's counts: every thread keeps its part.
        let small = (g.batch * g.pixels() * g.out_channels).saturating_mul(g.depth()) < 1 << 21;
        if small { for_shares(units, work) } else { for_ranges(units, work) }
    }
}

/// `y[n, o] = Σ weight[o] ⋆ x[n] + bias[o]`, then ReLU if asked. All contiguous; weight is
/// `[out, in/groups, kh, kw]`.
pub fn forward<T: Element>(g: &Geometry, x: &[T], weight: &[T], bias: Option<&[T]>, relu: bool) -> Vec<T> {
    if winograd::pays::<T>(g) {
        return by_points(g, x, winograd::Filters::new(g, weight), bias, relu);
    }
    if depthwise::applies(g) {
        return written(g.batch * g.out_channels * g.pixels(), |y| depthwise::forward(g, x, weight, bias, relu, y));
    }
    forward_general(g, x, weight, bias, relu)
}

/// The convolution by [`winograd`].
pub(super) fn by_points<T: Element>(
    g: &Geometry,
    x: &[T],
    filters: winograd::Filters<'_, T>,
    bias: Option<&[T]>,
    relu: bool,
) -> Vec<T> {
    let mut points = Scratch::new(winograd::points_len::<T>(g));
    winograd::filter_points(g, filters, &mut points);
    written(g.batch * g.out_channels * g.pixels(), |y| winograd::forward(g, x, &points, bias, relu, y))
}

/// A convolution whose weight was made ready once.
pub struct Prepared<T> {
    geometry: Geometry,
    weight: Weight<T>,
    bias: Option<Vec<T>>,
    relu: bool,
}

enum Weight<T> {
    Depthwise(Vec<T>),
    Points(Vec<T>),
    Streamed(Streamed<T>),
    Packed(Packed<T>),
}

impl<T: Element> Prepared<T> {
    /// For batches of the geometry's size above all; others are as right.
    pub fn new(g: &Geometry, weight: &[T], bias: Option<Vec<T>>, relu: bool) -> Self {
        let weight = if depthwise::applies(g) {
            Weight::Depthwise(weight.to_vec())
        } else if winograd::pays_prepared::<T>(g) {
            let filters = winograd::Filters::new(g, weight);
            Weight::Points(written(winograd::points_len::<T>(g), |to| winograd::filter_points(g, filters, to)))
        } else if streamed::applies::<T>(g) {
            Weight::Streamed(Streamed::new(g, weight))
        } else {
            Weight::Packed(Packed::new(g, weight))
        };
        Self { geometry: *g, weight, bias, relu }
    }

    /// The convolution of a batch, into `y`.
    pub fn forward(&self, batch: usize, x: &[T], y: &mut [T]) {
        let g = Geometry { batch, ..self.geometry };
        let bias = self.bias.as_deref();
        match &self.weight {
            Weight::Depthwise(weight) => depthwise::forward(&g, x, weight, bias, self.relu, y),
            Weight::Points(points) => winograd::forward(&g, x, points, bias, self.relu, y),
            Weight::Streamed(weight) => weight.forward(&g, x, bias, self.relu, y),
            Weight::Packed(weight) => weight.forward(&g, x, bias, self.relu, y),
        }
    }
}

pub(super) fn forward_general<T: Element>(
    g: &Geometry,
    x: &[T],
    weight: &[T],
    bias: Option<&[T]>,
    relu: bool,
) -> Vec<T> {
    let weight = Packed::new(g, weight);
    written(g.batch * g.out_channels * g.pixels(), |y| weight.forward(g, x, bias, relu, y))
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
        Some(adjoint) => by_points(&adjoint, dy, winograd::Filters::adjoint(&adjoint, weight), bias, false),
        None => transposed_general(g, dy, weight, bias),
    }
}

pub(super) fn transposed_general<T: Element>(g: &Geometry, dy: &[T], weight: &[T], bias: Option<&[T]>) -> Vec<T> {
    written(g.batch * g.image(), |dx| match adjoint(g) {
        Some(adjoint) => Packed::adjoint(&adjoint, weight).forward(&adjoint, dy, bias, false, dx),
        None => Scattered::new(g, weight).forward(g, dy, bias, dx),
    })
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
