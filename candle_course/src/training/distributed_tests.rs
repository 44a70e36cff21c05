//! Ranks that are threads against one process.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use candle_core::{DType, Device, Tensor};

use super::*;
use crate::checkpoint::Snapshot;
use crate::data::{Batch, BatchPosition, DataLoader, TensorDataset, Transform};
use crate::distributed::{Communicator, LocalCommunicator};
use crate::error::{Error, Result};
use crate::losses::{CrossEntropy, Loss, LovaszSoftmax, Mean};
use crate::metrics::{Accuracy, RocAucOneVsRest};
use crate::nn::{Activation, BatchNorm1d, Dropout, Linear, Parameters, Sequential};
use crate::optimizers::Sgd;
use crate::random::Generator;
use crate::schedules::ReduceLROnPlateau;
use crate::stateful::Stateful as _;
use crate::stateful::contract::bits;
use crate::training::callbacks::{Checkpoints, EarlyStopping, JsonLines};

const CLASSES: usize = 3;

/// Points of three classes that overlap.
pub(super) fn points(examples: usize, seed: u64) -> TensorDataset {
    let mut generator = Generator::new(seed);
    let labels: Vec<u32> = (0..examples).map(|_| generator.below(CLASSES) as u32).collect();
    let mut values = Vec::new();
    for &label in &labels {
        values.push((f64::from(label) - 1.0 + 0.6 * generator.normal()) as f32);
        values.push((f64::from(label % 2) + 0.6 * generator.normal()) as f32);
    }
    let inputs = Tensor::from_vec(values, (examples, 2), &Device::Cpu).unwrap();
    TensorDataset::new(inputs, Tensor::from_vec(labels, examples, &Device::Cpu).unwrap()).unwrap()
}

fn mlp(dropout: Option<f64>) -> (Sequential, Parameters) {
    let parameters = Parameters::new(3, &Device::Cpu);
    let mut model = Sequential::new().add(Linear::new(2, 16, &parameters.at("0")).unwrap()).add(Activation::Relu);
    if let Some(rate) = dropout {
        model = model.add(Dropout::new(rate, &parameters.at("2")).unwrap());
    }
    (model.add(Linear::new(16, CLASSES, &parameters.at("3")).unwrap()), parameters)
}

fn weighted() -> CrossEntropy {
    CrossEntropy::builder().class_weights(vec![0.5, 1.0, 3.0]).build().unwrap()
}

/// A shuffled loader of this rank's part of the data.
pub(super) fn part(data: TensorDataset, batch_size: usize, communicator: &dyn Communicator) -> DataLoader {
    let loader = DataLoader::builder(data).batch_size(batch_size).shuffle(5).build().unwrap();
    match communicator.size() {
        1 => loader,
        size => loader.shard(communicator.rank(), size).unwrap(),
    }
}

/// What a rank tells of its training.
#[derive(Debug, Clone)]
pub(super) struct Told {
    pub(super) history: History,
    pub(super) parameters: Parameters,
}

impl Told {
    pub(super) fn bits(&self) -> Vec<(String, Vec<u64>)> {
        bits(&self.parameters.state().unwrap())
    }

    pub(super) fn difference(&self, other: &Self) -> f64 {
        let values = |told: &Self| -> Vec<f64> {
            bits(&told.parameters.state().unwrap())
                .into_iter()
                .flat_map(|(_, values)| values.into_iter().map(f64::from_bits))
                .collect()
        };
        let (here, there) = (values(self), values(other));
        assert_eq!(here.len(), there.len());
        let differences = here.iter().zip(&there).map(|(here, there)| (here - there).abs());
        let losses = self.history.step_losses().into_iter().zip(other.history.step_losses());
        assert_eq!(self.history.step_losses().len(), other.history.step_losses().len());
        differences.chain(losses.map(|(here, there)| (here - there).abs())).fold(0.0, f64::max)
    }
}

