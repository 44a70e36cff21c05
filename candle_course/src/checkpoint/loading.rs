//! Weights that fit a model in part, or under other names.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use crate::checkpoint::read_weights;
use crate::error::{Context, Error, Result};
use crate::nn::Parameters;
use crate::nn::pattern::{Renaming, matches};
use crate::setters::setters;
use crate::stateful::{State, Stateful as _};

/// How weights come into a model: all of them or a part, under their own names or mapped ones.
///
/// Names are mapped in this order: a prefix is taken off, the renamings are done one after the other,
/// a prefix is put on. What is skipped is meant by its new name.
///
/// # Examples
///
/// A backbone from a classifier of 10 classes, for one of 3:
///
/// ```
/// use candle_course::prelude::*;
///
/// let build = |classes: usize| -> Result<Parameters> {
///     let parameters = Parameters::new(0, &Device::Cpu);
///     Linear::new(4, 8, &parameters.at("backbone"))?;
///     Linear::new(8, classes, &parameters.at("head"))?;
///     Ok(parameters)
/// };
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("pretrained.safetensors");
/// save_weights(&build(10)?, &path)?;
///
/// let mut parameters = build(3)?;
/// let report = WeightLoading::builder().skip("head").build()?.load(&mut parameters, &path)?;
/// assert_eq!(report.loaded, ["backbone.bias", "backbone.weight"]);
/// assert_eq!(report.missing, ["head.bias", "head.weight"]);
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct WeightLoading {
    strip: Option<String>,
    add: Option<String>,
    renamings: Vec<Renaming>,
    skipped: Vec<String>,
    partial: bool,
}

/// Configures a [`WeightLoading`].
#[derive(Debug, Clone, Default)]
pub struct WeightLoadingBuilder {
    loading: WeightLoading,
    renamings: Vec<(String, String)>,
}

/// What became of the weights of a file, each list ordered by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Variables of the model that have new values.
    pub loaded: Vec<String>,
    /// Variables of the model that the file has nothing for, or that were skipped: as they were.
    pub missing: Vec<String>,
    /// Tensors of the file that the model has no variable for, by their mapped names.
    pub unexpected: Vec<String>,
    /// Tensors of the file that were left out because they were to be.
    pub skipped: Vec<String>,
    /// Variables whose tensor in the file has another shape or kind: as they were.
    pub mismatched: Vec<Mismatch>,
}

/// A variable, and a tensor that cannot be its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// The variable.
    pub name: String,
    /// Its shape.
    pub expected: Vec<usize>,
    /// The shape in the file.
    pub found: Vec<usize>,
    /// Whether one has whole numbers and the other fractions.
    pub other_kind: bool,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.other_kind { ", of another kind" } else { "" };
        write!(f, "`{}` has shape {:?}{kind}, expected {:?}", self.name, self.found, self.expected)
    }
}

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} loaded", self.loaded.len())?;
        for (what, names) in [("missing", &self.missing), ("unexpected", &self.unexpected), ("skipped", &self.skipped)]
        {
            if !names.is_empty() {
                write!(f, "; {} {what}: {}", names.len(), names.join(", "))?;
            }
        }
        if !self.mismatched.is_empty() {
            let all: Vec<String> = self.mismatched.iter().map(Mismatch::to_string).collect();
            write!(f, "; {} of another shape: {}", all.len(), all.join(", "))?;
        }
        Ok(())
    }
}

impl WeightLoadingBuilder {
    setters! {
        /// Takes this off the names that begin with it and a dot: `module` (of PyTorch's
        /// `DataParallel`), `_orig_mod` (of `torch.compile`), `model`.
        strip_prefix(prefix: impl Into<String>) => loading.strip = Some(prefix.into());
        /// Puts this and a dot before every name: the place of the pretrained part in the model.
        add_prefix(prefix: impl Into<String>) => loading.add = Some(prefix.into());
        /// Loads what fits and reports the rest, instead of refusing it. Nothing at all is still an error.
        partial() => loading.partial = true;
    }

