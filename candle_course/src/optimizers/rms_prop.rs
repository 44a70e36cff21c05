//! RMSprop.

use candle_core::Tensor;
use candle_core::backprop::GradStore;

use crate::error::{Error, Result};
use crate::kernels::updates::{Kernel, Real};
use crate::nn::Parameters;
use crate::optimizers::Optimizer;
use crate::optimizers::engine::{Engine, Moment};
use crate::optimizers::groups::{Options, common_options, engine_state, fraction};

/// RMSprop, as `torch.optim.RMSprop`.
///
/// g ← g + λθ; v ← αv + (1 − α)g²; u = g / (√v + ε), where centering replaces v by
/// v − ḡ² with ḡ ← αḡ + (1 − α)g; b ← μb + u; θ ← θ − ηb. State: `square_avg` (v), `grad_avg`
/// (ḡ, if centered), `momentum_buffer` (b, if μ > 0). Hinton 2012, "Neural Networks for Machine
/// Learning", lecture 6; centered: Graves 2013, "Generating Sequences With Recurrent Neural
/// Networks".
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let parameters = Parameters::new(0, &Device::Cpu);
/// let layer = Linear::new(2, 1, &parameters.at("fc"))?;
/// let mut optimizer = RmsProp::builder(&parameters).alpha(0.95).momentum(0.9).build()?;
/// let loss = layer.forward(&Tensor::ones((4, 2), DType::F32, &Device::Cpu)?)?.sqr()?.mean_all()?;
/// optimizer.step(&loss.backward()?, 1e-3)?;
/// # Ok::<(), candle_course::Error>(())
/// ```
pub struct RmsProp {
    pub(super) engine: Engine,
    alpha: f64,
    epsilon: f64,
    momentum: f64,
    centered: bool,
}

/// Configures [`RmsProp`].
#[derive(Clone)]
pub struct RmsPropBuilder {
    parameters: Parameters,
    options: Options,
    alpha: f64,
    epsilon: f64,
    momentum: f64,
    centered: bool,
}

impl RmsProp {
    /// PyTorch's defaults on `parameters`.
    ///
    /// # Errors
    /// If there is nothing to train.
    pub fn new(parameters: &Parameters) -> Result<Self> {
        Self::builder(parameters).build()
    }

    /// PyTorch's defaults on `parameters`, unless told otherwise.
    pub fn builder(parameters: &Parameters) -> RmsPropBuilder {
        RmsPropBuilder {
            parameters: parameters.clone(),
            options: Options::new(0.0),
            alpha: 0.99,
            epsilon: 1e-8,
            momentum: 0.0,
            centered: false,
        }
    }
}

engine_state!(RmsProp);

impl RmsPropBuilder {
    common_options!();

    /// The decay α of the mean of the squared gradient (default 0.99).
    #[must_use]
    pub fn alpha(mut self, alpha: f64) -> Self {
        self.alpha = alpha;
        self
    }

    /// The ε that keeps the division finite (default 1e-8).
    #[must_use]
    pub fn epsilon(mut self, epsilon: f64) -> Self {
        self.epsilon = epsilon;
        self
    }

    /// The momentum μ (default 0).
    #[must_use]
    pub fn momentum(mut self, momentum: f64) -> Self {
        self.momentum = momentum;
        self
    }

    /// Divides by the standard deviation instead of the root mean square (default off).
    #[must_use]
    pub fn centered(mut self, centered: bool) -> Self {
        self.centered = centered;
        self
    }

    /// The optimizer.
    ///
    /// # Errors
    /// If α or the momentum is not in `[0, 1)`, ε is not positive, there is nothing to train, or a
    /// group matches no parameter.
    pub fn build(self) -> Result<RmsProp> {
        fraction("alpha", self.alpha)?;
        fraction("momentum", self.momentum)?;
        if !(self.epsilon.is_finite() && self.epsilon > 0.0) {
            return Err(Error::argument("epsilon", "a finite number > 0", self.epsilon));
        }
        let mut slots = vec![("square_avg", 0.0)];
        if self.centered {
            slots.push(("grad_avg", 0.0));
        }
        if self.momentum > 0.0 {
            slots.push(("momentum_buffer", 0.0));
        }
        Ok(RmsProp {
            engine: Engine::new(self.parameters, self.options, slots)?,
            alpha: self.alpha,
            epsilon: self.epsilon,
            momentum: self.momentum,
            centered: self.centered,
        })
    }
}

