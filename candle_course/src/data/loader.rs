//! From a data set to batches.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use candle_core::Device;

use crate::data::batches::{Batches, Pending, Recipe, Shard};
use crate::data::statistics::LoaderStatistics;
use crate::data::transforms::Transform;
use crate::data::workers::{Epoch, Workers};
use crate::data::{Dataset, RandomSampler, Sampler, SequentialSampler};
use crate::error::{Context, Error, ErrorKind, Result, contained};
use crate::setters::setters;

/// Batches of a data set: in which order, how many at a time, made by whom and where to.
///
/// **Workers** are threads. They share the data set, so an example is neither copied nor
/// serialised on its way, and they live as long as the loader and its clones, over all epochs
/// (PyTorch's `persistent_workers`, always). Without workers a batch is made when it is asked for,
/// in the thread that asks.
///
/// **Order and content** of batches depend on the sampler and the transforms alone, never on the
/// number of workers.
///
/// **Memory**: never more than `prefetch + workers` batches exist beside the one that was taken.
/// Most allocators give the memory of a large batch (64 images of 256 × 256 are 50 MB) back to the
/// system, which clears it again for the next one: a sixth of the time of reading JPEG files of that
/// size, measured. A program that reads such batches does well to choose an allocator which keeps it,
/// mimalloc with `MIMALLOC_PURGE_DELAY=-1` in the environment for example.
///
/// **Device**: a worker also copies its batch to the device, ahead of use. To a CUDA device the copy
/// goes from page-locked (pinned) memory in a stream of the worker's own, so that it travels while
/// the device computes (PyTorch's `pin_memory` and `non_blocking`). Without workers the thread that asks
/// copies, from ordinary memory. On the CPU there is nothing to copy.
///
/// # Examples
///
/// ```
/// use candle_course::data::{DataLoader, Mnist};
///
/// let mnist = Mnist::builder().sample().load()?;
/// let loader = DataLoader::builder(mnist.train()).batch_size(64).shuffle(42).workers(2).build()?;
/// assert_eq!(loader.len(), 94);
/// let mut examples = 0;
/// for batch in loader.epoch(0)? {
///     examples += batch?.len();
/// }
/// assert_eq!(examples, 6_000);
/// println!("{}", loader.statistics());
/// # Ok::<(), candle_course::error::Error>(())
/// ```
#[derive(Clone)]
pub struct DataLoader {
    recipe: Arc<Recipe>,
    sampler: Arc<dyn Sampler>,
    workers: Option<Arc<Workers>>,
    prefetch: usize,
    timeout: Option<Duration>,
    statistics: Arc<Mutex<LoaderStatistics>>,
}

impl std::fmt::Debug for DataLoader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DataLoader")
            .field("examples", &self.sampler.len())
            .field("batch_size", &self.recipe.batch_size)
            .field("drop_last", &self.recipe.drop_last)
            .field("workers", &self.workers())
            .field("prefetch", &self.prefetch)
            .field("device", &crate::device::name(&self.recipe.device))
            .finish_non_exhaustive()
    }
}

/// Configures a [`DataLoader`].
pub struct DataLoaderBuilder {
    dataset: Arc<dyn Dataset>,
    sampler: Option<Arc<dyn Sampler>>,
    transforms: Vec<Arc<dyn Transform>>,
    batch_size: usize,
    drop_last: bool,
    workers: usize,
    prefetch: Option<usize>,
    timeout: Option<Duration>,
    device: Device,
}

impl DataLoader {
    /// A loader of `dataset`, in order, with batches of 1 on the CPU, without workers, unless told
    /// otherwise.
    pub fn builder(dataset: impl Dataset + 'static) -> DataLoaderBuilder {
        DataLoaderBuilder {
            dataset: Arc::new(dataset),
            sampler: None,
            transforms: Vec::new(),
            batch_size: 1,
            drop_last: false,
            workers: 0,
            prefetch: None,
            timeout: None,
            device: Device::Cpu,
        }
    }

    /// How many batches an epoch has; the same on every rank.
    pub fn len(&self) -> usize {
        self.recipe.batches(self.sampler.len())
    }

    /// Whether an epoch has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The data set.
    pub fn dataset(&self) -> &Arc<dyn Dataset> {
        &self.recipe.dataset
    }

    /// How many examples an epoch draws, before `drop_last`.
    pub fn examples(&self) -> usize {
        self.sampler.len()
    }

