//! One loading chain for every image set.
//!
//! 1. A folder the user names: [`ImageSetBuilder::folder`] or `CANDLE_COURSE_DATA`.
//! 2. The local cache of the Hugging Face hub.
//! 3. The hub itself, unless `CANDLE_COURSE_OFFLINE` or `HF_HUB_OFFLINE` is set or it cannot be
//!    reached.
//! 4. The sample embedded in `candle_course_samples`, with the feature `samples`.
//!
//! The first that has the set is used, and said aloud. A source that has the set, but damaged, is
//! an error: training on something else than was asked for helps nobody.

use std::fmt;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::data::ImageDataset;
use crate::data::files::{self, Format, OWN_FILES, OfficialFile, RawImages};
#[cfg(feature = "samples")]
use crate::data::samples;
use crate::error::{Context, Error, Result};
use crate::language::{chosen, told};
use crate::random::Generator;
use crate::setters::setters;
use crate::text::{THIN_SPACE, grouped, say};

/// Where a data set was found: the first of these that has it.
///
/// 1. A folder: [`ImageSetBuilder::folder`], or the environment variable `CANDLE_COURSE_DATA`,
///    whose folder has the files themselves or a sub-folder per set (`mnist`, `fashion-mnist`,
///    `cifar10`). IDX files for the first two, the binary version for CIFAR-10, gzipped or not.
/// 2. The local cache of the Hugging Face hub (`HF_HUB_CACHE`, `HF_HOME`).
/// 3. The hub (`HF_ENDPOINT`), unless `CANDLE_COURSE_OFFLINE=1` or `HF_HUB_OFFLINE=1`, or it
///    cannot be reached within 1.5 seconds, or does not list its files within 5, or stalls: no byte
///    for 30 seconds, or less than a kilobyte a second for as long. What has come so far is gone on
///    from by the next load.
/// 4. The sample that comes with the crate's feature `samples`, on by default.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Source {
    /// Files in a folder that the user named.
    Folder(PathBuf),
    /// The local cache of the Hugging Face hub.
    HubCache(PathBuf),
    /// Downloaded from this repository of the Hugging Face hub just now.
    Hub(String),
    /// The sample that comes with the crate.
    Sample,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Folder(path) => f.write_str(&told!("the folder {}", "pasta {}", path.display())),
            Source::HubCache(_) => f.write_str(chosen("the local Hugging Face cache", "cache local do Hugging Face")),
            Source::Hub(repository) => {
                f.write_str(&told!("the Hugging Face hub ({})", "hub do Hugging Face ({})", repository))
            }
            Source::Sample => {
                f.write_str(chosen("the sample that comes with the crate", "amostra que vem com o crate"))
            }
        }
    }
}

/// How the official files of a set are laid out.
pub(crate) enum Layout {
    /// Pairs of IDX files: images, labels.
    Idx { train: [OfficialFile; 2], test: [OfficialFile; 2] },
    /// CIFAR's binary batches.
    Cifar { train: &'static [OfficialFile], test: &'static [OfficialFile] },
}

/// Everything the chain must know about a set.
#[doc(hidden)]
pub struct Specification {
    pub(crate) name: &'static str,
    /// The sub-folder of the data folder, and where other libraries put the files below it.
    pub(crate) folders: &'static [&'static str],
    pub(crate) shape: [usize; 3],
    pub(crate) class_names: &'static [&'static str],
    /// Official numbers of training and test images.
    pub(crate) counts: [usize; 2],
    pub(crate) layout: Layout,
    /// The repository of the Hugging Face hub.
    #[cfg_attr(not(feature = "hub"), allow(dead_code))]
    pub(crate) repository: &'static str,
    /// The samples of training and test images.
    #[cfg(feature = "samples")]
    pub(crate) sample: [&'static candle_course_samples::Sample; 2],
}

