//! Cross-entropy, focal loss, log-softmax and softmax over classes on a CUDA device.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use candle_core::cuda_backend::cudarc::driver::{CudaSlice, DeviceRepr, LaunchConfig};
use candle_core::cuda_backend::{CudaDevice, DeviceId};
use candle_core::{DType, Result, Tensor};

use super::runtime::{DeviceFloat, FULL, Input, address, alloc, blocks, device_of, elements, launch, tensor, value};
use super::{Unit, faults};
use crate::kernels::losses::{Dims, for_float};
use crate::kernels::node::{Value, node};

const UNIT: Unit = Unit { name: "cross_entropy", source: include_str!("cross_entropy.cu") };

/// What becomes of the losses of single positions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Reduce {
    #[default]
    Mean,
    Sum,
    Each,
}

/// A loss of class indices.
#[derive(Debug, Clone, Copy, Default)]
pub struct ClassLoss<'a> {
    pub weights: Option<&'a [f64]>,
    pub smoothing: f64,
    /// 0 for cross-entropy.
    pub gamma: f64,
    pub ignore_index: Option<i64>,
    /// Whether a mean divides by the positions that count, not by their weights.
    pub counts_positions: bool,
    /// Whether the scores are log-probabilities already.
    pub log: bool,
    pub reduce: Reduce,
}

/// The kernels' `ClassRule`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Rule {
    weights: u64,
    fault: u64,
    ignore: i64,
    examples: i64,
    classes: i64,
    positions: i64,
    smoothing: f64,
    gamma: f64,
    weight_sum: f64,
    kind: i32,
    ignores: i32,
    counts: i32,
    log: i32,
}

// SAFETY: plain numbers, laid out as in C.
unsafe impl DeviceRepr for Rule {}

/// The kernels' number for the type of class indices.
pub(super) fn kind_of(labels: &Tensor) -> Result<i32> {
    match labels.dtype() {
        DType::U8 => Ok(0),
        DType::U32 => Ok(1),
        DType::I64 => Ok(2),
        other => candle_core::bail!("internal error: class indices of dtype {other:?}"),
    }
}

/// The address of class indices.
pub(super) fn labels_at(labels: &Input<'_>, kind: i32) -> Result<u64> {
    match kind {
        0 => labels.pointer::<u8>(),
        1 => labels.pointer::<u32>(),
        _ => labels.pointer::<i64>(),
    }
}

/// Numbers on the device, sent there once: an option of a loss is the same in every step.
pub(super) fn constants(device: &CudaDevice, numbers: &[f64]) -> Result<Arc<CudaSlice<f64>>> {
    type Known = HashMap<(DeviceId, Vec<u64>), Arc<CudaSlice<f64>>>;
    thread_local! {
        static KNOWN: RefCell<Known> = RefCell::default();
    }
    let key = (device.id(), numbers.iter().map(|number| number.to_bits()).collect::<Vec<_>>());
    if let Some(found) = KNOWN.with_borrow(|known| known.get(&key).cloned()) {
        return Ok(found);
    }
    let sent = Arc::new(device.clone_htod(numbers)?);
    KNOWN.with_borrow_mut(|known| {
        if known.len() >= 64 {
            known.clear();
        }
        known.insert(key, sent.clone());
    });
    Ok(sent)
}

/// With many classes and no further dimension, a block takes a row; else a thread takes a position.
fn by_rows(dims: Dims) -> bool {
    dims.positions == 1 && dims.classes > 64
}

fn rows_grid(dims: Dims) -> LaunchConfig {
    blocks(dims.examples.min(16 * FULL), 1)
}

/// A launch of one block can finish the sum itself.
fn positions_grid(pixels: usize) -> LaunchConfig {
    if pixels > 1024 {
        return elements(pixels);
    }
    LaunchConfig { block_dim: (pixels.next_multiple_of(32) as u32, 1, 1), ..blocks(1, 1) }
}

