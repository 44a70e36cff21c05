//! The batches of one epoch.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};

use crate::data::statistics::LoaderStatistics;
use crate::data::transforms::{BatchPosition, Transform, edit_batch, edit_image, edit_targets, leading};
use crate::data::workers::{Epoch, Workers};
use crate::data::{Batch, Dataset};
use crate::error::{Context, Error, ErrorKind, Result, contained};
use crate::kernels::transfer::send;

/// How one batch is made.
pub(super) struct Recipe {
    pub(super) dataset: Arc<dyn Dataset>,
    pub(super) transforms: Vec<Arc<dyn Transform>>,
    pub(super) batch_size: usize,
    pub(super) drop_last: bool,
    pub(super) device: Device,
    pub(super) shard: Shard,
}

/// Which part of every batch this loader makes; the whole, unless there are several ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shard {
    pub(super) rank: usize,
    pub(super) ranks: usize,
}

impl Shard {
    pub(super) const WHOLE: Self = Self { rank: 0, ranks: 1 };
}

impl Recipe {
    /// How many examples all ranks' batches have together.
    fn joint(&self) -> usize {
        self.batch_size.saturating_mul(self.shard.ranks)
    }

    /// How many batches an epoch has for all ranks; one of them may have no example of the last.
    pub(super) fn batches(&self, examples: usize) -> usize {
        if self.drop_last { examples / self.joint() } else { examples.div_ceil(self.joint()) }
    }

    /// How many batches of an epoch have an example for this rank.
    pub(super) fn own_batches(&self, examples: usize) -> usize {
        let batches = self.batches(examples);
        batches - usize::from(batches > 0 && self.range(batches - 1, examples).is_empty())
    }

    /// Where batch `number` lies in an epoch's `indices`. Of what all ranks take together each has a
    /// contiguous part, so that every example keeps its place in the epoch, and with it its augmentation.
    fn range(&self, number: usize, examples: usize) -> std::ops::Range<usize> {
        let Shard { rank, ranks } = self.shard;
        let start = number * self.joint();
        let count = self.joint().min(examples - start.min(examples));
        start + count * rank / ranks..start + count * (rank + 1) / ranks
    }

    /// The tensor on the device.
    fn sent(&self, tensor: &Tensor, ahead: bool) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        if let (true, Device::Cuda(device)) = (ahead, &self.device) {
            use crate::kernels::cuda::upload;
            if upload::takes(tensor) {
                return Ok(upload::upload(tensor, device)?);
            }
            // A thread may have a stream of its own: the training thread must not read what is still
            // on its way.
            let sent = tensor.to_device(&self.device)?;
            self.device.synchronize()?;
            return Ok(sent);
        }
        let _ = ahead;
        Ok(send(tensor, &self.device)?)
    }

    /// The batch from the data set, and the transforms that it has yet to go through: those that change image
    /// by image do so while the data set makes it, if it can.
    fn fetch(&self, wanted: &[usize], place: &BatchPosition) -> Result<(Batch, &[Arc<dyn Transform>])> {
        let edits = leading(&self.transforms);
        if !edits.is_empty() {
            let edit = |row: usize, image: &mut [f32], size: [usize; 3]| {
                contained(ErrorKind::Data, "a transform", || edit_image(&edits, image, size, place, row))
            };
            if let Some(batch) = self.dataset.edited_batch(wanted, &edit) {
                let batch = batch?;
                check(&batch, wanted.len(), "the data set")?;
                let batch = contained(ErrorKind::Data, "a transform", || edit_targets(&edits, batch, place))?;
                return Ok((batch, &self.transforms[edits.len()..]));
            }
        }
        let batch = self.dataset.batch(wanted)?;
        check(&batch, wanted.len(), "the data set")?;
        Ok((batch, &self.transforms))
    }

    /// `ahead`: in a thread that has time to see the batch arrive on its device.
    pub(super) fn make(&self, epoch: usize, indices: &[usize], number: usize, ahead: bool) -> Result<Batch> {
        let range = self.range(number, indices.len());
        let first = range.start;
        let wanted = &indices[range];
        contained(ErrorKind::Data, "the data set", || {
            let place = BatchPosition { epoch, first };
            let (mut batch, mut transforms) = self.fetch(wanted, &place)?;
            while let Some((transform, rest)) = transforms.split_first() {
                let edits = leading(transforms);
                (batch, transforms) = if edits.is_empty() {
                    (contained(ErrorKind::Data, "a transform", || transform.apply(batch, &place))?, rest)
                } else {
                    let edited = contained(ErrorKind::Data, "a transform", || edit_batch(&edits, batch, &place))?;
                    (edited, &transforms[edits.len()..])
                };
            }
            check(&batch, batch.inputs.dims().first().map_or(1, |&examples| examples.max(1)), "a transform")?;
            if !self.device.is_cpu() {
                batch.inputs = self.sent(&batch.inputs, ahead)?;
                batch.targets = self.sent(&batch.targets, ahead)?;
            }
            Ok(batch)
        })
        .with_context(|| format!("batch {number} of epoch {epoch}, {}, cannot be made", name_examples(wanted)))
    }
}

