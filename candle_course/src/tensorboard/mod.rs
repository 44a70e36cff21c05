//! TensorBoard event files: scalars, histograms, images, figures, text, hyper-parameters,
//! precision-recall curves; and a reader for the scalars.
//!
//! A run is a folder. Point TensorBoard at the parent of the runs and it compares them:
//!
//! ```text
//! tensorboard --logdir runs
//! ```
//!
//! In JupyterLab or Colab, a notebook with a Python kernel shows it inline:
//! `%load_ext tensorboard`, then `%tensorboard --logdir runs`.
//!
//! # Examples
//!
//! ```
//! use candle_course::plot::LineChart;
//! use candle_course::tensorboard::{HyperParameters, Scalars, SummaryWriter};
//!
//! let folder = tempfile::tempdir()?;
//! let writer = SummaryWriter::new(folder.path().join("run-1"))?;
//! writer.hyper_parameters(
//!     &HyperParameters::new().number("learning_rate", 0.1).text("optimizer", "SGD").metric("loss/validation"),
//! )?;
//! writer.custom_scalars("Training", &[("loss", &["loss/train", "loss/validation"])])?;
//! for epoch in 1..=3 {
//!     writer.scalar("loss/train", 1.0 / epoch as f64, epoch)?;
//!     writer.scalar("loss/validation", 1.2 / epoch as f64, epoch)?;
//! }
//! writer.figure("curves", &LineChart::builder("Loss").line("train", &[1.0, 0.5, 0.33]).build()?, 3)?;
//! writer.close()?;
//!
//! let scalars = Scalars::read(folder.path().join("run-1"))?;
//! assert_eq!(scalars.tags(), ["loss/train", "loss/validation"]);
//! let figure = LineChart::builder("Loss").points("train", &scalars.points("loss/train")?).build()?;
//! # Ok::<(), candle_course::Error>(())
//! ```
//!
//! # The format
//!
//! An event file is a sequence of records (length, checksum, protobuf `Event`, checksum; see
//! TensorFlow's `record_writer.h`). A program that dies leaves at most one record cut in the middle;
//! readers take everything before it.

mod histogram;
mod hyper_parameters;
mod pr_curve;
mod proto;
mod reader;
mod record;
mod writer;

pub use hyper_parameters::{HyperParameter, HyperParameters};
pub use reader::{Scalar, Scalars};
#[cfg(test)]
pub(crate) use writer::tests::session_ends;
pub use writer::{SummaryWriter, SummaryWriterBuilder};

#[cfg(test)]
mod mutation_tests;
