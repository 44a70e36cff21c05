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

/// Calls `work` with `len` numbers of unspecified value, reused within the thread: fresh large
/// buffers would cost page faults in every operation.
pub fn with_scratch<T: Element, R>(len: usize, work: impl FnOnce(&mut [T]) -> R) -> R {
    let mut buffer = T::scratch().with_borrow_mut(|free| free.pop()).unwrap_or_default();
    if buffer.len() < len {
        buffer.clear();
        buffer.resize(len, T::NAN);
    }
    let result = work(&mut buffer[..len]);
    T::scratch().with_borrow_mut(|free| free.push(buffer));
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scratch_is_reused_and_nests() {
        let first = with_scratch(10, |outer: &mut [f32]| {
            outer.fill(1.0);
            with_scratch(10, |inner: &mut [f32]| inner.fill(2.0));
            assert!(outer.iter().all(|&x| x == 1.0));
            outer.as_ptr() as usize
        });
        let addresses = [5, 7].map(|len| with_scratch(len, |again: &mut [f32]| again.as_ptr() as usize));
        assert!(addresses.contains(&first));
        assert_eq!(written(3, |x: &mut [f64]| x.fill(4.0)), [4.0; 3]);
    }
}
