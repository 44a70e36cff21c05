//! A training on several ranks: what they tell each other, and when.
//!
//! A step is three meetings. Before the backward pass the ranks add up what their losses are means of, so that
//! each can weight its own; whoever could not come so far says so there, and all end with the same error. Then
//! the gradients are added, in buckets, and the buffers averaged. After the batch they agree on whether to stop.
//! Batch norms that see the batches of all ranks meet within both passes, each once.

use std::sync::Arc;

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor};

use crate::data::{Batch, DataLoader};
use crate::distributed::{
    Buckets, Communicator, Outcome, SynchronisedBatchNorm, broadcast_parameters, checksums, gather_states,
};
use crate::error::{Error, Result};
use crate::losses::MeanOf;
use crate::nn::Parameters;
use crate::random::Generator;
use crate::stateful::State;
use crate::training::Training;
use crate::training::step::{Forward, forward};

mod buffers;
mod evaluation;
mod resume;
mod turn;

use buffers::Buffers;
pub(super) use resume::{RANKS, generators_of};
pub(super) use turn::Turn;

/// Steps between two comparisons of the weights.
const INTERVAL: usize = 1000;

/// This rank of a training.
pub(crate) struct Ranks {
    pub(super) communicator: Arc<dyn Communicator>,
    buckets: Buckets,
    buffers: Buffers,
    /// What the loss of all ranks is a mean of, since the last step.
    wholes: Vec<MeanOf>,
    /// Examples since the last step: of this rank, and of all.
    examples: (usize, usize),
    /// Whether a term of this rank's loss counted nothing: parameters may have no gradient here.
    left_out: bool,
    /// A reason to stop that waits for the next step: accumulated gradients are not saved.
    waiting: Option<String>,
    /// Whether the generators of layers are this rank's own.
    seeded: bool,
    /// Whether all ranks know of the error that ends the training.
    agreed: bool,
    /// Whether another rank's error ended this rank's part of the forward pass.
    interrupted: bool,
    /// What batch norms see the batches of all ranks through, if they do.
    together: Option<Arc<SynchronisedBatchNorm>>,
}

impl Ranks {
    pub(super) fn new(communicator: Arc<dyn Communicator>, together: Option<SynchronisedBatchNorm>) -> Self {
        Self {
            communicator,
            buckets: Buckets::default(),
            buffers: Buffers::default(),
            wholes: Vec::new(),
            examples: (0, 0),
            left_out: false,
            waiting: None,
            seeded: false,
            agreed: false,
            interrupted: false,
            together: together.map(Arc::new),
        }
    }

    pub(super) fn rank(&self) -> usize {
        self.communicator.rank()
    }

    pub(super) fn size(&self) -> usize {
        self.communicator.size()
    }

    /// A new call of `fit` begins.
    pub(super) fn start(&mut self) {
        (self.wholes, self.examples) = (Vec::new(), (0, 0));
        (self.waiting, self.agreed, self.left_out, self.interrupted) = (None, false, false, false);
    }

    /// The training ends with an error: the other ranks must not wait, unless they have it, too.
    pub(super) fn give_up(&self, reason: &str) {
        if !self.agreed {
            self.communicator.abort(reason);
        }
    }

    /// An error on all ranks, if one has something to say.
    fn all_or_none(&mut self, own: Option<String>) -> Result<()> {
        let size = self.size();
        let said = self.communicator.all_gather(own.as_deref().unwrap_or_default().as_bytes())?;
        let failed: Vec<usize> = (0..size).filter(|&rank| !said[rank].is_empty()).collect();
        let Some((&first, others)) = failed.split_first() else { return Ok(()) };
        self.agreed = true;
        let mut message = format!("rank {first} of {size} failed: {}", String::from_utf8_lossy(&said[first]));
        if !others.is_empty() {
            message.push_str(&format!(" (so did {others:?})"));
        }
        Err(Error::training(message))
    }

    /// The first reason that a rank has to stop, on all of them.
    fn agree(&self, stop: Option<String>) -> Result<Option<String>> {
        let mut votes = [f64::from(u8::from(stop.is_some()))];
        self.communicator.all_reduce_f64(&mut votes)?;
        if votes[0] == 0.0 {
            return Ok(None);
        }
        // A reason may be an empty text.
        let own = stop.map_or_else(String::new, |reason| format!("+{reason}"));
        let all = self.communicator.all_gather(own.as_bytes())?;
        let reason = all.iter().find(|reason| !reason.is_empty());
        Ok(reason.map(|reason| String::from_utf8_lossy(&reason[1..]).into_owned()))
    }

    /// Gives layers of ranks above 0 generators of their own, from those of rank 0: they must not drop the same
    /// units of different examples.
    fn seed(&mut self, parameters: &Parameters) {
        let rank = self.rank() as u64;
        if !std::mem::replace(&mut self.seeded, true) && rank > 0 {
            for (_, generator) in parameters.generators() {
                let mut generator = generator.lock();
                *generator = Generator::stream(generator.next_u64(), &[rank]);
            }
        }
    }
}

