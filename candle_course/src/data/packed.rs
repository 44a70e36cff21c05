//! The lossless image format of the embedded samples.
//!
//! Small photographs hardly shrink in PNG (2,300 bytes for an image of 32×32×3); decorrelated
//! colours, a median edge predictor (as in JPEG-LS) and an adaptive binary range coder (as in
//! LZMA) bring them to 1,500, which is what lets 5,000 of them travel inside the crate.
//!
//! Layout, all numbers little-endian: `CCPK`, then u32 images, channels, height, width, parts;
//! one label byte per image; for each part its length (u32); the parts. A part holds a run of
//! images and is decoded independently, so parts decode in parallel.

use rayon::prelude::*;

const MAGIC: &[u8; 4] = b"CCPK";
const HEADER: usize = 24;
/// Thresholds that sort the roughness around a pixel into classes, each with its own statistics.
const ROUGHNESS: [i32; 13] = [1, 3, 6, 10, 16, 24, 34, 48, 66, 90, 130, 200, 300];
const LEVELS: usize = 4;
const CONTEXTS_PER_CHANNEL: usize = (ROUGHNESS.len() + 1) * LEVELS;
/// Nodes of the code of one residual: 8 for its bit length, 256 for the bits below the leading one.
const NODES: usize = 9 + 256;

/// Images and their labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Packed {
    /// `[N, C, H, W]`.
    pub pixels: Vec<u8>,
    /// One label per image.
    pub labels: Vec<u8>,
    /// `[C, H, W]`.
    pub shape: [usize; 3],
}

/// The probability that a bit is 0, in 1/65536: the mean of a fast and a slow estimate.
#[derive(Clone, Copy)]
struct Bit {
    fast: u16,
    slow: u16,
}

impl Bit {
    fn zero(self) -> u32 {
        ((u32::from(self.fast) + u32::from(self.slow)) >> 1).clamp(32, 65535 - 32)
    }

    fn learn(&mut self, bit: bool) {
        if bit {
            self.fast -= self.fast >> 4;
            self.slow -= self.slow >> 7;
        } else {
            self.fast += (u16::MAX - self.fast) >> 4;
            self.slow += (u16::MAX - self.slow) >> 7;
        }
    }
}

/// Writes or reads one bit with its adaptive probability.
trait Coder {
    fn bit(&mut self, model: &mut Bit, bit: bool) -> bool;
}

struct Decoder<'a> {
    bytes: &'a [u8],
    next: usize,
    code: u32,
    range: u32,
}

impl<'a> Decoder<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        // The first byte is the encoder's empty carry cache.
        let mut decoder = Self { bytes, next: 1, code: 0, range: u32::MAX };
        for _ in 0..4 {
            decoder.code = decoder.code << 8 | decoder.byte();
        }
        decoder
    }

    fn byte(&mut self) -> u32 {
        let byte = self.bytes.get(self.next).copied().unwrap_or(0);
        self.next += 1;
        u32::from(byte)
    }
}

impl Coder for Decoder<'_> {
    #[inline(always)]
    fn bit(&mut self, model: &mut Bit, _: bool) -> bool {
        let bound = (self.range >> 16) * model.zero();
        let bit = self.code >= bound;
        if bit {
            self.code -= bound;
            self.range -= bound;
        } else {
            self.range = bound;
        }
        model.learn(bit);
        while self.range < 1 << 24 {
            self.range <<= 8;
            self.code = self.code << 8 | self.byte();
        }
        bit
    }
}

struct Encoder {
    bytes: Vec<u8>,
    low: u64,
    range: u32,
    cache: u8,
    pending: usize,
}

impl Encoder {
    fn shift(&mut self) {
        if self.low < 0xFF00_0000 || self.low > 0xFFFF_FFFF {
            let carry = (self.low >> 32) as u8;
            let mut byte = self.cache;
            for _ in 0..=self.pending {
                self.bytes.push(byte.wrapping_add(carry));
                byte = 0xFF;
            }
            self.pending = 0;
            self.cache = (self.low >> 24) as u8;
        } else {
            self.pending += 1;
        }
        self.low = (self.low & 0x00FF_FFFF) << 8;
    }

