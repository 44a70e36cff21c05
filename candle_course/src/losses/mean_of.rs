//! What a loss is a mean of, so that the losses of parts join to the loss of the whole.

use candle_core::{DType, Device, Tensor};

use crate::error::{Error, Result};
use crate::losses::class_rule::HardTargets;
use crate::losses::validate::class_targets;
use crate::stateful::{Expected, State, Stateful, compare};

/// What the value of a loss is a mean of, for certain predictions and targets.
///
/// The mean m of a batch is a sum divided by a count d: of elements, of the positions that are not
/// ignored, of their class weights. Two batches together have the mean (d₁ m₁ + d₂ m₂) / (d₁ + d₂),
/// and the same holds for the gradients. A mean of the two means is another number as soon as d₁ ≠ d₂.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// // Two sequences of tokens: the first has two labels, the second one.
/// let logits = Tensor::new(&[[[1f64, 0., 2.], [0., 1., 0.]], [[0., 3., 0.], [1., 0., 0.]]], &Device::Cpu)?; // [N, C, L]
/// let targets = Tensor::new(&[[0i64, 1, -100], [1, -100, -100]], &Device::Cpu)?;
/// let loss = CrossEntropy::builder().ignore_index(-100).build()?;
/// let mut mean = RunningMean::new();
/// for i in 0..2 {
///     let (one, labels) = (logits.narrow(0, i, 1)?, targets.narrow(0, i, 1)?);
///     mean.add(&loss.means(&one, &labels)?, 1)?;
/// }
/// let whole = loss.forward(&logits, &targets)?.to_scalar::<f64>()?;
/// assert!((mean.mean()? - whole).abs() < 1e-15);
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Debug, Clone)]
pub enum MeanOf {
    /// A sum divided by this number of elements, positions or examples, or by the sum of their weights.
    Count(f64),
    /// As [`MeanOf::Count`], a scalar `[]` on the device of the targets, not read yet.
    CountOnDevice(Tensor),
    /// A sum, divided by nothing: the values of parts add.
    Sum,
    /// The loss of the whole does not follow from the losses of its parts; why.
    Whole(String),
}

impl MeanOf {
    /// Of the elements of `targets`.
    pub(crate) fn elements(targets: &Tensor) -> Self {
        Self::Count(targets.elem_count() as f64)
    }

    /// Of the examples of `targets`, `[N, …]`.
    pub(crate) fn examples(targets: &Tensor) -> Self {
        Self::Count(targets.dims().first().copied().unwrap_or(1) as f64)
    }

    /// Of positions with class indices that are not `ignore_index`: their number, or the sum of the
    /// weights of their classes.
    pub(crate) fn positions(
        logits: &Tensor,
        targets: &Tensor,
        ignore_index: Option<i64>,
        weights: Option<&[f64]>,
    ) -> Result<Self> {
        if ignore_index.is_none() && weights.is_none() {
            return Ok(Self::elements(targets));
        }
        if !targets.device().is_cpu() {
            return Ok(Self::CountOnDevice(count_on_device(targets, ignore_index, weights)?));
        }
        let labels = class_targets(logits, targets, ignore_index)?;
        Ok(Self::Count(HardTargets { labels: &labels, weights, smoothing: 0.0, gamma: 0.0 }.total_weight()))
    }

    /// What `mean` was before it was divided, tracked for gradients if `mean` is.
    ///
    /// # Errors
    /// If the loss cannot be split.
    pub fn total(&self, mean: &Tensor) -> Result<Tensor> {
        match self {
            Self::Count(count) => Ok((mean * *count)?),
            Self::CountOnDevice(count) => Ok(mean.broadcast_mul(&count.to_dtype(mean.dtype())?)?),
            Self::Sum => Ok(mean.clone()),
            Self::Whole(reason) => Err(cannot_be_split(reason)),
        }
    }

    /// The mean of a total, be it of losses or of their gradients. Nothing counted gives 0.
    ///
    /// # Errors
    /// If the loss cannot be split.
    pub fn mean(&self, total: &Tensor) -> Result<Tensor> {
        match self {
            Self::Count(count) => Ok(if *count > 0.0 { (total / *count)? } else { total.clone() }),
            Self::CountOnDevice(count) => {
                let or_one = (count + count.eq(0f64)?.to_dtype(count.dtype())?)?;
                Ok(total.broadcast_div(&or_one.to_dtype(total.dtype())?)?)
            }
            Self::Sum => Ok(total.clone()),
            Self::Whole(reason) => Err(cannot_be_split(reason)),
        }
    }

