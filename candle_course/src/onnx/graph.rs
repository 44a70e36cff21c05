//! A graph of operators, as it grows.

use std::any::Any;
use std::collections::{HashMap, HashSet};

use candle_core::{DType, Device, Tensor, TensorId, Var};

use super::parts::{Kind, Recorded};
use super::proto;
use crate::error::{Error, Result};
use crate::nn::{Parameters, Sequential};
use crate::onnx::ToOnnx;

/// A value between operators: its name, and what it is for the example that the export began with.
#[derive(Debug, Clone)]
pub struct Value {
    name: String,
    example: Tensor,
}

impl Value {
    /// The name in the graph.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it is for the example.
    pub fn example(&self) -> &Tensor {
        &self.example
    }

    /// The shape for the example; the first size is the batch's, which is another when the model runs.
    pub fn dims(&self) -> &[usize] {
        self.example.dims()
    }
}

/// A setting of an operator.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Attribute {
    /// A whole number.
    Int(i64),
    /// A number.
    Float(f32),
    /// A text.
    Text(String),
    /// Whole numbers.
    Ints(Vec<i64>),
    /// Texts.
    Texts(Vec<String>),
}

impl Attribute {
    /// Sizes as whole numbers.
    pub fn sizes(sizes: impl IntoIterator<Item = usize>) -> Self {
        Self::Ints(sizes.into_iter().map(|size| size as i64).collect())
    }

    fn named(self, name: &str) -> proto::Attribute {
        let mut attribute = proto::Attribute { name: name.to_owned(), ..Default::default() };
        match self {
            Self::Float(value) => (attribute.float, attribute.kind) = (Some(value), 1),
            Self::Int(value) => (attribute.int, attribute.kind) = (Some(value), 2),
            Self::Text(text) => (attribute.text, attribute.kind) = (Some(text.into_bytes()), 3),
            Self::Ints(values) => (attribute.ints, attribute.kind) = (values, 7),
            Self::Texts(texts) => {
                (attribute.texts, attribute.kind) = (texts.into_iter().map(String::into_bytes).collect(), 8);
            }
        }
        attribute
    }
}

/// Asks a layer of a type that is known whether it is the one.
pub(crate) type Caster = fn(&dyn Any) -> Option<&dyn ToOnnx>;

/// The graph of a model that is being exported: what [`ToOnnx::to_onnx`] adds its operators to.
pub struct Graph {
    pub(super) nodes: Vec<proto::Node>,
    pub(super) constants: Vec<proto::Constant>,
    /// Names of the model's variables, and of those that are constants already.
    variables: HashMap<TensorId, String>,
    placed: HashMap<TensorId, String>,
    names: HashSet<String>,
    casters: Vec<Caster>,
    /// The model's parts, where it is taken apart and not exported.
    pub(super) parts: Option<Vec<Recorded>>,
    /// The first operator by name in a model that is taken apart.
    pub(super) unknown: Option<String>,
}

/// ONNX's number of an element type.
pub(super) fn data_type(dtype: DType) -> Result<i32> {
    Ok(match dtype {
        DType::F32 => 1,
        DType::U8 => 2,
        DType::I64 => 7,
        DType::F16 => 10,
        DType::F64 => 11,
        DType::U32 => 12,
        DType::BF16 => 16,
        other => return Err(Error::argument("dtype", "one that ONNX has", other.as_str())),
    })
}

/// The bytes of a tensor's numbers, little-endian.
fn bytes_of(tensor: &Tensor) -> Result<Vec<u8>> {
    let tensor = tensor.to_device(&Device::Cpu)?.reshape(tensor.elem_count())?;
    macro_rules! bytes {
        ($type:ty) => {
            tensor.to_vec1::<$type>()?.into_iter().flat_map(|value| value.to_le_bytes()).collect()
        };
    }
    Ok(match tensor.dtype() {
        DType::F32 => bytes!(f32),
        DType::F64 => bytes!(f64),
        DType::F16 => bytes!(half::f16),
        DType::BF16 => bytes!(half::bf16),
        DType::I64 => bytes!(i64),
        DType::U32 => bytes!(u32),
        DType::U8 => bytes!(u8),
        other => return Err(Error::argument("dtype", "one that ONNX has", other.as_str())),
    })
}

