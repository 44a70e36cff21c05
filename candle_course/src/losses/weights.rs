//! Class weights against imbalance.

use crate::error::{Error, Result};

fn checked(counts: &[usize]) -> Result<()> {
    match counts.iter().position(|&count| count == 0) {
        Some(class) => {
            Err(Error::argument("counts", "at least one example of every class", format!("0 of class {class}"))
                .hint("count the labels of the training split; drop a class that never occurs"))
        }
        None if counts.is_empty() => Err(Error::argument("counts", "at least one class", 0)),
        None => Ok(()),
    }
}

fn with_mean_one(weights: Vec<f64>) -> Vec<f64> {
    let mean = weights.iter().sum::<f64>() / weights.len() as f64;
    weights.into_iter().map(|weight| weight / mean).collect()
}

/// N / (C n_c) per class, as scikit-learn's `class_weight="balanced"`: every class weighs the same in all.
///
/// # Errors
/// If there is no class, or a class has no example.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// assert_eq!(inverse_frequency_weights(&[90, 10])?, [100.0 / 180.0, 5.0]);
/// # Ok::<(), candle_course::Error>(())
/// ```
pub fn inverse_frequency_weights(counts: &[usize]) -> Result<Vec<f64>> {
    checked(counts)?;
    let total: usize = counts.iter().sum();
    Ok(counts.iter().map(|&count| total as f64 / (counts.len() * count) as f64).collect())
}

/// Class-balanced weights by the effective number of examples, (1 − β) / (1 − β^n_c), scaled to a mean of 1.
///
/// The effective number (1 − β^n)/(1 − β) stops growing at about 1/(1 − β): the ten-thousandth
/// picture of a class adds little. β = 0 weighs all classes alike, β → 1 by inverse frequency.
/// (Cui et al., "Class-balanced loss based on effective number of samples", 2019.)
///
/// # Errors
/// If there is no class, a class has no example, or `beta` is not in [0, 1).
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let weights = class_balanced_weights(&[9000, 100], 0.999)?;
/// assert!((weights.iter().sum::<f64>() - 2.0).abs() < 1e-12);
/// assert!(weights[1] / weights[0] > 10.0 && weights[1] / weights[0] < 11.0); // not 90
/// # Ok::<(), candle_course::Error>(())
/// ```
pub fn class_balanced_weights(counts: &[usize], beta: f64) -> Result<Vec<f64>> {
    checked(counts)?;
    if !(0.0..1.0).contains(&beta) {
        return Err(Error::argument("beta", "a number in [0, 1)", beta).hint("0.9, 0.99, 0.999 and 0.9999 are usual"));
    }
    // 1 − β^n = −(e^(n ln β) − 1): no cancellation for β close to 1.
    let effective = |count: usize| if beta == 0.0 { 1.0 } else { -(count as f64 * beta.ln()).exp_m1() / (1.0 - beta) };
    Ok(with_mean_one(counts.iter().map(|&count| 1.0 / effective(count)).collect()))
}
