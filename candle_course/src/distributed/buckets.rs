//! Many tensors, reduced in few calls.

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Storage, Tensor, Var};

use crate::distributed::Communicator;
use crate::error::{Error, Result};
use crate::nn::Parameters;

/// Bytes of one call: enough that its latency does not count, and few enough to stay in the caches.
const BUCKET: usize = 4 << 20;

/// Sums tensors over all ranks, many at a time. The memory of a bucket is kept for the next call.
#[derive(Default)]
pub(crate) struct Buckets {
    f32: Vec<f32>,
    f64: Vec<f64>,
}

/// What the numbers of a tensor are added as.
trait Number: candle_core::WithDType {
    fn all_reduce(communicator: &dyn Communicator, values: &mut [Self]) -> Result<()>;
}

impl Number for f32 {
    fn all_reduce(communicator: &dyn Communicator, values: &mut [Self]) -> Result<()> {
        communicator.all_reduce_f32(values)
    }
}

impl Number for f64 {
    fn all_reduce(communicator: &dyn Communicator, values: &mut [Self]) -> Result<()> {
        communicator.all_reduce_f64(values)
    }
}

impl Buckets {
    /// The sums of the tensors over all ranks, which give as many of the same shapes; half precision is added in
    /// f32.
    pub(crate) fn all_reduce(&mut self, communicator: &dyn Communicator, tensors: &[Tensor]) -> Result<Vec<Tensor>> {
        let mut sums: Vec<Option<Tensor>> = vec![None; tensors.len()];
        let (wide, narrow): (Vec<usize>, Vec<usize>) =
            (0..tensors.len()).partition(|&i| tensors[i].dtype() == DType::F64);
        for bucket in split(tensors, &narrow) {
            reduce(communicator, tensors, bucket, &mut self.f32, &mut sums)?;
        }
        for bucket in split(tensors, &wide) {
            reduce(communicator, tensors, bucket, &mut self.f64, &mut sums)?;
        }
        Ok(sums.into_iter().flatten().collect())
    }
}

/// Consecutive tensors of at most a bucket together, or one alone.
fn split<'a>(tensors: &[Tensor], indices: &'a [usize]) -> Vec<&'a [usize]> {
    let (mut buckets, mut start, mut bytes) = (Vec::new(), 0, 0);
    for (i, &index) in indices.iter().enumerate() {
        let more = tensors[index].elem_count() * 4;
        if i > start && bytes + more > BUCKET {
            buckets.push(&indices[start..i]);
            (start, bytes) = (i, 0);
        }
        bytes += more;
    }
    if start < indices.len() {
        buckets.push(&indices[start..]);
    }
    buckets
}

fn reduce<N: Number>(
    communicator: &dyn Communicator,
    tensors: &[Tensor],
    bucket: &[usize],
    values: &mut Vec<N>,
    sums: &mut [Option<Tensor>],
) -> Result<()> {
    if bucket.iter().all(|&index| communicator.reduces_on(tensors[index].device())) {
        return reduce_there::<N>(communicator, tensors, bucket, sums);
    }
    values.clear();
    let all_on_cpu = bucket.iter().all(|&index| tensors[index].device().is_cpu());
    if all_on_cpu {
        bucket.iter().try_for_each(|&index| append(&tensors[index], values))?;
    } else {
        // Joined on the device, to come over in one copy.
        let flat = |&index: &usize| Ok(tensors[index].flatten_all()?.to_dtype(N::DTYPE)?);
        let flat = bucket.iter().map(flat).collect::<Result<Vec<_>>>()?;
        values.extend(Tensor::cat(&flat, 0)?.to_device(&Device::Cpu)?.to_vec1::<N>()?);
    }
    N::all_reduce(communicator, values)?;
    let mut rest = &values[..];
    for &index in bucket {
        let tensor = &tensors[index];
        let (own, others) = rest.split_at(tensor.elem_count());
        rest = others;
        let sum = Tensor::from_slice(own, tensor.shape(), &Device::Cpu)?;
        sums[index] = Some(sum.to_device(tensor.device())?.to_dtype(tensor.dtype())?);
    }
    Ok(())
}

