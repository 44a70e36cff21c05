//! Convolutional layers.

use candle_core::{Module, Tensor, Var};

use crate::error::{Error, Result};
use crate::nn::init::Init;
use crate::nn::pair::Pair;
use crate::nn::parameters::Scope;
use crate::ops::{self, Conv2dOptions, ConvTranspose2dOptions};
use crate::setters::setters;
use crate::sizes;

/// 2-d convolution, as `torch.nn.Conv2d`: `[N, in, H, W]` → `[N, out, H′, W′]`.
///
/// Parameters: `weight`: `[out, in/groups, kh, kw]`; `bias`: `[out]`; both uniform in ±1/√fan_in
/// at first.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let parameters = Parameters::new(0, &Device::Cpu);
/// let conv = Conv2d::builder(3, 8, 3).stride(2).padding(1).build(&parameters.at("conv1"))?;
/// let images = Tensor::ones((4, 3, 32, 32), DType::F32, &Device::Cpu)?;
/// assert_eq!(conv.forward(&images)?.dims(), [4, 8, 16, 16]);
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Conv2d {
    pub(crate) weight: Var,
    pub(crate) bias: Option<Var>,
    pub(crate) options: Conv2dOptions,
}

/// Configures [`Conv2d`]. Sizes are a number or a pair (vertical, horizontal).
#[derive(Debug, Clone, Copy)]
pub struct Conv2dBuilder {
    in_channels: usize,
    out_channels: usize,
    kernel_size: (usize, usize),
    options: Conv2dOptions,
    bias: bool,
    init: Option<Init>,
}

fn check_sizes(sizes: &[(&str, usize)], groups: usize) -> Result<()> {
    for (name, size) in sizes {
        if *size == 0 {
            return Err(Error::argument(name, "at least 1", size));
        }
        if name.ends_with("channels") && (groups == 0 || size % groups != 0) {
            return Err(Error::argument("groups", format!("a divisor of the {size} {name}"), groups));
        }
    }
    Ok(())
}

impl Conv2d {
    /// A convolution with stride 1, no padding and a bias, its parameters in `scope`.
    ///
    /// # Errors
    /// As [`Conv2dBuilder::build`].
    pub fn new(in_channels: usize, out_channels: usize, kernel_size: impl Into<Pair>, scope: &Scope) -> Result<Self> {
        Self::builder(in_channels, out_channels, kernel_size).build(scope)
    }

    /// A convolution with stride 1, no padding and a bias, unless told otherwise.
    pub fn builder(in_channels: usize, out_channels: usize, kernel_size: impl Into<Pair>) -> Conv2dBuilder {
        Conv2dBuilder {
            in_channels,
            out_channels,
            kernel_size: kernel_size.into().0,
            options: Conv2dOptions::default(),
            bias: true,
            init: None,
        }
    }

    /// This layer with ReLU behind it, computed in the same pass: faster than a layer of its own.
    #[must_use]
    pub fn with_relu(mut self) -> Self {
        self.options.relu = true;
        self
    }

    /// The weight, `[out, in/groups, kh, kw]`.
    pub fn weight(&self) -> &Var {
        &self.weight
    }

    /// The bias, `[out]`.
    pub fn bias(&self) -> Option<&Var> {
        self.bias.as_ref()
    }
}

impl Conv2dBuilder {
    setters! {
        /// Pixels from one window to the next; 1 by default.
        stride(stride: impl Into<Pair>) => options.stride = stride.into().0;
        /// Zeros around the image, on each side; 0 by default.
        padding(padding: impl Into<Pair>) => options.padding = padding.into().0;
        /// Distance between the pixels of a window; 1 by default.
        dilation(dilation: impl Into<Pair>) => options.dilation = dilation.into().0;
        /// Groups of channels that do not see each other; 1 by default. As many as input channels:
        /// a depthwise convolution.
        groups(groups: usize) => options.groups = groups;
        /// Leaves the bias out, for use before a normalisation that has one.
        no_bias() => bias = false;
        /// How the weight begins; uniform in ±1/√fan_in by default.
        init(init: Init) => init = Some(init);
    }

    /// The layer, its parameters in `scope`.
    ///
    /// # Errors
    /// If a size is 0, the groups do not divide the channels, or the scope has a `weight` or
    /// `bias` already.
    pub fn build(self, scope: &Scope) -> Result<Conv2d> {
        let (kernel_height, kernel_width) = self.kernel_size;
        check_sizes(
            &[
                ("in_channels", self.in_channels),
                ("out_channels", self.out_channels),
                ("kernel_size", kernel_height.min(kernel_width)),
                ("stride", self.options.stride.0.min(self.options.stride.1)),
                ("dilation", self.options.dilation.0.min(self.options.dilation.1)),
            ],
            self.options.groups,
        )?;
        let group_in = self.in_channels / self.options.groups;
        let init = Init::default_for_fan_in(sizes::product("kernel_size", &[group_in, kernel_height, kernel_width])?);
        let shape = (self.out_channels, group_in, kernel_height, kernel_width);
        let weight = scope.parameter("weight", shape, self.init.unwrap_or(init))?;
        let bias = if self.bias { Some(scope.parameter("bias", self.out_channels, init)?) } else { None };
        Ok(Conv2d { weight, bias, options: self.options })
    }
}

impl Module for Conv2d {
    fn forward(&self, xs: &Tensor) -> candle_core::Result<Tensor> {
        Ok(ops::conv2d(xs, &self.weight, self.bias.as_deref(), &self.options)?)
    }
}

