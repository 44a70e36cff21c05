//! What stands in the files; that ONNX Runtime computes the same is seen by `scripts/interop`.

use candle_core::{DType, Device, Module as _, ModuleT, Tensor};
use prost::Message as _;

use super::*;
use crate::nn::UpsampleMode;

fn decoded(export: &OnnxExport, model: &dyn ToOnnx, shape: &[usize]) -> proto::Graph {
    let example = Tensor::ones(shape, DType::F32, &Device::Cpu).unwrap();
    let bytes = export.to_bytes(model, &example).unwrap();
    let model = proto::Model::decode(bytes.as_slice()).unwrap();
    assert_eq!(model.opset_import[0].version, export.opset as i64);
    let graph = model.graph.unwrap();
    // Operators stand in order, and read only what is there; names are unique.
    let mut known: Vec<&str> = graph.inputs.iter().map(|input| input.name.as_str()).collect();
    known.extend(graph.initializers.iter().map(|constant| constant.name.as_str()));
    for node in &graph.nodes {
        for input in node.inputs.iter().filter(|input| !input.is_empty()) {
            assert!(known.contains(&input.as_str()), "{} reads {input}, which is not there", node.name);
        }
        assert!(!known.contains(&node.outputs[0].as_str()), "{} twice", node.outputs[0]);
        known.push(&node.outputs[0]);
    }
    for constant in &graph.initializers {
        let count: i64 = constant.dims.iter().product();
        let size = if constant.data_type == 7 { 8 } else { 4 };
        assert_eq!(constant.raw_data.len() as i64, size * count, "{}", constant.name);
    }
    assert!(known.contains(&graph.outputs[0].name.as_str()));
    graph
}

fn operators(graph: &proto::Graph) -> Vec<&str> {
    graph.nodes.iter().map(|node| node.operator.as_str()).collect()
}

fn dims(info: &proto::ValueInfo) -> Vec<String> {
    let shape = info.of.as_ref().unwrap().tensor.as_ref().unwrap().shape.as_ref().unwrap();
    shape.dims.iter().map(|dim| dim.name.clone().unwrap_or_else(|| dim.size.unwrap().to_string())).collect()
}

fn convolutional(parameters: &Parameters) -> Sequential {
    Sequential::new()
        .add(Conv2d::builder(2, 3, 3).no_bias().build(&parameters.at("conv")).unwrap())
        .add(BatchNorm2d::new(3, &parameters.at("norm")).unwrap().with_relu())
        .add(Dropout::new(0.5, &parameters.at("drop")).unwrap())
        .add(MaxPool2d::new(2).unwrap())
        .add(Flatten)
        .add(Linear::new(12, 4, &parameters.at("fc")).unwrap())
}

