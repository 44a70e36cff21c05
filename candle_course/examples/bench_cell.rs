//! Times one training step of lesson 3.1's model. `scripts/bench cell` runs this file twice, as a
//! release binary and as a notebook cell, prints the ratio, and compares the losses bit by bit.

use candle_course::prelude::*;
use std::time::Instant;

/// The median seconds of a step of the MLP 784-128-10 with SGD, batch 64, in each of `rounds`, and
/// the loss after it.
fn rounds(count: usize) -> Result<Vec<(f64, f32)>> {
    let device = Device::Cpu;
    let parameters = Parameters::new(0, &device);
    let model = Sequential::new()
        .add(Linear::new(784, 128, &parameters.at("hidden"))?)
        .add(Activation::Relu)
        .add(Linear::new(128, 10, &parameters.at("output"))?);
    let mut optimizer = Sgd::new(&parameters).build()?;
    let pixels: Vec<f32> = (0..64 * 784).map(|i| ((i * 7919) % 1009) as f32 / 1009.0).collect();
    let classes: Vec<u32> = (0..64).map(|i| i % 10).collect();
    let images = Tensor::from_vec(pixels, (64, 784), &device)?;
    let labels = Tensor::from_vec(classes, 64, &device)?;
    let mut rounds = Vec::new();
    for _ in 0..count {
        let mut seconds = Vec::new();
        for _ in 0..300 {
            let start = Instant::now();
            let logits = model.forward_t(&images, true)?;
            let loss = cross_entropy(&logits, &labels)?;
            let gradients = loss.backward()?;
            optimizer.step(&gradients, 0.1)?;
            seconds.push(start.elapsed().as_secs_f64());
        }
        seconds.sort_by(f64::total_cmp);
        let loss = cross_entropy(&model.forward_t(&images, false)?, &labels)?;
        rounds.push((seconds[seconds.len() / 2], loss.to_scalar()?));
    }
    Ok(rounds)
}

fn main() -> Result<()> {
    for (seconds, loss) in rounds(3)? {
        println!("step {seconds:.9} loss {:08x}", loss.to_bits());
    }
    Ok(())
}
