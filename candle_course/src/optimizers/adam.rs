//! Adam, and AdamW with decoupled weight decay.

use candle_core::Tensor;
use candle_core::backprop::GradStore;

use crate::error::{Error, Result};
use crate::kernels::updates::{Kernel, Real};
use crate::nn::Parameters;
use crate::optimizers::Optimizer;
use crate::optimizers::engine::{Engine, Moment};
use crate::optimizers::groups::{Options, common_options, engine_state, fraction};

macro_rules! adam_family {
    ($(#[$docs:meta])* $optimizer:ident, $builder:ident, $decoupled:literal, $weight_decay:literal) => {
        $(#[$docs])*
        pub struct $optimizer {
            pub(super) engine: Engine,
            betas: (f64, f64),
            epsilon: f64,
        }

        #[doc = concat!("Configures [`", stringify!($optimizer), "`].")]
        #[derive(Clone)]
        pub struct $builder {
            parameters: Parameters,
            options: Options,
            betas: (f64, f64),
            epsilon: f64,
            amsgrad: bool,
        }

        impl $optimizer {
            /// PyTorch's defaults on `parameters`.
            ///
            /// # Errors
            /// If there is nothing to train.
            pub fn new(parameters: &Parameters) -> Result<Self> {
                Self::builder(parameters).build()
            }

            /// PyTorch's defaults on `parameters`, unless told otherwise.
            pub fn builder(parameters: &Parameters) -> $builder {
                $builder {
                    parameters: parameters.clone(),
                    options: Options::new($weight_decay),
                    betas: (0.9, 0.999),
                    epsilon: 1e-8,
                    amsgrad: false,
                }
            }
        }

        engine_state!($optimizer);

        impl $builder {
            common_options!();

            /// The decay β₁ of the mean of the gradient (default 0.9).
            #[must_use]
            pub fn beta1(mut self, beta1: f64) -> Self {
                self.betas.0 = beta1;
                self
            }

            /// The decay β₂ of the mean of the squared gradient (default 0.999).
            #[must_use]
            pub fn beta2(mut self, beta2: f64) -> Self {
                self.betas.1 = beta2;
                self
            }

            /// The ε that keeps the division finite (default 1e-8).
            #[must_use]
            pub fn epsilon(mut self, epsilon: f64) -> Self {
                self.epsilon = epsilon;
                self
            }

            /// Divides by the largest mean of the squared gradient so far (Reddi, Kale & Kumar
            /// 2018; default off).
            #[must_use]
            pub fn amsgrad(mut self, amsgrad: bool) -> Self {
                self.amsgrad = amsgrad;
                self
            }

            /// The optimizer.
            ///
            /// # Errors
            /// If a β is not in `[0, 1)`, ε is not positive, there is nothing to train, or a group
            /// matches no parameter.
            pub fn build(self) -> Result<$optimizer> {
                fraction("beta1", self.betas.0)?;
                fraction("beta2", self.betas.1)?;
                if !(self.epsilon.is_finite() && self.epsilon > 0.0) {
                    return Err(Error::argument("epsilon", "a finite number > 0", self.epsilon));
                }
                let mut slots = vec![("exp_avg", 0.0), ("exp_avg_sq", 0.0)];
                if self.amsgrad {
                    slots.push(("max_exp_avg_sq", 0.0));
                }
                Ok($optimizer {
                    engine: Engine::new(self.parameters, self.options, slots)?,
                    betas: self.betas,
                    epsilon: self.epsilon,
                })
            }
        }

        impl Optimizer for $optimizer {
            fn step(&mut self, gradients: &GradStore, learning_rate: f64) -> Result<()> {
                let (betas, epsilon) = (self.betas, self.epsilon);
                self.engine.step(gradients, learning_rate, |moment| AdamKernel::new(moment, betas, epsilon, $decoupled))
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
    };
}

adam_family! {
    /// Adam, as `torch.optim.Adam`: weight decay is an L2 penalty, λθ added to the gradient.
    ///
    /// m ← β₁m + (1 − β₁)g; v ← β₂v + (1 − β₂)g²; θ ← θ − η m̂ / (√v̂ + ε), with
    /// m̂ = m / (1 − β₁ᵗ) and v̂ = v / (1 − β₂ᵗ). State: `exp_avg` (m), `exp_avg_sq` (v), and
    /// `max_exp_avg_sq` with `amsgrad`. Kingma & Ba 2015, "Adam: A Method for Stochastic
    /// Optimization".
    ///
    /// # Examples
    ///
    /// ```
    /// use candle_course::prelude::*;
    ///
    /// let parameters = Parameters::new(0, &Device::Cpu);
    /// let layer = Linear::new(2, 1, &parameters.at("fc"))?;
    /// let mut optimizer = Adam::builder(&parameters).beta2(0.99).build()?;
    /// let loss = layer.forward(&Tensor::ones((4, 2), DType::F32, &Device::Cpu)?)?.sqr()?.mean_all()?;
    /// optimizer.step(&loss.backward()?, 1e-3)?;
    /// # Ok::<(), candle_course::Error>(())
    /// ```
    Adam, AdamBuilder, false, 0.0
}

adam_family! {
    /// Adam with decoupled weight decay, as `torch.optim.AdamW` (default λ = 0.01).
    ///
    /// θ ← θ − ηλθ, then [`Adam`]'s update of a gradient without penalty: the decay is the same
    /// for all parameters, where Adam's L2 penalty shrinks those with large gradients less. State:
    /// as [`Adam`]. Loshchilov & Hutter 2019, "Decoupled Weight Decay Regularization".
    ///
    /// # Examples
    ///
    /// ```
    /// use candle_course::prelude::*;
    ///
    /// let parameters = Parameters::new(0, &Device::Cpu);
    /// let layer = Linear::new(2, 1, &parameters.at("fc"))?;
    /// let mut optimizer = AdamW::builder(&parameters).weight_decay(0.05).no_decay_for_biases_and_norms().build()?;
    /// let loss = layer.forward(&Tensor::ones((4, 2), DType::F32, &Device::Cpu)?)?.sqr()?.mean_all()?;
    /// optimizer.step(&loss.backward()?, 1e-3)?;
    /// # Ok::<(), candle_course::Error>(())
    /// ```
    AdamW, AdamWBuilder, true, 0.01
}

struct AdamKernel {
    /// λ of the penalty, 0 when decoupled.
    penalty: f64,
    /// What remains of θ after the decoupled decay.
    keep: f64,
    betas: (f64, f64),
    step_size: f64,
    /// √(1 − β₂ᵗ).
    root_correction: f64,
    epsilon: f64,
    #[cfg(feature = "cuda")]
    moment: Moment,
    #[cfg(feature = "cuda")]
    decoupled: bool,
}

impl AdamKernel {
    fn new(moment: Moment, betas: (f64, f64), epsilon: f64, decoupled: bool) -> Self {
        let step = moment.step as f64;
        Self {
            penalty: if decoupled { 0.0 } else { moment.weight_decay },
            keep: if decoupled { 1.0 - moment.learning_rate * moment.weight_decay } else { 1.0 },
            betas,
            step_size: moment.learning_rate / (1.0 - betas.0.powf(step)),
            root_correction: (1.0 - betas.1.powf(step)).sqrt(),
            epsilon,
            #[cfg(feature = "cuda")]
            moment,
            #[cfg(feature = "cuda")]
            decoupled,
        }
    }
}

impl Kernel for AdamKernel {
    #[cfg(feature = "cuda")]
    fn device(&self) -> (&'static str, [f64; 10]) {
        let others = [self.betas.0, self.betas.1, self.epsilon, f64::from(self.decoupled)];
        ("adam", super::on_device::numbers(&self.moment, others))
    }

    fn chunk<A: Real>(&self, parameter: &mut [A], gradient: &[A], slots: &mut [&mut [A]]) {
        let (penalty, keep) = (A::real(self.penalty), A::real(self.keep));
        let (new1, beta2, new2) = (A::real(1.0 - self.betas.0), A::real(self.betas.1), A::real(1.0 - self.betas.1));
        let (step_size, correction) = (A::real(self.step_size), A::real(self.root_correction));
        let epsilon = A::real(self.epsilon);
        let update = |p: &mut A, m: &mut A, g: A, v: A| {
            *m = *m + new1 * (g - *m);
            *p = keep * *p - step_size * *m / (v.root() / correction + epsilon);
        };
        match slots {
            [mean, square] => {
                for (((p, &g), m), v) in parameter.iter_mut().zip(gradient).zip(mean.iter_mut()).zip(square.iter_mut())
                {
                    let g = g + penalty * *p;
                    *v = beta2 * *v + new2 * g * g;
                    update(p, m, g, *v);
                }
            }
            [mean, square, largest] => {
                let state = mean.iter_mut().zip(square.iter_mut()).zip(largest.iter_mut());
                for ((p, &g), ((m, v), most)) in parameter.iter_mut().zip(gradient).zip(state) {
                    let g = g + penalty * *p;
                    *v = beta2 * *v + new2 * g * g;
                    *most = if *v > *most { *v } else { *most };
                    update(p, m, g, *most);
                }
            }
            _ => debug_assert!(false, "Adam has two or three slots"),
        }
    }

    fn tensors(&self, parameter: &Tensor, gradient: &Tensor, slots: &mut [Tensor]) -> candle_core::Result<Tensor> {
        let gradient = (gradient + (parameter * self.penalty)?)?;
        let mean = ((&slots[0] * self.betas.0)? + (&gradient * (1.0 - self.betas.0))?)?;
        let square = ((&slots[1] * self.betas.1)? + (gradient.sqr()? * (1.0 - self.betas.1))?)?;
        slots[0] = mean.clone();
        slots[1] = square.clone();
        let scale = match slots.get_mut(2) {
            Some(largest) => {
                *largest = largest.maximum(&square)?;
                largest.clone()
            }
            None => square,
        };
        let denominator = ((scale.sqrt()? / self.root_correction)? + self.epsilon)?;
        (parameter * self.keep)? - (mean / denominator)? * self.step_size
    }
}
