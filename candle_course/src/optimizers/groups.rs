//! Which parameters get which rate and decay.

use candle_core::Var;

use crate::error::{Error, Result};
use crate::nn::Parameters;
use crate::nn::pattern::matches;
use crate::setters::setters;

/// Parameters with a learning rate and a weight decay of their own.
///
/// The rate is a factor on the schedule's rate, so that one schedule drives every group.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let parameters = Parameters::new(0, &Device::Cpu);
/// let backbone = Linear::new(4, 8, &parameters.at("backbone"))?;
/// let head = Linear::new(8, 2, &parameters.at("head"))?;
/// let optimizer = AdamW::builder(&parameters)
///     .group(ParameterGroup::prefix("backbone").learning_rate_factor(0.1))
///     .no_decay_for_biases_and_norms()
///     .build()?;
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct ParameterGroup {
    selector: Selector,
    learning_rate_factor: f64,
    weight_decay: Option<f64>,
}

#[derive(Debug, Clone, PartialEq)]
enum Selector {
    Prefix(String),
    Names(Vec<String>),
}

impl ParameterGroup {
    fn new(selector: Selector) -> Self {
        Self { selector, learning_rate_factor: 1.0, weight_decay: None }
    }

    /// The parameters whose name is `prefix` or begins with `prefix.`; `*` stands for any letters.
    pub fn prefix(prefix: impl Into<String>) -> Self {
        Self::new(Selector::Prefix(prefix.into()))
    }

    /// The parameters of these names.
    pub fn names<N: Into<String>>(names: impl IntoIterator<Item = N>) -> Self {
        Self::new(Selector::Names(names.into_iter().map(Into::into).collect()))
    }

    /// A group for every layer, with smaller rates the deeper: of `layers`, named or as patterns in order
    /// from the input to the output, the last one has the factor 1, the one before `decay`, then decay²,
    /// and so on. What belongs to no layer has the factor 1. As in ELECTRA (Clark et al. 2020,
    /// arXiv:2003.10555) and BEiT, for fine-tuning: what is near the input is the most general.
    ///
    /// # Examples
    ///
    /// ```
    /// use candle_course::prelude::*;
    ///
    /// let parameters = Parameters::new(0, &Device::Cpu);
    /// let layers = ["stem", "body", "head"];
    /// for name in layers {
    ///     Linear::new(4, 4, &parameters.at(name))?;
    /// }
    /// // 0.25 for the stem, 0.5 for the body, 1 for the head.
    /// let optimizer = AdamW::builder(&parameters).groups(ParameterGroup::layer_wise(layers, 0.5)).build()?;
    /// # Ok::<(), candle_course::Error>(())
    /// ```
    pub fn layer_wise<N: Into<String>>(layers: impl IntoIterator<Item = N>, decay: f64) -> Vec<Self> {
        let groups: Vec<Self> = layers.into_iter().map(Self::prefix).collect();
        let last = groups.len().saturating_sub(1);
        let factor = |i: usize| decay.powi((last - i) as i32);
        groups.into_iter().enumerate().map(|(i, group)| group.learning_rate_factor(factor(i))).collect()
    }

    setters! {
        /// The factor on the learning rate (default 1).
        learning_rate_factor(factor: f64) => learning_rate_factor = factor;
        /// The weight decay, instead of the optimizer's.
        weight_decay(weight_decay: f64) => weight_decay = Some(weight_decay);
    }

    fn contains(&self, name: &str) -> bool {
        match &self.selector {
            Selector::Prefix(prefix) => matches(prefix, name),
            Selector::Names(names) => names.iter().any(|own| own == name),
        }
    }
}

/// What an optimizer does with a gradient that holds NaN or infinity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NonFinite {
    /// An error that names the parameters; nothing changes. On a CUDA device the step is not taken
    /// either, nor is any after it, and the error comes when the host next asks: after at most 100
    /// steps, at the end of the trainer's epoch, or when the state is saved.
    #[default]
    Error,
    /// The whole step is skipped and counted (as loss scaling for half precision wants it).
    Skip,
    /// No check: the parameters become NaN as well. Saves one pass over the gradients.
    Ignore,
}

