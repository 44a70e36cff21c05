//! Predictions at their fastest: a model made ready once for running many times on a CPU.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use crate::error::{Error, Result};
use crate::onnx::ToOnnx;
use crate::onnx::parts::{Caster, caster, parts};
use crate::ops::Reading;
use plan::Plan;

mod operation;
mod plan;
#[cfg(test)]
mod tests;

/// A model in evaluation mode, made ready for a CPU: batch norms are part of the convolutions and linear layers
/// before them, ReLU is computed in their pass, weights are packed, and the buffers of one call serve the next.
///
/// What it gives differs from `model.forward_t(&xs, false)` by rounding alone. Weights are those of the moment it
/// was made: training goes on without it, and a newer one is made when it is over. It is made for images (or rows,
/// or sequences) of one size and for batches of any; it is fastest for the example's batch size, which decides how
/// convolutions are computed.
///
/// The model is a [`Sequential`](crate::nn::Sequential) of this crate's layers, a layer,
/// [`ResNet18`](crate::nn::ResNet18), or one of your own that implements [`ToOnnx`] with the graph's
/// [`apply`](crate::onnx::Graph::apply), [`relu`](crate::onnx::Graph::relu), [`add`](crate::onnx::Graph::add),
/// [`concat`](crate::onnx::Graph::concat), [`select`](crate::onnx::Graph::select) and
/// [`flatten`](crate::onnx::Graph::flatten): what can be exported so can be made ready, too. Layer and group norms,
/// upsampling and smooth activations are called as they are, and allocate as they do.
///
/// A clone shares the weights and has buffers of its own: one for each thread that serves.
///
/// # Examples
///
/// ```
/// use candle_course::inference::Inference;
/// use candle_course::prelude::*;
///
/// let parameters = Parameters::new(0, &Device::Cpu);
/// let model = Sequential::new()
///     .add(Conv2d::builder(1, 8, 3).padding(1).no_bias().build(&parameters.at("conv"))?)
///     .add(BatchNorm2d::new(8, &parameters.at("norm"))?)
///     .add(Activation::Relu)
///     .add(Flatten)
///     .add(Linear::new(8 * 28 * 28, 10, &parameters.at("fc"))?);
/// let image = Tensor::ones((1, 1, 28, 28), DType::F32, &Device::Cpu)?;
/// let mut inference = Inference::new(&model, &image)?;
/// let logits = inference.forward(&image)?;
/// let difference = (logits - model.forward_t(&image, false)?)?.abs()?.max_all()?.to_scalar::<f32>()?;
/// assert!(difference < 1e-5);
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Clone)]
pub struct Inference {
    plan: Arc<Plan>,
    buffers: Vec<Vec<f32>>,
}

/// Configures an [`Inference`].
pub struct InferenceBuilder<'a> {
    model: &'a dyn ToOnnx,
    example: &'a Tensor,
    casters: Vec<Caster>,
}

impl InferenceBuilder<'_> {
    /// A type of layer of one's own, as it occurs in a [`Sequential`](crate::nn::Sequential). May be called several
    /// times.
    #[must_use = "a setter gives the builder back"]
    pub fn layer<L: ToOnnx + 'static>(mut self) -> Self {
        self.casters.push(caster::<L>);
        self
    }

    /// The model made ready.
    ///
    /// # Errors
    /// If the example is empty, not of f32, not on the CPU or does not fit the model, a layer is of a type that is
    /// not known, or a model of one's own adds operators of ONNX by their names.
    pub fn build(self) -> Result<Inference> {
        let Self { model, example, casters } = self;
        if example.elem_count() == 0 || example.rank() == 0 {
            return Err(Error::argument("example", "shape [N, …], not empty", format!("{:?}", example.dims())));
        }
        if example.dtype() != DType::F32 {
            return Err(Error::argument("example", "dtype f32", format!("{:?}", example.dtype())));
        }
        if !matches!(example.device(), Device::Cpu) {
            return Err(Error::argument(
                "example",
                "a tensor on the CPU",
                format!("{:?}", example.device().location()),
            )
            .hint("on a GPU call the model itself under `ops::no_grad`"));
        }
        let plan = Plan::new(parts(model, example, casters)?)?;
        let buffers = vec![Vec::new(); plan.sizes.len()];
        Ok(Inference { plan: Arc::new(plan), buffers })
    }
}

impl Inference {
    /// A model made ready. `example`: an input of the size of those that will come, `[N, …]`, f32; its numbers do
    /// not matter.
    ///
    /// # Errors
    /// As [`InferenceBuilder::build`].
    pub fn new(model: &dyn ToOnnx, example: &Tensor) -> Result<Self> {
        Self::builder(model, example).build()
    }

    /// As [`Inference::new`], for models with layers of one's own in a [`Sequential`](crate::nn::Sequential).
    pub fn builder<'a>(model: &'a dyn ToOnnx, example: &'a Tensor) -> InferenceBuilder<'a> {
        InferenceBuilder { model, example, casters: Vec::new() }
    }

    /// What the model makes of `xs`, shaped as the example but for the batch. The result is a tensor of its own.
    ///
    /// # Errors
    /// If shape, dtype or device do not fit.
    pub fn forward(&mut self, xs: &Tensor) -> Result<Tensor> {
        let fits = xs.rank() > 0 && xs.dims()[1..] == *self.plan.input_dims;
        if !fits || xs.dtype() != DType::F32 || !matches!(xs.device(), Device::Cpu) {
            let expected = format!("shape [N, …] with {:?} behind N, f32, on the CPU", self.plan.input_dims);
            return Err(Error::argument("xs", expected, format!("{:?}, {:?}", xs.dims(), xs.dtype())));
        }
        let xs = xs.contiguous()?;
        let reading = Reading::of(&xs);
        let dims = [&[xs.dims()[0]], &*self.plan.output_dims].concat();
        Ok(Tensor::from_slice(self.run(reading.get()?)?, dims, &Device::Cpu)?)
    }

    /// What the model makes of a batch of numbers, one example behind the other: the output's numbers, until the next
    /// call. After the first call with the largest batch nothing is allocated.
    ///
    /// # Errors
    /// If they are not a whole number of examples.
    pub fn run(&mut self, xs: &[f32]) -> Result<&[f32]> {
        let Self { plan, buffers } = self;
        let example: usize = plan.input_dims.iter().product();
        if xs.is_empty() || !xs.len().is_multiple_of(example) {
            return Err(Error::argument("xs", format!("a multiple of the {example} numbers of an example"), xs.len()));
        }
        let batch = xs.len() / example;
        for (buffer, size) in buffers.iter_mut().zip(&plan.sizes) {
            if buffer.len() < batch * size {
                buffer.resize(batch * size, 0.0);
            }
        }
        plan.run(xs, batch, buffers)?;
        Ok(&buffers[plan.output][..batch * plan.output_dims.iter().product::<usize>()])
    }
}

impl std::fmt::Debug for Inference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Inference of {} steps", self.plan.steps.len())
    }
}
