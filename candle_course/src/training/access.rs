//! What can be asked of a trainer.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use candle_core::Tensor;

use crate::checkpoint::Checkpoint;
use crate::data::DataLoader;
use crate::error::{Error, Result};
use crate::losses::Loss;
use crate::nn::{Model, Parameters};
use crate::notebook::Table;
use crate::optimizers::Optimizer;
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

    pub(super) fn unknown_monitor(&self, name: &str) -> Error {
        Error::argument("monitor", format!("one of [{}]", self.monitors().join(", ")), format!("`{name}`")).hint(
            "validation values need a validation loader, metrics `.metric(…)`, training metrics `.train_metrics()`",
        )
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

    /// The loss of the last batch, a scalar still on the device.
    pub fn last_loss(&self) -> Option<&Tensor> {
        self.running.last()
    }

    /// The gradient's norm in the last step, before clipping; only with
    /// [`clip_norm`](crate::training::TrainerBuilder::clip_norm).
    pub fn gradient_norm(&self) -> Option<f64> {
        self.gradient_norm
    }

    /// The events of a training, in order, and who listens.
    pub fn order_of_events(&self) -> Table {
        let listeners: Vec<&str> = self.callbacks.iter().map(|callback| callback.name()).collect();
        let mut table = Table::new(["event", "when"]).title(&format!("callbacks, in order: {}", listeners.join(", ")));
        EVENTS.iter().for_each(|&(event, when)| table.push((event, when)));
        table
    }

    /// Exchanges the model's weights and their average, if there is one: to save or serve the
    /// average. Training on needs a second exchange.
    ///
    /// # Errors
    /// If no step has been taken yet.
    pub fn swap_average(&mut self) -> Result<()> {
        match &mut self.average {
            Some(average) if average.updates() > 0 => average.swap(),
            _ => Ok(()),
        }
    }

    /// The weights by which the validation was done: the average, if there is one.
    pub(super) fn evaluated_weights(&mut self) -> Result<BTreeMap<String, Tensor>> {
        self.swap_average()?;
        let tensors = self.parameters.tensors();
        self.swap_average()?;
        tensors
    }

    /// Notes validation examples that are training examples too.
    pub(super) fn note_overlap(&mut self, train: &DataLoader, validation: Option<&DataLoader>) -> Result<()> {
        let Some(validation) = validation else { return Ok(()) };
        let seen: HashSet<(usize, usize)> = train.origins(self.state.epoch)?.into_iter().collect();
        let validated: HashSet<(usize, usize)> = validation.origins(0)?.into_iter().collect();
        let mut both: Vec<usize> = validated.intersection(&seen).map(|&(_, index)| index).collect();
        if !both.is_empty() {
            both.sort_unstable();
            let first: Vec<String> = both.iter().take(5).map(usize::to_string).collect();
            self.note(format!(
                "warning: {} of {} validation examples are training examples too (index {}{}); the validation flatters",
                both.len(),
                validated.len(),
                first.join(", "),
                if both.len() > 5 { ", …" } else { "" }
            ));
        }
        Ok(())
    }
}
