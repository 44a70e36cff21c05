//! Stochastic gradient descent.

use std::collections::BTreeMap;

use candle_core::Tensor;
use candle_core::backprop::GradStore;

use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::nn::Parameters;
use crate::optimizers::Optimizer;

/// Stochastic gradient descent with momentum, as `torch.optim.SGD`.
pub struct Sgd {
    parameters: Parameters,
    momentum: f64,
    buffers: BTreeMap<String, Tensor>,
}

/// Configures [`Sgd`].
pub struct SgdBuilder {
    parameters: Parameters,
    momentum: f64,
}

impl Sgd {
    /// Plain descent on `parameters`, unless told otherwise.
    #[allow(clippy::new_ret_no_self)] // a builder, as everywhere in this crate
    pub fn new(parameters: &Parameters) -> SgdBuilder {
        SgdBuilder { parameters: parameters.clone(), momentum: 0.0 }
    }
}

impl SgdBuilder {
    /// The momentum.
    pub fn momentum(mut self, momentum: f64) -> Self {
        self.momentum = momentum;
        self
    }

    /// The optimizer.
    ///
    /// # Errors
    /// If the momentum is not in `[0, 1)`.
    pub fn build(self) -> Result<Sgd> {
        if !(0.0..1.0).contains(&self.momentum) {
            return Err(Error::argument("momentum", "a number in [0, 1)", self.momentum));
        }
        Ok(Sgd { parameters: self.parameters, momentum: self.momentum, buffers: BTreeMap::new() })
    }
}

impl Optimizer for Sgd {
    fn step(&mut self, gradients: &GradStore, learning_rate: f64) -> Result<()> {
        for (name, var) in self.parameters.trainable() {
            let gradient =
                gradients.get(&var).ok_or_else(|| Error::training(format!("`{name}` received no gradient")))?.clone();
            let update = if self.momentum == 0.0 {
                gradient
            } else {
                let buffer = match self.buffers.get(&name) {
                    Some(buffer) => ((buffer * self.momentum)? + gradient)?,
                    None => gradient,
                };
                self.buffers.insert(name, buffer.clone());
                buffer
            };
            var.set(&(var.as_tensor() - (update * learning_rate)?)?)?;
        }
        Ok(())
    }
}

impl Checkpoint for Sgd {
    fn tensors(&self) -> Result<BTreeMap<String, Tensor>> {
        Ok(self.buffers.clone())
    }

    fn load_tensors(&mut self, tensors: &BTreeMap<String, Tensor>) -> Result<()> {
        self.buffers = tensors.clone();
        Ok(())
    }
}
