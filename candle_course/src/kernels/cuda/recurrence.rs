//! Recurrent layers on a CUDA device: all steps of a sequence in one launch.

use candle_core::cuda_backend::cudarc::driver::{CudaSlice, DeviceRepr, LaunchConfig};
use candle_core::{Result, Tensor};

use super::Unit;
use super::runtime::{DeviceFloat, Input, THREADS, alloc, device_of, launch, tensor, value};
use crate::kernels::losses::for_float;
use crate::kernels::node::{Gradients, Value, node};
use crate::kernels::recurrence::Cell;

const UNIT: Unit = Unit { name: "recurrence", source: include_str!("recurrence.cu") };

/// Shared memory that every device gives a block without being asked for more.
const SHARED: usize = 48 << 10;

/// The kernels' `Sizes`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Sizes {
    cell: i32,
    examples: i32,
    steps: i32,
    hidden: i32,
    reverse: i32,
}

// SAFETY: plain numbers, laid out as in C.
unsafe impl DeviceRepr for Sizes {}

/// A layer over a batch of sequences.
#[derive(Debug, Clone, Copy)]
struct Sequence {
    cell: Cell,
    examples: usize,
    steps: usize,
    hidden: usize,
    reverse: bool,
}

impl Sequence {
    fn sizes(&self) -> Sizes {
        let cell = match self.cell {
            Cell::Tanh => 0,
            Cell::Relu => 1,
            Cell::Lstm => 2,
            Cell::Gru => 3,
        };
        let [examples, steps, hidden] = [self.examples, self.steps, self.hidden].map(|n| n as i32);
        Sizes { cell, examples, steps, hidden, reverse: i32::from(self.reverse) }
    }

    fn width(&self) -> usize {
        self.cell.gates() * self.hidden
    }

    /// Examples that a block takes: many only when there are enough blocks.
    fn per_block(&self) -> usize {
        if self.examples > 264 && self.shared_bytes::<f64>(4) <= SHARED { 4 } else { 1 }
    }

    /// States, gates and partial sums of a block's examples.
    fn shared_bytes<T>(&self, examples: usize) -> usize {
        let partial = self.hidden.max(THREADS as usize);
        examples * (self.cell.states() * self.hidden + self.width() + partial) * size_of::<T>()
    }

    fn grid<T>(&self) -> LaunchConfig {
        let per_block = self.per_block();
        LaunchConfig {
            grid_dim: (self.examples.div_ceil(per_block) as u32, 1, 1),
            block_dim: (THREADS, 1, 1),
            shared_mem_bytes: self.shared_bytes::<T>(per_block) as u32,
        }
    }

    fn forward<T: DeviceFloat>(&self, inputs: &[&Tensor; 4], tracked: bool) -> Result<(Value, Kept<T>)> {
        let [from_input, weight, bias, first] = inputs;
        let device = device_of(from_input)?;
        let transposed = weight.t()?.contiguous()?;
        let rows = self.examples * self.steps;
        let states = self.cell.states() * self.hidden;
        // One tensor for the outputs and the last state, so that both are of one node.
        let out = alloc::<T>(device, rows * self.hidden + self.examples * states)?;
        let (ys, last) = (out.slice(..rows * self.hidden), out.slice(rows * self.hidden..));
        let room = |per_row: usize| alloc::<T>(device, if tracked { rows * per_row } else { 0 }.max(1));
        let (kept, before) = (room(self.cell.kept() * self.hidden)?, room(self.hidden)?);
        let at = |slice: &CudaSlice<T>| if tracked { super::runtime::address(slice) } else { 0 };
        let (kept_at, before_at, sizes, grid) = (at(&kept), at(&before), self.sizes(), self.grid::<T>());
        let (x, w, b, f) = (Input::of(from_input), Input::of(&transposed), Input::of(bias), Input::of(first));
        let (x, w, b, f) = (x.view::<T>()?, w.view::<T>()?, b.view::<T>()?, f.view::<T>()?);
        if self.per_block() == 4 {
            launch!(device, UNIT, T, "recurrence_four", grid, [x, w, b, f, sizes, ys, last, kept_at, before_at]);
        } else {
            launch!(device, UNIT, T, "recurrence_one", grid, [x, w, b, f, sizes, ys, last, kept_at, before_at]);
        }
        let count = out.len();
        drop((ys, last));
        Ok((value(device, out, count), Kept { kept, before }))
    }

