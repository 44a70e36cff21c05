//! Recurrent layers on a CUDA device: all steps of a small layer in one launch, a product and a launch
//! per step of a large one.

use candle_core::cuda_backend::cudarc::driver::{CudaSlice, DeviceRepr, LaunchConfig};
use candle_core::{Result, Tensor};

use super::Unit;
use super::gemm::{Factor, Factors, column_sums, product};
use super::runtime::{DeviceFloat, Input, THREADS, address, alloc, device_of, elements, launch, tensor, value};
use crate::kernels::losses::for_float;
use crate::kernels::node::{Gradients, Value, node};
use crate::kernels::recurrence::Cell;

const UNIT: Unit = Unit { name: "recurrence", source: include_str!("recurrence.cu") };

/// Shared memory that every device gives a block without being asked for more.
const SHARED: usize = 48 << 10;

/// Weights of so many bytes stay in a multiprocessor's cache.
const CACHED: usize = 192 << 10;

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

/// What the backward pass wants again.
struct Kept<T> {
    /// The gates of every step.
    gates: CudaSlice<T>,
    /// The hidden state before every step, `[T, N, H]`.
    before: CudaSlice<T>,
}

/// Gradients of what comes from the input, of the weights and biases if wanted, and of the first state.
struct Found<T> {
    from_input: CudaSlice<T>,
    weight: Option<(Tensor, Tensor)>,
    first: CudaSlice<T>,
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

    fn states(&self) -> usize {
        self.cell.states() * self.hidden
    }

    /// Whether one launch takes all steps.
    fn is_small<T>(&self) -> bool {
        self.shared_bytes::<T>(1) <= SHARED && self.width() * self.hidden * size_of::<T>() <= CACHED
    }

    /// Examples that a block takes: several only when there are enough blocks.
    fn per_block<T>(&self) -> usize {
        if self.examples > 264 && self.shared_bytes::<T>(4) <= SHARED { 4 } else { 1 }
    }

    /// States, gates and partial sums of a block's examples.
    fn shared_bytes<T>(&self, examples: usize) -> usize {
        let partial = self.hidden.max(THREADS as usize);
        examples * (self.states() + self.width() + partial) * size_of::<T>()
    }

    fn grid<T>(&self) -> LaunchConfig {
        let per_block = self.per_block::<T>();
        LaunchConfig {
            grid_dim: (self.examples.div_ceil(per_block) as u32, 1, 1),
            block_dim: (THREADS, 1, 1),
            shared_mem_bytes: self.shared_bytes::<T>(per_block) as u32,
        }
    }

    /// The shape of the output: the hidden states of all steps; of an LSTM one row of numbers, with the
    /// last state behind them, so that both are of one node.
    fn shape(&self) -> Vec<usize> {
        let &Self { examples, steps, hidden, .. } = self;
        match self.cell {
            Cell::Lstm => vec![examples * steps * hidden + examples * self.states()],
            _ => vec![examples, steps, hidden],
        }
    }

