//! The same training on one process or on several, of which the first can be watched from a notebook:
//!
//! cargo build --release --features mpi --example several_ranks
//! mpirun -n 2 target/release/examples/several_ranks [language [folder]]
//!
//! With a folder, the first process writes there what a Jupyter server shows; see `BackgroundTraining::live`.

use candle_course::distributed::launch;
use candle_course::prelude::*;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    set_language(arguments.first().map_or("en", String::as_str))?;
    launch(|communicator| {
        let (rank, ranks) = (communicator.rank(), communicator.size());
        let images = Mnist::builder().sample().quiet().load()?.train();
        let loader = DataLoader::builder(images).batch_size(64 / ranks).shuffle(1).build()?.shard(rank, ranks)?;
        let parameters = Parameters::new(1, &Device::Cpu);
        let model = Sequential::new()
            .add(Conv2d::builder(1, 8, 3).padding(1).no_bias().build(&parameters.at("conv1"))?)
            .add(BatchNorm2d::new(8, &parameters.at("norm1"))?.with_relu())
            .add(MaxPool2d::new(2)?)
            .add(Conv2d::builder(8, 16, 3).padding(1).no_bias().build(&parameters.at("conv2"))?)
            .add(BatchNorm2d::new(16, &parameters.at("norm2"))?.with_relu())
            .add(MaxPool2d::new(2)?)
            .add(Flatten)
            .add(Linear::new(16 * 7 * 7, 10, &parameters.at("fc"))?);
        let training = Trainer::builder(model, &parameters, CrossEntropy::default(), Sgd::new(&parameters)?)
            .epochs(12)
            .learning_rate(0.05)
            .distributed(communicator)
            .synchronise_batch_norm()
            .build()?
            .fit_in_background(&loader, None)?;
        if let (0, Some(folder)) = (rank, arguments.get(1)) {
            training.live(folder)?;
        }
        let (_, history) = training.join()?;
        if rank == 0 {
            let loss = history.epochs().last().map_or(f64::NAN, |epoch| epoch.train_loss);
            println!("{ranks} × {}: {} → {loss:.4}", 64 / ranks, history.step_losses().len());
        }
        Ok(())
    })
}
