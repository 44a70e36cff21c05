//! How metrics show themselves: tables and figures.

use crate::error::Result;
use crate::language::{label, told};
use crate::metrics::{
    Average, CalibrationError, ClassificationReport, ConfusionMatrix, Metric, PrecisionRecallCurve, PrecisionSummary,
    RegressionSummary, ReportRow, RocCurve,
};
use crate::notebook::{Cell, Table};
use crate::plot::{BarChart, Figure, HeatMap, LineChart};
use crate::text::{self, say};

/// At most this many points of a curve are drawn: more cannot be told apart.
const DRAWN: usize = 500;

fn thinned(x: &[f64], y: &[f64]) -> Vec<(f64, f64)> {
    let step = x.len().div_ceil(DRAWN).max(1);
    let mut points: Vec<_> = x.iter().copied().zip(y.iter().copied()).step_by(step).collect();
    if let (Some(&x), Some(&y)) = (x.last(), y.last())
        && points.last() != Some(&(x, y))
    {
        points.push((x, y));
    }
    points
}

impl ConfusionMatrix {
    /// A heat map: a row per true class, coloured by its shares, with the counts written in.
    ///
    /// # Errors
    /// If a pending batch cannot be counted, or the figure cannot be drawn.
    ///
    /// # Examples
    ///
    /// ```
    /// use candle_course::prelude::*;
    ///
    /// let mut matrix = ConfusionMatrix::new(2)?.class_names(["land", "water"])?;
    /// matrix.update(&Tensor::new(&[0u32, 1, 0], &Device::Cpu)?, &Tensor::new(&[0u32, 1, 1], &Device::Cpu)?)?;
    /// assert!(matrix.figure("Confusion of land and water")?.svg().contains("water"));
    /// # Ok::<(), candle_course::Error>(())
    /// ```
    pub fn figure(&self, title: &str) -> Result<Figure> {
        HeatMap::confusion(title, &self.rows()?, self.names()).build()
    }

    /// IoU, Dice and the number of pixels (or examples) of every class, and their means, as a table.
    /// A class that neither occurs nor is predicted has dashes and does not enter the means.
    ///
    /// # Errors
    /// If there is no example, or a pending batch cannot be counted.
    ///
    /// # Examples
    ///
    /// ```
    /// use candle_course::prelude::*;
    ///
    /// let labels = Tensor::new(&[[0u32, 1], [1, 1]], &Device::Cpu)?;
    /// let table = confusion_matrix(&labels, &labels, 2)?.class_names(["land", "water"])?.iou_table()?;
    /// assert_eq!(table.len(), 3); // two classes and their mean
    /// # Ok::<(), candle_course::Error>(())
    /// ```
    pub fn iou_table(&self) -> Result<Table> {
        let mut table = Table::new(["class", "IoU", "Dice", "support"].map(label));
        for (name, class) in self.names().iter().zip(self.per_class()?) {
            table.push(vec![Cell::text(name), score(class.iou()), score(class.dice()), Cell::from(class.support())]);
        }
        let (iou, dice) = (self.iou(Average::Macro)?, self.dice(Average::Macro)?);
        table.push(vec![Cell::text(label("mean")), score(Some(iou)), score(Some(dice)), Cell::from(self.total()?)]);
        Ok(table)
    }

    /// Shows the heat map as the result of a notebook cell.
    pub fn evcxr_display(&self) {
        match self.figure(label("Confusion matrix")) {
            Ok(figure) => figure.evcxr_display(),
            Err(error) => say(error),
        }
    }
}

fn score(value: Option<f64>) -> Cell {
    Cell::number(text::score(value))
}

