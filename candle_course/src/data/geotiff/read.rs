//! Reads TIFF files through the `tiff` crate, which is told that every image is one of plain bands: it
//! would drop the fourth of four bands that are called red, green, blue and something, as those of aerial
//! photographs are, and undo a predictor wrongly then.

use std::io::{self, Read, Seek, SeekFrom};

use tiff::decoder::{ChunkType, Decoder, DecodingResult, Limits};
use tiff::tags::{PlanarConfiguration, Tag};

use super::{Band, Georeference, Kind, Raster, Samples, metadata};
use crate::error::{Context, Error, ErrorKind, Result, contained};
use crate::sizes;

/// GDAL's tag of names, scales and offsets.
pub(super) const GDAL_METADATA: Tag = Tag::Unknown(42_112);
/// More than any method of compression that is read makes of a byte: LZW's longest chains.
const EXPANSION: u64 = 2_600;
/// A row of tiles that is wider has no photograph in it.
const ROW_BYTES: usize = 1 << 26;
const MOST_TAGS: u64 = 4_096;
/// Values of one tag: a million tiles have as many offsets, each of which takes the tiff crate 32 bytes.
const MOST_VALUES: u64 = 1 << 22;
const PHOTOMETRIC: u64 = 262;
const YCBCR: u64 = 6;

/// A part of a raster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::data) struct Window {
    pub row: usize,
    pub column: usize,
    pub height: usize,
    pub width: usize,
}

impl Window {
    /// Fails if it isn't a part of an image of this size.
    pub fn check(self, height: usize, width: usize) -> Result<Self> {
        let end = |first: usize, size: usize| first.checked_add(size).filter(|_| size > 0);
        let inside = end(self.row, self.height).is_some_and(|end| end <= height)
            && end(self.column, self.width).is_some_and(|end| end <= width);
        if inside {
            return Ok(self);
        }
        let got = format!("{}×{} from row {}, column {}", self.height, self.width, self.row, self.column);
        Err(Error::argument("window", format!("a part of {height}×{width} pixels"), got))
    }
}

/// The first image of a TIFF file of `length` bytes, or its part in `window`.
///
/// # Errors
/// If it is no TIFF file, damaged, of samples or a compression that are not read, or the window is not in it.
pub(in crate::data) fn read(source: impl Read + Seek, length: u64, window: Option<Window>) -> Result<Raster> {
    Ok(read_part(source, length, window)?.0)
}

/// As [`read`], and height and width of the whole image.
pub(in crate::data) fn read_part(
    mut source: impl Read + Seek,
    length: u64,
    window: Option<Window>,
) -> Result<(Raster, [usize; 2])> {
    contained(ErrorKind::Data, "the TIFF decoder", || decode(&mut source, length, window))
}

