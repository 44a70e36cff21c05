//! Where on Earth a raster lies.

use crate::error::{Error, Result};

// Keys of the GeoTIFF standard (OGC 19-008r4).
const MODEL_TYPE: u16 = 1024;
const RASTER_TYPE: u16 = 1025;
const GEODETIC: u16 = 2048;
const PROJECTED: u16 = 3072;

const PIXEL_IS_AREA: u16 = 1;
const PIXEL_IS_POINT: u16 = 2;
/// From here on codes are the user's own.
const USER_DEFINED: u16 = 32_767;

/// Where on Earth the pixels of a [`Scene`](crate::data::Scene) lie, and in which projection.
///
/// A map coordinate is `x = transform[0] + column · transform[1] + row · transform[2]` and
/// `y = transform[3] + column · transform[4] + row · transform[5]`, GDAL's order; row and column 0 are
/// the outer corner of the first pixel. Projections are named by their EPSG code; one that a file
/// describes in other words goes through unchanged.
///
/// # Examples
///
/// ```
/// use candle_course::data::Georeference;
///
/// // Pixels of 10 m in UTM zone 23 south; the north-western corner lies at 300 km east, 7,500 km north.
/// let place = Georeference::projected(32_723, [300_000.0, 7_500_000.0], [10.0, 10.0])?;
/// assert_eq!(place.epsg(), Some(32_723));
/// assert_eq!(place.at(2.0, 5.0), [300_050.0, 7_499_980.0]);
/// # Ok::<(), candle_course::error::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Georeference {
    transform: [f64; 6],
    /// The key directory, its header included, and the numbers and the text that it points into.
    directory: Vec<u16>,
    doubles: Vec<f64>,
    text: String,
}

impl Georeference {
    /// North at the top, in the projected coordinate system `epsg` (a UTM zone, say): map coordinates of
    /// the north-western corner, and width and height of a pixel, in the system's unit.
    ///
    /// # Errors
    /// If the code is none of EPSG's, a number is not finite, or a pixel has no size.
    pub fn projected(epsg: u32, corner: [f64; 2], pixel: [f64; 2]) -> Result<Self> {
        Self::north_up(PROJECTED, 1, epsg, corner, pixel)
    }

    /// North at the top, in the geographic coordinate system `epsg` (4326 is WGS 84): longitude and
    /// latitude of the north-western corner, and width and height of a pixel, in degrees.
    ///
    /// # Errors
    /// As [`Georeference::projected`].
    pub fn geographic(epsg: u32, corner: [f64; 2], pixel: [f64; 2]) -> Result<Self> {
        Self::north_up(GEODETIC, 2, epsg, corner, pixel)
    }

    fn north_up(key: u16, model: u16, epsg: u32, corner: [f64; 2], pixel: [f64; 2]) -> Result<Self> {
        let Some(code) = u16::try_from(epsg).ok().filter(|code| (1024..USER_DEFINED).contains(code)) else {
            return Err(Error::argument("epsg", "a code from 1024 to 32766", epsg));
        };
        if !pixel.iter().all(|side| *side > 0.0 && side.is_finite()) || !corner.iter().all(|place| place.is_finite()) {
            let got = format!("the corner {corner:?} and pixels of {pixel:?}");
            return Err(Error::argument("corner, pixel", "finite numbers and pixels above 0", got));
        }
        let directory = vec![1, 1, 0, 3, MODEL_TYPE, 0, 1, model, RASTER_TYPE, 0, 1, PIXEL_IS_AREA, key, 0, 1, code];
        let transform = [corner[0], pixel[0], 0.0, corner[1], 0.0, -pixel[1]];
        Ok(Self { transform, directory, doubles: vec![], text: String::new() })
    }

    /// From the tags of a file: the six numbers of the transform as the file means them, and the keys.
    pub(super) fn from_tags(
        mut transform: [f64; 6],
        directory: Vec<u16>,
        doubles: Vec<f64>,
        text: String,
    ) -> Result<Self> {
        let [_, a, b, _, c, d] = transform;
        if !transform.iter().all(|number| number.is_finite()) || a * d - b * c == 0.0 {
            return Err(Error::data(format!("the georeference {transform:?} gives pixels no place")));
        }
        let mut place = Self { transform, directory, doubles, text };
        if place.key(RASTER_TYPE) == Some(PIXEL_IS_POINT) {
            // Such coordinates are those of the first pixel's centre.
            transform[0] -= 0.5 * (a + b);
            transform[3] -= 0.5 * (c + d);
            place.transform = transform;
            let entries = place.directory.get_mut(4..).unwrap_or_default();
            if let Some(entry) = entries.chunks_exact_mut(4).find(|entry| entry[0] == RASTER_TYPE) {
                entry[3] = PIXEL_IS_AREA;
            }
        }
        Ok(place)
    }

