//! Layers that change the shape of what passes through.

use candle_core::{Module, Tensor};

use crate::error::{Error, Result};
use crate::nn::pair::Pair;
use crate::ops;

/// Joins all dimensions but the first, as `torch.nn.Flatten`: `[N, …]` → `[N, features]`.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let images = Tensor::ones((4, 3, 8, 8), DType::F32, &Device::Cpu)?;
/// assert_eq!(Flatten.forward(&images)?.dims(), [4, 192]);
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct Flatten;

impl Module for Flatten {
    fn forward(&self, xs: &Tensor) -> candle_core::Result<Tensor> {
        xs.flatten_from(1)
    }
}

/// How [`Upsample`] finds new pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum UpsampleMode {
    /// The nearest pixel is repeated.
    Nearest,
    /// Four neighbours are mixed; the image's edges stay in place.
    Bilinear,
    /// Four neighbours are mixed; the centres of the corner pixels stay in place.
    BilinearAlignCorners,
}

/// Enlarges images by a whole factor, as `torch.nn.Upsample`: `[N, C, H, W]` → `[N, C, f·H, f·W]`.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let features = Tensor::ones((1, 8, 16, 16), DType::F32, &Device::Cpu)?;
/// assert_eq!(Upsample::new(2, UpsampleMode::Bilinear)?.forward(&features)?.dims(), [1, 8, 32, 32]);
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Upsample {
    pub(crate) factor: (usize, usize),
    pub(crate) mode: UpsampleMode,
}

impl Upsample {
    /// Enlargement by `factor`.
    ///
    /// # Errors
    /// If the factor is 0.
    pub fn new(factor: impl Into<Pair>, mode: UpsampleMode) -> Result<Self> {
        let factor = factor.into().0;
        if factor.0 == 0 || factor.1 == 0 {
            return Err(Error::argument("factor", "at least 1", format!("{factor:?}")));
        }
        Ok(Self { factor, mode })
    }
}

impl Module for Upsample {
    fn forward(&self, xs: &Tensor) -> candle_core::Result<Tensor> {
        let (_, _, height, width) = xs.dims4()?;
        let size = (height.saturating_mul(self.factor.0), width.saturating_mul(self.factor.1));
        Ok(match self.mode {
            UpsampleMode::Nearest => ops::upsample_nearest2d(xs, size)?,
            UpsampleMode::Bilinear => ops::upsample_bilinear2d(xs, size, false)?,
            UpsampleMode::BilinearAlignCorners => ops::upsample_bilinear2d(xs, size, true)?,
        })
    }
}
