//! Whether the gradients of a model are those of its loss.

use candle_core::backprop::GradStore;
use candle_core::{DType, Tensor, Var};

use crate::data::{Batch, DataLoader};
use crate::error::{Context, Error, Result, always};
use crate::losses::Loss;
use crate::nn::{Model, Parameters};
use crate::random::Generator;
use crate::stateful::Stateful as _;
use crate::training::Training;

/// So many examples of the batch are looked at.
const EXAMPLES: usize = 4;
/// Parameters are looked at together, in so many groups, unless one group is suspicious.
const GROUPS: usize = 24;
/// Steps along the gradient, in parts of a parameter's size: the first is the most exact where the
/// loss is smooth, the last where it bends soon.
const STEPS: [f64; 3] = [1e-2, 3e-3, 1e-3];
/// How far a difference may be from what the gradient says, in parts of the larger.
const TOLERANCE: f64 = 0.1;
/// Names that a message gives at most.
const NAMED: usize = 8;

/// Compares the gradients of a model with differences of its loss, and names the parameters for which
/// candle drops the gradient or gets it wrong.
///
/// At most 4 examples of the batch are looked at, in evaluation mode, with two to six passes forward
/// for every group of parameters. Parameters, buffers and generators are afterwards what they were.
/// What is compared is the slope along the gradient, to 10 %: enough for a branch that is cut off or a
/// factor that is missing. A slope that the loss's own rounding hides is passed over.
///
/// The trainer does this before the first step if the model was built from a `VarBuilder` or `VarMap`.
///
/// # Errors
/// If a parameter that training is to change receives no gradient, in training mode and in evaluation
/// mode; if a gradient is not the loss's; if candle cannot go back through an operation; or if shapes
/// do not fit. The message says what is to blame, as far as that can be told, and what to use instead.
///
/// # Examples
///
/// candle's own max pooling gives a gradient that is too small:
///
/// ```
/// use candle_course::prelude::*;
/// use candle_course::training::check_gradients;
///
/// let parameters = Parameters::new(0, &Device::Cpu);
/// let convolution = Conv2d::new(1, 4, 3, &parameters.at("conv"))?;
/// let model = candle_nn::func(move |xs| xs.apply(&convolution)?.max_pool2d(2)?.flatten_from(1)?.mean_keepdim(1));
/// let xs = Tensor::arange(0f32, 144., &Device::Cpu)?.sin()?.reshape((4, 1, 6, 6))?;
/// let batch = TensorDataset::new(xs, Tensor::ones((4, 1), DType::F32, &Device::Cpu)?)?.batch(&[0, 1, 2, 3])?;
/// let error = check_gradients(&model, &Mse::default(), &parameters, &batch).unwrap_err().to_string();
/// assert!(error.contains("`conv.weight` (the loss changes 4.0 times as fast") || error.contains("`conv.weight` (the loss changes 3.9 times as fast"));
/// # Ok::<(), candle_course::Error>(())
/// ```
pub fn check_gradients(model: &dyn Model, loss: &dyn Loss, parameters: &Parameters, batch: &Batch) -> Result<()> {
    let count = batch.len().min(EXAMPLES);
    let batch = Batch {
        inputs: batch.inputs.narrow(0, 0, count)?,
        targets: batch.targets.narrow(0, 0, count)?,
        indices: batch.indices[..count].to_vec(),
    };
    let value = |train: bool| -> Result<Tensor> {
        let predictions = model.forward_t(&batch.inputs, train)?;
        loss.forward(&predictions, &batch.targets)
    };
    let gradients = backward(&value(false)?)?;
    let lost = parameters.missing_gradients(&gradients);
    if !lost.is_empty() {
        // A part that only training uses.
        let training = restored(parameters, || backward(&value(true)?))?;
        let lost: Vec<String> =
            parameters.missing_gradients(&training).into_iter().filter(|name| lost.contains(name)).collect();
        if !lost.is_empty() {
            return Err(no_gradient(&lost));
        }
    }
    let slopes: Vec<Slope> = parameters
        .trainable()
        .into_iter()
        .filter_map(|(name, var)| Some(Slope::new(name, gradients.get(&var)?, var)).transpose().transpose())
        .collect::<Result<_>>()?;
    let slopes: Vec<&Slope> = slopes.iter().filter(|slope| slope.expected > 0.0).collect();
    let forward = || Ok(value(false)?.to_dtype(DType::F64)?.to_scalar::<f64>()?);
    let mut wrong = Vec::new();
    for group in slopes.chunks(slopes.len().div_ceil(GROUPS).max(1)) {
        if found(group, &forward)?.is_wrong() {
            for &slope in group {
                if let Found::Wrong(factor) = found(&[slope], &forward)? {
                    wrong.push((slope.name.as_str(), factor));
                }
            }
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong_gradient(&wrong)) }
}

