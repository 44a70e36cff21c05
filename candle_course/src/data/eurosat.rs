//! EuroSAT: land use from space.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use rayon::prelude::*;

use crate::data::dataset::EditImage;
use crate::data::geotiff::{self, Window};
use crate::data::{Batch, Dataset, Example, ImageFolder};
#[cfg(feature = "hub")]
use crate::data::{HubImages, HubImagesBuilder};
use crate::error::{Context, Error, Result};

/// EuroSAT: 27,000 cuts of 64×64 pixels of 10 m from Sentinel-2, in 10 classes of land use
/// ([Helber et al. 2019](https://arxiv.org/abs/1709.00029)).
///
/// From the hub in red, green and blue with the split that is usual ([`EuroSat::rgb`]: 16,200 images to train,
/// 5,400 to validate, 5,400 to test) or in 13 bands ([`EuroSat::bands`]), or in 13 bands with their places from
/// the folder `EuroSAT_MS` as the authors distribute it ([`EuroSat::open`]). The published splits draw
/// neighbours apart, so that a model is tested next to where it was trained: split the places instead, with
/// [`Split::blocks`](crate::data::Split::blocks) and [`EuroSat::places`].
///
/// `inputs` of 13 bands: `[13, 64, 64]`, f32, reflectance, in the order of the files (descriptions disagree on
/// whether B8A is the ninth or the last); `targets`: u32.
///
/// # Examples
///
/// ```no_run
/// use candle_course::prelude::*;
///
/// let images = EuroSat::open("EuroSAT_MS")?;
/// // Squares of 30 km.
/// let split = Split::blocks(images.places(), 30_000.0).validation(0.2).test(0.2).seed(1).build()?;
/// let train = Subset::new(images.clone(), split.train())?;
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct EuroSat {
    images: ImageFolder,
    places: Vec<[f64; 4]>,
}

impl EuroSat {
    /// The images in red, green and blue from the hub, 8 bits each, as JPEG.
    #[cfg(feature = "hub")]
    pub fn rgb() -> HubImagesBuilder {
        HubImages::builder("blanchon/EuroSAT_RGB").color()
    }

    /// All 13 bands from the hub, 16 bits each, as reflectance; 18,880 images to train, 5,405 to validate, 2,713
    /// to test, without their places.
    #[cfg(feature = "hub")]
    pub fn bands() -> HubImagesBuilder {
        HubImages::builder("giswqs/EuroSAT_MS").scale(0.0001)
    }

    /// The GeoTIFFs of 13 bands below `folder`, one folder per class. Reads where each lies.
    ///
    /// # Errors
    /// If the folder is none of images, or an image cannot be read, is no GeoTIFF with a place in a projected
    /// system, or does not have the bands of the others.
    pub fn open(folder: impl AsRef<Path>) -> Result<Self> {
        let images = ImageFolder::builder(folder).scale(0.0001).build()?;
        let place = |index: usize| -> Result<([f64; 4], usize)> {
            let path = images.path(index).unwrap_or(Path::new(""));
            place(path).with_context(|| format!("cannot read where {} lies", path.display()))
        };
        let found = (0..images.len()).into_par_iter().map(place).collect::<Result<Vec<_>>>()?;
        if let Some(index) = found.iter().position(|(_, bands)| *bands != found[0].1) {
            let path = images.path(index).unwrap_or(Path::new("")).display();
            return Err(Error::data(format!("{path} has {} bands, the first image {}", found[index].1, found[0].1)));
        }
        Ok(Self { places: found.into_iter().map(|(place, _)| place).collect(), images })
    }

    /// The name of every class, in order of the targets.
    pub fn class_names(&self) -> &[String] {
        self.images.class_names()
    }

    /// The class of every image, without reading any.
    pub fn labels(&self) -> Vec<u32> {
        self.images.labels()
    }

    /// Where every image lies, in metres: top, left, bottom, right, southwards and eastwards. Images of
    /// different zones of the projection are far from each other.
    pub fn places(&self) -> &[[f64; 4]] {
        &self.places
    }
}

