//! Pooling.

use std::ops::Range;

use candle_core::{D, Tensor};

#[cfg(feature = "cuda")]
use super::support::with_element;
use super::support::{Reading, apply, check_input, image_sizes, on_cpu, separable, tensor};
use crate::error::{Error, Result};
#[cfg(feature = "cuda")]
use crate::kernels::cuda::pool as cuda;
#[cfg(feature = "cuda")]
use crate::kernels::node::keeping;
use crate::kernels::node::{Gradients, Value};
use crate::kernels::pool::{self, Adaptive, Geometry, Sliding, Windows};
use crate::kernels::simd::Element;
use crate::sizes;

/// The windows of [`max_pool2d`] and [`avg_pool2d`]. Pairs are (vertical, horizontal).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool2dOptions {
    /// Pixels of a window.
    pub kernel_size: (usize, usize),
    /// Pixels from one window to the next.
    pub stride: (usize, usize),
    /// Pixels around the image, at most half a window: −∞ for the maximum, 0 for the average.
    pub padding: (usize, usize),
    /// Whether a last window that reaches over the edge counts.
    pub ceil_mode: bool,
    /// Whether the padding counts in an average.
    pub count_include_pad: bool,
}

impl Pool2dOptions {
    /// Square windows side by side.
    pub fn new(kernel_size: usize) -> Self {
        let pair = (kernel_size, kernel_size);
        Self { kernel_size: pair, stride: pair, padding: (0, 0), ceil_mode: false, count_include_pad: true }
    }
}

pub(crate) fn geometry(xs: &Tensor, options: &Pool2dOptions) -> Result<Geometry> {
    let (batch, channels, height, width) = image_sizes("xs", xs)?;
    let Pool2dOptions { kernel_size: kernel, stride, padding, ceil_mode, .. } = *options;
    let size = |axis: &str, size: usize, kernel: usize, stride: usize, padding: usize| {
        if kernel == 0 || stride == 0 {
            return Err(Error::argument("kernel_size, stride", "at least 1", format!("{kernel}, {stride}")));
        }
        if padding > kernel / 2 {
            return Err(Error::argument("padding", format!("at most half the window of {kernel}"), padding));
        }
        // The padding is at most half the window, so nothing here overflows.
        let Some(room) = size.checked_sub(kernel - 2 * padding) else {
            return Err(Error::argument("xs", format!("a {axis} of at least {}", kernel - 2 * padding), size)
                .hint("the image is smaller than the window: too many poolings?"));
        };
        let mut count = if ceil_mode { room.div_ceil(stride) } else { room / stride } + 1;
        // A window must begin inside the image or its left padding.
        if ceil_mode && (count - 1).saturating_mul(stride) >= size.saturating_add(padding) {
            count -= 1;
        }
        Ok(count)
    };
    let output =
        (size("height", height, kernel.0, stride.0, padding.0)?, size("width", width, kernel.1, stride.1, padding.1)?);
    sizes::count_of::<f64>("padding", &[batch, channels, output.0, output.1])?;
    Ok(Geometry { input: (height, width), output, kernel, stride, padding })
}

fn output_shape(xs: &Tensor, (height, width): (usize, usize)) -> candle_core::Result<[usize; 4]> {
    let (batch, channels, _, _) = xs.dims4()?;
    Ok([batch, channels, height, width])
}

struct MaxPool2d(Geometry);

impl MaxPool2d {
    fn forward<T: Element>(&self, inputs: &[&Tensor]) -> candle_core::Result<Value> {
        let ys = pool::max_forward::<T>(&self.0, Reading::of(inputs[0]).get()?);
        Ok(Value::cpu(ys, output_shape(inputs[0], self.0.output)?.as_slice()))
    }

    fn backward<T: Element>(&self, inputs: &[&Tensor], _: &Tensor, dy: &Tensor) -> Gradients {
        let (x, dy) = (Reading::of(inputs[0]), Reading::of(dy));
        let dx = pool::max_backward::<T>(&self.0, x.get()?, dy.get()?);
        Ok(vec![Some(tensor(dx, inputs[0].shape())?)])
    }
}

/// The largest number of every window, as `torch.nn.functional.max_pool2d`. The gradient goes to
/// the largest number of the window, the first of equals.
///
/// `xs`: `[N, C, H, W]` → `[N, C, H′, W′]` with H′ = ⌊(H + 2·padding − kernel) / stride⌋ + 1
/// (⌈·⌉ in ceil mode).
///
/// candle's own `Tensor::max_pool2d` has a wrong gradient; use this one.
///
/// # Errors
/// If the input is not a batch of images, empty, or smaller than a window.
///
/// # Examples
///
/// ```
/// use candle_course::ops::{Pool2dOptions, max_pool2d};
/// use candle_course::prelude::*;
///
/// let x = Var::new(&[[[[1f32, 3.], [2., 0.]]]], &Device::Cpu)?;
/// let y = max_pool2d(&x, &Pool2dOptions::new(2))?;
/// let gradients = y.sum_all()?.backward()?;
/// assert_eq!(gradients.get(&x).unwrap().flatten_all()?.to_vec1::<f32>()?, [0., 1., 0., 0.]);
/// # Ok::<(), candle_course::Error>(())
/// ```
pub fn max_pool2d(xs: &Tensor, options: &Pool2dOptions) -> Result<Tensor> {
    check_input("xs", xs)?;
    let geometry = geometry(xs, options)?;
    #[cfg(feature = "cuda")]
    if let Some(windows) = on_cuda(xs, (&geometry).into()) {
        return max_on_cuda(&xs.contiguous()?, windows);
    }
    if on_cpu(xs) { Ok(apply!("max_pool2d", MaxPool2d(geometry), [Some(xs)])) } else { composed_max(xs, &geometry) }
}

