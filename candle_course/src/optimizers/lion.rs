//! Lion.

use candle_core::Tensor;
use candle_core::backprop::GradStore;

use crate::error::Result;
use crate::kernels::updates::{Kernel, Real};
use crate::nn::Parameters;
use crate::optimizers::Optimizer;
use crate::optimizers::engine::{Engine, Moment};
use crate::optimizers::groups::{Options, common_options, engine_state, fraction};
use crate::setters::setters;

/// Lion (evolved sign momentum): every number moves by exactly η, so it wants a learning rate 3 to
/// 10 times smaller, and a weight decay as much larger, than AdamW.
///
/// θ ← θ − ηλθ; θ ← θ − η sign(β₁m + (1 − β₁)g); m ← β₂m + (1 − β₂)g. State: `exp_avg` (m), half
/// of Adam's. Chen et al. 2023, "Symbolic Discovery of Optimization Algorithms", algorithm 2.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let parameters = Parameters::new(0, &Device::Cpu);
/// let layer = Linear::new(2, 1, &parameters.at("fc"))?;
/// let mut optimizer = Lion::builder(&parameters).weight_decay(0.1).build()?;
/// let loss = layer.forward(&Tensor::ones((4, 2), DType::F32, &Device::Cpu)?)?.sqr()?.mean_all()?;
/// optimizer.step(&loss.backward()?, 1e-4)?;
/// # Ok::<(), candle_course::Error>(())
/// ```
pub struct Lion {
    pub(super) engine: Engine,
    betas: (f64, f64),
}

/// Configures [`Lion`].
#[derive(Clone)]
pub struct LionBuilder {
    parameters: Parameters,
    options: Options,
    betas: (f64, f64),
}

impl Lion {
    /// The paper's defaults on `parameters`.
    ///
    /// # Errors
    /// If there is nothing to train.
    pub fn new(parameters: &Parameters) -> Result<Self> {
        Self::builder(parameters).build()
    }

    /// The paper's defaults on `parameters`, unless told otherwise.
    pub fn builder(parameters: &Parameters) -> LionBuilder {
        LionBuilder { parameters: parameters.clone(), options: Options::new(0.0), betas: (0.9, 0.99) }
    }
}

engine_state!(Lion);

impl LionBuilder {
    common_options!();

    setters! {
        /// β₁, the share of the momentum in the direction (default 0.9).
        beta1(beta1: f64) => betas.0 = beta1;
        /// β₂, the decay of the momentum (default 0.99).
        beta2(beta2: f64) => betas.1 = beta2;
    }

    /// The optimizer.
    ///
    /// # Errors
    /// If a β is not in `[0, 1)`, there is nothing to train, or a group matches no parameter.
    pub fn build(self) -> Result<Lion> {
        fraction("beta1", self.betas.0)?;
        fraction("beta2", self.betas.1)?;
        Ok(Lion { engine: Engine::new(self.parameters, self.options, vec![("exp_avg", 0.0)])?, betas: self.betas })
    }
}

impl Optimizer for Lion {
    fn step(&mut self, gradients: &GradStore, learning_rate: f64) -> Result<()> {
        let betas = self.betas;
        self.engine.step(gradients, learning_rate, |moment| LionKernel { moment, betas })
    }

    fn settle(&mut self) -> Result<()> {
        self.engine.settle()
    }

    /// Sets β₁.
    fn set_momentum(&mut self, momentum: f64) -> Result<()> {
        fraction("momentum", momentum)?;
        self.betas.0 = momentum;
        Ok(())
    }
}

struct LionKernel {
    moment: Moment,
    betas: (f64, f64),
}

impl Kernel for LionKernel {
    #[cfg(feature = "cuda")]
    fn device(&self) -> (&'static str, [f64; 10]) {
        ("lion", super::on_device::numbers(&self.moment, [self.betas.0, self.betas.1]))
    }

    fn chunk<A: Real>(&self, parameter: &mut [A], gradient: &[A], slots: &mut [&mut [A]]) {
        let [mean] = slots else {
            debug_assert!(false, "Lion has one slot");
            return;
        };
        let rate = A::real(self.moment.learning_rate);
        let keep = A::real(1.0 - self.moment.learning_rate * self.moment.weight_decay);
        let (beta1, new1) = (A::real(self.betas.0), A::real(1.0 - self.betas.0));
        let (beta2, new2) = (A::real(self.betas.1), A::real(1.0 - self.betas.1));
        for ((p, &g), m) in parameter.iter_mut().zip(gradient).zip(mean.iter_mut()) {
            let direction = beta1 * *m + new1 * g;
            // sign(0) = 0, unlike `signum`.
            let up = if direction > A::ZERO { rate } else { A::ZERO };
            let down = if direction < A::ZERO { rate } else { A::ZERO };
            *p = keep * *p - up + down;
            *m = beta2 * *m + new2 * g;
        }
    }

    fn tensors(&self, parameter: &Tensor, gradient: &Tensor, slots: &mut [Tensor]) -> candle_core::Result<Tensor> {
        let direction = ((&slots[0] * self.betas.0)? + (gradient * (1.0 - self.betas.0))?)?;
        slots[0] = ((&slots[0] * self.betas.1)? + (gradient * (1.0 - self.betas.1))?)?;
        let sign = direction.sign()?;
        (parameter * (1.0 - self.moment.learning_rate * self.moment.weight_decay))?
            - (sign * self.moment.learning_rate)?
    }
}
