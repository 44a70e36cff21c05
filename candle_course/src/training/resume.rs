//! The whole state of a training, out and in again.

use std::path::Path;

use crate::checkpoint::{CheckpointFolder, GeneratorStates, Retention, Snapshot};
use crate::error::{Context, Error, ErrorKind, Result, contained};
use crate::stateful::Stateful as _;
use crate::training::losses::DeviceLosses;
use crate::training::ranks::{RANKS, generators_of};
use crate::training::{History, TrainState, Trainer};

/// The section of the best weights, while the model holds them. `model` are the last ones always:
/// those that the training goes on from, and that the checkpoint's metric is of.
const HELD: &str = "held weights";

/// Under which name a training metric of an epoch that waits for its validation is saved.
fn waiting(metric: &str) -> String {
    format!("train_metric.{metric}")
}

/// The sections of callbacks, by their names; the second of a name has a number.
fn sections(names: Vec<&str>) -> Vec<String> {
    let mut sections: Vec<String> = Vec::new();
    for name in names {
        let name = format!("callback {}", name.replace(['/', ','], " "));
        let numbered = (2..).map(|number| format!("{name} {number}"));
        let free = std::iter::once(name.clone()).chain(numbered).find(|name| !sections.contains(name));
        sections.extend(free);
    }
    sections
}

/// Counters that cannot be, of a file that something else wrote: they would be computed with.
fn check(state: &TrainState, history: &History, running: &DeviceLosses) -> Result<()> {
    const MOST: usize = 1 << 40;
    let TrainState { epoch, batch, batches_per_epoch, batches_in_step, step, .. } = *state;
    let possible = [epoch, batches_per_epoch, step].iter().all(|&count| count < MOST)
        && epoch.checked_mul(batches_per_epoch.max(1)).is_some_and(|batches| batches < usize::MAX / 2)
        && batch <= batches_per_epoch
        && batches_in_step <= batch
        && (batch == 0 || running.len() == batch)
        && history.recorded() <= running.len();
    if possible {
        return Ok(());
    }
    Err(Error::checkpoint(format!(
        "the training's state contradicts itself: {state:?}, {} batches of this epoch with losses, {} of them recorded",
        running.len(),
        history.recorded()
    )))
}

impl Trainer {
    /// Everything this training is: parameters, optimizer, schedule, generators, accumulated
    /// gradients, averages, callbacks, position and history.
    ///
    /// The section `model` holds the last weights: those that the training goes on from. Other
    /// weights that the model may hold stand beside it: the best, which early stopping brought back,
    /// in `held weights`; the average of [`ema`](crate::training::TrainerBuilder::ema) in `average`. Of several ranks
    /// all call this: it holds the generators of each.
    ///
    /// # Errors
    /// If a state cannot be had.
    pub fn snapshot(&mut self) -> Result<Snapshot> {
        let Self { training, callbacks, .. } = self;
        training.record_steps()?;
        let held = training.displaced.as_ref().map(|_| training.parameters.state()).transpose()?;
        let model = training.displaced.clone().map_or_else(|| training.parameters.state(), Ok)?;
        let mut snapshot = Snapshot::new()
            .tensors("model", model)?
            .section("optimizer", &*training.optimizer)?
            .section("schedule", &training.schedule)?
            .tensors("epoch", training.running.state()?)?
            .text("history", &serde_json::to_string(&training.history)?)
            .text("state", &serde_json::to_string(&training.state)?);
        let generators = training.gather_generators(GeneratorStates::new(&training.parameters).state()?)?;
        for (rank, generators) in generators.into_iter().enumerate() {
            snapshot = snapshot.tensors(&generators_of(rank), generators)?;
        }
        if training.ranks() > 1 {
            snapshot = snapshot.number(RANKS, training.ranks() as f64);
        }
        if let Some(accumulator) = &training.accumulator {
            snapshot = snapshot.section("accumulator", accumulator)?;
        }
        if let Some(average) = &training.average {
            snapshot = snapshot.section("average", average)?;
        }
        if let Some(held) = held {
            snapshot = snapshot.tensors(HELD, held)?;
        }
        for (name, value) in training.train_values.iter().flatten() {
            snapshot = snapshot.number(&waiting(name), *value);
        }
        let names = sections(callbacks.names());
        for (callback, name) in callbacks.iter().zip(&names) {
            let tensors = contained(ErrorKind::Training, name, || callback.state())?;
            if !tensors.is_empty() {
                snapshot = snapshot.tensors(name, tensors)?;
            }
        }
        Ok(snapshot)
    }

