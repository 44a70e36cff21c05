//! What users, other processes and disks do to a training: nothing is lost, hangs or stays changed.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::{ModuleT, Tensor};

use super::trainer_tests::{FailsAt, loaders, mlp, points, trainer};
use super::*;
use crate::checkpoint::{CheckpointFolder, Retention, Snapshot};
use crate::data::{Batch, BatchPosition, DataLoader, Dataset, Example, Sampler, Transform};
use crate::error::{Error, Result};
use crate::losses::CrossEntropy;
use crate::metrics::Accuracy;
use crate::nn::{Parameters, Sequential};
use crate::optimizers::{AdamW, Sgd};
use crate::stateful::Stateful as _;
use crate::test_support::{HARMLESS, WHOLE, mutations, peak_memory, rewrite, tried};
use crate::training::callbacks::{Checkpoints, EarlyStopping};
use crate::training::diagnosis::Probe;

fn checkpoints(folder: &Path) -> Checkpoints {
    Checkpoints::builder(folder).every_steps(2).keep_last(2).build().unwrap()
}

fn saving(seed: u64, epochs: usize, folder: &Path) -> Trainer {
    trainer(seed).0.epochs(epochs).learning_rate(0.1).checkpoints(checkpoints(folder)).quiet().build().unwrap()
}

fn steps(folder: &Path) -> Vec<u64> {
    let folder = CheckpointFolder::open(folder, Retention::new().last(usize::MAX)).unwrap();
    folder.list().unwrap().iter().map(|saved| saved.step).collect()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn going_back_and_on_keeps_both_branches() {
    let (train, validation) = loaders();
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path().join("run");
    let mut first = saving(3, 3, &folder);
    first.fit(&train, Some(&validation)).unwrap();
    let middle = temporary.path().join("middle.safetensors");
    first.snapshot().unwrap().save(&middle).unwrap();
    first.set_epochs(6);
    first.fit(&train, Some(&validation)).unwrap();
    assert_eq!(steps(&folder), [22, 24]);

    // Back to step 12, and on to step 20, in a new trainer as after a restart of the kernel.
    let mut second = saving(4, 5, &folder);
    second.restore(&Snapshot::load(&middle).unwrap()).unwrap();
    let history = second.fit(&train, Some(&validation)).unwrap();
    let aside = folder.join("after-step-12");
    let note = &history.notes()[0];
    assert!(note.contains("goes on from step 12") && note.contains(aside.to_str().unwrap()), "{note}");
    assert_eq!((steps(&folder), steps(&aside)), (vec![18, 20], vec![22, 24]));
    let mut resumed = saving(4, 5, &folder);
    assert!(resumed.resume(&folder).unwrap());
    assert_eq!(resumed.state().step, 20);
    assert!(resumed.resume(&aside).unwrap());
    assert_eq!(resumed.state().step, 24);

    // The same once more within one trainer: the second branch has a folder of its own, too.
    second.restore(&Snapshot::load(&middle).unwrap()).unwrap();
    second.set_epochs(4);
    second.fit(&train, Some(&validation)).unwrap();
    assert_eq!((steps(&folder), steps(&folder.join("after-step-12-2"))), (vec![14, 16], vec![18, 20]));
    // Going straight on announces nothing.
    let notes = second.history().notes().len();
    second.set_epochs(5);
    second.fit(&train, Some(&validation)).unwrap();
    assert_eq!(second.history().notes().len(), notes);
}

#[test]
fn the_retention_of_a_branch_leaves_later_steps_alone() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = CheckpointFolder::open(temporary.path(), Retention::new().last(2)).unwrap();
    let save = |step: u64| folder.save(step, None, &Snapshot::new().number("step", step as f64)).unwrap();
    [22, 24, 14, 16, 18].map(save).iter().for_each(|path| assert!(path.starts_with(temporary.path())));
    assert_eq!(steps(temporary.path()), [16, 18, 22, 24]);
    let aside = folder.set_aside_after(18).unwrap().unwrap();
    assert_eq!(folder.latest().unwrap().unwrap().step, 18);
    assert_eq!(aside.latest().unwrap().unwrap().step, 24);
    assert!(folder.set_aside_after(18).unwrap().is_none());
}

