//! The loop, packaged.

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::Instant;

use crate::checkpoint::GeneratorStates;
use crate::data::{Batch, DataLoader};
use crate::error::{Context, Error, Result, panicked};
use crate::kernels::tape::Tape;
use crate::losses::Loss;
use crate::nn::{Model, Parameters};
use crate::notebook::Table;
use crate::optimizers::{GradientAccumulator, Optimizer, WeightAverage};
use crate::stateful::Stateful as _;
use crate::training::callbacks::{Callbacks, Checkpoints, EVENTS};
use crate::training::losses::DeviceLosses;
use crate::training::ranks::Turn;
use crate::training::step::{evaluate_while, metric_values};
use crate::training::{
    Callback, EpochRecord, Evaluation, History, StepEvaluation, StepTimes, TrainState, TrainerBuilder, Training,
};

/// A [`Training`], with those who listen to it and the folder it is saved in.
///
/// [`Trainer::fit`] does what a loop written by hand with [`train_step`](crate::training::train_step)
/// and [`evaluate`](crate::training::evaluate) does, in the same order and to the same bit. Between backward and optimizer
/// step it leaves one seam, in this order: accumulation, the sum over all ranks
/// ([`distributed`](crate::training::TrainerBuilder::distributed)), the callbacks' `backward_end`, clipping.
///
/// Mixed precision: [`precision`](crate::training::TrainerBuilder::precision) says in what a CUDA device
/// multiplies, f32 unless told otherwise; parameters, gradients and the optimizer's state stay f32.
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
/// let optimizer = Sgd::new(&parameters)?;
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
    pub(super) training: Training,
    pub(super) callbacks: Callbacks,
    pub(super) checkpoints: Option<Checkpoints>,
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
    /// If all epochs are done already, a loader has no batches or is not of this rank, there are metrics but no validation
    /// data, shapes do not fit, a parameter receives no gradient, a model of candle's own layers has
    /// wrong ones ([`check_gradients`](crate::training::check_gradients)), inputs or loss are not finite, a
    /// callback, the data set or the sampler fails or panics, or another training saves into the
    /// folder of the checkpoints.
    ///
    /// # Panics
    /// If the model, the loss, a metric, the optimizer or the schedule does. The callbacks are told of a
    /// failure first, and nothing is lost: the next call goes on.
    pub fn fit(&mut self, train: &DataLoader, validation: Option<&DataLoader>) -> Result<History> {
        if self.training.ranks.is_none() {
            return self.fit_here(train, validation);
        }
        let result = catch_unwind(AssertUnwindSafe(|| self.fit_here(train, validation)));
        let ranks = self.training.ranks.as_ref();
        match &result {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => ranks.iter().for_each(|ranks| ranks.give_up(&error.to_string())),
            Err(panic) => ranks.iter().for_each(|ranks| ranks.give_up(&panicked("the training", &**panic))),
        }
        result.unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// [`Trainer::fit`] of this rank.
    fn fit_here(&mut self, train: &DataLoader, validation: Option<&DataLoader>) -> Result<History> {
        self.training.check(train, validation)?;
        self.training.start(train, validation)?;
        if let Some(checkpoints) = &mut self.checkpoints {
            checkpoints.start(&mut self.training)?;
        }
        self.training.release()?;
        self.training.join(train, validation, self.checkpoints.is_some())?;
        self.training.check_foreign(train)?;
        let result = catch_unwind(AssertUnwindSafe(|| self.run(train, validation)));
        if let Some(checkpoints) = &mut self.checkpoints {
            checkpoints.close();
        }
        match result {
            Ok(Ok(())) => Ok(self.training.history.clone()),
            Ok(Err(error)) => {
                self.callbacks.failed(&mut self.training, &error);
                Err(error)
            }
            Err(panic) => {
                let error = Error::training(panicked("the training", &*panic));
                self.callbacks.failed(&mut self.training, &error);
                resume_unwind(panic)
            }
        }
    }

    /// Epoch after epoch, until all are done or a callback stops.
    fn run(&mut self, train: &DataLoader, validation: Option<&DataLoader>) -> Result<()> {
        let _precision = self.training.precision.scope(self.training.parameters.device())?;
        let mut stop = self.callbacks.tell(&mut self.training, Callback::fit_start)?;
        stop = self.training.agree(stop)?;
        while stop.is_none() && self.training.state.epoch < self.training.epochs {
            stop = self.epoch(train, validation)?;
            if stop.is_none() && self.training.state.epoch < self.training.epochs {
                self.save_if_due(true)?;
            }
        }
        self.training.record_steps()?;
        self.training.history.set_stopped(stop);
        self.callbacks.tell(&mut self.training, Callback::fit_end)?;
        self.save()
    }

    /// The batches of an epoch that are left, the validation, and the epoch's record. Whoever stops it
    /// leaves it unfinished, unless that was after the last batch.
    fn epoch(&mut self, train: &DataLoader, validation: Option<&DataLoader>) -> Result<Option<String>> {
        if self.training.state.batch == 0 {
            self.training.running = DeviceLosses::default();
            (self.training.state.seconds, self.training.state.times) = (0.0, StepTimes::default());
            self.training.metrics.iter_mut().for_each(|metric| metric.reset());
        }
        let (started, before) = (Instant::now(), self.training.state.seconds);
        let seconds = || before + started.elapsed().as_secs_f64();
        let mut stop = self.callbacks.tell(&mut self.training, Callback::epoch_start)?;
        stop = self.training.agree(stop)?;
        let limits = &self.training.limits;
        let mut batches = train.epoch_from(limits.epoch(self.training.state.epoch), self.training.state.batch)?;
        self.training.check_epoch(limits.batches(batches.total()))?;
        while stop.is_none() && self.training.state.batch < self.training.state.batches_per_epoch {
            let waiting = Instant::now();
            // Of several ranks one may have no example of an epoch's last batch.
            let batch = batches.next();
            if batch.is_none() && self.training.ranks.is_none() {
                break;
            }
            self.training.state.times.data += waiting.elapsed().as_secs_f64();
            stop = self.batch(batch)?;
            stop = self.training.agree(stop)?;
            if let (None, Some(loader)) = (&stop, validation) {
                stop = self.validate_if_due(loader)?;
            }
            if stop.is_none() {
                let reached = self.training.limits.reached(&self.training.state);
                stop = self.training.agree_on_time(reached)?;
            }
            self.training.compare_weights(false)?;
            self.training.state.seconds = seconds();
            self.save_if_due(false)?;
        }
        drop(batches); // and what its workers made ahead
        if self.training.state.batch < self.training.state.batches_per_epoch {
            return Ok(stop);
        }

        self.training.guard.read(&self.training.state, &self.training.parameters)?;
        self.training.optimizer.settle()?;
        self.training.compare_weights(true)?;
        if let (true, None, Some(ranks)) =
            (self.training.train_metrics, &self.training.train_values, &self.training.ranks)
        {
            ranks.merge(&mut self.training.metrics)?;
        }
        let train_metrics = match self.training.train_values.clone() {
            Some(values) => values,
            None if self.training.train_metrics => metric_values(&self.training.metrics)?,
            None => Vec::new(),
        };
        // Kept until the epoch is recorded: the validation takes the metrics, and may fail.
        self.training.train_values = Some(train_metrics.clone());
        let train_loss = self.training.running.mean()?; // waits for the device: the time below is all of the training's
        let train_seconds = seconds();
        let evaluation = match validation.map(|loader| self.validate(loader)).transpose()? {
            Some(ControlFlow::Break(reason)) => return Ok(stop.or(Some(reason))),
            Some(ControlFlow::Continue((evaluation, reason))) => {
                stop = stop.or(reason);
                Some(evaluation)
            }
            None => None,
        };

        let training = &mut self.training;
        training.record_steps()?;
        training.state.epoch += 1;
        training.state.batch = 0;
        training.train_values = None;
        let record = EpochRecord {
            epoch: training.state.epoch,
            step: training.state.step,
            train_loss,
            validation_loss: evaluation.as_ref().map(|evaluation| evaluation.loss),
            metrics: evaluation.map_or_else(Vec::new, |evaluation| evaluation.metrics),
            train_metrics,
            learning_rate: training.state.learning_rate,
            seconds: seconds(),
            train_seconds,
            examples: training.running.examples(),
            times: training.state.times,
        };
        let observed = match &training.schedule_monitor {
            Some(name) => record.metric(name),
            None => Ok(record.validation_loss.unwrap_or(record.train_loss)),
        };
        training.history.push(record);
        training.schedule.observe(training.last_position(), observed?)?;
        let ended = self.callbacks.tell(training, Callback::epoch_end)?;
        Ok(stop.or(training.agree(ended)?))
    }

    /// Forward and backward; then, unless gradients are still being accumulated, a step. Where there are
    /// several ranks, a batch of all of them, of which this one may have no example, or one that cannot be had.
    fn batch(&mut self, batch: Option<Result<Batch>>) -> Result<Option<String>> {
        let Self { training, callbacks, .. } = self;
        let (batch, failed) = match batch.transpose() {
            Ok(batch) => (batch, None),
            Err(error) if training.ranks.is_some() => (None, Some(error)),
            Err(error) => return Err(error),
        };
        let stop = match &batch {
            Some(batch) => callbacks.tell(training, |callback, training| callback.batch_start(training, batch))?,
            None => None,
        };
        training.state.learning_rate = training.scheduled_rate();
        let checked = batch
            .as_ref()
            .map_or(Ok(()), |batch| training.guard.before_step(batch, &training.parameters, &training.state));
        let clock = Instant::now();
        // candle's own backward pass adds every gradient to zeros.
        let tape = Tape::start(training.accumulator.is_none());
        let own = match (&batch, failed) {
            (_, Some(error)) => Some(Err(error)),
            (Some(batch), None) => Some(checked.map(|()| batch)),
            (None, None) => None,
        };
        let own = training.forward(own).map(|forward| {
            let (forward, Training { guard, state, parameters, ranks, .. }) = (forward?, &mut *training);
            batch.iter().try_for_each(|batch| {
                guard.after_forward(&forward.loss.detach(), batch, state, parameters)?;
                // Ranks exchange the losses at every batch anyway.
                ranks.as_ref().map_or(Ok(()), |_| guard.read(state, parameters))
            })?;
            Ok(forward)
        });
        let Turn { predictions, loss, means, recorded } = training.meet(own, batch.as_ref().map_or(0, Batch::len))?;
        let forward_ended = Instant::now();
        let gradients = if training.accumulator.is_none() {
            Some(training.backward(loss.as_ref().map(|loss| move |_: &mut Training| Ok(tape.backward(loss)?)))?)
        } else {
            // Weighted by what the loss is a mean of; the epoch's last group may be smaller.
            training.backward(loss.as_ref().map(|_| {
                |training: &mut Training| {
                    training.accumulator.as_mut().map_or(Ok(false), |group| group.add_means(&means))
                }
            }))?;
            // Counted in batches of all ranks: this one may have had nothing to add to some.
            let batches = training.accumulator.as_ref().map_or(1, GradientAccumulator::batches);
            let full = training.state.batches_in_step + 1 == batches;
            let last = training.state.batch + 1 == training.state.batches_per_epoch;
            (full || last).then(|| training.take_accumulated()).transpose()?
        };
        drop((loss, means)); // and with them what the backward pass needed
        let gradients = gradients.map(|gradients| training.all_reduce(gradients)).transpose()?;
        training.state.times.forward += (forward_ended - clock).as_secs_f64();
        training.state.times.backward += forward_ended.elapsed().as_secs_f64();
        let (loss, means, examples) = recorded;
        training.running.push(&loss, &means, examples);
        training.state.batch += 1;
        training.state.batches_in_step += 1;
        if let (true, Some(predictions), Some(batch)) = (training.train_metrics, &predictions, &batch) {
            let predictions = predictions.detach();
            training.metrics.iter_mut().try_for_each(|metric| metric.update(&predictions, &batch.targets))?;
        }
        drop((predictions, loss, means)); // and with them what the backward pass needed

        let Some(mut gradients) = gradients else { return Ok(stop) };
        let stop =
            stop.or(callbacks.tell(training, |callback, training| callback.backward_end(training, &mut gradients))?);
        let clock = Instant::now();
        if let Some(clip) = training.clip {
            training.gradient_norm = clip.apply(&training.parameters, &mut gradients)?;
        }
        if let Some(momentum) = training.schedule.momentum(training.schedule_position()) {
            training.optimizer.set_momentum(momentum)?;
        }
        training.optimizer.step(&gradients, training.state.learning_rate).with_context(|| {
            let (step, epoch) = (training.state.step + 1, training.state.epoch + 1);
            let examples = batch.as_ref().map_or(&[][..], |batch| &batch.indices);
            format!("step {step} failed (epoch {epoch}, examples {examples:?})")
        })?;
        training.state.step += 1;
        training.average.as_mut().map_or(Ok(()), WeightAverage::update)?;
        training.state.times.optimizer += clock.elapsed().as_secs_f64();
        let TrainState { step, learning_rate, batches_in_step, .. } = training.state;
        training.history.note_step(step, learning_rate, batches_in_step);
        training.state.batches_in_step = 0;
        Ok(stop.or(callbacks.tell(training, Callback::step_end)?))
    }

    /// Loss and metrics of the validation data, by the averaged weights if there are any. If a callback
    /// stops it, the epoch stays unfinished, with all its batches done; who stops at its end, stops the
    /// training after it.
    fn validate(&mut self, loader: &DataLoader) -> Result<ControlFlow<String, (Evaluation, Option<String>)>> {
        let Self { training, callbacks, .. } = self;
        let reason = callbacks.tell(training, Callback::validation_start)?;
        if let Some(reason) = training.agree(reason)? {
            return Ok(ControlFlow::Break(reason));
        }
        let most = training.limits.validation_batches.unwrap_or(usize::MAX);
        let found = training.with_average(|Training { model, loss, metrics, ranks, .. }| {
            let mut before = |batch: &Batch| {
                let stop = callbacks.each(|callback| callback.validation_batch(batch))?;
                Ok(stop.map_or(ControlFlow::Continue(()), ControlFlow::Break))
            };
            evaluate_while(&**model, &**loss, loader, metrics, most, &mut before, ranks.as_ref())
        })?;
        let reason = if let ControlFlow::Break(reason) = &found { Some(reason.clone()) } else { None };
        // Of a shard they have agreed already.
        if loader.sharded() == (0, 1)
            && let Some(reason) = training.agree(reason)?
        {
            return Ok(ControlFlow::Break(reason));
        }
        Ok(match found {
            ControlFlow::Break(reason) => ControlFlow::Break(reason),
            ControlFlow::Continue(evaluation) => {
                let stop =
                    callbacks.tell(training, |callback, training| callback.validation_end(training, &evaluation))?;
                let stop = training.agree(stop)?;
                ControlFlow::Continue((evaluation, stop))
            }
        })
    }

    /// Validates between two steps, if it is time. What the training has gathered in its metrics stays.
    fn validate_if_due(&mut self, loader: &DataLoader) -> Result<Option<String>> {
        if !self.training.limits.validates(&self.training.state) {
            return Ok(None);
        }
        let gathered = self.training.metrics.iter().filter(|_| self.training.train_metrics);
        let gathered = gathered.map(|metric| metric.state()).collect::<Result<Vec<_>>>()?;
        let found = self.validate(loader)?;
        self.training.metrics.iter_mut().zip(&gathered).try_for_each(|(metric, state)| metric.load_state(state))?;
        match found {
            ControlFlow::Break(reason) => Ok(Some(reason)),
            ControlFlow::Continue((Evaluation { loss, metrics, .. }, stop)) => {
                let step = self.training.state.step;
                self.training.history.push_evaluation(StepEvaluation { step, loss, metrics });
                Ok(stop)
            }
        }
    }

    fn save_if_due(&mut self, epoch_ended: bool) -> Result<()> {
        match self.checkpoints.as_ref().is_some_and(|checkpoints| checkpoints.is_due(&self.training, epoch_ended)) {
            true => self.save(),
            false => Ok(()),
        }
    }

    /// Saves a checkpoint, if this training has checkpoints and has made a step.
    fn save(&mut self) -> Result<()> {
        if self.checkpoints.is_none() || self.training.state.step == 0 {
            return Ok(());
        }
        if let Some(checkpoints) = self.checkpoints.as_mut().filter(|checkpoints| checkpoints.is_silent()) {
            self.training.record_steps()?;
            self.training.gather_generators(GeneratorStates::new(&self.training.parameters).state()?)?;
            checkpoints.pass_over(&self.training);
            return Ok(());
        }
        let snapshot = self.snapshot()?;
        self.checkpoints.as_mut().map_or(Ok(()), |checkpoints| checkpoints.save(&self.training, &snapshot))
    }

    /// The training: model, parameters, optimizer, and what is recorded.
    pub fn training(&self) -> &Training {
        &self.training
    }

    /// The training, to exchange its weights and their average, say.
    pub fn training_mut(&mut self) -> &mut Training {
        &mut self.training
    }

    /// Where the training stands.
    pub fn state(&self) -> &TrainState {
        &self.training.state
    }

    /// What has been recorded so far.
    pub fn history(&self) -> &History {
        &self.training.history
    }

    /// Trains for longer, or shorter, in all.
    pub fn set_epochs(&mut self, epochs: usize) {
        self.training.set_epochs(epochs);
    }

    /// Loss and metrics on other data: [`Training::evaluate`].
    ///
    /// # Errors
    /// As [`evaluate`](crate::training::evaluate).
    pub fn evaluate(&mut self, loader: &DataLoader) -> Result<Evaluation> {
        self.training.evaluate(loader)
    }

    /// The events of a training, in order, and who listens.
    pub fn order_of_events(&self) -> Table {
        let mut table =
            Table::new(["event", "when"]).title(&format!("callbacks, in order: {}", self.callbacks.names().join(", ")));
        EVENTS.iter().for_each(|&(event, when)| table.push((event, when)));
        table
    }
}
