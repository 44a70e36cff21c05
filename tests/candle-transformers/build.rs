//! Writes candle-transformers' ViT and BERT anew, compiled against the layers with gradients: what
//! `candle_course::nn::trainable` tells a user to do with a copy of the model's file.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// Where cargo keeps candle-transformers' sources.
fn sources() -> PathBuf {
    let cargo = env::var_os("CARGO").expect("cargo runs this");
    let target = env::var("TARGET").expect("cargo names it");
    let metadata = |more: &[&str]| {
        let arguments = ["metadata", "--format-version", "1", "--filter-platform", &target];
        Command::new(&cargo).args(arguments).args(more).output().expect("cargo can be started")
    };
    // Packages of other members may not have been downloaded yet.
    let output =
        Some(metadata(&["--offline"])).filter(|output| output.status.success()).unwrap_or_else(|| metadata(&[]));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let package =
        packages.iter().find(|package| package["name"] == "candle-transformers").expect("candle-transformers");
    Path::new(package["manifest_path"].as_str().expect("a path")).with_file_name("src/models")
}

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=../../Cargo.lock");
    let (sources, target) = (sources(), PathBuf::from(env::var_os("OUT_DIR").expect("cargo names it")));
    for model in ["vit", "bert"] {
        let text = fs::read_to_string(sources.join(model).with_extension("rs")).expect("a model's file");
        // The layers that only add a span to candle_nn's are those here without it.
        let text = text
            .replace("crate::models::with_tracing::", "candle_nn::")
            .replace("super::with_tracing::", "candle_nn::");
        // A file that is included has no documentation of its own.
        let lines = text.lines().filter(|line| !line.starts_with("//!")).collect::<Vec<_>>().join("\n");
        fs::write(target.join(model).with_extension("rs"), lines).expect("OUT_DIR can be written");
    }
}
