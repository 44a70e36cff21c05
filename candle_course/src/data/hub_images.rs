//! Any image set of the Hugging Face hub.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{BufReader, Cursor};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use candle_core::{Device, Tensor};

use crate::data::hub::address::{Address, Kind};
use crate::data::hub::download;
use crate::data::hub::repository::{self, Choice};
use crate::data::hub::shards::{Array, Beside, Columns, Rows, Shard, Stored, Wanted};
use crate::data::hub::version::{Version, with_version};
use crate::data::pixels::{self, Channels, Pixels, Reading};
use crate::data::source::HubOptions;
use crate::data::{Dataset, Example, Sampler, Source};
use crate::error::{Context, Error, Result};
use crate::random::Generator;
use crate::setters::setters;
use crate::sizes;
use crate::text::say;

/// Bytes of encoded images that are shuffled together while a split is streamed; twice as many are kept.
const BUFFER: u64 = 32 << 20;
/// Most bytes of a file: those of the hub have some hundred megabytes.
const FILE_BYTES: u64 = 16 << 30;
/// Row groups that are larger do not fit beside each other.
const LARGEST: u64 = 2 << 30;

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

/// A split of [`HubImages`].
///
/// `inputs`: `[C, H, W]`, f32; `targets`: u32, a scalar label, or `[H, W]` of a mask, or a scalar 0 where the
/// set has neither. Images are decoded when they are asked for, by whoever asks: the loader's workers. Of a
/// set that is larger than memory, some row groups of the files are in memory at a time; drawn in an order
/// that jumps between all of them each would be read again and again, so shuffle with
/// [`HubSplit::sampler`]. Clones share what is in memory.
#[derive(Clone)]
pub struct HubSplit(Arc<Inner>);

struct Inner {
    /// The folder of the repository's files.
    root: PathBuf,
    shards: Vec<Shard>,
    columns: Columns,
    reading: Reading,
    groups: Vec<Group>,
    length: usize,
    classes: usize,
    /// How many groups are shuffled together, and how many are kept.
    window: usize,
    kept: usize,
    /// The last used comes last.
    memory: Mutex<Vec<(usize, Slot)>>,
}

/// The rows of a group, read by the first who wants them while the others wait.
type Slot = Arc<OnceLock<std::result::Result<Arc<Rows>, String>>>;

/// A row group of a file.
#[derive(Debug, Clone, Copy)]
struct Group {
    shard: usize,
    number: usize,
    first: usize,
    rows: usize,
}

impl std::fmt::Debug for HubSplit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let files = self.0.shards.len();
        f.debug_struct("HubSplit").field("len", &self.len()).field("files", &files).finish_non_exhaustive()
    }
}

impl HubSplit {
    fn new(
        builder: &HubImagesBuilder,
        version: &Version<'_>,
        files: &[PathBuf],
    ) -> Result<Option<(Self, Arc<Vec<String>>)>> {
        let shards = files.iter().map(|file| Shard::open(file)).collect::<Result<Vec<_>>>()?;
        let first = shards.first().ok_or_else(|| Error::data("there is no file"))?;
        let (columns, names) = first.columns(&builder.wanted)?;
        let (mut groups, mut length, mut largest) = (Vec::new(), 0usize, 0);
        for (shard, of) in shards.iter().enumerate() {
            if of.columns(&builder.wanted)?.0 != columns {
                return Err(Error::data(format!("{} has other columns than the first file", of.path.display())));
            }
            for (number, (rows, bytes)) in of.groups(&columns)?.into_iter().enumerate() {
                if bytes > LARGEST {
                    let what = format!("{} has a row group of {:.1} GB", of.path.display(), bytes as f64 / 1e9);
                    return Err(Error::data(what).hint("write it again with smaller ones"));
                }
                groups.push(Group { shard, number, first: length, rows });
                largest = largest.max(bytes);
                length = length.checked_add(rows).ok_or_else(|| Error::data("there are more rows than can be"))?;
            }
        }
        let length = builder.limit.map_or(length, |limit| limit.min(length));
        if length == 0 {
            return Err(Error::data("there is no row"));
        }
        sizes::check::<usize>("the rows", length)?;
        let window = usize::try_from(BUFFER / largest.max(1)).unwrap_or(usize::MAX).clamp(1, groups.len());
        // Two windows: the workers are in the next while the last batches of this one are made.
        let kept = if builder.in_memory { groups.len() } else { (2 * window).min(groups.len()) };
        let mut inner = Inner {
            root: version.folder(),
            shards,
            columns,
            reading: builder.reading,
            groups,
            length,
            classes: names.len(),
            window,
            kept,
            memory: Mutex::new(Vec::new()),
        };
        if inner.columns.stored == Stored::Path && !inner.fetch_images(version)? {
            return Ok(None);
        }
        if inner.reading.channels == Channels::Stored && !matches!(inner.columns.stored, Stored::Array(_)) {
            // Grey or colour, as the first: a set may mix them, and a batch cannot.
            let rows = inner.rows(0)?;
            let reading = Reading { size: None, ..inner.reading };
            let image = inner.image(0, rows.images.get(0).unwrap_or_default(), &reading);
            let Pixels { size, .. } = image.context("the first image")?;
            inner.reading.channels = if size[0] == 1 { Channels::Grey } else { Channels::Color };
        }
        Ok(Some((Self(Arc::new(inner)), Arc::new(names))))
    }

