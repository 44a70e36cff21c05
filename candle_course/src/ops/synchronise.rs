//! Batch normalisation by the statistics of several ranks' batches.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use super::support::{tensor, with_element};
use crate::error::{Error, Result};
use crate::kernels::node::{Gradients, Value, node};
use crate::kernels::norm::Statistics;

/// What a layer's normalisation needs of the other ranks.
pub(crate) trait Synchronise: Send + Sync {
    /// The statistics of all ranks' batches, from this rank's; `None` if this forward pass is this rank's alone.
    ///
    /// # Errors
    /// If another rank cannot bring its own.
    fn statistics(&self, layer: &str, own: Moments) -> Result<Option<Moments>>;

    /// The sums of all ranks, from this rank's, in the backward pass: of dy and of dy · (x − mean), per channel.
    ///
    /// # Errors
    /// If another rank cannot bring its own, or this is no backward pass of all.
    fn totals(&self, layer: &str, own: Vec<[f64; 2]>) -> Result<Vec<[f64; 2]>>;
}

/// What is known of a batch, per channel: how many numbers, their means and biased variances.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Moments {
    pub count: usize,
    pub mean: Vec<f64>,
    pub variance: Vec<f64>,
    /// The share of the batch in the layer's running statistics.
    pub momentum: f64,
}

impl Moments {
    /// Those of all numbers together, as if they were of one batch (Chan et al. 1979), in the order given.
    pub(crate) fn join(all: &[Self]) -> Option<Self> {
        let first = all.first()?;
        let count: usize = all.iter().map(|part| part.count).sum();
        let weighted = |value: &dyn Fn(&Self) -> f64| {
            all.iter().map(|part| part.count as f64 * value(part)).sum::<f64>() / count as f64
        };
        let mean: Vec<f64> = (0..first.mean.len()).map(|c| weighted(&|part| part.mean[c])).collect();
        let within_and_between = |(c, mean): (usize, &f64)| {
            weighted(&|part| part.variance[c] + (part.mean[c] - mean) * (part.mean[c] - mean))
        };
        let variance = mean.iter().enumerate().map(within_and_between).collect();
        Some(Self { count, mean, variance, momentum: first.momentum })
    }

    /// Mean and unbiased variance, `[C]`, which go into the running statistics.
    ///
    /// # Errors
    /// If no tensor can be made.
    pub(crate) fn running(&self, dtype: DType, device: &Device) -> Result<[Tensor; 2]> {
        let unbiased = self.count as f64 / (self.count - 1) as f64;
        let mean = self.mean.clone();
        let variance = self.variance.iter().map(|variance| variance * unbiased).collect();
        let to_tensor = |values: Vec<f64>| tensor(values, self.mean.len())?.to_dtype(dtype)?.to_device(device);
        Ok([to_tensor(mean)?, to_tensor(variance)?])
    }

    pub(super) fn statistics(&self) -> Statistics {
        Statistics { mean: self.mean.clone(), variance: self.variance.clone() }
    }
}

/// A layer among the ranks that normalise together.
#[derive(Clone)]
pub(crate) struct Shared {
    pub ranks: Arc<dyn Synchronise>,
    /// Its name, the same on all ranks.
    pub layer: String,
}

/// The scalar 0 that hands a gradient of zeros to `xs`. Candle gives what is multiplied by 0 none at all, and a
/// rank whose loss counts nothing still has to take part in the backward pass of all.
pub(crate) fn zero_of(xs: &Tensor) -> Result<Tensor> {
    let zero = |xs: &Tensor| Tensor::zeros((), xs.dtype(), xs.device());
    let backward =
        |inputs: &[&Tensor], _: &Tensor, _: &Tensor| -> Gradients { Ok(vec![Some(inputs[0].zeros_like()?)]) };
    Ok(node("zero", &[xs], Value::of(&zero(xs)?)?, backward)?)
}

/// Mean and variance of every channel of `[N, C, …]`, from candle's operations.
pub(super) fn moments_composed(xs: &Tensor, momentum: f64) -> Result<Moments> {
    let others: Vec<usize> = (0..xs.rank()).filter(|&dim| dim != 1).collect();
    let mean = xs.mean_keepdim(others.as_slice())?;
    let variance = xs.broadcast_sub(&mean)?.sqr()?.mean_keepdim(others.as_slice())?;
    let count = xs.elem_count() / mean.elem_count();
    Ok(Moments { count, mean: on_host(&mean)?, variance: on_host(&variance)?, momentum })
}

