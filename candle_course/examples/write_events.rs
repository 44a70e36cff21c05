//! Two runs with every kind of summary, for a look at TensorBoard.
//!
//! ```text
//! cargo run --release --example write_events -- runs/
//! tensorboard --logdir runs/
//! ```
//!
//! With a second folder, four more runs there, for the tests: a small one, one that was resumed, one
//! that a training wrote in two attempts, one that failed.

use candle_course::plot::{HeatMap, LineChart};
use candle_course::prelude::*;

fn main() -> Result<()> {
    let folder = std::env::args().nth(1).unwrap_or_else(|| "runs".into());
    for (run, rate) in [("low-rate", 0.01), ("high-rate", 0.1)] {
        write(&format!("{folder}/{run}"), rate)?;
    }
    println!("two runs in {folder}");
    let Some(more) = std::env::args().nth(2) else { return Ok(()) };
    small(&format!("{more}/small"))?;
    resumed(&format!("{more}/resumed"))?;
    trained(&format!("{more}/trained"))?;
    failed(&format!("{more}/failed"))
}

/// A scalar, an image and a text in less than a kilobyte.
fn small(folder: &str) -> Result<()> {
    let writer = SummaryWriter::new(folder)?;
    writer.scalar("loss", 0.5, 1)?;
    writer.image("ramp", &Tensor::arange(0f32, 16., &Device::Cpu)?.reshape((4, 4))?.affine(1.0 / 15.0, 0.0)?, 2)?;
    writer.text("note", "the end", 3)?;
    writer.close()
}

/// Two files: steps 0 to 9 with the value 1, then, from a checkpoint at step 6, 6 to 11 with 2.
fn resumed(folder: &str) -> Result<()> {
    let first = SummaryWriter::new(folder)?;
    (0..10).try_for_each(|step| first.scalar("loss", 1.0, step))?;
    first.close()?;
    let second = SummaryWriter::new(folder)?;
    second.resume_from(6)?;
    (6..12).try_for_each(|step| second.scalar("loss", 2.0, step))?;
    second.close()
}

/// What the callback writes: an attempt of two epochs, then, in the same folder, a new one of three.
fn trained(folder: &str) -> Result<()> {
    fit(folder, 2, None)?;
    fit(folder, 3, None)?.save(format!("{folder}/history.json"))
}

fn failed(folder: &str) -> Result<()> {
    let error = fit(folder, 3, Some(5)).err().map(|error| error.to_string()).unwrap_or_default();
    assert!(error.contains("as told"), "{error}");
    Ok(())
}

/// Fails after so many steps.
struct FailsAt(usize);

impl Callback for FailsAt {
    fn name(&self) -> &str {
        "fails"
    }
    fn step_end(&mut self, training: &mut Training) -> Result<Flow> {
        match training.state().step == self.0 {
            true => Err(Error::training("as told")),
            false => Ok(Flow::Continue),
        }
    }
}

fn fit(folder: &str, epochs: usize, fails: Option<usize>) -> Result<History> {
    let mut generator = Generator::new(1);
    let inputs: Vec<f32> = (0..64).map(|_| generator.normal() as f32).collect();
    let targets: Vec<u32> = inputs.chunks(2).map(|x| u32::from(x[0] > x[1])).collect();
    let data = TensorDataset::new(
        Tensor::from_vec(inputs, (32, 2), &Device::Cpu)?,
        Tensor::from_vec(targets, 32, &Device::Cpu)?,
    )?;
    let first = data.batch(&[0, 1, 2, 3])?;
    let train = DataLoader::builder(data).batch_size(8).shuffle(1).build()?;
    let parameters = Parameters::new(0, &Device::Cpu);
    let model = Sequential::new()
        .add(Linear::new(2, 8, &parameters.at("fc1"))?)
        .add(Activation::Relu)
        .add(Linear::new(8, 2, &parameters.at("fc2"))?);
    let probe = Probe::new();
    let tensorboard = TensorBoard::builder(folder)
        .every_steps(2)
        .hyper_parameters(HyperParameters::new().number("epochs", epochs as f64))
        .probe(&probe, first)
        .build()?;
    let optimizer = Sgd::new(&parameters)?;
    let builder = Trainer::builder(probe.sequential(&model), &parameters, CrossEntropy::default(), optimizer)
        .epochs(epochs)
        .learning_rate(0.1)
        .metric(Accuracy::default())
        .callback(tensorboard)
        .callback(FailsAt(fails.unwrap_or(usize::MAX)));
    builder.quiet().build()?.fit(&train, Some(&train))
}

fn write(folder: &str, rate: f64) -> Result<()> {
    let writer = SummaryWriter::new(folder)?;
    writer.hyper_parameters(
        &HyperParameters::new()
            .number("learning_rate", rate)
            .text("optimizer", "SGD")
            .flag("augmentation", rate > 0.05)
            .metric("accuracy/validation"),
    )?;
    writer.custom_scalars(
        "Training",
        &[("loss", &["loss/train", "loss/validation"]), ("accuracy", &["accuracy/validation"])],
    )?;
    writer.text("notes", "A run with **learning rate** `rate`, made up.", 0)?;

    let mut generator = Generator::new(7);
    for step in 0..200 {
        let progress = (-rate * step as f64).exp();
        writer.scalar("loss/train", 2.3 * progress + 0.01 * generator.uniform(), step)?;
        if step % 20 == 0 {
            writer.scalar("loss/validation", 2.3 * progress + 0.2, step)?;
            writer.scalar("accuracy/validation", 0.95 - 0.85 * progress, step)?;
            let weights: Vec<f32> = (0..1000).map(|_| (0.1 * generator.normal() / (1.0 + progress)) as f32).collect();
            writer.histogram("weights/fc1", &Tensor::from_vec(weights, (10, 100), &Device::Cpu)?, step)?;
        }
    }

    // The number k comes k + 1 times: 64 buckets of width 1, the last with both of its edges.
    let ramp: Vec<f64> = (0..=64).flat_map(|k| vec![f64::from(k); k as usize + 1]).collect();
    writer.histogram_of("weights/ramp", &ramp, 0)?;

    let gradient: Vec<f32> = (0..3 * 16 * 16).map(|i| (i % 16) as f32 / 15.0).collect();
    let image = Tensor::from_vec(gradient, (3, 16, 16), &Device::Cpu)?;
    writer.image("input/first", &image, 0)?;
    writer.images("input/batch", &Tensor::stack(&[&image, &image.affine(-1.0, 1.0)?, &image.sqr()?], 0)?, 0)?;

    let counts = [vec![90, 10], vec![(200.0 * rate) as u64, 80]];
    writer.figure("confusion_matrix", &HeatMap::confusion("Validation", &counts, &["land", "water"]).build()?, 199)?;
    writer.figure("curve", &LineChart::builder("Loss").line("train", &[2.3, 1.0, 0.5]).build()?, 199)?;

    let labels: Vec<f64> = (0..500).map(|i| f64::from(i % 5 == 0)).collect();
    let scores: Vec<f64> =
        labels.iter().map(|label| (0.35 * label + 0.3 + 0.12 * generator.normal()).clamp(0.0, 1.0)).collect();
    writer.pr_curve("water", &Tensor::new(labels, &Device::Cpu)?, &Tensor::new(scores, &Device::Cpu)?, 199)?;
    writer.close()
}
