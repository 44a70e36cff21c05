//! The whole state of a training, out and in again.

use std::path::Path;

use candle_core::{Device, Tensor};

use crate::checkpoint::{CheckpointFolder, GeneratorStates, Retention, Snapshot};
use crate::error::{Context, Error, Result};
use crate::stateful::Stateful as _;
use crate::training::losses::DeviceLosses;
use crate::training::{Callback, History, TrainState, Trainer};

/// The section of the best weights, while the model holds them. `model` are the last ones always:
/// those that the training goes on from, and that the checkpoint's metric is of.
const HELD: &str = "held weights";

/// Under which name a training metric of an epoch that waits for its validation is saved.
fn waiting(metric: &str) -> String {
    format!("train_metric.{metric}")
}

/// The sections of callbacks, by their names; the second of a name has a number.
fn sections<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut sections: Vec<String> = Vec::new();
    for name in names {
        let name = format!("callback {}", name.replace(['/', ','], " "));
        let numbered = (2..).map(|number| format!("{name} {number}"));
        let free = std::iter::once(name.clone()).chain(numbered).find(|name| !sections.contains(name));
        sections.extend(free);
    }
    sections
}

impl Trainer {
    pub(super) fn save_if_due(&mut self, callbacks: &mut [&mut dyn Callback], epoch_ended: bool) -> Result<()> {
        match self.checkpoints.as_ref().is_some_and(|checkpoints| checkpoints.is_due(self, epoch_ended)) {
            true => self.save(callbacks),
            false => Ok(()),
        }
    }

    /// Saves a checkpoint, if this training has checkpoints and has made a step.
    pub(super) fn save(&mut self, callbacks: &mut [&mut dyn Callback]) -> Result<()> {
        if self.checkpoints.is_none() || self.state.step == 0 {
            return Ok(());
        }
        let callbacks: Vec<&dyn Callback> = callbacks.iter().map(|callback| &**callback as &dyn Callback).collect();
        let snapshot = self.snapshot_with(&callbacks)?;
        let Some(mut checkpoints) = self.checkpoints.take() else { return Ok(()) };
        let result = checkpoints.save(self, &snapshot);
        self.checkpoints = Some(checkpoints);
        result
    }

    /// Everything this training is: parameters, optimizer, schedule, generators, accumulated
    /// gradients, averages, callbacks, position and history.
    ///
    /// The section `model` holds the last weights: those that the training goes on from. Other
    /// weights that the model may hold stand beside it: the best, which early stopping brought back,
    /// in `held weights`; the average of [`ema`](crate::training::TrainerBuilder::ema) in `average`.
    ///
    /// Not for a callback: while `fit` runs, callbacks are in its hands, and their state would be
    /// missing. [`Checkpoints`](crate::training::callbacks::Checkpoints) saves it.
    ///
    /// # Errors
    /// If a state cannot be had.
    pub fn snapshot(&mut self) -> Result<Snapshot> {
        let callbacks = std::mem::take(&mut self.callbacks);
        let listeners: Vec<&dyn Callback> = callbacks.iter().map(|callback| &**callback as &dyn Callback).collect();
        let result = self.snapshot_with(&listeners);
        self.callbacks = callbacks;
        result
    }

    fn snapshot_with(&mut self, callbacks: &[&dyn Callback]) -> Result<Snapshot> {
        self.record_steps()?;
        let mut history = self.history.clone();
        let numbers: Vec<f64> = history.numbers().into_iter().map(|number| *number).collect();
        let count = numbers.len();
        let numbers = Tensor::from_vec(numbers, count, &Device::Cpu)?;
        let held = self.displaced.as_ref().map(|_| self.parameters.state()).transpose()?;
        let model = self.displaced.clone().map_or_else(|| self.parameters.state(), Ok)?;
        let mut snapshot = Snapshot::new()
            .tensors("model", model)?
            .section("optimizer", &*self.optimizer)?
            .section("generators", &GeneratorStates::new(&self.parameters))?
            .tensors("schedule", self.schedule.state()?)?
            .tensors("epoch", self.running.state()?)?
            .tensors("history", [("numbers".to_owned(), numbers)].into())?
            .text("history", &serde_json::to_string(&self.history)?)
            .text("state", &serde_json::to_string(&self.state)?)
            .number("learning_rate", self.state.learning_rate);
        if let Some(accumulator) = &self.accumulator {
            snapshot = snapshot.section("accumulator", accumulator)?;
        }
        if let Some(average) = &self.average {
            snapshot = snapshot.section("average", average)?;
        }
        if let Some(held) = held {
            snapshot = snapshot.tensors(HELD, held)?;
        }
        for (name, value) in self.train_values.iter().flatten() {
            snapshot = snapshot.number(&waiting(name), *value);
        }
        let names = sections(callbacks.iter().map(|callback| callback.name()));
        for (callback, name) in callbacks.iter().zip(&names) {
            let tensors = callback.state()?;
            if !tensors.is_empty() {
                snapshot = snapshot.tensors(name, tensors)?;
            }
        }
        Ok(snapshot)
    }

    /// Goes back to what [`Trainer::snapshot`] saved. Build the trainer as it was built then; the
    /// number of epochs may differ.
    ///
    /// # Errors
    /// If the snapshot is of another training: another model, optimizer, accumulation, average, or
    /// a callback that is missing here. Nothing has changed then.
    pub fn restore(&mut self, snapshot: &Snapshot) -> Result<()> {
        let before = self.snapshot()?;
        self.apply(snapshot).inspect_err(|_| {
            // What this very trainer gave fits it.
            let _ = self.apply(&before);
        })
    }