impl ClassificationReport {
    /// The report as a table; what is not defined is a dash.
    ///
    /// # Examples
    ///
    /// ```
    /// use candle_course::prelude::*;
    ///
    /// let labels = Tensor::new(&[0u32, 1], &Device::Cpu)?;
    /// let table = classification_report(&labels, &labels, ["land", "water"])?.table();
    /// assert_eq!(table.len(), 5); // two classes, accuracy, two averages
    /// # Ok::<(), candle_course::Error>(())
    /// ```
    pub fn table(&self) -> Table {
        let row = |row: &ReportRow| {
            vec![Cell::text(&row.name), score(row.precision), score(row.recall), score(row.f1), Cell::from(row.support)]
        };
        let mut table = Table::new(["class", "precision", "recall", "F1", "support"].map(label));
        for class in &self.classes {
            table.push(row(class));
        }
        let total = self.averages.first().map_or(0, |row| row.support);
        let empty = || Cell::text("");
        table.push(vec![
            Cell::text(label("accuracy")),
            empty(),
            empty(),
            score(Some(self.accuracy)),
            Cell::from(total),
        ]);
        for average in &self.averages {
            table.push(row(average));
        }
        table
    }

    /// Shows the table as the result of a notebook cell.
    pub fn evcxr_display(&self) {
        self.table().evcxr_display();
    }
}

impl RegressionSummary {
    /// Every error and R² as a table; what is not defined is a dash.
    ///
    /// # Examples
    ///
    /// ```
    /// use candle_course::prelude::*;
    ///
    /// let mut summary = RegressionSummary::default();
    /// summary.update(&Tensor::new(&[1f64, 2.], &Device::Cpu)?, &Tensor::new(&[1f64, 3.], &Device::Cpu)?)?;
    /// assert_eq!(summary.table().len(), 6);
    /// # Ok::<(), candle_course::Error>(())
    /// ```
    pub fn table(&self) -> Table {
        let mut table = Table::new(["metric", "value"].map(label));
        for (name, value) in [
            (label("mean squared error"), self.mean_squared_error()),
            (label("root mean squared error"), self.root_mean_squared_error()),
            (label("mean absolute error"), self.mean_absolute_error()),
            (label("maximum error"), self.maximum_error()),
            (label("mean absolute percentage error"), self.mean_absolute_percentage_error()),
            ("R²", self.r2()),
        ] {
            table.push(vec![Cell::text(name), score(value.ok())]);
        }
        table
    }

    /// Shows the table as the result of a notebook cell.
    pub fn evcxr_display(&self) {
        self.table().evcxr_display();
    }
}

impl PrecisionSummary {
    /// The mean precisions, and that of each class, as a table.
    ///
    /// # Examples
    ///
    /// ```
    /// use candle_course::prelude::*;
    ///
    /// let summary = PrecisionSummary { map: 0.5, map_50: 0.8, map_75: 0.4, per_class: vec![(3, 0.5)] };
    /// assert_eq!(summary.table().len(), 4);
    /// ```
    pub fn table(&self) -> Table {
        let mut table = Table::new(["mean average precision", "value"].map(label));
        for (name, value) in [("IoU 0.50 to 0.95", self.map), ("IoU 0.50", self.map_50), ("IoU 0.75", self.map_75)] {
            table.push(vec![Cell::text(name), score(Some(value))]);
        }
        for (class, value) in &self.per_class {
            table.push(vec![Cell::text(told!("class {}", "classe {}", class)), score(Some(*value))]);
        }
        table
    }

    /// Shows the table as the result of a notebook cell.
    pub fn evcxr_display(&self) {
        self.table().evcxr_display();
    }
}

impl RocCurve {
    /// The curve, with chance as a dashed line.
    ///
    /// # Errors
    /// If the figure cannot be drawn.
    ///
    /// # Examples
    ///
    /// ```
    /// use candle_course::prelude::*;
    ///
    /// let scores = Tensor::new(&[0.1f32, 0.4, 0.35, 0.8], &Device::Cpu)?;
    /// let figure = roc_curve(&scores, &Tensor::new(&[0u32, 0, 1, 1], &Device::Cpu)?)?.figure("Water")?;
    /// assert!(figure.svg().contains("AUC 0.750"));
    /// # Ok::<(), candle_course::Error>(())
    /// ```
    pub fn figure(&self, title: &str) -> Result<Figure> {
        LineChart::builder(title)
            .x_label(label("false positive rate"))
            .y_label(label("true positive rate"))
            .points(&format!("AUC {:.3}", self.area()), &thinned(&self.false_positive_rate, &self.true_positive_rate))
            .dashed_points(label("chance"), &[(0.0, 0.0), (1.0, 1.0)])
            .build()
    }

