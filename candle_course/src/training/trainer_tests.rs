//! The loop packaged against the loop written by hand, and the model and data that the tests here share.

use std::sync::{Arc, Mutex};

use candle_core::backprop::GradStore;
use candle_core::{DType, Tensor};

use super::*;
use crate::data::{Batch, DataLoader, TensorDataset};
use crate::error::{Error, Result};
use crate::losses::{CrossEntropy, Loss};
use crate::metrics::{Accuracy, Metric};
use crate::nn::{Activation, Dropout, Linear, Parameters, Sequential};
use crate::optimizers::{Optimizer as _, Sgd};
use crate::precision::Precision;
use crate::random::Generator;
use crate::schedules::Schedule;
use crate::test_support::device;

/// 60 points in the plane, in three classes that overlap a little.
pub(crate) fn points(seed: u64) -> TensorDataset {
    let mut generator = Generator::new(seed);
    let (mut x, mut y) = (Vec::new(), Vec::new());
    for i in 0..60u32 {
        let angle = f64::from(i % 3) * 2.1;
        x.push((2.0 * angle.cos() + 0.7 * generator.normal()) as f32);
        x.push((2.0 * angle.sin() + 0.7 * generator.normal()) as f32);
        y.push(i % 3);
    }
    let inputs = Tensor::from_vec(x, (60, 2), device()).unwrap();
    TensorDataset::new(inputs, Tensor::from_vec(y, 60, device()).unwrap()).unwrap()
}

/// Four batches of 16, the last one of 12; validation in batches of 25.
pub(crate) fn loaders() -> (DataLoader, DataLoader) {
    (
        DataLoader::builder(points(1)).batch_size(16).shuffle(5).build().unwrap(),
        DataLoader::builder(points(2)).batch_size(25).build().unwrap(),
    )
}

pub(crate) fn mlp(seed: u64) -> (Sequential, Parameters) {
    let parameters = Parameters::new(seed, device());
    let model = Sequential::new()
        .add(Linear::new(2, 16, &parameters.at("0")).unwrap())
        .add(Activation::Relu)
        .add(Dropout::new(0.2, &parameters.at("2")).unwrap())
        .add(Linear::new(16, 3, &parameters.at("3")).unwrap());
    (model, parameters)
}

pub(crate) fn trainer(seed: u64) -> (TrainerBuilder, Parameters) {
    let (model, parameters) = mlp(seed);
    let optimizer = Sgd::builder(&parameters).momentum(0.9).build().unwrap();
    let builder = Trainer::builder(model, &parameters, CrossEntropy::default(), optimizer).metric(Accuracy::default());
    (builder, parameters)
}

/// Fails after so many steps.
pub(crate) struct FailsAt(pub usize);

impl Callback for FailsAt {
    fn name(&self) -> &str {
        "fails"
    }
    fn step_end(&mut self, trainer: &mut Trainer) -> Result<Flow> {
        match trainer.state().step == self.0 {
            true => Err(Error::training("the disk is full")),
            false => Ok(Flow::Continue),
        }
    }
}

#[derive(Clone, Copy)]
struct Halving;

impl Schedule for Halving {
    fn learning_rate(&self, step: usize) -> f64 {
        0.1 * 0.5f64.powf(step as f64 / 5.0)
    }
}

