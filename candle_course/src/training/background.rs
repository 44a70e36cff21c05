//! A training that runs while other cells are used.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use candle_core::backprop::GradStore;

use crate::data::{Batch, DataLoader};
use crate::error::{Context, Error, ErrorKind, Result, contained, panicked};
use crate::language::{chosen, label, told};
use crate::plot::{Figure, LineChart, Panels, compact};
use crate::text::say;
use crate::training::callbacks::{Speed, duration};
use crate::training::history_display::headline;
use crate::training::live;
use crate::training::{Callback, Flow, History, Trainer, Training};

/// How often the running epoch is looked at: often enough to watch, too seldom to cost anything.
const LOOK: Duration = Duration::from_millis(500);

/// A training on a thread of its own, to be watched, stopped and joined from other cells.
///
/// Interrupting a notebook kernel ends its process, with all variables, and so this training: what
/// is left is the last checkpoint. Stop it by [`BackgroundTraining::stop`] instead.
///
/// A handle that is dropped, or defined anew, stops its training and waits until it has ended, with
/// its last checkpoint saved: two trainings never share a folder or the machine by mistake. That
/// takes as long as the running batch (of training or validation) and the callbacks.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let parameters = Parameters::new(0, &Device::Cpu);
/// let model = Linear::new(1, 2, &parameters.at("fc"))?;
/// let x = Tensor::arange(-8f32, 8., &Device::Cpu)?.reshape((16, 1))?;
/// let y = x.flatten_all()?.ge(0f32)?.to_dtype(DType::U32)?;
/// let train = DataLoader::builder(TensorDataset::new(x, y)?).batch_size(4).shuffle(1).build()?;
/// let trainer = Trainer::builder(model, &parameters, CrossEntropy::default(), Sgd::new(&parameters)?)
///     .epochs(20)
///     .learning_rate(0.1)
///     .build()?;
/// let training = trainer.fit_in_background(&train, Some(&train))?;
/// println!("{}", training.status());     // and in other cells: training.watch()?, training.stop()
/// let (trainer, history) = training.join()?;
/// assert_eq!(history.epochs().len(), 20);
/// # Ok::<(), candle_course::Error>(())
/// ```
pub struct BackgroundTraining {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<(Trainer, Result<()>)>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    seen: Mutex<Seen>,
}

#[derive(Clone, Default)]
struct Seen {
    history: History,
    epochs: usize,
    batches: usize,
    epoch: usize,
    batch: usize,
    step: usize,
    learning_rate: f64,
    loss: f64,
    examples_per_second: f64,
    seconds: f64,
    /// `(step, loss)` of the running epoch.
    running: Vec<(f64, f64)>,
    finished: bool,
    error: Option<String>,
    live: Option<PathBuf>,
}

impl Shared {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A background training at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct BackgroundStatus {
    /// Whether the thread has ended.
    pub finished: bool,
    /// Why it failed, if it did.
    pub error: Option<String>,
    /// Whole epochs done.
    pub epoch: usize,
    /// Epochs in all.
    pub epochs: usize,
    /// Batches done in the running epoch.
    pub batch: usize,
    /// Batches of an epoch.
    pub batches: usize,
    /// Optimizer steps done.
    pub step: usize,
    /// The mean training loss of the running epoch so far.
    pub loss: f64,
    /// The learning rate.
    pub learning_rate: f64,
    /// Training speed in the running epoch.
    pub examples_per_second: f64,
    /// Seconds since the start.
    pub seconds: f64,
    /// Why it stopped early, if it did.
    pub stopped: Option<String>,
}

impl fmt::Display for BackgroundStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(error) = &self.error {
            return f.write_str(&told!(
                "failed after {} steps: {}",
                "falhou depois de {} passos: {}",
                self.step,
                error
            ));
        }
        if self.finished {
            f.write_str(&told!(
                "finished: {} of {} epochs, {} steps in {}",
                "terminado: {} de {} épocas, {} passos em {}",
                self.epoch,
                self.epochs,
                self.step,
                duration(self.seconds)
            ))?;
            return self
                .stopped
                .iter()
                .try_for_each(|reason| f.write_str(&told!("; stopped: {}", "; parou: {}", reason)));
        }
        if self.batches == 0 || self.loss.is_nan() && self.batch == 0 {
            return f.write_str(chosen("starting", "começando")); // no batch is done
        }
        f.write_str(&told!(
            "running for {}: epoch {}/{} · batch {}/{} · loss {} · learning rate {} · {:.0} examples/s",
            "treinando há {}: época {}/{} · batch {}/{} · perda {} · taxa de aprendizado {} · {:.0} exemplos/s",
            duration(self.seconds),
            (self.epoch + 1).min(self.epochs),
            self.epochs,
            self.batch,
            self.batches,
            compact(self.loss),
            compact(self.learning_rate),
            self.examples_per_second
        ))
    }
}

