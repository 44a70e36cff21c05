//! A training in TensorBoard.

use std::path::Path;

use candle_core::backprop::GradStore;

use crate::error::Result;
use crate::tensorboard::{HyperParameters, SummaryWriter};
use crate::training::{Callback, Flow, Trainer};

/// Writes a training into an event file that TensorBoard shows.
///
/// Tags: `loss/step` and `learning_rate` at every step; `loss/train`, `loss/validation`, each metric
/// as `<metric>/train` and `<metric>/validation`, and `examples_per_second` at the end of every
/// epoch; histograms `weights/<parameter>` and `gradients/<parameter>` (before clipping) at the first
/// step of every epoch. The *Custom Scalars* page has train and validation in one chart.
///
/// The values of steps are written when the epoch ends, so that no step waits for the device. A
/// training that was resumed supersedes the values after its checkpoint.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// # let folder = tempfile::tempdir()?;
/// # let parameters = Parameters::new(0, &Device::Cpu);
/// # let model = Linear::new(1, 2, &parameters.at("fc"))?;
/// # let x = Tensor::arange(-8f32, 8., &Device::Cpu)?.reshape((16, 1))?;
/// # let y = x.flatten_all()?.ge(0f32)?.to_dtype(DType::U32)?;
/// # let train = DataLoader::new(TensorDataset::new(x, y)?).batch_size(4).shuffle(1).build()?;
/// # let optimizer = Sgd::new(&parameters).build()?;
/// let tensorboard = TensorBoard::new(folder.path().join("run-1"))?
///     .hyper_parameters(&HyperParameters::new().number("learning_rate", 0.1).metric("loss/train"))?;
/// let mut trainer = Trainer::new(model, &parameters, CrossEntropy::default(), optimizer)
///     .epochs(2)
///     .learning_rate(0.1)
///     .callback(tensorboard)
///     .build()?;
/// trainer.fit(&train, None)?;
///
/// let scalars = Scalars::read(folder.path().join("run-1"))?;
/// assert_eq!(scalars.get("loss/step")?.len(), 8);
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Debug, Clone)]
#[must_use = "a callback does nothing until it is given to a trainer"]
pub struct TensorBoard {
    writer: SummaryWriter,
    histograms: Option<usize>,
    /// Steps up to here are written.
    written: usize,
    /// The epoch whose histograms are written.
    drawn: Option<usize>,
}

impl TensorBoard {
    /// A new event file in `folder`.
    ///
    /// # Errors
    ///
    /// When the folder or file cannot be made.
    pub fn new(folder: impl AsRef<Path>) -> Result<Self> {
        Ok(Self::with(&SummaryWriter::new(folder)?))
    }

    /// Shares a writer with the caller, who may add images and figures of their own.
    pub fn with(writer: &SummaryWriter) -> Self {
        Self { writer: writer.clone(), histograms: Some(1), written: 0, drawn: None }
    }

    /// Histograms every so many epochs; 1 unless set, `None` for no histograms.
    pub fn histograms_every(mut self, epochs: Option<usize>) -> Self {
        self.histograms = epochs.map(|epochs| epochs.max(1));
        self
    }

    /// What the run was started with, for the table of runs.
    ///
    /// # Errors
    ///
    /// When there is none, or the file cannot be written.
    pub fn hyper_parameters(self, hyper_parameters: &HyperParameters) -> Result<Self> {
        self.writer.hyper_parameters(hyper_parameters)?;
        Ok(self)
    }

    /// The writer, to add more to the run.
    pub fn writer(&self) -> SummaryWriter {
        self.writer.clone()
    }

    fn layout(&self, trainer: &Trainer) -> Result<()> {
        let names: Vec<String> = trainer.monitors();
        let mut titles = vec!["loss".to_owned()];
        let other = |name: &&String| !["train_loss", "validation_loss", "learning_rate"].contains(&name.as_str());
        for name in names.iter().filter(other) {
            let metric = name.strip_prefix("train_").unwrap_or(name).to_owned();
            if !titles.contains(&metric) {
                titles.push(metric);
            }
        }
        let tags: Vec<[String; 2]> =
            titles.iter().map(|title| [format!("{title}/train"), format!("{title}/validation")]).collect();
        let both: Vec<[&str; 2]> =
            tags.iter().map(|[train, validation]| [train.as_str(), validation.as_str()]).collect();
        let charts: Vec<(&str, &[&str])> =
            titles.iter().zip(&both).map(|(title, tags)| (title.as_str(), &tags[..])).collect();
        self.writer.custom_scalars("Training", &charts)
    }

