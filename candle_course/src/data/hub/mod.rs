//! Image sets from the Hugging Face hub: parquet files of PNG images.
//!
//! The network, and what others put into the cache, is not trusted: every question has limits of time and
//! size (`client`), names from outside are looked at before they become paths (`cache`), contents are
//! checked against their checksums before they are decoded, and what cannot be decoded leaves the cache,
//! so that the next load fetches it again.

mod cache;
mod client;
mod decode;
mod download;
#[cfg(test)]
mod hell_tests;
#[cfg(test)]
mod images_tests;
mod pages;
pub(super) mod repository;
pub(super) mod shards;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use self::cache::{Cache, complete};
use self::client::{Client, Failure};
use self::decode::decode;
use self::download::{Wanted, download, limit, list};
use crate::data::files::RawImages;
use crate::data::source::{Found, HubOptions, Source, Specification};
use crate::error::{Context, Result};
use crate::language::told;

pub(super) use self::repository::fetch;

const ENDPOINT: &str = "https://huggingface.co";

/// The set from the hub's cache, else from the hub. With `verify`, a set of another size leaves the cache.
pub(crate) fn load(set: &Specification, options: &HubOptions, verify: bool) -> Result<Found> {
    let Some(cache) = Cache::new(options.cache.clone(), set.repository) else {
        return Ok(Found::Nothing("no home folder for the hub's cache".to_owned()));
    };
    let snapshot = cache.last();
    if let Some(files) = snapshot.as_deref().and_then(complete) {
        files.iter().flatten().try_for_each(|file| cache.check(file))?;
        let images = read(set, &cache, &files, verify)?;
        return Ok(Found::Images(images, Source::HubCache(cache.root().to_owned())));
    }
    if offline(options) {
        return Ok(Found::Nothing("offline, and the complete set is not in the local cache".to_owned()));
    }
    let (client, endpoint) = client(options, &cache);
    let patience = &options.patience;
    let (commit, remote) = match list(&client, set.repository, patience) {
        Ok(remote) => remote,
        Err(Failure::Unreachable(_)) => {
            return Ok(Found::Nothing(told!(
                "{} cannot be reached, so not the complete set",
                "{} não responde, por isso não é o conjunto completo",
                endpoint
            )));
        }
        Err(failure) => return nothing(failure, &format!("{endpoint} did not list {}", set.repository)),
    };
    let mut local: [Vec<PathBuf>; 2] = [vec![], vec![]];
    for (split, files) in remote.iter().enumerate() {
        for file in files {
            // Of this very version, files that an earlier load finished need not be fetched again.
            let pointer = cache.snapshot(&commit).join(file);
            if !pointer.is_file() || cache.check(&pointer).is_err() {
                let wanted = Wanted { name: set.name, repository: set.repository, limit: limit(set) };
                match download(&client, &cache, &wanted, (&commit, file), patience.silence, options.quiet) {
                    Ok(_) => {}
                    // What is on disk so far stays where it can be gone on from.
                    Err(failure) => return nothing(failure, &format!("downloading {file} failed")),
                }
            }
            local[split].push(pointer);
        }
    }
    let images = read(set, &cache, &local, verify)?;
    // Only now: an older version stays in use until the newer one is whole.
    cache.finish(&commit).context("cannot write to the hub's cache")?;
    Ok(Found::Images(images, Source::Hub(set.repository.to_owned())))
}

fn offline(options: &HubOptions) -> bool {
    options.offline || ["CANDLE_COURSE_OFFLINE", "HF_HUB_OFFLINE"].iter().any(|name| switched_on(name))
}

/// Who speaks to the hub, and to which address.
fn client(options: &HubOptions, cache: &Cache) -> (Client, String) {
    let endpoint = options
        .endpoint
        .clone()
        .or_else(|| std::env::var("HF_ENDPOINT").ok().filter(|endpoint| !endpoint.is_empty()))
        .unwrap_or_else(|| ENDPOINT.to_owned());
    let endpoint = endpoint.trim_end_matches('/').to_owned();
    let token = std::env::var("HF_TOKEN").ok().filter(|token| !token.is_empty()).or_else(|| cache.token());
    (Client::new(endpoint.clone(), token, options.patience.clone()), endpoint)
}

/// The images of `files`; what cannot be read leaves the cache.
fn read(set: &Specification, cache: &Cache, files: &[Vec<PathBuf>; 2], verify: bool) -> Result<[RawImages; 2]> {
    let images = decode(set, files, verify).map_err(|(file, error)| {
        cache.forget(&file);
        error
    })?;
    // The caller refuses it.
    if verify && (0..2).any(|split| images[split].labels.len() != set.counts[split]) {
        files.iter().flatten().for_each(|file| cache.forget(file));
    }
    Ok(images)
}

/// Goes on to the next source, and says why; unless the user must know of it.
fn nothing(failure: Failure, what: &str) -> Result<Found> {
    match failure {
        Failure::Refused(error) => Err(error.context(what)),
        Failure::Passing(_, reason) | Failure::Lasting(reason) | Failure::NoSuchRange(reason) => {
            Ok(Found::Nothing(format!("{what}: {reason}; the next load tries again")))
        }
        Failure::Unreachable(host) => {
            Ok(Found::Nothing(format!("{what}: {host} cannot be reached; the next load tries again")))
        }
    }
}

fn switched_on(variable: &str) -> bool {
    std::env::var(variable)
        .is_ok_and(|value| !matches!(value.to_lowercase().as_str(), "" | "0" | "false" | "off" | "no"))
}
