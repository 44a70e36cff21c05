//! Sampling by weight.

use crate::data::Sampler;
use crate::error::{Error, Result};
use crate::random::Generator;
use crate::setters::setters;
use crate::sizes;

/// Draws examples with probabilities in proportion to their weights.
///
/// *With replacement* (the default) every draw is independent: example `i` comes with probability
/// `wᵢ / Σw` each time, so rare examples with large weights come several times an epoch. *Without
/// replacement* a drawn example is taken out and the weights of the rest decide the next draw; this
/// is done with exponential keys, which has the same law ([Efraimidis and Spirakis
/// 2006](https://doi.org/10.1016/j.ipl.2005.11.003)).
///
/// # Examples
///
/// ```
/// use candle_course::data::{Sampler, WeightedRandomSampler, example_weights};
///
/// // Nine of class 0, one of class 1: the weights 1/count make both equally frequent.
/// let labels = [0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
/// let sampler = WeightedRandomSampler::builder(&example_weights(&labels)).samples(1000).seed(42).build()?;
/// let rare = sampler.indices(0)?.iter().filter(|&&index| index == 9).count();
/// assert!((450..550).contains(&rare));
/// # Ok::<(), candle_course::error::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct WeightedRandomSampler {
    weights: Vec<f64>,
    /// Running sums of the weights.
    cumulative: Vec<f64>,
    samples: usize,
    replacement: bool,
    seed: u64,
}

/// Configures a [`WeightedRandomSampler`].
#[derive(Debug, Clone)]
pub struct WeightedRandomSamplerBuilder {
    weights: Vec<f64>,
    samples: Option<usize>,
    replacement: bool,
    seed: u64,
}

impl WeightedRandomSampler {
    /// Draws by `weights`, one per example; they need not sum to 1. As many draws as weights, with
    /// replacement, from seed 0, unless told otherwise.
    pub fn builder(weights: &[f64]) -> WeightedRandomSamplerBuilder {
        WeightedRandomSamplerBuilder { weights: weights.to_vec(), samples: None, replacement: true, seed: 0 }
    }
}

impl WeightedRandomSamplerBuilder {
    setters! {
        /// How many draws an epoch has.
        samples(samples: usize) => samples = Some(samples);
        /// Whether an example may come more than once an epoch.
        replacement(replacement: bool) => replacement = replacement;
        /// The seed of all draws.
        seed(seed: u64) => seed = seed;
    }

    /// The sampler.
    ///
    /// # Errors
    /// If there are no weights, a weight is negative or not finite, all are 0, or there are fewer
    /// positive weights than draws without replacement.
    pub fn build(self) -> Result<WeightedRandomSampler> {
        if self.weights.is_empty() {
            return Err(Error::argument("weights", "one per example", "none"));
        }
        if let Some((i, bad)) = self.weights.iter().enumerate().find(|(_, w)| !(w.is_finite() && **w >= 0.0)) {
            return Err(Error::argument("weights", "finite numbers, 0 or more", format!("{bad} for example {i}"))
                .hint("was a class without examples divided by its count?"));
        }
        let positive = self.weights.iter().filter(|&&weight| weight > 0.0).count();
        if positive == 0 {
            return Err(Error::argument("weights", "at least one above 0", "all 0"));
        }
        let samples = self.samples.unwrap_or(self.weights.len());
        if samples == 0 {
            return Err(Error::argument("samples", "at least 1", 0));
        }
        if !self.replacement && samples > positive {
            return Err(Error::argument(
                "samples",
                format!("at most {positive}, the examples with a weight above 0, without replacement"),
                samples,
            ));
        }
        let cumulative: Vec<f64> = self
            .weights
            .iter()
            .scan(0.0, |sum, weight| {
                *sum += weight;
                Some(*sum)
            })
            .collect();
        if cumulative.last().is_none_or(|sum| !sum.is_finite()) {
            return Err(Error::argument("weights", "numbers whose sum is finite", "a sum of infinity"));
        }
        Ok(WeightedRandomSampler {
            weights: self.weights,
            cumulative,
            samples,
            replacement: self.replacement,
            seed: self.seed,
        })
    }
}

impl Sampler for WeightedRandomSampler {
    fn indices(&self, epoch: usize) -> Result<Vec<usize>> {
        let mut generator = Generator::stream(self.seed, &[epoch as u64]);
        if self.replacement {
            let total = self.cumulative.last().copied().unwrap_or_default();
            let draw = |_| {
                let at = generator.uniform() * total;
                // The first running sum above the draw; an example of weight 0 never has it.
                let index = self.cumulative.partition_point(|&sum| sum <= at);
                // Rounding can put a draw on the very end.
                index.min(self.cumulative.partition_point(|&sum| sum < total))
            };
            sizes::check::<usize>("samples", self.samples)?;
            return Ok((0..self.samples).map(draw).collect());
        }
        let mut keys: Vec<(f64, usize)> = self
            .weights
            .iter()
            .enumerate()
            .filter(|(_, weight)| **weight > 0.0)
            .map(|(index, weight)| (generator.exponential() / weight, index))
            .collect();
        keys.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        Ok(keys.into_iter().take(self.samples).map(|(_, index)| index).collect())
    }

