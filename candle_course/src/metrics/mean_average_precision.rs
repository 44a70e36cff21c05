//! Mean average precision of detections.

use std::collections::BTreeSet;

use candle_core::Tensor;
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::metrics::boxes::{Corners, corners, iou};
use crate::metrics::input::{labels, numbers};

/// The boxes of one image: detections with scores, or the truth without.
#[derive(Debug, Clone)]
pub struct Boxes {
    boxes: Vec<Corners>,
    labels: Vec<i64>,
    scores: Vec<f64>,
}

impl Boxes {
    /// What is really there. `boxes`: `[M, 4]`, corners x1, y1, x2, y2; `labels`: `[M]`, classes.
    ///
    /// # Errors
    /// If the shapes do not fit, or corners are swapped.
    pub fn truth(boxes: &Tensor, classes: &Tensor) -> Result<Self> {
        let boxes = corners("boxes", boxes)?;
        let labels = labels("labels", classes)?;
        if labels.len() != boxes.len() {
            return Err(Error::argument("labels", format!("one per box, {}", boxes.len()), labels.len()));
        }
        Ok(Self { boxes, labels, scores: Vec::new() })
    }

    /// What was detected. `boxes`: `[N, 4]`; `labels`: `[N]`; `scores`: `[N]`, larger is surer.
    ///
    /// # Errors
    /// If the shapes do not fit, corners are swapped, or a score is NaN.
    pub fn detected(boxes: &Tensor, classes: &Tensor, scores: &Tensor) -> Result<Self> {
        let mut detected = Self::truth(boxes, classes)?;
        detected.scores = numbers("scores", scores)?;
        if detected.scores.len() != detected.boxes.len() || detected.scores.iter().any(|s| s.is_nan()) {
            return Err(Error::argument("scores", format!("one number per box, {}", detected.boxes.len()), {
                format!(
                    "{} of which {} NaN",
                    detected.scores.len(),
                    detected.scores.iter().filter(|s| s.is_nan()).count()
                )
            }));
        }
        Ok(detected)
    }
}

/// What [`MeanAveragePrecision`] found.
#[derive(Debug, Clone, PartialEq)]
pub struct PrecisionSummary {
    /// Mean over classes and IoU thresholds 0.50, 0.55, …, 0.95: COCO's main number.
    pub map: f64,
    /// At an IoU of 0.50, the number of PASCAL VOC.
    pub map_50: f64,
    /// At an IoU of 0.75.
    pub map_75: f64,
    /// Each class that occurs in the truth, and its mean over the ten thresholds.
    pub per_class: Vec<(i64, f64)>,
}

/// Mean average precision as COCO computes it (pycocotools, torchmetrics): 101-point interpolated
/// precision, IoU thresholds 0.50 to 0.95, at most 100 detections per image and class.
///
/// Detections are matched by falling score, each to the free true box of its class and image
/// with the largest IoU, if that reaches the threshold. Classes that never occur in the truth do
/// not enter the mean. There is no suppression of overlapping detections: a second detection of
/// one object is a false positive. (Lin et al., "Microsoft COCO", 2014.)
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let truth = Boxes::truth(&Tensor::new(&[[0f32, 0., 10., 10.]], &Device::Cpu)?, &Tensor::new(&[1u32], &Device::Cpu)?)?;
/// let detected = Boxes::detected(
///     &Tensor::new(&[[0f32, 0., 10., 8.]], &Device::Cpu)?, // IoU 0.8
///     &Tensor::new(&[1u32], &Device::Cpu)?,
///     &Tensor::new(&[0.9f32], &Device::Cpu)?,
/// )?;
/// let mut metric = MeanAveragePrecision::new();
/// metric.update(detected, truth)?;
/// let summary = metric.compute()?;
/// assert_eq!(summary.map_50, 1.0);
/// assert!((summary.map - 0.7).abs() < 1e-9); // right at 0.50, 0.55, …, 0.80
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct MeanAveragePrecision {
    images: Vec<(Boxes, Boxes)>,
}

const MAXIMUM_DETECTIONS: usize = 100;
const THRESHOLDS: usize = 10;

impl MeanAveragePrecision {
    /// Of no images yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in one image. Both may be without boxes.
    ///
    /// # Errors
    /// If the detections have no scores.
    pub fn update(&mut self, detected: Boxes, truth: Boxes) -> Result<()> {
        if detected.scores.len() != detected.boxes.len() {
            return Err(Error::argument("detected", "boxes with scores", "boxes without")
                .hint("use `Boxes::detected`; are detections and truth swapped?"));
        }
        self.images.push((detected, truth));
        Ok(())
    }

