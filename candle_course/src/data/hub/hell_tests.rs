//! A hub from hell: it stalls, drips, cuts off, lies about lengths, sends web pages, redirects in circles,
//! gives names that lead elsewhere, and has no time. Each trick ends within its limit, says what happened,
//! leaves nothing outside the cache, and does not stand in the way of an honest server afterwards.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::tests::{COMMIT, Hub, Request, Trick, digest, mnist_hub};
use super::*;
use crate::data::source::{Patience, Source};
use crate::data::{ImageSet, Mnist};
use crate::test_support::{mutations, tried};

const TRAIN: &str = "mnist/train-00000-of-00001.parquet";

fn options(endpoint: String, home: &tempfile::TempDir) -> HubOptions {
    HubOptions {
        endpoint: Some(endpoint),
        cache: Some(home.path().join("hub")),
        quiet: true,
        patience: Patience {
            connect: Duration::from_secs(5),
            list: Duration::from_secs(8),
            silence: Duration::from_millis(2500),
            wait: Duration::from_secs(4),
        },
        ..HubOptions::default()
    }
}

/// What the chain is told: the reason to go on to the next source, or the error.
fn outcome(options: &HubOptions) -> std::result::Result<Source, String> {
    match load(Mnist::specification(), options, false) {
        Ok(Found::Images(_, source)) => Ok(source),
        Ok(Found::Nothing(reason)) => Err(format!("goes on: {reason}")),
        Err(error) => Err(format!("refused: {error}")),
    }
}

fn send(stream: &mut TcpStream, head: &str, body: &[u8]) -> bool {
    let _ = stream.write_all(format!("HTTP/1.1 {head}\r\nConnection: close\r\n\r\n").as_bytes());
    let _ = stream.write_all(body);
    true
}

/// Longer than any limit of these tests; the connection stays open meanwhile.
fn stall() -> bool {
    thread::sleep(Duration::from_secs(60));
    true
}

fn drip(stream: &mut TcpStream) -> bool {
    while stream.write_all(b" ").is_ok() {
        thread::sleep(Duration::from_millis(20));
    }
    true
}

/// On the list of files.
fn listing(act: impl Fn(&mut TcpStream) -> bool + Send + Sync + 'static) -> Trick {
    Box::new(move |request, stream| request.path.starts_with("/api/") && act(stream))
}

fn listed(body: &'static str) -> Trick {
    listing(move |stream| send(stream, &format!("200 OK\r\nContent-Length: {}", body.len()), body.as_bytes()))
}

/// On the question how large a file is, and what it is called.
fn head(answer: &'static str) -> Trick {
    Box::new(move |request, stream| request.range == Some((0, Some(0))) && send(stream, answer, b"x"))
}

/// On the content of the training file.
fn content(act: impl Fn(&Request, usize, &mut TcpStream) -> bool + Send + Sync + 'static) -> Trick {
    Box::new(move |request, stream| match request.range {
        Some((start, None)) if request.path.contains("/train-") => act(request, start, stream),
        _ => false,
    })
}

/// `206` with a range of `size` bytes from `start` on, and no length.
fn partial(start: usize, size: usize) -> String {
    format!("206 Partial Content\r\nContent-Range: bytes {start}-{}/{size}", size - 1)
}

