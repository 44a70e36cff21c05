//! Overlap losses for segmentation: Dice, generalised Dice, IoU (Jaccard), Tversky, focal Tversky.

use std::sync::Arc;

use candle_core::{DType, Tensor};

use crate::error::{Error, Result};
use crate::losses::Loss;
use crate::losses::kernels::{Dims, Pointwise, Truth, degrees, pointwise, region_sums, softmax};
use crate::losses::validate::{class_targets, float, not_empty, number, probabilities, same_device};

/// Over what the overlap of a class is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Over {
    /// All images of the batch together: steadier, and a class need not be in every image.
    #[default]
    Batch,
    /// Every image by itself, then the mean over images: small objects count as much as large ones.
    Image,
}

/// Which classes enter the mean over classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Classes {
    /// Those that occur in the targets (of the batch, or of the image).
    #[default]
    Present,
    /// All: the probability given to an absent class costs.
    All,
}

/// What every overlap loss is set by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Region {
    smooth: f64,
    over: Over,
    classes: Classes,
    ignore_index: Option<i64>,
    squared: bool,
}

impl Default for Region {
    fn default() -> Self {
        Self { smooth: 1.0, over: Over::Batch, classes: Classes::All, ignore_index: None, squared: false }
    }
}

/// Overlap per group (image or batch) and class, `[3, G, C]`, and Σ t per group and class.
struct Overlap {
    sums: Tensor,
    totals: Vec<f64>,
    groups: usize,
    classes: usize,
}

/// Logits as probabilities `[N, C, M]`, and the truth they are compared with.
pub(crate) fn segmentation(
    logits: &Tensor,
    targets: &Tensor,
    ignore_index: Option<i64>,
) -> Result<(Tensor, Truth, Dims)> {
    same_device(logits, targets)?;
    let logits = float("logits", logits)?;
    not_empty("logits", &logits)?;
    let dims = logits.dims();
    let per_class = dims.len() >= 2 && dims[1] > 1 && targets.rank() + 1 == dims.len();
    if per_class {
        let labels = class_targets(&logits, targets, ignore_index)?;
        return Ok((softmax(&logits)?, Truth::Classes(Arc::new(labels)), Dims::of(dims)));
    }
    let same = targets.dims() == dims;
    let without_channel = dims.len() >= 2 && dims[1] == 1 && targets.dims() == [&dims[..1], &dims[2..]].concat();
    if !same && !without_channel {
        return Err(Error::argument(
            "targets",
            format!("a mask of the logits' shape {dims:?}, or class indices without dimension 1"),
            format!("shape {:?}", targets.dims()),
        )
        .hint("binary: logits [N, 1, H, W] or [N, H, W]; classes: logits [N, C, H, W] and targets [N, H, W]"));
    }
    let shape = match dims.len() {
        1 => vec![dims[0], 1, 1],
        // [N, L] of labels or [N, 1]; more dimensions with class-like targets carry the labels in dimension 1.
        2 => vec![dims[0], 1, dims[1]],
        3 => vec![dims[0], 1, dims[1] * dims[2]],
        _ => vec![dims[0], dims[1], dims[2..].iter().product()],
    };
    let logits = logits.reshape(shape.as_slice())?;
    let targets = targets.to_dtype(DType::F64)?.reshape(shape.as_slice())?;
    let ignored = ignore_index.map(|index| index as f64);
    let counted = match ignored {
        None => targets.clone(),
        Some(index) => targets.eq(index)?.where_cond(&targets.zeros_like()?, &targets)?,
    };
    probabilities("targets", &counted)?;
    let truth = degrees(&targets, ignored)?;
    let dims = Dims::of(logits.dims());
    Ok((pointwise(&logits, Pointwise::Sigmoid)?, truth, dims))
}

impl Region {
    fn check(&self) -> Result<()> {
        number("smooth", "a number that is not negative", self.smooth, self.smooth >= 0.0)
    }

    fn overlap(&self, logits: &Tensor, targets: &Tensor) -> Result<Overlap> {
        self.check()?;
        let (probabilities, truth, dims) = segmentation(logits, targets, self.ignore_index)?;
        let sums = region_sums(&probabilities, &truth, self.squared)?;
        let totals = truth.totals(dims);
        Ok(match self.over {
            Over::Image => Overlap { sums, totals, groups: dims.examples, classes: dims.classes },
            Over::Batch => {
                let batch = (0..dims.classes).map(|c| (0..dims.examples).map(|n| totals[n * dims.classes + c]).sum());
                Overlap { totals: batch.collect(), sums: sums.sum_keepdim(1)?, groups: 1, classes: dims.classes }
            }
        })
    }