    /// Shows the curve as the result of a notebook cell.
    pub fn evcxr_display(&self) {
        match self.figure(label("ROC curve")) {
            Ok(figure) => figure.evcxr_display(),
            Err(error) => say(error),
        }
    }
}

impl PrecisionRecallCurve {
    /// The curve; the precision of a random score is the one at recall 1.
    ///
    /// # Errors
    /// If the figure cannot be drawn.
    ///
    /// # Examples
    ///
    /// ```
    /// use candle_course::prelude::*;
    ///
    /// let scores = Tensor::new(&[0.1f32, 0.4, 0.35, 0.8], &Device::Cpu)?;
    /// let curve = precision_recall_curve(&scores, &Tensor::new(&[0u32, 0, 1, 1], &Device::Cpu)?)?;
    /// assert!(curve.figure("Water")?.svg().contains("recall"));
    /// # Ok::<(), candle_course::Error>(())
    /// ```
    pub fn figure(&self, title: &str) -> Result<Figure> {
        let chance = self.precision.first().copied().unwrap_or(0.0);
        LineChart::builder(title)
            .x_label("recall")
            .y_label(label("precision"))
            .points(label("model"), &thinned(&self.recall, &self.precision))
            .dashed_points(label("chance"), &[(0.0, chance), (1.0, chance)])
            .y_range(0.0, 1.0)
            .build()
    }

    /// Shows the curve as the result of a notebook cell.
    pub fn evcxr_display(&self) {
        match self.figure(label("Precision and recall")) {
            Ok(figure) => figure.evcxr_display(),
            Err(error) => say(error),
        }
    }
}

impl CalibrationError {
    /// A reliability diagram: in every bin of confidence, how often the model was right. Bars that
    /// stay below the mean confidence are those of an overconfident model; where both are missing,
    /// nothing was predicted with that confidence.
    ///
    /// # Errors
    /// If there is no example, or the figure cannot be drawn.
    ///
    /// # Examples
    ///
    /// ```
    /// use candle_course::prelude::*;
    ///
    /// let mut error = CalibrationError::new(5)?;
    /// let probabilities = Tensor::new(&[[0.7f64, 0.3], [0.1, 0.9]], &Device::Cpu)?;
    /// error.update(&probabilities, &Tensor::new(&[0u32, 1], &Device::Cpu)?)?;
    /// assert!(error.figure("Reliability")?.svg().contains("confidence"));
    /// # Ok::<(), candle_course::Error>(())
    /// ```
    pub fn figure(&self, title: &str) -> Result<Figure> {
        self.compute()?;
        let bins = self.bins();
        let names: Vec<String> = bins.iter().map(|bin| format!("{:.2}–{:.2}", bin.from, bin.to)).collect();
        let column = |value: fn(&crate::metrics::CalibrationBin) -> Option<f64>| -> Vec<f64> {
            bins.iter().map(|bin| value(bin).unwrap_or(0.0)).collect()
        };
        BarChart::builder(title)
            .x_label(label("confidence"))
            .y_label(label("share"))
            .categories(&names)
            .bars(label("mean confidence"), &column(|bin| bin.confidence))
            .bars(label("accuracy"), &column(|bin| bin.accuracy))
            .numbers(false)
            .y_range(0.0, 1.0)
            .build()
    }

    /// Shows the reliability diagram as the result of a notebook cell.
    pub fn evcxr_display(&self) {
        match self.figure(label("Reliability")) {
            Ok(figure) => figure.evcxr_display(),
            Err(error) => say(error),
        }
    }
}
