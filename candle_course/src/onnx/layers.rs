//! The crate's layers as operators.

use candle_core::{DType, Device, Module, ModuleT, Tensor, Var};

use super::graph::{Attribute, Graph, Value};
use super::parts::{Kind, Part, copy};
use crate::error::{Error, Result};
use crate::nn::{
    Activation, AdaptiveAvgPool2d, AvgPool2d, BatchNorm1d, BatchNorm2d, Conv2d, ConvTranspose2d, Dropout, Flatten,
    GroupNorm, Gru, LayerNorm, Linear, Lstm, MaxPool2d, ResNet18, Rnn, Sequential, Upsample, UpsampleMode,
};
use crate::onnx::ToOnnx;
use crate::ops::{Cell, Pool2dOptions};

use Attribute::{Float, Int, Text};

fn pair((vertical, horizontal): (usize, usize)) -> Attribute {
    Attribute::sizes([vertical, horizontal])
}

/// Top, left, bottom, right.
fn pads((vertical, horizontal): (usize, usize)) -> Attribute {
    Attribute::sizes([vertical, horizontal, vertical, horizontal])
}

/// The value of a layer, with the ReLU that it computes in the same pass.
fn with_relu(graph: &mut Graph, name: String, relu: bool, example: Tensor) -> Value {
    let name = if relu { graph.node("Relu", [name.as_str()], []) } else { name };
    graph.value(name, example)
}

/// A number as a constant of the input's dtype.
fn number(graph: &mut Graph, value: f64, like: &Value) -> Result<String> {
    let tensor = Tensor::new(value, &Device::Cpu)?.to_dtype(like.example().dtype())?;
    graph.constant("number", &tensor)
}

impl ToOnnx for Sequential {
    fn to_onnx(&self, graph: &mut Graph, input: &Value) -> Result<Value> {
        graph.sequence(self, input)
    }
}

impl ToOnnx for Activation {
    fn part(&self) -> Result<Option<Part>> {
        Ok(Some(match self {
            Self::Relu => Part(Kind::Relu),
            other => Part::layer(*other),
        }))
    }

    fn to_onnx(&self, graph: &mut Graph, input: &Value) -> Result<Value> {
        let x = input.name();
        let name = match self {
            Self::Relu => graph.node("Relu", [x], []),
            Self::Tanh => graph.node("Tanh", [x], []),
            Self::Sigmoid => graph.node("Sigmoid", [x], []),
            Self::Silu => {
                let gate = graph.node("Sigmoid", [x], []);
                graph.node("Mul", [x, gate.as_str()], [])
            }
            // x (1 + erf(x / √2)) / 2
            Self::Gelu => {
                let (root, one, half) =
                    (number(graph, 2f64.sqrt(), input)?, number(graph, 1.0, input)?, number(graph, 0.5, input)?);
                let scaled = graph.node("Div", [x, root.as_str()], []);
                let erf = graph.node("Erf", [scaled.as_str()], []);
                let sum = graph.node("Add", [erf.as_str(), one.as_str()], []);
                let product = graph.node("Mul", [x, sum.as_str()], []);
                graph.node("Mul", [product.as_str(), half.as_str()], [])
            }
        };
        Ok(graph.value(name, self.forward(input.example())?))
    }
}

impl ToOnnx for Linear {
    fn part(&self) -> Result<Option<Part>> {
        Ok(Some(Part(Kind::Linear(self.clone()))))
    }

    fn to_onnx(&self, graph: &mut Graph, input: &Value) -> Result<Value> {
        let weight = graph.variable(&self.weight)?;
        // The weight stays as PyTorch has it, and the runtime transposes it once.
        let weight = graph.node("Transpose", [weight.as_str()], [("perm", Attribute::sizes([1, 0]))]);
        let mut name = graph.node("MatMul", [input.name(), weight.as_str()], []);
        if let Some(bias) = &self.bias {
            let bias = graph.variable(bias)?;
            name = graph.node("Add", [name.as_str(), bias.as_str()], []);
        }
        Ok(with_relu(graph, name, self.relu, self.forward(input.example())?))
    }
}