impl Training {
    /// How many ranks train together; 1 without
    /// [`distributed`](crate::training::TrainerBuilder::distributed).
    pub fn ranks(&self) -> usize {
        self.ranks.as_ref().map_or(1, Ranks::size)
    }

    /// Which of them this is, counted from 0. What writes should do so on rank 0 alone.
    pub fn rank(&self) -> usize {
        self.ranks.as_ref().map_or(0, Ranks::rank)
    }

    /// Refuses loaders that are not this rank's.
    pub(super) fn check_shards(&self, train: &DataLoader, validation: Option<&DataLoader>) -> Result<()> {
        let own = (self.rank(), self.ranks());
        let described = |(rank, ranks): (usize, usize)| {
            if ranks == 1 { "all of it".to_owned() } else { format!("rank {rank} of {ranks}") }
        };
        for (name, loader, whole) in [("train", Some(train), false), ("validation", validation, true)] {
            let Some(part) = loader.map(DataLoader::sharded) else { continue };
            // Validation data may be small: every rank may look at all of it.
            if part != own && !(whole && part == (0, 1)) {
                return Err(Error::argument(
                    name,
                    format!("a loader of {}", described(own)),
                    format!("one of {}", described(part)),
                )
                .hint("`loader.shard(communicator.rank(), communicator.size())?`"));
            }
        }
        Ok(())
    }

    /// Begins together: the same training, the same weights.
    pub(super) fn join(&mut self, train: &DataLoader, validation: Option<&DataLoader>, saves: bool) -> Result<()> {
        let Some(ranks) = &mut self.ranks else { return Ok(()) };
        ranks.start();
        let loader = |name: &str, loader: &DataLoader| {
            format!("{name}: {} batches of {}, {} examples", loader.len(), loader.batch_size(), loader.examples())
        };
        let described = [
            loader("training data", train),
            validation.map_or("no validation data".to_owned(), |validation| loader("validation data", validation)),
            format!("{} epochs, {} batches an epoch", self.epochs, self.state.batches_per_epoch),
            format!("epoch {}, batch {}, step {} done", self.state.epoch, self.state.batch, self.state.step),
            format!("accumulating {}", self.accumulator.as_ref().map_or(1, |group| group.batches())),
            format!("an average of the weights: {}", self.average.is_some()),
            format!("checkpoints: {saves}"),
            format!("synchronised batch norm: {}", ranks.together.is_some()),
            format!("metrics: {}", self.metrics.iter().map(|metric| metric.name()).collect::<Vec<_>>().join(", ")),
        ];
        let all = ranks.communicator.all_gather(described.join("\n").as_bytes())?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (first, other) = (text(&all[0]), all.iter().position(|other| *other != all[0]));
        if let Some(other) = other {
            let there = text(&all[other]);
            let differs = first.lines().zip(there.lines()).find(|(first, there)| first != there);
            let (first, there) = differs.unwrap_or_default();
            ranks.agreed = true;
            return Err(Error::training(format!("rank {other} is about to do `{there}`, rank 0 `{first}`"))
                .hint("every rank builds the same training, and resumes from the same checkpoint"));
        }
        if self.state.batches_in_step > 0 {
            return Err(Error::training("the training stands between two steps of an accumulation of one process")
                .hint("go on with one process until its next step, and with several from there"));
        }
        broadcast_parameters(&*ranks.communicator, &self.parameters)?;
        ranks.buffers.remember(&self.parameters)?;
        if self.state.step == 0 && self.state.batch == 0 {
            ranks.seed(&self.parameters);
        }
        Ok(())
    }

    /// The forward pass of this rank's batch, if it has one; where batch norms see the batches of all ranks, they all
    /// are in it together.
    pub(super) fn forward(&mut self, batch: Option<Result<&Batch>>) -> Option<Result<Forward>> {
        let Self { model, loss, ranks, .. } = self;
        let run = |batch: &Batch| forward(&**model, &**loss, batch);
        let Some((together, ranks)) = ranks.as_mut().and_then(|ranks| Some((ranks.together.clone()?, ranks))) else {
            return batch.map(|batch| batch.and_then(run));
        };
        match together.forward_part(batch.map(|batch| batch.map(|batch| move || run(batch)))) {
            Outcome::Done(forward) => Some(Ok(forward)),
            Outcome::Nothing => None,
            Outcome::Failed(error) => Some(Err(error)),
            Outcome::Interrupted(rank) => {
                ranks.interrupted = true;
                Some(Err(Error::training(format!("rank {rank} failed"))))
            }
        }
    }

