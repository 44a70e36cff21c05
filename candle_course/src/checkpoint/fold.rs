//! Batch norm folded into the layer before it.

use std::collections::BTreeMap;

use candle_core::{DType, Tensor};

use crate::error::{Error, Result};

/// Weights for a model without the batch norm: in evaluation it is an affine map per channel, and
/// so can be part of the convolution (or linear layer) before it. A transposed convolution has its
/// channels elsewhere, which its weight does not tell: use [`fold_batch_norm_transposed`].
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
    fold(weights, layer, batch_norm, epsilon, None)
}

/// [`fold_batch_norm`] for a transposed convolution of so many groups, whose weight is
/// `[in, out / groups, …]`.
///
/// # Errors
/// If a tensor is missing, its shape does not fit, or the groups do not divide the channels.
///
/// # Examples
///
/// ```
/// use std::collections::BTreeMap;
/// use candle_course::prelude::*;
///
/// let tensor = |values: &[f32], shape: &[usize]| Tensor::from_slice(values, shape, &Device::Cpu);
/// let weights = BTreeMap::from([
///     ("up.weight".to_owned(), tensor(&[1.0, 2.0, 3.0, 4.0], &[2, 2, 1, 1])?),
///     ("bn.weight".to_owned(), tensor(&[10.0, 100.0], &[2])?),
///     ("bn.bias".to_owned(), tensor(&[0.0, 0.0], &[2])?),
///     ("bn.running_mean".to_owned(), tensor(&[0.0, 0.0], &[2])?),
///     ("bn.running_var".to_owned(), tensor(&[1.0, 1.0], &[2])?),
/// ]);
/// let folded = fold_batch_norm_transposed(&weights, "up", "bn", 1, 0.0)?;
/// assert_eq!(folded["up.weight"].flatten_all()?.to_vec1::<f32>()?, [10.0, 200.0, 30.0, 400.0]);
/// # Ok::<(), candle_course::Error>(())
/// ```
pub fn fold_batch_norm_transposed(
    weights: &BTreeMap<String, Tensor>,
    layer: &str,
    batch_norm: &str,
    groups: usize,
    epsilon: f64,
) -> Result<BTreeMap<String, Tensor>> {
    fold(weights, layer, batch_norm, epsilon, Some(groups))
}

/// `groups`: of a transposed convolution.
fn fold(
    weights: &BTreeMap<String, Tensor>,
    layer: &str,
    batch_norm: &str,
    epsilon: f64,
    groups: Option<usize>,
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
    let size = |dim: usize| weight.dims().get(dim).copied().unwrap_or(0);
    if groups.is_some_and(|groups| groups == 0 || weight.rank() < 3 || !size(0).is_multiple_of(groups)) {
        let of = format!("a divisor of the {} input channels of `{layer}`", size(0));
        return Err(Error::argument("groups", of, groups.unwrap_or(0)));
    }
    let channels = groups.map_or(size(0), |groups| size(1) * groups);
    for name in &names {
        if weights[name].dims() != [channels] {
            let error = Error::argument(
                name,
                format!("shape [{channels}], the output channels of `{layer}`"),
                format!("{:?}", weights[name].dims()),
            );
            return Err(match weight.rank() > 2 && groups.is_none() && weights[name].dims() == [size(1)] {
                true => error.hint("a transposed convolution wants `fold_batch_norm_transposed`"),
                false => error,
            });
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
    let folded = match groups {
        None => {
            let mut shape = vec![1; weight.rank()];
            shape[0] = channels;
            wide(weight)?.broadcast_mul(&scale.reshape(shape)?)?
        }
        Some(groups) => {
            let by_group = wide(weight)?.reshape((groups, size(0) / groups, size(1), ()))?;
            by_group.broadcast_mul(&scale.reshape((groups, 1, size(1), 1))?)?.reshape(weight.dims())?
        }
    };
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
    use candle_core::{Device, Module, ModuleT};

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
    fn the_folded_transposed_convolution_gives_the_same_numbers() {
        // As many inputs as outputs, and fewer; one group and two.
        for (inputs, outputs, groups) in [(4, 4, 1), (4, 6, 2), (4, 4, 2), (2, 6, 2), (3, 5, 1)] {
            let parameters = crate::nn::Parameters::new(inputs as u64, &Device::Cpu);
            let up = crate::nn::ConvTranspose2d::builder(inputs, outputs, 3).stride(2).groups(groups);
            let up = up.build(&parameters.at("up")).unwrap();
            let norm = crate::nn::BatchNorm2d::new(outputs, &parameters.at("norm")).unwrap();
            let xs = Tensor::randn(0f32, 1.0, (8, inputs, 5, 5), &Device::Cpu).unwrap();
            (0..30).for_each(|_| drop(norm.forward_t(&up.forward(&xs).unwrap(), true).unwrap()));
            let weights: BTreeMap<_, _> =
                parameters.all().into_iter().map(|(name, var)| (name, var.as_detached_tensor())).collect();
            let expected = norm.forward_t(&up.forward(&xs).unwrap(), false).unwrap();
            let folded = fold_batch_norm_transposed(&weights, "up", "norm", groups, 1e-5).unwrap();
            for name in ["weight", "bias"] {
                parameters.get(&format!("up.{name}")).unwrap().set(&folded[&format!("up.{name}")]).unwrap();
            }
            let difference = (up.forward(&xs).unwrap() - expected).unwrap().abs().unwrap().max_all().unwrap();
            let difference = difference.to_scalar::<f32>().unwrap();
            assert!(difference < 1e-5, "{inputs} {outputs} {groups}: {difference}");
            if outputs != inputs {
                let text = fold_batch_norm(&weights, "up", "norm", 1e-5).unwrap_err().to_string();
                assert!(text.contains("fold_batch_norm_transposed") || groups > 1, "{text}");
            }
            assert!(fold_batch_norm_transposed(&weights, "up", "norm", 7, 1e-5).is_err());
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
