//! Batch norms into the convolutions before them.

use std::collections::HashMap;

use super::graph::Graph;
use super::proto::{Constant, Node};

/// f32 numbers of a constant.
fn numbers(constant: &Constant) -> Option<Vec<f32>> {
    if constant.data_type != 1 {
        return None;
    }
    let (chunks, _) = constant.raw_data.as_chunks::<4>();
    Some(chunks.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
}

fn constant(name: String, dims: Vec<i64>, values: &[f64]) -> Constant {
    let raw_data = values.iter().flat_map(|&value| (value as f32).to_le_bytes()).collect();
    Constant { dims, data_type: 1, name, raw_data }
}

/// Folds every batch norm whose only input is a convolution that nobody else listens to: w′ = w γ / √(σ² + ε),
/// b′ = (b − μ) γ / √(σ² + ε) + β.
pub(super) fn fold_batch_norms(graph: &mut Graph, output: &mut String) {
    let mut listeners: HashMap<String, usize> = HashMap::new();
    for input in graph.nodes.iter().flat_map(|node| &node.inputs).chain([&*output]) {
        *listeners.entry(input.clone()).or_default() += 1;
    }
    let mut index = 0;
    while index < graph.nodes.len() {
        let Some((convolution, weight, bias)) = folding(graph, index, &listeners) else {
            index += 1;
            continue;
        };
        let norm = graph.nodes.remove(index);
        let node = &mut graph.nodes[convolution];
        node.inputs.truncate(1);
        node.inputs.extend([weight.name.clone(), bias.name.clone()]);
        let (old, new) = (&norm.outputs[0], node.outputs[0].clone());
        if output == old {
            output.clone_from(&new);
        }
        let inputs = graph.nodes.iter_mut().flat_map(|node| &mut node.inputs);
        inputs.filter(|input| *input == old).for_each(|input| input.clone_from(&new));
        if let Some(count) = listeners.remove(old) {
            listeners.insert(new, count);
        }
        graph.constants.extend([weight, bias]);
    }
    // What no operator reads any more.
    let nodes = &graph.nodes;
    graph.constants.retain(|constant| nodes.iter().any(|node| node.inputs.contains(&constant.name)));
}

/// Weight and bias of a layer with the batch norm behind it, `[γ, β, μ, σ²]`, in f64; the weight's first
/// dimension is the channels.
pub(crate) fn folded(
    weight: &[f32],
    bias: Option<&[f32]>,
    [gamma, beta, mean, variance]: &[Vec<f32>; 4],
    epsilon: f64,
) -> (Vec<f64>, Vec<f64>) {
    let of_channel = |values: &[f32], channel: usize| f64::from(values[channel]);
    let scale = |channel| of_channel(gamma, channel) / (of_channel(variance, channel) + epsilon).sqrt();
    let size = weight.len() / gamma.len();
    let new_weight = weight.iter().enumerate().map(|(i, &value)| f64::from(value) * scale(i / size)).collect();
    let new_bias = |channel| {
        let bias = bias.map_or(0.0, |bias| of_channel(bias, channel));
        (bias - of_channel(mean, channel)) * scale(channel) + of_channel(beta, channel)
    };
    (new_weight, (0..gamma.len()).map(new_bias).collect())
}

/// The convolution that the norm at `index` goes into, with its new weight and bias.
fn folding(graph: &mut Graph, index: usize, listeners: &HashMap<String, usize>) -> Option<(usize, Constant, Constant)> {
    let norm = graph.nodes[index].clone();
    if norm.operator != "BatchNormalization" || listeners.get(&norm.inputs[0]) != Some(&1) {
        return None;
    }
    let place = graph.nodes.iter().position(|node| node.outputs[0] == norm.inputs[0])?;
    let convolution: Node = graph.nodes[place].clone();
    if convolution.operator != "Conv" {
        return None;
    }
    let find = |name: &str| graph.constants.iter().find(|constant| constant.name == name);
    let values = |name: &str| numbers(find(name)?);
    let epsilon = f64::from(norm.attributes.iter().find(|attribute| attribute.name == "epsilon")?.float?);
    let [gamma, beta, mean, variance] = [1, 2, 3, 4].map(|i| values(&norm.inputs[i]));
    let weight = find(&convolution.inputs[1])?;
    let (dims, old_weight) = (weight.dims.clone(), numbers(weight)?);
    let old_bias = match convolution.inputs.get(2) {
        Some(name) => Some(values(name)?),
        None => None,
    };
    let norm = [gamma?, beta?, mean?, variance?];
    let (new_weight, new_bias) = folded(&old_weight, old_bias.as_deref(), &norm, epsilon);
    let base = convolution.inputs[1].strip_suffix(".weight").unwrap_or("convolution").to_owned();
    let names = ["weight", "bias"].map(|part| graph.free_name(&format!("{base}.folded.{part}")));
    let [weight_name, bias_name] = names;
    let count = new_bias.len() as i64;
    Some((place, constant(weight_name, dims, &new_weight), constant(bias_name, vec![count], &new_bias)))
}
