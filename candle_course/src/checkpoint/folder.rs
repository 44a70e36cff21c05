//! Which checkpoints to keep, and which to resume from.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::atomic;
use crate::checkpoint::{CheckpointLock, Snapshot, snapshot};
use crate::direction::Direction;
use crate::error::{Context, Error, Result};
use crate::setters::setters;

const PREFIX: &str = "checkpoint-";
const SUFFIX: &str = ".safetensors";

/// How often a folder that cannot be locked is read again before it is called empty.
const READINGS: usize = 20;

/// Which checkpoints of a folder are kept; the newest always is.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// // The last three, the two best by a metric that should be large, and one every 1000 steps.
/// let retention = Retention::new().last(3).best(2, Direction::Maximize).every(1000);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retention {
    last: usize,
    best: Option<(usize, Direction)>,
    every: Option<u64>,
}

impl Default for Retention {
    fn default() -> Self {
        Self { last: 1, best: None, every: None }
    }
}

impl Retention {
    /// The last one only, unless told otherwise.
    pub fn new() -> Self {
        Self::default()
    }

    setters! {
        /// The newest `count`.
        last(count: usize) => last = count;
        /// The best `count` by the metric they were saved with, if it is finite; of equal ones, the older.
        best(count: usize, direction: Direction) => best = Some((count, direction));
        /// Those whose step is a multiple of `steps`.
        every(steps: u64) => every = Some(steps);
    }

    /// Which of `saved`, ordered by step, are kept.
    fn kept(&self, saved: &[Saved]) -> Vec<bool> {
        let newest = saved.len().saturating_sub(self.last.max(1));
        let mut kept: Vec<bool> = (0..saved.len()).map(|index| index >= newest).collect();
        if let Some(steps) = self.every {
            saved.iter().zip(&mut kept).for_each(|(saved, kept)| *kept |= saved.step % steps == 0);
        }
        if let Some((count, direction)) = self.best {
            for index in ranking(saved, direction).into_iter().take(count) {
                kept[index] = true;
            }
        }
        kept
    }
}

/// The indices of the checkpoints that have a metric, best first, of equal ones the older first.
fn ranking(saved: &[Saved], direction: Direction) -> Vec<usize> {
    let mut ranked: Vec<(usize, f64)> = saved
        .iter()
        .enumerate()
        .filter_map(|(index, saved)| Some((index, saved.metric.filter(|metric| metric.is_finite())?)))
        .collect();
    ranked.sort_by(|a, b| match direction {
        Direction::Minimize => a.1.total_cmp(&b.1),
        Direction::Maximize => b.1.total_cmp(&a.1),
    });
    ranked.into_iter().map(|(index, _)| index).collect()
}

/// A checkpoint in a folder.
#[derive(Debug, Clone, PartialEq)]
pub struct Saved {
    /// Where it is.
    pub path: PathBuf,
    /// The step it was saved at.
    pub step: u64,
    /// The metric it was saved with.
    pub metric: Option<f64>,
}

/// A checkpoint that could not be used, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damaged {
    /// Where it is.
    pub path: PathBuf,
    /// What is wrong.
    pub reason: String,
}

/// What to resume from.
#[derive(Debug, Clone)]
pub struct Resume {
    /// Where it was.
    pub path: PathBuf,
    /// The step it was saved at.
    pub step: u64,
    /// The whole state.
    pub snapshot: Snapshot,
    /// Newer checkpoints that are damaged: worth telling the user.
    pub damaged: Vec<Damaged>,
}

/// A folder of checkpoints, `checkpoint-0000001234.safetensors`, with a [`Retention`].
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let temporary = tempfile::tempdir()?;
/// let folder = CheckpointFolder::open(temporary.path(), Retention::new().last(2))?;
/// for step in 1..=5 {
///     folder.save(step, None, &Snapshot::new().number("loss", 1.0 / step as f64))?;
/// }
/// assert_eq!(folder.list()?.len(), 2);
/// let resume = folder.latest()?.expect("there are checkpoints");
/// assert_eq!(resume.step, 5);
/// assert_eq!(resume.snapshot.get_number("loss")?, 0.2);
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct CheckpointFolder {
    path: PathBuf,
    retention: Retention,
}

