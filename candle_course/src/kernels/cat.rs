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

/// Writes the blocks of a part, `len` numbers each, to place `from` of the blocks of `block` numbers of `y`.
pub fn place<T: Element>(part: &[T], len: usize, y: &mut [T], block: usize, from: usize) {
    assert_eq!(part.len() / len, y.len() / block);
    for_parts(y, block, |index, y| y[from..][..len].copy_from_slice(&part[index * len..][..len]));
}

/// Numbers `from..from + len` of every block of `block`.
pub fn part<T: Element>(values: &[T], block: usize, from: usize, len: usize) -> Vec<T> {
    written(values.len() / block * len, |y| part_into(values, block, from, len, y))
}

/// [`part`], into `y`.
pub fn part_into<T: Element>(values: &[T], block: usize, from: usize, len: usize, y: &mut [T]) {
    for_parts(y, len, |index, y| y.copy_from_slice(&values[index * block + from..][..y.len()]));
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
            let mut placed = vec![f32::NAN; joined.len()];
            for (part, len, from) in [(&a, 5, 0), (&c, 7, 6), (&b, 1, 5)] {
                place(part, len, &mut placed, 13, from);
            }
            assert_eq!(placed, joined);
            assert_eq!((part(&joined, 13, 0, 5), part(&joined, 13, 5, 1), part(&joined, 13, 6, 7)), (a, b, c));
        }
    }
}