/// The inputs of a convolution's node: what comes in, its weight and its bias.
fn with_weights(graph: &mut Graph, input: &Value, weight: &Var, bias: Option<&Var>) -> Result<Vec<String>> {
    let variables = [Some(weight), bias].into_iter().flatten().map(|variable| graph.variable(variable));
    std::iter::once(Ok(input.name().to_owned())).chain(variables).collect()
}

impl ToOnnx for Conv2d {
    fn part(&self) -> Result<Option<Part>> {
        Ok(Some(Part(Kind::Convolution(self.clone()))))
    }

    fn to_onnx(&self, graph: &mut Graph, input: &Value) -> Result<Value> {
        let inputs = with_weights(graph, input, &self.weight, self.bias.as_ref())?;
        let (_, _, height, width) = self.weight.dims4()?;
        let attributes = [
            ("kernel_shape", pair((height, width))),
            ("strides", pair(self.options.stride)),
            ("pads", pads(self.options.padding)),
            ("dilations", pair(self.options.dilation)),
            ("group", Int(self.options.groups as i64)),
        ];
        let name = graph.node("Conv", inputs.iter().map(String::as_str), attributes);
        Ok(with_relu(graph, name, self.options.relu, self.forward(input.example())?))
    }
}

impl ToOnnx for ConvTranspose2d {
    fn part(&self) -> Result<Option<Part>> {
        Ok(Some(Part(Kind::Transposed(self.clone()))))
    }

    fn to_onnx(&self, graph: &mut Graph, input: &Value) -> Result<Value> {
        let inputs = with_weights(graph, input, &self.weight, self.bias.as_ref())?;
        let (_, _, height, width) = self.weight.dims4()?;
        let attributes = [
            ("kernel_shape", pair((height, width))),
            ("strides", pair(self.options.stride)),
            ("pads", pads(self.options.padding)),
            ("output_padding", pair(self.options.output_padding)),
            ("dilations", pair(self.options.dilation)),
            ("group", Int(self.options.groups as i64)),
        ];
        let name = graph.node("ConvTranspose", inputs.iter().map(String::as_str), attributes);
        Ok(graph.value(name, self.forward(input.example())?))
    }
}

/// What both kinds of pooling have.
fn windows(options: &Pool2dOptions) -> Vec<(&'static str, Attribute)> {
    vec![
        ("kernel_shape", pair(options.kernel_size)),
        ("strides", pair(options.stride)),
        ("pads", pads(options.padding)),
        ("ceil_mode", Int(options.ceil_mode.into())),
    ]
}

impl ToOnnx for MaxPool2d {
    fn part(&self) -> Result<Option<Part>> {
        Ok(Some(Part(Kind::MaxPool(self.0))))
    }

    fn to_onnx(&self, graph: &mut Graph, input: &Value) -> Result<Value> {
        let name = graph.node("MaxPool", [input.name()], windows(&self.0));
        Ok(graph.value(name, self.forward(input.example())?))
    }
}

impl ToOnnx for AvgPool2d {
    fn part(&self) -> Result<Option<Part>> {
        Ok(Some(Part(Kind::AveragePool(self.0))))
    }

    fn to_onnx(&self, graph: &mut Graph, input: &Value) -> Result<Value> {
        let mut attributes = windows(&self.0);
        attributes.push(("count_include_pad", Int(self.0.count_include_pad.into())));
        let name = graph.node("AveragePool", [input.name()], attributes);
        Ok(graph.value(name, self.forward(input.example())?))
    }
}

/// The means of windows that divide `size` pixels into `count`: a matrix `[count, size]`.
fn means(count: usize, size: usize, dtype: DType) -> Result<Tensor> {
    let mut values = vec![0f64; count * size];
    for (window, row) in values.chunks_exact_mut(size).enumerate() {
        let (start, end) = (window * size / count, ((window + 1) * size).div_ceil(count));
        row[start..end].fill(1.0 / (end - start) as f64);
    }
    Ok(Tensor::from_vec(values, (count, size), &Device::Cpu)?.to_dtype(dtype)?)
}

