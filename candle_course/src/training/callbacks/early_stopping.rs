//! Stopping when the validation no longer improves.

use candle_core::{DType, Device, Tensor};

use crate::direction::Direction;
use crate::error::{Error, Result};
use crate::language::told;
use crate::setters::setters;
use crate::stateful::{Expected, State, compare, nest, part};
use crate::training::callbacks::monitor::Monitor;
use crate::training::callbacks::number;
use crate::training::{Callback, Flow, Training};

/// Stops when a monitored value has not improved for some epochs, and brings the best weights back
/// (Prechelt 1998).
///
/// An epoch is an improvement if it is better than the best so far by more than `min_delta`; one
/// whose value is NaN or infinite, of either sign, is none. When
/// `patience` epochs in a row are none, training stops. At the end of the training, stopped or
/// not, parameters and buffers become those of the best epoch, unless
/// [`restore_best`](EarlyStoppingBuilder::restore_best) is off. If `fit` is called again, training
/// goes on from the last weights, as if it had not been interrupted, with patience renewed; resumed
/// from a checkpoint, a training that was stopped stays stopped at the first call.
///
/// Monitor the validation data, never the test data: whoever stops on the test set has trained on it.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let stopping = EarlyStopping::builder("validation_loss").patience(3).min_delta(1e-3).build()?;
/// assert!(EarlyStopping::builder("accuracy").min_delta(-1.0).build().is_err());
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct EarlyStopping {
    monitor: Monitor,
    patience: usize,
    min_delta: f64,
    restore_best: bool,
    best: Option<f64>,
    best_epoch: usize,
    waited: usize,
    best_tensors: State,
    /// Whether the caller has been told of the stop; not part of a checkpoint.
    told: bool,
}

/// Configures [`EarlyStopping`].
#[derive(Debug, Clone)]
pub struct EarlyStoppingBuilder(EarlyStopping);

impl EarlyStopping {
    /// Watches `monitor` (`validation_loss`, `train_loss` or a metric's name) with a patience of 5
    /// epochs, and restores the best weights.
    pub fn new(monitor: impl Into<String>) -> Self {
        Self {
            monitor: Monitor::new(monitor),
            patience: 5,
            min_delta: 0.0,
            restore_best: true,
            best: None,
            best_epoch: 0,
            waited: 0,
            best_tensors: State::new(),
            told: false,
        }
    }

    /// As [`EarlyStopping::new`], unless told otherwise.
    pub fn builder(monitor: impl Into<String>) -> EarlyStoppingBuilder {
        EarlyStoppingBuilder(Self::new(monitor))
    }
}

impl EarlyStoppingBuilder {
    setters! {
        /// How many epochs in a row may bring no improvement before training stops (5).
        patience(patience: usize) => 0.patience = patience;
        /// An epoch counts if it is better by more than this (0).
        min_delta(min_delta: f64) => 0.min_delta = min_delta;
    }

    /// Which way is better. Losses and metrics know; say it for a value that does not.
    #[must_use]
    pub fn mode(mut self, mode: Direction) -> Self {
        self.0.monitor.set_mode(mode);
        self
    }

    /// Whether the best weights come back at the end (yes).
    #[must_use]
    pub fn restore_best(mut self, restore_best: bool) -> Self {
        self.0.restore_best = restore_best;
        self
    }

    /// The callback.
    ///
    /// # Errors
    /// If the patience is 0, or `min_delta` is negative or not finite.
    pub fn build(self) -> Result<EarlyStopping> {
        if self.0.patience == 0 {
            return Err(Error::argument("patience", "at least 1 epoch", 0));
        }
        if !(self.0.min_delta.is_finite() && self.0.min_delta >= 0.0) {
            return Err(Error::argument("min_delta", "a finite number of at least 0", self.0.min_delta)
                .hint("it is the least improvement, in whichever direction is better; its sign never changes"));
        }
        Ok(self.0)
    }
}

impl EarlyStopping {
    /// Takes in the value of an epoch; says whether it is an improvement.
    fn improves(&mut self, epoch: usize, value: f64) -> bool {
        let than = self.best.unwrap_or_else(|| self.monitor.worst());
        let improves = value.is_finite() && self.monitor.gain(value, than) > self.min_delta;
        if improves {
            (self.best, self.best_epoch, self.waited) = (Some(value), epoch, 0);
        } else {
            self.waited = self.waited.saturating_add(1);
        }
        improves
    }

    fn flow(&mut self) -> Flow {
        if self.waited < self.patience {
            return Flow::Continue;
        }
        self.told = true;
        let (monitor, epochs) = (&self.monitor.name, self.waited);
        Flow::Stop(match self.best {
            Some(best) => {
                told!(
                    "{} has not improved on {} of epoch {} for {} epochs",
                    "{} não melhora o valor {} da época {} há {} épocas",
                    monitor,
                    number(best),
                    self.best_epoch,
                    epochs
                )
            }
            None => told!("{} has not been finite for {} epochs", "{} não é finito há {} épocas", monitor, epochs),
        })
    }
}

impl Callback for EarlyStopping {
    fn name(&self) -> &str {
        "early stopping"
    }

    fn fit_start(&mut self, training: &mut Training) -> Result<Flow> {
        self.monitor.check(training)?;
        if std::mem::take(&mut self.told) {
            self.waited = 0;
        }
        Ok(self.flow())
    }

