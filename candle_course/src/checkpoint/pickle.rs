//! Just enough of Python's pickle to find the tensors that PyTorch saved. Nothing in it is run.
//!
//! Not candle's reader: that one knows flat dictionaries of floats, drops the rest, and panics on
//! damaged files.

use std::collections::HashMap;

use crate::error::{Error, Result};

/// More values than this are no checkpoint.
const MOST_VALUES: usize = 1 << 22;
const LONGEST_TEXT: usize = 1024;

/// A value, by its place among all.
pub(super) type Id = usize;

/// What a pickle builds, as far as tensors need it.
#[derive(Debug)]
pub(super) enum Value {
    /// Where a tuple begins; never a part of anything.
    Mark,
    /// None, a truth, a float, bytes: nothing that a tensor needs.
    Other,
    Int(i64),
    Text(String),
    /// Module and name of a class or function.
    Global(String),
    /// A tuple, list or set.
    Sequence(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// What a class or function was called with, and the state that it was given afterwards.
    Object {
        callable: Id,
        arguments: Id,
        state: Option<Id>,
    },
    /// A reference to something outside the pickle: a storage.
    Persistent(Id),
}

/// The values of a pickle; a value may be part of several, and of itself.
pub(super) struct Pickle {
    values: Vec<Value>,
    root: Id,
}

impl Pickle {
    pub(super) fn root(&self) -> Id {
        self.root
    }

    pub(super) fn value(&self, id: Id) -> &Value {
        &self.values[id]
    }

    pub(super) fn text(&self, id: Id) -> Option<&str> {
        match self.value(id) {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn global(&self, id: Id) -> Option<&str> {
        match self.value(id) {
            Value::Global(name) => Some(name),
            _ => None,
        }
    }

    pub(super) fn sequence(&self, id: Id) -> Option<&[Id]> {
        match self.value(id) {
            Value::Sequence(parts) => Some(parts),
            _ => None,
        }
    }

    /// Sizes, strides and offsets: whole numbers that are not negative.
    pub(super) fn size(&self, id: Id) -> Option<usize> {
        match *self.value(id) {
            Value::Int(number) => usize::try_from(number).ok(),
            _ => None,
        }
    }

    /// The entries of a dictionary with a text as key, or of the state of an object.
    pub(super) fn entries(&self, id: Id) -> Option<Vec<(&str, Id)>> {
        match self.value(id) {
            Value::Dict(entries) => {
                Some(entries.iter().filter_map(|&(key, value)| Some((self.text(key)?, value))).collect())
            }
            Value::Object { state: Some(state), .. } if matches!(self.value(*state), Value::Dict(_)) => {
                self.entries(*state)
            }
            _ => None,
        }
    }

    /// Reads a pickle.
    ///
    /// # Errors
    /// If it is damaged, or uses what PyTorch's files do not.
    pub(super) fn read(bytes: &[u8]) -> Result<Self> {
        let mut machine = Machine { bytes, place: 0, values: Vec::new(), stack: Vec::new(), memo: HashMap::new() };
        while machine.step()? {}
        let root = machine.pop()?;
        Ok(Self { values: machine.values, root })
    }
}

fn damaged(what: impl std::fmt::Display) -> Error {
    Error::checkpoint(format!("the pickle is damaged, or not PyTorch's: {what}"))
}

/// The stack machine that a pickle is a program of.
struct Machine<'a> {
    bytes: &'a [u8],
    place: usize,
    values: Vec<Value>,
    stack: Vec<Id>,
    memo: HashMap<u32, Id>,
}

impl<'a> Machine<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let rest = &self.bytes[self.place..];
        let taken = rest.get(..count).ok_or_else(|| damaged("it ends too early"))?;
        self.place += count;
        Ok(taken)
    }

