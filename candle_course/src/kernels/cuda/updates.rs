//! Optimizers, averages and changes of gradients on a CUDA device: all tensors in one launch.

use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry::{Occupied, Vacant};

use candle_core::cuda_backend::cudarc::driver::{CudaSlice, DeviceRepr, LaunchConfig, PushKernelArg};
use candle_core::cuda_backend::{CudaDevice, DeviceId};
use candle_core::{DType, Error, Result, Tensor};

use super::Unit;
use super::runtime::{DeviceFloat, Input, THREADS, alloc, device_of, function, launch};
use crate::kernels::losses::for_float;

const UNIT: Unit = Unit { name: "updates", source: include_str!("updates.cu") };

// As in the kernels.
const MAX_TENSORS: usize = 64;
const MAX_SETS: usize = 4;
const CHUNK: usize = 2048;

/// How many scalars an update has at most.
pub const NUMBERS: usize = 10;

#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct Entry {
    target: u64,
    source: u64,
    slots: [u64; 3],
    size: i64,
    block: u32,
    set: u32,
}

#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Entries {
    entries: [Entry; MAX_TENSORS],
    sets: [[f64; NUMBERS]; MAX_SETS],
    count: u32,
    offset: u32,
}

// SAFETY: plain numbers, laid out as in C, and below the 4 KB that arguments of a launch may have.
unsafe impl DeviceRepr for Entries {}

/// One tensor that is changed, in place.
#[derive(Debug, Clone)]
pub struct Item<'a> {
    pub target: &'a Tensor,
    /// What it is changed by, of the same dtype.
    pub source: Option<&'a Tensor>,
    /// State of the same shape and dtype.
    pub slots: &'a [Tensor],
    pub numbers: [f64; NUMBERS],
}

/// Whether all tensors can be changed in one launch: on one CUDA device, of one dtype, f32 or f64, contiguous.
pub fn fits<'a>(tensors: impl IntoIterator<Item = &'a Tensor>) -> bool {
    let mut first: Option<&Tensor> = None;
    tensors.into_iter().all(|tensor| {
        let first = *first.get_or_insert(tensor);
        tensor.device().is_cuda()
            && tensor.device().same_device(first.device())
            && matches!(tensor.dtype(), DType::F32 | DType::F64)
            && tensor.dtype() == first.dtype()
            && tensor.is_contiguous()
    })
}

fn pointer<T: DeviceFloat>(tensor: &Tensor) -> Result<u64> {
    Input::of(tensor).pointer::<T>()
}

/// The launches of a list, each of no more tensors and sets of scalars than fit.
fn launches<T: DeviceFloat>(
    items: &[Item<'_>],
    mut launch: impl FnMut(LaunchConfig, &Entries) -> Result<()>,
) -> Result<()> {
    let none =
        Entries { entries: [Entry::default(); MAX_TENSORS], sets: [[0.0; NUMBERS]; MAX_SETS], count: 0, offset: 0 };
    let (mut all, mut sets, mut blocks, mut offset) = (none, 0usize, 0u32, 0u32);
    let grid = |blocks: u32| LaunchConfig { grid_dim: (blocks, 1, 1), block_dim: (THREADS, 1, 1), shared_mem_bytes: 0 };
    for item in items.iter().filter(|item| item.target.elem_count() > 0) {
        let known = all.sets[..sets].iter().position(|set| *set == item.numbers);
        if all.count as usize == MAX_TENSORS || (known.is_none() && sets == MAX_SETS) {
            launch(grid(blocks), &all)?;
            offset += blocks;
            (all, sets, blocks) = (Entries { offset, ..none }, 0, 0);
        }
        let set = match all.sets[..sets].iter().position(|set| *set == item.numbers) {
            Some(set) => set,
            None => {
                all.sets[sets] = item.numbers;
                sets += 1;
                sets - 1
            }
        };
        let size = item.target.elem_count();
        let mut entry = Entry {
            target: pointer::<T>(item.target)?,
            source: item.source.map_or(Ok(0), pointer::<T>)?,
            slots: [0; 3],
            size: size as i64,
            block: blocks,
            set: set as u32,
        };
        for (place, slot) in entry.slots.iter_mut().zip(item.slots) {
            *place = pointer::<T>(slot)?;
        }
        all.entries[all.count as usize] = entry;
        all.count += 1;
        blocks += blocks_of(size);
    }
    if all.count > 0 { launch(grid(blocks), &all) } else { Ok(()) }
}

fn blocks_of(size: usize) -> u32 {
    size.div_ceil(CHUNK) as u32
}

/// Runs the kernel `name` over the items, which [`fits`] was true of. The targets are written though
/// they are borrowed to read: as with every update in place, nobody else may read them meanwhile.
pub fn run(name: &'static str, items: &[Item<'_>], verdict: Option<&Watch>) -> Result<()> {
    let Some(first) = items.first() else { return Ok(()) };
    let device = device_of(first.target)?;
    let stream = device.cuda_stream();
    for_float!(first.target.dtype(), T => {
        let function = function::<T>(device, &UNIT, name)?;
        launches::<T>(items, |grid, entries| {
            let mut builder = stream.launch_builder(&function);
            builder.arg(entries);
            if let Some(watch) = verdict {
                builder.arg(&watch.verdict);
            }
            // SAFETY: the kernels of this file take these arguments; the addresses are of live
            // tensors of the sizes given.
            unsafe { builder.launch(grid) }.map(drop).map_err(Error::wrap)
        })
    })
}

