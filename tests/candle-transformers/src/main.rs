//! The Rust half of `scripts/interop`: trains a ViT of candle-transformers' for three steps and saves
//! its weights and what it says of a few images, for PyTorch to load and say the same.

use std::path::Path;

use candle_course::prelude::*;
use candle_transformers_oracle::{Vit, numbers, share_weights};

fn main() -> Result<()> {
    let folder =
        std::env::args().nth(1).ok_or_else(|| Error::argument("folder", "a folder to exchange files in", "nothing"))?;
    let parameters = Parameters::new(0, &Device::Cpu);
    let model = Vit::new(&parameters)?;
    share_weights(&parameters)?;
    let mut optimizer = AdamW::builder(&parameters).build()?;
    let xs = numbers(&[4, 3, 16, 16], 1)?;
    let batch =
        Batch { inputs: xs.clone(), targets: Tensor::new(&[0u32, 1, 2, 3], &Device::Cpu)?, indices: (0..4).collect() };
    for _ in 0..3 {
        train_step(&model, &CrossEntropy::default(), &mut optimizer, &batch, 0.01)?;
    }
    save_weights(&parameters, Path::new(&folder).join("vit.ours.safetensors"))?;
    let logits = [("xs".to_owned(), xs.clone()), ("logits".to_owned(), model.forward(&xs)?.detach())];
    write_weights(&logits.into(), None, Path::new(&folder).join("vit.ours-logits.safetensors"))
}
