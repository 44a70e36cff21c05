//! The layer normalisation layer.

use candle_core::{Module, Shape, Tensor, Var};

use crate::error::{Error, Result};
use crate::nn::init::Init;
use crate::nn::parameters::Scope;
use crate::ops;
use crate::setters::setters;

/// Normalises over the last dimensions (Ba et al. 2016, arXiv:1607.06450), as
/// `torch.nn.LayerNorm`: `[…, shape]` → `[…, shape]`.
///
/// Parameters: `weight`, `bias`, of the normalised shape.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let parameters = Parameters::new(0, &Device::Cpu);
/// let norm = LayerNorm::new(4, &parameters.at("norm"))?;
/// let y = norm.forward(&Tensor::new(&[[1f32, 2., 3., 4.]], &Device::Cpu)?)?;
/// assert!(y.sum_all()?.to_scalar::<f32>()?.abs() < 1e-6);
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct LayerNorm {
    pub(crate) shape: Vec<usize>,
    pub(crate) affine: Option<(Var, Var)>,
    pub(crate) epsilon: f64,
}

/// Configures [`LayerNorm`].
#[derive(Debug, Clone)]
pub struct LayerNormBuilder {
    shape: Vec<usize>,
    epsilon: f64,
    affine: bool,
}

impl LayerNorm {
    /// Normalisation over the last dimensions, which have this shape, with ε 1e-5, weight and
    /// bias, which are in `scope`.
    ///
    /// # Errors
    /// If the shape is empty, or the scope has a `weight` or `bias` already.
    pub fn new(normalised_shape: impl Into<Shape>, scope: &Scope) -> Result<Self> {
        Self::builder(normalised_shape).build(scope)
    }

    /// Normalisation over the last dimensions, which have this shape, with ε 1e-5, weight and
    /// bias, unless told otherwise.
    pub fn builder(normalised_shape: impl Into<Shape>) -> LayerNormBuilder {
        LayerNormBuilder { shape: normalised_shape.into().into_dims(), epsilon: 1e-5, affine: true }
    }
}

impl LayerNormBuilder {
    setters! {
        /// What is added to the variance; 1e-5 by default.
        epsilon(epsilon: f64) => epsilon = epsilon;
        /// Leaves weight and bias out.
        no_affine() => affine = false;
    }

    /// The layer, its parameters in `scope`.
    ///
    /// # Errors
    /// If the shape is empty, ε is not above 0, or the scope has a `weight` or `bias` already.
    pub fn build(self, scope: &Scope) -> Result<LayerNorm> {
        if self.shape.contains(&0) || self.shape.is_empty() {
            return Err(Error::argument("normalised_shape", "at least one number", format!("{:?}", self.shape)));
        }
        if !(self.epsilon > 0.0 && self.epsilon.is_finite()) {
            return Err(Error::argument("epsilon", "a number above 0", self.epsilon));
        }
        let affine = if self.affine {
            let weight = scope.parameter("weight", self.shape.as_slice(), Init::ONES)?;
            Some((weight, scope.parameter("bias", self.shape.as_slice(), Init::ZEROS)?))
        } else {
            None
        };
        Ok(LayerNorm { shape: self.shape, affine, epsilon: self.epsilon })
    }
}

impl Module for LayerNorm {
    fn forward(&self, xs: &Tensor) -> candle_core::Result<Tensor> {
        let affine = self.affine.as_ref().map(|(weight, bias)| (weight.as_tensor(), bias.as_tensor()));
        Ok(ops::layer_norm(xs, &self.shape, affine, self.epsilon)?)
    }
}
