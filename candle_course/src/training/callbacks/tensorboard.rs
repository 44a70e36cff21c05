//! A training written down for TensorBoard.

use std::path::{Path, PathBuf};

use candle_core::DType;
use candle_core::backprop::GradStore;

use crate::data::Batch;
use crate::error::{Error, Result};
use crate::setters::setters;
use crate::tensorboard::{HyperParameters, SummaryWriter};
use crate::training::diagnosis::Probe;
use crate::training::{Callback, Evaluation, Flow, Training};

/// Writes a training as a TensorBoard run: after every epoch the losses and metrics of training
/// and validation, on one chart each (page *Custom scalars*), and histograms of weights and
/// gradients; every few steps loss and learning rate.
///
/// | tag | what |
/// | --- | --- |
/// | `loss/train`, `loss/validation` | an epoch's mean, at the epoch's last step; validations between steps too |
/// | `accuracy/train`, `accuracy/validation` | so for every metric |
/// | `step/loss`, `step/learning_rate`, `step/gradient_norm` | every few steps |
/// | `weights/fc1.weight`, `gradients/fc1.weight` | histograms, an epoch's last step |
/// | `activations/…`, `activation_gradients/…` | histograms, with [`TensorBoardBuilder::probe`] |
///
/// What earlier files of the folder hold for later steps than the training has done is superseded:
/// a resumed training, or one that starts anew, has one curve. A training that ends with an error
/// is marked as failed.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let folder = tempfile::tempdir()?;
/// let tensorboard = TensorBoard::builder(folder.path().join("cnn-1")).every_steps(50).build()?;
/// let writer = tensorboard.writer(); // for images and figures of your own
/// writer.text("notes", "the first try", 0)?;
/// # Ok::<(), candle_course::Error>(())
/// ```
pub struct TensorBoard {
    writer: SummaryWriter,
    every_steps: usize,
    histograms_every: usize,
    hyper_parameters: Option<HyperParameters>,
    probe: Option<(Probe, Batch)>,
}

impl TensorBoard {
    /// A run in `folder`; its name is the folder's. TensorBoard is pointed at the parent.
    ///
    /// # Errors
    /// If the folder cannot be made.
    pub fn new(folder: impl AsRef<Path>) -> Result<Self> {
        Self::builder(folder).build()
    }

    /// A run in `folder`: loss and learning rate every 20 steps, histograms every epoch, unless told
    /// otherwise.
    pub fn builder(folder: impl AsRef<Path>) -> TensorBoardBuilder {
        TensorBoardBuilder {
            folder: folder.as_ref().to_owned(),
            every_steps: 20,
            histograms_every: 1,
            hyper_parameters: None,
            probe: None,
        }
    }

    /// The writer, to add images, figures and text to the run.
    pub fn writer(&self) -> SummaryWriter {
        self.writer.clone()
    }
}

/// Configures a [`TensorBoard`].
#[derive(Debug, Clone)]
pub struct TensorBoardBuilder {
    folder: PathBuf,
    every_steps: usize,
    histograms_every: usize,
    hyper_parameters: Option<HyperParameters>,
    probe: Option<(Probe, Batch)>,
}

impl TensorBoardBuilder {
    setters! {
        /// Writes loss and learning rate every so many steps (20).
        every_steps(steps: usize) => every_steps = steps;
        /// Writes histograms of weights and gradients every so many epochs (1); 0 for none.
        histograms_every(epochs: usize) => histograms_every = epochs;
        /// What the run is started with, for the page *HParams*, which compares runs. Losses and metrics
        /// of the validation (of the training, if there is none) are its results, unless it names others.
        hyper_parameters(hyper_parameters: HyperParameters) => hyper_parameters = Some(hyper_parameters);
        /// After every epoch, histograms of what the layers that `probe` watches do with `batch`. The
        /// trainer's model must be the watched one.
        probe(probe: &Probe, batch: Batch) => probe = Some((probe.clone(), batch));
    }

    /// The callback.
    ///
    /// # Errors
    /// If `every_steps` is 0, or the folder cannot be made.
    pub fn build(self) -> Result<TensorBoard> {
        let Self { folder, every_steps, histograms_every, hyper_parameters, probe } = self;
        if every_steps == 0 {
            return Err(Error::argument("every_steps", "at least 1", 0));
        }
        let writer = SummaryWriter::new(folder)?;
        Ok(TensorBoard { writer, every_steps, histograms_every, hyper_parameters, probe })
    }
}

impl Callback for TensorBoard {
    fn name(&self) -> &str {
        "tensorboard"
    }

