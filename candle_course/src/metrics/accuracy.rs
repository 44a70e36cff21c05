//! The share of right answers.

use candle_core::{DType, Tensor};

use crate::error::{Error, Result};
use crate::metrics::{Direction, Metric};

/// The share of examples whose largest logit is the target.
#[derive(Debug, Clone, Default)]
pub struct Accuracy {
    correct: Option<Tensor>,
    seen: usize,
}

impl Metric for Accuracy {
    fn name(&self) -> &str {
        "accuracy"
    }

    fn direction(&self) -> Direction {
        Direction::Maximize
    }

    /// `predictions`: `[N, C]`, logits or probabilities; `targets`: `[N]`, classes.
    fn update(&mut self, predictions: &Tensor, targets: &Tensor) -> Result<()> {
        let (&[examples, _], &[labels]) = (predictions.dims(), targets.dims()) else {
            return Err(Error::argument(
                "predictions, targets",
                "shapes [N, C] and [N]",
                format!("{:?} and {:?}", predictions.dims(), targets.dims()),
            ));
        };
        if examples != labels {
            return Err(Error::argument("targets", format!("{examples} labels"), labels));
        }
        let correct =
            predictions.detach().argmax(1)?.eq(&targets.to_dtype(DType::U32)?)?.to_dtype(DType::U32)?.sum_all()?;
        self.correct = Some(match &self.correct {
            Some(so_far) => (so_far + correct)?,
            None => correct,
        });
        self.seen += examples;
        Ok(())
    }

    fn compute(&self) -> Result<f64> {
        match &self.correct {
            Some(correct) => Ok(f64::from(correct.to_scalar::<u32>()?) / self.seen as f64),
            None => Err(Error::undefined("accuracy of no examples; call `update` first")),
        }
    }

    fn reset(&mut self) {
        *self = Self::default();
    }
}
