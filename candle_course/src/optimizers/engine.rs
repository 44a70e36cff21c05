//! What every optimizer does around its arithmetic: gradients by name, groups, state.

use std::collections::BTreeMap;

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};

use crate::error::{Error, Result};
use crate::kernels::updates::{self as kernels, Kernel, Slots};
use crate::nn::Parameters;
use crate::optimizers::groups::{NonFinite, Options};
#[cfg(feature = "cuda")]
use crate::optimizers::on_device::OnDevice;
use crate::stateful::{Expected, State, compare};

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
    moments: BTreeMap<String, Moments>,
    skipped: u64,
    /// Tensor operations instead of the CPU kernels, as on a GPU.
    composed: bool,
    #[cfg(feature = "cuda")]
    device: OnDevice,
}

/// The state of one parameter.
pub(super) struct Moments {
    pub steps: u64,
    pub slots: Slots,
}

impl Engine {
    pub fn new(parameters: Parameters, options: Options, slots: Vec<Slot>) -> Result<Self> {
        options.validate(&parameters)?;
        Ok(Self {
            parameters,
            options,
            slots,
            moments: BTreeMap::new(),
            skipped: 0,
            composed: false,
            #[cfg(feature = "cuda")]
            device: OnDevice::default(),
        })
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
        #[cfg(feature = "cuda")]
        if self.options.non_finite == NonFinite::Skip {
            return self.skipped + self.device.all_left_out().unwrap_or(0);
        }
        self.skipped
    }

    /// Hears what a device has to say of the steps so far.
    pub fn settle(&mut self) -> Result<()> {
        #[cfg(feature = "cuda")]
        {
            self.skipped += self.device.settle(&mut self.moments)?;
        }
        Ok(())
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
        let fill: Vec<f64> = self.slots.iter().map(|slot| slot.1).collect();
        #[cfg(feature = "cuda")]
        {
            if self.device.is_due(&pairs) {
                self.settle()?;
            }
            self.device.expect(&pairs);
            let options = &self.options;
            let kernel = |name: &str, var: &Var, step| kernel(moment(options, name, var, learning_rate, step));
            if !self.composed && self.device.step(&pairs, &mut self.moments, &fill, options.non_finite, kernel)? {
                return Ok(());
            }
        }
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
        for (name, var, gradient) in pairs {
            if !self.moments.contains_key(name) {
                let slots = Slots::new(var, &fill, self.composed)?;
                self.moments.insert(name.to_owned(), Moments { steps: 0, slots });
            }
            let Some(moments) = self.moments.get_mut(name) else { continue };
            let moment = moment(&self.options, name, var, learning_rate, moments.steps.saturating_add(1));
            kernels::apply(&kernel(moment), var, gradient, &mut moments.slots)?;
            moments.steps = moments.steps.saturating_add(1);
        }
        Ok(())
    }

    /// Everything that may be trained, frozen or not: a frozen parameter keeps its state.
    fn variables(&self) -> Vec<(String, Var)> {
        let buffers = self.parameters.buffers();
        let is_buffer = |name: &str| buffers.iter().any(|(buffer, _)| buffer == name);
        self.parameters.all().into_iter().filter(|(name, _)| !is_buffer(name)).collect()
    }

    pub fn state(&self) -> Result<State> {
        let mut tensors = State::new();
        #[cfg(feature = "cuda")]
        let left_out = self.device.left_out()?;
        for (name, var) in self.variables() {
            let moments = self.moments.get(&name);
            let steps = moments.map_or(0, |moments| moments.steps);
            #[cfg(feature = "cuda")]
            let steps = steps - left_out(&name);
            tensors.insert(format!("{name}.step"), Tensor::new(steps as i64, &Device::Cpu)?);
            if let Some(moments) = moments {
                for (index, (slot, _)) in self.slots.iter().enumerate() {
                    tensors.insert(format!("{name}.{slot}"), moments.slots.tensor(index, &var)?);
                }
            }
        }
        Ok(tensors)
    }

    pub fn load_state(&mut self, state: &State) -> Result<()> {
        let variables = self.variables();
        let steps = |name: &str| match state.get(&format!("{name}.step")) {
            Some(steps) if steps.rank() == 0 && steps.dtype() == DType::I64 => Ok(steps.to_scalar::<i64>()?),
            _ => Ok::<_, Error>(0),
        };
        let mut expected = Vec::new();
        for (name, var) in &variables {
            expected.push((format!("{name}.step"), Expected::new(&[], DType::I64)));
            for (slot, _) in &self.slots {
                let moment = Expected::like(var);
                // Before its first step a parameter has no moments.
                let moment = if steps(name)? == 0 { moment.optional() } else { moment };
                expected.push((format!("{name}.{slot}"), moment));
            }
        }
        compare("the optimizer's state is of another optimizer or model", state, expected)?;
        let mut moments = BTreeMap::new();
        for (name, var) in &variables {
            let steps = steps(name)?;
            if steps > 0 {
                let slots: Vec<&Tensor> =
                    self.slots.iter().map(|(slot, _)| &state[&format!("{name}.{slot}")]).collect();
                let slots = Slots::from_tensors(var, &slots, self.composed)?;
                moments.insert(name.clone(), Moments { steps: steps as u64, slots });
            }
        }
        self.moments = moments;
        #[cfg(feature = "cuda")]
        {
            self.device = OnDevice::default();
        }
        Ok(())
    }
}

fn moment(options: &Options, name: &str, var: &Var, learning_rate: f64, step: u64) -> Moment {
    let share = options.share(name, var);
    let learning_rate = learning_rate * share.learning_rate_factor;
    Moment { learning_rate, weight_decay: share.weight_decay, step }
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
