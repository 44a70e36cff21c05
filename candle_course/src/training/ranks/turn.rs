//! One batch of all ranks, between forward and backward.

use candle_core::{DType, Device, Tensor};

use crate::error::{Error, Result};
use crate::losses::{Mean, MeanOf};
use crate::ops::zero_of;
use crate::training::Training;
use crate::training::step::Forward;

/// Terms that a loss may have: the ranks exchange numbers of the same count, with or without an example.
const MOST_TERMS: usize = 16;
/// Before the terms: failed, weights set back, ranks with an example, examples, terms.
const HEAD: usize = 5;

/// A batch after the forward pass.
pub(in crate::training) struct Turn {
    /// The model's output for this rank's examples, if it has any; so for the others.
    pub(in crate::training) predictions: Option<Tensor>,
    /// Whose gradient is this rank's share of the gradient of all.
    pub(in crate::training) loss: Option<Tensor>,
    /// The terms of this rank's loss.
    pub(in crate::training) means: Vec<Mean>,
    /// What is recorded: the loss of all, its terms, how many examples.
    pub(in crate::training) recorded: (Tensor, Vec<Mean>, usize),
}

/// Three numbers for every term of a loss: 1 if it is a sum, what it is a mean of, and the total.
pub(super) fn totals<'a>(means: impl Iterator<Item = &'a Mean>) -> Result<Vec<[f64; 3]>> {
    let total = |Mean { value, of }: &Mean| {
        if let Some(reason) = of.whole() {
            return Err(Error::training(format!("this loss cannot be split among ranks: {reason}"))
                .hint("choose a loss that is a mean over examples or positions"));
        }
        let value = value.detach().to_device(&Device::Cpu)?.to_dtype(DType::F64)?.to_scalar::<f64>()?;
        Ok(match of.to_number()? {
            count if count < 0.0 => [1.0, 0.0, value],
            // Of nothing there is no total, whatever the mean says.
            0.0 => [0.0, 0.0, 0.0],
            count => [0.0, count, count * value],
        })
    };
    means.map(total).collect()
}

/// Totals of all ranks as a mean.
pub(super) fn mean([sums, count, total]: [f64; 3]) -> (f64, MeanOf) {
    match sums > 0.0 {
        true => (total, MeanOf::Sum),
        false => (if count > 0.0 { total / count } else { 0.0 }, MeanOf::Count(count)),
    }
}

/// A rank's totals in a row of fixed length.
pub(super) fn row(head: &[f64], totals: &[[f64; 3]]) -> Result<Vec<f64>> {
    if totals.len() > MOST_TERMS {
        return Err(Error::argument("loss", format!("at most {MOST_TERMS} terms on several ranks"), totals.len()));
    }
    let mut row = vec![0.0; head.len() + 3 * MOST_TERMS];
    row[..head.len()].copy_from_slice(head);
    totals.iter().enumerate().for_each(|(k, total)| row[head.len() + 3 * k..][..3].copy_from_slice(total));
    Ok(row)
}

/// The `terms` means that the summed rows tell of.
pub(super) fn means(row: &[f64], head: usize, terms: usize) -> Vec<(f64, MeanOf)> {
    row[head..].chunks_exact(3).take(terms).map(|total| mean([total[0], total[1], total[2]])).collect()
}

