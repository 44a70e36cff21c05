//! Fine-tuning: a ResNet-18 that has learnt from many images of one set goes on with a few of another.
//!
//! `cargo run --release --example finetune [weights]`. No pretrained weights come with this crate, so
//! the example trains its own, on Fashion-MNIST, and moves them to 200 digits of MNIST. With a file of
//! weights (of `torchvision.models.resnet18`, say, safetensors or from `torch.save`) it takes those: all
//! but the head, and but the first convolution, which is for 3 channels there.

use candle_course::prelude::*;

/// Digits with a label: few, so that what was learnt elsewhere counts.
const DIGITS: usize = 200;
const EPOCHS: usize = 10;

/// Parameters and model for images of one channel.
fn build(classes: usize, device: &Device) -> Result<(Parameters, ResNet18)> {
    let parameters = Parameters::new(42, device);
    let model = ResNet18::builder(classes).in_channels(1).build(&parameters.root())?;
    Ok((parameters, model))
}

/// All but the head, and but the first convolution if the weights are of coloured images.
fn body(of_colours: bool) -> Result<WeightLoading> {
    let loading = WeightLoading::builder().skip("fc");
    if of_colours { loading.skip("conv1") } else { loading }.build()
}

fn loader(data: impl Dataset + 'static, device: &Device) -> Result<DataLoader> {
    DataLoader::builder(data).batch_size(50).shuffle(1).device(device).build()
}

fn train(
    (parameters, model): (&Parameters, &ResNet18),
    optimizer: AdamW,
    epochs: usize,
    (data, validation): (&DataLoader, &DataLoader),
) -> Result<f64> {
    let mut trainer = Trainer::builder(model.clone(), parameters, CrossEntropy::default(), optimizer)
        .epochs(epochs)
        .schedule(OneCycleLR::new(0.003, epochs * data.len())?)
        .metric(Accuracy::default())
        .quiet()
        .build()?;
    let history = trainer.fit(data, Some(validation))?;
    history.epochs().last().map_or(Ok(0.0), |record| record.metric("accuracy"))
}

fn main() -> Result<()> {
    let device = device::best();
    let given = std::env::args().nth(1);
    let folder = std::env::temp_dir().join("candle_course_finetune");
    std::fs::create_dir_all(&folder)?;
    let path = match &given {
        Some(path) => path.into(),
        None => {
            println!("no weights given: training our own on Fashion-MNIST");
            let fashion = FashionMnist::load()?;
            let clothes = fashion.train().len().min(4000);
            let clothes = loader(Subset::new(fashion.train(), &(0..clothes).collect::<Vec<_>>())?, &device)?;
            let unseen = loader(fashion.test(), &device)?;
            let (parameters, model) = build(10, &device)?;
            let accuracy = train((&parameters, &model), AdamW::builder(&parameters).build()?, 4, (&clothes, &unseen))?;
            println!("  accuracy on clothes it has not seen: {accuracy:.3}");
            let path = folder.join("fashion.safetensors");
            save_weights(&parameters, &path)?;
            path
        }
    };

    let mnist = Mnist::load()?;
    let digits = loader(Subset::new(mnist.train(), &(0..DIGITS).collect::<Vec<_>>())?, &device)?;
    let unseen = loader(mnist.test(), &device)?;
    let data = (&digits, &unseen);

    let (parameters, model) = build(10, &device)?;
    let from_nothing = train((&parameters, &model), AdamW::builder(&parameters).build()?, EPOCHS, data)?;

    // The head is new; what is near the input changes least.
    let (mut parameters, model) = build(10, &device)?;
    let report = body(given.is_some())?.load(&mut parameters, &path)?;
    println!("{} tensors of the body loaded; left as they began: {}", report.loaded.len(), report.missing.join(", "));
    let layers = ["conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "fc"];
    let optimizer = AdamW::builder(&parameters).groups(ParameterGroup::layer_wise(layers, 0.8)).build()?;
    let fine_tuned = train((&parameters, &model), optimizer, EPOCHS, data)?;

    // The body stays as it is, its batch norms' statistics too.
    let (mut parameters, model) = build(10, &device)?;
    body(given.is_some())?.load(&mut parameters, &path)?;
    parameters.freeze("")?;
    parameters.unfreeze("fc")?;
    let head_alone = train((&parameters, &model), AdamW::builder(&parameters).build()?, EPOCHS, data)?;

    let mut table = Table::new(["way", "accuracy"]).title(&format!("{DIGITS} digits, {EPOCHS} epochs"));
    table.push(("from nothing", format!("{from_nothing:.3}")));
    table.push(("fine-tuned, layer by layer", format!("{fine_tuned:.3}")));
    table.push(("the head alone", format!("{head_alone:.3}")));
    println!("{table}");
    Ok(())
}
