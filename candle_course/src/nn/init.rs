//! How parameters begin.

use candle_core::{DType, Device, Shape, Tensor};

use crate::error::{Error, Result};
use crate::random::Generator;
use crate::sizes;

/// An initialiser.
///
/// The Xavier, Kaiming and orthogonal ones are those of `torch.nn.init`. For a weight
/// `[out, in, k…]`, fan_in = in · Πk and fan_out = out · Πk.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let parameters = Parameters::new(0, &Device::Cpu);
/// let init = Init::KaimingNormal { fan: Fan::Out, gain: Nonlinearity::Relu.gain() };
/// let weight = parameters.root().parameter("conv.weight", (64, 32, 3, 3), init)?;
/// # Ok::<(), candle_course::Error>(())
/// ```
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
    /// Uniform in ± gain · √(6 / (fan_in + fan_out)): keeps the variance of a layer's outputs near
    /// that of its inputs, forwards and backwards. Glorot & Bengio 2010, "Understanding the
    /// difficulty of training deep feedforward neural networks".
    XavierUniform {
        /// See [`Nonlinearity::gain`].
        gain: f64,
    },
    /// Normal with std gain · √(2 / (fan_in + fan_out)).
    XavierNormal {
        /// See [`Nonlinearity::gain`].
        gain: f64,
    },
    /// Uniform in ± gain · √(3 / fan). He et al. 2015, "Delving Deep into Rectifiers".
    KaimingUniform {
        /// Forwards (`In`) or backwards (`Out`).
        fan: Fan,
        /// See [`Nonlinearity::gain`].
        gain: f64,
    },
    /// Normal with std gain / √fan.
    KaimingNormal {
        /// Forwards (`In`) or backwards (`Out`).
        fan: Fan,
        /// See [`Nonlinearity::gain`].
        gain: f64,
    },
    /// Orthonormal rows (or columns, if there are more rows than columns), times the gain; the
    /// dimensions after the first are taken as one. Saxe, McClelland & Ganguli 2014, "Exact
    /// solutions to the nonlinear dynamics of learning in deep linear neural networks".
    Orthogonal {
        /// The length of every row or column.
        gain: f64,
    },
}

/// The variance of which direction stays: that of outputs or that of gradients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fan {
    /// fan_in: of outputs, forwards.
    #[default]
    In,
    /// fan_out: of gradients, backwards.
    Out,
}

/// What follows a layer, and so how much its weights must make up for.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Nonlinearity {
    /// Nothing, or a sigmoid.
    Linear,
    /// tanh.
    Tanh,
    /// max(x, 0).
    Relu,
    /// max(x, 0) + slope · min(x, 0).
    LeakyRelu(f64),
    /// SELU.
    Selu,
}

impl Nonlinearity {
    /// The factor on the standard deviation, as `torch.nn.init.calculate_gain`: 1 for linear, 5/3
    /// for tanh, √2 for ReLU, √(2 / (1 + slope²)) for leaky ReLU, 3/4 for SELU.
    pub fn gain(self) -> f64 {
        match self {
            Self::Linear => 1.0,
            Self::Tanh => 5.0 / 3.0,
            Self::Relu => 2f64.sqrt(),
            Self::LeakyRelu(slope) => (2.0 / (1.0 + slope * slope)).sqrt(),
            Self::Selu => 0.75,
        }
    }
}

impl Init {
    /// The all-zero initialiser.
    pub const ZEROS: Self = Self::Constant(0.0);
    /// The all-one initialiser.
    pub const ONES: Self = Self::Constant(1.0);

    /// PyTorch's default for weights and biases of `Linear` and `Conv2d`:
    /// uniform in ±1/√fan_in (`kaiming_uniform_` with a = √5).
    pub fn default_for_fan_in(fan_in: usize) -> Self {
        Self::symmetric(1.0 / (fan_in.max(1) as f64).sqrt())
    }

    /// Uniform in ±`bound`.
    pub(crate) fn symmetric(bound: f64) -> Self {
        Self::Uniform { low: -bound, high: bound }
    }

