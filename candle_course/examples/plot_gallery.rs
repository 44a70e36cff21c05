//! Every kind of figure, written as SVG and PNG.
//!
//! ```text
//! cargo run --release --example plot_gallery -- figures/
//! ```

use candle_course::prelude::*;

fn main() -> Result<()> {
    let folder = std::env::args().nth(1).unwrap_or_else(|| "figures".into());
    std::fs::create_dir_all(&folder).context("cannot make the folder")?;
    let mut generator = Generator::new(0);
    for (name, figure) in [
        ("learning_curves", learning_curves()?),
        ("seeds", seeds()?),
        ("schedules", schedules()?),
        ("range_test", range_test(&mut generator)?),
        ("diverged", diverged()?),
        ("bars", bars()?),
        ("stacked", stacked()?),
        ("horizontal", horizontal()?),
        ("errors", errors()?),
        ("confusion", confusion()?),
        ("correlations", correlations()?),
        ("filters", filters(&mut generator)?),
        ("predictions", predictions(&mut generator)?),
        ("masks", masks()?),
        ("weights", weights(&mut generator)?),
        ("two_classes", two_classes(&mut generator)?),
        ("regression", regression(&mut generator)?),
        ("offset", offset()?),
        ("steps", steps()?),
        ("many_series", many_series()?),
        ("many_categories", many_categories()?),
        ("large_map", large_map(&mut generator)?),
        ("box_plots", box_plots(&mut generator)?),
        ("surface", surface()?),
    ] {
        save(&folder, name, &figure)?;
    }
    let panels = Panels::builder(2)
        .title("Run 7")
        .add(learning_curves()?)
        .add(schedules()?)
        .add(confusion()?)
        .add(weights(&mut generator)?)
        .build()?;
    save(&folder, "panels", &panels)?;
    let three = Panels::builder(3).add(learning_curves()?).add(bars()?).add(seeds()?).build()?;
    save(&folder, "three_panels", &three)
}

fn save(folder: &str, name: &str, figure: &Figure) -> Result<()> {
    figure.save(format!("{folder}/{name}.svg"))?;
    figure.save(format!("{folder}/{name}.png"))?;
    let png = figure.png()?.len();
    println!("{name:16} {}×{}  svg {:6}  png {png:6}", figure.width(), figure.height(), figure.svg().len());
    Ok(())
}

fn curve(epochs: u32, from: f64, to: f64, rate: f64) -> Vec<f64> {
    (0..epochs).map(|epoch| to + (from - to) * (-rate * f64::from(epoch)).exp()).collect()
}

fn learning_curves() -> Result<Figure> {
    let train = curve(30, 2.3, 0.05, 0.2);
    let validation: Vec<f64> =
        curve(30, 2.3, 0.3, 0.25).iter().zip(0..).map(|(y, x)| y + 0.0008 * f64::from(x * x)).collect();
    LineChart::builder("Overfitting")
        .x_label("epoch")
        .y_label("cross-entropy")
        .first_x(1.0)
        .line("train", &train)
        .line("validation", &validation)
        .mark("best epoch (12)", 12.0, validation[11])
        .build()
}

fn seeds() -> Result<Figure> {
    let mean = curve(12, 0.4, 0.93, 0.3);
    let other = curve(12, 0.3, 0.89, 0.4);
    let band = |mean: &[f64]| -> Vec<(f64, f64, f64)> {
        mean.iter().zip(1..).map(|(y, x)| (f64::from(x), y - 0.06 / f64::from(x), y + 0.06 / f64::from(x))).collect()
    };
    LineChart::builder("Mean and spread over five seeds")
        .x_label("epoch")
        .y_label("accuracy")
        .first_x(1.0)
        .line("with dropout", &mean)
        .band("with dropout", &band(&mean))
        .line("without", &other)
        .band("without", &band(&other))
        .horizontal("chance", 0.1)
        .build()
}

