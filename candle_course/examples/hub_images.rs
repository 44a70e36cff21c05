//! Trains a small network for an epoch on any labelled image set of the hub, streamed from its files, and says
//! how fast the images came and how much memory it took.
//!
//! ```text
//! cargo run --release --example hub_images owner/name [split]
//! ```

use std::time::Instant;

use candle_course::prelude::*;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().ok_or_else(|| Error::argument("name", "a set of the hub, owner/name", "nothing"))?;
    let split = arguments.next().unwrap_or_else(|| "train".to_owned());
    let set = HubImages::builder(name).splits(&[&split]).load()?;
    let images = set.split(&split)?;
    let classes = match set.class_names().len() {
        0 => images.labels()?.into_iter().max().unwrap_or(0) as usize + 1,
        named => named,
    };
    let channels = images.get(0)?.input.dim(0)?;

    let parameters = Parameters::new(1, &Device::Cpu);
    let model = Sequential::new()
        .add(Conv2d::builder(channels, 8, 3).stride(2).padding(1).build(&parameters.at("conv1"))?)
        .add(Activation::Relu)
        .add(MaxPool2d::new(2)?)
        .add(Conv2d::builder(8, 16, 3).stride(2).padding(1).build(&parameters.at("conv2"))?)
        .add(Activation::Relu)
        .add(AdaptiveAvgPool2d::new(1)?)
        .add(Flatten)
        .add(Linear::new(16, classes, &parameters.at("fc"))?);
    let mut trainer = Trainer::builder(model, &parameters, CrossEntropy::default(), AdamW::new(&parameters)?)
        .epochs(1)
        .learning_rate(1e-3)
        .progress(Progress::bar())
        .build()?;

    let count = images.len();
    let sampler = images.sampler(1);
    let loader = DataLoader::builder(images).batch_size(16).sampler(sampler).workers(2).build()?;
    let start = Instant::now();
    trainer.fit(&loader, None)?;
    println!("{count} images, {:.0} a second", count as f64 / start.elapsed().as_secs_f64());
    // Linux tells the most that a process ever had.
    if let Ok(status) = std::fs::read_to_string("/proc/self/status") {
        status.lines().filter(|line| line.starts_with("VmHWM")).for_each(|line| println!("{line}"));
    }
    Ok(())
}