/// An image set with its training and test images.
pub trait ImageSet: Sized {
    /// What the chain must know.
    #[doc(hidden)]
    fn specification() -> &'static Specification;
    /// The set from its parts.
    #[doc(hidden)]
    fn from_parts(train: ImageDataset, test: ImageDataset, source: Source) -> Self;
}

/// Chooses where an image set comes from.
///
/// # Examples
///
/// ```
/// use candle_course::data::{Dataset, Mnist, Source};
///
/// let mnist = Mnist::builder().sample().quiet().load()?;
/// assert_eq!(*mnist.source(), Source::Sample);
/// assert_eq!((mnist.train().len(), mnist.test().len()), (6_000, 1_000));
/// # Ok::<(), candle_course::error::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct ImageSetBuilder<S> {
    folder: Option<PathBuf>,
    #[cfg_attr(not(feature = "hub"), allow(dead_code))]
    pub(crate) hub: HubOptions,
    sample_only: bool,
    verify: bool,
    quiet: bool,
    limit: Option<[usize; 2]>,
    seed: u64,
    set: PhantomData<S>,
}

/// How the hub is spoken to.
#[derive(Debug, Clone, Default)]
#[cfg_attr(not(feature = "hub"), allow(dead_code))]
pub(crate) struct HubOptions {
    pub endpoint: Option<String>,
    pub cache: Option<PathBuf>,
    pub offline: bool,
    /// Asks the hub for the newest version, whatever is in the cache.
    pub refresh: bool,
    pub quiet: bool,
    pub patience: Patience,
}

/// How long the network may take.
#[derive(Debug, Clone)]
#[cfg_attr(not(feature = "hub"), allow(dead_code))]
pub(crate) struct Patience {
    /// For a connection, after which there is "no network".
    pub connect: Duration,
    /// For the whole list of files.
    pub list: Duration,
    /// For an answer to begin, and between two bytes of it.
    pub silence: Duration,
    /// What a server that is busy may ask for.
    pub wait: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_millis(1500),
            list: Duration::from_secs(5),
            silence: Duration::from_secs(30),
            wait: Duration::from_secs(10),
        }
    }
}

/// What a source of the chain answers.
pub(crate) enum Found {
    Images([RawImages; 2], Source),
    /// Not here, and why, in words that follow "because".
    Nothing(String),
}

impl<S: ImageSet> ImageSetBuilder<S> {
    pub(crate) fn new() -> Self {
        Self {
            folder: None,
            hub: HubOptions::default(),
            sample_only: false,
            verify: true,
            quiet: false,
            limit: None,
            seed: 0,
            set: PhantomData,
        }
    }

    setters! {
        /// Takes the files from this folder (or its sub-folder of the set's name) and nowhere else.
        folder(folder: impl AsRef<Path>) => folder = Some(folder.as_ref().to_owned());
        /// Takes the sample that comes with the crate, even if the complete set is at hand.
        sample() => sample_only = true;
        /// Does not speak to the hub; its local cache is still used.
        offline(offline: bool) => hub.offline = offline;
        /// The hub's address, `HF_ENDPOINT` or `https://huggingface.co` by default.
        endpoint(endpoint: impl Into<String>) => hub.endpoint = Some(endpoint.into());
        /// The hub's local cache, by default `HF_HUB_CACHE`, `$HF_HOME/hub` or
        /// `~/.cache/huggingface/hub`.
        cache(cache: impl AsRef<Path>) => hub.cache = Some(cache.as_ref().to_owned());
        /// Whether the files must be the official ones: number of images and, where on record,
        /// checksum. On by default; off for files of your own in the same format, with up to 16 times as
        /// many images.
        verify(verify: bool) => verify = verify;
        /// At most this many training and test images, class-balanced, drawn with
        /// [`ImageSetBuilder::seed`].
        limit(train: usize, test: usize) => limit = Some([train, test]);
        /// Which images [`ImageSetBuilder::limit`] keeps.
        seed(seed: u64) => seed = seed;
    }

    /// Does not say which source was used.
    pub fn quiet(mut self) -> Self {
        self.quiet = true;
        self.hub.quiet = true;
        self
    }

