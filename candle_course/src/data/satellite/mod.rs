//! Synthetic satellite images: land cover, clouds and shadows with their masks.

mod landscape;
mod noise;

use candle_core::{D, Device, Tensor};
use rayon::prelude::*;

use crate::data::{Dataset, Example, TensorDataset};
use crate::error::{Context, Error, Result};
use crate::setters::setters;

use landscape::Landscape;

/// What a [`Satellite`] example asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SatelliteTarget {
    /// The class of every pixel, `[H, W]`, u32: semantic segmentation.
    Mask,
    /// Where one class is, `[1, H, W]`, f32, 0 or 1: binary segmentation.
    Class(u32),
    /// The share of every class in the tile, `[7]`, f32: for multi-task lessons.
    Fractions,
    /// Mean biomass of the land, `[1]`, f32, tonnes per hectare: regression. Grows with the
    /// vegetation under the clouds, which hide a part of it.
    Biomass,
}

/// Synthetic multi-band satellite tiles, each a pure function of the seed and its index.
///
/// `inputs`: `[4, H, W]`, f32, surface reflectance in the bands blue, green, red and near
/// infrared, about 0 to 1. Rivers and lakes, forest, a mosaic of fields, settlements, roads; over
/// them clouds and their shadows. Classes differ in frequency as they do in the world: roads are
/// rare and thin, forest is not.
///
/// # Examples
///
/// ```
/// use candle_course::data::{Dataset, Satellite, ndvi};
///
/// let tiles = Satellite::builder(100).size(64).seed(42).build()?;
/// let tile = tiles.get(0)?;
/// assert_eq!(tile.input.dims(), [4, 64, 64]);
/// assert_eq!(tile.target.dims(), [64, 64]);
/// assert_eq!(ndvi(&tile.input)?.dims(), [64, 64]);
/// # Ok::<(), candle_course::error::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Satellite {
    tiles: usize,
    size: usize,
    seed: u64,
    target: SatelliteTarget,
    clouds: bool,
}

impl Satellite {
    /// The classes of the mask, in order.
    pub const CLASS_NAMES: [&'static str; 7] = ["water", "forest", "crops", "urban", "road", "cloud", "shadow"];

    /// A colour for every class, red, green and blue in 0 to 1, to draw masks with: see
    /// [`ImageGrid::class_colors`](crate::plot::ImageGrid::class_colors).
    pub const CLASS_COLORS: [[f32; 3]; 7] = [
        [0.13, 0.44, 0.71],
        [0.10, 0.42, 0.18],
        [0.85, 0.76, 0.36],
        [0.80, 0.25, 0.22],
        [0.25, 0.25, 0.27],
        [0.96, 0.96, 0.96],
        [0.45, 0.38, 0.58],
    ];

    /// `tiles` tiles of 64×64 pixels from seed 0 with masks, unless told otherwise.
    pub fn builder(tiles: usize) -> SatelliteBuilder {
        SatelliteBuilder(Satellite { tiles, size: 64, seed: 0, target: SatelliteTarget::Mask, clouds: true })
    }

    /// The class of every pixel of tile `index`, `[H, W]`, u32, whatever the target.
    ///
    /// # Errors
    /// If `index` is out of range.
    pub fn mask(&self, index: usize) -> Result<Tensor> {
        let landscape = self.landscape(index)?;
        Ok(Tensor::from_vec(landscape.mask, (self.size, self.size), &Device::Cpu)?)
    }

    /// All tiles in memory, made by all processors: for training over many epochs.
    ///
    /// # Errors
    /// If the tensors cannot be allocated.
    pub fn to_tensors(&self) -> Result<TensorDataset> {
        let examples: Vec<Example> =
            (0..self.tiles).into_par_iter().map(|index| self.get(index)).collect::<Result<_>>()?;
        let inputs: Vec<_> = examples.iter().map(|example| &example.input).collect();
        let targets: Vec<_> = examples.iter().map(|example| &example.target).collect();
        TensorDataset::new(Tensor::stack(&inputs, 0)?, Tensor::stack(&targets, 0)?)
            .context("cannot keep the tiles in memory")
    }

    fn landscape(&self, index: usize) -> Result<Landscape> {
        if index >= self.tiles {
            return Err(Error::argument("index", format!("less than {}", self.tiles), index));
        }
        Ok(Landscape::new(self.size, self.seed, index, self.clouds))
    }
}

/// Configures a [`Satellite`].
#[derive(Debug, Clone)]
pub struct SatelliteBuilder(Satellite);

impl SatelliteBuilder {
    setters! {
        /// Height and width of a tile in pixels.
        size(size: usize) => 0.size = size;
        /// Which landscapes.
        seed(seed: u64) => 0.seed = seed;
        /// What is asked of the model.
        target(target: SatelliteTarget) => 0.target = target;
        /// Whether there are clouds and shadows.
        clouds(clouds: bool) => 0.clouds = clouds;
    }

