//! Trainings whose schedule follows a value, alone or as a part of other schedules.

use std::path::Path;

use super::trainer_tests::{loaders, trainer};
use crate::schedules::adaptive_tests::adaptive;
use crate::schedules::{ChainedScheduler, Schedule};
use crate::training::callbacks::Checkpoints;

/// Trains up to `epochs` with checkpoints in `folder`, from the newest if there is one.
fn trained(schedule: Box<dyn Schedule>, epochs: usize, folder: &Path, per_epoch: bool) -> Vec<(u64, u64)> {
    let (train, validation) = loaders();
    let builder = trainer(3).0.epochs(epochs).quiet();
    let builder = if per_epoch { builder.schedule_per_epoch(schedule) } else { builder.schedule(schedule) };
    let checkpoints = Checkpoints::new(folder);
    let mut trainer = builder.checkpoints(checkpoints).build().unwrap();
    trainer.resume(folder).unwrap();
    let history = trainer.fit(&train, Some(&validation)).unwrap();
    history.steps().iter().map(|step| (step.loss.to_bits(), step.learning_rate.to_bits())).collect()
}

#[test]
fn a_training_resumes_to_the_last_bit_wherever_its_plateau_stands() {
    for per_epoch in [true, false] {
        for index in 0..adaptive().len() {
            let (what, _) = adaptive().swap_remove(index);
            // Rates at which the validation loss does not always fall.
            let schedule = || -> Box<dyn Schedule> {
                let part = adaptive().swap_remove(index).1;
                Box::new(ChainedScheduler::builder(4.0).times(part).build().unwrap())
            };
            let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
            let whole = trained(schedule(), 16, folders[0].path(), per_epoch);
            trained(schedule(), 11, folders[1].path(), per_epoch);
            assert_eq!(trained(schedule(), 16, folders[1].path(), per_epoch), whole, "{what}");
            // The plateau acted: without what it observed, the last rate is another.
            let position = if per_epoch { 15 } else { whole.len() - 1 };
            let rate = schedule().learning_rate(position);
            assert!(f64::from_bits(whole[whole.len() - 1].1) < 0.99 * rate, "{what}, {per_epoch}: {rate}");
        }
    }
}
