//! Resizing of images on a CUDA device.

use candle_core::{Result, Tensor};

use super::Unit;
use super::runtime::{DeviceFloat, Input, alloc, device_of, elements, launch, tensor, value};
use crate::kernels::losses::for_float;
use crate::kernels::node::{Value, node};
use crate::kernels::upsample::Mode;

const UNIT: Unit = Unit { name: "upsample", source: include_str!("upsample.cu") };

fn forward<T: DeviceFloat>(xs: &Tensor, size: (usize, usize), mode: Mode) -> Result<Value> {
    let (batch, channels, height, width) = xs.dims4()?;
    let device = device_of(xs)?;
    let count = batch * channels * size.0 * size.1;
    let y = alloc::<T>(device, count)?;
    let [planes, h, w, to_h, to_w] = [batch * channels, height, width, size.0, size.1].map(|n| n as i64);
    let x = Input::of(xs);
    launch!(device, UNIT, T, "upsample", elements(count), [x.view::<T>()?, planes, h, w, to_h, to_w, mode as i32, y]);
    Ok(value(device, y, (batch, channels, size.0, size.1)))
}

fn backward<T: DeviceFloat>(xs: &Tensor, dy: &Tensor, mode: Mode) -> Result<Tensor> {
    let (batch, channels, height, width) = xs.dims4()?;
    let (_, _, to_height, to_width) = dy.dims4()?;
    let device = device_of(xs)?;
    let dx = alloc::<T>(device, xs.elem_count())?;
    let [planes, h, w, to_h, to_w] = [batch * channels, height, width, to_height, to_width].map(|n| n as i64);
    let (grid, dy) = (elements(xs.elem_count()), Input::of(dy));
    launch!(device, UNIT, T, "upsample_backward", grid, [dy.view::<T>()?, planes, h, w, to_h, to_w, mode as i32, dx]);
    Ok(tensor(device, dx, xs.shape()))
}

/// `xs`: `[N, C, H, W]` → `[N, C, size.0, size.1]`.
pub fn upsample(xs: &Tensor, size: (usize, usize), mode: Mode) -> Result<Tensor> {
    let xs = xs.contiguous()?;
    let y = for_float!(xs.dtype(), T => forward::<T>(&xs, size, mode)?);
    node("upsample", &[&xs], y, move |inputs, _, dy| {
        Ok(vec![Some(for_float!(dy.dtype(), T => backward::<T>(inputs[0], dy, mode)?))])
    })
}