fn on_host(values: &Tensor) -> candle_core::Result<Vec<f64>> {
    values.flatten_all()?.to_dtype(DType::F64)?.to_device(&Device::Cpu)?.to_vec1()
}

/// The normalisation on a device without kernels for it, and its gradients.
pub(super) struct Composed {
    pub all: Moments,
    pub epsilon: f64,
    pub relu: bool,
    pub shared: Shared,
}

impl Composed {
    /// `ys`: the inputs normalised with the statistics of all.
    pub(super) fn node(self, name: &'static str, inputs: &[&Tensor], ys: &Tensor) -> Result<Tensor> {
        let value = Value::of(&ys.contiguous()?.copy()?)?;
        Ok(node(name, inputs, value, move |inputs, ys, dy| self.backward(inputs, ys, dy))?)
    }

    fn backward(&self, inputs: &[&Tensor], ys: &Tensor, dy: &Tensor) -> Gradients {
        let x = inputs[0].detach();
        let wanted = |i: usize| inputs.get(i).is_some_and(|input| input.track_op());
        let mut shape = vec![1; x.rank()];
        shape[1] = self.all.mean.len();
        let others: Vec<usize> = (0..x.rank()).filter(|&dim| dim != 1).collect();
        let channel = |values: Vec<f64>| {
            Tensor::from_vec(values, shape.as_slice(), &Device::Cpu)?.to_dtype(x.dtype())?.to_device(x.device())
        };
        let inverse: Vec<f64> = self.all.variance.iter().map(|v| 1.0 / (v + self.epsilon).sqrt()).collect();
        let ys = ys.detach();
        let dy = if self.relu { ys.le(&ys.zeros_like()?)?.where_cond(&dy.zeros_like()?, dy)? } else { dy.clone() };
        let centred = x.broadcast_sub(&channel(self.all.mean.clone())?)?;
        let sums = [dy.sum_keepdim(others.as_slice())?, (&dy * &centred)?.sum_keepdim(others.as_slice())?];
        let [first, second] = [on_host(&sums[0])?, on_host(&sums[1])?];
        let own: Vec<[f64; 2]> = first.into_iter().zip(second).map(|(first, second)| [first, second]).collect();
        let dx = if wanted(0) {
            let totals = self.shared.ranks.totals(&self.shared.layer, own.clone())?;
            let weight =
                inputs.get(1).map_or_else(|| Ok(vec![1.0; inverse.len()]), |weight| on_host(&weight.detach()))?;
            let scale: Vec<f64> = weight.iter().zip(&inverse).map(|(weight, inverse)| weight * inverse).collect();
            let mean_of = |k: usize, c: usize| scale[c] * totals[c][k] / self.all.count as f64;
            let offset = channel((0..scale.len()).map(|c| mean_of(0, c)).collect())?;
            let slope = channel((0..scale.len()).map(|c| mean_of(1, c) * inverse[c] * inverse[c]).collect())?;
            let through = centred.broadcast_mul(&slope)?.broadcast_add(&offset)?;
            Some((dy.broadcast_mul(&channel(scale)?)? - through)?)
        } else {
            None
        };
        let mut gradients = vec![dx];
        for (i, k) in [(1, 1), (2, 0)] {
            if let Some(parameter) = inputs.get(i) {
                let values =
                    own.iter().zip(&inverse).map(|(own, inverse)| if k == 1 { own[1] * inverse } else { own[0] });
                let gradient = || channel(values.collect())?.reshape(parameter.shape());
                gradients.push(wanted(i).then(gradient).transpose()?);
            }
        }
        Ok(gradients)
    }
}

/// This rank's moments.
pub(super) fn moments(xs: &Tensor, channels: usize, plane: usize, on_cpu: bool, momentum: f64) -> Result<Moments> {
    if !on_cpu {
        return moments_composed(xs, momentum);
    }
    let xs = xs.contiguous()?;
    let reading = super::support::Reading::of(&xs);
    let found = with_element!(xs.dtype(), T => crate::kernels::norm::statistics::<T>(reading.get()?, channels, plane));
    Ok(Moments { count: xs.elem_count() / channels, mean: found.mean, variance: found.variance, momentum })
}

/// An error if all ranks' batches have no variance.
pub(super) fn check_count(all: &Moments, xs: &Tensor) -> Result<()> {
    if all.count >= 2 {
        return Ok(());
    }
    Err(Error::argument("xs", "more than one number per channel of all ranks", format!("shape {:?}", xs.dims()))
        .hint("a batch of 1 has no variance: use a larger batch, `drop_last`, or evaluation mode"))
}
