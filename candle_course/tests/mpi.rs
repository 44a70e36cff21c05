//! Ranks that are processes of MPI. This program starts itself under `mpirun`, with 1, 2 and 4 ranks on this
//! machine, kills some, and compares what comes out; `scripts/test mpi` runs it.

use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use candle_course::distributed::launch;
use candle_course::prelude::*;

/// Longer than anything here takes: what still runs then, hangs.
const PATIENCE: Duration = Duration::from_secs(240);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|argument| argument == "rank") {
        let result = launch(|communicator| rank(communicator, &arguments[1..]));
        return result.unwrap_or_else(|error| {
            eprintln!("{error}");
            std::process::exit(3)
        });
    }
    let tests: [(&str, fn()); 7] = [
        ("every_call_gives_what_it_should", calls),
        ("ranks_take_the_steps_of_one_process_and_repeat_them_to_the_bit", equalities),
        ("synchronised_batch_norm_is_that_of_one_process", synchronised),
        ("a_killed_rank_ends_the_others", killed),
        ("a_rank_that_fails_ends_the_others_and_is_named", fails),
        ("a_nan_on_one_rank_is_an_error_of_all", not_a_number),
        ("a_training_whose_ranks_were_all_killed_resumes_to_the_bit", resumes),
    ];
    // As `cargo test` and nextest ask a test binary.
    let asked = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let names: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with("--")).collect();
    let wanted =
        |name: &str| !asked("--ignored") && (names.is_empty() || names.iter().any(|part| name.contains(*part)));
    let chosen: Vec<_> = tests.iter().filter(|(name, _)| wanted(name) || asked("--list")).collect();
    for (name, test) in &chosen {
        if asked("--list") {
            println!("{name}: test");
        } else {
            test();
            println!("test {name} ... ok");
        }
    }
    if !asked("--list") {
        println!("\ntest result: ok. {} passed; 0 failed; 0 ignored; 0 measured; 0 filtered out", chosen.len());
    }
}

// What a rank does.

fn points(examples: usize) -> Result<TensorDataset> {
    let mut generator = Generator::new(1);
    let labels: Vec<u32> = (0..examples).map(|_| generator.below(3) as u32).collect();
    let values: Vec<f32> = labels
        .iter()
        .flat_map(|&label| [f64::from(label) - 1.0, f64::from(label % 2)])
        .map(|center| (center + 0.6 * generator.normal()) as f32)
        .collect();
    TensorDataset::new(
        Tensor::from_vec(values, (examples, 2), &Device::Cpu)?,
        Tensor::from_vec(labels, examples, &Device::Cpu)?,
    )
}

/// NaN in the example 7, in the second epoch.
struct Spoils;

impl Transform for Spoils {
    fn apply(&self, batch: Batch, position: &BatchPosition) -> Result<Batch> {
        let row = batch.indices.iter().position(|&index| index == 7).filter(|_| position.epoch == 1);
        let Some(row) = row else { return Ok(batch) };
        let mut values = batch.inputs.to_vec2::<f32>()?;
        values[row][0] = f32::NAN;
        Ok(Batch { inputs: Tensor::new(values, &Device::Cpu)?, ..batch })
    }
}

/// Ends ranks from within, after a step.
struct Ends {
    step: usize,
    how: String,
    communicator: Arc<dyn Communicator>,
}

impl Callback for Ends {
    fn name(&self) -> &str {
        "ends"
    }

    fn step_end(&mut self, training: &mut Training) -> Result<Flow> {
        if training.state().step != self.step {
            return Ok(Flow::Continue);
        }
        let kill = |pids: &[String]| Command::new("kill").arg("-9").args(pids).status();
        match (self.how.as_str(), training.rank()) {
            ("kill-one", 1) => {
                kill(&[std::process::id().to_string()])?;
            }
            ("fail", 1) => return Err(Error::training("the disk is full")),
            ("panic", 1) => panic!("nobody home"),
            ("kill-all", rank) => {
                let all = self.communicator.all_gather(std::process::id().to_string().as_bytes())?;
                let pids: Vec<String> = all.iter().map(|pid| String::from_utf8_lossy(pid).into_owned()).collect();
                if rank == 0 {
                    kill(&pids)?;
                }
                self.communicator.barrier()?;
            }
            _ => {}
        }
        Ok(Flow::Continue)
    }
}

