//! Models of candle-transformers, as they come and on layers with gradients, with weights that
//! PyTorch's twins have too; `scripts/reference_foreign.py` writes what those compute.

use candle_course::prelude::*;
use candle_transformers::models::convnext;

/// candle-transformers' own file, on layers with gradients.
macro_rules! with_gradients {
    ($name:ident) => {
        #[allow(missing_docs, dead_code, clippy::all)]
        pub mod $name {
            use candle_course::candle_core as candle;
            use candle_course::nn::trainable as candle_nn;
            include!(concat!(env!("OUT_DIR"), "/", stringify!($name), ".rs"));
        }
    };
}
with_gradients!(vit);
with_gradients!(bert);

/// 32 bits that look random; the same function as in the script.
fn hashed(place: u32, seed: u32) -> u32 {
    let mut x = place.wrapping_mul(2_654_435_761).wrapping_add(seed.wrapping_mul(40_503)).wrapping_add(1);
    for _ in 0..2 {
        x = (x ^ (x >> 16)).wrapping_mul(0x7FEB_352D);
        x = (x ^ (x >> 15)).wrapping_mul(0x846C_A68B);
    }
    x ^ (x >> 16)
}

/// Numbers in [-1, 1) that follow from place and seed.
pub fn numbers(shape: &[usize], seed: u32) -> Result<Tensor> {
    let count: usize = shape.iter().product();
    let values: Vec<f32> =
        (0..count as u32).map(|i| (f64::from(hashed(i, seed)) / 2f64.powi(31) - 1.0) as f32).collect();
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
}

/// Gives every variable the numbers that the script gives PyTorch's parameter of that name.
pub fn share_weights(parameters: &Parameters) -> Result<()> {
    for (name, var) in parameters.all() {
        let seed = name.bytes().fold(0u32, |seed, byte| seed.wrapping_mul(31).wrapping_add(byte.into()));
        let shape = var.dims().to_vec();
        let values = numbers(&shape, seed)?;
        let around_one = ["weight", "gamma", "running_var"].iter().any(|end| name.ends_with(end));
        let values = match shape.len() {
            1 if around_one => values.affine(0.3, 1.0)?,
            0 | 1 => values.affine(0.2, 0.0)?,
            _ => values.affine((3.0 / shape[1..].iter().product::<usize>() as f64).sqrt(), 0.0)?,
        };
        var.set(&values)?;
    }
    Ok(())
}

/// A ViT for 16 × 16 images of 3 channels and 5 classes.
pub fn vit_config() -> vit::Config {
    vit::Config {
        hidden_size: 32,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        intermediate_size: 48,
        hidden_act: candle_nn::Activation::Gelu,
        layer_norm_eps: 1e-6,
        image_size: 16,
        patch_size: 4,
        num_channels: 3,
        qkv_bias: true,
    }
}

/// A BERT of 2 layers, 50 words.
pub fn bert_config() -> bert::Config {
    bert::Config {
        vocab_size: 50,
        hidden_size: 32,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        intermediate_size: 48,
        max_position_embeddings: 16,
        layer_norm_eps: 1e-6,
        ..Default::default()
    }
}

/// [`vit::Model`] as what is trained.
#[derive(Clone)]
pub struct Vit(vit::Model);

impl Vit {
    /// The model of [`vit_config`], its variables in `parameters`.
    pub fn new(parameters: &Parameters) -> Result<Self> {
        Ok(Self(vit::Model::new(&vit_config(), 5, parameters.var_builder())?))
    }
}

impl Module for Vit {
    fn forward(&self, xs: &Tensor) -> candle_core::Result<Tensor> {
        self.0.forward(xs)
    }
}

/// candle-transformers' own ConvNeXt without its head, whose norm candle has no gradient for: features
/// `[N, 320]` of images `[N, 3, 64, 64]`.
pub fn convnext_features(parameters: &Parameters) -> Result<candle_nn::Func<'static>> {
    let bridge = Bridge::builder(&parameters.root()).absent("*.grn").build()?;
    Ok(convnext::convnext_no_final_layer(&convnext::Config::atto(), bridge.var_builder())?)
}
