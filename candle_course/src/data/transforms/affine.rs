//! Random rotation, shift, scale and shear.

use super::{BatchPosition, Geometry, PerImage, Transform, edit_batch};
use crate::data::Batch;
use crate::error::{Error, Result};
use crate::random::Generator;
use crate::setters::setters;

/// Rotates, shifts, scales and shears every image at random, around its centre.
///
/// Images are interpolated bilinearly; masks, of whatever dtype, take the nearest pixel and so keep their
/// values. What comes from outside is 0, in masks too, where that is a class: with
/// [`outside`](RandomAffineBuilder::outside) the corners get the label that loss and metrics ignore, with
/// [`fill`](RandomAffineBuilder::fill) images another value.
///
/// # Examples
///
/// ```
/// use candle_course::data::{DataLoader, Mnist, RandomAffine};
///
/// let affine = RandomAffine::builder(7).degrees(15.0).translate(0.1).scale(0.9, 1.1).build()?;
/// let images = Mnist::builder().sample().quiet().load()?.train();
/// let loader = DataLoader::builder(images).batch_size(32).transform(affine).build()?;
/// assert_eq!(loader.epoch(0)?.next().unwrap()?.inputs.dims(), [32, 1, 28, 28]);
/// # Ok::<(), candle_course::error::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct RandomAffine {
    degrees: f64,
    translate: f64,
    scale: (f64, f64),
    shear: f64,
    fill: f32,
    outside: i64,
    seed: u64,
}

/// From an output pixel to where it comes from: `source = matrix · (x, y) + offset`, all relative
/// to the centre.
#[derive(Debug, Clone, Copy)]
pub(super) struct Inverse {
    matrix: [f64; 4],
    offset: [f64; 2],
}

/// Configures a [`RandomAffine`].
#[derive(Debug, Clone)]
pub struct RandomAffineBuilder(RandomAffine);

impl RandomAffine {
    /// Draws from `seed`; every range is empty unless told otherwise.
    pub fn builder(seed: u64) -> RandomAffineBuilder {
        RandomAffineBuilder(Self {
            degrees: 0.0,
            translate: 0.0,
            scale: (1.0, 1.0),
            shear: 0.0,
            fill: 0.0,
            outside: 0,
            seed: Generator::derive(seed, Self::NAME).next_u64(),
        })
    }

    fn inverse(degrees: f64, shear: f64, scale: f64, offset: [f64; 2]) -> Inverse {
        // Image rows grow downwards, so a counter-clockwise turn has the angle's sign reversed.
        let (sin, cos) = (-degrees.to_radians()).sin_cos();
        let shear = shear.to_radians().tan();
        // forward = rotation · shear · scale; its inverse in closed form.
        let (a, b) = (cos * scale, (cos * shear - sin) * scale);
        let (c, d) = (sin * scale, (sin * shear + cos) * scale);
        let determinant = a * d - b * c;
        let matrix = [d / determinant, -b / determinant, -c / determinant, a / determinant];
        Inverse {
            matrix,
            offset: [
                -(matrix[0] * offset[0] + matrix[1] * offset[1]),
                -(matrix[2] * offset[0] + matrix[3] * offset[1]),
            ],
        }
    }
}

impl RandomAffineBuilder {
    setters! {
        /// Rotation, uniform in `-degrees..degrees`; positive turns counter-clockwise.
        degrees(degrees: f64) => 0.degrees = degrees;
        /// Shift, uniform in ± this fraction of height and width.
        translate(fraction: f64) => 0.translate = fraction;
        /// Scale, uniform in `low..high`; 2 doubles the size.
        scale(low: f64, high: f64) => 0.scale = (low, high);
        /// Horizontal shear, uniform in `-degrees..degrees`.
        shear(degrees: f64) => 0.shear = degrees;
        /// The value of image pixels that come from outside (default 0).
        fill(value: f32) => 0.fill = value;
        /// The label of mask pixels that come from outside (default 0): `ignore_index` of the loss, say.
        outside(label: i64) => 0.outside = label;
    }

