//! Pooling layers.

use candle_core::{Module, Tensor};

use crate::error::{Error, Result};
use crate::nn::pair::Pair;
use crate::ops::{self, Pool2dOptions};
use crate::setters::setters;

/// Configures [`MaxPool2d`] and [`AvgPool2d`]. Sizes are a number or a pair (vertical, horizontal).
#[derive(Debug, Clone, Copy)]
pub struct Pool2dBuilder<Layer> {
    options: Pool2dOptions,
    layer: std::marker::PhantomData<Layer>,
}

impl<Layer> Pool2dBuilder<Layer> {
    fn new(Pair(kernel_size): Pair) -> Self {
        let options = Pool2dOptions { kernel_size, stride: kernel_size, ..Pool2dOptions::new(1) };
        Self { options, layer: std::marker::PhantomData }
    }

    setters! {
        /// Pixels from one window to the next; the window's size by default.
        stride(stride: impl Into<Pair>) => options.stride = stride.into().0;
        /// Pixels around the image, at most half a window; 0 by default.
        padding(padding: impl Into<Pair>) => options.padding = padding.into().0;
        /// Counts a last window that reaches over the edge.
        ceil_mode() => options.ceil_mode = true;
    }

    fn checked(self) -> Result<Pool2dOptions> {
        let Pool2dOptions { kernel_size: kernel, stride, padding, .. } = self.options;
        for (name, size) in [("kernel_size", kernel.0.min(kernel.1)), ("stride", stride.0.min(stride.1))] {
            if size == 0 {
                return Err(Error::argument(name, "at least 1", 0));
            }
        }
        for (padding, kernel) in [(padding.0, kernel.0), (padding.1, kernel.1)] {
            if padding > kernel / 2 {
                return Err(Error::argument("padding", format!("at most half the window of {kernel}"), padding));
            }
        }
        Ok(self.options)
    }
}

/// The largest number of every window, as `torch.nn.MaxPool2d`: `[N, C, H, W]` → `[N, C, H′, W′]`.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let images = Tensor::ones((4, 3, 32, 32), DType::F32, &Device::Cpu)?;
/// assert_eq!(MaxPool2d::new(2)?.forward(&images)?.dims(), [4, 3, 16, 16]);
/// let overlapping = MaxPool2d::builder(3).stride(2).padding(1).build()?;
/// assert_eq!(overlapping.forward(&images)?.dims(), [4, 3, 16, 16]);
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct MaxPool2d(pub(crate) Pool2dOptions);

impl MaxPool2d {
    /// Windows of this size, side by side.
    ///
    /// # Errors
    /// If the size is 0.
    pub fn new(kernel_size: impl Into<Pair>) -> Result<Self> {
        Self::builder(kernel_size).build()
    }

    /// Windows of this size, side by side, unless told otherwise.
    pub fn builder(kernel_size: impl Into<Pair>) -> Pool2dBuilder<Self> {
        Pool2dBuilder::new(kernel_size.into())
    }
}

impl Pool2dBuilder<MaxPool2d> {
    /// The layer.
    ///
    /// # Errors
    /// If a size is 0, or the padding more than half a window.
    pub fn build(self) -> Result<MaxPool2d> {
        Ok(MaxPool2d(self.checked()?))
    }
}

impl Module for MaxPool2d {
    fn forward(&self, xs: &Tensor) -> candle_core::Result<Tensor> {
        Ok(ops::max_pool2d(xs, &self.0)?)
    }
}

/// The mean of every window, as `torch.nn.AvgPool2d`: `[N, C, H, W]` → `[N, C, H′, W′]`.
#[derive(Debug, Clone, Copy)]
pub struct AvgPool2d(pub(crate) Pool2dOptions);

impl AvgPool2d {
    /// Windows of this size, side by side.
    ///
    /// # Errors
    /// If the size is 0.
    pub fn new(kernel_size: impl Into<Pair>) -> Result<Self> {
        Self::builder(kernel_size).build()
    }

    /// Windows of this size, side by side, unless told otherwise.
    pub fn builder(kernel_size: impl Into<Pair>) -> Pool2dBuilder<Self> {
        Pool2dBuilder::new(kernel_size.into())
    }
}

impl Pool2dBuilder<AvgPool2d> {
    /// Divides by the number of pixels inside the image, not by the window's size.
    #[must_use]
    pub fn exclude_padding(mut self) -> Self {
        self.options.count_include_pad = false;
        self
    }

    /// The layer.
    ///
    /// # Errors
    /// If a size is 0, or the padding more than half a window.
    pub fn build(self) -> Result<AvgPool2d> {
        Ok(AvgPool2d(self.checked()?))
    }
}

impl Module for AvgPool2d {
    fn forward(&self, xs: &Tensor) -> candle_core::Result<Tensor> {
        Ok(ops::avg_pool2d(xs, &self.0)?)
    }
}

/// The means of windows that divide the image into so many rows and columns, as
/// `torch.nn.AdaptiveAvgPool2d`. With 1: global average pooling.
#[derive(Debug, Clone, Copy)]
pub struct AdaptiveAvgPool2d {
    pub(crate) output_size: (usize, usize),
}

impl AdaptiveAvgPool2d {
    /// So many rows and columns.
    ///
    /// # Errors
    /// If a size is 0.
    pub fn new(output_size: impl Into<Pair>) -> Result<Self> {
        let output_size = output_size.into().0;
        if output_size.0 == 0 || output_size.1 == 0 {
            return Err(Error::argument("output_size", "at least 1", format!("{output_size:?}")));
        }
        Ok(Self { output_size })
    }
}

impl Module for AdaptiveAvgPool2d {
    fn forward(&self, xs: &Tensor) -> candle_core::Result<Tensor> {
        Ok(ops::adaptive_avg_pool2d(xs, self.output_size)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn useless_windows_are_refused_at_construction() {
        let text = MaxPool2d::new(0).unwrap_err().to_string();
        assert_eq!(text, "`kernel_size`: expected at least 1, got 0");
        assert!(MaxPool2d::builder(2).stride((2, 0)).build().unwrap_err().to_string().contains("`stride`"));
        let text = AvgPool2d::builder((2, 4)).padding(2).build().unwrap_err().to_string();
        assert_eq!(text, "`padding`: expected at most half the window of 2, got 2");
        assert!(AvgPool2d::builder(3).stride(2).padding(1).exclude_padding().ceil_mode().build().is_ok());
        assert!(AdaptiveAvgPool2d::new((1, 0)).is_err());
    }
}
