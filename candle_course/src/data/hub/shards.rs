//! Rows of parquet files with images, a row group at a time: what a set that is larger than the memory is
//! streamed by.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::basic::{ConvertedType, LogicalType, Type};
use parquet::column::reader::{ColumnReader, get_column_reader};
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use parquet::file::serialized_reader::SerializedPageReader;
use serde_json::Value;

use super::pages;
use crate::error::{Context, Error, ErrorKind, Result, contained};
use crate::sizes;

/// Rows that are asked of a column at once.
const ROWS: usize = 256;

/// What stands beside an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::data) enum Beside {
    Nothing,
    /// The number of a leaf of whole numbers.
    Label(usize),
    /// The number of a leaf of encoded images.
    Mask(usize),
}

/// How images are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::data) enum Stored {
    /// Encoded, in the column itself.
    Bytes,
    /// As files of the repository, which the column names.
    Path,
    Array(Array),
}

/// Images that are lists of lists of lists of numbers, as the library `datasets` writes its `Array3D`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::data) struct Array {
    pub shape: [usize; 3],
    /// The largest whole number of its type; 1 for floats.
    pub most: u32,
}

/// The columns that are read, by the numbers of their leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::data) struct Columns {
    pub image: usize,
    pub stored: Stored,
    pub beside: Beside,
}

/// What the user says of the columns.
#[derive(Debug, Clone, Default)]
pub(in crate::data) struct Wanted {
    pub image: Option<String>,
    pub label: Option<String>,
    pub mask: Option<String>,
}

/// A parquet file, its footer read.
pub(in crate::data) struct Shard {
    pub path: PathBuf,
    metadata: ParquetMetaData,
}

/// The encoded images of a row group, and what stands beside them.
#[derive(Debug, Default, PartialEq)]
pub(in crate::data) struct Rows {
    pub images: Blobs,
    pub labels: Vec<u32>,
    pub masks: Blobs,
}

/// Pieces of bytes, one after the other.
#[derive(Debug, Default, PartialEq)]
pub(in crate::data) struct Blobs {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Blobs {
    pub fn get(&self, index: usize) -> Option<&[u8]> {
        let start = if index == 0 { 0 } else { *self.ends.get(index - 1)? };
        self.bytes.get(start..*self.ends.get(index)?)
    }
}

impl Shard {
    pub fn open(path: &Path) -> Result<Self> {
        let what = || format!("{} is damaged or no parquet file", path.display());
        let metadata = contained(ErrorKind::Data, "its reader", || {
            Ok(ParquetMetaDataReader::new().parse_and_finish(&File::open(path)?)?)
        });
        Ok(Self { path: path.to_owned(), metadata: metadata.with_context(what)? })
    }

    /// How many rows there are.
    pub fn rows(&self) -> Result<usize> {
        let rows = usize::try_from(self.metadata.file_metadata().num_rows());
        rows.map_err(|_| Error::data(format!("{}: less than no rows", self.path.display())))
    }

    /// The rows of every group, and their bytes in the columns that are read, unpacked.
    pub fn groups(&self, columns: &Columns) -> Result<Vec<(usize, u64)>> {
        let leaves = |group: &parquet::file::metadata::RowGroupMetaData| {
            let beside = match columns.beside {
                Beside::Nothing => None,
                Beside::Label(leaf) | Beside::Mask(leaf) => Some(leaf),
            };
            let sizes = [Some(columns.image), beside].into_iter().flatten();
            sizes.map(|leaf| u64::try_from(group.columns().get(leaf)?.uncompressed_size()).ok()).sum::<Option<u64>>()
        };
        let groups = self.metadata.row_groups().iter().map(|group| {
            let rows = usize::try_from(group.num_rows()).ok().filter(|&rows| rows <= i32::MAX as usize);
            Some((rows?, leaves(group)?))
        });
        let broken = || Error::data(format!("{}: the sizes of a row group are none", self.path.display()));
        groups.collect::<Option<_>>().ok_or_else(broken)
    }

    /// The features that the library `datasets` notes.
    fn features(&self) -> Value {
        let pairs = self.metadata.file_metadata().key_value_metadata();
        let text =
            pairs.into_iter().flatten().find(|pair| pair.key == "huggingface").and_then(|pair| pair.value.as_ref());
        let value: Value = text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        value["info"]["features"].clone()
    }

