//! Operations on the device that `CANDLE_COURSE_TEST_DEVICE` names, against the CPU's kernels, at sizes
//! that the stored cases do not have.

use candle_core::{DType, Device, Tensor, Var};

use super::reference_tests as stored;
use super::*;
use crate::error::Result;
use crate::precision::Precision;
use crate::test_support::{device, every};

fn numbers(shape: &[usize], pace: f64) -> Tensor {
    let count: usize = shape.iter().product();
    let values: Vec<f64> = (0..count).map(|i| 2.0 * (i as f64 * pace + 0.3).sin()).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn flat(xs: &Tensor) -> Vec<f64> {
    xs.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// The output and every input's gradient.
fn outcome(inputs: &[Tensor], on: &Device, dtype: DType, op: &dyn Fn(&[&Tensor]) -> Result<Tensor>) -> Vec<Vec<f64>> {
    let inputs: Vec<Var> =
        inputs.iter().map(|x| Var::from_tensor(&x.to_dtype(dtype).unwrap().to_device(on).unwrap()).unwrap()).collect();
    let y = op(&inputs.iter().map(|x| x.as_tensor()).collect::<Vec<_>>()).unwrap();
    let dy = numbers(y.dims(), 0.7).to_dtype(dtype).unwrap().to_device(on).unwrap();
    let gradients = (&y * dy).unwrap().sum_all().unwrap().backward().unwrap();
    let mut all = vec![flat(&y)];
    all.extend(inputs.iter().map(|x| flat(gradients.get(x).unwrap())));
    all
}

fn compare(what: &str, inputs: &[Tensor], op: impl Fn(&[&Tensor]) -> Result<Tensor>) {
    if device().is_cpu() {
        return;
    }
    for (dtype, tolerance) in [(DType::F64, 1e-12), (DType::F32, 2e-5)] {
        let (cpu, ours) = (outcome(inputs, &Device::Cpu, dtype, &op), outcome(inputs, device(), dtype, &op));
        assert_eq!(ours, outcome(inputs, device(), dtype, &op), "{what}, {dtype:?}: twice the same");
        for (part, (cpu, ours)) in cpu.iter().zip(&ours).enumerate() {
            assert_eq!(cpu.len(), ours.len(), "{what}");
            let scale = cpu.iter().fold(1.0f64, |scale, x| scale.max(x.abs()));
            for (i, (a, b)) in cpu.iter().zip(ours).enumerate() {
                assert!((a - b).abs() <= tolerance * scale, "{what}, {dtype:?}, part {part}, number {i}: {a} {b}");
            }
        }
    }
}

#[test]
fn activations_and_dropout_agree_with_the_cpu() {
    for shape in [&[1][..], &[3, 5], &[70, 150]] {
        let x = [numbers(shape, 1.7)];
        compare("relu", &x, |x| relu(x[0]));
        compare("add_relu", &[x[0].clone(), numbers(shape, 0.9)], |x| add_relu(x[0], x[1]));
        compare("gelu", &x, |x| gelu(x[0]));
        compare("silu", &x, |x| silu(x[0]));
        // Masks are the same to the last number: a key tells them on every device.
        compare("dropout", &x, |x| dropout(x[0], 0.3, 0x1234_5678_9abc_def0));
    }
}

#[test]
fn softmax_and_norms_agree_with_the_cpu() {
    for (shape, dim) in [(&[5, 3][..], 1), (&[7, 200], 1), (&[3, 70, 4], 1), (&[40, 3, 2, 5], 3), (&[4, 9], 0)] {
        compare("log_softmax", &[numbers(shape, 1.3)], |x| log_softmax(x[0], dim));
    }
    for (rows, size) in [(1, 1), (3, 7), (130, 64), (5, 700)] {
        let inputs = [numbers(&[rows, size], 1.3), numbers(&[size], 0.4), numbers(&[size], 2.1)];
        compare("layer_norm", &inputs[..1], |x| layer_norm(x[0], &[size], None, 1e-5));
        if size > 1 {
            compare("layer_norm", &inputs, |x| layer_norm(x[0], &[size], Some((x[1], x[2])), 1e-5));
        }
    }
}

#[test]
fn resizing_agrees_with_the_cpu() {
    for (from, to) in [((3, 4), (7, 9)), ((5, 5), (2, 3)), ((1, 6), (4, 6)), ((4, 4), (8, 8)), ((9, 2), (1, 11))] {
        let x = [numbers(&[2, 3, from.0, from.1], 1.3)];
        compare("nearest", &x, |x| upsample_nearest2d(x[0], to));
        for align in [false, true] {
            compare("bilinear", &x, |x| upsample_bilinear2d(x[0], to, align));
        }
    }
}

#[test]
fn recurrences_agree_with_the_cpu() {
    for cell in [Cell::Tanh, Cell::Relu, Cell::Lstm, Cell::Gru] {
        for (examples, steps, hidden, reverse) in
            [(1, 1, 1, false), (3, 5, 33, true), (266, 2, 5, false), (2, 3, 250, true)]
        {
            let width = cell.gates() * hidden;
            let small = |shape: &[usize], pace: f64| (numbers(shape, pace) * 0.2).unwrap();
            let inputs = [
                numbers(&[examples, steps, width], 1.7),
                small(&[width, hidden], 0.9),
                small(&[width], 0.5),
                numbers(&[examples, cell.states() * hidden], 0.3),
            ];
            compare(&format!("{cell:?} {examples} {steps} {hidden}"), &inputs, |x| {
                let (ys, last) = recurrence(cell, x[0], (x[1], x[2]), x[3], reverse)?;
                Ok(Tensor::cat(&[ys.flatten_all()?, last.flatten_all()?], 0)?)
            });
        }
    }
}

/// PyTorch's exact numbers, and ours from rounded factors: to a share of each result's largest number.
#[test]
fn stored_cases_hold_in_reduced_precision() {
    if device().is_cpu() {
        return;
    }
    // Rounded, a number near 0 may fall on the other side of a ReLU.
    let exact = |case: &stored::Case| case.op == "rnn_relu" || case.options["relu"] == true;
    let cases: Vec<_> = stored::all().into_iter().filter(|stored| !exact(&stored.case)).collect();
    assert!(cases.len() > 300);
    for (precision, bound) in [(Precision::Tf32, 2e-3), (Precision::Bf16, 2e-2)] {
        every(&cases, |stored::Stored { case, results }| {
            let inputs = stored::variables(case, DType::F32);
            let _scope = precision.scope(device()).unwrap();
            let y = stored::run(case, &inputs.iter().map(|x| x.as_tensor().clone()).collect::<Vec<_>>()).unwrap();
            let gradients = stored::gradients(case, &y);
            let ours = std::iter::once(&y).chain(inputs.iter().map(|input| gradients.get(input).unwrap()));
            let mut rest = results.as_slice();
            for (part, ours) in ours.map(flat).enumerate() {
                let (expected, behind) = rest.split_at(ours.len());
                rest = behind;
                let scale = expected.iter().fold(1.0f64, |scale, x| scale.max(x.abs()));
                for (i, (a, b)) in ours.iter().zip(expected).enumerate() {
                    let (op, options) = (&case.op, &case.options);
                    assert!((a - b).abs() <= bound * scale, "{precision:?} {op} {options}, {part}, {i}: {a} {b}");
                }
            }
        });
    }
}

#[test]
fn joined_tensors_agree_with_the_cpu() {
    for (dim, shapes) in
        [(1, [[2, 3, 5], [2, 1, 5], [2, 70, 5]]), (0, [[1, 4, 3], [2, 4, 3], [1, 4, 3]]), (2, [[2, 3, 1]; 3])]
    {
        let x: Vec<Tensor> = shapes.iter().zip([1.7, 0.9, 0.4]).map(|(shape, pace)| numbers(shape, pace)).collect();
        compare(&format!("cat {dim}"), &x[..2], |x| cat(x, dim));
        compare(&format!("cat {dim} of three"), &x, |x| cat(x, dim));
    }
    // More than a node can have: candle's.
    let four: Vec<Tensor> = [1.7, 0.9, 0.4, 2.2].into_iter().map(|pace| numbers(&[2, 3], pace)).collect();
    compare("cat of four", &four, |x| cat(x, 1));
}

/// A residual block with a skip connection around it, through a tape and through candle's backward pass.
#[test]
fn a_tape_that_keeps_little_gives_the_gradients_that_candle_gives() {
    use crate::kernels::tape::Tape;
    if device().is_cpu() {
        return;
    }
    let shapes: [&[usize]; 8] =
        [&[3, 8, 10, 6], &[8, 8, 3, 3], &[8], &[8], &[8, 8, 3, 3], &[8], &[5, 16 * 15], &[16, 16, 2, 2]];
    let variables: Vec<Var> = shapes
        .iter()
        .zip([1.7, 0.9, 0.4, 2.2, 1.3, 0.8, 1.1, 0.6])
        .map(|(shape, pace)| numbers(shape, pace).to_dtype(DType::F32).unwrap().to_device(device()).unwrap())
        .map(|tensor| Var::from_tensor(&tensor).unwrap())
        .collect();
    let loss = || -> Result<Tensor> {
        let v: Vec<&Tensor> = variables.iter().map(|v| v.as_tensor()).collect();
        let convolution = Conv2dOptions { padding: (1, 1), ..Default::default() };
        let first = conv2d(v[0], v[1], Some(v[2]), &convolution)?;
        let first = batch_norm(&first, Some((v[2], v[3])), 1e-5, true)?.0;
        let second = conv2d(&first, v[4], None, &Conv2dOptions { relu: true, ..convolution })?;
        let second = batch_norm(&second, Some((v[5], v[3])), 1e-5, false)?.0;
        let sum = add_relu(&second, &first)?;
        let joined = cat(&[&first, &sum], 1)?;
        let larger =
            conv_transpose2d(&joined, v[7], None, &ConvTranspose2dOptions { stride: (2, 2), ..Default::default() })?;
        let pooled =
            avg_pool2d(&max_pool2d(&dropout(&larger, 0.2, 7)?, &Pool2dOptions::new(2))?, &Pool2dOptions::new(2))?;
        let logits = linear(&pooled.flatten_from(1)?, v[6], None, false)?;
        Ok((log_softmax(&logits, 1)?.sqr()?.mean_all()? + first.mean_all()?)?)
    };
    for precision in [Precision::F32, Precision::Bf16] {
        let _scope = precision.scope(device()).unwrap();
        let expected = loss().unwrap().backward().unwrap();
        let tape = Tape::start(true);
        let value = loss().unwrap();
        let found = tape.backward(&value).unwrap();
        assert_eq!(found.get_ids().count(), variables.len());
        for (i, variable) in variables.iter().enumerate() {
            let (ours, expected) = (flat(found.get(variable).unwrap()), flat(expected.get(variable).unwrap()));
            let scale = expected.iter().fold(1e-6f64, |scale, x| scale.max(x.abs()));
            for (a, b) in ours.iter().zip(&expected) {
                assert!((a - b).abs() <= 1e-5 * scale, "{precision:?}, variable {i}: {a} {b}");
            }
        }
    }
}
