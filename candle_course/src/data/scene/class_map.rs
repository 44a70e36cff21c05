//! A map of classes that geographic programs open.

use std::path::Path;

use candle_core::{DType, Device, Tensor};

use super::Scene;
use crate::atomic;
use crate::data::geotiff::{self, Band, Raster, Samples};
use crate::error::{Error, Result};
use crate::setters::setters;

/// The class of every pixel of a scene, to be written as GeoTIFF: a band of bytes with the scene's place
/// and projection, and a colour for every class, so that QGIS and others show it where it belongs.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let scene = Scene::sample()?.with_georeference(Georeference::projected(32_723, [300_000.0, 7_500_000.0], [10.0, 10.0])?);
/// let map = ClassMap::builder(&scene, &scene.land_cover()?)
///     .names(&Scene::LAND_COVER)
///     .colors(&Scene::LAND_COVER_COLORS)
///     .build()?;
/// let path = std::env::temp_dir().join(format!("land-cover-{}.tif", std::process::id()));
/// map.write(&path)?;
/// assert_eq!(Scene::open(&path)?.georeference(), scene.georeference());
/// # std::fs::remove_file(path)?;
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone)]
pub struct ClassMap {
    pub(super) raster: Raster,
    names: Vec<String>,
    colors: Vec<[f32; 3]>,
}

impl std::fmt::Debug for ClassMap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [_, height, width] = self.raster.size;
        f.debug_struct("ClassMap")
            .field("names", &self.names)
            .field("height", &height)
            .field("width", &width)
            .finish_non_exhaustive()
    }
}

/// Configures a [`ClassMap`].
#[derive(Debug, Clone)]
pub struct ClassMapBuilder {
    scene: Scene,
    classes: Tensor,
    names: Vec<String>,
    colors: Vec<[f32; 3]>,
    nodata: Option<u8>,
}

impl ClassMap {
    /// `classes`: `[H, W]` as the scene has them, of whole numbers from 0 to 255; 255 is "no data" unless
    /// told otherwise.
    pub fn builder(scene: &Scene, classes: &Tensor) -> ClassMapBuilder {
        ClassMapBuilder {
            scene: scene.clone(),
            classes: classes.clone(),
            names: vec![],
            colors: vec![],
            nodata: Some(255),
        }
    }

    /// Writes the map to `path`.
    ///
    /// # Errors
    /// If the file cannot be written; what was there before is untouched then.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        let file = geotiff::write(&self.raster, &self.colors, &self.names)?;
        atomic::write_bytes(path.as_ref(), &file)
    }
}

impl ClassMapBuilder {
    setters! {
        /// The names of the classes, in order: they stand in the file's metadata.
        names(names: &[&str]) => names = names.iter().map(|&name| name.to_owned()).collect();
        /// A colour for every class: red, green and blue in 0 to 1.
        colors(colors: &[[f32; 3]]) => colors = colors.to_vec();
        /// The value of pixels without data, or `None` if every value is a class.
        nodata(value: Option<u8>) => nodata = value;
    }

    /// The map.
    ///
    /// # Errors
    /// If the classes are not as many as the scene has pixels, are no whole numbers from 0 to 255, or there
    /// are more than 256 names or colours.
    pub fn build(self) -> Result<ClassMap> {
        let (height, width) = (self.scene.height(), self.scene.width());
        if self.classes.dims() != [height, width] {
            return Err(Error::argument(
                "classes",
                format!("[{height}, {width}]"),
                format!("{:?}", self.classes.dims()),
            ));
        }
        if !matches!(self.classes.dtype(), DType::U8 | DType::U32 | DType::I64) {
            return Err(Error::argument("classes", "whole numbers", format!("{:?}", self.classes.dtype())));
        }
        if self.names.len() > 256 || self.colors.len() > 256 {
            let got = format!("{} and {}", self.names.len(), self.colors.len());
            return Err(Error::argument("names, colors", "at most 256 each", got));
        }
        let classes = self.classes.to_device(&Device::Cpu)?.to_dtype(DType::I64)?.flatten_all()?.to_vec1::<i64>()?;
        let byte = |&class: &i64| u8::try_from(class).map_err(|_| Error::argument("classes", "0 to 255", class));
        let samples = Samples::U8(classes.iter().map(byte).collect::<Result<_>>()?);
        let raster = Raster {
            samples,
            size: [1, height, width],
            bands: vec![Band { name: Some("class".to_owned()), ..Band::default() }],
            nodata: self.nodata.map(f64::from),
            georeference: self.scene.georeference().cloned(),
        };
        Ok(ClassMap { raster, names: self.names, colors: self.colors })
    }
}
