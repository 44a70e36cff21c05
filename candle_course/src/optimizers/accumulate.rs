//! Large batches from small ones.

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};

use crate::error::{Error, Result};
use crate::kernels::updates::{self as kernels, Kernel, Real, Slots};
use crate::nn::Parameters;
use crate::optimizers::clip::{Change, apply_all, separate};
use crate::optimizers::engine::collect;
use crate::stateful::{Expected, State, Stateful, compare};

/// Sums the gradients of several batches, to step once with the gradient of their union.
///
/// Each batch's gradient, of a *mean* loss, is weighted by its number of examples, and the sum is
/// divided by all examples: Σ nᵢ gᵢ / Σ nᵢ. So the last group of an epoch is scaled right, be it
/// short of batches or its last batch short of examples; dividing by a constant number of batches
/// would make its step too small.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let parameters = Parameters::new(0, &Device::Cpu);
/// let layer = Linear::new(1, 1, &parameters.at("fc"))?;
/// let mut optimizer = Sgd::builder(&parameters).build()?;
/// let mut accumulator = GradientAccumulator::new(&parameters, 4)?;
/// let batches = [8, 8, 8, 8, 8, 3]; // the last group has 2 batches and 11 examples
/// let mut steps = 0;
/// for (index, examples) in batches.into_iter().enumerate() {
///     let x = Tensor::ones((examples, 1), DType::F32, &Device::Cpu)?;
///     let full = accumulator.add(layer.forward(&x)?.sqr()?.mean_all()?.backward()?, examples)?;
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
    sum: Option<GradStore>,
    count: usize,
    examples: usize,
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
        Ok(Self { parameters: parameters.clone(), batches, sum: None, count: 0, examples: 0 })
    }

    /// Takes in the gradients of the mean loss of a batch with that many examples. Returns whether
    /// the group is full.
    ///
    /// # Errors
    /// If there are no examples, a trainable parameter has no gradient or was frozen when the group
    /// began, or the group was full already.
    pub fn add(&mut self, gradients: GradStore, examples: usize) -> Result<bool> {
        if examples == 0 {
            return Err(Error::argument("examples", "at least 1", 0));
        }
        if self.is_full() {
            return Err(Error::training(format!("the group of {} batches is full", self.batches))
                .hint("call `take` and step the optimizer when `add` returns true"));
        }
        let trainable = self.parameters.trainable();
        let new = collect(&trainable, &gradients)?;
        match &mut self.sum {
            None => self.sum = Some(gradients),
            Some(sum) => {
                // Before anything changes: an error leaves the group as it was.
                if let Some((name, ..)) = new.iter().find(|(_, var, _)| sum.get(var).is_none()) {
                    return Err(Error::training(format!("`{name}` was frozen when the group of batches began"))
                        .hint("freeze and unfreeze between groups"));
                }
                if self.count == 1 {
                    // The first gradient stays as it is while it is alone: a group of one batch
                    // is bit-identical to no accumulation.
                    scale(&trainable, sum, self.examples as f64)?;
                }
                #[cfg(feature = "cuda")]
                let new = if add_on_device(sum, &new, examples as f64)? { Vec::new() } else { new };
                for (_, var, gradient) in new {
                    let Some(total) = sum.get(var) else { continue };
                    let kernel = AddScaled(examples as f64);
                    if total.device().is_cpu() && total.is_contiguous() {
                        kernels::in_place(&kernel, total, gradient, &mut Slots::none(total.dtype()))?;
                    } else {
                        let total = kernel.tensors(total, gradient, &mut [])?;
                        sum.insert(var, total);
                    }
                }
            }
        }
        self.count += 1;
        self.examples += examples;
        Ok(self.is_full())
    }

    /// Whether the group has all its batches.
    pub fn is_full(&self) -> bool {
        self.count == self.batches
    }

    /// Whether there is nothing to step with.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// How many examples are in the group so far.
    pub fn examples(&self) -> usize {
        self.examples
    }

    /// The gradient of the mean loss over all examples of the group, full or not. A new group
    /// begins.
    ///
    /// # Errors
    /// If the group is empty.
    pub fn take(&mut self) -> Result<GradStore> {
        let Some(mut sum) = self.sum.take() else {
            return Err(Error::training("there are no gradients to take").hint("call `add` first"));
        };
        if self.count > 1 {
            scale(&self.parameters.trainable(), &mut sum, 1.0 / self.examples as f64)?;
        }
        (self.count, self.examples) = (0, 0);
        Ok(sum)
    }
}

fn scale(trainable: &[(String, Var)], gradients: &mut GradStore, factor: f64) -> Result<()> {
    separate(trainable, gradients)?;
    let all = trainable.iter().map(|(_, var)| (var.clone(), Change::Scale(factor))).collect();
    apply_all(all, gradients)
}

/// Adds all gradients in one launch: whether a device does it.
#[cfg(feature = "cuda")]
fn add_on_device(sum: &GradStore, new: &[(&str, &Var, &Tensor)], factor: f64) -> Result<bool> {
    let changes = |&(_, var, gradient): &(&str, &Var, &'_ Tensor)| -> Option<(Tensor, Tensor)> {
        let total = sum.get(var)?;
        Some((total.clone(), gradient.contiguous().ok()?))
    };
    let pairs: Vec<(Tensor, Tensor)> = new.iter().filter_map(changes).collect();
    let changes: Vec<_> = pairs.iter().map(|(total, gradient)| (total, Some(gradient), [1.0, factor])).collect();
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
    /// The group so far: `batches`, `examples`, and the sum under the parameters' names.
    fn state(&self) -> Result<State> {
        let mut tensors = State::new();
        for (key, count) in [("batches", self.count), ("examples", self.examples)] {
            tensors.insert(key.to_owned(), Tensor::new(count as i64, &Device::Cpu)?);
        }
        if let Some(sum) = &self.sum {
            for (name, var) in self.parameters.trainable() {
                if let Some(gradient) = sum.get(&var) {
                    tensors.insert(format!("sum.{name}"), gradient.copy()?);
                }
            }
        }
        Ok(tensors)
    }

    fn load_state(&mut self, state: &State) -> Result<()> {
        let trainable = self.parameters.trainable();
        let count = || Expected::new(&[], DType::I64);
        let mut expected = vec![("batches".to_owned(), count()), ("examples".to_owned(), count())];
        // An empty group has no sum.
        if state.keys().any(|name| name.starts_with("sum.")) {
            expected.extend(trainable.iter().map(|(name, var)| (format!("sum.{name}"), Expected::like(var))));
        }
        compare("the accumulated gradients are of another model", state, expected)?;
        let [batches, examples] = ["batches", "examples"].map(|name| state[name].to_scalar::<i64>());
        let (batches, examples) = (batches? as usize, examples? as usize);
        if batches > self.batches {
            return Err(Error::checkpoint(format!(
                "the checkpoint's group has {batches} batches already, this accumulator's {} in all",
                self.batches
            )));
        }
        let mut sum = None;
        if batches > 0 {
            // candle makes gradient stores only by `backward`.
            let mut store = Tensor::zeros((), DType::F32, &Device::Cpu)?.backward()?;
            for (name, var) in trainable {
                let gradient = state.get(&format!("sum.{name}")).ok_or_else(|| {
                    Error::checkpoint(format!("the accumulated gradients have {batches} batches and no sum"))
                })?;
                store.insert(&var, gradient.to_dtype(var.dtype())?.to_device(var.device())?.copy()?);
            }
            sum = Some(store);
        }
        (self.sum, self.count, self.examples) = (sum, batches, examples);
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
        assert_eq!(accumulator.examples(), 4);
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
}
