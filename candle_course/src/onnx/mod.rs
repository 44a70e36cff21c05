//! Trained models for anywhere: ONNX files, which ONNX Runtime, browsers, phones and databases run.
//!
//! - [`OnnxExport`] writes a model as it is in evaluation mode: a [`Sequential`] of any of this crate's
//!   layers, one such layer, [`ResNet18`], or a model of one's own.
//! - [`ToOnnx`] is what a model of one's own implements, in a few lines: the same layers in the same
//!   order as in its `forward`, on a [`Graph`].

use std::path::Path;

use candle_core::{ModuleT, Tensor};
use prost::Message as _;

use crate::atomic;
use crate::error::{Error, Result};
use crate::nn::{
    Activation, AdaptiveAvgPool2d, AvgPool2d, BatchNorm1d, BatchNorm2d, Conv2d, ConvTranspose2d, Dropout, Flatten,
    GroupNorm, Gru, LayerNorm, Linear, Lstm, MaxPool2d, Parameters, ResNet18, Rnn, Sequential, Upsample,
};
use crate::setters::setters;

pub(crate) mod fold;
mod graph;
mod layers;
pub(crate) mod parts;
mod proto;
#[cfg(test)]
mod tests;

pub use graph::{Attribute, Graph, Value};
use parts::caster;

/// A model that can be written as a graph of operators.
///
/// # Examples
///
/// A block with a skip connection:
///
/// ```
/// use candle_course::onnx::{Graph, OnnxExport, ToOnnx, Value};
/// use candle_course::prelude::*;
///
/// struct Block {
///     conv: Conv2d,
///     norm: BatchNorm2d,
/// }
///
/// impl ModuleT for Block {
///     fn forward_t(&self, xs: &Tensor, train: bool) -> candle_core::Result<Tensor> {
///         (self.norm.forward_t(&self.conv.forward(xs)?, train)? + xs)?.relu()
///     }
/// }
///
/// impl ToOnnx for Block {
///     fn to_onnx(&self, graph: &mut Graph, input: &Value) -> Result<Value> {
///         let ys = graph.apply(&self.conv, input)?;
///         let ys = graph.apply(&self.norm, &ys)?;
///         let sum = graph.add(&ys, input)?;
///         graph.relu(&sum)
///     }
/// }
///
/// let parameters = Parameters::new(0, &Device::Cpu);
/// let conv = Conv2d::builder(4, 4, 3).padding(1).build(&parameters.at("conv"))?;
/// let model = Block { conv, norm: BatchNorm2d::new(4, &parameters.at("norm"))? };
/// let example = Tensor::zeros((1, 4, 8, 8), DType::F32, &Device::Cpu)?;
/// let bytes = OnnxExport::new(&parameters).to_bytes(&model, &example)?;
/// assert!(bytes.len() > 4 * 4 * 4 * 9);
/// # Ok::<(), candle_course::Error>(())
/// ```
pub trait ToOnnx: ModuleT {
    /// Adds the model's operators to `graph`; returns what they make of `input`.
    ///
    /// # Errors
    /// If a part of it cannot be exported, or the example does not fit.
    fn to_onnx(&self, graph: &mut Graph, input: &Value) -> Result<Value>;

    /// What a layer of this crate is to [`Inference`](crate::inference::Inference). A model of one's own is
    /// taken apart by its `to_onnx`.
    #[doc(hidden)]
    fn part(&self) -> Result<Option<parts::Part>> {
        Ok(None)
    }
}

