//! Training steps of the lessons' models, by this crate or by plain candle, for
//! `scripts/bench train`.
//!
//! `bench_train IMPLEMENTATION MODEL` reads lines from the standard input; for each it takes one
//! round of steps and prints `milliseconds-per-step peak-memory-in-MB`.

use std::io::BufRead;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use candle_course::{Result, candle_core};

mod bench_train_models;

use bench_train_models::{build, inputs};

// What a binary may choose, and a library must not: glibc gives large tensors back to the system
// after every operation, and faults them in again.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn peak_memory() -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("0 kB");
    Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [implementation, model] = arguments.as_slice() else {
        return Err(candle_course::Error::argument(
            "arguments",
            "IMPLEMENTATION (ours, candle) and MODEL (mlp, mnist, cifar, unet, gru)",
            format!("{arguments:?}"),
        ));
    };
    let (shape, target_shape, classes, steps) = inputs(model)?;
    let count: usize = shape.iter().product();
    let values: Vec<f32> = (0..count).map(|i| (i as f32 * 12.9898).sin()).collect();
    let x = Tensor::from_vec(values, shape, &Device::Cpu)?;
    let labels: usize = target_shape.iter().product();
    let targets = Tensor::from_vec((0..labels as u32).map(|i| i * 7 % classes).collect(), target_shape, &Device::Cpu)?;
    let mut step = build(implementation, model)?;
    for _ in 0..3 {
        step(&x, &targets)?;
    }
    println!("ready");
    for line in std::io::stdin().lock().lines() {
        line?;
        step(&x, &targets)?; // not timed: what the other implementations pushed out of the caches
        let begin = Instant::now();
        for _ in 0..steps {
            let loss = step(&x, &targets)?;
            assert!(loss.to_dtype(DType::F64)?.to_scalar::<f64>()?.is_finite());
        }
        println!("{} {}", begin.elapsed().as_secs_f64() * 1e3 / steps as f64, peak_memory()?);
    }
    Ok(())
}