/// The same training on several ranks, and what each of them came to.
pub(super) fn each(
    ranks: usize,
    train: impl Fn(Arc<dyn Communicator>) -> Result<Told> + Send + Sync,
) -> Vec<Result<Told, String>> {
    LocalCommunicator::run(ranks, |communicator| Ok(train(communicator).map_err(|error| error.to_string()))).unwrap()
}

/// As [`each`], where nothing fails: all ranks have the same weights and losses, to the bit.
pub(super) fn all(ranks: usize, train: impl Fn(Arc<dyn Communicator>) -> Result<Told> + Send + Sync) -> Told {
    let mut told: Vec<Told> = each(ranks, train).into_iter().map(|told| told.unwrap()).collect();
    for other in &told[1..] {
        assert_eq!(other.bits(), told[0].bits());
        assert_eq!(other.history.step_losses(), told[0].history.step_losses());
        for (here, there) in other.history.epochs().iter().zip(told[0].history.epochs()) {
            assert_eq!(here.metrics, there.metrics);
            assert_eq!(here.validation_loss, there.validation_loss);
            assert_eq!((here.train_loss, here.examples), (there.train_loss, there.examples));
        }
        assert_eq!(other.history.stopped(), told[0].history.stopped());
    }
    told.swap_remove(0)
}

#[test]
fn ranks_take_the_steps_of_one_process() {
    // The last batch of an epoch has one example: with four ranks, three of them have none.
    let run = |ranks: usize, options: fn(TrainerBuilder) -> TrainerBuilder| {
        all(ranks, |communicator| {
            let train = part(points(65, 1), 16 / ranks, &*communicator);
            let (model, parameters) = mlp(None);
            let optimizer = Sgd::builder(&parameters).momentum(0.9).build()?;
            let builder = Trainer::builder(model, &parameters, weighted(), optimizer)
                .epochs(20)
                .learning_rate(0.05)
                .distributed(communicator)
                .quiet();
            let history = options(builder).build()?.fit(&train, None)?;
            Ok(Told { history, parameters })
        })
    };
    let options: [fn(TrainerBuilder) -> TrainerBuilder; 4] = [
        |builder| builder,
        |builder| builder.clip_norm(0.3),
        |builder| builder.accumulate(3),
        |builder| builder.ema(0.9),
    ];
    for (which, options) in options.into_iter().enumerate() {
        let one = run(1, options);
        assert_eq!(one.history.epochs().len(), 20);
        assert!(one.history.epochs()[19].train_loss < 0.8 * one.history.epochs()[0].train_loss);
        for ranks in [2, 4] {
            let several = run(ranks, options);
            let difference = several.difference(&one);
            assert!(difference < 1e-5, "{ranks} ranks, options {which}: {difference:e}");
            assert_eq!(several.history.epochs()[0].examples, 65);
            assert_eq!(run(ranks, options).bits(), several.bits(), "{ranks} ranks");
        }
    }
}

#[test]
fn one_rank_is_a_training_without_ranks() {
    let run = |communicator: Option<Arc<dyn Communicator>>| {
        let train = DataLoader::builder(points(65, 1)).batch_size(16).shuffle(5).build().unwrap();
        let (model, parameters) = mlp(Some(0.2));
        let optimizer = Sgd::new(&parameters).unwrap();
        let mut builder =
            Trainer::builder(model, &parameters, weighted(), optimizer).epochs(3).learning_rate(0.1).quiet();
        if let Some(communicator) = communicator {
            builder = builder.distributed(communicator);
        }
        let history = builder.build().unwrap().fit(&train, None).unwrap();
        Told { history, parameters }
    };
    let alone = run(None);
    let one = run(Some(Arc::new(crate::distributed::SingleProcess)));
    assert_eq!((one.bits(), one.history.step_losses()), (alone.bits(), alone.history.step_losses()));
}

