//! The hub's local cache: its layout, which the hub's other libraries share, and what names may be in it.
//!
//! ```text
//! datasets--owner--name/refs/main                    the commit of the branch's last version
//! datasets--owner--name/snapshots/<commit>/<file>    a link to
//! datasets--owner--name/blobs/<etag>                 the content; the ETag of a large file is its sha256
//! datasets--owner--name/names/<commit>               the files that the version has on the hub: ours alone
//! ```
//!
//! Beside a content whose ETag is no checksum, `<etag>.sha256` has the one that it had when it came.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::address::Address;
use crate::data::files::hex;
use crate::error::{Context, Error, Result};

/// What is cached of one repository.
pub(super) struct Cache {
    root: PathBuf,
    folder: PathBuf,
    /// Whose versions are asked for: a branch, a tag or a commit.
    revision: String,
    is_commit: bool,
}

impl Cache {
    /// In `root`, or where the environment says.
    pub fn new(root: Option<PathBuf>, of: &Address) -> Option<Self> {
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let root = root
            .or_else(|| variable("HF_HUB_CACHE"))
            .or_else(|| Some(variable("HF_HOME")?.join("hub")))
            .or_else(|| {
                let home = std::env::home_dir().filter(|home| !home.as_os_str().is_empty())?;
                Some(home.join(".cache/huggingface/hub"))
            })?;
        let folder = root.join(of.folder());
        Some(Self { root, folder, revision: of.revision.clone(), is_commit: of.is_commit() })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// What `huggingface-cli login` left.
    pub fn token(&self) -> Option<String> {
        let token = fs::read_to_string(self.root.parent()?.join("token")).ok()?;
        Some(token.trim().to_owned()).filter(|token| !token.is_empty())
    }

    pub fn blobs(&self) -> PathBuf {
        self.folder.join("blobs")
    }

    pub fn blob(&self, name: &str) -> PathBuf {
        self.folder.join("blobs").join(name)
    }

    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    /// The revision's last version that was downloaded.
    pub fn last_commit(&self) -> Option<String> {
        if self.is_commit {
            return Some(self.revision.clone()).filter(|commit| self.snapshot(commit).is_dir());
        }
        let commit = fs::read_to_string(self.folder.join("refs").join(&self.revision)).ok()?;
        Some(commit.trim().to_owned()).filter(|commit| plain(commit))
    }

    /// Notes which files the hub has of a version: without it, what is on the disk could be all or a part.
    pub fn note_names(&self, commit: &str, names: &[String]) -> std::io::Result<()> {
        write(&self.folder.join("names").join(commit), &names.join("\n"))
    }

    /// The files of a version, as the hub has them; nothing if they were not noted.
    pub fn noted_names(&self, commit: &str) -> Option<Vec<String>> {
        let noted = fs::read_to_string(self.folder.join("names").join(commit)).ok()?;
        Some(noted.lines().filter(|name| stays_below(name)).map(str::to_owned).collect())
    }

    /// The files of a version that are there.
    pub fn names_there(&self, commit: &str) -> Vec<String> {
        files_below(&self.snapshot(commit))
    }

    /// From now on `commit` is the revision's last version.
    pub fn finish(&self, commit: &str) -> std::io::Result<()> {
        match self.is_commit {
            true => Ok(()),
            false => write(&self.folder.join("refs").join(&self.revision), commit),
        }
    }

    pub fn record_checksum(&self, name: &str, checksum: &str) -> std::io::Result<()> {
        write(&self.blob(&format!("{name}.sha256")), checksum)
    }

    /// Makes `pointer`, a file of a snapshot, lead to `blob`.
    pub fn point(&self, pointer: &Path, blob: &Path) -> std::io::Result<()> {
        if let Some(folder) = pointer.parent() {
            fs::create_dir_all(folder)?;
        }
        match fs::remove_file(pointer) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        #[cfg(unix)]
        {
            let depth = pointer.strip_prefix(&self.folder).map_or(0, |inside| inside.components().count() - 1);
            let name = blob.file_name().unwrap_or_default();
            std::os::unix::fs::symlink(PathBuf::from("../".repeat(depth)).join("blobs").join(name), pointer)
        }
        // Links are a privilege on Windows.
        #[cfg(not(unix))]
        fs::rename(blob, pointer)
    }

    /// The content that `pointer` leads to, where it lies in this cache.
    fn content(&self, pointer: &Path) -> Option<(PathBuf, String)> {
        let blob = fs::canonicalize(pointer).ok()?;
        let inside = blob.parent() == Some(&*fs::canonicalize(self.blobs()).ok()?);
        let name = blob.file_name()?.to_str()?.to_owned();
        inside.then_some((blob, name))
    }

    /// An error if the content of `pointer` is not what it was when it came; it is removed then, or every
    /// later load would fail too.
    pub fn check(&self, pointer: &Path) -> Result<()> {
        let Some((blob, name)) = self.content(pointer) else { return Ok(()) };
        let recorded = || fs::read_to_string(self.blob(&format!("{name}.sha256"))).ok();
        let Some(expected) = checksum_of(&name).map(str::to_owned).or_else(recorded) else { return Ok(()) };
        let got = sha256(&blob).with_context(|| format!("cannot read {}", blob.display()))?;
        if got == expected.trim() {
            return Ok(());
        }
        self.forget(pointer);
        let _ = fs::remove_file(blob);
        Err(damaged(pointer, expected.trim(), &got))
    }

    /// Takes a file that cannot be read out of its snapshot, so that the next load asks the hub for it.
    /// Its content stays if the hub's checksum vouches for it: it would only come again.
    pub fn forget(&self, pointer: &Path) {
        let content = self.content(pointer).filter(|(_, name)| checksum_of(name).is_none());
        let _ = fs::remove_file(pointer);
        if let Some((blob, name)) = content {
            let _ = fs::remove_file(blob);
            let _ = fs::remove_file(self.blob(&format!("{name}.sha256")));
        }
    }
}

/// Whole or not at all.
fn write(path: &Path, text: &str) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    // Behind the whole name: tags have dots.
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}.tmp", std::process::id()));
    let temporary = PathBuf::from(temporary);
    fs::write(&temporary, text).and_then(|()| fs::rename(&temporary, path)).inspect_err(|_| {
        // The first error is the one to report.
        let _ = fs::remove_file(&temporary);
    })
}

