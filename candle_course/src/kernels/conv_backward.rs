//! The gradients of a convolution that are not themselves a convolution.

use std::ops::Range;

use super::buffer::{Scratch, written};
use super::conv::{Geometry, Run, pad, runs};
use super::depthwise;
use super::parallel::{Parts, for_ranges, threads};
use super::simd::{Element, Kernel, Simd};
use super::tile::{Epilogue, Offsets, Target, Walk, packed_tile, panel_columns, strided_tile};

struct Scatter<'a, T> {
    geometry: &'a Geometry,
    dy: &'a [T],
    panels: &'a [T],
    bias: Option<&'a [T]>,
    images: Range<usize>,
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
        let mut block_runs = Vec::new();
        let offsets: Vec<usize> = (0..g.groups * depth).map(|i| g.offset(i / depth, i % depth)).collect();
        let mut padded = Scratch::<T>::new(g.padded_image());
        let padded = &mut *padded;
        let mut buffer = Scratch::<T>::new((inner + S::TILE_ROWS) * columns);
        let buffer = &mut *buffer;
        let (packed, product) = buffer.split_at_mut(inner * columns);
        debug_assert!(S::TILE_ROWS * columns <= product.len());
        for image in self.images {
            padded.fill(T::ZERO);
            for start in (0..pixels).step_by(columns) {
                let count = columns.min(pixels - start);
                runs(g, start, start + count, &mut block_runs);
                for group in 0..g.groups {
                    for k in 0..inner {
                        let row = (image * g.out_channels + group * inner + k) * pixels + start;
                        packed[k * columns..][..count].copy_from_slice(&self.dy[row..][..count]);
                        packed[k * columns + count..(k + 1) * columns].fill(T::ZERO);
                    }
                    for panel in 0..group_panels {
                        let rows = S::TILE_ROWS.min(depth - panel * S::TILE_ROWS);
                        let a = &self.panels[(group * group_panels + panel) * panel_len..][..panel_len];
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
                        for row in 0..rows {
                            let offset = offsets[group * depth + panel * S::TILE_ROWS + row];
                            scatter(&block_runs, g.stride.1, &product[row * columns..], &mut padded[offset..]);
                        }
                    }
                }
            }
            // SAFETY: every image comes once.
            let dx = unsafe { self.dx.get(image * g.image()..(image + 1) * g.image()) };
            crop(g, padded, self.bias, dx);
        }
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

/// The gradient of the input (or the output of a transposed convolution, then with `bias`) for
/// any stride: weight times output gradient, scattered. `panels`: the transposed weight, packed.
pub fn scatter_input<T: Element>(g: &Geometry, dy: &[T], panels: &[T], bias: Option<&[T]>) -> Vec<T> {
    written(g.batch * g.image(), |dx| {
        let parts = Parts::new(dx);
        for_ranges(g.batch, |images| {
            T::dispatch(Scatter { geometry: g, dy, panels, bias, images, dx: &parts });
        });
    })
}

/// Pixels whose products are added in one register, in `T`.
const PIXELS: usize = 1024;
/// How many such sums are added in `T` before they go into f64.
const RUNS: usize = 64;

/// The weight gradient of `images`: `[group][depth][channel]`, channels padded to whole vectors.
struct WeightGradient<'a, T> {
    geometry: &'a Geometry,
    x: &'a [T],
    dy: &'a [T],
    images: Range<usize>,
    /// Zeros at first.
    sums: &'a mut [f64],
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
        let all_offsets: Vec<usize> = (0..g.groups * depth).map(|i| g.offset(i / depth, i % depth)).collect();
        // Whole rows, as many as make up the pixels of a run.
        let rows = (PIXELS / g.output.1).max(1);
        let (row_step, column_step) = (g.stride.0 * g.padded().1, g.stride.1);
        let mut padded = Scratch::<T>::new(g.padded_image());
        let padded = &mut *padded;
        let mut transposed = Scratch::<T>::new(pixels * lanes);
        let transposed = &mut *transposed;
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
                let dy = &self.dy[first..][..g.group_out() * pixels];
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

/// The gradient of the weight, `[out, in/groups, kh, kw]`.
pub fn backward_weight<T: Element>(g: &Geometry, x: &[T], dy: &[T]) -> Vec<T> {
    match depthwise::applies(g) {
        true => depthwise::backward_weight(g, x, dy),
        false => backward_weight_general(g, x, dy),
    }
}

/// As [`backward_weight`], for any groups.
///
/// The batch is divided into as many parts as there are threads, each summed in order: the bits
/// depend on the number of threads, not on their timing.
pub(super) fn backward_weight_general<T: Element>(g: &Geometry, x: &[T], dy: &[T]) -> Vec<T> {
    let (depth, lanes) = (g.depth(), T::dispatch(Lanes(g)));
    let len = g.groups * depth * lanes;
    let parts = threads().min(g.batch);
    let mut sums = vec![0f64; parts * len];
    let shares = Parts::new(&mut sums);
    for_ranges(parts, |range| {
        for part in range {
            let images = g.batch * part / parts..g.batch * (part + 1) / parts;
            // SAFETY: every part comes once.
            let sums = unsafe { shares.get(part * len..(part + 1) * len) };
            T::dispatch(WeightGradient { geometry: g, x, dy, images, sums });
        }
    });
    written(g.out_channels * depth, |dw| {
        for (channel, row) in dw.chunks_exact_mut(depth).enumerate() {
            let (group, lane) = (channel / g.group_out(), channel % g.group_out());
            for (k, value) in row.iter_mut().enumerate() {
                let place = (group * depth + k) * lanes + lane;
                *value = T::of(sums.chunks_exact(len).map(|part| part[place]).sum());
            }
        }
    })
}

/// The gradient of the bias: the sum over batch and pixels, `[out]`.
pub fn backward_bias<T: Element>(g: &Geometry, dy: &[T]) -> Vec<T> {
    super::reduce::channel_sums(dy, g.out_channels, g.pixels())
}
