//! Times an AdamW step over 10 million parameters, and saving and loading 500 MB.
//! `scripts/bench train-state` runs it, and the same in PyTorch.

use std::path::Path;
use std::time::Instant;

use candle_course::prelude::*;

/// Median seconds of `rounds` calls, after two to warm up.
fn median(rounds: usize, mut call: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut seconds = Vec::new();
    for round in 0..rounds + 2 {
        let start = Instant::now();
        call()?;
        if round >= 2 {
            seconds.push(start.elapsed().as_secs_f64());
        }
    }
    seconds.sort_by(f64::total_cmp);
    Ok(seconds[seconds.len() / 2])
}

fn step(policy: NonFinite) -> Result<f64> {
    let parameters = Parameters::new(0, &Device::Cpu);
    let mut gradients = Tensor::zeros((), DType::F32, &Device::Cpu)?.backward()?;
    for layer in 0..10 {
        let init = Init::Uniform { low: -0.1, high: 0.1 };
        let var = parameters.root().parameter(&format!("layer{layer}.weight"), (1000, 1000), init)?;
        gradients.insert(&var, (var.as_tensor() * 0.3)?);
    }
    let mut optimizer = AdamW::builder(&parameters).non_finite(policy).build()?;
    median(31, || optimizer.step(&gradients, 1e-3))
}

fn main() -> Result<()> {
    let folder = std::env::args().nth(1).ok_or_else(|| Error::argument("folder", "where to save 500 MB", "nothing"))?;
    let path = Path::new(&folder).join("candle_course.safetensors");
    println!("step {:.6}", step(NonFinite::Ignore)?);
    println!("step_checked {:.6}", step(NonFinite::Error)?);
    let tensors = (0..10)
        .map(|index| Ok((format!("layer{index}.weight"), Tensor::full(index as f32, (12_500, 1000), &Device::Cpu)?)))
        .collect::<Result<std::collections::BTreeMap<_, _>>>()?;
    let snapshot = Snapshot::new().tensors("model", tensors.clone())?;
    println!("save {:.6}", median(5, || snapshot.save(&path))?);
    println!("load {:.6}", median(5, || Snapshot::load(&path).map(drop))?);
    println!("save_weights {:.6}", median(5, || write_weights(&tensors, None, &path))?);
    println!("load_weights {:.6}", median(5, || read_weights(&path).map(drop))?);
    Ok(())
}
