//! A residual network of 18 layers.

use candle_core::{D, Module as _, ModuleT, Tensor};

use crate::error::{Error, Result};
use crate::nn::init::{Fan, Init, Nonlinearity};
use crate::nn::parameters::Scope;
use crate::nn::{BatchNorm2d, Conv2d, Conv2dBuilder, Linear, MaxPool2d};
use crate::ops;
use crate::setters::setters;

/// ResNet-18 (He et al. 2016, "Deep Residual Learning for Image Recognition", arXiv:1512.03385), with
/// the names, layouts and numbers of `torchvision.models.resnet18`: `[N, channels, H, W]` → logits
/// `[N, classes]`.
///
/// Weights of torchvision are loaded by [`load_weights`](crate::checkpoint::load_weights), or, for another number of
/// classes, without the head by [`WeightLoading`](crate::checkpoint::WeightLoading) with `skip("fc")`. Convolutions
/// begin as torchvision's do, by Kaiming's normal distribution for fan_out.
///
/// # Examples
///
/// Fine-tuning: the body frozen, and with it the statistics of its batch norms; a new head.
///
/// ```
/// use candle_course::prelude::*;
///
/// let parameters = Parameters::new(0, &Device::Cpu);
/// let model = ResNet18::builder(10).small_images().build(&parameters.root())?;
/// let logits = model.forward_t(&Tensor::zeros((2, 3, 32, 32), DType::F32, &Device::Cpu)?, false)?;
/// assert_eq!(logits.dims(), [2, 10]);
/// parameters.freeze("")?;
/// parameters.unfreeze("fc")?;
/// assert_eq!(parameters.count(), 512 * 10 + 10);
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct ResNet18 {
    pub(crate) conv1: Conv2d,
    pub(crate) bn1: BatchNorm2d,
    pub(crate) pool: Option<MaxPool2d>,
    pub(crate) blocks: Vec<Block>,
    pub(crate) fc: Linear,
}

/// Configures [`ResNet18`].
#[derive(Debug, Clone, Copy)]
pub struct ResNet18Builder {
    classes: usize,
    channels: usize,
    small: bool,
}

/// Two convolutions, and what came in added to what comes out.
#[derive(Debug, Clone)]
pub(crate) struct Block {
    pub(crate) conv1: Conv2d,
    pub(crate) bn1: BatchNorm2d,
    pub(crate) conv2: Conv2d,
    pub(crate) bn2: BatchNorm2d,
    pub(crate) downsample: Option<(Conv2d, BatchNorm2d)>,
}

/// A convolution without a bias, as torchvision begins it.
fn convolution(builder: Conv2dBuilder, scope: &Scope) -> Result<Conv2d> {
    let init = Init::KaimingNormal { fan: Fan::Out, gain: Nonlinearity::Relu.gain() };
    builder.no_bias().init(init).build(scope)
}

impl Block {
    fn new(inputs: usize, outputs: usize, stride: usize, scope: &Scope) -> Result<Self> {
        let downsample = if stride != 1 || inputs != outputs {
            let scope = scope.at("downsample");
            let conv = convolution(Conv2d::builder(inputs, outputs, 1).stride(stride), &scope.at(0))?;
            Some((conv, BatchNorm2d::new(outputs, &scope.at(1))?))
        } else {
            None
        };
        Ok(Self {
            conv1: convolution(Conv2d::builder(inputs, outputs, 3).stride(stride).padding(1), &scope.at("conv1"))?,
            bn1: BatchNorm2d::new(outputs, &scope.at("bn1"))?.with_relu(),
            conv2: convolution(Conv2d::builder(outputs, outputs, 3).padding(1), &scope.at("conv2"))?,
            bn2: BatchNorm2d::new(outputs, &scope.at("bn2"))?,
            downsample,
        })
    }

    fn forward(&self, xs: &Tensor, train: bool) -> Result<Tensor> {
        let ys = self.bn1.forward_t(&self.conv1.forward(xs)?, train)?;
        let ys = self.bn2.forward_t(&self.conv2.forward(&ys)?, train)?;
        let skipped = match &self.downsample {
            Some((conv, norm)) => norm.forward_t(&conv.forward(xs)?, train)?,
            None => xs.clone(),
        };
        ops::relu(&(ys + skipped)?)
    }
}

impl ResNet18 {
    /// A network for images of 3 channels, its parameters in `scope`.
    ///
    /// # Errors
    /// If there are no classes, or the scope has a variable of these names already.
    pub fn new(classes: usize, scope: &Scope) -> Result<Self> {
        Self::builder(classes).build(scope)
    }

    /// A network for so many classes and images of 3 channels, unless told otherwise.
    pub fn builder(classes: usize) -> ResNet18Builder {
        ResNet18Builder { classes, channels: 3, small: false }
    }

    /// What the head sees, `[N, 512]`: for a head of one's own.
    ///
    /// # Errors
    /// If the shape does not fit.
    pub fn features(&self, xs: &Tensor, train: bool) -> Result<Tensor> {
        let mut xs = self.bn1.forward_t(&self.conv1.forward(xs)?, train)?;
        if let Some(pool) = &self.pool {
            xs = pool.forward(&xs)?;
        }
        for block in &self.blocks {
            xs = block.forward(&xs, train)?;
        }
        Ok(ops::adaptive_avg_pool2d(&xs, (1, 1))?.flatten(1, D::Minus1)?)
    }
}

