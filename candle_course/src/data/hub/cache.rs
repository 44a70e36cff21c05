//! The files that the hub's local cache has.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use hf_hub::{Cache, Repo};
use sha2::{Digest, Sha256};

use crate::data::files::hex;
use crate::error::{Context, Error, Result};

/// Parquet files of the training and of the test split, in order.
pub(super) fn splits(files: impl Iterator<Item = String>) -> [Vec<String>; 2] {
    let mut splits: [Vec<String>; 2] = [vec![], vec![]];
    for file in files.filter(|file| file.ends_with(".parquet")) {
        let name = file.rsplit('/').next().unwrap_or_default();
        for (split, prefix) in ["train", "test"].iter().enumerate() {
            if name.starts_with(prefix) {
                splits[split].push(file.clone());
            }
        }
    }
    splits.iter_mut().for_each(|files| files.sort());
    splits
}

/// The folder of the last downloaded version.
pub(super) fn cached_snapshot(cache: &Cache, repository: &Repo) -> Option<PathBuf> {
    let folder = cache.path().join(repository.folder_name());
    let commit = fs::read_to_string(folder.join("refs").join(repository.revision())).ok()?;
    Some(folder.join("snapshots").join(commit.trim()))
}

/// The parquet files below `snapshot`, if every part of both splits is there.
pub(super) fn complete(snapshot: &Path) -> Option<[Vec<PathBuf>; 2]> {
    fn walk(folder: &Path, prefix: &str, into: &mut Vec<String>) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            // `metadata` follows the links that the cache is made of, and fails on a dangling one.
            match fs::metadata(entry.path()) {
                Ok(metadata) if metadata.is_dir() => walk(&entry.path(), &format!("{name}/"), into),
                Ok(_) => into.push(name),
                Err(_) => {}
            }
        }
    }
    let mut names = Vec::new();
    walk(snapshot, "", &mut names);
    let splits = splits(names.into_iter());
    // Names end in `-00000-of-00002.parquet`: a download that broke off between two parts is not
    // a complete set.
    let whole = |files: &Vec<String>| {
        let parts = files.first().and_then(|file| file.strip_suffix(".parquet")?.rsplit_once("-of-")?.1.parse().ok());
        !files.is_empty() && parts.is_none_or(|parts: usize| parts == files.len())
    };
    splits.iter().all(whole).then(|| splits.map(|files| files.iter().map(|file| snapshot.join(file)).collect()))
}

/// The hub names large files by their sha256, and the cache keeps that name.
pub(super) fn check_download(path: &Path) -> Result<()> {
    let blob = fs::canonicalize(path).with_context(|| format!("cannot read {}", path.display()))?;
    let name = blob.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    if name.len() != 64 || !name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(());
    }
    let got = sha256(&blob).with_context(|| format!("cannot read {}", blob.display()))?;
    if got == name {
        return Ok(());
    }
    // Leaving it in the cache would make every later load fail, too.
    let _ = fs::remove_file(path);
    let _ = fs::remove_file(&blob);
    Err(Error::data(format!("{} was damaged: expected sha256 {name}, got {got}", path.display()))
        .hint("it was removed; load again"))
}

pub(super) fn sha256(path: &Path) -> std::io::Result<String> {
    let mut hasher = Sha256::new();
    let mut file = File::open(path)?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        match std::io::Read::read(&mut file, &mut buffer)? {
            0 => return Ok(hex(&hasher.finalize())),
            read => hasher.update(&buffer[..read]),
        }
    }
}