#[test]
fn a_folder_of_another_training_is_left_as_it_was() {
    let (train, validation) = loaders();
    let temporary = tempfile::tempdir().unwrap();
    let (ours, theirs) = (temporary.path().join("ours"), temporary.path().join("theirs"));
    let mut other = saving(8, 2, &theirs);
    other.fit(&train, Some(&validation)).unwrap();
    saving(3, 3, &ours).fit(&train, Some(&validation)).unwrap();
    let before = files(&theirs);
    let mut lost = saving(3, 4, &theirs);
    lost.resume(&ours).unwrap();
    let text = lost.fit(&train, Some(&validation)).unwrap_err().to_string();
    assert!(text.contains("`checkpoints`") && text.contains("one of step 8, which another training made"), "{text}");
    assert_eq!(files(&theirs), before);
}

#[test]
fn two_trainings_never_save_into_one_folder_at_once() {
    let (train, validation) = loaders();
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path().join("run");
    struct Inner(PathBuf, Arc<std::sync::Mutex<String>>);
    impl Callback for Inner {
        fn name(&self) -> &str {
            "another training meanwhile"
        }
        fn epoch_end(&mut self, _: &mut Training) -> Result<Flow> {
            let (train, validation) = loaders();
            let mut other = saving(5, 2, &self.0);
            other.resume(&self.0)?;
            *self.1.lock().unwrap() = other.fit(&train, Some(&validation)).unwrap_err().to_string();
            Ok(Flow::Continue)
        }
    }
    let told = Arc::default();
    let builder = trainer(3).0.epochs(1).learning_rate(0.1).checkpoints(checkpoints(&folder)).quiet();
    let mut outer = builder.callback(Inner(folder.clone(), Arc::clone(&told))).build().unwrap();
    outer.fit(&train, Some(&validation)).unwrap();
    let text = told.lock().unwrap().clone();
    assert!(text.contains("another training saves into the folder"), "{text}");
    assert!(text.contains(&format!("process {}", std::process::id())), "{text}");
    assert_eq!(steps(&folder), [2, 4]);
    // Free again: after the end, and after an end by a panic.
    let mut next = saving(3, 2, &folder);
    next.resume(&folder).unwrap();
    next.fit(&train, Some(&validation)).unwrap();
    assert_eq!(files(&folder).len(), 2, "{:?}", files(&folder));
}

/// A model that panics in its nth pass, of the training or of the evaluation.
struct Panicking {
    inner: Sequential,
    train: bool,
    left: Arc<AtomicUsize>,
}

impl ModuleT for Panicking {
    fn forward_t(&self, xs: &Tensor, train: bool) -> candle_core::Result<Tensor> {
        if train == self.train {
            let left = self.left.fetch_sub(1, Ordering::SeqCst);
            assert!(left != 1, "shapes do not fit");
        }
        self.inner.forward_t(xs, train)
    }
}

fn panicking(train: bool, left: usize) -> (TrainerBuilder, Parameters, Arc<AtomicUsize>) {
    let (inner, parameters) = mlp(3);
    let left = Arc::new(AtomicUsize::new(left));
    let optimizer = Sgd::builder(&parameters).momentum(0.9).build().unwrap();
    let model = Panicking { inner, train, left: Arc::clone(&left) };
    let builder = Trainer::builder(model, &parameters, CrossEntropy::default(), optimizer).metric(Accuracy::default());
    (builder.epochs(3).learning_rate(0.1).ema(0.9).train_metrics().quiet(), parameters, left)
}

fn values(parameters: &Parameters) -> Vec<Vec<f32>> {
    parameters.all().iter().map(|(_, var)| var.flatten_all().unwrap().to_vec1().unwrap()).collect()
}

/// Counts the ends that it hears.
struct Ends(Arc<AtomicUsize>);

impl Callback for Ends {
    fn name(&self) -> &str {
        "ends"
    }
    fn fit_failed(&mut self, _: &mut Training, error: &Error) -> Result<()> {
        assert_eq!(error.to_string(), "the training panicked: shapes do not fit");
        self.0.fetch_add(1, Ordering::SeqCst);
        panic!("and a callback that panics now changes nothing")
    }
}

