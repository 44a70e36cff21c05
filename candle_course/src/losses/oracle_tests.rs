//! Every loss against stored PyTorch values and gradients, and against finite differences.

use candle_core::{DType, Tensor, Var};
use serde::Deserialize;
use serde_json::Value;

use crate::kernels::parallel::same_on_any_number_of_threads;
use crate::losses::*;
use crate::test_support::{data, device};

pub(super) const FILES: [&str; 4] = ["regression.json", "binary.json", "classes.json", "segmentation.json"];

#[derive(Deserialize)]
pub(super) struct Case {
    pub loss: String,
    pub case: String,
    options: Value,
    smooth: bool,
    pub shape: Vec<usize>,
    pub predictions: Vec<f64>,
    target_shape: Vec<usize>,
    target_kind: String,
    targets: Vec<f64>,
    value_shape: Vec<usize>,
    value: Vec<f64>,
    gradient: Vec<f64>,
}

pub(super) fn cases(file: &str) -> Vec<Case> {
    serde_json::from_str(&std::fs::read_to_string(data("losses").join(file)).unwrap()).unwrap()
}

struct Options<'a>(&'a Value);

impl<'a> Options<'a> {
    fn number(&self, name: &str) -> Option<f64> {
        self.0.get(name).and_then(Value::as_f64)
    }
    fn numbers(&self, name: &str) -> Option<Vec<f64>> {
        Some(self.0.get(name)?.as_array()?.iter().map(|v| v.as_f64().unwrap()).collect())
    }
    fn flag(&self, name: &str) -> bool {
        self.0.get(name).and_then(Value::as_bool).unwrap_or(false)
    }
    fn text(&self, name: &str) -> Option<&'a str> {
        self.0.get(name).and_then(Value::as_str)
    }
    fn ignored(&self) -> Option<i64> {
        self.0.get("ignore_index").and_then(Value::as_i64)
    }
    fn reduction(&self) -> Reduction {
        match self.text("reduction") {
            Some("sum") => Reduction::Sum,
            Some("none") => Reduction::None,
            _ => Reduction::Mean,
        }
    }
    fn over(&self) -> Over {
        if self.text("over") == Some("image") { Over::Image } else { Over::Batch }
    }
    fn classes(&self) -> Classes {
        if self.text("classes") == Some("all") { Classes::All } else { Classes::Present }
    }
}

macro_rules! region {
    ($options:ident, $loss:expr $(, $number:ident)*) => {{
        let mut loss = $loss.over($options.over()).classes($options.classes());
        if let Some(smooth) = $options.number("smooth") {
            loss = loss.smooth(smooth);
        }
        if let Some(index) = $options.ignored() {
            loss = loss.ignore_index(index);
        }
        $(if let Some(number) = $options.number(stringify!($number)) {
            loss = loss.$number(number);
        })*
        loss
    }};
}