    /// Whether the first row of a column of encoded images has none, as where a path stands beside it.
    fn begins_empty(&self, leaf: usize) -> Result<bool> {
        let groups = self.metadata.row_groups();
        let Some(group) = groups.iter().position(|group| group.num_rows() > 0) else { return Ok(false) };
        let column = groups[group].columns().get(leaf);
        let empty = column.and_then(|column| column.statistics()?.null_count_opt());
        if let Some(empty) = empty {
            // Where some have bytes, those that have none are named when they are read.
            return Ok(u64::try_from(groups[group].num_rows()).is_ok_and(|rows| rows == empty));
        }
        self.guarded(group, || {
            let ColumnReader::ByteArrayColumnReader(mut reader) = self.reader(group, leaf)? else { return Ok(false) };
            let (mut values, mut levels) = (Vec::new(), Vec::new());
            Ok(reader.read_records(1, Some(&mut levels), None, &mut values)?.1 == 0)
        })
    }

    /// The columns to read, and the names of the classes.
    pub fn columns(&self, wanted: &Wanted) -> Result<(Columns, Vec<String>)> {
        let schema = self.metadata.file_metadata().schema_descr();
        let paths: Vec<String> = schema.columns().iter().map(|column| column.path().string()).collect();
        let features = self.features();
        let of_type = |kind: &str| -> Vec<&String> {
            // In the order of the columns: that of the features is alphabetical.
            let mut names: Vec<&String> = features
                .as_object()
                .into_iter()
                .flatten()
                .filter(|(_, feature)| feature["_type"] == kind)
                .map(|(name, _)| name)
                .collect();
            names.sort_by_key(|name| paths.iter().position(|path| path.split('.').next() == Some(name)));
            names
        };
        let bytes_of = |name: &str| paths.iter().position(|path| *path == format!("{name}.bytes"));
        let number_of = |name: &str| paths.iter().position(|path| path == name);
        let missing = |what: &str, name: &str| {
            let mut columns: Vec<&str> = paths.iter().filter_map(|path| path.split('.').next()).collect();
            columns.dedup();
            Error::data(format!("expected a column {name:?} {what}, got the columns {columns:?}"))
        };
        let (images, classes) = (of_type("Image"), of_type("ClassLabel"));
        let blob = |name: &str| {
            let leaf = number_of(name)?;
            let of = schema.column(leaf);
            // Older writers name the one type, newer the other.
            let is_text =
                of.converted_type() == ConvertedType::UTF8 || of.logical_type_ref() == Some(&LogicalType::String);
            (of.physical_type() == Type::BYTE_ARRAY).then_some((leaf, is_text))
        };
        let image_of = |name: &str| bytes_of(name).is_some() || blob(name).is_some();
        let named = |names: &[&str]| names.iter().find(|name| image_of(name)).map(|&name| name.to_owned());
        let image = wanted
            .image
            .clone()
            .or_else(|| named(&["image", "img"]))
            .or_else(|| images.first().map(|name| (*name).clone()));
        let arrays = of_type("Array3D");
        let image = image.or_else(|| arrays.first().map(|name| (*name).clone())).unwrap_or_else(|| "image".to_owned());
        let array = array(&features[&image])?;
        let nested = || paths.iter().position(|path| path.starts_with(&format!("{image}.")));
        let leaf = match array {
            Some(array) => nested().map(|leaf| (leaf, Stored::Array(array))),
            None => match (bytes_of(&image), paths.iter().position(|path| *path == format!("{image}.path"))) {
                (Some(bytes), Some(path)) if self.begins_empty(bytes)? => Some((path, Stored::Path)),
                (Some(bytes), _) => Some((bytes, Stored::Bytes)),
                (None, Some(path)) => Some((path, Stored::Path)),
                (None, None) => {
                    blob(&image).map(|(leaf, is_text)| (leaf, if is_text { Stored::Path } else { Stored::Bytes }))
                }
            },
        };
        let (leaf, stored) = leaf.ok_or_else(|| missing("of images, their bytes or paths", &image))?;
        let other_image = || images.iter().find(|name| ***name != image).map(|name| (*name).clone());
        let label = || {
            let usual = ["label", "labels"].into_iter().find(|name| number_of(name).is_some()).map(str::to_owned);
            classes.first().map(|name| (*name).clone()).or(usual)
        };
        let beside = match (&wanted.label, &wanted.mask) {
            (Some(label), _) => Some((label.clone(), false)),
            (None, Some(mask)) => Some((mask.clone(), true)),
            (None, None) => label().map(|label| (label, false)).or_else(|| other_image().map(|mask| (mask, true))),
        };
        let (beside, classes) = match beside {
            None => (Beside::Nothing, vec![]),
            Some((mask, true)) => {
                let leaf = bytes_of(&mask).ok_or_else(|| missing("of masks with their bytes", &mask))?;
                (Beside::Mask(leaf), vec![])
            }
            Some((label, false)) => {
                let leaf = number_of(&label).ok_or_else(|| missing("of whole numbers", &label))?;
                let names = features[&label]["names"].as_array().cloned().unwrap_or_default();
                let names = names.iter().map(|name| name.as_str().unwrap_or_default().to_owned()).collect();
                (Beside::Label(leaf), names)
            }
        };
        Ok((Columns { image: leaf, stored, beside }, classes))
    }

