//! Weights that `torch.save` wrote: a zip archive with a pickle and the numbers of every storage.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufReader, Read};

use candle_core::{Device, Tensor};
use safetensors::tensor::Dtype;
use zip::{CompressionMethod, ZipArchive};

use super::format::tensor_of;
use super::pickle::{Id, Pickle, Value};
use crate::error::{Context, Error, Result};

/// The longest pickle that is read: names and shapes, not numbers.
const LONGEST_PICKLE: u64 = 32 << 20;
/// How many dictionaries and modules may lie within another, and how many entries are looked at: a
/// value that is a part of several is met several times.
const DEEPEST: usize = 64;
const MOST_VISITS: usize = 1 << 18;
/// Names of tensors are shorter.
const LONGEST_NAME: usize = 4096;

/// What comes before everything else in a file of PyTorch before 1.6: a pickled magic number.
pub(super) const LEGACY: &[u8] = &[0x80, 0x02, 0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

/// A tensor as the pickle describes it.
struct Info {
    name: String,
    storage: String,
    dtype: Dtype,
    /// Numbers in the storage.
    numbers: usize,
    offset: usize,
    shape: Vec<usize>,
    strides: Vec<usize>,
}

/// The tensors of a file.
pub(super) fn read(file: File) -> Result<BTreeMap<String, Tensor>> {
    let mut archive = Archive::open(file)?;
    let pickle = Pickle::read(&archive.record("data.pkl", LONGEST_PICKLE)?)?;
    let mut by_storage: HashMap<String, Vec<Info>> = HashMap::new();
    for (name, id) in state_dict(&pickle)? {
        let info = tensor_info(&pickle, id, name.clone(), 0)
            .unwrap_or_else(|| Err(Error::checkpoint("it is described in an unknown way")))
            .with_context(|| format!("`{name}` cannot be read"))?;
        by_storage.entry(info.storage.clone()).or_default().push(info);
    }
    let mut tensors = BTreeMap::new();
    for (storage, infos) in by_storage {
        let bytes = archive.storage(&storage)?;
        for info in infos {
            let tensor = cut(&bytes, &info).with_context(|| format!("`{}` cannot be read", info.name))?;
            tensors.insert(info.name, tensor);
        }
    }
    Ok(tensors)
}

struct Archive {
    zip: ZipArchive<BufReader<File>>,
    /// The folder in which everything lies.
    folder: String,
}

impl Archive {
    fn open(file: File) -> Result<Self> {
        let zip = ZipArchive::new(BufReader::new(file))
            .map_err(|error| Error::checkpoint(format!("the zip archive is damaged: {error}")))?;
        let folder = zip.file_names().find_map(|name| Some(name.ok()?.strip_suffix("data.pkl")?.to_owned()));
        let folder = folder.ok_or_else(|| {
            Error::checkpoint("it is a zip archive without a `data.pkl`: not a file that `torch.save` wrote")
        })?;
        let mut archive = Self { zip, folder };
        if archive.has("byteorder") && archive.record("byteorder", 16)? == b"big" {
            return Err(Error::checkpoint("it was saved on a big-endian machine"));
        }
        Ok(archive)
    }

    fn has(&self, name: &str) -> bool {
        self.zip.index_for_name(&format!("{}{name}", self.folder)).is_some()
    }

    /// A file of the archive.
    fn record(&mut self, name: &str, longest: u64) -> Result<Vec<u8>> {
        let name = format!("{}{name}", self.folder);
        let missing = |error: zip::result::ZipError| Error::checkpoint(format!("its part `{name}`: {error}"));
        let mut record = self.zip.by_name(&name).map_err(missing)?;
        // PyTorch never compresses; a few bytes that claim to be gigabytes are no checkpoint.
        if record.compression() != CompressionMethod::Stored || record.size() > longest {
            return Err(Error::checkpoint(format!("its part `{name}` is compressed, or longer than any")));
        }
        let mut bytes = Vec::new();
        record.read_to_end(&mut bytes).with_context(|| format!("its part `{name}` is damaged"))?;
        Ok(bytes)
    }

    fn storage(&mut self, key: &str) -> Result<Vec<u8>> {
        self.record(&format!("data/{key}"), u64::MAX)
    }
}

/// What holds the model's weights in the most usual checkpoints.
const USUAL: [&str; 4] = ["state_dict", "model_state_dict", "model", "module"];

/// The tensors of the one `state_dict` or module in the file, by their names.
fn state_dict(pickle: &Pickle) -> Result<Vec<(String, Id)>> {
    let mut search = Search { pickle, visits: 0, found: Vec::new() };
    search.candidates(pickle.root(), String::new(), 0);
    let mut found = search.found;
    let usual = |path: &str| USUAL.contains(&path.rsplit('.').next().unwrap_or(path));
    if found.len() > 1 && found.iter().filter(|(path, _)| usual(path)).count() == 1 {
        found.retain(|(path, _)| usual(path));
    }
    match found.len() {
        1 => Ok(found.swap_remove(0).1),
        0 => Err(Error::checkpoint(format!("there are no named tensors in it, but {}", contents(pickle)))
            .hint("save the model's `state_dict()`")),
        _ => {
            let of = |(path, tensors): &(String, Vec<_>)| format!("`{path}` ({} tensors)", tensors.len());
            let all: Vec<String> = found.iter().map(of).collect();
            Err(Error::checkpoint(format!("it holds several sets of weights: {}", all.join(", ")))
                .hint("save the one that is wanted alone: `torch.save(checkpoint[name], path)`"))
        }
    }
}

/// Looks for what may be a model's weights.
struct Search<'a> {
    pickle: &'a Pickle,
    visits: usize,
    /// Where, and the tensors by name.
    found: Vec<(String, Vec<(String, Id)>)>,
}

