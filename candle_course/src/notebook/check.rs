//! Checks of an exercise.

use std::fmt::Debug;

use candle_core::{DType, Tensor};

use crate::language::{chosen, told};
use crate::plot::compact;
use crate::text::say;

/// Checks of one exercise: what is right, and for what is not, what was expected, what came, and
/// the likely mistake, in the language that [`set_language`](crate::language::set_language) chose.
///
/// [`finish`](Self::finish) prints a green or red line per check and says whether all are right. It is
/// no error: a notebook that is run as a whole goes on behind an exercise that nobody has solved yet.
///
/// # Examples
///
/// ```
/// use candle_course::notebook::Check;
///
/// let steps = 938;
/// let loss = 0.6931;
/// let right = Check::new("Exercise 1")
///     .equal("steps per epoch", 938, steps, "divide the examples by the batch size and round up")
///     .close("loss of two equal logits", 2f64.ln(), loss, 1e-3, "is it the natural logarithm?")
///     .that("the loss is positive", loss > 0.0, "did you forget the minus sign?")
///     .finish();
/// assert!(right);
/// ```
#[derive(Debug, Clone)]
#[must_use = "checks report in `finish`"]
pub struct Check {
    name: String,
    lines: Vec<(bool, String)>,
}

impl Check {
    /// No checks yet, of the exercise with this name.
    pub fn new(name: &str) -> Self {
        Self { name: name.into(), lines: Vec::new() }
    }

    /// Two equal values.
    pub fn equal<T: PartialEq + Debug>(self, what: &str, expected: T, got: T, hint: &str) -> Self {
        let right = expected == got;
        self.add(right, what, || told!("expected {:?}, got {:?}", "esperado: {:?}, obtido: {:?}", expected, got), hint)
    }

    /// Two numbers that differ by no more than `tolerance`; NaN is never close.
    pub fn close(self, what: &str, expected: f64, got: f64, tolerance: f64, hint: &str) -> Self {
        let right = expected == got || (expected - got).abs() <= tolerance;
        self.add(
            right,
            what,
            || {
                told!(
                    "expected {} ± {}, got {}",
                    "esperado: {} ± {}, obtido: {}",
                    long(expected),
                    compact(tolerance),
                    long(got)
                )
            },
            hint,
        )
    }

    /// Two lists of numbers that nowhere differ by more than `tolerance`.
    pub fn close_all(self, what: &str, expected: &[f64], got: &[f64], tolerance: f64, hint: &str) -> Self {
        if expected.len() != got.len() {
            let details =
                told!("expected {} values, got {}", "esperados: {} valores, obtidos: {}", expected.len(), got.len());
            return self.add(false, what, || details, hint);
        }
        let worst = expected.iter().zip(got).position(|(e, g)| (e - g).abs() > tolerance || e.is_nan() || g.is_nan());
        let details = worst.map_or(String::new(), |index| {
            told!(
                "value {}: expected {} ± {}, got {}",
                "valor {}: esperado: {} ± {}, obtido: {}",
                index,
                long(expected[index]),
                compact(tolerance),
                long(got[index])
            )
        });
        self.add(worst.is_none(), what, || details, hint)
    }

    /// Two tensors of the same shape that nowhere differ by more than `tolerance`.
    pub fn tensors(self, what: &str, expected: &Tensor, got: &Tensor, tolerance: f64, hint: &str) -> Self {
        if expected.dims() != got.dims() {
            let details = told!(
                "expected shape {:?}, got {:?}",
                "formato esperado: {:?}, obtido: {:?}",
                expected.dims(),
                got.dims()
            );
            return self.add(false, what, || details, hint);
        }
        let read = |tensor: &Tensor| tensor.flatten_all()?.to_dtype(DType::F64)?.to_vec1::<f64>();
        match (read(expected), read(got)) {
            (Ok(expected), Ok(got)) => self.close_all(what, &expected, &got, tolerance, hint),
            (Err(error), _) | (_, Err(error)) => {
                self.add(false, what, || told!("cannot be read: {}", "não pode ser lido: {}", error), hint)
            }
        }
    }

