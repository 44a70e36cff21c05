//! Training processes that are stopped, killed and starved of disk, and resumed.
//!
//! This program runs itself as a child: a small training with dropout, augmentation, two workers,
//! gradient accumulation, clipping, a weight average and ReduceLROnPlateau, which saves a checkpoint every few steps and resumes from the
//! newest that is whole. The parent kills it at random moments, and compares what comes out with
//! an undisturbed run, to the bit.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use candle_course::prelude::*;

const CHILD: &str = "CANDLE_COURSE_CRASH_TEST_FOLDER";
const INTERVAL: u64 = 3;
const KILLS: usize = 200;

fn main() {
    if let Ok(folder) = std::env::var(CHILD) {
        let arguments: Vec<u64> = std::env::args().skip(1).map(|text| text.parse().expect("a number")).collect();
        let &[until] = &arguments[..] else { panic!("the child wants one number: the last step") };
        match train(Path::new(&folder), until) {
            Ok(digest) => println!("digest {digest:08x}"),
            Err(error) => {
                println!("error {}", error.to_string().replace('\n', " | "));
                std::process::exit(3);
            }
        }
        return;
    }
    let tests: [(&str, fn()); 4] = [
        ("a_stopped_training_resumes_in_a_new_process_to_the_bit", resume_is_exact),
        ("a_training_killed_200_times_ends_as_an_undisturbed_one", kills_do_no_harm),
        ("a_full_disk_leaves_the_older_checkpoint", full_disk),
        ("a_second_process_is_told_whose_the_folder_is_until_the_first_is_killed", one_at_a_time),
    ];
    // What cargo test and nextest ask of a test binary: a list, or the tests of some names.
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    // `--format terse` of nextest: a value of an option is no name.
    for option in ["--format", "--color", "--test-threads"] {
        if let Some(at) = arguments.iter().position(|argument| argument == option) {
            arguments.drain(at..(at + 2).min(arguments.len()));
        }
    }
    let asked = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let names: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with("--")).collect();
    let mut passed = 0;
    for (name, test) in tests {
        let wanted = !asked("--ignored") && (names.is_empty() || names.iter().any(|part| name.contains(*part)));
        if wanted && asked("--list") {
            println!("{name}: test");
        } else if wanted {
            test();
            println!("test {name} ... ok");
            passed += 1;
        }
    }
    if !asked("--list") {
        println!(
            "\ntest result: ok. {passed} passed; 0 failed; 0 ignored; 0 measured; {} filtered out",
            tests.len() - passed
        );
    }
}

