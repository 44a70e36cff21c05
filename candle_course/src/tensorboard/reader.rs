//! Reading the scalars back.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use prost::Message;

use super::proto::{Content, Event, SESSION_START, What};
use super::record;
use crate::error::{Context, Error, Result};

/// One value of a scalar.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scalar {
    /// The step it was written at.
    pub step: usize,
    /// When, in seconds since 1970.
    pub wall_time: f64,
    /// The value, in single precision as TensorBoard keeps it.
    pub value: f64,
}

/// The scalars of a run, by tag.
///
/// # Examples
///
/// ```
/// use candle_course::tensorboard::{Scalars, SummaryWriter};
///
/// let folder = tempfile::tempdir()?;
/// let writer = SummaryWriter::new(folder.path())?;
/// writer.scalar("loss", 0.5, 10)?;
/// writer.flush()?;
/// let scalars = Scalars::read(folder.path())?;
/// assert_eq!(scalars.points("loss")?, [(10.0, 0.5)]);
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Scalars {
    tags: BTreeMap<String, Vec<Scalar>>,
}

impl Scalars {
    /// Reads an event file, or all event files in a folder in the order of their names.
    ///
    /// A file that was cut while it was being written gives what stands before the cut. A record whose
    /// checksum does not match is an error wherever it stands, the last one included: what a cut leaves
    /// is short, not wrong, and numbers are not dropped without a word. Values that a
    /// resumed run has superseded are left out.
    ///
    /// # Errors
    ///
    /// When there is no event file, or one is damaged or cannot be read.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let mut scalars = Self::default();
        for file in event_files(path)? {
            scalars.add(&file).with_context(|| format!("cannot read {}", file.display()))?;
        }
        Ok(scalars)
    }

    /// The tags, sorted.
    pub fn tags(&self) -> Vec<&str> {
        self.tags.keys().map(String::as_str).collect()
    }

    /// The values of a tag.
    ///
    /// # Errors
    ///
    /// When there is no such tag; the message names those that there are.
    pub fn get(&self, tag: &str) -> Result<&[Scalar]> {
        self.tags
            .get(tag)
            .map(Vec::as_slice)
            .ok_or_else(|| Error::argument("tag", format!("one of {}", self.tags().join(", ")), tag))
    }

    /// `(step, value)` pairs of a tag, as a [chart](crate::plot::LineChart::points) takes them.
    ///
    /// # Errors
    ///
    /// When there is no such tag.
    pub fn points(&self, tag: &str) -> Result<Vec<(f64, f64)>> {
        Ok(self.get(tag)?.iter().map(|scalar| (scalar.step as f64, scalar.value)).collect())
    }

    fn add(&mut self, file: &Path) -> Result<()> {
        let mut file = BufReader::new(File::open(file)?);
        while let Some(data) = record::read(&mut file)? {
            let event =
                Event::decode(data.as_slice()).map_err(|error| Error::data(format!("not an event: {error}")))?;
            match event.what {
                Some(What::SessionLog(log)) if log.status == SESSION_START => {
                    self.tags.values_mut().for_each(|values| values.retain(|scalar| (scalar.step as i64) < event.step));
                }
                Some(What::Summary(summary)) => {
                    for value in summary.values {
                        if let Some(Content::Simple(number)) = value.content {
                            let step = event.step.max(0) as usize;
                            let scalar = Scalar { step, wall_time: event.wall_time, value: f64::from(number) };
                            self.tags.entry(value.tag).or_default().push(scalar);
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// The event files of a run.
fn event_files(path: &Path) -> Result<Vec<PathBuf>> {
    if path.is_file() {
        return Ok(vec![path.to_path_buf()]);
    }
    let entries = std::fs::read_dir(path).with_context(|| format!("cannot read the folder {}", path.display()))?;
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry?.path();
        if entry.is_file() && entry.file_name().is_some_and(|name| name.to_string_lossy().contains("tfevents")) {
            files.push(entry);
        }
    }
    if files.is_empty() {
        return Err(Error::data(format!("no event file in {}", path.display()))
            .hint("a run is the folder given to `SummaryWriter::new`"));
    }
    files.sort();
    Ok(files)
}
