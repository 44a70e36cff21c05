//! 1,000 steps against PyTorch (`scripts/reference_optim.py`).

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};

use super::*;
use crate::direction::Direction;

const BASE: f64 = 0.3;

fn reference() -> BTreeMap<String, Vec<f64>> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/schedules/reference.safetensors");
    let tensors = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
    tensors.into_iter().map(|(name, tensor): (String, Tensor)| (name, tensor.to_vec1::<f64>().unwrap())).collect()
}

fn schedule(name: &str) -> Box<dyn Schedule> {
    fn boxed(schedule: Result<impl Schedule + 'static>) -> Box<dyn Schedule> {
        Box::new(schedule.unwrap())
    }
    match name {
        "constant" => boxed(ConstantLR::builder(BASE, 40).factor(0.25).build()),
        "linear" => boxed(LinearLR::builder(BASE, 700).start_factor(0.2).end_factor(0.9).build()),
        "linear_default" => boxed(LinearLR::new(BASE, 5)),
        "step" => boxed(StepLR::builder(BASE, 150).gamma(0.5).build()),
        "multi_step" => boxed(MultiStepLR::builder(BASE, [3, 100, 101, 750]).gamma(0.3).build()),
        "exponential" => boxed(ExponentialLR::new(BASE, 0.996)),
        "polynomial" => boxed(PolynomialLR::builder(BASE, 800).power(2.5).build()),
        "cosine" => boxed(CosineAnnealingLR::builder(BASE, 1000).eta_min(0.001).build()),
        "cosine_again" => boxed(CosineAnnealingLR::new(BASE, 130)),
        "restarts" => boxed(CosineAnnealingWarmRestarts::builder(BASE, 90).eta_min(0.002).build()),
        "restarts_longer" => boxed(CosineAnnealingWarmRestarts::builder(BASE, 30).t_mult(2).build()),
        "one_cycle" => boxed(OneCycleLR::new(BASE, 1001)),
        "one_cycle_linear" => boxed(
            OneCycleLR::builder(BASE, 1001)
                .anneal(Anneal::Linear)
                .pct_start(0.4)
                .div_factor(10.0)
                .final_div_factor(100.0)
                .momentum_between(0.8, 0.9)
                .build(),
        ),
        "one_cycle_three" => boxed(OneCycleLR::builder(BASE, 1001).three_phase(true).pct_start(0.33).build()),
        "one_cycle_three_linear" => {
            boxed(OneCycleLR::builder(BASE, 1001).three_phase(true).anneal(Anneal::Linear).build())
        }
        "cyclic" => boxed(CyclicLR::builder(0.01, BASE).step_size_up(70).momentum_between(0.8, 0.9).build()),
        "cyclic_halved" => boxed(
            CyclicLR::builder(0.01, BASE)
                .step_size_up(40)
                .step_size_down(110)
                .mode(CyclicMode::Triangular2)
                .momentum_between(0.8, 0.95)
                .build(),
        ),
        "cyclic_exponential" => boxed(
            CyclicLR::builder(0.01, BASE)
                .step_size_up(100)
                .mode(CyclicMode::ExpRange { gamma: 0.998 })
                .momentum_between(0.8, 0.9)
                .build(),
        ),
        "lambda" => Box::new(|step: usize| BASE * (1.0 / (1.0 + 0.01 * step as f64))),
        "sequential" => boxed(
            SequentialLR::builder(LinearLR::builder(BASE, 50).start_factor(0.1).build().unwrap())
                .then(50, CosineAnnealingLR::new(BASE, 400).unwrap())
                .then(450, ExponentialLR::new(BASE, 0.99).unwrap())
                .build(),
        ),
        "chained" => boxed(
            ChainedScheduler::builder(BASE)
                .times(ConstantLR::builder(1.0, 20).factor(0.1).build().unwrap())
                .times(StepLR::builder(1.0, 200).gamma(0.7).build().unwrap())
                .times(ExponentialLR::new(1.0, 0.999).unwrap())
                .build(),
        ),
        other => panic!("no schedule `{other}`"),
    }
}

#[test]
fn a_thousand_steps_agree_with_pytorch() {
    let reference = reference();
    let mut compared = 0;
    for (key, expected) in reference.iter().filter(|(key, _)| !key.starts_with("plateau")) {
        let (name, what) = key.split_once('/').unwrap();
        let schedule = schedule(name);
        assert_eq!(expected.len(), 1001);
        for (step, expected) in expected.iter().enumerate() {
            let got = match what {
                "momentum" => schedule.momentum(step).unwrap(),
                _ => schedule.learning_rate(step),
            };
            assert!((got - expected).abs() <= 1e-12, "{key} at step {step}: {got}, PyTorch {expected}");
        }
        compared += 1;
    }
    assert_eq!(compared, 21 + 7);
}

fn plateau(name: &str) -> ReduceLROnPlateau {
    let builder = ReduceLROnPlateau::builder(BASE);
    let builder = match name {
        "default" => builder,
        "patient" => builder.factor(0.5).patience(4).cooldown(3),
        "absolute" => builder.factor(0.8).patience(1).threshold(0.05, ThresholdMode::Absolute).min_learning_rate(0.01),
        "largest" => builder
            .mode(Direction::Maximize)
            .factor(0.6)
            .patience(2)
            .threshold(0.01, ThresholdMode::Relative)
            .cooldown(1),
        "largest_absolute" => builder
            .mode(Direction::Maximize)
            .factor(0.9)
            .patience(0)
            .threshold(0.02, ThresholdMode::Absolute)
            .epsilon(0.02),
        "impatient" => builder.factor(0.5).patience(0).min_learning_rate(1e-4),
        other => panic!("no plateau `{other}`"),
    };
    builder.build().unwrap()
}

#[test]
fn plateau_agrees_with_pytorch_on_random_metrics() {
    let reference = reference();
    let mut reductions = 0;
    for (key, metrics) in reference.iter().filter(|(key, _)| key.ends_with("/metrics")) {
        let mut schedule = plateau(key.split('/').nth(1).unwrap());
        let expected = &reference[&key.replace("/metrics", "/learning_rate")];
        for (epoch, (metric, expected)) in metrics.iter().zip(expected).enumerate() {
            schedule.observe(epoch, *metric).unwrap();
            let got = schedule.learning_rate(epoch);
            assert!((got - expected).abs() <= 1e-12, "{key} at epoch {epoch}: {got}, PyTorch {expected}");
        }
        reductions += schedule.reductions();
    }
    assert!(reductions > 100, "{reductions}");
}
