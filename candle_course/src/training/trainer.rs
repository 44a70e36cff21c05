//! The loop, packaged.

use std::sync::Arc;
use std::time::Instant;

use candle_core::backprop::GradStore;

use crate::data::{Batch, DataLoader};
use crate::error::{Context, Error, Result};
use crate::losses::Loss;
use crate::metrics::{Direction, Metric};
use crate::nn::{Model, Parameters};
use crate::optimizers::{GradientAccumulator, Optimizer, WeightAverage};
use crate::schedules::{Constant, Schedule};
use crate::training::builder::Clip;
use crate::training::callbacks::Checkpoints;
use crate::training::guard::Guard;
use crate::training::losses::DeviceLosses;
use crate::training::step::{Backward, metric_values};
use crate::training::{
    Callback, EpochRecord, Evaluation, Flow, History, TrainState, TrainerBuilder, evaluate, forward_backward,
};

/// A training: model, loss, optimizer, and everything around the loop.
///
/// [`Trainer::fit`] does what a loop written by hand with [`train_step`](crate::training::train_step)
/// and [`evaluate`] does, in the same order and to the same bit. Between backward and optimizer
/// step it leaves one seam, in this order: accumulation, the callbacks' `backward_end` (an
/// all-reduce of data-parallel training fits in there), clipping.
///
/// Mixed precision: candle 0.11 has no autocast and no loss scaling, so none is offered. Parameters
/// and activations have the dtype of [`Parameters`]; bf16 throughout works on a GPU, with the
/// optimizers' state in f32, and loses accuracy where f32 master weights would not.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let parameters = Parameters::new(0, &Device::Cpu);
/// let model = Linear::new(1, 2, &parameters.at("fc"))?;
/// let x = Tensor::arange(-8f32, 8., &Device::Cpu)?.reshape((16, 1))?;
/// let y = x.flatten_all()?.ge(0f32)?.to_dtype(DType::U32)?;
/// let train = DataLoader::new(TensorDataset::new(x, y)?).batch_size(4).shuffle(1).build()?;
/// let optimizer = Sgd::new(&parameters).build()?;
/// let mut trainer = Trainer::new(model, &parameters, CrossEntropy::default(), optimizer)
///     .epochs(3)
///     .learning_rate(0.1)
///     .metric(Accuracy::default())
///     .build()?;
/// let history = trainer.fit(&train, Some(&train))?;
/// assert_eq!(history.epochs().len(), 3);
/// assert!(history.best("accuracy")?.metric("accuracy")? > 0.9);
/// # Ok::<(), candle_course::Error>(())
/// ```
pub struct Trainer {
    pub(super) model: Arc<dyn Model>,
    pub(super) parameters: Parameters,
    pub(super) loss: Arc<dyn Loss>,
    pub(super) optimizer: Box<dyn Optimizer>,
    pub(super) schedule: Box<dyn Schedule>,
    pub(super) schedule_per_epoch: bool,
    pub(super) schedule_monitor: Option<String>,
    pub(super) accumulator: Option<GradientAccumulator>,
    pub(super) clip: Option<Clip>,
    pub(super) average: Option<WeightAverage>,
    pub(super) metrics: Vec<Box<dyn Metric>>,
    pub(super) train_metrics: bool,
    pub(super) callbacks: Vec<Box<dyn Callback>>,
    pub(super) checkpoints: Option<Checkpoints>,
    pub(super) epochs: usize,
    pub(super) validating: bool,
    pub(super) state: TrainState,
    /// The losses of the running epoch, a batch each.
    pub(super) running: DeviceLosses,
    pub(super) gradient_norm: Option<f64>,
    pub(super) guard: Guard,
    pub(super) history: History,
}

impl Trainer {
    /// Trains `model`, whose variables are `parameters`. Clones of a model share its variables, so
    /// pass a clone to keep the model at hand.
    #[allow(clippy::new_ret_no_self)] // a builder, as everywhere in this crate
    pub fn new(
        model: impl Model + 'static,
        parameters: &Parameters,
        loss: impl Loss + 'static,
        optimizer: impl Optimizer + 'static,
    ) -> TrainerBuilder {
        TrainerBuilder::new(Arc::new(model), parameters, Arc::new(loss), Box::new(optimizer))
    }

