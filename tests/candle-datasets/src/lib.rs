//! Files in the official formats, written from the samples, read by `candle_datasets` and by
//! `candle_course`: equal pixel by pixel and label by label.
//!
//! A package of its own, because `candle-datasets` takes minutes to compile: `scripts/test datasets`.
#![cfg(test)]

use std::fs;
use std::path::Path;

use candle_course::candle_datasets::{Batcher, vision};
use candle_course::data::TrainTest;
use candle_course::prelude::*;

/// The official records of CIFAR's binary version: a label, then the pixels. Always 10,000, which is
/// what `candle_datasets` reads of every file.
const RECORDS: usize = 10_000;

/// The two files of IDX: a magic number with the number of dimensions, the dimensions, the bytes.
fn write_idx(folder: &Path, part: &str, images: &ImageDataset) {
    let [_, h, w] = images.shape();
    let header = |magic: u32, dimensions: &[usize]| -> Vec<u8> {
        [magic].into_iter().chain(dimensions.iter().map(|&n| n as u32)).flat_map(u32::to_be_bytes).collect()
    };
    let mut pixels = header(0x803, &[images.len(), h, w]);
    (0..images.len()).for_each(|i| pixels.extend(images.bytes(i).unwrap()));
    let mut labels = header(0x801, &[images.len()]);
    labels.extend(images.labels().iter().map(|&label| label as u8));
    fs::write(folder.join(format!("{part}-images-idx3-ubyte")), pixels).unwrap();
    fs::write(folder.join(format!("{part}-labels-idx1-ubyte")), labels).unwrap();
}

fn assert_same(a: &ImageDataset, b: &ImageDataset) {
    assert_eq!((a.len(), a.shape()), (b.len(), b.shape()));
    assert_eq!(a.labels(), b.labels());
    for i in 0..a.len() {
        assert_eq!(a.bytes(i).unwrap(), b.bytes(i).unwrap(), "image {i}");
    }
}

fn assert_both_read_the_same_digits(
    train: &ImageDataset,
    test: &ImageDataset,
    ours: (ImageDataset, ImageDataset),
    folder: &Path,
) {
    let theirs = vision::mnist::load_dir(folder).unwrap();
    assert_eq!(theirs.train_images.dims(), [train.len(), 784]);
    let theirs = TrainTest::<ImageDataset>::try_from(&theirs).unwrap();
    for (written, theirs, ours) in [(train, &theirs.train, &ours.0), (test, &theirs.test, &ours.1)] {
        assert_same(written, theirs);
        assert_same(written, ours);
    }
}

#[test]
fn idx_files_of_mnist_and_fashion_mnist() {
    let folder = tempfile::tempdir().unwrap();
    let mnist = Mnist::builder().sample().quiet().load().unwrap();
    write_idx(folder.path(), "train", &mnist.train());
    write_idx(folder.path(), "t10k", &mnist.test());
    let ours = Mnist::builder().folder(folder.path()).verify(false).quiet().load().unwrap();
    assert_both_read_the_same_digits(&mnist.train(), &mnist.test(), (ours.train(), ours.test()), folder.path());

    // `candle_datasets` reads the files of Fashion-MNIST with the loader of MNIST.
    let folder = tempfile::tempdir().unwrap();
    let fashion = FashionMnist::builder().sample().quiet().load().unwrap();
    write_idx(folder.path(), "train", &fashion.train());
    write_idx(folder.path(), "t10k", &fashion.test());
    let ours = FashionMnist::builder().folder(folder.path()).verify(false).quiet().load().unwrap();
    assert_both_read_the_same_digits(&fashion.train(), &fashion.test(), (ours.train(), ours.test()), folder.path());
}

#[test]
fn binary_files_of_cifar10() {
    let folder = tempfile::tempdir().unwrap();
    let cifar = Cifar10::builder().sample().quiet().load().unwrap();
    // Each file begins at another image of the sample and goes round.
    let write = |file: &str, images: &ImageDataset, first: usize| {
        let mut records = Vec::with_capacity(RECORDS * 3073);
        for i in (0..RECORDS).map(|i| (first + i) % images.len()) {
            records.push(images.labels()[i] as u8);
            records.extend(images.bytes(i).unwrap());
        }
        fs::write(folder.path().join(file), records).unwrap();
    };
    (0..5).for_each(|i| write(&format!("data_batch_{}.bin", i + 1), &cifar.train(), i * 797));
    write("test_batch.bin", &cifar.test(), 0);

    let ours = Cifar10::builder().folder(folder.path()).verify(false).quiet().load().unwrap();
    let theirs = vision::cifar::load_dir(folder.path()).unwrap();
    assert_eq!(theirs.train_images.dims(), [50_000, 3, 32, 32]);
    let theirs = TrainTest::<ImageDataset>::try_from(&theirs).unwrap();
    assert_same(&theirs.train, &ours.train());
    assert_same(&theirs.test, &ours.test());
    assert_eq!(theirs.train.bytes(10_001).unwrap(), cifar.train().bytes(798).unwrap());
}

/// What lesson 3.2 says of `Batcher`.
#[test]
fn a_batcher_drops_the_last_incomplete_batch_unless_told() {
    let numbers = || (0..10u32).map(|i| Tensor::new(i, &Device::Cpu).unwrap());
    let sizes = |batches: Batcher<candle_course::candle_datasets::batcher::Iter1<_>>| -> Vec<usize> {
        batches.map(|batch| batch.unwrap().dims()[0]).collect()
    };
    assert_eq!(sizes(Batcher::new1(numbers()).batch_size(4)), [4, 4]);
    assert_eq!(sizes(Batcher::new1(numbers()).batch_size(4).return_last_incomplete_batch(true)), [4, 4, 2]);
    let ours = TensorDataset::new(
        Tensor::arange(0u32, 10, &Device::Cpu).unwrap(),
        Tensor::arange(0u32, 10, &Device::Cpu).unwrap(),
    );
    let loader = DataLoader::builder(ours.unwrap()).batch_size(4).build().unwrap();
    assert_eq!(loader.epoch(0).unwrap().map(|batch| batch.unwrap().len()).collect::<Vec<_>>(), [4, 4, 2]);
}
