//! Walks `[N, C, M]` class scores in blocks of positions that fit the cache, in parallel.

use super::Real;
use crate::kernels::parallel;
use crate::kernels::simd::{Kernel, Simd};

/// Scores of `classes` at `positions` of each of `examples`: a row-major `[N, C, M]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Dims {
    pub examples: usize,
    pub classes: usize,
    pub positions: usize,
}

impl Dims {
    /// Of a shape `[N, C, …]`.
    pub fn of(dims: &[usize]) -> Self {
        Self { examples: dims[0], classes: dims[1], positions: dims[2..].iter().product() }
    }

    /// Examples times positions: how many distributions over classes there are.
    pub fn pixels(&self) -> usize {
        self.examples * self.positions
    }
}

/// Consecutive positions and their scores, class by class: `values[c · len + i]`.
pub(crate) struct Block<T> {
    /// The number of the first position, counted over all examples.
    pub first: usize,
    /// How many positions.
    pub len: usize,
    pub values: Vec<T>,
}

impl<T: Real> Block<T> {
    /// Turns scores into probabilities.
    pub fn softmax(&mut self) {
        T::dispatch(Softmax { len: self.len, values: &mut self.values });
    }
}

/// Classes whose terms are added in `T`.
pub(crate) const FEW: usize = 64;

/// Sums over many classes, one per position: a few in `T`, then f64. Of few classes nothing is kept.
pub(crate) struct LongSums(Vec<f64>);

impl LongSums {
    #[inline(always)]
    pub fn new(len: usize, values: usize) -> Self {
        Self(vec![0.0; if values > FEW * len { len } else { 0 }])
    }

    /// Moves what was summed so far here.
    #[inline(always)]
    pub fn take<T: Real>(&mut self, sums: &mut [T]) {
        for (total, sum) in self.0.iter_mut().zip(sums) {
            *total += sum.wide();
            *sum = T::ZERO;
        }
    }

    /// Moves it back.
    #[inline(always)]
    pub fn give<T: Real>(&self, sums: &mut [T]) {
        sums.iter_mut().zip(&self.0).for_each(|(sum, &total)| *sum = T::of(total));
    }
}

/// Turns scores, `values[c · len + i]`, into e^(x − max), given every position's max; returns
/// Σ e^(x − max) − 1 per position.
///
/// The 1 of the largest score is left out of the sum: ln(1 + rest) and rest / (1 + rest) then
/// keep full relative accuracy when one class has nearly all the probability. Terms of 1 are
/// counted apart, wherever they stand: small ones beside them would be rounded away.
#[inline(always)]
pub(crate) fn exponentiate<T: Real>(largest: &[T], values: &mut [T]) -> Vec<T> {
    let len = largest.len();
    let mut rest = vec![T::ZERO; len];
    let mut below = 0;
    let mut sums = LongSums::new(len, values.len());
    for rows in values.chunks_mut(FEW * len) {
        for row in rows.chunks_exact_mut(len) {
            for ((x, &largest), rest) in row.iter_mut().zip(largest).zip(&mut rest) {
                let e = (*x - largest).exp_nonpositive();
                *x = e;
                *rest += if e == T::ONE { T::ZERO } else { e };
                below += u32::from(e < T::ONE);
            }
        }
        sums.take(&mut rest);
    }
    sums.give(&mut rest);
    // Every position has its leader, or NaN. Where that is all, no leader has an equal.
    if values.len() - below as usize == len {
        return rest;
    }
    let mut further = vec![-T::ONE; len];
    for row in values.chunks_exact(len) {
        for (&e, further) in row.iter().zip(&mut further) {
            *further += if e == T::ONE { T::ONE } else { T::ZERO };
        }
    }
    for (rest, further) in rest.iter_mut().zip(&further) {
        *rest += *further;
    }
    rest
}

struct Softmax<'a, T> {
    len: usize,
    values: &'a mut [T],
}

impl<T: Real> Kernel<T> for Softmax<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<T>>(self, _: S) {
        let Self { len, values } = self;
        let mut largest = values[..len].to_vec();
        for row in values.chunks_exact(len).skip(1) {
            for (largest, &x) in largest.iter_mut().zip(row) {
                *largest = if x > *largest { x } else { *largest };
            }
        }
        let rest = exponentiate(&largest, values);
        for row in values.chunks_exact_mut(len) {
            for (e, &rest) in row.iter_mut().zip(&rest) {
                *e /= T::ONE + rest;
            }
        }
    }
}

