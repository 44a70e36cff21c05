//! Dropout on a CUDA device: the mask is drawn there, in the pass that applies it.

use candle_core::{Result, Tensor};

use super::Unit;
use super::runtime::{DeviceFloat, Input, alloc, device_of, elements, launch, value};
use crate::kernels::dropout::threshold;
use crate::kernels::losses::for_float;
use crate::kernels::node::{Value, keeping};

const UNIT: Unit = Unit { name: "dropout", source: include_str!("dropout.cu") };

fn apply<T: DeviceFloat>(xs: &Tensor, p: f64, key: u64) -> Result<Value> {
    let (device, count) = (device_of(xs)?, xs.elem_count());
    let y = alloc::<T>(device, count)?;
    let scale = T::of(1.0 / (1.0 - p));
    let x = Input::of(xs);
    launch!(device, UNIT, T, "dropout", elements(count), [x.view::<T>()?, count as i64, key, threshold(p), scale, y]);
    Ok(value(device, y, xs.shape()))
}

/// As the CPU's: the same key gives the same mask.
pub fn dropout(xs: &Tensor, p: f64, key: u64) -> Result<Tensor> {
    let xs = xs.contiguous()?;
    let y = for_float!(xs.dtype(), T => apply::<T>(&xs, p, key)?);
    // The same mask again, from the same key: nothing was kept.
    keeping("dropout", &[&xs], y, move |_, dy| {
        Ok(vec![Some(for_float!(dy.dtype(), T => apply::<T>(dy, p, key)?).tensor())])
    })
}
