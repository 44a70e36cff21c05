//! Every feature together: equal to a loop written by hand, and resumed to the last bit.

use std::path::Path;
use std::time::Duration;

use candle_core::Tensor;

use super::trainer_tests::{loaders, mlp, points, trainer};
use super::*;
use crate::checkpoint::{CheckpointFolder, Retention};
use crate::data::{Batch, BatchPosition, DataLoader, Dataset as _, TensorDataset, Transform};
use crate::losses::CrossEntropy;
use crate::metrics::{Accuracy, Metric};
use crate::nn::{Activation, BatchNorm1d, Dropout, Linear, Parameters, Sequential};
use crate::optimizers::{
    AdamW, GradientAccumulator, Optimizer as _, Sgd, WeightAverage, clip_gradient_norm, clip_gradient_value,
    gradient_norm,
};
use crate::schedules::{Adaptive as _, OneCycleLR, ReduceLROnPlateau, Schedule as _};
use crate::stateful::{State, Stateful as _};
use crate::test_support::device;
use crate::training::callbacks::{Checkpoints, EarlyStopping, Progress, TensorBoard};
use crate::training::diagnosis::Probe;

/// With dropout and with batch normalisation, whose buffers move in training.
fn normed(seed: u64) -> (Sequential, Parameters) {
    let parameters = Parameters::new(seed, device());
    let model = Sequential::new()
        .add(Linear::new(2, 16, &parameters.at("0")).unwrap())
        .add(BatchNorm1d::new(16, &parameters.at("1")).unwrap())
        .add(Activation::Relu)
        .add(Dropout::new(0.2, &parameters.at("3")).unwrap())
        .add(Linear::new(16, 3, &parameters.at("4")).unwrap());
    (model, parameters)
}

/// Noise of its own for every example and epoch.
struct Noise;

impl Transform for Noise {
    fn apply(&self, batch: Batch, position: &BatchPosition) -> crate::Result<Batch> {
        let mut values = batch.inputs.to_vec2::<f32>()?;
        for (row, values) in values.iter_mut().enumerate() {
            let mut generator = position.generator(7, row);
            values.iter_mut().for_each(|value| *value += 0.1 * generator.normal() as f32);
        }
        Ok(Batch { inputs: Tensor::new(values, device())?, ..batch })
    }
}

/// The training batches of [`loaders`] with noise, made by so many workers.
fn noisy(workers: usize) -> DataLoader {
    let loader = DataLoader::builder(points(1)).batch_size(16).shuffle(5).transform(Noise);
    loader.workers(workers).build().unwrap()
}

fn one_cycle() -> OneCycleLR {
    OneCycleLR::new(0.2, 12).unwrap()
}

/// Dropout, batch normalisation, accumulation in pairs, clipping by value, averages, and a rate and
/// a momentum for every step; to be trained on [`noisy`] data.
fn cycled(epochs: usize, folder: Option<&Path>) -> (Trainer, Parameters) {
    let (model, parameters) = normed(9);
    let optimizer = Sgd::builder(&parameters).momentum(0.9).build().unwrap();
    let mut builder = Trainer::builder(model, &parameters, CrossEntropy::default(), optimizer)
        .epochs(epochs)
        .schedule(one_cycle())
        .accumulate(2)
        .clip_value(0.02)
        .ema(0.9)
        .metric(Accuracy::default())
        .early_stopping(stopping(50))
        .quiet();
    if let Some(folder) = folder {
        builder = builder.checkpoints(every_step(folder));
    }
    (builder.build().unwrap(), parameters)
}

/// Dropout, batch normalisation, accumulation of 3 of the 4 batches, clipping, averages, plateau, early stopping.
fn full(epochs: usize, folder: Option<&Path>) -> (Trainer, Parameters) {
    let (model, parameters) = normed(9);
    let mut builder = configured(model, &parameters).epochs(epochs).quiet();
    if let Some(folder) = folder {
        builder = builder.checkpoints(every_step(folder));
    }
    (builder.build().unwrap(), parameters)
}

fn configured(model: Sequential, parameters: &Parameters) -> TrainerBuilder {
    let optimizer = AdamW::new(parameters).unwrap();
    Trainer::builder(model, parameters, CrossEntropy::default(), optimizer)
        .schedule(plateau())
        .accumulate(3)
        .clip_norm(0.5)
        .ema(0.9)
        .metric(Accuracy::default())
        .early_stopping(stopping(50))
}

