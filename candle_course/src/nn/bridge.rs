//! candle's own way to build a model, on our variables.

use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::init::{FanInOut, NormalOrUniform};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{VarBuilder, VarMap};

use crate::error::{Error, Result};
use crate::nn::init::Init;
use crate::nn::parameters::{Role, Scope};
use crate::nn::pattern::matches;

/// What is a buffer in every model that names it as PyTorch does.
const BUFFERS: [&str; 3] = ["*running_mean", "*running_var", "*num_batches_tracked"];

/// Lets a model that is built from a [`VarBuilder`] stand on [`Parameters`](crate::nn::Parameters), so that all that is done with
/// those is done with it too: groups, freezing, averages, checkpoints, exact resuming.
///
/// The variables are made as the model asks for them: of the dtype and on the device of the
/// parameters, with the initialiser that the model names, drawn from the seed and the name alone.
/// A name that is asked for twice is one variable. A model that names no initialiser gets zeros, as
/// with candle's `VarMap`: such a model is meant for loaded weights.
///
/// candle does not say which variables are trained. `running_mean`, `running_var`,
/// `num_batches_tracked` and whole numbers are taken for buffers, the rest for parameters, unless
/// told otherwise by a name or a pattern: `*` stands for any letters, and a beginning of a name that
/// ends before a dot means all below it.
///
/// Before such a model is trained, the trainer compares its gradients with differences of the loss
/// ([`check_gradients`](crate::training::check_gradients)): several layers of candle lose them. For
/// those see [`trainable`](crate::nn::trainable).
///
/// # Examples
///
/// A model of candle's own layers, its embedding frozen:
///
/// ```
/// use candle_course::prelude::*;
///
/// let parameters = Parameters::new(0, &Device::Cpu);
/// let bridge = Bridge::builder(&parameters.root()).frozen("embedding").build()?;
/// let builder = bridge.var_builder();
/// let embedding = candle_nn::embedding(100, 8, builder.pp("embedding"))?;
/// let head = candle_nn::linear(8, 2, builder.pp("head"))?;
/// let names: Vec<String> = parameters.trainable().into_iter().map(|(name, _)| name).collect();
/// assert_eq!(names, ["head.bias", "head.weight"]);
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Bridge {
    scope: Scope,
    buffers: Vec<String>,
    frozen: Vec<String>,
    absent: Vec<String>,
}

/// Configures a [`Bridge`].
#[derive(Debug, Clone)]
pub struct BridgeBuilder(Bridge);

impl BridgeBuilder {
    /// What these variables hold is saved, but not trained: a name, or a pattern. May be called several
    /// times.
    #[must_use = "a setter gives the builder back"]
    pub fn buffer(mut self, pattern: impl Into<String>) -> Self {
        self.0.buffers.push(pattern.into());
        self
    }

    /// These parameters stay as they are, and no gradient is computed through them: the backward pass
    /// ends where only they are left. Unlike [`Parameters::freeze`](crate::nn::Parameters::freeze) this
    /// cannot be undone. May be called several times.
    #[must_use = "a setter gives the builder back"]
    pub fn frozen(mut self, pattern: impl Into<String>) -> Self {
        self.0.frozen.push(pattern.into());
        self
    }

    /// There are no such variables, and whoever asks for one hears so: models of several versions find
    /// out by that which version they are (candle-transformers' ConvNeXt is version 2 where there is a
    /// `*.grn`). May be called several times.
    #[must_use = "a setter gives the builder back"]
    pub fn absent(mut self, pattern: impl Into<String>) -> Self {
        self.0.absent.push(pattern.into());
        self
    }

    /// The bridge.
    ///
    /// # Errors
    /// If a pattern is empty: nothing would be left to train.
    pub fn build(self) -> Result<Bridge> {
        if [&self.0.buffers, &self.0.frozen, &self.0.absent].into_iter().flatten().any(String::is_empty) {
            return Err(Error::argument("pattern", "a name or a pattern", "an empty text"));
        }
        let patterns = self.0.buffers.iter().chain(&self.0.frozen);
        self.0.scope.parameters().expect_patterns(patterns.map(|pattern| self.0.scope.full_name(pattern)));
        Ok(self.0)
    }
}

impl Bridge {
    /// A bridge that takes for buffers what PyTorch's batch norm calls so, and freezes nothing. The
    /// variables' names are what the model asks for, below `scope`.
    pub fn new(scope: &Scope) -> Self {
        Self { scope: scope.clone(), buffers: Vec::new(), frozen: Vec::new(), absent: Vec::new() }
    }