/// What the backward pass wants again.
struct Kept {
    rule: Rule,
    labels: Tensor,
    // Held, not read: the rule has its address.
    _weights: Option<Arc<CudaSlice<f64>>>,
    inverse: CudaSlice<f64>,
    dims: Dims,
    each: bool,
}

impl ClassLoss<'_> {
    fn rule(&self, device: &CudaDevice, dims: Dims, kind: i32) -> Result<(Rule, Option<Arc<CudaSlice<f64>>>)> {
        let weights = self.weights.map(|weights| constants(device, weights)).transpose()?;
        let rule = Rule {
            weights: weights.as_ref().map_or(0, |weights| address(&**weights)),
            fault: faults::place(device)?,
            ignore: self.ignore_index.unwrap_or(0),
            examples: dims.examples as i64,
            classes: dims.classes as i64,
            positions: dims.positions as i64,
            smoothing: self.smoothing,
            gamma: self.gamma,
            weight_sum: self.weights.map_or(dims.classes as f64, |weights| weights.iter().sum()),
            kind,
            ignores: i32::from(self.ignore_index.is_some()),
            counts: i32::from(self.counts_positions),
            log: i32::from(self.log),
        };
        Ok((rule, weights))
    }

    fn forward<T: DeviceFloat>(&self, logits: &Tensor, labels: &Tensor) -> Result<(Value, Kept)> {
        let (device, dims) = (device_of(logits)?, Dims::of(logits.dims()));
        let kind = kind_of(labels)?;
        let (rule, weights) = self.rule(device, dims, kind)?;
        let (each, mean) = (self.reduce == Reduce::Each, i32::from(self.reduce == Reduce::Mean));
        let grid = if by_rows(dims) { rows_grid(dims) } else { positions_grid(dims.pixels()) };
        let count = if by_rows(dims) { dims.examples } else { grid.grid_dim.0 as usize };
        let (sums, inverse) = (alloc::<f64>(device, 2 * count)?, alloc::<f64>(device, 1)?);
        let (losses, total) = (alloc::<T>(device, if each { dims.pixels() } else { 1 })?, alloc::<T>(device, 1)?);
        let losses_at = if each { address(&losses) } else { 0 };
        let (scores, labels_in) = (Input::of(logits), Input::of(labels));
        let (x, y) = (scores.view::<T>()?, labels_at(&labels_in, kind)?);
        if by_rows(dims) {
            launch!(device, UNIT, T, "class_loss_rows", grid, [x, y, rule, losses_at, sums]);
        } else {
            launch!(device, UNIT, T, "class_loss", grid, [x, y, rule, mean, losses_at, sums, total, inverse]);
        }
        if !each && (by_rows(dims) || count > 1) {
            launch!(device, UNIT, T, "class_loss_total", blocks(1, 1), [sums, count as i64, mean, total, inverse]);
        }
        let mut shape = logits.dims().to_vec();
        shape.remove(1);
        let out = if each { value(device, losses, shape) } else { value(device, total, ()) };
        Ok((out, Kept { rule, labels: labels.clone(), _weights: weights, inverse, dims, each }))
    }

    /// The loss of `logits` `[N, C, …]`, f32 or f64, and class indices `[N, …]`, checked but for
    /// their values.
    pub fn apply(&self, logits: &Tensor, labels: &Tensor) -> Result<Tensor> {
        let (logits, labels) = (logits.contiguous()?, labels.contiguous()?);
        for_float!(logits.dtype(), T => {
            let (loss, kept) = self.forward::<T>(&logits, &labels)?;
            node("class-loss", &[&logits], loss, move |inputs, _, outer| Ok(vec![Some(kept.backward::<T>(inputs[0], outer)?)]))
        })
    }
}

