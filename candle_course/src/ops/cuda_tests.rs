//! The CUDA road against the CPU's, where the stored cases do not reach: sizes that take several
//! blocks, reduced precision, running statistics, the same bits twice. Run on a machine with a GPU:
//! `cargo test --features cuda,cudnn ops::cuda_tests -- --ignored`.

use std::sync::OnceLock;

use candle_core::{DType, Device, Tensor, Var};

use super::*;
use crate::error::Result;
use crate::precision::Precision;

/// One handle: tensors of two cannot be computed with together.
fn device() -> Device {
    static DEVICE: OnceLock<Device> = OnceLock::new();
    DEVICE.get_or_init(|| crate::device::by_name("cuda").expect("a CUDA device")).clone()
}

fn numbers(shape: &[usize], pace: f64, dtype: DType) -> Tensor {
    let values: Vec<f64> = (0..shape.iter().product()).map(|i: usize| (i as f64 * pace + 0.3).sin()).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
}

fn flat(xs: &Tensor) -> Vec<f64> {
    let xs = xs.to_dtype(DType::F64).unwrap().flatten_all().unwrap();
    xs.to_device(&Device::Cpu).unwrap().to_vec1().unwrap()
}

/// The output of `run` and the gradients of its inputs, for a loss of the output that is always the same.
fn everything(inputs: &[Tensor], device: &Device, run: impl Fn(&[Tensor]) -> Result<Tensor>) -> Vec<Vec<f64>> {
    let variables: Vec<Var> =
        inputs.iter().map(|input| Var::from_tensor(&input.to_device(device).unwrap()).unwrap()).collect();
    let tensors: Vec<Tensor> = variables.iter().map(|v| v.as_tensor().clone()).collect();
    let ys = run(&tensors).unwrap();
    // Gradients of weights and biases are sums over all rows or pixels. Not around zero, and together with
    // the output, they do not cancel. The same numbers in f32 and f64.
    let outer = (numbers(ys.dims(), 0.71, DType::F32) + 0.5).unwrap();
    let outer = outer.to_dtype(ys.dtype()).unwrap().to_device(device).unwrap();
    let loss = ((&ys * outer).unwrap() + (ys.sqr().unwrap() * 0.25).unwrap()).unwrap();
    let gradients = loss.sum_all().unwrap().backward().unwrap();
    let of_inputs = variables.iter().map(|variable| flat(gradients.get(variable).expect("a gradient")));
    std::iter::once(flat(&ys)).chain(of_inputs).collect()
}

/// Both roads agree to `bound`, as a share of the largest number of each result.
fn agree(name: &str, bound: f64, inputs: &[Tensor], run: impl Fn(&[Tensor]) -> Result<Tensor>) {
    compare(name, bound, Precision::F32, inputs, run);
}

fn compare(name: &str, bound: f64, precision: Precision, inputs: &[Tensor], run: impl Fn(&[Tensor]) -> Result<Tensor>) {
    let device = device();
    // In f64: where terms cancel, sums in f32 differ by more than the bound, on a CPU as well.
    let exact: Vec<Tensor> = inputs.iter().map(|input| input.to_dtype(DType::F64).unwrap()).collect();
    let expected = everything(&exact, &Device::Cpu, &run);
    let scope = precision.scope(&device).unwrap();
    let found = everything(inputs, &device, &run);
    let again = everything(inputs, &device, &run);
    drop(scope);
    assert_eq!(found, again, "{name}: the same bits twice");
    for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
        let largest = expected.iter().fold(1e-12f64, |most, x| most.max(x.abs()));
        let worst = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max) / largest;
        assert!(worst <= bound, "{name}, result {i}: {worst:e} is above {bound:e}");
    }
}

const KINDS: [(DType, f64); 2] = [(DType::F32, 2e-5), (DType::F64, 1e-11)];