    fn finish(mut self) -> Vec<u8> {
        for _ in 0..5 {
            self.shift();
        }
        self.bytes
    }
}

impl Coder for Encoder {
    fn bit(&mut self, model: &mut Bit, bit: bool) -> bool {
        let bound = (self.range >> 16) * model.zero();
        if bit {
            self.low += u64::from(bound);
            self.range -= bound;
        } else {
            self.range = bound;
        }
        model.learn(bit);
        while self.range < 1 << 24 {
            self.range <<= 8;
            self.shift();
        }
        bit
    }
}

/// Codes a value of `0..=255` as its bit length in unary, then the bits below the leading one.
#[inline(always)]
fn code_value(coder: &mut impl Coder, models: &mut [Bit], value: u8) -> u8 {
    let wanted = 8 - value.leading_zeros() as usize;
    let mut length = 0;
    while length < 8 && coder.bit(&mut models[length], length < wanted) {
        length += 1;
    }
    if length < 2 {
        return length as u8;
    }
    let mut result = 1usize;
    // One small tree for every length: nodes `2^(length-1) ..`, addressed by the bits so far.
    let tree = &mut models[9..];
    let base = 1 << (length - 1);
    let mut node = 1usize;
    for position in (0..length - 1).rev() {
        let bit = coder.bit(&mut tree[base + node - 1], value >> position & 1 == 1);
        result = result << 1 | usize::from(bit);
        node = node << 1 | usize::from(bit);
    }
    result as u8
}

/// Codes (or, with a decoder, fills) the planes of one image in place.
fn code_image(coder: &mut impl Coder, models: &mut [Bit], image: &mut [u8], [c, h, w]: [usize; 3]) {
    // Three channels are coded as G, R-G, B-G: colours of photographs move together.
    let order: &[usize] = if c == 3 { &[1, 0, 2] } else { &[0, 1, 2, 3, 4, 5, 6, 7] };
    let mut plane = vec![0i32; h * w];
    let mut green = vec![0i32; h * w];
    for (turn, &channel) in order[..c].iter().enumerate() {
        let pixels = &mut image[channel * h * w..(channel + 1) * h * w];
        let lifted = c == 3 && turn > 0;
        for y in 0..h {
            for x in 0..w {
                let i = y * w + x;
                let up = if y > 0 { plane[i - w] } else { 0 };
                let west = if x > 0 { plane[i - 1] } else { up };
                let north = if y > 0 { up } else { west };
                let north_west = if x > 0 && y > 0 { plane[i - w - 1] } else { north };
                let north_east = if y > 0 && x + 1 < w { plane[i - w + 1] } else { north };
                let (low, high) = (north.min(west), north.max(west));
                let predicted = if north_west >= high {
                    low
                } else if north_west <= low {
                    high
                } else {
                    north + west - north_west
                };
                let rough = (west - north_west).abs() + (north - north_west).abs() + (north_east - north).abs();
                let class = ROUGHNESS.iter().take_while(|&&threshold| rough >= threshold).count();
                let level = if lifted {
                    // Rough green makes rough colour differences.
                    let gradient = if x > 0 { (green[i] - green[i - 1]).abs() } else { 0 }
                        + if y > 0 { (green[i] - green[i - w]).abs() } else { 0 };
                    [8, 24, 64].iter().take_while(|&&threshold| gradient >= threshold).count()
                } else {
                    [1, 128, 252].iter().take_while(|&&threshold| predicted >= threshold).count()
                };
                let context = (turn.min(2) * CONTEXTS_PER_CHANNEL + class * LEVELS + level) * NODES;
                let actual = i32::from(pixels[i]) - if lifted { green[i] } else { 0 };
                let residual = (actual - predicted) as u8 as i8;
                let folded = (residual << 1 ^ residual >> 7) as u8;
                let folded = code_value(coder, &mut models[context..context + NODES], folded);
                let residual = (folded >> 1) as i8 ^ -((folded & 1) as i8);
                let base = if lifted { green[i] } else { 0 };
                pixels[i] = (predicted + base).wrapping_add(i32::from(residual)) as u8;
                plane[i] = i32::from(pixels[i]) - base;
            }
        }
        if turn == 0 {
            green.copy_from_slice(&plane);
        }
    }
}