fn backward(loss: &Tensor) -> Result<GradStore> {
    loss.backward().map_err(|error| {
        Error::from(error).context("candle cannot go back through the model").hint(
            "the operations of `candle_course::ops` can (max pooling of any stride, bilinear upsampling, transposed \
             convolution); a part that is not to be trained is left out by `Bridge::builder(…).frozen(\"…\")`",
        )
    })
}

/// Does `work`; what training mode changes in buffers and generators is put back.
fn restored<T>(parameters: &Parameters, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let state = parameters.state()?;
    let generators: Vec<(_, Generator)> =
        parameters.generators().into_iter().map(|(_, shared)| (shared.clone(), shared.lock().clone())).collect();
    always(
        &mut parameters.clone(),
        |_| work(),
        |parameters| {
            generators.into_iter().for_each(|(shared, before)| *shared.lock() = before);
            parameters.load_state(&state)
        },
    )
}

/// A parameter, and the way its gradient points.
struct Slope {
    name: String,
    var: Var,
    before: Tensor,
    /// As long as the parameter.
    direction: Tensor,
    /// How fast the loss grows that way, says the gradient.
    expected: f64,
    /// Differences of half precision tell nothing.
    exact: bool,
}

impl Slope {
    fn new(name: String, gradient: &Tensor, var: Var) -> Result<Self> {
        let norm = |tensor: &Tensor| -> Result<f64> {
            Ok(tensor.to_dtype(DType::F64)?.sqr()?.sum_all()?.to_scalar::<f64>()?.sqrt())
        };
        let (length, steepness) = (norm(&var)?, norm(gradient)?);
        // A parameter that begins at 0 has no size to go by.
        let length = length.max(0.01 * (var.elem_count() as f64).sqrt());
        let usable = steepness.is_finite() && steepness > 0.0 && length.is_finite();
        let direction = if usable { (gradient * (length / steepness))? } else { gradient.zeros_like()? };
        let expected = if usable { length * steepness } else { 0.0 };
        let exact = matches!(var.dtype(), DType::F32 | DType::F64);
        Ok(Self { before: var.copy()?.detach(), direction: direction.detach(), expected, exact, name, var })
    }

    fn set(&self, step: f64) -> Result<()> {
        Ok(self.var.set(&(&self.before + (&self.direction * step)?)?)?)
    }
}

/// What differences say.
enum Found {
    Right,
    /// The loss is too coarse for it.
    Hidden,
    /// The loss changes so many times as fast as the gradient says.
    Wrong(f64),
}

impl Found {
    fn is_wrong(&self) -> bool {
        matches!(self, Self::Wrong(_))
    }
}