#[test]
fn names_shapes_and_versions_are_those_asked_for() {
    let parameters = Parameters::new(0, &Device::Cpu);
    let model = convolutional(&parameters);
    let export = OnnxExport::builder(&parameters).input("image").output("logits").batch("N").opset(20).build().unwrap();
    let graph = decoded(&export, &model, &[5, 2, 6, 6]);
    assert_eq!(
        (graph.inputs[0].name.as_str(), dims(&graph.inputs[0])),
        ("image", ["N", "2", "6", "6"].map(String::from).to_vec())
    );
    assert_eq!(
        (graph.outputs[0].name.as_str(), dims(&graph.outputs[0])),
        ("logits", ["N", "4"].map(String::from).to_vec())
    );
    assert_eq!(
        operators(&graph),
        ["Conv", "BatchNormalization", "Relu", "MaxPool", "Flatten", "Transpose", "MatMul", "Add"]
    );
    let names: Vec<&str> = graph.initializers.iter().map(|constant| constant.name.as_str()).collect();
    let expected =
        ["conv.weight", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var", "fc.weight", "fc.bias"];
    assert_eq!(names, expected);
    let weight: Vec<u8> = parameters
        .get("fc.weight")
        .unwrap()
        .flatten_all()
        .unwrap()
        .to_vec1::<f32>()
        .unwrap()
        .into_iter()
        .flat_map(f32::to_le_bytes)
        .collect();
    assert_eq!(graph.initializers[5].raw_data, weight);
    let fixed = OnnxExport::builder(&parameters).fixed_batch().build().unwrap();
    assert_eq!(dims(&decoded(&fixed, &model, &[5, 2, 6, 6]).inputs[0])[0], "5");
    for (builder, what) in [
        (OnnxExport::builder(&parameters).opset(16), "`opset`"),
        (OnnxExport::builder(&parameters).output("input"), "another name than the input's"),
        (OnnxExport::builder(&parameters).batch(""), "an empty text"),
    ] {
        assert!(builder.build().err().unwrap().to_string().contains(what), "{what}");
    }
}

#[test]
fn folded_norms_are_gone_and_their_numbers_are_in_the_convolution() {
    let parameters = Parameters::new(0, &Device::Cpu);
    let model = convolutional(&parameters);
    let example = Tensor::arange(0f32, 360., &Device::Cpu).unwrap().sin().unwrap().reshape((5, 2, 6, 6)).unwrap();
    model.forward_t(&example, true).unwrap(); // so that running statistics are not those of the start
    let export = OnnxExport::builder(&parameters).fold_batch_norms().build().unwrap();
    let graph = decoded(&export, &model, &[5, 2, 6, 6]);
    assert_eq!(operators(&graph), ["Conv", "Relu", "MaxPool", "Flatten", "Transpose", "MatMul", "Add"]);
    let constant = |name: &str| {
        let constant = graph.initializers.iter().find(|constant| constant.name == name).unwrap();
        let values: Vec<f32> =
            constant.raw_data.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        Tensor::from_vec(values, constant.dims.iter().map(|&size| size as usize).collect::<Vec<_>>(), &Device::Cpu)
            .unwrap()
    };
    assert_eq!(graph.initializers.len(), 4);
    let (weight, bias) = (constant("conv.folded.weight"), constant("conv.folded.bias"));
    let folded = crate::ops::conv2d(&example, &weight, Some(&bias), &Default::default()).unwrap().relu().unwrap();
    let expected = model.layers()[..2].iter().fold(example, |xs, layer| layer.forward_t(&xs, false).unwrap());
    let worst = (folded - expected).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
    assert!(worst < 1e-5, "{worst}");
}

#[test]
fn a_convolution_that_others_listen_to_is_not_folded() {
    struct Both(Conv2d, BatchNorm2d);
    impl ModuleT for Both {
        fn forward_t(&self, xs: &Tensor, train: bool) -> candle_core::Result<Tensor> {
            let ys = self.0.forward(xs)?;
            self.1.forward_t(&ys, train)? + ys
        }
    }
    impl ToOnnx for Both {
        fn to_onnx(&self, graph: &mut Graph, input: &Value) -> Result<Value> {
            let ys = graph.apply(&self.0, input)?;
            let normed = graph.apply(&self.1, &ys)?;
            graph.add(&normed, &ys)
        }
    }
    let parameters = Parameters::new(0, &Device::Cpu);
    let both =
        Both(Conv2d::new(2, 3, 1, &parameters.at("a")).unwrap(), BatchNorm2d::new(3, &parameters.at("b")).unwrap());
    let export = OnnxExport::builder(&parameters).fold_batch_norms().layer::<Both>().build().unwrap();
    assert_eq!(operators(&decoded(&export, &both, &[1, 2, 4, 4])), ["Conv", "BatchNormalization", "Add"]);
    // In a Sequential it has to be known by its type.
    let model = Sequential::new().add(Flatten).add(both);
    let text =
        OnnxExport::new(&parameters).to_bytes(&model, &Tensor::ones((1, 2, 4, 4), DType::F32, &Device::Cpu).unwrap());
    assert!(text.unwrap_err().to_string().contains("`Both`, layer 1"));
}

#[test]
fn every_layer_has_operators() {
    let parameters = Parameters::new(0, &Device::Cpu);
    let at = |name: &str| parameters.at(name);
    let export = OnnxExport::new(&parameters);
    let image: &[usize] = &[2, 4, 6, 5];
    let layers: [(&dyn ToOnnx, &[usize], &str); 16] = [
        (&Dropout::new(0.5, &at("drop")).unwrap(), image, "Identity"),
        (&Activation::Gelu, image, "Mul"),
        (&Activation::Silu, image, "Mul"),
        (&Activation::Tanh, image, "Tanh"),
        (&Activation::Sigmoid, image, "Sigmoid"),
        (
            &ConvTranspose2d::builder(4, 2, 3).stride(2).output_padding(1).padding(1).build(&at("up")).unwrap(),
            image,
            "ConvTranspose",
        ),
        (&AvgPool2d::new(2).unwrap(), image, "AveragePool"),
        (&AdaptiveAvgPool2d::new(1).unwrap(), image, "GlobalAveragePool"),
        (&AdaptiveAvgPool2d::new((4, 3)).unwrap(), image, "MatMul"),
        (&BatchNorm1d::builder(4).no_affine().build(&at("bn")).unwrap(), &[2, 4], "BatchNormalization"),
        (&LayerNorm::builder(5).no_affine().build(&at("ln")).unwrap(), image, "LayerNormalization"),
        (&GroupNorm::new(2, 4, &at("gn")).unwrap(), image, "Add"),
        (&Upsample::new(2, UpsampleMode::Nearest).unwrap(), image, "Resize"),
        (&Lstm::builder(5, 3).layers(2).bidirectional(true).build(&at("lstm")).unwrap(), &[2, 7, 5], "Reshape"),
        (&Gru::new(5, 3, &at("gru")).unwrap(), &[2, 7, 5], "Reshape"),
        (&Rnn::builder(5, 3).relu().build(&at("rnn")).unwrap(), &[2, 7, 5], "Reshape"),
    ];
    for (layer, shape, last) in layers {
        assert_eq!(*operators(&decoded(&export, layer, shape)).last().unwrap(), last);
    }
    let network = ResNet18::builder(3).small_images().build(&at("net")).unwrap();
    let export = OnnxExport::builder(&parameters).fold_batch_norms().build().unwrap();
    let graph = decoded(&export, &network, &[1, 3, 8, 8]);
    let count = |operator: &str| operators(&graph).iter().filter(|other| **other == operator).count();
    assert_eq!((count("Conv"), count("BatchNormalization"), count("Add"), count("Relu")), (20, 0, 9, 17));
    assert_eq!(dims(&graph.outputs[0]), ["batch", "3"]);
}

#[test]
fn one_step_of_a_sequence_is_gathered() {
    struct Third;
    impl ModuleT for Third {
        fn forward_t(&self, xs: &Tensor, _: bool) -> candle_core::Result<Tensor> {
            xs.narrow(1, 2, 1)?.squeeze(1)
        }
    }
    impl ToOnnx for Third {
        fn to_onnx(&self, graph: &mut Graph, input: &Value) -> Result<Value> {
            graph.select(input, 1, 2)
        }
    }
    let graph = decoded(&OnnxExport::new(&Parameters::new(0, &Device::Cpu)), &Third, &[2, 7, 5]);
    assert_eq!(
        (operators(&graph), dims(&graph.outputs[0])),
        (vec!["Gather"], vec!["batch".to_owned(), "5".to_owned()])
    );
    assert_eq!(graph.initializers[0].raw_data, 2i64.to_le_bytes());
    assert!(graph.initializers[0].dims.is_empty(), "a scalar: the dimension goes");
}
