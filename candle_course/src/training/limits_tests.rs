//! Trainings that end early, take part of the data, or look in between: against those that do not.

use std::time::Duration;

use candle_core::Tensor;

use super::trainer_tests::{loaders, trainer};
use super::*;
use crate::data::{Batch, DataLoader};
use crate::error::Result;
use crate::training::callbacks::Checkpoints;

/// Four batches an epoch.
fn builder() -> TrainerBuilder {
    trainer(3).0.learning_rate(0.1).train_metrics().ema(0.9).quiet()
}

fn weights(trainer: &Trainer) -> Vec<u32> {
    let all = trainer.training().parameters().all();
    let numbers = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    all.iter().flat_map(|(_, var)| numbers(var)).map(f32::to_bits).collect()
}

fn losses(history: &History) -> Vec<u64> {
    history.step_losses().into_iter().map(f64::to_bits).collect()
}

#[test]
fn max_steps_ends_in_mid_epoch_and_more_of_them_go_on_to_the_same_bits() {
    let (train, validation) = loaders();
    let folder = tempfile::tempdir().unwrap();
    let mut whole = builder().epochs(4).build().unwrap();
    let expected = whole.fit(&train, Some(&validation)).unwrap();
    for (steps, epochs) in [(6, 1), (7, 1), (13, 3), (16, 4)] {
        // As many epochs as the steps take.
        let mut part = builder().max_steps(steps).checkpoints(Checkpoints::new(folder.path())).build().unwrap();
        part.resume(folder.path()).unwrap();
        let history = part.fit(&train, Some(&validation)).unwrap();
        assert_eq!((history.steps().len(), history.epochs().len()), (steps, epochs));
        assert_eq!(losses(&history), losses(&expected)[..steps]);
        assert!(history.stopped().unwrap_or_default().contains("`max_steps`") || steps == 16, "{history}");
        let text = part.fit(&train, Some(&validation)).unwrap_err().to_string();
        assert!(text.contains("are done"), "{text}");
        if steps == 16 {
            assert_eq!(weights(&part), weights(&whole));
        }
    }
    // Of two batches each, an epoch has two steps.
    let mut grouped = builder().max_steps(5).accumulate(2).build().unwrap();
    let history = grouped.fit(&train, Some(&validation)).unwrap();
    assert_eq!((history.steps().len(), history.epochs().len(), grouped.state().batch), (5, 2, 2));
    // Epochs that are named bound it too.
    let history = builder().epochs(1).max_steps(1000).build().unwrap().fit(&train, Some(&validation)).unwrap();
    assert_eq!((history.steps().len(), history.stopped()), (4, None));
}

#[test]
fn max_time_ends_every_call_and_nothing_is_lost() {
    let (train, validation) = loaders();
    let mut whole = builder().epochs(2).build().unwrap();
    let expected = whole.fit(&train, Some(&validation)).unwrap();
    // Over before the first batch is done: a batch each call.
    let mut calls = builder().epochs(2).max_time(Duration::from_nanos(1)).build().unwrap();
    let mut history = History::default();
    for call in 1..=8 {
        history = calls.fit(&train, Some(&validation)).unwrap();
        assert_eq!(history.steps().len(), call);
    }
    assert_eq!((losses(&history), weights(&calls)), (losses(&expected), weights(&whole)));
    assert!(history.stopped().unwrap().contains("`max_time`"), "{history}");
    let history = builder().epochs(2).max_time(Duration::from_secs(3600)).build().unwrap();
    assert_eq!({ history }.fit(&train, Some(&validation)).unwrap().stopped(), None);
}

#[test]
fn limited_batches_are_the_first_of_each_epoch() {
    let (train, validation) = loaders();
    let mut limited = builder().epochs(2).limit_batches(3).limit_validation_batches(1).build().unwrap();
    let history = limited.fit(&train, Some(&validation)).unwrap();
    assert_eq!(history.epochs().iter().map(|record| record.examples).collect::<Vec<_>>(), [48, 48]);
    let first = validation.epoch(0).unwrap().next().unwrap().unwrap();
    let data = crate::data::TensorDataset::new(first.inputs.clone(), first.targets).unwrap();
    let only = DataLoader::builder(data).batch_size(25).build().unwrap();
    let evaluation = limited.evaluate(&only).unwrap();
    assert_eq!(history.last().unwrap().validation_loss, Some(evaluation.loss));
    // More than there are is all of them.
    let mut all = builder().epochs(1).limit_batches(100).build().unwrap();
    assert_eq!(all.fit(&train, Some(&validation)).unwrap().last().unwrap().examples, 60);
}

