//! Softmax along rows.

use super::buffer::written;
use super::parallel::for_parts;
use super::reduce::for_planes;
use super::simd::Element;

/// The largest number of a row, and ln Σ e^(x − largest): together the row's log-sum-exp.
fn log_sum_exp<T: Element>(row: &[T]) -> (T, T) {
    let largest = row.iter().copied().fold(T::NEG_INFINITY, T::maximum);
    let sum: T = row.iter().map(|&x| (x - largest).exp()).sum();
    (largest, sum.ln())
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
            let sum: T = dy.iter().copied().sum();
            for ((dx, &y), &dy) in dx.iter_mut().zip(y).zip(dy) {
                *dx = dy - y.exp() * sum;
            }
        });
    })
}

/// The options of cross-entropy.
pub struct CrossEntropy<'a, T> {
    pub classes: usize,
    pub weight: Option<&'a [T]>,
    pub ignore_index: Option<u32>,
    pub smoothing: f64,
}

impl<T: Element> CrossEntropy<'_, T> {
    fn weight(&self, class: usize) -> T {
        self.weight.map_or(T::ONE, |weight| weight[class])
    }

    /// What a class contributes to the loss of an example with this target: loss = −Σ q · log p.
    fn target(&self, class: usize, target: usize) -> T {
        let spread = T::of(self.smoothing / self.classes as f64);
        let hit = if class == target { T::of(1.0 - self.smoothing) } else { T::ZERO };
        (spread + hit) * self.weight(class)
    }

    /// The loss of every example; 0 for ignored ones.
    pub fn forward(&self, logits: &[T], targets: &[u32]) -> Vec<T> {
        written(targets.len(), |losses| {
            let share = (super::parallel::SMALL / self.classes).max(1);
            for_planes(losses, share, logits.len(), |first, losses| {
                for (row, loss) in (first..).zip(losses) {
                    *loss = self.loss(&logits[row * self.classes..][..self.classes], targets[row]);
                }
            });
        })
    }

    fn loss(&self, row: &[T], target: u32) -> T {
        if Some(target) == self.ignore_index {
            return T::ZERO;
        }
        let target = target as usize;
        let (largest, log_sum) = log_sum_exp(row);
        // In this order: beside large logits the sum's logarithm would be rounded away.
        let surprise = |class: usize| (largest - row[class]) + log_sum;
        if self.smoothing == 0.0 {
            return self.weight(target) * surprise(target);
        }
        (0..self.classes).map(|class| self.target(class, target) * surprise(class)).sum()
    }

    /// The gradient of the logits, from that of every example's loss.
    pub fn backward(&self, logits: &[T], targets: &[u32], d_losses: &[T]) -> Vec<T> {
        written(logits.len(), |dx| {
            for_parts(dx, self.classes, |row, dx| {
                if Some(targets[row]) == self.ignore_index {
                    dx.fill(T::ZERO);
                    return;
                }
                let (target, scale) = (targets[row] as usize, d_losses[row]);
                let x = &logits[row * self.classes..][..self.classes];
                let (largest, log_sum) = log_sum_exp(x);
                let total: T = if self.smoothing == 0.0 {
                    self.weight(target)
                } else {
                    (0..self.classes).map(|class| self.target(class, target)).sum()
                };
                for (class, (dx, &x)) in dx.iter_mut().zip(x).enumerate() {
                    *dx = scale * (total * (x - largest - log_sum).exp() - self.target(class, target));
                }
            });
        })
    }
}