impl Trainer {
    /// [`Trainer::fit`] on a thread of its own, without [`Progress`](crate::training::callbacks::Progress) lines. The trainer comes back from
    /// [`BackgroundTraining::join`].
    ///
    /// Clones of the model share its variables. Meanwhile, evaluating one sees weights in motion; and
    /// nothing may write to them: loading weights, another training, or
    /// [`Probe::inspect`](crate::training::diagnosis::Probe::inspect), which sets them back to what
    /// they were when it began, and so undoes the steps since. Stop the training first.
    ///
    /// # Errors
    /// As [`Trainer::fit`], as far as can be told before the first step.
    pub fn fit_in_background(
        mut self,
        train: &DataLoader,
        validation: Option<&DataLoader>,
    ) -> Result<BackgroundTraining> {
        self.training.check(train, validation)?;
        let shared = Arc::new(Shared::default());
        shared.seen().epochs = self.training.epochs();
        let now = Instant::now();
        let watcher = Watcher { shared: shared.clone(), started: now, speed: Speed::default(), looked: now };
        self.callbacks.push(Box::new(watcher));
        self.callbacks.mute(true);
        let (train, validation) = (train.clone(), validation.cloned());
        let thread = std::thread::Builder::new().name("training".to_owned()).spawn(move || {
            // A panic of a model is told like an error in the status; the callbacks have been told.
            let result = contained(ErrorKind::Training, "the background training", || {
                self.fit(&train, validation.as_ref()).map(|_| ())
            });
            if let Some(watcher) = self.callbacks.find::<Watcher>() {
                watcher.look(&self.training, result.as_ref().err().map(ToString::to_string), true);
            }
            self.callbacks.remove::<Watcher>();
            self.callbacks.mute(false);
            (self, result)
        })?;
        Ok(BackgroundTraining { shared, thread: Some(thread) })
    }
}

impl BackgroundTraining {
    /// Where the training stands.
    pub fn status(&self) -> BackgroundStatus {
        let seen = self.shared.seen().clone();
        let finished = self.is_finished();
        BackgroundStatus {
            finished,
            error: seen.error,
            epoch: seen.epoch,
            epochs: seen.epochs,
            batch: seen.batch,
            batches: seen.batches,
            step: seen.step,
            loss: seen.loss,
            learning_rate: seen.learning_rate,
            examples_per_second: seen.examples_per_second,
            seconds: seen.seconds,
            stopped: seen.history.stopped().map(str::to_owned),
        }
    }

    /// The epochs done so far.
    pub fn history(&self) -> History {
        self.shared.seen().history.clone()
    }

    /// Prints the status and the table of epochs so far, and gives the curves so far: end a cell
    /// with it, and run that cell again whenever you like.
    ///
    /// # Errors
    /// If nothing has been trained yet.
    pub fn watch(&self) -> Result<Figure> {
        say(self.status());
        let seen = self.shared.seen().clone();
        if !seen.history.epochs().is_empty() {
            say(seen.history.to_string().trim_end());
        }
        seen.figure()
    }

