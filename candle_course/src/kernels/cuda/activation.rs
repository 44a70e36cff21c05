//! Activations on a CUDA device, one launch each way.

use candle_core::cuda_backend::cudarc::driver::CudaSlice;
use candle_core::{Result, Tensor};

use super::Unit;
use super::runtime::{DeviceFloat, Input, address_or_null, alloc, device_of, elements, launch, tensor, value};
use crate::kernels::losses::for_float;
use crate::kernels::node::{Value, keeping, node};

const UNIT: Unit = Unit { name: "activation", source: include_str!("activation.cu") };

/// An activation whose gradient is told by its input.
macro_rules! activation {
    ($(#[$docs:meta])* $name:ident, $forward:literal, $backward:literal) => {
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
            node(stringify!($name), &[&xs], y, |inputs, _, dy| {
                let from = inputs[0];
                Ok(vec![Some(for_float!(from.dtype(), T => backward::<T>(from, dy)?))])
            })
        }
    };
}

/// max(a, 0), or max(a + b, 0): tensors of one shape. A bit per number is kept, nothing else.
pub fn relu(a: &Tensor, b: Option<&Tensor>) -> Result<Tensor> {
    fn forward<T: DeviceFloat>(a: &Tensor, b: Option<&Tensor>) -> Result<(Value, CudaSlice<u32>)> {
        let (device, count) = (device_of(a)?, a.elem_count());
        let (y, passed) = (alloc::<T>(device, count)?, alloc::<u32>(device, count.div_ceil(32))?);
        let (a_in, b_in) = (Input::of(a), b.map(Input::of));
        let (from, other) = (a_in.view::<T>()?, address_or_null::<T>(b_in.as_ref())?);
        launch!(device, UNIT, T, "relu", elements(count), [from, other, count as i64, y, passed]);
        Ok((value(device, y, a.shape()), passed))
    }
    fn backward<T: DeviceFloat>(passed: &CudaSlice<u32>, dy: &Tensor) -> Result<Tensor> {
        let (device, count) = (device_of(dy)?, dy.elem_count());
        let (dy_in, dx) = (Input::of(dy), alloc::<T>(device, count)?);
        launch!(device, UNIT, T, "relu_backward", elements(count), [*passed, dy_in.view::<T>()?, count as i64, dx]);
        Ok(tensor(device, dx, dy.shape()))
    }
    let (a, b) = (a.contiguous()?, b.map(Tensor::contiguous).transpose()?);
    let (y, passed) = for_float!(a.dtype(), T => forward::<T>(&a, b.as_ref())?);
    let inputs: Vec<&Tensor> = std::iter::once(&a).chain(&b).collect();
    keeping("relu", &inputs, y, move |wanted, dy| {
        let dx = for_float!(dy.dtype(), T => backward::<T>(&passed, dy)?);
        Ok(wanted.iter().map(|&wanted| wanted.then(|| dx.clone())).collect())
    })
}

activation! {
    /// x · Φ(x).
    gelu, "gelu", "gelu_backward"
}
activation! {
    /// x · σ(x).
    silu, "silu", "silu_backward"
}
