//! Losses made of losses.

use std::collections::BTreeSet;
use std::sync::Arc;

use candle_core::{DType, Tensor, Var};

use crate::error::{Context as _, Error, Result};
use crate::kernels::losses::weighted;
use crate::losses::validate::number;
use crate::losses::{Loss, Mean, MeanOf};
use crate::nn::{Init, Scope};

#[derive(Clone)]
struct Term {
    name: String,
    weight: f64,
    loss: Arc<dyn Loss>,
}

/// Σ wᵢ Lᵢ of losses of the same predictions and targets: cross-entropy plus Dice, say.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let loss = WeightedSum::builder()
///     .term("cross-entropy", 0.5, CrossEntropy::default())
///     .term("dice", 0.5, Dice::default())
///     .build()?;
/// let logits = Tensor::zeros((2, 3, 8, 8), DType::F32, &Device::Cpu)?;
/// let targets = Tensor::zeros((2, 8, 8), DType::U32, &Device::Cpu)?;
/// let total = loss.forward(&logits, &targets)?.to_scalar::<f32>()?;
/// let parts = loss.parts(&logits, &targets)?;
/// assert_eq!(parts[0].0, "cross-entropy");
/// assert!((total - 0.5 * (parts[0].1 + parts[1].1) as f32).abs() < 1e-6);
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Clone)]
pub struct WeightedSum {
    terms: Vec<Term>,
}

/// The terms of a [`WeightedSum`].
#[derive(Clone, Default)]
#[must_use = "only what `build` gives is a loss"]
pub struct WeightedSumBuilder {
    terms: Vec<Term>,
}

impl WeightedSumBuilder {
    /// Adds `weight` times `loss`.
    pub fn term(mut self, name: &str, weight: f64, loss: impl Loss + 'static) -> Self {
        self.terms.push(Term { name: name.to_owned(), weight, loss: Arc::new(loss) });
        self
    }

    /// The sum, its terms checked.
    ///
    /// # Errors
    /// If there is no term, a weight is negative or not finite, or a name occurs twice.
    pub fn build(self) -> Result<WeightedSum> {
        check(&self.terms, "terms", "a finite number that is not negative", |weight| weight >= 0.0)?;
        Ok(WeightedSum { terms: self.terms })
    }
}

/// That there are terms of different names, with weights that are `accepted`.
fn check<'a>(
    terms: impl IntoIterator<Item = &'a Term>,
    what: &str,
    expected: &str,
    accepted: fn(f64) -> bool,
) -> Result<()> {
    let mut names = BTreeSet::new();
    for term in terms {
        number("weight", expected, term.weight, accepted(term.weight))?;
        if !names.insert(&term.name) {
            return Err(Error::argument("name", "different names", format!("`{}` twice", term.name)));
        }
    }
    if names.is_empty() { Err(Error::argument(what, "at least one", 0)) } else { Ok(()) }
}

impl WeightedSum {
    /// Of terms that are added one by one.
    pub fn builder() -> WeightedSumBuilder {
        WeightedSumBuilder::default()
    }

    /// The value of each loss before it is weighted.
    ///
    /// # Errors
    /// If a loss fails, or is not a scalar.
    pub fn parts(&self, predictions: &Tensor, targets: &Tensor) -> Result<Vec<(String, f64)>> {
        self.terms
            .iter()
            .map(|term| {
                let value = term.loss.forward(&predictions.detach(), targets)?;
                Ok((term.name.clone(), value.to_dtype(DType::F64)?.to_scalar::<f64>()?))
            })
            .collect()
    }
}

impl Loss for WeightedSum {
    fn forward(&self, predictions: &Tensor, targets: &Tensor) -> Result<Tensor> {
        let values = self.terms.iter().map(|term| {
            let value = term.loss.forward(predictions, targets)?;
            scalar("term", &term.name, &value)?;
            weighted(&value, term.weight)
        });
        sum(values.collect::<Result<_>>()?)
    }

    /// What all terms are means of; if they differ, only [`Loss::means`] can be split.
    fn mean_of(&self, predictions: &Tensor, targets: &Tensor) -> Result<MeanOf> {
        let mut all: Option<MeanOf> = None;
        for term in &self.terms {
            let of = term.loss.mean_of(predictions, targets)?;
            all = Some(match (all, of) {
                (_, MeanOf::Whole(reason)) => return Ok(MeanOf::Whole(format!("`{}`: {reason}", term.name))),
                (None, of) => of,
                (Some(MeanOf::Count(a)), MeanOf::Count(b)) if a == b => MeanOf::Count(a),
                (Some(MeanOf::Sum), MeanOf::Sum) => MeanOf::Sum,
                _ => return Ok(MeanOf::Whole("its terms are means of different things".to_owned())),
            });
        }
        all.ok_or_else(|| Error::argument("terms", "at least one", 0))
    }