    /// Renames: `from` is a name, or a beginning of one that ends before a dot; `*` stands for any
    /// letters and is taken over into the `*` of the same number in `to`: `layers.*.fc1` and
    /// `encoder.layer.*.intermediate`. May be called several times; the renamings are done in order.
    #[must_use = "a setter gives the builder back"]
    pub fn rename(mut self, from: impl Into<String>, to: impl Into<String>) -> Self {
        self.renamings.push((from.into(), to.into()));
        self
    }

    /// Leaves out what is called so, or is like that pattern: a head that the model has another of. Its
    /// variables may be missing. May be called several times.
    #[must_use = "a setter gives the builder back"]
    pub fn skip(mut self, pattern: impl Into<String>) -> Self {
        self.loading.skipped.push(pattern.into());
        self
    }

    /// The way of loading.
    ///
    /// # Errors
    /// If a text is empty, or a renaming has other numbers of `*` in its two names.
    pub fn build(mut self) -> Result<WeightLoading> {
        let loading = &self.loading;
        if loading.strip.iter().chain(&loading.add).chain(&loading.skipped).any(String::is_empty) {
            return Err(Error::argument("name", "a prefix or pattern", "an empty text"));
        }
        for (from, to) in &self.renamings {
            self.loading.renamings.push(Renaming::new(from, to)?);
        }
        Ok(self.loading)
    }
}

/// What PyTorch counts and older files do not have.
const COUNT: &str = "num_batches_tracked";

impl WeightLoading {
    /// All weights under their own names: what [`load_weights`](crate::checkpoint::load_weights) does.
    pub fn new() -> Self {
        Self::default()
    }

    /// Weights in part or under other names.
    pub fn builder() -> WeightLoadingBuilder {
        WeightLoadingBuilder::default()
    }

    /// Reads a file ([`read_weights`] says which) into a model.
    ///
    /// PyTorch's `num_batches_tracked` is passed over if the model does not count batches, and may be
    /// missing. Dtypes are converted.
    ///
    /// # Errors
    /// If the file cannot be read; two names become the same; nothing fits; or, unless loading is
    /// [`partial`](WeightLoadingBuilder::partial), something is missing, unexpected or of another shape. The
    /// message names it all, and the model is as before.
    pub fn load(&self, parameters: &mut Parameters, path: impl AsRef<Path>) -> Result<LoadReport> {
        let path = path.as_ref();
        let tensors = read_weights(path)?;
        self.load_tensors(parameters, tensors).with_context(|| format!("cannot use the weights `{}`", path.display()))
    }

    /// Takes named tensors into a model; see [`WeightLoading::load`].
    ///
    /// # Errors
    /// As [`WeightLoading::load`].
    pub fn load_tensors(&self, parameters: &mut Parameters, tensors: State) -> Result<LoadReport> {
        let originals: Vec<String> = tensors.keys().cloned().collect();
        let mut mapped = self.mapped(tensors)?;
        let mut report = LoadReport::default();
        let is_skipped = |name: &str| self.skipped.iter().any(|pattern| matches(pattern, name));
        for pattern in &self.skipped {
            if !mapped.keys().any(|name| matches(pattern, name)) {
                let names: Vec<_> = mapped.keys().map(String::as_str).collect();
                let expected = format!("names out of [{}]", names.join(", "));
                return Err(Error::argument("skip", expected, format!("`{pattern}`")));
            }
        }
        // What is there, with what is new in its place: the model takes a state whole.
        let mut state = parameters.state()?;
        for (name, var) in parameters.all() {
            let tensor = if is_skipped(&name) { None } else { mapped.remove(&name) };
            match tensor {
                None if name.ends_with(COUNT) => {}
                None => report.missing.push(name),
                Some(tensor) => {
                    let other_kind =
                        tensor.dtype() != var.dtype() && !(tensor.dtype().is_float() && var.dtype().is_float());
                    if tensor.dims() != var.dims() || other_kind {
                        let (expected, found) = (var.dims().to_vec(), tensor.dims().to_vec());
                        report.mismatched.push(Mismatch { name, expected, found, other_kind });
                        continue;
                    }
                    state.insert(name.clone(), tensor);
                    report.loaded.push(name);
                }
            }
        }
        for name in mapped.into_keys().filter(|name| !name.ends_with(COUNT)) {
            if is_skipped(&name) { report.skipped.push(name) } else { report.unexpected.push(name) }
        }
        self.judge(&report, &originals, parameters, is_skipped)?;
        parameters.load_state(&state)?;
        Ok(report)
    }