    /// Loads the set, normalised with the mean and standard deviation of its training images.
    ///
    /// # Errors
    /// If a source has the set but it is damaged or not the official one, a named folder does not
    /// have it, or the hub calls a file by a name that would lie outside the cache.
    pub fn load(self) -> Result<S> {
        let specification = S::specification();
        let ([train, test], source, reasons) =
            self.find(specification).with_context(|| format!("cannot load {}", specification.name))?;
        let set = |raw: RawImages, split: usize| -> Result<ImageDataset> {
            let official = specification.counts[split];
            if self.verify && source != Source::Sample && raw.labels.len() != official {
                return Err(Error::data(format!(
                    "{}: expected the {official} {} images of {}, got {}",
                    source,
                    ["training", "test"][split],
                    specification.name,
                    raw.labels.len()
                ))
                .hint("`.verify(false)` loads files of your own"));
            }
            let images = ImageDataset::new(raw.pixels, raw.labels, specification.shape, specification.class_names)?;
            match self.limit {
                Some(limits) => limited(&images, limits[split], self.seed, split as u64),
                None => Ok(images),
            }
        };
        let (train, test) = (set(train, 0)?, set(test, 1)?);
        let (mean, std) = train.mean_std();
        let (train, test) = (train.normalized(&mean, &std)?, test.normalized(&mean, &std)?);
        if !self.quiet {
            let why = if reasons.is_empty() { String::new() } else { format!(" ({})", reasons.join("; ")) };
            let (name, train, test) = (specification.name, train.labels().len(), test.labels().len());
            // A Brazilian would read 60,000 as sixty.
            let comma = chosen(",", THIN_SPACE);
            say(told!(
                "{}: {} training and {} test images from {}{}",
                "{}: {} imagens de treino e {} de teste; origem: {}{}",
                name,
                grouped(train, comma),
                grouped(test, comma),
                source,
                why
            ));
        }
        Ok(S::from_parts(train, test, source))
    }

    fn find(&self, set: &Specification) -> Result<([RawImages; 2], Source, Vec<String>)> {
        if self.sample_only {
            return sample(set, vec![]);
        }
        let mut reasons = Vec::new();
        if let Some(folder) = &self.folder {
            return match in_folder(set, folder, self.verify)? {
                Found::Images(images, source) => Ok((images, source, reasons)),
                Found::Nothing(reason) => Err(Error::data(reason)),
            };
        }
        if let Some(folder) = std::env::var_os("CANDLE_COURSE_DATA").filter(|folder| !folder.is_empty()) {
            let folder = PathBuf::from(folder);
            if !folder.is_dir() {
                return Err(Error::data(format!(
                    "CANDLE_COURSE_DATA names {}, which is not a folder",
                    folder.display()
                )));
            }
            match in_folder(set, &folder, self.verify)? {
                Found::Images(images, source) => return Ok((images, source, reasons)),
                Found::Nothing(reason) => reasons.push(reason),
            }
        }
        #[cfg(feature = "hub")]
        match crate::data::hub::load(set, &self.hub, self.verify)? {
            Found::Images(images, source) => return Ok((images, source, reasons)),
            Found::Nothing(reason) => reasons.push(reason),
        }
        #[cfg(not(feature = "hub"))]
        reasons.push("the complete set needs the crate's feature `hub`".to_owned());
        sample(set, reasons)
    }
}

/// At most `limit` images, as equally many of each class as there are.
fn limited(images: &ImageDataset, limit: usize, seed: u64, split: u64) -> Result<ImageDataset> {
    if limit == 0 {
        return Err(Error::argument("limit", "at least one image", 0));
    }
    let mut members = vec![Vec::new(); images.classes()];
    for &i in &Generator::stream(seed, &[split]).permutation(images.labels().len()) {
        members[images.labels()[i] as usize].push(i);
    }
    let longest = members.iter().map(Vec::len).max().unwrap_or(0);
    let mut chosen: Vec<usize> = (0..longest)
        .flat_map(|rank| members.iter().filter_map(move |class| class.get(rank).copied()))
        .take(limit)
        .collect();
    chosen.sort_unstable();
    images.select(&chosen)
}

