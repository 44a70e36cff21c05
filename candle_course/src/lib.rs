#![doc = include_str!("../README.md")]
#![warn(rust_2018_idioms)]

pub use candle_core;
#[cfg(feature = "candle-datasets")]
pub use candle_datasets;
pub use candle_nn;
pub use plotters;

#[cfg(test)]
mod absurd_tests;
mod atomic;
pub mod checkpoint;
pub mod data;
pub mod device;
pub mod direction;
pub mod distributed;
pub mod error;
#[cfg(feature = "hub")]
pub mod hub;
pub mod inference;
mod kernels;
pub mod language;
pub mod losses;
pub mod metrics;
pub mod nn;
pub mod notebook;
pub mod onnx;
pub mod ops;
pub mod optimizers;
pub mod plot;
pub mod precision;
pub mod prelude;
pub mod random;
pub mod schedules;
mod setters;
mod sizes;
pub mod stateful;
pub mod tensorboard;
#[cfg(test)]
mod test_support;
mod text;
pub mod training;

pub use error::{Error, Result};

/// How the crate is built, and why.
#[cfg(doc)]
#[doc = include_str!("design.md")]
pub mod _design {}
