//! Kernels for NVIDIA GPUs, in CUDA C++, beside the CPU's: the same definitions.
//!
//! The `.cu` files travel inside the crate as text. NVRTC compiles each for the device at hand
//! when one of its kernels is first used (no nvcc, no toolkit beyond the libraries that candle
//! links), and the machine code stays in the user's cache folder.
//!
//! - Kernels are right for any size, add up in a fixed order, and never by atomic floats: the same
//!   inputs give the same bits.
//! - Nothing here waits for the device: a step is a list of launches in one stream.

pub mod activation;
pub mod cat;
mod compile;
#[cfg(feature = "cudnn")]
pub mod conv;
pub mod cross_entropy;
pub mod dropout;
pub mod faults;
pub mod gemm;
pub mod layer_norm;
#[cfg(feature = "cudnn")]
mod layout;
pub mod linear;
pub mod lovasz;
pub mod norm;
pub mod pointwise;
pub mod pool;
pub mod recurrence;
pub mod region;
pub mod runtime;
pub mod updates;
pub mod upload;
pub mod upsample;

use candle_core::{DType, Device, Tensor};

pub use compile::Unit;

/// Whether the kernels here take this tensor.
pub fn takes(xs: &Tensor) -> bool {
    matches!(xs.device(), Device::Cuda(_)) && matches!(xs.dtype(), DType::F32 | DType::F64)
}

/// Conversions, bias and ReLU, column sums, joined rows.
const CAST: Unit = Unit { name: "cast", source: include_str!("cast.cu") };
