//! 200 steps on three problems against PyTorch (`scripts/reference_optim.py`).

use std::collections::BTreeMap;

use candle_core::{DType, Tensor};

use super::*;
use crate::kernels::parallel::same_on_any_number_of_threads;
use crate::nn::{Init, Parameters};
use crate::test_support::{data, device};

type Tensors = BTreeMap<String, Tensor>;

fn reference() -> Tensors {
    candle_core::safetensors::load(data("optimizers/reference.safetensors"), device()).unwrap().into_iter().collect()
}

fn below(tensors: &Tensors, prefix: &str, dtype: DType) -> Tensors {
    let cut = |(name, tensor): (&String, &Tensor)| {
        Some((name.strip_prefix(prefix)?.to_owned(), tensor.to_dtype(dtype).unwrap()))
    };
    tensors.iter().filter_map(cut).collect()
}

fn affine(p: &Parameters, layer: &str, x: &Tensor) -> Tensor {
    let (weight, bias) = (p.get(&format!("{layer}.weight")).unwrap(), p.get(&format!("{layer}.bias")).unwrap());
    x.matmul(&weight.t().unwrap()).unwrap().broadcast_add(&bias).unwrap()
}

fn loss(problem: &str, p: &Parameters, c: &Tensors) -> candle_core::Result<Tensor> {
    match problem {
        "quadratic" => (&c["a"] * (p.get("w").unwrap().as_tensor() - &c["center"])?.sqr()?)?.sum_all()? * 0.5,
        "logistic" => ((&c["sign"] * affine(p, "fc", &c["x"]))?.neg()?.exp()? + 1.0)?.log()?.mean_all(),
        _ => (affine(p, "fc2", &affine(p, "fc1", &c["x"]).tanh()?) - &c["y"])?.sqr()?.mean_all(),
    }
}

fn parameters(initial: &Tensors, dtype: DType) -> Parameters {
    let mut parameters = Parameters::with_dtype(0, dtype, device());
    for (name, tensor) in initial {
        parameters.root().parameter(name, tensor.shape(), Init::ZEROS).unwrap();
    }
    parameters.load_state(initial).unwrap();
    parameters
}

pub(super) type Build = fn(&Parameters, bool) -> Box<dyn Optimizer>;

/// Builds; with `true`, on tensor operations instead of the CPU kernels.
macro_rules! build {
    ($builder:expr) => {
        |parameters, composed| {
            #[allow(clippy::redundant_closure_call)]
            let mut optimizer = $builder(parameters).build().unwrap();
            if composed {
                optimizer.engine.use_tensor_operations();
            }
            Box::new(optimizer)
        }
    };
}

pub(super) fn configurations() -> Vec<(&'static str, f64, Build)> {
    vec![
        ("sgd", 0.05, build!(Sgd::builder)),
        ("sgd_decay", 0.05, build!(|p| Sgd::builder(p).weight_decay(0.1))),
        ("sgd_momentum", 0.02, build!(|p| Sgd::builder(p).momentum(0.9))),
        ("sgd_dampening", 0.02, build!(|p| Sgd::builder(p).momentum(0.8).dampening(0.3).weight_decay(0.01))),
        ("sgd_nesterov", 0.02, build!(|p| Sgd::builder(p).momentum(0.9).nesterov(true).weight_decay(0.01))),
        ("adam", 0.01, build!(Adam::builder)),
        ("adam_decay", 0.01, build!(|p| Adam::builder(p).weight_decay(0.05).beta1(0.8).beta2(0.95).epsilon(1e-6))),
        ("adam_amsgrad", 0.01, build!(|p| Adam::builder(p).amsgrad(true))),
        ("adamw", 0.01, build!(AdamW::builder)),
        ("adamw_amsgrad", 0.01, build!(|p| AdamW::builder(p).amsgrad(true).weight_decay(0.1))),
        (
            "adamw_groups",
            0.01,
            build!(|p: &Parameters| {
                let builder = AdamW::builder(p).weight_decay(0.1).no_decay_for_biases_and_norms();
                match p.get("fc1.weight") {
                    Some(_) => builder.group(ParameterGroup::prefix("fc1").learning_rate_factor(0.1)),
                    None => builder,
                }
            }),
        ),
        ("rms_prop", 0.005, build!(RmsProp::builder)),
        (
            "rms_prop_momentum",
            0.001,
            build!(|p| RmsProp::builder(p).momentum(0.7).alpha(0.95).weight_decay(0.01).epsilon(0.03)),
        ),
        ("rms_prop_centered", 0.005, build!(|p| RmsProp::builder(p).centered(true).epsilon(1e-3))),
        ("rms_prop_all", 0.001, build!(|p| RmsProp::builder(p).centered(true).momentum(0.5).epsilon(1e-3))),
        ("adagrad", 0.1, build!(Adagrad::builder)),
        (
            "adagrad_decay",
            0.1,
            build!(|p| Adagrad::builder(p).learning_rate_decay(0.01).weight_decay(0.01).initial_accumulator(0.2)),
        ),
        ("lion", 0.001, build!(|p| Lion::builder(p).weight_decay(0.1))),
    ]
}

