//! Losses and gradients of batches, joined, are those of one large batch: for every loss.

use candle_core::{DType, Tensor, Var};

use super::oracle_tests::{Case, FILES, build, cases, numbers};
use crate::losses::mean_of::count_on_device;
use crate::losses::*;
use crate::nn::Parameters;
use crate::random::Generator;
use crate::stateful::Stateful as _;

/// Random cuts of `0..n` into (start, length), at least one.
fn cuts(n: usize, generator: &mut Generator) -> Vec<(usize, usize)> {
    let mut pieces = Vec::new();
    let mut start = 0;
    while start < n {
        let len = 1 + generator.below(n - start);
        pieces.push((start, len));
        start += len;
    }
    pieces
}

/// The value and the gradient by `x` of means that come batch by batch.
struct Joined {
    value: f64,
    gradient: Vec<f64>,
    exact: bool,
}

/// Joins terms of batches as a trainer does: Σ d g, divided by Σ d, for every term.
fn joined(x: &Var, batches: &[(Vec<Mean>, usize)]) -> Joined {
    let mut running = RunningMean::new();
    let mut sums: Vec<Option<(Tensor, MeanOf)>> = vec![None; batches[0].0.len()];
    for (means, examples) in batches {
        running.add(means, *examples).unwrap();
        // Interrupted after every batch.
        let state = running.state().unwrap();
        running = RunningMean::new();
        running.load_state(&state).unwrap();
        if running.approximate().is_some() {
            continue;
        }
        for (sum, Mean { value, of }) in sums.iter_mut().zip(means) {
            let gradients = of.total(value).unwrap().backward().unwrap();
            let gradient = gradients.get(x).cloned().unwrap_or(x.zeros_like().unwrap());
            *sum = Some(match sum.take() {
                Some((so_far, count)) => ((so_far + gradient).unwrap(), count.join(of).unwrap()),
                None => (gradient, of.clone()),
            });
        }
    }
    let gradients = sums.into_iter().flatten().map(|(sum, of)| of.mean(&sum).unwrap());
    let gradient = gradients.fold(x.zeros_like().unwrap(), |total, gradient| (total + gradient).unwrap());
    Joined { value: running.mean().unwrap(), gradient: numbers(&gradient), exact: running.approximate().is_none() }
}

/// `loss` of `x` and `y` in one piece: the value and the gradient by `x`.
fn whole(loss: &dyn Loss, x: &Var, y: &Tensor) -> (f64, Vec<f64>) {
    let value = loss.forward(x, y).unwrap();
    let gradient = value.backward().unwrap().get(x).cloned().unwrap_or(x.zeros_like().unwrap());
    (numbers(&value)[0], numbers(&gradient))
}

fn in_pieces(loss: &dyn Loss, x: &Var, y: &Tensor, pieces: &[(usize, usize)]) -> Joined {
    let batches: Vec<_> = pieces
        .iter()
        .map(|&(start, len)| {
            let (x, y) = (x.narrow(0, start, len).unwrap(), y.narrow(0, start, len).unwrap());
            (loss.means(&x, &y).unwrap(), len)
        })
        .collect();
    joined(x, &batches)
}

fn assert_joins(what: &str, joined: &Joined, expected: &(f64, Vec<f64>)) {
    assert!(joined.exact, "{what}: cannot be split");
    let close = |a: f64, b: f64| (a - b).abs() <= 1e-9 * (1.0 + b.abs());
    assert!(close(joined.value, expected.0), "{what}: {} in pieces, {} whole", joined.value, expected.0);
    for (i, (&got, &expected)) in joined.gradient.iter().zip(&expected.1).enumerate() {
        assert!(close(got, expected), "{what}, gradient {i}: {got} in pieces, {expected} whole");
    }
}

/// Random examples in the manner of a stored case: its rows, drawn anew, predictions stretched, and
/// half of the targets ignored in some rows if something is ignored at all.
fn drawn(case: &Case, generator: &mut Generator) -> (Var, Tensor) {
    let n = 2 + generator.below(6);
    let rows: Vec<u32> = (0..n).map(|_| generator.below(case.shape[0]) as u32).collect();
    let rows = Tensor::new(rows, crate::test_support::device()).unwrap();
    let stretch: Vec<f64> = (0..n).map(|_| 0.5 + generator.uniform()).collect();
    let mut dims = vec![1; case.shape.len()];
    dims[0] = n;
    let stretch = Tensor::from_vec(stretch, dims, crate::test_support::device()).unwrap();
    let x = case.variable(&case.predictions, DType::F64).index_select(&rows, 0).unwrap();
    let x = Var::from_tensor(&x.broadcast_mul(&stretch).unwrap()).unwrap();
    let y = case.targets(DType::F64).index_select(&rows, 0).unwrap();
    let Some(ignored) = case.ignored() else { return (x, y) };
    let mut values = numbers(&y);
    let row = values.len() / n;
    for values in values.chunks_mut(row) {
        let share = [0.0, 0.5, 1.0][generator.below(3)];
        values.iter_mut().filter(|_| generator.chance(share)).for_each(|value| *value = ignored as f64);
    }
    let y = Tensor::from_vec(values, y.shape(), crate::test_support::device()).unwrap().to_dtype(y.dtype()).unwrap();
    (x, y)
}

