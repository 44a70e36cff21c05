//! Joining and dividing of blocks.

use super::buffer::written;
use super::parallel::for_parts;
use super::simd::Element;

/// A block of every part, in turns. `parts`: the numbers, and how many are a block; as many blocks in each.
pub fn join<T: Element>(parts: &[(&[T], usize)]) -> Vec<T> {
    let block: usize = parts.iter().map(|(_, block)| block).sum();
    let len = parts.iter().map(|(values, _)| values.len()).sum();
    written(len, |y| {
        for_parts(y, block, |index, y| {
            let mut rest = y;
            for (values, block) in parts {
                let (now, later) = rest.split_at_mut(*block);
                now.copy_from_slice(&values[index * block..][..*block]);
                rest = later;
            }
        });
    })
}

/// Numbers `from..from + len` of every block of `block`.
pub fn part<T: Element>(values: &[T], block: usize, from: usize, len: usize) -> Vec<T> {
    written(values.len() / block * len, |y| {
        for_parts(y, len, |index, y| y.copy_from_slice(&values[index * block + from..][..y.len()]));
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_joined_is_divided_again() {
        let numbers = |len: usize, first: usize| (first..first + len).map(|i| i as f32).collect::<Vec<_>>();
        for blocks in [1, 3, 50] {
            let (a, b, c) = (numbers(blocks * 5, 0), numbers(blocks, 1000), numbers(blocks * 7, 2000));
            let joined = join(&[(&a[..], 5), (&b, 1), (&c, 7)]);
            assert_eq!(joined[..13], [&a[..5], &b[..1], &c[..7]].concat());
            assert_eq!((part(&joined, 13, 0, 5), part(&joined, 13, 5, 1), part(&joined, 13, 6, 7)), (a, b, c));
        }
    }
}
