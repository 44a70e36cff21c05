//! Elementary functions that loops can vectorise, without fused operations: the same bits for
//! every instruction set.

use super::simd::Element;

/// A float with elementary functions that are the same bits on every machine.
pub trait Real: Element {
    /// e^x for x ≤ 0; NaN stays NaN. Written so that loops over it vectorise.
    fn exp_nonpositive(self) -> Self;
    /// ln(1 + x) for finite x ≥ 0; loops over it vectorise in f32.
    fn ln_1p(self) -> Self;
    /// 1 / (1 + e^−x).
    #[inline(always)]
    fn sigmoid(self) -> Self {
        let negative = self < Self::ZERO;
        let e = (if negative { self } else { -self }).exp_nonpositive();
        (if negative { e } else { Self::ONE }) / (Self::ONE + e)
    }
    /// tanh x; loops over it vectorise in f32.
    fn tanh(self) -> Self;
    /// Bits whose unsigned order is the order of non-negative numbers.
    fn order_bits(self) -> u64;
}

impl Real for f32 {
    #[inline(always)]
    fn exp_nonpositive(self) -> f32 {
        // Range reduction to |r| ≤ ln 2 / 2 and the minimax polynomial of the Cephes library:
        // relative error below 1.2e-7. No fused multiply-add, so that every machine gives the same bits.
        const ROUND: f32 = 12_582_912.0; // 1.5 · 2^23: adding it leaves the rounded integer in the low bits
        const LN_2_HIGH: f32 = 0.693_359_4; // exact in 10 bits
        const LN_2_LOW: f32 = -2.121_944_4e-4;
        const SMALLEST: f32 = -87.3;
        let x = if self < SMALLEST { SMALLEST } else { self };
        let shifted = x * std::f32::consts::LOG2_E + ROUND;
        let n = shifted - ROUND;
        let r = x - n * LN_2_HIGH - n * LN_2_LOW;
        let mut polynomial = 1.987_569_1e-4;
        polynomial = polynomial * r + 1.398_2e-3;
        polynomial = polynomial * r + 8.333_452e-3;
        polynomial = polynomial * r + 4.166_579_6e-2;
        polynomial = polynomial * r + 1.666_666_5e-1;
        polynomial = polynomial * r + 0.5;
        let fraction = polynomial * r * r + r + 1.0;
        let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
        if self < SMALLEST { 0.0 } else { fraction * power }
    }

    #[inline(always)]
    fn ln_1p(self) -> f32 {
        // 1 + x = 2^n m with m in [√½, √2), ln m by the Cephes polynomial; what the addition rounded
        // away comes back as a correction. Relative error below 3e-7, for tiny x too.
        const SQRT_HALF_BITS: u32 = 0x3f35_04f3;
        let u = 1.0 + self;
        let exponent = (u.to_bits().wrapping_sub(SQRT_HALF_BITS) as i32) >> 23;
        let f = f32::from_bits(u.to_bits().wrapping_sub((exponent << 23) as u32)) - 1.0;
        let n = exponent as f32;
        let mut polynomial = 7.037_683_6e-2;
        polynomial = polynomial * f - 1.151_461e-1;
        polynomial = polynomial * f + 1.167_699_9e-1;
        polynomial = polynomial * f - 1.242_014_1e-1;
        polynomial = polynomial * f + 1.424_932_3e-1;
        polynomial = polynomial * f - 1.666_805_8e-1;
        polynomial = polynomial * f + 2.000_071_5e-1;
        polynomial = polynomial * f - 2.499_999_4e-1;
        polynomial = polynomial * f + 3.333_333e-1;
        let square = f * f;
        let low = polynomial * f * square + n * -2.121_944_4e-4 - 0.5 * square;
        let lost = self - (u - 1.0);
        f + low + n * 0.693_359_4 + lost / u
    }

    #[inline(always)]
    fn tanh(self) -> f32 {
        // Near 0 the polynomial of the Cephes library, elsewhere by e^−2|x|.
        let square = self * self;
        let mut polynomial = -5.704_988_7e-3;
        polynomial = polynomial * square + 2.063_909e-2;
        polynomial = polynomial * square - 5.373_971_6e-2;
        polynomial = polynomial * square + 1.333_144_2e-1;
        polynomial = polynomial * square - 3.333_328e-1;
        let near = polynomial * square * self + self;
        let e = (-2.0 * self.abs()).exp_nonpositive();
        let far = ((1.0 - e) / (1.0 + e)).copysign(self);
        if self.abs() < 0.625 { near } else { far }
    }

    fn order_bits(self) -> u64 {
        u64::from(self.to_bits())
    }
}

impl Real for f64 {
    #[inline(always)]
    fn exp_nonpositive(self) -> f64 {
        self.exp()
    }

    #[inline(always)]
    fn ln_1p(self) -> f64 {
        f64::ln_1p(self)
    }

    #[inline(always)]
    fn tanh(self) -> f64 {
        f64::tanh(self)
    }

    fn order_bits(self) -> u64 {
        self.to_bits()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vector_exponential_is_right_to_two_units_in_the_last_place() {
        let mut x = 0.0f32;
        while x > -86.0 {
            let expected = f64::from(x).exp();
            let relative = (f64::from(x.exp_nonpositive()) - expected).abs() / expected;
            assert!(relative < 2.4e-7, "exp({x}): {relative:e}");
            x -= 1.3e-3;
        }
        assert_eq!(0f32.exp_nonpositive(), 1.0);
        assert_eq!(f32::NEG_INFINITY.exp_nonpositive(), 0.0);
        assert_eq!((-1e4f32).exp_nonpositive(), 0.0);
        assert!(f32::NAN.exp_nonpositive().is_nan());
    }
    #[test]
    fn the_logarithm_is_accurate() {
        let mut x = 1e-12f32;
        while x < 1e6 {
            let expected = f64::from(x).ln_1p();
            let relative = (f64::from(Real::ln_1p(x)) - expected).abs() / expected;
            assert!(relative < 3e-7, "ln(1 + {x}): {relative:e}");
            x *= 1.003;
        }
        assert_eq!(Real::ln_1p(0f32), 0.0);
        assert!(Real::ln_1p(f32::NAN).is_nan());
    }
    #[test]
    fn the_squashing_functions_are_accurate() {
        for i in -40_000..=40_000 {
            let x = i as f32 * 1e-3;
            let wide = f64::from(x);
            let tanh = (f64::from(Real::tanh(x)) - wide.tanh()).abs() / wide.tanh().abs().max(1e-30);
            let sigmoid = (f64::from(x.sigmoid()) * (1.0 + (-wide).exp()) - 1.0).abs();
            assert!(tanh < 4e-7 && sigmoid < 4e-7, "{x}: {tanh:e}, {sigmoid:e}");
        }
        assert!(Real::tanh(f32::NAN).is_nan() && f32::NAN.sigmoid().is_nan());
        assert_eq!((Real::tanh(f32::INFINITY), Real::tanh(-1e30f32)), (1.0, -1.0));
        assert_eq!((f32::INFINITY.sigmoid(), f32::NEG_INFINITY.sigmoid()), (1.0, 0.0));
    }
}
