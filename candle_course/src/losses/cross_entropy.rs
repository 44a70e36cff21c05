//! Cross-entropy over classes: of hard and soft targets, with weights, smoothing and ignored pixels.

use candle_core::{Device, Tensor};

use crate::error::{Error, Result};
use crate::losses::kernels::{Block, Dims, Real, for_blocks, for_float, precomputed, sum_slice, with_elements};
use crate::losses::validate::{self, IGNORED, class_targets, float, not_empty, number, probabilities};
use crate::losses::{Loss, Reduction};

/// Mean cross-entropy, −1/N Σ log softmax(logits)[target], as `torch.nn.functional.cross_entropy`.
///
/// `logits`: `[N, C]`, `[N, C, L]` or `[N, C, H, W]`, floats, unnormalised; `targets`: `[N]`,
/// `[N, L]` or `[N, H, W]`, class indices in `0..C` (u8, u32 or i64). For weights, label
/// smoothing, ignored pixels, soft targets and other reductions see [`CrossEntropy`].
///
/// Probabilities given in place of logits cannot be told apart: the loss then never falls below
/// ln(1 + (C − 1)/e), and training hardly moves.
///
/// # Errors
/// If the shapes do not fit, the batch is empty, or a target is not a class.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let logits = Tensor::new(&[[0f64, 0., 0.], [1e4, 0., 0.]], &Device::Cpu)?;
/// let targets = Tensor::new(&[2u32, 0], &Device::Cpu)?;
/// let loss = cross_entropy(&logits, &targets)?.to_scalar::<f64>()?;
/// assert!((loss - 3f64.ln() / 2.0).abs() < 1e-15);
/// # Ok::<(), candle_course::Error>(())
/// ```
pub fn cross_entropy(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    CrossEntropy::new().forward(logits, targets)
}

/// The plain mean cross-entropy, [`CrossEntropy::new`], as a value.
#[allow(non_upper_case_globals)] // named as the type, so that the plain loss needs no call
pub const CrossEntropy: CrossEntropy = CrossEntropy::new();

/// Cross-entropy as `torch.nn.CrossEntropyLoss`: −w_y ln p_y per position, p = softmax of the logits.
///
/// With label smoothing ε the target becomes 1 − ε + ε/C for the class and ε/C for the others
/// (Szegedy et al., "Rethinking the Inception architecture", 2016). The mean divides by the sum
/// of the weights w_y of the positions that count; for soft targets by their number.
/// When every position is ignored, or weighs 0, the loss is 0 with a gradient of 0.
///
/// Logits are computed in f32 or f64 (half precision is upcast). Value and gradient come from one
/// pass over the logits; on a GPU the pass is on the CPU when there are options, and composed of
/// candle's operations for the plain loss.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// // Two pixels of three classes; the second is not labelled.
/// let logits = Tensor::new(&[[[1f32, 0.], [0., 0.], [0., 0.]]], &Device::Cpu)?;
/// let targets = Tensor::new(&[[0u8, 255]], &Device::Cpu)?;
/// let loss = CrossEntropy::new()
///     .class_weights(vec![0.2, 1.0, 2.0])
///     .label_smoothing(0.1)
///     .ignore_index(255)
///     .build()?;
/// println!("{}", loss.forward(&logits, &targets)?.to_scalar::<f32>()?);
///
/// // Soft targets: probabilities of the shape of the logits (mixup, distillation).
/// let soft = Tensor::new(&[[0.5f32, 0.5, 0.0]], &Device::Cpu)?;
/// let value = CrossEntropy.forward(&soft.zeros_like()?, &soft)?.to_scalar::<f32>()?;
/// assert!((value - 3f32.ln()).abs() < 1e-6);
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct CrossEntropy {
    class_weights: Option<Vec<f64>>,
    label_smoothing: f64,
    ignore_index: Option<i64>,
    reduction: Reduction,
}

impl Default for CrossEntropy {
    fn default() -> Self {
        Self::new()
    }
}

impl CrossEntropy {
    /// Unweighted, unsmoothed, nothing ignored, the mean, unless told otherwise.
    pub const fn new() -> Self {
        Self { class_weights: None, label_smoothing: 0.0, ignore_index: None, reduction: Reduction::Mean }
    }

    /// A weight per class; see [`class_balanced_weights`](crate::losses::class_balanced_weights).
    pub fn class_weights(mut self, class_weights: impl Into<Vec<f64>>) -> Self {
        self.class_weights = Some(class_weights.into());
        self
    }

    /// How much of the target is spread over all classes, in [0, 1].
    pub fn label_smoothing(mut self, label_smoothing: f64) -> Self {
        self.label_smoothing = label_smoothing;
        self
    }

    /// The label of positions that do not count (255 for unknown pixels, say).
    pub fn ignore_index(mut self, ignore_index: i64) -> Self {
        self.ignore_index = Some(ignore_index);
        self
    }

    /// What becomes of the losses of single positions.
    pub fn reduction(mut self, reduction: Reduction) -> Self {
        self.reduction = reduction;
        self
    }

