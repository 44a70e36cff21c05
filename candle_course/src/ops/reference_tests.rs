//! Every operation, on both roads, against stored PyTorch values and finite differences.
//!
//! The cases and values come from `scripts/reference_ops.py`.

use std::collections::BTreeSet;

use candle_core::backprop::GradStore;
use candle_core::{D, DType, Tensor, Var};
use serde_json::Value;

pub(crate) use super::support::composed;
use super::support::is_composed;
use super::*;
use crate::error::Result;
use crate::test_support::{device, every};

const CASES: &str = include_str!("../../tests/data/ops/cases.json");
const RESULTS: &[u8] = include_bytes!("../../tests/data/ops/results.f32");

#[derive(serde::Deserialize)]
pub(crate) struct Case {
    pub op: String,
    pub options: Value,
    pub shapes: Vec<Vec<usize>>,
    pub output: Vec<usize>,
}

/// A case with its output and the gradients of its inputs, one behind the other.
pub(crate) struct Stored {
    pub case: Case,
    pub results: Vec<f64>,
}

/// All cases.
pub(super) fn all() -> Vec<Stored> {
    let cases: Vec<Case> = serde_json::from_str(CASES).unwrap();
    let (chunks, rest) = RESULTS.as_chunks::<4>();
    assert!(rest.is_empty());
    let mut numbers = chunks.iter().map(|bytes| f64::from(f32::from_le_bytes(*bytes)));
    let with_results = |case: Case| {
        let size: usize = case.shapes.iter().chain([&case.output]).map(|shape| shape.iter().product::<usize>()).sum();
        Stored { results: numbers.by_ref().take(size).collect(), case }
    };
    let all = cases.into_iter().map(with_results).collect();
    assert_eq!(numbers.count(), 0);
    all
}

/// The cases of an operation.
pub(crate) fn stored(op: &str) -> Vec<Stored> {
    all().into_iter().filter(|stored| stored.case.op == op).collect()
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

pub(crate) fn numbers(shape: &[usize], seed: u32) -> Tensor {
    let count: usize = shape.iter().product();
    let values = (0..count as u32).map(|i| (f64::from(hashed(i, seed)) / 2f64.powi(31) - 1.0) as f32);
    let values: Vec<f64> = values.map(f64::from).collect();
    Tensor::from_vec(values, shape, device()).unwrap()
}

pub(super) fn run(case: &Case, inputs: &[Tensor]) -> Result<Tensor> {
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
        "gelu" => gelu(x),
        "silu" => silu(x),
        "log_softmax" => log_softmax(x, number("dim")),
        "upsample_nearest2d" => upsample_nearest2d(x, pair("size")),
        "upsample_bilinear2d" => upsample_bilinear2d(x, pair("size"), flag("align_corners")),
        "group_norm" => crate::nn::group_norm(x, number("groups"), &inputs[1], &inputs[2], epsilon()),
        "rnn_tanh" => recurrent(Cell::Tanh, number("layers"), number("directions"), inputs),
        "rnn_relu" => recurrent(Cell::Relu, number("layers"), number("directions"), inputs),
        "lstm" => recurrent(Cell::Lstm, number("layers"), number("directions"), inputs),
        "gru" => recurrent(Cell::Gru, number("layers"), number("directions"), inputs),
        other => panic!("no operation {other}"),
    }
}

