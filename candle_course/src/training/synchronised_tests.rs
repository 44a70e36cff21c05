//! Batch norm over the batches of all ranks, in the trainer.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use candle_core::{Device, ModuleT, Tensor};

use super::distributed_tests::{Ignoring, Told, all, each, part};
use super::*;
use crate::data::{Batch, BatchPosition, DataLoader, TensorDataset, Transform};
use crate::distributed::{Communicator, LocalCommunicator};
use crate::error::{Error, Result};
use crate::losses::{CrossEntropy, Loss};
use crate::nn::{BatchNorm1d, BatchNorm2d, Conv2d, Flatten, Linear, Parameters, Recompute, Scope, Sequential};
use crate::optimizers::Sgd;
use crate::random::Generator;
use crate::stateful::Stateful as _;
use crate::stateful::contract::bits;

const EXAMPLES: usize = 65;

/// Images of four by four pixels of three classes that overlap.
fn images() -> TensorDataset {
    let mut generator = Generator::new(4);
    let labels: Vec<u32> = (0..EXAMPLES).map(|_| generator.below(3) as u32).collect();
    let pixel = |label: u32, at: u32| f64::from((label + at) % 3) - 1.0;
    let values: Vec<f32> = labels
        .iter()
        .flat_map(|&label| (0..16).map(move |at| pixel(label, at)))
        .map(|mean| (mean + 2.0 * generator.normal()) as f32)
        .collect();
    let inputs = Tensor::from_vec(values, (EXAMPLES, 1, 4, 4), &Device::Cpu).unwrap();
    TensorDataset::new(inputs, Tensor::from_vec(labels, EXAMPLES, &Device::Cpu).unwrap()).unwrap()
}

fn block(from: usize, to: usize, scope: &Scope) -> Result<Sequential> {
    let conv = Conv2d::builder(from, to, 3).padding(1).no_bias().build(&scope.at("conv"))?;
    Ok(Sequential::new().add(conv).add(BatchNorm2d::new(to, &scope.at("norm"))?.with_relu()))
}

/// Two blocks with batch norm, of which the second may be computed twice, and a head.
fn cnn(recompute: bool) -> Result<(Sequential, Parameters)> {
    let parameters = Parameters::new(3, &Device::Cpu);
    let model = Sequential::new().add(block(1, 6, &parameters.at("0"))?);
    let scope = parameters.at("1");
    let second = block(6, 4, &scope)?;
    let model = if recompute { model.add(Recompute::new(second, &scope)) } else { model.add(second) };
    Ok((model.add(Flatten).add(Linear::new(64, 3, &parameters.at("2"))?), parameters))
}

type Options = fn(TrainerBuilder) -> TrainerBuilder;

fn train(
    communicator: Arc<dyn Communicator>,
    batch: usize,
    recompute: bool,
    loss: impl Loss + 'static,
    options: Options,
) -> Result<Told> {
    let train = part(images(), batch / communicator.size(), &*communicator);
    let (model, parameters) = cnn(recompute)?;
    let optimizer = Sgd::builder(&parameters).momentum(0.9).build()?;
    let builder = Trainer::builder(model, &parameters, loss, optimizer)
        .epochs(20)
        .learning_rate(0.02)
        .distributed(communicator)
        .synchronise_batch_norm()
        .quiet();
    let history = options(builder).build()?.fit(&train, None)?;
    Ok(Told { history, parameters })
}

fn weighted() -> CrossEntropy {
    CrossEntropy::builder().class_weights(vec![0.5, 1.0, 3.0]).build().unwrap()
}

#[test]
fn ranks_with_synchronised_batch_norm_take_the_steps_of_one_process() {
    // Five steps an epoch, a hundred in all; the last batch of an epoch has one example: most ranks have none.
    let options: [(Options, bool); 4] = [
        (|builder| builder, false),
        (|builder| builder.clip_norm(0.3), true),
        (|builder| builder.accumulate(3), false),
        (|builder| builder.accumulate(2).ema(0.9), true),
    ];
    for (which, (options, recompute)) in options.into_iter().enumerate() {
        let run = |ranks: usize| all(ranks, |communicator| train(communicator, 16, recompute, weighted(), options));
        let one = run(1);
        if which == 0 {
            assert_eq!(one.history.step_losses().len(), 100);
            assert!(one.history.epochs()[19].train_loss < 0.8 * one.history.epochs()[0].train_loss);
        }
        for ranks in [2, 4] {
            let several = run(ranks);
            let difference = several.difference(&one);
            assert!(difference < 1e-5, "{ranks} ranks, options {which}: {difference:e}");
            assert_eq!(run(ranks).bits(), several.bits(), "{ranks} ranks");
        }
    }
    // With its own batches alone a rank takes other steps.
    let local = all(2, |communicator| {
        let train = part(images(), 8, &*communicator);
        let (model, parameters) = cnn(false)?;
        let optimizer = Sgd::builder(&parameters).momentum(0.9).build()?;
        let builder = Trainer::builder(model, &parameters, weighted(), optimizer).epochs(20).learning_rate(0.02);
        let history = builder.distributed(communicator).quiet().build()?.fit(&train, None)?;
        Ok(Told { history, parameters })
    });
    let one = all(1, |communicator| train(communicator, 16, false, weighted(), |builder| builder));
    assert!(local.difference(&one) > 1e-2);
}

