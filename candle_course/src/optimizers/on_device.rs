//! A step on a CUDA device: all parameters in one launch, and no wait.
//!
//! Whether gradients are finite is found out on the device, too, and the update obeys there. The
//! host hears of it at the latest [`INTERVAL`] steps later. Until then the device leaves out every
//! further step, so that the error, once it comes, still finds the parameters as they were.

use std::collections::BTreeMap;

use candle_core::{Tensor, Var};

use super::engine::{Moment, Moments, list};
use super::groups::NonFinite;
use crate::error::{Error, Result};
use crate::kernels::cuda::faults;
use crate::kernels::cuda::runtime::device_of;
use crate::kernels::cuda::updates::{Item, Policy, Report, Watch, fits, run};
use crate::kernels::updates::{Kernel, Slots};

/// Steps after which the host looks at what the device found.
const INTERVAL: u64 = 100;

/// The device's side of an optimizer.
#[derive(Default)]
pub(super) struct OnDevice {
    watch: Option<Watch>,
    /// The parameters of the steps that the host has not heard of.
    names: Vec<String>,
    unread: u64,
}

impl NonFinite {
    fn policy(self) -> Policy {
        match self {
            Self::Error => Policy::Stop,
            Self::Skip => Policy::Skip,
            Self::Ignore => Policy::Ignore,
        }
    }
}

/// A parameter's name, itself, its gradient, and the numbers of its step.
pub(super) type Update<'a> = (&'a str, &'a Var, &'a Tensor);