    /// A tensor of this distribution.
    ///
    /// # Errors
    /// If a bound is not finite, `low > high`, `std` or a gain is negative, or an initialiser that
    /// needs fans is given a shape of rank 0 or 1.
    pub fn tensor(&self, shape: &Shape, generator: &mut Generator, dtype: DType, device: &Device) -> Result<Tensor> {
        let values = self.values(shape.dims(), generator)?;
        // Rounded to the target dtype on the CPU, so that every device starts from the same bits.
        Ok(Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(dtype)?.to_device(device)?)
    }

    fn values(&self, dims: &[usize], generator: &mut Generator) -> Result<Vec<f64>> {
        let count = sizes::count_of::<f64>("shape", dims)?;
        let simple = match *self {
            Self::Constant(value) => return sizes::filled("shape", value, count),
            Self::Uniform { low, high } => {
                if !(low.is_finite() && high.is_finite() && low <= high) {
                    return Err(Error::argument("init", "finite bounds with low ≤ high", format!("[{low}, {high})")));
                }
                return Ok((0..count).map(|_| low + (high - low) * generator.uniform()).collect());
            }
            Self::Normal { mean, std } => {
                if !(mean.is_finite() && std.is_finite() && std >= 0.0) {
                    return Err(Error::argument(
                        "init",
                        "a finite mean and std ≥ 0",
                        format!("mean {mean}, std {std}"),
                    ));
                }
                return Ok((0..count).map(|_| mean + std * generator.normal()).collect());
            }
            Self::Orthogonal { gain } => {
                fans(dims)?;
                if !(gain.is_finite() && gain >= 0.0) {
                    return Err(Error::argument("gain", "a finite number ≥ 0", gain));
                }
                let values = orthonormal(dims[0], count / dims[0], generator);
                return Ok(values.into_iter().map(|value| gain * value).collect());
            }
            Self::XavierUniform { gain } => Self::symmetric(gain * (6.0 / fan_sum(dims)?).sqrt()),
            Self::XavierNormal { gain } => Self::Normal { mean: 0.0, std: gain * (2.0 / fan_sum(dims)?).sqrt() },
            Self::KaimingUniform { fan, gain } => Self::symmetric(gain * (3.0 / fan.of(dims)?).sqrt()),
            Self::KaimingNormal { fan, gain } => Self::Normal { mean: 0.0, std: gain / fan.of(dims)?.sqrt() },
        };
        simple.values(dims, generator)
    }
}

impl Fan {
    fn of(self, dims: &[usize]) -> Result<f64> {
        let (fan_in, fan_out) = fans(dims)?;
        Ok(match self {
            Self::In => fan_in,
            Self::Out => fan_out,
        })
    }
}

fn fan_sum(dims: &[usize]) -> Result<f64> {
    let (fan_in, fan_out) = fans(dims)?;
    Ok(fan_in + fan_out)
}

/// fan_in and fan_out of a weight `[out, in, k…]`.
fn fans(dims: &[usize]) -> Result<(f64, f64)> {
    let (&[out, input, ..], true) = (dims, dims.iter().all(|&size| size > 0)) else {
        return Err(Error::argument("shape", "at least [out, in], none of them 0", format!("{dims:?}"))
            .hint("biases and scales of normalisations have no fans; give them a constant"));
    };
    let kernel: usize = dims[2..].iter().product();
    Ok(((input * kernel) as f64, (out * kernel) as f64))
}

