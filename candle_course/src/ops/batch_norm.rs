//! Batch normalisation.

use candle_core::{CpuStorage, CustomOp1, CustomOp3, DType, Layout, Shape, Tensor};

use super::support::{
    Reading, check_input, check_same_kind, check_shape, dtype_of, incoming, on_cpu, output, relu_composed, slice,
    tensor, with_element,
};
use crate::error::{Error, Result};
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

struct BatchNorm {
    statistics: Statistics,
    epsilon: f64,
    plane: usize,
    relu: bool,
    /// Whether the statistics are those of the input itself.
    training: bool,
}

impl BatchNorm {
    fn op(&self) -> &'static str {
        if self.training { "batch_norm" } else { "batch_norm_inference" }
    }

    fn forward<T: Element>(
        &self,
        x: &[T],
        affine: Option<(&[T], &[T])>,
        shape: &Shape,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let channels = norm::channels(&self.statistics, self.epsilon, affine.map(|a| a.0), affine.map(|a| a.1));
        output(norm::normalise(x, self.plane, &channels, self.relu), shape)
    }

    fn gradients<T: Element>(
        &self,
        xs: &Tensor,
        affine: Option<(&Tensor, &Tensor)>,
        dy: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (x, dy) = (Reading::of(xs), Reading::of(dy));
        let [of_weight, of_bias] = affine.map_or([false; 2], |(weight, bias)| [weight.track_op(), bias.track_op()]);
        let (weight, bias) = affine.map(|(w, b)| (Reading::of(w), Reading::of(b))).unzip();
        let weight = weight.as_ref().map(|w| w.get::<T>()).transpose()?;
        let bias = bias.as_ref().map(|b| b.get::<T>()).transpose()?;
        let backward = norm::Backward {
            x: x.get::<T>()?,
            dy: dy.get()?,
            plane: self.plane,
            channels: &norm::channels(&self.statistics, self.epsilon, weight, bias),
            inverse_std: &self.statistics.variance.iter().map(|v| 1.0 / (v + self.epsilon).sqrt()).collect::<Vec<_>>(),
            relu: self.relu,
        };
        let (dx, dw, db) = norm::backward(&backward, self.training, xs.track_op(), of_weight || of_bias);
        let parameter = |values: Vec<T>, wanted: bool| {
            let channels = values.len();
            wanted.then(|| tensor(values, channels)).transpose()
        };
        let dx = dx.map(|dx| tensor(dx, xs.shape())).transpose()?;
        Ok((dx, parameter(dw, of_weight)?, parameter(db, of_bias)?))
    }
}

impl CustomOp1 for BatchNorm {
    fn name(&self) -> &'static str {
        self.op()
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        with_element!(dtype_of(x), T => self.forward::<T>(slice(x, layout)?, None, layout.shape()))
    }

    fn bwd(&self, xs: &Tensor, _: &Tensor, dy: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let dy = incoming(dy, self.op())?;
        Ok(with_element!(xs.dtype(), T => self.gradients::<T>(xs, None, &dy))?.0)
    }
}

impl CustomOp3 for BatchNorm {
    fn name(&self) -> &'static str {
        self.op()
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        w: &CpuStorage,
        wl: &Layout,
        b: &CpuStorage,
        bl: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        with_element!(dtype_of(x), T => self.forward::<T>(slice(x, xl)?, Some((slice(w, wl)?, slice(b, bl)?)), xl.shape()))
    }

    fn bwd(
        &self,
        xs: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let dy = incoming(dy, self.op())?;
        with_element!(xs.dtype(), T => self.gradients::<T>(xs, Some((weight, bias)), &dy))
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
    if !on_cpu(xs) {
        return composed(xs, affine, epsilon, relu, count);
    }
    let xs = xs.contiguous()?;
    let statistics = with_element!(xs.dtype(), T => norm::statistics::<T>(Reading::of(&xs).get()?, channels, plane));
    let as_tensor = |values: &[f64]| tensor(values.to_vec(), channels)?.to_dtype(xs.dtype());
    let found =
        BatchStatistics { mean: as_tensor(&statistics.mean)?, variance: as_tensor(&statistics.variance)?, count };
    Ok((apply(&xs, affine, BatchNorm { statistics, epsilon, plane, relu, training: true })?, found))
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
    if !on_cpu(xs) {
        return composed_inference(xs, mean, variance, affine, epsilon, relu);
    }
    let wide = |xs: &Tensor| xs.to_dtype(DType::F64)?.to_vec1::<f64>();
    let statistics = Statistics { mean: wide(mean)?, variance: wide(variance)? };
    apply(&xs.contiguous()?, affine, BatchNorm { statistics, epsilon, plane, relu, training: false })
}

fn apply(xs: &Tensor, affine: Option<(&Tensor, &Tensor)>, op: BatchNorm) -> Result<Tensor> {
    Ok(match affine {
        Some((weight, bias)) => xs.apply_op3(&weight.contiguous()?, &bias.contiguous()?, op)?,
        None => xs.apply_op1(op)?,
    })
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