fn stopping(patience: usize) -> EarlyStopping {
    EarlyStopping::builder("validation_loss").patience(patience).build().unwrap()
}

fn every_step(folder: &Path) -> Checkpoints {
    Checkpoints::builder(folder).every_steps(1).keep_last(100).build().unwrap()
}

fn plateau() -> ReduceLROnPlateau {
    ReduceLROnPlateau::builder(0.02).factor(0.5).patience(0).build().unwrap()
}

fn bits(parameters: &Parameters) -> Vec<(String, Vec<u64>)> {
    // Exact for f32; a batch norm's counter is an integer.
    let values = |tensor: &Tensor| tensor.flatten_all()?.to_dtype(candle_core::DType::F64)?.to_vec1::<f64>();
    let bits = |tensor: &Tensor| values(tensor).unwrap().into_iter().map(f64::to_bits).collect();
    parameters.state().unwrap().iter().map(|(name, tensor)| (name.clone(), bits(tensor))).collect()
}

/// The history without the clock.
fn timeless(history: &History) -> (Vec<u64>, Vec<u64>) {
    let steps = history.steps().iter().flat_map(|step| [step.loss, step.learning_rate]);
    let epochs = history.epochs().iter().flat_map(|record| {
        [
            record.train_loss,
            record.validation_loss.unwrap(),
            record.metrics[0].1,
            record.learning_rate,
            record.step as f64,
        ]
    });
    (steps.map(f64::to_bits).collect(), epochs.map(f64::to_bits).collect())
}

#[test]
fn every_feature_together_is_the_raw_loop_bit_by_bit() {
    let (train, validation) = loaders();
    let loss = CrossEntropy::default();
    let (model, parameters) = normed(9);
    let mut optimizer = AdamW::new(&parameters).unwrap();
    let mut schedule = plateau();
    let mut group = GradientAccumulator::new(&parameters, 3).unwrap();
    let mut average = WeightAverage::builder(&parameters).decay(0.9).build().unwrap();
    let mut metrics: Vec<Box<dyn Metric>> = vec![Box::new(Accuracy::default())];
    let (mut validation_losses, mut best) = (Vec::new(), (f64::INFINITY, Vec::new()));
    for epoch in 0..6 {
        for (i, batch) in train.epoch(epoch).unwrap().enumerate() {
            let batch = batch.unwrap();
            let backward = forward_backward(&model, &loss, &batch).unwrap();
            let full = group.add(backward.gradients, batch.len()).unwrap();
            if full || i + 1 == train.len() {
                let mut gradients = group.take().unwrap();
                clip_gradient_norm(&parameters, &mut gradients, 0.5).unwrap();
                optimizer.step(&gradients, schedule.learning_rate(0)).unwrap();
                average.update().unwrap();
            }
        }
        average.swap().unwrap();
        let evaluation = evaluate(&model, &loss, &validation, &mut metrics).unwrap();
        if evaluation.loss < best.0 {
            best = (evaluation.loss, bits(&parameters));
        }
        average.swap().unwrap();
        schedule.observe(epoch, evaluation.loss).unwrap();
        validation_losses.push(evaluation.loss);
    }
    // And all that only looks: training metrics, checkpoints, TensorBoard, a probe, progress lines.
    let temporary = tempfile::tempdir().unwrap();
    let (model, trained) = normed(9);
    let probe = Probe::new();
    let tensorboard = TensorBoard::builder(temporary.path().join("tensorboard")).every_steps(1);
    let mut trainer = configured(probe.sequential(&model), &trained)
        .epochs(6)
        .train_metrics()
        .checkpoints(every_step(&temporary.path().join("checkpoints")))
        .callback(tensorboard.probe(&probe, points(1).batch(&[0, 1, 2]).unwrap()).build().unwrap())
        .progress(Progress::new(Duration::ZERO))
        .build()
        .unwrap();
    let history = trainer.fit(&train, Some(&validation)).unwrap();
    assert_eq!(history.values("validation_loss").unwrap(), validation_losses);
    assert_eq!(bits(&trained), best.1, "the best weights");
    assert_eq!(trainer.evaluate(&validation).unwrap().loss, best.0);
    trainer.training.release().unwrap();
    assert_eq!(bits(&trained), bits(&parameters), "the last weights");
    // Four batches in groups of three: two steps an epoch.
    assert_eq!(history.last().unwrap().step, 12);
    assert!(trainer.training.gradient_norm().unwrap() > 0.0);
}

