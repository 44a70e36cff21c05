//! Satellite images of bands, from GeoTIFF files.

mod class_map;
mod land_cover;
mod names;
mod spectral_index;
#[cfg(test)]
mod tests;
mod tiles;

use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use crate::atomic;
use crate::data::geotiff::{self, Band, Georeference, Raster, Samples, Window};
use crate::error::{Context, Error, Result};
use crate::setters::setters;
use crate::sizes;

pub use class_map::{ClassMap, ClassMapBuilder};
pub use spectral_index::SpectralIndex;
pub use tiles::{SceneTiles, SceneTilesBuilder};

/// A satellite image: bands of equal size, their names, and the place on Earth.
///
/// Read from GeoTIFF: samples of u8, u16, i16 or f32, in strips or tiles, band by band or interleaved,
/// plain or compressed with deflate, LZW or PackBits; several files of one band each are put together by
/// GDAL (`gdal_merge`, `gdalbuildvrt`) first. The samples stay in memory as they are in the file; what
/// comes out is the physical value, stored · scale + offset, with the scale and offset of the file or of
/// [`Scene::builder`]. A pixel where a band has the value for "no data" is not valid: `NaN` in tensors of
/// bands and indices, 0 in tiles, and ignored by their masks. Clones share the samples.
///
/// Bands go by the names in the file; of Sentinel-2's names the usual words are understood too (`B02` is
/// `blue`), and the other way round.
///
/// | band | word | | band | word |
/// | --- | --- | --- | --- | --- |
/// | B01 | `coastal` | | B08 | `nir` |
/// | B02 | `blue` | | B8A | `nir_narrow` |
/// | B03 | `green` | | B09 | `water_vapour` |
/// | B04 | `red` | | B10 | `cirrus` |
/// | B05, B06, B07 | `red_edge_1`, `red_edge_2`, `red_edge_3` | | B11, B12 | `swir1`, `swir2` |
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let scene = Scene::sample()?;
/// assert_eq!(scene.names(), ["B02", "B03", "B04", "B08"]);
/// assert_eq!(scene.to_tensor()?.dims(), [4, 300, 300]);
///
/// // A map of vegetation, and tiles to train on.
/// let vegetation = scene.index(SpectralIndex::Ndvi)?;
/// assert_eq!(vegetation.dims(), [300, 300]);
/// let tiles = scene.tiles(64).mask(&scene.land_cover()?).build()?;
/// let batch = tiles.batch(&[0, 1])?;
/// assert_eq!((batch.inputs.dims(), batch.targets.dims()), (&[2, 4, 64, 64][..], &[2, 64, 64][..]));
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone)]
pub struct Scene {
    raster: Arc<Raster>,
    names: Vec<String>,
}

impl std::fmt::Debug for Scene {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scene")
            .field("names", &self.names)
            .field("height", &self.height())
            .field("width", &self.width())
            .field("georeference", &self.georeference())
            .finish_non_exhaustive()
    }
}

/// Configures how a [`Scene`] is read.
#[derive(Debug, Clone)]
pub struct SceneBuilder {
    path: PathBuf,
    names: Option<Vec<String>>,
    scale: Option<f64>,
    offset: Option<f64>,
    nodata: Option<f64>,
    georeference: Option<Georeference>,
    window: Option<Window>,
}

