//! Models of candle-transformers under the trainer: what cannot be trained is refused, what can is
//! trained with everything, stopped and resumed to the last bit.

use candle_course::prelude::*;
use candle_course::training::TrainerBuilder;
use candle_transformers::models::{convnext, resnet, vit};
use candle_transformers_oracle::{Vit, convnext_features, numbers, vit_config};

fn images(count: usize, side: usize) -> TensorDataset {
    let xs = numbers(&[count, 3, side, side], 5).unwrap();
    let ys: Vec<u32> = (0..count as u32).map(|i| i * 7 % 5).collect();
    TensorDataset::new(xs, Tensor::new(ys, &Device::Cpu).unwrap()).unwrap()
}

/// What the trainer says of a model as it comes from candle-transformers.
fn refusal(parameters: &Parameters, model: impl Model + 'static, side: usize) -> String {
    let train = DataLoader::builder(images(4, side)).batch_size(2).build().unwrap();
    let optimizer = Sgd::new(parameters).unwrap();
    let builder = Trainer::builder(model, parameters, CrossEntropy::default(), optimizer).learning_rate(0.01);
    builder.quiet().build().unwrap().fit(&train, None).unwrap_err().to_string()
}

#[test]
fn a_vit_as_it_comes_is_refused_by_the_names_of_its_norms() {
    let parameters = Parameters::new(0, &Device::Cpu);
    let ours = vit_config();
    let config = vit::Config {
        hidden_size: ours.hidden_size,
        num_hidden_layers: ours.num_hidden_layers,
        num_attention_heads: ours.num_attention_heads,
        intermediate_size: ours.intermediate_size,
        hidden_act: ours.hidden_act,
        layer_norm_eps: ours.layer_norm_eps,
        image_size: ours.image_size,
        patch_size: ours.patch_size,
        num_channels: ours.num_channels,
        qkv_bias: ours.qkv_bias,
    };
    let model = vit::Model::new(&config, 5, parameters.var_builder()).unwrap();
    let text = refusal(&parameters, candle_nn::func(move |xs| model.forward(xs)), 16);
    assert!(text.contains("no gradient") && text.contains("layernorm_after`"), "{text}");
    assert!(text.contains("use candle_course::nn::trainable as candle_nn"), "{text}");
}

#[test]
fn a_convnext_with_its_head_is_refused() {
    let parameters = Parameters::new(0, &Device::Cpu);
    let bridge = Bridge::builder(&parameters.root()).absent("*.grn").build().unwrap();
    let model = convnext::convnext(&convnext::Config::atto(), 5, bridge.var_builder()).unwrap();
    let text = refusal(&parameters, model, 64);
    assert!(text.contains("no gradient") && text.contains("`head.norm`"), "{text}");
}

#[test]
fn a_resnet_is_refused_for_its_pooling_and_trained_behind_it() {
    let parameters = Parameters::new(0, &Device::Cpu);
    let model = resnet::resnet18(5, parameters.var_builder()).unwrap();
    let text = refusal(&parameters, model, 32);
    assert!(text.contains("candle cannot go back through the model") && text.contains(".frozen("), "{text}");

    let parameters = Parameters::new(0, &Device::Cpu);
    let bridge = Bridge::builder(&parameters.root()).frozen("conv1").frozen("bn1").build().unwrap();
    let model = resnet::resnet18(5, bridge.var_builder()).unwrap();
    // The running statistics are 20 buffers of each kind.
    assert_eq!((parameters.buffers().len(), parameters.get("bn1.weight").is_some()), (40, true));
    let train = DataLoader::builder(images(4, 32)).batch_size(2).build().unwrap();
    let before = parameters.get("conv1.weight").unwrap().to_vec4_flat();
    let optimizer = Sgd::new(&parameters).unwrap();
    let builder = Trainer::builder(model, &parameters, CrossEntropy::default(), optimizer).learning_rate(0.001);
    builder.quiet().build().unwrap().fit(&train, None).unwrap();
    assert_eq!(parameters.get("conv1.weight").unwrap().to_vec4_flat(), before);
}

/// All numbers of a tensor.
trait Numbers {
    fn to_vec4_flat(&self) -> Vec<f32>;
}

impl Numbers for Tensor {
    fn to_vec4_flat(&self) -> Vec<f32> {
        self.flatten_all().unwrap().to_vec1().unwrap()
    }
}

/// Stops after so many steps.
struct StopAfter(usize);