#[test]
#[ignore = "needs a CUDA device"]
fn sums_over_many_blocks_are_right() {
    for (dtype, bound) in KINDS {
        for (rows, from, to) in [(1000, 33, 70), (4097, 64, 10), (3, 5, 600)] {
            for relu in [false, true] {
                let inputs = [&[rows, from] as &[usize], &[to, from], &[to]];
                let inputs: Vec<Tensor> =
                    inputs.iter().zip([0.37, 0.91, 1.3]).map(|(shape, pace)| numbers(shape, pace, dtype)).collect();
                agree("linear", bound, &inputs, |i| linear(&i[0], &i[1], Some(&i[2]), relu));
            }
        }
        for shape in [&[7usize, 3, 61, 67] as &[usize], &[3, 600, 5], &[5000, 4], &[2, 1, 300, 300], &[65, 129, 1, 1]] {
            for relu in [false, true] {
                let inputs = [shape, &shape[1..2], &shape[1..2]];
                let inputs: Vec<Tensor> =
                    inputs.iter().zip([0.77, 1.9, 2.3]).map(|(shape, pace)| numbers(shape, pace, dtype)).collect();
                let affine = |i: &[Tensor]| batch_norm(&i[0], Some((&i[1], &i[2])), 1e-5, relu);
                agree("batch_norm", bound, &inputs, |i| Ok(affine(i)?.0));
                agree("batch_norm, plain", bound, &inputs[..1], |i| Ok(batch_norm(&i[0], None, 1e-5, relu)?.0));
                let (_, ours) = affine(&inputs).unwrap();
                let on_device: Vec<Tensor> = inputs.iter().map(|input| input.to_device(&device()).unwrap()).collect();
                let (_, theirs) = affine(&on_device).unwrap();
                for (ours, theirs) in [(ours.mean, theirs.mean), (ours.variance, theirs.variance)] {
                    for (a, b) in flat(&ours).into_iter().zip(flat(&theirs)) {
                        assert!((a - b).abs() <= bound, "{shape:?}: {a} {b}");
                    }
                }
            }
        }
    }
}

#[test]
#[ignore = "needs a CUDA device"]
fn a_mean_far_from_zero_costs_no_precision() {
    let x = (numbers(&[16, 3, 40, 40], 0.77, DType::F64) + 1e4).unwrap().to_dtype(DType::F32).unwrap();
    let (_, ours) = batch_norm(&x, None, 1e-5, false).unwrap();
    let (_, theirs) = batch_norm(&x.to_device(&device()).unwrap(), None, 1e-5, false).unwrap();
    for (a, b) in flat(&ours.variance).into_iter().zip(flat(&theirs.variance)) {
        assert!((a - b).abs() < 1e-4, "{a} {b}");
    }
}

#[test]
#[ignore = "needs a CUDA device"]
fn windows_of_all_kinds_are_right() {
    for (dtype, bound) in KINDS {
        let x = numbers(&[3, 5, 37, 41], 1.7, dtype);
        for (kernel, stride, padding, ceil_mode) in
            [((2, 2), (2, 2), (0, 0), false), ((3, 2), (1, 2), (1, 1), true), ((9, 9), (4, 3), (4, 4), true)]
        {
            for count_include_pad in [false, true] {
                let options = Pool2dOptions { kernel_size: kernel, stride, padding, ceil_mode, count_include_pad };
                agree("max_pool2d", bound, std::slice::from_ref(&x), |i| max_pool2d(&i[0], &options));
                agree("avg_pool2d", bound, std::slice::from_ref(&x), |i| avg_pool2d(&i[0], &options));
            }
        }
        for size in [(1, 1), (7, 5), (37, 41), (50, 3)] {
            agree("adaptive_avg_pool2d", bound, std::slice::from_ref(&x), |i| adaptive_avg_pool2d(&i[0], size));
        }
    }
}

