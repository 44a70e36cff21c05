//! From a data set to batches.

use std::sync::Arc;

use candle_core::Device;

use crate::data::{Batch, Dataset, RandomSampler, Sampler, SequentialSampler};
use crate::error::{Error, Result};

/// Batches of a data set.
#[derive(Clone)]
pub struct DataLoader {
    dataset: Arc<dyn Dataset>,
    sampler: Arc<dyn Sampler>,
    batch_size: usize,
    drop_last: bool,
    device: Device,
}

/// Configures a [`DataLoader`].
pub struct DataLoaderBuilder {
    dataset: Arc<dyn Dataset>,
    sampler: Option<Arc<dyn Sampler>>,
    batch_size: usize,
    drop_last: bool,
    device: Device,
}

impl DataLoader {
    /// A loader of `dataset`, in order, with batches of 1 on the CPU unless told otherwise.
    #[allow(clippy::new_ret_no_self)] // a builder, as everywhere in this crate
    pub fn new(dataset: impl Dataset + 'static) -> DataLoaderBuilder {
        DataLoaderBuilder {
            dataset: Arc::new(dataset),
            sampler: None,
            batch_size: 1,
            drop_last: false,
            device: Device::Cpu,
        }
    }

    /// How many batches an epoch has.
    pub fn len(&self) -> usize {
        if self.drop_last { self.sampler.len() / self.batch_size } else { self.sampler.len().div_ceil(self.batch_size) }
    }

    /// Whether an epoch has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The data set.
    pub fn dataset(&self) -> &Arc<dyn Dataset> {
        &self.dataset
    }

    /// The batches of one epoch.
    ///
    /// # Errors
    /// If the sampler fails.
    pub fn epoch(&self, epoch: usize) -> Result<Batches> {
        Ok(Batches { loader: self.clone(), indices: self.sampler.indices(epoch)?, next: 0 })
    }
}

impl DataLoaderBuilder {
    /// Examples in a batch.
    pub fn batch_size(mut self, batch_size: usize) -> Self {
        self.batch_size = batch_size;
        self
    }

    /// A fresh permutation in every epoch, from `seed`.
    pub fn shuffle(mut self, seed: u64) -> Self {
        self.sampler = Some(Arc::new(RandomSampler::new(self.dataset.len(), seed)));
        self
    }

    /// Another order.
    pub fn sampler(mut self, sampler: impl Sampler + 'static) -> Self {
        self.sampler = Some(Arc::new(sampler));
        self
    }

    /// Leaves out a last batch that is not full.
    pub fn drop_last(mut self, drop_last: bool) -> Self {
        self.drop_last = drop_last;
        self
    }

    /// Where the batches go.
    pub fn device(mut self, device: &Device) -> Self {
        self.device = device.clone();
        self
    }

    /// The loader.
    ///
    /// # Errors
    /// If the batch size is 0 or the data set is empty.
    pub fn build(self) -> Result<DataLoader> {
        if self.batch_size == 0 {
            return Err(Error::argument("batch_size", "at least 1", 0));
        }
        if self.dataset.is_empty() {
            return Err(Error::argument("dataset", "at least one example", 0));
        }
        let sampler = self.sampler.unwrap_or_else(|| Arc::new(SequentialSampler(self.dataset.len())));
        Ok(DataLoader {
            dataset: self.dataset,
            sampler,
            batch_size: self.batch_size,
            drop_last: self.drop_last,
            device: self.device,
        })
    }
}

/// The batches of one epoch: an owned iterator.
pub struct Batches {
    loader: DataLoader,
    indices: Vec<usize>,
    next: usize,
}

impl Iterator for Batches {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Self::Item> {
        let start = self.next;
        let end = (start + self.loader.batch_size).min(self.indices.len());
        if start >= end || (self.loader.drop_last && end - start < self.loader.batch_size) {
            return None;
        }
        self.next = end;
        Some(self.loader.dataset.batch(&self.indices[start..end]).and_then(|batch| {
            Ok(Batch {
                inputs: batch.inputs.to_device(&self.loader.device)?,
                targets: batch.targets.to_device(&self.loader.device)?,
                indices: batch.indices,
            })
        }))
    }
}
