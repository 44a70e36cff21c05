//! Adagrad.

use candle_core::Tensor;
use candle_core::backprop::GradStore;

use crate::error::{Error, Result};
use crate::kernels::updates::{Kernel, Real};
use crate::nn::Parameters;
use crate::optimizers::Optimizer;
use crate::optimizers::engine::{Engine, Moment};
use crate::optimizers::groups::{Options, common_options, engine_state, not_negative};
use crate::setters::setters;

/// Adagrad, as `torch.optim.Adagrad`.
///
/// g ← g + λθ; s ← s + g²; θ ← θ − η / (1 + (t − 1)δ) · g / (√s + ε), with the rate's own decay δ.
/// State: `sum` (s). Duchi, Hazan & Singer 2011, "Adaptive Subgradient Methods for Online Learning
/// and Stochastic Optimization".
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let parameters = Parameters::new(0, &Device::Cpu);
/// let layer = Linear::new(2, 1, &parameters.at("fc"))?;
/// let mut optimizer = Adagrad::builder(&parameters).initial_accumulator(0.1).build()?;
/// let loss = layer.forward(&Tensor::ones((4, 2), DType::F32, &Device::Cpu)?)?.sqr()?.mean_all()?;
/// optimizer.step(&loss.backward()?, 1e-2)?;
/// # Ok::<(), candle_course::Error>(())
/// ```
pub struct Adagrad {
    pub(super) engine: Engine,
    rate_decay: f64,
    epsilon: f64,
}

/// Configures [`Adagrad`].
#[derive(Clone)]
pub struct AdagradBuilder {
    parameters: Parameters,
    options: Options,
    rate_decay: f64,
    epsilon: f64,
    initial: f64,
}

impl Adagrad {
    /// PyTorch's defaults on `parameters`.
    ///
    /// # Errors
    /// If there is nothing to train.
    pub fn new(parameters: &Parameters) -> Result<Self> {
        Self::builder(parameters).build()
    }

    /// PyTorch's defaults on `parameters`, unless told otherwise.
    pub fn builder(parameters: &Parameters) -> AdagradBuilder {
        AdagradBuilder {
            parameters: parameters.clone(),
            options: Options::new(0.0),
            rate_decay: 0.0,
            epsilon: 1e-10,
            initial: 0.0,
        }
    }
}

engine_state!(Adagrad);

impl AdagradBuilder {
    common_options!();

    setters! {
        /// The decay δ of the learning rate itself (default 0); PyTorch's `lr_decay`.
        learning_rate_decay(decay: f64) => rate_decay = decay;
        /// The ε that keeps the division finite (default 1e-10).
        epsilon(epsilon: f64) => epsilon = epsilon;
        /// What the sum of squares begins with (default 0).
        initial_accumulator(initial: f64) => initial = initial;
    }

    /// The optimizer.
    ///
    /// # Errors
    /// If a number is negative, ε is not positive, there is nothing to train, or a group matches
    /// no parameter.
    pub fn build(self) -> Result<Adagrad> {
        not_negative("learning_rate_decay", self.rate_decay)?;
        not_negative("initial_accumulator", self.initial)?;
        if !(self.epsilon.is_finite() && self.epsilon > 0.0) {
            return Err(Error::argument("epsilon", "a finite number > 0", self.epsilon));
        }
        Ok(Adagrad {
            engine: Engine::new(self.parameters, self.options, vec![("sum", self.initial)])?,
            rate_decay: self.rate_decay,
            epsilon: self.epsilon,
        })
    }
}

impl Optimizer for Adagrad {
    fn step(&mut self, gradients: &GradStore, learning_rate: f64) -> Result<()> {
        let (rate_decay, epsilon) = (self.rate_decay, self.epsilon);
        self.engine.step(gradients, learning_rate, |moment| AdagradKernel {
            moment,
            rate: moment.learning_rate / (1.0 + (moment.step - 1) as f64 * rate_decay),
            #[cfg(feature = "cuda")]
            rate_decay,
            epsilon,
        })
    }

    fn settle(&mut self) -> Result<()> {
        self.engine.settle()
    }
}

struct AdagradKernel {
    moment: Moment,
    rate: f64,
    #[cfg(feature = "cuda")]
    rate_decay: f64,
    epsilon: f64,
}

impl Kernel for AdagradKernel {
    #[cfg(feature = "cuda")]
    fn device(&self) -> (&'static str, [f64; 10]) {
        ("adagrad", super::on_device::numbers(&self.moment, [self.epsilon, self.rate_decay]))
    }

    fn chunk<A: Real>(&self, parameter: &mut [A], gradient: &[A], slots: &mut [&mut [A]]) {
        let (rate, decay, epsilon) = (A::real(self.rate), A::real(self.moment.weight_decay), A::real(self.epsilon));
        let [sum] = slots else {
            debug_assert!(false, "Adagrad has one slot");
            return;
        };
        for ((p, &g), s) in parameter.iter_mut().zip(gradient).zip(sum.iter_mut()) {
            let g = g + decay * *p;
            *s = *s + g * g;
            *p = *p - rate * g / (s.root() + epsilon);
        }
    }

    fn tensors(&self, parameter: &Tensor, gradient: &Tensor, slots: &mut [Tensor]) -> candle_core::Result<Tensor> {
        let gradient = (gradient + (parameter * self.moment.weight_decay)?)?;
        slots[0] = (&slots[0] + gradient.sqr()?)?;
        parameter - ((gradient / (slots[0].sqrt()? + self.epsilon)?)? * self.rate)?
    }
}
