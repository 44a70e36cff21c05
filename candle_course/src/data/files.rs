//! Image sets in their own file formats: IDX (MNIST) and CIFAR's binary format, gzipped or not.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use sha2::{Digest, Sha256};

use crate::error::{Context, Error, Result};

/// Bytes of images and their labels, not yet a data set.
pub(crate) struct RawImages {
    /// `[N, C, H, W]`.
    pub pixels: Vec<u8>,
    pub labels: Vec<u32>,
}

/// One file of an official distribution.
pub(crate) struct OfficialFile {
    /// Without `.gz`. MNIST's files go by two spellings.
    pub names: &'static [&'static str],
    pub identity: Identity,
}

/// Bytes as a checksum is written.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// How the official file is told from others, by the sha256 of its content without gzip.
pub(crate) enum Identity {
    Sha256(&'static str),
    /// Not on record; but a set whose files go by the same names is, and is not taken for this one.
    NotThatOf(&'static str, &'static str),
}

impl OfficialFile {
    /// Where the file lies: in one of `folders`, under one of its names, gzipped or not.
    pub fn find(&self, folders: &[PathBuf]) -> Option<PathBuf> {
        let named = |folder: &PathBuf| {
            self.names
                .iter()
                .flat_map(|name| [folder.join(name), folder.join(format!("{name}.gz"))])
                .collect::<Vec<_>>()
        };
        folders.iter().flat_map(named).find(|path| path.is_file())
    }
}

/// Files of one's own may have so many times as many images as the official ones. Beyond that, neither a
/// header nor a gzip file is believed: a few bytes can stand for more than there is memory.
pub(crate) const OWN_FILES: usize = 16;

/// What a file is made of, and so how long it may be.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Format {
    /// IDX of so many dimensions: 3 for images of 28×28, 1 for labels.
    Idx(usize),
    /// CIFAR-10's binary records.
    Cifar,
}

impl Format {
    /// Bytes that tell how long the file is.
    fn header(self) -> usize {
        match self {
            Format::Idx(rank) => 4 + 4 * rank,
            Format::Cifar => 0,
        }
    }

    /// How long a file that begins with `header` can be at most.
    fn longest(self, path: &Path, header: &[u8], images: usize) -> Result<usize> {
        match self {
            Format::Cifar => Ok(images * RECORD),
            Format::Idx(rank) => {
                let dims = idx_dims(path, header, rank)?;
                if dims[0] > images {
                    return Err(Error::data(format!(
                        "{}: expected at most {images} images, got a header for {}",
                        path.display(),
                        dims[0]
                    ))
                    .hint("the file is damaged or another set; `.verify(false)` loads files of your own, up to 16 times as large"));
                }
                Ok(self.header() + dims.iter().product::<usize>())
            }
        }
    }
}

/// The file's content, without gzip: no more of it than `images` images in this format can have.
pub(crate) fn read(path: &Path, format: Format, images: usize) -> Result<Vec<u8>> {
    let cannot = || format!("cannot read {}", path.display());
    let file = File::open(path).with_context(cannot)?;
    let length = file.metadata().with_context(cannot)?.len();
    unpack(path, BufReader::new(file), length, format, images)
}

/// As [`read`], from `file`, which has `length` bytes.
fn unpack(path: &Path, mut file: impl BufRead, length: u64, format: Format, images: usize) -> Result<Vec<u8>> {
    let cannot = || format!("cannot read {}", path.display());
    // By content, not by name: browsers unpack downloads and keep the name.
    let packed = file.fill_buf().with_context(cannot)?.starts_with(&[0x1f, 0x8b]);
    let mut reader: Box<dyn Read + '_> = if packed { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) };
    let mut content = Vec::new();
    let mut read = |content: &mut Vec<u8>, most: usize| {
        reader.by_ref().take(most as u64).read_to_end(content).map_err(|error| {
            if packed {
                Error::data(format!("{} is not a whole gzip file ({error})", path.display()))
                    .hint("download it again: it was probably cut off")
            } else {
                Error::from(error).context(cannot())
            }
        })
    };
    read(&mut content, format.header())?;
    let longest = format.longest(path, &content, images)?;
    let missing = longest - content.len();
    if read(&mut content, missing + 1)? > missing {
        let got = if packed { "more".to_owned() } else { length.to_string() };
        let most = if matches!(format, Format::Cifar) { "at most " } else { "" };
        return Err(Error::data(format!("{} is too long: expected {most}{longest} bytes, got {got}", path.display()))
            .hint("download it again"));
    }
    Ok(content)
}

