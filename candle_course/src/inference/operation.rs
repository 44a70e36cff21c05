//! What a step computes.

use std::sync::Arc;

use candle_core::{Device, Tensor};

use crate::error::Result;
use crate::kernels::conv::{self, Geometry};
use crate::kernels::norm::{self, Channel};
use crate::kernels::panels::Panels;
use crate::kernels::pool::{self, Adaptive, Sliding};
use crate::kernels::{Scattered, activation, cat, recurrence};
use crate::nn::Model;
use crate::ops::{Reading, no_grad};

pub(super) enum Operation {
    Convolution(conv::Prepared<f32>),
    Transposed {
        geometry: Geometry,
        weight: Scattered<f32>,
        bias: Option<Vec<f32>>,
    },
    Linear {
        weight: Panels<f32>,
        bias: Option<Vec<f32>>,
        relu: bool,
    },
    Recurrent(recurrence::Prepared<f32>),
    Norm {
        channels: Vec<Channel<f32>>,
        plane: usize,
        relu: bool,
    },
    MaxPool(pool::Geometry),
    AveragePool(Sliding),
    AdaptiveAverage(Adaptive),
    Relu,
    Add {
        relu: bool,
    },
    /// Blocks of so many numbers of each input in turns.
    Concat(Vec<usize>),
    /// Numbers `from..from + len` of every block.
    Select {
        block: usize,
        from: usize,
        len: usize,
    },
    /// A layer that is called with tensors; the dimensions of its input behind the batch.
    Layer {
        layer: Arc<dyn Model>,
        dims: Vec<usize>,
    },
    Copy,
}

impl Operation {
    /// Takes a ReLU behind itself into its pass, if it can.
    pub fn take_relu(&mut self) -> bool {
        match self {
            Self::Norm { relu, .. } | Self::Add { relu } => *relu = true,
            _ => return false,
        }
        true
    }

    /// Computes `y` from the inputs of a batch.
    pub fn run<'a>(&self, batch: usize, input: impl Fn(usize) -> &'a [f32], y: &mut [f32]) -> Result<()> {
        let x = input(0);
        match self {
            Self::Convolution(convolution) => convolution.forward(batch, x, y),
            Self::Transposed { geometry, weight, bias } => {
                weight.forward(&Geometry { batch, ..*geometry }, x, bias.as_deref(), y);
            }
            Self::Linear { weight, bias, relu } => weight.affine(x, bias.as_deref(), *relu, y),
            Self::Recurrent(recurrent) => recurrent.forward(batch, x, y),
            Self::Norm { channels, plane, relu } => norm::normalise_into(x, *plane, channels, *relu, y),
            Self::MaxPool(geometry) => pool::max_into(geometry, x, y),
            Self::AveragePool(windows) => pool::average_into(windows, x, y),
            Self::AdaptiveAverage(windows) => pool::average_into(windows, x, y),
            Self::Relu => activation::relu_into(x, y),
            Self::Add { relu } => activation::sum_into(x, input(1), *relu, y),
            Self::Concat(blocks) => {
                let (block, mut from) = (blocks.iter().sum(), 0);
                for (i, &len) in blocks.iter().enumerate() {
                    cat::place(input(i), len, y, block, from);
                    from += len;
                }
            }
            Self::Select { block, from, len } => cat::part_into(x, *block, *from, *len, y),
            Self::Layer { layer, dims } => {
                let xs = Tensor::from_slice(x, [&[batch], dims.as_slice()].concat(), &Device::Cpu)?;
                let ys = no_grad(|| layer.forward_t(&xs, false))?.contiguous()?;
                y.copy_from_slice(Reading::of(&ys).get()?);
            }
            Self::Copy => y.copy_from_slice(x),
        }
        Ok(())
    }
}
