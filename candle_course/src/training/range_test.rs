//! The learning-rate range test.

use candle_core::DType;

use crate::data::DataLoader;
use crate::error::{Error, Result, always};
use crate::language::label;
use crate::losses::Loss;
use crate::nn::{Model, Parameters};
use crate::optimizers::Optimizer;
use crate::plot::{Figure, LineChart};
use crate::schedules::Schedule;
use crate::setters::setters;
use crate::stateful::Stateful;
use crate::training::{Backward, forward_backward};

/// The fewest losses that make a curve.
const LEAST: usize = 5;

/// Trains for a few steps while the rate rises exponentially, and records the loss: where it falls
/// fastest is a good rate, where it explodes is too high.
///
/// η(t) = low · (high / low)^(t / (steps − 1)). Smith 2017, "Cyclical Learning Rates for Training
/// Neural Networks", section 3.3.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let test = LearningRateRangeTest::builder(1e-5, 1.0).steps(6).build()?;
/// assert!((test.learning_rate(2) - 1e-3).abs() < 1e-12);
/// # Ok::<(), candle_course::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct LearningRateRangeTest {
    low: f64,
    high: f64,
    steps: usize,
    smoothing: f64,
    stop_factor: f64,
}

/// Configures a [`LearningRateRangeTest`].
#[derive(Debug, Clone)]
pub struct LearningRateRangeTestBuilder(LearningRateRangeTest);

impl LearningRateRangeTest {
    /// From `low` to `high` in 100 steps.
    ///
    /// # Errors
    /// If the rates do not rise.
    pub fn new(low: f64, high: f64) -> Result<Self> {
        Self::builder(low, high).build()
    }

    /// From `low` to `high` in 100 steps, unless told otherwise.
    pub fn builder(low: f64, high: f64) -> LearningRateRangeTestBuilder {
        LearningRateRangeTestBuilder(Self { low, high, steps: 100, smoothing: 0.9, stop_factor: 4.0 })
    }

    /// Runs the test, and leaves `parameters`, their generators and `optimizer` as they were.
    ///
    /// The loader is gone through as often as the steps need. The test ends early when the
    /// smoothed loss is not finite, or has risen above the best, b, by more than `stop_factor` − 1
    /// times |b|: to `stop_factor` times the best, if that is positive. Near 0 and below, where the
    /// level of a loss says little, the measure is at least a twentieth of what the loss has fallen
    /// by, and what it usually changes by from batch to batch.
    ///
    /// # Errors
    /// If a training step fails, or fewer than 5 steps could be made.
    pub fn run(
        &self,
        model: &dyn Model,
        loss: &dyn Loss,
        optimizer: &mut dyn Optimizer,
        parameters: &Parameters,
        loader: &DataLoader,
    ) -> Result<RangeTestCurve> {
        let mut parameters = parameters.clone();
        let (weights, state) = (parameters.state()?, optimizer.state()?);
        let generators: Vec<_> =
            parameters.generators().into_iter().map(|(_, shared)| (shared.lock().clone(), shared.clone())).collect();
        // Put back also when a step failed, or the model panicked.
        always(
            optimizer,
            |optimizer| self.record(model, loss, optimizer, loader),
            |optimizer| {
                generators.into_iter().for_each(|(saved, shared)| *shared.lock() = saved);
                parameters.load_state(&weights).and(optimizer.load_state(&state))
            },
        )
    }