impl CheckpointFolder {
    /// Opens a folder, creating it if need be, and removes half-written files of processes that
    /// were killed.
    ///
    /// # Errors
    /// If the folder cannot be created or read, or `every` is 0.
    pub fn open(path: impl Into<PathBuf>, retention: Retention) -> Result<Self> {
        let path = path.into();
        if retention.every == Some(0) {
            return Err(Error::argument("every", "at least 1", 0));
        }
        let what = || format!("cannot use the checkpoint folder `{}`", path.display());
        fs::create_dir_all(&path).with_context(what)?;
        atomic::remove_leftovers(&path).with_context(what)?;
        Ok(Self { path, retention })
    }

    /// Where the folder is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the right to save into this folder, until what it returns is dropped. A
    /// [`Trainer`](crate::training::Trainer) holds it while it trains; a loop written by hand should.
    ///
    /// # Errors
    /// If another training holds it; the message says which process.
    ///
    /// # Examples
    ///
    /// ```
    /// use candle_course::prelude::*;
    ///
    /// let temporary = tempfile::tempdir()?;
    /// let folder = CheckpointFolder::open(temporary.path(), Retention::new())?;
    /// let lock = folder.lock()?;
    /// assert!(folder.lock().is_err());
    /// drop(lock);
    /// assert!(folder.lock().is_ok());
    /// # Ok::<(), candle_course::Error>(())
    /// ```
    pub fn lock(&self) -> Result<CheckpointLock> {
        CheckpointLock::take(&self.path)
    }

    /// Moves the checkpoints of later steps than `step` into a folder below this one, `after-step-…`, and
    /// names it: for going on from an older checkpoint, so that what comes after it is neither resumed
    /// from nor lost. The new folder is one of checkpoints, too. Nothing if there are none.
    ///
    /// # Errors
    /// If a file cannot be moved.
    ///
    /// # Examples
    ///
    /// ```
    /// use candle_course::prelude::*;
    ///
    /// let temporary = tempfile::tempdir()?;
    /// let folder = CheckpointFolder::open(temporary.path(), Retention::new().last(9))?;
    /// for step in [10, 20, 30] {
    ///     folder.save(step, None, &Snapshot::new())?;
    /// }
    /// let aside = folder.set_aside_after(10)?.expect("there are later ones");
    /// assert_eq!((folder.list()?.len(), aside.list()?.len()), (1, 2));
    /// # Ok::<(), candle_course::Error>(())
    /// ```
    pub fn set_aside_after(&self, step: u64) -> Result<Option<CheckpointFolder>> {
        let mut later = self.files()?;
        later.retain(|&(saved, _)| saved > step);
        if later.is_empty() {
            return Ok(None);
        }
        let name = format!("after-step-{step}");
        let names = std::iter::once(name.clone()).chain((2..).map(|number| format!("{name}-{number}")));
        let aside = names.map(|name| self.path.join(name)).find(|path| !path.exists()).unwrap_or_default();
        let what = || format!("cannot move later checkpoints to `{}`", aside.display());
        fs::create_dir_all(&aside).with_context(what)?;
        // The newest first: if this is interrupted, what stays is the beginning of the branch.
        for (_, path) in later.iter().rev() {
            let moved = aside.join(path.file_name().unwrap_or_default());
            atomic::gone_is_fine(atomic::rename(path, &moved)).with_context(what)?;
        }
        atomic::flush_folder(&aside).and_then(|()| atomic::flush_folder(&self.path)).with_context(what)?;
        Ok(Some(Self { path: aside, retention: self.retention.clone() }))
    }

