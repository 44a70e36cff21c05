//! Tiles of a scene: a data set to train on, and the way from predictions back to one map.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{DType, Device, ModuleT, Tensor};

use super::Scene;
use crate::data::geotiff::Window;
use crate::data::{Dataset, Example};
use crate::error::{Context, Error, Result};
use crate::setters::setters;
use crate::sizes;

/// Square tiles of a [`Scene`], in order of rows: a data set, and the way back to one map.
///
/// `inputs`: `[C, size, size]`, f32, the physical values, normalised if asked for, 0 where there are no
/// data. `targets`: with a mask `[size, size]`, u32, the class of every pixel, `ignore_index` where the
/// scene has no data or was told to be ignored; without one `[2]`, u32, row and column of the tile's first
/// pixel. Tiles at the lower and right edge are moved inwards, so that all are whole.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let scene = Scene::sample()?;
/// let (mean, std) = scene.mean_std()?;
/// let tiles = scene.tiles(64).overlap(16).normalize(&mean, &std).mask(&scene.land_cover()?).build()?;
/// assert_eq!(tiles.len(), 36);
/// // Places are split, not tiles: neighbours share pixels.
/// let split = Split::blocks(&tiles.places(), 100.0).validation(0.3).seed(1).build()?;
/// let train = Subset::new(tiles.clone(), split.train())?;
///
/// // A model that was not trained, over the whole scene.
/// let model = Conv2d::builder(4, 4, 3).padding(1).build(&Parameters::new(1, &Device::Cpu).at("conv"))?;
/// let scores = tiles.predict(&model, &Device::Cpu)?;
/// assert_eq!(scores.dims(), [4, 300, 300]);
/// let classes = tiles.predict_classes(&model, &Device::Cpu)?;
/// ClassMap::builder(&scene, &classes).build()?;
/// # assert!(train.len() < tiles.len());
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone)]
pub struct SceneTiles {
    scene: Scene,
    size: usize,
    overlap: usize,
    margin: usize,
    batch_size: usize,
    bands: Vec<usize>,
    /// Factor and summand that normalise each band.
    normal: Vec<(f64, f64)>,
    rows: Vec<usize>,
    columns: Vec<usize>,
    mask: Option<Arc<Vec<u32>>>,
    ignored: Arc<Vec<bool>>,
    ignore_index: u32,
}

impl std::fmt::Debug for SceneTiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SceneTiles")
            .field("len", &self.len())
            .field("size", &self.size)
            .field("overlap", &self.overlap)
            .field("scene", &self.scene)
            .finish_non_exhaustive()
    }
}

/// Configures [`SceneTiles`].
#[derive(Debug, Clone)]
pub struct SceneTilesBuilder {
    scene: Scene,
    size: usize,
    overlap: usize,
    margin: Option<usize>,
    batch_size: usize,
    bands: Option<Vec<String>>,
    normalize: Option<(Vec<f64>, Vec<f64>)>,
    mask: Option<Tensor>,
    ignore: Option<Tensor>,
    ignore_index: u32,
}

impl SceneTilesBuilder {
    pub(super) fn new(scene: Scene, size: usize) -> Self {
        Self {
            scene,
            size,
            overlap: 0,
            margin: None,
            batch_size: 8,
            bands: None,
            normalize: None,
            mask: None,
            ignore: None,
            ignore_index: 255,
        }
    }

    setters! {
        /// How many pixels neighbours share (default 0). A model sees nothing beyond its tile's edge, so
        /// predictions near it are worse: with an overlap they are blended with the neighbour's.
        overlap(pixels: usize) => overlap = pixels;
        /// How many pixels at the edges of a tile (not of the scene) a prediction is not taken from, at most
        /// half the overlap; by default a quarter of it. As wide as the model sees around a pixel, the
        /// stitched prediction is that of the whole scene at once.
        margin(pixels: usize) => margin = Some(pixels);
        /// How many tiles a prediction takes at once (default 8).
        batch_size(tiles: usize) => batch_size = tiles;
        /// Only these bands, in this order.
        bands(names: &[&str]) => bands = Some(names.iter().map(|&name| name.to_owned()).collect());
        /// Subtracts a mean and divides by a standard deviation: one each for every band of the tiles.
        normalize(mean: &[f64], std: &[f64]) => normalize = Some((mean.to_vec(), std.to_vec()));
        /// The class of every pixel, `[H, W]`, whole numbers.
        mask(classes: &Tensor) => mask = Some(classes.clone());
        /// Pixels that training shall ignore, `[H, W]`: clouds, say. Where it is not 0, the mask gets the
        /// label that loss and metrics ignore.
        ignore(pixels: &Tensor) => ignore = Some(pixels.clone());
        /// The label of pixels that are ignored (default 255): `ignore_index` of the loss.
        ignore_index(label: u32) => ignore_index = label;
    }

