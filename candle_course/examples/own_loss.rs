//! A loss of one's own: cross-entropy with a penalty on confidence (Pereyra et al. 2017, "Regularizing
//! Neural Networks by Penalizing Confident Output Distributions"), `CE(p, y) − β H(p)`.

use candle_course::prelude::*;

struct ConfidencePenalty {
    beta: f64,
    cross_entropy: CrossEntropy,
}

impl Loss for ConfidencePenalty {
    // Tensor operations alone: candle finds the gradient.
    fn forward(&self, predictions: &Tensor, targets: &Tensor) -> Result<Tensor> {
        let log_probabilities = ops::log_softmax(predictions, 1)?; // [N, C]
        let entropy = (log_probabilities.exp()? * &log_probabilities)?.sum(1)?.neg()?.mean_all()?;
        Ok((self.cross_entropy.forward(predictions, targets)? - (entropy * self.beta)?)?)
    }

    // A mean over examples: so batches can be accumulated, and an epoch's loss is exact.
    fn mean_of(&self, _predictions: &Tensor, targets: &Tensor) -> Result<MeanOf> {
        Ok(targets.dim(0)?.into())
    }
}

fn main() -> Result<()> {
    let mnist = Mnist::builder().limit(3_000, 1_000).load()?;
    let train = DataLoader::builder(mnist.train()).batch_size(50).shuffle(1).build()?;
    let test = DataLoader::builder(mnist.test()).batch_size(500).build()?;
    for beta in [0.0, 0.5] {
        let parameters = Parameters::new(2, &Device::Cpu);
        let model = Sequential::new()
            .add(Flatten)
            .add(Linear::new(784, 128, &parameters.at("fc1"))?)
            .add(Activation::Relu)
            .add(Linear::new(128, 10, &parameters.at("fc2"))?);
        let loss = ConfidencePenalty { beta, cross_entropy: CrossEntropy::default() };
        let optimizer = AdamW::builder(&parameters).build()?;
        let mut trainer = Trainer::builder(model, &parameters, loss, optimizer)
            .epochs(5)
            .learning_rate(0.001)
            .metric(Accuracy::default())
            .quiet()
            .build()?;
        trainer.fit(&train, Some(&test))?;
        println!("β = {beta}\n{}", trainer.history());
    }
    Ok(())
}
