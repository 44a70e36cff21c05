//! The hyper-parameters of a run, for TensorBoard's table of runs.

use super::proto::{Experiment, HParamInfo, Json, JsonValue, MetricInfo, MetricName, SessionStart};

/// The value of one hyper-parameter.
#[derive(Debug, Clone, PartialEq)]
pub enum HyperParameter {
    /// A number: a learning rate, a batch size.
    Number(f64),
    /// A word: the name of an optimizer.
    Text(String),
    /// Whether something is on.
    Flag(bool),
}

/// What a run was started with, and the scalars by which runs are compared.
///
/// # Examples
///
/// ```
/// use candle_course::tensorboard::HyperParameters;
///
/// let run = HyperParameters::new()
///     .number("learning_rate", 3e-4)
///     .text("optimizer", "AdamW")
///     .flag("augmentation", true)
///     .metric("accuracy/validation");
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HyperParameters {
    values: Vec<(String, HyperParameter)>,
    metrics: Vec<String>,
}

impl HyperParameters {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A number.
    #[must_use]
    pub fn number(self, name: &str, value: f64) -> Self {
        self.value(name, HyperParameter::Number(value))
    }

    /// A word.
    #[must_use]
    pub fn text(self, name: &str, value: &str) -> Self {
        self.value(name, HyperParameter::Text(value.into()))
    }

    /// A switch.
    #[must_use]
    pub fn flag(self, name: &str, value: bool) -> Self {
        self.value(name, HyperParameter::Flag(value))
    }

    /// A value of any kind; one of the same name is replaced.
    #[must_use]
    pub fn value(mut self, name: &str, value: HyperParameter) -> Self {
        self.values.retain(|(known, _)| known != name);
        self.values.push((name.into(), value));
        self
    }

    /// The tag of a scalar by which runs are compared; its last value shows in the table.
    #[must_use]
    pub fn metric(mut self, tag: &str) -> Self {
        self.metrics.push(tag.into());
        self
    }

    /// The names and values, in the order in which they were given.
    pub fn values(&self) -> &[(String, HyperParameter)] {
        &self.values
    }

    /// The tags of the metrics.
    pub fn metrics(&self) -> &[String] {
        &self.metrics
    }

    pub(super) fn experiment(&self, time: f64) -> Experiment {
        let kind = |value: &HyperParameter| match value {
            HyperParameter::Text(_) => 1,
            HyperParameter::Flag(_) => 2,
            HyperParameter::Number(_) => 3,
        };
        let metric = |tag: &String| MetricInfo { name: Some(MetricName { group: String::new(), tag: tag.clone() }) };
        Experiment {
            time_created_secs: time,
            hparam_infos: self
                .values
                .iter()
                .map(|(name, v)| HParamInfo { name: name.clone(), kind: kind(v) })
                .collect(),
            metric_infos: self.metrics.iter().map(metric).collect(),
        }
    }

    pub(super) fn start(&self, time: f64) -> SessionStart {
        let json = |value: &HyperParameter| match value {
            HyperParameter::Number(value) => Json::Number(*value),
            HyperParameter::Text(value) => Json::Text(value.clone()),
            HyperParameter::Flag(value) => Json::Flag(*value),
        };
        let entry = |(name, value): &(String, HyperParameter)| (name.clone(), JsonValue { kind: Some(json(value)) });
        SessionStart {
            hparams: self.values.iter().map(entry).collect(),
            group_name: String::new(),
            start_time_secs: time,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_given_twice_counts_once() {
        let run = HyperParameters::new().number("rate", 0.1).text("name", "a").number("rate", 0.2);
        assert_eq!(run.values().len(), 2);
        assert_eq!(run.start(0.0).hparams["rate"].kind, Some(Json::Number(0.2)));
        assert_eq!(run.experiment(0.0).hparam_infos.iter().map(|info| info.kind).collect::<Vec<_>>(), [1, 3]);
    }
}
