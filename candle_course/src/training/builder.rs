//! What a [`Trainer`] is told before it trains.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use candle_core::backprop::GradStore;

use crate::distributed::{Communicator, SynchronisedBatchNorm};
use crate::error::{Error, Result};
use crate::losses::Loss;
use crate::metrics::Metric;
use crate::nn::{Model, Parameters};
use crate::optimizers::{
    FOREIGN, GradientAccumulator, GradientNorm, Optimizer, WeightAverage, clip_gradient_value, clip_unread,
};
use crate::precision::Precision;
use crate::schedules::Schedule;
use crate::setters::setters;
use crate::training::callbacks::{Callbacks, Checkpoints, EarlyStopping, JsonLines, Progress, TensorBoard};
use crate::training::guard::Guard;
use crate::training::limits::Limits;
use crate::training::losses::DeviceLosses;
use crate::training::ranks::Ranks;
use crate::training::{Callback, History, TrainState, Trainer, Training};

/// Configures a [`Trainer`].
pub struct TrainerBuilder {
    pub(super) model: Arc<dyn Model>,
    pub(super) parameters: Parameters,
    pub(super) loss: Arc<dyn Loss>,
    pub(super) optimizer: Box<dyn Optimizer>,
    pub(super) epochs: Option<usize>,
    pub(super) limits: Limits,
    pub(super) schedule: Option<Box<dyn Schedule>>,
    pub(super) schedule_per_epoch: bool,
    pub(super) metrics: Vec<Box<dyn Metric>>,
    pub(super) train_metrics: bool,
    pub(super) callbacks: Callbacks,
    pub(super) progress: Option<Progress>,
    pub(super) last_finite_folder: Option<PathBuf>,
    pub(super) schedule_monitor: Option<String>,
    pub(super) accumulate: usize,
    pub(super) clip: Option<Clip>,
    pub(super) average: Option<f64>,
    pub(super) checkpoints: Option<Checkpoints>,
    pub(super) precision: Precision,
    pub(super) checks_gradients: bool,
    pub(super) communicator: Option<Arc<dyn Communicator>>,
    pub(super) synchronises: bool,
}

/// A bound on gradients.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Clip {
    Norm(f64),
    Value(f64),
}

impl Clip {
    /// Returns the norm before clipping, if it is known.
    pub(super) fn apply(self, parameters: &Parameters, gradients: &mut GradStore) -> Result<Option<GradientNorm>> {
        match self {
            Self::Norm(max_norm) => Ok(Some(clip_unread(parameters, gradients, max_norm)?)),
            Self::Value(bound) => clip_gradient_value(parameters, gradients, bound).map(|()| None),
        }
    }
}

impl TrainerBuilder {
    pub(super) fn new(
        model: Arc<dyn Model>,
        parameters: &Parameters,
        loss: Arc<dyn Loss>,
        optimizer: Box<dyn Optimizer>,
    ) -> Self {
        Self {
            model,
            parameters: parameters.clone(),
            loss,
            optimizer,
            epochs: None,
            limits: Limits::default(),
            schedule: None,
            schedule_per_epoch: false,
            metrics: Vec::new(),
            train_metrics: false,
            callbacks: Callbacks::default(),
            progress: Some(Progress::default()),
            last_finite_folder: None,
            schedule_monitor: None,
            accumulate: 1,
            clip: None,
            average: None,
            checkpoints: None,
            precision: Precision::F32,
            checks_gradients: true,
            communicator: None,
            synchronises: false,
        }
    }

    setters! {
        /// How many epochs in all (1, or as many as `max_steps` takes).
        epochs(epochs: usize) => epochs = Some(epochs);
        /// Ends the training after so many optimizer steps in all, in the middle of an epoch if need be.
        max_steps(steps: usize) => limits.max_steps = Some(steps);
        /// Ends every call of [`Trainer::fit`] after the first batch that is done when so much time is
        /// over: before a job's limit, say. The next call, or a resumed training, goes on there.
        max_time(time: Duration) => limits.max_time = Some(time);
        /// Takes only so many batches of every epoch: to try a training out.
        limit_batches(batches: usize) => limits.batches = Some(batches);
        /// Validates on the first so many batches only.
        limit_validation_batches(batches: usize) => limits.validation_batches = Some(batches);
        /// Validates after every so many steps too, in the middle of an epoch: see
        /// [`History::evaluations`]. Early stopping and plateaus go by the epochs' ends, as without it.
        validate_every_steps(steps: usize) => limits.validate_every_steps = Some(steps);
    }