#[test]
fn a_loss_of_terms_that_are_means_of_different_things_is_exact() {
    /// A mean by the weights of classes, and one over all logits.
    struct Both;
    impl Loss for Both {
        fn forward(&self, predictions: &Tensor, targets: &Tensor) -> Result<Tensor> {
            let means = self.means(predictions, targets)?;
            Ok((&means[0].value + &means[1].value)?)
        }
        fn means(&self, predictions: &Tensor, targets: &Tensor) -> Result<Vec<Mean>> {
            let mut means = weighted().means(predictions, targets)?;
            let sum = predictions.sqr()?.mean_all()?;
            means.push(Mean { value: sum, of: predictions.elem_count().into() });
            Ok(means)
        }
    }
    let run = |ranks: usize, accumulate: usize| {
        all(ranks, |communicator| {
            let train = part(points(65, 1), 16 / ranks, &*communicator);
            let (model, parameters) = mlp(None);
            let optimizer = Sgd::new(&parameters)?;
            let mut trainer = Trainer::builder(model, &parameters, Both, optimizer)
                .epochs(4)
                .accumulate(accumulate)
                .learning_rate(0.1)
                .distributed(communicator)
                .quiet()
                .build()?;
            let history = trainer.fit(&train, None)?;
            Ok(Told { history, parameters })
        })
    };
    for accumulate in [1, 2] {
        let one = run(1, accumulate);
        for ranks in [2, 4] {
            let difference = run(ranks, accumulate).difference(&one);
            assert!(difference < 1e-5, "{ranks} ranks, accumulating {accumulate}: {difference:e}");
        }
    }
}

/// Over labels that count, and a second term over all examples but those of the last class.
pub(super) struct Ignoring;

impl Loss for Ignoring {
    fn forward(&self, predictions: &Tensor, targets: &Tensor) -> Result<Tensor> {
        let means = self.means(predictions, targets)?;
        Ok((&means[0].value + &means[1].value)?)
    }

    fn means(&self, predictions: &Tensor, targets: &Tensor) -> Result<Vec<Mean>> {
        let ignoring = |index| CrossEntropy::builder().ignore_index(index).build();
        Ok([ignoring(0)?.means(predictions, targets)?, ignoring(2)?.means(predictions, targets)?].concat())
    }
}

#[test]
fn a_rank_whose_labels_are_all_ignored_adds_nothing() {
    let run = |ranks: usize, both: bool, accumulate: usize| {
        all(ranks, |communicator| {
            // One example a rank: often one that does not count.
            let train = part(points(65, 1), 4 / ranks, &*communicator);
            let (model, parameters) = mlp(None);
            let loss: Box<dyn Loss> =
                if both { Box::new(Ignoring) } else { Box::new(CrossEntropy::builder().ignore_index(0).build()?) };
            let optimizer = Sgd::new(&parameters)?;
            let mut trainer = Trainer::builder(model, &parameters, loss, optimizer)
                .epochs(6)
                .accumulate(accumulate)
                .learning_rate(0.1)
                .distributed(communicator)
                .quiet()
                .build()?;
            let history = trainer.fit(&train, None)?;
            Ok(Told { history, parameters })
        })
    };
    for (both, accumulate) in [(false, 1), (true, 1), (false, 3), (true, 3)] {
        let one = run(1, both, accumulate);
        for ranks in [2, 4] {
            let difference = run(ranks, both, accumulate).difference(&one);
            assert!(difference < 1e-5, "{ranks} ranks, {both} {accumulate}: {difference:e}");
        }
    }
}