    /// Shows curves that refresh by themselves in JupyterLab while the training runs.
    ///
    /// A kernel like this one cannot change what a cell has shown, so the training writes a small
    /// file into `folder` beside the notebook (`live`, say) every half second, and a script in the cell's
    /// output fetches it from Jupyter's own server. It needs no server of ours; it needs a browser
    /// that is shown this notebook by a Jupyter server, and a trusted notebook (one that was run in
    /// this session is). Elsewhere (VS Code, Colab, a printed notebook) the picture stands still:
    /// use [`BackgroundTraining::watch`] there.
    ///
    /// # Errors
    /// If the folder cannot be written, is hidden (Jupyter does not serve it), or is not below the
    /// notebook's.
    pub fn live(&self, folder: impl AsRef<Path>) -> Result<()> {
        let folder = folder.as_ref();
        let served = |part: std::path::Component<'_>| match part {
            std::path::Component::Normal(name) => !name.to_string_lossy().starts_with('.'),
            _ => false,
        };
        if folder.components().any(|part| !served(part)) {
            return Err(Error::argument("folder", "a folder below the notebook's, not hidden", folder.display())
                .hint("Jupyter serves only what lies below its own folder; give a plain name such as `live`"));
        }
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
        let path = folder.join(format!("training-{}.json", live::unique()));
        let mut seen = self.shared.seen();
        live::write(&path, &seen.status_line(self.is_finished()), seen.figure().ok().as_ref(), seen.finished)?;
        println!("{}", live::cell_output(&path, &seen.status_line(self.is_finished()), seen.figure().ok().as_ref()));
        seen.live = Some(path);
        Ok(())
    }

    /// Asks for the end of the training: it finishes the running batch, of training or validation,
    /// and ends in good order. [`Trainer::fit`] goes on from there, in the middle of the epoch.
    /// Returns at once.
    pub fn stop(&self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }

    /// Whether the thread has ended.
    pub fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits for the end, at most this long; says whether it has come.
    pub fn wait(&self, seconds: f64) -> bool {
        let started = Instant::now();
        while !self.is_finished() && started.elapsed().as_secs_f64() < seconds {
            std::thread::sleep(Duration::from_millis(10));
        }
        self.is_finished()
    }

    /// Waits for the end and gives the trainer back, with its history.
    ///
    /// # Errors
    /// If the training failed.
    pub fn join(mut self) -> Result<(Trainer, History)> {
        let thread = self.thread.take().ok_or_else(|| Error::training("this training was joined already"))?;
        match thread.join() {
            Ok((trainer, result)) => {
                result.context("the background training failed")?;
                let history = trainer.history().clone();
                Ok((trainer, history))
            }
            Err(panic) => Err(Error::training(panicked("the background training", &*panic))),
        }
    }

    /// What evcxr calls for a cell that ends with a handle: the curves so far.
    pub fn evcxr_display(&self) {
        match self.watch() {
            Ok(figure) => figure.evcxr_display(),
            Err(error) => say(told!("no curves yet: {}", "ainda sem curvas: {}", error)),
        }
    }
}

impl Drop for BackgroundTraining {
    fn drop(&mut self) {
        self.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // a panic is nobody's business any more
        }
    }
}

impl Seen {
    fn status_line(&self, finished: bool) -> String {
        let state = match (&self.error, finished || self.finished) {
            (Some(error), _) => told!("failed: {}", "falhou: {}", error),
            (None, true) => chosen("finished", "terminado").to_owned(),
            (None, false) => told!(
                "epoch {}/{} · batch {}/{}",
                "época {}/{} · batch {}/{}",
                (self.epoch + 1).min(self.epochs),
                self.epochs,
                self.batch,
                self.batches
            ),
        };
        told!(
            "{} · step {} · loss {} · {}",
            "{} · passo {} · perda {} · {}",
            state,
            self.step,
            compact(self.loss),
            duration(self.seconds)
        )
    }

