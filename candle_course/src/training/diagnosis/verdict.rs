//! Over- and underfitting, told from a history.

use std::fmt;

use crate::error::{Error, Result};
use crate::language::{chosen, label, told};
use crate::plot::compact;
use crate::text::say;
use crate::training::History;

/// How a model fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fit {
    /// Training and validation loss are low and close, and have settled.
    Good,
    /// Both losses are still falling: it is too early to tell.
    StillLearning,
    /// The training loss has settled close to where it began.
    Underfitting,
    /// The validation loss rises, or stays behind, while the training loss falls.
    Overfitting,
    /// The training loss has risen, or a loss is no longer a number.
    Diverging,
}

impl fmt::Display for Fit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Good => chosen("good fit", "bom ajuste"),
            Self::StillLearning => chosen("still learning", "ainda aprendendo"),
            Self::Underfitting => "underfitting",
            Self::Overfitting => "overfitting",
            Self::Diverging => chosen("diverging", "divergindo"),
        })
    }
}

/// What a [`History`] tells, with the evidence and what to try.
///
/// The rules, in this order; T is the training loss, V the validation loss, T₀ the loss of the
/// first step, before anything was learnt, *end* the last epoch:
///
/// 1. *diverging*: T or V of any epoch is NaN or infinite; or T at the end exceeds T₀, or 1.5 times
///    its own minimum;
/// 2. *overfitting*: V has risen by more than 5 % of T₀ above its minimum while T fell since, or V
///    exceeds T by more than a quarter of T₀ at the end;
/// 3. *still learning*: T and V both fell by more than 3 % of T₀ over the last quarter of the epochs
///    (at least one);
/// 4. *underfitting*: T at the end exceeds 60 % of T₀;
/// 5. *good fit* otherwise.
///
/// A loss of which T₀ or any epoch is not above 0 (a learnt weighting of tasks, a log-likelihood)
/// has no level to take shares of. There the measure is S, what T has fallen by from T₀ to its
/// minimum, at least a tenth of |T₀|, in the place of T₀; rule 1 asks whether T at the end exceeds
/// its minimum by half of S, rule 4 whether it has fallen by less than 40 % of S.
///
/// Rules of thumb: a loss that noise keeps high (60 % of T₀ may be the best there is) looks like
/// underfitting to them, and T is that of training mode, which dropout raises. They ask the
/// questions; the answer is yours.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    fit: Fit,
    evidence: Vec<String>,
    advice: &'static str,
}

impl Verdict {
    /// How the model fits.
    pub fn fit(&self) -> Fit {
        self.fit
    }

    /// What it was told by.
    pub fn evidence(&self) -> &[String] {
        &self.evidence
    }

    /// What to try.
    pub fn advice(&self) -> &str {
        self.advice
    }

    /// What evcxr calls for a cell that ends with a verdict.
    pub fn evcxr_display(&self) {
        say(self);
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", told!("verdict: {}", "veredito: {}", self.fit))?;
        self.evidence.iter().try_for_each(|evidence| writeln!(f, "- {evidence}"))?;
        write!(f, "{}", told!("try: {}", "tente: {}", self.advice))
    }
}

