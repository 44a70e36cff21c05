//! Labelled images in memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::{Device, Tensor};
use rayon::prelude::*;

use crate::data::dataset::EditImage;
use crate::data::{Batch, Dataset, Example};
use crate::error::{Error, Result};

/// Labelled 8-bit images in memory, normalised when they are fetched.
///
/// Pixels stay bytes until a batch asks for them: a quarter of the memory of f32, and a batch is
/// one gather that looks every byte up in a table of 256 normalised values. Clones share the
/// pixels.
///
/// # Examples
///
/// ```
/// use candle_course::data::{Dataset, ImageDataset};
///
/// // Two grey 1×2 images of the classes 0 and 1.
/// let images = ImageDataset::new(vec![0, 255, 51, 102], vec![0, 1], [1, 1, 2], &["dark", "light"])?;
/// let batch = images.batch(&[1, 0])?;
/// assert_eq!(batch.inputs.dims(), [2, 1, 1, 2]);
/// assert_eq!(batch.inputs.flatten_all()?.to_vec1::<f32>()?, [0.2, 0.4, 0.0, 1.0]);
/// assert_eq!(batch.targets.to_vec1::<u32>()?, [1, 0]);
///
/// let (mean, std) = images.mean_std();
/// let images = images.normalized(&mean, &std)?;
/// assert!(images.batch(&[0, 1])?.inputs.mean_all()?.to_scalar::<f32>()?.abs() < 1e-6);
/// # Ok::<(), candle_course::error::Error>(())
/// ```
#[derive(Clone)]
pub struct ImageDataset {
    pixels: Arc<Vec<u8>>,
    labels: Arc<Vec<u32>>,
    shape: [usize; 3],
    class_names: Arc<Vec<String>>,
    /// For every channel, what each byte becomes.
    tables: Arc<Vec<[f32; 256]>>,
    /// Which set the images were first part of, and where they stood in it; in order, if nothing.
    root: usize,
    places: Option<Arc<Vec<usize>>>,
}

/// A number for every set that is not a selection of another.
fn new_root() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl std::fmt::Debug for ImageDataset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ImageDataset")
            .field("len", &self.len())
            .field("shape", &self.shape)
            .field("class_names", &self.class_names)
            .finish_non_exhaustive()
    }
}

/// The table that scales a byte to `[0, 1]` and normalises it.
fn table(mean: f64, std: f64) -> [f32; 256] {
    std::array::from_fn(|byte| ((byte as f64 / 255.0 - mean) / std) as f32)
}

impl ImageDataset {
    /// Images, not yet normalised: a batch gives values in `[0, 1]`.
    ///
    /// `pixels`: `[N, C, H, W]`, bytes; `labels`: `[N]`; `shape`: `[C, H, W]`.
    ///
    /// # Errors
    /// If the numbers of pixels and labels do not fit each other, or a label has no class name.
    pub fn new(pixels: Vec<u8>, labels: Vec<u32>, shape: [usize; 3], class_names: &[&str]) -> Result<Self> {
        let size: usize = shape.iter().product();
        if size == 0 || pixels.len() != labels.len() * size {
            return Err(Error::argument(
                "pixels",
                format!("{} labels × {shape:?} = {} bytes", labels.len(), labels.len() * size),
                pixels.len(),
            ));
        }
        if let Some(i) = labels.iter().position(|&label| label as usize >= class_names.len()) {
            return Err(Error::argument(
                "labels",
                format!("classes 0..{}", class_names.len()),
                format!("{} for image {i}", labels[i]),
            ));
        }
        Ok(Self {
            pixels: Arc::new(pixels),
            labels: Arc::new(labels),
            shape,
            class_names: Arc::new(class_names.iter().map(|&name| name.to_owned()).collect()),
            tables: Arc::new(vec![table(0.0, 1.0); shape[0]]),
            root: new_root(),
            places: None,
        })
    }

    /// `[C, H, W]`.
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// The class of every image.
    pub fn labels(&self) -> &[u32] {
        &self.labels
    }

