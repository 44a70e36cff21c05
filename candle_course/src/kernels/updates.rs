//! In-place element-wise updates on the CPU: one pass over parameter, gradient and state.

use std::cell::RefCell;
use std::ops::{Add, Div, Mul, Neg, Sub};

use candle_core::{CpuStorage, DType, InplaceOp2, Layout, Tensor, Var};
use half::{bf16, f16};

use crate::error::Result;
use crate::kernels::parallel;

/// Numbers a task works on: small enough for the second-level cache together with two moments.
/// Element-wise updates give the same bits however they are split.
const CHUNK: usize = 1 << 14;

/// Below this many numbers, waking other threads costs more than it saves.
const SERIAL: usize = 1 << 15;

/// The arithmetic of an update, in f32 or f64.
pub(crate) trait Real:
    Copy
    + Send
    + Sync
    + PartialOrd
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + 'static
{
    const ZERO: Self;
    /// The relative distance of neighbouring numbers.
    const ROUNDING: Self;
    fn real(value: f64) -> Self;
    fn root(self) -> Self;
    fn finite(self) -> bool;
}

macro_rules! real {
    ($($t:ty),+) => {$(
        impl Real for $t {
            const ZERO: Self = 0.0;
            const ROUNDING: Self = <$t>::EPSILON;
            fn real(value: f64) -> Self {
                value as $t
            }
            fn root(self) -> Self {
                self.sqrt()
            }
            fn finite(self) -> bool {
                self.is_finite()
            }
        }
    )+};
}
real!(f32, f64);

/// What an optimizer does to one parameter in one step.
pub(crate) trait Kernel: Sync {
    /// Updates a chunk of the parameter and of its state; all slices have the same length.
    fn chunk<A: Real>(&self, parameter: &mut [A], gradient: &[A], slots: &mut [&mut [A]]);

    /// The same with tensor operations, for devices other than the CPU: returns the new
    /// parameter, in the state's dtype, and replaces the slots.
    fn tensors(&self, parameter: &Tensor, gradient: &Tensor, slots: &mut [Tensor]) -> candle_core::Result<Tensor>;

    /// The CUDA kernel that does it, and its scalars: `cuda/updates.cu` says which.
    #[cfg(feature = "cuda")]
    fn device(&self) -> (&'static str, [f64; 10]);
}

/// An optimizer's state for one parameter.
#[derive(Debug, Clone)]
pub(crate) enum Slots {
    /// On the CPU, for f32, f16 and bf16.
    F32(Vec<Vec<f32>>),
    /// On the CPU, for f64.
    F64(Vec<Vec<f64>>),
    /// Elsewhere.
    Device(Vec<Tensor>),
}

/// The dtype of the state of a parameter of `dtype`.
pub(crate) fn state_dtype(dtype: DType) -> DType {
    if dtype == DType::F64 { DType::F64 } else { DType::F32 }
}

impl Slots {
    /// `fill[i]` everywhere in slot i.
    pub fn new(var: &Var, fill: &[f64], composed: bool) -> Result<Self> {
        let count = var.elem_count();
        if composed || !var.device().is_cpu() {
            let dtype = state_dtype(var.dtype());
            let slots = fill
                .iter()
                .map(|&value| Tensor::full(value, var.shape(), var.device())?.to_dtype(dtype))
                .collect::<candle_core::Result<_>>()?;
            return Ok(Self::Device(slots));
        }
        Ok(match state_dtype(var.dtype()) {
            DType::F64 => Self::F64(fill.iter().map(|&value| vec![value; count]).collect()),
            _ => Self::F32(fill.iter().map(|&value| vec![value as f32; count]).collect()),
        })
    }

    /// No state, for a CPU tensor of `dtype`.
    pub fn none(dtype: DType) -> Self {
        if dtype == DType::F64 { Self::F64(Vec::new()) } else { Self::F32(Vec::new()) }
    }

    /// From saved tensors of the right shapes.
    pub fn from_tensors(var: &Var, tensors: &[&Tensor], composed: bool) -> Result<Self> {
        let dtype = state_dtype(var.dtype());
        if composed || !var.device().is_cpu() {
            let slots = tensors
                .iter()
                .map(|tensor| tensor.to_dtype(dtype)?.to_device(var.device())?.copy())
                .collect::<candle_core::Result<_>>()?;
            return Ok(Self::Device(slots));
        }
        Ok(match dtype {
            DType::F64 => Self::F64(
                tensors
                    .iter()
                    .map(|tensor| tensor.to_dtype(dtype)?.flatten_all()?.to_vec1::<f64>())
                    .collect::<candle_core::Result<_>>()?,
            ),
            _ => Self::F32(
                tensors
                    .iter()
                    .map(|tensor| tensor.to_dtype(dtype)?.flatten_all()?.to_vec1::<f32>())
                    .collect::<candle_core::Result<_>>()?,
            ),
        })
    }