/// Goes along the gradients of these parameters, all at once.
fn found(group: &[&Slope], forward: &dyn Fn() -> Result<f64>) -> Result<Found> {
    let expected: f64 = group.iter().map(|slope| slope.expected).sum();
    if group.iter().any(|slope| !slope.exact) {
        return Ok(Found::Hidden);
    }
    let mut result = Found::Hidden;
    for step in STEPS {
        let at = |step: f64| {
            group.iter().try_for_each(|slope| slope.set(step))?;
            forward()
        };
        let (above, below) = always(
            &mut (),
            |()| Ok((at(step)?, at(-step)?)),
            |()| group.iter().try_for_each(|slope| Ok(slope.var.set(&slope.before)?)),
        )?;
        let slope = (above - below) / (2.0 * step);
        // An f32 forward pass rounds many times; of f64 there is more than enough.
        let coarse = 64.0 * f64::from(f32::EPSILON) * above.abs().max(below.abs()) / step;
        let larger = slope.abs().max(expected);
        if !slope.is_finite() || coarse > 0.5 * TOLERANCE * larger {
            continue;
        }
        if (slope - expected).abs() <= TOLERANCE * larger {
            return Ok(Found::Right);
        }
        result = Found::Wrong(slope / expected);
    }
    Ok(result)
}

/// At most [`NAMED`] of them.
fn list(names: &[String]) -> String {
    let more = if names.len() > NAMED { format!(" and {} more", names.len() - NAMED) } else { String::new() };
    names.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ") + &more
}

fn no_gradient(lost: &[String]) -> Error {
    let norms: Vec<String> = lost.iter().filter_map(|name| norm_of(name)).map(|norm| format!("`{norm}`")).collect();
    let quoted: Vec<String> = lost.iter().map(|name| format!("`{name}`")).collect();
    let mut message = format!(
        "{} of the parameters to be trained receive{} no gradient: {}",
        lost.len(),
        if lost.len() == 1 { "s" } else { "" },
        list(&quoted)
    );
    if !norms.is_empty() {
        let mut norms = norms;
        norms.dedup();
        message
            .push_str(&format!("; candle's own norms pass no gradient on, and these look like some: {}", list(&norms)));
    }
    Error::training(message).hint(
        "candle drops gradients in the fused operations of candle_nn (LayerNorm with a bias, RmsNorm, \
         ops::softmax_last_dim, rotary_emb::rope): build the model's file with \
         `use candle_course::nn::trainable as candle_nn;`, which has them all with gradients; \
         freeze what the model does not use, or is not to train",
    )
}

/// The layer that a parameter is of, if that is called like a norm.
fn norm_of(name: &str) -> Option<&str> {
    let (layer, _) = name.rsplit_once('.')?;
    let last = layer.rsplit('.').next()?.to_ascii_lowercase();
    (last.contains("norm") || last.starts_with("ln")).then_some(layer)
}

fn wrong_gradient(wrong: &[(&str, f64)]) -> Error {
    let described: Vec<String> = wrong
        .iter()
        .map(|(name, factor)| format!("`{name}` (the loss changes {factor:.1} times as fast as the gradient says)"))
        .collect();
    let error = Error::training(format!("the gradient is not the loss's for {}", list(&described)));
    if wrong.iter().all(|(_, factor)| factor.abs() < 0.05) {
        return error.hint(
            "the loss does not depend on these: did the model make a copy of the variable when it was built \
             (`contiguous`, `to_dtype`)? Do that in `forward`",
        );
    }
    error.hint(
        "candle's `max_pool2d` gives gradients too small by the number of pixels in a window, `upsample_nearest2d` \
         those of one pixel, and its fused norms and softmax none: use those of `candle_course::ops` and \
         `candle_course::nn::trainable`, or turn this check off by `.unchecked_gradients()`",
    )
}

