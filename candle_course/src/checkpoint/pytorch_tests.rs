//! Weights that PyTorch saved (`scripts/reference_optim.py`), and what it computed with them.

use std::collections::BTreeMap;

use candle_core::{DType, Device, ModuleT, Tensor};

use super::*;
use crate::nn::{Activation, BatchNorm2d, Conv2d, Flatten, Linear, MaxPool2d, Parameters, Sequential};
use crate::stateful::Stateful as _;

fn file(name: &str) -> (BTreeMap<String, Tensor>, Tensor, Tensor) {
    let mut file = read_weights(format!("{}/tests/data/nn/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let (xs, logits) = (file.remove("xs").unwrap(), file.remove("logits").unwrap());
    let state = file.into_iter().map(|(name, tensor)| (name.strip_prefix("state.").unwrap().to_owned(), tensor));
    (state.collect(), xs, logits)
}

fn mlp(parameters: &Parameters) -> Sequential {
    Sequential::new()
        .add(Linear::new(784, 16, &parameters.at("fc1")).unwrap())
        .add(Activation::Relu)
        .add(Linear::new(16, 10, &parameters.at("fc2")).unwrap())
}

fn cnn(parameters: &Parameters, folded: bool) -> Sequential {
    let mut model = Sequential::new();
    for (layer, channels_in, channels_out) in [(1, 3, 4), (2, 4, 6)] {
        let conv = Conv2d::builder(channels_in, channels_out, 3).padding(1);
        let conv = if folded { conv } else { conv.no_bias() };
        model = model.add(conv.build(&parameters.at(format!("conv{layer}"))).unwrap());
        if !folded {
            model = model.add(BatchNorm2d::new(channels_out, &parameters.at(format!("norm{layer}"))).unwrap());
        }
        model = model.add(Activation::Relu).add(MaxPool2d::new(2).unwrap());
    }
    model.add(Flatten).add(Linear::new(24, 10, &parameters.at("fc")).unwrap())
}

fn difference(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.dims(), b.dims());
    (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap()
}

#[test]
fn pytorchs_weights_give_pytorchs_logits() {
    type Build = fn(&Parameters) -> Sequential;
    let networks: [(&str, Build); 2] =
        [("pytorch_mlp.safetensors", mlp), ("pytorch_cnn.safetensors", |parameters| cnn(parameters, false))];
    for (name, build) in networks {
        let (state, xs, logits) = file(name);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        write_weights(&state, None, &path).unwrap();
        let mut parameters = Parameters::new(0, &Device::Cpu);
        let model = build(&parameters);
        assert!(difference(&model.forward_t(&xs, false).unwrap(), &logits) > 0.01, "the test can fail");
        load_weights(&mut parameters, &path).unwrap();
        let found = difference(&model.forward_t(&xs, false).unwrap(), &logits);
        assert!(found < 1e-5, "{name}: {found}");
        // Back again: the same names, shapes, dtypes and numbers as PyTorch's `state_dict`.
        save_weights(&parameters, &path).unwrap();
        let back = read_weights(&path).unwrap();
        assert_eq!(back.keys().collect::<Vec<_>>(), state.keys().collect::<Vec<_>>());
        for (name, tensor) in &state {
            assert_eq!(back[name].dtype(), tensor.dtype(), "{name}");
            let wide = |tensor: &Tensor| tensor.to_dtype(DType::F32).unwrap();
            assert_eq!(difference(&wide(&back[name]), &wide(tensor)), 0.0, "{name}");
        }
    }
}

#[test]
fn folding_keeps_pytorchs_logits() {
    let (mut state, xs, logits) = file("pytorch_cnn.safetensors");
    for layer in [1, 2] {
        state = fold_batch_norm(&state, &format!("conv{layer}"), &format!("norm{layer}"), 1e-5).unwrap();
    }
    let mut parameters = Parameters::new(0, &Device::Cpu);
    let model = cnn(&parameters, true);
    parameters.load_state(&state).unwrap();
    let found = difference(&model.forward_t(&xs, false).unwrap(), &logits);
    assert!(found < 1e-5, "{found}");
}
