//! Data sets of the crate [`candle_datasets`] as ours, and ours as its.
//!
//! With the feature `candle-datasets`; it brings 165 packages more.

use candle_core::{DType, Tensor};
use candle_datasets::vision;

use crate::data::{Cifar10, FashionMnist, ImageDataset, Mnist, TensorDataset};
use crate::error::{Context, Error, Result};

/// The training and the test part of a data set.
///
/// What [`candle_datasets::vision::Dataset`] becomes: two [`TensorDataset`]s, whose inputs stay as
/// they are, or two [`ImageDataset`]s, which can be normalised, augmented and shown. Labels are u8
/// there and u32, the type of a class, here.
///
/// # Examples
///
/// ```
/// use candle_course::data::{Mnist, TrainTest};
/// use candle_course::prelude::*;
/// use candle_course::candle_datasets::vision;
///
/// let mnist = Mnist::builder().sample().quiet().load()?;
/// // As `vision::mnist::load()` gives it: [N, 784], f32 in 0..=1, labels u8.
/// let theirs = vision::Dataset::try_from(&mnist)?;
/// assert_eq!(theirs.train_images.dims(), [6000, 784]);
///
/// let ours = TrainTest::<ImageDataset>::try_from(&theirs)?;
/// assert_eq!(ours.test.shape(), [1, 28, 28]);
/// assert_eq!(ours.test.bytes(7)?, mnist.test().bytes(7)?);
///
/// let tensors = TrainTest::<TensorDataset>::try_from(&theirs)?;
/// assert_eq!(tensors.train.batch(&[0, 1])?.targets.dtype(), DType::U32);
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct TrainTest<D> {
    /// The part to train on.
    pub train: D,
    /// The part to test on.
    pub test: D,
}

/// In which order the last two dimensions of images stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Axes {
    /// `[N, C, H, W]`: rows of pixels, as the layers expect them, and as everything in
    /// `candle_datasets` gives them but one loader.
    #[default]
    HeightWidth,
    /// `[N, C, W, H]`: every image transposed. So `candle_datasets::vision::cifar::load`, which
    /// reads from the hub, gives them in version 0.11; `load_dir` of the same module does not.
    WidthHeight,
}

/// `[N, C, H, W]` or `[N, H·W]` as `[N, C, H, W]`.
fn upright(images: &Tensor, axes: Axes) -> Result<Tensor> {
    let images = match *images.dims() {
        [_, _, _, _] => images.clone(),
        [n, size] if size.isqrt().pow(2) == size => images.reshape((n, 1, size.isqrt(), size.isqrt()))?,
        ref other => {
            return Err(Error::argument("images", "[N, C, H, W], or [N, H·W] of square images", format!("{other:?}")));
        }
    };
    Ok(match axes {
        Axes::HeightWidth => images,
        Axes::WidthHeight => images.transpose(2, 3)?,
    })
}

/// The bytes that `x / 255` was made of.
fn bytes(images: &Tensor) -> Result<Vec<u8>> {
    let values = images.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    values
        .into_iter()
        .map(|value| {
            let scaled = value * 255.0;
            match (scaled - scaled.round()).abs() < 1e-3 && (0.0..=255.0).contains(&scaled.round()) {
                true => Ok(scaled.round() as u8),
                false => Err(Error::argument("images", "bytes divided by 255, in 0..=1", value)
                    .hint("normalised images become a `TrainTest<TensorDataset>`")),
            }
        })
        .collect()
}