/// Layers on layers: all hidden states of the last one, and what every one ends with.
fn recurrent(cell: Cell, layers: usize, directions: usize, inputs: &[Tensor]) -> Result<Tensor> {
    let (parameters, states) = inputs[1..].split_at(4 * layers * directions);
    let (mut xs, mut ends) = (inputs[0].clone(), vec![Vec::new(); states.len()]);
    for layer in 0..layers {
        let mut outputs = Vec::new();
        for direction in 0..directions {
            let at = layer * directions + direction;
            let [input, hidden, input_bias, hidden_bias] = &parameters[4 * at..][..4] else { unreachable!() };
            let first = states.iter().map(|state| state.get(at)).collect::<candle_core::Result<Vec<_>>>()?;
            let from_input = linear(&xs, input, Some(input_bias), false)?;
            let first = Tensor::cat(&first, 1)?;
            let (output, last) = recurrence(cell, &from_input, (hidden, hidden_bias), &first, direction == 1)?;
            outputs.push(output);
            for (ends, end) in ends.iter_mut().zip(last.chunk(states.len(), 1)?) {
                ends.push(end.flatten_all()?);
            }
        }
        xs = Tensor::cat(&outputs, 2)?;
    }
    let parts = [vec![xs.flatten_all()?], ends.concat()].concat();
    Ok(Tensor::cat(&parts, 0)?)
}

