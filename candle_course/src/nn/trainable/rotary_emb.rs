//! `candle_nn::rotary_emb`, with gradients: rotary position embeddings (Su et al. 2021,
//! arXiv:2104.09864). Of each pair of numbers (a, b) of a head the rotation by an angle,
//! (a cos − b sin, a sin + b cos), is taken.

use candle_core::{D, Result, Tensor};

pub use candle_nn::rotary_emb::*;

/// `cos` or `sin`, `[T', D/2]` or `[N, T', D/2]`, for the first `length` places: `[1 or N, length, D/2]`.
fn angles(values: &Tensor, length: usize) -> Result<Tensor> {
    let values = if values.rank() == 2 { values.unsqueeze(0)? } else { values.clone() };
    values.narrow(1, 0, length)
}

/// The rotation of the pairs (a, b), joined by `join`.
fn rotate(
    a: &Tensor,
    b: &Tensor,
    cos: &Tensor,
    sin: &Tensor,
    join: impl Fn(&[Tensor]) -> Result<Tensor>,
) -> Result<Tensor> {
    let first = (a.broadcast_mul(cos)? - b.broadcast_mul(sin)?)?;
    let second = (a.broadcast_mul(sin)? + b.broadcast_mul(cos)?)?;
    join(&[first, second])
}

/// The rotation of pairs that lie half a head apart: `xs`: `[N, H, T, D]`, `cos` and `sin`:
/// `[T', D/2]` or `[N, T', D/2]` with T' ≥ T.
///
/// # Errors
/// If shapes do not fit.
pub fn rope(xs: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let (_, _, length, size) = xs.dims4()?;
    let (cos, sin) = (angles(cos, length)?.unsqueeze(1)?, angles(sin, length)?.unsqueeze(1)?);
    let (a, b) = (xs.narrow(D::Minus1, 0, size / 2)?, xs.narrow(D::Minus1, size / 2, size / 2)?);
    rotate(&a, &b, &cos, &sin, |parts| Tensor::cat(parts, D::Minus1))
}

/// The rotation of pairs that lie beside one another; shapes as those of [`rope`].
///
/// # Errors
/// If shapes do not fit.
pub fn rope_i(xs: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let (batch, heads, length, size) = xs.dims4()?;
    let (cos, sin) = (angles(cos, length)?.unsqueeze(1)?, angles(sin, length)?.unsqueeze(1)?);
    let pairs = xs.reshape((batch, heads, length, size / 2, 2))?;
    let (a, b) =
        (pairs.narrow(D::Minus1, 0, 1)?.squeeze(D::Minus1)?, pairs.narrow(D::Minus1, 1, 1)?.squeeze(D::Minus1)?);
    rotate(&a, &b, &cos, &sin, |parts| Tensor::stack(parts, D::Minus1)?.reshape((batch, heads, length, size)))
}

/// [`rope`] of `[N, T, H, D]`.
///
/// # Errors
/// If shapes do not fit.
pub fn rope_thd(xs: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    rope(&xs.transpose(1, 2)?, cos, sin)?.transpose(1, 2)?.contiguous()
}
