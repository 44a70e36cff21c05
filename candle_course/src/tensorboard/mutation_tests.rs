//! Damaged event files: an error or the scalars that are whole; never a panic, a wait or much memory.

use super::*;
use crate::test_support::{HARMLESS, mutations, peak_memory, rewrite, tried};

#[test]
fn damaged_event_files_do_no_harm() {
    const COUNT: usize = 100_000;
    let folder = tempfile::tempdir().unwrap();
    let writer = SummaryWriter::new(folder.path()).unwrap();
    (0..4).for_each(|step| writer.scalar("loss/train", 1.0 / (step + 1) as f64, step).unwrap());
    writer.resume_from(3).unwrap();
    writer.histogram_of("weights", &[1.0, 2.0, 2.5], 3).unwrap();
    writer.text("note", "<b>", 3).unwrap();
    writer.hyper_parameters(&HyperParameters::new().number("x", 1.0)).unwrap();
    writer.close().unwrap();
    let good = std::fs::read(writer.path()).unwrap();
    let (whole, path) = (Scalars::read(writer.path()).unwrap(), folder.path().join("damaged"));
    let (mut refused, mut cut) = (0, 0);
    for (number, mut bytes) in mutations(11, &good, COUNT).enumerate() {
        if number % 2 == 0 {
            seal(&mut bytes); // what is inside a record, too
        }
        rewrite(&path, &bytes);
        let (scalars, peak) = peak_memory(|| Scalars::read(&path));
        assert!(peak <= 100 * bytes.len() + (1 << 18), "{number}: {peak} bytes of memory for {}", bytes.len());
        match scalars {
            Err(_) => refused += 1,
            Ok(scalars) if scalars != whole => cut += 1,
            Ok(_) => {}
        }
    }
    assert!(refused > COUNT / 10 && cut > COUNT / 100, "{refused} {cut}");
    tried(HARMLESS, "event files, damaged or hostile", COUNT);
}

/// Gives the records their checksums, as far as they can be told apart.
fn seal(bytes: &mut [u8]) {
    let mut at = 0;
    while bytes.len() >= at + 16 {
        let length: [u8; 8] = std::array::from_fn(|index| bytes[at + index]);
        let sum = record::masked(&length).to_le_bytes();
        bytes[at + 8..at + 12].copy_from_slice(&sum);
        let length = u64::from_le_bytes(length);
        if length > (bytes.len() - at - 16) as u64 {
            return;
        }
        let end = at + 12 + length as usize;
        let sum = record::masked(&bytes[at + 12..end]).to_le_bytes();
        bytes[end..end + 4].copy_from_slice(&sum);
        at = end + 4;
    }
}
