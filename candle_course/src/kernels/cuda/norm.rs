//! Batch normalisation of `[N, C, plane]` on a CUDA device, and what else goes channel by channel.

use std::sync::Arc;

use candle_core::cuda_backend::CudaDevice;
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, LaunchConfig};
use candle_core::{Result, Shape, Tensor};
use half::bf16;

use super::gemm::{Factors, Masked};
use super::runtime::{
    DeviceFloat, FULL, Input, address, address_or_null, alloc, blocks, device_of, elements, launch, tensor, value,
};
use super::{CAST, Unit};
use crate::kernels::node::{Gradients, Value};
use crate::precision::Precision;

const UNIT: Unit = Unit { name: "norm", source: include_str!("norm.cu") };

/// `[N, C, plane]`, shared out over blocks.
#[derive(Debug, Clone, Copy)]
pub struct Channels {
    batch: usize,
    channels: usize,
    plane: usize,
    /// Numbers of a channel per block.
    share: usize,
    parts: usize,
}

impl Channels {
    /// The sizes of a tensor `[N, C, …]`.
    pub fn of(dims: &[usize]) -> Self {
        let (batch, channels, plane) = (dims[0], dims[1], dims[2..].iter().product::<usize>());
        let numbers = batch * plane;
        // Enough blocks to fill the device, each with at least 8 numbers a thread.
        let parts = numbers.div_ceil(2048).clamp(1, FULL.div_ceil(channels));
        let share = numbers.div_ceil(parts);
        Self { batch, channels, plane, share, parts: numbers.div_ceil(share) }
    }

    /// Whether the grid is one that a device takes.
    pub fn fit(&self) -> bool {
        self.channels <= 65_535
    }

    fn grid(&self) -> LaunchConfig {
        blocks(self.parts, self.channels)
    }

    fn sizes(&self) -> [i64; 4] {
        [self.batch as i64, self.channels as i64, self.plane as i64, self.share as i64]
    }
}

/// Where the statistics of a batch go on: running ones, `[C]` each, and a counter, i64, all
/// changed in place.
pub struct Running<'a> {
    pub mean: &'a Tensor,
    pub variance: &'a Tensor,
    pub batches: &'a Tensor,
    pub momentum: f64,
}

/// What the backward pass needs, and how the operation was called.
#[derive(Clone)]
pub struct BatchNorm {
    channels: Channels,
    saved: Arc<CudaSlice<f64>>,
    /// The normalised input in bf16, if that is all that is kept of it.
    rounded: Option<Arc<CudaSlice<bf16>>>,
    relu: bool,
    /// Whether the statistics are those of the input itself.
    training: bool,
}

/// A batch, normalised by its own statistics.
pub struct Normalised {
    pub ys: Value,
    /// Mean and biased variance, `[C]` each.
    pub statistics: Option<(Tensor, Tensor)>,
    pub op: BatchNorm,
}

/// Normalises `inputs[0]` with its own statistics; `inputs` are x and maybe weight and bias, all
/// contiguous. The statistics are given out unless they go into running ones.
pub fn training<T: DeviceFloat>(
    inputs: &[&Tensor],
    epsilon: f64,
    relu: bool,
    running: Option<&Running<'_>>,
) -> Result<Normalised> {
    let device = device_of(inputs[0])?;
    let channels = Channels::of(inputs[0].dims());
    let x = Input::of(inputs[0]);
    let x = x.view::<T>()?;
    let partial = alloc::<f64>(device, channels.channels * channels.parts * 2)?;
    let [batch, count, plane, share] = channels.sizes();
    launch!(device, UNIT, T, "batch_moments", channels.grid(), [x, partial, batch, count, plane, share]);
    let statistics = match running {
        None => Some((alloc::<T>(device, channels.channels)?, alloc::<T>(device, channels.channels)?)),
        Some(_) => None,
    };
    let addresses = statistics.as_ref().map_or((0, 0), |(mean, variance)| (address(mean), address(variance)));
    // The kernel writes into the running statistics behind a read guard: device memory, in the
    // stream's order, which nothing on the host looks at meanwhile.
    let held = running.map(|r| (Input::of(r.mean), Input::of(r.variance), Input::of(r.batches)));
    let kept = match &held {
        Some((mean, variance, batches)) => [mean.pointer::<T>()?, variance.pointer::<T>()?, batches.pointer::<i64>()?],
        None => [0; 3],
    };
    let momentum = running.map_or(0.0, |running| running.momentum);
    let saved = alloc::<f64>(device, 2 * channels.channels)?;
    // Under bf16 the input is not kept as it is: that would be twice the memory.
    let rounds = Factors::of::<T>(Precision::current()) == Factors::Bf16;
    let rounded = rounds.then(|| alloc::<bf16>(device, inputs[0].elem_count())).transpose()?.map(Arc::new);
    let op = BatchNorm { channels, saved: Arc::new(saved), rounded, relu, training: true };
    let call = Call { partial: address(&partial), statistics: addresses, kept, momentum, epsilon };
    let ys = op.normalise::<T>(device, inputs, &call)?;
    let statistics = statistics
        .map(|(mean, variance)| (tensor(device, mean, channels.channels), tensor(device, variance, channels.channels)));
    Ok(Normalised { ys, statistics, op })
}