    /// Examples in a full batch.
    pub fn batch_size(&self) -> usize {
        self.recipe.batch_size
    }

    /// How many worker threads there are.
    pub fn workers(&self) -> usize {
        self.workers.as_ref().map_or(0, |workers| workers.count())
    }

    /// The batches of one epoch. Workers begin at once.
    ///
    /// # Errors
    /// If the sampler fails or draws an index that the data set does not have.
    pub fn epoch(&self, epoch: usize) -> Result<Batches> {
        self.epoch_from(epoch, 0)
    }

    /// The batches of one epoch from number `batch` on: what an interrupted epoch had left, bit for
    /// bit.
    ///
    /// # Errors
    /// As [`DataLoader::epoch`], and if the epoch has fewer batches.
    pub fn epoch_from(&self, epoch: usize, batch: usize) -> Result<Batches> {
        let drawn = contained(ErrorKind::Data, "it", || Ok((self.sampler.indices(epoch)?, self.sampler.len())));
        let (indices, length) = drawn.with_context(|| format!("the sampler failed in epoch {epoch}"))?;
        if indices.len() != length {
            return Err(Error::argument(
                "sampler",
                format!("{length} indices in every epoch, as its `len` says"),
                format!("{} in epoch {epoch}", indices.len()),
            )
            .hint("`len` and `indices` have to agree, or no epoch knows its end"));
        }
        let examples = self.recipe.dataset.len();
        if let Some(&index) = indices.iter().find(|&&index| index >= examples) {
            return Err(Error::argument("sampler", format!("indices below {examples}, the data set's size"), index)
                .hint("was the sampler made for another data set?"));
        }
        let (total, own) = (self.recipe.batches(indices.len()), self.recipe.own_batches(indices.len()));
        if batch > total {
            return Err(Error::argument("batch", format!("at most {total}, the batches of an epoch"), batch));
        }
        let indices = Arc::new(indices);
        let pending = self.workers.as_ref().map(|workers| {
            let (recipe, indices) = (Arc::clone(&self.recipe), Arc::clone(&indices));
            let make = Box::new(move |number| recipe.make(epoch, &indices, number, true));
            Pending { workers: Arc::clone(workers), epoch: Arc::new(Epoch::new(make, batch)), submitted: batch }
        });
        let mut batches = Batches {
            recipe: Arc::clone(&self.recipe),
            epoch,
            indices,
            next: batch,
            total,
            own,
            stopped: false,
            pending,
            ahead: self.prefetch.saturating_add(self.workers()),
            timeout: self.timeout,
            started: Instant::now(),
            statistics: LoaderStatistics { workers: self.workers(), ..LoaderStatistics::default() },
            shared: Arc::clone(&self.statistics),
        };
        batches.submit();
        Ok(batches)
    }

    /// Which examples an epoch can have; see [`Dataset::origin`].
    ///
    /// # Errors
    /// If the sampler fails.
    pub fn origins(&self) -> Result<Vec<(usize, usize)>> {
        let dataset = self.dataset();
        let unknown = Arc::as_ptr(dataset).cast::<()>() as usize;
        let indices = contained(ErrorKind::Data, "the sampler", || self.sampler.possible())?;
        Ok(indices.into_iter().map(|index| dataset.origin(index).unwrap_or((unknown, index))).collect())
    }

