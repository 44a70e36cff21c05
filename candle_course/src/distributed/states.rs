//! Tensors between ranks.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};

use crate::distributed::Communicator;
use crate::error::{Context, Error, Result};
use crate::nn::Parameters;
use crate::stateful::State;

/// Tensors and texts as the bytes of a safetensors file.
pub(crate) fn to_bytes(tensors: &State, texts: &BTreeMap<String, String>) -> Result<Vec<u8>> {
    let on_cpu = |(name, tensor): (&String, &Tensor)| Ok((name.clone(), tensor.to_device(&Device::Cpu)?.contiguous()?));
    let tensors = tensors.iter().map(on_cpu).collect::<Result<Vec<_>>>()?;
    let texts = (!texts.is_empty()).then(|| texts.clone().into_iter().collect());
    Ok(safetensors::serialize(tensors, texts)?)
}

/// Back from [`to_bytes`].
pub(crate) fn from_bytes(bytes: &[u8]) -> Result<(State, BTreeMap<String, String>)> {
    let tensors = candle_core::safetensors::load_buffer(bytes, &Device::Cpu)?;
    let (_, metadata) = safetensors::SafeTensors::read_metadata(bytes)?;
    let texts = metadata.metadata().clone().unwrap_or_default();
    Ok((tensors.into_iter().collect(), texts.into_iter().collect()))
}

/// The states of all ranks, in their order.
pub(crate) fn gather_states(communicator: &dyn Communicator, state: &State) -> Result<Vec<State>> {
    let all = communicator.all_gather(&to_bytes(state, &BTreeMap::new())?)?;
    all.iter().map(|bytes| Ok(from_bytes(bytes)?.0)).collect()
}

/// Gives all ranks the variables of rank 0: parameters and buffers.
///
/// # Errors
/// If a rank has other variables, or the communicator fails.
pub fn broadcast_parameters(communicator: &dyn Communicator, parameters: &Parameters) -> Result<()> {
    if communicator.size() == 1 {
        return Ok(());
    }
    let all = parameters.all();
    let names: Vec<String> =
        all.iter().map(|(name, var)| format!("{name} {:?} {:?}", var.dims(), var.dtype())).collect();
    let described = communicator.all_gather(names.join("\n").as_bytes())?;
    if let Some(rank) = described.iter().position(|names| *names != described[0]) {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (here, there) = (text(&described[0]), text(&described[rank]));
        let differs = here.lines().zip(there.lines()).find(|(here, there)| here != there);
        let (here, there) = differs.unwrap_or(("fewer variables or more", "another number"));
        return Err(Error::training(format!("rank {rank} has another model: `{there}` where rank 0 has `{here}`"))
            .hint("build the same model on every rank"));
    }
    for (name, var) in all {
        // One after the other: not all weights twice in memory.
        let state = State::from([(name.clone(), var.as_tensor().clone())]);
        let mut bytes = if communicator.rank() == 0 { to_bytes(&state, &BTreeMap::new())? } else { Vec::new() };
        communicator.broadcast(0, &mut bytes).with_context(|| format!("`{name}` cannot be broadcast"))?;
        if communicator.rank() > 0 {
            let (state, _) = from_bytes(&bytes)?;
            var.set(&state[&name].to_device(var.device())?)?;
        }
    }
    Ok(())
}

/// A checksum of every variable's bits.
pub(crate) fn checksums(parameters: &Parameters) -> Result<Vec<(String, u32)>> {
    let checksum = |tensor: &Tensor| -> Result<u32> {
        let tensor = tensor.flatten_all()?.to_device(&Device::Cpu)?;
        Ok(match tensor.dtype() {
            DType::F32 => crc32c::crc32c(bytemuck::cast_slice(&tensor.to_vec1::<f32>()?)),
            // Wide enough for every other dtype of a variable, to the bit.
            _ => crc32c::crc32c(bytemuck::cast_slice(&tensor.to_dtype(DType::F64)?.to_vec1::<f64>()?)),
        })
    };
    parameters.all().into_iter().map(|(name, var)| Ok((name, checksum(&var)?))).collect()
}
