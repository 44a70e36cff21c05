//! Any image set of the Hugging Face hub.

mod split;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::data::hub::address::{Address, Kind};
use crate::data::hub::download;
use crate::data::hub::repository::{self, Choice};
use crate::data::hub::shards::{Shard, Wanted};
use crate::data::hub::version::{Version, with_version};
use crate::data::pixels::{self, Channels, Reading};
use crate::data::source::HubOptions;
use crate::data::{Dataset as _, Source};
use crate::error::{Context, Error, Result};
use crate::setters::setters;
use crate::text::say;

pub use self::split::{HubSampler, HubSplit};

/// Most bytes of a file: those of the hub have some hundred megabytes.
const FILE_BYTES: u64 = 16 << 30;

/// An image set of the hub: parquet files with a column of images and one of labels or masks.
///
/// The files come into the hub's cache once, and from there afterwards, without a network. What a set holds
/// is told by what the library `datasets` noted in them: which column has images, which labels, and the
/// names of the classes; [`HubImagesBuilder`] says otherwise. Images are PNG, JPEG or TIFF, grey or colour,
/// of 8 or 16 bits, a TIFF of any number of bands, or arrays of numbers (`Array3D`); a mask is PNG or TIFF.
/// Where the files hold paths instead, the images are files of the same repository, found from its top or from
/// where the parquet file lies, and come into the cache as well.
///
/// # Examples
///
/// ```no_run
/// use candle_course::prelude::*;
///
/// let set = HubImages::builder("blanchon/EuroSAT_RGB").load()?;
/// let train = set.split("train")?;
/// println!("{:?}, {} images", set.class_names(), train.len());
/// let sampler = train.sampler(42);
/// let loader = DataLoader::builder(train).batch_size(64).sampler(sampler).workers(2).build()?;
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct HubImages {
    splits: BTreeMap<String, HubSplit>,
    class_names: Arc<Vec<String>>,
    source: Source,
}

/// Configures [`HubImages`].
#[derive(Debug, Clone)]
pub struct HubImagesBuilder {
    address: Address,
    choice: Choice,
    wanted: Wanted,
    reading: Reading,
    limit: Option<usize>,
    in_memory: bool,
    hub: HubOptions,
}

impl HubImages {
    /// The set `owner/name`.
    pub fn builder(repository: impl Into<String>) -> HubImagesBuilder {
        HubImagesBuilder {
            address: Address::new(Kind::Dataset, repository),
            choice: Choice::default(),
            wanted: Wanted::default(),
            reading: Reading { channels: Channels::Stored, ..Reading::default() },
            limit: None,
            in_memory: false,
            hub: HubOptions::default(),
        }
    }

    /// The names of the splits that were loaded.
    pub fn splits(&self) -> Vec<&str> {
        self.splits.keys().map(String::as_str).collect()
    }

    /// A split: `train`, say.
    ///
    /// # Errors
    /// If there is none of this name.
    pub fn split(&self, name: &str) -> Result<HubSplit> {
        let split = self.splits.get(name).cloned();
        split.ok_or_else(|| Error::argument("split", format!("one of {}", self.splits().join(", ")), name))
    }

    /// The name of every class, in order of the labels; none where the set tells none.
    pub fn class_names(&self) -> &[String] {
        &self.class_names
    }

    /// Where the set was found.
    pub fn source(&self) -> &Source {
        &self.source
    }
}