    fn means(&self, predictions: &Tensor, targets: &Tensor) -> Result<Vec<Mean>> {
        let mut means = Vec::with_capacity(self.terms.len());
        for term in &self.terms {
            for Mean { value, of } in term.loss.means(predictions, targets)? {
                scalar("term", &term.name, &value)?;
                means.push(Mean { value: weighted(&value, term.weight)?, of });
            }
        }
        Ok(means)
    }

    fn whole(&self) -> Option<String> {
        let reason = |term: &Term| Some(format!("`{}`: {}", term.name, term.loss.whole()?));
        self.terms.iter().find_map(reason)
    }
}

fn scalar(kind: &str, name: &str, value: &Tensor) -> Result<()> {
    if value.rank() == 0 {
        return Ok(());
    }
    Err(Error::argument(kind, "scalar losses", format!("`{name}` of shape {:?}", value.dims()))
        .hint("choose the reduction mean or sum"))
}

/// The sum of scalars, added in order.
fn sum(values: Vec<Tensor>) -> Result<Tensor> {
    let mut values = values.into_iter();
    let first = values.next().ok_or_else(|| Error::argument("losses", "at least one", 0))?;
    values.try_fold(first, |total, value| Ok((total + value)?))
}

/// What a task predicts, which decides how its uncertainty enters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Task {
    /// Numbers: the loss is weighted by 1 / (2 σ²).
    Regression,
    /// Classes: the loss is weighted by 1 / σ².
    Classification,
}

/// The total of several tasks' losses, and each by itself.
#[derive(Debug, Clone)]
pub struct MultiTaskLoss {
    /// What to call `backward` on, a scalar.
    pub total: Tensor,
    /// Each task's name and loss before it is weighted, a detached scalar.
    pub parts: Vec<(String, Tensor)>,
}

/// The loss of a model with several heads, weighted by fixed numbers or by learned uncertainty.
///
/// # Fixed
/// total = Σ wᵢ Lᵢ.
///
/// # Learned
/// total = Σ cᵢ e^(−sᵢ) Lᵢ + sᵢ/2, with sᵢ = ln σᵢ² trained along with the model and c = ½ for
/// regression, 1 for classification: a task with large noise σ is turned down, and sᵢ/2 keeps σ
/// from growing without end. (Kendall et al., "Multi-task learning using uncertainty to weigh
/// losses", 2018.)
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let parameters = Parameters::new(0, &Device::Cpu);
/// let loss = MultiTask::builder()
///     .task("cover", Task::Classification, 1.0, CrossEntropy::default())
///     .task("height", Task::Regression, 0.1, Huber::default())
///     .learned(&parameters.at("uncertainty"))?;
/// let (cover, height) = (Tensor::zeros((4, 3), DType::F32, &Device::Cpu)?, Tensor::ones(4, DType::F32, &Device::Cpu)?);
/// let (classes, metres) = (Tensor::zeros(4, DType::U32, &Device::Cpu)?, Tensor::zeros(4, DType::F32, &Device::Cpu)?);
/// let value = loss.forward(&[(&cover, &classes), (&height, &metres)])?;
/// let gradients = value.total.backward()?;
/// assert_eq!(parameters.count(), 2); // ln σ² of each task
/// assert!(gradients.get(&parameters.get("uncertainty.log_variance.cover").unwrap()).is_some());
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Clone)]
pub struct MultiTask {
    tasks: Vec<(Term, Task)>,
    log_variances: Option<Vec<Var>>,
}

/// The tasks of a [`MultiTask`] loss.
#[derive(Clone, Default)]
#[must_use = "only what `build` or `learned` gives is a loss"]
pub struct MultiTaskBuilder {
    tasks: Vec<(Term, Task)>,
}

impl MultiTaskBuilder {
    /// Adds a task. `weight` multiplies its loss when weights are fixed, and is where the learned
    /// weight begins otherwise.
    pub fn task(mut self, name: &str, task: Task, weight: f64, loss: impl Loss + 'static) -> Self {
        self.tasks.push((Term { name: name.to_owned(), weight, loss: Arc::new(loss) }, task));
        self
    }

    /// The loss with the weights as given.
    ///
    /// # Errors
    /// If there is no task, a weight is not positive, or a name occurs twice.
    pub fn build(self) -> Result<MultiTask> {
        let terms = self.tasks.iter().map(|(term, _)| term);
        check(terms, "tasks", "a positive number, and finite", |weight| weight > 0.0)?;
        Ok(MultiTask { tasks: self.tasks, log_variances: None })
    }

