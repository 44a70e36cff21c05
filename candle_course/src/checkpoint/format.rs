//! safetensors files, written and read in parallel, with a checksum.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use candle_core::{CpuStorage, DType, Device, Storage, Tensor};
use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::tensor::{Dtype, Metadata};
use serde_json::json;

use crate::atomic::Output;
use crate::error::{Context, Error, Result};
use crate::sizes;

/// Bytes a task works on: they stay in the cache between the checksum and the copy.
const PIECE: usize = 1 << 20;

/// Where the header keeps the checksum of the whole file, itself taken as `00000000`.
pub(super) const CHECKSUM: &str = "crc32c";
const NO_CHECKSUM: &str = "00000000";

/// A header longer than this is not read: the file is damaged or hostile.
const LONGEST_HEADER: u64 = 100 << 20;

pub(super) type Tensors = BTreeMap<String, Tensor>;
pub(super) type Texts = BTreeMap<String, String>;

/// Writes a safetensors file; with a checksum if `texts` has a place for one.
pub(super) fn write(file: &Output, tensors: &Tensors, texts: &Texts, checksum: bool) -> Result<()> {
    let mut texts = texts.clone();
    if checksum {
        texts.insert(CHECKSUM.to_owned(), NO_CHECKSUM.to_owned());
    }
    let mut tensors = tensors
        .iter()
        .map(|(name, tensor)| {
            let dtype = file_dtype(tensor.dtype()).with_context(|| format!("`{name}` cannot be saved"))?;
            Ok((name.as_str(), dtype, tensor.to_device(&Device::Cpu)?.contiguous()?))
        })
        .collect::<Result<Vec<_>>>()?;
    // Wide dtypes first: every tensor is then aligned to its dtype, as readers that map files want.
    tensors.sort_by(|a, b| b.2.dtype().size_in_bytes().cmp(&a.2.dtype().size_in_bytes()).then(a.0.cmp(b.0)));

    const TEXTS: &str = "__metadata__";
    if tensors.iter().any(|(name, ..)| *name == TEXTS) {
        return Err(Error::argument(
            "tensors",
            format!("names other than `{TEXTS}`, which is the header's own"),
            TEXTS,
        ));
    }
    let mut header = serde_json::Map::new();
    header.insert(TEXTS.to_owned(), json!(texts));
    let mut end = 0;
    for (name, dtype, tensor) in &tensors {
        let start = end;
        end += tensor.elem_count() * tensor.dtype().size_in_bytes();
        let info = json!({ "dtype": dtype, "shape": tensor.dims(), "data_offsets": [start, end] });
        header.insert((*name).to_owned(), info);
    }
    let mut text = serde_json::to_string(&header)?;
    text.push_str(&" ".repeat(text.len().next_multiple_of(8) - text.len()));
    let mut head = (text.len() as u64).to_le_bytes().to_vec();
    head.extend(text.as_bytes());

    let mut checksums = vec![(crc32c::crc32c(&head), head.len())];
    let mut offset = head.len() as u64;
    for (_, _, tensor) in &tensors {
        let (storage, layout) = tensor.storage_and_layout();
        let bytes = bytes(&storage, layout)?;
        let pieces = bytes.par_chunks(PIECE).enumerate().map(|(index, piece)| {
            let checksum = if checksum { crc32c::crc32c(piece) } else { 0 };
            file.write_all_at(piece, offset + (index * PIECE) as u64)?;
            Ok((checksum, piece.len()))
        });
        checksums.extend(pieces.collect::<Result<Vec<_>>>()?);
        offset += bytes.len() as u64;
    }
    if checksum {
        let found = combine(&checksums);
        let place = checksum_place(&head).ok_or_else(|| Error::checkpoint("the header has no place for a checksum"))?;
        head[place].copy_from_slice(format!("{found:08x}").as_bytes());
    }
    file.write_all_at(&head, 0)
}

/// The header of a safetensors file.
pub(super) struct Header {
    bytes: Vec<u8>,
    metadata: Metadata,
    pub texts: Texts,
}

/// Reads and checks the header.
pub(super) fn read_header(file: &File) -> Result<Header> {
    let length = file.metadata()?.len();
    let mut first = [0; 8];
    if length < 8 {
        return Err(Error::checkpoint(format!("the file has {length} bytes, too few for a header: it is truncated")));
    }
    read_at(file, &mut first, 0)?;
    let header = u64::from_le_bytes(first);
    if header > LONGEST_HEADER || header > length - 8 {
        return Err(Error::checkpoint(format!(
            "the file has {length} bytes, but says that its header has {header}: it is truncated, damaged, or not safetensors"
        )));
    }
    let mut bytes = vec![0; 8 + header as usize];
    read_at(file, &mut bytes, 0)?;
    let metadata: Metadata = serde_json::from_slice(&bytes[8..])
        .map_err(|error| Error::checkpoint(format!("the header is damaged, or not safetensors: {error}")))?;
    let expected = bytes.len() as u64 + metadata.data_len() as u64;
    if expected != length {
        return Err(Error::checkpoint(format!(
            "the file has {length} bytes instead of {expected}: it is truncated or damaged"
        )));
    }
    let texts = metadata.metadata().iter().flatten().map(|(key, text)| (key.clone(), text.clone())).collect();
    Ok(Header { bytes, metadata, texts })
}

