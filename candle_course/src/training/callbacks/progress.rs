//! One line per epoch, and one every few seconds in long epochs, or a bar on a terminal.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::language::{label, told};
use crate::text::{harmless, say};
use crate::training::{Callback, Flow, Training};

/// Between two drawings of a bar.
const REDRAW: Duration = Duration::from_millis(200);
/// Of a bar, in letters.
const WIDTH: usize = 20;

/// Prints a line at the end of every epoch, and one every few seconds before it. Whole lines only:
/// a notebook cell of this kernel cannot overwrite a line. For a terminal there is [`Progress::bar`].
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// # let parameters = Parameters::new(0, &Device::Cpu);
/// # let model = Sequential::new().add(Linear::new(2, 1, &parameters.at("fc"))?);
/// let trainer = Trainer::builder(model, &parameters, Mse::default(), Sgd::new(&parameters)?)
///     .learning_rate(0.1)
///     .progress(Progress::bar())
///     .build()?;
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Progress {
    every: Duration,
    started: Instant,
    /// Batches done before this call of `fit`.
    first_batch: usize,
    printed: Instant,
    speed: Speed,
    /// Whether a bar is drawn while an epoch runs, and when it was for the last time.
    bar: bool,
    drawn: Option<Instant>,
    lines: Option<Vec<String>>,
    /// Whether lines are held back: from a thread of its own they would stand below any cell.
    pub(crate) muted: bool,
}

impl Default for Progress {
    fn default() -> Self {
        Self::new(Duration::from_secs(5))
    }
}

impl Progress {
    /// A line at least every so often, while an epoch runs.
    pub fn new(every: Duration) -> Self {
        let now = Instant::now();
        Self {
            every,
            started: now,
            first_batch: 0,
            printed: now,
            speed: Speed::default(),
            bar: false,
            drawn: None,
            lines: None,
            muted: false,
        }
    }

    /// A bar for the running epoch, drawn again five times a second in one line of the terminal, and a line at
    /// the end of every epoch. Where the standard error is no terminal (a file, a notebook) as by default.
    pub fn bar() -> Self {
        Self { bar: std::io::stderr().is_terminal(), ..Self::default() }
    }

    /// Keeps the lines instead of printing them.
    #[cfg(test)]
    fn kept() -> Self {
        Self { lines: Some(Vec::new()), ..Self::new(Duration::ZERO) }
    }

    /// Seconds for what is left, at the pace since this call of `fit`; `None` without a pace.
    fn seconds_left(&self, training: &Training) -> Option<f64> {
        let state = training.state();
        let batches = state.epoch * state.batches_per_epoch + state.batch;
        let left = training.epochs().saturating_mul(state.batches_per_epoch).saturating_sub(batches);
        let done = batches - self.first_batch;
        (done > 0 && left > 0).then(|| self.started.elapsed().as_secs_f64() / done as f64 * left as f64)
    }

    /// The parts of a line about the running epoch, whose first is the epoch.
    fn running(&self, training: &Training) -> Result<Vec<String>> {
        let state = training.state();
        let mut parts = vec![
            told!("epoch {}/{}", "época {}/{}", state.epoch + 1, training.epochs()),
            format!("batch {}/{}", state.batch, state.batches_per_epoch),
            told!("step {}", "passo {}", state.step),
            told!("loss {}", "perda {}", number(training.running_loss()?)),
        ];
        let metrics = training.running_metrics();
        parts.extend(
            metrics
                .into_iter()
                .map(|(name, value)| told!("train {} {}", "{} de treino {}", label(&name), number(value))),
        );
        parts.push(told!("learning rate {}", "taxa de aprendizado {}", number(state.learning_rate)));
        parts.push(told!("{:.0} examples/s", "{:.0} exemplos/s", self.speed.examples_per_second(training)));
        parts.extend(self.seconds_left(training).map(|seconds| told!("{} left", "faltam {}", duration(seconds))));
        Ok(parts)
    }

    /// Draws the bar in place of what it was.
    fn draw(&mut self, training: &Training) -> Result<()> {
        let mut parts = self.running(training)?;
        let state = training.state();
        parts[0] = format!("{} {}", parts[0], filled(state.batch, state.batches_per_epoch));
        let text = harmless(&parts.join(" · "));
        self.drawn = Some(Instant::now());
        match &mut self.lines {
            Some(lines) => lines.push(format!("\r{text}")),
            None if self.muted => {}
            // What is longer than the line is cut by the terminal instead of going on below. A terminal that
            // has gone takes nothing more, which is no reason to end a training.
            None => drop(write!(std::io::stderr(), "\r\u{1b}[2K\u{1b}[?7l{text}\u{1b}[?7h")),
        }
        Ok(())
    }

    /// Takes the bar away, so that a line can stand there.
    fn clear(&mut self) {
        if self.drawn.take().is_some() && self.lines.is_none() && !self.muted {
            drop(write!(std::io::stderr(), "\r\u{1b}[2K"));
        }
    }

