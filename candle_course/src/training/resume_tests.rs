//! Every feature together: equal to a loop written by hand, and resumed to the last bit.

use std::path::Path;

use candle_core::Tensor;

use super::trainer::tests::{loaders, mlp, trainer};
use super::*;
use crate::checkpoint::Checkpoint as _;
use crate::losses::CrossEntropy;
use crate::metrics::{Accuracy, Metric};
use crate::nn::Parameters;
use crate::optimizers::{AdamW, GradientAccumulator, Optimizer as _, WeightAverage, clip_gradient_norm};
use crate::schedules::{ReduceLROnPlateau, Schedule as _};
use crate::training::callbacks::{Checkpoints, EarlyStopping};

/// Dropout, accumulation of 3 of the 4 batches, clipping, averages, plateau, early stopping.
fn full(epochs: usize, folder: Option<&Path>) -> (Trainer, Parameters) {
    let (model, parameters) = mlp(9);
    let optimizer = AdamW::new(&parameters).build().unwrap();
    let mut builder = Trainer::new(model, &parameters, CrossEntropy::default(), optimizer)
        .epochs(epochs)
        .schedule(plateau())
        .accumulate(3)
        .clip_norm(0.5)
        .ema(0.9)
        .metric(Accuracy::default())
        .early_stopping(EarlyStopping::new("validation_loss").patience(50).restore_best(false).build().unwrap())
        .quiet();
    if let Some(folder) = folder {
        builder = builder.checkpoints(Checkpoints::new(folder).every_steps(1).keep_last(100).build().unwrap());
    }
    (builder.build().unwrap(), parameters)
}

fn plateau() -> ReduceLROnPlateau {
    ReduceLROnPlateau::new(0.02).factor(0.5).patience(0).build().unwrap()
}

fn bits(parameters: &Parameters) -> Vec<(String, Vec<u32>)> {
    let values = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let bits = |tensor: &Tensor| values(tensor).into_iter().map(f32::to_bits).collect();
    parameters.tensors().unwrap().iter().map(|(name, tensor)| (name.clone(), bits(tensor))).collect()
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
    let (model, parameters) = mlp(9);
    let mut optimizer = AdamW::new(&parameters).build().unwrap();
    let mut schedule = plateau();
    let mut group = GradientAccumulator::new(&parameters, 3).unwrap();
    let mut average = WeightAverage::exponential(&parameters).decay(0.9).build().unwrap();
    let mut metrics: Vec<Box<dyn Metric>> = vec![Box::new(Accuracy::default())];
    let mut validation_losses = Vec::new();
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
        average.swap().unwrap();
        schedule.observe(evaluation.loss).unwrap();
        validation_losses.push(evaluation.loss);
    }
    let (mut trainer, trained) = full(6, None);
    let history = trainer.fit(&train, Some(&validation)).unwrap();
    assert_eq!(bits(&parameters), bits(&trained));
    assert_eq!(history.values("validation_loss").unwrap(), validation_losses);
    // Four batches in groups of three: two steps an epoch.
    assert_eq!(history.last().unwrap().step, 12);
    assert!(trainer.gradient_norm().unwrap() > 0.0);
}

#[test]
fn a_training_resumed_from_any_checkpoint_ends_the_same_to_the_last_bit() {
    let (train, validation) = loaders();
    let temporary = tempfile::tempdir().unwrap();
    let all = temporary.path().join("all");
    let (mut undisturbed, parameters) = full(4, Some(&all));
    let history = undisturbed.fit(&train, Some(&validation)).unwrap();
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
            resumed.fit(&train, Some(&validation)).unwrap();
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
        fn step_end(&mut self, trainer: &mut Trainer) -> crate::Result<Flow> {
            Ok(if trainer.state().step == self.0 { Flow::Stop("here".into()) } else { Flow::Continue })
        }
    }
    let (train, validation) = loaders();
    let run = |stop: usize| {
        let (builder, parameters) = trainer(2);
        let mut trainer =
            builder.epochs(3).learning_rate(0.1).train_metrics().callback(StopAt(stop)).quiet().build().unwrap();
        while trainer.state().epoch < 3 {
            trainer.fit(&train, Some(&validation)).unwrap();
        }
        (timeless(trainer.history()), trainer.history().values("train_accuracy").unwrap(), bits(&parameters))
    };
    assert_eq!(run(6), run(usize::MAX));
}

#[test]
fn checkpoints_of_another_training_are_refused() {
    let (train, validation) = loaders();
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path().join("run");
    full(1, Some(&folder)).0.fit(&train, Some(&validation)).unwrap();
    let (mut plain, before) = {
        let (model, parameters) = mlp(1);
        let optimizer = AdamW::new(&parameters).build().unwrap();
        let builder = Trainer::new(model, &parameters, CrossEntropy::default(), optimizer).learning_rate(0.1);
        (builder.quiet().build().unwrap(), parameters)
    };
    let untouched = bits(&before);
    let text = plain.resume(&folder).unwrap_err().to_string();
    assert!(text.contains("the checkpoint has an accumulator, this trainer has none"), "{text}");
    assert_eq!(bits(&before), untouched);
    assert!(!plain.resume(temporary.path().join("nowhere")).unwrap());

    let (model, parameters) = mlp(9);
    let optimizer = AdamW::new(&parameters).build().unwrap();
    let builder = Trainer::new(model, &parameters, CrossEntropy::default(), optimizer).learning_rate(0.1);
    let mut no_stopping = builder.accumulate(3).ema(0.9).quiet().build().unwrap();
    let text = no_stopping.resume(&folder).unwrap_err().to_string();
    assert!(text.contains("the state of callback early stopping, which this trainer lacks"), "{text}");
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
    let checkpoints = Checkpoints::new(temporary.path()).keep_last(1).keep_best(1, "validation_loss").build().unwrap();
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
    let unknown = Checkpoints::new(temporary.path()).keep_best(1, "acc").build().unwrap();
    let mut wrong =
        super::trainer::tests::trainer(3).0.learning_rate(0.1).checkpoints(unknown).quiet().build().unwrap();
    assert!(wrong.fit(&train, Some(&validation)).unwrap_err().to_string().contains("got `acc`"));
}

#[test]
fn clipping_by_zero_and_groups_of_nothing_are_refused() {
    let text = |builder: TrainerBuilder| builder.learning_rate(0.1).build().map(|_| ()).unwrap_err().to_string();
    assert!(text(trainer(1).0.clip_norm(0.0)).contains("would erase every gradient"));
    assert!(text(trainer(1).0.clip_value(f64::NAN)).contains("`clip`"));
    assert!(text(trainer(1).0.accumulate(0)).contains("`batches`: expected at least 1"));
    assert!(text(trainer(1).0.ema(1.0)).contains("`decay`"));
    assert!(Checkpoints::new("x").keep_best(0, "accuracy").build().unwrap_err().to_string().contains("keep_best"));
}
