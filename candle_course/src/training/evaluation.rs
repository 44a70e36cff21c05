//! Passes over data that is not trained on.

use std::ops::ControlFlow;

use crate::data::DataLoader;
use crate::error::Result;
use crate::training::step::evaluate_while;
use crate::training::{Callback, Evaluation, Flow, Trainer, evaluate};

impl Trainer {
    /// Loss and metrics on other data, in evaluation mode: the test set, at the end. With
    /// [`ema`](crate::training::TrainerBuilder::ema), of the averaged weights.
    ///
    /// # Errors
    /// As [`evaluate`].
    pub fn evaluate(&mut self, loader: &DataLoader) -> Result<Evaluation> {
        let _precision = self.precision.scope(self.parameters.device())?;
        self.swap_average()?;
        let result = evaluate(&*self.model, &*self.loss, loader, &mut self.metrics);
        self.swap_average()?;
        self.metrics.iter_mut().for_each(|metric| metric.reset());
        if self.train_metrics && (1..self.state.batches_per_epoch).contains(&self.state.batch) {
            let epoch = self.state.epoch + 1;
            self.note(format!("the training metrics of epoch {epoch} cover only the batches after an evaluation"));
        }
        result
    }

    /// The validation at an epoch's end: [`Trainer::evaluate`], unless a callback stops it.
    pub(super) fn validate(
        &mut self,
        loader: &DataLoader,
        callbacks: &mut [&mut dyn Callback],
    ) -> Result<ControlFlow<String, Evaluation>> {
        if let Some(reason) = self.tell(callbacks, |callback, trainer| callback.validation_start(trainer))? {
            return Ok(ControlFlow::Break(reason));
        }
        self.swap_average()?;
        let result = evaluate_while(&*self.model, &*self.loss, loader, &mut self.metrics, &mut |batch| {
            let mut asked = ControlFlow::Continue(());
            for callback in callbacks.iter_mut() {
                let flow = callback
                    .validation_batch(batch)
                    .map_err(|error| error.context(format!("callback `{}` failed", callback.name())))?;
                if let (Flow::Stop(reason), ControlFlow::Continue(())) = (flow, &asked) {
                    asked = ControlFlow::Break(reason);
                }
            }
            Ok(asked)
        });
        self.swap_average()?;
        self.metrics.iter_mut().for_each(|metric| metric.reset());
        result
    }
}
