//! Training steps of bench_train's models by burn, for `scripts/bench train --peers burn`.
//!
//! `burn_peer check MODEL FOLDER` takes three steps from the weights and on the batch of
//! `FOLDER/start.safetensors`, which PyTorch wrote, and prints their losses.
//!
//! `burn_peer serve MODEL FOLDER` is the counterpart of `candle_course/benches/train.rs`.

use std::io::BufRead;
use std::path::Path;
use std::time::Instant;

use burn::module::Param;
use burn::nn::conv::{Conv2d, Conv2dConfig, ConvTranspose2d, ConvTranspose2dConfig};
use burn::nn::gru::{Gru, GruConfig};
use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::pool::MaxPool2dConfig;
use burn::nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig, PaddingConfig2d};
use burn::optim::momentum::MomentumConfig;
use burn::optim::{AdamWConfig, GradientsParams, ModuleOptimizer, SgdConfig};
use burn::prelude::*;
use burn::tensor::activation::relu;
use safetensors::SafeTensors;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What PyTorch wrote, by its names.
struct Start<'a>(SafeTensors<'a>, Device);

impl Start<'_> {
    /// Four bytes each.
    fn numbers<T>(&self, name: &str, from: fn([u8; 4]) -> T) -> Result<Vec<T>> {
        let tensor = self.0.tensor(name)?;
        Ok(tensor.data().chunks_exact(4).map(|bytes| from([bytes[0], bytes[1], bytes[2], bytes[3]])).collect())
    }

    fn tensor<const D: usize>(&self, name: &str) -> Result<Tensor<D>> {
        let shape = self.0.tensor(name)?.shape().to_vec();
        Ok(Tensor::from_data(TensorData::new(self.numbers(name, f32::from_le_bytes)?, shape), &self.1))
    }

    fn parameter<const D: usize>(&self, name: &str) -> Result<Param<Tensor<D>>> {
        Ok(Param::from_tensor(self.tensor(name)?))
    }

    /// From PyTorch's `[outputs, inputs]` to burn's `[inputs, outputs]`.
    fn linear(&self, weight: Tensor<2>, bias: Tensor<1>) -> Linear {
        let [outputs, inputs] = weight.dims();
        let mut layer = LinearConfig::new(inputs, outputs).init(&self.1);
        // From copies: leaves of the graph, whose rows lie one after the other, as those of a fresh layer.
        layer.weight = Param::from_data(weight.transpose().into_data(), &self.1);
        layer.bias = Some(Param::from_data(bias.into_data(), &self.1));
        layer
    }

    fn named_linear(&self, name: &str) -> Result<Linear> {
        Ok(self.linear(self.tensor(&format!("{name}.weight"))?, self.tensor(&format!("{name}.bias"))?))
    }

    /// Stride 1; as large as its input.
    fn conv(&self, name: &str) -> Result<Conv2d> {
        let weight = self.parameter(&format!("{name}.weight"))?;
        let [outputs, inputs, size, _] = weight.shape().dims();
        let padding = PaddingConfig2d::Explicit(size / 2, size / 2, size / 2, size / 2);
        let mut layer = Conv2dConfig::new([inputs, outputs], [size, size]).with_padding(padding).init(&self.1);
        (layer.weight, layer.bias) = (weight, Some(self.parameter(&format!("{name}.bias"))?));
        Ok(layer)
    }

    /// A kernel and a stride of 2.
    fn enlarge(&self, name: &str) -> Result<ConvTranspose2d> {
        let weight = self.parameter(&format!("{name}.weight"))?;
        let [inputs, outputs, ..] = weight.shape().dims::<4>();
        let mut layer = ConvTranspose2dConfig::new([inputs, outputs], [2, 2]).with_stride([2, 2]).init(&self.1);
        (layer.weight, layer.bias) = (weight, Some(self.parameter(&format!("{name}.bias"))?));
        Ok(layer)
    }

    fn block(&self, name: &str) -> Result<Block> {
        Ok(Block { conv: self.conv(name)?, norm: None })
    }

    fn norm_block(&self, name: &str) -> Result<Block> {
        let gamma = self.parameter(&format!("{name}.1.weight"))?;
        let [channels] = gamma.shape().dims();
        let mut norm = BatchNormConfig::new(channels).init(&self.1);
        (norm.gamma, norm.beta) = (gamma, self.parameter(&format!("{name}.1.bias"))?);
        Ok(Block { conv: self.conv(&format!("{name}.0"))?, norm: Some(norm) })
    }

    fn gru(&self) -> Result<Gru> {
        let mut layer = GruConfig::new(32, 64, true).init(&self.1);
        let (ih, hh) = (self.tensor::<2>("gru.weight_ih_l0")?, self.tensor::<2>("gru.weight_hh_l0")?);
        let (bias_ih, bias_hh) = (self.tensor::<1>("gru.bias_ih_l0")?, self.tensor::<1>("gru.bias_hh_l0")?);
        let gates = [&mut layer.reset_gate, &mut layer.update_gate, &mut layer.new_gate];
        for (i, gate) in gates.into_iter().enumerate() {
            let rows = i * 64..(i + 1) * 64;
            let part = |weight: &Tensor<2>, bias: &Tensor<1>| {
                self.linear(weight.clone().slice([rows.clone()]), bias.clone().slice([rows.clone()]))
            };
            gate.input_transform = part(&ih, &bias_ih);
            gate.hidden_transform = part(&hh, &bias_hh);
        }
        Ok(layer)
    }
}