#[test]
fn validation_early_stopping_and_plateau_go_by_what_all_ranks_saw() {
    let run = |ranks: usize, whole: bool| {
        all(ranks, |communicator| {
            let train = part(points(65, 1), 16 / ranks, &*communicator);
            // Two batches of five for four ranks, of which one has no example.
            let validation = DataLoader::builder(points(11, 2)).batch_size(if ranks == 4 { 2 } else { 5 }).build()?;
            let validation = match ranks > 1 && !whole {
                true => validation.shard(communicator.rank(), ranks)?,
                false => validation,
            };
            let (model, parameters) = mlp(None);
            let plateau = ReduceLROnPlateau::builder(0.5).patience(1).build()?;
            let optimizer = Sgd::new(&parameters)?;
            let mut trainer = Trainer::builder(model, &parameters, weighted(), optimizer)
                .epochs(40)
                .schedule(plateau)
                .early_stopping(EarlyStopping::builder("validation_loss").patience(3).min_delta(2e-3).build()?)
                .metric(Accuracy::default())
                .metric(RocAucOneVsRest::new(crate::metrics::Average::Macro))
                .train_metrics()
                .validate_every_steps(3)
                .distributed(communicator)
                .quiet()
                .build()?;
            let history = trainer.fit(&train, Some(&validation))?;
            let found = trainer.evaluate(&validation)?;
            assert_eq!(Some(found.loss), history.best("validation_loss")?.validation_loss);
            assert_eq!(found.examples, 11);
            Ok(Told { history, parameters })
        })
    };
    let one = run(1, true);
    assert!(one.history.stopped().is_some_and(|stop| stop.contains("validation_loss has not improved")));
    for (ranks, whole) in [(2, false), (4, false), (4, true)] {
        let several = run(ranks, whole);
        assert_eq!(several.history.stopped().is_some(), one.history.stopped().is_some());
        assert_eq!(several.history.epochs().len(), one.history.epochs().len());
        for (here, there) in several.history.epochs().iter().zip(one.history.epochs()) {
            assert_eq!(here.learning_rate, there.learning_rate);
            let pairs =
                here.metrics.iter().chain(&here.train_metrics).zip(there.metrics.iter().chain(&there.train_metrics));
            for ((name, here), (_, there)) in pairs {
                assert!((here - there).abs() < 1e-6, "{name} {here} {there}");
            }
            let losses = (here.validation_loss.unwrap(), there.validation_loss.unwrap());
            assert!((losses.0 - losses.1).abs() < 1e-4, "{losses:?}");
        }
        assert_eq!(several.history.evaluations().len(), one.history.evaluations().len());
    }
}

/// Does something on one rank after some step.
struct At<F>(usize, usize, F);

impl<F: FnMut(&mut Training) -> Result<Flow> + Send + 'static> Callback for At<F> {
    fn name(&self) -> &str {
        "at"
    }
    fn step_end(&mut self, training: &mut Training) -> Result<Flow> {
        match (training.rank(), training.state().step) == (self.0, self.1) {
            true => (self.2)(training),
            false => Ok(Flow::Continue),
        }
    }
}

/// Two ranks of which the second does something after the third step.
fn with(act: impl Fn(&mut Training) -> Result<Flow> + Send + Sync + Clone + 'static) -> Vec<Result<Told, String>> {
    each(2, |communicator| {
        let train = part(points(65, 1), 8, &*communicator);
        let (model, parameters) = mlp(None);
        let optimizer = Sgd::new(&parameters)?;
        let mut trainer = Trainer::builder(model, &parameters, weighted(), optimizer)
            .epochs(3)
            .learning_rate(0.1)
            .distributed(communicator)
            .callback(At(1, 3, act.clone()))
            .quiet()
            .build()?;
        let history = trainer.fit(&train, None)?;
        Ok(Told { history, parameters })
    })
}