/// Where a GeoTIFF lies, in metres from a corner that all have in common, and its bands.
fn place(path: &Path) -> Result<([f64; 4], usize)> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    // One pixel: its tile or strip is all that is decoded.
    let pixel = Window { row: 0, column: 0, height: 1, width: 1 };
    let (raster, [height, width]) = geotiff::read_part(BufReader::new(file), length, Some(pixel))?;
    let place = raster.georeference.as_ref().ok_or_else(|| Error::data("it names no place"))?;
    let zone = place.epsg().ok_or_else(|| Error::data("its projection has no EPSG code"))?;
    let corner = |row: usize, column: usize| place.at(row as f64, column as f64);
    let ([x, y], [x_end, y_end]) = (corner(0, 0), corner(height, width));
    // No zone is so wide.
    let east = f64::from(zone) * 1e7;
    Ok(([-y.max(y_end), east + x.min(x_end), -y.min(y_end), east + x.max(x_end)], raster.size[0]))
}

impl Dataset for EuroSat {
    fn len(&self) -> usize {
        self.images.len()
    }

    fn get(&self, index: usize) -> Result<Example> {
        self.images.get(index)
    }

    fn batch(&self, indices: &[usize]) -> Result<Batch> {
        self.images.batch(indices)
    }

    fn edited_batch(&self, indices: &[usize], edit: &EditImage<'_>) -> Option<Result<Batch>> {
        self.images.edited_batch(indices, edit)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;
    use crate::data::{Georeference, Scene, Split};

    /// 40 images in two classes: 20 places side by side in each of two zones.
    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let names: Vec<String> = (0..13).map(|band| format!("band {band}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        for index in 0..40usize {
            let class = ["Forest", "River"][index % 2];
            std::fs::create_dir_all(folder.path().join(class)).unwrap();
            let values = Tensor::full(1000.0 + index as f32, (13, 8, 8), &Device::Cpu).unwrap();
            let east = 300_000.0 + 80.0 * (index % 20) as f64;
            let zone = [32_632, 32_633][index / 20];
            let place = Georeference::projected(zone, [east, 5_000_000.0], [10.0, 10.0]).unwrap();
            let scene = Scene::from_tensor(&values, &names).unwrap().with_georeference(place);
            scene.write(folder.path().join(format!("{class}/{class}_{index:02}.tif"))).unwrap();
        }
        folder
    }

    #[test]
    fn images_know_their_class_and_place() {
        let folder = folder();
        let images = EuroSat::open(folder.path()).unwrap();
        assert_eq!((images.len(), images.class_names().join(" ").as_str()), (40, "Forest River"));
        // The first rivers are the images 1, 3, 5 of those above.
        let example = images.get(21).unwrap();
        assert_eq!(example.input.dims(), [13, 8, 8]);
        assert_eq!(example.target.to_scalar::<u32>().unwrap(), 1);
        let value = example.input.flatten_all().unwrap().to_vec1::<f32>().unwrap()[0];
        assert!((value - 0.1003).abs() < 1e-6, "{value}");
        let [top, left, bottom, right] = images.places()[21];
        assert_eq!([top, bottom - top, right - left], [-5_000_000.0, 80.0, 80.0]);
        assert_eq!(left - 32_632e7, 300_000.0 + 80.0 * 3.0);
        let split = Split::blocks(images.places(), 400.0).validation(0.3).seed(2).build().unwrap();
        let blocks = |part: &[usize]| -> std::collections::BTreeSet<i64> {
            part.iter().map(|&index| (images.places()[index][1] / 400.0).floor() as i64).collect()
        };
        assert!(blocks(split.train()).is_disjoint(&blocks(split.validation())));
    }

    #[test]
    fn an_image_without_a_place_is_refused() {
        let folder = folder();
        let values = Tensor::zeros((13, 8, 8), candle_core::DType::F32, &Device::Cpu).unwrap();
        let names: Vec<String> = (0..13).map(|band| band.to_string()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let path = folder.path().join("Forest/Forest_00.tif");
        let scene = Scene::from_tensor(&values, &names).unwrap();
        scene.write(&path).unwrap();
        let error = EuroSat::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("Forest_00.tif lies") && error.contains("names no place"), "{error}");
        let place = Georeference::projected(32_632, [0.0; 2], [10.0; 2]).unwrap();
        let three = scene.bands(&names[..3]).unwrap();
        Scene::from_tensor(&three, &names[..3]).unwrap().with_georeference(place).write(&path).unwrap();
        assert!(EuroSat::open(folder.path()).unwrap_err().to_string().contains("has 13 bands, the first image 3"));
    }
}
