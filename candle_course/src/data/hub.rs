//! Image sets from the Hugging Face hub: parquet files of PNG images.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use hf_hub::api::Progress;
use hf_hub::api::sync::{ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};
use image::ImageFormat;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::data::files::RawImages;
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
        let images = decode(set, &files)?;
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
    let remote = match list(api.repo(repository.clone()), options.patience.unwrap_or(LIST)) {
        Ok(remote) => remote,
        Err(reason) => return Ok(Found::Nothing(format!("{endpoint} did not list {}: {reason}", set.repository))),
    };
    let api = api.repo(repository);
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
            let progress = Lines::new(options.quiet, set.name);
            match api.download_with_progress(file, progress) {
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

/// Whether a TCP connection to the endpoint (or to the proxy on the way) opens in time. Names are
/// resolved in the same thread, because a resolver without network may block for many seconds.
fn reachable(endpoint: &str, patience: Duration) -> bool {
    let secure = endpoint.starts_with("https");
    let proxy = ["ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY"]
        .iter()
        .filter(|name| secure || **name != "HTTPS_PROXY")
        .flat_map(|name| [(*name).to_owned(), name.to_lowercase()])
        .find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()));
    let Some((host, port)) = host_and_port(endpoint) else { return false };
    let exempt = std::env::var("NO_PROXY").or_else(|_| std::env::var("no_proxy")).unwrap_or_default();
    let direct = exempt.split(',').map(str::trim).any(|name| {
        name == "*"
            || (!name.is_empty() && (host == name || host.ends_with(&format!(".{}", name.trim_start_matches('.')))))
    });
    let target = match proxy.filter(|_| !direct).and_then(|proxy| host_and_port(&proxy)) {
        Some(proxy) => proxy,
        None => (host, port),
    };
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let open = target.to_socket_addrs().is_ok_and(|addresses| {
            addresses.into_iter().any(|address| TcpStream::connect_timeout(&address, patience).is_ok())
        });
        let _ = sender.send(open);
    });
    receiver.recv_timeout(patience).unwrap_or(false)
}

/// Host and port of a URL.
fn host_and_port(url: &str) -> Option<(String, u16)> {
    let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
    let authority = rest.split(['/', '?']).next()?;
    let authority = authority.rsplit('@').next()?;
    let default = if scheme == "https" {
        443
    } else if scheme.starts_with("socks") {
        1080
    } else {
        80
    };
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => {
            Some((host.trim_matches(['[', ']']).to_owned(), port.parse().ok()?))
        }
        _ if authority.is_empty() => None,
        _ => Some((authority.trim_matches(['[', ']']).to_owned(), default)),
    }
}

/// Parquet files of the training and of the test split, in order.
fn splits(files: impl Iterator<Item = String>) -> [Vec<String>; 2] {
    let mut splits: [Vec<String>; 2] = [vec![], vec![]];
    for file in files.filter(|file| file.ends_with(".parquet")) {
        let name = file.rsplit('/').next().unwrap_or_default();
        for (split, prefix) in ["train", "test"].iter().enumerate() {
            if name.starts_with(prefix) {
                splits[split].push(file.clone());
            }
        }
    }
    splits.iter_mut().for_each(|files| files.sort());
    splits
}

/// The repository's parquet files, or why there is no answer.
fn list(repository: ApiRepo, patience: Duration) -> std::result::Result<[Vec<String>; 2], String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let _ = sender.send(repository.info());
    });
    match receiver.recv_timeout(patience) {
        Ok(Ok(info)) => Ok(splits(info.siblings.into_iter().map(|file| file.rfilename))),
        Ok(Err(error)) => Err(short(&error)),
        Err(_) => Err(format!("no answer within {} s", patience.as_secs_f32())),
    }
}

fn short(error: &ApiError) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

/// The folder of the last downloaded version.
fn cached_snapshot(cache: &Cache, repository: &Repo) -> Option<PathBuf> {
    let folder = cache.path().join(repository.folder_name());
    let commit = fs::read_to_string(folder.join("refs").join(repository.revision())).ok()?;
    Some(folder.join("snapshots").join(commit.trim()))
}

/// The parquet files below `snapshot`, if every part of both splits is there.
fn complete(snapshot: &Path) -> Option<[Vec<PathBuf>; 2]> {
    fn walk(folder: &Path, prefix: &str, into: &mut Vec<String>) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            // `metadata` follows the links that the cache is made of, and fails on a dangling one.
            match fs::metadata(entry.path()) {
                Ok(metadata) if metadata.is_dir() => walk(&entry.path(), &format!("{name}/"), into),
                Ok(_) => into.push(name),
                Err(_) => {}
            }
        }
    }
    let mut names = Vec::new();
    walk(snapshot, "", &mut names);
    let splits = splits(names.into_iter());
    // Names end in `-00000-of-00002.parquet`: a download that broke off between two parts is not
    // a complete set.
    let whole = |files: &Vec<String>| {
        let parts = files.first().and_then(|file| file.strip_suffix(".parquet")?.rsplit_once("-of-")?.1.parse().ok());
        !files.is_empty() && parts.is_none_or(|parts: usize| parts == files.len())
    };
    splits.iter().all(whole).then(|| splits.map(|files| files.iter().map(|file| snapshot.join(file)).collect()))
}

