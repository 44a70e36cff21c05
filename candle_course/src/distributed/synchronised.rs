//! Batch norm over the batches of all ranks.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::distributed::Communicator;
use crate::error::{Error, Result};
use crate::nn::Parameters;
use crate::ops::{Moments, RunningStatistics, Synchronise};

/// Lets the batch norms of a model normalise by the batches of all ranks together, as `torch.nn.SyncBatchNorm`
/// does: in training by mean and variance of all their numbers, weighted by how many each rank has, and with the
/// gradient that goes through those statistics to every rank's inputs. The running statistics are those of all.
/// Evaluation and frozen layers stay what they are.
///
/// [`TrainerBuilder::synchronise_batch_norm`](crate::training::TrainerBuilder::synchronise_batch_norm) does all of
/// this for the trainer. In a loop of one's own a forward pass goes into [`forward`](Self::forward) and a backward
/// pass into [`backward`](Self::backward), which all ranks call, whether or not they have examples; every pass
/// outside normalises by the rank's own batch. As the gradients of all ranks meet within the backward pass, every rank
/// divides its sum of losses by the same number before it: the examples of all ranks, say. The gradients of the
/// parameters are then added up, not averaged.
///
/// A layer costs two exchanges of a few numbers per channel, forward and backward. When this value is dropped, the
/// layers normalise alone again.
///
/// # Examples
///
/// ```
/// use candle_course::distributed::{LocalCommunicator, SynchronisedBatchNorm};
/// use candle_course::prelude::*;
///
/// let normalised = LocalCommunicator::run(2, |communicator| {
///     let parameters = Parameters::new(0, &Device::Cpu);
///     let norm = BatchNorm1d::new(1, &parameters.root())?;
///     let together = SynchronisedBatchNorm::new(communicator.clone(), &parameters)?;
///     // One rank has 0 and 1, the other 2.
///     let own = if communicator.rank() == 0 { vec![0f32, 1.] } else { vec![2.] };
///     let x = Tensor::from_slice(&own, (own.len(), 1), &Device::Cpu)?;
///     let y = together.forward(Some(|| Ok(norm.forward_t(&x, true)?)))?;
///     Ok(y.expect("it has examples").flatten_all()?.to_vec1::<f32>()?)
/// })?;
/// assert!(normalised[0][1].abs() < 1e-6); // the mean of all
/// assert!((normalised[1][0] - 1.2247).abs() < 1e-3);
/// # Ok::<(), Error>(())
/// ```
pub struct SynchronisedBatchNorm {
    meeting: Arc<Meeting>,
    parameters: Parameters,
}