impl ClassLoss<'_> {
    /// The same with probabilities as targets, `[N, C, …]`, of the logits' dtype, which add up to 1, or all
    /// are 0, but for `tolerance`. The mean divides by the number of positions.
    pub fn apply_soft(&self, logits: &Tensor, targets: &Tensor, tolerance: f64) -> Result<Tensor> {
        let (logits, targets) = (logits.contiguous()?, targets.detach().contiguous()?);
        for_float!(logits.dtype(), T => self.soft::<T>(&logits, targets, tolerance))
    }

    fn soft<T: DeviceFloat>(&self, logits: &Tensor, targets: Tensor, tolerance: f64) -> Result<Tensor> {
        let (device, dims) = (device_of(logits)?, Dims::of(logits.dims()));
        let (rule, weights) = self.rule(device, dims, 0)?;
        let (each, mean) = (self.reduce == Reduce::Each, i32::from(self.reduce == Reduce::Mean));
        let grid = positions_grid(dims.pixels());
        let count = grid.grid_dim.0 as usize;
        let (sums, inverse) = (alloc::<f64>(device, 2 * count)?, alloc::<f64>(device, 1)?);
        let (losses, total) = (alloc::<T>(device, if each { dims.pixels() } else { 1 })?, alloc::<T>(device, 1)?);
        let losses_at = if each { address(&losses) } else { 0 };
        {
            let (x, q) = (Input::of(logits), Input::of(&targets));
            let (x, q) = (x.view::<T>()?, q.view::<T>()?);
            launch!(device, UNIT, T, "soft_loss", grid, [x, q, rule, tolerance, mean, losses_at, sums, total, inverse]);
            if !each && count > 1 {
                launch!(device, UNIT, T, "class_loss_total", blocks(1, 1), [sums, count as i64, mean, total, inverse]);
            }
        }
        let mut shape = logits.dims().to_vec();
        shape.remove(1);
        let out = if each { value(device, losses, shape) } else { value(device, total, ()) };
        node("soft-class-loss", &[logits], out, move |inputs, _, outer| {
            let _held = &weights;
            let (logits, device) = (inputs[0], device_of(outer)?);
            let gradient = alloc::<T>(device, logits.elem_count())?;
            let (x, q, outer) = (Input::of(logits), Input::of(&targets), Input::of(outer));
            let (x, q, outer) = (x.view::<T>()?, q.view::<T>()?, outer.view::<T>()?);
            let (grid, each) = (elements(dims.pixels()), i32::from(each));
            launch!(device, UNIT, T, "soft_loss_backward", grid, [x, q, rule, outer, each, inverse, gradient]);
            Ok(vec![Some(tensor(device, gradient, logits.shape()))])
        })
    }
}

impl Kept {
    fn backward<T: DeviceFloat>(&self, logits: &Tensor, outer: &Tensor) -> Result<Tensor> {
        let Self { rule, inverse, dims, .. } = self;
        let device = device_of(logits)?;
        let gradient = alloc::<T>(device, logits.elem_count())?;
        let (scores, labels, outer) = (Input::of(logits), Input::of(&self.labels), Input::of(outer));
        let (x, y, outer) = (scores.view::<T>()?, labels_at(&labels, rule.kind)?, outer.view::<T>()?);
        let each = i32::from(self.each);
        if by_rows(*dims) {
            let grid = rows_grid(*dims);
            launch!(device, UNIT, T, "class_loss_backward_rows", grid, [x, y, *rule, outer, each, *inverse, gradient]);
        } else {
            let grid = elements(dims.pixels());
            launch!(device, UNIT, T, "class_loss_backward", grid, [x, y, *rule, outer, each, *inverse, gradient]);
        }
        Ok(tensor(device, gradient, logits.shape()))
    }
}

