//! How parameters begin.

use candle_core::{DType, Device, Shape, Tensor};

use crate::error::{Error, Result};
use crate::random::Generator;

/// An initialiser.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Init {
    /// The same number everywhere.
    Constant(f64),
    /// Uniform in `[low, high)`.
    Uniform {
        /// The lower bound.
        low: f64,
        /// The upper bound.
        high: f64,
    },
    /// Normal with mean and standard deviation.
    Normal {
        /// The mean.
        mean: f64,
        /// The standard deviation.
        std: f64,
    },
}

impl Init {
    /// The all-zero initialiser.
    pub const ZEROS: Self = Self::Constant(0.0);
    /// The all-one initialiser.
    pub const ONES: Self = Self::Constant(1.0);

    /// PyTorch's default for weights and biases of `Linear` and `Conv2d`:
    /// uniform in ±1/√fan_in (`kaiming_uniform_` with a = √5).
    pub fn default_for_fan_in(fan_in: usize) -> Self {
        let bound = 1.0 / (fan_in.max(1) as f64).sqrt();
        Self::Uniform { low: -bound, high: bound }
    }

    /// A tensor of this distribution.
    ///
    /// # Errors
    /// If a bound is not finite, `low > high`, or `std` is negative.
    pub fn tensor(&self, shape: &Shape, generator: &mut Generator, dtype: DType, device: &Device) -> Result<Tensor> {
        let count = shape.elem_count();
        let values: Vec<f64> = match *self {
            Self::Constant(value) => vec![value; count],
            Self::Uniform { low, high } => {
                if !(low.is_finite() && high.is_finite() && low <= high) {
                    return Err(Error::argument("init", "finite bounds with low ≤ high", format!("[{low}, {high})")));
                }
                (0..count).map(|_| low + (high - low) * generator.uniform()).collect()
            }
            Self::Normal { mean, std } => {
                if !(mean.is_finite() && std.is_finite() && std >= 0.0) {
                    return Err(Error::argument(
                        "init",
                        "a finite mean and std ≥ 0",
                        format!("mean {mean}, std {std}"),
                    ));
                }
                (0..count).map(|_| mean + std * generator.normal()).collect()
            }
        };
        // Rounded to the target dtype on the CPU, so that every device starts from the same bits.
        Ok(Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(dtype)?.to_device(device)?)
    }
}
