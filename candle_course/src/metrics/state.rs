//! The states of metrics: named counts and sums that are saved, restored and added.

use candle_core::{DType, Device, Tensor};

use crate::error::{Error, Result};
use crate::stateful::{Expected, State, Stateful};

/// A number, or numbers, of a metric's state.
pub(crate) trait Part: Sized {
    /// As a tensor of the state.
    fn tensor(&self) -> Result<Tensor>;

    /// What takes the place of this part.
    fn expected(&self) -> Expected;

    /// Out of a tensor that is as expected.
    fn read(tensor: &Tensor) -> Result<Self>;

    /// Adds another of the same length.
    fn add(&mut self, other: &Self);
}

/// Counts that a checkpoint holds as i64.
fn counts(values: &[i64]) -> Result<Vec<u64>> {
    let count = |&value: &i64| {
        u64::try_from(value).map_err(|_| Error::checkpoint(format!("a count of {value} in the state of a metric")))
    };
    values.iter().map(count).collect()
}

impl Part for u64 {
    fn tensor(&self) -> Result<Tensor> {
        Ok(Tensor::new(*self as i64, &Device::Cpu)?)
    }

    fn expected(&self) -> Expected {
        Expected::new(&[], DType::I64)
    }

    fn read(tensor: &Tensor) -> Result<Self> {
        Ok(counts(&[tensor.to_scalar()?])?[0])
    }

    fn add(&mut self, other: &Self) {
        *self += other;
    }
}

impl Part for f64 {
    fn tensor(&self) -> Result<Tensor> {
        Ok(Tensor::new(*self, &Device::Cpu)?)
    }

    fn expected(&self) -> Expected {
        Expected::new(&[], DType::F64)
    }

    fn read(tensor: &Tensor) -> Result<Self> {
        Ok(tensor.to_scalar()?)
    }

    fn add(&mut self, other: &Self) {
        *self += other;
    }
}

impl Part for Vec<u64> {
    fn tensor(&self) -> Result<Tensor> {
        Ok(Tensor::from_vec(self.iter().map(|&count| count as i64).collect(), self.len(), &Device::Cpu)?)
    }

    fn expected(&self) -> Expected {
        Expected::new(&[self.len()], DType::I64)
    }

    fn read(tensor: &Tensor) -> Result<Self> {
        counts(&tensor.to_vec1()?)
    }

    fn add(&mut self, other: &Self) {
        self.iter_mut().zip(other).for_each(|(sum, more)| *sum += more);
    }
}

impl Part for Vec<f64> {
    fn tensor(&self) -> Result<Tensor> {
        Ok(Tensor::new(&self[..], &Device::Cpu)?)
    }

    fn expected(&self) -> Expected {
        Expected::new(&[self.len()], DType::F64)
    }

    fn read(tensor: &Tensor) -> Result<Self> {
        Ok(tensor.to_vec1()?)
    }

    fn add(&mut self, other: &Self) {
        self.iter_mut().zip(other).for_each(|(sum, more)| *sum += more);
    }
}

/// Declares what a metric keeps: [`Stateful`](crate::stateful::Stateful) follows from the fields named,
/// whose tensors have their names, and with `add` the sum of two. What is not named is an option.
macro_rules! keeps {
    ($name:ident: $($field:ident),+) => {
        impl $crate::stateful::Stateful for $name {
            fn state(&self) -> $crate::error::Result<$crate::stateful::State> {
                use $crate::metrics::state::Part;
                Ok([$((stringify!($field).to_owned(), Part::tensor(&self.$field)?)),+].into())
            }

            fn load_state(&mut self, state: &$crate::stateful::State) -> $crate::error::Result<()> {
                use $crate::metrics::state::Part;
                let expected = [$((stringify!($field), Part::expected(&self.$field))),+];
                $crate::stateful::compare("this is not the state of such a metric", state, expected)?;
                // All are read before one is set: an error changes nothing.
                $(let $field = Part::read(&state[stringify!($field)])?;)+
                $(self.$field = $field;)+
                Ok(())
            }
        }
    };
    ($name:ident adds $($field:ident),+) => {
        $crate::metrics::state::keeps!($name: $($field),+);

        impl $name {
            fn add(&mut self, other: &Self) {
                $($crate::metrics::state::Part::add(&mut self.$field, &other.$field);)+
            }
        }
    };
}
pub(crate) use keeps;

/// A metric whose state is that of one of its fields.
macro_rules! state_of {
    ($name:ident: $field:ident) => {
        impl $crate::stateful::Stateful for $name {
            fn state(&self) -> $crate::error::Result<$crate::stateful::State> {
                self.$field.state()
            }

            fn load_state(&mut self, state: &$crate::stateful::State) -> $crate::error::Result<()> {
                self.$field.load_state(state)
            }
        }
    };
}
pub(crate) use state_of;

/// What a metric `like` another has seen, out of its state: to be added.
pub(crate) fn another<M: Stateful + Clone>(like: &M, state: &State) -> Result<M> {
    let mut other = like.clone();
    other.load_state(state)?;
    Ok(other)
}
