//! Overlap sums of a soft segmentation: what Dice, IoU and Tversky are made of.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, DType, Device, Layout, Shape, Tensor};

use super::{Dims, Real, contiguous, for_float, with_elements};
use crate::error::Result;
use crate::kernels::losses::IGNORED;
use crate::kernels::parallel;
use crate::kernels::simd::{Kernel, Simd};

/// What the probabilities are compared with.
#[derive(Clone)]
pub(crate) enum Truth {
    /// A class per position, `[N, M]`; [`IGNORED`] does not count.
    Classes(Arc<Vec<u32>>),
    /// A degree per position and label, `[N, C, M]`; NaN does not count.
    Degrees(Arc<Vec<f64>>),
}

/// The degree and whether it counts, as 0 or 1, of one row of a truth.
#[derive(Clone, Copy)]
pub(super) enum Row<'a> {
    Class(&'a [u32], u32),
    Degrees(&'a [f64]),
}

impl Truth {
    /// Row `n C + c` of the truth, aligned with the probabilities' positions.
    fn row(&self, dims: Dims, row: usize) -> Row<'_> {
        let positions = dims.positions;
        match self {
            Self::Classes(labels) => {
                let (example, class) = (row / dims.classes, row % dims.classes);
                Row::Class(&labels[example * positions..][..positions], class as u32)
            }
            Self::Degrees(degrees) => Row::Degrees(&degrees[row * positions..][..positions]),
        }
    }

    /// Σ t per example and class: `[N, C]`, row-major.
    pub fn totals(&self, dims: Dims) -> Vec<f64> {
        let total = |row| match self.row(dims, row) {
            Row::Class(labels, class) => labels.iter().filter(|&&label| label == class).count() as f64,
            Row::Degrees(degrees) => degrees.iter().filter(|degree| !degree.is_nan()).sum(),
        };
        parallel::map((0..dims.examples * dims.classes).collect(), total)
    }
}

/// Calls `f` with the index of every position and its pair (degree, counted) of 0 ≤ degree ≤ 1;
/// ignored positions have (0, 0).
#[inline(always)]
fn for_row(row: Row<'_>, mut f: impl FnMut(usize, f64, f64)) {
    match row {
        Row::Class(labels, class) => {
            for (i, &label) in labels.iter().enumerate() {
                let (hit, counted) = (label == class, label != IGNORED);
                f(i, f64::from(u8::from(hit)), f64::from(u8::from(counted)));
            }
        }
        Row::Degrees(degrees) => {
            for (i, &degree) in degrees.iter().enumerate() {
                if degree.is_nan() { f(i, 0.0, 0.0) } else { f(i, degree, 1.0) }
            }
        }
    }
}

/// `[3, N, C]`: Σ p t, Σ p (1 − t) and Σ (1 − p) t; with `squared`, Σ p² − Σ p t in place of the second.
struct RegionSums {
    truth: Truth,
    squared: bool,
}

struct RegionSumsBackward {
    truth: Truth,
    squared: bool,
}

/// What [`RegionSums`] sums, for one row.
struct RowSums<'a, T> {
    p: &'a [T],
    row: Row<'a>,
    squared: bool,
}

impl<T: Real> Kernel<T> for RowSums<'_, T> {
    type Output = [f64; 3];

    #[inline(always)]
    fn run<S: Simd<T>>(self, _: S) -> [f64; 3] {
        let Self { p, row, squared } = self;
        // Chains that do not wait for each other; their order is fixed.
        const CHAINS: usize = 8;
        let mut sums = [[0f64; CHAINS]; 3];
        for_row(row, |i, t, counted| {
            let (p, chain) = (p[i].to_f64() * counted, i % CHAINS);
            let both = p * t;
            sums[0][chain] += both;
            sums[1][chain] += if squared { p * p - both } else { p - both };
            sums[2][chain] += if squared { t * t - both } else { t - both };
        });
        sums.map(|chains| chains.iter().sum())
    }
}

/// The gradient of one row, from that of its three sums.
struct RowGradient<'a, T> {
    sums: RowSums<'a, T>,
    outer: [f64; 3],
    gradient: &'a mut [T],
}

impl<T: Real> Kernel<T> for RowGradient<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<T>>(self, _: S) {
        let Self { sums: RowSums { p, row, squared }, outer: [both, only_p, only_t], gradient } = self;
        for_row(row, |i, t, counted| {
            let by_only_p = if squared { 2.0 * p[i].to_f64() - t } else { 1.0 - t };
            gradient[i] = T::of(counted * (both * t + only_p * by_only_p - only_t * t));
        });
    }
}

