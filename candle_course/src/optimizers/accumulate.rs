//! Large batches from small ones.

use std::collections::BTreeSet;

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};

use crate::error::{Error, Result};
use crate::kernels::updates::{self as kernels, Kernel, Real, Slots};
use crate::losses::{Mean, MeanOf};
use crate::nn::Parameters;
use crate::optimizers::clip::{Change, apply_all, separate};
use crate::optimizers::engine::collect;
use crate::stateful::{Expected, State, Stateful, compare};

/// Sums the gradients of several batches, to step once with the gradient of their union.
///
/// Each batch's gradient gᵢ, of a *mean* loss, is weighted by what the mean was divided by (dᵢ:
/// examples, counted positions, the sum of class weights), and the sum is divided by the whole:
/// Σ dᵢ gᵢ / Σ dᵢ. So the last group of an epoch is scaled right, be it short of batches or its last
/// batch short of examples, and a batch with few labels counts as little as it would in the large
/// batch; dividing by a constant number of batches would do neither.
///
/// [`GradientAccumulator::add_means`] asks the loss what it is a mean of; a loss of several terms
/// that are means of different things then costs a backward pass for each of them.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let parameters = Parameters::new(0, &Device::Cpu);
/// let layer = Linear::new(1, 1, &parameters.at("fc"))?;
/// let mut optimizer = Sgd::new(&parameters)?;
/// let mut accumulator = GradientAccumulator::new(&parameters, 4)?;
/// let batches = [8, 8, 8, 8, 8, 3]; // the last group has 2 batches and 11 examples
/// let mut steps = 0;
/// for (index, examples) in batches.into_iter().enumerate() {
///     let x = Tensor::ones((examples, 1), DType::F32, &Device::Cpu)?;
///     let full = accumulator.add_means(&Mse::default().means(&layer.forward(&x)?, &x)?)?;
///     if full || index + 1 == batches.len() {
///         optimizer.step(&accumulator.take()?, 0.1)?;
///         steps += 1;
///     }
/// }
/// assert_eq!(steps, 2);
/// # Ok::<(), candle_course::Error>(())
/// ```
pub struct GradientAccumulator {
    parameters: Parameters,
    batches: usize,
    /// Of every term of the loss, the gradient so far and what it is a mean of.
    terms: Vec<(GradStore, MeanOf)>,
    count: usize,
}

impl GradientAccumulator {
    /// Groups of `batches` batches.
    ///
    /// # Errors
    /// If `batches` is 0.
    pub fn new(parameters: &Parameters, batches: usize) -> Result<Self> {
        if batches == 0 {
            return Err(Error::argument("batches", "at least 1", 0));
        }
        Ok(Self { parameters: parameters.clone(), batches, terms: Vec::new(), count: 0 })
    }

    /// Takes in the gradients of the mean loss of a batch, and what that is a mean of: the number of
    /// its examples, say. Returns whether the group is full.
    ///
    /// # Errors
    /// If the mean is of nothing or of what cannot be split, a trainable parameter has no gradient or
    /// was frozen when the group began, or the group was full already.
    pub fn add(&mut self, gradients: GradStore, of: impl Into<MeanOf>) -> Result<bool> {
        let of = of.into();
        if matches!(of, MeanOf::Count(0.0)) {
            return Err(Error::argument("of", "at least 1 example", 0));
        }
        self.add_terms(vec![(gradients, of)])
    }

    /// Takes in a batch by the terms of its loss, as [`Loss::means`](crate::losses::Loss::means) gives
    /// them: their gradients are computed here. Returns whether the group is full.
    ///
    /// # Errors
    /// If a term cannot be split, the terms are not those of the batch before, or as
    /// [`GradientAccumulator::add`].
    pub fn add_means(&mut self, means: &[Mean]) -> Result<bool> {
        let term = |Mean { value, of }: &Mean| Ok((value.backward()?, of.clone()));
        self.add_terms(means.iter().map(term).collect::<Result<_>>()?)
    }