    /// The loss, its options checked.
    ///
    /// # Errors
    /// If a weight is negative or not finite, all are 0, or the smoothing is not in [0, 1].
    pub fn build(self) -> Result<Self> {
        self.check(None)?;
        Ok(self)
    }

    fn check(&self, classes: Option<usize>) -> Result<()> {
        if let Some(weights) = &self.class_weights {
            validate::weights("class_weights", weights, classes)?;
        }
        let smoothing = self.label_smoothing;
        number("label_smoothing", "a number in [0, 1]", smoothing, (0.0..=1.0).contains(&smoothing))
    }

    fn is_plain(&self) -> bool {
        self.class_weights.is_none()
            && self.label_smoothing == 0.0
            && self.ignore_index.is_none()
            && self.reduction == Reduction::Mean
    }

    /// Targets that are probabilities, of the shape of the logits.
    fn soft(&self, logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
        validate::same_device(logits, targets)?;
        not_empty("logits", logits)?;
        if self.ignore_index.is_some() {
            return Err(Error::argument("ignore_index", "no index with soft targets", "one")
                .hint("give the rows that do not count a target of zeros"));
        }
        if targets.track_op() && targets.is_variable() {
            return Err(Error::argument("targets", "constants", "a variable").hint("`detach` the teacher's output"));
        }
        let targets = targets.detach().to_dtype(logits.dtype())?;
        probabilities("targets", &targets)?;
        let (low, high) = validate::range(&targets.sum(1)?)?;
        let zeros_or_one = |sum: f64| (sum - 1.0).abs() < 1e-3 || sum == 0.0;
        if !zeros_or_one(low) || !zeros_or_one(high) {
            return Err(Error::argument(
                "targets",
                "probabilities that sum to 1 over the classes",
                format!("sums from {low} to {high}"),
            )
            .hint("apply a softmax to a teacher's logits"));
        }
        let dims = Dims::of(logits.dims());
        let uniform = self.label_smoothing / dims.classes as f64;
        let weights = match &self.class_weights {
            Some(weights) => weights.clone(),
            None => vec![1.0; dims.classes],
        };
        let denominator = match self.reduction {
            Reduction::Mean => dims.pixels() as f64,
            _ => 1.0,
        };
        for_float!(logits.dtype(), T => {
            with_elements::<T, _>(&targets, |q| {
                let coefficient = |pixel: usize, class: usize| {
                    let q = q[(pixel / dims.positions * dims.classes + class) * dims.positions + pixel % dims.positions];
                    weights[class] * (f64::from(q) * (1.0 - self.label_smoothing) + uniform)
                };
                finish::<T>(logits, dims, self.reduction, denominator, |block| block.soft(&coefficient, denominator))
            })?
        })
    }
}

impl Loss for CrossEntropy {
    fn forward(&self, logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
        let logits = float("logits", logits)?;
        if logits.rank() < 2 {
            return Err(Error::argument("logits", "shape [N, C, …]", format!("{:?}", logits.dims()))
                .hint("a single example needs a batch dimension: `unsqueeze(0)`"));
        }
        self.check(Some(logits.dims()[1]))?;
        if targets.dtype().is_float() && targets.dims() == logits.dims() {
            return self.soft(&logits, targets);
        }
        if !logits.device().is_cpu() && self.is_plain() {
            class_targets(&logits, targets, None)?;
            let targets = targets.to_dtype(candle_core::DType::U32)?.unsqueeze(1)?;
            let log_probabilities = candle_nn::ops::log_softmax(&logits, 1)?;
            return Ok(log_probabilities.gather(&targets, 1)?.mean_all()?.neg()?);
        }
        let labels = class_targets(&logits, targets, self.ignore_index)?;
        let rule = HardTargets {
            labels: &labels,
            weights: self.class_weights.as_deref(),
            smoothing: self.label_smoothing,
            gamma: 0.0,
        };
        rule.loss(&logits, self.reduction)
    }
}

/// Cross-entropy of class indices, or, with a positive `gamma`, its focal form.
pub(crate) struct HardTargets<'a> {
    pub labels: &'a [u32],
    pub weights: Option<&'a [f64]>,
    pub smoothing: f64,
    pub gamma: f64,
}