impl Training {
    /// Looks at the gradients of a model that is not of this crate's layers, before its first step.
    pub(super) fn check_foreign(&self, train: &DataLoader) -> Result<()> {
        if !self.parameters.is_foreign() || self.state.step > 0 || self.state.batch > 0 {
            return Ok(());
        }
        let unmatched = self.parameters.unmatched_patterns();
        if !unmatched.is_empty() {
            let names: Vec<String> = self.parameters.all().into_iter().map(|(name, _)| name).collect();
            return Err(Error::argument(
                "pattern",
                format!("names out of [{}]", names.join(", ")),
                format!("`{}`, which no variable has", unmatched.join("`, `")),
            )
            .hint("`Bridge::builder(…)` was given it"));
        }
        if !self.checks_gradients {
            return Ok(());
        }
        let Some(batch) = train.epoch_from(self.state.epoch, 0)?.next().transpose()? else { return Ok(()) };
        // In f32, whatever the training multiplies in: differences of reduced precision tell nothing.
        check_gradients(&*self.model, &*self.loss, &self.parameters, &batch).context(
            "the training cannot begin: the model was built from candle's own layers, and its gradients were checked",
        )
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, ModuleT};
    use candle_nn::VarBuilder;

    use super::*;
    use crate::data::{Dataset as _, TensorDataset};
    use crate::error::ErrorKind;
    use crate::losses::{CrossEntropy, Mse};
    use crate::nn::{Activation, BatchNorm2d, Bridge, Conv2d, Dropout, Flatten, Linear, Sequential, trainable};
    use crate::optimizers::Sgd;
    use crate::training::Trainer;

    fn data(shape: (usize, usize, usize, usize), outputs: usize) -> TensorDataset {
        let count = shape.0 * shape.1 * shape.2 * shape.3;
        let xs = Tensor::arange(0f32, count as f32, &Device::Cpu).unwrap().affine(1.7, 0.3).unwrap().sin().unwrap();
        let ys = Tensor::arange(0f32, (shape.0 * outputs) as f32, &Device::Cpu).unwrap().sin().unwrap();
        TensorDataset::new(xs.reshape(shape).unwrap(), ys.reshape((shape.0, outputs)).unwrap()).unwrap()
    }

    /// What a check of this model on 6 × 6 images says, and a test that it left everything as it was.
    fn verdict(parameters: &Parameters, model: &dyn Model, outputs: usize) -> Result<()> {
        let state = |parameters: &Parameters| -> Vec<(String, Vec<f64>)> {
            let numbers =
                |tensor: Tensor| tensor.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1().unwrap();
            parameters.state().unwrap().into_iter().map(|(name, tensor)| (name, numbers(tensor))).collect()
        };
        let generators = |parameters: &Parameters| -> Vec<Vec<u8>> {
            parameters.generators().iter().map(|(_, generator)| generator.lock().to_bytes()).collect()
        };
        let before = (state(parameters), generators(parameters));
        let batch = data((6, 1, 6, 6), outputs).batch(&[0, 1, 2, 3, 4, 5]).unwrap();
        let result = check_gradients(model, &Mse::default(), parameters, &batch);
        assert_eq!(before, (state(parameters), generators(parameters)));
        result
    }

    #[test]
    fn a_right_model_passes_with_batch_norm_dropout_and_relu() {
        let parameters = Parameters::new(3, &Device::Cpu);
        let model = Sequential::new()
            .add(Conv2d::new(1, 8, 3, &parameters.at("0")).unwrap())
            .add(BatchNorm2d::new(8, &parameters.at("1")).unwrap())
            .add(Activation::Relu)
            .add(crate::nn::MaxPool2d::new(2).unwrap())
            .add(Flatten)
            .add(Dropout::new(0.5, &parameters.at("5")).unwrap())
            .add(Linear::new(32, 3, &parameters.at("6")).unwrap());
        verdict(&parameters, &model, 3).unwrap();
    }