    /// The loss of every step and of the validations, and the metrics, so far.
    fn figure(&self) -> Result<Figure> {
        let ended = self.history.epochs().last().map_or(0, |record| record.step);
        let done = self.history.steps().iter().filter(|step| step.step <= ended || self.running.is_empty());
        let mut steps: Vec<(f64, f64)> = done.map(|step| (step.step as f64, step.loss)).collect();
        steps.extend(&self.running);
        if steps.is_empty() {
            return Err(Error::undefined("curves before the first steps"));
        }
        let ends = |name: &str| -> Vec<(f64, f64)> {
            let epochs = self.history.epochs().iter();
            epochs.filter_map(|record| Some((record.step as f64, record.metric(name).ok()?))).collect()
        };
        let mut loss = LineChart::builder(label("Loss"))
            .x_label(label("step"))
            .y_label(label("loss"))
            .points(label("train, every step"), &steps);
        let validation = ends("validation_loss");
        if !validation.is_empty() {
            loss = loss.points(label("validation"), &validation);
        }
        let Some(last) = self.history.epochs().last() else { return loss.build() };
        let mut panels = Panels::builder(2).add(loss.build()?);
        for (name, _) in &last.metrics {
            panels = panels.add(
                LineChart::builder(&headline(label(name)))
                    .x_label(label("step"))
                    .y_label(label(name))
                    .points(label("validation"), &ends(name))
                    .build()?,
            );
        }
        panels.build()
    }
}

/// Copies what can be watched, and asks to stop.
struct Watcher {
    shared: Arc<Shared>,
    started: Instant,
    speed: Speed,
    looked: Instant,
}

impl Watcher {
    fn look(&mut self, training: &Training, error: Option<String>, finished: bool) {
        let (losses, loss) =
            (training.running_losses().unwrap_or_default(), training.running_loss().unwrap_or(f64::NAN));
        let state = training.state();
        let recorded = training.history().epochs().last().map_or(0, |record| record.step);
        let per_step = (losses.len() as f64 / (state.step - recorded).max(1) as f64).max(1.0);
        let between_epochs = state.batch == 0;
        let mut seen = self.shared.seen();
        seen.history = training.history().clone();
        (seen.epochs, seen.batches) = (training.epochs(), training.batches_per_epoch());
        (seen.epoch, seen.batch, seen.step) = (state.epoch, state.batch, state.step);
        (seen.learning_rate, seen.loss) = (state.learning_rate, loss);
        seen.examples_per_second = match training.history().epochs().last() {
            Some(record) if between_epochs => record.examples as f64 / record.train_seconds,
            _ if finished => training.running_examples() as f64 / state.seconds.max(f64::MIN_POSITIVE),
            _ => self.speed.examples_per_second(training),
        };
        seen.seconds = self.started.elapsed().as_secs_f64();
        seen.running.clear();
        if !between_epochs {
            let step = |i: usize| recorded as f64 + (i + 1) as f64 / per_step;
            seen.running = losses.iter().enumerate().map(|(i, &loss)| (step(i), loss)).collect();
        }
        (seen.error, seen.finished) = (error, finished);
        if let Some(path) = &seen.live {
            // The view is a convenience: a full disk must not end the training.
            let _ = live::write(path, &seen.status_line(finished), seen.figure().ok().as_ref(), finished);
        }
        self.looked = Instant::now();
    }

    fn flow(&self) -> Flow {
        match self.shared.stop.load(Ordering::Relaxed) {
            true => Flow::Stop(chosen("asked to stop", "foi pedido que parasse").to_owned()),
            false => Flow::Continue,
        }
    }
}

impl Callback for Watcher {
    fn name(&self) -> &str {
        "background watcher"
    }

