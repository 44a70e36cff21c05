//! Data-parallel training: several processes with a model each, and the gradient of all.
//!
//! A [`Communicator`] is what the ranks talk through. [`launch`] gives the one that the process was started
//! with: MPI under `mpirun` or `srun`, with the feature `mpi`; a group of one otherwise, which costs nothing.
//! [`LocalCommunicator`] makes ranks of threads, to try out and to test.
//!
//! Every rank takes its part of each batch ([`DataLoader::shard`](crate::data::DataLoader::shard)), and the
//! [`Trainer`](crate::training::Trainer) with
//! [`distributed`](crate::training::TrainerBuilder::distributed) does the rest: P ranks with batches of B train
//! as one process with batches of P·B does.
//!
//! ```
//! use candle_course::distributed::launch;
//! use candle_course::prelude::*;
//!
//! # fn main() -> Result<()> {
//! launch(|communicator| {
//!     let x = Tensor::arange(-8f32, 8., &Device::Cpu)?.reshape((16, 1))?;
//!     let y = x.flatten_all()?.ge(0f32)?.to_dtype(DType::U32)?;
//!     let train = DataLoader::builder(TensorDataset::new(x, y)?).batch_size(4).shuffle(1).build()?;
//!     let train = train.shard(communicator.rank(), communicator.size())?;
//!     let parameters = Parameters::new(0, &Device::Cpu);
//!     let model = Linear::new(1, 2, &parameters.at("fc"))?;
//!     let mut trainer = Trainer::builder(model, &parameters, CrossEntropy::default(), Sgd::new(&parameters)?)
//!         .epochs(3)
//!         .learning_rate(0.1)
//!         .distributed(communicator)
//!         .build()?;
//!     trainer.fit(&train, None)?;
//!     Ok(())
//! })
//! # }
//! ```
//!
//! In a loop of one's own, [`average_gradients`] stands between backward and step, and [`broadcast_parameters`]
//! before the first; [`SynchronisedBatchNorm`] lets batch norms see the batches of all ranks.

mod buckets;
mod communicator;
mod launch;
mod local;
#[cfg(feature = "mpi")]
pub mod mpi;
#[cfg(feature = "nccl")]
pub mod nccl;
mod states;
mod synchronised;

pub(crate) use buckets::Buckets;
pub use buckets::average_gradients;
pub use communicator::{Communicator, SingleProcess};
pub use launch::launch;
pub use local::LocalCommunicator;
pub use states::broadcast_parameters;
pub(crate) use states::{checksums, from_bytes, gather_states, to_bytes};
pub(crate) use synchronised::Outcome;
pub use synchronised::SynchronisedBatchNorm;
