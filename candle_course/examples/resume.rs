//! A training that survives being killed: start it, stop it with Ctrl-C, start it again.
//!
//! What comes out is the same to the last bit as without the interruption.

use candle_course::prelude::*;

const FOLDER: &str = "checkpoints/resume";

fn main() -> Result<()> {
    let mnist = Mnist::load()?;
    let train = DataLoader::builder(mnist.train()).batch_size(64).shuffle(1).build()?;
    let test = DataLoader::builder(mnist.test()).batch_size(500).build()?;
    let parameters = Parameters::new(42, &Device::Cpu);
    let model = Sequential::new()
        .add(Flatten)
        .add(Linear::new(784, 256, &parameters.at("fc1"))?)
        .add(Activation::Relu)
        .add(Dropout::new(0.2, &parameters.at("dropout"))?)
        .add(Linear::new(256, 10, &parameters.at("fc2"))?);
    let epochs = 20;
    let optimizer = AdamW::builder(&parameters).weight_decay(0.01).build()?;
    let mut trainer = Trainer::builder(model, &parameters, CrossEntropy::default(), optimizer)
        .epochs(epochs)
        .schedule(CosineAnnealingLR::builder(0.002, epochs * train.len()).build()?)
        .metric(Accuracy::default())
        // Also in the middle of an epoch; the two newest are kept, and the one with the best accuracy.
        .checkpoints(Checkpoints::builder(FOLDER).every_steps(50).keep_last(2).keep_best(1, "accuracy").build()?)
        .build()?;

    if trainer.resume(FOLDER)? {
        println!("going on at step {}", trainer.state().step);
    }
    let history = trainer.fit(&train, Some(&test))?;
    println!("{history}\n{FOLDER} holds the trained model; remove it to begin anew");
    Ok(())
}