    /// The label of every example, without reading an image.
    ///
    /// # Errors
    /// If the set has no labels, or a file is damaged.
    pub fn labels(&self) -> Result<Vec<u32>> {
        let Beside::Label(leaf) = self.0.columns.beside else {
            return Err(Error::data("the set has no column of labels").hint("name it with `.label`"));
        };
        let mut labels = sizes::room("the labels", self.0.length)?;
        for group in &self.0.groups {
            if labels.len() >= self.0.length {
                break;
            }
            labels.extend(self.0.shards[group.shard].labels(group.number, leaf, group.rows)?);
        }
        labels.truncate(self.0.length);
        labels.iter().try_for_each(|&label| self.0.check_label(label))?;
        Ok(labels)
    }

    /// A new order in every epoch that reads every file once: row groups are shuffled, and their examples with
    /// those of so many others as are in memory together (all of them, in a set that fits).
    pub fn sampler(&self, seed: u64) -> HubSampler {
        HubSampler { split: self.clone(), seed: Generator::derive(seed, "hub sampler").next_u64() }
    }
}

impl Inner {
    /// Whether all images can be had that the files name by their paths.
    fn fetch_images(&self, version: &Version<'_>) -> Result<bool> {
        let there: HashSet<&str> = version.names().iter().map(String::as_str).collect();
        let (mut names, mut row) = (Vec::new(), 0);
        for group in self.groups.iter().take_while(|group| group.first < self.length) {
            let shard = &self.shards[group.shard];
            let folder = shard.path.parent().and_then(|folder| folder.strip_prefix(&self.root).ok()?.to_str());
            let folder = folder.filter(|folder| !folder.is_empty()).map(|folder| folder.replace('\\', "/"));
            for path in shard.paths(group.number, &self.columns, group.rows)?.into_iter().take(self.length - row) {
                let beside = folder.as_ref().map(|folder| format!("{folder}/{path}"));
                match beside.filter(|name| there.contains(name.as_str())).or_else(|| Some(path.clone())) {
                    Some(name) if there.contains(name.as_str()) => names.push(name),
                    _ if version.is_cached() => return Ok(false),
                    _ => {
                        let what = format!("row {row}: the image {path:?} is no file of the repository");
                        return Err(Error::data(what).hint("images are had by the bytes or from the same repository"));
                    }
                }
                row += 1;
            }
        }
        names.sort_unstable();
        names.dedup();
        version.get_many(&names)
    }

    /// What stands in the column of images for one of `shard`, decoded.
    fn image(&self, shard: usize, stored: &[u8], reading: &Reading) -> Result<Pixels> {
        match self.columns.stored {
            Stored::Array(array) => plain(stored, array, reading),
            Stored::Bytes => pixels::read(Cursor::new(stored), reading),
            Stored::Path => {
                // It was a name of the repository's when it was fetched.
                let path = std::str::from_utf8(stored).map_err(|_| Error::data("its path is no text"))?;
                let beside = self.shards[shard].path.parent().map(|folder| folder.join(path));
                let path = beside.filter(|path| path.is_file()).unwrap_or_else(|| self.root.join(path));
                let what = || format!("cannot read {}", path.display());
                let file = File::open(&path).map_err(Error::from).with_context(what)?;
                pixels::read(BufReader::new(file), reading).with_context(what)
            }
        }
    }

    fn check_label(&self, label: u32) -> Result<()> {
        match self.classes == 0 || (label as usize) < self.classes {
            true => Ok(()),
            false => Err(Error::data(format!("expected labels below {}, got {label}", self.classes))),
        }
    }

