//! From files to batches.
//!
//! A [`Dataset`] knows how many examples it has and fetches any of them by index. A [`Sampler`]
//! says in which order. A [`DataLoader`] makes batches, ahead of use and by as many threads as you
//! like; [`Transform`]s change them on their way. All of it is pure in seed and epoch: the number
//! of threads changes nothing, and an interrupted epoch goes on bit for bit.
//!
//! | for | there is |
//! | --- | --- |
//! | public image sets | [`Mnist`], [`FashionMnist`], [`Cifar10`]: see [`Source`] for where they come from |
//! | land use from space, in colours or 13 bands | [`EuroSat`] |
//! | any image set of the hub, streamed if it is large | `HubImages`, with the feature `hub` |
//! | your own data | [`TensorDataset`], [`ImageFolder`], or your type that implements [`Dataset`] |
//! | sets of `candle_datasets`, with the feature `candle-datasets` | `TrainTest`, `Axes` |
//! | satellite images from GeoTIFF, their indices, tiles and maps | [`Scene`], [`SpectralIndex`], [`SceneTiles`], [`ClassMap`] |
//! | synthetic satellite tiles | [`Satellite`], [`ndvi`], [`true_color`], [`false_color`] |
//! | parts and sums | [`Split`], [`Subset`], [`ConcatDataset`], [`MappedDataset`] |
//! | an order | [`SequentialSampler`], [`RandomSampler`], [`SubsetSampler`], [`WeightedRandomSampler`], [`StratifiedBatchSampler`] |
//! | imbalance | [`class_counts`], [`class_weights`], [`class_balanced_weights`], [`example_weights`], [`oversample`], [`undersample`], [`Smote`], [`imbalance()`], [`long_tail`] |
//! | augmentation | [`RandomCrop`], [`RandomHorizontalFlip`], [`RandomVerticalFlip`], [`RandomQuarterTurn`], [`RandomAffine`], [`RandomErasing`], [`ColorJitter`], [`MixUp`], [`Normalize`] |
//!
//! # Examples
//!
//! ```
//! use candle_course::prelude::*;
//!
//! let cifar = Cifar10::builder().sample().load()?;
//! let split = Split::builder(cifar.train().len()).stratify(cifar.train().labels()).validation(0.1).seed(1).build()?;
//! let train = cifar.train().select(split.train())?;
//! let sampler = WeightedRandomSampler::builder(&example_weights(train.labels())).seed(2).build()?;
//! let loader = DataLoader::builder(train)
//!     .batch_size(64)
//!     .sampler(sampler)
//!     .transform(RandomCrop::new(4, 3))
//!     .transform(RandomHorizontalFlip::new(4))
//!     .workers(2)
//!     .build()?;
//! for batch in loader.epoch(0)?.take(2) {
//!     assert_eq!(batch?.inputs.dims(), [64, 3, 32, 32]);
//! }
//! # Ok::<(), Error>(())
//! ```

mod batches;
#[cfg(feature = "candle-datasets")]
mod candle_sets;
mod cifar10;
mod compose;
mod dataset;
mod eurosat;
mod fashion_mnist;
mod files;
mod geotiff;
#[cfg(feature = "hub")]
pub(crate) mod hub;
#[cfg(feature = "hub")]
mod hub_images;
mod image_folder;
mod images;
mod imbalance;
mod jpeg;
mod loader;
mod mnist;
mod pixels;
mod sampler;
#[cfg(feature = "samples")]
mod samples;
mod satellite;
mod scene;
mod smote;
pub(crate) mod source;
mod split;
mod statistics;
mod stratified;
mod transforms;
mod weighted;
mod workers;

pub use batches::Batches;
#[cfg(feature = "candle-datasets")]
pub use candle_sets::{Axes, TrainTest};
pub use cifar10::Cifar10;
pub use compose::{ConcatDataset, MappedDataset, Subset};
pub use dataset::{Batch, Dataset, Example, TensorDataset};
pub use eurosat::EuroSat;
pub use fashion_mnist::FashionMnist;
pub use geotiff::Georeference;
#[cfg(feature = "hub")]
pub use hub_images::{HubImages, HubImagesBuilder, HubSampler, HubSplit};
pub use image_folder::{ImageFolder, ImageFolderBuilder};
pub use images::ImageDataset;
pub use imbalance::{
    class_balanced_weights, class_counts, class_weights, example_weights, imbalance, long_tail, oversample, undersample,
};
pub use loader::{DataLoader, DataLoaderBuilder};
pub use mnist::Mnist;
pub use sampler::{RandomSampler, Sampler, SequentialSampler, SubsetSampler};
pub use satellite::{Satellite, SatelliteBuilder, SatelliteTarget, false_color, ndvi, true_color};
pub use scene::{ClassMap, ClassMapBuilder, Scene, SceneBuilder, SceneTiles, SceneTilesBuilder, SpectralIndex};
pub use smote::Smote;
pub use source::{ImageSet, ImageSetBuilder, Source};
pub use split::{BlockSplitBuilder, Split, SplitBuilder};
pub use statistics::LoaderStatistics;
pub use stratified::StratifiedBatchSampler;
pub use transforms::{
    BatchPosition, ColorJitter, ColorJitterBuilder, MixUp, Normalize, RandomAffine, RandomAffineBuilder, RandomCrop,
    RandomCropBuilder, RandomErasing, RandomErasingBuilder, RandomHorizontalFlip, RandomHorizontalFlipBuilder,
    RandomQuarterTurn, RandomVerticalFlip, RandomVerticalFlipBuilder, Transform,
};
pub use weighted::{WeightedRandomSampler, WeightedRandomSamplerBuilder};
