//! Files and pretrained weights from the Hugging Face hub.
//!
//! A [`HubRepository`] is a model's or a data set's repository at one version. Its files come into the hub's
//! local cache, which Python's `huggingface_hub` shares, and from there afterwards, without a network: asked
//! for again they are compared with their checksums, a download that broke off is gone on with, and a server
//! that stalls, lies or leads elsewhere is an error within limits of time.
//!
//! Image sets have [`HubImages`](crate::data::HubImages), which reads their parquet files.
//!
//! # Sending weights there
//!
//! That is a command of the hub's own, not of this crate. `save_weights` writes what it takes; a model card is
//! a `README.md` beside the weights, which `examples/finetune` writes as an example:
//!
//! ```text
//! pip install huggingface_hub
//! hf auth login
//! hf upload owner/name folder-of-weights-and-card
//! ```

mod weights;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use crate::data::hub::address::{Address, Kind};
use crate::data::hub::download::Wanted;
use crate::data::hub::offline;
use crate::data::hub::version::{Version, with_version};
use crate::data::source::HubOptions;
use crate::error::{Context, Error, Result};
use crate::nn::pattern::is_like;
use crate::setters::setters;
use crate::stateful::State;

/// Most bytes of a file: weights are cut into parts of some gigabytes.
const FILE_BYTES: u64 = 64 << 30;
/// Names of files that an error tells.
const TOLD: usize = 20;

/// A repository of the hub at one version.
///
/// # Examples
///
/// The body of a pretrained ResNet-18 for three classes of one's own:
///
/// ```no_run
/// use candle_course::prelude::*;
///
/// let hub = HubRepository::new("timm/resnet18.tv_in1k")?;
/// let mut parameters = Parameters::new(0, &Device::Cpu);
/// let model = ResNet18::new(3, &parameters.root())?;
/// let loading = WeightLoading::builder().skip("fc").build()?;
/// println!("{}", loading.load_tensors(&mut parameters, hub.weights()?)?);
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct HubRepository {
    address: Address,
    hub: HubOptions,
}

/// Configures a [`HubRepository`].
#[derive(Debug, Clone)]
pub struct HubRepositoryBuilder(HubRepository);

impl HubRepositoryBuilder {
    setters! {
        /// A repository of data; one of a model unless told.
        dataset() => 0.address.kind = Kind::Dataset;
        /// A branch, a tag or a commit; `main` by default. A commit is what makes a result repeatable.
        revision(revision: impl Into<String>) => 0.address.revision = revision.into();
        /// Asks the hub whether there is a newer version; otherwise what is in the cache is not asked for again.
        refresh() => 0.hub.refresh = true;
        /// Does not speak to the hub; its local cache is still used. So do the environment variables
        /// `CANDLE_COURSE_OFFLINE` and `HF_HUB_OFFLINE`.
        offline(offline: bool) => 0.hub.offline = offline;
        /// The hub's address, `HF_ENDPOINT` or `https://huggingface.co` by default.
        endpoint(endpoint: impl Into<String>) => 0.hub.endpoint = Some(endpoint.into());
        /// The hub's local cache, by default `HF_HUB_CACHE`, `$HF_HOME/hub` or `~/.cache/huggingface/hub`.
        cache(cache: impl AsRef<Path>) => 0.hub.cache = Some(cache.as_ref().to_owned());
        /// Does not say what is downloaded.
        quiet() => 0.hub.quiet = true;
    }

    /// The repository; nothing is asked for yet.
    ///
    /// # Errors
    /// If the name is not `owner/name` (the oldest models have a name alone), or the revision none.
    pub fn build(self) -> Result<HubRepository> {
        self.0.address.check()?;
        Ok(self.0)
    }
}

impl HubRepository {
    /// The newest version of the model `owner/name`.
    ///
    /// # Errors
    /// As [`HubRepositoryBuilder::build`].
    pub fn new(repository: impl Into<String>) -> Result<Self> {
        Self::builder(repository).build()
    }

    /// A repository of another kind, at another version, or from elsewhere.
    pub fn builder(repository: impl Into<String>) -> HubRepositoryBuilder {
        let address = Address::new(Kind::Model, repository);
        HubRepositoryBuilder(Self { address, hub: HubOptions::default() })
    }