/// The end of the chain; `reasons` why nothing before it had the set.
#[cfg(feature = "samples")]
fn sample(set: &Specification, reasons: Vec<String>) -> Result<([RawImages; 2], Source, Vec<String>)> {
    let split = |split: usize| samples::decode(set.sample[split], set.shape).context("the embedded sample is damaged");
    Ok(([split(0)?, split(1)?], Source::Sample, reasons))
}

#[cfg(not(feature = "samples"))]
fn sample(_: &Specification, reasons: Vec<String>) -> Result<([RawImages; 2], Source, Vec<String>)> {
    let why = if reasons.is_empty() { String::new() } else { format!("; {}", reasons.join("; ")) };
    Err(Error::data(format!("the crate was built without its sample{why}")).hint(
        "switch on the crate's feature `samples`, or `hub` with a network, or let CANDLE_COURSE_DATA name a folder with the files",
    ))
}

/// Looks for the set in `folder`. Some of its files, but not all: an error.
fn in_folder(set: &Specification, folder: &Path, verify: bool) -> Result<Found> {
    let mut folders = vec![folder.to_owned()];
    folders.extend(set.folders.iter().map(|name| folder.join(name)));
    // A folder that belongs to this set goes before the folder of all sets, where the files of
    // MNIST and Fashion-MNIST would have the same names.
    folders.rotate_left(1);
    let groups: [Vec<&OfficialFile>; 2] = match &set.layout {
        Layout::Idx { train, test } => [train.iter().collect(), test.iter().collect()],
        Layout::Cifar { train, test } => [train.iter().collect(), test.iter().collect()],
    };
    let found: [Vec<Option<PathBuf>>; 2] =
        groups.each_ref().map(|group| group.iter().map(|file| file.find(&folders)).collect());
    if found.iter().flatten().all(Option::is_none) {
        return Ok(Found::Nothing(format!(
            "no {} in {} (looked for {} in it and in its sub-folder {}, gzipped or not)",
            set.name,
            folder.display(),
            groups[0][0].names[0],
            set.folders[0]
        )));
    }
    let mut splits = Vec::with_capacity(2);
    let mut home = folder.to_owned();
    for (split, (group, paths)) in groups.iter().zip(found).enumerate() {
        let mut contents = Vec::new();
        for (place, (file, path)) in group.iter().zip(paths).enumerate() {
            let path = path.ok_or_else(|| {
                Error::data(format!("{} lacks {} (gzipped or not)", home.display(), file.names[0]))
                    .hint(format!("the other files of {} are there", set.name))
            })?;
            home = path.parent().unwrap_or(folder).to_owned();
            let (format, official) = match set.layout {
                Layout::Idx { .. } => (Format::Idx([3, 1][place]), set.counts[split]),
                Layout::Cifar { .. } => (Format::Cifar, set.counts[split] / group.len()),
            };
            let most = if verify { official } else { official * OWN_FILES };
            contents.push((files::read(&path, format, most)?, path));
        }
        // Format errors say more than a wrong checksum, so they come first.
        let raw = match (&set.layout, contents.as_slice()) {
            (Layout::Idx { .. }, [images, labels]) => files::idx_pair(&images.1, &images.0, &labels.1, &labels.0)?,
            _ => {
                let mut raw = RawImages { pixels: vec![], labels: vec![] };
                contents.iter().try_for_each(|(content, path)| files::cifar_binary(path, content, &mut raw))?;
                raw
            }
        };
        if verify {
            for (file, (content, path)) in group.iter().zip(&contents) {
                files::verify(path, content, file)?;
            }
        }
        splits.push(raw);
    }
    match <[RawImages; 2]>::try_from(splits) {
        Ok(images) => Ok(Found::Images(images, Source::Folder(home))),
        Err(_) => Err(Error::data("an image set has two splits")),
    }
}

