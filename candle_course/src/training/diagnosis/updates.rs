//! How far a step moves each parameter.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::backprop::GradStore;
use candle_core::{DType, Tensor};

use crate::error::{Error, Result};
use crate::language::label;
use crate::notebook::Table;
use crate::plot::{Figure, LineChart};
use crate::training::{Callback, Flow, Training};

/// Update-to-weight ratios: ‖Δw‖ / ‖w‖ of every parameter, every few steps. A common rule of thumb
/// is about 10⁻³; far below it a layer hardly learns, far above it jumps.
///
/// A callback whose clones share what is recorded: give one to the trainer, keep the other.
/// Vectors (biases, scales of a normalisation) begin near zero, so their ratios say little; only
/// parameters of rank 2 and more are recorded, and a weight that is 0 everywhere, as some begin, has
/// no ratio until it has moved.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let updates = UpdateRatios::new(10)?;
/// let for_the_trainer = updates.clone();
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct UpdateRatios {
    every: usize,
    before: BTreeMap<String, Tensor>,
    recorded: Arc<Mutex<BTreeMap<String, Vec<(usize, f64)>>>>,
}

fn norm(tensor: &Tensor) -> Result<f64> {
    // On the CPU in f64, where squares neither overflow nor vanish.
    let dtype = if tensor.device().is_cpu() { DType::F64 } else { DType::F32 };
    Ok(tensor.to_dtype(dtype)?.sqr()?.sum_all()?.to_dtype(DType::F64)?.to_scalar::<f64>()?.sqrt())
}

impl UpdateRatios {
    /// Looks at every `every`-th step, the first included.
    ///
    /// # Errors
    /// If `every` is 0.
    pub fn new(every: usize) -> Result<Self> {
        if every == 0 {
            return Err(Error::argument("every", "at least 1 step", 0));
        }
        Ok(Self { every, before: BTreeMap::new(), recorded: Arc::default() })
    }

    fn recorded(&self) -> MutexGuard<'_, BTreeMap<String, Vec<(usize, f64)>>> {
        self.recorded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `(step, ratio)` of every parameter, by name.
    pub fn ratios(&self) -> BTreeMap<String, Vec<(usize, f64)>> {
        self.recorded().clone()
    }

    /// The median ratio of every parameter, in words what it means.
    pub fn table(&self) -> Table {
        let mut table = Table::new(["parameter", "median of ‖Δw‖/‖w‖", "verdict"].map(label));
        for (name, points) in self.recorded().iter() {
            let mut ratios: Vec<f64> = points.iter().map(|&(_, ratio)| ratio).collect();
            ratios.sort_by(f64::total_cmp);
            let median = ratios[ratios.len() / 2];
            table.push((
                name.clone(),
                median,
                match median {
                    m if m < 1e-5 => label("hardly moves"),
                    m if m < 1e-4 => label("slow"),
                    m if m <= 1e-2 => label("usual"),
                    m if m <= 1e-1 => label("fast"),
                    _ => label("jumps: lower the learning rate"),
                },
            ));
        }
        table
    }

    /// The ratios over the steps, on a logarithmic axis.
    ///
    /// # Errors
    /// If nothing was recorded.
    pub fn figure(&self) -> Result<Figure> {
        let mut chart =
            LineChart::builder(label("Update-to-weight ratio")).x_label(label("step")).y_label("‖Δw‖ / ‖w‖").log_y();
        for (name, points) in self.recorded().iter() {
            let points: Vec<(f64, f64)> =
                points.iter().filter(|(_, ratio)| *ratio > 0.0).map(|&(step, ratio)| (step as f64, ratio)).collect();
            if !points.is_empty() {
                chart = chart.points(name, &points);
            }
        }
        chart.horizontal("10⁻³", 1e-3).build()
    }

    /// What evcxr calls for a cell that ends with it: the table.
    pub fn evcxr_display(&self) {
        self.table().evcxr_display();
    }
}

impl Callback for UpdateRatios {
    fn name(&self) -> &str {
        "update ratios"
    }

    fn backward_end(&mut self, training: &mut Training, _gradients: &mut GradStore) -> Result<Flow> {
        if training.state().step.is_multiple_of(self.every) {
            for (name, var) in training.parameters().trainable() {
                if var.rank() >= 2 {
                    self.before.insert(name, var.as_tensor().copy()?.detach());
                }
            }
        }
        Ok(Flow::Continue)
    }

    fn step_end(&mut self, training: &mut Training) -> Result<Flow> {
        for (name, before) in std::mem::take(&mut self.before) {
            let Some(var) = training.parameters().get(&name) else { continue };
            let ratio = norm(&(var.as_tensor() - &before)?)? / norm(&before)?;
            // Of nothing nothing is a share: neither infinite nor NaN.
            if ratio.is_finite() {
                self.recorded().entry(name).or_default().push((training.state().step, ratio));
            }
        }
        Ok(Flow::Continue)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::training::trainer_tests::{loaders, trainer};

    #[test]
    fn ratios_are_those_of_the_weights_and_do_not_change_the_training() {
        let (train, validation) = loaders();
        let run = |updates: Option<UpdateRatios>, rate: f64| {
            let (mut builder, parameters) = trainer(2);
            let before = parameters.get("0.weight").unwrap().as_tensor().copy().unwrap();
            if let Some(updates) = updates {
                builder = builder.callback(updates);
            }
            let mut trainer = builder.learning_rate(rate).quiet().build().unwrap();
            (trainer.fit(&train, Some(&validation)).unwrap().step_losses(), before, parameters)
        };
        let updates = UpdateRatios::new(3).unwrap();
        let (losses, _, _) = run(Some(updates.clone()), 0.01);
        assert_eq!(losses, run(None, 0.01).0);
        let ratios = updates.ratios();
        assert_eq!(ratios.keys().collect::<Vec<_>>(), ["0.weight", "3.weight"]);
        assert_eq!(ratios["0.weight"].iter().map(|&(step, _)| step).collect::<Vec<_>>(), [1, 4]);
        // A rate ten times as high moves the first step ten times as far.
        let fast = UpdateRatios::new(100).unwrap();
        run(Some(fast.clone()), 0.1);
        let quotient = fast.ratios()["0.weight"][0].1 / ratios["0.weight"][0].1;
        assert!((quotient - 10.0).abs() < 1e-3, "{quotient}");
        assert!(updates.table().to_string().contains("0.weight"));
        assert!(updates.figure().unwrap().svg().contains("10⁻³"));
        assert!(UpdateRatios::new(0).is_err());
    }

    #[test]
    fn a_weight_of_zeros_has_no_ratio_before_it_has_moved() {
        let (train, validation) = loaders();
        let updates = UpdateRatios::new(1).unwrap();
        let (builder, parameters) = trainer(2);
        let weight = parameters.get("3.weight").unwrap();
        weight.set(&weight.zeros_like().unwrap()).unwrap();
        let mut trainer = builder.callback(updates.clone()).learning_rate(0.1).quiet().build().unwrap();
        trainer.fit(&train, Some(&validation)).unwrap();
        let ratios = updates.ratios();
        assert_eq!(ratios["3.weight"][0].0, 2);
        assert!(ratios.values().flatten().all(|(_, ratio)| ratio.is_finite() && *ratio < 10.0), "{ratios:?}");
        let svg = updates.figure().unwrap().svg().to_owned();
        assert!(!svg.contains("2147483647"), "{svg}");
    }
}