    /// Adds the images of `other`.
    pub fn merge(&mut self, other: &Self) {
        self.images.extend(other.images.iter().cloned());
    }

    /// Forgets everything.
    pub fn reset(&mut self) {
        self.images.clear();
    }

    /// The value over everything since the last reset.
    ///
    /// # Errors
    /// If there is no true box.
    pub fn compute(&self) -> Result<PrecisionSummary> {
        let classes: BTreeSet<i64> = self.images.iter().flat_map(|(_, truth)| truth.labels.iter().copied()).collect();
        if classes.is_empty() {
            return Err(Error::undefined("mean average precision without a true box"));
        }
        let classes: Vec<i64> = classes.into_iter().collect();
        let precisions: Vec<[f64; THRESHOLDS]> =
            classes.par_iter().map(|&class| self.average_precisions(class)).collect();
        let mean = |threshold: usize| precisions.iter().map(|p| p[threshold]).sum::<f64>() / classes.len() as f64;
        let over_thresholds = |p: &[f64; THRESHOLDS]| p.iter().sum::<f64>() / THRESHOLDS as f64;
        Ok(PrecisionSummary {
            map: precisions.iter().map(over_thresholds).sum::<f64>() / classes.len() as f64,
            map_50: mean(0),
            map_75: mean(5),
            per_class: classes.iter().copied().zip(precisions.iter().map(over_thresholds)).collect(),
        })
    }

    fn average_precisions(&self, class: i64) -> [f64; THRESHOLDS] {
        let mut positives = 0;
        // Of every detection its score, and whether it is right at each threshold.
        let mut found: Vec<(f64, [bool; THRESHOLDS])> = Vec::new();
        for (detected, truth) in &self.images {
            let of_class = |boxes: &Boxes| -> Vec<usize> {
                (0..boxes.labels.len()).filter(|&i| boxes.labels[i] == class).collect()
            };
            let truths: Vec<Corners> = of_class(truth).into_iter().map(|i| truth.boxes[i]).collect();
            positives += truths.len();
            let mut detections = of_class(detected);
            detections.sort_by(|&a, &b| detected.scores[b].total_cmp(&detected.scores[a]));
            detections.truncate(MAXIMUM_DETECTIONS);
            let mut taken = vec![[false; THRESHOLDS]; truths.len()];
            for i in detections {
                let overlaps: Vec<f64> = truths.iter().map(|t| iou(&detected.boxes[i], t)).collect();
                let mut right = [false; THRESHOLDS];
                for (k, right) in right.iter_mut().enumerate() {
                    // pycocotools: the last of equal overlaps wins, and 0.05 steps are decimals.
                    let mut best = (0.5 + 0.05 * k as f64).min(1.0 - 1e-10);
                    let mut matched = None;
                    for (j, &overlap) in overlaps.iter().enumerate() {
                        if !taken[j][k] && overlap >= best {
                            (best, matched) = (overlap, Some(j));
                        }
                    }
                    if let Some(j) = matched {
                        taken[j][k] = true;
                        *right = true;
                    }
                }
                found.push((detected.scores[i], right));
            }
        }
        found.sort_by(|a, b| b.0.total_cmp(&a.0));
        std::array::from_fn(|k| interpolated(&found.iter().map(|(_, right)| right[k]).collect::<Vec<_>>(), positives))
    }
}

/// Mean over recalls 0, 0.01, …, 1 of the best precision at that recall or above.
fn interpolated(right: &[bool], positives: usize) -> f64 {
    let (mut recalls, mut precisions, mut count) = (Vec::new(), Vec::new(), 0);
    for (i, &right) in right.iter().enumerate() {
        count += usize::from(right);
        recalls.push(count as f64 / positives as f64);
        precisions.push(count as f64 / (i + 1) as f64);
    }
    for i in (1..precisions.len()).rev() {
        precisions[i - 1] = precisions[i - 1].max(precisions[i]);
    }
    let at = |i: usize| {
        let recall = i as f64 / 100.0;
        precisions.get(recalls.partition_point(|&r| r < recall)).copied().unwrap_or(0.0)
    };
    (0..=100).map(at).sum::<f64>() / 101.0
}
