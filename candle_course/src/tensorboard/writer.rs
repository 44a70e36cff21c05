//! Writing event files.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use candle_core::backprop::GradStore;
use candle_core::{DType, Tensor};
use prost::Message;

use super::histogram::histogram;
use super::hyper_parameters::HyperParameters;
use super::pr_curve::{THRESHOLDS, pr_curve};
use super::proto::{
    Category, Chart, Content, Event, HParams, HParamsData, Image, Layout, Metadata, Multiline, PrCurveData,
    SESSION_START, SessionEnd, SessionLog, Source, Summary, TensorProto, Value, What,
};
use super::record;
use crate::error::{Context, Error, Result};
use crate::nn::Parameters;
use crate::plot::{Figure, encode_image};

/// Writes the events of one run into a folder.
///
/// Events are buffered and reach the disk every five seconds (at the next event; see
/// [`flush_every`](SummaryWriterBuilder::flush_every)), on [`flush`](Self::flush), and when the last clone is
/// dropped. A clone writes to the same file, so that a callback and a notebook can share a run.
///
/// Tags with a slash are grouped: `loss/train` and `loss/validation` stand side by side.
///
/// # Examples
///
/// ```
/// use candle_course::tensorboard::SummaryWriter;
///
/// let folder = tempfile::tempdir()?;
/// let writer = SummaryWriter::new(folder.path().join("baseline"))?;
/// writer.scalar("loss/train", 0.43, 1)?;
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct SummaryWriter {
    shared: Arc<Mutex<Run>>,
}

#[derive(Debug)]
struct Run {
    path: PathBuf,
    file: BufWriter<File>,
    flushed: Instant,
    every: Duration,
    /// Hyper-parameters were written, the end of the session was not yet.
    session: bool,
}

/// Configures a [`SummaryWriter`].
#[derive(Debug, Clone)]
pub struct SummaryWriterBuilder {
    folder: PathBuf,
    every: Duration,
}

impl SummaryWriterBuilder {
    /// How long an event may wait in memory (5 seconds).
    #[must_use]
    pub fn flush_every(mut self, time: Duration) -> Self {
        self.every = time;
        self
    }

    /// Opens the event file; the folder is made when it does not exist.
    ///
    /// # Errors
    ///
    /// When the folder or the file cannot be made.
    pub fn build(self) -> Result<SummaryWriter> {
        SummaryWriter::open(&self.folder, self.every)
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

impl SummaryWriter {
    /// Opens a new event file in `folder`, which is made when it does not exist.
    ///
    /// # Errors
    ///
    /// When the folder or the file cannot be made.
    pub fn new(folder: impl AsRef<Path>) -> Result<Self> {
        Self::builder(folder).build()
    }

    /// A new event file in `folder`, written to disk every 5 seconds unless told otherwise.
    pub fn builder(folder: impl AsRef<Path>) -> SummaryWriterBuilder {
        SummaryWriterBuilder { folder: folder.as_ref().to_owned(), every: Duration::from_secs(5) }
    }

    fn open(folder: &Path, every: Duration) -> Result<Self> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("events.out.tfevents.{:017.6}.{}.{count}", now(), std::process::id());
        let path = folder.join(name);
        let file = File::create_new(&path).with_context(|| format!("cannot make {}", path.display()))?;
        let mut run =
            Run { path, file: BufWriter::with_capacity(1 << 16, file), flushed: Instant::now(), every, session: false };
        run.event(Event {
            wall_time: now(),
            what: Some(What::FileVersion("brain.Event:2".into())),
            source: Some(Source { writer: concat!("candle_course ", env!("CARGO_PKG_VERSION")).into() }),
            ..Event::default()
        })?;
        run.file.flush()?;
        Ok(Self { shared: Arc::new(Mutex::new(run)) })
    }

    /// The event file.
    pub fn path(&self) -> PathBuf {
        self.run().path.clone()
    }

    /// Says that the run goes on from a checkpoint at `step`: values that an earlier file of this
    /// folder holds for this step or later are superseded.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn resume_from(&self, step: usize) -> Result<()> {
        let what = What::SessionLog(SessionLog { status: SESSION_START });
        self.run().event(Event { wall_time: now(), step: step as i64, what: Some(what), source: None })
    }

