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
    // Rows that sum to 0, which does not count, and to 1; the one between them is wrong.
    let between = Tensor::new(&[[0f32, 0., 0.], [0.5, 0., 0.], [0., 1., 0.]], &Device::Cpu).unwrap();
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
        (message(binary_cross_entropy(&f64s, &two)), "the dtype of the logits, f64, or integers, got f32"),
        (message(binary_cross_entropy(&two, &f64s)), "got f64"),
        (message(cross_entropy(&logits, &two)), "to_dtype(DType::U32)"),
        // ranges
        (message(cross_entropy(&logits, &labels(&[0, 3]))), "`targets`: expected classes in 0..3, got 3"),
        (message(cross_entropy(&logits, &labels(&[0, 255]))), "ignore_index(255)"),
        (message(cross_entropy(&logits, &Tensor::new(&[0i64, -100], &Device::Cpu).unwrap())), "ignore_index(-100)"),
        (message(cross_entropy(&logits, &logits)), "numbers in [0, 1]"),
        (message(cross_entropy(&logits, &logits.affine(0.0, 0.9).unwrap())), "sum to 1"),
        (message(cross_entropy(&between, &between)), "sum to 1 over the classes, got a sum of 0.5"),
        (message(binary_cross_entropy(&two, &numbers(&[0., 2.]))), "from 0 to 2"),
        (message(binary_cross_entropy(&two, &numbers(&[-1., 1.]))), "labels −1 and 1"),
        (message(binary_focal(&two, &numbers(&[0.5, 1.]))), "soft labels need binary cross-entropy"),
        (message(hinge(&two, &numbers(&[0., 2.]))), "0 and 1 only"),
        (message(hinge(&numbers(&[1., 2., 3.]), &numbers(&[-1., 0., 1.]))), "−1, 0 and 1 together"),
        (message(nll(&logits, &labels(&[0, 1]))), "log_softmax"),
        (message(kl_divergence(&two, &numbers(&[0.5, 0.5]), Reduction::Mean)), "log-probabilities"),
        (message(kl_divergence(&numbers(&[-1., -2.]), &two, Reduction::Mean)), "numbers in [0, 1]"),
        (message(dice(&two, &numbers(&[0., 7.]))), "from 0 to 7"),
        (message(lovasz_hinge(&two, &numbers(&[0., 0.5]))), "a mask of 0 and 1"),
        // options
        (message(CrossEntropy::builder().class_weights(vec![1.0, -1.0]).build()), "not negative"),
        (message(CrossEntropy::builder().class_weights(vec![0.0, 0.0]).build()), "at least one positive"),
        (message(CrossEntropy::builder().class_weights(vec![1.0, f64::NAN]).build()), "finite"),
        (
            message(CrossEntropy::builder().label_smoothing(1.5).build()),
            "`label_smoothing`: expected a number in [0, 1], got 1.5",
        ),
        (message(CrossEntropy::builder().label_smoothing(-0.1).build()), "label_smoothing"),
        (
            message(
                CrossEntropy::builder().class_weights(vec![1.0; 2]).build().unwrap().forward(&logits, &labels(&[0, 1])),
            ),
            "one per class, 3",
        ),
        (
            message(CrossEntropy::builder().ignore_index(0).build().unwrap().forward(&logits, &logits)),
            "no index with soft targets",
        ),
        (message(BinaryCrossEntropy::builder().pos_weight(vec![-2.0]).build()), "pos_weight"),
        (message(BinaryCrossEntropy::builder().pos_weight(vec![f64::INFINITY]).build()), "not negative, got inf"),
        (message(Focal::builder().alpha(vec![1.0, -1.0]).build()), "`alpha`: expected finite numbers"),
        (
            message(
                BinaryCrossEntropy::builder()
                    .pos_weight(vec![1.0; 3])
                    .build()
                    .unwrap()
                    .forward(&two, &numbers(&[0., 1.])),
            ),
            "one per label",
        ),
        (message(BinaryCrossEntropy::builder().weights(&numbers(&[-1.])).build()), "not negative, got -1"),
        (
            message(BinaryCrossEntropy::builder().weights(&numbers(&[1., f32::INFINITY])).build()),
            "not negative, got inf",
        ),
        (message(BinaryCrossEntropy::builder().weights(&numbers(&[1., f32::NAN])).build()), "not negative, got NaN"),
        (
            message(BinaryCrossEntropy::builder().weights(&numbers(&[0., 0.])).build()),
            "`weights`: expected at least one positive",
        ),
        (message(BinaryCrossEntropy::builder().weights(&labels(&[1])).build()), "`weights`: expected floating-point"),
        (message(Nll::builder().class_weights(vec![1.0, -1.0]).build()), "`class_weights`: expected finite"),
        (
            message(
                BinaryCrossEntropy::builder()
                    .weights(&numbers(&[1., 1., 1.]))
                    .build()
                    .unwrap()
                    .forward(&two, &numbers(&[0., 1.])),
            ),
            "broadcasts",
        ),
        (message(Focal::builder().gamma(-1.0).build()), "`gamma`"),
        (
            message(Focal::builder().alpha(vec![1.0; 2]).build().unwrap().forward(&logits, &labels(&[0, 1]))),
            "`alpha`: expected one per class",
        ),
        (message(BinaryFocal::builder().alpha(1.5).build()), "`alpha`: expected a number in [0, 1], got 1.5"),
        (message(Huber::builder().delta(0.0).build()), "`delta`: expected a positive number, got 0"),
        (message(SmoothL1::builder().beta(-1.0).build()), "`beta`"),
        (message(quantile(&two, &two, 1.0)), "`quantile`: expected a number in (0, 1), got 1"),
        (message(Tversky::builder().alpha(-0.5).build()), "`alpha`"),
        (message(Tversky::builder().alpha(0.0).beta(0.0).build()), "`alpha + beta`: expected more than 0"),
        (message(FocalTversky::builder().gamma(0.0).build()), "`gamma`: expected a positive number"),
        (message(Dice::builder().smooth(-1.0).build()), "`smooth`"),
        (message(WeightedSum::builder().build()), "at least one"),
        (message(WeightedSum::builder().term("a", -1.0, CrossEntropy::default()).build()), "`weight`"),
        (
            message(WeightedSum::builder().term("a", f64::INFINITY, CrossEntropy::default()).build()),
            "`weight`: expected a finite number that is not negative, got inf",
        ),
        (
            message(
                WeightedSum::builder()
                    .term("a", 1.0, CrossEntropy::default())
                    .term("a", 1.0, CrossEntropy::default())
                    .build(),
            ),
            "`a` twice",
        ),
        (message(MultiTask::builder().build()), "at least one"),
        (message(MultiTask::builder().task("a", Task::Regression, 0.0, Mse::default()).build()), "a positive number"),
        (
            message(
                MultiTask::builder().task("a", Task::Regression, 1.0, Mse::default()).build().unwrap().forward(&[]),
            ),
            "one per task, 1",
        ),
    ];
    for (i, (text, expected)) in cases.into_iter().enumerate() {
        assert!(text.contains(expected), "case {i}: {text}");
    }
    let unreduced = WeightedSum::builder()
        .term("ce", 1.0, CrossEntropy::builder().reduction(Reduction::None).build().unwrap())
        .build()
        .unwrap();
    assert!(message(unreduced.forward(&logits, &labels(&[0, 1]))).contains("scalar losses"));
}