    /// The gradients of what comes from the input, the weight and bias joined, and the first state.
    fn backward<T: DeviceFloat>(&self, inputs: &[&Tensor], kept: &Kept<T>, out: &Tensor, dy: &Tensor) -> Gradients {
        let [from_input, joined, first] = inputs else {
            candle_core::bail!("internal error: a recurrence has {} inputs", inputs.len())
        };
        let device = device_of(from_input)?;
        let &Self { examples, steps, hidden, .. } = self;
        let (rows, width, states) = (examples * steps, self.width(), self.cell.states() * hidden);
        let weight = joined.narrow(1, 0, hidden)?.contiguous()?;
        let (d_input, d_hidden) = (alloc::<T>(device, rows * width)?, alloc::<T>(device, rows * width)?);
        let d_first = alloc::<T>(device, examples * states)?;
        let (w, f, o, d) = (Input::of(&weight), Input::of(first), Input::of(out), Input::of(dy));
        let (w, f, o, d) = (w.view::<T>()?, f.view::<T>()?, o.view::<T>()?, d.view::<T>()?);
        let (ys, dys, d_last) = (o.slice(..rows * hidden), d.slice(..rows * hidden), d.slice(rows * hidden..));
        let (kept, before, sizes, grid) = (&kept.kept, &kept.before, self.sizes(), self.grid::<T>());
        if self.per_block() == 4 {
            launch!(
                device,
                UNIT,
                T,
                "recurrence_backward_four",
                grid,
                [w, f, ys, *kept, dys, d_last, sizes, d_input, d_hidden, d_first,]
            );
        } else {
            launch!(
                device,
                UNIT,
                T,
                "recurrence_backward_one",
                grid,
                [w, f, ys, *kept, dys, d_last, sizes, d_input, d_hidden, d_first,]
            );
        }
        let by_weight = joined.track_op().then(|| {
            // One product for all steps: gates ᵀ · [state before, 1].
            let gates = tensor(device, d_hidden, (rows, width));
            let stream = device.cuda_stream();
            let before = stream.clone_dtod(before).map_err(candle_core::Error::wrap)?;
            let before = tensor(device, before, (rows, hidden));
            Tensor::cat(&[gates.t()?.matmul(&before)?, gates.sum_keepdim(0)?.t()?], 1)?.contiguous()
        });
        Ok(vec![
            from_input.track_op().then(|| tensor(device, d_input, from_input.shape())),
            by_weight.transpose()?,
            first.track_op().then(|| tensor(device, d_first, first.shape())),
        ])
    }
}

struct Kept<T> {
    /// The gates of every step.
    kept: CudaSlice<T>,
    /// The hidden state before every step, `[T, N, H]`.
    before: CudaSlice<T>,
}

/// Whether the kernel's shared memory suffices, and the weights are small enough for a
/// multiprocessor's cache: beyond that, products of whole batches are faster.
pub fn takes(cell: Cell, hidden: usize, element: usize) -> bool {
    let sequence = Sequence { cell, examples: 1, steps: 1, hidden, reverse: false };
    sequence.shared_bytes::<f64>(1) <= SHARED && sequence.width() * hidden * element <= 512 << 10
}

/// All steps. `from_input`: `[N, T, gates · H]`; `weight`: `[gates · H, H]`; `bias`: `[gates · H]`; `state`:
/// `[N, states · H]` → the hidden states `[N, T, H]` and the last state.
pub fn recurrence(
    cell: Cell,
    from_input: &Tensor,
    (weight, bias): (&Tensor, &Tensor),
    state: &Tensor,
    reverse: bool,
) -> Result<(Tensor, Tensor)> {
    let (examples, steps, _) = from_input.dims3()?;
    let sequence = Sequence { cell, examples, steps, hidden: weight.dim(1)?, reverse };
    let joined = Tensor::cat(&[weight, &bias.unsqueeze(1)?], 1)?.contiguous()?;
    let (from_input, state) = (from_input.contiguous()?, state.contiguous()?);
    let tracked = from_input.track_op() || joined.track_op() || state.track_op();
    let (weight, bias) = (weight.contiguous()?, bias.contiguous()?);
    let inputs = [&from_input, &joined, &state];
    let out = for_float!(from_input.dtype(), T => {
        let (value, kept) = sequence.forward::<T>(&[&from_input, &weight, &bias, &state], tracked)?;
        node("recurrence", &inputs, value, move |inputs, out, dy| sequence.backward::<T>(inputs, &kept, out, dy))?
    });
    let rows = examples * steps * sequence.hidden;
    let ys = out.narrow(0, 0, rows)?.reshape((examples, steps, sequence.hidden))?;
    let last = out.narrow(0, rows, state.elem_count())?.reshape(state.shape())?;
    Ok((ys, last))
}
