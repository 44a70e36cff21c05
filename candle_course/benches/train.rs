//! Training steps of the lessons' models, by this crate or by plain candle, for
//! `scripts/bench train` and `scripts/gpu-check`.
//!
//! `train IMPLEMENTATION MODEL [cpu|cuda]` reads lines `BATCH PRECISION SECONDS` from the
//! standard input; for each it takes one round of steps and prints
//! `milliseconds-per-step peak-memory-in-MB`. With 0 seconds a round has the model's usual number
//! of steps, otherwise as many as take about that long.
//!
//! `train IMPLEMENTATION MODEL DEVICE count BATCH PRECISION STEPS` takes so many steps between
//! the driver's marks for profilers, after three others.
//!
//! `train IMPLEMENTATION MODEL DEVICE repeat BATCH PRECISION STEPS` takes so many steps twice, from
//! the same seed, and says whether the losses had the same bits.

use std::collections::BTreeMap;
use std::io::BufRead;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use candle_course::{Error, Result, candle_core};

mod models;
mod process;

use models::{MODELS, Step, build, inputs};

// What a binary may choose, and a library must not: glibc gives large tensors back to the system
// after every operation, and faults them in again.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Megabytes that this process, or its part of the GPU, had at most; since the last call on a GPU.
fn peak_memory(device: &Device) -> Result<f64> {
    #[cfg(feature = "cuda")]
    if device.is_cuda() {
        return cuda::peak_memory();
    }
    let _ = device;
    process::peak_memory()
}

#[cfg(feature = "cuda")]
mod cuda {
    use candle_course::{Result, candle_core};

    use candle_core::cuda_backend::cudarc::driver::sys;

    fn check(result: sys::CUresult) -> Result<()> {
        Ok(result.result().map_err(candle_core::Error::wrap)?)
    }

    /// The most that was in use of the device's default pool; begins anew.
    pub fn peak_memory() -> Result<f64> {
        let (mut pool, mut bytes, mut zero) = (std::ptr::null_mut(), 0u64, 0u64);
        let high = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH;
        // SAFETY: device 0 exists, as tensors are on it, and the attribute's type is a 64-bit count.
        unsafe {
            check(sys::cuDeviceGetDefaultMemPool(&mut pool, 0))?;
            check(sys::cuMemPoolGetAttribute(pool, high, (&raw mut bytes).cast()))?;
            check(sys::cuMemPoolSetAttribute(pool, high, (&raw mut zero).cast()))?;
        }
        Ok(bytes as f64 / 1e6)
    }

    pub fn mark(begin: bool) -> Result<()> {
        // SAFETY: they take nothing and change nothing.
        check(unsafe { if begin { sys::cuProfilerStart() } else { sys::cuProfilerStop() } })
    }
}

/// A model in training with its batch.
struct Running {
    step: Step,
    xs: Tensor,
    targets: Tensor,
    steps: usize,
}

impl Running {
    fn new(implementation: &str, model: &str, batch: usize, precision: &str, device: &Device) -> Result<Self> {
        let (shape, target_shape, classes, steps) = inputs(model, batch)?;
        let count: usize = shape.iter().product();
        let values: Vec<f32> = (0..count).map(|i| (i as f32 * 12.9898).sin()).collect();
        let labels: usize = target_shape.iter().product();
        let labels = (0..labels as u32).map(|i| i * 7 % classes).collect::<Vec<_>>();
        Ok(Self {
            step: build(implementation, model, precision, device)?,
            xs: Tensor::from_vec(values, shape, device)?,
            targets: Tensor::from_vec(labels, target_shape, device)?,
            steps,
        })
    }

    fn step(&mut self) -> Result<Tensor> {
        (self.step)(&self.xs, &self.targets)
    }

    /// Milliseconds per step. On a GPU nothing is read between the steps.
    fn round(&mut self, steps: usize, device: &Device) -> Result<f64> {
        let begin = Instant::now();
        let mut last = None;
        for _ in 0..steps {
            let loss = self.step()?;
            if device.is_cpu() {
                assert!(loss.to_dtype(DType::F64)?.to_scalar::<f64>()?.is_finite());
            }
            last = Some(loss);
        }
        if let Some(loss) = last {
            let loss = loss.to_dtype(DType::F64)?.to_scalar::<f64>()?;
            assert!(loss.is_finite(), "the loss is {loss}");
        }
        device.synchronize()?;
        Ok(begin.elapsed().as_secs_f64() * 1e3 / steps as f64)
    }
}

fn number(name: &str, text: &str) -> Result<usize> {
    text.parse().map_err(|_| Error::argument(name, "a whole number", text))
}

/// Rounds on demand. A batch and a precision stay once they came: what is measured is a step.
fn serve(implementation: &str, model: &str, device: &Device) -> Result<()> {
    let mut running: BTreeMap<String, Running> = BTreeMap::new();
    println!("ready");
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let [batch, precision, seconds] = words[..] else {
            return Err(Error::argument("a line", "BATCH PRECISION SECONDS", line));
        };
        let seconds: f64 = seconds.parse()?;
        let key = format!("{batch} {precision}");
        if !running.contains_key(&key) {
            // One at a time, so that the memory is that of one.
            running.clear();
            let mut new = Running::new(implementation, model, number("batch", batch)?, precision, device)?;
            new.round(3, device)?;
            if seconds > 0.0 {
                let each = new.round(3, device)? / 1e3;
                new.steps = ((seconds / each) as usize).clamp(3, 1000);
            }
            running.insert(key.clone(), new);
            peak_memory(device)?;
        }
        let Some(model) = running.get_mut(&key) else { continue };
        model.round(1, device)?; // not timed: what the other implementations pushed out of the caches
        let milliseconds = model.round(model.steps, device)?;
        println!("{milliseconds} {}", peak_memory(device)?);
    }
    Ok(())
}

fn count(mut running: Running, steps: usize, device: &Device) -> Result<()> {
    running.round(3, device)?;
    #[cfg(feature = "cuda")]
    cuda::mark(true)?;
    let mut losses = Vec::new();
    for _ in 0..steps {
        losses.push(running.step()?);
    }
    #[cfg(feature = "cuda")]
    cuda::mark(false)?;
    Ok(())
}

fn losses(mut running: Running, steps: usize) -> Result<Vec<u32>> {
    let losses = (0..steps).map(|_| running.step()).collect::<Result<Vec<_>>>()?;
    let values = losses.iter().map(|loss| Ok(loss.to_dtype(DType::F32)?.to_scalar::<f32>()?.to_bits()));
    values.collect()
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let device = match words.get(2) {
        Some(&"cuda") => Device::new_cuda(0)?,
        Some(&"cpu") | None => Device::Cpu,
        Some(other) => return Err(Error::argument("device", "cpu or cuda", *other)),
    };
    match words[..] {
        [implementation, model] | [implementation, model, _] => serve(implementation, model, &device),
        [implementation, model, _, task @ ("count" | "repeat"), batch, precision, steps] => {
            let steps = number("steps", steps)?;
            let batch = number("batch", batch)?;
            let new = || Running::new(implementation, model, batch, precision, &device);
            if task == "count" {
                return count(new()?, steps, &device);
            }
            let (first, second) = (losses(new()?, steps)?, losses(new()?, steps)?);
            let last = f32::from_bits(*first.last().unwrap_or(&0));
            println!("{} {last}", if first == second { "same" } else { "different" });
            Ok(())
        }
        _ => Err(Error::argument(
            "arguments",
            format!("IMPLEMENTATION (ours, candle) and MODEL ({MODELS})"),
            arguments.join(" "),
        )),
    }
}
