//! What follows a value, alone and as a part of other schedules.

use super::*;
use crate::random::Generator;
use crate::stateful::contract::keeps;

fn plateau(rate: f64) -> ReduceLROnPlateau {
    ReduceLROnPlateau::builder(rate).factor(0.7).patience(1).cooldown(1).build().unwrap()
}

fn one_cycle() -> OneCycleLR {
    OneCycleLR::new(1.0, 40).unwrap()
}

/// Every way in which a plateau can stand, each with its step 6 in the plateau's time.
pub(crate) fn adaptive() -> Vec<(&'static str, Box<dyn Schedule>)> {
    let boxed = |schedule: Result<SequentialLR>| -> Box<dyn Schedule> { Box::new(schedule.unwrap()) };
    let chained = || ChainedScheduler::builder(0.1).times(plateau(1.0)).times(one_cycle()).build().unwrap();
    vec![
        ("alone", Box::new(plateau(0.1))),
        ("in a sequence", boxed(SequentialLR::builder(0.3).then(2, plateau(0.1)).then(1000, 0.0).build())),
        ("behind a warm-up", Box::new(WarmUp::new(3, plateau(0.1)).unwrap())),
        ("in a chain", Box::new(chained())),
        (
            "in a chain in a sequence behind a warm-up",
            Box::new(WarmUp::new(2, SequentialLR::builder(0.2).then(1, chained()).build().unwrap()).unwrap()),
        ),
        ("in a box", Box::new(Box::new(plateau(0.1)) as Box<dyn Schedule>)),
    ]
}

fn metrics() -> Vec<f64> {
    let mut generator = Generator::new(5);
    (0..60).map(|_| generator.uniform()).collect()
}

#[test]
fn a_plateau_acts_wherever_it_stands() {
    for (what, mut schedule) in adaptive() {
        let untouched = schedule.learning_rate(30);
        for step in 0..20 {
            schedule.observe(step, 1.0).unwrap();
        }
        let ratio = schedule.learning_rate(30) / untouched;
        // Reduced again and again, always by the factor.
        let times = ratio.ln() / 0.7f64.ln();
        assert!(times > 4.5 && (times - times.round()).abs() < 1e-9, "{what}: {ratio}");
        assert_eq!(schedule.follows(), Some(Direction::Minimize), "{what}");
        assert!(schedule.observe(20, f64::NAN).unwrap_err().to_string().contains("did the loss diverge?"), "{what}");
    }
}

#[test]
fn only_the_part_whose_time_it_is_observes() {
    let first = || plateau(0.1);
    let mut schedule = SequentialLR::builder(first()).then(10, plateau(0.1)).build().unwrap();
    for step in 0..10 {
        schedule.observe(step, 1.0).unwrap();
    }
    assert!(schedule.learning_rate(9) < 0.05);
    assert_eq!(schedule.learning_rate(10), 0.1);
    let mut rising = WarmUp::new(10, first()).unwrap();
    for step in 0..10 {
        rising.observe(step, 1.0).unwrap();
    }
    assert_eq!(rising.learning_rate(10), 0.1);
}

#[test]
fn every_adaptive_schedule_keeps_the_contract_of_state() {
    let metrics = metrics();
    for (index, (what, _)) in adaptive().into_iter().enumerate() {
        let make = || adaptive().swap_remove(index).1;
        keeps(what, make, |schedule| {
            // Each metric depends on all that was observed: a wrong state would lead elsewhere.
            for (step, metric) in metrics.iter().enumerate() {
                schedule.observe(6 + step, metric * schedule.learning_rate(20)).unwrap();
            }
        });
    }
}

#[test]
fn functions_of_the_step_have_no_state_and_refuse_one() {
    let pure: Vec<Box<dyn Schedule>> = vec![
        Box::new(0.1),
        Box::new(|step: usize| 0.1 / (step + 1) as f64),
        Box::new(StepLR::new(0.1, 3).unwrap()),
        Box::new(WarmUp::new(2, CosineAnnealingLR::new(0.1, 10).unwrap()).unwrap()),
        Box::new(SequentialLR::builder(0.1).then(3, one_cycle()).build().unwrap()),
        Box::new(ChainedScheduler::builder(0.1).times(one_cycle()).build().unwrap()),
    ];
    for mut schedule in pure {
        let rates = schedule.learning_rates(20);
        assert!(schedule.as_adaptive().is_none() && schedule.follows().is_none());
        schedule.observe(3, f64::NAN).unwrap();
        assert_eq!(schedule.learning_rates(20), rates);
        assert!(schedule.state().unwrap().is_empty());
        let text = schedule.load_state(&plateau(0.1).state().unwrap()).unwrap_err().to_string();
        assert!(text.contains("has no state: `counts` is superfluous; `rate_and_best` is superfluous"), "{text}");
    }
}

#[test]
fn a_chain_keeps_the_momentum_of_its_part() {
    let cycle = one_cycle();
    let chained = ChainedScheduler::builder(0.1).times(plateau(1.0)).times(one_cycle()).times(0.5).build().unwrap();
    let sequence = SequentialLR::builder(0.1).then(5, chained).build().unwrap();
    for step in 0..50 {
        assert_eq!(sequence.momentum(step + 5), cycle.momentum(step));
        assert!((sequence.learning_rate(step + 5) - 0.05 * cycle.learning_rate(step)).abs() < 1e-15);
    }
    assert_eq!(sequence.momentum(4), None);
    let twice = ChainedScheduler::builder(0.1).times(one_cycle()).times(one_cycle()).build().err().unwrap();
    assert!(twice.to_string().contains("at most one schedule that cycles the momentum, got 2"), "{twice}");
}

#[test]
fn parts_that_follow_a_value_in_different_ways_are_refused() {
    let larger = || ReduceLROnPlateau::builder(0.1).mode(Direction::Maximize).build().unwrap();
    let text = SequentialLR::builder(plateau(0.1)).then(3, larger()).build().err().unwrap().to_string();
    assert!(text.contains("`then`: expected schedules that follow a value in the same way"), "{text}");
    assert!(ChainedScheduler::builder(0.1).times(plateau(1.0)).times(larger()).build().is_err());
    let same = SequentialLR::builder(0.1).then(3, larger()).then(5, larger()).build().unwrap();
    assert_eq!(same.follows(), Some(Direction::Maximize));
}