    /// A backward pass of this rank, if it has one; together with the others, as the forward pass.
    pub(super) fn backward<T>(&mut self, work: Option<impl FnOnce(&mut Self) -> Result<T>>) -> Result<Option<T>> {
        let Some(together) = self.ranks.as_ref().and_then(|ranks| ranks.together.clone()) else {
            return work.map(|work| work(self)).transpose();
        };
        let this = &mut *self;
        let own = match together.backward_part(work.map(|work| move || work(this))) {
            Outcome::Done(found) => return Ok(Some(found)),
            Outcome::Nothing => return Ok(None),
            Outcome::Failed(error) => Some(error.to_string()),
            Outcome::Interrupted(_) => None,
        };
        self.ranks.as_mut().map_or(Ok(()), |ranks| ranks.all_or_none(own))?;
        Err(Error::training("a rank failed without saying why"))
    }

    /// The gradient of all ranks, from this rank's share of it; `None` if it had no example.
    pub(super) fn all_reduce(&mut self, gradients: Option<GradStore>) -> Result<GradStore> {
        let Some(ranks) = &mut self.ranks else {
            return gradients.ok_or_else(|| Error::training("there is no gradient to step with"));
        };
        let trainable = self.parameters.trainable();
        if let Some(gradients) = &gradients {
            let missing = self.parameters.missing_gradients(gradients);
            if !missing.is_empty() && !ranks.left_out {
                return Err(Error::training(format!("{} received no gradient", missing.join(", ")))
                    .hint("is it used in `forward`, and cut off by no `detach`?"));
            }
        }
        let mut tensors = Vec::with_capacity(trainable.len());
        for (_, var) in &trainable {
            let own = gradients.as_ref().and_then(|gradients| gradients.get(var));
            tensors.push(own.map_or_else(|| var.zeros_like(), |gradient| Ok(gradient.clone()))?);
        }
        ranks.left_out = false;
        let (own, all) = std::mem::take(&mut ranks.examples);
        tensors.extend(ranks.buffers.shares(own as f64 / all.max(1) as f64, ranks.rank(), ranks.size())?);
        let mut sums = ranks.buckets.all_reduce(&*ranks.communicator, &tensors)?;
        ranks.buffers.set(sums.split_off(trainable.len()))?;
        ranks.wholes.clear();
        // candle makes gradient stores only by `backward`.
        let mut gradients = gradients.map_or_else(|| Tensor::zeros((), DType::F32, &Device::Cpu)?.backward(), Ok)?;
        for ((_, var), sum) in trainable.iter().zip(sums) {
            gradients.insert(var, sum);
        }
        Ok(gradients)
    }

    /// The gradients that were accumulated, as this rank's share of those of all; `None` if it had no example.
    pub(super) fn take_accumulated(&mut self) -> Result<Option<GradStore>> {
        let Some(group) = &mut self.accumulator else { return Ok(None) };
        match &self.ranks {
            None => group.take().map(Some),
            Some(_) if group.is_empty() => Ok(None),
            Some(ranks) => group.take_part_of(&ranks.wholes).map(Some),
        }
    }

    /// Whether to stop, the same on all ranks, and never between two steps of an accumulation.
    pub(super) fn agree(&mut self, stop: Option<String>) -> Result<Option<String>> {
        let Some(ranks) = &mut self.ranks else { return Ok(stop) };
        let stop = match ranks.waiting.take() {
            Some(waiting) => Some(waiting),
            None => ranks.agree(stop)?,
        };
        if self.state.batches_in_step > 0 {
            ranks.waiting = stop;
            return Ok(None);
        }
        Ok(stop)
    }

    /// [`Training::agree`], where only the clock can make a difference.
    pub(super) fn agree_on_time(&mut self, stop: Option<String>) -> Result<Option<String>> {
        if self.limits.max_time.is_some() { self.agree(stop) } else { Ok(stop) }
    }

    /// An error on all ranks if their weights are no longer the same, to the bit.
    pub(super) fn compare_weights(&mut self, every_time: bool) -> Result<()> {
        let step = self.state.step;
        let Some(ranks) = &mut self.ranks else { return Ok(()) };
        if !every_time && (!step.is_multiple_of(INTERVAL) || self.state.batches_in_step > 0) {
            return Ok(());
        }
        let own = checksums(&self.parameters)?;
        let bytes: Vec<u8> = own.iter().flat_map(|(_, checksum)| checksum.to_le_bytes()).collect();
        let all = ranks.communicator.all_gather(&bytes)?;
        let Some(other) = all.iter().position(|other| *other != all[0]) else { return Ok(()) };
        let differs = all[0].chunks(4).zip(all[other].chunks(4)).position(|(here, there)| here != there);
        let name = differs.and_then(|index| own.get(index)).map_or("a variable", |(name, _)| name.as_str());
        ranks.agreed = true;
        Err(Error::training(format!("`{name}` of rank {other} is no longer that of rank 0 after step {step}"))
            .hint("does a callback change weights or gradients on one rank alone, or differ the processors?"))
    }

    /// The states of all ranks' generators; one, if there is only this process.
    pub(super) fn gather_generators(&self, own: State) -> Result<Vec<State>> {
        match &self.ranks {
            Some(ranks) if !own.is_empty() => gather_states(&*ranks.communicator, &own),
            _ => Ok(vec![own]),
        }
    }
}