#[test]
fn every_trick_ends_in_time_says_what_happened_and_does_no_harm() {
    let (_, honest) = mnist_hub();
    let size = honest.files[TRAIN].len();
    let file = Arc::new(honest.files[TRAIN].clone());
    let (cut, long, half) = (Arc::clone(&file), Arc::clone(&file), Arc::clone(&file));
    let count = AtomicUsize::new(0);
    const NAMED: &str = "206 Partial Content\r\nContent-Range: bytes 0-0/5000\r\nContent-Length: 1";
    let named = |headers: &str| -> &'static str { format!("{NAMED}\r\n{headers}").leak() };
    let commit = format!("X-Repo-Commit: {COMMIT}");
    let tricks: Vec<(&str, bool, Trick)> = vec![
        // The list of files.
        ("no answer within 8 s", false, listing(|_| stall())),
        ("no whole answer in time", false, listing(|stream| send(stream, "200 OK\r\nContent-Length: 99", b"{") && stall())),
        ("no whole answer in time", false, listing(|stream| send(stream, "200 OK", b"{") && drip(stream))),
        ("no answer within", false, listing(|stream| stream.write_all(b"HTTP/1.1 200 OK\r\nX: ").is_ok() && drip(stream))),
        ("goes on: ", false, listing(|stream| {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n");
            while stream.write_all(b"X: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n").is_ok() {}
            true
        })),
        ("larger than request limit", false, listing(|stream| {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
            while stream.write_all(&[b' '; 1 << 16]).is_ok() {}
            true
        })),
        ("answered with a web page", false, listing(|stream| send(stream, "200 OK\r\nContent-Type: text/html; charset=utf-8", b"<html>Log in"))),
        ("is no list of files", false, listed("<html>Log in</html>")),
        ("is no list of files", false, listed(r#"{"sha": 1, "siblings": []}"#)),
        ("is no list of files", false, listed("[[[[[[[[[[[[[[[[")),
        ("answered with status 404", false, listing(|stream| send(stream, "404 Not Found", b""))),
        ("status 503, 3 times", false, listing(|stream| send(stream, "503 Service Unavailable", b""))),
        ("status 429 and asks to wait for 3600 s", false, listing(|stream| send(stream, "429 Too Many Requests\r\nRetry-After: 3600", b""))),
        ("redirects without saying where to", false, listing(|stream| send(stream, "302 Found", b""))),
        ("redirects to where it redirects from", false, listing(|stream| send(stream, "307 Temporary Redirect\r\nLocation: main", b""))),
        ("is no address", false, listing(|stream| send(stream, "302 Found\r\nLocation: file:///etc/passwd", b""))),
        ("redirects more than 10 times", false, listing(move |stream| {
            let next = count.fetch_add(1, Ordering::SeqCst);
            send(stream, &format!("302 Found\r\nLocation: /api/{next}"), b"")
        })),
        ("lists 10001 files", true, listed(Box::leak(serde_json::json!({
            "sha": COMMIT,
            "siblings": (0..10_001).map(|n| serde_json::json!({ "rfilename": format!("{n}/train.parquet") })).collect::<Vec<_>>(),
        }).to_string().into_boxed_str()))),
        ("no plain name", true, head(named(&format!("{commit}\r\nX-Linked-ETag: \"../../../../evil\"")))),
        ("no plain name", true, head(named(&format!("{commit}\r\nETag: \"/tmp/evil\"")))),
        ("no plain name", true, head(named(&format!("{commit}\r\nETag: \"..\"")))),
        ("no plain name", true, head(named("X-Repo-Commit: ../../../../evil\r\nETag: \"a\""))),
        ("no plain name", true, head(named("X-Repo-Commit: a/b\r\nETag: \"a\""))),
        ("which leads elsewhere", true, listed(r#"{"sha": "a/../../../../../evil", "siblings": []}"#)),
        ("which leads elsewhere", true, listed(r#"{"sha": "a", "siblings": [{"rfilename": "../../../../../train-evil.parquet"}]}"#)),
        ("which leads elsewhere", true, listed(r#"{"sha": "a", "siblings": [{"rfilename": "/tmp/train-evil.parquet"}]}"#)),
        ("which leads elsewhere", true, listed(r#"{"sha": "a", "siblings": [{"rfilename": "..\\..\\train-evil.parquet"}]}"#)),
        ("expected parquet files, got none", true, listed(r#"{"sha": "a", "siblings": []}"#)),
        ("expected some of test, got train", true, listed(r#"{"sha": "a", "siblings": [{"rfilename": "test.parquet"}]}"#)),
        // What the file is called, and how large it is.
        ("no answer within 2.5 s", false, Box::new(|request, _| request.range.is_some() && stall())),
        ("gives no ETag", false, head(named(&commit))),
        ("changed in the meantime", false, head(named("X-Repo-Commit: other\r\nETag: \"a\""))),
        ("does not say how large", false, head("206 Partial Content\r\nETag: \"a\"\r\nContent-Range: bytes 0-0/*")),
        ("does not say how large", false, head("206 Partial Content\r\nETag: \"a\"\r\nContent-Range: bytes")),
        ("announces a file of 1000000000.0 MB", false, head("206 Partial Content\r\nETag: \"a\"\r\nContent-Range: bytes 0-0/1000000000000000")),
        ("has an empty file", false, head("200 OK\r\nETag: \"a\"\r\nContent-Length: 0")),
        ("answered with a web page", false, head("200 OK\r\nContent-Type: text/html\r\nContent-Length: 1\r\nETag: \"a\"")),
        ("redirects without saying where to", false, head("302 Found\r\nETag: \"a\"")),
        ("redirects to where it redirects from", false, Box::new(|request, stream| {
            request.range.is_some() && send(stream, &format!("302 Found\r\nLocation: {}", request.path), b"")
        })),
        // The content.
        ("no answer within 2.5 s", false, content(|_, _, _| stall())),
        ("sent no byte for 2.5 s, after 100 of", false, content(move |_, start, stream| {
            send(stream, &partial(start, size), &[1; 100]) && stall()
        })),
        ("bytes a second for 2.5 s", false, content(move |_, start, stream| {
            send(stream, &partial(start, size), b"") && drip(stream)
        })),
        ("broke off after", false, content(move |_, start, stream| {
            send(stream, &partial(start, size), &cut[start..(start + 10).min(size)])
        })),
        ("broke off after 0 of", false, content(move |_, start, stream| {
            send(stream, &format!("{}\r\nContent-Length: {}", partial(start, size), size - start), b"")
        })),
        ("sends more than the", false, content(move |_, start, stream| {
            send(stream, &partial(start, size), &[&long[start..], &[0; 100_000]].concat())
        })),
        ("and answers with those from", false, content(move |_, start, stream| {
            send(stream, &partial(start, size / 2), &half[start..size / 2])
        })),
        ("and answers with those from", false, content(move |_, start, stream| {
            send(stream, &partial(start + 1, size), &[0; 100])
        })),
        ("does not say which bytes", false, content(|_, _, stream| send(stream, "206 Partial Content", &[0; 100]))),
        ("answered with a web page", false, content(|_, _, stream| send(stream, "200 OK\r\nContent-Type: text/html", b"<html>"))),
        ("status 503, 3 times", false, content(|_, _, stream| send(stream, "503 Service Unavailable", b""))),
        ("was damaged: expected sha256", true, content(move |_, start, stream| {
            send(stream, &partial(start, size), &vec![7; size - start])
        })),
    ];
    let number = tricks.len();
    thread::scope(|scope| {
        for (at, (says, refused, trick)) in tricks.into_iter().enumerate() {
            scope.spawn(move || {
                let home = tempfile::tempdir().unwrap();
                let hub = Arc::new(Hub { trick: Some(trick), ..mnist_hub().1 });
                let start = Instant::now();
                let told = outcome(&options(hub.serve(), &home)).expect_err(says);
                // The silence or the list's limit, a few times over, on a machine that does other things too.
                assert!(start.elapsed() < Duration::from_secs(300), "trick {at} took {:?}: {told}", start.elapsed());
                assert!(told.contains(says), "trick {at}: {told}\nlacks {says}");
                assert_eq!(told.starts_with("refused"), refused, "trick {at}: {told}");
                let outside: Vec<_> = fs::read_dir(home.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
                assert!(outside.iter().all(|path| path.ends_with("hub")), "trick {at} left {outside:?}");
                let honest = Arc::new(mnist_hub().1);
                let healed = outcome(&options(honest.serve(), &home));
                assert_eq!(healed, Ok(Source::Hub("ylecun/mnist".to_owned())), "after trick {at}: {says}");
            });
        }
    });
    tried(
        "A download ends within its limit, says what happened and leaves nothing half",
        "a data set from a server that stalls, drips, cuts, lies or leads outside, and then from an honest one",
        number,
    );
}

#[test]
fn a_stalled_hub_is_said_and_the_sample_used() {
    let home = tempfile::tempdir().unwrap();
    let hub = Arc::new(Hub { trick: Some(content(|_, _, _| stall())), ..mnist_hub().1 });
    let mut builder = Mnist::builder().verify(false).quiet();
    builder.hub = options(hub.serve(), &home);
    assert_eq!(*builder.load().unwrap().source(), Source::Sample);
}

#[test]
fn a_busy_hub_is_asked_again_when_it_says() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    let trick: Trick = Box::new(move |_, stream| {
        // Every first and second of three.
        counter.fetch_add(1, Ordering::SeqCst) % 3 < 2 && send(stream, "429 Too Many Requests\r\nRetry-After: 0", b"")
    });
    let home = tempfile::tempdir().unwrap();
    let hub = Arc::new(Hub { trick: Some(trick), ..mnist_hub().1 });
    assert!(matches!(outcome(&options(hub.serve(), &home)), Ok(Source::Hub(_))));
    assert_eq!(asked.load(Ordering::SeqCst), 15, "a list, and twice a head and a content");
}

#[test]
fn servers_without_ranges_and_without_checksums_are_served_from() {
    for (whole, weak) in [(true, false), (false, true), (true, true)] {
        let home = tempfile::tempdir().unwrap();
        let hub = Arc::new(Hub { whole, weak, cuts: Mutex::new(vec![100, 100]), ..mnist_hub().1 });
        let options = options(hub.serve(), &home);
        assert!(matches!(outcome(&options), Ok(Source::Hub(_))), "{whole} {weak}");
        assert!(matches!(outcome(&options), Ok(Source::HubCache(_))), "{whole} {weak}");
    }
}

#[test]
fn redirects_are_followed_and_the_token_stays_at_home() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (elsewhere, here) = (Arc::clone(&seen), Arc::clone(&seen));
    let note = |place: &'static str, seen: &Mutex<Vec<(&str, bool)>>, request: &Request| {
        let token = request.headers.iter().any(|header| header.to_lowercase() == "authorization: bearer secret");
        seen.lock().unwrap().push((place, token));
    };
    let storage = Hub {
        trick: Some(Box::new(move |request, _| {
            note("storage", &elsewhere, request);
            false
        })),
        ..mnist_hub().1
    };
    let storage = Arc::new(storage).serve();
    let trick: Trick = Box::new(move |request, stream| {
        note("hub", &here, request);
        let name = request.path.rsplit('/').next().unwrap();
        // A repository that was renamed, and then the files elsewhere.
        match request.path.strip_prefix("/renamed") {
            None if name.ends_with(".parquet") => {
                send(stream, &format!("307 Temporary Redirect\r\nLocation: /renamed{}", request.path), b"")
            }
            None => false,
            Some(path) => send(
                stream,
                &format!(
                    "302 Found\r\nX-Repo-Commit: {COMMIT}\r\nX-Linked-ETag: \"linked-{name}\"\r\nLocation: {storage}{path}"
                ),
                b"",
            ),
        }
    });
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("token"), "secret\n").unwrap();
    let hub = Arc::new(Hub { trick: Some(trick), ..mnist_hub().1 });
    assert_eq!(outcome(&options(hub.serve(), &home)), Ok(Source::Hub("ylecun/mnist".to_owned())));
    let seen = seen.lock().unwrap();
    assert!(seen.iter().all(|&(place, token)| token == (place == "hub")), "{seen:?}");
    assert_eq!(seen.iter().filter(|(place, _)| *place == "storage").count(), 4);
    assert!(home.path().join(format!("hub/datasets--ylecun--mnist/blobs/linked-{}", &TRAIN[6..])).exists());
}

#[test]
fn parts_of_earlier_downloads_do_not_stand_in_the_way() {
    let (_, hub) = mnist_hub();
    let whole = hub.files[TRAIN].clone();
    let hub = Arc::new(hub);
    for part in [
        [&whole[..], b"more"].concat(),
        vec![7; whole.len()],
        vec![7; whole.len() - 10],
        vec![7; 10],
        whole[..whole.len() - 1].to_vec(),
        vec![],
    ] {
        let home = tempfile::tempdir().unwrap();
        let blobs = home.path().join("hub/datasets--ylecun--mnist/blobs");
        fs::create_dir_all(&blobs).unwrap();
        fs::write(blobs.join(format!("{}.part", digest(&whole))), &part).unwrap();
        let found = outcome(&options(hub.serve(), &home));
        assert!(matches!(found, Ok(Source::Hub(_))), "{} bytes: {found:?}", part.len());
        assert!(!blobs.join(format!("{}.part", digest(&whole))).exists());
    }
}

#[test]
fn a_server_that_resumes_nothing_is_asked_from_the_beginning() {
    let (_, hub) = mnist_hub();
    let whole = hub.files[TRAIN].clone();
    let home = tempfile::tempdir().unwrap();
    let blobs = home.path().join("hub/datasets--ylecun--mnist/blobs");
    fs::create_dir_all(&blobs).unwrap();
    fs::write(blobs.join(format!("{}.part", digest(&whole))), &whole[..100]).unwrap();
    let trick = content(|_, start, stream| start > 0 && send(stream, "416 Range Not Satisfiable", b""));
    let hub = Arc::new(Hub { trick: Some(trick), ..hub });
    assert!(matches!(outcome(&options(hub.serve(), &home)), Ok(Source::Hub(_))));
}

#[test]
fn another_process_that_stands_still_is_not_waited_for() {
    let (_, hub) = mnist_hub();
    let home = tempfile::tempdir().unwrap();
    let blobs = home.path().join("hub/datasets--ylecun--mnist/blobs");
    fs::create_dir_all(&blobs).unwrap();
    let other = fs::File::create(blobs.join(format!("{}.lock", digest(&hub.files[TRAIN])))).unwrap();
    other.lock().unwrap();
    let options = options(Arc::new(hub).serve(), &home);
    let told = outcome(&options).unwrap_err();
    assert!(told.contains("another process is at it, and has not gone on for 2.5 s"), "{told}");
    drop(other);
    assert!(matches!(outcome(&options), Ok(Source::Hub(_))));
}

/// The set in a cache, with or without checksums from the hub, and the file of its training images.
fn cached(weak: bool) -> (tempfile::TempDir, HubOptions, PathBuf) {
    let home = tempfile::tempdir().unwrap();
    let options = options(Arc::new(Hub { weak, ..mnist_hub().1 }).serve(), &home);
    assert!(matches!(outcome(&options), Ok(Source::Hub(_))));
    let pointer = home.path().join(format!("hub/datasets--ylecun--mnist/snapshots/{COMMIT}/{TRAIN}"));
    (home, options, fs::canonicalize(pointer).unwrap())
}

#[test]
fn one_flipped_bit_in_the_cache_is_always_found_and_healed() {
    for weak in [false, true] {
        let (_home, options, blob) = cached(weak);
        let whole = fs::read(&blob).unwrap();
        for flip in 0..60 {
            let mut bytes = whole.clone();
            let at = flip * 7919 % (8 * bytes.len());
            bytes[at / 8] ^= 1 << (at % 8);
            fs::write(&blob, &bytes).unwrap();
            let told = outcome(&options).unwrap_err();
            assert!(told.contains("was damaged: expected sha256") && told.contains("load again"), "{told}");
            assert!(matches!(outcome(&options), Ok(Source::Hub(_))), "bit {at}");
            assert!(matches!(outcome(&options), Ok(Source::HubCache(_))), "bit {at}");
        }
    }
}

/// As other libraries leave them: half a file, or a web page, under a name that is no checksum.
#[test]
fn what_cannot_be_read_leaves_the_cache() {
    let (home, options, blob) = cached(true);
    let whole = fs::read(&blob).unwrap();
    let checksum = blob.with_file_name(format!("{}.sha256", blob.file_name().unwrap().to_string_lossy()));
    let contents = [whole[..whole.len() / 2].to_vec(), b"<html>Log in</html>".to_vec(), vec![]];
    for bytes in contents.into_iter().chain(mutations(11, &whole, 40)) {
        let _ = fs::remove_file(&checksum);
        fs::write(&blob, &bytes).unwrap();
        // Some damage cannot be told without a checksum.
        if outcome(&options).is_err() {
            assert!(matches!(outcome(&options), Ok(Source::Hub(_))));
            assert!(matches!(outcome(&options), Ok(Source::HubCache(_))));
        }
        assert!(checksum.exists() || fs::read(&blob).unwrap() == bytes);
        fs::write(&blob, &whole).unwrap();
    }
    // A set of another size, too, if the official one is asked for.
    let verified = HubOptions { offline: true, ..options.clone() };
    assert!(matches!(load(Mnist::specification(), &verified, true), Ok(Found::Images(..))));
    assert!(matches!(load(Mnist::specification(), &verified, true), Ok(Found::Nothing(_))));
    drop(home);
}

#[test]
fn a_hub_without_a_name_or_a_door_cannot_be_reached() {
    // A name that no resolver knows, and a port that nobody listens at.
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for endpoint in ["http://hub.invalid".to_owned(), format!("http://{closed}")] {
        let home = tempfile::tempdir().unwrap();
        let told = outcome(&options(endpoint.clone(), &home)).unwrap_err();
        assert_eq!(told, format!("goes on: {endpoint} cannot be reached, so not the complete set"));
    }
}