#[test]
fn a_rank_that_fails_or_panics_ends_all_and_is_named() {
    let told = with(|_| Err(Error::training("the disk is full")));
    assert!(told[1].as_ref().unwrap_err().contains("the disk is full"));
    let text = told[0].as_ref().unwrap_err();
    assert!(text.contains("rank 0 of 2 cannot sum") && text.contains("rank 1 gave up"), "{text}");
    assert!(text.contains("the disk is full"), "{text}");

    let first = LocalCommunicator::run(2, |communicator| {
        let train = part(points(65, 1), 8, &*communicator);
        let (model, parameters) = mlp(None);
        let optimizer = Sgd::new(&parameters)?;
        let mut trainer = Trainer::builder(model, &parameters, weighted(), optimizer)
            .learning_rate(0.1)
            .callback(At(1, 2, |_: &mut Training| -> Result<Flow> { panic!("nobody home") }))
            .distributed(communicator)
            .quiet()
            .build()?;
        trainer.fit(&train, None)
    });
    let text = first.unwrap_err().to_string();
    assert!(text.starts_with("rank 1 of 2 failed") && text.contains("nobody home"), "{text}");

    // One that returns early, in good order.
    let left = LocalCommunicator::run(3, |communicator| match communicator.rank() {
        2 => Ok(()),
        _ => communicator.barrier(),
    });
    let text = left.unwrap_err().to_string();
    assert!(text.contains("rank 2 has left"), "{text}");
}

#[test]
fn whoever_stops_stops_all_between_two_steps() {
    let told = with(|_| Ok(Flow::Stop("enough".to_owned())));
    for told in told {
        let told = told.unwrap();
        assert_eq!((told.history.stopped(), told.history.step_losses().len()), (Some("enough"), 3));
    }
    // Asked for in the middle of an accumulation.
    struct AtBatch;
    impl Callback for AtBatch {
        fn name(&self) -> &str {
            "at batch"
        }
        fn batch_start(&mut self, training: &mut Training, _batch: &Batch) -> Result<Flow> {
            match (training.rank(), training.state().batch) {
                (1, 1) => Ok(Flow::Stop(String::new())),
                _ => Ok(Flow::Continue),
            }
        }
    }
    let told = all(2, |communicator| {
        let train = part(points(65, 1), 4, &*communicator);
        let (model, parameters) = mlp(None);
        let optimizer = Sgd::new(&parameters)?;
        let mut trainer = Trainer::builder(model, &parameters, weighted(), optimizer)
            .learning_rate(0.1)
            .accumulate(4)
            .distributed(communicator)
            .callback(AtBatch)
            .quiet()
            .build()?;
        let history = trainer.fit(&train, None)?;
        assert_eq!((trainer.state().batch, trainer.state().batches_in_step, trainer.state().step), (4, 0, 1));
        Ok(Told { history, parameters })
    });
    assert_eq!(told.history.stopped(), Some(""));
}

#[test]
fn weights_that_differ_are_noticed() {
    let told = with(|training| {
        let weight = training.parameters().get("3.bias").unwrap();
        weight.set(&(weight.as_tensor() + 1e-6)?)?;
        Ok(Flow::Continue)
    });
    for told in told {
        let text = told.unwrap_err();
        assert!(text.contains("`3.bias` of rank 1 is no longer that of rank 0 after step 5"), "{text}");
    }
}

/// NaN or infinity in an example, or a target that the loss cannot take, wherever its batch lands.
struct Spoils(usize, f32);

impl Transform for Spoils {
    fn apply(&self, batch: Batch, position: &BatchPosition) -> Result<Batch> {
        let Some(row) = batch.indices.iter().position(|&index| index == self.0).filter(|_| position.epoch == 1) else {
            return Ok(batch);
        };
        if self.1 == 0.0 {
            return Err(Error::data("the file is gone"));
        }
        let mut values = batch.inputs.to_vec2::<f32>()?;
        values[row][0] = self.1;
        Ok(Batch { inputs: Tensor::new(values, &Device::Cpu)?, ..batch })
    }
}

/// NaN where a logit is very large.
struct Fragile;

impl Loss for Fragile {
    fn forward(&self, predictions: &Tensor, targets: &Tensor) -> Result<Tensor> {
        let value = weighted().forward(predictions, targets)?;
        let largest = predictions.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?;
        Ok(if largest > 1e20 { (value * f64::NAN)? } else { value })
    }

    fn mean_of(&self, predictions: &Tensor, targets: &Tensor) -> Result<crate::losses::MeanOf> {
        weighted().mean_of(predictions, targets)
    }
}

