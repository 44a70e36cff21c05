//! The random generators of a model's layers, as a section of a checkpoint.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};

use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::nn::Parameters;
use crate::random::Generator;

/// The generators of layers that draw random numbers (dropout): without them a resumed training
/// draws other masks.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let parameters = Parameters::new(0, &Device::Cpu);
/// let dropout = Dropout::new(0.5, &parameters.at("dropout"))?;
/// let xs = Tensor::ones(100, DType::F32, &Device::Cpu)?;
/// let mut generators = GeneratorStates::new(&parameters);
/// let saved = generators.tensors()?;
/// let first = dropout.forward_t(&xs, true)?.to_vec1::<f32>()?;
/// generators.load_tensors(&saved)?;
/// assert_eq!(dropout.forward_t(&xs, true)?.to_vec1::<f32>()?, first);
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct GeneratorStates(Parameters);

impl GeneratorStates {
    /// The generators registered in `parameters`.
    pub fn new(parameters: &Parameters) -> Self {
        Self(parameters.clone())
    }
}

impl Checkpoint for GeneratorStates {
    /// By the name of the layer: its generator's state, u8.
    fn tensors(&self) -> Result<BTreeMap<String, Tensor>> {
        self.0
            .generators()
            .into_iter()
            .map(|(name, generator)| {
                let bytes = generator.lock().to_bytes();
                Ok((name, Tensor::from_vec(bytes, Generator::STATE_BYTES, &Device::Cpu)?))
            })
            .collect()
    }

    fn load_tensors(&mut self, tensors: &BTreeMap<String, Tensor>) -> Result<()> {
        let own = self.0.generators();
        let missing: Vec<String> = own
            .iter()
            .filter(|(name, _)| !tensors.contains_key(name))
            .map(|(name, _)| format!("`{name}` is missing"))
            .collect();
        let foreign = tensors
            .keys()
            .filter(|name| !own.iter().any(|(known, _)| known == *name))
            .map(|name| format!("`{name}` is not in the model"));
        let differences: Vec<String> = missing.into_iter().chain(foreign).collect();
        if !differences.is_empty() {
            return Err(Error::checkpoint(format!(
                "the random generators are of another model: {}",
                differences.join("; ")
            )));
        }
        let restored = own
            .iter()
            .map(|(name, shared)| Ok((Generator::from_bytes(&tensors[name].to_vec1::<u8>()?)?, shared)))
            .collect::<Result<Vec<_>>>()?;
        for (generator, shared) in restored {
            *shared.lock() = generator;
        }
        Ok(())
    }
}