    /// A number, kept in single precision.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn scalar(&self, tag: &str, value: f64, step: usize) -> Result<()> {
        self.value(tag, None, Content::Simple(value as f32), step)
    }

    /// How the elements of a tensor are distributed.
    ///
    /// # Errors
    ///
    /// When the tensor is empty or holds NaN or infinite values, or the file cannot be written.
    pub fn histogram(&self, tag: &str, tensor: &Tensor, step: usize) -> Result<()> {
        let values = tensor.flatten_all()?.to_dtype(DType::F64)?.to_vec1::<f64>()?;
        self.histogram_of(tag, &values, step)
    }

    /// How numbers are distributed.
    ///
    /// # Errors
    ///
    /// As [`histogram`](Self::histogram).
    pub fn histogram_of(&self, tag: &str, values: &[f64], step: usize) -> Result<()> {
        self.value(tag, None, Content::Histogram(histogram(tag, values)?), step)
    }

    /// Histograms of all trainable parameters as `weights/<name>`, and, with gradients, of these as
    /// `gradients/<name>`. A parameter without gradient has no histogram of it.
    ///
    /// # Errors
    ///
    /// As [`histogram`](Self::histogram).
    pub fn parameters(&self, parameters: &Parameters, gradients: Option<&GradStore>, step: usize) -> Result<()> {
        for (name, var) in parameters.trainable() {
            self.histogram(&format!("weights/{name}"), var.as_tensor(), step)?;
            if let Some(gradient) = gradients.and_then(|gradients| gradients.get(var.as_tensor())) {
                self.histogram(&format!("gradients/{name}"), gradient, step)?;
            }
        }
        Ok(())
    }

    /// An image: `[C, H, W]` or `[H, W]` with one or three channels; u8 in 0..=255 or floats in
    /// `[0, 1]`.
    ///
    /// # Errors
    ///
    /// When the tensor has another shape or range, or the file cannot be written.
    pub fn image(&self, tag: &str, image: &Tensor, step: usize) -> Result<()> {
        let (width, height, colorspace, encoded) = encode_image(image).with_context(|| format!("image `{tag}`"))?;
        let image = Image { height: height as i32, width: width as i32, colorspace, encoded };
        self.value(tag, None, Content::Image(image), step)
    }

    /// Several images under one tag, with a slider: `[N, C, H, W]`; pixels as in
    /// [`image`](Self::image). TensorBoard shows ten unless started with `--samples_per_plugin`.
    ///
    /// # Errors
    ///
    /// As [`image`](Self::image).
    pub fn images(&self, tag: &str, images: &Tensor, step: usize) -> Result<()> {
        let (count, _, height, width) = images.dims4().with_context(|| format!("images `{tag}`"))?;
        let mut strings = vec![width.to_string().into_bytes(), height.to_string().into_bytes()];
        for index in 0..count {
            strings.push(encode_image(&images.get(index)?).with_context(|| format!("images `{tag}`"))?.3);
        }
        let tensor = TensorProto::strings(&[strings.len()], strings);
        self.value(tag, Some(Metadata::blobs("images")), Content::Tensor(tensor), step)
    }

    /// A figure, as an image.
    ///
    /// # Errors
    ///
    /// When the figure cannot be rasterised, or the file cannot be written.
    pub fn figure(&self, tag: &str, figure: &Figure, step: usize) -> Result<()> {
        let (width, height, encoded) = figure.image()?;
        let image = Image { height: height as i32, width: width as i32, colorspace: 3, encoded };
        self.value(tag, None, Content::Image(image), step)
    }

    /// A text in Markdown.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn text(&self, tag: &str, markdown: &str, step: usize) -> Result<()> {
        let tensor = TensorProto::strings(&[1], vec![markdown.as_bytes().to_vec()]);
        self.value(tag, Some(Metadata::tensor("text", Vec::new())), Content::Tensor(tensor), step)
    }

    /// The precision-recall curve of a binary classifier over 127 thresholds.
    ///
    /// `labels`: any shape, 0 or 1. `scores`: as many, probabilities.
    ///
    /// # Errors
    ///
    /// When they differ in number, labels are neither 0 nor 1, scores are outside `[0, 1]`, or the file
    /// cannot be written.
    pub fn pr_curve(&self, tag: &str, labels: &Tensor, scores: &Tensor, step: usize) -> Result<()> {
        let read = |tensor: &Tensor| tensor.flatten_all()?.to_dtype(DType::F64)?.to_vec1::<f64>();
        let rows =
            pr_curve(&read(labels)?, &read(scores)?).with_context(|| format!("precision-recall curve `{tag}`"))?;
        let data = PrCurveData { version: 0, num_thresholds: THRESHOLDS as u32 }.encode_to_vec();
        let tensor = TensorProto::floats(&[6, THRESHOLDS], rows);
        self.value(tag, Some(Metadata::tensor("pr_curves", data)), Content::Tensor(tensor), step)
    }

    /// Charts that show several tags together, under one heading of the *Custom Scalars* page: train
    /// and validation in one chart, say. Each chart is a title and its tags. A run has one layout; the
    /// last one written counts.
    ///
    /// # Errors
    ///
    /// When there is no chart, or the file cannot be written.
    pub fn custom_scalars(&self, heading: &str, charts: &[(&str, &[&str])]) -> Result<()> {
        if charts.is_empty() || charts.iter().any(|(_, tags)| tags.is_empty()) {
            return Err(Error::argument(
                "charts",
                "at least one chart, with at least one tag each",
                format!("{charts:?}"),
            ));
        }
        // TensorBoard reads tags as regular expressions.
        let exact = |tag: &&str| {
            let mut pattern = String::from("^");
            for c in tag.chars() {
                if !c.is_alphanumeric() && c.is_ascii() && !"/_-".contains(c) {
                    pattern.push('\\');
                }
                pattern.push(c);
            }
            pattern + "$"
        };
        let chart = |(title, tags): &(&str, &[&str])| Chart {
            title: title.to_string(),
            lines: Some(Multiline { tags: tags.iter().map(exact).collect() }),
        };
        let category = Category { title: heading.into(), charts: charts.iter().map(chart).collect() };
        let layout = Layout { categories: vec![category] }.encode_to_vec();
        let metadata = Metadata::tensor("custom_scalars", Vec::new());
        let tensor = TensorProto::strings(&[], vec![layout]);
        self.value("custom_scalars__config__", Some(metadata), Content::Tensor(tensor), 0)
    }

    /// What the run was started with. Write them once, at its start; the run ends with
    /// [`close`](Self::close).
    ///
    /// # Errors
    ///
    /// When there is none, or the file cannot be written.
    pub fn hyper_parameters(&self, hyper_parameters: &HyperParameters) -> Result<()> {
        if hyper_parameters.values().is_empty() {
            return Err(Error::argument("hyper_parameters", "at least one", "none"));
        }
        let time = now();
        let mut run = self.run();
        run.hparams("_hparams_/experiment", HParams::Experiment(hyper_parameters.experiment(time)))?;
        run.hparams("_hparams_/session_start_info", HParams::Start(hyper_parameters.start(time)))?;
        run.session = true;
        Ok(())
    }

    /// Hands everything to the operating system.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn flush(&self) -> Result<()> {
        self.run().flush()
    }

    /// Marks the run as finished and flushes. Writing on is allowed. A run whose last writer is
    /// dropped without is marked as failed in a panic, as finished otherwise.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn close(&self) -> Result<()> {
        let mut run = self.run();
        run.end(true)?;
        run.flush()
    }

    /// Marks the run as failed and flushes. Writing on is allowed.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn fail(&self) -> Result<()> {
        let mut run = self.run();
        run.end(false)?;
        run.flush()
    }

    fn value(&self, tag: &str, metadata: Option<Metadata>, content: Content, step: usize) -> Result<()> {
        if tag.is_empty() {
            return Err(Error::argument("tag", "a name", "an empty one"));
        }
        let value = Value { tag: tag.into(), metadata, content: Some(content) };
        self.run().summary(value, step)
    }

    /// A panic elsewhere leaves whole records behind: the lock is fit for use.
    fn run(&self) -> MutexGuard<'_, Run> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Run {
    fn event(&mut self, event: Event) -> Result<()> {
        let failed = |path: &Path| format!("cannot write {}", path.display());
        record::write(&mut self.file, &event.encode_to_vec()).with_context(|| failed(&self.path))?;
        if self.flushed.elapsed() >= self.every {
            self.flush()?;
        }
        Ok(())
    }

    fn summary(&mut self, value: Value, step: usize) -> Result<()> {
        let what = Some(What::Summary(Summary { values: vec![value] }));
        self.event(Event { wall_time: now(), step: step as i64, what, source: None })
    }

    fn hparams(&mut self, tag: &str, data: HParams) -> Result<()> {
        let data = HParamsData { version: 0, data: Some(data) }.encode_to_vec();
        let content = Some(Content::Tensor(TensorProto::floats(&[0], Vec::new())));
        self.summary(Value { tag: tag.into(), metadata: Some(Metadata::tensor("hparams", data)), content }, 0)
    }

    fn end(&mut self, success: bool) -> Result<()> {
        if std::mem::take(&mut self.session) {
            let status = if success { 1 } else { 2 };
            self.hparams("_hparams_/session_end_info", HParams::End(SessionEnd { status, end_time_secs: now() }))?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        self.flushed = Instant::now();
        self.file.flush().with_context(|| format!("cannot write {}", self.path.display()))
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let result = self.end(!std::thread::panicking()).and_then(|()| self.flush());
        if let Err(error) = result {
            eprintln!("{error}");
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::Scalars;
    use super::*;

    /// With which statuses the sessions of a file ended: 1 success, 2 failure.
    pub(crate) fn session_ends(path: &Path) -> Vec<i32> {
        let mut file = File::open(path).unwrap();
        let mut ends = Vec::new();
        while let Some(data) = record::read(&mut file).unwrap() {
            let Some(What::Summary(summary)) = Event::decode(data.as_slice()).unwrap().what else { continue };
            for plugin in summary.values.into_iter().filter_map(|value| value.metadata?.plugin) {
                if plugin.name == "hparams"
                    && let Some(HParams::End(end)) = HParamsData::decode(plugin.content.as_slice()).unwrap().data
                {
                    ends.push(end.status);
                }
            }
        }
        ends
    }

    #[test]
    fn a_run_ends_once_as_failed_or_as_finished() {
        let folder = tempfile::tempdir().unwrap();
        for (fail, status) in [(true, 2), (false, 1)] {
            let writer = SummaryWriter::new(folder.path()).unwrap();
            writer.hyper_parameters(&HyperParameters::new().number("x", 1.0)).unwrap();
            if fail {
                writer.fail().unwrap();
                assert_eq!(session_ends(&writer.path()), [2]);
            }
            let path = writer.path();
            writer.close().unwrap();
            drop(writer);
            assert_eq!(session_ends(&path), [status]);
        }
    }

    #[test]
    fn scalars_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let writer = SummaryWriter::new(folder.path()).unwrap();
        for step in 0..1000 {
            writer.scalar("loss/train", 1.0 / (step + 1) as f64, step).unwrap();
        }
        writer.scalar("loss/validation", f64::NAN, 3).unwrap();
        writer.flush().unwrap();
        let scalars = Scalars::read(folder.path()).unwrap();
        assert_eq!(scalars.tags(), ["loss/train", "loss/validation"]);
        let values = scalars.get("loss/train").unwrap();
        assert_eq!(values.len(), 1000);
        assert!(
            values.iter().enumerate().all(|(step, s)| s.step == step && s.value == f64::from(1.0 / (step + 1) as f32))
        );
        assert!(scalars.get("loss/validation").unwrap()[0].value.is_nan());
        let error = scalars.get("loss").unwrap_err().to_string();
        assert!(error.contains("one of loss/train, loss/validation"), "{error}");
    }

    #[test]
    fn a_file_cut_at_any_byte_gives_the_scalars_before_the_cut() {
        let folder = tempfile::tempdir().unwrap();
        let writer = SummaryWriter::new(folder.path()).unwrap();
        let mut ends = Vec::new();
        for step in 0..5 {
            writer.scalar("loss", step as f64, step).unwrap();
            writer.flush().unwrap();
            ends.push(std::fs::metadata(writer.path()).unwrap().len() as usize);
        }
        let bytes = std::fs::read(writer.path()).unwrap();
        let cut_file = folder.path().join("cut");
        for cut in 0..=bytes.len() {
            std::fs::write(&cut_file, &bytes[..cut]).unwrap();
            let scalars = Scalars::read(&cut_file).unwrap();
            let whole = ends.iter().filter(|&&end| end <= cut).count();
            assert_eq!(scalars.get("loss").map_or(0, <[_]>::len), whole, "cut at {cut}");
        }
    }

    #[test]
    fn a_resumed_run_supersedes_what_came_after_its_checkpoint() {
        let folder = tempfile::tempdir().unwrap();
        let first = SummaryWriter::new(folder.path()).unwrap();
        (0..10).for_each(|step| first.scalar("loss", 1.0, step).unwrap());
        drop(first);
        let second = SummaryWriter::new(folder.path()).unwrap();
        second.resume_from(6).unwrap();
        (6..12).for_each(|step| second.scalar("loss", 2.0, step).unwrap());
        drop(second);
        let points = Scalars::read(folder.path()).unwrap().points("loss").unwrap();
        let expected: Vec<(f64, f64)> =
            (0..12).map(|step| (f64::from(step), if step < 6 { 1.0 } else { 2.0 })).collect();
        assert_eq!(points, expected);
    }

    #[test]
    fn a_buffered_value_reaches_the_disk_when_the_last_clone_goes() {
        let folder = tempfile::tempdir().unwrap();
        let writer = SummaryWriter::builder(folder.path()).flush_every(Duration::from_secs(3600)).build().unwrap();
        let clone = writer.clone();
        drop(writer);
        clone.scalar("loss", 1.0, 0).unwrap();
        assert!(Scalars::read(folder.path()).unwrap().tags().is_empty());
        drop(clone);
        assert_eq!(Scalars::read(folder.path()).unwrap().tags(), ["loss"]);
    }

    #[test]
    fn a_damaged_file_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let writer = SummaryWriter::new(folder.path()).unwrap();
        writer.scalar("loss", 1.0, 0).unwrap();
        writer.flush().unwrap();
        let mut bytes = std::fs::read(writer.path()).unwrap();
        let last = bytes.len() - 6;
        bytes[last] ^= 0x10;
        std::fs::write(writer.path(), bytes).unwrap();
        let error = Scalars::read(folder.path()).unwrap_err().to_string();
        assert!(error.contains("tfevents") && error.contains("checksum"), "{error}");
        let empty = tempfile::tempdir().unwrap();
        assert!(Scalars::read(empty.path()).unwrap_err().to_string().contains("no event file"));
    }

    #[test]
    fn bad_pictures_name_their_tag() {
        let folder = tempfile::tempdir().unwrap();
        let writer = SummaryWriter::new(folder.path()).unwrap();
        let flat = Tensor::zeros(784, DType::F32, &candle_core::Device::Cpu).unwrap();
        assert!(writer.image("digit", &flat, 0).unwrap_err().to_string().contains("`digit`"));
        assert!(writer.scalar("", 0.0, 0).unwrap_err().to_string().contains("`tag`"));
        assert!(writer.custom_scalars("h", &[("loss", &[])]).is_err());
    }
}
