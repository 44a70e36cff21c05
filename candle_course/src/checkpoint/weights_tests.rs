//! Files that PyTorch wrote (`scripts/reference_optim.py checkpoints`), and what is in them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};

use super::*;
use crate::nn::{BatchNorm2d, Conv2d, Linear, Parameters};

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/checkpoints").join(name)
}

fn numbers(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn assert_same(what: &str, found: &BTreeMap<String, Tensor>, expected: &BTreeMap<String, Tensor>) {
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{what}");
    for (name, expected) in expected {
        let found = &found[name];
        assert_eq!(found.dims(), expected.dims(), "{what}: {name}");
        assert_eq!(found.dtype().is_float(), expected.dtype().is_float(), "{what}: {name}");
        assert_eq!(numbers(found), numbers(expected), "{what}: {name}");
    }
}

/// The tensors of the views, and those of the network.
fn expected() -> (BTreeMap<String, Tensor>, BTreeMap<String, Tensor>) {
    let views = ["transposed", "rows", "column", "every_other", "scalar", "none", "same"];
    read_weights(path("expected.safetensors"))
        .unwrap()
        .into_iter()
        .partition(|(name, _)| views.contains(&name.as_str()))
}

#[test]
fn a_state_dict_is_found_wherever_it_lies() {
    let (_, state) = expected();
    assert!(state.contains_key("mask") && state.contains_key("index") && !state.contains_key("scratch"));
    for name in ["flat", "nested", "state_dict", "deeper", "module", "module_inside", "model_and_average"] {
        assert_same(name, &read_weights(path(&format!("{name}.pt"))).unwrap(), &state);
    }
    // TorchScript saves every buffer.
    let script = read_weights(path("script.pt")).unwrap();
    for (name, tensor) in &state {
        assert_eq!(script[name].dims(), tensor.dims(), "{name}");
    }
    assert_eq!(script.len(), state.len() + 1);
    assert_eq!(numbers(&script["index"]), [-7.0, 3.0]);
    // By what the file is, not by its name.
    let folder = tempfile::tempdir().unwrap();
    let renamed = folder.path().join("weights.safetensors");
    std::fs::copy(path("nested.pt"), &renamed).unwrap();
    assert_same("renamed", &read_weights(&renamed).unwrap(), &state);
}

#[test]
fn views_and_dtypes_are_read() {
    assert_same("views", &read_weights(path("views.pt")).unwrap(), &expected().0);
    for name in ["numbers.pt", "numbers.safetensors"] {
        let found = read_weights(path(name)).unwrap();
        assert_eq!(found.len(), 13, "{name}");
        for (dtype, tensor) in &found {
            let first = if dtype == "int8" { -128.0 } else { 0.0 };
            let expected = if dtype == "bool" { [0.0, 1.0, 1.0, 1.0] } else { [first, 1.0, 100.0, 3.0] };
            assert_eq!(numbers(tensor), expected, "{name}: {dtype}");
            assert_eq!(tensor.dims(), [2, 2]);
            let kept = match dtype.as_str() {
                "float64" => DType::F64,
                "float32" => DType::F32,
                "float16" => DType::F16,
                "bfloat16" => DType::BF16,
                "uint8" | "bool" => DType::U8,
                "uint16" | "uint32" => DType::U32,
                _ => DType::I64,
            };
            assert_eq!(tensor.dtype(), kept, "{name}: {dtype}");
        }
        // What was read can be written.
        let folder = tempfile::tempdir().unwrap();
        write_weights(&found, None, folder.path().join("all.safetensors")).unwrap();
    }
}

#[test]
fn what_cannot_be_read_is_said() {
    for (name, texts) in [
        ("two.pt", ["`discriminator` (11 tensors)", "`generator` (11 tensors)"].as_slice()),
        ("nothing.pt", &["no named tensors", "`epoch` (a number)", "`names` (a sequence of 2)", "`optimizer`"]),
        ("complex.pt", &["`spectrum` cannot be read", "ComplexFloatStorage"]),
        ("legacy.pt", &["before 1.6", "torch.save(torch.load("]),
    ] {
        let error = read_weights(path(name)).unwrap_err().to_string();
        assert!(texts.iter().all(|text| error.contains(text)) && error.contains(name), "{name}: {error}");
    }
}

#[test]
fn damaged_files_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let damaged = folder.path().join("damaged.pt");
    let (whole, mut generator) = (std::fs::read(path("nested.pt")).unwrap(), crate::random::Generator::new(3));
    let mut refused = 0;
    for attempt in 0..2000 {
        let mut bytes = whole.clone();
        let at = generator.below(bytes.len());
        match attempt % 3 {
            0 => bytes.truncate(at),
            1 => bytes[at] ^= 1 << generator.below(8),
            _ => drop(bytes.splice(at..(at + 8).min(whole.len()), [0xff; 8])),
        }
        std::fs::write(&damaged, bytes).unwrap();
        refused += usize::from(read_weights(&damaged).is_err());
    }
    assert!(refused > 700, "{refused}");
}

