//! Functions of one number that candle lacks, or has without an accurate value or gradient.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, DType, Layout, Shape, Tensor};

use super::{PIECE, Real, contiguous, for_float};
use crate::error::Result;
use crate::kernels::buffer::written;
use crate::kernels::parallel;

/// A function of one number. Values and derivatives are computed in f64 and rounded once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Pointwise {
    /// |x|, with derivative 0 at 0 (candle's is 1).
    Abs,
    /// Huber's function: x²/2 up to `delta`, linear beyond.
    Huber { delta: f64 },
    /// ln cosh x.
    LogCosh,
    /// max(q x, (q − 1) x).
    Pinball { quantile: f64 },
    /// ln(1 + e^x).
    Softplus,
    /// 1 / (1 + e^−x), with a derivative that stays accurate where the value rounds to 1.
    Sigmoid,
    /// max(0, 1 − x)^power for power 1 or 2.
    Hinge { squared: bool },
    /// (1 − σ(x))^γ · −ln σ(x), the focal term of an example with signed logit x.
    Focal { gamma: f64 },
    /// x^exponent for x > 0, otherwise 0, with derivative 0 there.
    Power { exponent: f64 },
    /// √x, with derivative 0 at 0: the root mean square of a perfect prediction.
    Sqrt,
}

fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

fn sigmoid(x: f64) -> f64 {
    if x >= 0.0 {
        1.0 / (1.0 + (-x).exp())
    } else {
        let e = x.exp();
        e / (1.0 + e)
    }
}

impl Pointwise {
    fn value(self, x: f64) -> f64 {
        if x.is_nan() {
            return x; // `max` would swallow it, and a NaN must be seen
        }
        match self {
            Self::Abs => x.abs(),
            Self::Huber { delta } if x.abs() <= delta => 0.5 * x * x,
            Self::Huber { delta } => delta * (x.abs() - 0.5 * delta),
            // cosh x = 1 + 2 sinh²(x/2): no cancellation at small x; no overflow at large.
            Self::LogCosh if x.abs() < 1.0 => (2.0 * (0.5 * x).sinh().powi(2)).ln_1p(),
            Self::LogCosh => x.abs() + (-2.0 * x.abs()).exp().ln_1p() - std::f64::consts::LN_2,
            Self::Pinball { quantile } => (quantile * x).max((quantile - 1.0) * x),
            Self::Softplus => softplus(x),
            Self::Sigmoid => sigmoid(x),
            Self::Hinge { squared: false } => (1.0 - x).max(0.0),
            Self::Hinge { squared: true } => (1.0 - x).max(0.0).powi(2),
            Self::Focal { gamma } => (-gamma * softplus(x)).exp() * softplus(-x),
            Self::Power { exponent } if x > 0.0 => x.powf(exponent),
            Self::Power { .. } => 0.0,
            Self::Sqrt => x.sqrt(),
        }
    }

    fn derivative(self, x: f64) -> f64 {
        let sign = if x > 0.0 {
            1.0
        } else if x < 0.0 {
            -1.0
        } else {
            0.0
        };
        if x.is_nan() {
            return x;
        }
        match self {
            Self::Abs => sign,
            Self::Huber { delta } if x.abs() <= delta => x,
            Self::Huber { delta } => delta * sign,
            Self::LogCosh => x.tanh(),
            // At the kink the subgradient 0, as for |x|.
            Self::Pinball { quantile } => match sign {
                1.0 => quantile,
                -1.0 => quantile - 1.0,
                _ => 0.0,
            },
            Self::Softplus => sigmoid(x),
            Self::Sigmoid => sigmoid(x) * sigmoid(-x),
            Self::Hinge { squared: false } => {
                if x < 1.0 {
                    -1.0
                } else {
                    0.0
                }
            }
            Self::Hinge { squared: true } => -2.0 * (1.0 - x).max(0.0),
            Self::Focal { gamma } => -(-gamma * softplus(x)).exp() * (gamma * sigmoid(x) * softplus(-x) + sigmoid(-x)),
            Self::Power { exponent } if x > 0.0 => exponent * x.powf(exponent - 1.0),
            Self::Power { .. } => 0.0,
            Self::Sqrt if x > 0.0 => 0.5 / x.sqrt(),
            Self::Sqrt => 0.0,
        }
    }