    /// Goes back to what [`Trainer::snapshot`] saved. Build the trainer as it was built then; the
    /// number of epochs may differ. Of several ranks all call this.
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
        let Self { training, callbacks, .. } = self;
        let optional = [("accumulator", training.accumulator.is_some()), ("average", training.average.is_some())];
        for (name, here) in optional {
            let there = snapshot.sections().contains(&name);
            if here != there {
                let (with, without) =
                    if there { ("the checkpoint", "this trainer") } else { ("this trainer", "the checkpoint") };
                return Err(Error::checkpoint(format!("{with} has an {name}, {without} has none"))
                    .hint("build the trainer with the same `accumulate` and `ema` as then"));
            }
        }
        let known = sections(callbacks.names());
        let saved = snapshot.sections().into_iter().filter(|name| name.starts_with("callback "));
        if let Some(missing) = saved.into_iter().find(|name| !known.iter().any(|known| known == name)) {
            return Err(Error::checkpoint(format!(
                "the checkpoint holds the state of {missing}, which this trainer lacks"
            )));
        }
        let state: TrainState = serde_json::from_str(snapshot.get_text("state")?).context("the state is damaged")?;
        let mut history: History =
            serde_json::from_str(snapshot.get_text("history")?).context("the history is damaged")?;
        history.set_directions(&training.metrics);
        let running = DeviceLosses::from_state(snapshot.get("epoch")?, training.parameters.device())?;
        check(&state, &history, &running)?;
        let trained = state.batch > 0 && state.batch == state.batches_per_epoch;
        let train_values = (trained && training.train_metrics).then(|| {
            let value = |name: &str| snapshot.get_number(&waiting(name)).unwrap_or(f64::NAN);
            training.metrics.iter().map(|metric| (metric.name().to_owned(), value(metric.name()))).collect()
        });

        snapshot.restore("model", &mut training.parameters)?;
        snapshot.restore("optimizer", &mut *training.optimizer)?;
        training.restore_generators(snapshot)?;
        snapshot.restore("schedule", &mut training.schedule)?;
        if let Some(accumulator) = &mut training.accumulator {
            snapshot.restore("accumulator", accumulator)?;
        }
        if let Some(average) = &mut training.average {
            snapshot.restore("average", average)?;
        }
        for (callback, name) in callbacks.iter_mut().zip(&known) {
            if snapshot.sections().contains(&name.as_str()) {
                let tensors = snapshot.get(name)?;
                contained(ErrorKind::Training, name, || callback.load_state(tensors))?;
            }
        }
        training.displaced = None;
        if snapshot.sections().contains(&HELD) {
            training.hold(snapshot.get(HELD)?)?;
        }
        training.guard.forget();
        (training.state, training.history, training.running) = (state, history, running);
        training.train_values = train_values;
        if training.train_metrics && training.state.batch > 0 && !trained {
            let epoch = training.state.epoch + 1;
            training.note(format!("the training metrics of epoch {epoch} cover only the batches after resuming"));
        }
        Ok(())
    }

    /// Goes on from the newest checkpoint in `folder` that is whole; says whether there was one.
    /// Damaged newer ones are told in the history's notes. Of several ranks all call this, and rank 0 reads.
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
    ///     let mut trainer = Trainer::builder(model, &parameters, CrossEntropy::default(), Sgd::new(&parameters)?)
    ///         .epochs(epochs)
    ///         .learning_rate(0.1)
    ///         .checkpoints(Checkpoints::new(folder))
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
        let latest = || match folder.exists() {
            // What is kept is for the training to decide, not for looking.
            true => CheckpointFolder::open(folder, Retention::new().last(usize::MAX))?.latest(),
            false => Ok(None),
        };
        let found = match &mut self.training.ranks {
            None => latest()?,
            Some(ranks) => {
                let reads = ranks.rank() == 0;
                ranks.share(reads.then(latest))?
            }
        };
        let Some(found) = found else { return Ok(false) };
        self.restore(&found.snapshot).with_context(|| format!("cannot resume from {}", found.path.display()))?;
        self.training.note_ranks(&found.snapshot);
        for damaged in found.damaged {
            self.training.note(format!(
                "passed over the damaged checkpoint {}: {}",
                damaged.path.display(),
                damaged.reason
            ));
        }
        Ok(true)
    }
}