#[test]
fn batches_of_every_loss_join_to_the_whole() {
    let mut generator = Generator::new(11);
    let (mut exact, mut refused) = (0, std::collections::BTreeSet::new());
    for case in FILES.into_iter().flat_map(cases) {
        let (name, loss) = (format!("{}: {}", case.loss, case.case), build(&case));
        if case.has("weights") && case.shape.len() == 1 {
            continue; // a weight per example has the length of the batch
        }
        for _ in 0..5 {
            let (x, y) = drawn(&case, &mut generator);
            let pieces = cuts(x.dims()[0], &mut generator);
            if let MeanOf::Whole(reason) = loss.mean_of(&x, &y).unwrap() {
                // What is known before there is a batch is the same; a missing reduction shows in the first value.
                let unreduced = case.text("reduction") == Some("none");
                assert_eq!(loss.whole(), (!unreduced).then_some(reason), "{name}");
                let over_batch = case.text("over") != Some("image");
                refused.insert(if unreduced {
                    "no reduction".to_owned()
                } else if over_batch {
                    case.loss.clone()
                } else {
                    panic!("{name} can be split")
                });
                continue;
            }
            assert_eq!(loss.whole(), None);
            assert_joins(&name, &in_pieces(&*loss, &x, &y, &pieces), &whole(&*loss, &x, &y));
            exact += 1;
        }
    }
    let overlap = ["dice", "focal_tversky", "generalised_dice", "iou", "lovasz_hinge", "lovasz_softmax"];
    let expected = [&overlap[..], &["no reduction", "rmse", "tversky"]].concat();
    assert_eq!(refused.into_iter().collect::<Vec<_>>(), expected);
    assert!(exact > 500, "{exact}");
}

fn ramp(shape: &[usize], seed: u64) -> Var {
    let mut generator = Generator::new(seed);
    let values: Vec<f64> = (0..shape.iter().product()).map(|_| generator.normal()).collect();
    Var::from_tensor(&Tensor::from_vec(values, shape, crate::test_support::device()).unwrap()).unwrap()
}

#[test]
fn sequences_of_six_and_one_counted_labels_have_the_gradient_of_both_together() {
    let x = ramp(&[2, 4, 6], 1); // [N, C, L]
    let y = Tensor::new(&[[0i64, 1, 2, 3, 2, 1], [3, -100, -100, -100, -100, -100]], crate::test_support::device())
        .unwrap();
    let loss = CrossEntropy::builder().ignore_index(-100).build().unwrap();
    let (value, gradient) = whole(&loss, &x, &y);
    let joined = in_pieces(&loss, &x, &y, &[(0, 1), (1, 1)]);
    assert_joins("ignored labels", &joined, &(value, gradient.clone()));
    // The mean of the two means is another loss.
    let mean = |i| loss.forward(&x.narrow(0, i, 1).unwrap(), &y.narrow(0, i, 1).unwrap()).unwrap();
    let naive = ((mean(0) + mean(1)).unwrap() / 2.0).unwrap();
    assert!((numbers(&naive)[0] - value).abs() > 0.01);
    let naive = numbers(naive.backward().unwrap().get(&x).unwrap());
    assert!(naive.iter().zip(&gradient).any(|(a, b)| (a - b).abs() > 0.1));
}

#[test]
fn class_weights_count_in_the_mean_of_batches() {
    let x = ramp(&[6, 3], 2);
    let y = Tensor::new(&[0u32, 1, 0, 1, 2, 2], crate::test_support::device()).unwrap();
    let loss = CrossEntropy::builder().class_weights([1.0, 1.0, 10.0]).build().unwrap();
    for pieces in [vec![(0, 4), (4, 2)], vec![(0, 2), (2, 3), (5, 1)]] {
        assert_joins("class weights", &in_pieces(&loss, &x, &y, &pieces), &whole(&loss, &x, &y));
    }
}

