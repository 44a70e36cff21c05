//! The readers of files, each as a function of the file's bytes: any bytes are read or refused, without a
//! panic, an abort, a hang, or more memory than the limit that the fuzzer is started with.

use std::fs;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::sync::{Once, OnceLock};

use candle_course::checkpoint::{Snapshot, read_weights};
use candle_course::data::{Cifar10, Dataset, ImageFolder, Mnist, Scene};
use candle_course::tensorboard::Scalars;
use candle_course::training::History;

/// Of this process, in memory where the system has such a folder.
fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let memory = Path::new("/dev/shm");
        let root = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        root.join(format!("candle_course_fuzz-{}", std::process::id()))
    })
}

/// Writes `bytes` below the folder and gives the path.
fn write(name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder().join(name);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).expect("a folder in memory");
    }
    fs::write(&path, bytes).expect("a file in memory");
    path
}

/// The four files of an MNIST of two training images and one test image, plain.
pub fn mnist_files() -> [(&'static str, Vec<u8>); 4] {
    let images = |n: u8| {
        let mut file = vec![0, 0, 8, 3, 0, 0, 0, n, 0, 0, 0, 28, 0, 0, 0, 28];
        file.extend((0..784 * usize::from(n)).map(|i| (i * 7 % 251) as u8));
        file
    };
    [
        ("train-images-idx3-ubyte", images(2)),
        ("train-labels-idx1-ubyte", vec![0, 0, 8, 1, 0, 0, 0, 2, 5, 0]),
        ("t10k-images-idx3-ubyte", images(1)),
        ("t10k-labels-idx1-ubyte", vec![0, 0, 8, 1, 0, 0, 0, 1, 9]),
    ]
}

/// The first byte says which of MNIST's files has the others.
pub fn idx(bytes: &[u8]) {
    let Some((which, bytes)) = bytes.split_first() else { return };
    for (at, (name, whole)) in mnist_files().iter().enumerate() {
        write(&format!("mnist/{name}"), if at == usize::from(which % 4) { bytes } else { whole });
    }
    let _ = black_box(Mnist::builder().folder(folder()).verify(false).quiet().load());
}

/// A batch of CIFAR-10, training and test.
pub fn cifar(bytes: &[u8]) {
    for name in ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"] {
        write(&format!("cifar10/{name}.bin"), bytes);
    }
    let _ = black_box(Cifar10::builder().folder(folder()).verify(false).quiet().load());
}

/// A parquet file in the hub's cache.
pub fn parquet(bytes: &[u8]) {
    // The parquet crate's panics are contained, and the fuzzer would end at each of them; one that gets out
    // still ends it.
    static QUIET: Once = Once::new();
    QUIET.call_once(|| std::panic::set_hook(Box::new(|_| ())));
    let set = "hub/datasets--ylecun--mnist";
    write(&format!("{set}/refs/main"), b"commit");
    for split in ["train", "test"] {
        write(&format!("{set}/snapshots/commit/{split}.parquet"), bytes);
    }
    let _ = black_box(Mnist::builder().cache(folder().join("hub")).offline(true).verify(false).quiet().load());
}

/// A PNG, JPEG or WebP of a folder of images.
pub fn images(bytes: &[u8]) {
    write("images/class/image.png", bytes);
    let images = ImageFolder::new(folder().join("images")).expect("a folder with one image");
    let _ = black_box(images.get(0));
}

/// A scene in GeoTIFF.
pub fn geotiff(bytes: &[u8]) {
    // What the tiff crate panics at is contained: see `parquet`.
    static QUIET: Once = Once::new();
    QUIET.call_once(|| std::panic::set_hook(Box::new(|_| ())));
    if let Ok(scene) = Scene::open(write("scene.tif", bytes)) {
        let _ = black_box((scene.to_tensor(), scene.valid(), scene.mean_std()));
    }
}

/// A checkpoint.
pub fn checkpoint(bytes: &[u8]) {
    if let Ok(snapshot) = Snapshot::load(write("checkpoint.safetensors", bytes)) {
        for section in snapshot.sections() {
            let _ = black_box(snapshot.get(section));
        }
    }
}

/// Weights as safetensors.
pub fn weights(bytes: &[u8]) {
    let _ = black_box(read_weights(write("weights.safetensors", bytes)));
}

/// Weights as PyTorch pickles them.
pub fn pytorch_weights(bytes: &[u8]) {
    let _ = black_box(read_weights(write("weights.pt", bytes)));
}

/// An event file of TensorBoard.
pub fn events(bytes: &[u8]) {
    let _ = black_box(Scalars::read(write("events.out.tfevents.1", bytes)));
}

/// A history as JSON.
pub fn history(bytes: &[u8]) {
    if let Ok(history) = History::load(write("history.json", bytes)) {
        let _ = black_box((history.to_csv(), history.names(), history.last()));
    }
}