/// [`reduce`], on the device where the tensors are.
fn reduce_there<N: Number>(
    communicator: &dyn Communicator,
    tensors: &[Tensor],
    bucket: &[usize],
    sums: &mut [Option<Tensor>],
) -> Result<()> {
    let flat = |&index: &usize| Ok(tensors[index].flatten_all()?.to_dtype(N::DTYPE)?);
    let flat = bucket.iter().map(flat).collect::<Result<Vec<_>>>()?;
    let whole = communicator.all_reduce_tensor(&Tensor::cat(&flat, 0)?)?;
    let mut start = 0;
    for &index in bucket {
        let tensor = &tensors[index];
        let own = whole.narrow(0, start, tensor.elem_count())?.reshape(tensor.shape())?;
        start += tensor.elem_count();
        // A storage of its own: gradients are changed in place.
        sums[index] = Some(own.copy()?.to_dtype(tensor.dtype())?);
    }
    Ok(())
}

/// Appends a tensor's numbers, without a copy on the way where they lie in a row.
fn append<N: Number>(tensor: &Tensor, values: &mut Vec<N>) -> Result<()> {
    if tensor.dtype() == N::DTYPE && tensor.is_contiguous() {
        let (storage, layout) = tensor.storage_and_layout();
        if let Storage::Cpu(storage) = &*storage {
            values.extend_from_slice(&storage.as_slice::<N>()?[layout.start_offset()..][..tensor.elem_count()]);
            return Ok(());
        }
    }
    values.extend(tensor.flatten_all()?.to_dtype(N::DTYPE)?.to_vec1::<N>()?);
    Ok(())
}

