//! Streams a split of any image set of the hub once, as training would, and says how fast it came and how much
//! memory it took.
//!
//! ```text
//! cargo run --release --example hub_images owner/name [split]
//! ```

use std::time::Instant;

use candle_course::prelude::*;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().ok_or_else(|| Error::argument("name", "a set of the hub, owner/name", "nothing"))?;
    let split = arguments.next().unwrap_or_else(|| "train".to_owned());
    let images = HubImages::builder(name).splits(&[&split]).load()?.split(&split)?;
    let sampler = images.sampler(1);
    let loader = DataLoader::builder(images).batch_size(32).sampler(sampler).workers(2).build()?;
    let (start, mut count, mut mean) = (Instant::now(), 0, 0.0);
    for batch in loader.epoch(0)? {
        let batch = batch?;
        count += batch.len();
        mean += f64::from(batch.inputs.mean_all()?.to_scalar::<f32>()?) * batch.len() as f64;
    }
    println!(
        "{count} images of mean {:.4}, {:.0} a second",
        mean / count as f64,
        count as f64 / start.elapsed().as_secs_f64()
    );
    // Linux tells the most that a process ever had.
    if let Ok(status) = std::fs::read_to_string("/proc/self/status") {
        status.lines().filter(|line| line.starts_with("VmHWM")).for_each(|line| println!("{line}"));
    }
    Ok(())
}
