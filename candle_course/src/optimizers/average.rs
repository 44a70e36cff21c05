//! Averages of the weights along the way.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor, Var};

use crate::error::{Error, Result};
use crate::kernels::updates::{self as kernels, Kernel, Real, Slots};
use crate::nn::Parameters;
use crate::optimizers::accumulate::sum_dtype;
use crate::optimizers::groups::fraction;
use crate::setters::setters;
use crate::stateful::{Expected, State, Stateful, compare};

/// A running average of a model's parameters, which often generalises better than the last ones;
/// as `torch.optim.swa_utils.AveragedModel`.
///
/// *Exponential* (EMA): a ← δa + (1 − δ)θ after every step. *Stochastic weight averaging* (SWA):
/// the plain mean of θ at the end of several epochs, after most of the training, at a constant or
/// cyclic learning rate. Buffers (running statistics) are copied as they are; with batch norm, go
/// once through the training data in training mode after [`swap`](WeightAverage::swap) so that
/// they fit the averaged weights. Izmailov et al. 2018, "Averaging Weights Leads to Wider Optima
/// and Better Generalization".
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let parameters = Parameters::new(0, &Device::Cpu);
/// let w = parameters.root().parameter("w", 1, Init::ZEROS)?;
/// let mut average = WeightAverage::builder(&parameters).decay(0.5).build()?;
/// for value in [1f32, 3.0] {
///     w.set(&Tensor::new(&[value], &Device::Cpu)?)?;
///     average.update()?;
/// }
/// average.swap()?; // evaluate with the average …
/// assert_eq!(w.to_vec1::<f32>()?, [2.0]);
/// average.swap()?; // … and train on
/// assert_eq!(w.to_vec1::<f32>()?, [3.0]);
/// # Ok::<(), candle_course::Error>(())
/// ```
pub struct WeightAverage {
    parameters: Parameters,
    rule: Rule,
    /// In f32 where the parameter is half precision, in which a small step would be rounded away.
    averages: BTreeMap<String, Var>,
    /// While the model holds the averages: those that it holds rounded.
    exact: BTreeMap<String, Tensor>,
    updates: u64,
    swapped: bool,
}

#[derive(Debug, Clone, Copy)]
enum Rule {
    Exponential { decay: f64, warm_up: bool },
    Uniform,
}

/// Configures an exponential [`WeightAverage`].
#[derive(Clone)]
pub struct WeightAverageBuilder {
    parameters: Parameters,
    decay: f64,
    warm_up: bool,
}

impl WeightAverage {
    /// An exponential moving average with δ = 0.999. Update it after every optimizer step.
    ///
    /// # Errors
    /// If there are no parameters.
    pub fn exponential(parameters: &Parameters) -> Result<Self> {
        Self::builder(parameters).build()
    }

    /// An exponential moving average with δ = 0.999, unless told otherwise. Update it after every
    /// optimizer step.
    pub fn builder(parameters: &Parameters) -> WeightAverageBuilder {
        WeightAverageBuilder { parameters: parameters.clone(), decay: 0.999, warm_up: false }
    }

    /// Stochastic weight averaging: the mean of all updates. Update it once an epoch.
    ///
    /// # Errors
    /// If there are no parameters.
    pub fn stochastic(parameters: &Parameters) -> Result<Self> {
        Self::new(parameters, Rule::Uniform)
    }

    fn new(parameters: &Parameters, rule: Rule) -> Result<Self> {
        let all = parameters.all();
        if all.is_empty() {
            return Err(Error::argument("parameters", "at least one", 0).hint("build the model before its average"));
        }
        let averages =
            all.into_iter().map(|(name, var)| Ok((name, copy(&var)?))).collect::<Result<BTreeMap<_, _>>>()?;
        Ok(Self { parameters: parameters.clone(), rule, averages, exact: BTreeMap::new(), updates: 0, swapped: false })
    }

    /// Takes in the parameters as they are. The first update is a copy.
    ///
    /// # Errors
    /// If the average stands in the model (after an odd number of swaps), or parameters were added
    /// since.
    pub fn update(&mut self) -> Result<()> {
        if self.swapped {
            return Err(Error::training("the model holds the average now, it cannot be averaged again")
                .hint("call `swap` once more before training on"));
        }
        let share = match self.rule {
            _ if self.updates == 0 => 1.0,
            Rule::Uniform => 1.0 / (self.updates + 1) as f64,
            Rule::Exponential { decay, warm_up: false } => 1.0 - decay,
            Rule::Exponential { decay, warm_up: true } => {
                let updates = self.updates as f64;
                1.0 - decay.min((1.0 + updates) / (10.0 + updates))
            }
        };
        #[cfg(feature = "cuda")]
        if self.update_on_device(share)? {
            self.updates = self.updates.saturating_add(1);
            return Ok(());
        }
        let buffers: Vec<String> = self.parameters.buffers().into_iter().map(|(name, _)| name).collect();
        for (name, var) in self.pairs()? {
            let average = &self.averages[&name];
            if share == 1.0 || buffers.contains(&name) {
                average.set(&var.to_dtype(average.dtype())?)?;
            } else {
                kernels::apply(&MoveTowards(share), average, &var, &mut Slots::new(average, &[], false)?)?;
            }
        }
        self.updates = self.updates.saturating_add(1);
        Ok(())
    }

