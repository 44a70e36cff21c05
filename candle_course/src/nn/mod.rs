//! Layers, named and laid out as PyTorch's `state_dict`, and the variables they own.

use candle_core::ModuleT;

mod activation;
mod dropout;
pub mod init;
mod linear;
mod parameters;
mod sequential;

pub use activation::Activation;
pub use dropout::Dropout;
pub use init::Init;
pub use linear::Linear;
pub use parameters::{Parameters, Scope};
pub use sequential::Sequential;

/// What can be trained: any [`candle_nn::ModuleT`] that may cross threads.
///
/// Implemented for every such type; implement `ModuleT` for your model.
pub trait Model: ModuleT + Send + Sync {
    /// The type's name without its path: `Linear`.
    fn kind(&self) -> &'static str {
        let name = std::any::type_name::<Self>();
        let plain = name.split('<').next().unwrap_or(name);
        plain.rsplit("::").next().unwrap_or(plain)
    }
}

impl<M: ModuleT + Send + Sync + ?Sized> Model for M {}
