//! Pooling layers.

use candle_core::{Module, Tensor};

use crate::nn::pair::Pair;
use crate::ops::{self, Pool2dOptions};

macro_rules! window_builders {
    () => {
        /// Pixels from one window to the next; the window's size by default.
        #[must_use]
        pub fn stride(mut self, stride: impl Into<Pair>) -> Self {
            self.0.stride = stride.into().0;
            self
        }

        /// Pixels around the image, at most half a window; 0 by default.
        #[must_use]
        pub fn padding(mut self, padding: impl Into<Pair>) -> Self {
            self.0.padding = padding.into().0;
            self
        }

        /// Counts a last window that reaches over the edge.
        #[must_use]
        pub fn ceil_mode(mut self) -> Self {
            self.0.ceil_mode = true;
            self
        }
    };
}

fn windows(kernel_size: Pair) -> Pool2dOptions {
    Pool2dOptions { kernel_size: kernel_size.0, stride: kernel_size.0, ..Pool2dOptions::new(1) }
}

/// The largest number of every window, as `torch.nn.MaxPool2d`: `[N, C, H, W]` → `[N, C, H′, W′]`.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let images = Tensor::ones((4, 3, 32, 32), DType::F32, &Device::Cpu)?;
/// assert_eq!(MaxPool2d::new(2).forward(&images)?.dims(), [4, 3, 16, 16]);
/// assert_eq!(MaxPool2d::new(3).stride(2).padding(1).forward(&images)?.dims(), [4, 3, 16, 16]);
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct MaxPool2d(Pool2dOptions);

impl MaxPool2d {
    /// Windows of this size, side by side.
    pub fn new(kernel_size: impl Into<Pair>) -> Self {
        Self(windows(kernel_size.into()))
    }

    window_builders!();
}

impl Module for MaxPool2d {
    fn forward(&self, xs: &Tensor) -> candle_core::Result<Tensor> {
        Ok(ops::max_pool2d(xs, &self.0)?)
    }
}

/// The mean of every window, as `torch.nn.AvgPool2d`: `[N, C, H, W]` → `[N, C, H′, W′]`.
#[derive(Debug, Clone, Copy)]
pub struct AvgPool2d(Pool2dOptions);

impl AvgPool2d {
    /// Windows of this size, side by side.
    pub fn new(kernel_size: impl Into<Pair>) -> Self {
        Self(windows(kernel_size.into()))
    }

    window_builders!();

    /// Divides by the number of pixels inside the image, not by the window's size.
    #[must_use]
    pub fn exclude_padding(mut self) -> Self {
        self.0.count_include_pad = false;
        self
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
    output_size: (usize, usize),
}

impl AdaptiveAvgPool2d {
    /// So many rows and columns.
    pub fn new(output_size: impl Into<Pair>) -> Self {
        Self { output_size: output_size.into().0 }
    }
}

impl Module for AdaptiveAvgPool2d {
    fn forward(&self, xs: &Tensor) -> candle_core::Result<Tensor> {
        Ok(ops::adaptive_avg_pool2d(xs, self.output_size)?)
    }
}