fn image_set(images: &Tensor, labels: &Tensor, classes: usize, axes: Axes) -> Result<ImageDataset> {
    let images = upright(images, axes)?;
    let (_, c, h, w) = images.dims4()?;
    let names: Vec<String> = (0..classes).map(|class| class.to_string()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let labels = labels.to_dtype(DType::U32)?.to_vec1::<u32>()?;
    ImageDataset::new(bytes(&images)?, labels, [c, h, w], &names)
}

impl TrainTest<ImageDataset> {
    /// Images from `dataset`, whose axes stand as `axes` says. Classes are named by their numbers.
    ///
    /// `dataset`: images `[N, C, H, W]`, or `[N, H·W]` if they are square and have one channel, f32,
    /// bytes divided by 255; labels `[N]`.
    ///
    /// # Errors
    /// If shapes or numbers of images and labels do not fit, a value is no byte divided by 255, or a
    /// label is not below `dataset.labels`.
    pub fn from_candle(dataset: &vision::Dataset, axes: Axes) -> Result<Self> {
        let set = |images, labels, name: &str| {
            image_set(images, labels, dataset.labels, axes).with_context(|| format!("the {name} images do not convert"))
        };
        Ok(Self {
            train: set(&dataset.train_images, &dataset.train_labels, "training")?,
            test: set(&dataset.test_images, &dataset.test_labels, "test")?,
        })
    }
}

impl TryFrom<&vision::Dataset> for TrainTest<ImageDataset> {
    type Error = Error;

    /// [`TrainTest::from_candle`] with [`Axes::HeightWidth`].
    fn try_from(dataset: &vision::Dataset) -> Result<Self> {
        Self::from_candle(dataset, Axes::HeightWidth)
    }
}

impl TryFrom<&vision::Dataset> for TrainTest<TensorDataset> {
    type Error = Error;

    /// Inputs as they are, targets `[N]`, u32.
    fn try_from(dataset: &vision::Dataset) -> Result<Self> {
        let set = |images: &Tensor, labels: &Tensor| TensorDataset::new(images.clone(), labels.to_dtype(DType::U32)?);
        Ok(Self {
            train: set(&dataset.train_images, &dataset.train_labels)?,
            test: set(&dataset.test_images, &dataset.test_labels)?,
        })
    }
}

/// Images and labels as `candle_datasets` has them: those of one channel flattened.
fn parts(set: &ImageDataset) -> Result<(Tensor, Tensor)> {
    let all: Vec<usize> = (0..set.labels().len()).collect();
    let mut images = set.images(&all)?;
    if set.shape()[0] == 1 {
        images = images.flatten_from(1)?;
    }
    Ok((images, set.targets()?.to_dtype(DType::U8)?))
}

impl TryFrom<&TrainTest<ImageDataset>> for vision::Dataset {
    type Error = Error;

    /// Images `[N, C, H, W]`, or `[N, H·W]` for one channel, f32 in `0..=1` whatever their
    /// normalisation; labels `[N]`, u8.
    fn try_from(sets: &TrainTest<ImageDataset>) -> Result<Self> {
        let classes = sets.train.classes();
        if classes != sets.test.classes() || classes > 256 {
            return Err(Error::argument(
                "sets",
                "the same classes in both parts, 256 at most",
                format!("{classes} and {}", sets.test.classes()),
            ));
        }
        let (train_images, train_labels) = parts(&sets.train)?;
        let (test_images, test_labels) = parts(&sets.test)?;
        Ok(Self { train_images, train_labels, test_images, test_labels, labels: classes })
    }
}

macro_rules! public_set {
    ($($name:ident)*) => {$(
        impl TryFrom<&$name> for vision::Dataset {
            type Error = Error;

            /// As from its training and test images.
            fn try_from(set: &$name) -> Result<Self> {
                Self::try_from(&TrainTest { train: set.train(), test: set.test() })
            }
        }
    )*};
}

public_set! { Mnist FashionMnist Cifar10 }

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::data::Dataset;

    /// Two images of 2×3 with two channels, no two pixels alike, and one to test.
    fn sets() -> TrainTest<ImageDataset> {
        let set = |n: usize, first: u8| {
            let labels = (0..n as u32).map(|i| i % 3).collect();
            ImageDataset::new((0..12 * n as u8).map(|i| first + i).collect(), labels, [2, 2, 3], &["a", "b", "c"])
                .unwrap()
        };
        TrainTest { train: set(2, 0), test: set(1, 200) }
    }

    fn same(a: &ImageDataset, b: &ImageDataset) {
        assert_eq!((a.shape(), a.labels(), a.classes()), (b.shape(), b.labels(), b.classes()));
        (0..a.len()).for_each(|i| assert_eq!(a.bytes(i).unwrap(), b.bytes(i).unwrap()));
    }

    #[test]
    fn there_and_back_nothing_is_lost_whatever_the_normalisation() {
        let mut ours = sets();
        ours.train = ours.train.normalized(&[0.3, 0.1], &[0.2, 0.7]).unwrap();
        let theirs = vision::Dataset::try_from(&ours).unwrap();
        assert_eq!((theirs.train_images.dims(), theirs.labels), (&[2, 2, 2, 3][..], 3));
        assert_eq!(theirs.train_labels.dtype(), DType::U8);
        let back = TrainTest::<ImageDataset>::try_from(&theirs).unwrap();
        same(&back.train, &ours.train);
        same(&back.test, &ours.test);
        let tensors = TrainTest::<TensorDataset>::try_from(&theirs).unwrap();
        let batch = tensors.train.batch(&[1]).unwrap();
        assert_eq!(batch.targets.to_vec1::<u32>().unwrap(), [1]);
        assert_eq!(batch.inputs.dims(), [1, 2, 2, 3]);
    }

    #[test]
    fn transposed_images_are_put_upright_when_asked_for() {
        let ours = sets();
        let mut theirs = vision::Dataset::try_from(&ours).unwrap();
        theirs.train_images = theirs.train_images.permute((0, 1, 3, 2)).unwrap();
        theirs.test_images = theirs.test_images.permute((0, 1, 3, 2)).unwrap();
        let upright = TrainTest::from_candle(&theirs, Axes::WidthHeight).unwrap();
        same(&upright.train, &ours.train);
        same(&upright.test, &ours.test);
        assert_eq!(TrainTest::<ImageDataset>::try_from(&theirs).unwrap().train.shape(), [2, 3, 2]);
    }

    #[test]
    fn what_is_no_image_of_bytes_is_refused() {
        let text = |theirs: &vision::Dataset| TrainTest::<ImageDataset>::try_from(theirs).unwrap_err().to_string();
        let theirs = || vision::Dataset::try_from(&sets()).unwrap();
        let normalised = vision::Dataset { train_images: (theirs().train_images * 3.1).unwrap(), ..theirs() };
        assert!(text(&normalised).contains("bytes divided by 255"), "{}", text(&normalised));
        let flat = Tensor::zeros((1, 15), DType::F32, &Device::Cpu).unwrap();
        let error = text(&vision::Dataset { test_images: flat, ..theirs() });
        assert!(error.contains("test images") && error.contains("[1, 15]"), "{error}");
        assert!(text(&vision::Dataset { labels: 1, ..theirs() }).contains("classes 0..1"));
    }
}
