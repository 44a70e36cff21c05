//! Everything a training is, in one file.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use crate::checkpoint::atomic;
use crate::checkpoint::format::{self, Tensors, Texts};
use crate::error::{Context, Error, Result};
use crate::stateful::{State, Stateful};

/// The version of the layout of the file. A newer one is refused.
const VERSION: u32 = 1;
const KIND: &str = "candle_course.checkpoint";

/// A training's state at one moment: sections of tensors, and numbers and texts by name.
///
/// In the file, tensor `t` of section `s` is called `s/t`; numbers and texts stand in the
/// safetensors metadata. Numbers are restored to the last bit.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let mut parameters = Parameters::new(0, &Device::Cpu);
/// let layer = Linear::new(2, 1, &parameters.at("fc"))?;
/// let mut optimizer = AdamW::new(&parameters)?;
/// # let loss = layer.forward(&Tensor::ones((4, 2), DType::F32, &Device::Cpu)?)?.sqr()?.mean_all()?;
/// # optimizer.step(&loss.backward()?, 1e-3)?;
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("training.safetensors");
/// Snapshot::new()
///     .section("model", &parameters)?
///     .section("optimizer", &optimizer)?
///     .section("generators", &GeneratorStates::new(&parameters))?
///     .number("step", 1.0)
///     .number("best_accuracy", 0.1 + 0.2)
///     .save(&path)?;
///
/// let snapshot = Snapshot::load(&path)?;
/// snapshot.restore("model", &mut parameters)?;
/// snapshot.restore("optimizer", &mut optimizer)?;
/// assert_eq!(snapshot.get_number("best_accuracy")?, 0.1 + 0.2);
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    sections: BTreeMap<String, Tensors>,
    texts: Texts,
}

impl Snapshot {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the state of `part` as a section.
    ///
    /// # Errors
    /// If the state cannot be had, or the name is taken, empty or contains `/` or `,`.
    pub fn section(self, name: &str, part: &dyn Stateful) -> Result<Self> {
        let tensors = part.state().with_context(|| format!("the state of `{name}` cannot be saved"))?;
        self.tensors(name, tensors)
    }

    /// Adds tensors as a section. They are not copied: save before they change.
    ///
    /// # Errors
    /// If the name is taken, empty or contains `/` or `,`.
    pub fn tensors(mut self, name: &str, tensors: State) -> Result<Self> {
        if name.is_empty() || name.contains(['/', ',']) || self.sections.contains_key(name) {
            return Err(Error::argument("name", "a new section name without `/` and `,`", format!("`{name}`")));
        }
        self.sections.insert(name.to_owned(), tensors);
        Ok(self)
    }

    /// Adds a number: an epoch, a step, a best metric.
    #[must_use]
    pub fn number(self, name: &str, value: f64) -> Self {
        // Rust prints the shortest text that parses to the same bits.
        self.text(name, &value.to_string())
    }

    /// Adds a text: a history as JSON, a configuration.
    #[must_use]
    pub fn text(mut self, name: &str, text: &str) -> Self {
        self.texts.insert(format!("value.{name}"), text.to_owned());
        self
    }

    /// All texts, by the names that they have in the file.
    pub(crate) fn texts(&self) -> &Texts {
        &self.texts
    }

    /// Back from sections and [`Snapshot::texts`].
    pub(crate) fn from_parts(sections: BTreeMap<String, Tensors>, texts: Texts) -> Self {
        Self { sections, texts }
    }

    /// The names of the sections.
    pub fn sections(&self) -> Vec<&str> {
        self.sections.keys().map(String::as_str).collect()
    }

    /// The tensors of a section.
    ///
    /// # Errors
    /// If there is no such section.
    pub fn get(&self, section: &str) -> Result<&State> {
        self.sections.get(section).ok_or_else(|| {
            Error::checkpoint(format!(
                "the checkpoint has no section `{section}`, only [{}]",
                self.sections().join(", ")
            ))
        })
    }

    /// Restores `part` from a section. Nothing changes if it does not fit.
    ///
    /// # Errors
    /// If there is no such section, or it does not fit; the message names what differs.
    pub fn restore(&self, section: &str, part: &mut dyn Stateful) -> Result<()> {
        let tensors = self.get(section)?;
        part.load_state(tensors).with_context(|| format!("`{section}` cannot be restored from the checkpoint"))
    }

    /// A number by name.
    ///
    /// # Errors
    /// If there is none of that name, or it is not a number.
    pub fn get_number(&self, name: &str) -> Result<f64> {
        let text = self.get_text(name)?;
        text.parse().map_err(|_| Error::checkpoint(format!("`{name}` is not a number but `{text}`")))
    }

    /// A text by name.
    ///
    /// # Errors
    /// If there is none of that name.
    pub fn get_text(&self, name: &str) -> Result<&str> {
        let text = self.texts.get(&format!("value.{name}"));
        text.map(String::as_str).ok_or_else(|| {
            let known: Vec<&str> = self.texts.keys().filter_map(|key| key.strip_prefix("value.")).collect();
            Error::checkpoint(format!("the checkpoint has no value `{name}`, only [{}]", known.join(", ")))
        })
    }

