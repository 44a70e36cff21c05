//! A training as lines of JSON.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use candle_core::DType;
use serde_json::{Map, Value};

use crate::atomic;
use crate::error::{Context, Error, Result};
use crate::setters::setters;
use crate::training::{Callback, Evaluation, Flow, Training};

/// Writes a training as lines of JSON, which pandas (`read_json(path, lines=True)`), MLflow's and
/// other trackers' importers, `jq` and a spreadsheet read.
///
/// | line | fields |
/// | --- | --- |
/// | of a step | `"event": "step"`, `epoch` (of the running one, from 1), `step`, `loss`, `learning_rate` |
/// | of a validation between steps | `"event": "validation"`, `epoch`, `step`, `validation_loss`, metrics |
/// | of an epoch | `"event": "epoch"`, `epoch`, `step`, `train_loss`, `validation_loss`, metrics, `train_` metrics, `learning_rate`, `seconds`, `examples` |
/// | of an end | `"event": "end"`, `step`, `stopped`: the reason, or `error` |
///
/// NaN and infinities, which JSON does not know, are `null`. Every line is written whole and at once. A
/// training that is resumed goes on in the same file: lines of later steps than it goes on from,
/// which a killed run may have left, are taken out first, and so is a line that was cut.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// # let x = Tensor::arange(-8f32, 8., &Device::Cpu)?.reshape((16, 1))?;
/// # let y = x.flatten_all()?.ge(0f32)?.to_dtype(DType::U32)?;
/// # let train = DataLoader::builder(TensorDataset::new(x, y)?).batch_size(4).build()?;
/// # let folder = tempfile::tempdir()?;
/// let path = folder.path().join("run.jsonl");
/// let parameters = Parameters::new(0, &Device::Cpu);
/// let model = Linear::new(1, 2, &parameters.at("fc"))?;
/// Trainer::builder(model, &parameters, CrossEntropy::default(), Sgd::new(&parameters)?)
///     .epochs(2)
///     .learning_rate(0.1)
///     .callback(JsonLines::builder(&path).every_steps(1).build()?)
///     .build()?
///     .fit(&train, None)?;
/// assert_eq!(std::fs::read_to_string(&path)?.lines().count(), 2 * 4 + 2 + 1);
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Debug)]
pub struct JsonLines {
    path: PathBuf,
    every_steps: usize,
    file: Option<File>,
}

/// Configures [`JsonLines`].
#[derive(Debug, Clone)]
pub struct JsonLinesBuilder {
    path: PathBuf,
    every_steps: usize,
}

fn number(value: f64) -> Value {
    serde_json::Number::from_f64(value).map_or(Value::Null, Value::Number)
}

fn integer(value: usize) -> Value {
    Value::Number(value.into())
}

fn line(event: &str, fields: impl IntoIterator<Item = (String, Value)>) -> String {
    let mut line = Map::from_iter([("event".to_owned(), Value::String(event.to_owned()))]);
    line.extend(fields);
    format!("{}\n", Value::Object(line))
}

impl JsonLines {
    /// Lines in the file `path`, with one for every 20th step.
    ///
    /// # Errors
    /// If `path` is a folder.
    pub fn new(path: impl AsRef<Path>) -> Result<Self> {
        Self::builder(path).build()
    }

    /// As [`JsonLines::new`], unless told otherwise.
    pub fn builder(path: impl AsRef<Path>) -> JsonLinesBuilder {
        JsonLinesBuilder { path: path.as_ref().to_owned(), every_steps: 20 }
    }