struct AveragePool2d<W>(W);

impl<W: Windows> AveragePool2d<W> {
    fn forward<T: Element>(&self, inputs: &[&Tensor]) -> candle_core::Result<Value> {
        let ys = pool::average_forward::<T>(&self.0, Reading::of(inputs[0]).get()?);
        Ok(Value::cpu(ys, output_shape(inputs[0], self.0.sizes().1)?.as_slice()))
    }

    fn backward<T: Element>(&self, inputs: &[&Tensor], _: &Tensor, dy: &Tensor) -> Gradients {
        let dx = pool::average_backward::<T>(&self.0, Reading::of(dy).get()?);
        Ok(vec![Some(tensor(dx, inputs[0].shape())?)])
    }
}

/// The windows for our CUDA kernels, if those do the work.
#[cfg(feature = "cuda")]
fn on_cuda(xs: &Tensor, windows: cuda::Windows) -> Option<cuda::Windows> {
    (super::support::on_cuda(xs) && windows.fit()).then_some(windows)
}

#[cfg(feature = "cuda")]
fn max_on_cuda(xs: &Tensor, windows: cuda::Windows) -> Result<Tensor> {
    let (value, places) = with_element!(xs.dtype(), T => cuda::max_forward::<T>(&windows, xs, xs.track_op()))?;
    let shape = xs.shape().clone();
    Ok(keeping("max_pool2d", &[xs], value, move |_, dy| {
        let places = places.as_ref().ok_or_else(|| candle_core::Error::Msg("internal error: no places".to_owned()))?;
        let dx = with_element!(dy.dtype(), T => cuda::max_backward::<T>(&windows, &shape, places, dy))?;
        Ok(vec![Some(dx)])
    })?)
}

#[cfg(feature = "cuda")]
fn average_on_cuda(name: &'static str, xs: &Tensor, windows: cuda::Windows) -> Result<Tensor> {
    let value = with_element!(xs.dtype(), T => cuda::average_forward::<T>(&windows, xs))?;
    let shape = xs.shape().clone();
    Ok(keeping(name, &[xs], value, move |_, dy| {
        Ok(vec![Some(with_element!(dy.dtype(), T => cuda::average_backward::<T>(&windows, &shape, dy))?)])
    })?)
}

/// The mean of every window, as `torch.nn.functional.avg_pool2d`.
///
/// `xs`: `[N, C, H, W]` → `[N, C, H′, W′]`, sizes as for [`max_pool2d`].
///
/// # Errors
/// As for [`max_pool2d`].
pub fn avg_pool2d(xs: &Tensor, options: &Pool2dOptions) -> Result<Tensor> {
    check_input("xs", xs)?;
    let windows = Sliding { geometry: geometry(xs, options)?, count_include_pad: options.count_include_pad };
    #[cfg(feature = "cuda")]
    if let Some(windows) = on_cuda(xs, (&windows).into()) {
        return average_on_cuda("avg_pool2d", &xs.contiguous()?, windows);
    }
    if on_cpu(xs) {
        return Ok(apply!("avg_pool2d", AveragePool2d(windows), [Some(xs)]));
    }
    composed_average(xs, &windows)
}

/// The means of windows that divide the image into `output_size` (rows, columns), as
/// `torch.nn.functional.adaptive_avg_pool2d`. With (1, 1): global average pooling.
///
/// `xs`: `[N, C, H, W]` → `[N, C, rows, columns]`.
///
/// # Errors
/// If the input is not a batch of images or empty, or a size is 0.
pub fn adaptive_avg_pool2d(xs: &Tensor, output_size: (usize, usize)) -> Result<Tensor> {
    check_input("xs", xs)?;
    let (batch, channels, height, width) = image_sizes("xs", xs)?;
    if output_size.0 == 0 || output_size.1 == 0 {
        return Err(Error::argument("output_size", "at least (1, 1)", format!("{output_size:?}")));
    }
    sizes::count_of::<f64>("output_size", &[batch, channels, output_size.0, output_size.1])?;
    let windows = Adaptive { input: (height, width), output: output_size };
    #[cfg(feature = "cuda")]
    if let Some(windows) = on_cuda(xs, (&windows).into()) {
        return average_on_cuda("adaptive_avg_pool2d", &xs.contiguous()?, windows);
    }
    if on_cpu(xs) {
        return Ok(apply!("adaptive_avg_pool2d", AveragePool2d(windows), [Some(xs)]));
    }
    composed_average(xs, &windows)
}