/// Normalises `inputs[0]` with the given statistics.
pub fn inference<T: DeviceFloat>(
    inputs: &[&Tensor],
    mean: &Tensor,
    variance: &Tensor,
    epsilon: f64,
    relu: bool,
) -> Result<(Value, BatchNorm)> {
    let device = device_of(inputs[0])?;
    let channels = Channels::of(inputs[0].dims());
    let saved = alloc::<f64>(device, 2 * channels.channels)?;
    let (mean, variance) = (Input::of(mean), Input::of(variance));
    let (mean, variance) = (mean.view::<T>()?, variance.view::<T>()?);
    let count = channels.channels as i64;
    let grid = elements(channels.channels);
    launch!(device, UNIT, T, "batch_given", grid, [mean, variance, saved, epsilon, count]);
    let op = BatchNorm { channels, saved: Arc::new(saved), rounded: None, relu, training: false };
    let call = Call { partial: 0, statistics: (0, 0), kept: [0; 3], momentum: 0.0, epsilon };
    let ys = op.normalise::<T>(device, inputs, &call)?;
    Ok((ys, op))
}

/// Addresses of what only training has.
struct Call {
    partial: u64,
    statistics: (u64, u64),
    kept: [u64; 3],
    momentum: f64,
    epsilon: f64,
}

impl BatchNorm {
    fn normalise<T: DeviceFloat>(&self, device: &CudaDevice, inputs: &[&Tensor], call: &Call) -> Result<Value> {
        let x = Input::of(inputs[0]);
        let (x, y) = (x.view::<T>()?, alloc::<T>(device, inputs[0].elem_count())?);
        let (weight, bias) = (inputs.get(1).map(|w| Input::of(w)), inputs.get(2).map(|b| Input::of(b)));
        let (weight, bias) = (address_or_null::<T>(weight.as_ref())?, address_or_null::<T>(bias.as_ref())?);
        let [batch, count, plane, share] = self.channels.sizes();
        let Call { partial, statistics: (mean, variance), kept, momentum, epsilon } = *call;
        let (grid, relu) = (self.channels.grid(), i32::from(self.relu));
        let rounded = self.rounded.as_ref().map_or(0, |rounded| address(&**rounded));
        launch!(
            device,
            UNIT,
            T,
            "batch_normalise",
            grid,
            [
                x,
                y,
                rounded,
                partial,
                weight,
                bias,
                *self.saved,
                mean,
                variance,
                kept[0],
                kept[1],
                kept[2],
                momentum,
                epsilon,
                relu,
                batch,
                count,
                plane,
                share
            ]
        );
        Ok(value(device, y, inputs[0].shape()))
    }

    /// Whether the backward pass does without the input.
    pub fn keeps_input(&self) -> bool {
        self.rounded.is_some()
    }

