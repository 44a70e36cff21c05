//! Overlap sums of soft segmentations on a CUDA device.

use candle_core::cuda_backend::cudarc::driver::DeviceRepr;
use candle_core::{Result, Tensor};

use super::cross_entropy::{kind_of, labels_at};
use super::runtime::{DeviceFloat, FULL, Input, alloc, blocks, device_of, elements, launch, tensor, value};
use super::{Unit, faults};
use crate::kernels::losses::{Dims, for_float};
use crate::kernels::node::{Value, node};

const UNIT: Unit = Unit { name: "region", source: include_str!("region.cu") };

/// What probabilities are compared with, on their device.
#[derive(Debug, Clone)]
pub enum DeviceTruth {
    /// A class per position, `[N, …]`: u8, u32 or i64.
    Classes(Tensor),
    /// A degree per position and label, `[N, C, …]`, of the probabilities' dtype.
    Degrees(Tensor),
}

/// The kernels' `Truth`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Truth {
    labels: u64,
    degrees: u64,
    fault: u64,
    ignore: i64,
    classes: i64,
    positions: i64,
    kind: i32,
    ignores: i32,
}

// SAFETY: plain numbers, laid out as in C.
unsafe impl DeviceRepr for Truth {}

impl DeviceTruth {
    fn tensor(&self) -> &Tensor {
        match self {
            Self::Classes(tensor) | Self::Degrees(tensor) => tensor,
        }
    }

    fn contiguous(&self) -> Result<Self> {
        Ok(match self {
            Self::Classes(labels) => Self::Classes(labels.contiguous()?),
            Self::Degrees(degrees) => Self::Degrees(degrees.contiguous()?),
        })
    }

    fn argument<T: DeviceFloat>(&self, open: &Input<'_>, p: &Tensor, ignore: Option<i64>) -> Result<Truth> {
        let dims = Dims::of(p.dims());
        let (labels, degrees, kind) = match self {
            Self::Classes(labels) => (labels_at(open, kind_of(labels)?)?, 0, kind_of(labels)?),
            Self::Degrees(_) => (0, open.pointer::<T>()?, 0),
        };
        Ok(Truth {
            labels,
            degrees,
            fault: faults::place(device_of(p)?)?,
            ignore: ignore.unwrap_or(0),
            classes: dims.classes as i64,
            positions: dims.positions as i64,
            kind,
            ignores: i32::from(ignore.is_some()),
        })
    }
}

/// Σ p t, Σ p (1 − t) and Σ (1 − p) t (with `squared` Σ p² − Σ p t and Σ t² − Σ p t) per example and
/// class, `[3, N, C]`, and, without a gradient, Σ t, `[N, C]`; all f64.
pub fn region_sums(p: &Tensor, truth: &DeviceTruth, ignore: Option<i64>, squared: bool) -> Result<(Tensor, Tensor)> {
    fn forward<T: DeviceFloat>(
        p: &Tensor,
        truth: &DeviceTruth,
        ignore: Option<i64>,
        squared: bool,
    ) -> Result<(Value, Tensor)> {
        let (device, dims) = (device_of(p)?, Dims::of(p.dims()));
        let rows = dims.examples * dims.classes;
        // Long rows are cut, so that the device is full; none below some thousand numbers.
        let pieces = (FULL / rows.max(1)).clamp(1, dims.positions.div_ceil(2048).max(1));
        let parts = alloc::<f64>(device, 4 * rows * pieces)?;
        let (sums, totals) = (alloc::<f64>(device, 3 * rows)?, alloc::<f64>(device, rows)?);
        let (p_in, truth_in) = (Input::of(p), Input::of(truth.tensor()));
        let (probabilities, truth) = (p_in.view::<T>()?, truth.argument::<T>(&truth_in, p, ignore)?);
        let (grid, count, cut) = (blocks((rows * pieces).min(16 * FULL), 1), rows as i64, pieces as i64);
        launch!(device, UNIT, T, "region_parts", grid, [probabilities, truth, i32::from(squared), count, cut, parts]);
        launch!(device, UNIT, T, "region_sums", elements(rows), [parts, count, cut, sums, totals]);
        let shape = (dims.examples, dims.classes);
        Ok((value(device, sums, (3, dims.examples, dims.classes)), tensor(device, totals, shape)))
    }
    fn backward<T: DeviceFloat>(
        p: &Tensor,
        truth: &DeviceTruth,
        ignore: Option<i64>,
        squared: bool,
        outer: &Tensor,
    ) -> Result<Tensor> {
        let (device, dims) = (device_of(p)?, Dims::of(p.dims()));
        let rows = (dims.examples * dims.classes) as i64;
        let dp = alloc::<T>(device, p.elem_count())?;
        let (p_in, truth_in, outer) = (Input::of(p), Input::of(truth.tensor()), Input::of(outer));
        let (probabilities, truth) = (p_in.view::<T>()?, truth.argument::<T>(&truth_in, p, ignore)?);
        let (grid, outer) = (elements(p.elem_count()), outer.view::<f64>()?);
        launch!(device, UNIT, T, "region_backward", grid, [probabilities, truth, i32::from(squared), rows, outer, dp]);
        Ok(tensor(device, dp, p.shape()))
    }
    let (p, truth) = (p.contiguous()?, truth.contiguous()?);
    let (sums, totals) = for_float!(p.dtype(), T => forward::<T>(&p, &truth, ignore, squared)?);
    let sums = node("region-sums", &[&p], sums, move |inputs, _, outer| {
        let p = inputs[0];
        Ok(vec![Some(for_float!(p.dtype(), T => backward::<T>(p, &truth, ignore, squared, outer)?))])
    })?;
    Ok((sums, totals))
}
