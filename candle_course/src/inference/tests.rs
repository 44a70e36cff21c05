//! Against the model itself in evaluation mode.

use candle_core::{Module as _, ModuleT};

use super::*;
use crate::kernels::parallel::threads;
use crate::nn::{
    Activation, AdaptiveAvgPool2d, AvgPool2d, BatchNorm1d, BatchNorm2d, Conv2d, ConvTranspose2d, Dropout, Flatten,
    GroupNorm, Gru, LayerNorm, Linear, Lstm, MaxPool2d, Parameters, ResNet18, Rnn, Scope, Sequential, Upsample,
    UpsampleMode,
};
use crate::onnx::{Graph, Value};
use crate::test_support::peak_memory;

fn waves(shape: &[usize], pace: f32) -> Tensor {
    let values: Vec<f32> = (0..shape.iter().product()).map(|i: usize| (i as f32 * pace).sin() + 0.2).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// The largest difference, in parts of the largest number.
fn off(found: &Tensor, expected: &Tensor) -> f32 {
    assert_eq!(found.dims(), expected.dims());
    let largest = |xs: &Tensor| xs.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
    largest(&(found - expected).unwrap()) / largest(expected).max(1.0)
}

/// A model whose batch norms have seen a batch, and the same made ready for batches of `batch`.
fn ready(model: &dyn ToOnnx, shape: &[usize], batch: usize) -> Inference {
    let inputs = |batch: usize| [&[batch], shape].concat();
    model.forward_t(&waves(&inputs(2), 0.37), true).unwrap();
    let example = Tensor::zeros(inputs(batch), DType::F32, &Device::Cpu).unwrap();
    Inference::builder(model, &example).layer::<ConvNorm>().build().unwrap()
}

fn check(model: &dyn ToOnnx, shape: &[usize], what: &str) {
    // Other sizes than the example's, smaller ones after larger ones.
    check_batches(model, shape, what, &[1, 3], &[3, 5, 1, 2]);
}

fn check_batches(model: &dyn ToOnnx, shape: &[usize], what: &str, examples: &[usize], counts: &[usize]) {
    for &batch in examples {
        let mut inference = ready(model, shape, batch);
        for &count in counts {
            let xs = waves(&[&[count], shape].concat(), 0.71);
            let expected = model.forward_t(&xs, false).unwrap();
            let worst = off(&inference.forward(&xs).unwrap(), &expected);
            assert!(worst < 1e-5, "{what}, made for {batch}, of {count}: {worst}");
        }
    }
}

/// conv, batch norm with ReLU: a layer of one's own.
struct ConvNorm(Conv2d, BatchNorm2d);

impl ConvNorm {
    fn new(from: usize, to: usize, scope: &Scope) -> Self {
        let conv = Conv2d::builder(from, to, 3).padding(1).no_bias().build(&scope.at("conv")).unwrap();
        Self(conv, BatchNorm2d::new(to, &scope.at("norm")).unwrap().with_relu())
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

/// A U-Net of one level: a value that is read twice, a join, a transposed convolution.
struct UNet {
    down: ConvNorm,
    pool: MaxPool2d,
    bottom: ConvNorm,
    enlarge: ConvTranspose2d,
    up: ConvNorm,
    head: Conv2d,
}

impl UNet {
    fn new(scope: &Scope) -> Self {
        Self {
            down: ConvNorm::new(4, 16, &scope.at("down")),
            pool: MaxPool2d::new(2).unwrap(),
            bottom: ConvNorm::new(16, 32, &scope.at("bottom")),
            enlarge: ConvTranspose2d::builder(32, 16, 2).stride(2).build(&scope.at("enlarge")).unwrap(),
            up: ConvNorm::new(32, 16, &scope.at("up")),
            head: Conv2d::new(16, 5, 1, &scope.at("head")).unwrap(),
        }
    }
}

impl ModuleT for UNet {
    fn forward_t(&self, xs: &Tensor, train: bool) -> candle_core::Result<Tensor> {
        let first = self.down.forward_t(xs, train)?;
        let low = self.bottom.forward_t(&self.pool.forward(&first)?, train)?;
        let joined = Tensor::cat(&[&first, &self.enlarge.forward(&low)?], 1)?;
        self.head.forward(&self.up.forward_t(&joined, train)?)
    }
}

impl ToOnnx for UNet {
    fn to_onnx(&self, graph: &mut Graph, input: &Value) -> Result<Value> {
        let first = graph.apply(&self.down, input)?;
        let low = graph.apply(&self.pool, &first)?;
        let low = graph.apply(&self.bottom, &low)?;
        let enlarged = graph.apply(&self.enlarge, &low)?;
        let joined = graph.concat(&[&first, &enlarged], 1)?;
        let up = graph.apply(&self.up, &joined)?;
        graph.apply(&self.head, &up)
    }
}

/// The last state of a recurrent layer, classified.
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

fn cnn(parameters: &Parameters) -> Sequential {
    let at = |name: &str| parameters.at(name);
    Sequential::new()
        .add(Conv2d::builder(3, 16, 3).padding(1).build(&at("conv0")).unwrap())
        .add(BatchNorm2d::new(16, &at("norm0")).unwrap())
        .add(Activation::Relu)
        .add(ConvNorm::new(16, 16, &at("block")))
        .add(MaxPool2d::new(2).unwrap())
        .add(Flatten)
        .add(Dropout::new(0.5, &at("drop")).unwrap())
        .add(Linear::new(16 * 36, 20, &at("fc1")).unwrap())
        .add(BatchNorm1d::new(20, &at("norm1")).unwrap())
        .add(Activation::Relu)
        .add(Linear::new(20, 5, &at("fc2")).unwrap())
}

#[test]
fn networks_give_what_they_gave_before() {
    let parameters = Parameters::new(3, &Device::Cpu);
    let at = |name: &str| parameters.at(name);
    check(&cnn(&parameters), &[3, 12, 12], "a CNN");
    check(&UNet::new(&at("unet")), &[4, 16, 24], "a U-Net");
    check(&LastState(Gru::new(5, 8, &at("gru")).unwrap(), Linear::new(8, 3, &at("head")).unwrap()), &[7, 5], "a GRU");
    let small = ResNet18::builder(10).small_images().build(&at("small")).unwrap();
    check_batches(&small, &[3, 8, 8], "ResNet-18, small", &[1], &[1, 2]);
    check_batches(&ResNet18::new(10, &at("large")).unwrap(), &[3, 32, 32], "ResNet-18", &[1], &[2]);
}

#[test]
fn every_layer_gives_what_it_gave_before() {
    let parameters = Parameters::new(3, &Device::Cpu);
    let at = |name: &str| parameters.at(name);
    let image: &[usize] = &[4, 9, 7];
    let layers: Vec<(&str, Box<dyn ToOnnx>, &[usize])> = vec![
        ("ReLU", Box::new(Activation::Relu), image),
        ("GELU", Box::new(Activation::Gelu), image),
        ("dropout", Box::new(Dropout::new(0.5, &at("dropout")).unwrap()), image),
        ("flatten", Box::new(Flatten), image),
        ("linear", Box::new(Linear::new(7, 5, &at("linear")).unwrap().with_relu()), image),
        ("linear without bias", Box::new(Linear::builder(7, 5).no_bias().build(&at("bare")).unwrap()), &[7]),
        (
            "grouped",
            Box::new(Conv2d::builder(4, 6, (3, 2)).stride((2, 1)).groups(2).build(&at("grouped")).unwrap()),
            image,
        ),
        (
            "depthwise",
            Box::new(Conv2d::builder(4, 8, 3).padding(1).groups(4).build(&at("depthwise")).unwrap().with_relu()),
            image,
        ),
        ("dilated", Box::new(Conv2d::builder(4, 6, 3).dilation(2).no_bias().build(&at("dilated")).unwrap()), image),
        (
            "transposed",
            Box::new(
                ConvTranspose2d::builder(4, 6, 3)
                    .stride(2)
                    .padding(1)
                    .output_padding(1)
                    .groups(2)
                    .build(&at("t"))
                    .unwrap(),
            ),
            image,
        ),
        (
            "transposed, stride 1",
            Box::new(ConvTranspose2d::builder(4, 6, 3).padding(1).no_bias().build(&at("t1")).unwrap()),
            image,
        ),
        ("maximum", Box::new(MaxPool2d::builder(3).stride(2).padding(1).ceil_mode().build().unwrap()), image),
        ("mean", Box::new(AvgPool2d::builder(3).stride(2).padding(1).exclude_padding().build().unwrap()), image),
        ("means", Box::new(AdaptiveAvgPool2d::new((4, 3)).unwrap()), image),
        ("batch norm", Box::new(BatchNorm2d::builder(4).no_affine().build(&at("norm")).unwrap().with_relu()), image),
        ("layer norm", Box::new(LayerNorm::new(7, &at("layer")).unwrap()), image),
        ("group norm", Box::new(GroupNorm::new(2, 4, &at("group")).unwrap()), image),
        ("upsampling", Box::new(Upsample::new(2, UpsampleMode::Bilinear).unwrap()), image),
        ("RNN", Box::new(Rnn::builder(5, 4).relu().bidirectional(true).build(&at("rnn")).unwrap()), &[6, 5]),
        ("LSTM", Box::new(Lstm::builder(5, 4).layers(2).build(&at("lstm")).unwrap()), &[6, 5]),
    ];
    for (what, layer, shape) in &layers {
        check(&**layer, shape, what);
    }
}

#[test]
fn norms_and_relu_are_in_the_layers_before_them_where_nobody_else_listens() {
    let parameters = Parameters::new(0, &Device::Cpu);
    // Two convolutions, pooling, two linear layers.
    assert_eq!(ready(&cnn(&parameters), &[3, 12, 12], 1).plan.steps.len(), 5);

    /// Of the sum of a convolution, its norm and the ReLU of both, nothing may go into the convolution.
    struct Listened(Conv2d, BatchNorm2d);
    impl ModuleT for Listened {
        fn forward_t(&self, xs: &Tensor, train: bool) -> candle_core::Result<Tensor> {
            let ys = self.0.forward(xs)?;
            let normed = self.1.forward_t(&ys, train)?;
            (&ys + &normed)? + normed.relu()?
        }
    }
    impl ToOnnx for Listened {
        fn to_onnx(&self, graph: &mut Graph, input: &Value) -> Result<Value> {
            let ys = graph.apply(&self.0, input)?;
            let normed = graph.apply(&self.1, &ys)?;
            let (sum, relu) = (graph.add(&ys, &normed)?, graph.relu(&normed)?);
            graph.add(&sum, &relu)
        }
    }
    let conv = Conv2d::new(4, 4, 1, &parameters.at("listened.conv")).unwrap();
    let listened = Listened(conv, BatchNorm2d::new(4, &parameters.at("listened.norm")).unwrap());
    check(&listened, &[4, 5, 5], "a convolution with several listeners");
    assert_eq!(ready(&listened, &[4, 5, 5], 1).plan.steps.len(), 5);

    // Channels that are no longer those of the convolution, and those of a sequence.
    let flat = Sequential::new()
        .add(Conv2d::new(4, 4, 1, &parameters.at("flat.conv")).unwrap())
        .add(Flatten)
        .add(BatchNorm1d::new(36, &parameters.at("flat.norm")).unwrap());
    check(&flat, &[4, 3, 3], "a norm behind a flattened convolution");
    let sequence = Sequential::new()
        .add(Linear::new(5, 6, &parameters.at("sequence.fc")).unwrap())
        .add(BatchNorm1d::new(6, &parameters.at("sequence.norm")).unwrap());
    check(&sequence, &[6, 5], "a norm over a sequence's steps");
}

#[test]
fn weights_are_those_of_the_moment() {
    let parameters = Parameters::new(0, &Device::Cpu);
    let at = |name: &str| parameters.at(name);
    let model = Sequential::new()
        .add(Linear::new(6, 8, &at("fc")).unwrap())
        .add(LayerNorm::new(8, &at("norm")).unwrap())
        .add(Gru::new(8, 4, &at("gru")).unwrap());
    let xs = waves(&[2, 3, 6], 0.3);
    let mut inference = Inference::new(&model, &xs).unwrap();
    let mut clone = inference.clone();
    let before = model.forward_t(&xs, false).unwrap().detach();
    for (_, var) in parameters.all() {
        var.set(&var.affine(0.5, 0.25).unwrap()).unwrap();
    }
    assert!(off(&model.forward_t(&xs, false).unwrap(), &before) > 0.01);
    for inference in [&mut inference, &mut clone] {
        assert!(off(&inference.forward(&xs).unwrap(), &before) < 1e-6);
    }
}

/// In a process of its own with one thread, so that nothing is allocated elsewhere.
#[test]
fn nothing_is_allocated_after_the_first_calls() {
    const CHILD: &str = "CANDLE_COURSE_TEST_INFERENCE_CHILD";
    if std::env::var_os(CHILD).is_none() {
        let name = "inference::tests::nothing_is_allocated_after_the_first_calls";
        let child = crate::test_support::this_binary()
            .args(["--exact", name, "--nocapture"])
            .envs([(CHILD, "1"), ("RAYON_NUM_THREADS", "1")])
            .env_remove("CANDLE_NUM_THREADS")
            .output()
            .unwrap();
        assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stderr));
        return;
    }
    assert_eq!(threads(), 1);
    let parameters = Parameters::new(0, &Device::Cpu);
    let network = ResNet18::builder(3).small_images().build(&parameters.at("resnet")).unwrap();
    let (cnn, unet) = (cnn(&parameters), UNet::new(&parameters.at("unet")));
    let gru =
        LastState(Gru::new(5, 8, &parameters.at("gru")).unwrap(), Linear::new(8, 3, &parameters.at("head")).unwrap());
    let cases: [(&dyn ToOnnx, &[usize]); 4] =
        [(&cnn, &[3, 12, 12]), (&unet, &[4, 16, 16]), (&network, &[3, 8, 8]), (&gru, &[7, 5])];
    for (model, shape) in cases {
        let mut inference = ready(model, shape, 2);
        let xs: Vec<f32> = waves(&[&[2], shape].concat(), 0.3).flatten_all().unwrap().to_vec1().unwrap();
        let mut call = || peak_memory(|| inference.run(&xs).unwrap().len()).1;
        assert!(call() > 0, "the buffers");
        call(); // scratch buffers come in another order, and grow once more
        assert_eq!(call(), 0, "{shape:?}");
    }
}

#[test]
fn what_cannot_be_made_ready_or_does_not_fit_is_told() {
    struct Own;
    impl ModuleT for Own {
        fn forward_t(&self, xs: &Tensor, _: bool) -> candle_core::Result<Tensor> {
            xs.sin()
        }
    }
    impl ToOnnx for Own {
        fn to_onnx(&self, graph: &mut Graph, input: &Value) -> Result<Value> {
            let name = graph.node("Sin", [input.name()], []);
            Ok(graph.value(name, input.example().sin()?))
        }
    }
    let parameters = Parameters::new(0, &Device::Cpu);
    let model = Linear::new(4, 2, &parameters.at("fc")).unwrap();
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    let text = |model: &dyn ToOnnx, example: &Tensor| Inference::new(model, example).unwrap_err().to_string();
    assert!(text(&Own, &zeros(&[1, 4])).contains("ONNX's `Sin` by its name"));
    assert!(text(&Sequential::new().add(Own), &zeros(&[1, 4])).contains("`Own`, layer 0"));
    assert!(text(&model, &zeros(&[0, 4])).contains("`example`: expected shape [N, …], not empty, got [0, 4]"));
    assert!(text(&model, &zeros(&[1, 4]).to_dtype(DType::F64).unwrap()).contains("expected dtype f32, got F64"));
    assert!(text(&model, &zeros(&[1, 5])).contains("a last dimension of 4"));
    let mut inference = Inference::new(&model, &zeros(&[1, 4])).unwrap();
    let wrong = inference.forward(&zeros(&[2, 5])).unwrap_err().to_string();
    assert!(wrong.contains("[4] behind N, f32, on the CPU, got [2, 5]"), "{wrong}");
    assert!(
        inference.run(&[0.0; 7]).unwrap_err().to_string().contains("a multiple of the 4 numbers of an example, got 7")
    );
    assert!(inference.run(&[]).is_err());
    assert_eq!(inference.run(&[0.0; 8]).unwrap().len(), 4);
}
