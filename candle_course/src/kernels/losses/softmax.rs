//! Softmax over dimension 1, with a gradient that is accurate for confident predictions.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, DType, Layout, Shape, Tensor};

use super::blocks::{FEW, LongSums, gather};
use super::{Block, Dims, Real, contiguous, for_blocks, for_float};
use crate::error::Result;
use crate::kernels::buffer::written;
use crate::kernels::simd::{Kernel, Simd};

struct Softmax;
struct SoftmaxBackward;

fn dtype(storage: &CpuStorage) -> DType {
    candle_core::backend::BackendStorage::dtype(storage)
}

impl CustomOp1 for Softmax {
    fn name(&self) -> &'static str {
        "softmax-over-classes"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        fn run<T: Real>(scores: &[T], dims: Dims) -> CpuStorage {
            T::to_cpu_storage_owned(written(scores.len(), |out| {
                for_blocks(dims, scores, Some(out), Block::softmax);
            }))
        }
        let dims = Dims::of(layout.dims());
        let storage = for_float!(dtype(storage), T => run(contiguous::<T>(storage, layout)?, dims));
        Ok((storage, layout.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, probabilities: &Tensor, outer: &Tensor) -> candle_core::Result<Option<Tensor>> {
        probabilities.contiguous()?.apply_op2_no_bwd(&outer.contiguous()?, &SoftmaxBackward).map(Some)
    }
}

/// Turns the gradient `g` of the probabilities `p` of a block into that of its scores.
struct SoftmaxGradient<'a, T> {
    len: usize,
    p: &'a [T],
    g: &'a mut [T],
}

impl<T: Real> Kernel<T> for SoftmaxGradient<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<T>>(self, _: S) {
        let Self { len, p, g } = self;
        let (mut best, mut reference) = (p[..len].to_vec(), g[..len].to_vec());
        for (p, g) in p.chunks_exact(len).zip(g.chunks_exact(len)).skip(1) {
            for i in 0..len {
                reference[i] = if p[i] > best[i] { g[i] } else { reference[i] };
                best[i] = if p[i] > best[i] { p[i] } else { best[i] };
            }
        }
        let mut dot = vec![T::ZERO; len];
        let mut sums = LongSums::new(len, p.len());
        for (p, g) in p.chunks(FEW * len).zip(g.chunks_mut(FEW * len)) {
            for (p, g) in p.chunks_exact(len).zip(g.chunks_exact_mut(len)) {
                for i in 0..len {
                    g[i] -= reference[i];
                    dot[i] += g[i] * p[i];
                }
            }
            sums.take(&mut dot);
        }
        sums.give(&mut dot);
        for (p, g) in p.chunks_exact(len).zip(g.chunks_exact_mut(len)) {
            for i in 0..len {
                g[i] = (g[i] - dot[i]) * p[i];
            }
        }
    }
}

impl CustomOp2 for SoftmaxBackward {
    fn name(&self) -> &'static str {
        "softmax-over-classes-backward"
    }

    /// p_j (g_j − Σ g_c p_c), with every g taken relative to that of the likeliest class: its own
    /// term, the only large one, then vanishes instead of cancelling.
    fn cpu_fwd(
        &self,
        probabilities: &CpuStorage,
        layout: &Layout,
        outer: &CpuStorage,
        outer_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        fn run<T: Real>(probabilities: &[T], outer: &[T], dims: Dims) -> CpuStorage {
            T::to_cpu_storage_owned(written(outer.len(), |out| {
                for_blocks(dims, outer, Some(out), |block| {
                    let p = gather(dims, probabilities, block.first, block.len);
                    T::dispatch(SoftmaxGradient { len: block.len, p: &p, g: &mut block.values });
                });
            }))
        }
        let dims = Dims::of(layout.dims());
        let storage = for_float!(dtype(probabilities), T => {
            run(contiguous::<T>(probabilities, layout)?, contiguous::<T>(outer, outer_layout)?, dims)
        });
        Ok((storage, layout.shape().clone()))
    }
}

/// Probabilities over dimension 1 of `logits`: `[N, C, …]`, f32 or f64.
pub(crate) fn softmax(logits: &Tensor) -> Result<Tensor> {
    if logits.device().is_cpu() {
        return Ok(logits.contiguous()?.apply_op1(Softmax)?);
    }
    #[cfg(feature = "cuda")]
    if crate::kernels::cuda::takes(logits) {
        return Ok(crate::kernels::cuda::cross_entropy::softmax(logits)?);
    }
    Ok(candle_nn::ops::softmax(logits, 1)?)
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    #[test]
    fn value_and_gradient_agree_with_the_composed_softmax() {
        for shape in [vec![3, 4], vec![2, 3, 5], vec![2, 5, 3, 4]] {
            let count: usize = shape.iter().product();
            let data: Vec<f64> = (0..count).map(|i| ((i * 37 % 23) as f64 - 11.0) / 3.0).collect();
            let x = Var::from_vec(data.clone(), shape.clone(), &Device::Cpu).unwrap();
            let weights = Tensor::from_vec(data.iter().map(|v| v.sin()).collect(), shape, &Device::Cpu).unwrap();
            let run = |y: Tensor| {
                let gradients = (&y * &weights).unwrap().sum_all().unwrap().backward().unwrap();
                let gradient = gradients.get(&x).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
                (y.flatten_all().unwrap().to_vec1::<f64>().unwrap(), gradient)
            };
            let (ours, theirs) = (run(softmax(&x).unwrap()), run(candle_nn::ops::softmax(x.as_tensor(), 1).unwrap()));
            for (a, b) in ours.0.iter().zip(&theirs.0).chain(ours.1.iter().zip(&theirs.1)) {
                assert!((a - b).abs() < 1e-14, "{a} {b}");
            }
        }
    }
}
