//! A training tried out before it begins.

use crate::data::DataLoader;
use crate::error::{Context, Error, Result, always};
use crate::training::limits::Limits;
use crate::training::{Evaluation, Trainer};

impl Trainer {
    /// One batch through everything: forward, loss, backward, a step of the optimizer, validation,
    /// metrics, and the state saved and restored. Then all is as it was, so that what follows is
    /// bit-identical to a training without it (PyTorch Lightning's `fast_dev_run`).
    ///
    /// Shapes that do not fit, a parameter without a gradient, a metric for other predictions: these
    /// show in a second, not after the first epoch. Callbacks and checkpoint files are left out, since
    /// what they write could not be taken back. Of several ranks all call this.
    ///
    /// # Errors
    /// As [`Trainer::fit`], or in the middle of an epoch. All is as it was then, too.
    ///
    /// # Examples
    ///
    /// ```
    /// use candle_course::prelude::*;
    ///
    /// # let x = Tensor::arange(-8f32, 8., &Device::Cpu)?.reshape((16, 1))?;
    /// # let y = x.flatten_all()?.ge(0f32)?.to_dtype(DType::U32)?;
    /// # let train = DataLoader::builder(TensorDataset::new(x, y)?).batch_size(4).build()?;
    /// let parameters = Parameters::new(0, &Device::Cpu);
    /// let model = Linear::new(1, 2, &parameters.at("fc"))?;
    /// let mut trainer = Trainer::builder(model, &parameters, CrossEntropy::default(), Sgd::new(&parameters)?)
    ///     .epochs(30)
    ///     .learning_rate(0.1)
    ///     .metric(Accuracy::default())
    ///     .build()?;
    /// trainer.fast_run(&train, Some(&train))?;
    /// assert_eq!(trainer.state().step, 0);
    /// # Ok::<(), candle_course::Error>(())
    /// ```
    pub fn fast_run(&mut self, train: &DataLoader, validation: Option<&DataLoader>) -> Result<Option<Evaluation>> {
        if self.training.state.batch > 0 {
            return Err(Error::training("a rehearsal in the middle of an epoch would change its batches")
                .hint("call `fast_run` before `fit`, or between epochs"));
        }
        let before = self.snapshot()?;
        let limits = Limits { batches: Some(1), validation_batches: Some(1), ..Limits::default() };
        let limits = std::mem::replace(&mut self.training.limits, limits);
        let (callbacks, checkpoints) = (std::mem::take(&mut self.callbacks), self.checkpoints.take());
        let epochs = self.training.epochs;
        self.training.epochs = self.training.state.epoch + 1;
        let result = always(
            self,
            |trainer| {
                let history = trainer.fit(train, validation)?;
                trainer.snapshot()?;
                let last = history.last()?;
                Ok(last.validation_loss.map(|loss| Evaluation {
                    loss,
                    metrics: last.metrics,
                    examples: validation.map_or(0, |loader| loader.batch_size().min(loader.examples())),
                }))
            },
            |trainer| {
                (trainer.training.limits, trainer.training.epochs) = (limits, epochs);
                (trainer.callbacks, trainer.checkpoints) = (callbacks, checkpoints);
                trainer.restore(&before)
            },
        );
        result.context("the rehearsal failed; nothing has changed")
    }
}
