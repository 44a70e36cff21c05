//! Axes: plotters' coordinates with the round numbers of plotters, and labels that tell them apart.

use std::ops::Range;

use plotters::coord::combinators::{IntoLogRange, LogCoord};
use plotters::coord::ranged1d::{BoldPoints, KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use plotters::coord::types::{RangedCoordf64, RangedCoordi32, RangedCoordi64};

use super::frame::{SMALL, UNIT, px};
use super::text;
use crate::error::{Error, Result};

/// A labelled place on an axis.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tick {
    pub value: f64,
    pub label: String,
}

/// An axis: the range of its values and the ticks on it.
#[derive(Debug, Clone)]
pub(super) struct Axis {
    pub low: f64,
    pub high: f64,
    pub log: bool,
    /// Only whole numbers have ticks: epochs.
    pub whole: bool,
    /// Places 0, 1, 2, … with names, each one wide; as rows they read downwards.
    pub names: bool,
    pub downwards: bool,
    pub ticks: Vec<Tick>,
}

impl Axis {
    pub fn values(low: f64, high: f64, log: bool, whole: bool) -> Self {
        Self { low, high, log, whole, names: false, downwards: false, ticks: Vec::new() }
    }

    /// So many places without names.
    pub fn places(count: usize) -> Self {
        let high = count as f64 - 0.5;
        Self { low: -0.5, high, log: false, whole: true, names: true, downwards: false, ticks: Vec::new() }
    }

    pub fn names<S: AsRef<str>>(names: &[S]) -> Self {
        let tick = |(index, name): (usize, &S)| Tick { value: index as f64, label: name.as_ref().into() };
        Self { ticks: names.iter().enumerate().map(tick).collect(), ..Self::places(names.len()) }
    }

    /// Puts about `target` ticks on an axis of values.
    pub fn with_ticks(mut self, target: usize) -> Self {
        if !self.names {
            self.ticks = ticks(self.low, self.high, self.log, target.max(2), self.whole);
        }
        self
    }

    /// The pixel of a value on an axis of so many pixels.
    pub fn place(&self, value: f64, pixels: f64) -> f64 {
        f64::from(self.map(&value, (0, px(pixels)))) / f64::from(UNIT)
    }

    /// With the names cut to `limit` pixels, and only so many as have room, each `apart` pixels.
    pub fn legible(mut self, pixels: f64, limit: f64, apart: f64) -> Self {
        if self.names {
            let every = (apart * self.ticks.len() as f64 / pixels).ceil().max(1.0) as usize;
            self.ticks = self.ticks.into_iter().step_by(every).collect();
        }
        self.ticks.iter_mut().for_each(|tick| tick.label = text::fit(&tick.label, SMALL, limit));
        self
    }

    /// With ticks that have no label.
    pub fn silent(mut self) -> Self {
        self.ticks.iter_mut().for_each(|tick| tick.label.clear());
        self
    }

    pub fn contains(&self, value: f64) -> bool {
        (self.low..=self.high).contains(&value)
    }

