//! 2-d convolution.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Shape, Tensor};

use super::kernels::{self, conv::Geometry, simd::Element};
use super::support::{
    Reading, check_input, check_same_kind, check_shape, dtype_of, image_sizes, incoming, on_cpu, output, slice, tensor,
    with_element,
};
use crate::error::{Error, Result};

/// How [`conv2d`] moves its window. Pairs are (vertical, horizontal).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conv2dOptions {
    /// Pixels from one window to the next.
    pub stride: (usize, usize),
    /// Zeros around the image, on each side.
    pub padding: (usize, usize),
    /// Distance between the pixels of a window.
    pub dilation: (usize, usize),
    /// Channels are divided into so many groups that do not see each other.
    pub groups: usize,
    /// Whether ReLU follows, in the same pass.
    pub relu: bool,
}

impl Default for Conv2dOptions {
    fn default() -> Self {
        Self { stride: (1, 1), padding: (0, 0), dilation: (1, 1), groups: 1, relu: false }
    }
}

/// Pixels along one axis of the output.
fn output_size(
    axis: &str,
    size: usize,
    kernel: usize,
    stride: usize,
    padding: usize,
    dilation: usize,
) -> Result<usize> {
    let reach = dilation * (kernel - 1) + 1;
    if size + 2 * padding < reach {
        return Err(Error::argument("xs", format!("a {axis} of at least {}", reach - 2 * padding), size)
            .hint("the kernel is larger than the padded image: fewer poolings, or more padding?"));
    }
    Ok((size + 2 * padding - reach) / stride + 1)
}

pub(super) fn check_options(stride: (usize, usize), dilation: (usize, usize), groups: usize) -> Result<()> {
    for (name, value) in
        [("stride", stride.0.min(stride.1)), ("dilation", dilation.0.min(dilation.1)), ("groups", groups)]
    {
        if value == 0 {
            return Err(Error::argument(name, "at least 1", value));
        }
    }
    Ok(())
}

fn geometry(xs: &Tensor, weight: &Tensor, options: &Conv2dOptions) -> Result<Geometry> {
    let (batch, in_channels, height, width) = image_sizes("xs", xs)?;
    let (out_channels, group_in, kernel_height, kernel_width) = weight
        .dims4()
        .map_err(|_| Error::argument("weight", "shape [out, in/groups, kh, kw]", format!("{:?}", weight.dims())))?;
    let Conv2dOptions { stride, padding, dilation, groups, .. } = *options;
    check_options(stride, dilation, groups)?;
    if in_channels != group_in * groups {
        return Err(Error::argument("xs", format!("{} channels", group_in * groups), in_channels)
            .hint("images are [N, C, H, W]: channels come second"));
    }
    if out_channels % groups != 0 {
        return Err(Error::argument("weight", format!("output channels divisible by {groups} groups"), out_channels));
    }
    let output = (
        output_size("height", height, kernel_height, stride.0, padding.0, dilation.0)?,
        output_size("width", width, kernel_width, stride.1, padding.1, dilation.1)?,
    );
    Ok(Geometry {
        batch,
        in_channels,
        out_channels,
        groups,
        input: (height, width),
        kernel: (kernel_height, kernel_width),
        stride,
        padding,
        dilation,
        output,
    })
}

struct Conv2d {
    geometry: Geometry,
    relu: bool,
}

impl Conv2d {
    fn shape(&self) -> (usize, usize, usize, usize) {
        let g = &self.geometry;
        (g.batch, g.out_channels, g.output.0, g.output.1)
    }

    fn gradients<T: Element>(
        &self,
        xs: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
        ys: &Tensor,
        dy: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let g = &self.geometry;
        let (x, w, y, dy) = (Reading::of(xs), Reading::of(weight), Reading::of(ys), Reading::of(dy));
        let masked;
        let dy = if self.relu {
            masked = kernels::activation::relu_backward(y.get::<T>()?, dy.get::<T>()?);
            &masked
        } else {
            dy.get::<T>()?
        };
        let dx = match xs.track_op() {
            true => Some(tensor(kernels::conv::backward_input(g, dy, w.get::<T>()?), xs.shape())?),
            false => None,
        };
        let dw = match weight.track_op() {
            true => Some(tensor(kernels::backward_weight(g, x.get::<T>()?, dy), weight.shape())?),
            false => None,
        };
        let db = match bias {
            Some(bias) if bias.track_op() => Some(tensor(kernels::backward_bias(g, dy), bias.shape())?),
            _ => None,
        };
        Ok((dx, dw, db))
    }
}

