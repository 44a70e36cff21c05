//! The models that are measured.

use candle_core::{Device, Tensor};
use candle_course::{Error, Result, candle_core};

pub mod ours;
mod plain;

/// One training step: forward, loss, backward, optimizer. Returns the loss.
pub type Step = Box<dyn FnMut(&Tensor, &Tensor) -> Result<Tensor>>;

/// What a model is fed: input shape, target shape, classes, steps of a round.
pub type Inputs = (Vec<usize>, Vec<usize>, u32, usize);

/// The models' names.
pub const MODELS: &str = "mlp, mnist, cifar, unet, gru, resnet18, resnet18-224 or unet-256";

/// The sizes of `model`'s inputs for batches of `batch`.
pub fn inputs(model: &str, batch: usize) -> Result<Inputs> {
    let (input, target, classes, steps) = match model {
        "mlp" => (vec![784], vec![], 10, 300),
        "mnist" => (vec![1, 28, 28], vec![], 10, 15),
        "cifar" => (vec![3, 32, 32], vec![], 10, 8),
        "unet" => (vec![4, 64, 64], vec![64, 64], 5, 4),
        "unet-256" => (vec![4, 256, 256], vec![256, 256], 5, 1),
        "gru" => (vec![50, 32], vec![], 10, 20),
        "resnet18" => (vec![3, 32, 32], vec![], 10, 2),
        "resnet18-224" => (vec![3, 224, 224], vec![], 1000, 1),
        _ => return Err(Error::argument("model", MODELS, model)),
    };
    let with_batch = |sizes: Vec<usize>| [vec![batch], sizes].concat();
    Ok((with_batch(input), with_batch(target), classes, steps))
}

/// Whether the model is trained by AdamW; by SGD with momentum otherwise.
pub fn adaptive(model: &str) -> bool {
    !["cifar", "resnet18", "resnet18-224"].contains(&model)
}

/// The training step of `model`.
pub fn build(implementation: &str, model: &str, precision: &str, device: &Device) -> Result<Step> {
    match implementation {
        "ours" => ours::build(model, precision, device),
        "candle" => plain::build(model, precision, device),
        _ => Err(Error::argument("implementation", "ours or candle", implementation)),
    }
}