    fn mapped(&self, tensors: State) -> Result<State> {
        let mut mapped = State::new();
        let mut from: BTreeMap<String, String> = BTreeMap::new();
        for (original, tensor) in tensors {
            let mut name = original.clone();
            if let Some(prefix) = &self.strip
                && let Some(rest) = name.strip_prefix(prefix.as_str()).and_then(|rest| rest.strip_prefix('.'))
            {
                name = rest.to_owned();
            }
            for renaming in &self.renamings {
                name = renaming.apply(&name).unwrap_or(name);
            }
            if let Some(prefix) = &self.add {
                name = format!("{prefix}.{name}");
            }
            if let Some(other) = from.get(&name) {
                return Err(Error::argument(
                    "rename",
                    "a name of its own for every tensor",
                    format!("`{name}` for `{other}` and `{original}`"),
                ));
            }
            from.insert(name.clone(), original);
            mapped.insert(name, tensor);
        }
        Ok(mapped)
    }

    /// Refuses what is not to be.
    fn judge(
        &self,
        report: &LoadReport,
        originals: &[String],
        parameters: &Parameters,
        is_skipped: impl Fn(&str) -> bool,
    ) -> Result<()> {
        if report.loaded.is_empty() {
            let some = |names: &mut dyn Iterator<Item = &str>| {
                names.take(3).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
            };
            let variables = parameters.all();
            return Err(Error::checkpoint(format!(
                "not one of the {} tensors fits: the file has {} …, the model {} …; {report}",
                originals.len(),
                some(&mut originals.iter().map(String::as_str)),
                some(&mut variables.iter().map(|(name, _)| name.as_str())),
            ))
            .hint("map the names by `strip_prefix`, `rename` and `add_prefix`"));
        }
        if self.partial {
            return Ok(());
        }
        let missing: BTreeSet<&String> = report.missing.iter().filter(|name| !is_skipped(name)).collect();
        let problems: Vec<String> = (missing.iter().map(|name| format!("`{name}` is missing")))
            .chain(report.mismatched.iter().map(Mismatch::to_string))
            .chain(report.unexpected.iter().map(|name| format!("`{name}` is superfluous")))
            .collect();
        if problems.is_empty() {
            return Ok(());
        }
        Err(Error::checkpoint(format!("the weights are of another model: {}", problems.join("; ")))
            .hint("`WeightLoading::builder()` maps names, skips heads, and loads in part"))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Tensor};

    use super::*;
    use crate::nn::{BatchNorm1d, Linear};

    fn model(classes: usize) -> Parameters {
        let parameters = Parameters::new(classes as u64, &Device::Cpu);
        Linear::new(3, 2, &parameters.at("body.fc")).unwrap();
        BatchNorm1d::new(2, &parameters.at("body.norm")).unwrap();
        Linear::new(2, classes, &parameters.at("head")).unwrap();
        parameters
    }