    fn apply(&mut self, snapshot: &Snapshot) -> Result<()> {
        let optional = [("accumulator", self.accumulator.is_some()), ("average", self.average.is_some())];
        for (name, here) in optional {
            let there = snapshot.sections().contains(&name);
            if here != there {
                let (with, without) =
                    if there { ("the checkpoint", "this trainer") } else { ("this trainer", "the checkpoint") };
                return Err(Error::checkpoint(format!("{with} has an {name}, {without} has none"))
                    .hint("build the trainer with the same `accumulate` and `ema` as then"));
            }
        }
        let known = sections(self.callbacks.iter().map(|callback| callback.name()));
        let saved = snapshot.sections().into_iter().filter(|name| name.starts_with("callback "));
        if let Some(missing) = saved.into_iter().find(|name| !known.iter().any(|known| known == name)) {
            return Err(Error::checkpoint(format!(
                "the checkpoint holds the state of {missing}, which this trainer lacks"
            )));
        }
        let mut state: TrainState =
            serde_json::from_str(snapshot.get_text("state")?).context("the state is damaged")?;
        state.learning_rate = snapshot.get_number("learning_rate")?;
        let mut history: History =
            serde_json::from_str(snapshot.get_text("history")?).context("the history is damaged")?;
        let numbers =
            snapshot.get("history")?.get("numbers").map(Tensor::to_vec1::<f64>).transpose()?.unwrap_or_default();
        let places = history.numbers();
        if places.len() != numbers.len() {
            return Err(Error::checkpoint(format!("the history has {} numbers, got {}", places.len(), numbers.len())));
        }
        places.into_iter().zip(numbers).for_each(|(place, number)| *place = number);
        history.set_directions(&self.metrics);
        let running = DeviceLosses::from_state(snapshot.get("epoch")?, self.parameters.device())?;
        let trained = state.batch > 0 && state.batch == state.batches_per_epoch;
        let train_values = (trained && self.train_metrics).then(|| {
            let value = |name: &str| snapshot.get_number(&waiting(name)).unwrap_or(f64::NAN);
            self.metrics.iter().map(|metric| (metric.name().to_owned(), value(metric.name()))).collect()
        });

        snapshot.restore("model", &mut self.parameters)?;
        snapshot.restore("optimizer", &mut *self.optimizer)?;
        snapshot.restore("generators", &mut GeneratorStates::new(&self.parameters))?;
        self.schedule.load_state(snapshot.get("schedule")?)?;
        if let Some(accumulator) = &mut self.accumulator {
            snapshot.restore("accumulator", accumulator)?;
        }
        if let Some(average) = &mut self.average {
            snapshot.restore("average", average)?;
        }
        for (callback, name) in self.callbacks.iter_mut().zip(&known) {
            if snapshot.sections().contains(&name.as_str()) {
                callback.load_state(snapshot.get(name)?)?;
            }
        }
        self.displaced = None;
        if snapshot.sections().contains(&HELD) {
            self.hold(snapshot.get(HELD)?)?;
        }
        self.guard.forget();
        (self.state, self.history, self.running) = (state, history, running);
        self.train_values = train_values;
        if self.train_metrics && self.state.batch > 0 && !trained {
            let epoch = self.state.epoch + 1;
            self.note(format!("the training metrics of epoch {epoch} cover only the batches after resuming"));
        }
        Ok(())
    }

    /// Goes on from the newest checkpoint in `folder` that is whole; says whether there was one.
    /// Damaged newer ones are told in the history's notes.
    ///
    /// # Errors
    /// If there are checkpoints but none is whole, or it is of another training.
    ///
    /// # Examples
    ///
    /// ```
    /// use candle_course::prelude::*;
    ///
    /// # let x = Tensor::arange(-8f32, 8., &Device::Cpu)?.reshape((16, 1))?;
    /// # let y = x.flatten_all()?.ge(0f32)?.to_dtype(DType::U32)?;
    /// # let train = DataLoader::builder(TensorDataset::new(x, y)?).batch_size(4).shuffle(1).build()?;
    /// # let temporary = tempfile::tempdir()?;
    /// # let folder = temporary.path();
    /// let run = |epochs: usize| -> Result<History> {
    ///     let parameters = Parameters::new(0, &Device::Cpu);
    ///     let model = Linear::new(1, 2, &parameters.at("fc"))?;
    ///     let mut trainer = Trainer::builder(model, &parameters, CrossEntropy::default(), Sgd::builder(&parameters).build()?)
    ///         .epochs(epochs)
    ///         .learning_rate(0.1)
    ///         .checkpoints(Checkpoints::builder(folder).build()?)
    ///         .build()?;
    ///     trainer.resume(folder)?;
    ///     trainer.fit(&train, None)
    /// };
    /// run(2)?; // and now the machine goes down
    /// assert_eq!(run(5)?.epochs().len(), 5);
    /// # Ok::<(), candle_course::Error>(())
    /// ```
    pub fn resume(&mut self, folder: impl AsRef<Path>) -> Result<bool> {
        let folder = folder.as_ref();
        if !folder.exists() {
            return Ok(false);
        }
        // What is kept is for the training to decide, not for looking.
        let Some(found) = CheckpointFolder::open(folder, Retention::new().last(usize::MAX))?.latest()? else {
            return Ok(false);
        };
        self.restore(&found.snapshot).with_context(|| format!("cannot resume from {}", found.path.display()))?;
        for damaged in found.damaged {
            self.note(format!("passed over the damaged checkpoint {}: {}", damaged.path.display(), damaged.reason));
        }
        Ok(true)
    }
}
