//! Ranks that are threads of one process.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::distributed::Communicator;
use crate::distributed::communicator::check_root;
use crate::error::{Error, Result, panicked};

/// One of several threads of this process that train together: for tests, and to try out what will run under MPI.
///
/// The threads share the pool that the crate's kernels compute with, so they are no faster than one thread
/// with the large batch.
///
/// # Examples
///
/// ```
/// use candle_course::distributed::{Communicator, LocalCommunicator};
///
/// let sums = LocalCommunicator::run(4, |communicator| {
///     let mut values = [1.0, communicator.rank() as f64];
///     communicator.all_reduce_f64(&mut values)?;
///     Ok(values)
/// })?;
/// assert_eq!(sums, [[4.0, 6.0]; 4]);
/// # Ok::<(), candle_course::Error>(())
/// ```
pub struct LocalCommunicator {
    rank: usize,
    group: Arc<Group>,
}

struct Group {
    state: Mutex<State>,
    changed: Condvar,
}

/// What the ranks bring to one call, and what they find there.
struct State {
    /// How many calls all ranks have made together.
    round: u64,
    /// Of the running call: what it is, and what the rank brought.
    brought: Vec<Option<(String, Part)>>,
    /// What all brought to the last call. It stays until all have come to the next, and so have taken it.
    found: Arc<Vec<Part>>,
    /// Who will not come any more, and why.
    left: Vec<Option<String>>,
    /// Who ended it for all, and why.
    ended: Option<(usize, String)>,
}

enum Part {
    F32(Vec<f32>),
    F64(Vec<f64>),
    Bytes(Vec<u8>),
}

impl LocalCommunicator {
    /// The communicators of a group of `size` threads; each thread takes one.
    ///
    /// # Errors
    /// If `size` is 0.
    pub fn group(size: usize) -> Result<Vec<Self>> {
        if size == 0 {
            return Err(Error::argument("size", "at least 1 rank", 0));
        }
        let state = State {
            round: 0,
            brought: (0..size).map(|_| None).collect(),
            found: Arc::default(),
            left: vec![None; size],
            ended: None,
        };
        let group = Arc::new(Group { state: Mutex::new(state), changed: Condvar::new() });
        Ok((0..size).map(|rank| Self { rank, group: Arc::clone(&group) }).collect())
    }

