//! What a data set is.

use candle_core::{DType, Tensor};

use crate::error::{Context, Error, Result};

/// One input and its target.
#[derive(Debug, Clone)]
pub struct Example {
    /// The input, `[C, H, W]` for an image.
    pub input: Tensor,
    /// The target: a scalar u32 for a class.
    pub target: Tensor,
}

/// Examples stacked along a new first dimension.
#[derive(Debug, Clone)]
pub struct Batch {
    /// `[N, …]`.
    pub inputs: Tensor,
    /// `[N, …]`.
    pub targets: Tensor,
    /// Which examples of the data set these are.
    pub indices: Vec<usize>,
}

impl Batch {
    /// How many examples.
    pub fn len(&self) -> usize {
        self.indices.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.indices.is_empty()
    }
}

/// A finite set of examples that can be fetched by index, from any thread.
pub trait Dataset: Send + Sync {
    /// How many examples.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The example at `index`, on the CPU.
    ///
    /// # Errors
    /// If `index` is out of range or the example cannot be read.
    fn get(&self, index: usize) -> Result<Example>;

    /// The examples at `indices`, stacked. In-memory sets override this with one gather.
    ///
    /// # Errors
    /// As [`Dataset::get`], and if the examples differ in shape.
    fn batch(&self, indices: &[usize]) -> Result<Batch> {
        let examples = indices
            .iter()
            .map(|&index| self.get(index).with_context(|| format!("example {index} cannot be read")))
            .collect::<Result<Vec<_>>>()?;
        let stack = |name: &str, part: fn(&Example) -> &Tensor| -> Result<Tensor> {
            let tensors: Vec<_> = examples.iter().map(part).collect();
            if let Some(other) = tensors.iter().position(|tensor| tensor.dims() != tensors[0].dims()) {
                return Err(Error::data(format!(
                    "the {name} of example {} has shape {:?}, of example {} {:?}; a batch needs equal shapes",
                    indices[0],
                    tensors[0].dims(),
                    indices[other],
                    tensors[other].dims()
                )));
            }
            Ok(Tensor::stack(&tensors, 0)?)
        };
        if indices.is_empty() {
            return Err(Error::argument("indices", "at least one", 0));
        }
        Ok(Batch {
            inputs: stack("input", |e| &e.input)?,
            targets: stack("target", |e| &e.target)?,
            indices: indices.to_vec(),
        })
    }
}

/// Tensors in memory: example `i` is row `i` of each.
#[derive(Debug, Clone)]
pub struct TensorDataset {
    inputs: Tensor,
    targets: Tensor,
}

impl TensorDataset {
    /// `inputs`: `[N, …]`; `targets`: `[N, …]`.
    ///
    /// # Errors
    /// If the first dimensions differ.
    pub fn new(inputs: Tensor, targets: Tensor) -> Result<Self> {
        if inputs.dims().first() != targets.dims().first() || inputs.rank() == 0 {
            return Err(Error::argument(
                "inputs, targets",
                "equal first dimensions",
                format!("shapes {:?} and {:?}", inputs.dims(), targets.dims()),
            ));
        }
        Ok(Self { inputs, targets })
    }

    /// All inputs, `[N, …]`.
    pub fn inputs(&self) -> &Tensor {
        &self.inputs
    }

    /// All targets, `[N, …]`.
    pub fn targets(&self) -> &Tensor {
        &self.targets
    }
}

impl Dataset for TensorDataset {
    fn len(&self) -> usize {
        self.inputs.dims()[0]
    }

    fn get(&self, index: usize) -> Result<Example> {
        if index >= self.len() {
            return Err(Error::argument("index", format!("less than {}", self.len()), index));
        }
        Ok(Example { input: self.inputs.get(index)?, target: self.targets.get(index)? })
    }

    fn batch(&self, indices: &[usize]) -> Result<Batch> {
        if let Some(index) = indices.iter().find(|&&index| index >= self.len()) {
            return Err(Error::argument("index", format!("less than {}", self.len()), index));
        }
        let rows: Vec<u32> = indices.iter().map(|&index| index as u32).collect();
        let rows = Tensor::from_vec(rows, indices.len(), self.inputs.device())?.to_dtype(DType::U32)?;
        Ok(Batch {
            inputs: self.inputs.index_select(&rows, 0)?,
            targets: self.targets.index_select(&rows, 0)?,
            indices: indices.to_vec(),
        })
    }
}
