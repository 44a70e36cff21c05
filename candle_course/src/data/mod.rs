//! Data sets, samplers and the loader.

mod dataset;
mod loader;
mod sampler;

pub use dataset::{Batch, Dataset, Example, TensorDataset};
pub use loader::{Batches, DataLoader, DataLoaderBuilder};
pub use sampler::{RandomSampler, Sampler, SequentialSampler};