    fn write(&mut self, line: &str) -> Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        file.write_all(line.as_bytes()).with_context(|| format!("cannot write to {}", self.path.display()))
    }

    /// The whole lines of the file that are of `step` or before.
    fn kept(&self, step: usize) -> Result<String> {
        let text = match std::fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(String::new()),
            Err(error) => {
                let message = format!("cannot read {}, to go on in it", self.path.display());
                return Err(Error::from(error).context(message));
            }
        };
        let mut kept = String::new();
        for (i, line) in text.split_inclusive('\n').enumerate() {
            let read: std::result::Result<Value, _> = serde_json::from_str(line);
            let of = read.as_ref().ok().and_then(|value| value.get("step")?.as_u64());
            match (of, line.ends_with('\n')) {
                (Some(of), true) if of as usize <= step && read.is_ok_and(|value| value["event"] != "end") => {
                    kept.push_str(line);
                }
                (Some(_), true) | (_, false) => {} // of a later step, of an end that was none, or cut
                (None, true) => {
                    return Err(Error::argument(
                        "path",
                        "a new file, or one that JsonLines wrote",
                        format!("`{}`, whose line {} is none of its", self.path.display(), i + 1),
                    )
                    .hint("nothing in it was changed; name another file"));
                }
            }
        }
        Ok(kept)
    }

    fn evaluated(evaluation: &Evaluation) -> Vec<(String, Value)> {
        let mut fields = vec![("validation_loss".to_owned(), number(evaluation.loss))];
        fields.extend(evaluation.metrics.iter().map(|(name, value)| (name.clone(), number(*value))));
        fields
    }
}

impl JsonLinesBuilder {
    setters! {
        /// A line for every so many steps (20); the loss of one is waited for on a GPU.
        every_steps(steps: usize) => every_steps = steps;
    }

    /// The callback.
    ///
    /// # Errors
    /// If `every_steps` is 0, or the path is a folder.
    pub fn build(self) -> Result<JsonLines> {
        if self.every_steps == 0 {
            return Err(Error::argument("every_steps", "at least 1", 0));
        }
        if self.path.is_dir() {
            return Err(Error::argument("path", "a file's", format!("`{}`, a folder", self.path.display())));
        }
        Ok(JsonLines { path: self.path, every_steps: self.every_steps, file: None })
    }
}

impl Callback for JsonLines {
    fn name(&self) -> &str {
        "json lines"
    }

    fn fit_start(&mut self, training: &mut Training) -> Result<Flow> {
        let kept = self.kept(training.state().step)?;
        if let Some(folder) = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        atomic::write_bytes(&self.path, kept.as_bytes())?;
        let file = OpenOptions::new().append(true).open(&self.path);
        self.file = Some(file.with_context(|| format!("cannot open {}", self.path.display()))?);
        Ok(Flow::Continue)
    }

    fn step_end(&mut self, training: &mut Training) -> Result<Flow> {
        let state = training.state();
        if state.step.is_multiple_of(self.every_steps)
            && let Some(loss) = training.last_loss()
        {
            let loss = f64::from(loss.to_dtype(DType::F32)?.to_scalar::<f32>()?);
            let fields = [
                ("epoch", integer(state.epoch + 1)),
                ("step", integer(state.step)),
                ("loss", number(loss)),
                ("learning_rate", number(state.learning_rate)),
            ];
            self.write(&line("step", fields.map(|(name, value)| (name.to_owned(), value))))?;
        }
        Ok(Flow::Continue)
    }

    fn validation_end(&mut self, training: &mut Training, evaluation: &Evaluation) -> Result<Flow> {
        let state = training.state();
        if state.batch < state.batches_per_epoch {
            let mut fields =
                vec![("epoch".to_owned(), integer(state.epoch + 1)), ("step".to_owned(), integer(state.step))];
            fields.extend(Self::evaluated(evaluation));
            self.write(&line("validation", fields))?;
        }
        Ok(Flow::Continue)
    }

    fn epoch_end(&mut self, training: &mut Training) -> Result<Flow> {
        let record = training.history().last()?;
        let mut fields = vec![("epoch".to_owned(), integer(record.epoch)), ("step".to_owned(), integer(record.step))];
        fields.extend(record.columns().into_iter().map(|(name, value)| (name, number(value))));
        fields.push(("seconds".to_owned(), number(record.seconds)));
        fields.push(("examples".to_owned(), integer(record.examples)));
        self.write(&line("epoch", fields))?;
        Ok(Flow::Continue)
    }

    fn fit_end(&mut self, training: &mut Training) -> Result<Flow> {
        let stopped = training.history().stopped().map_or(Value::Null, |reason| Value::String(reason.to_owned()));
        let step = integer(training.state().step);
        self.write(&line("end", [("step".to_owned(), step), ("stopped".to_owned(), stopped)]))?;
        self.file = None;
        Ok(Flow::Continue)
    }

