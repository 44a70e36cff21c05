//! How time and memory grow, for `scripts/bench growth`: `growth CASE SIZE SECONDS` prints the milliseconds of one
//! call (the median of as many as take about that long, at least three) and the megabytes that the process had at
//! most. A case of its own process each, since the peak of its memory is asked of the system.

use std::time::Instant;

use candle_course::prelude::*;

mod process;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Call = Box<dyn FnMut() -> Result<()>>;

fn values(shape: &[usize]) -> Result<Tensor> {
    let count: usize = shape.iter().product();
    Ok(Tensor::from_vec((0..count).map(|i| (i as f32 * 12.9898).sin()).collect::<Vec<_>>(), shape, &Device::Cpu)?)
}

fn labels(shape: &[usize], classes: usize) -> Result<Tensor> {
    let count: usize = shape.iter().product();
    let labels = (0..count).map(|i| (i * 7 % classes) as u32).collect::<Vec<_>>();
    Ok(Tensor::from_vec(labels, shape, &Device::Cpu)?)
}

/// Steps of SGD by cross-entropy.
fn training(model: impl Model + 'static, parameters: Parameters, inputs: Tensor, targets: Tensor) -> Result<Call> {
    let mut optimizer = Sgd::builder(&parameters).momentum(0.9).build()?;
    let batch = Batch { inputs, targets, indices: Vec::new() };
    Ok(Box::new(move || {
        let loss = train_step(&model, &CrossEntropy::default(), &mut optimizer, &batch, 1e-3)?;
        assert!(loss.to_scalar::<f32>()?.is_finite());
        Ok(())
    }))
}

/// Two convolutions with batch norm and a head on `batch` images of `channels` that are `side` wide.
fn convolutions(batch: usize, channels: usize, side: usize) -> Result<Call> {
    let parameters = Parameters::new(0, &Device::Cpu);
    let mut model = Sequential::new();
    for index in 0..2 {
        let scope = parameters.at(index);
        model = model
            .add(Conv2d::builder(channels, channels, 3).padding(1).build(&scope.at("conv"))?)
            .add(BatchNorm2d::new(channels, &scope.at("norm"))?.with_relu());
    }
    model = model.add(AdaptiveAvgPool2d::new(1)?).add(Flatten).add(Linear::new(channels, 10, &parameters.at("head"))?);
    training(model, parameters, values(&[batch, channels, side, side])?, labels(&[batch], 10)?)
}

/// The mean state of a recurrent layer, and a head. Not the last state: its gradient fades with every step back, and
/// from about 150 steps on it is in subnormal numbers, with which products take ten times as long.
struct Recurrent(Gru, Linear);

impl ModuleT for Recurrent {
    fn forward_t(&self, xs: &Tensor, train: bool) -> candle_core::Result<Tensor> {
        let states = self.0.forward_t(xs, train)?;
        self.1.forward(&states.mean(1)?)
    }
}

fn call(case: &str, size: usize) -> Result<Call> {
    let parameters = Parameters::new(0, &Device::Cpu);
    match case {
        "side" => convolutions(8, 16, size),
        "channels" => convolutions(8, size, 16),
        "batch" => convolutions(size, 16, 16),
        "classes" => {
            let head = Sequential::new().add(Linear::new(256, size, &parameters.at("head"))?);
            training(head, parameters, values(&[64, 256])?, labels(&[64], size)?)
        }
        "length" => {
            let model =
                Recurrent(Gru::new(32, 64, &parameters.at("gru"))?, Linear::new(64, 10, &parameters.at("head"))?);
            training(model, parameters, values(&[16, size, 32])?, labels(&[16], 10)?)
        }
        "set" => {
            let images = TensorDataset::new(values(&[size, 3, 8, 8])?, labels(&[size], 10)?)?;
            let loader = DataLoader::builder(images).batch_size(64).shuffle(1).build()?;
            let mut epochs = 0..;
            Ok(Box::new(move || {
                let mut examples = 0;
                for batch in loader.epoch(epochs.next().unwrap_or(0))? {
                    examples += batch?.len();
                }
                assert_eq!(examples, size);
                Ok(())
            }))
        }
        "confusion" => {
            let (scores, targets) = (values(&[1024, size])?, labels(&[1024], size)?);
            Ok(Box::new(move || {
                let mut matrix = ConfusionMatrix::new(size)?;
                matrix.update(&scores, &targets)?;
                assert!(matrix.accuracy()?.is_finite());
                Ok(())
            }))
        }
        "lovasz" | "dice" => {
            let logits = Var::from_tensor(&values(&[size, 4, 32, 32])?)?;
            let targets = labels(&[size, 32, 32], 4)?;
            let loss: Box<dyn Loss> =
                if case == "dice" { Box::new(Dice::default()) } else { Box::new(LovaszSoftmax::default()) };
            Ok(Box::new(move || {
                loss.forward(&logits, &targets)?.backward()?;
                Ok(())
            }))
        }
        "auc" => {
            let (scores, targets) = (values(&[size])?, labels(&[size], 2)?);
            Ok(Box::new(move || {
                assert!(roc_auc(&scores, &targets)?.is_finite());
                Ok(())
            }))
        }
        _ => Err(Error::argument("case", "one that scripts/bench growth names", case)),
    }
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let [case, size, seconds] = &arguments[..] else {
        return Err(Error::argument("arguments", "CASE SIZE SECONDS", arguments.join(" ")));
    };
    let (mut call, limit): (_, f64) = (call(case, size.parse()?)?, seconds.parse()?);
    call()?;
    let (start, mut times) = (Instant::now(), Vec::new());
    while times.len() < 3 || start.elapsed().as_secs_f64() < limit {
        let begin = Instant::now();
        call()?;
        times.push(begin.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    println!("{} {}", times[times.len() / 2], process::peak_memory()?);
    Ok(())
}
