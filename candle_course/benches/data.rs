//! One measurement of the loader, as a line of JSON: `data <case> [workers]`.
//!
//! Cases: `mnist`, `cifar10`, `io`, `files` (a folder of `export`'s behind the workers), `decode` (the decoder
//! alone on such a folder, from memory to bytes, one thread) and `export <folder>`, which writes the images that
//! the cases use, for another framework to read. Called by `scripts/bench_data.py`.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use candle_course::prelude::*;
use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder as _, RgbImage};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// 2 ms of waiting per example, as for a small file on a disk or a network.
struct SlowFiles(usize);

impl Dataset for SlowFiles {
    fn len(&self) -> usize {
        self.0
    }

    fn get(&self, index: usize) -> Result<Example> {
        thread::sleep(Duration::from_millis(2));
        Ok(Example {
            input: Tensor::zeros((3, 8, 8), DType::F32, &Device::Cpu)?,
            target: Tensor::new(index as u32, &Device::Cpu)?,
        })
    }
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let workers = |text: &str| text.parse::<usize>().map_err(|_| Error::argument("workers", "a number", text));
    match arguments.as_slice() {
        ["export", folder] => export(Path::new(folder)),
        ["mnist", count] => {
            let images = Mnist::builder().sample().quiet().load()?.train();
            measure(DataLoader::builder(images).batch_size(64).shuffle(1).workers(workers(count)?).build()?, 3.0)
        }
        ["cifar10", count] => {
            let images = Cifar10::builder().sample().quiet().load()?.train();
            let loader = DataLoader::builder(images)
                .batch_size(64)
                .shuffle(1)
                .transform(RandomCrop::new(4, 2))
                .transform(RandomHorizontalFlip::new(3))
                .workers(workers(count)?)
                .build()?;
            measure(loader, 3.0)
        }
        ["io", count] => {
            let count = workers(count)?;
            // As long an epoch for every number of workers.
            let files = SlowFiles(16 * 40 * count.max(1));
            measure(DataLoader::builder(files).batch_size(16).workers(count).build()?, 0.0)
        }
        ["files", count, folder] => {
            let loader = DataLoader::builder(ImageFolder::new(folder)?)
                .batch_size(64)
                .shuffle(1)
                .transform(RandomHorizontalFlip::new(3))
                .transform(Normalize::new(&CIFAR_MEAN, &CIFAR_STD)?)
                .workers(workers(count)?)
                .build()?;
            measure(loader, 3.0)
        }
        ["decode", folder] => decode(ImageFolder::new(folder)?),
        _ => Err(Error::argument(
            "arguments",
            "mnist|cifar10|io <workers>, files <workers> <folder>, decode <folder>, or export <folder>",
            arguments.join(" "),
        )),
    }
}

/// Whole epochs until `seconds` are over, after one that warms up.
fn measure(loader: DataLoader, seconds: f64) -> Result<()> {
    let mut examples = 0;
    let mut start = Instant::now();
    for epoch in 0.. {
        if epoch == 1 || (epoch == 0 && seconds == 0.0) {
            start = Instant::now();
            examples = 0;
        }
        for batch in loader.epoch(epoch)? {
            examples += batch?.len();
        }
        if (epoch > 0 || seconds == 0.0) && start.elapsed().as_secs_f64() >= seconds {
            break;
        }
    }
    println!("{{\"examples_per_second\": {:.1}}}", examples as f64 / start.elapsed().as_secs_f64());
    Ok(())
}

/// All images again and again, for three seconds after a round that warms up.
fn decode(folder: ImageFolder) -> Result<()> {
    let files = (0..folder.len()).filter_map(|index| folder.path(index));
    let files = files.map(fs::read).collect::<std::io::Result<Vec<_>>>()?;
    let (mut images, mut start) = (0, Instant::now());
    for round in 0.. {
        if round == 1 {
            (images, start) = (0, Instant::now());
        }
        for file in &files {
            let image = image::load_from_memory(file);
            std::hint::black_box(image.map_err(|error| Error::data(format!("an image cannot be read: {error}")))?);
            images += 1;
        }
        if round > 0 && start.elapsed().as_secs_f64() >= 3.0 {
            break;
        }
    }
    println!("{{\"examples_per_second\": {:.1}}}", images as f64 / start.elapsed().as_secs_f64());
    Ok(())
}

