//! What tests share: the device that the stored cases run on, where the stored values are, damaged
//! copies of files, and a count of memory.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Once, OnceLock};

use candle_core::Device;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The device that `CANDLE_COURSE_TEST_DEVICE` names: `cpu` (unless set) or `cuda`.
///
/// One handle for the whole process: tensors of two handles of a GPU cannot be computed with together.
pub(crate) fn device() -> &'static Device {
    static DEVICE: OnceLock<Device> = OnceLock::new();
    DEVICE.get_or_init(|| match std::env::var("CANDLE_COURSE_TEST_DEVICE").as_deref() {
        Ok("cuda") => Device::new_cuda(0).unwrap(),
        Ok("cpu") | Err(_) => Device::Cpu,
        Ok(other) => panic!("CANDLE_COURSE_TEST_DEVICE is {other}, neither cpu nor cuda"),
    })
}

/// A file of stored values. Cargo names the package's folder when it runs a test, too, so that a
/// test binary that was carried elsewhere can be told.
pub(crate) fn data(file: &str) -> PathBuf {
    let package = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    PathBuf::from(package).join("tests/data").join(file)
}

/// This test binary once more, as a process of its own: what starts it, where the machine itself cannot, stands
/// in `CANDLE_COURSE_TEST_RUNNER` (`qemu-aarch64 -L …`).
pub(crate) fn this_binary() -> Command {
    let binary = std::env::current_exe().unwrap();
    let runner = std::env::var("CANDLE_COURSE_TEST_RUNNER").unwrap_or_default();
    let mut words = runner.split_whitespace();
    let Some(program) = words.next() else { return Command::new(binary) };
    let mut command = Command::new(program);
    command.args(words).arg(binary);
    command
}

/// Gives a file other bytes. (A file that is truncated first and then written is flushed to the disk by
/// some file systems, a hundred thousand times.)
pub(crate) fn rewrite(path: &std::path::Path, bytes: &[u8]) {
    use std::io::Write as _;
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(false).open(path).unwrap();
    file.write_all(bytes).unwrap();
    file.set_len(bytes.len() as u64).unwrap();
}

/// A folder of these files, the names of sub-folders before theirs.
pub(crate) fn folder_with(files: &[(&str, Vec<u8>)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    folder
}

/// Runs `check` on every case and fails in the end, naming how many failed and what the first few said.
pub(crate) fn every<T>(cases: &[T], check: impl Fn(&T)) {
    let mut failures = Vec::new();
    for case in cases {
        if let Err(panic) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(case))) {
            let text = panic.downcast_ref::<String>().cloned();
            failures
                .push(text.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned())).unwrap_or_default());
        }
    }
    let first: Vec<&str> = failures.iter().take(5).map(String::as_str).collect();
    assert!(failures.is_empty(), "{} of {} cases failed:\n{}", failures.len(), cases.len(), first.join("\n"));
}

/// Promises of several tests, as docs/reliability.md names them.
pub(crate) const HARMLESS: &str = "A damaged or hostile file is an error, never a panic, a hang or a grab at memory";
pub(crate) const WHOLE: &str = "What was whole on the disk stays whole";

/// Notes how often something was tried that must not break `promise`: a row of docs/reliability.md, which
/// `scripts/test` writes. A test calls it after its last assertion.
pub(crate) fn tried(promise: &str, what: &str, times: usize) {
    println!("{promise}: {what}: {times} times");
    if let Some(file) = std::env::var_os("CANDLE_COURSE_TRIED") {
        let line = serde_json::json!({ "promise": promise, "what": what, "times": times }).to_string() + "\n";
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(file).unwrap();
        // One write: tests of several processes append to the same file.
        std::io::Write::write_all(&mut file, line.as_bytes()).unwrap();
    }
}

