//! Dropout.

use candle_core::{ModuleT, Tensor};

use crate::error::{Error, Result};
use crate::nn::parameters::Scope;
use crate::random::SharedGenerator;

/// Inverted dropout (Srivastava et al. 2014), as `torch.nn.Dropout`: in training each number
/// becomes 0 with probability `p` and is divided by `1 - p` otherwise; in evaluation nothing changes.
///
/// The masks come from a generator that belongs to the [`Parameters`](crate::nn::Parameters):
/// seeded, and saved in checkpoints.
#[derive(Debug, Clone)]
pub struct Dropout {
    p: f64,
    generator: SharedGenerator,
}

impl Dropout {
    /// Dropout with probability `p`.
    ///
    /// # Errors
    /// If `p` is not in `[0, 1)`, or the scope has a generator already.
    pub fn new(p: f64, scope: &Scope) -> Result<Self> {
        if !(0.0..1.0).contains(&p) {
            return Err(
                Error::argument("p", "a probability in [0, 1)", p).hint("p is the share that is dropped, not kept")
            );
        }
        Ok(Self { p, generator: scope.generator()? })
    }
}

impl ModuleT for Dropout {
    fn forward_t(&self, xs: &Tensor, train: bool) -> candle_core::Result<Tensor> {
        if !train || self.p == 0.0 {
            return Ok(xs.clone());
        }
        let scale = (1.0 / (1.0 - self.p)) as f32;
        let mask: Vec<f32> = {
            let mut generator = self.generator.lock();
            (0..xs.elem_count()).map(|_| if generator.chance(self.p) { 0.0 } else { scale }).collect()
        };
        xs * Tensor::from_vec(mask, xs.shape(), &candle_core::Device::Cpu)?
            .to_dtype(xs.dtype())?
            .to_device(xs.device())?
    }
}
