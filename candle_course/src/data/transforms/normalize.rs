//! Normalisation.

use candle_core::{DType, Device, Tensor};

use super::{BatchPosition, PerImage, Transform, edit_batch};
use crate::data::{Batch, Dataset};
use crate::error::{Error, Result};

/// `(x - mean) / std`, channel by channel.
///
/// # Examples
///
/// ```
/// use candle_course::data::{Mnist, Normalize};
///
/// let images = Mnist::builder().sample().quiet().load()?.train().unnormalized();
/// let normalize = Normalize::fit(&images)?;
/// assert!((normalize.mean()[0] - 0.13).abs() < 0.01);
/// # Ok::<(), candle_course::error::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Normalize {
    mean: Vec<f64>,
    std: Vec<f64>,
}

/// That every standard deviation can be divided by: one below the rounding of its mean (in f32) is
/// that of a constant, and would blow up whatever is not that constant.
pub(crate) fn deviations(mean: &[f64], std: &[f64]) -> Result<()> {
    let usable = |mean: f64, std: f64| {
        std.is_finite() && std > mean.abs() * f64::from(f32::EPSILON) && ((1.0 / std) as f32).is_finite()
    };
    match mean.iter().zip(std).find(|&(&mean, &std)| !usable(mean, std)) {
        Some((mean, std)) => {
            let expected = format!("positive numbers above the rounding of the mean, here {mean}");
            Err(Error::argument("std", expected, std).hint("is a channel constant?"))
        }
        None => Ok(()),
    }
}

impl Normalize {
    /// From known statistics, one value per channel.
    ///
    /// # Errors
    /// If the numbers of values differ, a mean is not finite or a standard deviation not positive.
    pub fn new(mean: &[f64], std: &[f64]) -> Result<Self> {
        if mean.len() != std.len() || mean.is_empty() {
            return Err(Error::argument(
                "mean, std",
                "one value each per channel",
                format!("{} and {}", mean.len(), std.len()),
            ));
        }
        if let Some(bad) = mean.iter().find(|x| !x.is_finite()) {
            return Err(Error::argument("mean", "finite numbers", bad));
        }
        deviations(mean, std)?;
        Ok(Self { mean: mean.to_vec(), std: std.to_vec() })
    }

    /// From the statistics of a data set's inputs, `[C, …]` each: pass the *training* examples, and
    /// use the result for every split.
    ///
    /// # Errors
    /// If an example cannot be read, or a channel is constant but for rounding.
    pub fn fit(dataset: &dyn Dataset) -> Result<Self> {
        let (mut sum, mut squares, mut count): (Option<Tensor>, Option<Tensor>, usize) = (None, None, 0);
        let indices: Vec<usize> = (0..dataset.len()).collect();
        // Sums of a shifted variable: x² of values far from 0 would lose the digits that matter.
        let mut shift = None;
        for indices in indices.chunks(256) {
            let inputs = dataset.batch(indices)?.inputs.to_device(&Device::Cpu)?.to_dtype(DType::F64)?;
            if inputs.rank() < 2 {
                return Err(Error::argument("dataset", "inputs of [C, …]", format!("{:?}", &inputs.dims()[1..])));
            }
            let channels = inputs.transpose(0, 1)?.flatten_from(1)?;
            count += channels.dims()[1];
            let shift = match &shift {
                Some(shift) => shift,
                None => shift.insert(channels.mean_keepdim(1)?),
            };
            let centred = channels.broadcast_sub(shift)?;
            let add = |total: Option<Tensor>, part: Tensor| match total {
                Some(total) => total + part,
                None => Ok(part),
            };
            sum = Some(add(sum, centred.sum_keepdim(1)?)?);
            squares = Some(add(squares, centred.sqr()?.sum_keepdim(1)?)?);
        }
        let (Some(sum), Some(squares), Some(shift)) = (sum, squares, shift) else {
            return Err(Error::argument("dataset", "at least one example", 0));
        };
        let offset = (sum / count as f64)?;
        let variance = ((squares / count as f64)? - offset.sqr()?)?;
        Self::new(
            &(offset + shift)?.flatten_all()?.to_vec1::<f64>()?,
            &variance.relu()?.sqrt()?.flatten_all()?.to_vec1::<f64>()?,
        )
    }

