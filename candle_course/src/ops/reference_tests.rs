//! Every operation against stored PyTorch values and finite differences.
//!
//! The cases and values come from `scripts/reference_ops.py`.

use candle_core::backprop::GradStore;
use candle_core::{D, DType, Device, IndexOp, Tensor, Var};
use serde_json::Value;

use super::*;
use crate::error::Result;

const CASES: &str = include_str!("../../tests/data/ops/cases.json");
const RESULTS: &[u8] = include_bytes!("../../tests/data/ops/results.f32");

#[derive(serde::Deserialize)]
struct Case {
    op: String,
    options: Value,
    shapes: Vec<Vec<usize>>,
    output: Vec<usize>,
}

/// 32 bits that look random; the same function as in the script.
fn hashed(place: u32, seed: u32) -> u32 {
    let mut x = place.wrapping_mul(2_654_435_761).wrapping_add(seed * 40_503 + 1);
    for _ in 0..2 {
        x = (x ^ (x >> 16)).wrapping_mul(0x7FEB_352D);
        x = (x ^ (x >> 15)).wrapping_mul(0x846C_A68B);
    }
    x ^ (x >> 16)
}

fn numbers(shape: &[usize], seed: u32) -> Tensor {
    let count: usize = shape.iter().product();
    let values = (0..count as u32).map(|i| (f64::from(hashed(i, seed)) / 2f64.powi(31) - 1.0) as f32);
    let values: Vec<f64> = values.map(f64::from).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn run(case: &Case, inputs: &[Tensor]) -> Result<Tensor> {
    let (x, o) = (&inputs[0], &case.options);
    let (weight, bias) = (inputs.get(1), inputs.get(2));
    let affine = weight.zip(bias);
    let number = |name: &str| o[name].as_u64().unwrap() as usize;
    let list =
        |value: &Value| value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as usize).collect::<Vec<_>>();
    let pair = |name: &str| {
        let sizes = list(&o[name]);
        (sizes[0], sizes[1])
    };
    let flag = |name: &str| o[name].as_bool().unwrap();
    let epsilon = || o["epsilon"].as_f64().unwrap();
    let pool = || Pool2dOptions {
        kernel_size: pair("kernel_size"),
        stride: pair("stride"),
        padding: pair("padding"),
        ceil_mode: flag("ceil_mode"),
        count_include_pad: o["count_include_pad"].as_bool().unwrap_or(true),
    };
    match case.op.as_str() {
        "conv2d" => {
            let (stride, padding, dilation) = (pair("stride"), pair("padding"), pair("dilation"));
            let options = Conv2dOptions { stride, padding, dilation, groups: number("groups"), relu: flag("relu") };
            conv2d(x, &inputs[1], bias, &options)
        }
        "conv_transpose2d" => {
            let options = ConvTranspose2dOptions {
                stride: pair("stride"),
                padding: pair("padding"),
                output_padding: pair("output_padding"),
                dilation: pair("dilation"),
                groups: number("groups"),
            };
            conv_transpose2d(x, &inputs[1], bias, &options)
        }
        "max_pool2d" => max_pool2d(x, &pool()),
        "avg_pool2d" => avg_pool2d(x, &pool()),
        "adaptive_avg_pool2d" => adaptive_avg_pool2d(x, pair("output_size")),
        "batch_norm" => Ok(batch_norm(x, affine, epsilon(), flag("relu"))?.0),
        "batch_norm_inference" => {
            let channels = x.dim(1)?;
            let mean = numbers(&[channels], 50).to_dtype(x.dtype())?;
            let variance = (numbers(&[channels], 51) + 1.5)?.to_dtype(x.dtype())?;
            batch_norm_inference(x, &mean, &variance, affine, epsilon(), flag("relu"))
        }
        "layer_norm" => layer_norm(x, &list(&o["normalised"]), affine, epsilon()),
        "linear" => linear(x, &inputs[1], bias, flag("relu")),
        "relu" => relu(x),
        "gelu" => gelu(&(x * 4.0)?),
        "silu" => silu(&(x * 4.0)?),
        "log_softmax" => log_softmax(&(x * 4.0)?, number("dim")),
        "softmax_cross_entropy" => {
            let targets: Vec<u32> = list(&o["targets"]).into_iter().map(|target| target as u32).collect();
            let weight: Option<Vec<f64>> = serde_json::from_value(o["weight"].clone())?;
            let weight =
                weight.map(|w| Tensor::from_vec(w, x.dim(1)?, &Device::Cpu)?.to_dtype(x.dtype())).transpose()?;
            let options = CrossEntropyOptions {
                weight,
                ignore_index: o["ignore_index"].as_u64().map(|class| class as u32),
                label_smoothing: o["label_smoothing"].as_f64().unwrap(),
            };
            softmax_cross_entropy(&(x * 4.0)?, &Tensor::new(targets, &Device::Cpu)?, &options)
        }
        "upsample_nearest2d" => upsample_nearest2d(x, pair("size")),
        "upsample_bilinear2d" => upsample_bilinear2d(x, pair("size"), flag("align_corners")),
        other => panic!("no operation {other}"),
    }
}