    /// The same from candle's operations, for a GPU.
    ///
    /// Where a kink matters its slope is a detached factor: candle's `abs` and `relu` have slope 1 at 0.
    fn composed(self, x: &Tensor) -> candle_core::Result<Tensor> {
        // ln(1 + e), with what the addition rounded away given back.
        let ln_1p = |e: &Tensor| {
            let u = (e + 1.0)?;
            let lost = ((e - (&u - 1.0)?)? / &u)?.detach();
            u.log()? + lost
        };
        let softplus = |x: &Tensor| x.relu()? + ln_1p(&x.abs()?.neg()?.exp()?)?;
        let flag = |condition: Tensor| Ok::<_, candle_core::Error>(condition.to_dtype(x.dtype())?.detach());
        // x where it is positive, 1 elsewhere, for functions that are steep or undefined there.
        let positive_or_one = || x.le(0.0)?.where_cond(&x.ones_like()?, x);
        match self {
            Self::Abs => x * x.sign()?.detach(),
            Self::Huber { delta } => {
                let a = x.abs()?;
                let inside = a.minimum(delta)?;
                // inside·(|x| − inside/2): x²/2 within delta, delta(|x| − delta/2) beyond.
                &inside * (&a - (&inside * 0.5)?)?
            }
            Self::LogCosh => {
                let a = x.abs()?;
                &a + (ln_1p(&(&a * -2.0)?.exp()?)? - std::f64::consts::LN_2)?
            }
            Self::Pinball { quantile } => {
                let positive = (flag(x.gt(0.0)?)? * quantile)?;
                x * (positive + (flag(x.lt(0.0)?)? * (quantile - 1.0))?)?
            }
            Self::Softplus => softplus(x),
            Self::Sigmoid => {
                // Of e^−|x| alone: nothing overflows, and the slope does not cancel.
                let e = x.abs()?.neg()?.exp()?;
                let large = (&e + 1.0)?.recip()?;
                x.ge(0.0)?.where_cond(&large, &(&e * &large)?)
            }
            Self::Hinge { squared } => {
                let hinge = ((1.0 - x)? * flag(x.lt(1.0)?)?)?;
                if squared { hinge.sqr() } else { Ok(hinge) }
            }
            Self::Focal { gamma } => (softplus(x)? * -gamma)?.exp()? * softplus(&x.neg()?)?,
            Self::Power { exponent } => positive_or_one()?.powf(exponent)? * flag(x.gt(0.0)?)?,
            Self::Sqrt => positive_or_one()?.sqrt()? * flag(x.gt(0.0)?)?,
        }
    }
}

struct Forward(Pointwise);
struct Backward(Pointwise);

impl CustomOp1 for Forward {
    fn name(&self) -> &'static str {
        "pointwise"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        fn run<T: Real>(function: Pointwise, xs: &[T]) -> CpuStorage {
            T::to_cpu_storage_owned(written(xs.len(), |ys| {
                parallel::for_parts(ys, PIECE, |index, ys| {
                    for (y, x) in ys.iter_mut().zip(&xs[index * PIECE..]) {
                        *y = T::from_f64(function.value(x.to_f64()));
                    }
                });
            }))
        }
        let storage = match storage {
            CpuStorage::F64(_) => run(self.0, contiguous::<f64>(storage, layout)?),
            _ => run(self.0, contiguous::<f32>(storage, layout)?),
        };
        Ok((storage, layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, outer: &Tensor) -> candle_core::Result<Option<Tensor>> {
        x.contiguous()?.apply_op2_no_bwd(&outer.contiguous()?, &Backward(self.0)).map(Some)
    }
}

impl CustomOp2 for Backward {
    fn name(&self) -> &'static str {
        "pointwise-backward"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        outer: &CpuStorage,
        outer_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        fn run<T: Real>(function: Pointwise, xs: &[T], outers: &[T]) -> CpuStorage {
            T::to_cpu_storage_owned(written(xs.len(), |gradients| {
                parallel::for_parts(gradients, PIECE, |index, gradients| {
                    let first = index * PIECE;
                    for ((gradient, x), outer) in gradients.iter_mut().zip(&xs[first..]).zip(&outers[first..]) {
                        *gradient = T::from_f64(match outer.to_f64() {
                            0.0 => 0.0, // 0 · ∞ is no contribution
                            outer => outer * function.derivative(x.to_f64()),
                        });
                    }
                });
            }))
        }
        let dtype = match x {
            CpuStorage::F64(_) => DType::F64,
            _ => DType::F32,
        };
        let storage = for_float!(dtype, T => {
            run(self.0, contiguous::<T>(x, x_layout)?, contiguous::<T>(outer, outer_layout)?)
        });
        Ok((storage, x_layout.shape().clone()))
    }
}