#[test]
fn one_cycle_clipping_by_value_workers_and_a_transform_are_the_raw_loop_bit_by_bit() {
    let (plain, validation) = (noisy(0), loaders().1);
    let loss = CrossEntropy::default();
    let (model, parameters) = normed(9);
    let (schedule, mut optimizer) = (one_cycle(), Sgd::builder(&parameters).momentum(0.9).build().unwrap());
    let mut group = GradientAccumulator::new(&parameters, 2).unwrap();
    let mut average = WeightAverage::builder(&parameters).decay(0.9).build().unwrap();
    let mut metrics: Vec<Box<dyn Metric>> = vec![Box::new(Accuracy::default())];
    let (mut validation_losses, mut rates, mut unclipped) = (Vec::new(), Vec::new(), 0);
    for epoch in 0..6 {
        for batch in plain.epoch(epoch).unwrap() {
            let batch = batch.unwrap();
            let backward = forward_backward(&model, &loss, &batch).unwrap();
            if group.add(backward.gradients, batch.len()).unwrap() {
                let mut gradients = group.take().unwrap();
                let norm = gradient_norm(&parameters, &gradients).unwrap();
                clip_gradient_value(&parameters, &mut gradients, 0.02).unwrap();
                unclipped += usize::from(norm == gradient_norm(&parameters, &gradients).unwrap());
                optimizer.set_momentum(schedule.momentum(rates.len()).unwrap()).unwrap();
                optimizer.step(&gradients, schedule.learning_rate(rates.len())).unwrap();
                rates.push(schedule.learning_rate(rates.len()));
                average.update().unwrap();
            }
        }
        average.swap().unwrap();
        validation_losses.push(evaluate(&model, &loss, &validation, &mut metrics).unwrap().loss);
        average.swap().unwrap();
    }
    let (mut trainer, trained) = cycled(6, None);
    let history = trainer.fit(&noisy(2), Some(&validation)).unwrap();
    assert_eq!(history.values("validation_loss").unwrap(), validation_losses);
    assert_eq!(history.steps().iter().map(|step| step.learning_rate).collect::<Vec<_>>(), rates);
    trainer.training.release().unwrap();
    assert_eq!(bits(&trained), bits(&parameters), "the last weights");
    assert_eq!((rates.len(), unclipped), (12, 0));
}

#[test]
fn a_training_resumed_from_any_checkpoint_ends_the_same_to_the_last_bit() {
    resumed_from_any_checkpoint(full, &loaders().0);
    resumed_from_any_checkpoint(cycled, &noisy(2));
}

fn resumed_from_any_checkpoint(full: fn(usize, Option<&Path>) -> (Trainer, Parameters), train: &DataLoader) {
    let validation = loaders().1;
    let temporary = tempfile::tempdir().unwrap();
    let all = temporary.path().join("all");
    let (mut undisturbed, parameters) = full(4, Some(&all));
    let history = undisturbed.fit(train, Some(&validation)).unwrap();
    let mut files: Vec<_> = std::fs::read_dir(&all).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert_eq!(files.len(), 8, "a checkpoint after every step");
    for file in files {
        let alone = temporary.path().join(file.file_stem().unwrap());
        std::fs::create_dir(&alone).unwrap();
        std::fs::copy(&file, alone.join(file.file_name().unwrap())).unwrap();
        let (mut resumed, again) = full(4, None);
        assert!(resumed.resume(&alone).unwrap());
        if resumed.state().epoch < 4 {
            resumed.fit(train, Some(&validation)).unwrap();
        }
        assert_eq!(bits(&again), bits(&parameters), "{}", file.display());
        assert_eq!(timeless(resumed.history()), timeless(&history), "{}", file.display());
    }
}