/// A `[rows, columns]` matrix whose rows, or columns if there are fewer of those, are orthonormal:
/// the Q of a random normal matrix's QR decomposition with a positive diagonal in R, which is
/// uniformly distributed.
fn orthonormal(rows: usize, columns: usize, generator: &mut Generator) -> Vec<f64> {
    let (count, length) = (rows.min(columns), rows.max(columns));
    let mut vectors: Vec<Vec<f64>> = (0..count).map(|_| (0..length).map(|_| generator.normal()).collect()).collect();
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    for index in 0..count {
        let (done, rest) = vectors.split_at_mut(index);
        let vector = &mut rest[0];
        // Gram-Schmidt twice: once leaves rounding errors of nearly parallel vectors.
        for _ in 0..2 {
            for other in done.iter() {
                let share = dot(vector, other);
                vector.iter_mut().zip(other).for_each(|(value, other)| *value -= share * other);
            }
        }
        let norm = dot(vector, vector).sqrt();
        vector.iter_mut().for_each(|value| *value /= norm);
    }
    let at = |row: usize, column: usize| {
        if rows <= columns { vectors[row][column] } else { vectors[column][row] }
    };
    (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column))).map(|(r, c)| at(r, c)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(init: Init, dims: &[usize]) -> Vec<f64> {
        init.values(dims, &mut Generator::new(11)).unwrap()
    }

    /// Mean, standard deviation and largest magnitude.
    fn moments(values: &[f64]) -> (f64, f64, f64) {
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count;
        (mean, variance.sqrt(), values.iter().fold(0.0, |most, value| value.abs().max(most)))
    }

    #[test]
    fn standard_deviations_are_pytorchs() {
        // `torch.nn.init._calculate_fan_in_and_fan_out` of the shape gives 288 and 576.
        let dims = [64, 32, 3, 3];
        let relu = Nonlinearity::Relu.gain();
        let uniform = [
            (Init::XavierUniform { gain: 5.0 / 3.0 }, 5.0 / 3.0 * (6.0 / 864.0f64).sqrt()),
            (Init::KaimingUniform { fan: Fan::In, gain: relu }, (6.0 / 288.0f64).sqrt()),
            (Init::KaimingUniform { fan: Fan::Out, gain: 1.0 }, (3.0 / 576.0f64).sqrt()),
        ];
        for (init, bound) in uniform {
            let (mean, std, most) = moments(&draw(init, &dims));
            assert!(mean.abs() < 0.02 * bound, "{init:?}");
            assert!((std / (bound / 3f64.sqrt()) - 1.0).abs() < 0.02, "{init:?}: {std}");
            assert!(most <= bound && most > 0.999 * bound, "{init:?}: {most} {bound}");
        }
        let normal = [
            (Init::XavierNormal { gain: 1.0 }, (2.0 / 864.0f64).sqrt()),
            (Init::KaimingNormal { fan: Fan::In, gain: relu }, (2.0 / 288.0f64).sqrt()),
            (Init::KaimingNormal { fan: Fan::Out, gain: relu }, (2.0 / 576.0f64).sqrt()),
        ];
        for (init, expected) in normal {
            let values = draw(init, &dims);
            let (mean, std, _) = moments(&values);
            assert!(mean.abs() < 0.02 * expected, "{init:?}");
            assert!((std / expected - 1.0).abs() < 0.02, "{init:?}: {std}");
            let within = values.iter().filter(|value| value.abs() < expected).count() as f64 / values.len() as f64;
            assert!((within - 0.6827).abs() < 0.01, "{init:?}: {within}");
        }
    }

    #[test]
    fn orthogonal_rows_or_columns() {
        for dims in [vec![5, 9], vec![9, 5], vec![6, 6], vec![4, 2, 3, 3]] {
            let gain = 1.5;
            let values = draw(Init::Orthogonal { gain }, &dims);
            let (rows, columns) = (dims[0], values.len() / dims[0]);
            let matrix = Tensor::from_vec(values, (rows, columns), &Device::Cpu).unwrap();
            let transposed = matrix.t().unwrap().contiguous().unwrap();
            let product = if rows <= columns { matrix.matmul(&transposed) } else { transposed.matmul(&matrix) };
            let identity = (Tensor::eye(rows.min(columns), DType::F64, &Device::Cpu).unwrap() * (gain * gain)).unwrap();
            let error = (product.unwrap() - identity).unwrap().abs().unwrap().max_all().unwrap();
            assert!(error.to_scalar::<f64>().unwrap() < 1e-12, "{dims:?}");
        }
    }

    #[test]
    fn vectors_have_no_fans() {
        let text = Init::XavierUniform { gain: 1.0 }.values(&[7], &mut Generator::new(0)).unwrap_err().to_string();
        assert!(text.contains("biases and scales of normalisations"), "{text}");
        assert!(Init::Orthogonal { gain: f64::NAN }.values(&[2, 2], &mut Generator::new(0)).is_err());
        assert!(Init::KaimingNormal { fan: Fan::In, gain: -1.0 }.values(&[2, 2], &mut Generator::new(0)).is_err());
    }
}