fn values(xs: &Tensor) -> Vec<f64> {
    xs.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn bits(xs: &Tensor) -> Vec<u64> {
    values(xs).into_iter().map(f64::to_bits).collect()
}

fn assert_close(what: &str, ours: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(ours.len(), expected.len(), "{what}");
    for (i, (a, b)) in ours.iter().zip(expected).enumerate() {
        assert!((a - b).abs() <= tolerance * b.abs().max(1.0), "{what}, number {i}: {a} instead of {b}");
    }
}

/// The output, and the gradients of all inputs for the stored gradient of the output.
fn forward_backward(case: &Case, inputs: &[Var]) -> (Tensor, GradStore) {
    let tensors: Vec<Tensor> = inputs.iter().map(|input| input.as_tensor().clone()).collect();
    let y = run(case, &tensors).unwrap();
    let dy = numbers(&case.output, 99).to_dtype(y.dtype()).unwrap();
    let gradients = (&y * dy).unwrap().sum_all().unwrap().backward().unwrap();
    (y, gradients)
}

fn variables(case: &Case, dtype: DType) -> Vec<Var> {
    let numbers = case.shapes.iter().zip(0..).map(|(shape, seed)| numbers(shape, seed).to_dtype(dtype).unwrap());
    numbers.map(|input| Var::from_tensor(&input).unwrap()).collect()
}

fn against_stored(case: &Case, what: &str, stored: &[f64]) {
    for dtype in [DType::F64, DType::F32] {
        let inputs = variables(case, dtype);
        let (y, gradients) = forward_backward(case, &inputs);
        assert_eq!(y.dims(), case.output, "{what}");
        let mut rest = stored;
        let mut next = |what: &str, ours: &Tensor| {
            let (expected, behind) = rest.split_at(ours.elem_count());
            assert_close(&format!("{what} in {dtype:?}"), &values(ours), expected, 1e-5);
            rest = behind;
        };
        next(&format!("{what}: output"), &y);
        for (i, input) in inputs.iter().enumerate() {
            next(&format!("{what}: gradient {i}"), gradients.get(input).unwrap());
        }
        // The same bits again.
        let (again, gradients_again) = forward_backward(case, &inputs);
        assert_eq!(bits(&again), bits(&y), "{what}");
        for input in &inputs {
            assert_eq!(bits(gradients_again.get(input).unwrap()), bits(gradients.get(input).unwrap()), "{what}");
        }
    }
}

fn against_differences(case: &Case, what: &str) {
    let inputs = variables(case, DType::F64);
    let (_, gradients) = forward_backward(case, &inputs);
    let dy = numbers(&case.output, 99);
    for (which, input) in inputs.iter().enumerate() {
        let direction = numbers(&case.shapes[which], 70 + which as u32);
        let step = 1e-6;
        let loss = |sign: f64| {
            let tensors: Vec<Tensor> = inputs
                .iter()
                .enumerate()
                .map(|(i, other)| {
                    if i == which {
                        (input.as_tensor() + (&direction * (sign * step)).unwrap()).unwrap()
                    } else {
                        other.as_detached_tensor()
                    }
                })
                .collect();
            values(&(run(case, &tensors).unwrap() * &dy).unwrap()).iter().sum::<f64>()
        };
        let difference = (loss(1.0) - loss(-1.0)) / (2.0 * step);
        let product: f64 = values(&(gradients.get(input).unwrap() * &direction).unwrap()).iter().sum();
        let scale = product.abs().max(1.0);
        assert!(
            (difference - product).abs() < 1e-6 * scale,
            "{what}, input {which}: {product}, difference {difference}"
        );
    }
}

/// Strided and broadcast inputs and gradients, and inputs that begin behind others in their
/// storage, give what contiguous ones give.
fn with_strides(case: &Case, what: &str) {
    let inputs = variables(case, DType::F32);
    let (y, gradients) = forward_backward(case, &inputs);
    let strided: Vec<Tensor> = inputs
        .iter()
        .map(|x| {
            let twice = Tensor::stack(&[x.as_tensor(), x.as_tensor()], x.rank()).unwrap();
            let half = twice.narrow(D::Minus1, 0, 1).unwrap().squeeze(D::Minus1).unwrap();
            assert!(half.elem_count() == 1 || !half.is_contiguous());
            half
        })
        .collect();
    let behind: Vec<Tensor> = inputs
        .iter()
        .map(|x| {
            let others = (x.as_detached_tensor() + 1.0).unwrap();
            let part = Tensor::cat(&[&others, x.as_tensor(), &others], 0).unwrap();
            let part = part.narrow(0, x.dims()[0], x.dims()[0]).unwrap();
            assert!(part.is_contiguous() && part.layout().start_offset() > 0);
            part
        })
        .collect();
    let dy = numbers(&case.output, 99).to_dtype(DType::F32).unwrap();
    for (kind, tensors) in [("strided", strided), ("behind others", behind)] {
        let again = run(case, &tensors).unwrap();
        assert_eq!(bits(&again), bits(&y), "{what}: {kind}");
        let gradients_again = (&again * &dy).unwrap().sum_all().unwrap().backward().unwrap();
        for input in &inputs {
            assert_eq!(
                bits(gradients_again.get(input).unwrap()),
                bits(gradients.get(input).unwrap()),
                "{what}: {kind}"
            );
        }
    }

    // A sum's gradient is broadcast; a product with ones makes it contiguous.
    let tensors: Vec<Tensor> = inputs.iter().map(|input| input.as_tensor().clone()).collect();
    let y = run(case, &tensors).unwrap();
    let broadcast = y.sum_all().unwrap().backward().unwrap();
    let contiguous = (&y * y.ones_like().unwrap()).unwrap().sum_all().unwrap().backward().unwrap();
    for input in &inputs {
        assert_eq!(bits(broadcast.get(input).unwrap()), bits(contiguous.get(input).unwrap()), "{what}: broadcast");
    }

    // An input whose examples are all the first one.
    let x = Var::from_tensor(&inputs[0].i(0..1).unwrap()).unwrap();
    let expanded = x.broadcast_as(inputs[0].shape()).unwrap();
    let of = |first: &Tensor| {
        let mut tensors = tensors.clone();
        tensors[0] = first.clone();
        (run(case, &tensors).unwrap() * &dy).unwrap().sum_all().unwrap()
    };
    let copy = Var::from_tensor(&expanded.contiguous().unwrap().detach()).unwrap();
    let (ours, expected) = (of(&expanded).backward().unwrap(), of(&copy).backward().unwrap());
    let expected = expected.get(&copy).unwrap().sum_keepdim(0).unwrap();
    assert_close(&format!("{what}: broadcast input"), &values(ours.get(&x).unwrap()), &values(&expected), 1e-5);
}

/// An input that is not tracked changes nothing for the others.
fn untracked(case: &Case, what: &str) {
    let inputs = variables(case, DType::F32);
    let (_, gradients) = forward_backward(case, &inputs);
    for which in 0..inputs.len() {
        let tensors: Vec<Tensor> = (0..inputs.len())
            .map(|i| if i == which { inputs[i].as_tensor().clone() } else { inputs[i].as_detached_tensor() })
            .collect();
        let y = run(case, &tensors).unwrap();
        let dy = numbers(&case.output, 99).to_dtype(DType::F32).unwrap();
        let alone = (y * dy).unwrap().sum_all().unwrap().backward().unwrap();
        assert_eq!(bits(alone.get(&inputs[which]).unwrap()), bits(gradients.get(&inputs[which]).unwrap()), "{what}");
        let others = tensors.iter().enumerate().filter(|(i, _)| *i != which);
        others.for_each(|(_, other)| assert!(alone.get(other).is_none(), "{what}: a gradient that nobody wants"));
    }
}

fn check(op: &str) {
    let cases: Vec<Case> = serde_json::from_str(CASES).unwrap();
    let (chunks, rest) = RESULTS.as_chunks::<4>();
    assert!(rest.is_empty());
    let mut stored = chunks.iter().map(|bytes| f64::from(f32::from_le_bytes(*bytes)));
    let mut count = 0;
    for case in &cases {
        let size: usize = case.shapes.iter().chain([&case.output]).map(|shape| shape.iter().product::<usize>()).sum();
        let expected: Vec<f64> = stored.by_ref().take(size).collect();
        if case.op == op {
            let what = format!("{op} {:?} {}", case.shapes, case.options);
            against_stored(case, &what, &expected);
            against_differences(case, &what);
            with_strides(case, &what);
            untracked(case, &what);
            count += 1;
        }
    }
    assert_eq!(stored.count(), 0);
    assert!(count >= 20, "{op}: {count} cases");
}

mod stored {
    macro_rules! checks {
    ($($op:ident),+) => {$(
        #[test]
        fn $op() {
            super::check(stringify!($op));
        }
    )+};
}

    checks!(
        conv2d,
        conv_transpose2d,
        max_pool2d,
        avg_pool2d,
        adaptive_avg_pool2d,
        batch_norm,
        batch_norm_inference,
        layer_norm,
        linear,
        relu,
        gelu,
        silu,
        log_softmax,
        softmax_cross_entropy,
        upsample_nearest2d,
        upsample_bilinear2d
    );
}

/// All of this, and all that is built on it, again in processes that use narrower instructions, and
/// in one that has one thread.
#[test]
fn every_instruction_set_and_a_single_thread() {
    const MARK: &str = "CANDLE_COURSE_TEST_CHILD";
    if std::env::var_os(MARK).is_some() {
        return;
    }
    let mut settings = vec![("CANDLE_COURSE_SIMD", "portable"), ("RAYON_NUM_THREADS", "1")];
    if simd_level().unwrap() == SimdLevel::Avx512 {
        settings.push(("CANDLE_COURSE_SIMD", "avx2"));
    }
    for (name, value) in settings {
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["ops::", "nn::", "losses::", "metrics::", "optimizers::", "--test-threads", "2"])
            // Half a minute without any kernel that has instruction sets.
            .args(["--skip", "agree_with_pytorch_in_f", "--skip", "tensor_operations_agrees_with_pytorch"])
            .env(MARK, "1")
            .env_remove("CANDLE_NUM_THREADS")
            .env(name, value)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&child.stdout);
        assert!(child.status.success() && text.contains("test result: ok"), "{name}={value}:\n{text}");
    }
}

