//! How numbers are written in tables and reports.

/// A score to four decimals, or a dash where it is not defined.
pub(crate) fn score(value: impl Into<Option<f64>>) -> String {
    value.into().map_or("–".to_owned(), |value| format!("{value:.4}"))
}

#[cfg(test)]
mod tests {
    use super::score;

    #[test]
    fn scores_have_four_decimals_or_a_dash() {
        assert_eq!([score(0.5), score(2.0 / 3.0), score(None)], ["0.5000", "0.6667", "–"]);
    }
}