fn schedules() -> Result<Figure> {
    let steps = 2000;
    let cosine: Vec<f64> =
        (0..steps).map(|s| 0.05 * (1.0 + (f64::from(s) / 2000.0 * std::f64::consts::PI).cos())).collect();
    let steps_of: Vec<f64> = (0..steps).map(|s| 0.1 * 0.3f64.powi(s / 500)).collect();
    let exponential: Vec<f64> = (0..steps).map(|s| 0.1 * 0.998f64.powi(s)).collect();
    LineChart::builder("Schedules")
        .x_label("step")
        .y_label("learning rate")
        .line("cosine", &cosine)
        .line("step", &steps_of)
        .dashed("exponential", &exponential)
        .vertical("warm-up ends", 200.0)
        .build()
}

fn range_test(generator: &mut Generator) -> Result<Figure> {
    let points: Vec<(f64, f64)> = (0..300)
        .map(|i| {
            let rate = 1e-6 * 10f64.powf(f64::from(i) / 43.0);
            let loss = 2.3 - 1.5 / (1.0 + (3e-3 / rate)) + (rate * 3.0).powi(2);
            (rate, loss + 0.03 * (generator.uniform() - 0.5))
        })
        .collect();
    LineChart::builder("Learning-rate range test")
        .x_label("learning rate")
        .y_label("loss")
        .log_x()
        .points("loss", &points)
        .vertical("chosen: 0.01", 0.01)
        .y_range(0.5, 3.0)
        .build()
}

fn diverged() -> Result<Figure> {
    let bad: Vec<f64> = (0..40).map(|i| if i < 25 { 2.0 * 1.5f64.powi(i) } else { f64::NAN }).collect();
    LineChart::builder("A rate too high")
        .x_label("step")
        .y_label("loss")
        .log_y()
        .line("rate 0.01", &curve(40, 2.3, 0.1, 0.1))
        .line("rate 10", &bad)
        .build()
}

fn bars() -> Result<Figure> {
    BarChart::builder("Recall per class")
        .y_label("recall")
        .categories(&["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"])
        .bars("no balancing", &[0.81, 0.9, 0.62, 0.21, 0.7, 0.66, 0.86, 0.8, 0.35, 0.3])
        .bars("sampler", &[0.79, 0.88, 0.63, 0.48, 0.69, 0.64, 0.84, 0.79, 0.66, 0.61])
        .bars("class weights", &[0.77, 0.87, 0.6, 0.5, 0.7, 0.61, 0.85, 0.77, 0.68, 0.6])
        .build()
}

fn stacked() -> Result<Figure> {
    BarChart::builder("Classes in each batch")
        .x_label("batch")
        .y_label("examples")
        .categories(&["1", "2", "3", "4", "5"])
        .bars("common", &[58.0, 60.0, 57.0, 58.0, 61.0])
        .bars("rare", &[6.0, 4.0, 7.0, 6.0, 3.0])
        .stacked()
        .numbers(true)
        .size(420.0, 300.0)
        .build()
}

fn horizontal() -> Result<Figure> {
    BarChart::builder("Throughput")
        .y_label("examples per second")
        .categories(&["in memory", "transforms", "simulated I/O, 4 workers"])
        .bars("", &[182_000.0, 61_500.0, 12_345.0])
        .horizontal()
        .build()
}

fn errors() -> Result<Figure> {
    BarChart::builder("Ablation")
        .y_label("change of accuracy, points")
        .categories(&["dropout", "weight decay", "mixup", "label smoothing"])
        .bars_with_errors("", &[1.2, 0.8, -0.4, 0.3], &[0.2, 0.3, 0.25, 0.4])
        .size(520.0, 320.0)
        .build()
}

fn confusion() -> Result<Figure> {
    let counts: Vec<Vec<u64>> =
        (0..10).map(|i| (0..10).map(|j| if i == j { 80 + i } else { (i * 7 + j * 3) % 6 }).collect()).collect();
    let classes = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];
    HeatMap::confusion("Confusion matrix, test set", &counts, &classes).build()
}

