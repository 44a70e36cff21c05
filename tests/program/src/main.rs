//! Trains a line; fails if the loss does not fall. `scripts/test program` builds it in the profile
//! `program`, with `panic = "abort"` and `lto = true`, neither of which a dynamic library allows.

use candle_course::prelude::*;

fn main() -> Result<()> {
    let x = Tensor::arange(0f32, 32.0, &Device::Cpu)?.reshape((32, 1))?;
    let y = ((&x * 0.5)? + 1.0)?;
    let parameters = Parameters::new(1, &Device::Cpu);
    let model = Sequential::new().add(Linear::new(1, 1, &parameters.at("fc"))?);
    let optimizer = AdamW::builder(&parameters).build()?;
    let train = DataLoader::builder(TensorDataset::new(x, y)?).batch_size(8).shuffle(1).workers(2).build()?;
    let mut trainer = Trainer::builder(model, &parameters, Mse::default(), optimizer)
        .epochs(20)
        .learning_rate(0.05)
        .quiet()
        .build()?;
    let losses = trainer.fit(&train, None)?.step_losses();
    let (Some(first), Some(last)) = (losses.first(), losses.last()) else {
        return Err(Error::training("no step was made"));
    };
    println!("loss {first:.4} at the first step, {last:.4} at the last");
    if last.is_nan() || last >= first {
        return Err(Error::training("the loss did not fall"));
    }
    Ok(())
}