#[test]
fn a_rank_whose_labels_are_all_ignored_still_passes_gradients_on() {
    for accumulate in [false, true] {
        let options: Options =
            if accumulate { |builder| builder.epochs(4).accumulate(3) } else { |builder| builder.epochs(4) };
        for both in [false, true] {
            let run = |ranks: usize| {
                all(ranks, |communicator| match both {
                    true => train(communicator, 4, false, Ignoring, options),
                    false => {
                        let loss = CrossEntropy::builder().ignore_index(0).build()?;
                        train(communicator, 4, false, loss, options)
                    }
                })
            };
            let one = run(1);
            for ranks in [2, 4] {
                let difference = run(ranks).difference(&one);
                assert!(difference < 1e-5, "{ranks} ranks, {both} {accumulate}: {difference:e}");
            }
        }
    }
}

/// Where a rank fails.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Where {
    Data,
    NotANumber,
    /// In the model, behind the first batch norm.
    Model,
    ModelPanics,
    Backward,
}

/// Spoils the example 7 in the second epoch.
struct Spoils(Where);

impl Transform for Spoils {
    fn apply(&self, batch: Batch, position: &BatchPosition) -> Result<Batch> {
        let row = batch.indices.iter().position(|&index| index == 7).filter(|_| position.epoch == 1);
        match (row, self.0) {
            (Some(_), Where::Data) => Err(Error::data("the file is gone")),
            (Some(row), Where::NotANumber) => {
                let mut values = batch.inputs.flatten_all()?.to_vec1::<f32>()?;
                values[16 * row] = f32::NAN;
                Ok(Batch { inputs: Tensor::from_vec(values, batch.inputs.shape(), &Device::Cpu)?, ..batch })
            }
            _ => Ok(batch),
        }
    }
}

/// Passes its input on, but once.
struct Fragile {
    how: Where,
    rank: usize,
    passed: AtomicUsize,
}

impl ModuleT for Fragile {
    fn forward_t(&self, xs: &Tensor, _train: bool) -> candle_core::Result<Tensor> {
        let now = self.passed.fetch_add(1, Ordering::Relaxed) == 6 && self.rank == 1;
        match self.how {
            Where::Model if now => Err(Error::training("the layer is gone").into()),
            Where::ModelPanics if now => panic!("nobody home"),
            // Candle has no gradient for it, and says so in the backward pass.
            Where::Backward if now => {
                let rounded = xs.apply_op1(Ends)?;
                Ok(rounded)
            }
            _ => Ok(xs.clone()),
        }
    }
}

/// An operation whose gradient fails.
struct Ends;

impl candle_core::CustomOp1 for Ends {
    fn name(&self) -> &'static str {
        "ends"
    }
    fn cpu_fwd(
        &self,
        storage: &candle_core::CpuStorage,
        layout: &candle_core::Layout,
    ) -> candle_core::Result<(candle_core::CpuStorage, candle_core::Shape)> {
        let (start, end) = layout.contiguous_offsets().unwrap();
        let values = storage.as_slice::<f32>()?[start..end].to_vec();
        Ok((candle_core::CpuStorage::F32(values), layout.shape().clone()))
    }
    fn bwd(&self, _: &Tensor, _: &Tensor, _: &Tensor) -> candle_core::Result<Option<Tensor>> {
        candle_core::bail!("no way back")
    }
}

