//! With this crate.

use candle_course::onnx::{Graph, ToOnnx, Value};
use candle_course::precision::Precision;
use candle_course::prelude::*;

use super::Step;

/// conv, batch norm, ReLU.
pub struct ConvNorm(Conv2d, BatchNorm2d);

impl ConvNorm {
    fn new(from: usize, to: usize, scope: &Scope) -> Result<Self> {
        let conv = Conv2d::builder(from, to, 3).padding(1).build(&scope.at("conv"))?;
        Ok(Self(conv, BatchNorm2d::new(to, &scope.at("norm"))?.with_relu()))
    }
}

impl ModuleT for ConvNorm {
    fn forward_t(&self, xs: &Tensor, train: bool) -> candle_core::Result<Tensor> {
        self.1.forward_t(&self.0.forward(xs)?, train)
    }
}

impl ToOnnx for ConvNorm {
    fn to_onnx(&self, graph: &mut Graph, input: &Value) -> Result<Value> {
        let ys = graph.apply(&self.0, input)?;
        graph.apply(&self.1, &ys)
    }
}

fn mlp(parameters: &Parameters) -> Result<Sequential> {
    Ok(Sequential::new()
        .add(Linear::new(784, 128, &parameters.at("fc1"))?.with_relu())
        .add(Linear::new(128, 64, &parameters.at("fc2"))?.with_relu())
        .add(Linear::new(64, 10, &parameters.at("fc3"))?))
}

fn mnist(parameters: &Parameters) -> Result<Sequential> {
    Ok(Sequential::new()
        .add(Conv2d::builder(1, 32, 3).padding(1).build(&parameters.at("conv1"))?.with_relu())
        .add(MaxPool2d::new(2)?)
        .add(Conv2d::builder(32, 64, 3).padding(1).build(&parameters.at("conv2"))?.with_relu())
        .add(MaxPool2d::new(2)?)
        .add(Flatten)
        .add(Linear::new(3136, 128, &parameters.at("fc1"))?.with_relu())
        .add(Linear::new(128, 10, &parameters.at("fc2"))?))
}

fn cifar(parameters: &Parameters) -> Result<Sequential> {
    let mut model = Sequential::new();
    let mut from = 3;
    for (i, to) in [32, 32, 64, 64, 128, 128].into_iter().enumerate() {
        model = model.add(ConvNorm::new(from, to, &parameters.at(format!("block{i}")))?);
        if i % 2 == 1 {
            model = model.add(MaxPool2d::new(2)?);
        }
        from = to;
    }
    Ok(model.add(Flatten).add(Linear::new(2048, 256, &parameters.at("fc1"))?.with_relu()).add(Linear::new(
        256,
        10,
        &parameters.at("fc2"),
    )?))
}

/// Two levels down, two up, 16 channels at the top.
struct UNet {
    down: [Sequential; 2],
    bottom: Sequential,
    enlarge: [ConvTranspose2d; 2],
    up: [Sequential; 2],
    head: Conv2d,
}

impl UNet {
    fn new(parameters: &Parameters) -> Result<Self> {
        let twice = |name: &str, from: usize, to: usize| -> Result<Sequential> {
            let scope = parameters.at(name);
            Ok(Sequential::new().add(ConvNorm::new(from, to, &scope.at(0))?).add(ConvNorm::new(to, to, &scope.at(1))?))
        };
        let enlarge = |name: &str, from: usize, to: usize| {
            ConvTranspose2d::builder(from, to, 2).stride(2).build(&parameters.at(name))
        };
        Ok(Self {
            down: [twice("down1", 4, 16)?, twice("down2", 16, 32)?],
            bottom: twice("bottom", 32, 64)?,
            enlarge: [enlarge("enlarge2", 64, 32)?, enlarge("enlarge1", 32, 16)?],
            up: [twice("up2", 64, 32)?, twice("up1", 32, 16)?],
            head: Conv2d::new(16, 5, 1, &parameters.at("head"))?,
        })
    }
}