    #[test]
    fn candles_max_pooling_is_found_out() {
        let parameters = Parameters::new(3, &Device::Cpu);
        let builder = parameters.var_builder();
        let conv = candle_nn::conv2d(1, 8, 3, Default::default(), builder.pp("conv")).unwrap();
        let head = candle_nn::linear(32, 3, builder.pp("head")).unwrap();
        let pooled = candle_nn::func(move |xs| xs.apply(&conv)?.max_pool2d(2)?.flatten_from(1)?.apply(&head));
        let text = verdict(&parameters, &pooled, 3).unwrap_err().to_string();
        assert!(text.contains("`conv.weight` (the loss changes ") && text.contains("`conv.bias`"), "{text}");
        assert!(!text.contains("head") && text.contains("candle_course::ops"), "{text}");

        let parameters = Parameters::new(3, &Device::Cpu);
        let conv = candle_nn::conv2d(1, 2, 3, Default::default(), parameters.var_builder()).unwrap();
        let strided =
            candle_nn::func(move |xs| xs.apply(&conv)?.max_pool2d_with_stride(3, 1)?.flatten_from(1)?.narrow(1, 0, 3));
        let text = verdict(&parameters, &strided, 3).unwrap_err().to_string();
        assert!(text.contains("candle cannot go back through the model") && text.contains("frozen"), "{text}");
    }

