//! Depthwise convolution: every group has one input channel, so there is no matrix product to
//! gain from. Rows of pixels are the vectors.

use super::buffer::{Scratch, written};
use super::conv::{Geometry, pad};
use super::conv_backward::crop;
use super::parallel::{Parts, for_ranges};
use super::simd::{Element, Kernel, Simd};

/// Whether these kernels compute the convolution.
pub fn applies(g: &Geometry) -> bool {
    g.group_in() == 1 && g.groups > 1
}

/// The geometry of one channel as an image of its own.
fn one_channel(g: &Geometry) -> Geometry {
    Geometry { batch: 1, in_channels: 1, out_channels: g.group_out(), groups: 1, ..*g }
}

/// `to[i] += factor · from[i · step]`.
#[inline(always)]
fn add_scaled<T: Element>(to: &mut [T], factor: T, from: &[T], step: usize) {
    if step == 1 {
        for (to, &from) in to.iter_mut().zip(from) {
            *to += factor * from;
        }
    } else {
        for (to, &from) in to.iter_mut().zip(from.iter().step_by(step)) {
            *to += factor * from;
        }
    }
}

/// Σ a[i] · b[i · step], in chains of a fixed order.
#[inline(always)]
fn dot<T: Element>(a: &[T], b: &[T], step: usize) -> T {
    const CHAINS: usize = 16;
    let mut sums = [T::ZERO; CHAINS];
    if step == 1 {
        let b = &b[..a.len()];
        let (a_chunks, b_chunks) = (a.chunks_exact(CHAINS), b.chunks_exact(CHAINS));
        for (i, (&a, &b)) in a_chunks.remainder().iter().zip(b_chunks.remainder()).enumerate() {
            sums[i] += a * b;
        }
        for (a, b) in a_chunks.zip(b_chunks) {
            for i in 0..CHAINS {
                sums[i] += a[i] * b[i];
            }
        }
    } else {
        for (i, (&a, &b)) in a.iter().zip(b.iter().step_by(step)).enumerate() {
            sums[i % CHAINS] += a * b;
        }
    }
    sums.into_iter().sum()
}

/// Calls `f(tap, y, start)` for every tap and output row: the row's first input number lies at
/// `start` of the padded channel.
#[inline(always)]
fn for_rows(g: &Geometry, mut f: impl FnMut(usize, usize, usize)) {
    let width = g.padded().1;
    for tap in 0..g.kernel.0 * g.kernel.1 {
        let (ky, kx) = (tap / g.kernel.1, tap % g.kernel.1);
        for y in 0..g.output.0 {
            f(tap, y, (y * g.stride.0 + ky * g.dilation.0) * width + kx * g.dilation.1);
        }
    }
}

/// An output channel of an image, from its padded input channel.
struct Forward<'a, T> {
    g: &'a Geometry,
    padded: &'a [T],
    weight: &'a [T],
    bias: T,
    relu: bool,
    y: &'a mut [T],
}

impl<T: Element> Kernel<T> for Forward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<T>>(self, _: S) {
        let Self { g, padded, weight, bias, relu, y: out } = self;
        let width = g.output.1;
        out.fill(bias);
        for_rows(g, |tap, y, start| {
            add_scaled(&mut out[y * width..][..width], weight[tap], &padded[start..], g.stride.1);
        });
        if relu {
            // In this order a NaN stays NaN.
            out.iter_mut().for_each(|y| *y = if *y < T::ZERO { T::ZERO } else { *y });
        }
    }
}

/// As the general [`forward`](super::conv::forward), into `y`.
pub fn forward<T: Element>(g: &Geometry, x: &[T], weight: &[T], bias: Option<&[T]>, relu: bool, y: &mut [T]) {
    let (one, taps, pixels) = (one_channel(g), g.kernel.0 * g.kernel.1, g.pixels());
    let parts = Parts::new(y);
    for_ranges(g.batch * g.in_channels, |range| {
        let mut padded = Scratch::<T>::new(one.padded_image());
        for index in range {
            pad(&one, &x[index * one.image()..][..one.image()], &mut padded);
            for multiple in 0..g.group_out() {
                let (channel, output) =
                    ((index % g.in_channels) * g.group_out() + multiple, index * g.group_out() + multiple);
                // SAFETY: every input channel of every image comes once, and so do its outputs.
                let y = unsafe { parts.get(output * pixels..(output + 1) * pixels) };
                let weight = &weight[channel * taps..][..taps];
                let bias = bias.map_or(T::ZERO, |bias| bias[channel]);
                T::dispatch(Forward { g: &one, padded: &padded, weight, bias, relu, y });
            }
        }
    });
}

/// Adds what an output channel's gradient gives to the padded input channel's.
struct BackwardInput<'a, T> {
    g: &'a Geometry,
    dy: &'a [T],
    weight: &'a [T],
    padded: &'a mut [T],
}

impl<T: Element> Kernel<T> for BackwardInput<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<T>>(self, _: S) {
        let Self { g, dy, weight, padded } = self;
        let (width, step) = (g.output.1, g.stride.1);
        for_rows(g, |tap, y, start| {
            let (factor, dy, target) = (weight[tap], &dy[y * width..][..width], &mut padded[start..]);
            if step == 1 {
                add_scaled(&mut target[..width], factor, dy, 1);
            } else {
                for (target, &dy) in target.iter_mut().step_by(step).zip(dy) {
                    *target += factor * dy;
                }
            }
        });
    }
}

