use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

use image::ImageFormat;
use sha2::{Digest, Sha256};

use super::*;
use crate::data::source::{Patience, Source};
use crate::data::{Cifar10, Dataset, ImageDataset, ImageSetBuilder, Mnist};

pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A request: what for, and which bytes.
pub(crate) struct Request {
    pub path: String,
    /// First and last.
    pub range: Option<(usize, Option<usize>)>,
    pub headers: Vec<String>,
}

/// Answers in the place of an honest server, or not.
pub(crate) type Trick = Box<dyn Fn(&Request, &mut TcpStream) -> bool + Send + Sync>;

/// What a server has, and what it was asked.
#[derive(Default)]
pub(crate) struct Hub {
    pub repository: &'static str,
    /// Of a model, not of data.
    pub model: bool,
    /// Instead of `main`.
    pub revision: Option<&'static str>,
    pub files: HashMap<String, Vec<u8>>,
    pub trick: Option<Trick>,
    /// ETags that are no checksums.
    pub weak: bool,
    /// Knows no ranges.
    pub whole: bool,
    /// Answers that break off after this many bytes, as long as there are any.
    pub cuts: Mutex<Vec<usize>>,
    /// Serves other bytes than those whose sha256 it tells.
    pub lies: bool,
    pub requests: Mutex<Vec<String>>,
    pub content_requests: AtomicUsize,
}

pub(crate) fn digest(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Hub {
    /// Serves until the test ends; returns the endpoint.
    pub fn serve(self: &Arc<Self>) -> String {
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
        let range = headers.iter().find_map(|header| {
            let lower = header.to_lowercase();
            let (start, end) = lower.strip_prefix("range: bytes=")?.split_once('-')?;
            Some((start.parse().ok()?, end.parse().ok()))
        });
        let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
        let request = Request { path, range, headers };
        if self.trick.as_ref().is_some_and(|trick| trick(&request, &mut stream)) {
            return;
        }
        let Request { path, range, .. } = request;
        let mut send = |head: String, body: &[u8]| {
            let _ = stream.write_all(format!("HTTP/1.1 {head}\r\nConnection: close\r\n\r\n").as_bytes());
            let _ = stream.write_all(body);
        };
        let kind = if self.model { Kind::Model } else { Kind::Dataset };
        let mut address = Address::new(kind, self.repository);
        if let Some(revision) = self.revision {
            address.revision = revision.to_owned();
        }
        if path == address.listing() {
            let siblings: Vec<_> = self.files.keys().map(|name| serde_json::json!({ "rfilename": name })).collect();
            let body = serde_json::json!({ "sha": COMMIT, "siblings": siblings }).to_string();
            return send(
                format!("200 OK\r\nContent-Type: application/json\r\nContent-Length: {}", body.len()),
                body.as_bytes(),
            );
        }
        let Some(content) = path.strip_prefix(&address.file("")).and_then(|name| self.files.get(name)) else {
            return send("404 Not Found\r\nContent-Length: 0".to_owned(), b"");
        };
        let (start, end) = range.filter(|_| !self.whole).unwrap_or((0, None));
        if start >= content.len() && range.is_some() {
            return send("416 Range Not Satisfiable\r\nContent-Length: 0".to_owned(), b"");
        }
        if content.is_empty() {
            let head = format!("200 OK\r\nX-Repo-Commit: {COMMIT}\r\nETag: \"{}\"", digest(content));
            return send(format!("{head}\r\nContent-Length: 0"), b"");
        }
        let end = end.unwrap_or(content.len() - 1).min(content.len() - 1);
        let etag = if self.weak { "weak-1.0".to_owned() } else { digest(content) };
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
        let status = if self.whole {
            "200 OK".to_owned()
        } else {
            format!("206 Partial Content\r\nContent-Range: bytes {start}-{end}/{}", content.len())
        };
        let etags = if self.weak {
            format!("ETag: W/\"{}-{etag}\"", path.len())
        } else {
            format!("ETag: \"git-object\"\r\nX-Linked-ETag: \"{etag}\"")
        };
        send(format!("{status}\r\nX-Repo-Commit: {COMMIT}\r\n{etags}\r\nContent-Length: {length}"), &body);
    }
}

/// A parquet file as the hub's: a group of PNG bytes and path, and a label.
pub(super) fn parquet_file(column: &str, images: &ImageDataset, indices: &[usize]) -> Vec<u8> {
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

pub(super) fn mnist_hub() -> (Mnist, Hub) {
    static PARTS: OnceLock<(Mnist, HashMap<String, Vec<u8>>)> = OnceLock::new();
    let (sample, files) = PARTS.get_or_init(|| {
        let sample = Mnist::builder().sample().quiet().load().unwrap();
        let train = parquet_file("image", &sample.train(), &(0..50).collect::<Vec<_>>());
        let files = HashMap::from([
            ("README.md".to_owned(), b"# MNIST".to_vec()),
            ("mnist/train-00000-of-00001.parquet".to_owned(), train),
            ("mnist/test-00000-of-00001.parquet".to_owned(), parquet_file("image", &sample.test(), &[3, 1, 4])),
        ]);
        (sample, files)
    });
    (sample.clone(), Hub { repository: "ylecun/mnist", files: files.clone(), ..Hub::default() })
}

fn from<S: crate::data::ImageSet>(builder: ImageSetBuilder<S>, endpoint: &str, cache: &tempfile::TempDir) -> Result<S> {
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
    let other = File::create(blobs.join(format!("{}.lock", digest(content)))).unwrap();
    other.lock().unwrap();
    let holder = thread::spawn(move || {
        thread::sleep(Duration::from_secs(1));
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
            r#"expected a column "image" of images, their bytes or paths, got the columns ["picture", "label"]"#,
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
        assert!(
            start.elapsed() < Patience::default().connect * 2 + Patience::default().list,
            "{endpoint} took {:?}",
            start.elapsed()
        );
    }
    let offline = from(Mnist::builder().offline(true), "http://127.0.0.1:9", &cache).unwrap();
    assert_eq!(*offline.source(), Source::Sample);
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let options = HubOptions {
        endpoint: Some(format!("http://{}", silent.local_addr().unwrap())),
        cache: Some(cache.path().to_owned()),
        patience: Patience { list: Duration::from_millis(200), ..Patience::default() },
        ..HubOptions::default()
    };
    match load(<Mnist as crate::data::ImageSet>::specification(), &options, false).unwrap() {
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
        let mut child = crate::test_support::this_binary();
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
