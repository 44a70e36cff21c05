//! Rasters of many bands in TIFF files, with the place on Earth that GeoTIFF's tags give them.

mod georeference;
mod metadata;
mod read;
#[cfg(test)]
mod tests;
mod write;

use crate::error::Result;
use crate::sizes;

pub use georeference::Georeference;
pub(super) use read::{Window, read, read_part};
pub(super) use write::write;

/// The values of all bands, `[C, H, W]`, as the file has them.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Samples {
    U8(Vec<u8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    F32(Vec<f32>),
}

/// The type of a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    U8,
    U16,
    I16,
    F32,
}

impl Kind {
    /// TIFF's sample format and bits.
    const ALL: [(Kind, u16, u16); 4] = [(Kind::U8, 1, 8), (Kind::U16, 1, 16), (Kind::I16, 2, 16), (Kind::F32, 3, 32)];

    pub fn bytes(self) -> usize {
        match self {
            Kind::U8 => 1,
            Kind::U16 | Kind::I16 => 2,
            Kind::F32 => 4,
        }
    }
}

/// `match` over the type of samples, with the same words for each.
macro_rules! each_kind {
    ($samples:expr, $values:ident => $body:expr) => {
        match $samples {
            $crate::data::geotiff::Samples::U8($values) => $body,
            $crate::data::geotiff::Samples::U16($values) => $body,
            $crate::data::geotiff::Samples::I16($values) => $body,
            $crate::data::geotiff::Samples::F32($values) => $body,
        }
    };
}

impl Samples {
    /// `count` times `value`, as near to it as the type comes.
    fn filled(kind: Kind, value: f64, count: usize) -> Result<Self> {
        Ok(match kind {
            Kind::U8 => Samples::U8(sizes::filled("the scene", value as u8, count)?),
            Kind::U16 => Samples::U16(sizes::filled("the scene", value as u16, count)?),
            Kind::I16 => Samples::I16(sizes::filled("the scene", value as i16, count)?),
            Kind::F32 => Samples::F32(sizes::filled("the scene", value as f32, count)?),
        })
    }

    pub fn kind(&self) -> Kind {
        match self {
            Samples::U8(_) => Kind::U8,
            Samples::U16(_) => Kind::U16,
            Samples::I16(_) => Kind::I16,
            Samples::F32(_) => Kind::F32,
        }
    }

    /// The value at `index`: every type fits.
    pub fn get(&self, index: usize) -> f32 {
        each_kind!(self, values => f32::from(values[index]))
    }
}

/// What a file says of one band.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Band {
    pub name: Option<String>,
    /// Physical value = stored value · scale + offset.
    pub scale: f64,
    pub offset: f64,
}

impl Default for Band {
    fn default() -> Self {
        Self { name: None, scale: 1.0, offset: 0.0 }
    }
}

/// A raster in memory.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Raster {
    pub samples: Samples,
    /// Bands, height, width.
    pub size: [usize; 3],
    pub bands: Vec<Band>,
    /// The stored value of pixels that have none.
    pub nodata: Option<f64>,
    pub georeference: Option<Georeference>,
}
