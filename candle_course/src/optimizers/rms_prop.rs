//! RMSprop.

use candle_core::backprop::GradStore;
use candle_core::{DType, Tensor};

use crate::error::{Error, Result};
use crate::kernels::updates::{Kernel, Real};
use crate::nn::Parameters;
use crate::optimizers::Optimizer;
use crate::optimizers::engine::{Engine, Moment};
use crate::optimizers::groups::{Options, common_options, engine_state, fraction};
use crate::setters::setters;

/// RMSprop, as `torch.optim.RMSprop`.
///
/// g ← g + λθ; v ← αv + (1 − α)g²; u = g / (√v + ε), where centering replaces v by
/// v − ḡ² with ḡ ← αḡ + (1 − α)g, at least the rounding of v (of a steady gradient the difference is
/// nothing but rounding, of either sign: PyTorch's root of it is NaN); b ← μb + u; θ ← θ − ηb. State: `square_avg` (v), `grad_avg`
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

    setters! {
        /// The decay α of the mean of the squared gradient (default 0.99).
        alpha(alpha: f64) => alpha = alpha;
        /// The ε that keeps the division finite (default 1e-8).
        epsilon(epsilon: f64) => epsilon = epsilon;
        /// The momentum μ (default 0).
        momentum(momentum: f64) => momentum = momentum;
        /// Divides by the standard deviation instead of the root mean square (default off).
        centered(centered: bool) => centered = centered;
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
        let variance = |v: &mut A, mean: &mut A, g: A| {
            let square = square(v, g);
            *mean = *mean + new * (g - *mean);
            let (variance, least) = (square - *mean * *mean, square * A::ROUNDING);
            // In this order NaN stays NaN.
            if variance < least { least } else { variance }
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
                    *p = *p - rate * g / (variance(v, mean, g).root() + epsilon);
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
                    *b = momentum * *b + g / (variance(v, mean, g).root() + epsilon);
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
            let rounding = if scale.dtype() == DType::F64 { f64::ROUNDING } else { f32::ROUNDING.into() };
            let least = (&scale * rounding)?;
            let variance = (scale - slots[1].sqr()?)?;
            scale = variance.lt(&least)?.where_cond(&least, &variance)?;
        }
        let mut update = (gradient / (scale.sqrt()? + self.epsilon)?)?;
        if let Some(buffer) = slots.get_mut(if self.centered { 2 } else { 1 }) {
            *buffer = ((&*buffer * self.momentum)? + update)?;
            update = buffer.clone();
        }
        parameter - (update * self.moment.learning_rate)?
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    use crate::nn::Init;
    use crate::random::Generator;

    /// A weight after 3000 steps of a gradient of 0.5 ± `noise`.
    fn trained(dtype: DType, noise: f64, momentum: f64) -> f64 {
        let parameters = Parameters::with_dtype(0, dtype, &Device::Cpu);
        let w = parameters.root().parameter("w", 1, Init::ZEROS).unwrap();
        let mut optimizer = RmsProp::builder(&parameters).centered(true).momentum(momentum).build().unwrap();
        let mut generator = Generator::new(4);
        for _ in 0..3000 {
            let gradient = 0.5 + noise * (2.0 * generator.uniform() - 1.0);
            let gradients = (w.as_tensor() * gradient).unwrap().sum_all().unwrap().backward().unwrap();
            optimizer.step(&gradients, 1e-6).unwrap();
        }
        w.as_tensor().to_dtype(DType::F64).unwrap().to_vec1::<f64>().unwrap()[0]
    }

    #[test]
    fn a_steady_gradient_has_a_deviation() {
        for momentum in [0.0, 0.9] {
            for noise in [3e-5, 1e-6, 0.0] {
                let (narrow, wide) = (trained(DType::F32, noise, momentum), trained(DType::F64, noise, momentum));
                // Below the rounding of f32 there is no telling how small the deviation is; the step is
                // the one of a deviation of that size, or smaller.
                assert!(narrow.is_finite() && narrow < 0.0 && narrow >= 2.0 * wide, "{noise}: {narrow} {wide}");
            }
            // A deviation that f32 can tell.
            let (narrow, wide) = (trained(DType::F32, 0.1, momentum), trained(DType::F64, 0.1, momentum));
            assert!((narrow / wide - 1.0).abs() < 1e-3, "{narrow} {wide}");
        }
    }

    #[test]
    fn both_roads_keep_the_variance_above_its_rounding() {
        let kernel = RmsPropKernel {
            moment: Moment { step: 1, learning_rate: 1.0, weight_decay: 0.0 },
            alpha: 0.99,
            epsilon: 1e-8,
            momentum: 0.0,
            centered: true,
        };
        // The square of the mean is above the mean of the square by its last bit.
        let (mut p, mut v, mut mean) = ([0f32], [0.25f32], [0.5f32.next_up()]);
        kernel.chunk(&mut p, &[0.5], &mut [&mut v, &mut mean]);
        let tensor = |value: f32| Tensor::new(&[value], &Device::Cpu).unwrap();
        let mut slots = [tensor(0.25), tensor(0.5f32.next_up())];
        let composed = kernel.tensors(&tensor(0.0), &tensor(0.5), &mut slots).unwrap().to_vec1::<f32>().unwrap()[0];
        let least = (0.25f32 * f32::EPSILON).sqrt();
        for step in [-p[0], -composed] {
            assert!(step.is_finite() && step <= 0.5 / least * 1.001, "{step}");
        }
    }
}
