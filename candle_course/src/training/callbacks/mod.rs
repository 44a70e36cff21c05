//! What surrounds the loop: events and those who listen to them.

use std::any::Any;

use candle_core::backprop::GradStore;

use crate::data::Batch;
use crate::error::{Error, Result};
use crate::stateful::{self, State};
use crate::training::{Evaluation, Training};

mod checkpoints;
mod early_stopping;
mod json_lines;
mod list;
pub(crate) mod monitor;
mod progress;
mod tensorboard;

pub use checkpoints::{Checkpoints, CheckpointsBuilder};
pub use early_stopping::{EarlyStopping, EarlyStoppingBuilder};
pub use json_lines::{JsonLines, JsonLinesBuilder};
pub(crate) use list::Callbacks;
pub use progress::Progress;
pub(crate) use progress::{Speed, duration, number};
pub use tensorboard::{TensorBoard, TensorBoardBuilder};

/// Whether training goes on after an event.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Flow {
    /// Go on.
    #[default]
    Continue,
    /// Finish in good order, for this reason; it is written into the history. In the middle of an
    /// epoch the epoch stays unfinished, and the next call of [`Trainer::fit`](crate::training::Trainer::fit) goes on there.
    Stop(String),
}

/// The events of a training, in the order in which they happen.
pub const EVENTS: [(&str, &str); 11] = [
    ("fit_start", "once, before the first epoch"),
    ("epoch_start", "before the first batch of every epoch, or the first after resuming in its middle"),
    ("batch_start", "before the forward pass of every batch"),
    ("backward_end", "between backward and optimizer step, before clipping: gradients may be changed"),
    ("step_end", "after every optimizer step"),
    ("validation_start", "before the validation pass, if there is validation data"),
    ("validation_batch", "before every batch of the validation pass"),
    ("validation_end", "after the validation pass, at an epoch's end or between steps"),
    ("epoch_end", "after validation; the epoch's record is in the history"),
    ("fit_end", "once, after the last epoch or after a stop"),
    ("fit_failed", "once, instead of fit_end, if an error ends the training"),
];

/// A listener to the events of a training. Every event has a default that does nothing.
///
/// The callbacks of a trainer are called in the order in which they were added. All of them hear
/// an event, even if one asks to stop.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// struct StopAtLoss(f64);
///
/// impl Callback for StopAtLoss {
///     fn name(&self) -> &str {
///         "stop at loss"
///     }
///     fn epoch_end(&mut self, training: &mut Training) -> Result<Flow> {
///         let record = training.history().last()?;
///         Ok(if record.train_loss < self.0 { Flow::Stop("loss reached".into()) } else { Flow::Continue })
///     }
/// }
/// ```
#[allow(unused_variables)]
pub trait Callback: Any + Send {
    /// The name in lists and messages.
    fn name(&self) -> &str;

    /// Once, before the first epoch.
    ///
    /// # Errors
    /// What the callback cannot cope with; training ends with this error. So for every event.
    fn fit_start(&mut self, training: &mut Training) -> Result<Flow> {
        Ok(Flow::Continue)
    }

    /// Before the first batch of every epoch.
    ///
    /// # Errors
    /// As [`Callback::fit_start`].
    fn epoch_start(&mut self, training: &mut Training) -> Result<Flow> {
        Ok(Flow::Continue)
    }

    /// Before the forward pass of every batch.
    ///
    /// # Errors
    /// As [`Callback::fit_start`].
    fn batch_start(&mut self, training: &mut Training, batch: &Batch) -> Result<Flow> {
        Ok(Flow::Continue)
    }

    /// Between backward and optimizer step.
    ///
    /// # Errors
    /// As [`Callback::fit_start`].
    fn backward_end(&mut self, training: &mut Training, gradients: &mut GradStore) -> Result<Flow> {
        Ok(Flow::Continue)
    }

    /// After every optimizer step.
    ///
    /// # Errors
    /// As [`Callback::fit_start`].
    fn step_end(&mut self, training: &mut Training) -> Result<Flow> {
        Ok(Flow::Continue)
    }

    /// Before the validation pass.
    ///
    /// # Errors
    /// As [`Callback::fit_start`].
    fn validation_start(&mut self, training: &mut Training) -> Result<Flow> {
        Ok(Flow::Continue)
    }

    /// Before every batch of the validation pass, in whose middle the trainer cannot be asked. A stop
    /// leaves the epoch unfinished with all its batches done: the next call of [`Trainer::fit`](crate::training::Trainer::fit)
    /// begins with its validation.
    ///
    /// # Errors
    /// As [`Callback::fit_start`].
    fn validation_batch(&mut self, batch: &Batch) -> Result<Flow> {
        Ok(Flow::Continue)
    }

    /// After the validation pass, with what it found: before the epoch's record is made, or between steps
    /// ([`validate_every_steps`](crate::training::TrainerBuilder::validate_every_steps)).
    ///
    /// # Errors
    /// As [`Callback::fit_start`].
    fn validation_end(&mut self, training: &mut Training, evaluation: &Evaluation) -> Result<Flow> {
        Ok(Flow::Continue)
    }

    /// After validation; the epoch's record is the last of the history.
    ///
    /// # Errors
    /// As [`Callback::fit_start`].
    fn epoch_end(&mut self, training: &mut Training) -> Result<Flow> {
        Ok(Flow::Continue)
    }

    /// Once, after the last epoch or after a stop.
    ///
    /// # Errors
    /// As [`Callback::fit_start`].
    fn fit_end(&mut self, training: &mut Training) -> Result<Flow> {
        Ok(Flow::Continue)
    }

    /// Once, instead of [`Callback::fit_end`], if the training ends with `error`: of the model, of the
    /// data, of any callback. To close what was opened.
    ///
    /// # Errors
    /// What the callback cannot cope with. It is noted in the history; `error` is the one that
    /// [`Trainer::fit`](crate::training::Trainer::fit) gives.
    fn fit_failed(&mut self, training: &mut Training, error: &Error) -> Result<()> {
        Ok(())
    }

    /// What a checkpoint of the training has to hold of this callback (nothing, unless told
    /// otherwise); as [`Stateful::state`](crate::stateful::Stateful::state).
    ///
    /// # Errors
    /// If a tensor cannot be made.
    fn state(&self) -> Result<State> {
        Ok(State::new())
    }

    /// Restores what [`Callback::state`] gave.
    ///
    /// # Errors
    /// If the state does not fit.
    fn load_state(&mut self, state: &State) -> Result<()> {
        stateful::none(&format!("the callback `{}` has no state", self.name()), state)
    }
}
