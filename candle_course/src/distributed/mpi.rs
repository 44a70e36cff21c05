//! Ranks that are processes of MPI, on one machine or many. Feature `mpi`.
//!
//! It binds to the system's MPI, which has to be there when the crate is compiled, with its headers: on Debian and
//! Ubuntu `apt install openmpi-bin libopenmpi-dev`, on a cluster the module of its MPI. What is installed elsewhere
//! is found by `MPICC`, the path of its compiler wrapper.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use candle_course_mpi::{Process, Refusal};

use crate::distributed::Communicator;
use crate::distributed::communicator::check_root;
use crate::error::{Error, Result, panicked};

/// All processes that MPI started.
pub struct MpiCommunicator {
    process: Process,
}

/// Does the work of this process with MPI, and ends MPI. A failure or a panic of one process ends all: its
/// message is printed, with its rank, and MPI ends the job with status 1.
///
/// [`launch`](crate::distributed::launch) calls it where there are several processes.
///
/// # Errors
/// If MPI was begun before in this process, or offers no calls from several threads, one at a time. In a group of
/// one, what `work` gives.
pub fn run<T>(work: impl FnOnce(Arc<dyn Communicator>) -> Result<T>) -> Result<T> {
    let communicator = Arc::new(MpiCommunicator {
        process: Process::start().map_err(|refusal| {
            let error = Error::training(refusal.to_string());
            if refusal == Refusal::Begun { error.hint("call `distributed::launch` once") } else { error }
        })?,
    });
    let result = catch_unwind(AssertUnwindSafe(|| work(Arc::clone(&communicator) as Arc<dyn Communicator>)));
    match &result {
        Ok(Err(error)) => communicator.abort(&error.to_string()),
        Err(panic) => communicator.abort(&panicked("it", &**panic)),
        Ok(Ok(_)) => {}
    }
    communicator.process.end();
    result.unwrap_or_else(|panic| resume_unwind(panic))
}

impl MpiCommunicator {
    fn told<T>(&self, call: &str, result: std::result::Result<T, Refusal>) -> Result<T> {
        result.map_err(|refusal| {
            let error = Error::training(format!("rank {} cannot {call}: {refusal}", self.rank()));
            if refusal == Refusal::Ended {
                error.hint("the communicator is of use only within `distributed::launch`")
            } else {
                error
            }
        })
    }
}

impl Communicator for MpiCommunicator {
    fn size(&self) -> usize {
        self.process.size()
    }

    fn rank(&self) -> usize {
        self.process.rank()
    }

    fn all_reduce_f32(&self, values: &mut [f32]) -> Result<()> {
        self.told("sum numbers", self.process.sum_f32(values))
    }

    fn all_reduce_f64(&self, values: &mut [f64]) -> Result<()> {
        self.told("sum numbers", self.process.sum_f64(values))
    }

    fn broadcast(&self, root: usize, bytes: &mut Vec<u8>) -> Result<()> {
        check_root(root, self.size())?;
        self.told("broadcast", self.process.broadcast(root, bytes))
    }

    fn all_gather(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        self.told("gather", self.process.all_gather(bytes))
    }

    fn barrier(&self) -> Result<()> {
        self.told("wait for all", self.process.barrier())
    }

    fn abort(&self, reason: &str) {
        if self.size() == 1 {
            return;
        }
        eprintln!("rank {} of {} gave up, and with it all: {reason}", self.rank(), self.size());
        self.process.abort(1);
    }
}
