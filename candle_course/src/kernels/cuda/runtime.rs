//! Launching kernels on candle's CUDA storages.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use candle_core::cuda_backend::cudarc::driver::{
    CudaFunction, CudaModule, CudaSlice, CudaView, DevicePtr, DeviceRepr, LaunchConfig, result, sys,
};
use candle_core::cuda_backend::{CudaDType, CudaDevice, CudaStorage, DeviceId, cudarc::nvrtc::Ptx};
use candle_core::{Device, Error, Layout, Result, Shape, Storage, StorageRef, Tensor};

use super::compile::{Real, Unit};
use crate::kernels::node::Value;
use crate::kernels::simd::Element;

/// A number type that kernels are compiled for.
pub trait DeviceFloat: Element + CudaDType + DeviceRepr {
    /// The type in the kernels' language.
    const REAL: Real;
}

impl DeviceFloat for f32 {
    const REAL: Real = Real { word: "float", suffix: "_f32" };
}

impl DeviceFloat for f64 {
    const REAL: Real = Real { word: "double", suffix: "_f64" };
}

type FunctionKey = (DeviceId, &'static str, &'static str, &'static str);

thread_local! {
    // Found again without a lock: a look-up comes before every launch.
    static FUNCTIONS: RefCell<HashMap<FunctionKey, CudaFunction>> = RefCell::default();
}

type Modules = HashMap<(usize, &'static str, &'static str), Arc<CudaModule>>;

/// One of each per device: a module belongs to the device's primary context, which it keeps alive.
static MODULES: Mutex<Option<Modules>> = Mutex::new(None);

/// The kernel `name` of `unit` for `T`, compiled and loaded at first use.
pub fn function<T: DeviceFloat>(device: &CudaDevice, unit: &Unit, name: &'static str) -> Result<CudaFunction> {
    let key = (device.id(), unit.name, name, T::REAL.suffix);
    if let Some(function) = FUNCTIONS.with_borrow(|known| known.get(&key).cloned()) {
        return Ok(function);
    }
    prepare(device)?;
    let function = module(device, unit, T::REAL)?
        .load_function(&format!("{name}{}", T::REAL.suffix))
        .map_err(|error| Error::Msg(format!("no kernel {name} in {}.cu: {error}", unit.name)))?;
    FUNCTIONS.with_borrow_mut(|known| known.insert(key, function.clone()));
    Ok(function)
}

fn module(device: &CudaDevice, unit: &Unit, real: Real) -> Result<Arc<CudaModule>> {
    let stream = device.cuda_stream();
    let context = stream.context();
    let key = (context.ordinal(), unit.name, real.suffix);
    let mut modules = MODULES.lock().map_err(|_| Error::Msg("loading a CUDA kernel panicked".to_owned()))?;
    let modules = modules.get_or_insert_default();
    if let Some(module) = modules.get(&key) {
        return Ok(module.clone());
    }
    let capability = context.compute_capability().map_err(Error::wrap)?;
    let code = unit.machine_code(real, capability)?;
    let module = context.load_module(Ptx::from_binary(code)).map_err(Error::wrap)?;
    modules.insert(key, module.clone());
    Ok(module)
}

/// Two defaults that cost every step time, set right.
fn prepare(device: &CudaDevice) -> Result<()> {
    // SAFETY: one stream per device does all work of this crate, in order; candle's own events
    // around every tensor (two made per allocation) guard what never happens.
    unsafe { device.disable_event_tracking() };
    let stream = device.cuda_stream();
    let context = stream.context();
    // Freed memory stays with the pool; by default it goes back to the driver at every wait, and
    // the next step allocates it again.
    let mut keep = u64::MAX;
    // SAFETY: the device is the context's; the attribute is a u64.
    unsafe {
        let pool = result::device::get_default_mem_pool(context.cu_device()).map_err(Error::wrap)?;
        let threshold = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        result::mem_pool::set_attribute(pool, threshold, (&raw mut keep).cast()).map_err(Error::wrap)
    }
}

/// Launches a kernel: `launch!(device, UNIT, T, "name", grid, [arguments])`.
///
/// The grid is a [`LaunchConfig`]. Arguments are views or slices of device memory and numbers
/// (`i32`, `i64`, `f64`, `T`, …) of exactly the kernel's parameter types. Returns at once; the
/// device works in order.
macro_rules! launch {
    ($device:expr, $unit:expr, $t:ty, $name:literal, $grid:expr, [$($argument:expr),* $(,)?]) => {{
        use candle_core::cuda_backend::cudarc::driver::PushKernelArg as _;
        let device: &candle_core::cuda_backend::CudaDevice = $device;
        let function = $crate::kernels::cuda::runtime::function::<$t>(device, &$unit, $name)?;
        let stream = device.cuda_stream();
        let grid: candle_core::cuda_backend::cudarc::driver::LaunchConfig = $grid;
        // SAFETY: the arguments are those of the kernel's signature, and the slices have the
        // lengths that it computes from its numbers; both are fixed beside each other.
        let launched = unsafe { stream.launch_builder(&function)$(.arg(&$argument))*.launch(grid) };
        launched.map(drop).map_err(candle_core::Error::wrap)?
    }};
}
pub(crate) use launch;

/// Threads of a block, where nothing else asks for another number.
pub const THREADS: u32 = 256;

/// Blocks that keep every multiprocessor of a large device busy.
pub const FULL: usize = 132 * 8;

/// A grid for a loop over `elements` that shares them out itself (`FOR_EACH`).
pub fn elements(elements: usize) -> LaunchConfig {
    blocks(elements.div_ceil(THREADS as usize).clamp(1, 2 * FULL), 1)
}

/// So many blocks of [`THREADS`] threads.
pub fn blocks(x: usize, y: usize) -> LaunchConfig {
    LaunchConfig { grid_dim: (x as u32, y as u32, 1), block_dim: (THREADS, 1, 1), shared_mem_bytes: 0 }
}

/// The CUDA device of a tensor.
pub fn device_of(xs: &Tensor) -> Result<&CudaDevice> {
    match xs.device() {
        Device::Cuda(device) => Ok(device),
        _ => candle_core::bail!("internal error: a CUDA kernel was given a tensor on {:?}", xs.device().location()),
    }
}

/// Room for `len` numbers that a kernel will write before anything reads them.
///
/// Allocation is in the stream's order and comes from a pool: no wait, and scratch memory is
/// simply dropped.
pub fn alloc<T: DeviceRepr>(device: &CudaDevice, len: usize) -> Result<CudaSlice<T>> {
    if len == 0 {
        // The driver gives no memory of no bytes.
        // SAFETY: nothing is read of it: it is given on as memory of length 0.
        let one = unsafe { device.alloc::<T>(1) }?;
        // SAFETY: an allocation of this stream, which is freed as one, whatever its length.
        return Ok(unsafe { device.cuda_stream().upgrade_device_ptr(one.leak(), 0) });
    }
    // SAFETY: numbers have no invalid bits; every kernel writes all of its output.
    unsafe { device.alloc(len) }
}

/// A contiguous tensor on a CUDA device, held open for a kernel.
pub struct Input<'a> {
    storage: StorageRef<'a>,
    layout: &'a Layout,
}

