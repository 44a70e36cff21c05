//! The best available device, by name.

use candle_core::Device;

use crate::error::{Error, Result};

/// The best device this build and machine offer: CUDA, then Metal, then the CPU.
///
/// Never fails: a GPU that cannot be opened is reported on stderr and passed over.
///
/// # Examples
///
/// ```
/// let device = candle_course::device::best();
/// println!("training on {}", candle_course::device::name(&device));
/// ```
pub fn best() -> Device {
    for (compiled, name, open) in [
        (cfg!(feature = "cuda"), "CUDA", (|| cuda(0)) as fn() -> candle_core::Result<Device>),
        (cfg!(feature = "metal"), "Metal", || Device::new_metal(0)),
    ] {
        if compiled {
            match open() {
                Ok(device) => return device,
                Err(error) => eprintln!("{name} was compiled in but cannot be used, looking further: {error}"),
            }
        }
    }
    Device::Cpu
}

/// A CUDA device whose work is all in one stream. `Device::new_cuda` has one for every thread: what
/// one thread computed, another could read too early.
fn cuda(ordinal: usize) -> candle_core::Result<Device> {
    Device::new_cuda_with_stream(ordinal)
}

/// A device by name: `cpu`, `cuda`, `cuda:1`, `metal`, `metal:0` or `best`.
///
/// # Errors
/// If the name is unknown, or the device was not compiled in or cannot be opened.
///
/// # Examples
///
/// ```
/// assert!(candle_course::device::by_name("cpu")?.is_cpu());
/// assert!(candle_course::device::by_name("gpu").is_err());
/// # Ok::<(), candle_course::error::Error>(())
/// ```
pub fn by_name(name: &str) -> Result<Device> {
    let (kind, ordinal) = name.split_once(':').unwrap_or((name, "0"));
    let unknown = || {
        Error::argument("device", "cpu, cuda, cuda:N, metal, metal:N or best", name)
            .hint("a GPU needs the crate's feature `cuda` or `metal`")
    };
    let ordinal: usize = ordinal.parse().map_err(|_| unknown())?;
    match kind {
        "cpu" => Ok(Device::Cpu),
        "best" => Ok(best()),
        "cuda" => Ok(cuda(ordinal)?),
        "metal" => Ok(Device::new_metal(ordinal)?),
        _ => Err(unknown()),
    }
}

/// A device's name as [`by_name`] takes it.
pub fn name(device: &Device) -> String {
    match device.location() {
        candle_core::DeviceLocation::Cpu => "cpu".to_owned(),
        candle_core::DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
        candle_core::DeviceLocation::Metal { gpu_id } => format!("metal:{gpu_id}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_bad_names_are_explained() {
        assert_eq!(name(&by_name("cpu").unwrap()), "cpu");
        for bad in ["gpu", "cuda:x", ""] {
            let text = by_name(bad).unwrap_err().to_string();
            assert!(text.contains("`device`: expected cpu, cuda"), "{text}");
        }
    }
}
