//! Writes what the fuzzer begins with, whole files of every kind, below the folder that is named.

use std::error::Error;
use std::fs;
use std::io::{Cursor, Write};
use std::path::Path;
use std::sync::Arc;

use candle_course::checkpoint::{Snapshot, save_weights};
use candle_course::prelude::*;
use candle_course::tensorboard::SummaryWriter;
use candle_course_fuzz::mnist_files;
use image::{ImageFormat, RgbImage};
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

type Outcome<T> = std::result::Result<T, Box<dyn Error>>;

fn gzip(bytes: &[u8]) -> Outcome<Vec<u8>> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?)
}

fn image(width: u32, height: u32, format: ImageFormat) -> Outcome<Vec<u8>> {
    let mut out = Cursor::new(Vec::new());
    RgbImage::from_fn(width, height, |x, y| image::Rgb([x as u8 * 9, y as u8 * 9, 90])).write_to(&mut out, format)?;
    Ok(out.into_inner())
}

/// As the hub's: a group of PNG bytes and path, and a label.
fn parquet(rows: usize) -> Outcome<Vec<u8>> {
    let schema = "message schema { optional group image { optional binary bytes; optional binary path (STRING); } optional int64 label; }";
    let mut out = Vec::new();
    let mut writer = SerializedFileWriter::new(&mut out, Arc::new(parse_message_type(schema)?), Arc::default())?;
    let mut group = writer.next_row_group()?;
    let png = image(28, 28, ImageFormat::Png)?;
    for (column, level) in [(0, 2), (1, 1), (2, 1)] {
        let mut writer = group.next_column()?.ok_or("a column for each")?;
        let levels = vec![level; rows];
        match column {
            0 => {
                let values = vec![ByteArray::from(png.clone()); rows];
                writer.typed::<ByteArrayType>().write_batch(&values, Some(&levels), None)?;
            }
            1 => {
                writer.typed::<ByteArrayType>().write_batch(&[], Some(&levels), None)?;
            }
            _ => {
                let values: Vec<i64> = (0..rows as i64).collect();
                writer.typed::<Int64Type>().write_batch(&values, Some(&levels), None)?;
            }
        }
        writer.close()?;
    }
    group.close()?;
    writer.close()?;
    Ok(out)
}

/// A checkpoint, weights, an event file and a history of a training of two epochs.
fn training(folder: &Path) -> Outcome<[Vec<u8>; 4]> {
    let inputs = Tensor::new(&[[0f32, 1.0], [1.0, 0.0]], &Device::Cpu)?;
    let targets = Tensor::new(&[0u32, 1], &Device::Cpu)?;
    let loader = DataLoader::builder(TensorDataset::new(inputs, targets)?).batch_size(2).build()?;
    let parameters = Parameters::new(1, &Device::Cpu);
    let model = Linear::new(2, 2, &parameters.at("fc"))?;
    let optimizer = Sgd::builder(&parameters).momentum(0.9).build()?;
    let mut trainer = Trainer::builder(model, &parameters, CrossEntropy::default(), optimizer)
        .epochs(2)
        .learning_rate(0.1)
        .metric(Accuracy::default())
        .build()?;
    let history = folder.join("history.json");
    trainer.fit(&loader, Some(&loader))?.save(&history)?;
    let weights = folder.join("weights.safetensors");
    save_weights(&parameters, &weights)?;
    let checkpoint = folder.join("checkpoint.safetensors");
    Snapshot::new().section("model", &parameters)?.number("epoch", 2.0).text("note", "two epochs").save(&checkpoint)?;
    let events = folder.join("events");
    let writer = SummaryWriter::new(&events)?;
    for step in 0..3 {
        writer.scalar("loss", 1.0 / (step + 1) as f64, step)?;
    }
    writer.close()?;
    let events = fs::read_dir(&events)?.next().ok_or("an event file")??.path();
    Ok([fs::read(checkpoint)?, fs::read(weights)?, fs::read(events)?, fs::read(history)?])
}

/// `{"w": torch.tensor([0.5, 2.0])}` as `torch.save` writes it: a pickle and a storage in a zip file.
fn pytorch() -> Outcome<Vec<u8>> {
    let pickle = [
        &b"\x80\x02}q\x00X\x01\0\0\0wq\x01ctorch._utils\n_rebuild_tensor_v2\nq\x02((X\x07\0\0\0storageq\x03"[..],
        b"ctorch\nFloatStorage\nq\x04X\x01\0\0\x000q\x05X\x03\0\0\0cpuq\x06K\x02tq\x07QK\0K\x02\x85q\x08K\x01\x85q\x09",
        b"\x89ccollections\nOrderedDict\nq\x0a)Rq\x0btq\x0cRq\x0ds.",
    ]
    .concat();
    let storage = [0.5f32.to_le_bytes(), 2f32.to_le_bytes()].concat();
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, content) in [("data.pkl", pickle), ("data/0", storage), ("version", b"3\n".to_vec())] {
        zip.start_file(format!("archive/{name}"), stored)?;
        zip.write_all(&content)?;
    }
    Ok(zip.finish()?.into_inner())
}

fn main() -> Outcome<()> {
    let root = std::env::args().nth(1).ok_or("which folder?")?;
    let mut seeds: Vec<(&str, Vec<u8>)> = Vec::new();
    for (which, (_, file)) in mnist_files().iter().enumerate() {
        seeds.push(("idx", [&[which as u8][..], file].concat()));
        seeds.push(("idx", [&[which as u8][..], &gzip(file)?].concat()));
    }
    let record: Vec<u8> = (0..3073).map(|i| if i == 0 { 3 } else { (i % 251) as u8 }).collect();
    seeds.push(("cifar", gzip(&record)?));
    seeds.push(("cifar", record));
    seeds.push(("parquet", parquet(1)?));
    seeds.push(("parquet", parquet(3)?));
    for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP] {
        seeds.push(("images", image(5, 3, format)?));
    }
    let temporary = tempfile::tempdir()?;
    let path = temporary.path().join("scene.tif");
    let place = Georeference::projected(32_723, [300_000.0, 7_500_000.0], [10.0, 10.0])?;
    let bands = Tensor::arange(0f32, 3.0 * 7.0 * 9.0, &Device::Cpu)?.reshape((3, 7, 9))?;
    let scene = Scene::from_tensor(&bands, &["red", "green", "nir"])?.with_georeference(place);
    scene.write(&path)?;
    seeds.push(("geotiff", fs::read(&path)?));
    ClassMap::builder(&scene, &bands.get(0)?.to_dtype(DType::U8)?).colors(&[[0.5; 3]; 7]).build()?.write(&path)?;
    seeds.push(("geotiff", fs::read(&path)?));
    let [checkpoint, weights, events, history] = training(temporary.path())?;
    seeds.extend([("checkpoint", checkpoint), ("weights", weights), ("events", events), ("history", history)]);
    seeds.push(("pytorch_weights", pytorch()?));
    // A seed that is refused teaches the fuzzer little.
    let path = temporary.path().join("weights.pt");
    fs::write(&path, pytorch()?)?;
    assert_eq!(candle_course::checkpoint::read_weights(&path)?["w"].to_vec1::<f32>()?, [0.5, 2.0]);
    for (number, (target, bytes)) in seeds.iter().enumerate() {
        let folder = Path::new(&root).join(target);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(format!("seed-{number}")), bytes)?;
    }
    println!("{} seeds below {root}", seeds.len());
    Ok(())
}
