//! Batch normalisation.

use candle_core::{DType, Tensor, Var};

use super::support::{
    Reading, apply, check_input, check_same_kind, check_shape, on_cpu, relu_composed, tensor, with_element,
};
use super::synchronise::{self, Shared};
use crate::error::{Error, Result};
#[cfg(feature = "cuda")]
use crate::kernels::cuda::norm as cuda;
#[cfg(feature = "cuda")]
use crate::kernels::node::keeping;
use crate::kernels::node::{Gradients, Value};
use crate::kernels::norm::{self, Statistics};
use crate::kernels::simd::Element;

/// What [`batch_norm`] found in a batch, per channel.
#[derive(Debug, Clone)]
pub struct BatchStatistics {
    /// The mean, `[C]`.
    pub mean: Tensor,
    /// The biased variance (divided by the count), `[C]`.
    pub variance: Tensor,
    /// How many numbers a channel had.
    pub count: usize,
}

/// Channels and numbers of a plane of `[N, C, …]`.
fn sizes(xs: &Tensor) -> Result<(usize, usize)> {
    check_input("xs", xs)?;
    match xs.dims() {
        [_, channels, plane @ ..] => Ok((*channels, plane.iter().product())),
        dims => Err(Error::argument("xs", "shape [N, C] or [N, C, …]", format!("{dims:?}"))),
    }
}

fn check_channels(xs: &Tensor, channels: usize, names: [&str; 2], pair: Option<(&Tensor, &Tensor)>) -> Result<()> {
    for (name, parameter) in names.into_iter().zip(pair.into_iter().flat_map(|(first, second)| [first, second])) {
        check_same_kind(name, parameter, xs)?;
        check_shape(name, parameter, &[channels])?;
    }
    Ok(())
}

const AFFINE: [&str; 2] = ["weight", "bias"];
const TRAINING: &str = "batch_norm";
const INFERENCE: &str = "batch_norm_inference";
const SYNCHRONISED: &str = "batch_norm_synchronised";

struct BatchNorm {
    statistics: Statistics,
    epsilon: f64,
    plane: usize,
    relu: bool,
    of: Of,
}

/// What the statistics are of.
enum Of {
    /// Other batches.
    Past,
    /// The input.
    Input,
    /// The inputs of all ranks, so many numbers per channel.
    Inputs(Shared, usize),
}

impl BatchNorm {
    fn forward<T: Element>(&self, inputs: &[&Tensor]) -> candle_core::Result<Value> {
        let (x, affine) = (Reading::of(inputs[0]), inputs[1..].iter().map(|p| Reading::of(p)).collect::<Vec<_>>());
        let affine = affine.iter().map(|p| p.get::<T>()).collect::<candle_core::Result<Vec<_>>>()?;
        let (weight, bias) = (affine.first().copied(), affine.get(1).copied());
        let channels = norm::channels(&self.statistics, self.epsilon, weight, bias);
        Ok(Value::cpu(norm::normalise(x.get()?, self.plane, &channels, self.relu), inputs[0].shape()))
    }

