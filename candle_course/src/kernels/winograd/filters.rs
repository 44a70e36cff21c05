//! The points of filters.

use std::ops::Range;

use super::Sizes;
use super::transforms::{self, POINTS};
use crate::kernels::conv::Geometry;
use crate::kernels::parallel::{Parts, for_ranges};
use crate::kernels::simd::{Element, Kernel, Simd};

/// A convolution's filters, as they lie in the weight of it or of its adjoint.
#[derive(Clone, Copy)]
pub struct Filters<'a, T> {
    values: &'a [T],
    /// From one output channel's filters to the next, and from one input channel's.
    out_stride: usize,
    in_stride: usize,
    /// Whether they are turned by 180°.
    turned: bool,
}

impl<'a, T> Filters<'a, T> {
    /// Those of the convolution with this weight.
    pub fn new(g: &Geometry, weight: &'a [T]) -> Self {
        assert_eq!(weight.len(), g.in_channels * g.out_channels * 9);
        Self { values: weight, out_stride: g.in_channels * 9, in_stride: 9, turned: false }
    }

    /// Those of `adjoint`, the convolution that gives the gradient of the input of the one with this
    /// weight.
    pub fn adjoint(adjoint: &Geometry, weight: &'a [T]) -> Self {
        assert_eq!(weight.len(), adjoint.in_channels * adjoint.out_channels * 9);
        Self { values: weight, out_stride: 9, in_stride: adjoint.out_channels * 9, turned: true }
    }
}

/// The points of all filters: `[block of output channels][point][input channel][output channel]`,
/// zeros behind the last output channel.
struct FilterPoints<'a, T> {
    geometry: &'a Geometry,
    filters: Filters<'a, T>,
    /// Of `block · (in_channels + 1) + channel`, of which the last is what lies between two points: zeros.
    units: Range<usize>,
    points: &'a Parts<'a, T>,
}

impl<T: Element> Kernel<T> for FilterPoints<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<T>>(self, simd: S) {
        let (g, filters) = (self.geometry, &self.filters);
        let block = S::WALK_VECTORS * S::LANES;
        let mut gathered = [T::ZERO; 9 * 16];
        for unit in self.units {
            let (number, channel) = (unit / (g.in_channels + 1), unit % (g.in_channels + 1));
            let first = number * block;
            for lanes in (0..block).step_by(S::LANES) {
                for lane in 0..S::LANES {
                    let out = first + lanes + lane;
                    for tap in 0..9 {
                        let from = if filters.turned { 8 - tap } else { tap };
                        gathered[tap * S::LANES + lane] = match out < g.out_channels && channel < g.in_channels {
                            true => filters.values[out * filters.out_stride + channel * filters.in_stride + from],
                            false => T::ZERO,
                        };
                    }
                }
                let stride = point_stride(g, block);
                let to = number * POINTS * stride + channel * block + lanes;
                // SAFETY: LANES numbers of this unit's row at each of its block's points; every unit
                // comes once.
                unsafe {
                    let to = self.points.range(to..to + (POINTS - 1) * stride + S::LANES);
                    transforms::filter(simd, gathered.as_ptr(), to, stride);
                }
            }
        }
    }
}

/// Numbers from one point of a block to the next. Not a power of two: the 36 points of a filter would share
/// a few places of the cache.
pub(super) fn point_stride(g: &Geometry, block: usize) -> usize {
    (g.in_channels + 1) * block
}

/// Blocks of output channels.
pub(super) fn filter_blocks<T: Element>(g: &Geometry) -> usize {
    g.out_channels.div_ceil(T::dispatch(Sizes).1)
}

/// Numbers of [`filter_points`].
pub fn points_len<T: Element>(g: &Geometry) -> usize {
    filter_blocks::<T>(g) * POINTS * point_stride(g, T::dispatch(Sizes).1)
}

/// The points of all filters: `[block of output channels][point][input channel][output channel]`, points
/// [`point_stride`] apart; into `points`, [`points_len`] numbers.
pub fn filter_points<T: Element>(g: &Geometry, filters: Filters<'_, T>, points: &mut [T]) {
    assert_eq!(points.len(), points_len::<T>(g));
    let parts = Parts::new(points);
    for_ranges(filter_blocks::<T>(g) * (g.in_channels + 1), |units| {
        T::dispatch(FilterPoints { geometry: g, filters, units, points: &parts });
    });
}