/// Means of windows as products with matrices: ONNX has them for the whole image alone.
fn adaptive(graph: &mut Graph, output: (usize, usize), input: &Value, example: Tensor) -> Result<Value> {
    if output == (1, 1) {
        let name = graph.node("GlobalAveragePool", [input.name()], []);
        return Ok(graph.value(name, example));
    }
    let (_, _, height, width) = input.example().dims4()?;
    let dtype = input.example().dtype();
    let rows = graph.constant("row_means", &means(output.0, height, dtype)?)?;
    let columns = graph.constant("column_means", &means(output.1, width, dtype)?.t()?)?;
    let narrow = graph.node("MatMul", [input.name(), columns.as_str()], []);
    let name = graph.node("MatMul", [rows.as_str(), narrow.as_str()], []);
    Ok(graph.value(name, example))
}

impl ToOnnx for AdaptiveAvgPool2d {
    fn part(&self) -> Result<Option<Part>> {
        Ok(Some(Part(Kind::AdaptiveAverage(self.output_size))))
    }

    fn to_onnx(&self, graph: &mut Graph, input: &Value) -> Result<Value> {
        adaptive(graph, self.output_size, input, self.forward(input.example())?)
    }
}

macro_rules! batch_norm {
    ($layer:ty) => {
        impl ToOnnx for $layer {
            fn part(&self) -> Result<Option<Part>> {
                Ok(Some(Part(Kind::Norm(self.0.clone()))))
            }

            fn to_onnx(&self, graph: &mut Graph, input: &Value) -> Result<Value> {
                let norm = &self.0;
                let (weight, bias) = match &norm.affine {
                    Some((weight, bias)) => (graph.variable(weight)?, graph.variable(bias)?),
                    None => {
                        let ones = norm.running_var.ones_like()?;
                        (graph.constant("weight", &ones)?, graph.constant("bias", &ones.zeros_like()?)?)
                    }
                };
                let (mean, variance) = (graph.variable(&norm.running_mean)?, graph.variable(&norm.running_var)?);
                let inputs = [input.name(), weight.as_str(), bias.as_str(), mean.as_str(), variance.as_str()];
                let name = graph.node("BatchNormalization", inputs, [("epsilon", Float(norm.epsilon as f32))]);
                Ok(with_relu(graph, name, norm.relu, self.forward_t(input.example(), false)?))
            }
        }
    };
}
batch_norm!(BatchNorm1d);
batch_norm!(BatchNorm2d);

impl ToOnnx for LayerNorm {
    fn part(&self) -> Result<Option<Part>> {
        let affine =
            self.affine.as_ref().map(|(weight, bias)| Ok::<_, Error>((copy(weight)?, copy(bias)?))).transpose()?;
        Ok(Some(Part::layer(Self { affine, ..self.clone() })))
    }

    fn to_onnx(&self, graph: &mut Graph, input: &Value) -> Result<Value> {
        let mut inputs = vec![input.name().to_owned()];
        match &self.affine {
            Some((weight, bias)) => inputs.extend([graph.variable(weight)?, graph.variable(bias)?]),
            None => {
                let ones = Tensor::ones(self.shape.as_slice(), input.example().dtype(), &Device::Cpu)?;
                inputs.push(graph.constant("weight", &ones)?);
            }
        }
        let attributes = [("axis", Int(-(self.shape.len() as i64))), ("epsilon", Float(self.epsilon as f32))];
        let name = graph.node("LayerNormalization", inputs.iter().map(String::as_str), attributes);
        Ok(graph.value(name, self.forward(input.example())?))
    }
}

impl ToOnnx for GroupNorm {
    fn part(&self) -> Result<Option<Part>> {
        let (weight, bias) = (copy(&self.weight)?, copy(&self.bias)?);
        Ok(Some(Part::layer(Self { weight, bias, ..self.clone() })))
    }