#[test]
fn a_panic_of_the_model_leaves_the_trainer_whole_and_goes_on() {
    let (train, validation) = loaders();
    let temporary = tempfile::tempdir().unwrap();
    // Never; in the second epoch's training; in the second epoch's validation.
    let run = |name: &str, in_training: bool, at: usize| {
        let (builder, parameters, _) = panicking(in_training, at);
        let (folder, ends) = (temporary.path().join(name), Arc::new(AtomicUsize::new(0)));
        let stopping = EarlyStopping::builder("validation_loss").patience(1).min_delta(1e9).build().unwrap();
        let builder = builder.callback(Ends(Arc::clone(&ends))).early_stopping(stopping);
        let mut trainer = builder.checkpoints(Checkpoints::new(&folder)).build().unwrap();
        trainer.set_epochs(30);
        if at != usize::MAX {
            let panic = catch_unwind(AssertUnwindSafe(|| trainer.fit(&train, Some(&validation)))).unwrap_err();
            assert_eq!(panic.downcast_ref::<&str>(), Some(&"shapes do not fit"));
            assert_eq!(ends.load(Ordering::SeqCst), 1);
        }
        let history = trainer.fit(&train, Some(&validation)).unwrap();
        let accuracies: Vec<f64> = history.values("train_accuracy").unwrap();
        assert_eq!(history.epochs().len(), 2, "early stopping was there");
        assert_eq!(steps(&folder), [4, 8], "the checkpoints were there");
        (values(&parameters), accuracies, history.values("accuracy").unwrap())
    };
    let calm = run("calm", true, usize::MAX);
    let shaken = run("validation", false, 5);
    assert_eq!(calm, shaken);
    let shaken = run("training", true, 6);
    assert_eq!(calm.0, shaken.0);
}

#[test]
fn nothing_stays_swapped_after_a_panic_while_looking() {
    let (train, validation) = loaders();
    let (builder, mut parameters, left) = panicking(false, usize::MAX);
    let mut trainer = builder.build().unwrap();
    trainer.fit(&train, Some(&validation)).unwrap();
    let (weights, evaluation) = (values(&parameters), trainer.evaluate(&validation).unwrap());
    left.store(2, Ordering::SeqCst);
    assert!(catch_unwind(AssertUnwindSafe(|| trainer.evaluate(&validation))).is_err());
    assert_eq!(values(&parameters), weights, "the average stayed in the weights' place");
    assert_eq!(trainer.evaluate(&validation).unwrap(), evaluation);

    // The probe and the range test put weights, optimizer and generators back.
    let (inner, own) = mlp(5);
    parameters = own;
    let left = Arc::new(AtomicUsize::new(4));
    let model = Panicking { inner, train: true, left: Arc::clone(&left) };
    let mut optimizer = Sgd::builder(&parameters).momentum(0.9).build().unwrap();
    let generators =
        || -> Vec<_> { parameters.generators().into_iter().map(|(_, shared)| shared.lock().to_bytes()).collect() };
    let before = (values(&parameters), generators(), optimizer.state().unwrap().len());
    let test = LearningRateRangeTest::new(1e-3, 1.0).unwrap();
    let loss = CrossEntropy::default();
    let run = catch_unwind(AssertUnwindSafe(|| test.run(&model, &loss, &mut optimizer, &parameters, &train)));
    assert!(run.is_err());
    assert_eq!((values(&parameters), generators(), optimizer.state().unwrap().len()), before);
    left.store(1, Ordering::SeqCst);
    let (probe, batch) = (Probe::new(), points(1).batch(&[0, 1, 2]).unwrap());
    assert!(catch_unwind(AssertUnwindSafe(|| probe.inspect(&model, &parameters, &loss, &batch))).is_err());
    assert_eq!((values(&parameters), generators()), (before.0, before.1));
}

/// As many indices as told: epoch, then how many the loader is told and how many there are.
struct Lying(fn(usize) -> usize, fn() -> usize);

impl Sampler for Lying {
    fn indices(&self, epoch: usize) -> Result<Vec<usize>> {
        Ok((0..(self.0)(epoch)).collect())
    }
    fn len(&self) -> usize {
        (self.1)()
    }
}

