//! One training at a time writes into a folder of checkpoints.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use crate::error::{Context, Error, Result};

/// Beside the checkpoints; there only while a training holds it, or was killed holding it.
const NAME: &str = ".lock";

/// The right to save into a [`CheckpointFolder`](crate::checkpoint::CheckpointFolder), until it is dropped.
///
/// The operating system holds it, so it ends with the process, however that ends: a killed training
/// leaves no folder locked.
#[derive(Debug)]
pub struct CheckpointLock {
    held: Option<(File, PathBuf)>,
}

impl CheckpointLock {
    /// Takes the lock of `folder`.
    pub(super) fn take(folder: &Path) -> Result<Self> {
        let path = folder.join(NAME);
        let what = || format!("cannot lock the checkpoint folder `{}`", folder.display());
        loop {
            let mut options = OpenOptions::new();
            let mut file =
                options.read(true).write(true).create(true).truncate(false).open(&path).with_context(what)?;
            match file.try_lock() {
                // Who held it before may have removed the file between our opening and our locking.
                Ok(()) if !is_still(&file, &path) => continue,
                Ok(()) => {
                    file.set_len(0).with_context(what)?;
                    write!(file, "process {} of {}", std::process::id(), host()).with_context(what)?;
                    return Ok(Self { held: Some((file, path)) });
                }
                Err(TryLockError::WouldBlock) => {
                    let owner = fs::read_to_string(&path).ok().filter(|owner| !owner.is_empty());
                    let owner = owner.unwrap_or_else(|| "another process".to_owned());
                    return Err(Error::checkpoint(format!(
                        "another training saves into the folder `{}` at this moment: {owner}",
                        folder.display()
                    ))
                    .hint(format!(
                        "this is process {}; give every training a folder of its own, or end the other one first",
                        std::process::id()
                    )));
                }
                // Some drives know no locks.
                Err(TryLockError::Error(_)) => return Ok(Self { held: None }),
            }
        }
    }

    /// Whether the drive knows locks at all; if not, nothing keeps another training away.
    pub fn is_held(&self) -> bool {
        self.held.is_some()
    }
}

impl Drop for CheckpointLock {
    fn drop(&mut self) {
        // Removed while it is held: see `take`. Elsewhere the file stays, unlocked.
        if cfg!(unix)
            && let Some((_, path)) = &self.held
        {
            let _ = fs::remove_file(path);
        }
    }
}

/// Whether `path` is the very file that is open.
#[cfg(unix)]
fn is_still(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let identity = |metadata: std::io::Result<fs::Metadata>| metadata.map(|found| (found.dev(), found.ino())).ok();
    identity(file.metadata()) == identity(fs::metadata(path))
}

#[cfg(not(unix))]
fn is_still(_file: &File, _path: &Path) -> bool {
    true
}

fn host() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if name.trim().is_empty() { "this machine".to_owned() } else { format!("`{}`", name.trim()) }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn one_holds_the_folder_and_the_next_is_told_who() {
        let folder = tempfile::tempdir().unwrap();
        let lock = CheckpointLock::take(folder.path()).unwrap();
        assert!(lock.is_held());
        let text = CheckpointLock::take(folder.path()).unwrap_err().to_string();
        assert!(text.contains(&format!("process {}", std::process::id())), "{text}");
        drop(lock);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), usize::from(!cfg!(unix)));
        // What a killed process leaves is no lock, only a file.
        fs::write(folder.path().join(NAME), "process 1 of `elsewhere`").unwrap();
        assert!(CheckpointLock::take(folder.path()).unwrap().is_held());
        let nowhere = CheckpointLock::take(&folder.path().join("nowhere")).unwrap_err().to_string();
        assert!(nowhere.contains("cannot lock the checkpoint folder"), "{nowhere}");
    }

    #[test]
    fn never_two_hold_it_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let (inside, taken) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..300 {
                        let Ok(lock) = CheckpointLock::take(folder.path()) else { continue };
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        std::thread::yield_now();
                        inside.fetch_sub(1, Ordering::SeqCst);
                        taken.fetch_add(1, Ordering::SeqCst);
                        drop(lock);
                    }
                });
            }
        });
        assert!(taken.load(Ordering::SeqCst) >= 4);
    }
}
