//! Class counts and weights, resampling, and imbalance made on purpose.
//!
//! Everything here takes labels and gives weights or indices: pass the indices to
//! [`ImageDataset::select`](crate::data::ImageDataset::select), [`Subset`](crate::data::Subset) or
//! [`SubsetSampler`](crate::data::SubsetSampler). Resample the *training* examples only: a
//! validation or test set must keep the proportions of the world.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::random::Generator;
use crate::sizes;

/// The indices of the examples of every class that occurs, by class, in order. Labels may be any number:
/// a slot for each below the largest would be 100 GB for one label of 2³² − 1.
pub(crate) fn by_class(labels: &[u32]) -> BTreeMap<u32, Vec<usize>> {
    let mut members: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    labels.iter().enumerate().for_each(|(i, &label)| members.entry(label).or_default().push(i));
    members
}

/// [`by_class`], without the classes' numbers.
pub(crate) fn members(labels: &[u32]) -> Vec<Vec<usize>> {
    by_class(labels).into_values().collect()
}

/// How many examples every class has.
///
/// # Errors
/// If a label is not below `classes`, or there cannot be so many.
///
/// # Examples
///
/// ```
/// use candle_course::data::class_counts;
///
/// assert_eq!(class_counts(&[0, 2, 2, 0, 2], 3)?, [2, 0, 3]);
/// assert!(class_counts(&[0, 3], 3).is_err());
/// # Ok::<(), candle_course::error::Error>(())
/// ```
pub fn class_counts(labels: &[u32], classes: usize) -> Result<Vec<usize>> {
    let mut counts = sizes::filled("classes", 0, classes)?;
    for (i, &label) in labels.iter().enumerate() {
        *counts.get_mut(label as usize).ok_or_else(|| {
            Error::argument(
                "labels",
                format!("classes 0 to {}", classes.saturating_sub(1)),
                format!("{label} for example {i}"),
            )
        })? += 1;
    }
    Ok(counts)
}

/// A weight per class for the loss, of how many examples each class has: `N / (C · n_c)`, as scikit-learn's
/// "balanced". Every class then has the same total weight, and the mean weight of the examples is 1.
///
/// # Errors
/// If there is no class, or a class has no example.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let labels = [0, 0, 0, 1];
/// assert_eq!(class_weights(&class_counts(&labels, 2)?)?, [4.0 / 6.0, 2.0]);
/// # Ok::<(), candle_course::Error>(())
/// ```
pub fn class_weights(counts: &[usize]) -> Result<Vec<f64>> {
    every_class(counts)?;
    let total: f64 = counts.iter().map(|&count| count as f64).sum();
    Ok(counts.iter().map(|&count| total / (counts.len() as f64 * count as f64)).collect())
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
    every_class(counts)?;
    if !(0.0..1.0).contains(&beta) {
        return Err(Error::argument("beta", "a number in [0, 1)", beta).hint("0.9, 0.99, 0.999 and 0.9999 are usual"));
    }
    // 1 − β^n = −(e^(n ln β) − 1): no cancellation for β close to 1.
    let effective = |count: usize| if beta == 0.0 { 1.0 } else { -(count as f64 * beta.ln()).exp_m1() / (1.0 - beta) };
    let weights: Vec<f64> = counts.iter().map(|&count| 1.0 / effective(count)).collect();
    let mean = weights.iter().sum::<f64>() / weights.len() as f64;
    Ok(weights.into_iter().map(|weight| weight / mean).collect())
}

fn every_class(counts: &[usize]) -> Result<()> {
    match counts.iter().position(|&count| count == 0) {
        Some(class) => {
            Err(Error::argument("counts", "at least one example of every class", format!("0 of class {class}"))
                .hint("count the labels of the training split; drop a class that never occurs"))
        }
        None if counts.is_empty() => Err(Error::argument("counts", "at least one class", 0)),
        None => Ok(()),
    }
}

/// A weight per example for a sampler: `1 / n` of its class, so that all classes are drawn equally
/// often.
pub fn example_weights(labels: &[u32]) -> Vec<f64> {
    let members = by_class(labels);
    labels.iter().map(|label| 1.0 / members[label].len() as f64).collect()
}

/// Random oversampling: every example, and examples of the smaller classes again and again until
/// every class has as many as the largest. Gives indices, shuffled.
///
/// # Errors
/// If there are no labels.
pub fn oversample(labels: &[u32], seed: u64) -> Result<Vec<usize>> {
    resample(labels, seed, |sizes| sizes.iter().copied().max())
}