fn rank(communicator: Arc<dyn Communicator>, arguments: &[String]) -> Result<()> {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (rank, ranks) = (communicator.rank(), communicator.size());
    let (how, folder, steps) = match arguments[..] {
        ["calls"] => return exercise(&*communicator),
        [how, folder, steps] => (how, Path::new(folder), steps.parse::<usize>()?),
        _ => {
            return Err(Error::argument(
                "arguments",
                "calls, or a way to end, a folder and steps",
                format!("{arguments:?}"),
            ));
        }
    };
    // The last batch of an epoch is too small for four ranks to have an example each.
    let synchronised = how.ends_with("synchronised");
    let mut loader = DataLoader::builder(points(if synchronised { 67 } else { 65 })?).batch_size(16 / ranks).shuffle(5);
    if how.starts_with("nan") {
        loader = loader.transform(Spoils);
    }
    let train = loader.build()?.shard(rank, ranks)?;
    let parameters = Parameters::new(3, &Device::Cpu);
    let mut model = Sequential::new().add(Linear::new(2, 16, &parameters.at("0"))?);
    if synchronised {
        model = model.add(BatchNorm1d::new(16, &parameters.at("1"))?);
    }
    model = model.add(Activation::Relu);
    if how.starts_with("kill") || how == "undisturbed" {
        model = model.add(Dropout::new(0.2, &parameters.at("2"))?);
    }
    let model = model.add(Linear::new(16, 3, &parameters.at("3"))?);
    let optimizer = Sgd::builder(&parameters).momentum(0.9).build()?;
    let loss = CrossEntropy::builder().class_weights(vec![0.5, 1.0, 3.0]).build()?;
    let mut builder = Trainer::builder(model, &parameters, loss, optimizer)
        .max_steps(steps)
        .learning_rate(0.05)
        .checkpoints(Checkpoints::builder(folder.join("checkpoints")).every_steps(3).build()?)
        .distributed(Arc::clone(&communicator))
        .callback(Ends { step: 8, how: how.to_owned(), communicator: Arc::clone(&communicator) })
        .quiet();
    if synchronised {
        builder = builder.synchronise_batch_norm();
    }
    let mut trainer = builder.build()?;
    let resumed = trainer.resume(folder.join("checkpoints"))?;
    // Killed once: what goes on, does so undisturbed.
    match trainer.fit(&train, None) {
        Err(error) if how.starts_with("nan") => println!("told {}", error.to_string().replace('\n', " ")),
        result => drop(result?),
    }
    let state = parameters.state()?;
    let digest =
        state.values().flat_map(|tensor| tensor.flatten_all().and_then(|t| t.to_vec1::<f32>()).unwrap_or_default());
    let digest = digest.fold(0u64, |digest, x| digest.rotate_left(5) ^ u64::from(x.to_bits()));
    println!("digest {digest:016x} of rank {rank}, resumed {resumed}");
    if rank == 0 {
        save_weights(&parameters, folder.join(format!("weights-{ranks}.safetensors")))?;
    }
    Ok(())
}

/// Every call once, with parts of every size.
fn exercise(communicator: &dyn Communicator) -> Result<()> {
    let (rank, size) = (communicator.rank(), communicator.size());
    let expect = |holds: bool, what: &str| {
        if holds { Ok(()) } else { Err(Error::training(format!("{what} is wrong on rank {rank} of {size}"))) }
    };
    for count in [0, 1, 3, 100_000] {
        let mut narrow: Vec<f32> = (0..count).map(|i| (i + rank) as f32).collect();
        communicator.all_reduce_f32(&mut narrow)?;
        let sum = |i: usize| (size * i + size * (size - 1) / 2) as f64;
        expect(narrow.iter().enumerate().all(|(i, &x)| f64::from(x) == sum(i)), "the sum of f32")?;
        let mut wide: Vec<f64> = (0..count).map(|i| (i + rank) as f64).collect();
        communicator.all_reduce_f64(&mut wide)?;
        expect(wide.iter().enumerate().all(|(i, &x)| x == sum(i)), "the sum of f64")?;
    }
    for root in 0..size {
        let mut bytes = vec![rank as u8; 10 * rank];
        communicator.broadcast(root, &mut bytes)?;
        expect(bytes == vec![root as u8; 10 * root], "the broadcast")?;
    }
    for length in [0, 1, 1000] {
        let all = communicator.all_gather(&vec![rank as u8; length * rank])?;
        expect(all == (0..size).map(|rank| vec![rank as u8; length * rank]).collect::<Vec<_>>(), "what was gathered")?;
    }
    expect(communicator.broadcast(size, &mut Vec::new()).is_err(), "a root beyond the ranks")?;
    communicator.barrier()?;
    println!("calls done on rank {rank} of {size}");
    Ok(())
}

// What is asked of them.