#[test]
fn a_stop_in_the_middle_of_an_epoch_loses_nothing() {
    struct StopAt(usize);
    impl Callback for StopAt {
        fn name(&self) -> &str {
            "stop at"
        }
        fn step_end(&mut self, training: &mut Training) -> crate::Result<Flow> {
            Ok(if training.state().step == self.0 { Flow::Stop("here".into()) } else { Flow::Continue })
        }
    }
    let (train, validation) = loaders();
    let run = |stop: usize| {
        let (builder, parameters) = trainer(2);
        let builder = builder.epochs(3).learning_rate(0.8).train_metrics().early_stopping(stopping(50));
        let mut trainer = builder.callback(StopAt(stop)).quiet().build().unwrap();
        while trainer.state().epoch < 3 {
            trainer.fit(&train, Some(&validation)).unwrap();
        }
        (timeless(trainer.history()), trainer.history().values("train_accuracy").unwrap(), bits(&parameters))
    };
    assert_eq!(run(6), run(usize::MAX));
}

#[test]
fn a_stop_in_the_middle_of_a_group_loses_nothing() {
    struct StopInGroup(bool);
    impl Callback for StopInGroup {
        fn name(&self) -> &str {
            "stop in group"
        }
        fn batch_start(&mut self, training: &mut Training, _: &Batch) -> crate::Result<Flow> {
            let here =
                (training.state().epoch, training.state().batch) == (1, 1) && !std::mem::replace(&mut self.0, true);
            Ok(if here { Flow::Stop("one batch of three is missing".into()) } else { Flow::Continue })
        }
    }
    let (train, validation) = loaders();
    let (mut undisturbed, parameters) = full(4, None);
    let history = undisturbed.fit(&train, Some(&validation)).unwrap();
    let temporary = tempfile::tempdir().unwrap();
    let (model, here) = normed(9);
    let checkpoints = Checkpoints::builder(temporary.path()).keep_best(1, "validation_loss").build().unwrap();
    let builder = configured(model, &here).epochs(4).callback(StopInGroup(false)).checkpoints(checkpoints);
    let mut stopped = builder.quiet().build().unwrap();
    stopped.fit(&train, Some(&validation)).unwrap();
    assert_eq!((stopped.state().batch, stopped.state().batches_in_step, stopped.state().step), (2, 2, 2));
    // No step since the epoch's end: the file still counts among the best.
    let files = CheckpointFolder::open(temporary.path(), Retention::new().last(9)).unwrap().list().unwrap();
    assert_eq!((files.len(), files[0].metric), (1, history.epochs()[0].validation_loss));

    let (mut resumed, again) = full(4, None);
    assert!(resumed.resume(temporary.path()).unwrap());
    for (mut trainer, weights) in [(stopped, here), (resumed, again)] {
        trainer.fit(&train, Some(&validation)).unwrap();
        assert_eq!(timeless(trainer.history()), timeless(&history));
        assert_eq!(bits(&weights), bits(&parameters));
    }
}

#[test]
fn a_stop_in_the_validation_loses_nothing() {
    /// Stops before the batch of the validation after so many.
    struct StopInValidation(usize);
    impl Callback for StopInValidation {
        fn name(&self) -> &str {
            "stop in validation"
        }
        fn validation_batch(&mut self, _: &Batch) -> crate::Result<Flow> {
            self.0 = self.0.wrapping_sub(1);
            Ok(if self.0 == usize::MAX { Flow::Stop("enough".into()) } else { Flow::Continue })
        }
    }
    let (train, validation) = loaders();
    let temporary = tempfile::tempdir().unwrap();
    let build = |batches: usize, folder: &str| {
        let (model, parameters) = normed(9);
        let checkpoints = Checkpoints::new(temporary.path().join(folder));
        let builder = configured(model, &parameters).epochs(3).train_metrics().checkpoints(checkpoints);
        (builder.callback(StopInValidation(batches)).quiet().build().unwrap(), parameters)
    };
    let (mut undisturbed, parameters) = build(1000, "undisturbed");
    let history = undisturbed.fit(&train, Some(&validation)).unwrap();
    // Three batches an epoch: in the middle of the second epoch's.
    let (mut stopped, here) = build(4, "stopped");
    let half = stopped.fit(&train, Some(&validation)).unwrap();
    assert_eq!((half.stopped(), half.epochs().len()), (Some("enough"), 1));
    assert_eq!((stopped.state().epoch, stopped.state().batch), (1, 4));
    let (mut resumed, again) = build(1000, "resumed");
    assert!(resumed.resume(temporary.path().join("stopped")).unwrap());
    for (mut trainer, weights) in [(stopped, here), (resumed, again)] {
        trainer.fit(&train, Some(&validation)).unwrap();
        assert_eq!(timeless(trainer.history()), timeless(&history));
        let accuracy = |history: &History| history.values("train_accuracy").unwrap();
        assert_eq!(accuracy(trainer.history()), accuracy(&history));
        assert!(!trainer.history().notes().iter().any(|note| note.contains("cover only")));
        assert_eq!(bits(&weights), bits(&parameters));
    }
}

