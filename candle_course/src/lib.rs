//! Training for [candle](https://github.com/huggingface/candle): data, losses, metrics, optimizers,
//! schedules, checkpoints, a trainer, TensorBoard and plots.
//!
//! In a notebook depend on this crate alone and take candle from its re-exports
//! ([`candle_core`], [`candle_nn`]): a second copy of candle would number its tensors
//! independently, and gradients would silently be wrong.
#![warn(rust_2018_idioms)]

pub use candle_core;
pub use candle_nn;

pub mod checkpoint;
pub mod data;
pub mod device;
pub mod direction;
pub mod error;
mod kernels;
pub mod losses;
pub mod metrics;
pub mod nn;
pub mod notebook;
pub mod ops;
pub mod optimizers;
pub mod plot;
pub mod precision;
pub mod prelude;
pub mod random;
pub mod schedules;
pub mod stateful;
pub mod tensorboard;
#[cfg(test)]
mod test_support;
pub mod training;

pub use error::{Error, Result};

// The README's example is compiled as a documentation test.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
