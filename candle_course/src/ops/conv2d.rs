//! 2-d convolution.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Shape, Tensor};

use super::kernels::{self, conv::Geometry, simd::Element};
use super::support::{
    Reading, check_input, check_same_kind, check_shape, check_weight, dtype_of, image_sizes, incoming, on_cpu, output,
    slice, tensor, with_element,
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
/// If shapes, dtypes or devices do not fit, the batch or the weight is empty, or the kernel is
/// larger than the padded image. On a GPU, stride and dilation must be the same vertically and
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
    check_weight(weight, xs)?;
    let geometry = geometry(xs, weight, options)?;
    if let Some(bias) = bias {
        check_same_kind("bias", bias, xs)?;
        check_shape("bias", bias, &[geometry.out_channels])?;
    }
    if !on_cpu(xs) {
        return composed(xs, weight, bias, options, &geometry);
    }
    let (xs, weight, op) = (xs.contiguous()?, weight.contiguous()?, Conv2d { geometry, relu: options.relu });
    Ok(match bias {
        Some(bias) => xs.apply_op3(&weight, &bias.contiguous()?, op)?,
        None => xs.apply_op2(&weight, op)?,
    })
}

/// candle's convolutions have one stride and one dilation for both axes.
pub(super) fn check_same_both_ways(stride: (usize, usize), dilation: (usize, usize)) -> Result<()> {
    for (name, (vertical, horizontal)) in [("stride", stride), ("dilation", dilation)] {
        if vertical != horizontal {
            return Err(Error::argument(
                name,
                "the same number vertically and horizontally on a GPU",
                format!("({vertical}, {horizontal})"),
            ));
        }
    }
    Ok(())
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
    check_same_both_ways(stride, dilation)?;
    // candle's gradient takes what the windows leave over at the right to be what they leave over
    // below. Where it is not, and where the paddings differ, the image is cut to the windows.
    let windows = |output: usize, kernel: usize| (output - 1) * stride.0 + dilation.0 * (kernel - 1) + 1;
    let covered = (windows(g.output.0, g.kernel.0), windows(g.output.1, g.kernel.1));
    let (height, width) = g.padded();
    let (xs, padding) = if padding.0 == padding.1 && height - covered.0 == width - covered.1 {
        (xs.clone(), padding.0)
    } else {
        let padded = xs.pad_with_zeros(2, padding.0, padding.0)?.pad_with_zeros(3, padding.1, padding.1)?;
        (padded.narrow(2, 0, covered.0)?.narrow(3, 0, covered.1)?, 0)
    };
    let mut ys = xs.contiguous()?.conv2d(&weight.contiguous()?, padding, stride.0, dilation.0, groups)?;
    if let Some(bias) = bias {
        ys = ys.broadcast_add(&bias.reshape((1, (), 1, 1))?)?;
    }
    Ok(if relu { ys.relu()? } else { ys })
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device, Var};

    fn variable(shape: (usize, usize, usize, usize), pace: f64) -> Var {
        let count = shape.0 * shape.1 * shape.2 * shape.3;
        let values: Vec<f64> = (0..count).map(|i| (i as f64 * pace).sin()).collect();
        Var::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    #[test]
    fn the_gpu_road_agrees_with_the_kernels() {
        for (size, kernel, stride, padding, dilation, groups) in [
            ((7, 7), (3, 3), 1, (1, 1), 1, 1),
            ((6, 9), (3, 3), 2, (1, 1), 1, 1),
            ((9, 6), (3, 3), 2, (1, 1), 1, 1),
            ((8, 7), (3, 3), 2, (0, 0), 1, 2),
            ((7, 8), (2, 3), 3, (1, 1), 1, 1),
            ((10, 7), (3, 2), 3, (2, 0), 2, 1),
            ((5, 9), (3, 3), 1, (0, 2), 1, 4),
        ] {
            let x = variable((2, 4, size.0, size.1), 1.7);
            let w = variable((8, 4 / groups, kernel.0, kernel.1), 0.9);
            let b = Var::from_vec((0..8).map(f64::from).collect(), 8, &Device::Cpu).unwrap();
            let (stride, dilation) = ((stride, stride), (dilation, dilation));
            let options = Conv2dOptions { stride, padding, dilation, groups, relu: true };
            let g = geometry(&x, &w, &options).unwrap();
            let run = |y: Tensor| {
                let loss = (&y * y.sin().unwrap()).unwrap().sum_all().unwrap();
                let gradients = loss.backward().unwrap();
                let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f64>().unwrap();
                let mut all = vec![flat(&y)];
                all.extend([&x, &w, &b].map(|var| flat(gradients.get(var).unwrap())));
                all
            };
            let ours = run(conv2d(&x, &w, Some(&b), &options).unwrap());
            let theirs = run(composed(&x, &w, Some(&b), &options, &g).unwrap());
            for (ours, theirs) in ours.iter().zip(&theirs) {
                assert_eq!(ours.len(), theirs.len(), "{options:?}");
                let pairs = ours.iter().zip(theirs);
                pairs.for_each(|(a, b)| assert!((a - b).abs() < 1e-9, "{size:?} {options:?}: {a} {b}"));
            }
        }
    }

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