impl Optimizer for RmsProp {
    fn step(&mut self, gradients: &GradStore, learning_rate: f64) -> Result<()> {
        let (alpha, epsilon, momentum, centered) = (self.alpha, self.epsilon, self.momentum, self.centered);
        self.engine.step(gradients, learning_rate, |moment| RmsPropKernel {
            moment,
            alpha,
            epsilon,
            momentum,
            centered,
        })
    }

    fn settle(&mut self) -> Result<()> {
        self.engine.settle()
    }

    fn set_momentum(&mut self, momentum: f64) -> Result<()> {
        fraction("momentum", momentum)?;
        if !self.engine.has_slot("momentum_buffer") {
            return Err(Error::argument("momentum", "an RmsProp built with momentum", "one built without"));
        }
        self.momentum = momentum;
        Ok(())
    }
}

struct RmsPropKernel {
    moment: Moment,
    alpha: f64,
    epsilon: f64,
    momentum: f64,
    centered: bool,
}

impl Kernel for RmsPropKernel {
    #[cfg(feature = "cuda")]
    fn device(&self) -> (&'static str, [f64; 10]) {
        let others = [self.alpha, self.epsilon, self.momentum, f64::from(self.centered)];
        ("rms_prop", super::on_device::numbers(&self.moment, others))
    }

    fn chunk<A: Real>(&self, parameter: &mut [A], gradient: &[A], slots: &mut [&mut [A]]) {
        let (rate, decay) = (A::real(self.moment.learning_rate), A::real(self.moment.weight_decay));
        let (alpha, new, epsilon) = (A::real(self.alpha), A::real(1.0 - self.alpha), A::real(self.epsilon));
        let momentum = A::real(self.momentum);
        let square = |v: &mut A, g: A| {
            *v = alpha * *v + new * g * g;
            *v
        };
        let center = |mean: &mut A, g: A| {
            *mean = *mean + new * (g - *mean);
            *mean * *mean
        };
        match (slots, self.centered) {
            ([v], _) => {
                for ((p, &g), v) in parameter.iter_mut().zip(gradient).zip(v.iter_mut()) {
                    let g = g + decay * *p;
                    *p = *p - rate * g / (square(v, g).root() + epsilon);
                }
            }
            ([v, mean], true) => {
                for (((p, &g), v), mean) in parameter.iter_mut().zip(gradient).zip(v.iter_mut()).zip(mean.iter_mut()) {
                    let g = g + decay * *p;
                    *p = *p - rate * g / ((square(v, g) - center(mean, g)).root() + epsilon);
                }
            }
            ([v, buffer], false) => {
                for (((p, &g), v), b) in parameter.iter_mut().zip(gradient).zip(v.iter_mut()).zip(buffer.iter_mut()) {
                    let g = g + decay * *p;
                    *b = momentum * *b + g / (square(v, g).root() + epsilon);
                    *p = *p - rate * *b;
                }
            }
            ([v, mean, buffer], _) => {
                let state = v.iter_mut().zip(mean.iter_mut()).zip(buffer.iter_mut());
                for ((p, &g), ((v, mean), b)) in parameter.iter_mut().zip(gradient).zip(state) {
                    let g = g + decay * *p;
                    *b = momentum * *b + g / ((square(v, g) - center(mean, g)).root() + epsilon);
                    *p = *p - rate * *b;
                }
            }
            _ => debug_assert!(false, "RMSprop has one to three slots"),
        }
    }

    fn tensors(&self, parameter: &Tensor, gradient: &Tensor, slots: &mut [Tensor]) -> candle_core::Result<Tensor> {
        let gradient = (gradient + (parameter * self.moment.weight_decay)?)?;
        slots[0] = ((&slots[0] * self.alpha)? + (gradient.sqr()? * (1.0 - self.alpha))?)?;
        let mut scale = slots[0].clone();
        if self.centered {
            slots[1] = ((&slots[1] * self.alpha)? + (&gradient * (1.0 - self.alpha))?)?;
            scale = (scale - slots[1].sqr()?)?;
        }
        let mut update = (gradient / (scale.sqrt()? + self.epsilon)?)?;
        if let Some(buffer) = slots.get_mut(if self.centered { 2 } else { 1 }) {
            *buffer = ((&*buffer * self.momentum)? + update)?;
            update = buffer.clone();
        }
        parameter - (update * self.moment.learning_rate)?
    }
}
