//! What a training went through.

use std::ops::Range;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::atomic;
use crate::direction::Direction;
use crate::error::{Context, Error, Result};
use crate::metrics::Metric;
use crate::training::json;

/// One epoch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EpochRecord {
    /// How many epochs were done with this one: 1 for the first.
    pub epoch: usize,
    /// How many optimizer steps were done by its end.
    pub step: usize,
    /// The training loss of all examples, of the model as it was at each step.
    #[serde(with = "json::number")]
    pub train_loss: f64,
    /// The validation loss of all examples, of the model as it was at the end; as
    /// [`Evaluation::loss`](crate::training::Evaluation::loss).
    #[serde(with = "json::optional")]
    pub validation_loss: Option<f64>,
    /// Metrics on the validation data.
    #[serde(with = "json::named")]
    pub metrics: Vec<(String, f64)>,
    /// Metrics on the training batches.
    #[serde(with = "json::named")]
    pub train_metrics: Vec<(String, f64)>,
    /// The learning rate of the last step.
    #[serde(with = "json::number")]
    pub learning_rate: f64,
    /// Seconds for training and validation.
    #[serde(with = "json::number")]
    pub seconds: f64,
    /// Seconds for training alone.
    #[serde(with = "json::number")]
    pub train_seconds: f64,
    /// How many training examples were seen.
    pub examples: usize,
    /// What the training's seconds went into.
    #[serde(default)]
    pub times: StepTimes,
}

/// Seconds of an epoch's steps, by what they went into. What is left of
/// [`EpochRecord::train_seconds`] are the callbacks and the checkpoints.
///
/// On a GPU the parts are the times of handing work over; the device does it later, and whoever waits
/// for it has the time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct StepTimes {
    /// Waiting for batches.
    pub data: f64,
    /// The model and the loss.
    pub forward: f64,
    /// The gradients, and adding them up where they are accumulated.
    pub backward: f64,
    /// Clipping, the optimizer's step, and the average of the weights.
    pub optimizer: f64,
}

impl StepTimes {
    /// All four parts.
    pub fn total(&self) -> f64 {
        self.data + self.forward + self.backward + self.optimizer
    }
}

impl std::fmt::Display for StepTimes {
    /// `data 3 %, forward 30 %, backward 58 %, optimizer 9 %`
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let total = self.total().max(f64::MIN_POSITIVE);
        let parts = [
            ("data", self.data),
            ("forward", self.forward),
            ("backward", self.backward),
            ("optimizer", self.optimizer),
        ];
        let parts = parts.map(|(name, seconds)| format!("{name} {:.0} %", 100.0 * seconds / total));
        f.write_str(&parts.join(", "))
    }
}

impl EpochRecord {
    /// A value by its name: `train_loss`, `validation_loss`, `learning_rate`, a metric's name, or
    /// `train_` and a metric's name.
    ///
    /// # Errors
    /// If nothing of that name was recorded; the message lists what was.
    pub fn metric(&self, name: &str) -> Result<f64> {
        self.columns()
            .into_iter()
            .find(|(column, _)| column == name)
            .map(|(_, value)| value)
            .ok_or_else(|| unknown(name, self.columns().into_iter().map(|(column, _)| column)))
    }

    pub(super) fn columns(&self) -> Vec<(String, f64)> {
        let mut columns = vec![("train_loss".to_owned(), self.train_loss)];
        columns.extend(self.validation_loss.map(|loss| ("validation_loss".to_owned(), loss)));
        columns.extend(self.train_metrics.iter().map(|(name, value)| (format!("train_{name}"), *value)));
        columns.extend(self.metrics.iter().cloned());
        columns.push(("learning_rate".to_owned(), self.learning_rate));
        columns
    }
}

fn unknown(name: &str, known: impl Iterator<Item = String>) -> Error {
    let known: Vec<String> = known.collect();
    Error::argument("monitor", format!("one of [{}]", known.join(", ")), format!("`{name}`"))
        .hint("validation values need a validation loader, metrics `.metric(…)`, training metrics `.train_metrics()`")
}

