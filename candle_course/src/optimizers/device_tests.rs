//! Optimizers on the device that `CANDLE_COURSE_TEST_DEVICE` names, against the CPU's kernels, and what the
//! device decides by itself.

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};

use super::*;
use crate::nn::{Init, Parameters};
use crate::stateful::Stateful;
use crate::test_support::device;

/// Three parameters of uneven sizes, one of more than a block's share.
fn parameters(on: &Device, dtype: DType) -> (Parameters, Vec<Var>) {
    let parameters = Parameters::with_dtype(3, dtype, on);
    let shapes = [("a", vec![5]), ("b", vec![70, 80]), ("c", vec![3, 1])];
    let vars = shapes.iter().map(|(name, shape)| {
        let var = parameters.root().parameter(name, shape.as_slice(), Init::symmetric(1.0)).unwrap();
        let values: Vec<f64> = (0..var.elem_count()).map(|i| (i as f64 * 0.37).sin()).collect();
        let values = Tensor::from_vec(values, shape.as_slice(), &Device::Cpu).unwrap();
        var.set(&values.to_dtype(dtype).unwrap().to_device(on).unwrap()).unwrap();
        var
    });
    let vars = vars.collect();
    (parameters, vars)
}

fn gradients(vars: &[Var], step: usize) -> GradStore {
    let mut total: Option<Tensor> = None;
    for var in vars {
        let factors: Vec<f64> = (0..var.elem_count()).map(|i| ((i + 3 * step) as f64 * 0.9).cos()).collect();
        let factors = Tensor::from_vec(factors, var.shape(), &Device::Cpu).unwrap();
        let factors = factors.to_dtype(var.dtype()).unwrap().to_device(var.device()).unwrap();
        let sum = (var.as_tensor() * factors).unwrap().sum_all().unwrap();
        total = Some(match total {
            Some(total) => (total + sum).unwrap(),
            None => sum,
        });
    }
    total.unwrap().backward().unwrap()
}

