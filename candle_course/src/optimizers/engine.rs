//! What every optimizer does around its arithmetic: gradients by name, groups, state.

use std::collections::BTreeMap;

use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor, Var};

use crate::error::{Error, Result};
use crate::kernels::updates::{self as kernels, Kernel, Slots};
use crate::nn::Parameters;
use crate::optimizers::groups::{NonFinite, Options};

/// The numbers of one step for one parameter.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    pub learning_rate: f64,
    pub weight_decay: f64,
    /// 1 at the parameter's first step.
    pub step: u64,
}

/// One slot of state: PyTorch's name, and its value at first.
pub(super) type Slot = (&'static str, f64);

pub(super) struct Engine {
    parameters: Parameters,
    options: Options,
    slots: Vec<Slot>,
    state: BTreeMap<String, State>,
    skipped: u64,
    /// Tensor operations instead of the CPU kernels, as on a GPU.
    composed: bool,
}

struct State {
    steps: u64,
    slots: Slots,
}

impl Engine {
    pub fn new(parameters: Parameters, options: Options, slots: Vec<Slot>) -> Result<Self> {
        options.validate(&parameters)?;
        Ok(Self { parameters, options, slots, state: BTreeMap::new(), skipped: 0, composed: false })
    }

    #[cfg(test)]
    pub fn use_tensor_operations(&mut self) {
        self.composed = true;
    }

    /// Whether there is a slot of that name.
    pub fn has_slot(&self, wanted: &str) -> bool {
        self.slots.iter().any(|(name, _)| *name == wanted)
    }

    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// One step of every trainable parameter. Nothing changes if it fails.
    pub fn step<K: Kernel>(
        &mut self,
        gradients: &GradStore,
        learning_rate: f64,
        kernel: impl Fn(Moment) -> K,
    ) -> Result<()> {
        if !learning_rate.is_finite() || learning_rate < 0.0 {
            return Err(Error::argument("learning_rate", "a finite number ≥ 0", learning_rate));
        }
        let trainable = self.parameters.trainable();
        let pairs = collect(&trainable, gradients)?;
        if self.options.non_finite != NonFinite::Ignore {
            let bad = not_finite(&pairs)?;
            if !bad.is_empty() {
                if self.options.non_finite == NonFinite::Skip {
                    self.skipped += 1;
                    return Ok(());
                }
                return Err(Error::training(format!("the gradient of {} holds NaN or infinity", list(&bad))).hint(
                    "lower the learning rate, clip the gradients, or look for a division by 0 or log(0) in the loss",
                ));
            }
        }
        let fill: Vec<f64> = self.slots.iter().map(|slot| slot.1).collect();
        for (name, var, gradient) in pairs {
            if !self.state.contains_key(name) {
                let slots = Slots::new(var, &fill, self.composed)?;
                self.state.insert(name.to_owned(), State { steps: 0, slots });
            }
            let Some(state) = self.state.get_mut(name) else { continue };
            let share = self.options.share(name, var);
            let moment = Moment {
                learning_rate: learning_rate * share.learning_rate_factor,
                weight_decay: share.weight_decay,
                step: state.steps + 1,
            };
            kernels::apply(&kernel(moment), var, gradient, &mut state.slots)?;
            state.steps += 1;
        }
        Ok(())
    }

    /// Everything that may be trained, frozen or not: a frozen parameter keeps its state.
    fn variables(&self) -> Vec<(String, Var)> {
        let buffers = self.parameters.buffers();
        let is_buffer = |name: &str| buffers.iter().any(|(buffer, _)| buffer == name);
        self.parameters.all().into_iter().filter(|(name, _)| !is_buffer(name)).collect()
    }

    pub fn tensors(&self) -> Result<BTreeMap<String, Tensor>> {
        let mut tensors = BTreeMap::new();
        for (name, var) in self.variables() {
            let state = self.state.get(&name);
            let steps = state.map_or(0, |state| state.steps);
            tensors.insert(format!("{name}.step"), Tensor::new(steps as i64, &Device::Cpu)?);
            if let Some(state) = state {
                for (index, (slot, _)) in self.slots.iter().enumerate() {
                    tensors.insert(format!("{name}.{slot}"), state.slots.tensor(index, &var)?);
                }
            }
        }
        Ok(tensors)
    }

    pub fn load_tensors(&mut self, tensors: &BTreeMap<String, Tensor>) -> Result<()> {
        let mut differences = Vec::new();
        let mut known = Vec::new();
        let mut state = BTreeMap::new();
        for (name, var) in self.variables() {
            let key = format!("{name}.step");
            let steps = match tensors.get(&key) {
                Some(steps) => steps.to_dtype(candle_core::DType::I64)?.flatten_all()?.to_vec1::<i64>()?,
                None => {
                    differences.push(format!("`{key}` is missing"));
                    continue;
                }
            };
            known.push(key);
            let &[steps] = &steps[..] else {
                differences.push(format!("`{name}.step` holds {} numbers, not 1", steps.len()));
                continue;
            };
            let mut slots = Vec::new();
            for (slot, _) in &self.slots {
                let key = format!("{name}.{slot}");
                match tensors.get(&key) {
                    Some(tensor) if tensor.dims() == var.dims() => slots.push(tensor),
                    Some(tensor) => differences.push(format!(
                        "`{key}` has shape {:?}, the parameter's is {:?}",
                        tensor.dims(),
                        var.dims()
                    )),
                    None if steps == 0 => {}
                    None => differences.push(format!("`{key}` is missing")),
                }
                known.push(key);
            }
            if steps > 0 && slots.len() == self.slots.len() {
                let slots = Slots::from_tensors(&var, &slots, self.composed)?;
                state.insert(name, State { steps: steps as u64, slots });
            }
        }
        differences.extend(
            tensors.keys().filter(|key| !known.contains(key)).map(|key| format!("`{key}` is not of this optimizer")),
        );
        if !differences.is_empty() {
            return Err(Error::checkpoint(format!(
                "the optimizer's state is of another optimizer or model: {}",
                differences.join("; ")
            )));
        }
        self.state = state;
        Ok(())
    }
}

/// Every trainable parameter with its gradient.
pub(super) fn collect<'a>(
    trainable: &'a [(String, Var)],
    gradients: &'a GradStore,
) -> Result<Vec<(&'a str, &'a Var, &'a Tensor)>> {
    let mut missing = Vec::new();
    let mut pairs = Vec::with_capacity(trainable.len());
    for (name, var) in trainable {
        match gradients.get(var) {
            Some(gradient) if gradient.dims() == var.dims() => pairs.push((name.as_str(), var, gradient)),
            Some(gradient) => {
                return Err(Error::argument(
                    "gradients",
                    format!("shape {:?} for `{name}`", var.dims()),
                    format!("{:?}", gradient.dims()),
                ));
            }
            None => missing.push(name.as_str()),
        }
    }
    if missing.is_empty() {
        return Ok(pairs);
    }
    Err(Error::training(format!("{} received no gradient", list(&missing))).hint(
        "is it used in `forward`, without `detach` or an operation that has no gradient? Freeze it if it shall not be trained",
    ))
}

/// The names of parameters whose gradient holds NaN or infinity.
pub(super) fn not_finite<'a>(pairs: &[(&'a str, &'a Var, &'a Tensor)]) -> Result<Vec<&'a str>> {
    let mut names = Vec::new();
    for (name, _, gradient) in pairs {
        if !kernels::all_finite(gradient)? {
            names.push(*name);
        }
    }
    Ok(names)
}

pub(super) fn list(names: &[&str]) -> String {
    format!("`{}`", names.join("`, `"))
}
