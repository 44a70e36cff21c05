//! The threads behind a loader.
//!
//! One queue of jobs, served by threads that live as long as the loader and its clones. A job
//! always ends by putting a batch or an error into the slot that somebody may wait for, even if
//! its thread dies: nothing hangs.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::data::Batch;
use crate::error::{Context, Error, Result};

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes batch number `n` of an epoch.
pub(crate) type Make = dyn Fn(usize) -> Result<Batch> + Send + Sync;

/// Batches that are being made or wait to be taken.
pub(crate) struct Epoch {
    make: Box<Make>,
    /// Slots of the batches from `first` on, which was the last one taken.
    slots: Mutex<Slots>,
    arrived: Condvar,
    cancelled: AtomicBool,
}

struct Slots {
    first: usize,
    ready: VecDeque<Option<Result<Batch>>>,
    busy: Duration,
}

impl Epoch {
    pub fn new(make: Box<Make>, first: usize) -> Self {
        Self {
            make,
            slots: Mutex::new(Slots { first, ready: VecDeque::new(), busy: Duration::ZERO }),
            arrived: Condvar::new(),
            cancelled: AtomicBool::new(false),
        }
    }

    /// The next batch in order; `None` if it took longer than `timeout`.
    pub fn take(&self, timeout: Option<Duration>) -> Option<Result<Batch>> {
        let start = Instant::now();
        let mut slots = lock(&self.slots);
        loop {
            if let Some(Some(_)) = slots.ready.front() {
                slots.first += 1;
                return slots.ready.pop_front().flatten();
            }
            slots = match timeout {
                None => self.arrived.wait(slots).unwrap_or_else(PoisonError::into_inner),
                Some(timeout) => {
                    let left = timeout.checked_sub(start.elapsed())?;
                    self.arrived.wait_timeout(slots, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// How long the workers have worked on this epoch, all together.
    pub fn busy(&self) -> Duration {
        lock(&self.slots).busy
    }

    fn put(&self, number: usize, batch: Result<Batch>, took: Duration) {
        let mut slots = lock(&self.slots);
        slots.busy += took;
        let at = number - slots.first;
        if let Some(slot) = slots.ready.get_mut(at) {
            *slot = Some(batch);
        }
        drop(slots);
        self.arrived.notify_all();
    }
}

struct Job {
    epoch: Arc<Epoch>,
    number: usize,
    done: bool,
}

impl Job {
    fn run(mut self) {
        if self.epoch.cancelled.load(Ordering::Relaxed) {
            self.done = true;
            return;
        }
        let start = Instant::now();
        let batch = (self.epoch.make)(self.number);
        self.done = true;
        self.epoch.put(self.number, batch, start.elapsed());
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if !self.done {
            self.epoch.put(self.number, Err(Error::data("a loader worker ended without a batch")), Duration::ZERO);
        }
    }
}

struct Queue {
    jobs: Mutex<(VecDeque<Job>, bool)>,
    work: Condvar,
}

/// Threads that make batches; they end when this is dropped.
pub(crate) struct Workers {
    queue: Arc<Queue>,
    count: usize,
}

impl Workers {
    pub fn start(count: usize) -> Result<Self> {
        let queue = Arc::new(Queue { jobs: Mutex::new((VecDeque::new(), false)), work: Condvar::new() });
        let workers = Self { queue, count };
        for number in 0..count {
            let queue = Arc::clone(&workers.queue);
            thread::Builder::new()
                .name(format!("loader-{number}"))
                .spawn(move || {
                    while let Some(job) = queue.next() {
                        job.run();
                    }
                })
                .with_context(|| format!("cannot start loader worker {} of {count}", number + 1))?;
        }
        Ok(workers)
    }

    pub fn count(&self) -> usize {
        self.count
    }

    /// Queues batch `number`, the one after the last submitted, of `epoch`.
    pub fn submit(&self, epoch: &Arc<Epoch>, number: usize) {
        lock(&epoch.slots).ready.push_back(None);
        lock(&self.queue.jobs).0.push_back(Job { epoch: Arc::clone(epoch), number, done: false });
        self.queue.work.notify_one();
    }

    /// Takes the jobs of `epoch` off the queue; what is being made is finished and dropped.
    pub fn cancel(&self, epoch: &Arc<Epoch>) {
        epoch.cancelled.store(true, Ordering::Relaxed);
        let mut jobs = lock(&self.queue.jobs);
        let (gone, kept) = jobs.0.drain(..).partition(|job| Arc::ptr_eq(&job.epoch, epoch));
        jobs.0 = kept;
        drop(jobs);
        // Dropped outside the lock: a data set may take its time to go.
        let gone: VecDeque<Job> = gone;
        gone.into_iter().for_each(|mut job| job.done = true);
    }
}

impl Queue {
    /// The next job; `None` when there will be none.
    fn next(&self) -> Option<Job> {
        let mut jobs = lock(&self.jobs);
        loop {
            if let Some(job) = jobs.0.pop_front() {
                return Some(job);
            }
            if jobs.1 {
                return None;
            }
            jobs = self.work.wait(jobs).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        lock(&self.queue.jobs).1 = true;
        self.queue.work.notify_all();
    }
}
