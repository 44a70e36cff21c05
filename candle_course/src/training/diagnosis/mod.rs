//! What is wrong with a training, with the evidence.
//!
//! - [`Probe`]: activations and gradients, layer by layer: dead units, vanishing gradients;
//! - [`UpdateRatios`]: how far each step moves each parameter, against its size;
//! - [`Verdict`]: over- and underfitting, told from a [`History`](crate::training::History) in words;
//! - [`PredictionReport`]: the hardest examples, and the mistakes made with most confidence.

mod predictions;
mod probe;
mod updates;
mod verdict;

pub use predictions::{Prediction, PredictionReport};
pub use probe::{LayerReport, LayerStatistics, Probe};
pub use updates::UpdateRatios;
pub use verdict::{Fit, Verdict};
