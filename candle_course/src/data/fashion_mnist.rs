//! Fashion-MNIST: articles of clothing.

use crate::data::files::{Identity, OfficialFile};
use crate::data::mnist::CHECKSUMS;
use crate::data::source::{Layout, Specification, image_set};

image_set! {
    /// Fashion-MNIST: 28×28 grey images of clothing in 10 classes, 60,000 to train and 10,000 to
    /// test; a harder drop-in for MNIST ([Xiao et al. 2017](https://arxiv.org/abs/1708.07747)).
    ///
    /// `inputs`: `[N, 1, 28, 28]`, f32; `targets`: `[N]`, u32.
    ///
    /// # Examples
    ///
    /// ```
    /// use candle_course::data::FashionMnist;
    ///
    /// let fashion = FashionMnist::builder().sample().load()?;
    /// assert_eq!(fashion.train().class_names()[9], "ankle boot");
    /// # Ok::<(), candle_course::error::Error>(())
    /// ```
    FashionMnist,
    Specification {
        name: "Fashion-MNIST",
        folders: &["fashion-mnist", "fashion_mnist", "FashionMNIST", "FashionMNIST/raw"],
        shape: [1, 28, 28],
        class_names: &[
            "T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
        ],
        counts: [60_000, 10_000],
        layout: Layout::Idx {
            train: [
                OfficialFile { names: &["train-images-idx3-ubyte", "train-images.idx3-ubyte"], identity: Identity::NotThatOf("MNIST", CHECKSUMS[0]) },
                OfficialFile { names: &["train-labels-idx1-ubyte", "train-labels.idx1-ubyte"], identity: Identity::NotThatOf("MNIST", CHECKSUMS[1]) },
            ],
            test: [
                OfficialFile { names: &["t10k-images-idx3-ubyte", "t10k-images.idx3-ubyte"], identity: Identity::NotThatOf("MNIST", CHECKSUMS[2]) },
                OfficialFile { names: &["t10k-labels-idx1-ubyte", "t10k-labels.idx1-ubyte"], identity: Identity::NotThatOf("MNIST", CHECKSUMS[3]) },
            ],
        },
        repository: "zalando-datasets/fashion_mnist",
        #[cfg(feature = "samples")]
        sample: [&candle_course_samples::FASHION_MNIST_TRAIN, &candle_course_samples::FASHION_MNIST_TEST],
    }
}
