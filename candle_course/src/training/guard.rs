//! What happens when the loss is no number.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Tensor};

use crate::checkpoint::write_weights;
use crate::data::Batch;
use crate::error::{Context, Error, Result};
use crate::nn::Parameters;
use crate::stateful::Stateful;
use crate::training::TrainState;

/// Steps between two copies of the parameters.
const INTERVAL: usize = 200;

/// Watches for inputs and losses that are not finite, and remembers weights that were.
///
/// On the CPU every batch and every loss is looked at, which costs next to nothing; on a GPU that
/// would be a synchronisation per step, so losses are looked at together, every [`INTERVAL`] steps.
/// Inputs are looked at because the loss does not always tell: candle's `relu` turns NaN into 0.
#[derive(Default)]
pub(crate) struct Guard {
    folder: Option<PathBuf>,
    finite: BTreeMap<String, Tensor>,
    finite_step: usize,
    unread: Vec<(usize, Tensor, Vec<usize>)>,
    /// The examples of the last batch.
    last: Vec<usize>,
    /// Whether the weights were set back.
    set_back: bool,
}

fn all_finite(tensor: &Tensor) -> Result<bool> {
    // The sum of absolute values is finite if all values are (and do not overflow, which is as bad).
    Ok(tensor.to_dtype(DType::F32)?.abs()?.sum_all()?.to_scalar::<f32>()?.is_finite())
}

/// The names of those that are not finite.
fn not_finite<'a>(tensors: impl Iterator<Item = (&'a String, &'a Tensor)>) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for (name, tensor) in tensors {
        if tensor.dtype().is_float() && !all_finite(tensor)? {
            names.push(format!("`{name}`"));
        }
    }
    Ok(names)
}

/// The examples of the batch whose inputs are not finite; empty if that cannot be told cheaply.
fn bad_examples(batch: &Batch) -> Result<Vec<usize>> {
    let inputs = &batch.inputs;
    if !inputs.device().is_cpu() || inputs.dtype() != DType::F32 || !inputs.is_contiguous() || batch.is_empty() {
        return Ok(Vec::new());
    }
    let (storage, layout) = inputs.storage_and_layout();
    let candle_core::Storage::Cpu(storage) = &*storage else { return Ok(Vec::new()) };
    let values = &storage.as_slice::<f32>()?[layout.start_offset()..][..inputs.elem_count()];
    // x·0 is 0 for every finite x and NaN otherwise; the sum vectorises.
    let finite = |row: &[f32]| row.iter().map(|x| x * 0.0).sum::<f32>() == 0.0;
    if finite(values) {
        return Ok(Vec::new());
    }
    let rows = values.chunks((values.len() / batch.len()).max(1));
    Ok(rows.zip(&batch.indices).filter(|(row, _)| !finite(row)).map(|(_, &index)| index).collect())
}

impl Guard {
    /// Where the last finite weights are saved when the loss is lost.
    pub(crate) fn set_folder(&mut self, folder: &Path) {
        self.folder = Some(folder.to_owned());
    }

    /// Forgets the weights of a training that is not gone on with.
    pub(crate) fn forget(&mut self) {
        *self = Self { folder: self.folder.take(), ..Self::default() };
    }

    /// Before a step: refuses inputs that are not finite, and takes a copy of the parameters now
    /// and then, if they are finite.
    pub(crate) fn before_step(&mut self, batch: &Batch, parameters: &Parameters, state: &TrainState) -> Result<()> {
        self.set_back = false;
        let bad = bad_examples(batch)?;
        if !bad.is_empty() {
            return Err(Error::training(format!(
                "the inputs of step {} (epoch {}) contain NaN or infinity, in examples {bad:?}; the weights are those after step {}",
                state.step + 1,
                state.epoch + 1,
                state.step
            ))
            .hint("look at these examples of the training set"));
        }
        if !self.finite.is_empty() && state.step < self.finite_step + INTERVAL {
            return Ok(());
        }
        let tensors = parameters.state()?;
        let lost = not_finite(tensors.iter())?;
        if !lost.is_empty() {
            let mut message = format!(
                "not finite before step {} (epoch {}, learning rate {}), though no loss told: {}",
                state.step + 1,
                state.epoch + 1,
                state.learning_rate,
                lost.join(", ")
            );
            if !self.last.is_empty() {
                message.push_str(&format!("; the last batch's examples are {:?}", self.last));
            }
            return Err(self.report(message, true, parameters)?);
        }
        (self.finite, self.finite_step) = (tensors, state.step);
        Ok(())
    }

