//! Saving and resuming.
//!
//! - [`Snapshot`]: everything a training is, in one safetensors file: named sections of tensors
//!   (model, optimizer, schedule, generators …), numbers and texts, with a checksum, written
//!   atomically and durably.
//! - [`CheckpointFolder`]: which of them to keep, and the newest that is whole to resume from.
//! - [`save_weights`], [`load_weights`]: the weights alone, as PyTorch's `state_dict` in
//!   safetensors, both ways.
//! - [`fold_batch_norm`]: batch norm into the convolution before it, for inference.
//!
//! Why safetensors and not pickle: a pickle runs code when it is loaded; a safetensors file is a
//! JSON header and plain numbers, and any framework reads it.

use std::collections::BTreeMap;

use candle_core::Tensor;

use crate::error::Result;

mod atomic;
mod fold;
mod folder;
mod format;
mod generators;
mod snapshot;
mod weights;

pub use fold::fold_batch_norm;
pub use folder::{CheckpointFolder, Damaged, Resume, Retention, Saved};
pub use generators::GeneratorStates;
pub use snapshot::Snapshot;
pub use weights::{load_weights, read_weights, save_weights, write_weights};

/// What has a state that a checkpoint holds.
pub trait Checkpoint {
    /// The state as named tensors.
    ///
    /// # Errors
    /// If a tensor cannot be made.
    fn tensors(&self) -> Result<BTreeMap<String, Tensor>>;

    /// Restores the state. Nothing changes if it does not fit.
    ///
    /// # Errors
    /// If a tensor is missing, superfluous or of another shape; the message names all of them.
    fn load_tensors(&mut self, tensors: &BTreeMap<String, Tensor>) -> Result<()>;
}

impl<C: Checkpoint + ?Sized> Checkpoint for Box<C> {
    fn tensors(&self) -> Result<BTreeMap<String, Tensor>> {
        (**self).tensors()
    }

    fn load_tensors(&mut self, tensors: &BTreeMap<String, Tensor>) -> Result<()> {
        (**self).load_tensors(tensors)
    }
}

#[cfg(test)]
mod pytorch_tests;
