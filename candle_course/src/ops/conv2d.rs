//! 2-d convolution.

use candle_core::Tensor;

use super::support::{
    Reading, apply, check_input, check_same_kind, check_shape, check_weight, image_sizes, on_cpu, relu_composed, tensor,
};
use crate::error::{Error, Result};
use crate::kernels::node::{Gradients, Value};
use crate::kernels::{self, OutputGradient, conv::Geometry, simd::Element};

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
    let reach = dilation.checked_mul(kernel - 1).and_then(|reach| reach.checked_add(1));
    let padded = padding.checked_mul(2).and_then(|padding| padding.checked_add(size));
    let (Some(reach), Some(padded)) = (reach, padded) else {
        return Err(too_large(stride, padding, dilation));
    };
    if padded < reach {
        return Err(Error::argument("xs", format!("a {axis} of at least {}", reach - 2 * padding), size)
            .hint("the kernel is larger than the padded image: fewer poolings, or more padding?"));
    }
    Ok((padded - reach) / stride + 1)
}

pub(super) fn too_large<T: std::fmt::Debug>(stride: T, padding: T, dilation: T) -> Error {
    let got = format!("{stride:?}, {padding:?}, {dilation:?}");
    Error::argument("stride, padding, dilation", "numbers with which the image fits in memory", got)
}

