//! Stochastic gradient descent.

use candle_core::Tensor;
use candle_core::backprop::GradStore;

use crate::error::{Error, Result};
use crate::kernels::updates::{Kernel, Real};
use crate::nn::Parameters;
use crate::optimizers::Optimizer;
use crate::optimizers::engine::{Engine, Moment};
use crate::optimizers::groups::{Options, common_options, engine_state, fraction};
use crate::setters::setters;

/// Stochastic gradient descent, as `torch.optim.SGD`.
///
/// With learning rate η, momentum μ, dampening τ and weight decay λ:
/// g ← g + λθ; b ← μb + (1 − τ)g (b ← g at first); θ ← θ − ηb, or, with Nesterov's momentum,
/// θ ← θ − η(g + μb). State: `momentum_buffer`. Sutskever, Martens, Dahl & Hinton 2013, "On the
/// importance of initialization and momentum in deep learning".
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let parameters = Parameters::new(0, &Device::Cpu);
/// let layer = Linear::new(1, 1, &parameters.at("fc"))?;
/// let mut optimizer = Sgd::builder(&parameters).momentum(0.9).nesterov(true).weight_decay(1e-4).build()?;
/// let x = Tensor::new(&[[1f32], [2.0]], &Device::Cpu)?;
/// for _ in 0..100 {
///     let loss = (layer.forward(&x)? - (&x * 3.0)?)?.sqr()?.mean_all()?;
///     optimizer.step(&loss.backward()?, 0.05)?;
/// }
/// let y = layer.forward(&x)?.to_vec2::<f32>()?;
/// assert!((y[1][0] - 6.0).abs() < 0.1);
/// # Ok::<(), candle_course::Error>(())
/// ```
pub struct Sgd {
    pub(super) engine: Engine,
    momentum: f64,
    dampening: f64,
    nesterov: bool,
}

/// Configures [`Sgd`].
#[derive(Clone)]
pub struct SgdBuilder {
    parameters: Parameters,
    options: Options,
    momentum: f64,
    dampening: f64,
    nesterov: bool,
}

impl Sgd {
    /// Plain descent on `parameters`.
    ///
    /// # Errors
    /// If there is nothing to train.
    pub fn new(parameters: &Parameters) -> Result<Self> {
        Self::builder(parameters).build()
    }

    /// Plain descent on `parameters`, unless told otherwise.
    pub fn builder(parameters: &Parameters) -> SgdBuilder {
        SgdBuilder {
            parameters: parameters.clone(),
            options: Options::new(0.0),
            momentum: 0.0,
            dampening: 0.0,
            nesterov: false,
        }
    }
}

engine_state!(Sgd);

impl SgdBuilder {
    common_options!();

    setters! {
        /// The momentum μ (default 0).
        momentum(momentum: f64) => momentum = momentum;
        /// The dampening τ of the momentum (default 0).
        dampening(dampening: f64) => dampening = dampening;
        /// Nesterov's momentum (default off).
        nesterov(nesterov: bool) => nesterov = nesterov;
    }

    /// The optimizer.
    ///
    /// # Errors
    /// If the momentum or dampening is not in `[0, 1)`, Nesterov's momentum is asked for without
    /// momentum or with dampening, there is nothing to train, or a group matches no parameter.
    pub fn build(self) -> Result<Sgd> {
        fraction("momentum", self.momentum)?;
        fraction("dampening", self.dampening)?;
        if self.nesterov && (self.momentum == 0.0 || self.dampening != 0.0) {
            return Err(Error::argument(
                "nesterov",
                "momentum > 0 and dampening 0",
                format!("momentum {} and dampening {}", self.momentum, self.dampening),
            ));
        }
        let slots = if self.momentum == 0.0 { vec![] } else { vec![("momentum_buffer", 0.0)] };
        Ok(Sgd {
            engine: Engine::new(self.parameters, self.options, slots)?,
            momentum: self.momentum,
            dampening: self.dampening,
            nesterov: self.nesterov,
        })
    }
}

impl Optimizer for Sgd {
    fn step(&mut self, gradients: &GradStore, learning_rate: f64) -> Result<()> {
        let (momentum, nesterov) = (self.momentum, self.nesterov);
        let dampening = self.dampening;
        self.engine.step(gradients, learning_rate, |moment| SgdKernel {
            moment,
            momentum,
            // The first gradient enters the buffer whole.
            share: if moment.step == 1 { 1.0 } else { 1.0 - dampening },
            nesterov,
            #[cfg(feature = "cuda")]
            dampening,
        })
    }

    fn settle(&mut self) -> Result<()> {
        self.engine.settle()
    }

    fn set_momentum(&mut self, momentum: f64) -> Result<()> {
        fraction("momentum", momentum)?;
        if !self.engine.has_slot("momentum_buffer") {
            return Err(Error::argument("momentum", "an Sgd built with momentum", "one built without"));
        }
        self.momentum = momentum;
        Ok(())
    }
}

struct SgdKernel {
    moment: Moment,
    momentum: f64,
    share: f64,
    nesterov: bool,
    #[cfg(feature = "cuda")]
    dampening: f64,
}

impl Kernel for SgdKernel {
    #[cfg(feature = "cuda")]
    fn device(&self) -> (&'static str, [f64; 10]) {
        let others = [self.momentum, 1.0 - self.dampening, f64::from(self.nesterov)];
        ("sgd", super::on_device::numbers(&self.moment, others))
    }

    fn chunk<A: Real>(&self, parameter: &mut [A], gradient: &[A], slots: &mut [&mut [A]]) {
        let (rate, decay) = (A::real(self.moment.learning_rate), A::real(self.moment.weight_decay));
        let [buffer] = slots else {
            for (p, &g) in parameter.iter_mut().zip(gradient) {
                *p = *p - rate * (g + decay * *p);
            }
            return;
        };
        let (momentum, share) = (A::real(self.momentum), A::real(self.share));
        // 0 outside Nesterov's form, where the update is the buffer itself.
        let (ahead, own) = if self.nesterov { (momentum, A::real(1.0)) } else { (A::real(1.0), A::ZERO) };
        for ((p, &g), b) in parameter.iter_mut().zip(gradient).zip(buffer.iter_mut()) {
            let g = g + decay * *p;
            *b = momentum * *b + share * g;
            *p = *p - rate * (own * g + ahead * *b);
        }
    }

    fn tensors(&self, parameter: &Tensor, gradient: &Tensor, slots: &mut [Tensor]) -> candle_core::Result<Tensor> {
        let gradient = (gradient + (parameter * self.moment.weight_decay)?)?;
        let update = match slots {
            [buffer] => {
                *buffer = ((&*buffer * self.momentum)? + (&gradient * self.share)?)?;
                if self.nesterov { (gradient + (&*buffer * self.momentum)?)? } else { buffer.clone() }
            }
            _ => gradient,
        };
        parameter - (update * self.moment.learning_rate)?
    }
}