pub(super) fn values(xs: &Tensor) -> Vec<f64> {
    xs.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn bits(xs: &Tensor) -> Vec<u64> {
    values(xs).into_iter().map(f64::to_bits).collect()
}

pub(crate) fn assert_close(what: &str, ours: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(ours.len(), expected.len(), "{what}");
    for (i, (a, b)) in ours.iter().zip(expected).enumerate() {
        assert!((a - b).abs() <= tolerance * b.abs().max(1.0), "{what}, number {i}: {a} instead of {b}");
    }
}

/// The same bits from our kernels; candle's operations may add in another order, as may a GPU's
/// libraries for another layout.
fn assert_same(what: &str, ours: &Tensor, expected: &Tensor) {
    if is_composed() || !device().is_cpu() {
        return assert_close(what, &values(ours), &values(expected), 1e-5);
    }
    assert_eq!(bits(ours), bits(expected), "{what}");
}

/// The same bits, on any device and road.
fn assert_repeated(what: &str, ours: &Tensor, expected: &Tensor) {
    assert_eq!(bits(ours), bits(expected), "{what}: twice the same");
}

/// The gradients for the stored gradient of the output.
pub(crate) fn gradients(case: &Case, y: &Tensor) -> GradStore {
    let dy = numbers(&case.output, 99).to_dtype(y.dtype()).unwrap();
    (y * dy).unwrap().sum_all().unwrap().backward().unwrap()
}

/// The output, and the gradients of all inputs.
fn forward_backward(case: &Case, inputs: &[Var]) -> (Tensor, GradStore) {
    let tensors: Vec<Tensor> = inputs.iter().map(|input| input.as_tensor().clone()).collect();
    let y = run(case, &tensors).unwrap();
    let gradients = gradients(case, &y);
    (y, gradients)
}

pub(crate) fn variables(case: &Case, dtype: DType) -> Vec<Var> {
    let scale = case.options["scale"].as_f64().unwrap_or(1.0);
    let of = |(shape, seed): (&Vec<usize>, u32)| (numbers(shape, seed) * scale).unwrap().to_dtype(dtype).unwrap();
    case.shapes.iter().zip(0..).map(of).map(|input| Var::from_tensor(&input).unwrap()).collect()
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
        let assert_same = if device().is_cpu() { assert_same } else { assert_repeated };
        assert_same(what, &again, &y);
        for input in &inputs {
            assert_same(what, gradients_again.get(input).unwrap(), gradients.get(input).unwrap());
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

/// Strided inputs, broadcast gradients, and inputs that begin behind others in their
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
        let what = format!("{what}: {kind}");
        assert_same(&what, &again, &y);
        let gradients_again = (&again * &dy).unwrap().sum_all().unwrap().backward().unwrap();
        for input in &inputs {
            assert_same(&what, gradients_again.get(input).unwrap(), gradients.get(input).unwrap());
        }
    }

    // A sum's gradient is broadcast; a product with ones makes it contiguous.
    let tensors: Vec<Tensor> = inputs.iter().map(|input| input.as_tensor().clone()).collect();
    let y = run(case, &tensors).unwrap();
    let broadcast = y.sum_all().unwrap().backward().unwrap();
    let contiguous = (&y * y.ones_like().unwrap()).unwrap().sum_all().unwrap().backward().unwrap();
    for input in &inputs {
        assert_same(&format!("{what}: broadcast"), broadcast.get(input).unwrap(), contiguous.get(input).unwrap());
    }
}

/// An input that repeats its first part along a dimension gives what a copy of it gives. Returns
/// whether there is a dimension to repeat along.
fn with_broadcast(case: &Case, what: &str) -> bool {
    let inputs = variables(case, DType::F32);
    let mut found = false;
    for (which, input) in inputs.iter().enumerate() {
        let Some(dim) = input.dims().iter().position(|&size| size > 1) else { continue };
        found |= which == 0;
        let part = Var::from_tensor(&input.narrow(dim, 0, 1).unwrap().contiguous().unwrap()).unwrap();
        let expanded = part.broadcast_as(input.shape()).unwrap();
        assert!(!expanded.is_contiguous(), "{what}");
        let copy = Var::from_tensor(&expanded.contiguous().unwrap().detach()).unwrap();
        let of = |xs: &Tensor| {
            let mut tensors: Vec<Tensor> = inputs.iter().map(|input| input.as_tensor().clone()).collect();
            tensors[which] = xs.clone();
            let y = run(case, &tensors).unwrap();
            let gradients = gradients(case, &y);
            (y, gradients)
        };
        let ((ours, of_part), (expected, of_copy)) = (of(&expanded), of(&copy));
        let what = format!("{what}: input {which} broadcast");
        assert_same(&what, &ours, &expected);
        let expected = of_copy.get(&copy).unwrap().sum_keepdim(dim).unwrap();
        assert_close(&what, &values(of_part.get(&part).unwrap()), &values(&expected), 1e-5);
    }
    found
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
        let alone = self::gradients(case, &y);
        assert_same(what, alone.get(&inputs[which]).unwrap(), gradients.get(&inputs[which]).unwrap());
        let others = tensors.iter().enumerate().filter(|(i, _)| *i != which);
        // candle's `cat` joins a recurrent layer's weights and biases, and divides the gradient again.
        let joined = ["rnn_tanh", "rnn_relu", "lstm", "gru"].contains(&case.op.as_str());
        // cuDNN has no transposed convolution with so much padding, and candle's own differentiates both.
        let is_candles = case.op == "conv_transpose2d"
            && device().is_cuda()
            && (0..2).any(|i| case.options["output_padding"][i].as_u64() >= case.options["stride"][i].as_u64());
        others
            .filter(|_| !joined && !is_candles)
            .for_each(|(_, other)| assert!(alone.get(other).is_none(), "{what}: a gradient that nobody wants"));
    }
}

fn check(op: &str) {
    let (cases, broadcast) = (stored(op), std::cell::Cell::new(0));
    every(&cases, |Stored { case, results }| {
        let what = format!("{op} {:?} {}", case.shapes, case.options);
        composed(|| {
            let what = format!("composed {what}");
            against_stored(case, &what, results);
            with_strides(case, &what);
            with_broadcast(case, &what);
        });
        against_differences(case, &what);
        // It is composed on every device.
        if op != "group_norm" {
            against_stored(case, &what, results);
            with_strides(case, &what);
            broadcast.set(broadcast.get() + usize::from(with_broadcast(case, &what)));
            untracked(case, &what);
        }
    });
    let shapes: BTreeSet<&Vec<usize>> = cases.iter().map(|stored| &stored.case.shapes[0]).collect();
    let broadcast = broadcast.get();
    assert!(shapes.len() >= 20, "{op}: {} shapes", shapes.len());
    assert!(broadcast >= 15 || op == "group_norm", "{op}: {broadcast} broadcast inputs");
}

mod against_pytorch {
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
        upsample_nearest2d,
        upsample_bilinear2d,
        group_norm,
        rnn_tanh,
        rnn_relu,
        lstm,
        gru
    );
}