    fn record(
        &self,
        model: &dyn Model,
        loss: &dyn Loss,
        optimizer: &mut dyn Optimizer,
        loader: &DataLoader,
    ) -> Result<RangeTestCurve> {
        let mut losses = Vec::new();
        if loader.is_empty() {
            return Err(Error::argument("loader", "at least one batch", 0));
        }
        'test: for epoch in 0.. {
            for batch in loader.epoch(epoch)? {
                let batch = batch?;
                let Backward { loss, gradients, .. } = forward_backward(model, loss, &batch)?;
                losses.push(loss.to_dtype(DType::F64)?.to_scalar::<f64>()?);
                let step = losses.len() - 1;
                if losses.len() == self.steps || self.exploded(&losses) {
                    break 'test;
                }
                optimizer.step(&gradients, self.learning_rate(step))?;
            }
        }
        self.curve(&losses)
    }

    fn exploded(&self, losses: &[f64]) -> bool {
        let smoothed = self.smooth(losses);
        let Some(&last) = smoothed.last() else { return false };
        if !last.is_finite() || smoothed.len() < LEAST {
            return !last.is_finite();
        }
        let best = smoothed.iter().copied().fold(f64::INFINITY, f64::min);
        let mut changes: Vec<f64> = losses.windows(2).map(|pair| (pair[1] - pair[0]).abs()).collect();
        changes.sort_by(f64::total_cmp);
        let measure = best.abs().max(0.05 * (smoothed[0] - best)).max(changes[changes.len() / 2]);
        last - best > (self.stop_factor - 1.0) * measure
    }

    /// The exponential moving average, corrected for its start.
    fn smooth(&self, losses: &[f64]) -> Vec<f64> {
        let (mut mean, mut weight) = (0.0, 0.0);
        losses
            .iter()
            .map(|loss| {
                mean = self.smoothing * mean + (1.0 - self.smoothing) * loss;
                weight = self.smoothing * weight + (1.0 - self.smoothing);
                mean / weight
            })
            .collect()
    }

    /// The curve of losses recorded by other means: `losses[t]` is the loss before the step with
    /// rate `learning_rate(t)`.
    ///
    /// # Errors
    /// If there are fewer than 5 finite losses at the beginning.
    pub fn curve(&self, losses: &[f64]) -> Result<RangeTestCurve> {
        let finite = losses.iter().take_while(|loss| loss.is_finite()).count();
        if finite < LEAST {
            return Err(Error::training(format!(
                "the range test saw {finite} finite losses, it needs at least {LEAST}"
            ))
            .hint("lower `low`, or look at the loss and the data"));
        }
        let losses = losses[..finite].to_vec();
        Ok(RangeTestCurve { learning_rates: self.learning_rates(finite), smoothed: self.smooth(&losses), losses })
    }
}

impl LearningRateRangeTestBuilder {
    setters! {
        /// How many steps (default 100).
        steps(steps: usize) => 0.steps = steps;
        /// The decay of the moving average of the loss (default 0.9).
        smoothing(smoothing: f64) => 0.smoothing = smoothing;
        /// How many times the best smoothed loss ends the test (default 4); below 0, see
        /// [`LearningRateRangeTest::run`].
        stop_factor(factor: f64) => 0.stop_factor = factor;
    }

    /// The test.
    ///
    /// # Errors
    /// If the rates do not rise, there are fewer than 5 steps, the smoothing is not in `[0, 1)`,
    /// or the stop factor is not above 1.
    pub fn build(self) -> Result<LearningRateRangeTest> {
        let it = self.0;
        if !(it.low.is_finite() && it.low > 0.0) {
            return Err(Error::argument("low", "a finite number > 0", it.low));
        }
        if !(it.high.is_finite() && it.high > it.low) {
            return Err(Error::argument("high", format!("more than `low`, {}", it.low), it.high));
        }
        if it.steps < LEAST {
            return Err(Error::argument("steps", format!("at least {LEAST}"), it.steps));
        }
        if !(0.0..1.0).contains(&it.smoothing) {
            return Err(Error::argument("smoothing", "a number in [0, 1)", it.smoothing));
        }
        if it.stop_factor.is_nan() || it.stop_factor <= 1.0 {
            return Err(Error::argument("stop_factor", "a number > 1", it.stop_factor));
        }
        Ok(it)
    }
}

impl Schedule for LearningRateRangeTest {
    fn learning_rate(&self, step: usize) -> f64 {
        self.low * (self.high / self.low).powf(step as f64 / (self.steps - 1) as f64)
    }
}

/// What a [`LearningRateRangeTest`] found.
#[derive(Debug, Clone, PartialEq)]
pub struct RangeTestCurve {
    learning_rates: Vec<f64>,
    losses: Vec<f64>,
    smoothed: Vec<f64>,
}

impl RangeTestCurve {
    /// The rates, rising.
    pub fn learning_rates(&self) -> &[f64] {
        &self.learning_rates
    }

    /// The loss of the batch at each rate, before the step with it.
    pub fn losses(&self) -> &[f64] {
        &self.losses
    }

