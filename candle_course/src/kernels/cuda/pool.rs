//! Pooling of planes on a CUDA device.

use candle_core::cuda_backend::cudarc::driver::{CudaSlice, DeviceRepr};
use candle_core::{Result, Shape, Tensor};

use super::Unit;
use super::runtime::{DeviceFloat, Input, address, alloc, blocks, device_of, elements, launch, tensor, value};
use crate::kernels::node::Value;
use crate::kernels::pool::{Adaptive, Geometry, Sliding};

const UNIT: Unit = Unit { name: "pool", source: include_str!("pool.cu") };

/// The windows along one axis, as the kernels take them.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Axis {
    input: i32,
    output: i32,
    kernel: i32,
    stride: i32,
    padding: i32,
    count_padding: i32,
}

// SAFETY: six 32-bit numbers in order, as the structure of the kernels.
unsafe impl DeviceRepr for Axis {}

/// Windows over planes: rows and columns.
#[derive(Debug, Clone, Copy)]
pub struct Windows {
    rows: Axis,
    columns: Axis,
}

/// A size for a kernel; what does not fit is refused by [`Windows::fit`].
fn narrow(size: usize) -> i32 {
    i32::try_from(size).unwrap_or(i32::MAX)
}

impl From<&Geometry> for Windows {
    fn from(g: &Geometry) -> Self {
        let axis = |input, output, kernel, stride, padding| Axis {
            input: narrow(input),
            output: narrow(output),
            kernel: narrow(kernel),
            stride: narrow(stride),
            padding: narrow(padding),
            count_padding: 1,
        };
        Self {
            rows: axis(g.input.0, g.output.0, g.kernel.0, g.stride.0, g.padding.0),
            columns: axis(g.input.1, g.output.1, g.kernel.1, g.stride.1, g.padding.1),
        }
    }
}

impl From<&Sliding> for Windows {
    fn from(sliding: &Sliding) -> Self {
        let mut windows = Self::from(&sliding.geometry);
        windows.rows.count_padding = i32::from(sliding.count_include_pad);
        windows.columns.count_padding = i32::from(sliding.count_include_pad);
        windows
    }
}

impl From<&Adaptive> for Windows {
    fn from(adaptive: &Adaptive) -> Self {
        let axis = |input, output| Axis {
            input: narrow(input),
            output: narrow(output),
            kernel: 0,
            stride: 0,
            padding: 0,
            count_padding: 0,
        };
        Self { rows: axis(adaptive.input.0, adaptive.output.0), columns: axis(adaptive.input.1, adaptive.output.1) }
    }
}

impl Windows {
    /// Whether the kernels' 32-bit numbers suffice.
    pub fn fit(&self) -> bool {
        let fits = |a: &Axis| {
            let reach =
                (i64::from(a.output) + 1) * i64::from(a.stride.max(1)) + i64::from(a.kernel) + i64::from(a.input);
            reach + 2 * i64::from(a.padding) < i64::from(i32::MAX)
        };
        let plane = |a: i32, b: i32| i64::from(a) * i64::from(b) < i64::from(i32::MAX);
        fits(&self.rows)
            && fits(&self.columns)
            && plane(self.rows.input, self.columns.input)
            && plane(self.rows.output, self.columns.output)
    }

    fn shape(&self, xs: &Tensor) -> Result<((usize, usize, usize, usize), usize)> {
        let (batch, channels, _, _) = xs.dims4()?;
        let (height, width) = (self.rows.output as usize, self.columns.output as usize);
        Ok(((batch, channels, height, width), batch * channels * height * width))
    }
}

/// The largest number of every window, and, if `places`, where in its plane each lies.
pub fn max_forward<T: DeviceFloat>(
    windows: &Windows,
    xs: &Tensor,
    places: bool,
) -> Result<(Value, Option<CudaSlice<i32>>)> {
    let device = device_of(xs)?;
    let (shape, len) = windows.shape(xs)?;
    let x = Input::of(xs);
    let (x, y) = (x.view::<T>()?, alloc::<T>(device, len)?);
    let places = places.then(|| alloc::<i32>(device, len)).transpose()?;
    let to_places = places.as_ref().map_or(0, address);
    let grid = elements(len);
    launch!(device, UNIT, T, "max_pool", grid, [x, y, to_places, len as i64, windows.rows, windows.columns]);
    Ok((value(device, y, shape), places))
}

/// Every window's gradient goes to the place of its largest number; `shape`: the input's.
pub fn max_backward<T: DeviceFloat>(
    windows: &Windows,
    shape: &Shape,
    places: &CudaSlice<i32>,
    dy: &Tensor,
) -> Result<Tensor> {
    let device = device_of(dy)?;
    let len = shape.elem_count();
    let dy = Input::of(dy);
    let (dy, dx) = (dy.view::<T>()?, alloc::<T>(device, len)?);
    let grid = elements(len);
    launch!(device, UNIT, T, "max_pool_backward", grid, [dy, *places, dx, len as i64, windows.rows, windows.columns]);
    Ok(tensor(device, dx, shape))
}

/// The mean of every window.
pub fn average_forward<T: DeviceFloat>(windows: &Windows, xs: &Tensor) -> Result<Value> {
    let device = device_of(xs)?;
    let (shape, len) = windows.shape(xs)?;
    let x = Input::of(xs);
    let (x, y) = (x.view::<T>()?, alloc::<T>(device, len)?);
    let size = |a: &Axis| if a.kernel == 0 { a.input / a.output } else { a.kernel };
    let (rows, columns) = (windows.rows, windows.columns);
    if i64::from(size(&rows)) * i64::from(size(&columns)) >= 32 {
        // A warp per window, eight of them in a block.
        let grid = blocks(len.div_ceil(8).min(8 * super::runtime::FULL), 1);
        launch!(device, UNIT, T, "average_pool_wide", grid, [x, y, len as i64, rows, columns]);
    } else {
        launch!(device, UNIT, T, "average_pool", elements(len), [x, y, len as i64, rows, columns]);
    }
    Ok(value(device, y, shape))
}

/// Every window's gradient is spread evenly over it; `shape`: the input's.
pub fn average_backward<T: DeviceFloat>(windows: &Windows, shape: &Shape, dy: &Tensor) -> Result<Tensor> {
    let device = device_of(dy)?;
    let len = shape.elem_count();
    let dy = Input::of(dy);
    let (dy, dx) = (dy.view::<T>()?, alloc::<T>(device, len)?);
    let (rows, columns) = (windows.rows, windows.columns);
    launch!(device, UNIT, T, "average_pool_backward", elements(len), [dy, dx, len as i64, rows, columns]);
    Ok(tensor(device, dx, shape))
}
