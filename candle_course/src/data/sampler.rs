//! In which order examples come.

use crate::error::{Error, Result};
use crate::random::Generator;
use crate::sizes;

/// The order of examples: a pure function of its own seed and the epoch, and so resumable.
pub trait Sampler: Send + Sync {
    /// The indices of one epoch, in order.
    ///
    /// # Errors
    /// If the sampler cannot serve.
    fn indices(&self, epoch: usize) -> Result<Vec<usize>>;

    /// Every index that some epoch can have: those of the first, unless chance leaves some out.
    ///
    /// # Errors
    /// As [`Sampler::indices`].
    fn possible(&self) -> Result<Vec<usize>> {
        self.indices(0)
    }

    /// If the order was made for so many ranks with so many examples of a batch each, these two numbers: to others it
    /// gives batches that are right, but not those that a rank was to read.
    fn parts(&self) -> Option<(usize, usize)> {
        None
    }

    /// How many indices an epoch has.
    fn len(&self) -> usize;

    /// Whether an epoch has none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// `0..length`, in every epoch.
#[derive(Debug, Clone, Copy)]
pub struct SequentialSampler(usize);

impl SequentialSampler {
    /// The first `length` examples.
    pub fn new(length: usize) -> Self {
        Self(length)
    }
}

impl Sampler for SequentialSampler {
    fn indices(&self, _epoch: usize) -> Result<Vec<usize>> {
        sizes::check::<usize>("length", self.0)?;
        Ok((0..self.0).collect())
    }

    fn len(&self) -> usize {
        self.0
    }
}

/// A fresh permutation of `0..length` in every epoch.
#[derive(Debug, Clone, Copy)]
pub struct RandomSampler {
    length: usize,
    seed: u64,
}

impl RandomSampler {
    /// Permutations of `0..length` from `seed`.
    pub fn new(length: usize, seed: u64) -> Self {
        Self { length, seed }
    }
}

impl Sampler for RandomSampler {
    fn indices(&self, epoch: usize) -> Result<Vec<usize>> {
        sizes::check::<usize>("length", self.length)?;
        Ok(Generator::stream(self.seed, &[epoch as u64]).permutation(self.length))
    }

    fn len(&self) -> usize {
        self.length
    }
}

/// A fresh permutation of given indices in every epoch.
///
/// # Examples
///
/// ```
/// use candle_course::data::{Sampler, SubsetSampler};
///
/// let mut indices = SubsetSampler::new(&[3, 5, 8], 42)?.indices(0)?;
/// indices.sort();
/// assert_eq!(indices, [3, 5, 8]);
/// # Ok::<(), candle_course::error::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct SubsetSampler {
    indices: Vec<usize>,
    seed: u64,
}

impl SubsetSampler {
    /// Permutations of `indices` from `seed`. An index that stands there twice is drawn twice.
    ///
    /// # Errors
    /// If there are none.
    pub fn new(indices: &[usize], seed: u64) -> Result<Self> {
        if indices.is_empty() {
            return Err(Error::argument("indices", "at least one", 0));
        }
        Ok(Self { indices: indices.to_vec(), seed })
    }
}

impl Sampler for SubsetSampler {
    fn indices(&self, epoch: usize) -> Result<Vec<usize>> {
        let mut indices = self.indices.clone();
        Generator::stream(self.seed, &[epoch as u64]).shuffle(&mut indices);
        Ok(indices)
    }

    fn len(&self) -> usize {
        self.indices.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_are_permutations_that_differ_and_repeat() {
        let sampler = RandomSampler::new(100, 1);
        let first = sampler.indices(0).unwrap();
        assert_eq!(first, sampler.indices(0).unwrap());
        assert_ne!(first, sampler.indices(1).unwrap());
        assert_ne!(first, RandomSampler::new(100, 2).indices(0).unwrap());
        let mut sorted = first;
        sorted.sort_unstable();
        assert_eq!(sorted, SequentialSampler::new(100).indices(9).unwrap());
        let subset = SubsetSampler::new(&[7, 7, 1], 3).unwrap();
        let mut drawn = subset.indices(4).unwrap();
        drawn.sort_unstable();
        assert_eq!((drawn, subset.len()), (vec![1, 7, 7], 3));
        assert!(SubsetSampler::new(&[], 1).is_err());
    }
}
