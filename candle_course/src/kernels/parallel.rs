//! Work split over candle's own thread pool.
//!
//! candle's element-wise operations run on its barrier pool; the kernels run there too, so that
//! there is one pool and no oversubscription. It has `RAYON_NUM_THREADS` threads.
//! Every item writes its own part of the output, so results do not depend on who computes what.

use std::marker::PhantomData;
use std::ops::Range;

use candle_core::utils::barrier_pool;

/// How many threads share the work.
pub fn threads() -> usize {
    barrier_pool().n_workers() + 1
}

/// Calls `work` on ranges that cover `0..items`. Must not be nested.
///
/// By reference and not by type, here and below: a work is called once per thread, and compiled once
/// instead of once for each road that it may take.
pub fn for_ranges(items: usize, work: impl Fn(Range<usize>) + Sync) {
    ranges(items, &work);
}

fn ranges(items: usize, work: &(dyn Fn(Range<usize>) + Sync)) {
    if items <= 1 || threads() == 1 {
        if items > 0 {
            work(0..items);
        }
        return;
    }
    barrier_pool().execute_chunked(items, work);
}

/// Calls `work` on one range per thread, which together cover `0..items`: for work that begins with
/// something all items of a range share. Must not be nested.
pub fn for_shares(items: usize, work: impl Fn(Range<usize>) + Sync) {
    shares(items, &work);
}

fn shares(items: usize, work: &(dyn Fn(Range<usize>) + Sync)) {
    let shares = threads().min(items);
    ranges(shares, &|range| {
        range.for_each(|share| work(items * share / shares..items * (share + 1) / shares));
    });
}

/// A mutable slice whose parts go to different threads.
pub struct Parts<'a, T> {
    start: *mut T,
    len: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: parts of a slice of `T: Send` may be used on other threads; `Parts::get` demands that
// they do not overlap.
unsafe impl<T: Send> Sync for Parts<'_, T> {}

impl<'a, T> Parts<'a, T> {
    /// All of `slice`, to be handed out in parts.
    pub fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), slice: PhantomData }
    }

    /// The beginning of a range, for a part that leaves gaps: matrix rows, say.
    ///
    /// # Panics
    /// If the range is outside the slice.
    pub fn range(&self, range: Range<usize>) -> *mut T {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of {}", self.len);
        // SAFETY: inside the slice.
        unsafe { self.start.add(range.start) }
    }

    /// The part `range`.
    ///
    /// # Panics
    /// If the range is outside the slice.
    ///
    /// # Safety
    /// Parts in use at the same time must not overlap.
    #[allow(clippy::mut_from_ref)] // what the type is for
    pub unsafe fn get(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of {}", self.len);
        // SAFETY: inside the slice, which is borrowed for 'a; the caller keeps parts disjoint.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}

/// Calls `work(index, part)` for every part of `part_len` numbers of `data` (the last may be
/// shorter), on several threads if `data` is large.
pub fn for_parts<T: Send>(data: &mut [T], part_len: usize, work: impl Fn(usize, &mut [T]) + Sync) {
    let len = data.len();
    let count = len.div_ceil(part_len.max(1));
    let parts = Parts::new(data);
    let run = |range: Range<usize>| {
        for index in range {
            // SAFETY: every index comes once, so parts do not overlap.
            let part = unsafe { parts.get(index * part_len..len.min((index + 1) * part_len)) };
            work(index, part);
        }
    };
    few_or_many(len, count, &run);
}

/// Calls `run` on ranges of `count` parts, on several threads if all parts together are large.
fn few_or_many(len: usize, count: usize, run: &(dyn Fn(Range<usize>) + Sync)) {
    if len < SMALL { run(0..count) } else { ranges(count, run) }
}

/// `f` of every item, in order, computed on several threads.
pub fn map<I: Send, R: Send>(items: Vec<I>, f: impl Fn(I) -> R + Sync) -> Vec<R> {
    let mut cells: Vec<(Option<I>, Option<R>)> = items.into_iter().map(|item| (Some(item), None)).collect();
    let len = cells.len();
    let parts = Parts::new(&mut cells);
    ranges(len, &|range| {
        // SAFETY: ranges do not overlap.
        for (item, result) in unsafe { parts.get(range) } {
            *result = item.take().map(&f);
        }
    });
    cells.into_iter().filter_map(|(_, result)| result).collect()
}

/// Fewer numbers than this are not worth waking a thread for. In tests nearly all are, so that the
/// stored values meet the roads of several threads and of one.
pub const SMALL: usize = if cfg!(test) { 64 } else { 16 * 1024 };

/// Tests that one and the same comes out on any number of threads. A process has one pool, whose
/// size it reads once, so every number of threads is a process.
#[cfg(test)]
pub(crate) fn same_on_any_number_of_threads(test: &str, result: impl FnOnce() -> Vec<f32>) {
    const CHILD: &str = "CANDLE_COURSE_TEST_THREADS_CHILD";
    if std::env::var_os(CHILD).is_some() {
        let mixed =
            result().into_iter().fold(0u64, |mixed, x| mixed.wrapping_mul(0x0100_0000_01B3) ^ u64::from(x.to_bits()));
        println!("\nthreads {} bits {mixed:016x}", threads());
        return;
    }
    let run = |threads: usize| {
        let child = crate::test_support::this_binary()
            .args(["--exact", test, "--nocapture"])
            .env(CHILD, "1")
            .env("RAYON_NUM_THREADS", threads.to_string())
            .env_remove("CANDLE_NUM_THREADS")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&child.stdout).into_owned();
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("threads {threads} bits ")));
        line.unwrap_or_else(|| panic!("{threads} threads:\n{text}")).to_owned()
    };
    let one = run(1);
    assert_eq!(one, run(2));
    assert_eq!(one, run(3));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapping_keeps_the_order() {
        for len in [0, 1, 2, 100] {
            let items: Vec<String> = (0..len).map(|i| i.to_string()).collect();
            let lengths = map(items.clone(), |item| item.len());
            assert_eq!(lengths, items.iter().map(String::len).collect::<Vec<_>>());
        }
    }

    #[test]
    fn every_part_comes_once() {
        for len in [0, 1, 5, SMALL - 1, SMALL, 3 * SMALL + 7, 20_000] {
            let mut data = vec![0u32; len];
            for_parts(&mut data, 10, |index, part| {
                part.iter_mut().enumerate().for_each(|(i, x)| *x += (10 * index + i) as u32 + 1);
            });
            assert!(data.iter().enumerate().all(|(i, &x)| x == i as u32 + 1), "{len}");
        }
    }
}