const CIFAR_MEAN: [f64; 3] = [0.4914, 0.4822, 0.4465];
const CIFAR_STD: [f64; 3] = [0.2470, 0.2435, 0.2616];

/// MNIST as IDX files where torchvision looks for them, CIFAR-10 as raw bytes, `[N, H, W, C]`.
fn export(folder: &Path) -> Result<()> {
    let mnist = Mnist::builder().sample().quiet().load()?;
    let raw = folder.join("MNIST/raw");
    fs::create_dir_all(&raw)?;
    for (images, name) in [(mnist.train(), "train"), (mnist.test(), "t10k")] {
        let n = (images.len() as u32).to_be_bytes();
        let mut file = [[0, 0, 8, 3], n, [0, 0, 0, 28], [0, 0, 0, 28]].concat();
        bytes(&images, &mut file)?;
        fs::write(raw.join(format!("{name}-images-idx3-ubyte")), file)?;
        let mut file = [[0, 0, 8, 1], n].concat();
        file.extend(images.labels().iter().map(|&label| label as u8));
        fs::write(raw.join(format!("{name}-labels-idx1-ubyte")), file)?;
    }
    let cifar = Cifar10::builder().sample().quiet().load()?.train();
    let mut planes = Vec::new();
    bytes(&cifar, &mut planes)?;
    let pixels: Vec<u8> = planes
        .chunks_exact(3072)
        .flat_map(|image| (0..1024).flat_map(move |i| [image[i], image[1024 + i], image[2048 + i]]))
        .collect();
    fs::write(folder.join("cifar10-images.bin"), pixels)?;
    fs::write(folder.join("cifar10-labels.bin"), cifar.labels().iter().map(|&label| label as u8).collect::<Vec<_>>())?;
    for (side, count) in [(64, 1600), (256, 400)] {
        photographs(folder, &cifar, side, count)?;
    }
    Ok(())
}

/// Pictures of `side` pixels, photographs side by side, in two classes: as JPEG of quality 90 and as PNG.
fn photographs(folder: &Path, cifar: &ImageDataset, side: u32, count: usize) -> Result<()> {
    let broken = |error: image::ImageError| Error::data(format!("an image cannot be written: {error}"));
    let across = side / 32;
    for at in 0..count {
        let mut picture = RgbImage::new(side, side);
        for (x, y, pixel) in picture.enumerate_pixels_mut() {
            let tile = (y / 32 * across + x / 32) as usize;
            let photograph = cifar.bytes((at * 7 + tile * 13) % cifar.len())?;
            let place = (y % 32 * 32 + x % 32) as usize;
            pixel.0 = [0, 1, 2].map(|channel| photograph[channel * 1024 + place]);
        }
        for kind in ["jpeg", "png"] {
            let class = folder.join(format!("{kind}-{side}/{}", ["even", "odd"][at % 2]));
            fs::create_dir_all(&class)?;
            let out = std::io::BufWriter::new(fs::File::create(class.join(format!("{at:04}.{kind}")))?);
            let color = ExtendedColorType::Rgb8;
            match kind {
                "jpeg" => JpegEncoder::new_with_quality(out, 90).write_image(&picture, side, side, color),
                _ => PngEncoder::new(out).write_image(&picture, side, side, color),
            }
            .map_err(broken)?;
        }
    }
    Ok(())
}

fn bytes(images: &ImageDataset, into: &mut Vec<u8>) -> Result<()> {
    (0..images.len()).try_for_each(|i| {
        into.extend_from_slice(images.bytes(i)?);
        Ok(())
    })
}