/// One optimizer step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Which step: 1 for the first.
    pub step: usize,
    /// The loss of its batch, or of all its accumulated batches as one, before the step.
    #[serde(with = "json::number")]
    pub loss: f64,
    /// Its learning rate.
    #[serde(with = "json::number")]
    pub learning_rate: f64,
}

/// A validation between two steps of an epoch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepEvaluation {
    /// How many optimizer steps were done.
    pub step: usize,
    /// The validation loss.
    #[serde(with = "json::number")]
    pub loss: f64,
    /// Metrics on the validation data.
    #[serde(with = "json::named")]
    pub metrics: Vec<(String, f64)>,
}

/// What a training went through: a record for every epoch and for every step.
///
/// A notebook cell that ends with a `History` shows it as curves and a table.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    epochs: Vec<EpochRecord>,
    steps: Vec<StepRecord>,
    /// Steps whose losses are still on the device: step, learning rate, batches.
    #[serde(skip)]
    pending: Vec<(usize, f64, usize)>,
    /// Batches of the running epoch whose steps are recorded.
    recorded: usize,
    /// The metrics of which more is better.
    maximized: Vec<String>,
    stopped: Option<String>,
    notes: Vec<String>,
    #[serde(default)]
    evaluations: Vec<StepEvaluation>,
}

impl History {
    /// Knows the direction of `metrics`, and of those that only the past had.
    pub(super) fn set_directions(&mut self, metrics: &[Box<dyn Metric>]) {
        self.maximized.retain(|name| metrics.iter().all(|metric| metric.name() != name));
        let maximized = metrics.iter().filter(|metric| metric.direction() == Direction::Maximize);
        self.maximized.extend(maximized.map(|metric| metric.name().to_owned()));
    }

    pub(super) fn note_step(&mut self, step: usize, learning_rate: f64, batches: usize) {
        self.pending.push((step, learning_rate, batches));
    }

    /// Whether steps wait for their losses.
    pub(super) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Gives the steps noted their losses: `loss` of each step's batches, by their places in the epoch.
    pub(super) fn record_steps(&mut self, loss: impl Fn(Range<usize>) -> Result<f64>) -> Result<()> {
        for (step, learning_rate, batches) in std::mem::take(&mut self.pending) {
            let range = self.recorded..self.recorded.saturating_add(batches);
            self.recorded = range.end;
            self.steps.push(StepRecord { step, loss: loss(range)?, learning_rate });
        }
        Ok(())
    }

    /// How many batches of the running epoch the recorded steps are made of.
    pub(super) fn recorded(&self) -> usize {
        self.recorded
    }

    /// Whether the steps of `past` are this history's first.
    pub(super) fn begins_with(&self, past: &Self) -> bool {
        let bits = |record: &StepRecord| (record.step, record.loss.to_bits(), record.learning_rate.to_bits());
        past.steps.len() <= self.steps.len() && past.steps.iter().zip(&self.steps).all(|(a, b)| bits(a) == bits(b))
    }

    /// A finished epoch.
    pub(super) fn push(&mut self, record: EpochRecord) {
        self.recorded = 0;
        self.epochs.push(record);
    }

    pub(super) fn push_evaluation(&mut self, evaluation: StepEvaluation) {
        self.evaluations.push(evaluation);
    }

    /// The validations between steps, in order; those at an epoch's end are in its record.
    pub fn evaluations(&self) -> &[StepEvaluation] {
        &self.evaluations
    }

    /// Seconds of all epochs' steps, by what they went into.
    pub fn times(&self) -> StepTimes {
        self.epochs.iter().fold(StepTimes::default(), |sum, EpochRecord { times, .. }| StepTimes {
            data: sum.data + times.data,
            forward: sum.forward + times.forward,
            backward: sum.backward + times.backward,
            optimizer: sum.optimizer + times.optimizer,
        })
    }

    pub(super) fn set_stopped(&mut self, reason: Option<String>) {
        self.stopped = reason;
    }

    /// The epochs, in order.
    pub fn epochs(&self) -> &[EpochRecord] {
        &self.epochs
    }

