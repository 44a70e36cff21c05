//! Dropout.

use candle_core::{CpuStorage, CustomOp1, Device, Layout, Shape, Tensor};

use super::kernels::dropout;
use super::support::{Reading, check_input, dtype_of, incoming, on_cpu, output, slice, tensor, with_element};
use crate::error::{Error, Result};

struct Dropout {
    p: f64,
    key: u64,
}

impl CustomOp1 for Dropout {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        with_element!(dtype_of(x), T => output(dropout::apply::<T>(slice(x, layout)?, self.p, self.key), layout.shape()))
    }

    fn bwd(&self, xs: &Tensor, _: &Tensor, dy: &Tensor) -> candle_core::Result<Option<Tensor>> {
        // The same mask again, from the same key: nothing was kept.
        let dy = incoming(dy, self.name())?;
        let dy = Reading::of(&dy);
        Ok(Some(with_element!(xs.dtype(), T => tensor(dropout::apply::<T>(dy.get()?, self.p, self.key), xs.shape()))?))
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
        return Ok(xs.contiguous()?.apply_op1(Dropout { p, key })?);
    }
    let mask = dropout::apply(&vec![1f32; xs.elem_count()], p, key);
    let mask = Tensor::from_vec(mask, xs.shape(), &Device::Cpu)?.to_dtype(xs.dtype())?.to_device(xs.device())?;
    Ok((xs * mask)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Var};

    #[test]
    fn the_gradient_passes_where_the_numbers_passed() {
        let numbers = |pace: f64| {
            let values: Vec<f64> = (0..70 * 150).map(|i| (i as f64 * pace).sin()).collect();
            Tensor::from_vec(values, (70, 150), &Device::Cpu).unwrap()
        };
        for dtype in [DType::F32, DType::F64] {
            for (p, key) in [(0.0, 1), (0.3, 2), (0.9, u64::MAX)] {
                let x = Var::from_tensor(&numbers(1.7).to_dtype(dtype).unwrap()).unwrap();
                let dy = numbers(0.9).to_dtype(dtype).unwrap();
                let flat =
                    |t: &Tensor| t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
                let scale = dropout(&x.ones_like().unwrap(), p, key).unwrap();
                let kept = Tensor::full(1.0 / (1.0 - p), (), &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
                assert!(flat(&scale).iter().all(|&s| s == 0.0 || s == flat(&kept)[0]));
                let y = dropout(&x, p, key).unwrap();
                let gradients = (&y * &dy).unwrap().sum_all().unwrap().backward().unwrap();
                assert_eq!(flat(&y), flat(&(x.as_tensor() * &scale).unwrap()));
                assert_eq!(flat(gradients.get(&x).unwrap()), flat(&(&dy * &scale).unwrap()));
                if dtype == DType::F64 {
                    // Linear: the difference is the derivative for a step of any size.
                    let there = dropout(&(x.as_tensor() + &dy).unwrap(), p, key).unwrap();
                    let difference: f64 = flat(&((there - &y).unwrap() * &dy).unwrap()).iter().sum();
                    let product: f64 = flat(&(gradients.get(&x).unwrap() * &dy).unwrap()).iter().sum();
                    assert!((difference - product).abs() < 1e-9 * product, "{difference} {product}");
                }
            }
        }
    }
}
