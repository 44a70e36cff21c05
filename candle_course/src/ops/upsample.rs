//! Enlarging and shrinking images.

use candle_core::Tensor;

use super::support::{Reading, apply, check_input, image_sizes, on_cpu, separable, tensor};
use crate::error::{Error, Result};
use crate::kernels::node::{Gradients, Value};
use crate::kernels::simd::Element;
use crate::kernels::upsample::{self, Mode, Tap};
use crate::sizes;

struct Resize {
    from: (usize, usize),
    rows: Vec<Tap>,
    columns: Vec<Tap>,
}

impl Resize {
    fn forward<T: Element>(&self, inputs: &[&Tensor]) -> candle_core::Result<Value> {
        let (batch, channels, _, _) = inputs[0].dims4()?;
        let ys = upsample::forward::<T>(Reading::of(inputs[0]).get()?, self.from, &self.rows, &self.columns);
        Ok(Value::cpu(ys, (batch, channels, self.rows.len(), self.columns.len())))
    }

    fn backward<T: Element>(&self, inputs: &[&Tensor], _: &Tensor, dy: &Tensor) -> Gradients {
        let dx = upsample::backward::<T>(Reading::of(dy).get()?, self.from, &self.rows, &self.columns);
        Ok(vec![Some(tensor(dx, inputs[0].shape())?)])
    }
}

fn resize(xs: &Tensor, size: (usize, usize), name: &'static str, mode: Mode) -> Result<Tensor> {
    check_input("xs", xs)?;
    let (batch, channels, height, width) = image_sizes("xs", xs)?;
    if size.0 == 0 || size.1 == 0 {
        return Err(Error::argument("size", "at least (1, 1)", format!("{size:?}")));
    }
    sizes::count_of::<f64>("size", &[batch, channels, size.0, size.1])?;
    #[cfg(feature = "cuda")]
    if super::support::on_cuda(xs) {
        return Ok(crate::kernels::cuda::upsample::upsample(xs, size, mode)?);
    }
    let (rows, columns) = (mode.taps(height, size.0), mode.taps(width, size.1));
    let resize = Resize { from: (height, width), rows, columns };
    if on_cpu(xs) { Ok(apply!(name, resize, [Some(xs)])) } else { composed(xs, &resize) }
}

/// Enlarges (or shrinks) images to `size` (height, width) by repeating pixels, as
/// `torch.nn.functional.interpolate` with `mode="nearest"`.
///
/// `xs`: `[N, C, H, W]` → `[N, C, size.0, size.1]`.
///
/// # Errors
/// If the input is not a batch of images or empty, or a size is 0.
pub fn upsample_nearest2d(xs: &Tensor, size: (usize, usize)) -> Result<Tensor> {
    resize(xs, size, "upsample_nearest2d", Mode::Nearest)
}

/// Enlarges (or shrinks) images to `size` (height, width) by bilinear interpolation, as
/// `torch.nn.functional.interpolate` with `mode="bilinear"`. With `align_corners` the outer
/// pixels' centres stay in place, otherwise their edges.
///
/// `xs`: `[N, C, H, W]` → `[N, C, size.0, size.1]`.
///
/// # Errors
/// If the input is not a batch of images or empty, or a size is 0.
pub fn upsample_bilinear2d(xs: &Tensor, size: (usize, usize), align_corners: bool) -> Result<Tensor> {
    resize(xs, size, "upsample_bilinear2d", if align_corners { Mode::LinearAligned } else { Mode::Linear })
}

/// Two matrix products, one per axis, for a GPU: candle's nearest upsampling overwrites gradients
/// and its bilinear one has none.
fn composed(xs: &Tensor, resize: &Resize) -> Result<Tensor> {
    let matrix = |taps: &[Tap], from: usize| -> Result<Tensor> {
        let mut weights = vec![0f32; taps.len() * from];
        for (row, tap) in weights.chunks_exact_mut(from).zip(taps) {
            row[tap.first] += (1.0 - tap.weight) as f32;
            row[tap.second] += tap.weight as f32;
        }
        Ok(Tensor::from_vec(weights, (taps.len(), from), xs.device())?.to_dtype(xs.dtype())?)
    };
    separable(xs, &matrix(&resize.rows, resize.from.0)?, &matrix(&resize.columns, resize.from.1)?)
}