#[test]
fn fit_is_the_raw_loop_bit_by_bit() {
    let (train, validation) = loaders();
    let loss = CrossEntropy::default();

    let (model, parameters) = mlp(3);
    let mut optimizer = Sgd::builder(&parameters).momentum(0.9).build().unwrap();
    let mut metrics: Vec<Box<dyn Metric>> = vec![Box::new(Accuracy::default())];
    let (mut losses, mut evaluations, mut step) = (Vec::new(), Vec::new(), 0);
    for epoch in 0..3 {
        for batch in train.epoch(epoch).unwrap() {
            let rate = Halving.learning_rate(step);
            let value = train_step(&model, &loss, &mut optimizer, &batch.unwrap(), rate).unwrap();
            losses.push(f64::from(value.to_scalar::<f32>().unwrap()).to_bits());
            step += 1;
        }
        evaluations.push(evaluate(&model, &loss, &validation, &mut metrics).unwrap());
    }

    let (builder, trained) = trainer(3);
    let mut trainer = builder.epochs(3).schedule(Halving).quiet().build().unwrap();
    let history = trainer.fit(&train, Some(&validation)).unwrap();
    assert_eq!(history.step_losses().into_iter().map(f64::to_bits).collect::<Vec<_>>(), losses);
    assert_eq!(losses.len(), 12);
    for (record, evaluation) in history.epochs().iter().zip(&evaluations) {
        assert_eq!(record.validation_loss.map(f64::to_bits), Some(evaluation.loss.to_bits()));
        assert_eq!(record.metrics, evaluation.metrics);
        assert_eq!(record.examples, 60);
    }
    for ((name, by_hand), (_, packaged)) in parameters.all().into_iter().zip(trained.all()) {
        let bits = |tensor: &Tensor| {
            let values = tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            values.into_iter().map(f32::to_bits).collect::<Vec<_>>()
        };
        assert_eq!(bits(&by_hand), bits(&packaged), "{name}");
    }
    assert_eq!(history.steps()[11].learning_rate, Halving.learning_rate(11));
    assert!(history.last().unwrap().metric("accuracy").unwrap() > 0.8, "{history}");
}

/// Rate and momentum fall with the position.
struct Falling;

impl Schedule for Falling {
    fn learning_rate(&self, position: usize) -> f64 {
        0.1 * 0.5f64.powi(position as i32)
    }
    fn momentum(&self, position: usize) -> Option<f64> {
        Some(0.9 - 0.05 * position as f64)
    }
}

#[test]
fn a_schedule_per_epoch_is_asked_with_the_epoch_for_rate_and_momentum() {
    let (train, validation) = loaders();
    let (model, parameters) = mlp(3);
    let mut optimizer = Sgd::builder(&parameters).momentum(0.9).build().unwrap();
    let (mut losses, mut rates) = (Vec::new(), Vec::new());
    for epoch in 0..3 {
        for batch in train.epoch(epoch).unwrap() {
            let rate = Falling.learning_rate(epoch);
            optimizer.set_momentum(Falling.momentum(epoch).unwrap()).unwrap();
            let loss = train_step(&model, &CrossEntropy::default(), &mut optimizer, &batch.unwrap(), rate).unwrap();
            losses.push(f64::from(loss.to_scalar::<f32>().unwrap()));
            rates.push(rate);
        }
    }
    let mut trainer = trainer(3).0.epochs(3).schedule_per_epoch(Falling).quiet().build().unwrap();
    let history = trainer.fit(&train, Some(&validation)).unwrap();
    assert_eq!(history.step_losses(), losses);
    assert_eq!(history.steps().iter().map(|step| step.learning_rate).collect::<Vec<_>>(), rates);
}

#[test]
fn training_in_pieces_is_training_in_one_go() {
    let (train, validation) = loaders();
    let run = |pieces: &[usize]| {
        let (builder, _) = trainer(4);
        let mut trainer = builder.learning_rate(0.05).quiet().build().unwrap();
        let mut history = History::default();
        for &epochs in pieces {
            trainer.set_epochs(epochs);
            history = trainer.fit(&train, Some(&validation)).unwrap();
        }
        history.step_losses()
    };
    assert_eq!(run(&[1, 3]), run(&[3]));
}

#[test]
fn what_cannot_be_trained_is_refused() {
    let (train, validation) = loaders();
    let text = |result: Result<Trainer>| result.map(|_| ()).unwrap_err().to_string();
    assert!(text(trainer(1).0.build()).contains("`learning_rate`: expected a learning rate or a schedule"));
    assert!(text(trainer(1).0.learning_rate(f64::NAN).build()).contains("got NaN"));
    let reduced = trainer(1).0.learning_rate(0.1).precision(Precision::Bf16).build();
    assert!(text(reduced).contains("`precision`: expected Precision::F32 on this device, got Bf16"));
    assert!(text(trainer(1).0.learning_rate(0.1).epochs(0).build()).contains("`epochs`: expected at least 1"));
    assert!(text(trainer(1).0.learning_rate(0.1).metric(Accuracy::default()).build()).contains("`accuracy` twice"));
    let (builder, parameters) = trainer(1);
    parameters.freeze("").unwrap();
    assert!(text(builder.learning_rate(0.1).build()).contains("at least one trainable parameter"));

    let mut trainer = trainer(1).0.learning_rate(0.1).quiet().build().unwrap();
    let error = trainer.fit(&train, None).unwrap_err().to_string();
    assert!(error.contains("`validation`: expected data to compute the metrics on"), "{error}");
    trainer.fit(&train, Some(&validation)).unwrap();
    let error = trainer.fit(&train, Some(&validation)).unwrap_err().to_string();
    assert!(error.contains("all 1 epochs are done"), "{error}");
}