    /// The data set.
    ///
    /// # Errors
    /// If there are no tiles, a tile is smaller than 16 pixels, or the target class does not exist.
    pub fn build(self) -> Result<Satellite> {
        let set = self.0;
        if set.tiles == 0 {
            return Err(Error::argument("tiles", "at least 1", 0));
        }
        if !(16..=1024).contains(&set.size) {
            return Err(Error::argument("size", "16 to 1024 pixels", set.size));
        }
        if let SatelliteTarget::Class(class) = set.target
            && class as usize >= Satellite::CLASS_NAMES.len()
        {
            return Err(Error::argument("target", format!("a class below {}", Satellite::CLASS_NAMES.len()), class));
        }
        Ok(set)
    }
}

impl Dataset for Satellite {
    fn len(&self) -> usize {
        self.tiles
    }

    fn get(&self, index: usize) -> Result<Example> {
        let landscape = self.landscape(index)?;
        let size = self.size;
        let target = match self.target {
            SatelliteTarget::Mask => Tensor::from_vec(landscape.mask, (size, size), &Device::Cpu)?,
            SatelliteTarget::Class(class) => {
                let mask: Vec<f32> = landscape.mask.iter().map(|&c| f32::from(u8::from(c == class))).collect();
                Tensor::from_vec(mask, (1, size, size), &Device::Cpu)?
            }
            SatelliteTarget::Fractions => {
                let mut shares = [0f32; Satellite::CLASS_NAMES.len()];
                landscape.mask.iter().for_each(|&class| shares[class as usize] += 1.0 / (size * size) as f32);
                Tensor::new(&shares, &Device::Cpu)?
            }
            SatelliteTarget::Biomass => Tensor::new(&[landscape.biomass], &Device::Cpu)?,
        };
        Ok(Example { input: Tensor::from_vec(landscape.bands, (4, size, size), &Device::Cpu)?, target })
    }
}

fn check_bands(bands: &Tensor) -> Result<()> {
    match bands.dims() {
        [.., 4, _, _] => Ok(()),
        dims => Err(Error::argument("bands", "[…, 4, H, W]: blue, green, red, near infrared", format!("{dims:?}"))),
    }
}

/// The normalised difference vegetation index, `(nir - red) / (nir + red)`, -1 to 1: above 0.5 is
/// dense vegetation, near 0 soil and concrete, below 0 water (Rouse et al. 1974).
///
/// `bands`: `[…, 4, H, W]`, blue, green, red, near infrared. Gives `[…, H, W]`.
///
/// # Errors
/// If there are not four bands.
pub fn ndvi(bands: &Tensor) -> Result<Tensor> {
    check_bands(bands)?;
    let band = |index: usize| bands.narrow(D::Minus(3), index, 1)?.squeeze(D::Minus(3));
    let (red, nir) = (band(2)?, band(3)?);
    // Two perfectly dark bands would divide by zero.
    Ok(((&nir - &red)? / ((nir + red)? + 1e-6)?)?)
}

/// True colours for display: red, green and blue, stretched and with gamma, `[…, 3, H, W]` in 0 to
/// 1.
///
/// # Errors
/// If there are not four bands.
pub fn true_color(bands: &Tensor) -> Result<Tensor> {
    composite(bands, [2, 1, 0], 0.32)
}

/// The false colours of remote sensing: near infrared, red and green shown as red, green and blue,
/// so that vegetation glows red; `[…, 3, H, W]` in 0 to 1.
///
/// # Errors
/// If there are not four bands.
pub fn false_color(bands: &Tensor) -> Result<Tensor> {
    composite(bands, [3, 2, 1], 0.5)
}

fn composite(bands: &Tensor, order: [usize; 3], white: f64) -> Result<Tensor> {
    check_bands(bands)?;
    let channels = order.map(|band| bands.narrow(D::Minus(3), band, 1));
    let [a, b, c] = channels;
    let image = Tensor::cat(&[a?, b?, c?], D::Minus(3))?;
    Ok((image / white)?.clamp(0.0, 1.0)?.powf(0.65)?)
}

#[cfg(test)]
mod tests {
    use candle_core::DType;

    use super::*;

