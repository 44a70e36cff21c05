//! Which examples the model gets wrong, and how sure it was.

use std::fmt;

use candle_core::{DType, Tensor};

use crate::data::{DataLoader, Dataset};
use crate::error::{Error, Result};
use crate::language::{chosen, label, told};
use crate::nn::Model;
use crate::notebook::Table;
use crate::plot::{Figure, ImageGrid};

/// A classifier's answer to one example.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prediction {
    /// Which example of the data set.
    pub index: usize,
    /// Its class.
    pub target: usize,
    /// The class with the largest probability.
    pub predicted: usize,
    /// The probability of `predicted`.
    pub confidence: f64,
    /// −log of the probability of `target`.
    pub loss: f64,
}

impl Prediction {
    /// Whether the answer is right.
    pub fn is_right(&self) -> bool {
        self.target == self.predicted
    }
}

/// A classifier's answers to a whole data set.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let parameters = Parameters::new(0, &Device::Cpu);
/// let model = Linear::new(2, 3, &parameters.at("fc"))?;
/// let x = Tensor::new(&[[1f32, 0.], [0., 1.], [5., 5.]], &Device::Cpu)?;
/// let data = TensorDataset::new(x, Tensor::new(&[0u32, 1, 2], &Device::Cpu)?)?;
/// let loader = DataLoader::builder(data).batch_size(2).build()?;
/// let report = PredictionReport::new(&model, &loader)?;
/// assert_eq!(report.predictions().len(), 3);
/// let hardest = report.hardest(1);
/// assert!(hardest.predictions()[0].loss >= report.predictions()[0].loss);
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct PredictionReport {
    predictions: Vec<Prediction>,
    classes: Vec<String>,
}

impl PredictionReport {
    /// Asks `model`, whose outputs are logits `[N, C]`, about every example of `loader`, in
    /// evaluation mode. Targets are classes, `[N]`.
    ///
    /// # Errors
    /// If shapes are others, a target is not a class, or a logit is NaN.
    pub fn new(model: &dyn Model, loader: &DataLoader) -> Result<Self> {
        let mut predictions = Vec::new();
        for batch in loader.epoch(0)? {
            let batch = batch?;
            let logits = model.forward_t(&batch.inputs, false)?.detach().to_dtype(DType::F32)?;
            let (&[n, classes], &[labels]) = (logits.dims(), batch.targets.dims()) else {
                return Err(Error::argument(
                    "model, loader",
                    "logits [N, C] and targets [N]",
                    format!("{:?} and {:?}", logits.dims(), batch.targets.dims()),
                ));
            };
            if n != labels {
                return Err(Error::argument("targets", format!("{n} labels"), labels));
            }
            let rows = candle_nn::ops::log_softmax(&logits, 1)?.to_vec2::<f32>()?;
            let targets = batch.targets.to_dtype(DType::U32)?.to_vec1::<u32>()?;
            for ((row, target), &index) in rows.iter().zip(targets).zip(&batch.indices) {
                let target = target as usize;
                if row.iter().any(|value| value.is_nan()) {
                    return Err(Error::argument(
                        "model",
                        format!("numbers for example {index}"),
                        "logits with NaN or infinity",
                    )
                    .hint("did the training diverge, or are there NaN in the inputs?"));
                }
                if target >= classes {
                    return Err(Error::argument("targets", format!("classes in 0..{classes}"), target));
                }
                let (mut predicted, mut best) = (0, f32::NEG_INFINITY);
                for (class, &value) in row.iter().enumerate() {
                    if value > best {
                        (predicted, best) = (class, value);
                    }
                }
                let confidence = f64::from(best).exp();
                predictions.push(Prediction { index, target, predicted, confidence, loss: -f64::from(row[target]) });
            }
        }
        Ok(Self { predictions, classes: Vec::new() })
    }

