//! How long a training lasts, and how much of its data it takes.

use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::language::told;
use crate::training::TrainState;
use crate::training::callbacks::duration;

/// What [`TrainerBuilder`](crate::training::TrainerBuilder) was told of it. Nothing is limited by default.
#[derive(Debug, Clone, Default)]
pub(super) struct Limits {
    pub(super) max_steps: Option<usize>,
    /// Whether there are as many epochs as the steps take.
    pub(super) counts_steps: bool,
    /// In one call of `fit`.
    pub(super) max_time: Option<Duration>,
    /// Training batches of an epoch.
    pub(super) batches: Option<usize>,
    /// Whether every epoch has the first one's batches.
    pub(super) overfit: bool,
    pub(super) validation_batches: Option<usize>,
    pub(super) validate_every_steps: Option<usize>,
    /// When the call of `fit` began.
    pub(super) started: Option<Instant>,
}

impl Limits {
    pub(super) fn check(&self) -> Result<()> {
        let counts = [
            ("max_steps", self.max_steps),
            ("limit_batches", self.batches),
            ("limit_validation_batches", self.validation_batches),
            ("validate_every_steps", self.validate_every_steps),
        ];
        if let Some((name, _)) = counts.into_iter().find(|(_, count)| *count == Some(0)) {
            return Err(Error::argument(name, "at least 1", 0));
        }
        match self.max_time {
            Some(Duration::ZERO) => Err(Error::argument("max_time", "more than no time", "0 s")),
            _ => Ok(()),
        }
    }

    /// How many of an epoch's batches are taken.
    pub(super) fn batches(&self, of: usize) -> usize {
        self.batches.map_or(of, |most| most.min(of))
    }

    /// The epoch whose order and augmentations the loader is asked for.
    pub(super) fn epoch(&self, epoch: usize) -> usize {
        if self.overfit { 0 } else { epoch }
    }

    /// Why training ends after this step or batch, if it does.
    pub(super) fn reached(&self, state: &TrainState) -> Option<String> {
        if self.max_steps.is_some_and(|most| state.step >= most) {
            return Some(told!(
                "{} steps are done, as many as `max_steps` allows",
                "{} passos foram dados, tantos quantos `max_steps` permite",
                state.step
            ));
        }
        let most = self.max_time?;
        let over = self.started.is_some_and(|started| started.elapsed() >= most);
        let most = duration(most.as_secs_f64());
        over.then(|| told!("the {} of `max_time` are over", "os {} de `max_time` acabaram", most))
    }

    /// Whether to validate after this step, in the middle of an epoch.
    pub(super) fn validates(&self, state: &TrainState) -> bool {
        state.batch < state.batches_per_epoch
            && state.batches_in_step == 0
            && self.validate_every_steps.is_some_and(|every| state.step > 0 && state.step.is_multiple_of(every))
    }
}
