//! Sums whose rounding does not depend on how the work was split.

use super::simd::{Element, Kernel, Simd};

/// Running sums side by side, so that the compiler may use vectors.
const LANES: usize = 32;
/// Numbers that are added in `T` before they go into f64: the sum of millions is then as exact as
/// that of eight, and the conversion costs an eighth.
pub const STEPS: usize = 8;

/// Σ of each number that `f` gives for every pair: in lanes, a few steps in `T`, then f64.
#[inline(always)]
pub fn sum_pairs<T: Element, const K: usize>(a: &[T], b: &[T], f: impl Fn(T, T) -> [T; K]) -> [f64; K] {
    let mut rest = [0f64; K];
    if a.len() < LANES {
        // Of `[N, C]` a plane is one number: lanes would cost more than it does.
        for (&a, &b) in a.iter().zip(b) {
            rest.iter_mut().zip(f(a, b)).for_each(|(rest, term)| *rest += term.wide());
        }
        return rest;
    }
    let mut wide = [[0f64; LANES]; K];
    for (a, b) in a.chunks(STEPS * LANES).zip(b[..a.len()].chunks(STEPS * LANES)) {
        let mut few = [[T::ZERO; LANES]; K];
        let (a, b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
        for (&a, &b) in a.remainder().iter().zip(b.remainder()) {
            rest.iter_mut().zip(f(a, b)).for_each(|(rest, term)| *rest += term.wide());
        }
        for (a, b) in a.zip(b) {
            for i in 0..LANES {
                let terms = f(a[i], b[i]);
                (0..K).for_each(|k| few[k][i] += terms[k]);
            }
        }
        for (wide, few) in wide.iter_mut().zip(few) {
            wide.iter_mut().zip(few).for_each(|(wide, few)| *wide += few.wide());
        }
    }
    std::array::from_fn(|k| wide[k].iter().sum::<f64>() + rest[k])
}

/// Σ of the numbers, as [`sum_pairs`] sums.
#[inline(always)]
pub fn sum<T: Element>(values: &[T]) -> f64 {
    sum_pairs(values, values, |x, _| [x])[0]
}

/// Mean and squares about it, of numbers however far from 0.
pub struct Moments<T> {
    /// The mean as rounded to `T`: what is subtracted from the numbers.
    pub center: T,
    /// The mean less `center`. Beside a small deviation the rounding of a large mean shows.
    pub offset: f64,
    /// Σ (x − mean)².
    pub squares: f64,
}

/// Mean and squares: those about a first mean, corrected by what that was off (Chan et al. 1983).
#[inline(always)]
pub fn moments<T: Element>(values: &[T]) -> Moments<T> {
    let count = values.len() as f64;
    let center = T::of(sum(values) / count);
    let [sum, squares] = sum_pairs(values, values, |x, _| [x - center, (x - center) * (x - center)]);
    // In this order NaN stays NaN.
    let squares = squares - sum * sum / count;
    Moments { center, offset: sum / count, squares: if squares < 0.0 { 0.0 } else { squares } }
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
            *sum = self::sum(plane);
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
    sums: &'a mut [f64],
}

impl<T: Element> Kernel<T> for ColumnSums<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<T>>(self, _: S) {
        let Self { values, columns, from, sums } = self;
        let width = sums.len();
        let mut few = vec![T::ZERO; width];
        // Four rows at a time, so that what was summed is read and written a fourth as often; a few
        // times in T, then f64.
        for block in values.chunks(4 * STEPS * columns) {
            let fours = block.chunks_exact(4 * columns);
            let rest = fours.remainder();
            for rows in fours {
                let row = |i: usize| &rows[i * columns + from..][..width];
                for ((((few, &a), &b), &c), &d) in few.iter_mut().zip(row(0)).zip(row(1)).zip(row(2)).zip(row(3)) {
                    *few += (a + b) + (c + d);
                }
            }
            for row in rest.chunks_exact(columns) {
                few.iter_mut().zip(&row[from..]).for_each(|(few, &value)| *few += value);
            }
            for (sum, few) in sums.iter_mut().zip(&mut few) {
                *sum += few.wide();
                *few = T::ZERO;
            }
        }
    }
}

/// `[rows, columns]` to `[columns]`: the sum over rows.
pub fn column_sums<T: Element>(values: &[T], columns: usize) -> Vec<T> {
    let mut sums = vec![0.0; columns];
    for_planes(&mut sums, columns.div_ceil(8).max(LANES), values.len(), |from, sums| {
        T::dispatch(ColumnSums { values, columns, from, sums });
    });
    sums.into_iter().map(T::of).collect()
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
            assert!((f64::from(*sum) - exact).abs() < 1e-5, "{sum} {exact}");
        }
    }

    /// Numbers of which a running f32 sum loses a per cent.
    fn long(len: usize) -> Vec<f32> {
        (0..len).map(|i| 0.1 + 1e-3 * ((i * 7919) % 101) as f32).collect()
    }

    #[test]
    fn long_sums_are_those_of_f64() {
        for len in [0, 1, 31, 32, 33, 255, 256, 257, 1000, 65_537, 1_000_003] {
            let values = long(len);
            let exact: f64 = values.iter().map(|&x| f64::from(x)).sum();
            let squares: f64 = values.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
            let [sum, products] = sum_pairs(&values, &values, |a, b| [a, a * b]);
            for (found, exact) in [(sum, exact), (products, squares), (self::sum(&values), exact)] {
                assert!((found - exact).abs() <= 3e-7 * exact, "{len}: {found} {exact}");
            }
            for columns in [1, 3, 40] {
                let rows = len / columns;
                let sums = column_sums(&values[..rows * columns], columns);
                for (column, sum) in sums.into_iter().enumerate() {
                    let exact: f64 = values[..rows * columns][column.min(rows * columns)..]
                        .iter()
                        .step_by(columns)
                        .map(|&x| f64::from(x))
                        .sum();
                    assert!((f64::from(sum) - exact).abs() <= 3e-7 * exact, "{rows}x{columns}: {sum} {exact}");
                }
            }
        }
    }

    #[test]
    fn moments_far_from_zero() {
        for (level, spread) in [(0.0, 1.0), (293.15, 0.1), (1000.7, 0.1), (-65_000.0, 2.0), (255.3, 0.0)] {
            let values: Vec<f32> =
                (0..1usize << 20).map(|i| level + spread * ((i * 7919) % 2001) as f32 / 1000.0 - spread).collect();
            let count = values.len() as f64;
            let mean = values.iter().map(|&x| f64::from(x)).sum::<f64>() / count;
            let squares: f64 = values.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum();
            let found = moments(&values);
            let off = (f64::from(found.center) + found.offset - mean).abs();
            assert!(off <= 1e-6 * f64::from(spread), "{level}: the mean is {off:e} off");
            assert!((found.squares - squares).abs() <= 2e-6 * squares, "{level}: {} {squares}", found.squares);
        }
        assert!(moments(&[1f32, f32::NAN, 2.0]).squares.is_nan());
    }
}