    /// The names of its files, folders before them, in order. Of a version that another library put into the
    /// cache, and offline, those that are there.
    ///
    /// # Errors
    /// If the hub does not list them.
    pub fn files(&self) -> Result<Vec<String>> {
        self.with("list the files of", |version| {
            let mut names = version.names().to_vec();
            names.sort_unstable();
            Ok(self.knows_all(version).then_some(names))
        })
    }

    /// The local path of a file, `config.json` or `folder/name`.
    ///
    /// # Errors
    /// If there is no such file, it cannot be had, or its content is not that of its checksum; what came of it
    /// so far is gone on with the next time.
    pub fn file(&self, name: &str) -> Result<PathBuf> {
        self.with(&format!("get {name} of"), |version| {
            if !version.is_cached() && !version.names().iter().any(|other| other == name) {
                return Err(Error::argument("file", format!("one of {}", list(version.names())), name));
            }
            version.get(name)
        })
    }

    /// The local folder of one version's files: of all, or of those that are like one of the patterns, in which
    /// `*` stands for any letters (`*.json`, `onnx/*`). Other files of the version may lie there, too.
    ///
    /// # Errors
    /// If no file is like a pattern, or one cannot be had: see [`HubRepository::file`].
    pub fn snapshot(&self, patterns: &[&str]) -> Result<PathBuf> {
        self.with("get the files of", |version| {
            if !self.knows_all(version) {
                return Ok(None);
            }
            let like = |pattern: &str, name: &str| is_like(pattern.as_bytes(), name.as_bytes());
            if let Some(pattern) =
                patterns.iter().find(|pattern| !version.names().iter().any(|name| like(pattern, name)))
            {
                let expected = format!("what is like some of {}", list(version.names()));
                return if version.is_cached() {
                    Ok(None)
                } else {
                    Err(Error::argument("patterns", expected, pattern))
                };
            }
            for name in version.names() {
                let wanted = patterns.is_empty() || patterns.iter().any(|pattern| like(pattern, name));
                if wanted && version.get(name)?.is_none() {
                    return Ok(None);
                }
            }
            Ok(Some(version.folder()))
        })
    }

    /// The weights of the model, by name: of `model.safetensors`, else of `pytorch_model.bin` (in which nothing
    /// is run), else of the only file of weights at the top; of all parts where they come in several.
    /// [`WeightLoading::load_tensors`](crate::checkpoint::WeightLoading::load_tensors) takes them into a model.
    ///
    /// # Errors
    /// If no file or several could be meant (name one: [`HubRepository::weights_of`]), one cannot be had or
    /// read ([`read_weights`](crate::checkpoint::read_weights)), or a part lacks what the index says of it.
    pub fn weights(&self) -> Result<State> {
        self.with("get the weights of", |version| match weights::usual(version.names()) {
            Err(_) if version.is_cached() => Ok(None),
            file => weights::read(version, file?),
        })
    }

    /// The weights in a file of this name: safetensors, PyTorch's, or the index (`….index.json`) of several
    /// parts.
    ///
    /// # Errors
    /// As [`HubRepository::weights`].
    pub fn weights_of(&self, file: &str) -> Result<State> {
        self.with(&format!("get the weights {file} of"), |version| {
            if !version.is_cached() && !version.names().iter().any(|other| other == file) {
                return Err(Error::argument("file", format!("one of {}", list(version.names())), file));
            }
            weights::read(version, file)
        })
    }

    /// Whether a version's list of files is all that can be known.
    fn knows_all(&self, version: &Version<'_>) -> bool {
        version.is_whole() || offline(&self.hub)
    }

    fn with<T>(&self, what: &str, mut work: impl FnMut(&Version<'_>) -> Result<Option<T>>) -> Result<T> {
        let name = &self.address.name;
        let wanted = Wanted { limit: FILE_BYTES, quiet: self.hub.quiet };
        let found = with_version(&self.address, &self.hub, wanted, &mut work);
        let found = found.and_then(|found| found.map_err(|missing| missing.into_error(name)));
        found.map(|(found, _)| found).with_context(|| format!("cannot {what} {name}"))
    }
}

/// Names for a message: not all of thousands.
fn list(names: &[String]) -> String {
    let more = names.len().saturating_sub(TOLD);
    let told: Vec<&str> = names.iter().take(TOLD).map(String::as_str).collect();
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", told.join(", "))
}