/// Maximum pooling of candle's operations, for a GPU: windows gathered in a dimension of their
/// own, the largest picked by index, so that candle's gradients of `gather` and `index_select`
/// apply instead of its wrong one of `max_pool2d`.
fn composed_max(xs: &Tensor, g: &Geometry) -> Result<Tensor> {
    let (batch, channels, height, width) = xs.dims4()?;
    let xs = &xs.contiguous()?;
    let ((kernel_h, kernel_w), (out_h, out_w)) = (g.kernel, g.output);
    // Room for the padding and for last windows that reach over the edge.
    let below = ((out_h - 1) * g.stride.0 + kernel_h).saturating_sub(height + g.padding.0);
    let right = ((out_w - 1) * g.stride.1 + kernel_w).saturating_sub(width + g.padding.1);
    let widen = |xs: &Tensor, dim: usize, before: usize, after: usize| -> Result<Tensor> {
        let border = |len: usize| -> Result<Tensor> {
            let mut shape = xs.dims().to_vec();
            shape[dim] = len;
            Ok(Tensor::full(f32::NEG_INFINITY, shape, xs.device())?.to_dtype(xs.dtype())?)
        };
        Ok(match (before, after) {
            (0, 0) => xs.clone(),
            (0, after) => Tensor::cat(&[xs, &border(after)?], dim)?,
            (before, 0) => Tensor::cat(&[&border(before)?, xs], dim)?,
            (before, after) => Tensor::cat(&[&border(before)?, xs, &border(after)?], dim)?,
        })
    };
    let places = |count: usize, kernel: usize, stride: usize| -> Result<Tensor> {
        let places: Vec<u32> = (0..count * kernel).map(|i| (i / kernel * stride + i % kernel) as u32).collect();
        Ok(Tensor::from_vec(places, count * kernel, xs.device())?)
    };
    let padded = widen(&widen(xs, 2, g.padding.0, below)?, 3, g.padding.1, right)?;
    let windows = padded
        .index_select(&places(out_h, kernel_h, g.stride.0)?, 2)?
        .index_select(&places(out_w, kernel_w, g.stride.1)?, 3)?
        .reshape(&[batch, channels, out_h, kernel_h, out_w, kernel_w])?
        .permute([0, 1, 2, 4, 3, 5])?
        .reshape((batch, channels, out_h, out_w, kernel_h * kernel_w))?
        .contiguous()?;
    let largest = windows.detach().argmax_keepdim(D::Minus1)?;
    Ok(windows.gather(&largest, D::Minus1)?.squeeze(D::Minus1)?)
}

/// Average pooling as two matrix products, one per axis, for a GPU.
fn composed_average(xs: &Tensor, windows: &impl Windows) -> Result<Tensor> {
    let ((height, width), (out_h, out_w)) = windows.sizes();
    // [out, in], each row one window.
    let matrix = |size: usize, spans: Vec<(Range<usize>, usize)>| -> Result<Tensor> {
        let mut weights = vec![0f32; spans.len() * size];
        for (row, (places, divisor)) in weights.chunks_exact_mut(size).zip(&spans) {
            row[places.clone()].fill((1.0 / *divisor as f64) as f32);
        }
        Ok(Tensor::from_vec(weights, (spans.len(), size), xs.device())?.to_dtype(xs.dtype())?)
    };
    let rows = matrix(height, (0..out_h).map(|y| windows.rows(y)).collect())?;
    let columns = matrix(width, (0..out_w).map(|x| windows.columns(x)).collect())?;
    separable(xs, &rows, &columns)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    #[test]
    fn the_gpu_road_of_the_average_needs_little_memory() {
        // A matrix from all pixels to all would have 2³⁴ numbers.
        let x = Tensor::rand(0f32, 1., (1, 2, 512, 512), &Device::Cpu).unwrap();
        let options = Pool2dOptions::new(2);
        let sliding = Sliding { geometry: geometry(&x, &options).unwrap(), count_include_pad: true };
        let difference = (avg_pool2d(&x, &options).unwrap() - composed_average(&x, &sliding).unwrap()).unwrap();
        assert!(difference.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap() < 1e-6);
    }

    #[test]
    fn bad_windows_are_explained() {
        let x = Tensor::zeros((1, 1, 3, 3), DType::F32, &Device::Cpu).unwrap();
        let text = max_pool2d(&x, &Pool2dOptions::new(4)).unwrap_err().to_string();
        assert!(text.contains("too many poolings?"), "{text}");
        let text = max_pool2d(&x, &Pool2dOptions { padding: (2, 2), ..Pool2dOptions::new(2) }).unwrap_err().to_string();
        assert!(text.contains("at most half the window of 2, got 2"), "{text}");
        let empty = Tensor::zeros((0, 1, 3, 3), DType::F32, &Device::Cpu).unwrap();
        assert!(avg_pool2d(&empty, &Pool2dOptions::new(2)).unwrap_err().to_string().contains("an empty batch"));
        assert!(adaptive_avg_pool2d(&x, (0, 1)).is_err());
    }
}
