//! Splits by place.

use std::collections::BTreeMap;

use super::Split;
use crate::error::{Error, Result};
use crate::random::Generator;
use crate::setters::setters;

/// So many blocks may one example touch: beyond, the side is in another unit than the places.
const MOST_BLOCKS: f64 = 1e6;

/// Configures a [`Split`] by place.
#[derive(Debug, Clone)]
pub struct BlockSplitBuilder {
    places: Vec<[f64; 4]>,
    block: f64,
    validation: f64,
    test: f64,
    seed: u64,
}

impl Split {
    /// Divides places on a map instead of examples. What lies side by side looks alike, and tiles that
    /// overlap share pixels: with such neighbours in training and test, the test measures memory.
    ///
    /// `places`: where every example lies, as top, left, bottom, right, in any unit
    /// ([`SceneTiles::places`](crate::data::SceneTiles::places), or map coordinates); a point has no extent.
    /// The map is cut into squares with sides of `block`, and every square goes as a whole to training,
    /// validation or test; the squares are drawn by the seed so that the parts come near their shares. An
    /// example belongs to the part of all the squares that it touches; **one that touches squares of two
    /// parts belongs to none**. Choose blocks of several tiles, then these are few.
    ///
    /// # Examples
    ///
    /// ```
    /// use candle_course::data::{Scene, Split};
    ///
    /// let tiles = Scene::sample()?.tiles(20).build()?;
    /// let split = Split::blocks(&tiles.places(), 60.0).validation(0.2).test(0.2).seed(7).build()?;
    /// assert_eq!((split.train().len(), split.validation().len(), split.test().len()), (135, 45, 45));
    /// # Ok::<(), candle_course::error::Error>(())
    /// ```
    pub fn blocks(places: &[[f64; 4]], block: f64) -> BlockSplitBuilder {
        BlockSplitBuilder { places: places.to_vec(), block, validation: 0.0, test: 0.0, seed: 0 }
    }
}

impl BlockSplitBuilder {
    setters! {
        /// The validation set's share of all examples.
        validation(fraction: f64) => validation = fraction;
        /// The test set's share of all examples.
        test(fraction: f64) => test = fraction;
        /// Which squares go where.
        seed(seed: u64) => seed = seed;
    }

