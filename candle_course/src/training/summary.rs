//! What a model is made of.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

use candle_core::{Shape, Tensor, TensorId};

use crate::error::{Context, Result};
use crate::language::{label, told};
use crate::nn::{Model, Parameters, Sequential};
use crate::notebook::{Cell, Table};
use crate::sizes;
use crate::text::{THIN_SPACE, grouped, say};

/// One layer of a [`ModelSummary`].
#[derive(Debug, Clone, PartialEq)]
pub struct LayerSummary {
    /// The layer's place in the parameters, or its number.
    pub name: String,
    /// Its type, if known.
    pub kind: Option<String>,
    /// The shape of its output, if known.
    pub output: Option<Vec<usize>>,
    /// Its variables and their shapes.
    pub variables: Vec<(String, Vec<usize>)>,
    /// How many numbers training changes.
    pub trainable: usize,
    /// How many numbers are kept but not trained: frozen parameters and buffers.
    pub kept: usize,
}

/// What a model is made of: layers, shapes, parameters, memory.
///
/// Memory is what training needs on the device: the variables, their gradients, and the
/// activations that the backward pass needs, as they are in evaluation mode: dropout, which is
/// absent there, adds its masks (as large as its input each) in training. What an optimizer adds is a multiple of the
/// gradients: nothing for plain SGD, once with momentum, twice for Adam.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let parameters = Parameters::new(0, &Device::Cpu);
/// let model = Sequential::new()
///     .add(Linear::new(784, 128, &parameters.at("fc1"))?)
///     .add(Activation::Relu)
///     .add(Linear::new(128, 10, &parameters.at("fc2"))?);
/// let summary = ModelSummary::sequential(&model, &parameters, (64, 784))?;
/// assert_eq!(summary.trainable(), 784 * 128 + 128 + 128 * 10 + 10);
/// assert_eq!(summary.layers()[1].output.as_deref(), Some(&[64, 128][..]));
/// println!("{summary}");
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct ModelSummary {
    layers: Vec<LayerSummary>,
    input: Vec<usize>,
    output: Vec<usize>,
    variable_bytes: usize,
    gradient_bytes: usize,
    activation_bytes: usize,
}

impl ModelSummary {
    /// Any model: its layers are the places in `parameters`, without output shapes. `input` is the
    /// shape of a batch, by which the memory is measured.
    ///
    /// # Errors
    /// If the model does not take such an input.
    pub fn new(model: &dyn Model, parameters: &Parameters, input: impl Into<Shape>) -> Result<Self> {
        let trainable: Vec<String> = parameters.trainable().into_iter().map(|(name, _)| name).collect();
        let mut layers: BTreeMap<String, LayerSummary> = BTreeMap::new();
        for (name, var) in parameters.all() {
            let (place, short) = name.rsplit_once('.').unwrap_or(("", &name));
            let layer = layers.entry(place.to_owned()).or_insert_with(|| LayerSummary::empty(place));
            layer.variables.push((short.to_owned(), var.dims().to_vec()));
            let count = if trainable.contains(&name) { &mut layer.trainable } else { &mut layer.kept };
            *count += var.elem_count();
        }
        let mut layers: Vec<LayerSummary> = layers.into_values().collect();
        layers.sort_by_key(|layer| natural(&layer.name));
        Self::measure(layers, parameters, &input.into(), |xs| Ok(model.forward_t(xs, false)?))
    }