    /// After the forward pass: an error if the loss is NaN or infinite.
    pub(crate) fn after_forward(
        &mut self,
        loss: &Tensor,
        batch: &Batch,
        state: &TrainState,
        parameters: &Parameters,
    ) -> Result<()> {
        self.unread.push((state.step + 1, loss.clone(), batch.indices.clone()));
        self.last.clone_from(&batch.indices);
        if loss.device().is_cpu() || self.unread.len() >= INTERVAL {
            return self.read(state, parameters);
        }
        Ok(())
    }

    /// Looks at all losses not yet looked at.
    pub(crate) fn read(&mut self, state: &TrainState, parameters: &Parameters) -> Result<()> {
        for (step, loss, indices) in std::mem::take(&mut self.unread) {
            let value = loss.to_dtype(DType::F32)?.to_scalar::<f32>()?;
            #[cfg(feature = "cuda")]
            if !value.is_finite()
                && let candle_core::Device::Cuda(device) = loss.device()
                && let Some(error) = crate::kernels::cuda::faults::error(device)?
            {
                return Err(error.context(format!("the loss is {value} at step {step} (examples {indices:?})")));
            }
            if !value.is_finite() {
                let mut message = format!(
                    "the loss is {value} at step {step} (epoch {}, learning rate {}); the batch's examples are {indices:?}",
                    state.epoch + 1,
                    state.learning_rate
                );
                let trainable = parameters.trainable();
                let lost = not_finite(trainable.iter().map(|(name, var)| (name, var.as_tensor())))?;
                if !lost.is_empty() {
                    message.push_str(&format!("; not finite before the step: {}", lost.join(", ")));
                }
                return Err(self.report(message, !lost.is_empty(), parameters)?);
            }
        }
        Ok(())
    }

    /// Whether the weights were set back since the training began.
    pub(crate) fn has_set_back(&self) -> bool {
        self.set_back
    }

    /// Sets the weights back to the last finite ones, and saves them; returns where.
    pub(crate) fn set_back(&mut self, parameters: &Parameters) -> Result<Option<PathBuf>> {
        if self.finite.is_empty() {
            return Ok(None);
        }
        self.set_back = true;
        parameters.clone().load_state(&self.finite)?;
        let Some(folder) = &self.folder else { return Ok(None) };
        let path = folder.join("last-finite.safetensors");
        std::fs::create_dir_all(folder)
            .map_err(Error::from)
            .and_then(|()| write_weights(&self.finite, None, &path))
            .with_context(|| format!("cannot save {}", path.display()))?;
        Ok(Some(path))
    }

