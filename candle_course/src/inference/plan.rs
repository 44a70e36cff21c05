//! From a model's parts to steps over buffers.

use std::collections::HashMap;

use candle_core::Tensor;

use super::operation::Operation;
use crate::error::{Error, Result};
use crate::kernels::gemm::Matrix;
use crate::kernels::norm::{self, Statistics};
use crate::kernels::panels::Panels;
use crate::kernels::pool::{Adaptive, Sliding};
use crate::kernels::recurrence::{self, Hidden, Recurrence};
use crate::kernels::{Scattered, conv};
use crate::nn::rnn::Stack;
use crate::nn::{BatchNorm, Conv2d, ConvTranspose2d, Linear};
use crate::onnx::fold::folded;
use crate::onnx::parts::{Kind, Parts, Recorded};
use crate::ops;

/// Where a step finds an input.
#[derive(Clone, Copy)]
enum Place {
    Input,
    Buffer(usize),
}

/// One operation: what it reads, with how many numbers per example, and where it writes how many.
pub(super) struct Step {
    operation: Operation,
    inputs: Vec<(Place, usize)>,
    to: usize,
    len: usize,
}

/// The steps of a model.
pub(super) struct Plan {
    pub steps: Vec<Step>,
    /// Behind the batch.
    pub input_dims: Vec<usize>,
    pub output_dims: Vec<usize>,
    /// The buffer with the output.
    pub output: usize,
    /// Numbers of each buffer per example.
    pub sizes: Vec<usize>,
}

/// The input's number among the values that steps read and write; step `i` writes value `i + 1`.
const INPUT: usize = 0;

/// A step before its weights are packed and its place is known.
struct Draft {
    made: Made,
    inputs: Vec<usize>,
    /// Of what it writes, behind the batch.
    dims: Vec<usize>,
    /// Whether one part alone reads what it writes.
    sole: bool,
}

enum Made {
    /// A convolution or a linear layer, into which a batch norm may go.
    Weighted {
        weight: Vec<f32>,
        bias: Option<Vec<f32>>,
        relu: bool,
        of: Weighted,
    },
    Operation(Operation),
}

enum Weighted {
    Convolution(conv::Geometry),
    Linear,
}

impl Draft {
    /// Takes the batch norm behind it into its weight, if it can.
    fn take_norm(&mut self, batch_norm: &BatchNorm, dims: &[usize]) -> Result<bool> {
        let Made::Weighted { weight, bias, relu: relu @ false, of } = &mut self.made else { return Ok(false) };
        // A linear layer's channels come last, a norm's first.
        if self.dims != dims || (matches!(of, Weighted::Linear) && dims.len() > 1) {
            return Ok(false);
        }
        let (new_weight, new_bias) = folded(weight, bias.as_deref(), &constants(batch_norm)?, batch_norm.epsilon);
        let rounded = |values: Vec<f64>| values.into_iter().map(|value| value as f32).collect();
        (*weight, *bias, *relu) = (rounded(new_weight), Some(rounded(new_bias)), batch_norm.relu);
        Ok(true)
    }

    fn take_relu(&mut self) -> bool {
        match &mut self.made {
            Made::Weighted { relu, .. } => *relu = true,
            Made::Operation(operation) => return operation.take_relu(),
        }
        true
    }

    /// Packs the weight.
    fn operation(self) -> Operation {
        match self.made {
            Made::Operation(operation) => operation,
            Made::Weighted { weight, bias, relu, of: Weighted::Convolution(geometry) } => {
                Operation::Convolution(conv::Prepared::new(&geometry, &weight, bias, relu))
            }
            Made::Weighted { weight, bias, relu, of: Weighted::Linear } => {
                let outputs = self.dims[self.dims.len() - 1];
                let matrix = Matrix::new(&weight, outputs, weight.len() / outputs);
                Operation::Linear { weight: Panels::new(matrix.t()), bias, relu }
            }
        }
    }
}

/// γ, β, μ and σ² of a batch norm.
fn constants(norm: &BatchNorm) -> Result<[Vec<f32>; 4]> {
    let (mean, variance) = (numbers(&norm.running_mean)?, numbers(&norm.running_var)?);
    let (gamma, beta) = match &norm.affine {
        Some((weight, bias)) => (numbers(weight)?, numbers(bias)?),
        None => (vec![1.0; mean.len()], vec![0.0; mean.len()]),
    };
    Ok([gamma, beta, mean, variance])
}

fn numbers(tensor: &Tensor) -> Result<Vec<f32>> {
    Ok(tensor.flatten_all()?.to_vec1()?)
}

fn optional(tensor: Option<&candle_core::Var>) -> Result<Option<Vec<f32>>> {
    tensor.map(|tensor| numbers(tensor)).transpose()
}

/// What a model's parts become, one behind the other.
struct Drafts {
    drafts: Vec<Draft>,
    /// What the names of the parts' values stand for.
    values: HashMap<String, usize>,
    /// How many parts read each name.
    listeners: HashMap<String, usize>,
}

