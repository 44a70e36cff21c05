//! Every layer, the networks of the lessons and a few larger ones as ONNX files, each with an input and what the model makes of it: the Rust half of
//! `scripts/interop`, which runs them in ONNX Runtime. `cargo run --release --example export_onnx folder`.

mod lessons;

use std::path::Path;

use candle_course::onnx::{Graph, ToOnnx, Value};
use candle_course::prelude::*;

/// Two convolutions, each with its norm and ReLU.
fn twice(from: usize, to: usize, scope: &Scope) -> Result<Sequential> {
    let mut model = Sequential::new();
    for (i, from) in [from, to].into_iter().enumerate() {
        model = model
            .add(Conv2d::builder(from, to, 3).padding(1).build(&scope.at(format!("{i}.conv")))?)
            .add(BatchNorm2d::new(to, &scope.at(format!("{i}.norm")))?.with_relu());
    }
    Ok(model)
}

/// A U-Net as a model of one's own, two steps down and two up: that of `benches`.
struct UNet {
    down: [Sequential; 2],
    pool: MaxPool2d,
    bottom: Sequential,
    enlarge: [ConvTranspose2d; 2],
    up: [Sequential; 2],
    head: Conv2d,
}

impl UNet {
    fn new(scope: &Scope) -> Result<Self> {
        let enlarge =
            |name: &str, from: usize, to: usize| ConvTranspose2d::builder(from, to, 2).stride(2).build(&scope.at(name));
        Ok(Self {
            down: [twice(4, 16, &scope.at("down1"))?, twice(16, 32, &scope.at("down2"))?],
            pool: MaxPool2d::new(2)?,
            bottom: twice(32, 64, &scope.at("bottom"))?,
            enlarge: [enlarge("enlarge2", 64, 32)?, enlarge("enlarge1", 32, 16)?],
            up: [twice(64, 32, &scope.at("up2"))?, twice(32, 16, &scope.at("up1"))?],
            head: Conv2d::new(16, 5, 1, &scope.at("head"))?,
        })
    }
}

impl ModuleT for UNet {
    fn forward_t(&self, xs: &Tensor, train: bool) -> candle_core::Result<Tensor> {
        let first = self.down[0].forward_t(xs, train)?;
        let second = self.down[1].forward_t(&self.pool.forward(&first)?, train)?;
        let mut up = self.bottom.forward_t(&self.pool.forward(&second)?, train)?;
        up = self.up[0].forward_t(&Tensor::cat(&[&second, &self.enlarge[0].forward(&up)?], 1)?, train)?;
        up = self.up[1].forward_t(&Tensor::cat(&[&first, &self.enlarge[1].forward(&up)?], 1)?, train)?;
        self.head.forward(&up)
    }
}

impl ToOnnx for UNet {
    fn to_onnx(&self, graph: &mut Graph, input: &Value) -> Result<Value> {
        let first = graph.apply(&self.down[0], input)?;
        let ys = graph.apply(&self.pool, &first)?;
        let second = graph.apply(&self.down[1], &ys)?;
        let ys = graph.apply(&self.pool, &second)?;
        let mut up = graph.apply(&self.bottom, &ys)?;
        for (level, skip) in [second, first].iter().enumerate() {
            let enlarged = graph.apply(&self.enlarge[level], &up)?;
            let joined = graph.concat(&[skip, &enlarged], 1)?;
            up = graph.apply(&self.up[level], &joined)?;
        }
        graph.apply(&self.head, &up)
    }
}

/// Numbers that are not all alike.
fn numbers(shape: &[usize]) -> Result<Tensor> {
    let count = shape.iter().product::<usize>() as f32;
    Ok(Tensor::arange(0f32, count, &Device::Cpu)?.affine(0.37, 0.1)?.sin()?.affine(1.3, 0.2)?.reshape(shape)?)
}

/// Writes a model with and without folded norms, and for the newest operators, with an input of another
/// batch size than the example's.
fn write(folder: &Path, name: &str, parameters: &Parameters, model: &dyn ToOnnx, shape: &[usize]) -> Result<()> {
    // So that running statistics are not those of the start.
    model.forward_t(&numbers(&[&[4], &shape[1..]].concat())?, true)?;
    let example = numbers(shape)?;
    let builder = || OnnxExport::builder(parameters).input("xs").output("ys").layer::<lessons::Residual>();
    builder().build()?.save(model, &example, folder.join(format!("{name}.onnx")))?;
    builder().fold_batch_norms().build()?.save(model, &example, folder.join(format!("{name}.folded.onnx")))?;
    builder().opset(22).build()?.save(model, &example, folder.join(format!("{name}.opset22.onnx")))?;
    let xs = numbers(&[&[shape[0] + 1], &shape[1..]].concat())?;
    let ys = model.forward_t(&xs, false)?.detach();
    write_weights(
        &State::from([("xs".to_owned(), xs), ("ys".to_owned(), ys)]),
        None,
        folder.join(format!("{name}.safetensors")),
    )
}

