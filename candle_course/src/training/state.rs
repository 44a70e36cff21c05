//! What a training is, and where it stands.

use std::sync::Arc;

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::data::DataLoader;
use crate::error::{Result, always};
use crate::losses::Loss;
use crate::metrics::Metric;
use crate::nn::{Model, Parameters};
use crate::optimizers::{GradientAccumulator, GradientNorm, Optimizer, WeightAverage};
use crate::precision::Precision;
use crate::schedules::Schedule;
use crate::stateful::{State, Stateful as _};
use crate::training::builder::Clip;
use crate::training::guard::Guard;
use crate::training::limits::Limits;
use crate::training::losses::DeviceLosses;
use crate::training::ranks::Ranks;
use crate::training::step::evaluate_all;
use crate::training::{Evaluation, History, StepTimes, json};

/// Where a training stands: what a checkpoint needs to know besides tensors.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TrainState {
    /// Whole epochs done; also the number of the running epoch, counted from 0.
    pub epoch: usize,
    /// Batches done in the running epoch.
    pub batch: usize,
    /// Batches of an epoch; 0 before the first.
    pub batches_per_epoch: usize,
    /// Batches whose gradients wait for the next optimizer step.
    pub batches_in_step: usize,
    /// Seconds spent in the running epoch.
    pub seconds: f64,
    /// What they went into.
    #[serde(default)]
    pub times: StepTimes,
    /// Optimizer steps done since the beginning.
    pub step: usize,
    /// The learning rate of the last step (of the next one, before the first).
    #[serde(with = "json::number")]
    pub learning_rate: f64,
}

/// A training as its [`Callback`](crate::training::Callback)s see it: the model, what moves it, and
/// what has been recorded.
///
/// It is the part of a [`Trainer`](crate::training::Trainer) that knows nothing of callbacks and
/// checkpoints. A whole training, with the state of its callbacks, is saved by the trainer alone.
pub struct Training {
    pub(super) model: Arc<dyn Model>,
    pub(super) parameters: Parameters,
    pub(super) loss: Arc<dyn Loss>,
    pub(super) optimizer: Box<dyn Optimizer>,
    pub(super) schedule: Box<dyn Schedule>,
    pub(super) schedule_per_epoch: bool,
    pub(super) schedule_monitor: Option<String>,
    pub(super) accumulator: Option<GradientAccumulator>,
    pub(super) clip: Option<Clip>,
    pub(super) average: Option<WeightAverage>,
    pub(super) metrics: Vec<Box<dyn Metric>>,
    pub(super) train_metrics: bool,
    /// The training metrics of an epoch whose validation was interrupted.
    pub(super) train_values: Option<Vec<(String, f64)>>,
    pub(super) epochs: usize,
    pub(super) limits: Limits,
    pub(super) validating: bool,
    pub(super) state: TrainState,
    /// The losses of the running epoch, a batch each.
    pub(super) running: DeviceLosses,
    pub(super) precision: Precision,
    pub(super) checks_gradients: bool,
    pub(super) gradient_norm: Option<GradientNorm>,
    /// The last weights, while the model holds the best ones; training goes on from them.
    pub(super) displaced: Option<State>,
    pub(super) guard: Guard,
    pub(super) history: History,
    /// The other ranks, if there are any.
    pub(super) ranks: Option<Ranks>,
}

impl Training {
    /// The model.
    pub fn model(&self) -> &Arc<dyn Model> {
        &self.model
    }

    /// The model's variables.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// The loss.
    pub fn loss(&self) -> &Arc<dyn Loss> {
        &self.loss
    }

    /// The optimizer.
    pub fn optimizer(&self) -> &dyn Optimizer {
        &*self.optimizer
    }

    /// Where the training stands.
    pub fn state(&self) -> &TrainState {
        &self.state
    }

    /// What has been recorded so far.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// What this training records in every epoch, and can be monitored.
    pub fn monitors(&self) -> Vec<String> {
        let metrics = || self.metrics.iter().map(|metric| metric.name());
        let mut names = vec!["train_loss".to_owned()];
        if self.validating {
            names.push("validation_loss".to_owned());
        }
        if self.train_metrics {
            names.extend(metrics().map(|name| format!("train_{name}")));
        }
        if self.validating {
            names.extend(metrics().map(str::to_owned));
        }
        names.push("learning_rate".to_owned());
        names
    }

    /// Writes a remark into the history.
    pub fn note(&mut self, note: impl Into<String>) {
        self.history.note(note.into());
    }

    /// How many epochs in all.
    pub fn epochs(&self) -> usize {
        self.epochs
    }

    /// Trains for longer, or shorter, in all.
    pub fn set_epochs(&mut self, epochs: usize) {
        (self.epochs, self.limits.counts_steps) = (epochs, false);
    }

    /// How many batches an epoch has; 0 before the first [`Trainer::fit`](crate::training::Trainer::fit).
    pub fn batches_per_epoch(&self) -> usize {
        self.state.batches_per_epoch
    }