/// The hub names large files by their sha256, and the cache keeps that name.
fn check_download(path: &Path) -> Result<()> {
    let blob = fs::canonicalize(path).with_context(|| format!("cannot read {}", path.display()))?;
    let name = blob.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    if name.len() != 64 || !name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(());
    }
    let mut hasher = Sha256::new();
    let mut file = File::open(&blob).with_context(|| format!("cannot read {}", blob.display()))?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = std::io::Read::read(&mut file, &mut buffer)?;
        if read == 0 {
            break;
        }
        hasher.update(&buffer[..read]);
    }
    let got: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    if got == name {
        return Ok(());
    }
    // Leaving it in the cache would make every later load fail, too.
    let _ = fs::remove_file(path);
    let _ = fs::remove_file(&blob);
    Err(Error::data(format!("{} was damaged on its way: expected sha256 {name}, got {got}", path.display()))
        .hint("it was removed; load again"))
}

fn decode(set: &Specification, files: &[Vec<PathBuf>; 2]) -> Result<[RawImages; 2]> {
    let split = |files: &[PathBuf]| {
        let mut raw = RawImages { pixels: vec![], labels: vec![] };
        for file in files {
            read_parquet(set, file, &mut raw)
                .with_context(|| format!("{} is damaged or not of {}", file.display(), set.name))?;
        }
        Ok::<_, Error>(raw)
    };
    Ok([split(&files[0])?, split(&files[1])?])
}

/// Adds the images of a parquet file: a column with the group (bytes, path), a column of labels.
fn read_parquet(set: &Specification, path: &Path, into: &mut RawImages) -> Result<()> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let reader = SerializedFileReader::new(file)?;
    let mut encoded: Vec<Vec<u8>> = Vec::new();
    let first = into.labels.len();
    for row in reader.get_row_iter(None)? {
        let row = row?;
        let columns: BTreeMap<&str, &Field> =
            row.get_column_iter().map(|(name, field)| (name.as_str(), field)).collect();
        let image = columns.get("image").or_else(|| columns.get("img")).and_then(|field| match field {
            Field::Group(group) => group.get_column_iter().find_map(|(name, field)| match field {
                Field::Bytes(bytes) if name == "bytes" => Some(bytes.data().to_vec()),
                _ => None,
            }),
            _ => None,
        });
        let label = columns.get("label").and_then(|field| match **field {
            Field::Long(label) => u32::try_from(label).ok(),
            Field::Int(label) => u32::try_from(label).ok(),
            _ => None,
        });
        let (Some(image), Some(label)) = (image, label) else {
            let names: Vec<_> = columns.keys().collect();
            return Err(Error::data(format!(
                "row {}: expected a column `image` or `img` with bytes and an integer column `label`, got the columns {names:?}",
                encoded.len()
            )));
        };
        if label as usize >= set.class_names.len() {
            return Err(Error::data(format!(
                "row {}: expected a label below {}, got {label}",
                encoded.len(),
                set.class_names.len()
            )));
        }
        encoded.push(image);
        into.labels.push(label);
    }
    let [c, h, w] = set.shape;
    let size = c * h * w;
    let start = into.pixels.len();
    into.pixels.resize(start + (into.labels.len() - first) * size, 0);
    into.pixels[start..].par_chunks_exact_mut(size).zip(&encoded).enumerate().try_for_each(|(row, (out, png))| {
        let image = image::load_from_memory_with_format(png, ImageFormat::Png)
            .with_context(|| format!("row {row}: its image is no PNG"))?;
        if (image.height() as usize, image.width() as usize) != (h, w) {
            return Err(Error::data(format!(
                "row {row}: expected an image of {h}×{w}, got {}×{}",
                image.height(),
                image.width()
            )));
        }
        if c == 1 {
            out.copy_from_slice(image.to_luma8().as_raw());
        } else {
            for (i, pixel) in image.to_rgb8().pixels().enumerate() {
                for (channel, &value) in pixel.0.iter().enumerate() {
                    out[channel * h * w + i] = value;
                }
            }
        }
        Ok(())
    })
}

/// A line every few seconds: a notebook cannot overwrite one.
struct Lines {
    quiet: bool,
    set: &'static str,
    total: usize,
    done: usize,
    last: Instant,
}

impl Lines {
    fn new(quiet: bool, set: &'static str) -> Self {
        Self { quiet, set, total: 0, done: 0, last: Instant::now() }
    }
}

impl Progress for Lines {
    fn init(&mut self, size: usize, filename: &str) {
        if !self.quiet && self.total == 0 {
            println!("{}: downloading {filename} ({:.1} MB)", self.set, size as f64 / 1e6);
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
