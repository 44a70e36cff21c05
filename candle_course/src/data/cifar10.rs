//! CIFAR-10: small colour photographs.

use crate::data::files::OfficialFile;
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
    /// assert_eq!((cifar.train().len(), cifar.test().len()), (4_000, 1_000));
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
                    sha256: "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
                },
                OfficialFile {
                    names: &["data_batch_2.bin"],
                    sha256: "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
                },
                OfficialFile {
                    names: &["data_batch_3.bin"],
                    sha256: "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
                },
                OfficialFile {
                    names: &["data_batch_4.bin"],
                    sha256: "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
                },
                OfficialFile {
                    names: &["data_batch_5.bin"],
                    sha256: "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
                },
            ],
            test: &[OfficialFile {
                names: &["test_batch.bin"],
                sha256: "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
            }],
        },
        repository: "uoft-cs/cifar10",
        sample: [
            include_bytes!("../../data/cifar10-train.pack"),
            include_bytes!("../../data/cifar10-test.pack"),
        ],
    }
}