    /// The shape of a tensor.
    pub fn shape(self, what: &str, expected: &[usize], got: &Tensor, hint: &str) -> Self {
        let right = expected == got.dims();
        self.add(
            right,
            what,
            || told!("expected shape {:?}, got {:?}", "formato esperado: {:?}, obtido: {:?}", expected, got.dims()),
            hint,
        )
    }

    /// Anything that can be true.
    pub fn that(self, what: &str, right: bool, hint: &str) -> Self {
        self.add(right, what, || chosen("this does not hold", "isto não vale").into(), hint)
    }

    /// Prints the outcome; whether there was a check and every one holds.
    pub fn finish(self) -> bool {
        say(self.report());
        !self.lines.is_empty() && self.lines.iter().all(|(right, _)| *right)
    }

    fn report(&self) -> String {
        const GREEN: &str = "\x1b[32m";
        const RED: &str = "\x1b[31m";
        const END: &str = "\x1b[0m";
        let mut text = format!("\x1b[1m{}{END}", self.name);
        for (right, line) in &self.lines {
            let (color, sign) = if *right { (GREEN, "✓") } else { (RED, "✗") };
            text += &format!("\n{color}{sign} {line}{END}");
        }
        if self.lines.is_empty() {
            text += &format!("\n{RED}✗ {}{END}", chosen("nothing was checked", "nada foi verificado"));
        }
        text
    }

    fn add(mut self, right: bool, what: &str, details: impl FnOnce() -> String, hint: &str) -> Self {
        let line = match (right, hint.is_empty()) {
            (true, _) => what.to_string(),
            (false, true) => format!("{what}: {}", details()),
            (false, false) => format!("{what}: {}\n  {}: {hint}", details(), chosen("hint", "dica")),
        };
        self.lines.push((right, line));
        self
    }
}

/// As many digits as tell near numbers apart.
fn long(value: f64) -> String {
    let text = format!("{value:.7}");
    if value == 0.0 {
        return "0".to_owned();
    }
    match text.contains('.') && value.abs() >= 1e-4 {
        true => text.trim_end_matches('0').trim_end_matches('.').to_string(),
        false => format!("{value:e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn a_failed_check_tells_what_was_expected_and_why() {
        let check = Check::new("Exercise 1")
            .equal("shape", vec![2, 3], vec![3, 2], "transpose")
            .close("loss", 0.5, 0.5000001, 1e-6, "")
            .close("rate", 0.1, f64::NAN, 1.0, "divided by zero?");
        let report = check.report();
        assert!(report.contains("✗ shape: expected [2, 3], got [3, 2]\n  hint: transpose"), "{report}");
        assert!(report.contains("✓ loss"), "{report}");
        assert!(report.contains("✗ rate: expected 0.1 ± 1, got NaN"), "{report}");
        assert!(!check.finish());
    }

    #[test]
    fn tensors_are_compared_by_shape_and_value() {
        let tensor = |values: &[f32]| Tensor::new(values, &Device::Cpu).unwrap();
        let expected = tensor(&[1.0, 2.0]);
        assert!(Check::new("").tensors("x", &expected, &tensor(&[1.0, 2.0 + 1e-6]), 1e-5, "").finish());
        let report = Check::new("").tensors("x", &expected, &tensor(&[1.0, 2.5]), 1e-5, "").report();
        assert!(report.contains("value 1: expected 2 ±") && report.contains("got 2.5"), "{report}");
        assert!(
            Check::new("")
                .tensors("x", &expected, &tensor(&[1.0]), 1.0, "")
                .report()
                .contains("expected shape [2], got [1]")
        );
    }

    #[test]
    fn zero_is_a_zero() {
        assert_eq!([long(0.0), long(-0.0), long(1.5), long(2e-5)], ["0", "0", "1.5", "2e-5"]);
    }

    #[test]
    fn no_check_at_all_is_no_success() {
        let empty = Check::new("empty");
        assert!(empty.report().contains("✗ nothing was checked"));
        assert!(!empty.finish());
    }
}