    /// Slot `index` as a tensor of its own.
    pub fn tensor(&self, index: usize, var: &Var) -> Result<Tensor> {
        let cpu = &candle_core::Device::Cpu;
        Ok(match self {
            Self::F32(slots) => Tensor::from_slice(&slots[index], var.shape(), cpu)?,
            Self::F64(slots) => Tensor::from_slice(&slots[index], var.shape(), cpu)?,
            // A copy: the next step changes the slot in place.
            Self::Device(slots) => slots[index].copy()?,
        })
    }
}

/// Applies `kernel` to `var`, whose gradient is `gradient`, and to its state.
pub(crate) fn apply<K: Kernel>(kernel: &K, var: &Var, gradient: &Tensor, slots: &mut Slots) -> Result<()> {
    if let Slots::Device(slots) = slots {
        let dtype = state_dtype(var.dtype());
        let parameter = var.as_detached_tensor().to_dtype(dtype)?;
        let updated = kernel.tensors(&parameter, &gradient.to_dtype(dtype)?, slots)?;
        var.set(&updated.to_dtype(var.dtype())?.contiguous()?)?;
        return Ok(());
    }
    in_place(kernel, var.as_tensor(), gradient, slots)
}

/// Applies `kernel` to the storage of a contiguous CPU tensor.
pub(crate) fn in_place<K: Kernel>(kernel: &K, target: &Tensor, source: &Tensor, slots: &mut Slots) -> Result<()> {
    let source = source.to_dtype(target.dtype())?.contiguous()?;
    let update = InPlace {
        f32: &|parameter, gradient, slots| kernel.chunk(parameter, gradient, slots),
        f64: &|parameter, gradient, slots| kernel.chunk(parameter, gradient, slots),
        slots: RefCell::new(slots),
    };
    Ok(target.inplace_op2(&source, &update)?)
}

/// [`Kernel::chunk`] of some kernel: what is around it is compiled once for all of them.
type Chunk<'a, A> = &'a (dyn Fn(&mut [A], &[A], &mut [&mut [A]]) + Sync);

struct InPlace<'a> {
    f32: Chunk<'a, f32>,
    f64: Chunk<'a, f64>,
    slots: RefCell<&'a mut Slots>,
}

/// Where a contiguous tensor's numbers are in its storage.
pub(crate) fn contiguous_range(layout: &Layout) -> candle_core::Result<std::ops::Range<usize>> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(start..end),
        None => candle_core::bail!("an update in place needs a contiguous tensor, got {layout:?}"),
    }
}

impl InplaceOp2 for InPlace<'_> {
    fn name(&self) -> &'static str {
        "optimizer-step"
    }

    fn cpu_fwd(&self, s1: &mut CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> candle_core::Result<()> {
        let (to, from) = (contiguous_range(l1)?, contiguous_range(l2)?);
        match (s1, s2, &mut **self.slots.borrow_mut()) {
            (CpuStorage::F32(p), CpuStorage::F32(g), Slots::F32(slots)) => {
                chunks(&mut p[to], &g[from], slots, self.f32);
            }
            (CpuStorage::F64(p), CpuStorage::F64(g), Slots::F64(slots)) => {
                chunks(&mut p[to], &g[from], slots, self.f64);
            }
            (CpuStorage::F16(p), CpuStorage::F16(g), Slots::F32(slots)) => {
                widened(self.f32, &mut p[to], &g[from], slots, f16::to_f32, f16::from_f32);
            }
            (CpuStorage::BF16(p), CpuStorage::BF16(g), Slots::F32(slots)) => {
                widened(self.f32, &mut p[to], &g[from], slots, bf16::to_f32, bf16::from_f32);
            }
            _ => candle_core::bail!("an optimizer needs parameters of dtype f32, f64, f16 or bf16"),
        }
        Ok(())
    }
}

