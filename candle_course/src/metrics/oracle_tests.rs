//! Every metric against stored scikit-learn, torchmetrics and torchvision values, streamed in
//! random chunks that are merged in random order.

use candle_core::{Device, Tensor};
use proptest::prelude::*;
use serde_json::Value;

use crate::kernels::transfer::send;
use crate::metrics::*;
use crate::random::Generator;
use crate::test_support::{data, device};

fn cases(file: &str) -> Vec<Value> {
    serde_json::from_str(&std::fs::read_to_string(data("metrics").join(file)).unwrap()).unwrap()
}

fn floats(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

fn integers(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
}

fn vector<T: candle_core::WithDType>(values: Vec<T>) -> Tensor {
    let count = values.len();
    send(&Tensor::from_vec(values, count, &Device::Cpu).unwrap(), device()).unwrap()
}

fn matrix(values: Vec<f64>, columns: usize) -> Tensor {
    let rows = values.len() / columns;
    Tensor::from_vec(values, (rows, columns), device()).unwrap()
}

fn close(what: &str, got: f64, expected: &Value) {
    let expected = expected.as_f64().unwrap_or_else(|| panic!("{what}: no stored value"));
    assert!((got - expected).abs() <= 1e-9 * (1.0 + expected.abs()), "{what}: expected {expected}, got {got}");
}

fn all_close(what: &str, got: &[f64], expected: &Value, tolerance: f64) {
    let expected = floats(expected);
    assert_eq!(got.len(), expected.len(), "{what}");
    for (got, expected) in got.iter().zip(&expected) {
        assert!((got - expected).abs() <= tolerance, "{what}: expected {expected}, got {got}");
    }
}

/// Random bounds of chunks of `0..length`, in random order; some are empty.
fn chunks(length: usize, seed: u64) -> Vec<std::ops::Range<usize>> {
    let mut generator = Generator::new(seed);
    let mut cuts: Vec<usize> = (0..generator.below(6)).map(|_| generator.below(length + 1)).collect();
    cuts.extend([0, length]);
    cuts.sort_unstable();
    let mut chunks: Vec<_> = cuts.windows(2).map(|pair| pair[0]..pair[1]).collect();
    generator.shuffle(&mut chunks);
    chunks
}

/// A metric that has seen everything: chunk by chunk in its own copy, the states of the copies merged
/// into one, and that saved and restored.
fn streamed<M: Metric + Clone>(empty: &M, predictions: &Tensor, targets: &Tensor, seed: u64) -> M {
    let mut total = empty.clone();
    for chunk in chunks(targets.dims()[0], seed) {
        let mut part = empty.clone();
        if !chunk.is_empty() {
            let take = |tensor: &Tensor| tensor.narrow(0, chunk.start, chunk.len()).unwrap();
            part.update(&take(predictions), &take(targets)).unwrap();
        }
        total.merge(&part.state().unwrap()).unwrap();
    }
    let mut restored = empty.clone();
    restored.load_state(&total.state().unwrap()).unwrap();
    assert_same(&restored, &total);
    restored
}

fn assert_same(one: &impl Metric, other: &impl Metric) {
    let bits = |metric: &dyn Fn() -> crate::Result<f64>| metric().map(f64::to_bits).map_err(|error| error.to_string());
    assert_eq!(bits(&|| one.compute()), bits(&|| other.compute()), "{}", one.name());
}

const AVERAGES: [(&str, Average); 3] =
    [("macro", Average::Macro), ("micro", Average::Micro), ("weighted", Average::Weighted)];

#[test]
fn classification_agrees_with_scikit_learn() {
    for (seed, case) in cases("classification.json").iter().enumerate() {
        let seed = seed as u64;
        let classes = case["classes"].as_u64().unwrap() as usize;
        let (targets, predicted) = (vector(integers(&case["targets"])), vector(integers(&case["predicted"])));
        let beta = case["beta"].as_f64().unwrap();
        macro_rules! value {
            ($metric:expr) => {{ streamed(&$metric, &predicted, &targets, seed).compute().unwrap() }};
        }
        for (what, undefined) in [("zero", Undefined::Zero), ("skip", Undefined::Skip)] {
            let stored = &case[what];
            for (name, average) in AVERAGES {
                let check = |metric: &str, got: f64| {
                    close(&format!("{seed} {metric} {name} {what}"), got, &stored[metric][name])
                };
                check(
                    "precision",
                    value!(Precision::builder(classes).average(average).undefined(undefined).build().unwrap()),
                );
                check(
                    "recall",
                    value!(Recall::builder(classes).average(average).undefined(undefined).build().unwrap()),
                );
                check(
                    "f_beta",
                    value!(FBeta::builder(classes, beta).average(average).undefined(undefined).build().unwrap()),
                );
                check(
                    "f1",
                    value!(FBeta::builder(classes, 1.0).average(average).undefined(undefined).build().unwrap()),
                );
            }
        }
        for (name, average) in AVERAGES {
            close(
                &format!("{seed} iou {name}"),
                value!(MeanIou::builder(classes).average(average).build().unwrap()),
                &case["iou"][name],
            );
            close(
                &format!("{seed} dice {name}"),
                value!(MeanDice::builder(classes).average(average).build().unwrap()),
                &case["zero"]["f1"][name],
            );
        }
        close("accuracy", value!(Accuracy::default()), &case["accuracy"]);
        close("pixel accuracy", value!(PixelAccuracy::new(classes).unwrap()), &case["accuracy"]);
        close("balanced accuracy", value!(BalancedAccuracy::new(classes).unwrap()), &case["balanced_accuracy"]);
        close("kappa", value!(CohenKappa::new(classes).unwrap()), &case["cohen_kappa"]);
        close("matthews", value!(Matthews::new(classes).unwrap()), &case["matthews"]);

        let mut whole = ConfusionMatrix::new(classes).unwrap();
        whole.update(&predicted, &targets).unwrap();
        let rows: Vec<Vec<u64>> = serde_json::from_value(case["rows"].clone()).unwrap();
        assert_eq!(whole.rows().unwrap(), rows);
        let stored = &case["per_class"];
        for (i, label) in integers(&stored["labels"]).into_iter().enumerate() {
            let scores = whole.per_class().unwrap()[label as usize];
            let check = |name: &str, got: Option<f64>| close(name, got.unwrap_or(0.0), &stored[name][i]);
            check("precision", scores.precision());
            check("recall", scores.recall());
            check("iou", scores.iou());
            // torchmetrics computes it in f32
            let specificity =
                value!(Specificity::builder(classes).average(Average::Class(label as usize)).build().unwrap());
            assert!((specificity - stored["specificity"][i].as_f64().unwrap()).abs() < 1e-6);
        }
        let scores = matrix(floats(&case["scores"]), classes);
        for k in [1, 2] {
            let metric = streamed(&TopK::new(k).unwrap(), &scores, &targets, seed);
            close(&format!("top {k}"), metric.compute().unwrap(), &case["top_k"][k - 1]);
        }
        let from_scores = accuracy(&scores, &targets).unwrap();
        close("accuracy of scores", from_scores, &case["top_k"][0]);
    }
}

#[test]
fn curves_agree_with_scikit_learn() {
    for (seed, case) in cases("curves.json").iter().enumerate() {
        let (scores, targets) = (vector(floats(&case["scores"])), vector(integers(&case["targets"])));
        let name = case["case"].as_str().unwrap();
        let auc = streamed(&RocAuc::default(), &scores, &targets, seed as u64);
        close(name, auc.compute().unwrap(), &case["auc"]);
        all_close(name, &auc.curve().unwrap().true_positive_rate, &case["tpr"], 1e-12);
        let ap = streamed(&AveragePrecision::default(), &scores, &targets, seed as u64);
        close(name, ap.compute().unwrap(), &case["average_precision"]);
        all_close(name, &ap.curve().unwrap().precision, &case["precision"], 1e-12);
        let curve = roc_curve(&scores, &targets).unwrap();
        all_close(name, &curve.false_positive_rate, &case["fpr"], 1e-12);
        all_close(name, &curve.true_positive_rate, &case["tpr"], 1e-12);
        all_close(name, &curve.thresholds[1..], &case["thresholds"], 0.0);
        close(name, curve.area(), &case["auc"]);
        let curve = precision_recall_curve(&scores, &targets).unwrap();
        all_close(name, &curve.precision, &case["precision"], 1e-12);
        all_close(name, &curve.recall, &case["recall"], 1e-12);
        all_close(name, &curve.thresholds, &case["pr_thresholds"], 0.0);
    }
}

#[test]
fn probabilities_agree_with_scikit_learn_and_torchmetrics() {
    for (seed, case) in cases("probabilities.json").iter().enumerate() {
        let classes = case["classes"].as_u64().unwrap() as usize;
        let (p, targets) = (matrix(floats(&case["probabilities"]), classes), vector(integers(&case["targets"])));
        let loss = streamed(&LogLoss::default(), &p, &targets, seed as u64);
        close("log loss", loss.compute().unwrap(), &case["log_loss"]);
        for bins in [5, 15] {
            let empty = CalibrationError::new(bins).unwrap();
            let metric = streamed(&empty, &p, &targets, seed as u64);
            let stored = case["calibration"][bins.to_string()].as_f64().unwrap();
            // torchmetrics computes it in f32
            assert!((metric.compute().unwrap() - stored).abs() < 1e-6, "{} {stored}", metric.compute().unwrap());
        }
        for (name, average) in AVERAGES {
            close(name, roc_auc_one_vs_rest(&p, &targets, average).unwrap(), &case["one_vs_rest"][name]);
            let empty = RocAucOneVsRest::new(average);
            let metric = streamed(&empty, &p, &targets, seed as u64);
            close(name, metric.compute().unwrap(), &case["one_vs_rest"][name]);
        }
    }
}

#[test]
fn regression_agrees_with_scikit_learn() {
    for (seed, case) in cases("regression.json").iter().enumerate() {
        let (predictions, targets) = (vector(floats(&case["predictions"])), vector(floats(&case["targets"])));
        macro_rules! check {
            ($($name:literal: $metric:ident),*) => {$(
                let metric = streamed(&$metric::default(), &predictions, &targets, seed as u64);
                close(&format!("{seed} {}", $name), metric.compute().unwrap(), &case[$name]);
            )*};
        }
        check!(
            "mean_squared_error": MeanSquaredError,
            "root_mean_squared_error": RootMeanSquaredError,
            "mean_absolute_error": MeanAbsoluteError,
            "maximum_error": MaximumError,
            "mean_absolute_percentage_error": MeanAbsolutePercentageError,
            "r2": R2
        );
    }
}

fn boxes_of(value: &Value) -> Tensor {
    let rows: Vec<Vec<f64>> = serde_json::from_value(value.clone()).unwrap();
    send(&Tensor::from_vec(rows.concat(), (rows.len(), 4), &Device::Cpu).unwrap(), device()).unwrap()
}

#[test]
fn boxes_agree_with_torchvision() {
    for case in cases("boxes.json") {
        let (a, b) = (boxes_of(&case["a"]), boxes_of(&case["b"]));
        all_close("area", &box_area(&a).unwrap().to_vec1::<f64>().unwrap(), &case["area"], 1e-9);
        for (name, got) in [("iou", box_iou(&a, &b).unwrap()), ("generalized", generalized_box_iou(&a, &b).unwrap())] {
            let rows: Vec<Vec<f64>> = serde_json::from_value(case[name].clone()).unwrap();
            for (got, expected) in got.to_vec2::<f64>().unwrap().concat().iter().zip(rows.concat()) {
                assert!((got - expected).abs() < 1e-12, "{name}: expected {expected}, got {got}");
            }
        }
    }
}

#[test]
fn mean_average_precision_agrees_with_torchmetrics() {
    for (seed, case) in cases("detection.json").iter().enumerate() {
        let images = case["images"].as_array().unwrap();
        let mut metric = MeanAveragePrecision::default();
        for chunk in chunks(images.len(), seed as u64) {
            let mut part = MeanAveragePrecision::default();
            for image in &images[chunk] {
                let truth = Boxes::truth(&boxes_of(&image["truth"]), &vector(integers(&image["labels"]))).unwrap();
                let labels = vector(integers(&image["found_labels"]));
                let found = Boxes::detected(&boxes_of(&image["found"]), &labels, &vector(floats(&image["scores"])));
                part.update(found.unwrap(), truth).unwrap();
            }
            metric.merge(&part.state().unwrap()).unwrap();
        }
        let summary = metric.compute().unwrap();
        for (name, got) in [("map", summary.map), ("map_50", summary.map_50), ("map_75", summary.map_75)] {
            let expected = case[name].as_f64().unwrap();
            assert!((got - expected).abs() < 1e-6, "{seed} {name}: expected {expected}, got {got}");
        }
        let stored: Vec<(i64, f64)> = serde_json::from_value(case["per_class"].clone()).unwrap();
        assert_eq!(stored.len(), summary.per_class.len());
        for (got, expected) in summary.per_class.iter().zip(stored) {
            assert!(got.0 == expected.0 && (got.1 - expected.1).abs() < 1e-6, "{seed}: {got:?} {expected:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn chunks_and_their_order_change_nothing(seed in any::<u64>(), length in 2usize..80, classes in 2usize..6) {
        let mut generator = Generator::new(seed);
        let mut labels: Vec<u32> = (0..length).map(|_| generator.below(classes) as u32).collect();
        (labels[0], labels[1]) = (0, 1);
        let scores: Vec<f64> = (0..length * classes).map(|_| generator.normal()).collect();
        let targets = vector(labels.clone());
        let scores = matrix(scores, classes);
        macro_rules! same {
            ($empty:expr, $predictions:expr, $targets:expr, $tolerance:expr) => {{
                let mut whole = $empty.clone();
                whole.update($predictions, $targets).unwrap();
                let parts = streamed(&$empty, $predictions, $targets, seed ^ 1);
                let (whole, parts) = (whole.compute().unwrap(), parts.compute().unwrap());
                prop_assert!((whole - parts).abs() <= $tolerance * (1.0 + whole.abs()), "{} {}", whole, parts);
            }};
        }
        same!(Accuracy::default(), &scores, &targets, 0.0);
        // The two first are right, so that neither targets nor predictions are all of one class.
        let mut guesses: Vec<u32> = (0..length).map(|_| generator.below(classes) as u32).collect();
        (guesses[0], guesses[1]) = (0, 1);
        let guesses = vector(guesses);
        macro_rules! of_counts {
            ($($empty:expr),*) => {$(same!($empty, &guesses, &targets, 0.0);)*};
        }
        for (_, average) in AVERAGES {
            of_counts!(
                Precision::builder(classes).average(average).build().unwrap(),
                Recall::builder(classes).average(average).build().unwrap(),
                Specificity::builder(classes).average(average).build().unwrap(),
                FBeta::builder(classes, 2.0).average(average).build().unwrap(),
                MeanIou::builder(classes).average(average).build().unwrap(),
                MeanDice::builder(classes).average(average).build().unwrap()
            );
        }
        of_counts!(
            BalancedAccuracy::new(classes).unwrap(),
            CohenKappa::new(classes).unwrap(),
            Matthews::new(classes).unwrap(),
            PixelAccuracy::new(classes).unwrap()
        );
        same!(TopK::new(2).unwrap(), &scores, &targets, 0.0);
        let p = candle_nn::ops::softmax(&scores, 1).unwrap();
        same!(LogLoss::default(), &p, &targets, 1e-12);
        same!(CalibrationError::new(10).unwrap(), &p, &targets, 1e-12);
        let first = scores.narrow(1, 0, 1).unwrap().squeeze(1).unwrap().contiguous().unwrap();
        let second = scores.narrow(1, 1, 1).unwrap().squeeze(1).unwrap().contiguous().unwrap();
        same!(R2::default(), &first, &second, 1e-12);
        same!(MaximumError::default(), &first, &second, 0.0);
        same!(MeanSquaredError::default(), &first, &second, 1e-12);
        same!(RootMeanSquaredError::default(), &first, &second, 1e-12);
        same!(MeanAbsoluteError::default(), &first, &second, 1e-12);
        same!(MeanAbsolutePercentageError::default(), &first, &second, 1e-12);
        let one_vs_rest = RocAucOneVsRest::new(Average::Micro);
        same!(one_vs_rest, &scores, &targets, 0.0);
        let binary = vector(labels.iter().map(|&l| u32::from(l == 1)).collect::<Vec<_>>());
        same!(RocAuc::default(), &first, &binary, 0.0);
        same!(AveragePrecision::default(), &first, &binary, 0.0);
    }

    #[test]
    fn images_in_any_order_have_the_same_mean_average_precision(seed in any::<u64>(), images in 1usize..8) {
        let mut generator = Generator::new(seed);
        let mut images: Vec<(Boxes, Boxes)> = (0..images).map(|_| {
            let mut random = |count: usize| {
                let corners = (0..count).flat_map(|_| {
                    let (x, y) = (generator.below(4) as f64, generator.below(4) as f64);
                    [x, y, x + 3.0, y + 4.0]
                });
                let boxes = Tensor::from_vec(corners.collect::<Vec<_>>(), (count, 4), device()).unwrap();
                let labels: Vec<u32> = (0..count).map(|_| generator.below(2) as u32).collect();
                (boxes, vector(labels))
            };
            let ((found, found_labels), (truth, labels)) = (random(5), random(3));
            let scores = vector((0..5).map(|_| generator.below(3) as f64).collect::<Vec<_>>()); // many ties
            (Boxes::detected(&found, &found_labels, &scores).unwrap(), Boxes::truth(&truth, &labels).unwrap())
        }).collect();
        let whole = mean_average_precision(images.clone()).unwrap();
        generator.shuffle(&mut images);
        let mut total = MeanAveragePrecision::default();
        for chunk in chunks(images.len(), seed) {
            let mut part = MeanAveragePrecision::default();
            for (found, truth) in &images[chunk] {
                part.update(found.clone(), truth.clone()).unwrap();
            }
            total.merge(&part.state().unwrap()).unwrap();
        }
        let mut restored = MeanAveragePrecision::default();
        restored.load_state(&total.state().unwrap()).unwrap();
        prop_assert_eq!(&whole, &restored.compute().unwrap());
        prop_assert_eq!(whole, total.compute().unwrap());
    }

    #[test]
    fn the_area_is_the_chance_that_a_positive_scores_higher(seed in any::<u64>(), length in 2usize..40) {
        let mut generator = Generator::new(seed);
        let scores: Vec<f64> = (0..length).map(|_| generator.below(7) as f64).collect();
        let mut labels: Vec<u32> = (0..length).map(|_| generator.below(2) as u32).collect();
        (labels[0], labels[1]) = (0, 1);
        let (mut wins, mut pairs) = (0.0, 0.0);
        for i in (0..length).filter(|&i| labels[i] == 1) {
            for j in (0..length).filter(|&j| labels[j] == 0) {
                wins += if scores[i] > scores[j] { 1.0 } else if scores[i] == scores[j] { 0.5 } else { 0.0 };
                pairs += 1.0;
            }
        }
        let auc = roc_auc(&vector(scores), &vector(labels)).unwrap();
        prop_assert!((auc - wins / pairs).abs() < 1e-12);
    }
}

fn message<T>(result: crate::error::Result<T>) -> String {
    result.err().expect("an error").to_string()
}

#[test]
fn what_is_undefined_is_an_error() {
    let none = vector(vec![0u32; 4]);
    let scores = vector(vec![0.1f64, 0.2, 0.3, 0.4]);
    let cases = [
        (message(Accuracy::default().compute()), "accuracy of no examples"),
        (message(Precision::new(2).unwrap().compute()), "precision of no examples"),
        (message(RocAuc::default().compute()), "needs positives and negatives, got 0 and 0"),
        (message(roc_auc(&scores, &none)), "got 0 and 4"),
        (message(average_precision(&scores, &none)), "at least one positive"),
        (message(r2_score(&scores, &scores.ones_like().unwrap())), "variance is 0"),
        (message(mean_absolute_percentage_error(&scores, &scores.zeros_like().unwrap())), "4 targets that are 0"),
        (message(MeanAveragePrecision::default().compute()), "without a true box"),
        (message(LogLoss::default().compute()), "no examples"),
        (message(CalibrationError::new(5).unwrap().compute()), "no examples"),
        (message(MeanSquaredError::default().compute()), "no examples"),
        (message(TopK::new(1).unwrap().compute()), "no examples"),
    ];
    for (text, expected) in cases {
        assert!(text.contains(expected), "{text}");
    }
    let mut one_class = ConfusionMatrix::new(2).unwrap();
    one_class.update(&none, &none).unwrap();
    assert!(message(one_class.cohen_kappa()).contains("0/0"));
    assert!(message(one_class.matthews()).contains("0/0"));
    assert_eq!(one_class.precision(Average::Class(1)).unwrap(), 0.0);
    let mut strict = ConfusionMatrix::builder(2).undefined(Undefined::Error).build().unwrap();
    strict.merge(&one_class.state().unwrap()).unwrap();
    assert!(message(strict.recall(Average::Class(1))).contains("recall of class 1: 0/0"));
}

#[test]
fn mistakes_are_named() {
    let device = device();
    let logits = Tensor::new(&[[3f64, -1.], [0., 2.]], device).unwrap();
    let targets = vector(vec![0u32, 1]);
    let bad_boxes = Tensor::new(&[[5f64, 5., 1., 9.]], device).unwrap();
    let cases = [
        (message(accuracy(&logits, &vector(vec![0u32, 1, 1]))), "scores [N, 2, …]"),
        (message(ConfusionMatrix::new(1)), "at least 2"),
        (message(ConfusionMatrix::new(2).unwrap().update(&logits, &vector(vec![0u32, 255]))), "ignore_index(255)"),
        (message(ConfusionMatrix::new(3).unwrap().update(&logits, &targets)), "dimension 1 of the predictions"),
        (
            message(ConfusionMatrix::new(2).unwrap().update(&vector(vec![0.1, 0.2]), &targets)),
            "ConfusionMatrix::binary",
        ),
        (
            message(ConfusionMatrix::new(2).unwrap().merge(&ConfusionMatrix::new(3).unwrap().state().unwrap())),
            "confusion matrix of 2 classes: `counts` has shape [3, 3], expected [2, 2]",
        ),
        (message(ConfusionMatrix::builder(3).threshold(0.0).build()), "2 where one score has a threshold"),
        (message(log_loss(&logits, &targets)), "are these logits?"),
        (message(calibration_error(&logits, &targets, 5)), "softmax"),
        (message(roc_auc(&logits, &targets)), "one-vs-rest"),
        (message(roc_auc(&vector(vec![0.5, f64::NAN]), &targets)), "NaN"),
        (message(roc_auc(&vector(vec![0.5, 0.1]), &vector(vec![0u32, 2]))), "expected 0 and 1, got 2"),
        (message(r2_score(&logits, &vector(vec![1f64, 2., 3., 4.]))), "squeeze(1)"),
        (message(TopK::new(0)), "at least 1"),
        (message(top_k_accuracy(&logits, &targets, 3)), "at least 3 classes"),
        (message(FBeta::new(2, 0.0)), "`beta`"),
        (message(box_area(&bad_boxes)), "width, height"),
        (message(box_area(&logits)), "[N, 4]"),
        (message(CalibrationError::new(0)), "`bins`"),
    ];
    for (text, expected) in cases {
        assert!(text.contains(expected), "{text}");
    }
}

/// One of every metric, with a batch that it takes.
fn all() -> Vec<(Box<dyn Metric>, Tensor, Tensor)> {
    let labels = vector(vec![0u32, 1, 1, 0]);
    let scores = matrix(vec![0.75, 0.25, 0.5, 0.5, 0.25, 0.75, 1.0, 0.0], 2);
    let (numbers, one) = (vector(vec![1.0, 2.0, 4.0, 8.0]), vector(vec![0.5, 2.5, 4.0, 7.0]));
    let of_classes: Vec<Box<dyn Metric>> = vec![
        Box::new(Accuracy::default()),
        Box::new(TopK::new(1).unwrap()),
        Box::new(Precision::new(2).unwrap()),
        Box::new(Recall::new(2).unwrap()),
        Box::new(Specificity::new(2).unwrap()),
        Box::new(FBeta::f1(2).unwrap()),
        Box::new(BalancedAccuracy::new(2).unwrap()),
        Box::new(CohenKappa::new(2).unwrap()),
        Box::new(Matthews::new(2).unwrap()),
        Box::new(MeanIou::new(2).unwrap()),
        Box::new(MeanDice::new(2).unwrap()),
        Box::new(PixelAccuracy::new(2).unwrap()),
        Box::new(LogLoss::default()),
        Box::new(CalibrationError::new(4).unwrap()),
        Box::new(RocAuc::default()),
        Box::new(AveragePrecision::default()),
        Box::new(RocAucOneVsRest::new(Average::Macro)),
    ];
    let of_numbers: Vec<Box<dyn Metric>> = vec![
        Box::new(MeanSquaredError::default()),
        Box::new(RootMeanSquaredError::default()),
        Box::new(MeanAbsoluteError::default()),
        Box::new(MaximumError::default()),
        Box::new(MeanAbsolutePercentageError::default()),
        Box::new(R2::default()),
    ];
    let of_classes = of_classes.into_iter().map(|metric| (metric, scores.clone(), labels.clone()));
    of_classes.chain(of_numbers.into_iter().map(|metric| (metric, one.clone(), numbers.clone()))).collect()
}

#[test]
fn what_is_no_state_of_a_metric_changes_nothing() {
    for ((mut metric, predictions, targets), (mut fresh, ..)) in all().into_iter().zip(all()) {
        let name = metric.name().to_owned();
        metric.update(&predictions, &targets).unwrap();
        let value = metric.compute().unwrap();
        let state = metric.state().unwrap();
        let mut missing = state.clone();
        missing.pop_first();
        let mut more = state.clone();
        more.insert("more".to_owned(), targets.clone());
        let mut other = state.clone();
        other.values_mut().for_each(|tensor| *tensor = tensor.to_dtype(candle_core::DType::F32).unwrap());
        for bad in [missing, more, other] {
            assert!(metric.load_state(&bad).is_err(), "{name}");
            assert!(metric.merge(&bad).is_err(), "{name}");
            assert_eq!(metric.compute().unwrap().to_bits(), value.to_bits(), "{name}");
        }
        // An empty metric has a state, too, and everything begins anew from it.
        let empty = fresh.state().unwrap();
        fresh.merge(&state).unwrap();
        assert_same(&fresh, &metric);
        fresh.merge(&empty).unwrap();
        assert_same(&fresh, &metric);
        fresh.load_state(&empty).unwrap();
        assert!(fresh.compute().is_err(), "{name}");
        fresh.load_state(&state).unwrap();
        fresh.reset();
        assert!(fresh.compute().is_err(), "{name}");
    }
    let two = TopK::new(2).unwrap().state().unwrap();
    let text = message(TopK::new(5).unwrap().merge(&two));
    assert!(text.contains("`top_5.correct` is missing") && text.contains("`top_2.correct` is superfluous"), "{text}");
}

#[test]
fn ignored_pixels_and_bad_batches_leave_no_trace() {
    let logits = Tensor::new(&[[[2f32, 2., 0.], [0., 0., 2.]]], device()).unwrap();
    let mut matrix = ConfusionMatrix::builder(2).ignore_index(255).build().unwrap();
    matrix.update(&logits, &Tensor::new(&[[0u8, 255, 1]], device()).unwrap()).unwrap();
    assert_eq!(matrix.rows().unwrap(), [[1, 0], [0, 1]]);
    assert!(matrix.update(&logits, &Tensor::new(&[[0u8, 1, 7]], device()).unwrap()).is_err());
    assert_eq!(matrix.total().unwrap(), 2);
    matrix.reset();
    assert!(matrix.accuracy().is_err());

    let mut binary = ConfusionMatrix::builder(2).threshold(0.0).ignore_index(255).build().unwrap();
    binary.update(&vector(vec![1f32, -1., 3.]), &vector(vec![1f32, 1., 255.])).unwrap();
    assert_eq!(binary.rows().unwrap(), [[0, 0], [1, 1]]);
}

#[test]
fn the_report_shows_every_class_and_average() {
    let predicted = vector(vec![0u32, 1, 0, 0]);
    let report = classification_report(&predicted, &vector(vec![0u32, 1, 1, 0]), ["land", "water", "cloud"]).unwrap();
    assert_eq!(report.classes[2].precision, None);
    let text = report.to_string();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[1], "land                 0.6667  1.0000  0.8000        2");
    assert_eq!(lines[3], "cloud                     –       –       –        0");
    assert!(text.contains("accuracy                             0.7500        4"), "{text}");
}

#[test]
fn equal_targets_have_no_r2_however_they_are_cut() {
    let constant = |count: usize| vector(vec![0.1f64; count]);
    let guesses = |count: usize| vector((0..count).map(|i| i as f64).collect::<Vec<_>>());
    for sizes in [vec![3, 3], vec![6], vec![1, 2, 7, 3, 49], vec![3; 30]] {
        let (mut streamed, mut merged) = (R2::default(), R2::default());
        for count in sizes {
            streamed.update(&guesses(count), &constant(count)).unwrap();
            let mut part = R2::default();
            part.update(&guesses(count), &constant(count)).unwrap();
            merged.merge(&part.state().unwrap()).unwrap();
        }
        assert!(message(streamed.compute()).contains("variance is 0"));
        assert!(message(merged.compute()).contains("variance is 0"));
    }
}

#[test]
fn nan_is_refused_or_kept() {
    let targets = vector(vec![0u32, 1]);
    let logits = matrix(vec![f64::NAN, 0.0, 1.0, 2.0], 2);
    let scores = vector(vec![f64::NAN, 1.0]);
    let one_vs_rest = RocAucOneVsRest::new(Average::Macro).update(&logits, &targets);
    for text in [
        message(accuracy(&logits, &targets)),
        message(top_k_accuracy(&logits, &targets, 1)),
        message(confusion_matrix(&logits, &targets, 2)),
        message(ConfusionMatrix::binary(0.5).update(&scores, &targets)),
        message(one_vs_rest),
    ] {
        assert!(text.contains("got NaN; did the training diverge?"), "{text}");
    }
    // Infinities of both signs add up to NaN, but are numbers.
    let infinite = matrix(vec![f64::INFINITY, f64::NEG_INFINITY, 1.0, 2.0], 2);
    assert_eq!(accuracy(&infinite, &targets).unwrap(), 1.0);

    let mut maximum = MaximumError::default();
    maximum.update(&vector(vec![1.0, f64::NAN, 2.0]), &vector(vec![0.0, 0.0, 0.0])).unwrap();
    assert!(maximum.compute().unwrap().is_nan());
    let mut total = MaximumError::default();
    total.update(&vector(vec![5.0]), &vector(vec![0.0])).unwrap();
    maximum.merge(&total.state().unwrap()).unwrap();
    total.merge(&maximum.state().unwrap()).unwrap();
    assert!(maximum.compute().unwrap().is_nan() && total.compute().unwrap().is_nan());
}

#[test]
fn labels_that_are_no_class_are_refused_whole() {
    let logits = matrix(vec![1.0, 0.0, 1.0, 2.0], 2);
    let mut top = TopK::new(1).unwrap();
    assert!(message(top.update(&logits, &vector(vec![0u32, 2]))).contains("classes in 0..2"));
    assert!(message(top.compute()).contains("no examples"));
    let mut metric = Accuracy::default();
    assert!(message(metric.update(&logits, &vector(vec![0u32, 255]))).contains("PixelAccuracy"));
    assert!(message(metric.update(&logits, &vector(vec![0i64, -100]))).contains("ignore_index(-100)"));
    assert!(message(metric.compute()).contains("no examples"));
    assert!(message(accuracy(&matrix(vec![1.0, 2.0], 1), &vector(vec![0u32, 1]))).contains("ConfusionMatrix::binary"));
    let mut binary = ConfusionMatrix::builder(2).threshold(0.0).ignore_index(255).build().unwrap();
    let half = binary.update(&vector(vec![1f32, -1.]), &vector(vec![1f32, 0.75]));
    assert!(message(half).contains("expected 0 and 1, got 0.75"));
}

#[test]
fn log_loss_is_clipped_at_the_epsilon_of_the_dtype() {
    // sklearn.metrics.log_loss([1, 0], [[1, 0], [0.75, 0.25]]) in float64 and float32
    let (p, labels) = (matrix(vec![1.0, 0.0, 0.75, 0.25], 2), vector(vec![1u32, 0]));
    assert!((log_loss(&p, &labels).unwrap() - 18.165667730784467).abs() < 1e-9);
    let narrow = p.to_dtype(candle_core::DType::F32).unwrap();
    assert!((log_loss(&narrow, &labels).unwrap() - 8.115033149719238).abs() < 1e-6);
}

#[test]
fn the_reliability_diagram_keeps_empty_bins() {
    let mut error = CalibrationError::new(4).unwrap();
    error.update(&matrix(vec![0.9, 0.1, 0.6, 0.4], 2), &vector(vec![0u32, 1])).unwrap();
    assert!(error.figure("Reliability").unwrap().svg().contains("0.00–0.25"));
}