/// Writes models as ONNX files.
///
/// The first dimension of input and output is the batch, whose size is open; the others are those of the
/// example. Constants have the names of the parameters.
///
/// # Examples
///
/// ```
/// use candle_course::onnx::OnnxExport;
/// use candle_course::prelude::*;
///
/// let parameters = Parameters::new(0, &Device::Cpu);
/// let model = Sequential::new()
///     .add(Conv2d::new(1, 8, 3, &parameters.at("conv"))?)
///     .add(BatchNorm2d::new(8, &parameters.at("norm"))?)
///     .add(Activation::Relu)
///     .add(Flatten)
///     .add(Linear::new(8 * 26 * 26, 10, &parameters.at("fc"))?);
/// let example = Tensor::zeros((1, 1, 28, 28), DType::F32, &Device::Cpu)?;
/// let folder = tempfile::tempdir()?;
/// OnnxExport::builder(&parameters)
///     .input("image")
///     .output("logits")
///     .fold_batch_norms()
///     .build()?
///     .save(&model, &example, folder.path().join("model.onnx"))?;
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Clone)]
pub struct OnnxExport {
    parameters: Parameters,
    input: String,
    output: String,
    batch: Option<String>,
    opset: usize,
    fold: bool,
    casters: Vec<graph::Caster>,
}

/// Configures an [`OnnxExport`].
#[derive(Clone)]
pub struct OnnxExportBuilder(OnnxExport);

/// Finds out of which of the crate's types a layer is.
fn standard_casters() -> Vec<graph::Caster> {
    macro_rules! casters {
        ($($layer:ty),*) => { vec![$(caster::<$layer> as graph::Caster),*] };
    }
    casters!(
        Activation,
        AdaptiveAvgPool2d,
        AvgPool2d,
        BatchNorm1d,
        BatchNorm2d,
        Conv2d,
        ConvTranspose2d,
        Dropout,
        Flatten,
        GroupNorm,
        Gru,
        LayerNorm,
        Linear,
        Lstm,
        MaxPool2d,
        ResNet18,
        Rnn,
        Sequential,
        Upsample
    )
}

impl OnnxExportBuilder {
    setters! {
        /// The input's name; `input` by default.
        input(name: impl Into<String>) => 0.input = name.into();
        /// The output's name; `output` by default.
        output(name: impl Into<String>) => 0.output = name.into();
        /// The name of the batch's size, which is open; `batch` by default.
        batch(name: impl Into<String>) => 0.batch = Some(name.into());
        /// The batch's size is the example's: for what runs one image at a time, and plans ahead for it.
        fixed_batch() => 0.batch = None;
        /// The version of ONNX's operators, 17 to 22; 17 by default, which ONNX Runtime has had since 1.12.
        opset(version: usize) => 0.opset = version;
        /// Writes every batch norm behind a convolution as part of its weight and bias: fewer operators,
        /// the same numbers but for rounding.
        fold_batch_norms() => 0.fold = true;
    }

    /// A type of layer of one's own, as it occurs in a [`Sequential`]. May be called several times.
    #[must_use = "a setter gives the builder back"]
    pub fn layer<L: ToOnnx + 'static>(mut self) -> Self {
        self.0.casters.push(caster::<L>);
        self
    }

    /// The exporter.
    ///
    /// # Errors
    /// If a name is empty, input and output have the same, or the version is not in 17 to 22.
    pub fn build(self) -> Result<OnnxExport> {
        let export = &self.0;
        for (what, name) in
            [("input", Some(&export.input)), ("output", Some(&export.output)), ("batch", export.batch.as_ref())]
        {
            if name.is_some_and(String::is_empty) {
                return Err(Error::argument(what, "a name", "an empty text"));
            }
        }
        if export.input == export.output {
            return Err(Error::argument("output", "another name than the input's", format!("`{}`", export.output)));
        }
        if !(17..=22).contains(&export.opset) {
            return Err(Error::argument("opset", "17 to 22", export.opset));
        }
        Ok(self.0)
    }
}

impl OnnxExport {
    /// Input `input`, output `output`, an open batch, version 17, batch norms as they are.
    pub fn new(parameters: &Parameters) -> Self {
        Self {
            parameters: parameters.clone(),
            input: "input".to_owned(),
            output: "output".to_owned(),
            batch: Some("batch".to_owned()),
            opset: 17,
            fold: false,
            casters: standard_casters(),
        }
    }