    /// As normalisation of every group, `[N, groups, rest]`: ONNX's own operator changed its meaning.
    fn to_onnx(&self, graph: &mut Graph, input: &Value) -> Result<Value> {
        let ones = Tensor::ones(self.groups, input.example().dtype(), &Device::Cpu)?;
        let (scale, shift) = (graph.constant("scale", &ones)?, graph.constant("shift", &ones.zeros_like()?)?);
        let grouped = graph.whole_numbers("shape", &[0, self.groups as i64, -1])?;
        let grouped = graph.node("Reshape", [input.name(), grouped.as_str()], []);
        let inputs = [grouped.as_str(), scale.as_str(), shift.as_str()];
        let normed = graph.node("InstanceNormalization", inputs, [("epsilon", Float(self.epsilon as f32))]);
        let shape = graph.node("Shape", [input.name()], []);
        let mut name = graph.node("Reshape", [normed.as_str(), shape.as_str()], []);
        // [C, 1, 1 …], to go with [N, C, H, W …].
        let mut wide = vec![1i64; input.dims().len() - 1];
        wide[0] = -1;
        let wide = graph.whole_numbers("shape", &wide)?;
        for (operator, var) in [("Mul", &self.weight), ("Add", &self.bias)] {
            let var = graph.variable(var)?;
            let var = graph.node("Reshape", [var.as_str(), wide.as_str()], []);
            name = graph.node(operator, [name.as_str(), var.as_str()], []);
        }
        Ok(graph.value(name, self.forward(input.example())?))
    }
}

impl ToOnnx for Dropout {
    fn part(&self) -> Result<Option<Part>> {
        Ok(Some(Part(Kind::Nothing)))
    }

    fn to_onnx(&self, _: &mut Graph, input: &Value) -> Result<Value> {
        Ok(input.clone())
    }
}

impl ToOnnx for Flatten {
    fn part(&self) -> Result<Option<Part>> {
        Ok(Some(Part(Kind::Flatten)))
    }

    fn to_onnx(&self, graph: &mut Graph, input: &Value) -> Result<Value> {
        graph.flatten(input)
    }
}

impl ToOnnx for Upsample {
    fn part(&self) -> Result<Option<Part>> {
        Ok(Some(Part::layer(*self)))
    }

    fn to_onnx(&self, graph: &mut Graph, input: &Value) -> Result<Value> {
        let factors = [1.0, 1.0, self.factor.0 as f32, self.factor.1 as f32];
        let scales = graph.constant("scales", &Tensor::new(&factors, &Device::Cpu)?)?;
        let text = |text: &str| Text(text.to_owned());
        let attributes = match self.mode {
            UpsampleMode::Nearest => vec![
                ("mode", text("nearest")),
                ("coordinate_transformation_mode", text("asymmetric")),
                ("nearest_mode", text("floor")),
            ],
            UpsampleMode::Bilinear => {
                vec![("mode", text("linear")), ("coordinate_transformation_mode", text("half_pixel"))]
            }
            UpsampleMode::BilinearAlignCorners => {
                vec![("mode", text("linear")), ("coordinate_transformation_mode", text("align_corners"))]
            }
        };
        let name = graph.node("Resize", [input.name(), "", scales.as_str()], attributes);
        Ok(graph.value(name, self.forward(input.example())?))
    }
}

/// The rows of each gate, put in another order: `[gates · H, …]`.
fn reordered(tensor: &Tensor, order: &[usize]) -> Result<Tensor> {
    let gates = tensor.chunk(order.len(), 0)?;
    Ok(Tensor::cat(&order.iter().map(|&gate| &gates[gate]).collect::<Vec<_>>(), 0)?.detach())
}

