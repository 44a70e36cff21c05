//! Data sets, samplers and the loader.

mod batches;
mod cifar10;
mod compose;
mod dataset;
mod fashion_mnist;
mod files;
#[cfg(feature = "hub")]
mod hub;
mod image_folder;
mod images;
mod imbalance;
mod loader;
mod mnist;
mod packed;
mod sampler;
mod satellite;
mod smote;
mod source;
mod split;
mod statistics;
mod stratified;
mod transforms;
mod weighted;
mod workers;

pub use batches::Batches;
pub use cifar10::Cifar10;
pub use compose::{ConcatDataset, MappedDataset, Subset};
pub use dataset::{Batch, Dataset, Example, TensorDataset};
pub use fashion_mnist::FashionMnist;
pub use image_folder::ImageFolder;
pub use images::ImageDataset;
pub use imbalance::{class_counts, class_weights, example_weights, imbalance, long_tail, oversample, undersample};
pub use loader::{DataLoader, DataLoaderBuilder};
pub use mnist::Mnist;
pub use sampler::{RandomSampler, Sampler, SequentialSampler, SubsetSampler};
pub use satellite::{Satellite, SatelliteBuilder, SatelliteTarget, false_color, ndvi, true_color};
pub use smote::Smote;
pub use source::{ImageSet, ImageSetBuilder, Source};
pub use split::{Split, SplitBuilder};
pub use statistics::LoaderStatistics;
pub use stratified::StratifiedBatchSampler;
pub use transforms::{
    BatchPosition, ColorJitter, MixUp, Normalize, RandomAffine, RandomCrop, RandomErasing, RandomHorizontalFlip,
    RandomQuarterTurn, RandomVerticalFlip, Transform,
};
pub use weighted::{WeightedRandomSampler, WeightedRandomSamplerBuilder};