    fn backward<T: Element>(&self, inputs: &[&Tensor], _: &Tensor, dy: &Tensor) -> Gradients {
        let (x, dy) = (Reading::of(inputs[0]), Reading::of(dy));
        let wanted = |i: usize| inputs.get(i).is_some_and(|input| input.track_op());
        let affine = inputs[1..].iter().map(|p| Reading::of(p)).collect::<Vec<_>>();
        let affine = affine.iter().map(|p| p.get::<T>()).collect::<candle_core::Result<Vec<_>>>()?;
        let (weight, bias) = (affine.first().copied(), affine.get(1).copied());
        let backward = norm::Backward {
            x: x.get::<T>()?,
            dy: dy.get()?,
            plane: self.plane,
            channels: &norm::channels(&self.statistics, self.epsilon, weight, bias),
            inverse_std: &self.statistics.variance.iter().map(|v| 1.0 / (v + self.epsilon).sqrt()).collect::<Vec<_>>(),
            relu: self.relu,
        };
        let totals = match (&self.of, wanted(1) || wanted(2)) {
            (Of::Past, false) => vec![[0.0; 2]; backward.channels.len()],
            _ => norm::totals(&backward),
        };
        let joint; // of all ranks
        let through = match &self.of {
            Of::Past => None,
            Of::Inputs(shared, count) if wanted(0) => {
                joint = shared.ranks.totals(&shared.layer, totals.clone())?;
                Some(norm::Through { totals: &joint, numbers: *count as f64 })
            }
            _ => Some(norm::Through { totals: &totals, numbers: (backward.x.len() / totals.len()) as f64 }),
        };
        let dx = wanted(0).then(|| norm::input_gradient(&backward, through.as_ref()));
        let mut gradients = vec![dx.map(|dx| tensor(dx, inputs[0].shape())).transpose()?];
        let (dw, db) = norm::affine_gradients(&backward, &totals);
        for (i, values) in [(1, dw), (2, db)] {
            if let Some(parameter) = inputs.get(i) {
                gradients.push(wanted(i).then(|| tensor(values, parameter.shape())).transpose()?);
            }
        }
        Ok(gradients)
    }
}

/// Normalises every channel with the mean and variance of the batch (Ioffe & Szegedy 2015,
/// arXiv:1502.03167), as `torch.nn.functional.batch_norm` in training:
/// y = (x − mean) / √(variance + ε) · weight + bias, then ReLU if `relu`.
///
/// `xs`: `[N, C]` or `[N, C, …]`, f32 or f64; `affine`: weight and bias, `[C]` each. Returns the
/// result and the statistics, which carry no gradient.
///
/// # Errors
/// If shapes, dtypes or devices do not fit, the batch is empty, or a channel has one number only.
pub fn batch_norm(
    xs: &Tensor,
    affine: Option<(&Tensor, &Tensor)>,
    epsilon: f64,
    relu: bool,
) -> Result<(Tensor, BatchStatistics)> {
    let (channels, plane) = sizes(xs)?;
    let count = check_training(xs, channels, affine)?;
    #[cfg(feature = "cuda")]
    if on_cuda(xs) {
        let (ys, found) = training_on_cuda(xs, affine, epsilon, relu, None)?;
        let (mean, variance) = found.ok_or_else(|| Error::training("internal error: a batch without statistics"))?;
        return Ok((ys, BatchStatistics { mean, variance, count }));
    }
    if !on_cpu(xs) {
        return composed(xs, affine, epsilon, relu, count);
    }
    let xs = xs.contiguous()?;
    let statistics = with_element!(xs.dtype(), T => norm::statistics::<T>(Reading::of(&xs).get()?, channels, plane));
    let as_tensor = |values: &[f64]| tensor(values.to_vec(), channels)?.to_dtype(xs.dtype());
    let found =
        BatchStatistics { mean: as_tensor(&statistics.mean)?, variance: as_tensor(&statistics.variance)?, count };
    let op = BatchNorm { statistics, epsilon, plane, relu, of: Of::Input };
    Ok((apply!(TRAINING, op, inputs(&xs, affine)), found))
}