#[test]
fn the_model_of_every_checkpoint_is_what_its_metric_is_of() {
    let (train, validation) = loaders();
    let temporary = tempfile::tempdir().unwrap();
    let (builder, parameters) = trainer(3);
    // Early stopping and the checkpoints watch different values.
    let accuracy = EarlyStopping::builder("accuracy").patience(3).build().unwrap();
    let checkpoints =
        Checkpoints::builder(temporary.path()).keep_last(2).keep_best(2, "validation_loss").build().unwrap();
    let builder = builder.epochs(40).learning_rate(0.8).early_stopping(accuracy).checkpoints(checkpoints);
    let history = builder.quiet().build().unwrap().fit(&train, Some(&validation)).unwrap();
    let best = history.best("accuracy").unwrap();
    assert!(history.stopped().is_some() && best.epoch < history.epochs().len());

    let folder = CheckpointFolder::open(temporary.path(), Retention::new().last(9)).unwrap();
    for saved in folder.list().unwrap() {
        let snapshot = crate::checkpoint::Snapshot::load(&saved.path).unwrap();
        let (model, mut weights) = mlp(1);
        snapshot.restore("model", &mut weights).unwrap();
        let loss = evaluate(&model, &CrossEntropy::default(), &validation, &mut []).unwrap().loss;
        assert_eq!(Some(loss), saved.metric, "step {}", saved.step);
    }
    let (_, mut held) = mlp(1);
    folder.latest().unwrap().unwrap().snapshot.restore("held weights", &mut held).unwrap();
    assert_eq!(bits(&held), bits(&parameters), "what early stopping brought back stands beside it");
}

#[test]
fn a_metric_added_on_resuming_knows_its_direction() {
    let (train, validation) = loaders();
    let temporary = tempfile::tempdir().unwrap();
    let build = || {
        let builder = trainer(3).0.epochs(1).learning_rate(0.1).quiet();
        builder.checkpoints(Checkpoints::new(temporary.path()))
    };
    build().build().unwrap().fit(&train, Some(&validation)).unwrap();
    let mut resumed = build().metric(crate::metrics::FBeta::new(3, 1.0).unwrap()).build().unwrap();
    assert!(resumed.resume(temporary.path()).unwrap());
    let name = resumed.training.metrics[1].name().to_owned();
    assert!(resumed.history().is_maximized(&name) && resumed.history().is_maximized("accuracy"));
    assert!(!resumed.history().is_maximized("validation_loss"));
}

#[test]
fn a_stopped_training_is_saved_stays_stopped_when_resumed_and_can_be_gone_on_with() {
    let (train, validation) = loaders();
    let temporary = tempfile::tempdir().unwrap();
    // A rate this high overshoots: the best epoch is neither the first nor the last.
    let build = |folder: &Path| {
        let (builder, parameters) = trainer(3);
        let checkpoints = Checkpoints::builder(folder).every_epochs(1000).every_steps(8).build().unwrap();
        let builder = builder.epochs(40).learning_rate(0.8).early_stopping(stopping(2)).checkpoints(checkpoints);
        (builder.quiet().build().unwrap(), parameters)
    };
    let (mut first, parameters) = build(temporary.path());
    let history = first.fit(&train, Some(&validation)).unwrap();
    let (epochs, best) = (history.epochs().len(), history.best("validation_loss").unwrap());
    assert!(history.stopped().unwrap().contains("has not improved") && best.epoch < epochs);
    let steps = |folder: &Path| {
        let folder = CheckpointFolder::open(folder, Retention::new()).unwrap();
        folder.list().unwrap().into_iter().map(|saved| saved.step).collect::<Vec<_>>()
    };
    // The last by every_steps, at an epoch's end, and the one of the stop.
    let last = 4 * epochs as u64;
    assert_eq!(steps(temporary.path()), if epochs % 2 == 0 { vec![last - 8, last] } else { vec![last - 4, last] });

    let (mut resumed, again) = build(temporary.path());
    assert!(resumed.resume(temporary.path()).unwrap());
    assert_eq!(bits(&again), bits(&parameters), "the best weights are there at once");
    let still = resumed.fit(&train, Some(&validation)).unwrap();
    assert_eq!((still.epochs().len(), still.stopped()), (epochs, history.stopped()));
    assert_eq!(bits(&again), bits(&parameters));

    let went_on = first.fit(&train, Some(&validation)).unwrap();
    assert!(went_on.epochs().len() >= epochs + 2, "patience is renewed: {went_on}");
    let undisturbed = {
        let (builder, _) = trainer(3);
        let mut trainer = builder.epochs(went_on.epochs().len()).learning_rate(0.8).quiet().build().unwrap();
        trainer.fit(&train, Some(&validation)).unwrap()
    };
    assert_eq!(timeless(&went_on), timeless(&undisturbed), "from the last weights, not the best");
}

