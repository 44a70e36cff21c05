//! Colours.

use plotters::style::{RGBColor, WHITE};

/// The palette of Okabe and Ito, safe for colour-blind readers, in the order in which series take
/// their colours: blue, vermillion, green, orange, purple, sky blue, black, yellow.
///
/// Reference: Okabe & Ito, *Color Universal Design* (2008).
pub const PALETTE: [&str; 8] = ["#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#222222", "#F0E442"];

pub(super) const TEXT: RGBColor = RGBColor(0x22, 0x22, 0x22);
pub(super) const MUTED: RGBColor = RGBColor(0x66, 0x66, 0x66);
pub(super) const GRID: RGBColor = RGBColor(0xe8, 0xe8, 0xe8);
pub(super) const AXIS: RGBColor = RGBColor(0x99, 0x99, 0x99);
pub(super) const RIGHT: RGBColor = RGBColor(0x00, 0x7a, 0x59);
pub(super) const WRONG: RGBColor = RGBColor(0xb8, 0x4f, 0x00);

/// The colour of series number `index`.
pub(super) fn color(index: usize) -> RGBColor {
    let hex = PALETTE[index % PALETTE.len()];
    let channel = |c: usize| u8::from_str_radix(&hex[2 * c + 1..2 * c + 3], 16).unwrap_or(0);
    RGBColor(channel(0), channel(1), channel(2))
}

/// White to dark blue, even in lightness; `position` in `[0, 1]`.
pub(super) fn sequential(position: f64) -> [u8; 3] {
    const STOPS: [[f64; 3]; 5] =
        [[247.0, 251.0, 255.0], [198.0, 219.0, 239.0], [107.0, 174.0, 214.0], [33.0, 113.0, 181.0], [8.0, 48.0, 107.0]];
    interpolate(&STOPS, position)
}

/// Vermillion through white to blue; `position` in `[0, 1]`, white at a half.
pub(super) fn diverging(position: f64) -> [u8; 3] {
    const STOPS: [[f64; 3]; 5] =
        [[166.0, 66.0, 0.0], [240.0, 170.0, 120.0], [250.0, 250.0, 250.0], [130.0, 185.0, 220.0], [0.0, 80.0, 140.0]];
    interpolate(&STOPS, position)
}

fn interpolate(stops: &[[f64; 3]; 5], position: f64) -> [u8; 3] {
    let scaled = position.clamp(0.0, 1.0) * 4.0;
    let index = (scaled as usize).min(3);
    let share = scaled - index as f64;
    std::array::from_fn(|c| (stops[index][c] + (stops[index + 1][c] - stops[index][c]) * share).round() as u8)
}

/// Black or white, whichever is legible on `ground`.
pub(super) fn on([red, green, blue]: [u8; 3]) -> RGBColor {
    let light = 0.299 * f64::from(red) + 0.587 * f64::from(green) + 0.114 * f64::from(blue);
    if light > 140.0 { TEXT } else { WHITE }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_hit_their_ends_and_middle() {
        assert_eq!(sequential(0.0), [247, 251, 255]);
        assert_eq!(sequential(1.0), [8, 48, 107]);
        assert_eq!(diverging(0.5), [250, 250, 250]);
        assert_eq!(on(sequential(1.0)), WHITE);
        assert_eq!(on(sequential(0.0)), TEXT);
    }

    #[test]
    fn colours_are_those_of_the_palette() {
        assert_eq!([color(0), color(9)], [RGBColor(0x00, 0x72, 0xB2), RGBColor(0xD5, 0x5E, 0x00)]);
    }

    #[test]
    fn sequential_darkens_all_the_way() {
        let lightness = |p: f64| sequential(p).iter().map(|&c| u32::from(c)).sum::<u32>();
        for step in 0..20 {
            assert!(lightness(f64::from(step) / 20.0) > lightness(f64::from(step + 1) / 20.0));
        }
    }
}