    fn fit_failed(&mut self, training: &mut Training, error: &Error) -> Result<()> {
        let step = integer(training.state().step);
        let error = Value::String(error.to_string());
        self.write(&line("end", [("step".to_owned(), step), ("error".to_owned(), error)]))?;
        self.file = None;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::training::trainer_tests::{FailsAt, loaders, trainer};

    fn read(path: &Path) -> Vec<Value> {
        std::fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Four steps an epoch.
    fn fit(path: &Path, epochs: usize, fails: usize, folder: &Path) -> Result<crate::training::History> {
        let (train, validation) = loaders();
        let mut trainer = trainer(3)
            .0
            .epochs(epochs)
            .learning_rate(0.1)
            .validate_every_steps(3)
            .callback(JsonLines::builder(path).every_steps(1).build()?)
            .callback(FailsAt(fails))
            .checkpoints(crate::training::callbacks::Checkpoints::new(folder))
            .quiet()
            .build()?;
        trainer.resume(folder)?;
        trainer.fit(&train, Some(&validation))
    }

    #[test]
    fn lines_hold_what_the_history_holds() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("below/run.jsonl");
        let history = fit(&path, 2, usize::MAX, &temporary.path().join("checkpoints")).unwrap();
        let lines = read(&path);
        let of = |event: &str| lines.iter().filter(|line| line["event"] == event).collect::<Vec<_>>();
        assert_eq!((of("step").len(), of("epoch").len(), of("validation").len(), of("end").len()), (8, 2, 2, 1));
        for (line, step) in of("step").into_iter().zip(history.steps()) {
            assert_eq!(line["loss"].as_f64().unwrap(), step.loss);
            assert_eq!(line["step"].as_u64().unwrap() as usize, step.step);
        }
        for (line, record) in of("epoch").into_iter().zip(history.epochs()) {
            assert_eq!(line["validation_loss"].as_f64(), record.validation_loss);
            assert_eq!(line["accuracy"].as_f64().unwrap(), record.metric("accuracy").unwrap());
        }
        let between: Vec<u64> = of("validation").iter().map(|line| line["step"].as_u64().unwrap()).collect();
        assert_eq!(between, [3, 6]);
        assert_eq!(of("end")[0]["stopped"], Value::Null);
    }

    #[test]
    fn a_training_that_failed_and_goes_on_has_every_line_once() {
        let temporary = tempfile::tempdir().unwrap();
        let (whole, torn) = (temporary.path().join("whole.jsonl"), temporary.path().join("torn.jsonl"));
        fit(&whole, 3, usize::MAX, &temporary.path().join("a")).unwrap();
        let folder = temporary.path().join("b");
        assert!(fit(&torn, 3, 7, &folder).is_err());
        let last = read(&torn).pop().unwrap();
        assert!(last["error"].as_str().unwrap().contains("the disk is full"), "{last}");
        // Killed in the middle of a line.
        OpenOptions::new().append(true).open(&torn).unwrap().write_all(b"{\"event\":\"step\",\"st").unwrap();
        fit(&torn, 3, usize::MAX, &folder).unwrap();
        let timeless = |path: &Path| -> Vec<Value> {
            let mut lines = read(path);
            lines.iter_mut().for_each(|line| drop(line.as_object_mut().unwrap().remove("seconds")));
            lines
        };
        assert_eq!(timeless(&torn), timeless(&whole));
    }

    #[test]
    fn a_file_of_somebody_else_is_left_alone() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("notes.txt");
        std::fs::write(&path, "my notes\n").unwrap();
        let text = fit(&path, 1, usize::MAX, &temporary.path().join("c")).unwrap_err().to_string();
        assert!(text.contains("whose line 1 is none of its"), "{text}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "my notes\n");
        assert!(JsonLines::new(temporary.path()).unwrap_err().to_string().contains("a folder"));
        assert!(JsonLines::builder(&path).every_steps(0).build().is_err());
        assert_eq!(number(f64::NAN), Value::Null);
    }
}
