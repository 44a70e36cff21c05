//! In which precision a GPU multiplies.

use std::cell::Cell;
use std::marker::PhantomData;

use candle_core::{Device, DeviceLocation};

use crate::error::{Error, Result};

thread_local! {
    static CURRENT: Cell<Precision> = const { Cell::new(Precision::F32) };
}

/// The precision of matrix products and convolutions on a CUDA device.
///
/// Inputs, parameters, results and gradients are f32 whatever the choice; so are norms, softmax,
/// losses and the optimizer. Sums are f32, too: what changes is how many bits of the two factors
/// take part. f64 tensors are always multiplied in f64.
///
/// PyTorch, unless told otherwise, multiplies matrices like [`F32`](Self::F32) and convolves like
/// [`Tf32`](Self::Tf32); its `autocast(dtype=torch.bfloat16)` is [`Bf16`](Self::Bf16).
///
/// # Examples
///
/// ```
/// use candle_course::precision::Precision;
/// use candle_course::prelude::*;
///
/// assert_eq!(Precision::current(), Precision::F32);
/// // A CPU has no faster arithmetic to offer: refused, not ignored.
/// assert!(Precision::Bf16.scope(&Device::Cpu).is_err());
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Precision {
    /// All 24 bits of every factor: the default.
    #[default]
    F32,
    /// Factors rounded to 11 bits (TensorFloat-32) inside the multipliers of Ampere and later:
    /// several times faster, errors around 1e-3.
    Tf32,
    /// Factors rounded to 8 bits (bfloat16), twice as fast again and half the traffic. Its range is
    /// that of f32, so no loss scaling is needed. What layers keep for the backward pass is kept in bf16
    /// too, which halves the memory: the factors themselves, and the normalised input of a batch norm.
    Bf16,
}

impl Precision {
    /// What this thread computes in.
    pub fn current() -> Self {
        CURRENT.get()
    }

    /// Computes in this precision, on this thread, until the returned guard is dropped. A gradient
    /// is computed in the precision of its forward pass, whenever it is asked for.
    ///
    /// # Errors
    /// If `device` is no CUDA device and the precision is not [`F32`](Self::F32).
    pub fn scope(self, device: &Device) -> Result<PrecisionScope> {
        if self != Self::F32 && !matches!(device.location(), DeviceLocation::Cuda { .. }) {
            return Err(Error::argument("precision", "Precision::F32 on this device", format!("{self:?}"))
                .hint("reduced precision is for CUDA devices; a CPU or Metal device computes in f32"));
        }
        Ok(PrecisionScope { before: CURRENT.replace(self), of_thread: PhantomData })
    }
}

/// Ends the precision chosen by [`Precision::scope`] when it is dropped.
#[must_use = "the precision holds until this is dropped: keep it in a variable"]
#[derive(Debug)]
pub struct PrecisionScope {
    before: Precision,
    of_thread: PhantomData<*const ()>,
}

impl Drop for PrecisionScope {
    fn drop(&mut self) {
        CURRENT.set(self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_nest_and_reduced_precision_is_refused_on_a_cpu() {
        let outer = Precision::F32.scope(&Device::Cpu).unwrap();
        CURRENT.set(Precision::Tf32);
        {
            let _inner = Precision::F32.scope(&Device::Cpu).unwrap();
            assert_eq!(Precision::current(), Precision::F32);
        }
        assert_eq!(Precision::current(), Precision::Tf32);
        drop(outer);
        assert_eq!(Precision::current(), Precision::F32);
        for precision in [Precision::Tf32, Precision::Bf16] {
            let text = precision.scope(&Device::Cpu).unwrap_err().to_string();
            assert!(text.contains("`precision`: expected Precision::F32 on this device, got"), "{text}");
        }
        assert_eq!(Precision::current(), Precision::F32);
    }
}
