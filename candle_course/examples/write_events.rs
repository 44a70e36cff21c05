//! Two runs with every kind of summary, for a look at TensorBoard.
//!
//! ```text
//! cargo run --release --example write_events -- runs/
//! tensorboard --logdir runs/
//! ```

use candle_course::plot::{HeatMap, LineChart};
use candle_course::prelude::*;

fn main() -> Result<()> {
    let folder = std::env::args().nth(1).unwrap_or_else(|| "runs".into());
    for (run, rate) in [("low-rate", 0.01), ("high-rate", 0.1)] {
        write(&format!("{folder}/{run}"), rate)?;
    }
    println!("two runs in {folder}");
    Ok(())
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

    let gradient: Vec<f32> = (0..3 * 16 * 16).map(|i| (i % 16) as f32 / 15.0).collect();
    let image = Tensor::from_vec(gradient, (3, 16, 16), &Device::Cpu)?;
    writer.image("input/first", &image, 0)?;
    writer.images("input/batch", &Tensor::stack(&[&image, &image.affine(-1.0, 1.0)?, &image.sqr()?], 0)?, 0)?;

    let counts = [vec![90, 10], vec![(200.0 * rate) as u64, 80]];
    writer.figure("confusion_matrix", &HeatMap::confusion("Validation", &counts, &["land", "water"]).build()?, 199)?;
    writer.figure("curve", &LineChart::new("Loss").line("train", &[2.3, 1.0, 0.5]).build()?, 199)?;

    let labels: Vec<f64> = (0..500).map(|i| f64::from(i % 5 == 0)).collect();
    let scores: Vec<f64> =
        labels.iter().map(|label| (0.35 * label + 0.3 + 0.12 * generator.normal()).clamp(0.0, 1.0)).collect();
    writer.pr_curve("water", &Tensor::new(labels, &Device::Cpu)?, &Tensor::new(scores, &Device::Cpu)?, 199)?;
    writer.close()
}