    /// A little-endian number of up to 8 bytes.
    fn number(&mut self, bytes: usize) -> Result<u64> {
        Ok(self.take(bytes)?.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)))
    }

    fn line(&mut self) -> Result<String> {
        let rest = &self.bytes[self.place..];
        let length = rest.iter().position(|&byte| byte == b'\n').ok_or_else(|| damaged("a line has no end"))?;
        let line = String::from_utf8_lossy(&rest[..length]).into_owned();
        self.place += length + 1;
        Ok(line)
    }

    fn new_value(&mut self, value: Value) -> Result<Id> {
        if self.values.len() == MOST_VALUES {
            return Err(damaged(format!("it has more than {MOST_VALUES} values")));
        }
        self.values.push(value);
        Ok(self.values.len() - 1)
    }

    fn push(&mut self, value: Value) -> Result<()> {
        let id = self.new_value(value)?;
        self.stack.push(id);
        Ok(())
    }

    fn text(&mut self, length: usize) -> Result<()> {
        let bytes = self.take(length)?;
        // Longer ones are no names.
        if length > LONGEST_TEXT {
            return self.push(Value::Other);
        }
        self.push(Value::Text(String::from_utf8_lossy(bytes).into_owned()))
    }

    fn skip(&mut self, length: usize) -> Result<()> {
        self.take(length)?;
        self.push(Value::Other)
    }

    fn pop(&mut self) -> Result<Id> {
        match self.stack.pop() {
            Some(id) if !matches!(self.values[id], Value::Mark) => Ok(id),
            _ => Err(damaged("a value is missing")),
        }
    }

    fn last(&self) -> Result<Id> {
        self.stack.last().copied().ok_or_else(|| damaged("a value is missing"))
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Id>> {
        let mark = self.stack.iter().rposition(|&id| matches!(self.values[id], Value::Mark));
        let mark = mark.ok_or_else(|| damaged("a mark is missing"))?;
        let popped = self.stack.split_off(mark + 1);
        self.stack.pop();
        Ok(popped)
    }

    fn pop_sequence(&mut self, count: usize) -> Result<()> {
        let mut parts = (0..count).map(|_| self.pop()).collect::<Result<Vec<_>>>()?;
        parts.reverse();
        self.push(Value::Sequence(parts))
    }

    /// Adds to the dictionary on the stack; of a class derived from one, the entries are its state.
    fn set_items(&mut self, items: &[Id]) -> Result<()> {
        let mut target = self.last()?;
        if let Value::Object { state, .. } = self.values[target] {
            target = match state {
                Some(state) => state,
                None => {
                    let entries = self.new_value(Value::Dict(Vec::new()))?;
                    if let Value::Object { state, .. } = &mut self.values[target] {
                        *state = Some(entries);
                    }
                    entries
                }
            };
        }
        match &mut self.values[target] {
            Value::Dict(entries) => entries.extend(items.chunks_exact(2).map(|pair| (pair[0], pair[1]))),
            _ => return Err(damaged("entries of what is no dictionary")),
        }
        Ok(())
    }

    fn append(&mut self, items: Vec<Id>) -> Result<()> {
        let target = self.last()?;
        match &mut self.values[target] {
            Value::Sequence(parts) => parts.extend(items),
            Value::Object { .. } => {} // of a class derived from a list
            _ => return Err(damaged("parts of what is no list")),
        }
        Ok(())
    }

    fn call(&mut self) -> Result<()> {
        let (arguments, callable) = (self.pop()?, self.pop()?);
        let Value::Global(name) = &self.values[callable] else {
            return self.push(Value::Object { callable, arguments, state: None });
        };
        if matches!(name.as_str(), "collections.OrderedDict" | "collections.defaultdict" | "__builtin__.dict") {
            return self.push(Value::Dict(Vec::new()));
        }
        self.push(Value::Object { callable, arguments, state: None })
    }

    fn build(&mut self) -> Result<()> {
        let given = self.pop()?;
        let target = self.last()?;
        if let Value::Object { state, .. } = &mut self.values[target] {
            *state = Some(given);
        }
        Ok(())
    }

    fn put(&mut self, key: u64) -> Result<()> {
        let value = self.last()?;
        self.memo.insert(key as u32, value);
        Ok(())
    }

    fn get(&mut self, key: u64) -> Result<()> {
        let value = self.memo.get(&(key as u32)).ok_or_else(|| damaged("it refers to nothing"))?;
        self.stack.push(*value);
        Ok(())
    }

    /// Runs one instruction; false after the last.
    fn step(&mut self) -> Result<bool> {
        match self.take(1)?[0] {
            0x80 => drop(self.take(1)?),                    // PROTO
            0x95 => drop(self.take(8)?),                    // FRAME
            b'.' => return Ok(false),                       // STOP
            b'(' => self.push(Value::Mark)?,                // MARK
            b'0' => drop(self.pop()?),                      // POP
            b'1' => drop(self.pop_to_mark()?),              // POP_MARK
            b'2' => self.stack.push(self.last()?),          // DUP
            b'N' | 0x88 | 0x89 => self.push(Value::Other)?, // NONE, NEWTRUE, NEWFALSE
            b'G' => self.skip(8)?,                          // BINFLOAT
            b'J' => {
                let number = self.number(4)? as u32 as i32; // BININT
                self.push(Value::Int(number.into()))?;
            }
            b'K' => {
                let number = self.number(1)?; // BININT1
                self.push(Value::Int(number as i64))?;
            }
            b'M' => {
                let number = self.number(2)?; // BININT2
                self.push(Value::Int(number as i64))?;
            }
            0x8a => {
                // LONG1: two's complement, however many bytes.
                let length = self.number(1)? as usize;
                let bytes = self.take(length)?;
                let negative = bytes.last().is_some_and(|&byte| byte >= 0x80);
                let fill = if negative { 0xff } else { 0 };
                let mut wide = [fill; 8];
                wide.iter_mut().zip(bytes).for_each(|(to, &byte)| *to = byte);
                let fits = bytes.iter().skip(8).all(|&byte| byte == fill) && (wide[7] >= 0x80) == negative;
                self.push(if fits { Value::Int(i64::from_le_bytes(wide)) } else { Value::Other })?;
            }
            0x8b => {
                let length = self.number(4)? as usize; // LONG4: no size is that long
                self.skip(length)?;
            }
            b'X' => {
                let length = self.number(4)? as usize; // BINUNICODE
                self.text(length)?;
            }
            0x8c | b'U' => {
                let length = self.number(1)? as usize; // SHORT_BINUNICODE, SHORT_BINSTRING
                self.text(length)?;
            }
            b'T' => {
                let length = self.number(4)? as usize; // BINSTRING
                self.text(length)?;
            }
            b'C' => {
                let length = self.number(1)? as usize; // SHORT_BINBYTES
                self.skip(length)?;
            }
            b'B' => {
                let length = self.number(4)? as usize; // BINBYTES
                self.skip(length)?;
            }
            b'c' => {
                let name = format!("{}.{}", self.line()?, self.line()?); // GLOBAL
                self.push(Value::Global(name))?;
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?); // STACK_GLOBAL
                let text = |id: Id| match &self.values[id] {
                    Value::Text(text) => Ok(text.as_str()),
                    _ => Err(damaged("a class without a name")),
                };
                let name = format!("{}.{}", text(module)?, text(name)?);
                self.push(Value::Global(name))?;
            }
            b')' | b']' | 0x8f => self.push(Value::Sequence(Vec::new()))?, // EMPTY_TUPLE, _LIST, _SET
            b't' | b'l' | 0x91 => {
                let parts = self.pop_to_mark()?; // TUPLE, LIST, FROZENSET
                self.push(Value::Sequence(parts))?;
            }
            count @ 0x85..=0x87 => self.pop_sequence(usize::from(count - 0x84))?, // TUPLE1 to 3
            b'a' => {
                let part = self.pop()?; // APPEND
                self.append(vec![part])?;
            }
            b'e' | 0x90 => {
                let parts = self.pop_to_mark()?; // APPENDS, ADDITEMS
                self.append(parts)?;
            }
            b'}' => self.push(Value::Dict(Vec::new()))?, // EMPTY_DICT
            b'd' => {
                let items = self.pop_to_mark()?; // DICT
                self.push(Value::Dict(Vec::new()))?;
                self.set_items(&items)?;
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?); // SETITEM
                self.set_items(&[key, value])?;
            }
            b'u' => {
                let items = self.pop_to_mark()?; // SETITEMS
                self.set_items(&items)?;
            }
            b'R' | 0x81 => self.call()?, // REDUCE, NEWOBJ
            b'b' => self.build()?,       // BUILD
            b'Q' => {
                let key = self.pop()?; // BINPERSID
                self.push(Value::Persistent(key))?;
            }
            b'q' => {
                let key = self.number(1)?; // BINPUT
                self.put(key)?;
            }
            b'r' => {
                let key = self.number(4)?; // LONG_BINPUT
                self.put(key)?;
            }
            0x94 => self.put(self.memo.len() as u64)?, // MEMOIZE
            b'h' => {
                let key = self.number(1)?; // BINGET
                self.get(key)?;
            }
            b'j' => {
                let key = self.number(4)?; // LONG_BINGET
                self.get(key)?;
            }
            other => return Err(damaged(format!("it has an instruction {other:#04x} at byte {}", self.place - 1))),
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_programs_end() {
        // A tuple in a tuple in a tuple …, as deep as there are bytes.
        let deep = [vec![b'N'], vec![0x85; 1 << 20], vec![b'.']].concat();
        assert!(Pickle::read(&deep).is_ok());
        // A dictionary that holds itself.
        let pickle = Pickle::read(b"}q\x00X\x01\x00\x00\x00ah\x00s.").unwrap();
        assert_eq!(pickle.entries(pickle.root()).unwrap(), [("a", pickle.root())]);
        for (program, what) in [
            (b"".as_slice(), "ends too early"),
            (b".", "a value is missing"),
            (b"(.", "a value is missing"),
            (b"t.", "a mark is missing"),
            (b"h\x07.", "refers to nothing"),
            (b"X\xff\xff\xff\xffabc.", "ends too early"),
            (b"cmodule", "a line has no end"),
            (b"NNs.", "a value is missing"),
            (b"NNNs.", "entries of what is no dictionary"),
            (b"NNa.", "parts of what is no list"),
            (b"NN\x93.", "a class without a name"),
            (b"\xfe.", "an instruction 0xfe at byte 0"),
        ] {
            let text = Pickle::read(program).err().unwrap().to_string();
            assert!(text.contains(what), "{program:?}: {text}");
        }
        let many = vec![b'N'; MOST_VALUES + 1];
        assert!(Pickle::read(&many).err().unwrap().to_string().contains("more than"));
    }

    #[test]
    fn numbers_of_every_length() {
        let number = |program: &[u8]| match Pickle::read(program).unwrap() {
            pickle if matches!(pickle.value(pickle.root()), Value::Int(_)) => {
                let Value::Int(number) = *pickle.value(pickle.root()) else { return None };
                Some(number)
            }
            _ => None,
        };
        assert_eq!(number(b"K\xff."), Some(255));
        assert_eq!(number(b"M\xff\xff."), Some(65535));
        assert_eq!(number(b"J\xff\xff\xff\xff."), Some(-1));
        assert_eq!(number(b"\x8a\x00."), Some(0));
        assert_eq!(number(b"\x8a\x01\xff."), Some(-1));
        assert_eq!(number(b"\x8a\x02\xff\x00."), Some(255));
        assert_eq!(number(b"\x8a\x08\x00\x00\x00\x00\x00\x00\x00\x80."), Some(i64::MIN));
        assert_eq!(number(b"\x8a\x09\xff\xff\xff\xff\xff\xff\xff\x7f\x00."), Some(i64::MAX));
        assert_eq!(number(b"\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x80\x00."), None);
    }
}
