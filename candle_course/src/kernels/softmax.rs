//! Softmax along rows.

use super::buffer::written;
use super::parallel::for_parts;
use super::simd::Element;

/// The largest number of a row, and ln Σ e^(x − largest): together the row's log-sum-exp.
fn log_sum_exp<T: Element>(row: &[T]) -> (T, T) {
    let largest = row.iter().copied().fold(T::NEG_INFINITY, T::maximum);
    let sum: f64 = row.iter().map(|&x| (x - largest).exp().wide()).sum();
    (largest, T::of(sum.ln()))
}

/// log softmax of every row of `[rows, classes]`.
pub fn log_softmax<T: Element>(x: &[T], classes: usize) -> Vec<T> {
    written(x.len(), |y| {
        for_parts(y, classes, |row, y| {
            let x = &x[row * classes..][..classes];
            let (largest, log_sum) = log_sum_exp(x);
            y.iter_mut().zip(x).for_each(|(y, &x)| *y = x - largest - log_sum);
        });
    })
}

/// The gradient of [`log_softmax`], from its output: dx = dy − softmax · Σ dy.
pub fn log_softmax_backward<T: Element>(y: &[T], dy: &[T], classes: usize) -> Vec<T> {
    written(y.len(), |dx| {
        for_parts(dx, classes, |row, dx| {
            let (y, dy) = (&y[row * classes..][..classes], &dy[row * classes..][..classes]);
            let sum = T::of(super::reduce::sum(dy));
            for ((dx, &y), &dy) in dx.iter_mut().zip(y).zip(dy) {
                *dx = dy - y.exp() * sum;
            }
        });
    })
}