    /// The split.
    ///
    /// # Errors
    /// If a fraction does not fit, a place is not finite or ends before it begins, the squares have no
    /// size or are tiny beside the examples, or a part that was asked for would be empty.
    pub fn build(self) -> Result<Split> {
        super::check_fractions(self.validation, self.test)?;
        let block = self.block;
        if !(block > 0.0 && block.is_finite()) {
            return Err(Error::argument("block", "a side above 0", block));
        }
        let mut touched = Vec::with_capacity(self.places.len());
        // How many examples have their centre in a square.
        let mut counts: BTreeMap<(i64, i64), usize> = BTreeMap::new();
        for (example, &[top, left, bottom, right]) in self.places.iter().enumerate() {
            let place = [top, left, bottom, right];
            if !place.iter().all(|side| (side / block).abs() < 1e15) || bottom < top || right < left {
                let got = format!("{place:?} for example {example}");
                return Err(Error::argument("places", "top, left, bottom, right, in this order and finite", got));
            }
            if ((bottom - top) / block + 1.0) * ((right - left) / block + 1.0) > MOST_BLOCKS {
                let got = format!("{block}, for example {example} of {}×{}", bottom - top, right - left);
                return Err(Error::argument("block", "a side in the unit of the places", got));
            }
            let square = |place: f64| (place / block).floor() as i64;
            // An end that lies on a border touches nothing beyond it.
            let last = |first: f64, end: f64| square(first).max((end / block).ceil() as i64 - 1);
            let (rows, columns) = (square(top)..=last(top, bottom), square(left)..=last(left, right));
            let squares: Vec<_> = rows.flat_map(|row| columns.clone().map(move |column| (row, column))).collect();
            squares.iter().for_each(|&square| *counts.entry(square).or_default() += 0);
            *counts.entry((square((top + bottom) / 2.0), square((left + right) / 2.0))).or_default() += 1;
            touched.push(squares);
        }
        let mut generator = Generator::new(self.seed);
        let mut squares: Vec<_> = counts.into_iter().collect();
        generator.shuffle(&mut squares);
        let total = self.places.len() as f64;
        let mut missing = [1.0 - self.validation - self.test, self.validation, self.test].map(|share| share * total);
        let mut part_of = BTreeMap::new();
        for (square, count) in squares {
            let part = (1..3).fold(0, |best, part| if missing[part] > missing[best] { part } else { best });
            missing[part] -= count as f64;
            part_of.insert(square, part);
        }
        let mut parts: [Vec<usize>; 3] = Default::default();
        for (example, squares) in touched.iter().enumerate() {
            let part = part_of[&squares[0]];
            if squares.iter().all(|square| part_of[square] == part) {
                parts[part].push(example);
            }
        }
        for (name, part, fraction) in
            [("train", &parts[0], 1.0), ("validation", &parts[1], self.validation), ("test", &parts[2], self.test)]
        {
            if part.is_empty() && fraction > 0.0 {
                return Err(Error::argument(name, "at least one example", 0)
                    .hint("there are too few blocks for these fractions, or the examples are as large as blocks"));
            }
        }
        parts.iter_mut().for_each(|part| generator.shuffle(part));
        Ok(Split { parts })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// No pixel of a tile in one part is in a tile of another, and nothing is lost that need not be.
        #[test]
        fn parts_share_no_place(
            size in 1usize..40, step in 1usize..40, block in 5.0f64..200.0, seed in any::<u64>(),
        ) {
            let places: Vec<[f64; 4]> = (0..200)
                .map(|i| [i / 20 * step, i % 20 * step].map(|x| x as f64))
                .map(|[top, left]| [top, left, top + size as f64, left + size as f64])
                .collect();
            let Ok(split) = Split::blocks(&places, block).validation(0.25).test(0.25).seed(seed).build() else {
                return Ok(());
            };
            prop_assert_eq!(&split, &Split::blocks(&places, block).validation(0.25).test(0.25).seed(seed).build().unwrap());
            let apart = |a: &[f64; 4], b: &[f64; 4]| a[2] <= b[0] || b[2] <= a[0] || a[3] <= b[1] || b[3] <= a[1];
            let parts = [split.train(), split.validation(), split.test()];
            for (a, b) in [(0, 1), (0, 2), (1, 2)] {
                for &i in parts[a] {
                    prop_assert!(parts[b].iter().all(|&j| apart(&places[i], &places[j])));
                }
            }
        }

        #[test]
        fn points_are_divided_in_blocks_near_their_shares(seed in any::<u64>()) {
            let mut generator = Generator::new(seed);
            let points: Vec<[f64; 4]> = (0..1000)
                .map(|_| [generator.uniform() * 1e5 - 5e4, generator.uniform() * 1e5])
                .map(|[y, x]| [y, x, y, x])
                .collect();
            let split = Split::blocks(&points, 1e4).validation(0.2).test(0.1).seed(seed).build().unwrap();
            let counts = [split.train(), split.validation(), split.test()].map(<[usize]>::len);
            prop_assert_eq!(counts.iter().sum::<usize>(), 1000);
            for (count, share) in counts.iter().zip([700.0, 200.0, 100.0]) {
                prop_assert!((*count as f64 - share).abs() < 25.0, "{:?}", counts);
            }
        }
    }

    #[test]
    fn what_cannot_be_split_is_refused() {
        let text = |places: &[[f64; 4]], block: f64| {
            Split::blocks(places, block).validation(0.5).build().unwrap_err().to_string()
        };
        let one = [[0.0, 0.0, 1.0, 1.0]];
        assert!(text(&one, 0.0).contains("`block`") && text(&one, f64::NAN).contains("`block`"));
        assert!(text(&one, 1e-9).contains("the unit of the places"));
        assert!(text(&one, 10.0).contains("too few blocks"));
        assert!(text(&[[0.0, 0.0, -1.0, 1.0]], 1.0).contains("for example 0"));
        assert!(text(&[[0.0, f64::NAN, 1.0, 1.0]], 1.0).contains("finite"));
        assert!(text(&[[0.0, 1e300, 1.0, 1e301]], 1.0).contains("finite"));
        assert!(Split::blocks(&one, 1.0).test(1.0).build().is_err() && Split::blocks(&[], 1.0).build().is_err());
    }
}
