//! What can be asked of a trainer.

use std::sync::Arc;

use candle_core::Tensor;

use crate::error::Result;
use crate::losses::Loss;
use crate::nn::{Model, Parameters};
use crate::notebook::Table;
use crate::optimizers::Optimizer;
use crate::stateful::{State, Stateful};
use crate::training::callbacks::EVENTS;
use crate::training::{History, TrainState, Trainer};

impl Trainer {
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

    /// Writes a remark into the history, for a callback.
    pub fn note(&mut self, note: impl Into<String>) {
        self.history.note(note.into());
    }

    /// How many epochs in all.
    pub fn epochs(&self) -> usize {
        self.epochs
    }

    /// Trains for longer, or shorter, in all.
    pub fn set_epochs(&mut self, epochs: usize) {
        self.epochs = epochs;
    }

    /// How many batches an epoch has; 0 before the first [`Trainer::fit`].
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

    /// The events of a training, in order, and who listens.
    pub fn order_of_events(&self) -> Table {
        let listeners: Vec<&str> = self.callbacks.iter().map(|callback| callback.name()).collect();
        let mut table = Table::new(["event", "when"]).title(&format!("callbacks, in order: {}", listeners.join(", ")));
        EVENTS.iter().for_each(|&(event, when)| table.push((event, when)));
        table
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

    /// The weights by which the validation was done: the average, if there is one.
    pub(super) fn evaluated_weights(&mut self) -> Result<State> {
        self.swap_average()?;
        let tensors = self.parameters.state();
        self.swap_average()?;
        tensors
    }
}