/// The child: trains to step `until` and returns a digest of everything.
fn train(folder: &Path, until: u64) -> Result<u32> {
    let folder = CheckpointFolder::open(folder, Retention::new().last(2).every(1000))?;
    let _lock = folder.lock()?;
    let mut parameters = Parameters::new(7, &Device::Cpu);
    let model = Sequential::new()
        .add(Flatten)
        .add(Linear::new(4, 16, &parameters.at("fc1"))?)
        .add(Activation::Relu)
        .add(Dropout::new(0.3, &parameters.at("dropout"))?)
        .add(Linear::new(16, 3, &parameters.at("fc2"))?);
    let mut optimizer = AdamW::builder(&parameters).no_decay_for_biases_and_norms().build()?;
    let mut schedule = ReduceLROnPlateau::builder(0.02).patience(0).factor(0.9).build()?;
    let mut accumulator = GradientAccumulator::new(&parameters, 2)?;
    let mut average = WeightAverage::builder(&parameters).decay(0.9).build()?;
    let loader = loader()?;

    // (epoch, batch) is where the next batch is, step counts batches.
    let (mut epoch, mut batch, mut step, mut epoch_loss) = (0usize, 0usize, 0u64, 0f64);
    let mut history: Vec<f64> = Vec::new();
    match folder.latest()? {
        None => println!("resumed 0"),
        Some(Resume { snapshot, .. }) => {
            snapshot.restore("model", &mut parameters)?;
            snapshot.restore("optimizer", &mut optimizer)?;
            snapshot.restore("generators", &mut GeneratorStates::new(&parameters))?;
            snapshot.restore("accumulator", &mut accumulator)?;
            snapshot.restore("average", &mut average)?;
            snapshot.restore("schedule", &mut schedule)?;
            epoch = snapshot.get_number("epoch")? as usize;
            batch = snapshot.get_number("batch")? as usize;
            step = snapshot.get_number("step")? as u64;
            epoch_loss = snapshot.get_number("epoch_loss")?;
            history = snapshot.get("history")?["losses"].to_vec1::<f64>()?;
            println!("resumed {step}");
        }
    }
    while step < until {
        for data in loader.epoch_from(epoch, batch)? {
            let data = data?;
            let loss = cross_entropy(&model.forward_t(&data.inputs, true)?, &data.targets)?;
            batch += 1;
            let full = accumulator.add(loss.backward()?, data.len())?;
            if full || batch == loader.len() {
                let mut gradients = accumulator.take()?;
                clip_gradient_norm(&parameters, &mut gradients, 0.5)?;
                optimizer.step(&gradients, schedule.learning_rate(epoch))?;
                average.update()?;
            }
            epoch_loss += f64::from(loss.to_scalar::<f32>()?) * data.len() as f64;
            step += 1;
            if batch == loader.len() {
                history.push(epoch_loss);
                schedule.observe(epoch, epoch_loss)?;
                (epoch, batch, epoch_loss) = (epoch + 1, 0, 0.0);
            }
            if step % INTERVAL == 0 || step == until {
                let losses = Tensor::from_vec(history.clone(), history.len(), &Device::Cpu)?;
                let snapshot = Snapshot::new()
                    .section("model", &parameters)?
                    .section("optimizer", &optimizer)?
                    .section("generators", &GeneratorStates::new(&parameters))?
                    .section("accumulator", &accumulator)?
                    .section("average", &average)?
                    .section("schedule", &schedule)?
                    .tensors("history", [("losses".to_owned(), losses)].into())?
                    .number("epoch", epoch as f64)
                    .number("batch", batch as f64)
                    .number("step", step as f64)
                    .number("epoch_loss", epoch_loss);
                println!("saving {step}");
                folder.save(step, None, &snapshot)?;
                println!("saved {step}");
            }
            if step == until {
                break;
            }
        }
    }
    let Some(resume) = folder.latest()? else { return Err(Error::checkpoint("nothing was saved")) };
    Ok(crc32c::crc32c(&std::fs::read(resume.path)?))
}

/// 50 images of 2 × 2 in batches of 8: the last of an epoch is short, and so is the last group.
fn loader() -> Result<DataLoader> {
    let mut generator = Generator::new(1);
    let xs: Vec<f32> = (0..50 * 4).map(|_| generator.normal() as f32).collect();
    let ys: Vec<u32> = xs.chunks(4).map(|x| u32::from(x[0] > 0.3) + u32::from(x[1] > 0.0)).collect();
    let dataset = TensorDataset::new(
        Tensor::from_vec(xs, (50, 1, 2, 2), &Device::Cpu)?,
        Tensor::from_vec(ys, 50, &Device::Cpu)?,
    )?;
    DataLoader::builder(dataset).batch_size(8).shuffle(3).transform(RandomHorizontalFlip::new(5)).workers(2).build()
}

fn child(folder: &Path, until: u64) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program has a path"));
    command.arg(until.to_string()).env(CHILD, folder).stdout(Stdio::piped());
    // One thread is enough for a model of this size, and 200 processes start faster.
    command.env("RAYON_NUM_THREADS", "1");
    command
}

/// The lines of a child that runs to its end.
fn lines(mut child: Child) -> Vec<String> {
    let output = BufReader::new(child.stdout.take().expect("stdout is piped"));
    let lines = output.lines().map(|line| line.expect("the child prints text")).collect();
    child.wait().expect("the child ends");
    lines
}

/// What an undisturbed child prints at its end.
fn digest(folder: &Path, until: u64) -> String {
    let lines = lines(child(folder, until).spawn().expect("the child starts"));
    let last = lines.last().expect("the child prints").clone();
    assert!(last.starts_with("digest "), "{last}");
    last
}

fn resume_is_exact() {
    let (whole, parts) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    // 7 batches an epoch: step 10 is in the middle of the second epoch, and step 31, after an odd
    // number of batches of the fifth, in the middle of a group of accumulated batches.
    let expected = digest(whole.path(), 42);
    let stops = [10, 31, 42].map(|until| digest(parts.path(), until));
    assert_eq!(stops[2], expected);
    assert_ne!(stops[0], expected);
}

