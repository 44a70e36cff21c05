//! The inner loops of convolution: small matrix products held in registers.

use super::simd::{Element, Simd};

/// What a tile's sums are joined with.
#[derive(Clone, Copy)]
pub struct Epilogue<T> {
    /// A number to add to every row, or null.
    pub bias: *const T,
    /// Whether negative results become 0.
    pub relu: bool,
    /// Whether the results are added to what is there.
    pub accumulate: bool,
}

/// Where a tile goes: `rows` × `columns` numbers at `start`, rows `stride` apart.
#[derive(Clone, Copy)]
pub struct Target<T> {
    pub start: *mut T,
    pub stride: usize,
    pub rows: usize,
    pub columns: usize,
}

/// The right operand of a tile.
pub trait Columns<T>: Copy {
    /// Where vector `vector` of step `step` begins.
    ///
    /// # Safety
    /// Both must be inside the operand.
    unsafe fn at(self, step: usize, vector: usize) -> *const T;
}

/// `[depth][TILE_VECTORS · LANES]`, one step behind the other.
#[derive(Clone, Copy)]
struct Packed<T> {
    start: *const T,
    stride: usize,
    lanes: usize,
}

impl<T: Copy> Columns<T> for Packed<T> {
    #[inline(always)]
    unsafe fn at(self, step: usize, vector: usize) -> *const T {
        // SAFETY: inside the panel, says the caller.
        unsafe { self.start.add(step * self.stride + vector * self.lanes) }
    }
}

/// Vectors that lie as they are in the input of a convolution: step `k` of vector `j` at
/// `start + offsets[k] + sources[j]`.
#[derive(Clone, Copy)]
pub struct InPlace<'a, T> {
    pub start: *const T,
    pub offsets: &'a [usize],
    pub sources: [usize; 3],
}

impl<T: Copy> Columns<T> for InPlace<'_, T> {
    #[inline(always)]
    unsafe fn at(self, step: usize, vector: usize) -> *const T {
        debug_assert!(step < self.offsets.len());
        // SAFETY: inside the input, says the caller.
        unsafe { self.start.add(*self.offsets.get_unchecked(step) + self.sources[vector]) }
    }
}

/// `target = a · b`, with `a` packed: `[depth][a_stride]`, of which ROWS are used. Of `b` VECTORS
/// are used.
///
/// # Safety
/// `a` and `b` must be readable for those sizes, the target writable, its rows and columns no
/// more than the tile's, and the bias readable for `rows` numbers unless null.
#[inline(always)]
unsafe fn product<T: Element, S: Simd<T>, C: Columns<T>, const ROWS: usize, const VECTORS: usize>(
    simd: S,
    depth: usize,
    a: *const T,
    a_stride: usize,
    b: C,
    target: Target<T>,
    epilogue: Epilogue<T>,
) {
    let mut sums = [[simd.splat(T::ZERO); VECTORS]; ROWS];
    let mut a = a;
    for step in 0..depth {
        // SAFETY: step `step` of both operands, inside what the caller guarantees.
        unsafe {
            let mut columns = [simd.splat(T::ZERO); VECTORS];
            for (j, column) in columns.iter_mut().enumerate() {
                *column = simd.load(b.at(step, j));
            }
            for (i, row) in sums.iter_mut().enumerate() {
                let x = simd.splat(*a.add(i));
                for (sum, &column) in row.iter_mut().zip(&columns) {
                    *sum = simd.fma(x, column, *sum);
                }
            }
            a = a.add(a_stride);
        }
    }
    // SAFETY: the caller guarantees the target and the bias.
    unsafe { finish(simd, &sums, target, epilogue) }
}

/// Writes a tile of sums.
///
/// # Safety
/// As for [`product`].
#[inline(always)]
unsafe fn finish<T: Element, S: Simd<T>, const ROWS: usize, const VECTORS: usize>(
    simd: S,
    sums: &[[S::V; VECTORS]; ROWS],
    target: Target<T>,
    epilogue: Epilogue<T>,
) {
    let zero = simd.splat(T::ZERO);
    for (i, row) in sums.iter().enumerate().take(target.rows) {
        for (j, &sum) in row.iter().enumerate() {
            let count = target.columns.saturating_sub(j * S::LANES).min(S::LANES);
            if count == 0 {
                break;
            }
            // SAFETY: row i < rows, columns j·LANES.. + count ≤ columns.
            unsafe {
                let place = target.start.add(i * target.stride + j * S::LANES);
                let mut value = sum;
                if !epilogue.bias.is_null() {
                    value = simd.add(value, simd.splat(*epilogue.bias.add(i)));
                }
                if epilogue.accumulate {
                    let mut before = zero;
                    if count == S::LANES {
                        before = simd.load(place);
                    } else {
                        for lane in 0..count {
                            *(&raw mut before).cast::<T>().add(lane) = *place.add(lane);
                        }
                    }
                    value = simd.add(value, before);
                }
                if epilogue.relu {
                    // In this order a NaN stays NaN.
                    value = simd.max(zero, value);
                }
                if count == S::LANES { simd.store(place, value) } else { simd.store_first(place, value, count) }
            }
        }
    }
}

