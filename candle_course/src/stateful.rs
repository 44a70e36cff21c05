//! State as named tensors: one protocol for everything that a checkpoint holds.
//!
//! Parameters, optimizers, averages, generators and schedules that follow a metric are
//! [`Stateful`]: what they are at a moment comes out as a [`State`] and goes in again. The state of
//! something made of parts is the states of its parts under their names ([`join`], [`load_parts`]);
//! what comes in is compared whole ([`compare`]) before anything changes.

use std::collections::BTreeMap;

use candle_core::{DType, Tensor};

use crate::error::{Context, Error, Result};

/// Tensors by name: what something is at a moment.
pub type State = BTreeMap<String, Tensor>;

/// What has a state that can be saved, and restored to the last bit.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
///
/// let mut parameters = Parameters::new(0, &Device::Cpu);
/// let layer = Linear::new(2, 1, &parameters.at("fc"))?;
/// let healthy = parameters.state()?; // as PyTorch's `state_dict`
/// layer.weight().set(&(layer.weight().as_tensor() * f64::NAN)?)?;
/// parameters.load_state(&healthy)?;
/// assert!(layer.weight().sum_all()?.to_scalar::<f32>()?.is_finite());
/// # Ok::<(), candle_course::Error>(())
/// ```
pub trait Stateful {
    /// The state. Its tensors are copies: they do not change with what they were taken of.
    ///
    /// # Errors
    /// If a tensor cannot be made, or there is no state to save at this moment.
    fn state(&self) -> Result<State>;

    /// Restores the state. Nothing changes if it does not fit.
    ///
    /// # Errors
    /// If a tensor is missing, superfluous or of another shape or kind; the message names all of
    /// them.
    fn load_state(&mut self, state: &State) -> Result<()>;
}

impl<S: Stateful + ?Sized> Stateful for Box<S> {
    fn state(&self) -> Result<State> {
        (**self).state()
    }

    fn load_state(&mut self, state: &State) -> Result<()> {
        (**self).load_state(state)
    }
}

/// What one tensor of a state has to be; for [`compare`].
#[derive(Debug, Clone, PartialEq)]
pub struct Expected {
    shape: Vec<usize>,
    dtype: DType,
    any_float: bool,
    optional: bool,
}

impl Expected {
    /// A tensor of exactly this shape and dtype.
    pub fn new(shape: &[usize], dtype: DType) -> Self {
        Self { shape: shape.to_vec(), dtype, any_float: false, optional: false }
    }

    /// A tensor that can take the place of `tensor`: of its shape, and of any floating-point dtype
    /// if it has one, else of its dtype.
    pub fn like(tensor: &Tensor) -> Self {
        Self { any_float: tensor.dtype().is_float(), ..Self::new(tensor.dims(), tensor.dtype()) }
    }

    /// The tensor may be missing.
    #[must_use]
    pub fn optional(mut self) -> Self {
        self.optional = true;
        self
    }

    /// How `tensor` differs, if it does.
    fn difference(&self, tensor: &Tensor) -> Option<String> {
        if tensor.dims() != self.shape {
            return Some(format!("has shape {:?}, expected {:?}", tensor.dims(), self.shape));
        }
        match tensor.dtype() {
            dtype if dtype == self.dtype || self.any_float && dtype.is_float() => None,
            dtype if self.any_float => Some(format!("is {}, expected a floating-point dtype", dtype.as_str())),
            dtype => Some(format!("is {}, expected {}", dtype.as_str(), self.dtype.as_str())),
        }
    }
}