    /// The losses, smoothed.
    pub fn smoothed(&self) -> &[f64] {
        &self.smoothed
    }

    /// The rate at which the smoothed loss falls fastest, per factor of the rate, on its way to
    /// the lowest.
    pub fn steepest(&self) -> f64 {
        // Central differences; the rates are equidistant on the logarithmic axis.
        let slope = |i: usize| self.smoothed[i + 1] - self.smoothed[i - 1];
        let last = self.valley().clamp(1, self.smoothed.len() - 2);
        let steepest = (1..=last).min_by(|&a, &b| slope(a).total_cmp(&slope(b)));
        self.learning_rates[steepest.unwrap_or(0)]
    }

    /// The rate of the lowest smoothed loss before it climbs above its start: already too high to
    /// train with. What the loss does after an explosion does not count.
    pub fn lowest(&self) -> f64 {
        self.learning_rates[self.valley()]
    }

    fn valley(&self) -> usize {
        let first = self.smoothed[0];
        // Learning has begun a tenth below the start, whichever side of 0 that is on.
        let fall = first - self.smoothed.iter().copied().fold(f64::INFINITY, f64::min);
        let begun = (0.1 * first.abs()).clamp(0.1 * fall, 0.5 * fall);
        let (mut lowest, mut learned) = (0, false);
        for (i, &loss) in self.smoothed.iter().enumerate() {
            learned |= loss < first - begun;
            if learned && loss > first {
                break;
            }
            if loss < self.smoothed[lowest] {
                lowest = i;
            }
        }
        lowest
    }

    /// The suggested (maximal) learning rate: the steepest, or a tenth of the lowest if that is
    /// smaller.
    pub fn suggestion(&self) -> f64 {
        self.steepest().min(self.lowest() / 10.0)
    }

