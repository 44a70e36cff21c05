//! A backward pass of our own, for the training loop.
//!
//! candle's adds every gradient to a tensor of zeros: three passes over memory, and on a GPU two
//! launches, for each input of each operation. While a tape runs, [`node`](super::node::node)s are written on
//! it, and their outputs are leaves to candle, like variables. Backwards, the tape goes from node
//! to node and hands gradients over as they are; only through what candle's own operations computed
//! in between it asks candle. What a node kept is freed as soon as it has been passed; of a node that
//! keeps what it needs itself, the tape holds neither inputs nor output.
//!
//! A tape belongs to a thread and to one loss: `Tensor::backward`, called while it runs, ends at
//! the nodes.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::marker::PhantomData;

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Result, Tensor, TensorId};

use super::node::{Backward, Value, incoming, node};

/// Where the gradient of an input goes.
enum Origin {
    /// To a node of the same tape. It is known by its number: its tensor may be gone.
    Node(TensorId),
    /// To a variable, or through candle's operations to what they came from.
    Tensor(Tensor),
    /// Nowhere.
    Constant,
}

struct Entry {
    name: &'static str,
    origins: Vec<Origin>,
    output: TensorId,
    /// Inputs and output, if the backward pass looks at them.
    tensors: Option<(Vec<Tensor>, Tensor)>,
    backward: Backward,
}

#[derive(Default)]
struct Recording {
    entries: Vec<Entry>,
    outputs: HashSet<TensorId>,
}

thread_local! {
    /// The innermost last; `None` where nothing is to be recorded.
    static TAPES: RefCell<Vec<Option<Recording>>> = const { RefCell::new(Vec::new()) };
}

thread_local! {
    static WITHOUT_GRAPH: Cell<bool> = const { Cell::new(false) };
}

/// What `work` gives, where nodes neither record themselves nor keep their inputs.
pub fn without_graph<R>(work: impl FnOnce() -> R) -> R {
    struct Reset(bool);
    impl Drop for Reset {
        fn drop(&mut self) {
            WITHOUT_GRAPH.set(self.0);
        }
    }
    let _reset = Reset(WITHOUT_GRAPH.replace(true));
    work()
}

/// Whether nodes of this thread are to have no graph.
pub(super) fn is_without_graph() -> bool {
    WITHOUT_GRAPH.get()
}

/// Records nodes until the backward pass, or until it is dropped.
pub struct Tape {
    running: bool,
    of_thread: PhantomData<*const ()>,
}

impl Tape {
    /// A tape; without `recording`, its backward pass is candle's.
    pub fn start(recording: bool) -> Self {
        TAPES.with_borrow_mut(|tapes| tapes.push(recording.then(Recording::default)));
        Self { running: true, of_thread: PhantomData }
    }

    fn stop(&mut self) -> Option<Recording> {
        let running = std::mem::take(&mut self.running);
        TAPES.with_borrow_mut(|tapes| if running { tapes.pop() } else { None }).flatten()
    }

    /// The gradients of `loss`, as `loss.backward()` gives them.
    pub fn backward(mut self, loss: &Tensor) -> Result<GradStore> {
        let Recording { mut entries, outputs } = self.stop().unwrap_or_default();
        // Not to be recorded by a tape around this one.
        let _silent = Self::start(false);
        let mut gradients = loss.backward()?;
        if entries.is_empty() {
            return Ok(gradients);
        }
        let passed = Tensor::zeros((), DType::F32, &Device::Cpu)?;
        while let Some(Entry { name, origins, output, tensors, backward }) = entries.pop() {
            // A gradient that was passed on frees its memory; candle removes one by its tensor alone.
            let Some(dy) = take(&mut gradients, output, &passed) else { continue };
            let dy = incoming(&dy.detach(), name)?;
            let found = match &backward {
                Backward::Kept(backward) => {
                    let wanted: Vec<bool> = origins.iter().map(|to| !matches!(to, Origin::Constant)).collect();
                    backward(&wanted, &dy)?
                }
                Backward::Inputs(backward) => {
                    let Some((inputs, output)) = &tensors else {
                        candle_core::bail!("internal error: {name} was recorded without its inputs")
                    };
                    backward(&inputs.iter().collect::<Vec<_>>(), output, &dy)?
                }
            };
            drop((dy, tensors, backward));
            for (origin, gradient) in origins.iter().zip(found) {
                if let Some(gradient) = gradient {
                    hand_over(&mut gradients, origin, gradient)?;
                }
            }
        }
        of_variables(&gradients, &outputs)
    }
}