    fn possible(&self) -> Result<Vec<usize>> {
        Ok((0..self.weights.len()).filter(|&index| self.weights[index] > 0.0).collect())
    }

    fn len(&self) -> usize {
        self.samples
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    /// Σ (observed - expected)² / expected.
    fn chi_squared(observed: &[usize], expected: &[f64]) -> f64 {
        observed.iter().zip(expected).map(|(&o, &e)| (o as f64 - e).powi(2) / e).sum()
    }

    #[test]
    fn draws_with_replacement_have_the_right_frequencies() {
        let weights = [1.0, 0.0, 2.0, 5.0, 0.5, 1.5];
        let sampler = WeightedRandomSampler::builder(&weights).samples(50_000).seed(3).build().unwrap();
        let mut counts = [0; 6];
        sampler.indices(2).unwrap().into_iter().for_each(|index| counts[index] += 1);
        assert_eq!(counts[1], 0);
        assert_eq!(sampler.possible().unwrap(), [0, 2, 3, 4, 5]);
        let pick = |values: &[f64]| -> Vec<f64> { [0, 2, 3, 4, 5].iter().map(|&i| values[i]).collect() };
        let observed: Vec<usize> = [0, 2, 3, 4, 5].iter().map(|&i| counts[i]).collect();
        let expected: Vec<f64> = pick(&weights).iter().map(|w| w / 10.0 * 50_000.0).collect();
        // The 99.9 % quantile of chi-squared with 4 degrees of freedom.
        let statistic = chi_squared(&observed, &expected);
        assert!(statistic < 18.47, "{statistic} {counts:?}");
    }

    #[test]
    fn draws_without_replacement_follow_successive_sampling() {
        let weights = [1.0, 2.0, 3.0, 4.0];
        let sampler = WeightedRandomSampler::builder(&weights).samples(2).replacement(false).seed(5).build().unwrap();
        let epochs = 24_000;
        let mut counts: HashMap<(usize, usize), usize> = HashMap::new();
        for epoch in 0..epochs {
            let drawn = sampler.indices(epoch).unwrap();
            *counts.entry((drawn[0], drawn[1])).or_default() += 1;
        }
        let mut observed = Vec::new();
        let mut expected = Vec::new();
        for first in 0..4 {
            for second in (0..4).filter(|&second| second != first) {
                observed.push(counts.get(&(first, second)).copied().unwrap_or(0));
                let probability = weights[first] / 10.0 * weights[second] / (10.0 - weights[first]);
                expected.push(epochs as f64 * probability);
            }
        }
        assert_eq!(observed.iter().sum::<usize>(), epochs);
        // The 99.9 % quantile of chi-squared with 11 degrees of freedom.
        let statistic = chi_squared(&observed, &expected);
        assert!(statistic < 31.26, "{statistic} {observed:?}");
    }

    #[test]
    fn draws_are_pure_in_seed_and_epoch() {
        for replacement in [true, false] {
            let sampler = |seed| {
                WeightedRandomSampler::builder(&[1.0; 50])
                    .samples(20)
                    .replacement(replacement)
                    .seed(seed)
                    .build()
                    .unwrap()
            };
            assert_eq!(sampler(1).indices(3).unwrap(), sampler(1).indices(3).unwrap());
            assert_ne!(sampler(1).indices(3).unwrap(), sampler(1).indices(4).unwrap());
            assert_ne!(sampler(1).indices(3).unwrap(), sampler(2).indices(3).unwrap());
            assert_eq!(sampler(1).indices(0).unwrap().len(), 20);
        }
    }

    #[test]
    fn bad_weights_are_explained() {
        let text = |weights: &[f64]| WeightedRandomSampler::builder(weights).build().unwrap_err().to_string();
        assert!(text(&[1.0, -1.0]).contains("finite numbers, 0 or more, got -1 for example 1"));
        assert!(text(&[f64::NAN]).contains("got NaN for example 0"));
        assert!(text(&[f64::INFINITY]).contains("divided by its count"));
        assert!(text(&[0.0, 0.0]).contains("all 0"));
        assert!(text(&[]).contains("one per example"));
        let few = WeightedRandomSampler::builder(&[1.0, 0.0, 1.0]);
        assert!(few.clone().samples(3).replacement(false).build().unwrap_err().to_string().contains("at most 2"));
        assert!(few.samples(0).build().unwrap_err().to_string().contains("`samples`"));
    }
}
