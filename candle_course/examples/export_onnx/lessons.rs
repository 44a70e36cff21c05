//! The networks of the course's lessons, with the names that their parameters have there.

use candle_course::onnx::{Attribute, Graph, ToOnnx, Value};
use candle_course::prelude::*;

/// 3.1: a model of one's own.
struct Mlp {
    fc1: Linear,
    fc2: Linear,
}

impl ModuleT for Mlp {
    fn forward_t(&self, images: &Tensor, _train: bool) -> candle_core::Result<Tensor> {
        self.fc2.forward(&self.fc1.forward(&images.flatten_from(1)?)?.relu()?)
    }
}

impl ToOnnx for Mlp {
    fn to_onnx(&self, graph: &mut Graph, images: &Value) -> Result<Value> {
        let pixels = graph.flatten(images)?;
        let hidden = graph.apply(&self.fc1, &pixels)?;
        let hidden = graph.relu(&hidden)?;
        graph.apply(&self.fc2, &hidden)
    }
}

/// 3.7: a recurrence, and a layer on its last state.
struct MeanOfSequence {
    rnn: Rnn,
    out: Linear,
}

impl ModuleT for MeanOfSequence {
    fn forward_t(&self, xs: &Tensor, train: bool) -> candle_core::Result<Tensor> {
        let states = self.rnn.forward_t(xs, train)?;
        self.out.forward(&states.narrow(1, states.dim(1)? - 1, 1)?.squeeze(1)?.contiguous()?)
    }
}

impl ToOnnx for MeanOfSequence {
    fn to_onnx(&self, graph: &mut Graph, xs: &Value) -> Result<Value> {
        let states = graph.apply(&self.rnn, xs)?;
        let last = graph.constant("last", &Tensor::new(-1i64, &Device::Cpu)?)?;
        let name = graph.node("Gather", [states.name(), &last], [("axis", Attribute::Int(1))]);
        let example = states.example().narrow(1, states.dims()[1] - 1, 1)?.squeeze(1)?.contiguous()?;
        let last = graph.value(name, example);
        graph.apply(&self.out, &last)
    }
}

/// 3.8: a skip connection, as a layer of a `Sequential`.
pub struct Residual {
    conv: Conv2d,
    norm: BatchNorm2d,
}

impl Residual {
    fn new(channels: usize, scope: &Scope) -> Result<Self> {
        let conv = Conv2d::builder(channels, channels, 3).padding(1).no_bias().build(&scope.at("conv"))?;
        Ok(Self { conv, norm: BatchNorm2d::new(channels, &scope.at("norm"))? })
    }
}

impl ModuleT for Residual {
    fn forward_t(&self, xs: &Tensor, train: bool) -> candle_core::Result<Tensor> {
        let ys = self.norm.forward_t(&self.conv.forward_t(xs, train)?, train)?;
        (ys + xs)?.relu()
    }
}

impl ToOnnx for Residual {
    fn to_onnx(&self, graph: &mut Graph, xs: &Value) -> Result<Value> {
        let ys = graph.apply(&self.conv, xs)?;
        let ys = graph.apply(&self.norm, &ys)?;
        let sum = graph.add(&ys, xs)?;
        graph.relu(&sum)
    }
}

/// Layers that are fully connected, with what the lessons put between them.
fn dense(
    scope: &Scope,
    widths: &[usize],
    layer: impl Fn(Sequential, usize, usize, &Scope) -> Result<Sequential>,
) -> Result<Sequential> {
    let mut model = Sequential::new().add(Flatten);
    for (i, pair) in widths.windows(2).enumerate() {
        model = layer(model, pair[0], pair[1], &scope.at(format!("fc{i}")))?;
    }
    Ok(model.add(Linear::new(widths[widths.len() - 1], 10, &scope.at("out"))?))
}

