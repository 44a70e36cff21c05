//! From planes of channels to pixels whose channels are neighbours, and back.

use super::simd::{Element, Simd};

/// Numbers of the largest square of lanes.
const SQUARE: usize = 16 * 16;

/// Writes LANES planes, pixel by pixel: the channels of pixel (y, x) to `to + y · row_stride + x · pixel_stride`.
///
/// # Safety
/// `rows · width` numbers must be readable in each of LANES planes, `plane` apart, and LANES numbers
/// writable for every pixel.
#[inline(always)]
pub unsafe fn to_pixels<T: Element, S: Simd<T>>(
    simd: S,
    planes: *const T,
    plane: usize,
    (rows, width): (usize, usize),
    to: *mut T,
    (row_stride, pixel_stride): (usize, usize),
) {
    let pixels = rows * width;
    // SAFETY: pixels below `rows · width` of LANES planes, as the caller guarantees; the square holds
    // LANES rows of LANES numbers.
    unsafe {
        if width.is_multiple_of(S::LANES) {
            for y in 0..rows {
                for x in (0..width).step_by(S::LANES) {
                    let source = planes.add(y * width + x);
                    simd.transpose(source, plane, to.add(y * row_stride + x * pixel_stride), pixel_stride);
                }
            }
            return;
        }
        if pixels < S::LANES {
            for pixel in 0..pixels {
                let to = to.add(pixel / width * row_stride + pixel % width * pixel_stride);
                for lane in 0..S::LANES {
                    *to.add(lane) = *planes.add(lane * plane + pixel);
                }
            }
            return;
        }
        let mut square = [T::ZERO; SQUARE];
        let mut next = 0;
        while next < pixels {
            // The last square begins earlier, and writes some pixels again.
            let first = next.min(pixels - S::LANES);
            simd.transpose(planes.add(first), plane, square.as_mut_ptr(), S::LANES);
            let (mut y, mut x) = (first / width, first % width);
            for i in 0..S::LANES {
                simd.store(to.add(y * row_stride + x * pixel_stride), simd.load(square.as_ptr().add(i * S::LANES)));
                x += 1;
                if x == width {
                    (y, x) = (y + 1, 0);
                }
            }
            next = first + S::LANES;
        }
    }
}

/// Writes the first `channels` of `pixels` pixels, `pixel_stride` apart, into planes.
///
/// # Safety
/// LANES numbers must be readable for every pixel, and `pixels` numbers writable in each of
/// `channels` planes, `plane` apart; `channels` at most LANES.
#[inline(always)]
pub unsafe fn to_planes<T: Element, S: Simd<T>>(
    simd: S,
    from: *const T,
    pixel_stride: usize,
    pixels: usize,
    channels: usize,
    planes: *mut T,
    plane: usize,
) {
    // SAFETY: pixels below `pixels` of planes below `channels`, as the caller guarantees; the square
    // holds LANES rows of LANES numbers.
    unsafe {
        if pixels < S::LANES {
            for pixel in 0..pixels {
                for channel in 0..channels {
                    *planes.add(channel * plane + pixel) = *from.add(pixel * pixel_stride + channel);
                }
            }
            return;
        }
        let mut square = [T::ZERO; SQUARE];
        let mut next = 0;
        while next < pixels {
            // The last square begins earlier, and writes some pixels again.
            let first = next.min(pixels - S::LANES);
            let source = from.add(first * pixel_stride);
            if channels == S::LANES {
                simd.transpose(source, pixel_stride, planes.add(first), plane);
            } else {
                simd.transpose(source, pixel_stride, square.as_mut_ptr(), S::LANES);
                for channel in 0..channels {
                    let row = square.as_ptr().add(channel * S::LANES);
                    planes.add(channel * plane + first).copy_from_nonoverlapping(row, S::LANES);
                }
            }
            next = first + S::LANES;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::simd::{Kernel, Plain};
    use super::*;

    /// There and back, with rows that are whole vectors and rows that are not.
    struct RoundTrip;
    impl Kernel<f32> for RoundTrip {
        type Output = ();
        #[inline(always)]
        fn run<S: Simd<f32>>(self, simd: S) {
            for (rows, width) in [(1, 1), (2, 3), (3, 5), (4, 8), (2, 16), (5, 7), (3, 32), (1, 17)] {
                let (pixels, plane) = (rows * width, rows * width + 3);
                let planes: Vec<f32> = (0..S::LANES * plane).map(|i| i as f32).collect();
                let strides = ((width + 2) * S::LANES, S::LANES);
                let mut padded = vec![-1f32; rows * strides.0];
                // SAFETY: LANES planes of `pixels` numbers and rows of `width` pixels fit both buffers.
                unsafe { to_pixels(simd, planes.as_ptr(), plane, (rows, width), padded.as_mut_ptr(), strides) };
                let mut flat = Vec::new();
                for y in 0..rows {
                    for x in 0..width + 2 {
                        for lane in 0..S::LANES {
                            let found = padded[y * strides.0 + x * S::LANES + lane];
                            let expected = if x < width { planes[lane * plane + y * width + x] } else { -1.0 };
                            assert_eq!(found, expected, "{rows} × {width}: ({y}, {x}), lane {lane}");
                            flat.extend((x < width).then_some(found));
                        }
                    }
                }
                for channels in [1, S::LANES - 1, S::LANES] {
                    let mut back = vec![-1f32; planes.len()];
                    // SAFETY: `flat` has all pixels, and `back` all planes.
                    unsafe { to_planes(simd, flat.as_ptr(), S::LANES, pixels, channels, back.as_mut_ptr(), plane) };
                    for (i, &value) in back.iter().enumerate() {
                        let inside = i / plane < channels && i % plane < pixels;
                        assert_eq!(value, if inside { planes[i] } else { -1.0 }, "{rows} × {width}, {channels}: {i}");
                    }
                }
            }
        }
    }

    #[test]
    fn planes_become_pixels_and_planes_again() {
        f32::dispatch(RoundTrip);
        RoundTrip.run(Plain::<4>);
        RoundTrip.run(Plain::<8>);
        RoundTrip.run(Plain::<16>);
    }
}
