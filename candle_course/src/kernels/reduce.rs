//! Sums whose rounding does not depend on how the work was split.

use super::parallel::for_parts;
use super::simd::{Element, Kernel, Simd};

/// Running sums side by side, so that the compiler may use vectors.
pub const LANES: usize = 32;

/// Σ f(i) for i in `0..len`, in lanes, then in f64.
#[inline(always)]
pub fn sum_by<T: Element>(len: usize, f: impl Fn(usize) -> T) -> f64 {
    let mut lanes = [T::ZERO; LANES];
    let whole = len / LANES * LANES;
    let mut start = 0;
    while start < whole {
        for (i, lane) in lanes.iter_mut().enumerate() {
            *lane += f(start + i);
        }
        start += LANES;
    }
    let mut sum: f64 = lanes.iter().map(|lane| lane.wide()).sum();
    for i in whole..len {
        sum += f(i).wide();
    }
    sum
}

/// Σ of both numbers that `f` gives for every pair, as [`sum_by`] sums.
#[inline(always)]
pub fn sum_pairs<T: Element>(a: &[T], b: &[T], f: impl Fn(T, T) -> (T, T)) -> (f64, f64) {
    let mut lanes = [[T::ZERO; LANES]; 2];
    let (a, b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest = a.remainder().iter().zip(b.remainder());
    for (a, b) in a.zip(b) {
        for i in 0..LANES {
            let terms = f(a[i], b[i]);
            lanes[0][i] += terms.0;
            lanes[1][i] += terms.1;
        }
    }
    let [mut first, mut second] = lanes.map(|lanes| lanes.iter().map(|lane| lane.wide()).sum::<f64>());
    for (&a, &b) in rest {
        let terms = f(a, b);
        first += terms.0.wide();
        second += terms.1.wide();
    }
    (first, second)
}

struct PlaneSums<'a, T> {
    values: &'a [T],
    plane: usize,
    sums: &'a mut [f64],
}

impl<T: Element> Kernel<T> for PlaneSums<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<T>>(self, _: S) {
        for (plane, sum) in self.values.chunks_exact(self.plane).zip(self.sums) {
            *sum = sum_by(plane.len(), |i| plane[i]);
        }
    }
}

/// `[N, C, plane]` to `[C]`: the sum over batch and plane.
pub fn channel_sums<T: Element>(values: &[T], channels: usize, plane: usize) -> Vec<T> {
    let mut sums = vec![0.0; values.len() / plane];
    let share = (super::parallel::SMALL / plane).max(1);
    for_planes(&mut sums, share, values.len(), |first, sums| {
        T::dispatch(PlaneSums { values: &values[first * plane..], plane, sums });
    });
    (0..channels).map(|channel| T::of(sums[channel..].iter().step_by(channels).sum())).collect()
}

/// Calls `work(first_plane, results)` for shares of `results`, on several threads if there are
/// many numbers behind them.
pub fn for_planes<R: Send>(results: &mut [R], share: usize, numbers: usize, work: impl Fn(usize, &mut [R]) + Sync) {
    if numbers < super::parallel::SMALL {
        work(0, results);
        return;
    }
    let len = results.len();
    let parts = super::parallel::Parts::new(results);
    super::parallel::for_ranges(len.div_ceil(share), |range| {
        let (first, last) = (range.start * share, len.min(range.end * share));
        // SAFETY: ranges do not overlap.
        work(first, unsafe { parts.get(first..last) });
    });
}

struct ColumnSums<'a, T> {
    values: &'a [T],
    columns: usize,
    from: usize,
    sums: &'a mut [T],
}

impl<T: Element> Kernel<T> for ColumnSums<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<T>>(self, _: S) {
        self.sums.fill(T::ZERO);
        for row in self.values.chunks_exact(self.columns) {
            for (sum, value) in self.sums.iter_mut().zip(&row[self.from..]) {
                *sum += *value;
            }
        }
    }
}

/// `[rows, columns]` to `[columns]`: the sum over rows, in order.
pub fn column_sums<T: Element>(values: &[T], columns: usize) -> Vec<T> {
    super::buffer::written(columns, |sums| {
        let share = if values.len() < super::parallel::SMALL { columns } else { columns.div_ceil(8).max(LANES) };
        for_parts(sums, share, |part, sums| {
            T::dispatch(ColumnSums { values, columns, from: part * share, sums });
        });
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_over_channels_and_columns() {
        let values: Vec<f64> = (0..2 * 3 * 37).map(f64::from).collect();
        let channels = channel_sums(&values, 3, 37);
        let expected: f64 = (0..37).map(|i| f64::from(37 + i) + f64::from(4 * 37 + i)).sum();
        assert_eq!(channels[1], expected);
        assert_eq!(
            column_sums(&values, 2),
            [(0..111).map(|i| 2.0 * f64::from(i)).sum::<f64>(), (0..111).map(|i| 2.0 * f64::from(i) + 1.0).sum()]
        );
        // Large enough for several threads, and the same bits as in one.
        let many: Vec<f32> = (0..8 * 4 * 5000).map(|i| (i as f32 * 0.37).sin()).collect();
        let sums = channel_sums(&many, 4, 5000);
        let mut planes = [0.0; 8 * 4];
        f32::dispatch(PlaneSums { values: &many, plane: 5000, sums: &mut planes });
        for (channel, sum) in sums.iter().enumerate() {
            let alone: f64 = planes[channel..].iter().step_by(4).sum();
            assert_eq!(sum.to_bits(), (alone as f32).to_bits());
            let exact: f64 =
                (0..8).flat_map(|n| &many[(n * 4 + channel) * 5000..][..5000]).map(|&x| f64::from(x)).sum();
            assert!((f64::from(*sum) - exact).abs() < 1e-3, "{sum} {exact}");
        }
    }
}
