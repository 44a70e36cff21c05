//! Buffers of several ranks: the running statistics of batch norm, of which each rank sees its own batches.

use candle_core::{DType, Device, Tensor, Var};

use crate::error::Result;
use crate::nn::Parameters;

/// The buffers as they were when all ranks had the same. What a rank changed is told as a difference to it: a
/// buffer that nobody changed keeps its bits.
#[derive(Default)]
pub(super) struct Buffers(Vec<(Var, Tensor)>);

impl Buffers {
    /// All ranks have the same now.
    pub(super) fn remember(&mut self, parameters: &Parameters) -> Result<()> {
        let copy = |(_, var): (String, Var)| Ok((Var::clone(&var), var.as_tensor().copy()?));
        self.0 = parameters.buffers().into_iter().map(copy).collect::<Result<_>>()?;
        Ok(())
    }

    /// What to sum over all ranks for [`Buffers::set`]: of floats the difference times this rank's share of the
    /// examples; of whole numbers (batches counted) the difference, in the row of this rank.
    pub(super) fn shares(&self, share: f64, rank: usize, ranks: usize) -> Result<Vec<Tensor>> {
        let share = |(var, before): &(Var, Tensor)| {
            if before.dtype().is_float() {
                return Ok(((var.as_tensor() - before)? * share)?);
            }
            let wide = |tensor: &Tensor| tensor.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.flatten_all();
            let difference = (wide(var)? - wide(before)?)?.unsqueeze(0)?;
            let rows = (0..ranks).map(|row| if row == rank { Ok(difference.clone()) } else { difference.zeros_like() });
            Ok(Tensor::cat(&rows.collect::<candle_core::Result<Vec<_>>>()?, 0)?)
        };
        self.0.iter().map(share).collect()
    }

    /// Gives the buffers what all ranks made of them: of floats the mean, weighted by examples; of whole numbers
    /// the largest.
    pub(super) fn set(&mut self, sums: Vec<Tensor>) -> Result<()> {
        for ((var, before), sum) in self.0.iter_mut().zip(sums) {
            let now = if before.dtype().is_float() {
                (&*before + sum)?
            } else {
                let most = sum.max(0)?.reshape(before.shape())?;
                let wide = before.to_device(&Device::Cpu)?.to_dtype(DType::F64)?;
                (wide + most)?.to_dtype(before.dtype())?.to_device(before.device())?
            };
            var.set(&now)?;
            *before = now;
        }
        Ok(())
    }
}
