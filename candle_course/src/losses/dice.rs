//! Dice, IoU (Jaccard) and generalised Dice: losses of the overlap.

use candle_core::{DType, Tensor};

use crate::error::Result;
use crate::losses::options::builder;
use crate::losses::region::{Classes, Over, Overlap, Region, loss_dtype, negligible, region_builder};
use crate::losses::{Loss, MeanOf};

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
/// let loss = Dice::builder().smooth(0.0).over(Over::Image).classes(Classes::Present).ignore_index(255).build()?;
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

region_builder! {
    DiceBuilder of Dice;
    /// Squares in the denominator, Σ p² + Σ t², as V-Net has it; default off.
    fn squared(loss, squared: bool) { loss.region.squared = squared }
    build(loss), errors "If the smoothing is negative." { loss.region.check()?; }
}

impl Loss for Dice {
    fn forward(&self, logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
        let overlap = self.region.overlap(logits, targets)?;
        // 2 both + only_p + only_t = 2 (both + only_p/2 + only_t/2), so the smoothing halves too.
        let halved = Region { smooth: 0.5 * self.region.smooth, ..self.region };
        let losses = halved.tversky(&overlap, 0.5, 0.5)?;
        self.region.mean(&losses, &overlap, loss_dtype(logits))
    }

    fn mean_of(&self, logits: &Tensor, targets: &Tensor) -> Result<MeanOf> {
        self.region.mean_of(logits, targets)
    }

    fn whole(&self) -> Option<String> {
        self.region.over.whole()
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
/// assert!((iou(&logits, &targets)?.to_scalar::<f32>()? - (1.0 - (1.0 + 1.0) / (2.0 + 1.0))).abs() < 1e-6);
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
/// let loss = Iou::builder().over(Over::Image).build()?;
/// let logits = Tensor::zeros((2, 1, 4, 4), DType::F32, &Device::Cpu)?;
/// let mask = Tensor::ones((2, 4, 4), DType::U8, &Device::Cpu)?;
/// assert!((loss.forward(&logits, &mask)?.to_scalar::<f32>()? - (1.0 - 9.0 / 17.0)).abs() < 1e-6);
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Iou {
    region: Region,
}

region_builder! {
    IouBuilder of Iou;
    build(loss), errors "If the smoothing is negative." { loss.region.check()?; }
}

impl Loss for Iou {
    fn forward(&self, logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
        let overlap = self.region.overlap(logits, targets)?;
        let losses = self.region.tversky(&overlap, 1.0, 1.0)?;
        self.region.mean(&losses, &overlap, loss_dtype(logits))
    }

    fn mean_of(&self, logits: &Tensor, targets: &Tensor) -> Result<MeanOf> {
        self.region.mean_of(logits, targets)
    }

    fn whole(&self) -> Option<String> {
        self.region.over.whole()
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
/// let loss = GeneralisedDice::builder().over(Over::Image).ignore_index(255).build()?;
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

builder! {
    /// Over the batch, nothing ignored, unless told otherwise.
    GeneralisedDiceBuilder of GeneralisedDice;
    /// Whether overlap is counted over the batch or image by image.
    fn over(loss, over: Over) { loss.over = over }
    /// The label of pixels that do not count.
    fn ignore_index(loss, ignore_index: i64) { loss.ignore_index = Some(ignore_index) }
    build(_loss), errors "Never." {}
}

impl GeneralisedDice {
    /// Classes that are absent have no weight: images without a class do not count.
    fn region(&self) -> Region {
        Region { over: self.over, classes: Classes::Present, ignore_index: self.ignore_index, ..Region::default() }
    }
}

/// The same where the totals are on a device, which the host does not wait for.
fn generalised_on_device(overlap: &Overlap, [both, only_p, only_t]: [Tensor; 3]) -> candle_core::Result<Tensor> {
    let totals = &overlap.totals;
    let present = totals.gt(negligible(totals.dtype()))?.to_dtype(totals.dtype())?;
    let weights = (&present / (totals.sqr()? + (1.0 - &present)?)?)?.to_dtype(both.dtype())?;
    let wrong = ((only_p + only_t)? * &weights)?.sum(1)?;
    let right = ((both * 2.0)? * &weights)?.sum(1)?;
    let denominator = (&wrong + right)?;
    let empty = denominator.eq(0.0)?.to_dtype(denominator.dtype())?;
    let losses = (wrong / (denominator + &empty)?)?;
    let counted = (1.0 - empty)?.sum_all()?.maximum(1f64)?;
    losses.sum_all()? / counted
}

impl Loss for GeneralisedDice {
    fn forward(&self, logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
        let overlap = self.region().overlap(logits, targets)?;
        let [both, only_p, only_t] = overlap.parts()?;
        let least = negligible(both.dtype());
        if !overlap.totals.device().is_cpu() {
            return Ok(generalised_on_device(&overlap, [both, only_p, only_t])?.to_dtype(loss_dtype(logits))?);
        }
        let weight = |&total: &f64| if total > least { 1.0 / (total * total) } else { 0.0 };
        let weights: Vec<f64> = overlap.totals.flatten_all()?.to_vec1::<f64>()?.iter().map(weight).collect();
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

    fn mean_of(&self, logits: &Tensor, targets: &Tensor) -> Result<MeanOf> {
        self.region().mean_of(logits, targets)
    }

    fn whole(&self) -> Option<String> {
        self.over.whole()
    }
}
