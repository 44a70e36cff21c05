//! The crate `candle_nn` with gradients: all of it, but in place of what loses them, layers and
//! functions of the same names and arguments that keep them.
//!
//! candle's `LayerNorm` and `RmsNorm`, `softmax_last_dim` and rotary embeddings run as one fused
//! operation that candle cannot go back through: what lies before them is trained wrongly or not at
//! all, without any error. Models of candle-transformers use them nearly everywhere. Such a model
//! trains once its file is compiled against this module: copy it, and write
//!
//! ```
//! use candle_course::candle_core as candle;
//! use candle_course::nn::trainable as candle_nn;
//! ```
//!
//! at its head (or replace `candle_nn::` by `candle_course::nn::trainable::`), and
//! `use super::with_tracing::…` by `use candle_course::nn::trainable::…`.
//!
//! | name | candle's | here |
//! | --- | --- | --- |
//! | [`LayerNorm`], [`layer_norm()`], [`ops::layer_norm`] | no gradient with a bias and contiguous input | right |
//! | [`RmsNorm`], [`rms_norm`], [`ops::rms_norm`] | no gradient | right |
//! | [`ops::softmax_last_dim`] | no gradient | right |
//! | [`rotary_emb::rope`], [`rotary_emb::rope_i`], [`rotary_emb::rope_thd`] | no gradient | right |
//!
//! Methods of candle's tensors cannot be replaced that way: for `max_pool2d`, `upsample_nearest2d`
//! and `upsample_bilinear2d` there are those of [`ops`](crate::ops).

mod norm;
pub mod ops;
pub mod rotary_emb;

pub use candle_nn::*;
pub use norm::{LayerNorm, RmsNorm, layer_norm, layer_norm_no_bias, rms_norm};

/// `candle_nn::layer_norm`, with gradients.
pub mod layer_norm {
    pub use super::norm::{LayerNorm, RmsNorm, layer_norm, layer_norm_no_bias, rms_norm};
    pub use candle_nn::LayerNormConfig;
}

#[cfg(test)]
mod tests;
