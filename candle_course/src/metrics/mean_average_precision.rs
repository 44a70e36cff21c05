//! Mean average precision of detections.

use std::collections::BTreeSet;

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::metrics::boxes::{Corners, corners, iou};
use crate::metrics::input::{labels, numbers};
use crate::metrics::state::{Part, another};
use crate::stateful::{Expected, State, Stateful, compare};

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
        // −0 is 0: they must tie.
        detected.scores = numbers("scores", scores)?.into_iter().map(|score| score + 0.0).collect();
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

    fn need_scores(&self) -> Result<()> {
        if self.scores.len() != self.boxes.len() {
            return Err(Error::argument("detected", "boxes with scores", "boxes without")
                .hint("use `Boxes::detected`; are detections and truth swapped?"));
        }
        Ok(())
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
/// one object is a false positive; see [`match_boxes`].
///
/// Of equal scores the one that comes first in its own image counts as the surer one, and of several
/// images' the wrong one: the value does not depend on the order of the images. (Lin et al., "Microsoft COCO", 2014.)
///
/// The recalls are i / 100. pycocotools alone takes i · 0.01, ten of which lie above that by their
/// last bit, so that a recall of exactly 7/20 does not reach its 0.35; torchmetrics hands it others,
/// rounded to f32. Where the recall of a class is such a number, they differ in the fifth digit.
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
/// let mut metric = MeanAveragePrecision::default();
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

const COLUMNS: usize = 7;

impl Stateful for MeanAveragePrecision {
    fn state(&self) -> Result<State> {
        let images = (self.images.len() as u64).tensor()?;
        let (detected, truth) = (self.rows(|image| &image.0)?, self.rows(|image| &image.1)?);
        Ok([("images".to_owned(), images), ("detected".to_owned(), detected), ("truth".to_owned(), truth)].into())
    }

    fn load_state(&mut self, state: &State) -> Result<()> {
        let rows = |name: &str| state.get(name).and_then(|rows| rows.dims().first().copied()).unwrap_or(0);
        let expected = |name: &'static str| (name, Expected::new(&[rows(name), COLUMNS], DType::F64));
        let what = "this is not the state of a mean average precision";
        compare(what, state, [("images", 0u64.expected()), expected("detected"), expected("truth")])?;
        let empty = || Boxes { boxes: Vec::new(), labels: Vec::new(), scores: Vec::new() };
        let count = u64::read(&state["images"])?;
        let mut images: Vec<(Boxes, Boxes)> = (0..count).map(|_| (empty(), empty())).collect();
        for (name, scored) in [("detected", true), ("truth", false)] {
            for row in state[name].to_vec2::<f64>()? {
                let image = images.get_mut(row[0] as usize);
                let image = image.ok_or_else(|| Error::checkpoint(format!("{what}: image {} of {count}", row[0])))?;
                let boxes = if scored { &mut image.0 } else { &mut image.1 };
                boxes.boxes.push([row[1], row[2], row[3], row[4]]);
                boxes.labels.push(row[5] as i64);
                boxes.scores.extend(scored.then_some(row[6]));
            }
        }
        self.images = images;
        Ok(())
    }
}

const MAXIMUM_DETECTIONS: usize = 100;
const THRESHOLDS: usize = 10;

impl MeanAveragePrecision {
    /// Takes in one image. Both may be without boxes.
    ///
    /// # Errors
    /// If the detections have no scores.
    pub fn update(&mut self, detected: Boxes, truth: Boxes) -> Result<()> {
        detected.need_scores()?;
        self.images.push((detected, truth));
        Ok(())
    }

    /// Adds the images of another metric, whose state this is.
    ///
    /// # Errors
    /// If it is not the state of one; nothing is added then.
    pub fn merge(&mut self, other: &State) -> Result<()> {
        self.images.extend(another(self, other)?.images);
        Ok(())
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

    /// A row per box: image, corners, class, score (0 for the truth).
    fn rows(&self, of: impl Fn(&(Boxes, Boxes)) -> &Boxes) -> Result<Tensor> {
        let mut rows = Vec::new();
        for (image, Boxes { boxes, labels, scores }) in self.images.iter().map(of).enumerate() {
            for (i, corners) in boxes.iter().enumerate() {
                let score = scores.get(i).copied().unwrap_or(0.0);
                rows.extend([&[image as f64], &corners[..], &[labels[i] as f64, score]].concat());
            }
        }
        let count = rows.len() / COLUMNS;
        Ok(Tensor::from_vec(rows, (count, COLUMNS), &Device::Cpu)?)
    }

    fn average_precisions(&self, class: i64) -> [f64; THRESHOLDS] {
        let mut positives = 0;
        // Of every detection its score, its place in its image, and whether it is right at each threshold.
        let mut found: Vec<(f64, usize, [bool; THRESHOLDS])> = Vec::new();
        for (detected, truth) in &self.images {
            let of_class = |boxes: &Boxes| -> Vec<usize> {
                (0..boxes.labels.len()).filter(|&i| boxes.labels[i] == class).collect()
            };
            let truths: Vec<Corners> = of_class(truth).into_iter().map(|i| truth.boxes[i]).collect();
            positives += truths.len();
            let mut detections = of_class(detected);
            detections.sort_by(|&a, &b| detected.scores[b].total_cmp(&detected.scores[a]));
            detections.truncate(MAXIMUM_DETECTIONS);
            let overlap = |&i: &usize| truths.iter().map(|truth| iou(&detected.boxes[i], truth)).collect();
            let overlaps: Vec<Vec<f64>> = detections.iter().map(overlap).collect();
            let matches: [Vec<Option<usize>>; THRESHOLDS] = std::array::from_fn(|k| greedy(&overlaps, threshold(k)));
            for (place, &i) in detections.iter().enumerate() {
                let right = std::array::from_fn(|k| matches[k][place].is_some());
                found.push((detected.scores[i], place, right));
            }
        }
        std::array::from_fn(|k| {
            // Nothing here knows the order of the images.
            let mut order: Vec<_> = found.iter().map(|(score, place, right)| (*score, *place, right[k])).collect();
            order.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)).then(a.2.cmp(&b.2)));
            interpolated(&order.into_iter().map(|(_, _, right)| right).collect::<Vec<_>>(), positives)
        })
    }
}

