//! Training, validation and test examples.

mod blocks;

pub use blocks::BlockSplitBuilder;

use crate::data::imbalance::members;
use crate::error::{Error, Result};
use crate::random::Generator;
use crate::setters::setters;

/// Disjoint training, validation and test examples, by index.
///
/// Shuffled by the seed, and together all the examples. Stratified by labels, every class is divided
/// in the same proportions, within one example, and the parts are as large as without labels, within
/// one example of their share: where classes are small, chance decides which of them are rounded up.
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
    setters! {
        /// The class of every example: every class is divided in the same proportions.
        stratify(labels: &[u32]) => labels = Some(labels.to_vec());
        /// The validation set's share of all examples.
        validation(fraction: f64) => validation = fraction;
        /// The test set's share of all examples.
        test(fraction: f64) => test = fraction;
        /// Which examples go where.
        seed(seed: u64) => seed = seed;
    }

    /// The split.
    ///
    /// # Errors
    /// If there is not one label for every example, a fraction is negative, nothing would be left to train on, or a part that was asked for
    /// would be empty.
    pub fn build(self) -> Result<Split> {
        check_fractions(self.validation, self.test)?;
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
        // Rounding the borders, not the sizes, keeps every part within one example of its share.
        let border = |share: f64| (self.length as f64 * share).round() as usize;
        let (first, second) = (border(self.validation), border(self.validation + self.test));
        let totals = [self.length - second, first, second - first];
        let shares = [1.0 - self.validation - self.test, self.validation, self.test];
        let sizes: Vec<usize> = members.iter().map(Vec::len).collect();
        let quotas = quotas(&sizes, shares, totals, &mut Generator::stream(self.seed, &[1]));
        for (mut class, [_, validation, test]) in members.into_iter().zip(quotas) {
            generator.shuffle(&mut class);
            parts[1].extend_from_slice(&class[..validation]);
            parts[2].extend_from_slice(&class[validation..validation + test]);
            parts[0].extend_from_slice(&class[validation + test..]);
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

fn check_fractions(validation: f64, test: f64) -> Result<()> {
    for (name, fraction) in [("validation", validation), ("test", test)] {
        if !(0.0..1.0).contains(&fraction) {
            return Err(Error::argument(name, "a fraction from 0 to below 1", fraction));
        }
    }
    match validation + test >= 1.0 {
        true => {
            let got = format!("{validation} + {test}");
            Err(Error::argument("validation, test", "fractions whose sum is below 1", got))
        }
        false => Ok(()),
    }
}

/// How many examples of every class, of these sizes, each part gets: its share rounded up or down,
/// so that classes and parts add up. Largest remainders are rounded up first, equal ones by chance.
fn quotas(sizes: &[usize], shares: [f64; 3], totals: [usize; 3], generator: &mut Generator) -> Vec<[usize; 3]> {
    let mut quotas = vec![[0; 3]; sizes.len()];
    let mut remainders = vec![[0.0; 3]; sizes.len()];
    let mut rounded_up = vec![[false; 3]; sizes.len()];
    for (class, &size) in sizes.iter().enumerate() {
        for part in 0..3 {
            let share = size as f64 * shares[part];
            // 30 · 0.1 is 3, not a little more.
            let whole = (share + 1e-9).floor();
            quotas[class][part] = whole as usize;
            remainders[class][part] = (share - whole).max(0.0);
        }
        let mut order = [0, 1, 2];
        order.sort_by(|&a, &b| remainders[class][b].total_cmp(&remainders[class][a]));
        let left = size - quotas[class].iter().sum::<usize>();
        order[..left.min(3)].iter().for_each(|&part| rounded_up[class][part] = true);
    }
    let mut counts = [0, 1, 2].map(|part| {
        let up = rounded_up.iter().filter(|up| up[part]).count();
        (quotas.iter().map(|quota| quota[part]).sum::<usize>() + up) as i64 - totals[part] as i64
    });
    let mut classes: Vec<usize> = (0..sizes.len()).collect();
    generator.shuffle(&mut classes);
    // Moves the rounding up of so many classes, of the largest gain, between two parts.
    let mut shift = |counts: &mut [i64; 3], from: usize, to: usize, most: usize, whole: bool| {
        let gain = |class: usize| remainders[class][to] - remainders[class][from];
        let can = |up: &[bool; 3], class: usize| up[from] && !up[to] && (whole || remainders[class][to] > 1e-9);
        let mut able: Vec<usize> = classes.iter().copied().filter(|&class| can(&rounded_up[class], class)).collect();
        able.sort_by(|&a, &b| gain(b).total_cmp(&gain(a)));
        able.truncate(most);
        for &class in &able {
            (rounded_up[class][from], rounded_up[class][to]) = (false, true);
        }
        counts[from] -= able.len() as i64;
        counts[to] += able.len() as i64;
        !able.is_empty()
    };
    // From the parts that have too many to those that lack some, if need be by way of the third,
    // at last also where a share is whole.
    while counts.iter().any(|&count| count != 0) {
        let pairs = [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)];
        let needed: Vec<(usize, usize)> = pairs.into_iter().filter(|&(a, b)| counts[a] > 0 && counts[b] < 0).collect();
        let most = |counts: &[i64; 3], (from, to): (usize, usize)| counts[from].min(-counts[to]) as usize;
        let moved = needed.iter().any(|&pair| {
            let most = most(&counts, pair);
            shift(&mut counts, pair.0, pair.1, most, false)
        }) || needed.iter().any(|&(from, to)| {
            let third = 3 - from - to;
            shift(&mut counts, third, to, 1, false) && shift(&mut counts, from, third, 1, false)
        }) || needed.iter().any(|&pair| {
            let most = most(&counts, pair);
            shift(&mut counts, pair.0, pair.1, most, true)
        });
        if !moved {
            break;
        }
    }
    for (quota, up) in quotas.iter_mut().zip(rounded_up) {
        quota.iter_mut().zip(up).for_each(|(quota, up)| *quota += usize::from(up));
    }
    quotas
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

        #[test]
        fn many_small_classes_add_up(
            sizes in prop::collection::vec(1usize..9, 20..120),
            validation in 0.05f64..0.5,
            test in 0.05f64..0.45,
            seed in any::<u64>(),
        ) {
            let labels: Vec<u32> = sizes.iter().zip(0..).flat_map(|(&size, class)| vec![class; size]).collect();
            let split = Split::builder(labels.len()).stratify(&labels).validation(validation).test(test).seed(seed).build().unwrap();
            let plain = Split::builder(labels.len()).validation(validation).test(test).seed(seed).build().unwrap();
            let fractions = [1.0 - validation - test, validation, test];
            for ((part, plain), fraction) in split.parts.iter().zip(&plain.parts).zip(fractions) {
                prop_assert_eq!(part.len(), plain.len());
                let mut counts = vec![0usize; sizes.len()];
                part.iter().for_each(|&i| counts[labels[i] as usize] += 1);
                for (&count, &size) in counts.iter().zip(&sizes) {
                    prop_assert!((count as f64 - size as f64 * fraction).abs() <= 1.0 + 1e-9);
                }
            }
        }
    }

    #[test]
    fn totals_are_as_asked_however_small_the_classes() {
        for (classes, size, validation, expected) in
            [(100, 30, 0.05, 150), (200, 5, 0.1, 100), (50, 1, 0.5, 25), (1000, 1, 0.2, 200), (3, 10, 0.25, 8)]
        {
            let labels: Vec<u32> = (0..classes * size).map(|i| i % classes).collect();
            let split = |seed| Split::builder(labels.len()).stratify(&labels).validation(validation).seed(seed).build();
            let part = split(1).unwrap().validation().to_vec();
            assert_eq!(part.len(), expected, "{classes} classes of {size}");
            let mut counts = vec![0; classes as usize];
            part.iter().for_each(|&i| counts[labels[i] as usize] += 1);
            let share = f64::from(size) * validation;
            assert!(counts.iter().all(|&count| (f64::from(count) - share).abs() < 1.0), "{counts:?}");
            // Not always the same classes.
            let others: Vec<_> = (2..6).map(|seed| split(seed).unwrap().validation().to_vec()).collect();
            let rounded_up = |part: &[usize]| {
                let mut counts = vec![0; classes as usize];
                part.iter().for_each(|&i| counts[labels[i] as usize] += 1);
                counts
            };
            assert!(share.fract() == 0.0 || others.iter().any(|part| rounded_up(part) != counts));
        }
    }

    #[test]
    fn impossible_splits_are_refused() {
        let text = |builder: SplitBuilder| builder.build().unwrap_err().to_string();
        let labels = [0, 0, 0, 1, 1, 1];
        assert!(text(Split::builder(labels.len()).stratify(&labels).validation(-0.1)).contains("`validation`"));
        assert!(text(Split::builder(labels.len()).stratify(&labels).test(1.0)).contains("`test`"));
        assert!(text(Split::builder(labels.len()).stratify(&labels).validation(0.5).test(0.5)).contains("below 1"));
        assert!(text(Split::builder(labels.len()).stratify(&labels).validation(0.05)).contains("too few examples"));
        assert!(text(Split::builder(0)).contains("`train`"));
        let text = text(Split::builder(labels.len() + 1).stratify(&labels));
        assert!(text.contains("`labels`: expected one for each of"), "{text}");
        let split = Split::builder(10).validation(0.3).seed(1).build().unwrap();
        assert_eq!((split.train().len(), split.validation().len(), split.test().len()), (7, 3, 0));
    }
}
