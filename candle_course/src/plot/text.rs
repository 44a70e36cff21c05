//! Measuring text: advance widths of Arial, Helvetica and the embedded font, which are the same.

/// Fonts of the figures in a browser, in order of preference; all but the last measure the same.
pub(super) const FAMILY: &str = "Helvetica,Arial,'Liberation Sans',Arimo,sans-serif";

const REGULAR: [u16; 95] = [
    278, 278, 355, 556, 556, 889, 667, 191, 333, 333, 389, 584, 278, 333, 278, 278, 556, 556, 556, 556, 556, 556, 556,
    556, 556, 556, 278, 278, 584, 584, 584, 556, 1015, 667, 667, 722, 722, 667, 611, 778, 722, 278, 500, 667, 556, 833,
    722, 778, 667, 778, 722, 667, 611, 722, 667, 944, 667, 667, 611, 278, 278, 278, 469, 556, 333, 556, 556, 500, 556,
    556, 278, 556, 556, 222, 222, 500, 222, 833, 556, 556, 556, 556, 333, 500, 278, 556, 500, 722, 500, 500, 500, 334,
    260, 334, 584,
];

const BOLD: [u16; 95] = [
    278, 333, 474, 556, 556, 889, 722, 238, 333, 333, 389, 584, 278, 333, 278, 278, 556, 556, 556, 556, 556, 556, 556,
    556, 556, 556, 333, 333, 584, 584, 584, 611, 975, 722, 722, 722, 722, 667, 611, 778, 722, 278, 556, 722, 611, 833,
    722, 778, 667, 778, 722, 667, 611, 722, 667, 944, 667, 667, 611, 333, 278, 333, 584, 556, 333, 556, 611, 556, 611,
    556, 333, 611, 611, 278, 278, 556, 278, 889, 611, 611, 611, 611, 389, 556, 333, 611, 556, 778, 556, 556, 500, 389,
    280, 389, 584,
];

/// Width of one line of text in pixels; the braces of a superscript `10^{3}` count as nothing.
pub(super) fn width(text: &str, size: f64, bold: bool) -> f64 {
    let table = if bold { &BOLD } else { &REGULAR };
    let mut total = 0.0;
    for (part, raised) in superscripts(text) {
        let thousandths: u32 = part
            .chars()
            .map(|c| match (c as usize).checked_sub(32).and_then(|index| table.get(index)) {
                Some(&advance) => u32::from(advance),
                None => 570,
            })
            .sum();
        total += f64::from(thousandths) * if raised { RAISED } else { 1.0 };
    }
    total * size / 1000.0
}

/// Size of a superscript relative to its line.
pub(super) const RAISED: f64 = 0.75;

/// Splits `a^{b}c` into `(a, false), (b, true), (c, false)`.
pub(super) fn superscripts(text: &str) -> Vec<(&str, bool)> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find("^{") {
        let Some(length) = rest[start..].find('}') else { break };
        parts.push((&rest[..start], false));
        parts.push((&rest[start + 2..start + length], true));
        rest = &rest[start + length + 1..];
    }
    parts.push((rest, false));
    parts.retain(|(part, _)| !part.is_empty());
    parts
}

/// The text cut to `limit` pixels with an ellipsis where it does not fit.
pub(super) fn fit(text: &str, size: f64, limit: f64) -> String {
    if width(text, size, false) <= limit {
        return text.to_string();
    }
    let mut short: String = text.to_string();
    while !short.is_empty() && width(&short, size, false) + width("…", size, false) > limit {
        short.pop();
    }
    format!("{}…", short.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_are_those_of_arial() {
        assert!((width("Loss", 10.0, false) - (5.56 + 5.56 + 5.0 + 5.0)).abs() < 1e-9);
        assert!(width("Loss", 10.0, true) > width("Loss", 10.0, false));
    }

    #[test]
    fn superscripts_are_small_and_their_braces_vanish() {
        assert_eq!(superscripts("2×10^{-3} s"), [("2×10", false), ("-3", true), (" s", false)]);
        assert_eq!(superscripts("a^{b"), [("a^{b", false)]);
        assert!((width("10^{3}", 10.0, false) - (2.0 * 5.56 + 0.75 * 5.56)).abs() < 1e-9);
    }

    #[test]
    fn long_text_is_cut() {
        assert_eq!(fit("short", 10.0, 100.0), "short");
        let cut = fit("a rather long caption", 10.0, 50.0);
        assert!(cut.ends_with('…') && width(&cut, 10.0, false) <= 50.0, "{cut}");
    }
}