    /// Takes the same so many batches in every epoch: those of the first, with its order and its
    /// augmentations. A model and a loss that cannot bring the training loss of a few batches near 0
    /// will not learn all of them either: look for the mistake first.
    pub fn overfit_batches(mut self, batches: usize) -> Self {
        (self.limits.batches, self.limits.overfit) = (Some(batches), true);
        self
    }

    /// The same learning rate at every step.
    pub fn learning_rate(mut self, learning_rate: f64) -> Self {
        self.schedule = Some(Box::new(learning_rate));
        self.schedule_per_epoch = false;
        self
    }

    /// A learning rate for every optimizer step: a number, a function of the step, any
    /// [`Schedule`]. What follows a value in it, alone or as a part, observes it after every epoch.
    pub fn schedule(mut self, schedule: impl Schedule + 'static) -> Self {
        self.schedule = Some(Box::new(schedule));
        self.schedule_per_epoch = false;
        self
    }

    /// A learning rate for every epoch: the schedule is asked with the epoch, counted from 0,
    /// instead of the step.
    pub fn schedule_per_epoch(mut self, schedule: impl Schedule + 'static) -> Self {
        self.schedule = Some(Box::new(schedule));
        self.schedule_per_epoch = true;
        self
    }

    setters! {
        /// The value that a schedule such as
        /// [`ReduceLROnPlateau`](crate::schedules::ReduceLROnPlateau) follows: `validation_loss`, unless
        /// told otherwise; `train_loss` without validation data.
        schedule_monitor(name: impl Into<String>) => schedule_monitor = Some(name.into());
        /// Steps once every `batches` batches, with the gradient of one large batch of all their examples
        /// (1: every batch). Every batch is weighted by what its loss is a mean of; an epoch's last group
        /// may be smaller. A loss that cannot be split
        /// ([`MeanOf::Whole`](crate::losses::MeanOf::Whole)) is refused.
        accumulate(batches: usize) => accumulate = batches;
        /// Scales the gradient down to this norm, over all parameters, if it is larger.
        clip_norm(max_norm: f64) => clip = Some(Clip::Norm(max_norm));
        /// Cuts every number of the gradient to `-bound..=bound`.
        clip_value(bound: f64) => clip = Some(Clip::Value(bound));
        /// Keeps an exponential moving average of the weights, with this decay (0.999, say). Validation,
        /// [`Trainer::evaluate`] and the best weights that early stopping restores are those of the
        /// average; the model itself holds the last weights, until [`Training::swap_average`]. So in a
        /// checkpoint: its `model` are the last weights, and the average that its metric is of is in
        /// `average`.
        ema(decay: f64) => average = Some(decay);
    }

    /// Stops early; see [`EarlyStopping`].
    pub fn early_stopping(self, stopping: EarlyStopping) -> Self {
        self.callback(stopping)
    }

    /// Saves checkpoints; see [`Checkpoints`].
    pub fn checkpoints(mut self, checkpoints: Checkpoints) -> Self {
        self.checkpoints = Some(checkpoints);
        self
    }

    /// A metric of the validation data, computed after every epoch. May be called several times.
    pub fn metric(mut self, metric: impl Metric + 'static) -> Self {
        self.metrics.push(Box::new(metric));
        self
    }

    /// Computes the metrics on the training batches as well, from the predictions made in training
    /// mode on the way: no second pass, but dropout is on and early batches saw an older model.
    pub fn train_metrics(mut self) -> Self {
        self.train_metrics = true;
        self
    }

    /// Adds a listener. Callbacks are called in the order in which they are added.
    pub fn callback(mut self, callback: impl Callback + 'static) -> Self {
        self.callbacks.push(Box::new(callback));
        self
    }