fn flat(xs: &Tensor) -> Vec<f64> {
    xs.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn values(vars: &[Var]) -> Vec<f64> {
    vars.iter().flat_map(|var| flat(var)).collect()
}

fn close(what: &str, ours: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(ours.len(), expected.len(), "{what}");
    for (i, (a, b)) in ours.iter().zip(expected).enumerate() {
        assert!((a - b).abs() <= tolerance * b.abs().max(1.0), "{what}, number {i}: {a} {b}");
    }
}

type Build = fn(&Parameters) -> Box<dyn Optimizer>;

const OPTIMIZERS: [(&str, Build); 9] = [
    ("sgd", |p| Box::new(Sgd::builder(p).weight_decay(0.1).build().unwrap())),
    ("momentum", |p| Box::new(Sgd::builder(p).momentum(0.9).dampening(0.2).build().unwrap())),
    ("nesterov", |p| Box::new(Sgd::builder(p).momentum(0.9).nesterov(true).build().unwrap())),
    ("adam", |p| Box::new(Adam::builder(p).weight_decay(0.1).amsgrad(true).build().unwrap())),
    ("adamw", |p| Box::new(AdamW::builder(p).no_decay_for_biases_and_norms().build().unwrap())),
    ("rms_prop", |p| Box::new(RmsProp::builder(p).centered(true).momentum(0.8).build().unwrap())),
    ("rms_prop momentum", |p| Box::new(RmsProp::builder(p).momentum(0.8).build().unwrap())),
    ("adagrad", |p| Box::new(Adagrad::builder(p).learning_rate_decay(0.1).initial_accumulator(0.2).build().unwrap())),
    ("lion", |p| Box::new(Lion::builder(p).weight_decay(0.1).build().unwrap())),
];

#[test]
fn optimizers_agree_with_the_cpu_and_resume() {
    if device().is_cpu() {
        return;
    }
    for (name, build) in OPTIMIZERS {
        for (dtype, tolerance) in [(DType::F64, 1e-12), (DType::F32, 1e-5)] {
            let run = |on: &Device, interrupted: bool| {
                let (parameters, vars) = parameters(on, dtype);
                let mut optimizer = build(&parameters);
                for step in 0..4 {
                    if interrupted && step == 2 {
                        let state = optimizer.state().unwrap();
                        optimizer = build(&parameters);
                        optimizer.load_state(&state).unwrap();
                    }
                    optimizer.step(&gradients(&vars, step), 0.01).unwrap();
                }
                let state: Vec<f64> = optimizer
                    .state()
                    .unwrap()
                    .values()
                    .flat_map(|tensor| flat(&tensor.to_device(&Device::Cpu).unwrap()))
                    .collect();
                [values(&vars), state].concat()
            };
            let ours = run(device(), false);
            close(&format!("{name} {dtype:?}"), &ours, &run(&Device::Cpu, false), tolerance);
            assert_eq!(ours, run(device(), true), "{name} {dtype:?}: resumed");
        }
    }
}

/// Step 1 with a gradient that holds NaN, between good ones.
fn with_nan(policy: NonFinite) -> (Vec<Var>, AdamW, Vec<Vec<f64>>, Result<()>) {
    let (parameters, vars) = parameters(device(), DType::F32);
    let mut optimizer = AdamW::builder(&parameters).non_finite(policy).build().unwrap();
    let mut seen = Vec::new();
    let mut outcome = Ok(());
    for step in 0..4 {
        let mut store = gradients(&vars, step);
        if step == 1 {
            let bad = (store.get(&vars[1]).unwrap() * f64::NAN).unwrap();
            store.insert(&vars[1], bad);
        }
        outcome = optimizer.step(&store, 0.01);
        if outcome.is_err() {
            break;
        }
        seen.push(values(&vars));
    }
    (vars, optimizer, seen, outcome)
}

#[test]
fn a_gradient_that_is_not_finite_stops_the_device_and_is_told_later() {
    if device().is_cpu() {
        return;
    }
    let (vars, mut optimizer, seen, outcome) = with_nan(NonFinite::Error);
    outcome.unwrap();
    assert_eq!((seen[1] == seen[0], seen[3] == seen[0]), (true, true), "no parameter changes after the first step");
    let text = optimizer.state().unwrap_err().to_string();
    assert!(text.contains("the gradient of `b` holds NaN or infinity in the step 2 steps ago"), "{text}");
    let text = optimizer.settle().unwrap_err().to_string();
    assert!(text.contains("the gradient of `b`"), "{text}");
    // Told once; the training may go on, as if the steps had not been.
    optimizer.settle().unwrap();
    assert_eq!(optimizer.state().unwrap()["a.step"].to_scalar::<i64>().unwrap(), 1);
    optimizer.step(&gradients(&vars, 1), 0.01).unwrap();
    assert_ne!(values(&vars), seen[0]);
    optimizer.settle().unwrap();
}

#[test]
fn a_skipped_step_leaves_no_trace_on_the_device() {
    if device().is_cpu() {
        return;
    }
    let (vars, mut optimizer, seen, outcome) = with_nan(NonFinite::Skip);
    outcome.unwrap();
    assert_eq!(seen[1], seen[0]);
    assert_eq!(optimizer.skipped_steps(), 1);
    let (others, own) = parameters(device(), DType::F32);
    let mut never_bad = AdamW::builder(&others).build().unwrap();
    for step in [0, 2, 3] {
        never_bad.step(&gradients(&own, step), 0.01).unwrap();
    }
    assert_eq!(values(&vars), values(&own));
    assert_eq!(optimizer.state().unwrap()["b.step"].to_scalar::<i64>().unwrap(), 3);
    optimizer.settle().unwrap();
    assert_eq!(optimizer.skipped_steps(), 1);
}

#[test]
fn norms_bounds_sums_and_averages_agree_with_the_cpu() {
    if device().is_cpu() {
        return;
    }
    let run = |on: &Device| {
        let (parameters, vars) = parameters(on, DType::F32);
        let mut all = Vec::new();
        for bound in [1e6, 3.0] {
            let mut store = gradients(&vars, 1);
            all.push(clip_gradient_norm(&parameters, &mut store, bound).unwrap());
            all.push(gradient_norm(&parameters, &store).unwrap());
            all.extend(vars.iter().flat_map(|var| flat(store.get(var).unwrap())));
        }
        let mut store = gradients(&vars, 2);
        clip_gradient_value(&parameters, &mut store, 0.5).unwrap();
        clip_gradient_norm_each(&parameters, &mut store, 0.3).unwrap();
        all.extend(vars.iter().flat_map(|var| flat(store.get(var).unwrap())));
        let mut group = GradientAccumulator::new(&parameters, 3).unwrap();
        for (step, examples) in [4, 4, 3].into_iter().enumerate() {
            group.add(gradients(&vars, step), examples).unwrap();
        }
        let sum = group.take().unwrap();
        all.extend(vars.iter().flat_map(|var| flat(sum.get(var).unwrap())));
        let mut average = WeightAverage::builder(&parameters).decay(0.7).build().unwrap();
        let mut optimizer = Sgd::builder(&parameters).build().unwrap();
        for step in 0..3 {
            optimizer.step(&gradients(&vars, step), 0.1).unwrap();
            average.update().unwrap();
        }
        average.swap().unwrap();
        all.extend(values(&vars));
        all
    };
    close("norms, bounds, sums, averages", &run(device()), &run(&Device::Cpu), 1e-5);
}