#[test]
fn a_count_of_batches_may_be_missing() {
    let build = || {
        let parameters = Parameters::new(3, &Device::Cpu);
        Conv2d::new(2, 3, 3, &parameters.at("body.0")).unwrap();
        BatchNorm2d::new(3, &parameters.at("body.1")).unwrap();
        Linear::new(3, 2, &parameters.at("head")).unwrap();
        parameters
    };
    let mut state = read_weights(path("module.pt")).unwrap();
    state.retain(|name, _| name.starts_with("body") || name.starts_with("head"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.safetensors");
    let mut parameters = build();
    let count = parameters.get("body.1.num_batches_tracked").unwrap();
    count.set(&Tensor::new(5i64, &Device::Cpu).unwrap()).unwrap();
    state.remove("body.1.num_batches_tracked").unwrap();
    write_weights(&state, None, &file).unwrap();
    load_weights(&mut parameters, &file).unwrap();
    assert_eq!(count.to_scalar::<i64>().unwrap(), 5);
    assert_eq!(numbers(&parameters.get("head.weight").unwrap()), numbers(&state["head.weight"]));
    // Any other that is missing is named.
    state.remove("body.1.running_var").unwrap();
    write_weights(&state, None, &file).unwrap();
    let text = load_weights(&mut build(), &file).unwrap_err().to_string();
    assert!(text.contains("`body.1.running_var` is missing") && !text.contains("num_batches"), "{text}");
}

#[test]
fn a_finite_number_never_becomes_infinite() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("half.safetensors");
    let write = |values: &[f32]| {
        let tensor = Tensor::new(values, &Device::Cpu).unwrap();
        write_weights(&BTreeMap::from([("w".to_owned(), tensor)]), Some(DType::F16), &file)
    };
    for hidden in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 0.0] {
        let text = write(&[1.0, hidden, -1e6]).unwrap_err().to_string();
        assert!(text.contains("can hold 1000000, the largest finite number of `w`"), "{hidden}: {text}");
        // 65519 rounds down to the largest number, 65520 to infinity.
        write(&[65519.0, hidden]).unwrap();
        assert!(write(&[hidden, 65520.0]).is_err());
        let back = numbers(&read_weights(&file).unwrap()["w"]);
        assert_eq!((back[0], back[1].to_bits()), (65504.0, f64::from(hidden).to_bits()));
    }
}

#[test]
fn what_the_model_cannot_hold_is_not_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("wide.safetensors");
    let mut parameters = Parameters::new(3, &Device::Cpu);
    let layer = Linear::new(2, 1, &parameters.at("fc")).unwrap();
    let before = numbers(layer.weight());
    let write = |weight: [f64; 2]| {
        let weight = Tensor::new(&[weight], &Device::Cpu).unwrap();
        let bias = Tensor::new(&[0.5f64], &Device::Cpu).unwrap();
        let state = BTreeMap::from([("fc.weight".to_owned(), weight), ("fc.bias".to_owned(), bias)]);
        write_weights(&state, None, &file).unwrap();
    };
    write([1.0, 1e300]);
    let text = load_weights(&mut parameters, &file).unwrap_err().to_string();
    assert!(text.contains("the largest finite number of `fc.weight`"), "{text}");
    assert_eq!(numbers(layer.weight()), before);
    write([1.5, -1e38]);
    load_weights(&mut parameters, &file).unwrap();
    assert_eq!(numbers(layer.weight()), [1.5, f64::from(-1e38f32)]);
}

#[test]
fn the_headers_own_name_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.safetensors");
    let one = Tensor::new(&[1f32], &Device::Cpu).unwrap();
    let text = write_weights(&BTreeMap::from([("__metadata__".to_owned(), one)]), None, &file).unwrap_err().to_string();
    assert!(text.contains("names other than `__metadata__`") && !file.exists(), "{text}");
}

#[test]
fn a_pickle_that_refers_to_itself_ends() {
    use std::io::Write;

    // Dictionaries in dictionaries, two of each in the next: 2⁶⁰ ways to the innermost.
    let mut program = b"}X\x01\x00\x00\x00aNsq\x00".to_vec();
    for level in 1..60u8 {
        program.extend([b'}', b'X', 1, 0, 0, 0, b'a', b'h', level - 1, b's']);
        program.extend([b'X', 1, 0, 0, 0, b'b', b'h', level - 1, b's', b'q', level]);
    }
    let own = b"}q\x00X\x01\x00\x00\x00ah\x00s.".to_vec();
    for program in [[program, b".".to_vec()].concat(), own] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("hostile.pt");
        let mut archive = zip::ZipWriter::new(std::fs::File::create(&file).unwrap());
        let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
        archive.start_file("hostile/data.pkl", stored).unwrap();
        archive.write_all(&program).unwrap();
        archive.finish().unwrap();
        let text = read_weights(&file).unwrap_err().to_string();
        assert!(text.contains("no named tensors"), "{text}");
    }
}
