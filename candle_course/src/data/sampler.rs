//! In which order examples come.

use crate::error::Result;
use crate::random::Generator;

/// The order of examples: a pure function of its own seed and the epoch, and so resumable.
pub trait Sampler: Send + Sync {
    /// The indices of one epoch, in order.
    ///
    /// # Errors
    /// If the sampler cannot serve.
    fn indices(&self, epoch: usize) -> Result<Vec<usize>>;

    /// How many indices an epoch has.
    fn len(&self) -> usize;

    /// Whether an epoch has none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// `0..length`, in every epoch.
#[derive(Debug, Clone, Copy)]
pub struct SequentialSampler(pub usize);

impl Sampler for SequentialSampler {
    fn indices(&self, _epoch: usize) -> Result<Vec<usize>> {
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
        Ok(Generator::stream(self.seed, &[epoch as u64]).permutation(self.length))
    }

    fn len(&self) -> usize {
        self.length
    }
}