    /// An exporter that is told more; `parameters` are the model's, whose names the constants get.
    pub fn builder(parameters: &Parameters) -> OnnxExportBuilder {
        OnnxExportBuilder(Self::new(parameters))
    }

    /// Writes a model to a file; one that was there before is replaced when the new one is whole.
    ///
    /// `example`: an input of the model, `[N, …]`; its numbers do not matter.
    ///
    /// # Errors
    /// If a layer cannot be exported, the example does not fit, the model has more than 2 GB (the most that
    /// such a file holds), or the file cannot be written.
    pub fn save(&self, model: &dyn ToOnnx, example: &Tensor, path: impl AsRef<Path>) -> Result<()> {
        atomic::write_bytes(path.as_ref(), &self.to_bytes(model, example)?)
    }

    /// The bytes of a model's file; see [`OnnxExport::save`].
    ///
    /// # Errors
    /// As [`OnnxExport::save`].
    pub fn to_bytes(&self, model: &dyn ToOnnx, example: &Tensor) -> Result<Vec<u8>> {
        if example.rank() == 0 {
            return Err(Error::argument("example", "shape [N, …]", "a scalar"));
        }
        let mut graph = Graph::new(&self.parameters, self.casters.clone());
        graph.free_name(&self.output);
        let input = graph.input(&self.input, example);
        let value = model.to_onnx(&mut graph, &input)?;
        let mut last = value.name().to_owned();
        if self.fold {
            fold::fold_batch_norms(&mut graph, &mut last);
        }
        self.name_output(&mut graph, &last);
        let described = |name: &str, example: &Tensor| -> Result<proto::ValueInfo> {
            let mut dims: Vec<proto::Dimension> =
                example.dims().iter().map(|&size| proto::Dimension { size: Some(size as i64), name: None }).collect();
            if let (Some(first), Some(name)) = (dims.first_mut(), &self.batch) {
                *first = proto::Dimension { size: None, name: Some(name.clone()) };
            }
            let tensor =
                proto::TensorType { element: graph::data_type(example.dtype())?, shape: Some(proto::Shape { dims }) };
            Ok(proto::ValueInfo { name: name.to_owned(), of: Some(proto::Type { tensor: Some(tensor) }) })
        };
        let (inputs, outputs) =
            (vec![described(&self.input, example)?], vec![described(&self.output, value.example())?]);
        let model = proto::Model {
            // The format of opset 17; later ones are read by the same fields.
            ir_version: 8,
            producer_name: "candle_course".to_owned(),
            producer_version: env!("CARGO_PKG_VERSION").to_owned(),
            opset_import: vec![proto::OperatorSet { domain: String::new(), version: self.opset as i64 }],
            graph: Some(proto::Graph {
                nodes: graph.nodes,
                name: "model".to_owned(),
                initializers: graph.constants,
                inputs,
                outputs,
            }),
        };
        if model.encoded_len() > i32::MAX as usize {
            return Err(Error::argument(
                "model",
                "at most 2 GB, as protobuf has it",
                format!("{} bytes", model.encoded_len()),
            ));
        }
        Ok(model.encode_to_vec())
    }

    /// Gives the value `last` the output's name.
    fn name_output(&self, graph: &mut Graph, last: &str) {
        if last == self.input {
            // A model that does nothing, dropout alone, say.
            graph.nodes.push(proto::Node {
                inputs: vec![last.to_owned()],
                outputs: vec![self.output.clone()],
                name: "identity".to_owned(),
                operator: "Identity".to_owned(),
                attributes: Vec::new(),
            });
            return;
        }
        let names = graph.nodes.iter_mut().flat_map(|node| node.inputs.iter_mut().chain(&mut node.outputs));
        names.filter(|name| *name == last).for_each(|name| name.clone_from(&self.output));
    }
}
