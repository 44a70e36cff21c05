//! When a training is saved.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::checkpoint::{CheckpointFolder, CheckpointLock, Retention, Snapshot};
use crate::error::{Error, Result};
use crate::setters::setters;
use crate::training::callbacks::monitor::Monitor;
use crate::training::{History, Training};

/// Saves the whole state of a training, so that [`Trainer::resume`](crate::training::Trainer::resume) goes on to the last bit: after
/// every epoch, unless told otherwise, and always when training ends or is stopped.
///
/// A new training needs a folder without checkpoints: among those of another one, the newest would
/// not be its own. One that was set back to an older checkpoint may go on in its folder: what was saved
/// after that is moved to a folder below, `after-step-…`, and a note in the history says so. While it
/// trains, no other training can save there.
///
/// Kept are the newest ones and, if a value is monitored, the best. The section `model` of a
/// checkpoint holds the weights at the end of its epoch, whichever early stopping brings back in the
/// end (these stand beside it, in `held weights`). With
/// [`ema`](crate::training::TrainerBuilder::ema) they are the last weights; the value is that of
/// their average, which is in the section `average`.
///
/// Give it to
/// [`TrainerBuilder::checkpoints`](crate::training::TrainerBuilder::checkpoints); it comes after
/// all callbacks, whose state is saved too.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let checkpoints = Checkpoints::builder("checkpoints/cnn").every_steps(500).keep_last(2).keep_best(1, "accuracy").build()?;
/// assert!(Checkpoints::builder("checkpoints/cnn").every_steps(0).build().is_err());
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Checkpoints {
    folder: PathBuf,
    every_epochs: Option<usize>,
    every_steps: Option<usize>,
    keep_last: usize,
    keep_best: usize,
    monitor: Option<Monitor>,
    open: Option<Arc<(CheckpointFolder, CheckpointLock)>>,
    saved_step: Option<usize>,
    /// Whether another rank writes.
    silent: bool,
}

/// Configures [`Checkpoints`].
#[derive(Debug, Clone)]
pub struct CheckpointsBuilder(Checkpoints);

impl Checkpoints {
    /// Checkpoints in `folder`, which is made if need be: after every epoch, the newest two are kept.
    pub fn new(folder: impl AsRef<Path>) -> Self {
        Self {
            folder: folder.as_ref().to_owned(),
            every_epochs: Some(1),
            every_steps: None,
            keep_last: 2,
            keep_best: 0,
            monitor: None,
            open: None,
            saved_step: None,
            silent: false,
        }
    }