/// The norm of gradients, a scalar f64 on the device; with a bound they are scaled down to it, in place.
pub fn norm(gradients: &[&Tensor], max_norm: Option<f64>) -> Result<Tensor> {
    thread_local! {
        static WATCHES: RefCell<HashMap<DeviceId, Watch>> = RefCell::default();
    }
    let Some(first) = gradients.first() else { candle_core::bail!("the norm of no gradients") };
    let device = device_of(first)?;
    WATCHES.with_borrow_mut(|watches| {
        let watch = match watches.entry(device.id()) {
            Occupied(known) => known.into_mut(),
            Vacant(place) => place.insert(Watch::new(device)?),
        };
        watch.judge(gradients, Policy::Ignore, max_norm.unwrap_or(0.0))?;
        if max_norm.is_some() {
            let item = |gradient| Item { target: gradient, source: None, slots: &[], numbers: [0.0; NUMBERS] };
            run("scale_by_verdict", &gradients.iter().copied().map(item).collect::<Vec<_>>(), Some(watch))?;
        }
        watch.norm()
    })
}

/// What is done about gradients that are not finite; the numbers are the kernel's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    Ignore = 0,
    Stop = 1,
    Skip = 2,
}

/// What the device found out about gradients.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Whether steps were stopped for good.
    pub stopped: bool,
    /// Steps that were not taken since the last [`Watch::forget`].
    pub skipped: u64,
    /// √Σ g² of the last gradients.
    pub norm: f64,
}

/// The device's own judgement of gradients: norm, bound and finiteness without a wait.
#[derive(Debug)]
pub struct Watch {
    device: CudaDevice,
    /// The kernels' `Verdict`: three u64 and two f64.
    verdict: CudaSlice<u64>,
    /// Of every tensor: Σ g², and how many numbers are not finite.
    tensors: CudaSlice<f64>,
    /// The first block of every tensor, and their number.
    first: CudaSlice<u32>,
    sizes: Vec<usize>,
    sums: CudaSlice<f64>,
}

impl Watch {
    pub fn new(device: &CudaDevice) -> Result<Self> {
        Ok(Self {
            device: device.clone(),
            verdict: device.alloc_zeros(5)?,
            tensors: device.alloc_zeros(1)?,
            first: device.alloc_zeros(1)?,
            sizes: Vec::new(),
            sums: device.alloc_zeros(1)?,
        })
    }

    pub fn of(tensor: &Tensor) -> Result<Self> {
        Self::new(device_of(tensor)?)
    }

    /// Looks at gradients, which [`fits`] was true of. `max_norm`: a bound on their norm, or 0.
    pub fn judge(&mut self, gradients: &[&Tensor], policy: Policy, max_norm: f64) -> Result<()> {
        let sizes: Vec<usize> = gradients.iter().map(|gradient| gradient.elem_count()).collect();
        if sizes != self.sizes {
            let mut first = vec![0u32];
            for &size in &sizes {
                first.push(first[first.len() - 1] + blocks_of(size));
            }
            self.sums = alloc(&self.device, 2 * first[sizes.len()] as usize + 1)?;
            self.first = self.device.clone_htod(&first)?;
            self.tensors = self.device.alloc_zeros(2 * sizes.len() + 1)?;
            self.sizes = sizes;
        }
        let Some(first) = gradients.first() else { return Ok(()) };
        let items: Vec<Item<'_>> = gradients
            .iter()
            .map(|gradient| Item { target: gradient, source: Some(gradient), slots: &[], numbers: [0.0; NUMBERS] })
            .collect();
        let stream = self.device.cuda_stream();
        let device = &self.device;
        for_float!(first.dtype(), T => {
            let function = function::<T>(device, &UNIT, "gradient_squares")?;
            launches::<T>(&items, |grid, entries| {
                let mut builder = stream.launch_builder(&function);
                builder.arg(entries).arg(&self.sums);
                // SAFETY: the kernel's arguments; `sums` has two numbers for every block.
                unsafe { builder.launch(grid) }.map(drop).map_err(Error::wrap)
            })?;
            let (count, one) = (gradients.len() as u32, LaunchConfig { grid_dim: (1, 1, 1), block_dim: (1024, 1, 1), shared_mem_bytes: 0 });
            launch!(device, UNIT, T, "gradient_verdict", one, [
                self.sums, self.first, count, policy as i32, max_norm, self.tensors, self.verdict,
            ]);
        });
        Ok(())
    }

    /// Where the watch is.
    pub fn device(&self) -> &CudaDevice {
        &self.device
    }

    /// Waits for the device.
    pub fn read(&self) -> Result<Report> {
        let words = self.device.clone_dtoh(&self.verdict)?;
        Ok(Report { stopped: words[1] != 0, skipped: words[2], norm: f64::from_bits(words[3]) })
    }

    /// Which of the gradients last judged, or of those that stopped, hold NaN or infinity. Waits.
    pub fn not_finite(&self) -> Result<Vec<usize>> {
        let tensors = self.device.clone_dtoh(&self.tensors)?;
        Ok((0..self.sizes.len()).filter(|&i| tensors[2 * i + 1] != 0.0).collect())
    }

    /// Begins anew: no step was skipped or stopped.
    pub fn forget(&mut self) -> Result<()> {
        self.verdict = self.device.alloc_zeros(5)?;
        Ok(())
    }

    /// The norm of the gradients last judged, as a scalar f64 tensor on the device.
    pub fn norm(&self) -> Result<Tensor> {
        let words = self.device.cuda_stream().clone_dtod(&self.verdict.slice(3..4)).map_err(Error::wrap)?;
        // SAFETY: the same eight bytes, read as what the kernel wrote there.
        let norm = unsafe { words.transmute::<f64>(1) }.map(|view| self.device.cuda_stream().clone_dtod(&view));
        match norm {
            Some(norm) => Ok(super::runtime::tensor(&self.device, norm.map_err(Error::wrap)?, ())),
            None => candle_core::bail!("internal error: a norm of the wrong size"),
        }
    }
}
