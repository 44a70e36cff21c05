//! Ranks that are processes of MPI, on one machine or many. Feature `mpi`.
//!
//! It binds to the system's MPI, which has to be there when the crate is compiled, with its headers, and
//! libclang for reading them: on Debian and Ubuntu `apt install openmpi-bin libopenmpi-dev libclang-dev`, on a
//! cluster the module of its MPI. What is installed elsewhere is found by `MPICC` (the compiler wrapper) and
//! `LIBCLANG_PATH`.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ::mpi::Threading;
use ::mpi::collective::SystemOperation;
use ::mpi::datatype::PartitionMut;
use ::mpi::topology::SimpleCommunicator;
use ::mpi::traits::{Communicator as _, CommunicatorCollectives as _, Equivalence, Root as _};

use crate::distributed::Communicator;
use crate::distributed::communicator::check_root;
use crate::error::{Error, Result, panicked};

/// Numbers of one call: MPI counts in 32 bits.
const MOST: usize = 1 << 28;

/// All processes that MPI started.
pub struct MpiCommunicator {
    rank: usize,
    size: usize,
    /// MPI was promised that one thread calls at a time; and what is received, before it is copied back.
    scratch: Mutex<Scratch>,
    /// After MPI's end its functions must not be called.
    over: Arc<AtomicBool>,
}

#[derive(Default)]
struct Scratch {
    f32: Vec<f32>,
    f64: Vec<f64>,
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
    let Some((universe, threading)) = ::mpi::initialize_with_threading(Threading::Serialized) else {
        return Err(Error::training("MPI was begun before in this process").hint("call `distributed::launch` once"));
    };
    let world = universe.world();
    let over = Arc::new(AtomicBool::new(false));
    let communicator = Arc::new(MpiCommunicator {
        rank: world.rank() as usize,
        size: world.size() as usize,
        scratch: Mutex::default(),
        over: Arc::clone(&over),
    });
    if threading < Threading::Serialized {
        let error = Error::training(format!("this MPI offers {threading:?}, not calls from one thread at a time"));
        communicator.abort(&error.to_string());
        return Err(error);
    }
    let result = catch_unwind(AssertUnwindSafe(|| work(Arc::clone(&communicator) as Arc<dyn Communicator>)));
    match &result {
        Ok(Err(error)) => communicator.abort(&error.to_string()),
        Err(panic) => communicator.abort(&panicked("it", &**panic)),
        Ok(Ok(_)) => {}
    }
    // Waits for a call that another thread is still in.
    let last = communicator.scratch.lock();
    over.store(true, Ordering::SeqCst);
    drop(last);
    drop(universe); // MPI_Finalize, which waits for the other processes to come to their end
    result.unwrap_or_else(|panic| resume_unwind(panic))
}

impl MpiCommunicator {
    /// Exclusive use of MPI.
    fn enter(&self, call: &str) -> Result<(SimpleCommunicator, MutexGuard<'_, Scratch>)> {
        let scratch = self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        if self.over.load(Ordering::SeqCst) {
            return Err(Error::training(format!("rank {} cannot {call}: MPI has ended", self.rank))
                .hint("the communicator is of use only within `distributed::launch`"));
        }
        Ok((SimpleCommunicator::world(), scratch))
    }
}

fn sum<T: Equivalence + Copy + Default>(world: &SimpleCommunicator, values: &mut [T], scratch: &mut Vec<T>) {
    for values in values.chunks_mut(MOST) {
        if scratch.len() < values.len() {
            scratch.resize(values.len(), T::default());
        }
        let received = &mut scratch[..values.len()];
        world.all_reduce_into(values, received, SystemOperation::sum());
        values.copy_from_slice(received);
    }
}

impl Communicator for MpiCommunicator {
    fn size(&self) -> usize {
        self.size
    }

    fn rank(&self) -> usize {
        self.rank
    }

    fn all_reduce_f32(&self, values: &mut [f32]) -> Result<()> {
        let (world, mut scratch) = self.enter("sum numbers")?;
        sum(&world, values, &mut scratch.f32);
        Ok(())
    }

    fn all_reduce_f64(&self, values: &mut [f64]) -> Result<()> {
        let (world, mut scratch) = self.enter("sum numbers")?;
        sum(&world, values, &mut scratch.f64);
        Ok(())
    }

    fn broadcast(&self, root: usize, bytes: &mut Vec<u8>) -> Result<()> {
        check_root(root, self.size)?;
        let (world, _scratch) = self.enter("broadcast")?;
        let from = world.process_at_rank(root as i32);
        let mut count = bytes.len() as u64;
        from.broadcast_into(&mut count);
        bytes.resize(count as usize, 0);
        bytes.chunks_mut(MOST).for_each(|bytes| from.broadcast_into(bytes));
        Ok(())
    }

    fn all_gather(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        let (world, _scratch) = self.enter("gather")?;
        let mut counts = vec![0u64; self.size];
        world.all_gather_into(&(bytes.len() as u64), &mut counts[..]);
        let total: u64 = counts.iter().sum();
        if total > i32::MAX as u64 {
            // All ranks see it.
            return Err(Error::training(format!("{total} bytes of {} ranks are too many to gather", self.size)));
        }
        let counts: Vec<i32> = counts.iter().map(|&count| count as i32).collect();
        let starts: Vec<i32> =
            counts.iter().scan(0, |start, &count| Some(std::mem::replace(start, *start + count))).collect();
        // An empty slice of bytes begins at the address 1, which Open MPI and MPICH take for `MPI_IN_PLACE`.
        static NOTHING: [u8; 1] = [0];
        let bytes = if bytes.is_empty() { &NOTHING[..0] } else { bytes };
        let mut all = vec![0u8; (total as usize).max(1)];
        world.all_gather_varcount_into(bytes, &mut PartitionMut::new(&mut all[..], &counts[..], &starts[..]));
        let part = |(&start, &count): (&i32, &i32)| all[start as usize..][..count as usize].to_vec();
        Ok(starts.iter().zip(&counts).map(part).collect())
    }

    fn barrier(&self) -> Result<()> {
        self.enter("wait for all")?.0.barrier();
        Ok(())
    }

    fn abort(&self, reason: &str) {
        if self.size == 1 || self.over.load(Ordering::SeqCst) {
            return;
        }
        eprintln!("rank {} of {} gave up, and with it all: {reason}", self.rank, self.size);
        // Without the lock: another thread may wait in a call that will not end.
        SimpleCommunicator::world().abort(1)
    }
}