    /// As [`Checkpoints::new`], unless told otherwise.
    pub fn builder(folder: impl AsRef<Path>) -> CheckpointsBuilder {
        CheckpointsBuilder(Self::new(folder))
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Leaves the writing to another rank.
    pub(crate) fn silence(&mut self) {
        self.silent = true;
    }

    /// Whether another rank writes.
    pub(crate) fn is_silent(&self) -> bool {
        self.silent
    }

    /// Notes that another rank has saved this step.
    pub(crate) fn pass_over(&mut self, training: &Training) {
        self.saved_step = Some(training.state().step);
    }

    pub(crate) fn start(&mut self, training: &mut Training) -> Result<()> {
        let mut retention = Retention::new().last(self.keep_last);
        if let Some(monitor) = &mut self.monitor {
            monitor.check(training)?;
            retention = retention.best(self.keep_best, monitor.direction());
        }
        if self.silent {
            self.saved_step = None;
            return Ok(());
        }
        let folder = CheckpointFolder::open(&self.folder, retention)?;
        let lock = folder.lock()?;
        if !lock.is_held() {
            training.note(format!(
                "warning: the drive of `{}` knows no locks; let no other training save there",
                self.folder.display()
            ));
        }
        if training.state().step == 0
            && let Some(newest) = folder.list()?.pop()
        {
            return Err(Error::argument(
                "checkpoints",
                "a folder without checkpoints for a new training",
                format!("`{}` with one of step {}", self.folder.display(), newest.step),
            )
            .hint(
                "go on with that training by `training.resume(folder)?`, or name another folder, or delete this one",
            ));
        }
        self.compare_with_past(&folder, training)?;
        let step = training.state().step;
        if let Some(aside) = folder.set_aside_after(step as u64)? {
            training.note(format!(
                "warning: this training goes on from step {step}, but `{}` had checkpoints of later steps; they were moved to `{}`, which can be resumed from",
                self.folder.display(),
                aside.path().display()
            ));
        }
        (self.open, self.saved_step) = (Some(Arc::new((folder, lock))), None);
        Ok(())
    }

    /// What is kept and removed here must be this training's own: its checkpoints up to now tell of the
    /// same steps.
    fn compare_with_past(&self, folder: &CheckpointFolder, training: &Training) -> Result<()> {
        let step = training.state().step as u64;
        let history = |path: &Path| -> Result<History> {
            Ok(serde_json::from_str(Snapshot::load_texts(path)?.get_text("history")?)?)
        };
        // A loop written by hand leaves no history.
        let earlier = folder.list()?.into_iter().rev().filter(|saved| saved.step <= step);
        let last = earlier.filter_map(|saved| Some((history(&saved.path).ok()?, saved.step))).next();
        let Some((past, last)) = last else { return Ok(()) };
        match training.history().begins_with(&past) {
            true => Ok(()),
            false => Err(Error::argument(
                "checkpoints",
                "a folder with checkpoints of this training alone, or with none",
                format!("`{}` with one of step {last}, which another training made", self.folder.display()),
            )
            .hint("name another folder; nothing in this one was changed")),
        }
    }

    /// Lets another training have the folder.
    pub(crate) fn close(&mut self) {
        self.open = None;
    }

    /// Whether the state after this batch, or after this epoch, is to be saved.
    pub(crate) fn is_due(&self, training: &Training, epoch_ended: bool) -> bool {
        let state = training.state();
        let steps = self.every_steps.is_some_and(|steps| state.step.is_multiple_of(steps));
        if epoch_ended {
            return steps || self.every_epochs.is_some_and(|epochs| state.epoch.is_multiple_of(epochs));
        }
        // A step at the end of an epoch is saved with the epoch's record.
        steps
            && self.saved_step != Some(state.step)
            && state.batches_in_step == 0
            && state.batch < state.batches_per_epoch
    }

    pub(crate) fn save(&mut self, training: &Training, snapshot: &Snapshot) -> Result<()> {
        let (folder, _) = self.open.as_deref().ok_or_else(|| Error::training("the checkpoint folder is not open"))?;
        let metric = match &self.monitor {
            // After further steps the value is of other weights. (Batches without a step have none.)
            Some(monitor) => match training.history().epochs().last() {
                Some(record) if record.step == training.state().step => Some(monitor.value(record)?),
                _ => None,
            },
            None => None,
        };
        folder.save(training.state().step as u64, metric, snapshot)?;
        self.saved_step = Some(training.state().step);
        Ok(())
    }
}

impl CheckpointsBuilder {
    setters! {
        /// After every `epochs` epochs (1).
        every_epochs(epochs: usize) => 0.every_epochs = Some(epochs);
        /// After every `steps` optimizer steps, in the middle of epochs too.
        every_steps(steps: usize) => 0.every_steps = Some(steps);
        /// How many of the newest are kept (2).
        keep_last(count: usize) => 0.keep_last = count;
    }

    /// How many of the best by `monitor` are kept besides: `validation_loss` or a metric's name.
    pub fn keep_best(mut self, count: usize, monitor: impl Into<String>) -> Self {
        self.0.keep_best = count;
        self.0.monitor = Some(Monitor::new(monitor));
        self
    }

    /// The checkpoints.
    ///
    /// # Errors
    /// If an interval or a number to keep is 0.
    pub fn build(self) -> Result<Checkpoints> {
        let numbers = [
            ("every_epochs", self.0.every_epochs),
            ("every_steps", self.0.every_steps),
            ("keep_last", Some(self.0.keep_last)),
            ("keep_best", self.0.monitor.as_ref().map(|_| self.0.keep_best)),
        ];
        match numbers.into_iter().find(|(_, number)| *number == Some(0)) {
            Some((name, _)) => Err(Error::argument(name, "at least 1", 0)),
            None => Ok(self.0),
        }
    }
}