    /// A [`Sequential`]: layer by layer, with output shapes. What several layers share is counted
    /// where it is used first.
    ///
    /// # Errors
    /// As [`ModelSummary::new`].
    pub fn sequential(model: &Sequential, parameters: &Parameters, input: impl Into<Shape>) -> Result<Self> {
        let names: HashMap<TensorId, (String, usize)> =
            parameters.all().into_iter().map(|(name, var)| (var.id(), (name, var.elem_count()))).collect();
        let trainable: Vec<String> = parameters.trainable().into_iter().map(|(name, _)| name).collect();
        let buffers: Vec<String> = parameters.buffers().into_iter().map(|(name, _)| name).collect();
        let mut layers = Vec::new();
        let mut counted = HashSet::new();
        Self::measure(Vec::new(), parameters, &input.into(), |xs| {
            let mut ys = xs.clone();
            for (i, layer) in model.layers().iter().enumerate() {
                // Detached, so that only this layer's variables are found below its output.
                let alone = layer
                    .forward_t(&ys.detach(), false)
                    .with_context(|| format!("layer {i} ({}) does not take shape {:?}", layer.kind(), ys.dims()))?;
                let mut summary = LayerSummary::empty(&i.to_string());
                summary.kind = Some(layer.kind().to_owned());
                summary.output = Some(alone.dims().to_vec());
                let mut used: Vec<&String> = alone
                    .sorted_nodes()
                    .into_iter()
                    .filter_map(|node| names.get(&node.id()).map(|(name, _)| name))
                    .collect();
                // Running statistics stand outside the graph, beside the layer's parameters.
                let places: Vec<&str> = used.iter().filter_map(|name| Some(name.rsplit_once('.')?.0)).collect();
                used.extend(
                    buffers
                        .iter()
                        .filter(|name| name.rsplit_once('.').is_some_and(|(place, _)| places.contains(&place))),
                );
                used.sort_by_key(|name| natural(name));
                used.dedup();
                for name in used {
                    let Some(var) = parameters.get(name) else { continue };
                    let (place, short) = name.rsplit_once('.').unwrap_or(("", name));
                    if !place.is_empty() {
                        summary.name = place.to_owned();
                    }
                    summary.variables.push((short.to_owned(), var.dims().to_vec()));
                    // A layer that is used again has no numbers of its own.
                    if counted.insert(name.clone()) {
                        let count = if trainable.contains(name) { &mut summary.trainable } else { &mut summary.kept };
                        *count += var.elem_count();
                    }
                }
                layers.push(summary);
                ys = layer.forward_t(&ys, false)?;
            }
            Ok(ys)
        })
        .map(|summary| Self { layers, ..summary })
    }

    fn measure(
        layers: Vec<LayerSummary>,
        parameters: &Parameters,
        input: &Shape,
        forward: impl FnOnce(&Tensor) -> Result<Tensor>,
    ) -> Result<Self> {
        sizes::count_of::<f64>("input", input.dims())?;
        let xs = Tensor::zeros(input, parameters.dtype(), parameters.device())?;
        let ys =
            forward(&xs).with_context(|| format!("the model does not take an input of shape {:?}", input.dims()))?;
        let bytes = |tensor: &Tensor| tensor.elem_count() * tensor.dtype().size_in_bytes();
        let variables: Vec<TensorId> = parameters.all().iter().map(|(_, var)| var.id()).collect();
        let nodes = ys.sorted_nodes();
        let activation_bytes =
            nodes.iter().filter(|node| !variables.contains(&node.id())).map(|node| bytes(node)).sum();
        let sum = |vars: Vec<(String, candle_core::Var)>| vars.iter().map(|(_, var)| bytes(var)).sum();
        Ok(Self {
            layers,
            input: input.dims().to_vec(),
            output: ys.dims().to_vec(),
            variable_bytes: sum(parameters.all()),
            gradient_bytes: sum(parameters.trainable()),
            activation_bytes,
        })
    }

    /// The layers.
    pub fn layers(&self) -> &[LayerSummary] {
        &self.layers
    }

    /// How many numbers training changes.
    pub fn trainable(&self) -> usize {
        self.layers.iter().map(|layer| layer.trainable).sum()
    }

    /// The shape of the output for this input.
    pub fn output(&self) -> &[usize] {
        &self.output
    }

    /// Bytes of the variables, of their gradients, and of the tensors kept for the backward pass of
    /// one batch (views of the same memory counted once each: an upper bound).
    pub fn bytes(&self) -> (usize, usize, usize) {
        (self.variable_bytes, self.gradient_bytes, self.activation_bytes)
    }

    /// A row for every layer.
    pub fn table(&self) -> Table {
        let mut table = Table::new(["layer", "type", "output", "variables", "trainable", "kept"].map(label));
        for layer in &self.layers {
            let variables: Vec<String> =
                layer.variables.iter().map(|(name, shape)| format!("{name} {shape:?}")).collect();
            table.push((
                layer.name.clone(),
                layer.kind.clone().unwrap_or_else(|| "–".to_owned()),
                layer.output.as_ref().map_or_else(|| "–".to_owned(), |shape| format!("{shape:?}")),
                variables.join(", "),
                Cell::number(grouped(layer.trainable, THIN_SPACE)),
                Cell::number(grouped(layer.kept, THIN_SPACE)),
            ));
        }
        table
    }

    fn totals(&self) -> String {
        let kept: usize = self.layers.iter().map(|layer| layer.kept).sum();
        told!(
            "{} trainable numbers, {} kept; input {:?}, output {:?}\nmemory: variables {}, gradients {}, activations for backward at most {}",
            "{} números treináveis, {} mantidos; entrada {:?}, saída {:?}\nmemória: variáveis {}, gradientes {}, ativações para o backward no máximo {}",
            grouped(self.trainable(), THIN_SPACE),
            grouped(kept, THIN_SPACE),
            self.input,
            self.output,
            megabytes(self.variable_bytes),
            megabytes(self.gradient_bytes),
            megabytes(self.activation_bytes)
        )
    }

