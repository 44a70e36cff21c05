//! Results without a graph.

use crate::kernels::tape::without_graph;

/// What `work` gives, without a graph: the operations and layers of this crate, called in it on this thread,
/// keep nothing for a backward pass, as under `torch.no_grad`. For predictions: every activation is freed
/// as soon as it has been used.
///
/// candle's own operations on a variable keep what they always keep, and `backward` through a result ends
/// there. [`evaluate`](crate::training::evaluate) and [`predict`](crate::training::predict) do this by
/// themselves.
///
/// # Examples
///
/// ```
/// use candle_course::ops::no_grad;
/// use candle_course::prelude::*;
///
/// let parameters = Parameters::new(0, &Device::Cpu);
/// let model = Linear::new(4, 2, &parameters.at("fc"))?;
/// let x = Tensor::ones((3, 4), DType::F32, &Device::Cpu)?;
/// assert!(model.forward(&x)?.track_op());
/// assert!(!no_grad(|| model.forward(&x))?.track_op());
/// # Ok::<(), candle_course::Error>(())
/// ```
pub fn no_grad<R>(work: impl FnOnce() -> R) -> R {
    without_graph(work)
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Module, Var};

    use super::*;
    use crate::nn::{Linear, Parameters};
    use crate::ops::relu;
    use crate::test_support::{alone, peak_memory, quietly};

    #[test]
    fn activations_are_freed_as_they_were_used() {
        const LAYERS: usize = 8;
        let x = Var::zeros(1 << 18, DType::F32, &Device::Cpu).unwrap();
        let chain = || {
            let mut ys = x.as_tensor().clone();
            for _ in 0..LAYERS {
                ys = relu(&ys).unwrap();
            }
            ys
        };
        let (lean, full) = alone(|| (peak_memory(|| no_grad(chain)).1, peak_memory(chain).1));
        assert!(lean < 3 << 20 && full >= LAYERS << 20, "{lean} {full}");
    }

    #[test]
    fn it_ends_with_its_work_even_where_that_panics() {
        let parameters = Parameters::new(0, &Device::Cpu);
        let layer = Linear::new(2, 2, &parameters.at("fc")).unwrap();
        let tracks = || layer.forward(&candle_core::Tensor::ones((1, 2), DType::F32, &Device::Cpu).unwrap()).unwrap();
        no_grad(|| {
            no_grad(|| assert!(!tracks().track_op()));
            assert!(!tracks().track_op(), "the inner one is over, the outer is not");
        });
        assert!(tracks().track_op());
        let fails = || no_grad(|| assert!(tracks().track_op()));
        let ended = quietly(|| std::panic::catch_unwind(std::panic::AssertUnwindSafe(fails)));
        assert!(ended.is_err() && tracks().track_op());
    }
}
