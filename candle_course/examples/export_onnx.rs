//! Models as ONNX files, each with an input and what the model makes of it: the Rust half of
//! `scripts/interop`, which runs them in ONNX Runtime. `cargo run --release --example export_onnx folder`.

use std::path::Path;

use candle_course::onnx::{Graph, ToOnnx, Value};
use candle_course::prelude::*;

/// A U-Net of one step down and one up, as a model of one's own.
struct SmallUNet {
    down: Conv2d,
    norm: BatchNorm2d,
    pool: MaxPool2d,
    middle: Conv2d,
    up: ConvTranspose2d,
    out: Conv2d,
}

impl SmallUNet {
    fn new(parameters: &Parameters) -> Result<Self> {
        Ok(Self {
            down: Conv2d::builder(3, 8, 3).padding(1).build(&parameters.at("down"))?,
            norm: BatchNorm2d::new(8, &parameters.at("norm"))?.with_relu(),
            pool: MaxPool2d::new(2)?,
            middle: Conv2d::builder(8, 16, 3).padding(1).build(&parameters.at("middle"))?.with_relu(),
            up: ConvTranspose2d::builder(16, 8, 2).stride(2).build(&parameters.at("up"))?,
            out: Conv2d::new(16, 4, 1, &parameters.at("out"))?,
        })
    }
}

impl ModuleT for SmallUNet {
    fn forward_t(&self, xs: &Tensor, train: bool) -> candle_core::Result<Tensor> {
        let skip = self.norm.forward_t(&self.down.forward(xs)?, train)?;
        let ys = self.up.forward(&self.middle.forward(&self.pool.forward(&skip)?)?)?;
        self.out.forward(&Tensor::cat(&[&ys, &skip], 1)?)
    }
}

impl ToOnnx for SmallUNet {
    fn to_onnx(&self, graph: &mut Graph, input: &Value) -> Result<Value> {
        let skip = graph.apply(&self.down, input)?;
        let skip = graph.apply(&self.norm, &skip)?;
        let ys = graph.apply(&self.pool, &skip)?;
        let ys = graph.apply(&self.middle, &ys)?;
        let ys = graph.apply(&self.up, &ys)?;
        let joined = graph.concat(&[&ys, &skip], 1)?;
        graph.apply(&self.out, &joined)
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
    let builder = || OnnxExport::builder(parameters).input("xs").output("ys");
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
        ("unet", Box::new(SmallUNet::new(&parameters)?), &[1, 3, 16, 16]),
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
    for (name, layer, shape) in &layers {
        write(folder, name, &parameters, &**layer, shape)?;
    }
    println!("{} models", layers.len());
    Ok(())
}
