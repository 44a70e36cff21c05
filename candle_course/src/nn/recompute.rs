//! Memory for time: what lies inside a block is computed again.

use std::sync::Arc;

use candle_core::{ModuleT, Tensor, Var};

use crate::error::{Error, Result, always};
use crate::kernels::node::{Value, node};
use crate::kernels::tape::Tape;
use crate::nn::Model;
use crate::nn::parameters::Scope;
use crate::random::{Generator, SharedGenerator};

/// A block whose inside is not kept for the backward pass but computed again in it (gradient
/// checkpointing: Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost";
/// `torch.utils.checkpoint`).
///
/// Between forward and backward pass only the block's input and output stay in memory. A step takes
/// about a third longer, as the block's forward pass is done twice, and gives the same bits:
/// dropout draws the same masks in both, and running statistics are updated once.
///
/// A network of n like blocks needs least memory with about √n of them in each `Recompute`. Nothing
/// changes in evaluation.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let parameters = Parameters::new(0, &Device::Cpu);
/// let scope = parameters.at("block");
/// let block = Sequential::new()
///     .add(Linear::new(8, 8, &scope.at("0"))?)
///     .add(Activation::Relu)
///     .add(Dropout::new(0.1, &scope.at("2"))?);
/// let model = Sequential::new().add(Recompute::new(block, &scope)).add(Linear::new(8, 2, &parameters.at("head"))?);
/// let y = model.forward_t(&Tensor::ones((3, 8), DType::F32, &Device::Cpu)?, true)?;
/// assert!(y.sum_all()?.backward()?.get(&parameters.get("block.0.weight").unwrap()).is_some());
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Clone)]
pub struct Recompute {
    layer: Arc<dyn Model>,
    scope: Scope,
}

impl Recompute {
    /// `layer`, all of whose parameters, buffers and generators were made in `scope` or below it: the
    /// gradients of others would be lost.
    pub fn new(layer: impl Model + 'static, scope: &Scope) -> Self {
        Self { layer: Arc::new(layer), scope: scope.clone() }
    }
}

impl std::fmt::Debug for Recompute {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Recompute of `{}`: {}", self.scope.full_name(""), self.layer.kind())
    }
}

/// The generators of a block, and where they stood.
struct Generators(Vec<(SharedGenerator, Generator)>);

impl Generators {
    fn note(scope: &Scope) -> Self {
        let below = scope.parameters().generators().into_iter().filter(|(name, _)| scope.contains(name));
        Self(below.map(|(_, shared)| (shared.clone(), shared.lock().clone())).collect())
    }

    fn set(&self) {
        self.0.iter().for_each(|(shared, state)| *shared.lock() = state.clone());
    }
}

/// Changes nothing but the graph: from the block's input to its output, in training mode.
fn again(layer: &dyn Model, scope: &Scope, drawn: &Generators, x: &Tensor) -> Result<Tensor> {
    let later = Generators::note(scope);
    let buffers: Vec<(Var, Tensor)> = scope
        .parameters()
        .buffers()
        .into_iter()
        .filter(|(name, _)| scope.contains(name))
        .map(|(_, var)| Ok((var.clone(), var.as_tensor().copy()?)))
        .collect::<Result<_>>()?;
    drawn.set();
    always(
        &mut (),
        |_| Ok(layer.forward_t(x, true)?),
        |_| {
            later.set();
            Ok(buffers.iter().try_for_each(|(var, before)| var.set(before))?)
        },
    )
}

fn flat(tensors: &[Tensor]) -> candle_core::Result<Tensor> {
    Tensor::cat(&tensors.iter().map(Tensor::flatten_all).collect::<candle_core::Result<Vec<_>>>()?, 0)
}

