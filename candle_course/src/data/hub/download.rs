//! Lists and downloads the files of a repository.

use std::fs::{self, File};
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use hf_hub::CacheRepo;
use hf_hub::api::Progress;
use hf_hub::api::sync::{ApiError, ApiRepo};

use super::cache::{sha256, splits};

/// Downloads a file, or waits for another process that is at it.
pub(super) fn download(
    api: &ApiRepo,
    cached: &CacheRepo,
    file: &str,
    lines: impl Fn() -> Lines,
) -> std::result::Result<PathBuf, ApiError> {
    remove_whole_parts(cached)?;
    loop {
        match api.download_with_progress(file, lines()) {
            Err(ApiError::LockAcquisition(lock)) => {
                lines().say(&format!("another process is downloading {file}, waiting for it"));
                // Free as soon as the other has finished, or has been killed.
                File::open(lock)?.lock()?;
                // It gives the file its name just after.
                thread::sleep(Duration::from_millis(500));
                if let Some(path) = cached.get(file) {
                    return Ok(path);
                }
            }
            answer => return answer,
        }
    }
}

/// Removes downloads that have all their bytes but were killed before they got their name: a server
/// has no range behind the end to resume them from.
fn remove_whole_parts(cached: &CacheRepo) -> std::io::Result<()> {
    let Ok(blobs) = fs::read_dir(cached.blob_path("")) else { return Ok(()) };
    for part in blobs.flatten().map(|entry| entry.path()) {
        let name = part.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let is_part = part.extension().is_some_and(|extension| extension == "part");
        if is_part && File::create(part.with_extension("lock"))?.try_lock().is_ok() && sha256(&part)? == name {
            fs::remove_file(&part)?;
        }
    }
    Ok(())
}

/// The repository's commit and parquet files, or why there is no answer.
pub(super) fn list(repository: ApiRepo, patience: Duration) -> std::result::Result<(String, [Vec<String>; 2]), String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let _ = sender.send(repository.info());
    });
    match receiver.recv_timeout(patience) {
        Ok(Ok(info)) => Ok((info.sha, splits(info.siblings.into_iter().map(|file| file.rfilename)))),
        Ok(Err(error)) => Err(short(&error)),
        Err(_) => Err(format!("no answer within {} s", patience.as_secs_f32())),
    }
}

fn short(error: &ApiError) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

/// A line every few seconds: a notebook cannot overwrite one.
pub(super) struct Lines {
    quiet: bool,
    set: &'static str,
    total: usize,
    done: usize,
    last: Instant,
}

impl Lines {
    pub(super) fn new(quiet: bool, set: &'static str) -> Self {
        Self { quiet, set, total: 0, done: 0, last: Instant::now() }
    }
}

impl Lines {
    fn say(&self, text: &str) {
        if !self.quiet {
            println!("{}: {text}", self.set);
        }
    }
}

impl Progress for Lines {
    fn init(&mut self, size: usize, filename: &str) {
        if self.total == 0 {
            self.say(&format!("downloading {filename} ({:.1} MB)", size as f64 / 1e6));
        }
        self.total = size;
        self.done = 0;
    }

    fn update(&mut self, size: usize) {
        self.done += size;
        if !self.quiet && self.last.elapsed() > Duration::from_secs(3) {
            self.last = Instant::now();
            println!("  {:.1} of {:.1} MB", self.done as f64 / 1e6, self.total as f64 / 1e6);
        }
    }

    fn finish(&mut self) {}
}
