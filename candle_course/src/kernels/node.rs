//! An operation whose value was computed beforehand, as a node of candle's graph.
//!
//! candle's own custom operations compute when they are applied, hand out one output and come in
//! three traits. With the value at hand first, an operation may have further outputs (places of
//! maxima, statistics), and one type serves any device and any number of inputs.

use std::sync::Mutex;

use candle_core::op::BackpropOp;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, CustomOp2, CustomOp3, DType, Device, Layout, Result, Shape, Storage, Tensor,
};

use super::simd::Element;
use super::tape;
use crate::error::{Error, ErrorKind};

/// Numbers and their shape, on any device, not yet a tensor.
pub struct Value {
    storage: Storage,
    shape: Shape,
}

impl Value {
    /// Contiguous numbers on the CPU.
    pub fn cpu<T: Element>(values: Vec<T>, shape: impl Into<Shape>) -> Self {
        let shape = shape.into();
        debug_assert_eq!(values.len(), shape.elem_count());
        Self { storage: Storage::Cpu(T::to_cpu_storage_owned(values)), shape }
    }

    /// A copy of the numbers of a tensor that owns its storage.
    pub fn of(xs: &Tensor) -> Result<Self> {
        let (storage, layout) = xs.storage_and_layout();
        if layout.contiguous_offsets() != Some((0, xs.elem_count())) {
            candle_core::bail!("internal error: a value was given as part of a tensor");
        }
        Ok(Self { storage: storage.try_clone(layout)?, shape: xs.shape().clone() })
    }

    /// Some f32, shape `[]`.
    pub(super) fn unspecified(device: &Device) -> Result<Self> {
        match device {
            #[cfg(feature = "cuda")]
            Device::Cuda(cuda) => {
                Ok(super::cuda::runtime::value(cuda, super::cuda::runtime::alloc::<f32>(cuda, 1)?, ()))
            }
            _ => Self::of(&Tensor::zeros((), DType::F32, device)?),
        }
    }

    /// Contiguous numbers on a CUDA device.
    #[cfg(feature = "cuda")]
    pub fn cuda(storage: CudaStorage, shape: impl Into<Shape>) -> Self {
        Self { storage: Storage::Cuda(storage), shape: shape.into() }
    }

    /// The tensor of these numbers, without a graph.
    pub fn tensor(self) -> Tensor {
        Tensor::from_storage(self.storage, self.shape, BackpropOp::none(), false)
    }
}

/// The gradients of the inputs, in their order; `None` where none is wanted.
pub type Gradients = Result<Vec<Option<Tensor>>>;

/// From the inputs, the output and its gradient to the gradients of the inputs.
type OfInputs = dyn Fn(&[&Tensor], &Tensor, &Tensor) -> Gradients + Send + Sync;

/// From the output's gradient, and which inputs want theirs, to the gradients of the inputs.
type OfKept = dyn Fn(&[bool], &Tensor) -> Gradients + Send + Sync;

/// How an operation goes backwards.
pub(super) enum Backward {
    /// Inputs and output are looked at again.
    Inputs(Box<OfInputs>),
    /// With what the function itself has kept.
    Kept(Box<OfKept>),
}

struct Node {
    name: &'static str,
    value: Mutex<Option<Value>>,
    backward: Backward,
}

impl Node {
    fn take(&self) -> Result<Value> {
        let value = self.value.lock().map_err(|_| candle_core::Error::Msg(format!("{} panicked", self.name)))?.take();
        value.ok_or_else(|| candle_core::Error::Msg(format!("internal error: {} was applied twice", self.name)))
    }

    fn cpu(&self) -> Result<(CpuStorage, Shape)> {
        match self.take()? {
            Value { storage: Storage::Cpu(storage), shape } => Ok((storage, shape)),
            _ => candle_core::bail!("internal error: {} has its value on another device", self.name),
        }
    }

    fn cuda(&self) -> Result<(CudaStorage, Shape)> {
        match self.take()? {
            Value { storage: Storage::Cuda(storage), shape } => Ok((storage, shape)),
            _ => candle_core::bail!("internal error: {} has its value on another device", self.name),
        }
    }

    fn gradients<const N: usize>(&self, inputs: [&Tensor; N], ys: &Tensor, dy: &Tensor) -> Result<[Option<Tensor>; N]> {
        let dy = incoming(dy, self.name)?;
        let gradients = match &self.backward {
            Backward::Inputs(backward) => backward(&inputs, ys, &dy)?,
            Backward::Kept(backward) => backward(&inputs.map(|input| input.track_op()), &dy)?,
        };
        gradients.try_into().map_err(|_| candle_core::Error::Msg(format!("internal error: gradients of {}", self.name)))
    }
}

impl CustomOp1 for Node {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.cpu()
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        self.cuda()
    }

    fn bwd(&self, x: &Tensor, ys: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let [dx] = self.gradients([x], ys, dy)?;
        Ok(dx)
    }
}