/// Compares a state with what it has to be.
///
/// # Errors
/// `what`, and then the name of every tensor that is missing, superfluous or different.
///
/// # Examples
///
/// ```
/// use candle_course::prelude::*;
/// use candle_course::stateful::{Expected, compare};
///
/// let state = State::from([("step".to_owned(), Tensor::new(3i64, &Device::Cpu)?)]);
/// compare("the counter does not fit", &state, [("step", Expected::new(&[], DType::I64))])?;
/// let error = compare("the counter does not fit", &state, [("count", Expected::new(&[], DType::I64))]);
/// assert_eq!(error.unwrap_err().to_string(), "the counter does not fit: `count` is missing; `step` is superfluous");
/// # Ok::<(), candle_course::Error>(())
/// ```
pub fn compare<N: Into<String>>(
    what: &str,
    state: &State,
    expected: impl IntoIterator<Item = (N, Expected)>,
) -> Result<()> {
    compare_named(what, state, expected.into_iter().map(|(name, expected)| (name.into(), expected)).collect())
}

fn compare_named(what: &str, state: &State, expected: Vec<(String, Expected)>) -> Result<()> {
    let expected: BTreeMap<String, Expected> = expected.into_iter().collect();
    let of_expected = expected.iter().filter_map(|(name, expected)| {
        let difference = match state.get(name) {
            Some(tensor) => expected.difference(tensor)?,
            None if expected.optional => return None,
            None => "is missing".to_owned(),
        };
        Some(format!("`{name}` {difference}"))
    });
    let superfluous = state.keys().filter(|name| !expected.contains_key(*name));
    report(what, of_expected.chain(superfluous.map(|name| format!("`{name}` is superfluous"))))
}

/// A floating-point tensor in another floating-point dtype.
///
/// # Errors
/// If a finite number would become infinite.
pub(crate) fn in_dtype(name: &str, tensor: &Tensor, dtype: DType) -> Result<Tensor> {
    if tensor.dtype() != dtype && tensor.elem_count() > 0 {
        // The largest of the finite ones: an infinity or NaN that is there already hides nothing.
        let size = tensor.abs()?.flatten_all()?;
        let largest = size.lt(f64::INFINITY)?.where_cond(&size, &size.zeros_like()?)?.max(0)?;
        let wide = |scalar: &Tensor| Ok::<f64, Error>(scalar.to_dtype(DType::F64)?.to_scalar::<f64>()?);
        let before = wide(&largest)?;
        if !wide(&largest.to_dtype(dtype)?)?.is_finite() {
            return Err(Error::argument(
                "dtype",
                format!("one that can hold {before}, the largest finite number of `{name}`"),
                dtype.as_str(),
            )
            .hint("bf16 has the range of f32"));
        }
    }
    Ok(tensor.to_dtype(dtype)?)
}

fn report(what: &str, differences: impl Iterator<Item = String>) -> Result<()> {
    let differences: Vec<String> = differences.collect();
    if differences.is_empty() { Ok(()) } else { Err(Error::checkpoint(format!("{what}: {}", differences.join("; ")))) }
}

/// `state` as that of a part: tensor `t` becomes `{part}.t`.
pub fn nest(part: &str, state: State) -> State {
    state.into_iter().map(|(name, tensor)| (format!("{part}.{name}"), tensor)).collect()
}

/// The state of a part, out of the whole: tensor `{part}.t` becomes `t`; the others are left out.
pub fn part(state: &State, part: &str) -> State {
    let inner = |name: &str| Some(name.strip_prefix(part)?.strip_prefix('.')?.to_owned());
    state.iter().filter_map(|(name, tensor)| Some((inner(name)?, tensor.clone()))).collect()
}

/// The states of several parts as one; the parts' names contain no dot.
///
/// # Errors
/// If a part's state cannot be had.
pub fn join<'a>(parts: impl IntoIterator<Item = (String, &'a dyn Stateful)>) -> Result<State> {
    let mut whole = State::new();
    for (name, stateful) in parts {
        let state = stateful.state().with_context(|| format!("the state of `{name}` cannot be saved"))?;
        whole.extend(nest(&name, state));
    }
    Ok(whole)
}

