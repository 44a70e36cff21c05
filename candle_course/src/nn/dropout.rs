//! Dropout.

use candle_core::{ModuleT, Tensor};

use crate::error::{Error, Result};
use crate::nn::parameters::Scope;
use crate::ops;
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
        let key = self.generator.lock().next_u64();
        Ok(ops::dropout(xs, self.p, key)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::Parameters;
    use candle_core::{DType, Device};

    #[test]
    fn masks_follow_the_generator_and_evaluation_has_none() {
        let run = |seed| {
            let parameters = Parameters::new(seed, &Device::Cpu);
            let layer = Dropout::new(0.5, &parameters.at("drop")).unwrap();
            let x = Tensor::ones((20, 10), DType::F32, &Device::Cpu).unwrap();
            let flat = |train| layer.forward_t(&x, train).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(flat(false), [1.0; 200]);
            [flat(true), flat(true)]
        };
        let [first, second] = run(1);
        assert!(first.iter().all(|&x| x == 0.0 || x == 2.0));
        assert_ne!(first, second);
        assert_eq!(run(1), [first.clone(), second]);
        assert_ne!(run(2)[0], first);
    }
}
