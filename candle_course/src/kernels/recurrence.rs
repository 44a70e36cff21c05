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

impl<T: Real> Step<'_, T> {
    /// In short loops, each of which writes one slice and reads three at most: before a loop with more of them the
    /// compiler would have too many overlaps to rule out, and leave it without vectors.
    #[inline(always)]
    fn run(self) {
        let Self { cell, from_input, from_hidden, bias, state, kept } = self;
        let n = state.len() / cell.states();
        let gates = |from: usize, count: usize| {
            let part = from * n..(from + count) * n;
            (&from_input[part.clone()], &from_hidden[part.clone()], &bias[part])
        };
        match cell {
            Cell::Tanh => sums(gates(0, 1), state, Real::tanh),
            // In this order a NaN stays NaN.
            Cell::Relu => sums(gates(0, 1), state, |sum| if sum < T::ZERO { T::ZERO } else { sum }),
            Cell::Lstm => {
                let (h, c) = state.split_at_mut(n);
                let [i, f, g, o, c_kept] = chunks(kept, n);
                sums(gates(0, 1), i, Real::sigmoid);
                sums(gates(1, 1), f, Real::sigmoid);
                sums(gates(2, 1), g, Real::tanh);
                sums(gates(3, 1), o, Real::sigmoid);
                for k in 0..n {
                    c[k] = f[k] * c[k] + i[k] * g[k];
                }
                c_kept.copy_from_slice(c);
                for k in 0..n {
                    h[k] = o[k] * c[k].tanh();
                }
            }
            Cell::Gru => {
                let [r, z, new, hidden] = chunks(kept, n);
                sums(gates(0, 1), r, Real::sigmoid);
                sums(gates(1, 1), z, Real::sigmoid);
                let (x, h, b) = gates(2, 1);
                for k in 0..n {
                    hidden[k] = h[k] + b[k];
                }
                for k in 0..n {
                    new[k] = (x[k] + r[k] * hidden[k]).tanh();
                }
                for k in 0..n {
                    state[k] = new[k] + z[k] * (state[k] - new[k]);
                }
            }
        }
    }
}

/// `y = f(x + (h + b))`.
#[inline(always)]
fn sums<T: Real>((x, h, b): (&[T], &[T], &[T]), y: &mut [T], f: impl Fn(T) -> T) {
    let n = y.len();
    let (x, h, b) = (&x[..n], &h[..n], &b[..n]);
    for k in 0..n {
        y[k] = f(x[k] + (h[k] + b[k]));
    }
}

/// A slice as `N` parts of `n` numbers.
#[inline(always)]
fn chunks<T, const N: usize>(values: &mut [T], n: usize) -> [&mut [T]; N] {
    assert_eq!(values.len(), N * n);
    let mut rest = values;
    std::array::from_fn(|_| {
        let (part, behind) = std::mem::take(&mut rest).split_at_mut(n);
        rest = behind;
        part
    })
}

/// One example at one step, backwards.
struct StepBackward<'a, T> {
    cell: Cell,
    /// The hidden state after the step.
    after: &'a [T],
    /// The hidden state before the step, and an LSTM's cell.
    before: (&'a [T], &'a [T]),
    kept: &'a [T],
    /// The gradient of the state after the step; becomes its direct part before the step.
    state: &'a mut [T],
    /// The gradients of what comes from the input, and from the hidden state.
    from_input: &'a mut [T],
    from_hidden: &'a mut [T],
}