    setters! {
        /// Where the last finite weights are saved, as `last-finite.safetensors`, if the loss becomes
        /// NaN or infinite: the folder of the checkpoints, unless told otherwise. Without either they
        /// are set back, but not saved.
        last_finite_folder(folder: impl AsRef<Path>) => last_finite_folder = Some(folder.as_ref().to_owned());
        /// Other progress lines than the default, one per epoch and one every five seconds.
        progress(progress: Progress) => progress = Some(progress);
        /// No progress lines.
        quiet() => progress = None;
        /// In which precision a CUDA device multiplies, in training and evaluation; parameters,
        /// gradients and optimizer state stay f32. All of f32 by default.
        precision(precision: Precision) => precision = precision;
        /// Trains a model of candle's own layers without
        /// [`check_gradients`](crate::training::check_gradients) before the first step.
        unchecked_gradients() => checks_gradients = false;
    }

    /// Trains with other ranks: every rank builds the same training, with loaders of its part of the data
    /// ([`DataLoader::shard`](crate::data::DataLoader::shard)), and calls `fit`. P ranks with batches of B take
    /// the steps of one process with batches of P·B, but for rounding and for what looks at whole batches:
    ///
    /// - The weights of rank 0 go to all before the first step, and are compared to the bit after every epoch.
    /// - Gradients and losses are weighted by what the loss is a mean of, so that uneven batches are exact; a loss
    ///   that cannot be split is refused. Clipping, the average of the weights, and what the optimizer does with
    ///   gradients that are not finite follow on every rank from the same gradient.
    /// - Batch norm normalises by the rank's own batch, as in one process with batches of B, and the running statistics
    ///   are averaged at every step; [`synchronise_batch_norm`](Self::synchronise_batch_norm) says otherwise. Dropout
    ///   draws differently on every rank.
    /// - Losses and metrics are those of all ranks, and so early stopping and schedules decide the same. A validation
    ///   loader may be a shard or whole; whole, every rank goes through all of it.
    /// - Rank 0 alone writes: checkpoints, the last finite weights, progress lines, TensorBoard, JSON lines. Your own
    ///   callbacks are called on all ranks ([`Training::rank`]); whichever asks to stop stops all, between two steps.
    /// - An error of one rank is an error of all. One in the data, the model or the loss leaves every rank with the
    ///   same message and weights; after any other the communicator
    ///   [gives up](crate::distributed::Communicator::abort).
    /// - [`Trainer::resume`] reads on rank 0. In the middle of an epoch the number of ranks may change if ranks times
    ///   batch size does not, at its end in any case: the order of the examples is the same.
    ///
    /// A group of one rank is a training without ranks, to the bit.
    pub fn distributed(mut self, communicator: Arc<dyn Communicator>) -> Self {
        self.communicator = Some(communicator);
        self
    }

    /// Batch norm normalises by the batches of all ranks together, as `torch.nn.SyncBatchNorm`, so that P ranks with
    /// batches of B take the steps of one process with batches of P·B: for few examples a rank, and for models that are
    /// to be compared. Every layer then costs two exchanges of a few numbers per channel and step, for which the ranks
    /// wait; see [`SynchronisedBatchNorm`]. With one rank, or without [`distributed`](Self::distributed), it changes
    /// nothing.
    pub fn synchronise_batch_norm(mut self) -> Self {
        self.synchronises = true;
        self
    }

