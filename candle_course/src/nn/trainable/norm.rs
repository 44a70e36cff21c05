//! Norms over the last dimension.

use candle_core::{D, DType, Module, Result, Tensor};
use candle_nn::{Init, LayerNormConfig, VarBuilder};

/// Layer normalisation over the last dimension, or RMS normalisation: candle's `LayerNorm`, through
/// which gradients go.
///
/// `[…, size]` → `[…, size]`: y = (x − mean) / √(variance + ε) · weight + bias, without the mean and
/// the bias where they are left out.
///
/// # Examples
///
/// ```
/// use candle_course::nn::trainable as candle_nn;
/// use candle_course::prelude::*;
///
/// let parameters = Parameters::new(0, &Device::Cpu);
/// let norm = candle_nn::layer_norm(4, 1e-5, parameters.var_builder().pp("norm"))?;
/// let y = norm.forward(&Tensor::new(&[[1f32, 2., 3., 4.]], &Device::Cpu)?)?;
/// assert!(parameters.missing_gradients(&y.sqr()?.sum_all()?.backward()?).is_empty());
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct LayerNorm {
    weight: Tensor,
    bias: Option<Tensor>,
    remove_mean: bool,
    eps: f64,
}

impl LayerNorm {
    /// A norm with weight and bias, `[size]` each.
    pub fn new(weight: Tensor, bias: Tensor, eps: f64) -> Self {
        Self { weight, bias: Some(bias), remove_mean: true, eps }
    }

    /// A norm without a bias.
    pub fn new_no_bias(weight: Tensor, eps: f64) -> Self {
        Self { weight, bias: None, remove_mean: true, eps }
    }

    /// A norm that takes no mean away: y = x / √(mean of x² + ε) · weight.
    pub fn rms_norm(weight: Tensor, eps: f64) -> Self {
        Self { weight, bias: None, remove_mean: false, eps }
    }

    /// The weight, `[size]`.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// The bias, `[size]`.
    pub fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }

    /// What is added to the variance.
    pub fn eps(&self) -> f64 {
        self.eps
    }

    /// Whether the mean is taken away.
    pub fn remove_mean(&self) -> bool {
        self.remove_mean
    }
}

impl Module for LayerNorm {
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        match &self.bias {
            Some(bias) if self.remove_mean => layer_norm_of(xs, &self.weight, bias, self.eps),
            bias => {
                // Sums of half precision overflow.
                let wide = wide(xs)?;
                let centred = match self.remove_mean {
                    true => wide.broadcast_sub(&wide.mean_keepdim(D::Minus1)?)?,
                    false => wide,
                };
                let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
                let normed = centred.broadcast_div(&(variance + self.eps)?.sqrt()?)?.to_dtype(xs.dtype())?;
                let ys = normed.broadcast_mul(&self.weight)?;
                bias.as_ref().map_or(Ok(ys.clone()), |bias| ys.broadcast_add(bias))
            }
        }
    }
}

/// f16 and bf16 as f32.
fn wide(xs: &Tensor) -> Result<Tensor> {
    match xs.dtype() {
        DType::F16 | DType::BF16 => xs.to_dtype(DType::F32),
        _ => Ok(xs.clone()),
    }
}

/// Layer normalisation over the last dimension.
pub(super) fn layer_norm_of(xs: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let size = xs.dim(D::Minus1)?;
    let (wide, weight, wide_bias) = (wide(xs)?, self::wide(weight)?, self::wide(bias)?);
    crate::ops::layer_norm(&wide, &[size], Some((&weight, &wide_bias)), eps)?.to_dtype(xs.dtype())
}

/// The norm that `config` says: candle's `layer_norm`. Its variables are `weight` and `bias`, or
/// `gamma` and `beta` where those exist already.
///
/// # Errors
/// If a variable of that name has another shape.
pub fn layer_norm(size: usize, config: impl Into<LayerNormConfig>, vb: VarBuilder<'_>) -> Result<LayerNorm> {
    let config = config.into();
    let variable = |name: &str, old: &str, value| {
        let name = if !vb.contains_tensor(name) && vb.contains_tensor(old) { old } else { name };
        vb.get_with_hints(size, name, Init::Const(value))
    };
    let weight = variable("weight", "gamma", 1.0)?;
    let bias = if config.affine { Some(variable("bias", "beta", 0.0)?) } else { None };
    Ok(LayerNorm { weight, bias, remove_mean: config.remove_mean, eps: config.eps })
}

/// A layer norm without a bias.
///
/// # Errors
/// As [`layer_norm()`].
pub fn layer_norm_no_bias(size: usize, eps: f64, vb: VarBuilder<'_>) -> Result<LayerNorm> {
    layer_norm(size, LayerNormConfig { eps, remove_mean: true, affine: false }, vb)
}

/// RMS normalisation over the last dimension: candle's `RmsNorm`, through which gradients go.
#[derive(Debug, Clone)]
pub struct RmsNorm(LayerNorm);

impl RmsNorm {
    /// A norm with this weight, `[size]`.
    pub fn new(weight: Tensor, eps: f64) -> Self {
        Self(LayerNorm::rms_norm(weight, eps))
    }

    /// The norm as a [`LayerNorm`] that takes no mean away.
    pub fn into_inner(self) -> LayerNorm {
        self.0
    }

    /// The weight, `[size]`.
    pub fn weight(&self) -> &Tensor {
        self.0.weight()
    }

    /// What is added to the mean square.
    pub fn eps(&self) -> f64 {
        self.0.eps()
    }

    /// The same as `forward`, which is differentiable, too.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn forward_diff(&self, xs: &Tensor) -> Result<Tensor> {
        self.0.forward(xs)
    }
}

impl Module for RmsNorm {
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        self.0.forward(xs)
    }
}

/// An RMS norm whose variable is `weight`.
///
/// # Errors
/// As [`layer_norm()`].
pub fn rms_norm(size: usize, eps: f64, vb: VarBuilder<'_>) -> Result<RmsNorm> {
    Ok(RmsNorm(layer_norm(size, LayerNormConfig { eps, remove_mean: false, affine: false }, vb)?))
}
