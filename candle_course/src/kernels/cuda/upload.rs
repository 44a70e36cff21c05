//! Batches on their way to the device while it computes.

use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use candle_core::cuda_backend::cudarc::driver::{CudaStream, DeviceRepr, PinnedHostSlice};
use candle_core::cuda_backend::{CudaDType, CudaDevice, DeviceId};
use candle_core::{DType, Error, Result, Storage, Tensor, WithDType};

use super::runtime::{alloc, tensor};

/// A thread's own stream, and page-locked memory, from which the device fetches without the processor.
struct Road {
    stream: Arc<CudaStream>,
    locked: Option<PinnedHostSlice<u8>>,
}

thread_local! {
    static ROADS: RefCell<HashMap<DeviceId, Road>> = RefCell::default();
}

/// A copy of a CPU tensor on the device, whole when this returns. Waits for the copy alone, not for
/// what else the device does: to be called by a thread that has time.
pub fn upload(xs: &Tensor, device: &CudaDevice) -> Result<Tensor> {
    match xs.dtype() {
        DType::U8 => copy::<u8>(xs, device),
        DType::U32 => copy::<u32>(xs, device),
        DType::I64 => copy::<i64>(xs, device),
        DType::F32 => copy::<f32>(xs, device),
        DType::F64 => copy::<f64>(xs, device),
        other => candle_core::bail!("internal error: an upload of dtype {other:?}"),
    }
}

/// Whether [`upload`] takes this tensor.
pub fn takes(xs: &Tensor) -> bool {
    let known = matches!(xs.dtype(), DType::U8 | DType::U32 | DType::I64 | DType::F32 | DType::F64);
    known && xs.device().is_cpu()
}

fn copy<T: WithDType + CudaDType + DeviceRepr>(xs: &Tensor, device: &CudaDevice) -> Result<Tensor> {
    if xs.elem_count() == 0 {
        return Ok(tensor(device, alloc::<T>(device, 0)?, xs.shape()));
    }
    let xs = xs.contiguous()?;
    let (storage, layout) = xs.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else { candle_core::bail!("internal error: an upload from a GPU") };
    let values = &T::cpu_storage_as_slice(storage)?[layout.start_offset()..][..xs.elem_count()];
    // SAFETY: numbers are bytes without gaps.
    let bytes = unsafe { std::slice::from_raw_parts(values.as_ptr().cast::<u8>(), size_of_val(values)) };
    let address = ROADS.with_borrow_mut(|roads| {
        let Road { stream, locked } = match roads.entry(device.id()) {
            Entry::Occupied(road) => road.into_mut(),
            Entry::Vacant(place) => {
                // SAFETY: nothing here is used by two streams at once; see the wait below.
                unsafe { device.disable_event_tracking() };
                let stream = device.cuda_stream().context().new_stream().map_err(Error::wrap)?;
                place.insert(Road { stream, locked: None })
            }
        };
        if locked.as_ref().is_none_or(|locked| locked.len() < bytes.len()) {
            // SAFETY: written before it is read.
            let room = unsafe { stream.context().alloc_pinned(bytes.len().next_power_of_two()) };
            *locked = Some(room.map_err(Error::wrap)?);
        }
        let Some(locked) = locked else { candle_core::bail!("internal error: no memory to upload from") };
        let from = &mut locked.as_mut_slice().map_err(Error::wrap)?[..bytes.len()];
        from.copy_from_slice(bytes);
        // SAFETY: the copy writes all of it.
        let mut to = unsafe { stream.alloc::<u8>(bytes.len()) }.map_err(Error::wrap)?;
        stream.memcpy_htod(&*from, &mut to).map_err(Error::wrap)?;
        stream.synchronize().map_err(Error::wrap)?;
        Ok(to.leak())
    })?;
    // SAFETY: the memory is whole and of this size; from here on it belongs to the device's stream,
    // in whose order it is used and given back.
    let numbers = unsafe { device.cuda_stream().upgrade_device_ptr::<T>(address, values.len()) };
    Ok(tensor(device, numbers, xs.shape()))
}
