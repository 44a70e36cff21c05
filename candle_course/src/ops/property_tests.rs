//! What holds for every operation: empty batches, second derivatives, NaN, ReLU at 0, and every
//! instruction set.

use std::collections::BTreeSet;

use candle_core::{DType, Device, Module, Tensor, Var};

use super::reference_tests::{Case, Stored, all, assert_close, composed, gradients, numbers, run, values, variables};
use super::*;
use crate::error::Result;
use crate::nn::{GroupNorm, Gru, Lstm, Parameters, Rnn};
use crate::test_support::this_binary;

/// A case of every operation.
fn one_of_each() -> Vec<Case> {
    let mut seen = BTreeSet::new();
    let cases: Vec<Case> =
        all().into_iter().map(|stored| stored.case).filter(|case| seen.insert(case.op.clone())).collect();
    assert!(cases.len() >= 20, "{}", cases.len());
    cases
}

#[test]
fn an_empty_batch_is_refused() {
    let refused = |what: &str, result: Result<Tensor>| match result {
        Ok(y) => panic!("{what} gives {y:?}"),
        Err(error) => assert!(error.to_string().contains("an empty batch has no values"), "{what}: {error}"),
    };
    let both = |what: &str, run: &dyn Fn() -> Result<Tensor>| {
        refused(what, run());
        refused(&format!("composed {what}"), composed(run));
    };
    for mut case in one_of_each() {
        case.shapes[0][0] = 0;
        let inputs: Vec<Tensor> = case.shapes.iter().map(|shape| numbers(shape, 0)).collect();
        both(&case.op, &|| run(&case, &inputs));
    }
    let parameters = Parameters::with_dtype(0, DType::F64, &Device::Cpu);
    let sequences = numbers(&[0, 3, 2], 0);
    let rnn = Rnn::new(2, 4, &parameters.at("rnn")).unwrap();
    let lstm = Lstm::builder(2, 4).layers(2).build(&parameters.at("lstm")).unwrap();
    let gru = Gru::builder(2, 4).bidirectional(true).build(&parameters.at("gru")).unwrap();
    let norm = GroupNorm::new(1, 3, &parameters.at("norm")).unwrap();
    both("dropout", &|| dropout(&sequences, 0.5, 1));
    both("recurrence", &|| {
        let (weight, bias) = (numbers(&[2, 2], 1), numbers(&[2], 2));
        Ok(recurrence(Cell::Tanh, &sequences, (&weight, &bias), &numbers(&[0, 2], 3), false)?.0)
    });
    both("Rnn", &|| Ok(rnn.run(&sequences, None, true)?.output));
    both("Lstm", &|| Ok(lstm.run(&sequences, None, true)?.output));
    both("Gru", &|| Ok(gru.run(&sequences, None, true)?.output));
    both("GroupNorm", &|| Ok(norm.forward(&sequences)?));
}