    fn fit_start(&mut self, training: &mut Training) -> Result<Flow> {
        (self.started, self.speed) = (Instant::now(), Speed::start(training));
        self.look(training, None, false);
        Ok(self.flow())
    }

    fn epoch_start(&mut self, training: &mut Training) -> Result<Flow> {
        self.speed = Speed::start(training);
        Ok(self.flow())
    }

    fn batch_start(&mut self, _training: &mut Training, _batch: &Batch) -> Result<Flow> {
        Ok(self.flow())
    }

    fn backward_end(&mut self, _training: &mut Training, _gradients: &mut GradStore) -> Result<Flow> {
        Ok(self.flow())
    }

    fn step_end(&mut self, training: &mut Training) -> Result<Flow> {
        if self.looked.elapsed() >= LOOK {
            self.look(training, None, false);
        }
        Ok(self.flow())
    }

    fn validation_batch(&mut self, _batch: &Batch) -> Result<Flow> {
        Ok(self.flow())
    }

    fn epoch_end(&mut self, training: &mut Training) -> Result<Flow> {
        self.look(training, None, false);
        Ok(self.flow())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;
    use crate::training::callbacks::Checkpoints;
    use crate::training::trainer_tests::{loaders, points, trainer};

    #[test]
    fn the_background_changes_nothing_but_the_thread() {
        let (train, validation) = loaders();
        let build = || trainer(3).0.epochs(3).learning_rate(0.1).quiet().build().unwrap();
        let here = build().fit(&train, Some(&validation)).unwrap();
        let (mut trainer, there) = build().fit_in_background(&train, Some(&validation)).unwrap().join().unwrap();
        assert_eq!(here.step_losses(), there.step_losses());
        assert_eq!(here.values("accuracy").unwrap(), there.values("accuracy").unwrap());
        trainer.set_epochs(4);
        assert_eq!(trainer.fit(&train, Some(&validation)).unwrap().epochs().len(), 4);
    }

    #[test]
    fn it_is_watched_stopped_and_goes_on() {
        let (train, validation) = loaders();
        let many = trainer(3).0.epochs(1_000_000).learning_rate(0.01).build().unwrap();
        let training = many.fit_in_background(&train, Some(&validation)).unwrap();
        while training.history().epochs().len() < 3 {
            std::thread::sleep(Duration::from_millis(5));
        }
        let status = training.status();
        assert!(!status.finished && status.to_string().starts_with("running for"), "{status}");
        assert!(training.watch().unwrap().svg().contains("validation"));
        let error = training.live(".live").unwrap_err().to_string();
        assert!(error.contains("not hidden"), "{error}");
        let folder = format!("live-test-{}", std::process::id());
        training.live(&folder).unwrap();
        training.stop();
        assert!(training.wait(60.0));
        assert!(training.status().to_string().contains("stopped: asked to stop"), "{}", training.status());
        let file = std::fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
        let written: serde_json::Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(written["finished"], true);
        assert!(written["svg"].as_str().unwrap().starts_with("<svg"));
        let (mut trainer, history) = training.join().unwrap();
        assert_eq!(history.stopped(), Some("asked to stop"));
        let done = trainer.state().epoch;
        trainer.set_epochs(done + 1);
        assert_eq!(trainer.fit(&train, Some(&validation)).unwrap().stopped(), None);
    }

    /// Counts the batches of the validation, 20 ms each.
    struct Slow(Arc<AtomicUsize>);
    impl Callback for Slow {
        fn name(&self) -> &str {
            "progress" // heard all the same
        }
        fn validation_batch(&mut self, _: &Batch) -> Result<Flow> {
            self.0.fetch_add(1, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(20));
            Ok(Flow::Continue)
        }
    }

    #[test]
    fn a_dropped_handle_waits_for_the_end_which_is_near_in_the_validation_too() {
        let train = loaders().0;
        let validation = DataLoader::builder(points(2)).batch_size(1).build().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let checkpoints = || Checkpoints::new(folder.path());
        let batches = Arc::new(AtomicUsize::new(0));
        let builder = trainer(3).0.epochs(50).learning_rate(0.1).callback(Slow(batches.clone()));
        let training = builder.checkpoints(checkpoints()).build().unwrap();
        let training = training.fit_in_background(&train, Some(&validation)).unwrap();
        while batches.load(Ordering::SeqCst) < 3 {
            std::thread::sleep(Duration::from_millis(1));
        }
        drop(training);
        let seen = batches.load(Ordering::SeqCst);
        assert!(seen < 50, "{seen} of 60 batches of the validation were waited for");
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(batches.load(Ordering::SeqCst), seen, "it went on after the handle was gone");
        // It has saved itself, before the validation: the next in this folder goes on from there.
        let builder = trainer(3).0.epochs(50).learning_rate(0.1).checkpoints(checkpoints());
        let mut next = builder.quiet().build().unwrap();
        assert!(next.resume(folder.path()).unwrap());
        assert_eq!((next.state().epoch, next.state().batch), (0, 4));
    }

    #[test]
    fn the_speed_is_that_of_the_training_alone() {
        let train = loaders().0;
        let validation = DataLoader::builder(points(2)).batch_size(6).build().unwrap();
        let slow = Slow(Arc::new(AtomicUsize::new(0)));
        let trainer = trainer(3).0.epochs(1).learning_rate(0.1).callback(slow).build().unwrap();
        let training = trainer.fit_in_background(&train, Some(&validation)).unwrap();
        assert!(training.wait(60.0));
        let speed = training.status().examples_per_second;
        let record = training.history().last().unwrap();
        assert_eq!(speed, 60.0 / record.train_seconds);
        assert!(record.seconds - record.train_seconds >= 0.2, "{record:?}");
    }

    #[test]
    fn a_failure_is_told_in_the_status_and_by_join() {
        let (train, validation) = loaders();
        let diverging = trainer(3).0.epochs(50).learning_rate(1e30).build().unwrap();
        let training = diverging.fit_in_background(&train, Some(&validation)).unwrap();
        assert!(training.wait(60.0));
        assert!(training.status().to_string().starts_with("failed after"), "{}", training.status());
        let error = training.join().map(|_| ()).unwrap_err().to_string();
        assert!(error.starts_with("the background training failed\n  caused by: "), "{error}");
        struct Panics(Arc<AtomicBool>);
        impl Callback for Panics {
            fn name(&self) -> &str {
                "panics"
            }
            fn fit_failed(&mut self, _: &mut Training, error: &Error) -> Result<()> {
                self.0.store(error.to_string().contains("six is too many"), Ordering::SeqCst);
                Ok(())
            }
            fn step_end(&mut self, training: &mut Training) -> Result<Flow> {
                assert!(training.state().step < 6, "six is too many");
                Ok(Flow::Continue)
            }
        }
        let told = Arc::new(AtomicBool::new(false));
        let panicking = trainer(3).0.epochs(50).learning_rate(0.1).callback(Panics(told.clone())).build().unwrap();
        let training = panicking.fit_in_background(&train, Some(&validation)).unwrap();
        assert!(training.wait(60.0));
        let status = training.status().to_string();
        assert!(
            status.starts_with("failed after 6 steps: callback `panics` failed\n  caused by: it panicked: six is"),
            "{status}"
        );
        assert!(training.join().map(|_| ()).unwrap_err().to_string().contains("panicked: six is too many"));
        assert!(told.load(Ordering::SeqCst), "the callbacks were not told");
        let wrong = trainer(3).0.learning_rate(0.1).build().unwrap().fit_in_background(&train, None);
        assert!(wrong.map(|_| ()).unwrap_err().to_string().contains("`validation`"));
    }
}