    /// The gradients of x and maybe weight and bias. `x` is there unless [`keeps_input`](Self::keeps_input);
    /// `affine`: weight and bias, or nothing.
    pub fn backward<T: DeviceFloat>(
        &self,
        x: Option<&Tensor>,
        affine: &[&Tensor],
        wants: &[bool],
        dy: &Tensor,
    ) -> Gradients {
        let device = device_of(dy)?;
        let shapes: Vec<&Shape> = std::iter::once(dy.shape()).chain(affine.iter().map(|one| one.shape())).collect();
        let x = x.filter(|_| self.rounded.is_none()).map(Input::of);
        let (x, dy) = (address_or_null::<T>(x.as_ref())?, Input::of(dy));
        let rounded = self.rounded.as_ref().map_or(0, |rounded| address(&**rounded));
        if x == 0 && rounded == 0 {
            candle_core::bail!("internal error: a norm without its input");
        }
        let dy = dy.view::<T>()?;
        let (weight, bias) = (affine.first().map(|w| Input::of(w)), affine.get(1).map(|b| Input::of(b)));
        let (weight, bias) = (address_or_null::<T>(weight.as_ref())?, address_or_null::<T>(bias.as_ref())?);
        let channels = self.channels;
        let [batch, count, plane, share] = channels.sizes();
        let (grid, relu) = (channels.grid(), i32::from(self.relu));
        let partial = match self.training || wants[1..].contains(&true) {
            true => Some(alloc::<f64>(device, channels.channels * channels.parts * 2)?),
            false => None,
        };
        let to_partial = partial.as_ref().map_or(0, address);
        if partial.is_some() {
            launch!(
                device,
                UNIT,
                T,
                "batch_gradient_sums",
                grid,
                [x, rounded, dy, *self.saved, weight, bias, to_partial, relu, batch, count, plane, share]
            );
        }
        let mut gradients = Vec::with_capacity(shapes.len());
        for (shape, &wanted) in shapes.iter().zip(wants) {
            gradients.push(wanted.then(|| alloc::<T>(device, shape.elem_count())).transpose()?);
        }
        let to = |i: usize| gradients.get(i).and_then(Option::as_ref).map_or(0, address);
        let (dx, dw, db) = (to(0), to(1), to(2));
        let through = i32::from(self.training);
        launch!(
            device,
            UNIT,
            T,
            "batch_gradient",
            grid,
            [
                x,
                rounded,
                dy,
                *self.saved,
                weight,
                bias,
                to_partial,
                dx,
                dw,
                db,
                relu,
                through,
                batch,
                count,
                plane,
                share
            ]
        );
        let of = |(slice, shape): (Option<CudaSlice<T>>, &Shape)| slice.map(|s| tensor(device, s, shape));
        Ok(gradients.into_iter().zip(shapes).map(of).collect())
    }
}

/// The gradient `dy` `[N, C, …]`, 0 where `ys`, an output of ReLU, is 0; one pass for all that is
/// asked for.
pub fn masked<T: DeviceFloat>(dy: &Tensor, ys: Option<&Tensor>, sum: bool, round: bool) -> Result<Masked<T>> {
    let device = device_of(dy)?;
    let channels = Channels::of(dy.dims());
    if ys.is_none() && !sum && !round {
        return Ok(Masked { full: None, rounded: None, sums: None });
    }
    let count = dy.elem_count();
    let (dy, ys) = (Input::of(dy), ys.map(Input::of));
    let (dy, ys) = (dy.view::<T>()?, address_or_null::<T>(ys.as_ref())?);
    let full = (ys != 0 && !round).then(|| alloc::<T>(device, count)).transpose()?;
    let rounded = round.then(|| alloc::<bf16>(device, count)).transpose()?;
    let sums = sum.then(|| alloc::<T>(device, channels.channels)).transpose()?;
    let partial = match sum && channels.parts > 1 {
        true => Some(alloc::<f64>(device, channels.parts * channels.channels)?),
        false => None,
    };
    let (to_full, to_rounded) = (full.as_ref().map_or(0, address), rounded.as_ref().map_or(0, address));
    let (to_partial, to_sums) = (partial.as_ref().map_or(0, address), sums.as_ref().map_or(0, address));
    let [batch, width, plane, share] = channels.sizes();
    let grid = channels.grid();
    launch!(
        device,
        UNIT,
        T,
        "mask_channel_sums",
        grid,
        [dy, ys, to_full, to_rounded, to_partial, to_sums, batch, width, plane, share]
    );
    if partial.is_some() {
        let parts = channels.parts as i64;
        let grid = elements(channels.channels);
        launch!(device, CAST, T, "finish_sums", grid, [to_partial, to_sums, width, parts]);
    }
    Ok(Masked { full, rounded, sums })
}

/// Adds the bias (an address, or 0) to `[N, channels, plane]`, then ReLU if asked: in place, or of
/// rounded numbers.
pub fn bias_relu<T: DeviceFloat>(
    device: &CudaDevice,
    numbers: Numbers<T>,
    bias: u64,
    relu: bool,
    dims: [usize; 3],
) -> Result<CudaSlice<T>> {
    let channels = Channels::of(&dims);
    let (from, y) = match numbers {
        Numbers::Full(y) => (None, y),
        Numbers::Rounded(x) => (Some(x), alloc::<T>(device, dims.iter().product())?),
    };
    let x = from.as_ref().map_or(0, address);
    let [batch, count, plane, share] = channels.sizes();
    let (grid, relu) = (channels.grid(), i32::from(relu));
    launch!(device, UNIT, T, "channel_bias_relu", grid, [x, y, bias, relu, batch, count, plane, share]);
    Ok(y)
}

/// Numbers as they are, or rounded to bf16.
pub enum Numbers<T> {
    Full(CudaSlice<T>),
    Rounded(CudaSlice<bf16>),
}