    /// A bridge that is told more.
    pub fn builder(scope: &Scope) -> BridgeBuilder {
        BridgeBuilder(Self::new(scope))
    }

    /// What candle's models are built from.
    pub fn var_builder(&self) -> VarBuilder<'static> {
        let parameters = self.scope.parameters();
        let backend: Box<dyn SimpleBackend> = Box::new(self.clone());
        VarBuilder::new_with_args(backend, parameters.dtype(), parameters.device())
    }

    /// Takes over the variables of a model that was built on a [`VarMap`] already: not copies, so the
    /// model goes on with what training makes of them. Returns how many.
    ///
    /// # Errors
    /// If the map is empty, a name is taken, a variable is on another device, is to be
    /// [`frozen`](BridgeBuilder::frozen) (the model holds it already: freeze it by
    /// [`Parameters::freeze`](crate::nn::Parameters::freeze)). Nothing is taken over then.
    ///
    /// # Examples
    ///
    /// ```
    /// use candle_course::prelude::*;
    /// use candle_nn::{VarBuilder, VarMap};
    ///
    /// let map = VarMap::new();
    /// let model = candle_nn::linear(4, 2, VarBuilder::from_varmap(&map, DType::F32, &Device::Cpu).pp("fc"))?;
    /// let parameters = Parameters::new(0, &Device::Cpu);
    /// assert_eq!(Bridge::new(&parameters.root()).adopt(&map)?, 2);
    /// assert_eq!(parameters.count(), 10);
    /// # Ok::<(), candle_course::Error>(())
    /// ```
    pub fn adopt(&self, map: &VarMap) -> Result<usize> {
        let map = map.data().lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut found = Vec::with_capacity(map.len());
        for (name, var) in map.iter() {
            self.check_device(name, var.device())?;
            let role = self.role(name, var.dtype());
            if role == Role::Cut {
                return Err(Error::argument("frozen", "no variable that a model holds already", format!("`{name}`"))
                    .hint("take it over, and call `parameters.freeze(…)`"));
            }
            found.push((self.scope.full_name(name), role, var.clone()));
        }
        if found.is_empty() {
            return Err(Error::argument("map", "at least one variable", 0)
                .hint("was the model built on this `VarMap`, and before this call?"));
        }
        let count = found.len();
        self.scope.parameters().take_over(found)?;
        Ok(count)
    }

    fn role(&self, name: &str, dtype: DType) -> Role {
        let one_of = |patterns: &[String]| patterns.iter().any(|pattern| matches(pattern, name));
        if !dtype.is_float() || BUFFERS.iter().any(|pattern| matches(pattern, name)) || one_of(&self.buffers) {
            Role::Buffer
        } else if one_of(&self.frozen) {
            Role::Cut
        } else {
            Role::Trainable
        }
    }

    fn check_device(&self, name: &str, device: &Device) -> Result<()> {
        let own = self.scope.parameters().device();
        if own.same_device(device) {
            return Ok(());
        }
        Err(Error::argument(
            "device",
            format!("{:?}, where the parameters live", own.location()),
            format!("{:?} for `{name}`", device.location()),
        ))
    }

    fn variable(
        &self,
        shape: Shape,
        name: &str,
        hint: candle_nn::Init,
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        self.check_device(name, device)?;
        let full_name = self.scope.full_name(name);
        if self.absent.iter().any(|pattern| matches(pattern, name)) {
            return Err(Error::argument("name", "a variable that is not absent", format!("`{full_name}`")));
        }
        let role = self.role(name, dtype);
        let var = match self.scope.parameters().get(&full_name) {
            Some(var) if var.shape() != &shape => {
                return Err(Error::argument(
                    "shape",
                    format!("{:?}, that of `{full_name}`, which exists already", var.dims()),
                    format!("{:?}", shape.dims()),
                ));
            }
            // A conversion would be a copy, which training does not reach.
            Some(var) if var.dtype() != dtype => {
                return Err(Error::argument(
                    "dtype",
                    format!("{}, that of `{full_name}`, which exists already", var.dtype().as_str()),
                    dtype.as_str(),
                ));
            }
            Some(var) => var,
            None => {
                let init = init_of(hint, &shape);
                self.scope.parameters().create(full_name, role, &shape, init, dtype)?
            }
        };
        Ok(if role == Role::Cut { var.as_detached_tensor() } else { var.as_tensor().clone() })
    }
}