/// The most that [`panel_columns`] may be.
pub const MOST_COLUMNS: usize = 48;

/// The columns of a packed panel of `b`.
pub const fn panel_columns<T, S: Simd<T>>() -> usize {
    S::LANES * S::TILE_VECTORS
}

/// `target = a · b` with `b` packed in a panel of [`panel_columns`].
///
/// # Safety
/// As for [`tile`].
#[inline(always)]
pub unsafe fn packed_tile<T: Element, S: Simd<T>>(
    simd: S,
    depth: usize,
    a: *const T,
    b: *const T,
    target: Target<T>,
    epilogue: Epilogue<T>,
) {
    let b = Packed { start: b, stride: panel_columns::<T, S>(), lanes: S::LANES };
    // SAFETY: passed on from the caller.
    unsafe { tile(simd, depth, a, b, target, epilogue) }
}

/// `target = a · b` for the instruction set's tile; few rows or columns take a smaller one.
///
/// # Safety
/// `a` must be packed in rows of [`Simd::TILE_ROWS`], `depth` of them; `b` must have as many steps,
/// each readable for the vectors that the target's columns need, the target be writable, its rows
/// and columns no more than the tile's, and the bias readable for `rows` numbers unless null.
#[inline(always)]
pub unsafe fn tile<T: Element, S: Simd<T>, C: Columns<T>>(
    simd: S,
    depth: usize,
    a: *const T,
    b: C,
    target: Target<T>,
    epilogue: Epilogue<T>,
) {
    let vectors = target.columns.div_ceil(S::LANES);
    macro_rules! tile {
        ($rows:literal, $vectors:literal) => {
            product::<T, S, C, $rows, $vectors>(simd, depth, a, S::TILE_ROWS, b, target, epilogue)
        };
    }
    // SAFETY: passed on from the caller; a smaller tile reads less of every row.
    unsafe {
        match (S::TILE_ROWS, S::TILE_VECTORS, target.rows, vectors) {
            (8, 3, 5.., 3) => tile!(8, 3),
            (8, 3, 5.., 2) => tile!(8, 2),
            (8, 3, 5.., _) => tile!(8, 1),
            (8, 3, _, 3) => tile!(4, 3),
            (8, 3, _, 2) => tile!(4, 2),
            (8, 3, _, _) => tile!(4, 1),
            (6, 2, 5.., 2) => tile!(6, 2),
            (6, 2, 5.., _) => tile!(6, 1),
            (6, 2, 3.., 2) => tile!(4, 2),
            (6, 2, 3.., _) => tile!(4, 1),
            (6, 2, _, 2) => tile!(2, 2),
            (6, 2, _, _) => tile!(2, 1),
            (4, 1, _, _) => tile!(4, 1),
            _ => unreachable!("a tile size without a kernel"),
        }
    }
}

/// What a product brings from memory into the first cache for the next one: at every step the number that lies `step`
/// behind the one before; the first lies `start` behind the right operand.
#[derive(Clone, Copy)]
pub struct Ahead {
    start: usize,
    step: usize,
}

impl Ahead {
    /// For the product `index` of `count` with the same right operand, `steps` rows of `columns` numbers: together they
    /// bring as many numbers that begin `distance` behind it.
    pub fn share(index: usize, count: usize, distance: usize, steps: usize, columns: usize) -> Self {
        let step = columns.div_ceil(count);
        Self { start: distance + index * steps * step, step }
    }
}

/// How the left operand of [`strided_tile`] is walked: `depth_rows` × `depth_columns` steps.
#[derive(Clone, Copy)]
pub struct Walk {
    pub rows: usize,
    pub columns: usize,
    pub row_step: usize,
    pub column_step: usize,
}

impl Walk {
    /// `steps` in a line.
    pub fn line(steps: usize, step: usize) -> Self {
        Self { rows: 1, columns: steps, row_step: 0, column_step: step }
    }

