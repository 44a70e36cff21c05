//! What cross-entropy, focal loss and negative log-likelihood share: losses and gradients of blocks
//! of positions in one pass.

use candle_core::{Device, Tensor};

use crate::error::Result;
use crate::kernels::buffer::written;
use crate::kernels::losses::{
    Block, Dims, Real, exponentiate, for_blocks, for_float, precomputed, sum_slice, with_elements,
};
use crate::kernels::simd::{Element, Kernel, Simd};
use crate::losses::Reduction;
use crate::losses::validate::IGNORED;

/// Cross-entropy of class indices, or, with a positive `gamma`, its focal form.
pub(crate) struct HardTargets<'a> {
    pub labels: &'a [u32],
    pub weights: Option<&'a [f64]>,
    pub smoothing: f64,
    pub gamma: f64,
}

impl HardTargets<'_> {
    pub fn weight(&self, label: u32) -> f64 {
        if label == IGNORED { 0.0 } else { self.class_weight(label as usize) }
    }

    fn class_weight(&self, class: usize) -> f64 {
        self.weights.map_or(1.0, |weights| weights[class])
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

    /// The loss, a mean being the sum divided by `denominator`.
    pub fn loss(&self, logits: &Tensor, reduction: Reduction, denominator: f64) -> Result<Tensor> {
        let denominator = if reduction == Reduction::Mean { denominator } else { 1.0 };
        let inverse = if denominator > 0.0 { 1.0 / denominator } else { 0.0 };
        for_float!(logits.dtype(), T => {
            finish::<T>(logits, Dims::of(logits.dims()), reduction, denominator, |block| {
                let labels = &self.labels[block.first..][..block.len];
                T::dispatch(HardBlock { rule: self, labels, values: &mut block.values, inverse })
            })
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

/// Turns a block's scores into gradients, in loops that vectorise: a label is compared with every
/// class, not jumped to. Gives the losses of the positions.
struct HardBlock<'a, T> {
    rule: &'a HardTargets<'a>,
    labels: &'a [u32],
    values: &'a mut [T],
    /// What gradients are multiplied by: 1 / the denominator of the mean.
    inverse: f64,
}

/// What the loss of a position is made of.
#[derive(Clone, Copy)]
struct Position<T> {
    weight: T,
    target_score: T,
    largest: T,
    /// Σ e^(x − max) − 1.
    rest: T,
    /// e^(x − max) of the target.
    target_exp: T,
}

/// The positions of a block, a vector for each part.
struct Positions<'a, T> {
    labels: &'a [u32],
    weights: Vec<T>,
    target_scores: Vec<T>,
    largest: Vec<T>,
    rest: Vec<T>,
    target_exps: Vec<T>,
}

/// The loss of every position, and the gradient of its scores: `scale` · e^(x − max), less a
/// constant if labels are smoothed, but at the target `target_gradient`.
struct Outcome<T> {
    losses: Vec<f64>,
    scales: Vec<T>,
    target_gradients: Vec<T>,
}

impl<T: Real> Kernel<T> for HardBlock<'_, T> {
    type Output = Vec<f64>;

    #[inline(always)]
    fn run<S: Simd<T>>(self, _: S) -> Vec<f64> {
        let Self { rule, labels, values, inverse } = self;
        let len = labels.len();
        let mut largest = values[..len].to_vec();
        let (mut target_scores, mut weights) = (vec![T::ZERO; len], vec![T::ZERO; len]);
        for (c, row) in values.chunks_exact(len).enumerate() {
            let weight = T::of(rule.class_weight(c));
            for i in 0..len {
                let (x, hit) = (row[i], labels[i] == c as u32);
                largest[i] = if x > largest[i] { x } else { largest[i] };
                target_scores[i] = if hit { x } else { target_scores[i] };
                weights[i] = if hit { weight } else { weights[i] };
            }
        }
        let spread = rule.smoothing * len as f64 / values.len() as f64;
        // Σ w_c (x_c − max) of the smoothed part, before the scores are overwritten.
        let mut weighted_scores = vec![0f64; if spread > 0.0 { len } else { 0 }];
        for (c, row) in values.chunks_exact(len).enumerate().filter(|_| spread > 0.0) {
            for ((sum, &x), &largest) in weighted_scores.iter_mut().zip(row).zip(&largest) {
                *sum += rule.class_weight(c) * (x - largest).to_f64();
            }
        }
        let rest = exponentiate(&largest, values);
        let mut target_exps = vec![T::ZERO; len];
        for (c, row) in values.chunks_exact(len).enumerate() {
            for i in 0..len {
                let (e, other) = (row[i], target_exps[i]);
                target_exps[i] = if labels[i] == c as u32 { e } else { other };
            }
        }
        let positions = Positions { labels, weights, target_scores, largest, rest, target_exps };
        let Outcome { losses, scales, target_gradients } = match rule.gamma {
            0.0 if spread > 0.0 => positions.smoothed(rule, spread, &weighted_scores, inverse),
            0.0 => positions.plain(inverse),
            2.0 => positions.focal(2.0, |q| q * q, inverse),
            gamma => positions.focal(gamma, |q| q.powf(gamma), inverse),
        };
        let (scales, target_gradients) = (&scales[..len], &target_gradients[..len]);
        for (c, row) in values.chunks_exact_mut(len).enumerate() {
            for i in 0..len {
                let (at_target, elsewhere) = (target_gradients[i], row[i] * scales[i]);
                row[i] = if labels[i] == c as u32 { at_target } else { elsewhere };
            }
            if spread > 0.0 {
                let constant = T::of(spread * rule.class_weight(c) * inverse);
                for (gradient, &label) in row.iter_mut().zip(labels) {
                    *gradient -= if label == IGNORED || label == c as u32 { T::ZERO } else { constant };
                }
            }
        }
        losses
    }
}

impl<T: Real> Position<T> {
    /// Σ e^(x − max).
    #[inline(always)]
    fn total(self) -> T {
        T::ONE + self.rest
    }

    /// (1 − p) · total, p of the target, without cancellation: exact when the target leads.
    #[inline(always)]
    fn others(self) -> T {
        if self.target_score == self.largest { self.rest } else { self.total() - self.target_exp }
    }

    /// −ln p of the target.
    #[inline(always)]
    fn nll(self) -> T {
        (self.largest - self.target_score) + self.rest.ln_1p()
    }
}

impl<T: Real> Positions<'_, T> {
    /// Loss, scale and gradient at the target as `f` gives them; loss and scale are 0 where ignored.
    #[inline(always)]
    fn outcome(&self, f: impl Fn(usize, Position<T>) -> (f64, T, T)) -> Outcome<T> {
        let len = self.labels.len();
        let mut losses = vec![0.0; len];
        let (mut scales, mut target_gradients) = (vec![T::ZERO; len], vec![T::ZERO; len]);
        let (weights, target_scores, largest) =
            (&self.weights[..len], &self.target_scores[..len], &self.largest[..len]);
        let (rest, target_exps) = (&self.rest[..len], &self.target_exps[..len]);
        for i in 0..len {
            let position = Position {
                weight: weights[i],
                target_score: target_scores[i],
                largest: largest[i],
                rest: rest[i],
                target_exp: target_exps[i],
            };
            let (loss, scale, target_gradient) = f(i, position);
            let counts = self.labels[i] != IGNORED;
            losses[i] = if counts { loss } else { 0.0 };
            scales[i] = if counts { scale } else { T::ZERO };
            target_gradients[i] = target_gradient;
        }
        Outcome { losses, scales, target_gradients }
    }

    /// w · nll, all in the scores' own type.
    #[inline(always)]
    fn plain(&self, inverse: f64) -> Outcome<T> {
        let inverse = T::of(inverse);
        self.outcome(|_, position| {
            let (weight, total) = (position.weight, position.total());
            let loss = if weight == T::ZERO { T::ZERO } else { weight * position.nll() };
            (loss.to_f64(), weight * inverse / total, -weight * inverse * position.others() / total)
        })
    }

    /// w · q^γ · nll, q = 1 − p of the target.
    #[inline(always)]
    fn focal(&self, gamma: f64, power: impl Fn(f64) -> f64, inverse: f64) -> Outcome<T> {
        self.outcome(|_, position| {
            let (nll, total) = (position.nll().to_f64(), position.total().to_f64());
            let (p, q) = (position.target_exp.to_f64() / total, position.others().to_f64() / total);
            let modulation = position.weight.to_f64() * power(q);
            // −ln(1 − q)/q tends to 1 at q = 0, where the quotient is 0/0.
            let quotient = if q > 0.0 { nll / q } else { 1.0 };
            let factor = modulation * (1.0 + gamma * p * quotient) * inverse;
            (modulation * nll, T::of(factor / total), T::of(-factor * q))
        })
    }

    /// (1 − ε) w · nll + ε/C Σ w_c (lse − x_c), with `spread` = ε/C and `weighted_scores` =
    /// Σ w_c (x_c − max).
    #[inline(always)]
    fn smoothed(&self, rule: &HardTargets<'_>, spread: f64, weighted_scores: &[f64], inverse: f64) -> Outcome<T> {
        let weight_sum: f64 = rule.weights.map_or(rule.smoothing / spread, |weights| weights.iter().sum());
        self.outcome(|i, position| {
            let (weight, total) = (position.weight.to_f64(), position.total().to_f64());
            let (p, q) = (position.target_exp.to_f64() / total, position.others().to_f64() / total);
            let hard = (1.0 - rule.smoothing) * weight;
            let even = weight_sum * position.rest.ln_1p().to_f64() - weighted_scores[i];
            let gradient = spread * (weight_sum * p - weight) - hard * q;
            let scale = (hard + spread * weight_sum) * inverse / total;
            (hard * position.nll().to_f64() + spread * even, T::of(scale), T::of(gradient * inverse))
        })
    }
}

impl<T: Real> Block<T> {
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
                // Without the leader's 1, beside which small terms would be rounded away.
                let leader = exps.iter().position(|&e| e == 1.0);
                let rest: f64 = exps.iter().enumerate().filter(|(c, _)| Some(*c) != leader).map(|(_, e)| e).sum();
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
