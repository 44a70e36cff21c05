//! The communicator that a process was started with.

use std::sync::Arc;

use crate::distributed::{Communicator, SingleProcess};
use crate::error::Result;

/// What launchers of MPI programs tell each process: how many there are, as Open MPI, MPICH and its kin, and
/// SLURM's `srun` say it.
const SIZES: [&str; 4] = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS"];

/// Does the work of one rank: of MPI, if this process was started by `mpirun` or `srun` as one of several; of a
/// group of one otherwise.
///
/// Under MPI, what goes wrong on one rank ends all of them: if `work` fails or panics, the message is printed
/// with the rank that it comes from, and MPI ends the job.
///
/// # Errors
/// What `work` gives, in a group of one; or if several processes were started, but the crate was built without
/// the feature `mpi`: each would train for itself.
///
/// # Examples
///
/// ```
/// use candle_course::distributed::launch;
///
/// let size = launch(|communicator| Ok(communicator.size()))?;
/// assert_eq!(size, 1);
/// # Ok::<(), candle_course::Error>(())
/// ```
pub fn launch<T>(work: impl FnOnce(Arc<dyn Communicator>) -> Result<T>) -> Result<T> {
    let told = SIZES.iter().find_map(|name| Some((*name, std::env::var(name).ok()?)));
    match several(told.as_ref().map(|(name, value)| (*name, value.as_str()))) {
        None => work(Arc::new(SingleProcess)),
        #[cfg(feature = "mpi")]
        Some(_) => crate::distributed::mpi::run(work),
        #[cfg(not(feature = "mpi"))]
        Some((name, size)) => Err(crate::error::Error::training(format!(
            "{size} processes were started together (`{name}` says so), but this program was built without MPI: each would train for itself"
        ))
        .hint("build with `--features mpi`; it needs Open MPI or MPICH with its headers (Debian: `apt install openmpi-bin libopenmpi-dev`)")),
    }
}

/// Whether a launcher says that there are several processes.
fn several<'a>(told: Option<(&'a str, &str)>) -> Option<(&'a str, usize)> {
    let (name, value) = told?;
    value.trim().parse().ok().filter(|&size| size > 1).map(|size| (name, size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_launcher_of_several_is_noticed() {
        assert_eq!(several(None), None);
        assert_eq!(several(Some(("PMI_SIZE", "1"))), None);
        assert_eq!(several(Some(("PMI_SIZE", "?"))), None);
        assert_eq!(several(Some(("PMI_SIZE", "4"))), Some(("PMI_SIZE", 4)));
    }
}
