//! What a data set is.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use crate::error::{Context, Error, ErrorKind, Result, contained};
use crate::sizes;

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
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// /// The squares, without storing them.
/// struct Squares;
///
/// impl Dataset for Squares {
///     fn len(&self) -> usize {
///         100
///     }
///
///     fn get(&self, index: usize) -> Result<Example> {
///         let x = index as f32;
///         Ok(Example { input: Tensor::new(&[x], &Device::Cpu)?, target: Tensor::new(x * x, &Device::Cpu)? })
///     }
/// }
///
/// let batch = Squares.batch(&[3, 5])?;
/// assert_eq!(batch.inputs.dims(), [2, 1]);
/// assert_eq!(batch.targets.to_vec1::<f32>()?, [9.0, 25.0]);
/// # Ok::<(), Error>(())
/// ```
pub trait Dataset: Send + Sync {
    /// How many examples.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Which example `index` is, as the number of the set that it was first part of and its place
    /// there: equal for one and the same example seen through different data sets (a subset and the
    /// whole, say). `None` if this cannot be told.
    fn origin(&self, _index: usize) -> Option<(usize, usize)> {
        None
    }

    /// The example at `index`, on the CPU.
    ///
    /// # Errors
    /// If `index` is out of range or the example cannot be read.
    fn get(&self, index: usize) -> Result<Example>;

    /// The batch of the examples at `indices`, each image of which `edit` changes where it stands, as soon as it is
    /// there and before the next is read: `edit(row, values, [C, H, W])`. `None` from data sets whose batches are
    /// no images in f32, or may share their memory with something else.
    #[doc(hidden)]
    fn edited_batch(&self, _indices: &[usize], _edit: &EditImage<'_>) -> Option<Result<Batch>> {
        None
    }

    /// The examples at `indices`, stacked. In-memory sets override this with one gather.
    ///
    /// # Errors
    /// As [`Dataset::get`], if `get` panics, and if the examples differ in shape; the message
    /// names the example.
    fn batch(&self, indices: &[usize]) -> Result<Batch> {
        let examples = indices
            .iter()
            .map(|&index| {
                contained(ErrorKind::Data, "the data set", || self.get(index))
                    .with_context(|| format!("example {index} cannot be read"))
            })
            .collect::<Result<Vec<_>>>()?;
        if indices.is_empty() {
            return Err(Error::argument("indices", "at least one", 0));
        }
        let (inputs, targets): (Vec<_>, Vec<_>) = examples.iter().map(|e| (&e.input, &e.target)).unzip();
        Ok(Batch {
            inputs: stack("input", indices, &inputs)?,
            targets: stack("target", indices, &targets)?,
            indices: indices.to_vec(),
        })
    }
}

fn unequal(name: &str, [one, other]: [usize; 2], [first, second]: [(&[usize], DType); 2]) -> Error {
    let describe = |(dims, dtype): (&[usize], DType)| format!("{dims:?} of {dtype:?}");
    Error::data(format!(
        "the {name} of example {one} is {}, of example {other} {}; a batch needs equal shapes and dtypes",
        describe(first),
        describe(second)
    ))
}

fn stack(name: &str, indices: &[usize], tensors: &[&Tensor]) -> Result<Tensor> {
    let kind = |at: usize| (tensors[at].dims(), tensors[at].dtype());
    if let Some(other) = (1..tensors.len()).find(|&other| kind(other) != kind(0)) {
        return Err(unequal(name, [indices[0], indices[other]], [kind(0), kind(other)]));
    }
    Ok(Tensor::stack(tensors, 0)?)
}

/// What changes the image of a batch's row, `[C, H, W]`.
pub(super) type EditImage<'a> = dyn Fn(usize, &mut [f32], [usize; 3]) -> Result<()> + Sync + 'a;

/// A batch of images that are read into the memory in which they stay: `read` appends the values of an example to
/// those before, and gives its size and its target.
pub(super) fn batch_of_images(
    indices: &[usize],
    read: impl Fn(usize, &mut Vec<f32>) -> Result<([usize; 3], Tensor)>,
    edit: &EditImage<'_>,
) -> Result<Batch> {
    let (mut values, mut targets, mut first) = (Vec::new(), Vec::with_capacity(indices.len()), None);
    for (row, &index) in indices.iter().enumerate() {
        let start = values.len();
        let (size, target) = contained(ErrorKind::Data, "the data set", || read(index, &mut values))
            .with_context(|| format!("example {index} cannot be read"))?;
        let expected = *first.get_or_insert(size);
        if size != expected {
            let kinds = [(&expected[..], DType::F32), (&size[..], DType::F32)];
            return Err(unequal("input", [indices[0], index], kinds));
        }
        if row == 0 {
            let rest = sizes::product("the batch", &[values.len(), indices.len() - 1])?;
            sizes::reserve("the batch", &mut values, rest)?;
        }
        edit(row, &mut values[start..], size)?;
        targets.push(target);
    }
    let Some([c, h, w]) = first else { return Err(Error::argument("indices", "at least one", 0)) };
    Ok(Batch {
        inputs: Tensor::from_vec(values, (indices.len(), c, h, w), &Device::Cpu)?,
        targets: stack("target", indices, &targets.iter().collect::<Vec<_>>())?,
        indices: indices.to_vec(),
    })
}