impl CustomOp2 for Node {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.cpu()
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        self.cuda()
    }

    fn bwd(&self, a: &Tensor, b: &Tensor, ys: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok(self.gradients([a, b], ys, dy)?.into())
    }
}

impl CustomOp3 for Node {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.cpu()
    }

    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.cuda()
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        c: &Tensor,
        ys: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        Ok(self.gradients([a, b, c], ys, dy)?.into())
    }
}

/// The tensor of `value` that depends on one to three `inputs`.
///
/// `backward` is given the inputs, the output and its gradient (contiguous, on the same device),
/// and gives the gradients of the inputs in their order; inputs that do not
/// [`track_op`](Tensor::track_op) want none.
pub fn node(
    name: &'static str,
    inputs: &[&Tensor],
    value: Value,
    backward: impl Fn(&[&Tensor], &Tensor, &Tensor) -> Gradients + Send + Sync + 'static,
) -> Result<Tensor> {
    with_backward(name, inputs, value, Backward::Inputs(Box::new(backward)))
}

/// [`node`] of an operation that itself keeps what its backward pass needs: on a tape, neither its
/// inputs nor its output live until then.
///
/// `backward` is given which inputs want a gradient, and the gradient of the output. It must not hold
/// the output, which would then hold itself.
#[cfg_attr(not(any(test, feature = "cuda")), allow(dead_code))] // the CPU's operations look at their inputs again
pub fn keeping(
    name: &'static str,
    inputs: &[&Tensor],
    value: Value,
    backward: impl Fn(&[bool], &Tensor) -> Gradients + Send + Sync + 'static,
) -> Result<Tensor> {
    with_backward(name, inputs, value, Backward::Kept(Box::new(backward)))
}

fn with_backward(name: &'static str, inputs: &[&Tensor], value: Value, backward: Backward) -> Result<Tensor> {
    if tape::is_without_graph() || !inputs.iter().any(|input| input.track_op()) {
        return Ok(value.tensor());
    }
    if tape::is_recording() {
        // A leaf to candle: the tape knows where it comes from.
        let output = Tensor::from_storage(value.storage, value.shape, BackpropOp::none(), true);
        tape::record(name, inputs, &output, backward);
        return Ok(output);
    }
    let node = Node { name, value: Mutex::new(Some(value)), backward };
    match inputs {
        [a] => a.apply_op1(node),
        [a, b] => a.apply_op2(b, node),
        [a, b, c] => a.apply_op3(b, c, node),
        _ => candle_core::bail!("internal error: {name} has {} inputs", inputs.len()),
    }
}

/// The gradient that comes into a backward pass, contiguous (it may be broadcast).
///
/// # Errors
/// If candle is asked to track gradients through backward passes: what our kernels compute there
/// would silently be missing from second derivatives.
pub fn incoming(gradient: &Tensor, op: &'static str) -> Result<Tensor> {
    let keeps_graph = std::env::var("CANDLE_GRAD_DO_NOT_DETACH").is_ok_and(|value| !value.is_empty() && value != "0");
    if keeps_graph || gradient.track_op() {
        return Err(Error::new(
            ErrorKind::Tensor,
            format!("`{op}` has no gradient of its gradient: second derivatives through it cannot be computed"),
        )
        .hint("unset CANDLE_GRAD_DO_NOT_DETACH, or build the function from candle's own operations")
        .into());
    }
    gradient.contiguous()
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Var;

    #[test]
    fn a_node_has_its_value_and_the_gradients_of_one_to_three_inputs() {
        let variables: Vec<Var> = (1..4).map(|i| Var::new(&[i as f32, 2.0], &Device::Cpu).unwrap()).collect();
        for count in 1..=3 {
            let inputs: Vec<&Tensor> = variables[..count].iter().map(|v| v.as_tensor()).collect();
            let value = Value::cpu(vec![7f32, 8.0], 2);
            let ys = node("probe", &inputs, value, |inputs, ys, dy| {
                inputs.iter().map(|x| Some((*x * ys)? * dy).transpose()).collect()
            })
            .unwrap();
            assert_eq!(ys.to_vec1::<f32>().unwrap(), [7.0, 8.0]);
            let gradients = (ys * 3.0).unwrap().sum_all().unwrap().backward().unwrap();
            for (i, variable) in variables.iter().enumerate() {
                let found = gradients.get(variable).map(|g| g.to_vec1::<f32>().unwrap());
                let expected = (i < count).then(|| vec![(i as f32 + 1.0) * 21.0, 48.0]);
                assert_eq!(found, expected, "{count} inputs");
            }
        }
        let untracked = Tensor::new(&[1f32], &Device::Cpu).unwrap();
        let ys = node("probe", &[&untracked], Value::cpu(vec![5f32], 1), |_, _, _| Ok(vec![None])).unwrap();
        assert!(!ys.track_op());
    }
}
