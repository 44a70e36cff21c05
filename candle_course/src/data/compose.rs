//! Data sets made of others.

use std::sync::Arc;

use crate::data::dataset::EditImage;
use crate::data::{Batch, Dataset, Example};
use crate::error::{Error, Result};

fn out_of_range(index: usize, length: usize) -> Error {
    Error::argument("index", format!("less than {length}"), index)
}

/// Some examples of a data set, in a given order.
///
/// # Examples
///
/// ```
/// use candle_course::data::{Dataset, Mnist, Split, Subset};
///
/// let images = Mnist::builder().sample().quiet().load()?.train();
/// let split = Split::builder(images.len()).stratify(images.labels()).validation(0.1).seed(1).build()?;
/// let validation = Subset::new(images, split.validation())?;
/// assert_eq!(validation.len(), 600);
/// # Ok::<(), candle_course::error::Error>(())
/// ```
#[derive(Clone)]
pub struct Subset {
    dataset: Arc<dyn Dataset>,
    indices: Arc<Vec<usize>>,
}

impl Subset {
    /// The examples of `dataset` at `indices`; a repeated index repeats the example.
    ///
    /// # Errors
    /// If an index is out of range.
    pub fn new(dataset: impl Dataset + 'static, indices: &[usize]) -> Result<Self> {
        let length = dataset.len();
        if let Some(&index) = indices.iter().find(|&&index| index >= length) {
            return Err(out_of_range(index, length));
        }
        Ok(Self { dataset: Arc::new(dataset), indices: Arc::new(indices.to_vec()) })
    }

    fn inner(&self, index: usize) -> Result<usize> {
        self.indices.get(index).copied().ok_or_else(|| out_of_range(index, self.indices.len()))
    }
}

impl Dataset for Subset {
    fn origin(&self, index: usize) -> Option<(usize, usize)> {
        self.dataset.origin(self.inner(index).ok()?)
    }

    fn len(&self) -> usize {
        self.indices.len()
    }

    fn get(&self, index: usize) -> Result<Example> {
        self.dataset.get(self.inner(index)?)
    }

    fn batch(&self, indices: &[usize]) -> Result<Batch> {
        let inner = indices.iter().map(|&index| self.inner(index)).collect::<Result<Vec<_>>>()?;
        Ok(Batch { indices: indices.to_vec(), ..self.dataset.batch(&inner)? })
    }

    fn edited_batch(&self, indices: &[usize], edit: &EditImage<'_>) -> Option<Result<Batch>> {
        match indices.iter().map(|&index| self.inner(index)).collect::<Result<Vec<_>>>() {
            Ok(inner) => {
                let batch = self.dataset.edited_batch(&inner, edit)?;
                Some(batch.map(|batch| Batch { indices: indices.to_vec(), ..batch }))
            }
            Err(error) => Some(Err(error)),
        }
    }
}

/// Several data sets, one after the other.
#[derive(Clone)]
pub struct ConcatDataset {
    /// Each with the index of its first example.
    parts: Arc<Vec<(usize, Arc<dyn Dataset>)>>,
    length: usize,
}

impl ConcatDataset {
    /// `parts` in order.
    ///
    /// # Errors
    /// If there are none.
    pub fn new(parts: Vec<Arc<dyn Dataset>>) -> Result<Self> {
        if parts.is_empty() {
            return Err(Error::argument("parts", "at least one data set", 0));
        }
        let mut length = 0;
        let parts = parts
            .into_iter()
            .map(|part| {
                let first = length;
                length += part.len();
                (first, part)
            })
            .collect();
        Ok(Self { parts: Arc::new(parts), length })
    }

    /// The part that example `index` belongs to, with the index of the part's first.
    fn part(&self, index: usize) -> Result<&(usize, Arc<dyn Dataset>)> {
        match index < self.length {
            true => Ok(&self.parts[self.parts.partition_point(|(first, _)| *first <= index) - 1]),
            false => Err(out_of_range(index, self.length)),
        }
    }
}

impl Dataset for ConcatDataset {
    fn origin(&self, index: usize) -> Option<(usize, usize)> {
        let (first, part) = self.part(index).ok()?;
        part.origin(index - first)
    }

    fn len(&self) -> usize {
        self.length
    }