    fn add_terms(&mut self, new: Vec<(GradStore, MeanOf)>) -> Result<bool> {
        if self.is_full() {
            return Err(Error::training(format!("the group of {} batches is full", self.batches))
                .hint("call `take` and step the optimizer when `add` returns true"));
        }
        if let Some(reason) = new.iter().find_map(|(_, of)| of.whole()) {
            return Err(Error::training(format!("gradients of this loss cannot be accumulated: {reason}"))
                .hint("accumulate nothing, or choose a loss that is a mean over examples or positions"));
        }
        if new.is_empty() || self.count > 0 && new.len() != self.terms.len() {
            let expected = format!("{} terms, as in the batch before", self.terms.len().max(1));
            return Err(Error::argument("means", expected, new.len()));
        }
        // Before anything changes: an error leaves the group as it was.
        let trainable = self.parameters.trainable();
        complete(&trainable, &new)?;
        if self.count == 0 {
            self.terms = new;
        } else {
            let joined = self.terms.iter().zip(&new).map(|((_, so_far), (_, of))| so_far.join(of));
            let joined = joined.collect::<Result<Vec<_>>>()?;
            let frozen = |var: &Var| self.terms.iter().all(|(sum, _)| sum.get(var).is_none());
            if let Some((name, _)) = trainable.iter().find(|(_, var)| frozen(var)) {
                return Err(Error::training(format!("`{name}` was frozen when the group of batches began"))
                    .hint("freeze and unfreeze between groups"));
            }
            for (((sum, so_far), (gradients, of)), joined) in self.terms.iter_mut().zip(new).zip(joined) {
                if self.count == 1 {
                    // The first gradient stays as it is while it is alone: a group of one batch
                    // is bit-identical to no accumulation.
                    change(&trainable, sum, |gradient| Ok(gradient.to_dtype(sum_dtype(gradient.dtype()))?))?;
                    multiply(&trainable, sum, so_far)?;
                }
                #[cfg(feature = "cuda")]
                if add_on_device(&trainable, sum, &gradients, &of)? {
                    *so_far = joined;
                    continue;
                }
                for (_, var) in &trainable {
                    if let Some(gradient) = gradients.get(var) {
                        add_total(sum, var, gradient, &of)?;
                    }
                }
                *so_far = joined;
            }
        }
        self.count = self.count.saturating_add(1);
        Ok(self.is_full())
    }

    /// How many batches a group has.
    pub fn batches(&self) -> usize {
        self.batches
    }

    /// Whether the group has all its batches.
    pub fn is_full(&self) -> bool {
        self.count == self.batches
    }

    /// Whether there is nothing to step with.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The gradient of the loss of all batches of the group as one, full or not. A new group begins.
    ///
    /// # Errors
    /// If the group is empty.
    pub fn take(&mut self) -> Result<GradStore> {
        self.take_by(None)
    }

    /// What this group adds to the gradient of a larger one, of several ranks, whose terms are means of `wholes`.
    ///
    /// # Errors
    /// As [`GradientAccumulator::take`].
    pub(crate) fn take_part_of(&mut self, wholes: &[MeanOf]) -> Result<GradStore> {
        if !self.is_empty() && wholes.len() != self.terms.len() {
            return Err(Error::argument("wholes", format!("{} terms", self.terms.len()), wholes.len()));
        }
        self.take_by(Some(wholes))
    }

    fn take_by(&mut self, wholes: Option<&[MeanOf]>) -> Result<GradStore> {
        let trainable = self.parameters.trainable();
        let count = std::mem::take(&mut self.count);
        let mut whole: Option<GradStore> = None;
        for (term, (mut sum, of)) in std::mem::take(&mut self.terms).into_iter().enumerate() {
            if wholes.is_some() && count == 1 {
                // A gradient that is alone is that of the mean still.
                change(&trainable, &mut sum, |gradient| Ok(gradient.to_dtype(sum_dtype(gradient.dtype()))?))?;
                multiply(&trainable, &mut sum, &of)?;
            }
            if wholes.is_some() || count > 1 {
                divide(&trainable, &mut sum, wholes.map_or(&of, |wholes| &wholes[term]))?;
                for (_, var) in &trainable {
                    if let Some(gradient) = sum.get(var).filter(|gradient| gradient.dtype() != var.dtype()) {
                        let gradient = gradient.to_dtype(var.dtype())?;
                        sum.insert(var, gradient);
                    }
                }
            }
            match &mut whole {
                None => whole = Some(sum),
                Some(whole) => {
                    for (_, var) in &trainable {
                        if let Some(gradient) = sum.get(var) {
                            add_total(whole, var, gradient, &MeanOf::Sum)?;
                        }
                    }
                }
            }
        }
        whole.ok_or_else(|| Error::training("there are no gradients to take").hint("call `add` first"))
    }
}

/// An error if a trainable parameter has no gradient by any term.
fn complete(trainable: &[(String, Var)], terms: &[(GradStore, MeanOf)]) -> Result<()> {
    let of = |store: &GradStore, some: bool| -> Vec<(String, Var)> {
        trainable.iter().filter(|(_, var)| store.get(var).is_some() == some).cloned().collect()
    };
    for (store, _) in terms {
        collect(&of(store, true), store)?;
    }
    let Some((first, _)) = terms.first() else { return Ok(()) };
    let mut missing = of(first, false);
    missing.retain(|(_, var)| terms.iter().all(|(store, _)| store.get(var).is_none()));
    collect(&missing, first).map(|_| ())
}