impl<'a> Input<'a> {
    /// The numbers of `xs`.
    pub fn of(xs: &'a Tensor) -> Self {
        let (storage, layout) = xs.storage_and_layout();
        Self { storage, layout }
    }

    /// The tensor's numbers, as many as it has.
    pub fn view<T: CudaDType>(&self) -> Result<CudaView<'_, T>> {
        let Storage::Cuda(storage) = &*self.storage else {
            candle_core::bail!("internal error: a CUDA kernel was given a tensor of another device");
        };
        match self.layout.contiguous_offsets() {
            Some((start, end)) => Ok(storage.as_cuda_slice::<T>()?.slice(start..end)),
            None => candle_core::bail!("internal error: a CUDA kernel was given a strided tensor"),
        }
    }

    /// The address of the numbers.
    pub fn pointer<T: CudaDType>(&self) -> Result<u64> {
        Ok(address(&self.view::<T>()?))
    }
}

/// The address of device memory, for a kernel's argument that may be missing (0).
pub fn address<T>(slice: &impl DevicePtr<T>) -> u64 {
    slice.device_ptr(slice.stream()).0
}

/// The address of a tensor's numbers, 0 without one.
pub fn address_or_null<T: CudaDType>(input: Option<&Input<'_>>) -> Result<u64> {
    input.map_or(Ok(0), |input| input.pointer::<T>())
}

/// Numbers that a kernel has written, as a value.
pub fn value<T: CudaDType>(device: &CudaDevice, numbers: CudaSlice<T>, shape: impl Into<Shape>) -> Value {
    Value::cuda(CudaStorage::wrap_cuda_slice(numbers, device.clone()), shape)
}

/// Numbers that a kernel has written, as a tensor without a graph.
pub fn tensor<T: CudaDType>(device: &CudaDevice, numbers: CudaSlice<T>, shape: impl Into<Shape>) -> Tensor {
    value(device, numbers, shape).tensor()
}