    /// 1 − (both + s) / (both + a only_p + b only_t + s), written as a fraction whose numerator is
    /// what is wrong, so that a nearly perfect prediction does not cancel to 0. 0/0 is 0.
    fn tversky(&self, overlap: &Overlap, false_positives: f64, false_negatives: f64) -> Result<Tensor> {
        let [both, only_p, only_t] = overlap.parts()?;
        let wrong = ((only_p * false_positives)? + (only_t * false_negatives)?)?;
        let denominator = ((both + &wrong)? + self.smooth)?;
        // Without smoothing an absent class that nothing predicts has 0/0: no error, and no gradient.
        let empty = denominator.eq(0.0)?.to_dtype(denominator.dtype())?;
        Ok((wrong / (denominator + empty)?)?)
    }

    /// The mean of losses `[G, C]` over the classes that count, then over groups that have any.
    fn mean(&self, losses: &Tensor, overlap: &Overlap, dtype: DType) -> Result<Tensor> {
        let (groups, classes) = (overlap.groups, overlap.classes);
        let counts = |g: usize, c: usize| match self.classes {
            Classes::All => true,
            Classes::Present => overlap.totals[g * classes + c] > 0.0,
        };
        let present: Vec<usize> = (0..groups).map(|g| (0..classes).filter(|&c| counts(g, c)).count()).collect();
        let counted_groups = present.iter().filter(|&&n| n > 0).count().max(1);
        let weights: Vec<f64> = (0..groups * classes)
            .map(|i| {
                let g = i / classes;
                if counts(g, i % classes) { 1.0 / (present[g] * counted_groups) as f64 } else { 0.0 }
            })
            .collect();
        let weights = Tensor::from_vec(weights, (groups, classes), losses.device())?.to_dtype(losses.dtype())?;
        Ok((losses * weights)?.sum_all()?.to_dtype(dtype)?)
    }
}

impl Overlap {
    fn parts(&self) -> Result<[Tensor; 3]> {
        Ok([self.sums.get(0)?, self.sums.get(1)?, self.sums.get(2)?])
    }
}

fn loss_dtype(logits: &Tensor) -> DType {
    if logits.dtype() == DType::F64 { DType::F64 } else { DType::F32 }
}

macro_rules! region_options {
    ($name:ident, $default_classes:literal) => {
        impl $name {
            /// The defaults, unless told otherwise.
            pub fn new() -> Self {
                Self::default()
            }

            /// What is added to numerator and denominator; default 1. It steadies the gradient of
            /// rare classes; 0 gives the bare ratio (0/0, an absent class that nothing predicts, is no error).
            pub fn smooth(mut self, smooth: f64) -> Self {
                self.region.smooth = smooth;
                self
            }

            /// Whether overlap is counted over the batch (the default) or image by image.
            pub fn over(mut self, over: Over) -> Self {
                self.region.over = over;
                self
            }

            /// Which classes enter the mean; default
            #[doc = $default_classes]
            pub fn classes(mut self, classes: Classes) -> Self {
                self.region.classes = classes;
                self
            }

            /// The label of pixels that do not count.
            pub fn ignore_index(mut self, ignore_index: i64) -> Self {
                self.region.ignore_index = Some(ignore_index);
                self
            }
        }
    };
}

/// Dice loss, the mean over classes of 1 − (2 Σ p t + s) / (Σ p + Σ t + s), with s smoothing 1.
///
/// `logits`: `[N, C, …]` with class indices `[N, …]` (softmax), or `[N, 1, …]`, `[N, H, W]` with a
/// mask of 0 and 1 (sigmoid), or `[N, L, H, W]` with masks of the same shape (sigmoid per label).
/// The measure is F1 of soft counts: true negatives, the large background, do not enter.
/// (Milletari et al., "V-Net", 2016.)
///
/// # Errors
/// If shapes, dtypes or devices do not fit, or a target is out of range.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let logits = Tensor::new(&[[[1e4f32, -1e4, -1e4]]], &Device::Cpu)?; // one image, one channel, 3 pixels
/// let targets = Tensor::new(&[[[1f32, 1., 0.]]], &Device::Cpu)?;
/// let loss = dice(&logits, &targets)?.to_scalar::<f32>()?;
/// assert_eq!(loss, 1.0 - (2.0 + 1.0) / (1.0 + 2.0 + 1.0));
/// # Ok::<(), candle_course::Error>(())
/// ```
pub fn dice(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    Dice::default().forward(logits, targets)
}

