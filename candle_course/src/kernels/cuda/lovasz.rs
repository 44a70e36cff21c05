//! Lovász losses on a CUDA device: sorted, added up and differentiated there.

use candle_core::cuda_backend::CudaDevice;
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, DeviceRepr};
use candle_core::{Error, Result, Tensor};

use super::cross_entropy::{kind_of, labels_at};
use super::runtime::{
    DeviceFloat, FULL, Input, THREADS, address, alloc, blocks, device_of, elements, launch, tensor, value,
};
use super::{Unit, faults};
use crate::kernels::losses::{Dims, for_float};
use crate::kernels::node::{Value, keeping};

const UNIT: Unit = Unit { name: "lovasz", source: include_str!("lovasz.cu") };

/// Pixels that a block sorts; as in the kernels.
const TILE: usize = 1024;

/// The kernels' `Rows`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Rows {
    groups: i64,
    classes: i64,
    positions: i64,
    length: i64,
    hinge: i32,
    all: i32,
}

// SAFETY: plain numbers, laid out as in C.
unsafe impl DeviceRepr for Rows {}

/// Labels of 32 bits on the device, with marks for ignored pixels and for what is no class.
pub struct Labels(CudaSlice<u32>);

impl Labels {
    /// Class indices `[N, …]`: u8, u32 or i64.
    pub fn of_classes(labels: &Tensor, classes: usize, ignore: Option<i64>) -> Result<Self> {
        let (device, count, kind) = (device_of(labels)?, labels.elem_count(), kind_of(labels)?);
        let labels = labels.contiguous()?;
        let (given, narrow) = (Input::of(&labels), alloc::<u32>(device, count)?);
        let (at, fault) = (labels_at(&given, kind)?, faults::place(device)?);
        let (ignored, ignores) = (ignore.unwrap_or(0), i32::from(ignore.is_some()));
        let grid = elements(count);
        launch!(
            device,
            UNIT,
            f32,
            "lovasz_labels",
            grid,
            [at, kind, count as i64, classes as i64, ignored, ignores, fault, narrow]
        );
        Ok(Self(narrow))
    }

    /// A mask of 0 and 1, f32 or f64; and −1 and 1 in its place.
    pub fn of_mask(mask: &Tensor, ignore: Option<i64>) -> Result<(Self, Tensor)> {
        fn signs<T: DeviceFloat>(mask: &Tensor, ignore: Option<i64>) -> Result<(Labels, Tensor)> {
            let (device, count) = (device_of(mask)?, mask.elem_count());
            let (labels, signs) = (alloc::<u32>(device, count)?, alloc::<T>(device, count)?);
            let (given, fault) = (Input::of(mask), faults::place(device)?);
            let (ignored, ignores) = (ignore.unwrap_or(0) as f64, i32::from(ignore.is_some()));
            let (given, grid) = (given.view::<T>()?, elements(count));
            launch!(
                device,
                UNIT,
                T,
                "lovasz_mask",
                grid,
                [given, count as i64, ignored, ignores, fault, labels, signs]
            );
            Ok((Labels(labels), tensor(device, signs, mask.shape())))
        }
        let mask = mask.contiguous()?;
        for_float!(mask.dtype(), T => signs::<T>(&mask, ignore))
    }
}

/// Of what the loss is, and how its classes are averaged.
#[derive(Debug, Clone, Copy)]
pub struct Lovasz {
    /// Errors of one class, `[N, …]`; otherwise probabilities `[N, C, …]`.
    pub hinge: bool,
    /// Image by image; otherwise over the batch.
    pub by_image: bool,
    /// Whether classes that do not occur enter the mean.
    pub all_classes: bool,
}

/// A gradient of its input, ready.
struct Found {
    total: Value,
    gradient: Option<Tensor>,
}

impl Lovasz {
    /// The loss, a scalar.
    pub fn apply(self, xs: &Tensor, labels: &Labels) -> Result<Tensor> {
        let xs = xs.contiguous()?;
        let Found { total, gradient } = for_float!(xs.dtype(), T => self.compute::<T>(&xs, &labels.0)?);
        keeping("lovasz", &[&xs], total, move |_, outer| {
            Ok(vec![gradient.as_ref().map(|gradient| gradient.broadcast_mul(outer)).transpose()?])
        })
    }