/// Largest difference of parameters and state from `expected`, relative to max(1, |x|).
fn difference(expected: &Tensors, parameters: &Parameters, optimizer: &dyn Optimizer, what: &str) -> f64 {
    let mut got = parameters.state().unwrap();
    let state = optimizer.state().unwrap();
    for name in got.keys() {
        assert_eq!(state[&format!("{name}.step")].to_scalar::<i64>().unwrap(), 200);
    }
    got.extend(state.into_iter().filter(|(name, _)| !name.ends_with(".step")));
    assert_eq!(got.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{what}");
    let mut largest = 0f64;
    for (name, expected) in expected {
        let numbers =
            |tensor: &Tensor| tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
        for (got, expected) in numbers(&got[name]).into_iter().zip(numbers(expected)) {
            let difference = (got - expected).abs() / expected.abs().max(1.0);
            assert!(!difference.is_nan(), "{what}, {name}");
            largest = largest.max(difference);
        }
    }
    largest
}

fn check(dtype: DType, composed: bool, tolerance: f64) {
    let reference = reference();
    let mut worst = Vec::new();
    for problem in ["quadratic", "logistic", "mlp"] {
        let constants = below(&reference, &format!("{problem}/constant/"), dtype);
        let initial = below(&reference, &format!("{problem}/initial/"), dtype);
        for (config, learning_rate, build) in configurations() {
            let parameters = parameters(&initial, dtype);
            let mut optimizer = build(&parameters, composed);
            for step in 0..200 {
                let gradients = loss(problem, &parameters, &constants).unwrap().backward().unwrap();
                optimizer.step(&gradients, learning_rate * 0.995f64.powi(step)).unwrap();
            }
            let expected = below(&reference, &format!("{problem}/{config}/{}/", dtype.as_str()), dtype);
            let what = format!("{problem}, {config}");
            worst.push((difference(&expected, &parameters, &*optimizer, &what), what));
        }
    }
    worst.sort_by(|a, b| b.0.total_cmp(&a.0));
    assert!(worst[0].0 <= tolerance, "{:#?}", &worst[..5]);
    assert_eq!(worst.len(), 3 * 18);
}

#[test]
fn two_hundred_steps_agree_with_pytorch_in_f32() {
    check(DType::F32, false, 1e-5);
}

#[test]
fn two_hundred_steps_agree_with_pytorch_in_f64() {
    check(DType::F64, false, 1e-12);
}

#[test]
fn the_update_by_tensor_operations_agrees_with_pytorch() {
    check(DType::F64, true, 1e-12);
    check(DType::F32, true, 1e-5);
}

#[test]
fn a_resumed_optimizer_continues_bit_for_bit() {
    let reference = reference();
    let constants = below(&reference, "mlp/constant/", DType::F32);
    let initial = below(&reference, "mlp/initial/", DType::F32);
    for (config, learning_rate, build) in configurations() {
        let step = |parameters: &Parameters, optimizer: &mut dyn Optimizer| {
            let gradients = loss("mlp", parameters, &constants).unwrap().backward().unwrap();
            optimizer.step(&gradients, learning_rate).unwrap();
        };
        let whole = parameters(&initial, DType::F32);
        let mut optimizer = build(&whole, false);
        (0..5).for_each(|_| step(&whole, &mut *optimizer));
        let (weights, state) = (whole.state().unwrap(), optimizer.state().unwrap());
        let resumed = parameters(&weights, DType::F32);
        let mut second = build(&resumed, false);
        second.load_state(&state).unwrap();
        for _ in 0..5 {
            step(&whole, &mut *optimizer);
            step(&resumed, &mut *second);
        }
        let bits = |parameters: &Parameters| -> Vec<Vec<u32>> {
            let tensors = parameters.state().unwrap();
            let bits = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            tensors.values().map(|tensor| bits(tensor).into_iter().map(f32::to_bits).collect()).collect()
        };
        assert_eq!(bits(&whole), bits(&resumed), "{config}");
        // Without momentum there is no state; Lion's directions are the same from a cold start.
        if !["sgd", "sgd_decay", "lion"].contains(&config) {
            // Without its state it would not continue: the comparison can fail.
            let bare = parameters(&weights, DType::F32);
            let mut fresh = build(&bare, false);
            (0..5).for_each(|_| step(&bare, &mut *fresh));
            assert_ne!(bits(&whole), bits(&bare), "{config}");
        }
    }
}

#[test]
fn state_of_another_optimizer_is_refused_by_name() {
    let initial = below(&reference(), "mlp/initial/", DType::F32);
    let parameters = parameters(&initial, DType::F32);
    let mut adam = Adam::new(&parameters).unwrap();
    let gradients = (parameters.get("fc1.bias").unwrap().sum_all().unwrap()).backward().unwrap();
    let text = adam.step(&gradients, 0.1).unwrap_err().to_string();
    assert!(text.contains("`fc1.weight`, `fc2.bias`, `fc2.weight` received no gradient"), "{text}");
    let constants = below(&reference(), "mlp/constant/", DType::F32);
    adam.step(&loss("mlp", &parameters, &constants).unwrap().backward().unwrap(), 0.1).unwrap();
    let mut sgd = Sgd::builder(&parameters).momentum(0.9).build().unwrap();
    let text = sgd.load_state(&adam.state().unwrap()).unwrap_err().to_string();
    assert!(text.contains("`fc1.bias.momentum_buffer` is missing"), "{text}");
    assert!(text.contains("`fc1.bias.exp_avg` is superfluous"), "{text}");
    let mut state = adam.state().unwrap();
    state.insert("fc1.bias.exp_avg".into(), Tensor::zeros(2, DType::F32, device()).unwrap());
    let text = adam.load_state(&state).unwrap_err().to_string();
    assert!(text.contains("`fc1.bias.exp_avg` has shape [2], expected [5]"), "{text}");
}

#[test]
fn non_finite_gradients_are_reported_skipped_or_ignored() {
    let initial = Tensors::from([("w".into(), Tensor::new(&[1f32, 2.0], device()).unwrap())]);
    let steps = |policy: NonFinite| {
        let parameters = parameters(&initial, DType::F32);
        let mut optimizer = Sgd::builder(&parameters).non_finite(policy).build().unwrap();
        let bad = (parameters.get("w").unwrap().as_tensor() * f64::INFINITY).unwrap().sum_all().unwrap();
        // A CUDA device tells when it is asked.
        let result = optimizer.step(&bad.backward().unwrap(), 0.1).and_then(|()| optimizer.settle());
        let weights = parameters.get("w").unwrap().to_vec1::<f32>().unwrap();
        (result, weights, optimizer.skipped_steps())
    };
    let (result, weights, _) = steps(NonFinite::Error);
    let text = result.unwrap_err().to_string();
    assert!(text.contains("the gradient of `w` holds NaN or infinity"), "{text}");
    assert_eq!(weights, [1.0, 2.0]);
    let (result, weights, skipped) = steps(NonFinite::Skip);
    assert!(result.is_ok());
    assert_eq!((weights, skipped), (vec![1.0, 2.0], 1));
    let (result, weights, _) = steps(NonFinite::Ignore);
    assert!(result.is_ok());
    assert_eq!(weights, [f32::NEG_INFINITY; 2]);
}

#[test]
fn momentum_may_be_zero_for_a_while() {
    let builds: [Build; 4] = [
        build!(|p| Sgd::builder(p).momentum(0.9)),
        build!(|p| Sgd::builder(p).momentum(0.9).nesterov(true)),
        build!(|p| RmsProp::builder(p).momentum(0.9)),
        build!(|p| RmsProp::builder(p).momentum(0.9).centered(true).epsilon(1e-3)),
    ];
    let initial = Tensors::from([("w".into(), Tensor::new(&[1f64, -2.0, 3.0], device()).unwrap())]);
    for (i, build) in builds.into_iter().enumerate() {
        let run = |composed, momenta: [f64; 4]| {
            let parameters = parameters(&initial, DType::F64);
            let mut optimizer = build(&parameters, composed);
            for momentum in momenta {
                optimizer.set_momentum(momentum).unwrap();
                let loss = parameters.get("w").unwrap().sqr().unwrap().sum_all().unwrap();
                optimizer.step(&loss.backward().unwrap(), 0.01).unwrap();
            }
            let buffer = optimizer.state().unwrap()["w.momentum_buffer"].to_vec1::<f64>().unwrap();
            [parameters.get("w").unwrap().to_vec1::<f64>().unwrap(), buffer].concat()
        };
        let momenta = [0.9, 0.0, 0.5, 0.9];
        for (a, b) in run(false, momenta).into_iter().zip(run(true, momenta)) {
            assert!((a - b).abs() < 1e-12, "configuration {i}: {a} {b}");
        }
        assert_ne!(run(false, momenta), run(false, [0.9, 0.1, 0.5, 0.9]));
    }
    let parameters = parameters(&initial, DType::F64);
    let text = Sgd::new(&parameters).unwrap().set_momentum(0.5).unwrap_err().to_string();
    assert!(text.contains("expected an Sgd built with momentum"), "{text}");
    assert!(RmsProp::new(&parameters).unwrap().set_momentum(0.5).is_err());
}

#[test]
fn many_numbers_give_the_same_bits_on_any_number_of_threads() {
    let name = "optimizers::oracle_tests::many_numbers_give_the_same_bits_on_any_number_of_threads";
    same_on_any_number_of_threads(name, || {
        let count = 100_003;
        let values: Vec<f32> = (0..count).map(|i| (i as f32 * 0.37).sin()).collect();
        let initial = Tensors::from([("w".into(), Tensor::from_vec(values, count, device()).unwrap())]);
        let parameters = parameters(&initial, DType::F32);
        let mut optimizer = AdamW::new(&parameters).unwrap();
        for _ in 0..3 {
            let w = parameters.get("w").unwrap();
            optimizer.step(&w.sqr().unwrap().sum_all().unwrap().backward().unwrap(), 0.01).unwrap();
        }
        parameters.get("w").unwrap().to_vec1::<f32>().unwrap()
    });
}

#[test]
fn half_precision_parameters_keep_their_state_in_f32() {
    for dtype in [DType::F16, DType::BF16] {
        let initial = Tensors::from([("w".into(), Tensor::new(&[1f32, -2.0, 3.0], device()).unwrap())]);
        let half = parameters(&initial, dtype);
        let mut optimizer = AdamW::new(&half).unwrap();
        for _ in 0..20 {
            let loss = half.get("w").unwrap().sqr().unwrap().sum_all().unwrap();
            optimizer.step(&loss.backward().unwrap(), 0.1).unwrap();
        }
        assert_eq!(optimizer.state().unwrap()["w.exp_avg"].dtype(), DType::F32);
        let full = parameters(&initial, DType::F32);
        let mut optimizer = AdamW::new(&full).unwrap();
        for _ in 0..20 {
            let loss = full.get("w").unwrap().sqr().unwrap().sum_all().unwrap();
            optimizer.step(&loss.backward().unwrap(), 0.1).unwrap();
        }
        let full = full.get("w").unwrap().to_vec1::<f32>().unwrap();
        let half = half.get("w").unwrap().to_dtype(DType::F32).unwrap().to_vec1::<f32>().unwrap();
        for (full, half) in full.into_iter().zip(half) {
            assert!((full - half).abs() < 0.06, "{full} {half}");
        }
    }
}