pub(super) fn build(case: &Case) -> Box<dyn Loss> {
    let options = Options(&case.options);
    let reduction = options.reduction();
    match case.loss.as_str() {
        "mse" => Box::new(Mse::builder().reduction(reduction).build().unwrap()),
        "mae" => Box::new(Mae::builder().reduction(reduction).build().unwrap()),
        "rmse" => Box::new(Rmse),
        "huber" => Box::new(
            Huber::builder().delta(options.number("delta").unwrap_or(1.0)).reduction(reduction).build().unwrap(),
        ),
        "smooth_l1" => Box::new(
            SmoothL1::builder().beta(options.number("beta").unwrap_or(1.0)).reduction(reduction).build().unwrap(),
        ),
        "log_cosh" => Box::new(LogCosh::builder().reduction(reduction).build().unwrap()),
        "quantile" => {
            Box::new(Quantile::builder(options.number("quantile").unwrap()).reduction(reduction).build().unwrap())
        }
        "bce" => {
            let mut loss = BinaryCrossEntropy::builder().reduction(reduction);
            if let Some(weight) = options.numbers("pos_weight") {
                loss = loss.pos_weight(weight);
            }
            if let Some(weights) = options.numbers("weights") {
                loss = loss.weights(&Tensor::new(weights, device()).unwrap());
            }
            Box::new(loss.build().unwrap())
        }
        "hinge" => Box::new(Hinge::builder().squared(options.flag("squared")).reduction(reduction).build().unwrap()),
        "binary_focal" => {
            let loss = BinaryFocal::builder().gamma(options.number("gamma").unwrap()).reduction(reduction);
            let loss = match options.number("alpha") {
                Some(alpha) => loss.alpha(alpha),
                None => loss.without_alpha(),
            };
            Box::new(loss.build().unwrap())
        }
        "cross_entropy" => {
            let mut loss = CrossEntropy::builder()
                .label_smoothing(options.number("label_smoothing").unwrap_or(0.0))
                .reduction(reduction);
            if let Some(weights) = options.numbers("class_weights") {
                loss = loss.class_weights(weights);
            }
            if let Some(index) = options.ignored() {
                loss = loss.ignore_index(index);
            }
            Box::new(loss.build().unwrap())
        }
        "nll" => {
            let mut loss = Nll::builder().reduction(reduction);
            if let Some(weights) = options.numbers("class_weights") {
                loss = loss.class_weights(weights);
            }
            if let Some(index) = options.ignored() {
                loss = loss.ignore_index(index);
            }
            Box::new(loss.build().unwrap())
        }
        "kl" => Box::new(KlDivergence::builder().reduction(reduction).build().unwrap()),
        "focal" => {
            let mut loss = Focal::builder().gamma(options.number("gamma").unwrap()).reduction(reduction);
            if let Some(alpha) = options.numbers("alpha") {
                loss = loss.alpha(alpha);
            }
            if let Some(index) = options.ignored() {
                loss = loss.ignore_index(index);
            }
            Box::new(loss.build().unwrap())
        }
        "dice" => Box::new(region!(options, Dice::builder()).squared(options.flag("squared")).build().unwrap()),
        "iou" => Box::new(region!(options, Iou::builder()).build().unwrap()),
        "tversky" => Box::new(region!(options, Tversky::builder(), alpha, beta).build().unwrap()),
        "focal_tversky" => Box::new(region!(options, FocalTversky::builder(), alpha, beta, gamma).build().unwrap()),
        "generalised_dice" => {
            let mut loss = GeneralisedDice::builder().over(options.over());
            if let Some(index) = options.ignored() {
                loss = loss.ignore_index(index);
            }
            Box::new(loss.build().unwrap())
        }
        "lovasz_softmax" => {
            let mut loss = LovaszSoftmax::builder().over(options.over()).classes(options.classes());
            if let Some(index) = options.ignored() {
                loss = loss.ignore_index(index);
            }
            Box::new(loss.build().unwrap())
        }
        "lovasz_hinge" => {
            let mut loss = LovaszHinge::builder().over(options.over());
            if let Some(index) = options.ignored() {
                loss = loss.ignore_index(index);
            }
            Box::new(loss.build().unwrap())
        }
        other => panic!("unknown loss {other}"),
    }
}

impl Case {
    pub fn has(&self, option: &str) -> bool {
        self.options.get(option).is_some()
    }

    pub fn text(&self, option: &str) -> Option<&str> {
        Options(&self.options).text(option)
    }

    pub fn ignored(&self) -> Option<i64> {
        Options(&self.options).ignored()
    }

    pub fn targets(&self, dtype: DType) -> Tensor {
        let targets = Tensor::from_vec(self.targets.clone(), self.target_shape.clone(), device()).unwrap();
        targets.to_dtype(if self.target_kind == "class" { DType::U32 } else { dtype }).unwrap()
    }