#[test]
fn an_evaluation_within_an_epoch_is_told_apart_from_training() {
    struct Evaluates(DataLoader);
    impl Callback for Evaluates {
        fn name(&self) -> &str {
            "evaluates"
        }
        fn step_end(&mut self, trainer: &mut Trainer) -> Result<Flow> {
            if trainer.state().step == 2 {
                trainer.evaluate(&self.0)?;
            }
            Ok(Flow::Continue)
        }
    }
    let (train, validation) = loaders();
    let seen = Arc::new(Mutex::new(0));
    struct Counts(Arc<Mutex<usize>>);
    impl Metric for Counts {
        fn name(&self) -> &str {
            "examples"
        }
        fn direction(&self) -> crate::metrics::Direction {
            crate::metrics::Direction::Maximize
        }
        fn update(&mut self, _: &Tensor, targets: &Tensor) -> Result<()> {
            *self.0.lock().unwrap() += targets.elem_count();
            Ok(())
        }
        fn compute(&self) -> Result<f64> {
            Ok(*self.0.lock().unwrap() as f64)
        }
        fn reset(&mut self) {
            *self.0.lock().unwrap() = 0;
        }
    }
    let builder = trainer(1).0.learning_rate(0.1).train_metrics().metric(Counts(seen));
    let mut trainer = builder.callback(Evaluates(validation.clone())).quiet().build().unwrap();
    let history = trainer.fit(&train, Some(&validation)).unwrap();
    // 16 + 12 of the 60 come after the second step.
    assert_eq!(history.last().unwrap().metric("train_examples").unwrap(), 28.0);
    assert!(history.notes()[0].contains("cover only the batches after an evaluation"), "{history}");
}

#[derive(Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Callback for Log {
    fn name(&self) -> &str {
        "log"
    }
    fn fit_start(&mut self, _: &mut Trainer) -> Result<Flow> {
        self.0.lock().unwrap().push("fit_start".into());
        Ok(Flow::Continue)
    }
    fn epoch_start(&mut self, _: &mut Trainer) -> Result<Flow> {
        self.0.lock().unwrap().push("epoch_start".into());
        Ok(Flow::Continue)
    }
    fn batch_start(&mut self, _: &mut Trainer, _: &Batch) -> Result<Flow> {
        self.0.lock().unwrap().push("batch_start".into());
        Ok(Flow::Continue)
    }
    fn backward_end(&mut self, _: &mut Trainer, _: &mut GradStore) -> Result<Flow> {
        self.0.lock().unwrap().push("backward_end".into());
        Ok(Flow::Continue)
    }
    fn step_end(&mut self, trainer: &mut Trainer) -> Result<Flow> {
        self.0.lock().unwrap().push("step_end".into());
        Ok(if trainer.state().step == 1 { Flow::Stop("enough".into()) } else { Flow::Continue })
    }
    fn validation_start(&mut self, _: &mut Trainer) -> Result<Flow> {
        self.0.lock().unwrap().push("validation_start".into());
        Ok(Flow::Continue)
    }
    fn validation_batch(&mut self, _: &Batch) -> Result<Flow> {
        self.0.lock().unwrap().push("validation_batch".into());
        Ok(Flow::Continue)
    }
    fn epoch_end(&mut self, _: &mut Trainer) -> Result<Flow> {
        self.0.lock().unwrap().push("epoch_end".into());
        Ok(Flow::Continue)
    }
    fn fit_end(&mut self, _: &mut Trainer) -> Result<Flow> {
        self.0.lock().unwrap().push("fit_end".into());
        Ok(Flow::Continue)
    }
}

