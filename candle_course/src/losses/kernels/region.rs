//! Overlap sums of a soft segmentation: what Dice, IoU and Tversky are made of.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, DType, Device, Layout, Shape, Tensor, WithDType};
use rayon::prelude::*;

use super::{Dims, contiguous, for_float, with_elements};
use crate::error::Result;

/// What the probabilities are compared with.
#[derive(Clone)]
pub(crate) enum Truth {
    /// A class per position, `[N, M]`; [`IGNORED`](crate::losses::validate::IGNORED) does not count.
    Classes(Arc<Vec<u32>>),
    /// A degree per position and label, `[N, C, M]`; NaN does not count.
    Degrees(Arc<Vec<f64>>),
}

impl Truth {
    /// The degree to which `class` is true at `index = (n C + c) M + m`, or nothing where ignored.
    #[inline(always)]
    fn at(&self, dims: Dims, example: usize, class: usize, position: usize) -> Option<f64> {
        match self {
            Self::Classes(labels) => match labels[example * dims.positions + position] {
                crate::losses::validate::IGNORED => None,
                label => Some(f64::from(u8::from(label as usize == class))),
            },
            Self::Degrees(degrees) => {
                let degree = degrees[(example * dims.classes + class) * dims.positions + position];
                (!degree.is_nan()).then_some(degree)
            }
        }
    }

    /// Σ t per example and class: `[N, C]`, row-major.
    pub fn totals(&self, dims: Dims) -> Vec<f64> {
        (0..dims.examples * dims.classes)
            .into_par_iter()
            .map(|row| {
                let (n, c) = (row / dims.classes, row % dims.classes);
                (0..dims.positions).filter_map(|m| self.at(dims, n, c, m)).sum()
            })
            .collect()
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

fn dtype(storage: &CpuStorage) -> DType {
    candle_core::backend::BackendStorage::dtype(storage)
}

impl CustomOp1 for RegionSums {
    fn name(&self) -> &'static str {
        "region-sums"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        fn run<T: WithDType>(op: &RegionSums, probabilities: &[T], dims: Dims) -> Vec<f64> {
            let rows = dims.examples * dims.classes;
            let sums: Vec<[f64; 3]> = (0..rows)
                .into_par_iter()
                .map(|row| {
                    let (n, c) = (row / dims.classes, row % dims.classes);
                    let mut sums = [0f64; 3];
                    let slice = &probabilities[row * dims.positions..(row + 1) * dims.positions];
                    for (m, p) in slice.iter().enumerate() {
                        if let Some(t) = op.truth.at(dims, n, c, m) {
                            let p = p.to_f64();
                            sums[0] += p * t;
                            sums[1] += if op.squared { p * p - p * t } else { p * (1.0 - t) };
                            sums[2] += if op.squared { t * t - p * t } else { (1.0 - p) * t };
                        }
                    }
                    sums
                })
                .collect();
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
        fn run<T: WithDType>(op: &RegionSumsBackward, p: &[T], outer: &[f64], dims: Dims) -> CpuStorage {
            let rows = dims.examples * dims.classes;
            let mut gradient = vec![T::zero(); p.len()];
            gradient.par_chunks_mut(dims.positions.max(1)).enumerate().for_each(|(row, gradient)| {
                let (n, c) = (row / dims.classes, row % dims.classes);
                let (both, only_p, only_t) = (outer[row], outer[rows + row], outer[2 * rows + row]);
                for (m, g) in gradient.iter_mut().enumerate() {
                    if let Some(t) = op.truth.at(dims, n, c, m) {
                        let p = p[row * dims.positions + m].to_f64();
                        let by_only_p = if op.squared { 2.0 * p - t } else { 1.0 - t };
                        *g = T::from_f64(both * t + only_p * by_only_p - only_t * t);
                    }
                }
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
    for n in 0..dims.examples {
        for c in 0..dims.classes {
            for m in 0..dims.positions {
                let degree = truth.at(dims, n, c, m);
                degrees.push(degree.unwrap_or(0.0) as f32);
                counted.push(f32::from(u8::from(degree.is_some())));
            }
        }
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
