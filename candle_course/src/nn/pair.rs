//! Sizes of images.

/// A size along both axes of an image: a number for both, or (vertical, horizontal).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair(pub (usize, usize));

impl From<usize> for Pair {
    fn from(both: usize) -> Self {
        Self((both, both))
    }
}

impl From<(usize, usize)> for Pair {
    fn from(pair: (usize, usize)) -> Self {
        Self(pair)
    }
}
