//! Matrix products, by cuBLAS.

use std::ffi::c_void;

use candle_core::cuda_backend::CudaDevice;
use candle_core::cuda_backend::cudarc::cublas::{result, sys};
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, DevicePtr};
use candle_core::{Error, Result};
use half::bf16;

use super::runtime::{DeviceFloat, address, alloc, elements, launch};
use super::{CAST, runtime};
use crate::precision::Precision;

/// A factor of a product: a row-major matrix in device memory, taken as it is or transposed.
#[derive(Clone, Copy)]
pub struct Factor {
    address: u64,
    transposed: bool,
}

impl Factor {
    /// The matrix at `slice`.
    #[allow(dead_code)] // for recurrences
    pub fn of<T>(slice: &impl DevicePtr<T>) -> Self {
        Self::at(address(slice))
    }

    /// The matrix at an address.
    pub fn at(address: u64) -> Self {
        Self { address, transposed: false }
    }

    /// Its transpose.
    pub fn t(self) -> Self {
        Self { transposed: !self.transposed, ..self }
    }

    fn operation(self) -> sys::cublasOperation_t {
        if self.transposed { sys::cublasOperation_t::CUBLAS_OP_T } else { sys::cublasOperation_t::CUBLAS_OP_N }
    }
}

/// The number type of a product's factors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Factors {
    /// As the result.
    Full,
    /// As the result, f32, rounded to TF32 on the way in.
    Tf32,
    /// bf16, the result f32.
    Bf16,
}

impl Factors {
    /// What `precision` means for `T`.
    pub fn of<T: DeviceFloat>(precision: Precision) -> Self {
        match precision {
            _ if size_of::<T>() == 8 => Self::Full,
            Precision::F32 => Self::Full,
            Precision::Tf32 => Self::Tf32,
            Precision::Bf16 => Self::Bf16,
        }
    }
}

/// `out = a · b`, added to what is there if `accumulate`; all row-major.
///
/// `a`: `[m, k]`, `b`: `[k, n]`, `out`: `[m, n]`. Factors that are transposed lie in memory with
/// their sizes exchanged.
pub fn product<T: DeviceFloat>(
    device: &CudaDevice,
    factors: Factors,
    [m, n, k]: [usize; 3],
    a: Factor,
    b: Factor,
    out: &mut CudaSlice<T>,
    accumulate: bool,
) -> Result<()> {
    use sys::cublasComputeType_t as Compute;
    use sys::cudaDataType_t as Data;
    let double = size_of::<T>() == 8;
    let of_result = if double { Data::CUDA_R_64F } else { Data::CUDA_R_32F };
    let of_factors = if factors == Factors::Bf16 { Data::CUDA_R_16BF } else { of_result };
    let compute = match factors {
        _ if double => Compute::CUBLAS_COMPUTE_64F,
        Factors::Tf32 => Compute::CUBLAS_COMPUTE_32F_FAST_TF32,
        _ => Compute::CUBLAS_COMPUTE_32F,
    };
    let scales = [[1f64, if accumulate { 1.0 } else { 0.0 }]];
    let narrow = scales.map(|pair| pair.map(|scale| scale as f32));
    let scale = |i: usize| -> *const c_void {
        if double { (&raw const scales[0][i]).cast() } else { (&raw const narrow[0][i]).cast() }
    };
    let size = |size: usize| {
        i32::try_from(size)
            .map_err(|_| Error::Msg(format!("a matrix of [{m}, {k}] · [{k}, {n}] is too large for cuBLAS")))
    };
    // cuBLAS counts by columns: outᵀ = bᵀ · aᵀ, and a row-major matrix is its own transpose there.
    let leading_a = size(if a.transposed { m } else { k })?;
    let leading_b = size(if b.transposed { k } else { n })?;
    let out = address(out);
    // SAFETY: the caller's matrices have these sizes; the handle belongs to the device's stream.
    unsafe {
        result::gemm_ex(
            *device.cublas_handle().handle(),
            b.operation(),
            a.operation(),
            size(n)?,
            size(m)?,
            size(k)?,
            scale(0),
            b.address as *const c_void,
            of_factors,
            leading_b,
            a.address as *const c_void,
            of_factors,
            leading_a,
            scale(1),
            out as *mut c_void,
            of_result,
            size(n)?,
            compute,
            sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
        )
    }
    .map_err(Error::wrap)
}