    /// The loss with weights that are learned: registers a scalar `log_variance.<name>` per task in `scope`.
    ///
    /// # Errors
    /// As [`MultiTaskBuilder::build`], and if the scope already has variables of those names.
    pub fn learned(self, scope: &Scope) -> Result<MultiTask> {
        let mut loss = self.build()?;
        let scope = scope.at("log_variance");
        let log_variances = loss.tasks.iter().map(|(term, task)| {
            // c e^(−s) = weight
            let start = (task.factor() / term.weight).ln();
            scope.parameter(&term.name, (), Init::Constant(start))
        });
        loss.log_variances = Some(log_variances.collect::<Result<_>>()?);
        Ok(loss)
    }
}

impl MultiTask {
    /// Of tasks that are added one by one.
    pub fn builder() -> MultiTaskBuilder {
        MultiTaskBuilder::default()
    }

    /// The current weight of each task: fixed, or cᵢ e^(−sᵢ).
    ///
    /// # Errors
    /// If a variable cannot be read.
    pub fn weights(&self) -> Result<Vec<(String, f64)>> {
        let weight = |(i, (term, task)): (usize, &(Term, Task))| {
            let weight = match &self.log_variances {
                None => term.weight,
                Some(logs) => task.factor() * (-logs[i].to_dtype(DType::F64)?.to_scalar::<f64>()?).exp(),
            };
            Ok((term.name.clone(), weight))
        };
        self.tasks.iter().enumerate().map(weight).collect()
    }

    /// The loss of `(predictions, targets)` of each task, in the order they were added.
    ///
    /// # Errors
    /// If there are not as many pairs as tasks, a loss fails, or is not a scalar.
    pub fn forward(&self, pairs: &[(&Tensor, &Tensor)]) -> Result<MultiTaskLoss> {
        let (mut terms, mut parts) = (Vec::with_capacity(pairs.len()), Vec::with_capacity(pairs.len()));
        self.each(pairs, |i, task, (predictions, targets)| {
            let value = task.loss.forward(predictions, targets)?;
            scalar("task", &task.name, &value)?;
            parts.push((task.name.clone(), value.detach()));
            let (dtype, weighted) = (value.dtype(), self.weighted(i, value)?);
            terms.push(match self.penalty(i, dtype)? {
                Some(penalty) => (weighted + penalty)?,
                None => weighted,
            });
            Ok(())
        })?;
        Ok(MultiTaskLoss { total: sum(terms)?, parts })
    }

    /// The terms of the total and what each is a mean of, as [`Loss::means`]; the tasks' losses may
    /// be means of different things. The sᵢ/2 of learned weights are terms of their own.
    ///
    /// # Errors
    /// As [`MultiTask::forward`].
    pub fn means(&self, pairs: &[(&Tensor, &Tensor)]) -> Result<Vec<Mean>> {
        let mut means = Vec::with_capacity(pairs.len());
        self.each(pairs, |i, task, (predictions, targets)| {
            for Mean { value, of } in task.loss.means(predictions, targets)? {
                scalar("task", &task.name, &value)?;
                means.push(Mean { value: self.weighted(i, value)?, of });
            }
            let dtype = means.last().map_or(DType::F32, |mean: &Mean| mean.value.dtype());
            // One for every batch: its mean is itself.
            means.extend(self.penalty(i, dtype)?.map(|value| Mean { value, of: MeanOf::Count(1.0) }));
            Ok(())
        })?;
        Ok(means)
    }

    fn each(
        &self,
        pairs: &[(&Tensor, &Tensor)],
        mut f: impl FnMut(usize, &Term, (&Tensor, &Tensor)) -> Result<()>,
    ) -> Result<()> {
        if pairs.len() != self.tasks.len() {
            return Err(Error::argument("pairs", format!("one per task, {}", self.tasks.len()), pairs.len()));
        }
        for (i, ((task, _), &pair)) in self.tasks.iter().zip(pairs).enumerate() {
            f(i, task, pair).with_context(|| format!("task `{}`", task.name))?;
        }
        Ok(())
    }

    /// What multiplies a task's loss, with the gradient of a learned weight.
    fn weighted(&self, i: usize, value: Tensor) -> Result<Tensor> {
        let (term, task) = &self.tasks[i];
        match &self.log_variances {
            None => Ok((value * term.weight)?),
            Some(logs) => {
                let s = logs[i].to_dtype(value.dtype())?;
                Ok(((s.neg()?.exp()? * value)? * task.factor())?)
            }
        }
    }

    /// sᵢ/2 where weights are learned.
    fn penalty(&self, i: usize, dtype: DType) -> Result<Option<Tensor>> {
        let half = |logs: &Vec<Var>| Ok((logs[i].to_dtype(dtype)? * 0.5)?);
        self.log_variances.as_ref().map(half).transpose()
    }
}

impl Task {
    fn factor(self) -> f64 {
        match self {
            Self::Regression => 0.5,
            Self::Classification => 1.0,
        }
    }
}
