//! Recurrent layers over whole sequences: every thread takes some examples through all steps.

use super::buffer::{Scratch, written};
use super::gemm::{Matrix, product_over_rows};
use super::panels::Panels;
use super::parallel::{Parts, for_shares};
use super::real::Real;
use super::simd::{Kernel, Simd};

/// What one step computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cell {
    Tanh,
    Relu,
    Lstm,
    Gru,
}

impl Cell {
    /// How many vectors of the hidden size the weights of a step give.
    pub fn gates(self) -> usize {
        match self {
            Self::Tanh | Self::Relu => 1,
            Self::Lstm => 4,
            Self::Gru => 3,
        }
    }

    /// How many vectors a state has: the hidden one, and an LSTM's cell.
    pub fn states(self) -> usize {
        if self == Self::Lstm { 2 } else { 1 }
    }

    /// How many vectors of a step the backward pass wants to see again: i, f, g, o and the cell of
    /// an LSTM; r, z, n and the hidden part of n of a GRU.
    pub fn kept(self) -> usize {
        match self {
            Self::Tanh | Self::Relu => 0,
            Self::Lstm => 5,
            Self::Gru => 4,
        }
    }
}

/// The sizes of a layer and its batch, and the direction.
#[derive(Debug, Clone, Copy)]
pub struct Recurrence {
    pub cell: Cell,
    pub examples: usize,
    pub steps: usize,
    pub hidden: usize,
    /// Whether time runs backwards.
    pub reverse: bool,
}

/// Vectors of one example at one step. A gate's part of them is `hidden` numbers.
struct Step<'a, T> {
    cell: Cell,
    from_input: &'a [T],
    from_hidden: &'a [T],
    /// The biases of the hidden part.
    bias: &'a [T],
    state: &'a mut [T],
    kept: &'a mut [T],
}

impl<T: Real> Kernel<T> for Step<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<T>>(self, _: S) {
        let Self { cell, from_input, from_hidden, bias, state, kept } = self;
        let n = state.len() / cell.states();
        let gate = |gate: usize| (&from_input[gate * n..][..n], &from_hidden[gate * n..][..n], &bias[gate * n..][..n]);
        match cell {
            Cell::Tanh | Cell::Relu => {
                let (x, h, b) = gate(0);
                for i in 0..n {
                    let sum = x[i] + (h[i] + b[i]);
                    state[i] = match cell {
                        Cell::Tanh => sum.tanh(),
                        // In this order a NaN stays NaN.
                        _ if sum < T::ZERO => T::ZERO,
                        _ => sum,
                    };
                }
            }
            Cell::Lstm => {
                let [i_, f_, g_, o_] = [gate(0), gate(1), gate(2), gate(3)];
                let (h, c) = state.split_at_mut(n);
                let [ik, fk, gk, ok, ck] = chunks(kept, n);
                for k in 0..n {
                    let sum = |(x, h, b): (&[T], &[T], &[T])| x[k] + (h[k] + b[k]);
                    let (i, f, g, o) = (sum(i_).sigmoid(), sum(f_).sigmoid(), sum(g_).tanh(), sum(o_).sigmoid());
                    c[k] = f * c[k] + i * g;
                    h[k] = o * c[k].tanh();
                    (ik[k], fk[k], gk[k], ok[k], ck[k]) = (i, f, g, o, c[k]);
                }
            }
            Cell::Gru => {
                let [r_, z_, n_] = [gate(0), gate(1), gate(2)];
                let [rk, zk, nk, hk] = chunks(kept, n);
                for k in 0..n {
                    let sum = |(x, h, b): (&[T], &[T], &[T])| x[k] + (h[k] + b[k]);
                    let (r, z, from_hidden) = (sum(r_).sigmoid(), sum(z_).sigmoid(), n_.1[k] + n_.2[k]);
                    let new = (n_.0[k] + r * from_hidden).tanh();
                    state[k] = new + z * (state[k] - new);
                    (rk[k], zk[k], nk[k], hk[k]) = (r, z, new, from_hidden);
                }
            }
        }
    }
}