    pub(super) fn from_builder(builder: TrainerBuilder) -> Result<Self> {
        let mut callbacks: Vec<Box<dyn Callback>> = builder.callbacks;
        if let Some(progress) = builder.progress {
            callbacks.push(Box::new(progress));
        }
        let maximized = builder.metrics.iter().filter(|metric| metric.direction() == Direction::Maximize);
        let history = History::new(maximized.map(|metric| metric.name().to_owned()).collect());
        let accumulator = match builder.accumulate {
            1 => None,
            batches => Some(GradientAccumulator::new(&builder.parameters, batches)?),
        };
        let average = match builder.average {
            Some(decay) => Some(WeightAverage::exponential(&builder.parameters).decay(decay).build()?),
            None => None,
        };
        let mut guard = Guard::default();
        let checkpoint_folder = builder.checkpoints.as_ref().map(|checkpoints| checkpoints.folder().to_owned());
        builder.last_finite_folder.or(checkpoint_folder).iter().for_each(|folder| guard.set_folder(folder));
        let mut trainer = Self {
            model: builder.model,
            parameters: builder.parameters,
            loss: builder.loss,
            optimizer: builder.optimizer,
            schedule: builder.schedule.unwrap_or_else(|| Box::new(Constant(0.0))),
            schedule_per_epoch: builder.schedule_per_epoch,
            schedule_monitor: builder.schedule_monitor,
            accumulator,
            clip: builder.clip,
            average,
            metrics: builder.metrics,
            train_metrics: builder.train_metrics,
            callbacks,
            checkpoints: builder.checkpoints,
            epochs: builder.epochs,
            validating: false,
            state: TrainState::default(),
            running: DeviceLosses::default(),
            gradient_norm: None,
            guard,
            history,
        };
        trainer.state.learning_rate = trainer.scheduled_rate();
        Ok(trainer)
    }

    /// Trains until the configured number of epochs is done; goes on where the last call, or the
    /// checkpoint of [`Trainer::resume`], ended. With `validation`, loss and metrics are computed on
    /// it after every epoch, in evaluation mode.
    ///
    /// # Errors
    /// If all epochs are done already, a loader has no batches, there are metrics but no validation
    /// data, shapes do not fit, a parameter receives no gradient, inputs or loss are not finite, or a
    /// callback fails.
    pub fn fit(&mut self, train: &DataLoader, validation: Option<&DataLoader>) -> Result<History> {
        self.check(train, validation)?;
        let mut callbacks = std::mem::take(&mut self.callbacks);
        let mut listeners: Vec<&mut dyn Callback> =
            callbacks.iter_mut().map(|callback| &mut **callback as &mut dyn Callback).collect();
        let result = self.run(train, validation, &mut listeners);
        self.callbacks = callbacks;
        result?;
        Ok(self.history.clone())
    }

    /// The loop.
    pub(super) fn run(
        &mut self,
        train: &DataLoader,
        validation: Option<&DataLoader>,
        callbacks: &mut [&mut dyn Callback],
    ) -> Result<()> {
        self.start(train, validation)?;
        let mut stop = self.tell(callbacks, |callback, trainer| callback.fit_start(trainer))?;
        while stop.is_none() && self.state.epoch < self.epochs {
            if self.state.batch == 0 {
                self.begin_epoch();
            }
            let (started, before) = (Instant::now(), self.state.seconds);
            stop = self.tell(callbacks, |callback, trainer| callback.epoch_start(trainer))?;
            for batch in train.epoch_from(self.state.epoch, self.state.batch)? {
                if stop.is_some() {
                    break;
                }
                let batch = batch?;
                stop = self.tell(callbacks, |callback, trainer| callback.batch_start(trainer, &batch))?;
                let stopped = self.batch(&batch, callbacks)?;
                self.state.seconds = before + started.elapsed().as_secs_f64();
                self.save_if_due(callbacks, false)?;
                stop = stop.or(stopped);
            }
            if self.state.batch == train.len() {
                self.end_epoch(started, before, validation, callbacks)?;
                stop = stop.or(self.tell(callbacks, |callback, trainer| callback.epoch_end(trainer))?);
                self.save_if_due(callbacks, true)?;
            }
        }
        self.record_steps()?;
        self.history.set_stopped(stop);
        self.tell(callbacks, |callback, trainer| callback.fit_end(trainer))?;
        Ok(())
    }