    /// The class of every image as a tensor, `[N]`, u32.
    ///
    /// # Errors
    /// If the tensor cannot be allocated.
    pub fn targets(&self) -> Result<Tensor> {
        Ok(Tensor::from_slice(&self.labels, self.len(), &Device::Cpu)?)
    }

    /// The name of every class, in order of the labels.
    pub fn class_names(&self) -> &[String] {
        &self.class_names
    }

    /// How many classes.
    pub fn classes(&self) -> usize {
        self.class_names.len()
    }

    /// The bytes of image `index`, `[C, H, W]`.
    ///
    /// # Errors
    /// If `index` is out of range.
    pub fn bytes(&self, index: usize) -> Result<&[u8]> {
        self.check(&[index])?;
        let size = self.size();
        Ok(&self.pixels[index * size..(index + 1) * size])
    }

    /// Mean and standard deviation of every channel, of values scaled to `[0, 1]`. Exact: computed
    /// from a histogram of the bytes.
    pub fn mean_std(&self) -> (Vec<f64>, Vec<f64>) {
        let [c, h, w] = self.shape;
        let histograms = self
            .pixels
            .par_chunks(self.size() * 1024)
            .map(|images| {
                let mut counts = vec![[0u64; 256]; c];
                for (plane, pixels) in images.chunks_exact(h * w).enumerate() {
                    pixels.iter().for_each(|&byte| counts[plane % c][usize::from(byte)] += 1);
                }
                counts
            })
            .reduce(
                || vec![[0u64; 256]; c],
                |mut sum, part| {
                    for (sum, part) in sum.iter_mut().flatten().zip(part.iter().flatten()) {
                        *sum += part;
                    }
                    sum
                },
            );
        let moment = |counts: &[u64; 256], f: &dyn Fn(f64) -> f64| {
            let total = counts.iter().sum::<u64>() as f64;
            counts.iter().enumerate().map(|(byte, &n)| n as f64 * f(byte as f64 / 255.0)).sum::<f64>() / total
        };
        let means: Vec<f64> = histograms.iter().map(|counts| moment(counts, &|x| x)).collect();
        let stds = histograms
            .iter()
            .zip(&means)
            .map(|(counts, mean)| moment(counts, &|x| (x - mean).powi(2)).sqrt())
            .collect();
        (means, stds)
    }

    /// The same images, fetched as `(x / 255 - mean) / std`, channel by channel. Replaces an
    /// earlier normalisation.
    ///
    /// Use the statistics of the *training* images for every split: the test images must not
    /// influence what the model sees.
    ///
    /// # Errors
    /// If there is not one finite mean and one positive standard deviation per channel; one below
    /// the rounding of its mean is that of a constant channel.
    pub fn normalized(&self, mean: &[f64], std: &[f64]) -> Result<Self> {
        let c = self.shape[0];
        if mean.len() != c || std.len() != c {
            return Err(Error::argument(
                "mean, std",
                format!("{c} values each, one per channel"),
                format!("{} and {}", mean.len(), std.len()),
            ));
        }
        if let Some(bad) = mean.iter().find(|x| !x.is_finite()) {
            return Err(Error::argument("mean", "finite numbers", bad));
        }
        crate::data::transforms::deviations(mean, std)?;
        let tables = mean.iter().zip(std).map(|(&mean, &std)| table(mean, std)).collect();
        Ok(Self { tables: Arc::new(tables), ..self.clone() })
    }

    /// The same images, fetched as values in `[0, 1]`, for display or for transforms that expect
    /// colours.
    #[must_use]
    pub fn unnormalized(&self) -> Self {
        Self { tables: Arc::new(vec![table(0.0, 1.0); self.shape[0]]), ..self.clone() }
    }

