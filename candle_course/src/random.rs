//! Randomness as a value: a seed goes in, a serialisable generator comes out.
//!
//! candle's CPU generator cannot be seeded, so nothing in this crate uses it. Every random number
//! comes from a [`Generator`]: ChaCha with 8 rounds, whose stream is the same on every platform,
//! and distributions computed without the platform's math library.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::{DType, Device, Tensor};
use rand::{Rng, RngCore, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Beta, Distribution, Exp1, StandardNormal};

use crate::error::{Error, Result};
use crate::stateful::{Expected, State, Stateful, compare};

/// A seeded, serialisable, platform-independent random generator.
///
/// # Examples
///
/// ```
/// use candle_course::random::Generator;
///
/// let mut generator = Generator::new(42);
/// let saved = generator.to_bytes();
/// let first = generator.permutation(10);
/// assert_eq!(Generator::from_bytes(&saved)?.permutation(10), first);
/// // Independent streams for named or numbered parts of a program:
/// assert_ne!(Generator::derive(42, "fc1.weight").uniform(), Generator::derive(42, "fc2.weight").uniform());
/// # Ok::<(), candle_course::error::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generator(ChaCha8Rng);

/// Mixes `value` into `state` (SplitMix64's finaliser: every input bit reaches every output bit).
fn mix(state: u64, value: u64) -> u64 {
    let mut z = state.wrapping_add(value).wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

impl Generator {
    /// Bytes of [`Generator::to_bytes`].
    pub const STATE_BYTES: usize = 56;

    /// A generator from a seed.
    pub fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    /// An independent generator for a named part of what `seed` governs (a parameter, say), so
    /// that adding another part changes nothing here.
    pub fn derive(seed: u64, label: &str) -> Self {
        let state = label.bytes().fold(mix(seed, label.len() as u64), |state, byte| mix(state, u64::from(byte)));
        Self::new(state)
    }

    /// An independent generator for numbered parts of what `seed` governs, `[epoch, index]` say.
    pub fn stream(seed: u64, parts: &[u64]) -> Self {
        Self::new(parts.iter().fold(mix(seed, parts.len() as u64), |state, &part| mix(state, part)))
    }

    /// The whole state, for a checkpoint.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(Self::STATE_BYTES);
        bytes.extend(self.0.get_seed());
        bytes.extend(self.0.get_stream().to_le_bytes());
        bytes.extend(self.0.get_word_pos().to_le_bytes());
        bytes
    }

    /// The generator whose state [`Generator::to_bytes`] gave.
    ///
    /// # Errors
    /// If `bytes` is not [`Generator::STATE_BYTES`] long.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let wrong =
            || Error::checkpoint(format!("a generator's state has {} bytes, got {}", Self::STATE_BYTES, bytes.len()));
        if bytes.len() != Self::STATE_BYTES {
            return Err(wrong());
        }
        let seed: [u8; 32] = bytes[..32].try_into().map_err(|_| wrong())?;
        let mut rng = ChaCha8Rng::from_seed(seed);
        rng.set_stream(u64::from_le_bytes(bytes[32..40].try_into().map_err(|_| wrong())?));
        rng.set_word_pos(u128::from_le_bytes(bytes[40..56].try_into().map_err(|_| wrong())?));
        Ok(Self(rng))
    }

    /// 64 random bits, to seed something of its own.
    pub fn next_u64(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A number in `[0, 1)`.
    pub fn uniform(&mut self) -> f64 {
        self.0.random()
    }

    /// A number from the standard normal distribution.
    pub fn normal(&mut self) -> f64 {
        StandardNormal.sample(&mut self.0)
    }

    /// A number from the exponential distribution of rate 1.
    pub fn exponential(&mut self) -> f64 {
        Exp1.sample(&mut self.0)
    }

    /// A number in `[0, 1]` from the distribution Beta(`alpha`, `beta`).
    ///
    /// # Errors
    /// If a parameter is not positive.
    pub fn beta(&mut self, alpha: f64, beta: f64) -> Result<f64> {
        let distribution = Beta::new(alpha, beta)
            .map_err(|_| Error::argument("alpha, beta", "positive numbers", format!("{alpha} and {beta}")))?;
        Ok(distribution.sample(&mut self.0))
    }

    /// A whole number in `0..bound`; [`try_below`](Self::try_below) where the bound may be 0.
    ///
    /// # Panics
    /// If `bound` is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        // u64, not usize: the same draw on 32-bit platforms.
        self.0.random_range(0..bound as u64) as usize
    }

    /// A whole number in `0..bound`, the same as [`below`](Self::below).
    ///
    /// # Errors
    /// If `bound` is 0: there is no such number.
    pub fn try_below(&mut self, bound: usize) -> Result<usize> {
        match bound {
            0 => Err(Error::argument("bound", "at least 1", 0).hint("is what is chosen from empty?")),
            _ => Ok(self.below(bound)),
        }
    }

    /// `true` with the given probability.
    pub fn chance(&mut self, probability: f64) -> bool {
        self.uniform() < probability
    }

    /// Shuffles in place.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        items.shuffle(&mut self.0);
    }

    /// The numbers `0..length` in random order.
    ///
    /// # Panics
    /// If there is no memory for so many.
    pub fn permutation(&mut self, length: usize) -> Vec<usize> {
        let mut indices: Vec<usize> = (0..length).collect();
        self.shuffle(&mut indices);
        indices
    }
}