    /// The part of every batch that `rank` of `ranks` processes takes; the workers are shared with this
    /// loader.
    ///
    /// The order of an epoch stays what it is, and with the transforms' draws; `ranks` batches of this loader
    /// that follow each other are one batch of all ranks, of which each takes `batch_size` examples. So `ranks`
    /// ranks with batches of B see what one process sees with batches of `ranks`·B, whatever the sampler: no
    /// example twice, none lost, and nothing to tell the sampler at an epoch's beginning. An epoch's last batch
    /// is shared as evenly as it goes; a rank for which nothing is left has one batch less, though
    /// [`DataLoader::len`] is the same for all. As in a loader of one process, batch norm and transforms of whole
    /// batches ([`MixUp`](crate::data::MixUp)) see one rank's part.
    ///
    /// PyTorch's `DistributedSampler` repeats examples to make the ranks even.
    ///
    /// # Errors
    /// If `rank` is not below `ranks`, the loader is a part already, an epoch has fewer examples than ranks, or its
    /// sampler was made for ranks and batches that these do not fit.
    ///
    /// # Examples
    ///
    /// ```
    /// use candle_course::prelude::*;
    ///
    /// let numbers = Tensor::arange(0u32, 11, &Device::Cpu)?;
    /// let loader = DataLoader::builder(TensorDataset::new(numbers.clone(), numbers)?).batch_size(4).build()?;
    /// let indices = |rank: usize| -> Result<Vec<Vec<usize>>> {
    ///     loader.shard(rank, 2)?.epoch(0)?.map(|batch| Ok(batch?.indices)).collect()
    /// };
    /// assert_eq!(indices(0)?, [vec![0, 1, 2, 3], vec![8]]);
    /// assert_eq!(indices(1)?, [vec![4, 5, 6, 7], vec![9, 10]]);
    /// # Ok::<(), Error>(())
    /// ```
    pub fn shard(&self, rank: usize, ranks: usize) -> Result<Self> {
        if rank >= ranks {
            return Err(Error::argument("rank", format!("a number below {ranks}, the ranks"), rank)
                .hint("ranks are counted from 0"));
        }
        if self.recipe.shard != Shard::WHOLE {
            return Err(Error::argument("loader", "one that takes whole batches", format!("{:?}", self.recipe.shard)));
        }
        let examples = self.sampler.len();
        if examples < ranks {
            return Err(Error::argument("ranks", format!("at most {examples}, the examples of an epoch"), ranks));
        }
        let Recipe { dataset, transforms, batch_size, drop_last, device, .. } = &*self.recipe;
        if let Some((parts, examples)) = self.sampler.parts()
            && !(parts.is_multiple_of(ranks) && parts * examples == ranks * batch_size)
        {
            return Err(Error::argument(
                "ranks",
                format!("as many as the sampler was made for, {parts} with batches of {examples}"),
                format!("{ranks} with batches of {batch_size}"),
            )
            .hint(
                "half the ranks may take batches of twice the size; to others every rank would read other ranks' files",
            ));
        }
        let recipe = Recipe {
            dataset: Arc::clone(dataset),
            transforms: transforms.clone(),
            batch_size: *batch_size,
            drop_last: *drop_last,
            device: device.clone(),
            shard: Shard { rank, ranks },
        };
        Ok(Self { recipe: Arc::new(recipe), statistics: Arc::default(), ..self.clone() })
    }

    /// Which rank's part of how many this is; `(0, 1)` if it takes whole batches.
    pub fn sharded(&self) -> (usize, usize) {
        (self.recipe.shard.rank, self.recipe.shard.ranks)
    }