impl History {
    /// Over- or underfitting, in words with the evidence; see [`Verdict`] for the rules.
    ///
    /// # Errors
    /// If there are fewer than three epochs, or no validation loss.
    pub fn verdict(&self) -> Result<Verdict> {
        let train = self.values("train_loss")?;
        let validation = self.values("validation_loss")?;
        let epochs = train.len();
        if epochs < 3 {
            return Err(Error::undefined(format!("a verdict after {epochs} epochs; three are the least")));
        }
        if let Some(verdict) = self.lost() {
            return Ok(verdict);
        }
        let start = self.step_losses().first().copied().unwrap_or(train[0]);
        let best = self.best("validation_loss")?.epoch;
        // Of a history that was read, epochs may be numbered in any way.
        let best = self.epochs().iter().position(|record| record.epoch == best).unwrap_or(0);
        let (train_end, validation_end) = (train[epochs - 1], validation[epochs - 1]);
        let lowest = train.iter().copied().fold(f64::INFINITY, f64::min);
        let recent = (epochs / 4).max(1);
        let fell = |values: &[f64]| values[epochs - 1 - recent] - values[epochs - 1];

        let begun = told!("the first step's loss was {}", "a perda do primeiro passo foi {}", compact(start));
        let ended = told!(
            "in the last epoch the training loss is {}, the validation loss {}",
            "na última época a perda de treino é {}; a de validação, {}",
            compact(train_end),
            compact(validation_end)
        );
        let risen = validation_end - validation[best];
        let above_zero = start > 0.0 && train.iter().chain(&validation).all(|&loss| loss > 0.0);
        let measure = if above_zero { start } else { (start - lowest).max(0.1 * start.abs()) };
        let rose = train_end - lowest > 0.5 * if above_zero { lowest } else { measure };
        let settled_high = if above_zero { train_end > 0.6 * start } else { start - train_end < 0.4 * measure };
        let left = match above_zero {
            true => told!("{} of the first loss is left", "restam {} da primeira perda", percent(train_end / start)),
            false => told!("the training loss fell by {}", "a perda de treino caiu {}", compact(start - train_end)),
        };
        let gap = match above_zero {
            true => told!(
                "the gap is {} of the first loss",
                "a distância é {} da primeira perda",
                percent((validation_end - train_end) / start)
            ),
            false => told!("the gap is {}", "a distância é {}", compact(validation_end - train_end)),
        };
        let (fit, evidence, advice) = if train_end > start || rose {
            let from = told!(
                "the training loss rose to {} from its lowest, {}",
                "a perda de treino subiu para {} a partir da menor, {}",
                compact(train_end),
                compact(lowest)
            );
            (Fit::Diverging, vec![begun, from], chosen(STEADIER.0, STEADIER.1))
        } else if (risen > 0.05 * measure && train_end < train[best]) || validation_end - train_end > 0.25 * measure {
            let mut evidence = vec![ended];
            if risen > 0.0 {
                evidence.push(told!(
                    "the validation loss was lowest in epoch {} ({}) and has risen by {} since, while the training loss went from {} to {}",
                    "a perda de validação foi a menor na época {} ({}) e subiu {} desde então, enquanto a de treino foi de {} a {}",
                    self.epochs()[best].epoch,
                    compact(validation[best]),
                    compact(risen),
                    compact(train[best]),
                    compact(train_end)
                ));
            }
            evidence.push(gap);
            (
                Fit::Overfitting,
                evidence,
                chosen(
                    "more data or augmentation, dropout, weight decay, label smoothing, a smaller model, early stopping",
                    "mais dados ou data augmentation, dropout, weight decay, label smoothing, um modelo menor, early stopping",
                ),
            )
        } else if fell(&train) > 0.03 * measure && fell(&validation) > 0.03 * measure {
            let over = told!(
                "over the last {} epochs the training loss fell by {}, the validation loss by {}",
                "nas últimas {} épocas a perda de treino caiu {}; a de validação, {}",
                recent,
                compact(fell(&train)),
                compact(fell(&validation))
            );
            (
                Fit::StillLearning,
                vec![ended, over],
                chosen("more epochs, or a higher learning rate", "mais épocas, ou uma taxa de aprendizado maior"),
            )
        } else if settled_high {
            let left = told!("{}, and it no longer falls", "{}, e ela não cai mais", left);
            (
                Fit::Underfitting,
                vec![begun, ended, left],
                chosen(
                    "a larger model, a better learning rate, less regularisation, better inputs",
                    "um modelo maior, uma taxa de aprendizado melhor, menos regularização, entradas melhores",
                ),
            )
        } else {
            (
                Fit::Good,
                vec![begun, ended, left, gap],
                chosen(
                    "what there is: evaluate it on the test set, once",
                    "o que você tem: avalie no conjunto de teste, uma vez",
                ),
            )
        };
        Ok(Verdict { fit, evidence, advice })
    }
}

impl History {
    /// The verdict on losses of which one is no number, if it is so.
    fn lost(&self) -> Option<Verdict> {
        let bad = |loss: f64| !loss.is_finite();
        let (record, loss, which) = self.epochs().iter().find_map(|record| {
            let validation = record.validation_loss.filter(|&loss| bad(loss)).map(|loss| (record, loss, "validation"));
            bad(record.train_loss).then_some((record, record.train_loss, "training")).or(validation)
        })?;
        let mut evidence = vec![told!(
            "the {} loss of epoch {} is {}",
            "a perda de {} da época {} é {}",
            match which {
                "validation" => label("validation"),
                _ => chosen("training", "treino"),
            },
            record.epoch,
            loss
        )];
        let mut advice = chosen(STEADIER.0, STEADIER.1);
        if which == "validation" {
            evidence.push(told!(
                "the training loss of that epoch is {}",
                "a perda de treino dessa época é {}",
                compact(record.train_loss)
            ));
            advice = chosen(
                "looking for NaN or infinity in the validation data; a lower learning rate, a warm-up, gradient clipping",
                "procurar NaN ou infinito nos dados de validação; uma taxa de aprendizado menor, um warm-up, gradient clipping",
            );
        }
        Some(Verdict { fit: Fit::Diverging, evidence, advice })
    }
}

const STEADIER: (&str, &str) = (
    "a lower learning rate, a warm-up, gradient clipping",
    "uma taxa de aprendizado menor, um warm-up, gradient clipping",
);

