//! What comes from the Hugging Face hub: any file of a repository, and image sets in parquet files.
//!
//! The network, and what others put into the cache, is not trusted: every question has limits of time and
//! size (`client`), names from outside are looked at before they become paths (`cache`), contents are
//! checked against their checksums before they are decoded, and what cannot be decoded leaves the cache,
//! so that the next load fetches it again.

pub(crate) mod address;
mod cache;
mod client;
mod decode;
pub(crate) mod download;
#[cfg(test)]
mod hell_tests;
#[cfg(test)]
mod images_tests;
mod pages;
pub(super) mod repository;
pub(super) mod shards;
#[cfg(test)]
pub(crate) mod tests;
pub(crate) mod version;

use self::address::{Address, Kind};
use self::cache::Cache;
use self::client::Client;
use self::decode::decode;
use self::download::Wanted;
use self::repository::{Choice, files};
use self::version::{Missing, with_version};
use crate::data::source::{Found, HubOptions, Specification};
use crate::error::Result;
use crate::language::told;

const ENDPOINT: &str = "https://huggingface.co";

/// The set from the hub's cache, else from the hub. With `verify`, a set of another size leaves the cache.
pub(crate) fn load(set: &Specification, options: &HubOptions, verify: bool) -> Result<Found> {
    let address = Address::new(Kind::Dataset, set.repository);
    let choice = Choice { splits: vec!["train".to_owned(), "test".to_owned()], ..Choice::default() };
    let pixels = set.counts.iter().sum::<usize>() * set.shape.iter().product::<usize>();
    // PNG makes images smaller, and there is room for more.
    let wanted = Wanted { limit: 4 * pixels as u64, quiet: options.quiet };
    let found = with_version(&address, options, wanted, &mut |version| {
        let Some(files) = files(version, set.repository, &choice, &mut |_, _| Ok(false))? else { return Ok(None) };
        let files = [files["train"].as_slice(), files["test"].as_slice()];
        let images = decode(set, files, verify).map_err(|(file, error)| {
            version.forget(&file);
            error
        })?;
        // The caller refuses it.
        if verify && (0..2).any(|split| images[split].labels.len() != set.counts[split]) {
            files.into_iter().flatten().for_each(|file| version.forget(file));
        }
        Ok(Some(images))
    })?;
    Ok(match found {
        Ok((images, source)) => Found::Images(images, source),
        Err(Missing::Home) => Found::Nothing("no home folder for the hub's cache".to_owned()),
        Err(Missing::Offline) => Found::Nothing("offline, and the complete set is not in the local cache".to_owned()),
        Err(Missing::Unreachable(endpoint)) => Found::Nothing(told!(
            "{} cannot be reached, so not the complete set",
            "{} não responde, por isso não é o conjunto completo",
            endpoint
        )),
        Err(Missing::Failed(reason)) => Found::Nothing(reason),
    })
}

/// Whether the hub is not to be spoken to.
pub(crate) fn offline(options: &HubOptions) -> bool {
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

fn switched_on(variable: &str) -> bool {
    std::env::var(variable)
        .is_ok_and(|value| !matches!(value.to_lowercase().as_str(), "" | "0" | "false" | "off" | "no"))
}
