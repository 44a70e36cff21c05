//! What a training looks at before the first batch.

use std::collections::HashSet;
use std::time::Instant;

use crate::data::DataLoader;
use crate::direction::Direction;
use crate::error::{Error, Result};
use crate::language::told;
use crate::optimizers::GradientAccumulator;
use crate::training::{TrainState, Training};

impl Training {
    /// Refuses a training that cannot begin, before anything has changed.
    pub(super) fn check(&self, train: &DataLoader, validation: Option<&DataLoader>) -> Result<()> {
        if self.state.epoch >= self.epochs {
            return Err(Error::training(format!("all {} epochs are done", self.epochs)).hint(
                "train for longer with `trainer.set_epochs(…)`, or build a new model and trainer to start afresh",
            ));
        }
        if let Some(most) = self.limits.max_steps.filter(|&most| self.state.step >= most) {
            return Err(Error::training(format!("all {most} steps of `max_steps` are done"))
                .hint("build the trainer with more, and resume, to train for longer"));
        }
        for (name, loader) in [("train", Some(train)), ("validation", validation)] {
            if loader.is_some_and(DataLoader::is_empty) {
                return Err(Error::argument(name, "at least one batch", 0)
                    .hint("with drop_last, is the data set smaller than a batch?"));
            }
        }
        self.check_shards(train, validation)?;
        if validation.is_none() && !self.metrics.is_empty() && !self.train_metrics {
            return Err(Error::argument("validation", "data to compute the metrics on", "none")
                .hint("pass a validation loader, or add `.train_metrics()`"));
        }
        Ok(())
    }

    /// Notes what callbacks may ask for, and refuses what only the whole of loaders and settings shows.
    pub(super) fn start(&mut self, train: &DataLoader, validation: Option<&DataLoader>) -> Result<()> {
        let batches = self.limits.batches(train.len());
        if self.state.batch > 0 && self.state.batches_per_epoch != batches {
            return Err(Error::argument(
                "train",
                format!("{} batches an epoch, as when the running epoch began", self.state.batches_per_epoch),
                batches,
            )
            .hint("to resume in the middle of an epoch, data and batch size must be the same"));
        }
        if self.limits.validate_every_steps.is_some() && validation.is_none() {
            return Err(Error::argument("validation", "data to validate on between steps", "none")
                .hint("pass a validation loader, or leave out `.validate_every_steps(…)`"));
        }
        self.limits.started = Some(Instant::now());
        if let (true, Some(steps)) = (self.limits.counts_steps, self.limits.max_steps) {
            let batches_per_step = self.accumulator.as_ref().map_or(1, GradientAccumulator::batches);
            self.epochs = steps.div_ceil(batches.div_ceil(batches_per_step));
        }
        self.state.batches_per_epoch = batches;
        self.validating = validation.is_some();
        self.history.set_stopped(None);
        self.check_schedule_monitor()?;
        self.note_overlap(train, validation)
    }

    /// Refuses an unknown value, and one that the schedule would take for better when it is worse.
    /// An epoch has to have as many batches as the loader said, or it would never end.
    pub(super) fn check_epoch(&self, batches: usize) -> Result<()> {
        let TrainState { epoch, batches_per_epoch, .. } = self.state;
        if batches == batches_per_epoch {
            return Ok(());
        }
        Err(Error::argument(
            "train",
            format!("{batches_per_epoch} batches in every epoch, as at the beginning of the training"),
            format!("{batches} in epoch {}", epoch + 1),
        )
        .hint("a sampler's `len` has to stay what it is"))
    }

    fn check_schedule_monitor(&self) -> Result<()> {
        if let Some(name) = &self.schedule_monitor
            && !self.monitors().contains(name)
        {
            return Err(self.unknown_monitor(name));
        }
        let name = self.schedule_monitor.as_deref().unwrap_or("validation_loss");
        let better = |maximized: bool| if maximized { "larger" } else { "smaller" };
        let (here, there) = (self.history.is_maximized(name), self.schedule.follows());
        match there.map(|direction| direction == Direction::Maximize) {
            Some(there) if there != here => Err(Error::argument(
                "schedule_monitor",
                format!("a value that is better when {}, as the mode of the schedule says", better(there)),
                format!("`{name}`, better when {}", better(here)),
            )
            .hint("name another value by `.schedule_monitor(…)`, or give the schedule the other `.mode(…)`")),
            _ => Ok(()),
        }
    }

    pub(super) fn unknown_monitor(&self, name: &str) -> Error {
        Error::argument("monitor", format!("one of [{}]", self.monitors().join(", ")), format!("`{name}`")).hint(
            "validation values need a validation loader, metrics `.metric(…)`, training metrics `.train_metrics()`",
        )
    }

    /// Notes validation examples that are training examples too.
    fn note_overlap(&mut self, train: &DataLoader, validation: Option<&DataLoader>) -> Result<()> {
        let Some(validation) = validation else { return Ok(()) };
        let seen: HashSet<(usize, usize)> = train.origins()?.into_iter().collect();
        let validated: HashSet<(usize, usize)> = validation.origins()?.into_iter().collect();
        let mut both: Vec<usize> = validated.intersection(&seen).map(|&(_, index)| index).collect();
        if !both.is_empty() {
            both.sort_unstable();
            let first: Vec<String> = both.iter().take(5).map(usize::to_string).collect();
            self.note(told!(
                "warning: {} of {} validation examples are training examples too (index {}{}); the validation flatters",
                "atenção: {} de {} exemplos de validação também são de treino (índice {}{}); a validação sai bonita demais",
                both.len(),
                validated.len(),
                first.join(", "),
                if both.len() > 5 { ", …" } else { "" }
            ));
        }
        Ok(())
    }
}