fn correlations() -> Result<Figure> {
    let values: Vec<Vec<f64>> =
        (0..4).map(|i| (0..5).map(|j| (f64::from(i) - f64::from(j) * 0.8) / 3.0).collect()).collect();
    HeatMap::builder("Gradient · update", &values)
        .row_labels(&["conv1", "conv2", "fc1", "fc2"])
        .column_labels(&["1", "2", "3", "4", "5"])
        .x_label("epoch")
        .decimals(2)
        .diverging()
        .build()
}

fn filters(generator: &mut Generator) -> Result<Figure> {
    let values: Vec<f32> = (0..16 * 25).map(|_| generator.normal() as f32).collect();
    ImageGrid::builder("Filters of conv1", &Tensor::from_vec(values, (16, 1, 5, 5), &Device::Cpu)?)
        .stretched()
        .columns(8)
        .pixel_size(8.0)
        .build()
}

fn predictions(generator: &mut Generator) -> Result<Figure> {
    let mut values = Vec::new();
    for image in 0..12 {
        let phase = 6.0 * generator.uniform();
        for channel in 0..3 {
            for place in 0..32 * 32 {
                let (y, x) = (f64::from(place / 32), f64::from(place % 32));
                let wave =
                    ((x * 0.2 + phase).sin() + (y * 0.15 * f64::from(channel + 1) + f64::from(image)).cos()) / 4.0;
                values.push((wave + 0.5) as f32);
            }
        }
    }
    let captions: Vec<String> =
        (0..12).map(|i| if i % 5 == 3 { "cat (is dog)".into() } else { format!("ship {}", 99 - i) }).collect();
    let correct: Vec<bool> = (0..12).map(|i| i % 5 != 3).collect();
    ImageGrid::builder("Predictions", &Tensor::from_vec(values, (12, 3, 32, 32), &Device::Cpu)?)
        .captions(&captions)
        .correct(&correct)
        .columns(6)
        .build()
}

fn masks() -> Result<Figure> {
    let mut values = Vec::new();
    for tile in 0..4i32 {
        for place in 0..48 * 48 {
            let (y, x) = (place / 48 - 24, place % 48 - 24);
            let class = if x * x + y * y < 90 + 30 * tile {
                1
            } else if (x + 5 * tile) % 24 == 0 {
                2
            } else if y > 14 {
                3
            } else {
                0
            };
            values.push(class as u32);
        }
    }
    let maps = Tensor::from_vec(values, (4, 48, 48), &Device::Cpu)?;
    ImageGrid::class_maps("Land cover", &maps, &["ground", "building", "road", "vegetation"])
        .captions(&["truth", "cross-entropy", "Dice", "Lovász"])
        .build()
}

fn weights(generator: &mut Generator) -> Result<Figure> {
    let first: Vec<f64> = (0..4000).map(|_| 0.05 * generator.normal()).collect();
    let second: Vec<f64> = (0..4000).map(|_| 0.02 + 0.1 * generator.normal()).collect();
    Histogram::builder("Weights").x_label("value").values("conv1", &first).values("fc1", &second).build()
}

fn two_classes(generator: &mut Generator) -> Result<Figure> {
    let mut cloud = |x: f64, y: f64, count: usize| -> Vec<(f64, f64)> {
        (0..count).map(|_| (x + generator.normal(), y + generator.normal())).collect()
    };
    let (common, rare) = (cloud(0.0, 0.0, 450), cloud(2.5, 2.0, 50));
    ScatterChart::builder("90/10")
        .x_label("x₁")
        .y_label("x₂")
        .points("common", &common)
        .points("rare", &rare)
        .line("boundary", &[(-1.0, 4.0), (4.5, -1.5)])
        .build()
}

fn regression(generator: &mut Generator) -> Result<Figure> {
    let points: Vec<(f64, f64)> = (0..60)
        .map(|_| {
            let x = 250.0 * generator.uniform();
            (x, x + 18.0 * generator.normal())
        })
        .collect();
    ScatterChart::builder("Biomassa: previsão × medição")
        .x_label("medida, t·ha^{-1}")
        .y_label("prevista, t·ha^{-1}")
        .points("parcelas", &points)
        .line("ŷ = y", &[(0.0, 0.0), (250.0, 250.0)])
        .build()
}

