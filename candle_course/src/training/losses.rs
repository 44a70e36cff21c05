//! Losses of many batches, kept on the device until somebody asks.

use std::ops::Range;

use candle_core::{DType, Device, Tensor};

use crate::error::{Error, Result};
use crate::losses::{Mean, MeanOf, RunningMean};
use crate::stateful::State;

/// The losses of batches, and what each is a mean of. Reading them is a transfer or two from the
/// device, not one per batch.
#[derive(Debug, Clone, Default)]
pub(crate) struct DeviceLosses {
    losses: Vec<Tensor>,
    /// The terms of each loss.
    means: Vec<Vec<Mean>>,
    examples: Vec<usize>,
}

/// Scalars of one device, in one transfer.
fn scalars<'a>(scalars: impl Iterator<Item = &'a Tensor>) -> Result<Vec<f64>> {
    let scalars: Vec<&Tensor> = scalars.collect();
    if scalars.is_empty() {
        return Ok(Vec::new());
    }
    Ok(Tensor::stack(&scalars, 0)?.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.to_vec1::<f64>()?)
}

impl DeviceLosses {
    /// A batch of so many examples: its loss, and the terms of it.
    pub(crate) fn push(&mut self, loss: &Tensor, means: &[Mean], examples: usize) {
        self.losses.push(loss.detach());
        let detached = |Mean { value, of }: &Mean| Mean { value: value.detach(), of: of.clone() };
        self.means.push(means.iter().map(detached).collect());
        self.examples.push(examples);
    }

    pub(crate) fn last(&self) -> Option<&Tensor> {
        self.losses.last()
    }

    /// The values and numbers of [`DeviceLosses::means`], for a checkpoint.
    pub(crate) fn state(&self) -> Result<State> {
        let Some(first) = self.means.first() else { return Ok(State::new()) };
        let (batches, terms) = (self.means.len(), first.len());
        let values: Vec<&Tensor> = self.means.iter().flatten().map(|mean| &mean.value).collect();
        let counts: Vec<f64> = self.read()?.numbers()?;
        let examples: Vec<i64> = self.examples.iter().map(|&count| count as i64).collect();
        Ok(State::from([
            ("losses".to_owned(), Tensor::stack(&self.losses, 0)?),
            ("terms".to_owned(), Tensor::stack(&values, 0)?.reshape((batches, terms))?),
            ("mean_of".to_owned(), Tensor::from_vec(counts, (batches, terms), &Device::Cpu)?),
            ("examples".to_owned(), Tensor::from_vec(examples, batches, &Device::Cpu)?),
        ]))
    }

    /// Back from a checkpoint, onto the device where the next losses will be.
    pub(crate) fn from_state(state: &State, device: &Device) -> Result<Self> {
        if state.is_empty() {
            return Ok(Self::default());
        }
        let get = |name: &str| {
            state
                .get(name)
                .ok_or_else(|| Error::checkpoint(format!("the `{name}` of the running epoch's losses are missing")))
        };
        let (losses, terms) = (get("losses")?.to_device(device)?, get("terms")?.to_device(device)?);
        let (counts, examples) = (get("mean_of")?.to_vec2::<f64>()?, get("examples")?.to_vec1::<i64>()?);
        if examples.iter().any(|&count| !(0..1 << 40).contains(&count)) || counts.len() != examples.len() {
            return Err(Error::checkpoint("the running epoch's losses are of no number of examples that can be"));
        }
        let mut read = Self::default();
        for (i, (counts, examples)) in counts.into_iter().zip(examples).enumerate() {
            let terms = terms.get(i)?;
            let mean = |(k, count)| Ok(Mean { value: terms.get(k)?, of: MeanOf::from_number(count) });
            let means = counts.into_iter().enumerate().map(mean).collect::<Result<Vec<_>>>()?;
            read.push(&losses.get(i)?, &means, examples as usize);
        }
        Ok(read)
    }

    pub(crate) fn len(&self) -> usize {
        self.losses.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.losses.is_empty()
    }

    pub(crate) fn examples(&self) -> usize {
        self.examples.iter().sum()
    }

    /// Every loss, in order.
    pub(crate) fn values(&self) -> Result<Vec<f64>> {
        scalars(self.losses.iter())
    }

    /// The loss of all batches as one; NaN without any.
    pub(crate) fn mean(&self) -> Result<f64> {
        if self.is_empty() {
            return Ok(f64::NAN);
        }
        self.read()?.mean(0..self.losses.len())
    }

    /// All batches, on the CPU.
    pub(crate) fn read(&self) -> Result<ReadLosses> {
        let means = || self.means.iter().flatten();
        let mut values = scalars(means().map(|mean| &mean.value))?.into_iter();
        let on_device = means().filter_map(|mean| match &mean.of {
            MeanOf::CountOnDevice(count) => Some(count),
            _ => None,
        });
        let mut counts = scalars(on_device)?.into_iter();
        let mut batch = |means: &Vec<Mean>| {
            let mean = |Mean { of, .. }: &Mean| {
                let of = match of {
                    MeanOf::CountOnDevice(_) => MeanOf::Count(counts.next().unwrap_or(f64::NAN)),
                    of => of.clone(),
                };
                Ok(Mean { value: Tensor::new(values.next().unwrap_or(f64::NAN), &Device::Cpu)?, of })
            };
            means.iter().map(mean).collect::<Result<Vec<_>>>()
        };
        Ok(ReadLosses {
            losses: self.values()?,
            means: self.means.iter().map(&mut batch).collect::<Result<_>>()?,
            examples: self.examples.clone(),
        })
    }
}

/// [`DeviceLosses`] that were read.
pub(crate) struct ReadLosses {
    losses: Vec<f64>,
    means: Vec<Vec<Mean>>,
    examples: Vec<usize>,
}

impl ReadLosses {
    /// The loss of some batches as one: by what each is a mean of, or, if it cannot be split, by examples.
    pub(crate) fn mean(&self, batches: Range<usize>) -> Result<f64> {
        if batches.end > self.losses.len() {
            return Err(Error::training(format!("the losses of batches {batches:?} are not known")));
        }
        if batches.len() == 1 {
            return Ok(self.losses[batches.start]); // to the bit
        }
        let mut mean = RunningMean::new();
        for i in batches {
            mean.add(&self.means[i], self.examples[i])?;
        }
        mean.mean()
    }

    /// Of every term 1 if it is a sum, what it is a mean of, and the total; examples, where it cannot be split.
    pub(crate) fn totals(&self) -> Result<Vec<[f64; 3]>> {
        let mut all = vec![[0.0; 3]; self.means.first().map_or(0, Vec::len)];
        for (means, &examples) in self.means.iter().zip(&self.examples) {
            for (total, Mean { value, of }) in all.iter_mut().zip(means) {
                let value = value.to_scalar::<f64>()?;
                match of.to_number()? {
                    sum if sum < 0.0 => (total[0], total[2]) = (1.0, total[2] + value),
                    0.0 => {}
                    number => {
                        let count = if number.is_nan() { examples as f64 } else { number };
                        (total[1], total[2]) = (total[1] + count, total[2] + count * value);
                    }
                }
            }
        }
        Ok(all)
    }

    fn numbers(&self) -> Result<Vec<f64>> {
        self.means.iter().flatten().map(|mean| mean.of.to_number()).collect()
    }
}