fn dtype(storage: &CpuStorage) -> DType {
    candle_core::backend::BackendStorage::dtype(storage)
}

impl CustomOp1 for RegionSums {
    fn name(&self) -> &'static str {
        "region-sums"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        fn run<T: Real>(op: &RegionSums, probabilities: &[T], dims: Dims) -> Vec<f64> {
            let one = |row: usize| {
                let p = &probabilities[row * dims.positions..][..dims.positions];
                T::dispatch(RowSums { p, row: op.truth.row(dims, row), squared: op.squared })
            };
            let sums: Vec<[f64; 3]> = parallel::map((0..dims.examples * dims.classes).collect(), one);
            (0..3).flat_map(|k| sums.iter().map(move |row| row[k])).collect()
        }
        let dims = Dims::of(layout.dims());
        let sums = for_float!(dtype(storage), T => run::<T>(self, contiguous(storage, layout)?, dims));
        Ok((CpuStorage::F64(sums), Shape::from_dims(&[3, dims.examples, dims.classes])))
    }

    fn bwd(&self, p: &Tensor, _: &Tensor, outer: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let op = RegionSumsBackward { truth: self.truth.clone(), squared: self.squared };
        p.contiguous()?.apply_op2_no_bwd(&outer.contiguous()?, &op).map(Some)
    }
}

impl CustomOp2 for RegionSumsBackward {
    fn name(&self) -> &'static str {
        "region-sums-backward"
    }

    fn cpu_fwd(
        &self,
        storage: &CpuStorage,
        layout: &Layout,
        outer: &CpuStorage,
        outer_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        fn run<T: Real>(op: &RegionSumsBackward, p: &[T], outer: &[f64], dims: Dims) -> CpuStorage {
            let rows = dims.examples * dims.classes;
            let mut gradient = vec![T::zero(); p.len()];
            let tasks = gradient.chunks_mut(dims.positions.max(1)).enumerate().collect();
            parallel::map(tasks, |(row, gradient): (usize, &mut [T])| {
                let p = &p[row * dims.positions..][..dims.positions];
                let sums = RowSums { p, row: op.truth.row(dims, row), squared: op.squared };
                let outer = [outer[row], outer[rows + row], outer[2 * rows + row]];
                T::dispatch(RowGradient { sums, outer, gradient });
            });
            T::to_cpu_storage_owned(gradient)
        }
        let dims = Dims::of(layout.dims());
        let outer = contiguous::<f64>(outer, outer_layout)?;
        let storage = for_float!(dtype(storage), T => run::<T>(self, contiguous(storage, layout)?, outer, dims));
        Ok((storage, layout.shape().clone()))
    }
}

/// Differentiable overlap sums of `probabilities` `[N, C, …]`, an f64 tensor `[3, N, C]` on the CPU
/// (f32 on a GPU).
pub(crate) fn region_sums(probabilities: &Tensor, truth: &Truth, squared: bool) -> Result<Tensor> {
    let dims = Dims::of(probabilities.dims());
    if probabilities.device().is_cpu() {
        let op = RegionSums { truth: truth.clone(), squared };
        return Ok(probabilities.contiguous()?.apply_op1(op)?);
    }
    let shape = (dims.examples, dims.classes, dims.positions);
    let (mut degrees, mut counted) = (Vec::new(), Vec::new());
    for row in 0..dims.examples * dims.classes {
        for_row(truth.row(dims, row), |_, degree, counts| {
            degrees.push(degree as f32);
            counted.push(counts as f32);
        });
    }
    let device = probabilities.device();
    let t = Tensor::from_vec(degrees, shape, &Device::Cpu)?.to_device(device)?;
    let p = (probabilities.to_dtype(DType::F32)?.reshape(shape)? * Tensor::from_vec(counted, shape, device)?)?;
    let both = (&p * &t)?;
    let (only_p, only_t) = match squared {
        true => ((p.sqr()? - &both)?, (t.sqr()? - &both)?),
        false => ((&p - &both)?, (&t - &both)?),
    };
    Ok(Tensor::stack(&[both.sum(2)?, only_p.sum(2)?, only_t.sum(2)?], 0)?)
}

/// Degrees of a float tensor, with NaN where it equals `ignored`.
pub(crate) fn degrees(targets: &Tensor, ignored: Option<f64>) -> Result<Truth> {
    let degrees = for_float!(targets.dtype(), T => with_elements::<T, _>(targets, |values| {
        values.iter().map(|&v| f64::from(v)).map(|v| if Some(v) == ignored { f64::NAN } else { v }).collect::<Vec<_>>()
    })?);
    Ok(Truth::Degrees(Arc::new(degrees)))
}
