//! What was unclear once, and is decided.

use candle_core::{DType, Device, Tensor};

use crate::metrics::*;

fn classes(values: &[u32]) -> Tensor {
    Tensor::new(values, &Device::Cpu).unwrap()
}

#[test]
fn an_ignored_class_that_is_predicted_is_no_class() {
    // 1000 positions of class 1 and 1000 of class 2, of which 4 are called class 0; class 0 is ignored.
    let targets: Vec<u32> = (0..3000).map(|i| i % 3).collect();
    let predictions: Vec<u32> = (0..3000).map(|i| if i % 750 == 1 { 0 } else { i % 3 }).collect();
    let wrong = targets.iter().zip(&predictions).filter(|(t, p)| t != p && **t != 0).count();
    assert_eq!(wrong, 4);
    let mut iou = MeanIou::builder(3).ignore_index(0).build().unwrap();
    let mut dice = MeanDice::builder(3).ignore_index(0).build().unwrap();
    let mut matrix = ConfusionMatrix::builder(3).ignore_index(0).build().unwrap();
    let (predictions, targets) = (classes(&predictions), classes(&targets));
    iou.update(&predictions, &targets).unwrap();
    dice.update(&predictions, &targets).unwrap();
    matrix.update(&predictions, &targets).unwrap();
    // (0.996 + 1) / 2, and what torchmetrics' MulticlassJaccardIndex(3, ignore_index=0) says, whatever
    // the average.
    assert!((iou.compute().unwrap() - 0.998).abs() < 1e-12, "{}", iou.compute().unwrap());
    assert!((matrix.iou(Average::Micro).unwrap() - 0.998).abs() < 1e-12);
    let rows = matrix.rows().unwrap();
    let share = |class: usize| rows[class][class] as f64 / 1000.0;
    let expected = (1..3).map(|class| 2.0 * share(class) / (1.0 + share(class))).sum::<f64>() / 2.0;
    assert!((dice.compute().unwrap() - expected).abs() < 1e-12);
    // The others speak of answers, and 0 was one.
    assert!(matrix.precision(Average::Macro).unwrap() < 0.67);
    // A label that is no class leaves all classes in.
    let mut outside = MeanIou::builder(3).ignore_index(255).build().unwrap();
    outside.update(&classes(&[0, 1, 2, 2]), &classes(&[0, 1, 1, 255])).unwrap();
    assert_eq!(outside.compute().unwrap(), (1.0 + 0.5 + 0.0) / 3.0);
}

#[test]
fn a_confidence_on_an_edge_is_in_the_bin_that_begins_there() {
    for dtype in [DType::F64, DType::F32, DType::BF16, DType::F16] {
        for bins in [10usize, 15, 20] {
            for first in bins / 2 + 1..bins {
                let p = first as f64 / bins as f64;
                let row = Tensor::new(&[[p, 1.0 - p]], &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
                let mut error = CalibrationError::new(bins).unwrap();
                if error.update(&row, &classes(&[0])).is_err() {
                    continue; // half precision rounds the sum away from 1
                }
                let found = error.bins().iter().position(|bin| bin.count == 1).unwrap();
                assert_eq!(found, first, "{dtype:?}: {p} of {bins}");
                assert_eq!(error.bins()[first].from, p);
            }
        }
    }
    let mut error = CalibrationError::new(1).unwrap();
    error.update(&Tensor::new(&[[1f32, 0.0], [0.5, 0.5]], &Device::Cpu).unwrap(), &classes(&[0, 1])).unwrap();
    assert_eq!(error.bins()[0].count, 2);
}

#[test]
fn an_empty_batch_counts_nothing() {
    let empty = |shape: &[usize], dtype| Tensor::zeros(shape, dtype, &Device::Cpu).unwrap();
    let (scores, targets) = (empty(&[0, 3], DType::F32), empty(&[0], DType::U32));
    let mut metrics: Vec<Box<dyn Metric>> =
        vec![Box::new(Accuracy::default()), Box::new(MeanIou::new(3).unwrap()), Box::new(TopK::new(2).unwrap())];
    for metric in &mut metrics {
        metric.update(&scores, &targets).unwrap();
        let text = metric.compute().unwrap_err().to_string();
        assert!(text.contains("of no examples"), "{}: {text}", metric.name());
        let rows = Tensor::new(&[[0f32, 1.0, 0.5], [2.0, 1.0, 0.0]], &Device::Cpu).unwrap();
        metric.update(&rows, &classes(&[1, 0])).unwrap();
        let before = metric.compute().unwrap();
        metric.update(&scores, &targets).unwrap();
        assert_eq!(metric.compute().unwrap(), before, "{}", metric.name());
    }
    let text = accuracy(&scores, &targets).unwrap_err().to_string();
    assert!(text.contains("accuracy of no examples"), "{text}");
    // Shapes that do not fit are told even so.
    assert!(Accuracy::default().update(&scores, &empty(&[0, 2], DType::U32)).is_err());
}