/// An error unless `content` is the official file.
pub(crate) fn verify(path: &Path, content: &[u8], official: &OfficialFile) -> Result<()> {
    let got = hex(&Sha256::digest(content));
    match official.identity {
        Identity::Sha256(expected) if got != expected => Err(Error::data(format!(
            "{}: expected the official file with sha256 {expected} (unpacked), got {got}",
            path.display(),
        ))
        .hint("the file is damaged or another set; `.verify(false)` loads files of your own")),
        Identity::NotThatOf(other, known) if got == known => {
            Err(Error::data(format!("{} is the file of {other}, whose names are the same", path.display()))
                .hint("give each set a sub-folder of its own in the data folder"))
        }
        _ => Ok(()),
    }
}

fn truncated(path: &Path, expected: usize, what: &str, got: usize) -> Error {
    Error::data(format!("{} is truncated: expected {expected} bytes ({what}), got {got}", path.display()))
        .hint("download it again")
}

/// The dimensions in the header of an IDX file of bytes with `rank` dimensions; of images, 28×28.
fn idx_dims(path: &Path, content: &[u8], rank: usize) -> Result<Vec<usize>> {
    let header = Format::Idx(rank).header();
    let magic = [0, 0, 8, rank as u8];
    if content.len() < 4 || content[..4] != magic {
        let got = &content[..content.len().min(4)];
        return Err(Error::data(format!(
            "{} is not an IDX file of bytes with {rank} dimensions: expected it to begin with {magic:02x?}, got {got:02x?}",
            path.display()
        ))
        .hint("are images and labels mixed up, or is it an error page saved as a file?"));
    }
    if content.len() < header {
        return Err(truncated(path, header, "of the header", content.len()));
    }
    let dims: Vec<usize> = content[4..header]
        .chunks_exact(4)
        .map(|bytes| u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize)
        .collect();
    match dims[1..] {
        [] | [28, 28] => Ok(dims),
        [h, w] => Err(Error::data(format!("{}: expected images of 28×28, got {h}×{w}", path.display()))),
        _ => Err(Error::data(format!("{}: expected 1 or 3 dimensions, got {rank}", path.display()))),
    }
}

/// The number of images or labels, and the data, of a whole IDX file that [`read`] has bounded.
fn idx<'a>(path: &Path, content: &'a [u8], rank: usize) -> Result<(usize, &'a [u8])> {
    let dims = idx_dims(path, content, rank)?;
    let header = Format::Idx(rank).header();
    let expected = header + dims.iter().product::<usize>();
    if content.len() < expected {
        return Err(truncated(path, expected, &format!("a header of {header} and {dims:?} values"), content.len()));
    }
    Ok((dims[0], &content[header..expected]))
}

/// Images and labels from a pair of IDX files.
pub(crate) fn idx_pair(
    images: &Path,
    images_content: &[u8],
    labels: &Path,
    labels_content: &[u8],
) -> Result<RawImages> {
    let (count, pixels) = idx(images, images_content, 3)?;
    let (label_count, values) = idx(labels, labels_content, 1)?;
    if label_count != count {
        return Err(Error::data(format!(
            "{} has {label_count} labels, but {} has {count} images",
            labels.display(),
            images.display(),
        ))
        .hint("do the two files belong to the same split?"));
    }
    let raw = RawImages { pixels: pixels.to_vec(), labels: values.iter().map(|&label| u32::from(label)).collect() };
    check_labels(labels, &raw.labels)?;
    Ok(raw)
}

/// Bytes of one CIFAR-10 record: the label and three planes of 32×32.
const RECORD: usize = 1 + 3072;