/// Restores several parts from what [`join`] made of them: all, or none.
///
/// # Errors
/// `what`, and why: if a part's state does not fit, or a tensor belongs to no part.
pub fn load_parts<'a>(
    what: &str,
    state: &State,
    parts: impl IntoIterator<Item = (String, &'a mut dyn Stateful)>,
) -> Result<()> {
    let mut parts: Vec<(String, &mut dyn Stateful)> = parts.into_iter().collect();
    let known = |name: &str| name.split_once('.').is_some_and(|(part, _)| parts.iter().any(|(own, _)| own == part));
    let superfluous = state.keys().filter(|name| !known(name)).map(|name| format!("`{name}` is superfluous"));
    report(what, superfluous)?;
    let before = parts.iter().map(|(_, part)| part.state()).collect::<Result<Vec<_>>>()?;
    for index in 0..parts.len() {
        let (name, stateful) = &mut parts[index];
        let loaded = stateful.load_state(&part(state, name)).with_context(|| format!("{what}: `{name}`"));
        if loaded.is_err() {
            for ((_, stateful), before) in parts.iter_mut().zip(&before).take(index) {
                // What this very part gave fits it.
                let _ = stateful.load_state(before);
            }
            return loaded;
        }
    }
    Ok(())
}

/// For what has no state: refuses one.
///
/// # Errors
/// `what`, and the names of the tensors, if there are any.
pub fn none(what: &str, state: &State) -> Result<()> {
    compare::<String>(what, state, [])
}

/// What everything that is [`Stateful`] has to keep to; for the tests of all of them.
#[cfg(test)]
pub(crate) mod contract {
    use candle_core::Device;

    use super::*;

    pub(crate) fn bits(state: &State) -> Vec<(String, Vec<u64>)> {
        let values = |tensor: &Tensor| tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>();
        let bits = |tensor: &Tensor| values(tensor).unwrap().into_iter().map(f64::to_bits).collect();
        state.iter().map(|(name, tensor)| (name.clone(), bits(tensor))).collect()
    }

