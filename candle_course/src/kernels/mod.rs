//! Slice kernels for the CPU, kernels for CUDA: the place for `unsafe` code. (A line each
//! beside it: `sizes` asks the system for large pages, `data::pixels` fills memory that was not cleared.)
//!
//! Kernels know nothing of tensors: contiguous slices and sizes in, vectors out. What they assume
//! (lengths, non-empty sizes) the operations one level up have checked.

pub mod activation;
pub mod buffer;
pub mod cat;
pub mod conv;
mod conv_backward;
#[cfg(feature = "cuda")]
pub mod cuda;
mod depthwise;
pub mod dropout;
pub mod gemm;
mod interleave;
pub mod layer_norm;
#[cfg(target_arch = "aarch64")]
mod neon;
pub mod node;
pub mod norm;
pub mod panels;
pub mod parallel;
pub mod pool;
pub mod real;
pub mod recurrence;
pub mod reduce;
pub mod simd;
pub mod softmax;
mod streamed;
pub mod tape;
mod tile;
pub(crate) mod transfer;
pub mod upsample;
mod winograd;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use conv_backward::{OutputGradient, Scattered, backward_weight, masks_in_passing};

pub mod losses;
pub mod updates;