/// Inputs, targets and indices have to be of as many examples: what counts them would otherwise count wrong.
fn check(batch: &Batch, examples: usize, who: &str) -> Result<()> {
    for (name, tensor) in [("inputs", &batch.inputs), ("targets", &batch.targets)] {
        if tensor.dims().first() != Some(&examples) {
            return Err(Error::data(format!("{who} gave {name} of shape {:?} for {examples} examples", tensor.dims()))
                .hint("the first dimension counts the examples"));
        }
    }
    if batch.indices.len() != examples {
        return Err(Error::data(format!("{who} gave {} indices for {examples} examples", batch.indices.len()))
            .hint("`Batch::indices` says which examples the batch holds"));
    }
    Ok(())
}

/// `example 3` or `examples 3, 4, 5, … (64 of them)`.
fn name_examples(indices: &[usize]) -> String {
    let named: Vec<String> = indices.iter().take(5).map(usize::to_string).collect();
    let named = named.join(", ");
    match indices.len() {
        1 => format!("example {named}"),
        2..=5 => format!("examples {named}"),
        n => format!("examples {named}, … ({n} of them)"),
    }
}

/// The batches of one epoch: an owned iterator of known length.
///
/// After an error it ends. Dropping it half-way takes its batches off the workers' list.
pub struct Batches {
    pub(super) recipe: Arc<Recipe>,
    pub(super) epoch: usize,
    pub(super) indices: Arc<Vec<usize>>,
    pub(super) next: usize,
    pub(super) total: usize,
    /// Those that have an example for this rank: all, or all but the last.
    pub(super) own: usize,
    pub(super) stopped: bool,
    pub(super) pending: Option<Pending>,
    pub(super) ahead: usize,
    pub(super) timeout: Option<Duration>,
    pub(super) started: Instant,
    pub(super) statistics: LoaderStatistics,
    pub(super) shared: Arc<Mutex<LoaderStatistics>>,
}

/// What the workers are doing for an iterator.
pub(super) struct Pending {
    pub(super) workers: Arc<Workers>,
    pub(super) epoch: Arc<Epoch>,
    pub(super) submitted: usize,
}

impl std::fmt::Debug for Batches {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batches")
            .field("epoch", &self.epoch)
            .field("position", &self.next)
            .field("total", &self.total)
            .finish()
    }
}

impl Batches {
    /// Which epoch this is.
    pub fn epoch(&self) -> usize {
        self.epoch
    }

    /// The number of the next batch: where [`DataLoader::epoch_from`](crate::data::DataLoader::epoch_from) goes on.
    pub fn position(&self) -> usize {
        self.next
    }

    /// How many batches the epoch has, from its beginning; of a loader's
    /// [`shard`](crate::data::DataLoader::shard) the last may have no example for this rank, and does not come.
    pub fn total(&self) -> usize {
        self.total
    }

    /// What the time was spent on so far.
    pub fn statistics(&self) -> LoaderStatistics {
        self.statistics.clone()
    }

    /// Keeps the workers busy, up to the bound of batches in memory.
    pub(super) fn submit(&mut self) {
        if let Some(pending) = &mut self.pending {
            while pending.submitted < self.own && pending.submitted - self.next < self.ahead {
                pending.workers.submit(&pending.epoch, pending.submitted);
                pending.submitted += 1;
            }
        }
    }