#[test]
fn a_new_training_does_not_mix_with_the_checkpoints_of_another() {
    let (train, validation) = loaders();
    let temporary = tempfile::tempdir().unwrap();
    full(1, Some(temporary.path())).0.fit(&train, Some(&validation)).unwrap();
    let (mut second, _) = full(1, Some(temporary.path()));
    let text = second.fit(&train, Some(&validation)).unwrap_err().to_string();
    assert!(text.contains("`checkpoints`: expected a folder without checkpoints") && text.contains("step 2"), "{text}");
    assert!(second.resume(temporary.path()).unwrap());
    second.set_epochs(2);
    second.fit(&train, Some(&validation)).unwrap();
}

#[test]
fn what_is_not_finite_is_recorded_and_resumed() {
    struct Nothing(f64);
    impl crate::stateful::Stateful for Nothing {
        fn state(&self) -> crate::Result<State> {
            Ok(State::new())
        }
        fn load_state(&mut self, state: &State) -> crate::Result<()> {
            crate::stateful::none("nothing has no state", state)
        }
    }
    impl Metric for Nothing {
        fn name(&self) -> &str {
            "nothing"
        }
        fn direction(&self) -> crate::metrics::Direction {
            crate::metrics::Direction::Minimize
        }
        fn update(&mut self, _: &Tensor, _: &Tensor) -> crate::Result<()> {
            Ok(())
        }
        fn compute(&self) -> crate::Result<f64> {
            Ok(self.0)
        }
        fn merge(&mut self, other: &State) -> crate::Result<()> {
            crate::stateful::none("nothing has no state", other)
        }
        fn reset(&mut self) {}
    }
    let (train, _) = loaders();
    let not_finite = Tensor::full(f32::NAN, (3, 2), &candle_core::Device::Cpu).unwrap();
    let targets = Tensor::new(&[0u32, 1, 2], &candle_core::Device::Cpu).unwrap();
    let validation = TensorDataset::new(not_finite, targets).unwrap();
    let validation = DataLoader::builder(validation).build().unwrap();
    let temporary = tempfile::tempdir().unwrap();
    // Without accuracy, which has no value for NaN and says so.
    let plain = || {
        let (model, parameters) = mlp(3);
        let optimizer = Sgd::builder(&parameters).momentum(0.9).build().unwrap();
        Trainer::builder(model, &parameters, CrossEntropy::default(), optimizer).quiet()
    };
    let accuracy = plain()
        .epochs(1)
        .learning_rate(0.1)
        .metric(Accuracy::default())
        .build()
        .unwrap()
        .fit(&train, Some(&validation));
    assert!(accuracy.unwrap_err().to_string().contains("did the training diverge?"));
    let build = || {
        let builder = plain().epochs(2).learning_rate(0.1).metric(Nothing(f64::NEG_INFINITY));
        builder.checkpoints(Checkpoints::new(temporary.path())).build().unwrap()
    };
    let history = build().fit(&train, Some(&validation)).unwrap();
    assert!(history.values("validation_loss").unwrap()[0].is_nan());
    let mut resumed = build();
    assert!(resumed.resume(temporary.path()).unwrap());
    assert_eq!(format!("{:?}", resumed.history().epochs()), format!("{:?}", history.epochs()));
    let file = temporary.path().join("history.json");
    history.save(&file).unwrap();
    assert_eq!(format!("{:?}", History::load(&file).unwrap().epochs()), format!("{:?}", history.epochs()));

    // A schedule that follows the value says so; the epoch stays recorded, and nothing panics.
    let mut following = plain().epochs(3).schedule(plateau()).build().unwrap();
    for epochs in 1..=2 {
        assert!(following.fit(&train, Some(&validation)).is_err());
        assert_eq!(following.history().epochs().len(), epochs);
    }
}