    /// What the two are a mean of together.
    ///
    /// # Errors
    /// If one is of a sum and the other of a mean, or the loss cannot be split.
    pub fn join(&self, other: &Self) -> Result<Self> {
        match (self, other) {
            (Self::Count(a), Self::Count(b)) => Ok(Self::Count(a + b)),
            (Self::CountOnDevice(a), Self::CountOnDevice(b)) => Ok(Self::CountOnDevice((a + b)?)),
            (Self::CountOnDevice(a), Self::Count(b)) | (Self::Count(b), Self::CountOnDevice(a)) => {
                Ok(Self::CountOnDevice((a + *b)?))
            }
            (Self::Sum, Self::Sum) => Ok(Self::Sum),
            (Self::Whole(reason), _) | (_, Self::Whole(reason)) => Err(cannot_be_split(reason)),
            _ => Err(Error::training("the loss is a sum in one batch and a mean in another")),
        }
    }

    /// One number for a checkpoint; this waits for the device.
    pub(crate) fn to_number(&self) -> Result<f64> {
        Ok(match self {
            Self::Count(count) => *count,
            Self::CountOnDevice(count) => count.to_dtype(DType::F64)?.to_scalar()?,
            Self::Sum => -1.0,
            Self::Whole(_) => f64::NAN,
        })
    }

    /// Back from [`MeanOf::to_number`].
    pub(crate) fn from_number(number: f64) -> Self {
        match number {
            count if count >= 0.0 => Self::Count(count),
            sum if sum < 0.0 => Self::Sum,
            _ => Self::Whole("as the checkpoint says".to_owned()),
        }
    }

    /// Why the loss cannot be split, if it cannot.
    pub fn whole(&self) -> Option<&str> {
        if let Self::Whole(reason) = self { Some(reason) } else { None }
    }
}

/// So many examples.
impl From<usize> for MeanOf {
    fn from(examples: usize) -> Self {
        Self::Count(examples as f64)
    }
}

fn cannot_be_split(reason: &str) -> Error {
    Error::training(format!("this loss of a batch does not follow from the losses of its parts: {reason}"))
        .hint("accumulate nothing, or choose a loss that is a mean over examples or positions")
}

/// The dtype to count and to add in.
fn wide(device: &Device) -> DType {
    if device.is_metal() { DType::F32 } else { DType::F64 } // Metal has no f64
}

/// [`MeanOf::positions`] without reading from the device.
pub(super) fn count_on_device(targets: &Tensor, ignore_index: Option<i64>, weights: Option<&[f64]>) -> Result<Tensor> {
    let dtype = wide(targets.device());
    // A label that the dtype does not have would be wrapped into one that it has.
    let representable = |index: &i64| match targets.dtype() {
        DType::U8 => u8::try_from(*index).is_ok(),
        DType::U32 => u32::try_from(*index).is_ok(),
        _ => true,
    };
    let counted = match ignore_index.filter(representable) {
        Some(index) => targets.ne(index)?,
        None => targets.ones_like()?.to_dtype(DType::U8)?,
    };
    let Some(weights) = weights else {
        return Ok(counted.to_dtype(dtype)?.sum_all()?);
    };
    let labels = counted.where_cond(targets, &targets.zeros_like()?)?.to_dtype(DType::U32)?.flatten_all()?;
    let weights = Tensor::new(weights, &Device::Cpu)?.to_dtype(dtype)?.to_device(targets.device())?;
    Ok((weights.index_select(&labels, 0)? * counted.to_dtype(dtype)?.flatten_all()?)?.sum_all()?)
}

/// A loss, or a term of one, and what it is a mean of.
#[derive(Debug, Clone)]
pub struct Mean {
    /// The value, a scalar `[]`, tracked for gradients if the predictions are.
    pub value: Tensor,
    /// What it is a mean of.
    pub of: MeanOf,
}

/// The loss of everything that was added batch by batch: that of one batch of it all.
///
/// Sums stay on the device until the mean is asked for. What cannot be split (see
/// [`MeanOf::Whole`]) is averaged over examples, and [`RunningMean::approximate`] says so.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let (predictions, targets) = (Tensor::new(&[0f64, 0., 0.], &Device::Cpu)?, Tensor::new(&[3f64, 3., 6.], &Device::Cpu)?);
/// let mut mean = RunningMean::new();
/// for (first, len) in [(0, 2), (2, 1)] {
///     let (x, y) = (predictions.narrow(0, first, len)?, targets.narrow(0, first, len)?);
///     mean.add(&Mse::default().means(&x, &y)?, len)?;
/// }
/// assert_eq!(mean.mean()?, 18.0); // (9 + 9 + 36) / 3; the mean of 9 and 36 is 22.5
/// assert!(mean.approximate().is_none());
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct RunningMean {
    terms: Vec<(Tensor, MeanOf)>,
    examples: usize,
    whole: Option<String>,
}