macro_rules! recurrent {
    ($layer:ty) => {
        impl ToOnnx for $layer {
            fn part(&self) -> Result<Option<Part>> {
                Ok(Some(match self.0.layers.as_slice() {
                    [directions] if directions.len() == 1 => Part(Kind::Recurrent(self.0.clone())),
                    _ => Part::layer(Self(self.0.with_weights(copy)?)),
                }))
            }

            fn to_onnx(&self, graph: &mut Graph, input: &Value) -> Result<Value> {
                let stack = &self.0;
                // Where ONNX's gates are in PyTorch's order.
                let (operator, order): (_, &[usize]) = match stack.cell {
                    Cell::Lstm => ("LSTM", &[0, 3, 1, 2]),
                    Cell::Gru => ("GRU", &[1, 0, 2]),
                    Cell::Tanh | Cell::Relu => ("RNN", &[0]),
                };
                // Time first, as every version of the operators takes it.
                let mut name = graph.node("Transpose", [input.name()], [("perm", Attribute::sizes([1, 0, 2]))]);
                let last = stack.layers.len() - 1;
                for (i, layer) in stack.layers.iter().enumerate() {
                    let all = |part: &dyn Fn(&crate::nn::rnn::Weights) -> Result<Tensor>| -> Result<Tensor> {
                        let directions = layer.iter().map(part).collect::<Result<Vec<_>>>()?;
                        Ok(Tensor::stack(&directions, 0)?)
                    };
                    let weight = graph.constant("weight_ih", &all(&|weights| reordered(&weights.input, order))?)?;
                    let hidden = graph.constant("weight_hh", &all(&|weights| reordered(&weights.hidden, order))?)?;
                    let bias = all(&|weights| {
                        let biases = [reordered(&weights.input_bias, order)?, reordered(&weights.hidden_bias, order)?];
                        Ok(Tensor::cat(&biases, 0)?)
                    })?;
                    let bias = graph.constant("bias", &bias)?;
                    let direction = if layer.len() == 2 { "bidirectional" } else { "forward" };
                    let mut attributes =
                        vec![("hidden_size", Int(stack.hidden as i64)), ("direction", Text(direction.to_owned()))];
                    match stack.cell {
                        Cell::Gru => attributes.push(("linear_before_reset", Int(1))),
                        Cell::Relu => {
                            attributes.push(("activations", Attribute::Texts(vec!["Relu".to_owned(); layer.len()])))
                        }
                        Cell::Lstm | Cell::Tanh => {}
                    }
                    // [T, N, in] → [T, directions, N, H]
                    let inputs = [name.as_str(), weight.as_str(), hidden.as_str(), bias.as_str()];
                    let states = graph.node(operator, inputs, attributes);
                    let order = if i == last { [2, 0, 1, 3] } else { [0, 2, 1, 3] };
                    let states = graph.node("Transpose", [states.as_str()], [("perm", Attribute::sizes(order))]);
                    let joined = graph.whole_numbers("shape", &[0, 0, -1])?;
                    name = graph.node("Reshape", [states.as_str(), joined.as_str()], []);
                }
                Ok(graph.value(name, self.forward_t(input.example(), false)?))
            }
        }
    };
}
recurrent!(Rnn);
recurrent!(Lstm);
recurrent!(Gru);

impl ToOnnx for ResNet18 {
    fn to_onnx(&self, graph: &mut Graph, input: &Value) -> Result<Value> {
        let mut value = graph.apply(&self.conv1, input)?;
        value = graph.apply(&self.bn1, &value)?;
        if let Some(pool) = &self.pool {
            value = graph.apply(pool, &value)?;
        }
        for block in &self.blocks {
            let inner = graph.apply(&block.conv1, &value)?;
            let inner = graph.apply(&block.bn1, &inner)?;
            let inner = graph.apply(&block.conv2, &inner)?;
            let inner = graph.apply(&block.bn2, &inner)?;
            if let Some((conv, norm)) = &block.downsample {
                value = graph.apply(conv, &value)?;
                value = graph.apply(norm, &value)?;
            }
            let sum = graph.add(&inner, &value)?;
            value = graph.relu(&sum)?;
        }
        value = graph.apply(&AdaptiveAvgPool2d::new(1)?, &value)?;
        value = graph.flatten(&value)?;
        graph.apply(&self.fc, &value)
    }
}