#[test]
fn what_one_rank_cannot_compute_is_an_error_of_all_with_the_same_weights() {
    let spoilt = |value: f32, folder: &std::path::Path| {
        let told = Mutex::new(BTreeSet::new());
        let results = each(2, |communicator| {
            let loader =
                DataLoader::builder(points(65, 1)).batch_size(8).shuffle(5).transform(Spoils(7, value)).build()?;
            let train = loader.shard(communicator.rank(), 2)?;
            let (model, parameters) = mlp(None);
            let optimizer = Sgd::new(&parameters)?;
            let mut trainer = Trainer::builder(model, &parameters, Fragile, optimizer)
                .epochs(3)
                .learning_rate(0.1)
                .last_finite_folder(folder)
                .distributed(Arc::clone(&communicator))
                .quiet()
                .build()?;
            let result = trainer.fit(&train, None);
            told.lock().unwrap().insert(format!("{:?}", bits(&parameters.state()?)));
            communicator.barrier()?; // an error of all is none of the communicator
            Ok(Told { history: result?, parameters })
        });
        assert_eq!(told.lock().unwrap().len(), 1, "the weights differ");
        let texts: BTreeSet<String> = results.into_iter().map(|told| told.unwrap_err()).collect();
        assert_eq!(texts.len(), 1, "{texts:?}");
        texts.into_iter().next().unwrap()
    };
    let folder = tempfile::tempdir().unwrap();
    let text = spoilt(f32::NAN, folder.path());
    assert!(text.contains(" of 2 failed: the inputs of step ") && text.contains("in examples [7]"), "{text}");
    assert!(!folder.path().join("last-finite.safetensors").exists());
    let text = spoilt(0.0, folder.path());
    assert!(text.contains("the file is gone") && text.contains(" of 2 failed: batch "), "{text}");
    // The weights are set back on all ranks, and rank 0 saves them.
    let text = spoilt(1e30, folder.path());
    assert!(
        text.contains("the loss is NaN at step ") && text.contains("the weights were set back to those after step 0"),
        "{text}"
    );
    assert!(folder.path().join("last-finite.safetensors").exists());
}

/// The training that is interrupted, with a folder for its checkpoints.
fn resumable(
    communicator: Arc<dyn Communicator>,
    folder: &std::path::Path,
    dropout: Option<f64>,
    batch_size: usize,
    steps: usize,
) -> Result<Told> {
    let train = part(points(65, 1), batch_size, &*communicator);
    let (model, parameters) = mlp(dropout);
    let optimizer = Sgd::builder(&parameters).momentum(0.9).build()?;
    let mut trainer = Trainer::builder(model, &parameters, weighted(), optimizer)
        .max_steps(steps)
        .learning_rate(0.05)
        .ema(0.9)
        .checkpoints(Checkpoints::builder(folder).every_steps(3).build()?)
        .distributed(communicator)
        .quiet()
        .build()?;
    trainer.resume(folder)?;
    let history = trainer.fit(&train, None)?;
    Ok(Told { history, parameters })
}

