//! Losses of many steps, kept on the device until somebody asks.

use candle_core::{DType, Tensor};

use crate::error::Result;

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
        let stacked = Tensor::stack(&self.losses, 0)?.to_device(&candle_core::Device::Cpu)?;
        Ok(stacked.to_dtype(DType::F64)?.to_vec1::<f64>()?)
    }

    /// The mean over examples; NaN without any.
    pub(crate) fn mean(&self) -> Result<f64> {
        let weighted: f64 = self.values()?.iter().zip(&self.examples).map(|(loss, &n)| loss * n as f64).sum();
        Ok(weighted / self.examples() as f64)
    }
}