fn fresh_models() -> Vec<Bit> {
    vec![Bit { fast: 1 << 15, slow: 1 << 15 }; 3 * CONTEXTS_PER_CHANNEL * NODES]
}

/// Packs images.
#[allow(dead_code)] // the samples are packed by `examples/make_samples.rs`, which includes this file
pub(crate) fn pack(images: &Packed, parts: usize) -> Vec<u8> {
    let size: usize = images.shape.iter().product();
    let per_part = images.labels.len().div_ceil(parts);
    let parts: Vec<Vec<u8>> = images
        .pixels
        .par_chunks(per_part * size)
        .map(|pixels| {
            let mut encoder = Encoder { bytes: vec![], low: 0, range: u32::MAX, cache: 0, pending: 0 };
            let mut models = fresh_models();
            let mut pixels = pixels.to_vec();
            pixels.chunks_exact_mut(size).for_each(|image| code_image(&mut encoder, &mut models, image, images.shape));
            encoder.finish()
        })
        .collect();
    let mut bytes = MAGIC.to_vec();
    let [c, h, w] = images.shape;
    for number in [images.labels.len(), c, h, w, parts.len()] {
        bytes.extend((number as u32).to_le_bytes());
    }
    bytes.extend(&images.labels);
    parts.iter().for_each(|part| bytes.extend((part.len() as u32).to_le_bytes()));
    parts.iter().for_each(|part| bytes.extend(part));
    bytes
}

/// Unpacks images; `None` if `bytes` are not what [`pack`] wrote.
pub(crate) fn unpack(bytes: &[u8]) -> Option<Packed> {
    let number = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?) as usize);
    if bytes.get(..4)? != MAGIC {
        return None;
    }
    let (n, shape, parts) = (number(4)?, [number(8)?, number(12)?, number(16)?], number(20)?);
    let size: usize = shape.iter().product();
    let labels = bytes.get(HEADER..HEADER + n)?.to_vec();
    let mut start = HEADER + n + 4 * parts;
    let mut slices = Vec::with_capacity(parts);
    for part in 0..parts {
        let length = number(HEADER + n + 4 * part)?;
        slices.push(bytes.get(start..start + length)?);
        start += length;
    }
    if parts == 0 || size == 0 || n == 0 || start != bytes.len() {
        return None;
    }
    let mut pixels = vec![0; n * size];
    pixels.par_chunks_mut(n.div_ceil(parts) * size).zip(slices).for_each(|(pixels, slice)| {
        let mut decoder = Decoder::new(slice);
        let mut models = fresh_models();
        pixels.chunks_exact_mut(size).for_each(|image| code_image(&mut decoder, &mut models, image, shape));
    });
    Some(Packed { pixels, labels, shape })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noisy(shape: [usize; 3], n: usize) -> Packed {
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        let size: usize = shape.iter().product();
        // Flat, smooth and noisy stretches, so that every branch of the coder is taken.
        let pixels = (0..n * size)
            .map(|i| match i / 97 % 4 {
                0 => 0,
                1 => (i / 3) as u8,
                2 => 255 - next() / 64,
                _ => next(),
            })
            .collect();
        Packed { pixels, labels: (0..n).map(|i| (i % 10) as u8).collect(), shape }
    }

    #[test]
    fn packing_is_lossless() {
        for (shape, n, parts) in [([3, 32, 32], 13, 4), ([1, 28, 28], 7, 1), ([1, 1, 1], 3, 3), ([3, 1, 5], 4, 2)] {
            let images = noisy(shape, n);
            let bytes = pack(&images, parts);
            assert_eq!(unpack(&bytes).as_ref(), Some(&images), "{shape:?}");
            assert_eq!(unpack(&bytes[..bytes.len() - 1]), None);
        }
        assert_eq!(unpack(b"not packed at all, but long enough"), None);
    }
}
