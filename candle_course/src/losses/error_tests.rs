//! What a mistake is told, and what composed losses compute.

use candle_core::{DType, Device, Tensor, Var};

use crate::losses::*;
use crate::nn::Parameters;

fn message<T>(result: crate::error::Result<T>) -> String {
    result.err().expect("an error").to_string()
}

fn numbers(values: &[f32]) -> Tensor {
    Tensor::new(values, &Device::Cpu).unwrap()
}

fn labels(values: &[u32]) -> Tensor {
    Tensor::new(values, &Device::Cpu).unwrap()
}

#[test]
fn mistakes_are_named() {
    let logits = Tensor::new(&[[1f32, -2., 0.5], [0., 3., 1.]], &Device::Cpu).unwrap();
    let maps = Tensor::zeros((1, 3, 2, 2), DType::F32, &Device::Cpu).unwrap();
    let mask = Tensor::zeros((1, 2, 2), DType::U32, &Device::Cpu).unwrap();
    let column = numbers(&[1., 2.]).unsqueeze(1).unwrap();
    let empty = Tensor::zeros((0, 3), DType::F32, &Device::Cpu).unwrap();
    let two = numbers(&[1., 2.]);
    let f64s = two.to_dtype(DType::F64).unwrap();
    let cases = [
        // shapes
        (message(mse(&column, &two)), "did you forget `squeeze(1)`"),
        (message(mse(&two, &numbers(&[1.]))), "`targets`: expected the shape of the predictions, [2], got [1]"),
        (message(mse(&numbers(&[]), &numbers(&[]))), "at least one element"),
        (message(cross_entropy(&two, &labels(&[0, 1]))), "unsqueeze(0)"),
        (message(cross_entropy(&logits, &labels(&[0]))), "class indices of shape [2]"),
        (message(cross_entropy(&maps, &mask.unsqueeze(1).unwrap())), "squeeze(1)"),
        (message(cross_entropy(&logits, &logits.zeros_like().unwrap().to_dtype(DType::U8).unwrap())), "one-hot"),
        (message(cross_entropy(&empty, &Tensor::zeros(0, DType::U32, &Device::Cpu).unwrap())), "at least one element"),
        (message(dice(&maps, &two)), "logits [N, C, H, W] and targets [N, H, W]"),
        (message(lovasz_hinge(&maps, &mask)), "use Lovász-Softmax"),
        (message(lovasz_softmax(&maps, &labels(&[1]))), "shape [1, 2, 2]"),
        // dtypes
        (message(mse(&two, &labels(&[1, 2]))), "to_dtype(DType::F32)"),
        (message(mse(&labels(&[1, 2]), &two)), "are predictions and targets swapped?"),
        (message(mse(&two, &f64s)), "the dtype of the predictions, f32"),
        (message(binary_cross_entropy(&two, &f64s)), "got f64"),
        (message(cross_entropy(&logits, &two)), "to_dtype(DType::U32)"),
        // ranges
        (message(cross_entropy(&logits, &labels(&[0, 3]))), "`targets`: expected classes in 0..3, got 3"),
        (message(cross_entropy(&logits, &labels(&[0, 255]))), "ignore_index(255)"),
        (message(cross_entropy(&logits, &Tensor::new(&[0i64, -100], &Device::Cpu).unwrap())), "ignore_index(-100)"),
        (message(cross_entropy(&logits, &logits)), "numbers in [0, 1]"),
        (message(cross_entropy(&logits, &logits.affine(0.0, 0.9).unwrap())), "sum to 1"),
        (message(binary_cross_entropy(&two, &numbers(&[0., 2.]))), "from 0 to 2"),
        (message(binary_cross_entropy(&two, &numbers(&[-1., 1.]))), "labels −1 and 1"),
        (message(binary_focal(&two, &numbers(&[0.5, 1.]))), "soft labels need binary cross-entropy"),
        (message(hinge(&two, &numbers(&[0., 2.]))), "0 and 1 only"),
        (message(nll(&logits, &labels(&[0, 1]))), "log_softmax"),
        (message(kl_divergence(&two, &numbers(&[0.5, 0.5]), Reduction::Mean)), "log-probabilities"),
        (message(kl_divergence(&numbers(&[-1., -2.]), &two, Reduction::Mean)), "numbers in [0, 1]"),
        (message(dice(&two, &numbers(&[0., 7.]))), "from 0 to 7"),
        (message(lovasz_hinge(&two, &numbers(&[0., 0.5]))), "a mask of 0 and 1"),
        // options
        (message(CrossEntropy::new().class_weights(vec![1.0, -1.0]).build()), "not negative"),
        (message(CrossEntropy::new().class_weights(vec![0.0, 0.0]).build()), "at least one positive"),
        (message(CrossEntropy::new().class_weights(vec![1.0, f64::NAN]).build()), "finite"),
        (
            message(CrossEntropy::new().label_smoothing(1.5).build()),
            "`label_smoothing`: expected a number in [0, 1], got 1.5",
        ),
        (message(CrossEntropy::new().label_smoothing(-0.1).forward(&logits, &labels(&[0, 1]))), "label_smoothing"),
        (
            message(CrossEntropy::new().class_weights(vec![1.0; 2]).forward(&logits, &labels(&[0, 1]))),
            "one per class, 3",
        ),
        (message(CrossEntropy::new().ignore_index(0).forward(&logits, &logits)), "no index with soft targets"),
        (message(BinaryCrossEntropy::new().pos_weight(vec![-2.0]).build()), "pos_weight"),
        (
            message(BinaryCrossEntropy::new().pos_weight(vec![1.0; 3]).forward(&two, &numbers(&[0., 1.]))),
            "one per label",
        ),
        (message(BinaryCrossEntropy::new().weights(&numbers(&[-1.])).build()), "not negative"),
        (
            message(BinaryCrossEntropy::new().weights(&numbers(&[1., 1., 1.])).forward(&two, &numbers(&[0., 1.]))),
            "broadcasts",
        ),
        (message(Focal::new().gamma(-1.0).build()), "`gamma`"),
        (
            message(Focal::new().alpha(vec![1.0; 2]).forward(&logits, &labels(&[0, 1]))),
            "`alpha`: expected one per class",
        ),
        (message(BinaryFocal::new().alpha(1.5).build()), "`alpha`: expected a number in [0, 1], got 1.5"),
        (message(Huber::new().delta(0.0).build()), "`delta`: expected a positive number, got 0"),
        (message(SmoothL1::new().beta(-1.0).build()), "`beta`"),
        (message(quantile(&two, &two, 1.0)), "`quantile`: expected a number in (0, 1), got 1"),
        (message(Tversky::new().alpha(-0.5).build()), "`alpha`"),
        (message(Tversky::new().alpha(0.0).beta(0.0).build()), "`alpha + beta`: expected more than 0"),
        (message(FocalTversky::new().gamma(0.0).build()), "`gamma`: expected a positive number"),
        (message(Dice::new().smooth(-1.0).forward(&maps, &mask)), "`smooth`"),
        (message(inverse_frequency_weights(&[5, 0])), "0 of class 1"),
        (message(class_balanced_weights(&[5, 1], 1.0)), "`beta`: expected a number in [0, 1), got 1"),
        (message(WeightedSum::new().build()), "at least one"),
        (message(WeightedSum::new().term("a", -1.0, CrossEntropy).build()), "`weight`"),
        (message(WeightedSum::new().term("a", 1.0, CrossEntropy).term("a", 1.0, CrossEntropy).build()), "`a` twice"),
        (message(MultiTask::new().fixed()), "at least one"),
        (message(MultiTask::new().task("a", Task::Regression, 0.0, Mse::new()).fixed()), "a positive number"),
        (message(MultiTask::new().task("a", Task::Regression, 1.0, Mse::new()).forward(&[])), "one per task, 1"),
    ];
    for (i, (text, expected)) in cases.into_iter().enumerate() {
        assert!(text.contains(expected), "case {i}: {text}");
    }
    let unreduced = WeightedSum::new().term("ce", 1.0, CrossEntropy::new().reduction(Reduction::None)).build().unwrap();
    assert!(message(unreduced.forward(&logits, &labels(&[0, 1]))).contains("scalar losses"));
}

