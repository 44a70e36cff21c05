//! From gradients to new weights.

use candle_core::backprop::GradStore;

use crate::checkpoint::Checkpoint;
use crate::error::Result;

mod sgd;

pub use sgd::{Sgd, SgdBuilder};

/// Changes parameters, given their gradients. Its state (moments) is a [`Checkpoint`].
pub trait Optimizer: Checkpoint + Send {
    /// One step with this learning rate.
    ///
    /// # Errors
    /// If a trainable parameter has no gradient (named in the message).
    fn step(&mut self, gradients: &GradStore, learning_rate: f64) -> Result<()>;
}
