//! Differentiable operations: fast kernels on the CPU and on NVIDIA GPUs, candle's own operations
//! elsewhere.
//!
//! Every operation takes and returns candle tensors and takes part in candle's `backward`. On the
//! CPU it runs kernels of this crate (AVX-512, AVX2, NEON or portable, see [`simd_level`]; matrix products
//! are the `gemm` crate's, with the instructions that it picks) on candle's
//! thread pool, which has `RAYON_NUM_THREADS` threads (`CANDLE_NUM_THREADS`, if set, overrides
//! it). On a CUDA device it runs kernels of this crate, cuBLAS and (with the feature `cudnn`)
//! cuDNN, in the [`Precision`](crate::precision::Precision) that holds. Elsewhere, and for dtypes
//! without kernels, it is composed of candle's operations, arranged so that the gradient is right
//! there too (candle's own `max_pool2d` gradient, for one, is not).
//!
//! - f32 and f64; inputs may be strided or broadcast; empty ones are refused.
//! - The gradient of an input that needs none is not computed.
//! - Gradients of gradients are refused: candle's `CANDLE_GRAD_DO_NOT_DETACH` makes the backward
//!   pass of these operations an error. Without it gradients carry no graph: a backward pass
//!   through them yields nothing and no error, as in candle itself.
//! - The same inputs give the same bits on the same machine with the same number of threads.

mod support;

mod activation;
mod batch_norm;
mod cat;
pub(crate) mod conv2d;
pub(crate) mod conv_transpose2d;
mod dropout;
mod layer_norm;
mod linear;
mod log_softmax;
mod no_grad;
pub(crate) mod pool;
mod recurrence;
mod synchronise;
mod upsample;

#[cfg(all(test, feature = "cuda"))]
mod cuda_tests;
#[cfg(all(test, feature = "cuda"))]
mod device_tests;
#[cfg(test)]
mod property_tests;
#[cfg(test)]
pub(crate) mod reference_tests;

pub use crate::kernels::simd::{SimdLevel, simd_level};
pub use activation::{add_relu, gelu, relu, silu};
pub use batch_norm::{BatchStatistics, batch_norm, batch_norm_inference};
pub(crate) use batch_norm::{RunningStatistics, batch_norm_running, batch_norm_synchronised};
pub use cat::cat;
pub use conv_transpose2d::{ConvTranspose2dOptions, conv_transpose2d};
pub use conv2d::{Conv2dOptions, conv2d};
pub use dropout::dropout;

pub use layer_norm::layer_norm;
pub use linear::linear;
pub use log_softmax::log_softmax;
pub use no_grad::no_grad;
pub use pool::{Pool2dOptions, adaptive_avg_pool2d, avg_pool2d, max_pool2d};
pub(crate) use recurrence::{Cell, recurrence};
pub(crate) use support::Reading;
#[cfg(test)]
pub(crate) use support::composed;
pub(crate) use synchronise::{Moments, Shared, Synchronise, zero_of};
pub use upsample::{upsample_bilinear2d, upsample_nearest2d};