impl<'a> Search<'a> {
    /// The entries of a dictionary or object, unless too much was looked at already.
    fn entries(&mut self, id: Id, path: &str, depth: usize) -> Option<Vec<(&'a str, Id)>> {
        if depth > DEEPEST || self.visits > MOST_VISITS || path.len() > LONGEST_NAME {
            return None;
        }
        let entries = self.pickle.entries(id)?;
        self.visits += 1 + entries.len();
        Some(entries)
    }

    /// Every dictionary of tensors and every module, outside of optimizers and their like.
    fn candidates(&mut self, id: Id, path: String, depth: usize) {
        let Some(entries) = self.entries(id, &path, depth) else { return };
        let mut tensors = Vec::new();
        if is_module(&entries) || is_script(self.pickle, id) {
            self.module(id, "", depth, &mut tensors);
            self.found.push((path, tensors));
            return;
        }
        let before = self.found.len();
        let training = ["optim", "sched", "lr_", "scaler", "amp", "rng", "random"];
        for &(key, value) in entries.iter().filter(|(key, _)| !training.iter().any(|start| key.starts_with(start))) {
            let path = if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
            self.candidates(value, path, depth + 1);
        }
        // Beside a `state_dict`, a tensor is a best accuracy, or the state of a generator.
        if self.found.len() == before {
            let named = entries.iter().filter(|(_, value)| is_tensor(self.pickle, *value));
            tensors.extend(named.map(|&(name, value)| (name.to_owned(), value)));
            if !tensors.is_empty() {
                self.found.push((path, tensors));
            }
        }
    }

    /// The `state_dict` of a module that was pickled whole.
    fn module(&mut self, id: Id, prefix: &str, depth: usize, tensors: &mut Vec<(String, Id)>) {
        let Some(entries) = self.entries(id, prefix, depth) else { return };
        let pickle = self.pickle;
        let (own, inner) = if is_module(&entries) {
            let of = |name: &str| entry(&entries, name).and_then(|id| pickle.entries(id)).unwrap_or_default();
            let passing = entry(&entries, "_non_persistent_buffers_set").map_or(Vec::new(), |id| names(pickle, id));
            let mut own = [of("_parameters"), of("_buffers")].concat();
            own.retain(|(name, _)| !passing.contains(name));
            (own, of("_modules"))
        } else if is_script(pickle, id) {
            (entries.clone(), entries)
        } else {
            return;
        };
        for (name, value) in own.into_iter().filter(|&(_, value)| is_tensor(pickle, value)) {
            tensors.push((format!("{prefix}{name}"), value));
        }
        for (name, value) in inner {
            self.module(value, &format!("{prefix}{name}."), depth + 1, tensors);
        }
    }
}