/// The tensors of a file; its checksum, if it has one, is checked.
pub(super) fn read(file: &File, header: &Header) -> Result<Tensors> {
    let mut bytes = header.bytes.clone();
    let expected = checksum_place(&bytes).map(|place| {
        let text = String::from_utf8_lossy(&bytes[place.clone()]).into_owned();
        bytes[place].copy_from_slice(NO_CHECKSUM.as_bytes());
        text
    });
    let mut infos: Vec<_> = header.metadata.tensors().into_iter().collect();
    infos.sort_by_key(|(_, info)| info.data_offsets);
    let mut checksums = vec![(crc32c::crc32c(&bytes), bytes.len())];
    let mut tensors = Tensors::new();
    for (name, info) in infos {
        let start = (bytes.len() + info.data_offsets.0) as u64;
        let (tensor, pieces) = read_tensor(file, start, info.dtype, &info.shape, expected.is_some())
            .with_context(|| format!("`{name}` cannot be read"))?;
        checksums.extend(pieces);
        tensors.insert(name, tensor);
    }
    if let Some(expected) = expected {
        let found = format!("{:08x}", combine(&checksums));
        if found != expected {
            return Err(Error::checkpoint(format!("the checksum is {found}, the file says {expected}: it is damaged")));
        }
    }
    Ok(tensors)
}

type Pieces = Vec<(u32, usize)>;

fn read_tensor(file: &File, start: u64, dtype: Dtype, shape: &[usize], checksum: bool) -> Result<(Tensor, Pieces)> {
    let count = sizes::product("a tensor", shape)?;
    macro_rules! numbers {
        ($type:ty, $zero:expr) => {{
            let mut values: Vec<$type> = sizes::filled("a tensor", $zero, count)?;
            let pieces = read_pieces(file, start, bytemuck::cast_slice_mut(&mut values), checksum)?;
            (Tensor::from_vec(values, shape, &Device::Cpu)?, pieces)
        }};
    }
    Ok(match dtype {
        Dtype::F64 => numbers!(f64, 0.0),
        Dtype::F32 => numbers!(f32, 0.0),
        Dtype::F16 => numbers!(f16, f16::ZERO),
        Dtype::BF16 => numbers!(bf16, bf16::ZERO),
        Dtype::I64 => numbers!(i64, 0),
        Dtype::U32 => numbers!(u32, 0),
        Dtype::U8 => numbers!(u8, 0),
        other => {
            let mut bytes = vec![0; count * other.bitsize() / 8];
            let pieces = read_pieces(file, start, &mut bytes, checksum)?;
            (tensor_of(other, &bytes, shape)?, pieces)
        }
    })
}

/// A tensor of little-endian numbers. What candle's tensors here cannot hold becomes what holds
/// every value of it: bool u8 (0 and 1), u16 u32, other whole numbers i64.
pub(super) fn tensor_of(dtype: Dtype, bytes: &[u8], shape: &[usize]) -> Result<Tensor> {
    macro_rules! numbers {
        ($from:ty, $to:expr) => {{
            let (numbers, rest) = bytes.as_chunks::<{ size_of::<$from>() }>();
            debug_assert!(rest.is_empty());
            let values: Vec<_> = numbers.iter().map(|bytes| $to(<$from>::from_le_bytes(*bytes))).collect();
            Tensor::from_vec(values, shape, &Device::Cpu)?
        }};
    }
    Ok(match dtype {
        Dtype::F64 => numbers!(f64, |x| x),
        Dtype::F32 => numbers!(f32, |x| x),
        Dtype::F16 => numbers!(f16, |x| x),
        Dtype::BF16 => numbers!(bf16, |x| x),
        Dtype::I64 => numbers!(i64, |x| x),
        Dtype::I32 => numbers!(i32, i64::from),
        Dtype::I16 => numbers!(i16, i64::from),
        Dtype::I8 => numbers!(i8, i64::from),
        Dtype::U32 => numbers!(u32, |x| x),
        Dtype::U16 => numbers!(u16, u32::from),
        Dtype::U8 => numbers!(u8, |x| x),
        Dtype::BOOL => numbers!(u8, |x| u8::from(x != 0)),
        Dtype::U64 => {
            let wide = |x: u64| i64::try_from(x).ok();
            let (numbers, _) = bytes.as_chunks::<8>();
            let values: Option<Vec<i64>> = numbers.iter().map(|bytes| wide(u64::from_le_bytes(*bytes))).collect();
            let values = values.ok_or_else(|| Error::checkpoint("a number of dtype u64 is beyond those of i64"))?;
            Tensor::from_vec(values, shape, &Device::Cpu)?
        }
        other => return Err(foreign(&format!("{other:?}"))),
    })
}