    /// The part of a curve that is inside both axes, as runs of points that are joined (Liang and
    /// Barsky, 1984): plotters moves what is outside onto the edge.
    pub fn clip(x: &Self, y: &Self, points: &[(f64, f64)]) -> Vec<Vec<(f64, f64)>> {
        let flat = |axis: &Self, value: f64| if axis.log { value.log10() } else { value };
        let mut runs: Vec<Vec<(f64, f64)>> = Vec::new();
        for pair in points.windows(2) {
            let (mut enter, mut leave) = (0f64, 1f64);
            for (axis, a, b) in [(x, pair[0].0, pair[1].0), (y, pair[0].1, pair[1].1)] {
                // Halves: the difference of two numbers may be too large for one.
                let [a, b, low, high] = [a, b, axis.low, axis.high].map(|value| flat(axis, value) / 2.0);
                if a == b && !(low..=high).contains(&a) {
                    leave = -1.0;
                } else if a != b {
                    let (first, last) = ((low - a) / (b - a), (high - a) / (b - a));
                    enter = enter.max(first.min(last));
                    leave = leave.min(first.max(last));
                }
            }
            if enter > leave {
                continue;
            }
            let between = |axis: &Self, a: f64, b: f64, t: f64| match t {
                0.0 => a,
                1.0 => b,
                t if axis.log => 10f64.powf(flat(axis, a) * (1.0 - t) + flat(axis, b) * t),
                t => a * (1.0 - t) + b * t,
            };
            let at = |t: f64| (between(x, pair[0].0, pair[1].0, t), between(y, pair[0].1, pair[1].1, t));
            match runs.last_mut() {
                Some(run) if enter == 0.0 && run.last() == Some(&pair[0]) => run.push(at(leave)),
                _ => runs.push(vec![at(enter), at(leave)]),
            }
        }
        runs
    }
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let value = value.clamp(self.low, self.high);
        let limit = if self.downwards { (limit.1, limit.0) } else { limit };
        if self.log {
            return LogCoord::from((self.low..self.high).log_scale()).map(&value, limit);
        }
        let unit = unit_of(self.low, self.high);
        RangedCoordf64::from(self.low / unit..self.high / unit).map(&(value / unit), limit)
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        if hint.weight().allow_light_points() {
            return Vec::new();
        }
        self.ticks.iter().map(|tick| tick.value).collect()
    }

    fn range(&self) -> Range<f64> {
        self.low..self.high
    }
}

impl ValueFormatter<f64> for Axis {
    fn format_ext(&self, value: &f64) -> String {
        self.ticks.iter().find(|tick| tick.value == *value).map(|tick| tick.label.clone()).unwrap_or_default()
    }
}

/// Refuses a range that is empty or not finite.
pub(super) fn check_range(name: &str, range: Option<(f64, f64)>) -> Result<()> {
    match range.filter(|(low, high)| !(low < high && low.is_finite() && high.is_finite())) {
        None => Ok(()),
        Some((low, high)) => Err(Error::argument(name, "a finite low below a finite high", format!("{low} to {high}"))),
    }
}

/// Ten to a power, down to the smallest numbers.
fn ten(exponent: i32) -> f64 {
    if exponent.abs() <= 300 {
        return 10f64.powi(exponent);
    }
    10f64.powi(exponent / 2) * 10f64.powi(exponent - exponent / 2)
}

/// The power of ten that makes a range one to ten long: plotters' arithmetic wants numbers of about
/// that size.
fn unit_of(low: f64, high: f64) -> f64 {
    let exponent = (2f64.log10() + (high / 2.0 - low / 2.0).max(5e-324).log10()).floor();
    ten((exponent as i32).clamp(-323, 307))
}

/// A range that leaves `share` of itself free at both ends and is never empty. A range of positive
/// values that comes near zero begins there.
pub(super) fn padded(low: f64, high: f64, log: bool, share: f64) -> (f64, f64) {
    let (smallest, largest) = if log { (5e-324, f64::MAX) } else { (f64::MIN, f64::MAX) };
    let within = |value: f64| value.clamp(smallest, largest);
    if log {
        if high.log10() - low.log10() <= 1e-9 {
            return (within(low / 2.0), within(high * 2.0));
        }
        let factor = 10f64.powf((high.log10() - low.log10()) * share);
        return (within(low / factor), within(high * factor));
    }
    if high / 2.0 - low / 2.0 <= 1e-12 * high.abs().max(low.abs()) {
        let half = if low == 0.0 { 0.5 } else { (0.1 * low.abs()).max(f64::MIN_POSITIVE) };
        return (within(low - half), within(high + half));
    }
    let pad = share * high - share * low;
    let down = if low == 0.0 || (share > 0.0 && low > 0.0 && low < 0.3 * high) { 0.0 } else { low - pad };
    let up = if high == 0.0 { 0.0 } else { high + pad };
    (within(down), within(up))
}

