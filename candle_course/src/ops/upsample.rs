//! Enlarging and shrinking images.

use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};

use super::kernels::upsample::{self, Tap};
use super::support::{
    Reading, check_input, dtype_of, image_sizes, incoming, on_cpu, output, separable, slice, tensor, with_element,
};
use crate::error::{Error, Result};

struct Resize {
    name: &'static str,
    from: (usize, usize),
    rows: Vec<Tap>,
    columns: Vec<Tap>,
}

impl CustomOp1 for Resize {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let (batch, channels, _, _) = layout.shape().dims4()?;
        let shape = (batch, channels, self.rows.len(), self.columns.len());
        with_element!(dtype_of(x), T => {
            output(upsample::forward::<T>(slice(x, layout)?, self.from, &self.rows, &self.columns), shape)
        })
    }

    fn bwd(&self, xs: &Tensor, _: &Tensor, dy: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let dy = incoming(dy, self.name)?;
        let dy = Reading::of(&dy);
        let dx = with_element!(xs.dtype(), T => {
            tensor(upsample::backward::<T>(dy.get()?, self.from, &self.rows, &self.columns), xs.shape())
        })?;
        Ok(Some(dx))
    }
}

fn resize(
    xs: &Tensor,
    size: (usize, usize),
    name: &'static str,
    taps: impl Fn(usize, usize) -> Vec<Tap>,
) -> Result<Tensor> {
    check_input("xs", xs)?;
    let (_, _, height, width) = image_sizes("xs", xs)?;
    if size.0 == 0 || size.1 == 0 {
        return Err(Error::argument("size", "at least (1, 1)", format!("{size:?}")));
    }
    let resize = Resize { name, from: (height, width), rows: taps(height, size.0), columns: taps(width, size.1) };
    if on_cpu(xs) { Ok(xs.contiguous()?.apply_op1(resize)?) } else { composed(xs, &resize) }
}

/// Enlarges (or shrinks) images to `size` (height, width) by repeating pixels, as
/// `torch.nn.functional.interpolate` with `mode="nearest"`.
///
/// `xs`: `[N, C, H, W]` → `[N, C, size.0, size.1]`.
///
/// # Errors
/// If the input is not a batch of images or empty, or a size is 0.
pub fn upsample_nearest2d(xs: &Tensor, size: (usize, usize)) -> Result<Tensor> {
    resize(xs, size, "upsample_nearest2d", upsample::nearest)
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
    resize(xs, size, "upsample_bilinear2d", |from, to| upsample::linear(from, to, align_corners))
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

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    #[test]
    fn the_gpu_road_agrees_with_the_kernels() {
        let values: Vec<f64> = (0..2 * 3 * 4 * 5).map(|i| (i as f64 * 1.3).sin()).collect();
        let x = Var::from_vec(values, (2, 3, 4, 5), &Device::Cpu).unwrap();
        let taps: [(&str, fn(usize, usize) -> Vec<Tap>); 3] = [
            ("nearest", upsample::nearest),
            ("edges", |from, to| upsample::linear(from, to, false)),
            ("corners", |from, to| upsample::linear(from, to, true)),
        ];
        for (name, taps) in taps {
            for size in [(8, 10), (7, 9), (2, 3), (4, 5), (1, 1)] {
                let of = Resize { name: "resize", from: (4, 5), rows: taps(4, size.0), columns: taps(5, size.1) };
                let run = |y: Tensor| {
                    let gradients = y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
                    let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f64>().unwrap();
                    [flat(&y), flat(gradients.get(&x).unwrap())].concat()
                };
                let theirs = run(composed(&x, &of).unwrap());
                let ours = run(resize(&x, size, "resize", taps).unwrap());
                let pairs = ours.iter().zip(&theirs);
                pairs.for_each(|(a, b)| assert!((a - b).abs() < 1e-5, "{name} {size:?}: {a} {b}"));
            }
        }
    }
}
