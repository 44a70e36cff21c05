//! With candle and candle-nn alone, as their examples do it.

use candle_core::{DType, Device, ModuleT, Tensor, Var};
use candle_course::candle_nn::{self, Module, Optimizer, VarBuilder, VarMap};
use candle_course::{Error, Result, candle_core};
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

struct Residual {
    first: (Conv2d, BatchNorm),
    second: (Conv2d, BatchNorm),
    shortcut: Option<(Conv2d, BatchNorm)>,
}

fn conv_norm(
    from: usize,
    to: usize,
    size: usize,
    stride: usize,
    vb: VarBuilder<'_>,
) -> candle_core::Result<(Conv2d, BatchNorm)> {
    let config = candle_nn::Conv2dConfig { padding: size / 2, stride, ..Default::default() };
    let conv = candle_nn::conv2d_no_bias(from, to, size, config, vb.pp("conv"))?;
    Ok((conv, candle_nn::batch_norm(to, 1e-5, vb.pp("norm"))?))
}

fn resnet18(large: bool, vb: &VarBuilder<'_>) -> candle_core::Result<Forward> {
    let pass = |(conv, norm): &(Conv2d, BatchNorm), xs: &Tensor| norm.forward_t(&conv.forward(xs)?, true);
    let (size, stride) = if large { (7, 2) } else { (3, 1) };
    let front = conv_norm(3, 64, size, stride, vb.pp("front"))?;
    let mut blocks = Vec::new();
    let mut from = 64;
    for (i, to) in [64, 128, 256, 512].into_iter().enumerate() {
        for block in 0..2 {
            let vb = vb.pp(format!("layer{i}.{block}"));
            let stride = if i > 0 && block == 0 { 2 } else { 1 };
            let shortcut = (stride > 1 || from != to).then(|| conv_norm(from, to, 1, stride, vb.pp("shortcut")));
            blocks.push(Residual {
                first: conv_norm(from, to, 3, stride, vb.pp("first"))?,
                second: conv_norm(to, to, 3, 1, vb.pp("second"))?,
                shortcut: shortcut.transpose()?,
            });
            from = to;
        }
    }
    let head = candle_nn::linear(512, if large { 1000 } else { 10 }, vb.pp("fc"))?;
    Ok(Box::new(move |xs| {
        let mut xs = pass(&front, xs)?.relu()?;
        if large {
            // candle pools without padding: it is put around beforehand, below every ReLU's value.
            xs = xs.pad_with_zeros(2, 1, 1)?.pad_with_zeros(3, 1, 1)?.max_pool2d_with_stride(3, 2)?;
        }
        for block in &blocks {
            let ys = pass(&block.second, &pass(&block.first, &xs)?.relu()?)?;
            let shortcut = match &block.shortcut {
                Some(shortcut) => pass(shortcut, &xs)?,
                None => xs,
            };
            xs = (ys + shortcut)?.relu()?;
        }
        xs.mean((2, 3))?.apply(&head)
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
pub fn build(model: &str, precision: &str, device: &Device) -> Result<Step> {
    if precision != "f32" {
        return Err(Error::argument("precision", "f32: plain candle's steps are measured in f32 alone", precision));
    }
    let variables = VarMap::new();
    let vb = VarBuilder::from_varmap(&variables, DType::F32, device);
    let forward = match model {
        "mlp" => mlp(&vb)?,
        "mnist" => mnist(&vb)?,
        "cifar" => cifar(&vb)?,
        "gru" => gru(&vb)?,
        "resnet18" => resnet18(false, &vb)?,
        "resnet18-224" => resnet18(true, &vb)?,
        _ => unet(&vb)?,
    };
    // Running statistics are variables here; they have no gradient and are passed over.
    let variables = variables.all_vars();
    let mut velocities: Vec<Var> =
        variables.iter().map(|var| Var::zeros(var.shape(), DType::F32, device)).collect::<candle_core::Result<_>>()?;
    let mut adam = AdamW::new_lr(variables.clone(), 1e-3)?;
    let with_adam = super::adaptive(model);
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
