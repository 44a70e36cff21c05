//! The random generators of a model's layers, as a section of a checkpoint.

use candle_core::{DType, Device, Tensor};

use crate::error::Result;
use crate::nn::Parameters;
use crate::random::Generator;
use crate::stateful::{Expected, State, Stateful, compare};

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
/// let saved = generators.state()?;
/// let first = dropout.forward_t(&xs, true)?.to_vec1::<f32>()?;
/// generators.load_state(&saved)?;
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

impl Stateful for GeneratorStates {
    /// By the name of the layer: its generator's state, u8.
    fn state(&self) -> Result<State> {
        self.0
            .generators()
            .into_iter()
            .map(|(name, generator)| {
                let bytes = generator.lock().to_bytes();
                Ok((name, Tensor::from_vec(bytes, Generator::STATE_BYTES, &Device::Cpu)?))
            })
            .collect()
    }

    fn load_state(&mut self, state: &State) -> Result<()> {
        let own = self.0.generators();
        let expected = || Expected::new(&[Generator::STATE_BYTES], DType::U8);
        let names = own.iter().map(|(name, _)| (name.as_str(), expected()));
        compare("the random generators are of another model", state, names)?;
        let restored = own
            .iter()
            .map(|(name, shared)| Ok((Generator::from_bytes(&state[name].to_vec1::<u8>()?)?, shared)))
            .collect::<Result<Vec<_>>>()?;
        for (generator, shared) in restored {
            *shared.lock() = generator;
        }
        Ok(())
    }
}