/// [`batch_norm_running`] by the statistics of all ranks' batches; `None` if this forward pass is this rank's alone.
///
/// Weight and bias get the gradients of this rank's numbers, the input that of the loss of all ranks.
pub(crate) fn batch_norm_synchronised(
    xs: &Tensor,
    affine: Option<(&Tensor, &Tensor)>,
    epsilon: f64,
    relu: bool,
    running: &RunningStatistics<'_>,
    shared: Shared,
) -> Result<Option<Tensor>> {
    let (channels, plane) = sizes(xs)?;
    check_channels(xs, channels, AFFINE, affine)?;
    let own = synchronise::moments(xs, channels, plane, on_cpu(xs), running.momentum)?;
    let Some(all) = shared.ranks.statistics(&shared.layer, own)? else { return Ok(None) };
    synchronise::check_count(&all, xs)?;
    running.update(&all.running(running.mean.dtype(), running.mean.device())?)?;
    if on_cpu(xs) {
        let op = BatchNorm { statistics: all.statistics(), epsilon, plane, relu, of: Of::Inputs(shared, all.count) };
        return Ok(Some(apply!(SYNCHRONISED, op, inputs(xs, affine))));
    }
    let inputs = super::support::contiguous(&inputs(xs, affine))?;
    let inputs: Vec<&Tensor> = inputs.iter().collect();
    let of_channels = |values: &[f64]| tensor(values.to_vec(), channels)?.to_dtype(xs.dtype())?.to_device(xs.device());
    let (mean, variance) = (of_channels(&all.mean)?, of_channels(&all.variance)?);
    let ys = super::no_grad(|| batch_norm_inference(&xs.detach(), &mean, &variance, affine, epsilon, relu))?.detach();
    Ok(Some(synchronise::Composed { all, epsilon, relu, shared }.node(SYNCHRONISED, &inputs, &ys)?))
}

/// How many numbers a channel has, in training.
fn check_training(xs: &Tensor, channels: usize, affine: Option<(&Tensor, &Tensor)>) -> Result<usize> {
    check_channels(xs, channels, AFFINE, affine)?;
    let count = xs.elem_count() / channels;
    if count < 2 {
        return Err(Error::argument(
            "xs",
            "more than one number per channel in training",
            format!("shape {:?}", xs.dims()),
        )
        .hint("a batch of 1 has no variance: use a larger batch, `drop_last`, or evaluation mode"));
    }
    Ok(count)
}

/// The statistics of past batches, `[C]` each, and how many there were, i64.
pub(crate) struct RunningStatistics<'a> {
    pub mean: &'a Var,
    pub variance: &'a Var,
    pub batches: &'a Var,
    /// The share of a new batch.
    pub momentum: f64,
}

impl RunningStatistics<'_> {
    /// Takes in mean and unbiased variance of a batch.
    pub(crate) fn update(&self, [mean, variance]: &[Tensor; 2]) -> Result<()> {
        for (running, new) in [(self.mean, mean), (self.variance, variance)] {
            let old = running.as_detached_tensor();
            running.set(&((old * (1.0 - self.momentum))? + (new * self.momentum)?)?)?;
        }
        Ok(self.batches.set(&(self.batches.as_detached_tensor() + 1.0)?)?)
    }
}

/// [`batch_norm`] whose statistics go into the running ones: on CUDA within the same pass.
pub(crate) fn batch_norm_running(
    xs: &Tensor,
    affine: Option<(&Tensor, &Tensor)>,
    epsilon: f64,
    relu: bool,
    running: &RunningStatistics<'_>,
) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    {
        let (channels, _) = sizes(xs)?;
        let kept = [running.mean, running.variance].iter().all(|var| var.dtype() == xs.dtype() && var.is_contiguous());
        if kept && on_cuda(xs) {
            check_training(xs, channels, affine)?;
            check_channels(xs, channels, ["running_mean", "running_var"], Some((running.mean, running.variance)))?;
            return Ok(training_on_cuda(xs, affine, epsilon, relu, Some(running))?.0);
        }
    }
    let (ys, found) = batch_norm(xs, affine, epsilon, relu)?;
    // The running variance is the unbiased one, as in PyTorch.
    let unbiased = (found.variance * (found.count as f64 / (found.count - 1) as f64))?;
    running.update(&[found.mean, unbiased])?;
    Ok(ys)
}

#[cfg(feature = "cuda")]
fn on_cuda(xs: &Tensor) -> bool {
    super::support::on_cuda(xs) && cuda::Channels::of(xs.dims()).fit()
}

