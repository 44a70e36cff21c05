//! What the pages of a parquet file say of their sizes, looked at before the parquet crate believes it: it
//! allocates what a page's header asks for, up to 2 GB, and for a dictionary 24 times as much.

use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::reader::ChunkReader;

use crate::error::{Error, Result};

/// Snappy, the only compression that is built in, copies at most 64 bytes for 3.
const MOST_OF_A_BYTE: u64 = 22;

/// An error if a page of a column of a row group asks for more than its bytes can stand for.
pub(super) fn check_column(content: &impl ChunkReader, column: &ColumnChunkMetaData) -> Result<()> {
    let damaged = |what: &str| Error::data(format!("{what} than the file has"));
    // Signed in the file; the crate's `byte_range` panics below zero.
    let start = column.dictionary_page_offset().unwrap_or(column.data_page_offset());
    let (Ok(start), Ok(length)) = (u64::try_from(start), u64::try_from(column.compressed_size())) else {
        return Err(Error::data("a column begins before the file"));
    };
    if start.checked_add(length).is_none_or(|end| end > content.len()) {
        return Err(damaged("a column has more bytes"));
    }
    let chunk = content.get_bytes(start, length as usize)?;
    let mut rest = &chunk[..];
    while !rest.is_empty() {
        let page = page(&mut rest).ok_or_else(|| Error::data("a page's header is none"))?;
        rest = rest.get(page.compressed as usize..).ok_or_else(|| damaged("a page has more bytes"))?;
        if page.uncompressed > page.compressed * MOST_OF_A_BYTE + 64 || page.values > page.uncompressed {
            return Err(Error::data(format!(
                "a page of {} bytes says that it stands for {} bytes and {} values",
                page.compressed, page.uncompressed, page.values
            )));
        }
    }
    Ok(())
}

/// What a page's header says.
#[derive(Default)]
struct Page {
    uncompressed: u64,
    compressed: u64,
    /// Of a dictionary; 0 for other pages, whose values may take less than a byte.
    values: u64,
}

/// Reads a page's header, in Thrift's compact protocol.
fn page(input: &mut &[u8]) -> Option<Page> {
    let mut page = Page::default();
    fields(input, 0, &mut |input, field, kind| {
        match (field, kind) {
            (2, 5) => page.uncompressed = positive(input)?,
            (3, 5) => page.compressed = positive(input)?,
            (7, 12) => fields(input, 1, &mut |input, field, kind| match (field, kind) {
                (1, 5) => {
                    page.values = positive(input)?;
                    Some(())
                }
                _ => skip(input, kind, 1),
            })?,
            _ => skip(input, kind, 0)?,
        }
        Some(())
    })?;
    Some(page)
}

fn byte(input: &mut &[u8]) -> Option<u8> {
    let (first, rest) = input.split_first()?;
    *input = rest;
    Some(*first)
}

fn varint(input: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = byte(input)?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

/// A number that is not below zero, of 32 bits.
fn positive(input: &mut &[u8]) -> Option<u64> {
    let zigzag = varint(input)?;
    (zigzag % 2 == 0 && zigzag / 2 <= i32::MAX as u64).then_some(zigzag / 2)
}

fn advance(input: &mut &[u8], bytes: u64) -> Option<()> {
    *input = input.get(usize::try_from(bytes).ok()?..)?;
    Some(())
}

/// Gives each field of a struct, by its number and kind, to `read`, which consumes it.
fn fields(input: &mut &[u8], depth: usize, read: &mut dyn FnMut(&mut &[u8], i64, u8) -> Option<()>) -> Option<()> {
    let mut field = 0i64;
    loop {
        let head = byte(input)?;
        match (head & 15, head >> 4) {
            (0, _) => return Some(()),
            (_, 0) => {
                let zigzag = varint(input)?;
                field = (zigzag >> 1) as i64 ^ -((zigzag & 1) as i64);
            }
            (_, delta) => field = field.checked_add(i64::from(delta))?,
        }
        if depth > 8 {
            return None;
        }
        read(input, field, head & 15)?;
    }
}

/// Passes over a value of this kind.
fn skip(input: &mut &[u8], kind: u8, depth: usize) -> Option<()> {
    match kind {
        // A field that is a truth has its value in its head.
        1 | 2 => Some(()),
        3 => advance(input, 1),
        4..=6 => varint(input).map(drop),
        7 => advance(input, 8),
        8 => {
            let length = varint(input)?;
            advance(input, length)
        }
        9 | 10 => {
            let head = byte(input)?;
            let length = if head >> 4 == 15 { varint(input)? } else { u64::from(head >> 4) };
            (0..length).try_for_each(|_| {
                if matches!(head & 15, 1 | 2) { advance(input, 1) } else { skip(input, head & 15, depth + 1) }
            })
        }
        12 => fields(input, depth + 1, &mut |input, _, kind| skip(input, kind, depth + 1)),
        // Maps: no page has one.
        _ => None,
    }
}