    /// All averages in a launch or two: whether a device does it.
    #[cfg(feature = "cuda")]
    fn update_on_device(&self, share: f64) -> Result<bool> {
        use crate::optimizers::on_device::change_all;
        let buffers: Vec<String> = self.parameters.buffers().into_iter().map(|(name, _)| name).collect();
        let pairs = self.pairs()?;
        let (mut copied, mut moved) = (Vec::new(), Vec::new());
        for (name, var) in &pairs {
            let change = (self.averages[name].as_tensor(), Some(var.as_tensor()), [share, 0.0]);
            if share == 1.0 || buffers.contains(name) { copied.push(change) } else { moved.push(change) }
        }
        let together: Vec<_> = copied.iter().chain(&moved).map(|&(average, ..)| average).collect();
        let rounded = pairs.iter().any(|(name, var)| self.averages[name].dtype() != var.dtype());
        if rounded || !crate::kernels::cuda::updates::fits(together) {
            return Ok(false);
        }
        Ok(change_all("copy", &copied)? && change_all("move_towards", &moved)?)
    }

    /// Exchanges the model's values and the averages.
    ///
    /// # Errors
    /// If there was no update yet, or parameters were added since.
    pub fn swap(&mut self) -> Result<()> {
        if self.updates == 0 {
            return Err(Error::training("there is no average yet").hint("call `update` after training steps"));
        }
        for (name, var) in self.pairs()? {
            let average = &self.averages[&name];
            let held = var.as_tensor().copy()?.to_dtype(average.dtype())?;
            let given = average.to_dtype(var.dtype())?;
            let kept = match self.exact.remove(&name) {
                // What the model held is the average, rounded, unless somebody changed it since.
                Some(exact) => {
                    let rounded = exact.to_dtype(var.dtype())?.to_dtype(exact.dtype())?;
                    held.eq(&rounded)?.where_cond(&exact, &held)?
                }
                None => held,
            };
            if !self.swapped && average.dtype() != var.dtype() {
                self.exact.insert(name.clone(), average.as_tensor().copy()?);
            }
            var.set(&given)?;
            average.set(&kept)?;
        }
        self.swapped = !self.swapped;
        Ok(())
    }

    /// How many updates there were.
    pub fn updates(&self) -> u64 {
        self.updates
    }

    fn pairs(&self) -> Result<Vec<(String, Var)>> {
        let all = self.parameters.all();
        match all.iter().find(|(name, _)| !self.averages.contains_key(name)) {
            None => Ok(all),
            Some((name, _)) => Err(Error::training(format!("`{name}` was added after the average was made"))),
        }
    }
}

impl WeightAverageBuilder {
    setters! {
        /// δ, the share of the average that stays (default 0.999: a memory of about 1000 steps).
        decay(decay: f64) => decay = decay;
        /// Forgets faster at first: δ at update n is at most (1 + n) / (10 + n) (default off).
        warm_up(warm_up: bool) => warm_up = warm_up;
    }

    /// The average.
    ///
    /// # Errors
    /// If δ is not in `[0, 1)`, or there are no parameters.
    pub fn build(self) -> Result<WeightAverage> {
        fraction("decay", self.decay)?;
        WeightAverage::new(&self.parameters, Rule::Exponential { decay: self.decay, warm_up: self.warm_up })
    }
}

fn copy(var: &Var) -> Result<Var> {
    // `from_tensor` would return a variable itself, not a copy.
    Ok(Var::from_tensor(&var.as_tensor().copy()?.to_dtype(sum_dtype(var.dtype()))?.detach())?)
}

/// average ← average + share · (parameter − average).
struct MoveTowards(f64);

impl Kernel for MoveTowards {
    fn chunk<A: Real>(&self, average: &mut [A], parameter: &[A], _slots: &mut [&mut [A]]) {
        let share = A::real(self.0);
        average.iter_mut().zip(parameter).for_each(|(average, &p)| *average = *average + share * (p - *average));
    }

    fn tensors(&self, average: &Tensor, parameter: &Tensor, _slots: &mut [Tensor]) -> candle_core::Result<Tensor> {
        average + ((parameter - average)? * self.0)?
    }