    fn epoch_end(&mut self, training: &mut Training) -> Result<Flow> {
        let record = training.history().last()?;
        let value = self.monitor.value(&record)?;
        if self.improves(record.epoch, value) && self.restore_best {
            self.best_tensors = training.evaluated_weights()?;
        }
        Ok(self.flow())
    }

    fn fit_end(&mut self, training: &mut Training) -> Result<Flow> {
        if !self.best_tensors.is_empty() {
            training.hold(&self.best_tensors)?;
            let epoch = self.best_epoch;
            training.note(told!(
                "the weights are those of epoch {}, the best by {}",
                "os pesos são os da época {}, a melhor por {}",
                epoch,
                self.monitor.name
            ));
        }
        Ok(Flow::Continue)
    }

    fn state(&self) -> Result<State> {
        let numbers = [self.best.unwrap_or(f64::NAN), self.best_epoch as f64, self.waited as f64];
        let mut tensors = nest("best", self.best_tensors.clone());
        tensors.insert("numbers".to_owned(), Tensor::new(&numbers, &Device::Cpu)?);
        Ok(tensors)
    }

    fn load_state(&mut self, state: &State) -> Result<()> {
        let is_best = |name: &str| name.starts_with("best.");
        // The best weights are compared with the model's where the model gets them.
        let best =
            state.iter().filter(|(name, _)| is_best(name)).map(|(name, best)| (name.as_str(), Expected::like(best)));
        let numbers = ("numbers", Expected::new(&[3], DType::F64));
        compare("early stopping has another state", state, best.chain([numbers]))?;
        let numbers = state["numbers"].to_vec1::<f64>()?;
        self.best = (!numbers[0].is_nan()).then_some(numbers[0]);
        (self.best_epoch, self.waited) = (numbers[1] as usize, numbers[2] as usize);
        self.told = false;
        self.best_tensors = part(state, "best");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::DataLoader;
    use crate::training::trainer_tests::{loaders, points, trainer};

    /// After how many epochs of these values training would stop.
    fn stops_after(values: &[f64], mut stopping: EarlyStopping, mode: Direction) -> Option<usize> {
        stopping.monitor.set_mode(mode);
        for (epoch, &value) in values.iter().enumerate() {
            stopping.improves(epoch + 1, value);
            if stopping.waited >= stopping.patience {
                return Some(epoch + 1);
            }
        }
        None
    }

    #[test]
    fn patience_and_min_delta_count_as_documented() {
        let stopping =
            |patience, delta| EarlyStopping::builder("x").patience(patience).min_delta(delta).build().unwrap();
        let losses = [1.0, 0.5, 0.49, 0.48, 0.6, 0.47];
        assert_eq!(stops_after(&losses, stopping(2, 0.0), Direction::Minimize), None);
        assert_eq!(stops_after(&losses, stopping(2, 0.05), Direction::Minimize), Some(4));
        assert_eq!(stops_after(&losses, stopping(1, 0.0), Direction::Minimize), Some(5));
        assert_eq!(stops_after(&losses, stopping(2, 0.0), Direction::Maximize), Some(3));
        assert_eq!(stops_after(&[f64::NAN; 3], stopping(2, 0.0), Direction::Minimize), Some(2));
        // An infinity is no value: it neither improves nor hides what comes after it.
        let falling = [f64::NEG_INFINITY, 0.5, 0.4, 0.3];
        assert_eq!(stops_after(&falling, stopping(2, 0.0), Direction::Minimize), None);
        let rising = [f64::INFINITY, -0.5, -0.4, -0.3];
        assert_eq!(stops_after(&rising, stopping(2, 0.05), Direction::Maximize), None);
        assert_eq!(stops_after(&[-1.0, -1.0, -1.0], stopping(2, 0.0), Direction::Minimize), Some(3));
    }

    #[test]
    fn the_best_weights_come_back() {
        let (train, validation) = loaders();
        // A rate this high overshoots after some epochs; the best epoch is not the last.
        let stopping = EarlyStopping::builder("validation_loss").patience(2).build().unwrap();
        let (builder, _) = trainer(3);
        let mut trainer = builder.epochs(40).learning_rate(0.8).callback(stopping).quiet().build().unwrap();
        let history = trainer.fit(&train, Some(&validation)).unwrap();
        let best = history.best("validation_loss").unwrap();
        assert!(history.stopped().unwrap().contains("validation_loss has not improved"), "{history}");
        assert_eq!(history.epochs().len(), best.epoch + 2);
        assert_eq!(trainer.evaluate(&validation).unwrap().loss, best.validation_loss.unwrap());
        assert!(history.to_string().contains(&format!("the weights are those of epoch {}", best.epoch)));
    }

    #[test]
    fn an_unknown_monitor_is_an_error_before_the_first_step() {
        let (train, validation) = loaders();
        let monitored = |name: &str| {
            let stopping = EarlyStopping::new(name);
            trainer(3).0.learning_rate(0.1).callback(stopping).quiet().build().unwrap()
        };
        let mut misspelt = monitored("val_loss");
        let error = misspelt.fit(&train, Some(&validation)).unwrap_err().to_string();
        assert!(
            error.contains("one of [train_loss, validation_loss, accuracy, learning_rate], got `val_loss`"),
            "{error}"
        );
        assert_eq!(misspelt.state().step, 0);
        let alone = DataLoader::builder(points(1)).batch_size(16).build().unwrap();
        assert!(monitored("accuracy").fit(&alone, Some(&validation)).is_ok());
    }
}