impl Drafts {
    fn new(parts: &Parts) -> Self {
        let mut listeners: HashMap<String, usize> = HashMap::new();
        let inputs = parts.recorded.iter().flat_map(|part| &part.inputs);
        for value in inputs.chain([&parts.output]) {
            *listeners.entry(value.name().to_owned()).or_default() += 1;
        }
        let values = HashMap::from([(parts.input.name().to_owned(), INPUT)]);
        Self { drafts: Vec::new(), values, listeners }
    }

    fn value(&self, name: &str) -> Result<usize> {
        let value = self.values.get(name).copied();
        value.ok_or_else(|| Error::argument("model", "parts that read what was made before", format!("`{name}`")))
    }

    /// The draft of what is called `name`, if one part alone reads it.
    fn sole(&mut self, name: &str) -> Result<Option<&mut Draft>> {
        let value = self.value(name)?;
        let alone = self.listeners.get(name) == Some(&1);
        Ok(value.checked_sub(1).map(|index| &mut self.drafts[index]).filter(|draft| alone && draft.sole))
    }

    fn add(&mut self, part: Recorded) -> Result<()> {
        let (input, output) = (part.inputs[0].name(), part.output.name());
        let taken = match &part.kind {
            Kind::Norm(norm) => {
                let dims = &part.inputs[0].dims()[1..];
                self.sole(input)?.map_or(Ok(false), |draft| draft.take_norm(norm, dims))?
            }
            Kind::Relu => self.sole(input)?.is_some_and(Draft::take_relu),
            Kind::Flatten | Kind::Nothing => {
                let alone = self.sole(input)?.is_some();
                if let Some(index) = self.value(input)?.checked_sub(1) {
                    self.drafts[index].sole = alone;
                }
                true
            }
            _ => false,
        };
        let value = if taken {
            self.value(input)?
        } else {
            let inputs = part.inputs.iter().map(|input| self.value(input.name())).collect::<Result<_>>()?;
            let dims = part.output.dims()[1..].to_vec();
            self.drafts.push(Draft { inputs, dims, sole: true, made: made(&part)? });
            self.drafts.len()
        };
        self.values.insert(output.to_owned(), value);
        Ok(())
    }
}

fn made(part: &Recorded) -> Result<Made> {
    let example = part.inputs[0].example();
    let dims = example.dims();
    Ok(Made::Operation(match &part.kind {
        Kind::Convolution(layer) => return convolution(layer, example),
        Kind::Linear(Linear { weight, bias, relu }) => {
            let (weight, bias) = (numbers(weight)?, optional(bias.as_ref())?);
            return Ok(Made::Weighted { weight, bias, relu: *relu, of: Weighted::Linear });
        }
        Kind::Transposed(layer) => transposed(layer, example)?,
        Kind::Recurrent(stack) => recurrent(stack, dims)?,
        Kind::Norm(batch_norm) => {
            let [gamma, beta, mean, variance] = constants(batch_norm)?;
            let wide = |values: Vec<f32>| values.into_iter().map(f64::from).collect();
            let statistics = Statistics { mean: wide(mean), variance: wide(variance) };
            let channels = norm::channels(&statistics, batch_norm.epsilon, Some(&gamma), Some(&beta));
            Operation::Norm { channels, plane: dims[2..].iter().product(), relu: batch_norm.relu }
        }
        Kind::MaxPool(options) => Operation::MaxPool(ops::pool::geometry(example, options)?),
        Kind::AveragePool(options) => Operation::AveragePool(Sliding {
            geometry: ops::pool::geometry(example, options)?,
            count_include_pad: options.count_include_pad,
        }),
        Kind::AdaptiveAverage(output) => {
            Operation::AdaptiveAverage(Adaptive { input: (dims[2], dims[3]), output: *output })
        }
        Kind::Relu => Operation::Relu,
        Kind::Add => Operation::Add { relu: false },
        Kind::Concat(dimension) => {
            Operation::Concat(part.inputs.iter().map(|input| input.dims()[*dimension..].iter().product()).collect())
        }
        Kind::Select { dimension, index } => {
            let len = dims[dimension + 1..].iter().product();
            Operation::Select { block: dims[*dimension] * len, from: index * len, len }
        }
        Kind::Layer(layer) => Operation::Layer { layer: layer.clone(), dims: dims[1..].to_vec() },
        Kind::Flatten | Kind::Nothing => Operation::Copy,
    }))
}

fn convolution(layer: &Conv2d, example: &Tensor) -> Result<Made> {
    let geometry = ops::conv2d::geometry(example, &layer.weight, &layer.options)?;
    let (weight, bias) = (numbers(&layer.weight)?, optional(layer.bias.as_ref())?);
    Ok(Made::Weighted { weight, bias, relu: layer.options.relu, of: Weighted::Convolution(geometry) })
}