    /// The output, of that shape.
    fn forward<T: DeviceFloat>(&self, inputs: [&Tensor; 4], tracked: bool) -> Result<(Value, Kept<T>)> {
        let [from_input, weight, bias, first] = inputs;
        let device = device_of(from_input)?;
        let &Self { examples, steps, hidden, .. } = self;
        let (rows, sizes) = (examples * steps, self.sizes());
        let shape = self.shape();
        let out = alloc::<T>(device, shape.iter().product())?;
        let elsewhere = alloc::<T>(device, examples * self.states())?;
        let last = if self.cell == Cell::Lstm { out.slice(rows * hidden..) } else { elsewhere.slice(..) };
        let ys = out.slice(..rows * hidden);
        let small = self.is_small::<T>();
        let kept = Kept {
            gates: alloc(device, if tracked { (rows * self.cell.kept() * hidden).max(1) } else { 1 })?,
            before: alloc(device, if tracked || !small { rows * hidden } else { 1 })?,
        };
        let gates_at = if tracked { address(&kept.gates) } else { 0 };
        let (x, b, f) = (Input::of(from_input), Input::of(bias), Input::of(first));
        let (x, b, f) = (x.view::<T>()?, b.view::<T>()?, f.view::<T>()?);
        if small {
            // Turned, neighbouring threads read neighbouring weights.
            let (w, w_in) = (alloc::<T>(device, self.width() * hidden)?, Input::of(weight));
            let (turned, rows, columns) = (elements(w.len()), self.width() as i64, hidden as i64);
            launch!(device, UNIT, T, "turned", turned, [w_in.view::<T>()?, rows, columns, w]);
            let (before_at, grid) = (if tracked { address(&kept.before) } else { 0 }, self.grid::<T>());
            if self.per_block::<T>() == 4 {
                launch!(device, UNIT, T, "recurrence_four", grid, [x, w, b, f, sizes, ys, last, gates_at, before_at]);
            } else {
                launch!(device, UNIT, T, "recurrence_one", grid, [x, w, b, f, sizes, ys, last, gates_at, before_at]);
            }
        } else {
            let w = Input::of(weight);
            let w = w.view::<T>()?;
            let (plane, grid) = (examples * hidden, elements(examples * hidden));
            let c = alloc::<T>(device, plane)?;
            let mut products = alloc::<T>(device, examples * self.width())?;
            launch!(device, UNIT, T, "recurrence_begin", grid, [f, sizes, kept.before, c]);
            for step in 0..steps {
                let t = if self.reverse { steps - 1 - step } else { step };
                let h = kept.before.slice(t * plane..(t + 1) * plane);
                let shape = [examples, self.width(), hidden];
                product(device, Factors::Full, shape, Factor::of(&h), Factor::of(&w).t(), &mut products, false)?;
                launch!(
                    device,
                    UNIT,
                    T,
                    "recurrence_step",
                    grid,
                    [x, products, b, step as i32, sizes, kept.before, c, ys, last, gates_at,]
                );
            }
        }
        Ok((value(device, out, shape), kept))
    }

