//! Losses on the device that `CANDLE_COURSE_TEST_DEVICE` names, against the CPU's kernels, at sizes that
//! the stored cases do not have.

use candle_core::{DType, Device, Tensor, Var};

use crate::losses::*;
use crate::test_support::device;

fn numbers(shape: &[usize], pace: f64) -> Tensor {
    let count: usize = shape.iter().product();
    let values: Vec<f64> = (0..count).map(|i| 3.0 * (i as f64 * pace + 0.3).sin()).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn flat(xs: &Tensor) -> Vec<f64> {
    xs.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn outcome(loss: &dyn Loss, x: &Tensor, y: &Tensor, on: &Device, dtype: DType) -> (Vec<f64>, Vec<f64>) {
    let x = Var::from_tensor(&x.to_dtype(dtype).unwrap().to_device(on).unwrap()).unwrap();
    let y = if y.dtype().is_float() { y.to_dtype(dtype).unwrap() } else { y.clone() }.to_device(on).unwrap();
    let value = loss.forward(&x, &y).unwrap();
    let outer = numbers(value.dims(), 0.7).to_dtype(dtype).unwrap().to_device(on).unwrap();
    // candle cannot sum a scalar on a GPU.
    let gradients = (&value * outer).unwrap().flatten_all().unwrap().sum_all().unwrap().backward().unwrap();
    (flat(&value), flat(gradients.get(&x).unwrap()))
}

const KINDS: [(DType, f64); 2] = [(DType::F64, 1e-11), (DType::F32, 1e-5)];

fn compare(what: &str, loss: &dyn Loss, x: &Tensor, y: &Tensor) {
    compare_as(&KINDS, what, loss, x, y);
}

fn compare_as(kinds: &[(DType, f64)], what: &str, loss: &dyn Loss, x: &Tensor, y: &Tensor) {
    if device().is_cpu() {
        return;
    }
    for &(dtype, tolerance) in kinds {
        let (cpu, ours) = (outcome(loss, x, y, &Device::Cpu, dtype), outcome(loss, x, y, device(), dtype));
        assert_eq!(ours, outcome(loss, x, y, device(), dtype), "{what}, {dtype:?}: twice the same");
        for (part, cpu, ours) in [("value", &cpu.0, &ours.0), ("gradient", &cpu.1, &ours.1)] {
            assert_eq!(cpu.len(), ours.len(), "{what}");
            let scale = cpu.iter().fold(0.0f64, |scale, x| scale.max(x.abs()));
            for (i, (a, b)) in cpu.iter().zip(ours).enumerate() {
                assert!((a - b).abs() <= tolerance * scale, "{what}, {dtype:?}, {part} {i}: {a} {b}");
            }
        }
    }
}

const REDUCTIONS: [Reduction; 3] = [Reduction::Mean, Reduction::Sum, Reduction::None];

#[test]
fn losses_of_classes_agree_with_the_cpu() {
    for shape in [&[5, 3][..], &[1500, 10], &[7, 130], &[3, 4, 35], &[2, 3, 30, 40]] {
        let x = numbers(shape, 1.3);
        let mut target_shape = shape.to_vec();
        target_shape.remove(1);
        let labels: Vec<u32> =
            (0..target_shape.iter().product::<usize>() as u32).map(|i| i * 7 % shape[1] as u32).collect();
        let labels = Tensor::from_vec(labels, target_shape, &Device::Cpu).unwrap();
        let weights: Vec<f64> = (0..shape[1]).map(|class| 0.5 + class as f64).collect();
        for (dtype, reduction) in [DType::U8, DType::U32, DType::I64].into_iter().zip(REDUCTIONS) {
            let y = labels.to_dtype(dtype).unwrap();
            let plain = CrossEntropy::builder().reduction(reduction).build().unwrap();
            let full = CrossEntropy::builder()
                .class_weights(weights.clone())
                .label_smoothing(0.1)
                .ignore_index(2)
                .reduction(reduction)
                .build()
                .unwrap();
            let focal = Focal::builder()
                .gamma(1.5)
                .alpha(weights.clone())
                .ignore_index(1)
                .reduction(reduction)
                .build()
                .unwrap();
            compare(&format!("cross-entropy {shape:?} {reduction:?}"), &plain, &x, &y);
            compare(&format!("with options {shape:?} {reduction:?}"), &full, &x, &y);
            compare(&format!("focal {shape:?} {reduction:?}"), &focal, &x, &y);
        }
    }
    for shape in [&[5, 3][..], &[1100, 7], &[2, 3, 30, 40]] {
        let (x, logits) = (numbers(shape, 1.3), numbers(shape, 0.4));
        let soft = candle_nn::ops::softmax(&logits, 1).unwrap();
        let log_p = crate::ops::log_softmax(&x, 1).unwrap();
        for reduction in REDUCTIONS {
            let smoothed = CrossEntropy::builder().label_smoothing(0.1).reduction(reduction).build().unwrap();
            compare(&format!("soft targets {shape:?} {reduction:?}"), &smoothed, &x, &soft);
            compare(
                &format!("divergence {shape:?} {reduction:?}"),
                &KlDivergence::builder().reduction(reduction).build().unwrap(),
                &log_p,
                &soft,
            );
            let labels = soft.argmax(1).unwrap();
            let nll = Nll::builder().ignore_index(0).reduction(reduction).build().unwrap();
            compare(&format!("nll {shape:?} {reduction:?}"), &nll, &log_p, &labels);
        }
    }
    let all_ignored = CrossEntropy::builder().ignore_index(-100).build().unwrap();
    let y = Tensor::new(&[-100i64, -100], &Device::Cpu).unwrap();
    compare("all ignored", &all_ignored, &numbers(&[2, 3], 0.7), &y);
}

#[test]
fn losses_of_pairs_agree_with_the_cpu() {
    for shape in [&[3][..], &[40, 150], &[2, 4, 3]] {
        let (x, y) = (numbers(shape, 1.3), numbers(shape, 0.4));
        let positive = y.gt(0f64).unwrap().to_dtype(DType::F64).unwrap();
        for reduction in REDUCTIONS {
            let what = |name: &str| format!("{name} {shape:?} {reduction:?}");
            compare(&what("mse"), &Mse::builder().reduction(reduction).build().unwrap(), &x, &y);
            compare(&what("mae"), &Mae::builder().reduction(reduction).build().unwrap(), &x, &y);
            compare(&what("log-cosh"), &LogCosh::builder().reduction(reduction).build().unwrap(), &x, &y);
            compare(&what("huber"), &Huber::builder().delta(0.7).reduction(reduction).build().unwrap(), &x, &y);
            compare(&what("smooth l1"), &SmoothL1::builder().beta(0.7).reduction(reduction).build().unwrap(), &x, &y);
            compare(&what("quantile"), &Quantile::builder(0.9).reduction(reduction).build().unwrap(), &x, &y);
            compare(&what("bce"), &BinaryCrossEntropy::builder().reduction(reduction).build().unwrap(), &x, &positive);
            compare(
                &what("hinge"),
                &Hinge::builder().squared(true).reduction(reduction).build().unwrap(),
                &x,
                &positive,
            );
            compare(
                &what("binary focal"),
                &BinaryFocal::builder().reduction(reduction).build().unwrap(),
                &x,
                &positive,
            );
            if shape.len() == 3 {
                let bce = BinaryCrossEntropy::builder().pos_weight(vec![1.0, 2.0, 3.0, 0.5]).reduction(reduction);
                compare(&what("bce by label"), &bce.build().unwrap(), &x, &positive);
            }
        }
        compare("rmse", &Rmse, &x, &y);
    }
}

#[test]
fn losses_of_overlap_agree_with_the_cpu() {
    for shape in [[2usize, 3, 6, 7], [1, 2, 60, 80], [3, 1, 5, 4], [2, 1, 40, 70]] {
        let x = numbers(&shape, 1.3);
        let count = shape[0] * shape[2] * shape[3];
        let classes = (shape[1] as u32).max(2);
        let labels: Vec<u32> = (0..count as u32).map(|i| if i % 11 == 0 { 255 } else { (i / 3) % classes }).collect();
        let mut y = Tensor::from_vec(labels, (shape[0], shape[2], shape[3]), &Device::Cpu).unwrap();
        if shape[1] == 1 {
            y = y.to_dtype(DType::F64).unwrap();
        }
        for (over, classes) in
            [(Over::Batch, Classes::All), (Over::Image, Classes::Present), (Over::Image, Classes::All)]
        {
            let what = |name: &str| format!("{name} {shape:?} {over:?} {classes:?}");
            let dice = Dice::builder().over(over).classes(classes).ignore_index(255);
            compare(&what("dice"), &dice.squared(true).build().unwrap(), &x, &y);
            compare(
                &what("iou"),
                &Iou::builder().over(over).classes(classes).smooth(0.0).ignore_index(255).build().unwrap(),
                &x,
                &y,
            );
            let lovasz = LovaszSoftmax::builder().over(over).classes(classes).ignore_index(255);
            let hinge = LovaszHinge::builder().over(over).ignore_index(255);
            if shape[1] == 1 {
                compare(&what("lovasz hinge"), &hinge.build().unwrap(), &x, &y);
            } else {
                // In f32, probabilities that differ by their last bit may change places.
                compare_as(&KINDS[..1], &what("lovasz softmax"), &lovasz.build().unwrap(), &x, &y);
            }
            compare(
                &what("generalised"),
                &GeneralisedDice::builder().over(over).ignore_index(255).build().unwrap(),
                &x,
                &y,
            );
        }
    }
}

#[test]
fn a_target_that_is_no_class_makes_the_loss_nan_and_is_told() {
    let candle_core::Device::Cuda(cuda) = device() else { return };
    let x = numbers(&[4, 3], 1.3).to_device(device()).unwrap();
    let y = Tensor::new(&[0u32, 9, 1, 2], device()).unwrap();
    let value = CrossEntropy::default().forward(&x, &y).unwrap().to_scalar::<f64>().unwrap();
    assert!(value.is_nan(), "{value}");
    let text = crate::kernels::cuda::faults::error(cuda).unwrap().unwrap().to_string();
    assert!(text.contains("classes in 0..3") && text.contains("got 9"), "{text}");
    assert!(crate::kernels::cuda::faults::error(cuda).unwrap().is_none());
}
