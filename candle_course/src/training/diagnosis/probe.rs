//! Activations and gradients of every layer.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::{DType, Device, ModuleT, Tensor, Var};

use crate::data::Batch;
use crate::error::{Error, Result, always};
use crate::language::{label, told};
use crate::losses::Loss;
use crate::nn::{Model, Parameters, Sequential};
use crate::notebook::Table;
use crate::plot::{BarChart, Figure, Panels, compact};
use crate::stateful::Stateful;
use crate::text::say;

/// Looks into a model. Layers to look at are marked by [`Probe::watch`] in the model's `forward`,
/// or by [`Probe::sequential`] around a [`Sequential`]. Outside of [`Probe::inspect`] it costs nothing.
///
/// The gradient by an activation is had by adding a variable of zeros to it, so a probe works with
/// every operation on every device.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let parameters = Parameters::new(1, &Device::Cpu);
/// let model = Sequential::new()
///     .add(Linear::new(2, 8, &parameters.at("fc1"))?)
///     .add(Activation::Relu)
///     .add(Linear::new(8, 3, &parameters.at("fc2"))?);
/// let data = TensorDataset::new(Tensor::ones((4, 2), DType::F32, &Device::Cpu)?, Tensor::zeros(4, DType::U32, &Device::Cpu)?)?;
/// let probe = Probe::new();
/// let watched = probe.sequential(&model);
/// let report = probe.inspect(&watched, &parameters, &CrossEntropy::default(), &data.batch(&[0, 1, 2, 3])?)?;
/// assert_eq!(report.layers().len(), 3);
/// assert_eq!(report.layers()[1].name, "1 Activation");
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Clone, Default)]
pub struct Probe(Arc<Mutex<Recorder>>);

#[derive(Default)]
struct Recorder {
    recording: bool,
    taps: Vec<(String, Tensor, Var)>,
}

impl fmt::Debug for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Probe")
    }
}

impl Probe {
    /// A probe that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    fn recorder(&self) -> MutexGuard<'_, Recorder> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes `activation` on; while an inspection runs, it is recorded under `name`.
    ///
    /// # Errors
    /// If memory is short.
    pub fn watch(&self, name: &str, activation: &Tensor) -> candle_core::Result<Tensor> {
        let mut recorder = self.recorder();
        if !recorder.recording {
            return Ok(activation.clone());
        }
        let tap = Var::from_tensor(&activation.zeros_like()?)?;
        let watched = (activation + tap.as_tensor())?;
        recorder.taps.push((name.to_owned(), activation.detach(), tap));
        Ok(watched)
    }

    /// The same layers, each watched under its number and type: `0 Linear`.
    pub fn sequential(&self, model: &Sequential) -> Sequential {
        model.layers().iter().enumerate().fold(Sequential::new(), |watched, (i, layer)| {
            let name = format!("{i} {}", layer.kind());
            watched.add(Watched { layer: layer.clone(), name, probe: self.clone() })
        })
    }