/// A single layer, forwards.
fn recurrent(stack: &Stack, dims: &[usize]) -> Result<Operation> {
    let (weights, steps, reverse) = (&stack.layers[0][0], dims[1], false);
    let sizes = Recurrence { cell: stack.cell, examples: dims[0], steps, hidden: stack.hidden, reverse };
    let hidden = Hidden::new(&sizes, &numbers(&weights.hidden)?, numbers(&weights.hidden_bias)?);
    let (input, bias) = (numbers(&weights.input)?, numbers(&weights.input_bias)?);
    Ok(Operation::Recurrent(recurrence::Prepared::new(sizes, &input, bias, hidden)))
}

fn transposed(layer: &ConvTranspose2d, example: &Tensor) -> Result<Operation> {
    let geometry = ops::conv_transpose2d::geometry(example, &layer.weight, &layer.options)?;
    let (weight, bias) = (numbers(&layer.weight)?, optional(layer.bias.as_ref())?);
    Ok(Operation::Transposed { geometry, weight: Scattered::new(&geometry, &weight), bias })
}

/// Which buffers are in use, and how many numbers per example each has.
#[derive(Default)]
struct Buffers {
    sizes: Vec<usize>,
    free: Vec<usize>,
}

impl Buffers {
    /// The free buffer that fits best, or a new one.
    fn take(&mut self, len: usize) -> usize {
        // The smallest that is large enough, else the largest.
        let best = (0..self.free.len()).min_by_key(|&i| {
            let size = self.sizes[self.free[i]];
            (size < len, if size < len { usize::MAX - size } else { size })
        });
        let Some(best) = best else {
            self.sizes.push(len);
            return self.sizes.len() - 1;
        };
        let buffer = self.free.swap_remove(best);
        self.sizes[buffer] = self.sizes[buffer].max(len);
        buffer
    }
}

impl Plan {
    pub fn new(parts: Parts) -> Result<Self> {
        let batch = parts.input.dims()[0];
        let behind_batch = |value: &crate::onnx::Value| match value.dims() {
            [first, rest @ ..] if *first == batch => Ok(rest.to_vec()),
            dims => {
                Err(Error::argument("model", format!("{batch} examples in every value"), format!("shape {dims:?}"))
                    .hint("the first dimension is the batch's, from the input to the output"))
            }
        };
        let input_dims = behind_batch(&parts.input)?;
        let output_dims = behind_batch(&parts.output)?;
        let mut drafts = Drafts::new(&parts);
        for part in parts.recorded {
            behind_batch(&part.output)?;
            drafts.add(part)?;
        }
        let mut last = drafts.value(parts.output.name())?;
        let mut drafts = drafts.drafts;
        if last == INPUT {
            let made = Made::Operation(Operation::Copy);
            drafts.push(Draft { made, inputs: vec![INPUT], dims: input_dims.clone(), sole: true });
            last = drafts.len();
        }
        let (steps, sizes, output) = placed(drafts, input_dims.iter().product(), last);
        Ok(Self { steps, input_dims, output_dims, output, sizes })
    }

    /// Computes all steps for a batch. The buffers must be large enough.
    pub fn run(&self, xs: &[f32], batch: usize, buffers: &mut [Vec<f32>]) -> Result<()> {
        for step in &self.steps {
            let mut to = std::mem::take(&mut buffers[step.to]);
            let y = &mut to[..batch * step.len];
            if cfg!(debug_assertions) {
                y.fill(f32::NAN); // what is not written shows
            }
            let input = |i: usize| match step.inputs[i] {
                (Place::Input, len) => &xs[..batch * len],
                (Place::Buffer(buffer), len) => &buffers[buffer][..batch * len],
            };
            let done = step.operation.run(batch, input, y);
            buffers[step.to] = to;
            done?;
        }
        Ok(())
    }
}

/// Gives every draft a buffer, which is free again when the last step that reads it is over. Returns the steps, the
/// buffers' sizes, and the buffer of the value `last`.
fn placed(drafts: Vec<Draft>, input_len: usize, last: usize) -> (Vec<Step>, Vec<usize>, usize) {
    let mut last_use: Vec<usize> = (0..=drafts.len()).map(|value| value.saturating_sub(1)).collect();
    for (step, draft) in drafts.iter().enumerate() {
        draft.inputs.iter().for_each(|&value| last_use[value] = step);
    }
    last_use[last] = drafts.len();
    let lens: Vec<usize> = drafts.iter().map(|draft| draft.dims.iter().product()).collect();
    let (mut buffers, mut place_of) = (Buffers::default(), vec![usize::MAX]);
    let mut steps = Vec::with_capacity(drafts.len());
    for (index, draft) in drafts.into_iter().enumerate() {
        let to = buffers.take(lens[index]);
        place_of.push(to);
        let place = |&value: &usize| match value {
            INPUT => (Place::Input, input_len),
            value => (Place::Buffer(place_of[value]), lens[value - 1]),
        };
        let inputs = draft.inputs.iter().map(place).collect();
        let free = (1..=index + 1).filter(|&value| last_use[value] == index).map(|value| place_of[value]);
        buffers.free.extend(free);
        steps.push(Step { operation: draft.operation(), inputs, to, len: lens[index] });
    }
    (steps, buffers.sizes, place_of[last])
}