    /// `make` gives always the same; `advance` changes its state.
    pub(crate) fn keeps<S: Stateful>(what: &str, make: impl Fn() -> S, advance: impl Fn(&mut S)) {
        let mut whole = make();
        (0..3).for_each(|_| advance(&mut whole));
        let saved = whole.state().unwrap();
        let before = bits(&saved);
        let mut resumed = make();
        assert_ne!(bits(&resumed.state().unwrap()), before, "{what}: `advance` changes nothing");
        resumed.load_state(&saved).unwrap();
        assert_eq!(bits(&resumed.state().unwrap()), before, "{what}: another state came back");
        for _ in 0..3 {
            advance(&mut whole);
            advance(&mut resumed);
            assert_eq!(
                bits(&resumed.state().unwrap()),
                bits(&whole.state().unwrap()),
                "{what}: it goes on differently"
            );
        }
        assert_eq!(bits(&saved), before, "{what}: the saved state changed afterwards");

        let mut refuses = |state: &State, name: &str, how: &str| {
            let here = bits(&resumed.state().unwrap());
            let text = resumed.load_state(state).expect_err(&format!("{what}: `{name}` {how}")).to_string();
            // A part names its own tensors without its prefix.
            let named = name.match_indices('.').map(|(dot, _)| &name[dot + 1..]).chain([name]);
            let named = named.into_iter().any(|name| text.contains(&format!("`{name}` {how}")));
            assert!(named, "{what}: `{name}` {how}, but the message is {text}");
            assert_eq!(bits(&resumed.state().unwrap()), here, "{what}: a refused state changed something");
        };
        for (name, tensor) in &saved {
            let with = |tensor: Tensor| {
                let mut other = saved.clone();
                other.insert(name.clone(), tensor);
                other
            };
            let mut missing = saved.clone();
            missing.remove(name);
            refuses(&missing, name, "is missing");
            refuses(
                &with(Tensor::zeros((7, 1, 3), tensor.dtype(), &Device::Cpu).unwrap()),
                name,
                "has shape [7, 1, 3]",
            );
            refuses(&with(tensor.to_dtype(DType::U32).unwrap()), name, "is u32");
        }
        let mut more = saved.clone();
        more.insert("surplus".to_owned(), Tensor::zeros(1, DType::F32, &Device::Cpu).unwrap());
        refuses(&more, "surplus", "is superfluous");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[derive(Debug, PartialEq)]
    struct Counter(i64);

    impl Stateful for Counter {
        fn state(&self) -> Result<State> {
            Ok(State::from([("count".to_owned(), Tensor::new(self.0, &Device::Cpu)?)]))
        }

        fn load_state(&mut self, state: &State) -> Result<()> {
            compare("not a counter", state, [("count", Expected::new(&[], DType::I64))])?;
            self.0 = state["count"].to_scalar()?;
            Ok(())
        }
    }

    fn tensor(shape: &[usize], dtype: DType) -> Tensor {
        Tensor::zeros(shape, dtype, &Device::Cpu).unwrap()
    }

    #[test]
    fn a_comparison_names_all_that_differs() {
        let state = State::from([
            ("a".to_owned(), tensor(&[2, 3], DType::F32)),
            ("b".to_owned(), tensor(&[2], DType::F64)),
            ("c".to_owned(), tensor(&[], DType::U8)),
            ("d".to_owned(), tensor(&[], DType::U8)),
            ("z".to_owned(), tensor(&[], DType::U8)),
        ]);
        let expected = [
            ("a", Expected::like(&tensor(&[3, 2], DType::F32))),
            ("b", Expected::like(&tensor(&[2], DType::BF16))),
            ("c", Expected::like(&tensor(&[], DType::F32))),
            ("d", Expected::new(&[], DType::I64)),
            ("e", Expected::new(&[], DType::I64)),
            ("f", Expected::new(&[], DType::I64).optional()),
        ];
        let text = compare("the model differs", &state, expected).unwrap_err().to_string();
        assert_eq!(
            text,
            "the model differs: `a` has shape [2, 3], expected [3, 2]; `c` is u8, expected a floating-point dtype; \
             `d` is u8, expected i64; `e` is missing; `z` is superfluous"
        );
        assert!(none("no state", &State::new()).is_ok());
    }

    #[test]
    fn parts_are_restored_all_or_none() {
        let mut left: Box<dyn Stateful> = Box::new(Counter(1));
        let mut right = Counter(2);
        let saved = join([("left".to_owned(), &*left), ("right".to_owned(), &right as &dyn Stateful)]).unwrap();
        assert_eq!(saved.keys().collect::<Vec<_>>(), ["left.count", "right.count"]);
        let (mut first, mut second) = (Counter(10), Counter(20));
        let mut load = |state: &State| {
            let parts: [(String, &mut dyn Stateful); 2] =
                [("left".to_owned(), &mut first), ("right".to_owned(), &mut second)];
            let result = load_parts("cannot restore", state, parts).map_err(|error| error.to_string());
            (result, first.0, second.0)
        };
        let mut damaged = saved.clone();
        damaged.remove("right.count");
        let (result, first, second) = load(&damaged);
        assert!(
            result.unwrap_err().contains("cannot restore: `right`\n  caused by: not a counter: `count` is missing")
        );
        assert_eq!((first, second), (10, 20));
        damaged.insert("middle.count".to_owned(), tensor(&[], DType::I64));
        assert_eq!(load(&damaged).0.unwrap_err(), "cannot restore: `middle.count` is superfluous");
        assert_eq!(load(&saved), (Ok(()), 1, 2));
        left.load_state(&part(&saved, "right")).unwrap();
        right.load_state(&part(&saved, "left")).unwrap();
        assert_eq!((part(&left.state().unwrap(), "x").len(), right), (0, Counter(1)));
    }
}