    /// One value per channel.
    pub fn mean(&self) -> &[f64] {
        &self.mean
    }

    /// One value per channel.
    pub fn std(&self) -> &[f64] {
        &self.std
    }
}

impl PerImage for Normalize {
    fn name(&self) -> &'static str {
        "normalisation"
    }

    fn edit(&self, image: &mut [f32], [c, h, w]: [usize; 3], _: &BatchPosition, _: usize) -> Result<()> {
        if c != self.mean.len() {
            return Err(Error::argument("inputs", format!("{} channels, as the statistics", self.mean.len()), c));
        }
        for (plane, (&mean, &std)) in image.chunks_exact_mut((h * w).max(1)).zip(self.mean.iter().zip(&self.std)) {
            let (scale, offset) = ((1.0 / std) as f32, (-mean / std) as f32);
            plane.iter_mut().for_each(|x| *x = *x * scale + offset);
        }
        Ok(())
    }
}

impl Transform for Normalize {
    fn apply(&self, batch: Batch, position: &BatchPosition) -> Result<Batch> {
        edit_batch(&[self], batch, position)
    }

    fn per_image(&self) -> Option<&dyn PerImage> {
        Some(self)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{batch, values};
    use super::*;
    use crate::data::{Cifar10, TensorDataset};

    #[test]
    fn fitted_statistics_are_the_exact_ones_and_normalise() {
        let images = Cifar10::builder().sample().quiet().load().unwrap().test().unnormalized();
        let (mean, std) = images.mean_std();
        let fitted = Normalize::fit(&images).unwrap();
        for channel in 0..3 {
            assert!((fitted.mean()[channel] - mean[channel]).abs() < 1e-6);
            assert!((fitted.std()[channel] - std[channel]).abs() < 1e-6);
        }
        let raw = images.batch(&[1, 2]).unwrap();
        let expected = values(&images.normalized(&mean, &std).unwrap().batch(&[1, 2]).unwrap().inputs);
        let got = values(&fitted.apply(raw, &BatchPosition { epoch: 0, first: 0 }).unwrap().inputs);
        assert!(expected.iter().zip(&got).all(|(a, b)| (a - b).abs() < 1e-4));
    }

    #[test]
    fn bad_statistics_are_refused() {
        assert!(Normalize::new(&[0.0], &[0.0]).unwrap_err().to_string().contains("constant"));
        assert!(Normalize::new(&[0.0, 1.0], &[1.0]).unwrap_err().to_string().contains("2 and 1"));
        let constant = TensorDataset::new(
            Tensor::ones((4, 1, 2, 2), DType::F32, &Device::Cpu).unwrap(),
            Tensor::zeros(4, DType::U32, &Device::Cpu).unwrap(),
        );
        assert!(Normalize::fit(&constant.unwrap()).unwrap_err().to_string().contains("constant"));
        let two = Normalize::new(&[0.0; 2], &[1.0; 2]).unwrap();
        let error = two.apply(batch([1, 3, 2, 2], false), &BatchPosition { epoch: 0, first: 0 }).unwrap_err();
        assert!(error.to_string().contains("2 channels"));
    }

    #[test]
    fn a_constant_channel_is_refused_however_it_was_rounded() {
        use crate::data::TensorDataset;
        for value in [7.0 / 255.0, 0.1, -1e3, 1e-30, 0.0] {
            let inputs = Tensor::full(value as f32, (300, 1, 5, 5), &Device::Cpu).unwrap();
            let targets = Tensor::zeros(300, DType::U32, &Device::Cpu).unwrap();
            let dataset = TensorDataset::new(inputs, targets).unwrap();
            let text = Normalize::fit(&dataset).unwrap_err().to_string();
            assert!(text.contains("is a channel constant?"), "{value}: {text}");
        }
        for (mean, std) in [(0.5, 3.5e-18), (0.5, 0.0), (0.5, -1.0), (0.0, 1e-45), (1e6, 1e-3), (0.5, f64::NAN)] {
            assert!(Normalize::new(&[0.0, mean], &[1.0, std]).is_err(), "{mean} {std}");
        }
        for (mean, std) in [(0.0, 1e-30), (1e6, 10.0), (293.15, 1e-3), (0.5, 1e-6)] {
            assert!(Normalize::new(&[mean], &[std]).is_ok(), "{mean} {std}");
        }
    }
}
