//! Layers, named and laid out as PyTorch's `state_dict`, and the variables they own.

use candle_core::ModuleT;

mod activation;
mod batch_norm;
mod bridge;
mod conv;
mod dropout;
mod group_norm;
pub mod init;
mod layer_norm;
mod linear;
#[cfg(test)]
mod long_sum_tests;
mod pair;
mod parameters;
pub(crate) mod pattern;
mod pool;
mod recompute;
mod resnet;
pub(crate) mod rnn;
mod sequential;
mod shape;
pub mod trainable;

pub use activation::Activation;
pub(crate) use batch_norm::BatchNorm;
pub use batch_norm::{BatchNorm1d, BatchNorm2d, BatchNormBuilder};
pub use bridge::{Bridge, BridgeBuilder};
pub use conv::{Conv2d, Conv2dBuilder, ConvTranspose2d, ConvTranspose2dBuilder};
pub use dropout::Dropout;
#[cfg(test)]
pub(crate) use group_norm::group_norm;
pub use group_norm::{GroupNorm, GroupNormBuilder};
pub use init::{Fan, Init, Nonlinearity};
pub use layer_norm::{LayerNorm, LayerNormBuilder};
pub use linear::{Linear, LinearBuilder};
pub use pair::Pair;
pub use parameters::{Parameters, Scope};
pub use pool::{AdaptiveAvgPool2d, AvgPool2d, MaxPool2d, Pool2dBuilder};
pub use recompute::Recompute;
pub use resnet::{ResNet18, ResNet18Builder};
pub use rnn::{Gru, GruBuilder, Lstm, LstmBuilder, RecurrentOutput, Rnn, RnnBuilder};
pub use sequential::Sequential;
pub use shape::{Flatten, Upsample, UpsampleMode};

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
