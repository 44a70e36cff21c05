//! Those who listen to a training.

use std::any::Any;

use crate::error::{Error, ErrorKind, Result, contained};
use crate::training::callbacks::Progress;
use crate::training::{Callback, Flow, Training};

/// The callbacks of a trainer, in the order in which they were added.
#[derive(Default)]
pub(crate) struct Callbacks(Vec<Box<dyn Callback>>);

impl Callbacks {
    pub(crate) fn push(&mut self, callback: Box<dyn Callback>) {
        self.0.push(callback);
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &dyn Callback> {
        self.0.iter().map(|callback| &**callback)
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Box<dyn Callback>> {
        self.0.iter_mut()
    }

    pub(crate) fn names(&self) -> Vec<&str> {
        self.iter().map(|callback| callback.name()).collect()
    }

    /// The first of this type.
    pub(crate) fn find<C: Callback>(&mut self) -> Option<&mut C> {
        self.0.iter_mut().find_map(|callback| (&mut **callback as &mut dyn Any).downcast_mut())
    }

    /// Takes those of this type out.
    pub(crate) fn remove<C: Callback>(&mut self) {
        self.0.retain(|callback| !(&**callback as &dyn Any).is::<C>());
    }

    /// Whether progress lines are held back.
    pub(crate) fn mute(&mut self, muted: bool) {
        for callback in &mut self.0 {
            if let Some(progress) = (&mut **callback as &mut dyn Any).downcast_mut::<Progress>() {
                progress.muted = muted;
            }
        }
    }

    /// Every callback hears the event; the first reason to stop counts.
    pub(crate) fn tell(
        &mut self,
        training: &mut Training,
        mut event: impl FnMut(&mut dyn Callback, &mut Training) -> Result<Flow>,
    ) -> Result<Option<String>> {
        self.each(|callback| event(callback, training))
    }

    /// [`Callbacks::tell`], of an event in whose middle the training cannot be asked.
    pub(crate) fn each(&mut self, mut event: impl FnMut(&mut dyn Callback) -> Result<Flow>) -> Result<Option<String>> {
        let mut stop = None;
        for callback in &mut self.0 {
            let flow = contained(ErrorKind::Training, "it", || event(&mut **callback))
                .map_err(|error| error.context(format!("callback `{}` failed", callback.name())))?;
            if let (Flow::Stop(reason), None) = (flow, &stop) {
                stop = Some(reason);
            }
        }
        Ok(stop)
    }

    /// Tells every callback of the failure, whatever the others make of it: the first error is the one
    /// that counts.
    pub(crate) fn failed(&mut self, training: &mut Training, error: &Error) {
        for callback in &mut self.0 {
            if let Err(another) = contained(ErrorKind::Training, "it", || callback.fit_failed(training, error)) {
                training.note(format!("callback `{}` failed at the failed training's end: {another}", callback.name()));
            }
        }
    }
}