impl Stateful for Generator {
    fn state(&self) -> Result<State> {
        let bytes = Tensor::from_vec(self.to_bytes(), Self::STATE_BYTES, &Device::Cpu)?;
        Ok(State::from([("generator".to_owned(), bytes)]))
    }

    fn load_state(&mut self, state: &State) -> Result<()> {
        let expected = Expected::new(&[Self::STATE_BYTES], DType::U8);
        compare("not the state of a generator", state, [("generator", expected)])?;
        *self = Self::from_bytes(&state["generator"].to_vec1::<u8>()?)?;
        Ok(())
    }
}

/// A generator shared by clones of a layer, registered by name in
/// [`Parameters`](crate::nn::Parameters) so that a checkpoint can save it.
#[derive(Debug, Clone)]
pub struct SharedGenerator(Arc<Mutex<Generator>>);

impl SharedGenerator {
    /// Shares `generator`.
    pub fn new(generator: Generator) -> Self {
        Self(Arc::new(Mutex::new(generator)))
    }

    /// Exclusive use, until the guard is dropped.
    pub fn lock(&self) -> MutexGuard<'_, Generator> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_is_the_same_on_every_platform() {
        // Stored once; a change here would change every seeded result of every user.
        let mut generator = Generator::new(42);
        assert_eq!(generator.next_u64(), 12578764544318200737);
        assert_eq!(Generator::new(7).permutation(8), [0, 7, 5, 2, 4, 1, 6, 3]);
        assert_eq!(Generator::new(7).normal().to_bits(), 13_828_531_185_899_078_648);
    }

    #[test]
    fn a_restored_generator_continues_bit_for_bit() {
        let mut generator = Generator::stream(3, &[1, 2]);
        for _ in 0..17 {
            generator.normal();
        }
        let mut restored = Generator::from_bytes(&generator.to_bytes()).unwrap();
        let mut loaded = Generator::new(0);
        loaded.load_state(&generator.state().unwrap()).unwrap();
        for _ in 0..100 {
            let normal = generator.normal().to_bits();
            assert_eq!((restored.normal().to_bits(), loaded.normal().to_bits()), (normal, normal));
        }
        assert!(Generator::from_bytes(&[0; 55]).unwrap_err().to_string().contains("56 bytes, got 55"));
    }

    #[test]
    fn streams_differ_by_every_part() {
        let draws = [
            Generator::stream(1, &[0, 0]).next_u64(),
            Generator::stream(1, &[0, 1]).next_u64(),
            Generator::stream(1, &[1, 0]).next_u64(),
            Generator::stream(1, &[0]).next_u64(),
            Generator::stream(2, &[0, 0]).next_u64(),
            Generator::derive(1, "a").next_u64(),
            Generator::derive(1, "b").next_u64(),
        ];
        let distinct: std::collections::HashSet<_> = draws.iter().collect();
        assert_eq!(distinct.len(), draws.len());
    }

    #[test]
    fn normal_numbers_have_the_right_moments() {
        let mut generator = Generator::new(0);
        let draws: Vec<f64> = (0..100_000).map(|_| generator.normal()).collect();
        let mean = draws.iter().sum::<f64>() / draws.len() as f64;
        let variance = draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / draws.len() as f64;
        assert!(mean.abs() < 0.02, "{mean}");
        assert!((variance - 1.0).abs() < 0.03, "{variance}");
    }
}