/// What those forget who built a model candle's way.
pub(crate) const FOREIGN: &str = "a model from a `VarBuilder` is built on `parameters.var_builder()`, \
     and one on a `VarMap` is taken over by `Bridge::new(&parameters.root()).adopt(&map)`";

/// The options every optimizer has.
#[derive(Debug, Clone)]
pub(super) struct Options {
    pub weight_decay: f64,
    pub groups: Vec<ParameterGroup>,
    pub exempt_vectors: bool,
    pub non_finite: NonFinite,
}

/// One parameter's share of the options.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Share {
    pub learning_rate_factor: f64,
    pub weight_decay: f64,
}

impl Options {
    pub fn new(weight_decay: f64) -> Self {
        Self { weight_decay, groups: Vec::new(), exempt_vectors: false, non_finite: NonFinite::default() }
    }

    /// Rate and decay of a parameter: of the first group that contains it.
    pub fn share(&self, name: &str, var: &Var) -> Share {
        let group = self.groups.iter().find(|group| group.contains(name));
        let common = if self.exempt_vectors && var.rank() <= 1 { 0.0 } else { self.weight_decay };
        Share {
            learning_rate_factor: group.map_or(1.0, |group| group.learning_rate_factor),
            weight_decay: group.and_then(|group| group.weight_decay).unwrap_or(common),
        }
    }

    pub fn validate(&self, parameters: &Parameters) -> Result<()> {
        let names: Vec<String> = parameters.trainable().into_iter().map(|(name, _)| name).collect();
        if names.is_empty() {
            return Err(Error::argument("parameters", "at least one trainable parameter", 0)
                .hint(format!("build the model before its optimizer, and unfreeze what shall be trained; {FOREIGN}")));
        }
        not_negative("weight_decay", self.weight_decay)?;
        for group in &self.groups {
            not_negative("learning_rate_factor", group.learning_rate_factor)?;
            not_negative("weight_decay", group.weight_decay.unwrap_or(0.0))?;
            let idle: Vec<String> = match &group.selector {
                Selector::Prefix(prefix) if !names.iter().any(|name| group.contains(name)) => vec![prefix.clone()],
                Selector::Prefix(_) => Vec::new(),
                Selector::Names(wanted) => wanted.iter().filter(|name| !names.contains(name)).cloned().collect(),
            };
            if !idle.is_empty() {
                return Err(Error::argument(
                    "group",
                    format!("trainable parameters out of [{}]", names.join(", ")),
                    format!("`{}`", idle.join("`, `")),
                ));
            }
        }
        Ok(())
    }
}

pub(super) fn not_negative(name: &str, value: f64) -> Result<()> {
    if value.is_finite() && value >= 0.0 { Ok(()) } else { Err(Error::argument(name, "a finite number ≥ 0", value)) }
}

pub(super) fn fraction(name: &str, value: f64) -> Result<()> {
    if (0.0..1.0).contains(&value) { Ok(()) } else { Err(Error::argument(name, "a number in [0, 1)", value)) }
}

/// The builder methods of [`Options`], for every optimizer's builder.
macro_rules! common_options {
    () => {
        /// The weight decay λ.
        #[must_use]
        pub fn weight_decay(mut self, weight_decay: f64) -> Self {
            self.options.weight_decay = weight_decay;
            self
        }

        /// Adds a group with a rate or decay of its own. A parameter belongs to the first group
        /// that contains it.
        #[must_use]
        pub fn group(mut self, group: $crate::optimizers::ParameterGroup) -> Self {
            self.options.groups.push(group);
            self
        }

        /// Adds several groups, as [`ParameterGroup::layer_wise`]($crate::optimizers::ParameterGroup::layer_wise)
        /// makes them.
        #[must_use]
        pub fn groups(mut self, groups: impl IntoIterator<Item = $crate::optimizers::ParameterGroup>) -> Self {
            self.options.groups.extend(groups);
            self
        }

        /// No weight decay on parameters of rank 0 and 1: biases, and scales and shifts of
        /// normalisations. A group's own decay goes before this.
        #[must_use]
        pub fn no_decay_for_biases_and_norms(mut self) -> Self {
            self.options.exempt_vectors = true;
            self
        }

        /// What to do with NaN or infinity in a gradient (an error, unless told otherwise).
        #[must_use]
        pub fn non_finite(mut self, policy: $crate::optimizers::NonFinite) -> Self {
            self.options.non_finite = policy;
            self
        }
    };
}
pub(super) use common_options;

