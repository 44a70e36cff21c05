//! Times training steps: of lesson 3.1's model and of two convolutional networks. `scripts/bench
//! cell` runs this file twice, as a release binary and as a notebook cell, prints the ratios, and
//! compares the losses bit by bit.

use candle_course::prelude::*;
use std::time::Instant;

/// The shape of a batch, and how many steps make a round.
fn workload(name: &str) -> (Vec<usize>, usize) {
    match name {
        "mlp" => (vec![64, 784], 300),
        "mnist" => (vec![64, 1, 28, 28], 20),
        _ => (vec![64, 3, 32, 32], 5),
    }
}

fn build(name: &str, parameters: &Parameters) -> Result<Sequential> {
    let mut model = Sequential::new();
    // Convolutions by inputs and outputs, after every `pool` of which the image is halved.
    let (channels, pool, normalise, hidden): (&[usize], usize, bool, usize) = match name {
        "mlp" => (&[], 1, false, 784),
        "mnist" => (&[1, 32, 64], 1, false, 64 * 7 * 7),
        _ => (&[3, 32, 32, 64, 64, 128, 128], 2, true, 128 * 4 * 4),
    };
    for (i, pair) in channels.windows(2).enumerate() {
        let convolution = Conv2d::builder(pair[0], pair[1], 3).padding(1);
        model = model.add(convolution.build(&parameters.at(format!("conv{i}")))?);
        if normalise {
            model = model.add(BatchNorm2d::new(pair[1], &parameters.at(format!("norm{i}")))?);
        }
        model = model.add(Activation::Relu);
        if (i + 1) % pool == 0 {
            model = model.add(MaxPool2d::new(2)?);
        }
    }
    Ok(model
        .add(Flatten)
        .add(Linear::new(hidden, 128, &parameters.at("hidden"))?)
        .add(Activation::Relu)
        .add(Linear::new(128, 10, &parameters.at("output"))?))
}

/// The median seconds of a step with SGD in each of `count` rounds, and the loss after it.
fn rounds(name: &str, count: usize) -> Result<Vec<(f64, f32)>> {
    let device = Device::Cpu;
    let parameters = Parameters::new(0, &device);
    let model = build(name, &parameters)?;
    let (shape, steps) = workload(name);
    let mut optimizer = Sgd::new(&parameters)?;
    let numbers: usize = shape.iter().product();
    let pixels: Vec<f32> = (0..numbers).map(|i| ((i * 7919) % 1009) as f32 / 1009.0).collect();
    let classes: Vec<u32> = (0..64).map(|i| i % 10).collect();
    let images = Tensor::from_vec(pixels, shape, &device)?;
    let labels = Tensor::from_vec(classes, 64, &device)?;
    let mut rounds = Vec::new();
    for _ in 0..count {
        let mut seconds = Vec::new();
        for _ in 0..steps {
            let start = Instant::now();
            let logits = model.forward_t(&images, true)?;
            let loss = cross_entropy(&logits, &labels)?;
            let gradients = loss.backward()?;
            optimizer.step(&gradients, 0.05)?;
            seconds.push(start.elapsed().as_secs_f64());
        }
        seconds.sort_by(f64::total_cmp);
        let loss = cross_entropy(&model.forward_t(&images, false)?, &labels)?;
        rounds.push((seconds[seconds.len() / 2], loss.to_scalar()?));
    }
    Ok(rounds)
}

fn main() -> Result<()> {
    for name in ["mlp", "mnist", "cifar"] {
        for (seconds, loss) in rounds(name, 3)? {
            println!("{name} step {seconds:.9} loss {:08x}", loss.to_bits());
        }
    }
    Ok(())
}
