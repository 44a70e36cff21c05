//! The few calls of MPI that [`candle_course`](https://docs.rs/candle_course) trains with, among all processes that
//! MPI started: [`Process`]. An error in a call ends all of them, as MPI does it where it is told nothing else.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Numbers of one call: MPI counts in 32 bits.
const MOST: usize = 1 << 28;

// `src/calls.c` says what they do. All but `start` need an MPI that has begun and has not ended, `abort` alone may be
// called while another thread is in one of them.
unsafe extern "C" {
    fn candle_course_mpi_start() -> i32;
    fn candle_course_mpi_rank() -> i32;
    fn candle_course_mpi_size() -> i32;
    fn candle_course_mpi_sum_f32(values: *mut f32, count: i32);
    fn candle_course_mpi_sum_f64(values: *mut f64, count: i32);
    fn candle_course_mpi_broadcast(bytes: *mut u8, count: i32, root: i32);
    fn candle_course_mpi_all_gather(mine: u64, all: *mut u64);
    fn candle_course_mpi_all_gather_bytes(all: *mut u8, counts: *const i32, starts: *const i32);
    fn candle_course_mpi_barrier();
    fn candle_course_mpi_abort(status: i32);
    fn candle_course_mpi_end();
}

/// Why a call was not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// MPI was begun before in this process.
    Begun,
    /// This MPI offers no calls from several threads, one at a time (`MPI_THREAD_SERIALIZED`).
    Threads,
    /// [`Process::end`] was called.
    Ended,
    /// This many bytes of all ranks together are more than MPI counts.
    TooMany(u64),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Begun => write!(f, "MPI was begun before in this process"),
            Refusal::Threads => {
                write!(f, "this MPI offers no calls from several threads, one at a time (MPI_THREAD_SERIALIZED)")
            }
            Refusal::Ended => write!(f, "MPI has ended"),
            Refusal::TooMany(bytes) => write!(f, "{bytes} bytes of all ranks are too many to gather"),
        }
    }
}

impl std::error::Error for Refusal {}

/// This process among those that MPI started. Every call but [`rank`](Process::rank), [`size`](Process::size) and
/// [`abort`](Process::abort) returns when all processes have made it.
#[derive(Debug)]
pub struct Process {
    rank: usize,
    size: usize,
    /// MPI was promised that one thread calls at a time. Whether MPI has ended: then nothing may be called.
    ended: Mutex<bool>,
}

impl Process {
    /// Begins MPI.
    ///
    /// # Errors
    /// [`Refusal::Begun`], [`Refusal::Threads`].
    pub fn start() -> Result<Process, Refusal> {
        // SAFETY: it may be called at any time.
        match unsafe { candle_course_mpi_start() } {
            // SAFETY: MPI has begun.
            0 => Ok(unsafe {
                let (rank, size) = (candle_course_mpi_rank() as usize, candle_course_mpi_size() as usize);
                Process { rank, size, ended: Mutex::new(false) }
            }),
            1 => Err(Refusal::Begun),
            _ => {
                // SAFETY: MPI has begun.
                unsafe { candle_course_mpi_end() };
                Err(Refusal::Threads)
            }
        }
    }

