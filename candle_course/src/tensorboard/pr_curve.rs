//! Precision-recall curves over fixed thresholds.

use crate::error::{Error, Result};

/// Thresholds of a curve, evenly from 0 to 1; TensorBoard's own default.
pub(super) const THRESHOLDS: usize = 127;

/// Six rows of [`THRESHOLDS`] values: true positives, false positives, true negatives, false
/// negatives, precision and recall of `score ≥ threshold`.
pub(super) fn pr_curve(labels: &[f64], scores: &[f64]) -> Result<Vec<f32>> {
    if labels.is_empty() || labels.len() != scores.len() {
        return Err(Error::argument(
            "labels and scores",
            "as many of each, at least one",
            format!("{} and {}", labels.len(), scores.len()),
        ));
    }
    if let Some(bad) = labels.iter().find(|&&label| label != 0.0 && label != 1.0) {
        return Err(Error::argument("labels", "0 or 1", bad).hint("a curve is of one class against the rest"));
    }
    if let Some(bad) = scores.iter().find(|score| !(0.0..=1.0).contains(*score)) {
        return Err(
            Error::argument("scores", "probabilities in [0, 1]", bad).hint("did you forget the sigmoid or softmax?")
        );
    }
    let last = THRESHOLDS - 1;
    let (mut positives, mut negatives) = ([0f64; THRESHOLDS], [0f64; THRESHOLDS]);
    for (&label, &score) in labels.iter().zip(scores) {
        let bin = (score * last as f64).floor() as usize;
        if label == 1.0 { positives[bin] += 1.0 } else { negatives[bin] += 1.0 }
    }
    // Summed from the top: how many reach each threshold.
    for bin in (0..last).rev() {
        positives[bin] += positives[bin + 1];
        negatives[bin] += negatives[bin + 1];
    }
    let mut rows = vec![0f32; 6 * THRESHOLDS];
    for bin in 0..THRESHOLDS {
        let (tp, fp) = (positives[bin], negatives[bin]);
        let (fnegative, tn) = (positives[0] - tp, negatives[0] - fp);
        // As TensorBoard: where nothing is predicted positive, precision shows as 0.
        let precision = tp / (tp + fp).max(1e-7);
        let recall = tp / positives[0].max(1e-7);
        for (row, value) in [tp, fp, tn, fnegative, precision, recall].into_iter().enumerate() {
            rows[row * THRESHOLDS + bin] = value as f32;
        }
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_agree_with_counting() {
        let scores: Vec<f64> = (0..400).map(|i| f64::from(i * 7919 % 1000) / 999.0).collect();
        let labels: Vec<f64> =
            scores.iter().enumerate().map(|(i, s)| f64::from(u8::from(s + (i % 3) as f64 * 0.2 > 0.7))).collect();
        let rows = pr_curve(&labels, &scores).unwrap();
        for bin in [0, 1, 40, 63, 126] {
            let threshold = bin as f64 / 126.0;
            let predicted = |score: &f64| (score * 126.0).floor() >= threshold * 126.0;
            let count = |label: f64, positive: bool| {
                labels.iter().zip(&scores).filter(|(l, s)| **l == label && predicted(s) == positive).count() as f32
            };
            let (tp, fp) = (count(1.0, true), count(0.0, true));
            assert_eq!(rows[bin], tp);
            assert_eq!(rows[THRESHOLDS + bin], fp);
            assert_eq!(rows[2 * THRESHOLDS + bin], count(0.0, false));
            assert_eq!(rows[3 * THRESHOLDS + bin], count(1.0, false));
            if tp + fp > 0.0 {
                assert!((rows[4 * THRESHOLDS + bin] - tp / (tp + fp)).abs() < 1e-6);
            }
        }
        assert_eq!(rows[5 * THRESHOLDS], 1.0, "everything is found at threshold 0");
    }

    #[test]
    fn logits_and_classes_are_rejected() {
        assert!(pr_curve(&[0.0, 1.0], &[0.5, 3.0]).unwrap_err().to_string().contains("sigmoid"));
        assert!(pr_curve(&[0.0, 2.0], &[0.5, 0.5]).unwrap_err().to_string().contains("against the rest"));
        assert!(pr_curve(&[], &[]).is_err());
    }
}
