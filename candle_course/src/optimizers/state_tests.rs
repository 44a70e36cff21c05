//! Every optimizer, and what goes with it, keeps the contract of state.

use candle_core::{Device, Module, Tensor};

use super::*;
use crate::error::Result;
use crate::nn::{Linear, Parameters};
use crate::stateful::contract::keeps;
use crate::stateful::{State, Stateful, join, load_parts};

/// A small model and what trains it.
struct Training<S> {
    parameters: Parameters,
    layer: Linear,
    part: S,
}

impl<S: Stateful> Training<S> {
    fn new(part: impl Fn(&Parameters) -> S) -> Self {
        let parameters = Parameters::new(4, &Device::Cpu);
        let layer = Linear::new(3, 2, &parameters.at("fc")).unwrap();
        let part = part(&parameters);
        Self { parameters, layer, part }
    }

    fn gradients(&self) -> GradStore {
        let xs = Tensor::new(&[[1f32, -2.0, 0.5], [0.3, 0.1, -1.0]], &Device::Cpu).unwrap();
        self.layer.forward(&xs).unwrap().sqr().unwrap().mean_all().unwrap().backward().unwrap()
    }
}

impl<S: Stateful> Stateful for Training<S> {
    fn state(&self) -> Result<State> {
        join([
            ("model".to_owned(), &self.parameters as &dyn Stateful),
            ("part".to_owned(), &self.part as &dyn Stateful),
        ])
    }

    fn load_state(&mut self, state: &State) -> Result<()> {
        let parts: [(String, &mut dyn Stateful); 2] =
            [("model".to_owned(), &mut self.parameters), ("part".to_owned(), &mut self.part)];
        load_parts("another training", state, parts)
    }
}

#[test]
fn every_optimizer_keeps_the_contract_of_state() {
    for (what, learning_rate, build) in oracle_tests::configurations() {
        let make = || Training::new(|parameters| build(parameters, false));
        keeps(what, make, |training| {
            let gradients = training.gradients();
            training.part.step(&gradients, learning_rate).unwrap();
        });
    }
}

#[test]
fn averages_and_accumulated_gradients_keep_the_contract_of_state() {
    fn move_weights(parameters: &Parameters) {
        for (_, var) in parameters.trainable() {
            var.set(&(var.as_tensor() * 1.25).unwrap()).unwrap();
        }
    }
    let exponential = |parameters: &Parameters| WeightAverage::builder(parameters).warm_up(true).build().unwrap();
    let stochastic = |parameters: &Parameters| WeightAverage::stochastic(parameters).unwrap();
    let update = |training: &mut Training<WeightAverage>| {
        move_weights(&training.parameters);
        training.part.update().unwrap();
    };
    keeps("exponential average", || Training::new(exponential), update);
    keeps("stochastic average", || Training::new(stochastic), update);
    let accumulator = |parameters: &Parameters| GradientAccumulator::new(parameters, 10).unwrap();
    keeps(
        "accumulated gradients",
        || Training::new(accumulator),
        |training| {
            training.part.add(training.gradients(), 2).unwrap();
            move_weights(&training.parameters);
        },
    );
}
