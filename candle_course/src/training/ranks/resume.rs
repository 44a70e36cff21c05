//! A checkpoint for all ranks, read by one.

use std::collections::BTreeMap;

use crate::checkpoint::{GeneratorStates, Resume, Snapshot};
use crate::distributed::{from_bytes, to_bytes};
use crate::error::{Error, Result};
use crate::language::told;
use crate::stateful::State;
use crate::training::Training;
use crate::training::ranks::Ranks;

/// How many ranks a checkpoint was made by.
pub(in crate::training) const RANKS: &str = "ranks";

/// The section of a rank's generators.
pub(in crate::training) fn generators_of(rank: usize) -> String {
    if rank == 0 { "generators".to_owned() } else { format!("generators of rank {rank}") }
}

impl Ranks {
    /// What rank 0 found, on all of them: a folder may be on its disk alone.
    pub(in crate::training) fn share(&mut self, found: Option<Result<Option<Resume>>>) -> Result<Option<Resume>> {
        let (mut bytes, failed) = match &found {
            Some(Ok(Some(found))) => (encode(&found.snapshot)?, None),
            Some(Err(error)) => (Vec::new(), Some(error.to_string())),
            Some(Ok(None)) | None => (Vec::new(), None),
        };
        self.all_or_none(failed)?;
        self.communicator.broadcast(0, &mut bytes)?;
        match found {
            Some(found) => found,
            None if bytes.is_empty() => Ok(None),
            None => Ok(Some(Resume { path: "rank 0".into(), step: 0, snapshot: decode(&bytes)?, damaged: Vec::new() })),
        }
    }
}

fn encode(snapshot: &Snapshot) -> Result<Vec<u8>> {
    let mut tensors = State::new();
    for section in snapshot.sections() {
        let named = |(name, tensor): (&String, &candle_core::Tensor)| (format!("{section}/{name}"), tensor.clone());
        tensors.extend(snapshot.get(section)?.iter().map(named));
    }
    let mut texts = snapshot.texts().clone();
    texts.insert("sections".to_owned(), snapshot.sections().join(","));
    to_bytes(&tensors, &texts)
}

fn decode(bytes: &[u8]) -> Result<Snapshot> {
    let (tensors, mut texts) = from_bytes(bytes)?;
    let names = texts.remove("sections").unwrap_or_default();
    let mut sections: BTreeMap<String, State> =
        names.split(',').filter(|name| !name.is_empty()).map(|name| (name.to_owned(), State::new())).collect();
    for (name, tensor) in tensors {
        let place = name.split_once('/').and_then(|(section, name)| Some((sections.get_mut(section)?, name)));
        let (section, name) =
            place.ok_or_else(|| Error::checkpoint(format!("the tensor `{name}` is in no section")))?;
        section.insert(name.to_owned(), tensor);
    }
    Ok(Snapshot::from_parts(sections, texts))
}

impl Training {
    /// Restores this rank's generators. A rank that had none then gets them from those of rank 0.
    pub(in crate::training) fn restore_generators(&mut self, snapshot: &Snapshot) -> Result<()> {
        let rank = self.rank();
        let own = generators_of(rank);
        let has_own = snapshot.sections().contains(&own.as_str());
        let section = if has_own { own } else { generators_of(0) };
        snapshot.restore(&section, &mut GeneratorStates::new(&self.parameters))?;
        if let Some(ranks) = &mut self.ranks {
            ranks.seeded = has_own;
            ranks.seed(&self.parameters);
        }
        Ok(())
    }

    /// Says what another number of ranks changes.
    pub(in crate::training) fn note_ranks(&mut self, snapshot: &Snapshot) {
        let then = snapshot.get_number(RANKS).map_or(1, |ranks| ranks as usize);
        let now = self.ranks();
        if then != now {
            self.note(told!(
                "goes on with {} ranks instead of {}: the examples keep their order; a batch of all ranks is {} times their batch size, and layers that draw random numbers draw others",
                "continua com {} ranks em vez de {}: os exemplos mantêm a ordem; um lote de todos os ranks é {} vezes o tamanho do lote de cada um, e as camadas que sorteiam números sorteiam outros",
                now,
                then,
                now
            ));
        }
    }
}
