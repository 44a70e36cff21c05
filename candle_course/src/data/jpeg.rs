//! JPEG, decoded from the bytes of its file.
//!
//! `image` calls the same decoder, so the pixels are the same; but it reads the headers twice, and its cursor copies
//! every four bytes of the image by a call of `memmove`. Without, decoding 256 × 256 pixels took an eighth less time.

use image::error::{DecodingError, LimitError, LimitErrorKind, UnsupportedError, UnsupportedErrorKind};
use image::{ColorType, ImageDecoder, ImageError, ImageFormat, ImageResult};
use zune_core::bytestream::{ZByteIoError, ZByteReaderTrait, ZSeekFrom};
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;
use zune_jpeg::errors::DecodeErrors;

/// What every JPEG begins with.
pub(super) const MAGIC: [u8; 3] = [0xff, 0xd8, 0xff];

/// An image whose headers have been read.
pub(super) struct Jpeg<'a> {
    decoder: JpegDecoder<Bytes<'a>>,
    size: (u32, u32),
    color: ColorType,
}

impl<'a> Jpeg<'a> {
    /// Of the bytes of a whole file.
    pub fn new(file: &'a [u8]) -> ImageResult<Self> {
        // Not strict, so that a damaged image is read as far as it goes.
        let options = DecoderOptions::default();
        let options = options.set_strict_mode(false).set_max_width(usize::MAX).set_max_height(usize::MAX);
        let mut decoder = JpegDecoder::new_with_options(Bytes { bytes: file, at: 0 }, options);
        decoder.decode_headers().map_err(broken)?;
        let (stored, color) = match decoder.input_colorspace() {
            Some(ColorSpace::Luma) => (ColorSpace::Luma, ColorType::L8),
            _ => (ColorSpace::RGB, ColorType::Rgb8),
        };
        decoder.set_options(decoder.options().jpeg_set_out_colorspace(stored));
        // Both are numbers of 16 bits in the file.
        let size = decoder.dimensions().map_or((0, 0), |(width, height)| (width as u32, height as u32));
        Ok(Self { decoder, size, color })
    }
}

impl ImageDecoder for Jpeg<'_> {
    fn dimensions(&self) -> (u32, u32) {
        self.size
    }

    fn color_type(&self) -> ColorType {
        self.color
    }

    fn read_image(mut self, pixels: &mut [u8]) -> ImageResult<()> {
        self.decoder.decode_into(pixels).map_err(broken)
    }

    fn read_image_boxed(self: Box<Self>, pixels: &mut [u8]) -> ImageResult<()> {
        (*self).read_image(pixels)
    }
}

/// The errors that `image` makes of the decoder's.
fn broken(error: DecodeErrors) -> ImageError {
    match error {
        DecodeErrors::Unsupported(what) => ImageError::Unsupported(UnsupportedError::from_format_and_kind(
            ImageFormat::Jpeg.into(),
            UnsupportedErrorKind::GenericFeature(format!("{what:?}")),
        )),
        DecodeErrors::LargeDimensions(_) => ImageError::Limits(LimitError::from_kind(LimitErrorKind::DimensionError)),
        error => ImageError::Decoding(DecodingError::new(ImageFormat::Jpeg.into(), error)),
    }
}

/// Bytes that are read from the front. All is inlined into the decoder's innermost loop, where the number of bytes is
/// known.
struct Bytes<'a> {
    bytes: &'a [u8],
    /// May lie behind the end.
    at: usize,
}

impl Bytes<'_> {
    #[inline(always)]
    fn rest(&self) -> &[u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }
}

