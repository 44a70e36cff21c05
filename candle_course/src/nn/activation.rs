//! Activations as layers, for [`Sequential`](crate::nn::Sequential).

use candle_core::{Module, Tensor};

use crate::ops;

/// An element-wise non-linearity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Activation {
    /// max(x, 0).
    Relu,
    /// x·Φ(x), exact (Hendrycks & Gimpel 2016), as `torch.nn.GELU`.
    Gelu,
    /// x·σ(x) (Elfwing et al. 2017), as `torch.nn.SiLU`.
    Silu,
    /// tanh(x).
    Tanh,
    /// 1 / (1 + e⁻ˣ).
    Sigmoid,
}

impl Module for Activation {
    fn forward(&self, xs: &Tensor) -> candle_core::Result<Tensor> {
        Ok(match self {
            Self::Relu => ops::relu(xs)?,
            Self::Gelu => ops::gelu(xs)?,
            Self::Silu => ops::silu(xs)?,
            Self::Tanh => xs.tanh()?,
            Self::Sigmoid => candle_nn::ops::sigmoid(xs)?,
        })
    }
}
