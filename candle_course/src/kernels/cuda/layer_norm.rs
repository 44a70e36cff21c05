//! Layer and group normalisation on a CUDA device.

use candle_core::cuda_backend::cudarc::driver::{CudaSlice, LaunchConfig};
use candle_core::{Result, Tensor};

use super::Unit;
use super::runtime::{
    DeviceFloat, FULL, Input, THREADS, address_or_null, alloc, blocks, device_of, elements, launch, tensor, value,
};
use crate::kernels::losses::for_float;
use crate::kernels::node::{Gradients, Value, node};

const UNIT: Unit = Unit { name: "layer_norm", source: include_str!("layer_norm.cu") };

/// Rows of `size` numbers, each normalised by itself. Number i of a row has the scale and shift of
/// channel (row mod groups) · (size / inner) + i / inner.
#[derive(Debug, Clone, Copy)]
pub struct Rows {
    pub size: usize,
    pub groups: usize,
    pub inner: usize,
    pub epsilon: f64,
}

impl Rows {
    fn channels(&self) -> usize {
        self.groups * (self.size / self.inner)
    }

    /// A block per row, of no more threads than it has numbers.
    fn grid(&self, rows: usize) -> LaunchConfig {
        let threads = self.size.next_multiple_of(32).min(THREADS as usize) as u32;
        LaunchConfig { block_dim: (threads, 1, 1), ..blocks(rows.clamp(1, 16 * FULL), 1) }
    }

    /// The output, and mean and inverse deviation of every row.
    fn forward<T: DeviceFloat>(
        &self,
        xs: &Tensor,
        affine: Option<(&Tensor, &Tensor)>,
    ) -> Result<(Value, CudaSlice<T>)> {
        let device = device_of(xs)?;
        let rows = xs.elem_count() / self.size;
        let (y, moments) = (alloc::<T>(device, xs.elem_count())?, alloc::<T>(device, 2 * rows)?);
        let (weight, bias) = (affine.map(|a| Input::of(a.0)), affine.map(|a| Input::of(a.1)));
        let (w, b) = (address_or_null::<T>(weight.as_ref())?, address_or_null::<T>(bias.as_ref())?);
        let [count, size, groups, inner] = [rows, self.size, self.groups, self.inner].map(|n| n as i64);
        let (grid, x) = (self.grid(rows), Input::of(xs));
        let x = x.view::<T>()?;
        launch!(device, UNIT, T, "layer_norm", grid, [x, count, size, groups, inner, w, b, self.epsilon, y, moments]);
        Ok((value(device, y, xs.shape()), moments))
    }

    fn backward<T: DeviceFloat>(&self, inputs: &[&Tensor], dy: &Tensor, moments: &CudaSlice<T>) -> Gradients {
        let xs = inputs[0];
        let device = device_of(xs)?;
        let rows = xs.elem_count() / self.size;
        let (x, dy) = (Input::of(xs), Input::of(dy));
        let (x, dy) = (x.view::<T>()?, dy.view::<T>()?);
        let weight = inputs.get(1).map(|weight| Input::of(weight));
        let w = address_or_null::<T>(weight.as_ref())?;
        let [count, size, groups, inner] = [rows, self.size, self.groups, self.inner].map(|n| n as i64);
        let mut gradients = vec![None; inputs.len()];
        if xs.track_op() {
            let dx = alloc::<T>(device, xs.elem_count())?;
            let grid = self.grid(rows);
            launch!(device, UNIT, T, "layer_norm_backward", grid, [x, dy, count, size, groups, inner, w, *moments, dx]);
            gradients[0] = Some(tensor(device, dx, xs.shape()));
        }
        if inputs[1..].iter().any(|parameter| parameter.track_op()) {
            let channels = self.channels();
            let (columns, plain) = (channels.div_ceil(32), self.groups == 1 && self.inner == 1);
            let wide = if plain { columns } else { channels };
            // Enough pieces to fill the device, none smaller than a few rows.
            let per_channel = rows / self.groups * self.inner;
            let pieces = (FULL / wide).clamp(1, per_channel.div_ceil(if plain { 32 } else { 512 }));
            let parts = alloc::<f64>(device, 2 * pieces * channels)?;
            let grid = blocks(wide, pieces);
            if plain {
                launch!(device, UNIT, T, "layer_norm_columns", grid, [x, dy, count, size, *moments, parts]);
            } else {
                launch!(
                    device,
                    UNIT,
                    T,
                    "layer_norm_planes",
                    grid,
                    [x, dy, count, size, groups, inner, *moments, parts]
                );
            }
            let (dw, db) = (alloc::<T>(device, channels)?, alloc::<T>(device, channels)?);
            let grid = elements(channels);
            launch!(device, UNIT, T, "layer_norm_affine", grid, [parts, pieces as i64, channels as i64, dw, db]);
            gradients[1] = inputs[1].track_op().then(|| tensor(device, dw, inputs[1].shape()));
            gradients[2] = inputs[2].track_op().then(|| tensor(device, db, inputs[2].shape()));
        }
        Ok(gradients)
    }

    /// `xs`: any shape of whole rows; `affine`: weight and bias, one number per channel.
    pub fn apply(self, xs: &Tensor, affine: Option<(&Tensor, &Tensor)>) -> Result<Tensor> {
        let xs = xs.contiguous()?;
        let affine =
            affine.map(|(weight, bias)| Ok::<_, candle_core::Error>((weight.contiguous()?, bias.contiguous()?)));
        let affine = affine.transpose()?;
        let parameters = affine.as_ref().map(|(weight, bias)| (weight, bias));
        let mut inputs = vec![&xs];
        inputs.extend(parameters.iter().flat_map(|&(weight, bias)| [weight, bias]));
        for_float!(xs.dtype(), T => {
            let (y, moments) = self.forward::<T>(&xs, parameters)?;
            node("layer_norm", &inputs, y, move |inputs, _, dy| self.backward::<T>(inputs, dy, &moments))
        })
    }
}