fn kills_do_no_harm() {
    let (disturbed, calm) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut generator = Generator::new(99);
    let (mut acknowledged, mut killed_while_saving) = (0u64, 0);
    for kill in 0..KILLS {
        let mut process = child(disturbed.path(), u64::MAX).spawn().expect("the child starts");
        let mut output = BufReader::new(process.stdout.take().expect("stdout is piped")).lines();
        // Half of the kills at any moment after the start, half right after a save has begun.
        let any_moment = kill % 2 == 0;
        let saves_before = generator.below(4);
        let delay = Duration::from_micros(generator.below(if any_moment { 60_000 } else { 4_000 }) as u64);
        let mut seen = Vec::new();
        if !any_moment {
            let mut saves = 0;
            for line in output.by_ref() {
                let line = line.expect("the child prints text");
                saves += usize::from(line.starts_with("saving "));
                seen.push(line);
                if saves > saves_before {
                    break;
                }
            }
        }
        std::thread::sleep(delay);
        process.kill().expect("the child can be killed");
        process.wait().expect("the child ends");
        seen.extend(output.map_while(std::result::Result::ok));
        let number = |line: &str, what: &str| line.strip_prefix(what).and_then(|rest| rest.parse::<u64>().ok());
        if let Some(resumed) = seen.iter().find_map(|line| number(line, "resumed ")) {
            assert!(resumed >= acknowledged, "step {acknowledged} was saved, but {resumed} was resumed from");
        }
        assert!(!seen.iter().any(|line| line.starts_with("error ")), "{seen:?}");
        let saved = seen.iter().filter_map(|line| number(line, "saved ")).max();
        acknowledged = acknowledged.max(saved.unwrap_or(0));
        killed_while_saving += usize::from(seen.last().is_some_and(|line| line.starts_with("saving ")));
    }
    assert!(acknowledged > 100, "the training got to step {acknowledged} only");
    assert!(killed_while_saving > 20, "only {killed_while_saving} kills hit a save");
    let until = acknowledged + 2 * INTERVAL + 50;
    assert_eq!(digest(disturbed.path(), until), digest(calm.path(), until));
    let left = std::fs::read_dir(disturbed.path()).unwrap().map(|entry| entry.unwrap().file_name());
    let temporary = left.filter(|name| name.to_string_lossy().ends_with(".tmp")).count();
    assert_eq!(temporary, 0, "half-written files are left");
    println!("{KILLS} kills, {killed_while_saving} of them while saving; the training got to step {until}");
    tried("a training killed while it saves or between saves", KILLS);
}

fn one_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = child(folder.path(), u64::MAX).spawn().expect("the child starts");
    let mut output = BufReader::new(first.stdout.take().expect("stdout is piped")).lines();
    while !output.next().expect("the child prints").expect("text").starts_with("saved ") {}
    let second = lines(child(folder.path(), 6).spawn().expect("the child starts"));
    let told = format!("process {} of ", first.id());
    assert!(second.len() == 1 && second[0].starts_with("error ") && second[0].contains(&told), "{second:?}");
    first.kill().expect("the child can be killed");
    first.wait().expect("the child ends");
    assert!(cfg!(not(unix)) || folder.path().join(".lock").exists(), "the killed one left its file");
    digest(folder.path(), 6);
}

/// A limit on the size of files stands for a full disk: the write fails in the middle.
fn full_disk() {
    if !cfg!(unix) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    digest(folder.path(), 6);
    let before: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    let mut limited = Command::new("sh");
    // Blocks of 512 bytes; without the trap the signal would end the process.
    limited.args(["-c", "trap '' XFSZ; ulimit -f 4; exec \"$0\" 12"]).arg(std::env::current_exe().unwrap());
    limited.env(CHILD, folder.path()).stdout(Stdio::piped());
    let lines = lines(limited.spawn().expect("a shell"));
    let last = lines.last().expect("the child prints");
    assert!(last.starts_with("error cannot write") && last.contains("untouched"), "{last}");
    let after: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(before.len(), after.len(), "{after:?}");
    digest(folder.path(), 12);
}

/// As `tried` of the crate's own tests, which this program cannot reach: a row of docs/reliability.md.
fn tried(what: &str, times: usize) {
    if let Some(file) = std::env::var_os("CANDLE_COURSE_TRIED") {
        let promise = "What was whole on the disk stays whole";
        let line = format!("{{\"promise\": \"{promise}\", \"what\": \"{what}\", \"times\": {times}}}\n");
        let file = std::fs::OpenOptions::new().create(true).append(true).open(file);
        file.and_then(|mut file| std::io::Write::write_all(&mut file, line.as_bytes())).expect("the row is noted");
    }
}