/// A NaN reaches every number that it enters, and no other, through the fused ReLU and the maximum too.
#[test]
fn nan_stays_nan() {
    for dtype in [DType::F32, DType::F64] {
        let ones = |shape: &[usize]| Tensor::ones(shape, dtype, &Device::Cpu).unwrap();
        for size in [(5, 6), (7, 37)] {
            let count = 2 * 3 * size.0 * size.1;
            let marked: Vec<f64> = (0..count).map(|i| if i % 97 == 31 { f64::NAN } else { -1.0 }).collect();
            let x = Tensor::from_vec(marked, (2, 3, size.0, size.1), &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
            let pool = |kernel, stride| Pool2dOptions { stride: (stride, stride), ..Pool2dOptions::new(kernel) };
            for (kernel, stride) in [(2, 2), (3, 2), (2, 1)] {
                let is_nan = |ys: &Tensor| values(ys).into_iter().map(f64::is_nan).collect::<Vec<_>>();
                let most = max_pool2d(&x, &pool(kernel, stride)).unwrap();
                let mean = avg_pool2d(&x, &pool(kernel, stride)).unwrap();
                assert_eq!(is_nan(&most), is_nan(&mean));
                for (outputs, groups) in [(1, 1), (9, 1), (3, 3)] {
                    let stride = (stride, stride);
                    let weight = ones(&[outputs, 3 / groups, kernel, kernel]);
                    for bias in [None, Some(ones(&[outputs]))] {
                        let of = |relu| {
                            let options = Conv2dOptions { stride, groups, relu, ..Default::default() };
                            conv2d(&x, &weight, bias.as_ref(), &options).unwrap()
                        };
                        let (with, without) = (of(true), of(false));
                        assert!(is_nan(&with).contains(&true) && is_nan(&with).contains(&false));
                        assert_eq!(is_nan(&with), is_nan(&without), "{kernel} {groups} {dtype:?}");
                        assert!(values(&with).iter().all(|&y| y.is_nan() || y == 0.0));
                    }
                }
            }
        }
    }
}

/// candle can be told to keep the graph of the backward pass; our part of it would be missing.
#[test]
fn gradients_of_gradients_are_refused() {
    let x = Var::new(&[1f32, 2.], &Device::Cpu).unwrap();
    let y = relu(&x).unwrap();
    // A tracked gradient, as a backward pass that keeps its graph would hand in.
    let seed = (x.as_tensor() * 2.0).unwrap();
    let text = support::incoming(&seed, "relu").unwrap_err().to_string();
    assert!(text.contains("`relu` has no gradient of its gradient"), "{text}");
    assert!(support::incoming(&y.ones_like().unwrap(), "relu").is_ok());
}