    /// Forward and backward; then, unless gradients are still being accumulated, a step.
    fn batch(&mut self, batch: &Batch, callbacks: &mut [&mut dyn Callback]) -> Result<Option<String>> {
        self.state.learning_rate = self.scheduled_rate();
        self.guard.before_step(batch, &self.parameters, &self.state)?;
        let Backward { predictions, loss, gradients } = forward_backward(&*self.model, &*self.loss, batch)?;
        self.guard.after_forward(&loss, batch, &self.state, &self.parameters)?;
        self.running.push(loss, batch.len());
        self.state.batch += 1;
        self.state.batches_in_step += 1;
        if self.train_metrics {
            self.metrics.iter_mut().try_for_each(|metric| metric.update(&predictions, &batch.targets))?;
        }
        let Some(mut gradients) = self.accumulated(gradients, batch.len())? else { return Ok(None) };
        let stop = self.tell(callbacks, |callback, trainer| callback.backward_end(trainer, &mut gradients))?;
        if let Some(clip) = self.clip {
            self.gradient_norm = clip.apply(&self.parameters, &mut gradients)?;
        }
        if let Some(momentum) = self.schedule.momentum(self.state.step) {
            self.optimizer.set_momentum(momentum)?;
        }
        self.optimizer.step(&gradients, self.state.learning_rate).with_context(|| {
            format!(
                "step {} failed (epoch {}, examples {:?})",
                self.state.step + 1,
                self.state.epoch + 1,
                batch.indices
            )
        })?;
        self.state.step += 1;
        self.average.as_mut().map_or(Ok(()), WeightAverage::update)?;
        self.history.note_step(self.state.step, self.state.learning_rate, self.state.batches_in_step);
        self.state.batches_in_step = 0;
        Ok(stop.or(self.tell(callbacks, |callback, trainer| callback.step_end(trainer))?))
    }

    /// The gradients to step with, or nothing while their group is not full. An epoch's last group
    /// may be smaller, and is weighted by its examples.
    fn accumulated(&mut self, gradients: GradStore, examples: usize) -> Result<Option<GradStore>> {
        let last = self.state.batch == self.state.batches_per_epoch;
        match &mut self.accumulator {
            None => Ok(Some(gradients)),
            Some(group) => match group.add(gradients, examples)? || last {
                true => Ok(Some(group.take()?)),
                false => Ok(None),
            },
        }
    }

    fn begin_epoch(&mut self) {
        self.running = DeviceLosses::default();
        self.state.seconds = 0.0;
        self.metrics.iter_mut().for_each(|metric| metric.reset());
    }

    fn end_epoch(
        &mut self,
        started: Instant,
        before: f64,
        validation: Option<&DataLoader>,
        callbacks: &mut [&mut dyn Callback],
    ) -> Result<()> {
        self.guard.read(&self.state, &self.parameters)?;
        let train_metrics = if self.train_metrics { metric_values(&self.metrics)? } else { Vec::new() };
        let train_loss = self.running.mean()?; // waits for the device: the time below is all of the training's
        let train_seconds = before + started.elapsed().as_secs_f64();
        let evaluation = match validation {
            Some(loader) => {
                self.tell(callbacks, |callback, trainer| callback.validation_start(trainer))?;
                Some(self.evaluate(loader)?)
            }
            None => None,
        };
        self.record_steps()?;
        self.state.epoch += 1;
        self.state.batch = 0;
        let (validation_loss, metrics) = match evaluation {
            Some(Evaluation { loss, metrics, .. }) => (Some(loss), metrics),
            None => (None, Vec::new()),
        };
        let record = EpochRecord {
            epoch: self.state.epoch,
            step: self.state.step,
            train_loss,
            validation_loss,
            metrics,
            train_metrics,
            learning_rate: self.state.learning_rate,
            seconds: before + started.elapsed().as_secs_f64(),
            train_seconds,
            examples: self.running.examples(),
        };
        if let Some(name) = &self.schedule_monitor {
            self.schedule.observe(record.metric(name)?)?;
        } else {
            self.schedule.observe(record.validation_loss.unwrap_or(record.train_loss))?;
        }
        self.history.push(record);
        Ok(())
    }