    /// Names for the classes, in tables and captions.
    #[must_use]
    pub fn class_names<S: AsRef<str>>(mut self, names: &[S]) -> Self {
        self.classes = names.iter().map(|name| name.as_ref().to_owned()).collect();
        self
    }

    /// The answers, in the order of the loader unless the report is an ordered part of another.
    pub fn predictions(&self) -> &[Prediction] {
        &self.predictions
    }

    /// The share of right answers; NaN of none.
    pub fn accuracy(&self) -> f64 {
        self.predictions.iter().filter(|p| p.is_right()).count() as f64 / self.predictions.len() as f64
    }

    fn part(&self, count: usize, keep: impl Fn(&Prediction) -> bool, key: impl Fn(&Prediction) -> f64) -> Self {
        let mut predictions: Vec<Prediction> = self.predictions.iter().copied().filter(keep).collect();
        predictions.sort_by(|a, b| key(b).total_cmp(&key(a)).then(a.index.cmp(&b.index)));
        predictions.truncate(count);
        Self { predictions, classes: self.classes.clone() }
    }

    /// The examples of the largest loss, right or wrong.
    #[must_use]
    pub fn hardest(&self, count: usize) -> Self {
        self.part(count, |_| true, |p| p.loss)
    }

    /// The wrong answers, the most confident first: mislabelled examples are often among them.
    #[must_use]
    pub fn confident_mistakes(&self, count: usize) -> Self {
        self.part(count, |p| !p.is_right(), |p| p.confidence)
    }

    /// The right answers, the least confident first.
    #[must_use]
    pub fn narrow_escapes(&self, count: usize) -> Self {
        self.part(count, Prediction::is_right, |p| -p.confidence)
    }

    fn class(&self, class: usize) -> String {
        self.classes.get(class).cloned().unwrap_or_else(|| class.to_string())
    }

    /// A row for every answer.
    pub fn table(&self) -> Table {
        let mut table = Table::new(["example", "target", "predicted", "confidence", "loss"].map(label));
        for p in &self.predictions {
            table.push((
                p.index,
                self.class(p.target),
                self.class(p.predicted),
                format!("{:.1} %", 100.0 * p.confidence),
                p.loss,
            ));
        }
        table
    }

    /// The examples as images with what was said of them. `dataset` is the loader's; its images were
    /// normalised with `mean` and `std`, a value per channel (0 and 1 if they were not).
    ///
    /// # Errors
    /// If there is no answer in this report, or the examples are no images.
    pub fn figure(&self, title: &str, dataset: &dyn Dataset, mean: &[f64], std: &[f64]) -> Result<Figure> {
        if self.predictions.is_empty() {
            return Err(Error::argument("predictions", "at least one answer to show", 0));
        }
        let images = self.predictions.iter().map(|p| Ok(dataset.get(p.index)?.input)).collect::<Result<Vec<_>>>()?;
        let captions: Vec<String> = self
            .predictions
            .iter()
            .map(|p| {
                let was =
                    if p.is_right() { String::new() } else { told!(" (is {})", " (é {})", self.class(p.target)) };
                format!("{}{was} {:.0} %", self.class(p.predicted), 100.0 * p.confidence)
            })
            .collect();
        let right: Vec<bool> = self.predictions.iter().map(Prediction::is_right).collect();
        ImageGrid::builder(title, &Tensor::stack(&images, 0)?)
            .normalized(mean, std)
            .captions(&captions)
            .correct(&right)
            .build()
    }

    fn summary(&self) -> String {
        match self.predictions.len() {
            0 => chosen("no answers", "nenhuma resposta").to_owned(),
            count => told!("{} answers, {:.2} % right", "{} respostas, {:.2} % certas", count, 100.0 * self.accuracy()),
        }
    }

    /// What evcxr calls for a cell that ends with a report: the table of the hardest.
    pub fn evcxr_display(&self) {
        println!("{}", self.summary());
        let shown = if self.predictions.len() > 20 { self.hardest(20) } else { self.clone() };
        shown.table().evcxr_display();
    }
}