impl Scene {
    /// The file at `path`, as it describes itself.
    ///
    /// # Errors
    /// If the file cannot be read, is damaged, or is of a kind that is not read; the message says which.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::builder(path).build()
    }

    /// The file at `path`, as it describes itself unless told otherwise.
    pub fn builder(path: impl AsRef<Path>) -> SceneBuilder {
        SceneBuilder {
            path: path.as_ref().to_owned(),
            names: None,
            scale: None,
            offset: None,
            nodata: None,
            georeference: None,
            window: None,
        }
    }

    /// A real scene that comes with the crate: 3 × 3 km from Sentinel-2, pixels of 10 m, the bands B02,
    /// B03, B04 and B08 as reflectance in 0 to 1. Forest, pasture, bare soil, a narrow reservoir; no
    /// clouds, no labels, and no place, because its source records none. `SOURCES` of
    /// `candle_course_samples` says where it comes from.
    ///
    /// # Errors
    /// If the crate was built without its feature `samples`.
    pub fn sample() -> Result<Self> {
        #[cfg(feature = "samples")]
        {
            let file = candle_course_samples::SENTINEL2;
            let raster = geotiff::read(std::io::Cursor::new(file), file.len() as u64, None);
            Self::new(raster.context("the embedded scene is damaged")?, None)
        }
        #[cfg(not(feature = "samples"))]
        Err(Error::data("the crate was built without its sample").hint("switch on the crate's feature `samples`"))
    }

    /// A scene of values in memory. `bands`: `[C, H, W]`, of a type that f32 holds; `names`: one a band.
    ///
    /// # Errors
    /// If the shape is another, or names are missing or occur twice.
    pub fn from_tensor(bands: &Tensor, names: &[&str]) -> Result<Self> {
        let Ok(size) = <[usize; 3]>::try_from(bands.dims()) else {
            return Err(Error::argument("bands", "[C, H, W]", format!("{:?}", bands.dims())));
        };
        if size.contains(&0) {
            return Err(Error::argument("bands", "at least one band and one pixel", format!("{size:?}")));
        }
        let values = bands.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
        let bands = vec![Band::default(); size[0]];
        let raster = Raster { samples: Samples::F32(values), size, bands, nodata: None, georeference: None };
        Self::new(raster, Some(names.iter().map(|&name| name.to_owned()).collect()))
    }

    fn new(mut raster: Raster, names: Option<Vec<String>>) -> Result<Self> {
        let own = |(number, band): (usize, &Band)| band.name.clone().unwrap_or_else(|| format!("band {}", number + 1));
        let names = names.unwrap_or_else(|| raster.bands.iter().enumerate().map(own).collect());
        if names.len() != raster.size[0] {
            return Err(Error::argument("names", format!("one for each of {} bands", raster.size[0]), names.len()));
        }
        if let Some(twice) = (1..names.len()).find(|&i| names[..i].contains(&names[i])) {
            return Err(Error::argument("names", "every name once", format!("{:?} twice", names[twice])));
        }
        raster.bands.iter_mut().zip(&names).for_each(|(band, name)| band.name = Some(name.clone()));
        Ok(Self { raster: Arc::new(raster), names })
    }

    /// The same scene at another place: for files without one.
    #[must_use = "the scene is given back"]
    pub fn with_georeference(mut self, georeference: Georeference) -> Self {
        Arc::make_mut(&mut self.raster).georeference = Some(georeference);
        self
    }

    /// The names of the bands, in order.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.raster.size[1]
    }

    /// Pixels in a row.
    pub fn width(&self) -> usize {
        self.raster.size[2]
    }

    /// Where the scene lies, if the file says so.
    pub fn georeference(&self) -> Option<&Georeference> {
        self.raster.georeference.as_ref()
    }

    /// The stored value of pixels without data, if there is one.
    pub fn nodata(&self) -> Option<f64> {
        self.raster.nodata
    }

    /// The place of the band that is called so, or by Sentinel-2's name for it, or by the word for that.
    fn find(&self, name: &str) -> Result<usize> {
        let found = self.names.iter().position(|own| own == name);
        let found = found.or_else(|| self.names.iter().position(|own| names::alike(own, name)));
        found.ok_or_else(|| Error::argument("band", format!("one of {}", self.names.join(", ")), name))
    }

    fn find_all(&self, names: &[impl AsRef<str>]) -> Result<Vec<usize>> {
        names.iter().map(|name| self.find(name.as_ref())).collect()
    }

    /// The values of one band, `[H, W]`, f32; `NaN` where there are none.
    ///
    /// # Errors
    /// If no band is called so.
    pub fn band(&self, name: &str) -> Result<Tensor> {
        Ok(self.tensor(&[self.find(name)?])?.squeeze(0)?)
    }

    /// The values of some bands, `[C, H, W]`, f32, in the order of `names`; `NaN` where there are none.
    ///
    /// # Errors
    /// If no band is called so.
    pub fn bands(&self, names: &[&str]) -> Result<Tensor> {
        self.tensor(&self.find_all(names)?)
    }

    /// The values of all bands, `[C, H, W]`, f32; `NaN` where there are none.
    ///
    /// # Errors
    /// If there is not so much memory.
    pub fn to_tensor(&self) -> Result<Tensor> {
        self.tensor(&(0..self.names.len()).collect::<Vec<_>>())
    }

    fn tensor(&self, bands: &[usize]) -> Result<Tensor> {
        let [_, height, width] = self.raster.size;
        let count = sizes::count_of::<f32>("the bands", &[bands.len(), height, width])?;
        let mut values = sizes::filled("the bands", 0f32, count)?;
        let whole = Window { row: 0, column: 0, height, width };
        for (&band, plane) in bands.iter().zip(values.chunks_exact_mut(height * width)) {
            self.plane(band, whole, plane);
        }
        Ok(Tensor::from_vec(values, (bands.len(), height, width), &Device::Cpu)?)
    }

    /// The physical values of a part of a band, `NaN` where there are none.
    fn plane(&self, band: usize, window: Window, into: &mut [f32]) {
        let [_, height, width] = self.raster.size;
        let Band { scale, offset, .. } = self.raster.bands[band];
        let nodata = self.raster.nodata.map(|nodata| nodata as f32);
        for (row, line) in into.chunks_exact_mut(window.width).enumerate() {
            let first = (band * height + window.row + row) * width + window.column;
            for (column, value) in line.iter_mut().enumerate() {
                let stored = self.raster.samples.get(first + column);
                let missing = nodata == Some(stored);
                *value = if missing { f32::NAN } else { (f64::from(stored) * scale + offset) as f32 };
            }
        }
    }

    /// Where all bands have data: `[H, W]`, u8, 1 or 0.
    ///
    /// # Errors
    /// If there is not so much memory.
    pub fn valid(&self) -> Result<Tensor> {
        let [_, height, width] = self.raster.size;
        let valid = self.valid_pixels(&(0..self.names.len()).collect::<Vec<_>>())?;
        Ok(Tensor::from_vec(valid.into_iter().map(u8::from).collect::<Vec<_>>(), (height, width), &Device::Cpu)?)
    }

    fn valid_pixels(&self, bands: &[usize]) -> Result<Vec<bool>> {
        let pixels = self.height() * self.width();
        let mut valid = sizes::filled("the scene", true, pixels)?;
        let nodata = self.raster.nodata.map(|nodata| nodata as f32);
        for &band in bands {
            for (pixel, valid) in valid.iter_mut().enumerate() {
                let stored = self.raster.samples.get(band * pixels + pixel);
                *valid &= !(stored.is_nan() || nodata == Some(stored));
            }
        }
        Ok(valid)
    }

    /// Where a band of classes has one of `values`: `[H, W]`, u8, 1 or 0. For the mask of clouds that comes
    /// with a scene: in Sentinel-2's `SCL`, say, 3 is shadow, 8 to 10 are clouds, 0 and 1 no data.
    ///
    /// # Errors
    /// If no band is called so.
    ///
    /// # Examples
    ///
    /// ```
    /// use candle_course::prelude::*;
    ///
    /// let bands = Tensor::new(&[[[0.1f32, 0.2]], [[4., 9.]]], &Device::Cpu)?;
    /// let scene = Scene::from_tensor(&bands, &["red", "SCL"])?;
    /// let clouds = scene.pixels_with("SCL", &[0, 1, 3, 8, 9, 10])?;
    /// assert_eq!(clouds.to_vec2::<u8>()?, [[0, 1]]);
    /// # Ok::<(), Error>(())
    /// ```
    pub fn pixels_with(&self, band: &str, values: &[i32]) -> Result<Tensor> {
        let (band, pixels) = (self.find(band)?, self.height() * self.width());
        let is = |pixel: usize| {
            let stored = self.raster.samples.get(band * pixels + pixel);
            u8::from(values.iter().any(|&value| stored == value as f32))
        };
        let found: Vec<u8> = (0..pixels).map(is).collect();
        Ok(Tensor::from_vec(found, (self.height(), self.width()), &Device::Cpu)?)
    }

    /// A spectral index of every pixel, `[H, W]`, f32; `NaN` where it is not defined.
    ///
    /// # Errors
    /// If the scene lacks a band that the index needs.
    pub fn index(&self, index: SpectralIndex) -> Result<Tensor> {
        let bands =
            self.find_all(index.bands()).with_context(|| format!("{index:?} needs {}", index.bands().join(", ")))?;
        self.map_pixels(&bands, |values| index.value(values))
    }

    /// `(a - b) / (a + b)` of two bands, `[H, W]`, f32: the form of most indices. `NaN` where it is not
    /// defined.
    ///
    /// # Errors
    /// If no band is called so.
    pub fn normalized_difference(&self, a: &str, b: &str) -> Result<Tensor> {
        self.map_pixels(&self.find_all(&[a, b])?, |values| spectral_index::difference(values[0], values[1]))
    }

    /// A number for every pixel from the values of some bands.
    fn map_pixels(&self, bands: &[usize], value: impl Fn(&[f32]) -> f32) -> Result<Tensor> {
        let (height, width) = (self.height(), self.width());
        let mut values = sizes::room("the map", height * width)?;
        let mut lines = vec![0f32; bands.len() * width];
        let mut pixel = vec![0f32; bands.len()];
        for row in 0..height {
            let line = Window { row, column: 0, height: 1, width };
            for (&band, into) in bands.iter().zip(lines.chunks_exact_mut(width)) {
                self.plane(band, line, into);
            }
            for column in 0..width {
                pixel.iter_mut().enumerate().for_each(|(i, value)| *value = lines[i * width + column]);
                values.push(value(&pixel));
            }
        }
        Ok(Tensor::from_vec(values, (height, width), &Device::Cpu)?)
    }

    /// Mean and standard deviation of every band, over its pixels with data: for
    /// [`SceneTilesBuilder::normalize`].
    ///
    /// # Errors
    /// If a band has no data at all.
    pub fn mean_std(&self) -> Result<(Vec<f64>, Vec<f64>)> {
        let (height, width) = (self.height(), self.width());
        let mut line = vec![0f32; width];
        let mut each = |band: usize| -> Result<(f64, f64)> {
            // Two passes: the sum of squares of values far from 0 loses all of them.
            let mut sums = |center: f64| {
                let (mut count, mut sum, mut squares) = (0usize, 0f64, 0f64);
                for row in 0..height {
                    self.plane(band, Window { row, column: 0, height: 1, width }, &mut line);
                    for &value in line.iter().filter(|value| !value.is_nan()) {
                        let distance = f64::from(value) - center;
                        (count, sum, squares) = (count + 1, sum + distance, squares + distance * distance);
                    }
                }
                (count as f64, sum, squares)
            };
            let (count, sum, _) = sums(0.0);
            if count == 0.0 {
                return Err(Error::undefined(format!("{} has no pixel with data", self.names[band])));
            }
            let mean = sum / count;
            Ok((mean, (sums(mean).2 / count).sqrt()))
        };
        Ok((0..self.names.len()).map(&mut each).collect::<Result<Vec<_>>>()?.into_iter().unzip())
    }

    /// A part of the scene, with its place: the pixels from `row` and `column` on.
    ///
    /// # Errors
    /// If it is not a part.
    pub fn window(&self, row: usize, column: usize, height: usize, width: usize) -> Result<Self> {
        let [count, whole_height, whole_width] = self.raster.size;
        let window = Window { row, column, height, width }.check(whole_height, whole_width)?;
        fn cut<T: Copy>(values: &[T], window: Window, [count, height, width]: [usize; 3]) -> Vec<T> {
            let rows = (0..count).flat_map(|band| (0..window.height).map(move |row| band * height + window.row + row));
            rows.flat_map(|row| &values[row * width + window.column..][..window.width]).copied().collect()
        }
        let size = self.raster.size;
        let samples = match &self.raster.samples {
            Samples::U8(values) => Samples::U8(cut(values, window, size)),
            Samples::U16(values) => Samples::U16(cut(values, window, size)),
            Samples::I16(values) => Samples::I16(cut(values, window, size)),
            Samples::F32(values) => Samples::F32(cut(values, window, size)),
        };
        let georeference = self.raster.georeference.as_ref().map(|place| place.part_at(row, column));
        let raster = Raster {
            samples,
            size: [count, height, width],
            bands: self.raster.bands.clone(),
            nodata: self.raster.nodata,
            georeference,
        };
        Ok(Self { raster: Arc::new(raster), names: self.names.clone() })
    }

    /// Square tiles of `size` pixels, next to each other and in order of rows, as a data set.
    pub fn tiles(&self, size: usize) -> SceneTilesBuilder {
        SceneTilesBuilder::new(self.clone(), size)
    }

    /// Writes the scene as GeoTIFF: samples, names, scales, the value for "no data", and the place.
    ///
    /// # Errors
    /// If the file cannot be written; what was there before is untouched then.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        let file = geotiff::write(&self.raster, &[], &[])?;
        atomic::write_bytes(path.as_ref(), &file)
    }
}

