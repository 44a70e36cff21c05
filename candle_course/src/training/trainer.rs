//! The loop, packaged.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use candle_core::Tensor;
use candle_core::backprop::GradStore;

use crate::data::{Batch, DataLoader};
use crate::error::{Context, Result};
use crate::losses::Loss;
use crate::metrics::Metric;
use crate::nn::{Model, Parameters};
use crate::optimizers::{GradientAccumulator, GradientNorm, Optimizer, WeightAverage};
use crate::precision::Precision;
use crate::schedules::Schedule;
use crate::training::builder::Clip;
use crate::training::callbacks::Checkpoints;
use crate::training::guard::Guard;
use crate::training::losses::DeviceLosses;
use crate::training::step::{Backward, metric_values};
use crate::training::{Callback, EpochRecord, Evaluation, Flow, History, TrainState, TrainerBuilder, forward_backward};

/// A training: model, loss, optimizer, and everything around the loop.
///
/// [`Trainer::fit`] does what a loop written by hand with [`train_step`](crate::training::train_step)
/// and [`evaluate`](crate::training::evaluate) does, in the same order and to the same bit. Between backward and optimizer
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
/// let train = DataLoader::builder(TensorDataset::new(x, y)?).batch_size(4).shuffle(1).build()?;
/// let optimizer = Sgd::builder(&parameters).build()?;
/// let mut trainer = Trainer::builder(model, &parameters, CrossEntropy::default(), optimizer)
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
    /// The training metrics of an epoch whose validation was interrupted.
    pub(super) train_values: Option<Vec<(String, f64)>>,
    pub(super) callbacks: Vec<Box<dyn Callback>>,
    pub(super) checkpoints: Option<Checkpoints>,
    pub(super) precision: Precision,
    pub(super) epochs: usize,
    pub(super) validating: bool,
    pub(super) state: TrainState,
    /// The losses of the running epoch, a batch each.
    pub(super) running: DeviceLosses,
    pub(super) gradient_norm: Option<GradientNorm>,
    /// The last weights, while the model holds the best ones; training goes on from them.
    pub(super) displaced: Option<BTreeMap<String, Tensor>>,
    pub(super) guard: Guard,
    pub(super) history: History,
}

impl Trainer {
    /// Trains `model`, whose variables are `parameters`. Clones of a model share its variables, so
    /// pass a clone to keep the model at hand.
    pub fn builder(
        model: impl Model + 'static,
        parameters: &Parameters,
        loss: impl Loss + 'static,
        optimizer: impl Optimizer + 'static,
    ) -> TrainerBuilder {
        TrainerBuilder::new(Arc::new(model), parameters, Arc::new(loss), Box::new(optimizer))
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
    pub(super) fn epochs_left(
        &mut self,
        train: &DataLoader,
        validation: Option<&DataLoader>,
        callbacks: &mut [&mut dyn Callback],
    ) -> Result<()> {
        let _precision = self.precision.scope(self.parameters.device())?;
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
                stop = stop.or(self.end_epoch(started, before, validation, callbacks)?);
                if stop.is_none() && self.state.epoch < self.epochs {
                    self.save_if_due(callbacks, true)?;
                }
            }
        }
        self.record_steps()?;
        self.history.set_stopped(stop);
        self.tell(callbacks, |callback, trainer| callback.fit_end(trainer))?;
        self.save(callbacks)
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
        if let Some(momentum) = self.schedule.momentum(self.schedule_position()) {
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

    /// Validation and the epoch's record. If a callback stops the validation, the epoch stays
    /// unfinished, with all its batches done.
    fn end_epoch(
        &mut self,
        started: Instant,
        before: f64,
        validation: Option<&DataLoader>,
        callbacks: &mut [&mut dyn Callback],
    ) -> Result<Option<String>> {
        self.guard.read(&self.state, &self.parameters)?;
        self.optimizer.settle()?;
        let train_metrics = match self.train_values.take() {
            Some(values) => values,
            None if self.train_metrics => metric_values(&self.metrics)?,
            None => Vec::new(),
        };
        let train_loss = self.running.mean()?; // waits for the device: the time below is all of the training's
        let train_seconds = before + started.elapsed().as_secs_f64();
        let evaluation = match validation.map(|loader| self.validate(loader, callbacks)).transpose()? {
            Some(ControlFlow::Break(reason)) => {
                self.train_values = Some(train_metrics);
                return Ok(Some(reason));
            }
            Some(ControlFlow::Continue(evaluation)) => Some(evaluation),
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
        let observed = match &self.schedule_monitor {
            Some(name) => record.metric(name),
            None => Ok(record.validation_loss.unwrap_or(record.train_loss)),
        };
        self.history.push(record);
        self.schedule.observe(observed?)?;
        self.tell(callbacks, |callback, trainer| callback.epoch_end(trainer))
    }

    /// Every callback hears the event; the first reason to stop counts.
    pub(super) fn tell(
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

    pub(super) fn scheduled_rate(&self) -> f64 {
        self.schedule.learning_rate(self.schedule_position())
    }

    /// What the schedule is asked with: the epoch or the step, counted from 0.
    fn schedule_position(&self) -> usize {
        if self.schedule_per_epoch { self.state.epoch } else { self.state.step }
    }
}