impl Graph {
    pub(super) fn new(parameters: &Parameters, casters: Vec<Caster>) -> Self {
        let variables = parameters.all().into_iter().map(|(name, var)| (var.id(), name)).collect();
        let (nodes, constants, placed, names) = Default::default();
        Self { nodes, constants, variables, placed, names, casters, parts: None, unknown: None }
    }

    /// `wanted`, or with a number if there is one of that name.
    pub(super) fn free_name(&mut self, wanted: &str) -> String {
        let names = std::iter::once(wanted.to_owned()).chain((1..).map(|number| format!("{wanted}_{number}")));
        let free = names.into_iter().find(|name| !self.names.contains(name)).unwrap_or_default();
        self.names.insert(free.clone());
        free
    }

    /// The graph's input.
    pub(super) fn input(&mut self, name: &str, example: &Tensor) -> Value {
        Value { name: self.free_name(name), example: example.detach() }
    }

    /// Adds an operator with one output; returns its name. `inputs` are names of values and constants; an
    /// empty one stands for an input that is left out.
    pub fn node<'a>(
        &mut self,
        operator: &str,
        inputs: impl IntoIterator<Item = &'a str>,
        attributes: impl IntoIterator<Item = (&'static str, Attribute)>,
    ) -> String {
        let output = self.free_name(&operator.to_ascii_lowercase());
        if self.parts.is_some() {
            self.unknown.get_or_insert_with(|| operator.to_owned());
        }
        self.nodes.push(proto::Node {
            inputs: inputs.into_iter().map(str::to_owned).collect(),
            outputs: vec![output.clone()],
            name: output.clone(),
            operator: operator.to_owned(),
            attributes: attributes.into_iter().map(|(name, attribute)| attribute.named(name)).collect(),
        });
        output
    }

    /// What a name stands for, with what it is for the example.
    pub fn value(&self, name: String, example: Tensor) -> Value {
        Value { name, example: example.detach() }
    }

    /// A variable of the model as a constant, under its own name. Returns the name.
    ///
    /// # Errors
    /// If ONNX does not have its dtype.
    pub fn variable(&mut self, var: &Var) -> Result<String> {
        if let Some(name) = self.placed.get(&var.id()) {
            return Ok(name.clone());
        }
        let name = self.variables.get(&var.id()).cloned().unwrap_or_else(|| "variable".to_owned());
        let name = self.constant(&name, var)?;
        self.placed.insert(var.id(), name.clone());
        Ok(name)
    }

    /// A constant. Returns its name: `name`, or with a number if there is one of that name.
    ///
    /// # Errors
    /// If ONNX does not have its dtype.
    pub fn constant(&mut self, name: &str, tensor: &Tensor) -> Result<String> {
        let name = self.free_name(name);
        self.constants.push(proto::Constant {
            dims: tensor.dims().iter().map(|&size| size as i64).collect(),
            data_type: data_type(tensor.dtype())?,
            name: name.clone(),
            raw_data: bytes_of(tensor)?,
        });
        Ok(name)
    }

    /// Whole numbers as a constant, for shapes.
    pub(super) fn whole_numbers(&mut self, name: &str, values: &[i64]) -> Result<String> {
        self.constant(name, &Tensor::new(values, &Device::Cpu)?)
    }

    /// A layer, or a model within a model.
    ///
    /// # Errors
    /// As [`ToOnnx::to_onnx`].
    pub fn apply(&mut self, layer: &dyn ToOnnx, input: &Value) -> Result<Value> {
        if self.parts.is_some()
            && let Some(part) = layer.part()?
        {
            let example = layer.forward_t(&input.example, false)?;
            return Ok(self.record(part.0, &[input], example));
        }
        layer.to_onnx(self, input)
    }