fn entry(entries: &[(&str, Id)], name: &str) -> Option<Id> {
    entries.iter().find(|(key, _)| *key == name).map(|&(_, value)| value)
}

fn is_module(entries: &[(&str, Id)]) -> bool {
    ["_parameters", "_buffers", "_modules"].iter().all(|name| entry(entries, name).is_some())
}

/// Whether a value is a module that TorchScript saved: its state is what it has.
fn is_script(pickle: &Pickle, id: Id) -> bool {
    matches!(pickle.value(id), Value::Object { callable, .. }
        if pickle.global(*callable).is_some_and(|class| class.starts_with("__torch__.")))
}

/// The texts of a set: a sequence, or `set([…])`.
fn names(pickle: &Pickle, id: Id) -> Vec<&str> {
    match pickle.value(id) {
        Value::Sequence(parts) => parts.iter().filter_map(|&part| pickle.text(part)).collect(),
        Value::Object { arguments, .. } => match pickle.sequence(*arguments) {
            Some(&[list]) => pickle.sequence(list).map_or(Vec::new(), |_| names(pickle, list)),
            _ => Vec::new(),
        },
        _ => Vec::new(),
    }
}

/// What there is instead of tensors.
fn contents(pickle: &Pickle) -> String {
    let kind = |id: Id| match pickle.value(id) {
        Value::Int(_) => "a number".to_owned(),
        Value::Text(_) => "a text".to_owned(),
        Value::Sequence(parts) => format!("a sequence of {}", parts.len()),
        Value::Dict(entries) => format!("a dictionary of {}", entries.len()),
        _ if is_tensor(pickle, id) => "a tensor without a name".to_owned(),
        Value::Object { callable, .. } => format!("an object `{}`", pickle.global(*callable).unwrap_or("?")),
        _ => "something else".to_owned(),
    };
    match pickle.entries(pickle.root()) {
        Some(entries) if !entries.is_empty() => {
            let all: Vec<String> =
                entries.iter().take(20).map(|(key, id)| format!("`{key}` ({})", kind(*id))).collect();
            all.join(", ")
        }
        _ => kind(pickle.root()),
    }
}

/// The function that makes a tensor, and what it is called with.
fn call(pickle: &Pickle, id: Id) -> Option<(&str, &[Id])> {
    let Value::Object { callable, arguments, .. } = pickle.value(id) else { return None };
    Some((pickle.global(*callable)?.strip_prefix("torch.")?, pickle.sequence(*arguments)?))
}

fn is_tensor(pickle: &Pickle, id: Id) -> bool {
    call(pickle, id).is_some_and(|(function, _)| {
        function.starts_with("_utils._rebuild") || function.starts_with("_tensor._rebuild")
    })
}

/// A tensor's place, dtype and shape; none if it is described in a way that is not known.
fn tensor_info(pickle: &Pickle, id: Id, name: String, depth: usize) -> Option<Result<Info>> {
    let (function, arguments) = call(pickle, id).filter(|_| depth < DEEPEST)?;
    match function {
        "_utils._rebuild_parameter" | "_utils._rebuild_parameter_with_state" => {
            return tensor_info(pickle, *arguments.first()?, name, depth + 1);
        }
        "_tensor._rebuild_from_type_v2" => {
            // (function, type, its arguments, state)
            let (&function, &inner) = (arguments.first()?, arguments.get(2)?);
            return rebuilt(pickle, pickle.global(function)?.strip_prefix("torch.")?, pickle.sequence(inner)?, name);
        }
        _ => {}
    }
    rebuilt(pickle, function, arguments, name)
}

