//! What training is judged by.

use candle_core::Tensor;

use crate::error::Result;

mod accuracy;

pub use accuracy::Accuracy;

/// Which way is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Larger is better (accuracy).
    Maximize,
    /// Smaller is better (a loss).
    Minimize,
}

/// A number accumulated over batches.
pub trait Metric: Send {
    /// The name in tables, plots and monitors: `accuracy`.
    fn name(&self) -> &str;

    /// Which way is better.
    fn direction(&self) -> Direction;

    /// Takes in a batch. No host synchronisation where it can be avoided.
    ///
    /// # Errors
    /// If shapes, dtypes or devices do not fit.
    fn update(&mut self, predictions: &Tensor, targets: &Tensor) -> Result<()>;

    /// The value over everything since the last reset.
    ///
    /// # Errors
    /// If it is not defined (no example yet).
    fn compute(&self) -> Result<f64>;

    /// Forgets everything.
    fn reset(&mut self);
}