/// The ranks while they are in a pass.
struct Meeting {
    communicator: Arc<dyn Communicator>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    pass: Option<Pass>,
    /// Why the running pass cannot go on.
    ended: Option<Ended>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pass {
    Forward,
    Backward,
}

#[derive(Debug, Clone)]
enum Ended {
    /// Another rank failed, which says why itself.
    Failed(usize),
    /// All know of it, or the communicator has ended.
    Impossible(String),
}

/// What came of a rank's part of a pass.
pub(crate) enum Outcome<T> {
    Done(T),
    /// It had no part.
    Nothing,
    /// It failed; whichever rank was in the pass knows that it did.
    Failed(Error),
    /// Another rank failed.
    Interrupted(usize),
}

/// What a rank brings to an exchange.
#[derive(Debug, Clone, PartialEq)]
enum Message {
    /// It has no examples.
    Absent,
    /// It is through with its part.
    Done,
    Failed,
    Moments(String, Moments),
    Totals(String, Vec<[f64; 2]>),
}

impl Message {
    /// A letter, and for the last two the length of the name, the name, and numbers.
    fn to_bytes(&self) -> Vec<u8> {
        let with = |letter: u8, layer: &str, numbers: &mut dyn Iterator<Item = f64>| {
            let mut bytes = vec![letter];
            bytes.extend((layer.len() as u32).to_le_bytes());
            bytes.extend(layer.as_bytes());
            numbers.for_each(|number| bytes.extend(number.to_le_bytes()));
            bytes
        };
        match self {
            Self::Absent => vec![b'-'],
            Self::Done => vec![b'.'],
            Self::Failed => vec![b'!'],
            Self::Moments(layer, Moments { count, mean, variance, momentum }) => {
                let head = [*count as f64, *momentum];
                with(b'm', layer, &mut head.into_iter().chain(mean.iter().chain(variance).copied()))
            }
            Self::Totals(layer, totals) => with(b't', layer, &mut totals.iter().flatten().copied()),
        }
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (&letter, rest) = bytes.split_first()?;
        match letter {
            b'-' => return Some(Self::Absent),
            b'.' => return Some(Self::Done),
            b'!' => return Some(Self::Failed),
            _ => {}
        }
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let (layer, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        let layer = String::from_utf8(layer.to_vec()).ok()?;
        let (numbers, []) = rest.as_chunks::<8>() else { return None };
        let numbers: Vec<f64> = numbers.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect();
        match letter {
            b'm' => {
                let (&[count, momentum], numbers) = numbers.split_first_chunk::<2>()?;
                let (mean, variance) = numbers.split_at(numbers.len() / 2);
                let (mean, variance) = (mean.to_vec(), variance.to_vec());
                Some(Self::Moments(layer, Moments { count: count as usize, mean, variance, momentum }))
            }
            b't' => Some(Self::Totals(layer, numbers.chunks_exact(2).map(|pair| [pair[0], pair[1]]).collect())),
            _ => None,
        }
    }

    /// What the rank is about to do; those that have examples do the same.
    fn doing(&self) -> String {
        let name = |layer: &str| layer.trim_end_matches('.').to_owned();
        match self {
            Self::Absent | Self::Done => "ends the pass".to_owned(),
            Self::Failed => "failed".to_owned(),
            Self::Moments(layer, moments) => format!("normalises `{}` of {} channels", name(layer), moments.mean.len()),
            Self::Totals(layer, totals) => {
                format!("goes back through `{}` of {} channels", name(layer), totals.len())
            }
        }
    }
}

impl SynchronisedBatchNorm {
    /// Of the layers that have their variables in `parameters`, this crate's
    /// [`BatchNorm1d`](crate::nn::BatchNorm1d) and [`BatchNorm2d`](crate::nn::BatchNorm2d); all ranks call this.
    ///
    /// # Errors
    /// If there is none, or one of another crate, whose statistics cannot be shared.
    pub fn new(communicator: Arc<dyn Communicator>, parameters: &Parameters) -> Result<Self> {
        Self::check(parameters)?;
        let meeting = Arc::new(Meeting { communicator, state: Mutex::default() });
        parameters.set_ranks(Some(Arc::clone(&meeting) as Arc<dyn Synchronise>));
        Ok(Self { meeting, parameters: parameters.clone() })
    }

    /// An error if there is no layer whose statistics can be shared, or one whose cannot.
    pub(crate) fn check(parameters: &Parameters) -> Result<()> {
        let (own, others) = parameters.batch_norms();
        if own.is_empty() || !others.is_empty() {
            let got = if others.is_empty() { "none".to_owned() } else { format!("`{}`", others.join("`, `")) };
            return Err(Error::argument("parameters", "batch norms of this crate's layers", got).hint(
                "build the model on these `Parameters` first; statistics of candle_nn's batch norm stay each rank's own",
            ));
        }
        Ok(())
    }

    /// What this rank's part of a forward pass in training gives; all ranks call it, those without examples with
    /// `None`.
    ///
    /// # Errors
    /// What the part gives; if another rank's part fails, or does not normalise the same layers in the same order.
    pub fn forward<T>(&self, part: Option<impl FnOnce() -> Result<T>>) -> Result<Option<T>> {
        self.finish(self.forward_part(part.map(Ok)))
    }

