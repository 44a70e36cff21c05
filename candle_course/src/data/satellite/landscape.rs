//! One tile: first what lies where, then what the sensor sees of it.

use crate::random::Generator;

use super::noise::Noise;

const WATER: u32 = 0;
const FOREST: u32 = 1;
const CROPS: u32 = 2;
const URBAN: u32 = 3;
const ROAD: u32 = 4;
const CLOUD: u32 = 5;
const SHADOW: u32 = 6;

/// Reflectance in blue, green, red and near infrared.
type Spectrum = [f32; 4];

const DEEP_WATER: Spectrum = [0.050, 0.048, 0.028, 0.010];
const SHALLOW_WATER: Spectrum = [0.070, 0.092, 0.062, 0.028];
const CONIFERS: Spectrum = [0.018, 0.034, 0.020, 0.230];
const BROADLEAVES: Spectrum = [0.024, 0.056, 0.026, 0.400];
const YOUNG_CROP: Spectrum = [0.040, 0.105, 0.055, 0.440];
const RIPE_CROP: Spectrum = [0.080, 0.155, 0.170, 0.330];
const BARE_SOIL: Spectrum = [0.085, 0.125, 0.180, 0.240];
const ASPHALT: Spectrum = [0.095, 0.105, 0.115, 0.130];
const CONCRETE: Spectrum = [0.200, 0.215, 0.230, 0.250];
const RED_ROOF: Spectrum = [0.090, 0.120, 0.260, 0.290];
const GARDEN: Spectrum = [0.040, 0.080, 0.050, 0.330];
const CLOUD_TOP: Spectrum = [0.780, 0.780, 0.790, 0.820];

fn mix(a: Spectrum, b: Spectrum, share: f32) -> Spectrum {
    let share = share.clamp(0.0, 1.0);
    std::array::from_fn(|band| a[band] + share * (b[band] - a[band]))
}

/// Rises from 0 at `low` to 1 at `high`.
fn step(low: f32, high: f32, x: f32) -> f32 {
    let t = ((x - low) / (high - low)).clamp(0.0, 1.0);
    t * t * (3.0 - 2.0 * t)
}

/// A number in 0 to 1 that belongs to a cell.
fn hash(a: i32, b: i32, salt: u64) -> f32 {
    Generator::stream(salt, &[a as u64, b as u64]).uniform() as f32
}

pub(super) struct Landscape {
    /// `[4, H, W]`.
    pub bands: Vec<f32>,
    /// `[H, W]`.
    pub mask: Vec<u32>,
    /// Tonnes per hectare, clouds or not.
    pub biomass: f32,
}

/// A straight road: the points at distance 0 from it.
struct Road {
    normal: (f32, f32),
    offset: f32,
    half_width: f32,
    wiggle: f32,
}

/// What a tile is made from; lengths in units of 64 pixels.
struct Plan {
    relief: Noise,
    cover: Noise,
    texture: Noise,
    sky: Noise,
    origin: (f32, f32),
    river: Option<(f32, f32, f32)>,
    lake_level: f32,
    forest_level: f32,
    town: Option<(f32, f32, f32)>,
    fields: (f32, f32, f32),
    roads: Vec<Road>,
    cloud_level: f32,
    sun: (f32, f32),
    season: f32,
    salt: u64,
}

impl Plan {
    fn new(generator: &mut Generator, clouds: bool) -> Self {
        let noise = |generator: &mut Generator| Noise::new(generator);
        let (relief, cover, texture, sky) = (noise(generator), noise(generator), noise(generator), noise(generator));
        let mut within = |low: f64, high: f64| (low + (high - low) * generator.uniform()) as f32;
        let origin = (within(0.0, 200.0), within(0.0, 200.0));
        let river = (within(0.0, 1.0) < 0.4)
            .then(|| (within(0.2, 0.8), within(0.0, std::f64::consts::PI), within(0.025, 0.07)));
        let town = (within(0.0, 1.0) < 0.55).then(|| (within(0.15, 0.85), within(0.15, 0.85), within(0.15, 0.38)));
        let fields = (within(0.0, std::f64::consts::PI), within(0.13, 0.24), within(0.08, 0.16));
        let roads = (0..1 + (within(0.0, 1.0) * 2.0) as usize)
            .map(|_| {
                let angle = within(0.0, std::f64::consts::TAU);
                let normal = (angle.cos(), angle.sin());
                let through = town.map_or((within(0.2, 0.8), within(0.2, 0.8)), |(x, y, _)| (x, y));
                Road {
                    normal,
                    offset: normal.0 * through.0 + normal.1 * through.1 + within(-0.06, 0.06),
                    half_width: within(0.010, 0.018),
                    wiggle: within(0.0, 0.10),
                }
            })
            .collect();
        let overcast = within(0.0, 1.0);
        let cloud_level = if !clouds || overcast < 0.35 { 2.0 } else { within(0.50, 0.66) };
        let angle = within(0.0, std::f64::consts::TAU);
        let height = within(0.12, 0.20);
        Self {
            relief,
            cover,
            texture,
            sky,
            origin,
            river,
            lake_level: within(0.22, 0.36),
            forest_level: within(0.42, 0.60),
            town,
            fields,
            roads,
            cloud_level,
            sun: (height * angle.cos(), height * angle.sin()),
            season: within(0.0, 1.0),
            salt: generator.next_u64(),
        }
    }

