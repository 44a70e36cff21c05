//! Image sets from the Hugging Face hub: parquet files of PNG images.

mod cache;
mod decode;
mod download;
mod network;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::time::Duration;

use hf_hub::api::sync::ApiBuilder;
use hf_hub::{Cache, Repo, RepoType};

use self::cache::{cached_snapshot, check_download, complete};
use self::decode::decode;
use self::download::{Lines, download, list};
use self::network::reachable;
use crate::data::source::{Found, HubOptions, Source, Specification};
use crate::error::{Context, Error, Result};

const ENDPOINT: &str = "https://huggingface.co";
/// How long to wait for a connection, and then for the list of files, before there is "no network".
const CONNECT: Duration = Duration::from_millis(1500);
const LIST: Duration = Duration::from_secs(5);

/// The set from the hub's cache, else from the hub.
pub(crate) fn load(set: &Specification, options: &HubOptions) -> Result<Found> {
    let cache = match &options.cache {
        Some(path) => Cache::new(path.clone()),
        None => match std::env::var_os("HF_HUB_CACHE").filter(|path| !path.is_empty()) {
            Some(path) => Cache::new(path.into()),
            None if home_is_known() => Cache::from_env(),
            None => return Ok(Found::Nothing("no home folder for the hub's cache".to_owned())),
        },
    };
    let repository = Repo::new(set.repository.to_owned(), RepoType::Dataset);
    let snapshot = cached_snapshot(&cache, &repository);
    if let Some(files) = snapshot.as_deref().and_then(complete) {
        let images = decode(set, &files).or_else(|error| {
            // A file that the disk has damaged is removed, so that the next load can fetch it again.
            files.iter().flatten().try_for_each(|file| check_download(file))?;
            Err(error)
        })?;
        return Ok(Found::Images(images, Source::HubCache(cache.path().clone())));
    }
    if options.offline || ["CANDLE_COURSE_OFFLINE", "HF_HUB_OFFLINE"].iter().any(|name| switched_on(name)) {
        return Ok(Found::Nothing("offline, and the complete set is not in the local cache".to_owned()));
    }
    let endpoint = options
        .endpoint
        .clone()
        .or_else(|| std::env::var("HF_ENDPOINT").ok().filter(|endpoint| !endpoint.is_empty()))
        .unwrap_or_else(|| ENDPOINT.to_owned());
    let endpoint = endpoint.trim_end_matches('/').to_owned();
    if !reachable(&endpoint, options.patience.unwrap_or(CONNECT)) {
        return Ok(Found::Nothing(format!("{endpoint} cannot be reached, so not the complete set")));
    }
    let token = std::env::var("HF_TOKEN").ok().filter(|token| !token.is_empty()).or_else(|| cache.token());
    let api = ApiBuilder::from_cache(cache.clone())
        .with_endpoint(endpoint.clone())
        .with_token(token)
        .with_progress(false)
        .with_retries(2)
        .build()
        .context("cannot prepare a client of the hub")?;
    let (commit, remote) = match list(api.repo(repository.clone()), options.patience.unwrap_or(LIST)) {
        Ok(remote) => remote,
        Err(reason) => return Ok(Found::Nothing(format!("{endpoint} did not list {}: {reason}", set.repository))),
    };
    let cached = cache.repo(repository.clone());
    let api = api.repo(repository);
    // Of this very version, files that an earlier load finished need not be fetched again.
    let unchanged = snapshot.as_deref().is_some_and(|snapshot| snapshot.ends_with(&commit));
    let mut local: [Vec<PathBuf>; 2] = [vec![], vec![]];
    for (split, files) in remote.iter().enumerate() {
        if files.is_empty() {
            return Err(Error::data(format!(
                "{}: expected parquet files of a {} split, got none",
                set.repository,
                ["train", "test"][split]
            )));
        }
        for file in files {
            let finished = if unchanged { cached.get(file) } else { None };
            let lines = || Lines::new(options.quiet, set.name);
            match finished.map_or_else(|| download(&api, &cached, file, lines), Ok) {
                Ok(path) => {
                    check_download(&path)?;
                    local[split].push(path);
                }
                // What is on disk so far stays, and the next attempt goes on from there.
                Err(error) => {
                    return Ok(Found::Nothing(format!(
                        "downloading {file} failed ({error}); the next load resumes it"
                    )));
                }
            }
        }
    }
    let images = decode(set, &local)?;
    Ok(Found::Images(images, Source::Hub(set.repository.to_owned())))
}

fn home_is_known() -> bool {
    ["HF_HOME", "HOME", "USERPROFILE"].iter().any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))
}

fn switched_on(variable: &str) -> bool {
    std::env::var(variable)
        .is_ok_and(|value| !matches!(value.to_lowercase().as_str(), "" | "0" | "false" | "off" | "no"))
}
