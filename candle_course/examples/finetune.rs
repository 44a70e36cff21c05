//! Fine-tuning: a ResNet-18 that has learnt from many images of one set goes on with a few of another, and its
//! weights are made ready for the Hugging Face hub.
//!
//! ```text
//! cargo run --release --example finetune [file | owner/name]
//! ```
//!
//! No pretrained weights come with this crate, so the example trains its own, on digits, and moves them to 200
//! pieces of clothing. With a file of weights (of `torchvision.models.resnet18`, say, safetensors or from
//! `torch.save`) or a repository of the hub (`timm/resnet18.tv_in1k`) it takes those: all but the head, and but
//! the first convolution, which is for 3 channels there.

use std::path::Path;
use std::sync::Arc;

use candle_course::prelude::*;

/// Clothes with a label: few, so that what was learnt elsewhere counts.
const CLOTHES: usize = 200;
/// Digits to learn from first.
const DIGITS: usize = 2000;
/// More, to judge by. (The sample that comes with the crate has no more than 300.)
const UNSEEN: usize = 1000;
const EPOCHS: usize = 10;

/// Parameters and model for images of one channel.
fn build(classes: usize, device: &Device) -> Result<(Parameters, ResNet18)> {
    let parameters = Parameters::new(42, device);
    let model = ResNet18::builder(classes).in_channels(1).build(&parameters.root())?;
    Ok((parameters, model))
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
        .progress(Progress::bar())
        .build()?;
    let history = trainer.fit(data, Some(validation))?;
    history.epochs().last().map_or(Ok(0.0), |record| record.metric("accuracy"))
}

/// Weights that were given, or our own of digits; and how they go into the model.
fn pretrained(device: &Device) -> Result<(State, WeightLoading)> {
    if let Some(given) = std::env::args().nth(1) {
        let weights = if Path::new(&given).exists() { read_weights(&given)? } else { hub(&given)? };
        return Ok((weights, WeightLoading::builder().skip("fc").skip("conv1").build()?));
    }
    println!("no weights given: training our own on digits");
    let mnist = Mnist::load()?;
    let digits = loader(Subset::new(mnist.train(), &(0..DIGITS).collect::<Vec<_>>())?, device)?;
    let unseen = loader(Subset::new(mnist.test(), &(0..UNSEEN).collect::<Vec<_>>())?, device)?;
    let (parameters, model) = build(10, device)?;
    let accuracy = train((&parameters, &model), AdamW::builder(&parameters).build()?, 3, (&digits, &unseen))?;
    println!("accuracy on digits that it has not seen: {accuracy:.3}");
    Ok((parameters.state()?, WeightLoading::builder().skip("fc").build()?))
}

#[cfg(feature = "hub")]
fn hub(repository: &str) -> Result<State> {
    HubRepository::new(repository)?.weights()
}

#[cfg(not(feature = "hub"))]
fn hub(repository: &str) -> Result<State> {
    Err(Error::argument("weights", "a file; a repository needs the crate's feature `hub`", repository))
}

fn main() -> Result<()> {
    let device = device::best();
    let (weights, loading) = pretrained(&device)?;

    let fashion = FashionMnist::load()?;
    let clothes = loader(Subset::new(fashion.train(), &(0..CLOTHES).collect::<Vec<_>>())?, &device)?;
    let rest = Subset::new(fashion.train(), &(CLOTHES..fashion.train().len()).collect::<Vec<_>>())?;
    let others = ConcatDataset::new(vec![Arc::new(fashion.test()), Arc::new(rest)])?;
    let unseen = others.len().min(UNSEEN);
    let unseen = loader(Subset::new(others, &(0..unseen).collect::<Vec<_>>())?, &device)?;
    let data = (&clothes, &unseen);

    println!("from nothing");
    let (parameters, model) = build(10, &device)?;
    let from_nothing = train((&parameters, &model), AdamW::builder(&parameters).build()?, EPOCHS, data)?;

    // The body stays as it is, its batch norms' statistics too.
    println!("the head alone");
    let (mut parameters, model) = build(10, &device)?;
    loading.load_tensors(&mut parameters, weights.clone())?;
    parameters.freeze("")?;
    parameters.unfreeze("fc")?;
    let head_alone = train((&parameters, &model), AdamW::builder(&parameters).build()?, EPOCHS, data)?;

    // The head is new; what is near the input changes least.
    println!("fine-tuned");
    let (mut parameters, model) = build(10, &device)?;
    let report = loading.load_tensors(&mut parameters, weights)?;
    println!("{} tensors of the body loaded; left as they began: {}", report.loaded.len(), report.missing.join(", "));
    let layers = ["conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "fc"];
    let optimizer = AdamW::builder(&parameters).groups(ParameterGroup::layer_wise(layers, 0.8)).build()?;
    let fine_tuned = train((&parameters, &model), optimizer, EPOCHS, data)?;

    let title = format!("{CLOTHES} pieces of clothing, {EPOCHS} epochs");
    let mut table = Table::new(["way", "accuracy"]).title(&title);
    table.push(("from nothing", format!("{from_nothing:.3}")));
    table.push(("the head alone", format!("{head_alone:.3}")));
    table.push(("fine-tuned, layer by layer", format!("{fine_tuned:.3}")));
    println!("{table}");

    let folder = std::env::temp_dir().join("candle_course_finetune");
    std::fs::create_dir_all(&folder)?;
    save_weights(&parameters, folder.join("model.safetensors"))?;
    std::fs::write(folder.join("README.md"), card(fine_tuned))?;
    println!("weights and model card: {}", folder.display());
    println!("to the hub: `hf upload owner/name {}`, after `hf auth login`", folder.display());
    Ok(())
}

/// A model card: what the hub shows of a model. The lines at its head are what it is found by.
fn card(accuracy: f64) -> String {
    format!(
        "---
license: mit
pipeline_tag: image-classification
datasets: [zalando-datasets/fashion_mnist]
metrics: [accuracy]
---

# ResNet-18 for clothes

Input: `[N, 1, 28, 28]`, f32, normalised with the mean and standard deviation of Fashion-MNIST's training images.
Output: `[N, 10]`, logits, in the order of Fashion-MNIST's classes.

Fine-tuned on {CLOTHES} images with `candle_course`; accuracy {accuracy:.3} on images that it has not seen. The
names of the tensors are those of `torchvision.models.resnet18`.
"
    )
}
