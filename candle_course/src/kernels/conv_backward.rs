//! The gradients of a convolution that are not themselves a convolution.

use std::ops::Range;

use super::activation::mask_by_relu;
use super::buffer::{Scratch, written};
use super::conv::{Geometry, Run, offsets, pack_rows, pad, runs, tile_rows};
use super::depthwise;
use super::parallel::{Parts, for_ranges, threads};
use super::reduce::channel_sums;
use super::simd::{Element, Kernel, Simd};
use super::tile::{Epilogue, Offsets, Target, Walk, packed_tile, panel_columns, strided_tile};
use super::winograd;

struct Scatter<'a, T> {
    geometry: &'a Geometry,
    dy: &'a [T],
    weight: &'a Scattered<T>,
    bias: Option<&'a [T]>,
    /// Parts that the pixels of an image are divided into.
    pieces: usize,
    /// Of `image · pieces + piece`.
    units: Range<usize>,
    dx: &'a Parts<'a, T>,
}

impl<T: Element> Kernel<T> for Scatter<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<T>>(self, simd: S) {
        let g = self.geometry;
        let (columns, depth, pixels, inner) = (panel_columns::<T, S>(), g.depth(), g.pixels(), g.group_out());
        let panel_len = inner * S::TILE_ROWS;
        let group_panels = depth.div_ceil(S::TILE_ROWS);
        let Scattered { panels, offsets } = self.weight;
        let mut padded = Scratch::<T>::new(g.padded_image());
        let padded = &mut *padded;
        let mut buffer = Scratch::<T>::new((inner + S::TILE_ROWS) * columns);
        let buffer = &mut *buffer;
        let (packed, product) = buffer.split_at_mut(inner * columns);
        debug_assert!(S::TILE_ROWS * columns <= product.len());
        let side_by_side = are_side_by_side(g);
        debug_assert!(S::TILE_ROWS.is_multiple_of(2));
        let blocks = pixels.div_ceil(columns);
        for unit in self.units {
            let (image, piece) = (unit / self.pieces, unit % self.pieces);
            if !side_by_side {
                padded.fill(T::ZERO);
            }
            for block in blocks * piece / self.pieces..blocks * (piece + 1) / self.pieces {
                let start = block * columns;
                let count = columns.min(pixels - start);
                let block_runs = runs(g, start, start + count);
                for group in 0..g.groups {
                    for k in 0..inner {
                        let row = (image * g.out_channels + group * inner + k) * pixels + start;
                        packed[k * columns..][..count].copy_from_slice(&self.dy[row..][..count]);
                        packed[k * columns + count..(k + 1) * columns].fill(T::ZERO);
                    }
                    for panel in 0..group_panels {
                        let rows = S::TILE_ROWS.min(depth - panel * S::TILE_ROWS);
                        let a = &panels[(group * group_panels + panel) * panel_len..][..panel_len];
                        // SAFETY: the packed operands have `inner` steps and `product` holds a tile.
                        unsafe {
                            packed_tile(
                                simd,
                                inner,
                                a.as_ptr(),
                                packed.as_ptr(),
                                Target { start: product.as_mut_ptr(), stride: columns, rows, columns: count },
                                Epilogue { bias: std::ptr::null(), relu: false, accumulate: false },
                            );
                        }
                        if side_by_side {
                            for row in (0..rows).step_by(2) {
                                let k = panel * S::TILE_ROWS + row;
                                let bias = self.bias.map_or(T::ZERO, |bias| bias[group * g.group_in() + k / 4]);
                                let (left, right) = product[row * columns..].split_at(columns);
                                let first = image * g.image() + offsets[group * depth + k];
                                // SAFETY: every window comes once, and with it its numbers.
                                unsafe { interleave(&block_runs, left, right, bias, self.dx, first) };
                            }
                            continue;
                        }
                        for row in 0..rows {
                            let offset = offsets[group * depth + panel * S::TILE_ROWS + row];
                            scatter(&block_runs, g.stride.1, &product[row * columns..], &mut padded[offset..]);
                        }
                    }
                }
            }
            if !side_by_side {
                // SAFETY: then every image comes once.
                let dx = unsafe { self.dx.get(image * g.image()..(image + 1) * g.image()) };
                crop(g, padded, self.bias, dx);
            }
        }
    }
}

/// Whether windows of 2 × 2 lie side by side and cover the image: every number is written once.
fn are_side_by_side(g: &Geometry) -> bool {
    let (two, one) = ((2, 2), (1, 1));
    (g.kernel, g.stride, g.dilation, g.padding) == (two, two, one, (0, 0))
        && (2 * g.output.0, 2 * g.output.1) == g.input
}