/// A slice as `N` parts of `n` numbers.
#[inline(always)]
fn chunks<T, const N: usize>(values: &mut [T], n: usize) -> [&mut [T]; N] {
    let mut parts = values.chunks_exact_mut(n);
    std::array::from_fn(|_| parts.next().unwrap_or_default())
}

/// One example at one step, backwards.
struct StepBackward<'a, T> {
    cell: Cell,
    /// The hidden state after the step, and the state before it.
    after: &'a [T],
    before: &'a [T],
    kept: &'a [T],
    /// The gradient of the state after the step; becomes its direct part before the step.
    state: &'a mut [T],
    /// The gradients of what comes from the input, and from the hidden state.
    from_input: &'a mut [T],
    from_hidden: &'a mut [T],
}

impl<T: Real> Kernel<T> for StepBackward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<T>>(self, _: S) {
        let Self { cell, after, before, kept, state, from_input, from_hidden } = self;
        let n = after.len();
        let one = T::ONE;
        let kept = |part: usize| &kept[part * n..][..n];
        match cell {
            Cell::Tanh | Cell::Relu => {
                for k in 0..n {
                    let (y, dy) = (after[k], state[k]);
                    from_input[k] = match cell {
                        Cell::Tanh => dy * (one - y * y),
                        _ if y <= T::ZERO => T::ZERO,
                        _ => dy,
                    };
                    state[k] = T::ZERO;
                }
                from_hidden.copy_from_slice(from_input);
            }
            Cell::Lstm => {
                let [i_, f_, g_, o_, c_] = [kept(0), kept(1), kept(2), kept(3), kept(4)];
                let (dh, dc) = state.split_at_mut(n);
                let [di, df, dg, d_o] = chunks(from_input, n);
                for k in 0..n {
                    let (i, f, g, o, tanh) = (i_[k], f_[k], g_[k], o_[k], c_[k].tanh());
                    let through = dc[k] + dh[k] * o * (one - tanh * tanh);
                    di[k] = through * g * i * (one - i);
                    df[k] = through * before[n + k] * f * (one - f);
                    dg[k] = through * i * (one - g * g);
                    d_o[k] = dh[k] * tanh * o * (one - o);
                    dc[k] = through * f;
                    dh[k] = T::ZERO;
                }
                from_hidden.copy_from_slice(from_input);
            }
            Cell::Gru => {
                let [r_, z_, n_, h_] = [kept(0), kept(1), kept(2), kept(3)];
                let ([dr, dz, dn], [dr_h, dz_h, dn_h]) = (chunks(from_input, n), chunks(from_hidden, n));
                for k in 0..n {
                    let (r, z, new, dh) = (r_[k], z_[k], n_[k], state[k]);
                    let sum = dh * (one - z) * (one - new * new);
                    dr[k] = sum * h_[k] * r * (one - r);
                    dz[k] = dh * (before[k] - new) * z * (one - z);
                    dn[k] = sum;
                    (dr_h[k], dz_h[k], dn_h[k]) = (dr[k], dz[k], sum * r);
                    state[k] = dh * z;
                }
            }
        }
    }
}

/// Gradients of a sequence.
pub struct Gradients<T> {
    /// Of what comes from the input.
    pub from_input: Vec<T>,
    /// Of the weights and biases of the hidden state, if wanted.
    pub weight: Option<Vec<T>>,
    /// Of the first state.
    pub state: Vec<T>,
}

/// The weights of the hidden state, packed, and their biases.
pub struct Hidden<T> {
    panels: Panels<T>,
    bias: Vec<T>,
}

impl<T: Real> Hidden<T> {
    /// `weight`: `[gates · H, H]`; `bias`: `[gates · H]`.
    pub fn new(sizes: &Recurrence, weight: &[T], bias: Vec<T>) -> Self {
        Self { panels: Panels::new(Matrix::new(weight, sizes.width(), sizes.hidden).t()), bias }
    }
}

