//! 3 × 3 convolutions of stride 1 with a fourth of the multiplications: F(4 × 4, 3 × 3) of Winograd
//! (Lavin & Gray 2016, arXiv:1509.09308).
//!
//! Tiles of 6 × 6 input numbers become 36 points ([`transforms`]), at each of which a product of
//! matrices, tiles × input channels by input × output channels, takes the place of the convolution;
//! 36 points of products become 4 × 4 output numbers. Channels are the lanes, and tiles are taken in
//! chunks whose points stay in the second-level cache.
//!
//! Rounding errors are about twice those of a direct sum of as many products. A number that is not
//! finite makes all of its tile NaN.

#[cfg(test)]
mod tests;

mod filters;
mod forward;
mod tiles;
mod transforms;
mod weight;

use super::conv::Geometry;
use super::simd::{Element, Kernel, Simd};
use transforms::{POINTS, TILE};

pub use filters::{Filters, filter_points, points_len};
pub use forward::forward;
pub use weight::backward_weight;

/// The lanes of this machine, and the output channels of a block.
struct Sizes;
impl<T> Kernel<T> for Sizes {
    type Output = (usize, usize);
    #[inline(always)]
    fn run<S: Simd<T>>(self, _: S) -> (usize, usize) {
        (S::LANES, S::WALK_VECTORS * S::LANES)
    }
}

/// Per filter, its gathering above all.
const FILTER: usize = 400;

/// Whether this takes less time than the products of [`conv`](super::conv).
pub fn pays<T: Element>(g: &Geometry) -> bool {
    costs_less::<T>(g, FILTER)
}

/// The same if the points of the filters are made once.
pub fn pays_prepared<T: Element>(g: &Geometry) -> bool {
    // Points that stay in a cache are read in less time than they are made; more come from memory, and are four times
    // as many as the filters' numbers.
    const READ: usize = 150;
    const MOST_POINTS: usize = 1 << 20;
    let points = POINTS * g.in_channels * g.out_channels;
    costs_less::<T>(g, if points <= MOST_POINTS { READ } else { FILTER })
}

/// Costs are counted in products of two numbers.
fn costs_less<T: Element>(g: &Geometry, filter: usize) -> bool {
    let pair = |n| (n, n);
    let (lanes, _) = T::dispatch(Sizes);
    let (channels_in, channels_out) = (g.in_channels, g.out_channels);
    let (height, width) = g.padded();
    // Fewer than 8 fill no vectors, or narrow ones only in part, which the costs do not count.
    let fewest = lanes.max(8);
    let fits = g.kernel == pair(3)
        && (g.stride, g.dilation, g.groups) == (pair(1), pair(1), 1)
        && (g.output.0 + 2, g.output.1 + 2) == (height, width)
        && channels_in.min(channels_out) >= fewest;
    // Per tile and channel: from planes to pixels or back, and a transformation.
    const TRANSFORM: usize = 350;
    let tiles = g.batch * g.output.0.div_ceil(TILE) * g.output.1.div_ceil(TILE);
    let filters = channels_in * channels_out;
    fits && {
        let direct = (g.batch * g.pixels()).saturating_mul(9 * filters);
        let ours = tiles.saturating_mul(POINTS * filters + TRANSFORM * (channels_in + channels_out)) + filter * filters;
        direct > ours + ours / 8
    }
}
