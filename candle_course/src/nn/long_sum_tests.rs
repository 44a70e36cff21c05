//! Sums over millions of numbers: what f32 gives is what f64 gives, for every operation that sums.

use candle_core::{DType, Device, Module, Tensor, Var};

use crate::error::Result;
use crate::losses::{BinaryCrossEntropy, CrossEntropy, KlDivergence, Loss, Mse};
use crate::nn::{Parameters, group_norm};
use crate::ops;

type Op<'a> = &'a dyn Fn(&[Tensor]) -> Result<Tensor>;

/// Numbers around `level`, none of them round.
fn values(shape: &[usize], level: f64, spread: f64) -> Tensor {
    numbers(shape, level, spread, 7919)
}

fn numbers(shape: &[usize], level: f64, spread: f64, step: usize) -> Tensor {
    let value = |i: usize| level + spread * ((i * step % 2003) as f64 / 1001.0 - 1.0);
    let values: Vec<f32> = (0..shape.iter().product()).map(|i| value(i) as f32).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// The output of `op` and the gradients of its inputs for a gradient of the output around 0.1.
fn results(op: Op<'_>, inputs: &[Tensor], dtype: DType) -> Vec<Tensor> {
    let vars: Vec<Var> = inputs.iter().map(|x| Var::from_tensor(&x.to_dtype(dtype).unwrap()).unwrap()).collect();
    let tensors: Vec<Tensor> = vars.iter().map(|var| var.as_tensor().clone()).collect();
    let ys = op(&tensors).unwrap();
    let outer = numbers(ys.dims(), 0.1, 0.01, 104_729).to_dtype(dtype).unwrap();
    let gradients = (&ys * outer).unwrap().sum_all().unwrap().backward().unwrap();
    let gradients = vars.iter().map(|var| gradients.get(var).unwrap().clone());
    [ys.detach()].into_iter().chain(gradients).collect()
}

/// The largest difference of `a` and `b`, in units of the largest number of `b`.
fn difference(a: &Tensor, b: &Tensor) -> f64 {
    let wide = |x: &Tensor| x.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
    let (a, b) = (wide(a), wide(b));
    let largest = b.iter().fold(0f64, |largest, x| largest.max(x.abs()));
    a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max) / largest
}

fn check(what: &str, op: Op<'_>, inputs: &[Tensor], tolerance: f64) {
    let (narrow, wide) = (results(op, inputs, DType::F32), results(op, inputs, DType::F64));
    for (i, (narrow, wide)) in narrow.iter().zip(&wide).enumerate() {
        let found = difference(narrow, wide);
        let which = if i == 0 { "output".to_owned() } else { format!("gradient of input {}", i - 1) };
        assert!(found <= tolerance, "{what}, {which}: {found:e} off");
    }
}

#[test]
fn norms_of_long_planes_far_from_zero() {
    for (level, spread) in [(293.15, 0.17), (1000.7, 0.17), (0.3, 1.0)] {
        let x = values(&[2, 1, 200, 300], level, spread);
        let affine = [values(&[1], 1.5, 0.0), values(&[1], 0.5, 0.0)];
        let with_affine = [x.clone(), affine[0].clone(), affine[1].clone()];
        let norm = |x: &[Tensor]| Ok(ops::batch_norm(&x[0], Some((&x[1], &x[2])), 1e-5, false)?.0);
        check("batch norm", &norm, &with_affine, 2e-5);
        let group = |x: &[Tensor]| group_norm(&x[0], 1, &x[1], &x[2], 1e-5);
        check("group norm", &group, &with_affine, 2e-5);
        check("layer norm", &|x| ops::layer_norm(&x[0], &[200, 300], None, 1e-5), &[x], 2e-5);
    }
    // Many rows: the gradients of weight and bias are the long sums.
    let tokens = [values(&[40_000, 5], 3.0, 1.0), values(&[5], 1.0, 0.1), values(&[5], 0.0, 0.1)];
    check("layer norm of rows", &|x| ops::layer_norm(&x[0], &[5], Some((&x[1], &x[2])), 1e-5), &tokens, 1e-6);
}

#[test]
fn a_raster_in_kelvin() {
    let x = values(&[2, 1, 1024, 1024], 293.15, 0.17);
    let (ys, found) = ops::batch_norm(&x, None, 1e-5, false).unwrap();
    let (expected, truth) = ops::batch_norm(&x.to_dtype(DType::F64).unwrap(), None, 1e-5, false).unwrap();
    assert!(difference(&ys, &expected) < 1e-5);
    assert!(difference(&found.mean, &truth.mean) < 1e-7 && difference(&found.variance, &truth.variance) < 1e-6);
}