/// A layer whose weights were packed once.
pub struct Prepared<T> {
    sizes: Recurrence,
    input: Panels<T>,
    input_bias: Vec<T>,
    hidden: Hidden<T>,
}

impl<T: Real> Prepared<T> {
    /// `input`: `[gates · H, in]`; `input_bias`: `[gates · H]`.
    pub fn new(sizes: Recurrence, input: &[T], input_bias: Vec<T>, hidden: Hidden<T>) -> Self {
        let matrix = Matrix::new(input, sizes.width(), input.len() / sizes.width());
        Self { sizes, input: Panels::new(matrix.t()), input_bias, hidden }
    }

    /// From a state of zeros over `x`, `[examples, T, in]`; into `y`, `[examples, T, H]`.
    pub fn forward(&self, examples: usize, x: &[T], y: &mut [T]) {
        let sizes = Recurrence { examples, ..self.sizes };
        let mut from_input = Scratch::new(examples * sizes.steps * sizes.width());
        self.input.affine(x, Some(&self.input_bias), false, &mut from_input);
        let mut first = Scratch::new(examples * sizes.cell.states() * sizes.hidden);
        first.fill(T::ZERO);
        if sizes.cell != Cell::Lstm {
            return sizes.walk(&from_input, &self.hidden, &first, None, y);
        }
        let (rows, steps) = (sizes.rows() * sizes.hidden, sizes.steps * sizes.hidden);
        let mut out = Scratch::new(examples * rows);
        sizes.walk(&from_input, &self.hidden, &first, None, &mut out);
        y.chunks_exact_mut(steps).zip(out.chunks_exact(rows)).for_each(|(y, out)| y.copy_from_slice(&out[..steps]));
    }
}

impl Recurrence {
    fn width(&self) -> usize {
        self.cell.gates() * self.hidden
    }

    /// Vectors that an example's output has: one per step, and an LSTM's last cell.
    pub fn rows(&self) -> usize {
        self.steps + self.cell.states() - 1
    }

    /// Steps in the order of time.
    fn order(&self) -> impl DoubleEndedIterator<Item = usize> + use<> {
        let (steps, reverse) = (self.steps, self.reverse);
        (0..steps).map(move |step| if reverse { steps - 1 - step } else { step })
    }