/// 3.5 and 3.8: blocks of convolution, norm, ReLU and pooling, each with more behind it if so.
fn blocks(
    scope: &Scope,
    channels: &[usize],
    side: usize,
    more: impl Fn(Sequential, usize, &Scope) -> Result<Sequential>,
) -> Result<Sequential> {
    let mut model = Sequential::new();
    for (i, pair) in channels.windows(2).enumerate() {
        let conv = Conv2d::builder(pair[0], pair[1], 3).padding(1).no_bias().build(&scope.at(format!("conv{i}")))?;
        let norm = BatchNorm2d::new(pair[1], &scope.at(format!("norm{i}")))?;
        let block = model.add(conv).add(norm).add(Activation::Relu).add(MaxPool2d::new(2)?);
        model = more(block, pair[1], &scope.at(format!("block{i}")))?;
    }
    let (last, side) = (channels[channels.len() - 1], side >> (channels.len() - 1));
    Ok(model.add(Flatten).add(Linear::new(last * side * side, 10, &scope.at("head"))?))
}

/// A model of a lesson: its name, itself, and the shape of an input.
pub type Case = (&'static str, Box<dyn ToOnnx>, &'static [usize]);

/// The networks, each at a place of its own.
pub fn networks(parameters: &Parameters) -> Result<Vec<Case>> {
    let at = |name: &str| parameters.at(name);
    let digits: &[usize] = &[3, 1, 28, 28];
    let photographs: &[usize] = &[2, 3, 32, 32];
    let same = |model: Sequential, _: usize, _: &Scope| Ok(model);
    let mlp = Mlp { fc1: Linear::new(784, 128, &at("lesson1.fc1"))?, fc2: Linear::new(128, 10, &at("lesson1.fc2"))? };
    let modal = dense(&at("lesson1_modal"), &[784, 128], |model, from, to, scope| {
        let (norm, dropout) = (BatchNorm1d::new(to, &scope.at("norm"))?, Dropout::new(0.5, &scope.at("dropout"))?);
        Ok(model.add(Linear::new(from, to, scope)?).add(norm).add(Activation::Relu).add(dropout))
    })?;
    let small_cnn = Sequential::new()
        .add(Conv2d::builder(1, 8, 3).padding(1).build(&at("lesson2.conv1"))?)
        .add(Activation::Relu)
        .add(MaxPool2d::new(2)?)
        .add(Conv2d::builder(8, 16, 3).padding(1).build(&at("lesson2.conv2"))?)
        .add(Activation::Relu)
        .add(MaxPool2d::new(2)?)
        .add(Flatten)
        .add(Linear::new(16 * 7 * 7, 10, &at("lesson2.fc"))?);
    let segmenter = Sequential::new()
        .add(Conv2d::builder(4, 16, 3).padding(1).build(&at("lesson3.conv1"))?)
        .add(Activation::Relu)
        .add(Conv2d::builder(16, 16, 3).padding(2).dilation(2).build(&at("lesson3.conv2"))?)
        .add(Activation::Relu)
        .add(Conv2d::builder(16, 16, 3).padding(1).build(&at("lesson3.conv3"))?)
        .add(Activation::Relu)
        .add(Conv2d::new(16, 5, 1, &at("lesson3.head"))?);
    let activated = |activation: Activation| {
        move |model: Sequential, from: usize, to: usize, scope: &Scope| {
            Ok(model.add(Linear::new(from, to, scope)?).add(activation))
        }
    };
    let dropped = |model: Sequential, from: usize, to: usize, scope: &Scope| {
        let dropout = Dropout::new(0.2, &scope.at("dropout"))?;
        Ok(model.add(Linear::new(from, to, scope)?).add(Activation::Relu).add(dropout))
    };
    let normalised = |model: Sequential, from: usize, to: usize, scope: &Scope| {
        let linear = Linear::builder(from, to).no_bias().build(scope)?;
        Ok(model.add(linear).add(BatchNorm1d::new(to, &scope.at("norm"))?).add(Activation::Relu))
    };
    let deep = [[784].as_slice(), &[32; 10]].concat();
    let pixelwise = Sequential::new()
        .add(Conv2d::new(3, 32, 1, &at("lesson6_map.hidden"))?)
        .add(Activation::Relu)
        .add(Conv2d::new(32, 4, 1, &at("lesson6_map.classes"))?);
    let sequence = MeanOfSequence {
        rnn: Rnn::builder(1, 24).relu().build(&at("lesson7_sequence.rnn"))?,
        out: Linear::new(24, 1, &at("lesson7_sequence.out"))?,
    };
    let map = Sequential::new()
        .add(Conv2d::builder(3, 16, 3).padding(1).build(&at("lesson8_map.conv1"))?)
        .add(Activation::Relu)
        .add(Conv2d::builder(16, 16, 3).padding(2).dilation(2).build(&at("lesson8_map.conv2"))?)
        .add(Activation::Relu)
        .add(Conv2d::new(16, 4, 1, &at("lesson8_map.classes"))?);
    let fused = Sequential::new()
        .add(Conv2d::builder(3, 16, 3).padding(1).no_bias().build(&at("lesson8_fused.conv0"))?)
        .add(BatchNorm2d::new(16, &at("lesson8_fused.norm0"))?.with_relu())
        .add(MaxPool2d::new(2)?)
        .add(Flatten)
        .add(Dropout::new(0.2, &at("lesson8_fused.dropout"))?)
        .add(Linear::new(16 * 16 * 16, 10, &at("lesson8_fused.head"))?);
    let grouped = Sequential::new()
        .add(Conv2d::builder(3, 16, 3).padding(1).no_bias().build(&at("lesson8_grouped.conv0"))?)
        .add(GroupNorm::new(4, 16, &at("lesson8_grouped.norm0"))?)
        .add(Activation::Relu)
        .add(MaxPool2d::new(2)?)
        .add(Flatten)
        .add(Linear::new(16 * 16 * 16, 10, &at("lesson8_grouped.head"))?);
    let residual = blocks(&at("lesson8_residual"), &[3, 16, 32, 64], 32, |model, channels, scope| {
        Ok(model.add(Residual::new(channels, scope)?))
    })?;
    Ok(vec![
        ("lesson1", Box::new(mlp), digits),
        ("lesson1_modal", Box::new(modal), digits),
        ("lesson2", Box::new(small_cnn), digits),
        ("lesson3", Box::new(segmenter), &[2, 4, 16, 20]),
        ("lesson4", Box::new(dense(&at("lesson4"), &[784, 64], activated(Activation::Relu))?), digits),
        ("lesson5", Box::new(blocks(&at("lesson5"), &[1, 16, 32], 28, same)?), digits),
        ("lesson6", Box::new(dense(&at("lesson6"), &[784, 256], dropped)?), digits),
        ("lesson6_deep", Box::new(dense(&at("lesson6_deep"), &deep, activated(Activation::Sigmoid))?), digits),
        ("lesson6_map", Box::new(pixelwise), &[2, 3, 16, 20]),
        ("lesson7", Box::new(dense(&at("lesson7"), &[784, 256, 256], normalised)?), digits),
        ("lesson7_sequence", Box::new(sequence), &[2, 30, 1]),
        ("lesson8", Box::new(dense(&at("lesson8"), &[3072, 128, 128, 64], dropped)?), photographs),
        ("lesson8_cnn", Box::new(blocks(&at("lesson8_cnn"), &[3, 16, 32, 64], 32, same)?), photographs),
        ("lesson8_fused", Box::new(fused), photographs),
        ("lesson8_grouped", Box::new(grouped), photographs),
        ("lesson8_residual", Box::new(residual), photographs),
        ("lesson8_map", Box::new(map), &[2, 3, 16, 20]),
    ])
}