    #[test]
    fn tiles_are_pure_in_seed_and_index() {
        let tile = |seed: u64, index: usize| {
            let set = Satellite::builder(9).size(32).seed(seed).build().unwrap();
            set.get(index).unwrap().input.flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        assert_eq!(tile(1, 4), tile(1, 4));
        assert_ne!(tile(1, 4), tile(1, 5));
        assert_ne!(tile(1, 4), tile(2, 4));
        let set = Satellite::builder(9).size(32).seed(1).build().unwrap();
        let all = set.to_tensors().unwrap();
        let fifth = all.get(4).unwrap().input.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(fifth, tile(1, 4));
    }

    #[test]
    fn every_class_occurs_rare_ones_rarely_and_spectra_are_physical() {
        let set = Satellite::builder(60).size(64).seed(3).build().unwrap();
        let all = set.to_tensors().unwrap();
        let mask: Vec<u32> = all.targets().flatten_all().unwrap().to_vec1().unwrap();
        let share = |class: u32| mask.iter().filter(|&&c| c == class).count() as f64 / mask.len() as f64;
        for class in 0..7 {
            assert!(
                (0.005..0.6).contains(&share(class)),
                "{} {}",
                Satellite::CLASS_NAMES[class as usize],
                share(class)
            );
        }
        assert!(share(4) < 0.1, "roads are rare");
        let bands = all.inputs();
        assert!(bands.min_all().unwrap().to_scalar::<f32>().unwrap() >= 0.0);
        assert!(bands.max_all().unwrap().to_scalar::<f32>().unwrap() <= 1.1);
        let index: Vec<f32> = ndvi(bands).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        let mean = |class: u32| {
            let values: Vec<f32> = index.iter().zip(&mask).filter(|(_, c)| **c == class).map(|(x, _)| *x).collect();
            values.iter().sum::<f32>() / values.len() as f32
        };
        assert!(
            mean(1) > 0.6 && mean(0) < 0.0 && mean(1) > mean(2) && mean(2) > mean(3),
            "{} {} {} {}",
            mean(0),
            mean(1),
            mean(2),
            mean(3)
        );
    }

    #[test]
    fn targets_agree_with_the_mask() {
        let set = |target| Satellite::builder(3).size(32).seed(5).target(target).build().unwrap();
        let mask: Vec<u32> =
            set(SatelliteTarget::Mask).get(1).unwrap().target.flatten_all().unwrap().to_vec1().unwrap();
        let forest = set(SatelliteTarget::Class(1)).get(1).unwrap().target;
        assert_eq!(forest.dims(), [1, 32, 32]);
        let forest: Vec<f32> = forest.flatten_all().unwrap().to_vec1().unwrap();
        assert!(mask.iter().zip(&forest).all(|(&class, &is)| (class == 1) == (is == 1.0)));
        let shares = set(SatelliteTarget::Fractions).get(1).unwrap().target.to_vec1::<f32>().unwrap();
        assert!((shares.iter().sum::<f32>() - 1.0).abs() < 1e-4);
        assert!((shares[1] - forest.iter().sum::<f32>() / 1024.0).abs() < 1e-4);
        let biomass: Vec<f32> =
            (0..3).map(|i| set(SatelliteTarget::Biomass).get(i).unwrap().target.to_vec1::<f32>().unwrap()[0]).collect();
        assert!(biomass.iter().all(|b| (0.0..400.0).contains(b)), "{biomass:?}");
        let clear = Satellite::builder(3).size(32).seed(5).clouds(false).build().unwrap();
        assert!((0..3).all(|i| clear.mask(i).unwrap().max_all().unwrap().to_scalar::<u32>().unwrap() < 5));
    }

    #[test]
    fn composites_are_images_and_arguments_are_checked() {
        let bands = Satellite::builder(1).build().unwrap().get(0).unwrap().input;
        for image in [true_color(&bands).unwrap(), false_color(&bands.unsqueeze(0).unwrap()).unwrap()] {
            assert_eq!(image.dims()[image.rank() - 3..], [3, 64, 64]);
            assert!(image.max_all().unwrap().to_scalar::<f32>().unwrap() <= 1.0);
        }
        let three = Tensor::zeros((3, 4, 4), DType::F32, &Device::Cpu).unwrap();
        assert!(ndvi(&three).unwrap_err().to_string().contains("[…, 4, H, W]"));
        assert!(Satellite::builder(0).build().unwrap_err().to_string().contains("`tiles`"));
        assert!(Satellite::builder(1).size(8).build().unwrap_err().to_string().contains("`size`"));
        let class = Satellite::builder(1).target(SatelliteTarget::Class(7)).build();
        assert!(class.unwrap_err().to_string().contains("a class below 7"));
        assert!(Satellite::builder(1).build().unwrap().get(1).unwrap_err().to_string().contains("less than 1"));
    }
}