    /// The images at `indices` as a set of its own, with the same normalisation.
    ///
    /// # Errors
    /// If an index is out of range.
    pub fn select(&self, indices: &[usize]) -> Result<Self> {
        self.check(indices)?;
        let size = self.size();
        let mut pixels = Vec::with_capacity(indices.len() * size);
        indices.iter().for_each(|&i| pixels.extend_from_slice(&self.pixels[i * size..(i + 1) * size]));
        let labels = indices.iter().map(|&i| self.labels[i]).collect();
        let places = indices.iter().map(|&i| self.places.as_ref().map_or(i, |places| places[i])).collect();
        Ok(Self { pixels: Arc::new(pixels), labels: Arc::new(labels), places: Some(Arc::new(places)), ..self.clone() })
    }

    /// The images at `indices`, `[N, C, H, W]`, f32 in `[0, 1]` whatever the normalisation: for
    /// display.
    ///
    /// # Errors
    /// If an index is out of range.
    pub fn images(&self, indices: &[usize]) -> Result<Tensor> {
        Ok(self.unnormalized().batch(indices)?.inputs)
    }

    fn size(&self) -> usize {
        self.shape.iter().product()
    }

    fn check(&self, indices: &[usize]) -> Result<()> {
        match indices.iter().find(|&&index| index >= self.len()) {
            Some(index) => Err(Error::argument("index", format!("less than {}", self.len()), index)),
            None => Ok(()),
        }
    }

    /// Writes image `index`, normalised, to `out`.
    fn write(&self, index: usize, out: &mut [f32]) {
        let [_, h, w] = self.shape;
        let size = self.size();
        let pixels = &self.pixels[index * size..(index + 1) * size];
        for (table, (pixels, out)) in
            self.tables.iter().zip(pixels.chunks_exact(h * w).zip(out.chunks_exact_mut(h * w)))
        {
            for (out, &byte) in out.iter_mut().zip(pixels) {
                *out = table[usize::from(byte)];
            }
        }
    }

    /// The batch of the images at `indices`, each changed by `edit`.
    fn gather(&self, indices: &[usize], edit: &EditImage<'_>) -> Result<Batch> {
        // Below this many values waking other threads costs more than it saves.
        const SERIAL: usize = 1 << 18;
        self.check(indices)?;
        if indices.is_empty() {
            return Err(Error::argument("indices", "at least one", 0));
        }
        let size = self.size();
        let mut values = vec![0f32; indices.len() * size];
        let make = |(row, (out, &index)): (usize, (&mut [f32], &usize))| {
            self.write(index, out);
            edit(row, out, self.shape)
        };
        if values.len() < SERIAL {
            values.chunks_exact_mut(size).zip(indices).enumerate().try_for_each(make)?;
        } else {
            values.par_chunks_exact_mut(size).zip(indices).enumerate().try_for_each(make)?;
        }
        let [c, h, w] = self.shape;
        let targets: Vec<u32> = indices.iter().map(|&index| self.labels[index]).collect();
        Ok(Batch {
            inputs: Tensor::from_vec(values, (indices.len(), c, h, w), &Device::Cpu)?,
            targets: Tensor::from_vec(targets, indices.len(), &Device::Cpu)?,
            indices: indices.to_vec(),
        })
    }
}

impl Dataset for ImageDataset {
    fn origin(&self, index: usize) -> Option<(usize, usize)> {
        let place = self.places.as_ref().map_or(Some(&index), |places| places.get(index))?;
        Some((self.root, *place))
    }

    fn len(&self) -> usize {
        self.labels.len()
    }

    fn get(&self, index: usize) -> Result<Example> {
        let batch = self.batch(&[index])?;
        Ok(Example { input: batch.inputs.get(0)?, target: batch.targets.get(0)? })
    }

    fn batch(&self, indices: &[usize]) -> Result<Batch> {
        self.gather(indices, &|_, _, _| Ok(()))
    }