    /// The tiles.
    ///
    /// # Errors
    /// If the scene is smaller than a tile, overlap, margin or batch size do not fit, a band is unknown, or
    /// mask or ignored pixels have another size or are no whole numbers.
    pub fn build(self) -> Result<SceneTiles> {
        let (height, width) = (self.scene.height(), self.scene.width());
        if self.size == 0 || self.size > height.min(width) {
            let expected = format!("1 to {}, the scene's shorter side", height.min(width));
            return Err(Error::argument("size", expected, self.size));
        }
        if self.overlap >= self.size {
            return Err(Error::argument("overlap", format!("less than a tile of {}", self.size), self.overlap));
        }
        let margin = self.margin.unwrap_or(self.overlap / 4);
        if margin > self.overlap / 2 {
            let expected = format!("at most half the overlap of {}", self.overlap);
            return Err(Error::argument("margin", expected, margin).hint("what no tile predicts would be missing"));
        }
        if self.batch_size == 0 {
            return Err(Error::argument("batch_size", "at least 1", 0));
        }
        let bands = match &self.bands {
            Some(names) => self.scene.find_all(names)?,
            None => (0..self.scene.names().len()).collect(),
        };
        if bands.is_empty() {
            return Err(Error::argument("bands", "at least one", 0));
        }
        let normal = match &self.normalize {
            None => vec![(1.0, 0.0); bands.len()],
            Some((mean, std)) => {
                let sound =
                    mean.iter().all(|mean| mean.is_finite()) && std.iter().all(|&std| std > 0.0 && std.is_finite());
                if mean.len() != bands.len() || std.len() != bands.len() || !sound {
                    let expected = format!("{} finite values each, the deviations above 0", bands.len());
                    return Err(Error::argument("mean, std", expected, format!("{mean:?} and {std:?}")));
                }
                mean.iter().zip(std).map(|(mean, std)| (1.0 / std, -mean / std)).collect()
            }
        };
        let pixels = |name: &str, tensor: &Tensor| -> Result<Vec<i64>> {
            if tensor.dims() != [height, width] {
                return Err(Error::argument(name, format!("[{height}, {width}]"), format!("{:?}", tensor.dims())));
            }
            if !tensor.dtype().is_int() {
                return Err(Error::argument(name, "whole numbers", format!("{:?}", tensor.dtype())));
            }
            Ok(tensor.to_device(&Device::Cpu)?.to_dtype(DType::I64)?.flatten_all()?.to_vec1()?)
        };
        let label = |value: i64| u32::try_from(value).map_err(|_| Error::argument("mask", "classes from 0 on", value));
        let mask = match &self.mask {
            Some(mask) => Some(Arc::new(pixels("mask", mask)?.into_iter().map(label).collect::<Result<Vec<_>>>()?)),
            None => None,
        };
        let mut ignored: Vec<bool> = self.scene.valid_pixels(&bands)?.into_iter().map(|valid| !valid).collect();
        if let Some(ignore) = &self.ignore {
            ignored.iter_mut().zip(pixels("ignore", ignore)?).for_each(|(ignored, value)| *ignored |= value != 0);
        }
        let step = self.size - self.overlap;
        let starts = |length: usize| -> Vec<usize> {
            let last = length - self.size;
            (0..last.div_ceil(step)).map(|i| i * step).chain([last]).collect()
        };
        Ok(SceneTiles {
            size: self.size,
            overlap: self.overlap,
            margin,
            batch_size: self.batch_size,
            bands,
            normal,
            rows: starts(height),
            columns: starts(width),
            mask,
            ignored: Arc::new(ignored),
            ignore_index: self.ignore_index,
            scene: self.scene,
        })
    }
}

impl SceneTiles {
    /// Row and column of the first pixel of tile `index`.
    ///
    /// # Errors
    /// If there is no such tile.
    pub fn position(&self, index: usize) -> Result<(usize, usize)> {
        match index < self.len() {
            true => Ok((self.rows[index / self.columns.len()], self.columns[index % self.columns.len()])),
            false => Err(Error::argument("index", format!("less than {}", self.len()), index)),
        }
    }