    /// Saves a checkpoint, then removes those that the retention does not keep. Those of later steps
    /// stay: see [`set_aside_after`](Self::set_aside_after).
    ///
    /// # Errors
    /// If the file cannot be written: no other is removed then.
    pub fn save(&self, step: u64, metric: Option<f64>, snapshot: &Snapshot) -> Result<PathBuf> {
        let path = self.path.join(format!("{PREFIX}{step:010}{SUFFIX}"));
        let snapshot = match metric {
            Some(metric) => snapshot.clone().number("checkpoint.metric", metric),
            None => snapshot.clone(),
        };
        {
            let _replaced = path.exists().then(|| self.hold(File::lock));
            snapshot.save(&path)?;
        }
        let mut saved = self.list()?;
        // What was saved after this step is of another branch, and must not count against this one.
        saved.retain(|saved| saved.step <= step);
        let kept = self.retention.kept(&saved);
        let _held = kept.contains(&false).then(|| self.hold(File::lock));
        for (saved, kept) in saved.iter().zip(kept) {
            if !kept && saved.path != path {
                atomic::remove(&saved.path)
                    .with_context(|| format!("cannot remove the old checkpoint `{}`", saved.path.display()))?;
            }
        }
        Ok(path)
    }

    /// All steps with their files, ordered by step. While the folder is read nothing goes from it: a
    /// system may leave out of one reading both a file that is removed and the one made just before.
    fn files(&self) -> Result<Vec<(u64, PathBuf)>> {
        let what = || format!("cannot read the checkpoint folder `{}`", self.path.display());
        let held = self.hold(File::lock_shared);
        let mut files = self.listing().with_context(what)?;
        let mut again = if held.is_none() { READINGS } else { 0 };
        while files.is_empty() && again > 0 {
            files = self.listing().with_context(what)?;
            again -= 1;
        }
        Ok(files)
    }

    /// The folder, locked until it is dropped; nothing where the drive or the system knows no such lock.
    fn hold(&self, lock: fn(&File) -> std::io::Result<()>) -> Option<File> {
        let folder = File::open(&self.path).ok()?;
        lock(&folder).ok().map(|()| folder)
    }

    /// One reading of the folder.
    fn listing(&self) -> std::io::Result<Vec<(u64, PathBuf)>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let path = entry?.path();
            let step = path
                .file_name()
                .and_then(|name| name.to_str()?.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?.parse::<u64>().ok());
            // What only bears such a name, a pipe say, could be read for ever.
            files.extend(step.filter(|_| path.is_file()).map(|step| (step, path)));
        }
        files.sort();
        Ok(files)
    }

    /// The checkpoints whose header can be read, ordered by step. Damaged ones are left where they
    /// are, and out of this list.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn list(&self) -> Result<Vec<Saved>> {
        let readable = |(step, path): (u64, PathBuf)| {
            let texts = Snapshot::load_texts(&path).ok()?;
            Some(Saved { path, step, metric: texts.get_number("checkpoint.metric").ok() })
        };
        Ok(self.files()?.into_iter().filter_map(readable).collect())
    }

    /// The newest checkpoint that is whole, or nothing if the folder holds none at all.
    ///
    /// # Errors
    /// If there are checkpoints but none is whole, or the newest was written by a newer version of
    /// this crate.
    pub fn latest(&self) -> Result<Option<Resume>> {
        let (mut damaged, mut gone) = (Vec::new(), false);
        for (step, path) in self.files()?.into_iter().rev() {
            match Snapshot::load(&path) {
                Err(_) if is_gone(&path) => gone = true,
                Ok(snapshot) => return Ok(Some(Resume { path, step, snapshot, damaged })),
                Err(error) if snapshot::is_newer(&path) => return Err(error),
                Err(error) => damaged.push(Damaged { path, reason: error.to_string() }),
            }
        }
        if gone {
            return self.latest(); // a training that removes one has saved a newer one first
        }
        if damaged.is_empty() {
            return Ok(None);
        }
        let reasons: Vec<&str> = damaged.iter().map(|damaged| damaged.reason.as_str()).collect();
        Err(Error::checkpoint(format!(
            "none of the {} checkpoints in `{}` is whole: {}",
            damaged.len(),
            self.path.display(),
            reasons.join("; ")
        )))
    }

    /// The best checkpoint by the metric they were saved with; of equal ones, the oldest.
    ///
    /// # Errors
    /// If no checkpoint has a metric, or the best is damaged.
    pub fn best(&self, direction: Direction) -> Result<Resume> {
        let mut saved = self.list()?;
        let best = ranking(&saved, direction).first().copied();
        let best = best.ok_or_else(|| {
            Error::checkpoint(format!("no checkpoint in `{}` was saved with a metric", self.path.display()))
        })?;
        let Saved { path, step, .. } = saved.swap_remove(best);
        match Snapshot::load(&path) {
            Err(_) if is_gone(&path) => self.best(direction),
            snapshot => Ok(Resume { path, step, snapshot: snapshot?, damaged: Vec::new() }),
        }
    }
}

