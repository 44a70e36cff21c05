//! CIFAR-10: small colour photographs.

use crate::data::files::{Identity, OfficialFile};
use crate::data::source::{Layout, Specification, image_set};

image_set! {
    /// CIFAR-10: 32×32 colour photographs in 10 classes, 50,000 to train and 10,000 to test
    /// ([Krizhevsky 2009](https://www.cs.toronto.edu/~kriz/cifar.html)).
    ///
    /// `inputs`: `[N, 3, 32, 32]`, f32, channels red, green, blue; `targets`: `[N]`, u32.
    ///
    /// # Examples
    ///
    /// ```
    /// use candle_course::data::{Cifar10, Dataset};
    ///
    /// let cifar = Cifar10::builder().sample().load()?;
    /// assert_eq!((cifar.train().len(), cifar.test().len()), (4_000, 750));
    /// assert_eq!(cifar.train().shape(), [3, 32, 32]);
    /// # Ok::<(), candle_course::error::Error>(())
    /// ```
    Cifar10,
    Specification {
        name: "CIFAR-10",
        folders: &["cifar10", "cifar-10", "cifar-10-batches-bin", "cifar10/cifar-10-batches-bin", "CIFAR10"],
        shape: [3, 32, 32],
        class_names: &[
            "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
        ],
        counts: [50_000, 10_000],
        layout: Layout::Cifar {
            train: &[
                OfficialFile {
                    names: &["data_batch_1.bin"],
                    identity: Identity::Sha256("cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5"),
                },
                OfficialFile {
                    names: &["data_batch_2.bin"],
                    identity: Identity::Sha256("a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed"),
                },
                OfficialFile {
                    names: &["data_batch_3.bin"],
                    identity: Identity::Sha256("bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67"),
                },
                OfficialFile {
                    names: &["data_batch_4.bin"],
                    identity: Identity::Sha256("014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48"),
                },
                OfficialFile {
                    names: &["data_batch_5.bin"],
                    identity: Identity::Sha256("755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add"),
                },
            ],
            test: &[OfficialFile {
                names: &["test_batch.bin"],
                identity: Identity::Sha256("8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b"),
            }],
        },
        repository: "uoft-cs/cifar10",
        #[cfg(feature = "samples")]
        sample: [&candle_course_samples::CIFAR10_TRAIN, &candle_course_samples::CIFAR10_TEST],
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::data::ImageDataset;

    /// The second official test image: a motor yacht in dark water under a white sky, seen from its
    /// left. Means of a border of four pixels, from the official binary file.
    fn assert_upright(images: &ImageDataset, index: usize) {
        let batch = images.images(&[index]).unwrap();
        let mean = |dimension: usize, start: usize| -> Vec<f64> {
            let border = batch.narrow(dimension, start, 4).unwrap();
            let means = border.mean((0, 2, 3)).unwrap().to_vec1::<f32>().unwrap();
            means.iter().map(|&x| (f64::from(x) * 2550.0).round() / 10.0).collect()
        };
        assert_eq!(images.labels()[index], 8);
        assert_eq!(mean(2, 0), [233.1, 233.3, 233.4], "top: red, green, blue");
        assert_eq!(mean(2, 28), [83.0, 82.6, 72.7], "bottom");
        assert_eq!(mean(3, 0), [121.1, 128.5, 134.1], "left");
        assert_eq!(mean(3, 28), [186.5, 194.5, 196.6], "right");
    }

    #[test]
    fn a_known_image_is_upright_from_the_sample_and_from_files() {
        let sample = Cifar10::builder().sample().quiet().load().unwrap().test();
        assert_upright(&sample, 1);
        // Images from the hub are compared with the sample's where the hub is tested.
        let folder = tempfile::tempdir().unwrap();
        let records: Vec<u8> =
            (0..3).flat_map(|i| [&[sample.labels()[i] as u8][..], sample.bytes(i).unwrap()].concat()).collect();
        for file in ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"] {
            fs::write(folder.path().join(format!("{file}.bin")), &records).unwrap();
        }
        let files = Cifar10::builder().folder(folder.path()).verify(false).quiet().load().unwrap();
        assert_upright(&files.test(), 1);
        assert_upright(&files.train(), 13);
    }
}