/// Implements [`Optimizer`](super::Optimizer)'s state and the accessors every optimizer shares,
/// for a type with a field `engine`.
macro_rules! engine_state {
    ($optimizer:ty) => {
        impl $optimizer {
            /// How many steps were skipped because of non-finite gradients
            /// ([`NonFinite::Skip`](crate::optimizers::NonFinite::Skip)).
            pub fn skipped_steps(&self) -> u64 {
                self.engine.skipped()
            }
        }

        impl $crate::stateful::Stateful for $optimizer {
            /// `{parameter}.step` for every parameter, and PyTorch's state names
            /// (`{parameter}.exp_avg`, say) for those that have made a step.
            fn state(&self) -> $crate::Result<$crate::stateful::State> {
                self.engine.state()
            }

            fn load_state(&mut self, state: &$crate::stateful::State) -> $crate::Result<()> {
                self.engine.load_state(state)
            }
        }
    };
}
pub(super) use engine_state;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::Linear;
    use candle_core::Device;

    fn model() -> Parameters {
        let parameters = Parameters::new(0, &Device::Cpu);
        Linear::new(3, 2, &parameters.at("backbone.fc")).unwrap();
        Linear::new(2, 2, &parameters.at("head")).unwrap();
        parameters
    }

    #[test]
    fn shares_come_from_the_first_matching_group() {
        let parameters = model();
        let mut options = Options::new(0.1);
        options.exempt_vectors = true;
        options.groups = vec![
            ParameterGroup::names(["backbone.fc.bias"]).weight_decay(0.5),
            ParameterGroup::prefix("backbone").learning_rate_factor(0.1),
        ];
        options.validate(&parameters).unwrap();
        let share = |name: &str| {
            let share = options.share(name, &parameters.get(name).unwrap());
            (share.learning_rate_factor, share.weight_decay)
        };
        assert_eq!(share("backbone.fc.bias"), (1.0, 0.5));
        assert_eq!(share("backbone.fc.weight"), (0.1, 0.1));
        assert_eq!(share("head.bias"), (1.0, 0.0));
        assert_eq!(share("head.weight"), (1.0, 0.1));
    }

    #[test]
    fn rates_shrink_layer_by_layer_and_patterns_match() {
        let parameters = model();
        let mut options = Options::new(0.0);
        options.groups = ParameterGroup::layer_wise(["backbone.*.weight", "backbone", "head"], 0.5);
        options.validate(&parameters).unwrap();
        let factor = |name: &str| options.share(name, &parameters.get(name).unwrap()).learning_rate_factor;
        assert_eq!(factor("backbone.fc.weight"), 0.25);
        assert_eq!(factor("backbone.fc.bias"), 0.5);
        assert_eq!(factor("head.weight"), 1.0);
        assert!(ParameterGroup::layer_wise(Vec::<String>::new(), 0.5).is_empty());
    }

    #[test]
    fn groups_without_parameters_and_bad_numbers_are_refused() {
        let parameters = model();
        let mut options = Options::new(0.0);
        options.groups = vec![ParameterGroup::prefix("back")];
        let text = options.validate(&parameters).unwrap_err().to_string();
        assert!(text.contains("backbone.fc.weight") && text.contains("got `back`"), "{text}");
        options.groups = vec![ParameterGroup::prefix("head").learning_rate_factor(-1.0)];
        assert!(options.validate(&parameters).unwrap_err().to_string().contains("`learning_rate_factor`"));
        let empty = Parameters::new(0, &Device::Cpu);
        let text = Options::new(0.0).validate(&empty).unwrap_err().to_string();
        assert!(text.contains("build the model before its optimizer"), "{text}");
    }
}
