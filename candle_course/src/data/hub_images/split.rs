//! A split of an image set, decoded as its examples are asked for.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufReader, Cursor};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};

use candle_core::{Device, Tensor};

use super::HubImagesBuilder;
use crate::data::dataset::{EditImage, batch_of_images};
use crate::data::hub::shards::{Array, Beside, Columns, Rows, Shard, Stored};
use crate::data::hub::version::Version;
use crate::data::pixels::{self, Channels, Reading};
use crate::data::{Batch, Dataset, Example, Sampler};
use crate::error::{Context, Error, Result};
use crate::random::Generator;
use crate::sizes;

/// Bytes of encoded images that are shuffled together while a split is streamed; twice as many are kept.
const BUFFER: u64 = 32 << 20;
/// Row groups that are larger do not fit beside each other.
const LARGEST: u64 = 2 << 30;

/// A split of [`HubImages`](crate::data::HubImages).
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
    pub(super) fn new(
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
            let first = rows.images.get(0).unwrap_or_default();
            let size = inner.image(0, first, &reading, &mut Vec::new()).context("the first image")?;
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

    /// Appends the values of image `index`; its size and what stands beside it.
    fn read(&self, index: usize, values: &mut Vec<f32>) -> Result<([usize; 3], Tensor)> {
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
        let size = inner.image(shard, image, &inner.reading, values).with_context(file)?;
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
        Ok((size, target))
    }

    /// A new order in every epoch that reads every file once: row groups are shuffled, and their examples with
    /// those of so many others as are in memory together (all of them, in a set that fits).
    pub fn sampler(&self, seed: u64) -> HubSampler {
        HubSampler { split: self.clone(), seed: Generator::derive(seed, "hub sampler").next_u64(), parts: None }
    }

    /// The order of [`HubSplit::sampler`] for `ranks` that read a part of the files each: the row groups are dealt
    /// out once, in their order, so that the ranks have about as many examples, and each rank's are shuffled as
    /// [`HubSplit::sampler`] does it. A loader with batches of `batch_size` whose
    /// [`shard`](crate::data::DataLoader::shard) a rank takes then reads the files of that rank; only at the end of an
    /// epoch, when a rank has none left, does it read what others have. In an epoch every example comes once.
    ///
    /// The order depends on seed, epoch, ranks and batch size alone. One process with batches of `ranks` · `batch_size`
    /// sees the same batches, and half of the ranks with batches of twice the size do, each with the files of two.
    ///
    /// # Errors
    /// If there are no ranks, fewer row groups than ranks, or the batch size is 0 or larger than a rank's share.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use candle_course::distributed::launch;
    /// use candle_course::prelude::*;
    ///
    /// # fn main() -> Result<()> {
    /// launch(|communicator| {
    ///     let (rank, ranks) = (communicator.rank(), communicator.size());
    ///     let train = HubImages::builder("blanchon/EuroSAT_RGB").load()?.split("train")?;
    ///     let sampler = train.sharded_sampler(42, ranks, 64)?;
    ///     let loader = DataLoader::builder(train).batch_size(64).sampler(sampler).workers(2).build()?;
    ///     let own = loader.shard(rank, ranks)?;
    ///     # drop(own);
    ///     Ok(())
    /// })
    /// # }
    /// ```
    pub fn sharded_sampler(&self, seed: u64, ranks: usize, batch_size: usize) -> Result<HubSampler> {
        let groups = self.0.groups.iter().filter(|group| group.first < self.0.length).count();
        if ranks == 0 || ranks > groups {
            return Err(Error::argument("ranks", format!("1 to {groups}, the row groups of the files"), ranks)
                .hint("a row group is read as a whole: write the files again with smaller ones, or take `sampler`"));
        }
        let share = self.len() / ranks;
        if batch_size == 0 || batch_size > share {
            return Err(Error::argument("batch_size", format!("1 to {share}, a rank's share"), batch_size));
        }
        Ok(HubSampler { parts: Some((ranks, batch_size)), ..self.sampler(seed) })
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

    /// Appends what stands in the column of images for one of `shard`, decoded; its size.
    fn image(&self, shard: usize, stored: &[u8], reading: &Reading, values: &mut Vec<f32>) -> Result<[usize; 3]> {
        match self.columns.stored {
            Stored::Array(array) => plain(stored, array, reading, values),
            Stored::Bytes => pixels::read(Cursor::new(stored), reading, values),
            Stored::Path => {
                // It was a name of the repository's when it was fetched.
                let path = std::str::from_utf8(stored).map_err(|_| Error::data("its path is no text"))?;
                let beside = self.shards[shard].path.parent().map(|folder| folder.join(path));
                let path = beside.filter(|path| path.is_file()).unwrap_or_else(|| self.root.join(path));
                let what = || format!("cannot read {}", path.display());
                let file = File::open(&path).map_err(Error::from).with_context(what)?;
                pixels::read(BufReader::new(file), reading, values).with_context(what)
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
        let mut values = Vec::new();
        let (size, target) = self.read(index, &mut values)?;
        Ok(Example { input: Tensor::from_vec(values, &size[..], &Device::Cpu)?, target })
    }

    fn batch(&self, indices: &[usize]) -> Result<Batch> {
        batch_of_images(indices, |index, values| self.read(index, values), &|_, _, _| Ok(()))
    }

    fn edited_batch(&self, indices: &[usize], edit: &EditImage<'_>) -> Option<Result<Batch>> {
        Some(batch_of_images(indices, |index, values| self.read(index, values), edit))
    }
}

/// An image from an array, its channels first: the shortest side is theirs, and the first of equals.
fn plain(bytes: &[u8], array: Array, reading: &Reading, into: &mut Vec<f32>) -> Result<[usize; 3]> {
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
    pixels::fitted(values, size, reading, into)
}

/// The order of [`HubSplit::sampler`] or [`HubSplit::sharded_sampler`].
#[derive(Debug, Clone)]
pub struct HubSampler {
    split: HubSplit,
    seed: u64,
    parts: Option<(usize, usize)>,
}

impl HubSampler {
    /// The examples of these row groups, shuffled.
    fn shuffled(&self, groups: &[usize], generator: &mut Generator) -> Result<Vec<usize>> {
        let inner = &*self.split.0;
        let order = generator.permutation(groups.len());
        let mut indices = sizes::room("the indices", groups.iter().map(|&group| inner.groups[group].rows).sum())?;
        for window in order.chunks(inner.window) {
            let first = indices.len();
            for &at in window {
                let Group { first, rows, .. } = inner.groups[groups[at]];
                indices.extend((first..first + rows).take_while(|&index| index < inner.length));
            }
            generator.shuffle(&mut indices[first..]);
        }
        Ok(indices)
    }

    /// The row groups of every part: in their order, as many as bring it closest to its share of the examples, but
    /// one at least.
    fn dealt(&self, parts: usize) -> Vec<Vec<usize>> {
        let inner = &*self.split.0;
        let length = inner.length as f64;
        let groups: Vec<usize> =
            (0..inner.groups.len()).filter(|&group| inner.groups[group].first < inner.length).collect();
        let mut dealt: Vec<Vec<usize>> = vec![Vec::new(); parts];
        let mut part = 0;
        for (i, &group) in groups.iter().enumerate() {
            let Group { first, rows, .. } = inner.groups[group];
            let middle = first as f64 + rows.min(inner.length - first) as f64 / 2.0;
            let left = groups.len() - i;
            let full = middle >= length * (part + 1) as f64 / parts as f64;
            // Whoever has none takes one, and those behind must not go without.
            if part + 1 < parts && !dealt[part].is_empty() && (full || left < parts - part) {
                part += 1;
            }
            dealt[part].push(group);
        }
        dealt
    }
}

impl Sampler for HubSampler {
    fn indices(&self, epoch: usize) -> Result<Vec<usize>> {
        let inner = &*self.split.0;
        let Some((parts, batch_size)) = self.parts else {
            let all: Vec<usize> = (0..inner.groups.len()).collect();
            return self.shuffled(&all, &mut Generator::stream(self.seed, &[epoch as u64]));
        };
        let shuffled = |(part, groups): (usize, &Vec<usize>)| {
            let mut indices = self.shuffled(groups, &mut Generator::stream(self.seed, &[epoch as u64, part as u64]))?;
            indices.reverse(); // the first at the end, where they are taken
            Ok(indices)
        };
        let mut left = self.dealt(parts).iter().enumerate().map(shuffled).collect::<Result<Vec<Vec<usize>>>>()?;
        let mut indices = sizes::room("the indices", inner.length)?;
        while indices.len() < inner.length {
            // As a loader's batch is cut among the ranks.
            let count = (parts * batch_size).min(inner.length - indices.len());
            for part in 0..parts {
                for _ in count * part / parts..count * (part + 1) / parts {
                    // Whose files are at their end goes on with those of whoever has most left.
                    let from = if left[part].is_empty() {
                        (0..parts).max_by_key(|&other| left[other].len()).unwrap_or(part)
                    } else {
                        part
                    };
                    indices.extend(left[from].pop());
                }
            }
        }
        Ok(indices)
    }

    fn parts(&self) -> Option<(usize, usize)> {
        self.parts
    }

    fn len(&self) -> usize {
        self.split.len()
    }
}
