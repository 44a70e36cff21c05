//! Who owns the variables of a model.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Shape, Tensor, Var};
use candle_nn::VarBuilder;

use crate::error::{Error, Result};
use crate::nn::bridge::Bridge;
use crate::nn::init::Init;
use crate::nn::pattern::matches;
use crate::ops::Synchronise;
use crate::random::{Generator, SharedGenerator};
use crate::stateful::{Expected, State, Stateful, compare, in_dtype};

/// The variables of a model, by PyTorch's names (`fc1.weight`), in deterministic order.
///
/// - *Parameters* are trained; they can be frozen.
/// - *Buffers* (running statistics, say) are saved with the model but never optimised or decayed.
/// - *Generators* (dropout masks) are part of a training's state.
///
/// A parameter's initial value depends on the seed and its name only, so adding a layer changes
/// no other. Clones share the same variables.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let parameters = Parameters::new(42, &Device::Cpu);
/// let layer = Linear::new(784, 10, &parameters.at("fc1"))?;
/// let names: Vec<String> = parameters.trainable().into_iter().map(|(name, _)| name).collect();
/// assert_eq!(names, ["fc1.bias", "fc1.weight"]);
/// assert_eq!(parameters.count(), 7850);
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Clone)]
pub struct Parameters(Arc<Inner>);

struct Inner {
    seed: u64,
    dtype: DType,
    device: Device,
    entries: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    variables: BTreeMap<String, (Role, Var)>,
    generators: BTreeMap<String, SharedGenerator>,
    /// Whether a model that is not of this crate's layers has variables here.
    foreign: bool,
    /// Patterns that were given before the variables existed that they are to match.
    patterns: BTreeSet<String>,
    /// The batch norms of this crate, by the names of their places.
    batch_norms: BTreeSet<String>,
    /// The ranks by whose batches these normalise together.
    ranks: Option<Arc<dyn Synchronise>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Trainable,
    Frozen,
    /// Frozen, and the model holds it without the graph.
    Cut,
    Buffer,
}

impl Parameters {
    /// An empty store of f32 variables on `device`, initialised from `seed`.
    pub fn new(seed: u64, device: &Device) -> Self {
        Self::with_dtype(seed, DType::F32, device)
    }

