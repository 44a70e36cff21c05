//! A convolutional network on MNIST, from the images to a figure: `cargo run --release --example mnist`.

use candle_course::prelude::*;

fn main() -> Result<()> {
    let device = device::best();
    let mnist = Mnist::load()?;
    let train = DataLoader::builder(mnist.train()).batch_size(64).shuffle(1).workers(1).device(&device).build()?;
    let test = DataLoader::builder(mnist.test()).batch_size(500).device(&device).build()?;

    let parameters = Parameters::new(42, &device);
    let model = Sequential::new()
        .add(Conv2d::builder(1, 16, 3).padding(1).build(&parameters.at("conv1"))?)
        .add(Activation::Relu)
        .add(MaxPool2d::new(2)?)
        .add(Conv2d::builder(16, 32, 3).padding(1).build(&parameters.at("conv2"))?)
        .add(Activation::Relu)
        .add(MaxPool2d::new(2)?)
        .add(Flatten)
        .add(Linear::new(32 * 7 * 7, 10, &parameters.at("fc"))?);

    let epochs = 3;
    let steps = epochs * train.len();
    let optimizer = AdamW::builder(&parameters).weight_decay(0.01).build()?;
    let mut trainer = Trainer::builder(model, &parameters, CrossEntropy::default(), optimizer)
        .epochs(epochs)
        .schedule(OneCycleLR::builder(0.003, steps).build()?)
        .metric(Accuracy::default())
        .build()?;
    let history = trainer.fit(&train, Some(&test))?;
    history.curves()?.save("mnist.svg")?;
    println!("the curves are in mnist.svg");
    Ok(())
}
