//! Lists and downloads the files of a repository.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::address::Address;
use super::cache::{Cache, checksum_of, damaged, plain, sha256, stays_below};
use super::client::{Client, Failure};
use crate::data::source::Patience;
use crate::error::Error;

/// Of the list of a repository's files.
const LIST_BYTES: u64 = 16 << 20;

/// What the hub says about a repository; it says more.
#[derive(Deserialize)]
struct Listing {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

/// What may come.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    /// Most bytes of a file.
    pub limit: u64,
    /// Says nothing of the downloads.
    pub quiet: bool,
}

/// The repository's commit and the names of its files, each of which stays below the cache's folder.
pub(super) fn listing(
    client: &Client,
    address: &Address,
    patience: &Patience,
) -> std::result::Result<(String, Vec<String>), Failure> {
    let path = address.listing();
    let text = client.patiently(|| client.get(&path, None, Some(patience.list))?.text(LIST_BYTES))?;
    let listing: Listing = serde_json::from_str(&text)
        .map_err(|error| Failure::Lasting(format!("the answer is no list of files ({error})")))?;
    let refuse = |what: &str, name: &str| {
        let problem = format!("the list of files of {} has the {what} {name:?}, which leads elsewhere", address.name);
        Failure::Refused(
            Error::data(problem).hint("nothing was downloaded: a file of that name would lie outside the cache"),
        )
    };
    if !plain(&listing.sha) {
        return Err(refuse("commit", &listing.sha));
    }
    let names = || listing.siblings.iter().map(|file| &file.rfilename);
    if let Some(name) = names().find(|name| !stays_below(name)) {
        return Err(refuse("file name", name));
    }
    Ok((listing.sha.clone(), names().cloned().collect()))
}

/// Downloads a file of `commit`, or waits for another process that is at it.
pub(super) fn download(
    client: &Client,
    cache: &Cache,
    address: &Address,
    wanted: &Wanted,
    (commit, file): (&str, &str),
    silence: Duration,
) -> std::result::Result<PathBuf, Failure> {
    let path = address.file(file);
    // Other files may be empty, and where the hub gives no checksum, nothing can be said of them.
    let parquet = file.ends_with(".parquet");
    let head = match client.patiently(|| client.get(&path, Some("bytes=0-0"), None)) {
        // An empty file has no first byte.
        Err(Failure::NoSuchRange(_)) if !parquet => client.patiently(|| client.get(&path, None, None))?,
        head => head?,
    };
    let (of, name) = head.identity()?;
    if of.is_some_and(|of| of != commit) {
        return Err(Failure::Lasting(format!("{} changed in the meantime", address.name)));
    }
    let size = head.size(wanted.limit, !parquet)?;
    drop(head);
    let blob = cache.blob(&name);
    let pointer = cache.snapshot(commit).join(file);
    fs::create_dir_all(cache.blobs())?;
    let part = cache.blob(&format!("{name}.part"));
    let lock = File::create(cache.blob(&format!("{name}.lock")))?;
    let mut lines = Lines { quiet: wanted.quiet, of: &address.name, last: None };
    wait(&lock, &part, silence, || lines.say(&format!("another process is downloading {file}, waiting for it")))?;
    // Without a checksum from the hub, nothing says that an older file or part has this content.
    let known = checksum_of(&name);
    if !known.is_some_and(|known| sha256(&blob).is_ok_and(|got| got == known)) {
        let mut fetch = || {
            client.patiently(|| {
                let mut start = fs::metadata(&part).map_or(0, |part| part.len());
                if start > size || known.is_none() {
                    remove(&part)?;
                    start = 0;
                }
                if start == size {
                    // An empty file is one, too.
                    return Ok(OpenOptions::new().create(true).append(true).open(&part).map(|_| ())?);
                }
                let answer =
                    client.get(&path, Some(&format!("bytes={start}-")), None).map_err(|failure| match failure {
                        // A server that resumes nothing: from the beginning, then.
                        Failure::NoSuchRange(reason) if start > 0 && remove(&part).is_ok() => {
                            Failure::Passing(None, reason)
                        }
                        other => other,
                    })?;
                let mut to = OpenOptions::new().create(true).append(true).open(&part)?;
                answer.copy(&mut to, start, size, silence, |done| lines.progress(file, done, size))
            })?;
            verify(&part, &pointer, known, parquet)
        };
        let resumes = part.exists();
        let checksum = match fetch() {
            // What was there before was not what it should have been.
            Err(Failure::Refused(_)) if resumes => fetch()?,
            answer => answer?,
        };
        if known.is_none() {
            cache.record_checksum(&name, &checksum)?;
        }
        fs::rename(&part, &blob)?;
    }
    cache.point(&pointer, &blob)?;
    Ok(pointer)
}

fn remove(path: &Path) -> std::io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        answer => answer,
    }
}

/// The checksum of a download that has all its bytes; removes it unless it is the one that is known, or
/// where none is, unless it looks like a parquet file if it is to be one.
fn verify(part: &Path, pointer: &Path, known: Option<&str>, parquet: bool) -> std::result::Result<String, Failure> {
    const MAGIC: &[u8] = b"PAR1";
    let got = sha256(part)?;
    match known {
        Some(known) if got != known => {
            remove(part)?;
            Err(Failure::Refused(damaged(pointer, known, &got)))
        }
        Some(_) => Ok(got),
        None if !parquet => Ok(got),
        None => {
            let content = fs::read(part)?;
            if content.len() >= 12 && content.starts_with(MAGIC) && content.ends_with(MAGIC) {
                return Ok(got);
            }
            remove(part)?;
            Err(Failure::Lasting("what came is no parquet file".to_owned()))
        }
    }
}

/// Waits for the lock, as long as the process that has it goes on with `part`.
fn wait(lock: &File, part: &Path, silence: Duration, say: impl FnOnce()) -> std::result::Result<(), Failure> {
    let length = || fs::metadata(part).map_or(0, |part| part.len());
    let (mut since, mut then) = (Instant::now(), length());
    let mut say = Some(say);
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(error)) => return Err(error.into()),
            Err(TryLockError::WouldBlock) => {}
        }
        if let Some(say) = say.take() {
            say();
        }
        let now = length();
        if now != then {
            (since, then) = (Instant::now(), now);
        }
        if since.elapsed() > silence {
            return Err(Failure::Lasting(format!(
                "another process is at it, and has not gone on for {} s",
                silence.as_secs_f32()
            )));
        }
        thread::sleep(Duration::from_millis(100).min(silence));
    }
}

/// A line every few seconds: a notebook cannot overwrite one.
struct Lines<'a> {
    quiet: bool,
    of: &'a str,
    last: Option<Instant>,
}

impl Lines<'_> {
    fn say(&self, text: &str) {
        if !self.quiet {
            crate::text::say(format!("{}: {text}", self.of));
        }
    }

    fn progress(&mut self, file: &str, done: u64, size: u64) {
        match self.last {
            None => self.say(&format!("downloading {file} ({:.1} MB)", size as f64 / 1e6)),
            Some(last) if last.elapsed() > Duration::from_secs(3) => {
                if !self.quiet {
                    println!("  {:.1} of {:.1} MB", done as f64 / 1e6, size as f64 / 1e6);
                }
            }
            Some(_) => return,
        }
        self.last = Some(Instant::now());
    }
}