/// The transposed convolution, with a bias per input channel; without one the gradient of the input.
pub fn transposed<T: Element>(g: &Geometry, dy: &[T], weight: &[T], bias: Option<&[T]>) -> Vec<T> {
    let (one, taps, pixels) = (one_channel(g), g.kernel.0 * g.kernel.1, g.pixels());
    written(g.batch * g.image(), |dx| {
        let parts = Parts::new(dx);
        for_ranges(g.batch * g.in_channels, |range| {
            let mut padded = Scratch::<T>::new(one.padded_image());
            for index in range {
                padded.fill(T::ZERO);
                for multiple in 0..g.group_out() {
                    let channel = (index % g.in_channels) * g.group_out() + multiple;
                    let dy = &dy[(index * g.group_out() + multiple) * pixels..][..pixels];
                    let weight = &weight[channel * taps..][..taps];
                    T::dispatch(BackwardInput { g: &one, dy, weight, padded: &mut padded });
                }
                // SAFETY: every channel of every image comes once.
                let dx = unsafe { parts.get(index * one.image()..(index + 1) * one.image()) };
                let bias = bias.map(|bias| &bias[index % g.in_channels..][..1]);
                crop(&one, &padded, bias, dx);
            }
        });
    })
}

/// Adds an image's share to the gradient of an output channel's weight.
struct BackwardWeight<'a, T> {
    g: &'a Geometry,
    padded: &'a [T],
    dy: &'a [T],
    dw: &'a mut [f64],
}

impl<T: Element> Kernel<T> for BackwardWeight<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<T>>(self, _: S) {
        let Self { g, padded, dy, dw } = self;
        let width = g.output.1;
        // Rows in T, some of them at a time, then f64.
        let (mut few, mut of) = (T::ZERO, 0);
        for_rows(g, |tap, y, start| {
            if tap != of || y % 16 == 0 {
                dw[of] += few.wide();
                (few, of) = (T::ZERO, tap);
            }
            few += dot(&dy[y * width..][..width], &padded[start..], g.stride.1);
        });
        dw[of] += few.wide();
    }
}

/// The gradient of the weight. A channel is summed by one thread: the bits depend on nothing else.
pub fn backward_weight<T: Element>(g: &Geometry, x: &[T], dy: &[T]) -> Vec<T> {
    let (one, taps, pixels) = (one_channel(g), g.kernel.0 * g.kernel.1, g.pixels());
    let per_group = g.group_out() * taps;
    let mut dw = vec![0f64; g.in_channels * per_group];
    let parts = Parts::new(&mut dw);
    for_ranges(g.in_channels, |range| {
        let mut padded = Scratch::<T>::new(one.padded_image());
        for input in range {
            // SAFETY: every group comes once.
            let dw = unsafe { parts.get(input * per_group..(input + 1) * per_group) };
            for image in 0..g.batch {
                let index = image * g.in_channels + input;
                pad(&one, &x[index * one.image()..][..one.image()], &mut padded);
                for (multiple, dw) in dw.chunks_exact_mut(taps).enumerate() {
                    let dy = &dy[(index * g.group_out() + multiple) * pixels..][..pixels];
                    T::dispatch(BackwardWeight { g: &one, padded: &padded, dy, dw });
                }
            }
        }
    });
    dw.into_iter().map(T::of).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{conv, conv_backward};
    use super::*;

    #[test]
    fn agrees_with_the_general_kernels() {
        for (channels, multiple, kernel, stride, padding, dilation) in [
            (3, 1, (3, 3), (1, 1), (1, 1), (1, 1)),
            (2, 2, (3, 5), (2, 3), (0, 2), (1, 1)),
            (5, 1, (2, 3), (1, 2), (2, 0), (2, 1)),
            (4, 3, (1, 1), (2, 1), (0, 0), (1, 1)),
        ] {
            let (input, batch) = ((11, 37), 3);
            let size = |n: usize, k: usize, s: usize, p: usize, d: usize| (n + 2 * p - d * (k - 1) - 1) / s + 1;
            let output = (
                size(input.0, kernel.0, stride.0, padding.0, dilation.0),
                size(input.1, kernel.1, stride.1, padding.1, dilation.1),
            );
            let (in_channels, out_channels) = (channels, channels * multiple);
            let g = Geometry {
                batch,
                in_channels,
                out_channels,
                groups: channels,
                input,
                kernel,
                stride,
                padding,
                dilation,
                output,
            };
            assert!(applies(&g));
            let values = |len: usize, seed: f64| (0..len).map(|i| (i as f64 * 0.37 + seed).sin()).collect::<Vec<f64>>();
            let (x, w) = (values(batch * g.image(), 0.0), values(out_channels * g.depth(), 1.0));
            let (dy, b) = (values(batch * out_channels * g.pixels(), 2.0), values(out_channels, 3.0));
            let close = |a: &[f64], b: &[f64]| {
                assert!(a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-11))
            };
            close(&conv::forward(&g, &x, &w, Some(&b), true), &conv::forward_general(&g, &x, &w, Some(&b), true));
            let b = &b[..in_channels];
            close(&transposed(&g, &dy, &w, Some(b)), &conv::transposed_general(&g, &dy, &w, Some(b)));
            close(
                &backward_weight(&g, &x, &dy),
                &conv_backward::backward_weight_general(&g, &x, dy[..].into(), false).0,
            );
        }
    }
}