impl ZByteReaderTrait for Bytes<'_> {
    #[inline(always)]
    fn read_byte_no_error(&mut self) -> u8 {
        let byte = self.bytes.get(self.at).copied().unwrap_or(0);
        self.at += 1;
        byte
    }

    #[inline(always)]
    fn read_exact_bytes(&mut self, into: &mut [u8]) -> Result<(), ZByteIoError> {
        self.peek_exact_bytes(into)?;
        self.at += into.len();
        Ok(())
    }

    #[inline(always)]
    fn read_bytes(&mut self, into: &mut [u8]) -> Result<usize, ZByteIoError> {
        let count = self.peek_bytes(into)?;
        self.at += count;
        Ok(count)
    }

    #[inline(always)]
    fn peek_bytes(&mut self, into: &mut [u8]) -> Result<usize, ZByteIoError> {
        let rest = self.rest();
        let count = rest.len().min(into.len());
        into[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    #[inline(always)]
    fn peek_exact_bytes(&mut self, into: &mut [u8]) -> Result<(), ZByteIoError> {
        let rest = self.rest();
        let bytes = rest.get(..into.len()).ok_or(ZByteIoError::NotEnoughBytes(rest.len(), into.len()))?;
        into.copy_from_slice(bytes);
        Ok(())
    }

    #[inline(always)]
    fn z_seek(&mut self, to: ZSeekFrom) -> Result<u64, ZByteIoError> {
        let (from, by) = match to {
            ZSeekFrom::Start(to) => (to as usize, 0),
            ZSeekFrom::End(by) => (self.bytes.len(), by),
            ZSeekFrom::Current(by) => (self.at, by),
        };
        self.at = from.checked_add_signed(by as isize).ok_or(ZByteIoError::SeekError("before the beginning"))?;
        Ok(self.at as u64)
    }

    #[inline(always)]
    fn is_eof(&mut self) -> Result<bool, ZByteIoError> {
        Ok(self.at >= self.bytes.len())
    }

    #[inline(always)]
    fn z_position(&mut self) -> Result<u64, ZByteIoError> {
        Ok(self.at as u64)
    }

    fn read_remaining(&mut self, into: &mut Vec<u8>) -> Result<usize, ZByteIoError> {
        let rest = self.rest();
        into.extend_from_slice(rest);
        let count = rest.len();
        self.at += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use image::{DynamicImage, GrayImage, Rgb, RgbImage};

    use super::*;
    use crate::test_support::mutations;

    /// What an image is, or what is wrong with it.
    fn read(decoder: ImageResult<impl ImageDecoder>) -> Result<(ColorType, (u32, u32), Vec<u8>), String> {
        let decoder = decoder.map_err(|error| error.to_string())?;
        let (color, (w, h)) = (decoder.color_type(), decoder.dimensions());
        if u64::from(w) * u64::from(h) > 1 << 14 {
            return Err(format!("{w}×{h}"));
        }
        let mut pixels = vec![7; decoder.total_bytes() as usize];
        decoder.read_image(&mut pixels).map_err(|error| error.to_string())?;
        Ok((color, (w, h), pixels))
    }

    #[test]
    fn files_whole_and_damaged_are_read_as_image_reads_them() {
        let mixed = |x: u32, y: u32, channel: u32| (x * 37 + y * 91 + channel * 50 + x * y) as u8;
        let color = RgbImage::from_fn(40, 33, |x, y| Rgb([0, 1, 2].map(|channel| mixed(x, y, channel))));
        let grey = GrayImage::from_fn(40, 33, |x, y| image::Luma([mixed(x, y, 0)]));
        for image in [DynamicImage::from(color), DynamicImage::from(grey)] {
            let mut whole = Cursor::new(Vec::new());
            image.write_to(&mut whole, ImageFormat::Jpeg).unwrap();
            let whole = whole.into_inner();
            assert!(whole.starts_with(&MAGIC) && read(Jpeg::new(&whole)).is_ok());
            let (mut accepted, mut refused) = (0, 0);
            for (at, file) in [whole.clone()].into_iter().chain(mutations(31, &whole, 3_000)).enumerate() {
                let ours = read(Jpeg::new(&file));
                let theirs = read(image::codecs::jpeg::JpegDecoder::new(Cursor::new(&file)));
                assert!(ours == theirs, "file {at}: {:?}, {:?}", ours.err(), theirs.err());
                (accepted, refused) = (accepted + usize::from(ours.is_ok()), refused + usize::from(ours.is_err()));
            }
            assert!(accepted > 100 && refused > 100, "{accepted} accepted, {refused} refused");
        }
    }
}