/// Numbers for the left and the right places of windows two pixels wide, plus `bias`, in turns; the window of
/// pixel 0 lies at `target`.
///
/// # Safety
/// Nobody else may use the runs' places of `dx`.
#[inline(always)]
unsafe fn interleave<T: Element>(runs: &[Run], left: &[T], right: &[T], bias: T, dx: &Parts<'_, T>, target: usize) {
    let mut first = 0;
    for run in runs {
        let pairs = left[first..][..run.len].iter().zip(&right[first..][..run.len]);
        let target = target + run.source;
        // SAFETY: the caller vouches for it.
        let places = unsafe { dx.get(target..target + 2 * run.len) };
        for (places, (&left, &right)) in places.chunks_exact_mut(2).zip(pairs) {
            places[0] = left + bias;
            places[1] = right + bias;
        }
        first += run.len;
    }
}

#[inline(always)]
fn scatter<T: Element>(runs: &[Run], stride: usize, values: &[T], target: &mut [T]) {
    let mut values = values;
    for run in runs {
        let (now, later) = values.split_at(run.len);
        for (value, place) in now.iter().zip(target[run.source..].iter_mut().step_by(stride)) {
            *place += *value;
        }
        values = later;
    }
}

/// The middle of a padded image, plus a bias per channel.
#[inline(always)]
pub(super) fn crop<T: Element>(g: &Geometry, padded: &[T], bias: Option<&[T]>, image: &mut [T]) {
    let (height, width) = g.input;
    let (padded_height, padded_width) = g.padded();
    for (row, target) in image.chunks_exact_mut(width).enumerate() {
        let (channel, y) = (row / height, row % height);
        let source = (channel * padded_height + y + g.padding.0) * padded_width + g.padding.1;
        let bias = bias.map_or(T::ZERO, |bias| bias[channel]);
        for (value, &source) in target.iter_mut().zip(&padded[source..][..width]) {
            *value = source + bias;
        }
    }
}

/// A weight for [`forward`](Self::forward), whose products are scattered.
pub struct Scattered<T> {
    /// The transposed weight, packed.
    panels: Vec<T>,
    offsets: Vec<usize>,
}

impl<T: Element> Scattered<T> {
    /// The weight of a convolution, `[out, in/groups, kh, kw]`.
    pub fn new(g: &Geometry, weight: &[T]) -> Self {
        let (depth, inner) = (g.depth(), g.group_out());
        let mut panels = Vec::new();
        for group in weight.chunks_exact(inner * depth) {
            pack_rows(depth, inner, tile_rows::<T>(), |row, k| group[k * depth + row], &mut panels);
        }
        Self { panels, offsets: offsets(g) }
    }

    /// The gradient of the input, into `dx`, for any stride; or the output of a transposed convolution, then
    /// with `bias`.
    pub fn forward(&self, g: &Geometry, dy: &[T], bias: Option<&[T]>, dx: &mut [T]) {
        assert_eq!((dy.len(), dx.len()), (g.batch * g.out_channels * g.pixels(), g.batch * g.image()));
        let parts = Parts::new(dx);
        // A small batch is divided by pixels, too, where each is written once.
        let pieces = if are_side_by_side(g) { (4 * threads()).div_ceil(g.batch).min(g.pixels()) } else { 1 };
        for_ranges(g.batch * pieces, |units| {
            T::dispatch(Scatter { geometry: g, dy, weight: self, bias, pieces, units, dx: &parts });
        });
    }
}

/// Pixels whose products are added in one register, in `T`.
const PIXELS: usize = 1024;
/// How many such sums are added in `T` before they go into f64.
const RUNS: usize = 64;

/// The gradient of a convolution's output.
#[derive(Clone, Copy)]
pub struct OutputGradient<'a, T> {
    pub values: &'a [T],
    /// The output, if ReLU followed: where it is 0, no gradient passes.
    pub relu: Option<&'a [T]>,
}

impl<'a, T> From<&'a [T]> for OutputGradient<'a, T> {
    fn from(values: &'a [T]) -> Self {
        Self { values, relu: None }
    }
}

/// The weight gradient of `images`: `[group][depth][channel]`, channels padded to whole vectors.
struct WeightGradient<'a, T> {
    geometry: &'a Geometry,
    x: &'a [T],
    dy: OutputGradient<'a, T>,
    images: Range<usize>,
    /// Zeros at first.
    sums: &'a mut [f64],
    /// The gradient of the bias, if wanted. Zeros at first.
    bias: &'a mut [f64],
}

fn padded_channels<S: Simd<T>, T>(g: &Geometry) -> usize {
    g.group_out().next_multiple_of(S::LANES)
}