/// The dtype in which numbers of `dtype` are summed or averaged: half precision would round small ones away.
pub(super) fn sum_dtype(dtype: DType) -> DType {
    if matches!(dtype, DType::F16 | DType::BF16) { DType::F32 } else { dtype }
}

/// sum ← sum + gradient · what it is divided by.
fn add_total(sum: &mut GradStore, var: &Var, gradient: &Tensor, of: &MeanOf) -> Result<()> {
    let Some(total) = sum.get(var) else {
        sum.insert(var, of.total(&gradient.to_dtype(sum_dtype(gradient.dtype()))?)?.copy()?);
        return Ok(());
    };
    match of {
        MeanOf::Count(count) if total.device().is_cpu() && total.is_contiguous() => {
            kernels::in_place(&AddScaled(*count), total, gradient, &mut Slots::none(total.dtype()))?;
        }
        of => {
            let total = (total + of.total(&gradient.to_dtype(total.dtype())?)?)?;
            sum.insert(var, total);
        }
    }
    Ok(())
}

/// From the gradient of a mean to that of the sum.
fn multiply(trainable: &[(String, Var)], gradients: &mut GradStore, of: &MeanOf) -> Result<()> {
    match of {
        MeanOf::Count(count) => scale(trainable, gradients, *count),
        of => change(trainable, gradients, |gradient| of.total(gradient)),
    }
}

/// From the gradient of a sum to that of the mean.
fn divide(trainable: &[(String, Var)], gradients: &mut GradStore, of: &MeanOf) -> Result<()> {
    match of {
        MeanOf::Count(count) if *count > 0.0 => scale(trainable, gradients, 1.0 / count),
        of => change(trainable, gradients, |gradient| of.mean(gradient)),
    }
}

fn change(
    trainable: &[(String, Var)],
    gradients: &mut GradStore,
    change: impl Fn(&Tensor) -> Result<Tensor>,
) -> Result<()> {
    for (_, var) in trainable {
        if let Some(gradient) = gradients.get(var) {
            let gradient = change(gradient)?;
            gradients.insert(var, gradient);
        }
    }
    Ok(())
}

fn scale(trainable: &[(String, Var)], gradients: &mut GradStore, factor: f64) -> Result<()> {
    separate(trainable, gradients)?;
    let all = trainable.iter().map(|(_, var)| (var.clone(), Change::Scale(factor))).collect();
    apply_all(all, gradients)
}

/// Adds all gradients in one launch: whether a device does it.
#[cfg(feature = "cuda")]
fn add_on_device(trainable: &[(String, Var)], sum: &GradStore, gradients: &GradStore, of: &MeanOf) -> Result<bool> {
    let MeanOf::Count(count) = of else { return Ok(false) };
    let mut pairs = Vec::new();
    for (_, var) in trainable {
        match (sum.get(var), gradients.get(var)) {
            (Some(total), Some(gradient)) => {
                pairs.push((total.clone(), gradient.to_dtype(total.dtype())?.contiguous()?))
            }
            (None, Some(_)) => return Ok(false), // it begins with this batch
            (_, None) => {}
        }
    }
    let changes: Vec<_> = pairs.iter().map(|(total, gradient)| (total, Some(gradient), [1.0, *count])).collect();
    crate::optimizers::on_device::change_all("scale_add", &changes)
}

/// sum ← sum + factor · gradient.
struct AddScaled(f64);

impl Kernel for AddScaled {
    fn chunk<A: Real>(&self, sum: &mut [A], gradient: &[A], _slots: &mut [&mut [A]]) {
        let factor = A::real(self.0);
        sum.iter_mut().zip(gradient).for_each(|(sum, &gradient)| *sum = *sum + factor * gradient);
    }

    fn tensors(&self, sum: &Tensor, gradient: &Tensor, _slots: &mut [Tensor]) -> candle_core::Result<Tensor> {
        sum + (gradient * self.0)?
    }

