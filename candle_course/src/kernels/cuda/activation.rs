//! Activations on a CUDA device, one launch each way.

use candle_core::{Result, Tensor};

use super::Unit;
use super::runtime::{DeviceFloat, Input, alloc, device_of, elements, launch, tensor, value};
use crate::kernels::losses::for_float;
use crate::kernels::node::{Value, node};

const UNIT: Unit = Unit { name: "activation", source: include_str!("activation.cu") };

/// An activation whose gradient is told by its input (0) or by its output (1).
macro_rules! activation {
    ($(#[$docs:meta])* $name:ident, $forward:literal, $backward:literal, $from_output:literal) => {
        $(#[$docs])*
        pub fn $name(xs: &Tensor) -> Result<Tensor> {
            fn forward<T: DeviceFloat>(xs: &Tensor) -> Result<Value> {
                let (device, count) = (device_of(xs)?, xs.elem_count());
                let y = alloc::<T>(device, count)?;
                launch!(device, UNIT, T, $forward, elements(count), [Input::of(xs).view::<T>()?, count as i64, y]);
                Ok(value(device, y, xs.shape()))
            }
            fn backward<T: DeviceFloat>(from: &Tensor, dy: &Tensor) -> Result<Tensor> {
                let (device, count) = (device_of(from)?, from.elem_count());
                let (from_, dy) = (Input::of(from), Input::of(dy));
                let dx = alloc::<T>(device, count)?;
                launch!(device, UNIT, T, $backward, elements(count), [from_.view::<T>()?, dy.view::<T>()?, count as i64, dx]);
                Ok(tensor(device, dx, from.shape()))
            }
            let xs = xs.contiguous()?;
            let y = for_float!(xs.dtype(), T => forward::<T>(&xs)?);
            node(stringify!($name), &[&xs], y, |inputs, ys, dy| {
                let from = if $from_output { ys } else { inputs[0] };
                Ok(vec![Some(for_float!(from.dtype(), T => backward::<T>(from, dy)?))])
            })
        }
    };
}

activation! {
    /// max(x, 0).
    relu, "relu", "relu_backward", true
}
activation! {
    /// x · Φ(x).
    gelu, "gelu", "gelu_backward", false
}
activation! {
    /// x · σ(x).
    silu, "silu", "silu_backward", false
}