#[test]
fn a_sampler_whose_length_is_wrong_ends_the_training_with_an_error() {
    let fit = |sampler: Lying| {
        let train = DataLoader::builder(points(1)).batch_size(5).sampler(sampler).build().unwrap();
        let mut trainer = trainer(3).0.epochs(3).learning_rate(0.1).train_metrics().quiet().build().unwrap();
        trainer.fit(&train, None).map(|_| trainer.state().epoch).map_err(|error| error.to_string())
    };
    assert_eq!(fit(Lying(|_| 20, || 20)), Ok(3));
    for (sampler, told) in [
        (Lying(|_| 10, || 20), "expected 20 indices in every epoch, as its `len` says, got 10 in epoch 0"),
        (Lying(|_| 0, || 20), "got 0 in epoch 0"),
        (Lying(|_| 30, || 20), "got 30 in epoch 0"),
        (Lying(|_| 19, || 20), "got 19 in epoch 0"), // as many batches, but the last is smaller
        (Lying(|epoch| 20 + epoch, || 20), "got 21 in epoch 1"),
        (Lying(|epoch| 20 - 10 * (epoch / 2), || 20), "got 10 in epoch 2"),
    ] {
        let text = fit(sampler).unwrap_err();
        assert!(text.contains(told), "{text}");
    }
    // A sampler that changes its mind about its length, too.
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    let text = fit(Lying(
        |epoch| if epoch == 0 { 20 } else { 10 },
        || if CALLS.fetch_add(1, Ordering::SeqCst) < 12 { 20 } else { 10 },
    ));
    assert!(text.unwrap_err().contains("every epoch"));
    let loader = DataLoader::builder(points(1)).batch_size(5).sampler(Lying(|_| 10, || 20)).build().unwrap();
    let (model, parameters) = mlp(1);
    let mut optimizer = Sgd::new(&parameters).unwrap();
    let test = LearningRateRangeTest::new(1e-3, 1.0).unwrap();
    assert!(test.run(&model, &CrossEntropy::default(), &mut optimizer, &parameters, &loader).is_err());
    assert!(evaluate(&model, &CrossEntropy::default(), &loader, &mut []).is_err());
}

/// Panics when it is asked for indices, or is a data set or a transform that says nothing of its examples.
struct Odd(bool);

impl Sampler for Odd {
    fn indices(&self, _: usize) -> Result<Vec<usize>> {
        panic!("no index today")
    }
    fn len(&self) -> usize {
        20
    }
}

impl Dataset for Odd {
    fn len(&self) -> usize {
        60
    }
    fn get(&self, index: usize) -> Result<Example> {
        points(1).get(index)
    }
    fn batch(&self, indices: &[usize]) -> Result<Batch> {
        let batch = points(1).batch(indices)?;
        Ok(if self.0 { Batch { indices: Vec::new(), ..batch } } else { batch })
    }
}

impl Transform for Odd {
    fn apply(&self, batch: Batch, _: &BatchPosition) -> Result<Batch> {
        assert!(self.0, "no transform today");
        Ok(Batch { indices: Vec::new(), ..batch })
    }
}

#[test]
fn samplers_data_sets_and_transforms_that_break_their_word_are_errors() {
    let builder = |odd: bool| DataLoader::builder(Odd(odd)).batch_size(5);
    let fit = |train: DataLoader| {
        let mut trainer = trainer(3).0.epochs(2).learning_rate(0.1).train_metrics().quiet().build().unwrap();
        trainer.fit(&train, None).map(|history| history.step_losses()).map_err(|error| error.to_string())
    };
    for workers in [0, 2] {
        let text = |loader: crate::data::DataLoaderBuilder| fit(loader.workers(workers).build().unwrap()).unwrap_err();
        let said = text(builder(false).sampler(Odd(false)));
        assert!(said.contains("the sampler failed in epoch 0\n  caused by: it panicked: no index today"), "{said}");
        let said = text(builder(true));
        assert!(said.contains("the data set gave 0 indices for 5 examples"), "{said}");
        let said = text(builder(false).transform(Odd(true)));
        assert!(said.contains("a transform gave 0 indices for 5 examples"), "{said}");
        let said = text(builder(false).transform(Odd(false)));
        assert!(said.contains("a transform panicked: no transform today"), "{said}");
    }
    assert!(fit(builder(false).build().unwrap()).unwrap().iter().all(|loss| loss.is_finite()));
    let unbounded = builder(false).workers(2).prefetch(usize::MAX).build().unwrap();
    assert_eq!(unbounded.epoch(0).unwrap().map(|batch| batch.unwrap().len()).sum::<usize>(), 60);
}