    /// Where every tile lies, in pixels: top, left, bottom, right. For [`Split::blocks`](crate::data::Split::blocks).
    pub fn places(&self) -> Vec<[f64; 4]> {
        let place = |&row: &usize, &column: &usize| {
            [row as f64, column as f64, (row + self.size) as f64, (column + self.size) as f64]
        };
        self.rows.iter().flat_map(|row| self.columns.iter().map(move |column| place(row, column))).collect()
    }

    fn input(&self, row: usize, column: usize) -> Result<Tensor> {
        let size = self.size;
        let mut values = vec![0f32; self.bands.len() * size * size];
        let window = Window { row, column, height: size, width: size };
        let planes = values.chunks_exact_mut(size * size).zip(self.bands.iter().zip(&self.normal));
        for (plane, (&band, &(factor, summand))) in planes {
            self.scene.plane(band, window, plane);
            for value in plane {
                *value = if value.is_nan() { 0.0 } else { (f64::from(*value) * factor + summand) as f32 };
            }
        }
        Ok(Tensor::from_vec(values, (self.bands.len(), size, size), &Device::Cpu)?)
    }

    /// What `model` predicts for the whole scene, `[K, H, W]`, f32, on the CPU: tile by tile, on `device`,
    /// and blended where tiles overlap.
    ///
    /// The model takes `[N, C, size, size]` and gives `[N, K, size, size]`, and is not in training. A tile's
    /// prediction counts for nothing within the margin of its edge and grows linearly to the end of the
    /// overlap; at the edges of the scene it counts in full.
    ///
    /// # Errors
    /// If the model fails or gives another shape.
    pub fn predict(&self, model: &dyn ModuleT, device: &Device) -> Result<Tensor> {
        let (height, width) = (self.scene.height(), self.scene.width());
        let mut all: Vec<f32> = Vec::new();
        let channels = self.stitch(model, device, |rows, channels, scores| {
            if all.is_empty() {
                all = sizes::filled(
                    "the prediction",
                    0f32,
                    sizes::product("the prediction", &[channels, height, width])?,
                )?;
            }
            let count = rows.len() * width;
            for (channel, scores) in scores.chunks_exact(scores.len() / channels).enumerate() {
                all[(channel * height + rows.start) * width..][..count].copy_from_slice(&scores[..count]);
            }
            Ok(())
        })?;
        Ok(Tensor::from_vec(all, (channels, height, width), &Device::Cpu)?)
    }

    /// The class of largest score for every pixel, `[H, W]`, u32, `ignore_index` where the scene has no data
    /// or was told to be ignored: [`SceneTiles::predict`] without the memory for all scores.
    ///
    /// # Errors
    /// As [`SceneTiles::predict`].
    pub fn predict_classes(&self, model: &dyn ModuleT, device: &Device) -> Result<Tensor> {
        let (height, width) = (self.scene.height(), self.scene.width());
        let mut classes: Vec<u32> = sizes::room("the map", height * width)?;
        self.stitch(model, device, |rows, channels, scores| {
            let plane = scores.len() / channels;
            for (pixel, place) in (rows.start * width..rows.end * width).enumerate() {
                // The first of equals, as argmax gives it.
                let best = (1..channels).fold(0, |best, channel| {
                    if scores[channel * plane + pixel] > scores[best * plane + pixel] { channel } else { best }
                });
                classes.push(if self.ignored[place] { self.ignore_index } else { best as u32 });
            }
            Ok(())
        })?;
        Ok(Tensor::from_vec(classes, (height, width), &Device::Cpu)?)
    }