#[cfg(feature = "cuda")]
fn training_on_cuda(
    xs: &Tensor,
    affine: Option<(&Tensor, &Tensor)>,
    epsilon: f64,
    relu: bool,
    running: Option<&RunningStatistics<'_>>,
) -> Result<(Tensor, Option<(Tensor, Tensor)>)> {
    let inputs = super::support::contiguous(&inputs(xs, affine))?;
    let inputs: Vec<&Tensor> = inputs.iter().collect();
    let running =
        running.map(|r| cuda::Running { mean: r.mean, variance: r.variance, batches: r.batches, momentum: r.momentum });
    let normalised = with_element!(xs.dtype(), T => cuda::training::<T>(&inputs, epsilon, relu, running.as_ref()))?;
    Ok((node_on_cuda(TRAINING, &inputs, normalised.ys, normalised.op)?, normalised.statistics))
}

#[cfg(feature = "cuda")]
fn node_on_cuda(name: &'static str, inputs: &[&Tensor], ys: Value, op: cuda::BatchNorm) -> candle_core::Result<Tensor> {
    let x = (!op.keeps_input()).then(|| inputs[0].clone());
    let affine: Vec<Tensor> = inputs[1..].iter().map(|&one| one.clone()).collect();
    keeping(name, inputs, ys, move |wants, dy| {
        let affine: Vec<&Tensor> = affine.iter().collect();
        with_element!(dy.dtype(), T => op.backward::<T>(x.as_ref(), &affine, wants, dy))
    })
}

/// Normalises every channel with given statistics, as `torch.nn.functional.batch_norm` in
/// evaluation. Differentiable in `xs`, weight and bias.
///
/// `mean`, `variance`: `[C]`; the rest as for [`batch_norm`].
///
/// # Errors
/// If shapes, dtypes or devices do not fit, or the batch is empty.
pub fn batch_norm_inference(
    xs: &Tensor,
    mean: &Tensor,
    variance: &Tensor,
    affine: Option<(&Tensor, &Tensor)>,
    epsilon: f64,
    relu: bool,
) -> Result<Tensor> {
    let (channels, plane) = sizes(xs)?;
    check_channels(xs, channels, AFFINE, affine)?;
    check_channels(xs, channels, ["mean", "variance"], Some((mean, variance)))?;
    #[cfg(feature = "cuda")]
    if on_cuda(xs) {
        let inputs = super::support::contiguous(&inputs(xs, affine))?;
        let inputs: Vec<&Tensor> = inputs.iter().collect();
        let (mean, variance) = (mean.contiguous()?, variance.contiguous()?);
        let (ys, op) = with_element!(xs.dtype(), T => cuda::inference::<T>(&inputs, &mean, &variance, epsilon, relu))?;
        return Ok(node_on_cuda(INFERENCE, &inputs, ys, op)?);
    }
    if !on_cpu(xs) {
        return composed_inference(xs, mean, variance, affine, epsilon, relu);
    }
    let wide = |xs: &Tensor| xs.to_dtype(DType::F64)?.to_vec1::<f64>();
    let statistics = Statistics { mean: wide(mean)?, variance: wide(variance)? };
    let op = BatchNorm { statistics, epsilon, plane, relu, of: Of::Past };
    Ok(apply!(INFERENCE, op, inputs(xs, affine)))
}

fn inputs<'a>(xs: &'a Tensor, affine: Option<(&'a Tensor, &'a Tensor)>) -> [Option<&'a Tensor>; 3] {
    [Some(xs), affine.map(|pair| pair.0), affine.map(|pair| pair.1)]
}

/// `[1, C, 1, …]` of the rank of `xs`.
fn per_channel(xs: &Tensor) -> Vec<usize> {
    let mut shape = vec![1; xs.rank()];
    shape[1] = xs.dims()[1];
    shape
}

fn affine_and_relu(ys: Tensor, affine: Option<(&Tensor, &Tensor)>, relu: bool, shape: &[usize]) -> Result<Tensor> {
    let ys = match affine {
        Some((weight, bias)) => ys.broadcast_mul(&weight.reshape(shape)?)?.broadcast_add(&bias.reshape(shape)?)?,
        None => ys,
    };
    Ok(if relu { relu_composed(&ys)? } else { ys })
}