    fn rows(self, xs: &Tensor) -> Result<Rows> {
        let (examples, classes, positions) = match self.hinge {
            true => (xs.dims()[0], 1, xs.elem_count() / xs.dims()[0]),
            false => {
                let Dims { examples, classes, positions, .. } = Dims::of(xs.dims());
                (examples, classes, positions)
            }
        };
        let groups = if self.by_image { examples } else { 1 };
        let length = examples / groups * positions;
        if length > u32::MAX as usize {
            return Err(Error::Msg(format!("a Lovász loss of {length} pixels at once is too large")));
        }
        let [groups, classes, positions, length] = [groups, classes, positions, length].map(|size| size as i64);
        let (hinge, all) = (i32::from(self.hinge), i32::from(self.all_classes || self.hinge));
        Ok(Rows { groups, classes, positions, length, hinge, all })
    }

    fn compute<T: DeviceFloat>(self, xs: &Tensor, labels: &CudaSlice<u32>) -> Result<Found> {
        let (device, rows) = (device_of(xs)?, self.rows(xs)?);
        let order = sorted::<T>(device, xs, labels, rows)?;
        let count = (rows.groups * rows.classes) as usize;
        let tiles = (rows.length as usize).div_ceil(TILE);
        let (counts, totals) = (alloc::<i64>(device, 2 * count * tiles)?, alloc::<i64>(device, 2 * count)?);
        let (weights, terms) = (alloc::<f64>(device, count)?, alloc::<f64>(device, count * tiles)?);
        let gradient = xs.track_op().then(|| alloc::<T>(device, xs.elem_count())).transpose()?;
        let (total, to_gradient) = (alloc::<T>(device, 1)?, gradient.as_ref().map_or(0, address));
        let x = Input::of(xs);
        let x = x.view::<T>()?;
        let (grid, of_rows) = (tiled(count * tiles), blocks(count.min(16 * FULL), 1));
        launch!(device, UNIT, T, "lovasz_counts", grid, [x, *labels, rows, order, counts]);
        launch!(device, UNIT, T, "lovasz_offsets", of_rows, [counts, count as i64, tiles as i64, totals]);
        launch!(device, UNIT, T, "lovasz_weights", elements(rows.groups as usize), [totals, rows, weights]);
        launch!(
            device,
            UNIT,
            T,
            "lovasz_terms",
            grid,
            [x, *labels, rows, order, counts, totals, weights, terms, to_gradient]
        );
        launch!(device, UNIT, T, "lovasz_total", blocks(1, 1), [terms, (count * tiles) as i64, total]);
        let gradient = gradient.map(|gradient| tensor(device, gradient, xs.shape()));
        Ok(Found { total: value(device, total, ()), gradient })
    }
}

/// A block per tile.
fn tiled(tiles: usize) -> candle_core::cuda_backend::cudarc::driver::LaunchConfig {
    debug_assert_eq!(THREADS, 256, "as in the kernels");
    blocks(tiles.clamp(1, 64 * FULL), 1)
}

/// Of every row its pixels by falling error.
fn sorted<T: DeviceFloat>(
    device: &CudaDevice,
    xs: &Tensor,
    labels: &CudaSlice<u32>,
    rows: Rows,
) -> Result<CudaSlice<u32>> {
    let length = rows.length as usize;
    let count = (rows.groups * rows.classes) as usize * length;
    // Keys are as wide as the numbers.
    let (mut keys, mut order) = (alloc::<T>(device, count)?, alloc::<u32>(device, count)?);
    let x = Input::of(xs);
    let x = x.view::<T>()?;
    let tiles = count / length * length.div_ceil(TILE);
    launch!(device, UNIT, T, "lovasz_sort_tiles", tiled(tiles), [x, *labels, rows, keys, order]);
    if length > TILE {
        let (mut other_keys, mut other_order) = (alloc::<T>(device, count)?, alloc::<u32>(device, count)?);
        let mut width = TILE;
        while width < length {
            let (grid, run) = (elements(count), width as i64);
            launch!(
                device,
                UNIT,
                T,
                "lovasz_merge",
                grid,
                [keys, order, count as i64, rows.length, run, other_keys, other_order]
            );
            std::mem::swap(&mut keys, &mut other_keys);
            std::mem::swap(&mut order, &mut other_order);
            width *= 2;
        }
    }
    Ok(order)
}
