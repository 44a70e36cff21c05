//! From values to pixels, and the round numbers between.

/// An axis: the range of its values and of its pixels.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scale {
    pub low: f64,
    pub high: f64,
    pub log: bool,
    /// Pixel of `low` and pixel of `high`.
    pub pixels: (f64, f64),
}

impl Scale {
    pub fn at(&self, value: f64) -> f64 {
        let share = if self.log {
            (value / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        self.pixels.0 + share * (self.pixels.1 - self.pixels.0)
    }
}

/// A labelled place on an axis.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tick {
    pub value: f64,
    pub label: String,
}

/// A range that leaves `share` of itself free at both ends and is never empty. A range of positive
/// values that comes near zero begins there.
pub(super) fn padded(low: f64, high: f64, log: bool, share: f64) -> (f64, f64) {
    if log {
        if high <= low * (1.0 + 1e-9) {
            return (low / 2.0, high * 2.0);
        }
        let factor = (high / low).powf(share);
        return (low / factor, high * factor);
    }
    if high - low <= 1e-12 * high.abs().max(low.abs()) {
        let half = if low == 0.0 { 0.5 } else { 0.1 * low.abs() };
        return (low - half, high + half);
    }
    let pad = share * (high - low);
    let down = if low == 0.0 || (share > 0.0 && low > 0.0 && low < 0.3 * high) { 0.0 } else { low - pad };
    let up = if high == 0.0 { 0.0 } else { high + pad };
    (down, up)
}

/// About `target` ticks on round numbers; `integers` keeps halves off an axis of epochs.
pub(super) fn ticks(low: f64, high: f64, log: bool, target: usize, integers: bool) -> Vec<Tick> {
    let target = target.max(2);
    if log && let Some(ticks) = log_ticks(low, high, target) {
        return ticks;
    }
    let magnitude = 10f64.powf(((high - low) / target as f64).log10().floor());
    // The finest round step that gives hardly more ticks than asked for.
    let step = [0.5, 1.0, 2.0, 2.5, 5.0, 10.0, 20.0]
        .into_iter()
        .map(|m| m * magnitude)
        .filter(|step| !integers || (*step >= 1.0 && step.fract() == 0.0))
        .find(|step| ((high / step).floor() - (low / step).ceil()) as usize + 1 <= target + 2)
        .unwrap_or(if integers { magnitude.max(1.0) * 10.0 } else { 20.0 * magnitude });
    let (first, last) = ((low / step - 1e-6).ceil() as i64, (high / step + 1e-6).floor() as i64);
    let values: Vec<f64> = (first..=last).map(|index| index as f64 * step).collect();
    let labels = linear_labels(&values, step);
    values.into_iter().zip(labels).map(|(value, label)| Tick { value, label }).collect()
}

fn linear_labels(values: &[f64], step: f64) -> Vec<String> {
    let largest = values.iter().fold(0f64, |largest, value| largest.max(value.abs()));
    let (unit, suffix) = if largest >= 1e15 {
        let exponent = largest.log10().floor() as i32;
        (10f64.powi(exponent), format!("×10^{{{exponent}}}"))
    } else if largest >= 1e4 {
        let (unit, prefix) = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")]
            .into_iter()
            .find(|(unit, _)| largest >= *unit)
            .unwrap_or((1.0, ""));
        (unit, prefix.to_string())
    } else if largest < 2e-3 && largest > 0.0 {
        let exponent = largest.log10().floor() as i32;
        (10f64.powi(exponent), format!("×10^{{{exponent}}}"))
    } else {
        (1.0, String::new())
    };
    let decimals = decimals_of(step / unit);
    values
        .iter()
        .map(|&value| match value {
            0.0 => "0".to_string(),
            value => format!("{}{suffix}", signed(format!("{:.decimals$}", value / unit))),
        })
        .collect()
}

/// Decimals needed to write multiples of `step` exactly, at most 6.
fn decimals_of(step: f64) -> usize {
    (0..6)
        .find(|&decimals| ((step * 10f64.powi(decimals)).round() - step * 10f64.powi(decimals)).abs() < 1e-6)
        .unwrap_or(6) as usize
}

fn log_ticks(low: f64, high: f64, target: usize) -> Option<Vec<Tick>> {
    let (first, last) = ((low.log10() - 1e-9).ceil() as i32, (high.log10() + 1e-9).floor() as i32);
    let multiples = |allowed: &[i32]| -> Vec<(i32, i32)> {
        (first - 1..=last)
            .flat_map(|exponent| allowed.iter().map(move |&m| (m, exponent)))
            .filter(|&(m, exponent)| {
                let value = f64::from(m) * 10f64.powi(exponent);
                value >= low * (1.0 - 1e-9) && value <= high * (1.0 + 1e-9)
            })
            .collect()
    };
    let mut chosen = multiples(&[1]);
    if chosen.len() > target {
        let stride = chosen.len().div_ceil(target) as i32;
        chosen.retain(|(_, exponent)| exponent.rem_euclid(stride) == 0);
    } else if chosen.len() < 3 {
        chosen = [&[1, 2, 5][..], &[1, 2, 3, 4, 5, 6, 7, 8, 9]].into_iter().map(multiples).find(|c| c.len() >= 3)?;
        if chosen.len() > target + 3 {
            chosen.retain(|(m, _)| [1, 2, 5].contains(m));
        }
    }
    if chosen.len() < 2 {
        return None;
    }
    let scientific = chosen.iter().any(|(_, exponent)| !(-3..4).contains(exponent));
    let label = |(m, exponent): (i32, i32)| match (scientific, m) {
        (false, _) => format!("{:.*}", (-exponent).max(0) as usize, f64::from(m) * 10f64.powi(exponent)),
        (true, 1) => format!("10^{{{exponent}}}"),
        (true, m) => format!("{m}×10^{{{exponent}}}"),
    };
    Some(chosen.into_iter().map(|(m, e)| Tick { value: f64::from(m) * 10f64.powi(e), label: label((m, e)) }).collect())
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

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(low: f64, high: f64, log: bool, target: usize) -> Vec<String> {
        ticks(low, high, log, target, false).into_iter().map(|tick| tick.label).collect()
    }

    #[test]
    fn linear_ticks_are_round() {
        assert_eq!(labels(0.0, 1.0, false, 5), ["0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!(labels(-1.3, 2.2, false, 4), ["−1", "0", "1", "2"]);
        assert_eq!(labels(0.0, 47_000.0, false, 5), ["0", "10k", "20k", "30k", "40k"]);
        assert_eq!(labels(0.0, 3e6, false, 3), ["0", "1M", "2M", "3M"]);
        assert_eq!(labels(0.0, 4e-4, false, 4), ["0", "1×10^{-4}", "2×10^{-4}", "3×10^{-4}", "4×10^{-4}"]);
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
        assert_eq!(labels(1e-12, 1e12, true, 5).len(), 5);
    }

    #[test]
    fn every_tick_is_inside_the_axis() {
        for (low, high, log) in
            [(0.1, 0.13, true), (1e-9, 3.0, true), (-7.2, 19.0, false), (2.0, 2.001, false), (1.0, 1.5, true)]
        {
            let ticks = ticks(low, high, log, 6, false);
            assert!((2..=10).contains(&ticks.len()), "{low}..{high}: {ticks:?}");
            for tick in ticks {
                assert!(
                    tick.value >= low * 0.999_999 - 1e-9 && tick.value <= high * 1.000_001 + 1e-9,
                    "{low}..{high}: {tick:?}"
                );
            }
        }
    }

    #[test]
    fn ranges_are_never_empty() {
        for (low, high, log) in [(0.0, 0.0, false), (3.0, 3.0, false), (-2.0, -2.0, false), (0.1, 0.1, true)] {
            let (down, up) = padded(low, high, log, 0.05);
            assert!(down < low && up > high, "{low}..{high}: {down}..{up}");
        }
        assert_eq!(padded(0.2, 2.0, false, 0.05).0, 0.0);
        assert!((padded(1.0, 2.0, false, 0.05).0 - 0.95).abs() < 1e-12);
    }

    #[test]
    fn a_log_scale_is_even_in_ratios() {
        let scale = Scale { low: 1e-4, high: 1.0, log: true, pixels: (0.0, 400.0) };
        assert!((scale.at(1e-2) - 200.0).abs() < 1e-9);
    }

    #[test]
    fn compact_numbers() {
        let texts = [0.0, 1.0, 0.98765, 12345.678, 0.00123456, 1e-7, 123_456_789.0, -2.5, f64::NAN, f64::NEG_INFINITY]
            .map(compact);
        assert_eq!(texts, ["0", "1", "0.9877", "12346", "0.001235", "1.000·10^−7", "1.235·10^8", "−2.5", "NaN", "−∞"]);
    }
}