/// Refuses sizes that overflow: kernels compute addresses from them.
pub(super) fn checked(geometry: Geometry) -> Result<Geometry> {
    match geometry.fits_in_memory() {
        true => Ok(geometry),
        false => Err(too_large(geometry.stride, geometry.padding, geometry.dilation)),
    }
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

pub(crate) fn geometry(xs: &Tensor, weight: &Tensor, options: &Conv2dOptions) -> Result<Geometry> {
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
    checked(Geometry {
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
    fn forward<T: Element>(&self, inputs: &[&Tensor]) -> candle_core::Result<Value> {
        let g = &self.geometry;
        let (x, w, bias) = (Reading::of(inputs[0]), Reading::of(inputs[1]), inputs.get(2).map(|b| Reading::of(b)));
        let bias = bias.as_ref().map(|bias| bias.get::<T>()).transpose()?;
        let ys = kernels::conv::forward(g, x.get()?, w.get()?, bias, self.relu);
        Ok(Value::cpu(ys, (g.batch, g.out_channels, g.output.0, g.output.1)))
    }

    fn backward<T: Element>(&self, inputs: &[&Tensor], ys: &Tensor, dy: &Tensor) -> Gradients {
        let (g, xs, weight) = (&self.geometry, inputs[0], inputs[1]);
        let (x, w, y, dy) = (Reading::of(xs), Reading::of(weight), Reading::of(ys), Reading::of(dy));
        let mut dy = OutputGradient { values: dy.get::<T>()?, relu: None };
        let masked;
        if self.relu {
            let y = y.get::<T>()?;
            if !xs.track_op() && kernels::masks_in_passing::<T>(g) {
                dy.relu = Some(y);
            } else {
                masked = kernels::activation::relu_backward(y, dy.values);
                dy.values = &masked;
            }
        }
        let dx = match xs.track_op() {
            true => Some(tensor(kernels::conv::backward_input(g, dy.values, w.get::<T>()?), xs.shape())?),
            false => None,
        };
        // The bias alone is as rare as its bits are to be the same.
        let bias = inputs.get(2).filter(|bias| bias.track_op());
        let (dw, db) = match weight.track_op() || bias.is_some() {
            true => {
                let (dw, db) = kernels::backward_weight(g, x.get::<T>()?, dy, bias.is_some());
                (weight.track_op().then(|| tensor(dw, weight.shape())).transpose()?, db)
            }
            false => (None, None),
        };
        let mut gradients = vec![dx, dw];
        if let Some(bias) = inputs.get(2) {
            gradients.push(db.map(|db| tensor(db, bias.shape())).transpose()?);
        }
        Ok(gradients)
    }
}

/// 2-d convolution (cross-correlation), as `torch.nn.functional.conv2d`.
///
/// - `xs`: `[N, in, H, W]`, f32 or f64.
/// - `weight`: `[out, in/groups, kh, kw]`; `bias`: `[out]`.
/// - Result: `[N, out, H′, W′]` with H′ = ⌊(H + 2·padding − dilation·(kh − 1) − 1) / stride⌋ + 1.
///
/// On the CPU, 3 × 3 kernels of stride 1 over enough channels are computed with a fourth of the
/// multiplications (Winograd's F(4 × 4, 3 × 3), Lavin & Gray 2016, arXiv:1509.09308): rounding errors are
/// about twice those of direct sums, and a NaN or an infinity makes NaN of the 4 × 4 outputs that are
/// computed together, not of its neighbours alone.
///
/// # Errors
/// If shapes, dtypes or devices do not fit, the batch or the weight is empty, or the kernel is
/// larger than the padded image.
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
    check_weight(weight, xs)?;
    let geometry = geometry(xs, weight, options)?;
    if let Some(bias) = bias {
        check_same_kind("bias", bias, xs)?;
        check_shape("bias", bias, &[geometry.out_channels])?;
    }
    #[cfg(feature = "cudnn")]
    if super::support::on_cuda(xs) && kernels::cuda::conv::fits(&geometry) {
        let op = kernels::cuda::conv::Conv2d::new(geometry, options.relu);
        let inputs = super::support::contiguous(&[Some(xs), Some(weight), bias])?;
        return Ok(op.apply(&inputs.iter().collect::<Vec<_>>())?);
    }
    if !on_cpu(xs) {
        return composed(xs, weight, bias, options, &geometry);
    }
    Ok(apply!("conv2d", Conv2d { geometry, relu: options.relu }, [Some(xs), Some(weight), bias]))
}

/// `by − 1` zeros between vertical and horizontal neighbours of `[…, …, H, W]`.
pub(super) fn spread(xs: &Tensor, by: (usize, usize)) -> candle_core::Result<Tensor> {
    let mut xs = xs.clone();
    for (dim, by) in [(2, by.0), (3, by.1)] {
        let size = xs.dim(dim)?;
        if by > 1 && size > 1 {
            let gaps = xs.unsqueeze(dim + 1)?.pad_with_zeros(dim + 1, 0, by - 1)?;
            xs = gaps.flatten(dim, dim + 1)?.narrow(dim, 0, (size - 1) * by + 1)?;
        }
    }
    Ok(xs)
}

/// Every `step`-th row and column.
fn every(xs: &Tensor, step: (usize, usize)) -> candle_core::Result<Tensor> {
    let mut xs = xs.clone();
    for (dim, step) in [(2, step.0), (3, step.1)] {
        if step > 1 {
            let places: Vec<u32> = (0..xs.dim(dim)? as u32).step_by(step).collect();
            xs = xs.index_select(&Tensor::new(places, xs.device())?, dim)?;
        }
    }
    Ok(xs)
}

/// The same of candle's operations, for a GPU.
fn composed(
    xs: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    options: &Conv2dOptions,
    g: &Geometry,
) -> Result<Tensor> {
    let Conv2dOptions { stride, padding, dilation, groups, relu } = *options;
    // candle's gradient takes what the windows leave over at the right to be what they leave over
    // below. Where it is not, and where the paddings differ, the image is cut to the windows.
    let windows = |output: usize, kernel: usize, stride: usize, dilation: usize| {
        (output - 1) * stride + dilation * (kernel - 1) + 1
    };
    let covered =
        (windows(g.output.0, g.kernel.0, stride.0, dilation.0), windows(g.output.1, g.kernel.1, stride.1, dilation.1));
    let (height, width) = g.padded();
    let (xs, padding) = if padding.0 == padding.1 && height - covered.0 == width - covered.1 {
        (xs.clone(), padding.0)
    } else {
        let padded = xs.pad_with_zeros(2, padding.0, padding.0)?.pad_with_zeros(3, padding.1, padding.1)?;
        (padded.narrow(2, 0, covered.0)?.narrow(3, 0, covered.1)?, 0)
    };
    // candle has one dilation and one stride for both axes: others are zeros in the weight, and
    // windows that are left out.
    let (weight, dilation) =
        if dilation.0 == dilation.1 { (weight.clone(), dilation.0) } else { (spread(weight, dilation)?, 1) };
    let (step, left_out) = if stride.0 == stride.1 { (stride.0, (1, 1)) } else { (1, stride) };
    let ys = xs.contiguous()?.conv2d(&weight.contiguous()?, padding, step, dilation, groups)?;
    let mut ys = every(&ys, left_out)?;
    if let Some(bias) = bias {
        ys = ys.broadcast_add(&bias.reshape((1, (), 1, 1))?)?;
    }
    Ok(if relu { relu_composed(&ys)? } else { ys })
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    #[test]
    fn an_empty_weight_and_sizes_that_overflow_are_refused() {
        let zeros = |shape: [usize; 4]| Tensor::zeros(&shape, DType::F32, &Device::Cpu).unwrap();
        let x = zeros([1, 3, 9, 9]);
        for shape in [[0, 3, 3, 3], [8, 3, 0, 3], [8, 3, 3, 0]] {
            let text = conv2d(&x, &zeros(shape), None, &Conv2dOptions::default()).unwrap_err().to_string();
            assert!(text.contains("`weight`: expected at least one number"), "{text}");
        }
        let huge = (1 << 61, 1 << 61);
        let default = Conv2dOptions::default();
        for options in [
            Conv2dOptions { dilation: huge, ..default },
            Conv2dOptions { padding: huge, dilation: (1 << 58, 1 << 58), ..default },
            Conv2dOptions { padding: (usize::MAX / 2 + 1, 0), ..default },
            Conv2dOptions { padding: (1 << 40, 1 << 40), ..default },
            Conv2dOptions { stride: (usize::MAX, 1), ..default },
        ] {
            let text = conv2d(&x, &zeros([1, 3, 9, 9]), None, &options).unwrap_err().to_string();
            assert!(text.contains("numbers with which the image fits in memory"), "{text}");
        }
    }
}
