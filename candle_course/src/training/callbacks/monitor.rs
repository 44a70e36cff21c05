//! Which value decides, and which way is better.

use crate::direction::Direction;
use crate::error::Result;
use crate::training::{EpochRecord, Training};

/// A recorded value that decides something, and which way it is better.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Monitor {
    pub(crate) name: String,
    mode: Option<Direction>,
}

impl Monitor {
    pub(crate) fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), mode: None }
    }

    pub(crate) fn set_mode(&mut self, mode: Direction) {
        self.mode = Some(mode);
    }

    /// Fails if the training will not record such a value; otherwise the direction is known afterwards.
    pub(crate) fn check(&mut self, training: &Training) -> Result<()> {
        if !training.monitors().contains(&self.name) {
            return Err(training.unknown_monitor(&self.name));
        }
        if self.mode.is_none() {
            let maximized = training.history().is_maximized(&self.name);
            self.mode = Some(if maximized { Direction::Maximize } else { Direction::Minimize });
        }
        Ok(())
    }

    /// Which way is better, as said or as found by [`Monitor::check`].
    pub(crate) fn direction(&self) -> Direction {
        self.mode.unwrap_or(Direction::Minimize)
    }

    pub(crate) fn value(&self, record: &EpochRecord) -> Result<f64> {
        record.metric(&self.name)
    }

    /// By how much `value` is better than `than`; negative if it is worse.
    pub(crate) fn gain(&self, value: f64, than: f64) -> f64 {
        self.direction().gain(value, than)
    }

    /// A value that everything is better than.
    pub(crate) fn worst(&self) -> f64 {
        self.direction().worst()
    }
}
