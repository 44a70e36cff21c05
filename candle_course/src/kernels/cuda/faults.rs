//! What kernels find wrong and cannot say: a target that is no class.
//!
//! Looking at the targets from the host would mean waiting for the device in every step. So a
//! kernel that meets a wrong one makes the loss NaN and leaves a note here, which is read together
//! with other news of the device.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use candle_core::cuda_backend::cudarc::driver::CudaSlice;
use candle_core::cuda_backend::{CudaDevice, DeviceId};
use candle_core::{Error, Result};

use super::runtime::address;

type Notes = HashMap<DeviceId, Arc<CudaSlice<i64>>>;

static NOTES: Mutex<Option<Notes>> = Mutex::new(None);

/// A target that was met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// The target; a fraction is cut off.
    pub target: i64,
    /// How many classes there are; 0 where targets are no classes, −1 for a log-probability above 0,
    /// −2 for probabilities that do not sum to 1.
    pub classes: i64,
}

fn note(device: &CudaDevice) -> Result<Arc<CudaSlice<i64>>> {
    let mut notes =
        NOTES.lock().map_err(|_| Error::Msg("another thread panicked while it noted a fault".to_owned()))?;
    let notes = notes.get_or_insert_default();
    if let Some(note) = notes.get(&device.id()) {
        return Ok(note.clone());
    }
    let note = Arc::new(device.alloc_zeros::<i64>(3)?);
    notes.insert(device.id(), note.clone());
    Ok(note)
}

/// Where kernels of this device leave their note: three i64, which live as long as the process.
pub fn place(device: &CudaDevice) -> Result<u64> {
    Ok(address(&*note(device)?))
}

/// The note, if there is one. Waits for the device. The next reader finds it again, until
/// [`forget`].
pub fn read(device: &CudaDevice) -> Result<Option<Fault>> {
    let found = device.clone_dtoh(&*note(device)?)?;
    Ok((found[0] != 0).then_some(Fault { target: found[1], classes: found[2] }))
}

/// What there is to say of the note, which is removed. Waits for the device.
pub fn error(device: &CudaDevice) -> crate::error::Result<Option<crate::error::Error>> {
    use crate::error::Error;
    let Some(Fault { target, classes }) = read(device)? else { return Ok(None) };
    forget(device)?;
    Ok(Some(match classes {
        -1 => Error::argument("log_probabilities", "log-probabilities, never above 0", format!("about {target}"))
            .hint("are these logits or probabilities? apply `log_softmax` to logits, or use `cross_entropy`"),
        -2 => Error::argument(
            "targets",
            "probabilities that sum to 1 over the classes",
            format!("a sum of about {target}"),
        )
        .hint("apply a softmax to a teacher's logits"),
        0 => Error::argument("targets", "numbers in [0, 1] (0 and 1 where they stand for a sign)", target)
            .hint("are these class indices, logits, or a mask with 255? The step was not taken"),
        _ => {
            let error = Error::argument("targets", format!("classes in 0..{classes}"), target);
            if target == 255 || target == -100 {
                error.hint(format!("is {target} the label of unknown pixels? set `ignore_index({target})`"))
            } else {
                error.hint("does the last layer have one output per class?")
            }
        }
    }))
}

/// Removes the note.
fn forget(device: &CudaDevice) -> Result<()> {
    let mut notes =
        NOTES.lock().map_err(|_| Error::Msg("another thread panicked while it noted a fault".to_owned()))?;
    if let Some(note) = notes.as_mut().and_then(|notes| notes.get_mut(&device.id())).and_then(Arc::get_mut) {
        device.memcpy_htod(&[0i64; 3], note)?;
    }
    Ok(())
}