    fn line(&mut self, text: String) {
        self.clear();
        match &mut self.lines {
            Some(lines) => lines.push(text),
            None if self.muted => {}
            None => say(text),
        }
        self.printed = Instant::now();
    }
}

/// A bar of which so much is filled, to an eighth of a letter.
fn filled(done: usize, total: usize) -> String {
    const EIGHTHS: [char; 8] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];
    let eighths = if total == 0 { 0 } else { (done.min(total) as u128 * WIDTH as u128 * 8 / total as u128) as usize };
    let mut bar = "█".repeat(eighths / 8);
    if eighths / 8 < WIDTH {
        bar.push(EIGHTHS[eighths % 8]);
        bar.push_str(&" ".repeat(WIDTH - 1 - eighths / 8));
    }
    format!("▕{bar}▏")
}

/// How fast the running epoch is trained.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Speed {
    since: Instant,
    /// What the epoch had seen by then: not nothing, if it is gone on with in its middle.
    examples: usize,
}

impl Default for Speed {
    fn default() -> Self {
        Self { since: Instant::now(), examples: 0 }
    }
}

impl Speed {
    /// The clock starts.
    pub(crate) fn start(training: &Training) -> Self {
        Self { since: Instant::now(), examples: training.running_examples() }
    }

    pub(crate) fn examples_per_second(&self, training: &Training) -> f64 {
        training.running_examples().saturating_sub(self.examples) as f64 / self.since.elapsed().as_secs_f64()
    }
}

/// `4.2 s`, `3 min 20 s`, `2 h 5 min`.
pub(crate) fn duration(seconds: f64) -> String {
    // Rounded first: 119.8 s are 2 min 0 s, not 1 min 60 s.
    let (whole, minutes) = (seconds.round() as u64, (seconds / 60.0).round() as u64);
    match whole {
        _ if seconds < 9.95 => format!("{seconds:.1} s"),
        0..60 => format!("{whole} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", minutes / 60, minutes % 60),
    }
}

/// Four significant digits, without the noise of the rest.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        _ if value == 0.0 => "0".to_owned(),
        a if !(1e-3..1e4).contains(&a) => format!("{value:.3e}"),
        a if a < 10.0 => format!("{value:.4}"),
        a if a < 100.0 => format!("{value:.3}"),
        _ => format!("{value:.1}"),
    }
}

impl Callback for Progress {
    fn name(&self) -> &str {
        "progress"
    }

    fn fit_start(&mut self, training: &mut Training) -> Result<Flow> {
        self.started = Instant::now();
        let state = training.state();
        self.first_batch = state.epoch * state.batches_per_epoch + state.batch;
        training.history().notes().to_vec().into_iter().for_each(|note| self.line(note));
        Ok(Flow::Continue)
    }

    fn epoch_start(&mut self, training: &mut Training) -> Result<Flow> {
        self.speed = Speed::start(training);
        self.printed = Instant::now();
        Ok(Flow::Continue)
    }

    fn step_end(&mut self, training: &mut Training) -> Result<Flow> {
        if self.bar {
            if self.drawn.is_none_or(|drawn| drawn.elapsed() >= REDRAW) {
                self.draw(training)?;
            }
            return Ok(Flow::Continue);
        }
        let last = training.state().batch == training.batches_per_epoch();
        if self.printed.elapsed() >= self.every && !last {
            let parts = self.running(training)?;
            self.line(parts.join(" · "));
        }
        Ok(Flow::Continue)
    }

    fn epoch_end(&mut self, training: &mut Training) -> Result<Flow> {
        let record = training.history().last()?;
        let mut parts = vec![
            told!("epoch {}/{}", "época {}/{}", record.epoch, training.epochs()),
            told!("step {}", "passo {}", record.step),
            told!("train loss {}", "perda de treino {}", number(record.train_loss)),
        ];
        parts.extend(
            record
                .train_metrics
                .iter()
                .map(|(name, value)| told!("train {} {}", "{} de treino {}", label(name), number(*value))),
        );
        parts.extend(
            record.validation_loss.map(|loss| told!("validation loss {}", "perda de validação {}", number(loss))),
        );
        parts.extend(record.metrics.iter().map(|(name, value)| format!("{} {}", label(name), number(*value))));
        parts.push(told!("learning rate {}", "taxa de aprendizado {}", number(record.learning_rate)));
        parts.push(told!("{:.0} examples/s", "{:.0} exemplos/s", record.examples as f64 / record.train_seconds));
        parts.push(duration(record.seconds));
        parts.extend(self.seconds_left(training).map(|seconds| told!("{} left", "faltam {}", duration(seconds))));
        self.line(parts.join(" · "));
        Ok(Flow::Continue)
    }

    fn fit_end(&mut self, _training: &mut Training) -> Result<Flow> {
        self.clear();
        Ok(Flow::Continue)
    }