impl SceneBuilder {
    setters! {
        /// The names of the bands, in order.
        names(names: &[&str]) => names = Some(names.iter().map(|&name| name.to_owned()).collect());
        /// The physical value of one step of every band: 0.0001 for Sentinel-2's reflectance, whose files
        /// mostly leave it out.
        scale(scale: f64) => scale = Some(scale);
        /// What is added to the scaled value of every band: -0.1 for reflectance that ESA processed since
        /// January 2022 (baseline 04.00).
        offset(offset: f64) => offset = Some(offset);
        /// The stored value of pixels without data: 0 for Sentinel-2, whose files mostly leave it out.
        nodata(value: f64) => nodata = Some(value);
        /// The place, for a file that has none.
        georeference(georeference: Georeference) => georeference = Some(georeference);
        /// Reads a part of the file, and no more than the tiles that it touches: the pixels from `row` and
        /// `column` on.
        window(row: usize, column: usize, height: usize, width: usize) => window = Some(Window { row, column, height, width });
    }

    /// Reads the scene.
    ///
    /// # Errors
    /// As [`Scene::open`], or if an option does not fit the file.
    pub fn build(self) -> Result<Scene> {
        for (name, number) in [("scale", self.scale), ("offset", self.offset)] {
            if let Some(number) = number.filter(|number| !number.is_finite() || (name == "scale" && *number == 0.0)) {
                return Err(Error::argument(name, "a finite number, and no scale of 0", number));
            }
        }
        let cannot = || format!("cannot read {}", self.path.display());
        let metadata = fs::metadata(&self.path).with_context(cannot)?;
        if !metadata.is_file() {
            return Err(Error::data(format!("{} is no file", self.path.display())));
        }
        let file = BufReader::new(File::open(&self.path).with_context(cannot)?);
        let mut raster = geotiff::read(file, metadata.len(), self.window).with_context(cannot)?;
        for band in &mut raster.bands {
            band.scale = self.scale.unwrap_or(band.scale);
            band.offset = self.offset.unwrap_or(band.offset);
        }
        raster.nodata = self.nodata.or(raster.nodata);
        raster.georeference = self.georeference.or(raster.georeference);
        Scene::new(raster, self.names)
    }
}
