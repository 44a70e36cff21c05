//! Smooth random fields.

use crate::random::Generator;

/// Value noise: random values on a grid, interpolated smoothly; octaves add finer and fainter
/// grids.
pub(super) struct Noise {
    values: Vec<f32>,
    order: Vec<usize>,
}

const PERIOD: usize = 256;

impl Noise {
    pub fn new(generator: &mut Generator) -> Self {
        Self { values: (0..PERIOD).map(|_| generator.uniform() as f32).collect(), order: generator.permutation(PERIOD) }
    }

    fn lattice(&self, x: i32, y: i32) -> f32 {
        let wrap = |i: i32| i.rem_euclid(PERIOD as i32) as usize;
        self.values[self.order[(self.order[wrap(x)] + wrap(y)) % PERIOD]]
    }

    fn smooth(&self, x: f32, y: f32) -> f32 {
        let (x0, y0) = (x.floor(), y.floor());
        let fade = |t: f32| t * t * t * (t * (t * 6.0 - 15.0) + 10.0);
        let (u, v) = (fade(x - x0), fade(y - y0));
        let (x0, y0) = (x0 as i32, y0 as i32);
        let mix = |a: f32, b: f32, t: f32| a + t * (b - a);
        mix(
            mix(self.lattice(x0, y0), self.lattice(x0 + 1, y0), u),
            mix(self.lattice(x0, y0 + 1), self.lattice(x0 + 1, y0 + 1), u),
            v,
        )
    }

    /// The field at `(x, y)`, about 0 to 1, mean 1/2.
    pub fn at(&self, x: f32, y: f32, octaves: usize) -> f32 {
        let (mut sum, mut weight, mut total, mut scale) = (0.0, 1.0, 0.0, 1.0);
        for octave in 0..octaves {
            let shift = octave as f32 * 17.3;
            sum += weight * self.smooth(x * scale + shift, y * scale - shift);
            total += weight;
            weight *= 0.5;
            scale *= 2.0;
        }
        sum / total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_field_is_smooth_and_in_range() {
        let noise = Noise::new(&mut Generator::new(1));
        let mut last = noise.at(0.0, 0.3, 4);
        for step in 1..2000 {
            let value = noise.at(step as f32 * 0.005, 0.3, 4);
            assert!((0.0..=1.0).contains(&value));
            assert!((value - last).abs() < 0.06, "a jump at {step}");
            last = value;
        }
    }
}
