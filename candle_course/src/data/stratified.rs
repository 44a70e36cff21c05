//! Batches with the class proportions of the whole set.

use crate::data::Sampler;
use crate::data::imbalance::members;
use crate::error::{Error, Result};
use crate::random::Generator;

/// Every batch has, as nearly as whole examples allow, the class proportions of the whole set;
/// which examples of a class, and their order in the batch, is random in every epoch.
///
/// After every batch each class has had its share of the epoch so far, rounded up or down, so a
/// class's count in a batch differs from its share by less than two examples. Where that leaves a
/// choice, chance decides: in batches smaller than the number of classes all pairs of classes meet,
/// and what `drop_last` drops is of other classes in every epoch. Use it with a loader of the same
/// batch size.
///
/// # Examples
///
/// ```
/// use candle_course::data::{Sampler, StratifiedBatchSampler};
///
/// let labels: Vec<u32> = (0..100).map(|i| u32::from(i % 10 == 0)).collect(); // 10 % of class 1
/// let sampler = StratifiedBatchSampler::new(&labels, 20, 42)?;
/// for batch in sampler.indices(0)?.chunks(20) {
///     assert_eq!(batch.iter().filter(|&&i| labels[i] == 1).count(), 2);
/// }
/// # Ok::<(), candle_course::error::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct StratifiedBatchSampler {
    members: Vec<Vec<usize>>,
    length: usize,
    batch_size: usize,
    seed: u64,
}

impl StratifiedBatchSampler {
    /// Batches of `batch_size` of examples with these `labels`.
    ///
    /// # Errors
    /// If there are no labels or the batch size is 0.
    pub fn new(labels: &[u32], batch_size: usize, seed: u64) -> Result<Self> {
        if batch_size == 0 || labels.is_empty() {
            let (name, got) = if labels.is_empty() { ("labels", 0) } else { ("batch_size", batch_size) };
            return Err(Error::argument(name, "at least 1", got));
        }
        let members = members(labels).into_iter().filter(|members| !members.is_empty()).collect();
        Ok(Self { members, length: labels.len(), batch_size, seed })
    }
}

impl Sampler for StratifiedBatchSampler {
    fn indices(&self, epoch: usize) -> Result<Vec<usize>> {
        let mut generator = Generator::stream(self.seed, &[epoch as u64]);
        let mut members = self.members.clone();
        members.iter_mut().for_each(|class| generator.shuffle(class));
        let mut taken = vec![0usize; members.len()];
        let mut order = Vec::with_capacity(self.length);
        let batches = self.length.div_ceil(self.batch_size);
        for batch in 0..batches {
            // Earliest deadline first, which meets all of them (Liu & Layland 1973): example j of a
            // class of n is due when the class's share, rounded down, has reached j + 1, and may
            // come as soon as its share, rounded up, has.
            let boundary = |batch: usize| (batch * self.batch_size).min(self.length) as u128;
            let reached = |class: usize, batch: usize| members[class].len() as u128 * boundary(batch);
            let (length, end) = (self.length as u128, boundary(batch + 1) as usize);
            let mut open: Vec<usize> = (0..members.len()).collect();
            generator.shuffle(&mut open);
            while order.len() < end {
                open.retain(|&class| {
                    taken[class] < members[class].len() && reached(class, batch + 1) > taken[class] as u128 * length
                });
                // By when, in examples, the next of a class is due, in whole batches.
                let due = |class: usize| {
                    let examples = ((taken[class] as u128 + 1) * length).div_ceil(members[class].len() as u128);
                    examples.div_ceil(self.batch_size as u128)
                };
                let class = open.iter().copied().min_by_key(|&class| due(class));
                let class = class.ok_or_else(|| Error::data("a stratified epoch ran out of examples"))?;
                order.push(members[class][taken[class]]);
                taken[class] += 1;
            }
        }
        order.chunks_mut(self.batch_size).for_each(|batch| generator.shuffle(batch));
        Ok(order)
    }

    fn len(&self) -> usize {
        self.length
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn batches_are_stratified_and_epochs_are_permutations(
            labels in prop::collection::vec(0u32..6, 1..300),
            batch_size in 1usize..40,
            seed in any::<u64>(),
        ) {
            let sampler = StratifiedBatchSampler::new(&labels, batch_size, seed).unwrap();
            let order = sampler.indices(1).unwrap();
            for batch in order.chunks(batch_size) {
                for class in 0..6 {
                    let share = labels.iter().filter(|&&l| l == class).count() as f64 / labels.len() as f64;
                    let count = batch.iter().filter(|&&i| labels[i] == class).count() as f64;
                    prop_assert!((count - share * batch.len() as f64).abs() < 2.0);
                }
            }
            let mut sorted = order;
            sorted.sort_unstable();
            prop_assert_eq!(sorted, (0..labels.len()).collect::<Vec<_>>());
        }
    }

    #[test]
    fn arguments_are_checked_and_epochs_differ() {
        assert!(StratifiedBatchSampler::new(&[], 1, 0).is_err());
        assert!(StratifiedBatchSampler::new(&[1], 0, 0).unwrap_err().to_string().contains("`batch_size`"));
        let sampler = StratifiedBatchSampler::new(&[0, 1, 0, 1, 0, 1, 1, 1], 4, 5).unwrap();
        assert_eq!(sampler.indices(0).unwrap(), sampler.indices(0).unwrap());
        assert_ne!(sampler.indices(0).unwrap(), sampler.indices(1).unwrap());
    }

    #[test]
    fn small_batches_bring_all_classes_together() {
        use std::collections::BTreeSet;
        for sizes in [vec![30; 10], (30..40).collect::<Vec<usize>>()] {
            let labels: Vec<u32> = sizes.iter().zip(0..).flat_map(|(&size, class)| vec![class; size]).collect();
            let sampler = StratifiedBatchSampler::new(&labels, 2, 7).unwrap();
            let (mut pairs, mut last) = (BTreeSet::new(), BTreeSet::new());
            for epoch in 0..20 {
                let order = sampler.indices(epoch).unwrap();
                for batch in order.chunks_exact(2) {
                    let classes: BTreeSet<u32> = batch.iter().map(|&i| labels[i]).collect();
                    if classes.len() == 2 {
                        pairs.insert(classes);
                    }
                }
            }
            assert_eq!(pairs.len(), 45, "{sizes:?}");
            // 7 does not divide the length: which classes would be dropped changes.
            let sampler = StratifiedBatchSampler::new(&labels, 7, 7).unwrap();
            for epoch in 0..30 {
                let order = sampler.indices(epoch).unwrap();
                let rest = order.len() % 7;
                last.extend(order[order.len() - rest..].iter().map(|&i| labels[i]));
            }
            assert!(last.len() >= 9, "{last:?}");
        }
    }
}