    /// The transform.
    ///
    /// # Errors
    /// If a range is negative, not finite, or (scale) not positive and in order.
    pub fn build(self) -> Result<RandomAffine> {
        for (name, value, limit) in
            [("degrees", self.0.degrees, 360.0), ("translate", self.0.translate, 1.0), ("shear", self.0.shear, 89.0)]
        {
            if !(0.0..=limit).contains(&value) {
                return Err(Error::argument(name, format!("0 to {limit}"), value));
            }
        }
        let (low, high) = self.0.scale;
        if !(low > 0.0 && low <= high && high.is_finite()) {
            return Err(Error::argument("scale", "0 < low <= high", format!("{low} to {high}")));
        }
        Ok(self.0)
    }
}

impl Inverse {
    /// Where `(x, y)` of an `[h, w]` image comes from.
    fn source(&self, x: usize, y: usize, [h, w]: [usize; 2]) -> (f64, f64) {
        let (cx, cy) = ((w as f64 - 1.0) / 2.0, (h as f64 - 1.0) / 2.0);
        let (x, y) = (x as f64 - cx, y as f64 - cy);
        let [a, b, c, d] = self.matrix;
        (a * x + b * y + self.offset[0] + cx, c * x + d * y + self.offset[1] + cy)
    }
}

impl Geometry for RandomAffine {
    type Draw = Inverse;
    const NAME: &'static str = "random affine";

    fn draw(&self, position: &BatchPosition, row: usize, [h, w]: [usize; 2]) -> Inverse {
        let mut generator = position.generator(self.seed, row);
        let mut within = |low: f64, high: f64| low + (high - low) * generator.uniform();
        let degrees = within(-self.degrees, self.degrees);
        let shear = within(-self.shear, self.shear);
        let scale = within(self.scale.0, self.scale.1);
        let offset =
            [within(-self.translate, self.translate) * w as f64, within(-self.translate, self.translate) * h as f64];
        Self::inverse(degrees, shear, scale, offset)
    }

    fn values(&self, inverse: &Inverse, plane: &[f32], out: &mut [f32], size: [usize; 2]) {
        let [h, w] = size;
        let pixel = |x: f64, y: f64| {
            if x < 0.0 || y < 0.0 || x >= w as f64 || y >= h as f64 {
                self.fill
            } else {
                plane[y as usize * w + x as usize]
            }
        };
        for y in 0..h {
            for x in 0..w {
                let (from_x, from_y) = inverse.source(x, y, size);
                let (x0, y0) = (from_x.floor(), from_y.floor());
                let (fx, fy) = ((from_x - x0) as f32, (from_y - y0) as f32);
                let top = pixel(x0, y0) * (1.0 - fx) + pixel(x0 + 1.0, y0) * fx;
                let bottom = pixel(x0, y0 + 1.0) * (1.0 - fx) + pixel(x0 + 1.0, y0 + 1.0) * fx;
                out[y * w + x] = top * (1.0 - fy) + bottom * fy;
            }
        }
    }

    fn labels<T: Copy>(&self, inverse: &Inverse, plane: &[T], out: &mut [T], size: [usize; 2]) {
        let [h, w] = size;
        for y in 0..h {
            for x in 0..w {
                let (from_x, from_y) = inverse.source(x, y, size);
                let (from_x, from_y) = (from_x.round(), from_y.round());
                let inside = from_x >= 0.0 && from_y >= 0.0 && from_x < w as f64 && from_y < h as f64;
                if inside {
                    out[y * w + x] = plane[from_y as usize * w + from_x as usize];
                }
            }
        }
    }

    fn fill(&self) -> f32 {
        self.fill
    }

    fn outside(&self) -> i64 {
        self.outside
    }
}

impl Transform for RandomAffine {
    fn apply(&self, batch: Batch, position: &BatchPosition) -> Result<Batch> {
        edit_batch(&[self], batch, position)
    }

