//! Saving and resuming.
//!
//! - [`Snapshot`]: everything a training is, in one safetensors file: a named section for each
//!   [`Stateful`](crate::stateful::Stateful) part (model, optimizer, schedule, generators …),
//!   numbers and texts, with a checksum, written atomically and durably.
//! - [`CheckpointFolder`]: which of them to keep, and the newest that is whole to resume from.
//!   A [`CheckpointLock`] keeps a second training out of it.
//! - [`save_weights`], [`load_weights`]: the weights alone, as PyTorch's `state_dict` in
//!   safetensors, both ways; [`WeightLoading`] for a part of them, or under other names.
//! - [`fold_batch_norm`]: batch norm into the convolution before it, for inference.
//!
//! Why safetensors and not pickle: a pickle runs code when it is loaded; a safetensors file is a
//! JSON header and plain numbers, and any framework reads it.

use crate::atomic;

mod fold;
mod folder;
mod format;
mod generators;
mod loading;
mod lock;
mod pickle;
mod pytorch;
mod snapshot;
mod weights;

pub use fold::{fold_batch_norm, fold_batch_norm_transposed};
pub use folder::{CheckpointFolder, Damaged, Resume, Retention, Saved};
pub use generators::GeneratorStates;
pub use loading::{LoadReport, Mismatch, WeightLoading, WeightLoadingBuilder};
pub use lock::CheckpointLock;
pub use snapshot::Snapshot;
pub use weights::{load_weights, read_weights, save_weights, write_weights};

#[cfg(test)]
mod mutation_tests;
#[cfg(test)]
mod pytorch_tests;
#[cfg(test)]
mod weights_tests;