fn offset() -> Result<Figure> {
    let losses: Vec<f64> = (0..200).map(|i| 0.703147 + 2e-6 * (-f64::from(i) / 60.0).exp()).collect();
    LineChart::builder("A model that does not learn").x_label("step").y_label("loss").line("loss", &losses).build()
}

fn steps() -> Result<Figure> {
    let rates = [0.1, 0.1, 0.1, 0.03, 0.03, 0.03, 0.01, 0.01, 0.01, 0.003];
    LineChart::builder("StepLR").x_label("epoch").y_label("learning rate").log_y().steps("rate", &rates).build()
}

fn many_series() -> Result<Figure> {
    (0..200)
        .fold(LineChart::builder("Activations of 200 units").x_label("step"), |chart, unit| {
            let phase = f64::from(unit) * 0.7;
            let values: Vec<f64> = (0..60).map(|i| (f64::from(i) / 9.0 + phase).sin() + phase / 20.0).collect();
            chart.line(&format!("unit {unit}"), &values)
        })
        .build()
}

fn many_categories() -> Result<Figure> {
    let names: Vec<String> = (0..300).map(|i| format!("class {i}")).collect();
    let values: Vec<f64> = (0..300).map(|i| f64::from(i * 7919 % 300) + 20.0).collect();
    BarChart::builder("Examples per class").y_label("examples").categories(&names).bars("", &values).build()
}

fn large_map(generator: &mut Generator) -> Result<Figure> {
    let values: Vec<Vec<f64>> = (0..128).map(|_| (0..784).map(|_| generator.normal()).collect()).collect();
    HeatMap::builder("Weights of the first layer", &values).x_label("pixel").y_label("unit").diverging().build()
}

fn box_plots(generator: &mut Generator) -> Result<Figure> {
    use candle_course::plotters::prelude::{Boxplot, ChartBuilder, Quartiles};
    let samples: Vec<Vec<f64>> =
        (0..4).map(|i| (0..20).map(|_| 0.8 + 0.03 * f64::from(i) + 0.02 * generator.normal()).collect()).collect();
    let figure = Figure::draw((640, 360), |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(14)
            .caption("Accuracy over twenty seeds, drawn by plotters", ("sans-serif", 18))
            .x_label_area_size(34)
            .y_label_area_size(54)
            .build_cartesian_2d(-0.5f64..3.5, 0.7f32..1.0)?;
        chart.configure_mesh().disable_x_mesh().x_desc("dropout, tenths").y_desc("accuracy").x_labels(4).draw()?;
        chart.draw_series(
            samples.iter().zip(0..).map(|(s, i)| Boxplot::new_vertical(f64::from(i), &Quartiles::new(s)).width(30)),
        )?;
        Ok(())
    })?;
    Ok(figure.titled("Accuracy over twenty seeds"))
}

fn surface() -> Result<Figure> {
    use candle_course::plotters::prelude::{ChartBuilder, Color, HSLColor, SurfaceSeries};
    let axis = |n: i32| (-n..=n).map(move |i| f64::from(i) / f64::from(n) * 2.0);
    let loss = |x: f64, z: f64| (x * x + 0.3 * z * z) / 2.0 + 0.25 * (3.0 * x).sin() * (2.0 * z).cos();
    Ok(Figure::draw((560, 420), |area| {
        let mut chart = ChartBuilder::on(area).margin(10).build_cartesian_3d(-2.0..2.0, -0.5..3.0, -2.0..2.0)?;
        chart.configure_axes().draw()?;
        let color = |&height: &f64| HSLColor((0.66 - height / 4.5).clamp(0.0, 0.66), 0.6, 0.5).mix(0.8).filled();
        chart.draw_series(SurfaceSeries::xoz(axis(14), axis(14), loss).style_func(&color))?;
        Ok(())
    })?
    .titled("A loss surface"))
}