    fn fit_start(&mut self, training: &mut Training) -> Result<Flow> {
        // At step 0 too: a run that was killed before its first checkpoint starts anew in its folder.
        self.writer.resume_from(training.state().step + 1)?;
        let monitors = training.monitors();
        let validating = monitors.iter().any(|name| name == "validation_loss");
        // `train_loss`, `train_accuracy`, `accuracy`: what stays is `loss`, `accuracy`.
        let mut names: Vec<String> = Vec::new();
        for name in monitors.iter().filter(|name| !["validation_loss", "learning_rate"].contains(&name.as_str())) {
            let name = name.strip_prefix("train_").unwrap_or(name);
            if !names.iter().any(|other| other == name) {
                names.push(name.to_owned());
            }
        }
        let pairs: Vec<[String; 2]> =
            names.iter().map(|name| [format!("{name}/train"), format!("{name}/validation")]).collect();
        let tags: Vec<[&str; 2]> =
            pairs.iter().map(|[train, validation]| [train.as_str(), validation.as_str()]).collect();
        let charts: Vec<(&str, &[&str])> =
            names.iter().map(String::as_str).zip(tags.iter().map(|tags| &tags[..])).collect();
        self.writer.custom_scalars("Training and validation", &charts)?;
        if let Some(hyper_parameters) = self.hyper_parameters.take() {
            let given = !hyper_parameters.metrics().is_empty();
            let hyper_parameters = match given {
                true => hyper_parameters,
                false => pairs.iter().fold(hyper_parameters, |all, pair| all.metric(&pair[usize::from(validating)])),
            };
            self.writer.hyper_parameters(&hyper_parameters)?;
        }
        Ok(Flow::Continue)
    }

    fn backward_end(&mut self, training: &mut Training, gradients: &mut GradStore) -> Result<Flow> {
        let state = training.state();
        let last = state.batch == state.batches_per_epoch;
        if last && self.histograms_every > 0 && (state.epoch + 1).is_multiple_of(self.histograms_every) {
            self.writer.parameters(training.parameters(), Some(gradients), state.step + 1)?;
        }
        Ok(Flow::Continue)
    }

    fn step_end(&mut self, training: &mut Training) -> Result<Flow> {
        let state = training.state();
        if state.step.is_multiple_of(self.every_steps) {
            if let Some(loss) = training.last_loss() {
                let loss = loss.to_dtype(DType::F32)?.to_scalar::<f32>()?;
                self.writer.scalar("step/loss", f64::from(loss), state.step)?;
            }
            self.writer.scalar("step/learning_rate", state.learning_rate, state.step)?;
            if let Some(norm) = training.gradient_norm() {
                self.writer.scalar("step/gradient_norm", norm, state.step)?;
            }
        }
        Ok(Flow::Continue)
    }

    fn validation_end(&mut self, training: &mut Training, evaluation: &Evaluation) -> Result<Flow> {
        let state = training.state();
        if state.batch < state.batches_per_epoch {
            self.writer.scalar("loss/validation", evaluation.loss, state.step)?;
            for (name, value) in &evaluation.metrics {
                self.writer.scalar(&format!("{name}/validation"), *value, state.step)?;
            }
        }
        Ok(Flow::Continue)
    }

    fn epoch_end(&mut self, training: &mut Training) -> Result<Flow> {
        let record = training.history().last()?;
        let step = record.step;
        self.writer.scalar("loss/train", record.train_loss, step)?;
        if let Some(loss) = record.validation_loss {
            self.writer.scalar("loss/validation", loss, step)?;
        }
        for (part, metrics) in [("train", &record.train_metrics), ("validation", &record.metrics)] {
            for (name, value) in metrics {
                self.writer.scalar(&format!("{name}/{part}"), *value, step)?;
            }
        }
        self.writer.scalar("step/examples_per_second", record.examples as f64 / record.train_seconds, step)?;
        if let Some((probe, batch)) = &self.probe {
            let report = probe.inspect(&**training.model(), training.parameters(), &**training.loss(), batch)?;
            for layer in report.layers() {
                self.writer.histogram(&format!("activations/{}", layer.name), &layer.activation, step)?;
                if let Some(gradient) = &layer.gradient {
                    self.writer.histogram(&format!("activation_gradients/{}", layer.name), gradient, step)?;
                }
            }
        }
        self.writer.flush()?;
        Ok(Flow::Continue)
    }

    fn fit_end(&mut self, _training: &mut Training) -> Result<Flow> {
        self.writer.close()?;
        Ok(Flow::Continue)
    }

