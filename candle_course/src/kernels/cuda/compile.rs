//! From CUDA C++ to machine code of the device at hand, once: NVRTC at run time, then a file.

use std::ffi::{CStr, CString};
use std::path::PathBuf;

use candle_core::cuda_backend::cudarc::nvrtc::{result, sys};
use candle_core::{Error, Result};
use sha2::{Digest, Sha256};

const COMMON: &str = include_str!("common.cuh");

/// A file of kernels.
#[derive(Debug)]
pub struct Unit {
    /// Its name, without the extension.
    pub name: &'static str,
    /// Its text.
    pub source: &'static str,
}

/// The number type that a file is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Real {
    /// The word of the language.
    pub word: &'static str,
    /// What kernels' names end with.
    pub suffix: &'static str,
}

impl Unit {
    /// The text with the common header in place.
    fn text(&self) -> String {
        self.source.replace("#include \"common.cuh\"", COMMON)
    }

    /// Machine code for a device of this compute capability, from the cache if it is there.
    pub fn machine_code(&self, real: Real, capability: (i32, i32)) -> Result<Vec<u8>> {
        let text = self.text();
        let options = [
            format!("--gpu-architecture=sm_{}{}", capability.0, capability.1),
            format!("-DREAL={}", real.word),
            format!("-DSUFFIX={}", real.suffix),
            "--std=c++17".to_owned(),
        ];
        let file = cache_file("kernels", self.name, "cubin", &[&text, &options.join(" "), &version()?]);
        if let Some(code) = file.as_ref().and_then(|file| std::fs::read(file).ok()).filter(|code| !code.is_empty()) {
            return Ok(code);
        }
        let code = compile(self.name, &text, &options)?;
        // Another process may write the same file: it appears whole or not at all. A cache that
        // cannot be written costs time at the next start, nothing else.
        if let Some(file) = file {
            let _ = store(&file, &code);
        }
        Ok(code)
    }
}

/// Writes a file of the cache, whole or not at all.
pub fn store(file: &std::path::Path, code: &[u8]) -> std::io::Result<()> {
    let folder = file.parent().unwrap_or(file);
    std::fs::create_dir_all(folder)?;
    crate::atomic::write_passing(file, code).map_err(std::io::Error::other)
}

/// A file of `candle_course/` in the user's cache folder, named after what it depends on; `None` if
/// there is no such folder.
pub fn cache_file(folder: &str, name: &str, extension: &str, parts: &[&str]) -> Option<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = variable("XDG_CACHE_HOME").or_else(|| variable("HOME").map(|home| home.join(".cache")))?;
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    let hash: String = hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    Some(cache.join("candle_course").join(folder).join(format!("{name}-{hash}.{extension}")))
}

fn version() -> Result<String> {
    let (mut major, mut minor) = (0, 0);
    // SAFETY: two places for two numbers.
    unsafe { sys::nvrtcVersion(&mut major, &mut minor) }.result().map_err(Error::wrap)?;
    Ok(format!("{major}.{minor}"))
}

struct Program(sys::nvrtcProgram);

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: created by NVRTC, destroyed once. A failure leaves memory behind, nothing else.
        let _ = unsafe { result::destroy_program(self.0) };
    }
}

fn compile(name: &str, text: &str, options: &[String]) -> Result<Vec<u8>> {
    let text = CString::new(text).map_err(Error::wrap)?;
    let file = CString::new(format!("{name}.cu")).map_err(Error::wrap)?;
    let program = Program(result::create_program(&text, Some(&file)).map_err(Error::wrap)?);
    // SAFETY: the program was just created; text and name outlive it.
    if let Err(error) = unsafe { result::compile_program(program.0, options) } {
        // SAFETY: as above; the log ends with a zero.
        let log = unsafe { result::get_program_log(program.0) }.map_err(Error::wrap)?;
        let log = CStr::from_bytes_until_nul(bytemuck::cast_slice(&log)).unwrap_or_default().to_string_lossy();
        return Err(Error::Msg(format!("cannot compile the kernels {name}.cu with {options:?}: {error}\n{log}")));
    }
    let mut size = 0;
    // SAFETY: the program is compiled for a real architecture, so there is machine code.
    unsafe { sys::nvrtcGetCUBINSize(program.0, &mut size) }.result().map_err(Error::wrap)?;
    let mut code = vec![0u8; size];
    // SAFETY: the buffer has the size that NVRTC asked for.
    unsafe { sys::nvrtcGetCUBIN(program.0, code.as_mut_ptr().cast()) }.result().map_err(Error::wrap)?;
    Ok(code)
}
