//! Files that are there whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use crate::error::{Context, Error, Result};

const SUFFIX: &str = ".tmp";

/// A foreign temporary file that nobody wrote to for so long is nobody's.
const ABANDONED: Duration = Duration::from_secs(3600);

/// Writes `path` so that a crash at any moment leaves the old file or the new one: into a
/// temporary file beside it, flushed to the disk, then renamed, and the folder flushed too.
/// On an error the temporary file is removed and `path` is as it was.
pub(super) fn write(path: &Path, fill: impl FnOnce(&File) -> Result<()>) -> Result<()> {
    let what = || format!("cannot write `{}`; what was there before is untouched", path.display());
    let (folder, temporary) = temporary(path)?;
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&temporary).with_context(what)?;
    let written = fill(&file).and_then(|()| Ok(file.sync_all()?)).and_then(|()| Ok(fs::rename(&temporary, path)?));
    if written.is_err() {
        // The first error is the one to report.
        let _ = fs::remove_file(&temporary);
    }
    written.with_context(what)?;
    flush_folder(&folder).with_context(what)
}

/// The folder of `path`, and a name in it that no other process and no other call uses.
fn temporary(path: &Path) -> Result<(PathBuf, PathBuf)> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .ok_or_else(|| Error::argument("path", "a file name", path.display()))?;
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    };
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let temporary = folder.join(format!(".{name}.{:08x}-{}-{count}{SUFFIX}", host(), std::process::id()));
    Ok((folder, temporary))
}

/// Makes the rename itself durable. Not every platform can open a folder.
fn flush_folder(folder: &Path) -> Result<()> {
    if cfg!(unix) {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

/// Removes what killed processes left half-written in `folder`.
pub(super) fn remove_leftovers(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(owner) = name.to_str().and_then(owner) else { continue };
        let abandoned = || {
            let modified = entry.metadata().and_then(|metadata| metadata.modified()).ok()?;
            Some(SystemTime::now().duration_since(modified).ok()? > ABANDONED)
        };
        let dead = owner.0 == host() && alive(owner.1) == Some(false);
        if dead || abandoned() == Some(true) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Host and process of a temporary file's name.
fn owner(name: &str) -> Option<(u32, u32)> {
    let rest = name.strip_prefix('.')?.strip_suffix(SUFFIX)?;
    let mut parts = rest.rsplit('.').next()?.split('-');
    let host = u32::from_str_radix(parts.next()?, 16).ok()?;
    Some((host, parts.next()?.parse().ok()?))
}

/// Tells machines apart that share a drive.
fn host() -> u32 {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    crc32c::crc32c((read("/proc/sys/kernel/hostname") + &read("/proc/sys/kernel/random/boot_id")).as_bytes())
}

/// Whether the process lives, where the system tells.
fn alive(process: u32) -> Option<bool> {
    Path::new("/proc/self").exists().then(|| Path::new(&format!("/proc/{process}")).exists())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_failed_write_leaves_the_old_file_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        write(&path, |mut file| Ok(file.write_all(b"old")?)).unwrap();
        let result = write(&path, |mut file| {
            file.write_all(b"ne")?;
            Err(Error::from(std::io::Error::from(std::io::ErrorKind::StorageFull)))
        });
        let text = result.unwrap_err().to_string();
        assert!(text.contains("what was there before is untouched") && text.contains("caused by"), "{text}");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(folder.path()), ["a"]);
        write(&path, |mut file| Ok(file.write_all(b"new")?)).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }

    #[test]
    fn leftovers_of_dead_processes_go_and_others_stay() {
        let folder = tempfile::tempdir().unwrap();
        let (_, own) = temporary(&folder.path().join("a.safetensors")).unwrap();
        let own = own.file_name().unwrap().to_str().unwrap().to_owned();
        assert_eq!(owner(&own), Some((host(), std::process::id())));
        // Process numbers end below 2²² on Linux.
        let dead = format!(".a.safetensors.{:08x}-{}-0.tmp", host(), u32::MAX);
        let foreign = format!(".a.safetensors.{:08x}-{}-0.tmp", host() ^ 1, u32::MAX);
        for name in [&own, &dead, &foreign, &"a.safetensors".to_owned(), &".hidden.tmp".to_owned()] {
            fs::write(folder.path().join(name), b"x").unwrap();
        }
        remove_leftovers(folder.path()).unwrap();
        let left = names(folder.path());
        assert_eq!(left.contains(&dead), !Path::new("/proc/self").exists());
        assert!([&own, &foreign].iter().all(|name| left.contains(name)), "{left:?}");
        assert!(left.contains(&"a.safetensors".to_owned()) && left.contains(&".hidden.tmp".to_owned()));
    }
}