    /// The weights `[gates · H, H]` out of `[gates · H, H + 1]`, whose last column is the biases.
    fn weights<'a, T>(&self, weight: &'a [T]) -> Matrix<'a, T> {
        let (rows, columns) = (self.width(), self.hidden);
        Matrix { values: weight, rows, columns, row_stride: columns + 1, column_stride: 1 }
    }

    /// `from_input`: `[N, T, gates · H]`; `weight`: `[gates · H, H + 1]`; `first`: `[N, states · H]`.
    /// Returns `[N, rows, H]`, and what [`backward`](Self::backward) wants of it, if it is to `keep` it.
    pub fn forward<T: Real>(&self, from_input: &[T], weight: &[T], first: &[T], keep: bool) -> (Vec<T>, Vec<T>) {
        let bias = weight.chunks_exact(self.hidden + 1).map(|row| row[self.hidden]).collect();
        let hidden = Hidden { panels: Panels::new(self.weights(weight).t()), bias };
        let kept_len = if keep { self.steps * self.cell.kept() * self.hidden } else { 0 };
        let mut kept = vec![T::ZERO; self.examples * kept_len];
        let out = written(self.examples * self.rows() * self.hidden, |out| {
            self.walk(from_input, &hidden, first, keep.then_some(&mut kept[..]), out);
        });
        (out, kept)
    }

    /// [`forward`](Self::forward), into `out`.
    fn walk<T: Real>(&self, from_input: &[T], weights: &Hidden<T>, first: &[T], kept: Option<&mut [T]>, out: &mut [T]) {
        let &Self { cell, examples, steps, hidden, .. } = self;
        let (width, states, kept_len) = (self.width(), cell.states() * hidden, cell.kept() * hidden);
        assert_eq!((from_input.len(), first.len()), (examples * steps * width, examples * states));
        assert_eq!(out.len(), examples * self.rows() * hidden);
        let (out, kept) = (Parts::new(out), kept.map(Parts::new));
        for_shares(examples, |range| {
            let per = self.rows() * hidden;
            // SAFETY: ranges of examples do not overlap.
            let out = unsafe { out.get(range.start * per..range.end * per) };
            let count = range.len();
            let mut state = Scratch::new(count * states);
            state.copy_from_slice(&first[range.start * states..range.end * states]);
            let mut products = Scratch::new(count * width);
            let mut forgotten = Scratch::new(kept_len);
            for step in self.order() {
                weights.panels.multiply(count, &state, states, &mut products);
                for example in 0..count {
                    let state = &mut state[example * states..][..states];
                    let at = (range.start + example) * steps + step;
                    let kept = match &kept {
                        // SAFETY: as above.
                        Some(kept) => unsafe { kept.get(at * kept_len..(at + 1) * kept_len) },
                        None => &mut *forgotten,
                    };
                    T::dispatch(Step {
                        cell,
                        from_input: &from_input[at * width..][..width],
                        from_hidden: &products[example * width..][..width],
                        bias: &weights.bias,
                        state,
                        kept,
                    });
                    let row = (example * self.rows() + step) * hidden;
                    out[row..][..hidden].copy_from_slice(&state[..hidden]);
                }
            }
            for example in (0..count).filter(|_| cell == Cell::Lstm) {
                let row = (example * self.rows() + steps) * hidden;
                out[row..][..hidden].copy_from_slice(&state[example * states + hidden..][..hidden]);
            }
        });
    }

    /// From the inputs of [`forward`](Self::forward), what it returned, and the gradient `dy` of
    /// its output; with that of the weight if `weighted`.
    pub fn backward<T: Real>(
        &self,
        weight: &[T],
        first: &[T],
        out: &[T],
        kept: &[T],
        dy: &[T],
        weighted: bool,
    ) -> Gradients<T> {
        let &Self { cell, examples, steps, hidden, .. } = self;
        let (width, states, kept_len, rows) = (self.width(), cell.states() * hidden, cell.kept() * hidden, self.rows());
        let (mut from_hidden, mut d_state) = (Vec::new(), Vec::new());
        let weight = Panels::new(self.weights(weight));
        let from_input = written(examples * steps * width, |d_input| {
            from_hidden = written(examples * steps * width, |d_hidden| {
                d_state = written(examples * states, |d_state| {
                    let (d_input, d_hidden, d_state) = (Parts::new(d_input), Parts::new(d_hidden), Parts::new(d_state));
                    for_shares(examples, |range| {
                        // SAFETY: ranges of examples do not overlap.
                        let (d_input, d_hidden, state) = unsafe {
                            let part = |per: usize| range.start * per..range.end * per;
                            (
                                d_input.get(part(steps * width)),
                                d_hidden.get(part(steps * width)),
                                d_state.get(part(states)),
                            )
                        };
                        let count = range.len();
                        let row = |example: usize, row: usize| ((range.start + example) * rows + row) * hidden;
                        state.fill(T::ZERO);
                        for example in (0..count).filter(|_| cell == Cell::Lstm) {
                            let from = &dy[row(example, steps)..][..hidden];
                            state[example * states + hidden..][..hidden].copy_from_slice(from);
                        }
                        let mut before = vec![T::ZERO; states];
                        let mut through = Scratch::new(count * hidden);
                        for step in self.order().rev() {
                            let earlier = if self.reverse { step + 1 } else { step.wrapping_sub(1) };
                            for example in 0..count {
                                let first = &first[(range.start + example) * states..][..states];
                                if earlier < steps {
                                    before[..hidden].copy_from_slice(&out[row(example, earlier)..][..hidden]);
                                    if cell == Cell::Lstm {
                                        let at = ((range.start + example) * steps + earlier) * kept_len + 4 * hidden;
                                        before[hidden..].copy_from_slice(&kept[at..][..hidden]);
                                    }
                                } else {
                                    before.copy_from_slice(first);
                                }
                                let state = &mut state[example * states..][..states];
                                for (d, &dy) in state.iter_mut().zip(&dy[row(example, step)..][..hidden]) {
                                    *d += dy;
                                }
                                let at = (example * steps + step) * width;
                                T::dispatch(StepBackward {
                                    cell,
                                    after: &out[row(example, step)..][..hidden],
                                    before: &before,
                                    kept: &kept[((range.start + example) * steps + step) * kept_len..][..kept_len],
                                    state,
                                    from_input: &mut d_input[at..][..width],
                                    from_hidden: &mut d_hidden[at..][..width],
                                });
                            }
                            weight.multiply(count, &d_hidden[step * width..], steps * width, &mut through);
                            for (state, through) in state.chunks_exact_mut(states).zip(through.chunks_exact(hidden)) {
                                state.iter_mut().zip(through).for_each(|(d, &through)| *d += through);
                            }
                        }
                    });
                });
            });
        });
        let weight = weighted.then(|| self.weight_gradient(&from_hidden, first, out));
        Gradients { from_input, weight, state: d_state }
    }

    fn weight_gradient<T: Real>(&self, from_hidden: &[T], first: &[T], out: &[T]) -> Vec<T> {
        let &Self { cell, examples, steps, hidden, .. } = self;
        let states = cell.states() * hidden;
        // The hidden state before every step, and a 1 for the bias.
        let columns = hidden + 1;
        let mut before = vec![T::ONE; examples * steps * columns];
        for (row, before) in before.chunks_exact_mut(columns).enumerate() {
            let (example, step) = (row / steps, row % steps);
            let earlier = if self.reverse { step + 1 } else { step.wrapping_sub(1) };
            let from = match earlier < steps {
                true => &out[(example * self.rows() + earlier) * hidden..],
                false => &first[example * states..],
            };
            before[..hidden].copy_from_slice(&from[..hidden]);
        }
        let gates = Matrix::new(from_hidden, examples * steps, self.width());
        let before = Matrix::new(&before, examples * steps, columns);
        product_over_rows(gates, before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Output and gradients, of numbers that f32 holds.
    fn run<T: Real>(sizes: &Recurrence) -> Vec<f64> {
        let numbers = |count: usize, pace: f64, scale: f32| -> Vec<T> {
            (0..count).map(|i| T::of(f64::from(scale * (i as f64 * pace).sin() as f32))).collect()
        };
        let &Recurrence { cell, examples, steps, hidden, .. } = sizes;
        let x = numbers(examples * steps * sizes.width(), 1.7, 2.0);
        let weight = numbers(sizes.width() * (hidden + 1), 0.9, 0.25);
        let first = numbers(examples * cell.states() * hidden, 0.3, 1.0);
        let dy = numbers(examples * sizes.rows() * hidden, 2.3, 1.0);
        let (out, kept) = sizes.forward(&x, &weight, &first, true);
        let gradients = sizes.backward(&weight, &first, &out, &kept, &dy, true);
        let all = [out, gradients.from_input, gradients.weight.unwrap_or_default(), gradients.state].concat();
        all.into_iter().map(T::wide).collect()
    }

    #[test]
    fn single_precision_agrees_with_double() {
        for cell in [Cell::Tanh, Cell::Relu, Cell::Lstm, Cell::Gru] {
            for (examples, steps, hidden, reverse) in [(1, 1, 1, false), (5, 7, 19, true), (3, 4, 33, false)] {
                let sizes = Recurrence { cell, examples, steps, hidden, reverse };
                let (single, double) = (run::<f32>(&sizes), run::<f64>(&sizes));
                assert_eq!(single.len(), double.len());
                for (i, (a, b)) in single.into_iter().zip(double).enumerate() {
                    assert!((a - b).abs() <= 1e-5 * b.abs().max(1.0), "{sizes:?}, number {i}: {a} {b}");
                }
            }
        }
    }
}