/// Convolution, batch norm if there is one, ReLU.
#[derive(Module, Debug)]
struct Block {
    conv: Conv2d,
    norm: Option<BatchNorm>,
}

fn pass(blocks: &[Block], xs: Tensor<4>) -> Tensor<4> {
    blocks.iter().fold(xs, |xs, block| {
        let ys = block.conv.forward(xs);
        relu(match &block.norm {
            Some(norm) => norm.forward(ys),
            None => ys,
        })
    })
}

fn halve(xs: Tensor<4>) -> Tensor<4> {
    MaxPool2dConfig::new([2, 2]).with_strides([2, 2]).init().forward(xs)
}

/// Stages of blocks, each with a pool behind it; linear layers with ReLU in between.
#[derive(Module, Debug)]
struct Classifier {
    stages: Vec<Vec<Block>>,
    linear: Vec<Linear>,
}

impl Classifier {
    fn forward(&self, xs: Tensor<4>) -> Tensor<2> {
        let xs = self.stages.iter().fold(xs, |xs, blocks| halve(pass(blocks, xs)));
        let mut xs = self.linear[0].forward(xs.flatten::<2>(1, 3));
        for layer in &self.linear[1..] {
            xs = layer.forward(relu(xs));
        }
        xs
    }
}

#[derive(Module, Debug)]
struct UNet {
    down: Vec<Vec<Block>>,
    bottom: Vec<Block>,
    enlarge: Vec<ConvTranspose2d>,
    up: Vec<Vec<Block>>,
    head: Conv2d,
}

impl UNet {
    /// Logits of every pixel, one row each.
    fn forward(&self, xs: Tensor<4>) -> Tensor<2> {
        let first = pass(&self.down[0], xs);
        let second = pass(&self.down[1], halve(first.clone()));
        let low = self.enlarge[0].forward(pass(&self.bottom, halve(second.clone())));
        let low = self.enlarge[1].forward(pass(&self.up[0], Tensor::cat(vec![second, low], 1)));
        let logits = self.head.forward(pass(&self.up[1], Tensor::cat(vec![first, low], 1)));
        logits.permute([0, 2, 3, 1]).flatten(0, 2)
    }
}

#[derive(Module, Debug)]
struct LastState {
    gru: Gru,
    head: Linear,
}

impl LastState {
    fn forward(&self, xs: Tensor<3>) -> Tensor<2> {
        let [batch, steps, _] = xs.dims();
        let last = self.gru.forward(xs, None).slice([0..batch, steps - 1..steps]);
        self.head.forward(last.squeeze_dim::<2>(1))
    }
}

#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)] // there is one
enum Network {
    Classifier(Classifier),
    UNet(UNet),
    LastState(LastState),
}

impl Network {
    fn new(model: &str, start: &Start<'_>) -> Result<Self> {
        let linear = |names: &[&str]| names.iter().map(|name| start.named_linear(name)).collect::<Result<Vec<_>>>();
        let twice = |name: &str| -> Result<Vec<Block>> {
            Ok(vec![start.norm_block(&format!("{name}.0"))?, start.norm_block(&format!("{name}.1"))?])
        };
        Ok(match model {
            "mlp" => Self::Classifier(Classifier { stages: vec![], linear: linear(&["0", "2", "4"])? }),
            "mnist" => Self::Classifier(Classifier {
                stages: vec![vec![start.block("0")?], vec![start.block("3")?]],
                linear: linear(&["7", "9"])?,
            }),
            "cifar" => {
                let stages = [["0", "1"], ["3", "4"], ["6", "7"]];
                let stage = |names: [&str; 2]| names.iter().map(|name| start.norm_block(name)).collect();
                let stages = stages.into_iter().map(stage).collect::<Result<Vec<_>>>()?;
                Self::Classifier(Classifier { stages, linear: linear(&["10", "12"])? })
            }
            "unet" => Self::UNet(UNet {
                down: vec![twice("down.0")?, twice("down.1")?],
                bottom: twice("bottom")?,
                enlarge: vec![start.enlarge("enlarge.0")?, start.enlarge("enlarge.1")?],
                up: vec![twice("up.0")?, twice("up.1")?],
                head: start.conv("head")?,
            }),
            "gru" => Self::LastState(LastState { gru: start.gru()?, head: start.named_linear("head")? }),
            _ => return Err(format!("model: expected mlp, mnist, cifar, unet or gru, got {model}").into()),
        })
    }

    fn forward(&self, xs: Tensor<4>) -> Tensor<2> {
        match self {
            Self::Classifier(model) => model.forward(xs),
            Self::UNet(model) => model.forward(xs),
            Self::LastState(model) => model.forward(xs.squeeze_dim(1)),
        }
    }
}

