//! The two halves of every epoch.

use std::ops::ControlFlow;

use candle_core::Tensor;
use candle_core::backprop::GradStore;

use crate::data::{Batch, DataLoader};
use crate::error::{Error, Result};
use crate::kernels::tape::Tape;
use crate::losses::{Loss, Mean};
use crate::metrics::Metric;
use crate::nn::Model;
use crate::ops::no_grad;
use crate::optimizers::Optimizer;
use crate::training::losses::DeviceLosses;
use crate::training::ranks::Ranks;

/// What [`forward_backward`] gives.
pub struct Backward {
    /// The model's output in training mode, detached.
    pub predictions: Tensor,
    /// The loss, a scalar still on the device, detached.
    pub loss: Tensor,
    /// The gradient of the loss by every variable.
    pub gradients: GradStore,
}

/// The forward pass of a batch in training mode.
pub(crate) struct Forward {
    /// The model's output.
    pub predictions: Tensor,
    /// The loss, a scalar.
    pub loss: Tensor,
    /// The terms that the loss is the sum of.
    pub means: Vec<Mean>,
}

/// A loss that is one number.
fn scalar(loss: Tensor) -> Result<Tensor> {
    match loss.rank() {
        0 => Ok(loss),
        _ => Err(Error::argument("loss", "a scalar, shape []", format!("shape {:?}", loss.dims()))
            .hint("training needs one number: use the reduction mean or sum")),
    }
}

/// The sum of the terms of a loss.
fn sum(means: &[Mean]) -> Result<Tensor> {
    let mut values = means.iter().map(|mean| &mean.value);
    let first = values.next().ok_or_else(|| Error::argument("loss", "at least one term", 0))?;
    scalar(values.try_fold(first.clone(), |sum, value| sum + value)?)
}

/// Forward and loss, with what the loss is a mean of.
pub(crate) fn forward(model: &dyn Model, loss: &dyn Loss, batch: &Batch) -> Result<Forward> {
    let predictions = model.forward_t(&batch.inputs, true)?;
    let means = loss.means(&predictions, &batch.targets)?;
    Ok(Forward { loss: sum(&means)?, predictions, means })
}

/// Forward, loss, backward: all of an iteration but the optimizer step. What comes between the two
/// (accumulation, all-reduce, clipping) changes [`Backward::gradients`].
///
/// # Errors
/// If shapes do not fit, or the loss is not a scalar.
pub fn forward_backward(model: &dyn Model, loss: &dyn Loss, batch: &Batch) -> Result<Backward> {
    // candle's own backward pass adds every gradient to zeros.
    let tape = Tape::start(true);
    let predictions = model.forward_t(&batch.inputs, true)?;
    let value = scalar(loss.forward(&predictions, &batch.targets)?)?;
    let gradients = tape.backward(&value)?;
    Ok(Backward { predictions: predictions.detach(), loss: value.detach(), gradients })
}

/// Forward, loss, backward, optimizer step: one iteration. Returns the detached loss, a scalar
/// still on the device.
///
/// There is nothing to zero: in candle every `backward` returns a fresh `GradStore`.
///
/// # Errors
/// If shapes do not fit, or a parameter receives no gradient.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let parameters = Parameters::new(0, &Device::Cpu);
/// let model = Linear::new(2, 2, &parameters.at("fc"))?;
/// let mut optimizer = Sgd::new(&parameters)?;
/// let x = Tensor::new(&[[1f32, 0.], [0., 1.]], &Device::Cpu)?;
/// let data = TensorDataset::new(x, Tensor::new(&[0u32, 1], &Device::Cpu)?)?;
/// let batch = data.batch(&[0, 1])?;
/// let first = train_step(&model, &CrossEntropy::default(), &mut optimizer, &batch, 0.5)?;
/// let second = train_step(&model, &CrossEntropy::default(), &mut optimizer, &batch, 0.5)?;
/// assert!(second.to_scalar::<f32>()? < first.to_scalar::<f32>()?);
/// # Ok::<(), candle_course::Error>(())
/// ```
pub fn train_step(
    model: &dyn Model,
    loss: &dyn Loss,
    optimizer: &mut dyn Optimizer,
    batch: &Batch,
    learning_rate: f64,
) -> Result<Tensor> {
    let Backward { loss, gradients, .. } = forward_backward(model, loss, batch)?;
    optimizer.step(&gradients, learning_rate)?;
    Ok(loss)
}

/// What [`evaluate`] found.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// The loss of all examples as one batch, whatever the batch size; of a loss that cannot be split
    /// (see [`MeanOf::Whole`](crate::losses::MeanOf::Whole)) the mean over batches, weighted by examples.
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
    evaluate_all(model, loss, loader, metrics, None)
}

/// [`evaluate`], with what the other ranks found in their parts of the data.
pub(crate) fn evaluate_all(
    model: &dyn Model,
    loss: &dyn Loss,
    loader: &DataLoader,
    metrics: &mut [Box<dyn Metric>],
    ranks: Option<&Ranks>,
) -> Result<Evaluation> {
    let mut go_on = |_: &Batch| Ok(ControlFlow::Continue(()));
    match evaluate_while(model, loss, loader, metrics, usize::MAX, &mut go_on, ranks)? {
        ControlFlow::Continue(evaluation) => Ok(evaluation),
        ControlFlow::Break(reason) => Err(Error::training(format!("the evaluation was stopped: {reason}"))),
    }
}

/// [`evaluate`] of the first batches, `most` at most, unless `before` a batch asks to stop; it gives the
/// reason. With `ranks`, of what they found in their parts together.
pub(crate) fn evaluate_while(
    model: &dyn Model,
    loss: &dyn Loss,
    loader: &DataLoader,
    metrics: &mut [Box<dyn Metric>],
    most: usize,
    before: &mut dyn FnMut(&Batch) -> Result<ControlFlow<String>>,
    ranks: Option<&Ranks>,
) -> Result<ControlFlow<String, Evaluation>> {
    let ranks = ranks.filter(|_| loader.sharded() != (0, 1));
    metrics.iter_mut().for_each(|metric| metric.reset());
    let mut losses = DeviceLosses::default();
    for batch in loader.epoch(0)?.take(most) {
        let batch = batch?;
        if let ControlFlow::Break(reason) = before(&batch)? {
            return match ranks {
                None => Ok(ControlFlow::Break(reason)),
                Some(ranks) => ranks.evaluation(&losses, metrics, Some(reason)),
            };
        }
        let predictions = no_grad(|| model.forward_t(&batch.inputs, false))?.detach();
        let means = loss.means(&predictions, &batch.targets)?;
        losses.push(&sum(&means)?, &means, batch.len());
        for metric in metrics.iter_mut() {
            metric.update(&predictions, &batch.targets)?;
        }
    }
    if let Some(ranks) = ranks {
        return ranks.evaluation(&losses, metrics, None);
    }
    if losses.is_empty() {
        return Err(Error::undefined("evaluation of no batches"));
    }
    let (loss, metrics) = (losses.mean()?, metric_values(metrics)?);
    Ok(ControlFlow::Continue(Evaluation { loss, metrics, examples: losses.examples() }))
}

/// The metrics' names and values.
pub(crate) fn metric_values(metrics: &[Box<dyn Metric>]) -> Result<Vec<(String, f64)>> {
    metrics.iter().map(|metric| Ok((metric.name().to_owned(), metric.compute()?))).collect()
}
