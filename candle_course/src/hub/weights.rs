//! Which files of a repository hold a model's weights, and what is in them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Deserialize;

use super::list;
use crate::checkpoint::read_weights;
use crate::data::hub::version::Version;
use crate::error::{Context, Error, Result};
use crate::stateful::State;

/// As the library `transformers` calls them, in the order of preference.
const USUAL: [&str; 4] =
    ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"];
/// Endings of other names, likewise. An index goes before the parts that it is of.
const ENDINGS: [&[&str]; 4] =
    [&[".safetensors.index.json"], &[".safetensors"], &[".bin.index.json"], &[".bin", ".pt", ".pth", ".ckpt"]];
/// Most bytes of an index: a model of a million tensors takes so many.
const INDEX_BYTES: u64 = 100 << 20;

/// Which part has which tensor.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// The file of these names that has a model's weights.
pub(super) fn usual(names: &[String]) -> Result<&str> {
    if let Some(usual) = USUAL.iter().find(|usual| names.iter().any(|name| name == *usual)) {
        return Ok(usual);
    }
    let top = || names.iter().map(String::as_str).filter(|name| !name.contains('/'));
    for endings in ENDINGS {
        let found: Vec<&str> = top().filter(|name| endings.iter().any(|ending| name.ends_with(ending))).collect();
        match found.as_slice() {
            [] => {}
            [one] => return Ok(one),
            several => {
                return Err(Error::data(format!("expected one file of weights, got {}", several.join(", ")))
                    .hint("choose with `weights_of`"));
            }
        }
    }
    Err(Error::data(format!("expected a file of weights at the top, got {}", list(names)))
        .hint("`weights_of` takes one of another name or folder"))
}

/// The tensors of a file, or of all parts that an index names; nothing if a file cannot be had.
pub(super) fn read(version: &Version<'_>, file: &str) -> Result<Option<State>> {
    let Some(path) = version.get(file)? else { return Ok(None) };
    if !file.ends_with(".index.json") {
        return of_file(version, &path).map(Some);
    }
    let index = index(&path).inspect_err(|_| version.forget(&path)).with_context(|| format!("cannot read {file}"))?;
    let folder = file.rsplit_once('/').map_or(String::new(), |(folder, _)| format!("{folder}/"));
    let mut parts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (tensor, part) in index.weight_map {
        parts.entry(format!("{folder}{part}")).or_default().push(tensor);
    }
    // All of them first: what is missing is known before anything is read.
    let mut paths = Vec::new();
    for part in parts.keys() {
        let Some(path) = version.get(part)? else { return Ok(None) };
        paths.push(path);
    }
    let mut state = State::new();
    for ((part, tensors), path) in parts.into_iter().zip(paths) {
        let mut there = of_file(version, &path)?;
        for name in tensors {
            let missing = || Error::checkpoint(format!("{file} says that `{name}` is in {part}, which lacks it"));
            state.insert(name.clone(), there.remove(&name).ok_or_else(missing)?);
        }
    }
    Ok(Some(state))
}

/// What cannot be read leaves the cache.
fn of_file(version: &Version<'_>, path: &Path) -> Result<State> {
    read_weights(path).inspect_err(|_| version.forget(path))
}

fn index(path: &Path) -> Result<Index> {
    let size = fs::metadata(path)?.len();
    if size > INDEX_BYTES {
        return Err(Error::data(format!("expected an index of at most {INDEX_BYTES} bytes, got {size}")));
    }
    let index: Index = serde_json::from_str(&fs::read_to_string(path)?)
        .map_err(|error| Error::data(format!("it is no index of weights: {error}")))?;
    match index.weight_map.is_empty() {
        true => Err(Error::data("it names no tensor")),
        false => Ok(index),
    }
}
