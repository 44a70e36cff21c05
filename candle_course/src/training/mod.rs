//! The training loop, by hand and packaged.

mod step;

pub use step::{Evaluation, evaluate, train_step};