impl Training {
    /// Meets the other ranks with what came of the forward pass of this rank's `examples`; `None` if it has none
    /// in this batch. If a rank failed, all do.
    pub(in crate::training) fn meet(&mut self, forward: Option<Result<Forward>>, examples: usize) -> Result<Turn> {
        let Some(ranks) = &mut self.ranks else {
            let forward = forward.ok_or_else(|| Error::training("a batch without examples"))?;
            let Forward { predictions, loss, means } = forward?;
            let recorded = (loss.clone(), means.clone(), examples);
            return Ok(Turn { predictions: Some(predictions), loss: Some(loss), means, recorded });
        };
        let told = |forward: Forward| {
            let totals = totals(forward.means.iter())?;
            let row = row(&[0.0, 0.0, 1.0, examples as f64, totals.len() as f64], &totals)?;
            Ok((forward, totals, row))
        };
        let own = forward.map(|forward| forward.and_then(told)).transpose();
        let mut all = match &own {
            Ok(Some((.., row))) => row.clone(),
            Ok(None) => row(&[0.0; HEAD], &[])?,
            Err(_) => row(&[1.0, f64::from(u8::from(self.guard.has_set_back())), 0.0, 0.0, 0.0], &[])?,
        };
        ranks.communicator.all_reduce_f64(&mut all)?;
        let [failed, set_back, turns, joint, terms, ..] = all[..] else { return Err(Error::training("no numbers")) };
        let own = if failed > 0.0 {
            // Whose weights were lost, set them back; so do the others.
            if set_back > 0.0 && own.is_ok() {
                self.guard.set_back(&self.parameters)?;
            }
            let own = own.err().filter(|_| !ranks.interrupted);
            ranks.all_or_none(own.map(|error| error.to_string()))?;
            return Err(Error::training("a rank failed without saying why"));
        } else {
            own?
        };
        let terms = terms / turns;
        let same = own.as_ref().is_none_or(|(_, totals, _)| totals.len() as f64 == terms);
        if !(terms >= 1.0 && terms.fract() == 0.0 && same) {
            return Err(Error::training("the loss has other terms on another rank"));
        }
        let joint_means = means(&all, HEAD, terms as usize);
        ranks.wholes = match ranks.wholes.is_empty() {
            true => joint_means.iter().map(|(_, of)| of.clone()).collect(),
            false => {
                let pairs = ranks.wholes.iter().zip(&joint_means);
                pairs.map(|(so_far, (_, of))| so_far.join(of)).collect::<Result<_>>()?
            }
        };
        ranks.examples.0 += examples;
        ranks.examples.1 += joint as usize;
        let dtype = if self.parameters.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
        let device = self.parameters.device();
        let scalar = |value: f64| -> Result<Tensor> {
            Ok(Tensor::new(value, &Device::Cpu)?.to_dtype(dtype)?.to_device(device)?)
        };
        let recorded = joint_means.iter().map(|(value, of)| Ok(Mean { value: scalar(*value)?, of: of.clone() }));
        let recorded = recorded.collect::<Result<Vec<_>>>()?;
        let loss: f64 = joint_means.iter().map(|(value, _)| value).sum();
        let recorded = (scalar(loss)?, recorded, joint as usize);
        let Some((Forward { predictions, means, .. }, totals, _)) = own else {
            return Ok(Turn { predictions: None, loss: None, means: Vec::new(), recorded });
        };
        let shares = shares(&means, &totals, &joint_means)?;
        if ranks.together.is_some() {
            // Gradients of all ranks meet in the backward pass, and have to be shares of the same loss there; whose
            // loss counts nothing still passes on what comes through the statistics.
            let whole = |(share, (_, of)): (Option<Tensor>, &(f64, MeanOf))| {
                let value = share.map_or_else(|| zero_of(&predictions), Ok)?;
                Ok(Mean { value, of: of.clone() })
            };
            let means = shares.into_iter().zip(&joint_means).map(whole).collect::<Result<Vec<_>>>()?;
            let loss = means.iter().skip(1).try_fold(means[0].value.clone(), |sum, mean| sum + &mean.value)?;
            return Ok(Turn { predictions: Some(predictions), loss: Some(loss), means, recorded });
        }
        ranks.left_out |= shares.iter().any(Option::is_none);
        let mut loss: Option<Tensor> = None;
        for share in shares.into_iter().flatten() {
            loss = Some(loss.map_or_else(|| Ok(share.clone()), |loss| loss + &share)?);
        }
        Ok(Turn { predictions: Some(predictions), loss, means, recorded })
    }
}

/// Of every term this rank's share of the loss of all, if it counted anything.
fn shares(means: &[Mean], totals: &[[f64; 3]], joint: &[(f64, MeanOf)]) -> Result<Vec<Option<Tensor>>> {
    let share = |((Mean { value, .. }, [_, count, _]), (_, of)): ((&Mean, &[f64; 3]), &(f64, MeanOf))| match of {
        // Candle gives what is multiplied by 0 no gradient; and the mean of nothing may be no number.
        MeanOf::Count(_) if *count == 0.0 => Ok(None),
        MeanOf::Count(whole) => Ok(Some((value * (count / whole))?)),
        _ => Ok(Some(value.clone())),
    };
    means.iter().zip(totals).zip(joint).map(share).collect()
}