    /// The curve with the suggestion marked.
    ///
    /// # Errors
    /// If the figure cannot be made.
    pub fn plot(&self) -> Result<Figure> {
        let pairs = |values: &[f64]| -> Vec<(f64, f64)> {
            self.learning_rates.iter().copied().zip(values.iter().copied()).collect()
        };
        // The explosion at the end would flatten everything before it.
        let (first, low) = (self.smoothed[0], self.smoothed.iter().copied().fold(f64::INFINITY, f64::min));
        let margin = 0.5 * (first - low).abs().max(1e-12);
        LineChart::builder(label("Learning-rate range test"))
            .x_label(label("learning rate"))
            .y_label(label("loss"))
            .log_x()
            .y_range(low - margin, first + margin)
            .dots("batch", &pairs(&self.losses))
            .points(label("smoothed"), &pairs(&self.smoothed))
            .vertical(label("suggestion"), self.suggestion())
            .build()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::TensorDataset;
    use crate::losses::CrossEntropy;
    use crate::nn::{Dropout, Linear, Sequential};
    use crate::optimizers::AdamW;
    use crate::random::Generator;
    use candle_core::{Device, Tensor};

    #[test]
    fn the_test_finds_a_rate_and_leaves_no_trace() {
        let mut generator = Generator::new(3);
        let xs: Vec<f32> = (0..256 * 4).map(|_| generator.normal() as f32).collect();
        let labels: Vec<u32> = xs.chunks(4).map(|x| u32::from(x[0] + x[1] > 0.0)).collect();
        let dataset = TensorDataset::new(
            Tensor::from_vec(xs, (256, 4), &Device::Cpu).unwrap(),
            Tensor::from_vec(labels, 256, &Device::Cpu).unwrap(),
        )
        .unwrap();
        let loader = DataLoader::builder(dataset).batch_size(32).shuffle(1).build().unwrap();
        let parameters = Parameters::new(0, &Device::Cpu);
        let model = Sequential::new()
            .add(Linear::new(4, 16, &parameters.at("0")).unwrap())
            .add(Dropout::new(0.1, &parameters.at("1")).unwrap())
            .add(Linear::new(16, 2, &parameters.at("2")).unwrap());
        let mut optimizer = AdamW::new(&parameters).unwrap();
        let before = parameters.get("0.weight").unwrap().to_vec2::<f32>().unwrap();
        let generator_before = parameters.generators()[0].1.lock().clone();
        let test = LearningRateRangeTest::new(1e-5, 10.0).unwrap();
        let curve = test.run(&model, &CrossEntropy::default(), &mut optimizer, &parameters, &loader).unwrap();
        assert!((1e-4..0.5).contains(&curve.suggestion()), "{}", curve.suggestion());
        assert!(curve.suggestion() < curve.lowest());
        assert_eq!(parameters.get("0.weight").unwrap().to_vec2::<f32>().unwrap(), before);
        assert!(curve.plot().unwrap().svg().contains("suggestion"));
        assert_eq!(*parameters.generators()[0].1.lock(), generator_before);
        assert_eq!(optimizer.state().unwrap()["0.weight.step"].to_scalar::<i64>().unwrap(), 0);
    }

    #[test]
    fn the_suggestion_of_a_known_curve() {
        let test = LearningRateRangeTest::builder(1e-6, 1.0).steps(61).smoothing(0.0).build().unwrap();
        // A sigmoid fall around 10⁻³ and a rise from 10⁻¹ on: ten points a decade.
        let losses: Vec<f64> = (0..61)
            .map(|i| {
                let decade = f64::from(i) / 10.0 - 6.0;
                1.0 / (1.0 + ((decade + 3.0) * 6.0).exp()) + ((decade + 1.0) * 6.0).exp() * 0.01
            })
            .collect();
        let curve = test.curve(&losses).unwrap();
        assert!((curve.steepest().log10() + 3.0).abs() < 0.11, "{}", curve.steepest());
        assert!((-2.0..-1.0).contains(&curve.lowest().log10()), "{}", curve.lowest());
        // A second, deeper fall after an explosion is not what one looks for.
        let mut exploded = losses.clone();
        exploded.extend([5.0, 4.0, 1.0, 0.0]);
        let longer = LearningRateRangeTest::builder(1e-6, 10f64.powf(0.4)).steps(65).smoothing(0.0).build().unwrap();
        let found = longer.curve(&exploded).unwrap();
        assert!((found.steepest() / curve.steepest() - 1.0).abs() < 1e-9, "{}", found.steepest());
        assert!((found.lowest() / curve.lowest() - 1.0).abs() < 1e-9, "{}", found.lowest());
        let text = test.curve(&[1.0, f64::NAN]).unwrap_err().to_string();
        assert!(text.contains("1 finite losses"), "{text}");
    }

    /// The suggestion of a curve, as `run` would see it: step by step, until it ends the test.
    fn suggestion(test: &LearningRateRangeTest, losses: &[f64]) -> (usize, f64) {
        let steps = (1..=losses.len()).find(|&steps| test.exploded(&losses[..steps])).unwrap_or(losses.len());
        (steps, test.curve(&losses[..steps]).unwrap().suggestion())
    }

    #[test]
    fn losses_below_zero_are_read_like_those_above() {
        let test = LearningRateRangeTest::builder(1e-6, 1.0).steps(61).build().unwrap();
        let mut generator = Generator::new(9);
        // From 2.3 to 0.3 around 10⁻³, an explosion from 10⁻¹ on, and the noise of batches.
        let losses: Vec<f64> = (0..61)
            .map(|i| {
                let decade = f64::from(i) / 10.0 - 6.0;
                let fall = 2.0 / (1.0 + ((decade + 3.0) * 4.0).exp());
                0.3 + fall + ((decade + 0.8) * 6.0).exp() + 0.03 * generator.normal()
            })
            .collect();
        let (steps, expected) = suggestion(&test, &losses);
        assert!((50..61).contains(&steps) && (1e-4..1e-2).contains(&expected), "{steps} {expected}");
        for shift in [-0.3, -1.0, -2.29, -2.3, -2.5, -5.0, -30.0] {
            let shifted: Vec<f64> = losses.iter().map(|loss| loss + shift).collect();
            let (steps, found) = suggestion(&test, &shifted);
            assert!(steps >= 45, "{shift}: ended after {steps}");
            assert!((found / expected).ln().abs() < 0.25, "{shift}: {found} {expected}");
        }
        // Where there is no loss to lose, an infinity still ends the test at once.
        assert!(test.exploded(&[-3.0, f64::INFINITY]) && !test.exploded(&[-3.0, -2.9, -3.1]));
    }
}