    /// The trainer.
    ///
    /// # Errors
    /// If there is neither learning rate nor schedule, the first rate is not a finite number of at
    /// least 0, there are no epochs, a limit is 0, two metrics share a name, nothing can be trained, `accumulate`
    /// is 0, the loss cannot be split where it has to be, a clipping bound is not positive, the decay is not in `[0, 1)`,
    /// a reduced precision is asked for on another device than CUDA, or batch norm is to be synchronised and the model
    /// has none, or one that is not of this crate's layers.
    pub fn build(self) -> Result<Trainer> {
        if self.epochs == Some(0) {
            return Err(Error::argument("epochs", "at least 1", 0));
        }
        self.limits.check()?;
        let Some(schedule) = &self.schedule else {
            return Err(Error::argument("learning_rate", "a learning rate or a schedule", "neither")
                .hint("add `.learning_rate(0.1)` or `.schedule(…)`"));
        };
        let rate = schedule.learning_rate(0);
        if !(rate.is_finite() && rate >= 0.0) {
            return Err(Error::argument("learning_rate", "a finite number of at least 0", rate));
        }
        if self.parameters.trainable().is_empty() {
            return Err(Error::argument("parameters", "at least one trainable parameter", 0)
                .hint(format!("was the model built on these `Parameters`, and is not all of it frozen? {FOREIGN}")));
        }
        for (i, metric) in self.metrics.iter().enumerate() {
            if self.metrics[..i].iter().any(|other| other.name() == metric.name()) {
                return Err(Error::argument(
                    "metric",
                    "metrics of different names",
                    format!("`{}` twice", metric.name()),
                ));
            }
        }
        if self.accumulate > 1
            && let Some(reason) = self.loss.whole()
        {
            return Err(Error::argument("accumulate", format!("1 with this loss: {reason}"), self.accumulate)
                .hint("the loss of a large batch does not follow from those of its parts: take larger batches, or a loss that is a mean over examples or positions"));
        }
        if let Some(communicator) = self.communicator.as_ref().filter(|communicator| communicator.size() > 1)
            && let Some(reason) = self.loss.whole()
        {
            return Err(Error::argument("distributed", format!("1 rank with this loss: {reason}"), communicator.size())
                .hint("the loss of a batch does not follow from those of its parts: choose a loss that is a mean over examples or positions"));
        }
        if let Some(Clip::Norm(bound) | Clip::Value(bound)) = self.clip
            && !(bound.is_finite() && bound > 0.0)
        {
            return Err(Error::argument("clip", "a positive, finite bound", bound)
                .hint("a bound of 0 would erase every gradient"));
        }
        drop(self.precision.scope(self.parameters.device())?);
        self.assemble()
    }

    fn assemble(self) -> Result<Trainer> {
        let mut callbacks = self.callbacks;
        if let Some(progress) = self.progress {
            callbacks.push(Box::new(progress));
        }
        if self.synchronises {
            // Also where there is one rank: the program will run on several.
            SynchronisedBatchNorm::check(&self.parameters)?;
        }
        let ranks = match self.communicator.filter(|communicator| communicator.size() > 1) {
            None => None,
            Some(communicator) => {
                let together = || SynchronisedBatchNorm::new(Arc::clone(&communicator), &self.parameters);
                let together = self.synchronises.then(together).transpose()?;
                Some(Ranks::new(communicator, together))
            }
        };
        let mut checkpoints = self.checkpoints;
        let mut last_finite_folder = self.last_finite_folder;
        if ranks.as_ref().is_some_and(|ranks| ranks.rank() > 0) {
            callbacks.remove::<Progress>();
            callbacks.remove::<TensorBoard>();
            callbacks.remove::<JsonLines>();
            last_finite_folder = None;
            checkpoints.iter_mut().for_each(Checkpoints::silence);
        }
        let mut history = History::default();
        history.set_directions(&self.metrics);
        let accumulator = match self.accumulate {
            1 => None,
            batches => Some(GradientAccumulator::new(&self.parameters, batches)?),
        };
        let average = match self.average {
            Some(decay) => Some(WeightAverage::builder(&self.parameters).decay(decay).build()?),
            None => None,
        };
        let mut guard = Guard::default();
        let writing = checkpoints.as_ref().filter(|checkpoints| !checkpoints.is_silent());
        let checkpoint_folder = writing.map(|checkpoints| checkpoints.folder().to_owned());
        last_finite_folder.or(checkpoint_folder).iter().for_each(|folder| guard.set_folder(folder));
        let mut training = Training {
            model: self.model,
            parameters: self.parameters,
            loss: self.loss,
            optimizer: self.optimizer,
            schedule: self.schedule.unwrap_or_else(|| Box::new(0.0)),
            schedule_per_epoch: self.schedule_per_epoch,
            schedule_monitor: self.schedule_monitor,
            accumulator,
            clip: self.clip,
            average,
            metrics: self.metrics,
            train_metrics: self.train_metrics,
            train_values: None,
            precision: self.precision,
            checks_gradients: self.checks_gradients,
            // Of so many steps at most one an epoch; how many an epoch has, only its loader tells.
            epochs: self.epochs.or(self.limits.max_steps).unwrap_or(1),
            limits: Limits { counts_steps: self.epochs.is_none(), ..self.limits },
            validating: false,
            state: TrainState::default(),
            running: DeviceLosses::default(),
            gradient_norm: None,
            displaced: None,
            guard,
            history,
            ranks,
        };
        training.state.learning_rate = training.scheduled_rate();
        Ok(Trainer { training, callbacks, checkpoints })
    }
}