    /// Adds a part of a model that is taken apart.
    fn record(&mut self, kind: Kind, inputs: &[&Value], example: Tensor) -> Value {
        let output = Value { name: self.free_name("part"), example: example.detach() };
        let inputs = inputs.iter().map(|&input| input.clone()).collect();
        self.parts.get_or_insert_default().push(Recorded { kind, inputs, output: output.clone() });
        output
    }

    /// An operator, or where the model is taken apart a part.
    fn operation<const N: usize>(
        &mut self,
        kind: Kind,
        operator: &str,
        inputs: &[&Value],
        attributes: [(&'static str, Attribute); N],
        example: Tensor,
    ) -> Value {
        if self.parts.is_some() {
            return self.record(kind, inputs, example);
        }
        let name = self.node(operator, inputs.iter().map(|input| input.name()), attributes);
        self.value(name, example)
    }

    /// The layers of a [`Sequential`], one after the other.
    ///
    /// # Errors
    /// If one cannot be exported: the message names it.
    pub(super) fn sequence(&mut self, layers: &Sequential, input: &Value) -> Result<Value> {
        let mut value = input.clone();
        for (i, (layer, typed)) in layers.layers().iter().zip(layers.typed()).enumerate() {
            let found = typed.as_deref().and_then(|any| self.casters.iter().find_map(|caster| caster(any)));
            let Some(exported) = found else {
                return Err(Error::argument("model", "layers that can be exported", format!("`{}`, layer {i}", layer.kind()))
                    .hint("implement `ToOnnx` for it, and tell the exporter by `.layer::<…>()`; a shared layer is added by `add`"));
            };
            value = self.apply(exported, &value)?;
        }
        Ok(value)
    }

    /// max(x, 0).
    ///
    /// # Errors
    /// If the example cannot be computed.
    pub fn relu(&mut self, input: &Value) -> Result<Value> {
        let example = input.example.relu()?;
        Ok(self.operation(Kind::Relu, "Relu", &[input], [], example))
    }

    /// The sum of two values of one shape: a skip connection.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn add(&mut self, left: &Value, right: &Value) -> Result<Value> {
        let example = (&left.example + &right.example)?;
        Ok(self.operation(Kind::Add, "Add", &[left, right], [], example))
    }

    /// Values side by side along a dimension: 1 for the channels of a U-Net's skips.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn concat(&mut self, values: &[&Value], dimension: usize) -> Result<Value> {
        let examples: Vec<&Tensor> = values.iter().map(|value| &value.example).collect();
        let example = Tensor::cat(&examples, dimension)?;
        let axis = [("axis", Attribute::Int(dimension as i64))];
        Ok(self.operation(Kind::Concat(dimension), "Concat", values, axis, example))
    }

    /// One place of a dimension, which goes: the state after the last step of `[N, T, H]`, say, for
    /// `dimension` 1 and `index` T − 1.
    ///
    /// # Errors
    /// If there is no such dimension or place.
    pub fn select(&mut self, input: &Value, dimension: usize, index: usize) -> Result<Value> {
        let example = input.example.narrow(dimension, index, 1)?.squeeze(dimension)?;
        if self.parts.is_some() {
            return Ok(self.record(Kind::Select { dimension, index }, &[input], example));
        }
        let index = self.constant("index", &Tensor::new(index as i64, &Device::Cpu)?)?;
        let name = self.node("Gather", [input.name(), &index], [("axis", Attribute::Int(dimension as i64))]);
        Ok(self.value(name, example))
    }

    /// All dimensions but the first as one.
    ///
    /// # Errors
    /// If the example has no dimension.
    pub fn flatten(&mut self, input: &Value) -> Result<Value> {
        let example = input.example.flatten_from(1)?;
        Ok(self.operation(Kind::Flatten, "Flatten", &[input], [("axis", Attribute::Int(1))], example))
    }
}