#[test]
fn a_diverged_model_is_not_hidden() {
    let nan = Tensor::new(&[[f32::NAN, 0.], [0., 1.]], &Device::Cpu).unwrap();
    let targets = labels(&[0, 1]);
    let losses: [Box<dyn Loss>; 4] =
        [Box::new(CrossEntropy), Box::new(Focal::new()), Box::new(Dice::new()), Box::new(Tversky::new())];
    for loss in losses {
        assert!(loss.forward(&nan, &targets).unwrap().to_scalar::<f32>().unwrap().is_nan());
    }
    let (x, y) = (numbers(&[f32::NAN]), numbers(&[1.]));
    for value in
        [mse(&x, &y), mae(&x, &y), huber(&x, &y), log_cosh(&x, &y), binary_cross_entropy(&x, &y), hinge(&x, &y)]
    {
        assert!(value.unwrap().to_scalar::<f32>().unwrap().is_nan());
    }
}

#[test]
fn gradients_are_finite_where_naive_forms_fail() {
    let shape = (1, 3, 2, 2);
    let mut generator = crate::random::Generator::new(9);
    let losses: [(&str, Box<dyn Loss>); 9] = [
        ("cross-entropy", Box::new(CrossEntropy::new().label_smoothing(0.1).ignore_index(255))),
        ("focal", Box::new(Focal::new().gamma(0.5).ignore_index(255))),
        ("dice", Box::new(Dice::new().smooth(0.0).ignore_index(255))),
        ("iou", Box::new(Iou::new().smooth(0.0).ignore_index(255))),
        ("tversky", Box::new(Tversky::new().smooth(0.0).ignore_index(255))),
        ("focal tversky", Box::new(FocalTversky::new().smooth(0.0).gamma(0.5).ignore_index(255))),
        ("generalised dice", Box::new(GeneralisedDice::new().ignore_index(255))),
        ("lovász", Box::new(LovaszSoftmax::new().ignore_index(255))),
        ("lovász, all classes", Box::new(LovaszSoftmax::new().classes(Classes::All).ignore_index(255))),
    ];
    for round in 0..50 {
        let sizes = [0.0, 1.0, 30.0, 200.0, 1e4, 1e30];
        let logits: Vec<f32> =
            (0..12).map(|_| sizes[generator.below(6)] as f32 * if generator.chance(0.5) { 1. } else { -1. }).collect();
        let targets: Vec<u32> =
            (0..4).map(|_| [0, 1, 2, 255][generator.below(if round % 5 == 0 { 1 } else { 4 })]).collect();
        let x = Var::from_tensor(&Tensor::from_vec(logits.clone(), shape, &Device::Cpu).unwrap()).unwrap();
        let y = Tensor::from_vec(targets.clone(), (1, 2, 2), &Device::Cpu).unwrap();
        for (name, loss) in &losses {
            let value = loss.forward(&x, &y).unwrap();
            let gradient = value.backward().unwrap().get(&x).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert!(value.to_scalar::<f32>().unwrap().is_finite(), "{name} of {logits:?}, {targets:?}");
            assert!(gradient.iter().all(|g| g.is_finite()), "{name} of {logits:?}, {targets:?}: {gradient:?}");
        }
    }
}