fn rebuilt(pickle: &Pickle, function: &str, arguments: &[Id], name: String) -> Option<Result<Info>> {
    let (storage, offset, shape, strides) = match function {
        "_utils._rebuild_tensor" | "_utils._rebuild_tensor_v2" | "_utils._rebuild_tensor_v3" => {
            (*arguments.first()?, *arguments.get(1)?, *arguments.get(2)?, *arguments.get(3)?)
        }
        other => return Some(Err(Error::checkpoint(format!("it is not a plain tensor: `torch.{other}`")))),
    };
    let Value::Persistent(storage) = *pickle.value(storage) else { return None };
    // ("storage", its class, its key, its device, its numbers)
    let &[_, class, key, _, numbers] = pickle.sequence(storage)? else { return None };
    let class = pickle.global(class)?.rsplit('.').next()?;
    let dtype = match (class, arguments.get(6)) {
        ("UntypedStorage", Some(&dtype)) => pickle.global(dtype)?.rsplit('.').next()?,
        (class, _) => class,
    };
    let dtype = match dtype {
        "FloatStorage" | "float32" => Dtype::F32,
        "DoubleStorage" | "float64" => Dtype::F64,
        "HalfStorage" | "float16" => Dtype::F16,
        "BFloat16Storage" | "bfloat16" => Dtype::BF16,
        "LongStorage" | "int64" => Dtype::I64,
        "IntStorage" | "int32" => Dtype::I32,
        "ShortStorage" | "int16" => Dtype::I16,
        "CharStorage" | "int8" => Dtype::I8,
        "ByteStorage" | "uint8" => Dtype::U8,
        "BoolStorage" | "bool" => Dtype::BOOL,
        "uint16" => Dtype::U16,
        "uint32" => Dtype::U32,
        "uint64" => Dtype::U64,
        other => return Some(Err(super::format::foreign(other))),
    };
    let sizes = |id: Id| pickle.sequence(id)?.iter().map(|&size| pickle.size(size)).collect::<Option<Vec<_>>>();
    Some(Ok(Info {
        name,
        storage: pickle.text(key)?.to_owned(),
        dtype,
        numbers: pickle.size(numbers)?,
        offset: pickle.size(offset)?,
        shape: sizes(shape)?,
        strides: sizes(strides)?,
    }))
}

/// A tensor out of its storage, which others may share.
fn cut(bytes: &[u8], info: &Info) -> Result<Tensor> {
    let Info { dtype, numbers, offset, shape, strides, .. } = info;
    let width = dtype.bitsize() / 8;
    let outside = || Error::checkpoint(format!("shape {shape:?} and strides {strides:?} do not fit its storage"));
    // An untyped storage counts bytes.
    if bytes.len() / width < *numbers && bytes.len() != *numbers || shape.len() != strides.len() {
        return Err(outside());
    }
    let count = shape.iter().try_fold(1usize, |count, &size| count.checked_mul(size)).ok_or_else(outside)?;
    let reach = shape
        .iter()
        .zip(strides)
        .try_fold(*offset, |reach, (&size, &stride)| reach.checked_add(size.saturating_sub(1).checked_mul(stride)?));
    let all = bytes.len() / width;
    if count > all || count > 0 && reach.is_none_or(|reach| reach >= all) {
        return Err(outside());
    }
    let mut values = Vec::with_capacity(count * width);
    // Row by row of the last dimension; contiguous tensors in one piece.
    let mut expected = 1;
    let contiguous = shape.iter().zip(strides).rev().all(|(&size, &stride)| {
        let fits = size <= 1 || stride == expected;
        expected *= size.max(1);
        fits
    });
    if contiguous && count > 0 {
        values.extend_from_slice(&bytes[offset * width..][..count * width]);
    } else {
        for index in 0..count {
            let (mut rest, mut place) = (index, *offset);
            for (&size, &stride) in shape.iter().zip(strides).rev() {
                place += rest % size * stride;
                rest /= size;
            }
            values.extend_from_slice(&bytes[place * width..][..width]);
        }
    }
    tensor_of(*dtype, &values, shape)?.to_device(&Device::Cpu).map_err(Error::from)
}
