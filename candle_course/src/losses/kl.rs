//! Kullback–Leibler divergence.

use candle_core::Tensor;

use crate::error::Result;
use crate::kernels::losses::sum_trailing;
use crate::losses::options::builder;
use crate::losses::validate::{log_probabilities_only, pair, probabilities};
use crate::losses::{Loss, MeanOf, Reduction};

/// Kullback–Leibler divergence Σ q (ln q − ln p) of `targets` q from the predicted p.
///
/// `log_probabilities`: ln p, as from a log-softmax, never positive; `targets`: q, probabilities,
/// same shape `[N, …]`. [`Reduction::Mean`] divides by N, the mathematical definition and
/// PyTorch's `batchmean`; q = 0 contributes 0.
///
/// # Errors
/// If the shapes, dtypes or devices differ, a log-probability is positive (a logit or a
/// probability, then), or a target is not in [0, 1].
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let q = Tensor::new(&[[0.25f64, 0.75]], &Device::Cpu)?;
/// assert!(kl_divergence(&q.log()?, &q, Reduction::Mean)?.to_scalar::<f64>()?.abs() < 1e-15);
/// assert!(kl_divergence(&q, &q, Reduction::Mean).unwrap_err().to_string().contains("log_softmax"));
/// # Ok::<(), candle_course::Error>(())
/// ```
pub fn kl_divergence(log_probabilities: &Tensor, targets: &Tensor, reduction: Reduction) -> Result<Tensor> {
    let (log_p, q) = pair(log_probabilities, targets)?;
    #[cfg(feature = "cuda")]
    if crate::kernels::cuda::takes(&log_p) && !q.track_op() {
        let share =
            if reduction == Reduction::Mean { 1.0 / log_p.dims().first().copied().unwrap_or(1) as f64 } else { 1.0 };
        let divergence = crate::kernels::cuda::pointwise::Pairs::Divergence;
        return Ok(divergence.apply_shared(&log_p, &q, reduction == Reduction::None, share)?);
    }
    log_probabilities_only("log_probabilities", &log_p)?;
    probabilities("targets", &q)?;
    // Both products have the limit 0 at q = 0, where 0 · −∞ would be NaN.
    let entropy = (&q * q.maximum(f64::from(f32::MIN_POSITIVE))?.log()?)?;
    let cross = q.eq(0.0)?.where_cond(&q.zeros_like()?, &(&q * log_p)?)?;
    let losses = (entropy - cross)?;
    match reduction {
        Reduction::None => Ok(losses),
        Reduction::Sum => sum_trailing(&losses, 0),
        Reduction::Mean => Ok((sum_trailing(&losses, 0)? / losses.dims().first().copied().unwrap_or(1) as f64)?),
    }
}

/// [`kl_divergence`] as a [`Loss`].
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let q = Tensor::new(&[[0.5f64, 0.5]], &Device::Cpu)?;
/// let log_p = Tensor::new(&[[0.25f64, 0.75]], &Device::Cpu)?.log()?;
/// let expected = 0.5 * 2f64.ln() + 0.5 * (2f64 / 3.0).ln();
/// let loss = KlDivergence::default().forward(&log_p, &q)?.to_scalar::<f64>()?;
/// assert!((loss - expected).abs() < 1e-15);
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KlDivergence {
    reduction: Reduction,
}

builder! {
    /// The mean over examples, unless told otherwise.
    KlDivergenceBuilder of KlDivergence;
    /// What becomes of the divergences of single elements.
    fn reduction(loss, reduction: Reduction) { loss.reduction = reduction }
    build(_loss), errors "Never." {}
}

impl Loss for KlDivergence {
    fn forward(&self, log_probabilities: &Tensor, targets: &Tensor) -> Result<Tensor> {
        kl_divergence(log_probabilities, targets, self.reduction)
    }

    fn mean_of(&self, _: &Tensor, targets: &Tensor) -> Result<MeanOf> {
        self.reduction.of(|| Ok(MeanOf::examples(targets)))
    }
}
