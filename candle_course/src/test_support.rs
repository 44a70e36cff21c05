//! What tests share: the device that the stored cases run on, and where the stored values are.

use std::path::PathBuf;
use std::sync::OnceLock;

use candle_core::Device;

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
