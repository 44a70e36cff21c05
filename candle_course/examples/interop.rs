//! The Rust half of `scripts/interop`: reads networks that PyTorch saved and compares logits, then
//! saves networks of its own for PyTorch to do the same.

use std::path::Path;

use candle_course::prelude::*;

fn build(name: &str, parameters: &Parameters) -> Result<Sequential> {
    let at = |name: &str| parameters.at(name);
    let model = Sequential::new();
    Ok(match name {
        "mlp" => model
            .add(Flatten)
            .add(Linear::new(784, 128, &at("fc1"))?)
            .add(Activation::Relu)
            .add(Linear::new(128, 64, &at("fc2"))?)
            .add(Activation::Relu)
            .add(Linear::new(64, 10, &at("fc3"))?),
        "mnist_cnn" => model
            .add(Conv2d::builder(1, 32, 3).padding(1).build(&at("conv1"))?)
            .add(Activation::Relu)
            .add(MaxPool2d::new(2)?)
            .add(Conv2d::builder(32, 64, 3).padding(1).build(&at("conv2"))?)
            .add(Activation::Relu)
            .add(MaxPool2d::new(2)?)
            .add(Flatten)
            .add(Linear::new(3136, 128, &at("fc1"))?)
            .add(Activation::Relu)
            .add(Linear::new(128, 10, &at("fc2"))?),
        _ => {
            let mut model = model;
            for (index, (inputs, outputs)) in
                [(3, 32), (32, 32), (32, 64), (64, 64), (64, 128), (128, 128)].into_iter().enumerate()
            {
                model = model
                    .add(Conv2d::builder(inputs, outputs, 3).padding(1).build(&at(&format!("conv{index}")))?)
                    .add(BatchNorm2d::new(outputs, &at(&format!("norm{index}")))?)
                    .add(Activation::Relu);
                if index % 2 == 1 {
                    model = model.add(MaxPool2d::new(2)?);
                }
            }
            model.add(Flatten).add(Linear::new(2048, 256, &at("fc1"))?).add(Activation::Relu).add(Linear::new(
                256,
                10,
                &at("fc2"),
            )?)
        }
    })
}

fn main() -> Result<()> {
    let folder =
        std::env::args().nth(1).ok_or_else(|| Error::argument("folder", "a folder to exchange files in", "nothing"))?;
    let folder = Path::new(&folder);
    for name in ["mlp", "mnist_cnn", "cifar_cnn"] {
        let probe = read_weights(folder.join(format!("{name}.probe.safetensors")))?;
        let mut parameters = Parameters::new(0, &Device::Cpu);
        let model = build(name, &parameters)?;
        load_weights(&mut parameters, folder.join(format!("{name}.pytorch.safetensors")))?;
        let logits = model.forward_t(&probe["xs"], false)?;
        let difference = (logits - &probe["logits"])?.abs()?.max_all()?.to_scalar::<f32>()?;
        println!("{name} {difference:.2e}");

        let parameters = Parameters::new(7, &Device::Cpu);
        let model = build(name, &parameters)?;
        let mut optimizer = Sgd::new(&parameters)?;
        let examples = probe["xs"].dims()[0] as u32;
        let targets = Tensor::arange(0u32, examples, &Device::Cpu)?;
        let batch = Batch { inputs: probe["xs"].clone(), targets, indices: (0..examples as usize).collect() };
        for _ in 0..3 {
            train_step(&model, &CrossEntropy::default(), &mut optimizer, &batch, 0.05)?;
        }
        save_weights(&parameters, folder.join(format!("{name}.ours.safetensors")))?;
        let logits = [("logits".to_owned(), model.forward_t(&probe["xs"], false)?.detach())];
        write_weights(&logits.into(), None, folder.join(format!("{name}.ours-logits.safetensors")))?;
    }
    Ok(())
}