impl HardTargets<'_> {
    fn weight(&self, label: u32) -> f64 {
        match (label, self.weights) {
            (IGNORED, _) => 0.0,
            (_, None) => 1.0,
            (label, Some(weights)) => weights[label as usize],
        }
    }

    /// What the mean divides by: the weights of the positions that count.
    fn total_weight(&self) -> f64 {
        let mut counts = vec![0u64; self.weights.map_or(1, <[f64]>::len)];
        for &label in self.labels.iter().filter(|&&label| label != IGNORED) {
            counts[if self.weights.is_some() { label as usize } else { 0 }] += 1;
        }
        counts.iter().enumerate().map(|(class, &n)| n as f64 * self.weights.map_or(1.0, |w| w[class])).sum()
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
fn finish<T: Real>(
    logits: &Tensor,
    dims: Dims,
    reduction: Reduction,
    denominator: f64,
    rule: impl Fn(&mut Block<T>) -> Vec<f64> + Sync,
) -> Result<Tensor> {
    let tracked = logits.track_op();
    let (losses, gradient) = with_elements::<T, _>(logits, |scores| {
        let mut gradient = if tracked { vec![T::zero(); scores.len()] } else { Vec::new() };
        let out = tracked.then_some(gradient.as_mut_slice());
        let reduce = reduction != Reduction::None;
        let blocks = for_blocks(dims, scores, out, |block| {
            let losses = rule(block);
            if reduce { vec![sum_slice(&losses)] } else { losses }
        });
        (blocks.concat(), gradient)
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

    /// As `hard`, for a coefficient a_c ≥ 0 per position and class: Σ a_c (lse − x_c). In f64,
    /// because p_c − a_c cancels all the more the better the prediction.
    fn soft(&mut self, coefficient: &impl Fn(usize, usize) -> f64, denominator: f64) -> Vec<f64> {
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

/// Mean negative log-likelihood, −1/N Σ log p[target]; see [`Nll`].
///
/// # Errors
/// As [`Nll`]'s forward.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let log_p = Tensor::new(&[[0.25f64, 0.75]], &Device::Cpu)?.log()?;
/// let targets = Tensor::new(&[0u32], &Device::Cpu)?;
/// assert!((nll(&log_p, &targets)?.to_scalar::<f64>()? - 4f64.ln()).abs() < 1e-15);
/// # Ok::<(), candle_course::Error>(())
/// ```
pub fn nll(log_probabilities: &Tensor, targets: &Tensor) -> Result<Tensor> {
    Nll::default().forward(log_probabilities, targets)
}

/// Negative log-likelihood as `torch.nn.NLLLoss`: −w_y ln p_y, for models that end in a log-softmax.
///
/// `log_probabilities`: `[N, C, …]`, never positive; `targets`: `[N, …]`, class indices. Logits
/// given instead are refused as soon as one is positive. When every position is ignored, or
/// weighs 0, the loss is 0 with a gradient of 0.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let logits = Tensor::new(&[[2f64, 1.]], &Device::Cpu)?;
/// let targets = Tensor::new(&[0u32], &Device::Cpu)?;
/// let loss = Nll::new().class_weights(vec![1.0, 3.0]).build()?;
/// let message = loss.forward(&logits, &targets).unwrap_err().to_string();
/// assert!(message.contains("log-probabilities"), "{message}");
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Nll {
    class_weights: Option<Vec<f64>>,
    ignore_index: Option<i64>,
    reduction: Reduction,
}

impl Nll {
    /// Unweighted, nothing ignored, the mean, unless told otherwise.
    pub fn new() -> Self {
        Self::default()
    }

    /// A weight per class.
    pub fn class_weights(mut self, class_weights: impl Into<Vec<f64>>) -> Self {
        self.class_weights = Some(class_weights.into());
        self
    }

    /// The label of positions that do not count.
    pub fn ignore_index(mut self, ignore_index: i64) -> Self {
        self.ignore_index = Some(ignore_index);
        self
    }

    /// What becomes of the losses of single positions.
    pub fn reduction(mut self, reduction: Reduction) -> Self {
        self.reduction = reduction;
        self
    }

    /// The loss, its weights checked.
    ///
    /// # Errors
    /// If a weight is negative or not finite, or all are 0.
    pub fn build(self) -> Result<Self> {
        if let Some(weights) = &self.class_weights {
            validate::weights("class_weights", weights, None)?;
        }
        Ok(self)
    }
}

impl Loss for Nll {
    fn forward(&self, log_probabilities: &Tensor, targets: &Tensor) -> Result<Tensor> {
        let scores = float("log_probabilities", log_probabilities)?;
        let labels = class_targets(&scores, targets, self.ignore_index)?;
        crate::losses::binary::log_probabilities_only("log_probabilities", &scores)?;
        let dims = Dims::of(scores.dims());
        if let Some(weights) = &self.class_weights {
            validate::weights("class_weights", weights, Some(dims.classes))?;
        }
        let rule = HardTargets { labels: &labels, weights: self.class_weights.as_deref(), smoothing: 0.0, gamma: 0.0 };
        let denominator = if self.reduction == Reduction::Mean { rule.total_weight() } else { 1.0 };
        let inverse = if denominator > 0.0 { 1.0 / denominator } else { 0.0 };
        for_float!(scores.dtype(), T => {
            finish::<T>(&scores, dims, self.reduction, denominator, |block| {
                let len = block.len;
                let labels = &labels[block.first..block.first + len];
                let weight = |label: u32| rule.weight(label);
                let losses = labels.iter().enumerate().map(|(i, &label)| {
                    if label == IGNORED { 0.0 } else { -weight(label) * f64::from(block.values[label as usize * len + i]) }
                });
                let losses: Vec<f64> = losses.collect();
                block.values.fill(0.0);
                for (i, &label) in labels.iter().enumerate().filter(|(_, label)| **label != IGNORED) {
                    block.values[label as usize * len + i] = (-weight(label) * inverse) as T;
                }
                losses
            })
        })
    }
}