/// Random undersampling: of every class as many examples as the smallest has. Gives indices,
/// shuffled.
///
/// # Errors
/// If there are no labels.
pub fn undersample(labels: &[u32], seed: u64) -> Result<Vec<usize>> {
    resample(labels, seed, |sizes| sizes.iter().copied().min())
}

fn resample(labels: &[u32], seed: u64, size: impl Fn(&[usize]) -> Option<usize>) -> Result<Vec<usize>> {
    let members = members(labels);
    let sizes: Vec<usize> = members.iter().map(Vec::len).collect();
    let size = size(&sizes).ok_or_else(|| Error::argument("labels", "at least one", 0))?;
    let mut generator = Generator::new(seed);
    let mut chosen = sizes::room("labels", sizes::product("labels", &[size, members.len()])?)?;
    for mut class in members {
        generator.shuffle(&mut class);
        // Whole copies first: drawing with replacement would leave some examples out.
        chosen.extend(class.iter().cycle().take(size));
    }
    generator.shuffle(&mut chosen);
    Ok(chosen)
}

/// Keeps a fraction of the examples of some classes, at random, and all of the others: an
/// imbalanced set made on purpose. Gives indices, in order.
///
/// # Errors
/// If a fraction is not in 0 to 1, or a class has no examples.
///
/// # Examples
///
/// ```
/// use candle_course::data::{class_counts, imbalance};
///
/// let labels: Vec<u32> = (0..300).map(|i| i % 3).collect();
/// let kept = imbalance(&labels, &[(0, 0.05), (2, 0.5)], 42)?;
/// let kept: Vec<u32> = kept.iter().map(|&i| labels[i]).collect();
/// assert_eq!(class_counts(&kept, 3)?, [5, 100, 50]);
/// # Ok::<(), candle_course::error::Error>(())
/// ```
pub fn imbalance(labels: &[u32], fractions: &[(u32, f64)], seed: u64) -> Result<Vec<usize>> {
    let members = by_class(labels);
    let mut keep: BTreeMap<u32, usize> = members.iter().map(|(&class, members)| (class, members.len())).collect();
    for &(class, fraction) in fractions {
        if !(0.0..=1.0).contains(&fraction) {
            return Err(Error::argument("fractions", "0 to 1", format!("{fraction} for class {class}")));
        }
        let Some(members) = members.get(&class) else {
            return Err(Error::argument("fractions", "classes that have examples", format!("class {class}")));
        };
        keep.insert(class, (members.len() as f64 * fraction).round() as usize);
    }
    Ok(keep_of_each(members, &keep, seed))
}

/// A long-tailed set: class `c` of `C` keeps `n · factor^(-c / (C - 1))` of its examples, from all
/// of class 0 to 1/`factor` of the last ([Cui et al. 2019](https://arxiv.org/abs/1901.05555)).
/// Gives indices, in order.
///
/// # Errors
/// If `factor` is below 1 or there are fewer than two classes.
pub fn long_tail(labels: &[u32], factor: f64, seed: u64) -> Result<Vec<usize>> {
    if !(factor >= 1.0 && factor.is_finite()) {
        return Err(Error::argument("factor", "1 or more (largest class over smallest)", factor));
    }
    let members = by_class(labels);
    let last = match members.keys().next_back() {
        Some(&last) if members.len() > 1 => f64::from(last),
        _ => return Err(Error::argument("labels", "at least two classes", members.len())),
    };
    let share = |class: u32| factor.powf(-f64::from(class) / last);
    let kept = |(&class, members): (&u32, &Vec<usize>)| (class, (members.len() as f64 * share(class)).round() as usize);
    let keep = members.iter().map(kept).collect();
    Ok(keep_of_each(members, &keep, seed))
}

