//! `candle_nn::ops`, with gradients where candle's have none.

use candle_core::{D, Module as _, Result, Tensor};

pub use candle_nn::ops::*;

/// The softmax over the last dimension.
///
/// # Errors
/// If the tensor has no dimension.
pub fn softmax_last_dim(xs: &Tensor) -> Result<Tensor> {
    softmax(xs, D::Minus1)
}

/// Layer normalisation over the last dimension: `xs`: `[…, size]`, `weight` and `bias`: `[size]`.
///
/// # Errors
/// If shapes do not fit.
pub fn layer_norm(xs: &Tensor, weight: &Tensor, bias: &Tensor, eps: f32) -> Result<Tensor> {
    super::norm::layer_norm_of(xs, weight, bias, f64::from(eps))
}

/// RMS normalisation over the last dimension: `xs`: `[…, size]`, `weight`: `[size]`.
///
/// # Errors
/// If shapes do not fit.
pub fn rms_norm(xs: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
    super::RmsNorm::new(weight.clone(), f64::from(eps)).forward(xs)
}
