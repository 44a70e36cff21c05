//! Spectral indices.

/// An index of vegetation, water, soil or burnt ground, from the reflectance in a few bands, in 0 to 1.
///
/// `N` is near infrared, `R` red, `G` green, `B` blue, `S1` and `S2` are the short-wave infrared bands at
/// 1.6 and 2.2 µm (Sentinel-2's B08, B04, B03, B02, B11 and B12).
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let scene = Scene::sample()?;
/// let water = scene.index(SpectralIndex::Ndwi)?;
/// assert_eq!(water.dims(), [300, 300]);
/// // The sample has no band in the short-wave infrared.
/// let missing = scene.index(SpectralIndex::Nbr).unwrap_err();
/// assert!(missing.to_string().contains("swir2"));
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SpectralIndex {
    /// Normalised difference vegetation index, `(N - R) / (N + R)`: above 0.5 dense vegetation (Rouse et al.
    /// 1974).
    Ndvi,
    /// The same with green, `(N - G) / (N + G)`: sensitive to chlorophyll (Gitelson et al. 1996).
    Gndvi,
    /// Enhanced vegetation index, `2.5 (N - R) / (N + 6 R - 7.5 B + 1)`: does not saturate so soon (Huete
    /// et al. 2002).
    Evi,
    /// EVI of two bands, `2.5 (N - R) / (N + 2.4 R + 1)` (Jiang et al. 2008).
    Evi2,
    /// Soil-adjusted vegetation index, `1.5 (N - R) / (N + R + 0.5)` (Huete 1988).
    Savi,
    /// Modified SAVI, `(2 N + 1 - √((2 N + 1)² - 8 (N - R))) / 2` (Qi et al. 1994).
    Msavi,
    /// Normalised difference water index, `(G - N) / (G + N)`: above 0 open water (McFeeters 1996).
    Ndwi,
    /// Modified NDWI, `(G - S1) / (G + S1)`: tells water from buildings; also the index of snow (Xu 2006).
    Mndwi,
    /// Normalised difference moisture index, `(N - S1) / (N + S1)`: water in leaves (Gao 1996).
    Ndmi,
    /// Normalised burn ratio, `(N - S2) / (N + S2)`: falls where it has burnt (García and Caselles 1991).
    Nbr,
    /// Normalised difference built-up index, `(S1 - N) / (S1 + N)` (Zha et al. 2003).
    Ndbi,
    /// Bare soil index, `((S1 + R) - (N + B)) / ((S1 + R) + (N + B))` (Rikimaru et al. 2002).
    Bsi,
}

/// `(a - b) / (a + b)`.
pub(super) fn difference(a: f32, b: f32) -> f32 {
    (a - b) / (a + b)
}

impl SpectralIndex {
    /// The bands that the index is made of.
    pub fn bands(self) -> &'static [&'static str] {
        match self {
            Self::Ndvi | Self::Evi2 | Self::Savi | Self::Msavi => &["nir", "red"],
            Self::Gndvi | Self::Ndwi => &["nir", "green"],
            Self::Evi => &["nir", "red", "blue"],
            Self::Mndwi => &["green", "swir1"],
            Self::Ndmi | Self::Ndbi => &["nir", "swir1"],
            Self::Nbr => &["nir", "swir2"],
            Self::Bsi => &["nir", "red", "blue", "swir1"],
        }
    }

    /// The index of one pixel, whose reflectances stand in the order of [`SpectralIndex::bands`].
    pub(super) fn value(self, bands: &[f32]) -> f32 {
        match (self, bands) {
            (Self::Ndvi | Self::Gndvi | Self::Ndmi | Self::Nbr | Self::Mndwi, &[a, b]) => difference(a, b),
            (Self::Ndwi | Self::Ndbi, &[n, other]) => difference(other, n),
            (Self::Evi, &[n, r, b]) => 2.5 * (n - r) / (n + 6.0 * r - 7.5 * b + 1.0),
            (Self::Evi2, &[n, r]) => 2.5 * (n - r) / (n + 2.4 * r + 1.0),
            (Self::Savi, &[n, r]) => 1.5 * (n - r) / (n + r + 0.5),
            (Self::Msavi, &[n, r]) => {
                let twice = 2.0 * n + 1.0;
                0.5 * (twice - (twice * twice - 8.0 * (n - r)).sqrt())
            }
            (Self::Bsi, &[n, r, b, s]) => difference(s + r, n + b),
            _ => f32::NAN,
        }
    }
}