    /// [`forward`](Self::forward) for the backward pass that follows it.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn backward<T>(&self, part: Option<impl FnOnce() -> Result<T>>) -> Result<Option<T>> {
        self.finish(self.backward_part(part))
    }

    fn finish<T>(&self, outcome: Outcome<T>) -> Result<Option<T>> {
        match outcome {
            Outcome::Done(found) => Ok(Some(found)),
            Outcome::Nothing => Ok(None),
            Outcome::Failed(error) => Err(error),
            Outcome::Interrupted(rank) => {
                Err(Error::training(format!("rank {rank} of {} failed", self.meeting.communicator.size())))
            }
        }
    }

    /// [`forward`](Self::forward) of a rank that may have failed before.
    pub(crate) fn forward_part<T>(&self, part: Option<Result<impl FnOnce() -> Result<T>>>) -> Outcome<T> {
        self.pass(Pass::Forward, part)
    }

    pub(crate) fn backward_part<T>(&self, part: Option<impl FnOnce() -> Result<T>>) -> Outcome<T> {
        self.pass(Pass::Backward, part.map(Ok))
    }

    fn pass<T>(&self, pass: Pass, part: Option<Result<impl FnOnce() -> Result<T>>>) -> Outcome<T> {
        /// Whatever comes, the next pass of this rank is its own.
        struct End<'a>(&'a Meeting);
        impl Drop for End<'_> {
            fn drop(&mut self) {
                *self.0.state() = State::default();
            }
        }
        let _end = End(&self.meeting);
        *self.meeting.state() = State { pass: Some(pass), ended: None };
        let mine = part.map(|part| part.and_then(|part| part()));
        // Whoever stays away lets the others wait for ever: all go on to exchange until all are through.
        let last = match &mine {
            None => Message::Absent,
            Some(Ok(_)) => Message::Done,
            Some(Err(_)) => Message::Failed,
        };
        loop {
            let ended = self.meeting.state().ended.clone();
            match ended {
                Some(Ended::Failed(rank)) => return Outcome::Interrupted(rank),
                // The model may have wrapped it.
                Some(Ended::Impossible(text)) => return Outcome::Failed(Error::training(text)),
                None => {}
            }
            // An error of the exchange ends the pass, above.
            let all = self.meeting.exchange(&last).unwrap_or_default();
            if last == Message::Failed {
                break;
            }
            if let Some(moments) = joined_moments(&all) {
                if let Err(error) = self.update(moments, pass) {
                    return Outcome::Failed(error);
                }
            } else if !all.is_empty() && all.iter().all(|message| matches!(message, Message::Absent | Message::Done)) {
                break;
            }
        }
        match mine {
            None => Outcome::Nothing,
            Some(Ok(found)) => Outcome::Done(found),
            Some(Err(error)) => Outcome::Failed(error),
        }
    }

    /// Keeps the running statistics of a rank without examples those of the others.
    fn update(&self, (layer, all): (String, Moments), pass: Pass) -> Result<()> {
        if pass == Pass::Backward || all.count < 2 {
            return Ok(()); // computed again; an error of all
        }
        let variable = |name: &str| {
            let name = format!("{layer}{name}");
            self.parameters.get(&name).ok_or_else(|| Error::training(format!("there is no `{name}` on this rank")))
        };
        let (mean, variance) = (variable("running_mean")?, variable("running_var")?);
        let batches = variable("num_batches_tracked")?;
        let running = RunningStatistics { mean: &mean, variance: &variance, batches: &batches, momentum: all.momentum };
        running.update(&all.running(mean.dtype(), mean.device())?)
    }
}

impl Drop for SynchronisedBatchNorm {
    fn drop(&mut self) {
        let own = Arc::as_ptr(&self.meeting).cast::<()>();
        if self.parameters.ranks().is_some_and(|ranks| Arc::as_ptr(&ranks).cast::<()>() == own) {
            self.parameters.set_ranks(None);
        }
    }
}

