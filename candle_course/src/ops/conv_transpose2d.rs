//! Transposed 2-d convolution.

use candle_core::Tensor;

use super::conv2d::{check_options, checked, spread, too_large};
use super::support::{
    Reading, apply, check_input, check_same_kind, check_shape, check_weight, image_sizes, on_cpu, tensor,
};
use crate::error::{Error, Result};
use crate::kernels::node::{Gradients, Value};
use crate::kernels::{self, conv::Geometry, simd::Element};

/// How [`conv_transpose2d`] spreads its windows. Pairs are (vertical, horizontal).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConvTranspose2dOptions {
    /// Output pixels from one window to the next.
    pub stride: (usize, usize),
    /// Pixels cut from each side of the output.
    pub padding: (usize, usize),
    /// Rows and columns added at the bottom and the right; less than stride or dilation.
    pub output_padding: (usize, usize),
    /// Distance between the pixels of a window.
    pub dilation: (usize, usize),
    /// Channels are divided into so many groups that do not see each other.
    pub groups: usize,
}

impl Default for ConvTranspose2dOptions {
    fn default() -> Self {
        Self { stride: (1, 1), padding: (0, 0), output_padding: (0, 0), dilation: (1, 1), groups: 1 }
    }
}

/// The convolution that this one is the transpose of: its input is our output.
pub(crate) fn geometry(xs: &Tensor, weight: &Tensor, options: &ConvTranspose2dOptions) -> Result<Geometry> {
    let (batch, in_channels, height, width) = image_sizes("xs", xs)?;
    let (weight_in, group_out, kernel_height, kernel_width) = weight
        .dims4()
        .map_err(|_| Error::argument("weight", "shape [in, out/groups, kh, kw]", format!("{:?}", weight.dims())))?;
    let ConvTranspose2dOptions { stride, padding, output_padding, dilation, groups } = *options;
    check_options(stride, dilation, groups)?;
    if weight_in != in_channels {
        return Err(Error::argument("xs", format!("{weight_in} channels"), in_channels)
            .hint("images are [N, C, H, W]: channels come second"));
    }
    if in_channels % groups != 0 {
        return Err(Error::argument("weight", format!("input channels divisible by {groups} groups"), in_channels));
    }
    if output_padding.0 >= stride.0.max(dilation.0) || output_padding.1 >= stride.1.max(dilation.1) {
        return Err(Error::argument(
            "output_padding",
            "less than stride or dilation",
            format!("({}, {})", output_padding.0, output_padding.1),
        ));
    }
    let size =
        |axis: &str, size: usize, kernel: usize, stride: usize, padding: usize, extra: usize, dilation: usize| {
            let spread = (size - 1).checked_mul(stride);
            let reach = dilation.checked_mul(kernel - 1).and_then(|reach| reach.checked_add(1));
            let full = spread.zip(reach).and_then(|(a, b)| a.checked_add(b)).and_then(|full| full.checked_add(extra));
            let full = full.ok_or_else(|| too_large(stride, padding, dilation))?;
            padding.checked_mul(2).and_then(|cut| full.checked_sub(cut)).filter(|&size| size > 0).ok_or_else(|| {
                Error::argument("padding", format!("less than half of the unpadded output {axis} {full}"), padding)
            })
        };
    let input = (
        size("height", height, kernel_height, stride.0, padding.0, output_padding.0, dilation.0)?,
        size("width", width, kernel_width, stride.1, padding.1, output_padding.1, dilation.1)?,
    );
    checked(Geometry {
        batch,
        in_channels: group_out * groups,
        out_channels: in_channels,
        groups,
        input,
        kernel: (kernel_height, kernel_width),
        stride,
        padding,
        dilation,
        output: (height, width),
    })
}

struct ConvTranspose2d {
    geometry: Geometry,
}

impl ConvTranspose2d {
    fn forward<T: Element>(&self, inputs: &[&Tensor]) -> candle_core::Result<Value> {
        let g = &self.geometry;
        let (x, w, bias) = (Reading::of(inputs[0]), Reading::of(inputs[1]), inputs.get(2).map(|b| Reading::of(b)));
        let bias = bias.as_ref().map(|bias| bias.get::<T>()).transpose()?;
        let ys = kernels::conv::transposed(g, x.get()?, w.get()?, bias);
        Ok(Value::cpu(ys, (g.batch, g.in_channels, g.input.0, g.input.1)))
    }

    fn backward<T: Element>(&self, inputs: &[&Tensor], _: &Tensor, dy: &Tensor) -> Gradients {
        let (g, xs, weight) = (&self.geometry, inputs[0], inputs[1]);
        let (x, w, dy) = (Reading::of(xs), Reading::of(weight), Reading::of(dy));
        let dy = dy.get::<T>()?;
        // The transpose's output gradient is the convolution's input, and our input its output gradient.
        let dx = match xs.track_op() {
            true => Some(tensor(kernels::conv::forward(g, dy, w.get::<T>()?, None, false), xs.shape())?),
            false => None,
        };
        let dw = match weight.track_op() {
            true => Some(tensor(kernels::backward_weight(g, dy, x.get::<T>()?.into(), false).0, weight.shape())?),
            false => None,
        };
        let mut gradients = vec![dx, dw];
        if let Some(bias) = inputs.get(2) {
            let sums = || kernels::reduce::channel_sums(dy, g.in_channels, g.input.0 * g.input.1);
            gradients.push(bias.track_op().then(|| tensor(sums(), bias.shape())).transpose()?);
        }
        Ok(gradients)
    }
}