#[test]
fn a_history_on_a_full_disk_leaves_the_older_file() {
    use crate::atomic::faults;
    let (train, validation) = loaders();
    let temporary = tempfile::tempdir().unwrap();
    let mut trainer = trainer(3).0.epochs(1).learning_rate(0.1).quiet().build().unwrap();
    let older = trainer.fit(&train, Some(&validation)).unwrap();
    trainer.set_epochs(2);
    let newer = trainer.fit(&train, Some(&validation)).unwrap();
    let (mut full, mut failed) = (0, 0);
    for name in ["history.json", "history.csv"] {
        let path = temporary.path().join(name);
        older.save(&path).unwrap();
        let before = std::fs::read(&path).unwrap();
        let complete = temporary.path().join(format!("complete {name}"));
        newer.save(&complete).unwrap();
        let after = std::fs::read(&complete).unwrap();
        for bytes in 0..after.len() {
            assert!(faults::with(usize::MAX, bytes, || newer.save(&path)).0.is_err());
            assert_eq!(std::fs::read(&path).unwrap(), before, "full after {bytes} bytes");
            full += 1;
        }
        // Create, write, sync, rename and the folder's sync; the last leaves the new file.
        for call in 0..5 {
            assert!(faults::with(call, usize::MAX, || newer.save(&path)).0.is_err());
            assert_eq!(std::fs::read(&path).unwrap(), if call < 4 { &before[..] } else { &after[..] });
            failed += 1;
        }
    }
    assert_eq!(files(temporary.path()).len(), 4, "{:?}", files(temporary.path()));
    tried(WHOLE, "a history, the disk full at each byte", full);
    tried(WHOLE, "a history, each call to the disk failing", failed);
}

#[test]
fn hostile_counters_in_a_checkpoint_are_refused() {
    let (train, validation) = loaders();
    let build = || trainer(3).0.epochs(3).learning_rate(0.1).quiet().callback(FailsAt(6)).build().unwrap();
    let mut stopped = build();
    stopped.fit(&train, Some(&validation)).unwrap_err();
    let snapshot = stopped.snapshot().unwrap();
    assert_eq!((stopped.state().epoch, stopped.state().batch), (1, 2));
    build().restore(&snapshot).unwrap();
    let changed = |text: &str, field: &str, value: &str| {
        let mut json: serde_json::Value = serde_json::from_str(snapshot.get_text(text).unwrap()).unwrap();
        json[field] = serde_json::from_str(value).unwrap();
        snapshot.clone().text(text, &json.to_string())
    };
    let max = usize::MAX.to_string();
    let fields = ["epoch", "batch", "batches_per_epoch", "batches_in_step", "step"];
    let mut hostile: Vec<Snapshot> = fields.iter().map(|field| changed("state", field, &max)).collect();
    hostile.push(changed("state", "batch", "3"));
    hostile.push(changed("state", "batch", "1"));
    hostile.extend(["3", "200", &max].map(|recorded| changed("history", "recorded", recorded)));
    for (number, snapshot) in hostile.iter().enumerate() {
        let mut trainer = build();
        let text = trainer.restore(snapshot).unwrap_err().to_string();
        assert!(text.contains("contradicts itself"), "{number}: {text}");
        assert_eq!(trainer.state().step, 0);
    }
}

/// What a history can be asked, all of it.
fn ask(history: &History) {
    let _ = (history.to_string(), history.to_csv(), history.names(), history.curves(), history.verdict());
    let _ = (history.step_curve(2), history.seconds(), history.last(), history.notes().len(), history.step_losses());
    for name in history.names() {
        let _ = (history.values(&name), history.best(&name), history.is_maximized(&name));
    }
}

#[test]
fn damaged_histories_do_no_harm() {
    const COUNT: usize = 100_000;
    let (train, validation) = loaders();
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("history.json");
    let mut trainer = trainer(3).0.epochs(3).learning_rate(0.1).quiet().build().unwrap();
    let whole = trainer.fit(&train, Some(&validation)).unwrap();
    whole.save(&path).unwrap();
    assert_eq!(History::load(&path).unwrap(), whole);
    let good = serde_json::to_vec(&whole).unwrap();
    let (mut refused, mut asked) = (0, 0);
    for (number, bytes) in mutations(12, &good, COUNT).enumerate() {
        rewrite(&path, &bytes);
        let (history, peak) = peak_memory(|| History::load(&path));
        assert!(peak <= 50 * bytes.len() + (1 << 16), "{number}: {peak} bytes of memory for {}", bytes.len());
        match history {
            Err(_) => refused += 1,
            // Figures take their time.
            Ok(history) if asked < 300 => {
                ask(&history);
                asked += 1;
            }
            Ok(_) => {}
        }
    }
    assert!((COUNT / 2..COUNT).contains(&refused) && asked > 100, "{refused} {asked}");
    tried(HARMLESS, "histories, damaged", COUNT);
}