#[test]
fn callbacks_of_one_name_are_saved_apart() {
    let (train, validation) = loaders();
    let temporary = tempfile::tempdir().unwrap();
    let build = || {
        let accuracy = EarlyStopping::builder("accuracy").patience(9).build().unwrap();
        let builder = trainer(3).0.epochs(1).learning_rate(0.1).early_stopping(stopping(7)).early_stopping(accuracy);
        builder.checkpoints(Checkpoints::new(temporary.path())).quiet().build().unwrap()
    };
    build().fit(&train, Some(&validation)).unwrap();
    let mut resumed = build();
    assert!(resumed.resume(temporary.path()).unwrap());
    let saved = |trainer: &mut Trainer, name: &str| {
        let numbers = trainer.snapshot().unwrap().get(name).unwrap()["numbers"].to_vec1::<f64>().unwrap();
        numbers[0]
    };
    let record = resumed.history().last().unwrap();
    assert_eq!(saved(&mut resumed, "callback early stopping"), record.validation_loss.unwrap());
    assert_eq!(saved(&mut resumed, "callback early stopping 2"), record.metric("accuracy").unwrap());

    // Both bring their best weights back, and the last ones are still there to go on from.
    let accuracy = EarlyStopping::builder("accuracy").patience(9).build().unwrap();
    let (builder, parameters) = trainer(3);
    let builder = builder.epochs(12).learning_rate(0.8).early_stopping(accuracy).early_stopping(stopping(50));
    let mut both = builder.quiet().build().unwrap();
    let history = both.fit(&train, Some(&validation)).unwrap();
    let (builder, last) = trainer(3);
    let mut plain = builder.epochs(history.epochs().len()).learning_rate(0.8).quiet().build().unwrap();
    plain.fit(&train, Some(&validation)).unwrap();
    assert_ne!(bits(&parameters), bits(&last));
    both.training.release().unwrap();
    assert_eq!(bits(&parameters), bits(&last));
}

#[test]
fn checkpoints_of_another_training_are_refused() {
    let (train, validation) = loaders();
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path().join("run");
    full(1, Some(&folder)).0.fit(&train, Some(&validation)).unwrap();
    let (mut plain, before) = {
        let (model, parameters) = mlp(1);
        let optimizer = AdamW::new(&parameters).unwrap();
        let builder = Trainer::builder(model, &parameters, CrossEntropy::default(), optimizer).learning_rate(0.1);
        (builder.quiet().build().unwrap(), parameters)
    };
    let untouched = bits(&before);
    let text = plain.resume(&folder).unwrap_err().to_string();
    assert!(text.contains("the checkpoint has an accumulator, this trainer has none"), "{text}");
    assert_eq!(bits(&before), untouched);
    assert!(!plain.resume(temporary.path().join("nowhere")).unwrap());

    let (model, parameters) = normed(9);
    let optimizer = AdamW::new(&parameters).unwrap();
    let builder = Trainer::builder(model, &parameters, CrossEntropy::default(), optimizer).learning_rate(0.1);
    let mut no_stopping = builder.accumulate(3).ema(0.9).quiet().build().unwrap();
    let text = no_stopping.resume(&folder).unwrap_err().to_string();
    assert!(text.contains("the state of callback early stopping, which this trainer lacks"), "{text}");

    // Found out after the model's weights have been read: they are set back.
    let (model, parameters) = normed(1);
    let optimizer = Sgd::builder(&parameters).momentum(0.9).build().unwrap();
    let builder = Trainer::builder(model, &parameters, CrossEntropy::default(), optimizer).learning_rate(0.1);
    let builder = builder.accumulate(3).ema(0.9).early_stopping(stopping(5));
    let mut other_optimizer = builder.metric(Accuracy::default()).quiet().build().unwrap();
    let untouched = bits(&parameters);
    let text = other_optimizer.resume(&folder).unwrap_err().to_string();
    assert!(text.contains("`optimizer` cannot be restored"), "{text}");
    assert_eq!(bits(&parameters), untouched);
    other_optimizer.fit(&train, Some(&validation)).unwrap();
}

