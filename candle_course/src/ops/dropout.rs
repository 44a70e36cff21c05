//! Dropout.

use candle_core::{Device, Tensor};

use super::support::{Reading, apply, check_input, on_cpu, tensor};
use crate::error::{Error, Result};
use crate::kernels::dropout;
use crate::kernels::node::{Gradients, Value};
use crate::kernels::simd::Element;

struct Dropout {
    p: f64,
    key: u64,
}

impl Dropout {
    fn forward<T: Element>(&self, inputs: &[&Tensor]) -> candle_core::Result<Value> {
        let ys = dropout::apply::<T>(Reading::of(inputs[0]).get()?, self.p, self.key);
        Ok(Value::cpu(ys, inputs[0].shape()))
    }

    fn backward<T: Element>(&self, inputs: &[&Tensor], _: &Tensor, dy: &Tensor) -> Gradients {
        // The same mask again, from the same key: nothing was kept.
        let dx = dropout::apply::<T>(Reading::of(dy).get()?, self.p, self.key);
        Ok(vec![Some(tensor(dx, inputs[0].shape())?)])
    }
}

/// Each number becomes 0 with probability `p` and is divided by 1 − p otherwise. The mask is a
/// function of `key` alone: the same on every device and for every number of threads.
///
/// # Errors
/// If `p` is not in `[0, 1)`, or the input is empty or of a dtype without kernels.
pub fn dropout(xs: &Tensor, p: f64, key: u64) -> Result<Tensor> {
    check_input("xs", xs)?;
    if !(0.0..1.0).contains(&p) {
        return Err(Error::argument("p", "a probability in [0, 1)", p).hint("p is the share that is dropped, not kept"));
    }
    if on_cpu(xs) {
        return Ok(apply!("dropout", Dropout { p, key }, [Some(xs)]));
    }
    #[cfg(feature = "cuda")]
    if super::support::on_cuda(xs) {
        return Ok(crate::kernels::cuda::dropout::dropout(xs, p, key)?);
    }
    let mask = dropout::apply(&vec![1f32; xs.elem_count()], p, key);
    let mask = Tensor::from_vec(mask, xs.shape(), &Device::Cpu)?.to_dtype(xs.dtype())?.to_device(xs.device())?;
    Ok((xs * mask)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::support::composed;
    use candle_core::{D, DType, Var};

    const SHAPES: [&[usize]; 22] = [
        &[1],
        &[2],
        &[7],
        &[16],
        &[33],
        &[100],
        &[129],
        &[1, 1],
        &[1, 5],
        &[5, 1],
        &[2, 3],
        &[5, 7],
        &[4, 16],
        &[3, 33],
        &[70, 150],
        &[2, 3, 4],
        &[1, 5, 1],
        &[3, 1, 7],
        &[2, 1, 3, 2],
        &[1, 2, 3, 4],
        &[2, 8, 5, 5],
        &[2, 2, 2, 2, 2],
    ];

    fn numbers(shape: &[usize], pace: f64) -> Tensor {
        let values: Vec<f64> = (0..shape.iter().product()).map(|i: usize| 0.1 + (i as f64 * pace).sin()).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    fn flat(xs: &Tensor) -> Vec<f64> {
        xs.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    /// The same numbers behind one another, strided, and (other numbers) broadcast.
    fn layouts(x: &Var) -> Vec<Tensor> {
        let x = x.as_tensor();
        let strided = Tensor::stack(&[x, x], x.rank()).unwrap().narrow(D::Minus1, 0, 1).unwrap();
        let mut all = vec![x.clone(), strided.squeeze(D::Minus1).unwrap()];
        if let Some(dim) = x.dims().iter().position(|&size| size > 1) {
            all.push(x.narrow(dim, 0, 1).unwrap().broadcast_as(x.shape()).unwrap());
        }
        all.iter().skip(1).for_each(|xs| assert!(xs.elem_count() == 1 || !xs.is_contiguous()));
        all
    }

    #[test]
    fn the_gradient_passes_where_the_numbers_passed() {
        for shape in SHAPES {
            for (dtype, p, key) in [(DType::F32, 0.3, 2), (DType::F64, 0.9, u64::MAX), (DType::F64, 0.0, 1)] {
                let x = Var::from_tensor(&numbers(shape, 1.7).to_dtype(dtype).unwrap()).unwrap();
                let dy = numbers(shape, 0.9).to_dtype(dtype).unwrap();
                let scale = dropout(&x.ones_like().unwrap(), p, key).unwrap();
                let kept = Tensor::full(1.0 / (1.0 - p), (), &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
                assert!(flat(&scale).iter().all(|&s| s == 0.0 || s == flat(&kept)[0]));
                for input in layouts(&x) {
                    let run = |y: Tensor| {
                        let gradients = (&y * &dy).unwrap().sum_all().unwrap().backward().unwrap();
                        (flat(&y), flat(gradients.get(&x).unwrap()))
                    };
                    let ours = run(dropout(&input, p, key).unwrap());
                    assert_eq!(ours, run((&input * &scale).unwrap()), "{shape:?} {input:?}");
                    let theirs = run(composed(|| dropout(&input, p, key)).unwrap());
                    for (a, b) in ours.0.iter().chain(&ours.1).zip(theirs.0.iter().chain(&theirs.1)) {
                        assert!((a - b).abs() <= 1e-6 * b.abs(), "{shape:?}, composed: {a} {b}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_gradient_is_the_difference() {
        // Linear: the difference is the derivative for a step of any size.
        let (x, dy) = (Var::from_tensor(&numbers(&[70, 150], 1.7)).unwrap(), numbers(&[70, 150], 0.9));
        for (p, key) in [(0.0, 1), (0.3, 2), (0.9, u64::MAX)] {
            let y = dropout(&x, p, key).unwrap();
            let gradients = (&y * &dy).unwrap().sum_all().unwrap().backward().unwrap();
            let there = dropout(&(x.as_tensor() + &dy).unwrap(), p, key).unwrap();
            let difference: f64 = flat(&((there - &y).unwrap() * &dy).unwrap()).iter().sum();
            let product: f64 = flat(&(gradients.get(&x).unwrap() * &dy).unwrap()).iter().sum();
            assert!((difference - product).abs() < 1e-9 * product, "{difference} {product}");
        }
    }
}
