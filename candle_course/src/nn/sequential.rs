//! Layers one after the other.

use std::any::Any;
use std::sync::Arc;

use candle_core::{ModuleT, Tensor};

use crate::nn::Model;

/// Layers applied in order. Clones share the layers.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let parameters = Parameters::new(0, &Device::Cpu);
/// let model = Sequential::new()
///     .add(Linear::new(4, 8, &parameters.at("0"))?)
///     .add(Activation::Relu)
///     .add(Dropout::new(0.5, &parameters.at("2"))?)
///     .add(Linear::new(8, 2, &parameters.at("3"))?);
/// let y = model.forward_t(&Tensor::ones((3, 4), DType::F32, &Device::Cpu)?, true)?;
/// assert_eq!(y.dims(), [3, 2]);
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Clone, Default)]
pub struct Sequential {
    layers: Vec<Arc<dyn Model>>,
    /// The same layers, where their types are known.
    typed: Vec<Option<Arc<dyn Any + Send + Sync>>>,
}

impl Sequential {
    /// No layers: the identity.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a layer at the end.
    #[must_use]
    #[allow(clippy::should_implement_trait)] // `add` as in tf.keras.Sequential, not `+`
    pub fn add(mut self, layer: impl Model + 'static) -> Self {
        let layer = Arc::new(layer);
        self.layers.push(layer.clone());
        self.typed.push(Some(layer));
        self
    }

    /// How many layers.
    pub fn len(&self) -> usize {
        self.layers.len()
    }

    /// The layers, in order.
    pub fn layers(&self) -> &[Arc<dyn Model>] {
        &self.layers
    }

    /// The layers as what they are; none where that is not known.
    pub(crate) fn typed(&self) -> &[Option<Arc<dyn Any + Send + Sync>>] {
        &self.typed
    }

    /// Adds a layer that others may hold too.
    #[must_use]
    pub fn add_shared(mut self, layer: Arc<dyn Model>) -> Self {
        self.layers.push(layer);
        self.typed.push(None);
        self
    }

    /// Whether there are no layers.
    pub fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }
}

impl std::fmt::Debug for Sequential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sequential of {} layers", self.len())
    }
}

impl ModuleT for Sequential {
    fn forward_t(&self, xs: &Tensor, train: bool) -> candle_core::Result<Tensor> {
        self.layers.iter().try_fold(xs.clone(), |xs, layer| layer.forward_t(&xs, train))
    }
}