/// By reference and not by type: the tiff crate is compiled once instead of once for each kind of source.
fn decode(source: &mut dyn Source, length: u64, window: Option<Window>) -> Result<(Raster, [usize; 2])> {
    let overlay = plain_bands(source, length)?;
    source.seek(SeekFrom::Start(0))?;
    let source = Overlay { source, position: 0, overlay };
    let limits = |mut limits: Limits| {
        // A strip may be a whole plane. What lists of tags and strips take is looked at here, before.
        (limits.decoding_buffer_size, limits.intermediate_buffer_size) = (usize::MAX, usize::MAX);
        limits
    };
    let mut decoder = Decoder::new(source)?.with_limits(limits(Limits::default()));
    let (width, height) = decoder.dimensions()?;
    let (width, height) = (width as usize, height as usize);
    let color = decoder.colortype()?;
    let (bits, count) = (u16::from(color.bit_depth()), usize::from(color.num_samples()));
    let format = decoder.find_tag_unsigned_vec::<u16>(Tag::SampleFormat)?.and_then(|all| all.first().copied());
    let format = format.unwrap_or(1);
    let Some(&(kind, ..)) = Kind::ALL.iter().find(|&&(_, f, b)| (f, b) == (format, bits)) else {
        let name = ["unknown", "unsigned", "signed", "floating"].get(usize::from(format)).unwrap_or(&"unknown");
        return Err(Error::data(format!("expected samples of u8, u16, i16 or f32, got {name} ones of {bits} bits")));
    };
    let window = window.unwrap_or(Window { row: 0, column: 0, height, width }).check(height, width)?;

    let chunky = decoder.find_tag_unsigned::<u16>(Tag::PlanarConfiguration)?.unwrap_or(1)
        == PlanarConfiguration::Chunky.to_u16();
    let (across, chunk_samples) = if chunky { (count, count) } else { (1, 1) };
    let (chunk_width, chunk_height) = decoder.chunk_dimensions();
    let (chunk_width, chunk_height) = (chunk_width as usize, chunk_height as usize);
    let tiles = decoder.get_chunk_type() == ChunkType::Tile;
    let chunk_height = if tiles { chunk_height } else { chunk_height.min(height) };
    if sizes::product("a tile's row", &[chunk_width, across, kind.bytes()])? > ROW_BYTES {
        return Err(Error::data(format!("a tile is {chunk_width} pixels wide, which no image is")));
    }
    let inside = [chunk_samples, chunk_height.min(height), chunk_width.min(width), kind.bytes()];
    let bytes = sizes::product("a tile", &inside)?
        .max(sizes::product("the window", &[count, window.height, window.width, kind.bytes()])?);
    if bytes as u64 > length.saturating_mul(EXPANSION) {
        return Err(Error::data(format!("a file of {length} bytes cannot hold an image of {bytes} bytes")));
    }

    let mut bands = vec![Band::default(); count];
    if let Some(text) = decoder.find_tag(GDAL_METADATA)? {
        metadata::read(&text.into_string()?, &mut bands).context("in GDAL's metadata")?;
    }
    let nodata = nodata(&mut decoder)?;
    let size = [count, window.height, window.width];
    let total = sizes::product("the scene", &size)?;
    let mut samples = Samples::filled(kind, nodata.unwrap_or(0.0), total)?;

    let sizes_tag = if tiles { Tag::TileByteCounts } else { Tag::StripByteCounts };
    let chunk_bytes = decoder.find_tag_unsigned_vec::<u64>(sizes_tag)?.unwrap_or_default();
    let columns = width.div_ceil(chunk_width);
    let per_plane = columns * height.div_ceil(chunk_height);
    for plane in 0..if chunky { 1 } else { count } {
        for row in window.row / chunk_height..(window.row + window.height).div_ceil(chunk_height) {
            for column in window.column / chunk_width..(window.column + window.width).div_ceil(chunk_width) {
                let index = plane * per_plane + row * columns + column;
                // GDAL leaves out tiles in which there is nothing.
                if chunk_bytes.get(index) == Some(&0) {
                    continue;
                }
                let chunk = decoder.read_chunk(index as u32)?;
                let (chunk_width_here, chunk_height_here) = decoder.chunk_data_dimensions(index as u32);
                let from = Chunk {
                    top: row * chunk_height,
                    left: column * chunk_width,
                    height: chunk_height_here as usize,
                    width: chunk_width_here as usize,
                    samples: chunk_samples,
                    plane,
                };
                from.copy(&chunk, &mut samples, window)?;
            }
        }
    }
    let georeference = georeference(&mut decoder)?.map(|place| place.part_at(window.row, window.column));
    Ok((Raster { samples, size, bands, nodata, georeference }, [height, width]))
}

/// Where the values of a decoded piece belong.
struct Chunk {
    top: usize,
    left: usize,
    height: usize,
    width: usize,
    samples: usize,
    plane: usize,
}

impl Chunk {
    fn copy(&self, chunk: &DecodingResult, into: &mut Samples, window: Window) -> Result<()> {
        match (chunk, into) {
            (DecodingResult::U8(from), Samples::U8(into)) => self.copy_values(from, into, window),
            (DecodingResult::U16(from), Samples::U16(into)) => self.copy_values(from, into, window),
            (DecodingResult::I16(from), Samples::I16(into)) => self.copy_values(from, into, window),
            (DecodingResult::F32(from), Samples::F32(into)) => self.copy_values(from, into, window),
            _ => Err(Error::data("a tile has samples of another type")),
        }
    }

    fn copy_values<T: Copy>(&self, from: &[T], into: &mut [T], window: Window) -> Result<()> {
        if from.len() < self.height * self.width * self.samples {
            return Err(Error::data("a tile is cut off"));
        }
        let rows = self.top.max(window.row)..(self.top + self.height).min(window.row + window.height);
        let columns = self.left.max(window.column)..(self.left + self.width).min(window.column + window.width);
        for row in rows {
            for sample in 0..self.samples {
                let band = self.plane + sample;
                let source = (row - self.top) * self.width + (columns.start - self.left);
                let target = (band * window.height + row - window.row) * window.width + columns.start - window.column;
                let source = from[source * self.samples + sample..].iter().step_by(self.samples);
                into[target..target + columns.len()].iter_mut().zip(source).for_each(|(to, &from)| *to = from);
            }
        }
        Ok(())
    }
}

fn nodata(decoder: &mut Decoder<Overlay<'_>>) -> Result<Option<f64>> {
    let Some(value) = decoder.find_tag(Tag::GdalNodata)? else { return Ok(None) };
    let text = value.into_string()?;
    let text = text.trim_matches(|letter: char| letter.is_whitespace() || letter == '\0');
    match text.parse() {
        Ok(number) => Ok(Some(number)),
        Err(_) => Err(Error::data(format!("the value of pixels without data is {text:?}, which is no number"))),
    }
}