impl fmt::Display for PredictionReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.table())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::TensorDataset;
    use crate::losses::CrossEntropy;
    use crate::metrics::{Accuracy, Metric};
    use crate::training::evaluate;
    use crate::training::trainer_tests::{mlp, points};

    #[test]
    fn the_report_agrees_with_loss_and_metric() {
        let (model, _) = mlp(1);
        let loader = DataLoader::builder(points(1)).batch_size(25).build().unwrap();
        let report = PredictionReport::new(&model, &loader).unwrap();
        let mut metrics: Vec<Box<dyn Metric>> = vec![Box::new(Accuracy::default())];
        let evaluation = evaluate(&model, &CrossEntropy::default(), &loader, &mut metrics).unwrap();
        assert_eq!(report.accuracy(), evaluation.metrics[0].1);
        let mean = report.predictions().iter().map(|p| p.loss).sum::<f64>() / 60.0;
        assert!((mean - evaluation.loss).abs() < 1e-6);
        assert!(report.predictions().iter().enumerate().all(|(i, p)| p.index == i));
    }

    #[test]
    fn parts_are_ordered_and_shown_as_images() {
        // Identity: the "image" is its own logits.
        let logits = [[3f32, 0., 0., 0.], [0., 2., 0., 0.], [0., 0., 5., 0.], [1., 0., 0., 0.]];
        let x = Tensor::new(&logits, &candle_core::Device::Cpu).unwrap();
        let y = Tensor::new(&[0u32, 0, 1, 3], &candle_core::Device::Cpu).unwrap();
        let loader =
            DataLoader::builder(TensorDataset::new(x.clone(), y.clone()).unwrap()).batch_size(3).build().unwrap();
        let report = PredictionReport::new(&crate::nn::Sequential::new(), &loader).unwrap();
        let report = report.class_names(&["cat", "dog", "cow", "hen"]);
        let order = |part: PredictionReport| part.predictions().iter().map(|p| p.index).collect::<Vec<_>>();
        assert_eq!(order(report.hardest(2)), [2, 1]);
        assert_eq!(order(report.confident_mistakes(9)), [2, 1, 3]);
        assert_eq!(order(report.narrow_escapes(9)), [0]);
        let images = TensorDataset::new((x / 5.0).unwrap().reshape((4, 1, 2, 2)).unwrap(), y).unwrap();
        let figure = report.confident_mistakes(2).figure("Mistakes", &images, &[0.0], &[1.0]).unwrap();
        assert!(figure.svg().contains("cow (is dog)"), "{}", figure.svg());
        assert!(report.to_string().contains("hen"));
    }

    #[test]
    fn nan_is_no_answer_and_no_mistakes_are_no_percentage() {
        let report = |logits: [[f32; 2]; 3]| {
            let x = Tensor::new(&logits, &candle_core::Device::Cpu).unwrap();
            let y = Tensor::new(&[0u32, 1, 1], &candle_core::Device::Cpu).unwrap();
            let loader = DataLoader::builder(TensorDataset::new(x, y).unwrap()).batch_size(2).build().unwrap();
            PredictionReport::new(&crate::nn::Sequential::new(), &loader)
        };
        let perfect = report([[1., 0.], [0., 1.], [0., 1.]]).unwrap();
        assert_eq!(perfect.summary(), "3 answers, 100.00 % right");
        assert_eq!(perfect.confident_mistakes(5).summary(), "no answers");
        for row in [[f32::NAN, 0.0], [0.0, f32::NAN], [f32::NAN; 2], [f32::INFINITY; 2]] {
            let text = report([[1., 0.], [0., 1.], row]).unwrap_err().to_string();
            assert!(text.contains("numbers for example 2") && text.contains("NaN"), "{text}");
        }
    }
}