    /// The version of this crate that wrote the checkpoint, once loaded.
    pub fn written_by(&self) -> Option<&str> {
        self.texts.get("candle_course").map(String::as_str)
    }

    /// Writes the file atomically and durably: after a crash at any moment there is the old file
    /// or the new one, whole.
    ///
    /// # Errors
    /// If the file cannot be written (full disk, read-only folder): a file that was there before
    /// is untouched.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let mut texts = self.texts.clone();
        texts.insert("kind".to_owned(), KIND.to_owned());
        texts.insert("format_version".to_owned(), VERSION.to_string());
        texts.insert("candle_course".to_owned(), env!("CARGO_PKG_VERSION").to_owned());
        // A section may be empty.
        texts.insert("sections".to_owned(), self.sections().join(","));
        let mut tensors = Tensors::new();
        for (section, parts) in &self.sections {
            tensors.extend(parts.iter().map(|(name, tensor)| (format!("{section}/{name}"), tensor.clone())));
        }
        atomic::write(path.as_ref(), |file| format::write(file, &tensors, &texts, true))
    }

    /// Reads a file and checks it whole.
    ///
    /// # Errors
    /// If the file cannot be read, is truncated or damaged, holds weights alone, or was written by
    /// a newer version of this crate.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = format::open(path)?;
        let read = || -> Result<Self> {
            let header = format::read_header(&file)?;
            check_kind(&header.texts)?;
            check_version(&file, &header)?;
            let mut sections: BTreeMap<String, Tensors> = header
                .texts
                .get("sections")
                .into_iter()
                .flat_map(|names| names.split(','))
                .filter(|name| !name.is_empty())
                .map(|name| (name.to_owned(), Tensors::new()))
                .collect();
            for (name, tensor) in format::read(&file, &header)? {
                let section = name.split_once('/').and_then(|(section, name)| Some((sections.get_mut(section)?, name)));
                let (section, name) =
                    section.ok_or_else(|| Error::checkpoint(format!("the tensor `{name}` is in no section")))?;
                section.insert(name.to_owned(), tensor);
            }
            Ok(Self { sections, texts: header.texts })
        };
        read().with_context(|| format!("cannot load the checkpoint `{}`", path.display()))
    }

    /// Numbers and texts of a file, without its tensors: quick, but the checksum is not checked.
    ///
    /// # Errors
    /// As [`Snapshot::load`].
    pub(crate) fn load_texts(path: &Path) -> Result<Self> {
        let file = format::open(path)?;
        let header = format::read_header(&file)?;
        check_kind(&header.texts)?;
        check_version(&file, &header)?;
        Ok(Self { sections: BTreeMap::new(), texts: header.texts })
    }
}

fn check_kind(texts: &Texts) -> Result<()> {
    if texts.get("kind").map(String::as_str) != Some(KIND) || !texts.contains_key(format::CHECKSUM) {
        return Err(Error::checkpoint("the file is not a checkpoint of a training")
            .hint("weights alone are loaded with `load_weights`"));
    }
    Ok(())
}

/// A version from the future counts only in a file whose checksum holds: a flipped bit is damage.
fn check_version(file: &File, header: &format::Header) -> Result<()> {
    match version(&header.texts) {
        Some(version) if version <= VERSION => Ok(()),
        Some(version) if format::is_whole(file, header)? => Err(newer(version, &header.texts)),
        Some(version) => Err(Error::checkpoint(format!(
            "the header says format {version}, but the checksum is another: the file is damaged"
        ))),
        None => Err(Error::checkpoint("the checkpoint does not say its format's version: it is damaged")),
    }
}

fn version(texts: &Texts) -> Option<u32> {
    texts.get("format_version").and_then(|version| version.parse().ok())
}

fn newer(version: u32, texts: &Texts) -> Error {
    let writer = texts.get("candle_course").map_or("unknown", String::as_str);
    Error::checkpoint(format!(
        "the checkpoint has format {version}, written by candle_course {writer}; this is {} and knows formats up to {VERSION}",
        env!("CARGO_PKG_VERSION")
    ))
    .hint("update candle_course")
}