impl HubImagesBuilder {
    setters! {
        /// A branch, a tag or a commit; `main` by default. `refs/convert/parquet` is where the hub keeps what
        /// it has made of sets in other formats.
        revision(revision: impl Into<String>) => address.revision = revision.into();
        /// Which of several variants of the set: the folder that its files lie in.
        configuration(name: impl Into<String>) => choice.configuration = Some(name.into());
        /// Only these splits.
        splits(names: &[&str]) => choice.splits = names.iter().map(|&name| name.to_owned()).collect();
        /// The column of images.
        image(column: impl Into<String>) => wanted.image = Some(column.into());
        /// The column of labels, whole numbers.
        label(column: impl Into<String>) => wanted.label = Some(column.into());
        /// The column of masks, images themselves.
        mask(column: impl Into<String>) => wanted.mask = Some(column.into());
        /// At most so many examples of every split, its first: no more files are fetched than they take.
        limit(examples: usize) => limit = Some(examples);
        /// Resizes every image (bilinear), and masks by their nearest pixel.
        resize(height: usize, width: usize) => reading.size = Some((height, width));
        /// Reads grey images of one channel; as they are stored, unless told.
        grey() => reading.channels = Channels::Grey;
        /// Reads colour images of three channels; as they are stored, unless told.
        color() => reading.channels = Channels::Color;
        /// What stored whole numbers are multiplied with, as in
        /// [`ImageFolderBuilder::scale`](crate::data::ImageFolderBuilder::scale).
        scale(scale: f64) => reading.scale = Some(scale);
        /// Keeps all encoded images in memory, once they are read; otherwise 70 MB of them at most, or two row
        /// groups where these are larger.
        in_memory() => in_memory = true;
        /// Does not speak to the hub; its local cache is still used.
        offline(offline: bool) => hub.offline = offline;
        /// Asks the hub for the newest version, whatever is in the cache.
        refresh() => hub.refresh = true;
        /// The hub's address, `HF_ENDPOINT` or `https://huggingface.co` by default.
        endpoint(endpoint: impl Into<String>) => hub.endpoint = Some(endpoint.into());
        /// The hub's local cache, by default `HF_HUB_CACHE`, `$HF_HOME/hub` or `~/.cache/huggingface/hub`.
        cache(cache: impl AsRef<Path>) => hub.cache = Some(cache.as_ref().to_owned());
        /// Does not say which source was used.
        quiet() => hub.quiet = true;
    }

    /// Fetches what is not in the cache, and reads what the files say of themselves.
    ///
    /// # Errors
    /// If the set cannot be had, has several configurations of which none is chosen, lacks a split or a
    /// column, or a file is damaged.
    pub fn load(self) -> Result<HubImages> {
        self.address.check()?;
        pixels::check(&self.reading)?;
        if self.limit == Some(0) {
            return Err(Error::argument("limit", "at least one example", 0));
        }
        self.read().with_context(|| format!("cannot load {}", self.address.name))
    }

    fn read(&self) -> Result<HubImages> {
        let wanted = download::Wanted { limit: FILE_BYTES, quiet: self.hub.quiet };
        let found = with_version(&self.address, &self.hub, wanted, &mut |version| self.read_version(version))?;
        let ((splits, class_names), source) = found.map_err(|missing| missing.into_error(&self.address.name))?;
        if !self.hub.quiet {
            let told: Vec<String> = splits.iter().map(|(name, split)| format!("{name} {}", split.len())).collect();
            say(format!("{}: {} images from {source}", self.address.name, told.join(", ")));
        }
        Ok(HubImages { splits, class_names, source })
    }

    /// The splits and the names of the classes; nothing if a file cannot be had.
    fn read_version(&self, version: &Version<'_>) -> Result<Option<(BTreeMap<String, HubSplit>, Arc<Vec<String>>)>> {
        let mut rows: BTreeMap<String, (usize, usize)> = BTreeMap::new();
        let mut enough = |split: &str, files: &[PathBuf]| {
            let Some(limit) = self.limit else { return Ok(false) };
            let (read, total) = rows.entry(split.to_owned()).or_default();
            for file in &files[*read..] {
                *total += Shard::open(file)?.rows()?;
            }
            *read = files.len();
            Ok(*total >= limit)
        };
        let Some(files) = repository::files(version, &self.address.name, &self.choice, &mut enough)? else {
            return Ok(None);
        };
        let mut splits = BTreeMap::new();
        let mut class_names = Arc::new(Vec::new());
        for (split, files) in files {
            let what = || format!("in the split {split}");
            let Some((split_of, names)) = HubSplit::new(self, version, &files).with_context(what)? else {
                return Ok(None);
            };
            class_names = names;
            splits.insert(split, split_of);
        }
        Ok(Some((splits, class_names)))
    }
}