    /// Every callback hears the event; the first reason to stop counts.
    fn tell(
        &mut self,
        callbacks: &mut [&mut dyn Callback],
        mut event: impl FnMut(&mut dyn Callback, &mut Trainer) -> Result<Flow>,
    ) -> Result<Option<String>> {
        let mut stop = None;
        for callback in callbacks.iter_mut() {
            let flow = event(&mut **callback, self)
                .map_err(|error| error.context(format!("callback `{}` failed", callback.name())))?;
            if let (Flow::Stop(reason), None) = (flow, &stop) {
                stop = Some(reason);
            }
        }
        Ok(stop)
    }

    /// Moves the losses of the steps so far into the history.
    pub(super) fn record_steps(&mut self) -> Result<()> {
        self.history.record_steps(&self.running.values()?, self.running.counts());
        Ok(())
    }

    fn scheduled_rate(&self) -> f64 {
        self.schedule.learning_rate(if self.schedule_per_epoch { self.state.epoch } else { self.state.step })
    }

    /// What must be known before the first callback hears anything.
    fn start(&mut self, train: &DataLoader, validation: Option<&DataLoader>) -> Result<()> {
        if self.state.batch > 0 && self.state.batches_per_epoch != train.len() {
            return Err(Error::argument(
                "train",
                format!("{} batches an epoch, as when the running epoch began", self.state.batches_per_epoch),
                train.len(),
            )
            .hint("to resume in the middle of an epoch, data and batch size must be the same"));
        }
        self.state.batches_per_epoch = train.len();
        self.validating = validation.is_some();
        self.history.set_stopped(None);
        if let Some(name) = &self.schedule_monitor
            && !self.monitors().contains(name)
        {
            return Err(self.unknown_monitor(name));
        }
        let mut checkpoints = self.checkpoints.take();
        let result = checkpoints.as_mut().map_or(Ok(()), |checkpoints| checkpoints.start(self));
        self.checkpoints = checkpoints;
        result?;
        self.note_overlap(train, validation)
    }

    pub(super) fn check(&self, train: &DataLoader, validation: Option<&DataLoader>) -> Result<()> {
        if self.state.epoch >= self.epochs {
            return Err(Error::training(format!("all {} epochs are done", self.epochs)).hint(
                "train for longer with `trainer.set_epochs(…)`, or build a new model and trainer to start afresh",
            ));
        }
        for (name, loader) in [("train", Some(train)), ("validation", validation)] {
            if loader.is_some_and(DataLoader::is_empty) {
                return Err(Error::argument(name, "at least one batch", 0)
                    .hint("with drop_last, is the data set smaller than a batch?"));
            }
        }
        if validation.is_none() && !self.metrics.is_empty() && !self.train_metrics {
            return Err(Error::argument("validation", "data to compute the metrics on", "none")
                .hint("pass a validation loader, or add `.train_metrics()`"));
        }
        Ok(())
    }

    /// Loss and metrics on other data, in evaluation mode: the test set, at the end. With
    /// [`ema`](TrainerBuilder::ema), of the averaged weights.
    ///
    /// # Errors
    /// As [`evaluate`].
    pub fn evaluate(&mut self, loader: &DataLoader) -> Result<Evaluation> {
        self.swap_average()?;
        let result = evaluate(&*self.model, &*self.loss, loader, &mut self.metrics);
        self.swap_average()?;
        result
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use candle_core::{DType, Device, Tensor};

    use super::*;
    use crate::data::TensorDataset;
    use crate::losses::CrossEntropy;
    use crate::metrics::Accuracy;
    use crate::nn::{Activation, Dropout, Linear, Sequential};
    use crate::optimizers::Sgd;
    use crate::random::Generator;
    use crate::training::train_step;

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
        let inputs = Tensor::from_vec(x, (60, 2), &Device::Cpu).unwrap();
        TensorDataset::new(inputs, Tensor::from_vec(y, 60, &Device::Cpu).unwrap()).unwrap()
    }

