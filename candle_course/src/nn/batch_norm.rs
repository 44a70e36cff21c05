//! Batch normalisation layers.

use candle_core::{DType, ModuleT, Tensor, Var};

use crate::error::{Error, Result};
use crate::nn::init::Init;
use crate::nn::parameters::Scope;
use crate::ops;
use crate::setters::setters;
use crate::sizes;

/// What both layers share.
#[derive(Debug, Clone)]
pub(crate) struct BatchNorm {
    pub(crate) affine: Option<(Var, Var)>,
    pub(crate) running_mean: Var,
    pub(crate) running_var: Var,
    batches: Var,
    pub(crate) epsilon: f64,
    momentum: f64,
    pub(crate) relu: bool,
    scope: Scope,
}

/// Configures [`BatchNorm1d`] and [`BatchNorm2d`].
#[derive(Debug, Clone, Copy)]
pub struct BatchNormBuilder<Layer> {
    channels: usize,
    epsilon: f64,
    momentum: f64,
    affine: bool,
    layer: std::marker::PhantomData<Layer>,
}

impl<Layer> BatchNormBuilder<Layer> {
    fn new(channels: usize) -> Self {
        Self { channels, epsilon: 1e-5, momentum: 0.1, affine: true, layer: std::marker::PhantomData }
    }

    setters! {
        /// What is added to the variance; 1e-5 by default.
        epsilon(epsilon: f64) => epsilon = epsilon;
        /// The share of a new batch in the running statistics; 0.1 by default. (Not the momentum of
        /// other frameworks, which is 1 minus this.)
        momentum(momentum: f64) => momentum = momentum;
        /// Leaves weight and bias out.
        no_affine() => affine = false;
    }

    fn layer(self, scope: &Scope) -> Result<BatchNorm> {
        if self.channels == 0 {
            return Err(Error::argument("channels", "at least 1", self.channels));
        }
        if !(self.epsilon > 0.0 && self.epsilon.is_finite()) {
            return Err(Error::argument("epsilon", "a number above 0", self.epsilon));
        }
        if !(0.0..=1.0).contains(&self.momentum) {
            return Err(Error::argument("momentum", "a share in [0, 1]", self.momentum));
        }
        sizes::check::<f64>("channels", self.channels)?;
        let affine = if self.affine {
            let weight = scope.parameter("weight", self.channels, Init::ONES)?;
            Some((weight, scope.parameter("bias", self.channels, Init::ZEROS)?))
        } else {
            None
        };
        let (dtype, device) = (scope.parameters().dtype(), scope.parameters().device());
        let running_mean = scope.buffer("running_mean", &Tensor::zeros(self.channels, dtype, device)?)?;
        let running_var = scope.buffer("running_var", &Tensor::ones(self.channels, dtype, device)?)?;
        let batches = scope.buffer("num_batches_tracked", &Tensor::zeros((), DType::I64, device)?)?;
        let (epsilon, momentum) = (self.epsilon, self.momentum);
        scope.note_batch_norm();
        let scope = scope.clone();
        Ok(BatchNorm { affine, running_mean, running_var, batches, epsilon, momentum, relu: false, scope })
    }
}

impl BatchNorm {
    /// Whether weight and bias are frozen: then the statistics are too.
    fn is_frozen(&self) -> bool {
        let frozen = |name| self.scope.parameters().is_frozen(&self.scope.full_name(name));
        self.affine.is_some() && frozen("weight") && frozen("bias")
    }

    fn forward(&self, xs: &Tensor, train: bool) -> Result<Tensor> {
        let affine = self.affine.as_ref().map(|(weight, bias)| (weight.as_tensor(), bias.as_tensor()));
        if !train || self.is_frozen() {
            let (mean, variance) = (&self.running_mean, &self.running_var);
            return ops::batch_norm_inference(xs, mean, variance, affine, self.epsilon, self.relu);
        }
        let running = ops::RunningStatistics {
            mean: &self.running_mean,
            variance: &self.running_var,
            batches: &self.batches,
            momentum: self.momentum,
        };
        if let Some(ranks) = self.scope.parameters().ranks() {
            let shared = ops::Shared { ranks, layer: self.scope.full_name("") };
            let ys = ops::batch_norm_synchronised(xs, affine, self.epsilon, self.relu, &running, shared)?;
            if let Some(ys) = ys {
                return Ok(ys);
            }
        }
        ops::batch_norm_running(xs, affine, self.epsilon, self.relu, &running)
    }
}

