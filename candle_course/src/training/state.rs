//! Where a training stands.

use serde::{Deserialize, Serialize};

/// Where a training stands: what a checkpoint needs to know besides tensors.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TrainState {
    /// Whole epochs done; also the number of the running epoch, counted from 0.
    pub epoch: usize,
    /// Batches done in the running epoch.
    pub batch: usize,
    /// Optimizer steps done since the beginning.
    pub step: usize,
    /// The learning rate of the last step (of the next one, before the first).
    pub learning_rate: f64,
}