/// Counts what each thread has allocated, so that a test can bound the memory of what it calls.
struct Counting;

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    // Nothing is counted while a thread ends.
    let _ = LIVE.try_with(|live| {
        live.set(live.get() + bytes);
        PEAK.with(|peak| peak.set(peak.get().max(live.get())));
    });
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller keeps `GlobalAlloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size as isize - layout.size() as isize);
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// What `body` returns, and how many bytes this thread held at most beyond those it held before.
/// Work that goes to other threads is not seen: see [`alone`].
pub(crate) fn peak_memory<T>(body: impl FnOnce() -> T) -> (T, usize) {
    let before = LIVE.get();
    PEAK.set(before);
    let value = body();
    (value, (PEAK.get() - before).max(0) as usize)
}

/// Runs `body`, and whatever it gives to rayon, on one thread.
pub(crate) fn alone<T: Send>(body: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap().install(body)
}

/// Runs `body` without a word about the panics that it contains.
pub(crate) fn quietly<T>(body: impl FnOnce() -> T) -> T {
    thread_local! {
        static QUIET: Cell<bool> = const { Cell::new(false) };
    }
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let others = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !QUIET.get() {
                others(panic);
            }
        }));
    });
    QUIET.set(true);
    let value = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
    QUIET.set(false);
    // What it did not contain is told: by its message alone.
    value.unwrap_or_else(|panic| panic!("{}", crate::error::panicked("the body", &*panic)))
}

/// `count` damaged copies of `original`, the same for the same seed: bits flipped, cut off, extended,
/// slices copied, moved, repeated and removed, integers set to extremes; one to three of these each.
pub(crate) fn mutations(seed: u64, original: &[u8], count: usize) -> impl Iterator<Item = Vec<u8>> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    (0..count).map(move |_| {
        let mut bytes = original.to_vec();
        for _ in 0..random.random_range(1..=3) {
            mutate(&mut random, &mut bytes);
        }
        bytes
    })
}

fn mutate(random: &mut ChaCha8Rng, bytes: &mut Vec<u8>) {
    const EXTREMES: [u64; 12] = [
        0,
        1,
        0x7f,
        0xff,
        0x7fff,
        0xffff,
        0x7fff_ffff,
        0x8000_0000,
        0xffff_ffff,
        0x7fff_ffff_ffff_ffff,
        0x8000_0000_0000_0000,
        u64::MAX,
    ];
    let length = bytes.len();
    if length == 0 {
        bytes.extend((0..random.random_range(1..=16)).map(|_| random.random::<u8>()));
        return;
    }
    // Headers and footers decide most: a third of the damage falls on each.
    let at = match random.random_range(0..3) {
        0 => random.random_range(0..length.min(64)),
        1 => length - 1 - random.random_range(0..length.min(64)),
        _ => random.random_range(0..length),
    };
    let end = (at + random.random_range(1..=64)).min(length);
    match random.random_range(0..8) {
        0 => bytes[at] ^= 1 << random.random_range(0..8),
        1 => bytes[at] = random.random(),
        2 => bytes.truncate(at),
        3 => bytes.extend((0..random.random_range(1..=64)).map(|_| random.random::<u8>())),
        4 => {
            bytes.drain(at..end);
        }
        5 => {
            let slice = bytes[at..end].to_vec();
            let to = random.random_range(0..=length);
            bytes.splice(to..to, slice);
        }
        6 => {
            let slice = bytes[at..end].to_vec();
            let to = random.random_range(0..=length - slice.len());
            bytes[to..to + slice.len()].copy_from_slice(&slice);
        }
        _ => {
            let value = EXTREMES[random.random_range(0..EXTREMES.len())];
            let width = 1 << random.random_range(0..4);
            let value = if random.random() { value.to_le_bytes() } else { value.to_be_bytes() };
            let value = if value[0] == 0 { &value[8 - width..] } else { &value[..width] };
            let width = width.min(length - at);
            bytes[at..at + width].copy_from_slice(&value[..width]);
        }
    }
}

mod tests {
    use super::*;

    #[test]
    fn mutations_follow_the_seed_and_differ_from_each_other() {
        let original: Vec<u8> = (0..200).collect();
        let all: Vec<Vec<u8>> = mutations(1, &original, 1000).collect();
        assert!(mutations(1, &original, 1000).eq(all.iter().cloned()));
        assert!(!mutations(2, &original, 1000).eq(all.iter().cloned()));
        let distinct: std::collections::HashSet<&Vec<u8>> = all.iter().collect();
        assert!(distinct.len() > 900, "{}", distinct.len());
        assert!(all.iter().filter(|bytes| **bytes == original).count() < 50);
        for kind in [
            |bytes: &Vec<u8>| bytes.len() < 100,
            |bytes: &Vec<u8>| bytes.len() > 200,
            |bytes: &Vec<u8>| bytes.windows(4).any(|window| window == [0xff; 4]),
        ] {
            assert!(all.iter().filter(|bytes| kind(bytes)).count() > 10);
        }
        assert!(mutations(3, &[], 10).any(|bytes| !bytes.is_empty()));
    }

    #[test]
    fn memory_is_counted_at_its_peak() {
        use rayon::prelude::*;
        let (length, peak) = alone(|| {
            peak_memory(|| {
                let lengths: usize = [1 << 20, 1 << 10].par_iter().map(|&n| vec![1u8; n].len()).sum();
                lengths + vec![1u8; 1 << 20].len()
            })
        });
        assert_eq!(length, (2 << 20) + (1 << 10));
        assert!((1 << 20..(1 << 20) + (1 << 14)).contains(&peak), "{peak}");
    }
}