/// The statistics of all that have some, in the order of the ranks.
fn joined_moments(all: &[Message]) -> Option<(String, Moments)> {
    let moments = |message: &Message| match message {
        Message::Moments(layer, moments) => Some((layer.clone(), moments.clone())),
        _ => None,
    };
    let (mut layers, parts): (Vec<String>, Vec<Moments>) = all.iter().filter_map(moments).unzip();
    Some((layers.pop()?, Moments::join(&parts)?))
}

impl Meeting {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn impossible(&self, text: String) -> Error {
        self.state().ended = Some(Ended::Impossible(text.clone()));
        Error::training(text)
    }

    /// What all ranks bring; an error, the same on all, if one failed or they do different things.
    fn exchange(&self, own: &Message) -> Result<Vec<Message>> {
        let size = self.communicator.size();
        let gathered = self.communicator.all_gather(&own.to_bytes());
        let gathered = gathered.map_err(|error| self.impossible(error.to_string()))?;
        let all: Option<Vec<Message>> = gathered.iter().map(|bytes| Message::from_bytes(bytes)).collect();
        let all = all.ok_or_else(|| self.impossible("a rank sent what is no statistics".to_owned()))?;
        if let Some(rank) = all.iter().position(|message| *message == Message::Failed) {
            self.state().ended = Some(Ended::Failed(rank));
            return Err(Error::training(format!("rank {rank} of {size} failed")));
        }
        let mut doing = all.iter().enumerate().filter(|(_, message)| **message != Message::Absent);
        if let Some((first, message)) = doing.next() {
            let expected = message.doing();
            if let Some((rank, other)) = doing.find(|(_, message)| message.doing() != expected) {
                let text = format!("rank {rank} of {size} {}, rank {first} {expected}", other.doing());
                return Err(self.impossible(format!(
                    "{text}: with synchronised batch norm all ranks go through the same layers in the same order"
                )));
            }
        }
        Ok(all)
    }
}

impl Synchronise for Meeting {
    fn statistics(&self, layer: &str, own: Moments) -> Result<Option<Moments>> {
        if self.state().pass.is_none() {
            return Ok(None);
        }
        let all = self.exchange(&Message::Moments(layer.to_owned(), own))?;
        Ok(joined_moments(&all).map(|(_, moments)| moments))
    }