    fn field(&self, noise: &Noise, x: f32, y: f32, frequency: f32, octaves: usize) -> f32 {
        noise.at(self.origin.0 + x * frequency, self.origin.1 + y * frequency, octaves)
    }

    /// How thick the clouds are at a point, 0 to 1.
    fn cloud(&self, x: f32, y: f32) -> f32 {
        let field = self.field(&self.sky, x, y, 2.6, 5);
        step(self.cloud_level, self.cloud_level + 0.14, field)
    }

    /// The ground at a point: class, reflectance and biomass.
    fn ground(&self, x: f32, y: f32) -> (u32, Spectrum, f32) {
        let relief = self.field(&self.relief, x, y, 1.6, 4);
        let cover = self.field(&self.cover, x, y, 2.4, 5);
        let fine = self.field(&self.texture, x, y, 22.0, 3) - 0.5;
        let brightness = 1.0 + 0.35 * fine;
        let shine = |spectrum: Spectrum| spectrum.map(|value| value * brightness);
        let bend = 0.16 * (self.field(&self.relief, x + 3.0, y - 5.0, 1.3, 3) - 0.5);
        let river = self.river.map_or(1.0, |(at, angle, half_width)| {
            let (sin, cos) = angle.sin_cos();
            ((x - 0.5) * cos + (y - 0.5) * sin - (at - 0.5) * 0.7 + 2.2 * bend).abs() - half_width
        });
        let depth = (self.lake_level - relief).max(-river * 0.8);
        let road = self
            .roads
            .iter()
            .map(|road| {
                let along = road.normal.1 * x - road.normal.0 * y;
                let wiggle = road.wiggle * (self.field(&self.cover, along, road.offset, 1.1, 2) - 0.5);
                (road.normal.0 * x + road.normal.1 * y - road.offset + wiggle).abs() - road.half_width
            })
            .fold(f32::MAX, f32::min);
        // Roads cross water on bridges, but do not run through lakes.
        if road < 0.0 && depth < 0.05 {
            return (ROAD, shine(mix(ASPHALT, CONCRETE, 0.25 * hash(0, 0, self.salt))), 0.0);
        }
        if depth > 0.0 {
            let calm = 1.0 + 0.2 * fine;
            let spectrum = mix(SHALLOW_WATER, DEEP_WATER, depth / 0.06).map(|value| value * calm);
            return (WATER, spectrum, 0.0);
        }
        if let Some(found) = self.town(x, y, cover, brightness) {
            return found;
        }
        if cover > self.forest_level {
            let stand = step(0.35, 0.65, self.field(&self.texture, x, y, 3.0, 2));
            // Crowns: bright tops and dark gaps.
            let crowns = 1.0 + 1.1 * (self.field(&self.texture, x + 9.0, y, 34.0, 2) - 0.5);
            let spectrum = mix(CONIFERS, BROADLEAVES, stand).map(|value| value * crowns);
            return (FOREST, spectrum, 130.0 + 170.0 * step(0.0, 0.25, cover - self.forest_level));
        }
        let (spectrum, biomass) = self.crops(x, y, brightness);
        (CROPS, spectrum, biomass)
    }

