//! Classes of ground by thresholds of two indices.

use candle_core::{Device, Tensor};

use super::{Scene, SpectralIndex};
use crate::error::Result;

/// The label of pixels without data.
const IGNORED: u32 = 255;

impl Scene {
    /// The classes of [`Scene::land_cover`], in order.
    pub const LAND_COVER: [&'static str; 4] = ["water", "bare soil", "sparse vegetation", "dense vegetation"];

    /// A colour for every class of [`Scene::land_cover`]: red, green and blue in 0 to 1.
    pub const LAND_COVER_COLORS: [[f32; 3]; 4] =
        [[0.13, 0.44, 0.71], [0.76, 0.60, 0.42], [0.78, 0.82, 0.45], [0.10, 0.42, 0.18]];

    /// What covers the ground by a published rule, `[H, W]`, u32: open water where NDWI is above 0
    /// (McFeeters 1996); elsewhere bare soil where NDVI is below 0.2, dense vegetation where it is above
    /// 0.5, sparse vegetation between (the thresholds of Sobrino, Jiménez-Muñoz and Paolini 2004). 255 where
    /// there are no data.
    ///
    /// **Nobody saw the ground.** These labels are a function of the pixel's green, red and near infrared: a
    /// model that is given these bands learns the formula, and its accuracy is how well it does so. Give it
    /// other bands ([`SceneTilesBuilder::bands`](crate::data::SceneTilesBuilder::bands): the visible ones
    /// alone, say) to ask for more than the formula.
    ///
    /// # Errors
    /// If the scene lacks green, red or near infrared.
    ///
    /// # Examples
    ///
    /// ```
    /// use candle_course::data::Scene;
    ///
    /// let classes = Scene::sample()?.land_cover()?.flatten_all()?.to_vec1::<u32>()?;
    /// let share = |class: u32| classes.iter().filter(|&&c| c == class).count() as f64 / 90_000.0;
    /// assert!(share(3) > 0.4 && share(0) < 0.01, "much forest, hardly any water");
    /// # Ok::<(), candle_course::error::Error>(())
    /// ```
    pub fn land_cover(&self) -> Result<Tensor> {
        let flat = |index| -> Result<Vec<f32>> { Ok(self.index(index)?.flatten_all()?.to_vec1()?) };
        let (water, vegetation) = (flat(SpectralIndex::Ndwi)?, flat(SpectralIndex::Ndvi)?);
        let class = |(&water, &vegetation): (&f32, &f32)| match (water, vegetation) {
            (water, vegetation) if water.is_nan() || vegetation.is_nan() => IGNORED,
            (water, _) if water > 0.0 => 0,
            (_, vegetation) if vegetation < 0.2 => 1,
            (_, vegetation) if vegetation <= 0.5 => 2,
            _ => 3,
        };
        let classes: Vec<u32> = water.iter().zip(&vegetation).map(class).collect();
        Ok(Tensor::from_vec(classes, (self.height(), self.width()), &Device::Cpu)?)
    }
}
