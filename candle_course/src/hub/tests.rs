//! A model's repository on a server of the tests' own: see `data::hub::tests` for what it speaks.

use std::collections::HashMap;
use std::fs;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use candle_core::{DType, Device, Tensor};

use super::*;
use crate::checkpoint::{WeightLoading, read_weights, write_weights};
use crate::data::hub::tests::{COMMIT, Hub, digest};
use crate::nn::{Linear, Parameters};
use crate::stateful::Stateful as _;

/// The weights of a small model.
fn state() -> State {
    let parameters = Parameters::new(7, &Device::Cpu);
    Linear::new(60, 40, &parameters.at("body.0")).unwrap();
    Linear::new(40, 30, &parameters.at("body.1")).unwrap();
    Linear::new(30, 5, &parameters.at("head")).unwrap();
    parameters.state().unwrap()
}

fn bytes_of(state: &State) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    write_weights(state, None, &path).unwrap();
    fs::read(path).unwrap()
}

/// The model in two parts, with its index, a configuration, an empty file and something in a folder.
fn parts() -> HashMap<String, Vec<u8>> {
    let (body, head): (State, State) = state().into_iter().partition(|(name, _)| name.starts_with("body"));
    let name = |part: usize| format!("model-0000{part}-of-00002.safetensors");
    let map: serde_json::Map<String, serde_json::Value> = body
        .keys()
        .map(|tensor| (tensor.clone(), name(1).into()))
        .chain(head.keys().map(|tensor| (tensor.clone(), name(2).into())))
        .collect();
    let index = serde_json::json!({ "metadata": { "total_size": 1 }, "weight_map": map }).to_string();
    HashMap::from([
        (name(1), bytes_of(&body)),
        (name(2), bytes_of(&head)),
        ("model.safetensors.index.json".to_owned(), index.into_bytes()),
        ("config.json".to_owned(), br#"{"layers": 3}"#.to_vec()),
        ("empty.txt".to_owned(), vec![]),
        ("onnx/model.onnx".to_owned(), vec![3; 5000]),
    ])
}

fn hub(files: HashMap<String, Vec<u8>>) -> Hub {
    Hub { repository: "someone/model", model: true, files, ..Hub::default() }
}

fn from(endpoint: &str, cache: &tempfile::TempDir) -> HubRepositoryBuilder {
    HubRepository::builder("someone/model").endpoint(endpoint).cache(cache.path()).quiet()
}

/// Where nobody listens.
const NOBODY: &str = "http://127.0.0.1:9";

fn assert_equal(found: &State, expected: &State) {
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (name, tensor) in expected {
        let numbers = |tensor: &Tensor| {
            let flat = tensor.flatten_all().unwrap().to_dtype(DType::F64).unwrap();
            (tensor.dims().to_vec(), flat.to_vec1::<f64>().unwrap())
        };
        assert_eq!(numbers(&found[name]), numbers(tensor), "{name}");
    }
}

#[test]
fn weights_in_parts_come_through_cuts_once_and_then_without_a_network() {
    let mut hub = hub(parts());
    hub.cuts = Mutex::new(vec![100, 3000, 10_000, 100]);
    let hub = Arc::new(hub);
    let (endpoint, cache) = (hub.serve(), tempfile::tempdir().unwrap());
    let online = from(&endpoint, &cache).build().unwrap();
    assert_equal(&online.weights().unwrap(), &state());
    assert_eq!(hub.content_requests.load(Ordering::SeqCst), 6, "an index, two parts, and three that went on");
    let resumed = hub.requests.lock().unwrap().len();
    // Both answers, and what was not asked for, need no network, or only what is new.
    let offline = from(NOBODY, &cache).offline(true).build().unwrap();
    assert_equal(&offline.weights().unwrap(), &state());
    assert_eq!(online.files().unwrap().len(), 6);
    assert_eq!(hub.requests.lock().unwrap().len(), resumed);
    let text = offline.file("config.json").unwrap_err().to_string();
    assert!(
        text.contains("cannot get config.json of someone/model") && text.contains("cannot be had offline"),
        "{text}"
    );
    let path = online.file("config.json").unwrap();
    assert!(path.ends_with(format!("models--someone--model/snapshots/{COMMIT}/config.json")), "{}", path.display());
    assert_eq!(fs::read_to_string(offline.file("config.json").unwrap()).unwrap(), r#"{"layers": 3}"#);

    // Into a model with another head.
    let mut parameters = Parameters::new(1, &Device::Cpu);
    Linear::new(60, 40, &parameters.at("body.0")).unwrap();
    Linear::new(40, 30, &parameters.at("body.1")).unwrap();
    Linear::new(30, 2, &parameters.at("head")).unwrap();
    let loading = WeightLoading::builder().skip("head").build().unwrap();
    let report = loading.load_tensors(&mut parameters, offline.weights().unwrap()).unwrap();
    assert_eq!((report.loaded.len(), report.missing.len()), (4, 2), "{report}");
}

#[test]
fn a_snapshot_has_what_is_like_the_patterns_or_all() {
    let hub = Arc::new(hub(parts()));
    let (endpoint, cache) = (hub.serve(), tempfile::tempdir().unwrap());
    let online = from(&endpoint, &cache).build().unwrap();
    let folder = online.snapshot(&["*.json", "onnx/*"]).unwrap();
    let there = |name: &str| folder.join(name).is_file();
    assert!(there("config.json") && there("model.safetensors.index.json") && there("onnx/model.onnx"));
    assert!(!there("empty.txt") && !there("model-00001-of-00002.safetensors"));
    let offline = from(NOBODY, &cache).offline(true).build().unwrap();
    assert_eq!(offline.snapshot(&["*.json"]).unwrap(), folder);
    let text = offline.snapshot(&[]).unwrap_err().to_string();
    assert!(text.contains("cannot be had offline"), "a part is not all: {text}");
    assert_eq!(online.snapshot(&[]).unwrap(), folder);
    for (name, content) in parts() {
        assert_eq!(fs::read(folder.join(&name)).unwrap(), content, "{name}");
    }
    let asked = hub.requests.lock().unwrap().len();
    assert_eq!(offline.snapshot(&[]).unwrap(), folder);
    assert_eq!(online.snapshot(&[]).unwrap(), folder);
    assert_eq!(hub.requests.lock().unwrap().len(), asked);
    let text = online.snapshot(&["*.bin"]).unwrap_err().to_string();
    assert!(text.contains("`patterns`") && text.contains("config.json") && text.contains("got *.bin"), "{text}");
    let text = online.file("nothing.json").unwrap_err().to_string();
    assert!(text.contains("`file`: expected one of") && text.contains("onnx/model.onnx"), "{text}");
}

/// As `huggingface_hub` leaves it: no list of what the hub has.
#[test]
fn what_another_library_has_fetched_is_used() {
    let cache = tempfile::tempdir().unwrap();
    let folder = cache.path().join("models--someone--model");
    let snapshot = folder.join("snapshots").join(COMMIT);
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir_all(folder.join("blobs")).unwrap();
    fs::create_dir_all(folder.join("refs")).unwrap();
    fs::write(folder.join("refs/main"), COMMIT).unwrap();
    let content = bytes_of(&state());
    fs::write(folder.join("blobs").join(digest(&content)), &content).unwrap();
    let blob = std::path::PathBuf::from("../../blobs").join(digest(&content));
    #[cfg(unix)]
    std::os::unix::fs::symlink(blob, snapshot.join("model.safetensors")).unwrap();
    #[cfg(not(unix))]
    fs::copy(snapshot.join(blob), snapshot.join("model.safetensors")).unwrap();
    let offline = from(NOBODY, &cache).offline(true).build().unwrap();
    assert_equal(&offline.weights().unwrap(), &state());
    assert_eq!(offline.files().unwrap(), ["model.safetensors"]);
    assert_eq!(offline.snapshot(&[]).unwrap(), snapshot);
    // What it fetched may be a part: the hub knows.
    let hub = Arc::new(hub(parts()));
    let online = from(&hub.serve(), &cache).build().unwrap();
    assert_equal(&online.weights().unwrap(), &state());
    assert!(hub.requests.lock().unwrap().is_empty());
    assert_eq!(online.files().unwrap().len(), 6);
}

#[test]
fn pytorchs_files_are_read_and_nothing_in_them_is_run() {
    let pickle = crate::test_support::data("checkpoints/state_dict.pt");
    let expected = read_weights(&pickle).unwrap();
    let content = fs::read(&pickle).unwrap();
    for name in ["pytorch_model.bin", "resnet.pth"] {
        let hub = Arc::new(hub(HashMap::from([(name.to_owned(), content.clone())])));
        let cache = tempfile::tempdir().unwrap();
        assert_equal(&from(&hub.serve(), &cache).build().unwrap().weights().unwrap(), &expected);
    }
    let several = ["a.pt", "b.pt"].map(|name| (name.to_owned(), content.clone()));
    let hub = Arc::new(hub(HashMap::from(several)));
    let cache = tempfile::tempdir().unwrap();
    let repository = from(&hub.serve(), &cache).build().unwrap();
    let text = repository.weights().unwrap_err().to_string();
    assert!(text.contains("expected one file of weights, got") && text.contains("`weights_of`"), "{text}");
    assert_equal(&repository.weights_of("b.pt").unwrap(), &expected);
}

#[test]
fn another_revision_is_another_version() {
    let old = HashMap::from([("config.json".to_owned(), b"old".to_vec())]);
    let hub_of = |revision: &'static str, files| Arc::new(Hub { revision: Some(revision), ..hub(files) }).serve();
    let cache = tempfile::tempdir().unwrap();
    let pull = hub_of("refs/pr/1", old.clone());
    let path = from(&pull, &cache).revision("refs/pr/1").build().unwrap().file("config.json").unwrap();
    assert_eq!(fs::read_to_string(path).unwrap(), "old");
    let text = from(NOBODY, &cache).offline(true).build().unwrap().file("config.json").unwrap_err().to_string();
    assert!(text.contains("cannot be had offline"), "`main` was not asked for: {text}");
    let again = from(NOBODY, &cache).offline(true).revision("refs/pr/1").build().unwrap();
    assert_eq!(fs::read_to_string(again.file("config.json").unwrap()).unwrap(), "old");
    // A commit needs no reference.
    let commit = from(NOBODY, &cache).offline(true).revision(COMMIT).build().unwrap();
    assert_eq!(fs::read_to_string(commit.file("config.json").unwrap()).unwrap(), "old");
    for (builder, argument) in [
        (HubRepository::builder("a/b").revision("../../x"), "`revision`"),
        (HubRepository::builder("a/b/c"), "`repository`"),
        (HubRepository::builder("../b"), "`repository`"),
        (HubRepository::builder("b").dataset(), "`repository`"),
    ] {
        assert!(builder.build().unwrap_err().to_string().contains(argument), "{argument}");
    }
}

#[test]
fn a_newer_version_is_taken_when_it_is_asked_for() {
    let config = |text: &str| HashMap::from([("config.json".to_owned(), text.as_bytes().to_vec())]);
    let cache = tempfile::tempdir().unwrap();
    from(&Arc::new(hub(config("old"))).serve(), &cache).build().unwrap().file("config.json").unwrap();
    let commit = "f".repeat(40);
    // The same server with another commit and content.
    let trick: crate::data::hub::tests::Trick = Box::new(move |request, stream| {
        use std::io::Write as _;
        let listing = format!(r#"{{"sha": "{commit}", "siblings": [{{"rfilename": "config.json"}}]}}"#);
        let (range, body) = match request.range {
            None => (String::new(), listing.into_bytes()),
            Some((start, end)) => {
                let end = end.unwrap_or(2).min(2);
                let head = format!("X-Repo-Commit: {commit}\r\nETag: \"{}\"\r\n", digest(b"new"));
                (format!("{head}Content-Range: bytes {start}-{end}/3\r\n"), b"new"[start..=end].to_vec())
            }
        };
        let status = if request.range.is_some() { "206 Partial Content" } else { "200 OK" };
        let head = format!("HTTP/1.1 {status}\r\n{range}Content-Length: {}\r\nConnection: close\r\n\r\n", body.len());
        stream.write_all(&[head.into_bytes(), body].concat()).is_ok()
    });
    let endpoint = Arc::new(Hub { trick: Some(trick), ..hub(config("old")) }).serve();
    let read = |builder: HubRepositoryBuilder| {
        fs::read_to_string(builder.build().unwrap().file("config.json").unwrap()).unwrap()
    };
    assert_eq!(read(from(&endpoint, &cache)), "old", "what is in the cache is not asked for again");
    assert_eq!(read(from(&endpoint, &cache).refresh()), "new");
    assert_eq!(read(from(NOBODY, &cache).offline(true)), "new");
    assert_eq!(read(from(NOBODY, &cache).offline(true).revision(COMMIT)), "old");
    let text = from(NOBODY, &cache).refresh().build().unwrap().file("config.json").unwrap_err().to_string();
    assert!(text.contains("http://127.0.0.1:9 cannot be reached"), "{text}");
}

#[test]
fn damage_is_found_on_the_way_and_on_the_disk() {
    let (cache, lying) = (tempfile::tempdir().unwrap(), Hub { lies: true, ..hub(parts()) });
    let text = from(&Arc::new(lying).serve(), &cache).build().unwrap().weights().unwrap_err().to_string();
    assert!(text.contains("cannot get the weights of someone/model") && text.contains("was damaged"), "{text}");
    let endpoint = Arc::new(hub(parts())).serve();
    let honest = from(&endpoint, &cache).build().unwrap();
    assert_equal(&honest.weights().unwrap(), &state());
    let blobs = cache.path().join("models--someone--model/blobs");
    let blob = blobs.join(digest(&parts()["model-00002-of-00002.safetensors"]));
    let mut content = fs::read(&blob).unwrap();
    *content.last_mut().unwrap() ^= 1;
    fs::write(&blob, content).unwrap();
    let text = honest.weights().unwrap_err().to_string();
    assert!(text.contains("was damaged: expected sha256") && text.contains("load again"), "{text}");
    assert_equal(&honest.weights().unwrap(), &state());
}

#[test]
fn an_index_that_lies_is_an_error() {
    let with_index = |index: &str| {
        let mut files = parts();
        files.insert("model.safetensors.index.json".to_owned(), index.as_bytes().to_vec());
        let cache = tempfile::tempdir().unwrap();
        from(&Arc::new(hub(files)).serve(), &cache).build().unwrap().weights().unwrap_err().to_string()
    };
    for (index, says) in [
        (r#"{"weight_map": {"head.weight": "../../../etc/passwd"}}"#, "would lie outside the cache"),
        (r#"{"weight_map": {"head.weight": "/etc/passwd"}}"#, "would lie outside the cache"),
        (r#"{"weight_map": {"body.0.weight": "model-00002-of-00002.safetensors"}}"#, "which lacks it"),
        (r#"{"weight_map": {"head.weight": "model-00003-of-00003.safetensors"}}"#, "downloading model-00003"),
        (r#"{"weight_map": {"head.weight": "config.json"}}"#, "cannot load the weights"),
        (r#"{"weight_map": {}}"#, "names no tensor"),
        (r#"{"weights": {}}"#, "it is no index of weights"),
        ("[[[[", "it is no index of weights"),
    ] {
        let text = with_index(index);
        assert!(text.contains(says), "{index}: {text}\nlacks {says}");
    }
}