    /// Four batches of 16, the last one of 12; validation in batches of 25.
    pub(crate) fn loaders() -> (DataLoader, DataLoader) {
        (
            DataLoader::new(points(1)).batch_size(16).shuffle(5).build().unwrap(),
            DataLoader::new(points(2)).batch_size(25).build().unwrap(),
        )
    }

    pub(crate) fn mlp(seed: u64) -> (Sequential, Parameters) {
        let parameters = Parameters::new(seed, &Device::Cpu);
        let model = Sequential::new()
            .add(Linear::new(2, 16, &parameters.at("0")).unwrap())
            .add(Activation::Relu)
            .add(Dropout::new(0.2, &parameters.at("2")).unwrap())
            .add(Linear::new(16, 3, &parameters.at("3")).unwrap());
        (model, parameters)
    }

    pub(crate) fn trainer(seed: u64) -> (TrainerBuilder, Parameters) {
        let (model, parameters) = mlp(seed);
        let optimizer = Sgd::new(&parameters).momentum(0.9).build().unwrap();
        let builder = Trainer::new(model, &parameters, CrossEntropy::default(), optimizer).metric(Accuracy::default());
        (builder, parameters)
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
        let mut optimizer = Sgd::new(&parameters).momentum(0.9).build().unwrap();
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

    #[derive(Default)]
    struct Log(Arc<std::sync::Mutex<Vec<String>>>);

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
        fn batch_start(&mut self, _: &mut Trainer, _: &crate::data::Batch) -> Result<Flow> {
            self.0.lock().unwrap().push("batch_start".into());
            Ok(Flow::Continue)
        }
        fn backward_end(&mut self, _: &mut Trainer, _: &mut candle_core::backprop::GradStore) -> Result<Flow> {
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
        let (_, validation) = loaders();
        let train = DataLoader::new(points(1)).batch_size(60).build().unwrap();
        let log = Log::default();
        let events = log.0.clone();
        let mut trainer = trainer(1).0.epochs(5).learning_rate(0.1).callback(log).quiet().build().unwrap();
        assert!(trainer.order_of_events().to_string().contains("callbacks, in order: log"));
        let history = trainer.fit(&train, Some(&validation)).unwrap();
        assert_eq!(*events.lock().unwrap(), crate::training::callbacks::EVENTS.map(|(name, _)| name.to_owned()));
        assert_eq!(history.stopped(), Some("enough"));
        assert_eq!(history.steps().len(), 1);
        assert!(history.to_string().ends_with("stopped: enough\n"), "{history}");
    }

    #[test]
    fn parameters_without_gradient_are_named() {
        let (train, _) = loaders();
        let (model, parameters) = mlp(1);
        Linear::new(3, 3, &parameters.at("idle")).unwrap();
        let optimizer = Sgd::new(&parameters).build().unwrap();
        let mut trainer = Trainer::new(model, &parameters, CrossEntropy::default(), optimizer)
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
        let optimizer = Sgd::new(&parameters).build().unwrap();
        let mut trainer =
            Trainer::new(model, &parameters, PerExample, optimizer).learning_rate(0.1).quiet().build().unwrap();
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
            DataLoader::new(data.clone()).sampler(sampler).batch_size(10).build().unwrap()
        };
        let (first, rest): (Vec<usize>, Vec<usize>) = ((0..40).collect(), (38..60).collect());
        let note = history(&loader(&first), &loader(&rest)).notes()[0].clone();
        assert!(
            note.starts_with("warning: 2 of 22 validation examples are training examples too (index 38, 39)"),
            "{note}"
        );
        assert!(history(&loader(&first), &loader(&rest[2..])).notes().is_empty());
        let part = DataLoader::new(Subset::new(data.clone(), &[5, 50]).unwrap()).build().unwrap();
        assert!(history(&loader(&first), &part).notes()[0].contains("1 of 2 validation examples"));
    }
}