impl Callback for StopAfter {
    fn name(&self) -> &str {
        "stop_after"
    }

    fn step_end(&mut self, training: &mut Training) -> Result<Flow> {
        Ok(if training.state().step == self.0 { Flow::Stop("enough".into()) } else { Flow::Continue })
    }
}

/// Groups, a frozen part, clipping, an average, two batches a step, a schedule.
fn with_everything(model: impl Model + 'static, parameters: &Parameters, frozen: &str) -> TrainerBuilder {
    parameters.freeze(frozen).unwrap();
    let optimizer = AdamW::builder(parameters)
        .weight_decay(0.05)
        .no_decay_for_biases_and_norms()
        .group(ParameterGroup::prefix("*attention*").learning_rate_factor(0.5))
        .build();
    // A ConvNeXt has no attention.
    let optimizer = optimizer.or_else(|_| AdamW::builder(parameters).weight_decay(0.05).build()).unwrap();
    Trainer::builder(model, parameters, CrossEntropy::default(), optimizer)
        .epochs(2)
        .schedule(WarmUp::new(3, CosineAnnealingLR::new(0.01, 8).unwrap()).unwrap())
        .clip_norm(1.0)
        .accumulate(2)
        .ema(0.9)
        .metric(Accuracy::default())
        .quiet()
}

/// Trained in one go, and stopped in the middle of the second epoch and resumed by a new process's
/// model: the same bits.
fn resumed_to_the_bit<M: Model + 'static>(build: impl Fn(&Parameters) -> M, frozen: &str, side: usize) {
    let train = || DataLoader::builder(images(24, side)).batch_size(3).shuffle(4).build().unwrap();
    let validation = DataLoader::builder(images(6, side)).batch_size(3).build().unwrap();
    let start = || {
        let parameters = Parameters::new(7, &Device::Cpu);
        let model = build(&parameters);
        (model, parameters)
    };
    let (model, whole) = start();
    let mut trainer = with_everything(model, &whole, frozen).build().unwrap();
    let history = trainer.fit(&train(), Some(&validation)).unwrap();
    assert_eq!(history.steps().len(), 8);

    let folder = tempfile::tempdir().unwrap();
    let checkpoints = || Checkpoints::new(folder.path());
    let (model, stopped) = start();
    let mut trainer =
        with_everything(model, &stopped, frozen).checkpoints(checkpoints()).callback(StopAfter(5)).build().unwrap();
    trainer.fit(&train(), Some(&validation)).unwrap();
    assert_eq!((trainer.state().epoch, trainer.state().batch), (1, 2));
    drop(trainer);

    let (model, resumed) = start();
    let mut trainer = with_everything(model, &resumed, frozen).checkpoints(checkpoints()).build().unwrap();
    assert!(trainer.resume(folder.path()).unwrap());
    let again = trainer.fit(&train(), Some(&validation)).unwrap();
    let losses = |history: &History| history.steps().iter().map(|step| step.loss.to_bits()).collect::<Vec<_>>();
    assert_eq!(losses(&again), losses(&history));
    let bits = |parameters: &Parameters| -> Vec<(String, Vec<u32>)> {
        let state = parameters.state().unwrap().into_iter();
        state.map(|(name, tensor)| (name, tensor.to_vec4_flat().into_iter().map(f32::to_bits).collect())).collect()
    };
    assert_eq!(bits(&resumed), bits(&whole));
    assert_ne!(bits(&resumed), bits(&start().1), "nothing was trained");

    // The weights, out and in again.
    let file = folder.path().join("weights.safetensors");
    save_weights(&resumed, &file).unwrap();
    let (_, mut fresh) = start();
    load_weights(&mut fresh, &file).unwrap();
    assert_eq!(bits(&fresh), bits(&whole));
}

#[test]
fn a_vit_is_trained_with_everything_and_resumed_to_the_last_bit() {
    resumed_to_the_bit(|parameters| Vit::new(parameters).unwrap(), "vit.embeddings", 16);
}

#[test]
fn a_convnext_as_it_comes_is_trained_with_everything_and_resumed_to_the_last_bit() {
    let build = |parameters: &Parameters| {
        let features = convnext_features(parameters).unwrap();
        let head = Linear::new(320, 5, &parameters.at("head")).unwrap();
        candle_nn::func(move |xs| xs.apply(&features)?.apply(&head))
    };
    resumed_to_the_bit(build, "stem", 64);
}