#[test]
fn one_labelled_and_three_ignored_images_have_one_loss_for_every_batch_size() {
    let x = ramp(&[4, 3, 2, 2], 3);
    let mut labels = vec![255u32; 16];
    labels[..4].copy_from_slice(&[0, 1, 2, 1]);
    let y = Tensor::from_vec(labels, (4, 2, 2), crate::test_support::device()).unwrap();
    let loss = CrossEntropy::builder().ignore_index(255).build().unwrap();
    let expected = whole(&loss, &x, &y);
    for size in [1, 2, 4] {
        let pieces: Vec<_> = (0..4 / size).map(|i| (i * size, size)).collect();
        assert_joins("ignored images", &in_pieces(&loss, &x, &y, &pieces), &expected);
    }
    // Nothing but ignored pixels, in any number of batches: 0, not 0/0.
    let ignored = Tensor::full(255u32, (4, 2, 2), crate::test_support::device()).unwrap();
    let nothing = in_pieces(&loss, &x, &ignored, &[(0, 1), (1, 3)]);
    assert_eq!(nothing.value, 0.0);
    assert!(nothing.gradient.iter().all(|&g| g == 0.0));
}

#[test]
fn terms_with_counts_of_their_own_join_one_by_one() {
    let mut generator = Generator::new(5);
    let inner = WeightedSum::builder()
        .term("focal", 2.0, Focal::builder().ignore_index(255).build().unwrap())
        .term("sum", 0.1, CrossEntropy::builder().ignore_index(255).reduction(Reduction::Sum).build().unwrap())
        .build()
        .unwrap();
    let loss = WeightedSum::builder()
        .term(
            "weighted",
            0.5,
            CrossEntropy::builder().class_weights([1.0, 3.0, 10.0]).ignore_index(255).build().unwrap(),
        )
        .term("inner", 0.7, inner)
        .term(
            "image",
            1.0,
            Dice::builder().over(Over::Image).classes(Classes::Present).ignore_index(255).build().unwrap(),
        )
        .build()
        .unwrap();
    let x = ramp(&[7, 3, 5], 4);
    for _ in 0..20 {
        let labels: Vec<u32> = (0..35).map(|i| [0, 1, 2, 255][generator.below(if i < 10 { 4 } else { 3 })]).collect();
        let y = Tensor::from_vec(labels, (7, 5), crate::test_support::device()).unwrap();
        assert!(loss.mean_of(&x, &y).unwrap().whole().unwrap().contains("different things"));
        assert_joins("a sum", &in_pieces(&loss, &x, &y, &cuts(7, &mut generator)), &whole(&loss, &x, &y));
    }
    // Terms that are means of the same need no terms.
    let y = Tensor::new(&[[0u32, 1, 2, 0, 1]; 7], crate::test_support::device()).unwrap();
    let same = WeightedSum::builder()
        .term("a", 1.0, CrossEntropy::default())
        .term("b", 1.0, Focal::default())
        .build()
        .unwrap();
    assert!(matches!(same.mean_of(&x, &y).unwrap(), MeanOf::Count(35.0)));
    let with_dice = WeightedSum::builder()
        .term("ce", 1.0, CrossEntropy::default())
        .term("dice", 1.0, Dice::default())
        .build()
        .unwrap();
    assert!(with_dice.whole().unwrap().contains("`dice`"));
    let of = with_dice.mean_of(&x, &y).unwrap();
    assert!(of.whole().unwrap().contains("`dice`") && of.whole().unwrap().contains("Over::Image"), "{of:?}");
    let text = of.total(&x).unwrap_err().to_string();
    assert!(text.contains("does not follow from the losses of its parts: `dice`: the overlap"), "{text}");
}

#[test]
fn tasks_join_one_by_one_and_so_do_their_learned_weights() {
    let parameters = Parameters::with_dtype(0, DType::F64, crate::test_support::device());
    let tasks = || {
        MultiTask::builder()
            .task("cover", Task::Classification, 3.0, CrossEntropy::builder().ignore_index(255).build().unwrap())
            .task("height", Task::Regression, 0.2, Mse::default())
    };
    let (fixed, learned) = (tasks().build().unwrap(), tasks().learned(&parameters.at("weights")).unwrap());
    let (x, h) = (ramp(&[3, 2, 4], 6), ramp(&[3], 7));
    let y = Tensor::new(&[[0u32, 1, 1, 0], [255, 255, 255, 1], [255; 4]], crate::test_support::device()).unwrap();
    let metres = Tensor::new(&[1f64, -2., 0.5], crate::test_support::device()).unwrap();
    for loss in [fixed, learned] {
        let total = loss.forward(&[(&x, &y), (&h, &metres)]).unwrap().total;
        let gradients = total.backward().unwrap();
        let part = |start: usize, len: usize| {
            let cut = |tensor: &Tensor| tensor.narrow(0, start, len).unwrap();
            (loss.means(&[(&cut(&x), &cut(&y)), (&cut(&h), &cut(&metres))]).unwrap(), len)
        };
        let batches = [part(0, 1), part(1, 2)];
        let mut variables = vec![x.clone(), h.clone()];
        if batches[0].0.len() == 4 {
            variables.extend(parameters.trainable().into_iter().map(|(_, variable)| variable));
            assert_eq!(variables.len(), 4);
        }
        for variable in &variables {
            let expected = (numbers(&total)[0], numbers(gradients.get(variable).unwrap()));
            assert_joins("tasks", &joined(variable, &batches), &expected);
        }
    }
}