impl SimpleBackend for Bridge {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        hint: candle_nn::Init,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        Ok(self.variable(shape, name, hint, dtype, device)?)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
        let full_name = self.scope.full_name(name);
        match self.scope.parameters().get(&full_name) {
            Some(var) => Ok(self.variable(var.shape().clone(), name, candle_nn::Init::default(), dtype, device)?),
            None => Err(Error::argument("name", "a variable that exists", format!("`{full_name}`"))
                .hint("the model asks for it without a shape, so that it cannot be made: make it first, by `scope.parameter(…)`")
                .into()),
        }
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.scope.parameters().get(&self.scope.full_name(name)).is_some()
    }
}

/// candle's initialiser as one of ours.
fn init_of(hint: candle_nn::Init, shape: &Shape) -> Init {
    match hint {
        candle_nn::Init::Const(value) => Init::Constant(value),
        candle_nn::Init::Randn { mean, stdev } => Init::Normal { mean, std: stdev },
        candle_nn::Init::Uniform { lo, up } => Init::Uniform { low: lo, high: up },
        // Not ours of that name: candle knows fans of vectors, too.
        candle_nn::Init::Kaiming { dist, fan, non_linearity } => {
            let fan = match fan {
                FanInOut::FanIn => FanInOut::FanIn.for_shape(shape),
                FanInOut::FanOut => FanInOut::FanOut.for_shape(shape),
            };
            let std = non_linearity.gain() / (fan.max(1) as f64).sqrt();
            match dist {
                NormalOrUniform::Uniform => Init::symmetric(3f64.sqrt() * std),
                NormalOrUniform::Normal => Init::Normal { mean: 0.0, std },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Var;
    use candle_nn::ModuleT as _;

    use super::*;
    use crate::nn::Parameters;
    use crate::stateful::Stateful as _;

    fn values(parameters: &Parameters, name: &str) -> Vec<f32> {
        parameters.get(name).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    fn build(seed: u64) -> (Parameters, candle_nn::Linear, candle_nn::BatchNorm) {
        let parameters = Parameters::new(seed, &Device::Cpu);
        let builder = parameters.var_builder();
        let linear = candle_nn::linear(300, 4, builder.pp("a.fc")).unwrap();
        let norm = candle_nn::batch_norm(4, 1e-5, builder.pp("a.norm")).unwrap();
        (parameters, linear, norm)
    }

    #[test]
    fn variables_are_seeded_named_and_of_candles_distribution() {
        let (parameters, ..) = build(3);
        let names: Vec<String> = parameters.all().into_iter().map(|(name, _)| name).collect();
        assert_eq!(
            names,
            ["a.fc.bias", "a.fc.weight", "a.norm.bias", "a.norm.running_mean", "a.norm.running_var", "a.norm.weight"]
        );
        assert_eq!(parameters.buffers().len(), 2);
        assert_eq!(values(&parameters, "a.fc.weight"), values(&build(3).0, "a.fc.weight"));
        assert_ne!(values(&parameters, "a.fc.weight"), values(&build(4).0, "a.fc.weight"));
        assert_eq!(values(&parameters, "a.norm.weight"), [1.0; 4]);
        // candle's default for a linear weight: Kaiming normal with ReLU's gain, std √(2 / 300).
        let weight = values(&parameters, "a.fc.weight");
        let std = (weight.iter().map(|w| f64::from(w * w)).sum::<f64>() / weight.len() as f64).sqrt();
        assert!((std / (2f64 / 300.0).sqrt() - 1.0).abs() < 0.1, "{std}");
        let bound = 1.0 / 300f32.sqrt();
        assert!(values(&parameters, "a.fc.bias").iter().all(|b| b.abs() <= bound && *b != 0.0));
    }

    #[test]
    fn running_statistics_of_a_foreign_batch_norm_are_the_buffers() {
        let (parameters, _, norm) = build(0);
        let xs = Tensor::new(&[[1f32, 2., 3., 4.], [3., 2., 3., 0.]], &Device::Cpu).unwrap();
        norm.forward_t(&xs, true).unwrap();
        for (found, expected) in values(&parameters, "a.norm.running_mean").iter().zip([0.2, 0.2, 0.3, 0.2]) {
            assert!((found - expected).abs() < 1e-6);
        }
    }

    #[test]
    fn one_name_is_one_variable_of_one_shape_dtype_and_place() {
        let parameters = Parameters::new(0, &Device::Cpu);
        let builder = parameters.at("m").var_builder();
        let first = builder.get((2, 3), "tied").unwrap();
        let second = builder.get_unchecked("tied").unwrap();
        parameters.get("m.tied").unwrap().set(&Tensor::ones((2, 3), DType::F32, &Device::Cpu).unwrap()).unwrap();
        assert_eq!(first.to_vec2::<f32>().unwrap(), second.to_vec2::<f32>().unwrap());
        assert!(builder.contains_tensor("tied") && !builder.contains_tensor("other"));
        let text = builder.get((3, 2), "tied").unwrap_err().to_string();
        assert!(text.contains("[2, 3], that of `m.tied`") && text.contains("got [3, 2]"), "{text}");
        let text = builder.to_dtype(DType::F64).get((2, 3), "tied").unwrap_err().to_string();
        assert!(text.contains("f32, that of `m.tied`"), "{text}");
        let text = builder.get_unchecked("other").unwrap_err().to_string();
        assert!(text.contains("`m.other`"), "{text}");
        builder.to_dtype(DType::F64).get(1, "wide").unwrap();
        assert_eq!(parameters.get("m.wide").unwrap().dtype(), DType::F64);
        builder.to_dtype(DType::U32).get(4, "position_ids").unwrap();
        assert_eq!(parameters.buffers()[0].0, "m.position_ids");
    }

    #[test]
    fn what_is_frozen_in_building_has_no_gradient_and_stays_so() {
        let parameters = Parameters::new(0, &Device::Cpu);
        let bridge = Bridge::builder(&parameters.root()).frozen("stem").buffer("*.table").build().unwrap();
        let builder = bridge.var_builder();
        let stem = candle_nn::linear(2, 2, builder.pp("stem")).unwrap();
        let head = candle_nn::linear(2, 1, builder.pp("head")).unwrap();
        builder.pp("head").get(3, "table").unwrap();
        let without = Bridge::builder(&parameters.root()).absent("*.grn").build().unwrap().var_builder();
        assert!(without.pp("head.grn").get(3, "weight").is_err() && parameters.get("head.grn.weight").is_none());
        assert_eq!(parameters.buffers()[0].0, "head.table");
        let run = || {
            let xs = Tensor::ones((1, 2), DType::F32, &Device::Cpu).unwrap();
            xs.apply(&stem).unwrap().apply(&head).unwrap().sum_all().unwrap()
        };
        let gradients = run().backward().unwrap();
        assert!(parameters.missing_gradients(&gradients).is_empty());
        assert!(gradients.get(&parameters.get("stem.weight").unwrap()).is_none());
        let before = run().to_scalar::<f32>().unwrap();
        let mut state = parameters.state().unwrap();
        let doubled = (&state["stem.weight"] * 2.0).unwrap();
        state.insert("stem.weight".to_owned(), doubled);
        parameters.clone().load_state(&state).unwrap();
        assert_ne!(run().to_scalar::<f32>().unwrap(), before, "loaded weights do not reach what was frozen");
        let text = parameters.unfreeze("stem").unwrap_err().to_string();
        assert!(text.contains("`stem.bias`, `stem.weight`") && text.contains("build the model anew"), "{text}");
        assert!(Bridge::builder(&parameters.root()).frozen("").build().is_err());
    }

    #[test]
    fn a_map_is_taken_over_whole_or_not_at_all() {
        let map = VarMap::new();
        let builder = VarBuilder::from_varmap(&map, DType::F32, &Device::Cpu);
        let model = candle_nn::linear(3, 2, builder.pp("fc")).unwrap();
        candle_nn::batch_norm(2, 1e-5, builder.pp("norm")).unwrap();
        let parameters = Parameters::new(0, &Device::Cpu);
        parameters.root().parameter("norm.bias", 2, Init::ZEROS).unwrap();
        let bridge = Bridge::new(&parameters.root());
        let text = bridge.adopt(&map).unwrap_err().to_string();
        assert!(text.contains("`norm.bias`, which exists already"), "{text}");
        assert_eq!(parameters.all().len(), 1);

        let parameters = Parameters::new(0, &Device::Cpu);
        assert_eq!(Bridge::new(&parameters.root()).adopt(&map).unwrap(), 6);
        assert_eq!((parameters.trainable().len(), parameters.buffers().len()), (4, 2));
        let weight: Var = parameters.get("fc.weight").unwrap();
        weight.set(&weight.zeros_like().unwrap()).unwrap();
        assert_eq!(model.weight().sum_all().unwrap().to_scalar::<f32>().unwrap(), 0.0);

        let frozen = Bridge::builder(&Parameters::new(0, &Device::Cpu).root()).frozen("fc").build().unwrap();
        assert!(frozen.adopt(&map).unwrap_err().to_string().contains("parameters.freeze"));
        let text = bridge.adopt(&VarMap::new()).unwrap_err().to_string();
        assert!(text.contains("was the model built on this `VarMap`"), "{text}");
    }
}