#[test]
fn a_constant_plane_is_normalised_to_zero() {
    for value in [255.3f32, -1e-3, 1e6] {
        let x = Tensor::full(value, (2, 1, 224, 224), &Device::Cpu).unwrap();
        let (one, zero) = (Tensor::new(&[1f32], &Device::Cpu).unwrap(), Tensor::new(&[0f32], &Device::Cpu).unwrap());
        for ys in [
            ops::batch_norm(&x, None, 1e-5, false).unwrap().0,
            ops::layer_norm(&x, &[224, 224], None, 1e-5).unwrap(),
            group_norm(&x, 1, &one, &zero, 1e-5).unwrap(),
        ] {
            assert_eq!(ys.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap(), 0.0, "{value}");
        }
    }
}

#[test]
fn layers_over_many_rows_and_pixels() {
    let rows = [values(&[150_000, 2], 0.5, 0.3), values(&[3, 2], 0.5, 0.3), values(&[3], 0.1, 0.1)];
    check("linear", &|x| ops::linear(&x[0], &x[1], Some(&x[2]), false), &rows, 2e-6);
    let conv = ops::Conv2dOptions { padding: (1, 1), ..Default::default() };
    let x = [values(&[1, 2, 250, 300], 0.5, 0.3), values(&[3, 2, 3, 3], 0.5, 0.3), values(&[3], 0.1, 0.1)];
    check("conv2d", &|x| ops::conv2d(&x[0], &x[1], Some(&x[2]), &conv), &x, 2e-6);
    let depthwise = ops::Conv2dOptions { groups: 2, ..conv };
    let x = [values(&[1, 2, 250, 300], 0.5, 0.3), values(&[2, 1, 3, 3], 0.5, 0.3), values(&[2], 0.1, 0.1)];
    check("depthwise", &|x| ops::conv2d(&x[0], &x[1], Some(&x[2]), &depthwise), &x, 2e-6);
    check("average", &|x| ops::adaptive_avg_pool2d(&x[0], (1, 1)), &[values(&[1, 2, 500, 500], 0.1, 0.01)], 2e-7);
}

#[test]
fn losses_of_many_classes_and_pixels() {
    let classes = [values(&[2, 100_003], 0.0, 1e-3)];
    // What is left of the gradient is the difference of nearly equal numbers.
    check("log softmax", &|x| ops::log_softmax(&x[0], 1), &classes, 2e-5);
    let labels = Tensor::new(&[7u32, 99_999], &Device::Cpu).unwrap();
    check("cross entropy", &|x| CrossEntropy::default().forward(&x[0], &labels), &classes, 1e-6);
    let smoothed = CrossEntropy::builder().label_smoothing(0.1).build().unwrap();
    check("label smoothing", &|x| smoothed.forward(&x[0], &labels), &classes, 1e-6);
    let pixels = values(&[200_000], 0.3, 0.1);
    let targets = values(&[200_000], 0.6, 0.1);
    let of = |x: &Tensor| targets.to_dtype(x.dtype()).unwrap();
    check("mse", &|x| Mse::default().forward(&x[0], &of(&x[0])), std::slice::from_ref(&pixels), 1e-6);
    check("bce", &|x| BinaryCrossEntropy::default().forward(&x[0], &of(&x[0])), std::slice::from_ref(&pixels), 1e-6);
    let logarithms = values(&[200_000], -1.0, 0.1);
    check("kl", &|x| KlDivergence::default().forward(&x[0], &of(&x[0])), &[logarithms], 1e-6);
}

#[test]
fn a_bias_that_a_million_rows_share() {
    for (rows, gradient) in [(1_000_000, 0.1), (2_000_000, 5e-7)] {
        let parameters = Parameters::new(0, &Device::Cpu);
        let layer = crate::nn::Linear::new(1, 1, &parameters.root()).unwrap();
        let x = Tensor::ones((rows, 1), DType::F32, &Device::Cpu).unwrap();
        let gradients = (layer.forward(&x).unwrap() * gradient).unwrap().sum_all().unwrap().backward().unwrap();
        let exact = f64::from(gradient as f32) * rows as f64;
        for (name, tolerance) in [("bias", 3e-7), ("weight", 2e-6)] {
            let found = gradients.get(&parameters.get(name).unwrap()).unwrap();
            let found = found.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap()[0];
            assert!((found / exact - 1.0).abs() < tolerance, "{name}: {found} {exact}");
        }
    }
}