/// Gives every rank the gradient of the loss over the examples of all, where each has that of its own: between
/// backward and step of a loop of one's own.
///
/// `count` is what this rank's loss is a mean of: its examples or labels; 0 for a rank that has none, whose gradients
/// may be missing. The
/// gradient of all is Σ dᵣ gᵣ / Σ dᵣ, so that ranks of different counts weigh as they should.
///
/// # Errors
/// If a trainable parameter has no gradient though something was counted, the count is negative or not finite, nothing was counted on any rank,
/// or the communicator fails.
///
/// # Examples
///
/// ```
/// use candle_course::distributed::{LocalCommunicator, average_gradients};
/// use candle_course::prelude::*;
///
/// let gradients = LocalCommunicator::run(2, |communicator| {
///     let parameters = Parameters::new(0, &Device::Cpu);
///     let w = parameters.root().parameter("w", 1, Init::ZEROS)?;
///     // One rank has an example of the value 3, the other two of the value 6.
///     let (count, value) = if communicator.rank() == 0 { (1, 3.) } else { (2, 6.) };
///     let x = Tensor::full(value, count, &Device::Cpu)?.to_dtype(DType::F32)?;
///     let mut gradients = x.broadcast_mul(&w)?.mean_all()?.backward()?;
///     average_gradients(&*communicator, &parameters, &mut gradients, count as f64)?;
///     Ok(gradients.get(&w).unwrap().to_vec1::<f32>()?)
/// })?;
/// assert_eq!(gradients, [[5.0], [5.0]]);
/// # Ok::<(), Error>(())
/// ```
pub fn average_gradients(
    communicator: &dyn Communicator,
    parameters: &Parameters,
    gradients: &mut GradStore,
    count: f64,
) -> Result<()> {
    let missing = parameters.missing_gradients(gradients);
    if !missing.is_empty() && count != 0.0 {
        return Err(Error::training(format!("{} received no gradient", missing.join(", "))));
    }
    if !(count.is_finite() && count >= 0.0) {
        return Err(Error::argument("count", "a finite number of at least 0", count));
    }
    let mut whole = [count];
    communicator.all_reduce_f64(&mut whole)?;
    if whole[0] <= 0.0 {
        return Err(Error::argument("count", "more than 0 on some rank", 0).hint("no rank has an example"));
    }
    let trainable = parameters.trainable();
    let share = count / whole[0];
    let scaled = |(_, var): &(String, Var)| match gradients.get(var) {
        Some(gradient) => Ok((gradient * share)?),
        None => Ok(var.zeros_like()?),
    };
    let scaled = trainable.iter().map(scaled).collect::<Result<Vec<Tensor>>>()?;
    for ((_, var), sum) in trainable.iter().zip(Buckets::default().all_reduce(communicator, &scaled)?) {
        gradients.insert(var, sum);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::distributed::LocalCommunicator;
    use crate::random::Generator;

    fn tensors(rank: u64) -> Vec<Tensor> {
        let mut generator = Generator::stream(5, &[rank]);
        let mut make = |shape: &[usize], dtype: DType| {
            let values: Vec<f64> =
                (0..shape.iter().product::<usize>()).map(|_| (generator.below(64) as f64 - 32.0) / 8.0).collect();
            Tensor::from_vec(values, shape, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
        };
        let large = make(&[1100, 1000], DType::F32);
        vec![
            make(&[3, 4], DType::F32),
            large.clone(), // more than a bucket by itself
            make(&[], DType::F64),
            large.t().unwrap(), // not in a row
            make(&[0, 2], DType::F32),
            make(&[5], DType::F16),
            large.narrow(0, 7, 2).unwrap(),
            make(&[7], DType::F64),
            make(&[600, 1000], DType::F32),
            make(&[600, 1000], DType::F32),
        ]
    }

    #[test]
    fn tensors_of_every_kind_and_size_are_summed() {
        let sums = LocalCommunicator::run(3, |communicator| {
            let own = tensors(communicator.rank() as u64);
            let mut buckets = Buckets::default();
            buckets.all_reduce(&*communicator, &own)?;
            buckets.all_reduce(&*communicator, &own) // in the memory of the first
        });
        let flat = |tensor: &Tensor| -> Vec<f64> {
            tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
        };
        for sums in sums.unwrap() {
            let all = [0, 1, 2].map(tensors);
            assert_eq!(sums.len(), all[0].len());
            for (i, sum) in sums.iter().enumerate() {
                let (shape, dtype) = (all[0][i].shape(), all[0][i].dtype());
                assert_eq!((sum.shape(), sum.dtype()), (shape, dtype));
                // Eighths of small numbers add up without rounding.
                let expected = all[1..].iter().fold(flat(&all[0][i]), |mut expected, tensors| {
                    expected.iter_mut().zip(flat(&tensors[i])).for_each(|(sum, value)| *sum += value);
                    expected
                });
                assert!(flat(sum) == expected, "{i}");
            }
        }
    }

    /// Sums tensors where they are, as NCCL does.
    struct OnDevice(std::sync::Arc<dyn Communicator>);

    impl Communicator for OnDevice {
        fn size(&self) -> usize {
            self.0.size()
        }
        fn rank(&self) -> usize {
            self.0.rank()
        }
        fn all_reduce_f32(&self, _values: &mut [f32]) -> Result<()> {
            Err(Error::training("it went over the host"))
        }
        fn all_reduce_f64(&self, _values: &mut [f64]) -> Result<()> {
            Err(Error::training("it went over the host"))
        }
        fn broadcast(&self, root: usize, bytes: &mut Vec<u8>) -> Result<()> {
            self.0.broadcast(root, bytes)
        }
        fn all_gather(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
            self.0.all_gather(bytes)
        }
        fn barrier(&self) -> Result<()> {
            self.0.barrier()
        }
        fn abort(&self, reason: &str) {
            self.0.abort(reason);
        }
        fn reduces_on(&self, device: &Device) -> bool {
            device.is_cpu()
        }
        fn all_reduce_tensor(&self, tensor: &Tensor) -> Result<Tensor> {
            assert!(tensor.is_contiguous() && [DType::F32, DType::F64].contains(&tensor.dtype()));
            let mut values = tensor.to_dtype(DType::F64)?.to_vec1::<f64>()?;
            self.0.all_reduce_f64(&mut values)?;
            Ok(Tensor::from_vec(values, tensor.shape(), &Device::Cpu)?.to_dtype(tensor.dtype())?)
        }
    }

    #[test]
    fn what_is_summed_on_a_device_is_what_is_summed_over_the_host() {
        let both = LocalCommunicator::run(2, |communicator| {
            let own = tensors(communicator.rank() as u64);
            let there = Buckets::default().all_reduce(&OnDevice(communicator.clone()), &own)?;
            Ok((there, Buckets::default().all_reduce(&*communicator, &own)?))
        });
        for (there, here) in both.unwrap() {
            for (there, here) in there.iter().zip(&here) {
                assert_eq!((there.shape(), there.dtype()), (here.shape(), here.dtype()));
                let values = |tensor: &Tensor| tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>();
                assert!(values(there).unwrap() == values(here).unwrap());
            }
        }
    }

    #[test]
    fn buckets_hold_what_fits() {
        let all = tensors(0);
        let indices: Vec<usize> = (0..all.len()).filter(|&i| all[i].dtype() == DType::F32).collect();
        let found = split(&all, &indices);
        assert_eq!(found.concat(), indices);
        assert_eq!(found, [&[0][..], &[1], &[3], &[4, 6, 8], &[9]]);
        assert!(split(&all, &[]).is_empty());
    }
}