    /// Houses, yards and streets, if there is a town here.
    fn town(&self, x: f32, y: f32, cover: f32, brightness: f32) -> Option<(u32, Spectrum, f32)> {
        let (cx, cy, radius) = self.town?;
        let distance = ((x - cx).powi(2) + (y - cy).powi(2)).sqrt() + 0.35 * (cover - 0.5);
        if distance > radius {
            return None;
        }
        let (sin, cos) = self.fields.0.sin_cos();
        let block = 0.125;
        let (u, v) = ((x * cos + y * sin) / block, (y * cos - x * sin) / block);
        let (bu, bv) = (u.floor(), v.floor());
        let (fu, fv) = (u - bu, v - bv);
        let shine = |spectrum: Spectrum| spectrum.map(|value| value * brightness);
        if fu < 0.14 || fv < 0.14 {
            return Some((ROAD, shine(ASPHALT), 0.0));
        }
        // Four plots a block, each with a house that leaves some yard.
        let plot = (2.0 * u).floor() as i32;
        let row = (2.0 * v).floor() as i32;
        let (pu, pv) = ((2.0 * u).fract().abs(), (2.0 * v).fract().abs());
        let kind = hash(plot, row, self.salt ^ 1);
        let margin = 0.12 + 0.18 * hash(plot, row, self.salt ^ 2);
        let house = pu > margin && pu < 1.0 - margin * 0.7 && pv > margin && pv < 1.0 - margin * 0.7;
        let spectrum = if !house {
            GARDEN
        } else if kind < 0.55 {
            mix(RED_ROOF, CONCRETE, hash(plot, row, self.salt ^ 3) * 0.4)
        } else {
            mix(CONCRETE, ASPHALT, hash(plot, row, self.salt ^ 3))
        };
        Some((URBAN, shine(spectrum), if house { 0.0 } else { 20.0 }))
    }

    /// A mosaic of fields, each with its crop, its growth and its rows.
    fn crops(&self, x: f32, y: f32, brightness: f32) -> (Spectrum, f32) {
        let (angle, long, short) = self.fields;
        let (sin, cos) = angle.sin_cos();
        let (u, v) = (x * cos + y * sin, y * cos - x * sin);
        let strip = (v / short).floor();
        // Every strip is cut at other places.
        let shift = hash(strip as i32, 7, self.salt) * long;
        let plot = ((u + shift) / long).floor();
        let growth = hash(plot as i32, strip as i32, self.salt ^ 4);
        let rows = 1.0 + 0.10 * ((u * 150.0 * (0.6 + growth)).sin());
        let edge = ((v / short).fract().abs() < 0.06) || (((u + shift) / long).fract().abs() < 0.04);
        let age = (growth + 0.35 * self.season).fract();
        let spectrum = if edge {
            mix(YOUNG_CROP, BARE_SOIL, 0.45)
        } else if age < 0.45 {
            mix(BARE_SOIL, YOUNG_CROP, age / 0.40)
        } else if age < 0.8 {
            mix(YOUNG_CROP, RIPE_CROP, (age - 0.45) / 0.35)
        } else {
            mix(RIPE_CROP, BARE_SOIL, (age - 0.8) / 0.2)
        };
        (spectrum.map(|value| value * brightness * rows), 25.0 * step(0.0, 0.6, age))
    }
}

impl Landscape {
    pub fn new(size: usize, seed: u64, index: usize, clouds: bool) -> Self {
        let mut generator = Generator::stream(seed, &[index as u64]);
        let plan = Plan::new(&mut generator, clouds);
        let mut bands = vec![0f32; 4 * size * size];
        let mut mask = vec![0u32; size * size];
        let mut biomass = 0f64;
        for row in 0..size {
            for column in 0..size {
                let (x, y) = ((column as f32 + 0.5) / 64.0, (row as f32 + 0.5) / 64.0);
                let (mut class, mut spectrum, tonnes) = plan.ground(x, y);
                biomass += f64::from(tonnes);
                let shade = plan.cloud(x - plan.sun.0, y - plan.sun.1);
                if shade > 0.0 {
                    // The sky's blue still lights a shadow.
                    let light = [0.55, 0.45, 0.40, 0.34].map(|light| 1.0 - shade * (1.0 - light));
                    spectrum = std::array::from_fn(|band| spectrum[band] * light[band]);
                    if shade > 0.5 {
                        class = SHADOW;
                    }
                }
                let cloud = plan.cloud(x, y);
                if cloud > 0.0 {
                    let lit = 0.80 + 0.4 * plan.field(&plan.sky, x, y, 7.0, 3) - 0.1;
                    spectrum = mix(spectrum, CLOUD_TOP.map(|value| value * lit), cloud);
                    if cloud > 0.4 {
                        class = CLOUD;
                    }
                }
                mask[row * size + column] = class;
                for (band, value) in spectrum.into_iter().enumerate() {
                    // The sensor's own noise.
                    let noise = 0.003 * generator.normal() as f32;
                    bands[(band * size + row) * size + column] = (value + noise).clamp(0.0, 1.1);
                }
            }
        }
        Self { bands, mask, biomass: (biomass / (size * size) as f64) as f32 }
    }
}
