//! What TensorBoard costs a training. `scripts/bench tensorboard` runs it.

use std::time::Instant;

use candle_course::prelude::*;

const EPOCHS: usize = 6;

fn main() -> Result<()> {
    let folder = std::env::temp_dir().join(format!("bench_tensorboard-{}", std::process::id()));
    let result = run(&folder);
    std::fs::remove_dir_all(&folder)?;
    result
}

fn run(folder: &std::path::Path) -> Result<()> {
    let writer = SummaryWriter::new(folder.join("single"))?;
    let mut generator = Generator::new(0);
    let values: Vec<f32> = (0..100_000).map(|_| generator.normal() as f32).collect();
    let weights = Tensor::new(values, &Device::Cpu)?;
    let loss = LineChart::builder("Loss").line("train", &[2.3, 1.0, 0.5]).build()?;
    report("scalar", 100_000, |step| writer.scalar("loss", step as f64, step))?;
    report("histogram of 100,000 values", 50, |step| writer.histogram("weights", &weights, step))?;
    report("figure", 5, |step| writer.figure("loss", &loss, step))?;

    // Alternately, so that a busy machine slows both.
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for round in 0..3 {
        without.extend(epochs(None)?);
        with.extend(epochs(Some(&folder.join(format!("run-{round}"))))?);
    }
    let median = |seconds: &mut Vec<f64>| {
        seconds.sort_by(f64::total_cmp);
        1e3 * seconds[seconds.len() / 2]
    };
    let (with, without) = (median(&mut with), median(&mut without));
    println!("epoch of 6,000 digits, MLP 784-128-10, without TensorBoard: {without:.1} ms");
    println!("the same with scalars and histograms: {with:.1} ms, {:+.1} %", 100.0 * (with / without - 1.0));
    Ok(())
}

fn report(what: &str, times: usize, mut call: impl FnMut(usize) -> Result<()>) -> Result<()> {
    let start = Instant::now();
    (0..times).try_for_each(&mut call)?;
    println!("{what}: {:.4} ms", 1e3 * start.elapsed().as_secs_f64() / times as f64);
    Ok(())
}

/// Seconds of each epoch but the first.
fn epochs(run: Option<&std::path::Path>) -> Result<Vec<f64>> {
    let mut generator = Generator::new(1);
    let pixels: Vec<f32> = (0..6000 * 784).map(|_| generator.uniform() as f32).collect();
    let labels: Vec<u32> = (0..6000).map(|_| generator.below(10) as u32).collect();
    let digits =
        TensorDataset::new(Tensor::from_vec(pixels, (6000, 784), &Device::Cpu)?, Tensor::new(labels, &Device::Cpu)?)?;
    let loader = DataLoader::builder(digits).batch_size(64).shuffle(0).build()?;
    let parameters = Parameters::new(0, &Device::Cpu);
    let model = Sequential::new()
        .add(Linear::new(784, 128, &parameters.at("fc1"))?)
        .add(Activation::Relu)
        .add(Linear::new(128, 10, &parameters.at("fc2"))?);
    let optimizer = Sgd::new(&parameters)?;
    let mut builder = Trainer::builder(model, &parameters, CrossEntropy::default(), optimizer)
        .epochs(EPOCHS)
        .learning_rate(0.01)
        .quiet();
    if let Some(folder) = run {
        builder = builder.callback(TensorBoard::new(folder)?);
    }
    let start = Instant::now();
    let mut ends = Vec::new();
    let mut trainer = builder.build()?;
    for epoch in 1..=EPOCHS {
        trainer.set_epochs(epoch);
        trainer.fit(&loader, None)?;
        ends.push(start.elapsed().as_secs_f64());
    }
    Ok(ends.windows(2).map(|pair| pair[1] - pair[0]).collect())
}