/// `numbers` as bf16.
pub fn to_bf16<T: DeviceFloat>(device: &CudaDevice, numbers: &impl DevicePtr<T>) -> Result<CudaSlice<bf16>> {
    let rounded = alloc::<bf16>(device, numbers.len())?;
    let count = numbers.len() as i64;
    launch!(device, CAST, T, "to_bf16", elements(numbers.len()), [address(numbers), rounded, count]);
    Ok(rounded)
}

/// bf16 `numbers` as `T`.
pub fn from_bf16<T: DeviceFloat>(device: &CudaDevice, numbers: &CudaSlice<bf16>) -> Result<CudaSlice<T>> {
    let wide = alloc::<T>(device, numbers.len())?;
    let count = numbers.len() as i64;
    launch!(device, CAST, T, "from_bf16", elements(numbers.len()), [*numbers, wide, count]);
    Ok(wide)
}

/// A gradient behind a ReLU, ready for the products that follow.
pub struct Masked<T> {
    /// It, where it differs from what came.
    pub full: Option<CudaSlice<T>>,
    /// It, rounded, if that was asked for.
    pub rounded: Option<CudaSlice<bf16>>,
    /// Its sums per channel or column, if those were.
    pub sums: Option<CudaSlice<T>>,
}

/// The gradient `dy` (an address) `[rows, columns]`, 0 where `ys`, an output of ReLU (an address,
/// or 0), is 0; one pass for all that is asked for.
pub fn masked_columns<T: DeviceFloat>(
    device: &CudaDevice,
    dy: u64,
    ys: u64,
    [rows, columns]: [usize; 2],
    sum: bool,
    round: bool,
) -> Result<Masked<T>> {
    if ys == 0 && !sum && !round {
        return Ok(Masked { full: None, rounded: None, sums: None });
    }
    let full = (ys != 0 && !round).then(|| alloc::<T>(device, rows * columns)).transpose()?;
    let rounded = round.then(|| alloc::<bf16>(device, rows * columns)).transpose()?;
    let sums = sum.then(|| alloc::<T>(device, columns)).transpose()?;
    let tiles = columns.div_ceil(32);
    // Enough blocks to fill the device, each with at least 64 rows.
    let parts = rows.div_ceil(64).clamp(1, runtime::FULL.div_ceil(tiles));
    let share = rows.div_ceil(parts);
    let parts = rows.div_ceil(share);
    let partial = (sum && parts > 1).then(|| alloc::<f64>(device, parts * columns)).transpose()?;
    let (to_full, to_rounded) = (full.as_ref().map_or(0, address), rounded.as_ref().map_or(0, address));
    let (to_partial, to_sums) = (partial.as_ref().map_or(0, address), sums.as_ref().map_or(0, address));
    let (row_count, column_count, share) = (rows as i64, columns as i64, share as i64);
    launch!(
        device,
        CAST,
        T,
        "mask_column_sums",
        runtime::blocks(tiles, parts),
        [dy, ys, to_full, to_rounded, to_partial, to_sums, row_count, column_count, share]
    );
    if partial.is_some() {
        let grid = elements(columns);
        launch!(device, CAST, T, "finish_sums", grid, [to_partial, to_sums, column_count, parts as i64]);
    }
    Ok(Masked { full, rounded, sums })
}

/// [`masked_columns`] in full precision, with the output of ReLU as an option.
#[allow(dead_code)] // recurrences sum their gates' gradients
pub fn column_sums<T: DeviceFloat>(
    device: &CudaDevice,
    dy: u64,
    ys: Option<u64>,
    rows: usize,
    columns: usize,
    sum: bool,
) -> Result<Masked<T>> {
    masked_columns(device, dy, ys.unwrap_or(0), [rows, columns], sum, false)
}