    /// The rows of group `index`, from memory or from the disk.
    fn rows(&self, index: usize) -> Result<Arc<Rows>> {
        let slot = {
            let mut memory = self.memory.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            let slot = match memory.iter().position(|(group, _)| *group == index) {
                Some(at) => memory.remove(at).1,
                None => Slot::default(),
            };
            memory.push((index, Arc::clone(&slot)));
            if memory.len() > self.kept {
                memory.remove(0);
            }
            slot
        };
        let group = self.groups[index];
        let read = slot.get_or_init(|| {
            let rows = self.shards[group.shard].read(group.number, &self.columns);
            rows.map(Arc::new).map_err(|error| error.to_string())
        });
        read.clone().map_err(|text| {
            // A disk that failed once may not fail again.
            let mut memory = self.memory.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            memory.retain(|(group, _)| *group != index);
            Error::data(text)
        })
    }
}

impl Dataset for HubSplit {
    fn len(&self) -> usize {
        self.0.length
    }

    fn origin(&self, index: usize) -> Option<(usize, usize)> {
        Some((Arc::as_ptr(&self.0) as usize, index))
    }

    fn get(&self, index: usize) -> Result<Example> {
        let inner = &*self.0;
        if index >= inner.length {
            return Err(Error::argument("index", format!("less than {}", inner.length), index));
        }
        let group = inner.groups.partition_point(|group| group.first + group.rows <= index);
        let row = index - inner.groups[group].first;
        let rows = inner.rows(group)?;
        let file = || {
            let path = inner.shards[inner.groups[group].shard].path.display();
            format!("row {row} of row group {} of {path}", inner.groups[group].number)
        };
        let missing = || Error::data("it is not there");
        let image = rows.images.get(row).ok_or_else(missing).with_context(file)?;
        let shard = inner.groups[group].shard;
        let Pixels { values, size } = inner.image(shard, image, &inner.reading).with_context(file)?;
        let target = match inner.columns.beside {
            Beside::Nothing => Tensor::new(0u32, &Device::Cpu)?,
            Beside::Label(_) => {
                let label = *rows.labels.get(row).ok_or_else(missing).with_context(file)?;
                inner.check_label(label).with_context(file)?;
                Tensor::new(label, &Device::Cpu)?
            }
            Beside::Mask(_) => {
                let mask = rows.masks.get(row).ok_or_else(missing).with_context(file)?;
                let (labels, [h, w]) = pixels::labels(mask, inner.reading.size).with_context(file)?;
                if [h, w] != size[1..] {
                    let what = format!("the image has {}×{} pixels, its mask {h}×{w}", size[1], size[2]);
                    return Err(Error::data(what)).with_context(file);
                }
                Tensor::from_vec(labels, (h, w), &Device::Cpu)?
            }
        };
        Ok(Example { input: Tensor::from_vec(values, &size[..], &Device::Cpu)?, target })
    }
}

/// An image from an array, its channels first: the shortest side is theirs, and the first of equals.
fn plain(bytes: &[u8], array: Array, reading: &Reading) -> Result<Pixels> {
    let [a, b, c] = array.shape;
    let scale = reading.scale.unwrap_or(1.0 / f64::from(array.most));
    let number = |bytes: &[u8]| f32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    let values: Vec<f32> = bytes.chunks_exact(4).map(|bytes| (f64::from(number(bytes)) * scale) as f32).collect();
    let (values, size) = if c < a && c <= b {
        let plane = a * b;
        ((0..c * plane).map(|at| values[at % plane * c + at / plane]).collect(), [c, a, b])
    } else {
        (values, [a, b, c])
    };
    pixels::fitted(values, size, reading)
}

/// The order of [`HubSplit::sampler`].
#[derive(Debug, Clone)]
pub struct HubSampler {
    split: HubSplit,
    seed: u64,
}

impl Sampler for HubSampler {
    fn indices(&self, epoch: usize) -> Result<Vec<usize>> {
        let inner = &*self.split.0;
        let mut generator = Generator::stream(self.seed, &[epoch as u64]);
        let order = generator.permutation(inner.groups.len());
        let mut indices = sizes::room("the indices", inner.length)?;
        for groups in order.chunks(inner.window) {
            let first = indices.len();
            for &group in groups {
                let Group { first, rows, .. } = inner.groups[group];
                indices.extend((first..first + rows).take_while(|&index| index < inner.length));
            }
            generator.shuffle(&mut indices[first..]);
        }
        Ok(indices)
    }

    fn len(&self) -> usize {
        self.split.len()
    }
}