    /// A key's value, where it stands in the directory itself.
    fn key(&self, key: u16) -> Option<u16> {
        let count = usize::from(*self.directory.get(3)?);
        let entries = self.directory[4..].chunks_exact(4).take(count);
        entries.filter(|entry| entry[0] == key && entry[1] == 0).map(|entry| entry[3]).next()
    }

    /// The code of the coordinate system, if the file names it by one.
    pub fn epsg(&self) -> Option<u32> {
        let code = self.key(PROJECTED).or_else(|| self.key(GEODETIC))?;
        (1024..USER_DEFINED).contains(&code).then_some(u32::from(code))
    }

    /// From pixels to map coordinates, in GDAL's order.
    pub fn transform(&self) -> [f64; 6] {
        self.transform
    }

    /// The map coordinates of a place in the raster: whole numbers are corners of pixels, the centre of
    /// the first is `at(0.5, 0.5)`.
    pub fn at(&self, row: f64, column: f64) -> [f64; 2] {
        let [x, a, b, y, c, d] = self.transform;
        [x + column * a + row * b, y + column * c + row * d]
    }

    /// Of a part of the raster that begins at this pixel.
    pub(in crate::data) fn part_at(&self, row: usize, column: usize) -> Self {
        let mut part = self.clone();
        [part.transform[0], part.transform[3]] = self.at(row as f64, column as f64);
        part
    }

    pub(super) fn keys(&self) -> (&[u16], &[f64], &str) {
        (&self.directory, &self.doubles, &self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_those_of_corners() {
        let place = Georeference::geographic(4326, [-46.5, -23.0], [0.001, 0.002]).unwrap();
        assert_eq!((place.epsg(), place.transform()), (Some(4326), [-46.5, 0.001, 0.0, -23.0, 0.0, -0.002]));
        assert_eq!(place.part_at(10, 20).at(0.0, 0.0), place.at(10.0, 20.0));
        // A point of the standard lies in the middle of its pixel.
        let directory = |kind| vec![1, 1, 0, 2, 1025, 0, 1, kind, 3072, 0, 1, 31983];
        let point = Georeference::from_tags([100.0, 10.0, 0.0, 200.0, 0.0, -10.0], directory(2), vec![], String::new());
        let point = point.unwrap();
        assert_eq!((point.at(0.0, 0.0), point.at(0.5, 0.5)), ([95.0, 205.0], [100.0, 200.0]));
        assert_eq!(point.keys().0, directory(1));
    }

    #[test]
    fn what_is_no_place_is_refused() {
        for (epsg, corner, pixel) in [
            (0, [0.0; 2], [1.0; 2]),
            (32_767, [0.0; 2], [1.0; 2]),
            (1 << 20, [0.0; 2], [1.0; 2]),
            (4326, [f64::NAN, 0.0], [1.0; 2]),
            (4326, [0.0; 2], [1.0, 0.0]),
            (4326, [0.0; 2], [f64::INFINITY, 1.0]),
        ] {
            assert!(Georeference::projected(epsg, corner, pixel).is_err(), "{epsg} {corner:?} {pixel:?}");
        }
        let tags = |transform| Georeference::from_tags(transform, vec![], vec![], String::new());
        assert!(tags([0.0, 1.0, 1.0, 0.0, 1.0, 1.0]).unwrap_err().to_string().contains("no place"));
        assert!(tags([f64::NAN, 1.0, 0.0, 0.0, 0.0, 1.0]).is_err());
        assert_eq!(tags([0.0, 1.0, 0.0, 0.0, 0.0, 1.0]).unwrap().epsg(), None);
        // A directory that promises more than it has.
        let short =
            Georeference::from_tags([0.0, 1.0, 0.0, 0.0, 0.0, 1.0], vec![1, 1, 0, 9, 3072, 0], vec![], String::new());
        assert_eq!(short.unwrap().epsg(), None);
    }
}