    /// A block with a norm of candle's or of ours.
    fn normed(builder: VarBuilder<'static>, ours: bool) -> impl ModuleT + Send + Sync + 'static {
        let first = candle_nn::linear(36, 8, builder.pp("first")).unwrap();
        let last = candle_nn::linear(8, 3, builder.pp("last")).unwrap();
        let fused = candle_nn::layer_norm(8, 1e-5, builder.pp("norm")).unwrap();
        let whole = trainable::layer_norm(8, 1e-5, builder.pp("norm")).unwrap();
        candle_nn::func(move |xs| {
            let xs = xs.flatten_from(1)?.apply(&first)?;
            let ys = if ours { xs.apply(&whole)? } else { xs.apply(&fused)? };
            (ys + xs)?.apply(&last)
        })
    }

    #[test]
    fn a_fused_norm_is_named_and_its_substitute_passes() {
        let parameters = Parameters::new(3, &Device::Cpu);
        let text = verdict(&parameters, &normed(parameters.var_builder(), false), 3).unwrap_err().to_string();
        assert!(
            text.contains("2 of the parameters to be trained receive no gradient: `norm.bias`, `norm.weight`"),
            "{text}"
        );
        assert!(text.contains("look like some: `norm`") && text.contains("nn::trainable as candle_nn"), "{text}");
        verdict(&parameters, &normed(parameters.var_builder(), true), 3).unwrap();

        // Frozen, the norm hides that what lies before it is trained by a part of its gradient.
        parameters.freeze("norm").unwrap();
        let text = verdict(&parameters, &normed(parameters.var_builder(), false), 3).unwrap_err().to_string();
        assert!(text.contains("the gradient is not the loss's for `first.bias`"), "{text}");
    }

    #[test]
    fn a_copy_of_a_variable_and_one_that_is_not_used_are_found_out() {
        let parameters = Parameters::new(3, &Device::Cpu);
        let weight =
            parameters.var_builder().get_with_hints((3, 36), "weight", candle_nn::init::DEFAULT_KAIMING_NORMAL);
        let transposed = weight.unwrap().t().unwrap().contiguous().unwrap();
        let stale = candle_nn::func(move |xs| xs.flatten_from(1)?.matmul(&transposed));
        let text = verdict(&parameters, &stale, 3).unwrap_err().to_string();
        assert!(text.contains("`weight`") && text.contains("make a copy of the variable"), "{text}");

        let parameters = Parameters::new(3, &Device::Cpu);
        let builder = parameters.var_builder();
        let used = candle_nn::linear(36, 3, builder.pp("used")).unwrap();
        candle_nn::linear(36, 3, builder.pp("idle")).unwrap();
        let model = candle_nn::func(move |xs| xs.flatten_from(1)?.apply(&used));
        let text = verdict(&parameters, &model, 3).unwrap_err().to_string();
        assert!(text.contains("`idle.bias`, `idle.weight`") && !text.contains("look like"), "{text}");
    }

    #[test]
    fn what_only_training_uses_is_not_blamed() {
        struct Twofold(candle_nn::Linear, candle_nn::Linear, BatchNorm2d, Dropout);
        impl ModuleT for Twofold {
            fn forward_t(&self, xs: &Tensor, train: bool) -> candle_core::Result<Tensor> {
                let flat = self.2.forward_t(xs, train)?.flatten_from(1)?;
                let ys = flat.apply(&self.0)?;
                if train { ys + self.3.forward_t(&flat, true)?.apply(&self.1)? } else { Ok(ys) }
            }
        }
        let parameters = Parameters::new(3, &Device::Cpu);
        let builder = parameters.var_builder();
        let linear = |name: &str| candle_nn::linear(36, 3, builder.pp(name)).unwrap();
        let norm = BatchNorm2d::new(1, &parameters.at("norm")).unwrap();
        let drop = Dropout::new(0.5, &parameters.at("drop")).unwrap();
        verdict(&parameters, &Twofold(linear("always"), linear("in_training"), norm, drop), 3).unwrap();
    }

    #[test]
    fn the_trainer_refuses_foreign_models_that_cannot_be_trained_before_the_first_step() {
        let train = DataLoader::builder(data((8, 1, 6, 6), 3)).batch_size(4).build().unwrap();
        let trainer = |parameters: &Parameters, ours: bool| {
            let model = normed(parameters.var_builder(), ours);
            let optimizer = Sgd::new(parameters).unwrap();
            Trainer::builder(model, parameters, Mse::default(), optimizer).learning_rate(0.01).quiet()
        };
        let parameters = Parameters::new(3, &Device::Cpu);
        let mut refused = trainer(&parameters, false).build().unwrap();
        let error = refused.fit(&train, None).unwrap_err();
        assert_eq!((error.kind(), refused.state().step), (ErrorKind::Training, 0));
        let text = error.to_string();
        assert!(text.contains("the training cannot begin") && text.contains("`norm.weight`"), "{text}");

        // Turned off, the optimizer is the one to notice what receives nothing at all.
        let parameters = Parameters::new(3, &Device::Cpu);
        let text = trainer(&parameters, false).unchecked_gradients().build().unwrap().fit(&train, None).unwrap_err();
        assert!(text.to_string().contains("received no gradient"), "{text}");

        let parameters = Parameters::new(3, &Device::Cpu);
        trainer(&parameters, true).build().unwrap().fit(&train, None).unwrap();

        let parameters = Parameters::new(3, &Device::Cpu);
        let bridge = Bridge::builder(&parameters.root()).buffer("*.position_ids").frozen("frist").build().unwrap();
        let model = normed(bridge.var_builder(), true);
        let optimizer = Sgd::new(&parameters).unwrap();
        let builder = Trainer::builder(model, &parameters, Mse::default(), optimizer).learning_rate(0.01).quiet();
        let text = builder.build().unwrap().fit(&train, None).unwrap_err().to_string();
        assert!(
            text.contains("`*.position_ids`, `frist`, which no variable has") && text.contains("first.bias"),
            "{text}"
        );
    }

    #[test]
    fn who_forgot_the_bridge_is_told_of_it() {
        let text = |error: Error| error.to_string();
        let empty = Parameters::new(0, &Device::Cpu);
        let optimizer = text(Sgd::new(&empty).err().unwrap());
        let full = Parameters::new(0, &Device::Cpu);
        let model = Linear::new(2, 2, &full.at("fc")).unwrap();
        let optimizer_of_full = Sgd::new(&full).unwrap();
        let trainer = Trainer::builder(model, &empty, CrossEntropy::default(), optimizer_of_full).learning_rate(0.1);
        for text in [optimizer, text(trainer.build().err().unwrap())] {
            assert!(text.contains("parameters.var_builder()") && text.contains(".adopt(&map)"), "{text}");
        }
    }
}
