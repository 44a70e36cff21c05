//! Recurrent layers.

use candle_core::{ModuleT, Tensor, Var};

use crate::error::{Error, Result};
use crate::nn::dropout::Dropout;
use crate::nn::init::Init;
use crate::nn::parameters::Scope;
use crate::ops::{self, Cell};
use crate::sizes;

/// One layer in one direction.
#[derive(Debug, Clone)]
pub(crate) struct Weights {
    pub(crate) input: Var,
    pub(crate) hidden: Var,
    pub(crate) input_bias: Var,
    pub(crate) hidden_bias: Var,
}

impl Weights {
    fn new(cell: Cell, input: usize, hidden: usize, suffix: &str, scope: &Scope) -> Result<Self> {
        let rows = cell.gates() * hidden;
        let init = Init::symmetric(1.0 / (hidden as f64).sqrt());
        let parameter = |name: &str, shape: &[usize]| scope.parameter(&format!("{name}_{suffix}"), shape, init);
        Ok(Self {
            input: parameter("weight_ih", &[rows, input])?,
            hidden: parameter("weight_hh", &[rows, hidden])?,
            input_bias: parameter("bias_ih", &[rows])?,
            hidden_bias: parameter("bias_hh", &[rows])?,
        })
    }

    /// Over a sequence `[N, T, in]` from `state`: `[N, H]`, with an LSTM's cell behind it `[N, 2 H]`.
    /// Returns `[N, T, H]` and the last state.
    fn run(&self, cell: Cell, xs: &Tensor, state: &Tensor, reverse: bool) -> Result<(Tensor, Tensor)> {
        let from_input = ops::linear(xs, &self.input, Some(&self.input_bias), false)?;
        ops::recurrence(cell, &from_input, (&self.hidden, &self.hidden_bias), state, reverse)
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Stack {
    pub(crate) cell: Cell,
    input: usize,
    pub(crate) hidden: usize,
    /// By layer: forwards, and backwards if bidirectional.
    pub(crate) layers: Vec<Vec<Weights>>,
    dropout: Option<Vec<Dropout>>,
}

/// What a recurrent layer gives.
#[derive(Debug, Clone)]
pub struct RecurrentOutput {
    /// The hidden state of the last layer at every step: `[N, T, H]`, `[N, T, 2H]` if bidirectional.
    pub output: Tensor,
    /// Every layer's hidden state after its last step: `[layers, N, H]`, or `[2 · layers, N, H]`.
    pub hidden: Tensor,
    /// An LSTM's cell state, shaped as `hidden`; of the others, the same as `hidden`.
    pub cell: Tensor,
}

impl Stack {
    /// The same layers with what `new` makes of each variable.
    pub(crate) fn with_weights(&self, new: impl Fn(&Var) -> Result<Var>) -> Result<Self> {
        let mut stack = self.clone();
        for weights in stack.layers.iter_mut().flatten() {
            let Weights { input, hidden, input_bias, hidden_bias } = weights;
            for var in [input, hidden, input_bias, hidden_bias] {
                *var = new(var)?;
            }
        }
        Ok(stack)
    }

    fn run(&self, xs: &Tensor, state: Option<&RecurrentOutput>, train: bool) -> Result<RecurrentOutput> {
        let &[examples, steps, features] = xs.dims() else {
            return Err(Error::argument("xs", "shape [N, T, features]", format!("{:?}", xs.dims())));
        };
        if features != self.input || steps == 0 {
            return Err(Error::argument("xs", format!("shape [N, T ≥ 1, {}]", self.input), format!("{:?}", xs.dims()))
                .hint("the batch comes first, then time, then features"));
        }
        let directions = self.layers[0].len();
        let expected = [self.layers.len() * directions, examples, self.hidden];
        if let Some(state) = state.filter(|state| state.hidden.dims() != expected || state.cell.dims() != expected) {
            return Err(Error::argument("state", format!("shape {expected:?}"), format!("{:?}", state.hidden.dims()))
                .hint("a state belongs to a layer and to the batch it was computed from"));
        }
        let zeros = Tensor::zeros((examples, self.cell.states() * self.hidden), xs.dtype(), xs.device())?;
        let mut xs = xs.clone();
        let (mut hiddens, mut cells) = (Vec::new(), Vec::new());
        for (index, layer) in self.layers.iter().enumerate() {
            let mut outputs = Vec::with_capacity(directions);
            for (direction, weights) in layer.iter().enumerate() {
                let at = index * directions + direction;
                let first = match state {
                    None => zeros.clone(),
                    Some(state) if self.cell == Cell::Lstm => {
                        Tensor::cat(&[state.hidden.get(at)?, state.cell.get(at)?], 1)?
                    }
                    Some(state) => state.hidden.get(at)?,
                };
                let (output, last) = weights.run(self.cell, &xs, &first, direction == 1)?;
                let parts = last.chunk(self.cell.states(), 1)?;
                outputs.push(output);
                hiddens.push(parts[0].clone());
                cells.push(parts[parts.len() - 1].clone());
            }
            xs = Tensor::cat(&outputs, 2)?;
            if let Some(dropout) = self.dropout.as_ref().and_then(|layers| layers.get(index)) {
                xs = dropout.forward_t(&xs, train)?;
            }
        }
        // One alone needs no copy.
        let stacked = |states: &[Tensor]| match states {
            [state] => state.unsqueeze(0),
            states => Tensor::stack(states, 0),
        };
        Ok(RecurrentOutput { output: xs, hidden: stacked(&hiddens)?, cell: stacked(&cells)? })
    }
}

/// Configures a recurrent layer.
#[derive(Debug, Clone, Copy)]
struct Settings {
    input: usize,
    hidden: usize,
    layers: usize,
    bidirectional: bool,
    dropout: f64,
}

impl Settings {
    fn build(self, cell: Cell, scope: &Scope) -> Result<Stack> {
        for (name, size) in [("input_size", self.input), ("hidden_size", self.hidden), ("layers", self.layers)] {
            if size == 0 {
                return Err(Error::argument(name, "at least 1", 0));
            }
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(Error::argument("dropout", "a probability in [0, 1)", self.dropout)
                .hint("it is the share that is dropped, not kept"));
        }
        if self.dropout > 0.0 && self.layers == 1 {
            return Err(Error::argument("dropout", "0 for a single layer: it stands between layers", self.dropout));
        }
        // Before the first parameter is made: of many layers all but the last would fit.
        let rows = sizes::product("layers", &[self.layers, 8, self.hidden])?;
        sizes::count_of::<f64>("input_size, hidden_size", &[rows, self.hidden.max(self.input)])?;
        let directions: &[&str] = if self.bidirectional { &["", "_reverse"] } else { &[""] };
        let layers = (0..self.layers)
            .map(|layer| {
                let input = if layer == 0 { self.input } else { self.hidden * directions.len() };
                directions
                    .iter()
                    .map(|direction| Weights::new(cell, input, self.hidden, &format!("l{layer}{direction}"), scope))
                    .collect()
            })
            .collect::<Result<_>>()?;
        let dropout = (self.dropout > 0.0)
            .then(|| {
                (1..self.layers)
                    .map(|layer| Dropout::new(self.dropout, &scope.at(format!("dropout_l{}", layer - 1))))
                    .collect()
            })
            .transpose()?;
        Ok(Stack { cell, input: self.input, hidden: self.hidden, layers, dropout })
    }
}

macro_rules! recurrent {
    ($(#[$docs:meta])* $layer:ident, $builder:ident, $cell:expr) => {
        $(#[$docs])*
        #[derive(Debug, Clone)]
        pub struct $layer(pub(crate) Stack);

        #[doc = concat!("Configures [`", stringify!($layer), "`].")]
        #[derive(Debug, Clone, Copy)]
        pub struct $builder {
            settings: Settings,
            cell: Cell,
        }

        impl $layer {
            /// One layer, forwards, its parameters in `scope`.
            ///
            /// # Errors
            /// If a size is 0, or a parameter's name is taken.
            pub fn new(input_size: usize, hidden_size: usize, scope: &Scope) -> Result<Self> {
                Self::builder(input_size, hidden_size).build(scope)
            }

            /// One layer, forwards, unless told otherwise.
            pub fn builder(input_size: usize, hidden_size: usize) -> $builder {
                $builder {
                    settings: Settings {
                        input: input_size,
                        hidden: hidden_size,
                        layers: 1,
                        bidirectional: false,
                        dropout: 0.0,
                    },
                    cell: $cell,
                }
            }

            /// `xs`: `[N, T, input]`. Begins with `state`, the output of a call before, or with
            /// zeros.
            ///
            /// # Errors
            /// If shapes do not fit.
            pub fn run(&self, xs: &Tensor, state: Option<&RecurrentOutput>, train: bool) -> Result<RecurrentOutput> {
                self.0.run(xs, state, train)
            }
        }

        impl $builder {
            /// How many layers, one on the other (default 1).
            #[must_use]
            pub fn layers(mut self, layers: usize) -> Self {
                self.settings.layers = layers;
                self
            }

            /// A second set of layers that goes backwards in time (default off).
            #[must_use]
            pub fn bidirectional(mut self, bidirectional: bool) -> Self {
                self.settings.bidirectional = bidirectional;
                self
            }

            /// Dropout between layers (default 0).
            #[must_use]
            pub fn dropout(mut self, p: f64) -> Self {
                self.settings.dropout = p;
                self
            }

            /// The layer, its parameters in `scope`.
            ///
            /// # Errors
            /// If a size is 0, the dropout is not in `[0, 1)`, there is dropout but one layer, or a
            /// parameter's name is taken.
            pub fn build(self, scope: &Scope) -> Result<$layer> {
                Ok($layer(self.settings.build(self.cell, scope)?))
            }
        }

        impl ModuleT for $layer {
            /// `xs`: `[N, T, input]` → the hidden state of the last layer at every step.
            fn forward_t(&self, xs: &Tensor, train: bool) -> candle_core::Result<Tensor> {
                Ok(self.0.run(xs, None, train)?.output)
            }
        }
    };
}

recurrent! {
    /// The plain recurrent layer, h' = tanh(W_ih x + b_ih + W_hh h + b_hh), as `torch.nn.RNN` with
    /// `batch_first=True`. Elman 1990, "Finding Structure in Time".
    ///
    /// Parameters, for layer k: `weight_ih_lk`: `[H, in]`; `weight_hh_lk`: `[H, H]`; `bias_ih_lk`,
    /// `bias_hh_lk`: `[H]`; backwards with `_reverse` at the end; all uniform in ±1/√H at first.
    ///
    /// # Examples
    ///
    /// ```
    /// use candle_course::prelude::*;
    ///
    /// let parameters = Parameters::new(0, &Device::Cpu);
    /// let layer = Rnn::new(3, 8, &parameters.at("rnn"))?;
    /// let xs = Tensor::ones((2, 5, 3), DType::F32, &Device::Cpu)?;
    /// assert_eq!(layer.run(&xs, None, true)?.hidden.dims(), [1, 2, 8]);
    /// # Ok::<(), candle_course::Error>(())
    /// ```
    Rnn, RnnBuilder, Cell::Tanh
}

recurrent! {
    /// Long short-term memory, as `torch.nn.LSTM` with `batch_first=True`. Hochreiter &
    /// Schmidhuber 1997, "Long Short-Term Memory"; forget gate: Gers et al. 2000.
    ///
    /// i, f, o = σ(…), g = tanh(…) of W_ih x + b_ih + W_hh h + b_hh; c' = f c + i g;
    /// h' = o tanh(c'). Parameters as [`Rnn`]'s, with the rows of i, f, g, o in turn: `[4H, …]`.
    ///
    /// # Examples
    ///
    /// ```
    /// use candle_course::prelude::*;
    ///
    /// let parameters = Parameters::new(0, &Device::Cpu);
    /// let layer = Lstm::builder(3, 8).layers(2).dropout(0.2).build(&parameters.at("lstm"))?;
    /// let xs = Tensor::ones((2, 5, 3), DType::F32, &Device::Cpu)?;
    /// assert_eq!(layer.run(&xs, None, true)?.output.dims(), [2, 5, 8]);
    /// # Ok::<(), candle_course::Error>(())
    /// ```
    Lstm, LstmBuilder, Cell::Lstm
}

recurrent! {
    /// Gated recurrent unit, as `torch.nn.GRU` with `batch_first=True`. Cho et al. 2014, "Learning
    /// Phrase Representations using RNN Encoder-Decoder".
    ///
    /// r, z = σ(W_ih x + b_ih + W_hh h + b_hh); n = tanh(W_in x + b_in + r (W_hn h + b_hn));
    /// h' = (1 − z) n + z h. Parameters as [`Rnn`]'s, with the rows of r, z, n in turn: `[3H, …]`.
    ///
    /// # Examples
    ///
    /// ```
    /// use candle_course::prelude::*;
    ///
    /// let parameters = Parameters::new(0, &Device::Cpu);
    /// let layer = Gru::builder(3, 8).bidirectional(true).build(&parameters.at("gru"))?;
    /// let xs = Tensor::ones((2, 5, 3), DType::F32, &Device::Cpu)?;
    /// assert_eq!(layer.run(&xs, None, true)?.output.dims(), [2, 5, 16]);
    /// # Ok::<(), candle_course::Error>(())
    /// ```
    Gru, GruBuilder, Cell::Gru
}

impl RnnBuilder {
    /// max(x, 0) instead of tanh.
    #[must_use]
    pub fn relu(mut self) -> Self {
        self.cell = Cell::Relu;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::{GroupNorm, Parameters};
    use crate::ops::reference_tests;
    use crate::stateful::Stateful;
    use crate::test_support::{data, device};
    use candle_core::{DType, Module};
    use std::collections::BTreeMap;

    fn reference(case: &str) -> BTreeMap<String, Tensor> {
        let tensors = candle_core::safetensors::load(data("nn/recurrent.safetensors"), device()).unwrap();
        let prefix = format!("{case}/");
        tensors
            .into_iter()
            .filter_map(|(name, tensor)| Some((name.strip_prefix(&prefix)?.to_owned(), tensor)))
            .collect()
    }

    fn state_dict(reference: &BTreeMap<String, Tensor>) -> BTreeMap<String, Tensor> {
        let own = |(name, tensor): (&String, &Tensor)| Some((name.strip_prefix("state.")?.to_owned(), tensor.clone()));
        reference.iter().filter_map(own).collect()
    }

    fn assert_close(got: &Tensor, expected: &Tensor, what: &str) {
        assert_eq!(got.dims(), expected.dims(), "{what}");
        let difference = (got - expected).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f64>().unwrap();
        assert!(difference < 1e-10, "{what}: {difference}");
    }

    /// Parameter gradients and the input's.
    fn check_gradients(
        loss: &Tensor,
        parameters: &Parameters,
        xs: &Var,
        reference: &BTreeMap<String, Tensor>,
        what: &str,
    ) {
        let gradients = loss.backward().unwrap();
        for (name, var) in parameters.trainable() {
            let expected = &reference[&format!("gradient.{name}")];
            assert_close(gradients.get(&var).unwrap(), expected, &format!("{what}, gradient of {name}"));
        }
        assert_close(gradients.get(xs).unwrap(), &reference["gradient.xs"], &format!("{what}, gradient of xs"));
    }

    #[test]
    fn values_and_gradients_agree_with_pytorch() {
        for case in ["rnn", "rnn_relu", "lstm", "gru", "lstm_deep", "gru_deep"] {
            let reference = reference(case);
            let mut parameters = Parameters::with_dtype(0, DType::F64, device());
            let (scope, deep) = (parameters.root(), case.ends_with("deep"));
            let (layers, both) = if deep { (2, true) } else { (1, false) };
            let run: Box<dyn Fn(&Tensor) -> Result<RecurrentOutput>> = match case.split('_').next() {
                Some("lstm") => {
                    let layer = Lstm::builder(3, 4).layers(layers).bidirectional(both).build(&scope).unwrap();
                    Box::new(move |xs| layer.run(xs, None, true))
                }
                Some("gru") => {
                    let layer = Gru::builder(3, 4).layers(layers).bidirectional(both).build(&scope).unwrap();
                    Box::new(move |xs| layer.run(xs, None, true))
                }
                _ => {
                    let builder = Rnn::builder(3, 4);
                    let layer = if case == "rnn_relu" { builder.relu() } else { builder }.build(&scope).unwrap();
                    Box::new(move |xs| layer.run(xs, None, true))
                }
            };
            parameters.load_state(&state_dict(&reference)).unwrap();
            let xs = Var::from_tensor(&reference["xs"]).unwrap();
            let got = run(&xs).unwrap();
            assert_close(&got.output, &reference["output"], case);
            assert_close(&got.hidden, &reference["hidden"], case);
            if let Some(cell) = reference.get("cell") {
                assert_close(&got.cell, cell, case);
            }
            let loss = (got.output * &reference["weights"]).unwrap().sum_all().unwrap();
            check_gradients(&loss, &parameters, &xs, &reference, case);
        }
    }

    /// Value and all gradients of a stored case of this layer, on both roads.
    fn check_stored(op: &str) {
        let mut count = 0;
        for stored in reference_tests::stored(op) {
            let case = &stored.case;
            let what = format!("{op} {:?} {}", case.shapes, case.options);
            let [layers, directions] =
                ["layers", "directions"].map(|name| case.options[name].as_u64().unwrap() as usize);
            let inputs: Vec<Var> = reference_tests::variables(case, DType::F64);
            let mut parameters = Parameters::with_dtype(0, DType::F64, device());
            let scope = parameters.root();
            let (features, hidden, both) = (inputs[0].dims()[2], inputs[2].dims()[1], directions == 2);
            macro_rules! build {
                ($builder:expr) => {
                    $builder.layers(layers).bidirectional(both).build(&scope).unwrap().0
                };
            }
            let layer: Stack = match op {
                "rnn_tanh" => build!(Rnn::builder(features, hidden)),
                "rnn_relu" => build!(Rnn::builder(features, hidden).relu()),
                "lstm" => build!(Lstm::builder(features, hidden)),
                _ => build!(Gru::builder(features, hidden)),
            };
            let kinds = ["weight_ih", "weight_hh", "bias_ih", "bias_hh"];
            let names: Vec<String> = (0..4 * layers * directions)
                .map(|i| {
                    let direction = if i / 4 % directions == 1 { "_reverse" } else { "" };
                    format!("{}_l{}{direction}", kinds[i % 4], i / 4 / directions)
                })
                .collect();
            let values = names.iter().zip(&inputs[1..]).map(|(name, var)| (name.clone(), var.as_detached_tensor()));
            parameters.load_state(&values.collect()).unwrap();
            let trainable: BTreeMap<String, Var> = parameters.trainable().into_iter().collect();
            let (xs, states) = (&inputs[0], &inputs[1 + names.len()..]);
            let first = states[0].as_tensor().clone();
            let cell = states.last().unwrap().as_tensor().clone();
            let state = RecurrentOutput { output: first.clone(), hidden: first, cell };
            let run = || {
                let got = layer.run(xs, Some(&state), true).unwrap();
                let mut parts = vec![got.output, got.hidden];
                parts.extend((op == "lstm").then_some(got.cell));
                let parts: Vec<Tensor> = parts.iter().map(|part| part.flatten_all().unwrap()).collect();
                let y = Tensor::cat(&parts, 0).unwrap();
                let gradients = reference_tests::gradients(case, &y);
                let wanted = [xs].into_iter().chain(names.iter().map(|name| &trainable[name])).chain(states);
                let mut all = vec![y];
                all.extend(wanted.map(|var| gradients.get(var).unwrap().flatten_all().unwrap()));
                Tensor::cat(&all, 0).unwrap().to_vec1::<f64>().unwrap()
            };
            reference_tests::assert_close(&what, &run(), &stored.results, 1e-6);
            reference_tests::assert_close(&what, &reference_tests::composed(run), &stored.results, 1e-6);
            count += 1;
        }
        assert!(count >= 20, "{op}: {count} cases");
    }

    #[test]
    fn many_shapes_agree_with_pytorch() {
        ["rnn_tanh", "rnn_relu", "lstm", "gru"].into_iter().for_each(check_stored);
    }

    #[test]
    fn group_norm_agrees_with_pytorch() {
        let reference = reference("group_norm");
        let mut parameters = Parameters::with_dtype(0, DType::F64, device());
        let norm = GroupNorm::new(2, 4, &parameters.root()).unwrap();
        parameters.load_state(&state_dict(&reference)).unwrap();
        let xs = Var::from_tensor(&reference["xs"]).unwrap();
        let ys = norm.forward(&xs).unwrap();
        assert_close(&ys, &reference["output"], "group norm");
        let loss = (ys * &reference["weights"]).unwrap().sum_all().unwrap();
        check_gradients(&loss, &parameters, &xs, &reference, "group norm");
        assert!(GroupNorm::new(3, 4, &parameters.at("other")).unwrap_err().to_string().contains("a divisor of the 4"));
    }

    #[test]
    fn a_sequence_can_be_run_in_two_parts() {
        let parameters = Parameters::with_dtype(5, DType::F64, device());
        let layer = Lstm::builder(3, 4).layers(2).build(&parameters.root()).unwrap();
        let xs = reference("lstm")["xs"].clone();
        let whole = layer.run(&xs, None, false).unwrap();
        let first = layer.run(&xs.narrow(1, 0, 2).unwrap(), None, false).unwrap();
        let second = layer.run(&xs.narrow(1, 2, 3).unwrap(), Some(&first), false).unwrap();
        assert_close(&second.hidden, &whole.hidden, "hidden");
        assert_close(&Tensor::cat(&[&first.output, &second.output], 1).unwrap(), &whole.output, "output");
    }

    #[test]
    fn dropout_stands_between_layers_and_only_in_training() {
        let parameters = Parameters::new(5, device());
        let layer = Gru::builder(3, 4).layers(3).dropout(0.5).build(&parameters.root()).unwrap();
        assert_eq!(parameters.generators().len(), 2);
        let xs = Tensor::ones((2, 5, 3), DType::F32, device()).unwrap();
        let run = |train| layer.forward_t(&xs, train).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(run(false), run(false));
        assert_ne!(run(true), run(true));
        assert!(Gru::builder(3, 4).dropout(0.5).build(&parameters.at("one")).is_err());
        for p in [-0.5, 1.0, f64::NAN] {
            let text = Gru::builder(3, 4).layers(2).dropout(p).build(&parameters.at("none")).unwrap_err().to_string();
            assert!(text.contains("`dropout`: expected a probability in [0, 1)"), "{text}");
        }
        let text = layer.forward_t(&xs.narrow(2, 0, 2).unwrap(), true).unwrap_err().to_string();
        assert!(text.contains("shape [N, T ≥ 1, 3]"), "{text}");
    }
}