impl RunningMean {
    /// Of nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a batch of so many examples: its terms as [`Loss::means`](crate::losses::Loss::means)
    /// gives them.
    ///
    /// # Errors
    /// If a value is not a scalar, or the terms are not those of the batches before.
    pub fn add(&mut self, means: &[Mean], examples: usize) -> Result<()> {
        if self.examples > 0 && means.len() != self.terms.len() {
            return Err(Error::argument("means", format!("{} terms as before", self.terms.len()), means.len()));
        }
        // Apart first: an error must not leave half a batch behind.
        let mut terms = Vec::with_capacity(means.len());
        let mut whole = None;
        for (i, Mean { value, of }) in means.iter().enumerate() {
            if value.rank() != 0 {
                return Err(Error::argument("means", "scalars, shape []", format!("shape {:?}", value.dims()))
                    .hint("choose the reduction mean or sum"));
            }
            let of = match of {
                MeanOf::Whole(reason) => {
                    whole = Some(reason.clone());
                    MeanOf::Count(examples as f64)
                }
                of => of.clone(),
            };
            let total = of.total(&value.detach().to_dtype(wide(value.device()))?)?;
            terms.push(match self.terms.get(i) {
                // What was restored lies on the CPU.
                Some((so_far, count)) => {
                    let so_far = so_far.to_device(total.device())?.to_dtype(total.dtype())?;
                    ((so_far + total)?, count.join(&of)?)
                }
                None => (total, of),
            });
        }
        (self.terms, self.examples) = (terms, self.examples + examples);
        self.whole = self.whole.take().or(whole);
        Ok(())
    }

    /// The loss of all that was added; this waits for the device.
    ///
    /// # Errors
    /// If nothing was added.
    pub fn mean(&self) -> Result<f64> {
        if self.terms.is_empty() {
            return Err(Error::undefined("the mean of no losses; call `add` first"));
        }
        let mut sum = 0.0;
        for (total, of) in &self.terms {
            sum += of.mean(total)?.to_dtype(DType::F64)?.to_scalar::<f64>()?;
        }
        Ok(sum)
    }

    /// How many examples were added.
    pub fn examples(&self) -> usize {
        self.examples
    }

    /// Why the mean depends on how the examples were split, if it does.
    pub fn approximate(&self) -> Option<&str> {
        self.whole.as_deref()
    }
}

/// Numbers in f64, terms numbered; a term without a count is a sum. Reading them waits for the device.
impl Stateful for RunningMean {
    fn state(&self) -> Result<State> {
        let mut state = State::from([("examples".to_owned(), Tensor::new(self.examples as i64, &Device::Cpu)?)]);
        let number = |tensor: &Tensor| -> Result<Tensor> { Ok(tensor.to_device(&Device::Cpu)?.to_dtype(DType::F64)?) };
        for (i, (total, of)) in self.terms.iter().enumerate() {
            state.insert(format!("total.{i}"), number(total)?.copy()?);
            let count = match of {
                MeanOf::Count(count) => Tensor::new(*count, &Device::Cpu)?,
                MeanOf::CountOnDevice(count) => number(count)?.copy()?,
                MeanOf::Sum | MeanOf::Whole(_) => continue,
            };
            state.insert(format!("count.{i}"), count);
        }
        if let Some(reason) = &self.whole {
            state.insert("whole".to_owned(), Tensor::new(reason.as_bytes(), &Device::Cpu)?);
        }
        Ok(state)
    }

    fn load_state(&mut self, state: &State) -> Result<()> {
        let number = || Expected::new(&[], DType::F64);
        let terms = (0..).take_while(|i| state.contains_key(&format!("total.{i}"))).count();
        let letters = state.get("whole").map_or(0, Tensor::elem_count);
        let of_term = |i| [(format!("total.{i}"), number()), (format!("count.{i}"), number().optional())];
        let expected = (0..terms).flat_map(of_term).chain([
            ("examples".to_owned(), Expected::new(&[], DType::I64)),
            ("whole".to_owned(), Expected::new(&[letters], DType::U8).optional()),
        ]);
        compare("this is not the state of a running mean", state, expected)?;
        let term = |i: usize| {
            let count = state.get(&format!("count.{i}")).map(|count| count.to_scalar()).transpose()?;
            Ok((state[&format!("total.{i}")].clone(), count.map_or(MeanOf::Sum, MeanOf::Count)))
        };
        let terms = (0..terms).map(term).collect::<Result<_>>()?;
        let whole = state.get("whole").map(|reason| reason.to_vec1::<u8>()).transpose()?;
        let whole = whole.map(|reason| String::from_utf8_lossy(&reason).into_owned());
        *self = Self { terms, examples: state["examples"].to_scalar::<i64>()? as usize, whole };
        Ok(())
    }
}
