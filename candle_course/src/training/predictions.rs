//! What a model says to a whole data set.

use candle_core::Tensor;

use crate::data::DataLoader;
use crate::error::{Error, Result};
use crate::nn::Model;
use crate::ops::no_grad;
use crate::training::Trainer;

/// What [`predict`] gives: all batches as one, in the loader's order.
#[derive(Debug, Clone)]
pub struct Predictions {
    /// The model's outputs, shape `[examples, …]`, detached, on the CPU.
    pub outputs: Tensor,
    /// The targets, as the loader gave them, on the CPU.
    pub targets: Tensor,
    /// Which example of the data set each row is of.
    pub indices: Vec<usize>,
}

/// The outputs of `model` in evaluation mode for one pass of `loader` (its epoch 0), without gradients.
/// They go to the CPU batch by batch, so a GPU holds one batch of them.
///
/// # Errors
/// If the loader gives no batch, shapes do not fit, or outputs of two batches differ in more than
/// their number of examples.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let parameters = Parameters::new(0, &Device::Cpu);
/// let model = Linear::new(2, 3, &parameters.at("fc"))?;
/// let x = Tensor::ones((10, 2), DType::F32, &Device::Cpu)?;
/// let data = TensorDataset::new(x, Tensor::zeros(10, DType::U32, &Device::Cpu)?)?;
/// let predictions = predict(&model, &DataLoader::builder(data).batch_size(4).build()?)?;
/// assert_eq!(predictions.outputs.dims(), [10, 3]);
/// assert_eq!(predictions.indices, (0..10).collect::<Vec<_>>());
/// # Ok::<(), candle_course::Error>(())
/// ```
pub fn predict(model: &dyn Model, loader: &DataLoader) -> Result<Predictions> {
    let (mut outputs, mut targets, mut indices) = (Vec::new(), Vec::new(), Vec::new());
    for batch in loader.epoch(0)? {
        let batch = batch?;
        let cpu = |tensor: &Tensor| tensor.detach().to_device(&candle_core::Device::Cpu);
        outputs.push(cpu(&no_grad(|| model.forward_t(&batch.inputs, false))?)?);
        targets.push(cpu(&batch.targets)?);
        indices.extend(batch.indices);
    }
    if outputs.is_empty() {
        return Err(Error::undefined("predictions of no batches"));
    }
    Ok(Predictions { outputs: Tensor::cat(&outputs, 0)?, targets: Tensor::cat(&targets, 0)?, indices })
}

impl Trainer {
    /// The model's outputs for other data: [`predict`], by the averaged weights if the training keeps
    /// some, and in its precision.
    ///
    /// # Errors
    /// As [`predict`].
    pub fn predict(&mut self, loader: &DataLoader) -> Result<Predictions> {
        let _precision = self.training.precision.scope(self.training.parameters.device())?;
        self.training.with_average(|training| predict(&*training.model, loader))
    }
}