/// COCO's thresholds 0.50, 0.55, …, 0.95, to the last bit those of `numpy.linspace`.
fn threshold(k: usize) -> f64 {
    if k + 1 == THRESHOLDS { 0.95 } else { 0.5 + k as f64 * ((0.95 - 0.5) / (THRESHOLDS - 1) as f64) }
}

/// Which column each row takes, rows in turn: the free one of the largest overlap that reaches
/// `threshold`, the last of equal ones (as pycocotools).
fn greedy(overlaps: &[Vec<f64>], threshold: f64) -> Vec<Option<usize>> {
    let mut taken = vec![false; overlaps.first().map_or(0, Vec::len)];
    let take = |row: &Vec<f64>| {
        let (mut best, mut matched) = (threshold.min(1.0 - 1e-10), None);
        for (j, &overlap) in row.iter().enumerate() {
            if !taken[j] && overlap >= best {
                (best, matched) = (overlap, Some(j));
            }
        }
        if let Some(j) = matched {
            taken[j] = true;
        }
        matched
    };
    overlaps.iter().map(take).collect()
}

/// Which true box each detection of an image finds: its index, or `None` for a false positive.
///
/// By falling score (of equal ones in their order), each detection takes the free true box of its
/// class with the largest IoU, if that is at least `threshold`; of equal IoUs the last. No
/// detection is suppressed: a second one of the same object finds nothing. What is left of the
/// truth was missed.
///
/// # Errors
/// If the detections have no scores, or the threshold is not in (0, 1].
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let device = &Device::Cpu;
/// let truth = Boxes::truth(&Tensor::new(&[[0f32, 0., 10., 10.]], device)?, &Tensor::new(&[1u32], device)?)?;
/// let detected = Boxes::detected(
///     &Tensor::new(&[[0f32, 0., 10., 8.], [0., 0., 10., 9.], [50., 50., 60., 60.]], device)?,
///     &Tensor::new(&[1u32, 1, 1], device)?,
///     &Tensor::new(&[0.6f32, 0.9, 0.3], device)?,
/// )?;
/// assert_eq!(match_boxes(&detected, &truth, 0.5)?, [None, Some(0), None]);
/// # Ok::<(), candle_course::Error>(())
/// ```
pub fn match_boxes(detected: &Boxes, truth: &Boxes, threshold: f64) -> Result<Vec<Option<usize>>> {
    detected.need_scores()?;
    if !(threshold > 0.0 && threshold <= 1.0) {
        return Err(Error::argument("threshold", "an IoU in (0, 1]", threshold));
    }
    let mut order: Vec<usize> = (0..detected.boxes.len()).collect();
    order.sort_by(|&a, &b| detected.scores[b].total_cmp(&detected.scores[a]));
    let overlap = |i: usize, j: usize| {
        // Below every threshold: a box of another class is none.
        if detected.labels[i] == truth.labels[j] { iou(&detected.boxes[i], &truth.boxes[j]) } else { -1.0 }
    };
    let overlaps: Vec<Vec<f64>> =
        order.iter().map(|&i| (0..truth.boxes.len()).map(|j| overlap(i, j)).collect()).collect();
    let mut matches = vec![None; order.len()];
    for (i, matched) in order.into_iter().zip(greedy(&overlaps, threshold)) {
        matches[i] = matched;
    }
    Ok(matches)
}

/// [`MeanAveragePrecision`] of images: a pair of detections and truth each.
///
/// # Errors
/// As [`MeanAveragePrecision`].
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let (boxes, labels) = (Tensor::new(&[[0f32, 0., 10., 10.]], &Device::Cpu)?, Tensor::new(&[1u32], &Device::Cpu)?);
/// let detected = Boxes::detected(&boxes, &labels, &Tensor::new(&[0.9f32], &Device::Cpu)?)?;
/// let summary = mean_average_precision([(detected, Boxes::truth(&boxes, &labels)?)])?;
/// assert_eq!(summary.map, 1.0);
/// # Ok::<(), candle_course::Error>(())
/// ```
pub fn mean_average_precision(images: impl IntoIterator<Item = (Boxes, Boxes)>) -> Result<PrecisionSummary> {
    let mut metric = MeanAveragePrecision::default();
    for (detected, truth) in images {
        metric.update(detected, truth)?;
    }
    metric.compute()
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
        // Not i · 0.01, which is above 35/100 and nine more by its last bit, so that it misses a recall of 7/20.
        let recall = i as f64 / 100.0;
        precisions.get(recalls.partition_point(|&r| r < recall)).copied().unwrap_or(0.0)
    };
    (0..=100).map(at).sum::<f64>() / 101.0
}
