//! Resizing of images on a CUDA device.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use candle_core::cuda_backend::cudarc::driver::{CudaSlice, DeviceRepr};
use candle_core::cuda_backend::{CudaDevice, DeviceId};
use candle_core::{Result, Shape, Tensor};

use super::Unit;
use super::runtime::{DeviceFloat, Input, address, alloc, device_of, elements, launch, tensor, value};
use crate::kernels::losses::for_float;
use crate::kernels::node::{Value, keeping};
use crate::kernels::upsample::Mode;

const UNIT: Unit = Unit { name: "upsample", source: include_str!("upsample.cu") };

/// The kernels' `Axis`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Axis {
    first: u64,
    second: u64,
    weight: u64,
    low: u64,
    high: u64,
    from: i32,
    to: i32,
}

// SAFETY: plain numbers, laid out as in C.
unsafe impl DeviceRepr for Axis {}

/// An axis on the device: first, second, low and high in one piece, and the weights.
struct Table {
    places: CudaSlice<i32>,
    weights: CudaSlice<f64>,
    narrow: CudaSlice<f32>,
    from: usize,
    to: usize,
}

impl Table {
    /// Sent to the device once: a model resizes the same way in every step.
    fn of(device: &CudaDevice, mode: Mode, from: usize, to: usize) -> Result<Rc<Self>> {
        type Known = HashMap<(DeviceId, i32, usize, usize), Rc<Table>>;
        thread_local! {
            static KNOWN: RefCell<Known> = RefCell::default();
        }
        let key = (device.id(), mode as i32, from, to);
        if let Some(known) = KNOWN.with_borrow(|known| known.get(&key).cloned()) {
            return Ok(known);
        }
        let taps = mode.taps(from, to);
        let (mut low, mut high) = (vec![i32::MAX; from], vec![-1; from]);
        for (place, tap) in taps.iter().enumerate() {
            for input in [tap.first, tap.second] {
                low[input] = low[input].min(place as i32);
                high[input] = high[input].max(place as i32);
            }
        }
        let firsts = taps.iter().map(|tap| tap.first as i32);
        let places: Vec<i32> = firsts.chain(taps.iter().map(|tap| tap.second as i32)).chain(low).chain(high).collect();
        let weights: Vec<f64> = taps.iter().map(|tap| tap.weight).collect();
        let narrow: Vec<f32> = weights.iter().map(|&weight| weight as f32).collect();
        let (places, weights) = (device.clone_htod(&places)?, device.clone_htod(&weights)?);
        let table = Rc::new(Self { places, weights, narrow: device.clone_htod(&narrow)?, from, to });
        KNOWN.with_borrow_mut(|known| known.insert(key, table.clone()));
        Ok(table)
    }

    fn axis<T>(&self) -> Axis {
        let at = |places: usize| address(&self.places) + (places * size_of::<i32>()) as u64;
        let &Self { from, to, .. } = self;
        let weight = if size_of::<T>() == 8 { address(&self.weights) } else { address(&self.narrow) };
        let (low, high) = (at(2 * to), at(2 * to + from));
        Axis { first: at(0), second: at(to), weight, low, high, from: from as i32, to: to as i32 }
    }
}

fn forward<T: DeviceFloat>(xs: &Tensor, size: (usize, usize), mode: Mode) -> Result<Value> {
    let (batch, channels, height, width) = xs.dims4()?;
    let device = device_of(xs)?;
    let (rows, columns) = (Table::of(device, mode, height, size.0)?, Table::of(device, mode, width, size.1)?);
    let count = batch * channels * size.0 * size.1;
    let y = alloc::<T>(device, count)?;
    let (x, planes) = (Input::of(xs), (batch * channels) as i64);
    let (rows, columns) = (rows.axis::<T>(), columns.axis::<T>());
    launch!(device, UNIT, T, "upsample", elements(count), [x.view::<T>()?, planes, rows, columns, y]);
    Ok(value(device, y, (batch, channels, size.0, size.1)))
}

fn backward<T: DeviceFloat>(shape: &Shape, dy: &Tensor, mode: Mode) -> Result<Tensor> {
    let (batch, channels, height, width) = shape.dims4()?;
    let (_, _, to_height, to_width) = dy.dims4()?;
    let device = device_of(dy)?;
    let (rows, columns) = (Table::of(device, mode, height, to_height)?, Table::of(device, mode, width, to_width)?);
    let dx = alloc::<T>(device, shape.elem_count())?;
    let (grid, dy, planes) = (elements(shape.elem_count()), Input::of(dy), (batch * channels) as i64);
    let (rows, columns) = (rows.axis::<T>(), columns.axis::<T>());
    launch!(device, UNIT, T, "upsample_backward", grid, [dy.view::<T>()?, planes, rows, columns, dx]);
    Ok(tensor(device, dx, shape))
}

/// `xs`: `[N, C, H, W]` → `[N, C, size.0, size.1]`.
pub fn upsample(xs: &Tensor, size: (usize, usize), mode: Mode) -> Result<Tensor> {
    let xs = xs.contiguous()?;
    let y = for_float!(xs.dtype(), T => forward::<T>(&xs, size, mode)?);
    let shape = xs.shape().clone();
    keeping("upsample", &[&xs], y, move |_, dy| {
        Ok(vec![Some(for_float!(dy.dtype(), T => backward::<T>(&shape, dy, mode)?))])
    })
}