    /// One forward and backward pass in training mode, looked into. Leaves no trace: parameters do
    /// not move, running statistics and generators are set back.
    ///
    /// Not while the same model is trained on another thread (by
    /// [`Trainer::fit_in_background`](crate::training::Trainer::fit_in_background)): setting back
    /// would undo the steps made meanwhile. Stop that training first, or give
    /// [`TensorBoard`](crate::training::callbacks::TensorBoard) the probe: it looks between the steps.
    ///
    /// # Errors
    /// If the model watches nothing, or the passes fail.
    pub fn inspect(
        &self,
        model: &dyn Model,
        parameters: &Parameters,
        loss: &dyn Loss,
        batch: &Batch,
    ) -> Result<LayerReport> {
        let before = parameters.state()?;
        let generators: Vec<_> =
            parameters.generators().into_iter().map(|(_, shared)| (shared.clone(), shared.lock().clone())).collect();
        *self.recorder() = Recorder { recording: true, taps: Vec::new() };
        let mut taps = Vec::new();
        let pass = always(
            &mut taps,
            |_| Ok(loss.forward(&model.forward_t(&batch.inputs, true)?, &batch.targets)?.backward()?),
            |taps| {
                *taps = std::mem::take(&mut *self.recorder()).taps;
                generators.into_iter().for_each(|(shared, state)| *shared.lock() = state);
                parameters.clone().load_state(&before)
            },
        );
        let gradients = pass.map_err(|error: Error| error.context("the inspected pass failed"))?;
        if taps.is_empty() {
            return Err(Error::argument("model", "at least one watched layer", 0).hint(
                "call `probe.watch(\"name\", &xs)?` in forward, or wrap a Sequential by `probe.sequential(&model)`",
            ));
        }
        let layers = taps
            .into_iter()
            .map(|(name, activation, tap)| LayerStatistics::new(name, &activation, gradients.get(tap.as_tensor())))
            .collect::<Result<_>>()?;
        Ok(LayerReport { layers })
    }
}

struct Watched {
    layer: Arc<dyn Model>,
    name: String,
    probe: Probe,
}

impl ModuleT for Watched {
    fn forward_t(&self, xs: &Tensor, train: bool) -> candle_core::Result<Tensor> {
        self.probe.watch(&self.name, &self.layer.forward_t(xs, train)?)
    }
}

/// What passed through one layer.
#[derive(Debug, Clone)]
pub struct LayerStatistics {
    /// The name it was watched under.
    pub name: String,
    /// The activation's shape.
    pub shape: Vec<usize>,
    /// The activation's mean.
    pub mean: f64,
    /// The activation's standard deviation.
    pub std: f64,
    /// The share of exact zeros.
    pub zeros: f64,
    /// Units (channels of dimension 1) that are zero for the whole batch.
    pub dead: usize,
    /// How many units there are.
    pub units: usize,
    /// The root mean square of the gradient by the activation; `None` if the loss does not depend on it.
    pub gradient_rms: Option<f64>,
    /// The activation, f32 on the CPU, for a histogram.
    pub activation: Tensor,
    /// The gradient by the activation, f32 on the CPU.
    pub gradient: Option<Tensor>,
}

impl LayerStatistics {
    fn new(name: String, activation: &Tensor, gradient: Option<&Tensor>) -> Result<Self> {
        let on_cpu = |tensor: &Tensor| tensor.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.contiguous();
        let activation = on_cpu(activation)?;
        let gradient = gradient.map(on_cpu).transpose()?;
        let values: Vec<f32> = activation.flatten_all()?.to_vec1()?;
        let count = values.len().max(1) as f64;
        let mean = values.iter().map(|&x| f64::from(x)).sum::<f64>() / count;
        let variance = values.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / count;
        let zeros = values.iter().filter(|&&x| x == 0.0).count() as f64 / count;
        let shape = activation.dims().to_vec();
        let units = if shape.len() >= 2 { shape[1] } else { 1 };
        let positions: usize = shape.iter().skip(2).product();
        let mut alive = vec![false; units];
        for (i, &x) in values.iter().enumerate() {
            alive[i / positions % units] |= x != 0.0;
        }
        let gradient_rms = match &gradient {
            Some(gradient) => Some(gradient.to_dtype(DType::F64)?.sqr()?.mean_all()?.to_scalar::<f64>()?.sqrt()),
            None => None,
        };
        let dead = alive.iter().filter(|&&alive| !alive).count();
        Ok(Self { name, shape, mean, std: variance.sqrt(), zeros, dead, units, gradient_rms, activation, gradient })
    }
}

/// Activations and gradients, layer by layer, of one batch.
#[derive(Debug, Clone)]
pub struct LayerReport {
    layers: Vec<LayerStatistics>,
}

impl LayerReport {
    /// The layers, from input to output.
    pub fn layers(&self) -> &[LayerStatistics] {
        &self.layers
    }

