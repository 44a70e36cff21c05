//! Framing: each record is its length (u64, little endian), the masked checksum of the length, the
//! data, and the masked checksum of the data.
//!
//! Reference: TensorFlow, `lib/io/record_writer.h`.

use std::io::{self, Read, Write};

use crate::error::{Error, Result};

/// A checksum that may itself be checksummed: CRC-32C, rotated and offset.
pub(super) fn masked(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

pub(super) fn write(file: &mut impl Write, data: &[u8]) -> io::Result<()> {
    let length = (data.len() as u64).to_le_bytes();
    file.write_all(&length)?;
    file.write_all(&masked(&length).to_le_bytes())?;
    file.write_all(data)?;
    file.write_all(&masked(data).to_le_bytes())
}

/// The next record, or `None` at the end, be it clean or in the middle of a record that was being
/// written when the program died.
///
/// # Errors
///
/// When a checksum does not match (the file is damaged), or reading fails.
pub(super) fn read(file: &mut impl Read) -> Result<Option<Vec<u8>>> {
    let mut header = [0; 12];
    if !fill(file, &mut header)? {
        return Ok(None);
    }
    let (length, sum) = header.split_at(8);
    if masked(length).to_le_bytes() != sum {
        return Err(Error::data("the length of a record does not match its checksum").hint("is this an event file?"));
    }
    let length = u64::from_le_bytes(std::array::from_fn(|index| length[index]));
    let mut data = Vec::new();
    // Grows as bytes come: a length cannot ask for more memory than the file holds.
    file.by_ref().take(length).read_to_end(&mut data)?;
    let mut sum = [0; 4];
    if (data.len() as u64) < length || !fill(file, &mut sum)? {
        return Ok(None);
    }
    if masked(&data).to_le_bytes() != sum {
        return Err(Error::data("the data of a record do not match their checksum").hint("the file is damaged"));
    }
    Ok(Some(data))
}

/// Whether the whole buffer could be filled.
fn fill(file: &mut impl Read, buffer: &mut [u8]) -> Result<bool> {
    match file.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(mut bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        let mut records = Vec::new();
        while let Some(record) = read(&mut bytes)? {
            records.push(record);
        }
        Ok(records)
    }

    #[test]
    fn the_checksum_is_tensorflows() {
        // The first twelve bytes of every file with a 24-byte version record.
        assert_eq!(masked(&24u64.to_le_bytes()).to_le_bytes(), [0xa3, 0x7f, 0x4b, 0x22]);
    }

    #[test]
    fn a_file_cut_at_any_byte_reads_up_to_the_cut() {
        let records: Vec<Vec<u8>> = (0..4).map(|length| vec![7; 5 * length]).collect();
        let mut bytes = Vec::new();
        let mut ends = Vec::new();
        for record in &records {
            write(&mut bytes, record).unwrap();
            ends.push(bytes.len());
        }
        for cut in 0..=bytes.len() {
            let whole = ends.iter().filter(|&&end| end <= cut).count();
            assert_eq!(all(&bytes[..cut]).unwrap(), records[..whole], "cut at {cut}");
        }
    }

    #[test]
    fn a_damaged_last_record_is_an_error_and_a_cut_one_is_not() {
        let (mut bytes, mut before) = (Vec::new(), 0);
        for record in [b"first".as_slice(), b"second", b"last"] {
            before = bytes.len();
            write(&mut bytes, record).unwrap();
        }
        for index in before..bytes.len() {
            assert_eq!(all(&bytes[..index]).unwrap(), [b"first".as_slice(), b"second"], "cut at {index}");
            bytes[index] ^= 1;
            assert!(all(&bytes).unwrap_err().to_string().contains("checksum"), "byte {index}");
            bytes[index] ^= 1;
        }
    }

    #[test]
    fn a_flipped_bit_is_an_error() {
        let mut bytes = Vec::new();
        write(&mut bytes, b"some data").unwrap();
        for index in 0..bytes.len() {
            bytes[index] ^= 1;
            let error = all(&bytes).unwrap_err().to_string();
            assert!(error.contains("checksum"), "byte {index}: {error}");
            bytes[index] ^= 1;
        }
    }
}
