//! What cross-entropy, focal loss and negative log-likelihood share: losses and gradients of blocks
//! of positions in one pass.

use candle_core::{Device, Tensor};

use crate::error::Result;
use crate::losses::Reduction;
use crate::losses::kernels::{Block, Dims, Real, for_blocks, for_float, precomputed, sum_slice, with_elements};
use crate::losses::validate::IGNORED;
use crate::ops::buffer::written;

/// Cross-entropy of class indices, or, with a positive `gamma`, its focal form.
pub(crate) struct HardTargets<'a> {
    pub labels: &'a [u32],
    pub weights: Option<&'a [f64]>,
    pub smoothing: f64,
    pub gamma: f64,
}

impl HardTargets<'_> {
    pub fn weight(&self, label: u32) -> f64 {
        match (label, self.weights) {
            (IGNORED, _) => 0.0,
            (_, None) => 1.0,
            (label, Some(weights)) => weights[label as usize],
        }
    }

    /// What the mean divides by: the weights of the positions that count.
    pub fn total_weight(&self) -> f64 {
        let Some(weights) = self.weights else {
            return self.labels.iter().filter(|&&label| label != IGNORED).count() as f64;
        };
        let mut counts = vec![0u64; weights.len()];
        for &label in self.labels.iter().filter(|&&label| label != IGNORED) {
            counts[label as usize] += 1;
        }
        counts.iter().zip(weights).map(|(&n, &weight)| n as f64 * weight).sum()
    }

    pub fn loss(&self, logits: &Tensor, reduction: Reduction) -> Result<Tensor> {
        let dims = Dims::of(logits.dims());
        let denominator = match reduction {
            Reduction::Mean => self.total_weight(),
            _ => 1.0,
        };
        for_float!(logits.dtype(), T => {
            finish::<T>(logits, dims, reduction, denominator, |block| block.hard(self, dims.classes, denominator))
        })
    }
}

/// Runs a rule over all blocks and hangs the result into the graph.
pub(crate) fn finish<T: Real>(
    logits: &Tensor,
    dims: Dims,
    reduction: Reduction,
    denominator: f64,
    rule: impl Fn(&mut Block<T>) -> Vec<f64> + Sync,
) -> Result<Tensor> {
    let tracked = logits.track_op();
    let (losses, gradient) = with_elements::<T, _>(logits, |scores| {
        let reduce = reduction != Reduction::None;
        let run = |out: Option<&mut [T]>| {
            let blocks = for_blocks(dims, scores, out, |block| {
                let losses = rule(block);
                if reduce { vec![sum_slice(&losses)] } else { losses }
            });
            blocks.concat()
        };
        if !tracked {
            return (run(None), Vec::new());
        }
        let mut losses = Vec::new();
        let gradient = written(scores.len(), |out| losses = run(Some(out)));
        (losses, gradient)
    })?;
    let gradient = match tracked {
        true => Some(Tensor::from_vec(gradient, logits.shape(), &Device::Cpu)?),
        false => None,
    };
    let value = if reduction == Reduction::None {
        let mut shape = logits.dims().to_vec();
        shape.remove(1);
        let losses: Vec<T> = losses.into_iter().map(T::from_f64).collect();
        Tensor::from_vec(losses, shape, &Device::Cpu)?
    } else {
        let total: f64 = losses.iter().sum();
        let value = if denominator > 0.0 { total / denominator } else { 0.0 };
        Tensor::from_vec(vec![T::from_f64(value)], (), &Device::Cpu)?
    };
    let broadcast: Vec<usize> = match reduction {
        Reduction::None => logits.dims().iter().enumerate().map(|(i, &d)| if i == 1 { 1 } else { d }).collect(),
        _ => vec![1; logits.rank()],
    };
    precomputed(logits, value, gradient, &broadcast)
}

