//! MNIST: handwritten digits.

use crate::data::files::{Identity, OfficialFile};
use crate::data::source::{Layout, Specification, image_set};

/// Training images and labels, test images and labels, without gzip.
pub(super) const CHECKSUMS: [&str; 4] = [
    "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
];

image_set! {
    /// MNIST: 28×28 grey images of handwritten digits, 60,000 to train and 10,000 to test
    /// (LeCun, Cortes, Burges).
    ///
    /// `inputs`: `[N, 1, 28, 28]`, f32; `targets`: `[N]`, u32, the digit.
    ///
    /// # Examples
    ///
    /// ```
    /// use candle_course::data::{DataLoader, Mnist};
    ///
    /// let mnist = Mnist::builder().sample().load()?;
    /// let loader = DataLoader::builder(mnist.train()).batch_size(64).shuffle(42).build()?;
    /// let batch = loader.epoch(0)?.next().unwrap()?;
    /// assert_eq!(batch.inputs.dims(), [64, 1, 28, 28]);
    /// # Ok::<(), candle_course::error::Error>(())
    /// ```
    Mnist,
    Specification {
        name: "MNIST",
        folders: &["mnist", "MNIST", "mnist/raw", "MNIST/raw"],
        shape: [1, 28, 28],
        class_names: &["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"],
        counts: [60_000, 10_000],
        layout: Layout::Idx {
            train: [
                OfficialFile {
                    names: &["train-images-idx3-ubyte", "train-images.idx3-ubyte"],
                    identity: Identity::Sha256(CHECKSUMS[0]),
                },
                OfficialFile {
                    names: &["train-labels-idx1-ubyte", "train-labels.idx1-ubyte"],
                    identity: Identity::Sha256(CHECKSUMS[1]),
                },
            ],
            test: [
                OfficialFile {
                    names: &["t10k-images-idx3-ubyte", "t10k-images.idx3-ubyte"],
                    identity: Identity::Sha256(CHECKSUMS[2]),
                },
                OfficialFile {
                    names: &["t10k-labels-idx1-ubyte", "t10k-labels.idx1-ubyte"],
                    identity: Identity::Sha256(CHECKSUMS[3]),
                },
            ],
        },
        repository: "ylecun/mnist",
        #[cfg(feature = "samples")]
        sample: [&candle_course_samples::MNIST_TRAIN, &candle_course_samples::MNIST_TEST],
    }
}