    /// The steps, in order; those of a running epoch come when it ends or stops.
    pub fn steps(&self) -> &[StepRecord] {
        &self.steps
    }

    /// The loss of every step, in order.
    pub fn step_losses(&self) -> Vec<f64> {
        self.steps.iter().map(|step| step.loss).collect()
    }

    /// Why training ended before the last epoch, if it did.
    pub fn stopped(&self) -> Option<&str> {
        self.stopped.as_deref()
    }

    pub(super) fn note(&mut self, note: String) {
        self.notes.retain(|other| *other != note);
        self.notes.push(note);
    }

    /// Remarks of callbacks.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Seconds in all epochs.
    pub fn seconds(&self) -> f64 {
        self.epochs.iter().map(|record| record.seconds).sum()
    }

    /// The last epoch.
    ///
    /// # Errors
    /// If no epoch is done.
    pub fn last(&self) -> Result<EpochRecord> {
        self.epochs.last().cloned().ok_or_else(|| Error::undefined("a history without epochs"))
    }

    /// What was recorded in any epoch, as [`EpochRecord::metric`] takes it.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        // The last epoch's order first: epochs differ if a training went on with other data.
        for (name, _) in self.epochs.iter().rev().flat_map(EpochRecord::columns) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }

    /// The values of one name, an epoch each.
    ///
    /// # Errors
    /// If an epoch has no such value; the message lists what was recorded.
    pub fn values(&self, name: &str) -> Result<Vec<f64>> {
        self.last()?;
        self.epochs.iter().map(|record| record.metric(name)).collect()
    }

    /// Whether more is better: accuracy, not a loss.
    pub fn is_maximized(&self, name: &str) -> bool {
        self.maximized.iter().any(|metric| metric == name || name.strip_prefix("train_") == Some(metric))
    }

    /// The epoch with the best value of that name; the first of several. NaN and infinities, of
    /// either sign, are never the best while there is a number.
    ///
    /// # Errors
    /// If no such value was recorded.
    pub fn best(&self, name: &str) -> Result<EpochRecord> {
        let values = self.values(name)?;
        let sign = if self.is_maximized(name) { -1.0 } else { 1.0 };
        let mut best = 0;
        for (i, value) in values.iter().enumerate() {
            if value.is_finite() && (value * sign < values[best] * sign || !values[best].is_finite()) {
                best = i;
            }
        }
        Ok(self.epochs[best].clone())
    }

    /// A row for every epoch: comma-separated, with a header.
    pub fn to_csv(&self) -> String {
        let names = self.names();
        // A metric may have any name.
        let quoted = |name: &String| match name.contains([',', '"', '\n', '\r']) {
            true => format!("\"{}\"", name.replace('"', "\"\"")),
            false => name.clone(),
        };
        let mut csv =
            format!("epoch,step,{},seconds,examples\n", names.iter().map(quoted).collect::<Vec<_>>().join(","));
        for record in &self.epochs {
            let columns = record.columns();
            let value = |name: &String| {
                columns.iter().find(|(column, _)| column == name).map_or_else(String::new, |(_, v)| v.to_string())
            };
            let values: Vec<String> = names.iter().map(value).collect();
            csv.push_str(&format!(
                "{},{},{},{},{}\n",
                record.epoch,
                record.step,
                values.join(","),
                record.seconds,
                record.examples
            ));
        }
        csv
    }

    /// Writes the history: epochs as CSV if the name ends in `.csv`, everything as JSON if it ends
    /// in `.json`.
    ///
    /// # Errors
    /// If the name ends in something else, or the file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let text = match path.extension().and_then(|extension| extension.to_str()) {
            Some("csv") => self.to_csv(),
            Some("json") => serde_json::to_string_pretty(self)?,
            _ => return Err(Error::argument("path", "a name that ends in .csv or .json", path.display())),
        };
        atomic::write_bytes(path, text.as_bytes()).context("cannot save the history")
    }

    /// Reads what [`History::save`] wrote as JSON.
    ///
    /// # Errors
    /// If the file cannot be read, or is not a history.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is not a history saved as JSON", path.display()))
    }
}