#[test]
fn a_rank_that_fails_anywhere_ends_all() {
    let cases = [
        (Where::Data, "the file is gone"),
        (Where::NotANumber, "in examples [7]"),
        (Where::Model, "the layer is gone"),
        (Where::Backward, "no way back"),
    ];
    for ranks in [2, 4] {
        for (how, what) in cases {
            let weights = Mutex::new(BTreeSet::new());
            let told = each(ranks, |communicator| {
                let loader =
                    DataLoader::builder(images()).batch_size(16 / ranks).shuffle(5).transform(Spoils(how)).build()?;
                let train = loader.shard(communicator.rank(), ranks)?;
                let parameters = Parameters::new(3, &Device::Cpu);
                let fragile = Fragile { how, rank: communicator.rank(), passed: AtomicUsize::new(0) };
                let model = block(1, 6, &parameters.at("0"))?.add(fragile).add(block(6, 4, &parameters.at("1"))?);
                let model = model.add(Flatten).add(Linear::new(64, 3, &parameters.at("2"))?);
                let optimizer = Sgd::new(&parameters)?;
                let mut trainer = Trainer::builder(model, &parameters, weighted(), optimizer)
                    .epochs(3)
                    .learning_rate(0.1)
                    .distributed(Arc::clone(&communicator))
                    .synchronise_batch_norm()
                    .quiet()
                    .build()?;
                let result = trainer.fit(&train, None);
                // The running statistics, too.
                weights.lock().unwrap().insert(format!("{:?}", bits(&parameters.state()?)));
                communicator.barrier()?; // an error of all is none of the communicator
                Ok(Told { history: result?, parameters })
            });
            let texts: BTreeSet<String> = told.into_iter().map(|told| told.unwrap_err()).collect();
            assert_eq!(texts.len(), 1, "{how:?}: {texts:?}");
            let text = texts.first().unwrap();
            assert!(text.contains(what) && text.contains(&format!(" of {ranks} failed: ")), "{how:?}: {text}");
            assert!(!text.contains("so did"), "{how:?}: {text}");
            assert_eq!(weights.lock().unwrap().len(), 1, "{how:?}: the weights differ");
        }
    }
}

#[test]
fn a_rank_that_panics_ends_all() {
    let error = LocalCommunicator::run(2, |communicator| {
        let train = part(images(), 8, &*communicator);
        let parameters = Parameters::new(3, &Device::Cpu);
        let fragile = Fragile { how: Where::ModelPanics, rank: communicator.rank(), passed: AtomicUsize::new(0) };
        let model = block(1, 6, &parameters.at("0"))?.add(fragile).add(block(6, 4, &parameters.at("1"))?);
        let model = model.add(Flatten).add(Linear::new(64, 3, &parameters.at("2"))?);
        let optimizer = Sgd::new(&parameters)?;
        let builder = Trainer::builder(model, &parameters, weighted(), optimizer).epochs(3).learning_rate(0.1);
        let builder = builder.distributed(communicator).synchronise_batch_norm().quiet();
        builder.build()?.fit(&train, None)
    });
    let text = error.unwrap_err().to_string();
    assert!(text.starts_with("rank 1 of 2 failed") && text.contains("nobody home"), "{text}");
}

#[test]
fn what_cannot_be_synchronised_is_refused() {
    let text = |build: &(dyn Fn(&Parameters) -> Result<Sequential> + Sync)| {
        let told = each(2, |communicator| {
            let parameters = Parameters::new(3, &Device::Cpu);
            let model = build(&parameters)?;
            let optimizer = Sgd::new(&parameters)?;
            let builder = Trainer::builder(model, &parameters, weighted(), optimizer).learning_rate(0.1);
            builder.distributed(communicator).synchronise_batch_norm().build().map(|_| ())?;
            Ok(Told { history: History::default(), parameters })
        });
        told.into_iter().map(|told| told.err().unwrap_or_default()).collect::<BTreeSet<_>>()
    };
    let texts = text(&|parameters| Ok(Sequential::new().add(Linear::new(2, 3, &parameters.at("fc"))?)));
    assert!(texts.len() == 1 && texts.first().unwrap().contains("got none"), "{texts:?}");
    // One rank with it, the other without.
    let told = each(2, |communicator| {
        let train = part(super::distributed_tests::points(65, 1), 8, &*communicator);
        let parameters = Parameters::new(3, &Device::Cpu);
        let norm = BatchNorm1d::new(2, &parameters.at("0"))?;
        let model = Sequential::new().add(norm).add(Linear::new(2, 3, &parameters.at("1"))?);
        let optimizer = Sgd::new(&parameters)?;
        let rank = communicator.rank();
        let builder = Trainer::builder(model, &parameters, weighted(), optimizer).learning_rate(0.1);
        let builder = builder.distributed(communicator).quiet();
        let builder = if rank == 0 { builder.synchronise_batch_norm() } else { builder };
        let history = builder.build()?.fit(&train, None)?;
        Ok(Told { history, parameters })
    });
    for told in told {
        let text = told.unwrap_err();
        assert!(text.contains("`synchronised batch norm: false`, rank 0 `synchronised batch norm: true`"), "{text}");
    }
}

#[test]
fn a_dropped_trainer_leaves_the_layers_as_they_were() {
    let states = LocalCommunicator::run(2, |communicator| {
        let (model, parameters) = cnn(false)?;
        let builder = Trainer::builder(model, &parameters, weighted(), Sgd::new(&parameters)?).learning_rate(0.1);
        let trainer = builder.distributed(communicator).synchronise_batch_norm().quiet().build()?;
        assert!(parameters.ranks().is_some());
        drop(trainer);
        assert!(parameters.ranks().is_none());
        parameters.state()
    });
    assert_eq!(states.unwrap().len(), 2);
}