    fn fit_failed(&mut self, _training: &mut Training, _error: &Error) -> Result<()> {
        self.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::training::trainer_tests::{loaders, trainer};

    #[test]
    fn durations_and_numbers_are_short() {
        assert_eq!(
            [4.23, 9.97, 42.0, 200.0, 119.8, 3599.7, 7500.0].map(duration),
            ["4.2 s", "10 s", "42 s", "3 min 20 s", "2 min 0 s", "1 h 0 min", "2 h 5 min"].map(String::from)
        );
        assert_eq!(
            [0.0, 0.5, 12.3456, 0.0001, 123456.0].map(number),
            ["0", "0.5000", "12.346", "1.000e-4", "1.235e5"].map(String::from)
        );
    }

    #[test]
    fn one_line_per_epoch_and_one_for_every_interval() {
        let (train, validation) = loaders();
        let (builder, _) = trainer(7);
        let mut trainer = builder.epochs(2).learning_rate(0.1).progress(Progress::kept()).build().unwrap();
        trainer.fit(&train, Some(&validation)).unwrap();
        let lines = trainer.callbacks.find::<Progress>().unwrap().lines.take().unwrap();
        let ends: Vec<_> = lines.iter().filter(|line| line.contains("validation loss")).collect();
        assert_eq!(ends.len(), 2, "{lines:?}");
        assert!(ends[0].starts_with("epoch 1/2 · step 4 · train loss "), "{}", ends[0]);
        assert!(ends[0].ends_with("left") && !ends[1].ends_with("left"));
        assert!(lines[0].starts_with("epoch 1/2 · batch 1/4 · step 1 · loss "), "{}", lines[0]);
        assert!(lines.iter().all(|line| line.ends_with("left") || line == ends[1]), "{lines:?}");
        assert_eq!(lines.len(), 2 + 2 * 3, "{lines:?}");
    }

    #[test]
    fn a_bar_fills_and_gives_way_to_the_line_of_its_epoch() {
        let text = [0, 1, 40, 79, 80, 90].map(|done| filled(done, 80));
        assert_eq!(text[0], format!("▕{}▏", " ".repeat(20)));
        assert_eq!(text[1], format!("▕▎{}▏", " ".repeat(19)));
        assert_eq!(text[2], format!("▕{}{}▏", "█".repeat(10), " ".repeat(10)));
        assert_eq!(text[3], format!("▕{}▊▏", "█".repeat(19)));
        assert_eq!([&text[4], &text[5]], [&format!("▕{}▏", "█".repeat(20)); 2]);
        assert!(text.iter().all(|bar| bar.chars().count() == 22));
        assert_eq!(filled(0, 0), text[0]);
        assert_eq!(filled(usize::MAX, usize::MAX), text[4]);

        let (train, validation) = loaders();
        let kept = Progress { bar: true, ..Progress::kept() };
        let (builder, _) = trainer(7);
        let mut trainer = builder.epochs(2).learning_rate(0.1).progress(kept).build().unwrap();
        trainer.fit(&train, Some(&validation)).unwrap();
        let progress = trainer.callbacks.find::<Progress>().unwrap();
        assert!(progress.drawn.is_none(), "nothing is left on the terminal");
        let lines = progress.lines.take().unwrap();
        assert!(
            lines[0].starts_with("\repoch 1/2 ▕█████               ▏ · batch 1/4 · step 1 · loss "),
            "{}",
            lines[0]
        );
        let ends: Vec<_> = lines.iter().filter(|line| line.contains("validation loss")).collect();
        assert_eq!(ends.len(), 2, "{lines:?}");
        // The bar is drawn at the start of each epoch: its line took the one before away.
        assert!(lines.iter().any(|line| line.starts_with("\repoch 2/2 ▕█████ ")), "{lines:?}");
        assert!(lines.iter().all(|line| line.starts_with('\r') || ends.contains(&line)), "{lines:?}");
    }

    #[test]
    fn a_training_gone_on_with_in_mid_epoch_is_as_fast_as_it_is() {
        let (train, validation) = loaders();
        struct Stops;
        impl Callback for Stops {
            fn name(&self) -> &str {
                "stops"
            }
            fn step_end(&mut self, training: &mut Training) -> Result<Flow> {
                Ok(if training.state().step == 3 { Flow::Stop("three".into()) } else { Flow::Continue })
            }
        }
        let mut trainer = trainer(7).0.epochs(2).learning_rate(0.1).callback(Stops).quiet().build().unwrap();
        trainer.fit(&train, Some(&validation)).unwrap();
        assert_eq!(trainer.training.running_examples(), 48);
        let speed = Speed::start(&trainer.training);
        assert_eq!(speed.examples_per_second(&trainer.training), 0.0, "nothing was trained since");
        // One of four batches took 5 s since; four are left in the next epoch.
        let ago = Instant::now().checked_sub(Duration::from_secs(5)).unwrap();
        let mut progress = Progress { started: ago, first_batch: 3, ..Progress::kept() };
        assert_eq!(progress.seconds_left(&trainer.training), None);
        (trainer.training.state.epoch, trainer.training.state.batch) = (1, 0);
        let left = progress.seconds_left(&trainer.training).unwrap();
        assert!((20.0..25.0).contains(&left), "{left}");
        progress.first_batch = 0;
        assert!((5.0..6.0).contains(&progress.seconds_left(&trainer.training).unwrap()));
    }
}
