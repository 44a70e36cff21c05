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
use crate::stateful::State;
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
    fn step_end(&mut self, training: &mut Training) -> Result<Flow> {
        match training.state().step == self.0 {
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
        fn step_end(&mut self, training: &mut Training) -> Result<Flow> {
            if training.state().step == 2 {
                training.evaluate(&self.0)?;
            }
            Ok(Flow::Continue)
        }
    }
    let (train, validation) = loaders();
    let seen = Arc::new(Mutex::new(0));
    struct Counts(Arc<Mutex<usize>>);
    impl crate::stateful::Stateful for Counts {
        fn state(&self) -> Result<State> {
            Ok(State::from([(
                "count".to_owned(),
                Tensor::new(*self.0.lock().unwrap() as i64, &candle_core::Device::Cpu)?,
            )]))
        }
        fn load_state(&mut self, state: &State) -> Result<()> {
            *self.0.lock().unwrap() = state["count"].to_scalar::<i64>()? as usize;
            Ok(())
        }
    }
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
        fn merge(&mut self, other: &State) -> Result<()> {
            *self.0.lock().unwrap() += other["count"].to_scalar::<i64>()? as usize;
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
    fn fit_start(&mut self, _: &mut Training) -> Result<Flow> {
        self.0.lock().unwrap().push("fit_start".into());
        Ok(Flow::Continue)
    }
    fn epoch_start(&mut self, _: &mut Training) -> Result<Flow> {
        self.0.lock().unwrap().push("epoch_start".into());
        Ok(Flow::Continue)
    }
    fn batch_start(&mut self, _: &mut Training, _: &Batch) -> Result<Flow> {
        self.0.lock().unwrap().push("batch_start".into());
        Ok(Flow::Continue)
    }
    fn backward_end(&mut self, _: &mut Training, _: &mut GradStore) -> Result<Flow> {
        self.0.lock().unwrap().push("backward_end".into());
        Ok(Flow::Continue)
    }
    fn step_end(&mut self, training: &mut Training) -> Result<Flow> {
        self.0.lock().unwrap().push("step_end".into());
        Ok(if training.state().step == 1 { Flow::Stop("enough".into()) } else { Flow::Continue })
    }
    fn validation_start(&mut self, _: &mut Training) -> Result<Flow> {
        self.0.lock().unwrap().push("validation_start".into());
        Ok(Flow::Continue)
    }
    fn validation_batch(&mut self, _: &Batch) -> Result<Flow> {
        self.0.lock().unwrap().push("validation_batch".into());
        Ok(Flow::Continue)
    }
    fn validation_end(&mut self, _: &mut Training, _: &Evaluation) -> Result<Flow> {
        self.0.lock().unwrap().push("validation_end".into());
        Ok(Flow::Continue)
    }
    fn epoch_end(&mut self, _: &mut Training) -> Result<Flow> {
        self.0.lock().unwrap().push("epoch_end".into());
        Ok(Flow::Continue)
    }
    fn fit_end(&mut self, _: &mut Training) -> Result<Flow> {
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
    let optimizer = Sgd::new(&parameters).unwrap();
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
    let optimizer = Sgd::new(&parameters).unwrap();
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

struct Hears(Arc<Mutex<Vec<String>>>);

impl Callback for Hears {
    fn name(&self) -> &str {
        "hears"
    }
    fn fit_end(&mut self, _: &mut Training) -> Result<Flow> {
        self.0.lock().unwrap().push("end".into());
        Ok(Flow::Continue)
    }
    fn fit_failed(&mut self, training: &mut Training, error: &Error) -> Result<()> {
        self.0.lock().unwrap().push(format!("failed after step {}: {error}", training.state().step));
        Err(Error::training("and this, too"))
    }
}

#[test]
fn every_callback_hears_of_a_failure_and_the_first_error_is_the_one_given() {
    let (train, validation) = loaders();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hears = || Hears(heard.clone());
    let builder = trainer(3).0.epochs(3).learning_rate(0.1).callback(hears()).callback(FailsAt(6));
    let mut trainer = builder.callback(hears()).quiet().build().unwrap();
    let error = trainer.fit(&train, Some(&validation)).unwrap_err().to_string();
    assert!(error.contains("callback `fails` failed") && error.contains("the disk is full"), "{error}");
    let told = format!("failed after step 6: {error}");
    assert_eq!(*heard.lock().unwrap(), [told.clone(), told]);
    assert!(trainer.history().notes()[0].contains("and this, too"), "{:?}", trainer.history().notes());
    // The epoch can be gone on with, and its end is heard.
    trainer.fit(&train, Some(&validation)).unwrap();
    assert_eq!(heard.lock().unwrap()[2..], ["end", "end"]);
}

/// Panics after so many steps.
struct PanicsAt(usize);

impl Callback for PanicsAt {
    fn name(&self) -> &str {
        "panics"
    }
    fn step_end(&mut self, training: &mut Training) -> Result<Flow> {
        assert!(training.state().step != self.0, "boom");
        Ok(Flow::Continue)
    }
    fn validation_batch(&mut self, _: &Batch) -> Result<Flow> {
        assert!(self.0 != 0, "boom");
        Ok(Flow::Continue)
    }
}

#[test]
fn a_panic_within_fit_takes_no_callback_no_checkpoint_and_no_weight_away() {
    use crate::training::callbacks::Checkpoints;
    let (train, validation) = loaders();
    let temporary = tempfile::tempdir().unwrap();
    for at in [6, 0] {
        let build = |callback: Option<PanicsAt>, folder: &str| {
            let (mut builder, parameters) = trainer(3);
            builder = builder.epochs(3).learning_rate(0.1).ema(0.9);
            if let Some(callback) = callback {
                builder = builder.callback(callback);
            }
            let checkpoints = Checkpoints::new(temporary.path().join(format!("{at} {folder}")));
            (builder.checkpoints(checkpoints).quiet().build().unwrap(), parameters)
        };
        let (mut calm, expected) = build(None, "calm");
        calm.fit(&train, Some(&validation)).unwrap();
        let (mut shaken, parameters) = build(Some(PanicsAt(at)), "shaken");
        let text = shaken.fit(&train, Some(&validation)).unwrap_err().to_string();
        assert_eq!(text, "callback `panics` failed\n  caused by: it panicked: boom");
        assert_eq!(shaken.callbacks.names(), ["panics"]);
        shaken.callbacks.find::<PanicsAt>().unwrap().0 = usize::MAX;
        shaken.fit(&train, Some(&validation)).unwrap();
        let folder = shaken.checkpoints.as_ref().unwrap().folder();
        assert_eq!(std::fs::read_dir(folder).unwrap().count(), 2, "the checkpoints of the last two epochs");
        for ((name, calm), (_, shaken)) in expected.all().into_iter().zip(parameters.all()) {
            let values = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(values(&calm), values(&shaken), "{name}, panic at step {at}");
        }
    }
}

/// Logits are the inputs times a weight that begins at 1: gradients by hand.
fn scaled(loss: impl Loss + 'static, accumulate: usize, rate: f64) -> Result<(Trainer, Parameters)> {
    let parameters = Parameters::with_dtype(0, DType::F64, device());
    let weight = parameters.root().parameter("weight", 3, crate::nn::Init::ONES)?;
    let model = candle_nn::func(move |xs| {
        let shape: Vec<usize> = (0..xs.rank()).map(|axis| if axis == 1 { 3 } else { 1 }).collect();
        xs.broadcast_mul(&weight.reshape(shape)?)
    });
    let optimizer = Sgd::new(&parameters)?;
    let builder = Trainer::builder(model, &parameters, loss, optimizer).learning_rate(rate).accumulate(accumulate);
    Ok((builder.quiet().build()?, parameters))
}

fn dataset(inputs: &Tensor, targets: &Tensor, batch_size: usize) -> DataLoader {
    let data = TensorDataset::new(inputs.clone(), targets.clone()).unwrap();
    DataLoader::builder(data).batch_size(batch_size).build().unwrap()
}

/// `[N, 3, …]`, not the same anywhere.
fn logits(shape: &[usize]) -> Tensor {
    let mut generator = Generator::new(4);
    let values: Vec<f64> = (0..shape.iter().product()).map(|_| 2.0 * generator.normal()).collect();
    Tensor::from_vec(values, shape, device()).unwrap()
}

/// Two sequences with six labels and one; eight images whose classes weigh 1, 1 and 10; the same as
/// a sum of two losses that are means of different things.
fn unequal() -> Vec<(&'static str, Box<dyn Fn() -> Box<dyn Loss>>, Tensor, Tensor)> {
    let tokens = Tensor::new(&[[0i64, 1, 2, 0, 1, 2], [1, -100, -100, -100, -100, -100]], device()).unwrap();
    let classes = Tensor::new(&[2u32, 0, 1, 0, 0, 1, 0, 0], device()).unwrap();
    let ignoring = || CrossEntropy::builder().ignore_index(-100).build().unwrap();
    vec![
        ("ignored positions", Box::new(move || Box::new(ignoring())), logits(&[2, 3, 6]), tokens.clone()),
        (
            "class weights",
            Box::new(|| Box::new(CrossEntropy::builder().class_weights([1.0, 1.0, 10.0]).build().unwrap())),
            logits(&[8, 3]),
            classes,
        ),
        (
            "a sum of both",
            Box::new(move || {
                let weighted =
                    CrossEntropy::builder().ignore_index(-100).class_weights([1.0, 2.0, 5.0]).build().unwrap();
                let sum = crate::losses::WeightedSum::builder().term("a", 0.5, ignoring()).term("b", 2.0, weighted);
                Box::new(sum.build().unwrap())
            }),
            logits(&[2, 3, 6]),
            tokens,
        ),
    ]
}

#[test]
fn accumulated_batches_step_as_the_large_batch_does() {
    for (what, loss, inputs, targets) in unequal() {
        let n = inputs.dims()[0];
        let step = |batch_size: usize| {
            let (mut trainer, parameters) = scaled(loss(), n / batch_size, 1.0).unwrap();
            let history = trainer.fit(&dataset(&inputs, &targets, batch_size), None).unwrap();
            assert_eq!(history.steps().len(), 1);
            let weights = parameters.get("weight").unwrap().to_vec1::<f64>().unwrap();
            (weights, history.steps()[0].loss, history.epochs()[0].train_loss)
        };
        let (weights, loss, mean) = step(n);
        assert!((loss - mean).abs() < 1e-12, "{what}");
        for batch_size in [1, 2].into_iter().filter(|size| *size < n) {
            let (split, split_loss, split_mean) = step(batch_size);
            for (got, expected) in split.iter().zip(&weights) {
                assert!((got - expected).abs() < 1e-12, "{what}, batches of {batch_size}: {split:?} {weights:?}");
            }
            assert!((split_loss - loss).abs() < 1e-12 && (split_mean - loss).abs() < 1e-12, "{what}");
        }
        // Weighted by examples alone, the step would be another one.
        let mut plain = averaged(&inputs, &targets, &*loss_of(&unequal(), what));
        plain.iter_mut().zip(&weights).for_each(|(plain, weight)| *plain -= weight);
        assert!(plain.iter().any(|difference| difference.abs() > 0.01), "{what}: the test does not tell");
    }
}

fn loss_of(cases: &[(&'static str, Box<dyn Fn() -> Box<dyn Loss>>, Tensor, Tensor)], what: &str) -> Box<dyn Loss> {
    cases.iter().find(|case| case.0 == what).unwrap().1()
}

/// The weights after a step with the mean of the gradients of single examples.
fn averaged(inputs: &Tensor, targets: &Tensor, loss: &dyn Loss) -> Vec<f64> {
    let weight = candle_core::Var::new(&[1f64, 1.0, 1.0], device()).unwrap();
    let n = inputs.dims()[0];
    let shape: Vec<usize> = (0..inputs.rank()).map(|axis| if axis == 1 { 3 } else { 1 }).collect();
    let mut weights = vec![1.0; 3];
    for i in 0..n {
        let predictions = inputs.narrow(0, i, 1).unwrap().broadcast_mul(&weight.reshape(&shape[..]).unwrap()).unwrap();
        let value = loss.forward(&predictions, &targets.narrow(0, i, 1).unwrap()).unwrap();
        let gradient = value.backward().unwrap().get(&weight).unwrap().to_vec1::<f64>().unwrap();
        weights.iter_mut().zip(gradient).for_each(|(weight, gradient)| *weight -= gradient / n as f64);
    }
    weights
}

#[test]
fn the_loss_of_a_set_does_not_depend_on_the_batch_size() {
    // One labelled and three ignored images: an average over batches gives a quarter, a half, the whole.
    let targets = Tensor::new(&[1i64, -100, -100, -100], device()).unwrap();
    let one = (logits(&[4, 3]), targets);
    let ignoring = CrossEntropy::builder().ignore_index(-100).build().unwrap();
    let whole = ignoring.forward(&one.0, &one.1).unwrap().to_scalar::<f64>().unwrap();
    assert!(whole > 0.01);
    for size in 1..=4 {
        let (mut trainer, _) = scaled(ignoring.clone(), 1, 0.0).unwrap();
        let loader = dataset(&one.0, &one.1, size);
        let history = trainer.fit(&loader, Some(&loader)).unwrap();
        let record = history.last().unwrap();
        assert!((record.validation_loss.unwrap() - whole).abs() < 1e-12, "batches of {size}: {record:?}");
        assert!((record.train_loss - whole).abs() < 1e-12, "batches of {size}: {record:?}");
        assert!((trainer.evaluate(&loader).unwrap().loss - whole).abs() < 1e-12);
    }
    for (what, loss, inputs, targets) in unequal() {
        let evaluated =
            |size: usize| scaled(loss(), 1, 0.0).unwrap().0.evaluate(&dataset(&inputs, &targets, size)).unwrap().loss;
        let whole = evaluated(inputs.dims()[0]);
        assert!((evaluated(1) - whole).abs() < 1e-12, "{what}: {} {whole}", evaluated(1));
    }
}

#[test]
fn a_loss_that_cannot_be_split_is_not_accumulated() {
    let text = scaled(crate::losses::Rmse, 2, 0.1).map(|_| ()).unwrap_err().to_string();
    assert!(text.contains("`accumulate`: expected 1 with this loss"), "{text}");
    // One that does not say so before it sees a batch is refused in the first.
    struct Silent;
    impl Loss for Silent {
        fn forward(&self, predictions: &Tensor, _: &Tensor) -> Result<Tensor> {
            Ok(predictions.sqr()?.mean_all()?.sqrt()?)
        }
    }
    let loader = dataset(&logits(&[4, 3]), &Tensor::zeros(4, DType::U32, device()).unwrap(), 2);
    let (mut trainer, parameters) = scaled(Silent, 2, 0.1).unwrap();
    let text = trainer.fit(&loader, None).unwrap_err().to_string();
    assert!(text.contains("cannot be accumulated: it does not say what it is a mean of"), "{text}");
    assert_eq!(parameters.get("weight").unwrap().to_vec1::<f64>().unwrap(), [1.0; 3]);
    // Alone it trains.
    scaled(Silent, 1, 0.1).unwrap().0.fit(&loader, None).unwrap();
}

#[test]
fn a_group_of_unequal_batches_is_resumed_to_the_last_bit() {
    let cases = unequal();
    let (_, _, inputs, targets) = &cases[1];
    let build = || scaled(loss_of(&unequal(), "class weights"), 3, 0.5).unwrap();
    let loader = dataset(inputs, targets, 1);
    let (mut whole, expected) = build();
    let history = whole.fit(&loader, None).unwrap();
    struct StopAfter(usize);
    impl Callback for StopAfter {
        fn name(&self) -> &str {
            "stop after"
        }
        fn batch_start(&mut self, training: &mut Training, _: &Batch) -> Result<Flow> {
            Ok(if training.state().batch == self.0 { Flow::Stop("here".into()) } else { Flow::Continue })
        }
    }
    for after in 0..7 {
        let (mut stopped, _) = build();
        stopped.callbacks.push(Box::new(StopAfter(after)));
        stopped.fit(&loader, None).unwrap();
        let snapshot = stopped.snapshot().unwrap();
        let (mut resumed, parameters) = build();
        resumed.restore(&snapshot).unwrap();
        let again = resumed.fit(&loader, None).unwrap();
        assert_eq!(again.step_losses(), history.step_losses(), "after {after}");
        assert_eq!(again.epochs()[0].train_loss, history.epochs()[0].train_loss, "after {after}");
        let weights = |parameters: &Parameters| parameters.get("weight").unwrap().to_vec1::<f64>().unwrap();
        assert_eq!(weights(&parameters), weights(&expected), "after {after}");
    }
}
