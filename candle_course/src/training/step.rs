//! The two halves of every epoch.

use candle_core::Tensor;

use crate::data::{Batch, DataLoader};
use crate::error::{Error, Result};
use crate::losses::Loss;
use crate::metrics::Metric;
use crate::nn::Model;
use crate::optimizers::Optimizer;

/// Forward, loss, backward, optimizer step: one iteration. Returns the detached loss, a scalar
/// still on the device.
///
/// There is nothing to zero: in candle every `backward` returns a fresh `GradStore`.
///
/// # Errors
/// If shapes do not fit, or a parameter receives no gradient.
pub fn train_step(
    model: &dyn Model,
    loss: &dyn Loss,
    optimizer: &mut dyn Optimizer,
    batch: &Batch,
    learning_rate: f64,
) -> Result<Tensor> {
    let predictions = model.forward_t(&batch.inputs, true)?;
    let value = loss.forward(&predictions, &batch.targets)?;
    let gradients = value.backward()?;
    optimizer.step(&gradients, learning_rate)?;
    Ok(value.detach())
}

/// What [`evaluate`] found.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// The mean loss per example.
    pub loss: f64,
    /// Metric names and values, in the order given.
    pub metrics: Vec<(String, f64)>,
    /// How many examples.
    pub examples: usize,
}

/// Loss and metrics over one pass of `loader`, in evaluation mode, without gradients. The metrics
/// are reset first.
///
/// # Errors
/// If the loader gives no batch, or shapes do not fit.
pub fn evaluate(
    model: &dyn Model,
    loss: &dyn Loss,
    loader: &DataLoader,
    metrics: &mut [Box<dyn Metric>],
) -> Result<Evaluation> {
    metrics.iter_mut().for_each(|metric| metric.reset());
    let mut total: Option<Tensor> = None;
    let mut examples = 0;
    for batch in loader.epoch(0)? {
        let batch = batch?;
        let predictions = model.forward_t(&batch.inputs, false)?.detach();
        let weighted = (loss.forward(&predictions, &batch.targets)? * batch.len() as f64)?;
        total = Some(match total {
            Some(total) => (total + weighted)?,
            None => weighted,
        });
        examples += batch.len();
        for metric in metrics.iter_mut() {
            metric.update(&predictions, &batch.targets)?;
        }
    }
    let total = total.ok_or_else(|| Error::undefined("evaluation of no batches"))?;
    let loss = total.to_dtype(candle_core::DType::F64)?.to_scalar::<f64>()? / examples as f64;
    let metrics =
        metrics.iter().map(|metric| Ok((metric.name().to_owned(), metric.compute()?))).collect::<Result<_>>()?;
    Ok(Evaluation { loss, metrics, examples })
}