impl<T: Element> Kernel<T> for WeightGradient<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<T>>(self, simd: S) {
        let g = self.geometry;
        let (depth, pixels, lanes) = (g.depth(), g.pixels(), padded_channels::<S, T>(g));
        let columns = S::WALK_VECTORS * S::LANES;
        let all_offsets = offsets(g);
        // Whole rows, as many as make up the pixels of a run.
        let rows = (PIXELS / g.output.1).max(1);
        let (row_step, column_step) = (g.stride.0 * g.padded().1, g.stride.1);
        let mut padded = Scratch::<T>::new(g.padded_image());
        let padded = &mut *padded;
        let mut transposed = Scratch::<T>::new(pixels * lanes);
        let transposed = &mut *transposed;
        let mut masked = Scratch::<T>::new(if self.dy.relu.is_some() { g.group_out() * pixels } else { 0 });
        let mut few = vec![T::ZERO; self.sums.len()];
        let move_few = |few: &mut [T], sums: &mut [f64]| {
            for (sum, few) in sums.iter_mut().zip(few) {
                *sum += few.wide();
                *few = T::ZERO;
            }
        };
        let mut runs = vec![0usize; g.groups];
        for image in self.images {
            pad(g, &self.x[image * g.image()..][..g.image()], padded);
            for group in 0..g.groups {
                let first = (image * g.out_channels + group * g.group_out()) * pixels;
                let mut dy = &self.dy.values[first..][..g.group_out() * pixels];
                if let Some(y) = self.dy.relu {
                    mask_by_relu(&y[first..], dy, &mut masked);
                    dy = &masked;
                }
                for (sum, plane) in self.bias.iter_mut().skip(group * g.group_out()).zip(dy.chunks_exact(pixels)) {
                    *sum += super::reduce::sum(plane);
                }
                transpose(simd, dy, g.group_out(), pixels, transposed, lanes);
                let share = group * depth * lanes..(group + 1) * depth * lanes;
                let few = &mut few[share.clone()];
                for first_row in (0..g.output.0).step_by(rows) {
                    let rows = rows.min(g.output.0 - first_row);
                    let walk = Walk { rows, columns: g.output.1, row_step, column_step };
                    let (source, first_pixel) = (first_row * row_step, first_row * g.output.1);
                    for channel in (0..lanes).step_by(columns) {
                        for k in (0..depth).step_by(S::WALK_ROWS) {
                            let offsets: Offsets =
                                std::array::from_fn(|i| all_offsets[group * depth + (k + i).min(depth - 1)]);
                            debug_assert!(offsets.iter().all(|offset| source + offset + walk.last() < padded.len()));
                            debug_assert!((first_pixel + rows * g.output.1) * lanes <= transposed.len());
                            debug_assert!(k < depth && channel < lanes && few.len() == depth * lanes);
                            // SAFETY: offset plus the last step of the last run's walk is the last
                            // number of the padded image that the convolution reads; the transposed
                            // gradient has `pixels` rows of `lanes` numbers, a multiple of the
                            // vector's; the target lies in rows k.. of `few`.
                            unsafe {
                                strided_tile(
                                    simd,
                                    walk,
                                    padded.as_ptr().add(source),
                                    &offsets,
                                    transposed.as_ptr().add(first_pixel * lanes + channel),
                                    lanes,
                                    Target {
                                        start: few.as_mut_ptr().add(k * lanes + channel),
                                        stride: lanes,
                                        rows: S::WALK_ROWS.min(depth - k),
                                        columns: columns.min(lanes - channel),
                                    },
                                    true,
                                );
                            }
                        }
                    }
                    runs[group] += 1;
                    if runs[group].is_multiple_of(RUNS) {
                        move_few(few, &mut self.sums[share.clone()]);
                    }
                }
            }
        }
        move_few(&mut few, self.sums);
    }
}

/// `[channels][pixels]` to `[pixels][lanes]`, the lanes behind the channels zero.
#[inline(always)]
fn transpose<T: Element, S: Simd<T>>(simd: S, from: &[T], channels: usize, pixels: usize, to: &mut [T], lanes: usize) {
    debug_assert!(channels * pixels <= from.len() && channels <= lanes && pixels * lanes <= to.len());
    let (whole_channels, whole_pixels) = (channels / S::LANES * S::LANES, pixels / S::LANES * S::LANES);
    for channel in (0..whole_channels).step_by(S::LANES) {
        for pixel in (0..whole_pixels).step_by(S::LANES) {
            // SAFETY: a square of LANES numbers inside both matrices.
            unsafe {
                let source = from.as_ptr().add(channel * pixels + pixel);
                simd.transpose(source, pixels, to.as_mut_ptr().add(pixel * lanes + channel), lanes);
            }
        }
    }
    for pixel in 0..pixels {
        let first = if pixel < whole_pixels { whole_channels } else { 0 };
        for channel in first..lanes {
            to[pixel * lanes + channel] = if channel < channels { from[channel * pixels + pixel] } else { T::ZERO };
        }
    }
}