    /// How many examples the running epoch has seen.
    pub fn running_examples(&self) -> usize {
        self.running.examples()
    }

    /// The losses of the running epoch so far, a batch each. Waits for the device.
    ///
    /// # Errors
    /// If the device fails.
    pub fn running_losses(&self) -> Result<Vec<f64>> {
        self.running.values()
    }

    /// The mean training loss of the running epoch so far. Waits for the device.
    ///
    /// # Errors
    /// If the device fails.
    pub fn running_loss(&self) -> Result<f64> {
        self.running.mean()
    }

    /// The training metrics of the running epoch so far, of those that are defined yet; none
    /// without [`train_metrics`](crate::training::TrainerBuilder::train_metrics).
    pub fn running_metrics(&self) -> Vec<(String, f64)> {
        let metrics = self.metrics.iter().filter(|_| self.train_metrics);
        metrics.filter_map(|metric| Some((metric.name().to_owned(), metric.compute().ok()?))).collect()
    }

    /// The loss of the last batch, a scalar still on the device.
    pub fn last_loss(&self) -> Option<&Tensor> {
        self.running.last()
    }

    /// The gradient's norm in the last step, before clipping; only with
    /// [`clip_norm`](crate::training::TrainerBuilder::clip_norm).
    pub fn gradient_norm(&self) -> Option<f64> {
        self.gradient_norm.as_ref()?.value().ok()
    }

    /// Loss and metrics on other data, in evaluation mode: the test set, at the end. With
    /// [`ema`](crate::training::TrainerBuilder::ema), of the averaged weights. On several ranks, a loader's
    /// [`shard`](crate::data::DataLoader::shard) is evaluated by all of them together, which all have to call this.
    ///
    /// # Errors
    /// As [`evaluate`](crate::training::evaluate).
    pub fn evaluate(&mut self, loader: &DataLoader) -> Result<Evaluation> {
        let _precision = self.precision.scope(self.parameters.device())?;
        if self.train_metrics && (1..self.state.batches_per_epoch).contains(&self.state.batch) {
            let epoch = self.state.epoch + 1;
            self.note(format!("the training metrics of epoch {epoch} cover only the batches after an evaluation"));
        }
        self.with_average(|Self { model, loss, metrics, ranks, .. }| {
            evaluate_all(&**model, &**loss, loader, metrics, ranks.as_ref())
        })
    }

    /// Exchanges the model's weights and their average, if there is one: to save or serve the
    /// average. Training on needs a second exchange. Nothing happens while the model holds the best
    /// weights that early stopping brought back: they are averages already.
    ///
    /// # Errors
    /// If parameters were added since the average was made.
    pub fn swap_average(&mut self) -> Result<()> {
        match &mut self.average {
            Some(average) if average.updates() > 0 && self.displaced.is_none() => average.swap(),
            _ => Ok(()),
        }
    }

    /// Looks at the model while it holds the averaged weights, if there are any. The last weights come
    /// back whatever happens: a panic of a model must not leave the average in their place, nor half a
    /// validation in the metrics.
    pub(super) fn with_average<T>(&mut self, look: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.swap_average()?;
        always(self, look, |training| {
            let back = training.swap_average();
            training.metrics.iter_mut().for_each(|metric| metric.reset());
            back
        })
    }

    /// The weights by which the validation was done: the average, if there is one.
    pub(super) fn evaluated_weights(&mut self) -> Result<State> {
        self.with_average(|training| training.parameters.state())
    }

    /// Gives the model other weights than the last ones, to be used until training goes on.
    pub(super) fn hold(&mut self, tensors: &State) -> Result<()> {
        // Two callbacks may ask for it; the last weights are those before the first.
        if self.displaced.is_none() {
            self.displaced = Some(self.parameters.state()?);
        }
        self.parameters.load_state(tensors)
    }

    /// Gives the model the last weights back.
    pub(super) fn release(&mut self) -> Result<()> {
        if let Some(last) = &self.displaced {
            self.parameters.load_state(last)?;
        }
        self.displaced = None;
        Ok(())
    }

    /// Moves the losses of the steps so far into the history.
    pub(super) fn record_steps(&mut self) -> Result<()> {
        if !self.history.has_pending() {
            return Ok(());
        }
        let losses = self.running.read()?;
        self.history.record_steps(|batches| losses.mean(batches))
    }

    pub(super) fn scheduled_rate(&self) -> f64 {
        self.schedule.learning_rate(self.schedule_position())
    }

    /// What the schedule is asked with: the epoch or the step, counted from 0.
    pub(super) fn schedule_position(&self) -> usize {
        if self.schedule_per_epoch { self.state.epoch } else { self.state.step }
    }

    /// What the schedule was asked with for the last step of the epoch that has just ended.
    pub(super) fn last_position(&self) -> usize {
        if self.schedule_per_epoch { self.state.epoch - 1 } else { self.state.step.saturating_sub(1) }
    }
}