    /// An empty store with another dtype (f64 for gradient checks).
    pub fn with_dtype(seed: u64, dtype: DType, device: &Device) -> Self {
        Self(Arc::new(Inner { seed, dtype, device: device.clone(), entries: Mutex::default() }))
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.0.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the variables live.
    pub fn device(&self) -> &Device {
        &self.0.device
    }

    /// The variables' dtype.
    pub fn dtype(&self) -> DType {
        self.0.dtype
    }

    /// The seed of every initial value.
    pub fn seed(&self) -> u64 {
        self.0.seed
    }

    /// The place without a prefix, for a model that is a single layer.
    pub fn root(&self) -> Scope {
        Scope { parameters: self.clone(), path: String::new() }
    }

    /// The place named `name`, to build a layer in.
    pub fn at(&self, name: impl fmt::Display) -> Scope {
        self.root().at(name)
    }

    fn with_role(&self, wanted: impl Fn(Role) -> bool) -> Vec<(String, Var)> {
        let entries = self.entries();
        entries
            .variables
            .iter()
            .filter(|(_, (role, _))| wanted(*role))
            .map(|(name, (_, var))| (name.clone(), var.clone()))
            .collect()
    }

    /// The parameters that training changes, ordered by name.
    pub fn trainable(&self) -> Vec<(String, Var)> {
        self.with_role(|role| role == Role::Trainable)
    }

    /// The buffers, ordered by name.
    pub fn buffers(&self) -> Vec<(String, Var)> {
        self.with_role(|role| role == Role::Buffer)
    }

    /// Everything a `state_dict` holds: parameters, frozen ones too, and buffers, ordered by name.
    pub fn all(&self) -> Vec<(String, Var)> {
        self.with_role(|_| true)
    }

    /// The generators of layers that draw random numbers, ordered by name.
    pub fn generators(&self) -> Vec<(String, SharedGenerator)> {
        self.entries().generators.iter().map(|(name, generator)| (name.clone(), generator.clone())).collect()
    }

    /// The variable of that full name.
    pub fn get(&self, name: &str) -> Option<Var> {
        self.entries().variables.get(name).map(|(_, var)| var.clone())
    }

    /// How many numbers training changes.
    pub fn count(&self) -> usize {
        self.trainable().iter().map(|(_, var)| var.elem_count()).sum()
    }

    /// Takes the parameters out of training whose name is `pattern` or begins with `pattern.`; `*`
    /// stands for any letters, so that `layer.*.norm` and `*.bias` are patterns, too. Returns how many.
    ///
    /// # Errors
    /// If no parameter matches.
    pub fn freeze(&self, pattern: &str) -> Result<usize> {
        self.change_role(pattern, Role::Frozen)
    }

    /// Brings frozen parameters back; see [`Parameters::freeze`].
    ///
    /// # Errors
    /// If no parameter matches, or one was frozen by [`BridgeBuilder::frozen`](crate::nn::BridgeBuilder::frozen):
    /// nothing changes then.
    pub fn unfreeze(&self, pattern: &str) -> Result<usize> {
        self.change_role(pattern, Role::Trainable)
    }

    fn change_role(&self, pattern: &str, new: Role) -> Result<usize> {
        let mut entries = self.entries();
        let meant: Vec<_> = entries
            .variables
            .iter_mut()
            .filter(|(name, (role, _))| *role != Role::Buffer && matches(pattern, name))
            .map(|(name, (role, _))| (name, role))
            .collect();
        if meant.is_empty() {
            let names: Vec<_> = entries.variables.keys().cloned().collect();
            return Err(Error::argument(
                "pattern",
                format!("the beginning of one of [{}]", names.join(", ")),
                format!("`{pattern}`"),
            ));
        }
        let cut: Vec<_> = meant.iter().filter(|(_, role)| **role == Role::Cut).map(|(name, _)| name.as_str()).collect();
        if new == Role::Trainable && !cut.is_empty() {
            return Err(Error::argument(
                "pattern",
                "parameters that gradients reach",
                format!("`{}`", cut.join("`, `")),
            )
            .hint("they were frozen when the model was built: build the model anew without `frozen(…)`"));
        }
        let count = meant.len();
        meant.into_iter().filter(|(_, role)| **role != Role::Cut).for_each(|(_, role)| *role = new);
        Ok(count)
    }

    /// Whether the parameter of that full name is frozen.
    pub fn is_frozen(&self, name: &str) -> bool {
        self.entries().variables.get(name).is_some_and(|(role, _)| matches!(role, Role::Frozen | Role::Cut))
    }

    /// What candle's own models are built from: variables at the root of this store, buffers as
    /// PyTorch's batch norm names them. See [`Bridge`] for other places, buffers and frozen parts.
    ///
    /// # Examples
    ///
    /// ```
    /// use candle_course::prelude::*;
    ///
    /// let parameters = Parameters::new(42, &Device::Cpu);
    /// let layer = candle_nn::linear(784, 10, parameters.var_builder().pp("fc1"))?;
    /// assert_eq!(parameters.count(), 7850);
    /// # Ok::<(), candle_course::Error>(())
    /// ```
    pub fn var_builder(&self) -> VarBuilder<'static> {
        self.root().var_builder()
    }

    /// Whether a model that is not of this crate's layers has variables here.
    pub(crate) fn is_foreign(&self) -> bool {
        self.entries().foreign
    }

    /// The batch norms of this crate's layers, and those of others, by the names of their places.
    pub(crate) fn batch_norms(&self) -> (Vec<String>, Vec<String>) {
        let entries = self.entries();
        let place = |name: &String| match name.strip_suffix("running_mean") {
            Some(place) if place.is_empty() || place.ends_with('.') => Some(place.trim_end_matches('.').to_owned()),
            _ => None,
        };
        let all = entries.variables.keys().filter_map(place);
        all.partition(|place| entries.batch_norms.contains(place))
    }

    /// Lets batch norms normalise by the batches of all ranks, or of this one again.
    pub(crate) fn set_ranks(&self, ranks: Option<Arc<dyn Synchronise>>) {
        self.entries().ranks = ranks;
    }

    /// Whom batch norms normalise together with.
    pub(crate) fn ranks(&self) -> Option<Arc<dyn Synchronise>> {
        self.entries().ranks.clone()
    }

    /// Notes patterns of variables that are yet to come.
    pub(super) fn expect_patterns(&self, patterns: impl Iterator<Item = String>) {
        self.entries().patterns.extend(patterns);
    }

    /// The patterns that no variable came for.
    pub(crate) fn unmatched_patterns(&self) -> Vec<String> {
        let entries = self.entries();
        let unmatched = |pattern: &&String| !entries.variables.keys().any(|name| matches(pattern, name));
        entries.patterns.iter().filter(unmatched).cloned().collect()
    }