    /// What is remarkable, in words; empty if nothing is.
    ///
    /// Remarked: layers where more than a tenth of the units are dead, gradients that shrink or
    /// grow more than a thousandfold between two layers, activations that hardly vary, layers
    /// without a gradient.
    pub fn findings(&self) -> Vec<String> {
        let mut findings = Vec::new();
        for layer in &self.layers {
            let name = &layer.name;
            if layer.dead * 10 > layer.units {
                findings.push(told!(
                    "{}: {} of {} units are dead, 0 for all {} examples; lower the learning rate, look at the initial values, or use a leaky activation",
                    "{}: {} de {} unidades estão mortas, 0 para todos os {} exemplos; diminua a taxa de aprendizado, examine os valores iniciais ou use uma ativação com vazamento (leaky)",
                    name,
                    layer.dead,
                    layer.units,
                    layer.shape.first().unwrap_or(&1)
                ));
            } else if layer.std < 1e-4 {
                findings.push(told!(
                    "{}: activations hardly vary (standard deviation {})",
                    "{}: as ativações quase não variam (desvio-padrão {})",
                    name,
                    compact(layer.std)
                ));
            }
            if layer.gradient_rms.is_none_or(|rms| rms == 0.0) {
                findings.push(told!("{}: no gradient arrives here", "{}: nenhum gradiente chega aqui", name));
            }
        }
        let reached: Vec<(&str, f64)> = self
            .layers
            .iter()
            .filter_map(|layer| Some((layer.name.as_str(), layer.gradient_rms.filter(|&rms| rms > 0.0)?)))
            .collect();
        if let (Some((first, first_rms)), Some((last, last_rms))) = (reached.first(), reached.last()) {
            let ratio = first_rms / last_rms;
            if ratio < 1e-3 {
                findings.push(told!(
                    "gradients vanish: from {} back to {} they shrink to {}; use ReLU, normalisation, skip connections or better initial values",
                    "os gradientes desaparecem: de {} até {} encolhem para {}; use ReLU, normalização, skip connections ou valores iniciais melhores",
                    last,
                    first,
                    compact(ratio)
                ));
            } else if ratio > 1e3 {
                findings.push(told!(
                    "gradients explode: from {} back to {} they grow {} times; clip them, normalise, or lower the initial values",
                    "os gradientes explodem: de {} até {} crescem {} vezes; corte-os, normalize ou diminua os valores iniciais",
                    last,
                    first,
                    compact(ratio)
                ));
            }
        }
        findings
    }

    /// A row for every layer.
    pub fn table(&self) -> Table {
        let mut table = Table::new(["layer", "shape", "mean", "std", "zeros", "dead units", "gradient rms"].map(label));
        for layer in &self.layers {
            table.push((
                layer.name.clone(),
                format!("{:?}", layer.shape),
                layer.mean,
                layer.std,
                format!("{:.1} %", 100.0 * layer.zeros),
                told!("{} of {}", "{} de {}", layer.dead, layer.units),
                layer.gradient_rms,
            ));
        }
        table
    }

    /// Standard deviation, share of dead units and gradient of every layer, as bars.
    ///
    /// # Errors
    /// If a value is not finite.
    pub fn figure(&self) -> Result<Figure> {
        let names: Vec<&str> = self.layers.iter().map(|layer| layer.name.as_str()).collect();
        let bars = |title: &str, y: &str, value: fn(&LayerStatistics) -> f64| {
            let values: Vec<f64> = self.layers.iter().map(value).collect();
            BarChart::builder(label(title))
                .y_label(label(y))
                .categories(&names)
                .bars("", &values)
                .horizontal()
                .numbers(false)
                .build()
        };
        Panels::builder(3)
            .add(bars("Activations", "standard deviation", |layer| layer.std)?)
            .add(bars("Dead units", "share", |layer| layer.dead as f64 / layer.units as f64)?)
            .add(bars("Gradients", "log₁₀ of the root mean square", |layer| {
                layer.gradient_rms.unwrap_or(0.0).max(1e-12).log10()
            })?)
            .build()
    }