    pub fn variable(&self, predictions: &[f64], dtype: DType) -> Var {
        let tensor = Tensor::from_vec(predictions.to_vec(), self.shape.clone(), device()).unwrap();
        Var::from_tensor(&tensor.to_dtype(dtype).unwrap()).unwrap()
    }

    /// The value, and Σ valueᵢ cos i, whose gradient is stored.
    fn run(&self, predictions: &Var, dtype: DType) -> (Vec<f64>, Tensor) {
        let value = build(self).forward(predictions, &self.targets(dtype)).unwrap();
        assert_eq!(value.dims(), self.value_shape, "{}: {}", self.loss, self.case);
        let total = if value.rank() == 0 {
            value.clone()
        } else {
            let outer: Vec<f64> = (0..value.elem_count()).map(|i| (i as f64).cos()).collect();
            let outer = Tensor::from_vec(outer, value.shape(), device()).unwrap().to_dtype(value.dtype()).unwrap();
            (&value * outer).unwrap().sum_all().unwrap()
        };
        (numbers(&value), total)
    }
}

pub(super) fn numbers(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Relative to every element, however small beside the others, plus `allowed`.
fn assert_close(what: &str, got: &[f64], expected: &[f64], tolerance: f64, allowed: f64) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        let error = (got - expected).abs();
        let limit = tolerance * expected.abs() + allowed;
        assert!(error <= limit, "{what}, element {i}: expected {expected:e}, got {got:e}");
    }
}