    fn get(&self, index: usize) -> Result<Example> {
        let (first, part) = self.part(index)?;
        part.get(index - first)
    }
}

/// What a [`MappedDataset`] does to an example.
type Map = dyn Fn(Example) -> Result<Example> + Send + Sync;

/// A data set whose examples are changed one by one as they are fetched.
///
/// For changes that differ from epoch to epoch use a [`Transform`](crate::data::Transform).
///
/// # Examples
///
/// ```
/// use candle_course::data::MappedDataset;
/// use candle_course::prelude::*;
///
/// let images = Mnist::builder().sample().quiet().load()?.train();
/// // Is it even?
/// let parity = MappedDataset::new(images, |example| {
///     let digit = example.target.to_scalar::<u32>()?;
///     Ok(Example { target: Tensor::new(1 - digit % 2, &Device::Cpu)?, ..example })
/// });
/// assert!(parity.get(0)?.target.to_scalar::<u32>()? < 2);
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone)]
pub struct MappedDataset {
    dataset: Arc<dyn Dataset>,
    map: Arc<Map>,
}

impl MappedDataset {
    /// The examples of `dataset`, each changed by `map`.
    pub fn new(
        dataset: impl Dataset + 'static,
        map: impl Fn(Example) -> Result<Example> + Send + Sync + 'static,
    ) -> Self {
        Self { dataset: Arc::new(dataset), map: Arc::new(map) }
    }
}

impl Dataset for MappedDataset {
    fn origin(&self, index: usize) -> Option<(usize, usize)> {
        self.dataset.origin(index)
    }

    fn len(&self) -> usize {
        self.dataset.len()
    }

    fn get(&self, index: usize) -> Result<Example> {
        (self.map)(self.dataset.get(index)?)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Tensor};

    use super::*;
    use crate::data::TensorDataset;

    fn numbers(range: std::ops::Range<u32>) -> TensorDataset {
        let values = Tensor::from_iter(range, &Device::Cpu).unwrap();
        TensorDataset::new(values.to_dtype(DType::F32).unwrap(), values).unwrap()
    }

    fn targets(dataset: &dyn Dataset, indices: &[usize]) -> Vec<u32> {
        dataset.batch(indices).unwrap().targets.to_vec1().unwrap()
    }

    #[test]
    fn subsets_of_concatenations_find_their_examples() {
        let both =
            ConcatDataset::new(vec![Arc::new(numbers(10..13)), Arc::new(numbers(0..0)), Arc::new(numbers(20..22))])
                .unwrap();
        assert_eq!(both.len(), 5);
        assert_eq!(targets(&both, &[0, 2, 3, 4]), [10, 12, 20, 21]);
        assert!(both.get(5).unwrap_err().to_string().contains("less than 5, got 5"));
        let subset = Subset::new(both.clone(), &[4, 0, 4]).unwrap();
        assert_eq!(targets(&subset, &[0, 1, 2]), [21, 10, 21]);
        assert_eq!(subset.batch(&[1, 2]).unwrap().indices, [1, 2]);
        assert!(subset.get(3).unwrap_err().to_string().contains("less than 3, got 3"));
        assert!(Subset::new(both.clone(), &[5]).is_err());
        let part = numbers(30..33);
        let joined = ConcatDataset::new(vec![Arc::new(part.clone()), Arc::new(both)]).unwrap();
        assert_eq!((joined.origin(2), joined.origin(8)), (part.origin(2), None));
        assert_eq!(MappedDataset::new(part.clone(), Ok).origin(1), part.origin(1));
        assert!(ConcatDataset::new(vec![]).is_err());
    }

    #[test]
    fn maps_change_examples_and_their_errors_name_them() {
        let doubled = MappedDataset::new(numbers(0..5), |example| {
            if example.target.to_scalar::<u32>()? == 3 {
                return Err(Error::data("three is not allowed"));
            }
            Ok(Example { target: (example.target * 2.0)?, ..example })
        });
        assert_eq!(targets(&doubled, &[1, 4]), [2, 8]);
        let error = doubled.batch(&[1, 3]).unwrap_err().to_string();
        assert_eq!(error, "example 3 cannot be read\n  caused by: three is not allowed");
    }
}
