//! Losses of many steps, kept on the device until somebody asks.

use candle_core::{DType, Device, Tensor};

use crate::error::{Error, Result};
use crate::stateful::State;

/// Scalar losses and how many examples each is the mean of. Reading them is one transfer from the
/// device, not one per step.
#[derive(Debug, Clone, Default)]
pub(crate) struct DeviceLosses {
    losses: Vec<Tensor>,
    examples: Vec<usize>,
}

impl DeviceLosses {
    pub(crate) fn push(&mut self, loss: Tensor, examples: usize) {
        self.losses.push(loss);
        self.examples.push(examples);
    }

    pub(crate) fn last(&self) -> Option<&Tensor> {
        self.losses.last()
    }

    /// How many examples each loss is the mean of.
    pub(crate) fn counts(&self) -> &[usize] {
        &self.examples
    }

    /// The losses as they are, and the counts, for a checkpoint.
    pub(crate) fn state(&self) -> Result<State> {
        if self.losses.is_empty() {
            return Ok(State::new());
        }
        let counts: Vec<i64> = self.examples.iter().map(|&count| count as i64).collect();
        Ok(State::from([
            ("losses".to_owned(), Tensor::stack(&self.losses, 0)?),
            ("examples".to_owned(), Tensor::from_vec(counts, self.examples.len(), &Device::Cpu)?),
        ]))
    }

    /// Back from a checkpoint, onto the device where the next losses will be.
    pub(crate) fn from_state(state: &State, device: &Device) -> Result<Self> {
        let (losses, examples) = match (state.get("losses"), state.get("examples")) {
            (None, None) => return Ok(Self::default()),
            (Some(losses), Some(examples)) => (losses.to_device(device)?, examples.to_vec1::<i64>()?),
            _ => {
                return Err(Error::checkpoint(
                    "the running epoch has losses without examples, or examples without losses",
                ));
            }
        };
        let losses = (0..examples.len()).map(|i| Ok(losses.get(i)?)).collect::<Result<_>>()?;
        Ok(Self { losses, examples: examples.into_iter().map(|count| count as usize).collect() })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.losses.is_empty()
    }

    pub(crate) fn examples(&self) -> usize {
        self.examples.iter().sum()
    }

    /// Every loss, in order.
    pub(crate) fn values(&self) -> Result<Vec<f64>> {
        if self.losses.is_empty() {
            return Ok(Vec::new());
        }
        let stacked = Tensor::stack(&self.losses, 0)?.to_device(&Device::Cpu)?;
        Ok(stacked.to_dtype(DType::F64)?.to_vec1::<f64>()?)
    }

    /// The mean over examples; NaN without any.
    pub(crate) fn mean(&self) -> Result<f64> {
        let weighted: f64 = self.values()?.iter().zip(&self.examples).map(|(loss, &n)| loss * n as f64).sum();
        Ok(weighted / self.examples() as f64)
    }
}