    /// All rows of a group.
    pub fn read(&self, group: usize, columns: &Columns) -> Result<Rows> {
        let rows = self.groups(columns)?.get(group).map_or(0, |group| group.0);
        self.guarded(group, || {
            let images = match columns.stored {
                Stored::Array(array) => self.arrays(group, columns.image, rows, array)?,
                Stored::Bytes => self.blobs(group, columns.image, rows, "image")?,
                Stored::Path => self.blobs(group, columns.image, rows, "path")?,
            };
            let (labels, masks) = match columns.beside {
                Beside::Nothing => Default::default(),
                Beside::Label(leaf) => (self.numbers(group, leaf, rows)?, Blobs::default()),
                Beside::Mask(leaf) => (vec![], self.blobs(group, leaf, rows, "mask")?),
            };
            Ok(Rows { images, labels, masks })
        })
    }

    /// The paths of a group's images, where that is how they are stored.
    pub fn paths(&self, group: usize, columns: &Columns, rows: usize) -> Result<Vec<String>> {
        let paths = self.guarded(group, || self.blobs(group, columns.image, rows, "path"))?;
        let text = |row: usize| String::from_utf8(paths.get(row).unwrap_or_default().to_vec()).ok();
        (0..rows).map(text).collect::<Option<_>>().ok_or_else(|| Error::data("a path is no text"))
    }

    /// The labels of a group alone.
    pub fn labels(&self, group: usize, leaf: usize, rows: usize) -> Result<Vec<u32>> {
        self.guarded(group, || self.numbers(group, leaf, rows))
    }

    /// The parquet crate panics at some damage: that is an error like any other.
    fn guarded<T>(&self, group: usize, read: impl FnOnce() -> Result<T>) -> Result<T> {
        let what = || format!("{} is damaged in row group {group}", self.path.display());
        contained(ErrorKind::Data, "its reader", read).with_context(what)
    }

    fn reader(&self, group: usize, leaf: usize) -> Result<ColumnReader> {
        // A file of its own: clones of one share the place where they read.
        let file = Arc::new(File::open(&self.path)?);
        let group = self.metadata.row_group(group);
        let column = group.columns().get(leaf).ok_or_else(|| Error::data("a column is missing"))?;
        pages::check_column(&*file, column)?;
        let rows = usize::try_from(group.num_rows()).unwrap_or(0);
        let pages = SerializedPageReader::new(file, column, rows, None)?;
        Ok(get_column_reader(column.column_descr_ptr(), Box::new(pages)))
    }

    fn blobs(&self, group: usize, leaf: usize, rows: usize, what: &str) -> Result<Blobs> {
        let ColumnReader::ByteArrayColumnReader(mut reader) = self.reader(group, leaf)? else {
            return Err(Error::data(format!("the column of {what}s has no bytes")));
        };
        let mut blobs = Blobs::default();
        let (mut values, mut levels) = (Vec::new(), Vec::new());
        while blobs.ends.len() < rows {
            values.clear();
            levels.clear();
            let wanted = ROWS.min(rows - blobs.ends.len());
            let (records, count, _) = reader.read_records(wanted, Some(&mut levels), None, &mut values)?;
            if count < records {
                let row = blobs.ends.len();
                return Err(Error::data(format!(
                    "in rows {row} to {}, {} {what}s are missing",
                    row + records - 1,
                    records - count
                ))
                .hint("some rows of the column are empty"));
            }
            if records == 0 {
                return Err(Error::data(format!("it has {} {what}s instead of {rows}", blobs.ends.len())));
            }
            let more: usize = values.iter().map(|value| value.len()).sum();
            sizes::check::<u8>("the row group", blobs.bytes.len() + more)?;
            for value in &values {
                blobs.bytes.extend_from_slice(value.data());
                blobs.ends.push(blobs.bytes.len());
            }
        }
        // A vector that grows has room for as much again.
        blobs.bytes.shrink_to_fit();
        Ok(blobs)
    }