#[test]
fn overfitting_takes_the_same_batches_in_every_epoch() {
    struct Seen(std::sync::Arc<std::sync::Mutex<Vec<Vec<usize>>>>);
    impl Callback for Seen {
        fn name(&self) -> &str {
            "seen"
        }
        fn batch_start(&mut self, _: &mut Training, batch: &Batch) -> Result<Flow> {
            self.0.lock().unwrap().push(batch.indices.clone());
            Ok(Flow::Continue)
        }
    }
    let (train, validation) = loaders();
    for overfit in [true, false] {
        let seen = std::sync::Arc::default();
        let limit = |builder: TrainerBuilder| match overfit {
            true => builder.overfit_batches(2),
            false => builder.limit_batches(2),
        };
        let mut trainer = limit(builder().epochs(3).callback(Seen(std::sync::Arc::clone(&seen)))).build().unwrap();
        trainer.fit(&train, Some(&validation)).unwrap();
        let seen = seen.lock().unwrap();
        assert_eq!(seen.len(), 6);
        assert_eq!(seen[..2] == seen[2..4] && seen[..2] == seen[4..], overfit);
    }
}

#[test]
fn validations_between_steps_change_nothing_and_find_what_a_training_up_to_there_finds() {
    let (train, validation) = loaders();
    let mut plain = builder().epochs(3).build().unwrap();
    let expected = plain.fit(&train, Some(&validation)).unwrap();
    let mut between = builder().epochs(3).validate_every_steps(3).build().unwrap();
    let history = between.fit(&train, Some(&validation)).unwrap();
    assert_eq!((losses(&history), weights(&between)), (losses(&expected), weights(&plain)));
    for (a, b) in history.epochs().iter().zip(expected.epochs()) {
        assert_eq!(
            (&a.metrics, &a.train_metrics, a.validation_loss),
            (&b.metrics, &b.train_metrics, b.validation_loss)
        );
    }
    // Not at step 12: the epoch's record has that.
    let steps: Vec<usize> = history.evaluations().iter().map(|evaluation| evaluation.step).collect();
    assert_eq!(steps, [3, 6, 9]);
    let mut up_to = builder().max_steps(6).build().unwrap();
    up_to.fit(&train, Some(&validation)).unwrap();
    let evaluation = up_to.evaluate(&validation).unwrap();
    assert_eq!(
        (history.evaluations()[1].loss, &history.evaluations()[1].metrics),
        (evaluation.loss, &evaluation.metrics)
    );
    // They are part of what is saved.
    let folder = tempfile::tempdir().unwrap();
    history.save(folder.path().join("history.json")).unwrap();
    assert_eq!(History::load(folder.path().join("history.json")).unwrap().evaluations(), history.evaluations());
    let text = builder().validate_every_steps(1).build().unwrap().fit(&train, None).unwrap_err().to_string();
    assert!(text.contains("data to validate on between steps"), "{text}");
}

#[test]
fn who_stops_at_a_validation_s_end_stops_the_training_there() {
    struct Below(f64);
    impl Callback for Below {
        fn name(&self) -> &str {
            "below"
        }
        fn validation_end(&mut self, _: &mut Training, evaluation: &Evaluation) -> Result<Flow> {
            Ok(if evaluation.loss < self.0 { Flow::Stop("good enough".into()) } else { Flow::Continue })
        }
    }
    let (train, validation) = loaders();
    let mut trainer = builder().epochs(50).validate_every_steps(1).callback(Below(0.8)).build().unwrap();
    let history = trainer.fit(&train, Some(&validation)).unwrap();
    assert_eq!(history.stopped(), Some("good enough"));
    let last = history.evaluations().last().unwrap();
    assert!(last.loss < 0.8 && history.evaluations().iter().rev().skip(1).all(|evaluation| evaluation.loss >= 0.8));
    assert_eq!(history.steps().len(), last.step);
    // At an epoch's end the record is made first.
    let mut trainer = builder().epochs(50).callback(Below(0.8)).build().unwrap();
    let history = trainer.fit(&train, Some(&validation)).unwrap();
    assert!(history.last().unwrap().validation_loss.unwrap() < 0.8 && history.stopped().is_some());
}