    /// Sets the weights back to the last finite ones, saves them, and says so.
    fn report(&mut self, mut message: String, weights_lost: bool, parameters: &Parameters) -> Result<Error> {
        if self.finite.is_empty() {
            return Ok(Error::training(message).hint("they were so before the first step: look at the initial weights"));
        }
        let saved = self.set_back(parameters)?;
        message.push_str(&format!("; the weights were set back to those after step {}", self.finite_step));
        if let Some(path) = saved {
            message.push_str(&format!(" and saved in {}", path.display()));
        }
        Ok(Error::training(message).hint(if weights_lost {
            "the weights grew without bound: lower the learning rate, warm up, or clip gradients"
        } else {
            "the weights before the step are finite: look for a logarithm or a division in the loss, at the targets, or lower the learning rate"
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use candle_core::{Device, Tensor};

    use crate::data::{DataLoader, TensorDataset};
    use crate::error::{ErrorKind, Result};
    use crate::losses::Loss;
    use crate::nn::Parameters;
    use crate::optimizers::Sgd;
    use crate::stateful::Stateful as _;
    use crate::training::trainer_tests::{loaders, mlp, points, trainer};
    use crate::training::{Callback, Flow, Trainer, Training};

    fn poisoned(inputs: &[(usize, f32)]) -> DataLoader {
        let clean = points(1);
        let mut values = clean.inputs().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        inputs.iter().for_each(|&(example, value)| values[2 * example + 1] = value);
        let inputs = Tensor::from_vec(values, (60, 2), &Device::Cpu).unwrap();
        let data = TensorDataset::new(inputs, clean.targets().clone()).unwrap();
        DataLoader::builder(data).batch_size(20).build().unwrap()
    }

    #[test]
    fn inputs_that_are_not_finite_are_named_though_relu_hides_them() {
        let train = poisoned(&[(37, f32::NAN), (39, f32::NEG_INFINITY)]);
        let mut trainer = trainer(3).0.learning_rate(0.1).quiet().build().unwrap();
        let error = trainer.fit(&train, Some(&train)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Training);
        let text = error.to_string();
        assert!(text.contains("step 2 (epoch 1) contain NaN or infinity, in examples [37, 39]"), "{text}");
        let nan = Tensor::new(&[f32::NAN], &Device::Cpu).unwrap().relu().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(nan, [0.0], "relu no longer hides NaN: the loss alone would tell");
    }

    #[test]
    fn a_lost_loss_names_step_and_examples_and_the_weights_are_finite_again() {
        struct LogOfZero;
        impl Loss for LogOfZero {
            fn forward(&self, predictions: &Tensor, targets: &Tensor) -> Result<Tensor> {
                let first = targets.to_dtype(candle_core::DType::F32)?.sum_all()?;
                Ok(((predictions.mean_all()? * 0.0)? + first.affine(0.0, -1.0)?.log()?)?)
            }
        }
        let (model, parameters) = mlp(3);
        let train = poisoned(&[]);
        let folder = tempfile::tempdir().unwrap();
        let before = parameters.state().unwrap();
        let mut trainer = Trainer::builder(model, &parameters, LogOfZero, Sgd::new(&parameters).unwrap())
            .learning_rate(0.1)
            .last_finite_folder(folder.path())
            .quiet()
            .build()
            .unwrap();
        let text = trainer.fit(&train, None).unwrap_err().to_string();
        for part in
            ["the loss is NaN at step 1 (epoch 1", "[0, 1, 2, 3", "after step 0 and saved in", "look for a logarithm"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert_set_back_and_saved(&parameters, &before, folder.path());
    }

    /// The variables are those of `before`, and so are the saved ones.
    fn assert_set_back_and_saved(parameters: &Parameters, before: &BTreeMap<String, Tensor>, folder: &Path) {
        let saved = candle_core::safetensors::load(folder.join("last-finite.safetensors"), &Device::Cpu).unwrap();
        let values = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for (name, tensor) in parameters.state().unwrap() {
            assert_eq!(values(&tensor), values(&saved[&name]), "{name}");
            assert_eq!(values(&tensor), values(&before[&name]), "{name}");
        }
    }

    /// Loses a weight after a step; relu hides it from the loss.
    struct Loses(usize);
    impl Callback for Loses {
        fn name(&self) -> &str {
            "loses"
        }
        fn step_end(&mut self, training: &mut Training) -> Result<Flow> {
            if training.state().step == self.0 {
                let weight = training.parameters().get("0.weight").unwrap();
                weight.set(&Tensor::full(f32::NAN, weight.shape(), &Device::Cpu)?)?;
            }
            Ok(Flow::Continue)
        }
    }

    #[test]
    fn weights_lost_behind_a_finite_loss_are_named_set_back_and_saved() {
        let train = loaders().0;
        let folder = tempfile::tempdir().unwrap();
        let parameters = hiding();
        let before = parameters.state().unwrap();
        let builder = of(&parameters).epochs(100).callback(Loses(150)).last_finite_folder(folder.path());
        let mut losing = builder.build().unwrap();
        let text = losing.fit(&train, None).unwrap_err().to_string();
        let last = train.epoch(49).unwrap().last().unwrap().unwrap().indices;
        for part in [
            "not finite before step 201 (epoch 51, learning rate 0.01), though no loss told: `0.weight`",
            &format!("the last batch's examples are {last:?}"),
            "set back to those after step 0 and saved in",
            "lower the learning rate",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert_set_back_and_saved(&parameters, &before, folder.path());
        parameters.get("0.weight").unwrap().set(&Tensor::full(f32::NAN, (16, 2), &Device::Cpu).unwrap()).unwrap();
        let text = of(&parameters).build().unwrap().fit(&train, None).unwrap_err().to_string();
        assert!(text.contains("look at the initial weights"), "{text}");
    }

    /// The variables of two layers without biases.
    fn hiding() -> Parameters {
        let parameters = mlp(3).1;
        for bias in ["0.bias", "3.bias"] {
            parameters.freeze(bias).unwrap();
        }
        parameters
    }

    /// A trainer of these two layers, with candle's relu between them.
    fn of(parameters: &Parameters) -> crate::training::TrainerBuilder {
        let [first, second] = ["0.weight", "3.weight"].map(|name| parameters.get(name).unwrap());
        let model = candle_nn::func(move |xs| xs.matmul(&first.t()?)?.relu()?.matmul(&second.t()?));
        let optimizer = Sgd::new(parameters).unwrap();
        let builder = Trainer::builder(model, parameters, crate::losses::CrossEntropy::default(), optimizer);
        builder.learning_rate(0.01).quiet()
    }

    #[test]
    fn a_diverging_training_blames_the_rate() {
        let (train, validation) = loaders();
        let mut trainer = trainer(3).0.epochs(50).learning_rate(1e30).quiet().build().unwrap();
        let text = trainer.fit(&train, Some(&validation)).unwrap_err().to_string();
        assert!(text.contains("lower the learning rate"), "{text}");
    }
}