    fn fetch(&mut self) -> Result<Batch> {
        let start = Instant::now();
        let Some(pending) = &self.pending else {
            let batch = self.recipe.make(self.epoch, &self.indices, self.next, false);
            self.statistics.waited += start.elapsed();
            self.statistics.busy += start.elapsed();
            return batch;
        };
        let batch = pending.epoch.take(self.timeout).unwrap_or_else(|| {
            let wanted = &self.indices[self.recipe.range(self.next, self.indices.len())];
            Err(Error::data(format!(
                "batch {} of epoch {}, {}, did not come within {:?}",
                self.next,
                self.epoch,
                name_examples(wanted),
                self.timeout.unwrap_or_default()
            )))
        });
        self.statistics.waited += start.elapsed();
        self.statistics.busy = pending.epoch.busy();
        batch
    }

    fn stop(&mut self) {
        self.stopped = true;
        if let Some(pending) = self.pending.take() {
            pending.workers.cancel(&pending.epoch);
        }
    }

    fn publish(&mut self) {
        self.statistics.elapsed = self.started.elapsed();
        *self.shared.lock().unwrap_or_else(PoisonError::into_inner) = self.statistics.clone();
    }
}

impl Iterator for Batches {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.len() == 0 {
            return None;
        }
        let batch = self.fetch();
        match &batch {
            Ok(batch) => {
                self.statistics.batches += 1;
                self.statistics.examples += batch.len();
                self.next += 1;
                self.submit();
            }
            Err(_) => self.stop(),
        }
        self.publish();
        Some(batch)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = if self.stopped { 0 } else { self.own.saturating_sub(self.next) };
        (left, Some(left))
    }
}

impl ExactSizeIterator for Batches {}

