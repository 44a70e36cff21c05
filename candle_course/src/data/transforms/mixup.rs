//! Mixup.

use candle_core::{DType, Tensor};

use super::{BatchPosition, Transform};
use crate::data::Batch;
use crate::error::{Error, Result};
use crate::random::Generator;
use crate::sizes;

/// Mixes every example with another of its batch, inputs and targets alike:
///
/// ```text
/// λ ~ Beta(α, α),   x̃ = λ xᵢ + (1 - λ) xⱼ,   ỹ = λ yᵢ + (1 - λ) yⱼ
/// ```
///
/// with one λ per example and a random partner j ([Zhang et al.
/// 2018](https://arxiv.org/abs/1710.09412)). Class targets, `[N]` u32, become class probabilities,
/// `[N, C]` f32, so the loss must accept those. The partner comes from the same batch, so here, and
/// only here, the batch size matters.
///
/// # Examples
///
/// ```
/// use candle_course::data::{DataLoader, MixUp, Mnist};
///
/// let images = Mnist::builder().sample().quiet().load()?.train();
/// let loader = DataLoader::builder(images).batch_size(32).shuffle(1).transform(MixUp::new(0.2, 10, 9)?).build()?;
/// let batch = loader.epoch(0)?.next().unwrap()?;
/// assert_eq!(batch.targets.dims(), [32, 10]);
/// # Ok::<(), candle_course::error::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct MixUp {
    alpha: f64,
    classes: usize,
    seed: u64,
}

impl MixUp {
    /// Mixes with λ from Beta(`alpha`, `alpha`); `classes` is how many there are.
    ///
    /// # Errors
    /// If `alpha` is not positive or there are fewer than two classes.
    pub fn new(alpha: f64, classes: usize, seed: u64) -> Result<Self> {
        if !(alpha.is_finite() && alpha > 0.0) {
            return Err(Error::argument("alpha", "a positive number", alpha));
        }
        if classes < 2 {
            return Err(Error::argument("classes", "at least 2", classes));
        }
        Ok(Self { alpha, classes, seed: Generator::derive(seed, "mixup").next_u64() })
    }
}

impl Transform for MixUp {
    fn apply(&self, batch: Batch, position: &BatchPosition) -> Result<Batch> {
        let n = batch.len();
        if batch.targets.dims() != [n] || batch.targets.dtype() != DType::U32 {
            return Err(Error::argument(
                "targets",
                "classes, [N] of U32, for mixup",
                format!("{:?} of {:?}", batch.targets.dims(), batch.targets.dtype()),
            ));
        }
        let classes: Vec<u32> = batch.targets.to_vec1()?;
        if let Some(bad) = classes.iter().find(|&&class| class as usize >= self.classes) {
            return Err(Error::argument("targets", format!("classes below {}", self.classes), bad));
        }
        let partners = position.generator(self.seed, 0).permutation(n);
        let mut targets = sizes::filled("classes", 0f32, sizes::product("classes", &[n, self.classes])?)?;
        let mut shares = Vec::with_capacity(n);
        for (row, &partner) in partners.iter().enumerate() {
            let mut generator =
                Generator::stream(self.seed, &[1, position.epoch as u64, (position.first + row) as u64]);
            let share = generator.beta(self.alpha, self.alpha)? as f32;
            targets[row * self.classes + classes[row] as usize] += share;
            targets[row * self.classes + classes[partner] as usize] += 1.0 - share;
            shares.push(share);
        }
        let device = batch.inputs.device();
        let mut shape = vec![1; batch.inputs.rank()];
        shape[0] = n;
        let share = Tensor::from_vec(shares, shape, device)?.to_dtype(batch.inputs.dtype())?;
        let partners: Vec<u32> = partners.into_iter().map(|i| i as u32).collect();
        let others = batch.inputs.index_select(&Tensor::from_vec(partners, n, device)?, 0)?;
        // x_j + λ (x_i - x_j)
        let inputs = (&others + (&batch.inputs - &others)?.broadcast_mul(&share)?)?;
        Ok(Batch { inputs, targets: Tensor::from_vec(targets, (n, self.classes), device)?, indices: batch.indices })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{batch, values};
    use super::*;

    #[test]
    fn inputs_and_targets_are_mixed_alike() {
        let at = BatchPosition { epoch: 1, first: 0 };
        // Every image is constant and tells its class: 0, 1 or 2.
        let before = batch([12, 1, 2, 2], false);
        let class = before.targets.to_dtype(DType::F32).unwrap().reshape((12, 1, 1, 1)).unwrap();
        let before = Batch { inputs: class.broadcast_as((12, 1, 2, 2)).unwrap().contiguous().unwrap(), ..before };
        let mixup = MixUp::new(0.4, 3, 5).unwrap();
        let after = mixup.apply(before.clone(), &at).unwrap();
        let again = mixup.apply(before.clone(), &at).unwrap();
        assert_eq!(values(&after.inputs), values(&again.inputs));
        assert_ne!(values(&after.inputs), values(&before.inputs));
        for (image, target) in values(&after.inputs).chunks(4).zip(values(&after.targets).chunks(3)) {
            assert!((target.iter().sum::<f32>() - 1.0).abs() < 1e-6);
            assert!((image[0] - target[1] - 2.0 * target[2]).abs() < 1e-5);
        }
    }

    #[test]
    fn shares_have_the_moments_of_the_beta_distribution() {
        // Beta(a, a): mean 1/2, variance 1 / (4 (2a + 1)).
        let mut generator = Generator::new(3);
        let draws: Vec<f64> = (0..20_000).map(|_| generator.beta(0.4, 0.4).unwrap()).collect();
        let mean = draws.iter().sum::<f64>() / 20_000.0;
        let variance = draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 20_000.0;
        assert!((mean - 0.5).abs() < 0.01, "{mean}");
        assert!((variance - 1.0 / (4.0 * 1.8)).abs() < 0.003, "{variance}");
        assert!(generator.beta(0.0, 1.0).is_err());
    }

    #[test]
    fn bad_arguments_are_explained() {
        let at = BatchPosition { epoch: 0, first: 0 };
        assert!(MixUp::new(0.0, 3, 1).is_err());
        assert!(MixUp::new(0.2, 1, 1).is_err());
        let two = MixUp::new(0.2, 2, 1).unwrap();
        assert!(two.apply(batch([3, 1, 1, 1], false), &at).unwrap_err().to_string().contains("classes below 2, got 2"));
        assert!(two.apply(batch([3, 1, 2, 2], true), &at).unwrap_err().to_string().contains("[N] of U32"));
    }
}