enum Destination<'a, T> {
    Nowhere,
    /// One slice per class.
    Rows(Vec<&'a mut [T]>),
    /// Whole examples of one position each.
    Examples(&'a mut [T]),
}

/// The values of `len` positions from `first`, class by class, as a [`Block`] holds them.
pub(super) fn gather<T: Real>(dims: Dims, scores: &[T], first: usize, len: usize) -> Vec<T> {
    let Dims { classes, positions, .. } = dims;
    if positions == 1 {
        let mut values = vec![T::zero(); classes * len];
        for (i, example) in scores[first * classes..(first + len) * classes].chunks_exact(classes).enumerate() {
            for (c, &x) in example.iter().enumerate() {
                values[c * len + i] = x;
            }
        }
        return values;
    }
    let mut values = Vec::with_capacity(classes * len);
    let (example, position) = (first / positions, first % positions);
    for c in 0..classes {
        let start = (example * classes + c) * positions + position;
        values.extend_from_slice(&scores[start..start + len]);
    }
    values
}

/// Calls `f` on every block of `scores`; what it leaves in the block's values goes to `out`.
/// Returns what `f` returned, in the order of positions.
pub(crate) fn for_blocks<T: Real, R: Send>(
    dims: Dims,
    scores: &[T],
    out: Option<&mut [T]>,
    f: impl Fn(&mut Block<T>) -> R + Sync,
) -> Vec<R> {
    let Dims { classes, positions, .. } = dims;
    if dims.pixels() == 0 || classes == 0 {
        return Vec::new();
    }
    let size = (4096 / classes).clamp(16, 1024);
    let one = |first: usize, len: usize, destination: Destination<'_, T>| -> R {
        let mut block = Block { first, len, values: gather(dims, scores, first, len) };
        let result = f(&mut block);
        match destination {
            Destination::Nowhere => {}
            Destination::Rows(rows) => {
                for (to, from) in rows.into_iter().zip(block.values.chunks_exact(len)) {
                    to.copy_from_slice(from);
                }
            }
            Destination::Examples(examples) => {
                for (i, example) in examples.chunks_exact_mut(classes).enumerate() {
                    for (c, to) in example.iter_mut().enumerate() {
                        *to = block.values[c * len + i];
                    }
                }
            }
        }
        result
    };
    let tasks: Vec<(usize, usize, Destination<'_, T>)> = match out {
        Some(out) if positions == 1 => out
            .chunks_mut(size * classes)
            .enumerate()
            .map(|(i, examples)| (i * size, examples.len() / classes, Destination::Examples(examples)))
            .collect(),
        Some(out) => {
            let mut tasks = Vec::new();
            for (n, example) in out.chunks_mut(classes * positions).enumerate() {
                let mut rows: Vec<_> = example.chunks_mut(positions).map(|row| row.chunks_mut(size)).collect();
                for start in (0..positions).step_by(size) {
                    let pieces = rows.iter_mut().filter_map(Iterator::next).collect();
                    tasks.push((n * positions + start, size.min(positions - start), Destination::Rows(pieces)));
                }
            }
            tasks
        }
        None => {
            let span = if positions == 1 { dims.examples } else { positions };
            (0..dims.pixels())
                .step_by(span)
                .flat_map(|base| {
                    (0..span)
                        .step_by(size)
                        .map(move |start| (base + start, size.min(span - start), Destination::Nowhere))
                })
                .collect()
        }
    };
    parallel::map(tasks, |(first, len, destination)| one(first, len, destination))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_score_is_visited_once_and_goes_back_to_its_place() {
        for (examples, classes, positions) in
            [(1, 1, 1), (5, 3, 1), (3000, 7, 1), (2, 5, 7), (2, 3, 5000), (1, 900, 40)]
        {
            let dims = Dims { examples, classes, positions };
            let scores: Vec<f32> = (0..examples * classes * positions).map(|i| i as f32).collect();
            let mut out = vec![0f32; scores.len()];
            let pieces = for_blocks(dims, &scores, Some(&mut out), |block| {
                for (j, x) in block.values.iter_mut().enumerate() {
                    let (c, pixel) = (j / block.len, block.first + j % block.len);
                    let index = (pixel / positions * classes + c) * positions + pixel % positions;
                    assert_eq!(*x, index as f32);
                    *x += 1.0;
                }
                (block.first, block.len)
            });
            assert!(out.iter().zip(&scores).all(|(y, x)| *y == x + 1.0));
            assert_eq!(for_blocks(dims, &scores, None, |block| (block.first, block.len)), pieces);
            let mut next = 0;
            for (first, len) in pieces {
                assert_eq!(first, next);
                next += len;
            }
            assert_eq!(next, dims.pixels());
        }
    }

    #[test]
    fn leaders_have_their_equals_counted_beside_nan_too() {
        let small = (-20f64).exp();
        // By position: one leader, two, three, none for NaN; then without the last two.
        let largest = [0.0, 1.0, 2.0, f64::NAN];
        let rows = [[0.0, 1.0, 2.0, 0.0], [-20.0, 1.0, 2.0, f64::NAN], [-20.0, -19.0, 2.0, 1.0]];
        for len in [4, 2, 1] {
            let mut values: Vec<f64> = rows.iter().flat_map(|row| row[..len].to_vec()).collect();
            let rest = exponentiate(&largest[..len], &mut values);
            let expected = [2.0 * small, 1.0 + small, 2.0, f64::NAN];
            for (i, (got, expected)) in rest.iter().zip(expected).enumerate() {
                assert!(got == &expected || (got.is_nan() && expected.is_nan()), "{len}, {i}: {got}, {expected}");
            }
        }
    }
}