impl Drop for Batches {
    fn drop(&mut self) {
        // The last batch is worked on after it was taken: that time counts, too.
        if self.statistics.batches > 0 {
            self.publish();
        }
        self.stop();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;
    use std::thread;

    use candle_core::Tensor;

    use super::*;
    use crate::data::dataset::{EditImage, batch_of_images};
    use crate::data::transforms::PerImage;
    use crate::data::{
        Cifar10, ColorJitter, DataLoader, Example, ImageFolder, Normalize, RandomAffine, RandomCrop, RandomErasing,
        RandomHorizontalFlip, RandomQuarterTurn, RandomVerticalFlip, Subset,
    };

    /// Runs `body` and fails instead of hanging.
    fn within(patience: Duration, body: impl FnOnce() + Send + 'static) {
        let (sender, receiver) = mpsc::channel();
        let body = thread::spawn(move || {
            body();
            let _ = sender.send(());
        });
        match receiver.recv_timeout(patience) {
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("still running after {patience:?}"),
            _ => body.join().unwrap(),
        }
    }

    /// Counts what is being made and what exists; fails, panics or sleeps where told.
    #[derive(Default)]
    struct Odd {
        length: usize,
        fails_at: Option<usize>,
        panics_at: Option<usize>,
        panics_in_batch: bool,
        wrong_size: bool,
        sleep: Duration,
        fetched: Arc<AtomicUsize>,
    }

    impl Dataset for Odd {
        fn len(&self) -> usize {
            self.length
        }

        fn get(&self, index: usize) -> Result<Example> {
            self.fetched.fetch_add(1, Ordering::SeqCst);
            thread::sleep(self.sleep);
            if self.panics_at == Some(index) {
                panic!("nobody home");
            }
            if self.fails_at == Some(index) {
                return Err(Error::data("the file is gone"));
            }
            Ok(Example { input: Tensor::new(index as f32, &Device::Cpu)?, target: Tensor::new(0u32, &Device::Cpu)? })
        }

        fn batch(&self, indices: &[usize]) -> Result<Batch> {
            if self.panics_in_batch {
                panic!("nobody gathers");
            }
            let examples: Vec<Example> = indices
                .iter()
                .map(|&index| {
                    contained(ErrorKind::Data, "the data set", || self.get(index))
                        .with_context(|| format!("example {index} cannot be read"))
                })
                .collect::<Result<_>>()?;
            let rows = if self.wrong_size { 1 } else { examples.len() };
            let inputs: Vec<_> = examples.iter().take(rows).map(|example| &example.input).collect();
            let targets: Vec<_> = examples.iter().map(|example| &example.target).collect();
            Ok(Batch {
                inputs: Tensor::stack(&inputs, 0)?,
                targets: Tensor::stack(&targets, 0)?,
                indices: indices.to_vec(),
            })
        }
    }

    #[test]
    fn batches_are_the_same_bits_whatever_the_workers() {
        let images = Cifar10::builder().sample().quiet().limit(250, 10).load().unwrap().train();
        let run = |workers: usize, prefetch: usize, from: usize| {
            let mut loader = DataLoader::builder(images.clone())
                .batch_size(32)
                .shuffle(3)
                .transform(RandomCrop::new(4, 1))
                .transform(RandomHorizontalFlip::new(2))
                .transform(RandomErasing::new(3))
                .workers(workers);
            if workers > 0 {
                loader = loader.prefetch(prefetch);
            }
            let loader = loader.build().unwrap();
            let mut all = Vec::new();
            for epoch in [4, 5] {
                for batch in loader.epoch_from(epoch, from).unwrap() {
                    let batch = batch.unwrap();
                    let bits: Vec<u32> = batch
                        .inputs
                        .flatten_all()
                        .unwrap()
                        .to_vec1::<f32>()
                        .unwrap()
                        .iter()
                        .map(|x| x.to_bits())
                        .collect();
                    all.push((batch.indices, batch.targets.to_vec1::<u32>().unwrap(), bits));
                }
            }
            all
        };
        let expected = run(0, 0, 0);
        assert_eq!(expected.len(), 16);
        for (workers, prefetch) in [(1, 0), (2, 2), (7, 1)] {
            assert!(run(workers, prefetch, 0) == expected, "{workers} workers");
        }
        let resumed = run(2, 2, 3);
        assert!(resumed[..5] == expected[3..8] && resumed[5..] == expected[11..]);
    }

    /// Images with masks, read one by one into their batch.
    struct Masked;

    impl Dataset for Masked {
        fn len(&self) -> usize {
            40
        }

        fn get(&self, index: usize) -> Result<Example> {
            let value = |at: usize| (index * 31 + at * 7) % 251;
            let input: Vec<f32> = (0..3 * 64).map(|at| value(at) as f32 / 251.0).collect();
            let mask: Vec<u32> = (0..64).map(|at| value(at) as u32).collect();
            Ok(Example {
                input: Tensor::from_vec(input, (3, 8, 8), &Device::Cpu)?,
                target: Tensor::from_vec(mask, (8, 8), &Device::Cpu)?,
            })
        }

        fn edited_batch(&self, indices: &[usize], edit: &EditImage<'_>) -> Option<Result<Batch>> {
            let read = |index: usize, values: &mut Vec<f32>| {
                let Example { input, target } = self.get(index)?;
                values.extend(input.flatten_all()?.to_vec1::<f32>()?);
                Ok(([3, 8, 8], target))
            };
            Some(batch_of_images(indices, read, edit))
        }
    }

    /// Whole batches only.
    struct Darker;

    impl Transform for Darker {
        fn apply(&self, batch: Batch, _: &BatchPosition) -> Result<Batch> {
            Ok(Batch { inputs: (batch.inputs * 0.5)?, ..batch })
        }
    }

    #[test]
    fn transforms_on_the_way_change_what_they_change_one_after_the_other() {
        let cifar = Cifar10::builder().sample().quiet().limit(40, 10).load().unwrap().train().unnormalized();
        let folder = tempfile::tempdir().unwrap();
        for index in 0..40 {
            let class = folder.path().join(["a", "b"][index % 2]);
            std::fs::create_dir_all(&class).unwrap();
            let bytes = cifar.bytes(index).unwrap();
            let image = image::RgbImage::from_fn(32, 32, |x, y| {
                image::Rgb([0, 1, 2].map(|channel| bytes[(channel * 1024 + y * 32 + x) as usize]))
            });
            image.save(class.join(format!("{index}.png"))).unwrap();
        }
        let sets: [Arc<dyn Dataset>; 4] = [
            Arc::new(cifar.clone()),
            Arc::new(ImageFolder::new(folder.path()).unwrap()),
            Arc::new(Subset::new(cifar, &(0..40).rev().collect::<Vec<_>>()).unwrap()),
            Arc::new(Masked),
        ];
        let transforms = || -> Vec<Arc<dyn Transform>> {
            vec![
                Arc::new(RandomCrop::builder(2, 1).fill(0.25).outside(9).build()),
                Arc::new(RandomHorizontalFlip::new(2)),
                Arc::new(RandomVerticalFlip::new(3)),
                Arc::new(RandomQuarterTurn::new(4)),
                Arc::new(Darker),
                Arc::new(ColorJitter::builder(5).brightness(0.3).contrast(0.2).saturation(0.1).build().unwrap()),
                Arc::new(RandomAffine::builder(6).degrees(20.0).outside(3).build().unwrap()),
                Arc::new(Darker),
                Arc::new(RandomErasing::new(7)),
                Arc::new(Normalize::new(&[0.1, 0.2, 0.3], &[0.5, 0.6, 0.7]).unwrap()),
            ]
        };
        let bits = |tensor: &Tensor| -> Vec<u32> {
            let values = tensor.flatten_all().unwrap().to_dtype(candle_core::DType::F32).unwrap();
            values.to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
        };
        for (at, dataset) in sets.into_iter().enumerate() {
            for skipped in 0..3 {
                let recipe = Recipe {
                    dataset: Arc::clone(&dataset),
                    transforms: transforms().split_off(skipped * 4),
                    batch_size: 16,
                    drop_last: false,
                    device: Device::Cpu,
                    shard: Shard::WHOLE,
                };
                let indices: Vec<usize> = (0..40).map(|index| index * 7 % 40).collect();
                let got = recipe.make(3, &indices, 1, false).unwrap();
                let position = BatchPosition { epoch: 3, first: 16 };
                let mut expected = dataset.batch(&indices[16..32]).unwrap();
                for transform in &recipe.transforms {
                    expected = transform.apply(expected, &position).unwrap();
                }
                assert!(bits(&got.inputs) == bits(&expected.inputs), "inputs of set {at} without {skipped}");
                assert!(bits(&got.targets) == bits(&expected.targets), "targets of set {at} without {skipped}");
                assert_eq!((got.inputs.dims(), got.targets.dims()), (expected.inputs.dims(), expected.targets.dims()));
                assert_eq!(got.indices, expected.indices);
            }
        }
    }

    #[test]
    fn errors_of_transforms_on_the_way_are_not_the_data_sets() {
        struct Breaks;
        impl PerImage for Breaks {
            fn name(&self) -> &'static str {
                "breaking"
            }
            fn edit(&self, _: &mut [f32], _: [usize; 3], _: &BatchPosition, row: usize) -> Result<()> {
                assert_ne!(row, 2, "no third");
                Ok(())
            }
        }
        impl Transform for Breaks {
            fn apply(&self, batch: Batch, position: &BatchPosition) -> Result<Batch> {
                edit_batch(&[self], batch, position)
            }
            fn per_image(&self) -> Option<&dyn PerImage> {
                Some(self)
            }
        }
        fn text(transform: impl Transform + 'static) -> String {
            let loader = DataLoader::builder(Masked).batch_size(4).transform(transform).build().unwrap();
            loader.epoch(0).unwrap().next().unwrap().unwrap_err().to_string()
        }
        let error = text(Breaks);
        assert!(
            error.contains("cannot be made\n  caused by: a transform panicked") && error.contains("no third"),
            "{error}"
        );
        let error = text(Normalize::new(&[0.0], &[1.0]).unwrap());
        assert!(
            error.ends_with("cannot be made\n  caused by: `inputs`: expected 1 channels, as the statistics, got 3"),
            "{error}"
        );
    }