macro_rules! layer {
    ($name:ident, $ranks:pat, $shapes:literal, $(#[$docs:meta])*) => {
        $(#[$docs])*
        #[derive(Debug, Clone)]
        pub struct $name(pub(crate) BatchNorm);

        impl $name {
            /// A layer for so many channels, with ε 1e-5, momentum 0.1, weight and bias; its
            /// parameters and buffers in `scope`.
            ///
            /// # Errors
            /// If there are no channels, or the scope has a variable of these names already.
            pub fn new(channels: usize, scope: &Scope) -> Result<Self> {
                Self::builder(channels).build(scope)
            }

            /// A layer for so many channels, with ε 1e-5, momentum 0.1, weight and bias, unless
            /// told otherwise.
            pub fn builder(channels: usize) -> BatchNormBuilder<Self> {
                BatchNormBuilder::new(channels)
            }

            /// This layer with ReLU behind it, computed in the same pass: faster than a layer of
            /// its own.
            #[must_use]
            pub fn with_relu(mut self) -> Self {
                self.0.relu = true;
                self
            }

            /// The mean of past batches, `[C]`.
            pub fn running_mean(&self) -> &Var {
                &self.0.running_mean
            }

            /// The unbiased variance of past batches, `[C]`.
            pub fn running_var(&self) -> &Var {
                &self.0.running_var
            }
        }

        impl BatchNormBuilder<$name> {
            /// The layer, its parameters and buffers in `scope`.
            ///
            /// # Errors
            /// If a number is out of range, or the scope has a variable of these names already.
            pub fn build(self, scope: &Scope) -> Result<$name> {
                Ok($name(self.layer(scope)?))
            }
        }

        impl ModuleT for $name {
            fn forward_t(&self, xs: &Tensor, train: bool) -> candle_core::Result<Tensor> {
                if !matches!(xs.rank(), $ranks) {
                    return Err(Error::argument("xs", concat!("shape ", $shapes), format!("{:?}", xs.dims())).into());
                }
                Ok(self.0.forward(xs, train)?)
            }
        }
    };
}

layer!(
    BatchNorm1d,
    2 | 3,
    "[N, C] or [N, C, L]",
    /// Batch normalisation (Ioffe & Szegedy 2015, arXiv:1502.03167) of `[N, C]` or `[N, C, L]`, as
    /// `torch.nn.BatchNorm1d`; see [`BatchNorm2d`].
);

layer!(
    BatchNorm2d,
    4,
    "[N, C, H, W]",
    /// Batch normalisation (Ioffe & Szegedy 2015, arXiv:1502.03167) of `[N, C, H, W]`, as
    /// `torch.nn.BatchNorm2d`: in training with the batch's statistics, in evaluation with the
    /// running ones. A layer whose weight and bias are both frozen
    /// ([`Parameters::freeze`](crate::nn::Parameters::freeze)) is as in evaluation in training, too, and its
    /// running statistics stay: fine-tuning on few images would spoil them.
    ///
    /// Several ranks can normalise by the batches of all of them, as `torch.nn.SyncBatchNorm`:
    /// [`TrainerBuilder::synchronise_batch_norm`](crate::training::TrainerBuilder::synchronise_batch_norm).
    ///
    /// Parameters: `weight`, `bias`: `[C]`; buffers: `running_mean`, `running_var`: `[C]`,
    /// `num_batches_tracked`.
    ///
    /// # Examples
    ///
    /// ```
    /// use candle_course::prelude::*;
    ///
    /// let parameters = Parameters::new(0, &Device::Cpu);
    /// let norm = BatchNorm2d::new(8, &parameters.at("bn1"))?;
    /// let images = Tensor::ones((4, 8, 5, 5), DType::F32, &Device::Cpu)?;
    /// let normalised = norm.forward_t(&images, true)?;
    /// assert_eq!(normalised.max_all()?.to_scalar::<f32>()?, 0.0);
    /// assert_eq!(parameters.trainable().len(), 2);
    /// assert_eq!(parameters.buffers().len(), 3);
    /// # Ok::<(), candle_course::Error>(())
    /// ```
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::Parameters;
    use candle_core::Device;

    #[test]
    fn running_statistics_move_towards_each_batch_in_training_only() {
        let parameters = Parameters::new(0, &Device::Cpu);
        let norm = BatchNorm1d::builder(1).momentum(0.5).build(&parameters.root()).unwrap();
        let x = Tensor::new(&[[1f32], [3.], [5.]], &Device::Cpu).unwrap();
        norm.forward_t(&x, false).unwrap();
        assert_eq!(norm.running_mean().to_vec1::<f32>().unwrap(), [0.0]);
        norm.forward_t(&x, true).unwrap();
        assert_eq!(norm.running_mean().to_vec1::<f32>().unwrap(), [1.5]);
        assert_eq!(norm.running_var().to_vec1::<f32>().unwrap(), [2.5]);
        assert_eq!(parameters.get("num_batches_tracked").unwrap().to_scalar::<i64>().unwrap(), 1);
        let y = norm.forward_t(&Tensor::new(&[[1.5f32]], &Device::Cpu).unwrap(), false).unwrap();
        assert_eq!(y.to_vec2::<f32>().unwrap(), [[0.0]]);
        let text = norm.forward_t(&Tensor::zeros((1, 1, 1, 1), DType::F32, &Device::Cpu).unwrap(), true).unwrap_err();
        assert!(text.to_string().contains("shape [N, C] or [N, C, L]"), "{text}");
        assert!(BatchNorm2d::builder(3).momentum(1.5).build(&parameters.at("b")).is_err());
    }

    #[test]
    fn a_frozen_layer_is_in_evaluation_mode_until_it_thaws() {
        let parameters = Parameters::new(0, &Device::Cpu);
        let norm = BatchNorm1d::new(1, &parameters.at("body.norm")).unwrap();
        let x = Tensor::new(&[[1f32], [3.], [5.]], &Device::Cpu).unwrap();
        let numbers = |train: bool| norm.forward_t(&x, train).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        parameters.freeze("body.norm.bias").unwrap();
        assert_ne!(numbers(true), numbers(false), "half of it is trained");
        let before = norm.running_mean().to_vec1::<f32>().unwrap();
        parameters.freeze("body").unwrap();
        assert_eq!(numbers(true), numbers(false));
        assert_eq!(norm.running_mean().to_vec1::<f32>().unwrap(), before);
        parameters.unfreeze("body").unwrap();
        assert_ne!(numbers(true), numbers(false));
        assert_ne!(norm.running_mean().to_vec1::<f32>().unwrap(), before);
    }
}
