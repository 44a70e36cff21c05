//! Saving and resuming.

use std::collections::BTreeMap;

use candle_core::Tensor;

use crate::error::Result;

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