    #[cfg(feature = "cuda")]
    fn device(&self) -> (&'static str, [f64; 10]) {
        ("scale_add", [1.0, self.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    }
}

impl Stateful for GradientAccumulator {
    /// The group so far: `batches`, and of every term `mean_of` and the sum under the parameters' names.
    fn state(&self) -> Result<State> {
        let mut state = State::from([("batches".to_owned(), Tensor::new(self.count as i64, &Device::Cpu)?)]);
        for (term, (sum, of)) in self.terms.iter().enumerate() {
            state.insert(format!("{term}.mean_of"), Tensor::new(of.to_number()?, &Device::Cpu)?);
            for (name, var) in self.parameters.trainable() {
                if let Some(gradient) = sum.get(&var) {
                    state.insert(format!("{term}.sum.{name}"), gradient.copy()?);
                }
            }
        }
        Ok(state)
    }

    fn load_state(&mut self, state: &State) -> Result<()> {
        let trainable = self.parameters.trainable();
        let term = |name: &String| name.split_once('.')?.0.parse::<usize>().ok();
        let count = state.keys().filter_map(term).collect::<BTreeSet<_>>().len();
        let mut expected = vec![("batches".to_owned(), Expected::new(&[], DType::I64))];
        for term in 0..count {
            expected.push((format!("{term}.mean_of"), Expected::new(&[], DType::F64)));
            for (name, var) in &trainable {
                // Of several terms one may be without some parameters.
                let sum = Expected::like(var);
                expected.push((format!("{term}.sum.{name}"), if count > 1 { sum.optional() } else { sum }));
            }
        }
        compare("the accumulated gradients are of another model", state, expected)?;
        let batches = state["batches"].to_scalar::<i64>()? as usize;
        if batches > self.batches {
            return Err(Error::checkpoint(format!(
                "the checkpoint's group has {batches} batches already, this accumulator's {} in all",
                self.batches
            )));
        }
        if (batches == 0) != (count == 0) {
            return Err(Error::checkpoint(format!("the accumulated gradients have {batches} batches, {count} sums")));
        }
        let mut terms = Vec::with_capacity(count);
        for term in 0..count {
            // candle makes gradient stores only by `backward`.
            let mut store = Tensor::zeros((), DType::F32, &Device::Cpu)?.backward()?;
            for (name, var) in &trainable {
                if let Some(gradient) = state.get(&format!("{term}.sum.{name}")) {
                    let dtype = if batches > 1 { sum_dtype(var.dtype()) } else { var.dtype() };
                    store.insert(var, gradient.to_dtype(dtype)?.to_device(var.device())?.copy()?);
                }
            }
            terms.push((store, MeanOf::from_number(state[&format!("{term}.mean_of")].to_scalar::<f64>()?)));
        }
        if count > 0 {
            complete(&trainable, &terms)?;
        }
        (self.terms, self.count) = (terms, batches);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::Linear;
    use crate::random::Generator;
    use candle_core::Module;

    fn data(examples: usize) -> (Tensor, Tensor) {
        let mut generator = Generator::new(9);
        let mut normal = |shape: (usize, usize)| {
            let values: Vec<f64> = (0..shape.0 * shape.1).map(|_| generator.normal()).collect();
            Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
        };
        (normal((examples, 3)), normal((examples, 2)))
    }

    fn gradients(layer: &Linear, xs: &Tensor, ys: &Tensor) -> GradStore {
        (layer.forward(xs).unwrap() - ys).unwrap().sqr().unwrap().mean_all().unwrap().backward().unwrap()
    }

    #[test]
    fn a_group_has_the_gradient_of_the_union_also_when_it_is_not_full() {
        let parameters = Parameters::with_dtype(0, DType::F64, &Device::Cpu);
        let layer = Linear::new(3, 2, &parameters.root()).unwrap();
        let (xs, ys) = data(21);
        for sizes in [vec![8, 8, 5], vec![21], vec![1, 20], vec![5, 5, 5, 6]] {
            let mut accumulator = GradientAccumulator::new(&parameters, 4).unwrap();
            let mut start = 0;
            for &size in &sizes {
                let part = |t: &Tensor| t.narrow(0, start, size).unwrap();
                let full = accumulator.add(gradients(&layer, &part(&xs), &part(&ys)), size).unwrap();
                start += size;
                assert_eq!(full, sizes.len() == 4 && start == 21);
            }
            let sum = accumulator.take().unwrap();
            assert!(accumulator.is_empty());
            let whole = gradients(&layer, &xs, &ys);
            for (name, var) in parameters.trainable() {
                let numbers =
                    |store: &GradStore| store.get(&var).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
                for (got, expected) in numbers(&sum).into_iter().zip(numbers(&whole)) {
                    assert!((got - expected).abs() < 1e-14, "{sizes:?}, {name}: {got} {expected}");
                }
            }
        }
    }

    #[test]
    fn a_restored_group_goes_on_alike() {
        let parameters = Parameters::new(0, &Device::Cpu);
        let layer = Linear::new(3, 2, &parameters.root()).unwrap();
        let (xs, ys) = data(12);
        let part = |t: &Tensor, start: usize| t.narrow(0, start, 4).unwrap().to_dtype(DType::F32).unwrap();
        let mut whole = GradientAccumulator::new(&parameters, 3).unwrap();
        let mut resumed = GradientAccumulator::new(&parameters, 3).unwrap();
        for start in [0, 4] {
            whole.add(gradients(&layer, &part(&xs, start), &part(&ys, start)), 4).unwrap();
        }
        resumed.load_state(&whole.state().unwrap()).unwrap();
        let weight = parameters.get("weight").unwrap();
        let finish = |accumulator: &mut GradientAccumulator| {
            assert!(accumulator.add(gradients(&layer, &part(&xs, 8), &part(&ys, 8)), 4).unwrap());
            accumulator.take().unwrap().get(&weight).unwrap().to_vec2::<f32>().unwrap()
        };
        assert_eq!(finish(&mut whole), finish(&mut resumed));
    }

    #[test]
    fn a_refused_batch_leaves_the_group_as_it_was() {
        let parameters = Parameters::with_dtype(0, DType::F64, &Device::Cpu);
        let layer = Linear::new(3, 2, &parameters.root()).unwrap();
        let (xs, ys) = data(4);
        let weight = parameters.get("weight").unwrap();
        let numbers = |store: &GradStore| store.get(&weight).unwrap().to_vec2::<f64>().unwrap();
        let expected = numbers(&gradients(&layer, &xs, &ys));
        let mut accumulator = GradientAccumulator::new(&parameters, 3).unwrap();
        parameters.freeze("bias").unwrap();
        // A store without the frozen parameter's gradient.
        let mut store = Tensor::zeros((), DType::F32, &Device::Cpu).unwrap().backward().unwrap();
        store.insert(&weight, gradients(&layer, &xs, &ys).get(&weight).unwrap().clone());
        accumulator.add(store, 4).unwrap();
        parameters.unfreeze("bias").unwrap();
        let text = accumulator.add(gradients(&layer, &xs, &ys), 4).unwrap_err().to_string();
        assert!(text.contains("`bias` was frozen when the group of batches began"), "{text}");
        assert_eq!(accumulator.count, 1);
        assert_eq!(numbers(&accumulator.take().unwrap()), expected);
    }

    #[test]
    fn misuse_is_explained() {
        let parameters = Parameters::new(0, &Device::Cpu);
        let layer = Linear::new(3, 2, &parameters.root()).unwrap();
        let xs = Tensor::ones((2, 3), DType::F32, &Device::Cpu).unwrap();
        let ys = Tensor::ones((2, 2), DType::F32, &Device::Cpu).unwrap();
        let mut accumulator = GradientAccumulator::new(&parameters, 1).unwrap();
        assert!(accumulator.take().err().unwrap().to_string().contains("call `add` first"));
        assert!(accumulator.add(gradients(&layer, &xs, &ys), 2).unwrap());
        let text = accumulator.add(gradients(&layer, &xs, &ys), 2).unwrap_err().to_string();
        assert!(text.contains("the group of 1 batches is full"), "{text}");
    }

    #[test]
    fn half_precision_gradients_are_summed_in_f32() {
        for dtype in [DType::BF16, DType::F16] {
            let parameters = Parameters::with_dtype(0, dtype, &Device::Cpu);
            let w = parameters.root().parameter("w", 1, crate::nn::Init::Constant(1.0)).unwrap();
            let batches = 3000;
            let mut accumulator = GradientAccumulator::new(&parameters, batches).unwrap();
            for batch in 0..batches {
                let gradient = if batch % 2 == 0 { 0.0625 } else { 0.125 };
                let loss = (w.as_tensor() * gradient).unwrap().sum_all().unwrap();
                accumulator.add(loss.backward().unwrap(), MeanOf::Count(1.0)).unwrap();
                if batch == 1500 {
                    let state = accumulator.state().unwrap();
                    accumulator.load_state(&state).unwrap();
                }
            }
            let gradients = accumulator.take().unwrap();
            let mean = gradients.get(&w).unwrap();
            assert_eq!(mean.dtype(), dtype);
            let mean = mean.to_dtype(DType::F32).unwrap().to_vec1::<f32>().unwrap()[0];
            assert!((mean - 0.09375).abs() < 1e-4, "{dtype:?}: {mean}");
        }
    }
}