/// candle can be told to keep the graph of the backward pass; our part of it would be missing. It
/// reads the variable once per thread, so a process of its own.
#[test]
fn gradients_of_gradients_are_refused() {
    const CHILD: &str = "CANDLE_COURSE_TEST_SECOND_DERIVATIVES_CHILD";
    // Group normalisation is composed of candle's operations on every device.
    let cases: Vec<Case> = one_of_each().into_iter().filter(|case| case.op != "group_norm").collect();
    if std::env::var_os(CHILD).is_some() {
        let refused = |name: &str, y: Tensor| {
            let error = y.sqr().unwrap().sum_all().unwrap().backward().err();
            let text = error.unwrap_or_else(|| panic!("{name} went through")).to_string();
            assert!(text.contains(&format!("`{name}` has no gradient of its gradient")), "{name}: {text}");
        };
        for case in &cases {
            let inputs: Vec<Tensor> = variables(case, DType::F32).iter().map(|var| var.as_tensor().clone()).collect();
            let recurrent = ["rnn_tanh", "rnn_relu", "lstm", "gru"].contains(&case.op.as_str());
            refused(if recurrent { "recurrence" } else { &case.op }, run(case, &inputs).unwrap());
        }
        refused("dropout", dropout(&Var::new(&[1f32, 2.], &Device::Cpu).unwrap(), 0.5, 1).unwrap());
        println!("\nrefused {}", cases.len() + 1);
        return;
    }
    let child = this_binary()
        .args(["--exact", "ops::property_tests::gradients_of_gradients_are_refused", "--nocapture"])
        .env(CHILD, "1")
        .env("CANDLE_GRAD_DO_NOT_DETACH", "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&child.stdout);
    let expected = format!("refused {}", cases.len() + 1);
    assert!(child.status.success() && text.lines().any(|line| line == expected), "{text}");
    // A tracked gradient is refused without the variable too.
    let seed = (Var::new(&[1f32], &Device::Cpu).unwrap().as_tensor() * 2.0).unwrap();
    assert!(crate::kernels::node::incoming(&seed, "relu").is_err());
    assert!(crate::kernels::node::incoming(&seed.ones_like().unwrap(), "relu").is_ok());
}

/// All of this, and all that is built on it, again in processes that use narrower instructions, and
/// in one that has one thread.
#[test]
fn every_instruction_set_and_a_single_thread() {
    const MARK: &str = "CANDLE_COURSE_TEST_CHILD";
    if std::env::var_os(MARK).is_some() {
        println!("level {:?}, threads {}", simd_level().unwrap(), crate::kernels::parallel::threads());
        return;
    }
    let (widest, threads) = (simd_level().unwrap(), crate::kernels::parallel::threads());
    let mut settings =
        vec![("CANDLE_COURSE_SIMD", "portable", SimdLevel::Portable, threads), ("RAYON_NUM_THREADS", "1", widest, 1)];
    match widest {
        SimdLevel::Avx512 => settings.push(("CANDLE_COURSE_SIMD", "avx2", SimdLevel::Avx2, threads)),
        _ => settings.push(("CANDLE_COURSE_SIMD", "wide", SimdLevel::Wide, threads)),
    }
    if widest != SimdLevel::Neon {
        settings.push(("CANDLE_COURSE_SIMD", "narrow", SimdLevel::Narrow, threads));
    }
    for (name, value, level, threads) in settings {
        let child = this_binary()
            .args(["ops::", "nn::", "losses::", "metrics::", "optimizers::", "kernels::winograd"])
            .args(["kernels::conv", "kernels::interleave", "kernels::panels", "kernels::recurrence"])
            .args(["kernels::streamed"])
            .args(["inference::tests::every", "--test-threads", "2", "--show-output"])
            // Half a minute without any kernel that has instruction sets.
            .args(["--skip", "agree_with_pytorch_in_f", "--skip", "tensor_operations_agrees_with_pytorch"])
            .args(["--skip", "instruction_sets_agree"])
            .env(MARK, "1")
            .env_remove("CANDLE_NUM_THREADS")
            .env(name, value)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&child.stdout);
        assert!(child.status.success(), "{name}={value}:\n{text}");
        let expected = format!("level {level:?}, threads {threads}");
        assert!(text.lines().any(|line| line == expected), "{name}={value} is not {expected}:\n{text}");
        let passed =
            text.lines().find_map(|line| line.strip_prefix("test result: ok. ")?.split(' ').next()?.parse().ok());
        assert!(passed.is_some_and(|passed: usize| passed >= 100), "{name}={value}: {passed:?} tests");
    }
}