    fn per_image(&self) -> Option<&dyn PerImage> {
        Some(self)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{batch, contract};
    use super::*;

    fn still() -> RandomAffine {
        RandomAffine::builder(0).build().unwrap()
    }

    fn moved(inverse: Inverse, size: [usize; 2]) -> Vec<f32> {
        let plane: Vec<f32> = (1..=size[0] * size[1]).map(|x| x as f32).collect();
        let mut out = vec![0.0; plane.len()];
        still().values(&inverse, &plane, &mut out, size);
        let labels: Vec<u32> = plane.iter().map(|&x| x as u32).collect();
        let mut out_labels = vec![0; plane.len()];
        still().labels(&inverse, &labels, &mut out_labels, size);
        // Where source pixels are hit exactly, interpolation and nearest pixel agree.
        assert!(
            out.iter().zip(&out_labels).all(|(&value, &label)| (value - label as f32).abs() < 1e-4),
            "{out:?} {out_labels:?}"
        );
        out.iter().map(|x| x.round()).collect()
    }

    #[test]
    fn exact_movements_are_exact() {
        let inverse = RandomAffine::inverse;
        assert_eq!(moved(inverse(0.0, 0.0, 1.0, [0.0, 0.0]), [2, 3]), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        // Counter-clockwise, as numpy.rot90.
        assert_eq!(moved(inverse(90.0, 0.0, 1.0, [0.0, 0.0]), [2, 2]), [2.0, 4.0, 1.0, 3.0]);
        // One to the right and one down.
        assert_eq!(moved(inverse(0.0, 0.0, 1.0, [1.0, 1.0]), [2, 3]), [0.0, 0.0, 0.0, 0.0, 1.0, 2.0]);
        // Half the size: every second pixel of five, around the centre.
        let half = moved(inverse(0.0, 0.0, 0.5, [0.0, 0.0]), [5, 5]);
        assert_eq!(half[6..9], [1.0, 3.0, 5.0]);
        assert_eq!(half[0], 0.0);
        // A shear of 45 degrees moves a row by its distance from the centre row.
        assert_eq!(moved(inverse(0.0, 45.0, 1.0, [0.0, 0.0]), [3, 3]), [2.0, 3.0, 0.0, 4.0, 5.0, 6.0, 0.0, 7.0, 8.0]);
    }

    #[test]
    fn corners_of_a_mask_get_the_label_of_what_is_outside() {
        let turned = RandomAffine::inverse(45.0, 0.0, 1.0, [0.0, 0.0]);
        let (plane, size) = ([1u32; 49], [7, 7]);
        for (affine, label) in [(still(), 0), (RandomAffine::builder(0).outside(255).build().unwrap(), 255)] {
            let mut out = [affine.outside() as u32; 49];
            affine.labels(&turned, &plane, &mut out, size);
            assert_eq!([out[0], out[6], out[42], out[48]], [label; 4]);
            assert_eq!(out[24], 1);
            assert!(out.iter().all(|&found| found == 1 || found == label));
        }
    }

    #[test]
    fn between_pixels_values_are_interpolated() {
        let half = RandomAffine::inverse(0.0, 0.0, 1.0, [0.5, 0.0]);
        let mut out = [0.0; 3];
        still().values(&half, &[2.0, 4.0, 8.0], &mut out, [1, 3]);
        assert_eq!(out, [1.0, 3.0, 6.0]);
    }

    #[test]
    fn draws_follow_the_contract_and_ranges_are_checked() {
        let affine = RandomAffine::builder(1).degrees(30.0).translate(0.2).scale(0.8, 1.2).shear(10.0).build().unwrap();
        contract(&affine, &batch([8, 1, 6, 6], false), true);
        for bad in [
            RandomAffine::builder(1).degrees(-1.0),
            RandomAffine::builder(1).degrees(f64::NAN),
            RandomAffine::builder(1).translate(1.5),
            RandomAffine::builder(1).scale(0.0, 1.0),
            RandomAffine::builder(1).scale(1.2, 0.8),
            RandomAffine::builder(1).shear(90.0),
        ] {
            assert!(bad.build().is_err());
        }
    }
}
