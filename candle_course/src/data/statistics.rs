//! What a loader waits for.

use std::fmt;
use std::time::Duration;

/// Where the time of an epoch went, as seen from the loader.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoaderStatistics {
    /// Batches handed out.
    pub batches: usize,
    /// Examples handed out.
    pub examples: usize,
    /// Worker threads.
    pub workers: usize,
    /// From the beginning of the epoch until its iterator was dropped (or now).
    pub elapsed: Duration,
    /// How long the loop stood still for want of a batch.
    pub waited: Duration,
    /// How long batches took to make, summed over all workers.
    pub busy: Duration,
}

impl LoaderStatistics {
    /// Examples per second.
    pub fn throughput(&self) -> f64 {
        self.examples as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// The share of the time, 0 to 1, for which the loop stood still for want of a batch. Near 0
    /// the loader keeps up; near 1 the model starves, and more workers, cheaper transforms or a
    /// faster disk are worth their price.
    pub fn waiting(&self) -> f64 {
        (self.waited.as_secs_f64() / self.elapsed.as_secs_f64().max(1e-9)).min(1.0)
    }

    /// The share of the time, 0 to 1, for which the workers had something to do.
    pub fn utilisation(&self) -> f64 {
        let available = self.elapsed.as_secs_f64() * self.workers.max(1) as f64;
        (self.busy.as_secs_f64() / available.max(1e-9)).min(1.0)
    }
}

impl fmt::Display for LoaderStatistics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} batches, {} examples in {:.3} s ({:.0} examples/s); waited for data {:.0} % of the time, {} workers busy {:.0} %",
            self.batches,
            self.examples,
            self.elapsed.as_secs_f64(),
            self.throughput(),
            100.0 * self.waiting(),
            self.workers,
            100.0 * self.utilisation()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_shares() {
        let statistics = LoaderStatistics {
            batches: 10,
            examples: 640,
            workers: 2,
            elapsed: Duration::from_secs(2),
            waited: Duration::from_millis(500),
            busy: Duration::from_secs(3),
        };
        assert_eq!(statistics.throughput(), 320.0);
        assert_eq!(statistics.waiting(), 0.25);
        assert_eq!(statistics.utilisation(), 0.75);
        assert_eq!(
            statistics.to_string(),
            "10 batches, 640 examples in 2.000 s (320 examples/s); waited for data 25 % of the time, 2 workers busy 75 %"
        );
        assert_eq!(LoaderStatistics::default().waiting(), 0.0);
    }
}