    /// Does the same work on `size` threads and returns what each of them gives, in the order of the ranks.
    ///
    /// # Errors
    /// If `size` is 0, a thread cannot be started, or a rank fails or panics: the error of the one that failed
    /// first. The others have been told and have ended, too.
    pub fn run<T: Send>(
        size: usize,
        work: impl Fn(Arc<dyn Communicator>) -> Result<T> + Send + Sync,
    ) -> Result<Vec<T>> {
        let ranks = Self::group(size)?;
        let group = Arc::clone(&ranks[0].group);
        let one = |communicator: Self| {
            let communicator: Arc<dyn Communicator> = Arc::new(communicator);
            let result = catch_unwind(AssertUnwindSafe(|| work(Arc::clone(&communicator))));
            let result = result.unwrap_or_else(|panic| Err(Error::training(panicked("it", &*panic))));
            result.inspect_err(|error| communicator.abort(&error.to_string()))
        };
        let results = thread::scope(|scope| -> Result<Vec<Result<T>>> {
            let one = &one;
            let start = |communicator: Self| {
                let name = format!("rank {}", communicator.rank);
                thread::Builder::new().name(name).spawn_scoped(scope, move || one(communicator))
            };
            // A thread that does not start drops its communicator, which lets the others go.
            let threads = ranks.into_iter().map(start).collect::<Vec<_>>();
            let join = |thread: std::io::Result<thread::ScopedJoinHandle<'_, Result<T>>>| {
                Ok(thread?.join().unwrap_or_else(|panic| Err(Error::training(panicked("a rank", &*panic)))))
            };
            threads.into_iter().map(join).collect()
        })?;
        let first = group.state().ended.as_ref().map(|(rank, _)| *rank);
        let mut results = results;
        if let Some(rank) = first.filter(|&rank| results[rank].is_err()) {
            let named = |error: Error| error.context(format!("rank {rank} of {size} failed"));
            return results.swap_remove(rank).map(|_| Vec::new()).map_err(named);
        }
        results.into_iter().collect()
    }

    /// Brings a part to a call, and finds what all brought.
    fn exchange(&self, call: String, part: Part) -> Result<Arc<Vec<Part>>> {
        let mut state = self.group.state();
        let size = state.brought.len();
        let failed = |why: &str| Err(Error::training(format!("rank {} of {size} cannot {call}: {why}", self.rank)));
        if let Some((rank, reason)) = &state.ended {
            return failed(&format!("rank {rank} gave up: {reason}"));
        }
        let round = state.round;
        state.brought[self.rank] = Some((call.clone(), part));
        if state.brought.iter().all(Option::is_some) {
            let all: Vec<(String, Part)> = state.brought.iter_mut().filter_map(Option::take).collect();
            if let Some(other) = all.iter().position(|(other, _)| *other != all[0].0) {
                let reason = format!("its call is `{}`, that of rank 0 `{}`", all[other].0, all[0].0);
                state.ended = Some((other, reason.clone()));
                self.group.changed.notify_all();
                return failed(&format!("rank {other} gave up: {reason}"));
            }
            state.found = Arc::new(all.into_iter().map(|(_, part)| part).collect());
            state.round += 1;
            self.group.changed.notify_all();
        }
        while state.round == round {
            if let Some((rank, reason)) = &state.ended {
                return failed(&format!("rank {rank} gave up: {reason}"));
            }
            let gone = (0..size).find(|&rank| state.brought[rank].is_none() && state.left[rank].is_some());
            if let Some(rank) = gone {
                return failed(&format!("rank {rank} {}", state.left[rank].as_deref().unwrap_or_default()));
            }
            state = self.group.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(Arc::clone(&state.found))
    }
}

impl Group {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sums in the order of the ranks: the same bits on each.
macro_rules! all_reduce {
    ($name:ident, $part:ident, $type:ty) => {
        fn $name(&self, values: &mut [$type]) -> Result<()> {
            let call = format!(concat!("sum {} numbers of ", stringify!($type)), values.len());
            let all = self.exchange(call, Part::$part(values.to_vec()))?;
            for (rank, part) in all.iter().enumerate() {
                let Part::$part(part) = part else { continue };
                match rank {
                    0 => values.copy_from_slice(part),
                    _ => values.iter_mut().zip(part).for_each(|(sum, value)| *sum += value),
                }
            }
            Ok(())
        }
    };
}

impl Communicator for LocalCommunicator {
    fn size(&self) -> usize {
        self.group.state().brought.len()
    }

    fn rank(&self) -> usize {
        self.rank
    }

    all_reduce!(all_reduce_f32, F32, f32);
    all_reduce!(all_reduce_f64, F64, f64);

    fn broadcast(&self, root: usize, bytes: &mut Vec<u8>) -> Result<()> {
        check_root(root, self.size())?;
        let part = if self.rank == root { std::mem::take(bytes) } else { Vec::new() };
        let all = self.exchange(format!("broadcast from rank {root}"), Part::Bytes(part))?;
        if let Part::Bytes(found) = &all[root] {
            bytes.clone_from(found);
        }
        Ok(())
    }

    fn all_gather(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        let all = self.exchange("gather".to_owned(), Part::Bytes(bytes.to_vec()))?;
        let bytes = |part: &Part| if let Part::Bytes(bytes) = part { bytes.clone() } else { Vec::new() };
        Ok(all.iter().map(bytes).collect())
    }

    fn barrier(&self) -> Result<()> {
        self.exchange("wait for all".to_owned(), Part::Bytes(Vec::new())).map(drop)
    }