    fn fit_failed(&mut self, _training: &mut Training, _error: &Error) -> Result<()> {
        self.writer.fail()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Dataset as _;
    use crate::losses::CrossEntropy;
    use crate::metrics::Accuracy;
    use crate::optimizers::Sgd;
    use crate::tensorboard::{Scalars, session_ends};
    use crate::training::Trainer;
    use crate::training::trainer_tests::{FailsAt, loaders, mlp, points, trainer};

    #[test]
    fn the_run_holds_what_the_history_holds_and_changes_nothing() {
        let (train, validation) = loaders();
        let temporary = tempfile::tempdir().unwrap();
        let folder = temporary.path().join("run");
        let (model, parameters) = mlp(3);
        let probe = Probe::new();
        let tensorboard = TensorBoard::builder(&folder)
            .every_steps(2)
            .hyper_parameters(HyperParameters::new().number("learning_rate", 0.1))
            .probe(&probe, points(1).batch(&[0, 1, 2]).unwrap())
            .build()
            .unwrap();
        let optimizer = Sgd::builder(&parameters).momentum(0.9).build().unwrap();
        let mut with = Trainer::builder(probe.sequential(&model), &parameters, CrossEntropy::default(), optimizer)
            .epochs(3)
            .learning_rate(0.1)
            .metric(Accuracy::default())
            .callback(tensorboard)
            .quiet()
            .build()
            .unwrap();
        let history = with.fit(&train, Some(&validation)).unwrap();
        let plain = trainer(3).0.epochs(3).learning_rate(0.1).quiet().build().unwrap().fit(&train, Some(&validation));
        assert_eq!(history.step_losses(), plain.unwrap().step_losses());

        let scalars = Scalars::read(&folder).unwrap();
        for (tag, name) in
            [("loss/train", "train_loss"), ("loss/validation", "validation_loss"), ("accuracy/validation", "accuracy")]
        {
            let expected: Vec<f32> = history.values(name).unwrap().into_iter().map(|value| value as f32).collect();
            let points = scalars.points(tag).unwrap();
            assert_eq!(points.iter().map(|&(_, value)| value as f32).collect::<Vec<_>>(), expected, "{tag}");
            assert_eq!(points.iter().map(|&(step, _)| step).collect::<Vec<_>>(), [4.0, 8.0, 12.0]);
        }
        assert_eq!(scalars.points("step/loss").unwrap().len(), 6);
        let bytes = std::fs::read(std::fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path()).unwrap();
        for tag in ["weights/0.weight", "gradients/3.bias", "activations/1 Activation", "activation_gradients/0 Linear"]
        {
            assert!(bytes.windows(tag.len()).any(|window| window == tag.as_bytes()), "{tag}");
        }
        assert!(TensorBoard::builder(folder).every_steps(0).build().is_err());

        let alone = temporary.path().join("without-validation");
        let tensorboard = TensorBoard::builder(&alone).hyper_parameters(HyperParameters::new().number("x", 1.0));
        let tensorboard = tensorboard.build().unwrap();
        let builder = trainer(3).0.learning_rate(0.1).train_metrics().callback(tensorboard).quiet();
        builder.build().unwrap().fit(&train, None).unwrap();
        let bytes = std::fs::read(std::fs::read_dir(&alone).unwrap().next().unwrap().unwrap().path()).unwrap();
        let count = |tag: &str| bytes.windows(tag.len()).filter(|window| *window == tag.as_bytes()).count();
        // On its chart, as a result of the run, and with its value.
        assert_eq!((count("accuracy/train"), count("loss/train")), (3, 3));
        assert_eq!(count("accuracy/validation"), 1, "on the chart alone");
    }

    #[test]
    fn a_failed_run_is_marked_so_at_once_and_the_next_in_its_folder_has_one_curve() {
        let (train, validation) = loaders();
        let temporary = tempfile::tempdir().unwrap();
        let fit = |fails: usize| {
            let tensorboard = TensorBoard::builder(temporary.path());
            let tensorboard = tensorboard.hyper_parameters(HyperParameters::new().number("x", 1.0)).build().unwrap();
            let path = tensorboard.writer().path();
            let builder = trainer(3).0.epochs(3).learning_rate(0.1).callback(tensorboard).callback(FailsAt(fails));
            let mut trainer = builder.quiet().build().unwrap();
            let result = trainer.fit(&train, Some(&validation));
            // Read while the writer is still there: nothing waits in memory.
            (
                result,
                session_ends(&path),
                Scalars::read(temporary.path()).unwrap().points("loss/train").unwrap(),
                trainer,
            )
        };
        let (result, ends, points, failed) = fit(10);
        assert!(result.unwrap_err().to_string().contains("the disk is full"));
        assert_eq!((ends, points.len()), (vec![2], 2));
        drop(failed);
        let (result, ends, points, _) = fit(1000);
        assert_eq!(ends, [1]);
        let expected: Vec<(f64, f64)> = result
            .unwrap()
            .epochs()
            .iter()
            .map(|record| (record.step as f64, f64::from(record.train_loss as f32)))
            .collect();
        assert_eq!(points, expected);
    }
}