impl ResNet18Builder {
    setters! {
        /// Channels of the images; 3 by default. With another number torchvision's `conv1.weight` does not
        /// fit: skip it.
        in_channels(channels: usize) => channels = channels;
        /// For images of 28 to 64 pixels: a first convolution of 3 × 3 pixels with stride 1, and no pooling
        /// behind it, as He et al. do for CIFAR-10. By default 7 × 7 with stride 2, and pooling.
        small_images() => small = true;
    }

    /// The network, its parameters in `scope`.
    ///
    /// # Errors
    /// If there are no classes or channels, or the scope has a variable of these names already.
    pub fn build(self, scope: &Scope) -> Result<ResNet18> {
        for (name, count) in [("classes", self.classes), ("in_channels", self.channels)] {
            if count == 0 {
                return Err(Error::argument(name, "at least 1", 0));
            }
        }
        let (first, pool) = if self.small {
            (Conv2d::builder(self.channels, 64, 3).padding(1), None)
        } else {
            let pool = MaxPool2d::builder(3).stride(2).padding(1).build()?;
            (Conv2d::builder(self.channels, 64, 7).stride(2).padding(3), Some(pool))
        };
        let mut blocks = Vec::new();
        for (layer, (inputs, outputs)) in [(64, 64), (64, 128), (128, 256), (256, 512)].into_iter().enumerate() {
            let scope = scope.at(format!("layer{}", layer + 1));
            blocks.push(Block::new(inputs, outputs, if layer == 0 { 1 } else { 2 }, &scope.at(0))?);
            blocks.push(Block::new(outputs, outputs, 1, &scope.at(1))?);
        }
        Ok(ResNet18 {
            conv1: convolution(first, &scope.at("conv1"))?,
            bn1: BatchNorm2d::new(64, &scope.at("bn1"))?.with_relu(),
            pool,
            blocks,
            fc: Linear::new(512, self.classes, &scope.at("fc"))?,
        })
    }
}

impl ModuleT for ResNet18 {
    fn forward_t(&self, xs: &Tensor, train: bool) -> candle_core::Result<Tensor> {
        self.fc.forward(&self.features(xs, train)?)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;
    use crate::checkpoint::read_weights;
    use crate::nn::Parameters;
    use crate::ops::reference_tests::numbers;
    use crate::test_support::data;

    /// The numbers that `scripts/reference_nn.py` gives torchvision's network.
    fn share_weights(parameters: &Parameters) {
        for (name, var) in parameters.all() {
            let seed = name.bytes().fold(0u32, |seed, byte| seed.wrapping_mul(31).wrapping_add(byte.into())) % 100_000;
            let dims = var.dims().to_vec();
            let values = match (name.rsplit('.').next().unwrap(), dims.len()) {
                ("num_batches_tracked", _) => continue,
                (_, 0 | 1) if name.ends_with("weight") || name.ends_with("running_var") => {
                    numbers(&dims, seed).affine(0.3, 1.0)
                }
                (_, 0 | 1) => numbers(&dims, seed).affine(0.2, 0.0),
                _ => numbers(&dims, seed).affine((3.0 / dims[1..].iter().product::<usize>() as f64).sqrt(), 0.0),
            };
            var.set(&values.unwrap().to_dtype(DType::F32).unwrap()).unwrap();
        }
    }

    #[test]
    fn names_shapes_and_outputs_are_torchvisions() {
        let mut stored = read_weights(data("nn/resnet18.safetensors")).unwrap();
        let parameters = Parameters::new(0, &Device::Cpu);
        let model = ResNet18::new(10, &parameters.root()).unwrap();
        for (name, var) in parameters.all() {
            let shape = stored.remove(&format!("shape.{name}")).unwrap_or_else(|| panic!("torchvision has no {name}"));
            let shape: Vec<usize> = shape.to_vec1::<i64>().unwrap().into_iter().map(|size| size as usize).collect();
            assert_eq!(var.dims(), shape, "{name}");
        }
        share_weights(&parameters);
        let xs = numbers(&[2, 3, 64, 64], 1).to_dtype(DType::F32).unwrap();
        for (what, train) in [("evaluation", false), ("training", true)] {
            let expected = stored.remove(what).unwrap();
            let largest = expected.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            let logits = model.forward_t(&xs, train).unwrap();
            let worst = (logits - expected).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(worst <= 1e-5 * largest.max(1.0), "{what}: {worst:e} of {largest}");
        }
        assert!(stored.is_empty(), "torchvision has more: {:?}", stored.keys());
    }

    #[test]
    fn small_images_other_channels_and_bad_numbers() {
        let parameters = Parameters::new(0, &Device::Cpu);
        let model = ResNet18::builder(4).in_channels(2).small_images().build(&parameters.at("net")).unwrap();
        let xs = numbers(&[2, 2, 8, 8], 1).to_dtype(DType::F32).unwrap();
        assert_eq!(model.features(&xs, true).unwrap().dims(), [2, 512]);
        let gradients = model.forward_t(&xs, true).unwrap().sqr().unwrap().sum_all().unwrap().backward().unwrap();
        assert!(parameters.missing_gradients(&gradients).is_empty());
        let first = parameters.get("net.conv1.weight").unwrap();
        let std = first.sqr().unwrap().mean_all().unwrap().to_scalar::<f32>().unwrap().sqrt();
        assert!((f64::from(std) / (2.0 / (64.0 * 9.0f64)).sqrt() - 1.0).abs() < 0.1, "{std}");
        assert!(ResNet18::new(0, &parameters.at("other")).unwrap_err().to_string().contains("`classes`"));
    }
}