impl ModuleT for UNet {
    fn forward_t(&self, xs: &Tensor, train: bool) -> candle_core::Result<Tensor> {
        let pool = MaxPool2d::new(2)?;
        let first = self.down[0].forward_t(xs, train)?;
        let second = self.down[1].forward_t(&pool.forward(&first)?, train)?;
        // Assigned anew, not shadowed: what is not needed any more is freed, not kept until the end.
        let mut up = self.bottom.forward_t(&pool.forward(&second)?, train)?;
        up = candle_course::ops::cat(&[&second, &self.enlarge[0].forward(&up)?], 1)?;
        up = self.up[0].forward_t(&up, train)?;
        up = candle_course::ops::cat(&[&first, &self.enlarge[1].forward(&up)?], 1)?;
        self.head.forward(&self.up[1].forward_t(&up, train)?)
    }
}

impl ToOnnx for UNet {
    fn to_onnx(&self, graph: &mut Graph, input: &Value) -> Result<Value> {
        let pool = MaxPool2d::new(2)?;
        let first = graph.apply(&self.down[0], input)?;
        let ys = graph.apply(&pool, &first)?;
        let second = graph.apply(&self.down[1], &ys)?;
        let ys = graph.apply(&pool, &second)?;
        let mut up = graph.apply(&self.bottom, &ys)?;
        for (level, skip) in [second, first].iter().enumerate() {
            let enlarged = graph.apply(&self.enlarge[level], &up)?;
            let joined = graph.concat(&[skip, &enlarged], 1)?;
            up = graph.apply(&self.up[level], &joined)?;
        }
        graph.apply(&self.head, &up)
    }
}

/// conv, norm, ReLU, conv, norm; plus the input, or a projection of it; ReLU.
pub struct Residual {
    first: ConvNorm,
    second: (Conv2d, BatchNorm2d),
    shortcut: Option<(Conv2d, BatchNorm2d)>,
}

impl Residual {
    fn new(from: usize, to: usize, stride: usize, scope: &Scope) -> Result<Self> {
        let conv = |from, size, stride, name: &str| {
            Conv2d::builder(from, to, size).stride(stride).padding(size / 2).no_bias().build(&scope.at(name))
        };
        let norm = |name: &str| BatchNorm2d::builder(to).build(&scope.at(name));
        let first = ConvNorm(conv(from, 3, stride, "conv1")?, norm("bn1")?.with_relu());
        let shortcut = (stride > 1 || from != to)
            .then(|| -> Result<_> { Ok((conv(from, 1, stride, "downsample.0")?, norm("downsample.1")?)) });
        Ok(Self { first, second: (conv(to, 3, 1, "conv2")?, norm("bn2")?), shortcut: shortcut.transpose()? })
    }
}

impl ModuleT for Residual {
    fn forward_t(&self, xs: &Tensor, train: bool) -> candle_core::Result<Tensor> {
        let pass = |(conv, norm): &(Conv2d, BatchNorm2d), xs: &Tensor| norm.forward_t(&conv.forward(xs)?, train);
        let ys = pass(&self.second, &self.first.forward_t(xs, train)?)?;
        let shortcut = match &self.shortcut {
            Some(shortcut) => pass(shortcut, xs)?,
            None => xs.clone(),
        };
        Ok(candle_course::ops::add_relu(&ys, &shortcut)?)
    }
}

impl ToOnnx for Residual {
    fn to_onnx(&self, graph: &mut Graph, input: &Value) -> Result<Value> {
        let pass = |graph: &mut Graph, (conv, norm): &(Conv2d, BatchNorm2d), value: &Value| {
            let ys = graph.apply(conv, value)?;
            graph.apply(norm, &ys)
        };
        let ys = graph.apply(&self.first, input)?;
        let ys = pass(graph, &self.second, &ys)?;
        let shortcut = match &self.shortcut {
            Some(shortcut) => pass(graph, shortcut, input)?,
            None => input.clone(),
        };
        let sum = graph.add(&ys, &shortcut)?;
        graph.relu(&sum)
    }
}