/// [`dice`] with options.
///
/// Everything ignored gives 0 with a gradient of 0.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let loss = Dice::new().smooth(0.0).over(Over::Image).classes(Classes::Present).ignore_index(255);
/// let logits = Tensor::zeros((2, 3, 4, 4), DType::F32, &Device::Cpu)?;
/// let targets = Tensor::zeros((2, 4, 4), DType::U32, &Device::Cpu)?;
/// let value = loss.forward(&logits, &targets)?.to_scalar::<f32>()?;
/// assert!((value - 0.5).abs() < 1e-6); // 1 − 2 · 16/3 / (16/3 + 16)
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Dice {
    region: Region,
}

region_options!(Dice, "all.");

impl Dice {
    /// Squares in the denominator, Σ p² + Σ t², as V-Net has it; default off.
    pub fn squared(mut self, squared: bool) -> Self {
        self.region.squared = squared;
        self
    }
}

impl Loss for Dice {
    fn forward(&self, logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
        let overlap = self.region.overlap(logits, targets)?;
        // 2 both + only_p + only_t = 2 (both + only_p/2 + only_t/2), so the smoothing halves too.
        let halved = Region { smooth: 0.5 * self.region.smooth, ..self.region };
        let losses = halved.tversky(&overlap, 0.5, 0.5)?;
        self.region.mean(&losses, &overlap, loss_dtype(logits))
    }
}

/// IoU (Jaccard) loss, the mean over classes of 1 − (Σ p t + s) / (Σ p + Σ t − Σ p t + s).
///
/// Inputs as [`dice`]. Always between Dice and twice Dice, it presses harder on large errors.
/// (Rahman and Wang, "Optimizing intersection-over-union in deep neural networks", 2016.)
///
/// # Errors
/// As [`dice`].
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let logits = Tensor::new(&[[[1e4f32, -1e4, -1e4]]], &Device::Cpu)?;
/// let targets = Tensor::new(&[[[1f32, 1., 0.]]], &Device::Cpu)?;
/// assert_eq!(iou(&logits, &targets)?.to_scalar::<f32>()?, 1.0 - (1.0 + 1.0) / (2.0 + 1.0));
/// # Ok::<(), candle_course::Error>(())
/// ```
pub fn iou(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    Iou::default().forward(logits, targets)
}

/// [`iou`] with options. Everything ignored gives 0 with a gradient of 0.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let loss = Iou::new().over(Over::Image);
/// let logits = Tensor::zeros((2, 1, 4, 4), DType::F32, &Device::Cpu)?;
/// let mask = Tensor::ones((2, 4, 4), DType::U8, &Device::Cpu)?;
/// assert_eq!(loss.forward(&logits, &mask)?.to_scalar::<f32>()?, 1.0 - 9.0 / 17.0);
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Iou {
    region: Region,
}

region_options!(Iou, "all.");

impl Loss for Iou {
    fn forward(&self, logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
        let overlap = self.region.overlap(logits, targets)?;
        let losses = self.region.tversky(&overlap, 1.0, 1.0)?;
        self.region.mean(&losses, &overlap, loss_dtype(logits))
    }
}

/// Tversky loss with α = 0.3 and β = 0.7; see [`Tversky`].
///
/// # Errors
/// As [`dice`].
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let logits = Tensor::new(&[[[1e4f64, -1e4, -1e4]]], &Device::Cpu)?;
/// let targets = Tensor::new(&[[[1f64, 1., 0.]]], &Device::Cpu)?;
/// let loss = tversky(&logits, &targets)?.to_scalar::<f64>()?;
/// assert!((loss - (1.0 - 2.0 / 2.7)).abs() < 1e-15);
/// # Ok::<(), candle_course::Error>(())
/// ```
pub fn tversky(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    Tversky::default().forward(logits, targets)
}

