//! Trains a convolutional network on CIFAR-10 from the command line: balanced or with three classes
//! cut to a tenth, with checkpoints, exact resume and TensorBoard; on several processes, if asked.
//!
//! ```text
//! cargo run --release --example train_cifar10 -- --help
//! cargo build --release --example train_cifar10 --features mpi
//! mpirun -n 2 target/release/examples/train_cifar10 --distributed --batch-size 64
//! ```

use std::collections::BTreeMap;

use std::sync::Arc;

use candle_course::distributed::{SingleProcess, launch};
use candle_course::prelude::*;

// An allocator that keeps large freed blocks spares every batch the page faults of fresh memory.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const HELP: &str = "\
Trains a convolutional network with batch normalization on CIFAR-10.

  --data FOLDER          the CIFAR-10 binary files (else CANDLE_COURSE_DATA, the hub, the sample)
  --epochs N             epochs (15)
  --batch-size N         examples in a batch, of every process (128)
  --learning-rate X      the highest rate of the one-cycle schedule (0.2)
  --weight-decay X       weight decay (0.0005)
  --width N              channels of the first layer (32)
  --dropout X            dropout before the last layer (0.1)
  --imbalance KIND       none, three (cat, deer and truck cut to a tenth) or long-tail (none)
  --balance KIND         none, sampler (draw classes alike) or weights (in the loss) (none)
  --accumulate N         batches to an optimizer step (1)
  --clip-norm X          largest norm of the gradient (off)
  --patience N           stop after so many epochs without a better validation loss (off)
  --workers N            threads that load batches (1)
  --seed N               seed of weights, order and augmentation (0)
  --device NAME          cpu, cuda, metal or best (best)
  --distributed          train with the processes that mpirun or srun started
  --checkpoints FOLDER   save the whole state after every epoch, and the best
  --resume               go on from the newest checkpoint
  --tensorboard FOLDER   write a run for TensorBoard
  --output FILE          write the trained weights as safetensors
";

const RARE: [u32; 3] = [3, 4, 9];

struct Arguments(BTreeMap<String, String>);

