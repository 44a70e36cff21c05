//! A recurrent layer over a whole sequence as one operation.

use std::sync::OnceLock;

use candle_core::{CpuStorage, D, Tensor};

use super::support::{Reading, apply, check_input, on_cpu, relu_composed, tensor};
use crate::error::Result;
use crate::kernels::node::{self, Value};
use crate::kernels::real::Real;
pub(crate) use crate::kernels::recurrence::Cell;
use crate::kernels::recurrence::{Gradients, Recurrence};

struct Op {
    sizes: Recurrence,
    /// Whether a backward pass may follow.
    tracked: bool,
    /// What the forward pass keeps for the backward pass.
    kept: OnceLock<CpuStorage>,
}

impl Op {
    fn forward<T: Real>(&self, inputs: &[&Tensor]) -> candle_core::Result<Value> {
        let [x, w, s] = [0, 1, 2].map(|i| Reading::of(inputs[i]));
        let (out, kept) = self.sizes.forward::<T>(x.get()?, w.get()?, s.get()?, self.tracked);
        self.kept.get_or_init(|| T::to_cpu_storage_owned(kept));
        Ok(Value::cpu(out, (self.sizes.examples, self.sizes.rows(), self.sizes.hidden)))
    }

    fn backward<T: Real>(&self, inputs: &[&Tensor], ys: &Tensor, dy: &Tensor) -> node::Gradients {
        let Some(kept) = self.kept.get() else {
            candle_core::bail!("internal error: a recurrence runs backwards before it ran forwards");
        };
        let &[xs, weight, state] = inputs else { candle_core::bail!("internal error: a recurrence has three inputs") };
        let (w, s, y, d) = (Reading::of(weight), Reading::of(state), Reading::of(ys), Reading::of(dy));
        let Gradients { from_input, weight: by_weight, state: by_state } =
            self.sizes.backward::<T>(w.get()?, s.get()?, y.get()?, kept.as_slice()?, d.get()?, weight.track_op());
        Ok(vec![
            xs.track_op().then(|| tensor(from_input, xs.shape())).transpose()?,
            by_weight.map(|by_weight| tensor(by_weight, weight.shape())).transpose()?,
            state.track_op().then(|| tensor(by_state, state.shape())).transpose()?,
        ])
    }
}

/// All steps of a recurrent layer; the caller vouches for the shapes. On the CPU the product that gives
/// the weight's gradient is the `gemm` crate's, which picks its instructions itself, whatever
/// `CANDLE_COURSE_SIMD` says.
///
/// - `from_input`: `[N, T, gates · H]`, f32 or f64: W_ih x + b_ih.
/// - `weight`: `[gates · H, H]` and `bias`: `[gates · H]` of the hidden state.
/// - `state`: `[N, H]`, or `[N, 2 H]` with an LSTM's cell behind the hidden state.
/// - Result: the hidden state after every step, `[N, T, H]`, and the last state, shaped as `state`.
///
/// # Errors
/// If the dtype has no kernel, or the batch is empty.
pub(crate) fn recurrence(
    cell: Cell,
    from_input: &Tensor,
    (weight, bias): (&Tensor, &Tensor),
    state: &Tensor,
    reverse: bool,
) -> Result<(Tensor, Tensor)> {
    check_input("xs", from_input)?;
    #[cfg(feature = "cuda")]
    if super::support::on_cuda(from_input) {
        return Ok(crate::kernels::cuda::recurrence::recurrence(cell, from_input, (weight, bias), state, reverse)?);
    }
    if !on_cpu(from_input) {
        return Ok(composed(cell, from_input, (weight, bias), state, reverse)?);
    }
    let (examples, steps, _) = from_input.dims3()?;
    let hidden = weight.dim(1)?;
    let sizes = Recurrence { cell, examples, steps, hidden, reverse };
    // Of a strided weight the joined one would be strided too.
    let weight = Tensor::cat(&[weight, &bias.unsqueeze(1)?], 1)?.contiguous()?;
    let tracked = from_input.track_op() || weight.track_op() || state.track_op();
    let op = Op { sizes, tracked, kept: OnceLock::new() };
    let out = apply!("recurrence", op, [Some(from_input), Some(&weight), Some(state)]);
    let last = out.narrow(1, if reverse { 0 } else { steps - 1 }, 1)?.squeeze(1)?;
    if cell == Cell::Lstm {
        let memory = out.narrow(1, steps, 1)?.squeeze(1)?;
        return Ok((out.narrow(1, 0, steps)?, Tensor::cat(&[&last, &memory], 1)?));
    }
    Ok((out, last))
}

/// The same step by step of candle's operations, for a GPU.
fn composed(
    cell: Cell,
    from_input: &Tensor,
    (weight, bias): (&Tensor, &Tensor),
    state: &Tensor,
    reverse: bool,
) -> candle_core::Result<(Tensor, Tensor)> {
    let steps = from_input.dim(1)?;
    let weight = weight.contiguous()?.t()?;
    let states = state.chunk(cell.states(), 1)?;
    let (mut h, mut c) = (states[0].contiguous()?, states[states.len() - 1].contiguous()?);
    let mut outputs = Vec::with_capacity(steps);
    for step in 0..steps {
        let step = if reverse { steps - 1 - step } else { step };
        let from_input = from_input.narrow(1, step, 1)?.squeeze(1)?.contiguous()?;
        (h, c) = composed_step(cell, &from_input, &h.matmul(&weight)?.broadcast_add(bias)?, &h, &c)?;
        outputs.push(h.clone());
    }
    if reverse {
        outputs.reverse();
    }
    let last = if cell == Cell::Lstm { Tensor::cat(&[&h, &c], 1)? } else { h };
    Ok((Tensor::stack(&outputs, 1)?, last))
}

/// The new hidden state, and the new cell state of an LSTM.
fn composed_step(
    cell: Cell,
    from_input: &Tensor,
    from_hidden: &Tensor,
    h: &Tensor,
    c: &Tensor,
) -> candle_core::Result<(Tensor, Tensor)> {
    match cell {
        Cell::Tanh => Ok(((from_input + from_hidden)?.tanh()?, c.clone())),
        Cell::Relu => Ok((relu_composed(&(from_input + from_hidden)?)?, c.clone())),
        Cell::Lstm => {
            let gates = (from_input + from_hidden)?.chunk(4, D::Minus1)?;
            let [input, forget, output] = [0, 1, 3].map(|gate| sigmoid(&gates[gate]));
            let c = ((forget? * c)? + (input? * gates[2].tanh()?)?)?;
            Ok(((output? * c.tanh()?)?, c))
        }
        Cell::Gru => {
            let (i, h_parts) = (from_input.chunk(3, D::Minus1)?, from_hidden.chunk(3, D::Minus1)?);
            let reset = sigmoid(&(&i[0] + &h_parts[0])?)?;
            let update = sigmoid(&(&i[1] + &h_parts[1])?)?;
            let new = (&i[2] + (reset * &h_parts[2])?)?.tanh()?;
            // (1 − z) n + z h
            Ok(((&new + (update * (h - &new)?)?)?, c.clone()))
        }
    }
}

fn sigmoid(x: &Tensor) -> candle_core::Result<Tensor> {
    // Through tanh: finite for every x, in the gradient too.
    ((x * 0.5)?.tanh()? + 1.0)? * 0.5
}