    fn numbers(parameters: &Parameters, name: &str) -> Vec<f32> {
        parameters.get(name).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    fn bits(parameters: &Parameters) -> Vec<(String, Vec<f64>)> {
        let wide = |tensor: Tensor| tensor.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1().unwrap();
        parameters.state().unwrap().into_iter().map(|(name, tensor)| (name, wide(tensor))).collect()
    }

    #[test]
    fn strict_loading_names_every_difference_and_changes_nothing() {
        let mut to = model(4);
        let mut tensors = model(3).state().unwrap();
        tensors.remove("body.fc.bias");
        tensors.insert("extra".into(), Tensor::zeros(1, DType::F32, &Device::Cpu).unwrap());
        tensors.insert("body.norm.bias".into(), Tensor::zeros(2, DType::U32, &Device::Cpu).unwrap());
        let before = bits(&to);
        let text = WeightLoading::new().load_tensors(&mut to, tensors).unwrap_err().to_string();
        for part in [
            "`body.fc.bias` is missing",
            "`head.weight` has shape [3, 2], expected [4, 2]",
            "`body.norm.bias` has shape [2], of another kind, expected [2]",
            "`extra` is superfluous",
            "maps names, skips heads",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert_eq!(bits(&to), before);
    }

    #[test]
    fn a_part_is_loaded_and_the_rest_reported() {
        let (from, mut to) = (model(3), model(4));
        let mut tensors = from.state().unwrap();
        tensors.remove("body.fc.bias");
        tensors.remove("body.norm.num_batches_tracked");
        tensors.insert("extra".into(), Tensor::zeros(1, DType::F32, &Device::Cpu).unwrap());
        let (bias, head) = (numbers(&to, "body.fc.bias"), numbers(&to, "head.weight"));
        let report = WeightLoading::builder().partial().build().unwrap().load_tensors(&mut to, tensors).unwrap();
        assert_eq!(report.missing, ["body.fc.bias"]);
        assert_eq!(report.unexpected, ["extra"]);
        assert_eq!(report.mismatched.iter().map(|m| m.name.as_str()).collect::<Vec<_>>(), ["head.bias", "head.weight"]);
        assert_eq!(report.loaded.len(), 5);
        assert_eq!(
            report.to_string(),
            "5 loaded; 1 missing: body.fc.bias; 1 unexpected: extra; 2 of another shape: \
             `head.bias` has shape [3], expected [4], `head.weight` has shape [3, 2], expected [4, 2]"
        );
        assert_eq!(numbers(&to, "body.fc.weight"), numbers(&from, "body.fc.weight"));
        assert_eq!((numbers(&to, "body.fc.bias"), numbers(&to, "head.weight")), (bias, head));
    }

    #[test]
    fn names_are_mapped_and_heads_skipped() {
        let from = model(3);
        let renamed: State = from
            .state()
            .unwrap()
            .into_iter()
            .map(|(name, tensor)| {
                let name =
                    name.replace("body.norm", "layers.1").replace("body.fc", "layers.0").replace("head", "classifier");
                (format!("module.{name}"), tensor)
            })
            .collect();
        let mut to = Parameters::new(9, &Device::Cpu);
        Linear::new(3, 2, &to.at("net.body.fc")).unwrap();
        BatchNorm1d::new(2, &to.at("net.body.norm")).unwrap();
        Linear::new(2, 7, &to.at("net.head")).unwrap();
        let builder = || {
            WeightLoading::builder()
                .strip_prefix("module")
                .rename("layers.0", "body.fc")
                .rename("layers.1.*", "body.norm.*")
                .rename("classifier", "head")
                .add_prefix("net")
        };
        let report = builder().skip("net.head").build().unwrap().load_tensors(&mut to, renamed.clone()).unwrap();
        assert_eq!((report.loaded.len(), report.skipped.len(), report.missing.len()), (7, 2, 2));
        assert_eq!(numbers(&to, "net.body.fc.weight"), numbers(&from, "body.fc.weight"));

        let fails = |builder: WeightLoadingBuilder| {
            let built = builder.build().and_then(|loading| loading.load_tensors(&mut to.clone(), renamed.clone()));
            built.unwrap_err().to_string()
        };
        assert!(fails(builder()).contains("`net.head.weight` has shape [3, 2], expected [7, 2]"));
        assert!(fails(builder().skip("net.haed")).contains("got `net.haed`"));
        let text = fails(WeightLoading::builder().partial());
        assert!(text.contains("not one of the 9 tensors fits") && text.contains("`module.classifier.bias`"), "{text}");
        let text = fails(builder().rename("body.fc.weight", "body.fc.bias"));
        assert!(text.contains("`net.body.fc.bias` for `module.layers.0.bias` and `module.layers.0.weight`"), "{text}");
        assert!(fails(builder().rename("a.*", "b")).contains("`*`"));
        assert!(fails(builder().skip("")).contains("empty text"));
    }

    #[test]
    fn a_file_is_named_when_it_does_not_fit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("other.safetensors");
        crate::checkpoint::save_weights(&model(3), &path).unwrap();
        let text = WeightLoading::new().load(&mut model(4), &path).unwrap_err().to_string();
        assert!(text.contains("other.safetensors") && text.contains("head.weight"), "{text}");
        let mut same = model(3);
        assert_eq!(WeightLoading::new().load(&mut same, &path).unwrap().loaded.len(), 9);
    }
}