impl ModuleT for Recompute {
    fn forward_t(&self, xs: &Tensor, train: bool) -> candle_core::Result<Tensor> {
        if !train {
            return self.layer.forward_t(xs, false);
        }
        let trainable = self.scope.parameters().trainable();
        let variables: Vec<(String, Var)> =
            trainable.into_iter().filter(|(name, _)| self.scope.contains(name)).collect();
        let drawn = Generators::note(&self.scope);
        let value = {
            let _silent = Tape::start(false);
            self.layer.forward_t(&xs.detach(), true)?.detach().contiguous()?
        };
        if variables.is_empty() && !xs.track_op() {
            return Ok(value); // nothing here is trained
        }
        let (layer, scope, input_wanted) = (Arc::clone(&self.layer), self.scope.clone(), xs.track_op());
        let names = variables.clone();
        let backward = move |inputs: &[&Tensor], _: &Tensor, dy: &Tensor| {
            let x = Var::from_tensor(&inputs[0].detach())?;
            let tape = Tape::start(true);
            let ys = again(&*layer, &scope, &drawn, if input_wanted { x.as_tensor() } else { inputs[0] })?;
            // The sum whose gradient by the output is the one that came in.
            let gradients = tape.backward(&(ys * dy)?.sum_all()?)?;
            let mut found = vec![gradients.get(&x).cloned()];
            if !names.is_empty() {
                let of = |(name, var): &(String, Var)| {
                    gradients.get(var).cloned().ok_or_else(|| {
                        Error::training(format!("`{name}` received no gradient in a block that is computed again"))
                            .hint("is it used in the block's `forward_t`, without `detach`?")
                    })
                };
                let of_variables = names.iter().map(of).collect::<Result<Vec<_>>>()?;
                found.push(Some(flat(&of_variables)?));
            }
            Ok(found)
        };
        if variables.is_empty() {
            return node("recompute", &[xs], Value::of(&value)?, backward);
        }
        // One input for all parameters: candle shares its gradient out among them.
        let all = flat(&variables.iter().map(|(_, var)| var.as_tensor().clone()).collect::<Vec<_>>())?;
        node("recompute", &[xs, &all], Value::of(&value)?, backward)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::DType;

    use super::*;
    use crate::nn::{Activation, BatchNorm2d, Conv2d, Dropout, Flatten, Linear, Parameters, Sequential};
    use crate::stateful::Stateful as _;
    use crate::test_support::{device, peak_memory};

    fn block(scope: &Scope) -> Sequential {
        Sequential::new()
            .add(Conv2d::builder(4, 4, 3).padding(1).build(&scope.at("conv")).unwrap())
            .add(BatchNorm2d::new(4, &scope.at("norm")).unwrap())
            .add(Activation::Relu)
            .add(Dropout::new(0.3, &scope.at("drop")).unwrap())
    }

    /// Blocks, each computed again or not, and a head.
    fn model(blocks: usize, recompute: bool) -> (Sequential, Parameters) {
        let parameters = Parameters::new(5, device());
        let mut model = Sequential::new();
        for i in 0..blocks {
            let scope = parameters.at("blocks").at(i);
            model = if recompute { model.add(Recompute::new(block(&scope), &scope)) } else { model.add(block(&scope)) };
        }
        (model.add(Flatten).add(Linear::new(4 * 64, 3, &parameters.at("head")).unwrap()), parameters)
    }

    fn images(n: usize) -> Tensor {
        let values: Vec<f32> = (0..n * 256).map(|i| (i as f32 * 0.37).sin()).collect();
        Tensor::from_vec(values, (n, 4, 8, 8), device()).unwrap()
    }

    fn bits(tensor: &Tensor) -> Vec<u32> {
        tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
    }

    #[test]
    fn values_gradients_statistics_and_masks_are_the_same_bits() {
        let step = |recompute: bool| {
            let (model, parameters) = model(3, recompute);
            let mut seen = Vec::new();
            for _ in 0..3 {
                let loss = model.forward_t(&images(6), true).unwrap().sqr().unwrap().mean_all().unwrap();
                let gradients = loss.backward().unwrap();
                seen.push(bits(&loss));
                for (name, var) in parameters.trainable() {
                    let gradient = gradients.get(&var).unwrap_or_else(|| panic!("{name} has no gradient"));
                    seen.push(bits(gradient));
                    var.set(&(var.as_tensor() - (gradient * 0.1).unwrap()).unwrap()).unwrap();
                }
            }
            let state = parameters.state().unwrap();
            seen.extend(state.values().map(|tensor| bits(&tensor.to_dtype(DType::F32).unwrap())));
            seen.push(bits(&model.forward_t(&images(2), false).unwrap()));
            let next =
                parameters.generators().iter().map(|(_, generator)| generator.lock().next_u64() as u32).collect();
            seen.push(next);
            seen
        };
        assert_eq!(step(true), step(false));
    }

    #[test]
    fn frozen_and_foreign_parameters() {
        let (model, parameters) = model(2, true);
        parameters.freeze("blocks.0").unwrap();
        let loss = |model: &Sequential| model.forward_t(&images(2), true).unwrap().sum_all().unwrap();
        let gradients = loss(&model).backward().unwrap();
        assert!(gradients.get(&parameters.get("blocks.0.conv.weight").unwrap()).is_none());
        assert!(gradients.get(&parameters.get("blocks.1.conv.weight").unwrap()).is_some());
        // A parameter of the scope that the block does not use.
        let parameters = Parameters::new(1, device());
        let scope = parameters.at("block");
        Linear::new(2, 2, &scope.at("idle")).unwrap();
        let used = Recompute::new(Linear::new(2, 2, &scope.at("used")).unwrap(), &scope);
        let x = Tensor::ones((1, 2), DType::F32, device()).unwrap();
        let error = used.forward_t(&x, true).unwrap().sum_all().unwrap().backward().unwrap_err().to_string();
        assert!(error.contains("`block.idle.bias` received no gradient"), "{error}");
    }

    #[test]
    fn a_deep_network_needs_less_memory() {
        let peak = |recompute: bool| {
            let parameters = Parameters::new(1, device());
            let mut model = Sequential::new();
            for i in 0..40 {
                let scope = parameters.at(i);
                let mut block = Sequential::new();
                for j in 0..3 {
                    block = block.add(Linear::new(16, 16, &scope.at(j)).unwrap()).add(Activation::Relu);
                }
                model = if recompute { model.add(Recompute::new(block, &scope)) } else { model.add(block) };
            }
            let x = images(16).reshape((256, 16)).unwrap();
            peak_memory(|| drop(model.forward_t(&x, true).unwrap().mean_all().unwrap().backward().unwrap())).1
        };
        peak(true); // what stays for good is there after this
        let (with, without) = (peak(true), peak(false));
        assert!(with * 2 < without, "{with} bytes against {without}");
    }
}