/// All outputs and gradients of the stored cases, by every instruction set of this machine and every stand-in,
/// each in a process of its own: within 1e-5 of what this one computes in, and twice the same bits.
#[test]
fn instruction_sets_agree() {
    const CHILD: &str = "CANDLE_COURSE_TEST_LEVELS_CHILD";
    if let Some(file) = std::env::var_os(CHILD) {
        let mut bytes = Vec::new();
        for Stored { case, .. } in all() {
            let inputs = variables(&case, DType::F32);
            let tensors: Vec<Tensor> = inputs.iter().map(|input| input.as_tensor().clone()).collect();
            let y = run(&case, &tensors).unwrap();
            let gradients = gradients(&case, &y);
            for tensor in [&y].into_iter().chain(inputs.iter().map(|input| gradients.get(input).unwrap())) {
                bytes.extend(
                    tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().flat_map(f32::to_le_bytes),
                );
            }
        }
        return std::fs::write(file, bytes).unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    let numbers = |level: &str| -> Vec<f32> {
        let file = folder.path().join(level);
        let child = this_binary()
            .args(["--exact", "ops::property_tests::instruction_sets_agree"])
            .env(CHILD, &file)
            .env("CANDLE_COURSE_SIMD", level)
            .output()
            .unwrap();
        assert!(child.status.success(), "{level}:\n{}", String::from_utf8_lossy(&child.stdout));
        let bytes = std::fs::read(file).unwrap();
        bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    };
    let widest = format!("{:?}", simd_level().unwrap()).to_lowercase();
    let expected = numbers(&widest);
    assert!(expected.len() > 100_000, "{}", expected.len());
    let bits = |numbers: &[f32]| numbers.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert!(bits(&numbers(&widest)) == bits(&expected), "{widest}, twice");
    let mut levels = vec!["portable", "narrow", "wide"];
    levels.extend((widest == "avx512").then_some("avx2"));
    for level in levels {
        let found: Vec<f64> = numbers(level).into_iter().map(f64::from).collect();
        let expected: Vec<f64> = expected.iter().copied().map(f64::from).collect();
        assert_close(level, &found, &expected, 1e-5);
    }
}

/// max(x, 0) with gradient 0 at exactly 0, and a gradient that a NaN lets pass: every ReLU there is,
/// on both roads.
#[test]
fn relu_at_zero_and_at_nan() {
    for dtype in [DType::F32, DType::F64] {
        let tensor = |values: &[f64], shape: &[usize]| {
            Tensor::from_vec(values.to_vec(), shape, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
        };
        let (one, zero) = (tensor(&[1.0], &[1]), tensor(&[0.0], &[1]));
        let with_nan: Vec<f64> = (0..105).map(|i| [0.0, -0.0, 1.5, -1.5, f64::NAN][i % 5]).collect();
        let without: Vec<f64> = with_nan.iter().map(|x| if x.is_nan() { 2.0 } else { *x }).collect();
        let relus: [(&str, &[usize], &dyn Fn(&Tensor) -> Result<Tensor>); 7] = [
            ("relu", &[3, 35], &|x| relu(x)),
            ("linear", &[105, 1], &|x| linear(x, &one.reshape((1, 1))?, None, true)),
            ("linear with bias", &[105, 1], &|x| linear(x, &one.reshape((1, 1))?, Some(&zero), true)),
            ("conv2d", &[3, 1, 5, 7], &|x| {
                let options = Conv2dOptions { relu: true, ..Default::default() };
                conv2d(x, &one.reshape((1, 1, 1, 1))?, Some(&zero), &options)
            }),
            ("recurrence", &[105, 1, 1], &|x| {
                let first = x.zeros_like()?.squeeze(1)?;
                Ok(recurrence(Cell::Relu, x, (&zero.reshape((1, 1))?, &zero), &first, false)?.0)
            }),
            // These two spread a NaN, through statistics or a product with 0.
            ("batch_norm_inference", &[3, 1, 35], &|x| batch_norm_inference(x, &zero, &one, None, 0.0, true)),
            ("batch_norm_inference with weight", &[3, 1, 35], &|x| {
                batch_norm_inference(x, &zero, &one, Some((&one, &zero)), 0.0, true)
            }),
        ];
        for (name, shape, relu) in relus {
            let numbers = if name.starts_with("batch_norm") { &without } else { &with_nan };
            let x = Var::from_tensor(&tensor(numbers, shape)).unwrap();
            let dy = super::reference_tests::numbers(shape, 1).to_dtype(dtype).unwrap();
            let run = || {
                let y = relu(&x).unwrap();
                let gradients = (&y * &dy).unwrap().sum_all().unwrap().backward().unwrap();
                (values(&y), values(gradients.get(&x).unwrap()))
            };
            for (road, (y, dx)) in [("kernel", run()), ("composed", composed(run))] {
                for (i, (&x, dy)) in numbers.iter().zip(values(&dy)).enumerate() {
                    let (value, slope) = if x <= 0.0 { (0.0, 0.0) } else { (x, dy) };
                    assert!(y[i] == value || y[i].is_nan() && value.is_nan(), "{road} {name} {x}: {}", y[i]);
                    assert_eq!(dx[i], slope, "{road} {name}, the gradient at {x}");
                }
            }
        }
        // In training the mean of these is exactly 0, so the number in the middle is.
        let x = Var::from_tensor(&tensor(&[-1.0, 0.0, 1.0], &[3, 1])).unwrap();
        let (weight, bias) = (Var::from_tensor(&one).unwrap(), Var::from_tensor(&zero).unwrap());
        let run = || {
            let (y, _) = batch_norm(&x, Some((&weight, &bias)), 1e-5, true).unwrap();
            let gradients = y.sum_all().unwrap().backward().unwrap();
            values(gradients.get(&bias).unwrap())
        };
        assert_eq!((run(), composed(run)), (vec![1.0], vec![1.0]));
    }
}

/// A NaN reaches every number that it enters, and no other, through the fused ReLU and the maximum too (of
/// 3 × 3 convolutions of many channels the whole tile: see `kernels::winograd`).
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
