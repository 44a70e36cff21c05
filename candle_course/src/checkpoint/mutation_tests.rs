//! Damaged and hostile files: an error each, or what was written; never a panic, a wait, or more memory
//! than a few times the file.

use std::fs;
use std::path::Path;

use candle_core::{DType, Device, Tensor};

use super::*;
use crate::error::Result;
use crate::nn::{Linear, Parameters};
use crate::stateful::Stateful as _;
use crate::test_support::{HARMLESS, alone, mutations, peak_memory, rewrite, tried};

const COUNT: usize = 100_000;

/// What one file may take: its bytes a few times over, and a header read as JSON.
fn bounded<T: Send>(what: &str, number: usize, bytes: &[u8], body: impl FnOnce() -> T + Send) -> T {
    let (value, peak) = peak_memory(body);
    let most = 200 * bytes.len() + (1 << 20);
    assert!(peak <= most, "{what} {number}: {peak} bytes of memory for a file of {}", bytes.len());
    value
}

/// Reads every damaged copy; says how many were refused.
fn refused<T: Send>(
    what: &str,
    path: &Path,
    files: impl Iterator<Item = Vec<u8>> + Send,
    read: impl Fn(&Path) -> Result<T> + Sync,
) -> usize {
    let read = &read;
    alone(move || {
        let mut refused = 0;
        for (number, bytes) in files.enumerate() {
            rewrite(path, &bytes);
            refused += usize::from(bounded(what, number, &bytes, || read(path)).is_err());
        }
        tried(HARMLESS, &format!("{what}, damaged"), COUNT);
        refused
    })
}

fn snapshot() -> Snapshot {
    let parameters = Parameters::new(3, &Device::Cpu);
    Linear::new(3, 2, &parameters.at("fc")).unwrap();
    let more = [DType::F64, DType::BF16, DType::I64, DType::U8].map(|dtype| {
        (dtype.as_str().to_owned(), Tensor::new(&[3f32, 1.0], &Device::Cpu).unwrap().to_dtype(dtype).unwrap())
    });
    let snapshot = Snapshot::new().section("model", &parameters).unwrap().tensors("more", more.into()).unwrap();
    snapshot.number("step", 12.0).text("history", "[\"a\", 1]")
}

/// With the checksum that its bytes have: what somebody made, and no accident.
fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let key = b"\"crc32c\":\"";
    let place = bytes.windows(key.len()).position(|window| window == key).map(|start| start + key.len());
    if let Some(place) = place.filter(|place| bytes.len() >= place + 8) {
        bytes[place..place + 8].copy_from_slice(b"00000000");
        let checksum = format!("{:08x}", crc32c::crc32c(&bytes));
        bytes[place..place + 8].copy_from_slice(checksum.as_bytes());
    }
    bytes
}

#[test]
fn damaged_checkpoints_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("checkpoint-0000000001.safetensors");
    snapshot().save(&path).unwrap();
    let good = fs::read(&path).unwrap();
    let unchanged = mutations(7, &good, COUNT).filter(|bytes| *bytes == good).count();
    assert!(unchanged < COUNT / 100);
    let found = refused("checkpoints", &path, mutations(7, &good, COUNT), |path| Snapshot::load(path));
    assert_eq!(found, COUNT - unchanged, "a damaged checkpoint was taken");
}

#[test]
fn hostile_checkpoints_with_the_right_checksum_do_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("checkpoint-0000000001.safetensors");
    snapshot().save(&path).unwrap();
    let good = fs::read(&path).unwrap();
    let open = CheckpointFolder::open(folder.path(), Retention::new()).unwrap();
    let read = |_: &Path| {
        open.list()?;
        let snapshot = open.latest()?.map(|resume| resume.snapshot).unwrap_or_default();
        let mut parameters = Parameters::new(4, &Device::Cpu);
        Linear::new(3, 2, &parameters.at("fc"))?;
        snapshot.restore("model", &mut parameters)?;
        snapshot.get_number("step")
    };
    let found = refused("checkpoints with the right checksum", &path, mutations(8, &good, COUNT).map(sealed), read);
    assert!((COUNT / 2..COUNT).contains(&found), "{found}");
}

#[test]
fn damaged_weights_do_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    write_weights(snapshot().get("model").unwrap(), None, &path).unwrap();
    let good = fs::read(&path).unwrap();
    let read = |path: &Path| {
        let mut parameters = Parameters::new(4, &Device::Cpu);
        Linear::new(3, 2, &parameters.at("fc"))?;
        load_weights(&mut parameters, path)
    };
    // A flipped bit of a number is another number: without a checksum nobody can tell.
    let found = refused("weights", &path, mutations(9, &good, COUNT), read);
    assert!((COUNT / 2..COUNT).contains(&found), "{found}");
    let parameters = Parameters::new(0, &Device::Cpu);
    assert!(parameters.state().unwrap().is_empty());
}

/// A file as `torch.save` writes it: `{"w": a tensor of 2 × 3}`, stored in a zip archive.
fn pickled() -> Vec<u8> {
    let text = |text: &str| [&[b'X'][..], &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat();
    let pickle = [
        b"\x80\x02}(".to_vec(),
        text("w"),
        b"ctorch._utils\n_rebuild_tensor_v2\n((".to_vec(),
        text("storage"),
        b"ctorch\nFloatStorage\n".to_vec(),
        text("0"),
        text("cpu"),
        b"K\x06tQK\x00K\x02K\x03\x86K\x03K\x01\x86\x89ccollections\nOrderedDict\n)RtRu.".to_vec(),
    ]
    .concat();
    let numbers: Vec<u8> = (0..6u8).flat_map(|number| f32::from(number).to_le_bytes()).collect();
    let (mut archive, mut directory) = (Vec::new(), Vec::new());
    let files = [("archive/data.pkl", pickle), ("archive/data/0", numbers), ("archive/version", b"3\n".to_vec())];
    for (name, data) in &files {
        let size = (data.len() as u32).to_le_bytes();
        // Version 2.0, no flags, stored, no time; then checksum, two sizes, the name's length, no extra field.
        let mut common = vec![20, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        common.extend(crc32fast::hash(data).to_le_bytes());
        common.extend([size, size].concat());
        common.extend((name.len() as u32).to_le_bytes());
        directory.extend([b"PK\x01\x02\x14\x00".to_vec(), common.clone(), vec![0; 10]].concat());
        directory.extend((archive.len() as u32).to_le_bytes());
        directory.extend(name.as_bytes());
        archive.extend([b"PK\x03\x04".to_vec(), common, name.as_bytes().to_vec(), data.clone()].concat());
    }
    let count = (files.len() as u16).to_le_bytes();
    let (length, start) = ((directory.len() as u32).to_le_bytes(), (archive.len() as u32).to_le_bytes());
    archive.extend(directory);
    archive.extend([b"PK\x05\x06\0\0\0\0".as_slice(), &count, &count, &length, &start, &[0, 0]].concat());
    archive
}

#[test]
fn damaged_pickles_do_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.pt");
    fs::write(&path, pickled()).unwrap();
    let whole = read_weights(&path).unwrap();
    assert_eq!(whole["w"].to_vec2::<f32>().unwrap(), [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]);
    let found = refused("pickled weights", &path, mutations(10, &pickled(), COUNT), |path| read_weights(path));
    assert!((COUNT / 2..COUNT).contains(&found), "{found}");
}