/// Whether an error of [`Snapshot::load`] is about a newer format, which no older file can heal.
pub(super) fn is_newer(path: &Path) -> bool {
    let newer = || -> Result<bool> {
        let file = format::open(path)?;
        let header = format::read_header(&file)?;
        check_kind(&header.texts)?;
        Ok(version(&header.texts).is_some_and(|version| version > VERSION) && format::is_whole(&file, &header)?)
    };
    newer().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::{Linear, Parameters};
    use candle_core::{DType, Device, Tensor};
    use proptest::prelude::*;

    fn example() -> Snapshot {
        let parameters = Parameters::new(3, &Device::Cpu);
        Linear::new(7, 5, &parameters.at("fc")).unwrap();
        let others = [DType::F64, DType::F16, DType::BF16, DType::I64, DType::U32, DType::U8].map(|dtype| {
            (dtype.as_str().to_owned(), Tensor::new(&[3f32, 1.0, 2.0], &Device::Cpu).unwrap().to_dtype(dtype).unwrap())
        });
        Snapshot::new()
            .section("model", &parameters)
            .unwrap()
            .tensors("others", BTreeMap::from(others))
            .unwrap()
            .tensors("empty", BTreeMap::new())
            .unwrap()
            .number("step", 12.0)
            .number("infinite", f64::NEG_INFINITY)
            .text("history", "[\"a \\\"crc32c\\\":\\\"x\", 1]")
    }

    fn bits(tensor: &Tensor) -> Vec<u64> {
        let tensor = tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap();
        tensor.to_vec1::<f64>().unwrap().into_iter().map(f64::to_bits).collect()
    }

    #[test]
    fn a_file_holds_every_dtype_number_and_text() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        let saved = example();
        saved.save(&path).unwrap();
        let loaded = Snapshot::load(&path).unwrap();
        assert_eq!(loaded.sections(), ["empty", "model", "others"]);
        for section in loaded.sections() {
            let (saved, loaded) = (saved.get(section).unwrap(), loaded.get(section).unwrap());
            assert_eq!(saved.len(), loaded.len());
            for (name, tensor) in saved {
                assert_eq!((tensor.dims(), tensor.dtype()), (loaded[name].dims(), loaded[name].dtype()));
                assert_eq!(bits(tensor), bits(&loaded[name]));
            }
        }
        assert_eq!(loaded.get_number("infinite").unwrap(), f64::NEG_INFINITY);
        assert_eq!(loaded.get_text("history").unwrap(), saved.get_text("history").unwrap());
        assert_eq!(loaded.written_by(), Some(env!("CARGO_PKG_VERSION")));
        // The same state gives the same bytes.
        example().save(folder.path().join("b.safetensors")).unwrap();
        let read = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
        assert_eq!(read("a.safetensors"), read("b.safetensors"));
        // Another reader agrees.
        let tensors = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
        assert_eq!(bits(&tensors["model/fc.weight"]), bits(&saved.get("model").unwrap()["fc.weight"]));
    }

    #[test]
    fn every_flipped_byte_and_every_truncation_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        example().save(&path).unwrap();
        let good = std::fs::read(&path).unwrap();
        for position in 0..good.len() {
            let mut bad = good.clone();
            bad[position] ^= 1 << (position % 8);
            std::fs::write(&path, &bad).unwrap();
            assert!(Snapshot::load(&path).is_err(), "a flipped bit in byte {position} was not noticed");
        }
        for length in (0..good.len()).step_by(13) {
            std::fs::write(&path, &good[..length]).unwrap();
            let text = Snapshot::load(&path).unwrap_err().to_string();
            assert!(text.contains("truncated"), "{length}: {text}");
        }
        std::fs::write(&path, &good).unwrap();
        Snapshot::load(&path).unwrap();
    }

    #[test]
    fn other_files_newer_formats_and_missing_parts_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        let text = |snapshot: Result<Snapshot>| snapshot.unwrap_err().to_string();
        assert!(text(Snapshot::load(&path)).contains("cannot open"));
        let tensors = example().get("model").unwrap().clone();
        candle_core::safetensors::save(&tensors.into_iter().collect(), &path).unwrap();
        assert!(text(Snapshot::load(&path)).contains("weights alone are loaded with `load_weights`"));
        let texts = Texts::from([
            ("kind".to_owned(), KIND.to_owned()),
            ("format_version".to_owned(), "2".to_owned()),
            ("candle_course".to_owned(), "9.0.0".to_owned()),
        ]);
        atomic::write(&path, |file| format::write(file, &Tensors::new(), &texts, true)).unwrap();
        let newer = text(Snapshot::load(&path));
        assert!(newer.contains("format 2, written by candle_course 9.0.0") && is_newer(&path), "{newer}");
        let snapshot = example();
        let mut other = Parameters::new(0, &Device::Cpu);
        Linear::new(7, 4, &other.at("fc")).unwrap();
        let text = snapshot.restore("model", &mut other).unwrap_err().to_string();
        assert!(text.contains("`fc.weight` has shape [5, 7], expected [4, 7]"), "{text}");
        let text = snapshot.restore("modell", &mut other).unwrap_err().to_string();
        assert!(text.contains("no section `modell`, only [empty, model, others]"), "{text}");
        let text = snapshot.get_number("epoch").unwrap_err().to_string();
        assert!(text.contains("no value `epoch`, only [history, infinite, step]"), "{text}");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_folder_that_cannot_be_written_is_named() {
        // Nobody can create files there, root neither.
        let text = example().save("/proc/checkpoint.safetensors").unwrap_err().to_string();
        assert!(text.contains("cannot write `/proc/checkpoint.safetensors`"), "{text}");
    }

    proptest! {
        #[test]
        fn numbers_come_back_to_the_last_bit(bits in any::<u64>()) {
            let value = f64::from_bits(bits);
            let back = Snapshot::new().number("x", value).get_number("x").unwrap();
            prop_assert!(back.to_bits() == bits || (back.is_nan() && value.is_nan()));
        }
    }
}