/// He et al. 2015; for 32 × 32 pixels with a 3 × 3 convolution in front, and no pooling there.
fn resnet18(parameters: &Parameters, large: bool) -> Result<Sequential> {
    let size = if large { 7 } else { 3 };
    let front = Conv2d::builder(3, 64, size).stride(if large { 2 } else { 1 }).padding(size / 2).no_bias();
    let norm = BatchNorm2d::builder(64).build(&parameters.at("bn1"))?.with_relu();
    let mut model = Sequential::new().add(ConvNorm(front.build(&parameters.at("conv1"))?, norm));
    if large {
        model = model.add(MaxPool2d::builder(3).stride(2).padding(1).build()?);
    }
    let mut from = 64;
    for (i, to) in [64, 128, 256, 512].into_iter().enumerate() {
        for block in 0..2 {
            let stride = if i > 0 && block == 0 { 2 } else { 1 };
            model = model.add(Residual::new(from, to, stride, &parameters.at(format!("layer{}.{block}", i + 1)))?);
            from = to;
        }
    }
    let classes = if large { 1000 } else { 10 };
    let head = Linear::new(512, classes, &parameters.at("fc"))?;
    Ok(model.add(AdaptiveAvgPool2d::new(1)?).add(Flatten).add(head))
}

/// A GRU over 50 steps; its last state is classified.
struct LastState(Gru, Linear);

impl ModuleT for LastState {
    fn forward_t(&self, xs: &Tensor, train: bool) -> candle_core::Result<Tensor> {
        let states = self.0.forward_t(xs, train)?;
        self.1.forward(&states.narrow(1, states.dim(1)? - 1, 1)?.squeeze(1)?)
    }
}

impl ToOnnx for LastState {
    fn to_onnx(&self, graph: &mut Graph, input: &Value) -> Result<Value> {
        let states = graph.apply(&self.0, input)?;
        let last = graph.select(&states, 1, states.dims()[1] - 1)?;
        graph.apply(&self.1, &last)
    }
}

fn gru(parameters: &Parameters) -> Result<LastState> {
    let layer = Gru::new(32, 64, &parameters.at("gru"))?;
    Ok(LastState(layer, Linear::new(64, 10, &parameters.at("head"))?))
}

/// A model that is trained, exported and made ready for predictions.
pub trait Network: Model + ToOnnx {}

impl<M: Model + ToOnnx> Network for M {}

/// The model called `name`, its parameters in `parameters`.
pub fn network(name: &str, parameters: &Parameters) -> Result<Box<dyn Network>> {
    Ok(match name {
        "mlp" => Box::new(mlp(parameters)?),
        "mnist" => Box::new(mnist(parameters)?),
        "cifar" => Box::new(cifar(parameters)?),
        "gru" => Box::new(gru(parameters)?),
        "resnet18" => Box::new(resnet18(parameters, false)?),
        "resnet18-224" => Box::new(resnet18(parameters, true)?),
        _ => Box::new(UNet::new(parameters)?),
    })
}

/// The training step of `model`.
pub fn build(model: &str, precision: &str, device: &Device) -> Result<Step> {
    let precision = match precision {
        "f32" => Precision::F32,
        "tf32" => Precision::Tf32,
        "bf16" => Precision::Bf16,
        _ => return Err(Error::argument("precision", "f32, tf32 or bf16", precision)),
    };
    let parameters = Parameters::new(0, device);
    let adam = super::adaptive(model);
    let model = network(model, &parameters)?;
    let mut optimizer: Box<dyn Optimizer> = if adam {
        Box::new(AdamW::new(&parameters)?)
    } else {
        Box::new(Sgd::builder(&parameters).momentum(0.9).build()?)
    };
    let (loss, learning_rate) = (CrossEntropy::default(), if adam { 1e-3 } else { 0.01 });
    Ok(Box::new(move |xs, targets| {
        let _scope = precision.scope(xs.device())?;
        let batch = Batch { inputs: xs.clone(), targets: targets.clone(), indices: Vec::new() };
        train_step(&*model, &loss, &mut *optimizer, &batch, learning_rate)
    }))
}
