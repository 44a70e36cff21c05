//! Batch normalisation of `[N, C, plane]`, each channel by itself.

use super::buffer::written;
use super::parallel::for_parts;
use super::reduce::{Moments, for_planes, moments, sum_pairs};
use super::simd::{Element, Kernel, Simd};

/// Mean and biased variance per channel.
#[derive(Debug, Clone)]
pub struct Statistics {
    pub mean: Vec<f64>,
    pub variance: Vec<f64>,
}

struct PlaneMoments<'a, T> {
    x: &'a [T],
    plane: usize,
    moments: &'a mut [(f64, f64)],
}

impl<T: Element> Kernel<T> for PlaneMoments<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<T>>(self, _: S) {
        for (plane, found) in self.x.chunks_exact(self.plane).zip(self.moments) {
            let Moments { center, offset, squares } = moments(plane);
            *found = (center.wide() + offset, squares);
        }
    }
}

/// The statistics of every channel: moments of each plane while it is in cache, joined in f64
/// (Chan et al. 1979), so a mean far from 0 costs no precision.
pub fn statistics<T: Element>(x: &[T], channels: usize, plane: usize) -> Statistics {
    let mut moments = vec![(0.0, 0.0); x.len() / plane];
    let share = (super::parallel::SMALL / plane).max(1);
    for_planes(&mut moments, share, x.len(), |first, moments| {
        T::dispatch(PlaneMoments { x: &x[first * plane..], plane, moments });
    });
    let planes = (moments.len() / channels) as f64;
    let of_channel = |channel: usize| moments[channel..].iter().step_by(channels);
    let mean: Vec<f64> = (0..channels).map(|c| of_channel(c).map(|m| m.0).sum::<f64>() / planes).collect();
    let variance = (0..channels)
        .map(|c| {
            let between: f64 = of_channel(c).map(|m| (m.0 - mean[c]).powi(2)).sum::<f64>() / planes;
            of_channel(c).map(|m| m.1).sum::<f64>() / (planes * plane as f64) + between
        })
        .collect();
    Statistics { mean, variance }
}

/// `y = (x − mean) · scale + shift` per channel.
#[derive(Clone, Copy)]
pub struct Channel<T> {
    pub mean: T,
    pub scale: T,
    /// The bias, less what the rounding of the mean left.
    pub shift: T,
    /// The mean before it was rounded, less `mean`.
    offset: f64,
}

/// The constants of every channel.
pub fn channels<T: Element>(
    statistics: &Statistics,
    epsilon: f64,
    weight: Option<&[T]>,
    bias: Option<&[T]>,
) -> Vec<Channel<T>> {
    (0..statistics.mean.len())
        .map(|c| {
            let mean = T::of(statistics.mean[c]);
            let offset = statistics.mean[c] - mean.wide();
            let scale = weight.map_or(1.0, |w| w[c].wide()) / (statistics.variance[c] + epsilon).sqrt();
            let shift = T::of(bias.map_or(0.0, |b| b[c].wide()) - offset * scale);
            Channel { mean, scale: T::of(scale), shift, offset }
        })
        .collect()
}

/// What a value must exceed to pass: nothing is below NaN.
#[inline(always)]
fn floor<T: Element>(relu: bool) -> T {
    if relu { T::ZERO } else { T::NAN }
}

struct Normalise<'a, T> {
    x: &'a [T],
    channel: Channel<T>,
    relu: bool,
    y: &'a mut [T],
}

impl<T: Element> Kernel<T> for Normalise<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<T>>(self, _: S) {
        let Channel { mean, scale, shift, .. } = self.channel;
        let floor = floor(self.relu);
        for (y, &x) in self.y.iter_mut().zip(self.x) {
            let value = (x - mean) * scale + shift;
            *y = if value < floor { floor } else { value };
        }
    }
}

/// Normalises every plane with its channel's constants, then ReLU if asked.
pub fn normalise<T: Element>(x: &[T], plane: usize, channels: &[Channel<T>], relu: bool) -> Vec<T> {
    written(x.len(), |y| normalise_into(x, plane, channels, relu, y))
}

/// [`normalise`], into `y`.
pub fn normalise_into<T: Element>(x: &[T], plane: usize, channels: &[Channel<T>], relu: bool, y: &mut [T]) {
    for_parts(y, plane, |index, y| {
        let channel = channels[index % channels.len()];
        T::dispatch(Normalise { x: &x[index * plane..][..plane], channel, relu, y });
    });
}