impl Arguments {
    fn parse() -> Result<Self> {
        let mut values = BTreeMap::new();
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let name = word.trim_start_matches("--").to_owned();
            if name == "help" || !HELP.contains(&format!("--{name} ")) || !word.starts_with("--") {
                print!("{HELP}");
                if name == "help" {
                    std::process::exit(0);
                }
                return Err(Error::argument("command line", "one of the options above", word));
            }
            let value = match name.as_str() {
                "resume" | "distributed" => "yes".to_owned(),
                _ => words.next().ok_or_else(|| Error::argument(&word, "a value after it", "nothing"))?,
            };
            values.insert(name, value);
        }
        Ok(Self(values))
    }

    /// Every option that has a value, given or by default: the defaults stand in brackets in `HELP`.
    fn effective(&self) -> String {
        let option = |line: &str| {
            let line = line.trim().strip_prefix("--")?;
            let name = line.split_whitespace().next()?;
            let default = line.rsplit_once('(').and_then(|(_, text)| text.strip_suffix(')'));
            match self.text(name) {
                Some(_) if ["resume", "distributed"].contains(&name) => Some(format!("--{name}")),
                Some(value) => Some(format!("--{name} {}", quoted(value))),
                None => {
                    default.filter(|text| !text.contains(' ') && *text != "off").map(|text| format!("--{name} {text}"))
                }
            }
        };
        HELP.lines().filter_map(option).collect::<Vec<_>>().join(" ")
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>> {
        let parse = |text: &str| text.parse().map_err(|_| Error::argument(name, "a number", format!("`{text}`")));
        self.text(name).map(parse).transpose()
    }
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    match word.chars().all(|c| c.is_alphanumeric() || "-_./:=,+".contains(c)) && !word.is_empty() {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

/// How this process was called, so that a log tells how to do it again.
fn command() -> String {
    let relevant = ["RAYON_NUM_THREADS", "CANDLE_COURSE_DATA", "CUDA_VISIBLE_DEVICES"];
    let set = relevant.iter().filter_map(|name| Some(format!("{name}={}", quoted(&std::env::var(name).ok()?))));
    set.chain(std::env::args().map(|word| quoted(&word))).collect::<Vec<_>>().join(" ")
}

/// Five 3×3 convolutions with batch normalization on three scales, then the mean over the image.
fn network(parameters: &Parameters, width: usize, dropout: f64) -> Result<Sequential> {
    let mut model = Sequential::new();
    let layers = [(3, width, true), (width, 2 * width, false), (2 * width, 2 * width, true)];
    let deep = [(2 * width, 4 * width, false), (4 * width, 4 * width, true)];
    for (i, (inputs, outputs, pool)) in layers.into_iter().chain(deep).enumerate() {
        model = model
            .add(
                Conv2d::builder(inputs, outputs, 3)
                    .padding(1)
                    .no_bias()
                    .build(&parameters.at(format!("conv{}", i + 1)))?,
            )
            .add(BatchNorm2d::new(outputs, &parameters.at(format!("norm{}", i + 1)))?.with_relu());
        if pool {
            model = model.add(MaxPool2d::new(2)?);
        }
    }
    // 4 × 4 positions are left of the 32 × 32.
    Ok(model
        .add(AdaptiveAvgPool2d::new(2)?)
        .add(Flatten)
        .add(Dropout::new(dropout, &parameters.at("dropout"))?)
        .add(Linear::new(4 * width * 4, 10, &parameters.at("fc"))?))
}

fn main() -> Result<()> {
    let arguments = Arguments::parse()?;
    match arguments.text("distributed") {
        Some(_) => launch(|communicator| train(&arguments, communicator)),
        None => train(&arguments, Arc::new(SingleProcess)),
    }
}

/// Prints on the first of several ranks alone.
macro_rules! say {
    ($rank:expr, $($text:tt)+) => {
        if $rank == 0 {
            println!($($text)+);
        }
    };
}

/// What one rank does.
fn train(arguments: &Arguments, communicator: Arc<dyn Communicator>) -> Result<()> {
    let (rank, ranks) = (communicator.rank(), communicator.size());
    say!(rank, "command: {}", command());
    say!(rank, "settings: {}", arguments.effective());
    let seed: u64 = arguments.number("seed")?.unwrap_or(0);
    let epochs: usize = arguments.number("epochs")?.unwrap_or(15);
    let batch_size: usize = arguments.number("batch-size")?.unwrap_or(128);
    let rate: f64 = arguments.number("learning-rate")?.unwrap_or(0.2);
    let accumulate: usize = arguments.number("accumulate")?.unwrap_or(1);
    let device = device::by_name(arguments.text("device").unwrap_or("best"))?;
    let build = if cfg!(debug_assertions) { "debug" } else { "release" };
    let threads = rayon::current_num_threads();
    say!(rank, "{build} build of {}, {ranks} ranks, on {device:?}, {threads} threads", env!("CARGO_PKG_VERSION"));

    let builder = Cifar10::builder();
    let cifar = match arguments.text("data") {
        Some(folder) => builder.folder(folder).load()?,
        None => builder.load()?,
    };
    let (all, test_set) = (cifar.train(), cifar.test());
    let split = Split::builder(all.len()).stratify(all.labels()).validation(0.1).seed(seed).build()?;
    let validation_set = all.select(split.validation())?;
    let mut train_set = all.select(split.train())?;
    match arguments.text("imbalance").unwrap_or("none") {
        "none" => {}
        "three" => {
            train_set = train_set.select(&imbalance(train_set.labels(), &RARE.map(|class| (class, 0.1)), seed)?)?
        }
        "long-tail" => train_set = train_set.select(&long_tail(train_set.labels(), 50.0, seed)?)?,
        other => return Err(Error::argument("imbalance", "none, three or long-tail", other)),
    }
    say!(rank, "training images per class: {:?}", class_counts(train_set.labels(), 10)?);

    let mut loss = CrossEntropy::builder().label_smoothing(0.05);
    let mut loader = DataLoader::builder(train_set.clone()).shuffle(seed);
    match arguments.text("balance").unwrap_or("none") {
        "none" => {}
        "sampler" => {
            let weights = example_weights(train_set.labels());
            loader = loader.sampler(WeightedRandomSampler::builder(&weights).seed(seed).build()?);
        }
        "weights" => loss = loss.class_weights(class_weights(&class_counts(train_set.labels(), 10)?)?),
        other => return Err(Error::argument("balance", "none, sampler or weights", other)),
    }
    let train = loader
        .transform(RandomCrop::new(4, seed))
        .transform(RandomHorizontalFlip::new(seed))
        .batch_size(batch_size)
        .drop_last(true)
        .workers(arguments.number("workers")?.unwrap_or(1))
        .device(&device)
        .build()?
        .shard(rank, ranks)?;
    let plain = |set: &ImageDataset| DataLoader::builder(set.clone()).batch_size(250).device(&device).build();
    let (validation, test) = (plain(&validation_set)?.shard(rank, ranks)?, plain(&test_set)?);

    let parameters = Parameters::new(seed, &device);
    let width = arguments.number("width")?.unwrap_or(32);
    let model = network(&parameters, width, arguments.number("dropout")?.unwrap_or(0.1))?;
    say!(rank, "{}", ModelSummary::sequential(&model, &parameters, (batch_size, 3, 32, 32))?);
    let decay = arguments.number("weight-decay")?.unwrap_or(5e-4);
    let optimizer = Sgd::builder(&parameters).momentum(0.9).nesterov(true).weight_decay(decay).build()?;
    let steps = epochs * train.len().div_ceil(accumulate);
    let schedule = OneCycleLR::builder(rate, steps).pct_start(0.25).constant_momentum().build()?;
    let mut builder = Trainer::builder(model.clone(), &parameters, loss.build()?, optimizer)
        .epochs(epochs)
        .schedule(schedule)
        .accumulate(accumulate)
        .distributed(communicator)
        .metric(Accuracy::default());
    if let Some(norm) = arguments.number("clip-norm")? {
        builder = builder.clip_norm(norm);
    }
    if let Some(patience) = arguments.number("patience")? {
        builder = builder.early_stopping(EarlyStopping::builder("validation_loss").patience(patience).build()?);
    }
    if let Some(folder) = arguments.text("checkpoints") {
        builder = builder.checkpoints(Checkpoints::builder(folder).keep_best(1, "accuracy").build()?);
    }
    let mut writer = None;
    // A run is written by one rank: the others must not even begin one.
    if let Some(folder) = arguments.text("tensorboard").filter(|_| rank == 0) {
        let hyper_parameters = HyperParameters::new()
            .number("learning_rate", rate)
            .number("batch_size", (batch_size * accumulate * ranks) as f64)
            .number("weight_decay", decay)
            .text("imbalance", arguments.text("imbalance").unwrap_or("none"))
            .text("balance", arguments.text("balance").unwrap_or("none"));
        let tensorboard = TensorBoard::builder(folder).hyper_parameters(hyper_parameters).build()?;
        writer = Some(tensorboard.writer());
        builder = builder.callback(tensorboard);
    }
    let mut trainer = builder.build()?;
    if arguments.text("resume").is_some() {
        let folder = arguments
            .text("checkpoints")
            .ok_or_else(|| Error::argument("resume", "--checkpoints FOLDER to resume from", "no folder"))?;
        match trainer.resume(folder)? {
            true => say!(rank, "resumed after step {}", trainer.state().step),
            false => say!(rank, "no checkpoint in {folder}: starting afresh"),
        }
    }
    if trainer.state().epoch < epochs {
        trainer.fit(&train, Some(&validation))?;
    }
    // The test set is small enough for one.
    if rank > 0 {
        return Ok(());
    }
    println!("{}", trainer.history());

    let evaluation = trainer.evaluate(&test)?;
    let mut confusion = ConfusionMatrix::new(10)?.class_names(test_set.class_names().to_vec())?;
    for batch in test.epoch(0)? {
        let batch = batch?;
        confusion.update(&model.forward_t(&batch.inputs, false)?, &batch.targets)?;
    }
    println!("{}", confusion.report()?);
    if let Some(writer) = writer {
        writer.figure("test/confusion", &confusion.figure("Confusion on the test set")?, trainer.state().step)?;
        writer.close()?;
    }
    let recalls: Vec<f64> = confusion.per_class()?.iter().map(|scores| scores.recall().unwrap_or(0.0)).collect();
    let rare = RARE.iter().map(|&class| recalls[class as usize]).sum::<f64>() / RARE.len() as f64;
    println!("test: loss {:.4}, accuracy {:.4}", evaluation.loss, evaluation.metrics[0].1);
    println!("mean recall of cat, deer and truck: {rare:.4}");
    if let Some(path) = arguments.text("output") {
        save_weights(&parameters, path)?;
        println!("weights written to {path}");
    }
    Ok(())
}
