//! The modules stand on floors; each knows those below it, and on its own floor there is no circle.
//! `src/design.md` says why.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

const FLOORS: [&[&str]; 8] = [
    &[
        "atomic",
        "error",
        "device",
        "direction",
        "language",
        "precision",
        "random",
        "setters",
        "sizes",
        "stateful",
        "text",
    ],
    &["kernels"],
    &["plot", "notebook"],
    &["ops", "data"],
    &["nn", "losses", "metrics", "optimizers", "schedules", "tensorboard"],
    &["checkpoint", "hub", "onnx", "inference"],
    &["training", "distributed"],
    &["prelude"],
];

fn sources(folder: &Path, into: &mut Vec<PathBuf>) {
    for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("tests.rs") {
            into.push(path);
        }
    }
}

/// The modules that the `use crate::…;` of a source name: the first word of each path.
fn used(source: &str) -> BTreeSet<String> {
    let source = source.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let mut names = BTreeSet::new();
    for path in source.split("use crate::").skip(1).filter_map(|rest| rest.split(';').next()) {
        let several = path.strip_prefix('{').and_then(|list| list.strip_suffix('}'));
        let mut depth = 0;
        let paths = several.unwrap_or(path).split(|letter| {
            depth += i32::from(letter == '{') - i32::from(letter == '}');
            letter == ',' && depth == 0 && several.is_some()
        });
        names.extend(paths.filter_map(|path| path.trim().split([':', ' ']).next()).map(|name| match name {
            "Error" | "Result" => "error".to_owned(),
            name => name.to_owned(),
        }));
    }
    // Candle's own crates stand below everything.
    names.retain(|name| !name.is_empty() && !name.starts_with("candle_"));
    names
}

#[test]
fn no_module_looks_up_and_none_looks_in_a_circle() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let floor = |module: &str| {
        FLOORS.iter().position(|floor| floor.contains(&module)).unwrap_or_else(|| panic!("give `{module}` a floor"))
    };
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut beside: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for file in &files {
        let name = file.strip_prefix(&root).unwrap().iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs");
        if name == "lib" || file.to_str().unwrap().ends_with("_tests.rs") {
            continue;
        }
        for other in used(&fs::read_to_string(file).unwrap()).into_iter().filter(|other| other != name) {
            assert!(floor(&other) <= floor(name), "{} uses `{other}`, which stands above `{name}`", file.display());
            if floor(&other) == floor(name) {
                beside.entry(name.to_owned()).or_default().insert(other);
            }
        }
    }
    assert!(files.len() > 100 && beside["optimizers"].contains("nn"), "the sources were read: {beside:?}");
    // Whoever knows nobody that is left goes; a circle stays.
    while let Some(free) = beside.iter().find(|(_, known)| known.iter().all(|name| !beside.contains_key(name))) {
        let free = free.0.clone();
        beside.remove(&free);
    }
    assert!(beside.is_empty(), "a circle: {beside:?}");
}

#[test]
fn the_first_words_of_paths_are_found() {
    let found =
        used("use crate::{Error, data::{Batch, Dataset}, nn};\npub use crate::plot::Figure;\nuse candle_core::Tensor;");
    assert_eq!(found.into_iter().collect::<Vec<_>>(), ["data", "error", "nn", "plot"]);
}

/// The repository's README shows the crate's example, which is compiled with the crate's.
#[test]
fn both_readmes_show_the_same_example() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let example = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap();
        let (_, rest) = text.split_once("```rust,no_run\n").expect("an example");
        rest.split("```").next().unwrap().to_owned()
    };
    assert_eq!(example(here.join("README.md")), example(here.join("../README.md")));
}