/// What the backward pass needs of the forward pass.
pub struct Backward<'a, T> {
    pub x: &'a [T],
    pub dy: &'a [T],
    pub plane: usize,
    pub channels: &'a [Channel<T>],
    /// 1 / √(variance + ε) per channel.
    pub inverse_std: &'a [f64],
    pub relu: bool,
}

struct GradientSums<'a, T> {
    x: &'a [T],
    dy: &'a [T],
    plane: usize,
    channels: &'a [Channel<T>],
    relu: bool,
    first: usize,
    sums: &'a mut [[f64; 2]],
}

impl<T: Element> Kernel<T> for GradientSums<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<T>>(self, _: S) {
        let planes = self.x.chunks_exact(self.plane).zip(self.dy.chunks_exact(self.plane));
        for (i, ((x, dy), sums)) in planes.zip(self.sums).enumerate() {
            let Channel { mean, scale, shift, .. } = self.channels[(self.first + i) % self.channels.len()];
            let floor = floor(self.relu);
            *sums = sum_pairs(x, dy, |x, dy| {
                let centred = x - mean;
                let passed = if centred * scale + shift <= floor { T::ZERO } else { dy };
                [passed, passed * centred]
            });
        }
    }
}

struct InputGradient<'a, T> {
    x: &'a [T],
    dy: &'a [T],
    channel: Channel<T>,
    relu: bool,
    /// dx = scale · dy − offset − slope · (x − mean).
    offset: T,
    slope: T,
    dx: &'a mut [T],
}

impl<T: Element> Kernel<T> for InputGradient<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<T>>(self, _: S) {
        let Channel { mean, scale, shift, .. } = self.channel;
        let floor = floor(self.relu);
        for ((dx, &x), &dy) in self.dx.iter_mut().zip(self.x).zip(self.dy) {
            let centred = x - mean;
            let passed = if centred * scale + shift <= floor { T::ZERO } else { dy };
            *dx = scale * passed - self.offset - self.slope * centred;
        }
    }
}

/// Per channel the sums of dy and of dy · (x − mean) over all numbers, in f64.
pub fn totals<T: Element>(b: &Backward<'_, T>) -> Vec<[f64; 2]> {
    let (plane, count) = (b.plane, b.channels.len());
    let mut sums = vec![[0.0; 2]; b.x.len() / plane];
    let share = (super::parallel::SMALL / plane).max(1);
    for_planes(&mut sums, share, b.x.len(), |first, sums| {
        let (x, dy) = (&b.x[first * plane..], &b.dy[first * plane..]);
        T::dispatch(GradientSums { x, dy, plane, channels: b.channels, relu: b.relu, first, sums });
    });
    (0..count)
        .map(|c| {
            let total = |k: usize| sums[c..].iter().step_by(count).map(|sum| sum[k]).sum::<f64>();
            // The second is taken about the rounded mean.
            [total(0), total(1) - b.channels[c].offset * total(0)]
        })
        .collect()
}

/// What acts through the mean and variance of a channel: the totals of all numbers that these are of, and how
/// many they are.
pub struct Through<'a> {
    pub totals: &'a [[f64; 2]],
    pub numbers: f64,
}

/// The gradient of the input; with `through` (training) it also acts through the statistics.
pub fn input_gradient<T: Element>(b: &Backward<'_, T>, through: Option<&Through<'_>>) -> Vec<T> {
    let (plane, count) = (b.plane, b.channels.len());
    written(b.x.len(), |dx| {
        for_parts(dx, plane, |index, dx| {
            let c = index % count;
            let (channel, inverse) = (b.channels[c], b.inverse_std[c]);
            let mean_of = |k: usize| through.map_or(0.0, |all| channel.scale.wide() * all.totals[c][k] / all.numbers);
            let slope = mean_of(1) * inverse * inverse;
            let (offset, slope) = (T::of(mean_of(0) - slope * channel.offset), T::of(slope));
            let (x, dy) = (&b.x[index * plane..][..plane], &b.dy[index * plane..][..plane]);
            T::dispatch(InputGradient { x, dy, channel, relu: b.relu, offset, slope, dx });
        });
    })
}

/// The gradients of weight and bias.
pub fn affine_gradients<T: Element>(b: &Backward<'_, T>, totals: &[[f64; 2]]) -> (Vec<T>, Vec<T>) {
    let weight = totals.iter().zip(b.inverse_std).map(|(total, inverse)| T::of(total[1] * inverse)).collect();
    (weight, totals.iter().map(|total| T::of(total[0])).collect())
}