#[test]
fn events_come_in_the_printed_order_and_a_callback_can_stop() {
    let [train, validation] = [1, 2].map(|seed| DataLoader::builder(points(seed)).batch_size(60).build().unwrap());
    let log = Log::default();
    let events = log.0.clone();
    let mut trainer = trainer(1).0.epochs(5).learning_rate(0.1).callback(log).quiet().build().unwrap();
    assert!(trainer.order_of_events().to_string().contains("callbacks, in order: log"));
    let history = trainer.fit(&train, Some(&validation)).unwrap();
    let expected: Vec<&str> =
        callbacks::EVENTS.iter().map(|(name, _)| *name).filter(|name| *name != "fit_failed").collect();
    assert_eq!(*events.lock().unwrap(), expected);
    assert_eq!(history.stopped(), Some("enough"));
    assert_eq!(history.steps().len(), 1);
    assert!(history.to_string().ends_with("stopped: enough\n"), "{history}");
}

#[test]
fn parameters_without_gradient_are_named() {
    let (train, _) = loaders();
    let (model, parameters) = mlp(1);
    Linear::new(3, 3, &parameters.at("idle")).unwrap();
    let optimizer = Sgd::builder(&parameters).build().unwrap();
    let mut trainer = Trainer::builder(model, &parameters, CrossEntropy::default(), optimizer)
        .learning_rate(0.1)
        .quiet()
        .build()
        .unwrap();
    let error = trainer.fit(&train, None).unwrap_err().to_string();
    assert!(error.contains("`idle.bias`"), "{error}");
}

#[test]
fn a_loss_that_is_no_scalar_is_explained() {
    struct PerExample;
    impl Loss for PerExample {
        fn forward(&self, predictions: &Tensor, _: &Tensor) -> Result<Tensor> {
            Ok(predictions.sum(1)?.to_dtype(DType::F32)?)
        }
    }
    let (train, _) = loaders();
    let (model, parameters) = mlp(1);
    let optimizer = Sgd::builder(&parameters).build().unwrap();
    let mut trainer =
        Trainer::builder(model, &parameters, PerExample, optimizer).learning_rate(0.1).quiet().build().unwrap();
    let error = trainer.fit(&train, None).unwrap_err().to_string();
    assert!(error.contains("`loss`: expected a scalar") && error.contains("reduction"), "{error}");
}

#[test]
fn validation_examples_that_are_trained_on_are_noted() {
    use crate::data::{Subset, SubsetSampler};
    let (train, validation) = loaders();
    let history = |train: &DataLoader, validation: &DataLoader| {
        let mut trainer = trainer(1).0.learning_rate(0.1).quiet().build().unwrap();
        trainer.fit(train, Some(validation)).unwrap()
    };
    assert!(history(&train, &validation).notes().is_empty());
    let data = points(1);
    let loader = |indices: &[usize]| {
        let sampler = SubsetSampler::new(indices, 1).unwrap();
        DataLoader::builder(data.clone()).sampler(sampler).batch_size(10).build().unwrap()
    };
    let (first, rest): (Vec<usize>, Vec<usize>) = ((0..40).collect(), (38..60).collect());
    let note = history(&loader(&first), &loader(&rest)).notes()[0].clone();
    assert!(
        note.starts_with("warning: 2 of 22 validation examples are training examples too (index 38, 39)"),
        "{note}"
    );
    assert!(history(&loader(&first), &loader(&rest[2..])).notes().is_empty());
    // Parts cut out of one tensor are told by where they were.
    let cut = |from: usize, length: usize| {
        let [x, y] = [data.inputs(), data.targets()].map(|tensor| tensor.narrow(0, from, length).unwrap());
        DataLoader::builder(TensorDataset::new(x, y).unwrap()).build().unwrap()
    };
    assert!(history(&cut(0, 40), &cut(40, 20)).notes().is_empty());
    assert!(history(&cut(0, 41), &cut(40, 20)).notes()[0].contains("1 of 20 validation examples"));
    let part = DataLoader::builder(Subset::new(data.clone(), &[5, 50]).unwrap()).build().unwrap();
    assert!(history(&loader(&first), &part).notes()[0].contains("1 of 2 validation examples"));
}