#[test]
fn a_rehearsal_leaves_everything_as_it_was() {
    let (train, validation) = loaders();
    let mut plain = builder().epochs(2).build().unwrap();
    let expected = plain.fit(&train, Some(&validation)).unwrap();
    let mut rehearsed = builder().epochs(1).build().unwrap();
    let found = rehearsed.fast_run(&train, Some(&validation)).unwrap().unwrap();
    assert!(found.loss.is_finite() && found.metrics[0].0 == "accuracy" && found.examples == 25);
    rehearsed.fit(&train, Some(&validation)).unwrap();
    rehearsed.fast_run(&train, Some(&validation)).unwrap();
    rehearsed.set_epochs(2);
    let history = rehearsed.fit(&train, Some(&validation)).unwrap();
    assert_eq!((losses(&history), weights(&rehearsed)), (losses(&expected), weights(&plain)));
    assert_eq!(history.epochs()[1].train_metrics, expected.epochs()[1].train_metrics);
    // What would fail after an epoch fails now, and nothing has changed.
    let wide = DataLoader::builder(wide()).batch_size(4).build().unwrap();
    let mut fails = builder().epochs(1).build().unwrap();
    let before = weights(&fails);
    let text = fails.fast_run(&train, Some(&wide)).unwrap_err().to_string();
    assert!(text.contains("the rehearsal failed; nothing has changed"), "{text}");
    assert_eq!((weights(&fails), fails.state().step), (before, 0));
    assert_eq!(fails.fit(&train, Some(&validation)).unwrap().steps().len(), 4);
}

/// Points of three coordinates, where the model takes two.
fn wide() -> crate::data::TensorDataset {
    let zeros = |shape: &[usize], dtype| Tensor::zeros(shape, dtype, crate::test_support::device()).unwrap();
    let inputs = zeros(&[8, 3], candle_core::DType::F32);
    crate::data::TensorDataset::new(inputs, zeros(&[8], candle_core::DType::U32)).unwrap()
}

#[test]
fn predictions_are_the_model_s_outputs_by_the_averaged_weights() {
    let (train, validation) = loaders();
    let mut trainer = builder().epochs(2).build().unwrap();
    trainer.fit(&train, Some(&validation)).unwrap();
    let found = trainer.predict(&train).unwrap();
    assert_eq!((found.outputs.dims(), found.targets.dims(), found.indices.len()), (&[60, 3][..], &[60][..], 60));
    let order: Vec<usize> = train.epoch(0).unwrap().flat_map(|batch| batch.unwrap().indices).collect();
    assert_eq!(found.indices, order);
    let accuracy = crate::metrics::accuracy(&found.outputs, &found.targets).unwrap();
    let evaluation = trainer.evaluate(&train).unwrap();
    assert_eq!(evaluation.metrics[0].1, accuracy);
    let last = predict(&**trainer.training().model(), &train).unwrap();
    let difference = (last.outputs - found.outputs).unwrap().abs().unwrap().max_all().unwrap();
    assert!(difference.to_scalar::<f32>().unwrap() > 0.0, "the average is not the last weights");
}

#[test]
fn an_epoch_s_time_is_split() {
    let (train, validation) = loaders();
    let history = builder().epochs(2).build().unwrap().fit(&train, Some(&validation)).unwrap();
    for record in history.epochs() {
        let StepTimes { data, forward, backward, optimizer } = record.times;
        assert!([data, forward, backward, optimizer].iter().all(|&seconds| seconds > 0.0), "{:?}", record.times);
        assert!(record.times.total() <= record.train_seconds);
    }
    let sum: f64 = history.epochs().iter().map(|record| record.times.total()).sum();
    assert!((history.times().total() - sum).abs() < 1e-9);
    let times = StepTimes { data: 1.0, forward: 3.0, backward: 5.0, optimizer: 1.0 };
    assert_eq!(times.to_string(), "data 10 %, forward 30 %, backward 50 %, optimizer 10 %");
}

#[test]
fn limits_of_nothing_are_refused() {
    for (builder, name) in [
        (builder().max_steps(0), "max_steps"),
        (builder().max_time(Duration::ZERO), "max_time"),
        (builder().limit_batches(0), "limit_batches"),
        (builder().overfit_batches(0), "limit_batches"),
        (builder().limit_validation_batches(0), "limit_validation_batches"),
        (builder().validate_every_steps(0), "validate_every_steps"),
    ] {
        let text = builder.build().map(drop).unwrap_err().to_string();
        assert!(text.contains(name), "{text}");
    }
}
