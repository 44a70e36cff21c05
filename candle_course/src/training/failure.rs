//! What callbacks hear of a training that fails.

use crate::data::DataLoader;
use crate::error::{Error, Result};
use crate::training::{Callback, Trainer};

impl Trainer {
    /// A training that callbacks hear begin, and end: in good order or by an error.
    pub(super) fn run(
        &mut self,
        train: &DataLoader,
        validation: Option<&DataLoader>,
        callbacks: &mut [&mut dyn Callback],
    ) -> Result<()> {
        self.start(train, validation)?;
        self.epochs_left(train, validation, callbacks).inspect_err(|error| self.failed(callbacks, error))
    }

    /// Tells every callback, whatever the others make of it: the first error is the one that counts.
    pub(super) fn failed(&mut self, callbacks: &mut [&mut dyn Callback], error: &Error) {
        for callback in callbacks.iter_mut() {
            if let Err(another) = callback.fit_failed(self, error) {
                self.note(format!("callback `{}` failed at the failed training's end: {another}", callback.name()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::training::Flow;
    use crate::training::trainer_tests::{FailsAt, loaders, trainer};

    struct Hears(Arc<Mutex<Vec<String>>>);

    impl Callback for Hears {
        fn name(&self) -> &str {
            "hears"
        }
        fn fit_end(&mut self, _: &mut Trainer) -> Result<Flow> {
            self.0.lock().unwrap().push("end".into());
            Ok(Flow::Continue)
        }
        fn fit_failed(&mut self, trainer: &mut Trainer, error: &Error) -> Result<()> {
            self.0.lock().unwrap().push(format!("failed after step {}: {error}", trainer.state().step));
            Err(Error::training("and this, too"))
        }
    }

    #[test]
    fn every_callback_hears_of_a_failure_and_the_first_error_is_the_one_given() {
        let (train, validation) = loaders();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let hears = || Hears(heard.clone());
        let builder = trainer(3).0.epochs(3).learning_rate(0.1).callback(hears()).callback(FailsAt(6));
        let mut trainer = builder.callback(hears()).quiet().build().unwrap();
        let error = trainer.fit(&train, Some(&validation)).unwrap_err().to_string();
        assert!(error.contains("callback `fails` failed") && error.contains("the disk is full"), "{error}");
        let told = format!("failed after step 6: {error}");
        assert_eq!(*heard.lock().unwrap(), [told.clone(), told]);
        assert!(trainer.history().notes()[0].contains("and this, too"), "{:?}", trainer.history().notes());
        // The epoch can be gone on with, and its end is heard.
        trainer.fit(&train, Some(&validation)).unwrap();
        assert_eq!(heard.lock().unwrap()[2..], ["end", "end"]);
    }
}
