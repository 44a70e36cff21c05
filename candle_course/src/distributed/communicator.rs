//! What ranks talk through.

use candle_core::{Device, Tensor};

use crate::error::{Error, Result};

/// A group of ranks, each a process or a thread, that call the same things in the same order.
///
/// Every call but [`abort`](Communicator::abort), [`rank`](Communicator::rank) and
/// [`size`](Communicator::size) is collective: it returns when all ranks have called it, and fails on all of
/// them if one cannot. What is reduced has the same bits on every rank.
pub trait Communicator: Send + Sync {
    /// How many ranks there are.
    fn size(&self) -> usize;

    /// Which of them this is, counted from 0.
    fn rank(&self) -> usize;

    /// Replaces the numbers by their sums over all ranks. All ranks give as many.
    ///
    /// # Errors
    /// If a rank has died or given up, or calls something else; the message names it. So for every call.
    fn all_reduce_f32(&self, values: &mut [f32]) -> Result<()>;

    /// [`Communicator::all_reduce_f32`] of f64.
    ///
    /// # Errors
    /// As [`Communicator::all_reduce_f32`].
    fn all_reduce_f64(&self, values: &mut [f64]) -> Result<()>;

    /// Replaces `bytes` by those of the rank `root`, as many as they are.
    ///
    /// # Errors
    /// As [`Communicator::all_reduce_f32`].
    fn broadcast(&self, root: usize, bytes: &mut Vec<u8>) -> Result<()>;

    /// The bytes of all ranks, in the order of the ranks; each may have another number of them.
    ///
    /// # Errors
    /// As [`Communicator::all_reduce_f32`].
    fn all_gather(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>>;

    /// Waits for all ranks.
    ///
    /// # Errors
    /// As [`Communicator::all_reduce_f32`].
    fn barrier(&self) -> Result<()>;

    /// Ends the work of all ranks, for this reason: they must not wait for a rank that will not come. Threads
    /// get an error in the call that they are in or make next; processes of MPI are ended, this one too.
    fn abort(&self, reason: &str);

    /// Whether tensors of this device are summed where they are, by
    /// [`all_reduce_tensor`](Communicator::all_reduce_tensor); no, unless told otherwise.
    fn reduces_on(&self, device: &Device) -> bool {
        let _ = device;
        false
    }

    /// The sum over all ranks of a tensor of a device that [`reduces_on`](Communicator::reduces_on) says yes to, f32 or
    /// f64, without gradient.
    ///
    /// # Errors
    /// As [`Communicator::all_reduce_f32`], and if tensors are not summed on the device.
    fn all_reduce_tensor(&self, tensor: &Tensor) -> Result<Tensor> {
        Err(Error::argument("tensor", "numbers on the host", crate::device::name(tensor.device())))
    }
}

/// A group of one.
#[derive(Debug, Clone, Copy, Default)]
pub struct SingleProcess;

impl Communicator for SingleProcess {
    fn size(&self) -> usize {
        1
    }

    fn rank(&self) -> usize {
        0
    }

    fn all_reduce_f32(&self, _values: &mut [f32]) -> Result<()> {
        Ok(())
    }

    fn all_reduce_f64(&self, _values: &mut [f64]) -> Result<()> {
        Ok(())
    }

    fn broadcast(&self, root: usize, _bytes: &mut Vec<u8>) -> Result<()> {
        check_root(root, 1)
    }

    fn all_gather(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        Ok(vec![bytes.to_vec()])
    }

    fn barrier(&self) -> Result<()> {
        Ok(())
    }

    fn abort(&self, _reason: &str) {}
}

pub(super) fn check_root(root: usize, size: usize) -> Result<()> {
    if root < size {
        return Ok(());
    }
    Err(Error::argument("root", format!("a rank below {size}"), root))
}
