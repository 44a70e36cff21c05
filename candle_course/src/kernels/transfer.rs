//! From one device to another.

use candle_core::{Device, Result, Tensor};

/// `xs` on `device`. candle's `to_device` fails where the tensor is empty and the device CUDA.
pub(crate) fn send(xs: &Tensor, device: &Device) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(cuda) = device
        && xs.elem_count() == 0
        && super::cuda::upload::takes(xs)
    {
        return super::cuda::upload::upload(xs, cuda);
    }
    xs.to_device(device)
}