    /// The distance of the last step from the first.
    pub fn last(&self) -> usize {
        (self.rows - 1) * self.row_step + (self.columns - 1) * self.column_step
    }
}

/// `target = a · b` where row `i` of `a` begins at `a + offsets[i]` and is walked with strides,
/// and `b` is `[walk.rows · walk.columns][b_stride]`. Only the first ROWS offsets count.
///
/// # Safety
/// Every step of the walk must be readable from every offset, and `b` for VECTORS vectors in
/// every row.
#[inline(always)]
unsafe fn strided<T: Element, S: Simd<T>, const ROWS: usize, const VECTORS: usize>(
    simd: S,
    walk: Walk,
    a: *const T,
    offsets: &Offsets,
    b: *const T,
    b_stride: usize,
    ahead: Option<Ahead>,
    target: Target<T>,
    epilogue: Epilogue<T>,
) {
    let mut sums = [[simd.splat(T::ZERO); VECTORS]; ROWS];
    let mut b = b;
    let mut next = b.wrapping_add(ahead.map_or(0, |ahead| ahead.start));
    for y in 0..walk.rows {
        // SAFETY: inside the walk, as the caller guarantees is readable.
        unsafe {
            let mut x = a.add(y * walk.row_step);
            for _ in 0..walk.columns {
                if let Some(Ahead { step, .. }) = ahead {
                    simd.prefetch(next);
                    next = next.wrapping_add(step);
                }
                let mut columns = [simd.splat(T::ZERO); VECTORS];
                for (j, column) in columns.iter_mut().enumerate() {
                    *column = simd.load(b.add(j * S::LANES));
                }
                for (row, &offset) in sums.iter_mut().zip(offsets) {
                    let value = simd.splat(*x.add(offset));
                    for (sum, &column) in row.iter_mut().zip(&columns) {
                        *sum = simd.fma(value, column, *sum);
                    }
                }
                x = x.wrapping_add(walk.column_step);
                b = b.wrapping_add(b_stride);
            }
        }
    }
    // SAFETY: the caller guarantees the target.
    unsafe { finish(simd, &sums, target, epilogue) }
}

/// Where the rows of a tile of [`strided_tile`] begin: [`Simd::WALK_ROWS`] count.
pub type Offsets = [usize; 8];

/// [`strided`] for the instruction set's tile, added to the target if `accumulate`, with as many vectors as the
/// target has columns for, and fewer rows where it has few.
///
/// # Safety
/// As for [`strided`].
#[inline(always)]
pub unsafe fn strided_tile<T: Element, S: Simd<T>>(
    simd: S,
    walk: Walk,
    a: *const T,
    offsets: &Offsets,
    b: *const T,
    b_stride: usize,
    target: Target<T>,
    accumulate: bool,
) {
    // SAFETY: passed on from the caller.
    unsafe { strided_tile_ahead(simd, walk, a, offsets, b, b_stride, None, target, accumulate) }
}

/// [`strided_tile`] that brings what comes behind `b` meanwhile. Whether it does should be known to the compiler, or
/// the loop asks at every step.
///
/// # Safety
/// As for [`strided`].
#[inline(always)]
pub unsafe fn strided_tile_ahead<T: Element, S: Simd<T>>(
    simd: S,
    walk: Walk,
    a: *const T,
    offsets: &Offsets,
    b: *const T,
    b_stride: usize,
    ahead: Option<Ahead>,
    target: Target<T>,
    accumulate: bool,
) {
    let epilogue = Epilogue { bias: std::ptr::null(), relu: false, accumulate };
    macro_rules! tile {
        ($rows:literal, $vectors:literal) => {
            strided::<T, S, $rows, $vectors>(simd, walk, a, offsets, b, b_stride, ahead, target, epilogue)
        };
    }
    // SAFETY: passed on from the caller.
    unsafe {
        match (S::WALK_ROWS, S::WALK_VECTORS, target.rows, target.columns.div_ceil(S::LANES)) {
            (_, 4, 1, 4) => tile!(1, 4),
            (_, 4, 1, 3) => tile!(1, 3),
            (_, 2 | 4, 1, 2) => tile!(1, 2),
            (_, _, 1, _) => tile!(1, 1),
            (8, 2, 5.., 2) => tile!(8, 2),
            (8, 2, 5.., _) => tile!(8, 1),
            (8, 2, _, 2) => tile!(4, 2),
            (8, 2, _, _) => tile!(4, 1),
            (6, 4, 4.., 4) => tile!(6, 4),
            (6, 4, 4.., 3) => tile!(6, 3),
            (6, 4, 4.., 2) => tile!(6, 2),
            (6, 4, 4.., _) => tile!(6, 1),
            (6, 4, _, 4) => tile!(3, 4),
            (6, 4, _, 3) => tile!(3, 3),
            (6, 4, _, 2) => tile!(3, 2),
            (6, 4, _, _) => tile!(3, 1),
            (6, 2, 4.., 2) => tile!(6, 2),
            (6, 2, 4.., _) => tile!(6, 1),
            (6, 2, _, 2) => tile!(3, 2),
            (6, 2, _, _) => tile!(3, 1),
            (4, 1, _, _) => tile!(4, 1),
            _ => unreachable!("a tile size without a kernel"),
        }
    }
}