struct Lanes<'a>(&'a Geometry);
impl<T: Element> Kernel<T> for Lanes<'_> {
    type Output = usize;
    #[inline(always)]
    fn run<S: Simd<T>>(self, _: S) -> usize {
        padded_channels::<S, T>(self.0)
    }
}

/// Whether [`backward_weight`] takes a gradient as it came before a ReLU.
pub fn masks_in_passing<T: Element>(g: &Geometry) -> bool {
    !depthwise::applies(g) && !winograd::pays::<T>(g)
}

/// The gradient of the weight, `[out, in/groups, kh, kw]`, and, if wanted, that of the bias, `[out]`.
/// `dy` may have a ReLU to pass if it [`masks_in_passing`].
pub fn backward_weight<T: Element>(
    g: &Geometry,
    x: &[T],
    dy: OutputGradient<'_, T>,
    bias: bool,
) -> (Vec<T>, Option<Vec<T>>) {
    if masks_in_passing::<T>(g) {
        return backward_weight_general(g, x, dy, bias);
    }
    debug_assert!(dy.relu.is_none());
    match depthwise::applies(g) {
        true => {
            let bias = bias.then(|| channel_sums(dy.values, g.out_channels, g.pixels()));
            (depthwise::backward_weight(g, x, dy.values), bias)
        }
        false => {
            let (dw, db) = winograd::backward_weight(g, x, dy.values);
            (dw, bias.then_some(db))
        }
    }
}

/// As [`backward_weight`], for any groups.
pub(super) fn backward_weight_general<T: Element>(
    g: &Geometry,
    x: &[T],
    dy: OutputGradient<'_, T>,
    bias: bool,
) -> (Vec<T>, Option<Vec<T>>) {
    let add = |images, sums: &mut [f64], bias: &mut [f64]| {
        T::dispatch(WeightGradient { geometry: g, x, dy, images, sums, bias });
    };
    let (dw, db) = summed_weight_gradient(g, g.batch, if bias { g.out_channels } else { 0 }, add);
    (dw, bias.then(|| db.into_iter().map(T::of).collect()))
}

/// Numbers of depth whose sums one thread adds up at a time.
const DEPTHS: usize = 32;

/// The gradient of the weight as the sum of `units`, which `add` adds to
/// `[group][depth][channel]`, channels padded to whole vectors; and `others` sums besides, which are
/// `add`'s last argument.
///
/// They are divided into as many parts as there are threads, each summed in order: the bits
/// depend on the number of threads, not on their timing.
pub(super) fn summed_weight_gradient<T: Element>(
    g: &Geometry,
    units: usize,
    others: usize,
    add: impl Fn(Range<usize>, &mut [f64], &mut [f64]) + Sync,
) -> (Vec<T>, Vec<f64>) {
    let (depth, lanes) = (g.depth(), T::dispatch(Lanes(g)));
    let numbers = g.groups * depth * lanes;
    let len = numbers + others;
    let parts = threads().min(units);
    let mut sums = Scratch::<f64>::new(parts * len);
    let shares = Parts::new(&mut sums);
    for_ranges(parts, |range| {
        for part in range {
            // SAFETY: every part comes once.
            let sums = unsafe { shares.get(part * len..(part + 1) * len) };
            sums.fill(0.0);
            let (sums, others) = sums.split_at_mut(numbers);
            add(units * part / parts..units * (part + 1) / parts, sums, others);
        }
    });
    let sums: &[f64] = &sums;
    let mut totals = vec![0.0; others];
    for part in sums.chunks_exact(len) {
        totals.iter_mut().zip(&part[numbers..]).for_each(|(total, part)| *total += part);
    }
    let dw = written(g.out_channels * depth, |dw| {
        let dw = Parts::new(dw);
        let blocks = depth.div_ceil(DEPTHS);
        for_ranges(g.groups * blocks, |range| {
            let mut total = Scratch::<f64>::new(DEPTHS * lanes);
            for unit in range {
                let (group, first) = (unit / blocks, unit % blocks * DEPTHS);
                let depths = DEPTHS.min(depth - first);
                let total = &mut total[..depths * lanes];
                total.fill(0.0);
                for part in sums.chunks_exact(len) {
                    let part = &part[(group * depth + first) * lanes..][..depths * lanes];
                    total.iter_mut().zip(part).for_each(|(total, part)| *total += part);
                }
                for lane in 0..g.group_out() {
                    let row = (group * g.group_out() + lane) * depth + first;
                    // SAFETY: every unit writes its own depths.
                    let row = unsafe { dw.get(row..row + depths) };
                    row.iter_mut().enumerate().for_each(|(k, value)| *value = T::of(total[k * lanes + lane]));
                }
            }
        });
    });
    (dw, totals)
}
