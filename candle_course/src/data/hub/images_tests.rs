//! Sets of other shapes, from a server of the test's own: see `tests` for what it speaks.

use std::collections::HashMap;
use std::io::Cursor;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use image::{ImageBuffer, ImageFormat, Luma, Rgb};
use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;
use serde_json::json;

use super::tests::Hub;
use crate::data::geotiff::{self, Band, Raster, Samples};
use crate::data::{DataLoader, Dataset, HubImages, HubImagesBuilder, Sampler, Source};
use crate::error::Result;
use crate::test_support::{HARMLESS, alone, mutations, peak_memory, quietly, tried};

/// A column of a file.
pub(super) enum Column {
    Images(Vec<Vec<u8>>),
    /// Beside bytes that are none.
    Paths(Vec<&'static str>),
    /// A column of its own.
    Text(Vec<&'static str>),
    Numbers(Vec<i64>),
}

fn blobs(group: &mut SerializedRowGroupWriter<'_, &mut Vec<u8>>, values: &[ByteArray], levels: &[i16]) {
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<ByteArrayType>().write_batch(values, Some(levels), None).unwrap();
    column.close().unwrap();
}

/// A parquet file of these columns, `rows` to a group, with the features that `datasets` would note.
pub(super) fn file(columns: &[(&str, Column)], rows: usize, features: serde_json::Value) -> Vec<u8> {
    let fields = columns.iter().map(|(name, column)| match column {
        Column::Images(_) | Column::Paths(_) => {
            format!("optional group {name} {{ optional binary bytes; optional binary path (STRING); }}")
        }
        Column::Text(_) => format!("optional binary {name} (STRING);"),
        Column::Numbers(_) => format!("optional int64 {name};"),
    });
    let schema = format!("message schema {{ {} }}", fields.collect::<Vec<_>>().join(" "));
    let noted = json!({ "info": { "features": features } }).to_string();
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_key_value_metadata(Some(vec![KeyValue::new("huggingface".to_owned(), noted)]))
        .build();
    let mut out = Vec::new();
    let mut writer =
        SerializedFileWriter::new(&mut out, Arc::new(parse_message_type(&schema).unwrap()), Arc::new(properties))
            .unwrap();
    let total = match &columns[0].1 {
        Column::Images(images) => images.len(),
        Column::Paths(paths) | Column::Text(paths) => paths.len(),
        Column::Numbers(numbers) => numbers.len(),
    };
    for first in (0..total).step_by(rows) {
        let range = first..(first + rows).min(total);
        let n = range.len();
        let mut group = writer.next_row_group().unwrap();
        for (_, column) in columns {
            match column {
                Column::Images(images) => {
                    let bytes: Vec<ByteArray> =
                        images[range.clone()].iter().map(|image| ByteArray::from(image.clone())).collect();
                    blobs(&mut group, &bytes, &vec![2; n]);
                    blobs(&mut group, &[], &vec![1; n]);
                }
                Column::Paths(paths) => {
                    let paths: Vec<ByteArray> = paths[range.clone()].iter().map(|&path| path.into()).collect();
                    blobs(&mut group, &[], &vec![1; n]);
                    blobs(&mut group, &paths, &vec![2; n]);
                }
                Column::Text(texts) => {
                    let texts: Vec<ByteArray> = texts[range.clone()].iter().map(|&text| text.into()).collect();
                    blobs(&mut group, &texts, &vec![1; n]);
                }
                Column::Numbers(numbers) => {
                    let mut column = group.next_column().unwrap().unwrap();
                    let numbers = &numbers[range.clone()];
                    column.typed::<Int64Type>().write_batch(numbers, Some(&vec![1; n]), None).unwrap();
                    column.close().unwrap();
                }
            }
        }
        group.close().unwrap();
    }
    writer.close().unwrap();
    out
}

/// What a pixel of [`tiff`] holds.
fn stored(image: usize, band: usize, pixel: usize) -> u16 {
    ((image * 13 + band) * 50 + pixel % 50) as u16
}

/// A TIFF of 13 bands of 64 × 64 in 16 bits, whose values tell the image, the band and the pixel.
fn tiff(image: usize) -> Vec<u8> {
    let values = (0..13 * 4096).map(|i| stored(image, i / 4096, i % 4096));
    let raster = Raster {
        samples: Samples::U16(values.collect()),
        size: [13, 64, 64],
        bands: vec![Band::default(); 13],
        nodata: None,
        georeference: None,
    };
    geotiff::write(&raster, &[], &[]).unwrap()
}

fn encoded<P, C>(image: &ImageBuffer<P, C>, format: ImageFormat) -> Vec<u8>
where
    P: image::Pixel + image::PixelWithColorType,
    [P::Subpixel]: image::EncodableLayout,
    C: std::ops::Deref<Target = [P::Subpixel]>,
{
    let mut out = Cursor::new(Vec::new());
    image.write_to(&mut out, format).unwrap();
    out.into_inner()
}

/// Five shards of 10 images in groups of 4, and a test split of one.
fn bands_hub() -> Hub {
    let features = json!({
        "image": { "_type": "Image" },
        "label": { "_type": "ClassLabel", "names": ["annual crop", "forest", "river"] },
    });
    let shard = |first: usize, count: usize| {
        let images = (first..first + count).map(tiff).collect();
        let labels = (first..first + count).map(|image| (image % 3) as i64).collect();
        file(&[("image", Column::Images(images)), ("label", Column::Numbers(labels))], 4, features.clone())
    };
    let mut files: HashMap<String, Vec<u8>> =
        (0..5).map(|i| (format!("data/train-0000{i}-of-00005.parquet"), shard(10 * i, 10))).collect();
    files.insert("data/test-00000-of-00001.parquet".to_owned(), shard(90, 3));
    files.insert("README.md".to_owned(), b"# bands".to_vec());
    Hub { repository: "someone/bands", files, ..Hub::default() }
}

fn from(repository: &str, endpoint: &str, cache: &tempfile::TempDir) -> HubImagesBuilder {
    HubImages::builder(repository).scale(1.0).endpoint(endpoint).cache(cache.path()).quiet()
}

fn first_value(dataset: &dyn Dataset, index: usize) -> f32 {
    dataset.get(index).unwrap().input.flatten_all().unwrap().to_vec1::<f32>().unwrap()[0]
}

#[test]
fn shards_of_13_bands_come_once_and_then_without_a_network() {
    let mut hub = bands_hub();
    hub.cuts = std::sync::Mutex::new(vec![100, 5_000]);
    let hub = Arc::new(hub);
    let (endpoint, cache) = (hub.serve(), tempfile::tempdir().unwrap());
    let set = from("someone/bands", &endpoint, &cache).load().unwrap();
    assert_eq!(*set.source(), Source::Hub("someone/bands".to_owned()));
    assert_eq!(hub.content_requests.load(Ordering::SeqCst), 8, "six files and two resumed parts");
    assert_eq!(
        (set.splits(), set.class_names().join(" ").as_str()),
        (vec!["test", "train"], "annual crop forest river")
    );
    let train = set.split("train").unwrap();
    assert_eq!((train.len(), set.split("test").unwrap().len()), (50, 3));
    assert_eq!(train.labels().unwrap(), (0..50).map(|image| image % 3).collect::<Vec<u32>>());
    for index in [0, 3, 4, 9, 10, 37, 49] {
        let example = train.get(index).unwrap();
        assert_eq!(example.input.dims(), [13, 64, 64]);
        let values = example.input.to_vec3::<f32>().unwrap();
        assert_eq!([values[0][0][0], values[12][1][1]], [stored(index, 0, 0), stored(index, 12, 65)].map(f32::from));
        assert_eq!(example.target.to_scalar::<u32>().unwrap(), index as u32 % 3);
    }
    let asked = hub.requests.lock().unwrap().len();
    let again = from("someone/bands", "http://127.0.0.1:9", &cache).offline(true).load().unwrap();
    assert_eq!(*again.source(), Source::HubCache(cache.path().to_owned()));
    assert_eq!(first_value(&again.split("test").unwrap(), 2), f32::from(stored(92, 0, 0)));
    assert_eq!(hub.requests.lock().unwrap().len(), asked);
    let other = from("someone/else", "http://127.0.0.1:9", &cache).offline(true).load().unwrap_err().to_string();
    assert!(other.contains("cannot be had offline"), "{other}");
}

#[test]
fn workers_read_every_example_once_in_an_order_that_follows_the_seed() {
    let hub = Arc::new(bands_hub());
    let (endpoint, cache) = (hub.serve(), tempfile::tempdir().unwrap());
    let set = from("someone/bands", &endpoint, &cache).load().unwrap();
    let train = set.split("train").unwrap();
    let sampler = train.sampler(7);
    assert_eq!(sampler.indices(0).unwrap(), sampler.indices(0).unwrap());
    assert_ne!(sampler.indices(0).unwrap(), sampler.indices(1).unwrap());
    assert_ne!(sampler.indices(0).unwrap(), train.sampler(8).indices(0).unwrap());
    let mut sorted = sampler.indices(3).unwrap();
    sorted.sort_unstable();
    assert_eq!(sorted, (0..50).collect::<Vec<_>>());
    let loader = DataLoader::builder(train.clone()).batch_size(8).sampler(sampler).workers(3).build().unwrap();
    let mut seen = Vec::new();
    for batch in loader.epoch(0).unwrap() {
        let batch = batch.unwrap();
        let values: Vec<f32> =
            batch.inputs.narrow(1, 0, 1).unwrap().flatten_from(1).unwrap().min(1).unwrap().to_vec1().unwrap();
        for (value, &index) in values.iter().zip(&batch.indices) {
            assert_eq!(*value, f32::from(stored(index, 0, 0)));
        }
        seen.extend(batch.indices);
    }
    seen.sort_unstable();
    assert_eq!(seen, sorted);
}

/// The file of that name somewhere below a folder.
fn find(folder: &std::path::Path, name: &str) -> Option<std::path::PathBuf> {
    std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).find_map(|path| match path.is_dir() {
        true => find(&path, name),
        false => path.ends_with(name).then_some(path),
    })
}

#[test]
fn ranks_read_the_files_of_their_own_part() {
    let hub = Arc::new(bands_hub());
    let endpoint = hub.serve();
    let order = |rank: usize, missing: &[usize]| -> Result<Vec<Vec<usize>>> {
        // A machine of its own, whose disk loses files once the set is known.
        let cache = tempfile::tempdir().unwrap();
        let train = from("someone/bands", &endpoint, &cache).splits(&["train"]).load()?.split("train")?;
        for file in missing {
            std::fs::remove_file(find(cache.path(), &format!("train-0000{file}-of-00005.parquet")).unwrap()).unwrap();
        }
        let sampler = train.sharded_sampler(7, 5, 4)?;
        let loader = DataLoader::builder(train).batch_size(4).sampler(sampler).workers(1).build()?.shard(rank, 5)?;
        loader.epoch(3)?.map(|batch| Ok(batch?.indices)).collect()
    };
    let mut seen = Vec::new();
    for rank in 0..5 {
        let others: Vec<usize> = (0..5).filter(|&file| file != rank).collect();
        let own = order(rank, &others).unwrap();
        assert_eq!(own.iter().map(Vec::len).collect::<Vec<_>>(), [4, 4, 2]);
        assert_eq!(order(rank, &[]).unwrap(), own);
        let text = order(rank, &[rank]).unwrap_err().to_string();
        assert!(text.contains(&format!("train-0000{rank}-of-00005.parquet")), "{text}");
        seen.push(own);
    }
    // What all take together is a batch of one process.
    let cache = tempfile::tempdir().unwrap();
    let train = from("someone/bands", &endpoint, &cache).splits(&["train"]).load().unwrap().split("train").unwrap();
    let sampler = train.sharded_sampler(7, 5, 4).unwrap();
    let one = DataLoader::builder(train).batch_size(20).sampler(sampler).build().unwrap();
    let joint: Vec<Vec<usize>> = one.epoch(3).unwrap().map(|batch| batch.unwrap().indices).collect();
    let expected = (0..3).map(|batch| seen.iter().flat_map(|own| own[batch].clone()).collect::<Vec<_>>());
    assert_eq!(joint, expected.collect::<Vec<_>>());
}

#[test]
fn sharded_orders_have_every_example_once_and_are_pure() {
    let hub = Arc::new(bands_hub());
    let (endpoint, cache) = (hub.serve(), tempfile::tempdir().unwrap());
    let train = |limit: Option<usize>| {
        let builder = from("someone/bands", &endpoint, &cache).splits(&["train"]);
        let builder = if let Some(limit) = limit { builder.limit(limit) } else { builder };
        builder.load().unwrap().split("train").unwrap()
    };
    for limit in [None, Some(33), Some(5)] {
        let train = train(limit);
        // Row groups of 4, 4, 2 of every file.
        let groups = train.len() / 10 * 3 + (train.len() % 10).div_ceil(4);
        for ranks in 1..=groups {
            for batch_size in [1, 3, 7].into_iter().filter(|size| size * ranks <= train.len()) {
                let sampler = train.sharded_sampler(1, ranks, batch_size).unwrap();
                for epoch in 0..2 {
                    let mut indices = sampler.indices(epoch).unwrap();
                    assert_eq!(indices, sampler.clone().indices(epoch).unwrap());
                    indices.sort_unstable();
                    assert_eq!(indices, (0..train.len()).collect::<Vec<_>>(), "{limit:?} {ranks} {batch_size}");
                }
                if train.len() > 10 {
                    assert_ne!(sampler.indices(0).unwrap(), sampler.indices(1).unwrap());
                    let other = train.sharded_sampler(2, ranks, batch_size).unwrap();
                    assert_ne!(sampler.indices(0).unwrap(), other.indices(0).unwrap());
                }
            }
        }
        let error =
            |ranks: usize, batch_size: usize| train.sharded_sampler(1, ranks, batch_size).unwrap_err().to_string();
        let expected = format!("`ranks`: expected 1 to {groups}, the row groups of the files, got ");
        assert!(error(0, 1).starts_with(&expected) && error(groups + 1, 1).starts_with(&expected));
        let expected = format!("`batch_size`: expected 1 to {}, a rank's share, got ", train.len() / 2);
        assert!(error(2, 0).starts_with(&expected) && error(2, train.len()).starts_with(&expected));
    }
    // Until one part is at its end, a rank has its own groups only: 2 parts of 24 and 26.
    let train = train(None);
    let sampler = train.sharded_sampler(1, 2, 4).unwrap();
    let indices = sampler.indices(0).unwrap();
    for (number, batch) in indices.chunks(8).take(6).enumerate() {
        assert!(batch[..4].iter().all(|&index| index < 24) && batch[4..].iter().all(|&index| index >= 24), "{number}");
    }
    // Ranks that the order was not made for would read everything.
    let loader = |batch_size: usize| {
        let sampler = sampler.clone();
        DataLoader::builder(train.clone()).batch_size(batch_size).sampler(sampler).build().unwrap()
    };
    assert!(loader(8).shard(0, 1).is_ok() && loader(4).shard(1, 2).is_ok());
    for (batch_size, ranks) in [(4, 1), (2, 4), (3, 2)] {
        let text = loader(batch_size).shard(0, ranks).unwrap_err().to_string();
        assert!(text.contains("as many as the sampler was made for, 2 with batches of 4"), "{text}");
    }
}

#[test]
fn a_limit_fetches_no_more_files_than_it_needs() {
    let hub = Arc::new(bands_hub());
    let (endpoint, cache) = (hub.serve(), tempfile::tempdir().unwrap());
    let set = from("someone/bands", &endpoint, &cache).splits(&["train"]).limit(12).load().unwrap();
    let train = set.split("train").unwrap();
    assert_eq!((train.len(), train.labels().unwrap().len(), train.sampler(1).indices(0).unwrap().len()), (12, 12, 12));
    assert!(train.get(12).is_err());
    assert_eq!(hub.content_requests.load(Ordering::SeqCst), 2);
    // The rest comes when it is asked for: what is there is not all.
    let set = from("someone/bands", &endpoint, &cache).load().unwrap();
    assert_eq!(set.split("train").unwrap().len(), 50);
    assert_eq!(hub.content_requests.load(Ordering::SeqCst), 6);
}

/// A hub of one split, `train`, of one file.
fn one(columns: &[(&str, Column)], features: serde_json::Value) -> Hub {
    let files = HashMap::from([("a/train.parquet".to_owned(), file(columns, 100, features))]);
    Hub { repository: "o/n", files, ..Hub::default() }
}

fn load(hub: Hub, build: impl Fn(HubImagesBuilder) -> HubImagesBuilder) -> Result<(HubImages, tempfile::TempDir)> {
    let cache = tempfile::tempdir().unwrap();
    let endpoint = Arc::new(hub).serve();
    Ok((build(from("o/n", &endpoint, &cache)).load()?, cache))
}

#[test]
fn grey_and_colour_8_and_16_bits_and_masks() {
    let grey =
        encoded(&ImageBuffer::<Luma<u16>, _>::from_fn(3, 2, |x, y| Luma([(x * 1000 + y) as u16])), ImageFormat::Png);
    let color = encoded(&ImageBuffer::<Rgb<u8>, _>::from_fn(3, 2, |x, _| Rgb([x as u8, 100, 255])), ImageFormat::Png);
    let jpeg = encoded(&ImageBuffer::<Rgb<u8>, _>::from_pixel(3, 2, Rgb([90, 90, 90])), ImageFormat::Jpeg);
    let mask = encoded(&ImageBuffer::<Luma<u8>, _>::from_fn(3, 2, |x, y| Luma([(x + 3 * y) as u8])), ImageFormat::Png);
    // A mask of two bits and a palette.
    let mut palette = Vec::new();
    let mut encoder = png::Encoder::new(&mut palette, 3, 2);
    encoder.set_color(png::ColorType::Indexed);
    encoder.set_depth(png::BitDepth::Two);
    encoder.set_palette(vec![0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255]);
    let mut writer = encoder.write_header().unwrap();
    writer.write_image_data(&[0b00_01_10_00, 0b11_10_01_00]).unwrap();
    writer.finish().unwrap();
    let images = || Column::Images(vec![grey.clone(), color.clone(), jpeg.clone()]);
    let masks = || Column::Images(vec![mask.clone(), palette.clone(), mask.clone()]);
    let features = json!({ "scene": { "_type": "Image" }, "annotation": { "_type": "Image" } });
    let hub = || one(&[("scene", images()), ("annotation", masks())], features.clone());
    // Grey, as the first image is.
    let (set, _cache) = load(hub(), |builder| builder).unwrap();
    let train = set.split("train").unwrap();
    let batch = train.batch(&[0, 1, 2]).unwrap();
    assert_eq!((batch.inputs.dims(), batch.targets.dims()), (&[3, 1, 2, 3][..], &[3, 2, 3][..]));
    let values: Vec<f32> = batch.inputs.flatten_all().unwrap().to_vec1().unwrap();
    assert_eq!(values[..3], [0.0, 1000.0, 2000.0]);
    let labels: Vec<u32> = batch.targets.flatten_all().unwrap().to_vec1().unwrap();
    assert_eq!(labels, [0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 2, 1, 0, 1, 2, 3, 4, 5]);
    let (set, _cache) = load(hub(), |builder| builder.color().scale(1.0).resize(4, 6)).unwrap();
    let example = set.split("train").unwrap().get(1).unwrap();
    assert_eq!((example.input.dims(), example.target.dims()), (&[3, 4, 6][..], &[4, 6][..]));
    assert_eq!(example.input.to_vec3::<f32>().unwrap()[1][0][0], 100.0);
    assert_eq!(example.target.to_vec2::<u32>().unwrap()[3], [3, 3, 2, 2, 1, 1]);
    // Other columns than those that are told.
    let (set, _cache) = load(hub(), |builder| builder.image("annotation").mask("scene")).unwrap();
    assert_eq!(set.split("train").unwrap().get(0).unwrap().target.to_vec2::<u32>().unwrap()[1], [1, 1001, 2001]);
    let error = set.split("train").unwrap().get(1).unwrap_err().to_string();
    assert!(
        error.contains("row 1 of row group 0 of") && error.contains("expected a mask of one channel, got Rgb"),
        "{error}"
    );
}

/// Images as files of the repository, which a column names, from its top or from where the parquet file lies.
#[test]
fn images_may_be_files_of_the_repository() {
    let image = |shade: u8| encoded(&ImageBuffer::<Luma<u8>, _>::from_pixel(3, 2, Luma([shade])), ImageFormat::Png);
    const NAMES: [&str; 5] = ["images/a.png", "images/b.png", "images/c.png", "images/d.png", "images/a.png"];
    let labels = || ("label", Column::Numbers(vec![4, 3, 2, 1, 0]));
    let columns = |column: Column| file(&[("image", column), labels()], 2, json!({ "image": { "_type": "Image" } }));
    for (column, folder, parquet) in [
        (Column::Paths(NAMES.to_vec()), "", "data/train-00000-of-00001.parquet"),
        (Column::Paths(NAMES.to_vec()), "data/", "data/train-00000-of-00001.parquet"),
        (Column::Text(NAMES.to_vec()), "data/", "data/train.parquet"),
        (Column::Text(NAMES.to_vec()), "", "train.parquet"),
    ] {
        let mut files = HashMap::from([(parquet.to_owned(), columns(column))]);
        for (at, name) in NAMES[..4].iter().enumerate() {
            files.insert(format!("{folder}{name}"), image(at as u8 * 10));
        }
        let mut hub = Hub { repository: "o/n", files, ..Hub::default() };
        // The parquet file breaks off twice.
        hub.cuts = std::sync::Mutex::new(vec![20, 100]);
        let hub = Arc::new(hub);
        let (endpoint, cache) = (hub.serve(), tempfile::tempdir().unwrap());
        let set = from("o/n", &endpoint, &cache).load().unwrap();
        let check = |set: &HubImages| {
            let train = set.split("train").unwrap();
            let batch = train.batch(&[3, 0, 4, 1]).unwrap();
            assert_eq!(batch.inputs.dims(), [4, 1, 2, 3]);
            let shades: Vec<f32> = batch.inputs.flatten_from(1).unwrap().max(1).unwrap().to_vec1().unwrap();
            assert_eq!(shades, [30.0, 0.0, 0.0, 10.0], "{folder} {parquet}");
            assert_eq!(batch.targets.to_vec1::<u32>().unwrap(), [1, 4, 0, 3]);
        };
        check(&set);
        let asked = hub.requests.lock().unwrap().len();
        let again = from("o/n", "http://127.0.0.1:9", &cache).offline(true).load().unwrap();
        check(&again);
        assert_eq!(*again.source(), Source::HubCache(cache.path().to_owned()));
        assert_eq!(hub.requests.lock().unwrap().len(), asked);
        // No more of them than are wanted.
        let (endpoint, cache) = (
            Arc::new(Hub { repository: "o/n", files: hub.files.clone(), ..Hub::default() }).serve(),
            tempfile::tempdir().unwrap(),
        );
        let few = from("o/n", &endpoint, &cache).limit(2).load().unwrap();
        assert_eq!(few.split("train").unwrap().len(), 2);
        let there =
            |name: &str| cache.path().join(format!("datasets--o--n/snapshots/{}/{folder}{name}", super::tests::COMMIT));
        assert!(there(NAMES[1]).exists() && !there(NAMES[2]).exists());
    }
    for path in ["/etc/passwd", "../../x.png", "https://example.com/x.png", "images/e.png"] {
        let files = HashMap::from([("train.parquet".to_owned(), columns(Column::Paths(vec![path; 5])))]);
        let error =
            load(Hub { repository: "o/n", files, ..Hub::default() }, |builder| builder).unwrap_err().to_string();
        assert!(error.contains(&format!("row 0: the image {path:?} is no file of the repository")), "{error}");
    }
}

/// As the library `datasets` writes an `Array3D`: lists in lists in lists.
#[test]
fn arrays_of_numbers_are_images() {
    use parquet::data_type::Int32Type;
    let list = |inner: &str| format!("optional group element (LIST) {{ repeated group list {{ {inner} }} }}");
    let image = list(&list(&list("optional int32 element;"))).replacen("element", "image", 1);
    let schema = format!("message schema {{ {image} optional int64 label; }}");
    for (shape, dims) in [([2, 3, 4], [2, 3, 4]), ([3, 4, 2], [2, 3, 4])] {
        let noted = json!({ "info": { "features": {
            "image": { "_type": "Array3D", "shape": shape, "dtype": "uint16" },
            "label": { "_type": "ClassLabel", "names": ["a", "b"] },
        } } });
        let properties = WriterProperties::builder()
            .set_key_value_metadata(Some(vec![KeyValue::new("huggingface".to_owned(), noted.to_string())]))
            .build();
        let mut out = Vec::new();
        let mut writer =
            SerializedFileWriter::new(&mut out, Arc::new(parse_message_type(&schema).unwrap()), Arc::new(properties))
                .unwrap();
        let mut group = writer.next_row_group().unwrap();
        // 10 images of 24 numbers; a level says which list begins anew.
        let values: Vec<i32> = (0..240).collect();
        let [_, b, c] = shape;
        let begins = |at: i32| match at as usize % 24 {
            0 => 0,
            at if at % (b * c) == 0 => 1,
            at if at % c == 0 => 2,
            _ => 3,
        };
        let levels: Vec<i16> = values.iter().map(|&at| begins(at)).collect();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<Int32Type>().write_batch(&values, Some(&[7; 240]), Some(&levels)).unwrap();
        column.close().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<Int64Type>().write_batch(&[0, 1].repeat(5), Some(&[1; 10]), None).unwrap();
        column.close().unwrap();
        group.close().unwrap();
        writer.close().unwrap();
        let files = HashMap::from([("data/train-00000-of-00001.parquet".to_owned(), out)]);
        let hub = Hub { repository: "o/n", files, ..Hub::default() };
        let (set, _cache) = load(hub, |builder| builder).unwrap();
        let train = set.split("train").unwrap();
        assert_eq!((train.len(), train.labels().unwrap()), (10, [0, 1].repeat(5)));
        let example = train.get(9).unwrap();
        assert_eq!((example.input.dims(), example.target.to_scalar::<u32>().unwrap()), (&dims[..], 1));
        let values: Vec<f32> = example.input.flatten_all().unwrap().to_vec1().unwrap();
        // Channels first, however they were stored.
        let expected = (0..24).map(|at| if shape == dims { at } else { at % 12 * 2 + at / 12 });
        assert!(values.iter().copied().eq(expected.map(|at| (216 + at) as f32)), "{values:?}");
    }
}

#[test]
fn what_is_wrong_is_named() {
    let png = encoded(&ImageBuffer::<Luma<u8>, _>::from_pixel(2, 2, Luma([7])), ImageFormat::Png);
    let images = || Column::Images(vec![png.clone(), png.clone()]);
    let text = |columns: &[(&str, Column)], features, build: fn(HubImagesBuilder) -> HubImagesBuilder| match load(
        one(columns, features),
        build,
    ) {
        Ok((set, _cache)) => set.split("train").unwrap().batch(&[0, 1]).unwrap_err().to_string(),
        Err(error) => error.to_string(),
    };
    let labels = |labels: [i64; 2]| Column::Numbers(labels.to_vec());
    let classes = json!({ "label": { "_type": "ClassLabel", "names": ["a", "b"] } });
    let pair = |name, label: [i64; 2]| [(name, images()), ("label", labels(label))];
    let error = text(&pair("picture", [0, 1]), json!({}), |builder| builder);
    assert!(error.contains("cannot load o/n") && error.contains(r#"got the columns ["picture", "label"]"#), "{error}");
    let error = text(&pair("image", [0, 2]), classes.clone(), |builder| builder);
    assert!(error.contains("row 1 of row group 0") && error.contains("expected labels below 2, got 2"), "{error}");
    let error = text(&pair("image", [0, -1]), classes.clone(), |builder| builder);
    assert!(error.contains("expected labels from 0 on, got -1"), "{error}");
    let error = text(&pair("image", [0, 1]), classes.clone(), |builder| builder.label("class"));
    assert!(error.contains(r#"expected a column "class" of whole numbers"#), "{error}");
    let error = text(&pair("image", [0, 1]), classes, |builder| builder.configuration("b"));
    assert!(error.contains("`configuration`: expected one of a, got b"), "{error}");
    let broken = [("image", Column::Images(vec![png.clone(), b"nothing".to_vec()])), ("label", labels([0, 1]))];
    let error = text(&broken, json!({}), |builder| builder);
    assert!(error.contains("row 1 of row group 0"), "{error}");
    for bad in ["mnist", "a/b/c", "../x", "/x", "a/", "a b/c", "a/.."] {
        assert!(HubImages::builder(bad).load().unwrap_err().to_string().contains("`owner/name`"), "{bad}");
    }
    assert!(HubImages::builder("a/b").limit(0).load().unwrap_err().to_string().contains("`limit`"));
    assert!(HubImages::builder("a/b").resize(0, 1).load().is_err());
    assert!(HubImages::builder("a/b").scale(f64::NAN).load().unwrap_err().to_string().contains("`scale`"));
}

#[test]
fn damaged_shards_are_read_or_refused() {
    use super::shards::{Shard, Wanted};
    let png = encoded(&ImageBuffer::<Luma<u8>, _>::from_pixel(2, 2, Luma([7])), ImageFormat::Png);
    let columns = [("image", Column::Images(vec![png; 5])), ("label", Column::Numbers(vec![1; 5]))];
    let original = file(&columns, 3, json!({ "label": { "_type": "ClassLabel", "names": ["a", "b"] } }));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("train.parquet");
    let read = || {
        let shard = Shard::open(&path)?;
        let (columns, _) = shard.columns(&Wanted::default())?;
        for group in 0..shard.groups(&columns)?.len() {
            shard.read(group, &columns)?;
        }
        Ok::<_, crate::error::Error>(())
    };
    std::fs::write(&path, &original).unwrap();
    read().unwrap();
    let mut whole = 0;
    alone(|| {
        quietly(|| {
            for (at, bytes) in mutations(77, &original, 20_000).enumerate() {
                crate::test_support::rewrite(&path, &bytes);
                let (result, memory) = peak_memory(read);
                assert!(memory < 8 << 20, "mutation {at} takes {memory} bytes");
                whole += usize::from(result.is_ok());
            }
        });
    });
    assert!((200..18_000).contains(&whole), "{whole} read");
    tried(HARMLESS, "parquet files of any set, damaged", 20_000);
}