/// Transposed 2-d convolution, as `torch.nn.ConvTranspose2d`, to enlarge images:
/// `[N, in, H, W]` → `[N, out, H′, W′]`.
///
/// Parameters: `weight`: `[in, out/groups, kh, kw]`; `bias`: `[out]`.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let parameters = Parameters::new(0, &Device::Cpu);
/// let up = ConvTranspose2d::builder(8, 4, 2).stride(2).build(&parameters.at("up"))?;
/// let features = Tensor::ones((1, 8, 16, 16), DType::F32, &Device::Cpu)?;
/// assert_eq!(up.forward(&features)?.dims(), [1, 4, 32, 32]);
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct ConvTranspose2d {
    pub(crate) weight: Var,
    pub(crate) bias: Option<Var>,
    pub(crate) options: ConvTranspose2dOptions,
}

/// Configures [`ConvTranspose2d`]. Sizes are a number or a pair (vertical, horizontal).
#[derive(Debug, Clone, Copy)]
pub struct ConvTranspose2dBuilder {
    in_channels: usize,
    out_channels: usize,
    kernel_size: (usize, usize),
    options: ConvTranspose2dOptions,
    bias: bool,
}

impl ConvTranspose2d {
    /// A transposed convolution with stride 1, no padding and a bias, its parameters in `scope`.
    ///
    /// # Errors
    /// As [`ConvTranspose2dBuilder::build`].
    pub fn new(in_channels: usize, out_channels: usize, kernel_size: impl Into<Pair>, scope: &Scope) -> Result<Self> {
        Self::builder(in_channels, out_channels, kernel_size).build(scope)
    }

    /// A transposed convolution with stride 1, no padding and a bias, unless told otherwise.
    pub fn builder(in_channels: usize, out_channels: usize, kernel_size: impl Into<Pair>) -> ConvTranspose2dBuilder {
        ConvTranspose2dBuilder {
            in_channels,
            out_channels,
            kernel_size: kernel_size.into().0,
            options: ConvTranspose2dOptions::default(),
            bias: true,
        }
    }

    /// The weight, `[in, out/groups, kh, kw]`.
    pub fn weight(&self) -> &Var {
        &self.weight
    }

    /// The bias, `[out]`.
    pub fn bias(&self) -> Option<&Var> {
        self.bias.as_ref()
    }
}

impl ConvTranspose2dBuilder {
    setters! {
        /// Output pixels from one window to the next; 1 by default.
        stride(stride: impl Into<Pair>) => options.stride = stride.into().0;
        /// Pixels cut from each side of the output; 0 by default.
        padding(padding: impl Into<Pair>) => options.padding = padding.into().0;
        /// Rows and columns added at the bottom and the right; 0 by default.
        output_padding(output_padding: impl Into<Pair>) => options.output_padding = output_padding.into().0;
        /// Distance between the pixels of a window; 1 by default.
        dilation(dilation: impl Into<Pair>) => options.dilation = dilation.into().0;
        /// Groups of channels that do not see each other; 1 by default.
        groups(groups: usize) => options.groups = groups;
        /// Leaves the bias out.
        no_bias() => bias = false;
    }

    /// The layer, its parameters in `scope`.
    ///
    /// # Errors
    /// If a size is 0, the groups do not divide the channels, or the scope has a `weight` or
    /// `bias` already.
    pub fn build(self, scope: &Scope) -> Result<ConvTranspose2d> {
        let (kernel_height, kernel_width) = self.kernel_size;
        check_sizes(
            &[
                ("in_channels", self.in_channels),
                ("out_channels", self.out_channels),
                ("kernel_size", kernel_height.min(kernel_width)),
                ("stride", self.options.stride.0.min(self.options.stride.1)),
                ("dilation", self.options.dilation.0.min(self.options.dilation.1)),
            ],
            self.options.groups,
        )?;
        let group_out = self.out_channels / self.options.groups;
        // PyTorch takes the fan-in from the weight's second dimension, here too.
        let init = Init::default_for_fan_in(sizes::product("kernel_size", &[group_out, kernel_height, kernel_width])?);
        let weight = scope.parameter("weight", (self.in_channels, group_out, kernel_height, kernel_width), init)?;
        let bias = if self.bias { Some(scope.parameter("bias", self.out_channels, init)?) } else { None };
        Ok(ConvTranspose2d { weight, bias, options: self.options })
    }
}

impl Module for ConvTranspose2d {
    fn forward(&self, xs: &Tensor) -> candle_core::Result<Tensor> {
        Ok(ops::conv_transpose2d(xs, &self.weight, self.bias.as_deref(), &self.options)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::Parameters;
    use candle_core::Device;

    #[test]
    fn wrong_sizes_are_refused_at_construction() {
        let parameters = Parameters::new(0, &Device::Cpu);
        let text = Conv2d::builder(3, 8, 3).groups(2).build(&parameters.at("a")).unwrap_err().to_string();
        assert_eq!(text, "`groups`: expected a divisor of the 3 in_channels, got 2");
        assert!(Conv2d::new(3, 8, (3, 0), &parameters.at("a")).is_err());
        assert!(ConvTranspose2d::builder(3, 8, 3).stride(0).build(&parameters.at("a")).is_err());
        let conv = Conv2d::builder(4, 8, (3, 1)).groups(2).no_bias().build(&parameters.at("a")).unwrap();
        assert_eq!(conv.weight().dims(), [8, 2, 3, 1]);
        assert!(conv.bias().is_none());
        let grey = Tensor::zeros((1, 1, 5, 5), candle_core::DType::F32, &Device::Cpu).unwrap();
        let text = conv.forward(&grey).unwrap_err().to_string();
        assert!(text.contains("expected 4 channels, got 1"), "{text}");
    }
}
