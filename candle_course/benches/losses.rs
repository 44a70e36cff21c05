//! Losses and metrics on the sizes of a segmentation batch, timed.
//!
//! Reads raw little-endian tensors from the folder given (`scripts/bench_losses.py` writes them);
//! every line read from standard input runs one case once and prints its milliseconds and value.

use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::time::Instant;

use candle_course::prelude::*;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn floats(folder: &Path, name: &str) -> Result<Vec<f32>> {
    let bytes = std::fs::read(folder.join(name))?;
    Ok(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
}

fn main() -> Result<()> {
    let folder = PathBuf::from(std::env::args().nth(1).ok_or_else(|| Error::argument("folder", "a path", "nothing"))?);
    let device = Device::Cpu;
    let logits = Tensor::from_vec(floats(&folder, "logits")?, (4, 8, 256, 256), &device)?;
    let targets = Tensor::from_vec(floats(&folder, "targets")?, (4, 256, 256), &device)?.to_dtype(DType::U32)?;
    let scores = floats(&folder, "scores")?;
    let count = scores.len();
    let scores = Tensor::from_vec(scores, count, &device)?;
    let labels = Tensor::from_vec(floats(&folder, "labels")?, count, &device)?.to_dtype(DType::U32)?;
    let variable = Var::from_tensor(&logits)?;
    println!("ready");
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let begin = Instant::now();
        let train = |loss: &dyn Loss| -> Result<f64> {
            let value = loss.forward(&variable, &targets)?;
            value.backward()?;
            Ok(f64::from(value.to_scalar::<f32>()?))
        };
        let value = match line.trim() {
            "cross-entropy" => train(&CrossEntropy::default())?,
            "focal" => train(&Focal::default())?,
            "dice" => train(&Dice::default())?,
            "lovasz-softmax" => train(&LovaszSoftmax::default())?,
            "roc-auc" => roc_auc(&scores, &labels)?,
            other => return Err(Error::argument("case", "a known case", other)),
        };
        println!("{} {value}", begin.elapsed().as_secs_f64() * 1e3);
    }
    Ok(())
}