fn ticks(low: f64, high: f64, log: bool, target: usize, whole: bool) -> Vec<Tick> {
    if log && let Some(ticks) = log_ticks(low, high, target) {
        return ticks;
    }
    let unit = unit_of(low, high);
    let round = RangedCoordf64::from(low / unit..high / unit);
    // A few more than asked for are better than a single one.
    let mut points = (target..target + 4)
        .map(|count| round.key_points(BoldPoints(count)))
        .find(|points| points.len() > 1)
        .unwrap_or_else(|| vec![low / unit, high / unit]);
    if whole && points.windows(2).any(|pair| (pair[1] - pair[0]) * unit < 0.99) {
        let range = RangedCoordi64::from(low.ceil() as i64..high.floor() as i64);
        points = range.key_points(BoldPoints(target)).into_iter().map(|value| value as f64 / unit).collect();
    }
    let step = points.windows(2).map(|pair| pair[1] - pair[0]).fold(f64::INFINITY, f64::min);
    // Zero, where rounding leaves a trace of something else.
    let value = |point: f64| if point.abs() < 1e-9 * step { 0.0 } else { (point * unit).clamp(low, high) };
    let mut values: Vec<f64> = points.into_iter().map(value).collect();
    values.dedup(); // of the smallest numbers there are few
    let labels = linear_labels(&values, if step.is_finite() { step * unit } else { unit });
    values.into_iter().zip(labels).map(|(value, label)| Tick { value, label }).collect()
}

/// Numbers `step` apart, all with the decimals that tell them apart, and an SI prefix or a power of
/// ten where it makes them short.
fn linear_labels(values: &[f64], step: f64) -> Vec<String> {
    let largest = values.iter().fold(0f64, |largest, value| largest.max(value.abs()));
    let decimals = |unit: f64| (-(step / unit).log10() - 1e-6).ceil().clamp(0.0, 18.0) as usize;
    let exponent = largest.max(5e-324).log10().floor().clamp(-323.0, 308.0) as i32;
    let (unit, suffix) = if largest >= 1e15 || (largest < 2e-3 && largest > 0.0) {
        (ten(exponent), format!("×10^{{{exponent}}}"))
    } else {
        [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")]
            .into_iter()
            .find(|(unit, _)| largest >= 1e4 && largest >= *unit)
            // Of 1.0000005M the plain number is easier to read.
            .filter(|(unit, _)| decimals(*unit) <= 3)
            .map_or((1.0, String::new()), |(unit, prefix)| (unit, prefix.into()))
    };
    let decimals = decimals(unit);
    let label = |&value: &f64| match value {
        0.0 => "0".to_string(),
        value => format!("{}{suffix}", signed(format!("{:.decimals$}", value / unit))),
    };
    values.iter().map(label).collect()
}

/// Decades, or their parts where there are few of them.
fn log_ticks(low: f64, high: f64, target: usize) -> Option<Vec<Tick>> {
    let (first, last) = ((low.log10() - 1e-9).ceil() as i32, (high.log10() + 1e-9).floor() as i32);
    let multiples = |allowed: &[i32]| -> Vec<(i32, i32)> {
        (first - 1..=last)
            .flat_map(|exponent| allowed.iter().map(move |&m| (m, exponent)))
            .filter(|&(m, exponent)| {
                let value = f64::from(m) * ten(exponent);
                value >= low * (1.0 - 1e-9) && value / (1.0 + 1e-9) <= high
            })
            .collect()
    };
    let mut chosen: Vec<(i32, i32)> = if last - first < 2 {
        [&[1, 2, 5][..], &[1, 2, 3, 4, 5, 6, 7, 8, 9]].into_iter().map(multiples).find(|c| c.len() >= 3)?
    } else {
        let decades = RangedCoordi32::from(first..last);
        let decades = (target..target + 4).map(|count| decades.key_points(BoldPoints(count)));
        decades.into_iter().find(|exponents| exponents.len() > 1)?.into_iter().map(|exponent| (1, exponent)).collect()
    };
    if chosen.len() > target + 3 {
        chosen.retain(|(m, _)| [1, 2, 5].contains(m));
    }
    let scientific = chosen.iter().any(|(_, exponent)| !(-3..4).contains(exponent));
    let label = |(m, exponent): (i32, i32)| match (scientific, m) {
        (false, _) => format!("{:.*}", (-exponent).max(0) as usize, f64::from(m) * ten(exponent)),
        (true, 1) => format!("10^{{{exponent}}}"),
        (true, m) => format!("{m}×10^{{{exponent}}}"),
    };
    let tick = |(m, exponent)| Tick { value: f64::from(m) * ten(exponent), label: label((m, exponent)) };
    Some(chosen.into_iter().map(tick).collect())
}

fn signed(text: String) -> String {
    text.replacen('-', "−", 1)
}

/// A number in four significant digits, as a person would write it in a table.
pub(crate) fn compact(value: f64) -> String {
    if !value.is_finite() {
        return if value.is_nan() { "NaN".into() } else { if value > 0.0 { "∞".into() } else { "−∞".into() } };
    }
    let magnitude = value.abs();
    if value == 0.0 {
        "0".into()
    } else if !(1e-4..1e7).contains(&magnitude) {
        signed(format!("{value:.3e}").replace('e', "·10^")).replace("^-", "^−")
    } else {
        let decimals = (3 - magnitude.log10().floor() as i32).clamp(0, 7) as usize;
        let text = format!("{value:.decimals$}");
        let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_string() } else { text };
        signed(text)
    }
}