    /// What the epoch that was iterated last spent its time on.
    pub fn statistics(&self) -> LoaderStatistics {
        self.statistics.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl DataLoaderBuilder {
    /// Examples in a batch.
    pub fn batch_size(mut self, batch_size: usize) -> Self {
        self.batch_size = batch_size;
        self
    }

    /// A fresh permutation in every epoch, from `seed`. Replaces an earlier sampler.
    pub fn shuffle(mut self, seed: u64) -> Self {
        self.sampler = Some(Arc::new(RandomSampler::new(self.dataset.len(), seed)));
        self
    }

    /// Another order. Replaces an earlier one.
    pub fn sampler(mut self, sampler: impl Sampler + 'static) -> Self {
        self.sampler = Some(Arc::new(sampler));
        self
    }

    /// Changes every batch on its way, after earlier transforms, in the workers.
    pub fn transform(mut self, transform: impl Transform + 'static) -> Self {
        self.transforms.push(Arc::new(transform));
        self
    }

    setters! {
        /// Leaves out a last batch that is not full.
        drop_last(drop_last: bool) => drop_last = drop_last;
        /// How many threads make batches ahead of use; 0 makes them in the calling thread.
        workers(workers: usize) => workers = workers;
        /// How many finished batches wait beside those that the workers are making; 2 by default.
        prefetch(prefetch: usize) => prefetch = Some(prefetch);
        /// An error instead of an endless wait if a batch takes longer than this. Needs workers.
        timeout(timeout: Duration) => timeout = Some(timeout);
        /// Where the batches go.
        device(device: &Device) => device = device.clone();
    }

    /// The loader; starts its workers.
    ///
    /// # Errors
    /// If the data set is empty, the batch size is 0 or larger than what an epoch draws,
    /// `prefetch` or `timeout` is set without workers, or a thread cannot be started.
    pub fn build(self) -> Result<DataLoader> {
        const MOST_WORKERS: usize = 1024;
        let examples = contained(ErrorKind::Data, "the data set", || Ok(self.dataset.len()))?;
        if examples == 0 {
            return Err(Error::argument("dataset", "at least one example", 0));
        }
        let sampler = self.sampler.unwrap_or_else(|| Arc::new(SequentialSampler::new(examples)));
        let drawn = contained(ErrorKind::Data, "the sampler", || Ok(sampler.len()))?;
        if drawn == 0 {
            return Err(Error::argument("sampler", "at least one index per epoch", 0));
        }
        if self.batch_size == 0 || self.batch_size > drawn {
            return Err(Error::argument(
                "batch_size",
                format!("1 to {drawn}, the examples of an epoch"),
                self.batch_size,
            ));
        }
        if self.workers > MOST_WORKERS {
            return Err(Error::argument("workers", format!("at most {MOST_WORKERS}"), self.workers)
                .hint("more threads than processors help only if they wait for a disk or a network"));
        }
        if self.workers == 0 && (self.prefetch.is_some_and(|prefetch| prefetch > 0) || self.timeout.is_some()) {
            return Err(Error::argument("workers", "at least 1 with `prefetch` or `timeout`", 0)
                .hint("without workers a batch is made when it is asked for"));
        }
        let workers = if self.workers == 0 { None } else { Some(Arc::new(Workers::start(self.workers)?)) };
        Ok(DataLoader {
            recipe: Arc::new(Recipe {
                dataset: self.dataset,
                transforms: self.transforms,
                batch_size: self.batch_size,
                drop_last: self.drop_last,
                device: self.device,
                shard: Shard::WHOLE,
            }),
            sampler,
            workers,
            prefetch: self.prefetch.unwrap_or(2),
            timeout: self.timeout,
            statistics: Arc::default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Tensor};

    use super::*;
    use crate::data::{Batch, TensorDataset};

    fn numbers(n: u32) -> TensorDataset {
        let inputs = Tensor::arange(0u32, n, &Device::Cpu).unwrap();
        TensorDataset::new(inputs.to_dtype(DType::F32).unwrap(), inputs).unwrap()
    }

    fn text(builder: DataLoaderBuilder) -> String {
        builder.build().unwrap_err().to_string()
    }

    #[test]
    fn lengths_follow_the_batch_size() {
        for (drop_last, expected) in [(false, vec![4, 4, 2]), (true, vec![4, 4])] {
            for workers in [0, 2] {
                let loader = DataLoader::builder(numbers(10))
                    .batch_size(4)
                    .drop_last(drop_last)
                    .workers(workers)
                    .build()
                    .unwrap();
                assert_eq!(loader.len(), expected.len());
                let batches = loader.epoch(0).unwrap();
                assert_eq!(batches.len(), expected.len());
                let sizes: Vec<usize> = batches.map(|batch| batch.unwrap().len()).collect();
                assert_eq!(sizes, expected);
            }
        }
        assert_eq!(DataLoader::builder(numbers(3)).build().unwrap().epoch(7).unwrap().count(), 3);
    }

    #[test]
    fn ranks_take_what_one_process_takes_each_example_once_at_its_place() {
        /// Writes into the inputs at which place of the epoch an example came.
        struct Place;
        impl Transform for Place {
            fn apply(&self, batch: Batch, position: &crate::data::BatchPosition) -> Result<Batch> {
                let places: Vec<f32> = (0..batch.len()).map(|row| (position.first + row) as f32).collect();
                Ok(Batch { inputs: Tensor::new(places, &Device::Cpu)?, ..batch })
            }
        }
        for (examples, batch_size, ranks) in [(24, 2, 4), (23, 2, 4), (17, 2, 4), (9, 1, 4), (4, 3, 4), (50, 7, 3)] {
            for drop_last in [false, true] {
                for workers in [0, 2] {
                    let of = |batch_size: usize| {
                        DataLoader::builder(numbers(examples))
                            .shuffle(7)
                            .transform(Place)
                            .batch_size(batch_size.min(examples as usize))
                            .drop_last(drop_last)
                            .workers(workers)
                            .build()
                            .unwrap()
                    };
                    let read = |batches: Batches| -> Vec<(Vec<usize>, Vec<f32>)> {
                        let read = |batch: Batch| (batch.indices, batch.inputs.to_vec1::<f32>().unwrap());
                        batches.map(|batch| read(batch.unwrap())).collect()
                    };
                    let (one, many) = (of(batch_size * ranks), of(batch_size));
                    let parts: Vec<DataLoader> = (0..ranks).map(|rank| many.shard(rank, ranks).unwrap()).collect();
                    // A data set smaller than a batch of all: one process's batch is cut to it.
                    if drop_last && (examples as usize) < batch_size * ranks {
                        assert!(parts.iter().all(DataLoader::is_empty));
                        continue;
                    }
                    assert!(parts.iter().all(|part| part.len() == one.len()), "{examples} {batch_size} {ranks}");
                    for first in [0, one.len() - 1] {
                        let mut left = vec![(Vec::new(), Vec::new()); one.len() - first];
                        for part in &parts {
                            let batches = part.epoch_from(3, first).unwrap();
                            assert_eq!(batches.total(), one.len());
                            for (i, (indices, places)) in read(batches).into_iter().enumerate() {
                                assert!(!indices.is_empty());
                                left[i].0.extend(indices);
                                left[i].1.extend(places);
                            }
                        }
                        assert_eq!(left, read(one.epoch_from(3, first).unwrap()), "{examples} {batch_size} {ranks}");
                    }
                }
            }
        }
        let loader = DataLoader::builder(numbers(10)).batch_size(4).build().unwrap();
        let text = |rank, ranks| loader.shard(rank, ranks).unwrap_err().to_string();
        assert!(text(2, 2).contains("`rank`: expected a number below 2"), "{}", text(2, 2));
        assert!(text(0, 11).contains("at most 10, the examples of an epoch"), "{}", text(0, 11));
        let part = loader.shard(1, 2).unwrap();
        assert_eq!((part.sharded(), loader.sharded()), ((1, 2), (0, 1)));
        assert!(part.shard(0, 2).unwrap_err().to_string().contains("takes whole batches"));
    }

    #[test]
    fn arguments_that_cannot_work_are_refused() {
        assert!(
            text(DataLoader::builder(numbers(10)).batch_size(0))
                .contains("`batch_size`: expected 1 to 10, the examples of an epoch, got 0")
        );
        assert!(text(DataLoader::builder(numbers(10)).batch_size(11)).contains("expected 1 to 10"));
        assert!(text(DataLoader::builder(numbers(0))).contains("`dataset`: expected at least one example"));
        assert!(text(DataLoader::builder(numbers(1)).prefetch(2)).contains("`workers`: expected at least 1"));
        assert!(text(DataLoader::builder(numbers(1)).workers(2000)).contains("at most 1024"));
        assert!(text(DataLoader::builder(numbers(5)).sampler(SequentialSampler::new(0))).contains("`sampler`"));
        let other = DataLoader::builder(numbers(5)).sampler(SequentialSampler::new(6)).build().unwrap();
        assert!(other.epoch(0).unwrap_err().to_string().contains("indices below 5, the data set's size, got 5"));
        assert!(from_batch(6).unwrap_err().to_string().contains("`batch`: expected at most 5"));
    }

    fn from_batch(batch: usize) -> Result<Batches> {
        DataLoader::builder(numbers(5)).build().unwrap().epoch_from(0, batch)
    }

    #[test]
    fn an_epoch_goes_on_where_it_was_left() {
        for workers in [0, 3] {
            let loader = DataLoader::builder(numbers(23)).batch_size(4).shuffle(9).workers(workers).build().unwrap();
            let indices =
                |batches: Batches| -> Vec<Vec<usize>> { batches.map(|batch| batch.unwrap().indices).collect() };
            let whole = indices(loader.epoch(5).unwrap());
            let mut first = loader.epoch(5).unwrap();
            for expected in &whole[..2] {
                assert_eq!(&first.next().unwrap().unwrap().indices, expected);
            }
            let left = first.position();
            drop(first);
            assert_eq!(indices(loader.epoch_from(5, left).unwrap()), whole[2..]);
            assert!(loader.epoch_from(5, 6).unwrap().next().is_none());
        }
    }

    #[test]
    fn statistics_count_what_was_taken() {
        let loader = DataLoader::builder(numbers(10)).batch_size(4).workers(1).build().unwrap();
        assert_eq!(loader.statistics().batches, 0);
        let batches: Vec<Batch> = loader.epoch(0).unwrap().map(|batch| batch.unwrap()).collect();
        assert_eq!(batches.len(), 3);
        let statistics = loader.statistics();
        assert_eq!((statistics.batches, statistics.examples, statistics.workers), (3, 10, 1));
        assert!(statistics.elapsed >= statistics.waited);
    }
}