fn keep_of_each(members: BTreeMap<u32, Vec<usize>>, keep: &BTreeMap<u32, usize>, seed: u64) -> Vec<usize> {
    let mut chosen = Vec::new();
    for (class, mut members) in members {
        // A stream per class: cutting one class leaves the choice in the others as it is.
        Generator::stream(seed, &[u64::from(class)]).shuffle(&mut members);
        chosen.extend_from_slice(&members[..keep[&class]]);
    }
    chosen.sort_unstable();
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels() -> Vec<u32> {
        (0..100)
            .map(|i| {
                if i % 10 == 3 {
                    1
                } else if i % 25 == 7 {
                    2
                } else {
                    0
                }
            })
            .collect()
    }

    fn counts(indices: &[usize]) -> Vec<usize> {
        let labels = labels();
        class_counts(&indices.iter().map(|&i| labels[i]).collect::<Vec<_>>(), 3).unwrap()
    }

    #[test]
    fn weights_balance_the_classes() {
        let labels = labels();
        assert_eq!(class_counts(&labels, 3).unwrap(), [86, 10, 4]);
        // sklearn.utils.class_weight.compute_class_weight("balanced", ...) of the same labels.
        let weights = class_weights(&class_counts(&labels, 3).unwrap()).unwrap();
        for (got, expected) in weights.iter().zip([0.3875968992248062, 3.3333333333333335, 8.333333333333334]) {
            assert!((got - expected).abs() < 1e-12);
        }
        let examples = example_weights(&labels);
        for class in 0..3 {
            let sum: f64 = examples.iter().zip(&labels).filter(|(_, label)| **label == class).map(|(w, _)| w).sum();
            assert!((sum - 1.0).abs() < 1e-12);
        }
        assert!(class_weights(&class_counts(&labels, 4).unwrap()).unwrap_err().to_string().contains("0 of class 3"));
        assert!(class_counts(&labels, 2).unwrap_err().to_string().contains("classes 0 to 1, got 2 for example 7"));
    }

    #[test]
    fn class_weights_have_the_known_limits() {
        let counts = [500, 50, 5];
        let flat = class_balanced_weights(&counts, 0.0).unwrap();
        assert!(flat.iter().all(|w| (w - 1.0).abs() < 1e-12));
        let steep = class_balanced_weights(&counts, 1.0 - 1e-12).unwrap();
        let inverse = class_weights(&counts).unwrap();
        for (a, b) in steep.iter().zip(&inverse) {
            assert!((a / steep[0] - b / inverse[0]).abs() < 1e-3 * b / inverse[0]);
        }
        assert!(class_balanced_weights(&[5, 1], 1.0).unwrap_err().to_string().contains("a number in [0, 1), got 1"));
        // sklearn.utils.class_weight.compute_class_weight("balanced", …): n / (classes · count)
        assert!((inverse[1] - 555.0 / 150.0).abs() < 1e-12);
        // The authors' formula, (1 − β) / (1 − β^n) scaled to a mean of 1, in exact fractions.
        let weights = class_balanced_weights(&counts, 0.99).unwrap();
        for (weight, expected) in
            weights.iter().zip([0.126_129_883_280_415_97, 0.317_222_971_282_472_95, 2.556_647_145_437_111])
        {
            assert!((weight - expected).abs() < 1e-12 * expected, "{weights:?}");
        }
    }

    #[test]
    fn resampling_makes_classes_equal() {
        let labels = labels();
        let over = oversample(&labels, 1).unwrap();
        assert_eq!(counts(&over), [86, 86, 86]);
        let distinct: std::collections::HashSet<_> = over.iter().collect();
        assert_eq!(distinct.len(), 100, "no example is lost");
        let under = undersample(&labels, 1).unwrap();
        assert_eq!(counts(&under), [4, 4, 4]);
        let distinct: std::collections::HashSet<_> = under.iter().collect();
        assert_eq!(distinct.len(), 12, "none comes twice");
        assert_eq!(undersample(&labels, 1).unwrap(), under);
        assert_ne!(undersample(&labels, 2).unwrap(), under);
        assert!(oversample(&[], 1).is_err());
    }

    #[test]
    fn imbalance_is_made_as_asked() {
        let labels = labels();
        assert_eq!(counts(&imbalance(&labels, &[(0, 0.5)], 1).unwrap()), [43, 10, 4]);
        assert_eq!(counts(&imbalance(&labels, &[], 1).unwrap()), [86, 10, 4]);
        assert!(imbalance(&labels, &[(0, 1.5)], 1).unwrap_err().to_string().contains("1.5 for class 0"));
        assert!(imbalance(&labels, &[(5, 0.5)], 1).unwrap_err().to_string().contains("class 5"));
        let even: Vec<u32> = (0..1000).map(|i| i % 10).collect();
        let tail = long_tail(&even, 100.0, 3).unwrap();
        let tail = class_counts(&tail.iter().map(|&i| even[i]).collect::<Vec<_>>(), 10).unwrap();
        // round(100 · 100^(-c/9))
        assert_eq!(tail, [100, 60, 36, 22, 13, 8, 5, 3, 2, 1]);
        assert!(long_tail(&even, 0.5, 3).unwrap_err().to_string().contains("`factor`"));
        assert!(long_tail(&[0, 0], 2.0, 3).is_err());
    }
}