    fn edited_batch(&self, indices: &[usize], edit: &EditImage<'_>) -> Option<Result<Batch>> {
        Some(self.gather(indices, edit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn images() -> ImageDataset {
        let pixels = (0..5 * 3 * 4 * 2).map(|i| (i * 37 % 256) as u8).collect();
        ImageDataset::new(pixels, vec![0, 1, 2, 1, 0], [3, 4, 2], &["a", "b", "c"]).unwrap()
    }

    #[test]
    fn statistics_are_those_of_the_values() {
        let images = images();
        let (mean, std) = images.mean_std();
        let all = images.batch(&[0, 1, 2, 3, 4]).unwrap().inputs;
        for channel in 0..3 {
            let values: Vec<f32> = all.narrow(1, channel, 1).unwrap().flatten_all().unwrap().to_vec1().unwrap();
            let expected = values.iter().map(|&x| f64::from(x)).sum::<f64>() / values.len() as f64;
            let variance = values.iter().map(|&x| (f64::from(x) - expected).powi(2)).sum::<f64>() / values.len() as f64;
            assert!((mean[channel] - expected).abs() < 1e-7);
            assert!((std[channel] - variance.sqrt()).abs() < 1e-7);
        }
        let normalized = images.normalized(&mean, &std).unwrap();
        let back = normalized.batch(&[3]).unwrap().inputs;
        let back = back
            .broadcast_mul(
                &Tensor::new(std.iter().map(|&x| x as f32).collect::<Vec<_>>(), &Device::Cpu)
                    .unwrap()
                    .reshape((1, 3, 1, 1))
                    .unwrap(),
            )
            .unwrap()
            .broadcast_add(
                &Tensor::new(mean.iter().map(|&x| x as f32).collect::<Vec<_>>(), &Device::Cpu)
                    .unwrap()
                    .reshape((1, 3, 1, 1))
                    .unwrap(),
            )
            .unwrap();
        let difference = (back - images.images(&[3]).unwrap()).unwrap().abs().unwrap().max_all().unwrap();
        assert!(difference.to_scalar::<f32>().unwrap() < 1e-6);
    }

    #[test]
    fn large_and_small_batches_agree_and_selection_keeps_order() {
        let images = images();
        let many: Vec<usize> = (0..20_000).map(|i| i * 7 % 5).collect();
        let batch = images.batch(&many).unwrap();
        for row in [0, 1, 19_999] {
            let one = images.get(many[row]).unwrap();
            assert_eq!(
                batch.inputs.get(row).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap(),
                one.input.flatten_all().unwrap().to_vec1::<f32>().unwrap()
            );
        }
        let selected = images.select(&[4, 2]).unwrap();
        assert_eq!(selected.labels(), [0, 2]);
        assert_eq!(selected.bytes(1).unwrap(), images.bytes(2).unwrap());
        assert_eq!(selected.targets().unwrap().to_vec1::<u32>().unwrap(), [0, 2]);
        // A selection of a selection still knows where its images were first.
        assert_eq!(selected.select(&[1]).unwrap().origin(0), images.origin(2));
        assert_ne!(self::images().origin(2), images.origin(2));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let text = |result: Result<ImageDataset>| result.unwrap_err().to_string();
        assert_eq!(
            text(ImageDataset::new(vec![0; 5], vec![0], [1, 2, 2], &["a"])),
            "`pixels`: expected 1 labels × [1, 2, 2] = 4 bytes, got 5"
        );
        assert!(
            text(ImageDataset::new(vec![0; 4], vec![1], [1, 2, 2], &["a"])).contains("classes 0..1, got 1 for image 0")
        );
        assert!(text(images().normalized(&[0.0], &[1.0])).contains("3 values each"));
        assert!(text(images().normalized(&[0.0; 3], &[1.0, 0.0, 1.0])).contains("positive"));
        assert!(text(images().normalized(&[f64::NAN, 0.0, 0.0], &[1.0; 3])).contains("finite"));
        assert!(text(images().select(&[5])).contains("less than 5, got 5"));
        assert!(images().batch(&[0, 9]).unwrap_err().to_string().contains("less than 5, got 9"));
    }
}