#[test]
fn hostile_texts_in_a_checkpoint_do_no_harm() {
    const COUNT: usize = 20_000;
    let (train, validation) = loaders();
    let stopping = || EarlyStopping::builder("validation_loss").patience(9).build().unwrap();
    let build = || trainer(3).0.epochs(3).learning_rate(0.1).quiet().early_stopping(stopping()).accumulate(2).ema(0.9);
    let mut stopped = build().callback(FailsAt(5)).build().unwrap();
    stopped.fit(&train, Some(&validation)).unwrap_err();
    let snapshot = stopped.snapshot().unwrap();
    let (mut refused, mut went_on, mut victim) = (0, 0, build().build().unwrap());
    let fresh = victim.snapshot().unwrap();
    for name in ["state", "history"] {
        let original = snapshot.get_text(name).unwrap().as_bytes();
        for bytes in mutations(13, original, COUNT / 2) {
            let Ok(text) = String::from_utf8(bytes) else { continue };
            match victim.restore(&snapshot.clone().text(name, &text)) {
                Err(_) => refused += 1,
                Ok(()) if went_on < 100 => {
                    went_on += 1;
                    ask(victim.history());
                    let epochs = victim.state().epoch.saturating_add(1);
                    victim.set_epochs(epochs);
                    let _ = victim.fit(&train, Some(&validation)); // an error or an epoch
                    victim.restore(&fresh).unwrap();
                }
                Ok(()) => {}
            }
        }
    }
    assert!(refused > COUNT / 4 && went_on == 100, "{refused} {went_on}");
    tried(HARMLESS, "the texts of a trainer's checkpoint, hostile", COUNT);
}

#[test]
fn hostile_numbers_in_a_checkpoint_do_no_harm() {
    use crate::schedules::ReduceLROnPlateau;
    let (train, validation) = loaders();
    let stopping = || EarlyStopping::builder("validation_loss").patience(9).build().unwrap();
    let plateau = || ReduceLROnPlateau::builder(0.1).patience(1).build().unwrap();
    let builder = || {
        let (model, parameters) = mlp(3);
        let optimizer = AdamW::new(&parameters).unwrap();
        let builder = Trainer::builder(model, &parameters, CrossEntropy::default(), optimizer).schedule(plateau());
        builder.epochs(3).quiet().early_stopping(stopping()).accumulate(2).ema(0.9)
    };
    let build = || builder().build().unwrap();
    let mut stopped = builder().callback(FailsAt(3)).build().unwrap();
    stopped.fit(&train, Some(&validation)).unwrap_err();
    let whole = stopped.snapshot().unwrap();
    let (mut changed, mut refused, mut failed) = (0, 0, 0);
    for section in whole.sections() {
        for (name, tensor) in whole.get(section).unwrap() {
            for value in [-1.0, 0.0, 0.5, 1e300, f64::MAX, f64::MIN, f64::NAN, f64::INFINITY] {
                let mut snapshot = Snapshot::new();
                for text in ["state", "history"] {
                    snapshot = snapshot.text(text, whole.get_text(text).unwrap());
                }
                for other in whole.sections() {
                    let mut tensors = whole.get(other).unwrap().clone();
                    if other == section {
                        let hostile = Tensor::full(value, tensor.shape(), tensor.device()).unwrap();
                        tensors.insert(name.clone(), hostile.to_dtype(tensor.dtype()).unwrap());
                    }
                    snapshot = snapshot.tensors(other, tensors).unwrap();
                }
                let mut trainer = build();
                changed += 1;
                match trainer.restore(&snapshot) {
                    Err(_) => refused += 1,
                    Ok(()) => failed += usize::from(trainer.fit(&train, Some(&validation)).is_err()),
                }
            }
        }
    }
    assert!(changed > 150 && refused > 0 && failed > 0, "{changed} {refused} {failed}");
    tried(HARMLESS, "the numbers of a trainer's checkpoint, hostile", changed);
}
