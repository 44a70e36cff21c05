//! Batch norm folded into the layer before it.

use std::collections::BTreeMap;

use candle_core::{DType, Tensor};

use crate::error::{Error, Result};

/// Weights for a model without the batch norm: in evaluation it is an affine map per channel, and
/// so can be part of the convolution (or linear layer) before it.
///
/// With scale s = γ / √(σ² + ε): weight ← s · weight, bias ← s · (bias − μ) + β. Gone from the
/// result are `{batch_norm}.*`; `{layer}.bias` is in it, also if the layer had none. Only for
/// inference: in training, batch norm uses the batch's own statistics.
///
/// `epsilon` is the layer's ε, 10⁻⁵ by default in PyTorch and here.
///
/// # Errors
/// If a tensor is missing or its shape does not fit.
///
/// # Examples
///
/// ```
/// use std::collections::BTreeMap;
/// use candle_course::prelude::*;
///
/// let tensor = |values: &[f32], shape: &[usize]| Tensor::from_slice(values, shape, &Device::Cpu);
/// let weights = BTreeMap::from([
///     ("conv.weight".to_owned(), tensor(&[2.0], &[1, 1, 1, 1])?),
///     ("bn.weight".to_owned(), tensor(&[3.0], &[1])?),
///     ("bn.bias".to_owned(), tensor(&[1.0], &[1])?),
///     ("bn.running_mean".to_owned(), tensor(&[0.5], &[1])?),
///     ("bn.running_var".to_owned(), tensor(&[4.0], &[1])?),
/// ]);
/// let folded = fold_batch_norm(&weights, "conv", "bn", 0.0)?;
/// assert_eq!(folded["conv.weight"].flatten_all()?.to_vec1::<f32>()?, [3.0]);
/// assert_eq!(folded["conv.bias"].to_vec1::<f32>()?, [0.25]);
/// # Ok::<(), candle_course::Error>(())
/// ```
pub fn fold_batch_norm(
    weights: &BTreeMap<String, Tensor>,
    layer: &str,
    batch_norm: &str,
    epsilon: f64,
) -> Result<BTreeMap<String, Tensor>> {
    let names = ["weight", "bias", "running_mean", "running_var"].map(|part| format!("{batch_norm}.{part}"));
    let weight_name = format!("{layer}.weight");
    let missing: Vec<&str> =
        names.iter().chain([&weight_name]).filter(|name| !weights.contains_key(*name)).map(String::as_str).collect();
    if !missing.is_empty() {
        let known: Vec<&str> = weights.keys().map(String::as_str).collect();
        return Err(Error::argument(
            "weights",
            format!("`{}`", missing.join("`, `")),
            format!("[{}]", known.join(", ")),
        ));
    }
    let weight = &weights[&weight_name];
    let dtype = weight.dtype();
    let channels = weight.dims().first().copied().unwrap_or(0);
    for name in &names {
        if weights[name].dims() != [channels] {
            return Err(Error::argument(
                name,
                format!("shape [{channels}], the output channels of `{layer}`"),
                format!("{:?}", weights[name].dims()),
            ));
        }
    }
    // In f64: the scale multiplies every weight.
    let wide = |tensor: &Tensor| tensor.to_dtype(DType::F64);
    let [gamma, beta, mean, variance] = [
        wide(&weights[&names[0]])?,
        wide(&weights[&names[1]])?,
        wide(&weights[&names[2]])?,
        wide(&weights[&names[3]])?,
    ];
    let scale = (gamma / (variance + epsilon)?.sqrt()?)?;
    let mut shape = vec![1; weight.rank()];
    shape[0] = channels;
    let folded = wide(weight)?.broadcast_mul(&scale.reshape(shape)?)?;
    let bias = match weights.get(&format!("{layer}.bias")) {
        Some(bias) => (wide(bias)? - mean)?,
        None => mean.neg()?,
    };
    let bias = ((bias * scale)? + beta)?;
    let mut result: BTreeMap<String, Tensor> = weights
        .iter()
        .filter(|(name, _)| !name.strip_prefix(batch_norm).is_some_and(|rest| rest.starts_with('.')))
        .map(|(name, tensor)| (name.clone(), tensor.clone()))
        .collect();
    result.insert(weight_name, folded.to_dtype(dtype)?);
    result.insert(format!("{layer}.bias"), bias.to_dtype(dtype)?);
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Generator;
    use candle_core::Device;

    #[test]
    fn the_folded_convolution_gives_the_same_numbers() {
        let mut generator = Generator::new(2);
        let mut random = |shape: &[usize], offset: f64| {
            let count = shape.iter().product();
            let values: Vec<f64> = (0..count).map(|_| generator.uniform() + offset).collect();
            Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
        };
        let mut weights = BTreeMap::from([
            ("c.weight".to_owned(), random(&[4, 3, 3, 3], -0.5)),
            ("c.bias".to_owned(), random(&[4], -0.5)),
            ("cb.weight".to_owned(), random(&[4], 0.5)),
            ("cb.bias".to_owned(), random(&[4], -0.5)),
            ("cb.running_mean".to_owned(), random(&[4], -0.5)),
            ("cb.running_var".to_owned(), random(&[4], 0.1)),
        ]);
        let xs = random(&[2, 3, 6, 6], -0.5);
        for _ in 0..2 {
            let column = |name: &str| weights[name].reshape((1, 4, 1, 1)).unwrap();
            let mut ys = xs.conv2d(&weights["c.weight"], 1, 1, 1, 1).unwrap();
            if weights.contains_key("c.bias") {
                ys = ys.broadcast_add(&column("c.bias")).unwrap();
            }
            let centered = ys.broadcast_sub(&column("cb.running_mean")).unwrap();
            let deviation = (column("cb.running_var") + 1e-5).unwrap().sqrt().unwrap();
            let normed = centered.broadcast_div(&deviation).unwrap().broadcast_mul(&column("cb.weight")).unwrap();
            let expected = normed.broadcast_add(&column("cb.bias")).unwrap();

            let folded = fold_batch_norm(&weights, "c", "cb", 1e-5).unwrap();
            assert_eq!(folded.keys().collect::<Vec<_>>(), ["c.bias", "c.weight"]);
            let bias = folded["c.bias"].reshape((1, 4, 1, 1)).unwrap();
            let got = xs.conv2d(&folded["c.weight"], 1, 1, 1, 1).unwrap().broadcast_add(&bias).unwrap();
            let difference = (got - expected).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f64>().unwrap();
            assert!(difference < 1e-12, "{difference}");
            // Once more, for a layer without bias.
            weights.remove("c.bias");
        }
    }

    #[test]
    fn missing_and_misfitting_tensors_are_named() {
        let tensor = |count: usize| Tensor::ones(count, DType::F32, &Device::Cpu).unwrap();
        let mut weights = BTreeMap::from([("c.weight".to_owned(), tensor(2))]);
        let text = fold_batch_norm(&weights, "c", "bn", 1e-5).unwrap_err().to_string();
        assert!(text.contains("`bn.weight`, `bn.bias`, `bn.running_mean`, `bn.running_var`"), "{text}");
        for part in ["weight", "bias", "running_mean", "running_var"] {
            weights.insert(format!("bn.{part}"), tensor(3));
        }
        let text = fold_batch_norm(&weights, "c", "bn", 1e-5).unwrap_err().to_string();
        assert!(text.contains("`bn.weight`: expected shape [2], the output channels of `c`, got [3]"), "{text}");
    }
}
