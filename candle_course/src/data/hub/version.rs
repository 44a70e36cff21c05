//! One version of a repository: its files from the cache, or else from the hub.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::address::Address;
use super::cache::{Cache, stays_below};
use super::client::{Client, Failure};
use super::download::{Wanted, download, listing};
use super::{client, offline};
use crate::data::source::{HubOptions, Source};
use crate::error::{Error, Result};
use crate::language::told;
use crate::text::say;

/// Small files that are downloaded at once.
const AT_ONCE: usize = 8;

/// Why a repository's files cannot be had, though nothing is wrong with them.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    /// There is no folder for the cache.
    Home,
    Offline,
    /// Nobody answers at this address.
    Unreachable(String),
    /// In words that follow "because".
    Failed(String),
}

impl Missing {
    /// As an error, where there is no other source.
    pub fn into_error(self, repository: &str) -> Error {
        let reason = match self {
            Missing::Home => {
                return Error::data("no home folder for the hub's cache").hint("say where with `.cache`");
            }
            Missing::Offline => format!("{repository} cannot be had offline"),
            Missing::Unreachable(address) => format!("{address} cannot be reached"),
            Missing::Failed(reason) => reason,
        };
        Error::data(reason).hint("it is not in the local cache either")
    }
}

/// A version of a repository whose files are asked for one by one.
pub(crate) struct Version<'a> {
    cache: &'a Cache,
    address: &'a Address,
    commit: String,
    names: Vec<String>,
    /// Whether `names` are what the hub has; of a version that another library put into the cache, they are
    /// what is there.
    whole: bool,
    hub: Option<Hub<'a>>,
    /// Why a file could not be had.
    failure: Mutex<Option<Missing>>,
}

struct Hub<'a> {
    client: &'a Client,
    wanted: Wanted,
    options: &'a HubOptions,
}

impl Version<'_> {
    /// The names of its files.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Whether only the cache is looked at: nothing is downloaded then.
    pub fn is_cached(&self) -> bool {
        self.hub.is_none()
    }

    /// Whether [`Version::names`] are all that there are.
    pub fn is_whole(&self) -> bool {
        self.whole
    }

    /// The folder in which its files lie.
    pub fn folder(&self) -> PathBuf {
        self.cache.snapshot(&self.commit)
    }

    /// The path of a file, checked against its checksum; nothing if it cannot be had.
    pub fn get(&self, name: &str) -> Result<Option<PathBuf>> {
        let quiet = self.hub.as_ref().is_none_or(|hub| hub.wanted.quiet);
        self.get_and_tell(name, quiet)
    }

    /// Whether all these files can be had, of which there may be many; they are fetched several at once.
    pub fn get_many(&self, names: &[String]) -> Result<bool> {
        let (next, told) = (AtomicUsize::new(0), Mutex::new(Instant::now()));
        let quiet = self.hub.as_ref().is_none_or(|hub| hub.wanted.quiet);
        let work = || loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(name) = names.get(at) else { return Ok(true) };
            match self.get_and_tell(name, true) {
                Ok(Some(_)) => {}
                other => {
                    // The others stop, too.
                    next.store(names.len(), Ordering::Relaxed);
                    return other.map(|_| false);
                }
            }
            let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
            if !quiet && told.elapsed() > Duration::from_secs(3) {
                *told = Instant::now();
                say(told!("{}: {} of {} files", "{}: {} de {} arquivos", self.address.name, at + 1, names.len()));
            }
        };
        thread::scope(|scope| {
            let threads: Vec<_> = (0..AT_ONCE.min(names.len())).map(|_| scope.spawn(work)).collect();
            let results = threads.into_iter().map(|thread| match thread.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            });
            let results: Vec<Result<bool>> = results.collect();
            results.into_iter().try_fold(true, |all, one| Ok(all && one?))
        })
    }

    fn get_and_tell(&self, name: &str, quiet: bool) -> Result<Option<PathBuf>> {
        if !stays_below(name) {
            let hint = "nothing was downloaded: a file of that name would lie outside the cache";
            return Err(Error::argument("file", "a name in the repository", format!("{name:?}")).hint(hint));
        }
        let pointer = self.folder().join(name);
        let Some(Hub { client, wanted, options }) = &self.hub else {
            if !pointer.is_file() {
                return Ok(None);
            }
            self.cache.check(&pointer)?;
            return Ok(Some(pointer));
        };
        // Of this very version, files that an earlier load finished need not be fetched again.
        if pointer.is_file() && self.cache.check(&pointer).is_ok() {
            return Ok(Some(pointer));
        }
        let of = (self.commit.as_str(), name);
        let wanted = Wanted { quiet, ..*wanted };
        match download(client, self.cache, self.address, &wanted, of, options.patience.silence) {
            Ok(path) => Ok(Some(path)),
            // What is on disk so far stays where it can be gone on from.
            Err(failure) => {
                let missing = missing(failure, &format!("downloading {name} failed"))?;
                *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(missing);
                Ok(None)
            }
        }
    }

    /// Takes a file that cannot be read out of the cache, so that the next load asks the hub for it.
    pub fn forget(&self, pointer: &Path) {
        self.cache.forget(pointer);
    }
}