    fn steps(&mut self, trainer: &Trainer) -> Result<()> {
        let records = trainer.history().steps();
        let new = records.partition_point(|record| record.step <= self.written);
        for record in &records[new..] {
            self.writer.scalar("loss/step", record.loss, record.step)?;
            self.writer.scalar("learning_rate", record.learning_rate, record.step)?;
            self.written = record.step;
        }
        Ok(())
    }
}

impl Callback for TensorBoard {
    fn name(&self) -> &str {
        "TensorBoard"
    }

    fn fit_start(&mut self, trainer: &mut Trainer) -> Result<Flow> {
        let step = trainer.state().step;
        if step > 0 && self.written == 0 {
            self.writer.resume_from(step + 1)?;
        }
        self.written = self.written.max(step);
        self.layout(trainer)?;
        Ok(Flow::Continue)
    }

    fn backward_end(&mut self, trainer: &mut Trainer, gradients: &mut GradStore) -> Result<Flow> {
        let epoch = trainer.state().epoch;
        if self.histograms.is_some_and(|every| epoch.is_multiple_of(every)) && self.drawn != Some(epoch) {
            self.drawn = Some(epoch);
            self.writer.parameters(trainer.parameters(), Some(gradients), trainer.state().step + 1)?;
        }
        Ok(Flow::Continue)
    }

    fn epoch_end(&mut self, trainer: &mut Trainer) -> Result<Flow> {
        self.steps(trainer)?;
        let record = trainer.history().last()?;
        let step = record.step;
        self.writer.scalar("loss/train", record.train_loss, step)?;
        if let Some(loss) = record.validation_loss {
            self.writer.scalar("loss/validation", loss, step)?;
        }
        for (metrics, part) in [(&record.train_metrics, "train"), (&record.metrics, "validation")] {
            for (name, value) in metrics {
                self.writer.scalar(&format!("{name}/{part}"), *value, step)?;
            }
        }
        if record.train_seconds > 0.0 {
            self.writer.scalar("examples_per_second", record.examples as f64 / record.train_seconds, step)?;
        }
        self.writer.flush()?;
        Ok(Flow::Continue)
    }

    fn fit_end(&mut self, trainer: &mut Trainer) -> Result<Flow> {
        self.steps(trainer)?;
        self.writer.close()?;
        Ok(Flow::Continue)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensorboard::Scalars;
    use crate::training::trainer::tests::{loaders, trainer};

    #[test]
    fn every_value_of_the_history_is_in_the_file_and_the_training_is_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let (train, validation) = loaders();
        let plain =
            trainer(3).0.epochs(3).learning_rate(0.1).quiet().build().unwrap().fit(&train, Some(&validation)).unwrap();
        let callback = TensorBoard::new(folder.path()).unwrap();
        let mut watched =
            trainer(3).0.epochs(3).learning_rate(0.1).train_metrics().callback(callback).quiet().build().unwrap();
        let history = watched.fit(&train, Some(&validation)).unwrap();
        assert_eq!(history.steps(), plain.steps(), "writing must not change the training");

        let scalars = Scalars::read(folder.path()).unwrap();
        let values = |tag: &str| -> Vec<(usize, f32)> {
            scalars.get(tag).unwrap().iter().map(|scalar| (scalar.step, scalar.value as f32)).collect()
        };
        let steps: Vec<(usize, f32)> = history.steps().iter().map(|record| (record.step, record.loss as f32)).collect();
        assert_eq!(values("loss/step"), steps);
        let epochs = |pick: fn(&crate::training::EpochRecord) -> f64| -> Vec<(usize, f32)> {
            history.epochs().iter().map(|record| (record.step, pick(record) as f32)).collect()
        };
        assert_eq!(values("loss/train"), epochs(|record| record.train_loss));
        assert_eq!(values("loss/validation"), epochs(|record| record.validation_loss.unwrap()));
        assert_eq!(values("accuracy/validation"), epochs(|record| record.metrics[0].1));
        assert_eq!(values("accuracy/train"), epochs(|record| record.train_metrics[0].1));
    }
}
