//! Sizes and labels that nobody has memory for: an error each, or the right value; never a panic, an abort
//! or a wait.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::ops::{self, Pool2dOptions};
use crate::prelude::*;
use crate::test_support::tried;

const ABSURD: [usize; 7] = [0, 1 << 38, 1 << 40, (1 << 62) + 1, 1 << 63, usize::MAX - 1, usize::MAX];

type Uses<'a> = Box<dyn Fn(usize) -> Result<()> + 'a>;

/// Names, and what is done with a size under each.
macro_rules! cases {
    ($($name:literal: |$n:ident| $body:expr;)+) => {
        [$((
            $name,
            Box::new(|$n: usize| -> Result<()> { $body.map(drop).map_err(Error::from) }) as Uses<'_>,
        ),)+]
    };
}

/// All of them in their turn; says which panicked, and where a size of no memory gave no error.
fn run(cases: &[(&str, Uses<'_>)], wants_error: bool) {
    let mut wrong = Vec::new();
    for (name, case) in cases {
        for size in ABSURD {
            match catch_unwind(AssertUnwindSafe(|| case(size))) {
                Err(panic) => wrong.push(format!("{name} of {size}: {}", crate::error::panicked("it", &*panic))),
                Ok(Ok(())) if wants_error && size > 0 => wrong.push(format!("{name} of {size}: no error")),
                Ok(_) => {}
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len() * ABSURD.len(), wrong.join("\n"));
    tried("Absurd sizes and values are errors", "a call with an absurd size", cases.len() * ABSURD.len());
}

fn image() -> Tensor {
    Tensor::ones((1, 2, 6, 6), DType::F32, &Device::Cpu).unwrap()
}

fn batch() -> Batch {
    let targets = Tensor::new(&[1u32], &Device::Cpu).unwrap();
    Batch { inputs: image(), targets, indices: vec![0] }
}

#[test]
fn layers_that_no_memory_holds_are_errors() {
    let scope = || Parameters::new(0, &Device::Cpu).at("x");
    run(
        &cases! {
            "linear": |n| Linear::new(n, 2, &scope());
            "linear out": |n| Linear::new(2, n, &scope());
            "linear both": |n| Linear::new(n, n, &scope());
            "convolution in": |n| Conv2d::new(n, 2, 3, &scope());
            "convolution out": |n| Conv2d::new(2, n, 3, &scope());
            "convolution kernel": |n| Conv2d::new(2, 2, n, &scope());
            "convolution groups": |n| Conv2d::builder(n, n, n).groups(n).build(&scope());
            "convolution all": |n| Conv2d::builder(n, n, (n, 1)).stride(n).padding(n).dilation(n).build(&scope());
            "transposed": |n| ConvTranspose2d::new(n, n, n, &scope());
            "transposed kernel": |n| ConvTranspose2d::new(1, 1, n, &scope());
            "batch norm": |n| BatchNorm2d::new(n, &scope());
            "batch norm without affine": |n| BatchNorm2d::builder(n).no_affine().build(&scope());
            "layer norm": |n| LayerNorm::new(n, &scope());
            "layer norm of a plane": |n| LayerNorm::new((n, n), &scope());
            "group norm": |n| GroupNorm::new(1, n, &scope());
            "group norm groups": |n| GroupNorm::new(n, n, &scope());
            "rnn": |n| Rnn::new(n, 2, &scope());
            "lstm": |n| Lstm::new(2, n, &scope());
            "gru": |n| Gru::builder(n, n).bidirectional(true).build(&scope());
            "layers": |n| Lstm::builder(2, 2).layers(n).dropout(0.1).build(&scope());
            "an initialiser": |n| Init::ONES.tensor(&(n, n).into(), &mut Generator::new(0), DType::F32, &Device::Cpu);
            "orthogonal": |n| scope().parameter("w", (n, n), Init::Orthogonal { gain: 1.0 });
            "he": |n| scope().parameter("w", (2, 1, n, n), Init::KaimingNormal { fan: Fan::Out, gain: 1.0 });
            "summary": |n| {
                let parameters = Parameters::new(0, &Device::Cpu);
                let model = Sequential::new().add(Linear::new(2, 2, &parameters.at("fc")).unwrap());
                ModelSummary::sequential(&model, &parameters, (n, 2))
            };
        },
        true,
    );
}

#[test]
fn operations_take_no_size_that_no_memory_holds() {
    let pool = |n: usize| Pool2dOptions { padding: (n / 2, 0), stride: (n, n), ..Pool2dOptions::new(n) };
    run(
        &cases! {
            "adaptive pooling": |n| ops::adaptive_avg_pool2d(&image(), (n, 1));
            "nearest": |n| ops::upsample_nearest2d(&image(), (n, n));
            "bilinear": |n| ops::upsample_bilinear2d(&image(), (1, n), false);
            "bilinear, corners": |n| ops::upsample_bilinear2d(&image(), (n, 3), true);
            "pooling": |n| ops::max_pool2d(&image(), &Pool2dOptions::new(n));
            "average pooling": |n| ops::avg_pool2d(&image(), &pool(n).clone());
            "upsample": |n| Upsample::new(n, UpsampleMode::Nearest).and_then(|layer| Ok(layer.forward_t(&image(), true)?));
            "pooled layer": |n| MaxPool2d::new(n).and_then(|layer| Ok(layer.forward_t(&image(), true)?));
            "adaptive layer": |n| AdaptiveAvgPool2d::new(n).and_then(|layer| Ok(layer.forward_t(&image(), true)?));
        },
        true,
    );
    run(
        &cases! {
            "padding": |n| ops::max_pool2d(&image(), &Pool2dOptions { padding: (n, n), ..Pool2dOptions::new(2) });
            "stride": |n| ops::max_pool2d(&image(), &Pool2dOptions { stride: (n, 1), ceil_mode: true, ..Pool2dOptions::new(2) });
            "layer's stride": |n| MaxPool2d::builder(2).stride(n).padding(1).build().and_then(|layer| Ok(layer.forward_t(&image(), true)?));
        },
        false,
    );
}

#[test]
fn metrics_of_classes_that_no_memory_holds_are_errors() {
    let guesses = Tensor::new(&[0u32, 1], &Device::Cpu).unwrap();
    run(
        &cases! {
            "confusion": |n| ConfusionMatrix::new(n);
            "confusion of a set": |n| crate::metrics::confusion_matrix(&guesses, &guesses, n);
            "mean IoU": |n| MeanIou::new(n);
            "F1": |n| FBeta::f1(n);
            "kappa": |n| CohenKappa::new(n);
            "calibration": |n| CalibrationError::new(n);
            "mixup": |n| MixUp::new(0.4, n, 1).and_then(|mix| mix.apply(batch(), &BatchPosition { epoch: 0, first: 0 }));
            "class counts": |n| class_counts(&[0, 1], n);
        },
        true,
    );
    run(&cases! { "top k": |n| TopK::new(n); }, false);
}

#[test]
fn samplers_of_lengths_that_no_memory_holds_are_errors() {
    run(
        &cases! {
            "sequential": |n| SequentialSampler::new(n).indices(0).and_then(some);
            "random": |n| RandomSampler::new(n, 1).indices(0).and_then(some);
            "weighted": |n| WeightedRandomSampler::builder(&[1.0, 2.0]).samples(n).build().and_then(|it| it.indices(0));
            "split": |n| Split::builder(n).validation(0.1).build();
            "stratified": |n| Split::builder(n).stratify(&[0, 1]).validation(0.5).build();
            "loader": |n| DataLoader::builder(Satellite::builder(n.max(1)).build()?).batch_size(2).shuffle(1).build()?.epoch(n);
            "subset": |n| Subset::new(Satellite::builder(3).build()?, &[n]).and_then(|it| if n == 0 { some(vec![]) } else { Ok(it.get(0).map(|_| vec![])?) });
        },
        true,
    );
    run(
        &cases! {
            "batch size": |n| DataLoader::builder(Satellite::builder(3).build()?).batch_size(n).build();
            "workers": |n| DataLoader::builder(Satellite::builder(3).build()?).workers(n).build();
            "prefetch": |n| DataLoader::builder(Satellite::builder(3).size(16).build()?).workers(1).prefetch(n).build()?.epoch(n)?.try_for_each(|batch| batch.map(drop));
            "stratified batches": |n| StratifiedBatchSampler::new(&[0, 1, 1], n, 0)?.indices(n);
            "crop": |n| RandomCrop::new(n, 1).apply(batch(), &BatchPosition { epoch: n, first: n });
            "smote": |n| Smote::new(n, 1)?.resample(&Tensor::ones((3, 2), DType::F32, &Device::Cpu)?, &[0, 0, 1]);
            "tiles": |n| Satellite::builder(n).size(n).build();
            "accumulation": |n| GradientAccumulator::new(&Parameters::new(0, &Device::Cpu), n);
            "draws": |n| Generator::new(1).try_below(n);
            "checkpoints": |n| Checkpoints::builder("x").every_steps(n).keep_last(n).every_epochs(n).build();
        },
        false,
    );
}

/// An empty list is no list that memory was asked for.
fn some(indices: Vec<usize>) -> Result<Vec<usize>> {
    if indices.is_empty() { Err(Error::undefined("nothing")) } else { Ok(indices) }
}

#[test]
fn one_label_of_the_largest_number_costs_no_memory() {
    let labels = [3, u32::MAX, 3, 0, u32::MAX, 3, 0, 3, u32::MAX, 0, 3, 3];
    let weights = example_weights(&labels);
    assert_eq!((weights[0], weights[1], weights[3]), (1.0 / 6.0, 1.0 / 3.0, 1.0 / 3.0));
    let class = |indices: Vec<usize>| {
        let mut classes: Vec<u32> = indices.into_iter().map(|index| labels[index]).collect();
        classes.sort_unstable();
        classes
    };
    let max = u32::MAX;
    assert_eq!(class(undersample(&labels, 1).unwrap()), [0, 0, 0, 3, 3, 3, max, max, max]);
    assert_eq!(
        class(oversample(&labels, 1).unwrap()).chunks(6).map(|of| (of[0], of[5])).collect::<Vec<_>>(),
        [(0, 0), (3, 3), (max, max)]
    );
    assert_eq!(class(imbalance(&labels, &[(max, 0.34), (3, 0.5)], 1).unwrap()), [0, 0, 0, 3, 3, 3, max]);
    // Class 3 of 2³² is all but at the head, the last keeps a third.
    assert_eq!(class(long_tail(&labels, 3.0, 1).unwrap()), [0, 0, 0, 3, 3, 3, 3, 3, 3, max]);
    let split = Split::builder(12).stratify(&labels).validation(0.34).build().unwrap();
    assert!(split.validation().iter().any(|&index| labels[index] == max));
    assert!(class_counts(&labels, 4).unwrap_err().to_string().contains("got 4294967295 for example 1"));
    let mut order = StratifiedBatchSampler::new(&labels, 4, 1).unwrap().indices(0).unwrap();
    order.sort_unstable();
    assert_eq!(order, (0..12).collect::<Vec<_>>());
    let xs = Tensor::arange(0f32, 24.0, &Device::Cpu).unwrap().reshape((12, 2)).unwrap();
    let (balanced, all) = Smote::new(2, 1).unwrap().resample(&xs, &labels).unwrap();
    assert_eq!((balanced.dims(), all.iter().filter(|&&label| label == max).count()), (&[18, 2][..], 6));

    // Where labels are classes of predictions, one beyond is told.
    let logits = Tensor::ones((12, 4), DType::F32, &Device::Cpu).unwrap();
    let targets = Tensor::new(&labels, &Device::Cpu).unwrap();
    let refused = [
        cross_entropy(&logits, &targets).map(drop),
        focal(&logits, &targets).map(drop),
        dice(&logits, &targets).map(drop),
        lovasz_softmax(&logits, &targets).map(drop),
        accuracy(&logits, &targets).map(drop),
        confusion_matrix(&targets, &targets, 4).map(drop),
        log_loss(&logits, &targets).map(drop),
        top_k_accuracy(&logits, &targets, 2).map(drop),
        roc_auc_one_vs_rest(&logits, &targets, Average::Macro).map(drop),
        ImageDataset::new(vec![0; 12], labels.to_vec(), [1, 1, 1], &["a", "b"]).map(drop),
    ];
    for (index, result) in refused.into_iter().enumerate() {
        assert!(result.is_err(), "case {index} took a class that there is not");
    }
}

#[test]
fn schedules_of_absurd_lengths_have_rates() {
    let schedules = |n: usize| -> Vec<(&str, Result<Box<dyn Schedule>>)> {
        fn boxed<S: Schedule + 'static>(schedule: Result<S>) -> Result<Box<dyn Schedule>> {
            schedule.map(|schedule| Box::new(schedule) as Box<dyn Schedule>)
        }
        vec![
            ("cosine", boxed(CosineAnnealingLR::new(0.1, n))),
            ("restarts", boxed(CosineAnnealingWarmRestarts::builder(0.1, n).t_mult(n).build())),
            ("long restarts", boxed(CosineAnnealingWarmRestarts::builder(0.1, 1).t_mult(n).build())),
            ("one cycle", boxed(OneCycleLR::new(0.1, n))),
            ("three phases", boxed(OneCycleLR::builder(0.1, n).three_phase(true).build())),
            ("cyclic", boxed(CyclicLR::builder(0.01, 0.1).step_size_up(n).step_size_down(n).build())),
            ("triangular", boxed(CyclicLR::builder(0.01, 0.1).step_size_up(n).mode(CyclicMode::Triangular2).build())),
            ("constant", boxed(ConstantLR::new(0.1, n))),
            ("linear", boxed(LinearLR::new(0.1, n))),
            ("polynomial", boxed(PolynomialLR::new(0.1, n))),
            ("exponential", boxed(ExponentialLR::new(0.1, 0.9))),
            ("step", boxed(StepLR::new(0.1, n))),
            ("milestones", boxed(MultiStepLR::builder(0.1, [n / 2, n]).build())),
            ("warm-up", boxed(WarmUp::new(n, 0.1))),
            ("stairs", boxed(WarmUp::builder(n, 0.1).stairs(n).build())),
            ("sequence", boxed(SequentialLR::builder(0.1).then(n, 0.2).build())),
        ]
    };
    for n in ABSURD {
        for step in [0, 1, 1 << 40, (1 << 62) + 1, 1 << 63, usize::MAX - 1, usize::MAX] {
            for (name, schedule) in schedules(n) {
                let Ok(schedule) = schedule else { continue };
                let rate = schedule.learning_rate(step);
                assert!((0.0..=0.200001).contains(&rate), "{name} of {n} at {step}: {rate}");
                let momentum = schedule.momentum(step);
                assert!(momentum.is_none_or(|momentum| (0.0..1.0).contains(&momentum)), "{name} of {n} at {step}");
            }
        }
    }
    // Half-way of a cosine of 2⁶³ steps.
    let cosine = CosineAnnealingLR::new(0.1, 1 << 63).unwrap();
    assert!((cosine.learning_rate(1 << 62) - 0.05).abs() < 1e-12);
    let stairs = WarmUp::builder(1 << 63, 0.1).stairs(1 << 62).build().unwrap();
    assert!((stairs.learning_rate(1 << 62) - 0.05).abs() < 1e-12);
}

#[test]
fn figures_of_hostile_values_are_drawn_or_refused() {
    let values = [
        0.0,
        -0.0,
        5e-324,
        -5e-324,
        1e-300,
        1.0,
        1.0 + f64::EPSILON,
        1e300,
        f64::MAX,
        f64::MIN,
        f64::NAN,
        f64::INFINITY,
        f64::NEG_INFINITY,
    ];
    let name = "<b>&\"'\u{0}\u{1b}\n\u{202e}EVCXR_BEGIN_CONTENT text/html";
    let drawn = std::cell::Cell::new(0);
    let check = |what: &str, figure: &dyn Fn() -> Result<Figure>| {
        let figure = catch_unwind(AssertUnwindSafe(figure));
        let figure = figure.unwrap_or_else(|panic| panic!("{what}: {}", crate::error::panicked("it", &*panic)));
        let Ok(figure) = figure else { return };
        let svg = figure.svg();
        assert!(!svg.contains("<b>") && !svg.contains("EVCXR_") && !svg.contains(['\0', '\u{1b}']), "{what}");
        // Every second piece between quotes is an attribute; a text may well say that a value is NaN.
        let attribute =
            svg.split('"').skip(1).step_by(2).find(|text| ["NaN", "inf"].iter().any(|bad| text.contains(bad)));
        assert!(attribute.is_none() && svg.len() < 1 << 20, "{what}: {attribute:?}, {} bytes", svg.len());
        assert!(!figure.to_string().contains(['\n', '\u{1b}']) && !figure.to_string().contains("EVCXR_"));
        drawn.set(drawn.get() + 1);
    };
    for a in values {
        for b in values {
            let pair = [a, b];
            let points = [(a, b), (b, a), (1.0, 2.0)];
            check(&format!("line {pair:?}"), &|| LineChart::builder(name).y_label(name).line(name, &pair).build());
            check(&format!("log {pair:?}"), &|| LineChart::builder(name).log_x().log_y().points(name, &points).build());
            check(&format!("marks {pair:?}"), &|| {
                LineChart::builder("").points("", &points).vertical(name, a).horizontal(name, b).build()
            });
            check(&format!("range {pair:?}"), &|| LineChart::builder("").points("", &points).y_range(a, b).build());
            check(&format!("scatter {pair:?}"), &|| ScatterChart::builder(name).points(name, &points).build());
            check(&format!("bars {pair:?}"), &|| {
                BarChart::builder(name).categories(&[name, "x"]).bars(name, &pair).build()
            });
            check(&format!("bars with errors {pair:?}"), &|| {
                BarChart::builder("").categories(&["a", "b"]).bars_with_errors("", &pair, &[b, a]).build()
            });
            check(&format!("histogram {pair:?}"), &|| Histogram::builder(name).values(name, &pair).build());
            check(&format!("heat map {pair:?}"), &|| {
                HeatMap::builder(name, &[pair.to_vec(), vec![b, 1.0]]).row_labels(&[name, "b"]).build()
            });
        }
        let image = Tensor::new(&[a as f32, 1.0, 0.5, b_of(a)], &Device::Cpu).unwrap().reshape((1, 1, 2, 2)).unwrap();
        check(&format!("image {a}"), &|| ImageGrid::builder(name, &image).build());
    }
    for n in ABSURD {
        check("panels", &|| Panels::builder(n).add(LineChart::builder("").line("", &[1.0]).build()?).build());
        check("bins", &|| Histogram::builder("").values("", &[1.0, 2.0]).bins(n).build());
        check("columns", &|| ImageGrid::builder("", &image()).columns(n).build());
        check("size", &|| LineChart::builder("").line("", &[1.0]).size(n as f64, n as f64).build());
    }
    assert!(drawn.get() > 500, "{}", drawn.get());
    tried("Absurd sizes and values are errors", "a figure of hostile values", drawn.get());
}

fn b_of(a: f64) -> f32 {
    -a as f32
}
