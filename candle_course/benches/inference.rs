//! Predictions of the models that `scripts/bench train` trains, by the model itself and made ready, for
//! `scripts/bench inference`.
//!
//! `inference export MODEL FOLDER` writes the model as `model.onnx`, its weights as `weights.safetensors`, and as
//! `probe.safetensors` inputs and outputs for batches of 1 and of 64.
//!
//! `inference plain|prepared MODEL FOLDER` reads lines `BATCH SECONDS` from the standard input; for each it predicts
//! for about that long and prints `microseconds-per-call largest-difference-of-the-outputs`.

use std::io::BufRead;
use std::path::Path;
use std::time::Instant;

use candle_course::inference::Inference;
use candle_course::onnx::OnnxExport;
use candle_course::ops::no_grad;
use candle_course::prelude::*;

#[allow(dead_code)] // what trains them
mod models;

use models::inputs;
use models::ours::{ConvNorm, Network, Residual, network};

// As in the training's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BATCHES: [usize; 2] = [1, 64];

fn waves(name: &str, batch: usize) -> Result<Tensor> {
    let shape = inputs(name, batch)?.0;
    let values: Vec<f32> = (0..shape.iter().product()).map(|i: usize| (i as f32 * 12.9898).sin()).collect();
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
}

/// The model, always with the same weights, whose batch norms have seen a few batches.
fn trained(name: &str) -> Result<(Box<dyn Network>, Parameters)> {
    let parameters = Parameters::new(0, &Device::Cpu);
    let model = network(name, &parameters)?;
    for _ in 0..3 {
        no_grad(|| model.forward_t(&waves(name, 8)?, true))?;
    }
    Ok((model, parameters))
}

fn export(name: &str, folder: &Path) -> Result<()> {
    let (model, parameters) = trained(name)?;
    save_weights(&parameters, folder.join("weights.safetensors"))?;
    let export = OnnxExport::builder(&parameters).layer::<ConvNorm>().layer::<Residual>().fold_batch_norms();
    export.input("xs").output("ys").build()?.save(&*model, &waves(name, 1)?, folder.join("model.onnx"))?;
    let mut probe = State::new();
    for batch in BATCHES {
        let xs = waves(name, batch)?;
        probe.insert(format!("ys{batch}"), no_grad(|| model.forward_t(&xs, false))?);
        probe.insert(format!("xs{batch}"), xs);
    }
    write_weights(&probe, None, folder.join("probe.safetensors"))
}

/// How far numbers are apart, in parts of the largest.
fn apart(found: &Tensor, expected: &Tensor) -> Result<f32> {
    let largest = |xs: &Tensor| Ok::<_, Error>(xs.abs()?.max_all()?.to_scalar::<f32>()?);
    Ok(largest(&(found - expected)?)? / largest(expected)?.max(1.0))
}

/// Microseconds per call, over about so many seconds.
fn round(seconds: f64, mut call: impl FnMut() -> Result<()>) -> Result<f64> {
    let begin = Instant::now();
    let mut calls = 0;
    while calls < 3 || begin.elapsed().as_secs_f64() < seconds {
        call()?;
        calls += 1;
    }
    Ok(begin.elapsed().as_secs_f64() * 1e6 / f64::from(calls))
}

fn serve(implementation: &str, name: &str, folder: &Path) -> Result<()> {
    let (model, _) = trained(name)?;
    let probe = read_weights(folder.join("probe.safetensors"))?;
    let ready = |batch: usize| -> Result<Inference> {
        Inference::builder(&*model, &waves(name, batch)?).layer::<ConvNorm>().layer::<Residual>().build()
    };
    let mut ready = [ready(BATCHES[0])?, ready(BATCHES[1])?];
    println!("ready");
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let [batch, seconds] = words[..] else { return Err(Error::argument("a line", "BATCH SECONDS", line)) };
        let (xs, expected) = (&probe[&format!("xs{batch}")], &probe[&format!("ys{batch}")]);
        let seconds: f64 = seconds.parse()?;
        let (found, time) = if implementation == "plain" {
            let call = || no_grad(|| model.forward_t(xs, false));
            (call()?, round(seconds, || call().map(drop).map_err(Error::from))?)
        } else {
            let inference = &mut ready[usize::from(batch != "1")];
            let numbers: Vec<f32> = xs.flatten_all()?.to_vec1()?;
            (inference.forward(xs)?, round(seconds, || inference.run(&numbers).map(drop))?)
        };
        println!("{time} {}", apart(&found, expected)?);
    }
    Ok(())
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["export", model, folder] => export(model, Path::new(folder)),
        [implementation @ ("plain" | "prepared"), model, folder] => serve(implementation, model, Path::new(folder)),
        _ => Err(Error::argument("arguments", "export, plain or prepared, MODEL and FOLDER", arguments.join(" "))),
    }
}