/// Applies `function` to every element of an f32 or f64 tensor.
pub(crate) fn pointwise(x: &Tensor, function: Pointwise) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if crate::kernels::cuda::takes(x) {
        return Ok(crate::kernels::cuda::pointwise::pointwise(x, function)?);
    }
    if x.device().is_cpu() { Ok(x.contiguous()?.apply_op1(Forward(function))?) } else { Ok(function.composed(x)?) }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    const ALL: [Pointwise; 11] = [
        Pointwise::Abs,
        Pointwise::Huber { delta: 0.7 },
        Pointwise::LogCosh,
        Pointwise::Pinball { quantile: 0.9 },
        Pointwise::Softplus,
        Pointwise::Sigmoid,
        Pointwise::Hinge { squared: false },
        Pointwise::Hinge { squared: true },
        Pointwise::Focal { gamma: 2.0 },
        Pointwise::Power { exponent: 0.75 },
        Pointwise::Sqrt,
    ];

    #[test]
    fn the_kernel_agrees_with_finite_differences_and_with_the_composed_form() {
        for function in ALL {
            let positive_only = matches!(function, Pointwise::Sqrt | Pointwise::Power { .. });
            let points: Vec<f64> = (-40..=40)
                .map(|i| f64::from(i) * 0.173 + 0.011)
                .filter(|&x| x > 0.0 || !positive_only)
                .filter(|x| (x.abs() - 0.7).abs() > 1e-3 && (x - 1.0).abs() > 1e-3)
                .collect();
            let x = Var::from_vec(points.clone(), points.len(), &Device::Cpu).unwrap();
            let y = pointwise(&x, function).unwrap();
            let composed = function.composed(&x).unwrap();
            let gradient =
                |y: &Tensor| y.sum_all().unwrap().backward().unwrap().get(&x).unwrap().to_vec1::<f64>().unwrap();
            let (values, others) = (y.to_vec1::<f64>().unwrap(), composed.to_vec1::<f64>().unwrap());
            let (slopes, other_slopes) = (gradient(&y), gradient(&composed));
            for (i, &point) in points.iter().enumerate() {
                let h = 1e-6;
                let numeric = (function.value(point + h) - function.value(point - h)) / (2.0 * h);
                assert!((slopes[i] - numeric).abs() < 1e-7, "{function:?} at {point}: {} {numeric}", slopes[i]);
                assert!((values[i] - others[i]).abs() < 1e-9, "{function:?} at {point}");
                assert!((slopes[i] - other_slopes[i]).abs() < 1e-9, "{function:?} at {point}");
            }
        }
    }

    #[test]
    fn the_composed_form_agrees_at_extremes_and_kinks() {
        for function in ALL {
            let positive_only = matches!(function, Pointwise::Sqrt | Pointwise::Power { .. });
            let sizes = [0.0f32, 1e-6, 0.7, 1.0, 20.0, 87.0, 90.0, 400.0, 1e4];
            let points: Vec<f32> =
                sizes.iter().flat_map(|&x| [x, -x]).filter(|&x| x >= 0.0 || !positive_only).collect();
            let x = Var::from_vec(points.clone(), points.len(), &Device::Cpu).unwrap();
            let run = |y: Tensor| {
                let gradient = y.sum_all().unwrap().backward().unwrap().get(&x).unwrap().to_vec1::<f32>().unwrap();
                (y.to_vec1::<f32>().unwrap(), gradient)
            };
            let (ours, composed) = (run(pointwise(&x, function).unwrap()), run(function.composed(&x).unwrap()));
            // ln cosh near 0 is a difference in its composed form.
            let allowed = if function == Pointwise::LogCosh { 2e-7 } else { 1e-30 };
            let close = |a: f32, b: f32| (a - b).abs() <= 1e-6 * a.abs() + allowed;
            for (i, &point) in points.iter().enumerate() {
                let (value, slope) = ((ours.0[i], composed.0[i]), (ours.1[i], composed.1[i]));
                assert!(close(value.0, value.1), "{function:?} at {point}: {value:?}");
                assert!(close(slope.0, slope.1), "{function:?}, slope at {point}: {slope:?}");
            }
            let nan = Tensor::new(f32::NAN, &Device::Cpu).unwrap();
            assert!(function.composed(&nan).unwrap().to_scalar::<f32>().unwrap().is_nan(), "{function:?} hides a NaN");
        }
    }

    #[test]
    fn extremes_stay_finite() {
        for function in ALL {
            for x in [0.0, 1e-300, 1e4, if function == Pointwise::Sqrt { 0.0 } else { -1e4 }] {
                let (value, derivative) = (function.value(x), function.derivative(x));
                assert!(value.is_finite() && !derivative.is_nan(), "{function:?}({x}): {value}, {derivative}");
            }
            assert!(function.value(f64::NAN).is_nan(), "{function:?} hides a NaN");
        }
    }
}