    /// Predicts row by row of tiles, and hands on the rows of pixels that no further tile touches: which,
    /// of how many channels, and their scores, of which each channel's first `rows · width` count.
    fn stitch(
        &self,
        model: &dyn ModuleT,
        device: &Device,
        mut done: impl FnMut(Range<usize>, usize, &[f32]) -> Result<()>,
    ) -> Result<usize> {
        let (size, height, width) = (self.size, self.scene.height(), self.scene.width());
        let columns: Vec<Vec<f32>> = self.columns.iter().map(|&column| self.weights(column, width)).collect();
        let mut scores: Vec<f32> = Vec::new();
        let mut sums = vec![0f32; size * width];
        let mut channels = 0;
        for (number, &top) in self.rows.iter().enumerate() {
            let rows = self.weights(top, height);
            for first in (0..self.columns.len()).step_by(self.batch_size) {
                let batch = first..(first + self.batch_size).min(self.columns.len());
                let inputs: Vec<Tensor> =
                    batch.clone().map(|column| self.input(top, self.columns[column])).collect::<Result<_>>()?;
                let inputs = Tensor::stack(&inputs, 0)?.to_device(device)?;
                let output = model.forward_t(&inputs, false).context("the model failed on tiles of the scene")?;
                let fits =
                    |dims: &[usize]| matches!(*dims, [n, k, h, w] if n == batch.len() && k > 0 && [h, w] == [size; 2]);
                if !fits(output.dims()) || (channels > 0 && output.dims()[1] != channels) {
                    let expected = format!("[{}, K, {size}, {size}], a score for every class and pixel", batch.len());
                    return Err(Error::argument("the model's output", expected, format!("{:?}", output.dims())));
                }
                if channels == 0 {
                    channels = output.dims()[1];
                    let count = sizes::product("the prediction", &[channels, size, width])?;
                    scores = sizes::filled("the prediction", 0f32, count)?;
                }
                let output = output.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
                for (tile, column) in output.chunks_exact(channels * size * size).zip(batch) {
                    blend(tile, &rows, &columns[column], self.columns[column], [size, width], &mut scores, &mut sums);
                }
            }
            let next = self.rows.get(number + 1).map_or(height, |&next| next);
            done(top..next, channels, &scores)?;
            // What the next row of tiles has in common with this one moves to the top.
            let keep = (top + size - next.min(top + size)) * width;
            let plane = size * width;
            for values in scores.chunks_exact_mut(plane).chain([&mut sums[..]]) {
                values.copy_within(plane - keep.., 0);
                values[keep..].fill(0.0);
            }
        }
        Ok(channels)
    }

    /// How much each row (or column) of a tile that begins at `first` counts in a scene of this length.
    fn weights(&self, first: usize, length: usize) -> Vec<f32> {
        let ramp = (self.overlap + 1 - 2 * self.margin) as f32;
        let weight = |distance: usize| ((distance + 1).saturating_sub(self.margin) as f32 / ramp).min(1.0);
        (0..self.size)
            .map(|at| {
                let before = if first == 0 { 1.0 } else { weight(at) };
                let after = if first + self.size == length { 1.0 } else { weight(self.size - 1 - at) };
                f32::min(before, after)
            })
            .collect()
    }
}

/// Adds a tile's scores to the weighted means so far. Equal scores have that mean to the last bit, whatever
/// the weights.
fn blend(
    tile: &[f32],
    rows: &[f32],
    columns: &[f32],
    left: usize,
    [size, width]: [usize; 2],
    scores: &mut [f32],
    sums: &mut [f32],
) {
    for (row, row_weight) in rows.iter().enumerate() {
        for (column, column_weight) in columns.iter().enumerate() {
            let weight = row_weight * column_weight;
            if weight == 0.0 {
                continue;
            }
            let place = row * width + left + column;
            sums[place] += weight;
            let share = weight / sums[place];
            let pixel = row * size + column;
            for (means, values) in scores.chunks_exact_mut(size * width).zip(tile.chunks_exact(size * size)) {
                means[place] += (values[pixel] - means[place]) * share;
            }
        }
    }
}

impl Dataset for SceneTiles {
    fn len(&self) -> usize {
        self.rows.len() * self.columns.len()
    }

    fn origin(&self, index: usize) -> Option<(usize, usize)> {
        let (row, column) = self.position(index).ok()?;
        Some((Arc::as_ptr(&self.scene.raster) as usize, row * self.scene.width() + column))
    }

    fn get(&self, index: usize) -> Result<Example> {
        let (row, column) = self.position(index)?;
        let target = match &self.mask {
            None => Tensor::new(&[row as u32, column as u32], &Device::Cpu)?,
            Some(mask) => {
                let width = self.scene.width();
                let pixel = |place: usize| if self.ignored[place] { self.ignore_index } else { mask[place] };
                let line =
                    |at: usize| ((row + at) * width + column..(row + at) * width + column + self.size).map(pixel);
                Tensor::from_vec((0..self.size).flat_map(line).collect(), (self.size, self.size), &Device::Cpu)?
            }
        };
        Ok(Example { input: self.input(row, column)?, target })
    }
}
