//! A callback of one's own: it stops a training once the loss of an epoch has fallen far enough, and
//! tells how far the weights have moved.

use candle_course::prelude::*;

struct Enough {
    loss: f64,
    norm_before: f64,
}

/// The Euclidean norm of all trainable parameters.
fn norm(training: &Training) -> Result<f64> {
    let mut sum = 0f32;
    for (_, variable) in training.parameters().trainable() {
        sum += variable.as_tensor().sqr()?.sum_all()?.to_scalar::<f32>()?;
    }
    Ok(f64::from(sum.sqrt()))
}

impl Callback for Enough {
    fn name(&self) -> &str {
        "enough"
    }

    fn epoch_start(&mut self, training: &mut Training) -> Result<Flow> {
        self.norm_before = norm(training)?;
        Ok(Flow::Continue)
    }

    fn epoch_end(&mut self, training: &mut Training) -> Result<Flow> {
        println!("the norm of the weights went from {:.3} to {:.3}", self.norm_before, norm(training)?);
        let reached = training.history().last()?.train_loss < self.loss;
        Ok(if reached { Flow::Stop(format!("the loss is below {}", self.loss)) } else { Flow::Continue })
    }
}

fn main() -> Result<()> {
    let mnist = Mnist::builder().limit(2_000, 500).load()?;
    let train = DataLoader::builder(mnist.train()).batch_size(50).shuffle(1).build()?;
    let parameters = Parameters::new(2, &Device::Cpu);
    let model = Sequential::new().add(Flatten).add(Linear::new(784, 10, &parameters.at("fc"))?);
    let optimizer = Sgd::builder(&parameters).momentum(0.9).build()?;
    let mut trainer = Trainer::builder(model, &parameters, CrossEntropy::default(), optimizer)
        .epochs(20)
        .learning_rate(0.01)
        .callback(Enough { loss: 0.3, norm_before: 0.0 })
        .build()?;
    let history = trainer.fit(&train, None)?;
    println!("{} epochs", history.epochs().len());
    Ok(())
}