/// Adds the images of a file in CIFAR-10's binary format.
pub(crate) fn cifar_binary(path: &Path, content: &[u8], into: &mut RawImages) -> Result<()> {
    if content.is_empty() || !content.len().is_multiple_of(RECORD) {
        let whole = content.len().div_ceil(RECORD).max(1);
        return Err(truncated(path, whole * RECORD, &format!("{whole} records of {RECORD}"), content.len()));
    }
    let first = into.labels.len();
    for record in content.chunks_exact(RECORD) {
        into.labels.push(u32::from(record[0]));
        into.pixels.extend_from_slice(&record[1..]);
    }
    check_labels(path, &into.labels[first..])
}

fn check_labels(path: &Path, labels: &[u32]) -> Result<()> {
    match labels.iter().position(|&label| label > 9) {
        Some(i) => {
            Err(Error::data(format!("{}: expected labels 0 to 9, got {} for image {i}", path.display(), labels[i]))
                .hint("is the file damaged, or of another set?"))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;
    use crate::data::{Cifar10, Dataset, Mnist, Source};
    use crate::test_support::{HARMLESS, folder_with, mutations, peak_memory, tried};

    /// Two training and one test image in MNIST's format.
    fn idx_files() -> [(&'static str, Vec<u8>); 4] {
        let images = |n: u8| {
            let mut file = vec![0, 0, 8, 3, 0, 0, 0, n, 0, 0, 0, 28, 0, 0, 0, 28];
            file.extend((0..784 * usize::from(n)).map(|i| (i * 7 % 251) as u8));
            file
        };
        let labels = |values: &[u8]| {
            let mut file = vec![0, 0, 8, 1, 0, 0, 0, values.len() as u8];
            file.extend(values);
            file
        };
        [
            ("train-images-idx3-ubyte", images(2)),
            ("train-labels-idx1-ubyte", labels(&[5, 0])),
            ("t10k-images.idx3-ubyte", images(1)),
            ("t10k-labels.idx1-ubyte", labels(&[9])),
        ]
    }

    fn gzip(content: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    fn mnist(folder: &Path) -> Result<Mnist> {
        Mnist::builder().folder(folder).verify(false).quiet().load()
    }

    #[test]
    fn idx_files_load_plain_and_gzipped_and_from_a_sub_folder() {
        let plain = folder_with(&idx_files());
        let expected = mnist(plain.path()).unwrap();
        assert_eq!(expected.train().labels(), [5, 0]);
        assert_eq!(expected.test().labels(), [9]);
        assert_eq!(expected.train().bytes(1).unwrap()[..3], [217, 224, 231]);
        assert_eq!(*expected.source(), Source::Folder(plain.path().to_owned()));
        let zipped = idx_files().map(|(name, content)| (format!("mnist/{name}.gz"), gzip(&content)));
        let zipped = folder_with(&zipped.each_ref().map(|(name, content)| (name.as_str(), content.clone())));
        let from_gz = mnist(zipped.path()).unwrap();
        assert_eq!(from_gz.train().bytes(1).unwrap(), expected.train().bytes(1).unwrap());
        assert_eq!(*from_gz.source(), Source::Folder(zipped.path().join("mnist")));
    }

    #[test]
    fn every_kind_of_damage_names_the_file_and_what_was_expected() {
        // Which file to change, how, and what the error must say.
        type Damage = fn(&mut Vec<u8>);
        let cases: [(usize, Damage, &[&str]); 8] = [
            (0, |f| f.truncate(1000), &["train-images-idx3-ubyte is truncated", "expected 1584 bytes", "got 1000"]),
            (0, |f| f.truncate(9), &["train-images-idx3-ubyte is truncated", "expected 16 bytes"]),
            (0, |f| f.clear(), &["train-images-idx3-ubyte is not an IDX file", "[00, 00, 08, 03]"]),
            (2, |f| f.push(0), &["t10k-images.idx3-ubyte is too long", "expected 800 bytes", "got 801"]),
            (1, |f| *f = b"<html>404</html>".to_vec(), &["train-labels-idx1-ubyte is not an IDX file", "error page"]),
            (1, |f| *f = vec![0, 0, 8, 1, 0, 0, 0, 1, 3], &["has 1 labels", "has 2 images", "same split"]),
            (3, |f| f[8] = 10, &["t10k-labels.idx1-ubyte", "labels 0 to 9, got 10 for image 0"]),
            (0, |f| f[11] = 27, &["train-images-idx3-ubyte", "images of 28×28, got 27×28"]),
        ];
        for (which, damage, expected) in cases {
            let mut files = idx_files();
            damage(&mut files[which].1);
            // The size still fits where only the shape is wrong.
            if expected[1].starts_with("images of") {
                files[which].1.truncate(16 + 2 * 27 * 28);
            }
            let error = mnist(folder_with(&files).path()).unwrap_err().to_string();
            for part in expected {
                assert!(error.contains(part), "{error} lacks {part}");
            }
        }
        let mut cut = gzip(&idx_files()[0].1);
        cut.truncate(cut.len() / 2);
        let mut files = idx_files();
        files[0].1 = cut;
        let error = mnist(folder_with(&files).path()).unwrap_err().to_string();
        assert!(error.contains("train-images-idx3-ubyte is not a whole gzip file"), "{error}");
    }

    /// A gzip file of `content` and then so many zeros.
    fn bomb(content: &[u8], zeros: u64) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(content).unwrap();
        std::io::copy(&mut std::io::repeat(0).take(zeros), &mut encoder).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn a_gzip_file_is_unpacked_no_further_than_its_format_goes() {
        let path = Path::new("file.gz");
        let header = &idx_files()[0].1[..16];
        let cifar = [7; 3073];
        for (content, format, images, says) in [
            (header, Format::Idx(3), 60_000, "is too long: expected 1584 bytes, got more"),
            (&[][..], Format::Idx(3), 60_000, "not an IDX file"),
            (
                &[0, 0, 8, 3, 255, 255, 255, 255, 0, 0, 0, 28, 0, 0, 0, 28],
                Format::Idx(3),
                60_000,
                "at most 60000 images, got a header for 4294967295",
            ),
            (
                &[0, 0, 8, 3, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255],
                Format::Idx(3),
                60_000,
                "28×28, got 4294967295×4294967295",
            ),
            (&[0, 0, 8, 1, 0, 1, 0, 0], Format::Idx(1), 60_000, "at most 60000 images, got a header for 65536"),
            (&cifar, Format::Cifar, 3, "is too long: expected at most 9219 bytes, got more"),
        ] {
            let file = bomb(content, 64 << 20);
            let (result, memory) = peak_memory(|| unpack(path, file.as_slice(), file.len() as u64, format, images));
            let error = result.unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
            assert!(memory < 1 << 20, "{memory} bytes for {error}");
        }
    }

    #[test]
    fn a_bomb_in_a_folder_is_refused_with_and_without_verification() {
        let mut files = idx_files().map(|(name, content)| (name, gzip(&content))).to_vec();
        files[0].1 = bomb(&idx_files()[0].1, 64 << 20);
        let folder = folder_with(&files);
        for verify in [true, false] {
            let (result, memory) = peak_memory(|| Mnist::builder().folder(folder.path()).verify(verify).quiet().load());
            let error = result.unwrap_err().to_string();
            assert!(error.contains("train-images-idx3-ubyte is too long: expected 1584 bytes, got more"), "{error}");
            assert!(memory < 1 << 20, "{memory}");
        }
    }

    #[test]
    fn a_folder_without_the_set_or_with_half_of_it_is_an_error() {
        let empty = tempfile::tempdir().unwrap();
        let error = mnist(empty.path()).unwrap_err().to_string();
        assert!(error.contains("no MNIST in") && error.contains("sub-folder mnist"), "{error}");
        let mut files = idx_files().to_vec();
        files.remove(3);
        let error = mnist(folder_with(&files).path()).unwrap_err().to_string();
        assert!(error.contains("lacks t10k-labels-idx1-ubyte"), "{error}");
    }

    #[test]
    fn unofficial_files_are_refused_unless_asked_for() {
        let folder = folder_with(&idx_files());
        let error = Mnist::builder().folder(folder.path()).quiet().load().unwrap_err().to_string();
        assert!(error.contains("train-images-idx3-ubyte: expected the official file with sha256 ba891046"), "{error}");
        assert!(error.contains(".verify(false)"), "{error}");
    }

    #[test]
    fn a_file_of_another_set_with_the_same_names_is_told() {
        let content = idx_files()[0].1.clone();
        let known = hex(&Sha256::digest(&content));
        let known: &'static str = known.leak();
        let file = |identity| OfficialFile { names: &[], identity };
        let path = Path::new("data/train-images-idx3-ubyte");
        let error = verify(path, &content, &file(Identity::NotThatOf("MNIST", known))).unwrap_err().to_string();
        assert!(error.contains("train-images-idx3-ubyte is the file of MNIST"), "{error}");
        verify(path, &content[1..], &file(Identity::NotThatOf("MNIST", known))).unwrap();
        verify(path, &content, &file(Identity::Sha256(known))).unwrap();
    }

    #[test]
    fn cifar_binary_files_load_and_their_damage_is_explained() {
        let record = |label: u8| {
            let mut record = vec![label];
            record.extend((0..3072).map(|i| ((i + usize::from(label)) % 253) as u8));
            record
        };
        let names =
            ["data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"];
        let mut files: Vec<(&str, Vec<u8>)> =
            names.iter().enumerate().map(|(i, &name)| (name, record(i as u8))).collect();
        files.push(("test_batch.bin", [record(7), record(8)].concat()));
        let load = |files: &[(&str, Vec<u8>)]| {
            Cifar10::builder().folder(folder_with(files).path()).verify(false).quiet().load()
        };
        let cifar = load(&files).unwrap();
        assert_eq!(cifar.train().labels(), [0, 1, 2, 3, 4]);
        assert_eq!(cifar.test().labels(), [7, 8]);
        assert_eq!(cifar.train().bytes(3).unwrap(), &record(3)[1..]);
        assert_eq!(cifar.train().get(0).unwrap().input.dims(), [3, 32, 32]);
        files[2].1.truncate(3000);
        let error = load(&files).unwrap_err().to_string();
        assert!(
            error.contains("data_batch_3.bin is truncated: expected 3073 bytes (1 records of 3073), got 3000"),
            "{error}"
        );
    }

    /// Every damaged copy is read or refused: without a panic, and in so much memory.
    fn harmless(seed: u64, original: &[u8], limit: usize, read: impl Fn(&[u8]) -> Result<RawImages>) {
        let mut whole = 0;
        for (at, bytes) in mutations(seed, original, 100_000).enumerate() {
            let (result, memory) = peak_memory(|| read(&bytes).map(|raw| (raw.pixels.len(), raw.labels.len())));
            assert!(memory < limit, "mutation {at} of seed {seed} takes {memory} bytes");
            whole += usize::from(result.is_ok());
        }
        assert!((100..90_000).contains(&whole), "{whole} of 100000 were read");
        tried(HARMLESS, "IDX and CIFAR files, plain and gzipped, damaged", 100_000);
    }

    #[test]
    fn damaged_idx_files_are_read_or_refused() {
        let [images, labels, ..] = idx_files().map(|(_, content)| content);
        let path = Path::new("file");
        let pair = |images: &[u8], labels: &[u8]| {
            let content = |bytes: &[u8], rank| unpack(path, bytes, bytes.len() as u64, Format::Idx(rank), 100);
            idx_pair(path, &content(images, 3)?, path, &content(labels, 1)?)
        };
        harmless(1, &images, 1 << 19, |bytes| pair(bytes, &labels));
        harmless(2, &labels, 1 << 19, |bytes| pair(&images, bytes));
        harmless(3, &gzip(&images), 1 << 19, |bytes| pair(bytes, &labels));
    }

    #[test]
    fn damaged_cifar_files_are_read_or_refused() {
        let path = Path::new("file");
        let record: Vec<u8> = (0..2 * 3073).map(|i| if i % 3073 == 0 { 3 } else { (i % 251) as u8 }).collect();
        let read = |bytes: &[u8]| {
            let mut raw = RawImages { pixels: vec![], labels: vec![] };
            cifar_binary(path, &unpack(path, bytes, bytes.len() as u64, Format::Cifar, 100)?, &mut raw)?;
            Ok(raw)
        };
        harmless(4, &record, 1 << 20, read);
        harmless(5, &gzip(&record), 1 << 20, read);
    }
}
