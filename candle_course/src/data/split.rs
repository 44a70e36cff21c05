//! Training, validation and test examples.

use crate::data::imbalance::members;
use crate::error::{Error, Result};
use crate::random::Generator;

/// Disjoint training, validation and test examples, by index.
///
/// Shuffled by the seed, and together all the examples. Stratified by labels, every class is divided
/// in the same proportions, within one example.
///
/// # Examples
///
/// ```
/// use candle_course::data::Split;
///
/// let labels: Vec<u32> = (0..100).map(|i| i % 4).collect();
/// let split = Split::builder(labels.len()).stratify(&labels).validation(0.2).test(0.1).seed(42).build()?;
/// assert_eq!(split.validation().len(), 20);
/// assert_eq!(split.train().len() + split.test().len(), 80);
/// # Ok::<(), candle_course::error::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    parts: [Vec<usize>; 3],
}

/// Configures a [`Split`].
#[derive(Debug, Clone)]
pub struct SplitBuilder {
    length: usize,
    labels: Option<Vec<u32>>,
    validation: f64,
    test: f64,
    seed: u64,
}

impl Split {
    /// Divides `length` examples, without regard to classes unless told otherwise.
    pub fn builder(length: usize) -> SplitBuilder {
        SplitBuilder { length, labels: None, validation: 0.0, test: 0.0, seed: 0 }
    }

    /// The training examples.
    pub fn train(&self) -> &[usize] {
        &self.parts[0]
    }

    /// The validation examples.
    pub fn validation(&self) -> &[usize] {
        &self.parts[1]
    }

    /// The test examples.
    pub fn test(&self) -> &[usize] {
        &self.parts[2]
    }
}

impl SplitBuilder {
    /// The class of every example: every class is divided in the same proportions.
    #[must_use]
    pub fn stratify(mut self, labels: &[u32]) -> Self {
        self.labels = Some(labels.to_vec());
        self
    }

    /// The validation set's share of all examples.
    #[must_use]
    pub fn validation(mut self, fraction: f64) -> Self {
        self.validation = fraction;
        self
    }

    /// The test set's share of all examples.
    #[must_use]
    pub fn test(mut self, fraction: f64) -> Self {
        self.test = fraction;
        self
    }

    /// Which examples go where.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// The split.
    ///
    /// # Errors
    /// If there is not one label for every example, a fraction is negative, nothing would be left to train on, or a part that was asked for
    /// would be empty.
    pub fn build(self) -> Result<Split> {
        for (name, fraction) in [("validation", self.validation), ("test", self.test)] {
            if !(0.0..1.0).contains(&fraction) {
                return Err(Error::argument(name, "a fraction from 0 to below 1", fraction));
            }
        }
        if self.validation + self.test >= 1.0 {
            return Err(Error::argument(
                "validation, test",
                "fractions whose sum is below 1",
                format!("{} + {}", self.validation, self.test),
            ));
        }
        let members = match &self.labels {
            None => {
                crate::sizes::check::<usize>("length", self.length)?;
                vec![(0..self.length).collect()]
            }
            Some(labels) if labels.len() == self.length => members(labels),
            Some(labels) => {
                return Err(Error::argument(
                    "labels",
                    format!("one for each of {} examples", self.length),
                    labels.len(),
                ));
            }
        };
        let mut generator = Generator::new(self.seed);
        let mut parts: [Vec<usize>; 3] = Default::default();
        for mut class in members {
            generator.shuffle(&mut class);
            let n = class.len() as f64;
            // Rounding the borders, not the sizes, keeps every part within one example of its share.
            let first = (n * self.validation).round() as usize;
            let second = (n * (self.validation + self.test)).round() as usize;
            parts[1].extend_from_slice(&class[..first]);
            parts[2].extend_from_slice(&class[first..second]);
            parts[0].extend_from_slice(&class[second..]);
        }
        for (name, part, fraction) in
            [("train", &parts[0], 1.0), ("validation", &parts[1], self.validation), ("test", &parts[2], self.test)]
        {
            if part.is_empty() && fraction > 0.0 {
                return Err(Error::argument(name, "at least one example", 0)
                    .hint("there are too few examples for these fractions"));
            }
        }
        parts.iter_mut().for_each(|part| generator.shuffle(part));
        Ok(Split { parts })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn splits_are_disjoint_exhaustive_and_stratified(
            labels in prop::collection::vec(0u32..5, 30..300),
            validation in 0.1f64..0.4,
            test in 0.1f64..0.4,
            seed in any::<u64>(),
        ) {
            let split = Split::builder(labels.len()).stratify(&labels).validation(validation).test(test).seed(seed).build().unwrap();
            let mut all: Vec<usize> = split.parts.concat();
            all.sort_unstable();
            prop_assert_eq!(all, (0..labels.len()).collect::<Vec<_>>());
            for class in 0..5 {
                let count = |indices: &[usize]| indices.iter().filter(|&&i| labels[i] == class).count() as f64;
                let total = labels.iter().filter(|&&label| label == class).count() as f64;
                for (part, fraction) in
                    [(split.train(), 1.0 - validation - test), (split.validation(), validation), (split.test(), test)]
                {
                    prop_assert!((count(part) - total * fraction).abs() <= 1.0 + 1e-9);
                }
            }
            let again = Split::builder(labels.len()).stratify(&labels).validation(validation).test(test).seed(seed).build().unwrap();
            prop_assert_eq!(split, again);
        }
    }

    #[test]
    fn impossible_splits_are_refused() {
        let text = |builder: SplitBuilder| builder.build().unwrap_err().to_string();
        let labels = [0, 0, 0, 1, 1, 1];
        assert!(text(Split::builder(labels.len()).stratify(&labels).validation(-0.1)).contains("`validation`"));
        assert!(text(Split::builder(labels.len()).stratify(&labels).test(1.0)).contains("`test`"));
        assert!(text(Split::builder(labels.len()).stratify(&labels).validation(0.5).test(0.5)).contains("below 1"));
        assert!(text(Split::builder(labels.len()).stratify(&labels).validation(0.1)).contains("too few examples"));
        assert!(text(Split::builder(0)).contains("`train`"));
        let text = text(Split::builder(labels.len() + 1).stratify(&labels));
        assert!(text.contains("`labels`: expected one for each of"), "{text}");
        let split = Split::builder(10).validation(0.3).seed(1).build().unwrap();
        assert_eq!((split.train().len(), split.validation().len(), split.test().len()), (7, 3, 0));
    }
}
