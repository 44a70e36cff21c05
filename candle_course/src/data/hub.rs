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
use hf_hub::{Cache, CacheRepo, Repo, RepoType};
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

/// Downloads a file, or waits for another process that is at it.
fn download(
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

/// The repository's commit and parquet files, or why there is no answer.
fn list(repository: ApiRepo, patience: Duration) -> std::result::Result<(String, [Vec<String>; 2]), String> {
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
    let got = sha256(&blob).with_context(|| format!("cannot read {}", blob.display()))?;
    if got == name {
        return Ok(());
    }
    // Leaving it in the cache would make every later load fail, too.
    let _ = fs::remove_file(path);
    let _ = fs::remove_file(&blob);
    Err(Error::data(format!("{} was damaged: expected sha256 {name}, got {got}", path.display()))
        .hint("it was removed; load again"))
}

fn sha256(path: &Path) -> std::io::Result<String> {
    let mut hasher = Sha256::new();
    let mut file = File::open(path)?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        match std::io::Read::read(&mut file, &mut buffer)? {
            0 => return Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
            read => hasher.update(&buffer[..read]),
        }
    }
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

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};

    use parquet::basic::Compression;
    use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;

    use super::*;
    use crate::data::{Cifar10, Dataset, ImageDataset, ImageSetBuilder, Mnist};

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    /// What a server has, and what it was asked.
    #[derive(Default)]
    struct Hub {
        repository: &'static str,
        files: HashMap<String, Vec<u8>>,
        /// Answers that break off after this many bytes, as long as there are any.
        cuts: Mutex<Vec<usize>>,
        /// Serves other bytes than those whose sha256 it tells.
        lies: bool,
        requests: Mutex<Vec<String>>,
        content_requests: AtomicUsize,
    }

    fn digest(content: &[u8]) -> String {
        Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    impl Hub {
        /// Serves until the test ends; returns the endpoint.
        fn serve(self: &Arc<Self>) -> String {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let endpoint = format!("http://{}", listener.local_addr().unwrap());
            let hub = Arc::clone(self);
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let hub = Arc::clone(&hub);
                    thread::spawn(move || hub.answer(stream));
                }
            });
            endpoint
        }

        fn answer(&self, mut stream: TcpStream) {
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(|line| line.ok());
            let request = lines.next().unwrap_or_default();
            let headers: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
            self.requests.lock().unwrap().push(request.clone());
            let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
            let range = headers.iter().find_map(|header| {
                let (start, end) = header
                    .to_lowercase()
                    .strip_prefix("range: bytes=")?
                    .split_once('-')
                    .map(|(a, b)| (a.to_owned(), b.to_owned()))?;
                Some((start.parse::<usize>().ok()?, end.parse::<usize>().ok()))
            });
            let mut send = |head: String, body: &[u8]| {
                let _ = stream.write_all(format!("HTTP/1.1 {head}\r\nConnection: close\r\n\r\n").as_bytes());
                let _ = stream.write_all(body);
            };
            if path == format!("/api/datasets/{}/revision/main", self.repository) {
                let siblings: Vec<_> = self.files.keys().map(|name| serde_json::json!({ "rfilename": name })).collect();
                let body = serde_json::json!({ "sha": COMMIT, "siblings": siblings }).to_string();
                return send(
                    format!("200 OK\r\nContent-Type: application/json\r\nContent-Length: {}", body.len()),
                    body.as_bytes(),
                );
            }
            let prefix = format!("/datasets/{}/resolve/main/", self.repository);
            let Some(content) = path.strip_prefix(&prefix).and_then(|name| self.files.get(name)) else {
                return send("404 Not Found\r\nContent-Length: 0".to_owned(), b"");
            };
            let (start, end) = range.unwrap_or((0, None));
            if start >= content.len() {
                return send("416 Range Not Satisfiable\r\nContent-Length: 0".to_owned(), b"");
            }
            let end = end.unwrap_or(content.len() - 1).min(content.len() - 1);
            let etag = digest(content);
            let mut body = content[start..=end].to_vec();
            if end > start {
                self.content_requests.fetch_add(1, Ordering::SeqCst);
                if self.lies {
                    body[10] ^= 1;
                }
            }
            let length = body.len();
            if end > start
                && let Some(cut) = self.cuts.lock().unwrap().pop()
            {
                body.truncate(cut);
            }
            send(
                format!(
                    "206 Partial Content\r\nX-Repo-Commit: {COMMIT}\r\nETag: \"git-object\"\r\nX-Linked-ETag: \"{etag}\"\r\nContent-Range: bytes {start}-{end}/{}\r\nContent-Length: {length}",
                    content.len()
                ),
                &body,
            );
        }
    }

    /// A parquet file as the hub's: a group of PNG bytes and path, and a label.
    fn parquet_file(column: &str, images: &ImageDataset, indices: &[usize]) -> Vec<u8> {
        let schema = format!(
            "message schema {{ optional group {column} {{ optional binary bytes; optional binary path (STRING); }} optional int64 label; }}"
        );
        let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
        let mut out = Vec::new();
        let mut writer =
            SerializedFileWriter::new(&mut out, Arc::new(parse_message_type(&schema).unwrap()), Arc::new(properties))
                .unwrap();
        let mut group = writer.next_row_group().unwrap();
        let pngs: Vec<ByteArray> = indices.iter().map(|&i| ByteArray::from(png(images, i))).collect();
        let n = indices.len();
        let mut write_bytes = |values: &[ByteArray], levels: &[i16]| {
            let mut column = group.next_column().unwrap().unwrap();
            column.typed::<ByteArrayType>().write_batch(values, Some(levels), None).unwrap();
            column.close().unwrap();
        };
        write_bytes(&pngs, &vec![2; n]);
        write_bytes(&[], &vec![1; n]);
        let labels: Vec<i64> = indices.iter().map(|&i| i64::from(images.labels()[i])).collect();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<Int64Type>().write_batch(&labels, Some(&vec![1; n]), None).unwrap();
        column.close().unwrap();
        group.close().unwrap();
        writer.close().unwrap();
        out
    }

    fn png(images: &ImageDataset, index: usize) -> Vec<u8> {
        let [c, h, w] = images.shape();
        let planes = images.bytes(index).unwrap();
        let interleaved: Vec<u8> =
            (0..h * w).flat_map(|i| (0..c).map(move |channel| planes[channel * h * w + i])).collect();
        let color = if c == 1 { image::ExtendedColorType::L8 } else { image::ExtendedColorType::Rgb8 };
        let mut out = std::io::Cursor::new(Vec::new());
        image::write_buffer_with_format(&mut out, &interleaved, w as u32, h as u32, color, ImageFormat::Png).unwrap();
        out.into_inner()
    }

    fn mnist_hub() -> (Mnist, Hub) {
        let sample = Mnist::builder().sample().quiet().load().unwrap();
        let files = HashMap::from([
            ("README.md".to_owned(), b"# MNIST".to_vec()),
            (
                "mnist/train-00000-of-00001.parquet".to_owned(),
                parquet_file("image", &sample.train(), &(0..50).collect::<Vec<_>>()),
            ),
            ("mnist/test-00000-of-00001.parquet".to_owned(), parquet_file("image", &sample.test(), &[3, 1, 4])),
        ]);
        (sample, Hub { repository: "ylecun/mnist", files, ..Hub::default() })
    }

    fn from<S: crate::data::ImageSet>(
        builder: ImageSetBuilder<S>,
        endpoint: &str,
        cache: &tempfile::TempDir,
    ) -> Result<S> {
        builder.endpoint(endpoint).cache(cache.path()).verify(false).quiet().load()
    }

    #[test]
    fn a_set_comes_from_the_hub_once_and_then_from_the_cache() {
        let (sample, hub) = mnist_hub();
        let hub = Arc::new(hub);
        let (endpoint, cache) = (hub.serve(), tempfile::tempdir().unwrap());
        let mnist = from(Mnist::builder(), &endpoint, &cache).unwrap();
        assert_eq!(*mnist.source(), Source::Hub("ylecun/mnist".to_owned()));
        assert_eq!(mnist.train().labels(), &sample.train().labels()[..50]);
        for (at, index) in [3, 1, 4].into_iter().enumerate() {
            assert_eq!(mnist.test().bytes(at).unwrap(), sample.test().bytes(index).unwrap());
        }
        let asked = hub.requests.lock().unwrap().len();
        let again = from(Mnist::builder(), &endpoint, &cache).unwrap();
        assert_eq!(*again.source(), Source::HubCache(cache.path().to_owned()));
        assert_eq!(again.train().bytes(49).unwrap(), mnist.train().bytes(49).unwrap());
        assert_eq!(hub.requests.lock().unwrap().len(), asked, "the cache needs no request");
    }

    #[test]
    fn images_from_the_hub_are_upright_and_in_their_colours() {
        let sample = Cifar10::builder().sample().quiet().load().unwrap();
        let hub = Arc::new(Hub {
            repository: "uoft-cs/cifar10",
            files: HashMap::from([
                ("plain_text/train-00000-of-00002.parquet".to_owned(), parquet_file("img", &sample.train(), &[0, 1])),
                ("plain_text/train-00001-of-00002.parquet".to_owned(), parquet_file("img", &sample.train(), &[2])),
                ("plain_text/test-00000-of-00001.parquet".to_owned(), parquet_file("img", &sample.test(), &[0])),
            ]),
            ..Hub::default()
        });
        let cache = tempfile::tempdir().unwrap();
        let cifar = from(Cifar10::builder(), &hub.serve(), &cache).unwrap();
        for index in 0..3 {
            assert_eq!(cifar.train().bytes(index).unwrap(), sample.train().bytes(index).unwrap());
        }
        assert_eq!(cifar.test().bytes(0).unwrap(), sample.test().bytes(0).unwrap());
    }

    #[test]
    fn a_download_that_broke_off_is_resumed() {
        let (_, mut hub) = mnist_hub();
        hub.cuts = Mutex::new(vec![100, 100]);
        let hub = Arc::new(hub);
        let cache = tempfile::tempdir().unwrap();
        let mnist = from(Mnist::builder(), &hub.serve(), &cache).unwrap();
        assert_eq!(mnist.train().len(), 50);
        assert_eq!(hub.content_requests.load(Ordering::SeqCst), 4, "two files and two resumed parts");
    }

    #[test]
    fn what_an_earlier_load_finished_is_not_fetched_again() {
        let (_, mut hub) = mnist_hub();
        hub.files.insert("mnist/test-00000-of-00001.parquet".to_owned(), vec![]); // has no first byte: refused
        let cache = tempfile::tempdir().unwrap();
        let broken_off = from(Mnist::builder(), &Arc::new(hub).serve(), &cache).unwrap();
        assert_eq!(*broken_off.source(), Source::Sample);
        let whole = Arc::new(mnist_hub().1);
        let mnist = from(Mnist::builder(), &whole.serve(), &cache).unwrap();
        assert_eq!((mnist.train().len(), mnist.test().len()), (50, 3));
        let requests = whole.requests.lock().unwrap();
        assert!(requests.iter().any(|request| request.contains("/test-")));
        assert!(!requests.iter().any(|request| request.contains("/train-")), "{requests:?}");
    }

    #[test]
    fn a_file_that_the_disk_damaged_is_removed_and_fetched_again() {
        let hub = Arc::new(mnist_hub().1);
        let (endpoint, cache) = (hub.serve(), tempfile::tempdir().unwrap());
        from(Mnist::builder(), &endpoint, &cache).unwrap();
        let blobs = cache.path().join("datasets--ylecun--mnist/blobs");
        let blob = blobs.join(digest(&hub.files["mnist/train-00000-of-00001.parquet"]));
        fs::write(&blob, b"PAR1").unwrap();
        let error = from(Mnist::builder(), &endpoint, &cache).unwrap_err().to_string();
        assert!(error.contains("was damaged: expected sha256") && error.contains("load again"), "{error}");
        assert_eq!(from(Mnist::builder(), &endpoint, &cache).unwrap().train().len(), 50);
    }

    #[test]
    fn a_download_that_only_lacks_its_name_does_not_stay_in_the_way() {
        let (_, hub) = mnist_hub();
        let content = hub.files["mnist/train-00000-of-00001.parquet"].clone();
        let cache = tempfile::tempdir().unwrap();
        let blobs = cache.path().join("datasets--ylecun--mnist/blobs");
        fs::create_dir_all(&blobs).unwrap();
        fs::write(blobs.join(format!("{}.part", digest(&content))), &content).unwrap();
        let mnist = from(Mnist::builder(), &Arc::new(hub).serve(), &cache).unwrap();
        assert_eq!(mnist.train().len(), 50);
        assert!(matches!(mnist.source(), Source::Hub(_)), "{}", mnist.source());
    }

    #[test]
    fn a_download_of_another_process_is_waited_for() {
        let (_, hub) = mnist_hub();
        let content = &hub.files["mnist/train-00000-of-00001.parquet"];
        let cache = tempfile::tempdir().unwrap();
        let blobs = cache.path().join("datasets--ylecun--mnist/blobs");
        fs::create_dir_all(&blobs).unwrap();
        // Longer than the client's own patience of five seconds.
        let other = File::create(blobs.join(format!("{}.lock", digest(content)))).unwrap();
        other.lock().unwrap();
        let holder = thread::spawn(move || {
            thread::sleep(Duration::from_secs(7));
            drop(other);
        });
        let mnist = from(Mnist::builder(), &Arc::new(hub).serve(), &cache).unwrap();
        holder.join().unwrap();
        assert!(matches!(mnist.source(), Source::Hub(_)), "{}", mnist.source());
    }

    #[test]
    fn damage_on_the_way_is_found_and_removed() {
        let (_, mut hub) = mnist_hub();
        hub.lies = true;
        let hub = Arc::new(hub);
        let cache = tempfile::tempdir().unwrap();
        let error = from(Mnist::builder(), &hub.serve(), &cache).unwrap_err().to_string();
        assert!(error.contains("train-00000-of-00001.parquet was damaged: expected sha256"), "{error}");
        let (_, honest) = mnist_hub();
        let mnist = from(Mnist::builder(), &Arc::new(honest).serve(), &cache).unwrap();
        assert_eq!(mnist.train().len(), 50);
    }

    #[test]
    fn files_that_are_no_such_set_are_named() {
        let (sample, mut hub) = mnist_hub();
        let train = "mnist/train-00000-of-00001.parquet".to_owned();
        let whole = hub.files[&train].clone();
        let cifar = Cifar10::builder().sample().quiet().load().unwrap();
        for (content, expected) in [
            (whole[..whole.len() - 100].to_vec(), "is damaged or not of MNIST"),
            (b"not parquet at all".to_vec(), "is damaged or not of MNIST"),
            (
                parquet_file("picture", &sample.train(), &[0]),
                r#"expected a column `image` or `img` with bytes and an integer column `label`, got the columns ["label", "picture"]"#,
            ),
            (parquet_file("img", &cifar.train(), &[0]), "row 0: expected an image of 28×28, got 32×32"),
        ] {
            hub.files.insert(train.clone(), content);
            let served = Arc::new(Hub { repository: hub.repository, files: hub.files.clone(), ..Hub::default() });
            let cache = tempfile::tempdir().unwrap();
            let error = from(Mnist::builder(), &served.serve(), &cache).unwrap_err().to_string();
            assert!(error.contains("train-00000-of-00001.parquet") && error.contains(expected), "{error}");
        }
    }

    #[test]
    fn too_few_images_are_an_error_unless_asked_for() {
        let (_, hub) = mnist_hub();
        let cache = tempfile::tempdir().unwrap();
        let endpoint = Arc::new(hub).serve();
        let error = Mnist::builder().endpoint(endpoint).cache(cache.path()).quiet().load().unwrap_err().to_string();
        assert!(error.contains("expected the 60000 training images of MNIST, got 50"), "{error}");
    }

    #[test]
    fn without_a_hub_there_is_the_sample_at_once() {
        let cache = tempfile::tempdir().unwrap();
        // A port that nobody listens on; a name that does not exist; a server that never answers.
        let closed = { format!("http://{}", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()) };
        for endpoint in [closed.as_str(), "http://no-such-host.invalid"] {
            let start = Instant::now();
            let mnist = from(Mnist::builder(), endpoint, &cache).unwrap();
            assert_eq!(*mnist.source(), Source::Sample);
            assert!(start.elapsed() < CONNECT + LIST, "{endpoint} took {:?}", start.elapsed());
        }
        let offline = from(Mnist::builder().offline(true), "http://127.0.0.1:9", &cache).unwrap();
        assert_eq!(*offline.source(), Source::Sample);
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let options = HubOptions {
            endpoint: Some(format!("http://{}", silent.local_addr().unwrap())),
            cache: Some(cache.path().to_owned()),
            patience: Some(Duration::from_millis(200)),
            ..HubOptions::default()
        };
        match load(<Mnist as crate::data::ImageSet>::specification(), &options).unwrap() {
            Found::Nothing(reason) => assert!(reason.contains("no answer within 0.2 s"), "{reason}"),
            Found::Images(..) => panic!("a silent server has no images"),
        }
    }

    /// What users set outside the program; every setting is a process of its own.
    #[test]
    fn the_environment_names_folder_hub_and_cache() {
        const CHILD: &str = "CANDLE_COURSE_TEST_SOURCE_CHILD";
        if std::env::var_os(CHILD).is_some() {
            match Mnist::builder().verify(false).load() {
                Ok(mnist) => println!("\nsource: {}, {} images", mnist.source(), mnist.train().len()),
                Err(error) => println!("\nsource: {}", error.to_string().replace('\n', " ")),
            }
            return;
        }
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("data");
        fs::create_dir_all(&folder).unwrap();
        for split in ["train", "t10k"] {
            let images = [vec![0, 0, 8, 3, 0, 0, 0, 1, 0, 0, 0, 28, 0, 0, 0, 28], [0, 9].repeat(392)].concat();
            fs::write(folder.join(format!("{split}-images-idx3-ubyte")), images).unwrap();
            fs::write(folder.join(format!("{split}-labels-idx1-ubyte")), [0, 0, 8, 1, 0, 0, 0, 1, 7]).unwrap();
        }
        let load = |settings: &[(&str, &str)]| {
            let mut child = std::process::Command::new(std::env::current_exe().unwrap());
            child.args(["--exact", "data::hub::tests::the_environment_names_folder_hub_and_cache", "--nocapture"]);
            for name in ["CANDLE_COURSE_DATA", "CANDLE_COURSE_OFFLINE", "HF_HUB_OFFLINE", "HF_HUB_CACHE", "HF_TOKEN"] {
                child.env_remove(name);
            }
            child.env(CHILD, "1").env("HF_HOME", home.path()).envs(settings.iter().copied());
            let text = String::from_utf8_lossy(&child.output().unwrap().stdout).into_owned();
            let told = text.lines().find(|line| line.contains(" test images from ")).unwrap_or_default().to_owned();
            let source = text.lines().find_map(|line| line.strip_prefix("source: "));
            (source.unwrap_or_else(|| panic!("{settings:?}:\n{text}")).to_owned(), told)
        };
        let endpoint = Arc::new(mnist_hub().1).serve();
        let hub = ("HF_ENDPOINT", endpoint.as_str());

        let (source, told) = load(&[("CANDLE_COURSE_DATA", folder.to_str().unwrap()), hub]);
        assert_eq!(source, format!("{}, 1 images", Source::Folder(folder.clone())));
        assert!(told.contains("1 training and 1 test images") && told.contains(folder.to_str().unwrap()), "{told}");
        let missing = home.path().join("missing");
        let (error, _) = load(&[("CANDLE_COURSE_DATA", missing.to_str().unwrap()), hub]);
        assert!(error.contains("CANDLE_COURSE_DATA names") && error.contains("not a folder"), "{error}");

        for offline in ["CANDLE_COURSE_OFFLINE", "HF_HUB_OFFLINE"] {
            let (source, told) = load(&[(offline, "1"), hub]);
            assert_eq!(source, format!("{}, 6000 images", Source::Sample));
            assert!(told.contains("(offline, and the complete set is not in the local cache)"), "{told}");
        }
        // A folder without this set goes on to the hub, and says why.
        let (source, told) = load(&[("CANDLE_COURSE_DATA", home.path().to_str().unwrap()), hub]);
        assert_eq!(source, format!("{}, 50 images", Source::Hub("ylecun/mnist".to_owned())));
        assert!(told.contains("no MNIST in"), "{told}");
        let cached = Source::HubCache(home.path().join("hub"));
        assert_eq!(load(&[("CANDLE_COURSE_OFFLINE", "1"), hub]).0, format!("{cached}, 50 images"));
        // Another cache knows nothing of it.
        let other = home.path().join("other");
        let (source, _) = load(&[("HF_HUB_CACHE", other.to_str().unwrap()), ("HF_HUB_OFFLINE", "1"), hub]);
        assert_eq!(source, format!("{}, 6000 images", Source::Sample));
    }

    #[test]
    fn urls_give_host_and_port() {
        let parts = |url| host_and_port(url).map(|(host, port)| format!("{host} {port}"));
        assert_eq!(parts("https://huggingface.co").as_deref(), Some("huggingface.co 443"));
        assert_eq!(parts("http://localhost:8080/x?y").as_deref(), Some("localhost 8080"));
        assert_eq!(parts("http://user:secret@proxy:3128/").as_deref(), Some("proxy 3128"));
        assert_eq!(parts("http://[::1]:99").as_deref(), Some("::1 99"));
        assert_eq!(parts("https://[::1]").as_deref(), Some("::1 443"));
        assert_eq!(parts("proxy:8080").as_deref(), Some("proxy 8080"));
        assert_eq!(parts("http://"), None);
    }
}
