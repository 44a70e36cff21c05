//! With candle and candle-nn alone, as their examples do it.

use candle_core::{DType, Device, ModuleT, Tensor, Var};
use candle_course::candle_nn::{self, Module, Optimizer, VarBuilder, VarMap};
use candle_course::{Result, candle_core};
use candle_nn::rnn::RNN;
use candle_nn::{AdamW, BatchNorm, Conv2d, ConvTranspose2d, Linear};

use super::Step;

type Forward = Box<dyn Fn(&Tensor) -> candle_core::Result<Tensor>>;

fn padded() -> candle_nn::Conv2dConfig {
    candle_nn::Conv2dConfig { padding: 1, ..Default::default() }
}

struct ConvNorm(Conv2d, BatchNorm);

impl ConvNorm {
    fn new(from: usize, to: usize, vb: VarBuilder<'_>) -> candle_core::Result<Self> {
        let conv = candle_nn::conv2d(from, to, 3, padded(), vb.pp("conv"))?;
        Ok(Self(conv, candle_nn::batch_norm(to, 1e-5, vb.pp("norm"))?))
    }

    fn forward(&self, xs: &Tensor) -> candle_core::Result<Tensor> {
        self.1.forward_t(&self.0.forward(xs)?, true)?.relu()
    }
}

fn mlp(vb: &VarBuilder<'_>) -> candle_core::Result<Forward> {
    let layers: [Linear; 3] = [
        candle_nn::linear(784, 128, vb.pp("fc1"))?,
        candle_nn::linear(128, 64, vb.pp("fc2"))?,
        candle_nn::linear(64, 10, vb.pp("fc3"))?,
    ];
    Ok(Box::new(move |xs| xs.apply(&layers[0])?.relu()?.apply(&layers[1])?.relu()?.apply(&layers[2])))
}

fn mnist(vb: &VarBuilder<'_>) -> candle_core::Result<Forward> {
    let first = candle_nn::conv2d(1, 32, 3, padded(), vb.pp("conv1"))?;
    let second = candle_nn::conv2d(32, 64, 3, padded(), vb.pp("conv2"))?;
    let fc1 = candle_nn::linear(3136, 128, vb.pp("fc1"))?;
    let fc2 = candle_nn::linear(128, 10, vb.pp("fc2"))?;
    Ok(Box::new(move |xs| {
        let xs = xs.apply(&first)?.relu()?.max_pool2d(2)?.apply(&second)?.relu()?.max_pool2d(2)?;
        xs.flatten_from(1)?.apply(&fc1)?.relu()?.apply(&fc2)
    }))
}

fn cifar(vb: &VarBuilder<'_>) -> candle_core::Result<Forward> {
    let mut blocks = Vec::new();
    let mut from = 3;
    for (i, to) in [32, 32, 64, 64, 128, 128].into_iter().enumerate() {
        blocks.push(ConvNorm::new(from, to, vb.pp(format!("block{i}")))?);
        from = to;
    }
    let fc1 = candle_nn::linear(2048, 256, vb.pp("fc1"))?;
    let fc2 = candle_nn::linear(256, 10, vb.pp("fc2"))?;
    Ok(Box::new(move |xs| {
        let mut xs = xs.clone();
        for (i, block) in blocks.iter().enumerate() {
            xs = block.forward(&xs)?;
            if i % 2 == 1 {
                xs = xs.max_pool2d(2)?;
            }
        }
        xs.flatten_from(1)?.apply(&fc1)?.relu()?.apply(&fc2)
    }))
}

fn unet(vb: &VarBuilder<'_>) -> candle_core::Result<Forward> {
    let twice = |name: &str, from: usize, to: usize| -> candle_core::Result<[ConvNorm; 2]> {
        let vb = vb.pp(name);
        Ok([ConvNorm::new(from, to, vb.pp("0"))?, ConvNorm::new(to, to, vb.pp("1"))?])
    };
    let enlarge = |name: &str, from: usize, to: usize| -> candle_core::Result<ConvTranspose2d> {
        let config = candle_nn::ConvTranspose2dConfig { stride: 2, ..Default::default() };
        candle_nn::conv_transpose2d(from, to, 2, config, vb.pp(name))
    };
    let down = [twice("down1", 4, 16)?, twice("down2", 16, 32)?];
    let bottom = twice("bottom", 32, 64)?;
    let enlarge = [enlarge("enlarge2", 64, 32)?, enlarge("enlarge1", 32, 16)?];
    let up = [twice("up2", 64, 32)?, twice("up1", 32, 16)?];
    let head = candle_nn::conv2d(16, 5, 1, Default::default(), vb.pp("head"))?;
    Ok(Box::new(move |xs| {
        let pass = |blocks: &[ConvNorm; 2], xs: &Tensor| blocks[1].forward(&blocks[0].forward(xs)?);
        let first = pass(&down[0], xs)?;
        let second = pass(&down[1], &first.max_pool2d(2)?)?;
        let low = pass(&bottom, &second.max_pool2d(2)?)?;
        let low = pass(&up[0], &Tensor::cat(&[&second, &enlarge[0].forward(&low)?], 1)?)?;
        let low = pass(&up[1], &Tensor::cat(&[&first, &enlarge[1].forward(&low)?], 1)?)?;
        head.forward(&low)
    }))
}

fn gru(vb: &VarBuilder<'_>) -> candle_core::Result<Forward> {
    let layer = candle_nn::gru(32, 64, Default::default(), vb.pp("gru"))?;
    let head = candle_nn::linear(64, 10, vb.pp("head"))?;
    Ok(Box::new(move |xs| {
        let states = layer.seq(xs)?;
        let last = layer.states_to_tensor(&states[states.len() - 1..])?;
        head.forward(&last.squeeze(1)?)
    }))
}

/// The training step of `model`.
pub fn build(model: &str) -> Result<Step> {
    let variables = VarMap::new();
    let vb = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
    let forward = match model {
        "mlp" => mlp(&vb)?,
        "mnist" => mnist(&vb)?,
        "cifar" => cifar(&vb)?,
        "gru" => gru(&vb)?,
        _ => unet(&vb)?,
    };
    // Running statistics are variables here; they have no gradient and are passed over.
    let variables = variables.all_vars();
    let mut velocities: Vec<Var> = variables
        .iter()
        .map(|var| Var::zeros(var.shape(), DType::F32, &Device::Cpu))
        .collect::<candle_core::Result<_>>()?;
    let mut adam = AdamW::new_lr(variables.clone(), 1e-3)?;
    let with_adam = model != "cifar";
    Ok(Box::new(move |xs, targets| {
        let logits = forward(xs)?;
        let (logits, targets) = match logits.rank() {
            4 => (logits.permute((0, 2, 3, 1))?.flatten_to(2)?, targets.flatten_all()?),
            _ => (logits, targets.clone()),
        };
        let loss = candle_nn::loss::cross_entropy(&logits, &targets)?;
        let gradients = loss.backward()?;
        if with_adam {
            adam.step(&gradients)?;
        } else {
            // candle's SGD has no momentum; by hand, as one would.
            for (var, velocity) in variables.iter().zip(&mut velocities) {
                if let Some(gradient) = gradients.get(var) {
                    velocity.set(&((velocity.as_tensor() * 0.9)? + gradient)?)?;
                    var.set(&var.sub(&(velocity.as_tensor() * 0.01)?)?)?;
                }
            }
        }
        Ok(loss.detach())
    }))
}
