//! How a history shows itself.

use std::fmt;

use crate::error::Result;
use crate::language::{chosen, label, told};
use crate::notebook::{Cell, Table};
use crate::plot::{Figure, LineChart, Panels, compact};
use crate::text::say;
use crate::training::History;

/// The name of a metric as a title.
pub(super) fn headline(name: &str) -> String {
    let mut letters = name.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

impl History {
    /// A row for every epoch; the best by validation loss (or training loss) in bold.
    pub fn table(&self) -> Table {
        let names = self.names();
        let header = [label("epoch").to_owned()]
            .into_iter()
            .chain(names.iter().map(|name| label(&name.replace('_', " ")).to_owned()))
            .chain([label("seconds").to_owned()]);
        let mut table = Table::new(header.collect::<Vec<_>>());
        for record in self.epochs() {
            let columns = record.columns();
            let mut row = vec![Cell::from(record.epoch)];
            row.extend(names.iter().map(|name| Cell::from(columns.iter().find(|(c, _)| c == name).map(|(_, v)| *v))));
            row.push(Cell::from(record.seconds));
            table.push(row);
        }
        match self.best(self.judge()) {
            Ok(best) => table.best(self.epochs().iter().position(|record| record.epoch == best.epoch).unwrap_or(0)),
            Err(_) => table,
        }
    }

    /// The value by which epochs are compared unless somebody says otherwise.
    fn judge(&self) -> &'static str {
        if self.epochs().iter().all(|record| record.validation_loss.is_some()) {
            "validation_loss"
        } else {
            "train_loss"
        }
    }

    /// The loss, every metric and the learning rate as curves, with the best epoch of each marked.
    ///
    /// # Errors
    /// If no epoch is done.
    pub fn curves(&self) -> Result<Figure> {
        let last = self.last()?;
        let mut panels = Panels::builder(if last.metrics.is_empty() { 2 } else { 3 });
        let mut loss = LineChart::builder(label("Loss")).x_label(label("epoch")).y_label(label("loss")).first_x(1.0);
        loss = loss.line(label("train"), &self.values("train_loss")?);
        if let Ok(values) = self.values("validation_loss") {
            let best = self.best("validation_loss")?;
            loss = loss.line(label("validation"), &values);
            loss = loss.mark(
                &told!("best: epoch {}", "melhor: época {}", best.epoch),
                best.epoch as f64,
                best.metric("validation_loss")?,
            );
        }
        panels = panels.add(loss.build()?);
        for (name, _) in &last.metrics {
            let Ok(values) = self.values(name) else { continue };
            let mut chart =
                LineChart::builder(&headline(label(name))).x_label(label("epoch")).y_label(label(name)).first_x(1.0);
            if let Ok(values) = self.values(&format!("train_{name}")) {
                chart = chart.line(label("train"), &values);
            }
            let best = self.best(name)?;
            chart = chart.line(label("validation"), &values);
            chart = chart.mark(
                &told!("best: epoch {}", "melhor: época {}", best.epoch),
                best.epoch as f64,
                best.metric(name)?,
            );
            panels = panels.add(chart.build()?);
        }
        if last.metrics.is_empty() {
            for (name, _) in &last.train_metrics {
                let values = self.values(&format!("train_{name}"))?;
                let chart = LineChart::builder(&headline(label(name)))
                    .x_label(label("epoch"))
                    .y_label(label(name))
                    .first_x(1.0);
                panels = panels.add(chart.line(label("train"), &values).build()?);
            }
        }
        panels.add(self.rate_chart()?).build()
    }

    fn rate_chart(&self) -> Result<Figure> {
        let rates: Vec<(f64, f64)> = self.steps().iter().map(|step| (step.step as f64, step.learning_rate)).collect();
        LineChart::builder(label("Learning rate"))
            .x_label(label("step"))
            .y_label(label("learning rate"))
            .step_points("", &rates)
            .build()
    }

    /// The loss of every step, with its moving average over `window` steps.
    ///
    /// # Errors
    /// If no epoch is done, or the window is 0.
    pub fn step_curve(&self, window: usize) -> Result<Figure> {
        if window == 0 {
            return Err(crate::Error::argument("window", "at least 1 step", 0));
        }
        let losses = self.step_losses();
        let smooth: Vec<(f64, f64)> = (window..=losses.len())
            .map(|end| (end as f64, losses[end - window..end].iter().sum::<f64>() / window as f64))
            .collect();
        let mut chart =
            LineChart::builder(label("Training loss")).x_label(label("step")).y_label(label("loss")).first_x(1.0);
        chart = chart.line(label("every step"), &losses);
        if window > 1 && !smooth.is_empty() {
            chart = chart.points(&told!("mean of {}", "média de {}", window), &smooth);
        }
        chart.build()
    }

    /// What evcxr calls for a cell that ends with a history: the curves.
    pub fn evcxr_display(&self) {
        match self.curves() {
            Ok(figure) => {
                self.stopped().iter().for_each(|reason| say(told!("stopped: {}", "parou: {}", reason)));
                self.notes().iter().for_each(say);
                figure.evcxr_display();
            }
            Err(_) => say(self),
        }
    }
}

impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.epochs().is_empty() {
            return writeln!(f, "{}", chosen("a history without epochs", "um histórico sem épocas"));
        }
        write!(f, "{}", self.table())?;
        if let Ok(best) = self.best(self.judge()) {
            let value = compact(best.metric(self.judge()).unwrap_or(f64::NAN));
            let judge = self.judge().replace('_', " ");
            let line = told!("best {}: {} in epoch {}", "melhor {}: {} na época {}", label(&judge), value, best.epoch);
            writeln!(f, "{line}")?;
        }
        self.stopped().iter().try_for_each(|reason| writeln!(f, "{}", told!("stopped: {}", "parou: {}", reason)))?;
        self.notes().iter().try_for_each(|note| writeln!(f, "{note}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::training::EpochRecord;
    use crate::training::trainer_tests::{loaders, trainer};

    fn record(epoch: usize, train_loss: f64, validation_loss: f64, accuracy: f64) -> EpochRecord {
        EpochRecord {
            epoch,
            step: 10 * epoch,
            train_loss,
            validation_loss: Some(validation_loss),
            metrics: vec![("accuracy".into(), accuracy)],
            train_metrics: vec![],
            learning_rate: 0.1,
            seconds: 1.5,
            train_seconds: 1.0,
            examples: 60,
            times: Default::default(),
        }
    }

    fn three_epochs() -> History {
        let mut history = History::default();
        history.set_directions(&[Box::new(crate::metrics::Accuracy::default())]);
        for (epoch, (train, validation, accuracy)) in
            [(1.0, 0.9, 0.5), (0.5, 0.6, 0.8), (0.3, 0.7, 0.8)].into_iter().enumerate()
        {
            history.note_step(epoch + 1, 0.1, 1);
            history.record_steps(|_| Ok(train)).unwrap();
            history.push(record(epoch + 1, train, validation, accuracy));
        }
        history
    }

    #[test]
    fn table_best_and_names() {
        let history = three_epochs();
        let text = history.to_string();
        assert!(text.starts_with("epoch  train loss  validation loss  accuracy  learning rate  seconds\n"), "{text}");
        assert!(text.contains("2         0.5              0.6       0.8            0.1      1.5  *"), "{text}");
        assert!(text.ends_with("best validation loss: 0.6 in epoch 2\n"), "{text}");
        assert_eq!(history.best("accuracy").unwrap().epoch, 2);
        assert_eq!(history.best("train_loss").unwrap().epoch, 3);
        let error = history.best("acuracy").unwrap_err().to_string();
        assert!(
            error.contains("one of [train_loss, validation_loss, accuracy, learning_rate], got `acuracy`"),
            "{error}"
        );
        assert!(History::default().best("train_loss").is_err());
    }

    #[test]
    fn files_give_back_what_was_saved() {
        let history = three_epochs();
        let folder = tempfile::tempdir().unwrap();
        let json = folder.path().join("history.json");
        history.save(&json).unwrap();
        assert_eq!(History::load(&json).unwrap(), history);
        history.save(folder.path().join("history.csv")).unwrap();
        let csv = std::fs::read_to_string(folder.path().join("history.csv")).unwrap();
        assert_eq!(
            csv.lines().take(2).collect::<Vec<_>>(),
            [
                "epoch,step,train_loss,validation_loss,accuracy,learning_rate,seconds,examples",
                "1,10,1,0.9,0.5,0.1,1.5,60"
            ]
        );
        let mut odd = History::default();
        odd.push(EpochRecord { metrics: vec![("F1, \"macro\"".into(), 0.25)], ..record(1, 1.0, 0.9, 0.5) });
        odd.push(EpochRecord { validation_loss: None, ..record(2, 1.0, 0.9, 0.5) });
        assert_eq!(
            odd.to_csv().lines().take(2).collect::<Vec<_>>(),
            [
                "epoch,step,train_loss,accuracy,learning_rate,validation_loss,\"F1, \"\"macro\"\"\",seconds,examples",
                "1,10,1,,0.1,0.9,0.25,1.5,60"
            ]
        );
        assert!(history.save("history.xlsx").unwrap_err().to_string().contains(".csv or .json"));
    }

    #[test]
    fn curves_show_every_series_and_the_best_epoch() {
        let svg = three_epochs().curves().unwrap().svg().to_owned();
        for text in ["Loss", "train", "validation", "best: epoch 2", "Accuracy", "Learning rate"] {
            assert!(svg.contains(text), "{text}");
        }
        let (train, validation) = loaders();
        let mut trainer = trainer(1).0.epochs(2).learning_rate(0.1).train_metrics().quiet().build().unwrap();
        let history = trainer.fit(&train, Some(&validation)).unwrap();
        assert_eq!(history.names(), ["train_loss", "validation_loss", "train_accuracy", "accuracy", "learning_rate"]);
        assert!(history.step_curve(3).unwrap().svg().contains("mean of 3"));
        assert!(history.step_curve(0).is_err());
    }
}