    fn backward<T: DeviceFloat>(
        &self,
        weight: &Tensor,
        first: &Tensor,
        kept: &Kept<T>,
        (out, dy): (&Tensor, &Tensor),
        weighted: bool,
    ) -> Result<Found<T>> {
        let device = device_of(out)?;
        let &Self { examples, steps, hidden, .. } = self;
        let (rows, width, sizes) = (examples * steps, self.width(), self.sizes());
        let (from_input, hidden_gates) = (alloc::<T>(device, rows * width)?, alloc::<T>(device, rows * width)?);
        let d_first = alloc::<T>(device, examples * self.states())?;
        let (w, f, o, d) = (Input::of(weight), Input::of(first), Input::of(out), Input::of(dy));
        let (w, f, o, d) = (w.view::<T>()?, f.view::<T>()?, o.view::<T>()?, d.view::<T>()?);
        let (ys, dys) = (o.slice(..rows * hidden), d.slice(..rows * hidden));
        let d_last = if self.cell == Cell::Lstm { address(&d.slice(rows * hidden..)) } else { 0 };
        if self.is_small::<T>() {
            let grid = self.grid::<T>();
            if self.per_block::<T>() == 4 {
                launch!(
                    device,
                    UNIT,
                    T,
                    "recurrence_backward_four",
                    grid,
                    [w, f, ys, kept.gates, dys, d_last, sizes, from_input, hidden_gates, d_first,]
                );
            } else {
                launch!(
                    device,
                    UNIT,
                    T,
                    "recurrence_backward_one",
                    grid,
                    [w, f, ys, kept.gates, dys, d_last, sizes, from_input, hidden_gates, d_first,]
                );
            }
        } else {
            let (plane, grid) = (examples * hidden, elements(examples * hidden));
            let (mut dh, dc) = (alloc::<T>(device, plane)?, alloc::<T>(device, plane)?);
            for step in (0..steps).rev() {
                let t = if self.reverse { steps - 1 - step } else { step };
                launch!(
                    device,
                    UNIT,
                    T,
                    "recurrence_step_backward",
                    grid,
                    [f, kept.before, ys, kept.gates, dys, d_last, step as i32, sizes, dh, dc, from_input, hidden_gates,]
                );
                let gates = hidden_gates.slice(t * examples * width..(t + 1) * examples * width);
                let shape = [examples, hidden, width];
                product(device, Factors::Full, shape, Factor::of(&gates), Factor::of(&w), &mut dh, true)?;
            }
            launch!(device, UNIT, T, "recurrence_end_backward", grid, [dh, dc, sizes, d_first]);
        }
        let weight = if weighted {
            // One product for all steps: gates ᵀ · states before.
            let mut dw = alloc::<T>(device, width * hidden)?;
            let (gates, before) = (Factor::of(&hidden_gates), Factor::of(&kept.before));
            product(device, Factors::Full, [width, hidden, rows], gates.t(), before, &mut dw, false)?;
            let sums = column_sums::<T>(device, address(&hidden_gates), None, rows, width, true)?.sums;
            let Some(db) = sums else { candle_core::bail!("internal error: sums were not computed") };
            Some((tensor(device, dw, (width, hidden)), tensor(device, db, width)))
        } else {
            None
        };
        Ok(Found { from_input, weight, first: d_first })
    }
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
    let (x, w, b, s) = (from_input.contiguous()?, weight.contiguous()?, bias.contiguous()?, state.contiguous()?);
    let out = for_float!(x.dtype(), T => run::<T>(sequence, [&x, &w, &b, &s])?);
    if cell != Cell::Lstm {
        let last = out.narrow(1, if reverse { 0 } else { steps - 1 }, 1)?.squeeze(1)?;
        return Ok((out, last));
    }
    let rows = examples * steps * sequence.hidden;
    let ys = out.narrow(0, 0, rows)?.reshape((examples, steps, sequence.hidden))?;
    let last = out.narrow(0, rows, state.elem_count())?.reshape(state.shape())?;
    Ok((ys, last))
}

fn run<T: DeviceFloat>(sequence: Sequence, inputs: [&Tensor; 4]) -> Result<Tensor> {
    let [x, w, b, s] = inputs;
    let tracked = inputs.iter().any(|input| input.track_op());
    let (out, kept) = sequence.forward::<T>(inputs, tracked)?;
    let (weight, first) = (w.detach(), s.detach());
    let found =
        move |weighted, out: &Tensor, dy: &Tensor| sequence.backward(&weight, &first, &kept, (out, dy), weighted);
    if !s.track_op() {
        return node("recurrence", &[x, w, b], out, move |inputs, out, dy| -> Gradients {
            let device = device_of(dy)?;
            let found = found(inputs[1].track_op() || inputs[2].track_op(), out, dy)?;
            let (dw, db) = found.weight.unzip();
            let dx = inputs[0].track_op().then(|| tensor(device, found.from_input, inputs[0].shape()));
            Ok(vec![dx, dw.filter(|_| inputs[1].track_op()), db.filter(|_| inputs[2].track_op())])
        });
    }
    // A node has three inputs at most: weights and biases share one.
    let joined = Tensor::cat(&[w, &b.unsqueeze(1)?], 1)?;
    node("recurrence", &[x, &joined, s], out, move |inputs, out, dy| -> Gradients {
        let device = device_of(dy)?;
        let found = found(inputs[1].track_op(), out, dy)?;
        let joined = found.weight.map(|(dw, db)| Tensor::cat(&[&dw, &db.unsqueeze(1)?], 1)).transpose()?;
        let dx = inputs[0].track_op().then(|| tensor(device, found.from_input, inputs[0].shape()));
        Ok(vec![dx, joined, inputs[2].track_op().then(|| tensor(device, found.first, inputs[2].shape()))])
    })
}