    fn totals(&self, layer: &str, own: Vec<[f64; 2]>) -> Result<Vec<[f64; 2]>> {
        if self.state().pass.is_none() {
            return Err(Error::training(format!(
                "the backward pass of `{}` needs the other ranks, by whose batches it normalised",
                layer.trim_end_matches('.')
            ))
            .hint("call it within `SynchronisedBatchNorm::backward`, on all ranks"));
        }
        let mut sums = vec![[0.0; 2]; own.len()];
        for message in self.exchange(&Message::Totals(layer.to_owned(), own))? {
            let Message::Totals(_, totals) = message else { continue };
            for (sum, total) in sums.iter_mut().zip(totals) {
                *sum = [sum[0] + total[0], sum[1] + total[1]];
            }
        }
        Ok(sums)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::backprop::GradStore;
    use candle_core::{DType, Device, ModuleT as _, Tensor, Var};

    use super::*;
    use crate::distributed::LocalCommunicator;
    use crate::nn::{BatchNorm1d, BatchNorm2d, Linear};
    use crate::ops::composed;
    use crate::random::Generator;
    use crate::stateful::Stateful as _;

    const CHANNELS: usize = 3;

    fn worst_difference(here: &Tensor, there: &Tensor) -> f64 {
        let [here, there] = [here, there].map(|tensor| tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap());
        (here - there).unwrap().abs().unwrap().max_all().unwrap().to_scalar().unwrap()
    }

    fn random(shape: &[usize], seed: u64) -> Tensor {
        let mut generator = Generator::new(seed);
        let values: Vec<f64> = (0..shape.iter().product()).map(|_| 3.0 + 2.0 * generator.normal()).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    /// Output, gradients of the input, of weight and bias, and the running statistics, of a part of the batch.
    fn normalised(
        x: &Tensor,
        dy: &Tensor,
        relu: bool,
        ranks: Option<Arc<dyn Communicator>>,
    ) -> Result<(Vec<Tensor>, Vec<Tensor>, Vec<Tensor>)> {
        let parameters = Parameters::with_dtype(1, DType::F64, &Device::Cpu);
        let norm = BatchNorm2d::new(CHANNELS, &parameters.at("norm"))?;
        let norm = if relu { norm.with_relu() } else { norm };
        let affine = ["norm.weight", "norm.bias"].map(|name| parameters.get(name).unwrap());
        affine[0].set(&Tensor::new(&[0.5, -1.5, 2.0], &Device::Cpu)?)?;
        affine[1].set(&Tensor::new(&[0.1, 0.2, -0.3], &Device::Cpu)?)?;
        let x = Var::from_tensor(x)?;
        let forward = || -> Result<Tensor> { Ok(norm.forward_t(&x, true)?) };
        let backward = |y: &Tensor| -> Result<GradStore> { Ok((y * dy)?.sum_all()?.backward()?) };
        let (y, gradients) = match ranks {
            None => {
                let y = forward()?;
                (y.clone(), backward(&y)?)
            }
            Some(ranks) => {
                let together = SynchronisedBatchNorm::new(ranks, &parameters)?;
                let y = together.forward(Some(forward))?.unwrap();
                let gradients = together.backward(Some(|| backward(&y)))?.unwrap();
                (y, gradients)
            }
        };
        let of_affine = affine.iter().map(|var| gradients.get(var).unwrap().clone()).collect();
        let state = parameters.state()?;
        let running = ["norm.running_mean", "norm.running_var", "norm.num_batches_tracked"];
        let running = running.map(|name| state[name].to_dtype(DType::F64).unwrap()).to_vec();
        Ok((vec![y, gradients.get(&x).unwrap().clone()], of_affine, running))
    }

    #[test]
    fn uneven_parts_have_the_values_and_gradients_of_the_whole_batch() {
        let parts = [5, 1, 2];
        let (x, dy) = (random(&[8, CHANNELS, 2, 3], 1), random(&[8, CHANNELS, 2, 3], 2));
        for (relu, by_candle) in [(false, false), (true, false), (false, true), (true, true)] {
            let (whole, affine, running) = normalised(&x, &dy, relu, None).unwrap();
            let of_ranks = LocalCommunicator::run(parts.len(), |communicator| {
                let rank = communicator.rank();
                let start: usize = parts[..rank].iter().sum();
                let part = |tensor: &Tensor| tensor.narrow(0, start, parts[rank])?.contiguous();
                let run = || normalised(&part(&x)?, &part(&dy)?, relu, Some(Arc::clone(&communicator)));
                if by_candle { composed(run) } else { run() }
            })
            .unwrap();
            for (i, whole) in whole.iter().enumerate() {
                let parts: Vec<&Tensor> = of_ranks.iter().map(|(by_example, ..)| &by_example[i]).collect();
                assert!(worst_difference(&Tensor::cat(&parts, 0).unwrap(), whole) < 1e-12, "{i} {relu} {by_candle}");
            }
            for (i, whole) in affine.iter().enumerate() {
                let sum = of_ranks[1..].iter().fold(of_ranks[0].1[i].clone(), |sum, rank| (sum + &rank.1[i]).unwrap());
                assert!(worst_difference(&sum, whole) < 1e-12, "{i} {relu} {by_candle}");
            }
            for (_, _, own) in &of_ranks {
                for (own, whole) in own.iter().zip(&running) {
                    assert!(worst_difference(own, whole) < 1e-12, "{relu} {by_candle}");
                }
            }
            // By its own batch a rank has others.
            let alone = normalised(&x.narrow(0, 0, 5).unwrap(), &dy.narrow(0, 0, 5).unwrap(), relu, None).unwrap();
            assert!(worst_difference(&alone.0[0], &whole[0].narrow(0, 0, 5).unwrap()) > 1e-3);
        }
    }

    #[test]
    fn a_rank_without_examples_lets_the_others_go_on_and_keeps_their_statistics() {
        let x = random(&[6, CHANNELS], 3);
        let states = LocalCommunicator::run(3, |communicator| {
            let rank = communicator.rank();
            let parameters = Parameters::with_dtype(1, DType::F64, &Device::Cpu);
            let norms = ["a", "b"].map(|name| BatchNorm1d::new(CHANNELS, &parameters.at(name)).unwrap());
            let together = SynchronisedBatchNorm::new(communicator, &parameters)?;
            // A number a rank, then two; the last rank has none.
            for (start, count) in [(0, 1), (2, 2)] {
                let own = x.narrow(0, start + rank.min(1) * count, count)?;
                let part = || -> Result<Tensor> {
                    norms.iter().try_fold(own.clone(), |x, norm| Ok(norm.forward_t(&x, true)?))
                };
                let y = together.forward((rank < 2).then_some(part))?;
                assert_eq!(y.is_some(), rank < 2);
                together.backward(y.map(|y| move || -> Result<GradStore> { Ok(y.sqr()?.sum_all()?.backward()?) }))?;
            }
            parameters.state()
        })
        .unwrap();
        for state in &states {
            assert_eq!(state["a.num_batches_tracked"].to_scalar::<i64>().unwrap(), 2);
            for (name, tensor) in state {
                let difference = worst_difference(tensor, &states[0][name]);
                assert!(difference == 0.0, "{name}: {difference}");
            }
        }
        let mean = ((x.narrow(0, 0, 2).unwrap().mean(0).unwrap() * 0.09).unwrap()
            + (x.narrow(0, 2, 4).unwrap().mean(0).unwrap() * 0.1).unwrap())
        .unwrap();
        assert!(worst_difference(&states[2]["a.running_mean"], &mean) < 1e-12);
    }

    /// What two ranks are told, of which the second does something else.
    fn told(part: impl Fn(usize, &[BatchNorm1d; 2], &Tensor) -> Result<Tensor> + Send + Sync) -> Vec<String> {
        LocalCommunicator::run(2, |communicator| {
            let rank = communicator.rank();
            let parameters = Parameters::with_dtype(1, DType::F64, &Device::Cpu);
            let norms = ["a", "b"].map(|name| BatchNorm1d::new(CHANNELS, &parameters.at(name)).unwrap());
            let together = SynchronisedBatchNorm::new(Arc::clone(&communicator), &parameters)?;
            let x = random(&[4, CHANNELS], rank as u64);
            let text = match together.forward(Some(|| part(rank, &norms, &x))) {
                Ok(y) => {
                    let backward = || -> Result<GradStore> { Ok(y.unwrap().sum_all()?.backward()?) };
                    together.backward(Some(backward)).err().map_or_else(String::new, |error| error.to_string())
                }
                Err(error) => error.to_string(),
            };
            communicator.barrier()?; // and nobody waits elsewhere
            Ok(text)
        })
        .unwrap()
    }

    #[test]
    fn whoever_fails_or_goes_another_way_ends_the_pass_of_all() {
        let through = |norm: &BatchNorm1d, x: &Tensor| -> Result<Tensor> { Ok(norm.forward_t(x, true)?) };
        let texts = told(|rank, norms, x| match rank {
            1 => Err(Error::training("the layer is gone")),
            _ => through(&norms[1], &through(&norms[0], x)?),
        });
        assert_eq!(texts, ["rank 1 of 2 failed", "the layer is gone"]);
        // In the middle, and whatever the model makes of it.
        let texts = told(|rank, norms, x| {
            let y = through(&norms[0], x)?;
            match rank {
                1 => Err(Error::training("the layer is gone")),
                _ => Ok(through(&norms[1], &y).unwrap_or(y)),
            }
        });
        assert_eq!(texts, ["rank 1 of 2 failed", "the layer is gone"]);
        for text in told(|rank, norms, x| through(&norms[rank], x)) {
            let expected = "rank 1 of 2 normalises `b` of 3 channels, rank 0 normalises `a` of 3 channels";
            assert!(text.starts_with(expected), "{text}");
        }
        for text in told(|rank, norms, x| if rank == 0 { through(&norms[0], x) } else { Ok(x.clone()) }) {
            assert!(text.starts_with("rank 1 of 2 ends the pass, rank 0 normalises `a` of 3 channels"), "{text}");
        }
        // The gradient of one rank does not reach the layer.
        for text in told(|rank, norms, x| {
            let var = Var::from_tensor(x)?;
            let y = through(&norms[0], var.as_tensor())?;
            Ok(if rank == 0 { y } else { y.detach() })
        }) {
            assert!(text.contains("rank 1 of 2 ends the pass, rank 0 goes back through `a` of 3 channels"), "{text}");
        }
    }

    #[test]
    fn outside_a_pass_a_layer_is_alone_and_its_backward_pass_waits_for_nobody() {
        let texts = LocalCommunicator::run(2, |communicator| {
            let parameters = Parameters::with_dtype(1, DType::F64, &Device::Cpu);
            let norm = BatchNorm1d::new(CHANNELS, &parameters.at("norm"))?;
            let x = random(&[4, CHANNELS], communicator.rank() as u64);
            let alone = norm.forward_t(&x, true)?;
            let together = SynchronisedBatchNorm::new(Arc::clone(&communicator), &parameters)?;
            if communicator.rank() == 1 {
                assert_eq!(worst_difference(&norm.forward_t(&x, true)?, &alone), 0.0);
            }
            let x = Var::from_tensor(&x)?;
            let y = together.forward(Some(|| Ok(norm.forward_t(&x, true)?)))?.unwrap();
            assert!(worst_difference(&y, &alone) > 1e-3);
            let text = y.sum_all()?.backward().unwrap_err().to_string();
            drop(together);
            assert_eq!(worst_difference(&norm.forward_t(&x, true)?, &alone), 0.0);
            Ok(text)
        });
        for text in texts.unwrap() {
            assert!(text.contains("`norm` needs the other ranks") && text.contains("on all ranks"), "{text}");
        }
    }

    #[test]
    fn models_without_a_layer_to_share_are_refused() {
        let refused = |build: &dyn Fn(&Parameters)| {
            let parameters = Parameters::new(0, &Device::Cpu);
            build(&parameters);
            let communicator = Arc::new(LocalCommunicator::group(1).unwrap().remove(0));
            SynchronisedBatchNorm::new(communicator, &parameters).err().map_or_else(String::new, |e| e.to_string())
        };
        let text = refused(&|parameters| drop(Linear::new(2, 2, &parameters.at("fc")).unwrap()));
        assert!(text.starts_with("`parameters`: expected batch norms of this crate's layers, got none"), "{text}");
        let text = refused(&|parameters| {
            BatchNorm1d::new(2, &parameters.at("own")).unwrap();
            candle_nn::batch_norm(2, 1e-5, parameters.var_builder().pp("other.norm")).unwrap();
        });
        assert!(text.contains("got `other.norm`"), "{text}");
        assert_eq!(refused(&|parameters| drop(BatchNorm1d::new(2, &parameters.root()).unwrap())), "");
    }

    #[test]
    fn messages_come_back_and_damaged_ones_do_not() {
        let moments =
            Moments { count: 7, mean: vec![0.5, -2.0], variance: vec![1.0, f64::MIN_POSITIVE], momentum: 0.1 };
        let messages = [
            Message::Absent,
            Message::Done,
            Message::Failed,
            Message::Moments("körper.norm.".to_owned(), moments),
            Message::Totals(String::new(), vec![[1.0, -0.5]]),
        ];
        for message in messages {
            let bytes = message.to_bytes();
            assert_eq!(Message::from_bytes(&bytes), Some(message));
            assert_eq!(Message::from_bytes(&bytes[..bytes.len() - 1]), None);
        }
    }
}
