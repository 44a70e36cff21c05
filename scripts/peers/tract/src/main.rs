//! Predictions by tract of the models that `candle_course/benches/inference.rs` exports, for
//! `scripts/bench inference --peers tract`.
//!
//! `tract_peer THREADS FOLDER` reads lines `BATCH SECONDS` from the standard input; for each it predicts for about that
//! long and prints `microseconds-per-call largest-difference-of-the-outputs`, in parts of the largest output.

use std::collections::HashMap;
use std::io::BufRead;
use std::path::Path;
use std::time::Instant;

use safetensors::SafeTensors;
use tract_onnx::prelude::multithread::{Executor, set_default_executor};
use tract_onnx::prelude::*;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn numbers(probe: &SafeTensors<'_>, name: &str) -> TractResult<(Vec<usize>, Vec<f32>)> {
    let tensor = probe.tensor(name)?;
    let numbers =
        tensor.data().chunks_exact(4).map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
    Ok((tensor.shape().to_vec(), numbers.collect()))
}

/// How far numbers are apart, in parts of the largest, or of 1 if that is larger.
fn apart(found: &[f32], expected: &[f32]) -> TractResult<f32> {
    if found.len() != expected.len() {
        return Err(TractError::msg(format!("{} outputs instead of {}", found.len(), expected.len())));
    }
    let largest = expected.iter().fold(1f32, |largest, x| largest.max(x.abs()));
    // Not `max`, which would pass over a NaN.
    let worse = |worst: f32, x: f32| if x <= worst { worst } else { x };
    Ok(found.iter().zip(expected).map(|(x, y)| (x - y).abs() / largest).fold(0.0, worse))
}

fn main() -> TractResult<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [threads, folder] = &arguments[..] else {
        return Err(TractError::msg(format!("expected THREADS and FOLDER, got {}", arguments.join(" "))));
    };
    let (threads, folder) = (threads.parse::<usize>()?, Path::new(folder));
    if threads > 1 {
        set_default_executor(Executor::multithread(threads));
    }
    let bytes = std::fs::read(folder.join("probe.safetensors"))?;
    let probe = SafeTensors::deserialize(&bytes)?;
    // Optimised for its batch, its state kept from call to call.
    let mut ready = HashMap::new();
    println!("ready");
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let [batch, seconds] = words[..] else {
            return Err(TractError::msg(format!("expected BATCH SECONDS, got {line}")));
        };
        let seconds: f64 = seconds.parse()?;
        if !ready.contains_key(batch) {
            let (shape, xs) = numbers(&probe, &format!("xs{batch}"))?;
            let model = tract_onnx::onnx()
                .model_for_path(folder.join("model.onnx"))?
                .with_input_fact(0, f32::fact(&shape).into())?
                .with_output_fact(0, InferenceFact::default())?
                .into_optimized()?
                .into_runnable()?;
            let expected = numbers(&probe, &format!("ys{batch}"))?.1;
            ready.insert(batch.to_string(), (model.spawn()?, TValue::from(Tensor::from_shape(&shape, &xs)?), expected));
        }
        let Some((state, xs, expected)) = ready.get_mut(batch) else { continue };
        let found = state.run(tvec![xs.clone()])?;
        let difference = apart(found[0].view().as_slice::<f32>()?, expected)?;
        let (begin, mut calls) = (Instant::now(), 0);
        while calls < 3 || begin.elapsed().as_secs_f64() < seconds {
            state.run(tvec![xs.clone()])?;
            calls += 1;
        }
        println!("{} {difference}", begin.elapsed().as_secs_f64() * 1e6 / f64::from(calls));
    }
    Ok(())
}