    /// The trainable parameters that `gradients` says nothing about: cut off from the loss by
    /// `detach`, by an operation without gradient, or not used in `forward`.
    pub fn missing_gradients(&self, gradients: &GradStore) -> Vec<String> {
        self.trainable().into_iter().filter(|(_, var)| gradients.get(var).is_none()).map(|(name, _)| name).collect()
    }

    fn register(&self, name: String, role: Role, value: Tensor) -> Result<Var> {
        let mut entries = self.entries();
        entries.check_free(&name)?;
        let var = Var::from_tensor(&value)?;
        entries.variables.insert(name, (role, var.clone()));
        Ok(var)
    }

    /// Makes a variable for a model that is not of this crate's layers.
    pub(super) fn create(&self, name: String, role: Role, shape: &Shape, init: Init, dtype: DType) -> Result<Var> {
        let value = init.tensor(shape, &mut Generator::derive(self.seed(), &name), dtype, self.device())?;
        self.entries().foreign = true;
        self.register(name, role, value)
    }

    /// Takes over variables that exist already: all, or none.
    pub(super) fn take_over(&self, variables: Vec<(String, Role, Var)>) -> Result<()> {
        let mut entries = self.entries();
        variables.iter().try_for_each(|(name, ..)| entries.check_free(name))?;
        entries.foreign = true;
        entries.variables.extend(variables.into_iter().map(|(name, role, var)| (name, (role, var))));
        Ok(())
    }
}

impl Entries {
    fn check_free(&self, name: &str) -> Result<()> {
        if !self.variables.contains_key(name) {
            return Ok(());
        }
        Err(Error::argument("name", "a name not yet taken", format!("`{name}`, which exists already")).hint(
            "was the model built twice on the same `Parameters`? Create the parameters and the model in the same cell",
        ))
    }
}

impl fmt::Debug for Parameters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shapes: BTreeMap<String, Vec<usize>> =
            self.all().into_iter().map(|(name, var)| (name, var.dims().to_vec())).collect();
        f.debug_struct("Parameters").field("seed", &self.seed()).field("variables", &shapes).finish()
    }
}

impl Stateful for Parameters {
    /// Parameters and buffers under PyTorch's names: the model's `state_dict`.
    fn state(&self) -> Result<State> {
        // Copies: the variables' own storage changes with the next optimizer step.
        self.all().into_iter().map(|(name, var)| Ok((name, var.as_tensor().copy()?.detach()))).collect()
    }

    /// Floating-point dtypes are converted, unless a finite number would become infinite.
    fn load_state(&mut self, state: &State) -> Result<()> {
        let variables = self.all();
        let expected = variables.iter().map(|(name, var)| (name.as_str(), Expected::like(var)));
        compare("the weights are of another model", state, expected)?;
        // All of them first: an error leaves the model as it was.
        let values = variables.iter().map(|(name, var)| {
            let value = state[name].to_device(self.device())?;
            let value = if var.dtype().is_float() { in_dtype(name, &value, var.dtype())? } else { value };
            Ok(value.contiguous()?)
        });
        for ((_, var), value) in variables.iter().zip(values.collect::<Result<Vec<_>>>()?) {
            var.set(&value)?;
        }
        Ok(())
    }
}

/// A place in [`Parameters`]: the prefix of the names of one layer.
#[derive(Debug, Clone)]
pub struct Scope {
    parameters: Parameters,
    path: String,
}

impl Scope {
    /// The place `name` below this one.
    #[must_use]
    pub fn at(&self, name: impl fmt::Display) -> Self {
        Self { parameters: self.parameters.clone(), path: self.full_name(&name.to_string()) }
    }

    /// `name` with this place's prefix.
    pub fn full_name(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// Whether what is called `name` was made here or below.
    pub(crate) fn contains(&self, name: &str) -> bool {
        let rest = name.strip_prefix(&self.path);
        rest.is_some_and(|rest| self.path.is_empty() || rest.is_empty() || rest.starts_with('.'))
    }

    /// The store this is a place in.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// What candle's own models are built from, their variables at this place: [`Parameters::var_builder`].
    pub fn var_builder(&self) -> VarBuilder<'static> {
        Bridge::new(self).var_builder()
    }

    /// Creates a trainable parameter.
    ///
    /// # Errors
    /// If the name is taken, or the initialiser does not fit the shape.
    pub fn parameter(&self, name: &str, shape: impl Into<Shape>, init: Init) -> Result<Var> {
        let full_name = self.full_name(name);
        let mut generator = Generator::derive(self.parameters.seed(), &full_name);
        let value = init.tensor(&shape.into(), &mut generator, self.parameters.dtype(), self.parameters.device())?;
        self.parameters.register(full_name, Role::Trainable, value)
    }