impl<T: Real> StepBackward<'_, T> {
    /// In short loops, as [`Step::run`].
    #[inline(always)]
    fn run(self) {
        let Self { cell, after, before, kept, state, from_input, from_hidden } = self;
        let n = after.len();
        let one = T::ONE;
        let kept = |part: usize| &kept[part * n..][..n];
        match cell {
            Cell::Tanh | Cell::Relu => {
                let (dy, dx) = (&mut state[..n], &mut from_input[..n]);
                if cell == Cell::Tanh {
                    for k in 0..n {
                        dx[k] = dy[k] * (one - after[k] * after[k]);
                    }
                } else {
                    for k in 0..n {
                        dx[k] = if after[k] <= T::ZERO { T::ZERO } else { dy[k] };
                    }
                }
                dy.fill(T::ZERO);
                from_hidden.copy_from_slice(from_input);
            }
            Cell::Lstm => {
                let [i, f, g, o, c] = [kept(0), kept(1), kept(2), kept(3), kept(4)];
                let c_before = &before.1[..n];
                let [dh, dc] = chunks(state, n);
                let [di, df, dg, d_o] = chunks(from_input, n);
                // First of all its place holds tanh(c).
                for k in 0..n {
                    d_o[k] = c[k].tanh();
                }
                for k in 0..n {
                    dc[k] += dh[k] * o[k] * (one - d_o[k] * d_o[k]);
                }
                for k in 0..n {
                    d_o[k] = dh[k] * d_o[k] * o[k] * (one - o[k]);
                }
                for k in 0..n {
                    di[k] = dc[k] * g[k] * i[k] * (one - i[k]);
                }
                for k in 0..n {
                    df[k] = dc[k] * c_before[k] * f[k] * (one - f[k]);
                }
                for k in 0..n {
                    dg[k] = dc[k] * i[k] * (one - g[k] * g[k]);
                }
                for k in 0..n {
                    dc[k] *= f[k];
                }
                dh.fill(T::ZERO);
                from_hidden.copy_from_slice(from_input);
            }
            Cell::Gru => {
                let [r, z, new, hidden] = [kept(0), kept(1), kept(2), kept(3)];
                let (before, dh) = (&before.0[..n], &mut state[..n]);
                let [dr, dz, dn] = chunks(from_input, n);
                for k in 0..n {
                    dn[k] = dh[k] * (one - z[k]) * (one - new[k] * new[k]);
                }
                for k in 0..n {
                    dr[k] = dn[k] * hidden[k] * r[k] * (one - r[k]);
                }
                for k in 0..n {
                    dz[k] = dh[k] * (before[k] - new[k]) * z[k] * (one - z[k]);
                }
                let [dr_hidden, dz_hidden, d_hidden] = chunks(from_hidden, n);
                dr_hidden.copy_from_slice(dr);
                dz_hidden.copy_from_slice(dz);
                for k in 0..n {
                    d_hidden[k] = dn[k] * r[k];
                }
                for k in 0..n {
                    dh[k] *= z[k];
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
        let mut out = Vec::new();
        let kept = written(self.examples * kept_len, |kept| {
            out = written(self.examples * self.rows() * self.hidden, |out| {
                self.walk(from_input, &hidden, first, keep.then_some(kept), out);
            });
        });
        (out, kept)
    }

    /// [`forward`](Self::forward), into `out`.
    fn walk<T: Real>(&self, from_input: &[T], weights: &Hidden<T>, first: &[T], kept: Option<&mut [T]>, out: &mut [T]) {
        let &Self { examples, steps, hidden, .. } = self;
        let per = (steps * self.width(), self.cell.states() * hidden, steps * self.cell.kept() * hidden);
        assert_eq!((from_input.len(), first.len()), (examples * per.0, examples * per.1));
        assert_eq!(out.len(), examples * self.rows() * hidden);
        let (out, kept) = (Parts::new(out), kept.map(Parts::new));
        for_shares(examples, |range| {
            let part = |per: usize| range.start * per..range.end * per;
            let mut state = Scratch::new(range.len() * per.1);
            state.copy_from_slice(&first[part(per.1)]);
            T::dispatch(Walk {
                sizes: Self { examples: range.len(), ..*self },
                weights,
                from_input: &from_input[part(per.0)],
                state: &mut state,
                // SAFETY: ranges of examples do not overlap.
                kept: kept.as_ref().map(|kept| unsafe { kept.get(part(per.2)) }),
                // SAFETY: as above.
                out: unsafe { out.get(part(self.rows() * hidden)) },
            });
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
        let &Self { examples, steps, hidden, .. } = self;
        let (gates, states) = (steps * self.width(), self.cell.states() * hidden);
        let (rows, kept_len) = (self.rows() * hidden, steps * self.cell.kept() * hidden);
        let (mut from_hidden, mut d_state) = (Vec::new(), Vec::new());
        let weight = Panels::new(self.weights(weight));
        let from_input = written(examples * gates, |d_input| {
            from_hidden = written(examples * gates, |d_hidden| {
                d_state = written(examples * states, |d_state| {
                    let (d_input, d_hidden, d_state) = (Parts::new(d_input), Parts::new(d_hidden), Parts::new(d_state));
                    for_shares(examples, |range| {
                        let part = |per: usize| range.start * per..range.end * per;
                        // SAFETY: ranges of examples do not overlap.
                        let (from_input, from_hidden, state) =
                            unsafe { (d_input.get(part(gates)), d_hidden.get(part(gates)), d_state.get(part(states))) };
                        T::dispatch(WalkBack {
                            sizes: Self { examples: range.len(), ..*self },
                            weight: &weight,
                            first: &first[part(states)],
                            out: &out[part(rows)],
                            kept: &kept[part(kept_len)],
                            dy: &dy[part(rows)],
                            state,
                            from_input,
                            from_hidden,
                        });
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

/// All steps of some examples on one thread.
struct Walk<'a, T> {
    sizes: Recurrence,
    weights: &'a Hidden<T>,
    from_input: &'a [T],
    /// The first state; becomes the last.
    state: &'a mut [T],
    kept: Option<&'a mut [T]>,
    out: &'a mut [T],
}

impl<T: Real> Kernel<T> for Walk<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<T>>(self, simd: S) {
        let Self { sizes, weights, from_input, state, mut kept, out } = self;
        let Recurrence { cell, examples, steps, hidden, .. } = sizes;
        let (width, states, kept_len) = (sizes.width(), cell.states() * hidden, cell.kept() * hidden);
        let mut products = Scratch::new(examples * width);
        let mut forgotten = Scratch::new(kept_len);
        for step in sizes.order() {
            weights.panels.multiply(simd, examples, state, states, &mut products);
            for example in 0..examples {
                let state = &mut state[example * states..][..states];
                let at = example * steps + step;
                let kept = match &mut kept {
                    Some(kept) => &mut kept[at * kept_len..][..kept_len],
                    None => &mut *forgotten,
                };
                let (from_input, from_hidden) =
                    (&from_input[at * width..][..width], &products[example * width..][..width]);
                Step { cell, from_input, from_hidden, bias: &weights.bias, state, kept }.run();
                let row = (example * sizes.rows() + step) * hidden;
                out[row..][..hidden].copy_from_slice(&state[..hidden]);
            }
        }
        for example in (0..examples).filter(|_| cell == Cell::Lstm) {
            let row = (example * sizes.rows() + steps) * hidden;
            out[row..][..hidden].copy_from_slice(&state[example * states + hidden..][..hidden]);
        }
    }
}

/// All steps of some examples on one thread, backwards.
struct WalkBack<'a, T> {
    sizes: Recurrence,
    weight: &'a Panels<T>,
    first: &'a [T],
    out: &'a [T],
    kept: &'a [T],
    dy: &'a [T],
    /// Becomes the gradient of the first state.
    state: &'a mut [T],
    /// Become the gradients of what comes from the input, and from the hidden state.
    from_input: &'a mut [T],
    from_hidden: &'a mut [T],
}

impl<T: Real> Kernel<T> for WalkBack<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd<T>>(self, simd: S) {
        let Self { sizes, weight, first, out, kept, dy, state, from_input, from_hidden } = self;
        let Recurrence { cell, examples, steps, hidden, reverse } = sizes;
        let (width, states, kept_len) = (sizes.width(), cell.states() * hidden, cell.kept() * hidden);
        let row = |example: usize, row: usize| (example * sizes.rows() + row) * hidden;
        state.fill(T::ZERO);
        for example in (0..examples).filter(|_| cell == Cell::Lstm) {
            state[example * states + hidden..][..hidden].copy_from_slice(&dy[row(example, steps)..][..hidden]);
        }
        let mut through = Scratch::new(examples * hidden);
        for step in sizes.order().rev() {
            let earlier = if reverse { step + 1 } else { step.wrapping_sub(1) };
            for example in 0..examples {
                let before = match earlier < steps {
                    // Of what is kept of an LSTM the cell is the last.
                    true => (
                        &out[row(example, earlier)..],
                        &kept[((example * steps + earlier + 1) * kept_len).saturating_sub(hidden)..],
                    ),
                    false => (&first[example * states..], &first[(example + 1) * states - hidden..]),
                };
                let state = &mut state[example * states..][..states];
                add(&mut state[..hidden], &dy[row(example, step)..][..hidden]);
                let at = example * steps + step;
                StepBackward {
                    cell,
                    after: &out[row(example, step)..][..hidden],
                    before,
                    kept: &kept[at * kept_len..][..kept_len],
                    state,
                    from_input: &mut from_input[at * width..][..width],
                    from_hidden: &mut from_hidden[at * width..][..width],
                }
                .run();
            }
            weight.multiply(simd, examples, &from_hidden[step * width..], steps * width, &mut through);
            for (state, through) in state.chunks_exact_mut(states).zip(through.chunks_exact(hidden)) {
                add(&mut state[..hidden], through);
            }
        }
    }
}

#[inline(always)]
fn add<T: Real>(y: &mut [T], x: &[T]) {
    y.iter_mut().zip(x).for_each(|(y, &x)| *y += x);
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

    const CELLS: [Cell; 4] = [Cell::Tanh, Cell::Relu, Cell::Lstm, Cell::Gru];

    #[test]
    fn single_precision_agrees_with_double() {
        for cell in CELLS {
            let sizes = [(1, 1, 1, false), (5, 7, 19, true), (3, 4, 33, false), (1, 5, 64, false), (9, 3, 70, true)];
            for (examples, steps, hidden, reverse) in sizes {
                let sizes = Recurrence { cell, examples, steps, hidden, reverse };
                let (single, double) = (run::<f32>(&sizes), run::<f64>(&sizes));
                assert_eq!(single.len(), double.len());
                for (i, (a, b)) in single.into_iter().zip(double).enumerate() {
                    assert!((a - b).abs() <= 1e-5 * b.abs().max(1.0), "{sizes:?}, number {i}: {a} {b}");
                }
            }
        }
    }

    /// Threads have other numbers of examples, which go through other tiles.
    #[test]
    fn the_number_of_threads_changes_no_bit() {
        let name = "kernels::recurrence::tests::the_number_of_threads_changes_no_bit";
        crate::kernels::parallel::same_on_any_number_of_threads(name, || {
            let all = CELLS
                .into_iter()
                .flat_map(|cell| run::<f32>(&Recurrence { cell, examples: 9, steps: 4, hidden: 35, reverse: false }));
            all.map(|x| x as f32).collect()
        });
    }

    /// Weights packed for many batches give what the layer gives, for batches of one and of many.
    #[test]
    fn a_prepared_layer_gives_what_its_parts_give() {
        let numbers = |count: usize, pace: f32| (0..count).map(|i| (i as f32 * pace).sin() / 3.0).collect::<Vec<_>>();
        let inputs = 11;
        for (cell, hidden) in CELLS.into_iter().flat_map(|cell| [(cell, 20), (cell, 64)]) {
            let sizes = Recurrence { cell, examples: 1, steps: 6, hidden, reverse: false };
            let width = sizes.width();
            let (input, weight) = (numbers(width * inputs, 0.9), numbers(width * hidden, 0.7));
            let (input_bias, bias) = (numbers(width, 0.2), numbers(width, 0.4));
            let joined: Vec<f32> =
                weight.chunks(hidden).zip(&bias).flat_map(|(row, bias)| row.iter().chain([bias])).copied().collect();
            let prepared = Prepared::new(sizes, &input, input_bias.clone(), Hidden::new(&sizes, &weight, bias));
            for examples in [1, 7] {
                let sizes = Recurrence { examples, ..sizes };
                let x = numbers(examples * sizes.steps * inputs, 1.3);
                let mut from_input = vec![0.0; examples * sizes.steps * width];
                crate::kernels::gemm::affine(&x, &input, width, Some(&input_bias), false, &mut from_input);
                let first = vec![0.0; examples * cell.states() * hidden];
                let (expected, _) = sizes.forward(&from_input, &joined, &first, false);
                let mut y = vec![f32::NAN; examples * sizes.steps * hidden];
                prepared.forward(examples, &x, &mut y);
                let expected = expected.chunks(sizes.rows() * hidden).flat_map(|rows| &rows[..sizes.steps * hidden]);
                assert!(y.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5), "{cell:?} {hidden} {examples}");
            }
        }
    }
}
