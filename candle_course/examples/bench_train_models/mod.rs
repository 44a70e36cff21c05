//! The models that are measured.

use candle_core::Tensor;
use candle_course::{Error, Result, candle_core};

mod ours;
mod plain;

/// One training step: forward, loss, backward, optimizer. Returns the loss.
pub type Step = Box<dyn FnMut(&Tensor, &Tensor) -> Result<Tensor>>;

/// What a model is fed: input shape, target shape, classes, steps of a round.
pub type Inputs = (Vec<usize>, Vec<usize>, u32, usize);

/// The sizes of `model`'s inputs: batches of 64.
pub fn inputs(model: &str) -> Result<Inputs> {
    Ok(match model {
        "mlp" => (vec![64, 784], vec![64], 10, 300),
        "mnist" => (vec![64, 1, 28, 28], vec![64], 10, 15),
        "cifar" => (vec![64, 3, 32, 32], vec![64], 10, 8),
        "unet" => (vec![64, 4, 64, 64], vec![64, 64, 64], 5, 4),
        "gru" => (vec![64, 50, 32], vec![64], 10, 20),
        _ => return Err(Error::argument("model", "mlp, mnist, cifar, unet or gru", model)),
    })
}

/// The training step of `model`.
pub fn build(implementation: &str, model: &str) -> Result<Step> {
    match implementation {
        "ours" => ours::build(model),
        "candle" => plain::build(model),
        _ => Err(Error::argument("implementation", "ours or candle", implementation)),
    }
}
