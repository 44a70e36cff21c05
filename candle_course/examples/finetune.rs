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
//! the first convolution, which is for 3 channels there. Every way is gone several times, from other seeds: with
//! so few images one run says little.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use candle_course::prelude::*;

// An allocator that keeps large freed blocks spares every batch the page faults of fresh memory.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Clothes with a label: few, so that what was learnt elsewhere counts.
const CLOTHES: usize = 200;
/// Digits to learn from first.
const DIGITS: usize = 2000;
/// More, to judge by. (The sample that comes with the crate has no more than 300.)
const UNSEEN: usize = 1000;
const EPOCHS: usize = 10;
const SEEDS: [u64; 3] = [1, 2, 3];

/// Parameters and model for images of one channel.
fn build(seed: u64, device: &Device) -> Result<(Parameters, ResNet18)> {
    let parameters = Parameters::new(seed, device);
    let model = ResNet18::builder(10).in_channels(1).build(&parameters.root())?;
    Ok((parameters, model))
}

fn loader(data: impl Dataset + 'static, seed: u64, device: &Device) -> Result<DataLoader> {
    DataLoader::builder(data).batch_size(50).shuffle(seed).device(device).build()
}

/// Trains, and gives the accuracy on what was not trained on.
fn train(
    (parameters, model): (&Parameters, &ResNet18),
    optimizer: AdamW,
    epochs: usize,
    (data, unseen): (&DataLoader, &DataLoader),
) -> Result<f64> {
    let mut trainer = Trainer::builder(model.clone(), parameters, CrossEntropy::default(), optimizer)
        .epochs(epochs)
        .schedule(OneCycleLR::new(0.003, epochs * data.len())?)
        .build()?;
    let start = Instant::now();
    trainer.fit(data, None)?;
    let milliseconds = start.elapsed().as_secs_f64() * 1e3 / (epochs * data.len()) as f64;
    let accuracy =
        evaluate(model, &CrossEntropy::default(), unseen, &mut [Box::new(Accuracy::default())])?.metrics[0].1;
    println!("  {} steps of {milliseconds:.0} ms, accuracy {accuracy:.3}", epochs * data.len());
    Ok(accuracy)
}

/// Weights that were given, or our own of digits; and how they go into the model.
fn pretrained(device: &Device) -> Result<(State, WeightLoading)> {
    if let Some(given) = std::env::args().nth(1) {
        let weights = if Path::new(&given).exists() { read_weights(&given)? } else { hub(&given)? };
        return Ok((weights, WeightLoading::builder().skip("fc").skip("conv1").build()?));
    }
    println!("no weights given: training our own on digits");
    let mnist = Mnist::load()?;
    let digits = loader(Subset::new(mnist.train(), &(0..DIGITS).collect::<Vec<_>>())?, 1, device)?;
    let unseen = loader(Subset::new(mnist.test(), &(0..UNSEEN).collect::<Vec<_>>())?, 1, device)?;
    let (parameters, model) = build(0, device)?;
    train((&parameters, &model), AdamW::builder(&parameters).build()?, 3, (&digits, &unseen))?;
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
    let clothes = Arc::new(Subset::new(fashion.train(), &(0..CLOTHES).collect::<Vec<_>>())?);
    let rest = Subset::new(fashion.train(), &(CLOTHES..fashion.train().len()).collect::<Vec<_>>())?;
    let others = ConcatDataset::new(vec![Arc::new(fashion.test()), Arc::new(rest)])?;
    let count = others.len().min(UNSEEN);
    let unseen = loader(Subset::new(others, &(0..count).collect::<Vec<_>>())?, 1, &device)?;

    let ways = ["from nothing", "the head alone", "fine-tuned, layer by layer"];
    let mut accuracies: [Vec<f64>; 3] = Default::default();
    let mut last = None;
    for seed in SEEDS {
        let clothes = loader(Arc::clone(&clothes), seed, &device)?;
        let data = (&clothes, &unseen);

        println!("seed {seed}: {}", ways[0]);
        let (parameters, model) = build(seed, &device)?;
        let optimizer = AdamW::builder(&parameters).build()?;
        accuracies[0].push(train((&parameters, &model), optimizer, EPOCHS, data)?);

        // The body stays as it is, its batch norms' statistics too.
        println!("seed {seed}: {}", ways[1]);
        let (mut parameters, model) = build(seed, &device)?;
        loading.load_tensors(&mut parameters, weights.clone())?;
        parameters.freeze("")?;
        parameters.unfreeze("fc")?;
        let optimizer = AdamW::builder(&parameters).build()?;
        accuracies[1].push(train((&parameters, &model), optimizer, EPOCHS, data)?);

        // The head is new; what is near the input changes least.
        println!("seed {seed}: {}", ways[2]);
        let (mut parameters, model) = build(seed, &device)?;
        let report = loading.load_tensors(&mut parameters, weights.clone())?;
        println!("  {} tensors loaded; left as they began: {}", report.loaded.len(), report.missing.join(", "));
        let layers = ["conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "fc"];
        let optimizer = AdamW::builder(&parameters).groups(ParameterGroup::layer_wise(layers, 0.8)).build()?;
        accuracies[2].push(train((&parameters, &model), optimizer, EPOCHS, data)?);
        last = Some(parameters);
    }

    let title = format!("{CLOTHES} pieces of clothing, {EPOCHS} epochs, judged by {count} others");
    let mut table = Table::new(["way", "accuracy, mean", "lowest", "highest"]).title(&title);
    for (way, accuracies) in ways.iter().zip(&accuracies) {
        let [mean, lowest, highest] = summary(accuracies).map(|accuracy| format!("{accuracy:.3}"));
        table.push((*way, mean, lowest, highest));
    }
    println!("{table}");

    let folder = std::env::temp_dir().join("candle_course_finetune");
    std::fs::create_dir_all(&folder)?;
    let parameters = last.ok_or_else(|| Error::argument("SEEDS", "at least one", 0))?;
    save_weights(&parameters, folder.join("model.safetensors"))?;
    std::fs::write(folder.join("README.md"), card(accuracies[2].last().copied().unwrap_or_default()))?;
    println!("weights and model card: {}", folder.display());
    println!("to the hub: `hf upload owner/name {}`, after `hf auth login`", folder.display());
    Ok(())
}

/// Mean, lowest and highest.
fn summary(accuracies: &[f64]) -> [f64; 3] {
    let mean = accuracies.iter().sum::<f64>() / accuracies.len() as f64;
    let lowest = accuracies.iter().copied().fold(f64::INFINITY, f64::min);
    let highest = accuracies.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    [mean, lowest, highest]
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
