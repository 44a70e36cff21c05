//! Which way a value is better.

/// Which way a value is better.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// assert_eq!(Direction::Maximize.gain(0.75, 0.5), 0.25);
/// assert_eq!(Direction::Minimize.gain(0.75, 0.5), -0.25);
/// assert!(Direction::Minimize.gain(1e300, Direction::Minimize.worst()) > 0.0);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Larger is better (accuracy).
    Maximize,
    /// Smaller is better (a loss).
    Minimize,
}

impl Direction {
    /// By how much `value` is better than `than`; negative if it is worse.
    pub fn gain(self, value: f64, than: f64) -> f64 {
        match self {
            Self::Maximize => value - than,
            Self::Minimize => than - value,
        }
    }

    /// What every finite value is better than: an infinity.
    pub fn worst(self) -> f64 {
        match self {
            Self::Maximize => f64::NEG_INFINITY,
            Self::Minimize => f64::INFINITY,
        }
    }
}