#[test]
fn a_resumed_training_of_ranks_is_an_undisturbed_one() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = |name: &str| temporary.path().join(name);
    let run = |ranks: usize, name: &str, dropout: Option<f64>, steps: usize| {
        all(ranks, |communicator| resumable(communicator, &folder(name), dropout, 16 / ranks, steps))
    };
    // With dropout, whose generators every rank has for itself; stopped in the middle of the second epoch.
    let undisturbed = run(2, "whole", Some(0.3), 13);
    run(2, "parts", Some(0.3), 7);
    let saved = std::fs::read_dir(folder("parts")).unwrap().map(|entry| entry.unwrap().path());
    let newest = saved.filter(|path| path.extension().is_some_and(|kind| kind == "safetensors")).max().unwrap();
    let snapshot = Snapshot::load(newest).unwrap();
    let (zero, one) = (snapshot.get("generators").unwrap(), snapshot.get("generators of rank 1").unwrap());
    assert_ne!(bits(zero), bits(one), "both ranks drop the same units");
    assert_eq!(snapshot.get_number("ranks").unwrap(), 2.0);
    let resumed = run(2, "parts", Some(0.3), 13);
    assert_eq!(resumed.bits(), undisturbed.bits());
    assert_eq!(resumed.history.step_losses(), undisturbed.history.step_losses());

    // Another number of ranks, in the middle of an epoch: the same examples in the same order.
    let undisturbed = run(2, "whole plain", None, 13);
    for ranks in [1, 4] {
        let name = format!("parts {ranks}");
        run(2, &name, None, 7);
        let resumed = run(ranks, &name, None, 13);
        let difference = resumed.difference(&undisturbed);
        assert!(difference < 1e-5, "{ranks} ranks: {difference:e}");
        assert!(resumed.history.to_string().contains(&format!("goes on with {ranks} ranks instead of 2")));
    }
    run(2, "other batches", None, 7);
    let texts = each(4, |communicator| resumable(communicator, &folder("other batches"), None, 8, 13));
    for text in texts {
        let text = text.unwrap_err();
        assert!(
            text.contains("`train`: expected 5 batches an epoch, as when the running epoch began, got 3"),
            "{text}"
        );
    }
}

#[test]
fn running_statistics_are_those_of_all_ranks() {
    let run = |ranks: usize| {
        all(ranks, |communicator| {
            let train = part(points(65, 1), 16 / ranks, &*communicator);
            let parameters = Parameters::new(3, &Device::Cpu);
            let model = Sequential::new().add(BatchNorm1d::new(2, &parameters.at("0"))?).add(Linear::new(
                2,
                CLASSES,
                &parameters.at("1"),
            )?);
            let optimizer = Sgd::new(&parameters)?;
            // A single example has no statistics of its own.
            let mut trainer = Trainer::builder(model, &parameters, CrossEntropy::default(), optimizer)
                .epochs(2)
                .limit_batches(4)
                .learning_rate(0.1)
                .distributed(communicator)
                .quiet()
                .build()?;
            let history = trainer.fit(&train, None)?;
            Ok(Told { history, parameters })
        })
    };
    let (one, two) = (run(1), run(2));
    let values = |told: &Told, name: &str| -> Vec<f64> {
        let buffer = told.parameters.get(name).unwrap();
        buffer.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    };
    for (here, there) in values(&two, "0.running_mean").iter().zip(values(&one, "0.running_mean")) {
        assert!((here - there).abs() < 1e-6, "{here} {there}");
    }
    assert_eq!(values(&two, "0.num_batches_tracked"), [8.0]);
    // The variance within halves is not that of the whole: batch norm is local.
    assert_ne!(values(&two, "0.running_var"), values(&one, "0.running_var"));
}

#[test]
fn rank_0_alone_writes() {
    let folder = tempfile::tempdir().unwrap();
    all(3, |communicator| {
        let train = part(points(65, 1), 4, &*communicator);
        let (model, parameters) = mlp(None);
        let optimizer = Sgd::new(&parameters)?;
        let mut trainer = Trainer::builder(model, &parameters, weighted(), optimizer)
            .epochs(3)
            .learning_rate(0.1)
            .callback(JsonLines::builder(folder.path().join("history.jsonl")).build()?)
            .checkpoints(Checkpoints::new(folder.path().join("checkpoints")))
            .distributed(communicator)
            .quiet()
            .build()?;
        let history = trainer.fit(&train, None)?;
        Ok(Told { history, parameters })
    });
    let lines = std::fs::read_to_string(folder.path().join("history.jsonl")).unwrap();
    assert_eq!(lines.lines().filter(|line| line.contains("train_loss")).count(), 3, "{lines}");
}