    /// Creates a buffer: saved with the model, never trained.
    ///
    /// # Errors
    /// If the name is taken.
    pub fn buffer(&self, name: &str, value: &Tensor) -> Result<Var> {
        self.parameters.register(self.full_name(name), Role::Buffer, value.to_device(self.parameters.device())?)
    }

    /// Notes that the layer of this place is a batch norm, which ranks can share.
    pub(super) fn note_batch_norm(&self) {
        self.parameters.entries().batch_norms.insert(self.path.clone());
    }

    /// Creates a generator for a layer that draws random numbers.
    ///
    /// # Errors
    /// If this place has a generator already.
    pub fn generator(&self) -> Result<SharedGenerator> {
        let generator = SharedGenerator::new(Generator::derive(self.parameters.seed(), &self.full_name("generator")));
        match self.parameters.entries().generators.entry(self.path.clone()) {
            Entry::Vacant(place) => Ok(place.insert(generator).clone()),
            Entry::Occupied(_) => {
                Err(Error::argument("name", "a place without a generator", format!("`{}`, which has one", self.path))
                    .hint("give every Dropout a name of its own"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::Linear;
    use candle_core::Module as _;

    #[test]
    fn initial_values_depend_on_seed_and_name_only() {
        let alone = Parameters::new(1, &Device::Cpu);
        Linear::new(3, 2, &alone.at("b")).unwrap();
        let together = Parameters::new(1, &Device::Cpu);
        Linear::new(3, 2, &together.at("a")).unwrap();
        Linear::new(3, 2, &together.at("b")).unwrap();
        let value = |parameters: &Parameters, name: &str| {
            parameters.get(name).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        assert_eq!(value(&alone, "b.weight"), value(&together, "b.weight"));
        assert_ne!(value(&together, "a.weight"), value(&together, "b.weight"));
    }

    #[test]
    fn a_refused_second_generator_leaves_the_first_in_place() {
        let parameters = Parameters::new(1, &Device::Cpu);
        let first = parameters.at("drop").generator().unwrap();
        let text = parameters.at("drop").generator().unwrap_err().to_string();
        assert!(text.contains("`drop`, which has one; give every Dropout a name of its own"), "{text}");
        first.lock().next_u64();
        let [(_, registered)] = &parameters.generators()[..] else { panic!("one generator") };
        // The same generator, one number further: not a fresh one of the same seed.
        let fresh = Parameters::new(1, &Device::Cpu).at("drop").generator().unwrap();
        fresh.lock().next_u64();
        assert_eq!(registered.lock().next_u64(), fresh.lock().next_u64());
    }

    #[test]
    fn names_freezing_and_missing_gradients() {
        let parameters = Parameters::new(1, &Device::Cpu);
        let used = Linear::new(3, 2, &parameters.at("used")).unwrap();
        Linear::new(3, 2, &parameters.at("idle")).unwrap();
        let text = Linear::new(3, 2, &parameters.at("used")).unwrap_err().to_string();
        assert!(text.contains("`used.weight`, which exists already"), "{text}");
        let x = Tensor::ones((1, 3), DType::F32, &Device::Cpu).unwrap();
        let gradients = used.forward(&x).unwrap().sum_all().unwrap().backward().unwrap();
        assert_eq!(parameters.missing_gradients(&gradients), ["idle.bias", "idle.weight"]);
        assert_eq!(parameters.freeze("idle").unwrap(), 2);
        assert!(parameters.missing_gradients(&gradients).is_empty());
        assert!(parameters.freeze("idl").unwrap_err().to_string().contains("used.weight"));
        assert_eq!(parameters.unfreeze("").unwrap(), 4);
    }

    #[test]
    fn weights_of_another_model_are_refused_by_name() {
        let mut parameters = Parameters::new(1, &Device::Cpu);
        Linear::new(3, 2, &parameters.at("fc")).unwrap();
        let mut tensors = parameters.state().unwrap();
        parameters.load_state(&tensors).unwrap();
        tensors.remove("fc.bias");
        tensors.insert("fc.weight".into(), Tensor::zeros((2, 4), DType::F32, &Device::Cpu).unwrap());
        tensors.insert("head".into(), Tensor::zeros(1, DType::F32, &Device::Cpu).unwrap());
        let text = parameters.load_state(&tensors).unwrap_err().to_string();
        for part in ["`fc.bias` is missing", "`fc.weight` has shape [2, 4], expected [2, 3]", "`head` is superfluous"] {
            assert!(text.contains(part), "{text}");
        }
    }
}