/// Gradients are compared element by element too. Where they go back through a softmax,
/// p (g − Σ g p) is a difference, which cancels where g is near its mean: there elements below
/// `floor` times the largest are only as accurate as that.
fn check(file: &str, floor: f64) {
    let mut failures = Vec::new();
    for case in cases(file) {
        let name = format!("{}: {}", case.loss, case.case);
        let smallest = f64::from(f32::MIN_POSITIVE);
        for (dtype, tolerance, smallest) in [(DType::F64, 1e-10, f64::MIN_POSITIVE), (DType::F32, 1e-5, smallest)] {
            let result = std::panic::catch_unwind(|| {
                let x = case.variable(&case.predictions, dtype);
                let (value, total) = case.run(&x, dtype);
                // The oracle's own rounding where it subtracts from 1.
                let rounding = f64::EPSILON;
                assert_close(&format!("{name} ({dtype:?}) value"), &value, &case.value, tolerance, rounding);
                let gradients = total.backward().unwrap();
                let gradient = numbers(gradients.get(&x).expect("a gradient"));
                let largest = case.gradient.iter().fold(0f64, |m, x| m.max(x.abs()));
                let allowed = tolerance * floor * largest + smallest;
                assert_close(&format!("{name} ({dtype:?}) gradient"), &gradient, &case.gradient, tolerance, allowed);
            });
            if let Err(panic) = result {
                failures.push(panic.downcast_ref::<String>().cloned().unwrap_or_default());
            }
        }
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn regression_losses_agree_with_pytorch() {
    check("regression.json", 0.0);
}

#[test]
fn binary_losses_agree_with_pytorch() {
    check("binary.json", 0.0);
}

#[test]
fn class_losses_agree_with_pytorch() {
    check("classes.json", 1e-4);
}

#[test]
fn segmentation_losses_agree_with_pytorch() {
    check("segmentation.json", 1e-3);
}

#[test]
fn every_loss_has_ten_cases_at_least() {
    let mut counts = std::collections::BTreeMap::new();
    for file in FILES {
        for case in cases(file) {
            *counts.entry(case.loss).or_insert(0) += 1;
        }
    }
    assert_eq!(counts.len(), 21);
    assert!(counts.values().all(|&count| count >= 10), "{counts:?}");
}

#[test]
fn gradients_agree_with_finite_differences() {
    let mut checked = 0;
    for file in FILES {
        for case in cases(file).into_iter().filter(|case| case.smooth && case.predictions.len() <= 40) {
            let x = case.variable(&case.predictions, DType::F64);
            let gradients = case.run(&x, DType::F64).1.backward().unwrap();
            let gradient = numbers(gradients.get(&x).unwrap());
            let h = 1e-6;
            let at = |i: usize, change: f64| {
                let mut moved = case.predictions.clone();
                moved[i] += change;
                let moved = case.variable(&moved, DType::F64);
                case.run(&moved, DType::F64).1.to_scalar::<f64>().unwrap()
            };
            for i in 0..case.predictions.len() {
                let kink = ["mae", "huber", "smooth_l1", "quantile", "hinge"].contains(&case.loss.as_str());
                let numeric = (at(i, h) - at(i, -h)) / (2.0 * h);
                let one_sided = (at(i, h) - at(i, 0.0)) / h;
                if kink && (numeric - one_sided).abs() > 1e-4 {
                    continue; // the point lies on a kink
                }
                let error = (gradient[i] - numeric).abs() / (1.0 + numeric.abs());
                assert!(error < 1e-7, "{}: {}, {i}: {} against {numeric}", case.loss, case.case, gradient[i]);
                checked += 1;
            }
        }
    }
    assert!(checked > 1500, "{checked}");
}

#[test]
fn half_precision_is_computed_in_f32() {
    for case in FILES.into_iter().flat_map(cases).filter(|case| case.smooth) {
        for dtype in [DType::BF16, DType::F16] {
            // Targets of real-valued losses are given in the dtype of the predictions.
            let x = case.variable(&case.predictions, dtype);
            let targets = case.targets(dtype);
            let loss = build(&case);
            let value = loss.forward(&x, &targets).unwrap();
            assert_eq!(value.dtype(), DType::F32, "{}: {}", case.loss, case.case);
            let upcast = Var::from_tensor(&x.to_dtype(DType::F32).unwrap()).unwrap();
            // Soft targets stay as they are: rounded to half precision their sums are 1 to its accuracy only.
            let soft = case.loss == "cross_entropy" && case.target_kind == "real";
            let keep = case.target_kind == "class" || soft;
            let targets = if keep { targets } else { targets.to_dtype(DType::F32).unwrap() };
            let expected = loss.forward(&upcast, &targets).unwrap();
            assert_eq!(numbers(&value), numbers(&expected), "{}: {}", case.loss, case.case);
            let gradient = value.sum_all().unwrap().backward().unwrap().get(&x).unwrap().clone();
            assert_eq!(gradient.dtype(), dtype);
        }
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let shape = (2, 5, 64, 65);
    let mut generator = crate::random::Generator::new(3);
    let count = 2 * 5 * 64 * 65;
    let logits: Vec<f32> = (0..count).map(|_| 3.0 * generator.normal() as f32).collect();
    let labels: Vec<u32> = (0..count / 5).map(|_| generator.below(5) as u32).collect();
    let x = Var::from_tensor(&Tensor::from_vec(logits, shape, device()).unwrap()).unwrap();
    let targets = Tensor::from_vec(labels, (2, 64, 65), device()).unwrap();
    let losses: [Box<dyn Loss>; 5] = [
        Box::new(CrossEntropy::builder().label_smoothing(0.1).build().unwrap()),
        Box::new(Focal::default()),
        Box::new(Dice::default()),
        Box::new(FocalTversky::default()),
        Box::new(LovaszSoftmax::default()),
    ];
    let name = "losses::oracle_tests::results_do_not_depend_on_the_number_of_threads";
    same_on_any_number_of_threads(name, || {
        let mut results = Vec::new();
        for loss in losses {
            let value = loss.forward(&x, &targets).unwrap();
            results.push(value.to_scalar::<f32>().unwrap());
            let gradients = value.backward().unwrap();
            results.extend(gradients.get(&x).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap());
        }
        results
    });
}