/// Whether a file that was listed was removed since, by its training.
fn is_gone(path: &Path) -> bool {
    fs::symlink_metadata(path).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::atomic::faults;
    use crate::test_support::{WHOLE, rewrite, tried};

    fn steps(folder: &CheckpointFolder) -> Vec<u64> {
        folder.list().unwrap().into_iter().map(|saved| saved.step).collect()
    }

    fn state(step: u64) -> Snapshot {
        Snapshot::new().number("step", step as f64)
    }

    #[test]
    fn the_last_the_best_and_every_nth_are_kept() {
        let temporary = tempfile::tempdir().unwrap();
        let retention = Retention::new().last(2).best(1, Direction::Maximize).every(4);
        let folder = CheckpointFolder::open(temporary.path().join("new/run"), retention).unwrap();
        let metrics = [f64::NEG_INFINITY, 0.5, 0.9, 0.2, 0.9, f64::NAN, 0.3, 0.1, f64::INFINITY, 0.1];
        for (step, metric) in (1..).zip(metrics) {
            folder.save(step, Some(metric), &state(step)).unwrap();
        }
        assert_eq!(steps(&folder), [3, 4, 8, 9, 10]);
        assert_eq!(folder.best(Direction::Maximize).unwrap().step, 3);
        assert_eq!(folder.best(Direction::Minimize).unwrap().step, 8);
        let last = CheckpointFolder::open(folder.path(), Retention::new().last(0)).unwrap();
        last.save(11, None, &state(11)).unwrap();
        assert_eq!(steps(&last), [11]);
        assert!(last.best(Direction::Minimize).unwrap_err().to_string().contains("was saved with a metric"));
    }

    #[test]
    fn resuming_passes_over_damaged_files_and_says_so() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = CheckpointFolder::open(temporary.path(), Retention::new().last(10)).unwrap();
        assert!(folder.latest().unwrap().is_none());
        let paths: Vec<PathBuf> = (1..4).map(|step| folder.save(step, None, &state(step)).unwrap()).collect();
        fs::write(&paths[2], b"short").unwrap();
        let mut bytes = fs::read(&paths[1]).unwrap();
        let last = bytes.len() - 3;
        bytes[last] ^= 4;
        fs::write(&paths[1], bytes).unwrap();
        let resume = folder.latest().unwrap().unwrap();
        assert_eq!((resume.step, resume.snapshot.get_number("step").unwrap()), (1, 1.0));
        assert_eq!(resume.damaged.iter().map(|damaged| &damaged.path).collect::<Vec<_>>(), [&paths[2], &paths[1]]);
        fs::remove_file(&paths[0]).unwrap();
        let text = folder.latest().unwrap_err().to_string();
        assert!(text.contains("none of the 2 checkpoints"), "{text}");
    }

    /// A folder with checkpoints 1 and 2, whose next one is 3.
    fn two() -> (tempfile::TempDir, CheckpointFolder) {
        let temporary = tempfile::tempdir().unwrap();
        let folder = CheckpointFolder::open(temporary.path(), Retention::new().last(2)).unwrap();
        (1..3).for_each(|step| drop(folder.save(step, None, &state(step)).unwrap()));
        (temporary, folder)
    }

    /// Whatever failed: what can be read is as it was written, the newest is 2 or, if it was told to be
    /// saved, 3; and the folder goes on.
    fn nothing_is_lost(folder: &CheckpointFolder, saved: &Result<PathBuf>, what: &str) {
        let newest = folder.latest().unwrap().unwrap();
        assert!(newest.damaged.is_empty(), "{what}: {:?}", newest.damaged);
        assert_eq!(newest.snapshot.get_number("step").unwrap(), newest.step as f64, "{what}");
        assert!(newest.step == 3 || saved.is_err() && newest.step == 2, "{what}: {}", newest.step);
        assert!(steps(folder).len() >= 2, "{what}: {:?}", steps(folder));
        let names = fs::read_dir(&folder.path).unwrap().map(|entry| entry.unwrap().file_name());
        assert!(names.map(|name| name.into_string().unwrap()).all(|name| !name.ends_with(".tmp")), "{what}");
        folder.save(4, None, &state(4)).unwrap();
        assert_eq!(folder.latest().unwrap().unwrap().step, 4, "{what}");
    }

    #[test]
    fn every_call_of_the_file_system_may_fail_once() {
        let (mut failures, mut call) = (0, 0);
        loop {
            let (_temporary, folder) = two();
            let (saved, calls) = faults::with(call, usize::MAX, || folder.save(3, None, &state(3)));
            failures += usize::from(saved.is_err());
            nothing_is_lost(&folder, &saved, &format!("call {call}: {:?}", saved.as_ref().err()));
            call += 1;
            if call > calls {
                break;
            }
        }
        assert!(failures >= 6, "{failures}: create, write, sync, rename, the folder's sync, and a removal");
        tried(WHOLE, "a checkpoint, each call to the disk failing", failures);
    }

    #[test]
    fn the_disk_may_be_full_at_every_byte() {
        let length = fs::metadata(&two().1.files().unwrap()[0].1).unwrap().len() as usize;
        let (_temporary, folder) = two();
        for bytes in 0..=length {
            let (saved, _) = faults::with(usize::MAX, bytes, || folder.save(3, None, &state(3)));
            assert_eq!(saved.is_ok(), bytes == length, "{bytes} of {length} bytes: {saved:?}");
            if bytes < length {
                assert!(saved.unwrap_err().to_string().contains("untouched"));
                assert_eq!(steps(&folder), [1, 2]);
            } else {
                nothing_is_lost(&folder, &saved, "all bytes");
            }
        }
        tried(WHOLE, "a checkpoint, the disk full at each byte", length);
    }

    #[test]
    fn moving_a_branch_may_fail_anywhere() {
        let (mut call, all) = (0, vec![1, 2, 3, 4]);
        loop {
            let temporary = tempfile::tempdir().unwrap();
            let folder = CheckpointFolder::open(temporary.path(), Retention::new().last(9)).unwrap();
            all.iter().for_each(|&step| drop(folder.save(step, None, &state(step)).unwrap()));
            let (moved, calls) = faults::with(call, usize::MAX, || folder.set_aside_after(2));
            assert_eq!(moved.is_err(), call < calls);
            // Tried again, all that was there is there.
            folder.set_aside_after(2).unwrap();
            assert_eq!(steps(&folder), [1, 2]);
            let below = fs::read_dir(temporary.path()).unwrap().map(|entry| entry.unwrap().path());
            let mut aside: Vec<u64> = below
                .filter(|path| path.is_dir())
                .flat_map(|path| steps(&CheckpointFolder::open(path, Retention::new()).unwrap()))
                .collect();
            aside.sort_unstable();
            assert_eq!(aside, [3, 4], "call {call}");
            call += 1;
            if call > calls {
                break;
            }
        }
    }

    #[test]
    fn two_writers_and_a_reader_in_one_folder_are_never_in_each_others_way() {
        // In memory, where there is such a drive, saving is fast enough to be in the way of most readings.
        let memory = Path::new("/dev/shm");
        let temporary = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
        let open = || CheckpointFolder::open(temporary.path(), Retention::new().last(1)).unwrap();
        open().save(1, None, &state(1)).unwrap();
        std::thread::scope(|scope| {
            for first in [2, 3] {
                scope.spawn(move || {
                    let folder = open();
                    for step in (first..120).step_by(2) {
                        folder.save(step, None, &state(step)).unwrap();
                    }
                });
            }
            for _ in 0..200 {
                let folder = open();
                let newest = folder.latest().unwrap().unwrap();
                assert_eq!(newest.snapshot.get_number("step").unwrap(), newest.step as f64);
                folder.list().unwrap();
            }
        });
        assert_eq!(steps(&open()).last(), Some(&119));
    }

    #[test]
    fn every_flipped_bit_falls_back_to_the_older_checkpoint() {
        let (_temporary, folder) = two();
        let path = folder.files().unwrap()[1].1.clone();
        let good = fs::read(&path).unwrap();
        for bit in 0..8 * good.len() {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            rewrite(&path, &bad);
            let resume = folder.latest().unwrap().unwrap();
            assert_eq!((resume.step, resume.damaged.len()), (1, 1), "bit {bit}");
        }
        // A whole file of a newer format is no damage.
        let version = good.windows(20).position(|bytes| bytes == b"\"format_version\":\"1\"").unwrap();
        let mut newer = good.clone();
        newer[version + 18] = b'7';
        fs::write(&path, &newer).unwrap();
        assert_eq!(folder.latest().unwrap().unwrap().step, 1, "its checksum is of another version");
        let place = good.windows(10).position(|bytes| bytes == b"\"crc32c\":\"").unwrap() + 10;
        newer[place..place + 8].copy_from_slice(b"00000000");
        let checksum = format!("{:08x}", crc32c::crc32c(&newer));
        newer[place..place + 8].copy_from_slice(checksum.as_bytes());
        fs::write(&path, &newer).unwrap();
        let text = folder.latest().unwrap_err().to_string();
        assert!(text.contains("has format 7") && text.contains("update candle_course"), "{text}");
    }

    #[test]
    #[cfg(unix)]
    fn what_only_bears_the_name_of_a_checkpoint_is_passed_over() {
        let (temporary, folder) = two();
        let name = |step: u64| temporary.path().join(format!("{PREFIX}{step:010}{SUFFIX}"));
        fs::create_dir(name(3)).unwrap();
        std::os::unix::fs::symlink(temporary.path().join("nowhere"), name(4)).unwrap();
        // Reading a pipe that nobody writes to would wait for ever.
        assert!(std::process::Command::new("mkfifo").arg(name(5)).status().unwrap().success());
        assert_eq!(folder.latest().unwrap().unwrap().step, 2);
        assert_eq!(steps(&folder), [1, 2]);
    }

    #[test]
    fn a_folder_that_cannot_be_used_is_named() {
        let temporary = tempfile::tempdir().unwrap();
        let file = temporary.path().join("file");
        fs::write(&file, b"").unwrap();
        let text = CheckpointFolder::open(&file, Retention::new()).unwrap_err().to_string();
        assert!(text.contains("cannot use the checkpoint folder") && text.contains("file"), "{text}");
        assert!(CheckpointFolder::open(temporary.path(), Retention::new().every(0)).is_err());
    }
}
