//! Schedules as figures.

use crate::error::{Error, Result};
use crate::language::label;
use crate::plot::{Figure, LineChart, Panels};
use crate::schedules::Schedule;
use crate::sizes;

/// Draws any [`Schedule`].
pub trait PlotSchedule: Schedule {
    /// A figure of steps `0..steps`; the momentum beneath, if the schedule cycles it.
    ///
    /// # Errors
    /// If there are no steps.
    ///
    /// # Examples
    ///
    /// ```
    /// use candle_course::prelude::*;
    ///
    /// let figure = OneCycleLR::new(0.1, 50)?.plot(50)?;
    /// assert!(figure.svg().contains("momentum"));
    /// # Ok::<(), candle_course::Error>(())
    /// ```
    fn plot(&self, steps: usize) -> Result<Figure> {
        if steps == 0 {
            return Err(Error::argument("steps", "at least 1", 0));
        }
        sizes::check::<[f64; 8]>("steps", steps)?; // rates, momenta and their points
        let chart = |title: &str, what: &str, values: &[f64]| {
            LineChart::builder(title).x_label(label("step")).y_label(what).first_x(0.0).steps(what, values).build()
        };
        let rates = chart(label("Learning rate"), label("learning rate"), &self.learning_rates(steps))?;
        let momenta: Option<Vec<f64>> = (0..steps).map(|step| self.momentum(step)).collect();
        match momenta {
            None => Ok(rates),
            Some(momenta) => Panels::builder(1).add(rates).add(chart("Momentum", "momentum", &momenta)?).build(),
        }
    }
}

impl<S: Schedule + ?Sized> PlotSchedule for S {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedules::OneCycleLR;

    #[test]
    fn the_figure_shows_rate_and_momentum() {
        let with = OneCycleLR::new(0.1, 50).unwrap().plot(50).unwrap();
        assert!(with.svg().contains("momentum"));
        let without = OneCycleLR::builder(0.1, 50).constant_momentum().build().unwrap().plot(50).unwrap();
        assert!(!without.svg().contains("momentum"));
        let schedule: Box<dyn Schedule> = Box::new(0.1);
        assert!(schedule.plot(0).unwrap_err().to_string().contains("`steps`: expected at least 1"));
    }
}
