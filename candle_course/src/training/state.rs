//! Where a training stands.

use serde::{Deserialize, Serialize};

/// Where a training stands: what a checkpoint needs to know besides tensors.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TrainState {
    /// Whole epochs done; also the number of the running epoch, counted from 0.
    pub epoch: usize,
    /// Batches done in the running epoch.
    pub batch: usize,
    /// Batches of an epoch; 0 before the first.
    pub batches_per_epoch: usize,
    /// Batches whose gradients wait for the next optimizer step.
    pub batches_in_step: usize,
    /// Seconds spent in the running epoch.
    pub seconds: f64,
    /// Optimizer steps done since the beginning.
    pub step: usize,
    /// The learning rate of the last step (of the next one, before the first).
    pub learning_rate: f64,
}
