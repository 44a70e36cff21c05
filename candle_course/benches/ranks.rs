//! What several ranks cost and bring, for `scripts/bench ranks` and `scripts/scaling measure`. Started by `mpirun`
//! (with the feature `mpi`), or alone.
//!
//! `ranks reduce` times sums over all ranks and prints `numbers seconds` for sizes from 1 to 16 million.
//! `ranks train MODEL BATCH STEPS ROUNDS` trains the CIFAR CNN (`cnn`) or a small perceptron (`mlp`) on batches of
//! BATCH examples of all ranks together, and prints the milliseconds of a step for every round.
//! `ranks overhead MODEL BATCH STEPS ROUNDS` trains without ranks and with a group of one in turns, and prints both.

use std::sync::Arc;
use std::time::Instant;

use candle_course::distributed::{SingleProcess, launch};
use candle_course::prelude::*;

// As the other benchmarks: glibc gives large tensors back to the system after every operation.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const USAGE: &str = "reduce, or train or overhead and MODEL BATCH STEPS ROUNDS";

fn main() -> Result<()> {
    // What cargo adds.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    launch(|communicator| match arguments[..] {
        ["reduce"] => reduce(&*communicator),
        [what, model, batch, steps, rounds] => {
            let [batch, steps, rounds] = [batch, steps, rounds].map(str::parse::<usize>);
            let (batch, steps, rounds) = (batch?, steps?, rounds?);
            let rank = communicator.rank();
            match what {
                "train" => {
                    for milliseconds in train(model, batch, steps, rounds, Some(communicator))? {
                        if rank == 0 {
                            println!("{milliseconds:.4}");
                        }
                    }
                    Ok(())
                }
                "overhead" => overhead(model, batch, steps, rounds),
                _ => Err(Error::argument("arguments", USAGE, what)),
            }
        }
        _ => Err(Error::argument("arguments", USAGE, format!("{arguments:?}"))),
    })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn reduce(communicator: &dyn Communicator) -> Result<()> {
    for exponent in 0..=12 {
        let numbers = 4usize.pow(exponent);
        let mut values = vec![1f32; numbers];
        let seconds = (0..if numbers > 1 << 20 { 15 } else { 61 })
            .map(|_| {
                communicator.barrier()?;
                let started = Instant::now();
                communicator.all_reduce_f32(&mut values)?;
                let seconds = started.elapsed().as_secs_f64();
                values.fill(1.0);
                Ok(seconds)
            })
            .collect::<Result<Vec<f64>>>()?;
        if communicator.rank() == 0 {
            println!("{numbers} {:.9}", median(seconds));
        }
    }
    Ok(())
}

fn model(name: &str, parameters: &Parameters) -> Result<(Sequential, Vec<usize>)> {
    if name == "mlp" {
        let model = Sequential::new()
            .add(Linear::new(784, 128, &parameters.at("fc1"))?.with_relu())
            .add(Linear::new(128, 64, &parameters.at("fc2"))?.with_relu())
            .add(Linear::new(64, 10, &parameters.at("fc3"))?);
        return Ok((model, vec![784]));
    }
    let mut model = Sequential::new();
    let mut from = 3;
    for (i, to) in [32, 32, 64, 64, 128, 128].into_iter().enumerate() {
        let conv = Conv2d::builder(from, to, 3).padding(1).build(&parameters.at(format!("conv{i}")))?;
        model = model.add(conv).add(BatchNorm2d::new(to, &parameters.at(format!("norm{i}")))?.with_relu());
        if i % 2 == 1 {
            model = model.add(MaxPool2d::new(2)?);
        }
        from = to;
    }
    let first = Linear::new(2048, 256, &parameters.at("fc1"))?.with_relu();
    let model = model.add(Flatten).add(first).add(Linear::new(256, 10, &parameters.at("fc2"))?);
    Ok((model, vec![3, 32, 32]))
}

/// Milliseconds of a step, for every round; the first is left out.
fn train(
    name: &str,
    batch: usize,
    steps: usize,
    rounds: usize,
    communicator: Option<Arc<dyn Communicator>>,
) -> Result<Vec<f64>> {
    let parameters = Parameters::new(0, &Device::Cpu);
    let (model, shape) = model(name, &parameters)?;
    let examples = batch * steps;
    let mut generator = Generator::new(1);
    let count = examples * shape.iter().product::<usize>();
    let inputs: Vec<f32> = (0..count).map(|_| generator.normal() as f32).collect();
    let labels: Vec<u32> = (0..examples).map(|_| generator.below(10) as u32).collect();
    let inputs = Tensor::from_vec(inputs, [vec![examples], shape].concat(), &Device::Cpu)?;
    let data = TensorDataset::new(inputs, Tensor::from_vec(labels, examples, &Device::Cpu)?)?;
    let (rank, ranks) = communicator.as_ref().map_or((0, 1), |communicator| (communicator.rank(), communicator.size()));
    let train = DataLoader::builder(data).batch_size(batch / ranks).build()?.shard(rank, ranks)?;
    let optimizer = Sgd::builder(&parameters).momentum(0.9).build()?;
    let mut builder = Trainer::builder(model, &parameters, CrossEntropy::default(), optimizer)
        .epochs(1 + rounds)
        .learning_rate(0.01)
        .quiet();
    if let Some(communicator) = communicator {
        builder = builder.distributed(communicator);
    }
    let history = builder.build()?.fit(&train, None)?;
    Ok(history.epochs()[1..].iter().map(|epoch| 1e3 * epoch.train_seconds / steps as f64).collect())
}

fn overhead(name: &str, batch: usize, steps: usize, rounds: usize) -> Result<()> {
    for round in 0..rounds {
        let one = || train(name, batch, steps, 3, Some(Arc::new(SingleProcess)));
        let without = || train(name, batch, steps, 3, None);
        // Who goes first changes, too.
        let (alone, with) = if round % 2 == 0 {
            let alone = without()?;
            (alone, one()?)
        } else {
            let with = one()?;
            (without()?, with)
        };
        println!("{:.4} {:.4}", median(alone), median(with));
    }
    Ok(())
}