impl CustomOp2 for Conv2d {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        w: &CpuStorage,
        wl: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        with_element!(dtype_of(x), T => {
            output(kernels::conv::forward::<T>(&self.geometry, slice(x, xl)?, slice(w, wl)?, None, self.relu), self.shape())
        })
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        y: &Tensor,
        dy: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let dy = incoming(dy, "conv2d")?;
        let (dx, dw, _) = with_element!(x.dtype(), T => self.gradients::<T>(x, w, None, y, &dy))?;
        Ok((dx, dw))
    }
}

impl CustomOp3 for Conv2d {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        w: &CpuStorage,
        wl: &Layout,
        b: &CpuStorage,
        bl: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        with_element!(dtype_of(x), T => {
            let bias = Some(slice(b, bl)?);
            output(kernels::conv::forward::<T>(&self.geometry, slice(x, xl)?, slice(w, wl)?, bias, self.relu), self.shape())
        })
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: &Tensor,
        y: &Tensor,
        dy: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let dy = incoming(dy, "conv2d")?;
        with_element!(x.dtype(), T => self.gradients::<T>(x, w, Some(b), y, &dy))
    }
}

/// 2-d convolution (cross-correlation), as `torch.nn.functional.conv2d`.
///
/// - `xs`: `[N, in, H, W]`, f32 or f64.
/// - `weight`: `[out, in/groups, kh, kw]`; `bias`: `[out]`.
/// - Result: `[N, out, H′, W′]` with H′ = ⌊(H + 2·padding − dilation·(kh − 1) − 1) / stride⌋ + 1.
///
/// # Errors
/// If shapes, dtypes or devices do not fit, the batch is empty, or the kernel is larger than the
/// padded image. On a GPU, stride, padding and dilation must be the same vertically and
/// horizontally.
///
/// # Examples
///
/// ```
/// use candle_course::ops::{Conv2dOptions, conv2d};
/// use candle_course::prelude::*;
///
/// let image = Tensor::ones((1, 1, 4, 4), DType::F32, &Device::Cpu)?;
/// let weight = Tensor::ones((1, 1, 3, 3), DType::F32, &Device::Cpu)?;
/// let sums = conv2d(&image, &weight, None, &Conv2dOptions { padding: (1, 1), ..Default::default() })?;
/// assert_eq!(sums.i((0, 0, 0))?.to_vec1::<f32>()?, [4., 6., 6., 4.]);
/// # Ok::<(), candle_course::Error>(())
/// ```
pub fn conv2d(xs: &Tensor, weight: &Tensor, bias: Option<&Tensor>, options: &Conv2dOptions) -> Result<Tensor> {
    check_input("xs", xs)?;
    check_same_kind("weight", weight, xs)?;
    let geometry = geometry(xs, weight, options)?;
    if let Some(bias) = bias {
        check_same_kind("bias", bias, xs)?;
        check_shape("bias", bias, &[geometry.out_channels])?;
    }
    if !on_cpu(xs) {
        return composed(xs, weight, bias, options);
    }
    let (xs, weight, op) = (xs.contiguous()?, weight.contiguous()?, Conv2d { geometry, relu: options.relu });
    Ok(match bias {
        Some(bias) => xs.apply_op3(&weight, &bias.contiguous()?, op)?,
        None => xs.apply_op2(&weight, op)?,
    })
}

/// The same of candle's operations, for a GPU.
fn composed(xs: &Tensor, weight: &Tensor, bias: Option<&Tensor>, options: &Conv2dOptions) -> Result<Tensor> {
    let Conv2dOptions { stride, padding, dilation, groups, relu } = *options;
    for (name, (vertical, horizontal)) in [("stride", stride), ("padding", padding), ("dilation", dilation)] {
        if vertical != horizontal {
            return Err(Error::argument(
                name,
                "the same number vertically and horizontally on a GPU",
                format!("({vertical}, {horizontal})"),
            ));
        }
    }
    let mut ys = xs.contiguous()?.conv2d(&weight.contiguous()?, padding.0, stride.0, dilation.0, groups)?;
    if let Some(bias) = bias {
        ys = ys.broadcast_add(&bias.reshape((1, (), 1, 1))?)?;
    }
    Ok(if relu { ys.relu()? } else { ys })
}
