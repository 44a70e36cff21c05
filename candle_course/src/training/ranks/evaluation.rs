//! What all ranks found in their parts of the validation data.

use std::ops::ControlFlow;

use crate::error::{Error, Result};
use crate::metrics::Metric;
use crate::stateful::{self, State};
use crate::training::Evaluation;
use crate::training::losses::DeviceLosses;
use crate::training::ranks::{Ranks, turn};
use crate::training::step::metric_values;

/// Before the terms: examples, ranks with a batch, their terms.
const HEAD: usize = 3;

impl Ranks {
    /// The losses of all ranks' batches, and the metrics of all their examples; or why one stopped.
    pub(in crate::training) fn evaluation(
        &self,
        losses: &DeviceLosses,
        metrics: &mut [Box<dyn Metric>],
        stop: Option<String>,
    ) -> Result<ControlFlow<String, Evaluation>> {
        if let Some(reason) = self.agree(stop)? {
            return Ok(ControlFlow::Break(reason));
        }
        let totals = losses.read()?.totals()?;
        let some = f64::from(u8::from(!losses.is_empty()));
        let mut all = turn::row(&[losses.examples() as f64, some, totals.len() as f64], &totals)?;
        self.communicator.all_reduce_f64(&mut all)?;
        let (examples, terms) = (all[0], all[2] / all[1]);
        if all[1] == 0.0 {
            return Err(Error::undefined("evaluation of no batches"));
        }
        let loss = turn::means(&all, HEAD, terms as usize).iter().map(|(value, _)| value).sum();
        self.merge(metrics)?;
        Ok(ControlFlow::Continue(Evaluation { loss, metrics: metric_values(metrics)?, examples: examples as usize }))
    }

    /// Gives the metrics of every rank what those of all have seen, in the order of the ranks.
    pub(in crate::training) fn merge(&self, metrics: &mut [Box<dyn Metric>]) -> Result<()> {
        if metrics.is_empty() {
            return Ok(());
        }
        let mut own = State::new();
        for (i, metric) in metrics.iter().enumerate() {
            own.extend(stateful::nest(&i.to_string(), metric.state()?));
        }
        let all = crate::distributed::gather_states(&*self.communicator, &own)?;
        for (i, metric) in metrics.iter_mut().enumerate() {
            let mut states = all.iter().map(|state| stateful::part(state, &i.to_string()));
            metric.load_state(&states.next().unwrap_or_default())?;
            states.try_for_each(|state| metric.merge(&state))?;
        }
        Ok(())
    }
}