/// A dtype that no tensor here can hold.
pub(super) fn foreign(dtype: &str) -> Error {
    Error::checkpoint(format!("dtype {dtype} is none of f64, f32, f16, bf16, bool and whole numbers"))
}

fn read_pieces(file: &File, start: u64, bytes: &mut [u8], checksum: bool) -> Result<Pieces> {
    bytes
        .par_chunks_mut(PIECE)
        .enumerate()
        .map(|(index, piece)| {
            read_at(file, piece, start + (index * PIECE) as u64)?;
            Ok((if checksum { crc32c::crc32c(piece) } else { 0 }, piece.len()))
        })
        .collect()
}

fn combine(pieces: &[(u32, usize)]) -> u32 {
    pieces.iter().fold(0, |whole, &(piece, length)| crc32c::crc32c_combine(whole, piece, length))
}

/// Whether the file's checksum is that of all its bytes, whatever its tensors are.
pub(super) fn is_whole(file: &File, header: &Header) -> Result<bool> {
    let mut head = header.bytes.clone();
    let Some(place) = checksum_place(&head) else { return Ok(false) };
    let expected = String::from_utf8_lossy(&head[place.clone()]).into_owned();
    head[place].copy_from_slice(NO_CHECKSUM.as_bytes());
    let (mut found, length) = (crc32c::crc32c(&head), file.metadata()?.len());
    let (mut piece, mut offset) = (vec![0; PIECE], head.len() as u64);
    while offset < length {
        let bytes = &mut piece[..PIECE.min((length - offset) as usize)];
        read_at(file, bytes, offset)?;
        found = crc32c::crc32c_append(found, bytes);
        offset += bytes.len() as u64;
    }
    Ok(format!("{found:08x}") == expected)
}

/// Where the eight digits of the checksum stand in the header.
fn checksum_place(head: &[u8]) -> Option<std::ops::Range<usize>> {
    let key = format!("\"{CHECKSUM}\":\"");
    let start = head.windows(key.len()).position(|window| window == key.as_bytes())? + key.len();
    (head.len() >= start + NO_CHECKSUM.len()).then(|| start..start + NO_CHECKSUM.len())
}

fn file_dtype(dtype: DType) -> Result<Dtype> {
    Ok(match dtype {
        DType::F64 => Dtype::F64,
        DType::F32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
        DType::I64 => Dtype::I64,
        DType::U32 => Dtype::U32,
        DType::U8 => Dtype::U8,
        other => return Err(Error::argument("dtype", "f64, f32, f16, bf16, i64, u32 or u8", other.as_str())),
    })
}

const _: () =
    assert!(cfg!(target_endian = "little"), "safetensors files are little-endian, and so must the machine be");

/// The bytes of a contiguous CPU tensor.
fn bytes<'a>(storage: &'a Storage, layout: &candle_core::Layout) -> Result<&'a [u8]> {
    let (Storage::Cpu(storage), Some((start, end))) = (storage, layout.contiguous_offsets()) else {
        return Err(Error::checkpoint("only contiguous tensors on the CPU can be written"));
    };
    Ok(match storage {
        CpuStorage::F64(values) => bytemuck::cast_slice(&values[start..end]),
        CpuStorage::F32(values) => bytemuck::cast_slice(&values[start..end]),
        CpuStorage::F16(values) => bytemuck::cast_slice(&values[start..end]),
        CpuStorage::BF16(values) => bytemuck::cast_slice(&values[start..end]),
        CpuStorage::I64(values) => bytemuck::cast_slice(&values[start..end]),
        CpuStorage::U32(values) => bytemuck::cast_slice(&values[start..end]),
        CpuStorage::U8(values) => bytemuck::cast_slice(&values[start..end]),
        _ => return Err(Error::checkpoint("tensors of this dtype cannot be written")),
    })
}

#[cfg(unix)]
fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> Result<()> {
    Ok(std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset)?)
}

#[cfg(windows)]
fn read_at(file: &File, mut bytes: &mut [u8], mut offset: u64) -> Result<()> {
    while !bytes.is_empty() {
        let read = std::os::windows::fs::FileExt::seek_read(file, bytes, offset)?;
        if read == 0 {
            return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
        }
        bytes = &mut bytes[read..];
        offset += read as u64;
    }
    Ok(())
}

/// Opens a file for reading; the message names it.
pub(super) fn open(path: &Path) -> Result<File> {
    File::open(path).with_context(|| format!("cannot open `{}`", path.display()))
}
