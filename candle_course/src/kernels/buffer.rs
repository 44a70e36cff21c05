//! Memory for kernels to write to.

use super::simd::Element;

/// A vector of `len` numbers that `fill` must write, every one.
///
/// In debug builds it starts as NaN, so that a number that was not written shows.
pub fn written<T: Element>(len: usize, fill: impl FnOnce(&mut [T])) -> Vec<T> {
    let mut values: Vec<T>;
    if cfg!(debug_assertions) {
        values = vec![T::NAN; len];
    } else {
        values = Vec::with_capacity(len);
        // SAFETY: the capacity is `len`; floats have no invalid bits and no drop; `fill` writes
        // each before anyone reads it. Zeroing costs a pass over memory per operation.
        #[allow(clippy::uninit_vec)]
        unsafe {
            values.set_len(len);
        }
    }
    fill(&mut values);
    values
}

/// `len` numbers of unspecified value, reused within the thread: fresh large buffers would cost
/// page faults in every operation.
///
/// A guard, not a callback: a callback's code would be compiled without the instructions of the
/// kernel that it belongs to.
pub struct Scratch<T: Element> {
    buffer: Vec<T>,
    len: usize,
}

impl<T: Element> Scratch<T> {
    pub fn new(len: usize) -> Self {
        let mut buffer = T::scratch().with_borrow_mut(|free| free.pop()).unwrap_or_default();
        if buffer.len() < len {
            buffer.clear();
            buffer.resize(len, T::NAN);
        }
        Self { buffer, len }
    }
}

impl<T: Element> std::ops::Deref for Scratch<T> {
    type Target = [T];

    #[inline(always)]
    fn deref(&self) -> &[T] {
        &self.buffer[..self.len]
    }
}

impl<T: Element> std::ops::DerefMut for Scratch<T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.buffer[..self.len]
    }
}

impl<T: Element> Drop for Scratch<T> {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.buffer);
        T::scratch().with_borrow_mut(|free| free.push(buffer));
    }
}

/// Parts of a buffer with such sizes, each behind the other, with room between them so that every one
/// begins where a cache line begins.
pub fn parts<const N: usize, T>(buffer: &mut [T], sizes: [usize; N]) -> [&mut [T]; N] {
    let mut rest = buffer;
    sizes.map(|size| {
        let skipped = rest.as_ptr().align_offset(ALIGNMENT).min(rest.len() - size);
        let (part, behind) = std::mem::take(&mut rest)[skipped..].split_at_mut(size);
        rest = behind;
        part
    })
}

/// Bytes of a cache line.
const ALIGNMENT: usize = 64;

/// The numbers of a buffer for [`parts`].
pub fn with_room<T, const N: usize>(sizes: [usize; N]) -> usize {
    sizes.iter().map(|size| size + ALIGNMENT / size_of::<T>()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_begin_at_cache_lines_and_do_not_overlap() {
        for shift in 0..20 {
            let sizes = [7, 0, 33, 16];
            let mut buffer = vec![0f32; shift + with_room::<f32, 4>(sizes)];
            for (i, part) in parts(&mut buffer[shift..], sizes).into_iter().enumerate() {
                assert!(part.len() == sizes[i] && (part.as_ptr() as usize).is_multiple_of(ALIGNMENT));
                assert!(part.iter().all(|&x| x == 0.0));
                part.fill(1.0);
            }
        }
    }

    #[test]
    fn scratch_is_reused_and_nests() {
        let address = {
            let mut outer = Scratch::<f32>::new(10);
            outer.fill(1.0);
            Scratch::<f32>::new(10).fill(2.0);
            assert!(outer.iter().all(|&x| x == 1.0));
            outer.as_ptr()
        };
        let (first, second) = (Scratch::<f32>::new(5), Scratch::<f32>::new(7));
        assert!([first.as_ptr(), second.as_ptr()].contains(&address));
        assert_eq!((first.len(), second.len()), (5, 7));
        assert_eq!(written(3, |x: &mut [f64]| x.fill(4.0)), [4.0; 3]);
    }
}
