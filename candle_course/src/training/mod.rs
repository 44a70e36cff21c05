//! The training loop, by hand and packaged.
//!
//! [`train_step`] and [`evaluate`] are the two halves of an epoch; [`Trainer::fit`] calls them in
//! the order of a loop written by hand, and adds what surrounds it: a schedule, metrics, a
//! [`History`], progress lines and [`Callback`]s.

pub mod callbacks;
pub mod diagnosis;

mod background;
mod builder;
mod checks;
mod gradient_check;
mod guard;
mod history;
mod history_display;
mod json;
mod limits;
mod live;
mod losses;
mod predictions;
mod range_test;
pub(crate) mod ranks;
mod rehearsal;
mod resume;
mod state;
mod step;
mod summary;
mod trainer;

pub use background::{BackgroundStatus, BackgroundTraining};
pub use builder::TrainerBuilder;
pub use callbacks::{Callback, Flow};
pub use gradient_check::check_gradients;
pub use history::{EpochRecord, History, StepEvaluation, StepRecord, StepTimes};
pub use predictions::{Predictions, predict};
pub use range_test::{LearningRateRangeTest, LearningRateRangeTestBuilder, RangeTestCurve};
pub use state::{TrainState, Training};
pub use step::{Backward, Evaluation, evaluate, forward_backward, train_step};
pub use summary::{LayerSummary, ModelSummary};
pub use trainer::Trainer;

#[cfg(test)]
mod distributed_tests;
#[cfg(test)]
mod fault_tests;
#[cfg(test)]
mod limits_tests;
#[cfg(test)]
mod resume_tests;
#[cfg(test)]
mod schedule_tests;
#[cfg(test)]
mod synchronised_tests;
#[cfg(test)]
pub(crate) mod trainer_tests;
