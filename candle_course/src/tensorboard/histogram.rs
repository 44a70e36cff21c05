//! Values in buckets.

use super::proto::Histogram;
use crate::error::{Error, Result};

const BUCKETS: usize = 64;

/// The values in 64 equally wide buckets from the smallest to the largest.
pub(super) fn histogram(tag: &str, values: &[f64]) -> Result<Histogram> {
    if values.is_empty() {
        return Err(Error::argument("values", format!("at least one value for `{tag}`"), "none"));
    }
    let bad = values.iter().filter(|value| !value.is_finite()).count();
    if bad > 0 {
        let got = format!("{bad} NaN or infinite of {}", values.len());
        return Err(
            Error::argument("values", format!("finite values for `{tag}`"), got).hint("has the training diverged?")
        );
    }
    let min = values.iter().copied().fold(f64::INFINITY, f64::min);
    let max = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut result = Histogram {
        min,
        max,
        num: values.len() as f64,
        sum: values.iter().sum(),
        sum_squares: values.iter().map(|value| value * value).sum(),
        ..Histogram::default()
    };
    if max - min <= 1e-12 * max.abs().max(min.abs()) {
        // One value: a bucket just around it, as the limits must grow.
        let half = if max == 0.0 { 1e-6 } else { 1e-6 * max.abs() };
        result.bucket_limit = vec![min - half, max + half];
        result.bucket = vec![0.0, values.len() as f64];
        return Ok(result);
    }
    let width = (max - min) / BUCKETS as f64;
    // Readers take the smallest value for the left edge of the first bucket.
    result.bucket_limit = (1..BUCKETS).map(|index| min + width * index as f64).chain([max]).collect();
    result.bucket = vec![0.0; BUCKETS];
    for value in values {
        result.bucket[(((value - min) / width) as usize).min(BUCKETS - 1)] += 1.0;
    }
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_in_one_bucket() {
        let values: Vec<f64> = (0..1000).map(|i| f64::from(i * 37 % 101) - 50.0).collect();
        let h = histogram("w", &values).unwrap();
        assert_eq!((h.min, h.max, h.num), (-50.0, 50.0, 1000.0));
        assert_eq!(h.bucket.iter().sum::<f64>(), 1000.0);
        assert_eq!((h.bucket.len(), h.bucket_limit.len()), (64, 64));
        assert!(h.bucket_limit.windows(2).all(|pair| pair[0] < pair[1]));
        let below: f64 = h.bucket[..32].iter().sum();
        assert_eq!(below, values.iter().filter(|&&value| value < 0.0).count() as f64);
        assert!((h.sum - values.iter().sum::<f64>()).abs() < 1e-9);
    }

    #[test]
    fn one_value_many_times() {
        let h = histogram("w", &[2.0; 5]).unwrap();
        assert_eq!(h.bucket, [0.0, 5.0]);
        assert!(h.bucket_limit[0] < 2.0 && h.bucket_limit[1] > 2.0);
    }

    #[test]
    fn nan_is_an_error_that_names_the_tag() {
        let error = histogram("fc1.weight", &[1.0, f64::NAN]).unwrap_err().to_string();
        assert!(error.contains("`fc1.weight`, got 1 NaN or infinite of 2"), "{error}");
        assert!(histogram("w", &[]).is_err());
    }
}
