//! Group normalisation.

use candle_core::{Module, Tensor, Var};

use crate::error::{Error, Result};
use crate::nn::init::Init;
use crate::nn::parameters::Scope;
use crate::ops;

/// y = γ (x − μ) / √(σ² + ε) + β, with mean and (biased) variance over each group of channels of
/// each example, as `torch.nn.GroupNorm`.
///
/// The same in training and evaluation, and independent of the batch: the choice when batches are
/// too small for batch norm. Parameters: `weight` (γ): `[C]`, 1 at first; `bias` (β): `[C]`, 0 at
/// first. Wu & He 2018, "Group Normalization".
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let parameters = Parameters::new(0, &Device::Cpu);
/// let norm = GroupNorm::new(4, 8, &parameters.at("norm"))?;
/// let y = norm.forward(&Tensor::arange(0f32, 2. * 8. * 9., &Device::Cpu)?.reshape((2, 8, 3, 3))?)?;
/// assert!(y.mean_all()?.to_scalar::<f32>()?.abs() < 1e-5);
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct GroupNorm {
    pub(crate) groups: usize,
    pub(crate) weight: Var,
    pub(crate) bias: Var,
    pub(crate) epsilon: f64,
}

/// Configures [`GroupNorm`].
#[derive(Debug, Clone, Copy)]
pub struct GroupNormBuilder {
    groups: usize,
    channels: usize,
    epsilon: f64,
}

impl GroupNorm {
    /// `groups` groups of `channels` channels, with ε 1e-5; weight and bias are in `scope`.
    ///
    /// # Errors
    /// If the channels cannot be divided by the groups, or the scope has a `weight` or `bias`.
    pub fn new(groups: usize, channels: usize, scope: &Scope) -> Result<Self> {
        Self::builder(groups, channels).build(scope)
    }

    /// `groups` groups of `channels` channels, with ε 1e-5, unless told otherwise.
    pub fn builder(groups: usize, channels: usize) -> GroupNormBuilder {
        GroupNormBuilder { groups, channels, epsilon: 1e-5 }
    }
}

impl GroupNormBuilder {
    /// What is added to the variance; 1e-5 by default.
    #[must_use]
    pub fn epsilon(mut self, epsilon: f64) -> Self {
        self.epsilon = epsilon;
        self
    }

    /// The layer, its parameters in `scope`.
    ///
    /// # Errors
    /// If the channels cannot be divided by the groups, ε is not above 0, or the scope has a
    /// `weight` or `bias`.
    pub fn build(self, scope: &Scope) -> Result<GroupNorm> {
        let Self { groups, channels, epsilon } = self;
        if groups == 0 || channels == 0 || !channels.is_multiple_of(groups) {
            return Err(Error::argument("groups", format!("a divisor of the {channels} channels"), groups));
        }
        if !(epsilon > 0.0 && epsilon.is_finite()) {
            return Err(Error::argument("epsilon", "a number above 0", epsilon));
        }
        let weight = scope.parameter("weight", channels, Init::ONES)?;
        let bias = scope.parameter("bias", channels, Init::ZEROS)?;
        Ok(GroupNorm { groups, weight, bias, epsilon })
    }
}

impl Module for GroupNorm {
    /// `xs`: `[N, C, …]` → the same shape.
    fn forward(&self, xs: &Tensor) -> candle_core::Result<Tensor> {
        let channels = self.weight.elem_count();
        let dims = xs.dims();
        if dims.len() < 2 || dims[1] != channels {
            return Err(Error::argument("xs", format!("shape [N, {channels}, …]"), format!("{dims:?}")).into());
        }
        Ok(group_norm(xs, self.groups, &self.weight, &self.bias, self.epsilon)?)
    }
}

/// [`GroupNorm`], of candle's operations but on CUDA devices; `xs`: `[N, C, …]`, the others `[C]`.
pub(crate) fn group_norm(xs: &Tensor, groups: usize, weight: &Tensor, bias: &Tensor, epsilon: f64) -> Result<Tensor> {
    let dims = xs.dims();
    if xs.elem_count() == 0 {
        return Err(Error::argument("xs", "at least one number", format!("shape {dims:?}"))
            .hint("an empty batch has no values and no gradient: was everything filtered out?"));
    }
    #[cfg(feature = "cuda")]
    if crate::kernels::cuda::takes(xs) {
        let (size, inner) = (xs.elem_count() / (dims[0] * groups), dims[2..].iter().product());
        let rows = crate::kernels::cuda::layer_norm::Rows { size, groups, inner, epsilon };
        return Ok(rows.apply(xs, Some((weight, bias)))?);
    }
    let size = xs.elem_count() / (dims[0] * groups);
    let normalised = ops::layer_norm(&xs.reshape((dims[0], groups, size))?, &[size], None, epsilon)?.reshape(dims)?;
    // Weight and bias of every channel: batch normalisation by mean 0 and variance 1.
    let (mean, variance) = (bias.zeros_like()?.detach(), bias.ones_like()?.detach());
    ops::batch_norm_inference(&normalised, &mean, &variance, Some((weight, bias)), 0.0, false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::Parameters;
    use candle_core::{DType, Device};

    #[test]
    fn empty_batches_and_a_useless_epsilon_are_refused() {
        let norm = GroupNorm::new(2, 4, &Parameters::new(0, &Device::Cpu).root()).unwrap();
        for shape in [[0, 4, 3, 3], [2, 4, 0, 3]] {
            let empty = Tensor::zeros(&shape, DType::F32, &Device::Cpu).unwrap();
            let text = norm.forward(&empty).unwrap_err().to_string();
            assert!(text.contains("`xs`: expected at least one number, got shape"), "{text}");
        }
        let scope = Parameters::new(0, &Device::Cpu).root();
        for epsilon in [0.0, -1e-5, f64::NAN, f64::INFINITY] {
            let text = GroupNorm::builder(2, 4).epsilon(epsilon).build(&scope).unwrap_err().to_string();
            assert!(text.contains("`epsilon`: expected a number above 0"), "{text}");
        }
        assert!(GroupNorm::builder(2, 4).epsilon(1e-3).build(&scope).is_ok());
    }
}