#[test]
fn a_sum_and_its_gradient_are_the_weighted_parts() {
    let x = Var::new(&[[[0.5f64, -1.], [2., 0.25]]], &Device::Cpu).unwrap();
    let y = Tensor::new(&[[0u32, 1]], &Device::Cpu).unwrap();
    let sum = WeightedSum::new().term("ce", 0.25, CrossEntropy).term("dice", 2.0, Dice::new()).build().unwrap();
    let gradient = |loss: &dyn Loss| {
        let value = loss.forward(&x, &y).unwrap();
        let gradient = value.backward().unwrap().get(&x).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
        (value.to_scalar::<f64>().unwrap(), gradient)
    };
    let (ce, dice, both) = (gradient(&CrossEntropy), gradient(&Dice::new()), gradient(&sum));
    assert!((both.0 - 0.25 * ce.0 - 2.0 * dice.0).abs() < 1e-14);
    for ((both, ce), dice) in both.1.iter().zip(&ce.1).zip(&dice.1) {
        assert!((both - 0.25 * ce - 2.0 * dice).abs() < 1e-14);
    }
    assert_eq!(sum.parts(&x, &y).unwrap(), [("ce".to_owned(), ce.0), ("dice".to_owned(), dice.0)]);
}

#[test]
fn learned_weights_begin_as_given_and_follow_the_formula() {
    let parameters = Parameters::with_dtype(0, DType::F64, &Device::Cpu);
    let loss = MultiTask::new()
        .task("height", Task::Regression, 0.2, Mse::new())
        .task("cover", Task::Classification, 3.0, CrossEntropy)
        .learned(&parameters.at("uncertainty"))
        .unwrap();
    for ((_, weight), expected) in loss.weights().unwrap().into_iter().zip([0.2, 3.0]) {
        assert!((weight - expected).abs() < 1e-12);
    }
    let (height, metres) =
        (Tensor::new(&[1f64, 4.], &Device::Cpu).unwrap(), Tensor::new(&[0f64, 1.], &Device::Cpu).unwrap());
    let (cover, classes) = (Tensor::new(&[[1f64, 0.]], &Device::Cpu).unwrap(), labels(&[1]));
    let value = loss.forward(&[(&height, &metres), (&cover, &classes)]).unwrap();
    let parts: Vec<f64> = value.parts.iter().map(|(_, part)| part.to_scalar().unwrap()).collect();
    let s: Vec<f64> = ["height", "cover"]
        .iter()
        .map(|name| parameters.get(&format!("uncertainty.log_variance.{name}")).unwrap().to_scalar().unwrap())
        .collect();
    let expected = 0.5 * (-s[0]).exp() * parts[0] + s[0] / 2.0 + (-s[1]).exp() * parts[1] + s[1] / 2.0;
    assert!((value.total.to_scalar::<f64>().unwrap() - expected).abs() < 1e-12);
    let gradients = value.total.backward().unwrap();
    let slope = |name: &str| {
        let variable = parameters.get(&format!("uncertainty.log_variance.{name}")).unwrap();
        gradients.get(&variable).unwrap().to_scalar::<f64>().unwrap()
    };
    assert!((slope("height") - (0.5 - 0.5 * (-s[0]).exp() * parts[0])).abs() < 1e-12);
    assert!((slope("cover") - (0.5 - (-s[1]).exp() * parts[1])).abs() < 1e-12);
}

#[test]
fn class_weights_have_the_known_limits() {
    let counts = [500, 50, 5];
    let flat = class_balanced_weights(&counts, 0.0).unwrap();
    assert!(flat.iter().all(|w| (w - 1.0).abs() < 1e-12));
    let steep = class_balanced_weights(&counts, 1.0 - 1e-12).unwrap();
    let inverse = inverse_frequency_weights(&counts).unwrap();
    for (a, b) in steep.iter().zip(&inverse) {
        assert!((a / steep[0] - b / inverse[0]).abs() < 1e-3 * b / inverse[0]);
    }
    // sklearn.utils.class_weight.compute_class_weight("balanced", …): n / (classes · count)
    assert!((inverse[1] - 555.0 / 150.0).abs() < 1e-12);
}