#[test]
#[ignore = "needs a CUDA device"]
fn products_and_convolutions_are_right_in_every_precision() {
    for (precision, dtype, bound) in [
        (Precision::F32, DType::F64, 1e-11),
        (Precision::F32, DType::F32, 2e-5),
        (Precision::Tf32, DType::F32, 2e-3),
        (Precision::Bf16, DType::F32, 2e-2),
    ] {
        // Not around zero: rounded factors make errors of a share of the terms, not of a sum that cancels.
        let make = |shapes: &[&[usize]]| -> Vec<Tensor> {
            let of = |(shape, pace): (&&[usize], f64)| (numbers(shape, pace, dtype) + 0.5).unwrap();
            shapes.iter().zip([0.37, 0.91, 1.3]).map(of).collect()
        };
        let inputs = make(&[&[6, 50, 48], &[72, 48], &[72]]);
        compare("linear", bound, precision, &inputs, |i| linear(&i[0], &i[1], Some(&i[2]), false));
        compare("linear, plain", bound, precision, &inputs[..2], |i| linear(&i[0], &i[1], None, false));
        for (groups, stride, padding, dilation) in [
            (1, (1, 1), (1, 1), (1, 1)),
            (2, (2, 1), (0, 2), (1, 1)),
            (8, (1, 1), (1, 1), (1, 1)),
            (1, (1, 2), (2, 2), (2, 2)),
        ] {
            let name = format!("{precision:?} {dtype:?} {groups} {stride:?} {padding:?} {dilation:?}");
            let inputs = make(&[&[5, 8, 19, 23], &[16, 8 / groups, 3, 3], &[16]]);
            let options = Conv2dOptions { stride, padding, dilation, groups, relu: false };
            compare(&name, bound, precision, &inputs, |i| conv2d(&i[0], &i[1], Some(&i[2]), &options));
            compare(&name, bound, precision, &inputs[..2], |i| conv2d(&i[0], &i[1], None, &options));
            let inputs = make(&[&[5, 8, 7, 9], &[8, 16 / groups, 3, 3], &[16]]);
            let options = ConvTranspose2dOptions { stride, padding: (1, 1), dilation, groups, ..Default::default() };
            compare(&name, bound, precision, &inputs, |i| conv_transpose2d(&i[0], &i[1], Some(&i[2]), &options));
        }
        if precision == Precision::F32 {
            // Rounded, a number near 0 may fall on the other side of the ReLU.
            let inputs = make(&[&[5, 8, 19, 23], &[16, 8, 3, 3], &[16]]);
            let options = Conv2dOptions { relu: true, ..Default::default() };
            compare("conv2d with ReLU", bound, precision, &inputs, |i| conv2d(&i[0], &i[1], Some(&i[2]), &options));
        }
    }
}

#[test]
#[ignore = "needs a CUDA device"]
fn running_statistics_move_as_on_the_cpu() {
    use crate::nn::{BatchNorm2d, Parameters};
    use candle_core::ModuleT;
    let run = |device: &Device| -> Vec<Vec<f64>> {
        let parameters = Parameters::new(0, device);
        let norm = BatchNorm2d::builder(3).build(&parameters.at("bn")).unwrap();
        for pace in [0.4, 0.9, 1.7] {
            let x = (numbers(&[4, 3, 9, 11], pace, DType::F32) + pace).unwrap().to_device(device).unwrap();
            norm.forward_t(&x, true).unwrap();
        }
        let evaluated = norm.forward_t(&numbers(&[2, 3, 4, 5], 1.1, DType::F32).to_device(device).unwrap(), false);
        let mut all: Vec<Vec<f64>> = parameters.buffers().iter().map(|(_, buffer)| flat(buffer.as_tensor())).collect();
        all.push(flat(&evaluated.unwrap()));
        all
    };
    for (ours, theirs) in run(&Device::Cpu).iter().zip(run(&device())) {
        for (a, b) in ours.iter().zip(theirs) {
            assert!((a - b).abs() < 1e-5, "{a} {b}");
        }
    }
}