/// [`batch_norm_inference`] of candle's operations, for a GPU.
fn composed_inference(
    xs: &Tensor,
    mean: &Tensor,
    variance: &Tensor,
    affine: Option<(&Tensor, &Tensor)>,
    epsilon: f64,
    relu: bool,
) -> Result<Tensor> {
    let shape = per_channel(xs);
    let inverse = (variance.detach() + epsilon)?.sqrt()?.recip()?.reshape(shape.as_slice())?;
    let ys = xs.broadcast_sub(&mean.detach().reshape(shape.as_slice())?)?.broadcast_mul(&inverse)?;
    affine_and_relu(ys, affine, relu, &shape)
}

/// [`batch_norm`] of candle's operations, for a GPU.
fn composed(
    xs: &Tensor,
    affine: Option<(&Tensor, &Tensor)>,
    epsilon: f64,
    relu: bool,
    count: usize,
) -> Result<(Tensor, BatchStatistics)> {
    let shape = per_channel(xs);
    let others: Vec<usize> = (0..xs.rank()).filter(|&dim| dim != 1).collect();
    let mean = xs.mean_keepdim(others.as_slice())?;
    let centred = xs.broadcast_sub(&mean)?;
    let variance = centred.sqr()?.mean_keepdim(others.as_slice())?;
    let ys = centred.broadcast_div(&(&variance + epsilon)?.sqrt()?)?;
    let flat = |xs: &Tensor| xs.detach().flatten_all();
    let found = BatchStatistics { mean: flat(&mean)?, variance: flat(&variance)?, count };
    Ok((affine_and_relu(ys, affine, relu, &shape)?, found))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn both_roads_find_the_same_statistics() {
        let values: Vec<f64> = (0..4 * 3 * 10).map(|i| 5.0 + (i as f64 * 1.3).sin()).collect();
        let x = Tensor::from_vec(values, (4, 3, 10), &Device::Cpu).unwrap();
        let (_, ours) = batch_norm(&x, None, 1e-5, false).unwrap();
        let (_, theirs) = crate::ops::support::composed(|| batch_norm(&x, None, 1e-5, false)).unwrap();
        assert_eq!((ours.count, theirs.count), (40, 40));
        for (ours, theirs) in [(ours.mean, theirs.mean), (ours.variance, theirs.variance)] {
            let pairs = ours.to_vec1::<f64>().unwrap().into_iter().zip(theirs.to_vec1::<f64>().unwrap());
            pairs.for_each(|(a, b)| assert!((a - b).abs() < 1e-9, "{a} {b}"));
        }
    }

    #[test]
    fn wrong_statistics_are_called_by_their_names() {
        let ones = |shape: &[usize]| Tensor::ones(shape, DType::F32, &Device::Cpu).unwrap();
        let (x, three, two) = (ones(&[4, 3]), ones(&[3]), ones(&[2]));
        let error = |mean: &Tensor, variance: &Tensor, affine: Option<(&Tensor, &Tensor)>| {
            batch_norm_inference(&x, mean, variance, affine, 1e-5, false).unwrap_err().to_string()
        };
        assert!(error(&two, &three, None).starts_with("`mean`: expected shape [3]"));
        assert!(error(&three, &two, None).starts_with("`variance`: expected shape [3]"));
        assert!(error(&three, &three, Some((&three, &two))).starts_with("`bias`: expected shape [3]"));
    }

    #[test]
    fn one_number_per_channel_is_refused_in_training() {
        let x = Tensor::ones((1, 3), DType::F32, &Device::Cpu).unwrap();
        let text = batch_norm(&x, None, 1e-5, false).unwrap_err().to_string();
        assert!(text.contains("a batch of 1 has no variance"), "{text}");
    }
}
