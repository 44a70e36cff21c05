//! Tensors one behind the other, on a CUDA device.

use candle_core::{Result, Shape, Tensor};

use super::CAST;
use super::runtime::{DeviceFloat, Input, alloc, device_of, elements, launch, tensor, value};
use crate::kernels::losses::for_float;
use crate::kernels::node::{Gradients, Value, keeping};

/// How many tensors can be joined.
pub const MOST: usize = 3;

/// Where a tensor lies in rows of the joined one.
#[derive(Debug, Clone)]
struct Part {
    shape: Shape,
    width: usize,
    offset: usize,
}

/// Two or three tensors that differ in dimension `dim` alone, in one; nothing is kept of them.
pub fn cat(tensors: &[&Tensor], dim: usize) -> Result<Tensor> {
    fn forward<T: DeviceFloat>(tensors: &[&Tensor], parts: &[Part], stride: usize, shape: Shape) -> Result<Value> {
        let device = device_of(tensors[0])?;
        let y = alloc::<T>(device, shape.elem_count())?;
        for (xs, Part { width, offset, .. }) in tensors.iter().zip(parts) {
            let (x, count) = (Input::of(xs), xs.elem_count());
            let (x, grid) = (x.view::<T>()?, elements(count));
            let [width, stride, offset] = [*width, stride, *offset].map(|size| size as i64);
            launch!(device, CAST, T, "join", grid, [x, y, count as i64, width, stride, offset]);
        }
        Ok(value(device, y, shape))
    }
    fn backward<T: DeviceFloat>(parts: &[Part], stride: usize, wanted: &[bool], dy: &Tensor) -> Gradients {
        let device = device_of(dy)?;
        let dy = Input::of(dy);
        let dy = dy.view::<T>()?;
        let of = |Part { shape, width, offset }: &Part| -> Result<Tensor> {
            let count = shape.elem_count();
            let (dx, grid) = (alloc::<T>(device, count)?, elements(count));
            let [width, stride, offset] = [*width, stride, *offset].map(|size| size as i64);
            launch!(device, CAST, T, "part", grid, [dy, dx, count as i64, width, stride, offset]);
            Ok(tensor(device, dx, shape))
        };
        parts.iter().zip(wanted).map(|(part, &wanted)| wanted.then(|| of(part)).transpose()).collect()
    }
    let tensors: Vec<Tensor> = tensors.iter().map(|xs| xs.contiguous()).collect::<Result<_>>()?;
    let tensors: Vec<&Tensor> = tensors.iter().collect();
    let width = |xs: &Tensor| xs.dims()[dim..].iter().product::<usize>();
    let mut stride = 0;
    let mut parts = Vec::with_capacity(tensors.len());
    for xs in &tensors {
        parts.push(Part { shape: xs.shape().clone(), width: width(xs), offset: stride });
        stride += width(xs);
    }
    let mut dims = tensors[0].dims().to_vec();
    dims[dim] = tensors.iter().map(|xs| xs.dims()[dim]).sum();
    let y = for_float!(tensors[0].dtype(), T => forward::<T>(&tensors, &parts, stride, dims.into())?);
    keeping(
        "cat",
        &tensors,
        y,
        move |wanted, dy| for_float!(dy.dtype(), T => backward::<T>(&parts, stride, wanted, dy)),
    )
}
