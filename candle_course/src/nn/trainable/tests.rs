//! The same values as candle's, and gradients that agree with differences.

use candle_core::{DType, Device, Module as _, Result, Tensor, Var};

use super::*;

fn numbers(shape: &[usize], pace: f64) -> Var {
    let values: Vec<f64> = (0..shape.iter().product()).map(|i: usize| (i as f64 * pace + 0.3).sin() + 0.1).collect();
    Var::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu).unwrap()).unwrap()
}

/// `ours` has candle's values and gradients; `candles` has no gradient, or this module is not needed any more.
fn compare(
    what: &str,
    inputs: &[Var],
    ours: impl Fn(&[Tensor]) -> Result<Tensor>,
    candles: impl Fn(&[Tensor]) -> Result<Tensor>,
) {
    let single: Vec<Tensor> = inputs.iter().map(|v| v.to_dtype(DType::F32).unwrap()).collect();
    let (a, b) = (ours(&single).unwrap(), candles(&single).unwrap());
    assert_eq!(a.dims(), b.dims(), "{what}");
    let worst = (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
    assert!(worst < 1e-5, "{what}: {worst}");

    let lost = candles(&single).unwrap().sum_all().unwrap().backward().unwrap();
    assert!(inputs.iter().all(|input| lost.get(input).is_none()), "{what}: candle's has a gradient now");

    let double: Vec<Tensor> = inputs.iter().map(|v| v.as_tensor().clone()).collect();
    let shares = numbers(ours(&double).unwrap().dims(), 2.3);
    let loss = || (ours(&double).unwrap() * shares.as_tensor()).unwrap().sum_all().unwrap();
    let gradients = loss().backward().unwrap();
    let value = || loss().to_scalar::<f64>().unwrap();
    for (i, input) in inputs.iter().enumerate() {
        let gradient: Vec<f64> = gradients.get(input).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        let before: Vec<f64> = input.flatten_all().unwrap().to_vec1().unwrap();
        let set = |place: usize, step: f64| {
            let mut values = before.clone();
            values[place] += step;
            input.set(&Tensor::from_vec(values, input.shape(), &Device::Cpu).unwrap()).unwrap();
        };
        for (place, found) in gradient.iter().enumerate() {
            set(place, 1e-5);
            let above = value();
            set(place, -1e-5);
            let expected = (above - value()) / 2e-5;
            set(place, 0.0);
            assert!((found - expected).abs() < 1e-7 * (1.0 + expected.abs()), "{what}, input {i}: {found} {expected}");
        }
    }
}

#[test]
fn norms_have_candles_values_and_the_gradients_that_those_lose() {
    let inputs = [numbers(&[2, 3, 6], 0.7), numbers(&[6], 1.3), numbers(&[6], 0.4)];
    compare(
        "layer norm",
        &inputs,
        |v| LayerNorm::new(v[1].clone(), v[2].clone(), 1e-3).forward(&v[0]),
        |v| candle_nn::LayerNorm::new(v[1].clone(), v[2].clone(), 1e-3).forward(&v[0]),
    );
    compare(
        "rms norm",
        &inputs[..2],
        |v| RmsNorm::new(v[1].clone(), 1e-3).forward(&v[0]),
        |v| candle_nn::RmsNorm::new(v[1].clone(), 1e-3).forward(&v[0]),
    );
    compare(
        "layer norm, as a function",
        &inputs,
        |v| ops::layer_norm(&v[0], &v[1], &v[2], 1e-3),
        |v| candle_nn::ops::layer_norm(&v[0], &v[1], &v[2], 1e-3),
    );
    compare(
        "rms norm, as a function",
        &inputs[..2],
        |v| ops::rms_norm(&v[0], &v[1], 1e-3),
        |v| candle_nn::ops::rms_norm(&v[0], &v[1], 1e-3),
    );
}

#[test]
fn softmax_and_rotations_have_candles_values_and_the_gradients_that_those_lose() {
    compare(
        "softmax",
        &[numbers(&[2, 3, 5], 0.7)],
        |v| ops::softmax_last_dim(&v[0]),
        |v| candle_nn::ops::softmax_last_dim(&v[0]),
    );
    let (xs, cos, sin) = (numbers(&[2, 3, 4, 6], 0.7), numbers(&[5, 3], 1.1), numbers(&[5, 3], 0.9));
    let inputs = [xs, cos, sin];
    compare(
        "rope",
        &inputs,
        |v| rotary_emb::rope(&v[0], &v[1], &v[2]),
        |v| candle_nn::rotary_emb::rope(&v[0], &v[1], &v[2]),
    );
    compare(
        "rope_i",
        &inputs,
        |v| rotary_emb::rope_i(&v[0], &v[1], &v[2]),
        |v| candle_nn::rotary_emb::rope_i(&v[0], &v[1], &v[2]),
    );
    let inputs = [numbers(&[2, 4, 3, 6], 0.7), numbers(&[2, 4, 3], 1.1), numbers(&[2, 4, 3], 0.9)];
    compare(
        "rope_thd, angles for each example",
        &inputs,
        |v| rotary_emb::rope_thd(&v[0], &v[1], &v[2]),
        |v| candle_nn::rotary_emb::rope_thd(&v[0], &v[1], &v[2]),
    );
}

#[test]
fn norms_without_a_bias_and_of_old_names() {
    let parameters = crate::nn::Parameters::new(0, &Device::Cpu);
    let builder = parameters.var_builder();
    builder.pp("old").get_with_hints(4, "gamma", Init::Const(2.0)).unwrap();
    let old = layer_norm(4, 1e-5, builder.pp("old")).unwrap();
    assert_eq!(old.weight().to_vec1::<f32>().unwrap(), [2.0; 4]);
    let plain = layer_norm_no_bias(4, 1e-5, builder.pp("plain")).unwrap();
    let rms = rms_norm(4, 1e-5, builder.pp("rms")).unwrap();
    let names: Vec<String> = parameters.trainable().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["old.bias", "old.gamma", "plain.weight", "rms.weight"]);
    let xs = Tensor::new(&[[1f32, -3., 2., 4.]], &Device::Cpu).unwrap();
    for (found, dtype) in [(DType::F32, 1e-6), (DType::BF16, 2e-2)].map(|(dtype, tolerance)| {
        let norm = LayerNorm::new_no_bias(plain.weight().to_dtype(dtype).unwrap(), 1e-5);
        let ys = norm.forward(&xs.to_dtype(dtype).unwrap()).unwrap().to_dtype(DType::F32).unwrap();
        (ys.sum_all().unwrap().to_scalar::<f32>().unwrap().abs(), tolerance)
    }) {
        assert!(found < dtype, "{found}");
    }
    let square = rms.forward_diff(&xs).unwrap().sqr().unwrap().mean_all().unwrap().to_scalar::<f32>().unwrap();
    assert!((square - 1.0).abs() < 1e-5);
}
