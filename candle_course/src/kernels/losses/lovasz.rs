//! The Lovász extension of the Jaccard loss, value and gradient, by one sort per class.

use super::Real;

/// One pixel's error, in [0, 1] for Lovász-Softmax; whether it belongs to the class; where its
/// gradient goes; and the derivative of the error by what is differentiated.
pub(crate) struct Pixel<T> {
    pub error: T,
    pub truth: bool,
    pub slope: T,
    pub at: usize,
}

/// Σ eᵢ Δⱼᵢ over the pixels in the order of falling error, Δⱼ being what each adds to the Jaccard
/// loss of those before it; calls `gradient(at, Δⱼ · slope)` for every pixel.
///
/// The difference of two ratios is written out: 1/U when a true pixel is missed, I/(U (U + 1))
/// when a false one joins, with the remaining intersection I and the union U. Nothing cancels.
pub(crate) fn lovasz<T: Real>(pixels: &[Pixel<T>], mut gradient: impl FnMut(usize, T)) -> f64 {
    let order = falling(pixels);
    let truths = pixels.iter().filter(|pixel| pixel.truth).count();
    let (mut intersection, mut union) = (truths as f64, truths as f64);
    let mut total = 0.0;
    for index in order {
        let pixel = &pixels[index as usize];
        let added = match pixel.truth {
            true => {
                intersection -= 1.0;
                1.0 / union
            }
            // Of a class that does not occur, the worst pixel alone costs.
            false if truths == 0 => {
                let first = union == 0.0;
                union += 1.0;
                f64::from(u8::from(first))
            }
            false => {
                let added = intersection / (union * (union + 1.0));
                union += 1.0;
                added
            }
        };
        total += pixel.error.to_f64() * added;
        gradient(pixel.at, T::from_f64(added) * pixel.slope);
    }
    total
}

/// Indices by falling error; equal errors by rising index. Errors are not negative.
///
/// A radix sort over the bits of the number, which have the order of the numbers: linear in the
/// pixels, and in f32 three passes of 11 bits.
fn falling<T: Real>(pixels: &[Pixel<T>]) -> Vec<u32> {
    const BITS: u32 = 11;
    const BUCKETS: usize = 1 << BITS;
    let width = 8 * std::mem::size_of::<T>() as u32;
    let mut items: Vec<(u64, u32)> =
        pixels.iter().zip(0..).map(|(pixel, index)| (!pixel.error.order_bits(), index)).collect();
    if items.len() < 4096 {
        items.sort_unstable();
        return items.into_iter().map(|(_, index)| index).collect();
    }
    let mut other = vec![(0u64, 0u32); items.len()];
    for shift in (0..width).step_by(BITS as usize) {
        let digit = |key: u64| (key >> shift) as usize & (BUCKETS - 1);
        let mut starts = [0usize; BUCKETS];
        for &(key, _) in &items {
            starts[digit(key)] += 1;
        }
        if starts.contains(&items.len()) {
            continue; // all in one bucket
        }
        let mut sum = 0;
        for start in &mut starts {
            (*start, sum) = (sum, sum + *start);
        }
        for &item in &items {
            let start = &mut starts[digit(item.0)];
            other[*start] = item;
            *start += 1;
        }
        std::mem::swap(&mut items, &mut other);
    }
    items.into_iter().map(|(_, index)| index).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pixels<T: Real>(errors: &[f64]) -> Vec<Pixel<T>> {
        let of = |(at, &error): (usize, &f64)| Pixel {
            error: T::from_f64(error),
            truth: at.is_multiple_of(3),
            slope: T::one(),
            at,
        };
        errors.iter().enumerate().map(of).collect()
    }

    proptest! {
        #[test]
        fn the_radix_sort_is_a_stable_descending_sort(seed in 0u64..1000, length in 1usize..9000) {
            let mut generator = crate::random::Generator::new(seed);
            let errors: Vec<f64> = (0..length).map(|_| (generator.uniform() * 500.0).floor() / 250.0).collect();
            let mut expected: Vec<u32> = (0..length as u32).collect();
            expected.sort_by(|&a, &b| errors[b as usize].total_cmp(&errors[a as usize]));
            prop_assert_eq!(&falling(&pixels::<f64>(&errors)), &expected);
            let errors: Vec<f64> = errors.iter().map(|&e| f64::from(e as f32)).collect();
            prop_assert_eq!(&falling(&pixels::<f32>(&errors)), &expected);
        }

        #[test]
        fn on_hard_errors_the_extension_is_the_jaccard_loss(wrong in proptest::collection::vec(any::<bool>(), 1..60)) {
            // The extension agrees with the set function on its corners, whatever the order of ties.
            let errors: Vec<f64> = wrong.iter().map(|&w| f64::from(u8::from(w))).collect();
            let pixels = pixels::<f64>(&errors);
            let truths = pixels.iter().filter(|p| p.truth).count();
            let missed = pixels.iter().filter(|p| p.truth && p.error == 1.0).count();
            let false_alarms = pixels.iter().filter(|p| !p.truth && p.error == 1.0).count();
            let jaccard = (truths - missed) as f64 / (truths + false_alarms) as f64;
            let value = lovasz(&pixels, |_, _| ());
            prop_assert!((value - (1.0 - jaccard)).abs() < 1e-12);
        }
    }
}