/// This program on so many ranks; fails if it hangs.
fn mpirun(ranks: usize, arguments: &[&str]) -> Output {
    let mut child = Command::new("mpirun")
        .args(["-n", &ranks.to_string()])
        .arg(std::env::current_exe().unwrap())
        .arg("rank")
        .args(arguments)
        // More ranks than cores, which wait without spinning; over loopback; as root in a container.
        .envs([
            ("OMPI_MCA_rmaps_base_oversubscribe", "1"),
            ("OMPI_MCA_mpi_yield_when_idle", "1"),
            ("PRTE_MCA_rmaps_default_mapping_policy", ":oversubscribe"),
            ("OMPI_MCA_btl", "tcp,self"),
            ("OMPI_MCA_btl_tcp_if_include", "lo"),
            ("OMPI_MCA_oob_tcp_if_include", "lo"),
            ("OMPI_ALLOW_RUN_AS_ROOT", "1"),
            ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"),
            ("RAYON_NUM_THREADS", "1"),
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("mpirun cannot be started: `apt install openmpi-bin libopenmpi-dev`");
    let read = |mut stream: Box<dyn std::io::Read + Send>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).unwrap();
            bytes
        })
    };
    let stdout = read(Box::new(child.stdout.take().unwrap()));
    let stderr = read(Box::new(child.stderr.take().unwrap()));
    let started = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if started.elapsed() > PATIENCE {
            child.kill().unwrap();
            panic!("{ranks} ranks of {arguments:?} still run after {PATIENCE:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    Output { status, stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap() }
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn succeeded(output: Output) -> String {
    let text = text(&output);
    assert!(output.status.success(), "{}: {text}", output.status);
    text
}

fn failed(output: Output) -> String {
    let text = text(&output);
    assert!(!output.status.success(), "it succeeded: {text}");
    text
}

/// The lines that ranks printed after a word, in no order.
fn told<'a>(text: &'a str, word: &str) -> Vec<&'a str> {
    text.lines().filter_map(|line| line.strip_prefix(word)).collect()
}

/// The digest that all ranks have.
fn digest(text: &str, ranks: usize) -> String {
    let digests: Vec<&str> = told(text, "digest ").iter().map(|line| &line[..16]).collect();
    assert_eq!(digests.len(), ranks, "{text}");
    assert!(digests.iter().all(|digest| *digest == digests[0]), "the ranks have different weights: {text}");
    digests[0].to_owned()
}

fn calls() {
    for ranks in [1, 2, 4] {
        let text = succeeded(mpirun(ranks, &["calls"]));
        assert_eq!(told(&text, "calls done").len(), ranks, "{text}");
    }
}

fn equalities() {
    equal("go");
}

fn synchronised() {
    equal("synchronised");
}

fn equal(how: &str) {
    let folder = tempfile::tempdir().unwrap();
    let run = |ranks: usize, name: &str| {
        let folder = folder.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        let digest = digest(&succeeded(mpirun(ranks, &[how, folder.to_str().unwrap(), "100"])), ranks);
        let weights = candle_core::safetensors::load(folder.join(format!("weights-{ranks}.safetensors")), &Device::Cpu);
        (digest, weights.unwrap())
    };
    let (_, one) = run(1, "1");
    for ranks in [2, 4] {
        let (digest, several) = run(ranks, &ranks.to_string());
        for (name, tensor) in &one {
            // Batch norms count their batches in whole numbers.
            let [one, several] = [tensor, &several[name]].map(|tensor| tensor.to_dtype(DType::F64).unwrap());
            let difference = (one - several).unwrap().abs().unwrap().max_all().unwrap();
            let difference = difference.to_scalar::<f64>().unwrap();
            println!("{name} of {ranks} ranks after 100 steps differs by {difference:e}");
            assert!(difference < 1e-5, "{name} of {ranks} ranks differs by {difference:e}");
        }
        assert_eq!(run(ranks, &format!("{ranks} again")).0, digest);
    }
}

fn killed() {
    for ranks in [2, 4] {
        let folder = tempfile::tempdir().unwrap();
        let text = failed(mpirun(ranks, &["kill-one", folder.path().to_str().unwrap(), "100"]));
        assert!(text.contains("signal 9") || text.contains("Killed"), "{text}");
    }
}

fn fails() {
    for (how, what) in [("fail", "the disk is full"), ("panic", "nobody home")] {
        let folder = tempfile::tempdir().unwrap();
        let text = failed(mpirun(2, &[how, folder.path().to_str().unwrap(), "100"]));
        assert!(text.contains("rank 1 of 2 gave up") && text.contains(what), "{text}");
    }
}

fn not_a_number() {
    for (how, ranks) in [("nan", 2), ("nan", 4), ("nan synchronised", 2), ("nan synchronised", 4)] {
        let folder = tempfile::tempdir().unwrap();
        let text = succeeded(mpirun(ranks, &[how, folder.path().to_str().unwrap(), "100"]));
        let errors = told(&text, "told ");
        assert_eq!(errors.len(), ranks, "{text}");
        assert!(errors.iter().all(|error| *error == errors[0] && error.contains("in examples [7]")), "{text}");
        digest(&text, ranks);
    }
}

fn resumes() {
    for ranks in [1, 2, 4] {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        for name in ["whole", "parts"] {
            std::fs::create_dir(at(name)).unwrap();
        }
        let whole = digest(&succeeded(mpirun(ranks, &["undisturbed", &at("whole"), "13"])), ranks);
        // After the step 8, two beyond the newest checkpoint.
        failed(mpirun(ranks, &["kill-all", &at("parts"), "13"]));
        let text = succeeded(mpirun(ranks, &["undisturbed", &at("parts"), "13"]));
        assert!(text.contains("resumed true"), "{text}");
        assert_eq!(digest(&text, ranks), whole, "{text}");
    }
}