impl<T: Real> Block<T> {
    /// Losses of the positions; the block's scores become gradients, divided by `denominator`.
    fn hard(&mut self, rule: &HardTargets<'_>, classes: usize, denominator: f64) -> Vec<f64> {
        if rule.gamma == 0.0 && rule.smoothing == 0.0 {
            return self.plain(rule, denominator);
        }
        let len = self.len;
        let labels = &rule.labels[self.first..self.first + len];
        let at = |i: usize| labels[i] as usize * len + i;
        let target_scores: Vec<T> =
            (0..len).map(|i| if labels[i] == IGNORED { T::zero() } else { self.values[at(i)] }).collect();
        let spread = rule.smoothing / classes as f64;
        let class_weight = |class: usize| rule.weights.map_or(1.0, |w| w[class]);
        let weight_sum: f64 = (0..classes).map(class_weight).sum();
        // Σ w_c x_c of the smoothed part, relative to the largest score, before the scores are overwritten.
        let mut weighted_scores = vec![0f64; if spread > 0.0 { len } else { 0 }];
        for (c, row) in self.values.chunks_exact(len).enumerate().take(if spread > 0.0 { classes } else { 0 }) {
            for ((sum, &x), &target) in weighted_scores.iter_mut().zip(row).zip(&target_scores) {
                *sum += class_weight(c) * (x - target).to_f64();
            }
        }
        let (largest, rest) = self.exponentiate();
        let mut losses = vec![0f64; len];
        let mut scales = vec![T::zero(); len];
        let mut target_gradients = vec![0f64; len];
        let inverse = if denominator > 0.0 { 1.0 / denominator } else { 0.0 };
        for i in 0..len {
            if labels[i] == IGNORED {
                continue;
            }
            let rest_f64 = rest[i].to_f64();
            let total = 1.0 + rest_f64;
            let target_exp = self.values[at(i)].to_f64();
            // 1 − p of the target without cancellation: exact when the target leads.
            let others = if target_scores[i] == largest[i] { rest_f64 } else { total - target_exp };
            let nll = (largest[i] - target_scores[i]).to_f64() + rest[i].ln_1p().to_f64();
            let weight = rule.weight(labels[i]);
            if rule.gamma > 0.0 {
                let (p, q) = (target_exp / total, others / total);
                let modulation = q.powf(rule.gamma);
                // −ln(1 − q)/q tends to 1 at q = 0, where the quotient is 0/0.
                let quotient = if q > 0.0 { nll / q } else { 1.0 };
                losses[i] = weight * modulation * nll;
                let factor = weight * modulation * (1.0 + rule.gamma * p * quotient) * inverse;
                scales[i] = T::from_f64(factor / total);
                target_gradients[i] = -factor * q;
            } else {
                let hard = (1.0 - rule.smoothing) * weight;
                losses[i] = hard * nll;
                let mut mass = hard;
                let mut gradient = -hard * others / total;
                if spread > 0.0 {
                    losses[i] += spread * (weight_sum * nll - weighted_scores[i]);
                    mass += spread * weight_sum;
                    gradient += spread * (weight_sum * target_exp / total - class_weight(labels[i] as usize));
                }
                scales[i] = T::from_f64(mass * inverse / total);
                target_gradients[i] = gradient * inverse;
            }
        }
        for (c, row) in self.values.chunks_exact_mut(len).enumerate() {
            for (e, &scale) in row.iter_mut().zip(&scales) {
                *e *= scale;
            }
            if spread > 0.0 {
                let constant = T::from_f64(spread * class_weight(c) * inverse);
                for (e, &label) in row.iter_mut().zip(labels) {
                    *e -= if label == IGNORED { T::zero() } else { constant };
                }
            }
        }
        for i in (0..len).filter(|&i| labels[i] != IGNORED) {
            self.values[at(i)] = T::from_f64(target_gradients[i]);
        }
        losses
    }

    /// As `hard`, without smoothing and without focus: all in the scores' own type, in loops that
    /// vectorise.
    fn plain(&mut self, rule: &HardTargets<'_>, denominator: f64) -> Vec<f64> {
        let len = self.len;
        let labels = &rule.labels[self.first..self.first + len];
        let inverse = if denominator > 0.0 { 1.0 / denominator } else { 0.0 };
        let weights: Vec<T> = labels.iter().map(|&label| T::from_f64(rule.weight(label))).collect();
        let at = |i: usize| if labels[i] == IGNORED { i } else { labels[i] as usize * len + i };
        let target_scores: Vec<T> = (0..len).map(|i| self.values[at(i)]).collect();
        let (largest, rest) = self.exponentiate();
        let target_exps: Vec<T> = (0..len).map(|i| self.values[at(i)]).collect();
        let losses = self.scale(&weights, &target_scores, &largest, &rest, T::from_f64(inverse));
        for (i, &exp) in target_exps.iter().enumerate() {
            // 1 − p of the target without cancellation: exact when the target leads.
            let total = T::one() + rest[i];
            let others = if target_scores[i] == largest[i] { rest[i] } else { total - exp };
            if labels[i] != IGNORED {
                self.values[at(i)] = T::zero() - weights[i] * T::from_f64(inverse) * others / total;
            }
        }
        losses
    }

    /// As `hard`, for a coefficient a_c ≥ 0 per position and class: Σ a_c (lse − x_c). In f64,
    /// because p_c − a_c cancels all the more the better the prediction.
    pub fn soft(&mut self, coefficient: &impl Fn(usize, usize) -> f64, denominator: f64) -> Vec<f64> {
        let (len, first) = (self.len, self.first);
        let classes = self.values.len() / len;
        (0..len)
            .map(|i| {
                let score = |values: &[T], c: usize| values[c * len + i].to_f64();
                let largest = (0..classes).fold(f64::NEG_INFINITY, |m, c| m.max(score(&self.values, c)));
                let exps: Vec<f64> = (0..classes).map(|c| (score(&self.values, c) - largest).exp()).collect();
                let rest = exps.iter().sum::<f64>() - 1.0;
                let coefficients: Vec<f64> = (0..classes).map(|c| coefficient(first + i, c)).collect();
                let mass: f64 = coefficients.iter().sum();
                let mut loss = 0.0;
                for (c, (&a, &e)) in coefficients.iter().zip(&exps).enumerate() {
                    let distance = largest - score(&self.values, c);
                    if a > 0.0 {
                        loss += a * (distance + rest.ln_1p());
                    }
                    // mass · p_c − a_c, with 1 − p_c taken from the rest where the class leads.
                    let gradient = if distance == 0.0 {
                        (mass - a) - mass * rest / (1.0 + rest)
                    } else {
                        mass * e / (1.0 + rest) - a
                    };
                    self.values[c * len + i] = T::from_f64(gradient / denominator);
                }
                loss
            })
            .collect()
    }
}
