//! How numbers are written in tables and reports, and how text from outside is.

use std::fmt::Display;

/// Text whose lines may reach a notebook's kernel. It takes lines with such words for its own
/// protocol, wherever they stand in a line: the name of a folder could begin a piece of HTML.
pub(crate) fn harmless(text: &str) -> String {
    text.replace("EVCXR_", "EVCXR-")
}

/// A name from outside, on one line.
pub(crate) fn one_line(name: &str) -> String {
    harmless(&name.replace(|letter: char| letter.is_control(), " "))
}

/// What groups of digits are set apart by where a comma could stand before decimals.
pub(crate) const THIN_SPACE: &str = "\u{202f}";

/// `1234567` as `1,234,567`, with what stands between the groups.
pub(crate) fn grouped(number: usize, between: &str) -> String {
    let digits = number.to_string();
    let first = digits.len() % 3;
    let mut groups: Vec<&str> = if first > 0 { vec![&digits[..first]] } else { vec![] };
    groups.extend((first..digits.len()).step_by(3).map(|start| &digits[start..start + 3]));
    groups.join(between)
}

/// [`one_line`] for XML, between tags or double quotes; it has no place for control characters anyway.
pub(crate) fn xml(name: &str) -> String {
    let mut xml = String::with_capacity(name.len());
    for letter in one_line(name).chars() {
        match letter {
            '&' => xml.push_str("&amp;"),
            '<' => xml.push_str("&lt;"),
            '>' => xml.push_str("&gt;"),
            '"' => xml.push_str("&quot;"),
            letter => xml.push(letter),
        }
    }
    xml
}

/// [`xml`] for HTML, between quotes of either kind.
pub(crate) fn html(name: &str) -> String {
    xml(name).replace('\'', "&#39;")
}

/// Prints a report in which there may be names from outside.
pub(crate) fn say(report: impl Display) {
    println!("{}", harmless(&report.to_string()));
}

/// A score to four decimals, or a dash where it is not defined.
pub(crate) fn score(value: impl Into<Option<f64>>) -> String {
    value.into().map_or("–".to_owned(), |value| format!("{value:.4}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_grouped_by_three() {
        let written = |between| [0, 999, 1000, 60_000, 1_234_567].map(|number| grouped(number, between)).join("; ");
        assert_eq!(written(","), "0; 999; 1,000; 60,000; 1,234,567");
        assert_eq!(written(THIN_SPACE), "0; 999; 1\u{202f}000; 60\u{202f}000; 1\u{202f}234\u{202f}567");
    }

    #[test]
    fn scores_have_four_decimals_or_a_dash() {
        assert_eq!([score(0.5), score(2.0 / 3.0), score(None)], ["0.5000", "0.6667", "–"]);
    }

    #[test]
    fn names_from_outside_are_neither_markup_nor_a_line_for_the_kernel() {
        let name = "cat\nEVCXR_BEGIN_CONTENT text/html\r\u{1b}[1m<b onload='x()' id=\"y\">&";
        assert_eq!(one_line(name), "cat EVCXR-BEGIN_CONTENT text/html  [1m<b onload='x()' id=\"y\">&");
        let html = html(name);
        assert!(html.starts_with("cat EVCXR-BEGIN") && !html.contains(['<', '>', '"', '\'', '\n']), "{html}");
        assert!(html.ends_with("&lt;b onload=&#39;x()&#39; id=&quot;y&quot;&gt;&amp;"), "{html}");
        assert_eq!(harmless("two\nlines"), "two\nlines");
    }
}