/// Cuts parameter, gradient and slots into chunks, and works on them in parallel.
fn chunks<P: Send + Sync, A: Real>(
    parameter: &mut [P],
    gradient: &[P],
    slots: &mut [Vec<A>],
    work: &(dyn Fn(&mut [P], &[P], &mut [&mut [A]]) + Sync),
) {
    if parameter.len() <= SERIAL {
        let mut slots: Vec<&mut [A]> = slots.iter_mut().map(Vec::as_mut_slice).collect();
        return work(parameter, gradient, &mut slots);
    }
    let pieces = parameter.len().div_ceil(CHUNK);
    let mut slot_pieces: Vec<Vec<&mut [A]>> = (0..pieces).map(|_| Vec::with_capacity(slots.len())).collect();
    for slot in slots {
        for (pieces, piece) in slot_pieces.iter_mut().zip(slot.chunks_mut(CHUNK)) {
            pieces.push(piece);
        }
    }
    let pieces = parameter.chunks_mut(CHUNK).zip(gradient.chunks(CHUNK)).zip(slot_pieces).collect();
    parallel::map(pieces, |((parameter, gradient), mut slots)| work(parameter, gradient, &mut slots));
}

/// Half precision: computed in f32, rounded once at the end of the step.
fn widened<P: Copy + Send + Sync>(
    update: Chunk<'_, f32>,
    parameter: &mut [P],
    gradient: &[P],
    slots: &mut [Vec<f32>],
    widen: impl Fn(P) -> f32 + Sync,
    narrow: impl Fn(f32) -> P + Sync,
) {
    chunks(parameter, gradient, slots, &|parameter, gradient, slots| {
        let mut wide: Vec<f32> = parameter.iter().map(|&value| widen(value)).collect();
        let gradient: Vec<f32> = gradient.iter().map(|&value| widen(value)).collect();
        update(&mut wide, &gradient, slots);
        parameter.iter_mut().zip(wide).for_each(|(to, value)| *to = narrow(value));
    });
}

/// Whether every number of `tensor` is finite.
pub(crate) fn all_finite(tensor: &Tensor) -> Result<bool> {
    if tensor.device().is_cpu() {
        let (storage, layout) = tensor.storage_and_layout();
        if let (candle_core::Storage::Cpu(storage), Some((start, end))) = (&*storage, layout.contiguous_offsets()) {
            match storage {
                CpuStorage::F32(values) => return Ok(finite(&values[start..end])),
                CpuStorage::F64(values) => return Ok(finite(&values[start..end])),
                _ => {}
            }
        }
    }
    // x − x is 0 for finite numbers and NaN otherwise; one number crosses to the host.
    #[allow(clippy::eq_op)]
    let zero = (tensor - tensor)?.abs()?.to_dtype(DType::F32)?.sum_all()?.to_scalar::<f32>()?;
    Ok(zero == 0.0)
}

fn finite<A: Real>(values: &[A]) -> bool {
    // Without an early exit inside a chunk, the loop vectorises.
    let chunk = |chunk: &[A]| chunk.iter().fold(true, |all, &value| all & value.finite());
    if values.len() <= SERIAL {
        chunk(values)
    } else {
        parallel::map(values.chunks(CHUNK).collect(), chunk).into_iter().all(|finite| finite)
    }
}

/// Changes every number, in parallel.
pub(crate) fn map_chunks<A: Real>(values: &mut [A], change: impl Fn(&mut A) + Sync) {
    if values.len() <= SERIAL {
        values.iter_mut().for_each(change);
    } else {
        parallel::map(values.chunks_mut(CHUNK).collect(), |chunk: &mut [_]| chunk.iter_mut().for_each(&change));
    }
}

/// Σ term(x), in f64: chunk by chunk, then the chunks in order, whatever the number of threads.
pub(crate) fn sum_chunks<A: Real>(values: &[A], term: impl Fn(A) -> f64 + Sync) -> f64 {
    // Eight independent sums, which vectorise; one would wait for each addition.
    let chunk = |chunk: &[A]| {
        let mut sums = [0f64; 8];
        let eights = chunk.chunks_exact(8);
        let rest: f64 = eights.remainder().iter().map(|&value| term(value)).sum();
        for eight in eights {
            sums.iter_mut().zip(eight).for_each(|(sum, &value)| *sum += term(value));
        }
        sums.iter().sum::<f64>() + rest
    };
    if values.len() <= SERIAL {
        return values.chunks(CHUNK).map(chunk).fold(0.0, |total, sum| total + sum);
    }
    let sums: Vec<f64> = parallel::map(values.chunks(CHUNK).collect(), chunk);
    // Not the sum of an empty iterator, which is −0.
    sums.iter().fold(0.0, |total, sum| total + sum)
}
