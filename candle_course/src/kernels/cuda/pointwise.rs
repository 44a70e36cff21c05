//! Functions of one number, losses of pairs and sums on a CUDA device.

use std::sync::Arc;

use candle_core::cuda_backend::cudarc::driver::{CudaSlice, DeviceRepr};
use candle_core::{Result, Tensor};

use super::cross_entropy::{Reduce, constants};
use super::runtime::{DeviceFloat, FULL, Input, address, alloc, blocks, device_of, elements, launch, tensor, value};
use super::{Unit, faults};
use crate::kernels::losses::{Pointwise, for_float};
use crate::kernels::node::{Value, node};

const UNIT: Unit = Unit { name: "pointwise", source: include_str!("pointwise.cu") };

/// The kernels' code of x².
const SQUARE: i32 = 11;

/// The kernels' code of a function, and its parameter.
fn code(function: Pointwise) -> (i32, f64) {
    match function {
        Pointwise::Abs => (0, 0.0),
        Pointwise::Huber { delta } => (1, delta),
        Pointwise::LogCosh => (2, 0.0),
        Pointwise::Pinball { quantile } => (3, quantile),
        Pointwise::Softplus => (4, 0.0),
        Pointwise::Sigmoid => (5, 0.0),
        Pointwise::Hinge { squared: false } => (6, 0.0),
        Pointwise::Hinge { squared: true } => (7, 0.0),
        Pointwise::Focal { gamma } => (8, gamma),
        Pointwise::Power { exponent } => (9, exponent),
        Pointwise::Sqrt => (10, 0.0),
    }
}

/// Applies `function` to every number.
pub fn pointwise(xs: &Tensor, function: Pointwise) -> Result<Tensor> {
    fn forward<T: DeviceFloat>(xs: &Tensor, (code, parameter): (i32, f64)) -> Result<Value> {
        let (device, count) = (device_of(xs)?, xs.elem_count());
        let y = alloc::<T>(device, count)?;
        let x = Input::of(xs);
        launch!(device, UNIT, T, "pointwise", elements(count), [x.view::<T>()?, count as i64, code, parameter, y]);
        Ok(value(device, y, xs.shape()))
    }
    fn backward<T: DeviceFloat>(xs: &Tensor, outer: &Tensor, (code, parameter): (i32, f64)) -> Result<Tensor> {
        let (device, count) = (device_of(xs)?, xs.elem_count());
        let dx = alloc::<T>(device, count)?;
        let (x, outer) = (Input::of(xs), Input::of(outer));
        let (x, outer) = (x.view::<T>()?, outer.view::<T>()?);
        launch!(device, UNIT, T, "pointwise_backward", elements(count), [x, outer, count as i64, code, parameter, dx]);
        Ok(tensor(device, dx, xs.shape()))
    }
    let xs = xs.contiguous()?;
    let function = code(function);
    let y = for_float!(xs.dtype(), T => forward::<T>(&xs, function)?);
    node("pointwise", &[&xs], y, move |inputs, _, dy| {
        Ok(vec![Some(for_float!(dy.dtype(), T => backward::<T>(inputs[0], dy, function)?))])
    })
}

/// A loss of pairs of a prediction x and a target y, both tensors of one shape and dtype.
#[derive(Debug, Clone, Copy)]
pub enum Pairs<'a> {
    /// factor · (x − y)².
    Square { factor: f64 },
    /// factor · f(x − y), or f(y − x) if `flipped`.
    Difference { function: Pointwise, factor: f64, flipped: bool },
    /// Binary cross-entropy of logits; the weight of a positive, one for all or per label of dimension 1.
    Binary { pos_weight: Option<&'a [f64]> },
    /// Focal loss of logits with signs.
    BinaryFocal { gamma: f64, alpha: Option<f64> },
    /// q (ln q − x), x being ln p and q the target.
    Divergence,
    /// f(s x), s being the sign of the target.
    Margin { function: Pointwise },
}

/// The kernels' `PairRule`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Rule {
    pos_weight: u64,
    fault: u64,
    labels: i64,
    inner: i64,
    parameter: f64,
    factor: f64,
    sign: f64,
    alpha: f64,
    kind: i32,
    code: i32,
}

// SAFETY: plain numbers, laid out as in C.
unsafe impl DeviceRepr for Rule {}