/// log softmax over dimension `dim`.
pub fn log_softmax(xs: &Tensor, dim: usize) -> Result<Tensor> {
    fn forward<T: DeviceFloat>(xs: &Tensor, dims: Dims) -> Result<Value> {
        let device = device_of(xs)?;
        let y = alloc::<T>(device, xs.elem_count())?;
        let [examples, classes, positions] = [dims.examples, dims.classes, dims.positions].map(|n| n as i64);
        let x = Input::of(xs);
        let x = x.view::<T>()?;
        if by_rows(dims) {
            launch!(device, UNIT, T, "log_softmax_rows", rows_grid(dims), [x, examples, classes, y]);
        } else {
            let grid = elements(dims.pixels());
            launch!(device, UNIT, T, "log_softmax", grid, [x, examples, classes, positions, y]);
        }
        Ok(value(device, y, xs.shape()))
    }
    fn backward<T: DeviceFloat>(ys: &Tensor, dy: &Tensor, dims: Dims) -> Result<Tensor> {
        let device = device_of(ys)?;
        let dx = alloc::<T>(device, ys.elem_count())?;
        let [examples, classes, positions] = [dims.examples, dims.classes, dims.positions].map(|n| n as i64);
        let (y, dy) = (Input::of(ys), Input::of(dy));
        let (y, dy) = (y.view::<T>()?, dy.view::<T>()?);
        if by_rows(dims) {
            launch!(device, UNIT, T, "log_softmax_backward_rows", rows_grid(dims), [y, dy, examples, classes, dx]);
        } else {
            let grid = elements(dims.pixels());
            launch!(device, UNIT, T, "log_softmax_backward", grid, [y, dy, examples, classes, positions, dx]);
        }
        Ok(tensor(device, dx, ys.shape()))
    }
    let xs = xs.contiguous()?;
    let size = |dims: &[usize]| dims.iter().product::<usize>();
    let dims = xs.dims();
    let dims = Dims { examples: size(&dims[..dim]), classes: dims[dim], positions: size(&dims[dim + 1..]) };
    let y = for_float!(xs.dtype(), T => forward::<T>(&xs, dims)?);
    node("log_softmax", &[&xs], y, move |_, ys, dy| {
        Ok(vec![Some(for_float!(ys.dtype(), T => backward::<T>(ys, dy, dims)?))])
    })
}

/// Probabilities over dimension 1 of `[N, C, …]`.
pub fn softmax(logits: &Tensor) -> Result<Tensor> {
    fn forward<T: DeviceFloat>(logits: &Tensor, dims: Dims) -> Result<Value> {
        let device = device_of(logits)?;
        let y = alloc::<T>(device, logits.elem_count())?;
        let [examples, classes, positions] = [dims.examples, dims.classes, dims.positions].map(|n| n as i64);
        let (grid, x) = (elements(dims.pixels()), Input::of(logits));
        launch!(device, UNIT, T, "class_softmax", grid, [x.view::<T>()?, examples, classes, positions, y]);
        Ok(value(device, y, logits.shape()))
    }
    fn backward<T: DeviceFloat>(ys: &Tensor, dy: &Tensor, dims: Dims) -> Result<Tensor> {
        let device = device_of(ys)?;
        let dx = alloc::<T>(device, ys.elem_count())?;
        let [examples, classes, positions] = [dims.examples, dims.classes, dims.positions].map(|n| n as i64);
        let (p, g) = (Input::of(ys), Input::of(dy));
        let (grid, p, g) = (elements(dims.pixels()), p.view::<T>()?, g.view::<T>()?);
        launch!(device, UNIT, T, "class_softmax_backward", grid, [p, g, examples, classes, positions, dx]);
        Ok(tensor(device, dx, ys.shape()))
    }
    let logits = logits.contiguous()?;
    let dims = Dims::of(logits.dims());
    let y = for_float!(logits.dtype(), T => forward::<T>(&logits, dims)?);
    node("class-softmax", &[&logits], y, move |_, ys, dy| {
        Ok(vec![Some(for_float!(ys.dtype(), T => backward::<T>(ys, dy, dims)?))])
    })
}