    #[cfg(feature = "cuda")]
    fn device(&self) -> (&'static str, [f64; 10]) {
        ("move_towards", [self.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    }
}

impl Stateful for WeightAverage {
    /// `average.{name}` for every parameter and buffer, and `updates`.
    fn state(&self) -> Result<State> {
        if self.swapped {
            return Err(Error::training("the model holds the average now").hint("call `swap` once more before saving"));
        }
        let mut tensors = State::from([("updates".to_owned(), Tensor::new(self.updates as i64, &Device::Cpu)?)]);
        for (name, var) in &self.averages {
            tensors.insert(format!("average.{name}"), var.as_tensor().copy()?.detach());
        }
        Ok(tensors)
    }

    fn load_state(&mut self, state: &State) -> Result<()> {
        let mut expected = vec![("updates".to_owned(), Expected::new(&[], DType::I64))];
        expected.extend(self.averages.iter().map(|(name, var)| (format!("average.{name}"), Expected::like(var))));
        compare("the average is of another model", state, expected)?;
        self.updates = state["updates"].to_scalar::<i64>()? as u64;
        for (name, var) in &self.averages {
            let tensor = &state[&format!("average.{name}")];
            var.set(&tensor.to_dtype(var.dtype())?.to_device(var.device())?.contiguous()?)?;
        }
        self.swapped = false;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::Init;

    fn setup() -> (Parameters, Var) {
        let parameters = Parameters::new(0, &Device::Cpu);
        let w = parameters.root().parameter("w", 2, Init::ZEROS).unwrap();
        parameters.root().buffer("seen", &Tensor::zeros(1, DType::F32, &Device::Cpu).unwrap()).unwrap();
        (parameters, w)
    }

    fn feed(average: &mut WeightAverage, parameters: &Parameters, w: &Var, values: &[f32]) {
        for &value in values {
            w.set(&Tensor::new(&[value, -value], &Device::Cpu).unwrap()).unwrap();
            parameters.get("seen").unwrap().set(&Tensor::new(&[value], &Device::Cpu).unwrap()).unwrap();
            average.update().unwrap();
        }
    }

    #[test]
    fn the_mean_and_the_exponential_mean() {
        let (parameters, w) = setup();
        let mut average = WeightAverage::stochastic(&parameters).unwrap();
        feed(&mut average, &parameters, &w, &[1.0, 2.0, 6.0]);
        average.swap().unwrap();
        assert_eq!(w.to_vec1::<f32>().unwrap(), [3.0, -3.0]);
        assert_eq!(parameters.get("seen").unwrap().to_vec1::<f32>().unwrap(), [6.0]);
        assert!(average.update().unwrap_err().to_string().contains("call `swap` once more"));

        let (parameters, w) = setup();
        let mut average = WeightAverage::builder(&parameters).decay(0.75).build().unwrap();
        assert!(average.swap().unwrap_err().to_string().contains("no average yet"));
        feed(&mut average, &parameters, &w, &[4.0, 8.0, 0.0]);
        average.swap().unwrap();
        // 4; 4 + (8 − 4) / 4 = 5; 5 + (0 − 5) / 4 = 3.75
        assert_eq!(w.to_vec1::<f32>().unwrap(), [3.75, -3.75]);
    }

    #[test]
    fn a_restored_average_goes_on_alike() {
        let (parameters, w) = setup();
        let build = || WeightAverage::builder(&parameters).decay(0.9).warm_up(true).build().unwrap();
        let (mut whole, mut resumed) = (build(), build());
        feed(&mut whole, &parameters, &w, &[1.0, 5.0]);
        resumed.load_state(&whole.state().unwrap()).unwrap();
        for average in [&mut whole, &mut resumed] {
            feed(average, &parameters, &w, &[2.0, 3.0]);
        }
        let values = |average: &WeightAverage| average.state().unwrap()["average.w"].to_vec1::<f32>().unwrap();
        assert_eq!(values(&whole), values(&resumed));
        let mut tensors = whole.state().unwrap();
        tensors.remove("average.w");
        let text = resumed.load_state(&tensors).unwrap_err().to_string();
        assert!(text.contains("`average.w` is missing"), "{text}");
    }

    #[test]
    fn half_precision_averages_move_by_steps_that_half_precision_lacks() {
        for dtype in [DType::BF16, DType::F16] {
            let parameters = Parameters::with_dtype(0, dtype, &Device::Cpu);
            let w = parameters.root().parameter("w", 1, Init::Constant(1.0)).unwrap();
            let mut average = WeightAverage::builder(&parameters).decay(0.999).build().unwrap();
            average.update().unwrap();
            let set =
                |value: f64| w.set(&Tensor::new(&[value], &Device::Cpu).unwrap().to_dtype(dtype).unwrap()).unwrap();
            let get = || w.to_dtype(DType::F64).unwrap().to_vec1::<f64>().unwrap()[0];
            set(2.0);
            for _ in 0..700 {
                average.update().unwrap();
            }
            let exact = 2.0 - 0.999f64.powi(700);
            let before = average.state().unwrap()["average.w"].to_vec1::<f32>().unwrap()[0];
            assert!((f64::from(before) - exact).abs() < 1e-4, "{before} {exact}");
            average.swap().unwrap();
            assert!((get() - exact).abs() < 0.01);
            average.swap().unwrap();
            assert_eq!(get(), 2.0);
            // The model held it rounded; it was not lost.
            assert_eq!(average.state().unwrap()["average.w"].to_vec1::<f32>().unwrap()[0], before);
            // What was changed in the meantime, as buffers are, is kept.
            average.swap().unwrap();
            set(0.5);
            average.swap().unwrap();
            assert_eq!(average.state().unwrap()["average.w"].to_vec1::<f32>().unwrap()[0], 0.5);
        }
    }
}