    /// The values of arrays as f32, in this machine's order of bytes.
    fn arrays(&self, group: usize, leaf: usize, rows: usize, array: Array) -> Result<Blobs> {
        fn all<T: parquet::data_type::DataType>(
            mut reader: parquet::column::reader::ColumnReaderImpl<T>,
            rows: usize,
            each: usize,
            value: impl Fn(&T::T) -> f32,
        ) -> Result<Blobs> {
            sizes::count_of::<f32>("the row group", &[rows, each])?;
            let mut blobs = Blobs::default();
            let (mut values, mut nulls, mut lists) = (Vec::new(), Vec::new(), Vec::new());
            while blobs.ends.len() < rows {
                values.clear();
                nulls.clear();
                lists.clear();
                // Levels take as much as values: a few rows at once.
                let wanted = (rows - blobs.ends.len()).min(8);
                let (records, count, _) =
                    reader.read_records(wanted, Some(&mut nulls), Some(&mut lists), &mut values)?;
                if records == 0 || count != records * each {
                    let what = format!("{count} numbers for {records} images of {each}");
                    return Err(Error::data(format!("from row {} on, it has {what}", blobs.ends.len())));
                }
                blobs.bytes.extend(values.iter().flat_map(|number| value(number).to_ne_bytes()));
                (0..records).for_each(|_| blobs.ends.push((blobs.ends.len() + 1) * each * 4));
            }
            blobs.bytes.shrink_to_fit();
            Ok(blobs)
        }
        let each = sizes::product("an image", &array.shape)?;
        match self.reader(group, leaf)? {
            ColumnReader::Int32ColumnReader(reader) => all(reader, rows, each, |&number| number as f32),
            ColumnReader::FloatColumnReader(reader) => all(reader, rows, each, |&number| number),
            _ => Err(Error::data("expected arrays of at most 16 bits, or of f32")),
        }
    }

    fn numbers(&self, group: usize, leaf: usize, rows: usize) -> Result<Vec<u32>> {
        fn all<T: parquet::data_type::DataType>(
            mut reader: parquet::column::reader::ColumnReaderImpl<T>,
            rows: usize,
        ) -> Result<Vec<T::T>> {
            let (mut values, mut levels) = (Vec::new(), Vec::new());
            while values.len() < rows {
                let (records, count, _) =
                    reader.read_records(rows - values.len(), Some(&mut levels), None, &mut values)?;
                if records == 0 || count < records {
                    return Err(Error::data(format!("it has labels for {} of {rows} rows", values.len())));
                }
            }
            Ok(values)
        }
        let label = |value: i64| {
            u32::try_from(value).map_err(|_| Error::data(format!("expected labels from 0 on, got {value}")))
        };
        match self.reader(group, leaf)? {
            ColumnReader::Int64ColumnReader(reader) => all(reader, rows)?.into_iter().map(label).collect(),
            ColumnReader::Int32ColumnReader(reader) => {
                all(reader, rows)?.into_iter().map(|value| label(i64::from(value))).collect()
            }
            _ => Err(Error::data("expected labels that are whole numbers").hint("name another column with `.label`")),
        }
    }
}

/// The shape and the type of an `Array3D`, if the feature is one.
fn array(feature: &Value) -> Result<Option<Array>> {
    if feature["_type"] != "Array3D" {
        return Ok(None);
    }
    let sides: Option<Vec<usize>> = feature["shape"]
        .as_array()
        .and_then(|shape| shape.iter().map(|side| Some(side.as_u64()? as usize).filter(|&side| side > 0)).collect());
    let most = match feature["dtype"].as_str() {
        Some("uint8") => 255,
        Some("uint16") => 65_535,
        Some("int16") => 32_767,
        Some("float32") => 1,
        _ => 0,
    };
    match sides.and_then(|sides| <[usize; 3]>::try_from(sides).ok()) {
        Some(shape) if most > 0 => Ok(Some(Array { shape, most })),
        _ => Err(Error::data(format!(
            "expected arrays of a fixed shape, of uint8, uint16, int16 or float32, got {feature}"
        ))),
    }
}