    #[test]
    fn errors_and_panics_name_the_example_and_end_the_epoch() {
        within(Duration::from_secs(20), || {
            for workers in [0, 1, 3] {
                let run = |dataset: Odd| {
                    let loader = DataLoader::builder(dataset).batch_size(4).workers(workers).build().unwrap();
                    let mut batches = loader.epoch(2).unwrap();
                    let good = batches.by_ref().take_while(|batch| batch.is_ok()).count();
                    assert!(batches.next().is_none(), "an epoch ends with its first error");
                    // The loader is as good as before.
                    let again = loader.epoch(2).unwrap().filter_map(|batch| batch.err()).next().unwrap();
                    (good, again.to_string())
                };
                let (good, error) = run(Odd { length: 20, fails_at: Some(9), ..Odd::default() });
                assert_eq!(good, 2);
                assert_eq!(
                    error,
                    "batch 2 of epoch 2, examples 8, 9, 10, 11, cannot be made\n  caused by: example 9 cannot be read\n  caused by: the file is gone"
                );
                let (good, error) = run(Odd { length: 20, panics_at: Some(13), ..Odd::default() });
                assert_eq!(good, 3);
                assert!(
                    error.contains("example 13 cannot be read\n  caused by: the data set panicked: nobody home"),
                    "{error}"
                );
                let (_, error) = run(Odd { length: 20, panics_in_batch: true, ..Odd::default() });
                assert!(error.starts_with("batch 0 of epoch 2, examples 0, 1, 2, 3, cannot be made"), "{error}");
                assert!(error.contains("panicked: nobody gathers"), "{error}");
                let (_, error) = run(Odd { length: 20, wrong_size: true, ..Odd::default() });
                assert!(error.contains("gave inputs of shape [1] for 4 examples"), "{error}");
            }
        });
    }