/// Shape of an example, brought to rank 3; targets of an example; classes; steps of a round.
fn sizes(model: &str) -> ([usize; 3], usize, usize, usize) {
    match model {
        "mlp" => ([784, 1, 1], 1, 10, 300),
        "mnist" => ([1, 28, 28], 1, 10, 15),
        "cifar" => ([3, 32, 32], 1, 10, 8),
        "unet" => ([4, 64, 64], 64 * 64, 5, 4),
        _ => ([1, 50, 32], 1, 10, 20),
    }
}

/// A model in training with its batch.
struct Running {
    network: Option<Network>,
    optimizer: ModuleOptimizer,
    learning_rate: f64,
    xs: Tensor<4>,
    targets: Tensor<1, Int>,
    steps: usize,
}

impl Running {
    fn new(model: &str, start: &Start<'_>, xs: Vec<f32>, targets: Vec<i32>) -> Result<Self> {
        let ([channels, height, width], each, _, steps) = sizes(model);
        let device = &start.1;
        let (count, batch) = (targets.len(), targets.len() / each);
        let xs = Tensor::from_data(TensorData::new(xs, [batch, channels, height, width]), device);
        let targets = Tensor::from_data(TensorData::new(targets, [count]), device);
        let (optimizer, learning_rate) = if model == "cifar" {
            let momentum = MomentumConfig::new().with_momentum(0.9).with_dampening(0.0);
            (SgdConfig::new().with_momentum(Some(momentum)).init(), 0.01)
        } else {
            (AdamWConfig::new().with_epsilon(1e-8).with_weight_decay(0.01).init(), 1e-3)
        };
        let network = Some(Network::new(model, start)?);
        Ok(Self { network, optimizer, learning_rate, xs, targets, steps })
    }

    /// As in benches/train.rs.
    fn waves(model: &str, start: &Start<'_>, batch: usize) -> Result<Self> {
        let (shape, each, classes, _) = sizes(model);
        let count = batch * shape.iter().product::<usize>();
        let xs: Vec<f32> = (0..count).map(|i| (i as f32 * 12.9898).sin()).collect();
        let targets: Vec<i32> = (0..batch * each).map(|i| (i * 7 % classes) as i32).collect();
        Self::new(model, start, xs, targets)
    }

    fn step(&mut self) -> Result<f32> {
        let network = self.network.take().ok_or("a step before this one failed")?;
        let logits = network.forward(self.xs.clone());
        let loss = CrossEntropyLossConfig::new().init(&logits.device()).forward(logits, self.targets.clone());
        let gradients = GradientsParams::from_grads(loss.backward(), &network);
        self.network = Some(self.optimizer.step(self.learning_rate, network, gradients));
        Ok(loss.into_scalar::<f32>())
    }

    /// Milliseconds per step.
    fn round(&mut self, steps: usize) -> Result<f64> {
        let begin = Instant::now();
        for _ in 0..steps {
            let loss = self.step()?;
            if !loss.is_finite() {
                return Err(format!("the loss is {loss}").into());
            }
        }
        Ok(begin.elapsed().as_secs_f64() * 1e3 / steps as f64)
    }
}

/// Megabytes that this process had at most.
fn peak_memory() -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("0 kB");
    Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
}

fn serve(model: &str, start: &Start<'_>) -> Result<()> {
    let mut running: Option<(usize, Running)> = None;
    println!("ready");
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let [batch, "f32", seconds] = words[..] else {
            return Err(format!("expected BATCH f32 SECONDS, got {line}").into());
        };
        let (batch, seconds): (usize, f64) = (batch.parse()?, seconds.parse()?);
        if running.as_ref().is_none_or(|(other, _)| *other != batch) {
            drop(running.take());
            let mut new = Running::waves(model, start, batch)?;
            new.round(3)?;
            if seconds > 0.0 {
                new.steps = ((seconds * 1e3 / new.round(3)?) as usize).clamp(3, 1000);
            }
            running = Some((batch, new));
        }
        let Some((_, model)) = &mut running else { continue };
        model.round(1)?; // not timed: what the other implementations pushed out of the caches
        let milliseconds = model.round(model.steps)?;
        println!("{milliseconds} {}", peak_memory()?);
    }
    Ok(())
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let [task @ ("check" | "serve"), model, folder] = words[..] else {
        return Err(format!("expected check or serve, MODEL and FOLDER, got {}", arguments.join(" ")).into());
    };
    let bytes = std::fs::read(Path::new(folder).join("start.safetensors"))?;
    let start = Start(SafeTensors::deserialize(&bytes)?, Device::flex().autodiff());
    if task == "serve" {
        return serve(model, &start);
    }
    let mut running = Running::new(
        model,
        &start,
        start.numbers("xs", f32::from_le_bytes)?,
        start.numbers("ys", i32::from_le_bytes)?,
    )?;
    let losses = (0..3).map(|_| Ok(running.step()?.to_string())).collect::<Result<Vec<_>>>()?;
    println!("{}", losses.join(" "));
    Ok(())
}
