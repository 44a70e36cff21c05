//! Learning rates as functions of the step.

/// A learning rate for every step: pure, so that it can be plotted, resumed and composed.
pub trait Schedule: Send + Sync {
    /// The learning rate at `step` (0 is the first step).
    fn learning_rate(&self, step: usize) -> f64;
}

/// The same rate at every step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Constant(pub f64);

impl Schedule for Constant {
    fn learning_rate(&self, _step: usize) -> f64 {
        self.0
    }
}
