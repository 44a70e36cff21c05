//! Penalties on large weights, to be added to the loss.

use candle_core::Tensor;

use crate::error::{Error, Result};
use crate::kernels::losses::{sum_trailing, weighted};
use crate::nn::Parameters;
use crate::optimizers::groups::not_negative;

/// λ Σ |w| over the weights (parameters of rank 2 and more; not biases and norms): a scalar of the
/// parameters' dtype.
///
/// Its gradient, ±λ, is the same for small and large weights, and so drives many to zero.
/// Tibshirani 1996, "Regression Shrinkage and Selection via the Lasso".
///
/// # Errors
/// If λ is negative, or there are no weights.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let parameters = Parameters::new(0, &Device::Cpu);
/// parameters.root().parameter("weight", (1, 2), Init::Constant(-3.0))?;
/// assert!((l1_penalty(&parameters, 0.1)?.to_scalar::<f32>()? - 0.6).abs() < 1e-6);
/// // ½ λ Σ w²: the same as SGD's weight decay λ.
/// assert!((l2_penalty(&parameters, 0.1)?.to_scalar::<f32>()? - 0.9).abs() < 1e-6);
/// # Ok::<(), candle_course::Error>(())
/// ```
pub fn l1_penalty(parameters: &Parameters, strength: f64) -> Result<Tensor> {
    penalty(parameters, strength, Tensor::abs)
}

/// ½ λ Σ w² over the weights (parameters of rank 2 and more; not biases and norms): a scalar of
/// the parameters' dtype.
///
/// Its gradient is λw, so with plain SGD this is the same as a weight decay of λ; with Adam it is
/// not, which is why [`AdamW`](crate::optimizers::AdamW) exists.
///
/// # Errors
/// As [`l1_penalty`].
pub fn l2_penalty(parameters: &Parameters, strength: f64) -> Result<Tensor> {
    penalty(parameters, strength / 2.0, Tensor::sqr)
}

fn penalty(
    parameters: &Parameters,
    strength: f64,
    term: impl Fn(&Tensor) -> candle_core::Result<Tensor>,
) -> Result<Tensor> {
    not_negative("strength", strength)?;
    let mut sum: Option<Tensor> = None;
    for (_, var) in parameters.trainable().into_iter().filter(|(_, var)| var.rank() >= 2) {
        let term = sum_trailing(&term(&var)?, 0)?;
        sum = Some(match sum {
            Some(sum) => (sum + term)?,
            None => term,
        });
    }
    let sum = sum.ok_or_else(|| {
        Error::argument("parameters", "at least one trainable weight of rank 2 or more", 0)
            .hint("build the model before its penalty")
    })?;
    weighted(&sum, strength)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::Linear;
    use crate::optimizers::{Optimizer, Sgd};
    use crate::stateful::Stateful;
    use candle_core::{DType, Device, Module};

    #[test]
    fn an_l2_penalty_is_sgds_weight_decay() {
        let run = |decay: f64, penalty: f64| {
            let parameters = Parameters::with_dtype(4, DType::F64, &Device::Cpu);
            let layer = Linear::new(3, 2, &parameters.root()).unwrap();
            let mut optimizer =
                Sgd::builder(&parameters).weight_decay(decay).no_decay_for_biases_and_norms().build().unwrap();
            let xs = Tensor::new(&[[1f64, -2.0, 0.5]], &Device::Cpu).unwrap();
            for _ in 0..10 {
                let loss = layer.forward(&xs).unwrap().sqr().unwrap().mean_all().unwrap();
                let loss = (loss + l2_penalty(&parameters, penalty).unwrap()).unwrap();
                optimizer.step(&loss.backward().unwrap(), 0.1).unwrap();
            }
            parameters.state().unwrap()["weight"].to_vec2::<f64>().unwrap().concat()
        };
        for (decayed, penalised) in run(0.2, 0.0).into_iter().zip(run(0.0, 0.2)) {
            assert!((decayed - penalised).abs() < 1e-14);
        }
    }

    #[test]
    fn the_l1_gradient_is_a_sign() {
        let parameters = Parameters::new(4, &Device::Cpu);
        let layer = Linear::new(3, 2, &parameters.root()).unwrap();
        let gradients = l1_penalty(&parameters, 0.5).unwrap().backward().unwrap();
        let gradient = gradients.get(layer.weight()).unwrap().to_vec2::<f32>().unwrap().concat();
        let weight = layer.weight().to_vec2::<f32>().unwrap().concat();
        assert_eq!(gradient, weight.iter().map(|w| 0.5 * w.signum()).collect::<Vec<_>>());
        assert!(l1_penalty(&Parameters::new(0, &Device::Cpu), 0.1).is_err());
    }
}
