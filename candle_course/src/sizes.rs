//! Sizes that come from outside, multiplied and asked memory for: an error where there cannot be so much.

#[cfg(target_os = "linux")]
use std::ffi::{c_int, c_void};
use std::fs;
use std::mem::MaybeUninit;
use std::sync::OnceLock;

use crate::error::{Error, Result};

/// The product of sizes that make up `what`.
pub(crate) fn product(what: &str, sizes: &[usize]) -> Result<usize> {
    let product = sizes.iter().try_fold(1usize, |product, &size| product.checked_mul(size));
    // A zero makes nothing of the largest sizes.
    let product = product.or_else(|| sizes.contains(&0).then_some(0));
    product.ok_or_else(|| too_large(what, format!("{sizes:?}")))
}

fn fits<T>(count: usize) -> bool {
    let bytes = count.checked_mul(size_of::<T>());
    bytes.is_some_and(|bytes| bytes <= isize::MAX as usize && bytes as u64 <= memory())
}

/// Fails if `count` values of `T` cannot be in memory.
pub(crate) fn check<T>(what: &str, count: usize) -> Result<()> {
    if fits::<T>(count) { Ok(()) } else { Err(too_large(what, count)) }
}

/// The product of `shape`; fails if so many values of `T` cannot be in memory.
pub(crate) fn count_of<T>(what: &str, shape: &[usize]) -> Result<usize> {
    let count = product(what, shape)?;
    if fits::<T>(count) { Ok(count) } else { Err(too_large(what, format!("{shape:?}"))) }
}

/// An empty vector with room for `count` values.
pub(crate) fn room<T>(what: &str, count: usize) -> Result<Vec<T>> {
    check::<T>(what, count)?;
    let mut values = Vec::new();
    values.try_reserve_exact(count).map_err(|error| too_large(what, error))?;
    Ok(values)
}

/// Makes room for `more` values.
pub(crate) fn reserve<T>(what: &str, values: &mut Vec<T>, more: usize) -> Result<()> {
    check::<T>(what, values.len().saturating_add(more))?;
    let before = values.capacity();
    values.try_reserve_exact(more).map_err(|error| too_large(what, error))?;
    if values.capacity() > before {
        large_pages(values.spare_capacity_mut());
    }
    Ok(())
}

/// Asks the system for pages of 2 MB where memory has yet to be written: one fault instead of 512. Of a batch of
/// 50 MB the small ones cost as much as decoding its images.
fn large_pages<T>(room: &mut [MaybeUninit<T>]) {
    #[cfg(target_os = "linux")]
    {
        const PAGE: usize = 1 << 21;
        unsafe extern "C" {
            fn madvise(start: *mut c_void, length: usize, advice: c_int) -> c_int;
        }
        const MADV_HUGEPAGE: c_int = 14;
        let start = room.as_mut_ptr().cast::<u8>();
        let skipped = start.align_offset(PAGE);
        let length = size_of_val(room).saturating_sub(skipped) / PAGE * PAGE;
        if length > 0 {
            // SAFETY: whole pages within `room`, which is ours alone; the advice changes no content. A system
            // that does not take it leaves the pages as they are.
            unsafe { madvise(start.wrapping_add(skipped).cast(), length, MADV_HUGEPAGE) };
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = room;
}

/// `count` times `value`.
pub(crate) fn filled<T: Clone>(what: &str, value: T, count: usize) -> Result<Vec<T>> {
    // `vec!` gets zeros from the system without writing them; that it can have them is asked first.
    drop(room::<T>(what, count)?);
    Ok(vec![value; count])
}

fn too_large(what: &str, got: impl std::fmt::Display) -> Error {
    Error::argument(what, format!("what fits into the memory, {:.1} GB", memory() as f64 / 1e9), got)
        .hint("is one of the sizes mistaken?")
}

/// The bytes that this process may have: of the machine or of the container it runs in.
fn memory() -> u64 {
    static MEMORY: OnceLock<u64> = OnceLock::new();
    *MEMORY.get_or_init(|| {
        let number = |text: &str| text.split_whitespace().find_map(|word| word.parse::<u64>().ok());
        let line = |path: &str, start: &str| {
            let text = fs::read_to_string(path).ok()?;
            text.lines().find(|line| line.starts_with(start)).and_then(number)
        };
        let machine = line("/proc/meminfo", "MemTotal:").map(|kilobytes| kilobytes << 10);
        let container = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
        let container = container.into_iter().find_map(|path| line(path, ""));
        // Where the system does not say: more than any machine has.
        machine.into_iter().chain(container).min().unwrap_or(1 << 46)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_and_memory_are_asked_for_before_they_are_taken() {
        assert_eq!(product("x", &[3, 4, 5]).unwrap(), 60);
        assert_eq!(product("x", &[]).unwrap(), 1);
        assert_eq!(product("x", &[usize::MAX, 2, 0]).unwrap(), 0);
        let text = product("`weights`", &[10_000_000, usize::MAX]).unwrap_err().to_string();
        assert!(text.contains("10000000") && text.contains("GB"), "{text}");
        assert_eq!(filled("x", 7u8, 3).unwrap(), [7, 7, 7]);
        assert_eq!(room::<f64>("x", 9).unwrap().capacity(), 9);
        assert_eq!(room::<()>("x", usize::MAX).unwrap().len(), 0);
        for count in [1 << 50, usize::MAX, usize::MAX / 8, isize::MAX as usize] {
            assert!(check::<f64>("x", count).is_err() && room::<f64>("x", count).is_err());
            assert!(filled("x", 0f64, count).is_err() && count_of::<f64>("x", &[count, 1]).is_err());
        }
        assert!(memory() > 1 << 26, "{}", memory());
    }
}