/// Declares a public image set on the chain.
macro_rules! image_set {
    ($(#[$docs:meta])* $name:ident, $specification:expr) => {
        $(#[$docs])*
        #[derive(Debug, Clone)]
        pub struct $name {
            train: crate::data::ImageDataset,
            test: crate::data::ImageDataset,
            source: crate::data::Source,
        }

        static SPECIFICATION: crate::data::source::Specification = $specification;

        impl $name {
            /// The set from the first source of the chain that has it, normalised with the
            /// statistics of its training images. Says which source and how many images.
            ///
            /// # Errors
            /// If a source has the set but it is damaged.
            pub fn load() -> crate::error::Result<Self> {
                Self::builder().load()
            }

            /// Chooses where the set comes from.
            pub fn builder() -> crate::data::ImageSetBuilder<Self> {
                crate::data::ImageSetBuilder::new()
            }

            /// The training images.
            pub fn train(&self) -> crate::data::ImageDataset {
                self.train.clone()
            }

            /// The test images.
            pub fn test(&self) -> crate::data::ImageDataset {
                self.test.clone()
            }

            /// Where the set was found.
            pub fn source(&self) -> &crate::data::Source {
                &self.source
            }
        }

        impl crate::data::source::ImageSet for $name {
            fn specification() -> &'static crate::data::source::Specification {
                &SPECIFICATION
            }

            fn from_parts(
                train: crate::data::ImageDataset,
                test: crate::data::ImageDataset,
                source: crate::data::Source,
            ) -> Self {
                Self { train, test, source }
            }
        }
    };
}
pub(crate) use image_set;

#[cfg(test)]
mod tests {
    use crate::data::{Dataset, Mnist};

    #[test]
    fn both_splits_are_normalised_with_the_training_statistics() {
        let mnist = Mnist::builder().sample().quiet().load().unwrap();
        let (mean, std) = mnist.train().mean_std();
        // Of all 60,000 images: 0.1307 and 0.3081.
        assert!((mean[0] - 0.1307).abs() < 0.002 && (std[0] - 0.3081).abs() < 0.002, "{mean:?} {std:?}");
        let all: Vec<usize> = (0..mnist.train().len()).collect();
        let train = mnist.train().batch(&all).unwrap().inputs;
        assert!(train.mean_all().unwrap().to_scalar::<f32>().unwrap().abs() < 1e-3);
        let raw = mnist.test().bytes(0).unwrap()[400];
        let got = mnist.test().get(0).unwrap().input.flatten_all().unwrap().to_vec1::<f32>().unwrap()[400];
        assert!((f64::from(got) - (f64::from(raw) / 255.0 - mean[0]) / std[0]).abs() < 1e-6);
    }

    #[test]
    fn a_limit_keeps_the_classes_balanced_and_follows_the_seed() {
        let load = |seed| Mnist::builder().sample().limit(500, 37).seed(seed).quiet().load().unwrap();
        let mnist = load(1);
        assert_eq!((mnist.train().len(), mnist.test().len()), (500, 37));
        for class in 0..10 {
            assert_eq!(mnist.train().labels().iter().filter(|&&label| label == class).count(), 50);
        }
        assert_eq!(load(1).train().labels(), mnist.train().labels());
        assert_ne!(load(2).train().labels(), mnist.train().labels());
        assert!(Mnist::builder().sample().limit(0, 1).quiet().load().unwrap_err().to_string().contains("at least one"));
    }

    #[test]
    #[cfg(not(feature = "samples"))]
    fn without_the_samples_the_error_says_what_would_help() {
        let error = Mnist::builder().sample().quiet().load().unwrap_err().to_string();
        assert!(error.contains("cannot load MNIST") && error.contains("`samples`"), "{error}");
        assert!(error.contains("CANDLE_COURSE_DATA") && error.contains("`hub`"), "{error}");
    }
}
