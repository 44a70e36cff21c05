//! Outputs and gradients of three models against PyTorch's, with shared weights.

use std::path::Path;

use candle_course::prelude::*;
use candle_transformers_oracle::{Vit, bert, bert_config, convnext_features, numbers, share_weights};

/// What is stored of a tensor: its largest number's size, and at most 64 of its numbers.
fn sample(tensor: &Tensor) -> Vec<f32> {
    let values: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
    let largest = values.iter().fold(0f32, |largest, value| largest.max(value.abs()));
    let step = values.len().div_ceil(64);
    std::iter::once(largest).chain(values.into_iter().step_by(step)).collect()
}

/// Compares with what the script stored: the output, and the gradient of Σ output · shares.
fn compare(name: &str, parameters: &Parameters, output: &Tensor) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("data").join(name).with_extension("safetensors");
    let mut stored = read_weights(file).unwrap();
    let mut expected =
        |name: &str| stored.remove(name).unwrap_or_else(|| panic!("{name} is not stored")).to_vec1::<f32>().unwrap();
    let shares = numbers(output.dims(), 99).unwrap();
    let gradients = (output * shares).unwrap().sum_all().unwrap().backward().unwrap();
    let mut worst = (0.0, String::new());
    let mut look = |what: &str, found: Vec<f32>, expected: Vec<f32>, scale: f32| {
        assert_eq!(found.len(), expected.len(), "{what}");
        for (found, expected) in found.iter().zip(&expected) {
            let difference = (found - expected).abs() / scale;
            assert!(difference <= 1e-4, "{name}, {what}: {found}, PyTorch has {expected}");
            if difference > worst.0 {
                worst = (difference, what.to_owned());
            }
        }
    };
    let values = expected("output");
    look("output", sample(output), values.clone(), values[0]);
    for (name, var) in parameters.trainable() {
        let values = expected(&name);
        // Of some parameters the true gradient is 0: the bias of an attention's keys.
        let scale = values[0].max(1e-2);
        look(&name, sample(gradients.get(&var).unwrap_or_else(|| panic!("{name} has no gradient"))), values, scale);
    }
    println!("{name}: {} parameters, largest difference {:.1e} of {}", parameters.trainable().len(), worst.0, worst.1);
    assert!(stored.is_empty(), "PyTorch has more: {:?}", stored.keys());
}

#[test]
fn vit() {
    let parameters = Parameters::new(0, &Device::Cpu);
    let model = Vit::new(&parameters).unwrap();
    share_weights(&parameters).unwrap();
    compare("vit", &parameters, &model.forward(&numbers(&[3, 3, 16, 16], 1).unwrap()).unwrap());
}

#[test]
fn bert() {
    let parameters = Parameters::new(0, &Device::Cpu);
    let model = bert::BertModel::load(parameters.var_builder(), &bert_config()).unwrap();
    share_weights(&parameters).unwrap();
    let words: Vec<u32> = (0..14).map(|i| (i * 17 + 3) % 50).collect();
    let words = Tensor::from_vec(words, (2, 7), &Device::Cpu).unwrap();
    let kinds = Tensor::new(&[[0u32, 0, 0, 1, 1, 1, 1], [0, 0, 1, 1, 1, 0, 0]], &Device::Cpu).unwrap();
    let mask = Tensor::new(&[[1u32, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0, 0]], &Device::Cpu).unwrap();
    compare("bert", &parameters, &model.forward(&words, &kinds, Some(&mask)).unwrap());
}

#[test]
fn convnext() {
    let parameters = Parameters::new(0, &Device::Cpu);
    let model = convnext_features(&parameters).unwrap();
    share_weights(&parameters).unwrap();
    compare("convnext", &parameters, &model.forward(&numbers(&[2, 3, 64, 64], 1).unwrap()).unwrap());
}