pub(super) fn damaged(pointer: &Path, expected: &str, got: &str) -> Error {
    Error::data(format!("{} was damaged: expected sha256 {expected}, got {got}", pointer.display()))
        .hint("it was removed; load again")
}

/// Whether `name`, which came from elsewhere, is one plain name of a file or folder on every system.
pub(super) fn plain(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 200
        && !name.starts_with('.')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// Whether `path`, which came from elsewhere, stays below the folder that it is joined to, on every system.
pub(super) fn stays_below(path: &str) -> bool {
    let bad = |letter: char| letter.is_control() || ['\\', ':'].contains(&letter);
    let ordinary = |part: &str| !["", ".", ".."].contains(&part) && part.len() <= 255;
    path.len() <= 1024 && !path.contains(bad) && path.split('/').all(ordinary)
}

/// The name under which a content with this ETag is kept, unless it is none.
pub(super) fn blob_name(etag: &str) -> Option<String> {
    let etag = etag.trim();
    let name = etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"');
    let taken = [".part", ".lock", ".tmp", ".sha256", ".incomplete"].iter().any(|ending| name.ends_with(ending));
    (plain(name) && !taken).then(|| name.to_owned())
}

/// The sha256 of a content of this name, if the name is one: the hub's ETags of large files are.
pub(super) fn checksum_of(name: &str) -> Option<&str> {
    let digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    Some(name).filter(|name| name.len() == 64 && name.bytes().all(digit))
}

/// The names of the files below a folder.
fn files_below(snapshot: &Path) -> Vec<String> {
    fn walk(folder: &Path, prefix: &str, into: &mut Vec<String>) {
        // Deeper than any set: a link that leads back up.
        if prefix.matches('/').count() > 8 {
            return;
        }
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            // `metadata` follows the links that the cache is made of, and fails on a dangling one.
            match fs::metadata(entry.path()) {
                Ok(metadata) if metadata.is_dir() => walk(&entry.path(), &format!("{name}/"), into),
                Ok(metadata) if metadata.is_file() => into.push(name),
                _ => {}
            }
        }
    }
    let mut names = Vec::new();
    walk(snapshot, "", &mut names);
    names
}

pub(super) fn sha256(path: &Path) -> std::io::Result<String> {
    let mut hasher = Sha256::new();
    let mut file = File::open(path)?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(&hasher.finalize())),
            read => hasher.update(&buffer[..read]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::address::Kind;
    use super::*;

    #[test]
    fn names_that_lead_elsewhere_are_none() {
        for good in ["a", "0123abcdef", "W-1_b.c", "1630000000.0-12-34"] {
            assert!(plain(good), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "/a", "a\\b", "c:", "a b", "a\n", "é", ".hidden", &"a".repeat(201)] {
            assert!(!plain(bad), "{bad:?}");
        }
        for good in ["a", "a/b.parquet", "plain text/träin-0.parquet", "..a/b..", ".gitattributes"] {
            assert!(stays_below(good), "{good}");
        }
        for bad in
            ["", "/a", "a/", "a//b", "../a", "a/../b", "a/..", "./a", "a/./b", "..\\a", "c:a", "a\u{1b}[2J", "a\0"]
        {
            assert!(!stays_below(bad), "{bad:?}");
        }
        assert_eq!(blob_name(" W/\"5f3-a\"").as_deref(), Some("5f3-a"));
        for bad in ["", "\"\"", "../../x", "W/../x", "a.part", "a.lock", "/etc/passwd", "\"..\""] {
            assert_eq!(blob_name(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn nothing_outside_the_cache_is_removed() {
        let home = tempfile::tempdir().unwrap();
        let cache = Cache::new(Some(home.path().join("hub")), &Address::new(Kind::Dataset, "a/b")).unwrap();
        let other = home.path().join("a".repeat(64));
        fs::write(&other, "of somebody else").unwrap();
        let pointer = cache.snapshot("c").join("x.parquet");
        fs::create_dir_all(pointer.parent().unwrap()).unwrap();
        fs::create_dir_all(cache.blobs()).unwrap();
        #[cfg(unix)]
        std::os::unix::fs::symlink(&other, &pointer).unwrap();
        cache.check(&pointer).unwrap();
        cache.forget(&pointer);
        assert!(other.exists() && !pointer.exists());
        // A commit that leads elsewhere is none.
        fs::create_dir_all(cache.folder.join("refs")).unwrap();
        fs::write(cache.folder.join("refs/main"), "../../..").unwrap();
        assert_eq!(cache.last_commit(), None);
        cache.finish("c").unwrap();
        assert_eq!(cache.last_commit().as_deref(), Some("c"));
    }
}