/// Transposed 2-d convolution, as `torch.nn.functional.conv_transpose2d`: the gradient of
/// [`conv2d`](super::conv2d) as an operation of its own, to enlarge images.
///
/// - `xs`: `[N, in, H, W]`, f32 or f64.
/// - `weight`: `[in, out/groups, kh, kw]`; `bias`: `[out]`.
/// - Result: `[N, out, H′, W′]` with
///   H′ = (H − 1)·stride − 2·padding + dilation·(kh − 1) + output_padding + 1.
///
/// # Errors
/// If shapes, dtypes or devices do not fit, or the batch or the weight is empty.
///
/// # Examples
///
/// ```
/// use candle_course::ops::{ConvTranspose2dOptions, conv_transpose2d};
/// use candle_course::prelude::*;
///
/// let image = Tensor::ones((1, 1, 2, 2), DType::F32, &Device::Cpu)?;
/// let weight = Tensor::ones((1, 1, 2, 2), DType::F32, &Device::Cpu)?;
/// let options = ConvTranspose2dOptions { stride: (2, 2), ..Default::default() };
/// assert_eq!(conv_transpose2d(&image, &weight, None, &options)?.dims(), [1, 1, 4, 4]);
/// # Ok::<(), candle_course::Error>(())
/// ```
pub fn conv_transpose2d(
    xs: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    options: &ConvTranspose2dOptions,
) -> Result<Tensor> {
    check_input("xs", xs)?;
    check_weight(weight, xs)?;
    let geometry = geometry(xs, weight, options)?;
    if let Some(bias) = bias {
        check_same_kind("bias", bias, xs)?;
        check_shape("bias", bias, &[geometry.in_channels])?;
    }
    #[cfg(feature = "cudnn")]
    if super::support::on_cuda(xs) && kernels::cuda::conv::fits(&geometry) {
        let op = kernels::cuda::conv::ConvTranspose2d::new(geometry);
        let inputs = super::support::contiguous(&[Some(xs), Some(weight), bias])?;
        return Ok(op.apply(&inputs.iter().collect::<Vec<_>>())?);
    }
    if !on_cpu(xs) {
        return composed(xs, weight, bias, options, &geometry);
    }
    Ok(apply!("conv_transpose2d", ConvTranspose2d { geometry }, [Some(xs), Some(weight), bias]))
}

/// The same of candle's operations, for a GPU.
fn composed(
    xs: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    options: &ConvTranspose2dOptions,
    g: &Geometry,
) -> Result<Tensor> {
    let ConvTranspose2dOptions { stride, padding, output_padding, dilation, groups } = *options;
    // candle has one stride and one dilation for both axes: others are zeros between the pixels, and
    // in the weight.
    let (xs, step) = if stride.0 == stride.1 { (xs.clone(), stride.0) } else { (spread(xs, stride)?, 1) };
    let (weight, dilation) =
        if dilation.0 == dilation.1 { (weight.clone(), dilation.0) } else { (spread(weight, dilation)?, 1) };
    // It has no groups either. Both paddings by hand: its gradient is wrong for an output padding of
    // a stride or more.
    let of_group =
        |(xs, weight): (Tensor, Tensor)| xs.contiguous()?.conv_transpose2d(&weight.contiguous()?, 0, 0, step, dilation);
    let parts = xs.chunk(groups, 1)?.into_iter().zip(weight.chunk(groups, 0)?);
    let full = Tensor::cat(&parts.map(of_group).collect::<candle_core::Result<Vec<_>>>()?, 1)?;
    let full = full.pad_with_zeros(2, 0, output_padding.0)?.pad_with_zeros(3, 0, output_padding.1)?;
    let ys = full.narrow(2, padding.0, g.input.0)?.narrow(3, padding.1, g.input.1)?;
    Ok(match bias {
        Some(bias) => ys.broadcast_add(&bias.reshape((1, (), 1, 1))?)?,
        None => ys,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    #[test]
    fn an_empty_weight_and_sizes_that_overflow_are_refused() {
        let zeros = |shape: [usize; 4]| Tensor::zeros(&shape, DType::F32, &Device::Cpu).unwrap();
        let x = zeros([1, 3, 2, 2]);
        let default = ConvTranspose2dOptions::default();
        for shape in [[3, 0, 3, 3], [3, 8, 0, 3]] {
            let text = conv_transpose2d(&x, &zeros(shape), None, &default).unwrap_err().to_string();
            assert!(text.contains("`weight`: expected at least one number"), "{text}");
        }
        let huge = (1 << 61, 1 << 61);
        for options in [
            ConvTranspose2dOptions { dilation: huge, ..default },
            ConvTranspose2dOptions { stride: (usize::MAX, 1), ..default },
            // Beside a small output: the adjoint's padded image is what overflows.
            ConvTranspose2dOptions { dilation: (1 << 40, 1 << 40), padding: (1 << 42, 1 << 42), ..default },
        ] {
            let text = conv_transpose2d(&x, &zeros([3, 1, 9, 9]), None, &options).unwrap_err().to_string();
            assert!(text.contains("numbers with which the image fits in memory"), "{text}");
        }
        let options = ConvTranspose2dOptions { padding: (usize::MAX / 2 + 1, 0), ..default };
        let text = conv_transpose2d(&x, &zeros([3, 1, 9, 9]), None, &options).unwrap_err().to_string();
        assert!(text.contains("less than half of the unpadded output height 10"), "{text}");
    }
}