/// `target = a · b` for a single row, `a` contiguous, and BLOCKS panels of `b`, each `[depth][WALK_VECTORS · LANES]`,
/// one behind the other.
///
/// # Safety
/// `a` must be readable for `depth` numbers, `b` for BLOCKS panels, and the target, a row, writable.
#[inline(always)]
unsafe fn panels_of_row<T: Element, S: Simd<T>, const BLOCKS: usize, const VECTORS: usize>(
    simd: S,
    depth: usize,
    a: *const T,
    b: *const T,
    target: Target<T>,
) {
    let block = VECTORS * S::LANES;
    let mut sums = [[simd.splat(T::ZERO); VECTORS]; BLOCKS];
    for step in 0..depth {
        // SAFETY: step `step` of the row and of every panel.
        unsafe {
            let x = simd.splat(*a.add(step));
            for (panel, sums) in sums.iter_mut().enumerate() {
                for (j, sum) in sums.iter_mut().enumerate() {
                    *sum = simd.fma(x, simd.load(b.add((panel * depth + step) * block + j * S::LANES)), *sum);
                }
            }
        }
    }
    let epilogue = Epilogue { bias: std::ptr::null(), relu: false, accumulate: false };
    for (panel, sums) in sums.iter().enumerate() {
        // SAFETY: only columns of the target are written.
        unsafe {
            let columns = target.columns - (panel * block).min(target.columns);
            let part = Target { start: target.start.wrapping_add(panel * block), columns, ..target };
            finish(simd, &[*sums], part, epilogue);
        }
    }
}