fn main() -> Result<()> {
    let folder = std::env::args().nth(1).ok_or_else(|| Error::argument("folder", "a folder to write to", "nothing"))?;
    let folder = Path::new(&folder);
    let parameters = Parameters::new(3, &Device::Cpu);
    let at = |name: &str| parameters.at(name);
    let image: &[usize] = &[2, 4, 9, 7];
    let layers: Vec<(&str, Box<dyn ToOnnx>, &[usize])> = vec![
        ("relu", Box::new(Activation::Relu), image),
        ("gelu", Box::new(Activation::Gelu), image),
        ("silu", Box::new(Activation::Silu), image),
        ("tanh", Box::new(Activation::Tanh), image),
        ("sigmoid", Box::new(Activation::Sigmoid), image),
        ("dropout", Box::new(Dropout::new(0.5, &at("dropout"))?), image),
        ("flatten", Box::new(Flatten), image),
        ("linear", Box::new(Linear::new(7, 5, &at("linear"))?), image),
        ("linear_no_bias", Box::new(Linear::builder(7, 5).no_bias().build(&at("linear_no_bias"))?), &[2, 7]),
        (
            "conv",
            Box::new(
                Conv2d::builder(4, 6, (3, 2)).stride((2, 1)).padding((1, 0)).groups(2).build(&at("conv"))?.with_relu(),
            ),
            image,
        ),
        ("conv_dilated", Box::new(Conv2d::builder(4, 6, 3).dilation(2).no_bias().build(&at("conv_dilated"))?), image),
        (
            "conv_transpose",
            Box::new(
                ConvTranspose2d::builder(4, 6, 3)
                    .stride(2)
                    .padding(1)
                    .output_padding(1)
                    .groups(2)
                    .build(&at("conv_transpose"))?,
            ),
            image,
        ),
        ("max_pool", Box::new(MaxPool2d::builder(3).stride(2).padding(1).build()?), image),
        ("max_pool_ceil", Box::new(MaxPool2d::builder(2).ceil_mode().build()?), image),
        ("avg_pool", Box::new(AvgPool2d::builder(3).stride(2).padding(1).build()?), image),
        ("avg_pool_inside", Box::new(AvgPool2d::builder(3).stride(2).padding(1).exclude_padding().build()?), image),
        ("global_pool", Box::new(AdaptiveAvgPool2d::new(1)?), image),
        ("adaptive_pool", Box::new(AdaptiveAvgPool2d::new((4, 3))?), image),
        ("batch_norm_2d", Box::new(BatchNorm2d::new(4, &at("batch_norm_2d"))?.with_relu()), image),
        ("batch_norm_1d", Box::new(BatchNorm1d::builder(4).no_affine().build(&at("batch_norm_1d"))?), &[2, 4]),
        ("layer_norm", Box::new(LayerNorm::new((9, 7), &at("layer_norm"))?), image),
        ("layer_norm_plain", Box::new(LayerNorm::builder(7).no_affine().build(&at("layer_norm_plain"))?), image),
        ("group_norm", Box::new(GroupNorm::new(2, 4, &at("group_norm"))?), image),
        ("nearest", Box::new(Upsample::new((2, 3), UpsampleMode::Nearest)?), image),
        ("bilinear", Box::new(Upsample::new((2, 3), UpsampleMode::Bilinear)?), image),
        ("bilinear_corners", Box::new(Upsample::new(2, UpsampleMode::BilinearAlignCorners)?), image),
        ("rnn", Box::new(Rnn::new(5, 4, &at("rnn"))?), &[2, 6, 5]),
        ("rnn_relu", Box::new(Rnn::builder(5, 4).relu().bidirectional(true).build(&at("rnn_relu"))?), &[2, 6, 5]),
        ("lstm", Box::new(Lstm::builder(5, 4).layers(2).bidirectional(true).build(&at("lstm"))?), &[2, 6, 5]),
        ("gru", Box::new(Gru::builder(5, 4).layers(2).build(&at("gru"))?), &[2, 6, 5]),
        ("unet", Box::new(UNet::new(&at("unet"))?), &[1, 4, 32, 16]),
        ("resnet18", Box::new(ResNet18::new(10, &at("resnet18"))?), &[1, 3, 64, 64]),
        (
            "cnn",
            Box::new(
                Sequential::new()
                    .add(Conv2d::builder(3, 8, 3).padding(1).build(&at("cnn.conv"))?)
                    .add(BatchNorm2d::new(8, &at("cnn.norm"))?)
                    .add(Activation::Relu)
                    .add(MaxPool2d::new(2)?)
                    .add(Flatten)
                    .add(Dropout::new(0.2, &at("cnn.drop"))?)
                    .add(Linear::new(128, 5, &at("cnn.fc"))?),
            ),
            &[1, 3, 8, 8],
        ),
    ];
    let networks = lessons::networks(&parameters)?;
    for (name, layer, shape) in layers.iter().chain(&networks) {
        write(folder, name, &parameters, &**layer, shape)?;
    }
    println!("{} models", layers.len() + networks.len());
    Ok(())
}