    /// What evcxr calls for a cell that ends with a report: the table, and the findings as text.
    pub fn evcxr_display(&self) {
        self.findings().iter().for_each(say);
        self.table().evcxr_display();
    }
}

impl fmt::Display for LayerReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.table())?;
        self.findings().iter().try_for_each(|finding| writeln!(f, "{finding}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Dataset as _;
    use crate::losses::CrossEntropy;
    use crate::nn::{Activation, Linear};
    use crate::training::forward_backward;
    use crate::training::trainer_tests::{mlp, points};

    #[test]
    fn the_gradient_by_an_activation_is_right_and_nothing_is_left_behind() {
        let (model, parameters) = mlp(5);
        let batch = points(1).batch(&(0..60).collect::<Vec<_>>()).unwrap();
        let loss = CrossEntropy::default();
        let probe = Probe::new();
        let watched = probe.sequential(&model);
        let before = parameters.generators()[0].1.lock().clone();
        let report = probe.inspect(&watched, &parameters, &loss, &batch).unwrap();
        assert_eq!(*parameters.generators()[0].1.lock(), before);
        // The gradient by the logits of the mean cross-entropy is (softmax − one-hot) / N; and the
        // bias of the last layer gets its sum over examples.
        let backward = forward_backward(&model, &loss, &batch).unwrap();
        let bias = backward.gradients.get(&parameters.get("3.bias").unwrap()).unwrap().to_vec1::<f32>().unwrap();
        let by_logits = report.layers()[3].gradient.clone().unwrap().sum(0).unwrap().to_vec1::<f32>().unwrap();
        for (a, b) in bias.iter().zip(&by_logits) {
            assert!((a - b).abs() < 1e-6, "{bias:?} {by_logits:?}");
        }
        let dropout = &report.layers()[2];
        assert!(dropout.zeros > report.layers()[1].zeros, "dropout adds zeros");
        assert_eq!(report.layers()[1].shape, [60, 16]);
        let plain = watched.forward_t(&batch.inputs, false).unwrap();
        let same = model.forward_t(&batch.inputs, false).unwrap();
        assert_eq!(plain.to_vec2::<f32>().unwrap(), same.to_vec2::<f32>().unwrap());
    }

    #[test]
    fn dead_units_and_vanishing_gradients_are_told() {
        let parameters = Parameters::new(1, &Device::Cpu);
        let first = Linear::new(2, 10, &parameters.at("fc1")).unwrap();
        let bias: Vec<f32> = (0..10).map(|i| if i < 4 { -100.0 } else { 0.1 }).collect();
        first.bias().unwrap().set(&Tensor::new(bias, &Device::Cpu).unwrap()).unwrap();
        let mut model = Sequential::new().add(first).add(Activation::Relu);
        for i in 0..12 {
            model =
                model.add(Linear::new(10, 10, &parameters.at(format!("deep{i}"))).unwrap()).add(Activation::Sigmoid);
        }
        let model = model.add(Linear::new(10, 3, &parameters.at("head")).unwrap());
        let batch = points(1).batch(&(0..60).collect::<Vec<_>>()).unwrap();
        let probe = Probe::new();
        let report = probe.inspect(&probe.sequential(&model), &parameters, &CrossEntropy::default(), &batch).unwrap();
        assert!(report.layers()[1].dead >= 4);
        let findings = report.findings().join("\n");
        assert!(findings.contains("1 Activation:") && findings.contains("units are dead"), "{findings}");
        assert!(findings.contains("gradients vanish"), "{findings}");
        assert!(report.to_string().contains("gradient rms"));
        assert!(report.figure().unwrap().svg().contains("Dead units"));
        let error = probe.inspect(&model, &parameters, &CrossEntropy::default(), &batch).unwrap_err().to_string();
        assert!(error.contains("at least one watched layer"), "{error}");
    }
}