#[test]
fn counting_on_the_device_is_counting_on_the_host() {
    let mut generator = Generator::new(8);
    let logits = Tensor::zeros((4, 3, 9), DType::F32, crate::test_support::device()).unwrap();
    for (dtype, ignored) in
        [(DType::U8, 255), (DType::U32, 255), (DType::I64, -100), (DType::U8, -100), (DType::U32, 2)]
    {
        let unknown = u8::try_from(ignored).is_ok() || dtype == DType::I64;
        let labels: Vec<i64> =
            (0..36).map(|_| [0, 1, 2, ignored][generator.below(if unknown { 4 } else { 3 })]).collect();
        let targets = Tensor::from_vec(labels, (4, 9), crate::test_support::device()).unwrap().to_dtype(dtype).unwrap();
        for weights in [None, Some(&[0.5, 2.0, 7.0][..])] {
            let of = MeanOf::positions(&logits, &targets, Some(ignored), weights).unwrap();
            let MeanOf::Count(host) = of else { panic!("{of:?}") };
            let device = count_on_device(&targets, Some(ignored), weights).unwrap();
            assert_eq!(device.to_scalar::<f64>().unwrap(), host, "{dtype:?} {ignored} {weights:?}");
        }
    }
}

#[test]
fn counts_on_the_device_join_as_those_on_the_host() {
    let scalar = |value: f64| Tensor::new(value, crate::test_support::device()).unwrap();
    let (host, device) = (MeanOf::Count(3.0), MeanOf::CountOnDevice(scalar(5.0)));
    let value = scalar(2.0).to_dtype(DType::F32).unwrap();
    assert_eq!(device.total(&value).unwrap().to_scalar::<f32>().unwrap(), 10.0);
    for both in [host.join(&device), device.join(&host)] {
        assert_eq!(both.unwrap().mean(&scalar(16.0)).unwrap().to_scalar::<f64>().unwrap(), 2.0);
    }
    let none = MeanOf::CountOnDevice(scalar(0.0));
    assert_eq!(none.mean(&scalar(0.0)).unwrap().to_scalar::<f64>().unwrap(), 0.0);
    assert_eq!(
        numbers(&device.mean(&Tensor::new(&[5f64, 10.], crate::test_support::device()).unwrap()).unwrap()),
        [1.0, 2.0]
    );
    assert!(host.join(&MeanOf::Sum).unwrap_err().to_string().contains("a sum in one batch"));
}

#[test]
fn what_cannot_be_split_says_so_and_is_averaged_over_examples() {
    let (x, y) = (ramp(&[3, 2], 9), Tensor::zeros((3, 2), DType::F64, crate::test_support::device()).unwrap());
    let mut mean = RunningMean::new();
    let mut expected = 0.0;
    for (start, len) in [(0, 1), (1, 2)] {
        let (x, y) = (x.narrow(0, start, len).unwrap(), y.narrow(0, start, len).unwrap());
        mean.add(&Rmse.means(&x, &y).unwrap(), len).unwrap();
        expected += numbers(&Rmse.forward(&x, &y).unwrap())[0] * len as f64 / 3.0;
    }
    assert!((mean.mean().unwrap() - expected).abs() < 1e-12);
    assert_eq!(mean.examples(), 3);
    let mut restored = RunningMean::new();
    restored.load_state(&mean.state().unwrap()).unwrap();
    assert_eq!(restored.approximate(), mean.approximate());
    let mut state = mean.state().unwrap();
    state.remove("total.0");
    assert!(restored.load_state(&state).unwrap_err().to_string().contains("`count.0` is superfluous"));
    assert_eq!((restored.mean().unwrap(), restored.examples()), (mean.mean().unwrap(), 3));
    assert!(mean.approximate().unwrap().contains("root"));
    let error = mean.add(&[], 1).unwrap_err().to_string();
    assert!(error.contains("1 terms as before"), "{error}");
    assert!(RunningMean::new().mean().is_err());
    // A loss of one's own that says nothing is not split in silence.
    struct Mine;
    impl Loss for Mine {
        fn forward(&self, predictions: &Tensor, _: &Tensor) -> crate::Result<Tensor> {
            Ok(predictions.mean_all()?)
        }
    }
    assert!(Mine.mean_of(&x, &y).unwrap().whole().unwrap().contains("Loss::mean_of"));
}