/// Tversky loss, the mean over classes of 1 − (TP + s) / (TP + α FP + β FN + s) of soft counts.
///
/// α and β set what a false positive and a false negative cost: β > α seeks recall (flood
/// mapping, where a missed house matters most); α = β = ½ is Dice, 1 is IoU. Inputs as [`dice`].
/// (Salehi et al., "Tversky loss function for image segmentation", 2017.)
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let loss = Tversky::new().alpha(0.2).beta(0.8).build()?;
/// let logits = Tensor::zeros((2, 1, 4, 4), DType::F32, &Device::Cpu)?;
/// let mask = Tensor::ones((2, 1, 4, 4), DType::F32, &Device::Cpu)?;
/// println!("{}", loss.forward(&logits, &mask)?.to_scalar::<f32>()?);
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tversky {
    region: Region,
    alpha: f64,
    beta: f64,
}

impl Default for Tversky {
    fn default() -> Self {
        Self { region: Region::default(), alpha: 0.3, beta: 0.7 }
    }
}

region_options!(Tversky, "all.");

fn check_costs(alpha: f64, beta: f64) -> Result<()> {
    number("alpha", "a number that is not negative", alpha, alpha >= 0.0)?;
    number("beta", "a number that is not negative", beta, beta >= 0.0)?;
    number("alpha + beta", "more than 0", alpha + beta, alpha + beta > 0.0)
}

impl Tversky {
    /// What a false positive costs; default 0.3.
    pub fn alpha(mut self, alpha: f64) -> Self {
        self.alpha = alpha;
        self
    }

    /// What a false negative costs; default 0.7.
    pub fn beta(mut self, beta: f64) -> Self {
        self.beta = beta;
        self
    }

    /// The loss, its parameters checked.
    ///
    /// # Errors
    /// If a cost or the smoothing is negative, or both costs are 0.
    pub fn build(self) -> Result<Self> {
        self.region.check()?;
        check_costs(self.alpha, self.beta)?;
        Ok(self)
    }
}

impl Loss for Tversky {
    fn forward(&self, logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
        let Self { region, alpha, beta } = self.build()?;
        let overlap = region.overlap(logits, targets)?;
        region.mean(&region.tversky(&overlap, alpha, beta)?, &overlap, loss_dtype(logits))
    }
}

/// Focal Tversky loss with α = 0.3, β = 0.7 and γ = 0.75; see [`FocalTversky`].
///
/// # Errors
/// As [`dice`].
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let logits = Tensor::new(&[[[1e4f64, -1e4, -1e4]]], &Device::Cpu)?;
/// let targets = Tensor::new(&[[[1f64, 1., 0.]]], &Device::Cpu)?;
/// let loss = focal_tversky(&logits, &targets)?.to_scalar::<f64>()?;
/// assert!((loss - (0.7f64 / 2.7).powf(0.75)).abs() < 1e-15);
/// # Ok::<(), candle_course::Error>(())
/// ```
pub fn focal_tversky(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    FocalTversky::default().forward(logits, targets)
}

/// Focal Tversky loss, the mean over classes of (1 − Tversky index)^γ.
///
/// With γ < 1 (the paper writes 1/γ with γ = 4/3, so ¾ here) the gradient grows as a class gets
/// nearly right: hard, small regions keep being worked on. A class that is exactly right has a
/// gradient of 0. Inputs as [`dice`], costs as [`Tversky`]. (Abraham and Khan, "A novel focal
/// Tversky loss function", 2019.)
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let loss = FocalTversky::new().gamma(0.5).smooth(0.0).build()?;
/// let logits = Tensor::zeros((2, 1, 4, 4), DType::F32, &Device::Cpu)?;
/// let mask = Tensor::ones((2, 1, 4, 4), DType::F32, &Device::Cpu)?;
/// println!("{}", loss.forward(&logits, &mask)?.to_scalar::<f32>()?);
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FocalTversky {
    region: Region,
    alpha: f64,
    beta: f64,
    gamma: f64,
}

impl Default for FocalTversky {
    fn default() -> Self {
        Self { region: Region::default(), alpha: 0.3, beta: 0.7, gamma: 0.75 }
    }
}

region_options!(FocalTversky, "all.");

impl FocalTversky {
    /// What a false positive costs; default 0.3.
    pub fn alpha(mut self, alpha: f64) -> Self {
        self.alpha = alpha;
        self
    }

    /// What a false negative costs; default 0.7.
    pub fn beta(mut self, beta: f64) -> Self {
        self.beta = beta;
        self
    }

