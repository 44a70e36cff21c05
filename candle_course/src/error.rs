//! One error type for the whole crate.
//!
//! In a notebook the error message *is* the interface: evcxr prints only [`Display`], never the
//! chain of sources. So `Display` prints the whole chain, one cause per line.

use std::error::Error as StdError;
use std::fmt::{self, Display};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use crate::text::harmless;

/// The crate's result type.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What kind of thing went wrong, for callers that react to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// An argument is outside what the function accepts.
    InvalidArgument,
    /// A data set, file format or example is not as expected.
    Data,
    /// Reading or writing a file failed.
    Io,
    /// A tensor operation failed (shape, dtype, device, memory).
    Tensor,
    /// A checkpoint is damaged, of another model or of another version.
    Checkpoint,
    /// A training cannot go on (missing gradient, NaN loss, unknown monitor).
    Training,
    /// A value is undefined (a metric without examples, say).
    Undefined,
    /// A figure or a display failed.
    Display,
}

/// The error of every fallible function of this crate.
///
/// `Display` prints the message, then a line `caused by: …` for every cause beneath it.
///
/// # Examples
///
/// ```
/// use candle_course::error::{Context, Error, ErrorKind};
///
/// let error = Error::argument("batch_size", "at least 1", 0).hint("did you divide by the number of workers?");
/// assert_eq!(
///     error.to_string(),
///     "`batch_size`: expected at least 1, got 0; did you divide by the number of workers?"
/// );
/// assert_eq!(error.kind(), ErrorKind::InvalidArgument);
///
/// let missing = std::fs::read("no-such-file").context("cannot read the labels").unwrap_err();
/// assert!(missing.to_string().starts_with("cannot read the labels\n  caused by: "));
/// ```
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: String,
    source: Option<Box<dyn StdError + Send + Sync + 'static>>,
}

impl Error {
    /// An error of `kind` with a message.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner { kind, message: message.into(), source: None }))
    }

    /// A bad argument: its name, what was expected, what came.
    pub fn argument(name: &str, expected: impl Display, got: impl Display) -> Self {
        Self::new(ErrorKind::InvalidArgument, format!("`{name}`: expected {expected}, got {got}"))
    }

    /// A damaged or unexpected data set, file or example.
    pub fn data(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Data, message)
    }

    /// A training that cannot go on.
    pub fn training(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Training, message)
    }

    /// A checkpoint that cannot be used.
    pub fn checkpoint(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Checkpoint, message)
    }

    /// A value that is not defined for what came in.
    pub fn undefined(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Undefined, message)
    }

    /// Adds the likely mistake to the message.
    #[must_use]
    pub fn hint(mut self, hint: impl Display) -> Self {
        self.0.message.push_str(&format!("; {hint}"));
        self
    }

    /// Wraps this error in a message that says what was being done.
    #[must_use]
    pub fn context(self, message: impl Into<String>) -> Self {
        let kind = self.kind();
        Self(Box::new(Inner { kind, message: message.into(), source: Some(Box::new(self)) }))
    }

    /// What kind of thing went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    fn wrap(kind: ErrorKind, source: impl StdError + Send + Sync + 'static) -> Self {
        Self(Box::new(Inner { kind, message: source.to_string(), source: None }))
    }
}

impl Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = self.0.message.clone();
        let mut cause = self.source();
        while let Some(error) = cause {
            match error.downcast_ref::<Error>() {
                Some(own) => text.push_str(&format!("\n  caused by: {}", own.0.message)),
                None => text.push_str(&format!("\n  caused by: {error}")),
            }
            cause = error.source();
        }
        f.write_str(&harmless(&text))
    }
}

impl fmt::Debug for Error {
    /// The same as `Display`: `unwrap` in a notebook should print something readable.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Display::fmt(self, f)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_ref().map(|source| &**source as &(dyn StdError + 'static))
    }
}

/// Adds what was being done to an error on its way up.
pub trait Context<T> {
    /// Wraps the error in `message`.
    fn context(self, message: impl Into<String>) -> Result<T>;
    /// Wraps the error in a message that is only built when there is an error.
    fn with_context<S: Into<String>>(self, message: impl FnOnce() -> S) -> Result<T>;
}

impl<T, E: Into<Error>> Context<T> for std::result::Result<T, E> {
    fn context(self, message: impl Into<String>) -> Result<T> {
        self.map_err(|error| error.into().context(message))
    }

    fn with_context<S: Into<String>>(self, message: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|error| error.into().context(message()))
    }
}

macro_rules! from_errors {
    ($($kind:ident: $($error:ty),+;)+) => {$($(
        impl From<$error> for Error {
            fn from(error: $error) -> Self {
                Self::wrap(ErrorKind::$kind, error)
            }
        }
    )+)+};
}

from_errors! {
    Io: std::io::Error;
    Data: serde_json::Error, image::ImageError, tiff::TiffError, std::num::ParseIntError, std::num::ParseFloatError, std::string::FromUtf8Error;
    Checkpoint: safetensors::SafeTensorError;
    Tensor: candle_core::Error;
}

#[cfg(feature = "hub")]
from_errors! {
    Data: parquet::errors::ParquetError;
}

impl From<Error> for candle_core::Error {
    /// For code inside candle's own traits ([`candle_nn::ModuleT`], custom operations).
    fn from(error: Error) -> Self {
        candle_core::Error::wrap(error)
    }
}

/// Does `work` and then, whatever came of it, `after`, which puts things back. A panic goes on when they
/// are in their place.
pub(crate) fn always<C: ?Sized, T>(
    with: &mut C,
    work: impl FnOnce(&mut C) -> Result<T>,
    after: impl FnOnce(&mut C) -> Result<()>,
) -> Result<T> {
    let result = catch_unwind(AssertUnwindSafe(|| work(with)));
    let put_back = after(with);
    let result = result.unwrap_or_else(|panic| resume_unwind(panic))?;
    put_back.map(|()| result)
}

/// What code of the user gives, and its panic as an error of this kind: in a notebook a panic takes the
/// cell's variables away.
pub(crate) fn contained<T>(kind: ErrorKind, who: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(Error::new(kind, panicked(who, &*panic))))
}

/// What a caught panic of `what` said.
pub(crate) fn panicked(what: &str, panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let message = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
    format!("{what} panicked: {message}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_prints_the_whole_chain() {
        let error = Error::data("byte 7 is not a label").context("cannot read labels.idx").context("cannot load MNIST");
        assert_eq!(
            error.to_string(),
            "cannot load MNIST\n  caused by: cannot read labels.idx\n  caused by: byte 7 is not a label"
        );
        assert_eq!(error.kind(), ErrorKind::Data);
    }

    #[test]
    fn candle_errors_pass_both_ways() {
        fn fails() -> Result<()> {
            candle_core::Tensor::zeros((2, 3), candle_core::DType::F32, &candle_core::Device::Cpu)?.reshape((5,))?;
            Ok(())
        }
        let error = fails().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Tensor);
        let text = error.to_string();
        assert!(candle_core::Error::from(error).to_string().contains(&text));
    }
}
