//! Files that are there whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use crate::error::{Context, Error, Result};

const SUFFIX: &str = ".tmp";

/// A foreign temporary file that nobody wrote to for so long is nobody's.
const ABANDONED: Duration = Duration::from_secs(3600);

/// A file that is being written. Its calls are those that a test lets fail.
pub(crate) struct Output {
    file: File,
    #[cfg(test)]
    faults: Option<std::sync::Arc<faults::Faults>>,
}

impl Output {
    fn create(path: &Path) -> io::Result<Self> {
        #[cfg(test)]
        let faults = faults::current();
        #[cfg(test)]
        faults::call()?;
        Ok(Self {
            file: OpenOptions::new().read(true).write(true).create_new(true).open(path)?,
            #[cfg(test)]
            faults,
        })
    }

    /// Writes all of `bytes` at `offset`; several threads may write at once.
    pub(crate) fn write_all_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        #[cfg(test)]
        if let Some(faults) = &self.faults {
            faults.call()?;
            let room = faults.room(bytes.len());
            positioned::write_all_at(&self.file, &bytes[..room], offset)?;
            if room < bytes.len() {
                return Err(io::Error::from(io::ErrorKind::StorageFull).into());
            }
            return Ok(());
        }
        Ok(positioned::write_all_at(&self.file, bytes, offset)?)
    }

    fn sync(&self) -> io::Result<()> {
        #[cfg(test)]
        if let Some(faults) = &self.faults {
            faults.call()?;
        }
        self.file.sync_all()
    }
}

#[cfg(unix)]
mod positioned {
    pub(super) fn write_all_at(file: &std::fs::File, bytes: &[u8], offset: u64) -> std::io::Result<()> {
        std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
    }
}

#[cfg(windows)]
mod positioned {
    pub(super) fn write_all_at(file: &std::fs::File, mut bytes: &[u8], mut offset: u64) -> std::io::Result<()> {
        while !bytes.is_empty() {
            let written = std::os::windows::fs::FileExt::seek_write(file, bytes, offset)?;
            bytes = &bytes[written..];
            offset += written as u64;
        }
        Ok(())
    }
}

/// Writes `path` so that a crash at any moment leaves the old file or the new one: into a
/// temporary file beside it, flushed to the disk, then renamed, and the folder flushed too.
/// On an error before the renaming the temporary file is removed and `path` is as it was.
pub(crate) fn write(path: &Path, fill: impl FnOnce(&Output) -> Result<()>) -> Result<()> {
    let what = || format!("cannot write `{}`; what was there before is untouched", path.display());
    // A link stays one: what it points to is written.
    let target = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_symlink() => fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()),
        _ => path.to_owned(),
    };
    let (folder, temporary) = temporary(&target)?;
    let filled = |file: &Output| fill(file).and_then(|()| Ok(file.sync()?));
    put(&temporary, &target, filled).with_context(what)?;
    flush_folder(&folder).with_context(|| {
        format!("`{}` is written, but its folder cannot be flushed: it may not outlast a power cut", path.display())
    })
}

/// [`write()`] of bytes that are at hand.
pub(crate) fn write_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    write(path, |file| file.write_all_at(bytes, 0))
}

/// [`write_bytes`] of what is soon out of date: whole or not at all, but not worth waiting for the disk.
pub(crate) fn write_passing(path: &Path, bytes: &[u8]) -> Result<()> {
    let (_, temporary) = temporary(path)?;
    put(&temporary, path, |file| file.write_all_at(bytes, 0))
        .with_context(|| format!("cannot write `{}`", path.display()))
}

/// Fills the temporary file and renames it; on an error it is removed.
fn put(temporary: &Path, target: &Path, fill: impl FnOnce(&Output) -> Result<()>) -> Result<()> {
    let file = Output::create(temporary)?;
    let written = fill(&file).and_then(|()| Ok(rename(temporary, target)?));
    if written.is_err() {
        // The first error is the one to report.
        let _ = fs::remove_file(temporary);
    }
    written
}

/// Renames, and so replaces.
pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    #[cfg(test)]
    faults::call()?;
    fs::rename(from, to)
}

/// Removes a file; one that another process has removed already is gone as well.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    #[cfg(test)]
    faults::call()?;
    gone_is_fine(fs::remove_file(path))
}

/// "No such file" is no error where the file is not wanted, or was only seen in a list a moment ago.
pub(crate) fn gone_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// The folder of `path`, and a name in it that no other process and no other call uses.
fn temporary(path: &Path) -> Result<(PathBuf, PathBuf)> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().ok_or_else(|| Error::argument("path", "a file name", path.display()))?;
    // A name as long as names may be leaves no room for what is added.
    let name: String = name.to_string_lossy().chars().take(40).collect();
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    };
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let temporary = folder.join(format!(".{name}.{:08x}-{}-{count}{SUFFIX}", host(), std::process::id()));
    Ok((folder, temporary))
}

/// Makes a rename itself durable. Not every platform can open a folder.
pub(crate) fn flush_folder(folder: &Path) -> Result<()> {
    #[cfg(test)]
    faults::call()?;
    if cfg!(unix) {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

/// Removes what killed processes left half-written in `folder`.
pub(crate) fn remove_leftovers(folder: &Path) -> Result<()> {
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
            remove(&entry.path())?;
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

/// File system calls that fail when a test says so.
#[cfg(test)]
pub(crate) mod faults {
    use std::cell::RefCell;
    use std::io;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Which call fails, and after how many bytes the disk is full.
    pub(crate) struct Faults {
        calls: AtomicUsize,
        failing: usize,
        bytes: AtomicUsize,
    }

    thread_local!(static CURRENT: RefCell<Option<Arc<Faults>>> = const { RefCell::new(None) });

    pub(super) fn current() -> Option<Arc<Faults>> {
        CURRENT.with_borrow(Clone::clone)
    }

    pub(super) fn call() -> io::Result<()> {
        current().map_or(Ok(()), |faults| faults.call())
    }

    impl Faults {
        pub(super) fn call(&self) -> io::Result<()> {
            match self.calls.fetch_add(1, Ordering::Relaxed) == self.failing {
                true => Err(io::Error::other("an injected fault")),
                false => Ok(()),
            }
        }

        /// How many of so many bytes the disk still takes.
        pub(super) fn room(&self, bytes: usize) -> usize {
            let take = |left: usize| Some(left.saturating_sub(bytes));
            self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).map_or(0, |left| left.min(bytes))
        }
    }

    /// Runs `work` with the file system call of this number failing, counted from 0, on a disk with room
    /// for so many bytes; says how many calls there were.
    pub(crate) fn with<T>(failing: usize, bytes: usize, work: impl FnOnce() -> T) -> (T, usize) {
        let faults = Arc::new(Faults { calls: AtomicUsize::new(0), failing, bytes: AtomicUsize::new(bytes) });
        CURRENT.set(Some(Arc::clone(&faults)));
        let result = work();
        CURRENT.set(None);
        (result, faults.calls.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        write(&path, |file| file.write_all_at(b"old", 0)).unwrap();
        let result = write(&path, |file| {
            file.write_all_at(b"ne", 0)?;
            Err(Error::from(std::io::Error::from(std::io::ErrorKind::StorageFull)))
        });
        let text = result.unwrap_err().to_string();
        assert!(text.contains("what was there before is untouched") && text.contains("caused by"), "{text}");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(folder.path()), ["a"]);
        write(&path, |file| file.write_all_at(b"new", 0)).unwrap();
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
