//! The fully connected layer.

use candle_core::{Module, Tensor, Var};

use crate::error::{Error, Result};
use crate::nn::init::Init;
use crate::nn::parameters::Scope;
use crate::ops;

/// `y = x Wᵀ + b`, as `torch.nn.Linear`.
///
/// Parameters: `weight`: `[out, in]`; `bias`: `[out]`; both uniform in ±1/√in at first.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let parameters = Parameters::new(0, &Device::Cpu);
/// let layer = Linear::new(4, 2, &parameters.at("fc"))?;
/// let y = layer.forward(&Tensor::ones((3, 4), DType::F32, &Device::Cpu)?)?;
/// assert_eq!(y.dims(), [3, 2]);
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Linear {
    pub(crate) weight: Var,
    pub(crate) bias: Option<Var>,
    pub(crate) relu: bool,
}

/// Configures [`Linear`].
#[derive(Debug, Clone, Copy)]
pub struct LinearBuilder {
    in_features: usize,
    out_features: usize,
    bias: bool,
}

impl LinearBuilder {
    /// Leaves the bias out, for use before a normalisation that has one.
    #[must_use]
    pub fn no_bias(mut self) -> Self {
        self.bias = false;
        self
    }

    /// The layer, its parameters in `scope`.
    ///
    /// # Errors
    /// If a size is 0, or the scope has a `weight` or `bias` already.
    pub fn build(self, scope: &Scope) -> Result<Linear> {
        let Self { in_features, out_features, bias } = self;
        for (name, size) in [("in_features", in_features), ("out_features", out_features)] {
            if size == 0 {
                return Err(Error::argument(name, "at least 1", size));
            }
        }
        let init = Init::default_for_fan_in(in_features);
        let weight = scope.parameter("weight", (out_features, in_features), init)?;
        let bias = if bias { Some(scope.parameter("bias", out_features, init)?) } else { None };
        Ok(Linear { weight, bias, relu: false })
    }
}

impl Linear {
    /// A layer with bias, its parameters in `scope`.
    ///
    /// # Errors
    /// If a size is 0, or the scope has a `weight` or `bias` already.
    pub fn new(in_features: usize, out_features: usize, scope: &Scope) -> Result<Self> {
        Self::builder(in_features, out_features).build(scope)
    }

    /// A layer with bias, unless told otherwise.
    pub fn builder(in_features: usize, out_features: usize) -> LinearBuilder {
        LinearBuilder { in_features, out_features, bias: true }
    }

    /// This layer with ReLU behind it, computed in the same pass: faster than a layer of its own.
    #[must_use]
    pub fn with_relu(mut self) -> Self {
        self.relu = true;
        self
    }

    /// The weight, `[out, in]`.
    pub fn weight(&self) -> &Var {
        &self.weight
    }

    /// The bias, `[out]`.
    pub fn bias(&self) -> Option<&Var> {
        self.bias.as_ref()
    }
}

impl Module for Linear {
    /// `xs`: `[…, in]` → `[…, out]`.
    fn forward(&self, xs: &Tensor) -> candle_core::Result<Tensor> {
        Ok(ops::linear(xs, &self.weight, self.bias.as_deref(), self.relu)?)
    }
}
