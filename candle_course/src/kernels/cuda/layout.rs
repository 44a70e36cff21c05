//! Between `[N, C, plane]` and bf16 with the channels last, on a CUDA device.

use candle_core::Result;
use candle_core::cuda_backend::CudaDevice;
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, LaunchConfig};
use half::bf16;

use super::gemm::Masked;
use super::runtime::{DeviceFloat, FULL, address, alloc, blocks, elements, launch};
use super::{CAST, Unit};

const UNIT: Unit = Unit { name: "layout", source: include_str!("layout.cu") };

const TILE: usize = 32;

/// Tiles of a `[N, C, plane]` tensor, shared out over blocks.
struct Tiles {
    grid: LaunchConfig,
    parts: usize,
    share: i64,
}

impl Tiles {
    fn of([batch, channels, plane]: [usize; 3]) -> Self {
        let (tall, tiles) = (channels.div_ceil(TILE), batch * plane.div_ceil(TILE));
        let parts = tiles.clamp(1, FULL.div_ceil(tall));
        let share = tiles.div_ceil(parts);
        let parts = tiles.div_ceil(share);
        Self { grid: blocks(parts, tall), parts, share: share as i64 }
    }
}

/// `x` (an address) `[N, C, plane]` in bf16, channels last; as a gradient, 0 where `ys` (an address,
/// or 0), an output of ReLU, is 0, and with its sums per channel if `sum`.
pub fn to_channels_last<T: DeviceFloat>(
    device: &CudaDevice,
    x: u64,
    ys: u64,
    sum: bool,
    dims: [usize; 3],
) -> Result<Masked<T>> {
    let [batch, channels, plane] = dims.map(|size| size as i64);
    let tiles = Tiles::of(dims);
    let rounded = alloc::<bf16>(device, dims.iter().product())?;
    let sums = sum.then(|| alloc::<T>(device, dims[1])).transpose()?;
    let partial = (sum && tiles.parts > 1).then(|| alloc::<f64>(device, tiles.parts * dims[1])).transpose()?;
    let (to_partial, to_sums) = (partial.as_ref().map_or(0, address), sums.as_ref().map_or(0, address));
    let arguments = (batch, channels, plane, tiles.share);
    launch!(
        device,
        UNIT,
        T,
        "to_channels_last",
        tiles.grid,
        [x, ys, rounded, to_partial, to_sums, arguments.0, arguments.1, arguments.2, arguments.3]
    );
    if partial.is_some() {
        let grid = elements(dims[1]);
        launch!(device, CAST, T, "finish_sums", grid, [to_partial, to_sums, channels, tiles.parts as i64]);
    }
    Ok(Masked { full: None, rounded: Some(rounded), sums })
}

/// `[N, C, plane]` of bf16 numbers with the channels last, plus a bias (an address, or 0), then ReLU
/// if asked.
pub fn from_channels_last<T: DeviceFloat>(
    device: &CudaDevice,
    x: &CudaSlice<bf16>,
    bias: u64,
    relu: bool,
    dims: [usize; 3],
) -> Result<CudaSlice<T>> {
    let [batch, channels, plane] = dims.map(|size| size as i64);
    let tiles = Tiles::of(dims);
    let (y, relu, share) = (alloc::<T>(device, dims.iter().product())?, i32::from(relu), tiles.share);
    launch!(device, UNIT, T, "from_channels_last", tiles.grid, [*x, y, bias, relu, batch, channels, plane, share]);
    Ok(y)
}