/// [`panels_of_row`] for 2, 4 or 6 `blocks`.
///
/// # Safety
/// As for [`panels_of_row`].
#[inline(always)]
pub unsafe fn wide_row<T: Element, S: Simd<T>>(
    simd: S,
    depth: usize,
    a: *const T,
    b: *const T,
    blocks: usize,
    target: Target<T>,
) {
    macro_rules! row {
        ($blocks:literal, $vectors:literal) => {
            panels_of_row::<T, S, $blocks, $vectors>(simd, depth, a, b, target)
        };
    }
    // SAFETY: passed on from the caller.
    unsafe {
        match (blocks, S::WALK_VECTORS) {
            (6, 4) => row!(6, 4),
            (4, 4) => row!(4, 4),
            (2, 4) => row!(2, 4),
            (6, 2) => row!(6, 2),
            (4, 2) => row!(4, 2),
            (2, 2) => row!(2, 2),
            (6, 1) => row!(6, 1),
            (4, 1) => row!(4, 1),
            (2, 1) => row!(2, 1),
            _ => unreachable!("a number of blocks without a kernel"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::simd::{Kernel, Plain};
    use super::*;

    fn waves(len: usize, pace: f32) -> Vec<f32> {
        (0..len).map(|i| (i as f32 * pace).sin()).collect()
    }

    /// `a · b` for rows `i` of `a` with `depth` numbers at `a(i, k)`, rows `stride` apart of `b`.
    fn by_definition(
        depth: usize,
        a: impl Fn(usize, usize) -> f32,
        b: &[f32],
        stride: usize,
    ) -> impl Fn(usize, usize) -> f64 {
        move |i, j| (0..depth).map(|k| f64::from(a(i, k)) * f64::from(b[k * stride + j])).sum()
    }

    /// A target among numbers that must stay what they are.
    struct Field {
        values: Vec<f32>,
        stride: usize,
        rows: usize,
        columns: usize,
    }

    impl Field {
        const BEFORE: f32 = 0.5;

        fn new(rows: usize, columns: usize) -> Self {
            let stride = columns + 3;
            Self { values: vec![Self::BEFORE; (rows + 1) * stride], stride, rows, columns }
        }

        fn target(&mut self) -> Target<f32> {
            Target { start: self.values.as_mut_ptr(), stride: self.stride, rows: self.rows, columns: self.columns }
        }

        fn check(&self, expected: impl Fn(usize, usize) -> f64, what: &str) {
            for (place, &value) in self.values.iter().enumerate() {
                let (i, j) = (place / self.stride, place % self.stride);
                let inside = i < self.rows && j < self.columns;
                let expected = if inside { expected(i, j) } else { f64::from(Self::BEFORE) };
                assert!((f64::from(value) - expected).abs() < 1e-5, "{what}, ({i}, {j}): {value}, not {expected}");
            }
        }
    }

    /// Tiles of all heights and widths, with all that they are joined with.
    struct Tiles;
    impl Kernel<f32> for Tiles {
        type Output = ();
        #[inline(always)]
        fn run<S: Simd<f32>>(self, simd: S) {
            let (most, stride) = (S::TILE_ROWS, panel_columns::<f32, S>());
            assert!(stride <= MOST_COLUMNS && most <= 8 && S::WALK_ROWS <= 8);
            for depth in [1, 7] {
                let (a, b, bias) = (waves(depth * most, 0.7), waves(depth * stride, 0.3), waves(most, 1.1));
                let product = by_definition(depth, |i, k| a[k * most + i], &b, stride);
                for (rows, columns) in (1..=most).flat_map(|rows| (1..=stride).map(move |columns| (rows, columns))) {
                    for (with_bias, relu, accumulate) in
                        [(false, false, false), (true, true, false), (true, false, true)]
                    {
                        let mut field = Field::new(rows, columns);
                        let bias_here = if with_bias { bias.as_ptr() } else { std::ptr::null() };
                        let epilogue = Epilogue { bias: bias_here, relu, accumulate };
                        // SAFETY: the operands have `depth` steps of whole tiles, the bias `most` numbers, the
                        // field the target's.
                        unsafe { packed_tile(simd, depth, a.as_ptr(), b.as_ptr(), field.target(), epilogue) };
                        let expected = |i: usize, j: usize| {
                            let bias = if with_bias { f64::from(bias[i]) } else { 0.0 };
                            let sum = product(i, j) + bias + if accumulate { f64::from(Field::BEFORE) } else { 0.0 };
                            if relu { sum.max(0.0) } else { sum }
                        };
                        field.check(expected, &format!("{rows} × {columns}, depth {depth}"));
                    }
                }
            }
        }
    }

    /// The same, with the left operand walked in place: two rows of three steps, wherever its rows begin.
    struct Walks;
    impl Kernel<f32> for Walks {
        type Output = ();
        #[inline(always)]
        fn run<S: Simd<f32>>(self, simd: S) {
            let (most, stride) = (S::WALK_ROWS, S::WALK_VECTORS * S::LANES);
            let walk = Walk { rows: 2, columns: 3, row_step: 11, column_step: 2 };
            let offsets: Offsets = std::array::from_fn(|i| (5 * i) % 7 + 20 * (i % 2));
            let a = waves(offsets.iter().max().unwrap() + walk.last() + 1, 0.7);
            let b = waves(6 * stride, 0.3);
            let at = |i: usize, k: usize| a[offsets[i] + k / 3 * walk.row_step + k % 3 * walk.column_step];
            let product = by_definition(6, at, &b, stride);
            for (rows, columns) in (1..=most).flat_map(|rows| (1..=stride).map(move |columns| (rows, columns))) {
                for accumulate in [false, true] {
                    let mut field = Field::new(rows, columns);
                    let target = field.target();
                    // SAFETY: `a` reaches to the last step from the last offset, `b` has six rows of a whole
                    // tile, the field the target's.
                    unsafe { strided_tile(simd, walk, a.as_ptr(), &offsets, b.as_ptr(), stride, target, accumulate) };
                    let before = if accumulate { f64::from(Field::BEFORE) } else { 0.0 };
                    field.check(|i, j| product(i, j) + before, &format!("{rows} × {columns}, walked"));
                }
            }
        }
    }

    #[test]
    fn tiles_of_all_sizes_are_the_products() {
        f32::dispatch(Tiles);
        Tiles.run(Plain::<4>);
        Tiles.run(Plain::<8>);
        Tiles.run(Plain::<16>);
    }

    #[test]
    fn walked_tiles_of_all_sizes_are_the_products() {
        f32::dispatch(Walks);
        Walks.run(Plain::<4>);
        Walks.run(Plain::<8>);
        Walks.run(Plain::<16>);
    }
}