    /// What evcxr calls for a cell that ends with a summary: the table, and the totals as text.
    pub fn evcxr_display(&self) {
        say(self.totals());
        self.table().evcxr_display();
    }
}

impl LayerSummary {
    fn empty(name: &str) -> Self {
        Self { name: name.to_owned(), kind: None, output: None, variables: Vec::new(), trainable: 0, kept: 0 }
    }
}

/// A name in parts, numbers as numbers: `conv2` stands before `conv10`.
fn natural(name: &str) -> Vec<Result<u64, String>> {
    let letters: Vec<char> = name.chars().collect();
    let parts = letters.chunk_by(|a, b| a.is_ascii_digit() == b.is_ascii_digit());
    let text = parts.map(|part| part.iter().collect::<String>());
    text.map(|text| text.parse().map_err(|_| text)).collect()
}

fn megabytes(bytes: usize) -> String {
    match bytes as f64 {
        b if b < 1e6 => format!("{:.1} kB", b / 1e3),
        b if b < 1e9 => format!("{:.1} MB", b / 1e6),
        b => format!("{:.1} GB", b / 1e9),
    }
}

impl fmt::Display for ModelSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}{}", self.table(), self.totals())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::training::trainer_tests::mlp;

    #[test]
    fn both_ways_count_the_same() {
        let (model, parameters) = mlp(1);
        parameters.freeze("0").unwrap();
        let by_layer = ModelSummary::sequential(&model, &parameters, (32, 2)).unwrap();
        let by_place = ModelSummary::new(&model, &parameters, (32, 2)).unwrap();
        assert_eq!(by_layer.trainable(), 16 * 3 + 3);
        assert_eq!(by_layer.trainable(), by_place.trainable());
        assert_eq!(by_layer.bytes(), by_place.bytes());
        assert_eq!(by_layer.bytes().0, 4 * (2 * 16 + 16 + 16 * 3 + 3));
        assert_eq!(by_layer.bytes().1, 4 * (16 * 3 + 3));
        // At least the outputs of both linear layers are kept.
        assert!(by_layer.bytes().2 >= 4 * 32 * (16 + 3));
        assert_eq!(by_layer.output(), [32, 3]);
        let first = &by_layer.layers()[0];
        assert_eq!((first.name.as_str(), first.kind.as_deref(), first.kept), ("0", Some("Linear"), 48));
        assert_eq!(by_layer.layers()[2].kind.as_deref(), Some("Dropout"));
        let text = by_layer.to_string();
        assert!(text.contains("bias [16], weight [16, 2]") && text.contains("51 trainable numbers, 48 kept"), "{text}");
        let wrong = ModelSummary::sequential(&model, &parameters, (32, 5)).unwrap_err().to_string();
        assert!(wrong.contains("layer 0 (Linear) does not take shape [32, 5]"), "{wrong}");
    }

    #[test]
    fn a_shared_layer_is_counted_once() {
        let parameters = Parameters::new(1, &candle_core::Device::Cpu);
        let shared = crate::nn::Linear::new(4, 4, &parameters.at("shared")).unwrap();
        let norm = crate::nn::BatchNorm1d::new(4, &parameters.at("norm")).unwrap();
        let model = Sequential::new().add(shared.clone()).add(norm.clone()).add(shared.clone()).add(norm).add(shared);
        let by_layer = ModelSummary::sequential(&model, &parameters, (3, 4)).unwrap();
        let by_place = ModelSummary::new(&model, &parameters, (3, 4)).unwrap();
        let kept = |summary: &ModelSummary| summary.layers().iter().map(|layer| layer.kept).sum::<usize>();
        assert_eq!((by_layer.trainable(), kept(&by_layer)), (20 + 8, 9));
        assert_eq!((by_place.trainable(), kept(&by_place)), (20 + 8, 9));
        assert_eq!(by_layer.layers().len(), 5);
        assert_eq!((by_layer.layers()[2].trainable, by_layer.layers()[2].variables.len()), (0, 2));
    }

    #[test]
    fn the_tenth_layer_comes_after_the_second() {
        let parameters = Parameters::new(1, &candle_core::Device::Cpu);
        let mut model = Sequential::new();
        for i in 1..=11 {
            model = model.add(crate::nn::Linear::new(2, 2, &parameters.at(format!("block.fc{i}"))).unwrap());
        }
        let summary = ModelSummary::new(&model, &parameters, (1, 2)).unwrap();
        let names: Vec<&str> = summary.layers().iter().map(|layer| layer.name.as_str()).collect();
        assert_eq!(names, (1..=11).map(|i| format!("block.fc{i}")).collect::<Vec<_>>());
    }
}
