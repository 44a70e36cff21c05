//! From gradients to new weights.
//!
//! | optimizer | update, before weight decay | reference |
//! | --- | --- | --- |
//! | [`Sgd`] | −η (μ b + g) | Sutskever et al. 2013 |
//! | [`Adagrad`] | −η g / (√Σg² + ε) | Duchi, Hazan & Singer 2011 |
//! | [`RmsProp`] | −η g / (√E\[g²\] + ε) | Hinton 2012 |
//! | [`Adam`] | −η m̂ / (√v̂ + ε) | Kingma & Ba 2015 |
//! | [`AdamW`] | the same, with decoupled weight decay | Loshchilov & Hutter 2019 |
//! | [`Lion`] | −η sign(β₁ m + (1 − β₁) g) | Chen et al. 2023 |
//!
//! On the CPU a step runs in place over parameter, gradient and state in one pass, without a
//! fresh tensor; the result does not depend on the number of threads. State is kept in f32 (f64
//! for f64 parameters), also for f16 and bf16 parameters.

use candle_core::backprop::GradStore;

use crate::error::{Error, Result};
use crate::stateful::Stateful;

mod accumulate;
mod adagrad;
mod adam;
mod average;
mod clip;
mod engine;
mod groups;
mod lion;
#[cfg(feature = "cuda")]
mod on_device;
mod penalty;
mod rms_prop;
mod sgd;

pub use accumulate::GradientAccumulator;
pub use adagrad::{Adagrad, AdagradBuilder};
pub use adam::{Adam, AdamBuilder, AdamW, AdamWBuilder};
pub use average::{WeightAverage, WeightAverageBuilder};
pub(crate) use clip::{GradientNorm, clip_unread};
pub use clip::{clip_gradient_norm, clip_gradient_norm_each, clip_gradient_value, gradient_norm};
pub(crate) use groups::FOREIGN;
pub use groups::{NonFinite, ParameterGroup};
pub use lion::{Lion, LionBuilder};
pub use penalty::{l1_penalty, l2_penalty};
pub use rms_prop::{RmsProp, RmsPropBuilder};
pub use sgd::{Sgd, SgdBuilder};

/// Changes parameters, given their gradients.
pub trait Optimizer: Stateful + Send {
    /// One step with this learning rate.
    ///
    /// # Errors
    /// If a trainable parameter has no gradient (named in the message), or a gradient is not
    /// finite and the policy is to report it. Nothing has changed then.
    fn step(&mut self, gradients: &GradStore, learning_rate: f64) -> Result<()>;

    /// Waits until the steps so far are known to have been taken. A CUDA device judges gradients by
    /// itself, and [`NonFinite::Error`] is heard of with a delay (see there): the trainer asks at the
    /// end of every epoch, and so does whoever saves the state. Elsewhere there is nothing to wait for.
    ///
    /// # Errors
    /// If a gradient was not finite and the policy is to report it.
    fn settle(&mut self) -> Result<()> {
        Ok(())
    }

    /// Sets the momentum (β₁ of the Adam family), for schedules that cycle it.
    ///
    /// # Errors
    /// If this optimizer has no momentum, or the value is not in `[0, 1)`.
    fn set_momentum(&mut self, momentum: f64) -> Result<()> {
        Err(Error::argument("momentum", "an optimizer that has momentum", format!("{momentum} for one without"))
            .hint("turn the schedule's momentum cycle off, or use Sgd with momentum, Adam or AdamW"))
    }
}

impl<O: Optimizer + ?Sized> Optimizer for Box<O> {
    fn step(&mut self, gradients: &GradStore, learning_rate: f64) -> Result<()> {
        (**self).step(gradients, learning_rate)
    }

    fn settle(&mut self) -> Result<()> {
        (**self).settle()
    }

    fn set_momentum(&mut self, momentum: f64) -> Result<()> {
        (**self).set_momentum(momentum)
    }
}

#[cfg(all(test, feature = "cuda"))]
mod device_tests;
#[cfg(test)]
mod oracle_tests;
#[cfg(test)]
mod state_tests;