fn georeference(decoder: &mut Decoder<Overlay<'_>>) -> Result<Option<Georeference>> {
    let mut numbers =
        |tag| -> Result<Option<Vec<f64>>> { Ok(decoder.find_tag(tag)?.map(|value| value.into_f64_vec()).transpose()?) };
    let matrix = numbers(Tag::ModelTransformationTag)?;
    let scale = numbers(Tag::ModelPixelScaleTag)?;
    let tie = numbers(Tag::ModelTiepointTag)?;
    let doubles = numbers(Tag::GeoDoubleParamsTag)?.unwrap_or_default();
    let transform = match (matrix.as_deref(), scale.as_deref(), tie.as_deref()) {
        (Some(&[a, b, _, x, c, d, _, y, ..]), ..) => [x, a, b, y, c, d],
        (None, Some(&[width, height, ..]), Some(&[column, row, _, x, y, ..])) => {
            [x - column * width, width, 0.0, y + row * height, 0.0, -height]
        }
        _ => return Ok(None),
    };
    let directory = decoder.find_tag_unsigned_vec::<u16>(Tag::GeoKeyDirectoryTag)?.unwrap_or_default();
    let text = match decoder.find_tag(Tag::GeoAsciiParamsTag)? {
        Some(value) => value.into_string()?,
        None => String::new(),
    };
    Georeference::from_tags(transform, directory, doubles, text).map(Some)
}

/// Where a file's bytes come from.
trait Source: Read + Seek {}

impl<R: Read + Seek> Source for R {}

/// Bytes that stand in a file's place.
struct Overlay<'a> {
    source: &'a mut dyn Source,
    position: u64,
    overlay: Option<(u64, Vec<u8>)>,
}

impl Read for Overlay<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        if let Some((at, bytes)) = &self.overlay {
            let (first, last) = (self.position.max(*at), (self.position + count as u64).min(at + bytes.len() as u64));
            for place in first..last.max(first) {
                buffer[(place - self.position) as usize] = bytes[(place - at) as usize];
            }
        }
        self.position += count as u64;
        Ok(count)
    }
}

impl Seek for Overlay<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.position = self.source.seek(to)?;
        Ok(self.position)
    }
}

/// Where the first image's entry for the meaning of its samples stands, and one that says "plain bands". Fails
/// if a tag has more values than the file holds: the tiff crate would make room for them.
fn plain_bands(source: &mut dyn Source, length: u64) -> Result<Option<(u64, Vec<u8>)>> {
    let mut header = Vec::new();
    (&mut *source).take(16).read_to_end(&mut header)?;
    let little = match header.get(..2) {
        Some(b"II") => true,
        Some(b"MM") => false,
        _ => return Err(Error::data("not a TIFF file: it does not begin with II or MM")),
    };
    header.resize(16, 0);
    let number = |bytes: &[u8]| {
        let fold = |sum: u64, &byte: &u8| sum << 8 | u64::from(byte);
        if little { bytes.iter().rev().fold(0, fold) } else { bytes.iter().fold(0, fold) }
    };
    let big = number(&header[2..4]) == 43;
    // Bytes of an offset, of the number of entries, and of an entry.
    let (offset, counter, entry) = if big { (8, 8, 20) } else { (4, 2, 12) };
    let directory = number(&header[offset..2 * offset]);
    source.seek(SeekFrom::Start(directory))?;
    let mut bytes = [0u8; 20];
    source.read_exact(&mut bytes[..counter]).context("the file ends before its directory")?;
    let count = number(&bytes[..counter]);
    if count > MOST_TAGS {
        return Err(Error::data(format!("the directory has {count} tags, more than any image")));
    }
    let mut found = None;
    for place in 0..count {
        source.read_exact(&mut bytes[..entry]).context("the file ends in its directory")?;
        let (tag, kind, values) = (number(&bytes[..2]), number(&bytes[2..4]), number(&bytes[4..4 + offset]));
        let width = match kind {
            3 | 8 => 2,
            4 | 9 | 11 | 13 => 4,
            5 | 10 | 12 | 16..=18 => 8,
            _ => 1,
        };
        if values > MOST_VALUES || values * width > length {
            return Err(Error::data(format!(
                "tag {tag} has {values} values, more than a file of {length} bytes holds"
            )));
        }
        if tag != PHOTOMETRIC {
            continue;
        }
        if number(&bytes[4 + offset..6 + offset]) == YCBCR {
            return Err(Error::data("the image is stored as YCbCr: convert it to plain bands first"));
        }
        // Type 3 is u16; one value; 1 is "black is zero".
        let word = |value: u16| if little { value.to_le_bytes() } else { value.to_be_bytes() };
        let mut plain = word(3).to_vec();
        let mut one = vec![0u8; offset];
        one[if little { 0 } else { offset - 1 }] = 1;
        plain.extend(one);
        plain.extend(word(1));
        plain.resize(entry - 2, 0);
        found = Some((directory + counter as u64 + place * entry as u64 + 2, plain));
    }
    Ok(found)
}
