//! Data sets, samplers and the loader.

mod cifar10;
mod dataset;
mod fashion_mnist;
mod files;
#[cfg(feature = "hub")]
mod hub;
mod images;
mod loader;
mod mnist;
mod packed;
mod sampler;
mod source;

pub use cifar10::Cifar10;
pub use dataset::{Batch, Dataset, Example, TensorDataset};
pub use fashion_mnist::FashionMnist;
pub use images::ImageDataset;
pub use loader::{Batches, DataLoader, DataLoaderBuilder};
pub use mnist::Mnist;
pub use sampler::{RandomSampler, Sampler, SequentialSampler};
pub use source::{ImageSet, ImageSetBuilder, Source};