#[test]
fn ranks_that_do_not_fit_are_refused() {
    let texts = |build: &(dyn Fn(TrainerBuilder, usize) -> TrainerBuilder + Sync),
                 loader: &(dyn Fn(usize) -> DataLoader + Sync)| {
        let told = each(2, |communicator| {
            let (model, parameters) = mlp(None);
            let optimizer = Sgd::new(&parameters)?;
            let rank = communicator.rank();
            let builder = Trainer::builder(model, &parameters, weighted(), optimizer)
                .learning_rate(0.1)
                .distributed(communicator)
                .quiet();
            let history = build(builder, rank).build()?.fit(&loader(rank), None)?;
            Ok(Told { history, parameters })
        });
        told.into_iter().map(|told| told.unwrap_err()).collect::<Vec<_>>()
    };
    let loader = |examples: usize| DataLoader::builder(points(examples, 1)).batch_size(4).build().unwrap();
    for text in texts(&|builder, _| builder, &|_| loader(65)) {
        assert!(text.contains("`train`: expected a loader of rank") && text.contains("got one of all of it"), "{text}");
    }
    for text in texts(&|builder, rank| builder.epochs(1 + rank), &|rank| loader(65).shard(rank, 2).unwrap()) {
        assert!(text.contains("rank 1 is about to do `2 epochs, 9 batches an epoch`, rank 0 `1 epochs"), "{text}");
    }
    for text in texts(&|builder, _| builder, &|rank| loader(65 - 16 * rank).shard(rank, 2).unwrap()) {
        assert!(text.contains("training data: 7 batches of 4, 49 examples"), "{text}");
    }
    let whole = each(2, |communicator| {
        let (model, parameters) = mlp(None);
        let optimizer = Sgd::new(&parameters)?;
        let builder = Trainer::builder(model, &parameters, LovaszSoftmax::default(), optimizer).learning_rate(0.1);
        builder.distributed(communicator).build().map(|_| ())?;
        Ok(Told { history: History::default(), parameters })
    });
    for text in whole {
        let text = text.unwrap_err();
        assert!(text.contains("`distributed`: expected 1 rank with this loss"), "{text}");
    }
    // A model of other variables.
    let models = LocalCommunicator::run(2, |communicator| {
        let parameters = Parameters::new(0, &Device::Cpu);
        Linear::new(2 + communicator.rank(), 3, &parameters.at("fc"))?;
        crate::distributed::broadcast_parameters(&*communicator, &parameters)
    });
    let text = models.unwrap_err().to_string();
    assert!(
        text.contains("rank 1 has another model: `fc.weight [3, 3] F32` where rank 0 has `fc.weight [3, 2] F32`"),
        "{text}"
    );
}

#[test]
fn a_loop_by_hand_takes_the_steps_of_one_process() {
    let run = |ranks: usize| {
        all(ranks, |communicator| {
            let train = part(points(65, 1), 16 / ranks, &*communicator);
            let (model, parameters) = mlp(None);
            crate::distributed::broadcast_parameters(&*communicator, &parameters)?;
            let mut optimizer = Sgd::new(&parameters)?;
            for epoch in 0..3 {
                let mut batches = train.epoch(epoch)?;
                for _ in 0..train.len() {
                    let (mut gradients, count) = match batches.next().transpose()? {
                        Some(batch) => {
                            (forward_backward(&model, &CrossEntropy::default(), &batch)?.gradients, batch.len())
                        }
                        // No example for this rank.
                        None => (Tensor::zeros((), DType::F32, &Device::Cpu)?.backward()?, 0),
                    };
                    crate::distributed::average_gradients(&*communicator, &parameters, &mut gradients, count as f64)?;
                    crate::optimizers::Optimizer::step(&mut optimizer, &gradients, 0.1)?;
                }
            }
            Ok(Told { history: History::default(), parameters })
        })
    };
    let one = run(1);
    for ranks in [2, 4] {
        let difference = run(ranks).difference(&one);
        assert!(difference < 1e-5, "{ranks} ranks: {difference:e}");
    }
}