impl Pairs<'_> {
    fn rule(&self, predictions: &Tensor) -> Result<(Rule, Option<Arc<CudaSlice<f64>>>)> {
        let device = device_of(predictions)?;
        let mut rule = Rule {
            pos_weight: 0,
            fault: faults::place(device)?,
            labels: 1,
            inner: 1,
            parameter: 0.0,
            factor: 1.0,
            sign: 1.0,
            alpha: -1.0,
            kind: 0,
            code: SQUARE,
        };
        let mut kept = None;
        match *self {
            Self::Square { factor } => rule.factor = factor,
            Self::Difference { function, factor, flipped } => {
                (rule.code, rule.parameter) = code(function);
                rule.factor = factor;
                rule.sign = if flipped { -1.0 } else { 1.0 };
            }
            Self::Binary { pos_weight } => {
                rule.kind = 1;
                if let Some(weights) = pos_weight {
                    let sent = constants(device, weights)?;
                    rule.pos_weight = address(&*sent);
                    rule.labels = weights.len() as i64;
                    rule.inner = predictions.dims().iter().skip(2).product::<usize>() as i64;
                    kept = Some(sent);
                }
            }
            Self::BinaryFocal { gamma, alpha } => {
                rule.kind = 2;
                (rule.parameter, rule.alpha) = (gamma, alpha.unwrap_or(-1.0));
            }
            Self::Divergence => rule.kind = 4,
            Self::Margin { function } => {
                rule.kind = 3;
                (rule.code, rule.parameter) = code(function);
            }
        }
        Ok((rule, kept))
    }

    fn forward<T: DeviceFloat>(&self, x: &Tensor, y: &Tensor, rule: Rule, share: f64, each: bool) -> Result<Value> {
        let (device, count) = (device_of(x)?, x.elem_count());
        let (x_in, y_in) = (Input::of(x), Input::of(y));
        let (xs, ys) = (x_in.view::<T>()?, y_in.view::<T>()?);
        // One block can finish the sum itself.
        let grid = if count <= 4096 { blocks(1, 1) } else { elements(count) };
        let parts = grid.grid_dim.0 as usize;
        if each {
            let losses = alloc::<T>(device, count)?;
            let sums = alloc::<f64>(device, parts)?;
            launch!(device, UNIT, T, "pair_loss", grid, [xs, ys, count as i64, rule, share, losses, sums, 0u64]);
            return Ok(value(device, losses, x.shape()));
        }
        let (sums, total) = (alloc::<f64>(device, parts)?, alloc::<T>(device, 1)?);
        launch!(device, UNIT, T, "pair_loss", grid, [xs, ys, count as i64, rule, share, 0u64, sums, total]);
        if parts > 1 {
            launch!(device, UNIT, T, "finish_sum", blocks(1, 1), [sums, parts as i64, share, total]);
        }
        Ok(value(device, total, ()))
    }

    /// The loss; targets want no gradient.
    pub fn apply(&self, predictions: &Tensor, targets: &Tensor, reduce: Reduce) -> Result<Tensor> {
        let share = if reduce == Reduce::Mean { 1.0 / predictions.elem_count() as f64 } else { 1.0 };
        self.apply_shared(predictions, targets, reduce == Reduce::Each, share)
    }

    /// Every loss, or `share` times their sum.
    pub fn apply_shared(&self, predictions: &Tensor, targets: &Tensor, each: bool, share: f64) -> Result<Tensor> {
        let (x, y) = (predictions.contiguous()?, targets.contiguous()?);
        let (rule, weights) = self.rule(&x)?;
        let loss = for_float!(x.dtype(), T => self.forward::<T>(&x, &y, rule, share, each)?);
        node("pair-loss", &[&x], loss, move |inputs, _, outer| {
            let _held = &weights;
            Ok(vec![Some(for_float!(outer.dtype(), T => backward::<T>(inputs[0], &y, rule, share, each, outer)?))])
        })
    }
}

fn backward<T: DeviceFloat>(
    x: &Tensor,
    y: &Tensor,
    rule: Rule,
    share: f64,
    each: bool,
    outer: &Tensor,
) -> Result<Tensor> {
    let (device, count) = (device_of(x)?, x.elem_count());
    let dx = alloc::<T>(device, count)?;
    let (x_in, y_in, outer) = (Input::of(x), Input::of(y), Input::of(outer));
    let (xs, ys, outer) = (x_in.view::<T>()?, y_in.view::<T>()?, outer.view::<T>()?);
    let (grid, each) = (elements(count), i32::from(each));
    launch!(device, UNIT, T, "pair_loss_backward", grid, [xs, ys, count as i64, rule, share, outer, each, dx]);
    Ok(tensor(device, dx, x.shape()))
}

/// Sums over every dimension but the first `kept`, in double, each times `share`.
pub fn sum_trailing(xs: &Tensor, kept: usize, share: f64) -> Result<Tensor> {
    fn forward<T: DeviceFloat>(xs: &Tensor, kept: usize, share: f64) -> Result<Value> {
        let device = device_of(xs)?;
        let shape = &xs.dims()[..kept];
        let rows: usize = shape.iter().product();
        let x = Input::of(xs);
        let x = x.view::<T>()?;
        let sums = alloc::<T>(device, rows)?;
        if kept > 0 {
            let width = xs.elem_count().checked_div(rows).unwrap_or(0) as i64;
            let grid = blocks(rows.clamp(1, 16 * FULL), 1);
            launch!(device, UNIT, T, "row_sums", grid, [x, rows as i64, width, share, sums]);
        } else {
            let (count, grid) = (xs.elem_count(), elements(xs.elem_count()));
            let parts = alloc::<f64>(device, grid.grid_dim.0 as usize)?;
            launch!(device, UNIT, T, "block_sums", grid, [x, count as i64, parts]);
            launch!(device, UNIT, T, "finish_sum", blocks(1, 1), [parts, i64::from(grid.grid_dim.0), share, sums]);
        }
        Ok(value(device, sums, shape))
    }
    let xs = xs.contiguous()?;
    let sums = for_float!(xs.dtype(), T => forward::<T>(&xs, kept, share)?);
    node("sum-trailing", &[&xs], sums, move |inputs, _, outer| {
        let mut dims = outer.dims().to_vec();
        dims.resize(inputs[0].rank(), 1);
        let outer = if share == 1.0 { outer.clone() } else { (outer * share)? };
        Ok(vec![Some(outer.reshape(dims)?.broadcast_as(inputs[0].shape())?.contiguous()?)])
    })
}