/// Numbers that stand side by side, all with the same decimals: those of the longest, as far as the
/// largest leaves four significant digits. What needs a power of ten stands for itself.
pub(super) fn alike(values: &[f64]) -> Vec<String> {
    let texts: Vec<String> = values.iter().map(|&value| compact(value)).collect();
    if texts.iter().any(|text| text.contains('·')) {
        return texts;
    }
    let largest = values.iter().fold(1f64, |largest, value| largest.max(value.abs()));
    let room = (3.0 - largest.log10().floor()).max(0.0) as usize;
    let longest = texts.iter().map(|text| text.split_once('.').map_or(0, |(_, decimals)| decimals.len())).max();
    // Values that are close to each other need the decimals in which they differ.
    let spread = values.iter().fold(f64::MIN, |a, &b| a.max(b)) - values.iter().fold(f64::MAX, |a, &b| a.min(b));
    let apart = if spread > 1e-9 * largest { (-spread.log10().floor()).clamp(0.0, 9.0) as usize } else { 0 };
    let decimals = longest.unwrap_or(0).min(room).max(apart);
    // Where the smallest would vanish, each keeps its own digits.
    if values.iter().any(|&value| value != 0.0 && value.abs() < 0.5 * ten(-(decimals as i32))) {
        return texts;
    }
    values.iter().map(|value| signed(format!("{value:.decimals$}"))).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn number() -> impl Strategy<Value = f64> {
        use proptest::num::f64::{NEGATIVE, NORMAL, POSITIVE, SUBNORMAL, ZERO};
        prop_oneof![NORMAL | SUBNORMAL | ZERO | POSITIVE | NEGATIVE, -1e6..1e6f64, 0.703..0.7031f64]
    }

    fn labels(low: f64, high: f64, log: bool, target: usize) -> Vec<String> {
        ticks(low, high, log, target, false).into_iter().map(|tick| tick.label).collect()
    }

    #[test]
    fn linear_ticks_are_round() {
        assert_eq!(labels(0.0, 1.0, false, 6), ["0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!(labels(-1.3, 2.2, false, 4), ["−1", "0", "1", "2"]);
        assert_eq!(labels(0.0, 47_000.0, false, 5), ["0", "10k", "20k", "30k", "40k"]);
        assert_eq!(labels(0.0, 3e6, false, 4), ["0", "1M", "2M", "3M"]);
        assert_eq!(labels(0.0, 4e-4, false, 5), ["0", "1×10^{-4}", "2×10^{-4}", "3×10^{-4}", "4×10^{-4}"]);
        assert_eq!(labels(0.981, 0.999, false, 4), ["0.985", "0.990", "0.995"]);
    }

    #[test]
    fn epochs_have_no_halves() {
        let ticks = ticks(1.0, 3.0, false, 8, true);
        assert_eq!(ticks.iter().map(|tick| tick.label.as_str()).collect::<Vec<_>>(), ["1", "2", "3"]);
    }

    #[test]
    fn log_ticks_are_decades_or_their_parts() {
        assert_eq!(labels(1e-5, 1.0, true, 6), ["10^{-5}", "10^{-4}", "10^{-3}", "10^{-2}", "10^{-1}", "10^{0}"]);
        assert_eq!(labels(1e-3, 1.0, true, 6), ["0.001", "0.01", "0.1", "1"]);
        assert_eq!(labels(0.3, 4.0, true, 6), ["0.5", "1", "2"]);
        assert!((3..=6).contains(&labels(1e-12, 1e12, true, 5).len()));
    }

    /// Ranges that were trouble: narrow, far from zero, at both ends of what a number can be.
    const RANGES: [(f64, f64, bool); 22] = [
        (0.1, 0.13, true),
        (1e-9, 3.0, true),
        (-7.2, 19.0, false),
        (2.0, 2.001, false),
        (1.0, 1.5, true),
        (0.703147, 0.703149, false),
        (1e6, 1e6 + 3.0, false),
        (-1e6 - 3.0, -1e6, false),
        (1e9, 1e9 + 1e-3, false),
        (1e-7, 1.000_001e-7, false),
        (3e15, 3e15 + 1e6, false),
        (-1e308, 1e308, false),
        (-f64::MAX, f64::MAX, false),
        (0.0, 5e-324, false),
        (-1e-310, 3e-310, false),
        (1e-17, 9e-17, false),
        (5e-324, 1e-300, true),
        (5e-324, 1e-323, true),
        (1e-320, 1e308, true),
        (1e300, f64::MAX, true),
        (1e-17, 3e-17, true),
        (0.0, 1e308, false),
    ];

    #[test]
    fn every_range_has_a_few_different_labels_inside_it() {
        for (low, high, log) in RANGES {
            for target in 2..10 {
                let ticks = ticks(low, high, log, target, false);
                assert!((2..=target.max(4) + 3).contains(&ticks.len()), "{low:e}..{high:e}, {target}: {ticks:?}");
                for pair in ticks.windows(2) {
                    assert!(pair[0].value < pair[1].value, "{low:e}..{high:e}, {target}: {ticks:?}");
                    assert!(pair[0].label != pair[1].label, "{low:e}..{high:e}, {target}: {ticks:?}");
                }
                let slack = 1e-9 * (high / 2.0 - low / 2.0);
                for tick in &ticks {
                    assert!(tick.value >= low - slack && tick.value - slack <= high, "{low:e}..{high:e}: {tick:?}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn any_range_has_labels_that_differ(a in number(), b in number(), log: bool, target in 2usize..12) {
            let (a, b) = if log { (a.abs().max(5e-324), b.abs().max(5e-324)) } else { (a, b) };
            let (low, high) = padded(a.min(b), a.max(b), log, 0.05);
            let ticks = ticks(low, high, log, target, false);
            prop_assert!(ticks.len() >= 2, "{:e}..{:e}: {:?}", low, high, ticks);
            prop_assert!(ticks.windows(2).all(|pair| pair[0].label != pair[1].label), "{:?}", ticks);
            let axis = Axis::values(low, high, log, false);
            for value in [a, b] {
                prop_assert!((-1..=6001).contains(&axis.map(&value, (0, 6000))));
            }
        }
    }

    #[test]
    fn every_range_is_mapped_from_end_to_end() {
        for (low, high, log) in RANGES {
            let axis = Axis::values(low, high, log, false);
            let at = [low, high, f64::MAX, f64::MIN].map(|value| axis.map(&value, (100, 6000)));
            assert!((at[0] - 100).abs() <= 1 && (at[1] - 6000).abs() <= 1, "{low:e}..{high:e}: {at:?}");
            assert!((at[2] - 6000).abs() <= 1 && (at[3] - 100).abs() <= 1, "{low:e}..{high:e}: {at:?}");
        }
    }

    #[test]
    fn labels_are_not_all_alike() {
        assert_eq!(labels(1e6, 1e6 + 3.0, false, 4), ["1000000", "1000001", "1000002", "1000003"]);
        for tick in ticks(0.703147, 0.703149, false, 5, false) {
            assert!((tick.label.parse::<f64>().unwrap() - tick.value).abs() < 1e-9, "{tick:?}");
        }
    }

    #[test]
    fn ranges_are_never_empty() {
        for (low, high, log) in [
            (0.0, 0.0, false),
            (3.0, 3.0, false),
            (-2.0, -2.0, false),
            (0.1, 0.1, true),
            (5e-324, 5e-324, false),
            (5e-324, 5e-324, true),
            (f64::MAX, f64::MAX, false),
            (f64::MAX, f64::MAX, true),
        ] {
            let (down, up) = padded(low, high, log, 0.05);
            assert!(down <= low && up >= high && down < up, "{low}..{high}: {down}..{up}");
        }
        assert_eq!(padded(0.2, 2.0, false, 0.05).0, 0.0);
        assert!((padded(1.0, 2.0, false, 0.05).0 - 0.95).abs() < 1e-12);
        for (low, high, log) in RANGES {
            let (down, up) = padded(low, high, log, 0.05);
            assert!(down.is_finite() && up.is_finite() && down <= low && up >= high && !(log && down <= 0.0));
        }
    }

    #[test]
    fn a_log_scale_is_even_in_ratios() {
        let axis = Axis::values(1e-4, 1.0, true, false);
        assert!((axis.map(&1e-2, (0, 4000)) - 2000).abs() <= 1);
    }

    #[test]
    fn a_curve_is_cut_where_it_leaves_the_axes() {
        let (x, y) = (Axis::values(0.0, 10.0, false, false), Axis::values(0.0, 1.0, false, false));
        let clip = |points: &[(f64, f64)]| Axis::clip(&x, &y, points);
        assert_eq!(clip(&[(0.0, 0.5), (10.0, 0.5)]), [vec![(0.0, 0.5), (10.0, 0.5)]]);
        assert_eq!(
            clip(&[(0.0, 0.0), (4.0, 2.0), (8.0, 0.0)]),
            [vec![(0.0, 0.0), (2.0, 1.0)], vec![(6.0, 1.0), (8.0, 0.0)]]
        );
        assert!(clip(&[(0.0, 3.0), (10.0, 2.0)]).is_empty());
        let log = Axis::values(1.0, 100.0, true, false);
        let cut = Axis::clip(&x, &log, &[(0.0, 10.0), (2.0, 1000.0)]);
        assert!((cut[0][1].0 - 1.0).abs() < 1e-9 && (cut[0][1].1 - 100.0).abs() < 1e-6, "{cut:?}");
        let wide = Axis::values(-1e308, 1e308, false, false);
        assert_eq!(Axis::clip(&x, &wide, &[(0.0, -1e308), (1.0, 1e308)]), [vec![(0.0, -1e308), (1.0, 1e308)]]);
    }

    #[test]
    fn compact_numbers() {
        let texts = [0.0, 1.0, 0.98765, 12345.678, 0.00123456, 1e-7, 123_456_789.0, -2.5, f64::NAN, f64::NEG_INFINITY]
            .map(compact);
        assert_eq!(texts, ["0", "1", "0.9877", "12346", "0.001235", "1.000·10^−7", "1.235·10^8", "−2.5", "NaN", "−∞"]);
    }

    #[test]
    fn numbers_side_by_side_have_the_same_decimals() {
        assert_eq!(alike(&[0.81, 0.9, 0.625, -0.3]), ["0.810", "0.900", "0.625", "−0.300"]);
        assert_eq!(alike(&[182_000.0, 61_500.0, 12_345.6]), ["182000", "61500", "12346"]);
        assert_eq!(alike(&[1.0, 2.0]), ["1", "2"]);
        assert_eq!(alike(&[0.703147, 0.703149]), ["0.703147", "0.703149"]);
        assert_eq!(alike(&[1.0, 3e8]), ["1", "3.000·10^8"]);
        assert_eq!(alike(&[1000.0, 0.001]), ["1000", "0.001"]);
    }
}
