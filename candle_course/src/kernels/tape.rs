//! A backward pass of our own, for the training loop on a GPU.
//!
//! candle's adds every gradient to a tensor of zeros: two launches and three passes over memory
//! for each input of each operation. While a tape runs, [`node`](super::node::node)s are written on
//! it, and their outputs are leaves to candle, like variables. Backwards, the tape goes from node
//! to node and hands gradients over as they are; only through what candle's own operations computed
//! in between it asks candle. What a node kept is freed as soon as it has been passed.
//!
//! A tape belongs to a thread and to one loss: `Tensor::backward`, called while it runs, ends at
//! the nodes.

use std::cell::RefCell;
use std::marker::PhantomData;

use candle_core::backprop::GradStore;
use candle_core::{Result, Tensor};

use super::node::{Backward, Value, incoming, node};

struct Entry {
    name: &'static str,
    inputs: Vec<Tensor>,
    output: Tensor,
    backward: Box<Backward>,
}

thread_local! {
    /// The innermost last; `None` where nothing is to be recorded.
    static TAPES: RefCell<Vec<Option<Vec<Entry>>>> = const { RefCell::new(Vec::new()) };
}

/// Records nodes until the backward pass, or until it is dropped.
pub struct Tape {
    running: bool,
    of_thread: PhantomData<*const ()>,
}

impl Tape {
    /// A tape; without `recording`, its backward pass is candle's.
    pub fn start(recording: bool) -> Self {
        TAPES.with_borrow_mut(|tapes| tapes.push(recording.then(Vec::new)));
        Self { running: true, of_thread: PhantomData }
    }

    fn stop(&mut self) -> Option<Vec<Entry>> {
        let running = std::mem::take(&mut self.running);
        TAPES.with_borrow_mut(|tapes| if running { tapes.pop() } else { None }).flatten()
    }

    /// The gradients of `loss`, as `loss.backward()` gives them.
    pub fn backward(mut self, loss: &Tensor) -> Result<GradStore> {
        let mut entries = self.stop().unwrap_or_default();
        // Not to be recorded by a tape around this one.
        let _silent = Self::start(false);
        let mut gradients = loss.backward()?;
        while let Some(Entry { name, inputs, output, backward }) = entries.pop() {
            let Some(dy) = gradients.remove(&output) else { continue };
            let borrowed: Vec<&Tensor> = inputs.iter().collect();
            let found = backward(&borrowed, &output, &incoming(&dy.detach(), name)?)?;
            for (input, gradient) in inputs.iter().zip(found) {
                if let Some(gradient) = gradient {
                    hand_over(&mut gradients, input, gradient)?;
                }
            }
        }
        Ok(gradients)
    }
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
pub(super) fn record(name: &'static str, inputs: &[&Tensor], output: &Tensor, backward: Box<Backward>) {
    let inputs = inputs.iter().map(|&input| input.clone()).collect();
    let entry = Entry { name, inputs, output: output.clone(), backward };
    TAPES.with_borrow_mut(|tapes| {
        if let Some(Some(entries)) = tapes.last_mut() {
            entries.push(entry);
        }
    });
}

/// Adds the gradient of a node's input to those of the leaves it comes from.
fn hand_over(gradients: &mut GradStore, input: &Tensor, gradient: Tensor) -> Result<()> {
    if input.is_variable() {
        let sum = match gradients.remove(input) {
            Some(so_far) => (so_far + gradient)?.detach(),
            None => gradient,
        };
        gradients.insert(input, sum);
        return Ok(());
    }
    if !input.track_op() {
        return Ok(());
    }
    // candle's operations lie in between. Its backward pass starts with ones: at a number that
    // depends on `input` in such a way that this is the gradient.
    let end = node("gradient", &[input], Value::unspecified(input.device())?, move |_, _, _| {
        Ok(vec![Some(gradient.clone())])
    })?;
    gradients.extend(end.backward()?)
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
}