#[test]
fn a_resumed_epoch_needs_the_same_loader() {
    let (train, validation) = loaders();
    let temporary = tempfile::tempdir().unwrap();
    let (mut first, _) = full(1, Some(temporary.path()));
    first.fit(&train, Some(&validation)).unwrap();
    let mut files: Vec<_> = std::fs::read_dir(temporary.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    std::fs::remove_file(&files[1]).unwrap();
    let (mut resumed, _) = full(2, None);
    assert!(resumed.resume(temporary.path()).unwrap());
    assert_eq!((resumed.state().epoch, resumed.state().batch), (0, 3));
    let text = resumed.fit(&validation, Some(&validation)).unwrap_err().to_string();
    assert!(text.contains("`train`: expected 4 batches an epoch"), "{text}");
}

#[test]
fn the_best_is_kept_besides_the_newest() {
    let (train, validation) = loaders();
    let temporary = tempfile::tempdir().unwrap();
    let (builder, _) = trainer(3);
    let checkpoints =
        Checkpoints::builder(temporary.path()).keep_last(1).keep_best(1, "validation_loss").build().unwrap();
    let mut trainer = builder.epochs(25).learning_rate(0.8).checkpoints(checkpoints).quiet().build().unwrap();
    let history = trainer.fit(&train, Some(&validation)).unwrap();
    let best = history.best("validation_loss").unwrap();
    let mut steps: Vec<usize> = std::fs::read_dir(temporary.path())
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy()[11..].parse().unwrap())
        .collect();
    steps.sort_unstable();
    assert!(best.epoch < 25, "the test wants a best epoch before the last");
    assert_eq!(steps, [best.step, 100]);
    let unknown = Checkpoints::builder(temporary.path()).keep_best(1, "acc").build().unwrap();
    let mut wrong = super::trainer_tests::trainer(3).0.learning_rate(0.1).checkpoints(unknown).quiet().build().unwrap();
    assert!(wrong.fit(&train, Some(&validation)).unwrap_err().to_string().contains("got `acc`"));
}

#[test]
fn a_plateau_follows_no_value_the_wrong_way_round() {
    use crate::direction::Direction::{Maximize, Minimize};
    let (train, validation) = loaders();
    let fit = |monitor: Option<&str>, mode| {
        let schedule = ReduceLROnPlateau::builder(0.02).mode(mode).build().unwrap();
        let mut builder = trainer(3).0.schedule(schedule).quiet();
        if let Some(name) = monitor {
            builder = builder.schedule_monitor(name);
        }
        builder.build().unwrap().fit(&train, Some(&validation)).map(|_| ())
    };
    for (monitor, mode) in [(None, Minimize), (Some("accuracy"), Maximize), (Some("train_loss"), Minimize)] {
        fit(monitor, mode).unwrap();
    }
    let text = fit(Some("accuracy"), Minimize).unwrap_err().to_string();
    assert!(text.contains("better when smaller") && text.contains("`accuracy`, better when larger"), "{text}");
    let text = fit(None, Maximize).unwrap_err().to_string();
    assert!(text.contains("better when larger") && text.contains("`validation_loss`, better when smaller"), "{text}");
}

#[test]
fn clipping_by_zero_and_groups_of_nothing_are_refused() {
    let text = |builder: TrainerBuilder| builder.learning_rate(0.1).build().map(|_| ()).unwrap_err().to_string();
    assert!(text(trainer(1).0.clip_norm(0.0)).contains("would erase every gradient"));
    assert!(text(trainer(1).0.clip_value(f64::NAN)).contains("`clip`"));
    assert!(text(trainer(1).0.accumulate(0)).contains("`batches`: expected at least 1"));
    assert!(text(trainer(1).0.ema(1.0)).contains("`decay`"));
    assert!(Checkpoints::builder("x").keep_best(0, "accuracy").build().unwrap_err().to_string().contains("keep_best"));
}