    /// The exponent; default 0.75.
    pub fn gamma(mut self, gamma: f64) -> Self {
        self.gamma = gamma;
        self
    }

    /// The loss, its parameters checked.
    ///
    /// # Errors
    /// If a cost or the smoothing is negative, both costs are 0, or γ is not positive.
    pub fn build(self) -> Result<Self> {
        self.region.check()?;
        check_costs(self.alpha, self.beta)?;
        number("gamma", "a positive number", self.gamma, self.gamma > 0.0)?;
        Ok(self)
    }
}

impl Loss for FocalTversky {
    fn forward(&self, logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
        let Self { region, alpha, beta, gamma } = self.build()?;
        let overlap = region.overlap(logits, targets)?;
        let losses = pointwise(&region.tversky(&overlap, alpha, beta)?, Pointwise::Power { exponent: gamma })?;
        region.mean(&losses, &overlap, loss_dtype(logits))
    }
}

/// Generalised Dice loss, 1 − 2 Σ_c w_c Σ p t / Σ_c w_c (Σ p + Σ t), with w_c = 1 / (Σ t)².
///
/// Small classes weigh more, and all classes share one ratio. Absent classes weigh 0 (their
/// weight would be infinite). Inputs as [`dice`]; no smoothing. (Sudre et al., "Generalised Dice
/// overlap as a deep learning loss function", 2017.)
///
/// # Errors
/// As [`dice`].
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let logits = Tensor::zeros((1, 2, 4), DType::F64, &Device::Cpu)?;
/// let targets = Tensor::new(&[[0u32, 0, 0, 1]], &Device::Cpu)?;
/// let loss = generalised_dice(&logits, &targets)?.to_scalar::<f64>()?;
/// // w = [1/9, 1]: 1 − 2 (1.5/9 + 0.5) / ((2 + 3)/9 + (2 + 1))
/// assert!((loss - (1.0 - 2.0 * (1.5 / 9.0 + 0.5) / (5.0 / 9.0 + 3.0))).abs() < 1e-15);
/// # Ok::<(), candle_course::Error>(())
/// ```
pub fn generalised_dice(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    GeneralisedDice::default().forward(logits, targets)
}

/// [`generalised_dice`] with options. Everything ignored gives 0 with a gradient of 0.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let loss = GeneralisedDice::new().over(Over::Image).ignore_index(255);
/// let logits = Tensor::zeros((1, 2, 4), DType::F64, &Device::Cpu)?;
/// let targets = Tensor::new(&[[255u32, 255, 255, 255]], &Device::Cpu)?;
/// assert_eq!(loss.forward(&logits, &targets)?.to_scalar::<f64>()?, 0.0);
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GeneralisedDice {
    over: Over,
    ignore_index: Option<i64>,
}

impl GeneralisedDice {
    /// Over the batch, nothing ignored, unless told otherwise.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether overlap is counted over the batch or image by image.
    pub fn over(mut self, over: Over) -> Self {
        self.over = over;
        self
    }

    /// The label of pixels that do not count.
    pub fn ignore_index(mut self, ignore_index: i64) -> Self {
        self.ignore_index = Some(ignore_index);
        self
    }
}

impl Loss for GeneralisedDice {
    fn forward(&self, logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
        let region = Region { over: self.over, ignore_index: self.ignore_index, ..Region::default() };
        let overlap = region.overlap(logits, targets)?;
        let weights: Vec<f64> = overlap.totals.iter().map(|&t| if t > 0.0 { 1.0 / (t * t) } else { 0.0 }).collect();
        let [both, only_p, only_t] = overlap.parts()?;
        let shape = (overlap.groups, overlap.classes);
        let weights = Tensor::from_vec(weights, shape, both.device())?.to_dtype(both.dtype())?;
        let wrong = ((only_p + only_t)? * &weights)?.sum(1)?;
        let right = ((both * 2.0)? * &weights)?.sum(1)?;
        let denominator = (&wrong + right)?;
        let empty = denominator.eq(0.0)?.to_dtype(denominator.dtype())?;
        let losses = (wrong / (denominator + &empty)?)?;
        let counted = overlap.groups as f64 - empty.sum_all()?.to_dtype(DType::F64)?.to_scalar::<f64>()?;
        Ok((losses.sum_all()? / counted.max(1.0))?.to_dtype(loss_dtype(logits))?)
    }
}