impl OnDevice {
    /// One step, if the device can do it in one: whether it did.
    pub fn step<K: Kernel>(
        &mut self,
        pairs: &[Update<'_>],
        moments: &mut BTreeMap<String, Moments>,
        fill: &[f64],
        non_finite: NonFinite,
        kernel: impl Fn(&str, &Var, u64) -> K,
    ) -> Result<bool> {
        let Some(&(_, first, _)) = pairs.first() else { return Ok(false) };
        if !fits(pairs.iter().map(|(_, var, _)| var.as_tensor())) {
            return Ok(false);
        }
        let gradients = pairs
            .iter()
            .map(|(_, var, gradient)| gradient.to_dtype(var.dtype())?.contiguous())
            .collect::<candle_core::Result<Vec<Tensor>>>()?;
        if self.watch.is_none() {
            self.watch = Some(Watch::of(first)?);
        }
        let Some(watch) = &mut self.watch else { return Ok(false) };
        if non_finite != NonFinite::Ignore {
            watch.judge(&gradients.iter().collect::<Vec<_>>(), non_finite.policy(), 0.0)?;
        }
        for (name, var, _) in pairs {
            if !moments.contains_key(*name) {
                moments.insert((*name).to_owned(), Moments { steps: 0, slots: Slots::new(var, fill, false)? });
            }
        }
        let mut items = Vec::with_capacity(pairs.len());
        let mut launched = "";
        for ((name, var, _), gradient) in pairs.iter().zip(&gradients) {
            let Some(Moments { steps, slots: Slots::Device(slots) }) = moments.get(*name) else {
                return Err(Error::training(format!("the state of `{name}` is not on its device")));
            };
            let numbers;
            (launched, numbers) = kernel(name, var, steps.saturating_add(1)).device();
            items.push(Item { target: var.as_tensor(), source: Some(gradient), slots, numbers });
        }
        run(launched, &items, Some(watch))?;
        for (name, ..) in pairs {
            if let Some(moments) = moments.get_mut(*name) {
                moments.steps = moments.steps.saturating_add(1);
            }
        }
        self.unread += u64::from(non_finite != NonFinite::Ignore);
        Ok(true)
    }

    /// Whether the host should look before a step of these parameters.
    pub fn is_due(&self, pairs: &[Update<'_>]) -> bool {
        self.unread > 0 && (self.unread >= INTERVAL || !self.names.iter().eq(pairs.iter().map(|(name, ..)| name)))
    }

    /// Which parameters the next steps are of.
    pub fn expect(&mut self, pairs: &[Update<'_>]) {
        if self.unread == 0 && !self.names.iter().eq(pairs.iter().map(|(name, ..)| name)) {
            self.names = pairs.iter().map(|(name, ..)| (*name).to_owned()).collect();
        }
    }

    fn report(&self) -> Result<Option<Report>> {
        match &self.watch {
            Some(watch) if self.unread > 0 => Ok(Some(watch.read()?)),
            _ => Ok(None),
        }
    }

    /// How many steps the device left out that the host has not heard of. Waits.
    pub fn all_left_out(&self) -> Result<u64> {
        Ok(self.report()?.map_or(0, |report| report.skipped))
    }

    /// How many of the steps counted on the host the device left out, by name. Waits.
    ///
    /// # Errors
    /// If it stopped because of a gradient.
    pub fn left_out(&self) -> Result<impl Fn(&str) -> u64 + '_> {
        let report = self.report()?;
        if let Some(report) = report.as_ref().filter(|report| report.stopped) {
            return Err(self.explain(report)?);
        }
        let skipped = report.map_or(0, |report| report.skipped);
        Ok(move |name: &str| if self.names.iter().any(|own| own == name) { skipped } else { 0 })
    }

    /// Hears what the device found, and corrects the host's counts. Waits. The number of steps that
    /// were skipped.
    ///
    /// # Errors
    /// If the device stopped because of a gradient.
    pub fn settle(&mut self, moments: &mut BTreeMap<String, Moments>) -> Result<u64> {
        let Some(report) = self.report()? else { return Ok(0) };
        self.unread = 0;
        if report.skipped == 0 {
            return Ok(0);
        }
        for name in &self.names {
            if let Some(moments) = moments.get_mut(name) {
                moments.steps = moments.steps.saturating_sub(report.skipped);
            }
        }
        let error = if report.stopped { Some(self.explain(&report)?) } else { None };
        if let Some(watch) = &mut self.watch {
            watch.forget()?;
        }
        error.map_or(Ok(report.skipped), Err)
    }

    fn explain(&self, report: &Report) -> Result<Error> {
        let Some(watch) = &self.watch else { return Ok(Error::training("no step was taken")) };
        if let Some(fault) = faults::error(watch.device())? {
            return Ok(fault);
        }
        let bad = watch.not_finite()?;
        let names: Vec<&str> = bad.iter().filter_map(|&index| self.names.get(index)).map(String::as_str).collect();
        let when = match report.skipped {
            0 | 1 => String::new(),
            steps => format!(" in the step {} steps ago; no parameter has changed since", steps - 1),
        };
        Ok(Error::training(format!("the gradient of {} holds NaN or infinity{when}", list(&names)))
            .hint("lower the learning rate, clip the gradients, or look for a division by 0 or log(0) in the loss"))
    }
}

/// What the CUDA kernels of optimizers are given first: step, rate, decay.
pub(super) fn numbers<const N: usize>(moment: &Moment, others: [f64; N]) -> [f64; 10] {
    let mut all = [0.0; 10];
    (all[0], all[1], all[2]) = (moment.step as f64, moment.learning_rate, moment.weight_decay);
    all[3..3 + N].copy_from_slice(&others);
    all
}

/// Changes all tensors by one kernel, in as few launches as their sizes allow; `false` where the
/// device cannot.
pub(super) fn change_all(name: &'static str, changes: &[(&Tensor, Option<&Tensor>, [f64; 2])]) -> Result<bool> {
    let Some((first, ..)) = changes.first() else { return Ok(true) };
    if device_of(first).is_err() || !fits(changes.iter().flat_map(|&(a, b, _)| [Some(a), b]).flatten()) {
        return Ok(false);
    }
    let items: Vec<Item<'_>> = changes
        .iter()
        .map(|&(target, source, [a, b])| {
            let mut numbers = [0.0; 10];
            (numbers[0], numbers[1]) = (a, b);
            Item { target, source, slots: &[], numbers }
        })
        .collect();
    run(name, &items, None)?;
    Ok(true)
}