impl<D: Dataset + ?Sized> Dataset for Arc<D> {
    fn origin(&self, index: usize) -> Option<(usize, usize)> {
        (**self).origin(index)
    }

    fn len(&self) -> usize {
        (**self).len()
    }

    fn get(&self, index: usize) -> Result<Example> {
        (**self).get(index)
    }

    fn edited_batch(&self, indices: &[usize], edit: &EditImage<'_>) -> Option<Result<Batch>> {
        (**self).edited_batch(indices, edit)
    }

    fn batch(&self, indices: &[usize]) -> Result<Batch> {
        (**self).batch(indices)
    }
}

impl<D: Dataset + ?Sized> Dataset for Box<D> {
    fn origin(&self, index: usize) -> Option<(usize, usize)> {
        (**self).origin(index)
    }

    fn len(&self) -> usize {
        (**self).len()
    }

    fn get(&self, index: usize) -> Result<Example> {
        (**self).get(index)
    }

    fn edited_batch(&self, indices: &[usize], edit: &EditImage<'_>) -> Option<Result<Batch>> {
        (**self).edited_batch(indices, edit)
    }

    fn batch(&self, indices: &[usize]) -> Result<Batch> {
        (**self).batch(indices)
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
    fn origin(&self, index: usize) -> Option<(usize, usize)> {
        // Narrowed tensors share a storage: rows are counted from its beginning.
        let (storage, layout) = self.inputs.storage_and_layout();
        let first = layout.start_offset().checked_div(layout.stride().first().copied()?).unwrap_or(0);
        Some((std::ptr::from_ref(&*storage) as usize, first + index))
    }

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

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    struct Broken;

    impl Dataset for Broken {
        fn len(&self) -> usize {
            10
        }

        fn get(&self, index: usize) -> Result<Example> {
            let example = |length: usize, dtype| -> Result<Example> {
                Ok(Example {
                    input: Tensor::zeros(length, dtype, &Device::Cpu)?,
                    target: Tensor::new(0u32, &Device::Cpu)?,
                })
            };
            match index {
                3 => panic!("no picture {index}"),
                4 => Err(Error::data("the file is empty")),
                5 => example(7, DType::F32),
                6 => example(2, DType::F64),
                _ => example(2, DType::F32),
            }
        }
    }

    #[test]
    fn errors_name_the_example() {
        let text = |indices: &[usize]| Broken.batch(indices).unwrap_err().to_string();
        assert_eq!(Broken.batch(&[0, 1, 2]).unwrap().inputs.dims(), [3, 2]);
        assert_eq!(text(&[0, 3]), "example 3 cannot be read\n  caused by: the data set panicked: no picture 3");
        assert_eq!(text(&[4, 0]), "example 4 cannot be read\n  caused by: the file is empty");
        assert_eq!(
            text(&[1, 5]),
            "the input of example 1 is [2] of F32, of example 5 [7] of F32; a batch needs equal shapes and dtypes"
        );
        assert!(text(&[1, 6]).contains("example 6 [2] of F64"));
        assert!(text(&[]).contains("at least one"));
    }

    #[test]
    fn tensor_batches_are_rows() {
        let set = TensorDataset::new(
            Tensor::arange(0f32, 6.0, &Device::Cpu).unwrap().reshape((3, 2)).unwrap(),
            Tensor::arange(0u32, 3, &Device::Cpu).unwrap(),
        )
        .unwrap();
        let batch = set.batch(&[2, 0, 2]).unwrap();
        assert_eq!(batch.inputs.to_vec2::<f32>().unwrap(), [[4.0, 5.0], [0.0, 1.0], [4.0, 5.0]]);
        assert_eq!(batch.targets.to_vec1::<u32>().unwrap(), [2, 0, 2]);
        assert!(set.batch(&[3]).unwrap_err().to_string().contains("less than 3, got 3"));
        let rows = |n: usize| Tensor::zeros(n, DType::F32, &Device::Cpu).unwrap();
        assert!(TensorDataset::new(rows(2), rows(3)).unwrap_err().to_string().contains("equal first dimensions"));
    }
}
