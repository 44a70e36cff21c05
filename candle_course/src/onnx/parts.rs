//! A model taken apart: the walk of an export, for what prepares models.

use std::any::Any;
use std::sync::Arc;

use candle_core::{Tensor, Var};

pub(crate) use super::graph::Caster;
use super::graph::{Graph, Value};
use super::{ToOnnx, standard_casters};
use crate::error::{Error, Result};
use crate::nn::rnn::Stack;
use crate::nn::{BatchNorm, Conv2d, ConvTranspose2d, Linear, Model, Parameters};
use crate::ops::{Pool2dOptions, no_grad};

/// What a layer of this crate is.
pub struct Part(pub(crate) Kind);

/// What is done to the inputs of a part.
pub(crate) enum Kind {
    Convolution(Conv2d),
    Transposed(ConvTranspose2d),
    Linear(Linear),
    Norm(BatchNorm),
    /// One layer, forwards.
    Recurrent(Stack),
    MaxPool(Pool2dOptions),
    AveragePool(Pool2dOptions),
    /// Rows and columns of means.
    AdaptiveAverage((usize, usize)),
    Relu,
    Add,
    /// Along a dimension.
    Concat(usize),
    /// One place of a dimension.
    Select {
        dimension: usize,
        index: usize,
    },
    /// Another shape for the same numbers.
    Flatten,
    Nothing,
    /// A layer with variables of its own, of which `forward_t` is called.
    Layer(Arc<dyn Model>),
}

impl Part {
    /// A layer that is called; whoever makes it gives it copies of its variables.
    pub(super) fn layer(layer: impl Model + 'static) -> Self {
        Self(Kind::Layer(Arc::new(layer)))
    }
}

/// A variable that training does not reach.
pub(super) fn copy(var: &Var) -> Result<Var> {
    Ok(Var::from_tensor(&var.as_detached_tensor().copy()?)?)
}

/// A part with what goes in and what comes out.
pub(crate) struct Recorded {
    pub kind: Kind,
    pub inputs: Vec<Value>,
    pub output: Value,
}

/// The parts of a model in the order of its forward pass.
pub(crate) struct Parts {
    pub input: Value,
    pub recorded: Vec<Recorded>,
    pub output: Value,
}

/// Takes a model apart for inputs like `example`.
///
/// # Errors
/// If a layer is of a type that is not known, an operator is named, or the example does not fit.
pub(crate) fn parts(model: &dyn ToOnnx, example: &Tensor, mut casters: Vec<Caster>) -> Result<Parts> {
    casters.extend(standard_casters());
    let nameless = Parameters::new(0, example.device());
    let mut graph = Graph::new(&nameless, casters);
    graph.parts = Some(Vec::new());
    let input = graph.input("input", example);
    let output = no_grad(|| graph.apply(model, &input))?;
    if let Some(operator) = graph.unknown {
        return Err(Error::argument(
            "model",
            "layers, sums, joins and choices",
            format!("ONNX's `{operator}` by its name"),
        )
        .hint("what `to_onnx` adds by `Graph::node` can be exported, but not prepared"));
    }
    Ok(Parts { input, recorded: graph.parts.unwrap_or_default(), output })
}

/// Finds out whether a layer is of this type.
pub(crate) fn caster<L: ToOnnx + 'static>(layer: &dyn Any) -> Option<&dyn ToOnnx> {
    layer.downcast_ref::<L>().map(|layer| layer as &dyn ToOnnx)
}