#[test]
fn a_diverged_model_is_not_hidden() {
    let nan = Tensor::new(&[[f32::NAN, 0.], [0., 1.]], &Device::Cpu).unwrap();
    let targets = labels(&[0, 1]);
    let losses: [Box<dyn Loss>; 4] = [
        Box::new(CrossEntropy::default()),
        Box::new(Focal::default()),
        Box::new(Dice::default()),
        Box::new(Tversky::default()),
    ];
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

/// What a loss is given in [`gradients_are_finite_where_naive_forms_fail`].
#[derive(Clone, Copy)]
enum Inputs {
    /// Scores of classes, class indices, some 255.
    Labels,
    /// Their logarithms of probabilities.
    LogProbabilities,
    /// A mask of 0 and 1.
    Mask,
    /// A mask of 0, 1 and 255.
    MaskWithGaps,
    /// Logarithms of probabilities, and probabilities.
    Divergence,
}

#[test]
fn gradients_are_finite_where_naive_forms_fail() {
    use Inputs::*;
    let losses: Vec<(&str, Inputs, Box<dyn Loss>)> = vec![
        (
            "cross-entropy",
            Labels,
            Box::new(CrossEntropy::builder().label_smoothing(0.1).ignore_index(255).build().unwrap()),
        ),
        ("focal", Labels, Box::new(Focal::builder().gamma(0.5).ignore_index(255).build().unwrap())),
        ("dice", Labels, Box::new(Dice::builder().smooth(0.0).ignore_index(255).build().unwrap())),
        ("iou", Labels, Box::new(Iou::builder().smooth(0.0).ignore_index(255).build().unwrap())),
        ("tversky", Labels, Box::new(Tversky::builder().smooth(0.0).ignore_index(255).build().unwrap())),
        (
            "focal tversky",
            Labels,
            Box::new(FocalTversky::builder().smooth(0.0).gamma(0.5).ignore_index(255).build().unwrap()),
        ),
        ("generalised dice", Labels, Box::new(GeneralisedDice::builder().ignore_index(255).build().unwrap())),
        ("lovász", Labels, Box::new(LovaszSoftmax::builder().ignore_index(255).build().unwrap())),
        (
            "lovász, all classes",
            Labels,
            Box::new(LovaszSoftmax::builder().classes(Classes::All).ignore_index(255).build().unwrap()),
        ),
        ("nll", LogProbabilities, Box::new(Nll::builder().ignore_index(255).build().unwrap())),
        ("kl", Divergence, Box::new(KlDivergence::default())),
        ("bce", Mask, Box::new(BinaryCrossEntropy::builder().pos_weight(vec![3.0]).build().unwrap())),
        ("hinge", Mask, Box::new(Hinge::default())),
        ("squared hinge", Mask, Box::new(Hinge::builder().squared(true).build().unwrap())),
        ("binary focal", Mask, Box::new(BinaryFocal::builder().gamma(0.5).build().unwrap())),
        ("lovász hinge", MaskWithGaps, Box::new(LovaszHinge::builder().ignore_index(255).build().unwrap())),
        (
            "dice of a mask",
            MaskWithGaps,
            Box::new(Dice::builder().smooth(0.0).squared(true).ignore_index(255).build().unwrap()),
        ),
        ("iou of a mask", MaskWithGaps, Box::new(Iou::builder().smooth(0.0).ignore_index(255).build().unwrap())),
        (
            "tversky of a mask",
            MaskWithGaps,
            Box::new(Tversky::builder().smooth(0.0).ignore_index(255).build().unwrap()),
        ),
        (
            "focal tversky of a mask",
            MaskWithGaps,
            Box::new(FocalTversky::builder().smooth(0.0).gamma(0.01).ignore_index(255).build().unwrap()),
        ),
        (
            "generalised dice of a mask",
            MaskWithGaps,
            Box::new(GeneralisedDice::builder().ignore_index(255).build().unwrap()),
        ),
        ("mse", Mask, Box::new(Mse::default())),
        ("mae", Mask, Box::new(Mae::default())),
        ("rmse", Mask, Box::new(Rmse)),
        ("huber", Mask, Box::new(Huber::default())),
        ("smooth l1", Mask, Box::new(SmoothL1::default())),
        ("log-cosh", Mask, Box::new(LogCosh::default())),
        ("quantile", Mask, Box::new(Quantile::new(0.9).unwrap())),
    ];
    let shape = (1, 3, 2, 2);
    let mut generator = crate::random::Generator::new(9);
    for round in 0..100 {
        let dtype = if round % 2 == 0 { DType::F32 } else { DType::F64 };
        let sizes = [0.0, 1.0, 30.0, 200.0, 400.0, 700.0, 1e4, 1e30];
        let logits: Vec<f64> =
            (0..12).map(|_| sizes[generator.below(8)] * if generator.chance(0.5) { 1. } else { -1. }).collect();
        let kinds = if round % 5 == 0 { 1 } else { 4 };
        let classes: Vec<u32> = (0..4).map(|_| [0, 1, 2, 255][generator.below(kinds)]).collect();
        let degrees: Vec<f64> = (0..12).map(|_| [0.0, 1.0, 1.0, 255.0][generator.below(kinds)]).collect();
        for (name, inputs, loss) in &losses {
            let tensor =
                |values: Vec<f64>| Tensor::from_vec(values, shape, &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
            let (x, y) = match inputs {
                Labels | LogProbabilities => {
                    (logits.clone(), Tensor::from_vec(classes.clone(), (1, 2, 2), &Device::Cpu).unwrap())
                }
                MaskWithGaps => (logits.clone(), tensor(degrees.clone())),
                Mask => (logits.clone(), tensor(degrees.iter().map(|d| d % 254.0).collect())),
                Divergence => (logits.clone(), tensor(degrees.iter().map(|d| d % 254.0 * 0.25).collect())),
            };
            let logarithms = matches!(inputs, LogProbabilities | Divergence);
            let x = if logarithms { x.iter().map(|x| -x.abs()).collect() } else { x };
            let x = Var::from_tensor(&tensor(x)).unwrap();
            let value = loss.forward(&x, &y).unwrap();
            let gradient = value.backward().unwrap().get(&x).unwrap().to_dtype(DType::F64).unwrap();
            let gradient = gradient.flatten_all().unwrap().to_vec1::<f64>().unwrap();
            let value = value.to_dtype(DType::F64).unwrap().to_scalar::<f64>().unwrap();
            let what = format!("{name} ({dtype:?}) of {logits:?}, {classes:?}, {degrees:?}: {value}, {gradient:?}");
            // The square of 1e30 is beyond f32.
            let overflows = dtype == DType::F32 && ["mse", "rmse", "squared hinge"].contains(name);
            assert!(value.is_finite() || (overflows && value == f64::INFINITY), "{what}");
            assert!(gradient.iter().all(|g| g.is_finite()), "{what}");
        }
    }
}

#[test]
fn an_absent_class_of_vanishing_probability_has_no_gradient() {
    let targets = Tensor::new(&[[0u32, 1]], &Device::Cpu).unwrap();
    for size in [360.0, 380.0, 400.0, 700.0, 740.0] {
        let x = Var::new(&[[[0.0, -1.0], [0.5, 0.0], [-size, -size]]], &Device::Cpu).unwrap();
        let losses: [Box<dyn Loss>; 5] = [
            Box::new(Dice::builder().smooth(0.0).build().unwrap()),
            Box::new(Dice::builder().smooth(0.0).squared(true).build().unwrap()),
            Box::new(Iou::builder().smooth(0.0).build().unwrap()),
            Box::new(Tversky::builder().smooth(0.0).build().unwrap()),
            Box::new(FocalTversky::builder().smooth(0.0).gamma(0.01).build().unwrap()),
        ];
        for (i, loss) in losses.iter().enumerate() {
            let value = loss.forward(&x, &targets).unwrap();
            let gradient = value.backward().unwrap().get(&x).unwrap().squeeze(0).unwrap().to_vec2::<f64>().unwrap();
            assert!(value.to_scalar::<f64>().unwrap() > 0.0);
            assert!(gradient.iter().flatten().all(|g| g.is_finite()), "loss {i}, {size}: {gradient:?}");
            assert!(gradient[0].iter().all(|g| *g != 0.0), "loss {i}, {size}: {gradient:?}");
        }
    }
}

#[test]
fn half_precision_is_accepted_where_it_is_accurate_enough() {
    let mut generator = crate::random::Generator::new(4);
    let scores: Vec<f32> = (0..6 * 10 * 9).map(|_| 2.0 * generator.normal() as f32).collect();
    let scores = Tensor::from_vec(scores, (6, 10, 9), &Device::Cpu).unwrap();
    let soft = candle_nn::ops::softmax(&scores, 1).unwrap();
    let exact = cross_entropy(&scores, &soft).unwrap().to_scalar::<f32>().unwrap();
    for dtype in [DType::BF16, DType::F16] {
        let half = soft.to_dtype(dtype).unwrap();
        let value = cross_entropy(&scores, &half).unwrap().to_scalar::<f32>().unwrap();
        assert!((value - exact).abs() < 0.02 * exact, "{dtype:?}: {value} {exact}");
        // In f32 such sums are a mistake, not rounding.
        let low = half.affine(0.98, 0.0).unwrap();
        assert!(message(cross_entropy(&scores, &low.to_dtype(DType::F32).unwrap())).contains("sum to 1"));
        // Logits of a half-precision model with targets as a loader makes them.
        let (logits, mask) = (scores.to_dtype(dtype).unwrap(), scores.ge(0f32).unwrap().to_dtype(DType::F32).unwrap());
        let upcast = logits.to_dtype(DType::F32).unwrap();
        for (mixed, single) in [
            (binary_cross_entropy(&logits, &mask), binary_cross_entropy(&upcast, &mask)),
            (hinge(&logits, &mask), hinge(&upcast, &mask)),
            (binary_focal(&logits, &mask), binary_focal(&upcast, &mask)),
        ] {
            assert_eq!(mixed.unwrap().to_scalar::<f32>().unwrap(), single.unwrap().to_scalar::<f32>().unwrap());
        }
    }
}

#[test]
fn a_sum_and_its_gradient_are_the_weighted_parts() {
    let x = Var::new(&[[[0.5f64, -1.], [2., 0.25]]], &Device::Cpu).unwrap();
    let y = Tensor::new(&[[0u32, 1]], &Device::Cpu).unwrap();
    let sum = WeightedSum::builder()
        .term("ce", 0.25, CrossEntropy::default())
        .term("dice", 2.0, Dice::default())
        .build()
        .unwrap();
    let gradient = |loss: &dyn Loss| {
        let value = loss.forward(&x, &y).unwrap();
        let gradient = value.backward().unwrap().get(&x).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
        (value.to_scalar::<f64>().unwrap(), gradient)
    };
    let (ce, dice, both) = (gradient(&CrossEntropy::default()), gradient(&Dice::default()), gradient(&sum));
    assert!((both.0 - 0.25 * ce.0 - 2.0 * dice.0).abs() < 1e-14);
    for ((both, ce), dice) in both.1.iter().zip(&ce.1).zip(&dice.1) {
        assert!((both - 0.25 * ce - 2.0 * dice).abs() < 1e-14);
    }
    assert_eq!(sum.parts(&x, &y).unwrap(), [("ce".to_owned(), ce.0), ("dice".to_owned(), dice.0)]);
}

#[test]
fn learned_weights_begin_as_given_and_follow_the_formula() {
    let parameters = Parameters::with_dtype(0, DType::F64, &Device::Cpu);
    let loss = MultiTask::builder()
        .task("height", Task::Regression, 0.2, Mse::default())
        .task("cover", Task::Classification, 3.0, CrossEntropy::default())
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
fn another_device_is_named() {
    let text = crate::losses::validate::different_devices("cuda:0", "cpu").to_string();
    assert!(text.contains("`targets`: expected a tensor on the device of the predictions, cuda:0, got cpu"), "{text}");
    assert!(text.contains("to_device"), "{text}");
}

#[test]
fn a_term_without_weight_has_a_gradient_of_zeros() {
    let x = Var::new(&[[0.3f32, -0.2], [0.1, 0.4]], &Device::Cpu).unwrap();
    let targets = Tensor::new(&[0u32, 1], &Device::Cpu).unwrap();
    let weighted = |first: f64, second: f64| {
        let terms = WeightedSum::builder().term("cross-entropy", first, CrossEntropy::default());
        terms.term("dice", second, Dice::default()).build().unwrap()
    };
    let losses: [(&str, Box<dyn Loss>); 2] =
        [("nothing", Box::new(weighted(0.0, 0.0))), ("dice alone", Box::new(weighted(0.0, 1.0)))];
    for (name, loss) in losses {
        let value = loss.forward(&x, &targets).unwrap();
        let by_terms: Vec<Tensor> = loss.means(&x, &targets).unwrap().into_iter().map(|mean| mean.value).collect();
        for value in by_terms.iter().chain([&value]) {
            let gradients = value.backward().unwrap();
            let gradient = gradients.get(&x).unwrap_or_else(|| panic!("{name}: no gradient"));
            let sum = gradient.abs().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
            assert_eq!(sum == 0.0, value.to_scalar::<f32>().unwrap() == 0.0, "{name}");
        }
    }
}

#[test]
fn the_smallest_beta_is_no_nan() {
    for beta in [1e-45, 1e-40, 1e-30, 1e-17, 1e-10, 1e-300] {
        let loss = SmoothL1::builder().beta(beta).build().unwrap();
        for (dtype, tolerance) in [(DType::F32, 1e-6), (DType::F64, 1e-9)] {
            let x = Tensor::new(&[0.0f64, 1e-5, -2.0], &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
            let x = Var::from_tensor(&x).unwrap();
            let value = loss.forward(&x, &x.zeros_like().unwrap()).unwrap();
            let gradients = value.backward().unwrap();
            let gradient = gradients.get(&x).unwrap().to_dtype(DType::F64).unwrap().to_vec1::<f64>().unwrap();
            let value = value.to_dtype(DType::F64).unwrap().to_scalar::<f64>().unwrap();
            assert!((value - 2.00001 / 3.0).abs() < tolerance, "{beta} {dtype:?}: {value}");
            for (found, expected) in gradient.iter().zip([0.0, 1.0 / 3.0, -1.0 / 3.0]) {
                assert!((found - expected).abs() < 1e-6, "{beta} {dtype:?}: {gradient:?}");
            }
        }
    }
}

#[test]
fn nothing_but_ignored_pixels_loses_nothing() {
    let logits = Tensor::new(&[[[0.5f32, -1.0], [2.0, 0.1]]], &Device::Cpu).unwrap();
    let ignored = Tensor::new(&[[255u32, 255]], &Device::Cpu).unwrap();
    for over in [Over::Batch, Over::Image] {
        let loss = LovaszSoftmax::builder().over(over).ignore_index(255).build().unwrap();
        let value = loss.forward(&logits, &ignored).unwrap().to_scalar::<f32>().unwrap();
        assert_eq!(value.to_bits(), 0, "{over:?}: {value}");
        let loss = LovaszHinge::builder().over(over).ignore_index(255).build().unwrap();
        let value = loss
            .forward(&logits.narrow(1, 0, 1).unwrap().squeeze(1).unwrap(), &ignored)
            .unwrap()
            .to_scalar::<f32>()
            .unwrap();
        assert_eq!(value.to_bits(), 0, "{over:?}: {value}");
    }
}