    #[test]
    fn memory_is_bounded_by_prefetch_and_workers() {
        within(Duration::from_secs(20), || {
            let fetched = Arc::new(AtomicUsize::new(0));
            let dataset = Odd { length: 100, fetched: Arc::clone(&fetched), ..Odd::default() };
            let loader = DataLoader::builder(dataset).workers(2).prefetch(3).build().unwrap();
            let mut batches = loader.epoch(0).unwrap();
            for taken in 1..=10 {
                batches.next().unwrap().unwrap();
                // Give the workers every chance to run ahead.
                thread::sleep(Duration::from_millis(5));
                let made = fetched.load(Ordering::SeqCst);
                assert!(made <= taken + 2 + 3, "{made} batches made when {taken} were taken");
            }
        });
    }

    #[test]
    fn dropping_an_iterator_stops_its_work_and_dropping_the_loader_its_threads() {
        within(Duration::from_secs(20), || {
            let fetched = Arc::new(AtomicUsize::new(0));
            let dataset =
                Odd { length: 1000, fetched: Arc::clone(&fetched), sleep: Duration::from_millis(1), ..Odd::default() };
            let loader = DataLoader::builder(dataset).batch_size(2).workers(2).prefetch(8).build().unwrap();
            let mut batches = loader.epoch(0).unwrap();
            batches.next().unwrap().unwrap();
            drop(batches);
            let before = fetched.load(Ordering::SeqCst);
            // What was being made is finished; what was queued is not begun.
            assert!(before <= 2 * (1 + 2 + 8), "{before}");
            let dataset = Arc::downgrade(loader.dataset());
            drop(loader);
            while dataset.strong_count() > 0 {
                thread::sleep(Duration::from_millis(1));
            }
            assert!(fetched.load(Ordering::SeqCst) <= before + 2 * 2);
        });
    }

    #[test]
    fn two_epochs_of_one_loader_run_side_by_side() {
        within(Duration::from_secs(20), || {
            let loader =
                DataLoader::builder(Odd { length: 30, ..Odd::default() }).batch_size(4).workers(2).build().unwrap();
            let copy = loader.clone();
            let pairs = loader.epoch(0).unwrap().zip(copy.epoch(1).unwrap());
            assert!(pairs.map(|(a, b)| (a.unwrap().indices, b.unwrap().indices)).all(|(a, b)| a == b));
            // An abandoned one does not disturb the next.
            let abandoned = loader.epoch(2).unwrap();
            assert_eq!(loader.epoch(3).unwrap().count(), 8);
            drop(abandoned);
        });
    }

    #[test]
    fn a_batch_that_takes_too_long_is_an_error() {
        within(Duration::from_secs(20), || {
            let dataset = Odd { length: 4, sleep: Duration::from_millis(300), ..Odd::default() };
            let timeout = Duration::from_millis(20);
            let loader = DataLoader::builder(dataset).workers(1).timeout(timeout).build().unwrap();
            let error = loader.epoch(0).unwrap().next().unwrap().unwrap_err().to_string();
            assert_eq!(error, "batch 0 of epoch 0, example 0, did not come within 20ms");
        });
    }
}