    /// Which of the processes this is, counted from 0.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// How many there are.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Exclusive use of an MPI that runs.
    fn enter(&self) -> Result<MutexGuard<'_, bool>, Refusal> {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        if *ended { Err(Refusal::Ended) } else { Ok(ended) }
    }

    /// Replaces the numbers by their sums over all processes. All give as many.
    ///
    /// # Errors
    /// [`Refusal::Ended`].
    pub fn sum_f32(&self, values: &mut [f32]) -> Result<(), Refusal> {
        let _running = self.enter()?;
        for part in values.chunks_mut(MOST) {
            // SAFETY: as many numbers as the slice has.
            unsafe { candle_course_mpi_sum_f32(part.as_mut_ptr(), part.len() as i32) };
        }
        Ok(())
    }

    /// [`Process::sum_f32`] of f64.
    ///
    /// # Errors
    /// [`Refusal::Ended`].
    pub fn sum_f64(&self, values: &mut [f64]) -> Result<(), Refusal> {
        let _running = self.enter()?;
        for part in values.chunks_mut(MOST) {
            // SAFETY: as many numbers as the slice has.
            unsafe { candle_course_mpi_sum_f64(part.as_mut_ptr(), part.len() as i32) };
        }
        Ok(())
    }

    /// Replaces `bytes` by those of the process `root`, as many as they are.
    ///
    /// # Errors
    /// [`Refusal::Ended`].
    ///
    /// # Panics
    /// If there is no process `root`.
    pub fn broadcast(&self, root: usize, bytes: &mut Vec<u8>) -> Result<(), Refusal> {
        assert!(root < self.size, "there is no process {root} of {}", self.size);
        let _running = self.enter()?;
        let root = root as i32;
        let mut count = (bytes.len() as u64).to_ne_bytes();
        // SAFETY: as many bytes as the array has, of a process that there is.
        unsafe { candle_course_mpi_broadcast(count.as_mut_ptr(), count.len() as i32, root) };
        bytes.resize(u64::from_ne_bytes(count) as usize, 0);
        for part in bytes.chunks_mut(MOST) {
            // SAFETY: as above; `resize` has made the slices of all processes alike.
            unsafe { candle_course_mpi_broadcast(part.as_mut_ptr(), part.len() as i32, root) };
        }
        Ok(())
    }

    /// The bytes of all processes, in the order of their ranks; each may have another number of them.
    ///
    /// # Errors
    /// [`Refusal::Ended`], [`Refusal::TooMany`], both on all of them.
    pub fn all_gather(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, Refusal> {
        let _running = self.enter()?;
        let mut counts = vec![0u64; self.size];
        // SAFETY: room for a number of each process.
        unsafe { candle_course_mpi_all_gather(bytes.len() as u64, counts.as_mut_ptr()) };
        let total: u64 = counts.iter().sum();
        if total > i32::MAX as u64 {
            return Err(Refusal::TooMany(total));
        }
        let counts: Vec<i32> = counts.into_iter().map(|count| count as i32).collect();
        let starts: Vec<i32> =
            counts.iter().scan(0, |start, &count| Some(std::mem::replace(start, *start + count))).collect();
        // An empty vector begins at the address 1, which Open MPI and MPICH take for `MPI_IN_PLACE`.
        let mut all = vec![0u8; (total as usize).max(1)];
        all[starts[self.rank] as usize..][..bytes.len()].copy_from_slice(bytes);
        // SAFETY: the parts lie one behind the other, together at most as long as `all`; a count and a start for each process.
        unsafe { candle_course_mpi_all_gather_bytes(all.as_mut_ptr(), counts.as_ptr(), starts.as_ptr()) };
        let part = |(&start, &count): (&i32, &i32)| all[start as usize..][..count as usize].to_vec();
        Ok(starts.iter().zip(&counts).map(part).collect())
    }

    /// Waits for all processes.
    ///
    /// # Errors
    /// [`Refusal::Ended`].
    pub fn barrier(&self) -> Result<(), Refusal> {
        let _running = self.enter()?;
        // SAFETY: MPI runs.
        unsafe { candle_course_mpi_barrier() };
        Ok(())
    }

    /// Ends all processes, this one too, with this status; returns only where MPI has ended.
    ///
    /// It does not wait for a call of another thread: that may wait for a process that will not come.
    pub fn abort(&self, status: i32) {
        // A lock that is held is held by a call, so MPI runs.
        let running = match self.ended.try_lock() {
            Ok(ended) => !*ended,
            Err(std::sync::TryLockError::Poisoned(ended)) => !*ended.into_inner(),
            Err(std::sync::TryLockError::WouldBlock) => true,
        };
        if running {
            // SAFETY: MPI runs, and ends with this.
            unsafe { candle_course_mpi_abort(status) };
        }
    }

    /// Ends MPI, after the calls of other threads; waits for all processes to come to their end. Then no call is made
    /// any more.
    pub fn end(&self) {
        if let Ok(mut ended) = self.enter() {
            // SAFETY: MPI runs, and no other thread calls it.
            unsafe { candle_course_mpi_end() };
            *ended = true;
        }
    }
}
