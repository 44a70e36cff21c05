//! Samples of public image sets, embedded: real images, so that
//! [`candle_course`](https://docs.rs/candle_course) trains without a network.
//!
//! This crate is data and nothing else. `candle_course` has it behind its default feature
//! `samples` and decodes it; every sheet is also a picture that any viewer opens. `SOURCES`
//! says where the images come from and under which licences.
#![no_std]

/// Where the images come from, their licences, and the sha256 of the pixels of every part.
pub const SOURCES: &str = include_str!("../SOURCES.md");

/// How many images stand side by side in a sheet.
pub const COLUMNS: usize = 25;

/// Images of one part of a set, and their labels.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// Lossless WebP: images of one size in rows of [`COLUMNS`], row by row.
    pub sheets: &'static [&'static [u8]],
    /// One byte per image: its class.
    pub labels: &'static [u8],
}

macro_rules! sample {
    ($name:literal: $($number:literal)*) => {
        Sample {
            sheets: &[$(include_bytes!(concat!("../images/", $name, "-", $number, ".webp"))),*],
            labels: include_bytes!(concat!("../images/", $name, ".labels")),
        }
    };
}

/// MNIST, handwritten digits: 28×28, grey; 6,000 training images.
pub static MNIST_TRAIN: Sample = sample! { "mnist-train": "00" "01" "02" "03" "04" "05" "06" "07" "08" "09" "10" "11" };

/// MNIST, handwritten digits: 28×28, grey; 1,000 test images.
pub static MNIST_TEST: Sample = sample! { "mnist-test": "00" "01" };

/// Fashion-MNIST, articles of clothing: 28×28, grey; 400 training images.
pub static FASHION_MNIST_TRAIN: Sample = sample! { "fashion-mnist-train": "00" };

/// Fashion-MNIST, articles of clothing: 28×28, grey; 100 test images.
pub static FASHION_MNIST_TEST: Sample = sample! { "fashion-mnist-test": "00" };

/// CIFAR-10, photographs: 32×32, red, green and blue; 4,000 training images.
pub static CIFAR10_TRAIN: Sample = sample! { "cifar10-train":
    "00" "01" "02" "03" "04" "05" "06" "07" "08" "09" "10" "11" "12" "13" "14" "15"
    "16" "17" "18" "19" "20" "21" "22" "23" "24" "25" "26" "27" "28" "29" "30" "31"
};

/// CIFAR-10, photographs: 32×32, red, green and blue; 750 test images.
pub static CIFAR10_TEST: Sample = sample! { "cifar10-test": "00" "01" "02" "03" "04" "05" };

/// A cut of a Sentinel-2 image, 300×300 pixels of 10 m: a TIFF of the bands B02, B03, B04 and B08,
/// reflectance × 10,000 as u16. Without a place: its source records none.
pub static SENTINEL2: &[u8] = include_bytes!("../images/sentinel2.tif");
