//! The parquet files of any repository of images: which split and configuration they are of.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::version::Version;
use crate::error::{Error, Result};

/// Names of splits may be as many as there are files.
const MOST_FILES: usize = 10_000;

/// What is wanted of a repository.
#[derive(Debug, Clone, Default)]
pub(in crate::data) struct Choice {
    pub configuration: Option<String>,
    /// All, if none is named.
    pub splits: Vec<String>,
}

/// Parquet files by the name of their split, in order.
type Splits = BTreeMap<String, Vec<String>>;

/// The files of the chosen splits, on the disk; nothing if one cannot be had. `enough` is asked after every
/// file whether its split wants more.
pub(in crate::data) fn files(
    version: &Version<'_>,
    repository: &str,
    choice: &Choice,
    enough: &mut dyn FnMut(&str, &[PathBuf]) -> Result<bool>,
) -> Result<Option<BTreeMap<String, Vec<PathBuf>>>> {
    let splits = match chosen(repository, version.names(), choice) {
        // What is in the cache need not be all.
        Err(_) if version.is_cached() => return Ok(None),
        splits => splits?,
    };
    // In the order in which they are asked for.
    let order = if choice.splits.is_empty() { splits.keys().cloned().collect() } else { choice.splits.clone() };
    let mut all = BTreeMap::new();
    for split in order {
        let mut files = Vec::new();
        for name in &splits[&split] {
            let Some(path) = version.get(name)? else { return Ok(None) };
            files.push(path);
            if enough(&split, &files)? {
                break;
            }
        }
        all.insert(split, files);
    }
    Ok(Some(all))
}

/// Configuration and split of a parquet file, told by its path, and of how many parts it is one:
/// `data/train-00000-of-00005.parquet`, `name/test-….parquet`, `name/validation/0000.parquet`.
fn place(path: &str) -> Option<(String, String, Option<usize>)> {
    let mut parts: Vec<&str> = path.strip_suffix(".parquet")?.split('/').collect();
    let name = parts.pop()?;
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let (split, of) = if number(name) {
        (parts.pop()?, None)
    } else {
        match name.split_once("-of-") {
            Some((start, rest)) => {
                let (split, part) = start.rsplit_once('-')?;
                let of = rest.split('-').next().unwrap_or_default();
                if !number(part) || !number(of) {
                    return None;
                }
                (split, Some(of.parse().ok()?))
            }
            None => (name, None),
        }
    };
    let configuration = match parts.last() {
        None | Some(&"data") => "default",
        Some(folder) => folder,
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'.' || byte == b'-';
    (!split.is_empty() && split.bytes().all(plain)).then(|| (configuration.to_owned(), split.to_owned(), of))
}

/// The files of the wanted splits of the wanted configuration.
fn chosen(repository: &str, names: &[String], choice: &Choice) -> Result<Splits> {
    if names.len() > MOST_FILES {
        return Err(Error::data(format!("{repository} lists {} files, more than {MOST_FILES}", names.len())));
    }
    let mut configurations: BTreeMap<String, BTreeMap<String, (Vec<String>, Option<usize>)>> = BTreeMap::new();
    for name in names {
        if let Some((configuration, split, of)) = place(name) {
            let split = configurations.entry(configuration).or_default().entry(split).or_default();
            split.0.push(name.clone());
            split.1 = of;
        }
    }
    let known: Vec<&str> = configurations.keys().map(String::as_str).collect();
    if known.is_empty() {
        return Err(Error::data(format!("{repository}: expected parquet files, got none"))
            .hint("the hub converts many sets to parquet: try `.revision(\"refs/convert/parquet\")`"));
    }
    let configuration = match &choice.configuration {
        Some(name) => name.clone(),
        None if known.len() == 1 => known[0].to_owned(),
        None if known.contains(&"default") => "default".to_owned(),
        None => {
            return Err(Error::argument("configuration", format!("one of {}", known.join(", ")), "none")
                .hint(format!("{repository} has several: choose with `.configuration`")));
        }
    };
    let Some(splits) = configurations.get(&configuration) else {
        return Err(Error::argument("configuration", format!("one of {}", known.join(", ")), configuration));
    };
    let own: Vec<&str> = splits.keys().map(String::as_str).collect();
    if let Some(unknown) = choice.splits.iter().find(|split| !splits.contains_key(*split)) {
        return Err(Error::argument("splits", format!("some of {}", own.join(", ")), unknown));
    }
    let wanted = splits.iter().filter(|(split, _)| choice.splits.is_empty() || choice.splits.contains(split));
    wanted
        .map(|(split, (files, of))| {
            let mut files = files.clone();
            files.sort();
            if of.is_some_and(|of| of != files.len()) {
                let got = format!("{repository} has {} of the {} files of {split}", files.len(), of.unwrap_or(0));
                return Err(Error::data(got));
            }
            Ok((split.clone(), files))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_tell_configuration_and_split() {
        let told = |path| place(path).map(|(configuration, split, of)| format!("{configuration} {split} {of:?}"));
        for (path, expected) in [
            ("data/train-00000-of-00005.parquet", "default train Some(5)"),
            ("data/train-00000-of-00001-f8a13b0eef84c8a2.parquet", "default train Some(1)"),
            ("train-00003-of-00012.parquet", "default train Some(12)"),
            ("plain_text/test-00000-of-00001.parquet", "plain_text test Some(1)"),
            ("default/validation/0000.parquet", "default validation None"),
            ("a/b/test_set/0001.parquet", "b test_set None"),
            ("data/train.parquet", "default train None"),
            ("data/gaussian_noise-00000-of-00001.parquet", "default gaussian_noise Some(1)"),
        ] {
            assert_eq!(told(path).as_deref(), Some(expected), "{path}");
        }
        for path in ["README.md", "0000.parquet", "data/train-x-of-y.parquet", "data/-00000-of-00001.parquet"] {
            assert_eq!(told(path), None, "{path}");
        }
    }

    #[test]
    fn what_is_not_there_is_named() {
        let names: Vec<String> = ["a/train-00000-of-00002.parquet", "b/test.parquet", "a/train-00001-of-00002.parquet"]
            .map(str::to_owned)
            .to_vec();
        let choose = |configuration: Option<&str>, splits: &[&str], names: &[String]| {
            let splits = splits.iter().map(|&split| split.to_owned()).collect();
            chosen("o/n", names, &Choice { configuration: configuration.map(str::to_owned), splits })
        };
        let error = |configuration, splits: &[&str], names: &[String]| {
            choose(configuration, splits, names).unwrap_err().to_string()
        };
        assert_eq!(choose(Some("a"), &[], &names).unwrap()["train"].len(), 2);
        assert!(error(None, &[], &names).contains("one of a, b, got none"));
        assert!(error(Some("c"), &[], &names).contains("one of a, b, got c"));
        assert!(error(Some("b"), &["train"], &names).contains("some of test, got train"));
        assert!(error(Some("a"), &[], &names[..1]).contains("has 1 of the 2 files of train"));
        assert!(error(None, &[], &["README.md".to_owned()]).contains("expected parquet files, got none"));
    }
}
