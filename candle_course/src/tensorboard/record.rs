//! Framing: each record is its length (u64, little endian), the masked checksum of the length, the
//! data, and the masked checksum of the data.
//!
//! Reference: TensorFlow, `lib/io/record_writer.h`.

use std::io::{self, Read, Write};

use crate::error::{Error, ErrorKind, Result};

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

/// The next record, or `None` at the end, be it clean or at a record that was being written when the
/// program or the machine died: cut, or damaged with no whole record behind it. The `first` of a file
/// must be whole.
///
/// # Errors
///
/// When a checksum does not match (the file is damaged), or reading fails.
pub(super) fn read(file: &mut impl Read, first: bool) -> Result<Option<Vec<u8>>> {
    match next(file) {
        Err(error) if !first && error.kind() == ErrorKind::Data => {
            let mut rest = Vec::new();
            file.read_to_end(&mut rest)?;
            let whole = |start: usize| matches!(next(&mut &rest[start..]), Ok(Some(_)));
            if (0..rest.len()).any(whole) { Err(error) } else { Ok(None) }
        }
        read => read,
    }
}

fn next(file: &mut impl Read) -> Result<Option<Vec<u8>>> {
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
        while let Some(record) = read(&mut bytes, records.is_empty())? {
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

    #[test]
    fn damage_at_the_end_is_a_cut_and_elsewhere_an_error() {
        let records: Vec<Vec<u8>> = (1..5).map(|length| vec![7; 5 * length]).collect();
        let (mut bytes, mut ends) = (Vec::new(), vec![0]);
        for record in &records {
            write(&mut bytes, record).unwrap();
            ends.push(bytes.len());
        }
        for index in 0..bytes.len() {
            bytes[index] ^= 1;
            match index < ends[3] {
                true => assert!(all(&bytes).unwrap_err().to_string().contains("checksum"), "byte {index}"),
                false => assert_eq!(all(&bytes).unwrap(), records[..3], "byte {index}"),
            }
            bytes[index] ^= 1;
        }
        // What a file system leaves behind a lost end.
        bytes.extend([0; 100]);
        assert_eq!(all(&bytes).unwrap(), records);
        assert!(all(&[0; 100]).is_err() && all(b"something else entirely").is_err());
    }
}