/// The gradient of a node, in whose place `passed` is left.
fn take(gradients: &mut GradStore, output: TensorId, passed: &Tensor) -> Option<Tensor> {
    gradients.get_id(output)?;
    gradients.insert_id(output, passed.clone())
}

/// The gradients without those of nodes.
fn of_variables(gradients: &GradStore, nodes: &HashSet<TensorId>) -> Result<GradStore> {
    // candle makes no empty store: that of a constant's constant, whose only gradient is its own.
    let constant = Tensor::zeros((), DType::F32, &Device::Cpu)?;
    let mut left = constant.backward()?;
    left.remove(&constant);
    for id in gradients.get_ids().filter(|id| !nodes.contains(id)) {
        if let Some(gradient) = gradients.get_id(*id) {
            left.insert_id(*id, gradient.clone());
        }
    }
    Ok(left)
}

impl Drop for Tape {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Whether nodes of this thread are to be recorded.
pub(super) fn is_recording() -> bool {
    TAPES.with_borrow(|tapes| matches!(tapes.last(), Some(Some(_))))
}

/// Records a node whose output is the leaf `output`.
pub(super) fn record(name: &'static str, inputs: &[&Tensor], output: &Tensor, backward: Backward) {
    TAPES.with_borrow_mut(|tapes| {
        let Some(Some(Recording { entries, outputs })) = tapes.last_mut() else { return };
        let origin = |input: &Tensor| match input {
            input if outputs.contains(&input.id()) => Origin::Node(input.id()),
            input if input.track_op() => Origin::Tensor(input.clone()),
            _ => Origin::Constant,
        };
        let origins = inputs.iter().map(|&input| origin(input)).collect();
        let tensors = match &backward {
            Backward::Inputs(_) => Some((inputs.iter().map(|&input| input.clone()).collect(), output.clone())),
            Backward::Kept(_) => None,
        };
        outputs.insert(output.id());
        entries.push(Entry { name, origins, output: output.id(), tensors, backward });
    });
}

/// Adds the gradient of a node's input to those of the leaves it comes from.
fn hand_over(gradients: &mut GradStore, origin: &Origin, gradient: Tensor) -> Result<()> {
    let leaf = match origin {
        Origin::Constant => return Ok(()),
        Origin::Node(id) => *id,
        Origin::Tensor(input) if input.is_variable() => input.id(),
        Origin::Tensor(input) => {
            // candle's operations lie in between. Its backward pass starts with ones: at a number that
            // depends on `input` in such a way that this is the gradient.
            let end = node("gradient", &[input], Value::unspecified(input.device())?, move |_, _, _| {
                Ok(vec![Some(gradient.clone())])
            })?;
            return gradients.extend(end.backward()?);
        }
    };
    let sum = match gradients.get_id(leaf) {
        Some(so_far) => (so_far + gradient)?.detach(),
        None => gradient,
    };
    gradients.insert_id(leaf, sum);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops;
    use candle_core::{Device, Var};

    fn numbers(shape: &[usize], pace: f64) -> Var {
        let values: Vec<f64> = (0..shape.iter().product()).map(|i: usize| (i as f64 * pace + 0.2).sin()).collect();
        Var::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu).unwrap()).unwrap()
    }

    /// Nodes, candle's operations between them, a skip, a join, a weight used twice, a loss of each kind.
    fn loss(v: &[Var]) -> Tensor {
        let options = ops::Conv2dOptions { padding: (1, 1), relu: true, ..Default::default() };
        let first = ops::conv2d(&v[0], &v[1], Some(&v[2]), &options).unwrap();
        let second = ops::conv2d(&first, &v[3], None, &options).unwrap();
        let third = ops::conv2d(&second, &v[3], None, &options).unwrap();
        let sum = ops::relu(&(&third + &first).unwrap()).unwrap();
        let joined = Tensor::cat(&[&sum, &first], 1).unwrap().tanh().unwrap();
        let pooled = ops::max_pool2d(&joined, &ops::Pool2dOptions::new(2)).unwrap();
        let flat = pooled.flatten_from(1).unwrap();
        let logits = ops::linear(&flat, &v[4], Some(&v[5]), false).unwrap();
        let targets = Tensor::new(&[1u32, 0], &Device::Cpu).unwrap();
        let losses =
            ops::log_softmax(&logits, 1).unwrap().gather(&targets.unsqueeze(1).unwrap(), 1).unwrap().neg().unwrap();
        let penalty = (v[4].sqr().unwrap().mean_all().unwrap() * 0.1).unwrap();
        ((losses.mean_all().unwrap() + penalty).unwrap() + logits.sqr().unwrap().sum_all().unwrap()).unwrap()
    }

    #[test]
    fn a_tape_gives_the_gradients_that_candle_gives() {
        let shapes: [&[usize]; 6] = [&[2, 3, 6, 6], &[4, 3, 3, 3], &[4], &[4, 4, 3, 3], &[2, 72], &[2]];
        let paces = [0.7, 1.3, 0.4, 2.1, 0.9, 1.7];
        let variables: Vec<Var> = shapes.iter().zip(paces).map(|(shape, pace)| numbers(shape, pace)).collect();
        let expected = loss(&variables).backward().unwrap();
        for recording in [true, false] {
            let tape = Tape::start(recording);
            let value = loss(&variables);
            let found = tape.backward(&value).unwrap();
            for (i, variable) in variables.iter().enumerate() {
                let difference = (found.get(variable).unwrap() - expected.get(variable).unwrap()).unwrap();
                let worst = difference.abs().unwrap().max_all().unwrap().to_scalar::<f64>().unwrap();
                assert!(worst < 1e-12, "{recording}, variable {i}: {worst:e}");
            }
            assert_eq!(found.get_ids().count(), variables.len(), "nothing but the variables' gradients is left");
        }
    }

    #[test]
    fn tapes_nest_and_end_when_dropped() {
        let x = numbers(&[3], 1.0);
        let outer = Tape::start(true);
        let ys = ops::relu(&x).unwrap();
        assert!(ys.is_variable());
        {
            let _silent = Tape::start(false);
            assert!(!ops::relu(&x).unwrap().is_variable());
        }
        drop(outer);
        assert!(!is_recording() && !ops::relu(&x).unwrap().is_variable());
        // A loss that no tape recorded, and one that is a node itself.
        assert!(Tape::start(true).backward(&x.sum_all().unwrap()).unwrap().get(&x).is_some());
        let tape = Tape::start(true);
        let value = ops::relu(&x.narrow(0, 0, 1).unwrap().squeeze(0).unwrap()).unwrap();
        assert_eq!(tape.backward(&value).unwrap().get(&x).unwrap().to_vec1::<f64>().unwrap(), [1.0, 0.0, 0.0]);
    }

    #[test]
    fn a_tape_holds_nothing_of_nodes_that_keep_what_they_need() {
        use super::super::node::keeping;
        use crate::test_support::{alone, peak_memory};
        const LINKS: usize = 12;
        let x = Var::zeros(1 << 18, DType::F32, &Device::Cpu).unwrap();
        let megabyte = 1 << 20;
        let chain = |kept: bool| {
            let tape = Tape::start(true);
            let mut ys = x.as_tensor().clone();
            for _ in 0..LINKS {
                let value = Value::of(&(&ys + 1.0).unwrap().detach()).unwrap();
                let twice = |dy: &Tensor| Ok(vec![Some((dy * 2.0)?)]);
                ys = match kept {
                    true => keeping("twice", &[&ys], value, move |_, dy| twice(dy)).unwrap(),
                    false => node("twice", &[&ys], value, move |_, _, dy| twice(dy)).unwrap(),
                };
            }
            let loss = ys.sum_all().unwrap();
            drop(ys);
            let gradients = tape.backward(&loss).unwrap();
            assert_eq!(gradients.get_ids().count(), 1);
            let gradient = gradients.get(&x).unwrap().to_vec1::<f32>().unwrap();
            assert!(gradient.iter().all(|&g| g == 2f32.powi(LINKS as i32)));
        };
        let (lean, full) = alone(|| (peak_memory(|| chain(true)).1, peak_memory(|| chain(false)).1));
        assert!(lean < 8 * megabyte && full > LINKS * megabyte, "{lean} {full}");
    }
}
