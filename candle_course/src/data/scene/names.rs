//! Sentinel-2's names of bands, and the words for them.

const NAMES: [(&str, &str); 13] = [
    ("coastal", "B01"),
    ("blue", "B02"),
    ("green", "B03"),
    ("red", "B04"),
    ("red_edge_1", "B05"),
    ("red_edge_2", "B06"),
    ("red_edge_3", "B07"),
    ("nir", "B08"),
    ("nir_narrow", "B8A"),
    ("water_vapour", "B09"),
    ("cirrus", "B10"),
    ("swir1", "B11"),
    ("swir2", "B12"),
];

fn number(name: &str) -> Option<usize> {
    // Written without the zero, too: B2.
    let is = |code: &str| name.eq_ignore_ascii_case(code) || name.eq_ignore_ascii_case(&code.replace("B0", "B"));
    NAMES.iter().position(|(word, code)| name.eq_ignore_ascii_case(word) || is(code))
}

/// Whether the two names mean one band.
pub(super) fn alike(a: &str, b: &str) -> bool {
    a.eq_ignore_ascii_case(b) || number(a).is_some_and(|a| number(b) == Some(a))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_understood() {
        for (a, b) in [("B02", "blue"), ("NIR", "b8"), ("B8A", "nir_narrow"), ("scl", "SCL"), ("B11", "swir1")] {
            assert!(alike(a, b) && alike(b, a), "{a} {b}");
        }
        for (a, b) in [("B08", "B8A"), ("B1", "B11"), ("B02", "B03"), ("elevation", "slope")] {
            assert!(!alike(a, b) && !alike(b, a), "{a} {b}");
        }
    }
}