fn percent(share: f64) -> String {
    format!("{:.0} %", 100.0 * share)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::training::EpochRecord;

    fn history(train: &[f64], validation: &[f64]) -> History {
        from(2.3, train, validation)
    }

    fn from(start: f64, train: &[f64], validation: &[f64]) -> History {
        let mut history = History::default();
        for (epoch, (&train_loss, &validation_loss)) in train.iter().zip(validation).enumerate() {
            history.note_step(epoch + 1, 0.1, 1);
            let record = EpochRecord {
                epoch: epoch + 1,
                step: epoch + 1,
                train_loss,
                validation_loss: Some(validation_loss),
                metrics: vec![],
                train_metrics: vec![],
                learning_rate: 0.1,
                seconds: 0.0,
                train_seconds: 0.0,
                examples: 1,
                times: Default::default(),
            };
            history.record_steps(|_| Ok(if epoch == 0 { start } else { train_loss })).unwrap();
            history.push(record);
        }
        history
    }

    fn regimes() -> Vec<(Fit, Vec<f64>, Vec<f64>)> {
        vec![
            (Fit::Good, vec![1.0, 0.5, 0.35, 0.3, 0.28], vec![0.9, 0.5, 0.4, 0.37, 0.36]),
            (Fit::StillLearning, vec![2.0, 1.6, 1.3, 1.1], vec![1.9, 1.5, 1.25, 1.05]),
            (Fit::Underfitting, vec![2.1, 2.0, 1.98, 1.97, 1.97], vec![2.1, 2.01, 1.99, 1.98, 1.98]),
            (Fit::Overfitting, vec![1.5, 0.8, 0.3, 0.1, 0.02], vec![1.4, 1.0, 0.9, 1.1, 1.4]),
            (Fit::Overfitting, vec![1.5, 0.8, 0.3, 0.1, 0.02], vec![1.6, 1.3, 1.1, 1.05, 1.0]),
            (Fit::Diverging, vec![1.5, 0.8, 1.4, 1.6, 2.0], vec![1.4, 1.0, 1.5, 1.7, 2.1]),
            (Fit::Diverging, vec![2.4, 2.6, 3.1], vec![2.4, 2.6, 3.1]),
        ]
    }

    #[test]
    fn the_regimes_are_told_apart() {
        for (fit, train, validation) in regimes() {
            let verdict = history(&train, &validation).verdict().unwrap();
            assert_eq!(verdict.fit(), fit, "{verdict}");
            assert!(!verdict.evidence().is_empty() && !verdict.advice().is_empty());
        }
        let told = history(&[1.5, 0.8, 0.3, 0.1], &[1.4, 0.9, 1.1, 1.4]).verdict().unwrap().to_string();
        assert!(told.contains("lowest in epoch 2 (0.9) and has risen by 0.5 since"), "{told}");
    }

    #[test]
    fn the_regimes_of_losses_that_fall_below_zero() {
        for shift in [-1.0, -2.0, -2.3, -4.0, -20.0] {
            for (fit, train, validation) in regimes() {
                // That little was learnt cannot be told where there is no level.
                if fit == Fit::Underfitting && shift < -1.0 {
                    continue;
                }
                let shifted = |values: &[f64]| values.iter().map(|value| value + shift).collect::<Vec<_>>();
                let verdict = from(2.3 + shift, &shifted(&train), &shifted(&validation)).verdict().unwrap();
                assert_eq!(verdict.fit(), fit, "{shift}: {train:?} {validation:?}: {verdict}");
                assert!(!verdict.to_string().contains("-0 %"), "{verdict}");
            }
        }
        // A loss that stays where it was has not learnt, below 0 either.
        let flat = from(-1.0, &[-1.0, -1.004, -1.002, -1.003], &[-1.0, -1.0, -1.001, -1.0]).verdict().unwrap();
        assert_eq!(flat.fit(), Fit::Underfitting, "{flat}");
    }

    #[test]
    fn a_loss_that_is_no_number_is_a_divergence_of_that_epoch() {
        let falling = [1.0, 0.5, 0.3, 0.28];
        for (fit, train, validation) in [
            ("the validation loss of epoch 3 is NaN", falling, [1.0, 0.5, f64::NAN, f64::NAN]),
            ("the validation loss of epoch 2 is inf", falling, [1.0, f64::INFINITY, 0.4, 0.4]),
            ("the training loss of epoch 4 is NaN", [1.0, 0.5, 0.3, f64::NAN], [1.0, 0.5, 0.4, f64::NAN]),
        ] {
            let verdict = history(&train, &validation).verdict().unwrap();
            assert_eq!(verdict.fit(), Fit::Diverging, "{verdict}");
            assert!(verdict.to_string().contains(fit), "{verdict}");
        }
        let hidden = history(&falling, &[1.0, 0.5, f64::NAN, f64::NAN]).verdict().unwrap();
        assert!(hidden.advice().starts_with("looking for NaN or infinity in the validation data"));
    }

    #[test]
    fn too_little_is_no_verdict() {
        assert!(history(&[1.0, 0.9], &[1.0, 0.9]).verdict().unwrap_err().to_string().contains("three are the least"));
    }
}