/// Does `work` with the version that is in the cache, and where that has not all that it needs (`work` gives
/// nothing then), with the one that is on the hub.
///
/// # Errors
/// Those of `work`; if a file in the cache is damaged; or if the hub does what the user must know of.
pub(crate) fn with_version<T>(
    address: &Address,
    options: &HubOptions,
    wanted: Wanted,
    work: &mut dyn FnMut(&Version<'_>) -> Result<Option<T>>,
) -> Result<std::result::Result<(T, Source), Missing>> {
    address.check()?;
    let Some(cache) = Cache::new(options.cache.clone(), address) else { return Ok(Err(Missing::Home)) };
    let version = |commit: String, names: Vec<String>, whole: bool| Version {
        cache: &cache,
        address,
        commit,
        names,
        whole,
        hub: None,
        failure: Mutex::new(None),
    };
    if let Some(commit) = cache.last_commit().filter(|_| !options.refresh) {
        let noted = cache.noted_names(&commit);
        let whole = noted.is_some();
        let names = noted.unwrap_or_else(|| cache.names_there(&commit));
        if let Some(result) = work(&version(commit, names, whole))? {
            return Ok(Ok((result, Source::HubCache(cache.root().to_owned()))));
        }
    }
    if offline(options) {
        return Ok(Err(Missing::Offline));
    }
    let (client, endpoint) = client(options, &cache);
    let (commit, names) = match listing(&client, address, &options.patience) {
        Ok(listed) => listed,
        Err(Failure::Unreachable(_)) => return Ok(Err(Missing::Unreachable(endpoint))),
        Err(failure) => {
            return Ok(Err(missing(failure, &format!("{endpoint} did not list {}", address.name))?));
        }
    };
    let written = |result: std::io::Result<()>| match result {
        Ok(()) => Ok(None),
        Err(error) => missing(error.into(), "cannot write to the hub's cache").map(Some),
    };
    if let Some(missing) = written(cache.note_names(&commit, &names))? {
        return Ok(Err(missing));
    }
    let hub = Some(Hub { client: &client, wanted, options });
    let version = Version { hub, ..version(commit, names, true) };
    let Some(result) = work(&version)? else {
        let failure = version.failure.into_inner().unwrap_or_else(PoisonError::into_inner);
        return Ok(Err(failure.unwrap_or_else(|| Missing::Failed("a file is missing".to_owned()))));
    };
    // Only now: an older version stays in use until the newer one is whole.
    match written(cache.finish(&version.commit))? {
        Some(missing) => Ok(Err(missing)),
        None => Ok(Ok((result, Source::Hub(address.name.clone())))),
    }
}

/// What to go on with; an error if the user must know of it.
fn missing(failure: Failure, what: &str) -> Result<Missing> {
    let reason = match failure {
        Failure::Refused(error) => return Err(error.context(what)),
        Failure::Passing(_, reason) | Failure::Lasting(reason) | Failure::NoSuchRange(reason) => reason,
        Failure::Unreachable(host) => format!("{host} cannot be reached"),
    };
    Ok(Missing::Failed(format!("{what}: {reason}; the next load tries again")))
}
