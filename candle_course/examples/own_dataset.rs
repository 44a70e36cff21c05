//! A data set of one's own: points on two spirals, made when they are asked for.

use candle_course::prelude::*;

/// `[x, y]` and the number of the spiral that the point lies on.
struct Spirals {
    points: usize,
}

impl Dataset for Spirals {
    fn len(&self) -> usize {
        self.points
    }

    // Examples come in any order and from any thread, so one depends on its index alone.
    fn get(&self, index: usize) -> Result<Example> {
        if index >= self.points {
            return Err(Error::argument("index", format!("less than {}", self.points), index));
        }
        let spiral = index % 2;
        let along = (index / 2) as f32 / (self.points / 2) as f32;
        let angle = 9.0 * along + std::f32::consts::PI * spiral as f32;
        let radius = 0.1 + 0.9 * along;
        Ok(Example {
            input: Tensor::new(&[radius * angle.cos(), radius * angle.sin()], &Device::Cpu)?,
            target: Tensor::new(spiral as u32, &Device::Cpu)?,
        })
    }
}

fn main() -> Result<()> {
    let spirals = Spirals { points: 2_000 };
    let split = Split::builder(spirals.len()).validation(0.2).seed(1).build()?;
    let spirals = std::sync::Arc::new(spirals);
    let part = |indices: &[usize]| Subset::new(spirals.clone(), indices);
    let train = DataLoader::builder(part(split.train())?).batch_size(64).shuffle(2).workers(2).build()?;
    let validation = DataLoader::builder(part(split.validation())?).batch_size(500).build()?;

    let parameters = Parameters::new(3, &Device::Cpu);
    let model = Sequential::new()
        .add(Linear::new(2, 32, &parameters.at("fc1"))?)
        .add(Activation::Tanh)
        .add(Linear::new(32, 32, &parameters.at("fc2"))?)
        .add(Activation::Tanh)
        .add(Linear::new(32, 2, &parameters.at("fc3"))?);
    let optimizer = AdamW::builder(&parameters).build()?;
    let mut trainer = Trainer::builder(model, &parameters, CrossEntropy::default(), optimizer)
        .epochs(20)
        .learning_rate(0.01)
        .metric(Accuracy::default())
        .build()?;
    trainer.fit(&train, Some(&validation))?;
    Ok(())
}
