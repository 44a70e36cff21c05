//! SMOTE: synthetic examples for small classes.

use candle_core::{DType, Device, Tensor};

use crate::data::imbalance::by_class;
use crate::error::{Error, Result};
use crate::random::Generator;
use crate::sizes;

/// Synthetic minority oversampling: brings every class to the size of the largest with points
/// between an example and one of its `k` nearest neighbours of the same class,
///
/// ```text
/// x̃ = xᵢ + u · (xⱼ - xᵢ),   u ~ U(0, 1)
/// ```
///
/// ([Chawla et al. 2002](https://arxiv.org/abs/1106.1813)). It supposes that between two examples
/// of a class lie examples of that class: true for many tables of features, hardly for raw pixels.
///
/// # Examples
///
/// ```
/// use candle_course::data::Smote;
/// use candle_course::prelude::*;
///
/// let inputs = Tensor::new(&[[0f32, 0.0], [0.1, 0.0], [0.0, 0.1], [0.1, 0.1], [5.0, 5.0], [6.0, 5.0]], &Device::Cpu)?;
/// let (balanced, labels) = Smote::new(1, 42)?.resample(&inputs, &[0, 0, 0, 0, 1, 1])?;
/// assert_eq!(balanced.dims(), [8, 2]);
/// assert_eq!(labels, [0, 0, 0, 0, 1, 1, 1, 1]);
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Smote {
    neighbours: usize,
    seed: u64,
}

impl Smote {
    /// Interpolates towards the `neighbours` nearest (5 in the paper), from `seed`.
    ///
    /// # Errors
    /// If `neighbours` is 0.
    pub fn new(neighbours: usize, seed: u64) -> Result<Self> {
        if neighbours == 0 {
            return Err(Error::argument("neighbours", "at least 1", 0));
        }
        Ok(Self { neighbours, seed })
    }

    /// The given examples, then the synthetic ones.
    ///
    /// `inputs`: `[N, D]`, f32; `labels`: `[N]`. Gives `[M, D]` and M labels.
    ///
    /// # Errors
    /// If shapes do not fit, or a class to be enlarged has not more examples than `neighbours`.
    pub fn resample(&self, inputs: &Tensor, labels: &[u32]) -> Result<(Tensor, Vec<u32>)> {
        let (n, d) = match *inputs.dims() {
            [n, d] if inputs.dtype() == DType::F32 && n == labels.len() && n > 0 => (n, d),
            _ => {
                return Err(Error::argument(
                    "inputs",
                    format!("[N, D] of F32 with N = {} labels, at least 1", labels.len()),
                    format!("{:?} of {:?}", inputs.dims(), inputs.dtype()),
                )
                .hint("flatten images first: `flatten_from(1)`"));
            }
        };
        let mut values = inputs.to_device(&Device::Cpu)?.flatten_all()?.to_vec1::<f32>()?;
        let mut labels = labels.to_vec();
        let members = by_class(&labels);
        let largest = members.values().map(Vec::len).max().unwrap_or(0);
        for (&class, members) in &members {
            if members.len() == largest {
                continue;
            }
            if members.len() <= self.neighbours {
                return Err(Error::data(format!(
                    "class {class} has {} examples: SMOTE with {} neighbours needs {}",
                    members.len(),
                    self.neighbours,
                    self.neighbours.saturating_add(1)
                )));
            }
            let row = |index: usize| &values[index * d..(index + 1) * d];
            let nearest: Vec<Vec<usize>> = members.iter().map(|&i| self.nearest(i, members, &row)).collect();
            let mut generator = Generator::stream(self.seed, &[u64::from(class)]);
            let mut synthetic = sizes::room("labels", sizes::product("inputs", &[largest - members.len(), d])?)?;
            for _ in members.len()..largest {
                let at = generator.below(members.len());
                let neighbour = nearest[at][generator.below(self.neighbours)];
                let share = generator.uniform() as f32;
                synthetic.extend(row(members[at]).iter().zip(row(neighbour)).map(|(a, b)| a + share * (b - a)));
                labels.push(class);
            }
            values.extend(synthetic);
        }
        debug_assert!(labels.len() >= n);
        Ok((Tensor::from_vec(values, (labels.len(), d), inputs.device())?, labels))
    }

    fn nearest<'a>(&self, of: usize, members: &[usize], row: &impl Fn(usize) -> &'a [f32]) -> Vec<usize> {
        let distance =
            |other: usize| -> f64 { row(of).iter().zip(row(other)).map(|(a, b)| f64::from(a - b).powi(2)).sum() };
        let mut others: Vec<(f64, usize)> =
            members.iter().filter(|&&other| other != of).map(|&other| (distance(other), other)).collect();
        others.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        others.into_iter().take(self.neighbours).map(|(_, other)| other).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::class_counts;

    #[test]
    fn synthetic_points_lie_between_an_example_and_a_near_one_of_its_class() {
        let mut generator = Generator::new(1);
        let labels: Vec<u32> = (0..60).map(|i| u32::from(i % 6 == 0) + u32::from(i % 12 == 0)).collect();
        let rows: Vec<f32> = labels
            .iter()
            .flat_map(|&l| [l as f32 * 9.0 + generator.normal() as f32, generator.normal() as f32])
            .collect();
        let inputs = Tensor::from_vec(rows.clone(), (60, 2), &Device::Cpu).unwrap();
        let (balanced, all) = Smote::new(2, 7).unwrap().resample(&inputs, &labels).unwrap();
        assert_eq!(class_counts(&all, 3).unwrap(), [50; 3]);
        let balanced = balanced.to_vec2::<f32>().unwrap();
        assert_eq!(balanced[..60].concat(), rows);
        for (point, &label) in balanced[60..].iter().zip(&all[60..]) {
            let on_a_segment = (0..60).filter(|&i| labels[i] == label).any(|i| {
                (0..60).filter(|&j| j != i && labels[j] == label).any(|j| {
                    let (a, b) = (&balanced[i], &balanced[j]);
                    let (dx, dy) = (b[0] - a[0], b[1] - a[1]);
                    let (px, py) = (point[0] - a[0], point[1] - a[1]);
                    let along = (px * dx + py * dy) / (dx * dx + dy * dy);
                    (px * dy - py * dx).abs() < 1e-3 && (-1e-3..=1.001).contains(&along)
                })
            });
            assert!(on_a_segment, "{point:?}");
        }
    }

    #[test]
    fn what_cannot_be_interpolated_is_refused() {
        let inputs = Tensor::zeros((3, 2), DType::F32, &Device::Cpu).unwrap();
        let smote = Smote::new(1, 0).unwrap();
        assert!(smote.resample(&inputs, &[0, 0, 1]).unwrap_err().to_string().contains("class 1 has 1 examples"));
        assert!(smote.resample(&inputs, &[0, 0]).unwrap_err().to_string().contains("N = 2 labels"));
        assert!(Smote::new(0, 0).is_err());
    }
}
