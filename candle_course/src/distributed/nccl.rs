//! Sums on NVIDIA GPUs, from one to the other, without the host's memory. Feature `nccl`. It compiles, and its logic is
//! tested with a stand-in; it has never run on a GPU.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::backend::BackendStorage as _;
use candle_core::cuda_backend::cudarc::nccl::safe::{Comm, Id, ReduceOp};
use candle_core::{CpuStorage, CudaStorage, CustomOp1, DType, Device, Layout, Shape, Tensor};

use crate::distributed::Communicator;
use crate::error::{Error, Result};

/// Ranks with a GPU each, whose gradients NCCL adds up; everything else goes through another communicator, MPI's say,
/// which also tells the ranks of each other.
///
/// ```no_run
/// use std::sync::Arc;
///
/// use candle_course::distributed::{launch, nccl::NcclCommunicator};
/// use candle_course::prelude::*;
///
/// # fn main() -> Result<()> {
/// launch(|communicator| {
///     // On every machine as many ranks as GPUs, numbered in turn.
///     let device = Device::new_cuda(communicator.rank() % 8)?;
///     let communicator = Arc::new(NcclCommunicator::new(communicator, &device)?);
///     // … `.distributed(communicator)`
///     # drop(communicator);
///     Ok(())
/// })
/// # }
/// ```
pub struct NcclCommunicator {
    host: Arc<dyn Communicator>,
    device: Device,
    nccl: Mutex<Nccl>,
}

struct Nccl(Comm);

// SAFETY: NCCL lets any thread use a communicator, one at a time; the mutex around it sees to that. The stream and
// the context beside the handle are shared between threads by cudarc itself.
unsafe impl Send for Nccl {}

impl NcclCommunicator {
    /// All ranks of `host` call this, each with its own GPU.
    ///
    /// # Errors
    /// If `device` is no CUDA device, or NCCL cannot connect the GPUs: two ranks must not have the same.
    pub fn new(host: Arc<dyn Communicator>, device: &Device) -> Result<Self> {
        let Device::Cuda(cuda) = device else {
            let got = crate::device::name(device);
            return Err(Error::argument("device", "a CUDA device", got)
                .hint("on CPUs give the trainer the host's communicator"));
        };
        let failed = |error| {
            Error::training(format!("rank {} of {}: NCCL failed: {error:?}", host.rank(), host.size()))
                .hint("does every rank have a GPU of its own, and see the others' network?")
        };
        let mut bytes = Vec::new();
        if host.rank() == 0 {
            bytes = Id::new().map_err(failed)?.internal().iter().map(|&byte| byte as u8).collect();
        }
        host.broadcast(0, &mut bytes)?;
        let mut internal = [0; 128];
        if bytes.len() != internal.len() {
            return Err(Error::training(format!("NCCL's id has {} bytes, not {}", bytes.len(), internal.len())));
        }
        internal.iter_mut().zip(&bytes).for_each(|(to, &byte)| *to = byte as std::ffi::c_char);
        let comm =
            Comm::from_rank(cuda.cuda_stream(), host.rank(), host.size(), Id::uninit(internal)).map_err(failed)?;
        Ok(Self { host, device: device.clone(), nccl: Mutex::new(Nccl(comm)) })
    }
}

/// The sum of a tensor over all GPUs, in the device's stream.
struct Sum<'a>(&'a Comm);

impl CustomOp1 for Sum<'_> {
    fn name(&self) -> &'static str {
        "nccl-all-reduce"
    }

    fn cpu_fwd(&self, _storage: &CpuStorage, _layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        candle_core::bail!("NCCL adds up tensors of CUDA devices")
    }

    fn cuda_fwd(&self, storage: &CudaStorage, layout: &Layout) -> candle_core::Result<(CudaStorage, Shape)> {
        let device = storage.device().clone();
        let Some((start, end)) = layout.contiguous_offsets() else {
            candle_core::bail!("NCCL adds up numbers that lie in a row")
        };
        macro_rules! sum {
            ($type:ty) => {{
                let own = storage.as_cuda_slice::<$type>()?.slice(start..end);
                let mut sum = device.alloc_zeros::<$type>(end - start)?;
                let added = self.0.all_reduce(&own, &mut sum, &ReduceOp::Sum);
                added.map_err(|error| candle_core::Error::Msg(format!("NCCL cannot add up: {error:?}")))?;
                CudaStorage::wrap_cuda_slice(sum, device)
            }};
        }
        let sum = match storage.dtype() {
            DType::F32 => sum!(f32),
            DType::F64 => sum!(f64),
            dtype => candle_core::bail!("NCCL adds up f32 and f64 here, not {dtype:?}"),
        };
        Ok((sum, layout.shape().clone()))
    }
}

impl Communicator for NcclCommunicator {
    fn size(&self) -> usize {
        self.host.size()
    }

    fn rank(&self) -> usize {
        self.host.rank()
    }

    fn all_reduce_f32(&self, values: &mut [f32]) -> Result<()> {
        self.host.all_reduce_f32(values)
    }

    fn all_reduce_f64(&self, values: &mut [f64]) -> Result<()> {
        self.host.all_reduce_f64(values)
    }

    fn broadcast(&self, root: usize, bytes: &mut Vec<u8>) -> Result<()> {
        self.host.broadcast(root, bytes)
    }

    fn all_gather(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        self.host.all_gather(bytes)
    }

    fn barrier(&self) -> Result<()> {
        self.host.barrier()
    }

    fn abort(&self, reason: &str) {
        self.host.abort(reason);
    }

    fn reduces_on(&self, device: &Device) -> bool {
        self.device.same_device(device)
    }

    fn all_reduce_tensor(&self, tensor: &Tensor) -> Result<Tensor> {
        let nccl = self.nccl.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(tensor.contiguous()?.apply_op1_no_bwd(&Sum(&nccl.0))?)
    }
}