    fn abort(&self, reason: &str) {
        let mut state = self.group.state();
        state.ended.get_or_insert_with(|| (self.rank, reason.to_owned()));
        self.group.changed.notify_all();
    }
}

impl Drop for LocalCommunicator {
    fn drop(&mut self) {
        let why = if thread::panicking() { "panicked" } else { "has left: it makes no more calls" };
        self.group.state().left[self.rank] = Some(why.to_owned());
        self.group.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(size: usize, work: impl Fn(&dyn Communicator) -> Result<()> + Send + Sync) -> Vec<Option<String>> {
        let told = |communicator: Arc<dyn Communicator>| Ok(work(&*communicator).err().map(|error| error.to_string()));
        LocalCommunicator::run(size, told).unwrap()
    }

    #[test]
    fn what_is_reduced_has_the_same_bits_and_the_order_of_the_ranks() {
        for size in [1, 2, 4, 7] {
            let values =
                |rank: usize| -> Vec<f32> { (0..1000).map(|i| 0.1 / (1 + i * 7 + rank * 13) as f32).collect() };
            let sums = LocalCommunicator::run(size, |communicator| {
                let mut sum = values(communicator.rank());
                for _ in 0..50 {
                    sum = values(communicator.rank());
                    communicator.all_reduce_f32(&mut sum)?;
                }
                Ok(sum)
            });
            let expected = (1..size).map(values).fold(values(0), |mut sum, values| {
                sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
                sum
            });
            assert_eq!(sums.unwrap(), vec![expected; size]);
        }
    }

    #[test]
    fn bytes_of_any_length_come_to_all() {
        let all = LocalCommunicator::run(3, |communicator| {
            let rank = communicator.rank();
            let mut bytes = vec![rank as u8; rank];
            let gathered = communicator.all_gather(&bytes)?;
            communicator.broadcast(2, &mut bytes)?;
            communicator.barrier()?;
            assert!(communicator.broadcast(3, &mut bytes).is_err());
            Ok((gathered, bytes))
        });
        let gathered = vec![vec![], vec![1], vec![2, 2]];
        assert_eq!(all.unwrap(), vec![(gathered, vec![2, 2]); 3]);
    }

    #[test]
    fn ranks_that_call_different_things_are_told_apart() {
        let told = errors(3, |communicator| match communicator.rank() {
            1 => communicator.barrier(),
            _ => communicator.all_reduce_f64(&mut [1.0]),
        });
        for text in told {
            let text = text.unwrap();
            assert!(text.contains("its call is `wait for all`, that of rank 0 `sum 1 numbers of f64`"), "{text}");
        }
        let told = errors(2, |communicator| communicator.all_reduce_f32(&mut vec![0.0; 1 + communicator.rank()]));
        assert!(told[0].as_ref().unwrap().contains("rank 1 gave up: its call is `sum 2 numbers of f32`"), "{told:?}");
        assert!(LocalCommunicator::group(0).is_err());
    }

    #[test]
    fn a_rank_that_gives_up_leaves_or_panics_lets_the_others_go() {
        let told = errors(3, |communicator| match communicator.rank() {
            1 => {
                communicator.abort("the disk is full");
                Ok(())
            }
            _ => (0..100).try_for_each(|_| communicator.barrier()),
        });
        for rank in [0, 2] {
            assert!(told[rank].as_ref().unwrap().contains("rank 1 gave up: the disk is full"), "{told:?}");
        }
        let ranks = LocalCommunicator::group(2).unwrap();
        let texts: Vec<String> = thread::scope(|scope| {
            let [first, second] = <[LocalCommunicator; 2]>::try_from(ranks).ok().unwrap();
            let waiting = scope.spawn(move || first.barrier().unwrap_err().to_string());
            let panicking = scope.spawn(move || {
                let _own = second;
                panic!("nobody home")
            });
            assert!(panicking.join().is_err());
            vec![waiting.join().unwrap()]
        });
        assert!(texts[0].contains("rank 0 of 2 cannot wait for all: rank 1 panicked"), "{texts:?}");
    }
}
